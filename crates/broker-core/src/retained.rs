//! Retained messages by topic.

use crate::effect::Now;
use crate::limits::Config;
use crate::message::{Message, Origin};
use crate::output::Output;
use midge_identity::SpiffeId;
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// What was found after a cursor.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Message(&'a Arc<Message>),
    /// Nothing up to this topic, if any was looked at; there may be something after it.
    NotYet(Option<TopicName>),
    Nothing,
}

/// Retained messages of all topics.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    messages: BTreeMap<TopicName, Arc<Message>>,
    expiring: BTreeSet<(Duration, TopicName)>,
    all: Share,
    by_identity: HashMap<Arc<SpiffeId>, Share>,
}

/// What somebody's retained messages take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    messages: usize,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn shrink(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

/// Returns who has published something, unless it was the broker itself.
fn owner(origin: &Origin) -> Option<&Arc<SpiffeId>> {
    match origin {
        Origin::Client { identity, .. } => Some(identity),
        Origin::Broker => None,
    }
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes
    }

    /// Tells whether a message of this size and origin fits, in place of the one it would replace.
    pub(crate) fn has_room(&self, topic: &TopicName, bytes: usize, origin: &Origin, config: &Config) -> bool {
        let old = self.messages.get(topic);
        let fits = |mut share: Share, replaced: Option<&Arc<Message>>, messages_max, bytes_max| {
            if let Some(old) = replaced {
                // Also beyond a limit that was lowered: nothing grows.
                if bytes <= old.bytes() {
                    return true;
                }
                share.shrink(old.bytes());
            }
            share.grow(bytes);
            share.messages <= messages_max && share.bytes <= bytes_max
        };
        let has_own = owner(origin).is_none_or(|identity| {
            let share = self.by_identity.get(identity).copied().unwrap_or_default();
            let replaced = old.filter(|old| owner(old.origin()) == Some(identity));
            let (messages_max, bytes_max) =
                (config.retained_messages_per_identity_max, config.retained_bytes_per_identity_max);
            fits(share, replaced, messages_max, bytes_max)
        });
        has_own && fits(self.all, old, config.retained_messages_max, config.retained_bytes_max)
    }

    /// Keeps a message; an empty payload removes the topic's ([MQTT-3.3.1-6], [MQTT-3.3.1-7]). False when there is no room.
    pub(crate) fn set(
        &mut self,
        message: &Arc<Message>,
        config: &Config,
        out: &mut Output,
        now: Now,
    ) -> bool {
        let topic = &message.publication().topic;
        if message.publication().payload.is_empty() {
            self.remove(topic, out);
            return true;
        }
        if !self.has_room(topic, message.bytes(), message.origin(), config) {
            return false;
        }
        self.remove(topic, out);
        out.ledger.retain(message, now);
        self.restore(message);
        true
    }

    /// Takes a message of an earlier run.
    pub(crate) fn restore(&mut self, message: &Arc<Message>) {
        let topic = &message.publication().topic;
        self.all.grow(message.bytes());
        if let Some(identity) = owner(message.origin()) {
            self.by_identity.entry(Arc::clone(identity)).or_default().grow(message.bytes());
        }
        if let Some(at) = message.expires {
            self.expiring.insert((at, topic.clone()));
        }
        self.messages.insert(topic.clone(), Arc::clone(message));
    }

    pub(crate) fn get(&self, topic: &TopicName) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    pub(crate) fn remove(&mut self, topic: &TopicName, out: &mut Output) -> Option<Arc<Message>> {
        let message = self.messages.remove(topic)?;
        out.ledger.unretain(&message);
        self.all.shrink(message.bytes());
        if let Some(identity) = owner(message.origin())
            && let Some(share) = self.by_identity.get_mut(identity)
        {
            share.shrink(message.bytes());
            if share.messages == 0 {
                self.by_identity.remove(identity);
            }
        }
        if let Some(at) = message.expires {
            self.expiring.remove(&(at, topic.clone()));
        }
        Some(message)
    }

    /// Looks for the first matching message after `cursor`, in the order of topics, at so many of them at most.
    pub(crate) fn next_match(
        &self,
        filter: &TopicFilter,
        cursor: Option<&TopicName>,
        looks: &mut usize,
    ) -> Found<'_> {
        let prefix = literal_prefix(filter);
        let start = TopicName::new(prefix).ok();
        let from = match (cursor, &start) {
            (Some(cursor), _) => Bound::Excluded(cursor),
            (None, Some(start)) => Bound::Included(start),
            (None, None) => Bound::Unbounded,
        };
        let is_literal = prefix.len() == filter.as_str().len();
        let mut looked_at: Option<&TopicName> = None;
        for (topic, message) in self.messages.range((from, Bound::Unbounded)) {
            let text = topic.as_str();
            if !text.starts_with(prefix) || (is_literal && text.len() > prefix.len()) {
                return Found::Nothing;
            }
            let Some(left) = looks.checked_sub(1) else {
                return Found::NotYet(looked_at.cloned());
            };
            *looks = left;
            if filter.matches(topic) {
                return Found::Message(message);
            }
            looked_at = Some(topic);
        }
        Found::Nothing
    }

    /// Looks at so many messages after `cursor`, in the order of topics, removes those that satisfy the
    /// condition and returns them. The cursor is empty again once all have been looked at.
    pub(crate) fn purge_after(
        &mut self,
        cursor: &mut Option<TopicName>,
        count: usize,
        mut condition: impl FnMut(&Message) -> bool,
        out: &mut Output,
    ) -> Vec<Arc<Message>> {
        let from = cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let looked: Vec<_> = self.messages.range((from, Bound::Unbounded)).take(count).collect();
        let last = looked.last().filter(|_| looked.len() == count).map(|(topic, _)| (*topic).clone());
        let found = looked.into_iter().filter(|(_, message)| condition(message));
        let topics: Vec<_> = found.map(|(topic, _)| topic.clone()).collect();
        *cursor = last;
        topics.iter().filter_map(|topic| self.remove(topic, out)).collect()
    }

    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Removes what expired and returns how many.
    pub(crate) fn expire(&mut self, mono: Duration, out: &mut Output) -> u64 {
        let mut count = 0;
        while self.next_expiry().is_some_and(|at| at <= mono)
            && let Some((_, topic)) = self.expiring.pop_first()
        {
            self.remove(&topic, out);
            count += 1;
        }
        count
    }
}

/// Returns what every matching topic starts with; `a/#` matches `a` too, so its last `/` does not count.
fn literal_prefix(filter: &TopicFilter) -> &str {
    let text = filter.as_str();
    let literal = text.split_once(['+', '#']).map_or(text, |(literal, _)| literal);
    if text.ends_with("/#") { literal.strip_suffix('/').unwrap_or(literal) } else { literal }
}
