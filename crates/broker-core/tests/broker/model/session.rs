//! What the reference knows of each client: its session, what it is owed, and what is under way to it.

use super::Who;
use super::replay::Replay;
use crate::seen::Seen;
use crate::tally::Life;
use crate::world::*;
use mqtt_proto::QoS;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) topic: &'static str,
    /// A number nobody else has, or nothing.
    pub(crate) payload: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) from: Who,
    pub(crate) received: u64,
    /// Seconds from `received`.
    pub(crate) lasts: Option<u64>,
}

/// How a message is to be sent to one client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owed {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: Vec<u32>,
    /// A broker that was restarted does not know whether it sent this before.
    pub(super) may_be_again: bool,
    /// The identifier under which it was sent before a restart, which is its own still ([MQTT-4.4.0-1]), and as the nth
    /// of all.
    pub(super) sent: Option<(u16, u32)>,
    /// It may have been on its way when a connection broke.
    pub(super) unseen: bool,
    /// A full queue may have dropped it.
    pub(super) may_be_gone: bool,
}

impl Owed {
    pub(super) fn new(message: Message, qos: QoS, retain: bool, ids: Vec<u32>) -> Self {
        Self { message, qos, retain, ids, may_be_again: false, sent: None, unseen: false, may_be_gone: false }
    }

    /// Whether it was sent, as far as a broker may know: then it is sent again even if it has expired.
    pub(super) fn may_be_under_way(&self) -> bool {
        self.sent.is_some() || self.unseen
    }

    /// Whether it is certain that it waits in a queue.
    pub(super) fn waits(&self) -> bool {
        !self.may_be_under_way() && !self.may_be_gone
    }

    /// Whether this is how it may come, as far as it came before.
    pub(super) fn is_again(&self, seen: &Seen) -> bool {
        match self.sent {
            Some((pid, _)) => seen.dup && seen.pid == Some(pid),
            None => !seen.dup || self.may_be_again,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subscribed {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) pid: u16,
    /// As the nth of all it was sent first.
    pub(super) first: u32,
    pub(crate) owed: Owed,
    pub(super) group: Option<&'static str>,
    /// That had no member since: nobody has to take over what was its.
    pub(super) group_ended: bool,
    /// As of what its group shared.
    pub(super) kept: bool,
    /// PUBREL was due once, the nth of all: PUBCOMP ends it.
    pub(crate) released: Option<u32>,
    /// The session when PUBLISH or PUBREL was sent first.
    pub(super) begun: Life,
    /// PUBLISH or PUBREL was sent on this connection.
    pub(crate) here: bool,
    /// PUBLISH was sent on this connection.
    pub(super) counted: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) v5: bool,
    pub(crate) window: usize,
    /// The will and its delay in seconds.
    pub(crate) will: Option<(Message, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) conn: Option<Conn>,
    /// Seconds it outlives its connection.
    pub(crate) expiry: u64,
    pub(super) ends: Option<u64>,
    pub(super) will: Option<(u64, Message)>,
    pub(super) subscriptions: BTreeMap<&'static str, Subscribed>,
    pub(super) owed: Vec<Owed>,
    /// Subscriptions that may still be sent retained messages.
    pub(super) replays: BTreeMap<&'static str, Replay>,
    /// What was retained and may wait or be under way beside its subscription: that was replaced or ended after something
    /// newer came, or the connection broke. With the filter where it stands for what a subscription is sent.
    pub(super) left: Vec<(Option<&'static str>, Owed)>,
    pub(crate) flight: Vec<Flight>,
    pub(super) held: BTreeMap<u16, (Message, Life)>,
    pub(super) life: Life,
}

impl Session {
    /// The groups that it would get something of.
    pub(super) fn groups(&self) -> impl Iterator<Item = &'static str> {
        self.subscriptions.iter().filter(|(_, subscribed)| subscribed.qos != Q0).map(|(filter, _)| *filter)
    }

    /// What may wait of what a subscription is sent of the retained messages.
    pub(super) fn to_replay(
        &self,
        filter: &'static str,
        retained: &BTreeMap<&'static str, Message>,
    ) -> Vec<(Option<&'static str>, Owed)> {
        let Some((subscribed, replay)) = self.subscriptions.get(filter).zip(self.replays.get(filter)) else {
            return Vec::new();
        };
        let ids: Vec<u32> = subscribed.id.into_iter().collect();
        let waiting = replay.waiting(retained).map(|message| {
            let may_be_again = replay.may_be_again.contains(&message.payload);
            let qos = subscribed.qos.min(message.qos);
            let owed = Owed { may_be_again, ..Owed::new(message.clone(), qos, true, ids.clone()) };
            (Some(filter), owed)
        });
        waiting.collect()
    }

    /// Notes what a subscription was sent of the retained messages.
    pub(super) fn replayed(&mut self, filter: &'static str, message: &Message) {
        let Some(replay) = self.replays.get_mut(filter) else { return };
        replay.pass(message.topic);
        replay.sent.insert(message.topic);
        self.left.retain(|(of, owed)| *of != Some(filter) || owed.message != *message);
    }

    /// How many messages above QoS 0 it takes at once.
    pub(super) fn room(&self) -> usize {
        let sent = self.flight.iter().filter(|flight| flight.counted).count();
        self.conn.as_ref().map_or(0, |conn| conn.window.saturating_sub(sent))
    }

    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// The packet identifier of the nth message that waits for PUBREL.
    pub(crate) fn nth_held(&self, nth: usize) -> Option<u16> {
        self.held.keys().copied().cycle().nth(nth)
    }

    pub(crate) fn nth_filter(&self, nth: usize) -> Option<&'static str> {
        self.subscriptions.keys().copied().cycle().nth(nth)
    }

    pub(super) fn takes(&self, qos: QoS) -> bool {
        self.conn.is_some() && (qos == Q0 || self.has_room())
    }
}
