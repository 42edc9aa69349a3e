//! Who watches the broker's decisions: a candidate policy, and operators who learn rules from what is done.

use broker_core::{Asker, Witness};
use midge_broker::Hub;
use midge_identity::UnixMillis;
use midge_policy::{Policy, Question};
use midge_policy_tools::{Asker as ShadowAsker, Observation, Observer, Shadow};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Samples of each kind of difference.
const SAMPLES_MAX: usize = 8;

/// Operators that may observe at one time, and how much is kept for each, in bytes.
const OBSERVERS_MAX: usize = 4;
const OBSERVED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everybody who watches. While nobody does, the broker has no witness. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Watchers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    watching: Mutex<Watching>,
    hub: OnceLock<Hub>,
    /// Whether the broker has a witness; held while that changes, and never within `watching`.
    has_witness: Mutex<bool>,
}

#[derive(Default)]
struct Watching {
    candidate: Option<(Shadow, UnixMillis)>,
    observers: BTreeMap<u64, Observing>,
    next: u64,
}

struct Observing {
    observer: Observer,
    with_denied: bool,
}

/// How a candidate does so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShadowCounts {
    pub(crate) rules: usize,
    pub(crate) since: UnixMillis,
    pub(crate) asked: u64,
    pub(crate) gained: u64,
    pub(crate) lost: u64,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
enum Whom {
    All,
    Candidate,
    Observer(u64),
}

/// The broker's witness, which tells some of them.
struct Teller {
    to: Arc<Shared>,
    whom: Whom,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("whom", &self.whom).finish_non_exhaustive()
    }
}

impl Witness for Teller {
    fn decided(&mut self, asker: &Asker<'_>, question: &Question<'_>, allowed: bool) {
        let watching = &mut *self.to.watching.lock();
        if let (Whom::All | Whom::Candidate, Some((shadow, _))) = (self.whom, &mut watching.candidate) {
            let asker = ShadowAsker { id: asker.identity, context: asker.context, active: asker.rights };
            shadow.see(&asker, question, allowed);
        }
        let wants = |observing: &Observing| allowed || observing.with_denied;
        match self.whom {
            Whom::Candidate => {}
            Whom::All => {
                for observing in watching.observers.values_mut().filter(|observing| wants(observing)) {
                    observing.observer.see(asker.identity, asker.rights, question);
                }
            }
            Whom::Observer(id) => {
                if let Some(observing) = watching.observers.get_mut(&id) {
                    observing.observer.see(asker.identity, asker.rights, question);
                }
            }
        }
    }
}

impl Watchers {
    /// Says which broker there is to watch.
    pub(crate) fn attach(&self, hub: Hub) {
        // There is one broker in a process.
        drop(self.0.hub.set(hub));
        self.0.refresh();
        self.tell_standing(Whom::Candidate);
    }

    /// Begins to count what a candidate would decide otherwise.
    pub(crate) fn set_candidate(&self, policy: &Arc<Policy>, now: UnixMillis) {
        let shadow = Shadow::new(Arc::clone(policy), SAMPLES_MAX);
        let before = self.0.watching.lock().candidate.replace((shadow, now));
        // It may be large: it is given back to the memory without the lock, for which the broker waits.
        drop(before);
        self.0.refresh();
        self.tell_standing(Whom::Candidate);
    }

    /// Goes on with a candidate that entries or the cloud have changed.
    pub(crate) fn follow_candidate(&self, policy: &Arc<Policy>) {
        if let Some((shadow, _)) = &mut self.0.watching.lock().candidate
            && !Arc::ptr_eq(shadow.candidate(), policy)
        {
            shadow.follow(Arc::clone(policy));
        }
    }

    pub(crate) fn drop_candidate(&self) {
        let before = self.0.watching.lock().candidate.take();
        drop(before);
        self.0.refresh();
    }

    /// Returns how the candidate does, if there is one.
    pub(crate) fn shadow(&self) -> Option<ShadowCounts> {
        self.with_shadow(|_, counts| counts)
    }

    /// Looks into the candidate's differences.
    pub(crate) fn with_shadow<R>(&self, look: impl FnOnce(&Shadow, ShadowCounts) -> R) -> Option<R> {
        let watching = self.0.watching.lock();
        let (shadow, since) = watching.candidate.as_ref()?;
        let counts = ShadowCounts {
            rules: shadow.candidate().rules(),
            since: *since,
            asked: shadow.asked(),
            gained: shadow.gained(),
            lost: shadow.lost(),
        };
        Some(look(shadow, counts))
    }

    /// Begins to observe, with what sessions have been granted already; none when too many do.
    pub(crate) fn observe(&self, with_denied: bool) -> Option<Observed> {
        let id = {
            let mut watching = self.0.watching.lock();
            if watching.observers.len() >= OBSERVERS_MAX {
                return None;
            }
            watching.next += 1;
            let id = watching.next;
            watching
                .observers
                .insert(id, Observing { observer: Observer::new(OBSERVED_BYTES_MAX), with_denied });
            id
        };
        let observed = Observed { of: Arc::clone(&self.0), id };
        self.0.refresh();
        self.tell_standing(Whom::Observer(id));
        Some(observed)
    }

    /// Tells what sessions have been granted already, beside whoever waits.
    fn tell_standing(&self, whom: Whom) {
        let Some(hub) = self.0.hub.get().cloned() else { return };
        let mut teller = Teller { to: Arc::clone(&self.0), whom };
        drop(tokio::task::spawn_blocking(move || {
            hub.tell_standing(&mut teller);
            // Whom a topic reaches is worked out once and remembered: an observer that knows of the subscriptions now has
            // to be told again.
            if matches!(whom, Whom::Observer(_)) {
                teller.to.renew();
            }
        }));
    }
}

impl Shared {
    /// Has the broker decide anew what it remembers, before its witness.
    fn renew(self: &Arc<Self>) {
        let has_witness = self.has_witness.lock();
        if let (true, Some(hub)) = (*has_witness, self.hub.get()) {
            hub.set_witness(Some(Box::new(Teller { to: Arc::clone(self), whom: Whom::All })));
        }
    }

    /// Gives the broker a witness while somebody watches.
    fn refresh(self: &Arc<Self>) {
        let Some(hub) = self.hub.get() else { return };
        let mut has_witness = self.has_witness.lock();
        let is_watched = {
            let watching = self.watching.lock();
            watching.candidate.is_some() || !watching.observers.is_empty()
        };
        if is_watched != *has_witness {
            let teller = || Box::new(Teller { to: Arc::clone(self), whom: Whom::All }) as Box<dyn Witness>;
            hub.set_witness(is_watched.then(teller));
            *has_witness = is_watched;
        }
    }
}

/// What one operator observes; it ends when this is dropped.
pub(crate) struct Observed {
    of: Arc<Shared>,
    id: u64,
}

impl Observed {
    /// Returns what was seen, and how often something found no room.
    pub(crate) fn take(self) -> (Vec<Observation>, u64) {
        let observing = self.of.watching.lock().observers.remove(&self.id);
        observing.map_or_else(Default::default, |Observing { observer, .. }| {
            (observer.observations(), observer.left_out())
        })
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.of.watching.lock().observers.remove(&self.id);
        self.of.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_few_and_leave_nothing_behind() {
        let watchers = Watchers::default();
        let observed: Vec<Observed> = (0..OBSERVERS_MAX).filter_map(|_| watchers.observe(false)).collect();
        assert_eq!(observed.len(), OBSERVERS_MAX);
        assert!(watchers.observe(false).is_none());
        for one in observed {
            assert_eq!(one.take(), (Vec::new(), 0));
        }
        assert!(watchers.0.watching.lock().observers.is_empty());
        assert!(watchers.observe(true).is_some());
    }
}
