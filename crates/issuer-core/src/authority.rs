//! The X.509 authorities as an operator sees and ends them: prepare, activate, taint, revoke.
//!
//! Owns which of these may be done to which authority. As SPIRE's `localauthority` has it, an authority that signs or is
//! about to is not tainted, and only a tainted one is revoked: first another one signs, then what the old one signed
//! is renewed, then it is forgotten.

use crate::{AuthorityKind, Bundle, BundleError, CaJournal, Root, Slot, SlotState};
use midge_identity::{CertificateFacts, UnixMillis};
use std::collections::BTreeSet;

/// One X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Authority {
    /// Subject key identifier of its certificate, lower-case hex.
    pub id: String,
    /// What it does.
    pub state: SlotState,
    /// What it signed is proof of nothing any more.
    pub tainted: bool,
    /// End of its validity.
    pub not_after: UnixMillis,
}

/// Why an authority was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// None was named.
    #[error("no authority ID provided; `localauthority x509 show` lists them")]
    NoId,
    /// There is none of that ID.
    #[error("no X.509 authority has the ID \"{0}\"; `localauthority x509 show` lists them")]
    Unknown(String),
    /// It signs.
    #[error("authority {0} is active: prepare and activate another one first")]
    Active(String),
    /// It is about to sign.
    #[error("authority {0} is prepared: only old authorities can be tainted or revoked")]
    Prepared(String),
    /// It cannot be activated.
    #[error("authority {0} is not prepared: only prepared authorities can be activated")]
    NotPrepared(String),
    /// SVIDs of it would end before they are renewed.
    #[error("authority {0} is not tainted: taint it first, and what it signed is renewed")]
    NotTainted(String),
    /// The server's CA comes from its cloud, whose authorities these are.
    #[error(
        "this box has its CA from its cloud: authorities are prepared, activated, tainted and revoked there"
    )]
    Upstream,
    /// What would be left.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Returns the ID of an authority: the subject key identifier of its certificate, lower-case hex.
pub fn authority_id(certificate: &[u8]) -> Option<String> {
    CertificateFacts::parse(certificate).ok()?.subject_key_id.map(hex::encode)
}

/// Returns the authorities: the one that signs, the prepared one, then those of earlier times, as long as anybody
/// trusts them.
pub fn x509_authorities(kind: AuthorityKind, journal: &CaJournal, bundle: &Bundle) -> Vec<X509Authority> {
    let of_slot = |state| {
        let (_, ca) = journal.in_state(state)?;
        let id = authority_id(&ca.certificate)?;
        Some(X509Authority { id, state, tainted: ca.tainted, not_after: ca.not_after })
    };
    let mut all: Vec<X509Authority> =
        [SlotState::Active, SlotState::Prepared].into_iter().filter_map(of_slot).collect();
    match kind {
        AuthorityKind::Upstream => all.extend(of_slot(SlotState::Old)),
        AuthorityKind::SelfSigned => {
            let old = bundle.roots().iter().filter_map(|root| {
                let (id, state) = (authority_id(&root.certificate)?, SlotState::Old);
                Some(X509Authority { id, state, tainted: root.tainted, not_after: root.not_after })
            });
            let old: Vec<_> = old.filter(|old| all.iter().all(|known| known.id != old.id)).collect();
            all.extend(old);
        }
    }
    all
}

/// Returns the IDs of the authorities whose SVIDs may be kept until they are due; one of any other is to be signed anew.
/// The one that signs is always among them: a box whose CA is tainted has no better one until its cloud signs it.
pub fn good_authorities(kind: AuthorityKind, journal: &CaJournal, bundle: &Bundle) -> BTreeSet<String> {
    let all = x509_authorities(kind, journal, bundle).into_iter();
    all.filter(|authority| authority.state == SlotState::Active || !authority.tainted)
        .map(|authority| authority.id)
        .collect()
}

/// Returns the ID of the authority that signed an SVID: the authority key identifier of the leaf, lower-case hex.
pub fn signed_by(leaf: &[u8]) -> Option<String> {
    CertificateFacts::parse(leaf).ok()?.authority_key_id.map(hex::encode)
}

/// Decides which slot is to be activated.
///
/// # Errors
/// The server's CA comes from its cloud, or the ID is not that of the prepared authority.
pub fn plan_activation(kind: AuthorityKind, journal: &CaJournal, id: &str) -> Result<Slot, AuthorityError> {
    check_own(kind, id)?;
    let (slot, ca) = journal.prepared().ok_or_else(|| AuthorityError::NotPrepared(id.to_owned()))?;
    if authority_id(&ca.certificate).as_deref() != Some(id) {
        return Err(AuthorityError::NotPrepared(id.to_owned()));
    }
    Ok(slot)
}

/// Plans that what an old authority signed is proof of nothing any more, and is renewed. Once more changes nothing.
///
/// # Errors
/// The server's CA comes from its cloud, or the ID is not that of an old authority.
pub fn plan_taint(
    kind: AuthorityKind,
    journal: &CaJournal,
    bundle: &Bundle,
    id: &str,
) -> Result<Bundle, AuthorityError> {
    let root = old_root(kind, journal, bundle, id)?;
    let tainted = bundle
        .roots()
        .iter()
        .cloned()
        .map(|known| Root { tainted: known.tainted || known.certificate == root.certificate, ..known });
    Ok(bundle.with_roots(tainted.collect())?)
}

/// Plans that nobody trusts a tainted authority any more.
///
/// # Errors
/// The server's CA comes from its cloud, or the ID is not that of an old authority that was tainted.
pub fn plan_revocation(
    kind: AuthorityKind,
    journal: &CaJournal,
    bundle: &Bundle,
    id: &str,
) -> Result<Bundle, AuthorityError> {
    let root = old_root(kind, journal, bundle, id)?;
    if !root.tainted {
        return Err(AuthorityError::NotTainted(id.to_owned()));
    }
    Ok(bundle.without_root(&root.certificate)?)
}

fn check_own(kind: AuthorityKind, id: &str) -> Result<(), AuthorityError> {
    match kind {
        AuthorityKind::Upstream => Err(AuthorityError::Upstream),
        AuthorityKind::SelfSigned if id.is_empty() => Err(AuthorityError::NoId),
        AuthorityKind::SelfSigned => Ok(()),
    }
}

fn old_root<'a>(
    kind: AuthorityKind,
    journal: &CaJournal,
    bundle: &'a Bundle,
    id: &str,
) -> Result<&'a Root, AuthorityError> {
    check_own(kind, id)?;
    let known = x509_authorities(kind, journal, bundle).into_iter().find(|authority| authority.id == id);
    match known.map(|authority| authority.state) {
        Some(SlotState::Active) => return Err(AuthorityError::Active(id.to_owned())),
        Some(SlotState::Prepared) => return Err(AuthorityError::Prepared(id.to_owned())),
        Some(SlotState::Old) | None => {}
    }
    let root = bundle.roots().iter().find(|root| authority_id(&root.certificate).as_deref() == Some(id));
    root.ok_or_else(|| AuthorityError::Unknown(id.to_owned()))
}
