//! `$SYS`: what is published, and that only changes are.

use crate::world::*;
use broker_core::{Metrics, SysFacts, SysTopics};
use mqtt_proto::{Connect, Packet};
use std::collections::BTreeMap;
use std::time::Duration;

fn facts(secs: u64) -> SysFacts {
    SysFacts { uptime: Duration::from_secs(secs), ..SysFacts::default() }
}

fn updated(topics: &mut SysTopics, metrics: &Metrics, facts: &SysFacts) -> BTreeMap<String, String> {
    let publications = topics.update(metrics, facts).into_iter();
    publications
        .map(|publication| {
            assert!(publication.retain && publication.topic.as_str().starts_with("$SYS/"));
            let value = String::from_utf8(publication.payload.to_vec()).unwrap();
            (publication.topic.to_string(), value)
        })
        .collect()
}

#[test]
fn figures_stand_under_mosquittos_names() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q1);
    for payload in ["1", "22"] {
        world.publish(press, "a", payload, Q0);
    }
    world.lose(ops);
    world.send(press, retained("kept", "x"));
    let before = world.broker.metrics();
    world.publish(press, "a", "333", Q1);
    let waits = world.broker.metrics();
    assert_eq!((before.waiting_messages, waits.waiting_messages), (0, 1));
    assert!(before.waiting_bytes == 0 && waits.waiting_bytes > 3);
    let facts = SysFacts {
        uptime: Duration::from_secs(61),
        bytes_in: 1_000,
        bytes_out: 2_000,
        sockets: 3,
        others: vec![("midge/lease/until".into(), "never".into())],
    };
    let seen = updated(&mut SysTopics::default(), &world.broker.metrics(), &facts);
    for (name, value) in [
        ("broker/uptime", "61 seconds"),
        ("broker/clients/total", "2"),
        ("broker/clients/connected", "1"),
        ("broker/clients/disconnected", "1"),
        ("broker/clients/maximum", "2"),
        // Two CONNECTs, a SUBSCRIBE, four PUBLISHes; two CONNACKs, a SUBACK, two PUBLISHes, a PUBACK.
        ("broker/messages/received", "7"),
        ("broker/messages/sent", "6"),
        ("broker/messages/stored", "2"),
        ("broker/store/messages/count", "2"),
        ("broker/publish/messages/received", "4"),
        ("broker/publish/messages/sent", "2"),
        ("broker/publish/bytes/received", "7"),
        ("broker/publish/bytes/sent", "3"),
        ("broker/publish/messages/dropped", "0"),
        ("broker/bytes/received", "1000"),
        ("broker/bytes/sent", "2000"),
        ("broker/subscriptions/count", "1"),
        ("broker/retained messages/count", "1"),
        ("midge/lease/until", "never"),
    ] {
        assert_eq!(seen.get(&format!("$SYS/{name}")).map(String::as_str), Some(value), "{name}");
    }
}

// What waits is counted where it is: in queues, in flight, and before its release; and no more once it is gone.
#[test]
fn what_waits_for_clients_is_counted_until_it_is_gone() {
    let mut world = World::new();
    let (press, ops) = (world.open("press", durable("press")), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q2);
    let waiting = |world: &World| {
        let metrics = world.broker.metrics();
        assert_eq!(metrics.waiting_messages == 0, metrics.waiting_bytes == 0);
        metrics.waiting_messages
    };
    world.publish(press, "a", "one", Q1);
    assert_eq!(waiting(&world), 1);
    world.send(ops, Packet::PubAck(ack(1)));
    assert_eq!(waiting(&world), 0);
    world.publish(press, "a", "two", Q2);
    assert_eq!(waiting(&world), 1);
    world.send(press, Packet::PubRel(ack(1)));
    assert_eq!(waiting(&world), 1);
    world.send(ops, Packet::PubRec(ack(2)));
    assert_eq!(waiting(&world), 0);
    world.lose(ops);
    for payload in ["three", "four"] {
        world.publish(press, "a", payload, Q1);
    }
    assert_eq!(waiting(&world), 2);
    // Taken up again, and gone with the session.
    let ops = world.connect("ops", durable("ops"));
    assert_eq!(waiting(&world), 2);
    world.lose(ops);
    world.open("ops", Connect { clean_start: true, ..durable("ops") });
    assert_eq!(waiting(&world), 0);
}

#[test]
fn only_what_has_changed_is_published() {
    let mut topics = SysTopics::default();
    let mut metrics = Metrics::default();
    assert!(updated(&mut topics, &metrics, &facts(10)).len() > 20);
    assert_eq!(updated(&mut topics, &metrics, &facts(10)), BTreeMap::new());
    metrics.denials.publish = 1;
    let changed = updated(&mut topics, &metrics, &facts(20));
    let expected = [("$SYS/broker/uptime", "20 seconds"), ("$SYS/midge/denials/publish", "1")];
    assert_eq!(changed, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    // What is largest stays when the rest goes.
    metrics.sessions = 5;
    assert_eq!(updated(&mut topics, &metrics, &facts(30))["$SYS/broker/clients/maximum"], "5");
    metrics.sessions = 1;
    let changed = updated(&mut topics, &metrics, &facts(40));
    assert!(
        !changed.contains_key("$SYS/broker/clients/maximum") && changed["$SYS/broker/clients/total"] == "1"
    );
}

#[test]
fn load_is_averaged_per_minute_and_comes_to_rest() {
    let mut topics = SysTopics::default();
    let mut metrics = Metrics::default();
    let name = |window: &str| format!("$SYS/broker/load/publish/received/{window}");
    let mut last = BTreeMap::new();
    // Ten a second for an hour.
    for tick in 1..=360 {
        metrics.messages_in += 100;
        last.extend(updated(&mut topics, &metrics, &facts(tick * 10)));
    }
    assert_eq!(last[&name("1min")], "599.94");
    assert!(last[&name("15min")].parse::<f64>().unwrap() > 585.0);
    // Then silence: the short window forgets first, and in the end nothing more is published.
    let mut quiet_since = 0;
    for tick in 361..=1_500 {
        let changed = updated(&mut topics, &metrics, &facts(tick * 10));
        if changed.keys().any(|topic| topic.contains("/load/")) {
            quiet_since = tick;
        }
        last.extend(changed);
    }
    assert!(quiet_since < 1_300, "{quiet_since}");
    assert!(last[&name("1min")].parse::<f64>().unwrap() < 0.1);
}

#[test]
fn receivers_rights_decide_over_sys() {
    let mut world = World::ruled(vec![allow("ops", &[], &["$SYS/broker/#"]), allow("press", &["#"], &["#"])]);
    let (ops, press) = (world.client("ops"), world.client("press"));
    world.send(ops, subscribe([sub("$SYS/broker/uptime", Q0), sub("$SYS/midge/#", Q0)]));
    world.expect(ops, ["SUBACK 77 [00 87]"]);
    world.send(press, subscribe([sub("#", Q0), sub("$SYS/#", Q0)]));
    world.expect(press, ["SUBACK 77 [00 87]"]);
    for publication in SysTopics::default().update(&Metrics::default(), &facts(7)) {
        world.broker.handle_own_publication(publication, world.now);
    }
    world.drain();
    world.expect(ops, ["PUBLISH $SYS/broker/uptime \"7 seconds\" q0"]);
    world.quiet(press);
    // Nobody publishes there.
    world.publish(press, "$SYS/broker/uptime", "lie", Q1);
    world.expect(press, ["PUBACK 1 87"]);
}
