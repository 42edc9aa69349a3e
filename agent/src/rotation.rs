//! Which X.509-SVIDs are kept, and when each is signed anew.
//!
//! Owns the schedule: on demand, at half of the lifetime ± 10 %, after a change of the entry, after
//! a failure. Leaves keys, signing and tasks to [`crate::svids`]. Pure: time is an argument.

use crate::{AgentView, jitter::Jitter};
use issuer_core::{Origin, RegistrationEntry};
use midge_identity::{SpiffeId, UnixMillis};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use zeroize::Zeroizing;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(30);
// Before every scheduled time: somebody is waiting.
const AT_ONCE: UnixMillis = UnixMillis(0);

/// An X.509-SVID with its key.
pub(crate) struct Svid {
    pub(crate) spiffe_id: SpiffeId,
    /// Concatenated DER, leaf first.
    pub(crate) chain: Vec<u8>,
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) issued: UnixMillis,
    pub(crate) expires: UnixMillis,
    /// ID of the authority that signed it.
    pub(crate) signed_by: Option<String>,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// One signing to be done. Its answer is [`Rotation::handle_signed`] or [`Rotation::handle_failed`].
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) entry: Arc<RegistrationEntry>,
    ticket: u64,
}

/// No room for another SVID: all that are kept are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} SVIDs this agent may keep are in use")]
pub(crate) struct Full(usize);

/// Bounds of the schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotationLimits {
    pub(crate) svids_max: usize,
    pub(crate) signings_max: usize,
    pub(crate) prefetch_max: usize,
}

/// The schedule.
#[derive(Debug)]
pub(crate) struct Rotation {
    slots: BTreeMap<String, Slot>,
    // How many workloads need the SVID of an entry. Outlives the slot: an entry may be deleted
    // and made again while they wait.
    interest: BTreeMap<String, usize>,
    /// Authorities whose SVIDs may be kept; none when all may.
    good: Arc<BTreeSet<String>>,
    due: BTreeSet<(UnixMillis, String)>,
    signing: usize,
    next_ticket: u64,
    limits: RotationLimits,
    jitter: Jitter,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<RegistrationEntry>,
    svid: Option<Arc<Svid>>,
    prefetched: bool,
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(UnixMillis),
    /// What is being signed is for an entry that has changed since if `stale`.
    Signing {
        ticket: u64,
        stale: bool,
    },
}

impl Rotation {
    pub(crate) fn new(limits: RotationLimits, jitter: Jitter) -> Self {
        Self {
            slots: BTreeMap::new(),
            interest: BTreeMap::new(),
            good: Arc::default(),
            due: BTreeSet::new(),
            signing: 0,
            next_ticket: 0,
            limits,
            jitter,
        }
    }

    /// Notes that a workload needs the SVID of an entry, until [`Self::handle_release`].
    pub(crate) fn handle_interest(&mut self, entry: &Arc<RegistrationEntry>) -> Result<(), Full> {
        if !self.slots.contains_key(&entry.id) {
            if self.slots.len() >= self.limits.svids_max && !self.evict() {
                return Err(Full(self.limits.svids_max));
            }
            self.insert(entry, false);
        }
        *self.interest.entry(entry.id.clone()).or_default() += 1;
        Ok(())
    }

    /// Notes that a workload no longer needs it. The SVID is kept until it would be renewed.
    pub(crate) fn handle_release(&mut self, entry_id: &str) {
        let Some(count) = self.interest.get_mut(entry_id) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.interest.remove(entry_id);
        }
    }

    /// Follows the entries: what is gone is forgotten, what has changed or was signed by a tainted authority is signed
    /// anew, and what has failed is tried again.
    pub(crate) fn handle_view(&mut self, view: &AgentView) {
        self.good = Arc::clone(view.good_authorities());
        let mut gone: BTreeSet<String> = self.slots.keys().cloned().collect();
        let served = |entry: &&Arc<RegistrationEntry>| entry.origin != Origin::Builtin && !entry.store_svid;
        for (index, entry) in view.entries().iter().filter(served).enumerate() {
            let prefetched = index < self.limits.prefetch_max;
            if gone.remove(&entry.id) {
                self.follow(entry, prefetched);
            } else if self.interest.contains_key(&entry.id)
                || (prefetched && self.slots.len() < self.limits.svids_max)
            {
                self.insert(entry, prefetched);
            }
        }
        for id in gone {
            self.remove(&id);
        }
    }

    /// Takes the next signing that is due, unless enough are under way.
    pub(crate) fn next_order(&mut self, now: UnixMillis) -> Option<Order> {
        while self.signing < self.limits.signings_max {
            let (due, id) = self.due.first().cloned().filter(|(due, _)| *due <= now)?;
            self.due.remove(&(due, id.clone()));
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if !slot.prefetched && !self.interest.contains_key(&id) {
                self.slots.remove(&id);
                continue;
            }
            let ticket = self.next_ticket;
            self.next_ticket = ticket.wrapping_add(1);
            slot.state = State::Signing { ticket, stale: false };
            self.signing += 1;
            return Some(Order { entry: Arc::clone(&slot.entry), ticket });
        }
        None
    }

    /// Returns when the next signing is due; `None` when only an event can bring one.
    pub(crate) fn poll_timeout(&self) -> Option<UnixMillis> {
        let (due, _) = self.due.first().filter(|_| self.signing < self.limits.signings_max)?;
        Some(*due)
    }

    /// Takes the result of an order.
    pub(crate) fn handle_signed(&mut self, order: &Order, svid: Arc<Svid>) {
        self.signing = self.signing.saturating_sub(1);
        let half = svid.expires.since(svid.issued) / 2;
        let half = svid.issued.after(self.jitter.around(half));
        // The next one would end with the entry too: it would only wake everybody who holds this one.
        let is_last = order.entry.ends().is_some_and(|end| svid.expires >= end);
        let renew = match (is_good(&self.good, &svid), is_last) {
            // Either the CA was replaced while it signed, or the view is behind.
            (false, _) => svid.issued.after(RETRY_FIRST),
            (true, true) => svid.expires,
            (true, false) => half,
        };
        let Some((slot, stale)) = self.answered(order) else { return };
        slot.failures = 0;
        slot.svid = Some(svid);
        self.schedule(&order.entry.id, if stale { AT_ONCE } else { renew });
    }

    /// Takes the failure of an order; the SVID there is stays. Returns how often it failed in a row.
    pub(crate) fn handle_failed(&mut self, order: &Order, now: UnixMillis) -> u32 {
        self.signing = self.signing.saturating_sub(1);
        let Some((slot, stale)) = self.answered(order) else { return 0 };
        slot.failures = slot.failures.saturating_add(1);
        let failures = slot.failures;
        let retry = now.after(self.jitter.backoff(failures, RETRY_FIRST, RETRY_LONGEST));
        self.schedule(&order.entry.id, if stale { AT_ONCE } else { retry });
        failures
    }

    /// Returns the SVID of an entry while it is valid.
    pub(crate) fn svid(&self, entry: &RegistrationEntry, now: UnixMillis) -> Option<Arc<Svid>> {
        let svid = self.slots.get(&entry.id)?.svid.as_ref()?;
        (now < svid.expires && svid.spiffe_id == entry.spiffe_id).then(|| Arc::clone(svid))
    }

    /// Returns whether signing for this entry is failing now.
    pub(crate) fn is_failing(&self, entry_id: &str) -> bool {
        self.slots.get(entry_id).is_some_and(|slot| slot.failures > 0)
    }

    /// Returns how many SVIDs are kept, signed or about to be.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    fn answered(&mut self, order: &Order) -> Option<(&mut Slot, bool)> {
        let slot = self.slots.get_mut(&order.entry.id)?;
        match slot.state {
            State::Signing { ticket, stale } if ticket == order.ticket => Some((slot, stale)),
            // The entry was deleted and made again meanwhile.
            State::Signing { .. } | State::Due(_) => None,
        }
    }

    fn follow(&mut self, entry: &Arc<RegistrationEntry>, prefetched: bool) {
        let Some(slot) = self.slots.get_mut(&entry.id) else { return };
        slot.prefetched = prefetched;
        let changed = certified(&slot.entry) != certified(entry);
        slot.entry = Arc::clone(entry);
        let retry = slot.failures > 0 || slot.svid.as_ref().is_some_and(|svid| !is_good(&self.good, svid));
        match &mut slot.state {
            State::Signing { stale, .. } => *stale |= changed,
            State::Due(_) if changed || retry => self.schedule(&entry.id, AT_ONCE),
            State::Due(_) => {}
        }
    }

    fn insert(&mut self, entry: &Arc<RegistrationEntry>, prefetched: bool) {
        self.due.insert((AT_ONCE, entry.id.clone()));
        let slot = Slot {
            entry: Arc::clone(entry),
            svid: None,
            prefetched,
            failures: 0,
            state: State::Due(AT_ONCE),
        };
        self.slots.insert(entry.id.clone(), slot);
    }

    fn schedule(&mut self, entry_id: &str, due: UnixMillis) {
        let Some(slot) = self.slots.get_mut(entry_id) else { return };
        if let State::Due(before) = slot.state {
            self.due.remove(&(before, entry_id.to_owned()));
        }
        slot.state = State::Due(due);
        self.due.insert((due, entry_id.to_owned()));
    }

    fn remove(&mut self, entry_id: &str) {
        if let Some(Slot { state: State::Due(due), .. }) = self.slots.remove(entry_id) {
            self.due.remove(&(due, entry_id.to_owned()));
        }
    }

    /// Makes room by forgetting an SVID that nobody needs now.
    fn evict(&mut self) -> bool {
        let idle = |(_, id): &&(UnixMillis, String)| {
            !self.interest.contains_key(id) && self.slots.get(id).is_some_and(|slot| !slot.prefetched)
        };
        let Some((_, id)) = self.due.iter().find(idle).cloned() else { return false };
        self.remove(&id);
        true
    }
}

fn is_good(good: &BTreeSet<String>, svid: &Svid) -> bool {
    good.is_empty() || svid.signed_by.as_ref().is_none_or(|authority| good.contains(authority))
}

/// What of an entry goes into the certificate.
fn certified(entry: &RegistrationEntry) -> (i64, &SpiffeId, u32, &[String]) {
    (entry.revision_number, &entry.spiffe_id, entry.x509_svid_ttl_secs, &entry.dns_names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{entry, view};

    const LIMITS: RotationLimits = RotationLimits { svids_max: 3, signings_max: 2, prefetch_max: 0 };
    const HOUR: Duration = Duration::from_secs(3600);
    const START: UnixMillis = UnixMillis::from_secs(1_000_000);

    fn rotation(limits: RotationLimits) -> Rotation {
        Rotation::new(limits, Jitter::seeded(1))
    }

    fn arc(id: &str) -> Arc<RegistrationEntry> {
        Arc::new(entry(id, &format!("spiffe://t/{id}"), &["unix:uid:1"]))
    }

    fn svid(entry: &RegistrationEntry, issued: UnixMillis, ttl: Duration) -> Arc<Svid> {
        Arc::new(Svid {
            spiffe_id: entry.spiffe_id.clone(),
            chain: Vec::new(),
            key: Zeroizing::default(),
            issued,
            expires: issued.after(ttl),
            signed_by: None,
        })
    }

    fn sign(rotation: &mut Rotation, now: UnixMillis) -> Order {
        let order = rotation.next_order(now).expect("an order is due");
        rotation.handle_signed(&order, svid(&order.entry, now, HOUR));
        order
    }

    #[test]
    fn the_first_demand_signs_at_once_and_others_share_it() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        rotation.handle_interest(&a).unwrap();
        assert_eq!(rotation.poll_timeout(), Some(AT_ONCE));
        assert!(rotation.svid(&a, START).is_none());
        sign(&mut rotation, START);
        assert!(rotation.svid(&a, START).is_some());
        assert!(rotation.next_order(START).is_none());
    }

    #[test]
    fn renewal_is_at_half_of_the_lifetime_give_or_take_a_tenth() {
        let mut earliest = u64::MAX;
        let mut latest = 0;
        for seed in 0..500 {
            let mut rotation = Rotation::new(LIMITS, Jitter::seeded(seed));
            rotation.handle_interest(&arc("a")).unwrap();
            sign(&mut rotation, START);
            let after = rotation.poll_timeout().unwrap().since(START).as_secs();
            assert!((1620..=1980).contains(&after), "{after} s of 3600 s");
            earliest = earliest.min(after);
            latest = latest.max(after);
        }
        assert!(earliest < 1650 && latest > 1950, "{earliest} {latest}");
    }

    #[test]
    fn what_a_tainted_authority_signed_is_signed_anew_at_once_and_once() {
        let mut rotation = rotation(LIMITS);
        let entries =
            vec![entry("a", "spiffe://t/a", &["unix:uid:1"]), entry("b", "spiffe://t/b", &["unix:uid:1"])];
        let follow = |rotation: &mut Rotation, good: &[&str]| {
            let good = good.iter().map(|id| (*id).to_owned()).collect();
            rotation.handle_view(&view(1, entries.clone()).with_good_authorities(Arc::new(good)));
        };
        let signed = |rotation: &mut Rotation, authority: &str| {
            let order = rotation.next_order(START).unwrap();
            let svid = Svid {
                signed_by: Some(authority.into()),
                ..Arc::into_inner(svid(&order.entry, START, HOUR)).unwrap()
            };
            rotation.handle_signed(&order, Arc::new(svid));
            order.entry.id.clone()
        };
        rotation.handle_interest(&arc("a")).unwrap();
        rotation.handle_interest(&arc("b")).unwrap();
        assert_eq!([signed(&mut rotation, "old"), signed(&mut rotation, "new")], ["a", "b"]);
        for good in [&[][..], &["old", "new"]] {
            follow(&mut rotation, good);
            assert!(rotation.next_order(START).is_none(), "{good:?}");
        }
        follow(&mut rotation, &["new"]);
        assert_eq!(signed(&mut rotation, "old"), "a");
        assert_eq!(rotation.poll_timeout(), Some(START.after(RETRY_FIRST)), "the CA was replaced meanwhile");
        follow(&mut rotation, &["new"]);
        assert_eq!(signed(&mut rotation, "new"), "a");
        assert!(rotation.next_order(START).is_none());
        assert!(rotation.poll_timeout().unwrap() > START.after(HOUR / 3));
    }

    #[test]
    fn an_svid_that_ends_with_its_entry_is_the_last() {
        let due = |end: UnixMillis| {
            let mut rotation = rotation(LIMITS);
            let expires_at = i64::try_from(end.as_secs()).unwrap();
            let a = Arc::new(RegistrationEntry { expires_at, ..RegistrationEntry::clone(&arc("a")) });
            rotation.handle_interest(&a).unwrap();
            sign(&mut rotation, START);
            rotation.poll_timeout().unwrap()
        };
        assert_eq!(due(START.after(HOUR)), START.after(HOUR));
        assert!(due(START.after(HOUR * 2)) < START.after(HOUR));
    }

    #[test]
    fn a_year_of_renewals_never_serves_an_expired_svid() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        let mut now = START;
        let mut signed = 0;
        sign(&mut rotation, now);
        while now < START.after(Duration::from_secs(365 * 24 * 3600)) {
            now = rotation.poll_timeout().unwrap();
            let before = rotation.svid(&a, now).expect("valid up to its renewal");
            assert!(before.expires.since(now) > HOUR * 4 / 10);
            sign(&mut rotation, now);
            signed += 1;
        }
        assert!((17_000..18_100).contains(&signed), "{signed} renewals");
    }

    #[test]
    fn failures_back_off_and_the_old_svid_is_served_while_it_is_valid() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        sign(&mut rotation, START);
        let mut now = rotation.poll_timeout().unwrap();
        let mut waits = Vec::new();
        while now < START.after(HOUR) {
            assert!(rotation.svid(&a, now).is_some());
            let order = rotation.next_order(now).unwrap();
            assert!(rotation.poll_timeout().is_none());
            rotation.handle_failed(&order, now);
            assert!(rotation.is_failing("a"));
            let next = rotation.poll_timeout().unwrap();
            waits.push(next.since(now));
            now = next;
        }
        assert!(waits[0] <= RETRY_FIRST * 11 / 10);
        assert!(waits.iter().all(|wait| *wait <= RETRY_LONGEST * 11 / 10));
        assert!(waits.last().unwrap() >= &(RETRY_LONGEST * 9 / 10));
        assert!(rotation.svid(&a, now).is_none(), "expired");
        sign(&mut rotation, now);
        assert!(rotation.svid(&a, now).is_some() && !rotation.is_failing("a"));
    }

    #[test]
    fn a_changed_entry_is_signed_again_and_a_deleted_one_forgotten() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        rotation.handle_view(&view(1, vec![RegistrationEntry::clone(&a)]));
        sign(&mut rotation, START);
        rotation.handle_view(&view(2, vec![RegistrationEntry::clone(&a)]));
        assert!(rotation.next_order(START).is_none(), "nothing has changed");

        let updated = RegistrationEntry { revision_number: 1, ..RegistrationEntry::clone(&a) };
        rotation.handle_view(&view(3, vec![updated.clone()]));
        assert!(rotation.svid(&a, START).is_some(), "the old one serves until the new one is there");
        assert_eq!(sign(&mut rotation, START).entry.revision_number, 1);

        let renamed = RegistrationEntry {
            revision_number: 2,
            spiffe_id: SpiffeId::new("spiffe://t/other").unwrap(),
            ..updated
        };
        rotation.handle_view(&view(4, vec![renamed.clone()]));
        assert!(rotation.svid(&renamed, START).is_none(), "the old one names another identity");

        rotation.handle_view(&view(5, Vec::new()));
        assert!(rotation.slots.is_empty() && rotation.due.is_empty());
    }

    #[test]
    fn a_change_during_signing_signs_again() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        let order = rotation.next_order(START).unwrap();
        let updated = RegistrationEntry { revision_number: 1, ..RegistrationEntry::clone(&a) };
        rotation.handle_view(&view(1, vec![updated]));
        rotation.handle_signed(&order, svid(&a, START, HOUR));
        assert_eq!(sign(&mut rotation, START).entry.revision_number, 1);
        assert!(rotation.next_order(START).is_none());
    }

    #[test]
    fn an_answer_for_a_former_entry_of_that_id_is_not_used() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        let former = rotation.next_order(START).unwrap();
        rotation.handle_view(&view(1, Vec::new()));
        rotation.handle_view(&view(2, vec![RegistrationEntry::clone(&a)]));
        rotation.handle_signed(&former, svid(&a, START, HOUR));
        assert!(rotation.svid(&a, START).is_none());
        sign(&mut rotation, START);
        assert!(rotation.svid(&a, START).is_some());
        assert_eq!(rotation.signing, 0);
    }

    #[test]
    fn an_unneeded_svid_is_not_renewed() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        sign(&mut rotation, START);
        rotation.handle_release("a");
        assert!(rotation.svid(&a, START).is_some(), "kept for who comes next");
        let renewal = rotation.poll_timeout().unwrap();
        assert!(rotation.next_order(renewal).is_none());
        assert!(rotation.slots.is_empty() && rotation.due.is_empty());
    }

    #[test]
    fn room_is_made_only_from_unneeded_svids() {
        let mut rotation = rotation(LIMITS);
        for id in ["a", "b", "c"] {
            rotation.handle_interest(&arc(id)).unwrap();
            sign(&mut rotation, START);
        }
        assert_eq!(rotation.handle_interest(&arc("d")), Err(Full(3)));
        rotation.handle_release("b");
        rotation.handle_interest(&arc("d")).unwrap();
        assert!(rotation.svid(&arc("b"), START).is_none());
        assert!(rotation.svid(&arc("a"), START).is_some());
    }

    #[test]
    fn no_more_signings_run_at_once_than_allowed() {
        let mut rotation = rotation(LIMITS);
        for id in ["a", "b", "c"] {
            rotation.handle_interest(&arc(id)).unwrap();
        }
        let first = rotation.next_order(START).unwrap();
        assert!(rotation.next_order(START).is_some());
        assert!(rotation.next_order(START).is_none() && rotation.poll_timeout().is_none());
        rotation.handle_failed(&first, START);
        assert!(rotation.next_order(START).is_some());
    }

    #[test]
    fn prefetched_svids_are_there_before_anybody_asks_and_are_renewed() {
        let limits = RotationLimits { prefetch_max: 2, ..LIMITS };
        let mut rotation = rotation(limits);
        let entries: Vec<_> = ["a", "b", "c"].iter().map(|id| RegistrationEntry::clone(&arc(id))).collect();
        rotation.handle_view(&view(1, entries));
        sign(&mut rotation, START);
        sign(&mut rotation, START);
        assert!(rotation.next_order(START).is_none());
        let later = rotation.poll_timeout().unwrap();
        assert!(rotation.next_order(later).is_some());
        assert!(rotation.svid(&arc("a"), later).is_some());
    }

    #[test]
    fn a_new_view_retries_what_failed() {
        let mut rotation = rotation(LIMITS);
        let a = arc("a");
        rotation.handle_interest(&a).unwrap();
        for _ in 0..20 {
            let now = rotation.poll_timeout().unwrap().max(START);
            let order = rotation.next_order(now).unwrap();
            rotation.handle_failed(&order, now);
        }
        assert!(rotation.next_order(START).is_none());
        rotation.handle_view(&view(1, vec![RegistrationEntry::clone(&a)]));
        assert!(rotation.next_order(START).is_some());
    }
}
