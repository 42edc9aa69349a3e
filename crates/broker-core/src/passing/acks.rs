//! PUBACK, PUBREC, PUBREL and PUBCOMP on the short way.

use super::{Onward, Outboxes, Passing};
use crate::authority::facts;
use crate::broker::Broker;
use crate::held::HeldMessage;
use crate::inflight::Exchange;
use crate::ledger::Ledger;
use crate::message::plain;
use crate::session::Session;
use crate::slab::Key;
use mqtt_proto::{AckKind, PacketId, PlainAck, PublishRef, QoS};
use std::sync::Arc;

impl Session {
    /// Tells what a client is answered whose PUBACK, PUBREC or PUBCOMP may go the short way: it is due, and nothing waits
    /// that would be sent now.
    pub(super) fn may_acknowledge(&self, ack: PlainAck, ledger: &Ledger) -> Option<Option<PlainAck>> {
        let PlainAck { kind, packet_id } = ack;
        let exchange = self.inflight.get(packet_id)?;
        if kind != AckKind::PubRec {
            let is_last = self.is_clear() && self.replays.is_empty();
            return (is_last && exchange.ends_with(kind)).then_some(None);
        }
        let is_new = matches!(exchange, Exchange::Published(waiting)
            if waiting.qos == QoS::ExactlyOnce && waiting.number == 0);
        let is_answered = self.connection()?.is_answered(ledger);
        (is_new && is_answered).then_some(Some(PlainAck { kind: AckKind::PubRel, packet_id }))
    }
}

impl Broker {
    /// Tells what a PUBREL leads to that may go the short way.
    pub(super) fn may_be_released(
        &self,
        sender: Key,
        session: &Session,
        packet_id: PacketId,
    ) -> Option<(Option<Onward>, Option<PlainAck>)> {
        let Some(HeldMessage::Accepted(message)) = session.held.get(packet_id) else { return None };
        let connection = session.connection()?;
        let publish = PublishRef { qos: QoS::ExactlyOnce, packet_id: Some(packet_id), ..plain(message.publication()) };
        if session.number != 0 || !publish.is_plain() || !connection.is_answered(&self.out.ledger) {
            return None;
        }
        let publication = message.publication();
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = connection.cache.look_for(&publication.topic, at, &facts(publication))?;
        if !self.is_prepared_for(decided) {
            return None;
        }
        let onward = self.onward(sender, decided, &publish)?;
        Some((Some(onward), Some(PlainAck { kind: AckKind::PubComp, packet_id })))
    }

    pub(super) fn pass_ack(&mut self, passing: &Passing, ack: PlainAck, outboxes: &mut impl Outboxes) {
        let Some(session) = self.sessions.get_mut(passing.sender) else { return };
        match ack.kind {
            AckKind::PubAck | AckKind::PubComp => session.end_exchange(ack.packet_id, &mut self.out),
            AckKind::PubRec => session.inflight.advance(ack.packet_id, Exchange::Released),
            AckKind::PubRel => drop(self.release_in_passing(passing, ack.packet_id, outboxes)),
        }
    }

    fn release_in_passing(&mut self, passing: &Passing, id: PacketId, outboxes: &mut impl Outboxes) -> Option<()> {
        let onward = passing.onward.as_ref()?;
        let revision = self.authority.revision();
        let session = self.sessions.get_mut(passing.sender)?;
        let Some(HeldMessage::Accepted(mut message)) = session.held.remove(id) else { return None };
        let connection = session.connection_mut()?;
        connection.count_passed(&message.publication().topic);
        let source = &connection.cache.decided(&message.publication().topic)?.source;
        // Nobody else has it yet: nothing is copied.
        let released = Arc::make_mut(&mut message);
        released.allow(&source.origin, revision);
        let durability = source.durability;
        self.prepare(released, durability);
        let kept = (onward.qos != QoS::AtMostOnce).then_some(&message);
        self.send_onward(onward, plain(message.publication()), kept, outboxes);
        Some(())
    }
}
