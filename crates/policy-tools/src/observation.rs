//! What identities were seen to do: lines of JSON, as a log has them.

use crate::explain::qos;
use crate::model::Ruleset;
use crate::request::{Decision, Request, Verb};
use midge_identity::SpiffeId;
use serde::{Deserialize, Serialize};

/// Something that an identity did, once or more often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observation {
    /// Who.
    #[serde(serialize_with = "id_text", deserialize_with = "read_id")]
    pub identity: SpiffeId,
    /// What.
    pub action: Verb,
    /// Where; the filter of a subscription may begin with `$share/<group>/`.
    #[serde(alias = "filter")]
    pub topic: String,
    /// Highest quality of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// Whether a publication was retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Longest payload in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<u32>,
    /// How often.
    #[serde(default = "once")]
    pub count: u64,
}

fn id_text<S: serde::Serializer>(id: &SpiffeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn read_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SpiffeId, D::Error> {
    let text = String::deserialize(deserializer)?;
    SpiffeId::new(&text).map_err(|error| serde::de::Error::custom(format!("identity `{text}`: {error}")))
}

fn once() -> u64 {
    1
}

/// A line that is no observation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct ObservationError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: String,
}

impl Observation {
    /// Reads lines of JSON: observations, and the broker's audit log, of which subscriptions count and,
    /// with `denied`, what was refused. Other audit events are passed over.
    ///
    /// # Errors
    /// The first line that is neither.
    pub fn read(text: &str, denied: bool) -> Result<Vec<Self>, ObservationError> {
        let mut found = Vec::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |fault: String| ObservationError { line, fault };
            let value: serde_json::Value =
                serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?;
            let audited = value.get("event").and_then(serde_json::Value::as_str).map(str::to_owned);
            let value = match audited {
                None => value,
                Some(event) => match (audited_action(&event, denied), value) {
                    (Some(action), serde_json::Value::Object(record)) => {
                        let kept = ["identity", "topic", "filter", "qos"];
                        let mut record: serde_json::Map<_, _> =
                            record.into_iter().filter(|(key, _)| kept.contains(&key.as_str())).collect();
                        record.insert("action".into(), action.name().into());
                        record.into()
                    }
                    _ => continue,
                },
            };
            let seen: Self = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
            Request::new(seen.action, &seen.topic)
                .map_err(|error| wrong(format!("`{}`: {error}", seen.topic)))?;
            found.push(seen);
        }
        Ok(found)
    }

    /// Returns the request that this was.
    pub(crate) fn request(&self) -> Option<Request> {
        Some(Request {
            qos: self.qos.and_then(qos).unwrap_or_default(),
            retain: self.retain.unwrap_or_default(),
            payload_len: self.payload.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default(),
            ..Request::new(self.action, &self.topic).ok()?
        })
    }

    /// Tells whether a policy lets it happen again, at the same quality of service.
    pub(crate) fn is_allowed(&self, rules: &Ruleset) -> bool {
        let Some(request) = self.request() else { return false };
        let Decision { allowed, granted_qos, .. } = request.decide(rules, &self.identity);
        allowed && granted_qos.is_none_or(|granted| granted >= request.qos as u8)
    }
}

fn audited_action(event: &str, denied: bool) -> Option<Verb> {
    match event {
        "subscribed" => Some(Verb::Subscribe),
        "subscribe-denied" if denied => Some(Verb::Subscribe),
        "publish-denied" if denied => Some(Verb::Publish),
        "will-denied" if denied => Some(Verb::Will),
        "receive-denied" if denied => Some(Verb::Receive),
        _ => None,
    }
}
