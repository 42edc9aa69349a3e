//! Decisions as they are made, gathered into observations to learn from.

use crate::observation::Observation;
use crate::request::Verb;
use midge_identity::SpiffeId;
use midge_policy::PublishFacts;
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::collections::BTreeMap;

/// Gathers what identities do, each different thing once with its count. Bounded: what finds no room
/// is counted and not kept.
#[derive(Debug)]
pub struct Observer {
    kept_max: usize,
    kept: BTreeMap<(SpiffeId, Verb, Box<str>), Seen>,
    left_out: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    qos: QoS,
    retain: bool,
    payload: usize,
    count: u64,
}

impl Observer {
    /// Returns an observer that keeps at most so many different things.
    pub fn new(kept_max: usize) -> Self {
        Self { kept_max, kept: BTreeMap::new(), left_out: 0 }
    }

    /// Sees a publication.
    pub fn publish(&mut self, id: &SpiffeId, topic: &TopicName, facts: PublishFacts<'_>) {
        self.see(id, Verb::Publish, topic.as_str(), facts);
    }

    /// Sees a will.
    pub fn will(&mut self, id: &SpiffeId, topic: &TopicName, facts: PublishFacts<'_>) {
        self.see(id, Verb::Will, topic.as_str(), facts);
    }

    /// Sees one filter of a SUBSCRIBE.
    pub fn subscribe(&mut self, id: &SpiffeId, filter: &SharedFilter, qos: QoS) {
        let text = match &filter.group {
            Some(group) => format!("$share/{group}/{}", filter.filter),
            None => filter.filter.to_string(),
        };
        self.see(id, Verb::Subscribe, &text, PublishFacts { qos, ..PublishFacts::default() });
    }

    fn see(&mut self, id: &SpiffeId, verb: Verb, subject: &str, facts: PublishFacts<'_>) {
        let key = (id.clone(), verb, subject.into());
        if self.kept.len() >= self.kept_max && !self.kept.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let seen = self.kept.entry(key).or_default();
        seen.qos = seen.qos.max(facts.qos);
        seen.retain |= facts.retain;
        seen.payload = seen.payload.max(facts.payload_len);
        seen.count += 1;
    }

    /// Returns how many things found no room: rules learned from the rest would refuse them.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Returns what was seen.
    pub fn observations(&self) -> impl Iterator<Item = Observation> {
        self.kept.iter().map(|((identity, action, topic), seen)| {
            let publishes = *action != Verb::Subscribe;
            Observation {
                identity: identity.clone(),
                action: *action,
                topic: topic.to_string(),
                qos: Some(seen.qos as u8),
                retain: publishes.then_some(seen.retain),
                payload: publishes.then(|| u32::try_from(seen.payload).unwrap_or(u32::MAX)),
                count: seen.count,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_twice_is_kept_once_with_the_most_it_asked_for() {
        let (id, topic) = (SpiffeId::new("spiffe://td/x").unwrap(), TopicName::new("a").unwrap());
        let mut observer = Observer::new(2);
        let facts = |qos, payload_len| PublishFacts { qos, payload_len, ..PublishFacts::default() };
        observer.publish(&id, &topic, facts(QoS::AtLeastOnce, 3));
        observer.publish(&id, &topic, facts(QoS::AtMostOnce, 7));
        observer.subscribe(&id, &SharedFilter::new("$share/g/a/#").unwrap(), QoS::AtMostOnce);
        observer.will(&id, &topic, facts(QoS::AtMostOnce, 0));
        assert_eq!(observer.left_out(), 1);
        let lines: Vec<String> =
            observer.observations().map(|seen| serde_json::to_string(&seen).unwrap()).collect();
        assert_eq!(
            lines,
            [
                r#"{"identity":"spiffe://td/x","action":"publish","topic":"a","qos":1,"retain":false,"payload":7,"count":2}"#,
                r#"{"identity":"spiffe://td/x","action":"subscribe","topic":"$share/g/a/#","qos":0,"count":1}"#,
            ]
        );
        assert_eq!(Observation::read(&lines.join("\n"), false).unwrap().len(), 2);
    }
}
