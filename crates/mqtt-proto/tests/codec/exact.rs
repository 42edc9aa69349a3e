//! Every packet in both versions, byte for byte, read and written.

use crate::notation::{At, bytes};
use bytes::{Bytes, BytesMut};
use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, Disconnect, Info, Packet, PacketId, Publication, Publish, PublishProperties,
    PublishRef, QoS, ReasonCode, RetainHandling, SharedFilter, SubAck, Subscribe, Subscription, TopicName,
    Unsubscribe, UserProperties, Version, Will, encode, encode_publish, encode_publish_head, encoded_len,
    publish_len,
};
use std::num::NonZeroU16;
use std::sync::Arc;

const V311: Version = Version::V311;
const V5: Version = Version::V5;

/// Both ways: these bytes are this packet, and this packet is these bytes.
fn exact(at: At, version: Version, notation: &str, packet: &Packet) {
    let wire = bytes(notation);
    assert_eq!(at.decode(&wire).as_ref(), Ok(&Some(packet.clone())), "{notation}");
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    assert_eq!(out[..], wire[..], "{notation}");
    assert_eq!(encoded_len(packet, version), wire.len(), "{notation}");
}

fn at_server(version: Version, notation: &str, packet: &Packet) {
    exact(At::Server(version), version, notation, packet);
}

fn at_client(version: Version, notation: &str, packet: &Packet) {
    exact(At::Client(version), version, notation, packet);
}

fn at_both(version: Version, notation: &str, packet: &Packet) {
    at_server(version, notation, packet);
    at_client(version, notation, packet);
}

/// Longer forms the standard lets a peer send for what we would write shorter.
fn read_only(at: At, notation: &str, packet: &Packet) {
    assert_eq!(at.decode(&bytes(notation)), Ok(Some(packet.clone())), "{notation}");
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn user() -> UserProperties {
    vec![("k".into(), "v".into()), ("k".into(), "".into())]
}

fn info() -> Info {
    Info { reason_string: Some("why".into()), user_properties: user() }
}

fn message_properties() -> PublishProperties {
    PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_secs: Some(60),
        content_type: Some("ct".into()),
        response_topic: Some(topic("r/t")),
        correlation_data: Some(Bytes::from_static(b"\x00\xFF")),
        user_properties: user(),
    }
}

fn bare_connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: false,
        keep_alive_secs: 0,
        client_id: "".into(),
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

fn will(qos: QoS, retain: bool) -> Will {
    let payload = Bytes::from_static(b"gone");
    let message = Publication { topic: topic("w"), payload, qos, retain, properties: None };
    Will { message, delay_secs: 0 }
}

#[test]
fn connect_3_1_1() {
    let mut connect = bare_connect(V311);
    let packet = |connect: &Connect| Packet::Connect(Box::new(connect.clone()));
    exact(At::Accepted, V311, "10 0c 0004 'MQTT' 04 00 0000 0000", &packet(&connect));
    connect.clean_start = true;
    connect.keep_alive_secs = 60;
    connect.client_id = "é".into();
    exact(At::Accepted, V311, "10 0e 0004 'MQTT' 04 02 003c 0002 c3a9", &packet(&connect));
    connect.will = Some(will(QoS::ExactlyOnce, true));
    connect.username = Some("u".into());
    connect.password = Some(Bytes::from_static(b"\x00p"));
    exact(
        At::Accepted,
        V311,
        "10 1e 0004 'MQTT' 04 f6 003c 0002 c3a9 0001 'w' 0004 'gone' 0001 'u' 0002 00 'p'",
        &packet(&connect),
    );
    connect.will = Some(will(QoS::AtLeastOnce, false));
    connect.password = None;
    exact(
        At::Accepted,
        V311,
        "10 1a 0004 'MQTT' 04 8e 003c 0002 c3a9 0001 'w' 0004 'gone' 0001 'u'",
        &packet(&connect),
    );
}

#[test]
fn connect_5() {
    let mut connect = bare_connect(V5);
    let packet = |connect: &Connect| Packet::Connect(Box::new(connect.clone()));
    exact(At::Accepted, V5, "10 0d 0004 'MQTT' 05 00 0000 00 0000", &packet(&connect));
    connect.password = Some(Bytes::from_static(b"jwt"));
    exact(At::Accepted, V5, "10 12 0004 'MQTT' 05 40 0000 00 0000 0003 'jwt'", &packet(&connect));
    connect.will = Some(Will {
        delay_secs: 5,
        message: Publication {
            properties: Some(Arc::new(message_properties())),
            ..will(QoS::AtMostOnce, false).message
        },
    });
    connect.username = Some("".into());
    connect.session_expiry_secs = Some(u32::MAX);
    connect.receive_max = NonZeroU16::new(20);
    connect.packet_size_max = Some(4096);
    connect.topic_alias_max = 7;
    connect.request_response_info = true;
    connect.request_problem_info = false;
    connect.user_properties = user();
    connect.auth_method = Some("SPIFFE-JWT".into());
    connect.auth_data = Some(Bytes::from_static(b"d"));
    exact(
        At::Accepted,
        V5,
        "10 79 0004 'MQTT' 05 c4 0000 \
         32 11 ffffffff 21 0014 27 00001000 22 0007 19 01 17 00 26 0001 'k' 0001 'v' 26 0001 'k' 0000 \
            15 000a 'SPIFFE-JWT' 16 0001 'd' \
         0000 \
         29 18 00000005 02 0000003c 01 01 03 0002 'ct' 08 0003 'r/t' 09 0002 00ff \
            26 0001 'k' 0001 'v' 26 0001 'k' 0000 \
         0001 'w' 0004 'gone' 0000 0003 'jwt'",
        &packet(&connect),
    );
}

#[test]
fn connect_takes_defaults_spelt_out() {
    let connect = Packet::Connect(Box::new(bare_connect(V5)));
    read_only(At::Accepted, "10 [<MQTT> 05 00 0000 [22 0000 19 00 17 01] <>]", &connect);
}

#[test]
fn connack_3_1_1() {
    let mut connack = ConnAck::new(ReasonCode::Success);
    at_client(V311, "20 02 00 00", &Packet::ConnAck(Box::new(connack.clone())));
    connack.session_present = true;
    at_client(V311, "20 02 01 00", &Packet::ConnAck(Box::new(connack)));
    for (code, reason) in [
        (1, ReasonCode::UnsupportedProtocolVersion),
        (2, ReasonCode::ClientIdentifierNotValid),
        (3, ReasonCode::ServerUnavailable),
        (4, ReasonCode::BadUserNameOrPassword),
        (5, ReasonCode::NotAuthorized),
    ] {
        at_client(V311, &format!("20 02 00 0{code}"), &Packet::ConnAck(Box::new(ConnAck::new(reason))));
    }
}

#[test]
fn connack_5() {
    let mut connack = ConnAck::new(ReasonCode::NotAuthorized);
    at_client(V5, "20 03 00 87 00", &Packet::ConnAck(Box::new(connack.clone())));
    connack = ConnAck {
        session_present: true,
        reason: ReasonCode::Success,
        session_expiry_secs: Some(0),
        receive_max: NonZeroU16::new(1),
        qos_max: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        packet_size_max: Some(1),
        assigned_client_id: Some("id".into()),
        topic_alias_max: 9,
        wildcard_available: Some(true),
        subscription_ids_available: Some(true),
        shared_available: Some(false),
        server_keep_alive_secs: Some(30),
        response_info: Some("ri".into()),
        server_reference: Some("sr".into()),
        auth_method: Some("m".into()),
        auth_data: Some(Bytes::new()),
        info: info(),
    };
    at_client(
        V5,
        "20 49 01 00 46 11 00000000 21 0001 24 01 25 00 27 00000001 12 0002 'id' 22 0009 28 01 29 01 2a 00 \
         13 001e 1a 0002 'ri' 1c 0002 'sr' 15 0001 'm' 16 0000 \
         1f 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0000",
        &Packet::ConnAck(Box::new(connack.clone())),
    );
}

#[test]
fn connack_writes_what_the_standard_wants_left_out_as_nothing() {
    let mut connack = ConnAck::new(ReasonCode::ServerBusy);
    connack.session_present = true;
    connack.qos_max = Some(QoS::ExactlyOnce);
    let connack = Packet::ConnAck(Box::new(connack));
    let mut out = BytesMut::new();
    encode(&connack, V5, &mut out).unwrap();
    encode(&connack, V311, &mut out).unwrap();
    assert_eq!(out[..], *b"\x20\x03\x00\x89\x00\x20\x02\x00\x03");
}

fn bare_publish() -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic("a/b")),
        packet_id: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::new(),
    }
}

#[test]
fn publish_3_1_1() {
    let mut publish = bare_publish();
    let packet = |publish: &Publish| Packet::Publish(Box::new(publish.clone()));
    at_both(V311, "30 05 0003 'a/b'", &packet(&publish));
    publish.retain = true;
    publish.payload = Bytes::from_static(b"\x00x");
    at_both(V311, "31 07 0003 'a/b' 00 'x'", &packet(&publish));
    publish.packet_id = Some(id(0x1234));
    publish.qos = QoS::AtLeastOnce;
    at_both(V311, "33 09 0003 'a/b' 1234 00 'x'", &packet(&publish));
    publish.qos = QoS::ExactlyOnce;
    publish.dup = true;
    at_both(V311, "3d 09 0003 'a/b' 1234 00 'x'", &packet(&publish));
}

#[test]
fn publish_5() {
    let mut publish = bare_publish();
    let packet = |publish: &Publish| Packet::Publish(Box::new(publish.clone()));
    at_both(V5, "30 06 0003 'a/b' 00", &packet(&publish));
    publish.topic_alias = NonZeroU16::new(3);
    at_both(V5, "30 09 0003 'a/b' 03 23 0003", &packet(&publish));
    publish.topic = None;
    publish.qos = QoS::ExactlyOnce;
    publish.packet_id = Some(id(0xFFFF));
    publish.payload = Bytes::from_static(b"p");
    publish.properties = Some(Arc::new(message_properties()));
    at_both(
        V5,
        "34 2d 0000 ffff 27 23 0003 02 0000003c 01 01 03 0002 'ct' 08 0003 'r/t' 09 0002 00ff \
         26 0001 'k' 0001 'v' 26 0001 'k' 0000 'p'",
        &packet(&publish),
    );
    publish.topic_alias = None;
    publish.topic = Some(topic("a"));
    publish.subscription_ids = vec![1, 127, 128, 268_435_455, 1];
    publish.properties = None;
    at_client(V5, "34 15 0001 'a' ffff 0e 0b 01 0b 7f 0b 8001 0b ffffff7f 0b 01 'p'", &packet(&publish));
}

#[test]
fn publish_by_reference_overrides_the_expiry_and_can_leave_the_payload_out() {
    let properties = message_properties();
    let name = topic("a");
    let publish = PublishRef {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        packet_id: Some(id(7)),
        topic: Some(&name),
        topic_alias: None,
        subscription_ids: &[5],
        message_expiry_secs: Some(41),
        properties: Some(&properties),
        payload: b"xyz",
    };
    let head = bytes(
        "3b 2f 0001 'a' 0007 26 0b 05 02 00000029 01 01 03 0002 'ct' 08 0003 'r/t' 09 0002 00ff \
         26 0001 'k' 0001 'v' 26 0001 'k' 0000",
    );
    let mut out = BytesMut::new();
    encode_publish_head(&publish, V5, &mut out).unwrap();
    assert_eq!(out[..], head[..]);
    out.clear();
    encode_publish(&publish, V5, &mut out).unwrap();
    assert_eq!(out[..], [&head[..], b"xyz"].concat());
    assert_eq!(publish_len(&publish, V5), out.len());
    out.clear();
    encode_publish(&publish, V311, &mut out).unwrap();
    assert_eq!(out[..], bytes("3b 08 0001 'a' 0007 'xyz'"), "3.1.1 has no properties");
    assert_eq!(publish_len(&publish, V311), out.len());
    out.clear();
    encode_publish(&PublishRef { message_expiry_secs: None, ..publish }, V5, &mut out).unwrap();
    assert_eq!(out[1], 0x2A, "no interval left: {out:?}");
}

#[test]
fn acknowledgements_of_publish() {
    type Kind = (u8, fn(Ack) -> Packet, ReasonCode);
    let kinds: [Kind; 4] = [
        (0x40, Packet::PubAck, ReasonCode::NotAuthorized),
        (0x50, Packet::PubRec, ReasonCode::QuotaExceeded),
        (0x62, Packet::PubRel, ReasonCode::PacketIdentifierNotFound),
        (0x70, Packet::PubComp, ReasonCode::PacketIdentifierNotFound),
    ];
    for (first, packet, failure) in kinds {
        let mut ack = Ack { packet_id: id(0x0102), reason: ReasonCode::Success, info: None };
        let bare = packet(ack.clone());
        at_both(V311, &format!("{first:02x} 02 0102"), &bare);
        at_both(V5, &format!("{first:02x} 02 0102"), &bare);
        for at in [At::Server(V5), At::Client(V5)] {
            read_only(at, &format!("{first:02x} 03 0102 00"), &bare);
            read_only(at, &format!("{first:02x} 04 0102 00 00"), &bare);
        }
        ack.reason = failure;
        let code = failure as u8;
        at_both(V5, &format!("{first:02x} 03 0102 {code:02x}"), &packet(ack.clone()));
        read_only(At::Server(V5), &format!("{first:02x} 04 0102 {code:02x} 00"), &packet(ack.clone()));
        let mut out = BytesMut::new();
        ack.info = Some(Box::new(info()));
        encode(&packet(ack.clone()), V311, &mut out).unwrap();
        assert_eq!(out[..], [first, 2, 1, 2], "3.1.1 has neither reason nor properties");
        let block = "13 1f 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0000";
        let notation = format!("{first:02x} 17 0102 {code:02x} {block}");
        at_both(V5, &notation, &packet(ack.clone()));
        ack.reason = ReasonCode::Success;
        at_both(V5, &format!("{first:02x} 17 0102 00 {block}"), &packet(ack));
    }
}

fn subscription(filter: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: SharedFilter::new(filter).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

#[test]
fn subscribe() {
    let mut subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![
            subscription("a/+/#", QoS::AtMostOnce),
            subscription("$share/g/b", QoS::AtLeastOnce),
            subscription("c", QoS::ExactlyOnce),
        ],
    };
    let packet = |subscribe: &Subscribe| Packet::Subscribe(Box::new(subscribe.clone()));
    at_server(V311, "82 1b 000a 0005 'a/+/#' 00 000a '$share/g/b' 01 0001 'c' 02", &packet(&subscribe));
    at_server(V5, "82 1c 000a 00 0005 'a/+/#' 00 000a '$share/g/b' 01 0001 'c' 02", &packet(&subscribe));
    subscribe.subscription_id = Some(300);
    subscribe.user_properties = user();
    subscribe.subscriptions = vec![
        Subscription { no_local: true, ..subscription("a", QoS::AtLeastOnce) },
        Subscription { retain_as_published: true, ..subscription("$share/g/b", QoS::ExactlyOnce) },
        Subscription { retain_handling: RetainHandling::SendIfNew, ..subscription("c", QoS::AtMostOnce) },
        Subscription {
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..subscription("d", QoS::ExactlyOnce)
        },
    ];
    at_server(
        V5,
        "82 2c 000a 10 0b ac02 26 0001 'k' 0001 'v' 26 0001 'k' 0000 \
         0001 'a' 05 000a '$share/g/b' 0a 0001 'c' 10 0001 'd' 2e",
        &packet(&subscribe),
    );
    let mut out = BytesMut::new();
    encode(&packet(&subscribe), V311, &mut out).unwrap();
    assert_eq!(
        out[..],
        bytes("82 1b 000a 0001 'a' 01 000a '$share/g/b' 02 0001 'c' 00 0001 'd' 02"),
        "3.1.1 has QoS alone"
    );
}

#[test]
fn suback() {
    let mut suback = SubAck {
        packet_id: id(10),
        info: Info::default(),
        reasons: vec![
            ReasonCode::Success,
            ReasonCode::GrantedQos1,
            ReasonCode::GrantedQos2,
            ReasonCode::UnspecifiedError,
        ],
    };
    let packet = |suback: &SubAck| Packet::SubAck(Box::new(suback.clone()));
    at_client(V311, "90 06 000a 00 01 02 80", &packet(&suback));
    at_client(V5, "90 07 000a 00 00 01 02 80", &packet(&suback));
    suback.reasons = vec![ReasonCode::NotAuthorized, ReasonCode::TopicFilterInvalid];
    suback.info = info();
    at_client(
        V5,
        "90 18 000a 13 1f 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0000 87 8f",
        &packet(&suback),
    );
    let mut out = BytesMut::new();
    encode(&packet(&suback), V311, &mut out).unwrap();
    assert_eq!(out[..], bytes("90 04 000a 80 80"), "3.1.1 knows one failure");
}

#[test]
fn unsubscribe_and_unsuback() {
    let filters = ["a/#", "$share/g/b"].map(|filter| SharedFilter::new(filter).unwrap()).to_vec();
    let mut unsubscribe = Unsubscribe { packet_id: id(11), user_properties: Vec::new(), filters };
    let packet = |unsubscribe: &Unsubscribe| Packet::Unsubscribe(Box::new(unsubscribe.clone()));
    at_server(V311, "a2 13 000b 0003 'a/#' 000a '$share/g/b'", &packet(&unsubscribe));
    at_server(V5, "a2 14 000b 00 0003 'a/#' 000a '$share/g/b'", &packet(&unsubscribe));
    unsubscribe.user_properties = user();
    at_server(
        V5,
        "a2 21 000b 0d 26 0001 'k' 0001 'v' 26 0001 'k' 0000 0003 'a/#' 000a '$share/g/b'",
        &packet(&unsubscribe),
    );
    let mut unsuback = SubAck { packet_id: id(11), info: Info::default(), reasons: Vec::new() };
    at_client(V311, "b0 02 000b", &Packet::UnsubAck(Box::new(unsuback.clone())));
    unsuback.reasons =
        vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::NotAuthorized];
    at_client(V5, "b0 06 000b 00 00 11 87", &Packet::UnsubAck(Box::new(unsuback.clone())));
    unsuback.info.reason_string = Some("x".into());
    let unsuback = Packet::UnsubAck(Box::new(unsuback));
    at_client(V5, "b0 0a 000b 04 1f 0001 'x' 00 11 87", &unsuback);
    let mut out = BytesMut::new();
    encode(&unsuback, V311, &mut out).unwrap();
    assert_eq!(out[..], bytes("b0 02 000b"), "3.1.1 has no payload here");
}

#[test]
fn ping() {
    for version in [V311, V5] {
        at_server(version, "c0 00", &Packet::PingReq);
        at_client(version, "d0 00", &Packet::PingResp);
    }
}

#[test]
fn disconnect() {
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry_secs: None,
        server_reference: None,
        info: Info::default(),
    };
    let packet = |disconnect: &Disconnect| Packet::Disconnect(Box::new(disconnect.clone()));
    at_server(V311, "e0 00", &packet(&disconnect));
    at_server(V5, "e0 00", &packet(&disconnect));
    read_only(At::Server(V5), "e0 01 00", &packet(&disconnect));
    read_only(At::Server(V5), "e0 02 00 00", &packet(&disconnect));
    disconnect.reason = ReasonCode::DisconnectWithWill;
    read_only(At::Server(V5), "e0 01 04", &packet(&disconnect));
    at_server(V5, "e0 02 04 00", &packet(&disconnect));
    disconnect.session_expiry_secs = Some(10);
    disconnect.info = info();
    at_server(
        V5,
        "e0 1a 04 18 11 0000000a 1f 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0000",
        &packet(&disconnect),
    );
    disconnect.reason = ReasonCode::SessionTakenOver;
    disconnect.session_expiry_secs = None;
    disconnect.info = Info::default();
    read_only(At::Client(V5), "e0 01 8e", &packet(&disconnect));
    at_client(V5, "e0 02 8e 00", &packet(&disconnect));
    disconnect.reason = ReasonCode::ServerMoved;
    disconnect.server_reference = Some("edge-2".into());
    at_client(V5, "e0 0b 9d 09 1c 0006 'edge-2'", &packet(&disconnect));
}

#[test]
fn auth() {
    let mut auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("M".into()),
        data: Some(Bytes::from_static(b"\x01\x02")),
        info: info(),
    };
    let packet = |auth: &Auth| Packet::Auth(Box::new(auth.clone()));
    at_both(
        V5,
        "f0 1e 18 1c 15 0001 'M' 16 0002 0102 1f 0003 'why' 26 0001 'k' 0001 'v' 26 0001 'k' 0000",
        &packet(&auth),
    );
    auth = Auth { reason: ReasonCode::ReAuthenticate, data: None, info: Info::default(), ..auth };
    at_server(V5, "f0 06 19 04 15 0001 'M'", &packet(&auth));
    auth.reason = ReasonCode::Success;
    at_client(V5, "f0 06 00 04 15 0001 'M'", &packet(&auth));
    auth.method = None;
    at_client(V5, "f0 00", &packet(&auth));
}
