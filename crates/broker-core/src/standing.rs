//! The records of sessions, subscriptions and wills: what stands while no message moves.

use crate::broker::Broker;
use crate::effect::Now;
use crate::inflight::Exchange;
use crate::ledger::Ledger;
use crate::record::{Durability, Record, RecordKey, RecordKind, SessionRecord, WillRecord};
use crate::replay::Replay;
use crate::session::{Link, Session};
use crate::slab::Key;
use crate::subscription::Subscribed;
use mqtt_proto::{ConnAck, Packet, PacketId, QoS, Will};
use std::sync::Arc;
use std::time::Duration;

impl Broker {
    /// Stores a session that has just been connected, and its will. A new one, or one that is kept for another
    /// time than before, is a promise of the CONNACK; that it is connected is only one where messages wait for it.
    pub(crate) fn record_live(&mut self, key: Key, is_same: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_kept = !session.ends_with_connection();
        if session.number != 0 {
            let (record_key, record) = (session.key(), session.record());
            // What waits is not sent before it is stored that it may have been ([MQTT-3.3.1-1]).
            if is_same && session.queue.is_empty() && session.replays.is_empty() {
                self.out.ledger.replace_unpromised(record_key, record);
            } else {
                self.out.ledger.replace(record_key, record);
            }
        } else if is_kept {
            self.record_session(key);
        }
        let Some(session) = self.sessions.get(key) else { return };
        let Link::Live(connection) = &session.link else { return };
        if let Some(will) = connection.will.as_deref().cloned().filter(|_| self.out.ledger.is_on()) {
            let number = self.out.ledger.next_number();
            if let Some(connection) = self.connection_mut(key) {
                connection.will_number = number;
            }
            self.record_will(key, &will, number, now);
        }
    }

    /// Stores a session for the first time.
    fn record_session(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key).filter(|_| self.out.ledger.is_on()) else { return };
        session.number = self.out.ledger.next_number();
        session.since_ticket = self.out.ledger.ticket();
        self.out.ledger.create(session.key(), session.record());
        let mut subscriptions = std::mem::take(&mut session.subscriptions);
        if !subscriptions.is_empty() {
            self.subscriptions.groups.doubt();
        }
        for (spelled, subscribed) in &mut subscriptions {
            self.out.ledger.subscribe(session, spelled, subscribed);
        }
        session.subscriptions = subscriptions;
    }

    /// Where the broker stores nothing by itself: with the first message whose rule says otherwise, the sessions
    /// that it may have to wait for are stored.
    pub(crate) fn wake(&mut self, asked: Option<Durability>) {
        let was_on = self.out.ledger.is_on();
        self.out.ledger.level_for(asked);
        if was_on || !self.out.ledger.is_on() {
            return;
        }
        for key in self.sessions.keys() {
            let session = self.sessions.get(key);
            if session.is_some_and(|s| s.number == 0 && !s.ends_with_connection()) {
                self.record_session(key);
            }
        }
    }

    /// Sends the CONNACK, as soon as the session and its will are stored.
    pub(crate) fn answer_connect(&mut self, key: Key, ack: ConnAck) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let since = session.since_ticket;
        let Link::Live(connection) = &mut session.link else { return };
        let packet = Packet::ConnAck(Box::new(ack));
        // Who has a session can go on with it while the disk fails, even if its will cannot be stored.
        let is_let_in = self.out.ledger.trouble.refuses() && self.out.ledger.is_stored(since);
        match self.out.ledger.answer_after(since).filter(|_| !is_let_in) {
            None => connection.send(packet, &mut self.out),
            Some(ticket) => {
                connection.gate.starting = true;
                connection.send_after(ticket, packet, &mut self.out);
            }
        }
    }

    /// Stores that a session has no connection any more.
    pub(crate) fn record_parked(&mut self, key: Key) {
        if let Some(session) = self.sessions.get(key).filter(|session| session.number != 0) {
            self.out.ledger.replace_unpromised(session.key(), session.record());
        }
    }

    /// Stores a will, and when it goes out if its client is gone.
    pub(crate) fn record_will(&mut self, key: Key, will: &Will, number: u64, now: Now) {
        let time = self.out.ledger.time(now);
        let Some(session) = self.sessions.get(key).filter(|_| number != 0) else { return };
        let due = match &session.link {
            Link::Live(_) => None,
            Link::Parked(_) => Some(time.after(Duration::from_secs(will.delay_secs.into()))),
        };
        let record = WillRecord {
            identity: Arc::clone(&session.identity),
            client_id: Arc::clone(&session.client_id),
            listener: session.listener.clone(),
            version: session.version,
            root: session.root,
            will: will.clone(),
            due,
        };
        let key = RecordKey::new(RecordKind::Will, number);
        self.out.ledger.replace(key, Record::Will(Box::new(record)));
    }

    pub(crate) fn forget_will(&mut self, number: u64) {
        if number != 0 {
            self.out.ledger.remove(RecordKey::new(RecordKind::Will, number));
        }
    }
}

impl Session {
    pub(crate) fn key(&self) -> RecordKey {
        RecordKey::new(RecordKind::Session, self.number)
    }

    pub(crate) fn held_key(&self, id: PacketId) -> RecordKey {
        RecordKey::owned(RecordKind::Held, self.number, id.get().into())
    }

    /// What waits in the queue has higher numbers than what was sent from it, which is in flight or gone, except for
    /// what was sent before a restart.
    fn highest_sent(&self) -> u64 {
        let in_flight = self.inflight.iter().filter_map(|(_, exchange)| match exchange {
            Exchange::Published(waiting) => Some(waiting.number),
            Exchange::Sent(_) | Exchange::Released | Exchange::Withdrawn(_) => None,
        });
        in_flight.max().unwrap_or(0).max(self.sent)
    }

    pub(crate) fn record(&self) -> Record {
        Record::Session(Box::new(SessionRecord {
            identity: Arc::clone(&self.identity),
            client_id: Arc::clone(&self.client_id),
            listener: self.listener.clone(),
            version: self.version,
            expiry: self.expiry,
            parked: match &self.link {
                Link::Live(_) => None,
                Link::Parked(parked) => Some((parked.since, parked.ends.map(|(_, wall)| wall))),
            },
            sent: matches!(self.link, Link::Parked(_)).then(|| self.highest_sent()),
            root: self.root,
        }))
    }
}

impl Ledger {
    /// Stores a subscription of a session, in place of the one on the same filter.
    pub(crate) fn subscribe(&mut self, session: &Session, spelled: &str, subscribed: &mut Subscribed) {
        let earlier = session.subscriptions.get(spelled).filter(|earlier| earlier.number != 0);
        // One that is stored already stays so, or its record would be left behind.
        if earlier.is_none() && !session.is_stored() {
            return;
        }
        subscribed.number = earlier.map_or_else(|| self.next_number(), |earlier| earlier.number);
        let same = earlier.filter(|earlier| earlier.asks_the_same(subscribed));
        let replay = session.replays.of(subscribed.ordinal);
        if let Some(same) = same
            && !replay.is_some_and(Replay::is_unanswered)
        {
            subscribed.owed = same.owed;
            return;
        }
        subscribed.owed = replay.is_some();
        let key = RecordKey::owned(RecordKind::Subscription, session.number, subscribed.number);
        let record = subscribed.record(replay.map(Replay::owed));
        // Who subscribes once more to what it has is answered even while the disk fails.
        if same.is_some() && self.trouble.refuses() {
            self.replace_unpromised(key, record);
        } else {
            self.replace(key, record);
        }
    }

    /// Removes a subscription of a session.
    pub(crate) fn unsubscribe(&mut self, session: &Session, subscribed: &Subscribed) {
        if subscribed.number != 0 {
            self.remove(RecordKey::owned(RecordKind::Subscription, session.number, subscribed.number));
        }
    }

    /// Removes a session with everything that is stored for it.
    pub(crate) fn end_session(&mut self, session: &Session) {
        if session.number == 0 {
            return;
        }
        self.remove(session.key());
        for subscribed in session.subscriptions.values() {
            self.unsubscribe(session, subscribed);
        }
        for waiting in session.queue.iter() {
            self.dequeue(session.number, waiting);
        }
        for (id, exchange) in session.inflight.iter() {
            match exchange {
                Exchange::Published(waiting) if waiting.qos == QoS::AtLeastOnce => {
                    self.dequeue(session.number, waiting);
                }
                Exchange::Published(waiting) => self.end_exchange(session.number, id, Some(waiting)),
                Exchange::Sent(_) | Exchange::Withdrawn(QoS::AtMostOnce | QoS::AtLeastOnce) => {}
                Exchange::Released | Exchange::Withdrawn(QoS::ExactlyOnce) => {
                    self.end_exchange(session.number, id, None);
                }
            }
        }
        for id in session.held.ids() {
            self.remove(session.held_key(id));
        }
    }
}
