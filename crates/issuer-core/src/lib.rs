//! The identity server's rules: registration entries, join tokens, certificate templates, CA
//! slots, rotation and lease.
//!
//! Owns what may be issued, to whom and until when. Leaves keys and signatures to `pki/`, disk
//! and sockets to `issuer/`.

mod admit;
mod authority;
mod bundle;
mod ca;
mod clock;
mod entry;
mod federation;
mod lease;
pub mod limits;
mod node;
mod table;
pub mod template;
mod token;
mod validate;

pub use admit::UNIX_SELECTORS;
pub use authority::{
    AuthorityError, X509Authority, authority_id, good_authorities, plan_activation, plan_revocation,
    plan_taint, signed_by, x509_authorities,
};
pub use bundle::{Bundle, BundleError, PRUNE_AFTER, ROOTS_MAX, Root};
pub use ca::{
    ACTIVATE_AT_MOST, AuthorityKind, CaJournal, CaRecord, CaStep, PREPARE_AT_MOST, PendingRequest, Slot,
    SlotState, WrongStep,
};
pub use clock::{BEHIND_TOLERANCE, ClockFloor, ClockReading, FLOOR_SAVE_INTERVAL};
pub use entry::{Origin, RegistrationEntry, Selector};
pub use federation::{DeleteMode, FederatedBundle, Federation, FederationChange, FederationError};
pub use lease::{Lease, LeaseReason, LeaseWarning};
pub use node::{Node, NodeProof, NodeSvid};
pub use table::{EntryChange, EntryFilter, EntryTable, SetMatch};
pub use token::{Enrolment, JoinError, JoinToken, Redemption, fingerprint};
pub use validate::{
    EntryError, EntryRules, IdFault, check_dns_name, check_member, check_selector, check_workload,
};
