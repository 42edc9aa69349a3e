//! Retained messages that a subscription is still owed when the broker ends.

use crate::world::*;
use broker_core::{Change, Config, ConnId, Durability, Record, RecordKind, StoreTrouble};
use midge_policy::Rule;
use mqtt_proto::*;
use std::num::NonZeroU16;

/// CONNECT that keeps its session and takes so many messages before it acknowledges one.
fn slow(client_id: &str, window: u16) -> Connect {
    Connect { receive_max: NonZeroU16::new(window), ..durable(client_id) }
}

/// Retains `a/0`, `a/1` and so on.
fn retain(world: &mut World, count: usize, qos: QoS) -> ConnId {
    let press = world.client("press");
    for n in 0..count {
        let message = publish(&format!("a/{n}"), "x", qos);
        world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..message })));
        world.send(press, Packet::PubRel(ack(1)));
    }
    world.take(press);
    press
}

fn sent(n: usize, qos: QoS, id: u16, dup: &str) -> String {
    format!("PUBLISH a/{n} \"x\" q{} #{id} retain{dup}", qos as u8)
}

fn acknowledge(world: &mut World, conn: ConnId, ids: &[u16]) {
    for id in ids {
        world.send(conn, Packet::PubAck(ack(*id)));
    }
}

fn complete(world: &mut World, conn: ConnId, id: u16) {
    world.send(conn, Packet::PubRec(ack(id)));
    world.send(conn, Packet::PubComp(ack(id)));
}

/// What is on disk of the messages that each subscription is owed.
fn owed(world: &World) -> Vec<Option<Option<String>>> {
    let of = |(_, record)| match record {
        Record::Subscription(record) => {
            Some(record.owed.map(|owed| owed.after.map(|topic| topic.as_str().to_owned())))
        }
        _ => None,
    };
    world.disk.read().into_iter().filter_map(of).collect()
}

#[test]
fn the_rest_comes_after_a_kill_and_then_no_more() {
    let mut world = World::new();
    retain(&mut world, 5, Q1);
    let ops = world.open("ops", slow("ops", 2));
    world.subscribe(ops, "a/+", Q1);
    world.expect(ops, [sent(0, Q1, 1, ""), sent(1, Q1, 2, "")].each_ref().map(|text| &**text));
    assert_eq!(owed(&world), [Some(Some("a/1".to_owned()))]);

    world.crash(1);
    let ops = world.connect("ops", slow("ops", 2));
    acknowledge(&mut world, ops, &[1, 2, 3, 4, 5]);
    let seen = world.take(ops);
    let again = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)].map(|(n, id)| sent(n, Q1, id, " dup"));
    assert_eq!((&*seen[0], &seen[1..]), ("CONNACK 00 present", &again[..]));
    assert_eq!((owed(&world), world.disk.kinds()), (vec![None], "summmmmrrrrr".to_owned()));

    world.crash(1);
    let ops = world.connect("ops", slow("ops", 2));
    world.expect(ops, ["CONNACK 00 present"]);
}

// [MQTT-3.3.1-1]: nothing of the rest was sent before.
#[test]
fn the_rest_is_no_duplicate_where_its_client_had_left_or_the_stop_was_planned() {
    for is_planned in [true, false] {
        let mut world = World::new();
        retain(&mut world, 2, Q1);
        let ops = world.open("ops", slow("ops", 1));
        world.subscribe(ops, "a/+", Q1);
        world.take(ops);
        if is_planned {
            world.stop(1);
        } else {
            world.lose(ops);
            world.crash(1);
        }
        let ops = world.connect("ops", slow("ops", 1));
        acknowledge(&mut world, ops, &[1]);
        let expected = ["CONNACK 00 present", &sent(0, Q1, 1, " dup"), &sent(1, Q1, 2, "")];
        world.expect(ops, expected);
    }
}

// [MQTT-3.3.1-1]: however often the broker ends before its client comes again; what is retained since is new.
#[test]
fn what_may_have_been_sent_stays_a_duplicate_over_several_ends() {
    let mut world = World::new();
    retain(&mut world, 2, Q1);
    let ops = world.open("ops", slow("ops", 1));
    world.subscribe(ops, "a/+", Q1);
    world.crash(1);
    world.crash(1);
    world.stop(1);
    let press = world.client("press");
    world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..publish("a/9", "new", Q1) })));
    let ops = world.connect("ops", slow("ops", 9));
    let expected = [
        "CONNACK 00 present",
        &sent(0, Q1, 1, " dup"),
        "PUBLISH a/9 \"new\" q1 #32768",
        &sent(1, Q1, 2, " dup"),
    ];
    world.expect(ops, expected);
}

// [MQTT-4.3.3-2]
#[test]
fn at_qos2_each_comes_once_over_any_number_of_kills() {
    let mut world = World::new();
    retain(&mut world, 3, Q2);
    let ops = world.open("ops", slow("ops", 1));
    world.subscribe(ops, "#", Q2);
    world.expect(ops, [&*sent(0, Q2, 1, "")]);
    complete(&mut world, ops, 1);
    world.expect(ops, ["PUBREL 1 00", &sent(1, Q2, 2, "")]);
    for (resumed, id, next) in [(1, 2, Some(sent(2, Q2, 3, ""))), (2, 3, None)] {
        world.crash(1);
        let ops = world.connect("ops", slow("ops", 1));
        world.expect(ops, ["CONNACK 00 present", &sent(resumed, Q2, id, " dup")]);
        complete(&mut world, ops, id);
        let expected: Vec<_> = [format!("PUBREL {id} 00")].into_iter().chain(next).collect();
        assert_eq!(world.take(ops), expected);
    }
    world.crash(1);
    let ops = world.connect("ops", slow("ops", 1));
    world.expect(ops, ["CONNACK 00 present"]);
}

// What nobody acknowledges has no window: a client that does not read is what keeps it waiting.
#[test]
fn at_qos0_the_rest_comes_to_who_had_not_read_so_far() {
    let mut world = World::limited(|config| config.unsent_bytes_soft = 20);
    retain(&mut world, 9, Q0);
    world.flushing = false;
    let ops = world.open("ops", durable("ops"));
    world.flush(ops);
    world.subscribe(ops, "a/+", Q0);
    let mut seen = world.take(ops);
    assert!((1..9).contains(&seen.len()), "{seen:?}");
    world.crash(1);
    world.flushing = true;
    let ops = world.connect("ops", durable("ops"));
    seen.extend(world.take(ops).into_iter().skip(1));
    let all: Vec<_> = (0..9).map(|n| format!("PUBLISH a/{n} \"x\" q0 retain")).collect();
    assert_eq!(seen, all);
}

// F7, F21
#[test]
fn the_rest_comes_only_to_who_may_receive_it_by_then() {
    let reader = |id: &str, denied: &[&str]| Rule {
        deny_receive: denied.iter().map(|topic| (*topic).to_owned()).collect(),
        ..allow(id, &[], &["a/#"])
    };
    let press = || allow("press", &["#"], &[]);
    let ids = ["ops", "boss", "temp"];
    let mut world = World::ruled(ids.map(|id| reader(id, &[])).into_iter().chain([press()]).collect());
    retain(&mut world, 3, Q1);
    for id in ids {
        let conn = world.open(id, slow(id, 1));
        world.subscribe(conn, "a/+", Q1);
        world.expect(conn, [&*sent(0, Q1, 1, "")]);
    }
    world.change_rules_while_down(vec![press(), reader("ops", &["a/1"]), reader("boss", &[])]);
    world.crash(1);
    for (id, topics) in [("ops", vec![0, 2]), ("boss", vec![0, 1, 2]), ("temp", vec![])] {
        let conn = world.connect(id, slow(id, 1));
        acknowledge(&mut world, conn, &[1, 2, 3]);
        let expected = topics.into_iter().zip(1..).map(|(n, id)| sent(n, Q1, id, " dup"));
        let expected: Vec<_> = ["CONNACK 00 present".to_owned()].into_iter().chain(expected).collect();
        assert_eq!(world.take(conn), expected, "{id}");
    }
}

// F6
#[test]
fn the_rest_comes_only_from_who_may_publish_it_by_then() {
    for publishes in [&["a/0", "a/2"][..], &["a/#"]] {
        let ops = || allow("ops", &[], &["a/#"]);
        let mut world = World::ruled(vec![allow("press", &["a/#"], &[]), ops()]);
        retain(&mut world, 3, Q1);
        let conn = world.open("ops", slow("ops", 1));
        world.subscribe(conn, "a/+", Q1);
        world.change_rules_while_down(vec![allow("press", publishes, &[]), ops()]);
        world.crash(1);
        let conn = world.connect("ops", slow("ops", 1));
        acknowledge(&mut world, conn, &[1, 2, 3]);
        let is_there = world.take(conn).contains(&sent(1, Q1, 2, " dup"));
        assert_eq!(is_there, publishes.len() == 1);
    }
}

#[test]
fn what_is_unsubscribed_or_ended_is_not_owed() {
    let mut world = World::new();
    retain(&mut world, 2, Q1);
    let ops = world.open("ops", slow("ops", 1));
    world.subscribe(ops, "a/+", Q1);
    world.send(ops, unsubscribe(["a/+"]));
    acknowledge(&mut world, ops, &[1]);
    world.crash(1);
    let ops = world.connect("ops", slow("ops", 1));
    world.expect(ops, ["CONNACK 00 present"]);
    world.subscribe(ops, "a/+", Q1);
    world.open("ops", v5("ops"));
    assert_eq!(world.disk.kinds(), "mmrr");
}

// [MQTT-3.3.1-9], [MQTT-3.3.1-11]: whoever asks for it again is owed all of it again, at its own wish also at QoS 2.
#[test]
fn a_subscription_made_again_is_owed_what_it_asks_for() {
    for (handling, asks) in [(RetainHandling::DoNotSend, false), (RetainHandling::Send, true)] {
        let mut world = World::new();
        retain(&mut world, 2, Q2);
        let ops = world.open("ops", slow("ops", 1));
        world.subscribe(ops, "a/+", Q2);
        complete(&mut world, ops, 1);
        complete(&mut world, ops, 2);
        world.send(ops, subscribe([Subscription { retain_handling: handling, ..sub("a/+", Q2) }]));
        assert_eq!(owed(&world), [asks.then(|| Some("a/0".to_owned()))]);
        world.crash(1);
        let ops = world.connect("ops", slow("ops", 1));
        if asks {
            world.expect(ops, ["CONNACK 00 present", &sent(0, Q2, 3, " dup")]);
            complete(&mut world, ops, 3);
            world.expect(ops, ["PUBREL 3 00", &sent(1, Q2, 4, "")]);
        } else {
            world.expect(ops, ["CONNACK 00 present"]);
        }
    }
}

// A client that subscribes at every connection has what it asks for while the disk takes nothing.
#[test]
fn who_subscribes_again_is_answered_while_the_disk_fails() {
    let mut world = World::new();
    retain(&mut world, 1, Q0);
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a/+", Q1);
    world.take(ops);
    world.disk.is_quick = false;
    world.broker.handle_store_trouble(StoreTrouble::Failing);
    world.send(ops, subscribe([sub("a/+", Q1)]));
    world.expect(ops, ["SUBACK 77 [01]", "PUBLISH a/0 \"x\" q0 retain"]);
    world.send(ops, subscribe([sub("a/0", Q1)]));
    world.expect(ops, ["SUBACK 77 [97]"]);
}

/// How subscriptions were recorded since all was stored, and what each time was waited for.
fn recorded(world: &mut World) -> Vec<(Durability, bool)> {
    let mut found = Vec::new();
    while !world.disk.pending.is_empty() {
        for (level, change) in world.disk.pending.iter().flat_map(|batch| &batch.changes) {
            if let Change::Replace(key, Record::Subscription(record))
            | Change::Create(key, Record::Subscription(record)) = change
                && key.kind == RecordKind::Subscription
            {
                found.push((*level, record.owed.is_some()));
            }
        }
        world.store();
    }
    found
}

#[test]
fn a_subscription_is_recorded_once_and_once_more_where_something_is_retained() {
    let (awaited, not) = (Durability::ProcessCrash, Durability::None);
    let mut world = World::new();
    retain(&mut world, 5, Q1);
    let ops = world.open("ops", durable("ops"));
    let brief = world.open("brief", v5("brief"));
    world.disk.is_quick = false;
    for (conn, filter, expected) in [
        (ops, "b/+", vec![(awaited, false)]),
        (ops, "a/+", vec![(awaited, true), (not, false)]),
        (ops, "$share/g/a/+", vec![(awaited, false)]),
        (brief, "a/+", vec![]),
    ] {
        world.send(conn, subscribe([sub(filter, Q1)]));
        assert_eq!(recorded(&mut world), expected, "{filter}");
    }
    // Nothing of it is on the way of any other message.
    let press = world.client("press");
    world.publish(press, "a/7", "x", Q1);
    acknowledge(&mut world, ops, &[1, 2]);
    assert_eq!(recorded(&mut world), []);
}

// Where the broker stores nothing by itself, sessions are stored with the first message that has to be.
#[test]
fn what_is_owed_when_a_session_is_first_stored_is_stored_too() {
    let rule = |name: &str, topic: &str, durability| Rule {
        name: name.into(),
        id: "spiffe://plant/**".into(),
        publish: vec![topic.into()],
        subscribe: vec!["#".into()],
        durability,
        ..Rule::default()
    };
    let safe = Some(Durability::PowerLoss);
    let rules = vec![rule("plain", "a/#", None), rule("safe", "b", safe)];
    let mut world = World::of(Config { durability: Durability::None, ..Config::default() }, rules);
    let press = retain(&mut world, 3, Q1);
    let ops = world.open("ops", slow("ops", 1));
    world.subscribe(ops, "#", Q1);
    acknowledge(&mut world, ops, &[1]);
    world.expect(ops, [sent(0, Q1, 1, ""), sent(1, Q1, 2, "")].each_ref().map(|text| &**text));
    world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..publish("b", "y", Q1) })));
    assert_eq!(owed(&world), [Some(Some("a/1".to_owned()))]);

    world.crash(1);
    let ops = world.connect("ops", slow("ops", 9));
    // As it came, and not once more as what is retained: the rest of the three was to end with the process.
    world.expect(ops, ["CONNACK 00 present", "PUBLISH b \"y\" q1 #32768 dup"]);
}
