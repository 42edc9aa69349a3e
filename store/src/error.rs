//! Why a store was not opened, read or written.

use rusqlite::ErrorCode;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a store was not opened. The file is left as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another handle of this one, holds the file.
    #[error(
        "store {} is in use by another process{}; stop it first: one process per file",
        .path.display(),
        .pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
        /// The process that holds it, where it can be told.
        pid: Option<u32>,
    },
    /// Users other than the owner may read or write the file.
    #[error("store {} is open to other users (mode {mode:04o}); run: chmod 600 {}", .path.display(), .path.display())]
    Permissions {
        /// The store's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is a database of some other program.
    #[error(
        "{} is not a midge store (application id {application_id:#x}); choose another data directory",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What its header says.
        application_id: i32,
    },
    /// A newer version wrote the file.
    #[error(
        "store {} has format {found}, this program knows up to {supported}; install the version that wrote it or \
         a later one, or restore the copy made before the upgrade",
        .path.display()
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// Format found.
        found: i32,
        /// Newest format known.
        supported: i32,
    },
    /// The file is damaged.
    #[error(
        "store {} is damaged ({detail}); nothing was changed: restore it from a backup, or move it and its -wal file \
         away to start empty",
        .path.display()
    )]
    Corrupted {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The database is gone but its log is there: starting empty would lose what the log holds.
    #[error(
        "store {} is missing but its log {} is there; put the store file back, or move the log away to start empty",
        .path.display(),
        .log.display()
    )]
    OrphanLog {
        /// The store's file.
        path: PathBuf,
        /// Its write-ahead log.
        log: PathBuf,
    },
    /// The store belongs to another role.
    #[error(
        "store {} belongs to role {found:?}, not {wanted:?}; use that role's data directory, or an empty one",
        .path.display()
    )]
    OtherRole {
        /// The store's file.
        path: PathBuf,
        /// Role recorded in it.
        found: String,
        /// Role asked for.
        wanted: String,
    },
    /// The store belongs to another trust domain.
    #[error(
        "store {} belongs to trust domain {found:?}, not {wanted:?}; set trust-domain back, or use an empty data \
         directory",
        .path.display()
    )]
    OtherTrustDomain {
        /// The store's file.
        path: PathBuf,
        /// Trust domain recorded in it.
        found: String,
        /// Trust domain asked for.
        wanted: String,
    },
    /// The engine did not accept a setting that durability depends on.
    #[error("store {}: SQLite answered {setting}={found}, not {wanted}; this file system cannot hold a store", .path.display())]
    Setting {
        /// The store's file.
        path: PathBuf,
        /// Name of the setting.
        setting: &'static str,
        /// Value asked for.
        wanted: String,
        /// Value read back.
        found: String,
    },
    /// No space is left for the store.
    #[error("no space left for store {}; free some and start again", .path.display())]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// The operating system or the engine refused.
    #[error("cannot open store {}: {detail}", .path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: &std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { path: path.to_owned() };
        }
        Self::Io { path: path.to_owned(), detail: source.to_string() }
    }

    pub(crate) fn engine(path: &Path, source: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        match StoreError::from(source) {
            StoreError::Full => Self::Full { path },
            StoreError::Corrupted(detail) => Self::Corrupted { path, detail },
            other => Self::Io { path, detail: other.to_string() },
        }
    }
}

/// Why a read or a commit failed. After [`StoreError::Full`] and [`StoreError::Io`] the store
/// stays usable: reads go on, and commits succeed again once the cause is gone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, or the limit set for the store, is full; nothing of the batch was written.
    #[error("no space left for the store; free some")]
    Full,
    /// The operating system refused; nothing of the batch counts as written.
    #[error("store i/o failed: {0}")]
    Io(String),
    /// The engine found damage in the file.
    #[error("store is damaged: {0}; stop, and restore it from a backup")]
    Corrupted(String),
    /// A value is too large.
    #[error("value of {bytes} bytes is larger than {max}")]
    ValueTooLarge {
        /// Its size.
        bytes: usize,
        /// Largest allowed.
        max: usize,
    },
    /// A key is empty or too long.
    #[error("key of {bytes} bytes is not between 1 and {max}")]
    KeyLength {
        /// Its length.
        bytes: usize,
        /// Longest allowed.
        max: usize,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

impl From<&rusqlite::Error> for StoreError {
    fn from(error: &rusqlite::Error) -> Self {
        let Some(code) = error.sqlite_error_code() else { return Self::Io(error.to_string()) };
        match code {
            ErrorCode::DiskFull => Self::Full,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupted(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}
