//! F17 to F24, F27, F30: filters, prefixes and topics.

use super::course::{Course, message, retained_message, shared_message};
use super::journey;
use super::steps::*;
use crate::world::*;
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, Publish, SharedFilter};
use std::num::NonZeroU16;

/// Codes of a SUBSCRIBE with all these filters, by an identity that may subscribe to `allowed`.
fn codes<const N: usize>(allowed: &[&str], deny: &[&str], filters: [&str; N]) -> String {
    let deny_subscribe = deny.iter().map(|text| (*text).to_owned()).collect();
    let mut world = World::ruled(vec![Rule { deny_subscribe, ..allow("ops", &[], allowed) }]);
    let ops = world.client("ops");
    world.send(ops, subscribe(filters.map(|filter| sub(filter, Q0))));
    world.take(ops).remove(0).replace("SUBACK 77 ", "")
}

#[test]
fn f17_a_filter_is_granted_only_where_everything_it_matches_is_allowed() {
    for (allowed, wider, twin) in [
        (&["+"] as &[_], "#", "+"),
        (&["a/+"], "a/#", "a/+"),
        (&["a/+/#"], "a/#", "a/+/#"),
        (&["a/+/#"], "a", "a/b/#"),
        (&["a/#"], "+", "a"),
        (&["a/b"], "a/+", "a/b"),
        (&["+/b"], "+/+", "x/b"),
        (&["a", "a/+"], "a/#", "a/+"),
        (&["a", "a/+", "a/+/+"], "a/#", "a/b/c"),
    ] {
        assert_eq!(codes(allowed, &[], [wider, twin]), "[87 00]", "{allowed:?}: {wider}");
    }
    // A union that covers it is as good as one rule that does.
    assert_eq!(codes(&["a", "a/+", "a/+/+/#"], &[], ["a/#"]), "[00]");
    assert_eq!(codes(&["+/#"], &[], ["#"]), "[00]");
    // A filter that was covered, until it is not: `#` once its owner may have no more than what looks like the topic.
    let wide = Course { is_wide: true, ..message(Q1) };
    journey(&wide, &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES]);
}

#[test]
fn f18_a_wider_wildcard_does_not_evade_a_deny() {
    let filters = ["#", "+/#", "a/#", "a/+", "a/secret", "+/secret", "$share/g/#"];
    assert_eq!(codes(&["#"], &["a/secret"], filters), "[87 87 87 87 87 87 87]");
    assert_eq!(codes(&["#"], &["a/secret"], ["b/#", "a/open", "+/open"]), "[00 00 00]");
    assert_eq!(codes(&["#"], &["b/secret"], ["a/#", "a/+", "a/secret", "+/open"]), "[00 00 00 00]");
    // Where the deny is of receiving, the filter stands and the topic is left out, live and retained.
    let denied = Rule { deny_receive: vec!["a/secret".into()], ..allow("ops", &[], &["#"]) };
    let mut world = World::ruled(vec![denied, allow("press", &["#"], &[])]);
    let (press, ops) = (world.client("press"), world.client("ops"));
    for filter in ["#", "+/#", "a/#", "a/+", "a/secret", "+/secret", "$share/g/#"] {
        world.send(press, retained("a/secret", "x"));
        world.send(ops, subscribe([sub(filter, Q0)]));
        world.publish(press, "a/secret", "x", Q0);
        world.expect(ops, ["SUBACK 77 [00]"]);
        world.send(ops, unsubscribe([filter]));
        world.take(ops);
    }
    world.subscribe(ops, "a/+", Q0);
    world.publish(press, "a/open", "x", Q0);
    world.expect(ops, ["PUBLISH a/open \"x\" q0"]);
    let wide = Course { is_wide: true, ..retained_message(Q0) };
    journey(&wide, &[PRESS_CONNECTS, PUBLISHES, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES]);
}

#[test]
fn f19_no_prefix_skips_the_check() {
    assert_eq!(codes(&["a/#"], &[], ["$share/g/b", "$share/g/#", "$share/g/a/#"]), "[87 87 00]");
    // To this broker these are names like any other, and they begin with `$`.
    let others = ["$queue/a", "$exclusive/a", "$delayed/5/a", "$shared/g/a", "$SHARE/g/a", "$share"];
    for filter in others {
        assert!(SharedFilter::new(filter).map_or(true, |filter| filter.group.is_none()), "{filter}");
    }
    let granted = ["$queue/a", "$exclusive/a", "$delayed/5/a", "$shared/g/a", "$SHARE/g/a"];
    assert_eq!(codes(&["#", "a"], &[], granted), "[87 87 87 87 87]");
    // A group has no part in the right, nor can it bring one along.
    assert_eq!(codes(&["a"], &[], ["$share/a/b", "$share/b/a"]), "[87 00]");
    for is_wide in [false, true] {
        let shared = Course { is_wide, ..shared_message(Q0) };
        journey(&shared, &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES, PUBLISHES]);
    }
}

#[test]
fn f20_every_filter_of_a_subscribe_is_decided_by_itself() {
    assert_eq!(codes(&["a", "b"], &[], ["a", "c", "b", "#", "$share/g/c", "a"]), "[00 87 00 87 87 00]");
    let mut world = World::ruled(vec![allow("ops", &[], &["a", "b"]), allow("press", &["#"], &[])]);
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(ops, subscribe([sub("a", Q0), sub("c", Q0), sub("b", Q0)]));
    world.take(ops);
    for topic in ["a", "b", "c"] {
        world.publish(press, topic, "x", Q0);
    }
    world.expect(ops, ["PUBLISH a \"x\" q0", "PUBLISH b \"x\" q0"]);
    world.send(ops, unsubscribe(["c", "a"]));
    world.expect(ops, ["UNSUBACK 78 [11 00]"]);
    let asks_for_more: Step = |stage| {
        let filter = stage.course.filter();
        let all = ["open", "denied", "#", "denied/#", filter.as_str(), "secret/+", "+"];
        stage.ops_sends(subscribe(all.map(|filter| sub(filter, Q1))));
    };
    journey(&message(Q1), &[PRESS_CONNECTS, OPS_CONNECTS, asks_for_more, PUBLISHES]);
}

#[test]
fn f21_no_name_of_a_client_becomes_a_wildcard_or_a_level() {
    // What fills a capture is a segment of a SPIFFE ID: nothing else can be one.
    for segment in ["+", "#", "a/#", "a+", "", "..", ".", "a\0", "a\n", "ä", "а", "%2f", "{td}", "a b", "a*"]
    {
        let id = format!("spiffe://plant/mapper/{segment}/x");
        let parsed = midge_identity::parse_spiffe_id(&id);
        assert!(parsed.is_err(), "{segment:?}");
    }
    let rule = Rule {
        name: "own".into(),
        id: "spiffe://plant/mapper/{device}".into(),
        publish: vec!["d/{device}/x".into()],
        ..Rule::default()
    };
    let mut world = World::ruled(vec![rule]);
    // Client id and user name are the client's own words: they widen nothing.
    for name in ["+", "#", "mapper/other", "spiffe://plant/mapper/other", "a/+/b"] {
        let connect = Connect { username: Some(name.into()), ..v5(name) };
        let conn = world.open("mapper/led", connect);
        for (topic, code) in [("d/led/x", "10"), ("d/other/x", "87"), ("d/x", "87"), ("d/led/x/y", "87")] {
            world.publish(conn, topic, "", Q1);
            assert_eq!(world.take(conn), [format!("PUBACK 1 {code}")], "{name} {topic}");
        }
        world.lose(conn);
    }
    let filled_in = Course { is_filled_in: true, topic: "line/press/secret", ..message(Q1) };
    journey(&filled_in, &[OPS_LISTENS, PRESS_CONNECTS, SAYS, INTRUDES, SAYS]);
}

#[test]
fn f22_a_name_is_matched_whole() {
    let rules = vec![
        allow("acme", &["allowed", "a/b"], &["allowed", "a/b"]),
        Rule {
            name: "sub".into(),
            id: "spiffe://plant/acme/*".into(),
            publish: vec!["one".into()],
            ..Rule::default()
        },
    ];
    let mut world = World::ruled(rules);
    let published = |world: &mut World, id: &str, topic: &str| {
        let conn = world.open(id, v5("c"));
        world.publish(conn, topic, "", Q1);
        let code = world.take(conn).remove(0);
        world.lose(conn);
        code == "PUBACK 1 10"
    };
    assert!(published(&mut world, "acme", "allowed") && published(&mut world, "acme", "a/b"));
    for topic in [
        "allowed/secret",
        "allowe",
        "allowedx",
        "xallowed",
        "x/allowed",
        "a",
        "a/bc",
        "a/b/c",
        "/a/b",
        "a//b",
        "A/b",
    ] {
        assert!(!published(&mut world, "acme", topic), "{topic}");
    }
    for id in ["acmex", "xacme", "acme.x", "x/acme", "Acme"] {
        assert!(!published(&mut world, id, "allowed"), "{id}");
    }
    assert!(published(&mut world, "acme/x", "one"));
    assert!(!published(&mut world, "acme/x/y", "one") && !published(&mut world, "acme", "one"));
    assert_eq!(codes(&["allowed"], &[], ["allowed/#", "allowed/+", "allowed"]), "[87 87 00]");
    // Who loses a topic keeps every one that looks like it.
    let deep = Course { topic: "a/b/secret", ..message(Q0) };
    journey(&deep, &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES]);
}

#[test]
fn f23_the_topic_that_is_delivered_is_the_one_that_was_decided() {
    let mut world = World::ruled(vec![allow("press", &["a", "b"], &[]), allow("ops", &[], &["#"])]);
    let ops = world.open("ops", Connect { topic_alias_max: 8, ..v5("c") });
    world.subscribe(ops, "#", Q0);
    world.subscribe(ops, "$share/g/#", Q0);
    let press = world.client("press");
    let aliased = |topic: Option<&str>| {
        let (topic, topic_alias) = (topic.map(topic_name), NonZeroU16::new(1));
        Packet::Publish(Box::new(Publish { topic, topic_alias, ..publish("-", "x", Q0) }))
    };
    // One alias for several topics, one of them denied: what it stands for is decided at each use.
    for (topic, allowed) in [("a", true), ("c", false), ("b", true), ("a/", false), ("/a", false)] {
        world.send(press, aliased(Some(topic)));
        world.send(press, aliased(None));
        let seen = world.take(ops);
        assert_eq!(seen.len(), if allowed { 4 } else { 0 }, "{topic}: {seen:?}");
        for text in seen {
            assert!(text.starts_with(&format!("PUBLISH {topic} ")), "{text}");
        }
    }
    let by_alias: Step = |stage| {
        for topic in [Some("open"), Some("secret"), None, Some("open")] {
            let payload = stage.payload();
            let (topic, topic_alias) = (topic.map(topic_name), NonZeroU16::new(1));
            let packet = Publish { topic, topic_alias, ..stage.course.publish(&payload) };
            stage.press_sends(Packet::Publish(Box::new(packet)));
        }
    };
    let ops_connects: Step = |stage| stage.ops_connects(Connect { topic_alias_max: 1, ..durable("c") });
    journey(&message(Q0), &[PRESS_CONNECTS, ops_connects, OPS_SUBSCRIBES, by_alias, by_alias]);
}

#[test]
fn f24_topics_of_the_system_are_reached_by_name_only() {
    let named = Rule { name: "named".into(), ..allow("boss", &["$SYS/x"], &["$SYS/#", "$identity/#"]) };
    let mut world = World::ruled(vec![allow("press", &["#", "+/#"], &["#", "+/#"]), named]);
    let (press, boss) = (world.client("press"), world.client("boss"));
    world.send(press, subscribe([sub("#", Q0), sub("+/x", Q0)]));
    world.send(boss, subscribe([sub("$SYS/#", Q0)]));
    world.expect(press, ["SUBACK 77 [00 00]"]);
    world.expect(boss, ["SUBACK 77 [00]"]);
    for topic in ["$SYS/x", "$CONTROL/dynamic-security/v1", "$MQTT/x", "$internal/x", "$identity/x", "$"] {
        world.publish(press, topic, "x", Q1);
        world.expect(press, ["PUBACK 1 87"]);
        world.send(press, subscribe([sub(topic, Q0), sub(&format!("{topic}/#"), Q0)]));
        world.expect(press, ["SUBACK 77 [87 87]"]);
        let refused = world.connect("press", Connect { will: will(topic, "x", 0), ..v5("d") });
        world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
        let own = mqtt_proto::Publication { topic: topic_name(topic), ..will("x", "y", 0).unwrap().message };
        world.broker.handle_own_publication(own, world.now);
        world.drain();
        world.quiet(press);
    }
    world.expect(boss, ["PUBLISH $SYS/x \"y\" q0"]);
    world.publish(boss, "$SYS/x", "x", Q1);
    world.expect(boss, ["PUBLISH $SYS/x \"x\" q0", "PUBACK 1 00"]);
    world.quiet(press);
    let system = Course { topic: "$box/secret", ..message(Q1) };
    journey(&system, &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES, OPS_IS_LOST, OPS_CONNECTS]);
}

#[test]
fn f27_a_response_topic_takes_a_right_of_the_requesters_own() {
    fn asking(answer: &str) -> Packet {
        let properties = mqtt_proto::PublishProperties {
            response_topic: Some(topic_name(answer)),
            ..mqtt_proto::PublishProperties::default()
        };
        Packet::Publish(Box::new(Publish {
            properties: Some(std::sync::Arc::new(properties)),
            ..publish("ask", "x", Q1)
        }))
    }
    let rules = |reply: &[&str], own: &[&str]| {
        let response_topics = reply.iter().map(|text| (*text).to_owned()).collect();
        let mut asks = Rule { response_topics, ..allow("press", &["ask"], &["answer/#"]) };
        asks.publish.extend(own.iter().map(|text| (*text).to_owned()));
        // The one who answers may publish anywhere.
        vec![asks, allow("boss", &["#"], &["ask"])]
    };
    let mut world = World::ruled(rules(&[], &[]));
    let (press, boss) = (world.client("press"), world.client("boss"));
    world.subscribe(boss, "ask", Q0);
    // By a permit without Response Topic, remembered, nothing is won.
    world.publish(press, "ask", "x", Q1);
    world.expect(press, ["PUBACK 1 00"]);
    for (reply, own, answer, allowed) in [
        (&[] as &[_], &[] as &[_], "cmd/stop", false),
        (&[], &[], "answer/1", false),
        (&["answer/+"], &[], "answer/1", true),
        (&["answer/+"], &[], "cmd/stop", false),
        (&[], &["answer/1"], "answer/1", true),
        (&[], &["answer/1"], "answer/2", false),
    ] {
        world.set_rules(rules(reply, own));
        world.take(boss);
        for _ in 0..2 {
            world.send(press, asking(answer));
            world.expect(press, [if allowed { "PUBACK 1 00" } else { "PUBACK 1 87" }]);
        }
        assert_eq!(world.take(boss).len(), if allowed { 2 } else { 0 }, "{answer}");
    }
    // Nor does a will carry one that its owner may not name, nor a message that waited.
    world.set_rules(rules(&["answer/+"], &[]));
    let mut last = will("ask", "gone", 0).unwrap();
    let Packet::Publish(asking) = asking("answer/1") else { panic!() };
    last.message.properties = asking.properties;
    let conn = world.open("press", Connect { will: Some(last.clone()), ..v5("d") });
    world.set_rules(rules(&[], &[]));
    world.lose(conn);
    world.quiet(boss);
    let refused = world.connect("press", Connect { will: Some(last), ..v5("d") });
    world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    // Every message of a journey names one: here it is retained, waits, and is asked for again after that.
    journey(&retained_message(Q2), &[PRESS_CONNECTS, SAYS, RELEASES, OPS_CONNECTS, OPS_SUBSCRIBES]);
}

#[test]
fn f29_rules_of_one_listener_hold_on_no_other() {
    let local = Rule {
        name: "local".into(),
        listener: vec!["unix".into()],
        ..allow("press", &["local"], &["local"])
    };
    let mut world =
        World::ruled(vec![local, allow("press", &["both"], &["both"]), allow("ops", &["#"], &["#"])]);
    let ops = world.client("ops");
    world.subscribe(ops, "local", Q1);
    for (name, allowed) in [("unix", true), ("tls", false), ("unix2", false), ("", false)] {
        world.listener = listener(name, midge_policy::SubscribeMode::Reject);
        let conn = world.open("press", Connect { will: will("both", "", 0), ..v5("c") });
        world.publish(conn, "local", "x", Q1);
        world.send(conn, subscribe([sub("local", Q0), sub("both", Q0)]));
        let code = |allowed: bool| if allowed { "00" } else { "87" };
        world.expect(
            conn,
            [&*format!("PUBACK 1 {}", code(allowed)), &*format!("SUBACK 77 [{} 00]", code(allowed))],
        );
        assert_eq!(world.take(ops).len(), usize::from(allowed));
        world.send(conn, bye(mqtt_proto::ReasonCode::Success));
    }
    // A session that goes on by another listener goes on with the rights it has there, and so does what waits.
    world.listener = listener("unix", midge_policy::SubscribeMode::Reject);
    let conn = world.open("press", durable("kept"));
    world.subscribe(conn, "local", Q1);
    world.lose(conn);
    world.publish(ops, "local", "waits", Q1);
    world.listener = listener("tls", midge_policy::SubscribeMode::Reject);
    let conn = world.connect("press", durable("kept"));
    world.expect(conn, ["CONNACK 00 present"]);
    assert_eq!(world.session("press", "kept").unwrap().subscriptions, []);
    // The same where both listeners are the same.
    world.listener = listener("unix", midge_policy::SubscribeMode::Reject);
    let conn = world.open("press", durable("twin"));
    world.subscribe(conn, "local", Q1);
    world.lose(conn);
    world.publish(ops, "local", "waits", Q1);
    let conn = world.connect("press", durable("twin"));
    assert_eq!(world.take(conn).len(), 2);
}

#[test]
fn f30_to_know_a_topic_is_no_right_to_it() {
    let topic = "line/3f9c2d1e8b7a4c60/state";
    let mut world = World::ruled(vec![
        allow("press", &[topic], &[]),
        allow("ops", &[], &[topic]),
        allow("curious", &["own"], &["own"]),
    ]);
    let (press, ops, curious) = (world.client("press"), world.client("ops"), world.client("curious"));
    world.subscribe(ops, topic, Q0);
    world.send(curious, subscribe([sub(topic, Q0), sub("line/+/state", Q0), sub("own", Q0)]));
    world.expect(curious, ["SUBACK 77 [87 87 00]"]);
    // Whether somebody listens there is not told either.
    for topic in [topic, "line/nobody/state"] {
        world.publish(curious, topic, "forged", Q1);
        world.expect(curious, ["PUBACK 1 87"]);
    }
    world.publish(press, topic, "x", Q0);
    world.expect(ops, [&*format!("PUBLISH {topic} \"x\" q0")]);
    world.quiet(curious);
    let known = Course { topic: "line/3f9c2d1e8b7a4c60/state", ..retained_message(Q1) };
    journey(&known, &[PRESS_CONNECTS, INTRUDES, PUBLISHES, OPS_CONNECTS, INTRUDES, OPS_SUBSCRIBES]);
}
