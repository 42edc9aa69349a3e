//! The audit log of a box on its way to the cloud, as content of messages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Resource of the messages: a query asks how far the cloud is, an insert brings lines.
pub(crate) const AUDIT_RESOURCE: &str = "identity/audit";

/// A line of an audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPlace {
    /// Which log.
    pub log: String,
    /// Number of the line.
    pub seq: u64,
    /// SHA-256 of the line, lower-case hex.
    pub hash: String,
}

/// Lines that follow each other in a box's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBatch {
    /// Which log they are of.
    pub log: String,
    /// What the cloud has said it has last: it takes them only as long as that is so, and a late copy is
    /// none the worse.
    pub after: Option<AuditPlace>,
    /// The lines as they are in the file, without newlines.
    pub lines: Vec<String>,
}

/// What a box asks of the cloud about its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditRequest {
    /// How far the cloud is.
    Place,
    /// To keep these lines.
    Append(AuditBatch),
}

impl AuditBatch {
    pub(crate) fn content(&self) -> Value {
        // Plain data with text keys: encoding it cannot fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Reads the cloud's answer.
pub(crate) fn place_of(content: &Value) -> Result<Option<AuditPlace>, String> {
    serde_json::from_value(content.clone()).map_err(|error| error.to_string())
}

pub(crate) fn content_of(place: Option<&AuditPlace>) -> Value {
    serde_json::to_value(place).unwrap_or_default()
}
