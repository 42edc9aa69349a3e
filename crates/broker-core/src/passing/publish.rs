//! PUBLISH on the short way. At QoS 0 no message is made of it, for nobody keeps it; at QoS 1 one is, for its receiver to
//! acknowledge; at QoS 2 one that waits for PUBREL.

use super::{Onward, Outboxes, Passing};
use crate::broker::Broker;
use crate::effect::Now;
use crate::message::Message;
use crate::session::Session;
use crate::slab::Key;
use bytes::Bytes;
use midge_policy::PublishFacts;
use mqtt_proto::{AckKind, PacketId, PlainAck, Publication, PublishRef, QoS, Version};
use std::sync::Arc;

impl Broker {
    /// Tells what a PUBLISH leads to that may go the short way.
    pub(super) fn may_publish(
        &self,
        sender: Key,
        session: &Session,
        publish: &PublishRef<'_>,
    ) -> Option<(Option<Onward>, Option<PlainAck>)> {
        if !publish.is_plain() {
            return None;
        }
        let connection = session.connection()?;
        let (topic, qos, payload_len) = (publish.topic?, publish.qos, publish.payload.len());
        let facts = PublishFacts { qos, retain: false, payload_len, response_topic: None };
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = connection.cache.look_for(topic, at, &facts)?;
        let answer = match publish.packet_id {
            None => None,
            // It may have to wait for what its client has said before, or for what its rule has the broker store from
            // now on.
            Some(packet_id) => {
                if !(connection.is_answered(&self.out.ledger) && self.is_prepared_for(decided)) {
                    return None;
                }
                let kind = if qos == QoS::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
                Some(PlainAck { kind, packet_id })
            }
        };
        let onward = match (qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                let is_held = decided.is_free() && self.holds_in_passing(session, id, publish);
                return is_held.then_some((None, answer));
            }
            _ => self.onward(sender, decided, publish)?,
        };
        Some((Some(onward), answer))
    }

    /// Whether a message of QoS 2 is a new one, and there is room for it that nobody has to be told of.
    fn holds_in_passing(&self, session: &Session, id: PacketId, publish: &PublishRef<'_>) -> bool {
        let held = &session.held;
        let receive_max = usize::from(self.config.receive_max.get());
        !session.is_stored()
            && (session.version == Version::V311 || held.len() < receive_max)
            && held.has_room(Message::cost_of_plain(publish), &self.config)
            && !held.contains(id)
    }

    pub(super) fn pass_publish(
        &mut self,
        passing: &Passing,
        publish: &PublishRef<'_>,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) {
        self.count_in(passing.sender, publish.payload.len());
        let Some(onward) = &passing.onward else {
            return self.hold_in_passing(passing.sender, publish, now).unwrap_or(());
        };
        if let Some(connection) = self.connection_mut(passing.sender) {
            publish.topic.into_iter().for_each(|topic| connection.count_passed(topic));
        }
        let message = match onward.qos {
            QoS::AtMostOnce => None,
            _ => self.message_in_passing(passing.sender, publish, now),
        };
        self.send_onward(onward, *publish, message.as_ref(), outboxes);
    }

    /// Makes a message of it, to be kept.
    fn message_in_passing(
        &mut self,
        sender: Key,
        publish: &PublishRef<'_>,
        now: Now,
    ) -> Option<Arc<Message>> {
        let decided = self.connection_mut(sender)?.cache.decided(publish.topic?)?;
        let (origin, durability) = (Arc::clone(&decided.source.origin), decided.source.durability);
        let mut message = Message::new(publication(publish)?, origin, self.authority.revision(), now.mono);
        self.prepare(&mut message, durability);
        Some(Arc::new(message))
    }

    fn hold_in_passing(&mut self, sender: Key, publish: &PublishRef<'_>, now: Now) -> Option<()> {
        let connection = self.sessions.get(sender).and_then(Session::connection)?;
        let source = &connection.cache.decided(publish.topic?)?.source;
        let from = (Arc::clone(&source.origin), source.durability);
        self.hold_accepted(sender, publish.packet_id?, publication(publish)?, from, now);
        Some(())
    }
}

fn publication(publish: &PublishRef<'_>) -> Option<Publication> {
    let payload = Bytes::copy_from_slice(publish.payload);
    let topic = publish.topic?.clone();
    Some(Publication { topic, payload, qos: publish.qos, retain: false, properties: None })
}
