//! Join tokens and nodes.

use crate::{
    error::IssueError,
    issuer::Issuer,
    mutation::Mutation,
    sign::{SignedSvid, SvidOrder},
};
use issuer_core::{JoinError, Node, NodeProof, NodeSvid, Redemption, check_member, fingerprint};
use midge_identity::{SpiffeId, UnixMillis};
use midge_pki::Csr;
use midge_store::Batch;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Longest ID of a node in bytes: it is part of a key of the store.
const NODE_ID_BYTES_MAX: usize = 768;

/// A join token as its maker sees it, once.
#[derive(Clone, PartialEq, Eq)]
pub struct NewJoinToken {
    /// The secret.
    pub token: String,
    /// After this it is worth nothing.
    pub expires_at: UnixMillis,
}

impl std::fmt::Debug for NewJoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewJoinToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// What a node gets for its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The node.
    pub node: Arc<Node>,
    /// Its first SVID.
    pub svid: SignedSvid,
    /// Roots of the trust domain; DER.
    pub roots: Vec<Vec<u8>>,
}

pub(crate) fn node_svid(svid: &SignedSvid, spki_der: &[u8]) -> NodeSvid {
    NodeSvid {
        serial: svid.serial.clone(),
        spki_sha256: fingerprint(spki_der),
        issued: svid.issued,
        not_after: svid.expires,
    }
}

enum Verdict {
    Joined(Box<(Arc<Node>, SignedSvid)>),
    Refused(JoinError),
}

impl Issuer {
    /// Makes a join token: a UUID unless one is given, for a node of that ID if one is given.
    ///
    /// # Errors
    /// The lifetime is under a second, the token exists, the ID is not usable, or the store fails.
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        token: Option<String>,
        agent_id: Option<SpiffeId>,
    ) -> Result<NewJoinToken, IssueError> {
        if let Some(id) = &agent_id {
            check_member(self.trust_domain(), id).map_err(JoinError::AgentId)?;
            if id.to_string().len() > NODE_ID_BYTES_MAX {
                return Err(IssueError::NodeName {
                    name: id.to_string(),
                    why: format!("longer than {NODE_ID_BYTES_MAX} bytes"),
                });
            }
        }
        let token = token.filter(|token| !token.is_empty()).unwrap_or_else(|| Uuid::new_v4().to_string());
        let now = self.now();
        self.commit(Batch::new(), move |state| {
            let made = state.enrolment.plan_token(&token, ttl, agent_id, now)?;
            let expires_at = made.expires_at;
            Ok((vec![Mutation::TokenMade(made)], NewJoinToken { token, expires_at }))
        })
        .await
    }

    /// Spends a join token for the node that shows it, `shown_by` if it says who it is, and signs the node's first
    /// SVID. The same token with the same key again gets an SVID again, because the answer may have been lost.
    ///
    /// # Errors
    /// The CSR is wrong or the token is of another node (it is not spent), the token is unknown, spent or expired (and
    /// now gone), the node is banned, or no CA can sign (the token is not spent).
    pub async fn redeem(
        &self,
        token: &str,
        csr_der: &[u8],
        shown_by: Option<&SpiffeId>,
    ) -> Result<Joined, IssueError> {
        let csr = Csr::parse(csr_der)?;
        let (issuer, token, spki, now) =
            (self.clone(), token.to_owned(), csr.public_key_spki().to_vec(), self.now());
        let shown_by = shown_by.cloned();
        let verdict = self
            .commit(Batch::new(), move |state| {
                let (domain, shown_by) = (issuer.trust_domain(), shown_by.as_ref());
                let (mut mutations, mut node) =
                    match state.enrolment.plan_redeem(domain, &token, &spki, shown_by, now)? {
                        Redemption::Burnt { token_sha256, error } => {
                            return Ok((vec![Mutation::TokenGone(token_sha256)], Verdict::Refused(error)));
                        }
                        Redemption::Repeated(node) => (Vec::new(), Node::clone(&node)),
                        Redemption::Joined { token_sha256, node } => {
                            (vec![Mutation::TokenGone(token_sha256)], Node::clone(&node))
                        }
                    };
                let order: SvidOrder = issuer.node_order(&node.id);
                let svid = issuer.sign_order(order, &spki)?;
                node.handle_signed(node_svid(&svid, &spki));
                let node = Arc::new(node);
                mutations.push(Mutation::Node(Arc::clone(&node)));
                Ok((mutations, Verdict::Joined(Box::new((node, svid)))))
            })
            .await?;
        match verdict {
            Verdict::Refused(error) => Err(error.into()),
            Verdict::Joined(joined) => {
                let (node, svid) = *joined;
                Ok(Joined { node, svid, roots: self.roots() })
            }
        }
    }

    /// Returns the node that may be served to whoever shows this.
    ///
    /// # Errors
    /// It is unknown, banned, or has replaced what is shown.
    pub fn admitted_node(&self, shown: &NodeProof) -> Result<Arc<Node>, JoinError> {
        self.shared.state.read().enrolment.admitted(shown).cloned()
    }

    /// Notes that a node has shown its certificate: with the first use of a new one the one before ends.
    ///
    /// # Errors
    /// As [`Self::admitted_node`], or the store fails.
    pub async fn node_shown(&self, shown: &NodeProof) -> Result<(), IssueError> {
        if self.shared.state.read().enrolment.plan_shown(shown)?.is_none() {
            return Ok(());
        }
        let shown = shown.clone();
        self.commit(Batch::new(), move |state| {
            let node = state.enrolment.plan_shown(&shown)?;
            Ok((node.into_iter().map(Mutation::Node).collect(), ()))
        })
        .await
    }

    /// Returns one node, banned or not.
    pub fn node(&self, id: &SpiffeId) -> Option<Arc<Node>> {
        self.shared.state.read().enrolment.find(id).cloned()
    }

    /// Returns all nodes in the order of their IDs.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.shared.state.read().enrolment.nodes().cloned().collect()
    }

    /// Tells whether a node, or an agent beside this box, is locked out.
    pub fn is_banned(&self, id: &SpiffeId) -> bool {
        self.shared.state.read().banned.contains(id)
    }

    /// Locks a node, or an agent beside this box, out until it is deleted.
    ///
    /// # Errors
    /// There is no such node, or the store fails.
    pub async fn ban_node(&self, id: &SpiffeId) -> Result<(), IssueError> {
        let (id, own, now) = (id.clone(), self.shared.config.node_id().ok().flatten(), self.now());
        self.commit(Batch::new(), move |state| {
            let node = state.enrolment.plan_ban(&id, own.as_ref(), now)?;
            Ok((vec![Mutation::Node(node)], ()))
        })
        .await
    }

    /// Forgets a node; with a new token it may join again.
    ///
    /// # Errors
    /// There is no such node, or the store fails.
    pub async fn delete_node(&self, id: &SpiffeId) -> Result<(), IssueError> {
        let id = id.clone();
        self.commit(Batch::new(), move |state| {
            if state.enrolment.find(&id).is_none() {
                return Err(JoinError::UnknownNode.into());
            }
            Ok((vec![Mutation::NodeGone(id)], ()))
        })
        .await
    }

    /// Returns the roots of the trust domain; DER.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.shared.state.read().bundle.roots().iter().map(|root| root.certificate.clone()).collect()
    }
}
