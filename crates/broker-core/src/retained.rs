//! Retained messages by topic.

use crate::effect::Now;
use crate::limits::Config;
use crate::message::{Message, Origin, SharedMessage};
use crate::output::Output;
use midge_identity::SpiffeId;
use midge_policy::{Quantity, Rights};
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

mod seek;

pub(crate) use self::seek::Found;

/// Why a message is not retained.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Full {
    /// Its publisher's identity has used up a quota of a rule.
    Quota(Quantity),
    /// What the broker keeps of an identity or of all is used up.
    Cap,
}

/// Retained messages of all topics.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    messages: BTreeMap<TopicName, SharedMessage>,
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

    /// Tells whether a message of this size and origin fits, in place of the one it would replace. What is kept
    /// already stays where it is too much, and may be replaced by what takes no more.
    pub(crate) fn check_room(
        &self,
        topic: &TopicName,
        bytes: usize,
        origin: &Origin,
        (rights, config): (Option<&Rights>, &Config),
    ) -> Result<(), Full> {
        let old = self.messages.get(topic);
        let after = |mut share: Share, replaced: Option<&SharedMessage>| {
            if let Some(old) = replaced {
                share.shrink(old.bytes());
            }
            share.grow(bytes);
            share
        };
        let adds = |is: usize, was: usize, max: usize| is > max && is > was;
        if let Some(identity) = owner(origin) {
            let was = self.by_identity.get(identity).copied().unwrap_or_default();
            let is = after(was, old.filter(|old| owner(old.origin()) == Some(identity)));
            let quota = |of| rights.map_or(usize::MAX, |rights| rights.quota(of));
            if adds(is.messages, was.messages, quota(Quantity::RetainedMessages)) {
                return Err(Full::Quota(Quantity::RetainedMessages));
            }
            if adds(is.bytes, was.bytes, quota(Quantity::RetainedBytes)) {
                return Err(Full::Quota(Quantity::RetainedBytes));
            }
            if adds(is.messages, was.messages, config.retained_messages_per_identity_max)
                || adds(is.bytes, was.bytes, config.retained_bytes_per_identity_max)
            {
                return Err(Full::Cap);
            }
        }
        let (was, is) = (self.all, after(self.all, old));
        if adds(is.messages, was.messages, config.retained_messages_max)
            || adds(is.bytes, was.bytes, config.retained_bytes_max)
        {
            return Err(Full::Cap);
        }
        Ok(())
    }

    /// Keeps a message; an empty payload removes the topic's ([MQTT-3.3.1-6], [MQTT-3.3.1-7]). False when there is no room:
    /// then nothing is retained, since what was is not what was published last ([MQTT-3.3.1-5]; 3.1.1 [MQTT-3.3.1-7]).
    pub(crate) fn set(
        &mut self,
        message: &SharedMessage,
        limits: (Option<&Rights>, &Config),
        out: &mut Output,
        now: Now,
    ) -> bool {
        let topic = &message.publication().topic;
        if message.publication().payload.is_empty() {
            self.remove(topic, out);
            return true;
        }
        let has_room = self.check_room(topic, message.bytes(), message.origin(), limits).is_ok();
        self.remove(topic, out);
        if has_room {
            out.ledger.retain(message, now);
            self.restore(message);
        }
        has_room
    }

    /// Takes a message of an earlier run.
    pub(crate) fn restore(&mut self, message: &SharedMessage) {
        let topic = &message.publication().topic;
        self.all.grow(message.bytes());
        if let Some(identity) = owner(message.origin()) {
            self.by_identity.entry(Arc::clone(identity)).or_default().grow(message.bytes());
        }
        if let Some(at) = message.expires() {
            self.expiring.insert((at, topic.clone()));
        }
        self.messages.insert(topic.clone(), SharedMessage::clone(message));
    }

    pub(crate) fn get(&self, topic: &TopicName) -> Option<&SharedMessage> {
        self.messages.get(topic)
    }

    pub(crate) fn remove(&mut self, topic: &TopicName, out: &mut Output) -> Option<SharedMessage> {
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
        if let Some(at) = message.expires() {
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
    ) -> Found<&SharedMessage> {
        seek::first_match(&self.messages, filter, cursor, looks)
    }

    /// Looks at so many messages after `cursor`, in the order of topics, removes those that satisfy the
    /// condition and returns them. The cursor is empty again once all have been looked at.
    pub(crate) fn purge_after(
        &mut self,
        cursor: &mut Option<TopicName>,
        count: usize,
        mut condition: impl FnMut(&Message) -> bool,
        out: &mut Output,
    ) -> Vec<SharedMessage> {
        let from = cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let looked: Vec<_> =
            self.messages.range::<TopicName, _>((from, Bound::Unbounded)).take(count).collect();
        let last = looked.last().filter(|_| looked.len() == count).map(|(topic, _)| (*topic).clone());
        let found = looked.into_iter().filter(|(_, message)| condition(message));
        let topics: Vec<_> = found.map(|(topic, _)| topic.clone()).collect();
        *cursor = last;
        topics.iter().filter_map(|topic| self.remove(topic, out)).collect()
    }

    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Removes what expired, so many at most, and returns how many.
    pub(crate) fn expire(&mut self, mono: Duration, at_most: u64, out: &mut Output) -> u64 {
        let mut count = 0;
        while count < at_most
            && self.next_expiry().is_some_and(|at| at <= mono)
            && let Some((_, topic)) = self.expiring.pop_first()
        {
            self.remove(&topic, out);
            count += 1;
        }
        count
    }
}
