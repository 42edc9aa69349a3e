//! What survives the end of the process, and what does not.

use crate::world::*;
use broker_core::{Config, Durability, SessionState};
use midge_policy::Rule;
use mqtt_proto::*;
use std::num::NonZeroU16;
use std::time::Duration;

/// CONNECT of 3.1.1 that keeps its session.
fn kept_v311(client_id: &str) -> Connect {
    Connect { clean_start: false, ..v311(client_id) }
}

#[test]
fn a_session_comes_back_with_its_subscriptions_and_what_waited_for_it() {
    for connect in [durable("ops"), kept_v311("ops")] {
        let mut world = World::new();
        let ops = world.open("ops", connect.clone());
        world.subscribe(ops, "a/+", Q1);
        world.lose(ops);
        let press = world.client("press");
        world.publish(press, "a/1", "one", Q1);
        world.publish(press, "a/1", "never kept", Q0);
        world.publish(press, "a/2", "two", Q2);
        world.send(press, Packet::PubRel(ack(1)));

        let restored = world.crash(10);
        assert_eq!((restored.sessions, restored.subscriptions, restored.queued), (1, 1, 2));
        assert_eq!((restored.messages, restored.orphans), (2, 0));

        let ops = world.connect("ops", connect);
        world.expect(
            ops,
            ["CONNACK 00 present", "PUBLISH a/1 \"one\" q1 #32768", "PUBLISH a/2 \"two\" q1 #32769"],
        );
        let press = world.client("press");
        world.publish(press, "a/3", "three", Q1);
        world.expect(ops, ["PUBLISH a/3 \"three\" q1 #1"]);
        world.expect(press, ["PUBACK 1 00"]);
        for id in [1, 32_768, 32_769] {
            world.send(ops, Packet::PubAck(ack(id)));
        }
        assert_eq!(world.disk.kinds(), "su", "what was acknowledged is gone");
    }
}

// [MQTT-4.1.0-1]: what ends with the connection is not on disk at all.
#[test]
fn a_clean_session_leaves_nothing() {
    let mut world = World::new();
    let ops = world.client("ops");
    world.subscribe(ops, "a", Q2);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    assert!(world.disk.is_empty());
    world.expect(press, ["PUBACK 1 00"]);

    assert_eq!(world.crash(1).sessions, 0);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00"]);
}

#[test]
fn with_durability_none_nothing_is_written() {
    let mut world = World::of(Config { durability: Durability::None, ..Config::default() }, open_house());
    let ops = world.open("ops", Connect { will: will("gone", "ops", 0), ..durable("ops") });
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.send(press, retained("kept", "x"));
    assert!(world.disk.is_empty());
    assert_eq!(world.crash(1), broker_core::Restored::default());
}

#[test]
fn retained_messages_come_back_as_they_were() {
    let mut world = World::new();
    let press = world.client("press");
    let properties = PublishProperties {
        payload_is_utf8: Some(true),
        content_type: Some("text/plain".into()),
        response_topic: Some(topic_name("answers")),
        correlation_data: Some(vec![1, 2].into()),
        user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        ..PublishProperties::default()
    };
    let full = Publish { retain: true, properties: Some(properties.clone().into()), ..publish("a", "x", Q1) };
    world.send(press, Packet::Publish(Box::new(full)));
    world.send(press, retained("b", "old"));
    world.send(press, retained("b", "new"));
    world.send(press, retained("c", "gone"));
    world.send(press, retained("c", ""));
    assert_eq!(world.disk.kinds(), "mmrr");

    assert_eq!(world.crash(1).retained, 2);
    let ops = world.client("ops");
    world.broker.handle_packet(ops, subscribe([sub("#", Q1)]), world.now);
    let mut found = None;
    while let Some(effect) = world.poll_effect() {
        if let broker_core::Effect::Deliver { delivery, .. } = effect {
            found = found.or(delivery.message.publication().properties.clone());
        }
    }
    assert_eq!(found.as_deref(), Some(&properties));
    let other = world.client("other");
    world.send(other, subscribe([sub("#", Q1)]));
    world.expect(other, ["SUBACK 77 [01]", "PUBLISH a \"x\" q1 #1 retain", "PUBLISH b \"new\" q0 retain"]);
}

// [MQTT-3.1.2-23], [MQTT-3.3.2-5]: the time the broker was down counts for sessions and for messages.
#[test]
fn time_goes_on_while_the_broker_is_down() {
    let mut world = World::new();
    for (id, secs) in [("short", 100), ("long", 200)] {
        let connect = Connect { session_expiry_secs: Some(secs), ..durable(id) };
        let conn = world.open(id, connect);
        world.subscribe(conn, "a", Q1);
        world.lose(conn);
    }
    let press = world.client("press");
    world.send(press, Packet::Publish(Box::new(expiring("a", "brief", Q1, 60))));
    world.send(press, Packet::Publish(Box::new(expiring("a", "lasting", Q1, 600))));
    world.pass_secs(50);

    world.crash(60);
    assert!(world.session("short", "short").is_none());
    world.pass_secs(20);
    let long = world.connect("long", durable("long"));
    world.expect(long, ["CONNACK 00 present", "PUBLISH a \"lasting\" q1 #32769 expiry=470"]);
    assert_eq!(world.broker.metrics().dropped.expired, 1);
}

#[test]
fn a_session_connected_at_the_crash_has_its_whole_time_from_the_restart() {
    let mut world = World::new();
    world.open("ops", Connect { session_expiry_secs: Some(100), ..durable("ops") });
    world.pass_secs(1_000);
    world.crash(1_000);
    world.pass_secs(99);
    let session = world.session("ops", "ops").unwrap();
    assert!(matches!(session.state, SessionState::Parked { ends: Some(_), .. }), "{session:?}");
    // That time is on disk as well: further crashes do not lengthen it.
    world.crash(1);
    assert!(world.session("ops", "ops").is_none());
    assert!(world.disk.is_empty());
}

// A box without a battery-backed clock may start in the past.
#[test]
fn a_clock_that_went_back_lengthens_nothing_beyond_what_it_was() {
    let mut world = World::new();
    let ops = world.open("ops", Connect { session_expiry_secs: Some(100), ..durable("ops") });
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.send(press, Packet::Publish(Box::new(expiring("a", "one", Q1, 80))));
    world.now.wall = world.now.wall.before(Duration::from_secs(100_000));

    world.crash(0);
    world.pass_secs(79);
    assert!(world.session("ops", "ops").is_some());
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768 expiry=1"]);
}

// [MQTT-3.1.2-8], [MQTT-3.1.2-10]: the network connection ended when the broker did.
#[test]
fn wills_of_clients_connected_at_a_crash_go_out_at_the_start() {
    let mut world = World::new();
    let watch = world.open("watch", durable("watch"));
    world.subscribe(watch, "gone/+", Q1);
    let publication = |text: &str| Will {
        message: Publication { qos: Q1, ..will("gone/x", text, 0).unwrap().message },
        delay_secs: 0,
    };
    world.open("brief", Connect { will: Some(publication("brief")), ..v5("brief") });
    world.open("kept", Connect { will: Some(publication("kept")), ..durable("kept") });
    let late = Some(Will { delay_secs: 100, ..publication("late") });
    world.open("late", Connect { will: late, ..durable("late") });
    let polite = world.open("polite", Connect { will: Some(publication("polite")), ..v5("polite") });
    world.send(polite, bye(ReasonCode::Success));

    assert_eq!(world.crash(1).wills, 3);
    world.pass_secs(99);
    let watch = world.connect("watch", durable("watch"));
    let mut seen = world.take(watch);
    seen.sort();
    assert_eq!(
        seen,
        ["CONNACK 00 present", "PUBLISH gone/x \"brief\" q1 #32769", "PUBLISH gone/x \"kept\" q1 #32768"]
    );
    world.pass_secs(1);
    world.expect(watch, ["PUBLISH gone/x \"late\" q1 #1"]);
    assert!(world.session("brief", "brief").is_none());
}

// [MQTT-3.1.2-8]: who does not come back after a planned stop is not taken for connected for ever.
#[test]
fn a_planned_stop_leaves_wills_to_the_next_start() {
    let mut world = World::new();
    let watch = world.open("watch", durable("watch"));
    world.subscribe(watch, "gone/+", Q1);
    let will = |topic: &str, delay_secs| {
        let message = Publication { qos: Q1, ..will(topic, "", 0).unwrap().message };
        Some(Will { message, delay_secs })
    };
    world.open("brief", Connect { will: will("gone/brief", 0), ..v5("brief") });
    world.open("kept", Connect { will: will("gone/kept", 100), ..durable("kept") });
    world.open("back", Connect { will: will("gone/back", 100), ..durable("back") });
    world.open("banned", Connect { will: will("gone/banned", 0), ..durable("banned") });
    let polite = world.open("polite", Connect { will: will("gone/polite", 0), ..v5("polite") });
    world.send(polite, bye(ReasonCode::Success));
    world.revoke("banned");
    world.take(watch);
    let restored = world.stop(1);
    world.expect(watch, ["DISCONNECT 8B", "CLOSE Drain"]);
    assert_eq!((restored.sessions, restored.wills), (3, 3));

    world.open("back", durable("back"));
    world.pass_secs(99);
    let watch = world.connect("watch", durable("watch"));
    world.expect(watch, ["CONNACK 00 present", "PUBLISH gone/brief \"\" q1 #32768"]);
    world.pass_secs(1);
    world.expect(watch, ["PUBLISH gone/kept \"\" q1 #1"]);
    world.pass_secs(1000);
    world.quiet(watch);
}

// [MQTT-3.1.2-4], [MQTT-3.2.2-2]: a session given up does not come back.
#[test]
fn a_clean_start_removes_the_stored_session() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.open("ops", v5("ops"));
    assert!(world.disk.is_empty());
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00"]);
}

#[test]
fn a_member_of_a_share_group_is_one_again() {
    let mut world = World::new();
    let one = world.open("one", durable("one"));
    world.subscribe(one, "$share/g/a", Q1);
    world.lose(one);
    let press = world.client("press");
    world.publish(press, "a", "1", Q1);

    world.crash(1);
    let two = world.open("two", durable("two"));
    world.subscribe(two, "$share/g/a", Q1);
    let one = world.connect("one", durable("one"));
    world.expect(one, ["CONNACK 00 present", "PUBLISH a \"1\" q1 #32768"]);
    // It is given on like any other message of the group.
    world.send(one, bye(ReasonCode::Success));
    world.revoke("one");
    world.expect(two, ["PUBLISH a \"1\" q1 #1"]);
}

// What waits is released at the quality of service that the receiver may have it with now.
#[test]
fn what_waits_is_released_at_the_quality_of_service_allowed_by_then() {
    let rules = |qos_max| vec![Rule { qos_max, ..allow("ops", &[], &["a"]) }, allow("press", &["#"], &[])];
    for (restarts, published, qos_max, expected) in [
        (false, Q2, Some(2), "q2 #"),
        (false, Q2, Some(1), "q1 #"),
        (false, Q2, Some(0), "q0"),
        (false, Q1, Some(0), "q0"),
        (true, Q1, None, "q1 #"),
        (true, Q2, Some(1), "q1 #"),
        (true, Q1, Some(0), "q0"),
    ] {
        let mut world = World::ruled(rules(None));
        let ops = world.open("ops", durable("ops"));
        world.subscribe(ops, "a", Q2);
        world.lose(ops);
        let press = world.client("press");
        world.publish(press, "a", "x", published);
        world.send(press, Packet::PubRel(ack(1)));
        if restarts {
            world.change_rules_while_down(rules(qos_max));
            world.crash(1);
        } else {
            world.set_rules(rules(qos_max));
        }
        let ops = world.connect("ops", durable("ops"));
        let seen = world.take(ops);
        let message = seen.last().unwrap();
        let is_right = message.starts_with(&format!("PUBLISH a \"x\" {expected}"));
        assert!(is_right, "{message} {restarts} {published:?}");
        if expected == "q0" {
            world.crash(1);
            let ops = world.connect("ops", durable("ops"));
            world.expect(ops, ["CONNACK 00 present"]);
        }
    }
}

// F20, F21: what was accepted under an older policy is not released against the one in force.
#[test]
fn what_policy_denies_by_now_does_not_come_back() {
    let rules = vec![allow("ops", &[], &["a", "b"]), allow("press", &["#"], &[])];
    let mut world = World::ruled(rules);
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.subscribe(ops, "b", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.publish(press, "b", "two", Q1);
    world.send(press, Packet::Publish(Box::new(Publish { retain: true, ..publish("b", "kept", Q1) })));

    // `ops` loses `a`, `press` loses `b`.
    world.change_rules_while_down(vec![allow("ops", &[], &["b"]), allow("press", &["a", "c"], &[])]);
    let restored = world.crash(1);
    assert_eq!((restored.subscriptions, restored.subscriptions_denied), (1, 1));
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present"]);
    world.send(ops, subscribe([sub("b", Q1)]));
    world.expect(ops, ["SUBACK 77 [01]"]);
    // The retained message is only withheld: the right to it may come back.
    assert_eq!(world.disk.kinds(), "sumr");
}

#[test]
fn what_policy_still_allows_comes_back() {
    let rules = vec![allow("ops", &[], &["a"]), allow("press", &["a"], &[])];
    let mut world = World::ruled(rules.clone());
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.change_rules_while_down(rules);
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #32768"]);
}

// More may wait after a restart than a queue takes, since what was in flight waits too: none of it is dropped.
#[test]
fn a_full_queue_with_a_full_window_comes_back_whole() {
    let mut world = World::limited(|config| {
        config.queue_messages_max = 3;
        config.inflight_max = NonZeroU16::new(2).unwrap();
    });
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    let press = world.client("press");
    for n in 0..5 {
        world.publish(press, "a", &n.to_string(), Q1);
    }
    assert_eq!(world.crash(1).queued, 5);
    let ops = world.connect("ops", durable("ops"));
    for id in [1, 2, 32_768, 32_769, 32_770] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    let payloads: Vec<_> =
        world.take(ops).into_iter().filter_map(|text| Some(text.split('"').nth(1)?.to_owned())).collect();
    assert_eq!(payloads, ["0", "1", "2", "3", "4"]);
}

/// Everybody may do everything; what is published below `brief` or `safe` has a durability of its own.
fn levels() -> Vec<Rule> {
    let rule = |topic: &str, durability| Rule {
        name: topic.into(),
        id: "spiffe://plant/**".into(),
        publish: vec![format!("{topic}/#")],
        durability,
        ..Rule::default()
    };
    let listen = Rule {
        name: "listen".into(),
        id: "spiffe://plant/**".into(),
        subscribe: vec!["#".into()],
        ..Rule::default()
    };
    vec![
        rule("brief", Some(Durability::None)),
        rule("safe", Some(Durability::PowerLoss)),
        rule("plain", None),
        listen,
    ]
}

#[test]
fn a_rule_says_what_its_messages_survive() {
    for (broker, survives) in [
        (Durability::None, vec!["safe/a"]),
        (Durability::ProcessCrash, vec!["safe/a", "plain/a"]),
        (Durability::PowerLoss, vec!["safe/a", "plain/a"]),
    ] {
        let mut world = World::of(Config { durability: broker, ..Config::default() }, levels());
        let ops = world.open("ops", durable("ops"));
        world.subscribe(ops, "#", Q1);
        world.lose(ops);
        let press = world.client("press");
        for topic in ["brief/a", "safe/a", "plain/a"] {
            world.publish(press, topic, "x", Q1);
        }
        let restored = world.crash(1);
        assert_eq!(restored.queued, survives.len() as u64, "{broker:?}");
        let ops = world.connect("ops", durable("ops"));
        let seen = world.take(ops);
        assert_eq!(seen.len(), 1 + survives.len());
        assert!(survives.iter().all(|topic| seen.iter().any(|text| text.contains(topic))), "{seen:?}");
    }
}

#[test]
fn a_batch_is_as_safe_as_the_safest_of_its_changes() {
    let mut world = World::with(Config::default(), levels());
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "#", Q1);
    let press = world.client("press");
    world.disk.is_quick = false;
    for topic in ["brief/a", "safe/a", "plain/a"] {
        world.publish(press, topic, "x", Q1);
    }
    let levels: Vec<_> = world.disk.pending.iter().map(|batch| batch.level()).collect();
    assert_eq!(levels, [Durability::PowerLoss, Durability::ProcessCrash]);
    // An acknowledgement by a receiver is nothing that anybody waits for.
    world.send(ops, Packet::PubAck(ack(2)));
    assert_eq!(world.disk.pending.last().map(|batch| batch.level()), Some(Durability::None));
}

// [MQTT-3.1.2-8]: the delay of a will runs from the first end of the broker, however often it ends again.
#[test]
fn the_delay_of_a_will_runs_on_over_several_restarts() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "w", Q1);
    let mut last = will("w", "gone", 10).unwrap();
    last.message.qos = Q1;
    world.open("press", Connect { will: Some(last), ..durable("c") });
    for down_secs in [0, 4, 5] {
        world.crash(down_secs);
        assert_eq!(world.session("ops", "ops").unwrap().queued, 0, "after {down_secs} more");
    }
    world.crash(1);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 1);
}

#[test]
fn a_subscription_comes_back_with_all_it_asked_for() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    let asked = Subscription { no_local: true, retain_as_published: true, ..sub("a", Q1) };
    world.send(ops, subscribe_with_id(Some(7), [asked]));
    world.crash(1);
    let ops = world.connect("ops", durable("ops"));
    world.take(ops);
    let press = world.client("press");
    world.send(press, retained("a", "other"));
    world.send(ops, retained("a", "own"));
    world.expect(ops, ["PUBLISH a \"other\" q0 retain ids=[7]"]);
}
