//! SUBSCRIBE, UNSUBSCRIBE and reviews that take long are done in portions: others have their turn in between, and
//! nobody notices anything else.

use crate::world::*;
use broker_core::{ConnId, Revocation};
use midge_policy::Rule;
use mqtt_proto::{Packet, Subscription};

/// So many rights that each filter is a portion of its own; none of `lost`.
fn rules(lost: &[usize]) -> Vec<Rule> {
    let short = (0..10).filter(|n| !lost.contains(n)).map(|n| n.to_string());
    let long = (0..150).map(|n| format!("{n}{}", "/x".repeat(120)));
    let topics: Vec<String> = short.chain(long).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    vec![allow("ops", &[], &topics), allow("press", &["#"], &["#"])]
}

fn filters() -> [Subscription; 5] {
    ["1", "2", "none", "3", "4"].map(|filter| sub(filter, Q1))
}

/// A client of many rights, another one, and the first portion of a SUBSCRIBE of the first.
fn begun() -> (World, ConnId, ConnId) {
    let mut world = World::ruled(rules(&[]));
    let (ops, press) = (world.open("ops", durable("ops")), world.client("press"));
    let until = world.broker.handle_packet(ops, subscribe(filters()), world.now);
    assert_eq!(until, Some(world.now.mono));
    world.drain();
    (world, ops, press)
}

/// Does the rest, and returns in how many portions.
fn finish(world: &mut World, conn: ConnId) -> usize {
    let mut count = 1;
    while world.broker.handle_rest(conn, world.now).is_some() {
        world.drain();
        count += 1;
    }
    world.drain();
    count
}

#[test]
fn others_are_served_between_the_filters_of_a_subscribe() {
    let (mut world, ops, press) = begun();
    world.quiet(ops);
    world.subscribe(press, "1", Q0);
    world.publish(press, "1", "x", Q0);
    world.expect(press, ["PUBLISH 1 \"x\" q0"]);
    // What is granted already counts; what has not had its turn does not.
    world.expect(ops, ["PUBLISH 1 \"x\" q0"]);
    world.publish(press, "4", "x", Q0);
    assert_eq!(finish(&mut world, ops), 4);
    world.expect(ops, ["SUBACK 77 [01 01 87 01 01]"]);
    world.publish(press, "4", "x", Q0);
    world.expect(ops, ["PUBLISH 4 \"x\" q0"]);
    assert_eq!(world.broker.handle_rest(ops, world.now), None);
    // The twin: with few rights it is one portion.
    let few = world.broker.handle_packet(press, subscribe(filters()), world.now);
    assert_eq!(few, None);
}

#[test]
fn what_a_client_sends_next_is_answered_next() {
    let (mut world, ops, _) = begun();
    world.send(ops, unsubscribe(["4", "5"]));
    world.expect(ops, ["SUBACK 77 [01 01 87 01 01]", "UNSUBACK 78 [00 11]"]);
    let (mut world, ops, _) = begun();
    world.send(ops, bye(mqtt_proto::ReasonCode::Success));
    assert_eq!(world.take(ops)[0], "SUBACK 77 [01 01 87 01 01]");
    let (mut world, ops, _) = begun();
    world.end_input(ops);
    world.expect(ops, ["SUBACK 77 [01 01 87 01 01]", "CLOSE Lost(Eof)"]);
}

#[test]
fn who_leaves_or_is_revoked_meanwhile_is_gone() {
    let (mut world, ops, _) = begun();
    world.lose(ops);
    assert_eq!(world.broker.handle_rest(ops, world.now), None);
    assert_eq!(world.session("ops", "ops").unwrap().subscriptions.len(), 1);
    let ops = world.connect("ops", durable("ops"));
    assert_eq!(world.broker.handle_rest(ops, world.now), None);
    world.expect(ops, ["CONNACK 00 present"]);
    let (mut world, ops, _) = begun();
    let revocation = Revocation { identities: vec![spiffe("ops")], reason: "gone".into() };
    world.broker.handle_revoked(&revocation, world.now);
    assert_eq!(world.broker.handle_rest(ops, world.now), None);
    world.drain();
    assert!(world.take(ops)[0].starts_with("DISCONNECT 87"));
}

#[test]
fn the_answer_waits_for_what_the_first_portion_has_stored() {
    let mut world = World::ruled(rules(&[]));
    let ops = world.open("ops", durable("ops"));
    world.disk.is_quick = false;
    let filters = ["1", "none"].map(|filter| sub(filter, Q1));
    world.broker.handle_packet(ops, subscribe(filters), world.now);
    world.drain();
    finish(&mut world, ops);
    world.quiet(ops);
    world.store();
    world.expect(ops, ["SUBACK 77 [01 87]"]);
}

#[test]
fn retained_messages_follow_the_answer() {
    let mut world = World::ruled(rules(&[]));
    let (ops, press) = (world.client("ops"), world.client("press"));
    world.send(press, retained("1", "x"));
    world.broker.handle_packet(ops, subscribe(filters()), world.now);
    world.drain();
    while world.broker.handle_backlog(8, world.now) {}
    world.quiet(ops);
    finish(&mut world, ops);
    world.expect(ops, ["SUBACK 77 [01 01 87 01 01]", "PUBLISH 1 \"x\" q0 retain"]);
}

#[test]
fn an_unsubscribe_of_very_many_filters_is_done_in_portions() {
    let mut world = World::new();
    let ops = world.client("ops");
    world.subscribe(ops, "last", Q0);
    let names: Vec<String> = (0..1_000).map(|n| n.to_string()).chain(["last".to_owned()]).collect();
    let packet = Packet::Unsubscribe(Box::new(mqtt_proto::Unsubscribe {
        packet_id: pid(9),
        user_properties: Vec::new(),
        filters: names.iter().map(|name| mqtt_proto::SharedFilter::new(name).unwrap()).collect(),
    }));
    assert!(world.broker.handle_packet(ops, packet, world.now).is_some());
    assert!((2..40).contains(&finish(&mut world, ops)));
    let seen = world.take(ops);
    assert!(seen[0].starts_with("UNSUBACK 9 [11 11") && seen[0].ends_with("11 00]"), "{seen:?}");
    assert_eq!(world.broker.metrics().subscriptions, 0);
}

#[test]
fn a_review_of_many_subscriptions_is_done_in_portions() {
    let (mut world, ops, press) = begun();
    finish(&mut world, ops);
    world.take(ops);
    world.settling = false;
    world.set_rules(rules(&[1, 4]));
    let count = |world: &World| world.broker.metrics().subscriptions;
    assert!(world.broker.handle_backlog(8, world.now));
    world.drain();
    assert_eq!(count(&world), 3, "one was looked at, and is not covered any more");
    // Neither what was looked at nor what was not lets anything through that is not allowed.
    for topic in ["1", "2", "3", "4"] {
        world.publish(press, topic, "x", Q0);
    }
    world.expect(ops, ["PUBLISH 2 \"x\" q0", "PUBLISH 3 \"x\" q0"]);
    // Another change begins it anew.
    world.set_rules(rules(&[2, 4]));
    let mut portions = 0;
    while world.broker.handle_backlog(8, world.now) {
        world.drain();
        portions += 1;
    }
    world.drain();
    assert!(portions >= 2, "{portions}");
    assert_eq!(count(&world), 1);
    world.publish(press, "3", "x", Q0);
    world.expect(ops, ["PUBLISH 3 \"x\" q0"]);
}
