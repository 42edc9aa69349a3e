//! Retained messages for new subscriptions: the last that a client is sent, one by one as it takes them, so that a
//! wide filter costs no memory.
//!
//! How far a subscription is stands in its record, and changes in the batch that stores the messages sent. So what
//! is still owed survives as the subscription does, nothing that was sent at QoS 2 is sent as another message again,
//! and at QoS 0 and 1 only what was sent in the last moments before a crash.

use crate::authority::Obstacle;
use crate::message::{Message, SharedMessage};
use crate::queue::Waiting;
use crate::record::{OwedRecord, RecordKey, RecordKind};
use crate::release::{Release, tell_purged, withhold};
use crate::retained::Found;
use crate::session::Session;
use crate::subscription::Subscribed;
use midge_policy::Question;
use mqtt_proto::{QoS, TopicFilter, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Retained messages looked at in one turn, a tenth of a millisecond. Whoever finds none of it left waits in line, where
/// each has such a turn, and looks at nothing until then, whatever it is sent or sends.
pub(crate) const LOOKS_AT_ONCE: usize = 256;

/// Replays of one session that are looked at when a message comes. Beyond, what is retained of a topic may come after
/// something newer.
const LOOKS_FOR_ONE: usize = 1024;

/// Topics kept of a subscription of which a message came before their turn; likewise.
const OVERTAKEN_MAX: usize = 128;

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
    overtaken: BTreeSet<TopicName>,
}

impl Replay {
    fn start(spelled: &Arc<str>, ordinal: u32, filter: &TopicFilter) -> Self {
        let (spelled, filter) = (Arc::clone(spelled), filter.clone());
        let overtaken = BTreeSet::new();
        Self { spelled, ordinal, filter, cursor: None, after: UNANSWERED, sent: 0, overtaken }
    }

    /// Returns one of an earlier run.
    pub(crate) fn restored(spelled: Arc<str>, ordinal: u32, filter: TopicFilter, owed: OwedRecord) -> Self {
        let OwedRecord { after: cursor, sent, overtaken } = owed;
        Self { spelled, ordinal, filter, cursor, after: 0, sent, overtaken: overtaken.into_iter().collect() }
    }

    /// Whether it is of the SUBSCRIBE at hand.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.after == UNANSWERED
    }

    pub(crate) fn owed(&self) -> OwedRecord {
        let overtaken = self.overtaken.iter().cloned().collect();
        OwedRecord { after: self.cursor.clone(), sent: self.sent, overtaken }
    }

    /// Whether it still owes what is retained of a topic.
    fn owes(&self, topic: &TopicName) -> bool {
        self.cursor.as_ref().is_none_or(|cursor| cursor < topic)
            && self.filter.matches(topic)
            && !self.overtaken.contains(topic)
    }

    /// Goes on after a topic.
    fn pass(&mut self, topic: TopicName) {
        self.overtaken.remove(&topic);
        self.cursor = Some(topic);
    }

    fn may_have_been_sent(&self, message: &Message) -> bool {
        message.number != 0 && message.number <= self.sent
    }
}

/// Those of one session, in the order in which they are sent. There may be as many as it has subscriptions, and each
/// SUBSCRIBE may start all of them anew.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    by_turn: BTreeMap<u64, Replay>,
    /// By the ordinal of their subscription, of which there is one each.
    turns: BTreeMap<u32, u64>,
    last_turn: u64,
    /// From here on they are of the SUBSCRIBE at hand.
    unanswered_from: u64,
}

impl Replays {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    /// Has the retained messages of a subscription sent, from the start and after all others.
    pub(crate) fn start(&mut self, spelled: &Arc<str>, ordinal: u32, filter: &TopicFilter) {
        self.push(Replay::start(spelled, ordinal, filter));
    }

    /// Adds one of an earlier run.
    pub(crate) fn restore(&mut self, replay: Replay) {
        self.push(replay);
        self.unanswered_from = self.last_turn + 1;
    }

    /// Adds one, in place of an earlier one of its subscription.
    fn push(&mut self, replay: Replay) {
        self.forget(replay.ordinal);
        self.last_turn += 1;
        self.turns.insert(replay.ordinal, self.last_turn);
        self.by_turn.insert(self.last_turn, replay);
    }

    /// Forgets what is left for a subscription.
    pub(crate) fn forget(&mut self, ordinal: u32) {
        if let Some(turn) = self.turns.remove(&ordinal) {
            self.by_turn.remove(&turn);
        }
    }

    /// Returns what is left for the subscription of this ordinal.
    pub(crate) fn of(&self, ordinal: u32) -> Option<&Replay> {
        self.by_turn.get(self.turns.get(&ordinal)?)
    }

    /// Lets those of the SUBSCRIBE at hand wait for the ticket of its answer.
    fn follow(&mut self, barrier: u64) {
        self.by_turn.range_mut(self.unanswered_from..).for_each(|(_, replay)| replay.after = barrier);
        self.unanswered_from = self.last_turn + 1;
    }

    fn take_first(&mut self) -> Option<(u64, Replay)> {
        let (turn, replay) = self.by_turn.pop_first()?;
        self.turns.remove(&replay.ordinal);
        Some((turn, replay))
    }

    /// Returns the turns of those that still owe what is retained of a topic.
    fn owing(&self, topic: &TopicName) -> Vec<u64> {
        let replays = self.by_turn.iter().take(LOOKS_FOR_ONE);
        replays.filter(|(_, replay)| replay.owes(topic)).map(|(turn, _)| *turn).collect()
    }

    /// Has those of these turns owe again what is retained of a topic, since it was dropped when it came.
    pub(crate) fn owe_again(&mut self, turns: &[u64], topic: &TopicName) {
        for turn in turns {
            if let Some(replay) = self.by_turn.get_mut(turn) {
                replay.overtaken.remove(topic);
            }
        }
    }

    fn put_back(&mut self, turn: u64, replay: Replay) {
        self.turns.insert(replay.ordinal, turn);
        self.by_turn.insert(turn, replay);
    }
}

impl Session {
    /// Lets what was started follow the answer that was given just now.
    pub(crate) fn let_replays_follow(&mut self) {
        let barrier = self.connection().map_or(0, |connection| connection.gate.barrier);
        self.replays.follow(barrier);
    }

    /// Sends retained messages of the subscription whose turn it is, as many as may be sent now. Tells whether those
    /// were all.
    pub(crate) fn replay(&mut self, release: &mut Release<'_>) -> bool {
        if self.is_in_line || *release.looks == 0 {
            return false;
        }
        let Some((turn, mut replay)) = self.replays.take_first() else { return false };
        let from = replay.cursor.clone();
        let is_over = loop {
            if let ControlFlow::Break(is_over) = self.replay_next(&mut replay, release) {
                break is_over;
            }
        };
        if is_over || replay.cursor != from {
            self.record_replay(&replay, is_over, release);
        }
        if !is_over {
            self.replays.put_back(turn, replay);
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
    fn replay_next(&mut self, replay: &mut Replay, release: &mut Release<'_>) -> ControlFlow<bool> {
        if !release.out.ledger.is_stored(replay.after) || !self.is_ready(QoS::AtMostOnce, release.config) {
            return ControlFlow::Break(false);
        }
        let subscribed = self.subscriptions.get(&replay.spelled);
        let Some(subscribed) = subscribed.filter(|subscribed| subscribed.ordinal == replay.ordinal) else {
            return ControlFlow::Break(true);
        };
        let found = release.retained.next_match(&replay.filter, replay.cursor.as_ref(), release.looks);
        let message = match found {
            Found::Match(message) => SharedMessage::clone(message),
            Found::NotYet(looked_at) => {
                replay.cursor = looked_at.or(replay.cursor.take());
                return ControlFlow::Break(false);
            }
            Found::Nothing => return ControlFlow::Break(true),
        };
        let topic = message.publication().topic.clone();
        let is_overtaken = replay.overtaken.contains(&topic);
        let waiting = self.retained_for(subscribed, replay, message, release.authority.revision());
        let Some(mut waiting) = waiting.filter(|_| !is_overtaken) else {
            replay.pass(topic);
            return ControlFlow::Continue(());
        };
        let has_room = waiting.qos == QoS::AtMostOnce || self.inflight.has_room(release.config);
        if !(has_room && self.connection().is_some_and(|connection| connection.has_room_for(waiting.qos))) {
            // It will be looked at again; and what it lacks is room, which a turn in the line would not bring.
            *release.looks += 1;
            return ControlFlow::Break(false);
        }
        replay.pass(topic);
        if let Some(qos) = self.may_replay(&waiting, release) {
            waiting.qos = waiting.qos.min(qos);
            self.send(waiting, release);
        }
        ControlFlow::Continue(())
    }

    /// Returns a retained message as a subscription is to be sent it, if it is.
    fn retained_for(
        &self,
        subscribed: &Subscribed,
        replay: &Replay,
        message: SharedMessage,
        revision: u64,
    ) -> Option<Waiting> {
        let is_own = subscribed.no_local && message.is_from_client(&self.identity, &self.client_id);
        // Not every topic under a narrowed filter is one of the subscription's.
        let granted = subscribed.granted_for(&message.publication().topic).filter(|_| !is_own)?;
        let qos = message.qos().min(granted);
        Some(Waiting {
            retain: true,
            subscription_ids: subscribed.grant().ids,
            revision,
            resent: replay.may_have_been_sent(&message),
            ..Waiting::new(message, qos)
        })
    }

    /// Sends what is owed of the topic of a message that is about to come, or lets it wait: it was published before
    /// ([MQTT-4.6.0-5]), and what is retained by then comes once. Returns the turns of those that are owed the very
    /// message that is about to come.
    pub(crate) fn catch_up(&mut self, coming: &Message, qos: QoS, release: &mut Release<'_>) -> Vec<u64> {
        let mut owed = Vec::new();
        if self.replays.is_empty() || (qos == QoS::AtMostOnce && !self.is_ready(qos, release.config)) {
            return owed;
        }
        let topic = &coming.publication().topic;
        for turn in self.replays.owing(topic) {
            let Some(message) = release.retained.get(topic).cloned() else { break };
            let Some(mut replay) = self.replays.by_turn.remove(&turn) else { break };
            let is_coming = std::ptr::eq(&raw const *message, coming);
            let has_room = replay.overtaken.len() < OVERTAKEN_MAX;
            if has_room && (is_coming || self.catch_up_with(&replay, message, qos, release)) {
                replay.overtaken.insert(topic.clone());
                self.record_replay(&replay, false, release);
                owed.extend(is_coming.then_some(turn));
            }
            self.replays.by_turn.insert(turn, replay);
        }
        owed
    }

    /// Tells whether it is done with, and not left for its turn: nothing asks for an order of messages of different QoS.
    fn catch_up_with(
        &mut self,
        replay: &Replay,
        message: SharedMessage,
        coming: QoS,
        release: &mut Release<'_>,
    ) -> bool {
        let subscribed = self.subscriptions.get(&replay.spelled);
        let subscribed = subscribed.filter(|subscribed| subscribed.ordinal == replay.ordinal);
        let revision = release.authority.revision();
        let waiting = subscribed.and_then(|of| self.retained_for(of, replay, message, revision));
        let Some(mut waiting) = waiting else { return true };
        let Some(qos) = self.may_replay(&waiting, release) else { return true };
        waiting.qos = waiting.qos.min(qos);
        if self.is_ready(waiting.qos, release.config) {
            self.send(waiting, release);
            return true;
        }
        waiting.qos != QoS::AtMostOnce && waiting.qos == coming && self.keep(waiting, release)
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
