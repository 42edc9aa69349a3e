//! A disk that is slow, one that fails, and what a change leaves for it, as the connections see it.

use super::{Hub, Line, Taken};
use crate::input::Input;
use crate::limits::PendingLimits;
use crate::outbox::{Outbox, Woken};
use broker_core::{CloseCause, Config, ConnId, Durability, Listener};
use midge_audit::{AuditLog, AuditWriter};
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::{Policy, Rule, SubscribeMode};
use midge_runtime::Clock;
use mqtt_proto::*;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAYLOAD_BYTES: usize = 1_000_000;

/// A hub whose changes are written when a test says so, with a durable session that is away and subscribed to `a`.
struct Stage {
    hub: Hub,
    _audit: AuditWriter,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let all = || vec!["#".to_owned()];
        let id = "spiffe://plant/**".to_owned();
        let rule = Rule { name: "open".into(), id, publish: all(), subscribe: all(), ..Rule::default() };
        let policy = Arc::new(Policy::compile(vec![rule], 1).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (log, audit) = AuditLog::open(&folder.path().join("audit.log")).unwrap();
        let clock = Clock::manual(UnixMillis::from_secs(1_800_000_000));
        let durability = Durability::ProcessCrash;
        let config = Config { durability, queue_bytes_max: usize::MAX, ..Config::default() };
        let stage =
            Self { hub: Hub::new(config, policy, (clock, log), None), _audit: audit, _folder: folder };
        let (ops, _) = stage.connect("ops", Version::V5, Some(3600));
        stage.give(ops, subscribe("a"));
        stage.hub.closed(ops, CloseCause::Eof);
        stage.write();
        stage
    }

    fn connect(&self, id: &str, version: Version, kept_secs: Option<u32>) -> (ConnId, Line) {
        let listener = Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Reject });
        let peer = SpiffeId::new(format!("spiffe://plant/{id}")).unwrap();
        let connect = Connect {
            clean_start: kept_secs.is_none(),
            session_expiry_secs: kept_secs,
            ..Connect::new(version, id)
        };
        let peer = VerifiedPeer::attested(peer, 1, 2, "entry".into(), [0; 32]);
        let line = self.hub.connect((&listener, &"pid 1 uid 2".into()), peer, connect);
        (line.conn, line)
    }

    /// Hands one packet over; how long it has to wait, if it was not taken.
    fn give(&self, conn: ConnId, packet: Packet) -> Option<Duration> {
        let mut input = Input::of(Some(packet));
        let taken = self.hub.packets(conn, &mut input, 1, (Instant::now(), &mut Woken::default())).unwrap();
        let wait = if let Taken::Wait(wait) = taken { Some(wait) } else { None };
        assert_eq!(input.is_empty(), wait.is_none());
        wait
    }

    /// Publishes until nothing more is taken, and returns how many messages were.
    fn fill(&self, conn: ConnId) -> usize {
        (1_u16..100).take_while(|id| self.give(conn, publish("a", *id)).is_none()).count()
    }

    /// Writes all that waits.
    fn write(&self) {
        let pending = self.hub.take_pending(true).unwrap();
        self.hub.stored(pending);
    }
}

fn publish(topic: &str, id: u16) -> Packet {
    publish_of(topic, NonZeroU16::new(id), vec![b'x'; PAYLOAD_BYTES])
}

/// PUBLISH of QoS 1, or of QoS 0 where it has no packet identifier.
fn publish_of(topic: &str, packet_id: Option<PacketId>, payload: Vec<u8>) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup: false,
        qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: payload.into(),
    }))
}

fn subscribe(filter: &str) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::MIN,
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![Subscription {
            filter: SharedFilter::new(filter).unwrap(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }],
    }))
}

/// What a client was sent since it was last asked.
async fn sent(line: &Line, version: Version) -> Vec<Packet> {
    let mut batch = line.next().await.unwrap();
    let frames = batch.frames().unwrap();
    let mut bytes = bytes::BytesMut::new();
    frames.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes.extend_from_slice(&frames.last);
    let mut decoder = Decoder::client(version, Limits::default());
    std::iter::from_fn(|| decoder.decode(&mut bytes).unwrap()).collect()
}

/// Those of it other than success: reason codes of PUBACKs, and how many succeeded.
async fn acknowledged(line: &Line, version: Version) -> (usize, Vec<ReasonCode>) {
    let reason = |packet| if let Packet::PubAck(ack) = packet { Some(ack.reason) } else { None };
    let mut reasons: Vec<_> = sent(line, version).await.into_iter().filter_map(reason).collect();
    let all = reasons.len();
    reasons.retain(|reason| *reason != ReasonCode::Success);
    (all - reasons.len(), reasons)
}

// Nobody is refused for what a disk has not come to yet.
#[tokio::test]
async fn while_the_disk_catches_up_publishers_are_left_unread_and_none_is_refused() {
    let stage = Stage::new();
    let soft = PendingLimits::new(Config::default().packet_size_max).soft;
    let (new, new_box) = stage.connect("new", Version::V5, None);
    let (old, old_box) = stage.connect("old", Version::V311, None);
    let taken = stage.fill(new);
    assert_eq!(taken, soft / PAYLOAD_BYTES + 1);
    assert_eq!(stage.fill(old), 0);
    let wait = stage.give(old, publish("a", 1)).unwrap();
    assert!(wait <= Duration::from_millis(20), "{wait:?}");
    // The twins: who adds nothing to it is heard.
    let (other, other_box) = stage.connect("other", Version::V5, None);
    assert_eq!(stage.give(other, publish("elsewhere", 1)), None);
    assert_eq!(stage.give(other, Packet::PingReq), None);
    assert_eq!(acknowledged(&other_box, Version::V5).await, (0, vec![ReasonCode::NoMatchingSubscribers]));
    // While it is being written it still waits.
    let pending = stage.hub.take_pending(true).unwrap();
    assert_eq!(stage.fill(old), 0);
    stage.hub.stored(pending);
    assert_eq!(stage.fill(old), taken);
    stage.write();
    assert_eq!(acknowledged(&new_box, Version::V5).await, (taken, vec![]));
    assert_eq!(acknowledged(&old_box, Version::V311).await, (taken, vec![]));
    assert_eq!(stage.hub.metrics().connections, 3);
}

#[tokio::test]
async fn while_the_disk_fails_nobody_waits_for_it_and_publishers_are_told() {
    let stage = Stage::new();
    let (new, new_box) = stage.connect("new", Version::V5, None);
    let (old, _) = stage.connect("old", Version::V311, None);
    let taken = stage.fill(new);
    let pending = stage.hub.take_pending(true).unwrap();
    stage.hub.not_stored(pending, "no room".into());
    assert_eq!(stage.give(new, publish("a", 200)), None);
    assert_eq!(stage.give(old, publish("a", 1)), None);
    assert_eq!(stage.hub.metrics().connections, 1, "3.1.1 has no code to be told with");
    // The twin: once it takes everything again, it is as before.
    stage.write();
    assert_eq!(stage.give(new, publish("a", 201)), None);
    stage.write();
    assert_eq!(acknowledged(&new_box, Version::V5).await, (taken + 1, vec![ReasonCode::QuotaExceeded]));
}

// What receivers acknowledge before it was written is not written at all.
#[test]
fn what_was_undone_before_it_was_written_lets_publishers_go_on() {
    let stage = Stage::new();
    let (press, _) = stage.connect("press", Version::V5, None);
    let (live, _) = stage.connect("live", Version::V5, Some(3600));
    stage.give(live, subscribe("b"));
    stage.write();
    let taken = (1_u16..100).take_while(|id| stage.give(press, publish("b", *id)).is_none()).count();
    assert!(taken > 10);
    let acks = [1_u16, 2].map(|id| Ack {
        packet_id: NonZeroU16::new(id).unwrap(),
        reason: ReasonCode::Success,
        info: None,
    });
    for _ in 0..taken {
        stage.hub.flushed(live, usize::MAX);
        for ack in &acks {
            assert_eq!(stage.give(live, Packet::PubAck(ack.clone())), None);
        }
    }
    assert_eq!(stage.give(press, publish("b", 200)), None);
}

// Else a subscription that was revoked would come back after a crash, until somebody else has something to store.
#[tokio::test(start_paused = true)]
async fn what_a_change_left_to_be_done_is_written_without_waiting_for_others() {
    let stage = Stage::new();
    stage.hub.set_policy(Arc::new(Policy::compile(Vec::new(), 2).unwrap()));
    let hub = stage.hub.clone();
    let waiting = tokio::spawn(async move { hub.wait_for_pending().await });
    tokio::task::yield_now().await;
    assert_eq!(stage.hub.metrics().subscriptions, 1, "it is looked at in portions");
    while stage.hub.portion().is_some() {}
    assert_eq!(stage.hub.metrics().subscriptions, 0);
    assert!(tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap());
}

/// So many subscribers of `to/N`, for each N that is no less than their number, and a publisher.
async fn many(stage: &Stage, receivers: &[usize]) -> (Vec<Line>, Line) {
    let mut lines = Vec::new();
    for n in 0..*receivers.iter().max().unwrap() {
        let (conn, line) = stage.connect(&format!("sub-{n}"), Version::V5, None);
        for wanted in receivers.iter().filter(|wanted| n < **wanted) {
            stage.give(conn, subscribe(&format!("to/{wanted}")));
        }
        sent(&line, Version::V5).await;
        lines.push(line);
    }
    (lines, stage.connect("press", Version::V5, None).1)
}

fn numbered(receivers: usize, number: usize) -> Packet {
    publish_of(&format!("to/{receivers}"), None, number.to_string().into_bytes())
}

/// What one is sent: numbers of messages, and answers to PINGREQ.
async fn told(line: &Line) -> Vec<String> {
    let name = |packet: &Packet| match packet {
        Packet::Publish(publish) => String::from_utf8(publish.payload.to_vec()).unwrap(),
        Packet::PingResp => "ping".into(),
        other => panic!("{other:?}"),
    };
    sent(line, Version::V5).await.iter().map(name).collect()
}

// A message to many is encoded when its receivers write.
#[tokio::test]
async fn what_is_encoded_later_keeps_its_place() {
    let (stage, receivers) = (Stage::new(), [40, 40, 2, 40, 3]);
    let (lines, press) = many(&stage, &receivers).await;
    for (number, wanted) in receivers.into_iter().enumerate() {
        stage.give(press.conn, numbered(wanted, number));
        for line in lines.iter().filter(|_| number != 1) {
            assert_eq!(stage.give(line.conn, Packet::PingReq), None);
        }
    }
    for (n, line) in lines.iter().enumerate() {
        let due = receivers.iter().enumerate().flat_map(|(number, wanted)| {
            let message = (n < *wanted).then(|| number.to_string());
            message.into_iter().chain((number != 1).then(|| "ping".to_owned()))
        });
        assert_eq!(told(line).await, due.collect::<Vec<_>>(), "{n}");
    }
}

#[tokio::test]
async fn what_is_beyond_those_that_may_be_encoded_later_keeps_its_place() {
    let stage = Stage::new();
    let (lines, press) = many(&stage, &[20]).await;
    for number in 0..3_000 {
        assert_eq!(stage.give(press.conn, numbered(20, number)), None);
    }
    for line in &lines {
        assert!(told(line).await.into_iter().eq((0..3_000).map(|number| number.to_string())));
    }
}

#[tokio::test]
async fn what_is_not_encoded_yet_is_thrown_away_with_the_rest_and_its_twin_is_sent() {
    let stage = Stage::new();
    let (lines, press) = many(&stage, &[40]).await;
    stage.give(press.conn, numbered(40, 1));
    lines[0].with_outbox(Outbox::discard);
    stage.give(lines[0].conn, Packet::PingReq);
    assert_eq!(told(&lines[0]).await, ["ping"]);
    assert_eq!(told(&lines[1]).await, ["1"]);
}
