//! Who may be connected to the broker: registered identities, those of trust domains that the broker federates with,
//! and local processes that an entry matches. The one place where broker, agent and identity server meet.

use async_trait::async_trait;
use issuer_core::Selector;
use midge_agent::{
    AgentView, AttestPool, Attestor, LocalPeer, choose_entry, owner_of_loopback, user_of_loopback,
};
use midge_broker::{Admission, LocalClaims, LocalOrigin, Refusal, Standing};
use midge_identity::{BundleSet, Proof, RootId, RootStanding, SpiffeId, TrustDomain, VerifiedPeer};
use midge_issuer::{FederatedTrust, HeldEntry, Issuer};
use midge_pki::TrustSource as _;
use std::sync::Arc;
use tokio::sync::watch;

/// Attestations of one user at once: what one user's file systems make slow, others do not feel.
const ATTESTATIONS_PER_UID: usize = 64;

/// The broker's door.
pub(crate) struct Door {
    issuer: Issuer,
    /// The box, as the agent of its processes.
    agent: SpiffeId,
    /// Whose SVIDs open it.
    trust: Arc<FederatedTrust>,
    views: watch::Receiver<Arc<AgentView>>,
    attestations: AttestPool,
    /// The user whose processes may do everything, whichever of them it is.
    open_uid: Option<u32>,
    changes: watch::Receiver<Standing>,
}

/// Announces changes of the agent's view as changes of admission.
pub(crate) struct DoorTask {
    views: watch::Receiver<Arc<AgentView>>,
    trust: Arc<FederatedTrust>,
    /// Those that were announced last.
    bundles: Arc<BundleSet>,
    sender: watch::Sender<Standing>,
}

impl Door {
    /// Returns the door and the task that keeps its changes announced. Of the processes of `open_uid` that come by
    /// TCP only the user is asked for: which process has a socket open costs more with every socket there is.
    pub(crate) fn new(
        (issuer, agent): (Issuer, SpiffeId),
        trust: Arc<FederatedTrust>,
        views: watch::Receiver<Arc<AgentView>>,
        open_uid: Option<u32>,
    ) -> (Self, DoorTask) {
        let (sender, changes) = watch::channel(Standing::default());
        let attestations = AttestPool::new(Attestor::default(), ATTESTATIONS_PER_UID);
        let bundles = trust.bundles();
        let task = DoorTask { views: views.clone(), trust: Arc::clone(&trust), bundles, sender };
        (Self { issuer, agent, trust, views, attestations, open_uid, changes }, task)
    }

    /// An identity of another trust domain has no entry here. It stands as long as its trust domain is admitted and has
    /// a root that could vouch for it.
    fn admits_foreign(&self, trust_domain: &TrustDomain, bundles: &BundleSet) -> Result<(), Refusal> {
        if !self.trust.lists(trust_domain) {
            return Err(Refusal("trust domain is not one that the broker federates with".into()));
        }
        let has_root = bundles.has_trusted_root(trust_domain);
        if has_root { Ok(()) } else { Err(Refusal("trust domain has no bundle".into())) }
    }
}

impl DoorTask {
    /// Follows the view until it ends.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        loop {
            self.views.changed().await?;
            let view = Arc::clone(&self.views.borrow_and_update());
            // Those of trust domains that do not come in here may change as they like.
            let bundles = self.trust.bundles();
            let roots_changed = !Arc::ptr_eq(&self.bundles, &bundles);
            self.bundles = bundles;
            self.sender.send_modify(|standing| {
                standing.revision = view.revision();
                standing.roots += u64::from(roots_changed);
            });
        }
    }
}

#[async_trait]
impl Admission for Door {
    fn admits(&self, id: &SpiffeId, proof: Option<&Proof>) -> Result<(), Refusal> {
        let bundles = self.trust.bundles();
        if id.trust_domain() != self.issuer.trust_domain() {
            self.admits_foreign(id.trust_domain(), &bundles)?;
        } else if !self.issuer.is_registered(id) {
            return Err(Refusal("no registration entry".into()));
        }
        match proof {
            Some(Proof::Local { entry_id, demands, .. }) => {
                let held = HeldEntry { entry_id, id, demands, agent: &self.agent };
                let stands = self.issuer.entry_stands(&held);
                if stands { Ok(()) } else { Err(Refusal("registration entry is gone or for others".into())) }
            }
            Some(Proof::X509Svid { anchor, .. }) => {
                if !bundles.trusts(id.trust_domain(), anchor) {
                    return Err(Refusal("root is no longer trusted".into()));
                }
                let tainted = bundles.is_tainted(id.trust_domain(), anchor);
                if tainted { Err(Refusal("root is tainted: renew the SVID".into())) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    fn root(&self, trust_domain: &TrustDomain, root: &RootId) -> RootStanding {
        self.trust.bundles().root(trust_domain, root)
    }

    async fn attest(&self, origin: LocalOrigin) -> Result<Box<dyn LocalClaims>, Refusal> {
        let view = Arc::clone(&self.views.borrow());
        let open_uid = self.open_uid;
        // /proc is read: not on the tasks that carry messages.
        let peer = tokio::task::spawn_blocking(move || local_peer(origin, open_uid)).await;
        let peer = peer.map_err(|error| Refusal(error.to_string()))??;
        let selectors = self.attestations.attest_local(peer, view.needs()).await;
        let selectors = selectors.map_err(|error| Refusal(error.to_string()))?;
        let views = self.views.clone();
        Ok(Box::new(Claims { peer, selectors, views }))
    }

    fn changes(&self) -> watch::Receiver<Standing> {
        self.changes.clone()
    }
}

fn local_peer(origin: LocalOrigin, open_uid: Option<u32>) -> Result<LocalPeer, Refusal> {
    match origin {
        LocalOrigin::Unix { pid, uid, gid } => {
            Ok(LocalPeer { pid: Some(pid), uid, gid: Some(gid), start_ticks: None })
        }
        LocalOrigin::Tcp { peer, local } => {
            let is_open = |uid: u32| user_of_loopback(peer, local).is_ok_and(|user| user == uid);
            if let Some(uid) = open_uid.filter(|uid| is_open(*uid)) {
                return Ok(LocalPeer { pid: None, uid, gid: None, start_ticks: None });
            }
            owner_of_loopback(peer, local).map_err(|error| Refusal(error.to_string()))
        }
    }
}

struct Claims {
    peer: LocalPeer,
    selectors: Vec<Selector>,
    views: watch::Receiver<Arc<AgentView>>,
}

impl LocalClaims for Claims {
    fn identity(&self, wanted: Option<&str>) -> Result<VerifiedPeer, Refusal> {
        let matches = self.views.borrow().matching(&self.selectors);
        let uid = self.peer.uid;
        let process = self.peer.pid.map_or_else(|| "unknown process".into(), |pid| format!("process {pid}"));
        let Some(entry) = choose_entry(&matches, wanted) else {
            let reason = match (matches.is_empty(), wanted) {
                (false, Some(wanted)) => format!("user name \"{wanted}\" names none of its identities"),
                _ => "no registration entry matches it".into(),
            };
            return Err(Refusal(format!("{process} of uid {uid}: {reason}")));
        };
        Ok(VerifiedPeer::attested(
            entry.spiffe_id.clone(),
            self.peer.pid.unwrap_or_default(),
            uid,
            entry.id.as_str().into(),
            entry.demands(),
        ))
    }
}

#[cfg(test)]
mod tests;
