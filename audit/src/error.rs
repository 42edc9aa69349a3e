//! Why the audit log cannot be opened or written.

use midge_pki::{KeyFileError, SignError};
use std::path::PathBuf;

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A file of the log.
    #[error("cannot use the audit log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key that signs checkpoints.
    #[error("key of the audit log: {0}")]
    Key(#[from] KeyFileError),
    /// The key does not sign.
    #[error("key of the audit log: {0}")]
    Sign(#[from] SignError),
    /// A copied log has branched too often.
    #[error("{dir} has {max} branches of an audit log already: find out why, and move the directory away")]
    Branches {
        /// Directory of the copy.
        dir: PathBuf,
        /// How many it may have.
        max: u32,
    },
    /// The file with the last checkpoint.
    #[error("last checkpoint of the audit log: {0}")]
    Head(#[from] midge_pki::FileError),
}

impl AuditError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
