//! F25, F26 and F33: policies that are missing, old, or meant for somebody else.

use super::course::message;
use super::journey;
use super::steps::*;
use crate::world::*;
use broker_core::{Broker, Config};
use midge_policy::{DEFAULT_POLICY, Policy, Rule};
use mqtt_proto::Connect;
use std::sync::Arc;

#[test]
fn f25_an_empty_or_faulty_policy_allows_nothing_and_takes_nothing_away() {
    for policy in [Policy::deny_all(), Policy::compile(Vec::new(), 1).unwrap()] {
        let mut world = World::new();
        world.broker = Broker::new(Config::default(), Arc::new(policy));
        let conn = world.client("press");
        world.publish(conn, "a", "", Q1);
        world.send(conn, subscribe([sub("a", Q0)]));
        world.expect(conn, ["PUBACK 1 87", "SUBACK 77 [87]"]);
        let conn = world.connect("press", Connect { will: will("a", "", 0), ..v5("d") });
        assert_eq!(world.take(conn)[0], "CONNACK 87");
    }
    // A rule that is not one makes no policy at all: there is nothing that could be put in force.
    for (publish, id) in
        [("a/#/b", "spiffe://plant/x"), ("a", "plant/x"), ("{who}", "spiffe://plant/*"), ("", "**")]
    {
        let rule =
            Rule { name: "faulty".into(), id: id.into(), publish: vec![publish.into()], ..Rule::default() };
        Policy::compile(vec![allow("ops", &["#"], &["#"]), rule], 2).unwrap_err();
    }
    for text in ["[[rule]]", "[[rule]]\nname = 1", "[[rules]]\nname = \"x\"", "allow = true", "\u{0}"] {
        assert!(Policy::from_toml_str(text, "f").is_err(), "{text:?}");
    }
    let mut world = World::ruled(Vec::new());
    let conn = world.client("press");
    world.publish(conn, "a", "", Q1);
    world.expect(conn, ["PUBACK 1 87"]);
    world.set_rules(open_house());
    world.publish(conn, "a", "", Q1);
    world.expect(conn, ["PUBACK 1 10"]);
}

#[test]
fn f26_no_remembered_decision_outlives_a_change() {
    let rules = |publish: &[&str], subscribe: &[&str]| {
        vec![allow("press", publish, &[]), allow("ops", &[], subscribe)]
    };
    let mut world = World::ruled(rules(&["a"], &["a"]));
    let (press, ops) = (world.client("press"), world.client("ops"));
    // Allowed and denied in turn, by the publisher's rights and by the receiver's: always as they are now.
    for (publish, subscribed) in [
        (&["a"] as &[_], &["a"] as &[_]),
        (&["b"], &["a"]),
        (&["a"], &["a"]),
        (&["a"], &["b"]),
        (&["a"], &["a"]),
    ] {
        world.set_rules(rules(publish, subscribed));
        world.send(ops, subscribe([sub("a", Q0)]));
        world.take(ops);
        for _ in 0..2 {
            world.publish(press, "a", "x", Q0);
        }
        let both = publish == ["a"] && subscribed == ["a"];
        assert_eq!(world.take(ops).len(), if both { 2 } else { 0 });
    }
    // A denial is not remembered either.
    world.set_rules(rules(&["b"], &["a"]));
    world.publish(press, "a", "x", Q1);
    world.set_rules(rules(&["a"], &["a"]));
    world.publish(press, "a", "x", Q1);
    world.expect(press, ["PUBACK 1 87", "PUBACK 1 00"]);
    journey(&message(Q0), &[PRESS_CONNECTS, OPS_LISTENS, PUBLISHES, PUBLISHES, PUBLISHES]);
}

#[test]
fn f33_the_event_bus_and_the_box_itself_have_no_more_than_their_rules() {
    let mut world = World::ruled(Rule::from_toml_str(DEFAULT_POLICY, "default.toml").unwrap());
    let bus = world.client("edge/box/event-bus");
    let mapper = world.client("edge/box/mapper/led");
    let state = "$hw/events/device/led/state/update";
    world.subscribe(bus, "$hw/events/device/+/state/update", Q1);
    world.publish(mapper, state, "x", Q1);
    world.expect(bus, [&*format!("PUBLISH {state} \"x\" q1 #1")]);
    world.take(mapper);
    // It carries on what others say, but cannot speak as a device, nor with the cloud's word.
    for topic in
        [state, "$hw/events/device/led/twin/cloud_updated", "$hw/events/device/led/twin/update", "any"]
    {
        world.publish(bus, topic, "x", Q1);
        world.expect(bus, ["PUBACK 1 87"]);
    }
    world.publish(bus, "$hw/events/device/led/twin/update/result", "x", Q1);
    world.expect(bus, ["PUBACK 1 10"]);
    for id in ["edge/box", "edge/box/broker", "edge/box/agent/host"] {
        let conn = world.client(id);
        world.publish(conn, state, "x", Q1);
        world.send(conn, subscribe([sub("#", Q0), sub("$hw/#", Q0), sub(state, Q0)]));
        world.expect(conn, ["PUBACK 1 87", "SUBACK 77 [87 87 87]"]);
    }
    // No grant makes the cloud's word sayable.
    let mut rules = Rule::from_toml_str(DEFAULT_POLICY, "default.toml").unwrap();
    rules.push(allow("edge/box/event-bus", &["$hw/#"], &[]));
    world.set_rules(rules);
    world.publish(bus, state, "x", Q1);
    assert!(world.take(bus).contains(&"PUBACK 1 00".to_owned()));
    world.publish(bus, "$hw/events/device/led/twin/cloud_updated", "x", Q1);
    world.expect(bus, ["PUBACK 1 87"]);
}
