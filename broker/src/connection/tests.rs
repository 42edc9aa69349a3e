//! Bytes in, bytes out and the end of the stream: what MQTT says about the network connection itself.

use super::{Entrance, LINGER, Limits, Outlet, Pace, Refused, Visit, arrive, serve, write_all};
use crate::arrivals::{Arrivals, Source};
use crate::outbox::{Outbox, Woken};
use crate::{Admission, Hub, LocalClaims, LocalOrigin, Refusal, Standing};
use async_trait::async_trait;
use broker_core::{CloseReason, Listener};
use midge_audit::{AuditLog, AuditWriter};
use midge_identity::{Proof, RootId, RootStanding, SpiffeId, TrustDomain, UnixMillis, VerifiedPeer};
use midge_policy::{Policy, Rate, Rule, SubscribeMode};
use midge_runtime::Clock;
use mqtt_proto::{Packet, Version};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Semaphore, watch};

/// Lets everybody in but `nobody`, and `gone` once.
#[derive(Default)]
struct Door(AtomicBool);

#[async_trait]
impl Admission for Door {
    fn admits(&self, id: &SpiffeId, _: Option<&Proof>) -> Result<(), Refusal> {
        let is_out = match id.path() {
            "/nobody" => true,
            "/gone" => self.0.swap(true, Ordering::Relaxed),
            _ => false,
        };
        if is_out { Err(Refusal("no entry".into())) } else { Ok(()) }
    }

    fn root(&self, _: &TrustDomain, _: &RootId) -> RootStanding {
        RootStanding::Trusted
    }

    async fn attest(&self, _: LocalOrigin) -> Result<Box<dyn LocalClaims>, Refusal> {
        Err(Refusal("nobody is local here".into()))
    }

    fn changes(&self) -> watch::Receiver<Standing> {
        watch::channel(Standing::default()).1
    }
}

struct Stage {
    hub: Hub,
    _audit: AuditWriter,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::limited(None)
    }

    /// Everybody may do everything, so fast.
    fn limited(rate: Option<Rate>) -> Self {
        let all = || vec!["#".to_owned()];
        let id = "spiffe://plant/**".to_owned();
        let rule =
            Rule { name: "open".into(), id, publish: all(), subscribe: all(), rate, ..Rule::default() };
        let policy = Arc::new(Policy::compile(vec![rule], 1).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (log, writer) = AuditLog::open(&folder.path().join("audit.log")).unwrap();
        let clock = Clock::manual(UnixMillis::from_secs(1_800_000_000));
        let hub = Hub::new(broker_core::Config::default(), policy, (clock, log), None);
        Self { hub, _audit: writer, _folder: folder }
    }

    /// What a peer that sends these pieces is sent until the broker closes, or until `expected` bytes came.
    async fn talk(&self, name: &str, pieces: &[&[u8]], expected: usize) -> Ended {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let talking = async move {
            for piece in pieces {
                // The broker may close before it has read all.
                near.write_all(piece).await.unwrap_or_default();
                tokio::task::yield_now().await;
            }
            let mut answer = Vec::new();
            while answer.len() < expected && near.read_buf(&mut answer).await.unwrap() > 0 {}
            answer
        };
        let (served, answer) = tokio::join!(self.serve(name, far), talking);
        Ended { answer, served }
    }

    async fn serve(&self, name: &str, far: DuplexStream) -> Result<(), Refused> {
        let id = SpiffeId::new(format!("spiffe://plant/{name}")).unwrap();
        let entrance = Entrance::Verified(VerifiedPeer::attested(id, 1, 2, "entry".into(), [0; 32]));
        let codec = mqtt_proto::Limits { packet_bytes_max: 1024, ..mqtt_proto::Limits::default() };
        let limits = Limits { codec, unread_timeout: Duration::from_secs(30), flushed_bytes: 0 };
        let arrival = Arrivals::new(8, Duration::from_secs(30), 1).enter(Source::User(2)).await;
        let listener = &Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Reject });
        let door = Door::default();
        let from = (listener, &"pid 1 uid 2".into());
        let arrived = arrive(&door, far, entrance, &arrival, &limits).await?;
        let turn = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        serve(&self.hub, &door, arrived, Visit { from, limits: &limits, turn }).await;
        Ok(())
    }

    async fn answer(&self, sent: &[u8]) -> Vec<u8> {
        self.talk("press", &[sent], usize::MAX).await.answer
    }
}

struct Ended {
    answer: Vec<u8>,
    served: Result<(), Refused>,
}

const CONNECT_5: &[u8] = b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c";
const CONNECT_311: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01c";
const CONNACK_311: &[u8] = b"\x20\x02\0\0";

fn sent(connect: &[u8], rest: &[u8]) -> Vec<u8> {
    [connect, rest].concat()
}

// [MQTT-3.1.0-1]: closed without an answer, which could have no form.
#[tokio::test]
async fn a_peer_that_begins_with_another_packet_is_closed_unanswered() {
    for first in [&b"\xC0\0"[..], b"\xE0\0", b"\xF0\0", b"\x30\x03\0\x01a", b"GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(Stage::new().answer(first).await, b"");
    }
}

// [MQTT-3.1.2-1], [MQTT-3.1.2-2]: in the form that the rest of the CONNECT has.
#[tokio::test]
async fn an_unknown_protocol_is_told_so_and_closed() {
    for connect in [
        &b"\x10\x0C\0\x04MQTT\x03\x02\0\0\0\0"[..],
        b"\x10\x0C\0\x04MQTT\x06\x02\0\0\0\0",
        b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0",
        b"\x10\x0C\0\x04MQTX\x04\x02\0\0\0\0",
    ] {
        let stage = Stage::new();
        let ended = stage.talk("press", &[connect, CONNECT_5], usize::MAX).await;
        assert_eq!(ended.answer, b"\x20\x02\0\x01");
        assert!(ended.served.is_err());
        assert_eq!(stage.hub.metrics().connects, 0);
    }
    // Level 5 reads its own form only, and so does who comes after it.
    for connect in [b"\x10\x0D\0\x04MQTX\x05\x02\0\0\0\0\0", b"\x10\x0D\0\x04MQTT\x06\x02\0\0\0\0\0"] {
        let stage = Stage::new();
        let ended = stage.talk("press", &[connect, CONNECT_5], usize::MAX).await;
        assert_eq!(ended.answer, b"\x20\x03\0\x84\0");
        assert_eq!(stage.hub.metrics().connects, 0);
    }
}

// [MQTT-3.1.2-3], [MQTT-3.1.4-1]; 3.1.1 [MQTT-3.1.4-1], [MQTT-3.2.2-6]: without CONNACK.
#[tokio::test]
async fn a_malformed_connect_is_answered_in_5_and_closed_in_both() {
    let stage = Stage::new();
    assert_eq!(stage.answer(b"\x10\x0E\0\x04MQTT\x05\x03\0\0\0\0\x01c").await, b"\x20\x03\0\x81\0");
    assert_eq!(stage.answer(b"\x10\x0D\0\x04MQTT\x04\x03\0\0\0\x01c").await, b"");
    assert_eq!(stage.hub.metrics().connects, 0);
}

// [MQTT-3.1.4-2], [MQTT-3.2.2-7]; 3.1.1 [MQTT-3.2.2-5]
#[tokio::test]
async fn a_refused_client_is_answered_and_closed() {
    for (connect, answer) in [(CONNECT_5, &b"\x20\x03\0\x87\0"[..]), (CONNECT_311, b"\x20\x02\0\x05")] {
        let stage = Stage::new();
        let ended = stage.talk("nobody", &[connect, b"\xC0\0"], usize::MAX).await;
        assert_eq!(ended.answer, answer);
        // The twin.
        let admitted = stage.talk("press", &[connect, b"\xC0\0\xE0\0"], usize::MAX).await;
        assert!(admitted.answer.ends_with(b"\xD0\0"));
    }
}

// Its entry ends after it was asked for and before the session is there, where a change of entries looks.
#[tokio::test]
async fn who_is_no_longer_admitted_once_it_is_in_is_cut() {
    let stage = Stage::new();
    let answer = stage.talk("gone", &[CONNECT_5], usize::MAX).await.answer;
    // CONNACK, then DISCONNECT with 0x87.
    assert_eq!((answer[0], answer[16], answer[18]), (0x20, 0xE0, 0x87), "{answer:?}");
    assert_eq!((stage.hub.metrics().connects, stage.hub.metrics().connections), (1, 0));
    // The twin.
    assert!(stage.talk("press", &[CONNECT_5, b"\xC0\0\xE0\0"], usize::MAX).await.answer.ends_with(b"\xD0\0"));
}

// [MQTT-4.13.1-1], [MQTT-3.14.4-2], [MQTT-3.1.0-2], [MQTT-3.3.1-4], [MQTT-3.14.1-1]; 3.1.1 [MQTT-4.8.0-1],
// [MQTT-2.2.2-2], [MQTT-1.5.3-1]
#[tokio::test]
async fn a_violation_is_told_in_5_and_closes_in_both() {
    let ill = b"\x30\x03\0\x01\xFF";
    for (bytes, code) in [
        (&b"\x36\x05\0\x01a\0\x01"[..], 0x81),
        (b"\xE1\0", 0x81),
        (b"\x80\x06\0\x01\0\x01a\0", 0x81),
        (ill, 0x81),
        (b"\xD0\0", 0x82),
        (CONNECT_5, 0x82),
        (b"\x30\xFF\xFF\xFF\x7F", 0x95),
    ] {
        let stage = Stage::new();
        let after = sent(bytes, b"\xC0\0");
        let five = stage.answer(&sent(CONNECT_5, &after)).await;
        assert!(five.ends_with(&[0xE0, 2, code, 0]), "{bytes:?}: {five:?}");
        let three = stage.answer(&sent(CONNECT_311, &after)).await;
        assert_eq!(three, CONNACK_311, "{bytes:?}");
        assert_eq!(stage.hub.metrics().connections, 0);
    }
}

// [MQTT-3.14.4-2] of 3.1.1 as the server sees it: DISCONNECT ends the stream from both sides.
#[tokio::test]
async fn disconnect_closes_and_nothing_follows() {
    let stage = Stage::new();
    assert_eq!(stage.answer(&sent(CONNECT_311, b"\xE0\0\xC0\0")).await, CONNACK_311);
    assert_eq!(stage.hub.metrics().connections, 0);
}

// [MQTT-4.2.0-1]: packets need not come as they were written, nor wait for the CONNACK.
#[tokio::test]
async fn a_stream_may_be_cut_anywhere_and_sent_ahead() {
    let rest = b"\x82\x06\0\x01\0\x01a\x01\x32\x06\0\x01a\0\x07x\xC0\0\xE0\0";
    let whole = sent(CONNECT_311, rest);
    let answer = b"\x20\x02\0\0\x90\x03\0\x01\x01\x32\x06\0\x01a\0\x01x\x40\x02\0\x07\xD0\0";
    let stage = Stage::new();
    assert_eq!(stage.answer(&whole).await, answer);
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(stage.talk("press", &bytes, usize::MAX).await.answer, answer);
    for at in 1..whole.len() {
        let (first, second) = whole.split_at(at);
        assert_eq!(stage.talk("press", &[first, second], usize::MAX).await.answer, answer, "cut at {at}");
    }
}

// Back-pressure: what comes too fast is read later, and nothing of it is lost.
#[tokio::test]
async fn a_peer_that_publishes_too_fast_is_read_later() {
    let rate = Rate { messages_per_second: Some(1_000), burst_messages: Some(1), ..Rate::default() };
    let stage = Stage::limited(Some(rate));
    let publishes: Vec<u8> = (1..=20).flat_map(|id| [0x32, 0x05, 0, 1, b'a', 0, id]).collect();
    let acks: Vec<u8> = (1..=20).flat_map(|id| [0x40, 0x02, 0, id]).collect();
    let expected = sent(CONNACK_311, &acks);
    let ended = stage.talk("press", &[&sent(CONNECT_311, &publishes)], expected.len()).await;
    assert_eq!(ended.answer, expected);
    assert!(stage.hub.metrics().throttled > 0);
}

// [MQTT-3.1.2-22] leaves a client without keep alive its silence, but not the middle of a packet.
#[tokio::test(start_paused = true)]
async fn without_keep_alive_a_packet_that_has_begun_goes_on_or_ends_the_connection() {
    let half = b"\x30\x05\0\x01a";
    let ended = Stage::new().talk("press", &[CONNECT_311, half], usize::MAX).await;
    assert_eq!(ended.answer, CONNACK_311);
    let ended = Stage::new().talk("press", &[CONNECT_5, half], usize::MAX).await;
    assert!(ended.answer.ends_with(b"\xE0\x02\x8D\0"), "{:x?}", ended.answer);
    let (stage, pieces) = (Stage::new(), [CONNECT_311, b"\x30\x05\0\x01abc"]);
    let talk = stage.talk("press", &pieces, usize::MAX);
    let silent = tokio::time::timeout(Duration::from_secs(3600), talk).await;
    assert!(silent.is_err(), "the connection ended");
}

// A peer that sends as fast as it can is read in turns: whoever shares its thread gets his.
#[tokio::test]
async fn a_peer_that_sends_without_end_leaves_others_their_turns() {
    let stage = Stage::new();
    let flood = sent(CONNECT_311, &b"\x30\x04\0\x01ax".repeat(100_000));
    let turns = std::cell::Cell::new(0_u32);
    let others = async {
        loop {
            tokio::task::yield_now().await;
            turns.set(turns.get() + 1);
        }
    };
    let (mut near, far) = tokio::io::duplex(flood.len());
    near.write_all(&flood).await.unwrap();
    near.shutdown().await.unwrap();
    tokio::select! {
        biased;
        served = stage.serve("press", far) => served.unwrap(),
        () = others => {}
    }
    assert_eq!(stage.hub.metrics().messages_in, 100_000);
    assert!(turns.get() > 5, "{turns:?}");
}

/// What a writer does with 1 MiB that waits when the connection is to end, and how long it takes, where the peer reads
/// 1 KiB in `pause`.
async fn writes_to_a_slow_reader(pause: Duration, discards: bool) -> (io::Result<()>, Duration) {
    let (mut near, mut far) = tokio::io::duplex(1024);
    let stage = Stage::new();
    let line = stage.hub.open_line(Version::V5, &"slow".into());
    let publish = Packet::Publish(Box::new(mqtt_proto::Publish {
        dup: false,
        qos: mqtt_proto::QoS::AtMostOnce,
        retain: false,
        topic: Some(mqtt_proto::TopicName::new("a").unwrap()),
        packet_id: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: vec![0; 32 * 1024].into(),
    }));
    for _ in 0..32 {
        line.with_outbox(|outbox| {
            outbox.send(&publish, 0);
            Woken::default().add(&mut vec![Arc::clone(outbox.signal())]);
        });
    }
    let outlet = Outlet {
        hub: &stage.hub,
        line: &line,
        write: &mut near,
        unread_timeout: Duration::from_secs(30),
        flushed_bytes: 0,
        ends_at: None,
        may_be_withdrawn: true,
    };
    let begun = tokio::time::Instant::now();
    let reading = async {
        let mut taken = [0; 1024];
        far.read_exact(&mut taken).await.unwrap();
        if discards {
            line.with_outbox(Outbox::discard);
        }
        line.with_outbox(|outbox| outbox.close(CloseReason::Drain));
        while far.read(&mut taken).await.is_ok_and(|count| count > 0) {
            tokio::time::sleep(pause).await;
        }
    };
    let written = tokio::select! {
        written = write_all(outlet) => written,
        () = reading => Ok(()),
    };
    (written, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_has_so_long_for_all_that_waits_and_not_for_each_piece_of_it() {
    let slow = Duration::from_millis(15);
    let (written, took) = writes_to_a_slow_reader(slow, false).await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(took.as_secs(), LINGER.as_secs());
    let (written, took) = writes_to_a_slow_reader(Duration::from_millis(1), false).await;
    assert!(written.is_ok() && took < LINGER, "{took:?}");
    let (written, took) = writes_to_a_slow_reader(slow, true).await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_packet_that_takes_turns_is_answered_before_what_follows_or_the_end() {
    let mut sent = CONNECT_5.to_vec();
    // UNSUBSCRIBE of 300 filters: more than a turn's work.
    sent.extend([0xA2, 0x87, 0x07, 0, 9, 0]);
    sent.extend([0, 1, b'a'].repeat(300));
    let connack = Stage::new().answer(&[CONNECT_5, b"\xE0\0"].concat()).await;
    let alone = Stage::new().talk("press", &[&sent], connack.len() + 306).await.answer;
    sent.extend([0xC0, 0, 0xE0, 0]);
    let answer = Stage::new().answer(&sent).await;
    let mut expected = vec![0xB0, 0xAF, 0x02, 0, 9, 0];
    expected.extend([0x11; 300]);
    assert!(alone.ends_with(&expected), "{alone:02X?}");
    expected.extend([0xD0, 0]);
    assert!(answer.ends_with(&expected), "{answer:02X?}");
}

// A client that was silent and then fills a read is heard of now, not when it was heard of last.
#[test]
fn what_is_waited_for_does_not_stop_the_clock() {
    let mut pace = Pace::start();
    let first = pace.go_on();
    assert_eq!(pace.go_on(), first, "it was read for this entry");
    pace.is_turn_over(Duration::from_secs(9));
    pace.wait();
    let before = std::time::Instant::now();
    assert!(pace.go_on() >= before);
}
