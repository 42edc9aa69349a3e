//! SUBSCRIBE that is allowed in part: refused, narrowed or filtered, by listener.

use crate::world::*;
use broker_core::ConnId;
use midge_policy::{Rule, SubscribeMode};
use mqtt_proto::{Connect, Packet, Publish, Subscription};

const TOPICS: [&str; 5] = ["a/1", "a/2", "a/2/x", "b/1", "c"];

fn rules() -> Vec<Rule> {
    let denied = Rule { deny_subscribe: vec!["a/2".into()], ..allow("ops", &[], &["a/+", "b/#"]) };
    vec![denied, allow("press", &["#"], &[])]
}

fn world(mode: SubscribeMode) -> (World, ConnId, ConnId) {
    let mut world = World::ruled(rules());
    let press = world.client("press");
    world.listener = listener("tcp", mode);
    let ops = world.client("ops");
    (world, press, ops)
}

fn publish_all(world: &mut World, press: ConnId, qos: mqtt_proto::QoS) {
    for topic in TOPICS {
        world.publish(press, topic, "x", qos);
    }
    world.take(press);
}

fn topics(seen: &[String]) -> Vec<&str> {
    seen.iter().filter_map(|text| text.strip_prefix("PUBLISH ")?.split(' ').next()).collect()
}

#[test]
fn what_is_allowed_in_part_is_refused_unless_the_listener_says_otherwise() {
    for (mode, code) in
        [(SubscribeMode::Reject, "87"), (SubscribeMode::Narrow, "00"), (SubscribeMode::Filter, "00")]
    {
        let (mut world, press, ops) = world(mode);
        world.send(ops, subscribe([sub("#", Q0), sub("c", Q0), sub("a/1", Q0)]));
        world.expect(ops, [&*format!("SUBACK 77 [{code} 87 00]")]);
        publish_all(&mut world, press, Q0);
        let expected: &[&str] = if code == "87" { &["a/1"] } else { &["a/1", "b/1"] };
        assert_eq!(topics(&world.take(ops)), expected, "{mode:?}");
    }
}

#[test]
fn retained_messages_follow_what_was_granted() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        let (mut world, press, ops) = world(mode);
        for topic in TOPICS {
            world.send(press, retained(topic, "x"));
        }
        world.subscribe(ops, "#", Q0);
        assert_eq!(topics(&world.take(ops)), ["a/1", "b/1"], "{mode:?}");
    }
}

// [MQTT-3.3.4-2]: parts overlap with each other and with other subscriptions; one copy all the same.
#[test]
fn overlapping_parts_bring_one_copy() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        let (mut world, press, ops) = world(mode);
        world.send(ops, subscribe_with_id(Some(1), [sub("#", Q0)]));
        world.send(ops, subscribe_with_id(Some(2), [sub("b/#", Q1)]));
        world.send(ops, subscribe_with_id(Some(3), [sub("+/1", Q0)]));
        world.take(ops);
        world.publish(press, "b/1", "x", Q1);
        world.expect(ops, ["PUBLISH b/1 \"x\" q1 #1 ids=[1, 2, 3]"]);
        world.send(ops, unsubscribe(["#", "+/1"]));
        world.take(ops);
        publish_all(&mut world, press, Q0);
        world.expect(ops, ["PUBLISH b/1 \"x\" q0 ids=[2]"]);
        world.send(ops, unsubscribe(["b/#"]));
        world.take(ops);
        publish_all(&mut world, press, Q0);
        world.quiet(ops);
        assert_eq!(world.broker.metrics().subscriptions, 0);
    }
}

#[test]
fn a_second_subscribe_replaces_all_parts_of_the_first() {
    let (mut world, press, ops) = world(SubscribeMode::Narrow);
    world.subscribe(ops, "#", Q0);
    world.send(ops, subscribe([Subscription { retain_as_published: true, ..sub("#", Q1) }]));
    world.expect(ops, ["SUBACK 77 [01]"]);
    let message = Publish { retain: true, ..publish("b/1", "x", Q1) };
    world.send(press, Packet::Publish(Box::new(message)));
    world.expect(ops, ["PUBLISH b/1 \"x\" q1 #1 retain"]);
    assert_eq!(world.broker.metrics().subscriptions, 1);
}

#[test]
fn a_shared_subscription_is_filtered_for_each_member_and_its_messages_go_to_who_may_have_them() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        let (mut world, press, ops) = world(mode);
        world.subscribe(ops, "$share/g/#", Q0);
        for _ in 0..2 {
            publish_all(&mut world, press, Q0);
        }
        assert_eq!(topics(&world.take(ops)), ["a/1", "b/1", "a/1", "b/1"], "{mode:?}");
    }
}

// What a narrowed subscription stands for follows the policy, both ways.
#[test]
fn parts_follow_the_policy() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        for settling in [true, false] {
            let (mut world, press, ops) = world(mode);
            world.settling = settling;
            world.subscribe(ops, "#", Q0);
            world.set_rules(vec![allow("ops", &[], &["c", "a/1"]), allow("press", &["#"], &[])]);
            publish_all(&mut world, press, Q0);
            let narrowed = topics(&world.take(ops)).join(" ");
            // Until it has been looked at again it only loses.
            let late = mode == SubscribeMode::Narrow && !settling;
            assert_eq!(narrowed, if late { "a/1" } else { "a/1 c" }, "{mode:?}");
            world.settling = true;
            world.set_rules(vec![allow("press", &["#"], &[])]);
            publish_all(&mut world, press, Q0);
            world.quiet(ops);
            assert_eq!(world.session("ops", "ops").unwrap().subscriptions, []);
        }
    }
}

#[test]
fn a_session_that_goes_on_by_another_listener_goes_on_in_its_mode() {
    let (mut world, press, _) = world(SubscribeMode::Narrow);
    let ops = world.open("ops", Connect { session_expiry_secs: Some(100), ..v5("c") });
    world.subscribe(ops, "#", Q0);
    world.lose(ops);
    world.listener = listener("tls", SubscribeMode::Reject);
    let ops = world.connect("ops", durable("c"));
    world.expect(ops, ["CONNACK 00 present"]);
    publish_all(&mut world, press, Q0);
    world.quiet(ops);
    assert_eq!(world.session("ops", "c").unwrap().subscriptions, []);
}

// Where a rule grants a lower QoS to a part, the part has that.
#[test]
fn each_part_has_its_own_qos() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        let low = Rule { name: "low".into(), qos_max: Some(0), ..allow("ops", &[], &["b/#"]) };
        let mut world = World::ruled(vec![allow("ops", &[], &["a/+"]), low, allow("press", &["#"], &[])]);
        let press = world.client("press");
        world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..publish("b/0", "x", Q1) })));
        world.listener = listener("tcp", mode);
        let ops = world.client("ops");
        world.send(ops, subscribe([sub("#", Q1)]));
        let seen = world.take(ops);
        assert_eq!(seen[1], "PUBLISH b/0 \"x\" q0 retain", "{mode:?} {seen:?}");
        publish_all(&mut world, press, Q1);
        let seen = world.take(ops);
        assert!(seen[0].starts_with("PUBLISH a/1 \"x\" q1") && seen[2] == "PUBLISH b/1 \"x\" q0", "{seen:?}");
    }
}

// A subscription covers its topics at the quality of service that its own rule grants, whatever others are for.
#[test]
fn the_quality_of_service_of_one_subscription_is_not_lent_to_another() {
    for (qos_max, expected) in [(None, "q1 #1"), (Some(0), "q0")] {
        for mode in [SubscribeMode::Reject, SubscribeMode::Filter] {
            let all = Rule { subscribe_literal: vec!["#".into()], ..allow("ops", &[], &[]) };
            let some = Rule { name: "some".into(), qos_max, ..allow("ops", &[], &["a/b"]) };
            let mut world = World::ruled(vec![all, some, allow("press", &["#"], &[])]);
            let press = world.client("press");
            world.listener = listener("tcp", mode);
            let ops = world.client("ops");
            world.send(ops, subscribe([sub("#", Q1), sub("a/b", Q1)]));
            world.take(ops);
            world.publish(press, "a/b", "x", Q1);
            world.expect(ops, [&*format!("PUBLISH a/b \"x\" {expected}")]);
        }
    }
}

#[test]
fn what_is_in_flight_is_not_sent_again_by_a_listener_where_it_is_denied() {
    for (name, comes_again) in [("tcp", false), ("tls", true)] {
        let listener_of_deny = vec!["tcp".to_owned()];
        let deny =
            Rule { listener: listener_of_deny, deny_receive: vec!["a".into()], ..allow("ops", &[], &[]) };
        let deny = Rule { name: "deny".into(), ..deny };
        let mut world = World::ruled(vec![allow("ops", &[], &["a"]), deny, allow("press", &["a"], &[])]);
        let ops = world.open("ops", durable("c"));
        world.subscribe(ops, "a", Q1);
        let press = world.client("press");
        world.publish(press, "a", "x", Q1);
        world.lose(ops);
        world.listener = listener(name, SubscribeMode::Reject);
        let ops = world.connect("ops", durable("c"));
        let again = world.take(ops).contains(&"PUBLISH a \"x\" q1 #1 dup".to_owned());
        assert_eq!(again, comes_again, "{name}");
    }
}

#[test]
fn a_member_of_a_group_has_each_topic_at_its_own_qos() {
    let low = Rule { name: "low".into(), qos_max: Some(0), ..allow("ops", &[], &["b/#"]) };
    let mut world = World::ruled(vec![allow("ops", &[], &["a/+"]), low, allow("press", &["#"], &[])]);
    let press = world.client("press");
    world.listener = listener("tcp", SubscribeMode::Filter);
    let ops = world.client("ops");
    world.subscribe(ops, "$share/g/#", Q1);
    for topic in ["a/1", "b/1"] {
        world.publish(press, topic, "x", Q1);
    }
    world.expect(ops, ["PUBLISH a/1 \"x\" q1 #1", "PUBLISH b/1 \"x\" q0"]);
}

#[test]
fn what_was_granted_in_part_is_granted_in_part_after_a_restart() {
    for mode in [SubscribeMode::Narrow, SubscribeMode::Filter] {
        let (mut world, _, _) = world(mode);
        let ops = world.open("ops", durable("c"));
        world.subscribe(ops, "#", Q1);
        world.lose(ops);
        assert_eq!(world.crash(0).subscriptions_denied, 0);
        let press = world.client("press");
        publish_all(&mut world, press, Q1);
        let ops = world.connect("ops", durable("c"));
        assert_eq!(topics(&world.take(ops)), ["a/1", "b/1"], "{mode:?}");
    }
}
