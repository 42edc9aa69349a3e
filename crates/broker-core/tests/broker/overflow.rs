//! What becomes of a message that finds a queue full, as the broker or a rule says.

use crate::world::*;
use broker_core::ConnId;
use midge_policy::{QueueOverflow, Rule};
use mqtt_proto::{Connect, Packet, Publish, SharedFilter};
use std::num::NonZeroU16;

fn says(overflow: QueueOverflow, rule: Rule) -> Rule {
    Rule { queue_overflow: Some(overflow), ..rule }
}

/// A world whose queues hold two messages, and a session of `ops` without a connection, subscribed to `a`.
fn absent(rules: Vec<Rule>) -> World {
    let config = broker_core::Config { queue_messages_max: 2, ..broker_core::Config::default() };
    let mut world = World::with(config, rules);
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    world
}

fn publish_numbers(world: &mut World, conn: ConnId, count: u32) -> Vec<String> {
    for n in 1..=count {
        world.publish(conn, "a", &n.to_string(), Q1);
    }
    world.take(conn)
}

fn kept(world: &mut World) -> Vec<String> {
    let ops = world.connect("ops", durable("c"));
    let seen = world.take(ops).into_iter().skip(1);
    seen.map(|text| text.split('"').nth(1).unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_rule_of_the_subscriber_says_which_end_of_its_queue_gives_way() {
    let all = |id: &str| allow(id, &["a"], &["a"]);
    for (rule, expected) in [
        (all("ops"), ["1", "2"]),
        (says(QueueOverflow::DropNewest, all("ops")), ["1", "2"]),
        (says(QueueOverflow::DropOldest, all("ops")), ["4", "5"]),
    ] {
        let mut world = absent(vec![rule, all("press")]);
        let press = world.client("press");
        let seen = publish_numbers(&mut world, press, 5);
        assert_eq!(seen, ["PUBACK 1 00"; 5]);
        assert_eq!(kept(&mut world), expected);
        assert_eq!(world.broker.metrics().dropped.queue_full, 3);
    }
}

#[test]
fn the_broker_says_it_where_no_rule_does() {
    let mut world = World::limited(|config| {
        config.queue_messages_max = 2;
        config.queue_overflow = QueueOverflow::DropOldest;
    });
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    publish_numbers(&mut world, press, 4);
    assert_eq!(kept(&mut world), ["3", "4"]);
}

#[test]
fn a_message_that_never_fits_drives_nobody_out() {
    let mut world = World::limited(|config| {
        config.queue_bytes_max = 1_000;
        config.queue_overflow = QueueOverflow::DropOldest;
    });
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "small", Q1);
    world.publish(press, "a", &"x".repeat(2_000), Q1);
    assert_eq!(kept(&mut world), ["small"]);
}

/// A world with room for two messages in all queues, whose sessions `one` and `two` are away.
fn crowded(overflow: QueueOverflow) -> World {
    let mut world = World::limited(|config| {
        config.queues_bytes_max = 300;
        config.queue_overflow = overflow;
    });
    for name in ["one", "two"] {
        let conn = world.open(name, durable("c"));
        world.subscribe(conn, name, Q1);
        world.lose(conn);
    }
    world
}

fn waiting(world: &World, name: &str) -> usize {
    world.session(name, "c").unwrap().queued
}

#[test]
fn all_queues_together_are_bounded() {
    let mut world = crowded(QueueOverflow::DropNewest);
    let press = world.client("press");
    for topic in ["one", "two", "two", "one"] {
        world.publish(press, topic, "x", Q1);
    }
    assert_eq!((waiting(&world, "one"), waiting(&world, "two")), (1, 1));
    assert_eq!(world.broker.metrics().dropped.queue_full, 2);
    // What is taken, and what ends with its session, makes room.
    let one = world.connect("one", durable("c"));
    assert_eq!(world.take(one).len(), 2);
    world.publish(press, "two", "y", Q1);
    assert_eq!(waiting(&world, "two"), 2);
    world.open("two", v5("c"));
    world.send(one, Packet::PubAck(ack(1)));
    world.lose(one);
    for payload in ["1", "2", "3"] {
        world.publish(press, "one", payload, Q1);
    }
    assert_eq!(waiting(&world, "one"), 2);
}

#[test]
fn a_session_that_drops_its_oldest_drops_nothing_of_others() {
    let mut world = crowded(QueueOverflow::DropOldest);
    let press = world.client("press");
    for topic in ["one", "one"] {
        world.publish(press, topic, "x", Q1);
    }
    // It has none of its own to drop, and that of others stays.
    world.publish(press, "two", "y", Q1);
    assert_eq!((waiting(&world, "one"), waiting(&world, "two")), (2, 0));
    world.publish(press, "one", "z", Q1);
    let one = world.connect("one", durable("c"));
    world.expect(one, ["CONNACK 00 present", "PUBLISH one \"x\" q1 #32769", "PUBLISH one \"z\" q1 #32770"]);
}

#[test]
fn where_the_publishers_rule_says_refuse_it_is_told_and_nobody_gets_the_message() {
    let refusing = says(QueueOverflow::Refuse, allow("press", &["a"], &["a"]));
    let mut world = absent(vec![refusing, allow("ops", &["a"], &["a"]), allow("other", &["a"], &["a"])]);
    let other = world.client("other");
    world.subscribe(other, "a", Q0);
    let press = world.client("press");
    let seen = publish_numbers(&mut world, press, 3);
    assert_eq!(seen, ["PUBACK 1 00", "PUBACK 1 00", "PUBACK 1 97"]);
    assert_eq!(world.reason_strings(press), ["a receiver has no room for another message"]);
    world.publish(press, "a", "3", Q2);
    world.expect(press, ["PUBREC 1 97"]);
    assert_eq!(world.take(other).len(), 2);
    // QoS 0 waits for nobody, and is never refused.
    world.publish(press, "a", "0", Q0);
    assert_eq!(world.take(other).len(), 1);
    // Another publisher, whose rule does not say so, is not concerned.
    world.publish(other, "a", "4", Q1);
    assert_eq!(world.take(other), ["PUBLISH a \"4\" q0", "PUBACK 1 00"]);
    assert_eq!(kept(&mut world), ["1", "2"]);
    // With room there again it goes on.
    assert_eq!(publish_numbers(&mut world, press, 1), ["PUBACK 1 00"]);
}

#[test]
fn a_311_publisher_is_disconnected_instead_of_being_told_a_lie() {
    let refusing = says(QueueOverflow::Refuse, allow("press", &["a"], &["a"]));
    let mut world = absent(vec![refusing, allow("ops", &["a"], &["a"])]);
    let press = world.open("press", v311("p"));
    let seen = publish_numbers(&mut world, press, 3);
    assert_eq!(seen, ["PUBACK 1 00", "PUBACK 1 00", "CLOSE Protocol(QuotaExceeded)"]);
}

#[test]
fn a_share_group_refuses_only_when_no_member_has_room() {
    let refusing = says(QueueOverflow::Refuse, allow("press", &["a"], &["a"]));
    let config = broker_core::Config { queue_messages_max: 1, ..broker_core::Config::default() };
    let mut world = World::with(config, vec![refusing, allow("ops", &[], &["a"])]);
    let shared = SharedFilter::new("$share/g/a").unwrap();
    for client_id in ["one", "two"] {
        let member = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..durable(client_id) });
        let subscription = mqtt_proto::Subscription { filter: shared.clone(), ..sub("a", Q1) };
        world.send(member, subscribe([subscription]));
        world.lose(member);
    }
    let press = world.client("press");
    let seen = publish_numbers(&mut world, press, 3);
    assert_eq!(seen, ["PUBACK 1 00", "PUBACK 1 00", "PUBACK 1 97"]);
    world.send(press, Packet::PingReq);
    world.expect(press, ["PINGRESP"]);
}

// [MQTT-3.3.2-5]: what has expired is deleted, and keeps nothing out.
#[test]
fn what_has_expired_makes_room() {
    let mut world = absent(vec![allow("*", &["a"], &["a"])]);
    let press = world.client("press");
    world.send(press, Packet::Publish(Box::new(expiring("a", "short", Q1, 1))));
    world.send(press, Packet::Publish(Box::new(expiring("a", "long", Q1, 100))));
    world.publish(press, "a", "no room", Q1);
    world.pass_secs(2);
    world.publish(press, "a", "fresh", Q1);
    world.publish(press, "a", "no room", Q1);
    let dropped = world.broker.metrics().dropped;
    assert_eq!((dropped.queue_full, dropped.expired), (2, 1));
    assert_eq!(kept(&mut world), ["long", "fresh"]);
    assert_eq!(world.broker.metrics().dropped.expired, 1);
}

// The twin for those who would rather be refused: 0x97 only where there is really no room.
#[test]
fn what_has_expired_has_nobody_refused() {
    let mut world =
        absent(vec![says(QueueOverflow::Refuse, allow("press", &["a"], &[])), allow("ops", &[], &["a"])]);
    let press = world.client("press");
    for id in 1..=2 {
        let publish = Publish { packet_id: Some(pid(id)), ..expiring("a", "short", Q1, 1) };
        world.send(press, Packet::Publish(Box::new(publish)));
    }
    world.publish(press, "a", "refused", Q1);
    world.pass_secs(2);
    world.publish(press, "a", "fresh", Q1);
    world.expect(press, ["PUBACK 1 00", "PUBACK 2 00", "PUBACK 1 97", "PUBACK 1 00"]);
    assert_eq!(kept(&mut world), ["fresh"]);
}

// That something expired has passed through a queue is no room in it.
#[test]
fn a_full_queue_refuses_also_when_what_expires_was_taken_before() {
    for (expires, answer) in [(false, "PUBACK 1 97"), (true, "PUBACK 1 00")] {
        let all = |id: &str| allow(id, &["a"], &["a"]);
        let mut world =
            absent(vec![says(QueueOverflow::Refuse, all("ops")), says(QueueOverflow::Refuse, all("press"))]);
        let press = world.client("press");
        world.send(press, Packet::Publish(Box::new(expiring("a", "taken", Q1, 1))));
        let ops = world.connect("ops", durable("c"));
        world.take(ops);
        world.send(ops, Packet::PubAck(ack(32_768)));
        world.lose(ops);
        let second = if expires { expiring("a", "2", Q1, 1) } else { publish("a", "2", Q1) };
        world.publish(press, "a", "1", Q1);
        world.send(press, Packet::Publish(Box::new(second)));
        world.pass_secs(2);
        world.take(press);
        world.publish(press, "a", "3", Q1);
        world.expect(press, [answer]);
        let left = if expires { vec!["1", "3"] } else { vec!["1", "2"] };
        assert_eq!(kept(&mut world), left);
    }
}

#[test]
fn a_queue_gives_way_as_the_rules_say_by_now_also_after_a_restart() {
    let all = |id: &str| allow(id, &["a"], &["a"]);
    let oldest = || vec![says(QueueOverflow::DropOldest, all("ops")), all("press")];
    let mut changed = absent(vec![says(QueueOverflow::DropNewest, all("ops")), all("press")]);
    changed.set_rules(oldest());
    let mut restarted = absent(oldest());
    restarted.crash(0);
    for mut world in [changed, restarted] {
        let press = world.client("press");
        publish_numbers(&mut world, press, 5);
        assert_eq!(kept(&mut world), ["4", "5"]);
    }
}

/// A world that refuses what does not fit, with sessions of these identities that are away and subscribed to these.
fn refusing(change: impl FnOnce(&mut broker_core::Config), away: &[(&str, &[&str])]) -> World {
    let mut config =
        broker_core::Config { queue_overflow: QueueOverflow::Refuse, ..broker_core::Config::default() };
    change(&mut config);
    let mut world = World::with(config, open_house());
    for (id, filters) in away {
        let conn = world.open(id, durable("c"));
        for filter in *filters {
            world.subscribe(conn, filter, Q1);
        }
        world.lose(conn);
    }
    world
}

#[test]
fn a_message_that_fits_for_some_of_its_receivers_reaches_nobody() {
    let size = 5_000;
    // Room for as many copies, of which each takes somewhat more than its payload.
    for (room, code) in [(3, "00"), (2, "97")] {
        let away: [(&str, &[&str]); 3] = [("one", &["a"]), ("two", &["a"]), ("three", &["a"])];
        let mut world = refusing(|config| config.queues_bytes_max = room * size * 3 / 2, &away);
        let press = world.client("press");
        world.publish(press, "a", &"x".repeat(size), Q1);
        world.expect(press, [&*format!("PUBACK 1 {code}")]);
        let queued = away.map(|(id, _)| world.session(id, "c").unwrap().queued);
        assert_eq!(queued, [usize::from(code == "00"); 3]);
    }
}

#[test]
fn both_copies_of_one_session_have_to_fit() {
    for (room, code) in [(2, "00"), (1, "97")] {
        let mut world = refusing(|config| config.queue_messages_max = room, &[("ops", &["a", "$share/g/a"])]);
        let press = world.client("press");
        world.publish(press, "a", "x", Q1);
        world.expect(press, [&*format!("PUBACK 1 {code}")]);
        assert_eq!(world.session("ops", "c").unwrap().queued, if code == "00" { 2 } else { 0 });
    }
}

#[test]
fn where_the_receivers_rule_says_so_whoever_publishes_to_it_is_told() {
    let receiver = says(QueueOverflow::RefusePublishers, allow("ops", &[], &["a"]));
    let rules = vec![receiver, allow("press", &["a", "b"], &[]), allow("other", &[], &["b"])];
    let mut world = absent(rules);
    let press = world.client("press");
    let seen = publish_numbers(&mut world, press, 3);
    assert_eq!(seen, ["PUBACK 1 00", "PUBACK 1 00", "PUBACK 1 97"]);
    let old = world.open("press", v311("old"));
    world.publish(old, "a", "3", Q1);
    world.expect(old, ["CLOSE Protocol(QuotaExceeded)"]);
    // A receiver whose rule does not say so loses what it has no room for, and nobody else is concerned.
    let other = world.open("other", durable("c"));
    world.subscribe(other, "b", Q1);
    world.lose(other);
    for n in 1..=3 {
        world.publish(press, "b", &n.to_string(), Q1);
    }
    assert_eq!(world.take(press), ["PUBACK 1 00"; 3]);
    assert_eq!(world.broker.metrics().dropped.queue_full, 1);
    assert_eq!(kept(&mut world), ["1", "2"]);
    assert_eq!(publish_numbers(&mut world, press, 1), ["PUBACK 1 00"]);
}
