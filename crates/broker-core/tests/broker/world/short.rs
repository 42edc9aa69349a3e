//! The short way of packets in a [`World`], and that it ends where the long one does.

use super::World;
use crate::spelling::{packet_of, spell, spell_plain};
use broker_core::{ConnId, Effect, Outboxes, Passing};
use bytes::BytesMut;
use mqtt_proto::*;

/// How much a world had seen of what goes the short way, at one time.
pub(super) struct Mark {
    deliveries: usize,
    audits: usize,
    batches: usize,
    answers: usize,
}

/// What goes the short way, in its order.
#[derive(Default)]
struct Sent(Vec<(ConnId, Packet, usize)>);

impl Outboxes for Sent {
    fn publish(&mut self, conn: ConnId, publish: &PlainPublish<'_>, bytes: usize) {
        self.0.push((conn, Packet::from(*publish), bytes));
    }

    fn acks(&mut self, conn: ConnId, acks: &[PlainAck]) {
        self.0.extend(acks.iter().map(|ack| (conn, Packet::from(*ack), PlainAck::BYTES)));
    }
}

impl World {
    /// What a packet would lead to that may go the short way now.
    pub(crate) fn passing(&self, conn: ConnId, packet: &Packet) -> Option<Passing> {
        self.broker.passing(conn, &Plain::of(packet)?, self.now)
    }

    /// Sends a packet as the shell does: the short way, where it is open.
    pub(crate) fn send_shortly(&mut self, conn: ConnId, packet: Packet) {
        match self.passing(conn, &packet) {
            Some(_) => self.send_all_shortly(conn, &[packet]),
            None => self.send(conn, packet),
        }
    }

    /// Sends packets as the shell does that were read together, all of which go the short way.
    pub(crate) fn send_all_shortly(&mut self, conn: ConnId, packets: &[Packet]) {
        let version = self.wire.version(conn);
        let (mut bytes, mut decoder) = (BytesMut::new(), Decoder::client(version, Limits::default()));
        for packet in packets {
            let before = bytes.len();
            encode(packet, version, &mut bytes).unwrap();
            // Its topic is one of the last.
            decoder.decode(&mut BytesMut::from(&bytes[before..])).unwrap();
            *self.short_ways.entry(packet.packet_type().name()).or_default() += 1;
        }
        let (mut run, mut sent) = (decoder.plain_run(&bytes).unwrap(), Sent::default());
        let taken = self.broker.handle_plain(conn, &mut run, packets.len(), self.now, &mut sent);
        assert_eq!((taken, run.used()), (packets.len(), bytes.len()), "{packets:?}");
        for (conn, packet, bytes) in sent.0 {
            let text = match &packet {
                Packet::Publish(publish) => {
                    assert_eq!(encoded_len(&packet, self.wire.version(conn)), bytes, "{publish:?}");
                    spell_plain(publish)
                }
                ack => {
                    let text = spell(ack);
                    self.check(&Effect::Send { conn, packet });
                    text
                }
            };
            self.seen.entry(conn).or_default().push(text);
            if self.flushing && !self.is_deaf(conn) {
                self.broker.handle_flushed(conn, bytes, self.now);
            }
        }
        self.settle();
    }

    pub(super) fn mark(&self, conn: ConnId) -> Mark {
        Mark {
            deliveries: self.deliveries.len(),
            audits: self.audits.len(),
            batches: self.disk.pending.len(),
            answers: self.seen.get(&conn).map_or(0, Vec::len),
        }
    }

    /// Holds what a packet has led to on the long way against what was told of the short one.
    pub(super) fn hold_against(&mut self, passing: &Passing, conn: ConnId, packet: &Packet, before: &Mark) {
        *self.short_ways.entry(packet.packet_type().name()).or_default() += 1;
        let after = self.mark(conn);
        let answers = &self.seen.get(&conn).map(Vec::as_slice).unwrap_or_default()[before.answers..];
        let expected: Vec<_> = passing.answer.map(|ack| spell(&ack.into())).into_iter().collect();
        assert_eq!(answers, expected, "{packet:?}");
        assert_eq!(after.audits, before.audits, "{packet:?}");
        // That an exchange is over is noted for whoever comes after this run; nobody waits for it.
        let is_last = matches!(packet, Packet::PubAck(_) | Packet::PubComp(_));
        assert!(is_last || after.batches == before.batches, "{packet:?}");
        assert_eq!(self.paused_until, None);
        let deliveries = &self.deliveries[before.deliveries..];
        let Some(onward) = passing.onward else { return assert_eq!(deliveries, [], "{packet:?}") };
        let [(receiver, delivery)] = deliveries else { panic!("{packet:?}: {deliveries:?}") };
        assert_eq!((*receiver, delivery.bytes()), (onward.conn, onward.bytes), "{packet:?}");
        let sent = packet_of(delivery);
        assert_eq!(sent.qos, onward.qos);
        match packet {
            Packet::Publish(publish) => {
                assert_eq!(sent, Publish { qos: sent.qos, packet_id: sent.packet_id, ..(**publish).clone() });
            }
            packet => {
                let kind = PlainAck::of(packet).map(|ack| ack.kind);
                let is_plain = PlainPublish::of(&PublishRef::from(&sent)).is_some();
                assert!(
                    kind == Some(AckKind::PubRel) && is_plain && sent.qos <= QoS::ExactlyOnce,
                    "{sent:?}"
                );
            }
        }
    }
}
