//! PUBLISH and PUBREL from clients: authorization, exactly once, topic aliases.

use crate::world::*;
use broker_core::DeniedPublish;
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, Publish, ReasonCode};
use std::num::NonZeroU16;

fn plant() -> Vec<Rule> {
    vec![allow("press", &["line/#"], &[]), allow("ops", &["cmd/#"], &["#"])]
}

/// A press that may publish to `line/#` only, and somebody who may see all.
fn world() -> (World, broker_core::ConnId, broker_core::ConnId) {
    let mut world = World::ruled(plant());
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "#", Q2);
    world.audits();
    (world, press, ops)
}

#[test]
fn a_permitted_publish_reaches_its_subscriber() {
    let (mut world, press, ops) = world();
    world.publish(press, "line/temp", "21", Q0);
    world.expect(ops, ["PUBLISH line/temp \"21\" q0"]);
    world.publish(press, "line/temp", "22", Q1);
    world.expect(ops, ["PUBLISH line/temp \"22\" q1 #1"]);
    world.expect(press, ["PUBACK 1 00"]);
    assert_eq!(world.denials(), [""; 0]);
}

#[test]
fn a_denied_publish_reaches_nobody_and_its_publisher_is_told() {
    let (mut world, press, ops) = world();
    world.publish(press, "cmd/stop", "x", Q1);
    world.expect(press, ["PUBACK 1 87"]);
    assert_eq!(world.reason_strings(press), ["not authorized to publish this"]);
    world.publish(press, "cmd/stop", "x", Q2);
    world.expect(press, ["PUBREC 1 87"]);
    world.quiet(ops);
    assert_eq!(world.denials(), ["press/press publish denied cmd/stop Arrival"; 2]);
    assert_eq!(world.broker.metrics().denials.publish, 2);
}

#[test]
fn a_denied_qos0_publish_is_dropped_and_audited_and_the_connection_stays() {
    let (mut world, press, ops) = world();
    world.publish(press, "cmd/stop", "x", Q0);
    world.quiet(press);
    world.quiet(ops);
    assert_eq!(world.denials(), ["press/press publish denied cmd/stop Arrival"]);
    world.publish(press, "line/a", "x", Q0);
    world.expect(ops, ["PUBLISH line/a \"x\" q0"]);
}

#[test]
fn a_denied_publish_of_311_is_acknowledged_dropped_and_audited() {
    let (mut world, _, ops) = world();
    let old = world.open("press", v311("old"));
    world.publish(old, "cmd/stop", "x", Q1);
    world.expect(old, ["PUBACK 1 00"]);
    world.publish(old, "cmd/stop", "x", Q2);
    world.send(old, Packet::PubRel(ack(1)));
    world.expect(old, ["PUBREC 1 00", "PUBCOMP 1 00"]);
    world.quiet(ops);
    assert_eq!(world.denials(), ["press/old publish denied cmd/stop Arrival"; 2]);
}

// F11: the retry of a refused QoS 2 message must not slip through as a duplicate.
#[test]
fn a_retry_of_a_refused_qos2_publish_is_refused_or_swallowed() {
    let (mut world, press, ops) = world();
    let retry = Packet::Publish(Box::new(Publish { dup: true, ..publish("cmd/stop", "x", Q2) }));
    world.publish(press, "cmd/stop", "x", Q2);
    world.send(press, retry.clone());
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBREC 1 87", "PUBREC 1 87", "PUBCOMP 1 92"]);
    let old = world.open("press", v311("old"));
    world.publish(old, "cmd/stop", "x", Q2);
    world.send(old, retry);
    world.send(old, Packet::PubRel(ack(1)));
    world.expect(old, ["PUBREC 1 00", "PUBREC 1 00", "PUBCOMP 1 00"]);
    world.quiet(ops);
}

#[test]
fn a_denied_publish_of_311_may_end_the_connection_without_its_will() {
    let config = broker_core::Config { denied_publish_v311: DeniedPublish::Disconnect, ..Default::default() };
    let mut world = World::with(config, plant());
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q0);
    for qos in [Q0, Q1, Q2] {
        let old = world.open("press", Connect { will: will("line/will", "gone", 0), ..v311("old") });
        world.publish(old, "cmd/stop", "x", qos);
        world.expect(old, ["CLOSE Denied"]);
        world.quiet(ops);
        let new = world.client("press");
        world.publish(new, "cmd/stop", "x", qos);
        assert!(!world.take(new).iter().any(|seen| seen.starts_with("CLOSE")));
    }
}

#[test]
fn system_topics_are_written_only_where_policy_says_so() {
    let mut world =
        World::ruled(vec![allow("press", &["#"], &[]), allow("bus", &["$hw/events/#"], &["$hw/#"])]);
    let (press, bus) = (world.client("press"), world.client("bus"));
    world.subscribe(bus, "$hw/#", Q0);
    world.publish(press, "$hw/events/x", "", Q1);
    world.expect(press, ["PUBACK 1 87"]);
    world.quiet(bus);
    world.publish(bus, "$hw/events/x", "", Q1);
    world.expect(bus, ["PUBLISH $hw/events/x \"\" q0", "PUBACK 1 00"]);
    world.publish(bus, "$SYS/uptime", "", Q1);
    world.expect(bus, ["PUBACK 1 87"]);
}

// [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12]
#[test]
fn a_qos2_message_is_delivered_exactly_once_at_pubrel() {
    let (mut world, press, ops) = world();
    world.publish(press, "line/a", "x", Q2);
    world.expect(press, ["PUBREC 1 00"]);
    world.quiet(ops);
    let again = Publish { dup: true, ..publish("line/a", "x", Q2) };
    world.send(press, Packet::Publish(Box::new(again)));
    world.expect(press, ["PUBREC 1 00"]);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH line/a \"x\" q2 #1"]);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBCOMP 1 92"]);
    world.quiet(ops);
    // The identifier is free for another message.
    world.publish(press, "line/a", "y", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(ops, ["PUBLISH line/a \"y\" q2 #2"]);
}

// [MQTT-4.3.3-10] across a reconnect of the session.
#[test]
fn a_held_qos2_message_survives_a_reconnect() {
    let (mut world, _, ops) = world();
    let press = world.open("press", durable("c"));
    world.publish(press, "line/a", "x", Q2);
    world.lose(press);
    let press = world.connect("press", durable("c"));
    let again = Publish { dup: true, ..publish("line/a", "x", Q2) };
    world.send(press, Packet::Publish(Box::new(again)));
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["CONNACK 00 present", "PUBREC 1 00", "PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH line/a \"x\" q2 #1"]);
}

// F11
#[test]
fn a_qos2_message_is_not_released_when_the_right_is_gone_at_pubrel() {
    for revoked in [true, false] {
        let (mut world, press, ops) = world();
        world.publish(press, "line/a", "x", Q2);
        let mut rules = plant();
        if revoked {
            rules[0].publish = vec!["other".into()];
        }
        world.set_rules(rules);
        world.send(press, Packet::PubRel(ack(1)));
        world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00"]);
        if revoked {
            world.quiet(ops);
            assert_eq!(world.denials(), ["press/press publish denied line/a Release"]);
        } else {
            world.expect(ops, ["PUBLISH line/a \"x\" q2 #1"]);
            assert_eq!(world.denials(), [""; 0]);
        }
    }
}

#[test]
fn a_pubrel_that_disowns_the_identifier_releases_nothing() {
    let (mut world, press, ops) = world();
    world.publish(press, "line/a", "x", Q2);
    world.send(press, Packet::PubRel(failed(1, ReasonCode::PacketIdentifierNotFound)));
    world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00"]);
    world.quiet(ops);
}

// [MQTT-3.3.4-9]
#[test]
fn more_held_messages_than_receive_maximum_is_the_clients_fault() {
    let mut world = World::limited(|config| config.receive_max = NonZeroU16::new(2).unwrap());
    let conn = world.client("press");
    let numbered =
        |id| Packet::Publish(Box::new(Publish { packet_id: Some(pid(id)), ..publish("a", "", Q2) }));
    world.send(conn, numbered(1));
    world.send(conn, numbered(2));
    world.send(conn, Packet::PubRel(ack(1)));
    world.send(conn, numbered(3));
    world.expect(conn, ["PUBREC 1 00", "PUBREC 2 00", "PUBCOMP 1 00", "PUBREC 3 00"]);
    world.send(conn, numbered(4));
    world.expect(conn, ["DISCONNECT 93", "CLOSE Protocol(ReceiveMaximumExceeded)"]);
}

// It cannot know the limit.
#[test]
fn a_311_client_may_hold_more_messages_than_receive_maximum() {
    let mut world = World::limited(|config| config.receive_max = NonZeroU16::MIN);
    let conn = world.open("press", v311("c"));
    for id in 1..=1_000 {
        world.send(
            conn,
            Packet::Publish(Box::new(Publish { packet_id: Some(pid(id)), ..publish("a", "", Q2) })),
        );
        assert_eq!(world.take(conn), [format!("PUBREC {id} 00")]);
    }
    assert_eq!(world.session("press", "c").unwrap().held, 1_000);
}

#[test]
fn a_publish_above_qos0_needs_an_identifier() {
    let mut world = World::new();
    let conn = world.client("press");
    world.send(conn, Packet::Publish(Box::new(Publish { packet_id: None, ..publish("a", "", Q1) })));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

// [MQTT-3.3.4-6]
#[test]
fn a_client_must_not_send_subscription_identifiers() {
    let mut world = World::new();
    let conn = world.client("press");
    world
        .send(conn, Packet::Publish(Box::new(Publish { subscription_ids: vec![1], ..publish("a", "", Q0) })));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

fn aliased(topic: Option<&str>, alias: u16) -> Packet {
    let topic = topic.map(topic_name);
    let topic_alias = NonZeroU16::new(alias);
    Packet::Publish(Box::new(Publish { topic, topic_alias, ..publish("unused", "x", Q0) }))
}

// [MQTT-3.3.2-7], [MQTT-3.3.2-12]
#[test]
fn an_alias_stands_for_the_topic_it_was_last_set_to() {
    let (mut world, press, ops) = world();
    world.send(press, aliased(Some("line/a"), 3));
    world.send(press, aliased(None, 3));
    world.send(press, aliased(Some("line/b"), 3));
    world.send(press, aliased(None, 3));
    let seen = ["a", "a", "b", "b"].map(|last| format!("PUBLISH line/{last} \"x\" q0"));
    assert_eq!(world.take(ops), seen);
}

// [MQTT-3.3.2-8], [MQTT-3.3.2-9]
#[test]
fn an_alias_above_the_maximum_or_never_set_ends_the_connection() {
    let mut world = World::new();
    let conn = world.client("press");
    world.send(conn, aliased(Some("a"), 32));
    world.quiet(conn);
    world.send(conn, aliased(Some("a"), 33));
    world.expect(conn, ["DISCONNECT 94", "CLOSE Protocol(TopicAliasInvalid)"]);
    let conn = world.client("press");
    world.send(conn, aliased(None, 1));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

// [MQTT-3.3.2-7]: aliases are a connection's, not a session's.
#[test]
fn an_alias_does_not_outlive_its_connection() {
    let mut world = World::new();
    let conn = world.open("press", durable("c"));
    world.send(conn, aliased(Some("a"), 1));
    let conn = world.connect("press", durable("c"));
    world.send(conn, aliased(None, 1));
    world.expect(conn, ["CONNACK 00 present", "DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

// F16
#[test]
fn an_alias_set_while_permitted_is_denied_once_the_right_is_gone() {
    let (mut world, press, ops) = world();
    world.send(press, aliased(Some("line/a"), 1));
    world.send(press, aliased(None, 1));
    assert_eq!(world.take(ops).len(), 2);
    let mut rules = plant();
    rules[0].publish = vec!["line/b".into()];
    world.set_rules(rules);
    world.send(press, aliased(None, 1));
    world.quiet(ops);
    assert_eq!(world.denials(), ["press/press publish denied line/a Arrival"]);
    world.send(press, aliased(Some("line/b"), 1));
    world.send(press, aliased(None, 1));
    assert_eq!(world.take(ops).len(), 2);
}

#[test]
fn an_alias_set_by_a_denied_publish_is_still_checked_at_each_use() {
    let (mut world, press, ops) = world();
    world.send(press, aliased(Some("cmd/stop"), 1));
    world.send(press, aliased(None, 1));
    world.quiet(ops);
    assert_eq!(world.denials(), ["press/press publish denied cmd/stop Arrival"; 2]);
}

// The remembered decision must not outlive its reason, nor cover what was not asked.
#[test]
fn a_remembered_permit_covers_no_other_qos_retain_or_size() {
    let rule =
        Rule { qos_max: Some(1), retain: Some(false), payload_max: Some(2), ..allow("press", &["a"], &[]) };
    let mut world = World::ruled(vec![rule]);
    let conn = world.client("press");
    world.publish(conn, "a", "12", Q1);
    world.expect(conn, ["PUBACK 1 10"]);
    world.publish(conn, "a", "123", Q1);
    world.expect(conn, ["PUBACK 1 87"]);
    world.publish(conn, "a", "12", Q2);
    world.expect(conn, ["PUBREC 1 87"]);
    world.send(conn, Packet::Publish(Box::new(Publish { retain: true, ..publish("a", "12", Q1) })));
    world.expect(conn, ["PUBACK 1 87"]);
    world.publish(conn, "a", "12", Q1);
    world.expect(conn, ["PUBACK 1 10"]);
}

#[test]
fn remembered_receivers_follow_every_subscription_change() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.publish(press, "a", "1", Q1);
    world.expect(press, ["PUBACK 1 10"]);
    world.subscribe(ops, "a", Q0);
    world.publish(press, "a", "2", Q1);
    world.expect(ops, ["PUBLISH a \"2\" q0"]);
    world.send(ops, unsubscribe(["a"]));
    world.publish(press, "a", "3", Q1);
    world.expect(ops, ["UNSUBACK 78 [00]"]);
    world.expect(press, ["PUBACK 1 00", "PUBACK 1 10"]);
}

// More topics than are remembered per connection.
#[test]
fn many_topics_of_one_publisher_are_all_delivered() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "#", Q0);
    for round in 0..2 {
        for n in 0..300 {
            world.publish(press, &format!("t/{n}"), "", Q0);
            world.expect(ops, [format!("PUBLISH t/{n} \"\" q0").as_str()]);
        }
        assert_eq!(world.broker.metrics().messages_in, (round + 1) * 300);
    }
}

#[test]
fn the_brokers_own_messages_reach_those_who_may_receive_them() {
    let mut world = World::ruled(vec![allow("ops", &[], &["$SYS/#"]), allow("press", &[], &["#"])]);
    let (ops, press) = (world.client("ops"), world.client("press"));
    world.subscribe(ops, "$SYS/#", Q0);
    world.subscribe(press, "#", Q0);
    let mut publication = will("$SYS/uptime", "7", 0).unwrap().message;
    publication.retain = true;
    world.broker.handle_own_publication(publication, world.now);
    world.drain();
    world.expect(ops, ["PUBLISH $SYS/uptime \"7\" q0"]);
    world.quiet(press);
    world.subscribe(ops, "$SYS/uptime", Q0);
    world.expect(ops, ["PUBLISH $SYS/uptime \"7\" q0 retain"]);
}
