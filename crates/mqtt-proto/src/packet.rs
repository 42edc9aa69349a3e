//! The packets as values. One set of types serves both protocol versions: what 3.1.1 does not
//! have is empty there, and the codec refuses it on the wire.

use crate::{ReasonCode, SharedFilter, TopicName};
use bytes::Bytes;
use std::num::NonZeroU16;
use std::sync::Arc;

/// Protocol version, chosen by CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// Delivered at most once.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once.
    AtLeastOnce = 1,
    /// Delivered exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// Returns the QoS of a two-bit field; 3 is none.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier: never zero ([MQTT-2.2.1-3]).
pub type PacketId = NonZeroU16;

/// One MQTT Control Packet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §2.1.2")]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Box<Publish>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Box<Subscribe>),
    SubAck(Box<SubAck>),
    Unsubscribe(Box<Unsubscribe>),
    UnsubAck(Box<SubAck>),
    PingReq,
    PingResp,
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

/// User properties, in the order they came ([MQTT-3.1.3-10]).
pub type UserProperties = Vec<(Arc<str>, Arc<str>)>;

/// CONNECT; its `Debug` leaves out the password and the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Clean Start (5.0) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// Seconds; 0 turns keep alive off.
    pub keep_alive_secs: u16,
    /// May be empty.
    pub client_id: Arc<str>,
    /// The will, if any.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<Arc<str>>,
    /// Password, any bytes.
    pub password: Option<Bytes>,
    /// Session Expiry Interval in seconds; absent means 0. 3.1.1: the core derives it from clean session.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum; absent means 65,535.
    pub receive_max: Option<NonZeroU16>,
    /// Maximum Packet Size the client accepts.
    pub packet_size_max: Option<u32>,
    /// Topic Alias Maximum the client accepts; 0 when absent.
    pub topic_alias_max: u16,
    /// Request Response Information; false when absent.
    pub request_response_info: bool,
    /// Request Problem Information; true when absent.
    pub request_problem_info: bool,
    /// User properties.
    pub user_properties: UserProperties,
    /// Authentication Method.
    pub auth_method: Option<Arc<str>>,
    /// Authentication Data.
    pub auth_data: Option<Bytes>,
}

impl Connect {
    /// Returns a CONNECT with a clean start that says nothing else: no keep alive, no will, no credentials, and for every
    /// property what its absence means. The rest is set by fields:
    ///
    /// ```
    /// use mqtt_proto::{Connect, Version};
    ///
    /// let kept = Connect {
    ///     clean_start: false,
    ///     session_expiry_secs: Some(3600),
    ///     ..Connect::new(Version::V5, "press-1")
    /// };
    /// assert!(kept.request_problem_info && kept.keep_alive_secs == 0);
    /// ```
    pub fn new(version: Version, client_id: impl Into<Arc<str>>) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive_secs: 0,
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
            session_expiry_secs: None,
            receive_max: None,
            packet_size_max: None,
            topic_alias_max: 0,
            request_response_info: false,
            request_problem_info: true,
            user_properties: Vec::new(),
            auth_method: None,
            auth_data: None,
        }
    }
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The message to publish.
    pub message: Publication,
    /// Will Delay Interval in seconds.
    pub delay_secs: u32,
}

/// An application message with its properties, apart from how one PUBLISH carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Topic Name.
    pub topic: TopicName,
    /// Application payload.
    pub payload: Bytes,
    /// QoS of the publisher.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Properties; `None` when there are none, which is the common case.
    pub properties: Option<Arc<PublishProperties>>,
}

/// Properties of PUBLISH and of the will that travel with the message unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// Payload Format Indicator: UTF-8 when true.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Content Type.
    pub content_type: Option<Arc<str>>,
    /// Response Topic.
    pub response_topic: Option<TopicName>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// DUP flag.
    pub dup: bool,
    /// QoS of this packet.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic; `None` on the wire only with a topic alias.
    pub topic: Option<TopicName>,
    /// Packet Identifier: present exactly when QoS is above 0 ([MQTT-2.2.1-2]).
    pub packet_id: Option<PacketId>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription Identifiers, server to client only.
    pub subscription_ids: Vec<u32>,
    /// Properties that travel with the message.
    pub properties: Option<Arc<PublishProperties>>,
    /// Application payload.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Packet Identifier.
    pub packet_id: PacketId,
    /// Reason Code; 3.1.1 carries none and always decodes to Success.
    pub reason: ReasonCode,
    /// Reason String and User Properties; `None` when absent.
    pub info: Option<Box<Info>>,
}

/// Reason String and User Properties of an acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Reason String.
    pub reason_string: Option<Arc<str>>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.2.2.3")]
pub struct ConnAck {
    pub session_present: bool,
    pub reason: ReasonCode,
    pub session_expiry_secs: Option<u32>,
    pub receive_max: Option<NonZeroU16>,
    pub qos_max: Option<QoS>,
    pub retain_available: Option<bool>,
    pub packet_size_max: Option<u32>,
    pub assigned_client_id: Option<Arc<str>>,
    pub topic_alias_max: u16,
    pub wildcard_available: Option<bool>,
    pub subscription_ids_available: Option<bool>,
    pub shared_available: Option<bool>,
    pub server_keep_alive_secs: Option<u16>,
    pub response_info: Option<Arc<str>>,
    pub server_reference: Option<Arc<str>>,
    pub auth_method: Option<Arc<str>>,
    pub auth_data: Option<Bytes>,
    pub info: Info,
}

impl ConnAck {
    /// Returns a CONNACK with this reason and nothing else.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason,
            session_expiry_secs: None,
            receive_max: None,
            qos_max: None,
            retain_available: None,
            packet_size_max: None,
            assigned_client_id: None,
            topic_alias_max: 0,
            wildcard_available: None,
            subscription_ids_available: None,
            shared_available: None,
            server_keep_alive_secs: None,
            response_info: None,
            server_reference: None,
            auth_method: None,
            auth_data: None,
            info: Info::default(),
        }
    }
}

/// Retain Handling of a subscription (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at every subscribe.
    #[default]
    Send = 0,
    /// Send them only for a new subscription.
    SendIfNew = 1,
    /// Do not send them.
    DoNotSend = 2,
}

/// One entry of SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The filter and its share group, if any (`$share/` is served on 3.1.1 too, as other servers do).
    pub filter: SharedFilter,
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.8")]
pub struct Subscribe {
    pub packet_id: PacketId,
    pub subscription_id: Option<u32>,
    pub user_properties: UserProperties,
    pub subscriptions: Vec<Subscription>,
}

/// SUBACK and UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.9")]
pub struct SubAck {
    pub packet_id: PacketId,
    pub info: Info,
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.10")]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    pub user_properties: UserProperties,
    pub filters: Vec<SharedFilter>,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.14")]
pub struct Disconnect {
    pub reason: ReasonCode,
    pub session_expiry_secs: Option<u32>,
    pub server_reference: Option<Arc<str>>,
    pub info: Info,
}

/// AUTH; its `Debug` leaves out the authentication data.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §3.15")]
pub struct Auth {
    pub reason: ReasonCode,
    pub method: Option<Arc<str>>,
    pub data: Option<Bytes>,
    pub info: Info,
}
