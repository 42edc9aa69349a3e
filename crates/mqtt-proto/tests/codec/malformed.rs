//! Inputs the standards forbid, each with its clause, the reason code for the peer and the violation for the log.
//!
//! Clause ids are those of MQTT 5.0; `3.1.1:` marks those of MQTT 3.1.1.

use crate::notation::{At, bytes};
use mqtt_proto::{DecodeError, InvalidTopic, Property, Version, Violation as V};

const V311: Version = Version::V311;
const V5: Version = Version::V5;
const NEW: At = At::Accepted;
const S4: At = At::Server(V311);
const S5: At = At::Server(V5);
const C4: At = At::Client(V311);
const C5: At = At::Client(V5);

/// Clause, who decodes, bytes, reason code, violation.
type Row = (&'static str, At, &'static str, u8, V);

fn check(rows: &[Row]) {
    for (clause, at, notation, reason, violation) in rows {
        let error = refusal(*at, notation);
        assert_eq!(error.violation, *violation, "{clause}: {notation}");
        assert_eq!(error.reason() as u8, *reason, "{clause}: {notation}: {error}");
        assert!(!error.violation.clause().is_empty());
    }
}

fn refusal(at: At, notation: &str) -> DecodeError {
    match at.decode(&bytes(notation)) {
        Err(error) => error,
        Ok(packet) => panic!("{notation} at {at:?} gave {packet:?}"),
    }
}

fn value(property: Property, value: u32) -> V {
    V::PropertyValue { property, value }
}

#[test]
fn fixed_header() {
    check(&[
        ("2.1.2", NEW, "00 00", 0x81, V::ReservedPacketType(0)),
        ("2.1.2", S4, "00 00", 0x81, V::ReservedPacketType(0)),
        ("2.1.2", C5, "0f", 0x81, V::ReservedPacketType(0)),
        ("3.1.1: 2.2.1", S4, "f0 00", 0x81, V::ReservedPacketType(15)),
        ("3.1.1: 2.2.1", C4, "f0 00", 0x81, V::ReservedPacketType(15)),
        ("2.1.3-1", NEW, "11", 0x81, V::HeaderFlags(1)),
        ("2.1.3-1", S5, "c1 00", 0x81, V::HeaderFlags(1)),
        ("2.1.3-1", S5, "80 [0001 [] <a> 00]", 0x81, V::HeaderFlags(0)),
        ("3.8.1-1", S4, "8a", 0x81, V::HeaderFlags(0b1010)),
        ("3.10.1-1", S5, "a0", 0x81, V::HeaderFlags(0)),
        ("3.6.1-1", S5, "60 02 0001", 0x81, V::HeaderFlags(0)),
        ("3.6.1-1", C5, "66 02 0001", 0x81, V::HeaderFlags(0b0110)),
        ("3.14.1-1", S5, "e1 00", 0x81, V::HeaderFlags(1)),
        ("3.15.1-1", S5, "f8", 0x81, V::HeaderFlags(8)),
        ("3.3.1-4", S4, "36", 0x81, V::Qos3),
        ("3.3.1-4", S5, "3f", 0x81, V::Qos3),
        ("3.3.1-4", C5, "37 [<a> 0001 []]", 0x81, V::Qos3),
        ("3.3.1-2", S4, "38 [<a>]", 0x81, V::DupOnQos0),
        ("3.3.1-2", S5, "39 [<a> []]", 0x81, V::DupOnQos0),
        ("1.5.5", S5, "30 80808080", 0x81, V::VarintTooLong),
        ("1.5.5", S5, "30 ffffffffff01", 0x81, V::VarintTooLong),
        ("1.5.5", NEW, "10 ffffffff", 0x81, V::VarintTooLong),
        ("1.5.5-1", S4, "c0 8000", 0x81, V::VarintNotMinimal),
        ("1.5.5-1", S5, "30 848000 <a> [] 'x'", 0x81, V::VarintNotMinimal),
        ("1.5.5-1", S5, "c0 80808000", 0x81, V::VarintNotMinimal),
        ("3.12", S4, "c0 01 00", 0x81, V::TrailingBytes(1)),
        ("3.13", C5, "d0 02 0000", 0x81, V::TrailingBytes(2)),
    ]);
}

#[test]
fn order_and_direction() {
    check(&[
        ("3.1.0-1", NEW, "30", 0x82, V::ConnectExpected),
        ("3.1.0-1", NEW, "c0 00", 0x82, V::ConnectExpected),
        ("3.1.0-1", NEW, "e0 00", 0x82, V::ConnectExpected),
        ("3.1.0-1", NEW, "f0 00", 0x82, V::ConnectExpected),
        ("3.1.0-1", NEW, "20 02 0000", 0x82, V::ConnectExpected),
        ("3.1.0-2", S4, "10 [<MQTT> 04 02 0000 <>]", 0x82, V::SecondConnect),
        ("3.1.0-2", S5, "10", 0x82, V::SecondConnect),
        ("2.1.2", S4, "20 02 0000", 0x82, V::PacketDirection),
        ("2.1.2", S5, "20", 0x82, V::PacketDirection),
        ("2.1.2", S5, "90 [0001 [] 00]", 0x82, V::PacketDirection),
        ("2.1.2", S5, "b0 [0001 [] 00]", 0x82, V::PacketDirection),
        ("2.1.2", S4, "d0 00", 0x82, V::PacketDirection),
        ("2.1.2", C4, "10", 0x82, V::PacketDirection),
        ("2.1.2", C5, "82 [0001 [] <a> 00]", 0x82, V::PacketDirection),
        ("2.1.2", C5, "a2", 0x82, V::PacketDirection),
        ("2.1.2", C4, "c0 00", 0x82, V::PacketDirection),
        ("3.1.1: 2.2.1", C4, "e0 00", 0x82, V::PacketDirection),
    ]);
}

#[test]
fn connect_head() {
    check(&[
        ("3.1.2-1", NEW, "10 [<MQTTX> 04 02 0000 <>]", 0x84, V::ProtocolName),
        ("3.1.2-1", NEW, "10 [<mqtt> 05 02 0000 [] <>]", 0x84, V::ProtocolName),
        ("3.1.2-1", NEW, "10 [<> 04 02 0000 <>]", 0x84, V::ProtocolName),
        ("3.1.2-1", NEW, "10 [<HTTP>]", 0x84, V::ProtocolName),
        ("3.1.2-1", NEW, "10 [<MQIsdp> 04 02 0000 <>]", 0x84, V::ProtocolName),
        ("3.1.2-2", NEW, "10 [<MQIsdp> 03 02 0000 <c>]", 0x84, V::ProtocolVersion(3)),
        ("3.1.2-2", NEW, "10 [<MQTT> 03 02 0000 <>]", 0x84, V::ProtocolVersion(3)),
        ("3.1.2-2", NEW, "10 [<MQTT> 06 02 0000 [] <>]", 0x84, V::ProtocolVersion(6)),
        ("3.1.2-2", NEW, "10 [<MQTT> 00 02 0000 <>]", 0x84, V::ProtocolVersion(0)),
        ("3.1.2-2", NEW, "10 [<MQTT> 84 02 0000 <>]", 0x84, V::ProtocolVersion(0x84)),
        ("4.13.1", NEW, "10 00", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [0004 'MQT']", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [<MQTT>]", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [<MQTT> 04]", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [<MQTT> 04 02]", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [<MQTT> 04 02 00]", 0x81, V::Truncated),
        ("3.1.3-3", NEW, "10 [<MQTT> 04 02 0000]", 0x81, V::Truncated),
        ("4.13.1", NEW, "10 [<MQTT> 05 02 0000]", 0x81, V::Truncated),
        ("3.1.3-3", NEW, "10 [<MQTT> 05 02 0000 []]", 0x81, V::Truncated),
        ("3.1.2-3", NEW, "10 [<MQTT> 04 03 0000 <>]", 0x81, V::ReservedConnectFlag),
        ("3.1.2-3", NEW, "10 [<MQTT> 05 01 0000 [] <>]", 0x81, V::ReservedConnectFlag),
        ("3.1.2-11", NEW, "10 [<MQTT> 04 0a 0000 <>]", 0x81, V::WillQosWithoutWill),
        ("3.1.2-11", NEW, "10 [<MQTT> 05 10 0000 [] <>]", 0x81, V::WillQosWithoutWill),
        ("3.1.2-12", NEW, "10 [<MQTT> 04 1e 0000 <> <w> <>]", 0x81, V::WillQos3),
        ("3.1.2-12", NEW, "10 [<MQTT> 05 1a 0000 [] <>]", 0x81, V::WillQos3),
        ("3.1.2-13", NEW, "10 [<MQTT> 04 22 0000 <>]", 0x81, V::WillRetainWithoutWill),
        ("3.1.2-13", NEW, "10 [<MQTT> 05 20 0000 [] <>]", 0x81, V::WillRetainWithoutWill),
        ("3.1.1: 3.1.2-22", NEW, "10 [<MQTT> 04 42 0000 <> <p>]", 0x81, V::PasswordWithoutUserName),
    ]);
}

#[test]
fn connect_payload() {
    check(&[
        ("3.1.3-4", NEW, "10 [<MQTT> 04 02 0000 0002 ff41]", 0x81, V::InvalidUtf8),
        ("1.5.4-1", NEW, "10 [<MQTT> 05 02 0000 [] 0003 eda080]", 0x81, V::InvalidUtf8),
        ("1.5.4-2", NEW, "10 [<MQTT> 05 02 0000 [] 0003 'a' 00 'b']", 0x81, V::NulCharacter),
        ("4.13.1", NEW, "10 [<MQTT> 04 02 0000 0005 'abc']", 0x81, V::Truncated),
        ("3.1.2-9", NEW, "10 [<MQTT> 04 06 0000 <>]", 0x81, V::Truncated),
        ("3.1.2-9", NEW, "10 [<MQTT> 04 06 0000 <> <w>]", 0x81, V::Truncated),
        ("3.1.2-9", NEW, "10 [<MQTT> 05 06 0000 [] <>]", 0x81, V::Truncated),
        ("3.1.2-9", NEW, "10 [<MQTT> 05 06 0000 [] <> [] <w> 0002 'x']", 0x81, V::Truncated),
        ("3.1.3-11", NEW, "10 [<MQTT> 04 06 0000 <> 0001 ff <>]", 0x81, V::InvalidUtf8),
        ("4.7.3-1", NEW, "10 [<MQTT> 04 06 0000 <> <> <m>]", 0x81, V::TopicName(InvalidTopic::Empty)),
        ("3.3.2-2", NEW, "10 [<MQTT> 04 06 0000 <> <w/#> <m>]", 0x81, V::TopicName(InvalidTopic::Wildcard)),
        (
            "3.3.2-2",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [] <+> <m>]",
            0x81,
            V::TopicName(InvalidTopic::Wildcard),
        ),
        ("4.7.3-2", NEW, "10 [<MQTT> 04 06 0000 <> 0001 00 <m>]", 0x81, V::NulCharacter),
        ("3.1.2-17", NEW, "10 [<MQTT> 04 82 0000 <>]", 0x81, V::Truncated),
        ("3.1.3-12", NEW, "10 [<MQTT> 04 82 0000 <> 0002 c080]", 0x81, V::InvalidUtf8),
        ("3.1.2-19", NEW, "10 [<MQTT> 04 c2 0000 <> <u>]", 0x81, V::Truncated),
        ("3.1.2-16", NEW, "10 [<MQTT> 04 02 0000 <> <u>]", 0x81, V::TrailingBytes(3)),
        ("3.1.2-18", NEW, "10 [<MQTT> 05 82 0000 [] <> <u> <p>]", 0x81, V::TrailingBytes(3)),
        ("2.1.4", NEW, "10 [<MQTT> 04 02 0000 <> 00]", 0x81, V::TrailingBytes(1)),
    ]);
}

#[test]
fn connect_properties() {
    use Property as P;
    check(&[
        ("3.1.2.11.3", NEW, "10 [<MQTT> 05 02 0000 [21 0000] <>]", 0x82, value(P::ReceiveMaximum, 0)),
        ("3.1.2.11.4", NEW, "10 [<MQTT> 05 02 0000 [27 00000000] <>]", 0x82, value(P::MaximumPacketSize, 0)),
        (
            "3.1.2.11.6",
            NEW,
            "10 [<MQTT> 05 02 0000 [19 02] <>]",
            0x82,
            value(P::RequestResponseInformation, 2),
        ),
        (
            "3.1.2.11.7",
            NEW,
            "10 [<MQTT> 05 02 0000 [17 ff] <>]",
            0x82,
            value(P::RequestProblemInformation, 255),
        ),
        ("3.1.2.11.10", NEW, "10 [<MQTT> 05 02 0000 [16 <d>] <>]", 0x82, V::AuthenticationDataAlone),
        (
            "3.1.2.11.2",
            NEW,
            "10 [<MQTT> 05 02 0000 [11 00000001 11 00000001] <>]",
            0x82,
            V::DuplicateProperty(P::SessionExpiryInterval),
        ),
        ("2.2.2.2", NEW, "10 [<MQTT> 05 02 0000 [00] <>]", 0x81, V::UnknownProperty(0)),
        ("2.2.2.2", NEW, "10 [<MQTT> 05 02 0000 [8001 00] <>]", 0x81, V::UnknownProperty(128)),
        ("1.5.5-1", NEW, "10 [<MQTT> 05 02 0000 [9100 00000001] <>]", 0x81, V::VarintNotMinimal),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 8000 <>]", 0x81, V::VarintNotMinimal),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 05 11 0000 <>]", 0x81, V::Truncated),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 [11 000000] <>]", 0x81, V::Truncated),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 ff7f <>]", 0x81, V::Truncated),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 ffffffff <>]", 0x81, V::VarintTooLong),
        ("2.2.2.1", NEW, "10 [<MQTT> 05 02 0000 [26 <k>] <v> <>]", 0x81, V::Truncated),
        ("1.5.7-1", NEW, "10 [<MQTT> 05 02 0000 [26 <k> 0001 ff] <>]", 0x81, V::InvalidUtf8),
        ("1.5.7-1", NEW, "10 [<MQTT> 05 02 0000 [26 0001 00 <v>] <>]", 0x81, V::NulCharacter),
        (
            "2.2.2.2",
            NEW,
            "10 [<MQTT> 05 02 0000 [18 00000001] <>]",
            0x81,
            V::MisplacedProperty(P::WillDelayInterval),
        ),
        ("2.2.2.2", NEW, "10 [<MQTT> 05 02 0000 [1f <r>] <>]", 0x81, V::MisplacedProperty(P::ReasonString)),
    ]);
}

#[test]
fn will_properties() {
    use Property as P;
    check(&[
        (
            "2.2.2.2",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [11 00000001] <w> <m>]",
            0x81,
            V::MisplacedProperty(P::SessionExpiryInterval),
        ),
        (
            "2.2.2.2",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [23 0001] <w> <m>]",
            0x81,
            V::MisplacedProperty(P::TopicAlias),
        ),
        (
            "3.1.3.2.3",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [01 02] <w> <m>]",
            0x82,
            value(P::PayloadFormatIndicator, 2),
        ),
        (
            "3.1.3.2.2",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [18 00000001 18 00000002] <w> <m>]",
            0x82,
            V::DuplicateProperty(P::WillDelayInterval),
        ),
        (
            "3.3.2-14",
            NEW,
            "10 [<MQTT> 05 06 0000 [] <> [08 <a/+>] <w> <m>]",
            0x82,
            V::ResponseTopic(InvalidTopic::Wildcard),
        ),
    ]);
}

#[test]
fn connack() {
    use Property as P;
    check(&[
        ("3.2.2-1", C4, "20 02 02 00", 0x81, V::AcknowledgeFlags(2)),
        ("3.2.2-1", C5, "20 03 81 00 00", 0x81, V::AcknowledgeFlags(0x81)),
        ("3.2.2-6", C5, "20 03 01 87 00", 0x82, V::SessionPresentWithError),
        ("3.1.1: 3.2.2-4", C4, "20 02 01 05", 0x82, V::SessionPresentWithError),
        ("3.1.1: 3.2.2.3", C4, "20 02 00 06", 0x82, V::ReasonCode(6)),
        ("3.2.2-8", C5, "20 03 00 01 00", 0x82, V::ReasonCode(1)),
        ("3.2.2-8", C5, "20 03 00 8e 00", 0x82, V::ReasonCode(0x8E)),
        ("4.13.1", C4, "20 01 00", 0x81, V::Truncated),
        ("4.13.1", C5, "20 02 00 00", 0x81, V::Truncated),
        ("2.1.4", C4, "20 03 00 00 00", 0x81, V::TrailingBytes(1)),
        ("2.1.4", C5, "20 04 00 00 00 00", 0x81, V::TrailingBytes(1)),
        ("3.2.2.3.4", C5, "20 [00 00 [24 02]]", 0x82, value(P::MaximumQos, 2)),
        ("3.2.2.3.5", C5, "20 [00 00 [25 02]]", 0x82, value(P::RetainAvailable, 2)),
        ("3.2.2.3.11", C5, "20 [00 00 [28 ff]]", 0x82, value(P::WildcardSubscriptionAvailable, 255)),
        ("3.2.2.3.12", C5, "20 [00 00 [29 02]]", 0x82, value(P::SubscriptionIdentifierAvailable, 2)),
        ("3.2.2.3.13", C5, "20 [00 00 [2a 02]]", 0x82, value(P::SharedSubscriptionAvailable, 2)),
        ("3.2.2.3.3", C5, "20 [00 00 [21 0000]]", 0x82, value(P::ReceiveMaximum, 0)),
        ("3.2.2.3.6", C5, "20 [00 00 [27 00000000]]", 0x82, value(P::MaximumPacketSize, 0)),
        ("3.2.2.3.18", C5, "20 [00 00 [16 <d>]]", 0x82, V::AuthenticationDataAlone),
        ("2.2.2.2", C5, "20 [00 00 [17 01]]", 0x81, V::MisplacedProperty(P::RequestProblemInformation)),
    ]);
}

#[test]
fn publish() {
    use Property as P;
    check(&[
        ("4.13.1", S4, "30 00", 0x81, V::Truncated),
        ("4.13.1", S4, "30 [0002 'a']", 0x81, V::Truncated),
        ("4.13.1", S4, "32 [<a> 00]", 0x81, V::Truncated),
        ("2.2.1-2", S4, "34 [<a>]", 0x81, V::Truncated),
        ("4.13.1", S5, "30 [<a>]", 0x81, V::Truncated),
        ("4.13.1", S5, "32 [<a> 0001]", 0x81, V::Truncated),
        ("2.2.1-3", S4, "32 [<a> 0000]", 0x82, V::ZeroPacketId),
        ("2.2.1-4", C5, "34 [<a> 0000 []]", 0x82, V::ZeroPacketId),
        ("3.3.2-1", S4, "30 [0001 ff]", 0x81, V::InvalidUtf8),
        ("3.3.2-1", S5, "30 [0003 edbfbf []]", 0x81, V::InvalidUtf8),
        ("4.7.3-2", S5, "30 [0003 'a' 00 'b' []]", 0x81, V::NulCharacter),
        ("3.3.2-2", S4, "30 [<#>]", 0x81, V::TopicName(InvalidTopic::Wildcard)),
        ("3.3.2-2", S5, "30 [<a/+/b> []]", 0x81, V::TopicName(InvalidTopic::Wildcard)),
        ("3.3.2-2", C5, "30 [<a+b> []]", 0x81, V::TopicName(InvalidTopic::Wildcard)),
        ("3.1.1: 4.7.3-1", S4, "30 [<>]", 0x82, V::NoTopic),
        ("3.3.2.1", S5, "30 [<> []]", 0x82, V::NoTopic),
        ("3.3.2-8", S5, "30 [<a> [23 0000]]", 0x94, V::ZeroTopicAlias),
        ("3.3.2-8", C5, "30 [<> [23 0000]]", 0x94, V::ZeroTopicAlias),
        ("3.3.2.3.4", S5, "30 [<a> [23 0001 23 0001]]", 0x82, V::DuplicateProperty(P::TopicAlias)),
        ("3.3.2.3.2", S5, "30 [<a> [01 02]]", 0x82, value(P::PayloadFormatIndicator, 2)),
        ("3.3.2-14", S5, "30 [<a> [08 <r/#>]]", 0x82, V::ResponseTopic(InvalidTopic::Wildcard)),
        ("4.7.3-1", S5, "30 [<a> [08 <>]]", 0x82, V::ResponseTopic(InvalidTopic::Empty)),
        ("3.3.2-13", S5, "30 [<a> [08 0002 c328]]", 0x81, V::InvalidUtf8),
        ("3.3.2-19", S5, "30 [<a> [03 0001 00]]", 0x81, V::NulCharacter),
        ("3.3.2.3.6", S5, "30 [<a> [09 <a> 09 <a>]]", 0x82, V::DuplicateProperty(P::CorrelationData)),
        ("3.3.4-6", S5, "30 [<a> [0b 01]]", 0x82, V::PropertyDirection(P::SubscriptionIdentifier)),
        ("3.3.2.3.8", C5, "30 [<a> [0b 00]]", 0x82, value(P::SubscriptionIdentifier, 0)),
        ("1.5.5-1", C5, "30 [<a> [0b 8100]]", 0x81, V::VarintNotMinimal),
        ("1.5.5", C5, "30 [<a> [0b 8080808001]]", 0x81, V::VarintTooLong),
        ("2.2.2.2", S5, "30 [<a> [1f <r>]]", 0x81, V::MisplacedProperty(P::ReasonString)),
        ("2.2.2.2", S5, "30 [<a> [18 00000001]]", 0x81, V::MisplacedProperty(P::WillDelayInterval)),
        ("2.2.2.2", S5, "30 [<a> [7f]]", 0x81, V::UnknownProperty(0x7F)),
        ("2.2.2.1", S5, "30 [<a> 05 01 01]", 0x81, V::Truncated),
        ("2.2.2.1", S5, "30 [<a> [02 0000] 0001]", 0x81, V::Truncated),
    ]);
}

#[test]
fn acknowledgements_of_publish() {
    check(&[
        ("2.2.1-3", S4, "40 02 0000", 0x82, V::ZeroPacketId),
        ("2.2.1-3", S5, "50 02 0000", 0x82, V::ZeroPacketId),
        ("2.2.1-3", C5, "62 03 0000 00", 0x82, V::ZeroPacketId),
        ("2.2.1-3", C4, "70 02 0000", 0x82, V::ZeroPacketId),
        ("4.13.1", S4, "40 00", 0x81, V::Truncated),
        ("4.13.1", S5, "50 01 00", 0x81, V::Truncated),
        ("3.1.1: 3.4.1", S4, "40 03 0001 00", 0x81, V::TrailingBytes(1)),
        ("3.1.1: 3.6.1", S4, "62 04 0001 00 00", 0x81, V::TrailingBytes(2)),
        ("3.4.2-1", S5, "40 03 0001 01", 0x82, V::ReasonCode(1)),
        ("3.4.2-1", S5, "40 03 0001 92", 0x82, V::ReasonCode(0x92)),
        ("3.5.2-1", S5, "50 03 0001 ff", 0x82, V::ReasonCode(0xFF)),
        ("3.6.2-1", S5, "62 03 0001 10", 0x82, V::ReasonCode(0x10)),
        ("3.7.2-1", C5, "70 03 0001 87", 0x82, V::ReasonCode(0x87)),
        ("3.4.2.2.1", S5, "40 04 0001 00 01", 0x81, V::Truncated),
        ("2.1.4", S5, "40 05 0001 00 00 00", 0x81, V::TrailingBytes(1)),
        ("3.4.2.2.2", S5, "40 [0001 00 [1f <a> 1f <b>]]", 0x82, V::DuplicateProperty(Property::ReasonString)),
        (
            "2.2.2.2",
            S5,
            "62 [0001 00 [11 00000001]]",
            0x81,
            V::MisplacedProperty(Property::SessionExpiryInterval),
        ),
        ("1.5.4-1", S5, "70 [0001 00 [1f 0001 80]]", 0x81, V::InvalidUtf8),
    ]);
}

#[test]
fn subscribe() {
    use InvalidTopic as T;
    check(&[
        ("2.2.1-3", S4, "82 [0000 <a> 00]", 0x82, V::ZeroPacketId),
        ("2.2.1-3", S5, "82 [0000 [] <a> 00]", 0x82, V::ZeroPacketId),
        ("4.13.1", S5, "82 00", 0x81, V::Truncated),
        ("4.13.1", S5, "82 02 0001", 0x81, V::Truncated),
        ("3.8.3-2", S4, "82 02 0001", 0x82, V::NoFilter),
        ("3.8.3-2", S5, "82 [0001 []]", 0x82, V::NoFilter),
        ("4.13.1", S4, "82 [0001 <a>]", 0x81, V::Truncated),
        ("4.13.1", S4, "82 [0001 <a> 00 <b>]", 0x81, V::Truncated),
        ("4.13.1", S5, "82 [0001 [] 0005 'a' 00]", 0x81, V::Truncated),
        ("3.8.3-1", S4, "82 [0001 0001 ff 00]", 0x81, V::InvalidUtf8),
        ("4.7.3-2", S4, "82 [0001 0001 00 00]", 0x81, V::NulCharacter),
        ("4.7.3-1", S4, "82 [0001 <> 00]", 0x81, V::TopicFilter(T::Empty)),
        ("4.7.1-1", S4, "82 [0001 <a#> 00]", 0x81, V::TopicFilter(T::MultiLevel)),
        ("4.7.1-1", S5, "82 [0001 [] <a/#/b> 00]", 0x81, V::TopicFilter(T::MultiLevel)),
        ("4.7.1-2", S5, "82 [0001 [] <a+/b> 00]", 0x81, V::TopicFilter(T::SingleLevel)),
        ("4.8.2-1", S5, "82 [0001 [] <$share//a> 00]", 0x81, V::TopicFilter(T::Share)),
        ("4.8.2-2", S5, "82 [0001 [] <$share/g> 00]", 0x81, V::TopicFilter(T::Share)),
        ("4.8.2-2", S5, "82 [0001 [] <$share/g+/a> 00]", 0x81, V::TopicFilter(T::Share)),
        ("4.8.2-2", S5, "82 [0001 [] <$share/#/a> 00]", 0x81, V::TopicFilter(T::Share)),
        ("4.8.2", S5, "82 [0001 [] <$share/g/> 00]", 0x81, V::TopicFilter(T::Share)),
        ("4.8.2", S4, "82 [0001 <$share/g/a+> 00]", 0x81, V::TopicFilter(T::SingleLevel)),
        ("3.1.1: 3.8.3-4", S4, "82 [0001 <a> 03]", 0x81, V::SubscriptionOptions(3)),
        ("3.1.1: 3.8.3-4", S4, "82 [0001 <a> 04]", 0x81, V::SubscriptionOptions(4)),
        ("3.1.1: 3.8.3-4", S4, "82 [0001 <a> 00 <b> 80]", 0x81, V::SubscriptionOptions(0x80)),
        ("3.8.3-5", S5, "82 [0001 [] <a> 40]", 0x81, V::SubscriptionOptions(0x40)),
        ("3.8.3-5", S5, "82 [0001 [] <a> 80]", 0x81, V::SubscriptionOptions(0x80)),
        ("3.8.3.1", S5, "82 [0001 [] <a> 03]", 0x82, V::SubscriptionQos3),
        ("3.8.3.1", S5, "82 [0001 [] <a> 30]", 0x82, V::RetainHandling3),
        ("3.8.3-4", S5, "82 [0001 [] <$share/g/a> 04]", 0x82, V::NoLocalShared),
        ("3.8.3-4", S5, "82 [0001 [] <b> 04 <$share/g/a> 05]", 0x82, V::NoLocalShared),
        ("3.8.2.1.2", S5, "82 [0001 [0b 00] <a> 00]", 0x82, value(Property::SubscriptionIdentifier, 0)),
        (
            "3.8.2.1.2",
            S5,
            "82 [0001 [0b 01 0b 02] <a> 00]",
            0x82,
            V::DuplicateProperty(Property::SubscriptionIdentifier),
        ),
        ("2.2.2.2", S5, "82 [0001 [1f <r>] <a> 00]", 0x81, V::MisplacedProperty(Property::ReasonString)),
    ]);
}

#[test]
fn unsubscribe_and_the_answers() {
    use InvalidTopic as T;
    check(&[
        ("2.2.1-3", S4, "a2 [0000 <a>]", 0x82, V::ZeroPacketId),
        ("3.10.3-2", S4, "a2 02 0001", 0x82, V::NoFilter),
        ("3.10.3-2", S5, "a2 [0001 []]", 0x82, V::NoFilter),
        ("4.13.1", S4, "a2 [0001 0002 'a']", 0x81, V::Truncated),
        ("4.13.1", S4, "a2 [0001 <a> 00]", 0x81, V::Truncated),
        ("3.10.3-1", S4, "a2 [0001 0001 ff]", 0x81, V::InvalidUtf8),
        ("4.7.1-1", S5, "a2 [0001 [] <#/a>]", 0x81, V::TopicFilter(T::MultiLevel)),
        ("4.7.3-1", S5, "a2 [0001 [] <>]", 0x81, V::TopicFilter(T::Empty)),
        (
            "2.2.2.2",
            S5,
            "a2 [0001 [0b 01] <a>]",
            0x81,
            V::MisplacedProperty(Property::SubscriptionIdentifier),
        ),
        ("2.2.1-3", C4, "90 03 0000 00", 0x82, V::ZeroPacketId),
        ("2.2.1-3", C5, "b0 [0000 [] 00]", 0x82, V::ZeroPacketId),
        ("3.8.4-6", C4, "90 02 0001", 0x82, V::NoReasonCode),
        ("3.8.4-6", C5, "90 [0001 []]", 0x82, V::NoReasonCode),
        ("3.11.3-1", C5, "b0 [0001 []]", 0x82, V::NoReasonCode),
        ("3.1.1: 3.9.3-2", C4, "90 03 0001 03", 0x82, V::ReasonCode(3)),
        ("3.1.1: 3.9.3-2", C4, "90 04 0001 00 87", 0x82, V::ReasonCode(0x87)),
        ("3.9.3-2", C5, "90 [0001 [] 00 03]", 0x82, V::ReasonCode(3)),
        ("3.11.3-2", C5, "b0 [0001 [] 01]", 0x82, V::ReasonCode(1)),
        ("3.1.1: 3.11", C4, "b0 03 0001 00", 0x81, V::TrailingBytes(1)),
        ("4.13.1", C5, "90 02 0001", 0x81, V::Truncated),
        ("2.2.2.2", C5, "90 [0001 [0b 01] 00]", 0x81, V::MisplacedProperty(Property::SubscriptionIdentifier)),
    ]);
}

#[test]
fn disconnect_and_auth() {
    use Property as P;
    check(&[
        ("3.1.1: 3.14", S4, "e0 01 00", 0x81, V::TrailingBytes(1)),
        ("3.14.2-1", S5, "e0 01 01", 0x82, V::ReasonCode(1)),
        ("3.14.2-1", S5, "e0 01 8e", 0x82, V::ReasonCode(0x8E)),
        ("3.14.2-1", S5, "e0 01 03", 0x82, V::ReasonCode(3)),
        ("3.14.2-1", C5, "e0 01 04", 0x82, V::ReasonCode(4)),
        ("3.14.2-1", C5, "e0 00", 0x82, V::ReasonCode(0)),
        ("3.14.2-2", C5, "e0 [8b [11 00000001]]", 0x82, V::PropertyDirection(P::SessionExpiryInterval)),
        (
            "3.14.2.2.2",
            S5,
            "e0 [00 [11 00000001 11 00000001]]",
            0x82,
            V::DuplicateProperty(P::SessionExpiryInterval),
        ),
        ("2.2.2.2", S5, "e0 [00 [21 0001]]", 0x81, V::MisplacedProperty(P::ReceiveMaximum)),
        ("2.1.4", S5, "e0 03 00 00 00", 0x81, V::TrailingBytes(1)),
        ("2.2.2.1", S5, "e0 02 00 01", 0x81, V::Truncated),
        ("3.15.2-1", S5, "f0 00", 0x82, V::ReasonCode(0)),
        ("3.15.2-1", S5, "f0 [00 [15 <m>]]", 0x82, V::ReasonCode(0)),
        ("3.15.2-1", C5, "f0 [19 [15 <m>]]", 0x82, V::ReasonCode(0x19)),
        ("3.15.2-1", S5, "f0 [87 [15 <m>]]", 0x82, V::ReasonCode(0x87)),
        ("3.15.2.1", S5, "f0 01 18", 0x81, V::Truncated),
        ("3.15.2.2.2", S5, "f0 [18 []]", 0x82, V::NoAuthenticationMethod),
        ("3.15.2.2.2", S5, "f0 [18 [16 <d>]]", 0x82, V::NoAuthenticationMethod),
        ("3.15.2.2.2", S5, "f0 [18 [15 <m> 15 <m>]]", 0x82, V::DuplicateProperty(P::AuthenticationMethod)),
        (
            "3.15.2.2.3",
            S5,
            "f0 [18 [15 <m> 16 <a> 16 <a>]]",
            0x82,
            V::DuplicateProperty(P::AuthenticationData),
        ),
        ("2.2.2.2", S5, "f0 [18 [15 <m> 1c <s>]]", 0x81, V::MisplacedProperty(P::ServerReference)),
        ("2.1.4", S5, "f0 [18 [15 <m>] 00]", 0x81, V::TrailingBytes(1)),
    ]);
}

/// A well-formed value of every property, and the places table 2-4 gives it.
const PROPERTIES: [(&str, &str); 27] = [
    ("01 01", "PUBLISH WILL"),
    ("02 00000001", "PUBLISH WILL"),
    ("03 <t>", "PUBLISH WILL"),
    ("08 <t>", "PUBLISH WILL"),
    ("09 <d>", "PUBLISH WILL"),
    ("0b 01", "PUBLISH SUBSCRIBE"),
    ("11 00000001", "CONNECT CONNACK DISCONNECT"),
    ("12 <c>", "CONNACK"),
    ("13 0001", "CONNACK"),
    ("15 <m>", "CONNECT CONNACK AUTH"),
    ("16 <d>", "CONNECT CONNACK AUTH"),
    ("17 01", "CONNECT"),
    ("18 00000001", "WILL"),
    ("19 01", "CONNECT"),
    ("1a <i>", "CONNACK"),
    ("1c <s>", "CONNACK DISCONNECT"),
    ("1f <r>", "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"),
    ("21 0001", "CONNECT CONNACK"),
    ("22 0001", "CONNECT CONNACK"),
    ("23 0001", "PUBLISH"),
    ("24 01", "CONNACK"),
    ("25 01", "CONNACK"),
    (
        "26 <k> <v>",
        "CONNECT CONNACK PUBLISH WILL PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH",
    ),
    ("27 00000001", "CONNECT CONNACK"),
    ("28 01", "CONNACK"),
    ("29 01", "CONNACK"),
    ("2a 01", "CONNACK"),
];

/// Every packet with a property block, `@` where the properties go.
const PLACES: [(&str, At, &str); 16] = [
    ("CONNECT", NEW, "10 [<MQTT> 05 02 0000 [@] <>]"),
    ("WILL", NEW, "10 [<MQTT> 05 06 0000 [] <> [@] <w> <m>]"),
    ("CONNACK", C5, "20 [00 00 [@]]"),
    ("PUBLISH", C5, "30 [<a> [@]]"),
    ("PUBACK", S5, "40 [0001 00 [@]]"),
    ("PUBREC", S5, "50 [0001 00 [@]]"),
    ("PUBREL", S5, "62 [0001 00 [@]]"),
    ("PUBCOMP", S5, "70 [0001 00 [@]]"),
    ("PUBACK", C5, "40 [0001 00 [@]]"),
    ("SUBSCRIBE", S5, "82 [0001 [@] <a> 00]"),
    ("SUBACK", C5, "90 [0001 [@] 00]"),
    ("UNSUBSCRIBE", S5, "a2 [0001 [@] <a>]"),
    ("UNSUBACK", C5, "b0 [0001 [@] 00]"),
    ("DISCONNECT", S5, "e0 [00 [@]]"),
    ("AUTH", S5, "f0 [18 [@]]"),
    ("AUTH", C5, "f0 [18 [@]]"),
];

#[test]
fn every_property_in_every_place_once_and_twice() {
    let mut refused = 0;
    for (place, at, frame) in PLACES {
        for (property, allowed) in PROPERTIES {
            // What authentication data needs beside it.
            let beside = if property.starts_with("16") || place == "AUTH" && !property.starts_with("15") {
                "15 <m>"
            } else {
                ""
            };
            let once = frame.replace('@', &format!("{property} {beside}"));
            let twice = frame.replace('@', &format!("{property} {property} {beside}"));
            let repeatable = property.starts_with("26") || property.starts_with("0b") && place == "PUBLISH";
            if allowed.split(' ').any(|name| name == place) {
                assert!(matches!(at.decode(&bytes(&once)), Ok(Some(_))), "{place} {property}");
                if repeatable {
                    assert!(matches!(at.decode(&bytes(&twice)), Ok(Some(_))), "{place} {property} twice");
                } else {
                    let error = refusal(at, &twice);
                    assert!(
                        matches!(error.violation, V::DuplicateProperty(_)),
                        "{place} {property}: {error}"
                    );
                    assert_eq!(error.reason() as u8, 0x82);
                    refused += 1;
                }
            } else {
                let error = refusal(at, &once);
                assert!(matches!(error.violation, V::MisplacedProperty(_)), "{place} {property}: {error}");
                assert_eq!(error.reason() as u8, 0x81);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 415, "432 pairs less the 17 that may be there twice");
}

#[test]
fn every_number_that_is_no_property() {
    let known = PROPERTIES.map(|(property, _)| bytes(property)[0]);
    for id in (0..0x80).filter(|id| !known.contains(id)) {
        let error = refusal(S5, &format!("30 [<a> [{id:02x} 00000000]]"));
        assert_eq!(error.violation, V::UnknownProperty(id.into()));
        assert_eq!(error.reason() as u8, 0x81);
    }
}

/// The reason codes of tables 3-1, 3-4 to 3-9, 3-13 and 3-15, by receiver.
const REASONS: [(&str, At, &str, &str); 15] = [
    ("CONNACK", C5, "20 [00 @ []]", "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f"),
    ("PUBACK", S5, "40 [0001 @]", "00 10 80 83 87 90 91 97 99"),
    ("PUBACK", C5, "40 [0001 @ []]", "00 10 80 83 87 90 91 97 99"),
    ("PUBREC", S5, "50 [0001 @ []]", "00 10 80 83 87 90 91 97 99"),
    ("PUBREC", C5, "50 [0001 @]", "00 10 80 83 87 90 91 97 99"),
    ("PUBREL", S5, "62 [0001 @]", "00 92"),
    ("PUBREL", C5, "62 [0001 @]", "00 92"),
    ("PUBCOMP", S5, "70 [0001 @]", "00 92"),
    ("PUBCOMP", C5, "70 [0001 @]", "00 92"),
    ("SUBACK", C5, "90 [0001 [] @]", "00 01 02 80 83 87 8f 91 97 9e a1 a2"),
    ("UNSUBACK", C5, "b0 [0001 [] @]", "00 11 80 83 87 8f 91"),
    ("DISCONNECT", S5, "e0 [@]", "00 04 80 81 82 83 90 93 94 95 96 97 98 99"),
    (
        "DISCONNECT",
        C5,
        "e0 [@ []]",
        "80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2",
    ),
    ("AUTH", S5, "f0 [@ [15 <m>]]", "18 19"),
    ("AUTH", C5, "f0 [@ [15 <m>]]", "00 18"),
];

#[test]
fn every_reason_code_in_every_packet() {
    for (packet, at, frame, allowed) in REASONS {
        for code in 0..=u8::MAX {
            let code = format!("{code:02x}");
            let notation = frame.replace('@', &code);
            if allowed.split(' ').any(|allowed| allowed == code) {
                assert!(matches!(at.decode(&bytes(&notation)), Ok(Some(_))), "{packet} 0x{code}");
            } else {
                let error = refusal(at, &notation);
                assert!(matches!(error.violation, V::ReasonCode(_)), "{packet} 0x{code}: {error}");
                assert_eq!(error.reason() as u8, 0x82);
            }
        }
    }
}

#[test]
fn every_header_flag_of_every_type() {
    for first in 0x10..=u8::MAX {
        let (kind, flags) = (first >> 4, first & 0x0F);
        let right = match kind {
            3 => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
            6 | 8 | 10 => flags == 0b0010,
            _ => flags == 0,
        };
        let receivers: &[At] = match kind {
            1 => &[NEW],
            8 | 10 | 12 => &[S4, S5],
            2 | 9 | 11 | 13 => &[C4, C5],
            14 => &[S4, S5, C5],
            15 => &[S5, C5],
            _ => &[S4, S5, C4, C5],
        };
        for at in receivers {
            let result = at.decode(&[first]);
            assert_eq!(result.is_ok(), right, "0x{first:02x} at {at:?}: {result:?}");
            assert!(result.is_ok() || result.unwrap_err().reason() as u8 == 0x81);
        }
    }
}

#[test]
fn the_version_is_known_once_connect_named_one() {
    use bytes::BytesMut;
    use mqtt_proto::{Decoder, Limits};
    for (notation, version) in [
        ("10 [<MQTT> 05 03 0000 [] <>]", Some(V5)),
        ("10 [<MQTT> 04 02 0000 <> 00]", Some(V311)),
        ("10 [<MQTT> 03 02 0000 <>]", None),
        ("10 [<MQTT> 05]", Some(V5)),
        ("10 [<HTTP> 05]", Some(V5)),
        ("10 [<HTTP> 04]", None),
        // Above 5 the rest says whose form it is: that of 5.0 has properties.
        ("10 [<MQTT> 06 02 0000 [] <>]", Some(V5)),
        ("10 [<MQTT> 63 02 003c [] <c>]", Some(V5)),
        ("10 [<MQTT> 06 02 0000 <>]", None),
        ("10 [<MQTT> 84 c6 003c <c> <w> <m> <u> <p>]", None),
        ("10 [<MQTT> 84 c6 003c [] <c> [] <w> <m> <u> <p>]", Some(V5)),
        ("10 [<MQTT> 02 02 0000 [] <>]", None),
        ("11 00", None),
    ] {
        let mut decoder = Decoder::server(Limits::default());
        assert!(decoder.decode(&mut BytesMut::from(&bytes(notation)[..])).is_err());
        assert_eq!(decoder.version(), version, "{notation}");
    }
}

#[test]
fn a_refusal_is_final() {
    use bytes::BytesMut;
    use mqtt_proto::{Decoder, Limits};
    let mut decoder = Decoder::server(Limits::default());
    let refused = decoder.decode(&mut BytesMut::from(&bytes("10 [<MQTT> 05 03 0000 [] <>]")[..]));
    assert_eq!(refused.unwrap_err().violation, V::ReservedConnectFlag);
    for next in ["c0 00", "30 [<a> []]", "10 [<MQTT> 05 02 0000 [] <>]", ""] {
        let again = decoder.decode(&mut BytesMut::from(&bytes(next)[..]));
        assert_eq!(again.unwrap_err().violation, V::ReservedConnectFlag, "{next}");
    }
}

#[test]
fn credentials_stay_out_of_debug() {
    for (at, notation) in [
        (NEW, "10 [<MQTT> 05 c2 0000 [15 <m> 16 <hunter2>] <> <u> <hunter2>]"),
        (NEW, "10 [<MQTT> 04 c2 0000 <> <u> <hunter2>]"),
        (S5, "f0 [18 [15 <m> 16 <hunter2>]]"),
    ] {
        let shown = format!("{:?}", at.decode(&bytes(notation)).unwrap().unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("Some(7 secret bytes)"), "{shown}");
    }
}

#[test]
fn errors_read_well_in_a_log() {
    for (at, notation, text) in [
        (
            S5,
            "82 [0001 [] <a+> 00]",
            "SUBSCRIBE: `+` does not fill its level in a topic filter [MQTT-4.7.1-1]",
        ),
        (S5, "30 [<a> [01 02]]", "PUBLISH: Payload Format Indicator is 2 [MQTT5 §2.2.2.2]"),
        (S5, "00", "packet type 0 does not exist in this protocol version [MQTT5 §2.1.2]"),
        (NEW, "c0 00", "PINGREQ: the first packet is not CONNECT [MQTT-3.1.0-1]"),
    ] {
        assert_eq!(refusal(at, notation).to_string(), text);
    }
}
