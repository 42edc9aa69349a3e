//! The short way of acknowledgements and of QoS 2: what may go it, and that it ends where the long one does.

use crate::world::*;
use broker_core::{Config, ConnId, Durability, StoreTrouble};
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, Publish, ReasonCode};
use std::num::NonZeroU16;

/// One packet of a client.
type Send = fn(&mut World, ConnId, Packet);

/// Something that happens between a press and whoever reads it.
type Step = fn(&mut World, ConnId, ConnId);

fn numbered(qos: mqtt_proto::QoS, id: u16, payload: &str) -> Packet {
    Packet::Publish(Box::new(Publish { packet_id: Some(pid(id)), ..publish("a", payload, qos) }))
}

fn twice(id: u16) -> Packet {
    numbered(Q2, id, "x")
}

/// A press whose messages one reads; it has had one decided.
fn pair(world: &mut World) -> (ConnId, ConnId) {
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q2);
    world.publish(press, "a", "0", Q0);
    world.take(ops);
    (press, ops)
}

/// Plays the whole of some exchanges, and returns all that there is to see of it.
fn play(
    send: Send,
    config: &Config,
    connects: [Connect; 2],
    granted: mqtt_proto::QoS,
) -> impl PartialEq + std::fmt::Debug {
    let mut world = World::of(config.clone(), open_house());
    let [press, ops] = connects;
    let (press, ops) = (world.open("press", press), world.open("ops", ops));
    world.subscribe(ops, "a", granted);
    world.publish(press, "a", "0", Q0);
    let mut seen = Vec::new();
    for round in 0..3 {
        for id in 1..=6 {
            send(
                &mut world,
                press,
                numbered(if id % 3 == 0 { Q1 } else { Q2 }, id, &"x".repeat(usize::from(id))),
            );
        }
        // Once more, and one that is unknown, and the others out of order.
        send(&mut world, press, twice(1));
        for id in [2, 1, 1, 9, 5, 4] {
            send(&mut world, press, Packet::PubRel(ack(id)));
        }
        let sent = world.take(ops);
        let id = |text: &String| text.rsplit_once('#')?.1.parse().ok();
        let ids = sent.iter().filter_map(|text| Some((text.contains(" q2 "), id(text)?)));
        let ids: Vec<(bool, u16)> = ids.collect();
        // What is left of the last round is acknowledged behind what waits for it.
        for (is_2, id) in ids.iter().rev().skip(usize::from(round == 1)) {
            if *is_2 {
                send(&mut world, ops, Packet::PubRec(ack(*id)));
                send(&mut world, ops, Packet::PubRec(ack(*id)));
            } else {
                send(&mut world, ops, Packet::PubAck(ack(*id)));
                send(&mut world, ops, Packet::PubAck(ack(*id)));
            }
        }
        for (_, id) in ids.iter().filter(|(is_2, _)| *is_2).skip(round) {
            send(&mut world, ops, Packet::PubComp(ack(*id)));
        }
        seen.push((
            sent,
            world.take(ops),
            world.take(press),
            world.broker.metrics(),
            world.broker.sessions(),
        ));
        world.pass_secs(1);
    }
    world.lose(press);
    world.lose(ops);
    (seen, std::mem::take(&mut world.audits), world.broker.metrics(), world.short_ways)
}

#[test]
fn exchanges_end_in_the_same_either_way() {
    let none = Config::default();
    let stored = Config { durability: Durability::ProcessCrash, ..none.clone() };
    let narrow = Config { inflight_bytes_max: 300, held_bytes_max: 500, ..none.clone() };
    let few = |connect| Connect { receive_max: NonZeroU16::new(2), ..connect };
    for config in [&none, &stored, &narrow] {
        for connects in [
            [v5("press"), v5("ops")],
            [v311("press"), v311("ops")],
            [durable("press"), v5("ops")],
            [v5("press"), durable("ops")],
            [v5("press"), few(v5("ops"))],
            [v311("press"), few(durable("ops"))],
        ] {
            for granted in [Q0, Q1, Q2] {
                let long = play(World::send, config, connects.clone(), granted);
                let short = play(World::send_shortly, config, connects.clone(), granted);
                assert_eq!(long, short, "{connects:?} {granted:?}");
            }
        }
    }
}

#[test]
fn a_whole_exchange_goes_it() {
    for connects in [[v5("press"), v5("ops")], [v311("press"), v311("ops")]] {
        let mut world = World::new();
        let [press, ops] = connects;
        let (press, ops) = (world.open("press", press), world.open("ops", ops));
        world.subscribe(ops, "a", Q2);
        world.publish(press, "a", "0", Q0);
        world.take(ops);
        for (conn, packet) in [
            (press, twice(7)),
            (press, Packet::PubRel(ack(7))),
            (ops, Packet::PubRec(ack(1))),
            (ops, Packet::PubComp(ack(1))),
            (press, numbered(Q1, 7, "y")),
            (ops, Packet::PubAck(ack(2))),
        ] {
            assert!(world.passing(conn, &packet).is_some(), "{packet:?}");
            world.send_shortly(conn, packet);
        }
        assert_eq!(world.take(press), ["PUBREC 7 00", "PUBCOMP 7 00", "PUBACK 7 00"]);
        assert_eq!(world.take(ops), ["PUBLISH a \"x\" q2 #1", "PUBREL 1 00", "PUBLISH a \"y\" q1 #2"]);
        let metrics = world.broker.metrics();
        assert_eq!((metrics.waiting_messages, metrics.waiting_bytes), (0, 0));
    }
}

// What one has sent in one go is answered in its order, behind what it leads to.
#[test]
fn what_was_read_together_is_taken_together() {
    let play = |is_together: bool| {
        let mut world = World::new();
        let (press, ops) = pair(&mut world);
        let stretches = [
            (press, vec![twice(1), twice(2), numbered(Q1, 3, "y"), Packet::PubRel(ack(1)), twice(4)]),
            (ops, vec![Packet::PubAck(ack(1)), Packet::PubRec(ack(2))]),
            (press, vec![Packet::PubRel(ack(2)), Packet::PubRel(ack(4)), twice(1)]),
            (ops, vec![Packet::PubComp(ack(2)), Packet::PubRec(ack(3)), Packet::PubRec(ack(4))]),
        ];
        let mut seen = Vec::new();
        for (conn, packets) in stretches {
            if is_together {
                world.send_all_shortly(conn, &packets);
            } else {
                packets.into_iter().for_each(|packet| world.send_shortly(conn, packet));
            }
            seen.push((world.take(press), world.take(ops), world.broker.metrics()));
        }
        (seen, world.broker.sessions(), world.short_ways)
    };
    assert_eq!(play(true), play(false));
}

#[test]
fn who_is_answered_more_than_it_reads_is_cut() {
    let config = Config { unsent_bytes_soft: 100, unsent_bytes_hard: 200, ..Config::default() };
    let mut world = World::of(config, open_house());
    let (press, _) = pair(&mut world);
    world.flushing = false;
    let packets: Vec<_> = (1..=60).map(twice).collect();
    world.send_all_shortly(press, &packets[..40]);
    assert_eq!(world.take(press).len(), 40);
    world.send_all_shortly(press, &packets[40..]);
    assert!(world.take(press).last().unwrap().starts_with("CLOSE Slow"));
}

/// Leaves two messages under way, one as far as PUBREL.
fn under_way(world: &mut World) -> (ConnId, ConnId) {
    let (press, ops) = pair(world);
    for packet in [numbered(Q1, 1, "1"), twice(2), Packet::PubRel(ack(2)), twice(3), Packet::PubRel(ack(3))] {
        world.send(press, packet);
    }
    world.send(ops, Packet::PubRec(ack(3)));
    world.send(press, twice(4));
    world.take(ops);
    (press, ops)
}

#[test]
fn what_is_not_due_takes_the_long_way() {
    let mut world = World::new();
    let (press, ops) = under_way(&mut world);
    let open = |conn: ConnId, packet: &Packet| world.passing(conn, packet).is_some();
    for packet in [Packet::PubAck(ack(1)), Packet::PubRec(ack(2)), Packet::PubComp(ack(3))] {
        assert!(open(ops, &packet), "{packet:?}");
        assert!(!open(press, &packet), "{packet:?}");
    }
    for packet in [
        Packet::PubAck(ack(2)),
        Packet::PubAck(ack(3)),
        Packet::PubAck(ack(9)),
        Packet::PubRec(ack(1)),
        Packet::PubRec(ack(3)),
        Packet::PubRec(failed(2, ReasonCode::QuotaExceeded)),
        Packet::PubComp(ack(1)),
        Packet::PubComp(ack(2)),
        Packet::PubAck(failed(1, ReasonCode::UnspecifiedError)),
        Packet::PubRel(ack(4)),
    ] {
        assert!(!open(ops, &packet), "{packet:?}");
    }
    assert!(open(press, &Packet::PubRel(ack(4))) && open(press, &twice(5)));
    for packet in [
        Packet::PubRel(ack(3)),
        Packet::PubRel(failed(4, ReasonCode::PacketIdentifierNotFound)),
        twice(4),
        Packet::Publish(Box::new(Publish { dup: true, packet_id: Some(pid(5)), ..publish("a", "x", Q2) })),
        Packet::PingReq,
    ] {
        assert!(!open(press, &packet), "{packet:?}");
    }
}

/// What closes the way of PUBREL, by name.
const CLOSES_RELEASE: [(&str, Step); 9] = [
    ("the right of the publisher ends", |world, _, _| world.set_rules(vec![allow("ops", &["a"], &["a"])])),
    ("the right of the receiver ends", |world, _, _| world.set_rules(vec![allow("press", &["a"], &["a"])])),
    ("a second receiver", |world, _, _| {
        let second = world.client("second");
        world.subscribe(second, "a", Q0);
    }),
    ("a share group", |world, _, _| {
        let second = world.client("second");
        world.subscribe(second, "$share/g/a", Q0);
    }),
    ("the receiver leaves", |world, _, ops| world.lose(ops)),
    ("the publisher is revoked", |world, _, _| world.revoke("press")),
    ("the receiver is revoked", |world, _, _| world.revoke("ops")),
    ("the disk fails", |world, _, _| world.broker.handle_store_trouble(StoreTrouble::Failing)),
    ("the receiver does not read", |world, press, _| {
        world.flushing = false;
        let large = "x".repeat(world.config.unsent_bytes_soft);
        world.publish(press, "a", &large, Q0);
        world.publish(press, "a", &large, Q0);
    }),
];

#[test]
fn whatever_came_between_publish_and_pubrel_closes_it() {
    for (name, close) in CLOSES_RELEASE {
        let mut world = World::new();
        let (press, ops) = under_way(&mut world);
        assert!(world.passing(press, &Packet::PubRel(ack(4))).is_some(), "{name}");
        close(&mut world, press, ops);
        assert!(world.passing(press, &Packet::PubRel(ack(4))).is_none(), "{name}");
    }
}

#[test]
fn what_has_to_be_stored_or_sent_behind_it_takes_the_long_way() {
    let none = Config::default();
    let stored = Config { durability: Durability::ProcessCrash, ..none.clone() };
    let one = |connect| Connect { receive_max: NonZeroU16::new(2), ..connect };
    // PUBLISH, PUBREL, PUBREC, PUBCOMP, PUBACK.
    for (config, press, ops, expected) in [
        (&none, durable("press"), durable("ops"), [true; 5]),
        (&stored, v5("press"), v5("ops"), [true; 5]),
        (&stored, durable("press"), v5("ops"), [false, false, true, true, true]),
        (&stored, v5("press"), durable("ops"), [true, false, false, true, true]),
        // Another message waits for its turn.
        (&none, v5("press"), one(v5("ops")), [true, false, true, false, false]),
    ] {
        let mut world = World::of(config.clone(), open_house());
        let connected = format!("{press:?} {ops:?}");
        let (press, ops) = (world.open("press", press), world.open("ops", ops));
        world.subscribe(ops, "a", Q2);
        for packet in [numbered(Q1, 1, "1"), twice(2), Packet::PubRel(ack(2)), numbered(Q1, 3, "3"), twice(4)]
        {
            world.send(press, packet);
        }
        let mut open = vec![world.passing(press, &twice(5)).is_some()];
        open.push(world.passing(press, &Packet::PubRel(ack(4))).is_some());
        open.push(world.passing(ops, &Packet::PubRec(ack(2))).is_some());
        world.send(ops, Packet::PubRec(ack(2)));
        open.push(world.passing(ops, &Packet::PubComp(ack(2))).is_some());
        open.push(world.passing(ops, &Packet::PubAck(ack(1))).is_some());
        assert_eq!(open, expected, "{connected}");
    }
}

#[test]
fn a_rule_that_has_the_broker_store_is_not_passed_by() {
    let rule = Rule { durability: Some(Durability::ProcessCrash), ..allow("*", &["a"], &["a"]) };
    let mut world = World::of(Config::default(), vec![rule]);
    let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q2);
    world.publish(press, "a", "0", Q0);
    assert!(world.passing(press, &twice(1)).is_none());
}

#[test]
fn who_may_have_no_more_open_is_told_so() {
    let config = Config { receive_max: NonZeroU16::new(3).unwrap(), ..Config::default() };
    for (connect, expected) in [(v5("press"), false), (v311("press"), true)] {
        let mut world = World::of(config.clone(), open_house());
        let (press, ops) = (world.open("press", connect), world.client("ops"));
        world.subscribe(ops, "a", Q2);
        for id in 1..=3 {
            assert!(id == 1 || world.passing(press, &twice(id)).is_some());
            world.send(press, twice(id));
        }
        assert_eq!(world.passing(press, &twice(4)).is_some(), expected);
    }
}
