//! Section `[mqtt.limits]`: the caps of codec and core as an operator sets them. What happens beyond
//! each is said where it is enforced: `broker_core::Config` and `mqtt_proto::Limits`.

use crate::listener::exposed;
use crate::{LostRetained, MqttConfig};
use broker_core::Config;
use midge_policy::QueueOverflow;
use mqtt_proto::TopicName;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::time::Duration;

/// Bytes of changes that may wait to be written, about, while the disk keeps up: more than the slowest disk has to take
/// for the acknowledgements that clients wait for, and room for several packets of the largest size. Beyond it the
/// publishers of messages that would have to be stored are not read from; while writes fail these are refused (0x97).
const PENDING_BYTES_SOFT: usize = 16 * 1024 * 1024;

/// Bytes of changes that may wait to be written in any case: what comes without being put off (subscriptions, wills,
/// the rest of a read) has room above the soft limit, and so have two packets of the largest size, where those are
/// larger. Beyond it messages that would have to be stored are refused (0x97; 3.1.1: disconnected).
const PENDING_BYTES_HARD: usize = 64 * 1024 * 1024;

/// Largest packet that can be accepted: MQTT's own limit is 268,435,455 (MQTT 5.0 §2.1.4), and what is stored and
/// delivered of a message may be larger than what came: by the topic behind an alias, and by properties.
const PACKET_BYTES_MAX: u32 = 256_000_000;

const _: () = assert!(PACKET_BYTES_MAX as usize <= midge_store::VALUE_BYTES_MAX / 2);

/// How long nothing may come of a TCP peer before the kernel asks whether it is there still, how often it asks then, and
/// how many times. Beyond it the connection has failed: a peer that vanished holds its place for about four minutes,
/// also where it chose no keep alive. Less would cost sleepy radio links more than it gains.
pub(crate) const PEER_ASKED_AFTER: Duration = Duration::from_secs(120);
pub(crate) const PEER_ASKED_EVERY: Duration = Duration::from_secs(30);
pub(crate) const PEER_ASKED_TIMES: u32 = 4;

/// How many bytes of changes may wait to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingLimits {
    pub(crate) soft: usize,
    pub(crate) hard: usize,
}

impl PendingLimits {
    /// `packet_size_max` is the largest packet accepted, in bytes.
    pub(crate) fn new(packet_size_max: u32) -> Self {
        let several = to(packet_size_max).saturating_mul(4);
        let soft = several.clamp(PENDING_BYTES_SOFT, PENDING_BYTES_HARD / 2);
        let two = to(packet_size_max).saturating_mul(2);
        Self { soft, hard: soft.saturating_add(two).max(PENDING_BYTES_HARD) }
    }
}

/// Section `[mqtt.limits]`: how much the broker keeps for its clients. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Sessions in total, those without a connection included.
    pub sessions_max: u32,
    /// Sessions of one identity.
    pub sessions_per_identity_max: u32,
    /// Bytes of a client identifier.
    pub client_id_bytes_max: u16,
    /// Longest session expiry in seconds; longer wishes are lowered.
    pub session_expiry_max_secs: u32,
    /// Session expiry in seconds of MQTT 3.1.1 clients without clean session, who cannot ask for one. No longer than
    /// `session_expiry_max_secs` in any case.
    pub session_expiry_v311_secs: u32,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: u32,
    /// Bytes in memory that the subscriptions of one session take.
    pub subscription_bytes_max: u32,
    /// Bytes that those of one identity's sessions take.
    pub subscriptions_bytes_per_identity_max: u64,
    /// Bytes that those of all sessions take.
    pub subscriptions_bytes_max: u64,
    /// Levels of a topic or filter.
    pub topic_levels_max: u16,
    /// Messages from one client without complete acknowledgement.
    pub receive_max: NonZeroU16,
    /// Messages to one client without complete acknowledgement.
    pub inflight_max: NonZeroU16,
    /// Bytes of messages to one client without complete acknowledgement above which further ones wait; nothing is kept,
    /// and counts, of what was sent to a session that ends with its connection.
    pub inflight_bytes_max: u32,
    /// Bytes of QoS 2 messages of one client that wait for PUBREL.
    pub held_bytes_max: u32,
    /// Bytes of messages in incomplete exchanges of all sessions together, both ways.
    pub exchanges_bytes_max: u64,
    /// Messages that wait for one session.
    pub queue_messages_max: u32,
    /// Bytes of messages that wait for one session.
    pub queue_bytes_max: u32,
    /// Bytes of messages that wait for all sessions together.
    pub queues_bytes_max: u64,
    /// Bytes of what is remembered of who receives which topic, for all publishers together.
    pub routes_bytes_max: u64,
    /// Bytes of the wills of all sessions together, of clients that are connected and of those that left.
    pub wills_bytes_max: u64,
    /// Bytes of the wills of one identity's sessions.
    pub wills_bytes_per_identity_max: u64,
    /// What becomes of a message that finds a queue full, where no rule says so.
    pub queue_overflow: QueueOverflow,
    /// Retained messages in total.
    pub retained_messages_max: u32,
    /// Bytes of retained messages in total.
    pub retained_bytes_max: u64,
    /// Retained messages that one identity has published.
    pub retained_messages_per_identity_max: u32,
    /// Bytes of these.
    pub retained_bytes_per_identity_max: u64,
    /// Unsent bytes of one connection above which it gets no new messages.
    pub unsent_bytes_soft: u32,
    /// Unsent bytes of one connection above which it is cut. Whatever is written here, two packets of the largest size
    /// have room above the soft limit: one message is sent below that, however large, and is no fault of its receiver.
    pub unsent_bytes_hard: u32,
    /// Bytes of a CONNECT.
    pub connect_bytes_max: u32,
    /// Bytes of the properties of one packet.
    pub properties_bytes_max: u32,
    /// User properties of one packet.
    pub user_properties_max: u16,
    /// Filters of one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_max: u16,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (core, codec) = (Config::default(), mqtt_proto::Limits::default());
        Self {
            sessions_max: of(core.sessions_max),
            sessions_per_identity_max: of(core.sessions_per_identity_max),
            client_id_bytes_max: u16::try_from(core.client_id_bytes_max).unwrap_or(u16::MAX),
            session_expiry_max_secs: secs(core.session_expiry_max),
            session_expiry_v311_secs: secs(core.session_expiry_v311),
            subscriptions_per_session_max: of(core.subscriptions_per_session_max),
            subscription_bytes_max: of(core.subscription_bytes_max),
            subscriptions_bytes_per_identity_max: of(core.subscriptions_bytes_per_identity_max),
            subscriptions_bytes_max: of(core.subscriptions_bytes_max),
            topic_levels_max: of(core.topic_levels_max),
            receive_max: core.receive_max,
            inflight_max: core.inflight_max,
            inflight_bytes_max: of(core.inflight_bytes_max),
            held_bytes_max: of(core.held_bytes_max),
            exchanges_bytes_max: of(core.exchanges_bytes_max),
            queue_messages_max: of(core.queue_messages_max),
            queue_bytes_max: of(core.queue_bytes_max),
            queues_bytes_max: of(core.queues_bytes_max),
            routes_bytes_max: of(core.routes_bytes_max),
            wills_bytes_max: of(core.wills_bytes_max),
            wills_bytes_per_identity_max: of(core.wills_bytes_per_identity_max),
            queue_overflow: core.queue_overflow,
            retained_messages_max: of(core.retained_messages_max),
            retained_bytes_max: of(core.retained_bytes_max),
            retained_messages_per_identity_max: of(core.retained_messages_per_identity_max),
            retained_bytes_per_identity_max: of(core.retained_bytes_per_identity_max),
            unsent_bytes_soft: of(core.unsent_bytes_soft),
            unsent_bytes_hard: of(core.unsent_bytes_hard),
            connect_bytes_max: of(codec.connect_bytes_max),
            properties_bytes_max: of(codec.properties_bytes_max),
            user_properties_max: of(codec.user_properties_max),
            filters_max: of(codec.filters_max),
        }
    }
}

impl MqttConfig {
    /// Returns the limits and choices of the core. `seed` makes assigned client ids hard to guess.
    pub(crate) fn core(&self, seed: [u8; 16]) -> Config {
        let limits = &self.limits;
        // What operators have no key for. Every other field is named below: one that is forgotten does not compile.
        let Config {
            auth_methods,
            auth_timeout,
            rate_debt_max,
            store_wait_max,
            topic_alias_max,
            topic_alias_out_max,
            topic_alias_bytes_max,
            ..
        } = Config::default();
        Config {
            auth_methods,
            auth_timeout,
            rate_debt_max,
            store_wait_max,
            topic_alias_max,
            topic_alias_out_max,
            topic_alias_bytes_max,
            seed,
            durability: self.durability,
            connections_max: to(self.connections_max),
            sessions_max: to(limits.sessions_max),
            sessions_per_identity_max: to(limits.sessions_per_identity_max),
            client_id_bytes_max: usize::from(limits.client_id_bytes_max),
            session_expiry_max: Duration::from_secs(limits.session_expiry_max_secs.into()),
            session_expiry_v311: Duration::from_secs(limits.session_expiry_v311_secs.into()),
            subscriptions_per_session_max: to(limits.subscriptions_per_session_max),
            subscription_bytes_max: to(limits.subscription_bytes_max),
            subscriptions_bytes_per_identity_max: to(limits.subscriptions_bytes_per_identity_max),
            subscriptions_bytes_max: to(limits.subscriptions_bytes_max),
            topic_levels_max: to(limits.topic_levels_max),
            receive_max: limits.receive_max,
            inflight_max: limits.inflight_max,
            inflight_bytes_max: to(limits.inflight_bytes_max),
            held_bytes_max: to(limits.held_bytes_max),
            exchanges_bytes_max: to(limits.exchanges_bytes_max),
            packet_size_max: self.packet_size_max,
            queue_messages_max: to(limits.queue_messages_max),
            queue_bytes_max: to(limits.queue_bytes_max),
            queues_bytes_max: to(limits.queues_bytes_max),
            routes_bytes_max: to(limits.routes_bytes_max),
            wills_bytes_max: to(limits.wills_bytes_max),
            wills_bytes_per_identity_max: to(limits.wills_bytes_per_identity_max),
            queue_overflow: limits.queue_overflow,
            retained_messages_max: to(limits.retained_messages_max),
            retained_bytes_max: to(limits.retained_bytes_max),
            retained_messages_per_identity_max: to(limits.retained_messages_per_identity_max),
            retained_bytes_per_identity_max: to(limits.retained_bytes_per_identity_max),
            unsent_bytes_soft: to(limits.unsent_bytes_soft),
            unsent_bytes_hard: self.unsent_bytes_hard(),
            keep_alive_max_secs: NonZeroU16::new(self.keep_alive_max_secs),
            denied_publish_v311: self.denied_publish_v311,
            purge_lost: self.retained_without_right == LostRetained::Purge,
            response_prefix: TopicName::new(&self.response_prefix).ok(),
        }
    }

    /// Unsent bytes of one connection above which it is cut, in effect.
    fn unsent_bytes_hard(&self) -> usize {
        let two = to(self.packet_size_max).saturating_mul(2);
        to(self.limits.unsent_bytes_hard).max(to(self.limits.unsent_bytes_soft).saturating_add(two))
    }

    /// Returns what a peer may make the decoder allocate.
    pub(crate) fn codec(&self) -> mqtt_proto::Limits {
        let limits = &self.limits;
        mqtt_proto::Limits {
            packet_bytes_max: to(self.packet_size_max),
            connect_bytes_max: to(limits.connect_bytes_max),
            properties_bytes_max: to(limits.properties_bytes_max),
            user_properties_max: to(limits.user_properties_max),
            filters_max: to(limits.filters_max),
            // The core refuses one filter by its reason code where the codec would end the connection.
            topic_levels_max: to(limits.topic_levels_max).saturating_mul(2),
        }
    }

    /// Returns values with the least with which devices are served: the event bus subscribes to eight filters of up to
    /// eight levels at once, and tells of devices in packets of some hundred bytes.
    fn least(&self) -> [(&'static str, u32, u32); 16] {
        let limits = &self.limits;
        [
            ("connect-timeout-secs", self.connect_timeout_secs.into(), 1),
            ("unread-timeout-secs", self.unread_timeout_secs.into(), 1),
            ("threads", self.threads.into(), 1),
            ("handshakes-max", self.handshakes_max.into(), 1),
            ("connections-max", self.connections_max, 2),
            ("arrivals-max", self.arrivals_max, 2),
            ("packet-size-max", self.packet_size_max, 1_024),
            ("limits.sessions-max", limits.sessions_max, 2),
            ("limits.sessions-per-identity-max", limits.sessions_per_identity_max, 1),
            // [MQTT-3.1.3-5]
            ("limits.client-id-bytes-max", limits.client_id_bytes_max.into(), 23),
            ("limits.subscriptions-per-session-max", limits.subscriptions_per_session_max, 8),
            ("limits.topic-levels-max", limits.topic_levels_max.into(), 8),
            ("limits.unsent-bytes-soft", limits.unsent_bytes_soft, 1_024),
            ("limits.connect-bytes-max", limits.connect_bytes_max, 1_024),
            ("limits.properties-bytes-max", limits.properties_bytes_max, 64),
            ("limits.filters-max", limits.filters_max.into(), 8),
        ]
    }

    /// Returns what is wrong with the values, each with its key and the remedy.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.response_prefix.is_empty() && TopicName::new(&self.response_prefix).is_err() {
            problems.push(format!(
                "mqtt.response-prefix = \"{}\": write a topic without wildcards, such as \"response\", or \"\"",
                self.response_prefix
            ));
        }
        problems.extend(exposed(self).map(|exposed| exposed.to_string()));
        for (key, value, least) in self.least() {
            if value < least {
                problems.push(format!("mqtt.{key} = {value}: write {least} or more"));
            }
        }
        if self.packet_size_max > PACKET_BYTES_MAX {
            problems.push(format!(
                "mqtt.packet-size-max = {}: write {PACKET_BYTES_MAX} or less: no MQTT packet is longer than 268435455 \
                 bytes, and a message may grow by its topic on its way",
                self.packet_size_max
            ));
        }
        for origin in &self.websocket_origins {
            let host = origin.split_once("://").map(|(_, host)| host);
            if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
                problems.push(format!(
                    "mqtt.websocket-origins: \"{origin}\" is not an origin; write scheme://host or scheme://host:port"
                ));
            }
        }
        let limits = &self.limits;
        if limits.unsent_bytes_hard < limits.unsent_bytes_soft {
            problems.push(format!(
                "mqtt.limits.unsent-bytes-hard = {} must not be below mqtt.limits.unsent-bytes-soft = {}",
                limits.unsent_bytes_hard, limits.unsent_bytes_soft
            ));
        }
        problems
    }
}

fn secs(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn to(value: impl TryInto<usize>) -> usize {
    value.try_into().unwrap_or(usize::MAX)
}

/// The defaults of the core all fit; a larger one would be its own largest value.
fn of<T: TryFrom<usize> + From<u8> + std::ops::Not<Output = T>>(value: usize) -> T {
    T::try_from(value).unwrap_or_else(|_| !T::from(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use broker_core::DeniedPublish;
    use serde_json::json;

    #[test]
    fn the_defaults_are_those_of_core_and_codec() {
        let config = MqttConfig::default();
        let durability = broker_core::Durability::ProcessCrash;
        let core = Config { durability, connections_max: 20_000, ..Config::default() };
        assert_eq!(config.core([0; 16]), core);
        assert_eq!(config.codec().connect_bytes_max, mqtt_proto::Limits::default().connect_bytes_max);
        assert_eq!(config.problems(), [""; 0]);
    }

    #[test]
    fn what_is_done_for_want_of_a_right_is_as_written() {
        let core =
            |text: serde_json::Value| serde_json::from_value::<MqttConfig>(text).unwrap().core([0; 16]);
        let written = core(json!({ "retained-without-right": "purge", "denied-publish-v311": "disconnect" }));
        assert!(written.purge_lost && written.denied_publish_v311 == DeniedPublish::Disconnect);
        // The twin: nothing is lost and nobody is cut unless it is written.
        let unwritten = core(json!({}));
        assert!(!unwritten.purge_lost && unwritten.denied_publish_v311 == DeniedPublish::Drop);
    }

    #[test]
    fn sessions_of_both_versions_are_kept_as_written() {
        let core = |limits: serde_json::Value| {
            let config = serde_json::from_value::<MqttConfig>(json!({ "limits": limits })).unwrap();
            let core = config.core([0; 16]);
            [core.session_expiry_max, core.session_expiry_v311].map(|expiry| expiry.as_secs())
        };
        let written = json!({ "session-expiry-max-secs": 1_000, "session-expiry-v311-secs": 10 });
        assert_eq!(core(written), [1_000, 10]);
        // As long as the other, of which the core takes the lesser.
        assert_eq!(core(json!({ "session-expiry-max-secs": 1_000 })), [1_000, u64::from(u32::MAX)]);
    }

    #[test]
    fn a_message_of_the_largest_size_is_no_reason_to_cut_its_receiver() {
        const MIB: u32 = 1024 * 1024;
        let hard = |packet_size_max, unsent_bytes_hard| {
            let limits = LimitsConfig { unsent_bytes_hard, ..LimitsConfig::default() };
            MqttConfig { packet_size_max, limits, ..MqttConfig::default() }.core([0; 16]).unsent_bytes_hard
        };
        assert_eq!(hard(16 * MIB, 4 * MIB), to(33 * MIB));
        assert_eq!(hard(u32::MAX, 4 * MIB), to(MIB) + 2 * to(u32::MAX));
        // The twin: where there is room for it, the limit is what is written.
        assert_eq!([hard(MIB, 4 * MIB), hard(MIB, 8 * MIB)], [4, 8].map(|size| to(size * MIB)));
    }

    #[test]
    fn several_packets_of_the_largest_size_may_wait_to_be_written() {
        const MIB: u32 = 1024 * 1024;
        let soft = |size| PendingLimits::new(size).soft / to(MIB);
        assert_eq!([MIB, 6 * MIB, 16 * MIB, u32::MAX].map(soft), [16, 24, 32, 32]);
        // One that is being written is no reason to refuse the next.
        let hard = |size| PendingLimits::new(size).hard / to(MIB);
        assert_eq!([MIB, 16 * MIB, 17 * MIB, 100 * MIB].map(hard), [64, 64, 66, 232]);
    }

    #[test]
    fn a_packet_size_that_mqtt_does_not_have_is_told_and_the_largest_is_not() {
        let problems = |packet_size_max| MqttConfig { packet_size_max, ..MqttConfig::default() }.problems();
        for over in [256_000_001, 268_435_455, u32::MAX] {
            let problems = problems(over);
            assert_eq!(problems.len(), 1, "{problems:?}");
            let start = format!("mqtt.packet-size-max = {over}: write 256000000 or less");
            assert!(problems[0].starts_with(&start), "{problems:?}");
        }
        assert_eq!(problems(256_000_000), [""; 0]);
    }

    #[test]
    fn values_that_cannot_hold_are_told_with_key_and_remedy() {
        let mut config = MqttConfig { response_prefix: "a/#".into(), ..MqttConfig::default() };
        config.limits.unsent_bytes_hard = 1;
        config.unread_timeout_secs = 0;
        config.websocket_origins = vec!["hmi.example".into(), "https://hmi.example:8443".into()];
        let problems = config.problems();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.iter().any(|text| text.contains("response-prefix") && text.contains("wildcards")));
        assert!(problems.iter().any(|text| text.contains("unsent-bytes-hard = 1")));
    }

    #[test]
    fn what_would_keep_the_event_bus_out_is_told_and_the_least_is_enough() {
        let of = |least: bool| {
            let of = |value: u32| if least { value } else { value - 1 };
            let limits = LimitsConfig {
                sessions_max: of(2),
                sessions_per_identity_max: of(1),
                client_id_bytes_max: of(23).try_into().unwrap(),
                subscriptions_per_session_max: of(8),
                topic_levels_max: of(8).try_into().unwrap(),
                unsent_bytes_soft: of(1_024),
                connect_bytes_max: of(1_024),
                properties_bytes_max: of(64),
                filters_max: of(8).try_into().unwrap(),
                ..LimitsConfig::default()
            };
            let (connections_max, arrivals_max, packet_size_max) = (of(2), of(2), of(1_024));
            MqttConfig { connections_max, arrivals_max, packet_size_max, limits, ..MqttConfig::default() }
                .problems()
        };
        assert_eq!(of(true), [""; 0]);
        let problems = of(false);
        assert_eq!(problems.len(), 12, "{problems:?}");
        assert!(
            problems.contains(&"mqtt.limits.topic-levels-max = 7: write 8 or more".to_owned()),
            "{problems:?}"
        );
    }

    #[test]
    fn plaintext_that_others_could_reach_is_told() {
        let open = |text: &str| Some(text.parse().unwrap());
        let config = MqttConfig {
            tcp: open("0.0.0.0:1883"),
            websocket_loopback: open("[::]:8083"),
            ..MqttConfig::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|text| text.contains("is not a loopback address")), "{problems:?}");
        let config = MqttConfig {
            tcp: open("127.8.8.8:1883"),
            websocket_loopback: open("[::1]:8083"),
            ..MqttConfig::default()
        };
        assert_eq!(config.problems(), [""; 0]);
    }
}
