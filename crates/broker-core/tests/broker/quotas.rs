//! How much rules let identities keep: each quota with who is beyond it and who is not, across restarts and changes.

use crate::world::*;
use broker_core::{Config, ConnId};
use midge_policy::{QueueOverflow, Quota, Rule};
use mqtt_proto::{Packet, Publish};

fn limit(id: &str, quota: Quota) -> Rule {
    Rule { name: format!("quota-{id}"), quota: Some(quota), ..allow(id, &[], &[]) }
}

/// Everybody may do everything; `press` has a quota.
fn ruled(quota: Quota) -> Vec<Rule> {
    [open_house(), vec![limit("press", quota)]].concat()
}

fn sessions(max: u32) -> Quota {
    Quota { sessions: Some(max), ..Quota::default() }
}

fn subscriptions(max: u32) -> Quota {
    Quota { subscriptions: Some(max), ..Quota::default() }
}

fn queue_messages(max: u32) -> Quota {
    Quota { queue_messages: Some(max), ..Quota::default() }
}

#[test]
fn sessions_of_an_identity_are_as_many_as_its_rules_let_it_have() {
    let mut world = World::ruled(ruled(sessions(2)));
    let first = world.open("press", durable("a"));
    let second = world.open("press", v5("b"));
    world.audits();
    let third = world.connect("press", v5("c"));
    world.expect(third, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    assert_eq!(world.reason_strings(third), ["too many sessions"], "the rule is the operator's to know");
    assert_eq!(
        world.audits(),
        [
            "press/c connect denied 97: to connect as `c` would exceed the quota of rule `quota-press` (built in): \
          sessions = 2"
        ]
    );
    assert_eq!(world.broker.metrics().denials.connect, 1);
    let old = world.connect("press", v311("old"));
    world.expect(old, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    // Others have no quota.
    for n in 0..5 {
        world.open("other", v5(&n.to_string()));
    }
    // Its own are taken over, started anew, and resumed; one without a connection counts.
    world.open("press", v5("b"));
    world.expect(second, ["DISCONNECT 8E", "CLOSE TakenOver"]);
    world.lose(first);
    let refused = world.connect("press", v5("c"));
    assert_eq!(world.take(refused)[0], "CONNACK 97");
    let again = world.connect("press", durable("a"));
    world.expect(again, ["CONNACK 00 present"]);
    // What has ended makes room.
    let ended = world.open("press", v5("a"));
    world.lose(ended);
    world.open("press", v5("c"));
}

#[test]
fn sessions_beyond_a_new_quota_stay_and_none_is_added() {
    let mut world = World::ruled(ruled(sessions(3)));
    let conns = ["a", "b", "c"].map(|client| world.open("press", durable(client)));
    world.set_rules(ruled(sessions(1)));
    for conn in conns {
        world.quiet(conn);
        world.publish(conn, "t", "", Q1);
        world.expect(conn, ["PUBACK 1 10"]);
    }
    let refused = world.connect("press", v5("d"));
    assert_eq!(world.take(refused)[0], "CONNACK 97");
    // Nor after a restart, which keeps what there is.
    assert_eq!(world.crash(0).sessions, 3);
    let refused = world.connect("press", v5("d"));
    assert_eq!(world.take(refused)[0], "CONNACK 97");
    for client in ["a", "b", "c"] {
        let conn = world.connect("press", durable(client));
        world.expect(conn, ["CONNACK 00 present"]);
    }
    world.set_rules(ruled(sessions(4)));
    world.open("press", v5("d"));
    let refused = world.connect("press", v5("e"));
    assert_eq!(world.take(refused)[0], "CONNACK 97");
    world.set_rules(open_house());
    world.open("press", v5("e"));
}

#[test]
fn a_quota_lowers_the_cap_of_the_broker_and_never_raises_it() {
    let config = || Config { sessions_per_identity_max: 2, ..Config::default() };
    for (quota, expected) in [(1, 1), (5, 2)] {
        let mut world = World::with(config(), ruled(sessions(quota)));
        let opened = ["a", "b", "c"].map(|client| {
            let conn = world.connect("press", v5(client));
            world.take(conn)[0] == "CONNACK 00"
        });
        assert_eq!(opened.iter().filter(|opened| **opened).count(), expected);
    }
}

#[test]
fn a_quota_may_hold_on_one_listener() {
    let tls = Rule { listener: vec!["tls".into()], ..limit("press", sessions(1)) };
    let mut world = World::ruled([open_house(), vec![tls]].concat());
    world.open("press", v5("a"));
    let refused = world.connect("press", v5("b"));
    assert_eq!(world.take(refused)[0], "CONNACK 97");
    world.listener = listener("unix", midge_policy::SubscribeMode::Reject);
    world.open("press", v5("b"));
}

#[test]
fn subscriptions_of_a_session_are_as_many_as_rules_let_it_have() {
    let mut world = World::ruled(ruled(subscriptions(2)));
    let press = world.open("press", durable("c"));
    world.audits();
    world.send(press, subscribe([sub("a", Q0), sub("b", Q0), sub("c", Q0), sub("a", Q1)]));
    world.expect(press, ["SUBACK 77 [00 00 97 01]"]);
    assert_eq!(world.denials(), ["press/c subscribe denied c"]);
    assert_eq!(world.broker.metrics().denials.subscribe, 1);
    // Each session has its own, and who has no quota may have more.
    let old = world.open("press", v311("old"));
    world.send(old, subscribe([sub("a", Q0), sub("b", Q0), sub("c", Q0)]));
    world.expect(old, ["SUBACK 77 [00 00 80]"]);
    let other = world.client("other");
    world.send(other, subscribe([sub("a", Q0), sub("b", Q0), sub("c", Q0)]));
    world.expect(other, ["SUBACK 77 [00 00 00]"]);
    // What ends makes room, and what is there counts after a restart.
    world.send(press, unsubscribe(["a"]));
    world.send(press, subscribe([sub("c", Q0)]));
    world.expect(press, ["UNSUBACK 78 [00]", "SUBACK 77 [00]"]);
    assert_eq!(world.crash(0).subscriptions, 2);
    let other = world.client("other");
    let press = world.connect("press", durable("c"));
    world.expect(press, ["CONNACK 00 present"]);
    world.send(press, subscribe([sub("d", Q0), sub("c", Q0)]));
    world.expect(press, ["SUBACK 77 [97 00]"]);
    // With a smaller quota those that are there go on.
    world.set_rules(ruled(subscriptions(1)));
    world.publish(other, "b", "x", Q0);
    world.publish(other, "c", "x", Q0);
    world.expect(press, ["PUBLISH b \"x\" q0", "PUBLISH c \"x\" q0"]);
    world.send(press, subscribe([sub("b", Q1), sub("d", Q0)]));
    world.expect(press, ["SUBACK 77 [01 97]"]);
    world.set_rules(ruled(subscriptions(3)));
    world.send(press, subscribe([sub("d", Q0), sub("e", Q0)]));
    world.expect(press, ["SUBACK 77 [00 97]"]);
}

/// Publishes this retained at QoS 1 and returns the reason code.
fn retain(world: &mut World, conn: ConnId, topic: &str, len: usize) -> String {
    let message = Publish { retain: true, ..publish(topic, &"x".repeat(len), Q1) };
    world.send(conn, Packet::Publish(Box::new(message)));
    let seen = world.take(conn).concat();
    seen.strip_prefix("PUBACK 1 ").unwrap_or(&seen).to_owned()
}

#[test]
fn retained_messages_of_an_identity_are_as_many_as_rules_let_it_have() {
    let quota = |max| ruled(Quota { retained_messages: Some(max), ..Quota::default() });
    let mut world = World::ruled(quota(2));
    let (press, other) = (world.client("press"), world.client("other"));
    world.audits();
    let topics = ["a", "b", "c", "b"];
    assert_eq!(topics.map(|topic| retain(&mut world, press, topic, 1)), ["10", "10", "97", "10"]);
    assert_eq!(world.denials(), ["press/press publish denied c Arrival"]);
    assert_eq!(world.reason_strings(press), ["no room for another retained message"]);
    let metrics = world.broker.metrics();
    assert_eq!((metrics.dropped.retained_full, metrics.denials.publish), (1, 1));
    assert_eq!(["c", "d", "e"].map(|topic| retain(&mut world, other, topic, 1)), ["10"; 3]);
    // Another session of the identity has no other; who is not told gets it acknowledged, and QoS 0 is dropped.
    let old = world.open("press", v311("old"));
    assert_eq!(retain(&mut world, old, "f", 1), "00");
    let message = Publish { retain: true, ..publish("f", "x", Q0) };
    world.send(old, Packet::Publish(Box::new(message)));
    assert_eq!(world.broker.metrics().retained_messages, 5);
    // What is not retained is not limited, and removing makes room.
    world.publish(press, "f", "x", Q1);
    world.expect(press, ["PUBACK 1 10"]);
    assert_eq!(
        ["b", "f"].map(|topic| retain(&mut world, press, topic, usize::from(topic == "f"))),
        ["10"; 2]
    );
    world.crash(1);
    let (press, other) = (world.client("press"), world.client("other"));
    assert_eq!(["g", "f"].map(|topic| retain(&mut world, press, topic, 1)), ["97", "10"]);
    // With a smaller quota what is there stays, may be replaced, and grows no more.
    world.set_rules(quota(1));
    assert_eq!(["g", "f", "a"].map(|topic| retain(&mut world, press, topic, 1)), ["97", "10", "10"]);
    assert_eq!(retain(&mut world, other, "h", 1), "10");
    world.set_rules(quota(3));
    assert_eq!(["g", "i"].map(|topic| retain(&mut world, press, topic, 1)), ["10", "97"]);
}

#[test]
fn bytes_of_retained_messages_are_limited_as_their_number_is() {
    // 4 bytes of PUBLISH without its payload, at least, and 128 for keeping it.
    let quota = |max| ruled(Quota { retained_bytes: Some(max), ..Quota::default() });
    let mut world = World::ruled(quota(1_000));
    let (press, other) = (world.client("press"), world.client("other"));
    assert_eq!(retain(&mut world, press, "a", 800), "10");
    assert_eq!(retain(&mut world, press, "b", 1), "97");
    assert_eq!(retain(&mut world, press, "a", 900), "97");
    assert_eq!(retain(&mut world, press, "a", 300), "10");
    assert_eq!(retain(&mut world, press, "b", 300), "10");
    assert_eq!(retain(&mut world, other, "c", 5_000), "10");
    world.set_rules(quota(100));
    let lens = [301, 300, 200];
    assert_eq!(lens.map(|len| retain(&mut world, press, "a", len)), ["97", "10", "10"]);
    // Nor does a will that is retained add to it; it goes out all the same.
    world.subscribe(other, "w", Q0);
    let leaves = mqtt_proto::Connect { will: retained_will("w"), ..v5("will") };
    let conn = world.open("press", leaves);
    world.lose(conn);
    assert_eq!(world.take(other).len(), 1);
    assert_eq!(world.broker.metrics().retained_messages, 3);
}

// [MQTT-3.3.1-5]; 3.1.1 [MQTT-3.3.1-7]: who asks for what is retained must not be told what is no longer so.
#[test]
fn what_does_not_fit_leaves_nothing_retained_in_its_place() {
    let quota = ruled(Quota { retained_bytes: Some(140), ..Quota::default() });
    let mut world = World::ruled(quota);
    let (press, old) = (world.client("press"), world.open("press", v311("old")));
    let long = |qos| Publish { retain: true, ..publish("a", "0123456789", qos) };
    for (conn, qos) in [(press, Q0), (old, Q0), (old, Q1)] {
        assert_eq!(retain(&mut world, press, "a", 1), "10");
        world.send(conn, Packet::Publish(Box::new(long(qos))));
        assert_eq!(world.broker.metrics().retained_messages, 0);
    }
    // What is refused as a whole changes nothing.
    assert_eq!(retain(&mut world, press, "a", 1), "10");
    assert_eq!(retain(&mut world, press, "a", 10), "97");
    assert_eq!(world.broker.metrics().retained_messages, 1);
}

#[test]
fn what_expires_leaves_its_room_to_a_will_of_the_same_moment() {
    let mut world = World::ruled(ruled(Quota { retained_messages: Some(1), ..Quota::default() }));
    let press = world.client("press");
    let last = will("w", "gone", 5).map(|last| mqtt_proto::Will {
        message: mqtt_proto::Publication { retain: true, ..last.message },
        ..last
    });
    let mortal = world.open("press", mqtt_proto::Connect { will: last, ..durable("mortal") });
    let message = Publish { retain: true, ..expiring("a", "x", Q1, 5) };
    world.send(press, Packet::Publish(Box::new(message)));
    world.lose(mortal);
    world.pass_secs(5);
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q0);
    world.expect(ops, ["PUBLISH w \"gone\" q0 retain"]);
}

fn retained_will(topic: &str) -> Option<mqtt_proto::Will> {
    let mut will = will(topic, "gone", 0)?;
    will.message.retain = true;
    Some(will)
}

// What was held before PUBREL is delivered, and retained only as far as it fits then.
#[test]
fn a_message_that_is_released_later_is_held_against_the_quota_of_then() {
    let quota = |max| ruled(Quota { retained_messages: Some(max), ..Quota::default() });
    for (max, retained) in [(2, 2), (1, 1)] {
        let mut world = World::ruled(quota(2));
        let (press, other) = (world.client("press"), world.client("other"));
        world.subscribe(other, "b", Q0);
        assert_eq!(retain(&mut world, press, "a", 1), "10");
        let message = Publish { retain: true, ..publish("b", "x", Q2) };
        world.send(press, Packet::Publish(Box::new(message)));
        world.expect(press, ["PUBREC 1 00"]);
        world.set_rules(quota(max));
        world.send(press, Packet::PubRel(ack(1)));
        world.expect(press, ["PUBCOMP 1 00"]);
        world.expect(other, ["PUBLISH b \"x\" q0"]);
        assert_eq!(world.broker.metrics().retained_messages, retained);
    }
}

fn reads(quota: Quota, overflow: Option<QueueOverflow>) -> Vec<Rule> {
    let read = Rule { queue_overflow: overflow, ..allow("press", &[], &["a"]) };
    vec![limit("press", quota), read, allow("other", &["a"], &["a"])]
}

/// A session of `press` without a connection, and a publisher.
fn absent(rules: Vec<Rule>) -> (World, ConnId) {
    let mut world = World::ruled(rules);
    for id in ["press", "other"] {
        let conn = world.open(id, durable("c"));
        world.subscribe(conn, "a", Q1);
        world.lose(conn);
    }
    let source = world.client("other");
    (world, source)
}

fn send(world: &mut World, source: ConnId, texts: &str) -> Vec<String> {
    texts.chars().for_each(|text| world.publish(source, "a", &text.to_string(), Q1));
    world.take(source)
}

/// What waited for a session.
fn kept(world: &mut World, id: &str) -> String {
    let conn = world.connect(id, durable("c"));
    let seen = world.take(conn).into_iter().skip(1);
    seen.filter_map(|text| text.split('"').nth(1).map(str::to_owned)).collect()
}

#[test]
fn the_queue_of_a_session_is_as_long_as_rules_let_it_be() {
    // A message of one byte is 135 while it waits.
    let bytes = Quota { queue_bytes: Some(2 * 135), ..Quota::default() };
    for quota in [queue_messages(2), bytes] {
        for (overflow, expected) in
            [(None, "12"), (Some(QueueOverflow::DropNewest), "12"), (Some(QueueOverflow::DropOldest), "45")]
        {
            let (mut world, source) = absent(reads(quota, overflow));
            assert_eq!(send(&mut world, source, "12345"), ["PUBACK 1 00"; 5]);
            assert_eq!(world.broker.metrics().dropped.queue_full, 3);
            world.crash(0);
            assert_eq!(kept(&mut world, "press"), expected);
            assert_eq!(kept(&mut world, "other"), "12345", "who has no quota");
        }
    }
}

#[test]
fn a_publication_is_refused_for_a_queue_beyond_its_quota_where_its_rule_says_so() {
    let refuse = Rule { queue_overflow: Some(QueueOverflow::Refuse), ..allow("other", &["a"], &["a"]) };
    let mut rules = reads(queue_messages(2), None);
    rules[2] = refuse;
    let (mut world, source) = absent(rules);
    assert_eq!(send(&mut world, source, "123"), ["PUBACK 1 00", "PUBACK 1 00", "PUBACK 1 97"]);
    assert_eq!((kept(&mut world, "press"), kept(&mut world, "other")), ("12".into(), "12".into()));
}

#[test]
fn a_queue_longer_than_a_new_quota_shrinks_when_more_comes() {
    for (overflow, expected) in [(None, "1234"), (Some(QueueOverflow::DropOldest), "45")] {
        let (mut world, source) = absent(reads(queue_messages(4), overflow));
        send(&mut world, source, "1234");
        world.set_rules(reads(queue_messages(2), overflow));
        assert_eq!(world.session("press", "c").unwrap().queued, 4);
        send(&mut world, source, "5");
        assert_eq!(kept(&mut world, "press"), expected);
    }
    // Found at a start, it holds as well; without it there is room again.
    let (mut world, source) = absent(reads(queue_messages(4), None));
    send(&mut world, source, "12");
    world.change_rules_while_down(reads(queue_messages(2), None));
    world.crash(0);
    let source = world.open("other", v5("new"));
    send(&mut world, source, "3");
    world.set_rules(reads(queue_messages(2), None).split_off(1));
    send(&mut world, source, "4");
    assert_eq!(kept(&mut world, "press"), "124");
}

// A change counts from the next message on, before the work it leaves is done.
#[test]
fn a_new_quota_of_a_queue_does_not_wait_for_the_review() {
    let (mut world, source) = absent(reads(queue_messages(4), None));
    send(&mut world, source, "1");
    world.settling = false;
    world.set_rules(reads(queue_messages(2), None));
    assert!(world.broker.has_backlog());
    send(&mut world, source, "234");
    world.finish_backlog();
    assert_eq!(kept(&mut world, "press"), "12");
}
