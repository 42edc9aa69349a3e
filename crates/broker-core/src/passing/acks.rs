//! PUBACK, PUBREC, PUBREL and PUBCOMP on the short way.

use super::{Outboxes, Passing};
use crate::SharedMessage;
use crate::authority::facts;
use crate::broker::Broker;
use crate::held::HeldMessage;
use crate::inflight::Exchange;
use crate::ledger::Ledger;
use crate::output::Output;
use crate::session::Session;
use crate::slab::Key;
use mqtt_proto::{AckKind, PlainAck, QoS};

impl Session {
    /// Tells whether PUBACK, PUBREC or PUBCOMP of its client may go the short way: it is due, and nothing waits that would
    /// be sent now.
    fn may_acknowledge(&self, PlainAck { kind, packet_id }: PlainAck, ledger: &Ledger) -> bool {
        let Some(exchange) = self.inflight.get(packet_id) else { return false };
        if kind != AckKind::PubRec {
            return exchange.ends_with(kind) && self.is_clear() && self.replays.is_empty();
        }
        let is_new = match exchange {
            Exchange::Published(waiting) => waiting.qos == QoS::ExactlyOnce && waiting.number == 0,
            Exchange::Sent(qos) => *qos == QoS::ExactlyOnce,
            Exchange::Released | Exchange::Withdrawn(_) => false,
        };
        is_new && self.connection().is_some_and(|connection| connection.is_answered(ledger))
    }

    fn acknowledge(&mut self, ack: PlainAck, out: &mut Output) {
        let held = match ack.kind {
            AckKind::PubRec => self.inflight.advance(ack.packet_id, Exchange::Released),
            _ => self.end_exchange(ack.packet_id, out),
        };
        if let Some(message) = held {
            out.spare.put(message);
        }
    }
}

/// What a client is answered.
fn answer(ack: PlainAck) -> Option<PlainAck> {
    let kind = match ack.kind {
        AckKind::PubRec => AckKind::PubRel,
        AckKind::PubRel => AckKind::PubComp,
        AckKind::PubAck | AckKind::PubComp => return None,
    };
    Some(PlainAck { kind, ..ack })
}

impl Broker {
    /// Tells what an acknowledgement leads to that may go the short way.
    pub(super) fn may_acknowledge(&self, sender: Key, session: &Session, ack: PlainAck) -> Option<Passing> {
        if ack.kind == AckKind::PubRel {
            return self.may_release(sender, session, ack);
        }
        let may = session.may_acknowledge(ack, &self.out.ledger);
        may.then(|| Passing { onward: None, answer: answer(ack) })
    }

    fn may_release(&self, sender: Key, session: &Session, ack: PlainAck) -> Option<Passing> {
        let Some(HeldMessage::Accepted(message)) = session.held.get(ack.packet_id) else { return None };
        let connection = session.connection()?;
        let publish = message.plain()?;
        if session.number != 0 || !connection.is_answered(&self.out.ledger) {
            return None;
        }
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = connection.cache.look_for(publish.topic, at, &facts(message.publication()))?;
        if !self.is_prepared_for(decided) {
            return None;
        }
        let onward = self.onward(sender, decided, &publish)?;
        Some(Passing { onward: Some(onward), answer: answer(ack) })
    }

    pub(super) fn pass_ack(
        &mut self,
        sender: Key,
        ack: PlainAck,
        outboxes: &mut impl Outboxes,
    ) -> Option<()> {
        if ack.kind == AckKind::PubRel {
            return self.pass_pubrel(sender, ack, outboxes);
        }
        let Self { sessions, out, .. } = self;
        let session = sessions.get_mut(sender)?;
        if !session.may_acknowledge(ack, &out.ledger) {
            return None;
        }
        session.acknowledge(ack, out);
        out.answers.extend(answer(ack));
        Some(())
    }

    fn pass_pubrel(&mut self, sender: Key, ack: PlainAck, outboxes: &mut impl Outboxes) -> Option<()> {
        let Passing { onward, answer } = self.may_release(sender, self.sessions.get(sender)?, ack)?;
        let (onward, revision) = (onward?, self.authority.revision());
        let Self { sessions, subscriptions, out, .. } = self;
        let session = sessions.get_mut(sender)?;
        let Some(HeldMessage::Accepted(mut message)) = session.held.remove(ack.packet_id) else {
            return None;
        };
        let connection = session.connection_mut()?;
        connection.count_passed(&message.publication().topic);
        let source = &connection.cache.decided(&message.publication().topic)?.source;
        // Nobody else has it yet: nothing is copied.
        let released = SharedMessage::make_mut(&mut message);
        released.allow(&source.origin, revision);
        out.ledger.prepare(released, source.durability);
        out.answers.extend(answer);
        match onward.send(&message.plain()?, (sessions, &mut subscriptions.groups, out), outboxes) {
            Some(id) => onward.keep(id, message, sessions),
            None => out.spare.put(message),
        }
        Some(())
    }
}
