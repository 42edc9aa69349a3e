//! Messages that would have to be stored while the disk has much to catch up with: their publishers are left unread.
//!
//! What ends this is the disk alone. What waits to be written becomes less by being written, for which no client has to
//! be read: so nobody waits for somebody who is left unread, whatever else that one would acknowledge. No message is put
//! off for longer than `store_wait_max`: should the disk never answer, everyone is read in the end all the same, up to
//! where the shell lets no more wait ([`StoreTrouble::Full`]).

use crate::authority::facts;
use crate::broker::Broker;
use crate::effect::{ConnId, Now};
use crate::held::HeldMessage;
use crate::ledger::StoreTrouble;
use crate::record::Durability;
use crate::route::Route;
use crate::session::Session;
use crate::slab::Key;
use midge_policy::PublishFacts;
use mqtt_proto::{Packet, QoS, ReasonCode, TopicName};
use std::time::Duration;

/// How long a client is left unread before it is seen whether the disk has caught up: a part of the time that the disk
/// takes for what may wait, so that it does not run out of work meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

impl Broker {
    /// Tells whether the shell must keep a packet for now, and until when (monotonic). It asks before each
    /// [`Self::handle_packet`], and again then; what follows on the connection stays unread meanwhile.
    #[inline]
    pub fn puts_off(&mut self, conn: ConnId, packet: &Packet, now: Now) -> Option<Duration> {
        if self.out.ledger.trouble != StoreTrouble::Busy {
            return None;
        }
        self.put_off(conn, packet, now)
    }

    #[cold]
    fn put_off(&mut self, conn: ConnId, packet: &Packet, now: Now) -> Option<Duration> {
        let key = *self.conns.get(&conn)?;
        // An earlier one was taken since: whatever is taken shows in `last_seen`.
        let connection = self.connection_mut(key)?;
        let earlier = connection.put_off_since.filter(|since| connection.last_seen <= *since);
        let since = match earlier {
            Some(since) => since,
            None if self.has_to_store(key, packet) => now.mono,
            None => return None,
        };
        if now.mono.saturating_sub(since) >= self.config.store_wait_max {
            return None;
        }
        let connection = self.connection_mut(key)?;
        let until = now.mono.saturating_add(PAUSE);
        connection.put_off_since = Some(since);
        connection.paused_until = connection.paused_until.max(until);
        Some(until)
    }

    /// Tells whether a packet brings a message that has to be stored.
    fn has_to_store(&mut self, key: Key, packet: &Packet) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        match packet {
            Packet::Publish(publish) => {
                let is_repeated = publish.packet_id.is_some_and(|id| session.held.contains(id));
                if publish.qos == QoS::ExactlyOnce && is_repeated {
                    return false;
                }
                let known = session.connection().and_then(|connection| {
                    connection.aliases_in.known(publish.topic.as_ref(), publish.topic_alias)
                });
                let Some(topic) = known.cloned() else { return false };
                let properties = publish.properties.as_ref();
                let facts = PublishFacts {
                    qos: publish.qos,
                    retain: publish.retain,
                    payload_len: publish.payload.len(),
                    response_topic: properties.and_then(|properties| properties.response_topic.as_ref()),
                };
                self.would_store(key, &topic, facts)
            }
            // The release of a message stores it for those who get it.
            Packet::PubRel(ack) if ack.reason == ReasonCode::Success => {
                let Some(held) = session.held.remove(ack.packet_id) else { return false };
                let has_to = match &held {
                    HeldMessage::Accepted(message) => {
                        let publication = message.publication();
                        self.would_store(key, &publication.topic, facts(publication))
                    }
                    HeldMessage::Denied => false,
                };
                if let Some(session) = self.sessions.get_mut(key) {
                    session.held.insert(ack.packet_id, held);
                }
                has_to
            }
            _ => false,
        }
    }

    /// Tells whether a publication would be stored for anybody, without it being one: nobody is told of it.
    fn would_store(&mut self, key: Key, topic: &TopicName, facts: PublishFacts<'_>) -> bool {
        if facts.qos == QoS::AtMostOnce && !facts.retain {
            return false;
        }
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let known = self.connection_mut(key).and_then(|connection| connection.cache.find(topic, at, &facts));
        if let Some(decided) = known {
            let is_stored = self.is_stored_for(key, &facts, decided.source.durability, &decided.route);
            self.keep_at_hand(key, decided);
            return is_stored;
        }
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Ok(permit) = session.rights(&mut self.authority).publish(topic, facts) else { return false };
        let witness = self.authority.witness.take();
        let route = self.route(topic);
        self.authority.witness = witness;
        self.is_stored_for(key, &facts, permit.durability(), &route)
    }

    /// Tells whether a message of this client would be stored: retained, until PUBREL, or for a receiver.
    pub(crate) fn is_stored_for(
        &self,
        key: Key,
        facts: &PublishFacts<'_>,
        asked: Option<Durability>,
        route: &Route,
    ) -> bool {
        let is_stored = |key: Key| self.sessions.get(key).is_some_and(Session::is_stored);
        asked.unwrap_or(self.config.durability) != Durability::None
            && (facts.retain
                || (facts.qos == QoS::ExactlyOnce && is_stored(key))
                || route.targets.iter().any(|target| is_stored(target.session))
                || route.groups.iter().any(|(_, members)| members.iter().any(|m| is_stored(m.session))))
    }
}
