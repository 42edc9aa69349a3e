//! Packets the encoder refuses, leaving the output as it was.

use bytes::{Bytes, BytesMut};
use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, EncodeError, Info, Packet, PacketId, PacketType, Property, Publish,
    PublishProperties, PublishRef, QoS, ReasonCode, RetainHandling, SharedFilter, SubAck, Subscribe,
    Subscription, TopicName, Unsubscribe, Version, encode, encode_publish, encode_publish_head,
};
use std::sync::Arc;

fn id() -> PacketId {
    PacketId::MIN
}

fn publish() -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new("a").unwrap()),
        packet_id: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::new(),
    }
}

fn connect(version: Version) -> Connect {
    Connect::new(version, "")
}

fn subscribe(filter: &str, no_local: bool, subscription_id: Option<u32>) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: id(),
        subscription_id,
        user_properties: Vec::new(),
        subscriptions: vec![Subscription {
            filter: SharedFilter::new(filter).unwrap(),
            qos: QoS::AtMostOnce,
            no_local,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }],
    }))
}

fn suback(reasons: Vec<ReasonCode>) -> Box<SubAck> {
    Box::new(SubAck { packet_id: id(), info: Info::default(), reasons })
}

fn with_reason_string(text: &str) -> Packet {
    let info = Info { reason_string: Some(text.into()), user_properties: Vec::new() };
    Packet::PubAck(Ack { packet_id: id(), reason: ReasonCode::Success, info: Some(Box::new(info)) })
}

fn published(change: impl FnOnce(&mut Publish)) -> Packet {
    let mut publish = publish();
    change(&mut publish);
    Packet::Publish(Box::new(publish))
}

fn connected(version: Version, change: impl FnOnce(&mut Connect)) -> Packet {
    let mut connect = connect(version);
    change(&mut connect);
    Packet::Connect(Box::new(connect))
}

fn acknowledged(change: impl FnOnce(&mut ConnAck)) -> Packet {
    let mut connack = ConnAck::new(ReasonCode::Success);
    change(&mut connack);
    Packet::ConnAck(Box::new(connack))
}

fn subscription_id_is(value: u32) -> EncodeError {
    EncodeError::PropertyValue { property: Property::SubscriptionIdentifier, value }
}

fn refused_publishes() -> Vec<(Packet, Version, EncodeError)> {
    use Version::{V5, V311};
    vec![
        (published(|publish| publish.qos = QoS::AtLeastOnce), V5, EncodeError::PacketId),
        (published(|publish| publish.packet_id = Some(id())), V311, EncodeError::PacketId),
        (published(|publish| publish.dup = true), V311, EncodeError::DupOnQos0),
        (published(|publish| publish.topic = None), V5, EncodeError::NoTopic),
        (
            published(|publish| {
                publish.topic = None;
                publish.topic_alias = Some(id());
            }),
            V311,
            EncodeError::NoTopic,
        ),
        (published(|publish| publish.subscription_ids = vec![1, 0]), V5, subscription_id_is(0)),
        (
            published(|publish| publish.subscription_ids = vec![268_435_456]),
            V5,
            subscription_id_is(268_435_456),
        ),
        (
            published(|publish| {
                publish.properties = Some(Arc::new(PublishProperties {
                    correlation_data: Some(Bytes::from(vec![0; 65_536])),
                    ..PublishProperties::default()
                }));
            }),
            V5,
            EncodeError::FieldTooLong(65_536),
        ),
    ]
}

fn refused_others() -> Vec<(Packet, Version, EncodeError)> {
    use Version::{V5, V311};
    let long = "x".repeat(65_536);
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: None,
        data: Some(Bytes::new()),
        info: Info::default(),
    };
    let no_filters = Unsubscribe { packet_id: id(), user_properties: Vec::new(), filters: Vec::new() };
    let zero = EncodeError::PropertyValue { property: Property::MaximumPacketSize, value: 0 };
    vec![
        (with_reason_string(&long), V5, EncodeError::FieldTooLong(65_536)),
        (with_reason_string("a\0"), V5, EncodeError::NulCharacter),
        (
            connected(V311, |connect| connect.client_id = long.as_str().into()),
            V311,
            EncodeError::FieldTooLong(65_536),
        ),
        (
            connected(V311, |connect| connect.password = Some(Bytes::new())),
            V311,
            EncodeError::PasswordWithoutUserName,
        ),
        (connected(V5, |connect| connect.packet_size_max = Some(0)), V5, zero),
        (
            connected(V5, |connect| connect.auth_data = Some(Bytes::new())),
            V5,
            EncodeError::NoAuthenticationMethod,
        ),
        (acknowledged(|connack| connack.packet_size_max = Some(0)), V5, zero),
        (
            acknowledged(|connack| connack.auth_data = Some(Bytes::new())),
            V5,
            EncodeError::NoAuthenticationMethod,
        ),
        (
            acknowledged(|connack| connack.reason = ReasonCode::MalformedPacket),
            V311,
            EncodeError::NoReturnCode(ReasonCode::MalformedPacket),
        ),
        (subscribe("$share/g/a", true, None), V5, EncodeError::NoLocalShared),
        (subscribe("a", false, Some(0)), V5, subscription_id_is(0)),
        (Packet::SubAck(suback(Vec::new())), V311, EncodeError::Empty(PacketType::SubAck)),
        (Packet::UnsubAck(suback(Vec::new())), V5, EncodeError::Empty(PacketType::UnsubAck)),
        (Packet::Unsubscribe(Box::new(no_filters)), V5, EncodeError::Empty(PacketType::Unsubscribe)),
        (Packet::Auth(Box::new(auth.clone())), V5, EncodeError::NoAuthenticationMethod),
        (Packet::Auth(Box::new(auth)), V311, EncodeError::NotIn311(PacketType::Auth)),
    ]
}

#[test]
fn refusals_name_their_reason_and_write_nothing() {
    for (packet, version, expected) in refused_publishes().into_iter().chain(refused_others()) {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(encode(&packet, version, &mut out), Err(expected), "{packet:?}");
        assert_eq!(out, b"before"[..]);
        if let Packet::Publish(publish) = &packet {
            let publish = PublishRef::from(&**publish);
            assert_eq!(encode_publish(&publish, version, &mut out), Err(expected));
            assert_eq!(encode_publish_head(&publish, version, &mut out), Err(expected));
            assert_eq!(out, b"before"[..]);
        }
    }
}

#[test]
fn a_body_beyond_the_protocol_is_refused() {
    let payload = vec![0; 268_435_455 - 2];
    let packet = publish();
    let publish = PublishRef { payload: &payload, ..PublishRef::from(&packet) };
    let mut out = BytesMut::new();
    let error = encode_publish_head(&publish, Version::V311, &mut out).unwrap_err();
    assert_eq!(error, EncodeError::PacketTooLarge(268_435_456));
    assert!(out.is_empty());
    let fits = PublishRef { payload: &payload[1..], ..publish };
    encode_publish_head(&fits, Version::V311, &mut out).unwrap();
    assert_eq!(out[..], *b"\x30\xFF\xFF\xFF\x7F\x00\x01a");
}
