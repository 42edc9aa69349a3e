//! The embedded store: one file, atomic batches of text keys and byte values, prefix scans.
//!
//! Owns durability: a committer thread groups whatever batches are waiting into one SQLite
//! transaction and acknowledges them only after COMMIT has returned. Owns the refusal of files
//! it must not touch: another role's, another trust domain's, a newer format's, a damaged one,
//! one in use, one that others may read. Leaves the meaning of keys and values to its users.

mod batch;
mod committer;
mod create;
mod error;
mod limits;
mod open;
mod reader;
mod store;

pub use batch::{Batch, Durability};
pub use error::{OpenError, StoreError};
pub use limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use store::{Store, StoreInfo, StoreOptions, StoreSnapshot};
