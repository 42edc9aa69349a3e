//! Where the log is, and its bounds.

use midge_runtime::Clock;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How the log is to be written.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The file that is written, such as `audit.jsonl`; older ones stand beside it.
    pub path: PathBuf,
    /// The key that signs checkpoints; made when it is missing. Beside it, with the extension `head`, stands
    /// the last checkpoint, so that a log that was cut is found out.
    pub key: PathBuf,
    /// Sizes and times.
    pub bounds: Bounds,
    /// Time of the records about the log itself.
    pub clock: Clock,
}

impl AuditConfig {
    /// Returns a log with its key beside it and the default bounds.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            key: path.with_extension("key"),
            bounds: Bounds::default(),
            clock: Clock::system(),
        }
    }
}

/// Sizes and times of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Bounds {
    /// Bytes of one file before the next is begun.
    pub file_bytes_max: u64,
    /// Seconds before the next file is begun, however small this one is.
    pub file_age_max_secs: u32,
    /// Bytes of all files together: the oldest are deleted before there are more.
    pub total_bytes_max: u64,
    /// Longest time in seconds that a line waits for a signed checkpoint on stable storage.
    pub checkpoint_secs: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            file_bytes_max: 16 * 1024 * 1024,
            file_age_max_secs: 86_400,
            total_bytes_max: 256 * 1024 * 1024,
            checkpoint_secs: 10,
        }
    }
}
