//! A broker on a disk: what its clients feel of it.

use crate::client::{Client, connect, publish};
use crate::house::{House, SOON, eventually};
use midge_policy::{Policy, Rule};
use mqtt_proto::{Ack, Connect, Packet, PacketId, Publish, QoS, ReasonCode, Version};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
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

/// Waits until what is asked for again and again is this.
async fn until<T: PartialEq + Debug, F: Future<Output = T>>(
    what: &str,
    mut ask: impl FnMut() -> F,
    wanted: T,
) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let found = ask().await;
        if found == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}, but {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everybody may subscribe to everything, and one identity publish to these.
fn rules(app: &str, publish: &[&str]) -> [Rule; 2] {
    let publish = publish.iter().map(|text| (*text).to_owned()).collect();
    let rule = |name: &str, id: String| Rule { name: name.into(), id, ..Rule::default() };
    [
        Rule { publish, ..rule(app, format!("spiffe://plant/app/{app}")) },
        Rule { subscribe: vec!["#".into()], ..rule(&format!("{app}-all"), "spiffe://plant/**".into()) },
    ]
}

// What waits for the disk is asked for again when its turn comes: rights may be gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_the_disk_is_not_delivered_once_its_publisher_has_lost_the_right() {
    for lost in [true, false] {
        let house = House::open_stored(|_| {}).await;
        let kept = Connect { clean_start: false, session_expiry_secs: Some(3600), ..connect("kept") };
        let mut kept = Client::open_with(TcpStream::connect(house.tcp).await.unwrap(), kept).await;
        kept.subscribe("a/+", QoS::ExactlyOnce).await;
        let (mut press, mut other) = (house.tcp_client("press").await, house.tcp_client("other").await);

        house.set_disk_full(true).await;
        // Larger than what free pages of the file still take.
        press.send(&publish("a/waits", vec![b'x'; 200_000], QoS::ExactlyOnce, 1)).await;
        assert!(matches!(press.next().await, Some(Packet::PubRec(_))));
        let ack = Ack { packet_id: PacketId::MIN, reason: ReasonCode::Success, info: None };
        press.send(&Packet::PubRel(ack)).await;
        eventually("the disk is full", || house.hub.store_failure().is_some()).await;
        let of_press: &[&str] = if lost { &["b"] } else { &["a/waits"] };
        let rules = [rules("press", of_press), rules("other", &["a/end"])].concat();
        house.hub.set_policy(Arc::new(Policy::compile(rules, 8).unwrap()));
        house.set_disk_full(false).await;

        assert!(matches!(press.next().await, Some(Packet::PubComp(_))), "it was taken all the same");
        other.send(&publish("a/end", Vec::new(), QoS::AtMostOnce, 0)).await;
        if !lost {
            assert_eq!(kept.message().await.0, "a/waits");
        }
        assert_eq!(kept.message().await.0, "a/end");
        house.close().await;
    }
}

fn retained(topic: &str, payload: Vec<u8>) -> Packet {
    let Packet::Publish(publish) = publish(topic, payload, QoS::AtMostOnce, 0) else {
        panic!("not a PUBLISH")
    };
    Packet::Publish(Box::new(Publish { retain: true, ..*publish }))
}

// QoS 0 is never refused: what is retained while the disk is full is on it once there is room, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_at_qos0_while_the_disk_is_full_is_stored_afterwards() {
    const BYTES: usize = 200_000;
    let house = House::open_stored(|_| {}).await;
    let mut press = house.tcp_client("press").await;
    for topic in ["r/replaced", "r/cleared", "r/kept"] {
        press.send(&retained(topic, vec![b'1'; BYTES])).await;
    }
    let on_disk = |house: &House| {
        let store = house.store();
        async move {
            let messages = store.scan("m/").await.unwrap().into_iter();
            let last: Vec<u8> = messages.filter_map(|(_, value)| value.last().copied()).collect();
            (String::from_utf8(last).unwrap(), store.scan("r/").await.unwrap().len())
        }
    };
    until("three are stored", || on_disk(&house), ("111".into(), 3)).await;

    house.set_disk_full(true).await;
    press.send(&retained("r/new", vec![b'3'; 4 * BYTES])).await;
    eventually("the disk is full", || house.hub.store_failure().is_some()).await;
    press.send(&retained("r/brief", vec![b'4'; BYTES])).await;
    press.send(&retained("r/replaced", vec![b'2'; BYTES])).await;
    for topic in ["r/cleared", "r/brief"] {
        press.send(&retained(topic, Vec::new())).await;
    }
    // What comes behind them is answered once they have been taken.
    press.subscribe("other", QoS::AtMostOnce).await;
    let mut ops = house.tcp_client("ops").await;
    let mut seen = Vec::new();
    ops.subscribe("r/+", QoS::AtMostOnce).await;
    for _ in 0..3 {
        let (topic, payload) = ops.message().await;
        seen.push((topic, payload[0]));
    }
    assert_eq!(seen, [("r/kept".into(), b'1'), ("r/new".into(), b'3'), ("r/replaced".into(), b'2')]);
    assert_eq!(on_disk(&house).await, ("111".into(), 3));

    house.set_disk_full(false).await;
    until("all are stored", || on_disk(&house), ("132".into(), 3)).await;
    house.close().await;
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
