//! Shared subscriptions (MQTT 5.0 §4.8.2).

use crate::world::*;
use broker_core::ConnId;
use midge_policy::{Rule, SubscribeMode};
use mqtt_proto::{Connect, Packet, QoS, ReasonCode};
use std::num::NonZeroU16;

fn join(world: &mut World, id: &str, qos: QoS) -> ConnId {
    let conn = world.open(id, durable("c"));
    world.subscribe(conn, "$share/g/a/#", qos);
    conn
}

fn share(world: &mut World, count: usize) -> Vec<usize> {
    let press = world.client("press");
    for n in 0..count {
        world.publish(press, "a/1", &n.to_string(), Q1);
    }
    world.broker.sessions().iter().map(|session| session.inflight + session.queued).collect()
}

#[test]
fn messages_go_round_among_the_members_and_other_groups_get_their_own() {
    let mut world = World::new();
    let members = ["m1", "m2", "m3"].map(|id| join(&mut world, id, Q0));
    let other = world.open("ops", durable("c"));
    world.subscribe(other, "$share/h/a/#", Q0);
    world.subscribe(other, "a/1", Q0);
    let press = world.client("press");
    for n in 0..6 {
        world.publish(press, "a/1", &n.to_string(), Q0);
    }
    for (index, member) in members.into_iter().enumerate() {
        let expected = [index, index + 3].map(|n| format!("PUBLISH a/1 \"{n}\" q0"));
        assert_eq!(world.take(member), expected);
    }
    // A subscription of its own and one through a group are two.
    assert_eq!(world.take(other).len(), 12);
}

#[test]
fn the_qos_is_that_of_the_chosen_member() {
    let mut world = World::new();
    let (zero, two) = (join(&mut world, "m1", Q0), join(&mut world, "m2", Q2));
    let press = world.client("press");
    for _ in 0..2 {
        world.publish(press, "a/1", "x", Q1);
    }
    world.expect(zero, ["PUBLISH a/1 \"x\" q0"]);
    world.expect(two, ["PUBLISH a/1 \"x\" q1 #1"]);
}

#[test]
fn connected_members_come_before_absent_ones_which_keep_messages_if_there_is_nobody_else() {
    let mut world = World::new();
    let (m1, m2) = (join(&mut world, "m1", Q1), join(&mut world, "m2", Q1));
    world.lose(m1);
    assert_eq!(share(&mut world, 4), [0, 4, 0]);
    world.lose(m2);
    let press = world.client("press");
    world.publish(press, "a/1", "kept", Q1);
    world.publish(press, "a/1", "lost", Q0);
    assert_eq!(world.broker.metrics().dropped.no_member, 1);
    let queued: usize = world.broker.sessions().iter().map(|session| session.queued).sum();
    assert_eq!(queued, 1);
}

#[test]
fn a_member_that_is_busy_is_passed_over() {
    let mut world = World::new();
    let busy = world.open("m1", Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.subscribe(busy, "$share/g/a/#", Q1);
    join(&mut world, "m2", Q1);
    assert_eq!(share(&mut world, 6), [1, 5, 0]);
}

// [MQTT-4.8.2-3]
#[test]
fn when_a_members_session_ends_what_it_did_not_acknowledge_goes_to_another() {
    let mut world = World::new();
    let m1 = world.open("m1", Connect { receive_max: NonZeroU16::new(1), ..v5("c") });
    world.subscribe(m1, "$share/g/a/#", Q1);
    let press = world.client("press");
    for payload in ["1", "2"] {
        world.publish(press, "a/1", payload, Q1);
    }
    world.expect(m1, ["PUBLISH a/1 \"1\" q1 #1"]);
    let m2 = join(&mut world, "m2", Q1);
    world.lose(m1);
    world.expect(m2, ["PUBLISH a/1 \"1\" q1 #1", "PUBLISH a/1 \"2\" q1 #2"]);
}

// [MQTT-4.8.2-4], [MQTT-4.8.2-5]
#[test]
fn a_qos2_message_in_flight_is_completed_with_its_member_or_not_at_all() {
    let mut world = World::new();
    let m1 = join(&mut world, "m1", Q2);
    let press = world.client("press");
    world.publish(press, "a/1", "1", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    let m2 = join(&mut world, "m2", Q2);
    world.lose(m1);
    world.quiet(m2);
    let m1 = world.connect("m1", durable("c"));
    world.expect(m1, ["CONNACK 00 present", "PUBLISH a/1 \"1\" q2 #1 dup"]);
    world.lose(m1);
    world.pass_secs(3600);
    assert_eq!(world.session("m1", "c"), None);
    world.quiet(m2);
}

#[test]
fn a_member_that_disconnects_keeps_what_is_in_flight_and_gives_up_what_waits() {
    let mut world = World::new();
    let m1 = world.open("m1", Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.subscribe(m1, "$share/g/a/#", Q1);
    let press = world.client("press");
    for payload in ["1", "2"] {
        world.publish(press, "a/1", payload, Q1);
    }
    let m2 = join(&mut world, "m2", Q1);
    world.lose(m1);
    world.expect(m2, ["PUBLISH a/1 \"2\" q1 #1"]);
    let m1 = world.connect("m1", durable("c"));
    world.expect(m1, ["CONNACK 00 present", "PUBLISH a/1 \"1\" q1 #1 dup"]);
}

#[test]
fn a_member_that_unsubscribes_gives_up_what_waits() {
    let mut world = World::new();
    let m1 = world.open("m1", Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.subscribe(m1, "$share/g/a/#", Q1);
    let press = world.client("press");
    for payload in ["1", "2"] {
        world.publish(press, "a/1", payload, Q1);
    }
    let m2 = join(&mut world, "m2", Q1);
    world.take(m1);
    world.send(m1, unsubscribe(["$share/g/a/#"]));
    world.expect(m1, ["UNSUBACK 78 [00]"]);
    world.expect(m2, ["PUBLISH a/1 \"2\" q1 #1"]);
    assert_eq!(share(&mut world, 1), [1, 2, 0]);
}

// [MQTT-4.8.2-6]
#[test]
fn a_message_that_a_member_rejects_goes_to_no_other() {
    let mut world = World::new();
    let m1 = join(&mut world, "m1", Q1);
    let press = world.client("press");
    world.publish(press, "a/1", "1", Q1);
    let m2 = join(&mut world, "m2", Q1);
    world.send(m1, Packet::PubAck(failed(1, ReasonCode::NotAuthorized)));
    world.quiet(m2);
    assert_eq!(world.session("m1", "c").unwrap().inflight, 0);
}

// The last member leaving must not trouble anybody (rumqttd stops for good).
#[test]
fn a_group_ends_with_its_last_member_and_can_be_made_anew() {
    let mut world = World::new();
    let m1 = join(&mut world, "m1", Q1);
    world.send(m1, unsubscribe(["$share/g/a/#"]));
    world.take(m1);
    let press = world.client("press");
    world.publish(press, "a/1", "x", Q1);
    world.expect(press, ["PUBACK 1 10"]);
    world.subscribe(m1, "$share/g/a/#", Q1);
    world.publish(press, "a/1", "y", Q1);
    world.expect(m1, ["PUBLISH a/1 \"y\" q1 #1"]);
}

#[test]
fn shared_subscriptions_are_served_on_311_too() {
    let mut world = World::new();
    let (m1, m2) = (world.open("m1", v311("c")), world.open("m2", v311("c")));
    world.subscribe(m1, "$share/g/a", Q0);
    world.subscribe(m2, "$share/g/a", Q0);
    let press = world.client("press");
    for payload in ["1", "2"] {
        world.publish(press, "a", payload, Q0);
    }
    world.expect(m1, ["PUBLISH a \"1\" q0"]);
    world.expect(m2, ["PUBLISH a \"2\" q0"]);
}

// The right is asked for per member.
#[test]
fn a_member_that_may_not_receive_is_passed_over() {
    let narrow = Rule { deny_receive: vec!["a/secret".into()], ..allow("m1", &[], &["a/#"]) };
    let rules = vec![narrow, allow("m2", &[], &["a/#"]), allow("press", &["a/#"], &[])];
    let mut world = World::ruled(rules);
    let (m1, m2) = (join(&mut world, "m1", Q0), join(&mut world, "m2", Q0));
    let press = world.client("press");
    for _ in 0..3 {
        world.publish(press, "a/secret", "x", Q0);
    }
    world.quiet(m1);
    assert_eq!(world.take(m2).len(), 3);
    world.lose(m2);
    world.publish(press, "a/secret", "x", Q0);
    world.quiet(m1);
    assert_eq!(world.broker.metrics().dropped.no_member, 1);
}

/// Says whether a message of a member that goes is passed on to another, where the rules of both and of the
/// publisher (`m1`, `m2`, `press`) are changed so meanwhile.
fn is_passed_on(change: impl FnOnce(&mut [Rule])) -> bool {
    let mut rules = [allow("m1", &[], &["a/#"]), allow("m2", &[], &["a/#"]), allow("press", &["a/#"], &[])];
    let mut world = World::ruled(rules.to_vec());
    let m1 = world.open("m1", v5("c"));
    world.subscribe(m1, "$share/g/a/#", Q1);
    let press = world.client("press");
    world.publish(press, "a/1", "x", Q1);
    let m2 = join(&mut world, "m2", Q1);
    change(&mut rules);
    world.set_rules(rules.to_vec());
    world.lose(m1);
    !world.take(m2).is_empty()
}

// F10, F12 across the group: waiting messages are asked for again, for whom they go to and where they come from.
#[test]
fn a_message_is_not_passed_on_where_receiver_or_publisher_lost_the_right() {
    assert!(is_passed_on(|_| {}));
    assert!(!is_passed_on(|rules| rules[1].deny_receive = vec!["a/1".into()]));
    assert!(!is_passed_on(|rules| rules[2].deny_publish = vec!["a/1".into()]));
}

// What waits came through the group: the right to the group is asked for, not only that to the topic.
#[test]
fn what_waits_for_a_group_is_withheld_from_who_may_no_longer_be_in_it() {
    let groups = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let cases = [(groups(&["g"]), 1), (groups(&[]), 0), (groups(&["other"]), 0), (None, 1)];
    for ((left, expected), restarts) in
        cases.into_iter().flat_map(|case| [(case.clone(), false), (case, true)])
    {
        let rules = |share_groups| {
            vec![Rule { share_groups, ..allow("m1", &[], &["a/#"]) }, allow("press", &["a/#"], &[])]
        };
        let mut world = World::ruled(rules(groups(&["g"])));
        let member = join(&mut world, "m1", Q1);
        world.lose(member);
        let press = world.client("press");
        world.publish(press, "a/1", "x", Q1);
        if restarts {
            world.change_rules_while_down(rules(left.clone()));
            world.crash(1);
        } else {
            world.set_rules(rules(left.clone()));
        }
        let member = world.connect("m1", durable("c"));
        let seen = world.take(member).into_iter().filter(|text| text.starts_with("PUBLISH")).count();
        assert_eq!(seen, expected, "{left:?} {restarts}");
    }
}

/// A member with room for one message in flight, which it does not acknowledge.
fn busy(world: &mut World, id: &str) -> ConnId {
    let conn = world.open(id, Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.subscribe(conn, "$share/g/a/#", Q1);
    conn
}

fn queued(world: &World, id: &str) -> usize {
    world.session(id, "c").unwrap().queued
}

// A queue through which something has passed that would have expired by now has no more room for that.
#[test]
fn what_nobody_has_room_for_stays_with_the_member_that_leaves() {
    let mut world = World::limited(|config| config.queue_messages_max = 1);
    let press = world.client("press");
    let m1 = busy(&mut world, "m1");
    for payload in ["in flight", "waits"] {
        world.publish(press, "a/1", payload, Q1);
    }
    let m2 = busy(&mut world, "m2");
    world.subscribe(m2, "own", Q1);
    for payload in [publish("own", "0", Q1), expiring("own", "1", Q1, 1)] {
        world.send(press, Packet::Publish(Box::new(payload)));
    }
    world.send(m2, Packet::PubAck(ack(1)));
    world.publish(press, "own", "2", Q1);
    world.pass_secs(2);
    world.take(press);
    world.lose(m1);
    assert_eq!((queued(&world, "m1"), queued(&world, "m2")), (1, 1));
    assert_eq!(world.broker.metrics().dropped.queue_full, 0);
    // Who has room gets it.
    world.send(m2, unsubscribe(["$share/g/a/#"]));
    join(&mut world, "m3", Q1);
    let m1 = world.connect("m1", Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.send(m1, unsubscribe(["$share/g/a/#"]));
    assert_eq!(queued(&world, "m1"), 0);
}

// [MQTT-4.6.0-6]
#[test]
fn what_nobody_else_takes_keeps_its_place_among_what_waits() {
    for is_taken in [false, true] {
        let mut world = World::new();
        let press = world.client("press");
        let m1 = busy(&mut world, "m1");
        world.subscribe(m1, "b", Q1);
        for (topic, payload) in [("a/1", "0"), ("a/1", "1"), ("b", "2"), ("a/1", "3"), ("b", "4")] {
            world.publish(press, topic, payload, Q1);
        }
        let m2 = join(&mut world, "m2", Q1);
        if !is_taken {
            world.lose(m2);
        }
        world.lose(m1);
        let m1 = world.connect("m1", durable("c"));
        let (start, again) = ("CONNACK 00 present", "PUBLISH a/1 \"0\" q1 #1 dup");
        let waited = ["a/1 \"1\" q1 #32768", "b \"2\" q1 #32769", "a/1 \"3\" q1 #32770", "b \"4\" q1 #32771"]
            .map(|said| format!("PUBLISH {said}"));
        let [first, second, third, fourth] = waited.each_ref().map(String::as_str);
        if is_taken {
            world.expect(m1, [start, again, second, fourth]);
            world.expect(m2, ["PUBLISH a/1 \"1\" q1 #1", "PUBLISH a/1 \"3\" q1 #2"]);
        } else {
            world.expect(m1, [start, again, first, second, third, fourth]);
        }
    }
}

// Limits may be lower than at the time when the messages were acknowledged.
#[test]
fn what_waited_already_stays_though_the_queue_is_beyond_its_limit() {
    let mut world = World::new();
    let press = world.client("press");
    let m1 = busy(&mut world, "m1");
    for payload in ["0", "1", "2", "3"] {
        world.publish(press, "a/1", payload, Q1);
    }
    world.lose(m1);
    world.config.queue_messages_max = 1;
    world.crash(1);
    let m1 = world.connect("m1", Connect { receive_max: NonZeroU16::new(1), ..durable("c") });
    world.send(m1, unsubscribe(["$share/g/a/#"]));
    world.lose(m1);
    assert_eq!(queued(&world, "m1"), 3);
}

#[test]
fn at_a_planned_stop_every_member_keeps_what_waits_for_it() {
    let mut world = World::new();
    let press = world.client("press");
    for id in ["m1", "m2"] {
        busy(&mut world, id);
    }
    for n in 0..6 {
        world.publish(press, "a/1", &n.to_string(), Q1);
    }
    let waiting = |world: &World| ["m1", "m2"].map(|id| queued(world, id));
    assert_eq!(waiting(&world), [2, 2]);
    world.end();
    assert_eq!(waiting(&world), [2, 2]);
}

// The right of the one who gets it may be to less than its subscription asks for.
#[test]
fn a_message_that_is_passed_on_has_no_higher_qos_than_its_receiver_may_have() {
    let lower = Rule { name: "low".into(), qos_max: Some(0), ..allow("m2", &[], &["a/low/#"]) };
    let rules = vec![
        allow("m1", &[], &["a/#"]),
        allow("m2", &[], &["a/high/#"]),
        lower,
        allow("press", &["a/#"], &[]),
    ];
    for (topic, expected) in [("a/low/x", "q0"), ("a/high/x", "q1 #1")] {
        let mut world = World::ruled(rules.clone());
        let press = world.client("press");
        let m1 = world.open("m1", v5("c"));
        world.subscribe(m1, "$share/g/a/#", Q1);
        world.publish(press, topic, "x", Q1);
        world.listener = listener("tcp", SubscribeMode::Filter);
        let m2 = join(&mut world, "m2", Q1);
        world.lose(m1);
        world.expect(m2, [&*format!("PUBLISH {topic} \"x\" {expected}")]);
    }
}
