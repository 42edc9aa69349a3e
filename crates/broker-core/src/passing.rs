//! The short way of packets that are ordinary in every respect, as most are: a PUBLISH that has one receiver who takes it
//! at once, and the acknowledgements that follow. Nothing is made of them but what somebody has to keep: from the read
//! buffer they go into the outbox of whoever they are for.
//!
//! Whether a packet may go it is asked beforehand, and changes nothing; all else takes the long way
//! ([`Broker::handle_packet`]). Both ways end in the same, and tests walk both.

mod acks;
mod publish;

use crate::StoreTrouble;
use crate::broker::Broker;
use crate::connection::Connection;
use crate::decided::{Decided, Refuses};
use crate::effect::{ConnId, Now};
use crate::ledger::Ledger;
use crate::message::Message;
use crate::queue::Waiting;
use crate::session::Session;
use crate::slab::Key;
use mqtt_proto::{AckKind, PacketId, Plain, PlainAck, PublishRef, QoS, publish_len};
use std::sync::Arc;

/// What a packet leads to that may go the short way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// What goes on to a receiver.
    pub onward: Option<Onward>,
    /// What its sender is answered behind that.
    pub answer: Option<PlainAck>,
    conn: ConnId,
    sender: Key,
}

/// A PUBLISH that goes on to a receiver as it came, but for QoS and packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The receiver's connection.
    pub conn: ConnId,
    /// At which QoS it goes there.
    pub qos: QoS,
    /// Length of the encoded PUBLISH in bytes, which count against the connection until [`Broker::handle_flushed`].
    pub bytes: usize,
    receiver: Key,
}

/// Where the shell has what goes the short way sent.
pub trait Outboxes {
    /// Encodes a PUBLISH of so many bytes and writes it.
    fn publish(&mut self, conn: ConnId, publish: &PublishRef<'_>, bytes: usize);
    /// Writes an acknowledgement.
    fn ack(&mut self, conn: ConnId, ack: PlainAck);
}

impl Broker {
    /// Tells what a packet leads to that may go the short way now; all effects have been carried out before. The shell
    /// hands it over right after that ([`Self::handle_passing`]), or as any other packet.
    #[inline]
    pub fn passing(&self, conn: ConnId, packet: &Plain<'_>, now: Now) -> Option<Passing> {
        let is_quiet = self.out.effects.is_empty() && self.authority.witness.is_none();
        if !is_quiet || self.out.ledger.trouble != StoreTrouble::None {
            return None;
        }
        let sender = self.key_of(conn)?;
        let session = self.sessions.get(sender).filter(|session| session.is_undisturbed(now))?;
        let (onward, answer) = match packet {
            Plain::Publish(publish) => self.may_publish(sender, session, publish)?,
            Plain::Ack(PlainAck { kind: AckKind::PubRel, packet_id }) => {
                self.may_be_released(sender, session, *packet_id)?
            }
            Plain::Ack(ack) => (None, session.may_acknowledge(*ack, &self.out.ledger)?),
        };
        Some(Passing { onward, answer, conn, sender })
    }

    /// Takes a packet right after it was asked about, and has sent what it leads to. A message of QoS 1 or 2 that has
    /// no packet identifier any more is dropped.
    #[inline]
    pub fn handle_passing(
        &mut self,
        passing: &Passing,
        packet: &Plain<'_>,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) {
        self.latest = Some((passing.conn, passing.sender));
        self.out.metrics.packets_in += 1;
        if let Some(connection) = self.connection_mut(passing.sender) {
            connection.last_seen = now.mono;
        }
        match packet {
            Plain::Publish(publish) => self.pass_publish(passing, publish, now, outboxes),
            Plain::Ack(ack) => self.pass_ack(passing, *ack, outboxes),
        }
        let Self { sessions, out, .. } = self;
        if let Some(answer) = passing.answer
            && let Some(connection) = sessions.get_mut(passing.sender).and_then(Session::connection_mut)
        {
            connection.unsent = connection.unsent.saturating_add(PlainAck::BYTES);
            out.metrics.packets_out += 1;
            outboxes.ack(passing.conn, answer);
        }
        self.cut_slow(passing.sender, now);
    }

    /// Returns to whom alone a PUBLISH goes, for whom nothing has to be stored or told of it.
    fn onward(&self, sender: Key, decided: &Decided, publish: &PublishRef<'_>) -> Option<Onward> {
        let (receiver, granted) = decided.sole_receiver().filter(|(receiver, _)| *receiver != sender)?;
        let qos = publish.qos.min(granted);
        let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let onward = PublishRef { qos, packet_id, ..*publish };
        let (conn, bytes) = self.sessions.get(receiver)?.takes_in_passing(&onward, self)?;
        Some(Onward { conn, qos, bytes, receiver })
    }

    /// Whether its rule has the broker store nothing that it has not stored before.
    fn is_prepared_for(&self, decided: &Decided) -> bool {
        decided.source.durability.is_none() || self.out.ledger.is_on()
    }

    /// Has a PUBLISH sent to its receiver, and the message kept for that one to acknowledge, if it is to.
    fn send_onward(
        &mut self,
        onward: &Onward,
        publish: PublishRef<'_>,
        message: Option<&Arc<Message>>,
        outboxes: &mut impl Outboxes,
    ) {
        let Self { sessions, out, .. } = self;
        let Some(session) = sessions.get_mut(onward.receiver) else { return };
        let mut packet_id = None;
        if let Some(message) = message {
            packet_id = session.inflight.reserve(None);
            let Some(id) = packet_id else {
                out.metrics.dropped.queue_full += 1;
                return;
            };
            let waiting = Waiting::new(Arc::clone(message), onward.qos);
            session.inflight.fill(id, Waiting { packet_id, ..waiting });
        }
        if let Some(connection) = session.connection_mut() {
            connection.quota = connection.quota.saturating_sub(message.map_or(0, |_| 1));
            connection.count_out(onward.bytes, publish.payload.len(), &mut out.metrics);
        }
        outboxes.publish(onward.conn, &PublishRef { qos: onward.qos, packet_id, ..publish }, onward.bytes);
    }
}

impl Connection {
    /// Whether what it is answered now would wait for nothing.
    fn is_answered(&self, ledger: &Ledger) -> bool {
        ledger.is_stored(self.gate.barrier) && !self.gate.starting
    }
}

impl Decided {
    /// Whether nothing has to be counted for such a message, and no queue asked.
    fn is_free(&self) -> bool {
        self.limited.is_empty() && self.source.refuses == Refuses::No
    }

    /// Returns who alone gets such a message and at which QoS, where nothing has to be counted or told beside it.
    fn sole_receiver(&self) -> Option<(Key, QoS)> {
        let route = &self.route;
        let is_plain = self.is_free() && route.groups.is_empty() && route.refused.is_empty();
        match &*route.targets {
            [target] if is_plain && target.grant.ids.is_none() => Some((target.session, target.grant.qos)),
            _ => None,
        }
    }
}

impl Session {
    /// Returns by which connection and with how many bytes it takes such a PUBLISH, if it does.
    fn takes_in_passing(&self, publish: &PublishRef<'_>, broker: &Broker) -> Option<(ConnId, usize)> {
        let is_stored = publish.qos != QoS::AtMostOnce && self.is_stored();
        if is_stored || !self.replays.is_empty() || !self.is_ready(publish.qos, &broker.config) {
            return None;
        }
        let connection = self.connection()?;
        let is_next =
            connection.gate.behind_deliveries().is_none() && connection.aliases_out.leaves(publish.topic?);
        let bytes = publish_len(publish, connection.version);
        (is_next && bytes <= connection.packet_size_max).then_some((connection.id, bytes))
    }
}
