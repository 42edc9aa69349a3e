//! QoS 2 exchanges whose message is not kept, and what a restart leaves of them.

use crate::world::*;
use broker_core::{ConnId, Durability};
use midge_policy::Rule;
use mqtt_proto::Packet;

/// A session of `ops` that is kept, and messages on `quick` that are not.
fn world() -> (World, ConnId, ConnId) {
    let quick =
        Rule { name: "quick".into(), durability: Some(Durability::None), ..allow("press", &["quick"], &[]) };
    let mut world =
        World::ruled(vec![quick, allow("press", &["kept"], &[]), allow("ops", &[], &["quick", "kept"])]);
    let ops = world.open("ops", durable("c"));
    for topic in ["quick", "kept"] {
        world.subscribe(ops, topic, Q2);
    }
    let press = world.client("press");
    (world, ops, press)
}

fn publish_released(world: &mut World, press: ConnId, topic: &str) {
    world.publish(press, topic, "x", Q2);
    world.send(press, Packet::PubRel(ack(1)));
}

// [MQTT-2.2.1-4], [MQTT-4.3.3-10]: a client that holds the identifier would take another message for a duplicate.
#[test]
fn the_identifier_of_a_message_that_is_not_kept_is_given_to_no_other_after_a_restart() {
    for is_held in [false, true] {
        let (mut world, ops, press) = world();
        publish_released(&mut world, press, "quick");
        world.expect(ops, ["PUBLISH quick \"x\" q2 #1"]);
        if is_held {
            world.send(ops, Packet::PubRec(ack(1)));
        }
        world.stop(1);
        let (ops, press) = (world.connect("ops", durable("c")), world.client("press"));
        let resumed =
            if is_held { vec!["CONNACK 00 present", "PUBREL 1 00"] } else { vec!["CONNACK 00 present"] };
        assert_eq!(world.take(ops), resumed);
        publish_released(&mut world, press, "kept");
        world.expect(ops, ["PUBLISH kept \"x\" q2 #2"]);
        // Once the client has finished it, it is free.
        if !is_held {
            world.send(ops, Packet::PubRec(ack(1)));
        }
        world.send(ops, Packet::PubComp(ack(1)));
        world.take(ops);
        publish_released(&mut world, press, "quick");
        world.expect(ops, ["PUBLISH quick \"x\" q2 #3"]);
        assert_eq!(world.session("ops", "c").unwrap().inflight, 2);
    }
}

#[test]
fn a_session_that_ends_with_its_connection_has_no_record_of_it() {
    let (mut world, _, press) = world();
    let brief = world.open("ops", v5("brief"));
    world.subscribe(brief, "quick", Q2);
    let before = world.disk.kinds();
    publish_released(&mut world, press, "quick");
    assert_eq!(world.disk.kinds().len(), before.len() + 1, "of the session that is kept alone");
}

// [MQTT-4.4.0-1]: what was withdrawn while the client held it is released after a crash as well.
#[test]
fn a_withdrawn_exchange_that_was_received_is_released_after_a_crash() {
    let rules = [allow("ops", &[], &["kept"]), allow("press", &["kept"], &[])];
    let mut world = World::ruled(rules.to_vec());
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "kept", Q2);
    let press = world.client("press");
    publish_released(&mut world, press, "kept");
    world.lose(ops);
    world.set_rules(vec![rules[1].clone()]);
    let ops = world.open("ops", durable("c"));
    world.take(ops);
    world.send(ops, Packet::PubRec(ack(1)));
    world.expect(ops, ["PUBREL 1 00"]);
    world.crash(1);
    let ops = world.connect("ops", durable("c"));
    world.expect(ops, ["CONNACK 00 present", "PUBREL 1 00"]);
}
