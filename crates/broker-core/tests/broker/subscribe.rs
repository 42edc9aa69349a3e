//! SUBSCRIBE, UNSUBSCRIBE and what subscriptions make of a message.

use crate::world::*;
use midge_policy::Rule;
use mqtt_proto::{Packet, Publish, SharedFilter, Subscription, Unsubscribe};

#[test]
fn the_granted_qos_is_told_and_lowers_the_publishers() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe([sub("a", Q0), sub("b", Q1), sub("c", Q2)]));
    world.expect(ops, ["SUBACK 77 [00 01 02]"]);
    for (topic, seen) in [("a", "q0"), ("b", "q1 #1"), ("c", "q2 #2")] {
        world.publish(press, topic, "x", Q2);
        world.send(press, Packet::PubRel(ack(1)));
        world.expect(ops, [format!("PUBLISH {topic} \"x\" {seen}").as_str()]);
    }
    // Never above the publisher's.
    world.publish(press, "c", "x", Q0);
    world.expect(ops, ["PUBLISH c \"x\" q0"]);
}

// F20: each filter is decided by itself and answered in its place ([MQTT-3.8.4-6], [MQTT-3.9.3-1]).
#[test]
fn every_filter_of_a_subscribe_is_decided() {
    let mut world = World::ruled(vec![allow("ops", &["#"], &["a", "c/#"])]);
    let ops = world.client("ops");
    world.audits();
    world.send(ops, subscribe([sub("a", Q1), sub("b", Q1), sub("c/+", Q1), sub("+", Q1)]));
    world.expect(ops, ["SUBACK 77 [01 87 01 87]"]);
    assert_eq!(
        world.audits(),
        [
            "ops/ops subscribed a q1 by allow-ops",
            "ops/ops subscribe denied b",
            "ops/ops subscribed c/+ q1 by allow-ops",
            "ops/ops subscribe denied +",
        ]
    );
    for topic in ["a", "b", "c/1"] {
        world.publish(ops, topic, "", Q0);
    }
    world.expect(ops, ["PUBLISH a \"\" q0", "PUBLISH c/1 \"\" q0"]);
    let old = world.open("ops", v311("old"));
    world.send(old, subscribe([sub("a", Q1), sub("b", Q1)]));
    world.expect(old, ["SUBACK 77 [01 80]"]);
}

// F17, F18
#[test]
fn a_filter_wider_than_the_right_is_denied() {
    let mut world = World::ruled(vec![allow("ops", &[], &["a/+"])]);
    let ops = world.client("ops");
    for (filter, code) in [("#", 0x87), ("a/#", 0x87), ("a", 0x87), ("+/+", 0x87), ("a/+", 0), ("a/b", 0)] {
        world.send(ops, subscribe([sub(filter, Q0)]));
        world.expect(ops, [format!("SUBACK 77 [{code:02X}]").as_str()]);
    }
}

// F19
#[test]
fn a_share_prefix_does_not_skip_the_check() {
    let mut world = World::ruled(vec![allow("ops", &[], &["a/+"])]);
    let ops = world.client("ops");
    for (filter, code) in
        [("$share/g/#", 0x87), ("$share/g/b", 0x87), ("$queue/b", 0x87), ("$share/g/a/b", 0)]
    {
        world.send(ops, subscribe([sub(filter, Q0)]));
        world.expect(ops, [format!("SUBACK 77 [{code:02X}]").as_str()]);
    }
}

// 3.1.1 has no share groups, and what is wrong in 5.0 is a filter there. It is granted nobody: by its name whoever asks
// for it wants to share.
#[test]
fn a_311_client_that_names_no_share_group_is_refused_this_filter_alone() {
    let mut world = World::new();
    let ops = world.open("ops", v311("ops"));
    let odd = |text: &str| Subscription { filter: SharedFilter::new_v311(text).unwrap(), ..sub("a", Q1) };
    let filters = [odd("$share/g"), sub("$share/g/a", Q1), odd("$share//a"), odd("$share/g/"), sub("b", Q0)];
    world.send(ops, subscribe(filters));
    world.expect(ops, ["SUBACK 77 [80 01 80 80 00]"]);
    assert_eq!(world.broker.metrics().subscriptions, 2);
    let filters = vec![odd("$share/g").filter];
    let unsubscribe = Unsubscribe { packet_id: pid(78), user_properties: Vec::new(), filters };
    world.send(ops, Packet::Unsubscribe(Box::new(unsubscribe)));
    world.expect(ops, ["UNSUBACK 78 [11]"]);
}

#[test]
fn policy_may_grant_a_lower_qos_than_asked() {
    let mut world = World::ruled(vec![Rule { qos_max: Some(1), ..allow("ops", &[], &["a"]) }]);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("a", Q2)]));
    world.expect(ops, ["SUBACK 77 [01]"]);
}

// [MQTT-3.3.4-2], [MQTT-3.3.4-4]
#[test]
fn overlapping_subscriptions_bring_one_copy_with_highest_qos_and_all_identifiers() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe_with_id(Some(9), [sub("a/#", Q1)]));
    world.send(ops, subscribe_with_id(Some(4), [sub("a/+", Q2)]));
    world.send(ops, subscribe([sub("a/b", Q0)]));
    world.take(ops);
    world.publish(press, "a/b", "x", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(ops, ["PUBLISH a/b \"x\" q2 #1 ids=[4, 9]"]);
}

// [MQTT-3.3.4-3]
#[test]
fn a_subscription_identifier_comes_with_its_messages_only() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe_with_id(Some(268_435_455), [sub("a", Q0)]));
    world.send(ops, subscribe([sub("b", Q0)]));
    world.take(ops);
    world.publish(press, "a", "", Q0);
    world.publish(press, "b", "", Q0);
    world.expect(ops, ["PUBLISH a \"\" q0 ids=[268435455]", "PUBLISH b \"\" q0"]);
}

// [MQTT-3.8.4-3]
#[test]
fn a_second_subscribe_replaces_the_first() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe_with_id(Some(1), [sub("a", Q2)]));
    world.send(ops, subscribe_with_id(Some(2), [sub("a", Q0)]));
    world.take(ops);
    world.publish(press, "a", "", Q1);
    world.expect(ops, ["PUBLISH a \"\" q0 ids=[2]"]);
    assert_eq!(world.broker.metrics().subscriptions, 1);
}

// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    let no_local = Subscription { no_local: true, ..sub("a/#", Q0) };
    world.send(ops, subscribe_with_id(Some(1), [no_local]));
    world.take(ops);
    world.publish(ops, "a/b", "mine", Q0);
    world.quiet(ops);
    world.publish(press, "a/b", "other", Q0);
    world.expect(ops, ["PUBLISH a/b \"other\" q0 ids=[1]"]);
    // An overlapping subscription without the option still brings them.
    world.send(ops, subscribe_with_id(Some(2), [sub("a/b", Q0)]));
    world.take(ops);
    world.publish(ops, "a/b", "mine", Q0);
    world.expect(ops, ["PUBLISH a/b \"mine\" q0 ids=[2]"]);
    world.publish(press, "a/b", "other", Q0);
    world.expect(ops, ["PUBLISH a/b \"other\" q0 ids=[1, 2]"]);
}

// [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut world = World::new();
    let ops = world.client("ops");
    let bad = Subscription { no_local: true, ..sub("$share/g/a", Q0) };
    world.send(ops, subscribe([sub("b", Q0), bad]));
    world.expect(ops, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

// [MQTT-3.3.1-12], [MQTT-3.3.1-13]
#[test]
fn retain_as_published_keeps_the_flag_and_nothing_else_does() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe([Subscription { retain_as_published: true, ..sub("a", Q0) }, sub("b", Q0)]));
    world.take(ops);
    for topic in ["a", "b"] {
        world.send(press, retained(topic, "x"));
        world.publish(press, topic, "y", Q0);
    }
    world.expect(
        ops,
        ["PUBLISH a \"x\" q0 retain", "PUBLISH a \"y\" q0", "PUBLISH b \"x\" q0", "PUBLISH b \"y\" q0"],
    );
}

// [MQTT-3.10.4-1], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6]
#[test]
fn unsubscribe_stops_exactly_the_named_filters() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a/+", Q0);
    world.subscribe(ops, "a/b", Q0);
    world.audits();
    world.send(ops, unsubscribe(["a/b", "a/c", "$share/g/a/+"]));
    world.expect(ops, ["UNSUBACK 78 [00 11 11]"]);
    assert_eq!(world.audits(), ["ops/ops unsubscribed a/b"]);
    world.publish(press, "a/b", "", Q0);
    world.expect(ops, ["PUBLISH a/b \"\" q0"]);
    world.send(ops, unsubscribe(["a/+"]));
    world.publish(press, "a/b", "", Q0);
    world.expect(ops, ["UNSUBACK 78 [00]"]);
}

// [MQTT-4.7.2-1]
#[test]
fn a_leading_wildcard_does_not_match_system_topics() {
    let mut world = World::ruled(vec![allow("ops", &["$x/#"], &["#", "$x/#"])]);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("#", Q0), sub("+/a", Q0)]));
    world.take(ops);
    world.publish(ops, "$x/a", "", Q0);
    world.quiet(ops);
    world.subscribe(ops, "$x/+", Q0);
    world.publish(ops, "$x/a", "", Q0);
    world.expect(ops, ["PUBLISH $x/a \"\" q0"]);
}

// A deny inside a permitted wildcard: the subscription stands, the denied topic is not delivered.
#[test]
fn a_denied_part_of_a_permitted_filter_is_not_delivered() {
    let rule = Rule { deny_receive: vec!["a/secret".into()], ..allow("ops", &["#"], &["a/#"]) };
    let mut world = World::ruled(vec![rule]);
    let ops = world.client("ops");
    world.subscribe(ops, "a/#", Q1);
    world.publish(ops, "a/open", "", Q0);
    world.publish(ops, "a/secret", "", Q0);
    world.expect(ops, ["PUBLISH a/open \"\" q0"]);
    assert_eq!(world.broker.metrics().denials.receive, 1);
    assert_eq!(world.denials(), ["ops/ops receive denied a/secret"]);
}

#[test]
fn what_a_deny_holds_back_is_told_whether_it_comes_or_is_retained() {
    let hidden = Rule { deny_receive: vec!["a/secret".into()], ..allow("ops", &[], &["a/#"]) };
    let mut world = World::ruled(vec![hidden, allow("press", &["#"], &[])]);
    let (press, ops) = (world.client("press"), world.client("ops"));
    for topic in ["a/secret", "a/open"] {
        let kept = Publish { retain: true, ..publish(topic, "x", Q1) };
        world.send(press, Packet::Publish(Box::new(kept)));
    }
    world.audits();
    world.subscribe(ops, "a/#", Q0);
    world.expect(ops, ["PUBLISH a/open \"x\" q0 retain"]);
    assert_eq!(world.denials(), ["ops/ops receive denied a/secret"]);
    world.publish(press, "a/secret", "y", Q1);
    world.publish(press, "a/open", "y", Q1);
    world.expect(ops, ["PUBLISH a/open \"y\" q0"]);
    assert_eq!(world.denials(), ["ops/ops receive denied a/secret"]);
}

#[test]
fn of_much_that_a_deny_holds_back_the_first_is_told_and_the_rest_is_a_number() {
    let hidden = || Rule { deny_receive: vec!["a/secret".into()], ..allow("ops", &["#"], &["a/#"]) };
    for stops in [true, false] {
        let mut world = World::ruled(vec![hidden(), allow("desk", &[], &["a/#"])]);
        let (ops, desk) = (world.client("ops"), world.client("desk"));
        world.subscribe(ops, "a/#", Q0);
        world.subscribe(desk, "a/#", Q0);
        world.audits();
        for _ in 0..100 {
            world.publish(ops, "a/secret", "", Q0);
        }
        assert_eq!(world.take(desk).len(), 100);
        assert_eq!(world.denials(), ["ops/ops receive denied a/secret"; 5]);
        assert_eq!(world.broker.metrics().denials.receive, 100);
        let number = "ops/ receive denied 95 more a/secret by allow-ops".to_owned();
        if stops {
            world.broker.handle_drain(world.now);
            world.drain();
            assert!(world.audits().contains(&number));
        } else {
            world.pass_secs(59);
            assert_eq!(world.audits(), [""; 0]);
            world.pass_secs(1);
            assert_eq!(world.audits(), [number]);
            world.publish(ops, "a/secret", "", Q0);
            assert_eq!(world.denials(), ["ops/ops receive denied a/secret"]);
            world.pass_secs(120);
            assert_eq!(world.audits(), [""; 0]);
        }
    }
}

// [MQTT-4.6.0-2], [MQTT-4.6.0-5]
#[test]
fn messages_of_one_publisher_come_in_order() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q1);
    for n in 0..5 {
        world.publish(press, "a", &n.to_string(), Q1);
    }
    let expected: Vec<_> = (0..5).map(|n| format!("PUBLISH a \"{n}\" q1 #{}", n + 1)).collect();
    assert_eq!(world.take(ops), expected);
}

#[test]
fn empty_levels_count() {
    let mut world = World::new();
    let ops = world.client("ops");
    world.subscribe(ops, "/+/", Q0);
    for topic in ["//", "/a/", "a/", "/a", "/"] {
        world.publish(ops, topic, "", Q0);
    }
    world.expect(ops, ["PUBLISH // \"\" q0", "PUBLISH /a/ \"\" q0"]);
}

// MQTT 5.0 §3.3.4: "multiple identical Subscription Identifiers"
#[test]
fn each_of_two_subscriptions_with_the_same_identifier_is_named() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    for filter in ["x/#", "x/+"] {
        world.send(ops, subscribe_with_id(Some(5), [sub(filter, Q0)]));
    }
    world.take(ops);
    world.send(press, Packet::Publish(Box::new(publish("x/1", "m", Q0))));
    world.expect(ops, ["PUBLISH x/1 \"m\" q0 ids=[5, 5]"]);
}
