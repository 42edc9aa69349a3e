//! Decisions as they are made, gathered into observations to learn from.

use crate::observation::Observation;
use crate::request::Verb;
use midge_identity::SpiffeId;
use midge_policy::Question;
use mqtt_proto::{QoS, SharedFilter};
use std::borrow::Cow;
use std::collections::HashMap;

/// What a kept thing costs beside its text.
const OVERHEAD: usize = 128;

/// Gathers what identities do, each different thing once with its count. Bounded: what finds no room
/// is counted and not kept.
#[derive(Debug)]
pub struct Observer {
    bytes_max: usize,
    bytes: usize,
    kept: HashMap<SpiffeId, HashMap<Verb, HashMap<Box<str>, Seen>>>,
    left_out: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    qos: QoS,
    retain: bool,
    payload: usize,
    count: u64,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.qos = self.qos.max(other.qos);
        self.retain |= other.retain;
        self.payload = self.payload.max(other.payload);
        self.count += 1;
    }
}

impl Observer {
    /// Returns an observer that keeps no more than about so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, kept: HashMap::new(), left_out: 0 }
    }

    /// Sees what an identity asks for. Deliveries are no wish of their own: they follow from
    /// subscriptions.
    pub fn see(&mut self, id: &SpiffeId, question: &Question<'_>) {
        let published = |qos, retain, payload| Seen { qos, retain, payload, count: 0 };
        match *question {
            Question::Publish { topic, facts } => {
                self.keep(
                    id,
                    Verb::Publish,
                    topic.as_str(),
                    published(facts.qos, facts.retain, facts.payload_len),
                );
            }
            Question::Will { topic, facts } => {
                self.keep(
                    id,
                    Verb::Will,
                    topic.as_str(),
                    published(facts.qos, facts.retain, facts.payload_len),
                );
            }
            Question::Subscribe { filter, qos, .. } => {
                self.keep(id, Verb::Subscribe, &spelled(filter), published(qos, false, 0));
            }
            Question::Receive { .. } => {}
        }
    }

    fn keep(&mut self, id: &SpiffeId, verb: Verb, subject: &str, seen: Seen) {
        let known = self.kept.get_mut(id).and_then(|verbs| verbs.get_mut(&verb)?.get_mut(subject));
        if let Some(known) = known {
            return known.add(seen);
        }
        let is_new = !self.kept.contains_key(id);
        let cost = subject.len() + OVERHEAD + if is_new { id.to_string().len() + OVERHEAD } else { 0 };
        if self.bytes + cost > self.bytes_max {
            self.left_out += 1;
            return;
        }
        self.bytes += cost;
        let subjects = self.kept.entry(id.clone()).or_default().entry(verb).or_default();
        subjects.entry(subject.into()).or_default().add(seen);
    }

    /// Returns how often something found no room: rules learned from the rest would refuse it.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Returns what was seen, in the order of identities, actions and topics.
    pub fn observations(&self) -> Vec<Observation> {
        let mut found: Vec<Observation> = self
            .kept
            .iter()
            .flat_map(|(id, verbs)| verbs.iter().map(move |(verb, subjects)| (id, *verb, subjects)))
            .flat_map(|(id, verb, subjects)| {
                subjects.iter().map(move |(subject, seen)| observation(id, verb, subject, seen))
            })
            .collect();
        found.sort_by(|a, b| (&a.identity, a.action, &a.topic).cmp(&(&b.identity, b.action, &b.topic)));
        found
    }
}

fn observation(id: &SpiffeId, action: Verb, subject: &str, seen: &Seen) -> Observation {
    let publishes = action != Verb::Subscribe;
    Observation {
        identity: id.clone(),
        action,
        topic: subject.to_owned(),
        qos: Some(seen.qos as u8),
        retain: publishes.then_some(seen.retain),
        payload: publishes.then(|| u32::try_from(seen.payload).unwrap_or(u32::MAX)),
        count: seen.count,
    }
}

/// Returns the filter as a client spells it.
fn spelled(filter: &SharedFilter) -> Cow<'_, str> {
    match &filter.group {
        Some(group) => format!("$share/{group}/{}", filter.filter).into(),
        None => filter.filter.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{PublishFacts, SubscribeMode};
    use mqtt_proto::TopicName;

    #[test]
    fn what_is_seen_twice_is_kept_once_with_the_most_it_asked_for() {
        let (id, topic) = (SpiffeId::new("spiffe://td/x").unwrap(), TopicName::new("a").unwrap());
        let mut observer = Observer::new(600);
        let facts = |qos, payload_len| PublishFacts { qos, payload_len, ..PublishFacts::default() };
        observer.see(&id, &Question::Publish { topic: &topic, facts: facts(QoS::AtLeastOnce, 3) });
        observer.see(&id, &Question::Publish { topic: &topic, facts: facts(QoS::AtMostOnce, 7) });
        let filter = SharedFilter::new("$share/g/a/#").unwrap();
        let (qos, mode) = (QoS::AtMostOnce, SubscribeMode::Reject);
        observer.see(&id, &Question::Subscribe { filter: &filter, qos, mode });
        observer.see(&id, &Question::Receive { topic: &topic, group: None });
        let long = TopicName::new("b".repeat(1_000)).unwrap();
        observer.see(&id, &Question::Will { topic: &long, facts: facts(QoS::AtMostOnce, 0) });
        assert_eq!(observer.left_out(), 1);
        let lines: Vec<String> =
            observer.observations().iter().map(|seen| serde_json::to_string(seen).unwrap()).collect();
        assert_eq!(
            lines,
            [
                r#"{"identity":"spiffe://td/x","action":"publish","topic":"a","qos":1,"retain":false,"payload":7,"count":2}"#,
                r#"{"identity":"spiffe://td/x","action":"subscribe","topic":"$share/g/a/#","qos":0,"count":1}"#,
            ]
        );
        assert_eq!(Observation::read(&lines.join("\n"), false).unwrap().seen.len(), 2);
    }
}
