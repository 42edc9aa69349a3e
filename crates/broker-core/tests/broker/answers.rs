//! What the broker answers, in which order, and to whom it answers nothing.

use crate::world::*;
use mqtt_proto::{Connect, Packet, Publish, TopicName};
use std::num::NonZeroU16;

// [MQTT-3.1.3-5]
#[test]
fn client_ids_of_up_to_23_letters_and_digits_are_served() {
    let mut world = World::new();
    for id in ["0", "aZ9", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
        for connect in [v5(id), v311(id)] {
            let conn = world.open("press", connect);
            world.lose(conn);
        }
    }
}

// [MQTT-3.1.4-6]; 3.1.1 [MQTT-3.1.4-5]
#[test]
fn nothing_that_follows_a_refused_connect_is_processed() {
    for connect in [v5("long"), v311("long")] {
        let mut world = World::limited(|config| config.client_id_bytes_max = 3);
        let ops = world.client("ops");
        world.subscribe(ops, "a", Q0);
        let refused = world.connect("press", connect);
        assert_eq!(world.take(refused), ["CONNACK 85", "CLOSE Refused(ClientIdentifierNotValid)"]);
        world.publish(refused, "a", "x", Q1);
        world.send(refused, subscribe([sub("a", Q0)]));
        world.quiet(refused);
        world.quiet(ops);
        assert_eq!(world.broker.metrics().subscriptions, 1);
    }
}

// 3.1.1 [MQTT-3.1.4-2]
#[test]
fn a_311_client_that_connects_again_ends_its_older_connection() {
    let mut world = World::new();
    let first = world.open("press", v311("c"));
    let second = world.connect("press", v311("c"));
    world.expect(first, ["CLOSE TakenOver"]);
    world.expect(second, ["CONNACK 00"]);
}

// [MQTT-3.1.2-22]; 3.1.1 [MQTT-3.1.2-24]: any packet counts, not PINGREQ alone.
#[test]
fn any_packet_keeps_a_connection_alive() {
    for (connect, last) in
        [(v5("c"), &["DISCONNECT 8D", "CLOSE KeepAlive"][..]), (v311("c"), &["CLOSE KeepAlive"][..])]
    {
        let mut world = World::new();
        let conn = world.open("press", Connect { keep_alive_secs: 10, ..connect });
        for packet in [Packet::PubComp(ack(9)), unsubscribe(["a"]), Packet::PingReq] {
            world.pass_secs(14);
            world.send(conn, packet);
        }
        assert_eq!(world.take(conn), ["UNSUBACK 78 [11]", "PINGRESP"]);
        world.pass_secs(15);
        assert_eq!(world.take(conn), last);
    }
}

// [MQTT-3.3.2-12]
#[test]
fn every_alias_up_to_the_maximum_is_taken() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "#", Q0);
    let max = world.connack(press).topic_alias_max;
    let aliased = |topic: Option<TopicName>, alias| {
        let topic_alias = NonZeroU16::new(alias);
        Packet::Publish(Box::new(Publish { topic, topic_alias, ..publish("unused", "x", Q0) }))
    };
    for alias in 1..=max {
        world.send(press, aliased(Some(topic_name(&format!("t/{alias}"))), alias));
    }
    world.take(ops);
    for alias in (1..=max).rev() {
        world.send(press, aliased(None, alias));
        world.expect(ops, [format!("PUBLISH t/{alias} \"x\" q0").as_str()]);
    }
}

// [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.6.0-4] as 3.1.1 demands them of servers too.
#[test]
fn answers_come_in_the_order_of_what_they_answer() {
    let mut world = World::new();
    let (press, ops) = (world.open("press", v311("press")), world.client("ops"));
    world.subscribe(ops, "a", Q2);
    for (id, qos) in [(7, Q1), (3, Q2), (5, Q1), (4, Q2)] {
        let message = Publish { packet_id: Some(pid(id)), ..publish("a", "", qos) };
        world.send(press, Packet::Publish(Box::new(message)));
    }
    world.expect(press, ["PUBACK 7 00", "PUBREC 3 00", "PUBACK 5 00", "PUBREC 4 00"]);
    world.send(press, Packet::PubRel(ack(4)));
    world.send(press, Packet::PubRel(ack(3)));
    world.expect(press, ["PUBCOMP 4 00", "PUBCOMP 3 00"]);
    world.take(ops);
    // Towards a subscriber: PUBREL in the order of PUBREC.
    for id in [4, 3] {
        world.send(ops, Packet::PubRec(ack(id)));
    }
    world.expect(ops, ["PUBREL 4 00", "PUBREL 3 00"]);
}

// [MQTT-3.3.4-10], [MQTT-4.9.0-3]
#[test]
fn answers_pass_by_a_full_window() {
    let mut world = World::new();
    let press = world.client("press");
    let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..v5("ops") });
    world.subscribe(ops, "a", Q2);
    for payload in ["1", "2"] {
        world.publish(press, "a", payload, Q2);
        world.send(press, Packet::PubRel(ack(1)));
    }
    world.expect(ops, ["PUBLISH a \"1\" q2 #1"]);
    world.subscribe(ops, "b", Q0);
    world.send(ops, Packet::PingReq);
    world.send(ops, unsubscribe(["b"]));
    world.publish(ops, "c", "", Q1);
    world.publish(ops, "c", "", Q2);
    world.send(ops, Packet::PubRel(ack(1)));
    world.send(ops, Packet::PubRec(ack(1)));
    world.expect(
        ops,
        ["PINGRESP", "UNSUBACK 78 [00]", "PUBACK 1 10", "PUBREC 1 00", "PUBCOMP 1 00", "PUBREL 1 00"],
    );
}

// [MQTT-3.8.4-5]: as if each had come by itself, the same filter twice included.
#[test]
fn several_filters_in_one_subscribe_are_several_subscribes() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    for topic in ["a", "b"] {
        world.send(press, retained(topic, topic));
    }
    world.send(ops, subscribe([sub("a", Q2), sub("b", Q1), sub("a", Q0)]));
    let mut seen = world.take(ops);
    assert_eq!(seen.remove(0), "SUBACK 77 [02 01 00]");
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["PUBLISH a \"a\" q0 retain", "PUBLISH b \"b\" q0 retain"]);
    world.publish(press, "a", "x", Q1);
    world.expect(ops, ["PUBLISH a \"x\" q0"]);
}

// [MQTT-4.1.0-1]; 3.1.1 [MQTT-4.1.0-2]
#[test]
fn a_session_lasts_as_long_as_its_connection() {
    for connect in [v5("c"), v311("c")] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", connect));
        world.subscribe(ops, "a", Q1);
        world.publish(ops, "b", "held", Q2);
        world.publish(press, "a", "unacknowledged", Q1);
        world.pass_secs(10_000_000);
        let session = world.session("ops", "c").unwrap();
        assert_eq!((session.subscriptions.len(), session.inflight, session.held), (1, 1, 1));
    }
}

// [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.6.2-2], [MQTT-3.7.2-2], [MQTT-3.9.2-1], [MQTT-3.11.2-1],
// [MQTT-3.14.2-3]; `World` holds every packet against the size.
#[test]
fn answers_to_a_client_that_takes_few_bytes_carry_no_reason_string() {
    let mut world = World::new();
    let conn = world.open("press", Connect { packet_size_max: Some(16), ..v5("c") });
    for qos in [Q1, Q2] {
        world.publish(conn, "$SYS/x", "", qos);
    }
    world.send(conn, Packet::PubRec(ack(9)));
    world.send(conn, Packet::PubRel(ack(9)));
    world.send(conn, subscribe([sub("$x/#", Q0)]));
    world.send(conn, unsubscribe(["a"]));
    world.revoke("press");
    world.expect(
        conn,
        [
            "PUBACK 1 87",
            "PUBREC 1 87",
            "PUBREL 9 92",
            "PUBCOMP 9 92",
            "SUBACK 77 [87]",
            "UNSUBACK 78 [11]",
            "DISCONNECT 87",
            "CLOSE Revoked(\"entry deleted\")",
        ],
    );
    assert!(world.reason_strings(conn).is_empty());
}

// [MQTT-3.1.2-24]: an answer of one byte per filter can be neither left out nor made shorter.
#[test]
fn an_answer_larger_than_the_client_takes_ends_its_connection() {
    // Fixed header 2, identifier 2, property length 1.
    for (filters, fits) in [(11, true), (12, false)] {
        for unsubscribing in [false, true] {
            let mut world = World::new();
            let conn = world.open("press", Connect { packet_size_max: Some(16), ..v5("c") });
            let names: Vec<_> = (0..filters).map(|n| format!("f/{n}")).collect();
            let packet = if unsubscribing {
                let filters = names.iter().map(|name| mqtt_proto::SharedFilter::new(name).unwrap()).collect();
                let user_properties = Vec::new();
                Packet::Unsubscribe(Box::new(mqtt_proto::Unsubscribe {
                    packet_id: pid(78),
                    user_properties,
                    filters,
                }))
            } else {
                let subscriptions = names.iter().map(|name| sub(name, Q0)).collect();
                let (subscription_id, user_properties) = (None, Vec::new());
                Packet::Subscribe(Box::new(mqtt_proto::Subscribe {
                    packet_id: pid(77),
                    subscription_id,
                    user_properties,
                    subscriptions,
                }))
            };
            world.send(conn, packet);
            let seen = world.take(conn);
            if fits {
                assert!(seen[0].contains("SUBACK"), "{seen:?}");
            } else {
                assert_eq!(seen, ["DISCONNECT 95", "CLOSE Protocol(PacketTooLarge)"]);
            }
            assert_eq!(
                world.broker.metrics().subscriptions,
                if fits && !unsubscribing { filters } else { 0 }
            );
        }
    }
}

// [MQTT-3.1.2-24]: even a refusal is not sent to who cannot take its five bytes.
#[test]
fn a_refusal_is_sent_if_the_client_can_take_it() {
    let mut world = World::new();
    let none = world.connect("press", Connect { packet_size_max: Some(4), ..v5("c") });
    world.expect(none, ["CLOSE Refused(PacketTooLarge)"]);
    let short = world.connect("press", Connect { packet_size_max: Some(5), ..v5("c") });
    world.expect(short, ["CONNACK 95", "CLOSE Refused(PacketTooLarge)"]);
}

// [MQTT-4.13.1-1], [MQTT-4.13.2-1]: after the first violation nothing more is looked at.
#[test]
fn a_protocol_error_ends_the_connection_and_what_follows_is_not_looked_at() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    world.send(press, Packet::PingResp);
    world.publish(press, "a", "late", Q0);
    world.expect(press, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
    world.quiet(ops);
}
