//! `$SYS`.

use crate::house::House;
use mqtt_proto::QoS;
use std::collections::BTreeMap;

#[tokio::test]
async fn sys_topics_are_retained_for_who_may_read_them_and_for_nobody_else() {
    let house = House::open(|config| config.sys_interval_secs = 1).await;
    let mut ops = house.tcp_client("ops").await;
    ops.subscribe("$SYS/#", QoS::AtMostOnce).await;
    let mut seen = BTreeMap::new();
    let wanted = [
        "$SYS/broker/version",
        "$SYS/broker/uptime",
        "$SYS/broker/clients/connected",
        "$SYS/broker/messages/received",
        "$SYS/broker/subscriptions/count",
        "$SYS/broker/retained messages/count",
        "$SYS/broker/publish/messages/dropped",
        "$SYS/broker/load/messages/received/15min",
        "$SYS/broker/messages/stored",
        "$SYS/broker/store/messages/count",
        "$SYS/broker/store/messages/bytes",
        "$SYS/broker/heap/current",
        "$SYS/broker/heap/maximum",
        "$SYS/midge/lease/until",
        "$SYS/midge/policy/epoch",
    ];
    while !wanted.iter().all(|topic| seen.contains_key(*topic))
        || seen["$SYS/broker/clients/connected"] != "1"
        || seen.get("$SYS/broker/bytes/received").is_none_or(|bytes| bytes == "0")
    {
        let (topic, payload) = ops.message().await;
        seen.insert(topic, String::from_utf8(payload).unwrap());
    }
    assert!(seen["$SYS/broker/version"].starts_with("midge "));
    assert!(seen["$SYS/broker/uptime"].ends_with(" seconds"));
    assert!(seen["$SYS/broker/heap/current"].parse::<u64>().unwrap() > 500_000);
    assert_eq!(seen["$SYS/midge/lease/until"], "never");
    assert_eq!(seen["$SYS/midge/policy/epoch"], "7");

    // Another identity may not subscribe to it, and `#` does not reach it.
    let mut other = house.tcp_client("other").await;
    other.send(&crate::client::subscribe("$SYS/#", QoS::AtMostOnce)).await;
    let answer = other.next().await;
    assert!(matches!(&answer, Some(mqtt_proto::Packet::SubAck(ack)) if ack.reasons[0] as u8 == 0x87));
    other.subscribe("#", QoS::AtMostOnce).await;
    other.send(&crate::client::publish("own", b"x".to_vec(), QoS::AtMostOnce, 0)).await;
    assert_eq!(other.message().await.0, "own");
    house.close().await;
}
