//! What holds for the packets of every connection, in every test that has a [`crate::world::World`].

use broker_core::{ConnId, Delivery, Effect};
use mqtt_proto::{Info, Packet, ReasonCode, TopicName};
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// How far each connection is, and what it knows topics by.
#[derive(Default)]
pub(crate) struct Order {
    stages: BTreeMap<ConnId, Stage>,
    /// Topic Alias Maximum of each client that has one, and what it was told.
    aliases: BTreeMap<ConnId, (u16, BTreeMap<NonZeroU16, TopicName>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Connecting,
    Connected,
    /// Nothing but the close may follow.
    Leaving,
    Closed,
}

impl Order {
    pub(crate) fn begin(&mut self, conn: ConnId, topic_alias_max: u16) {
        self.aliases.insert(conn, (topic_alias_max, BTreeMap::new()));
    }

    pub(crate) fn check(&mut self, effect: &Effect) {
        let (conn, next) = match effect {
            Effect::Send { conn, packet } => (*conn, self.after(*conn, packet)),
            Effect::Deliver { conn, delivery } => {
                assert_eq!(self.stage(*conn), Stage::Connected, "{effect:?}");
                return self.resolve(*conn, delivery);
            }
            Effect::Close { conn, .. } => {
                assert_ne!(self.stage(*conn), Stage::Closed, "{effect:?}");
                (*conn, Stage::Closed)
            }
            _ => return,
        };
        self.stages.insert(conn, next);
    }

    /// A client that goes by aliases alone finds the topic of every message ([MQTT-3.3.2-11]).
    fn resolve(&mut self, conn: ConnId, delivery: &Delivery) {
        let topic = &delivery.message.publication().topic;
        let Some(alias) = delivery.topic_alias else { return assert!(!delivery.omit_topic, "{delivery:?}") };
        let (max, known) = self.aliases.get_mut(&conn).unwrap();
        assert!(alias.get() <= *max, "{delivery:?}");
        if !delivery.omit_topic {
            known.insert(alias, topic.clone());
        }
        assert_eq!(known.get(&alias), Some(topic), "{delivery:?}");
    }

    fn stage(&self, conn: ConnId) -> Stage {
        self.stages.get(&conn).copied().unwrap_or(Stage::Connecting)
    }

    fn after(&self, conn: ConnId, packet: &Packet) -> Stage {
        let stage = self.stage(conn);
        // [MQTT-3.2.2-20] and its kin: what is never sent makes nothing too large.
        assert!(info(packet).is_none_or(|info| info.user_properties.is_empty()), "{packet:?}");
        match packet {
            // [MQTT-3.2.0-1], [MQTT-3.2.0-2], [MQTT-3.2.2-6], [MQTT-3.2.2-7]
            Packet::ConnAck(ack) => {
                assert_eq!(stage, Stage::Connecting, "{ack:?}");
                if ack.reason == ReasonCode::Success {
                    return Stage::Connected;
                }
                assert!(!ack.session_present, "{ack:?}");
                Stage::Leaving
            }
            // [MQTT-3.14.0-1], [MQTT-3.14.2-2], [MQTT-3.14.4-1]
            Packet::Disconnect(packet) => {
                assert_eq!(stage, Stage::Connected, "{packet:?}");
                assert_eq!(packet.session_expiry_secs, None);
                Stage::Leaving
            }
            // [MQTT-3.2.0-1]: an exchange of AUTH may come before.
            Packet::Auth(_) if stage == Stage::Connecting => stage,
            other => {
                assert_eq!(stage, Stage::Connected, "{other:?}");
                stage
            }
        }
    }
}

/// Reason String and User Properties, where a packet may have them for itself.
pub(crate) fn info(packet: &Packet) -> Option<&Info> {
    match packet {
        Packet::ConnAck(ack) => Some(&ack.info),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.info.as_deref()
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => Some(&ack.info),
        Packet::Disconnect(packet) => Some(&packet.info),
        Packet::Auth(packet) => Some(&packet.info),
        _ => None,
    }
}
