//! What a change of rules, entries or roots does to sessions that are there already. Nobody is asked about under the
//! lock, and what there is to end or to look at again is dealt with in portions.

use super::Hub;
use crate::Admission;
use crate::outbox::Woken;
use broker_core::{ConnId, PolicyChange, Revocation, Witness};
use midge_identity::{Proof, RootId, RootStanding, SpiffeId, TrustDomain};
use midge_policy::Policy;
use parking_lot::MutexGuard;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions dealt with at once when a change concerns many: a tenth of a millisecond.
const PORTION: usize = 8;
/// How long what nobody waits for is worked on at a time. The kernel may leave others of this processor waiting as long as
/// a thread goes on, and clients may live on this machine too.
const STRETCH: Duration = Duration::from_micros(500);
/// How long the processor is left to others then.
const REST: Duration = Duration::from_millis(1);
/// Identities that are asked about at once: a tenth of a millisecond.
const IDENTITIES: usize = 256;
/// Connections whose proofs are read at once.
const PROOFS: usize = 128;

impl Hub {
    /// Replaces the policy.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        let before = Arc::clone(self.0.inner.lock().broker.policy());
        let change = PolicyChange::between(before, policy);
        // What it replaces may be large: it is given back to the memory after the lock.
        drop(self.enter(|broker, now| broker.handle_policy(change, now)));
    }

    /// Ends what no longer stands after entries have changed: sessions of identities, and connections that an entry
    /// attested. What an SVID proves, no entry changes.
    pub(crate) fn re_admit_attested(&self, admission: &dyn Admission) {
        self.re_admit_identities(admission);
        let attested = self.0.inner.lock().broker.attested();
        self.hold_to_proofs(&attested, admission);
    }

    /// Ends what no longer stands after roots have changed: sessions of identities, connections of either kind, and
    /// sessions that were proven by a root that is gone, whether they have a connection or not.
    pub(crate) fn re_admit_all(&self, admission: &dyn Admission) {
        self.re_admit_identities(admission);
        let connections = self.0.inner.lock().broker.connections();
        self.hold_to_proofs(&connections, admission);
        let roots = self.0.inner.lock().broker.roots();
        for (trust_domain, root) in roots {
            self.hold_to_root(&trust_domain, &root, admission);
        }
    }

    fn hold_to_root(&self, trust_domain: &TrustDomain, root: &RootId, admission: &dyn Admission) {
        match admission.root(trust_domain, root) {
            RootStanding::Trusted => {}
            RootStanding::Tainted => {
                self.enter(|broker, now| broker.handle_root_tainted(trust_domain, root, now));
            }
            RootStanding::Gone => {
                let reason = Arc::from("root is no longer trusted");
                self.enter(|broker, now| broker.handle_root_gone(trust_domain, root, &reason, now));
            }
        }
    }

    fn re_admit_identities(&self, admission: &dyn Admission) {
        let identities = self.0.inner.lock().broker.identities();
        let mut revoked: BTreeMap<String, Vec<SpiffeId>> = BTreeMap::new();
        for some in identities.chunks(IDENTITIES) {
            for identity in some {
                if let Err(refusal) = admission.admits(identity, None) {
                    revoked.entry(refusal.0).or_default().push((**identity).clone());
                }
            }
            // Whoever waits for this processor has it now.
            std::thread::yield_now();
        }
        for (reason, identities) in revoked {
            self.revoke(identities, &reason);
        }
    }

    fn hold_to_proofs(&self, connections: &[ConnId], admission: &dyn Admission) {
        for some in connections.chunks(PROOFS) {
            let proofs: Vec<_> = {
                let inner = self.0.inner.lock();
                some.iter().filter_map(|conn| Some((*conn, inner.broker.proof(*conn)?))).collect()
            };
            for (conn, (identity, proof)) in proofs {
                self.hold_to_proof(conn, &identity, &proof, admission);
            }
        }
    }

    /// Ends a connection that was let in by what has ended since: whoever ends it looks at connections that
    /// are there, and this one may not have been.
    pub(crate) fn admit_again(
        &self,
        conn: ConnId,
        identity: &SpiffeId,
        proof: &Proof,
        admission: &dyn Admission,
    ) {
        match admission.admits(identity, None) {
            Ok(()) => {
                self.hold_to_proof(conn, identity, proof, admission);
                if let Some(root) = proof.root() {
                    self.hold_to_root(identity.trust_domain(), &root, admission);
                }
            }
            Err(refusal) => self.revoke(vec![identity.clone()], &refusal.0),
        }
    }

    fn hold_to_proof(&self, conn: ConnId, identity: &SpiffeId, proof: &Proof, admission: &dyn Admission) {
        if let Err(refusal) = admission.admits(identity, Some(proof)) {
            self.enter(|broker, now| broker.handle_proof_ended(conn, &refusal.0.as_str().into(), now));
        }
    }

    fn revoke(&self, identities: Vec<SpiffeId>, reason: &str) {
        let revocation = Revocation { identities, reason: reason.into() };
        self.enter(|broker, now| broker.handle_revoked(&revocation, now));
    }

    /// Does what changes left to be done, in portions, for ever. Everybody else comes first.
    pub(crate) async fn clear_backlog(&self) {
        loop {
            self.0.backlog.notified().await;
            let mut began = Instant::now();
            while let Some(is_urgent) = self.portion() {
                if is_urgent || began.elapsed() < STRETCH {
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep(REST).await;
                    began = Instant::now();
                }
            }
        }
    }

    /// Does a portion. Returns whether somebody waits for what is left, if something is.
    pub(super) fn portion(&self) -> Option<bool> {
        let at = self.0.started.elapsed();
        let mut inner = self.0.inner.lock();
        let now = inner.now(at, &self.0.clock);
        let has_more = inner.broker.handle_backlog(PORTION, now);
        let left = has_more.then(|| inner.broker.is_backlog_urgent());
        self.carry_out(&mut inner);
        let mut woken = Woken::default();
        let calls = inner.leave(&mut woken);
        // Whoever waits for the lock gets it now, and not only when the whole backlog is done.
        MutexGuard::unlock_fair(inner);
        self.call(calls);
        woken.wake();
        left
    }

    /// Tells a witness of what sessions were granted before it came; others get their turn in between.
    pub fn tell_standing(&self, witness: &mut dyn Witness) {
        let mut told = None;
        loop {
            let mut inner = self.0.inner.lock();
            told = inner.broker.tell_standing(witness, told, PORTION);
            MutexGuard::unlock_fair(inner);
            if told.is_none() {
                return;
            }
        }
    }
}
