//! Connections end with what they stand by: an SVID by its root, a local process by its registration entry.

use crate::client::publish;
use crate::house::House;
use mqtt_proto::{QoS, ReasonCode};

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
