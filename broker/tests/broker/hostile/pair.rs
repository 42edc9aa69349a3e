//! The well-behaved pair beside a hostile peer.

use crate::client::{Client, publish};
use crate::house::House;
use mqtt_proto::{Packet, QoS, ReasonCode};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Two clients over mTLS; each message is acknowledged and received before the next one.
pub(super) struct Pair {
    sender: Client<TlsStream<TcpStream>>,
    receiver: Client<TlsStream<TcpStream>>,
    count: u64,
}

impl Pair {
    pub(super) async fn open(house: &House) -> Self {
        let mut receiver = house.tls_client("receiver").await;
        receiver.subscribe("pair", QoS::AtLeastOnce).await;
        Self { sender: house.tls_client("sender").await, receiver, count: 0 }
    }

    async fn exchange(&mut self) {
        self.count += 1;
        let payload = self.count.to_string().into_bytes();
        self.sender.send(&publish("pair", payload.clone(), QoS::AtLeastOnce, 1)).await;
        assert_eq!(self.receiver.message().await, ("pair".to_owned(), payload), "lost, repeated or moved");
        assert!(
            matches!(self.sender.next().await, Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::Success)
        );
    }

    pub(super) async fn exchange_while(&mut self, go_on: impl Fn(usize) -> bool) {
        let mut count = 0;
        while go_on(count) {
            self.exchange().await;
            count += 1;
        }
    }
}
