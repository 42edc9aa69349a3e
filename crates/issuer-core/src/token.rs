//! Join tokens and the nodes that joined with them.
//!
//! A token is spent in the same step in which its node comes to exist. A lost answer does not burn
//! it: whoever shows the same token and the same key again gets the same verdict.

use crate::{
    limits,
    node::{Node, NodeProof, NodeSvid},
};
use midge_identity::{SpiffeId, TrustDomain, UnixMillis, is_agent_of};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A token that waits to be used. It keeps only the hash, so that a copy of the store holds no usable token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// SHA-256 of the token, lower-case hex.
    pub token_sha256: String,
    /// After this it is worth nothing.
    pub expires_at: UnixMillis,
    /// Identity the node gets; SPIRE's form if unset.
    #[serde(default, with = "optional_id_text")]
    pub agent_id: Option<SpiffeId>,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// Why a token or a node was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Unknown or spent.
    #[error("join token does not exist or has already been used")]
    UnknownToken,
    /// Made for another node.
    #[error("the join token is for {made_for}, not for {shown_by}")]
    OtherNode {
        /// Whom it was made for.
        made_for: SpiffeId,
        /// Who it was shown by.
        shown_by: SpiffeId,
    },
    /// Too late. The token is gone now.
    #[error("join token expired")]
    ExpiredToken,
    /// The node was locked out.
    #[error("failed to attest: agent is banned: {0}: delete the agent to let it join again")]
    Banned(SpiffeId),
    /// No such node.
    #[error("agent not found")]
    UnknownNode,
    /// The node is known by a newer key.
    #[error(
        "agent is not active: {0} has joined or renewed with another key since: if this is the right box, remove \
         keys/node.pem from its data directory and start it with a new join token"
    )]
    NotActive(SpiffeId),
    /// Signed by an intermediate CA, such as that of a box.
    #[error("a node's certificate is one that the cloud itself has signed, which that of {0} is not")]
    NotFromRoot(SpiffeId),
    /// A lifetime of nothing.
    #[error("ttl is required, you must provide one")]
    NoTtl,
    /// The chosen token exists.
    #[error("failed to create token: a token with this value already exists")]
    TokenExists,
    /// The chosen token cannot be typed or stored.
    #[error(
        "failed to create token: a token is 1 to {} printable ASCII characters without spaces",
        limits::TOKEN_BYTES_MAX
    )]
    TokenText,
    /// The node's identity is unusable.
    #[error("invalid agent ID: {0}")]
    AgentId(crate::IdFault),
    /// A cap is reached.
    #[error("too many {what}: at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The cap.
        max: usize,
    },
}

/// What presenting a token leads to. Whatever it says must be on disk before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redemption {
    /// The token is spent for this new node.
    Joined {
        /// Hash of the token to delete.
        token_sha256: String,
        /// Node to put.
        node: Arc<Node>,
    },
    /// The same token and key again: the answer was lost. Nothing changes.
    Repeated(Arc<Node>),
    /// The token is spent for nothing, because of the error.
    Burnt {
        /// Hash of the token to delete.
        token_sha256: String,
        /// What the node is told.
        error: JoinError,
    },
}

/// Tokens that wait and nodes that joined.
#[derive(Clone, Debug, Default)]
pub struct Enrolment {
    tokens: BTreeMap<String, JoinToken>,
    nodes: BTreeMap<SpiffeId, Arc<Node>>,
    by_spent_token: BTreeMap<String, SpiffeId>,
}

/// Returns the lower-case hex SHA-256 under which a token or public key is remembered.
pub fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Enrolment {
    /// Plans a new token.
    ///
    /// # Errors
    /// The lifetime is nothing, the token exists or is not printable, or there are too many.
    pub fn plan_token(
        &self,
        token: &str,
        ttl: Duration,
        agent_id: Option<SpiffeId>,
        now: UnixMillis,
    ) -> Result<JoinToken, JoinError> {
        if ttl < Duration::from_secs(1) {
            return Err(JoinError::NoTtl);
        }
        if self.tokens.len() >= limits::TOKENS_MAX {
            return Err(JoinError::TooMany { what: "join tokens", max: limits::TOKENS_MAX });
        }
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || token.len() > limits::TOKEN_BYTES_MAX || !printable {
            return Err(JoinError::TokenText);
        }
        let token_sha256 = fingerprint(token.as_bytes());
        if self.tokens.contains_key(&token_sha256) || self.by_spent_token.contains_key(&token_sha256) {
            return Err(JoinError::TokenExists);
        }
        Ok(JoinToken { token_sha256, expires_at: now.after(ttl), agent_id, created_at: now })
    }

    /// Decides what a token is worth in the hands of whoever holds the key, and says that he is `shown_by` if he says
    /// who he is.
    ///
    /// # Errors
    /// The token is unknown, spent by another key, of another node, or its node is banned: nothing changes.
    pub fn plan_redeem(
        &self,
        trust_domain: &TrustDomain,
        token: &str,
        spki_der: &[u8],
        shown_by: Option<&SpiffeId>,
        now: UnixMillis,
    ) -> Result<Redemption, JoinError> {
        let of_another = |made_for: &SpiffeId| {
            let shown_by = shown_by.filter(|id| *id != made_for)?.clone();
            Some(JoinError::OtherNode { made_for: made_for.clone(), shown_by })
        };
        let token_sha256 = fingerprint(token.as_bytes());
        let spki_sha256 = fingerprint(spki_der);
        if let Some(node) = self.by_spent_token.get(&token_sha256).and_then(|id| self.nodes.get(id)) {
            return match of_another(&node.id) {
                Some(error) if node.spki_sha256 == spki_sha256 => Err(error),
                _ => repeat(node, &spki_sha256),
            };
        }
        let waiting = self.tokens.get(&token_sha256).ok_or(JoinError::UnknownToken)?;
        if waiting.expires_at <= now {
            return Ok(Redemption::Burnt { token_sha256, error: JoinError::ExpiredToken });
        }
        let id = match &waiting.agent_id {
            Some(id) => id.clone(),
            // Tokens are ASCII graphic, but a segment of an ID has fewer characters still.
            None => SpiffeId::from_segments(trust_domain.clone(), &["spire", "agent", "join_token", token])
                .or_else(|_| {
                    SpiffeId::from_segments(
                        trust_domain.clone(),
                        &["spire", "agent", "join_token", &token_sha256],
                    )
                })
                .map_err(|_| JoinError::UnknownToken)?,
        };
        if let Some(error) = of_another(&id) {
            return Err(error);
        }
        match self.nodes.get(&id) {
            Some(node) if node.banned => return Err(JoinError::Banned(id)),
            None if self.nodes.len() >= limits::NODES_MAX => {
                return Err(JoinError::TooMany { what: "nodes", max: limits::NODES_MAX });
            }
            Some(_) | None => {}
        }
        let node = Arc::new(Node::joined(id, token_sha256.clone(), spki_sha256, now));
        Ok(Redemption::Joined { token_sha256, node })
    }

    /// Plans new values for a node; `change` edits a copy of it. Its ID stays.
    ///
    /// # Errors
    /// There is no such node.
    pub fn plan_node(&self, id: &SpiffeId, change: impl FnOnce(&mut Node)) -> Result<Arc<Node>, JoinError> {
        let mut node = Node::clone(self.nodes.get(id).ok_or(JoinError::UnknownNode)?);
        change(&mut node);
        node.id = id.clone();
        Ok(Arc::new(node))
    }

    /// Plans to lock a node out. An agent beside the box `own` needs not be known: it does not join.
    ///
    /// # Errors
    /// There is no such node.
    pub fn plan_ban(
        &self,
        id: &SpiffeId,
        own: Option<&SpiffeId>,
        now: UnixMillis,
    ) -> Result<Arc<Node>, JoinError> {
        let mut node = match self.nodes.get(id) {
            Some(node) => Node::clone(node),
            None if own.is_some_and(|own| is_agent_of(id, own)) => Node::agent(id.clone(), now),
            None => return Err(JoinError::UnknownNode),
        };
        node.banned = true;
        node.svid_serial.clear();
        node.svid_next = None;
        Ok(Arc::new(node))
    }

    /// Returns the node that may be served to whoever shows this.
    ///
    /// # Errors
    /// It is unknown, banned, or has replaced what is shown.
    pub fn admitted(&self, shown: &NodeProof) -> Result<&Arc<Node>, JoinError> {
        match self.nodes.get(shown.id()) {
            None => Err(JoinError::UnknownNode),
            Some(node) if node.banned => Err(JoinError::Banned(node.id.clone())),
            Some(node) if node.standing(shown).is_none() => Err(JoinError::NotActive(node.id.clone())),
            Some(node) => Ok(node),
        }
    }

    /// Plans what it changes that a node shows its certificate: a new one counts alone from then on. None where
    /// nothing changes.
    ///
    /// # Errors
    /// As [`Self::admitted`].
    pub fn plan_shown(&self, shown: &NodeProof) -> Result<Option<Arc<Node>>, JoinError> {
        Ok(self.admitted(shown)?.after_showing(shown).map(Arc::new))
    }

    /// Plans the node to which a certificate is handed that was signed for it. What it shows now counts until it
    /// shows the new one.
    ///
    /// # Errors
    /// As [`Self::admitted`].
    pub fn plan_signed(&self, shown: &NodeProof, signed: NodeSvid) -> Result<Arc<Node>, JoinError> {
        let node = self.admitted(shown)?;
        let mut node = node.after_showing(shown).unwrap_or_else(|| Node::clone(node));
        node.handle_signed(signed);
        Ok(Arc::new(node))
    }

    /// Returns one node, banned or not.
    pub fn find(&self, id: &SpiffeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// Returns all nodes in the order of their IDs.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Returns the number of tokens that wait.
    pub fn waiting(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the hashes of tokens that expired a while ago and were never used.
    pub fn plan_expired(&self, now: UnixMillis) -> Vec<String> {
        // Kept for a day, so that a late node hears "expired" and not "does not exist".
        let limit = now.before(Duration::from_secs(86_400));
        self.tokens
            .values()
            .filter(|token| token.expires_at < limit)
            .map(|token| token.token_sha256.clone())
            .collect()
    }

    /// Takes a token that is on the disk.
    pub fn put_token(&mut self, token: JoinToken) {
        self.tokens.insert(token.token_sha256.clone(), token);
    }

    /// Forgets a token that is off the disk.
    pub fn delete_token(&mut self, token_sha256: &str) {
        self.tokens.remove(token_sha256);
    }

    /// Takes a node that is on the disk.
    pub fn put_node(&mut self, node: Arc<Node>) {
        if let Some(before) = self.nodes.get(&node.id) {
            self.by_spent_token.remove(&before.token_sha256);
        }
        if !node.token_sha256.is_empty() {
            self.by_spent_token.insert(node.token_sha256.clone(), node.id.clone());
        }
        self.nodes.insert(node.id.clone(), node);
    }

    /// Forgets a node that is off the disk.
    pub fn delete_node(&mut self, id: &SpiffeId) {
        if let Some(node) = self.nodes.remove(id) {
            self.by_spent_token.remove(&node.token_sha256);
        }
    }
}

fn repeat(node: &Arc<Node>, spki_sha256: &str) -> Result<Redemption, JoinError> {
    // Who has got as far as to renew did not lose the answer: from then on the token with the first key is no
    // more than that key.
    if node.spki_sha256 != spki_sha256 || (!node.banned && node.svid_spki_sha256 != spki_sha256) {
        return Err(JoinError::UnknownToken);
    }
    if node.banned {
        return Err(JoinError::Banned(node.id.clone()));
    }
    Ok(Redemption::Repeated(Arc::clone(node)))
}

mod optional_id_text {
    use midge_identity::SpiffeId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &Option<SpiffeId>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.collect_str(id),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SpiffeId>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(SpiffeId::new).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
