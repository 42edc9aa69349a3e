//! Answers that wait until what they promise is stored, in their order.
//!
//! What promises nothing passes by: QoS 0 messages, QoS 1 messages unless one of QoS 2 waits before them,
//! PINGRESP. Only before CONNACK everything waits,
//! since that is the first packet of a connection ([MQTT-3.2.0-1]).

use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::{Delivery, Effect, Now};
use crate::ledger::StoreTrouble;
use crate::output::Output;
use crate::session::Session;
use crate::slab::Key;
use mqtt_proto::{Packet, PacketId, Version, encoded_len};
use std::collections::VecDeque;

/// What of one connection waits for the store.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Whether CONNACK is among it.
    pub(crate) starting: bool,
    /// The newest ticket that anything of this session waited for, on this connection or an earlier one.
    pub(crate) barrier: u64,
    waiting: VecDeque<(u64, Gated)>,
    /// Messages among it.
    deliveries: usize,
}

impl Gate {
    /// The ticket of the last thing that waits.
    pub(crate) fn last(&self) -> Option<u64> {
        self.waiting.back().map(|(ticket, _)| *ticket)
    }

    /// The ticket that a message which itself promises nothing waits for, so that it passes none before it.
    pub(crate) fn behind_deliveries(&self) -> Option<u64> {
        (self.deliveries > 0).then_some(self.barrier)
    }
}

#[derive(Debug)]
enum Gated {
    Packet(Packet),
    Delivery(Box<Delivery>),
}

impl Connection {
    /// Sends the answer to the input at hand, as soon as everything it promises is stored.
    pub(crate) fn answer(&mut self, packet: Packet, out: &mut Output) {
        match out.ledger.answer_after(self.gate.barrier) {
            None => self.send(packet, out),
            Some(ticket) => self.send_after(ticket, packet, out),
        }
    }

    /// Sends a packet as soon as everything that this session waits for is stored.
    pub(crate) fn send_in_turn(&mut self, packet: Packet, out: &mut Output) {
        if out.ledger.is_stored(self.gate.barrier) {
            self.send(packet, out);
        } else {
            self.send_after(self.gate.barrier, packet, out);
        }
    }

    pub(crate) fn send_after(&mut self, ticket: u64, packet: Packet, out: &mut Output) {
        self.unsent = self.unsent.saturating_add(encoded_len(&packet, Version::V5));
        out.metrics.packets_out += 1;
        self.gate(ticket, Gated::Packet(packet), out);
    }

    /// Sends a message as soon as this ticket is stored. Its bytes have been counted. It passes none before
    /// it that wait still though their tickets are stored: their connection's turn has not come then.
    pub(crate) fn deliver_after(&mut self, ticket: u64, delivery: Delivery, out: &mut Output) {
        if out.ledger.is_stored(ticket) && !self.gate.starting && self.gate.deliveries == 0 {
            out.effects.push_back(Effect::Deliver { conn: self.id, delivery });
        } else {
            self.gate.deliveries += 1;
            self.gate(ticket, Gated::Delivery(Box::new(delivery)), out);
        }
    }

    fn gate(&mut self, ticket: u64, gated: Gated, out: &mut Output) {
        self.gate.barrier = self.gate.barrier.max(ticket);
        if self.gate.waiting.is_empty() {
            out.ledger.gated.push(self.id);
        }
        self.gate.waiting.push_back((self.gate.barrier, gated));
    }

    /// Sends what no longer has to wait, up to a message, which is returned: whether it may leave is to be asked again.
    fn open_gate(&mut self, out: &mut Output) -> Option<Box<Delivery>> {
        let conn = self.id;
        while self.gate.waiting.front().is_some_and(|(ticket, _)| out.ledger.is_stored(*ticket))
            && let Some((_, gated)) = self.gate.waiting.pop_front()
        {
            match gated {
                Gated::Packet(packet) => {
                    self.gate.starting &= !matches!(packet, Packet::ConnAck(_));
                    out.effects.push_back(Effect::Send { conn, packet });
                }
                Gated::Delivery(delivery) => {
                    self.gate.deliveries -= 1;
                    return Some(delivery);
                }
            }
        }
        if !self.gate.waiting.is_empty() {
            out.ledger.gated.push(conn);
        }
        None
    }
}

impl Broker {
    /// Says that every batch up to this ticket is stored at its level.
    pub fn handle_stored(&mut self, ticket: u64, now: Now) {
        self.out.ledger.mark_stored(ticket);
        for conn in std::mem::take(&mut self.out.ledger.gated) {
            let Some(&key) = self.conns.get(&conn) else { continue };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let Some(connection) = session.connection_mut() else { continue };
            let was_starting = connection.gate.starting;
            let (mut has_room, mut over) = (false, Vec::new());
            while let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut)
                && let Some(delivery) = connection.open_gate(&mut self.out)
            {
                has_room |= !self.deliver_stored(key, *delivery, &mut over, now);
            }
            if let Some(session) = self.sessions.get_mut(key) {
                over.into_iter().for_each(|id| drop(session.end_exchange(id, &mut self.out)));
            }
            if self.end_answered(key, now) {
                continue;
            }
            let Some(session) = self.sessions.get(key) else { continue };
            let has_started = was_starting && session.connection().is_some_and(|c| !c.gate.starting);
            if has_started || has_room || !session.replays.is_empty() {
                self.pump(key, now);
            }
        }
    }

    /// Ends a connection from which nothing more comes once it has got every answer; tells whether it did.
    fn end_answered(&mut self, key: Key, now: Now) -> bool {
        let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut) else {
            return false;
        };
        let ledger = &self.out.ledger;
        let is_answered = connection.ends_after.take_if(|(ticket, _)| ledger.is_stored(*ticket));
        let Some((_, reason)) = is_answered else { return false };
        self.cut(key, reason, now);
        true
    }

    /// Sends a message whose turn has come, if it still may be sent: its time and rights may be over since it began to
    /// wait. Otherwise returns false, and adds its identifier to those that are over, if it is.
    fn deliver_stored(&mut self, key: Key, delivery: Delivery, over: &mut Vec<PacketId>, now: Now) -> bool {
        let (sessions, mut release) = self.release(now);
        let Some(session) = sessions.get_mut(key) else { return true };
        let may_leave = session.may_leave(&delivery, &mut release);
        let Some(connection) = session.connection_mut() else { return true };
        if may_leave {
            let expiry_secs = delivery.message.expiry_left_secs(now);
            let delivery = Delivery { expiry_secs, ..delivery };
            release.out.effects.push_back(Effect::Deliver { conn: connection.id, delivery });
        } else {
            connection.unsent = connection.unsent.saturating_sub(delivery.bytes());
            over.extend(session.withdraw_unsent(&delivery, &mut release));
        }
        may_leave
    }

    /// Says what the store cannot take from now on, or that it can again.
    pub fn handle_store_trouble(&mut self, trouble: StoreTrouble) {
        self.out.ledger.trouble = trouble;
    }
}
