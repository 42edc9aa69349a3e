//! The short way of what comes through a share group: whose turn it is gets it, and another member what it leaves behind.

use crate::world::*;
use broker_core::{Config, ConnId, Durability};
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, Publish, QoS};
use std::num::NonZeroU16;

/// One packet of a client.
type Send = fn(&mut World, ConnId, Packet);

const FILTER: &str = "$share/g/a";

fn message(qos: QoS, id: u16, payload: &str) -> Packet {
    let packet_id = (qos != Q0).then(|| pid(id));
    Packet::Publish(Box::new(Publish { packet_id, ..publish("a", payload, qos) }))
}

fn member(world: &mut World, id: &str, connect: Connect, qos: QoS) -> ConnId {
    let conn = world.open(id, connect);
    world.subscribe(conn, FILTER, qos);
    conn
}

/// Has so many messages of each QoS sent, and returns what each of these has seen since.
fn round(world: &mut World, send: Send, press: ConnId, all: &[ConnId]) -> Vec<Vec<String>> {
    for (n, qos) in (1..=12).zip([Q1, Q2, Q0].into_iter().cycle()) {
        send(world, press, message(qos, n, &n.to_string()));
        if qos == Q2 {
            send(world, press, Packet::PubRel(ack(n)));
        }
    }
    all.iter().map(|conn| world.take(*conn)).collect()
}

#[test]
fn both_ways_end_in_the_same() {
    let play = |send: Send, config: &Config| {
        let mut world = World::of(config.clone(), open_house());
        let press = world.client("press");
        let narrow = Connect { receive_max: NonZeroU16::new(2), ..v5("c") };
        let first = member(&mut world, "first", v5("a"), Q2);
        let second = member(&mut world, "second", v311("b"), Q1);
        let third = member(&mut world, "third", narrow, Q1);
        let all = [press, first, second, third];
        // Nobody acknowledges: one after the other has no room for more.
        let mut seen = vec![round(&mut world, send, press, &all), round(&mut world, send, press, &all)];
        for conn in [first, second, third] {
            for id in [1, 2] {
                send(&mut world, conn, Packet::PubAck(ack(id)));
            }
        }
        seen.push(all.iter().map(|conn| world.take(*conn)).collect());
        // What it had goes to the others.
        world.lose(second);
        seen.push(all.iter().map(|conn| world.take(*conn)).collect());
        seen.push(round(&mut world, send, press, &all));
        for conn in [first, third] {
            world.lose(conn);
        }
        (seen, world.broker.metrics(), world.broker.sessions(), world.short_ways)
    };
    for config in [
        Config::default(),
        Config { durability: Durability::PowerLoss, ..Config::default() },
        Config { queue_messages_max: 3, inflight_bytes_max: 900, ..Config::default() },
    ] {
        let (long, short) = (play(World::send, &config), play(World::send_shortly, &config));
        assert_eq!(long, short);
        assert!(short.3["PUBLISH"] >= 16 && short.3["PUBREL"] >= 3, "{:?}", short.3);
    }
}

#[test]
fn each_has_its_turn() {
    let mut world = World::new();
    let press = world.client("press");
    let members = ["first", "second", "third"].map(|id| member(&mut world, id, v5("c"), Q1));
    for n in 1..=7 {
        world.send_shortly(press, message(Q1, n, &n.to_string()));
    }
    // The first one finds out whom it reaches.
    assert_eq!(world.short_ways["PUBLISH"], 6);
    let [first, second, third] = members.map(|conn| world.take(conn));
    assert_eq!(first, ["PUBLISH a \"1\" q1 #1", "PUBLISH a \"4\" q1 #2", "PUBLISH a \"7\" q1 #3"]);
    assert_eq!(second, ["PUBLISH a \"2\" q1 #1", "PUBLISH a \"5\" q1 #2"]);
    assert_eq!(third, ["PUBLISH a \"3\" q1 #1", "PUBLISH a \"6\" q1 #2"]);
}

#[test]
fn what_a_member_leaves_behind_goes_to_another() {
    let mut world = World::new();
    let press = world.client("press");
    let [first, second] = ["first", "second"].map(|id| member(&mut world, id, v5("c"), Q1));
    for n in 1..=4 {
        world.send_shortly(press, message(Q1, n, &n.to_string()));
    }
    world.send_shortly(first, Packet::PubAck(ack(1)));
    world.take(second);
    world.lose(first);
    world.expect(second, ["PUBLISH a \"3\" q1 #3"]);
}

#[test]
fn what_a_group_is_owed_after_a_crash_takes_the_long_way() {
    let is_open = |durability, rules: Vec<Rule>, connect: Connect, qos| {
        let mut world = World::of(Config { durability, ..Config::default() }, rules);
        let press = world.client("press");
        // The twin is stored; whose turn it is is not.
        member(&mut world, "brief", v5("c"), Q1);
        member(&mut world, "other", connect, Q1);
        world.publish(press, "a", "0", Q1);
        world.publish(press, "a", "1", Q1);
        world.passing(press, &message(qos, 9, "x")).is_some()
    };
    let rule = |durability| vec![Rule { durability: Some(durability), ..allow("*", &["a"], &["#"]) }];
    let (none, safe) = (Durability::None, Durability::ProcessCrash);
    for (durability, rules, connect, qos, expected) in [
        (safe, open_house(), v5("c"), Q1, true),
        (safe, open_house(), durable("c"), Q1, false),
        (safe, open_house(), durable("c"), Q0, true),
        (none, open_house(), durable("c"), Q1, true),
        (safe, rule(none), durable("c"), Q1, true),
        (none, rule(safe), durable("c"), Q1, false),
    ] {
        assert_eq!(
            is_open(durability, rules, connect.clone(), qos),
            expected,
            "{durability:?} {qos:?} {connect:?}"
        );
    }
}

#[test]
fn it_is_closed_where_whose_turn_it_is_cannot_take_it_or_is_not_alone() {
    type Step = fn(&mut World, [ConnId; 3]);
    let cases: [(&str, Step); 6] = [
        ("it has no room", |world, [press, ..]| {
            // Each has one, and there is room for no more.
            world.publish(press, "a", "1", Q1);
            world.publish(press, "a", "2", Q1);
        }),
        ("it is gone", |world, [_, first, _]| world.lose(first)),
        ("it is who publishes", |world, [press, ..]| {
            world.subscribe(press, FILTER, Q1);
            world.publish(press, "a", "1", Q0);
            world.publish(press, "a", "2", Q0);
        }),
        ("another group", |world, [press, first, _]| {
            world.subscribe(first, "$share/h/a", Q1);
            world.publish(press, "a", "1", Q0);
        }),
        ("one beside the group", |world, [press, _, second]| {
            world.subscribe(second, "a", Q1);
            world.publish(press, "a", "1", Q0);
        }),
        ("an identifier", |world, [press, first, second]| {
            for conn in [first, second] {
                world.send(conn, subscribe_with_id(Some(7), [sub(FILTER, Q1)]));
            }
            world.publish(press, "a", "1", Q0);
        }),
    ];
    for (name, close) in cases {
        let mut world = World::new();
        let press = world.client("press");
        let narrow = Connect { receive_max: NonZeroU16::new(1), ..v5("c") };
        let [first, second] = ["first", "second"].map(|id| member(&mut world, id, narrow.clone(), Q1));
        world.publish(press, "a", "0", Q1);
        world.send(first, Packet::PubAck(ack(1)));
        assert!(world.passing(press, &message(Q1, 9, "x")).is_some(), "{name}");
        world.take(press);
        world.take(first);
        close(&mut world, [press, first, second]);
        assert!(world.passing(press, &message(Q1, 9, "x")).is_none(), "{name}");
    }
}
