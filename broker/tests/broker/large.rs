//! Messages as large as a broker may be told to take.

use crate::client::publish;
use crate::house::{House, eventually};
use mqtt_proto::{Packet, QoS};

const MESSAGE_BYTES: usize = 12_000_000;

// What is on its way to a subscriber is more than the hard limit as it is written, and no fault of his.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_large_messages_may_ask_while_one_is_on_its_way() {
    let house = House::open(|config| config.packet_size_max = 16 * 1024 * 1024).await;
    let (mut sender, mut receiver) = (house.tcp_client("sender").await, house.tcp_client("receiver").await);
    receiver.subscribe("large", QoS::AtLeastOnce).await;
    sender.send(&publish("large", vec![b'x'; MESSAGE_BYTES], QoS::AtLeastOnce, 1)).await;
    eventually("the message is sent", || house.hub.metrics().messages_out == 1).await;
    let before = house.hub.metrics().packets_in;
    receiver.send(&Packet::PingReq).await;
    eventually("the question is heard", || house.hub.metrics().packets_in > before).await;
    assert_eq!(receiver.message().await.1.len(), MESSAGE_BYTES);
    assert!(matches!(receiver.next().await, Some(Packet::PingResp)));
    house.close().await;
}
