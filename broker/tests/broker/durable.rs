//! A broker on a disk: what its clients feel of it.

use crate::client::{Client, connect, publish};
use crate::house::{House, eventually};
use mqtt_proto::{Connect, Packet, QoS, ReasonCode, Version};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const PUBLISHERS: u16 = 12;
const MESSAGES: u16 = 200;
const PAYLOAD_BYTES: usize = 16 * 1024;

/// Publishes as fast as it is read, and counts what was acknowledged with success.
async fn load(house: (std::net::SocketAddr, String, Version)) -> usize {
    let (address, app, version) = house;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = Client::open_with(stream, Connect { version, ..connect(&app) }).await;
    for id in 1..=MESSAGES {
        client.send(&publish("load", vec![b'x'; PAYLOAD_BYTES], QoS::AtLeastOnce, id)).await;
    }
    let mut acknowledged = 0;
    for _ in 0..MESSAGES {
        match client.next().await {
            Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::Success => acknowledged += 1,
            other => panic!("{app}: {other:?} after {acknowledged}"),
        }
    }
    acknowledged
}

// More than may wait to be written comes at once: it is taken as fast as the disk takes it, and nobody is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_disk_slows_publishers_down_and_refuses_none() {
    let house = House::open_stored(|config| {
        config.limits.queue_messages_max = u32::MAX;
        config.limits.queue_bytes_max = u32::MAX;
    })
    .await;
    let kept = Connect { clean_start: false, session_expiry_secs: Some(3600), ..connect("kept") };
    let mut client = Client::open_with(TcpStream::connect(house.tcp).await.unwrap(), kept).await;
    client.subscribe("load", QoS::AtLeastOnce).await;
    drop(client);
    eventually("the session is parked", || house.hub.metrics().connections == 0).await;
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let version = if number % 2 == 0 { Version::V5 } else { Version::V311 };
        publishers.spawn(load((house.tcp, format!("load{number}"), version)));
    }
    let acknowledged: usize = publishers.join_all().await.into_iter().sum();
    assert_eq!(acknowledged, usize::from(PUBLISHERS * MESSAGES));
    let queued: usize = house.hub.sessions().iter().map(|session| session.queued).sum();
    assert_eq!(queued, acknowledged);
    house.close().await;
}
