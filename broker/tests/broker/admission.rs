//! Connections end with what they stand by: an SVID by its root, a local process by its registration entry.

use crate::client::publish;
use crate::house::House;
use mqtt_proto::{Packet, QoS, ReasonCode};

const GONE: Option<ReasonCode> = Some(ReasonCode::NotAuthorized);

#[tokio::test]
async fn an_entry_that_goes_ends_who_was_attested_by_it_and_not_who_has_an_svid() {
    let house = House::open(|_| {}).await;
    let (mut shown, mut attested) = (house.tls_client("shown").await, house.tcp_client("attested").await);
    attested.subscribe("a", QoS::AtMostOnce).await;
    house.door.remove_entries();
    assert_eq!(attested.end().await, GONE);
    shown.subscribe("a", QoS::AtMostOnce).await;
    shown.send(&publish("a", b"still here".to_vec(), QoS::AtMostOnce, 0)).await;
    assert_eq!(shown.message().await.1, b"still here");
    house.close().await;
}

#[tokio::test]
async fn a_root_that_goes_ends_who_has_an_svid_of_it_and_not_who_was_attested() {
    let house = House::open(|_| {}).await;
    let (mut shown, mut attested) = (house.tls_client("shown").await, house.tcp_client("attested").await);
    shown.subscribe("a", QoS::AtMostOnce).await;
    house.door.remove_roots();
    assert_eq!(shown.end().await, GONE);
    attested.subscribe("a", QoS::AtMostOnce).await;
    attested.send(&publish("a", b"still here".to_vec(), QoS::AtMostOnce, 0)).await;
    assert_eq!(attested.message().await.1, b"still here");
    house.close().await;
}

const BYTES: usize = 32 * 1024;
const COUNT: usize = 1_000;

/// How many of many messages come to a client that begins to read when all have been sent and its entry may be gone.
async fn read_late(is_revoked: bool) -> usize {
    let house = House::open(|config| {
        (config.limits.unsent_bytes_soft, config.limits.unsent_bytes_hard) = (1 << 30, 2 << 30);
    })
    .await;
    let (mut press, mut late) = (house.tls_client("press").await, house.tcp_client("late").await);
    late.subscribe("a", QoS::AtMostOnce).await;
    for _ in 0..COUNT {
        press.send(&publish("a", vec![0; BYTES], QoS::AtMostOnce, 0)).await;
    }
    press.send(&publish("a", vec![1], QoS::AtLeastOnce, 1)).await;
    assert!(matches!(press.next().await, Some(Packet::PubAck(_))));
    if is_revoked {
        house.door.remove_entries();
        crate::house::eventually("its session has no connection", || house.hub.metrics().connections == 1)
            .await;
    }
    let mut count = 0;
    while let Some(Packet::Publish(publish)) = late.next().await {
        count += 1;
        if publish.payload.len() == 1 {
            break;
        }
    }
    house.close().await;
    count
}

// What the kernel has taken cannot be taken back; the broker's own part can.
#[tokio::test]
async fn who_may_have_nothing_any_more_gets_no_more_than_the_kernel_holds() {
    assert_eq!(read_late(false).await, COUNT + 1);
    let count = read_late(true).await;
    assert!(count * BYTES < 16 * 1024 * 1024, "{count} of {COUNT} messages of {BYTES} bytes");
}
