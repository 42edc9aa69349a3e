//! Flow towards clients: windows, acknowledgements, packet identifiers.

use crate::world::*;
use broker_core::ConnId;
use mqtt_proto::{Connect, Packet, QoS, ReasonCode};
use std::num::NonZeroU16;

/// A subscriber to `a` with this Receive Maximum, and a publisher.
fn world(receive_max: u16, qos: QoS) -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(receive_max), ..durable("ops") });
    world.subscribe(ops, "a", qos);
    let press = world.client("press");
    (world, press, ops)
}

// [MQTT-3.3.4-7], [MQTT-4.9.0-1], [MQTT-4.9.0-2], [MQTT-4.9.0-3]
#[test]
fn no_more_than_receive_maximum_is_in_flight_and_qos0_passes_by() {
    let (mut world, press, ops) = world(2, Q1);
    for payload in ["1", "2", "3", "4"] {
        world.publish(press, "a", payload, Q1);
    }
    world.expect(ops, ["PUBLISH a \"1\" q1 #1", "PUBLISH a \"2\" q1 #2"]);
    world.publish(press, "a", "0", Q0);
    world.expect(ops, ["PUBLISH a \"0\" q0"]);
    let session = world.session("ops", "ops").unwrap();
    assert_eq!((session.inflight, session.queued), (2, 2));
    world.send(ops, Packet::PubAck(ack(2)));
    world.expect(ops, ["PUBLISH a \"3\" q1 #32768"]);
    world.send(ops, Packet::PubAck(ack(1)));
    world.expect(ops, ["PUBLISH a \"4\" q1 #32769"]);
}

// [MQTT-4.3.3-1] to [MQTT-4.3.3-7]
#[test]
fn a_qos2_message_holds_its_place_until_pubcomp() {
    let (mut world, press, ops) = world(1, Q2);
    for payload in ["1", "2"] {
        world.publish(press, "a", payload, Q2);
        world.send(press, Packet::PubRel(ack(1)));
    }
    world.send(ops, Packet::PubRec(ack(1)));
    world.expect(ops, ["PUBLISH a \"1\" q2 #1", "PUBREL 1 00"]);
    world.send(ops, Packet::PubComp(ack(1)));
    world.expect(ops, ["PUBLISH a \"2\" q2 #2"]);
}

// A client that acknowledges twice has not seen the next message yet: that is nobody's acknowledgement, and the window stays.
#[test]
fn what_is_acknowledged_twice_does_not_acknowledge_the_next_message() {
    for qos in [Q1, Q2] {
        for is_own in [false, true] {
            let (mut world, press, ops) = world(1, qos);
            let send = |world: &mut World, payload: &str| {
                world.publish(press, "a", payload, qos);
                world.send(press, Packet::PubRel(ack(1)));
            };
            let finish = |world: &mut World, id| {
                if qos == Q1 {
                    world.send(ops, Packet::PubAck(ack(id)));
                } else {
                    world.send(ops, Packet::PubRec(ack(id)));
                    world.send(ops, Packet::PubComp(ack(id)));
                }
            };
            send(&mut world, "1");
            finish(&mut world, 1);
            for n in 2..100 {
                send(&mut world, &n.to_string());
                let newest = format!("PUBLISH a \"{n}\" q{} #{n}", qos as u8);
                assert_eq!(world.take(ops).last(), Some(&newest));
                finish(&mut world, n - 1);
                assert_eq!(world.session("ops", "ops").unwrap().inflight, 1);
                finish(&mut world, n);
                assert_eq!(world.session("ops", "ops").unwrap().inflight, 0);
            }
            // Its twin: the next one's own.
            send(&mut world, "last");
            world.take(ops);
            finish(&mut world, if is_own { 100 } else { 99 });
            send(&mut world, "waits for that");
            let is_sent = world.take(ops).iter().any(|text| text.contains("waits for that"));
            assert_eq!(is_sent, is_own);
        }
    }
}

#[test]
fn a_second_pubrec_is_answered_again() {
    let (mut world, press, ops) = world(1, Q2);
    world.publish(press, "a", "1", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.send(ops, Packet::PubRec(ack(1)));
    world.send(ops, Packet::PubRec(ack(1)));
    world.expect(ops, ["PUBLISH a \"1\" q2 #1", "PUBREL 1 00", "PUBREL 1 00"]);
}

// [MQTT-4.3.3-4], [MQTT-4.8.2-6]: an error ends the exchange, and nothing is sent again.
#[test]
fn an_error_in_puback_or_pubrec_ends_the_exchange() {
    for qos in [Q1, Q2] {
        let (mut world, press, ops) = world(1, qos);
        for payload in ["1", "2"] {
            world.publish(press, "a", payload, Q2);
            world.send(press, Packet::PubRel(ack(1)));
        }
        let failure = failed(1, ReasonCode::UnspecifiedError);
        world.send(ops, if qos == Q1 { Packet::PubAck(failure) } else { Packet::PubRec(failure) });
        let waited = if qos == Q1 { "PUBLISH a \"2\" q1 #32768" } else { "PUBLISH a \"2\" q2 #2" };
        let expected = [format!("PUBLISH a \"1\" q{} #1", qos as u8), waited.to_owned()];
        assert_eq!(world.take(ops), expected);
        assert_eq!(world.session("ops", "ops").unwrap().inflight, 1);
    }
}

#[test]
fn an_acknowledgement_of_an_unknown_identifier_does_no_harm() {
    let (mut world, _, ops) = world(1, Q2);
    world.send(ops, Packet::PubAck(ack(7)));
    world.send(ops, Packet::PubComp(ack(7)));
    world.send(ops, Packet::PubRec(failed(7, ReasonCode::UnspecifiedError)));
    world.quiet(ops);
    world.send(ops, Packet::PubRec(ack(7)));
    world.expect(ops, ["PUBREL 7 92"]);
    world.send(ops, Packet::PubRel(ack(7)));
    world.expect(ops, ["PUBCOMP 7 92"]);
}

#[test]
fn an_unsolicited_acknowledgement_widens_no_window() {
    let (mut world, press, ops) = world(1, Q1);
    for id in 1..10 {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    for payload in ["1", "2", "3"] {
        world.publish(press, "a", payload, Q1);
    }
    world.expect(ops, ["PUBLISH a \"1\" q1 #1"]);
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    for qos in [Q1, Q2] {
        let wrong: &[fn(mqtt_proto::Ack) -> Packet] =
            if qos == Q1 { &[Packet::PubRec, Packet::PubComp] } else { &[Packet::PubAck, Packet::PubComp] };
        for packet in wrong {
            let (mut world, press, ops) = world(1, qos);
            world.publish(press, "a", "1", Q2);
            world.send(press, Packet::PubRel(ack(1)));
            world.take(ops);
            world.send(ops, packet(ack(1)));
            world.expect(ops, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
        }
    }
}

// [MQTT-4.4.0-1], [MQTT-4.6.0-1], [MQTT-3.3.1-1]
#[test]
fn what_was_not_acknowledged_is_sent_again_in_order_with_the_same_identifiers() {
    let (mut world, press, ops) = world(10, Q2);
    for (payload, qos) in [("1", Q2), ("2", Q1), ("3", Q2), ("4", Q1)] {
        world.publish(press, "a", payload, qos);
        world.send(press, Packet::PubRel(ack(1)));
    }
    world.send(ops, Packet::PubAck(ack(2)));
    world.send(ops, Packet::PubRec(ack(3)));
    world.lose(ops);
    world.publish(press, "a", "5", Q1);
    world.take(ops);
    let ops = world.connect("ops", durable("ops"));
    world.expect(
        ops,
        [
            "CONNACK 00 present",
            "PUBLISH a \"1\" q2 #1 dup",
            "PUBREL 3 00",
            "PUBLISH a \"4\" q1 #4 dup",
            "PUBLISH a \"5\" q1 #32768",
        ],
    );
    // [MQTT-4.4.0-1]: and at no other time.
    world.pass_secs(3000);
    world.quiet(ops);
}

// The next connection's Receive Maximum holds for what is sent again too.
#[test]
fn a_smaller_receive_maximum_on_resume_is_respected() {
    let (mut world, press, ops) = world(3, Q1);
    for payload in ["1", "2", "3"] {
        world.publish(press, "a", payload, Q1);
    }
    world.lose(ops);
    let ops = world.connect("ops", Connect { receive_max: NonZeroU16::new(1), ..durable("ops") });
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"1\" q1 #1 dup"]);
    world.publish(press, "a", "4", Q1);
    world.quiet(ops);
    for (id, seen) in [(1, "PUBLISH a \"2\" q1 #2 dup"), (2, "PUBLISH a \"3\" q1 #3 dup")] {
        world.send(ops, Packet::PubAck(ack(id)));
        world.expect(ops, [seen]);
    }
    world.send(ops, Packet::PubAck(ack(3)));
    assert_eq!(world.take(ops).len(), 1);
}

// PUBREL sent again takes nothing from the quota, and its PUBCOMP gives nothing to it.
#[test]
fn completing_an_old_exchange_widens_no_window() {
    let (mut world, press, ops) = world(1, Q2);
    world.publish(press, "a", "1", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.send(ops, Packet::PubRec(ack(1)));
    world.lose(ops);
    let ops = world.connect("ops", Connect { receive_max: NonZeroU16::new(1), ..durable("ops") });
    for payload in ["2", "3"] {
        world.publish(press, "a", payload, Q1);
    }
    world.expect(ops, ["CONNACK 00 present", "PUBREL 1 00", "PUBLISH a \"2\" q1 #2"]);
    world.send(ops, Packet::PubComp(ack(1)));
    world.quiet(ops);
    world.send(ops, Packet::PubAck(ack(2)));
    assert_eq!(world.take(ops).len(), 1);
}

// [MQTT-3.1.2-24], [MQTT-3.1.2-25]
#[test]
fn a_message_larger_than_the_client_takes_is_dropped_as_if_it_had_been_delivered() {
    let mut world = World::new();
    let press = world.client("press");
    // Fixed header 2, topic 3, identifier 2, property length 1.
    let connect = Connect { packet_size_max: Some(18), receive_max: NonZeroU16::new(1), ..v5("ops") };
    let ops = world.open("ops", connect);
    world.subscribe(ops, "a", Q1);
    world.publish(press, "a", &"x".repeat(11), Q1);
    world.quiet(ops);
    assert_eq!(world.broker.metrics().dropped.too_large, 1);
    world.publish(press, "a", &"x".repeat(10), Q1);
    world.expect(ops, ["PUBLISH a \"xxxxxxxxxx\" q1 #1"]);
    world.publish(press, "a", &"x".repeat(11), Q0);
    world.expect(ops, ["PUBLISH a \"xxxxxxxxxxx\" q0"]);
}

// [MQTT-3.1.2-26], [MQTT-3.1.2-27]
#[test]
fn topics_get_aliases_up_to_what_the_client_allows() {
    let mut world = World::new();
    let press = world.client("press");
    let ops = world.open("ops", Connect { topic_alias_max: 2, ..v5("ops") });
    world.subscribe(ops, "#", Q0);
    for topic in ["a", "b", "c", "b", "a", "c"] {
        world.publish(press, topic, "", Q0);
    }
    world.expect(
        ops,
        [
            "PUBLISH a \"\" q0 alias=1",
            "PUBLISH b \"\" q0 alias=2",
            "PUBLISH c \"\" q0",
            "PUBLISH b \"\" q0 alias=2 no-topic",
            "PUBLISH a \"\" q0 alias=1 no-topic",
            "PUBLISH c \"\" q0",
        ],
    );
}

#[test]
fn aliases_start_anew_with_each_connection() {
    let mut world = World::new();
    let press = world.client("press");
    let connect = Connect { topic_alias_max: 2, ..durable("ops") };
    let ops = world.open("ops", connect.clone());
    world.subscribe(ops, "#", Q1);
    world.publish(press, "a", "", Q1);
    world.lose(ops);
    let ops = world.connect("ops", connect);
    world.publish(press, "a", "", Q0);
    world.expect(
        ops,
        ["CONNACK 00 present", "PUBLISH a \"\" q1 #1 dup alias=1", "PUBLISH a \"\" q0 alias=1 no-topic"],
    );
}

// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[test]
fn a_message_that_expired_while_it_waited_is_not_sent() {
    let (mut world, press, ops) = world(1, Q1);
    world.publish(press, "a", "first", Q1);
    for (payload, secs) in [("short", 10), ("long", 100)] {
        world.send(press, Packet::Publish(Box::new(expiring("a", payload, Q1, secs))));
    }
    world.pass_secs(30);
    world.take(ops);
    world.send(ops, Packet::PubAck(ack(1)));
    world.expect(ops, ["PUBLISH a \"long\" q1 #32769 expiry=70"]);
    assert_eq!(world.broker.metrics().dropped.expired, 1);
}

// The interval runs from PUBLISH, not from PUBREL.
#[test]
fn a_qos2_message_that_expired_before_pubrel_is_not_delivered() {
    let (mut world, press, ops) = world(1, Q1);
    world.send(press, Packet::Publish(Box::new(expiring("a", "x", Q2, 10))));
    world.pass_secs(10);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00"]);
    world.quiet(ops);
}

// [MQTT-3.1.2-25]: left out is what cannot be sent within the maximum, not what is too long with an alias.
#[test]
fn a_message_that_fits_without_an_alias_is_sent_without() {
    let mut world = World::new();
    let payload = "x".repeat(40);
    let plain = format!("PUBLISH topic \"{payload}\" q0");
    for (max, expected) in [(49, vec![]), (50, vec![plain.clone()]), (53, vec![format!("{plain} alias=1")])] {
        let ops = world.open("ops", Connect { topic_alias_max: 2, packet_size_max: Some(max), ..v5("ops") });
        world.subscribe(ops, "topic", Q0);
        let press = world.client("press");
        world.publish(press, "topic", &payload, Q0);
        assert_eq!(world.take(ops), expected, "{max}");
        world.lose(ops);
    }
}

// [MQTT-4.6.0-1], where a later message has the lower identifier; also over a restart.
#[test]
fn what_is_in_flight_is_sent_again_in_the_order_of_sending() {
    for (qos, is_restarted) in [(Q1, false), (Q2, false), (Q2, true)] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
        world.subscribe(ops, "a", qos);
        let send = |world: &mut World, payload| {
            world.publish(press, "a", payload, qos);
            world.send(press, Packet::PubRel(ack(1)));
        };
        send(&mut world, "1");
        send(&mut world, "2");
        if qos == Q1 {
            world.send(ops, Packet::PubAck(ack(1)));
        } else {
            world.send(ops, Packet::PubRec(ack(1)));
            world.send(ops, Packet::PubComp(ack(1)));
        }
        send(&mut world, "3");
        let last = format!("PUBLISH a \"3\" q{} #3", qos as u8);
        assert_eq!(world.take(ops).last(), Some(&last));
        if is_restarted {
            world.crash(1);
        } else {
            world.lose(ops);
        }
        let ops = world.connect("ops", durable("c"));
        let again = [("2", 2), ("3", 3)];
        let again = again.map(|(text, id)| format!("PUBLISH a {text:?} q{} #{id} dup", qos as u8));
        assert_eq!(world.take(ops)[1..], again);
    }
}
