//! One line as it is read back.

use crate::chain::Hash;
use midge_identity::UnixMillis;
use serde_json::{Map, Value};

/// Why a line is none of an audit log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not JSON, or no object.
    #[error("not an object of JSON: {0}")]
    Json(String),
    /// A key that every line has is missing or of the wrong type.
    #[error("without a valid \"{0}\"")]
    Key(&'static str),
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its number, from 1.
    pub seq: u64,
    /// Hash of the line before it.
    pub prev: Hash,
    /// When.
    pub at: UnixMillis,
    /// What happened.
    pub event: String,
    /// The details.
    pub details: Map<String, Value>,
}

impl Line {
    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// It is not JSON or lacks one of the four keys that every line has.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        let parsed: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| LineError::Json(error.to_string()))?;
        let mut details = parsed;
        let mut take = |key: &'static str| details.remove(key).ok_or(LineError::Key(key));
        let seq = take("seq")?.as_u64().filter(|seq| *seq > 0).ok_or(LineError::Key("seq"))?;
        let prev = take("prev")?.as_str().and_then(|text| text.parse().ok()).ok_or(LineError::Key("prev"))?;
        let at = take("at")?.as_u64().map(UnixMillis).ok_or(LineError::Key("at"))?;
        let Value::String(event) = take("event")? else { return Err(LineError::Key("event")) };
        Ok(Self { seq, prev, at, event, details })
    }

    /// Returns a detail that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.details.get(key)?.as_str()
    }

    /// Returns a detail that is a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.details.get(key)?.as_u64()
    }
}
