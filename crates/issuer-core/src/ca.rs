//! Two CA slots and the journal that says what stands in each: prepared, active, old.
//!
//! The journal is a value: each step yields the next one, which the shell commits before it acts
//! on it. A private key is written to its slot's file before the journal names the slot, and a
//! slot's key is overwritten only while the slot neither signs nor is about to.

use crate::bundle::Root;
use midge_identity::{CertificateFacts, UnixMillis};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// A CA is never prepared earlier than this before its predecessor ends.
pub const PREPARE_AT_MOST: Duration = Duration::from_secs(30 * 86_400);
/// A CA is never activated earlier than this before its predecessor ends.
pub const ACTIVATE_AT_MOST: Duration = Duration::from_secs(7 * 86_400);

/// Where a CA's key and certificate live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Returns the other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns the name of the slot's key file.
    pub fn key_file(self) -> &'static str {
        match self {
            Self::A => "x509-ca-a.key",
            Self::B => "x509-ca-b.key",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What a slot's CA does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// Trusted already, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs nothing any more, still trusted.
    Old,
}

/// Where CA certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityKind {
    /// The server makes its own roots.
    SelfSigned,
    /// The cloud signs the server's intermediates.
    Upstream,
}

/// One CA certificate and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRecord {
    /// Certificate, DER.
    #[serde(with = "hex_bytes")]
    pub certificate: Vec<u8>,
    /// What SVIDs carry after the leaf: this certificate and those above it, without the root. Empty for a root.
    #[serde(default, with = "hex_list")]
    pub chain: Vec<Vec<u8>>,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// When its life began.
    pub issued_at: UnixMillis,
    /// End of its validity.
    pub not_after: UnixMillis,
    /// When the journal first named it.
    pub prepared_at: UnixMillis,
    /// SHA-256 of its public key (SPKI), lower-case hex: finds out that a key file is not its own.
    pub spki_sha256: String,
    /// Its root is tainted or not published any more: it is to be replaced at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tainted: bool,
}

impl CaRecord {
    /// Returns how long the CA lives in all.
    pub fn lifetime(&self) -> Duration {
        self.not_after.since(self.issued_at)
    }

    /// Tells whether the CA can still sign.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        now < self.not_after
    }

    /// Tells whether one of these roots, not a tainted one, vouches for it. What cannot be read was installed by
    /// someone who could, and is left alone.
    fn is_vouched_for(&self, roots: &[Root]) -> bool {
        let top = self.chain.last().unwrap_or(&self.certificate);
        let Ok(top) = CertificateFacts::parse(top) else { return true };
        let Some(wanted) = top.authority_key_id.or(top.subject_key_id) else { return true };
        roots.iter().filter(|root| !root.tainted).any(|root| {
            CertificateFacts::parse(&root.certificate)
                .is_ok_and(|facts| facts.subject_key_id.as_ref() == Some(&wanted))
        })
    }

    /// Returns when the next CA is to be prepared: at half its life, at most 30 days before its end.
    pub fn prepare_at(&self) -> UnixMillis {
        self.not_after.before((self.lifetime() / 2).min(PREPARE_AT_MOST))
    }

    /// Returns when the next CA is to take over: at a sixth of its life, at most 7 days before its end.
    pub fn activate_at(&self) -> UnixMillis {
        self.not_after.before((self.lifetime() / 6).min(ACTIVATE_AT_MOST))
    }
}

/// A CSR that waits for the cloud. Its key is in the slot's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRequest {
    /// Slot that holds the key.
    pub slot: Slot,
    /// SHA-256 of the public key (SPKI), lower-case hex.
    pub spki_sha256: String,
    /// When it was made.
    pub requested_at: UnixMillis,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaStep {
    /// Make a key and a root of its own in this slot, and publish the root.
    Prepare(Slot),
    /// Make a key in this slot and have the cloud sign it.
    Request(Slot),
    /// Let the CA of this slot sign from now on.
    Activate(Slot),
}

/// The slot named is not in the state the step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CA slot {0} is not in the state this step needs")]
pub struct WrongStep(pub Slot);

/// Both slots, as the disk has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaJournal {
    a: Option<(SlotState, CaRecord)>,
    b: Option<(SlotState, CaRecord)>,
    #[serde(default)]
    request: Option<PendingRequest>,
}

impl CaJournal {
    /// Returns the CA that signs, whether or not it has ended.
    pub fn active(&self) -> Option<(Slot, &CaRecord)> {
        self.in_state(SlotState::Active)
    }

    /// Returns the CA that signs next.
    pub fn prepared(&self) -> Option<(Slot, &CaRecord)> {
        self.in_state(SlotState::Prepared)
    }

    /// Returns the CSR that waits for the cloud.
    pub fn request(&self) -> Option<&PendingRequest> {
        self.request.as_ref()
    }

    /// Returns what a slot holds.
    pub fn slot(&self, slot: Slot) -> Option<(SlotState, &CaRecord)> {
        let held = match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        };
        held.as_ref().map(|(state, record)| (*state, record))
    }

    /// Decides what is to be done now. Doing it and asking again leads, step by step, to a CA that can sign.
    pub fn next_step(&self, kind: AuthorityKind, now: UnixMillis) -> Option<CaStep> {
        let prepared = self.prepared().filter(|(_, ca)| ca.is_live(now) && !ca.tainted);
        let Some((active_slot, active)) = self.active().filter(|(_, ca)| ca.is_live(now)) else {
            return match prepared {
                Some((slot, _)) => Some(CaStep::Activate(slot)),
                None => self.make(kind, self.active().map_or(Slot::A, |(slot, _)| slot.other())),
            };
        };
        match prepared {
            Some((slot, next)) => {
                (active.tainted || now >= takeover(active, next)).then_some(CaStep::Activate(slot))
            }
            None if active.tainted || now >= active.prepare_at() => self.make(kind, active_slot.other()),
            None => None,
        }
    }

    /// Returns when [`Self::next_step`] has something new to say, if time alone changes that.
    pub fn next_step_at(&self, kind: AuthorityKind, now: UnixMillis) -> Option<UnixMillis> {
        if self.next_step(kind, now).is_some() {
            return Some(now);
        }
        let (_, active) = self.active().filter(|(_, ca)| ca.is_live(now))?;
        Some(match self.prepared().filter(|(_, ca)| ca.is_live(now) && !ca.tainted) {
            Some((_, next)) => takeover(active, next),
            None if active.prepare_at() > now => active.prepare_at(),
            None => active.not_after,
        })
    }

    /// Returns the journal with a CSR waiting for the cloud.
    ///
    /// # Errors
    /// The slot's key is in use.
    pub fn with_request(&self, request: PendingRequest) -> Result<Self, WrongStep> {
        self.check_free(request.slot)?;
        Ok(Self { request: Some(request), ..self.clone() })
    }

    /// Returns the journal with a new CA prepared; a CSR of that slot is thereby answered.
    ///
    /// # Errors
    /// The slot's key is in use.
    pub fn with_prepared(&self, slot: Slot, record: CaRecord) -> Result<Self, WrongStep> {
        self.check_free(slot)?;
        let mut next = self.clone();
        next.request = next.request.filter(|request| request.slot != slot);
        next.set(slot, Some((SlotState::Prepared, record)));
        Ok(next)
    }

    /// Returns the journal with the prepared CA active and its predecessor old.
    ///
    /// # Errors
    /// The slot holds no prepared CA.
    pub fn with_activated(&self, slot: Slot) -> Result<Self, WrongStep> {
        let Some((SlotState::Prepared, record)) = self.slot(slot) else {
            return Err(WrongStep(slot));
        };
        let mut next = self.clone();
        next.set(slot, Some((SlotState::Active, record.clone())));
        let before = self.slot(slot.other()).map(|(_, record)| (SlotState::Old, record.clone()));
        next.set(slot.other(), before);
        Ok(next)
    }

    /// Returns the journal after the key of a slot turned out to be lost: its CA signs nothing any more.
    #[must_use]
    pub fn without_key(&self, slot: Slot) -> Self {
        let mut next = self.clone();
        let held = self.slot(slot).map(|(_, record)| (SlotState::Old, record.clone()));
        next.set(slot, held);
        next.request = next.request.filter(|request| request.slot != slot);
        next
    }

    /// Returns the journal after a change of the roots: CAs that lead to one that is tainted or gone are tainted.
    #[must_use]
    pub fn with_roots(&self, roots: &[Root]) -> Self {
        let mut next = self.clone();
        for (_, record) in [&mut next.a, &mut next.b].into_iter().flatten() {
            record.tainted |= !record.is_vouched_for(roots);
        }
        next
    }

    fn make(&self, kind: AuthorityKind, slot: Slot) -> Option<CaStep> {
        match kind {
            AuthorityKind::SelfSigned => Some(CaStep::Prepare(slot)),
            // One CSR at a time: a second key would make the cloud's answer to the first useless.
            AuthorityKind::Upstream => self.request.is_none().then_some(CaStep::Request(slot)),
        }
    }

    fn check_free(&self, slot: Slot) -> Result<(), WrongStep> {
        match self.slot(slot) {
            Some((SlotState::Active, _)) => Err(WrongStep(slot)),
            Some((SlotState::Prepared | SlotState::Old, _)) | None => Ok(()),
        }
    }

    pub(crate) fn in_state(&self, wanted: SlotState) -> Option<(Slot, &CaRecord)> {
        [Slot::A, Slot::B].into_iter().find_map(|slot| match self.slot(slot) {
            Some((state, record)) if state == wanted => Some((slot, record)),
            Some(_) | None => None,
        })
    }

    fn set(&mut self, slot: Slot, held: Option<(SlotState, CaRecord)>) {
        match slot {
            Slot::A => self.a = held,
            Slot::B => self.b = held,
        }
    }
}

/// When the next CA takes over. One that was prepared late gets half of what is left, so that its
/// root reaches those who must trust it before it signs.
fn takeover(active: &CaRecord, next: &CaRecord) -> UnixMillis {
    if next.prepared_at <= active.activate_at() {
        return active.activate_at();
    }
    next.prepared_at.after(active.not_after.since(next.prepared_at) / 2)
}

/// Byte strings as hex in JSON.
pub(crate) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Lists of byte strings as hex in JSON.
pub(crate) mod hex_list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(hex::encode))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .into_iter()
            .map(|text| hex::decode(text).map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: UnixMillis = UnixMillis(1_700_000_000_000);

    fn ca(name: u8, from: UnixMillis, life: Duration) -> CaRecord {
        CaRecord {
            certificate: vec![name],
            chain: vec![vec![name], vec![0xff]],
            serial: format!("{name:02x}"),
            issued_at: from,
            not_after: from.after(life),
            prepared_at: from,
            spki_sha256: format!("{name:064x}"),
            tainted: false,
        }
    }

    fn active(life: Duration) -> CaJournal {
        let journal = CaJournal::default().with_prepared(Slot::A, ca(1, START, life)).unwrap();
        journal.with_activated(Slot::A).unwrap()
    }

    fn self_signed(journal: &CaJournal, after: Duration) -> Option<CaStep> {
        journal.next_step(AuthorityKind::SelfSigned, START.after(after))
    }

    #[test]
    fn an_empty_journal_makes_and_activates_slot_a() {
        let empty = CaJournal::default();
        assert_eq!(self_signed(&empty, Duration::ZERO), Some(CaStep::Prepare(Slot::A)));
        assert_eq!(empty.next_step(AuthorityKind::Upstream, START), Some(CaStep::Request(Slot::A)));
        let prepared = empty.with_prepared(Slot::A, ca(1, START, DAY)).unwrap();
        assert_eq!(self_signed(&prepared, Duration::ZERO), Some(CaStep::Activate(Slot::A)));
        let active = prepared.with_activated(Slot::A).unwrap();
        assert_eq!(self_signed(&active, Duration::ZERO), None);
    }

    #[test]
    fn the_next_is_prepared_at_half_and_activated_at_a_sixth() {
        let journal = active(DAY);
        let ms = Duration::from_millis(1);
        assert_eq!(self_signed(&journal, DAY / 2 - ms), None);
        assert_eq!(self_signed(&journal, DAY / 2), Some(CaStep::Prepare(Slot::B)));
        let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY / 2), DAY)).unwrap();
        assert_eq!(self_signed(&journal, DAY * 5 / 6 - ms), None);
        assert_eq!(self_signed(&journal, DAY * 5 / 6), Some(CaStep::Activate(Slot::B)));
        let journal = journal.with_activated(Slot::B).unwrap();
        assert_eq!(journal.active().map(|(slot, _)| slot), Some(Slot::B));
        assert_eq!(journal.slot(Slot::A).map(|(state, _)| state), Some(SlotState::Old));
        assert_eq!(self_signed(&journal, DAY), Some(CaStep::Prepare(Slot::A)));
    }

    #[test]
    fn long_lives_are_capped_to_thirty_and_seven_days() {
        let record = ca(1, START, DAY * 3650);
        assert_eq!(record.prepare_at(), START.after(DAY * 3620));
        assert_eq!(record.activate_at(), START.after(DAY * 3643));
        let short = ca(1, START, DAY * 42);
        assert_eq!(short.prepare_at(), START.after(DAY * 21));
        assert_eq!(short.activate_at(), START.after(DAY * 35));
    }

    #[test]
    fn a_late_successor_is_published_before_it_signs() {
        let found = START.after(DAY * 11 / 12);
        let journal = active(DAY).with_prepared(Slot::B, ca(2, found, DAY)).unwrap();
        assert_eq!(self_signed(&journal, DAY * 11 / 12), None);
        assert_eq!(self_signed(&journal, DAY * 23 / 24), Some(CaStep::Activate(Slot::B)));
    }

    #[test]
    fn an_ended_ca_is_replaced_at_once() {
        let journal = active(DAY);
        assert_eq!(self_signed(&journal, DAY), Some(CaStep::Prepare(Slot::B)));
        let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY * 3), DAY)).unwrap();
        assert_eq!(self_signed(&journal, DAY * 3), Some(CaStep::Activate(Slot::B)));
    }

    #[test]
    fn an_ended_successor_is_made_anew() {
        let journal = active(DAY).with_prepared(Slot::B, ca(2, START, DAY)).unwrap();
        assert_eq!(self_signed(&journal, DAY * 2), Some(CaStep::Prepare(Slot::B)));
        assert!(journal.with_prepared(Slot::B, ca(3, START.after(DAY * 2), DAY)).is_ok());
    }

    #[test]
    fn the_cloud_is_asked_once_at_a_time() {
        let request = PendingRequest {
            slot: Slot::B,
            spki_sha256: "00".to_owned(),
            requested_at: START.after(DAY / 2),
        };
        let half = START.after(DAY / 2);
        let journal = active(DAY);
        assert_eq!(journal.next_step(AuthorityKind::Upstream, half), Some(CaStep::Request(Slot::B)));
        let waiting = journal.with_request(request.clone()).unwrap();
        for later in [half, START.after(DAY), START.after(DAY * 100)] {
            assert_eq!(waiting.next_step(AuthorityKind::Upstream, later), None);
        }
        assert_eq!(waiting.request(), Some(&request));
        let answered = waiting.with_prepared(Slot::B, ca(2, half, DAY)).unwrap();
        assert_eq!(answered.request(), None);
    }

    #[test]
    fn the_active_key_is_never_overwritten() {
        let journal = active(DAY);
        assert_eq!(journal.with_prepared(Slot::A, ca(2, START, DAY)), Err(WrongStep(Slot::A)));
        let request = PendingRequest { slot: Slot::A, spki_sha256: String::new(), requested_at: START };
        assert_eq!(journal.with_request(request), Err(WrongStep(Slot::A)));
        assert_eq!(journal.with_activated(Slot::A), Err(WrongStep(Slot::A)));
        assert_eq!(journal.with_activated(Slot::B), Err(WrongStep(Slot::B)));
    }

    #[test]
    fn a_lost_key_makes_room_for_the_next() {
        let journal = active(DAY).without_key(Slot::A);
        assert_eq!(journal.active(), None);
        assert_eq!(self_signed(&journal, Duration::ZERO), Some(CaStep::Prepare(Slot::A)));
        let journal = active(DAY).with_prepared(Slot::B, ca(2, START, DAY)).unwrap().without_key(Slot::A);
        assert_eq!(self_signed(&journal, Duration::ZERO), Some(CaStep::Activate(Slot::B)));
    }

    #[test]
    fn the_next_look_is_when_something_is_due() {
        let kind = AuthorityKind::SelfSigned;
        assert_eq!(CaJournal::default().next_step_at(kind, START), Some(START));
        let journal = active(DAY);
        assert_eq!(journal.next_step_at(kind, START), Some(START.after(DAY / 2)));
        let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY / 2), DAY)).unwrap();
        assert_eq!(journal.next_step_at(kind, START.after(DAY / 2)), Some(START.after(DAY * 5 / 6)));
    }

    #[test]
    fn a_waiting_edge_looks_again_when_its_ca_ends() {
        let request = PendingRequest { slot: Slot::B, spki_sha256: String::new(), requested_at: START };
        let journal = active(DAY).with_request(request).unwrap();
        let kind = AuthorityKind::Upstream;
        assert_eq!(journal.next_step_at(kind, START.after(DAY * 2 / 3)), Some(START.after(DAY)));
        assert_eq!(journal.next_step_at(kind, START.after(DAY)), None);
    }

    #[test]
    fn the_journal_survives_json() {
        let request = PendingRequest { slot: Slot::B, spki_sha256: "ab".to_owned(), requested_at: START };
        let journal = active(DAY).with_request(request).unwrap();
        let json = serde_json::to_vec(&journal).unwrap();
        assert_eq!(serde_json::from_slice::<CaJournal>(&json).unwrap(), journal);
        assert_eq!(
            serde_json::from_slice::<CaJournal>(b"{\"a\":null,\"b\":null}").unwrap(),
            CaJournal::default()
        );
        assert!(serde_json::from_slice::<CaJournal>(b"{\"a\":null,\"b\":null,\"c\":1}").is_err());
    }

    #[test]
    fn slots_have_files_and_names() {
        assert_eq!((Slot::A.key_file(), Slot::B.key_file()), ("x509-ca-a.key", "x509-ca-b.key"));
        assert_eq!((Slot::A.other(), Slot::B.other()), (Slot::B, Slot::A));
        assert_eq!(format!("{}{}", Slot::A, Slot::B), "AB");
    }
}
