//! One record: when, what, and the details.

use midge_identity::UnixMillis;
use serde_json::Value;

/// Longest text in a record, in bytes: a peer chooses client ids, topics and filters.
const TEXT_BYTES_MAX: usize = 2_048;
/// Most items of a list in a record.
const LIST_MAX: usize = 64;
/// Keys that the chain gives to every line itself.
const RESERVED: [&str; 4] = ["seq", "prev", "at", "event"];

/// Names of the records that the log writes about itself.
pub mod event {
    /// First line of a log: its number, its key.
    pub const CREATED: &str = "log-created";
    /// First line of every later file: number and key again.
    pub const OPENED: &str = "file-opened";
    /// The log goes on after a stop or a crash.
    pub const RESUMED: &str = "log-resumed";
    /// The key is another one from here on.
    pub const KEY_CHANGED: &str = "key-changed";
    /// A torn last line was removed.
    pub const REPAIRED: &str = "log-repaired";
    /// Signed lines were missing when the log was opened.
    pub const TAIL_MISSING: &str = "tail-missing";
    /// The note of the last checkpoint was missing when the log was opened.
    pub const HEAD_MISSING: &str = "head-missing";
    /// The note of the last checkpoint named no line that the key has signed when the log was opened.
    pub const HEAD_INVALID: &str = "head-invalid";
    /// The oldest files were deleted to stay within the bound.
    pub const TRIMMED: &str = "log-trimmed";
    /// Events were lost before they were written.
    pub const GAP: &str = "gap";
    /// Events like earlier ones, counted and not written.
    pub const REPEATED: &str = "repeated";
    /// All lines up to here are vouched for by a signature.
    pub const CHECKPOINT: &str = "checkpoint";
}

/// An event that is not part of the chain yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it happened.
    pub at: UnixMillis,
    /// What happened: a name of lower-case words with dashes.
    pub event: &'static str,
    details: Vec<(&'static str, Value)>,
}

impl Record {
    /// Returns a record without details.
    pub fn new(at: UnixMillis, event: &'static str) -> Self {
        Self { at, event, details: Vec::new() }
    }

    /// Adds a detail. Null and the keys of the chain itself are left out, long texts and lists are clipped.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() && !RESERVED.contains(&key) {
            self.details.push((key, clipped(value)));
        }
        self
    }

    /// Returns the details in the order they were added.
    pub fn details(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.details.iter().map(|(key, value)| (*key, value))
    }

    /// Returns one detail.
    pub fn detail(&self, key: &str) -> Option<&Value> {
        self.details().find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

fn clipped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clipped_text(text)),
        Value::Array(mut items) => {
            let more = items.len().saturating_sub(LIST_MAX);
            items.truncate(LIST_MAX);
            let mut items: Vec<Value> = items.into_iter().map(clipped).collect();
            if more > 0 {
                items.push(Value::String(format!("… {more} more")));
            }
            Value::Array(items)
        }
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, clipped(value))).collect(),
        other => other,
    }
}

fn clipped_text(text: String) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_peer_chooses_is_clipped() {
        let record = Record::new(UnixMillis(1), "x")
            .with("topic", "ä".repeat(40_000))
            .with("list", (0..1_000).collect::<Vec<_>>());
        assert_eq!(record.detail("topic").unwrap().as_str().unwrap().len(), 2_048 + "… (80000 bytes)".len());
        let list = record.detail("list").unwrap().as_array().unwrap();
        assert_eq!((list.len(), &list[64]), (65, &json!("… 936 more")));
    }

    #[test]
    fn a_detail_can_neither_be_null_nor_stand_for_the_chain() {
        let record =
            Record::new(UnixMillis(1), "x").with("seq", 9).with("prev", "a").with("rule", Value::Null);
        assert_eq!(record.details().count(), 0);
    }
}
