//! Retained messages for new subscriptions: the last that a client is sent, one by one as it takes them, so that a
//! wide filter costs no memory.
//!
//! How far a subscription is stands in its record, and changes in the batch that stores the messages sent. So what
//! is still owed survives as the subscription does, nothing that was sent at QoS 2 is sent as another message again,
//! and at QoS 0 and 1 only what was sent in the last moments before a crash.

use crate::authority::Obstacle;
use crate::message::Message;
use crate::queue::Waiting;
use crate::record::{OwedRecord, RecordKey, RecordKind};
use crate::release::{Release, tell_purged, withhold};
use crate::retained::Found;
use crate::session::Session;
use crate::subscription::Subscribed;
use midge_policy::Question;
use mqtt_proto::{QoS, TopicFilter, TopicName};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Retained messages looked at for one session at once. Then it is others' turn, and the rest follows in portions.
pub(crate) const LOOKS_AT_ONCE: usize = 256;

/// Stale ones that are kept beside as many as there are subscriptions, before they are looked for.
const STALE_MAX: usize = 16;

/// Stands for the ticket of a SUBACK that has not been given yet.
const UNANSWERED: u64 = u64::MAX;

/// Retained messages still to be sent for a subscription.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) spelled: Arc<str>,
    /// Of its subscription: one that is made again after it was removed has another.
    ordinal: u32,
    filter: TopicFilter,
    cursor: Option<TopicName>,
    /// The ticket its SUBACK waits for: they follow it.
    after: u64,
    /// As in [`OwedRecord`].
    sent: u64,
}

impl Replay {
    /// Has the retained messages of a subscription sent, from the start.
    pub(crate) fn start(
        replays: &mut VecDeque<Self>,
        subscriptions: &BTreeMap<Arc<str>, Subscribed>,
        (spelled, ordinal): (&Arc<str>, u32),
        filter: &TopicFilter,
    ) {
        if subscriptions.contains_key(spelled) {
            replays.retain(|replay| replay.spelled != *spelled);
        } else if replays.len() > 2 * subscriptions.len() + STALE_MAX {
            replays.retain(|replay| replay.is_unanswered() || replay.is_of(subscriptions));
        }
        let (spelled, filter) = (Arc::clone(spelled), filter.clone());
        replays.push_back(Self { spelled, ordinal, filter, cursor: None, after: UNANSWERED, sent: 0 });
    }

    /// Returns one of an earlier run.
    pub(crate) fn restored(spelled: Arc<str>, ordinal: u32, filter: TopicFilter, owed: OwedRecord) -> Self {
        Self { spelled, ordinal, filter, cursor: owed.after, after: 0, sent: owed.sent }
    }

    fn is_of(&self, subscriptions: &BTreeMap<Arc<str>, Subscribed>) -> bool {
        subscriptions.get(&self.spelled).is_some_and(|subscribed| subscribed.ordinal == self.ordinal)
    }

    /// Whether it is of the SUBSCRIBE at hand.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.after == UNANSWERED
    }

    pub(crate) fn owed(&self) -> OwedRecord {
        OwedRecord { after: self.cursor.clone(), sent: self.sent }
    }

    fn may_have_been_sent(&self, message: &Message) -> bool {
        message.number != 0 && message.number <= self.sent
    }
}

impl Session {
    /// Lets what was started follow the answer that was given just now.
    pub(crate) fn let_replays_follow(&mut self) {
        let barrier = self.connection().map_or(0, |connection| connection.gate.barrier);
        let started = self.replays.iter_mut().filter(|replay| replay.is_unanswered());
        started.for_each(|replay| replay.after = barrier);
    }

    /// Returns what is left for the subscription of this number.
    pub(crate) fn replay_of(&self, ordinal: u32) -> Option<&Replay> {
        // One that is being made has none but the one just started, and there may be very many to look through.
        if ordinal == self.ordinals {
            return self.replays.back().filter(|replay| replay.ordinal == ordinal);
        }
        self.replays.iter().find(|replay| replay.ordinal == ordinal)
    }

    /// Sends retained messages of the subscription whose turn it is, as many as may be sent now. Tells whether those
    /// were all.
    pub(crate) fn replay(&mut self, release: &mut Release<'_>, looks: &mut usize) -> bool {
        let Some(mut replay) = self.replays.pop_front() else { return false };
        let from = replay.cursor.clone();
        let is_over = loop {
            if let ControlFlow::Break(is_over) = self.replay_next(&mut replay, release, looks) {
                break is_over;
            }
        };
        if is_over || replay.cursor != from {
            self.record_replay(&replay, is_over, release);
        }
        if !is_over {
            self.replays.push_front(replay);
        }
        is_over
    }

    /// Stores how far it is, for who comes after this run: nobody waits for it.
    fn record_replay(&mut self, replay: &Replay, is_over: bool, release: &mut Release<'_>) {
        let subscribed = self.subscriptions.get_mut(&replay.spelled);
        let subscribed =
            subscribed.filter(|subscribed| subscribed.owed && subscribed.ordinal == replay.ordinal);
        let Some(subscribed) = subscribed else { return };
        subscribed.owed = !is_over;
        let record = subscribed.record((!is_over).then(|| replay.owed()));
        let key = RecordKey::owned(RecordKind::Subscription, self.number, subscribed.number);
        release.out.ledger.replace_unpromised(key, record);
    }

    /// Sends or passes over the next message; breaks with whether it was the last.
    fn replay_next(
        &mut self,
        replay: &mut Replay,
        release: &mut Release<'_>,
        looks: &mut usize,
    ) -> ControlFlow<bool> {
        if !release.out.ledger.is_stored(replay.after) || !self.is_ready(QoS::AtMostOnce, release.config) {
            return ControlFlow::Break(false);
        }
        let subscribed = self.subscriptions.get(&replay.spelled);
        let Some(subscribed) = subscribed.filter(|subscribed| subscribed.ordinal == replay.ordinal) else {
            return ControlFlow::Break(true);
        };
        let message = match release.retained.next_match(&replay.filter, replay.cursor.as_ref(), looks) {
            Found::Message(message) => Arc::clone(message),
            Found::NotYet(looked_at) => {
                replay.cursor = looked_at.or(replay.cursor.take());
                return ControlFlow::Break(false);
            }
            Found::Nothing => return ControlFlow::Break(true),
        };
        let topic = &message.publication().topic;
        let is_own = subscribed.no_local && message.is_from_client(&self.identity, &self.client_id);
        // Not every topic under a narrowed filter is one of the subscription's.
        let Some(granted) = subscribed.granted_for(topic).filter(|_| !is_own) else {
            replay.cursor = Some(topic.clone());
            return ControlFlow::Continue(());
        };
        let qos = message.qos().min(granted);
        let has_room = qos == QoS::AtMostOnce || self.inflight.has_room(release.config);
        if !(has_room && self.connection().is_some_and(|connection| connection.has_room_for(qos))) {
            return ControlFlow::Break(false);
        }
        replay.cursor = Some(topic.clone());
        let mut waiting = Waiting {
            qos,
            retain: true,
            subscription_ids: subscribed.grant().ids,
            group: None,
            revision: release.authority.revision(),
            number: 0,
            resent: replay.may_have_been_sent(&message),
            packet_id: None,
            message,
        };
        if let Some(qos) = self.may_replay(&waiting, release) {
            waiting.qos = waiting.qos.min(qos);
            self.send(waiting, release);
        }
        ControlFlow::Continue(())
    }

    /// Returns the highest QoS at which a retained message may be delivered, if it may.
    fn may_replay(&mut self, waiting: &Waiting, release: &mut Release<'_>) -> Option<QoS> {
        let topic = &waiting.message.publication().topic;
        if waiting.message.is_expired(release.now) {
            return None;
        }
        // A subscription may cover topics that its owner must not read.
        let rights = Arc::clone(self.rights(release.authority));
        let decided = rights.receive(topic);
        release.authority.tell(self, &Question::Receive { topic, group: None }, decided.is_ok());
        let permit = match decided {
            Ok(permit) => permit,
            Err(denial) => {
                release.out.withhold(self.subject(), topic, &denial, release.now);
                return None;
            }
        };
        let Err(obstacle) = release.authority.recheck_origin(&waiting.message) else {
            return Some(permit.qos());
        };
        let is_purged = matches!(obstacle, Obstacle::Revoked) || release.config.purge_lost;
        if is_purged {
            release.retained.remove(topic, release.out);
            tell_purged(&waiting.message, release.out, release.now);
        } else {
            withhold(obstacle, waiting, self.subject(), release);
        }
        None
    }
}
