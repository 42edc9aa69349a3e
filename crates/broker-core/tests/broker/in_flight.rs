//! What was in flight when the process ended, and under which packet identifiers it goes on ([MQTT-4.4.0-1]).

use crate::world::*;
use broker_core::Record;
use mqtt_proto::*;
use std::num::NonZeroU16;

// [MQTT-4.3.3-2], [MQTT-4.4.0-1]: whichever step of an exchange the broker had taken, it goes on from there.
#[test]
fn qos2_towards_a_client_goes_on_under_its_packet_identifier() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q2);
    let press = world.client("press");
    for payload in ["one", "two", "three"] {
        world.publish(press, "a", payload, Q2);
        world.send(press, Packet::PubRel(ack(1)));
    }
    world.expect(ops, ["PUBLISH a \"one\" q2 #1", "PUBLISH a \"two\" q2 #2", "PUBLISH a \"three\" q2 #3"]);
    world.send(ops, Packet::PubRec(ack(2)));
    world.send(ops, Packet::PubRec(ack(3)));
    world.send(ops, Packet::PubComp(ack(3)));

    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q2 #1 dup", "PUBREL 2 00"]);
    let press = world.client("press");
    world.publish(press, "a", "four", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(ops, ["PUBLISH a \"four\" q2 #3"]);
    world.send(ops, Packet::PubRec(ack(1)));
    world.send(ops, Packet::PubRec(ack(3)));
    for id in 1..=3 {
        world.send(ops, Packet::PubComp(ack(id)));
    }
    assert_eq!(world.disk.kinds(), "su");
}

// [MQTT-4.4.0-1], [MQTT-4.6.0-1]: at QoS 1 too, be it that a message was sent at once or waited before.
#[test]
fn what_was_in_flight_comes_again_in_order_under_its_identifiers() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q2);
    world.lose(ops);
    let press = world.client("press");
    let publish = |world: &mut World, payload: &str, qos| {
        world.publish(press, "a", payload, qos);
        world.send(press, Packet::PubRel(ack(1)));
    };
    publish(&mut world, "waited", Q1);
    publish(&mut world, "twice", Q2);
    let ops = world.connect("ops", durable("ops"));
    publish(&mut world, "acknowledged", Q1);
    publish(&mut world, "at once", Q1);
    let sent = |text: &str, dup: &str| format!("PUBLISH a \"{text}{dup}");
    let waited = |dup| sent("waited\" q1 #32768", dup);
    let (twice, at_once) = (|dup| sent("twice\" q2 #1", dup), |dup| sent("at once\" q1 #3", dup));
    let acknowledged = sent("acknowledged\" q1 #2", "");
    world.expect(ops, ["CONNACK 00 present", &waited(""), &twice(""), &acknowledged, &at_once("")]);
    world.send(ops, Packet::PubAck(ack(2)));
    for stops in [false, true, false] {
        if stops {
            world.stop(1)
        } else {
            world.crash(1)
        };
        let ops = world.connect("ops", durable("ops"));
        world.expect(ops, ["CONNACK 00 present", &waited(" dup"), &twice(" dup"), &at_once(" dup")]);
    }
    assert_eq!(world.session("ops", "ops").unwrap().inflight, 3);
    // What is new takes none of them, and what is acknowledged by one is what was sent under it.
    let press = world.client("press");
    let ops = world.connect("ops", durable("ops"));
    world.take(ops);
    world.publish(press, "a", "new", Q1);
    world.expect(ops, ["PUBLISH a \"new\" q1 #4"]);
    world.lose(ops);
    world.publish(press, "a", "newest", Q1);
    let ops = world.connect("ops", durable("ops"));
    let newest = "PUBLISH a \"newest\" q1 #32769";
    let again = [waited(" dup"), twice(" dup"), at_once(" dup"), sent("new\" q1 #4", " dup")];
    assert_eq!(world.take(ops)[1..], [&again[..], &[newest.to_owned()]].concat());
    for id in [32_768, 3, 4, 32_769] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    world.send(ops, Packet::PubRec(ack(1)));
    world.send(ops, Packet::PubComp(ack(1)));
    assert_eq!(world.disk.kinds(), "su");
}

// What was sent is not over because its time is: only what was not need not be sent any more ([MQTT-3.3.2-5]).
#[test]
fn what_was_in_flight_comes_again_even_if_it_has_expired() {
    let mut world = World::new();
    let one = Connect { receive_max: NonZeroU16::new(1), ..durable("ops") };
    let ops = world.open("ops", one.clone());
    world.subscribe(ops, "a", Q1);
    let press = world.client("press");
    for payload in ["sent", "waits"] {
        world.send(press, Packet::Publish(Box::new(expiring("a", payload, Q1, 60))));
    }
    world.expect(ops, ["PUBLISH a \"sent\" q1 #1 expiry=60"]);
    world.crash(100);
    let ops = world.connect("ops", one);
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"sent\" q1 #1 dup expiry=0"]);
    world.send(ops, Packet::PubAck(ack(1)));
    world.quiet(ops);
    assert_eq!(world.disk.kinds(), "su");
}

// Its client may have acknowledged it on the connection that broke.
#[test]
fn what_was_in_flight_can_be_acknowledged_before_it_comes_again() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.client("press");
    for payload in ["one", "two"] {
        world.publish(press, "a", payload, Q1);
    }
    world.crash(1);
    let one = Connect { receive_max: NonZeroU16::new(1), ..durable("ops") };
    let ops = world.connect("ops", one);
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #1 dup"]);
    world.send(ops, Packet::PubAck(ack(2)));
    world.send(ops, Packet::PubAck(ack(1)));
    world.quiet(ops);
    assert_eq!(world.disk.kinds(), "su");
}

// It may be in use when very many messages have waited, and an earlier version stored none: then another is on disk
// before it is used.
#[test]
fn an_identifier_that_a_record_does_not_say_is_stored_before_it_is_used() {
    for named in [None, Some(pid(32_768))] {
        let mut world = World::new();
        let ops = world.open("ops", durable("ops"));
        world.subscribe(ops, "a", Q1);
        world.lose(ops);
        let press = world.client("press");
        for payload in ["one", "two"] {
            world.publish(press, "a", payload, Q1);
        }
        world.disk.edit(|record| {
            if let Record::Queued(queued) = record {
                queued.packet_id = queued.packet_id.filter(|id| *id == pid(32_768)).or(named);
            }
        });
        world.crash(1);
        let ops = world.connect("ops", durable("ops"));
        world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768", "PUBLISH a \"two\" q1 #1"]);

        world.crash(1);
        world.disk.is_quick = false;
        let ops = world.connect("ops", durable("ops"));
        world.store();
        let again = ["PUBLISH a \"one\" q1 #32768 dup", "PUBLISH a \"two\" q1 #1 dup"];
        world.expect(ops, ["CONNACK 00 present", again[0], again[1]]);
    }
}

#[test]
fn what_is_sent_under_another_identifier_than_stored_waits_for_the_disk() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    for payload in ["one", "two"] {
        world.publish(press, "a", payload, Q1);
    }
    world.disk.edit(|record| {
        if let Record::Queued(queued) = record {
            queued.packet_id = Some(pid(32_768));
        }
    });
    world.crash(1);
    let ops = world.connect("ops", Connect { receive_max: NonZeroU16::new(1), ..durable("ops") });
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768"]);
    world.disk.is_quick = false;
    world.lose(ops);
    let ops = world.connect("ops", durable("ops"));
    world.store();
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768 dup"]);
    world.store();
    world.expect(ops, ["PUBLISH a \"two\" q1 #1"]);
}

// [MQTT-4.3.3-10]: the same identifier before PUBREL is the same message, also after a restart.
#[test]
fn qos2_from_a_client_is_held_over_a_restart() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.open("press", durable("press"));
    world.publish(press, "a", "one", Q2);
    world.expect(press, ["PUBREC 1 00"]);

    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    let press = world.connect("press", durable("press"));
    world.take(ops);
    world.publish(press, "a", "one", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["CONNACK 00 present", "PUBREC 1 00", "PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH a \"one\" q1 #1"]);
}

// [MQTT-3.3.1-1], [MQTT-4.3.2-2]: DUP says whether a message may have been sent before, over any number of restarts.
#[test]
fn only_what_may_have_been_sent_before_a_restart_is_a_duplicate() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.client("press");
    world.publish(press, "a", "sent", Q1);
    world.publish(press, "a", "sent and acknowledged", Q1);
    world.send(ops, Packet::PubAck(ack(2)));
    world.lose(ops);
    world.publish(press, "a", "waited", Q1);
    let sent = |dup: &str| format!("PUBLISH a \"sent\" q1 #1{dup}");
    let waited = |dup: &str| format!("PUBLISH a \"waited\" q1 #32768{dup}");

    world.crash(1);
    world.stop(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", &sent(" dup"), &waited("")]);

    // Connected at the crash: everything may have been sent.
    world.crash(1);
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", &sent(" dup"), &waited(" dup")]);
}

// A record that says that nothing was sent may not be the last on the disk when something is.
#[test]
fn nothing_that_waited_is_sent_before_it_is_stored_that_it_may_have_been() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.disk.is_quick = false;
    let ops = world.connect("ops", durable("ops"));
    world.quiet(ops);
    world.store();
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768"]);
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.store();
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768 dup"]);
}

// [MQTT-4.6.0-4], [MQTT-4.4.0-1]: a later exchange under a lower identifier follows those of earlier runs.
#[test]
fn pubrel_comes_again_in_its_order_over_several_restarts() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q2);
    let press = world.open("press", durable("press"));
    for payload in ["one", "two", "three"] {
        world.publish(press, "a", payload, Q2);
        world.send(press, Packet::PubRel(ack(1)));
    }
    for id in 1..=3 {
        world.send(ops, Packet::PubRec(ack(id)));
    }
    world.send(ops, Packet::PubComp(ack(1)));

    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBREL 2 00", "PUBREL 3 00"]);
    let press = world.open("press", v5("press"));
    // Identifiers are given in turn, and of these every other two have the places of those that are taken.
    world.deliveries();
    let mut id = 0;
    while id < 0x7FFD {
        world.publish(press, "a", "between", Q1);
        id = world.deliveries().pop().and_then(|(_, sent)| sent.packet_id).unwrap().get();
        world.send(ops, Packet::PubAck(ack(id)));
    }
    world.take(ops);
    world.publish(press, "a", "four", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.send(ops, Packet::PubRec(ack(1)));
    world.expect(ops, ["PUBLISH a \"four\" q2 #1", "PUBREL 1 00"]);

    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBREL 2 00", "PUBREL 3 00", "PUBREL 1 00"]);
}

// [MQTT-3.3.1-1]: what is remembered as sent is not taken for what comes later, though nothing of it is left.
#[test]
fn what_was_never_sent_is_no_duplicate_however_often_the_broker_restarts() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.client("press");
    for payload in ["one", "two", "three"] {
        world.publish(press, "a", payload, Q1);
    }
    world.lose(ops);
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    for id in 1..=3 {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    world.lose(ops);
    assert_eq!(world.disk.kinds(), "su");

    world.crash(1);
    let press = world.client("press");
    world.publish(press, "a", "four", Q1);
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    let seen = world.take(ops);
    assert!(seen[1].starts_with("PUBLISH a \"four\" q1") && !seen[1].contains("dup"), "{seen:?}");
}

// [MQTT-4.3.3-10], [MQTT-3.3.2-5]: the first message under an identifier counts, and its time runs on.
#[test]
fn what_waits_for_pubrel_comes_back_and_ages() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.open("press", durable("press"));
    for (id, payload, secs) in [(1, "short", 10), (2, "long", 100)] {
        let message = Publish { packet_id: Some(pid(id)), ..expiring("a", payload, Q2, secs) };
        world.send(press, Packet::Publish(Box::new(message)));
    }
    world.crash(20);
    let ops = world.connect("ops", durable("ops"));
    let press = world.connect("press", durable("press"));
    let again = Publish { packet_id: Some(pid(2)), ..publish("a", "another", Q2) };
    world.send(press, Packet::Publish(Box::new(again)));
    for id in 1..=2 {
        world.send(press, Packet::PubRel(ack(id)));
    }
    world.expect(press, ["CONNACK 00 present", "PUBREC 2 00", "PUBCOMP 1 00", "PUBCOMP 2 00"]);
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"long\" q1 #1 expiry=80"]);
}
