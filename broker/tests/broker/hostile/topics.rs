//! Clients with very many topics and filters.

use super::{beside, measured_or};
use crate::client::{Client, bytes_of, publish, subscribe};
use crate::house::House;
use mqtt_proto::{Packet, QoS, ReasonCode, Version};
use tokio::net::TcpStream;

/// Messages that are handed to the socket at once.
const BATCH: u32 = 1_000;
/// Messages without acknowledgement: fewer than the broker's Receive Maximum.
const WINDOW: u32 = 200;

/// Sends so many messages at QoS 0 and waits until the broker has read them.
async fn pour(client: &mut Client<TcpStream>, count: u32, topic: impl Fn(u32) -> String) -> u64 {
    for first in (0..count).step_by(BATCH as usize) {
        let mut bytes = Vec::new();
        for n in first..count.min(first + BATCH) {
            let message = publish(&topic(n), Vec::new(), QoS::AtMostOnce, 0);
            bytes.extend(bytes_of(&message, Version::V5));
        }
        client.send_bytes(&bytes).await;
    }
    client.send(&Packet::PingReq).await;
    while client.next().await != Some(Packet::PingResp) {}
    count.into()
}

/// Has so many topics retain a message; returns how many of these were refused for want of room.
async fn retain(client: &mut Client<TcpStream>, count: u32) -> u32 {
    let (mut next, mut answered, mut refused) = (0, 0, 0);
    while answered < count {
        let mut bytes = Vec::new();
        while next < count && next - answered < WINDOW {
            let id = u16::try_from(next % 60_000 + 1).unwrap();
            let Packet::Publish(mut message) =
                publish(&format!("r/{next}"), vec![b'x'], QoS::AtLeastOnce, id)
            else {
                panic!("a PUBLISH")
            };
            message.retain = true;
            bytes.extend(bytes_of(&Packet::Publish(message), Version::V5));
            next += 1;
        }
        client.send_bytes(&bytes).await;
        for _ in 0..(next - answered).min(WINDOW / 2) {
            match client.next().await {
                Some(Packet::PubAck(ack)) => refused += u32::from(ack.reason == ReasonCode::QuotaExceeded),
                other => panic!("{other:?}"),
            }
            answered += 1;
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_cost_their_maker_only() {
    // In the table the defaults hold: 50,000 of one identity.
    let (kept, retained) = measured_or((50_000, 1_000_000), (1_000, 1_200));
    let house = House::open(|config| config.limits.retained_messages_per_identity_max = kept).await;
    let count = measured_or(1_000_000, 20_000);
    let topics = || async {
        let mut client = house.tcp_client("topics").await;
        pour(&mut client, count, |n| format!("t/{n}/{}", n % 7)).await
    };
    beside(&house, (&format!("{count} topics"), "messages"), topics).await;
    let received = || async {
        let mut client = house.tcp_client("topics").await;
        client.subscribe("t/#", QoS::AtMostOnce).await;
        pour(&mut client, count / 4, |n| format!("t/{n}/{}", n % 7)).await
    };
    beside(&house, ("… to itself", "messages"), received).await;
    let retain = || async {
        let mut client = house.tcp_client("retained").await;
        assert_eq!(retain(&mut client, retained).await, retained - kept);
        retained.into()
    };
    beside(&house, (&format!("{retained} retained topics"), "messages"), retain).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_wildcards_cost_their_maker_only() {
    let house = House::open(|_| {}).await;
    let deep = || async {
        let mut client = house.tcp_client("filters").await;
        let (mut granted, mut refused) = (0, 0);
        for depth in 1..=70 {
            let filter = format!("f{}", "/+".repeat(depth - 1));
            client.send(&subscribe(&filter, QoS::AtMostOnce)).await;
            match client.next().await {
                Some(Packet::SubAck(ack)) if ack.reasons == [ReasonCode::Success] => granted += 1,
                Some(Packet::SubAck(ack)) if ack.reasons == [ReasonCode::TopicFilterInvalid] => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((granted, refused), (64, 6));
        for n in 0..500 {
            let topic = format!("f{}", "/x".repeat(n % 64));
            client.send(&publish(&topic, vec![b'x'], QoS::AtMostOnce, 0)).await;
            assert_eq!(client.message().await.0, topic);
        }
        570
    };
    beside(&house, ("+/+/+/… 70 deep", "packets"), deep).await;
    // Every mixture of a level and `+`: a topic of these levels is under all of them.
    let levels = measured_or(9, 5);
    let wide = || async {
        let mut client = house.tcp_client("mixtures").await;
        for mixture in 0..1_u32 << levels {
            let level = |at: u32| if mixture >> at & 1 == 0 { "/x" } else { "/+" };
            let filter: String = (0..levels).map(level).collect();
            client.subscribe(&format!("m{filter}/+"), QoS::AtMostOnce).await;
        }
        // Another topic each time, so that nothing is remembered of whom it reaches.
        let topic = format!("m{}", "/x".repeat(levels as usize));
        pour(&mut client, measured_or(20_000, 200), |n| format!("{topic}/{n}")).await
    };
    beside(&house, ("every mixture of x and +", "messages"), wide).await;
    house.close().await;
}
