//! WebSocket oddities.

use super::{beside, closed, measured_or};
use crate::client::{bytes_of, connect, publish};
use crate::frames::*;
use crate::house::{House, SOON};
use mqtt_proto::{Connect, Packet, QoS, Version};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What breaks the rules, and the code of the Close that says so (RFC 6455 §7.4.1).
fn oddities() -> Vec<(&'static str, Vec<u8>, u16)> {
    let in_pieces = |last: u8| [frame(0x02, b"x"), frame(last, b"x")].concat();
    vec![
        ("not masked", vec![BINARY, 2, 0xC0, 0], 1002),
        ("a reserved bit", frame(0xC2, b"x"), 1002),
        ("an unknown opcode", frame(0x83, b"x"), 1002),
        ("an unknown control opcode", frame(0x8B, b"x"), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a message within a message", in_pieces(BINARY), 1002),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), 1002),
        ("a ping in pieces", frame(0x09, b"x"), 1002),
        ("a Close of one byte", frame(0x88, b"x"), 1002),
        ("text", frame(0x81, b"hello"), 1003),
        ("text that is none", frame(0x81, &[0xFF, 0xFE]), 1007),
        ("a length of 2^62", vec![BINARY, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("a length above a packet's", vec![BINARY, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0], 1009),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_rules_of_websocket_end_the_connection() {
    let house = House::open(|_| {}).await;
    let connect = bytes_of(&Packet::Connect(Box::new(connect("odd"))), Version::V5);
    let odd = || async {
        for (what, bytes, code) in oddities() {
            for after_connect in [false, true] {
                let mut stream = upgraded(&house).await;
                if after_connect {
                    stream.write_all(&frame(BINARY, &connect)).await.unwrap();
                }
                send_all(&mut stream, &bytes).await;
                assert_eq!(close_codes(&closed(stream).await), [code], "{what}");
            }
        }
        2 * oddities().len() as u64
    };
    beside(&house, ("WebSocket frames against the rules", "connections"), odd).await;
    house.close().await;
}

// The twin: what looks as odd and is right ends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_odd_and_keep_the_rules_end_nothing() {
    let house = House::open(|_| {}).await;
    let connect = bytes_of(&Packet::Connect(Box::new(connect("even"))), Version::V5);
    let (first, rest) = connect.split_at(5);
    let mut stream = upgraded(&house).await;
    for bytes in [
        frame(PING, &[0; 125]),
        frame(0x8A, b"a pong that nobody asked for"),
        frame(BINARY, b""),
        frame(0x02, first),
        frame(PING, b"within a message"),
        frame(0x00, b""),
        frame(0x80, rest),
        frame(BINARY, &bytes_of(&Packet::PingReq, Version::V5)),
    ] {
        send_all(&mut stream, &bytes).await;
    }
    let mut answer = Vec::new();
    // It may share a frame with the CONNACK, and a pong may follow.
    while !answer.windows(2).any(|bytes| bytes == [0xD0, 0]) {
        let read = tokio::time::timeout(SOON, stream.read_buf(&mut answer)).await;
        assert!(matches!(read, Ok(Ok(1..))), "no PINGRESP: {answer:?}");
    }
    // Its own Close is answered with the same code.
    send_all(&mut stream, &frame(0x88, &[0x03, 0xE8])).await;
    assert_eq!(close_codes(&closed(stream).await), [1000]);
    house.close().await;
}

// Who is told what it did wrong has time to read that: its connection is not reset because of what it had sent ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_the_rules_and_goes_on_sending_reads_why() {
    let house = House::open(|_| {}).await;
    for after_connect in [false, true] {
        let mut stream = upgraded(&house).await;
        if after_connect {
            let connect = bytes_of(&Packet::Connect(Box::new(connect("ahead"))), Version::V5);
            stream.write_all(&frame(BINARY, &connect)).await.unwrap();
        }
        stream.write_all(&frame(0xC2, b"x")).await.unwrap();
        for _ in 0..200 {
            stream.write_all(&frame(BINARY, &[0; 10_000])).await.unwrap();
        }
        assert_eq!(close_codes(&closed(stream).await), [1002]);
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_in_endless_fragments_ends_at_the_packet_size() {
    let house = House::open(|config| config.packet_size_max = 64 * 1024).await;
    let fragments = || async {
        let mut stream = upgraded(&house).await;
        let connect = bytes_of(&Packet::Connect(Box::new(connect("endless"))), Version::V5);
        send_all(&mut stream, &frame(BINARY, &connect)).await;
        send_all(&mut stream, &frame(0x02, b"\x10")).await;
        let more = frame(0x00, &[0; 1_000]).repeat(200);
        send_all(&mut stream, &more).await;
        assert_eq!(close_codes(&closed(stream).await), [1009]);
        201
    };
    beside(&house, ("endless fragments", "fragments"), fragments).await;
    house.close().await;
}

// By default a packet may have a megabyte, and a CONNECT no more than 128 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_sent_no_connect_is_held_no_more_of_over_websocket_than_over_tcp() {
    let house = House::open(|_| {}).await;
    let piece = frame(0x00, &[0; 1_000]);
    let fragments = || async {
        let mut stream = upgraded(&house).await;
        // The broker cannot see how long the CONNECT says to be before the message is whole.
        send_all(&mut stream, &frame(0x02, b"\x10\xFF\xFF\x3F")).await;
        let mut sent = 0;
        while sent < 600_000 && stream.write_all(&piece).await.is_ok() {
            sent += piece.len();
            tokio::task::yield_now().await;
        }
        assert_eq!(close_codes(&closed(stream).await), [1009]);
        (sent / piece.len()) as u64
    };
    beside(&house, ("endless fragments before CONNECT", "fragments"), fragments).await;
    // The twin: with its CONNECT the same is a message like any other.
    let mut stream = upgraded(&house).await;
    let mut bytes = bytes_of(&Packet::Connect(Box::new(connect("large"))), Version::V5);
    send_all(&mut stream, &frame(BINARY, &bytes)).await;
    bytes = bytes_of(&publish("a", vec![0; 900_000], QoS::AtLeastOnce, 1), Version::V5);
    bytes.extend(bytes_of(&Packet::PingReq, Version::V5));
    let (first, rest) = bytes.split_at(1_000);
    send_all(&mut stream, &frame(0x02, first)).await;
    for piece in rest.chunks(1_000) {
        send_all(&mut stream, &frame(0x00, piece)).await;
    }
    send_all(&mut stream, &frame(0x80, b"")).await;
    let mut answer = Vec::new();
    while !answer.ends_with(&[0xD0, 0]) {
        let read = tokio::time::timeout(SOON, stream.read_buf(&mut answer)).await.unwrap();
        assert!(read.unwrap() > 0, "{answer:?}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_is_answered_or_not_and_serves_no_keep_alive() {
    let house = House::open(|_| {}).await;
    let pings = || async {
        let mut stream = upgraded(&house).await;
        let alive = Connect { keep_alive_secs: 1, ..connect("pings") };
        let connect = bytes_of(&Packet::Connect(Box::new(alive)), Version::V5);
        stream.write_all(&frame(BINARY, &connect)).await.unwrap();
        let (mut read, mut write) = stream.split();
        let sent = AtomicU64::new(0);
        let flood = async {
            let pings = frame(PING, b"").repeat(1_000);
            while write.write_all(&pings).await.is_ok() {
                sent.fetch_add(1_000, Ordering::Relaxed);
                tokio::time::sleep(measured_or(Duration::ZERO, Duration::from_millis(5))).await;
            }
        };
        let until_closed = async {
            let mut sink = vec![0; 64 * 1024];
            while !matches!(read.read(&mut sink).await, Ok(0) | Err(_)) {}
        };
        // 1.5 s after CONNECT the keep alive is over: pings of WebSocket are none of MQTT.
        tokio::time::timeout(SOON, async {
            tokio::select! {
                () = flood => {}
                () = until_closed => {}
            }
        })
        .await
        .expect("closed in time");
        sent.load(Ordering::Relaxed)
    };
    beside(&house, ("a flood of WebSocket pings", "pings"), pings).await;
    let records = house.close().await;
    let ends =
        records.iter().filter(|record| record["client-id"] == "pings" && record["event"] == "disconnected");
    assert!(ends.clone().count() > 0);
    for end in ends {
        assert_eq!(end["reason"], "keep alive timeout");
    }
}
