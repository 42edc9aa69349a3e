//! Policy changes under live and parked sessions (F8, F10, F12, F25, F26).

use crate::world::*;
use broker_core::{Broker, Config, ConnId};
use midge_policy::{Policy, Rule};
use mqtt_proto::{Connect, Packet};
use std::num::NonZeroU16;
use std::sync::Arc;

fn rules(ops_may_read: &[&str]) -> Vec<Rule> {
    vec![allow("ops", &[], ops_may_read), allow("press", &["a", "b"], &[]), allow("other", &[], &["#"])]
}

fn world(receive_max: u16) -> (World, ConnId, ConnId) {
    let mut world = World::ruled(rules(&["a", "b"]));
    let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(receive_max), ..durable("c") });
    world.send(ops, subscribe([sub("a", Q2), sub("b", Q2)]));
    world.take(ops);
    let press = world.client("press");
    world.audits();
    (world, press, ops)
}

// F25
#[test]
fn without_rules_nothing_is_permitted() {
    let mut world = World::new();
    world.broker = Broker::new(Config::default(), Arc::new(Policy::deny_all()));
    let conn = world.client("press");
    world.publish(conn, "a", "", Q1);
    world.send(conn, subscribe([sub("a", Q0)]));
    world.expect(conn, ["PUBACK 1 87", "SUBACK 77 [87]"]);
    let conn = world.connect("press", Connect { will: will("a", "", 0), ..v5("d") });
    assert_eq!(world.take(conn)[0], "CONNACK 87");
}

#[test]
fn what_is_worked_out_before_a_connect_counts_only_under_the_policy_that_it_is_of() {
    let ruled = |publish: &[&str]| vec![Rule { client_id: vec!["c".into()], ..allow("press", publish, &[]) }];
    for is_replaced in [false, true] {
        let mut world = World::ruled(ruled(&["a"]));
        let newcomer = world.broker.newcomer(&spiffe("press")).unwrap().prepared(&world.listener, "c");
        if is_replaced {
            world.set_rules(ruled(&["b"]));
        }
        world.broker.handle_newcomer(newcomer);
        let press = world.open("press", v5("c"));
        world.publish(press, "a", "", Q1);
        world.publish(press, "b", "", Q1);
        // Nobody listens: what is allowed is told so.
        world.expect(
            press,
            if is_replaced { ["PUBACK 1 87", "PUBACK 1 10"] } else { ["PUBACK 1 10", "PUBACK 1 87"] },
        );
        assert!(world.broker.newcomer(&spiffe("press")).is_some(), "another client may do something else");
        world.set_rules(rules(&["b"]));
        let press = world.open("press", v5("d"));
        assert!(world.broker.newcomer(&spiffe("press")).is_none(), "known, for every client");
        world.lose(press);
    }
}

// F8, online
#[test]
fn a_subscription_that_lost_its_right_is_removed_and_the_connection_stays() {
    let (mut world, press, ops) = world(10);
    let other = world.client("other");
    world.subscribe(other, "#", Q0);
    world.audits();
    world.set_rules(rules(&["b"]));
    assert_eq!(world.audits(), ["ops/c subscription revoked a"]);
    assert_eq!(world.broker.metrics().denials.subscriptions_revoked, 1);
    for topic in ["a", "b"] {
        world.publish(press, topic, "x", Q1);
    }
    world.expect(ops, ["PUBLISH b \"x\" q1 #1"]);
    world.expect(other, ["PUBLISH a \"x\" q0", "PUBLISH b \"x\" q0"]);
    // Given back, it has to be asked for again.
    world.set_rules(rules(&["a", "b"]));
    world.publish(press, "a", "x", Q1);
    world.quiet(ops);
    world.subscribe(ops, "a", Q1);
    world.publish(press, "a", "y", Q1);
    world.expect(ops, ["PUBLISH a \"y\" q1 #2"]);
}

// F8, offline
#[test]
fn a_parked_sessions_subscription_is_removed_too() {
    let (mut world, press, ops) = world(10);
    world.lose(ops);
    world.audits();
    world.set_rules(rules(&["b"]));
    assert_eq!(world.audits(), ["ops/c subscription revoked a"]);
    world.publish(press, "a", "x", Q1);
    world.publish(press, "b", "x", Q1);
    let ops = world.connect("ops", durable("c"));
    world.expect(ops, ["CONNACK 00 present", "PUBLISH b \"x\" q1 #32768"]);
}

// F8, narrowed by a deny inside.
#[test]
fn a_wildcard_subscription_under_a_new_deny_is_removed() {
    let mut world = World::ruled(rules(&["#"]));
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("#", Q0), sub("b", Q0)]));
    let mut changed = rules(&["#"]);
    changed[0].deny_subscribe = vec!["a".into()];
    world.set_rules(changed);
    let session = world.session("ops", "ops").unwrap();
    assert_eq!(session.subscriptions, [("b".into(), Q0)]);
}

#[test]
fn the_granted_qos_follows_the_policy_both_ways() {
    let (mut world, press, ops) = world(10);
    let mut changed = rules(&["a", "b"]);
    changed[0].qos_max = Some(0);
    world.set_rules(changed);
    world.publish(press, "a", "x", Q1);
    world.expect(ops, ["PUBLISH a \"x\" q0"]);
    world.set_rules(rules(&["a", "b"]));
    world.publish(press, "a", "x", Q1);
    world.expect(ops, ["PUBLISH a \"x\" q1 #1"]);
    assert_eq!(world.broker.metrics().subscriptions, 2);
}

// F12: receiver
#[test]
fn what_waits_is_not_delivered_to_a_receiver_that_lost_the_right() {
    for lost in [true, false] {
        let (mut world, press, ops) = world(1);
        for topic in ["b", "a", "b"] {
            world.publish(press, topic, "x", Q1);
        }
        world.expect(ops, ["PUBLISH b \"x\" q1 #1"]);
        world.set_rules(rules(if lost { &["b"] } else { &["a", "b", "c"] }));
        world.audits();
        for id in [1, 32_768] {
            world.send(ops, Packet::PubAck(ack(id)));
        }
        let seen = world.take(ops);
        if lost {
            assert_eq!(seen, ["PUBLISH b \"x\" q1 #32769"]);
            assert_eq!(world.audits(), ["ops/c receive denied a"]);
        } else {
            assert_eq!(seen, ["PUBLISH a \"x\" q1 #32768", "PUBLISH b \"x\" q1 #32769"]);
        }
    }
}

// F12: publisher
#[test]
fn what_waits_is_not_delivered_when_its_publisher_lost_the_right() {
    for lost in [true, false] {
        let (mut world, press, ops) = world(10);
        world.lose(ops);
        world.publish(press, "a", "x", Q1);
        let mut changed = rules(&["a", "b"]);
        changed[1].publish = if lost { vec!["b".into()] } else { vec!["a".into(), "c".into()] };
        world.set_rules(changed);
        world.audits();
        let ops = world.connect("ops", durable("c"));
        let seen = world.take(ops);
        if lost {
            assert_eq!(seen, ["CONNACK 00 present"]);
            assert!(world.audits().contains(&"press/press publish denied a Release".to_owned()));
        } else {
            assert_eq!(seen, ["CONNACK 00 present", "PUBLISH a \"x\" q1 #32768"]);
        }
    }
}

// F10
#[test]
fn nothing_is_sent_again_to_a_receiver_that_lost_the_right() {
    for (qos, lost) in [(Q1, true), (Q2, true), (Q1, false), (Q2, false)] {
        let (mut world, press, ops) = world(10);
        world.publish(press, "a", "x", qos);
        world.send(press, Packet::PubRel(ack(1)));
        world.lose(ops);
        world.set_rules(rules(if lost { &["b"] } else { &["a", "b", "c"] }));
        world.take(ops);
        let ops = world.connect("ops", durable("c"));
        let seen = world.take(ops);
        if lost {
            assert_eq!(seen, ["CONNACK 00 present"]);
            assert!(world.denials().contains(&"ops/c receive denied a".to_owned()));
        } else {
            assert_eq!(
                seen,
                ["CONNACK 00 present".to_owned(), format!("PUBLISH a \"x\" q{} #1 dup", qos as u8)]
            );
        }
    }
}

// The client may still hold the withdrawn message as received: its identifier must not be used for another,
// which would be taken for a duplicate.
#[test]
fn the_identifier_of_a_withdrawn_qos2_message_stays_taken_until_its_exchange_ends() {
    let (mut world, press, ops) = world(10);
    world.publish(press, "a", "x", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.lose(ops);
    world.set_rules(rules(&["b"]));
    let ops = world.connect("ops", durable("c"));
    world.publish(press, "b", "y", Q1);
    world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00", "PUBACK 1 00"]);
    assert_eq!(world.take(ops), ["CONNACK 00 present", "PUBLISH b \"y\" q1 #2"]);
    world.send(ops, Packet::PubRec(ack(1)));
    world.send(ops, Packet::PubComp(ack(1)));
    world.expect(ops, ["PUBREL 1 00"]);
    world.publish(press, "b", "z", Q1);
    world.expect(ops, ["PUBLISH b \"z\" q1 #3"]);
    assert_eq!(world.session("ops", "c").unwrap().inflight, 2);
}

// F26
#[test]
fn remembered_decisions_end_with_the_policy_they_were_made_under() {
    let (mut world, press, ops) = world(10);
    world.publish(press, "a", "1", Q0);
    let mut changed = rules(&["a", "b"]);
    changed[1].publish = vec!["b".into()];
    world.set_rules(changed);
    world.publish(press, "a", "2", Q0);
    world.expect(ops, ["PUBLISH a \"1\" q0"]);
    assert_eq!(world.denials(), ["press/press publish denied a Arrival"]);
    world.set_rules(rules(&["a", "b"]));
    world.publish(press, "a", "3", Q0);
    world.expect(ops, ["PUBLISH a \"3\" q0"]);
}

// A right that only the receiver's own rules take away is noticed at once, with the subscription standing.
#[test]
fn a_new_deny_receive_holds_for_live_deliveries() {
    let (mut world, press, ops) = world(10);
    let mut changed = rules(&["a", "b"]);
    changed[0].deny_receive = vec!["a".into()];
    world.publish(press, "a", "1", Q0);
    world.set_rules(changed);
    world.publish(press, "a", "2", Q0);
    world.publish(press, "b", "3", Q0);
    world.expect(ops, ["PUBLISH a \"1\" q0", "PUBLISH b \"3\" q0"]);
}

#[test]
fn a_change_for_one_identity_audits_nothing_for_others() {
    let (mut world, _, _) = world(10);
    let mut changed = rules(&["a", "b"]);
    changed[1].publish = vec!["c".into()];
    world.set_rules(changed);
    assert_eq!(world.audits(), [""; 0]);
}

// Retained messages that wait to follow a new subscription are asked for when they are read.
#[test]
fn a_pending_replay_ends_with_its_subscription() {
    for unsubscribed in [true, false] {
        let mut world = World::new();
        let press = world.client("press");
        for topic in ["a/1", "a/2"] {
            let message = mqtt_proto::Publish { retain: true, ..publish(topic, "x", Q1) };
            world.send(press, Packet::Publish(Box::new(message)));
        }
        let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..v5("c") });
        world.subscribe(ops, "a/+", Q1);
        world.expect(ops, ["PUBLISH a/1 \"x\" q1 #1 retain"]);
        if unsubscribed {
            world.send(ops, unsubscribe(["a/+"]));
            world.send(
                ops,
                subscribe([mqtt_proto::Subscription {
                    retain_handling: mqtt_proto::RetainHandling::DoNotSend,
                    ..sub("a/+", Q1)
                }]),
            );
            world.take(ops);
        }
        world.send(ops, Packet::PubAck(ack(1)));
        assert_eq!(world.take(ops).len(), usize::from(!unsubscribed));
    }
}

// Who takes nothing must not be able to pile up what is to follow.
#[test]
fn retained_messages_follow_once_however_often_they_are_asked_for_meanwhile() {
    let mut world = World::new();
    let press = world.client("press");
    for topic in ["a/1", "a/2"] {
        let message = mqtt_proto::Publish { retain: true, ..publish(topic, "x", Q1) };
        world.send(press, Packet::Publish(Box::new(message)));
    }
    let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..v5("c") });
    world.subscribe(ops, "a/+", Q1);
    world.expect(ops, ["PUBLISH a/1 \"x\" q1 #1 retain"]);
    for _ in 0..3 {
        world.subscribe(ops, "a/+", Q1);
    }
    for (id, expected) in [(1, "PUBLISH a/1 \"x\" q1 #2 retain"), (2, "PUBLISH a/2 \"x\" q1 #3 retain")] {
        world.send(ops, Packet::PubAck(ack(id)));
        world.expect(ops, [expected]);
    }
    world.send(ops, Packet::PubAck(ack(3)));
    world.quiet(ops);
}

// A permit without filter is trusted while it stands, and reviewed with every change.
#[test]
fn deliveries_follow_a_filter_that_comes_and_goes() {
    let mut world = World::ruled(rules(&["#"]));
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe([sub("#", Q0), sub("$share/g/#", Q0)]));
    world.take(ops);
    for denied in [false, true, false] {
        let mut changed = rules(&["#"]);
        changed[0].deny_receive = denied.then(|| "a".to_owned()).into_iter().collect();
        world.set_rules(changed);
        world.publish(press, "a", "x", Q0);
        assert_eq!(world.take(ops).len(), if denied { 0 } else { 2 });
        world.publish(press, "b", "x", Q0);
        assert_eq!(world.take(ops).len(), 2);
    }
}
