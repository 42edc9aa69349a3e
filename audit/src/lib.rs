//! The audit log on disk: one thread writes it, so that no connection waits for the disk.
//!
//! Owns the files, the signing key of the checkpoints, rotation and the bound on disk, and reading
//! back. What a line is and how it is verified is in `audit-core`; what there is to record is said
//! by whoever holds an [`AuditLog`].

mod config;
mod copy;
mod error;
mod files;
mod head;
mod log;
mod read;
mod recover;
mod signed;
mod upload;
mod writer;

pub use audit_core::{
    Alike, Expected, Finding, FindingKind, Hash, Head, Line, Note, Peer, Record, Report, Signed, Sort,
    UNSIGNED_LINES_MAX, event, fingerprint, topic_class,
};
pub use config::{AuditConfig, Bounds};
pub use copy::{Arrived, Branch, Copy, CopyState, branches, copy_state};
pub use error::AuditError;
pub use files::files;
pub use head::{own_key, signed_head};
pub use log::{Admitted, AuditLog, AuditWriter, Status};
pub use read::{Follower, LINE_BYTES_MAX, each_line, verify, verify_log};
pub use upload::Source;
