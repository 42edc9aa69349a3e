//! KubeEdge's `model.Message` and its JSON, byte for byte.
//!
//! Owns the encoding of one message and the messages that both ends build. Leaves frames to the shell.

use crate::{DecodeError, MessageIds, Now};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Operations of a [`Route`].
#[expect(missing_docs, reason = "the values are KubeEdge's own words")]
pub mod operation {
    pub const INSERT: &str = "insert";
    pub const DELETE: &str = "delete";
    pub const QUERY: &str = "query";
    pub const UPDATE: &str = "update";
    pub const UPLOAD: &str = "upload";
    pub const RESPONSE: &str = "response";
    pub const ERROR: &str = "error";
    pub const KEEPALIVE: &str = "keepalive";
    pub const PING: &str = "ping";
    pub const PONG: &str = "pong";
    pub const CONFIG: &str = "config";
}

/// One message of the channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Identification.
    #[serde(default)]
    pub header: Header,
    /// What it is about.
    #[serde(default)]
    pub route: Route,
    /// Any JSON; Go's `[]byte` is a base64 string.
    #[serde(default)]
    pub content: Value,
}

/// Identification of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// UUID of this message.
    #[serde(rename = "msg_id", default)]
    pub id: String,
    /// UUID of the message that this one answers, or empty.
    #[serde(rename = "parent_msg_id", default, skip_serializing_if = "String::is_empty")]
    pub parent_id: String,
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub timestamp: i64,
    /// Revision of the resource, or empty.
    #[serde(rename = "resourceversion", default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The sender waits for the answer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync: bool,
    /// KubeEdge's message type, or empty.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Midge's own: the revision that this one follows, so that the receiver sees a gap.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub after: String,
}

/// What a message is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Module that sent it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Module it is for, mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination: String,
    /// Group of modules that handle it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// What to do, see [`operation`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// On what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Route {
    /// Returns a route without destination.
    pub fn new(source: &str, group: &str, operation: &str, resource: impl Into<String>) -> Self {
        Self {
            source: source.to_owned(),
            destination: String::new(),
            group: group.to_owned(),
            operation: operation.to_owned(),
            resource: resource.into(),
        }
    }
}

impl Message {
    /// Returns a message with a fresh id.
    pub fn new(ids: &mut MessageIds, now: Now, route: Route, content: Value) -> Self {
        let header = Header { id: ids.next_id(), timestamp: timestamp(now), ..Header::default() };
        Self { header, route, content }
    }

    /// Returns the edge's sign of life.
    pub fn keepalive(ids: &mut MessageIds, now: Now) -> Self {
        Self::new(ids, now, Route::new("websocket", "resource", operation::KEEPALIVE, "node"), "ping".into())
    }

    /// Returns the answer `content` to this message: same source, group and resource (Go's `NewRespByMessage`).
    #[must_use]
    pub fn response(&self, ids: &mut MessageIds, now: Now, content: Value) -> Self {
        self.answer(ids, now, operation::RESPONSE, content)
    }

    /// Returns the acknowledgement of this message.
    #[must_use]
    pub fn ack(&self, ids: &mut MessageIds, now: Now) -> Self {
        self.response(ids, now, "OK".into())
    }

    /// Returns the refusal of this message; the sender keeps trying.
    #[must_use]
    pub fn error(&self, ids: &mut MessageIds, now: Now, reason: &str) -> Self {
        self.answer(ids, now, operation::ERROR, reason.into())
    }

    fn answer(&self, ids: &mut MessageIds, now: Now, operation: &str, content: Value) -> Self {
        let route = Route::new(&self.route.source, &self.route.group, operation, self.route.resource.clone());
        let mut answer = Self::new(ids, now, route, content);
        answer.header.parent_id.clone_from(&self.header.id);
        answer
    }

    /// Tells whether this is an operation that the transport itself answers with `"ack"`.
    pub fn is_probe(&self) -> bool {
        matches!(self.route.operation.as_str(), operation::PING | operation::PONG | operation::CONFIG)
    }

    /// Revision in the header, when it is a number.
    pub fn revision(&self) -> Option<u64> {
        self.header.resource_version.parse().ok()
    }

    /// Returns what the content holds of the memory in bytes, about: lists of short values take many times the bytes
    /// that they have as text.
    pub fn weight(&self) -> usize {
        weight_of(&self.content).saturating_add(self.route.resource.len())
    }

    /// Encodes as Go's `json.Encoder` does: `<`, `>`, `&`, U+2028 and U+2029 escaped, newline at the end.
    ///
    /// # Errors
    /// When the content cannot be encoded, which a [`Value`] always can.
    pub fn encode(&self) -> Result<String, serde_json::Error> {
        let mut text = escape_html(&serde_json::to_string(self)?);
        text.push('\n');
        Ok(text)
    }

    /// Decodes a text or binary frame of at most `limit` bytes.
    ///
    /// # Errors
    /// When it is too long or not a message.
    pub fn decode(bytes: &[u8], limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLong { bytes: bytes.len(), limit });
        }
        // serde would also take the fields from a list.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(DecodeError::NoObject);
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

// Decoding has bounded how deep it is.
fn weight_of(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight_of).fold(0, usize::saturating_add),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                name.len().saturating_add(size_of::<String>()).saturating_add(weight_of(value))
            })
            .fold(0, usize::saturating_add),
    };
    inside.saturating_add(size_of::<Value>())
}

/// Encodes JSON text as Go does. These characters can only stand inside strings.
pub(crate) fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len().saturating_add(1));
    for character in json.chars() {
        match character {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            other => out.push(other),
        }
    }
    out
}

pub(crate) fn timestamp(now: Now) -> i64 {
    i64::try_from(now.wall.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixMillis;
    use sha2::{Digest, Sha256};
    use std::time::Duration;

    const NOW: Now = Now { mono: Duration::ZERO, wall: UnixMillis(1_700_000_000_123) };

    #[test]
    fn keepalive_is_the_captured_196_bytes() {
        let mut message = Message::keepalive(&mut MessageIds::new(1), NOW);
        message.header.id = "8a8e7d2c-1b2a-4c7e-9d55-0123456789ab".into();
        let text = message.encode().unwrap();
        assert_eq!(text.len(), 196);
        assert_eq!(
            hex::encode(Sha256::digest(text.as_bytes())),
            "edf86af3e7bc4196570bc585d0cefd483e67aea16f88d9e5cea6b988575db74c"
        );
        assert_eq!(Message::decode(text.as_bytes(), 196).unwrap(), message);
    }

    #[test]
    fn response_is_the_captured_one() {
        let asked = Message {
            header: Header { id: "11111111-2222-3333-4444-555555555555".into(), ..Header::default() },
            route: Route::new("x", "resource", "query", "n/r/1"),
            content: Value::Null,
        };
        let now = Now { wall: UnixMillis(1_795_339_942_894), ..NOW };
        let mut answer = asked.ack(&mut MessageIds::new(1), now);
        answer.header.id = "ede0f6b9-0000-4000-8000-000000000000".into();
        let text = answer.encode().unwrap();
        // The captured frame's header `81 7e 00 f1` announces 241 bytes.
        assert_eq!(text.len(), 0xf1);
        assert_eq!(
            text,
            "{\"header\":{\"msg_id\":\"ede0f6b9-0000-4000-8000-000000000000\",\"parent_msg_id\":\
             \"11111111-2222-3333-4444-555555555555\",\"timestamp\":1795339942894},\"route\":{\"source\":\"x\",\
             \"group\":\"resource\",\"operation\":\"response\",\"resource\":\"n/r/1\"},\"content\":\"OK\"}\n"
        );
    }

    #[test]
    fn captured_device_frame_survives_a_round_trip() {
        let frame = concat!(
            r#"{"header":{"msg_id":"d3ab2581-0000-4000-8000-000000000000","timestamp":1795340694742},"#,
            r#""route":{"source":"edgemgr","group":"twin","operation":"insert","resource":"membership"},"#,
            r#""content":{"added_devices":[{"Power_Status":"ON","description":"integrationtest","#,
            r#""id":"testdevice","name":"edgedevice","state":"online"}]}}"#,
            "\n"
        );
        assert_eq!(Message::decode(frame.as_bytes(), 4096).unwrap().encode().unwrap(), frame);
    }

    #[test]
    fn old_peers_send_empty_fields_and_none_at_all() {
        let frame = br#"{"header":{"msg_id":"a","parent_msg_id":"","timestamp":1,"sync":false},"route":{"group":""}}"#;
        let message = Message::decode(frame, 4096).unwrap();
        assert_eq!((message.header.id.as_str(), &message.content), ("a", &Value::Null));
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        let mut ids = MessageIds::new(1);
        let route = Route::new("s", "user", operation::UPLOAD, "a<b>&c");
        let message = Message::new(&mut ids, NOW, route, "\u{2028}\u{2029}<".into());
        let text = message.encode().unwrap();
        assert!(text.contains(r#""resource":"a\u003cb\u003e\u0026c""#), "{text}");
        assert!(text.ends_with("\"content\":\"\\u2028\\u2029\\u003c\"}\n"), "{text}");
        assert_eq!(Message::decode(text.as_bytes(), 4096).unwrap(), message);
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert!(matches!(Message::decode(b"{}  ", 3), Err(DecodeError::TooLong { bytes: 4, limit: 3 })));
        let deep = "[".repeat(100_000);
        for bad in ["", "x", "[]", "\u{0}", r#"{"header":{"timestamp":"x"}}"#, r#"{"route":[1]}"#, &deep] {
            assert!(Message::decode(bad.as_bytes(), 1 << 20).is_err(), "{:.40}", bad);
        }
    }

    #[test]
    fn a_message_weighs_what_its_content_holds() {
        let weight = |content: Value| {
            let route = Route::new("edgehub", "resource", "insert", "audit/a");
            Message { header: Header::default(), route, content }.weight()
        };
        let empty = weight(Value::Null);
        assert_eq!(weight("x".repeat(1000).into()), empty + 1000);
        let item = size_of::<Value>();
        assert_eq!(weight(vec![1; 1000].into()), empty + 1000 * item);
        let object = Value::Object([("name".to_owned(), Value::Null)].into_iter().collect());
        assert_eq!(weight(object), empty + item + 4 + size_of::<String>());
    }
}
