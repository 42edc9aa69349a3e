//! A disk that is slow, one that fails, and what a change leaves for it, as the connections see it.

use super::Hub;
use crate::limits::PendingLimits;
use crate::outbox::{Outbox, Woken};
use broker_core::{CloseCause, Config, ConnId, Durability, Listener};
use midge_audit::{AuditLog, AuditWriter};
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::{Policy, Rule, SubscribeMode};
use midge_runtime::Clock;
use mqtt_proto::*;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

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

    fn connect(&self, id: &str, version: Version, kept_secs: Option<u32>) -> (ConnId, Arc<Outbox>) {
        let listener = Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Reject });
        let peer = SpiffeId::new(format!("spiffe://plant/{id}")).unwrap();
        let connect = Connect {
            clean_start: kept_secs.is_none(),
            session_expiry_secs: kept_secs,
            ..Connect::new(version, id)
        };
        let peer = VerifiedPeer::attested(peer, 1, 2, "entry".into(), [0; 32]);
        self.hub.connect((&listener, &"pid 1 uid 2".into()), peer, connect)
    }

    /// Hands one packet over; how long it has to wait, if it was not taken.
    fn give(&self, conn: ConnId, packet: Packet) -> Option<Duration> {
        let mut packets = VecDeque::from([packet]);
        let wait = self.hub.packets(conn, &mut packets, &mut Woken::default());
        assert_eq!(packets.len(), usize::from(wait.is_some()));
        wait
    }

    /// Publishes until nothing more is taken, and returns how many messages were.
    fn fill(&self, conn: ConnId) -> usize {
        (1_u16..100).take_while(|id| self.give(conn, publish("a", *id)).is_none()).count()
    }

    /// Writes all that waits.
    fn write(&self) {
        let pending = self.hub.take_pending(true).unwrap();
        self.hub.stored(&pending);
    }
}

fn publish(topic: &str, id: u16) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: NonZeroU16::new(id),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: vec![b'x'; PAYLOAD_BYTES].into(),
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

/// What a client was sent since it was last asked, other than success: reason codes of PUBACKs, and how many succeeded.
async fn acknowledged(outbox: &Outbox, version: Version) -> (usize, Vec<ReasonCode>) {
    let frames = outbox.next().await.unwrap().frames;
    let mut bytes = bytes::BytesMut::new();
    frames.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
    bytes.extend_from_slice(&frames.last);
    let mut decoder = Decoder::client(version, Limits::default());
    let mut reasons = Vec::new();
    while let Some(packet) = decoder.decode(&mut bytes).unwrap() {
        if let Packet::PubAck(ack) = packet {
            reasons.push(ack.reason);
        }
    }
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
    stage.hub.stored(&pending);
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
