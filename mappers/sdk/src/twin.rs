//! KubeEdge's twin documents as a mapper writes and reads them.

use bridge_core::twin::MsgTwin;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use thiserror::Error;

/// Largest document that is parsed, in bytes: a twin of a hundred keys is a tenth of it.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// Returns the document that reports a state, such as `online`.
pub fn state_update(state: &str) -> Vec<u8> {
    json!({ "event_id": "", "timestamp": 0, "state": state }).to_string().into_bytes()
}

/// Returns the document that asks for the twin; the answer carries the same event id.
pub fn twin_get(event_id: &str) -> Vec<u8> {
    json!({ "event_id": event_id, "timestamp": 0 }).to_string().into_bytes()
}

/// Returns the document that reports actual values by twin key.
pub fn twin_update<'a>(event_id: &str, actual: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let twin: Map<String, Value> = actual
        .into_iter()
        .map(|(key, value)| {
            (key.to_owned(), json!({ "actual": { "value": value }, "metadata": { "type": "Updated" } }))
        })
        .collect();
    json!({ "event_id": event_id, "timestamp": 0, "twin": twin }).to_string().into_bytes()
}

/// A document that a mapper receives about a twin.
#[derive(Clone, Debug, PartialEq)]
pub enum TwinDocument {
    /// Keys with their desired and actual values.
    Twin(TwinChange),
    /// The request was refused.
    Failure(TwinFailure),
}

/// What is known of a twin.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TwinChange {
    /// Event id of the request that is answered; empty in deltas.
    pub event_id: String,
    /// Desired values by key.
    pub desired: BTreeMap<String, String>,
    /// Last reported values by key.
    pub actual: BTreeMap<String, String>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {reason}")]
pub struct TwinFailure {
    /// As in HTTP: 400 bad request, 404 no such device, 500.
    pub code: i64,
    /// Text.
    pub reason: String,
}

/// Why a document was not understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Larger than any twin.
    #[error("twin document of {0} bytes is too large")]
    TooLarge(usize),
    /// No JSON of the expected form.
    #[error("not a twin document: {0}")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    code: i64,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    twin: Option<BTreeMap<String, Option<MsgTwin>>>,
    #[serde(default)]
    delta: Option<BTreeMap<String, String>>,
}

impl TwinDocument {
    /// Parses a result or a delta.
    ///
    /// # Errors
    /// When it is too large, or no JSON of that form.
    pub fn parse(payload: &[u8]) -> Result<Self, DocumentError> {
        if payload.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge(payload.len()));
        }
        let wire: Wire = serde_json::from_slice(payload)?;
        if wire.code != 0 {
            return Ok(Self::Failure(TwinFailure { code: wire.code, reason: wire.reason }));
        }
        let mut change = TwinChange { event_id: wire.event_id, ..TwinChange::default() };
        for (key, twin) in wire.twin.unwrap_or_default() {
            let Some(twin) = twin else { continue };
            if let Some(value) = twin.expected_value() {
                change.desired.insert(key.clone(), value.to_owned());
            }
            if let Some(value) = twin.actual_value() {
                change.actual.insert(key, value.to_owned());
            }
        }
        // A delta says what is wanted now, also where its twin leaves it out.
        change.desired.extend(wire.delta.unwrap_or_default());
        Ok(Self::Twin(change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_what_kubeedge_reads() {
        let text = |document: Vec<u8>| String::from_utf8(document).unwrap();
        assert_eq!(text(state_update("online")), r#"{"event_id":"","state":"online","timestamp":0}"#);
        assert_eq!(text(twin_get("x")), r#"{"event_id":"x","timestamp":0}"#);
        assert_eq!(
            text(twin_update("", [("power-status", "ON")])),
            r#"{"event_id":"","timestamp":0,"twin":{"power-status":{"actual":{"value":"ON"},"metadata":{"type":"Updated"}}}}"#
        );
        assert_eq!(
            text(twin_update("\"", [("k", "\"}")])),
            r#"{"event_id":"\"","timestamp":0,"twin":{"k":{"actual":{"value":"\"}"},"metadata":{"type":"Updated"}}}}"#
        );
    }

    #[test]
    fn a_get_result_gives_desired_and_actual() {
        let change = twin(
            r#"{"event_id":"x","timestamp":1,"twin":{"power-status":{"expected":{"value":"ON","metadata":{"timestamp":1}},
               "actual":{"value":"OFF"},"optional":true,"metadata":{"type":"string"}},"gpio":{"actual":{"value":"18"}},"gone":null}}"#,
        );
        assert_eq!(change.event_id, "x");
        assert_eq!(change.desired, BTreeMap::from([("power-status".into(), "ON".into())]));
        assert_eq!(change.actual.get("gpio").map(String::as_str), Some("18"));
        assert_eq!(change.actual.len(), 2);
    }

    #[test]
    fn a_delta_gives_what_is_wanted_now() {
        let change = twin(
            r#"{"event_id":"","timestamp":1,"twin":{"power-status":{"expected":{"value":"OFF"},"actual":{"value":"OFF"}}},"delta":{"power-status":"ON"}}"#,
        );
        assert_eq!(change.desired.get("power-status").map(String::as_str), Some("ON"));
    }

    #[test]
    fn a_refusal_is_told_apart() {
        let document =
            TwinDocument::parse(br#"{"event_id":"","timestamp":5,"code":404,"reason":"no device"}"#).unwrap();
        assert_eq!(document, TwinDocument::Failure(TwinFailure { code: 404, reason: "no device".into() }));
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for bad in [
            "",
            "[]x",
            "\"text\"",
            r#"{"twin":[]}"#,
            r#"{"delta":{"k":1}}"#,
            r#"{"twin":{"k":{"actual":{"value":7}}}}"#,
        ] {
            assert!(TwinDocument::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(matches!(TwinDocument::parse(&vec![b' '; 300_000]), Err(DocumentError::TooLarge(300_000))));
        let deep = "[".repeat(100_000);
        assert!(TwinDocument::parse(format!(r#"{{"x":{deep}"#).as_bytes()).is_err());
    }

    fn twin(text: &str) -> TwinChange {
        match TwinDocument::parse(text.as_bytes()).unwrap() {
            TwinDocument::Twin(change) => change,
            TwinDocument::Failure(failure) => panic!("{failure}"),
        }
    }
}
