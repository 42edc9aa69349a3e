//! By which roots sessions were proven, and what ends with one. A session is proven by the root of its newest connection,
//! also while it waits for the next.
//!
//! A root that is gone was taken away, or has expired and was left out since: only the first ends sessions. Which of the
//! two it was can be told until it ends, and after that of a root that was seen tainted, which is the step before
//! `revoke`: its sessions remember that, over restarts too. It cannot be told of a root that was taken away without having been
//! seen tainted here, if this is heard of only after its end: of a box that was off from before the taint until
//! then, or of a federated bundle that lost the root without a taint. A bundle says which roots there are, and neither
//! which there were nor when they left. Such sessions stay, and what that gives away is bounded: whoever has the SVID is let in
//! nowhere by it, so that what was queued goes to who proves the identity by a root that stands, and to nobody else. Their
//! wills that are due go out at the start in any case, before a box could hear of its cloud what it missed.

use crate::broker::Broker;
use crate::effect::Now;
use crate::session::Link;
use crate::slab::Key;
use crate::timers::Due;
use midge_identity::{RootId, TrustDomain};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Broker {
    /// Returns the roots that sessions were proven by, with the trust domains that they vouched for.
    pub fn roots(&self) -> BTreeSet<(TrustDomain, RootId)> {
        let root = |key: &Key| {
            let session = self.sessions.get(*key)?;
            Some((session.identity.trust_domain(), session.root?))
        };
        let keys = self.sessions.keys();
        let known: BTreeSet<(&TrustDomain, RootId)> = keys.iter().filter_map(root).collect();
        known.into_iter().map(|(trust_domain, root)| (trust_domain.clone(), root)).collect()
    }

    /// Ends every session that was proven by a root which its trust domain has no more, with its queue, and without its
    /// will. Other sessions of the same identities stay, and so does what they have published. A root that has ended by
    /// itself has not lost anybody's trust: sessions that wait since then wait for a better proof.
    pub fn handle_root_gone(
        &mut self,
        trust_domain: &TrustDomain,
        root: &RootId,
        reason: &Arc<str>,
        now: Now,
    ) {
        let mut keys = self.proven_by(trust_domain, root);
        let stood = |key: &Key| self.sessions.get(*key).and_then(|session| session.root);
        keys.retain(|key| stood(key).is_some_and(|root| root.ends > now.wall));
        self.condemn(keys, reason, now);
    }

    /// Forgets the wills of sessions without connection that were proven by a root which proves nothing any more. The
    /// sessions wait for a better proof, and end with the root even if it has expired by then.
    pub fn handle_root_tainted(&mut self, trust_domain: &TrustDomain, root: &RootId, _now: Now) {
        for key in self.proven_by(trust_domain, root) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let distrusted = Some(root.distrusted());
            if std::mem::replace(&mut session.root, distrusted) != distrusted && session.number != 0 {
                self.out.ledger.replace_unpromised(session.key(), session.record());
            }
            let Link::Parked(parked) = &mut session.link else { continue };
            if let Some(late) = parked.will.take() {
                self.timers.clear(Some(late.at), Due::Will(key));
                self.forget_will(late.number);
            }
        }
    }

    /// Notes by which root the peer of a connection proves itself from now on.
    pub(crate) fn proven_anew(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Link::Live(connection) = &session.link else { return };
        let root = connection.peer.proof().root();
        if std::mem::replace(&mut session.root, root) != root && session.number != 0 {
            self.out.ledger.replace_unpromised(session.key(), session.record());
        }
    }

    fn proven_by(&self, trust_domain: &TrustDomain, root: &RootId) -> Vec<Key> {
        let is_proven = |key: &Key| {
            self.sessions.get(*key).is_some_and(|session| {
                session.root.is_some_and(|known| known.digest == root.digest)
                    && session.identity.trust_domain() == trust_domain
            })
        };
        self.sessions.keys().into_iter().filter(is_proven).collect()
    }
}
