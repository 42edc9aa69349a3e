//! What the audit log says of connections: by which listener, from where, and by what proof.

use crate::client::{Client, bytes_of, connect, publish};
use crate::house::House;
use crate::websocket::Socket;
use mqtt_proto::*;
use serde_json::Value;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Records of an event, by the client id they name.
fn of<'a>(records: &'a [Value], event: &str, client_id: &str) -> &'a Value {
    let is_it = |record: &&Value| record["event"] == event && record["client-id"] == client_id;
    records.iter().find(is_it).unwrap_or_else(|| panic!("no {event} of {client_id} in {records:#?}"))
}

#[tokio::test]
async fn what_a_deny_holds_back_from_a_receiver_is_recorded_and_counted() {
    let house = House::open(|_| {}).await;
    let mut held = house.tcp_client("held").await;
    held.subscribe("#", QoS::AtMostOnce).await;
    let mut press = house.tcp_client("press").await;
    for n in 1..=8 {
        press.send(&publish("secret/a", vec![], QoS::AtLeastOnce, n)).await;
        assert!(matches!(press.next().await, Some(Packet::PubAck(_))));
    }
    press.send(&publish("open", b"x".to_vec(), QoS::AtMostOnce, 0)).await;
    assert_eq!(held.message().await, ("open".to_owned(), b"x".to_vec()));
    let records = house.close().await;
    let denied: Vec<_> = records.iter().filter(|record| record["event"] == "receive-denied").collect();
    assert_eq!(denied.len(), 5);
    assert_eq!(
        (&denied[0]["identity"], &denied[0]["topic"], &denied[0]["client-id"]),
        (&"spiffe://plant/app/held".into(), &"secret/a".into(), &"held".into())
    );
    let repeated = records.iter().find(|record| record["event"] == "repeated").unwrap();
    assert_eq!(
        (&repeated["of"], &repeated["count"], &repeated["class"], &repeated["rule"]),
        (&"receive-denied".into(), &3.into(), &"secret/a".into(), &denied[0]["rule"])
    );
}

#[tokio::test]
async fn connects_and_disconnects_name_listener_address_and_proof() {
    let house = House::open(|_| {}).await;
    let shaken = house.shaken(house.tls, "tls").await;
    let over_tls = shaken.get_ref().0.local_addr().unwrap();
    let tls = Client::open(shaken, "tls").await;
    let socket = TcpStream::connect(house.tcp).await.unwrap();
    let over_tcp = socket.local_addr().unwrap();
    let tcp = Client::open(socket, "tcp").await;
    let unix = Client::open(UnixStream::connect(&house.unix).await.unwrap(), "unix").await;
    let far = Socket::open(house.shaken(house.websocket_tls, "far").await, "far").await;
    let near = Socket::open(TcpStream::connect(house.websocket_loopback).await.unwrap(), "near").await;
    // One that leaves, one that the broker refuses; the others are there when it stops.
    drop(tcp);
    let wanted = Connect { auth_method: Some("NONE".into()), ..connect("refused") };
    let (_, answer) = Client::connect(TcpStream::connect(house.tcp).await.unwrap(), wanted).await;
    let expected = ReasonCode::BadAuthenticationMethod;
    assert!(matches!(answer, Some(Packet::ConnAck(ack)) if ack.reason == expected));
    crate::house::eventually("left", || house.hub.sessions().iter().all(|own| &*own.client_id != "tcp"))
        .await;
    let records = house.close().await;
    drop((tls, unix, far, near));

    for (client_id, listener, remote, kind) in [
        ("tls", "tls", over_tls.to_string(), "x509-svid"),
        ("tcp", "tcp", over_tcp.to_string(), "local"),
        ("unix", "unix", format!("pid {} uid", std::process::id()), "local"),
        ("far", "websocket-tls", "127.0.0.1:".to_owned(), "x509-svid"),
        ("near", "websocket-loopback", "127.0.0.1:".to_owned(), "local"),
    ] {
        for event in ["connected", "disconnected"] {
            let record = of(&records, event, client_id);
            assert_eq!((&record["listener"], &record["proof"]["kind"]), (&listener.into(), &kind.into()));
            assert!(record["remote"].as_str().unwrap().starts_with(&remote), "{record}");
        }
        let key = if kind == "local" { "pid" } else { "serial" };
        assert!(!of(&records, "connected", client_id)["proof"][key].is_null());
    }
    let refused = of(&records, "connect-refused", "refused");
    assert_eq!(refused["listener"], "tcp");
    assert!(refused["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{refused}");
}

/// Payloads, passwords, properties and authentication data: each with a word of its own.
fn secretive(word: &str, connect: Connect) -> Connect {
    let secret = |what: &str| format!("{word}-{what}");
    let properties = PublishProperties {
        content_type: Some(secret("content-type").as_str().into()),
        correlation_data: Some(secret("correlation").into()),
        user_properties: vec![(secret("name").as_str().into(), secret("value").as_str().into())],
        ..PublishProperties::default()
    };
    let message = Publication {
        topic: TopicName::new("news").unwrap(),
        payload: secret("payload").into(),
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Some(Arc::new(properties)),
    };
    Connect {
        will: Some(Will { message, delay_secs: 0 }),
        password: Some(secret("password").into()),
        user_properties: vec![(secret("user-name").as_str().into(), secret("user-value").as_str().into())],
        ..connect
    }
}

#[tokio::test]
async fn no_payload_password_property_or_authentication_data_is_in_the_log() {
    const WORD: &str = "canary";
    let house = House::open(|_| {}).await;
    let open = async |connect| Client::connect(TcpStream::connect(house.tcp).await.unwrap(), connect).await;
    let (mut client, answer) = open(secretive(WORD, connect("held"))).await;
    assert!(matches!(answer, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success));
    client.subscribe("#", QoS::AtMostOnce).await;
    for (topic, is_denied) in [("open", false), ("secret/a", false), ("$SYS/forged", true)] {
        let will = secretive(WORD, connect("x")).will.unwrap().message;
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: Some(TopicName::new(topic).unwrap()),
            packet_id: Some(PacketId::MIN),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: will.properties,
            payload: will.payload,
        };
        client.send(&Packet::Publish(Box::new(publish))).await;
        let reason = loop {
            match client.next().await {
                Some(Packet::PubAck(ack)) => break ack.reason,
                Some(Packet::Publish(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason == ReasonCode::NotAuthorized, is_denied, "{topic}");
    }
    drop(client);
    // Whose will is denied, who fails to authenticate, and whose first packet is no CONNECT.
    let mut forged = secretive(WORD, connect("forger"));
    forged.will.as_mut().unwrap().message.topic = TopicName::new("$SYS/forged").unwrap();
    let (_, answer) = open(forged).await;
    assert!(matches!(answer, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::NotAuthorized));
    let method = Some("ECHO".into());
    let data = || Some(format!("{WORD}-data").into());
    let wanted = Connect { auth_method: method.clone(), auth_data: data(), ..connect("auth") };
    let (mut client, _) = open(wanted).await;
    let (reason, info) = (ReasonCode::ContinueAuthentication, Info::default());
    client.send(&Packet::Auth(Box::new(Auth { reason, method, data: data(), info }))).await;
    assert!(matches!(client.next().await, Some(Packet::ConnAck(ack)) if ack.reason != ReasonCode::Success));
    let mut stranger = TcpStream::connect(house.tcp).await.unwrap();
    stranger.write_all(&bytes_of(&publish("x", WORD.into(), QoS::AtMostOnce, 0), Version::V5)).await.unwrap();
    assert_eq!(stranger.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);

    let records = house.close().await;
    let kinds: HashSet<_> = records.iter().filter_map(|record| record["event"].as_str()).collect();
    for kind in [
        "connected",
        "subscribed",
        "receive-denied",
        "publish-denied",
        "connect-refused",
        "connection-refused",
        "disconnected",
        "session-ended",
    ] {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
    for record in records {
        assert!(!record.to_string().contains(WORD), "{record}");
    }
}
