//! Peers that mean no good, on real sockets. Beside each of them a well-behaved pair exchanges messages,
//! and loses none.
//!
//! With `MIDGE_HOSTILE=table` each attack goes on for a few seconds, and the pair's latencies with and
//! without it are printed:
//! `MIDGE_HOSTILE=table cargo test --release -p midge-broker --test broker hostile -- --nocapture --test-threads 1`

use crate::client::{Client, bytes_of, connect, publish, subscribe};
use crate::house::{House, SOON, eventually};
use mqtt_proto::{Ack, Connect, Packet, QoS, ReasonCode, Version};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// Exchanges of the pair before and beside each attack.
const EXCHANGES: usize = 20;
/// How long the pair and the attack go on when latencies are measured.
const MEASURED: Duration = Duration::from_secs(4);

fn is_measured() -> bool {
    std::env::var("MIDGE_HOSTILE").is_ok_and(|mode| mode == "table")
}

/// Two clients over mTLS; each message is acknowledged and received before the next one.
struct Pair {
    sender: Client<TlsStream<TcpStream>>,
    receiver: Client<TlsStream<TcpStream>>,
    count: u64,
}

impl Pair {
    async fn open(house: &House) -> Self {
        let mut receiver = house.tls_client("receiver").await;
        receiver.subscribe("pair", QoS::AtLeastOnce).await;
        Self { sender: house.tls_client("sender").await, receiver, count: 0 }
    }

    /// Exchanges one message and returns how long it was on its way.
    async fn exchange(&mut self) -> Duration {
        self.count += 1;
        let payload = self.count.to_string().into_bytes();
        let begun = Instant::now();
        self.sender.send(&publish("pair", payload.clone(), QoS::AtLeastOnce, 1)).await;
        assert_eq!(self.receiver.message().await, ("pair".to_owned(), payload), "lost, repeated or moved");
        let taken = begun.elapsed();
        assert!(
            matches!(self.sender.next().await, Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::Success)
        );
        taken
    }

    async fn exchange_while(&mut self, go_on: impl Fn(usize) -> bool) -> Vec<Duration> {
        let mut times = Vec::new();
        while go_on(times.len()) {
            times.push(self.exchange().await);
            if is_measured() {
                // An open loop would be better still; this one at least does not fill the broker by itself.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        times
    }
}

/// Runs an attack beside the pair, which must lose nothing.
async fn beside<F: Future<Output = ()>>(house: &House, name: &str, attack: impl Fn() -> F) {
    let mut pair = Pair::open(house).await;
    let begun = Instant::now();
    let goes_on = |begun: Instant, count: usize| {
        if is_measured() { begun.elapsed() < MEASURED } else { count < EXCHANGES }
    };
    let alone = pair.exchange_while(|count| goes_on(begun, count)).await;
    let (begun, is_over) = (Instant::now(), AtomicBool::new(false));
    let attacks = async {
        attack().await;
        while is_measured() && begun.elapsed() < MEASURED {
            attack().await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let exchanges = pair.exchange_while(|count| !is_over.load(Ordering::Relaxed) || goes_on(begun, count));
    let ((), together) = tokio::join!(attacks, exchanges);
    if is_measured() {
        row(name, alone, together);
    }
}

fn row(name: &str, mut alone: Vec<Duration>, mut together: Vec<Duration>) {
    let of = |times: &mut Vec<Duration>, per_mille: usize| {
        times.sort_unstable();
        times[(times.len() - 1) * per_mille / 1000].as_micros()
    };
    let (a50, a99) = (of(&mut alone, 500), of(&mut alone, 990));
    let (t50, t99) = (of(&mut together, 500), of(&mut together, 990));
    println!(
        "| {name} | {} | {a50} | {a99} | {} | {t50} | {t99} | {:.1} |",
        alone.len(),
        together.len(),
        t99 as f64 / a99 as f64
    );
}

/// Reads until the broker closes.
async fn closed<S: AsyncRead + Unpin>(mut stream: S) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "the broker keeps the connection");
    bytes
}

/// Connections that are opened at once, sent this, and expected to be closed.
async fn crowd(addresses: &[std::net::SocketAddr], count: usize, bytes: &'static [u8]) {
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
    beside(&house, "no ClientHello", || crowd(&tls, 10, b"")).await;
    beside(&house, "half a ClientHello", || crowd(&tls, 10, HALF_HELLO)).await;
    beside(&house, "nothing on plaintext", || crowd(&tcp, 10, b"")).await;
    beside(&house, "half a CONNECT", || crowd(&tcp, 10, HALF_CONNECT)).await;
    beside(&house, "half an upgrade", || crowd(&tcp[1..], 10, HALF_UPGRADE)).await;
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
    };
    beside(&house, "a byte at a time", trickle).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_cut_and_its_session_stays() {
    let house = House::open(|config| {
        config.unread_timeout_secs = 1;
        config.limits.unsent_bytes_soft = 256 * 1024;
    })
    .await;
    let never_reads = || async {
        let stuck = Connect { session_expiry_secs: Some(3600), ..connect("stuck") };
        let stream = TcpStream::connect(house.tcp).await.unwrap();
        let mut stuck = Client::open_with(stream, stuck).await;
        stuck.subscribe("flood", QoS::AtLeastOnce).await;
        let mut flooder = house.tcp_client("flooder").await;
        // More than any socket buffer takes.
        for n in 0..400_u16 {
            let qos = if n % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            flooder.send(&publish("flood", vec![b'x'; 64 * 1024], qos, n + 1)).await;
            if qos == QoS::AtLeastOnce {
                assert!(matches!(flooder.next().await, Some(Packet::PubAck(_))));
            }
        }
        let is_parked = || {
            let sessions = house.hub.sessions();
            sessions.iter().any(|session| {
                &*session.client_id == "stuck"
                    && matches!(session.state, broker_core::SessionState::Parked { .. })
                    && session.queued > 0
            })
        };
        eventually("the reader is cut", is_parked).await;
    };
    beside(&house, "never reading", never_reads).await;
    assert!(house.hub.metrics().dropped.slow_reader > 0);
    let records = house.close().await;
    let cut =
        records.iter().find(|record| record["client-id"] == "stuck" && record["event"] == "disconnected");
    assert_eq!(cut.unwrap()["reason"], "client does not read what it is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connects_leave_nothing_behind() {
    let house = House::open(|_| {}).await;
    let burst = |complete: bool| {
        let house = &house;
        move || async move {
            let bytes = bytes_of(&Packet::Connect(Box::new(connect(""))), Version::V5);
            for round in 0..20 {
                let connects = (0..100).map(|_| TcpStream::connect(house.tcp));
                for stream in futures_util::future::join_all(connects).await {
                    let Ok(mut stream) = stream else { continue };
                    if complete && round % 2 == 0 {
                        drop(stream.write_all(&bytes).await);
                    }
                }
            }
        }
    };
    beside(&house, "2,000 connects at once, silent", burst(false)).await;
    beside(&house, "2,000 connects at once, half of them with CONNECT", burst(true)).await;
    eventually("all are gone", || house.hub.metrics().connections == 0).await;
    eventually("no session is left", || house.hub.metrics().sessions == 0).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_and_filters_cost_their_maker_only() {
    let house = House::open(|config| config.limits.retained_messages_max = 1_000).await;
    let topics = || async {
        let mut client = house.tcp_client("topics").await;
        let mut bytes = Vec::new();
        for n in 0..20_000_u32 {
            bytes.extend(bytes_of(
                &publish(&format!("t/{n}/{}", n % 7), Vec::new(), QoS::AtMostOnce, 0),
                Version::V5,
            ));
        }
        client.send_bytes(&bytes).await;
        client.send(&Packet::PingReq).await;
        assert_eq!(client.next().await, Some(Packet::PingResp));
    };
    beside(&house, "20,000 topics", topics).await;
    let filters = || async {
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
    };
    beside(&house, "+/+/+/… 70 deep", filters).await;
    let retained = || async {
        let mut client = house.tcp_client("retained").await;
        let mut refused = 0;
        for n in 0..1_200_u16 {
            let Packet::Publish(mut message) = publish(&format!("r/{n}"), vec![b'x'], QoS::AtLeastOnce, 1)
            else {
                panic!("a PUBLISH")
            };
            message.retain = true;
            client.send(&Packet::Publish(message)).await;
            match client.next().await {
                Some(Packet::PubAck(ack)) => refused += usize::from(ack.reason == ReasonCode::QuotaExceeded),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(refused, 200);
    };
    beside(&house, "1,200 retained topics", retained).await;
    house.close().await;
}

/// Sends these bytes as a connected client and returns the reason of the DISCONNECT.
async fn reason_for(house: &House, bytes: &[u8]) -> Option<ReasonCode> {
    let mut client = house.tcp_client("bytes").await;
    client.send_bytes(bytes).await;
    client.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn properties_and_packets_that_are_too_large_end_the_connection_at_once() {
    let house = House::open(|_| {}).await;
    let properties = || async {
        // PUBLISH on `a` with 65 user properties of nothing.
        let block: Vec<u8> = [0x26, 0, 0, 0, 0].repeat(65);
        let mut bytes = vec![0x30, 0xCA, 0x02, 0, 1, b'a', 0xC5, 0x02];
        bytes.extend(block);
        assert_eq!(reason_for(&house, &bytes).await, Some(ReasonCode::QuotaExceeded));
        // Only the header of a PUBLISH of 256 MiB.
        let reason = reason_for(&house, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]).await;
        assert_eq!(reason, Some(ReasonCode::PacketTooLarge));
        // A length that does not end.
        let reason = reason_for(&house, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]).await;
        assert_eq!(reason, Some(ReasonCode::MalformedPacket));
    };
    beside(&house, "huge properties and packets", properties).await;
    // A CONNECT of 1 MiB is judged by its header.
    let mut stream = TcpStream::connect(house.tcp).await.unwrap();
    stream.write_all(&[0x10, 0xFF, 0xFF, 0x3F]).await.unwrap();
    assert_eq!(closed(stream).await, b"");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misused_packet_identifiers_hurt_nobody() {
    let house = House::open(|_| {}).await;
    let misuse = || async {
        let mut client = house.tcp_client("ids").await;
        let ack = |id: u16| Ack {
            packet_id: NonZeroU16::new(id).unwrap(),
            reason: ReasonCode::Success,
            info: None,
        };
        for id in [1, 77, u16::MAX] {
            // Acknowledgements of nothing.
            client.send(&Packet::PubAck(ack(id))).await;
            client.send(&Packet::PubComp(ack(id))).await;
            client.send(&Packet::PubRec(ack(id))).await;
            let answer = client.next().await;
            assert!(
                matches!(&answer, Some(Packet::PubRel(ack)) if ack.reason == ReasonCode::PacketIdentifierNotFound),
                "{answer:?}"
            );
            client.send(&Packet::PubRel(ack(id))).await;
            let answer = client.next().await;
            assert!(
                matches!(&answer, Some(Packet::PubComp(ack)) if ack.reason == ReasonCode::PacketIdentifierNotFound),
                "{answer:?}"
            );
        }
        // One identifier for everything at once.
        for _ in 0..100 {
            client.send(&publish("ids", vec![b'x'], QoS::AtLeastOnce, 9)).await;
            client.send(&publish("ids", vec![b'x'], QoS::ExactlyOnce, 9)).await;
            client.send(&subscribe("ids/none", QoS::AtMostOnce)).await;
        }
        for _ in 0..300 {
            assert!(!matches!(client.next().await, None | Some(Packet::Disconnect(_))));
        }
        // Identifier zero is none.
        client.send_bytes(&[0x32, 6, 0, 1, b'a', 0, 0, 0]).await;
        assert_eq!(client.end().await, Some(ReasonCode::ProtocolError));
    };
    beside(&house, "packet identifiers misused", misuse).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qos_2_that_is_never_completed_ends_at_receive_maximum() {
    let house = House::open(|_| {}).await;
    let never = || async {
        let mut client = house.tcp_client("never").await;
        for id in 1..=256 {
            client.send(&publish("never", vec![b'x'; 1_000], QoS::ExactlyOnce, id)).await;
            assert!(matches!(client.next().await, Some(Packet::PubRec(_))));
        }
        client.send(&publish("never", vec![b'x'; 1_000], QoS::ExactlyOnce, 257)).await;
        assert_eq!(client.end().await, Some(ReasonCode::ReceiveMaximumExceeded));
    };
    beside(&house, "QoS 2 never completed", never).await;
    house.close().await;
}

/// A socket after its upgrade to WebSocket, and nothing of it yet.
async fn upgraded(house: &House) -> TcpStream {
    let mut stream = TcpStream::connect(house.websocket_loopback).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nhost: broker\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

/// A frame with a mask of zeros, which leaves the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

const BINARY: u8 = 0x82;
const PING: u8 = 0x89;

async fn send_all<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) {
    // The broker may have closed before it has all.
    drop(tokio::time::timeout(SOON, stream.write_all(bytes)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_break_the_rules_of_websocket_end_the_connection() {
    let house = House::open(|_| {}).await;
    let oddities: [(&str, Vec<u8>); 8] = [
        ("not masked", vec![BINARY, 2, 0xC0, 0]),
        ("text", frame(0x81, b"hello")),
        ("a length of 2^62", vec![BINARY, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a length above what a packet may have", vec![BINARY, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0]),
        ("a reserved bit", frame(0xC2, b"x")),
        ("an unknown opcode", frame(0x83, b"x")),
        ("a continuation of nothing", frame(0x80, b"x")),
        ("a ping of 126 bytes", frame(PING, &[0; 126])),
    ];
    let connect = bytes_of(&Packet::Connect(Box::new(connect("odd"))), Version::V5);
    let odd = || async {
        for (what, bytes) in &oddities {
            for after_connect in [false, true] {
                let mut stream = upgraded(&house).await;
                if after_connect {
                    stream.write_all(&frame(BINARY, &connect)).await.unwrap();
                }
                send_all(&mut stream, bytes).await;
                let mut answer = Vec::new();
                let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
                assert!(read.is_ok(), "{what}: the broker keeps the connection");
            }
        }
    };
    beside(&house, "WebSocket frames against the rules", odd).await;
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
        closed(stream).await;
    };
    beside(&house, "endless fragments", fragments).await;
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
        closed(stream).await;
    };
    beside(&house, "endless fragments before CONNECT", fragments).await;
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
        let flood = async {
            let pings = frame(PING, b"").repeat(1_000);
            while write.write_all(&pings).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
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
    };
    beside(&house, "a flood of WebSocket pings", pings).await;
    let records = house.close().await;
    let ends =
        records.iter().filter(|record| record["client-id"] == "pings" && record["event"] == "disconnected");
    assert!(ends.clone().count() > 0);
    for end in ends {
        assert_eq!(end["reason"], "keep alive timeout");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_cannot_take_what_others_need() {
    let house = House::open(|config| config.limits.sessions_per_identity_max = 10).await;
    let mut held = Vec::new();
    for n in 0..10 {
        let stream = TcpStream::connect(house.tcp).await.unwrap();
        held.push(
            Client::open_with(
                stream,
                Connect { client_id: n.to_string().as_str().into(), ..connect("many") },
            )
            .await,
        );
    }
    let stream = TcpStream::connect(house.tcp).await.unwrap();
    let (_, answer) = Client::connect(stream, Connect { client_id: "11".into(), ..connect("many") }).await;
    assert!(matches!(answer, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::QuotaExceeded));
    // Another identity is not concerned.
    drop(house.tcp_client("other").await);
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
