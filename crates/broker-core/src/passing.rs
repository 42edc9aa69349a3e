//! The short way of a PUBLISH of QoS 0 to one receiver who takes it at once, as most are: no message is made of it, for
//! nobody keeps it.
//!
//! Only what is ordinary in every respect goes it, which is asked beforehand; all else takes the long way
//! ([`Broker::handle_packet`]). Both ways end in the same, and tests walk both.

use crate::broker::Broker;
use crate::decided::Decided;
use crate::effect::{ConnId, Now};
use crate::session::Session;
use crate::slab::Key;
use midge_policy::PublishFacts;
use mqtt_proto::{PublishRef, QoS, publish_len};

/// A PUBLISH that may go on to its one receiver as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// The receiver's connection.
    pub conn: ConnId,
    /// Length of the encoded PUBLISH in bytes, which count against the connection until [`Broker::handle_flushed`].
    pub bytes: usize,
    publisher: Key,
    receiver: Key,
    payload_len: usize,
}

impl Broker {
    /// Tells where a PUBLISH goes that may take the short way now; all effects have been carried out before. The shell
    /// sends it there and says so ([`Self::handle_passing`]), or hands it over as any other packet.
    pub fn passing(&self, conn: ConnId, publish: &PublishRef<'_>, now: Now) -> Option<Passing> {
        if !publish.is_plain() || self.authority.witness.is_some() || !self.out.effects.is_empty() {
            return None;
        }
        let key = self.key_of(conn)?;
        let publisher = self.sessions.get(key).filter(|session| session.is_undisturbed(now))?;
        let (topic, payload_len) = (publish.topic?, publish.payload.len());
        let facts = PublishFacts { qos: QoS::AtMostOnce, retain: false, payload_len, response_topic: None };
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let decided = publisher.connection()?.cache.at_hand(topic, at, &facts)?;
        let receiver = decided.sole_receiver().filter(|receiver| *receiver != key)?;
        let (conn, bytes) = self.sessions.get(receiver)?.takes_in_passing(publish, self)?;
        Some(Passing { conn, bytes, publisher: key, receiver, payload_len })
    }

    /// Says that a PUBLISH was sent on, right after it was asked about.
    pub fn handle_passing(&mut self, passing: &Passing, now: Now) {
        let Passing { bytes, publisher, receiver, payload_len, .. } = *passing;
        self.out.metrics.packets_in += 1;
        self.count_in(publisher, payload_len);
        if let Some(connection) = self.connection_mut(publisher) {
            connection.last_seen = now.mono;
            connection.count_passed();
        }
        if let Some(connection) = self.sessions.get_mut(receiver).and_then(Session::connection_mut) {
            connection.count_out(bytes, payload_len, &mut self.out.metrics);
        }
        self.cut_slow(publisher, now);
    }
}

impl Decided {
    /// Returns who alone gets such a message, where nothing has to be counted or told beside it.
    fn sole_receiver(&self) -> Option<Key> {
        let route = &self.route;
        let is_plain = self.limited.is_empty() && route.groups.is_empty() && route.refused.is_empty();
        match &*route.targets {
            [target] if is_plain && target.grant.ids.is_none() => Some(target.session),
            _ => None,
        }
    }
}

impl Session {
    /// Returns by which connection and with how many bytes it takes a PUBLISH as it is, if it does.
    fn takes_in_passing(&self, publish: &PublishRef<'_>, broker: &Broker) -> Option<(ConnId, usize)> {
        let is_ready = self.is_ready(QoS::AtMostOnce, &broker.config) && self.replays.is_empty();
        let connection = self.connection().filter(|connection| {
            is_ready
                && connection.gate.behind_deliveries().is_none()
                && publish.topic.is_some_and(|topic| connection.aliases_out.leaves(topic))
        })?;
        let bytes = publish_len(publish, connection.version);
        (bytes <= connection.packet_size_max).then_some((connection.id, bytes))
    }
}
