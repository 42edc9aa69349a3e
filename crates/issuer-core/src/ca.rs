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
mod tests;
