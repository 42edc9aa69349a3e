//! PUBLISH on the short way. A message is made of it only where somebody keeps it: at QoS 2 until PUBREL, and for a
//! receiver whose session outlives its connection or who shares the subscription, until that one acknowledges it.

use super::{Outboxes, Passing};
use crate::broker::Broker;
use crate::effect::Now;
use crate::held::HeldMessage;
use crate::message::Message;
use crate::session::Session;
use crate::slab::Key;
use midge_policy::PublishFacts;
use mqtt_proto::{AckKind, PacketId, PlainAck, PlainPublish, QoS, Version};

impl Broker {
    /// Tells what a PUBLISH leads to that may go the short way.
    pub(super) fn may_publish(
        &self,
        sender: Key,
        session: &Session,
        publish: &PlainPublish<'_>,
    ) -> Option<Passing> {
        let connection = session.connection()?;
        let (topic, qos, payload_len) = (publish.topic, publish.qos, publish.payload.len());
        let facts = PublishFacts { qos, retain: false, payload_len, response_topic: None };
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = connection.cache.look_for(topic, at, &facts)?;
        // The answer may have to wait for what its client has said before, or for what its rule has the broker store from
        // now on.
        let is_answered = || connection.is_answered(&self.out.ledger) && self.is_prepared_for(decided);
        let Some(packet_id) = publish.packet_id else {
            let onward = self.onward(sender, decided, publish)?;
            return Some(Passing { onward: Some(onward), answer: None });
        };
        if !is_answered() {
            return None;
        }
        if qos == QoS::ExactlyOnce {
            let is_held = decided.is_free() && self.holds_in_passing(session, packet_id, publish);
            let answer = Some(PlainAck { kind: AckKind::PubRec, packet_id });
            return is_held.then_some(Passing { onward: None, answer });
        }
        let onward = self.onward(sender, decided, publish)?;
        let answer = Some(PlainAck { kind: AckKind::PubAck, packet_id });
        Some(Passing { onward: Some(onward), answer })
    }

    /// Whether a message of QoS 2 is a new one, and there is room for it that nobody has to be told of.
    fn holds_in_passing(&self, session: &Session, id: PacketId, publish: &PlainPublish<'_>) -> bool {
        let held = &session.held;
        let receive_max = usize::from(self.config.receive_max.get());
        !session.is_stored()
            && (session.version == Version::V311 || held.len() < receive_max)
            && held.has_room(Message::cost_of_plain(publish.topic, publish.payload), &self.config)
            && !held.contains(id)
    }

    pub(super) fn pass_publish(
        &mut self,
        sender: Key,
        publish: &PlainPublish<'_>,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) -> Option<()> {
        let Passing { onward, answer } = self.may_publish(sender, self.sessions.get(sender)?, publish)?;
        let (revision, topic) = (self.authority.revision(), publish.topic);
        let Self { sessions, subscriptions, out, .. } = self;
        let session = sessions.get_mut(sender)?;
        let connection = session.connection_mut()?;
        let source = connection.cache.decided(topic).map(|decided| &decided.source)?;
        connection.messages_in += 1;
        out.metrics.messages_in += 1;
        out.metrics.payload_bytes_in += publish.payload.len() as u64;
        out.answers.extend(answer);
        let (durability, since) = (source.durability, (revision, now.mono));
        let Some(onward) = onward else {
            out.ledger.level_for(durability);
            let message = out.spare.make(publish, &source.origin, since, |_| {});
            session.held.insert(publish.packet_id?, HeldMessage::Accepted(message));
            return Some(());
        };
        let message = onward.is_kept.then(|| {
            let prepare = |message: &mut Message| out.ledger.prepare(message, durability);
            out.spare.make(publish, &source.origin, since, prepare)
        });
        connection.count_passed(topic);
        let groups = &mut subscriptions.groups;
        if let Some((id, message)) = onward.send(publish, (sessions, groups, out), outboxes).zip(message) {
            onward.keep(id, message, sessions);
        }
        Some(())
    }
}
