//! Peers that arrive and say nothing, half of it, or very little at a time.

use super::{beside, closed};
use crate::client::{bytes_of, connect};
use crate::house::{House, SOON};
use mqtt_proto::{Packet, Version};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections that are opened at once, sent this, and expected to be closed.
async fn crowd(addresses: &[std::net::SocketAddr], count: usize, bytes: &'static [u8]) -> u64 {
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let address = addresses[index % addresses.len()];
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            drop(stream.write_all(bytes).await);
            closed(stream).await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    count as u64
}

/// The first bytes of a TLS 1.3 ClientHello, whose record promises 512.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 7, 7, 7];
/// A CONNECT that promises more than it brings.
const HALF_CONNECT: &[u8] = &[0x10, 40, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0];
const HALF_UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nhost: broker\r\nupgrade: webs";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_or_half_of_it_is_closed_and_makes_room_for_others() {
    let house = House::open(|config| {
        config.connect_timeout_secs = 1;
        config.arrivals_max = 8;
    })
    .await;
    let (tls, tcp) = ([house.tls, house.websocket_tls], [house.tcp, house.websocket_loopback]);
    beside(&house, ("no ClientHello", "connections"), || crowd(&tls, 10, b"")).await;
    beside(&house, ("half a ClientHello", "connections"), || crowd(&tls, 10, HALF_HELLO)).await;
    beside(&house, ("nothing on plaintext", "connections"), || crowd(&tcp, 10, b"")).await;
    beside(&house, ("half a CONNECT", "connections"), || crowd(&tcp, 10, HALF_CONNECT)).await;
    beside(&house, ("half an upgrade", "connections"), || crowd(&tcp[1..], 10, HALF_UPGRADE)).await;
    let records = house.close().await;
    let told =
        |text: &str| records.iter().any(|record| record["reason"].as_str().is_some_and(|r| r.contains(text)));
    assert!(told("too many arrivals"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_get_in_while_all_places_are_held_by_silent_peers() {
    let house = House::open(|config| config.arrivals_max = 4).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(house.tls).await.unwrap());
    }
    for _ in 0..3 {
        drop(house.tls_client("newcomer").await);
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_comes_byte_by_byte_runs_out_of_time() {
    let house = House::open(|config| config.connect_timeout_secs = 1).await;
    let trickle = || async {
        let mut stream = TcpStream::connect(house.tcp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, mut write) = stream.split();
        let bytes = bytes_of(&Packet::Connect(Box::new(connect(&"x".repeat(200)))), Version::V5);
        let send = async {
            for byte in bytes {
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("it came through");
        };
        tokio::select! {
            () = send => {}
            answer = closed(read) => assert_eq!(answer, b""),
        }
        1
    };
    beside(&house, ("a byte at a time", "connections"), trickle).await;
    house.close().await;
}

// Such as the probe of a port scanner, or somebody in the middle of a handshake.
#[tokio::test]
async fn a_silent_peer_does_not_hold_up_the_end() {
    let house = House::open(|config| config.connect_timeout_secs = 3600).await;
    let (silent, tls) =
        (TcpStream::connect(house.tcp).await.unwrap(), TcpStream::connect(house.tls).await.unwrap());
    // Who came after them is in: so are they.
    drop((house.tcp_client("a").await, house.tls_client("b").await));
    tokio::time::timeout(SOON, house.close()).await.unwrap();
    drop((silent, tls));
}
