//! Clients that misuse what they are let in for.

use super::{beside, closed};
use crate::client::{Client, bytes_of, connect, publish, subscribe};
use crate::house::{House, eventually};
use mqtt_proto::{Ack, Connect, Packet, PublishProperties, QoS, ReasonCode, Version};
use std::num::NonZeroU16;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Sends these bytes as a connected client and returns the reason of the DISCONNECT.
async fn reason_for(house: &House, bytes: &[u8]) -> Option<ReasonCode> {
    let mut client = house.tcp_client("bytes").await;
    client.send_bytes(bytes).await;
    client.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_cut_and_its_session_stays() {
    let house = House::open(|config| {
        config.unread_timeout_secs = 1;
        config.limits.unsent_bytes_soft = 256 * 1024;
    })
    .await;
    let never_reads = || async {
        let stuck = Connect { session_expiry_secs: Some(3600), ..connect("stuck") };
        let stream = TcpStream::connect(house.tcp).await.unwrap();
        let mut stuck = Client::open_with(stream, stuck).await;
        stuck.subscribe("flood", QoS::AtLeastOnce).await;
        let mut flooder = house.tcp_client("flooder").await;
        // More than any socket buffer takes.
        for n in 0..400_u16 {
            let qos = if n % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            flooder.send(&publish("flood", vec![b'x'; 64 * 1024], qos, n + 1)).await;
            if qos == QoS::AtLeastOnce {
                assert!(matches!(flooder.next().await, Some(Packet::PubAck(_))));
            }
        }
        let is_parked = || {
            let sessions = house.hub.sessions();
            sessions.iter().any(|session| {
                &*session.client_id == "stuck"
                    && matches!(session.state, broker_core::SessionState::Parked { .. })
                    && session.queued > 0
            })
        };
        eventually("the reader is cut", is_parked).await;
        400
    };
    beside(&house, ("never reading", "messages of 64 KiB"), never_reads).await;
    assert!(house.hub.metrics().dropped.slow_reader > 0);
    let records = house.close().await;
    let cut =
        records.iter().find(|record| record["client-id"] == "stuck" && record["event"] == "disconnected");
    assert_eq!(cut.unwrap()["reason"], "client does not read what it is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_and_packets_that_are_too_large_end_the_connection_at_once() {
    let house = House::open(|_| {}).await;
    let properties = || async {
        // PUBLISH on `a` with 65 user properties of nothing.
        let block: Vec<u8> = [0x26, 0, 0, 0, 0].repeat(65);
        let mut bytes = vec![0x30, 0xCA, 0x02, 0, 1, b'a', 0xC5, 0x02];
        bytes.extend(block);
        assert_eq!(reason_for(&house, &bytes).await, Some(ReasonCode::QuotaExceeded));
        // Only the header of a PUBLISH of 256 MiB.
        let reason = reason_for(&house, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        assert_eq!(reason, Some(ReasonCode::PacketTooLarge));
        // A length that does not end.
        let reason = reason_for(&house, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]).await;
        assert_eq!(reason, Some(ReasonCode::MalformedPacket));
        3
    };
    beside(&house, ("too large properties and packets", "packets"), properties).await;
    // A CONNECT of 1 MiB is judged by its header.
    let mut stream = TcpStream::connect(house.tcp).await.unwrap();
    stream.write_all(&[0x10, 0xFF, 0xFF, 0x3F]).await.unwrap();
    assert_eq!(closed(stream).await, b"");
    house.close().await;
}

// What is allowed is allowed to everybody, as fast as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_of_the_largest_size_cost_their_sender_and_its_receivers_only() {
    let house = House::open(|_| {}).await;
    let Packet::Publish(mut message) = publish("large", vec![b'x'], QoS::AtMostOnce, 0) else {
        panic!("a PUBLISH")
    };
    // 1,023 bytes each: as many as there may be, and 64 bytes less than they may have together.
    let user_properties = (0..64).map(|n| (format!("{n:02}").into(), "v".repeat(1_016).into())).collect();
    message.properties = Some(PublishProperties { user_properties, ..PublishProperties::default() }.into());
    let bytes = bytes_of(&Packet::Publish(message), Version::V5);
    let large = || async {
        let mut client = house.tcp_client("large").await;
        client.subscribe("large", QoS::AtMostOnce).await;
        for _ in 0..20 {
            client.send_bytes(&bytes).await;
            assert_eq!(client.message().await.0, "large");
        }
        20
    };
    beside(&house, ("properties of 64 KiB", "messages"), large).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misused_packet_identifiers_hurt_nobody() {
    let house = House::open(|_| {}).await;
    let misuse = || async {
        let mut client = house.tcp_client("ids").await;
        let ack = |id: u16| Ack {
            packet_id: NonZeroU16::new(id).unwrap(),
            reason: ReasonCode::Success,
            info: None,
        };
        for id in [1, 77, u16::MAX] {
            // Acknowledgements of nothing.
            client.send(&Packet::PubAck(ack(id))).await;
            client.send(&Packet::PubComp(ack(id))).await;
            client.send(&Packet::PubRec(ack(id))).await;
            let answer = client.next().await;
            assert!(
                matches!(&answer, Some(Packet::PubRel(ack)) if ack.reason == ReasonCode::PacketIdentifierNotFound),
                "{answer:?}"
            );
            client.send(&Packet::PubRel(ack(id))).await;
            let answer = client.next().await;
            assert!(
                matches!(&answer, Some(Packet::PubComp(ack)) if ack.reason == ReasonCode::PacketIdentifierNotFound),
                "{answer:?}"
            );
        }
        // One identifier for everything at once.
        for _ in 0..100 {
            client.send(&publish("ids", vec![b'x'], QoS::AtLeastOnce, 9)).await;
            client.send(&publish("ids", vec![b'x'], QoS::ExactlyOnce, 9)).await;
            client.send(&subscribe("ids/none", QoS::AtMostOnce)).await;
        }
        for _ in 0..300 {
            assert!(!matches!(client.next().await, None | Some(Packet::Disconnect(_))));
        }
        // Identifier zero is none.
        client.send_bytes(&[0x32, 6, 0, 1, b'a', 0, 0, 0]).await;
        assert_eq!(client.end().await, Some(ReasonCode::ProtocolError));
        312
    };
    beside(&house, ("packet identifiers misused", "packets"), misuse).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_that_is_never_completed_ends_at_receive_maximum() {
    let house = House::open(|_| {}).await;
    let never = || async {
        let mut client = house.tcp_client("never").await;
        for id in 1..=256 {
            client.send(&publish("never", vec![b'x'; 1_000], QoS::ExactlyOnce, id)).await;
            assert!(matches!(client.next().await, Some(Packet::PubRec(_))));
        }
        client.send(&publish("never", vec![b'x'; 1_000], QoS::ExactlyOnce, 257)).await;
        assert_eq!(client.end().await, Some(ReasonCode::ReceiveMaximumExceeded));
        257
    };
    beside(&house, ("QoS 2 never completed", "messages"), never).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_cannot_take_what_others_need() {
    let house = House::open(|config| config.limits.sessions_per_identity_max = 10).await;
    let mut held = Vec::new();
    for n in 0..10 {
        let stream = TcpStream::connect(house.tcp).await.unwrap();
        held.push(
            Client::open_with(
                stream,
                Connect { client_id: n.to_string().as_str().into(), ..connect("many") },
            )
            .await,
        );
    }
    let stream = TcpStream::connect(house.tcp).await.unwrap();
    let (_, answer) = Client::connect(stream, Connect { client_id: "11".into(), ..connect("many") }).await;
    assert!(matches!(answer, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::QuotaExceeded));
    // Another identity is not concerned.
    drop(house.tcp_client("other").await);
    house.close().await;
}
