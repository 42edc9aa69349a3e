//! What identities were seen to do: lines of JSON, as a log has them.

use crate::decision::Decision;
use crate::explain::qos;
use crate::model::Ruleset;
use crate::request::{Request, Verb};
use midge_identity::SpiffeId;
use mqtt_proto::{TopicFilter, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

type Map = serde_json::Map<String, Value>;

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
    /// Response Topics that publications named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_topics: Vec<String>,
    /// Where not all that a subscription asked for was granted: the filters that were, without exception. What else came of
    /// it are observations of their own.
    #[serde(default, alias = "granted", skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<String>>,
    /// Share group that a message was received for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
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

/// What lines of a file tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// What was seen.
    pub seen: Vec<Observation>,
    /// How many times something was done that the audit log only counts, has lost, or has clipped, or at a topic that
    /// cannot stand in a rule: rules learned from the rest may refuse it.
    pub left_out: u64,
}

impl Observed {
    fn audited(&mut self, record: Map, denied: bool) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let number = |key: &str| record.get(key).and_then(Value::as_u64).unwrap_or(1);
        match text("event").unwrap_or_default() {
            "repeated" if text("of").is_some_and(|of| audited_action(of, denied).is_some()) => {
                self.left_out += number("count");
            }
            "gap" => self.left_out += number("lost"),
            // By rule; where, is in no log.
            "disconnected" => {
                let published = record.get("published").and_then(Value::as_object).into_iter().flatten();
                let counts = published.filter_map(|(_, count)| count.as_u64());
                self.left_out = counts.fold(self.left_out, u64::saturating_add);
            }
            event => {
                let Some(action) = audited_action(event, denied) else { return Ok(()) };
                let parts = record.get("granted").and_then(Value::as_array).into_iter().flatten();
                let mut texts =
                    text("topic").into_iter().chain(text("filter")).chain(parts.filter_map(Value::as_str));
                if texts.any(is_clipped) {
                    self.left_out += 1;
                    return Ok(());
                }
                let kept = ["identity", "topic", "filter", "granted", "qos"];
                let mut kept: Map =
                    record.into_iter().filter(|(key, _)| kept.contains(&key.as_str())).collect();
                kept.insert("action".into(), action.name().into());
                self.add(kept.into())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, value: Value) -> Result<(), String> {
        let seen: Observation = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let invalid = |text: &str, error: &dyn fmt::Display| format!("`{text}`: {error}");
        Request::new(seen.action, &seen.topic).map_err(|error| invalid(&seen.topic, &error))?;
        for part in seen.parts.iter().flatten() {
            TopicFilter::new(part).map_err(|error| invalid(part, &error))?;
        }
        for topic in &seen.response_topics {
            TopicName::new(topic.as_str()).map_err(|error| invalid(topic, &error))?;
        }
        if let Some(wrong) = seen.qos.filter(|qos| *qos > 2) {
            return Err(format!("qos {wrong}: 0 to 2"));
        }
        let is_any_group = seen.group.as_deref() == Some("*")
            || (seen.action == Verb::Subscribe && seen.topic.starts_with("$share/*/"));
        if is_any_group || seen.texts().any(|text| text.contains(['{', '}'])) {
            // There is no way to write it in a rule: it would be a capture, or any share group. Any client can publish there,
            // and call its group so.
            self.left_out += seen.count;
        } else {
            self.seen.push(seen);
        }
        Ok(())
    }
}

/// The audit log writes no more than the start of a long text.
fn is_clipped(text: &str) -> bool {
    text.rsplit_once("… (").is_some_and(|(start, end)| start.len() >= 2_000 && end.ends_with(" bytes)"))
}

impl Observation {
    /// Reads lines of JSON: observations, and the broker's audit log, of which subscriptions count and,
    /// with `denied`, what was refused. Other audit events are passed over, and so is a last line that is not
    /// whole: a log may be read while it is written.
    ///
    /// # Errors
    /// The first line that is neither.
    pub fn read(text: &str, denied: bool) -> Result<Observed, ObservationError> {
        let mut found = Observed::default();
        let last = text.lines().count();
        for (line, content) in (1..).zip(text.lines()).filter(|(_, content)| !content.trim().is_empty()) {
            let wrong = |fault: String| ObservationError { line, fault };
            let value: Value = match serde_json::from_str(content) {
                Ok(value) => value,
                Err(error) if error.is_eof() && line == last && line > 1 && !text.ends_with('\n') => break,
                Err(error) => return Err(wrong(format!("not JSON: {error}"))),
            };
            let read = match value {
                Value::Object(record) if record.contains_key("event") => found.audited(record, denied),
                other => found.add(other),
            };
            read.map_err(wrong)?;
        }
        Ok(found)
    }

    /// Returns all texts that may stand in a rule.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let parts = self.parts.iter().flatten();
        let group = self.group.iter();
        std::iter::once(&self.topic)
            .chain(&self.response_topics)
            .chain(parts)
            .chain(group)
            .map(String::as_str)
    }

    /// Returns the request that this was, without a Response Topic.
    pub(crate) fn request(&self) -> Option<Request> {
        Some(Request {
            qos: self.qos.and_then(qos).unwrap_or_default(),
            retain: self.retain.unwrap_or_default(),
            payload_len: self.payload.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default(),
            ..Request::new(self.action, &self.topic).ok()?
        })
    }

    /// Tells whether a policy lets it happen again, at the same quality of service and with each Response Topic.
    pub(crate) fn is_allowed(&self, rules: &Ruleset) -> bool {
        let Some(request) = self.request() else { return false };
        let is_allowed = |request: &Request| {
            let Decision { allowed, granted_qos, .. } = request.decide(rules, &self.identity);
            allowed && granted_qos.is_none_or(|granted| granted >= request.qos as u8)
        };
        let naming = |topic: &String| {
            let response_topic = TopicName::new(topic.as_str()).ok();
            response_topic.is_some() && is_allowed(&Request { response_topic, ..request.clone() })
        };
        is_allowed(&request) && self.response_topics.iter().all(naming)
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = concat!(
        r#"{"seq":1,"prev":"00","at":1,"event":"log-created","format":1,"log":"a","public-key":"x"}"#,
        "\n",
        r#"{"seq":2,"prev":"9a","at":2,"event":"subscribed","identity":"spiffe://td/x","client-id":"c","connection":1,"filter":"$share/g/a/#","qos":1,"rule":"r"}"#,
        "\n",
        r#"{"seq":3,"prev":"9b","at":3,"event":"publish-denied","identity":"spiffe://td/x","connection":1,"topic":"b","reason":"no rule"}"#,
        "\n",
        r#"{"seq":4,"prev":"9c","at":4,"event":"repeated","of":"publish-denied","identity":"spiffe://td/x","class":"b","count":7,"since":1,"until":2}"#,
        "\n",
    );

    #[test]
    fn the_audit_log_is_read_with_what_it_leaves_out() {
        let read = Observation::read(HEAD, false).unwrap();
        assert_eq!((read.seen.len(), read.left_out), (1, 0));
        assert_eq!((&*read.seen[0].topic, read.seen[0].qos), ("$share/g/a/#", Some(1)));
        let read = Observation::read(HEAD, true).unwrap();
        assert_eq!((read.seen.len(), read.left_out), (2, 7));
        let gap = format!("{HEAD}{}\n", r#"{"seq":5,"prev":"9d","at":5,"event":"gap","lost":3}"#);
        assert_eq!(Observation::read(&gap, false).unwrap().left_out, 3);
        let ended = r#"{"seq":5,"at":5,"event":"disconnected","identity":"spiffe://td/x","published":{"r":4,"s":1},"denied":{"no rule":2}}"#;
        let read = Observation::read(&format!("{HEAD}{ended}\n"), false).unwrap();
        assert_eq!((read.seen.len(), read.left_out), (1, 5), "where it published is in no log");
    }

    #[test]
    fn a_text_that_was_clipped_teaches_nothing() {
        let line = |filter: &str| {
            format!(r#"{{"event":"subscribed","identity":"spiffe://td/x","filter":"{filter}","qos":0}}"#)
        };
        let clipped = line(&format!("{}… (4000 bytes)", "a".repeat(2_048)));
        let read = Observation::read(&clipped, false).unwrap();
        assert_eq!((read.seen.len(), read.left_out), (0, 1));
        assert_eq!(Observation::read(&line("a… (4000 bytes)"), false).unwrap().seen.len(), 1, "its own name");
    }

    #[test]
    fn a_last_line_may_be_torn_and_no_other() {
        let torn = format!("{HEAD}{}", r#"{"seq":5,"prev":"9d","at":5,"event":"subscr"#);
        assert_eq!(Observation::read(&torn, false).unwrap().seen.len(), 1);
        let error = Observation::read(&format!("{torn}\n"), false).unwrap_err();
        assert_eq!(error.line, 5);
        assert!(Observation::read("{\"ev", false).is_err(), "what begins so is no log");
    }
}
