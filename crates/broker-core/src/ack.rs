//! Acknowledgements of what clients were sent (MQTT 5.0 §4.3).

use crate::SharedMessage;
use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::inflight::Exchange;
use crate::output::Output;
use crate::queue::Waiting;
use crate::record::OutgoingState;
use crate::session::{Link, Session};
use crate::slab::Key;
use mqtt_proto::{Ack, AckKind, Packet, PacketId, QoS, ReasonCode};

impl Broker {
    /// Ends a QoS 1 exchange. A reason of 0x80 and above ends it too: the message is not sent again
    /// ([MQTT-4.8.2-6]).
    pub(crate) fn take_puback(&mut self, key: Key, ack: &Ack, now: Now) {
        self.finish(key, ack.packet_id, now, |exchange| exchange.ends_with(AckKind::PubAck));
    }

    /// Answers PUBREC: from here on the message belongs to the client.
    pub(crate) fn take_pubrec(&mut self, key: Key, ack: &Ack, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let failed = ack.reason as u8 >= 0x80;
        let reason = match session.inflight.get(ack.packet_id) {
            Some(
                Exchange::Published(Waiting { qos, .. }) | Exchange::Sent(qos) | Exchange::Withdrawn(qos),
            ) if *qos != QoS::ExactlyOnce => {
                return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
            }
            // [MQTT-4.3.3-4]: no PUBREL follows an error.
            Some(_) if failed => return self.finish(key, ack.packet_id, now, |_| true),
            Some(exchange) => {
                match exchange {
                    Exchange::Published(waiting) => {
                        let state = OutgoingState::Released;
                        self.out.ledger.settle(session.number, ack.packet_id, waiting, state);
                    }
                    Exchange::Withdrawn(_) if session.is_stored() => {
                        self.out.ledger.release_withdrawn(session.number, ack.packet_id);
                    }
                    Exchange::Sent(_) | Exchange::Withdrawn(_) | Exchange::Released => {}
                }
                session.inflight.advance(ack.packet_id, Exchange::Released);
                ReasonCode::Success
            }
            None if failed => return,
            None => ReasonCode::PacketIdentifierNotFound,
        };
        let Link::Live(connection) = &mut session.link else { return };
        let ack = connection.ack(ack.packet_id, reason, None);
        connection.answer(Packet::PubRel(ack), &mut self.out);
    }

    /// Ends a QoS 2 exchange.
    pub(crate) fn take_pubcomp(&mut self, key: Key, ack: &Ack, now: Now) {
        self.finish(key, ack.packet_id, now, |exchange| exchange.ends_with(AckKind::PubComp));
    }

    /// Ends an exchange that is as far as that, and sends what has room then.
    fn finish(&mut self, key: Key, id: PacketId, now: Now, is_due: impl FnOnce(&Exchange) -> bool) {
        let (sessions, mut release) = self.release(now);
        let Some(session) = sessions.get_mut(key) else { return };
        // An identifier of before a restart: not an error the client could do anything about.
        let Some(exchange) = session.inflight.get(id) else { return };
        if !is_due(exchange) {
            return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
        }
        session.end_exchange(id, release.out);
        if session.goes_on_in_line(&mut release) {
            self.backlog.line.push_back(key);
        }
    }
}

impl Session {
    /// Ends an exchange, and leaves it to the caller to send what has room then. Returns the message
    /// that it held.
    pub(crate) fn end_exchange(&mut self, id: PacketId, out: &mut Output) -> Option<SharedMessage> {
        let (exchange, counted) = self.inflight.remove(id)?;
        match &exchange {
            Exchange::Published(waiting) if waiting.qos == QoS::AtLeastOnce => {
                out.ledger.dequeue(self.number, waiting);
            }
            Exchange::Published(waiting) => {
                out.ledger.end_exchange(self.number, id, Some(waiting));
            }
            // Nothing is stored of one that was withdrawn at QoS 1.
            Exchange::Sent(_) | Exchange::Withdrawn(QoS::AtMostOnce | QoS::AtLeastOnce) => {}
            Exchange::Released | Exchange::Withdrawn(QoS::ExactlyOnce) => {
                out.ledger.end_exchange(self.number, id, None);
            }
        }
        if counted && let Link::Live(connection) = &mut self.link {
            connection.give_back_quota();
        }
        exchange.into_message()
    }
}
