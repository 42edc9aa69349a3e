//! The audit log as data: what a line is, how lines are chained and signed, and how that is verified.
//!
//! Owns the form of a [`Record`], the hash chain ([`Chain`]) with its signed checkpoints, the
//! [`Verifier`] that finds what was removed, changed or reordered, and the [`Limiter`] that keeps
//! one noisy peer from washing the others out of the log. Leaves files, clocks, keys and what
//! there is to record to the shells. The format is described in `docs/audit.md`.

mod chain;
mod cover;
mod intake;
mod limit;
mod line;
mod record;
mod report;
mod verify;

pub use chain::{Chain, Hash, HashError, Head, checkpoint_holds, fingerprint};
pub use cover::UNSIGNED_LINES_MAX;
pub use intake::{Intake, Judged};
pub use limit::{Alike, Limiter, Payer, Peer, Sort, Summary, topic_class};
pub use line::{Line, LineError};
pub use record::{Record, event};
pub use report::{Finding, FindingKind, Note, Report, Signed};
pub use verify::{Expected, Verifier};
