//! What a message carries from its publisher to its receivers, and what becomes of it on the way.

use crate::world::*;
use broker_core::{ConnId, Effect};
use bytes::Bytes;
use mqtt_proto::{Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, Will};
use std::sync::Arc;

fn rich() -> PublishProperties {
    let pairs = [("z", "1"), ("a", "2"), ("z", "1"), ("", "")];
    PublishProperties {
        payload_is_utf8: Some(true),
        message_expiry_secs: Some(60),
        content_type: Some("text/plain".into()),
        response_topic: Some(topic_name("answers/$me")),
        correlation_data: Some(Bytes::from_static(b"\0\xFF")),
        user_properties: pairs.map(|(name, value)| (name.into(), value.into())).into(),
    }
}

/// What each connection was sent in answer to `act`, as it is on the wire.
fn publishes(world: &mut World, act: impl FnOnce(&mut World)) -> Vec<(ConnId, Publish)> {
    act(world);
    let mut found = Vec::new();
    while let Some(effect) = world.poll_effect() {
        if let Effect::Deliver { conn, delivery } = effect {
            found.push((conn, packet_of(&delivery)));
        }
    }
    found
}

fn has_all(publish: &Publish) {
    assert_eq!(publish.properties.as_deref(), Some(&rich()));
    assert_eq!(&publish.payload[..], b"payload");
}

// [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20], [MQTT-3.1.3-10]
#[test]
fn what_a_message_carries_arrives_unaltered_and_in_order() {
    let mut world = World::new();
    let press = world.client("press");
    let (live, shared, parked) =
        (world.client("live"), world.client("shared"), world.open("parked", durable("c")));
    world.subscribe(live, "a/#", Q2);
    world.subscribe(shared, "$share/g/a/#", Q2);
    world.subscribe(parked, "a/#", Q2);
    world.lose(parked);
    let message =
        |qos| Publish { properties: Some(Arc::new(rich())), retain: true, ..publish("a/1", "payload", qos) };
    for qos in [Q0, Q1, Q2] {
        let seen = publishes(&mut world, |world| {
            let now = world.now;
            world.broker.handle_packet(press, Packet::Publish(Box::new(message(qos))), now);
            world.broker.handle_packet(press, Packet::PubRel(ack(1)), now);
        });
        assert_eq!(seen.iter().map(|(conn, _)| *conn).collect::<Vec<_>>(), [live, shared]);
        seen.iter().for_each(|(_, publish)| has_all(publish));
    }
    let now = world.now;
    let queued = publishes(&mut world, |world| {
        world.connect_silently("parked", durable("c"));
    });
    assert_eq!(queued.len(), 2);
    queued.iter().for_each(|(_, publish)| has_all(publish));
    let retained = publishes(&mut world, |world| {
        world.broker.handle_packet(press, subscribe([sub("a/1", Q0)]), now);
    });
    assert_eq!(retained.len(), 1);
    retained.iter().for_each(|(_, publish)| has_all(publish));
    let mut message = will("a/w", "payload", 0).unwrap().message;
    message.properties = Some(Arc::new(rich()));
    let mortal = world.open("mortal", Connect { will: Some(Will { message, delay_secs: 0 }), ..v5("c") });
    let last = publishes(&mut world, |world| {
        let now = world.now;
        world.broker.handle_closed(mortal, broker_core::CloseCause::Eof, now);
    });
    assert!(last.len() >= 2);
    last.iter().for_each(|(_, publish)| has_all(publish));
}

// [MQTT-3.3.1-3], [MQTT-4.3.2-2], [MQTT-4.3.2-5]: after PUBACK its identifier means a new message, DUP or not.
#[test]
fn a_repetition_by_the_publisher_is_none_to_the_subscriber() {
    for connect in [v5("press"), v311("press")] {
        let mut world = World::new();
        let (press, ops) = (world.open("press", connect), world.client("ops"));
        world.subscribe(ops, "a", Q1);
        for payload in ["1", "2"] {
            let again = Publish { dup: true, ..publish("a", payload, Q1) };
            world.send(press, Packet::Publish(Box::new(again)));
        }
        world.expect(press, ["PUBACK 1 00", "PUBACK 1 00"]);
        world.expect(ops, ["PUBLISH a \"1\" q1 #1", "PUBLISH a \"2\" q1 #2"]);
    }
}

// [MQTT-4.3.3-9]: a refused identifier is free at once.
#[test]
fn the_identifier_of_a_refused_qos2_message_is_free() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    world.publish(press, "$SYS/x", "no", Q2);
    world.publish(press, "a", "yes", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBREC 1 87", "PUBREC 1 00", "PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH a \"yes\" q0"]);
}

// [MQTT-4.3.3-7]; the standard leaves it open for QoS 1, and it is done alike.
#[test]
fn a_message_whose_delivery_began_does_not_expire() {
    for qos in [Q1, Q2] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
        world.subscribe(ops, "a", qos);
        world.send(press, Packet::Publish(Box::new(expiring("a", "x", qos, 10))));
        world.send(press, Packet::PubRel(ack(1)));
        world.lose(ops);
        world.pass_secs(100);
        let ops = world.connect("ops", durable("ops"));
        let q = qos as u8;
        assert_eq!(world.take(ops)[1..], [format!("PUBLISH a \"x\" q{q} #1 dup expiry=0")]);
    }
}

// [MQTT-4.4.0-2]
#[test]
fn a_rejected_message_is_not_sent_again_after_a_reconnect() {
    for qos in [Q1, Q2] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
        world.subscribe(ops, "a", qos);
        world.publish(press, "a", "x", qos);
        world.send(press, Packet::PubRel(ack(1)));
        let failure = failed(1, ReasonCode::NotAuthorized);
        world.send(ops, if qos == Q1 { Packet::PubAck(failure) } else { Packet::PubRec(failure) });
        world.lose(ops);
        let ops = world.connect("ops", durable("ops"));
        world.expect(ops, ["CONNACK 00 present"]);
    }
}

// [MQTT-3.10.4-2], [MQTT-3.10.4-3]
#[test]
fn what_is_in_flight_when_its_subscription_ends_is_completed() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q2);
    world.publish(press, "a", "1", Q1);
    world.publish(press, "a", "2", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.send(ops, unsubscribe(["a"]));
    world.publish(press, "a", "3", Q1);
    world.expect(ops, ["PUBLISH a \"1\" q1 #1", "PUBLISH a \"2\" q2 #2", "UNSUBACK 78 [00]"]);
    world.lose(ops);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"1\" q1 #1 dup", "PUBLISH a \"2\" q2 #2 dup"]);
    world.send(ops, Packet::PubRec(ack(2)));
    world.send(ops, Packet::PubComp(ack(2)));
    world.expect(ops, ["PUBREL 2 00"]);
}

// [MQTT-4.3.1-1]
#[test]
fn a_qos0_message_is_sent_once_whatever_becomes_of_the_connection() {
    for connect in [durable("ops"), Connect { clean_start: false, ..v311("ops") }] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.open("ops", connect.clone()));
        world.subscribe(ops, "a", Q2);
        world.publish(press, "a", "x", Q0);
        world.expect(ops, ["PUBLISH a \"x\" q0"]);
        world.lose(ops);
        let ops = world.connect("ops", connect);
        world.expect(ops, ["CONNACK 00 present"]);
    }
}

// [MQTT-4.7.3-4]: neither Unicode nor slashes nor case are made alike.
#[test]
fn topics_are_compared_as_they_are_spelled() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    for filter in ["\u{C5}", "a//b", "Line", "\u{FEFF}x", "%41"] {
        world.subscribe(ops, filter, Q0);
    }
    for topic in ["A\u{30A}", "a/b", "a///b", "line", "x", "A"] {
        world.publish(press, topic, "", Q0);
    }
    world.quiet(ops);
    for topic in ["\u{C5}", "a//b", "Line", "\u{FEFF}x", "%41"] {
        world.publish(press, topic, "", Q0);
        world.expect(ops, [format!("PUBLISH {topic} \"\" q0").as_str()]);
    }
}

// 3.1.1 [MQTT-3.1.2-7]
#[test]
fn a_retained_message_outlives_its_publishers_session() {
    for connect in [v5("c"), v311("c")] {
        let mut world = World::new();
        let (press, ops) = (world.open("press", connect), world.client("ops"));
        world.send(press, retained("a", "x"));
        world.lose(press);
        assert_eq!(world.session("press", "c"), None);
        world.subscribe(ops, "a", Q0);
        world.expect(ops, ["PUBLISH a \"x\" q0 retain"]);
    }
}

// [MQTT-3.3.1-8]; 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-7], [MQTT-3.3.1-12]
#[test]
fn only_a_message_with_the_flag_changes_what_is_retained() {
    for connect in [v5("c"), v311("c")] {
        let mut world = World::new();
        let press = world.open("press", connect);
        let message = Publish { retain: true, ..publish("a", "first", Q1) };
        world.send(press, Packet::Publish(Box::new(message)));
        for (payload, flag, kept) in
            [("live", false, "first"), ("", false, "first"), ("second", true, "second")]
        {
            let message = Publish { retain: flag, ..publish("a", payload, Q0) };
            world.send(press, Packet::Publish(Box::new(message)));
            let ops = world.client("ops");
            world.subscribe(ops, "a", Q2);
            let qos: QoS = if kept == "first" { Q1 } else { Q0 };
            let seen = world.take(ops);
            assert!(seen[0].starts_with(&format!("PUBLISH a {kept:?} q{}", qos as u8)), "{seen:?}");
            assert_eq!(seen.len(), 1);
        }
    }
}

// [MQTT-3.1.2-14], [MQTT-3.1.2-15]; 3.1.1 [MQTT-3.1.2-16], [MQTT-3.1.2-17]
#[test]
fn a_will_is_retained_if_it_says_so() {
    for (connect, retain) in [(v5("c"), true), (v5("c"), false), (v311("c"), true), (v311("c"), false)] {
        let mut world = World::new();
        let mut last = will("w", "gone", 0).unwrap();
        last.message.retain = retain;
        let press = world.open("press", Connect { will: Some(last), ..connect });
        world.lose(press);
        assert_eq!(world.broker.metrics().retained_messages, u64::from(retain));
    }
}

// 3.1.1 [MQTT-3.1.2-5]
#[test]
fn a_311_session_keeps_messages_above_qos0_while_its_client_is_away() {
    let mut world = World::new();
    let connect = Connect { clean_start: false, ..v311("c") };
    let (press, ops) = (world.client("press"), world.open("ops", connect.clone()));
    world.subscribe(ops, "a", Q2);
    world.lose(ops);
    for (payload, qos) in [("0", Q0), ("1", Q1), ("2", Q2)] {
        world.publish(press, "a", payload, qos);
        world.send(press, Packet::PubRel(ack(1)));
    }
    let ops = world.connect("ops", connect);
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"1\" q1 #32768", "PUBLISH a \"2\" q2 #1"]);
}

// [MQTT-3.8.4-4]; 3.1.1 [MQTT-3.8.4-3]
#[test]
fn replacing_a_subscription_loses_no_message() {
    for connect in [durable("ops"), Connect { clean_start: false, ..v311("ops") }] {
        let mut world = World::new();
        let connect = Connect { receive_max: std::num::NonZeroU16::new(1), ..connect };
        let (press, ops) = (world.client("press"), world.open("ops", connect));
        world.send(press, retained("a", "kept"));
        world.subscribe(ops, "a", Q1);
        world.take(ops);
        for payload in ["1", "2"] {
            world.publish(press, "a", payload, Q1);
        }
        world.send(ops, subscribe([sub("a", Q1)]));
        world.publish(press, "a", "3", Q1);
        let mut seen = world.take(ops);
        for id in [1, 32_768, 32_769] {
            world.send(ops, Packet::PubAck(ack(id)));
            seen.extend(world.take(ops));
        }
        seen.retain(|text| text.starts_with("PUBLISH"));
        seen.sort();
        assert_eq!(
            seen,
            [
                "PUBLISH a \"1\" q1 #1",
                "PUBLISH a \"2\" q1 #32768",
                "PUBLISH a \"3\" q1 #32769",
                "PUBLISH a \"kept\" q0 retain"
            ]
        );
    }
}

// [MQTT-3.3.4-5]: a subscription of its own and one through a group bring a copy each.
#[test]
fn of_two_copies_each_carries_its_own_identifier() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe_with_id(Some(1), [sub("a", Q0)]));
    world.send(ops, subscribe_with_id(Some(2), [sub("$share/g/a", Q0)]));
    world.take(ops);
    world.publish(press, "a", "x", Q0);
    world.expect(ops, ["PUBLISH a \"x\" q0 ids=[1]", "PUBLISH a \"x\" q0 ids=[2]"]);
}
