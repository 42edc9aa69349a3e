//! How connections end: what was sent before counts, and what is owed for it is answered.

use crate::client::{Client, bytes_of, connect, publish};
use crate::house::{House, eventually};
use mqtt_proto::{Connect, Packet, Publication, QoS, ReasonCode, TopicName, Version, Will};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MESSAGES: u16 = 300;

fn willed(app: &str) -> Connect {
    let message = Publication {
        topic: TopicName::new("will").unwrap(),
        payload: app.to_owned().into_bytes().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
    };
    Connect { will: Some(Will { message, delay_secs: 0 }), ..connect(app) }
}

pub(crate) fn disconnect() -> Packet {
    Packet::Disconnect(Box::new(mqtt_proto::Disconnect {
        reason: ReasonCode::Success,
        session_expiry_secs: None,
        server_reference: None,
        info: mqtt_proto::Info::default(),
    }))
}

/// What a client is acknowledged that publishes a message and says that nothing more comes.
async fn half_closed<S: AsyncRead + AsyncWrite + Unpin>(stream: S, app: &str) -> Option<Packet> {
    let mut client = Client::open(stream, app).await;
    client.send(&publish("kept", b"x".to_vec(), QoS::AtLeastOnce, 7)).await;
    client.end_input().await;
    let acknowledged = client.next().await;
    assert_eq!(client.next().await, None, "the broker closes too");
    acknowledged
}

// The acknowledgement waits for the disk while the end of the stream is seen.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_no_more_is_still_answered() {
    let house = House::open_stored(|_| {}).await;
    let kept = Connect { clean_start: false, session_expiry_secs: Some(3600), ..connect("kept") };
    let mut client = Client::open_with(TcpStream::connect(house.tcp).await.unwrap(), kept).await;
    client.subscribe("kept", QoS::AtLeastOnce).await;
    drop(client);
    eventually("the session is parked", || house.hub.metrics().connections == 0).await;
    for round in 0..10 {
        let answers = [
            half_closed(TcpStream::connect(house.tcp).await.unwrap(), "tcp").await,
            half_closed(house.unix().await, "unix").await,
            half_closed(house.shaken(house.tls, "tls").await, "tls").await,
        ];
        for answer in answers {
            let is_success =
                matches!(&answer, Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::Success);
            assert!(is_success, "round {round}: {answer:?}");
        }
    }
    house.close().await;
}

/// Publishes, with or without a DISCONNECT after that, and is gone before it reads anything of its answers.
async fn hurry<S: AsyncRead + AsyncWrite + Unpin>(stream: S, app: &str, says_goodbye: bool) {
    let mut stream = Client::open_with(stream, willed(app)).await.into_stream();
    let numbers = 1..=MESSAGES;
    let messages = numbers.map(|id| publish("hurry", b"x".to_vec(), QoS::AtLeastOnce, id));
    let mut bytes: Vec<u8> = messages.flat_map(|message| bytes_of(&message, Version::V5)).collect();
    if says_goodbye {
        bytes.extend(bytes_of(&disconnect(), Version::V5));
    }
    stream.write_all(&bytes).await.unwrap();
}

// [MQTT-3.14.4-3], also where the broker finds that it cannot answer before it has read the DISCONNECT.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_end_counts_though_it_cannot_be_answered() {
    let house = House::open(|_| {}).await;
    let mut watcher = house.tcp_client("watcher").await;
    watcher.subscribe("hurry", QoS::AtMostOnce).await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    for round in 0..10 {
        // The twin, which takes nothing back, ends each pair.
        hurry(house.unix().await, "unix", round % 2 == 0).await;
        hurry(TcpStream::connect(house.tcp).await.unwrap(), "tcp", round % 2 == 0).await;
        let (mut hurried, mut wills) = (0, Vec::new());
        let expected = if round % 2 == 0 { 0 } else { 2 };
        while hurried < 2 * MESSAGES || wills.len() < expected {
            let message = watcher.next().await;
            let Some(Packet::Publish(publish)) = message else { panic!("{message:?}") };
            match publish.topic.unwrap().as_str() {
                "hurry" => hurried += 1,
                _ => wills.push(publish.payload),
            }
        }
        assert_eq!((hurried, wills.len()), (2 * MESSAGES, expected), "round {round}: {wills:?}");
        eventually("both are gone", || house.hub.metrics().connections == 1).await;
    }
    watcher.send(&Packet::PingReq).await;
    assert_eq!(watcher.next().await, Some(Packet::PingResp), "no will that was taken back");
    house.close().await;
}

// 3.1.1 knows no share groups: what names none is refused and ends nothing ([MQTT-4.8.2-1] and -2 are of 5.0).
#[tokio::test]
async fn a_share_group_without_a_name_ends_a_connection_of_5_and_none_of_311() {
    let house = House::open(|_| {}).await;
    let filters = [&b"\0\x08$share/g\x01"[..], b"\0\x0A$share/g/a\x01", b"\0\x09$share//a\x01"].concat();
    let subscribe = |properties: &[u8]| {
        let rest = [&b"\0\x01"[..], properties, &filters].concat();
        [&[0x82, u8::try_from(rest.len()).unwrap()][..], &rest].concat()
    };
    let old = Connect { version: Version::V311, ..connect("old") };
    let mut old = Client::open_with(TcpStream::connect(house.tcp).await.unwrap(), old).await;
    old.send_bytes(&subscribe(b"")).await;
    let answer = old.next().await;
    let Some(Packet::SubAck(ack)) = &answer else { panic!("{answer:?}") };
    let refused = ReasonCode::UnspecifiedError;
    assert_eq!(ack.reasons, [refused, ReasonCode::GrantedQos1, refused]);
    old.send(&Packet::PingReq).await;
    assert_eq!(old.next().await, Some(Packet::PingResp));
    let mut new = house.tcp_client("new").await;
    new.send_bytes(&subscribe(b"\0")).await;
    assert_eq!(new.end().await, Some(ReasonCode::MalformedPacket));
    house.close().await;
}
