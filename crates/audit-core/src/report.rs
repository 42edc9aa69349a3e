//! What a verification has found.

use crate::chain::{Hash, Head};
use midge_identity::UnixMillis;
use serde::Serialize;

/// What a log is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Which log; empty when no line says it.
    pub log: String,
    /// Fingerprint of the key that the checkpoints were verified with; empty when there was none.
    pub key: String,
    /// Whether the key is only the log's own word: nobody else named it.
    pub key_is_own_word: bool,
    /// Files read.
    pub files: u64,
    /// Lines read.
    pub lines: u64,
    /// Number of the first line.
    pub first: u64,
    /// The last line.
    pub last: Option<Head>,
    /// Valid checkpoints.
    pub checkpoints: u64,
    /// The last valid checkpoint: everything up to here is vouched for.
    pub signed: Option<Signed>,
    /// Lines after it: chained, and not signed yet.
    pub unsigned: u64,
    /// Lines that no checkpoint proves: those, and others that a start found unsigned, which is told in a note. Whoever
    /// could write the files then may have written them.
    pub unproven: u64,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// Findings beyond the limit of the list.
    pub more_findings: u64,
    /// What is worth knowing and not wrong: gaps, repairs, files deleted for the bound.
    pub notes: Vec<Note>,
}

impl Report {
    /// Tells whether nothing is wrong. It says nothing of lines that are unproven, nor of a key that nobody else names.
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signed {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// When it was written, in milliseconds since the epoch.
    #[serde(serialize_with = "millis")]
    pub at: UnixMillis,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn millis<S: serde::Serializer>(at: &UnixMillis, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(at.0)
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// File; empty when it concerns the log as a whole.
    pub file: String,
    /// Line in the file, from 1; 0 when it concerns the file or the log as a whole.
    pub line: u64,
    /// Number of the line in the log, where it is known.
    pub seq: Option<u64>,
    /// What kind.
    pub kind: FindingKind,
    /// What, in words.
    pub text: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Lines are missing.
    Missing,
    /// A line is not what was written.
    Changed,
    /// A line stands where it does not belong, or twice.
    Order,
    /// A checkpoint's signature does not hold.
    Signature,
    /// The log is signed with another key, or it is another log.
    Foreign,
    /// The end is missing.
    Truncated,
    /// The note of the last checkpoint is missing: nobody can tell whether the end is.
    HeadMissing,
    /// The note of the last checkpoint names no line that the key has signed.
    HeadInvalid,
    /// No checkpoint covers what one should cover: anybody may have written it.
    Unsigned,
}

/// Something worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Number of the line that says it.
    pub seq: u64,
    /// What.
    pub text: String,
}
