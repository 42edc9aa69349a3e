//! The short way of a PUBLISH: who may go it, and that it ends where the long one does. Every [`World`] holds each
//! PUBLISH that could have gone it against what the long way made of it.

use crate::svid::peer_until;
use crate::world::*;
use broker_core::{Asker, ConnId, Witness};
use midge_policy::{Question, Rate, Rule};
use mqtt_proto::{Connect, Packet, Publish, PublishProperties};
use std::num::NonZeroU16;
use std::sync::Arc;

/// One message through a world, and who is waited for.
type Step = fn(&mut World, ConnId, ConnId);

fn message(topic: &str, payload: &str) -> Packet {
    Packet::Publish(Box::new(publish(topic, payload, Q0)))
}

/// A press whose messages one reads, who has read one.
fn pair(world: &mut World) -> (ConnId, ConnId) {
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    world.publish(press, "a", "0", Q0);
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
            world.pass_secs(9);
        }
        // What is not read is counted, and lost in the end.
        world.flushing = false;
        for _ in 0..50 {
            send(&mut world, press, message("a", "0123456789"));
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
    assert!(short.3 > 10 && long.0.0.dropped.slow_reader > 10, "{long:?}");
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
    assert_eq!(world.short_ways, 10);
    assert_eq!(world.take(ops).len(), 11);
    world.quiet(press);
    assert!(world.take(silent).last().unwrap().starts_with("CLOSE"));
}

#[test]
fn what_says_more_than_topic_and_payload_takes_the_long_way() {
    let mut world = World::new();
    let (press, _) = pair(&mut world);
    let plain = || publish("a", "x", Q0);
    let properties = PublishProperties { payload_is_utf8: Some(true), ..PublishProperties::default() };
    for publish in [
        Publish { retain: true, ..plain() },
        Publish { qos: Q1, packet_id: Some(pid(1)), ..plain() },
        Publish { qos: Q2, packet_id: Some(pid(1)), ..plain() },
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
}

/// What closes the short way, by name.
const CLOSES: [(&str, Step); 15] = [
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
        assert!(is_open(&world, press, &message("a", "x")), "{name}");
        close(&mut world, press, ops);
        assert!(!is_open(&world, press, &message("a", "x")), "{name}");
    }
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
