//! Messages that wait for one session.

use crate::effect::Now;
use crate::limits::Config;
use crate::message::{Message, SharedMessage, UNDECIDED};
use crate::shared::GroupId;
use crate::total::Total;
use midge_policy::{Quantity, QueueOverflow, Rights};
use mqtt_proto::{PacketId, QoS};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Whether a share group is owed a message beyond the end of the broker, though the member that has it is not there then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lent {
    /// It is not, or its receiver is stored itself.
    No,
    /// From when it begins to wait or is sent.
    Due,
    /// The number under which that is stored.
    As(u64),
}

/// A message for one receiver.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) message: SharedMessage,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Option<Arc<[u32]>>,
    /// The share group it came through, which may give it to another member.
    pub(crate) group: Option<GroupId>,
    /// Count of changes when the receiver's right was last seen.
    pub(crate) revision: u64,
    /// Number under which it is stored that the message waits; 0 when it is not.
    pub(crate) number: u64,
    /// Whether it may have been sent before, in an earlier run.
    pub(crate) resent: bool,
    /// The packet identifier that its record names, at QoS 1.
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) lent: Lent,
}

impl Waiting {
    /// Returns one that says no more than it must, of which nothing is stored. The receiver's right was seen with the
    /// publisher's.
    #[inline]
    pub(crate) fn new(message: SharedMessage, qos: QoS) -> Self {
        Self {
            qos,
            retain: false,
            subscription_ids: None,
            group: None,
            revision: message.revision,
            number: 0,
            resent: false,
            packet_id: None,
            lent: Lent::No,
            message,
        }
    }

    /// Has the receiver's right to it asked for again before it is released.
    pub(crate) fn distrust(&mut self) {
        self.revision = UNDECIDED;
    }
}

/// A message that was taken out of a queue and may come back.
#[derive(Debug)]
pub(crate) struct Lifted {
    /// How many of those that stayed are before it.
    pub(crate) behind: usize,
    pub(crate) waiting: Waiting,
}

/// Messages that wait for one session, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Nothing that waits expires before.
    expires: Option<Duration>,
    /// Of this queue and all others.
    all: Total,
    quota: Quota,
    /// What the rule of its session's latest subscription says to drop, if it says so.
    pub(crate) overflow: Option<QueueOverflow>,
}

/// How much may wait by the rules of the session's identity.
#[derive(Debug)]
struct Quota {
    messages: usize,
    bytes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { messages: usize::MAX, bytes: usize::MAX }
    }
}

impl Queue {
    /// Takes the quotas of these rights. What waits already stays: it is let go of as a full queue does when
    /// more comes.
    pub(crate) fn limit_by(&mut self, rights: &Rights) {
        self.quota = Quota {
            messages: rights.quota(Quantity::QueueMessages),
            bytes: rights.quota(Quantity::QueueBytes),
        };
    }

    fn messages_max(&self, config: &Config) -> usize {
        config.queue_messages_max.min(self.quota.messages)
    }

    fn bytes_max(&self, config: &Config) -> usize {
        config.queue_bytes_max.min(self.quota.bytes)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn has_room(&self, message: &Message, config: &Config) -> bool {
        self.has_room_beside(message.bytes(), (0, 0), config)
    }

    /// Tells whether a message of this size could wait if it did as often already, here and in all queues.
    pub(crate) fn has_room_beside(&self, bytes: usize, (here, all): (usize, usize), config: &Config) -> bool {
        let with =
            |sum: usize, count: usize| sum.saturating_add(bytes.saturating_mul(count.saturating_add(1)));
        self.waiting.len().saturating_add(here) < self.messages_max(config)
            && with(self.bytes, here) <= self.bytes_max(config)
            && with(self.all.get(), all) <= config.queues_bytes_max
    }

    fn may_have_expired(&self, now: Now) -> bool {
        self.expires.is_some_and(|at| at <= now.mono)
    }

    /// Takes out what has expired.
    pub(crate) fn take_expired(&mut self, now: Now) -> Vec<Waiting> {
        if !self.may_have_expired(now) {
            return Vec::new();
        }
        let expired = self.extract(|waiting| waiting.message.is_expired(now));
        self.expires = self.waiting.iter().filter_map(|waiting| waiting.message.expires()).min();
        expired
    }

    /// Counts this queue, which is empty, among all others.
    pub(crate) fn count_among(&mut self, all: &Total) {
        self.all = all.clone();
    }

    fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.all.grow(bytes);
    }

    fn shrink(&mut self, bytes: usize, count: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.all.shrink_by(bytes, count);
    }

    /// Takes out the oldest message where it has to make room for this one.
    pub(crate) fn yield_to(&mut self, message: &Message, config: &Config) -> Option<Waiting> {
        let drops_oldest = self.overflow.unwrap_or(config.queue_overflow) == QueueOverflow::DropOldest;
        // One that never fits drives nobody out.
        let others = self.all.get().saturating_sub(self.bytes);
        let may_fit = message.bytes() <= self.bytes_max(config)
            && self.messages_max(config) > 0
            && others.saturating_add(message.bytes()) <= config.queues_bytes_max;
        if drops_oldest && may_fit && !self.has_room(message, config) { self.pop() } else { None }
    }

    /// Takes a message; false when the queue is full.
    pub(crate) fn push(&mut self, waiting: Waiting, config: &Config) -> bool {
        if !self.has_room(&waiting.message, config) {
            return false;
        }
        self.restore(waiting);
        true
    }

    /// Takes a message of an earlier run, whose acceptance has been acknowledged: there is no refusing it.
    pub(crate) fn restore(&mut self, waiting: Waiting) {
        self.grow(waiting.message.bytes());
        self.expires = self.expires.into_iter().chain(waiting.message.expires()).min();
        self.waiting.push_back(waiting);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    pub(crate) fn front(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.shrink(waiting.message.bytes(), 1);
        Some(waiting)
    }

    /// Has the receiver's right to each message asked for again.
    pub(crate) fn distrust(&mut self) {
        self.waiting.iter_mut().for_each(Waiting::distrust);
    }

    /// Takes out the messages that satisfy the condition, in order.
    pub(crate) fn extract(&mut self, wanted: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        self.lift(wanted).into_iter().map(|lifted| lifted.waiting).collect()
    }

    /// The same, with the places from which they were taken.
    pub(crate) fn lift(&mut self, mut wanted: impl FnMut(&Waiting) -> bool) -> Vec<Lifted> {
        if !self.waiting.iter().any(&mut wanted) {
            return Vec::new();
        }
        let mut lifted = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            if wanted(&waiting) {
                lifted.push(Lifted { behind: self.waiting.len(), waiting });
            } else {
                self.waiting.push_back(waiting);
            }
        }
        self.shrink(lifted.iter().map(|lifted| lifted.waiting.message.bytes()).sum(), lifted.len());
        lifted
    }

    /// Puts some of them back into their places, in order. Nothing has changed in between.
    pub(crate) fn put_back(&mut self, lifted: Vec<Lifted>) {
        if lifted.is_empty() {
            return;
        }
        let mut lifted = lifted.into_iter().peekable();
        for (place, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            while let Some(lifted) = lifted.next_if(|lifted| lifted.behind <= place) {
                self.restore(lifted.waiting);
            }
            self.waiting.push_back(waiting);
        }
        lifted.for_each(|lifted| self.restore(lifted.waiting));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shrink(self.bytes, self.waiting.len());
    }
}
