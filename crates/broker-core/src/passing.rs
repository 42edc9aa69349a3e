//! The short way of a PUBLISH to one receiver who takes it at once, as most do. At QoS 0 no message is made of it, for
//! nobody keeps it; at QoS 1 one is, for its receiver to acknowledge, and nothing else.
//!
//! Only what is ordinary in every respect goes it, which is asked beforehand; all else takes the long way
//! ([`Broker::handle_packet`]). Both ways end in the same, and tests walk both.

use crate::broker::Broker;
use crate::decided::{Decided, Refuses};
use crate::effect::{ConnId, Now};
use crate::queue::{Lent, Waiting};
use crate::session::Session;
use crate::slab::Key;
use crate::{Message, StoreTrouble};
use bytes::Bytes;
use midge_policy::PublishFacts;
use mqtt_proto::{PacketId, Publication, PublishRef, QoS, publish_len};
use std::sync::Arc;

/// Length of a PUBACK that says nothing but its packet identifier.
const PUBACK_BYTES: usize = 4;

/// A PUBLISH that may go on to its one receiver as it is, but for QoS and packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// The receiver's connection.
    pub conn: ConnId,
    /// At which QoS it goes there.
    pub qos: QoS,
    /// Length of the encoded PUBLISH in bytes, which count against the connection until [`Broker::handle_flushed`].
    pub bytes: usize,
    publisher: Key,
    receiver: Key,
}

impl Broker {
    /// Tells where a PUBLISH goes that may take the short way now; all effects have been carried out before. The shell
    /// hands it over right after that ([`Self::handle_passing`]), or as any other packet.
    pub fn passing(&self, conn: ConnId, publish: &PublishRef<'_>, now: Now) -> Option<Passing> {
        let is_quiet = self.authority.witness.is_none() && self.out.effects.is_empty();
        if !(is_quiet && publish.is_plain() && self.out.ledger.trouble == StoreTrouble::None) {
            return None;
        }
        let key = self.key_of(conn)?;
        let publisher = self.sessions.get(key).filter(|session| session.is_undisturbed(now))?;
        let connection = publisher.connection()?;
        let (topic, qos, payload_len) = (publish.topic?, publish.qos, publish.payload.len());
        let facts = PublishFacts { qos, retain: false, payload_len, response_topic: None };
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = connection.cache.look_for(topic, at, &facts)?;
        let (receiver, granted) = decided.sole_receiver().filter(|(receiver, _)| *receiver != key)?;
        let (source, ledger) = (&decided.source, &self.out.ledger);
        // Its PUBACK may have to wait for what it has said before, or for what its rule has the broker store from now on.
        let is_answered = ledger.is_stored(connection.gate.barrier) && !connection.gate.starting;
        let is_prepared = source.durability.is_none() || ledger.is_on();
        if qos != QoS::AtMostOnce && !(is_answered && is_prepared) {
            return None;
        }
        let qos = qos.min(granted);
        let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let onward = PublishRef { qos, packet_id, ..*publish };
        let (conn, bytes) = self.sessions.get(receiver)?.takes_in_passing(&onward, self)?;
        Some(Passing { conn, qos, bytes, publisher: key, receiver })
    }

    /// Takes a PUBLISH right after it was asked about. It is to be sent to the receiver's connection with the packet
    /// identifier that is returned; one of QoS 1 that has none any more is dropped. At QoS 1 its publisher is
    /// to be sent a PUBACK behind that, which says nothing but its packet identifier.
    pub fn handle_passing(
        &mut self,
        passing: &Passing,
        publish: &PublishRef<'_>,
        now: Now,
    ) -> Option<PacketId> {
        let (publisher, payload_len) = (passing.publisher, publish.payload.len());
        self.out.metrics.packets_in += 1;
        self.count_in(publisher, payload_len);
        if let Some(connection) = self.connection_mut(publisher) {
            connection.last_seen = now.mono;
            publish.topic.into_iter().for_each(|topic| connection.count_passed(topic));
        }
        let packet_id =
            if passing.qos == QoS::AtMostOnce { None } else { self.keep_passing(passing, publish, now) };
        let is_sent = passing.qos == QoS::AtMostOnce || packet_id.is_some();
        let Self { sessions, out, .. } = self;
        if is_sent
            && let Some(connection) = sessions.get_mut(passing.receiver).and_then(Session::connection_mut)
        {
            connection.count_out(passing.bytes, payload_len, &mut out.metrics);
        }
        if publish.packet_id.is_some()
            && let Some(connection) = sessions.get_mut(publisher).and_then(Session::connection_mut)
        {
            connection.unsent = connection.unsent.saturating_add(PUBACK_BYTES);
            out.metrics.packets_out += 1;
        }
        self.cut_slow(publisher, now);
        packet_id
    }

    /// Keeps a message for its receiver to acknowledge.
    fn keep_passing(&mut self, passing: &Passing, publish: &PublishRef<'_>, now: Now) -> Option<PacketId> {
        let decided = self.connection_mut(passing.publisher)?.cache.decided(publish.topic?)?;
        let (origin, durability) = (Arc::clone(&decided.source.origin), decided.source.durability);
        let (topic, payload) = (publish.topic?.clone(), Bytes::copy_from_slice(publish.payload));
        let publication = Publication { topic, payload, qos: publish.qos, retain: false, properties: None };
        let revision = self.authority.revision();
        let mut message = Message::new(publication, origin, revision, now.mono);
        self.prepare(&mut message, durability);
        let session = self.sessions.get_mut(passing.receiver)?;
        let Some(id) = session.inflight.reserve(None) else {
            self.out.metrics.dropped.queue_full += 1;
            return None;
        };
        let waiting = Waiting {
            message: Arc::new(message),
            qos: passing.qos,
            retain: false,
            subscription_ids: None,
            group: None,
            revision,
            number: 0,
            resent: false,
            packet_id: Some(id),
            lent: Lent::No,
        };
        session.inflight.fill(id, waiting);
        if let Some(connection) = session.connection_mut() {
            connection.quota = connection.quota.saturating_sub(1);
        }
        Some(id)
    }
}

impl Decided {
    /// Returns who alone gets such a message and at which QoS, where nothing has to be counted or told beside it.
    fn sole_receiver(&self) -> Option<(Key, QoS)> {
        let (route, source) = (&self.route, &self.source);
        let is_plain = self.limited.is_empty()
            && source.refuses == Refuses::No
            && route.groups.is_empty()
            && route.refused.is_empty();
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
