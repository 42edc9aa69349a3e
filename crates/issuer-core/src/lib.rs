//! The identity server's rules: registration entries, join tokens, certificate templates, CA
//! slots, rotation and lease.
//!
//! Owns what may be issued, to whom and until when. Leaves keys and signatures to `pki/`, disk
//! and sockets to `issuer/`.

mod entry;

pub use entry::{Origin, RegistrationEntry, Selector};
