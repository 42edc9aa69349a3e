//! Why bytes are not a packet, and why a packet cannot become bytes.

use crate::{InvalidTopic, PacketType, Property, ReasonCode};

/// Why the decoder refused what a peer sent; the connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{violation} [{}]", PacketPrefix(*packet), violation.clause())]
pub struct DecodeError {
    /// The packet it happened in, when its type is one.
    pub packet: Option<PacketType>,
    /// What is wrong with it.
    pub violation: Violation,
}

impl DecodeError {
    /// Returns the reason code for CONNACK or DISCONNECT.
    pub fn reason(&self) -> ReasonCode {
        self.violation.reason()
    }
}

struct PacketPrefix(Option<PacketType>);

impl std::fmt::Display for PacketPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(packet) => write!(f, "{packet}: "),
            None => Ok(()),
        }
    }
}

/// What a peer did against the standard or over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum Violation {
    #[error("packet type {0} does not exist in this protocol version")]
    ReservedPacketType(u8),
    #[error("header flags are {0:04b}")]
    HeaderFlags(u8),
    #[error("variable byte integer is longer than four bytes")]
    VarintTooLong,
    #[error("variable byte integer is longer than its value needs")]
    VarintNotMinimal,
    #[error("a field runs past the end")]
    Truncated,
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    #[error("text is not UTF-8")]
    InvalidUtf8,
    #[error("text contains U+0000")]
    NulCharacter,
    #[error("QoS is 3")]
    Qos3,
    #[error("DUP is set on QoS 0")]
    DupOnQos0,
    #[error("reserved connect flag is set")]
    ReservedConnectFlag,
    #[error("will QoS is set without a will")]
    WillQosWithoutWill,
    #[error("will retain is set without a will")]
    WillRetainWithoutWill,
    #[error("will QoS is 3")]
    WillQos3,
    #[error("password without user name")]
    PasswordWithoutUserName,
    #[error("acknowledge flags are {0:08b}")]
    AcknowledgeFlags(u8),
    #[error("subscription options are {0:08b}")]
    SubscriptionOptions(u8),
    #[error("{0} in the topic name of a message")]
    TopicName(InvalidTopic),
    #[error("{0} in a topic filter")]
    TopicFilter(InvalidTopic),
    #[error("property 0x{0:02X} does not exist")]
    UnknownProperty(u32),
    #[error("{0} has no place in this packet")]
    MisplacedProperty(Property),
    #[error("{0} is there twice")]
    DuplicateProperty(Property),
    #[error("{property} is {value}")]
    PropertyValue { property: Property, value: u32 },
    #[error("{0} in the response topic")]
    ResponseTopic(InvalidTopic),
    #[error("{0} comes from the wrong side")]
    PropertyDirection(Property),
    #[error("this packet comes from the wrong side")]
    PacketDirection,
    #[error("the first packet is not CONNECT")]
    ConnectExpected,
    #[error("a second CONNECT")]
    SecondConnect,
    #[error("packet identifier is zero")]
    ZeroPacketId,
    #[error("neither topic name nor topic alias")]
    NoTopic,
    #[error("authentication data without authentication method")]
    AuthenticationDataAlone,
    #[error("authentication method is missing")]
    NoAuthenticationMethod,
    #[error("reason code 0x{0:02X} has no place in this packet")]
    ReasonCode(u8),
    #[error("session present with an error")]
    SessionPresentWithError,
    #[error("no topic filter")]
    NoFilter,
    #[error("no reason code")]
    NoReasonCode,
    #[error("maximum QoS of a subscription is 3")]
    SubscriptionQos3,
    #[error("retain handling is 3")]
    RetainHandling3,
    #[error("no local on a shared subscription")]
    NoLocalShared,
    #[error("protocol name is not MQTT")]
    ProtocolName,
    #[error("protocol version {0} is not served")]
    ProtocolVersion(u8),
    #[error("topic alias is zero")]
    ZeroTopicAlias,
    #[error("packet of {len} bytes is over the limit of {max}")]
    PacketTooLarge { len: usize, max: usize },
    #[error("properties of {len} bytes are over the limit of {max}")]
    PropertiesTooLarge { len: usize, max: usize },
    #[error("more than {max} user properties")]
    TooManyUserProperties { max: usize },
    #[error("more than {max} topic filters")]
    TooManyFilters { max: usize },
    #[error("topic name has more than {max} levels")]
    TopicNameTooDeep { max: usize },
    #[error("topic filter has more than {max} levels")]
    TopicFilterTooDeep { max: usize },
}

impl Violation {
    /// Returns the reason code that tells the peer.
    pub fn reason(&self) -> ReasonCode {
        self.rule().0
    }

    /// Returns the clause of MQTT 5.0 that was broken, or the section that names the error.
    pub fn clause(&self) -> &'static str {
        self.rule().1
    }

    /// §4.13.1: what cannot be parsed is malformed; what can be parsed but is not allowed is a protocol error.
    fn rule(&self) -> (ReasonCode, &'static str) {
        use ReasonCode as R;
        match self {
            Self::ReservedPacketType(_) => (R::MalformedPacket, "MQTT5 §2.1.2"),
            Self::HeaderFlags(_) => (R::MalformedPacket, "MQTT-2.1.3-1"),
            Self::VarintTooLong => (R::MalformedPacket, "MQTT5 §1.5.5"),
            Self::VarintNotMinimal => (R::MalformedPacket, "MQTT-1.5.5-1"),
            Self::Truncated => (R::MalformedPacket, "MQTT5 §4.13.1"),
            Self::TrailingBytes(_) => (R::MalformedPacket, "MQTT5 §2.1.4"),
            Self::InvalidUtf8 => (R::MalformedPacket, "MQTT-1.5.4-1"),
            Self::NulCharacter => (R::MalformedPacket, "MQTT-1.5.4-2"),
            Self::Qos3 => (R::MalformedPacket, "MQTT-3.3.1-4"),
            Self::DupOnQos0 => (R::MalformedPacket, "MQTT-3.3.1-2"),
            Self::ReservedConnectFlag => (R::MalformedPacket, "MQTT-3.1.2-3"),
            Self::WillQosWithoutWill => (R::MalformedPacket, "MQTT-3.1.2-11"),
            Self::WillRetainWithoutWill => (R::MalformedPacket, "MQTT-3.1.2-13"),
            Self::WillQos3 => (R::MalformedPacket, "MQTT-3.1.2-12"),
            Self::PasswordWithoutUserName => (R::MalformedPacket, "MQTT311 MQTT-3.1.2-22"),
            Self::AcknowledgeFlags(_) => (R::MalformedPacket, "MQTT-3.2.2-1"),
            Self::SubscriptionOptions(_) => (R::MalformedPacket, "MQTT-3.8.3-5"),
            Self::TopicName(_) => (R::MalformedPacket, "MQTT-3.3.2-2"),
            Self::TopicFilter(_) => (R::MalformedPacket, "MQTT-4.7.1-1"),
            Self::UnknownProperty(_) | Self::MisplacedProperty(_) => (R::MalformedPacket, "MQTT5 §2.2.2.2"),
            Self::DuplicateProperty(_) | Self::PropertyValue { .. } => (R::ProtocolError, "MQTT5 §2.2.2.2"),
            Self::ResponseTopic(_) => (R::ProtocolError, "MQTT-3.3.2-14"),
            Self::PropertyDirection(Property::SessionExpiryInterval) => (R::ProtocolError, "MQTT-3.14.2-2"),
            Self::PropertyDirection(_) => (R::ProtocolError, "MQTT-3.3.4-6"),
            Self::PacketDirection => (R::ProtocolError, "MQTT5 §2.1.2"),
            Self::ConnectExpected => (R::ProtocolError, "MQTT-3.1.0-1"),
            Self::SecondConnect => (R::ProtocolError, "MQTT-3.1.0-2"),
            Self::ZeroPacketId => (R::ProtocolError, "MQTT-2.2.1-3"),
            Self::NoTopic => (R::ProtocolError, "MQTT5 §3.3.2.1"),
            Self::AuthenticationDataAlone => (R::ProtocolError, "MQTT5 §3.1.2.11.10"),
            Self::NoAuthenticationMethod => (R::ProtocolError, "MQTT5 §3.15.2.2.2"),
            Self::ReasonCode(_) => (R::ProtocolError, "MQTT5 §2.4"),
            Self::SessionPresentWithError => (R::ProtocolError, "MQTT-3.2.2-6"),
            Self::NoFilter => (R::ProtocolError, "MQTT-3.8.3-2"),
            Self::NoReasonCode => (R::ProtocolError, "MQTT-3.8.4-6"),
            Self::SubscriptionQos3 | Self::RetainHandling3 => (R::ProtocolError, "MQTT5 §3.8.3.1"),
            Self::NoLocalShared => (R::ProtocolError, "MQTT-3.8.3-4"),
            Self::ProtocolName => (R::UnsupportedProtocolVersion, "MQTT-3.1.2-1"),
            Self::ProtocolVersion(_) => (R::UnsupportedProtocolVersion, "MQTT-3.1.2-2"),
            Self::ZeroTopicAlias => (R::TopicAliasInvalid, "MQTT-3.3.2-8"),
            Self::PacketTooLarge { .. } => (R::PacketTooLarge, "MQTT-3.2.2-15"),
            Self::PropertiesTooLarge { .. }
            | Self::TooManyUserProperties { .. }
            | Self::TooManyFilters { .. } => (R::QuotaExceeded, "MQTT5 §4.13"),
            Self::TopicNameTooDeep { .. } => (R::TopicNameInvalid, "MQTT5 §4.7.3"),
            Self::TopicFilterTooDeep { .. } => (R::TopicFilterInvalid, "MQTT5 §4.7.3"),
        }
    }
}

/// Why a packet cannot be written; nothing of it has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The remaining length does not fit four bytes of varint.
    #[error("packet body of {0} bytes is over the 268435455 of the protocol")]
    PacketTooLarge(usize),
    /// A string or binary field is longer than its two-byte length can say.
    #[error("field of {0} bytes is over the 65535 of the protocol")]
    FieldTooLong(usize),
    /// A string contains U+0000.
    #[error("text contains U+0000 [MQTT-1.5.4-2]")]
    NulCharacter,
    /// PUBLISH has a packet identifier exactly when its QoS is above 0.
    #[error("packet identifier and QoS do not go together [MQTT-2.2.1-2]")]
    PacketId,
    /// DUP is set on QoS 0.
    #[error("DUP is set on QoS 0 [MQTT-3.3.1-2]")]
    DupOnQos0,
    /// PUBLISH has neither a topic name nor, in 5.0, a topic alias.
    #[error("neither topic name nor topic alias")]
    NoTopic,
    /// A property has a value the standard forbids.
    #[error("{property} is {value}")]
    PropertyValue {
        /// The property.
        property: Property,
        /// Its value.
        value: u32,
    },
    /// Authentication data without authentication method, or AUTH without one.
    #[error("authentication method is missing")]
    NoAuthenticationMethod,
    /// SUBSCRIBE, UNSUBSCRIBE, SUBACK or UNSUBACK without entries.
    #[error("{0} without an entry")]
    Empty(PacketType),
    /// No Local on a shared subscription.
    #[error("no local on a shared subscription [MQTT-3.8.3-4]")]
    NoLocalShared,
    /// A password without a user name, which 3.1.1 forbids.
    #[error("password without user name [MQTT-3.1.2-22]")]
    PasswordWithoutUserName,
    /// The packet does not exist in MQTT 3.1.1.
    #[error("{0} does not exist in MQTT 3.1.1")]
    NotIn311(PacketType),
    /// The reason has no CONNACK return code in MQTT 3.1.1: close without one.
    #[error("{0} has no return code in MQTT 3.1.1: close without CONNACK [MQTT-3.2.2-6]")]
    NoReturnCode(ReasonCode),
}
