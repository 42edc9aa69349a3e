//! One network connection: what the client asked for and what it is owed.

use crate::alias::{AliasesIn, AliasesOut, Naming};
use crate::auth::Exchange;
use crate::decided::PublishCache;
use crate::effect::{CloseReason, ConnId, Delivery, Effect, Now};
use crate::gate::Gate;
use crate::message::plain;
use crate::output::Output;
use crate::portions::Rest;
use crate::queue::Waiting;
use crate::tally::RuleTally;
use crate::will::KeptWill;
use crate::{Metrics, Origin};
use midge_identity::{UnixMillis, VerifiedPeer};
use mqtt_proto::{
    Ack, Disconnect, Info, Packet, PacketId, PublishRef, QoS, ReasonCode, TopicName, Version, encoded_len,
    publish_len,
};
use std::collections::VecDeque;
use std::time::Duration;

/// One network connection of a session.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) peer: VerifiedPeer,
    pub(crate) since: UnixMillis,
    pub(crate) version: Version,
    pub(crate) will: Option<KeptWill>,
    pub(crate) problem_info: bool,
    pub(crate) packet_size_max: usize,
    /// One and a half times the interval; `None` when off ([MQTT-3.1.2-22]).
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) keep_alive_at: Option<Duration>,
    pub(crate) svid_at: Option<Duration>,
    pub(crate) last_seen: Duration,
    pub(crate) unsent: usize,
    /// When the shell reads from it again; in the past unless it publishes too fast, or more than the disk can take.
    pub(crate) paused_until: Duration,
    /// Since when its next packet is put off, unless one was taken since.
    pub(crate) put_off_since: Option<Duration>,
    /// Messages that may still be sent before one is acknowledged ([MQTT-4.9.0-1]).
    pub(crate) quota: u16,
    pub(crate) quota_max: u16,
    pub(crate) aliases_in: AliasesIn,
    pub(crate) aliases_out: AliasesOut,
    /// Exchanges of an earlier connection that are still to be taken up again, in order.
    pub(crate) resend: VecDeque<PacketId>,
    pub(crate) cache: PublishCache,
    pub(crate) gate: Gate,
    /// What is left of its last packet.
    pub(crate) rest: Option<Box<Rest>>,
    /// Set when nothing more comes from the client: the ticket of the last answer it is owed, and why it ends then.
    pub(crate) ends_after: Option<(u64, CloseReason)>,
    /// Number under which its will is stored; 0 when it is not.
    pub(crate) will_number: u64,
    /// The method of its enhanced authentication, if it has one.
    pub(crate) exchange: Option<Exchange>,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    pub(crate) published: RuleTally,
    pub(crate) denied: RuleTally,
}

/// How a message was named and how long that makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    naming: Naming,
    bytes: usize,
}

impl Connection {
    /// Whether its client has sent DISCONNECT and is only answered still.
    pub(crate) fn has_said_goodbye(&self) -> bool {
        matches!(self.ends_after, Some((_, CloseReason::ClientDisconnected(_))))
    }

    pub(crate) fn send(&mut self, packet: Packet, out: &mut Output) {
        if self.gate.starting {
            return self.send_after(self.gate.barrier, packet, out);
        }
        self.unsent = self.unsent.saturating_add(encoded_len(&packet, Version::V5));
        out.metrics.packets_out += 1;
        out.effects.push_back(Effect::Send { conn: self.id, packet });
    }

    /// Returns an acknowledgement, with a reason string where the client wants one and can take it.
    pub(crate) fn ack(&self, packet_id: PacketId, reason: ReasonCode, text: Option<&'static str>) -> Ack {
        let info = self.info(text).map(Box::new);
        let mut ack = Ack { packet_id, reason, info };
        // [MQTT-3.4.2-2]: the reason string must not take the packet over the client's maximum.
        if ack.info.is_some()
            && encoded_len(&Packet::PubAck(ack.clone()), self.version) > self.packet_size_max
        {
            ack.info = None;
        }
        ack
    }

    fn info(&self, text: Option<&str>) -> Option<Info> {
        let text = text.filter(|_| self.problem_info && self.version == Version::V5)?;
        Some(Info { reason_string: Some(text.into()), user_properties: Vec::new() })
    }

    pub(crate) fn disconnect(&mut self, reason: ReasonCode, text: Option<&str>, out: &mut Output) {
        // [MQTT-3.14.0-1]: no DISCONNECT before CONNACK.
        if self.version == Version::V311 || self.gate.starting {
            return;
        }
        let info = self.info(text).unwrap_or_default();
        let mut packet = Disconnect { reason, session_expiry_secs: None, server_reference: None, info };
        if encoded_len(&Packet::Disconnect(Box::new(packet.clone())), self.version) > self.packet_size_max {
            packet.info = Info::default();
        }
        self.send(Packet::Disconnect(Box::new(packet)), out);
    }

    /// Returns how a message would be sent; `None` when the client cannot take one that large ([MQTT-3.1.2-24]).
    pub(crate) fn fit(&self, waiting: &Waiting, is_gated: bool) -> Option<Fit> {
        let naming = match self.aliases_out.naming(&waiting.message.publication().topic) {
            // What waits for the store must not be the one to set an alias that others use before it is sent.
            Naming::Set(_) if is_gated => Naming::Topic,
            naming => naming,
        };
        self.fit_named(waiting, naming).or_else(|| match naming {
            // An alias is not worth a message.
            Naming::Set(_) => self.fit_named(waiting, Naming::Topic),
            Naming::Topic | Naming::Alias(_) => None,
        })
    }

    fn fit_named(&self, waiting: &Waiting, naming: Naming) -> Option<Fit> {
        let publication = waiting.message.publication();
        let publish = PublishRef {
            qos: waiting.qos,
            packet_id: (waiting.qos != QoS::AtMostOnce).then_some(PacketId::MIN),
            topic: (!matches!(naming, Naming::Alias(_))).then_some(&publication.topic),
            topic_alias: match naming {
                Naming::Topic => None,
                Naming::Set(alias) | Naming::Alias(alias) => Some(alias),
            },
            subscription_ids: waiting.subscription_ids.as_deref().unwrap_or_default(),
            ..plain(publication)
        };
        let bytes = publish_len(&publish, self.version);
        (bytes <= self.packet_size_max).then_some(Fit { naming, bytes })
    }

    /// Sends a message.
    pub(crate) fn deliver(
        &mut self,
        waiting: Waiting,
        fit: Fit,
        sending: Sending,
        now: Now,
        out: &mut Output,
    ) {
        let publication = waiting.message.publication();
        self.aliases_out.commit(&publication.topic, fit.naming);
        let (topic_alias, omit_topic) = match fit.naming {
            Naming::Topic => (None, false),
            Naming::Set(alias) => (Some(alias), false),
            Naming::Alias(alias) => (Some(alias), true),
        };
        self.count_out(fit.bytes, publication.payload.len(), &mut out.metrics);
        let delivery = Delivery {
            expiry_secs: waiting.message.expiry_left_secs(now),
            message: waiting.message,
            qos: waiting.qos,
            retain: waiting.retain,
            dup: sending.dup,
            packet_id: sending.packet_id,
            subscription_ids: waiting.subscription_ids,
            topic_alias,
            omit_topic,
            bytes: u32::try_from(fit.bytes).unwrap_or(u32::MAX),
        };
        match sending.after {
            0 => out.effects.push_back(Effect::Deliver { conn: self.id, delivery }),
            ticket => self.deliver_after(ticket, delivery, out),
        }
    }

    /// Counts a message that is sent, with so many bytes.
    #[inline]
    pub(crate) fn count_out(&mut self, bytes: usize, payload_len: usize, metrics: &mut Metrics) {
        self.unsent = self.unsent.saturating_add(bytes);
        self.messages_out += 1;
        metrics.messages_out += 1;
        metrics.packets_out += 1;
        metrics.payload_bytes_out += payload_len as u64;
    }

    /// Counts one more message to a topic by the rule that was asked about it.
    #[inline]
    pub(crate) fn count_passed(&mut self, topic: &TopicName) {
        if let Some(decided) = self.cache.decided(topic)
            && let Origin::Client { rule, .. } = &*decided.source.origin
        {
            self.published.count(rule);
        }
    }

    pub(crate) fn give_back_quota(&mut self) {
        self.quota = self.quota.saturating_add(1).min(self.quota_max);
    }

    pub(crate) fn has_room_for(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || self.quota > 0
    }
}

/// What one sending of a message adds to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) dup: bool,
    /// The ticket it waits for; 0 when it does not.
    pub(crate) after: u64,
}
