//! Sessions across connections: takeover, queues, expiry.

use crate::world::*;
use broker_core::SessionState;
use midge_identity::Proof;
use mqtt_proto::{Connect, Packet, Publish};
use std::time::Duration;

// [MQTT-3.1.4-3]
#[test]
fn the_same_client_of_the_same_identity_takes_its_session_over() {
    let mut world = World::new();
    let (press, first) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(first, "a", Q1);
    let second = world.connect("ops", durable("c"));
    world.expect(first, ["DISCONNECT 8E", "CLOSE TakenOver"]);
    world.expect(second, ["CONNACK 00 present"]);
    world.publish(press, "a", "x", Q0);
    world.expect(second, ["PUBLISH a \"x\" q0"]);
    // What the shell still reads from the old connection, and its end, change nothing.
    world.publish(first, "a", "late", Q0);
    world.lose(first);
    world.quiet(second);
    assert!(
        matches!(world.session("ops", "c").unwrap().state, SessionState::Live { conn, .. } if conn == second)
    );
}

#[test]
fn a_session_that_ends_with_its_connection_is_not_taken_over() {
    let mut world = World::new();
    let first = world.open("ops", v5("c"));
    world.subscribe(first, "a", Q1);
    let second = world.connect("ops", Connect { clean_start: false, ..v5("c") });
    world.expect(first, ["DISCONNECT 8E", "CLOSE TakenOver"]);
    world.expect(second, ["CONNACK 00"]);
    assert_eq!(world.broker.metrics().subscriptions, 0);
}

// F13, F14: client ids live in a namespace per identity.
#[test]
fn another_identity_with_the_same_client_id_disturbs_nobody_and_inherits_nothing() {
    let mut world = World::new();
    let press = world.client("press");
    let victim = world.open("ops", durable("c"));
    world.subscribe(victim, "a", Q1);
    for connect in [durable("c"), v5("c"), v311("c")] {
        let intruder = world.connect("intruder", connect);
        world.expect(intruder, ["CONNACK 00"]);
        world.publish(press, "a", "x", Q0);
        world.quiet(intruder);
        world.expect(victim, ["PUBLISH a \"x\" q0"]);
        world.lose(intruder);
    }
    world.lose(victim);
    world.publish(press, "a", "y", Q1);
    let intruder = world.connect("intruder", v5("c"));
    world.expect(intruder, ["CONNACK 00"]);
    let victim = world.connect("ops", durable("c"));
    world.expect(victim, ["CONNACK 00 present", "PUBLISH a \"y\" q1 #32768"]);
}

// F15
#[test]
fn a_refused_connect_leaves_the_session_it_names_alone() {
    let mut world = World::ruled(vec![allow("ops", &["ok"], &["a"]), allow("press", &["a"], &[])]);
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(ops, "a", Q1);
    let refused = [
        Connect { will: will("forbidden", "", 0), ..v5("c") },
        Connect { auth_method: Some("X".into()), ..v5("c") },
    ];
    for connect in refused {
        let conn = world.connect("ops", connect);
        assert!(world.take(conn)[1].starts_with("CLOSE Refused"));
        world.publish(press, "a", "x", Q0);
        world.expect(ops, ["PUBLISH a \"x\" q0"]);
    }
    world.lose(ops);
    let conn = world.connect("ops", Connect { will: will("forbidden", "", 0), ..v5("c") });
    assert_eq!(world.take(conn)[0], "CONNACK 87");
    let conn = world.connect("ops", Connect { will: will("ok", "", 0), ..durable("c") });
    world.expect(conn, ["CONNACK 00 present"]);
}

// [MQTT-3.1.2-23], [MQTT-4.5.0-1]
#[test]
fn a_parked_session_keeps_messages_above_qos0_in_order() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.send(ops, subscribe([sub("a", Q2), sub("b", Q0)]));
    world.lose(ops);
    world.take(ops);
    for (topic, payload, qos) in
        [("a", "0", Q0), ("a", "1", Q1), ("b", "b", Q1), ("a", "2", Q2), ("a", "3", Q1)]
    {
        world.publish(press, topic, payload, qos);
        world.send(press, Packet::PubRel(ack(1)));
    }
    let parked = world.session("ops", "c").unwrap();
    assert_eq!(parked.queued, 3);
    assert!(matches!(parked.state, SessionState::Parked { since: START, ends: Some(ends) }
        if ends == START.after(Duration::from_secs(3600))));
    let ops = world.connect("ops", durable("c"));
    world.expect(
        ops,
        [
            "CONNACK 00 present",
            "PUBLISH a \"1\" q1 #32768",
            "PUBLISH a \"2\" q2 #1",
            "PUBLISH a \"3\" q1 #32769",
        ],
    );
}

// [MQTT-3.1.2-23]
#[test]
fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    for (secs, present) in [(3599, true), (3600, false)] {
        let mut world = World::new();
        let ops = world.open("ops", durable("c"));
        world.subscribe(ops, "a", Q1);
        world.lose(ops);
        world.audits();
        world.pass_secs(secs);
        assert_eq!(world.session("ops", "c").is_some(), present);
        assert_eq!(world.broker.metrics().subscriptions, u64::from(present));
        assert_eq!(world.audits() == ["ops/c session ended"], !present);
        let ops = world.connect("ops", durable("c"));
        world.expect(ops, [if present { "CONNACK 00 present" } else { "CONNACK 00" }]);
    }
}

#[test]
fn the_expiry_starts_anew_with_each_connection() {
    let mut world = World::new();
    let ops = world.open("ops", durable("c"));
    world.lose(ops);
    world.pass_secs(3000);
    let ops = world.connect("ops", durable("c"));
    world.expect(ops, ["CONNACK 00 present"]);
    world.pass_secs(10_000);
    world.lose(ops);
    world.pass_secs(3000);
    assert!(world.session("ops", "c").is_some());
}

// [MQTT-3.2.2-17] as told by the server: Session Expiry Interval of the CONNACK.
#[test]
fn a_longer_expiry_than_allowed_is_lowered_and_told() {
    let mut world = World::limited(|config| config.session_expiry_max = Duration::from_secs(100));
    for asked in [101, u32::MAX] {
        let ops = world.open("ops", Connect { session_expiry_secs: Some(asked), ..durable("c") });
        assert_eq!(world.connack(ops).session_expiry_secs, Some(100));
        world.lose(ops);
        world.pass_secs(100);
        assert_eq!(world.session("ops", "c"), None);
    }
    let ops = world.open("ops", Connect { session_expiry_secs: Some(100), ..durable("c") });
    assert_eq!(world.connack(ops).session_expiry_secs, None);
}

#[test]
fn a_session_without_end_needs_a_broker_without_limit() {
    let mut world = World::limited(|config| config.session_expiry_max = Duration::MAX);
    let ops = world.open("ops", Connect { session_expiry_secs: Some(u32::MAX), ..durable("c") });
    assert_eq!(world.connack(ops).session_expiry_secs, None);
    world.lose(ops);
    assert!(matches!(world.session("ops", "c").unwrap().state, SessionState::Parked { ends: None, .. }));
    assert_eq!(world.broker.poll_timeout(), None);
}

#[test]
fn a_311_session_ends_after_the_configured_time() {
    let mut world = World::limited(|config| config.session_expiry_v311 = Duration::from_secs(50));
    let ops = world.open("ops", Connect { clean_start: false, ..v311("c") });
    world.lose(ops);
    world.pass_secs(49);
    assert!(world.session("ops", "c").is_some());
    world.pass_secs(1);
    assert_eq!(world.session("ops", "c"), None);
}

#[test]
fn a_311_session_is_kept_as_long_as_any_unless_configured_otherwise_and_never_longer() {
    let kept = |world: &mut World| {
        let ops = world.open("ops", Connect { clean_start: false, ..v311("c") });
        world.lose(ops);
        match world.session("ops", "c").unwrap().state {
            SessionState::Parked { since, ends: Some(ends) } => ends.since(since).as_secs(),
            state => panic!("{state:?}"),
        }
    };
    assert_eq!(kept(&mut World::new()), 7 * 24 * 3600);
    let mut capped = World::limited(|config| {
        config.session_expiry_max = Duration::from_secs(100);
        config.session_expiry_v311 = Duration::from_secs(200);
    });
    assert_eq!(kept(&mut capped), 100);
}

// [MQTT-3.1.2-6]
#[test]
fn a_clean_start_forgets_subscriptions_queue_and_held_messages() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(ops, "a", Q1);
    world.publish(ops, "b", "held", Q2);
    world.lose(ops);
    world.publish(press, "a", "x", Q1);
    let ops = world.connect("ops", Connect { clean_start: true, ..durable("c") });
    world.take(ops);
    world.publish(press, "a", "y", Q1);
    world.send(ops, Packet::PubRel(ack(1)));
    world.expect(ops, ["PUBCOMP 1 92"]);
    assert_eq!(world.broker.metrics().dropped.session_ended, 1);
}

#[test]
fn a_session_may_come_back_under_another_protocol_version() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    world.publish(press, "a", "x", Q1);
    let ops = world.connect("ops", Connect { clean_start: false, ..v311("c") });
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"x\" q1 #32768"]);
    assert_eq!(world.session("ops", "c").unwrap().version, V311);
}

#[test]
fn snapshots_show_what_an_operator_asks_for() {
    let mut world = World::new();
    let press = world.client("press");
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "b/#", Q1);
    world.subscribe(ops, "$share/g/a", Q2);
    world.publish(press, "b/1", "x", Q1);
    world.send(press, Packet::Publish(Box::new(Publish { packet_id: Some(pid(5)), ..publish("q", "", Q2) })));
    let sessions = world.broker.sessions();
    assert_eq!(sessions.iter().map(|s| &*s.client_id).collect::<Vec<_>>(), ["c", "press"]);
    let (ops, press) = (&sessions[0], &sessions[1]);
    assert_eq!(ops.subscriptions, [("$share/g/a".into(), Q2), ("b/#".into(), Q1)]);
    assert_eq!((ops.queued, ops.queued_bytes, ops.inflight, ops.held, press.held), (0, 0, 1, 0, 1));
    let SessionState::Live { since: START, proof: Proof::Local { uid: 2, .. }, expires: None, .. } =
        ops.state
    else {
        panic!("{:?}", ops.state)
    };
}

#[test]
fn counters_say_what_happened() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    world.subscribe(press, "$share/g/a", Q0);
    world.subscribe(ops, "$share/g/a", Q0);
    world.publish(press, "a", "12345", Q1);
    let metrics = world.broker.metrics();
    assert_eq!(
        (metrics.connections, metrics.sessions, metrics.connects, metrics.subscriptions),
        (2, 2, 2, 3)
    );
    assert_eq!((metrics.messages_in, metrics.messages_out), (1, 2));
    assert_eq!((metrics.payload_bytes_in, metrics.payload_bytes_out), (5, 10));
    world.lose(press);
    world.lose(ops);
    let metrics = world.broker.metrics();
    assert_eq!((metrics.connections, metrics.sessions, metrics.subscriptions), (0, 0, 0));
}
