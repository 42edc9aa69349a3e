//! Retained messages.

use crate::world::*;
use broker_core::{Config, ConnId};
use midge_policy::Rule;
use mqtt_proto::{
    Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, RetainHandling, Subscription,
};
use std::num::NonZeroU16;
use std::time::Duration;

// [MQTT-3.3.1-5], [MQTT-3.3.1-8]
#[test]
fn the_newest_retained_message_of_each_topic_follows_the_suback() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    for (topic, payload) in
        [("a/1", "old"), ("a/2", "x"), ("b", "x"), ("a/1", "new"), ("a", "root"), ("ab", "x")]
    {
        world.send(press, retained(topic, payload));
    }
    world.send(ops, subscribe_with_id(Some(5), [sub("a/#", Q1)]));
    world.expect(
        ops,
        [
            "SUBACK 77 [01]",
            "PUBLISH a \"root\" q0 retain ids=[5]",
            "PUBLISH a/1 \"new\" q0 retain ids=[5]",
            "PUBLISH a/2 \"x\" q0 retain ids=[5]",
        ],
    );
}

// [MQTT-3.3.1-6], [MQTT-3.3.1-7]
#[test]
fn an_empty_payload_clears_the_topic_and_is_delivered_as_any_message() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(press, retained("a", "x"));
    world.subscribe(ops, "a", Q0);
    world.take(ops);
    world.send(press, retained("a", ""));
    world.expect(ops, ["PUBLISH a \"\" q0"]);
    assert_eq!(world.broker.metrics().retained_messages, 0);
    assert_eq!(world.broker.metrics().retained_bytes, 0);
    world.subscribe(ops, "+", Q0);
    world.quiet(ops);
}

// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
#[test]
fn retain_handling_decides_whether_they_are_sent() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(press, retained("a", "x"));
    for (handling, first, again) in [
        (RetainHandling::Send, true, true),
        (RetainHandling::SendIfNew, true, false),
        (RetainHandling::DoNotSend, false, false),
    ] {
        for expected in [first, again] {
            world.send(ops, subscribe([Subscription { retain_handling: handling, ..sub("a", Q0) }]));
            assert_eq!(
                world.take(ops).contains(&"PUBLISH a \"x\" q0 retain".to_owned()),
                expected,
                "{handling:?}"
            );
        }
        world.send(ops, unsubscribe(["a"]));
        world.take(ops);
    }
}

#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(press, retained("a", "x"));
    world.send(ops, subscribe([sub("$share/g/a", Q0)]));
    world.expect(ops, ["SUBACK 77 [00]"]);
}

// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[test]
fn a_retained_message_expires_and_says_what_is_left() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    let message = Publish { retain: true, ..expiring("a", "x", Q0, 10) };
    world.send(press, Packet::Publish(Box::new(message)));
    world.pass_secs(4);
    world.subscribe(ops, "a", Q0);
    world.expect(ops, ["PUBLISH a \"x\" q0 retain expiry=6"]);
    world.pass_secs(6);
    assert_eq!(world.broker.metrics().retained_messages, 0);
    world.subscribe(ops, "a", Q0);
    world.quiet(ops);
}

#[test]
fn a_replaced_retained_message_does_not_expire_with_the_old_one() {
    let mut world = World::new();
    let press = world.client("press");
    let message = Publish { retain: true, ..expiring("a", "x", Q0, 10) };
    world.send(press, Packet::Publish(Box::new(message)));
    world.send(press, retained("a", "y"));
    world.pass_secs(20);
    assert_eq!(world.broker.metrics().retained_messages, 1);
}

// [MQTT-3.8.3-3]
#[test]
fn no_local_holds_for_retained_messages_too() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, retained("a", "mine"));
    world.send(press, retained("b", "other"));
    world.send(ops, subscribe([Subscription { no_local: true, ..sub("+", Q0) }]));
    world.expect(ops, ["SUBACK 77 [00]", "PUBLISH b \"other\" q0 retain"]);
}

// F7
#[test]
fn a_retained_message_under_a_deny_is_not_handed_out() {
    let denying = Rule { deny_receive: vec!["a/secret".into()], ..allow("ops", &[], &["a/#"]) };
    let mut world = World::ruled(vec![denying, allow("press", &["#"], &[]), allow("boss", &[], &["#"])]);
    let (press, ops, boss) = (world.client("press"), world.client("ops"), world.client("boss"));
    world.send(press, retained("a/open", "x"));
    world.send(press, retained("a/secret", "x"));
    world.subscribe(ops, "a/#", Q0);
    world.expect(ops, ["PUBLISH a/open \"x\" q0 retain"]);
    world.subscribe(boss, "a/#", Q0);
    world.expect(boss, ["PUBLISH a/open \"x\" q0 retain", "PUBLISH a/secret \"x\" q0 retain"]);
}

// F6
#[test]
fn a_retained_message_is_withheld_or_purged_when_its_publisher_loses_the_right() {
    for (revoked, purges) in [(true, true), (true, false), (false, true), (false, false)] {
        let config = Config { purge_lost: purges, ..Config::default() };
        let rules = vec![allow("press", &["a", "b"], &[]), allow("ops", &[], &["#"])];
        let mut world = World::with(config, rules.clone());
        let (press, ops) = (world.client("press"), world.client("ops"));
        world.send(press, retained("a", "x"));
        let publish: &[&str] = if revoked { &["b"] } else { &["a", "c"] };
        world.set_rules(vec![allow("press", publish, &[]), allow("ops", &[], &["#"])]);
        world.subscribe(ops, "a", Q0);
        if revoked {
            world.quiet(ops);
            let denial =
                if purges { "press/press retained purged a" } else { "press/press publish denied a Release" };
            assert_eq!(world.denials(), [denial]);
        } else {
            world.expect(ops, ["PUBLISH a \"x\" q0 retain"]);
        }
        assert_eq!(world.broker.metrics().retained_messages, u64::from(!(revoked && purges)));
        // What was withheld is there again when the right is.
        world.set_rules(rules);
        world.subscribe(ops, "a", Q0);
        assert_eq!(world.take(ops).len(), usize::from(!(revoked && purges)));
    }
}

#[test]
fn what_there_is_no_room_to_retain_is_refused_as_a_whole_or_sent_at_least() {
    let mut world = World::limited(|config| config.retained_messages_max = 1);
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "#", Q0);
    world.send(press, retained("a", "x"));
    world.take(ops);
    let second = |qos| Packet::Publish(Box::new(Publish { retain: true, ..publish("b", "x", qos) }));
    world.send(press, second(Q1));
    world.send(press, second(Q2));
    world.expect(press, ["PUBACK 1 97", "PUBREC 1 97"]);
    world.quiet(ops);
    // Who cannot be told has it sent to those who are there.
    world.send(press, second(Q0));
    let old = world.open("old", v311("old"));
    world.send(old, second(Q1));
    world.send(old, second(Q2));
    world.send(old, Packet::PubRel(ack(1)));
    world.expect(old, ["PUBACK 1 00", "PUBREC 1 00", "PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH b \"x\" q0", "PUBLISH b \"x\" q0", "PUBLISH b \"x\" q0"]);
    assert_eq!(world.broker.metrics().dropped.retained_full, 5);
    // Replacing and clearing need no room.
    world.send(press, retained("a", "y"));
    world.send(press, retained("a", ""));
    world.send(press, second(Q1));
    world.expect(press, ["PUBACK 1 00"]);
    world.expect(ops, ["PUBLISH a \"y\" q0", "PUBLISH a \"\" q0", "PUBLISH b \"x\" q0"]);
}

#[test]
fn retained_bytes_have_a_limit() {
    let mut world = World::limited(|config| config.retained_bytes_max = 500);
    let press = world.client("press");
    let sized = |topic: &str, len| {
        Packet::Publish(Box::new(Publish { retain: true, ..publish(topic, &"x".repeat(len), Q1) }))
    };
    world.send(press, sized("a", 300));
    world.send(press, sized("b", 300));
    world.send(press, sized("a", 360));
    world.expect(press, ["PUBACK 1 10", "PUBACK 1 97", "PUBACK 1 10"]);
    let bytes = world.broker.metrics().retained_bytes;
    assert!((360..=500).contains(&bytes), "{bytes}");
}

// One identity cannot fill the room of all; whose message stands in a topic may change.
#[test]
fn one_identity_has_a_part_of_the_retained_messages() {
    for change in [(|config| config.retained_messages_per_identity_max = 2) as fn(&mut Config), |config| {
        config.retained_bytes_per_identity_max = 2 * 150
    }] {
        let rules = vec![allow("greedy", &["#"], &["#"]), allow("other", &["#"], &["#"])];
        let mut config = Config::default();
        change(&mut config);
        let mut world = World::with(config, rules);
        let (greedy, other) = (world.client("greedy"), world.client("other"));
        let one =
            |topic: &str| Packet::Publish(Box::new(Publish { retain: true, ..publish(topic, "x", Q1) }));
        for topic in ["a", "b", "c", "b"] {
            world.send(greedy, one(topic));
        }
        world.expect(greedy, ["PUBACK 1 10", "PUBACK 1 10", "PUBACK 1 97", "PUBACK 1 10"]);
        world.send(other, one("c"));
        world.send(other, one("a"));
        world.expect(other, ["PUBACK 1 10", "PUBACK 1 10"]);
        // What another has taken over counts for that one, and what is there counts after a restart too.
        world.crash(1);
        let (greedy, other) = (world.client("greedy"), world.client("other"));
        world.send(other, one("d"));
        world.send(greedy, one("d"));
        world.send(greedy, one("e"));
        world.expect(other, ["PUBACK 1 97"]);
        world.expect(greedy, ["PUBACK 1 10", "PUBACK 1 97"]);
        assert_eq!(world.broker.metrics().retained_messages, 4);
    }
}

// A wide filter over many retained messages waits for the client instead of filling its queue.
#[test]
fn retained_messages_follow_as_the_client_takes_them() {
    let mut world = World::limited(|config| config.queue_messages_max = 2);
    let press = world.client("press");
    for n in 0..5 {
        let message = Publish { retain: true, ..publish(&format!("a/{n}"), "x", Q1) };
        world.send(press, Packet::Publish(Box::new(message)));
    }
    let connect = Connect { receive_max: NonZeroU16::new(2), ..v5("slow") };
    let ops = world.open("ops", connect);
    world.subscribe(ops, "a/+", Q1);
    world.expect(ops, ["PUBLISH a/0 \"x\" q1 #1 retain", "PUBLISH a/1 \"x\" q1 #2 retain"]);
    // What changes meanwhile is sent as it is then.
    world.send(press, retained("a/3", ""));
    world.take(press);
    world.send(ops, Packet::PubAck(ack(1)));
    world.send(ops, Packet::PubAck(ack(2)));
    world.expect(
        ops,
        ["PUBLISH a/3 \"\" q0", "PUBLISH a/2 \"x\" q1 #3 retain", "PUBLISH a/4 \"x\" q1 #4 retain"],
    );
    assert_eq!(world.broker.metrics().dropped.queue_full, 0);
    assert_eq!(world.session("ops", "slow").unwrap().queued, 0);
}

#[test]
fn a_retained_qos2_message_released_into_a_full_store_is_delivered_but_not_kept() {
    let mut world = World::limited(|config| config.retained_messages_max = 1);
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "#", Q0);
    world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..publish("b", "x", Q2) })));
    world.send(press, retained("a", "x"));
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH a \"x\" q0", "PUBLISH b \"x\" q0"]);
    assert_eq!(world.broker.metrics().retained_messages, 1);
    world.send(press, Packet::PubRel(failed(1, ReasonCode::Success)));
}

// Limits may come, or be lowered, when an identity has more already.
#[test]
fn what_is_retained_beyond_a_limit_can_be_replaced_by_what_is_no_larger() {
    let mut world = World::new();
    let press = world.client("press");
    for topic in ["a", "b", "c"] {
        world.send(press, retained(topic, "12"));
    }
    world.config.retained_messages_per_identity_max = 1;
    world.config.retained_bytes_per_identity_max = 1;
    world.crash(1);
    let press = world.client("press");
    for (topic, payload) in [("a", "34"), ("b", "5"), ("c", "678"), ("d", "9")] {
        world.send(press, retained(topic, payload));
    }
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q0);
    world.expect(ops, ["PUBLISH a \"34\" q0 retain", "PUBLISH b \"5\" q0 retain"]);
}

/// CONNECT that takes one message before it acknowledges it.
fn narrow(client_id: &str) -> Connect {
    Connect { receive_max: NonZeroU16::new(1), ..durable(client_id) }
}

/// Takes what a client was sent and acknowledges all of it.
fn take_and_acknowledge(world: &mut World, conn: ConnId) -> Vec<String> {
    let seen = world.take(conn);
    for text in &seen {
        let Some((_, id)) = text.split_once('#') else { continue };
        let id = ack(id.split(' ').next().unwrap().parse().unwrap());
        if text.contains(" q1 ") {
            world.send(conn, Packet::PubAck(id));
        } else {
            world.send(conn, Packet::PubRec(id.clone()));
            world.send(conn, Packet::PubComp(id));
        }
    }
    seen
}

fn at(topic: &str, payload: &str, qos: QoS, retain: bool) -> Packet {
    Packet::Publish(Box::new(Publish { retain, ..publish(topic, payload, qos) }))
}

// [MQTT-4.6.0-5], [MQTT-4.6.0-6]
#[test]
fn what_is_retained_of_a_topic_comes_before_what_is_newer() {
    let mut world = World::new();
    let press = world.client("press");
    for topic in ["a/1", "a/2", "a/3"] {
        world.send(press, at(topic, "old", Q1, true));
    }
    let ops = world.open("ops", narrow("ops"));
    world.subscribe(ops, "a/#", Q1);
    world.send(press, at("a/3", "live", Q1, false));
    world.send(press, at("a/2", "new", Q1, true));
    world.send(press, at("a/4", "first", Q1, true));
    let all = ["a/1 \"old\"", "a/3 \"old\"", "a/3 \"live\"", "a/2 \"old\"", "a/2 \"new\"", "a/4 \"first\""];
    for text in all {
        let seen = take_and_acknowledge(&mut world, ops);
        assert!(seen.len() == 1 && seen[0].starts_with(&format!("PUBLISH {text} q1")), "{text}: {seen:?}");
    }
    world.quiet(ops);
}

#[test]
fn a_message_that_replaces_what_is_owed_comes_once() {
    for qos in [Q0, Q1, Q2] {
        let mut world = World::new();
        let press = world.client("press");
        for topic in ["z/1", "z/2"] {
            world.send(press, at(topic, "old", Q2, true));
            world.send(press, Packet::PubRel(ack(1)));
        }
        let ops = world.open("ops", narrow("ops"));
        world.subscribe(ops, "z/#", Q2);
        world.send(press, at("z/2", "new", qos, true));
        world.send(press, Packet::PubRel(ack(1)));
        let seen: Vec<_> = (0..5).flat_map(|_| take_and_acknowledge(&mut world, ops)).collect();
        let new = seen.iter().filter(|text| text.contains("\"new\"")).count();
        let old = seen.iter().filter(|text| text.contains("z/2 \"old\"")).count();
        assert_eq!((new, old), if qos == Q2 { (1, 1) } else { (1, 0) }, "{qos:?}: {seen:?}");
    }
}

// [MQTT-3.3.1-5], [MQTT-3.3.1-6]
#[test]
fn a_message_that_has_expired_on_its_way_replaces_what_was_retained() {
    for (payload, waits) in [("", 0), ("late", 0), ("", 1), ("late", 1)] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.client("ops"));
        world.send(press, retained("a", "old"));
        let properties =
            PublishProperties { message_expiry_secs: Some(waits), ..PublishProperties::default() };
        let late = Publish { retain: true, properties: Some(properties.into()), ..publish("a", payload, Q2) };
        world.send(press, Packet::Publish(Box::new(late)));
        world.pass(Duration::from_secs(waits.into()));
        world.send(press, Packet::PubRel(ack(1)));
        world.take(ops);
        world.subscribe(ops, "a", Q1);
        world.quiet(ops);
    }
}
