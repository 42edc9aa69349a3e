//! Decisions as they are made, gathered into observations to learn from.

use crate::observation::Observation;
use crate::request::Verb;
use midge_identity::SpiffeId;
use midge_policy::{PublishFacts, Question, Rights, SubscribePermit};
use mqtt_proto::{QoS, SharedFilter, TopicFilter, TopicName};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// What a kept thing costs beside its text.
const OVERHEAD: usize = 128;

/// Gathers what identities do, each different thing once with its count. Bounded: what finds no room
/// is counted and not kept.
#[derive(Debug)]
pub struct Observer {
    bytes_max: usize,
    bytes: usize,
    kept: HashMap<SpiffeId, Person>,
    left_out: u64,
}

/// What one identity does.
#[derive(Debug, Default)]
struct Person {
    verbs: HashMap<Verb, HashMap<Box<str>, Seen>>,
    /// Subscriptions of which not all was granted.
    partial: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    filter: TopicFilter,
    qos: QoS,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    qos: QoS,
    retain: bool,
    payload: usize,
    /// Response Topics, or granted parts of a filter.
    others: BTreeSet<Box<str>>,
    /// Whether all of a filter was granted at some time.
    is_whole: bool,
    count: u64,
}

/// One thing as it is seen now.
struct Sight<'a> {
    verb: Verb,
    subject: Cow<'a, str>,
    seen: Seen,
}

impl Sight<'_> {
    fn published<'a>(verb: Verb, topic: &'a TopicName, facts: &PublishFacts<'_>) -> Sight<'a> {
        let others = facts.response_topic.map(|topic| topic.as_str().into()).into_iter().collect();
        let (qos, retain, payload) = (facts.qos, facts.retain, facts.payload_len);
        let seen = Seen { qos, retain, payload, others, is_whole: true, count: 1 };
        Sight { verb, subject: topic.as_str().into(), seen }
    }
}

impl Observer {
    /// Returns an observer that keeps no more than about so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, kept: HashMap::new(), left_out: 0 }
    }

    /// Sees what an identity asks for, with its rights now. Deliveries are no wish of their own: they follow from
    /// subscriptions, unless not all was granted of those.
    pub fn see(&mut self, id: &SpiffeId, rights: &Rights, question: &Question<'_>) {
        match *question {
            Question::Publish { topic, facts } => {
                self.keep(id, Sight::published(Verb::Publish, topic, &facts));
            }
            Question::Will { topic, facts } => self.keep(id, Sight::published(Verb::Will, topic, &facts)),
            Question::Subscribe { filter, qos, mode } => {
                let permit = rights.subscribe(filter, qos, mode).ok();
                let parts = permit.as_ref().and_then(SubscribePermit::in_part);
                let is_whole = parts.is_none();
                let others = parts.into_iter().flatten().map(|part| part.as_str().into()).collect();
                if !is_whole {
                    self.keep_partial(id, &filter.filter, qos);
                }
                let seen = Seen { qos, others, is_whole, count: 1, ..Seen::default() };
                self.keep(id, Sight { verb: Verb::Subscribe, subject: spelled(filter), seen });
            }
            Question::Receive { topic, group } => {
                let partial = self.kept.get(id).map(|person| &person.partial);
                let matching = partial.into_iter().flatten().filter(|partial| partial.filter.matches(topic));
                let Some(qos) = matching.map(|partial| partial.qos).max() else { return };
                let subject = match group {
                    Some(group) => format!("$share/{group}/{topic}").into(),
                    None => topic.as_str().into(),
                };
                let seen = Seen { qos, is_whole: true, count: 1, ..Seen::default() };
                self.keep(id, Sight { verb: Verb::Receive, subject, seen });
            }
        }
    }

    fn keep_partial(&mut self, id: &SpiffeId, filter: &TopicFilter, qos: QoS) {
        let known = self
            .kept
            .get_mut(id)
            .and_then(|person| person.partial.iter_mut().find(|partial| partial.filter == *filter));
        if let Some(known) = known {
            known.qos = known.qos.max(qos);
        } else if let Some(person) = self.person(id, filter.as_str().len() + OVERHEAD) {
            person.partial.push(Partial { filter: filter.clone(), qos });
        }
    }

    fn keep(&mut self, id: &SpiffeId, Sight { verb, subject, seen }: Sight<'_>) {
        let known = |person: &Person| person.verbs.get(&verb)?.get(&*subject).map(|known| known.lacks(&seen));
        let cost = match self.kept.get(id).and_then(known) {
            // What is known costs nothing, however often it is seen.
            Some(0) => 0,
            Some(lacking) => lacking,
            None => subject.len() + OVERHEAD + seen.cost(),
        };
        if let Some(person) = self.person(id, cost) {
            let subjects = person.verbs.entry(verb).or_default();
            match subjects.get_mut(&*subject) {
                Some(known) => known.add(seen),
                None => drop(subjects.insert(subject.into(), seen)),
            }
        }
    }

    /// Returns an identity for which so many bytes more are kept, if there is room.
    fn person(&mut self, id: &SpiffeId, cost: usize) -> Option<&mut Person> {
        let is_new = !self.kept.contains_key(id);
        let cost = cost + if is_new { id.to_string().len() + OVERHEAD } else { 0 };
        if cost > 0 && self.bytes + cost > self.bytes_max {
            self.left_out += 1;
            return None;
        }
        self.bytes += cost;
        Some(self.kept.entry(id.clone()).or_default())
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
            .flat_map(|(id, person)| person.verbs.iter().map(move |(verb, subjects)| (id, *verb, subjects)))
            .flat_map(|(id, verb, subjects)| {
                subjects.iter().map(move |(subject, seen)| observation(id, verb, subject, seen))
            })
            .collect();
        found.sort_by(|a, b| {
            (&a.identity, a.action, &a.topic, &a.group).cmp(&(&b.identity, b.action, &b.topic, &b.group))
        });
        found
    }
}

impl Seen {
    fn cost(&self) -> usize {
        self.others.iter().map(|other| other.len() + OVERHEAD).sum()
    }

    /// Returns what it costs to know of the other one as well.
    fn lacks(&self, other: &Self) -> usize {
        other.others.difference(&self.others).map(|other| other.len() + OVERHEAD).sum()
    }

    fn add(&mut self, other: Self) {
        self.qos = self.qos.max(other.qos);
        self.retain |= other.retain;
        self.payload = self.payload.max(other.payload);
        self.is_whole |= other.is_whole;
        self.others.extend(other.others);
        self.count += 1;
    }
}

fn observation(id: &SpiffeId, action: Verb, subject: &str, seen: &Seen) -> Observation {
    let publishes = matches!(action, Verb::Publish | Verb::Will);
    let (group, topic) = match subject.strip_prefix("$share/").and_then(|shared| shared.split_once('/')) {
        Some((group, topic)) if action == Verb::Receive => (Some(group.to_owned()), topic),
        _ => (None, subject),
    };
    let others = || seen.others.iter().map(|other| String::from(&**other)).collect();
    Observation {
        identity: id.clone(),
        action,
        topic: topic.to_owned(),
        qos: Some(seen.qos as u8),
        retain: publishes.then_some(seen.retain),
        payload: publishes.then(|| u32::try_from(seen.payload).unwrap_or(u32::MAX)),
        response_topics: if publishes { others() } else { Vec::new() },
        parts: (action == Verb::Subscribe && !seen.is_whole).then(others),
        group,
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
mod tests;
