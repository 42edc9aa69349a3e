//! The short way of a PUBLISH of QoS 0 and 1: who may go it, and that it ends where the long one does. Every [`World`] holds
//! each packet that could have gone it against what the long way made of it.

use crate::svid::peer_until;
use crate::world::*;
use broker_core::{Asker, ConnId, Durability, StoreTrouble, Witness};
use midge_policy::{Question, Rate, Rule};
use mqtt_proto::{Connect, Packet, Publish, PublishProperties};
use std::num::NonZeroU16;
use std::sync::Arc;

/// One message through a world, and who is waited for.
type Step = fn(&mut World, ConnId, ConnId);

fn message(topic: &str, payload: &str) -> Packet {
    Packet::Publish(Box::new(publish(topic, payload, Q0)))
}

fn numbered(topic: &str, payload: &str) -> Packet {
    Packet::Publish(Box::new(publish(topic, payload, Q1)))
}

/// A press whose messages one reads, who has read some.
fn pair(world: &mut World) -> (ConnId, ConnId) {
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q1);
    world.publish(press, "a", "0", Q1);
    world.send(ops, Packet::PubAck(ack(1)));
    world.take(ops);
    (press, ops)
}

fn is_open(world: &World, press: ConnId, packet: &Packet) -> bool {
    world.passing(press, packet).is_some()
}

#[test]
fn both_ways_end_in_the_same() {
    let two_rules =
        || vec![Rule { name: "first".into(), ..allow("*", &["a"], &["#"]) }, allow("*", &["b/#"], &["#"])];
    let play = |send: fn(&mut World, ConnId, Packet)| {
        let config = broker_core::Config {
            unsent_bytes_soft: 100,
            unsent_bytes_hard: 200,
            ..broker_core::Config::default()
        };
        let mut world = World::with(config, two_rules());
        let connect = Connect { keep_alive_secs: 10, ..v311("press") };
        let (press, ops) = (world.open("press", connect), world.client("ops"));
        world.subscribe(ops, "a", Q1);
        world.subscribe(ops, "b/+", Q0);
        for topic in ["a", "a", "b/1", "b/1", "b/2", "c", "a", "a"] {
            send(&mut world, press, message(topic, "x"));
            send(&mut world, press, numbered(topic, "y"));
            world.pass_secs(9);
        }
        world.send(ops, Packet::PubAck(ack(2)));
        world.send(ops, Packet::PubAck(ack(1)));
        // What is not read is counted, and lost in the end.
        world.flushing = false;
        for _ in 0..50 {
            send(&mut world, press, message("a", "0123456789"));
            send(&mut world, press, numbered("a", "0123456789"));
        }
        world.flush(ops);
        send(&mut world, press, message("a", "again"));
        let between = (world.broker.metrics(), world.take(ops), world.take(press));
        world.lose(press);
        world.lose(ops);
        (between, std::mem::take(&mut world.audits), world.broker.metrics(), world.short_ways)
    };
    let (long, short) = (play(World::send), play(World::send_shortly));
    assert_eq!(long, short);
    assert!(short.3["PUBLISH"] > 10 && long.0.0.dropped.slow_reader > 10, "{long:?}");
}

#[test]
fn what_went_it_is_kept_until_it_is_acknowledged() {
    let play = |send: fn(&mut World, ConnId, Packet)| {
        let config = broker_core::Config { inflight_bytes_max: 400, ..broker_core::Config::default() };
        // Sessions outlive their connections, and nothing is stored.
        let mut world = World::of(config, open_house());
        let connect = Connect { receive_max: NonZeroU16::new(5), ..durable("ops") };
        let (press, ops) = (world.client("press"), world.open("ops", connect.clone()));
        world.subscribe(ops, "a", Q1);
        for n in 0..9 {
            send(&mut world, press, numbered("a", &n.to_string()));
        }
        world.send(ops, Packet::PubAck(ack(2)));
        let before = (world.take(ops), world.take(press), world.broker.metrics());
        world.lose(ops);
        let ops = world.connect("ops", connect);
        let mut after = world.take(ops);
        for id in [1, 3] {
            world.send(ops, Packet::PubAck(ack(id)));
            after.extend(world.take(ops));
        }
        (before, after, world.broker.metrics(), world.broker.sessions(), world.short_ways)
    };
    let (long, short) = (play(World::send), play(World::send_shortly));
    assert_eq!(long, short);
    assert_eq!(short.4["PUBLISH"], 2, "{short:?}");
    assert!(short.1.contains(&"PUBLISH a \"2\" q1 #3 dup".to_owned()), "{short:?}");
}

#[test]
fn who_goes_it_alone_is_heard_of() {
    let mut world = World::new();
    let connect = Connect { keep_alive_secs: 10, ..v5("press") };
    let press = world.open("press", connect.clone());
    let silent = world.open("silent", connect);
    let ops = world.client("ops");
    world.subscribe(ops, "a", Q0);
    world.publish(press, "a", "0", Q0);
    for _ in 0..10 {
        world.pass_secs(9);
        world.send_shortly(press, message("a", "x"));
    }
    assert_eq!(world.short_ways["PUBLISH"], 10);
    assert_eq!(world.take(ops).len(), 11);
    world.quiet(press);
    assert!(world.take(silent).last().unwrap().starts_with("CLOSE"));
}

#[test]
fn several_topics_in_turn_go_it_each_by_its_own_rule() {
    let play = |send: fn(&mut World, ConnId, Packet)| {
        let named = |name: &str, topics: &[&str]| Rule { name: name.into(), ..allow("*", topics, topics) };
        let mut world = World::ruled(vec![named("first", &["a/#"]), named("second", &["b/#"])]);
        let (press, ops) = (world.client("press"), world.client("ops"));
        world.subscribe(ops, "a/#", Q1);
        world.subscribe(ops, "b/#", Q0);
        for n in 0..40 {
            let topic = ["a/1", "b/1", "a/2", "b/2"][n % 4];
            send(&mut world, press, if n % 3 == 0 { numbered(topic, "x") } else { message(topic, "x") });
        }
        assert!(!is_open(&world, press, &message("c", "x")));
        let seen = (world.take(ops), world.take(press));
        world.lose(press);
        (seen, std::mem::take(&mut world.audits), world.broker.metrics(), world.short_ways)
    };
    let (long, short) = (play(World::send), play(World::send_shortly));
    assert_eq!(long, short);
    assert_eq!(short.3["PUBLISH"], 36);
}

#[test]
fn what_says_more_than_topic_and_payload_takes_the_long_way() {
    let mut world = World::new();
    let (press, _) = pair(&mut world);
    let plain = || publish("a", "x", Q0);
    let properties = PublishProperties { payload_is_utf8: Some(true), ..PublishProperties::default() };
    for publish in [
        Publish { retain: true, ..plain() },
        Publish { dup: true, ..publish("a", "x", Q1) },
        Publish { retain: true, ..publish("a", "x", Q1) },
        Publish { properties: Some(Arc::new(properties)), ..plain() },
        Publish { topic_alias: NonZeroU16::new(1), ..plain() },
        Publish { topic: None, topic_alias: NonZeroU16::new(1), ..plain() },
        Publish { subscription_ids: vec![1], ..plain() },
        publish("b", "x", Q0),
    ] {
        let packet = Packet::Publish(Box::new(publish));
        assert!(!is_open(&world, press, &packet), "{packet:?}");
    }
    assert!(!is_open(&world, ConnId(77), &message("a", "x")));
    assert!(is_open(&world, press, &message("a", "x")));
    assert!(is_open(&world, press, &numbered("a", "x")));
}

/// What closes the short way, by name.
const CLOSES: [(&str, Step); 16] = [
    ("the right of the publisher ends", |world, _, _| world.set_rules(vec![allow("ops", &["a"], &["a"])])),
    ("the right of the receiver ends", |world, _, _| world.set_rules(vec![allow("press", &["a"], &["a"])])),
    ("rules change", |world, _, _| world.set_rules(open_house())),
    ("a rule sets a rate", |world, press, _| {
        let rate = Rate { messages_per_second: Some(1_000), ..Rate::default() };
        world.set_rules(vec![Rule { rate: Some(rate), ..allow("*", &["a"], &["a"]) }]);
        world.publish(press, "a", "1", Q0);
    }),
    ("a second receiver", |world, press, _| {
        let second = world.client("second");
        world.subscribe(second, "a", Q0);
        world.publish(press, "a", "1", Q0);
    }),
    ("a share group", |world, press, _| {
        let second = world.client("second");
        world.subscribe(second, "$share/g/a", Q0);
        world.publish(press, "a", "1", Q0);
    }),
    ("the receiver leaves", |world, _, ops| world.lose(ops)),
    ("the receiver unsubscribes", |world, press, ops| {
        world.send(ops, unsubscribe(["a"]));
        world.publish(press, "a", "1", Q0);
    }),
    ("a subscription identifier", |world, press, ops| {
        world.send(ops, subscribe_with_id(Some(7), [sub("a", Q0)]));
        world.publish(press, "a", "1", Q0);
    }),
    ("the publisher is revoked", |world, _, _| world.revoke("press")),
    ("the receiver is revoked", |world, _, _| world.revoke("ops")),
    ("the publisher has said goodbye", |world, press, _| {
        world.send(press, bye(mqtt_proto::ReasonCode::Success));
    }),
    ("the receiver does not read", |world, press, _| {
        world.flushing = false;
        let large = "x".repeat(world.config.unsent_bytes_soft);
        world.publish(press, "a", &large, Q0);
        world.publish(press, "a", &large, Q0);
    }),
    ("the disk fails", |world, _, _| world.broker.handle_store_trouble(StoreTrouble::Failing)),
    ("somebody watches", |world, _, _| world.broker.set_witness(Some(Box::new(Watching)))),
    ("effects are left", |world, press, _| {
        world.broker.handle_packet(press, Packet::PingReq, world.now);
    }),
];

#[derive(Debug)]
struct Watching;

impl Witness for Watching {
    fn decided(&mut self, _: &Asker<'_>, _: &Question<'_>, _: bool) {}
}

#[test]
fn whatever_is_out_of_the_ordinary_closes_it() {
    for (name, close) in CLOSES {
        let mut world = World::new();
        let (press, ops) = pair(&mut world);
        for packet in [message("a", "x"), numbered("a", "x")] {
            assert!(is_open(&world, press, &packet), "{name}");
        }
        close(&mut world, press, ops);
        for packet in [message("a", "x"), numbered("a", "x")] {
            assert!(!is_open(&world, press, &packet), "{name}");
        }
    }
}

#[test]
fn what_has_to_be_stored_or_to_wait_takes_the_long_way() {
    let none = broker_core::Config::default();
    let stored = broker_core::Config { durability: Durability::ProcessCrash, ..none.clone() };
    let one = |connect| Connect { receive_max: NonZeroU16::new(1), ..connect };
    for (config, connect, granted, expected) in [
        (none.clone(), durable("ops"), Q1, true),
        (stored.clone(), durable("ops"), Q1, false),
        (stored.clone(), durable("ops"), Q0, true),
        (stored, v5("ops"), Q1, true),
        (none.clone(), one(v5("ops")), Q1, false),
        (none, one(v5("ops")), Q0, true),
    ] {
        let mut world = World::of(config, open_house());
        let (press, ops) = (world.client("press"), world.open("ops", connect.clone()));
        world.subscribe(ops, "a", granted);
        world.publish(press, "a", "0", Q1);
        assert_eq!(is_open(&world, press, &numbered("a", "x")), expected, "{granted:?} {connect:?}");
        assert!(is_open(&world, press, &message("a", "x")));
    }
}

#[test]
fn a_rule_that_has_the_broker_store_is_not_passed_by() {
    let rule = Rule { durability: Some(Durability::ProcessCrash), ..allow("*", &["a"], &["a"]) };
    let mut world = World::of(broker_core::Config::default(), vec![rule]);
    let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q0);
    world.publish(press, "a", "0", Q0);
    assert!(is_open(&world, press, &message("a", "x")));
    assert!(!is_open(&world, press, &numbered("a", "x")));
    world.publish(press, "a", "1", Q1);
    assert!(is_open(&world, press, &numbered("a", "x")));
}

// What it has said before waits for the disk: its PUBACK must not come first.
#[test]
fn who_waits_for_the_disk_does_not_overtake_itself() {
    let mut world = World::new();
    let (press, _) = pair(&mut world);
    let parked = world.open("parked", durable("parked"));
    world.subscribe(parked, "b", Q1);
    world.lose(parked);
    world.disk.is_quick = false;
    world.publish(press, "b", "1", Q1);
    world.publish(press, "a", "1", Q1);
    assert!(!is_open(&world, press, &numbered("a", "x")));
    assert!(is_open(&world, press, &message("a", "x")));
    world.end_slowness();
    assert!(is_open(&world, press, &numbered("a", "x")));
}

#[test]
fn what_its_receiver_asked_for_closes_it() {
    let cases = [
        (v5("ops"), true),
        (v311("ops"), true),
        (Connect { topic_alias_max: 1, ..v5("ops") }, false),
        (Connect { packet_size_max: Some(106), ..v5("ops") }, true),
        (Connect { packet_size_max: Some(105), ..v5("ops") }, false),
    ];
    for (connect, expected) in cases {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", connect.clone()));
        world.subscribe(ops, "a", Q2);
        world.publish(press, "a", "", Q0);
        assert_eq!(is_open(&world, press, &message("a", &"x".repeat(100))), expected, "{connect:?}");
    }
}

#[test]
fn nobody_goes_it_to_itself() {
    let mut world = World::new();
    let press = world.client("press");
    world.subscribe(press, "a", Q0);
    world.publish(press, "a", "x", Q0);
    assert!(!is_open(&world, press, &message("a", "x")));
}

#[test]
fn an_svid_that_has_expired_closes_it() {
    let mut world = World::new();
    let (press, ops) = (world.connect_peer(peer_until("press", 60), v5("press")), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    world.publish(press, "a", "x", Q0);
    for (secs, expected) in [(59, true), (60, false)] {
        world.now.wall = START.after(std::time::Duration::from_secs(secs));
        assert_eq!(is_open(&world, press, &message("a", "x")), expected);
    }
}
