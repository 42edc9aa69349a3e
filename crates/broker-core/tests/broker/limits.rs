//! What happens at each limit, and one step before it.

use crate::world::*;
use broker_core::{Config, ConnId};
use mqtt_proto::{Connect, Packet, Publish, PublishProperties, QoS};
use std::num::NonZeroU16;

fn kept_after(change: impl FnOnce(&mut Config)) -> (Vec<String>, u64) {
    let mut world = World::limited(change);
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    for n in 0..4 {
        world.publish(press, "a", &format!("{n}{}", "x".repeat(99)), Q1);
    }
    let dropped = world.broker.metrics().dropped.queue_full;
    let ops = world.connect("ops", durable("c"));
    let seen = world.take(ops).into_iter().skip(1);
    (seen.map(|text| text.trim_start_matches("PUBLISH a \"").chars().take(1).collect()).collect(), dropped)
}

#[test]
fn a_full_queue_drops_the_newest() {
    assert_eq!(kept_after(|_| {}), (["0", "1", "2", "3"].map(str::to_owned).to_vec(), 0));
    assert_eq!(
        kept_after(|config| config.queue_messages_max = 2),
        (["0", "1"].map(str::to_owned).to_vec(), 2)
    );
    // 100 bytes of payload, 6 of the rest of the PUBLISH and 128 for keeping it.
    let three = |config: &mut Config| config.queue_bytes_max = 3 * 234;
    assert_eq!(kept_after(three), (["0", "1", "2"].map(str::to_owned).to_vec(), 1));
    let less = |config: &mut Config| config.queue_bytes_max = 3 * 234 - 1;
    assert_eq!(kept_after(less), (["0", "1"].map(str::to_owned).to_vec(), 2));
}

#[test]
fn the_room_of_a_delivered_message_is_free_again() {
    let mut world = World::limited(|config| config.queue_messages_max = 1);
    let press = world.client("press");
    let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..v5("c") });
    world.subscribe(ops, "a", Q1);
    for round in 0..10 {
        for payload in ["sent", "waits", "dropped"] {
            world.publish(press, "a", payload, Q1);
        }
        let id = 2 * round + 1;
        for id in [id, id + 1] {
            world.send(ops, Packet::PubAck(ack(id)));
        }
        let expected =
            [format!("PUBLISH a \"sent\" q1 #{id}"), format!("PUBLISH a \"waits\" q1 #{}", id + 1)];
        assert_eq!(world.take(ops), expected);
        assert_eq!(world.broker.metrics().dropped.queue_full, u64::from(round) + 1);
    }
    assert_eq!(world.session("ops", "c").unwrap().queued_bytes, 0);
}

fn slow_reader() -> (World, ConnId, ConnId) {
    let mut world = World::limited(|config| {
        config.unsent_bytes_soft = 1_000;
        config.unsent_bytes_hard = 4_000;
    });
    let press = world.client("press");
    let ops = world.client("ops");
    world.subscribe(ops, "a", Q1);
    world.flushing = false;
    (world, press, ops)
}

#[test]
fn a_slow_reader_misses_qos0_keeps_qos1_and_costs_only_itself() {
    let (mut world, press, ops) = slow_reader();
    let other = world.client("other");
    world.subscribe(other, "a", Q0);
    let payload = "x".repeat(500);
    for n in 0..5 {
        world.publish(press, "a", &format!("{n}{payload}"), Q0);
        world.flush(other);
    }
    assert_eq!(world.take(ops).len(), 2);
    assert_eq!(world.take(other).len(), 5);
    assert_eq!(world.broker.metrics().dropped.slow_reader, 3);
    for n in 0..3 {
        world.publish(press, "a", &n.to_string(), Q1);
        world.flush(press);
    }
    world.quiet(ops);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 3);
    world.flush(ops);
    world.expect(ops, ["PUBLISH a \"0\" q1 #1", "PUBLISH a \"1\" q1 #2", "PUBLISH a \"2\" q1 #3"]);
}

// Flushing part by part lets as much follow as was written.
#[test]
fn what_waits_follows_as_the_reader_catches_up() {
    let (mut world, press, ops) = slow_reader();
    let payload = "x".repeat(600);
    for _ in 0..4 {
        world.publish(press, "a", &payload, Q1);
    }
    assert_eq!(world.take(ops).len(), 2);
    let mut seen = 0;
    for _ in 0..3 {
        world.broker.handle_flushed(ops, 610, world.now);
        world.drain();
        seen += world.take(ops).len();
    }
    assert_eq!(seen, 2);
}

#[test]
fn a_client_that_asks_and_does_not_read_is_cut_and_its_session_stays() {
    let (mut world, _, _) = slow_reader();
    let conn = world.open("press", durable("c"));
    for _ in 0..1_900 {
        world.send(conn, Packet::PingReq);
    }
    assert!(world.take(conn).iter().all(|seen| seen == "PINGRESP"));
    for _ in 0..200 {
        world.send(conn, Packet::PingReq);
    }
    let seen = world.take(conn);
    assert_eq!(seen[seen.len() - 2..], ["DISCONNECT 97", "CLOSE Slow"]);
    assert!(world.session("press", "c").is_some());
}

#[test]
fn subscriptions_of_a_session_have_a_limit_and_replacing_needs_no_room() {
    let mut world = World::limited(|config| config.subscriptions_per_session_max = 2);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("a", Q0), sub("b", Q0), sub("c", Q0), sub("a", Q1)]));
    world.expect(ops, ["SUBACK 77 [00 00 97 01]"]);
    world.send(ops, unsubscribe(["a"]));
    world.send(ops, subscribe([sub("c", Q0)]));
    world.expect(ops, ["UNSUBACK 78 [00]", "SUBACK 77 [00]"]);
    let old = world.open("ops", v311("old"));
    world.send(old, subscribe([sub("a", Q0), sub("b", Q0), sub("c", Q0)]));
    world.expect(old, ["SUBACK 77 [00 00 80]"]);
}

#[test]
fn subscriptions_of_a_session_have_a_limit_in_bytes_and_replacing_needs_no_room() {
    // Room for two of one level.
    let mut world = World::limited(|config| config.subscription_bytes_max = 1_500);
    let ops = world.open("ops", durable("c"));
    world.send(ops, subscribe([sub("aaaa", Q0), sub("b/b/b/b/b/b/b/b", Q0), sub("c", Q0), sub("d", Q0)]));
    world.expect(ops, ["SUBACK 77 [00 97 00 97]"]);
    world.send(ops, subscribe([sub("aaaa", Q1)]));
    world.send(ops, unsubscribe(["c", "none"]));
    world.send(ops, subscribe([sub("d", Q0), sub("e", Q0)]));
    world.expect(ops, ["SUBACK 77 [01]", "UNSUBACK 78 [00 11]", "SUBACK 77 [00 97]"]);
    // What was granted stays so after a restart, and counts.
    world.crash(0);
    let ops = world.open("ops", durable("c"));
    world.send(ops, subscribe([sub("e", Q0), sub("aaaa", Q0)]));
    world.send(ops, unsubscribe(["d"]));
    world.send(ops, subscribe([sub("e", Q0)]));
    world.expect(ops, ["SUBACK 77 [97 00]", "UNSUBACK 78 [00]", "SUBACK 77 [00]"]);
    let old = world.open("old", v311("old"));
    world.send(old, subscribe([sub("a", Q0), sub("b/b/b/b/b/b/b/b", Q0)]));
    world.expect(old, ["SUBACK 77 [00 80]"]);
}

// Client ids are the client's choice, so a limit of each session would be none of its identity.
#[test]
fn subscriptions_are_bounded_for_one_identity_and_for_all() {
    let mut world = World::limited(|config| {
        config.subscriptions_bytes_max = 3_500;
        config.subscriptions_bytes_per_identity_max = 2_000;
    });
    let asks = |world: &mut World, id: &str, client: &str, filter: &str| {
        let conn = world.open(id, durable(client));
        world.send(conn, subscribe([sub(filter, Q0)]));
        let answer = world.take(conn).pop().unwrap();
        (conn, answer)
    };
    let (granted, refused) = ("SUBACK 77 [00]", "SUBACK 77 [97]");
    let (first, answer) = asks(&mut world, "press", "1", "a/b/c");
    assert_eq!(answer, granted);
    assert_eq!(asks(&mut world, "press", "2", "a/b/c").1, granted);
    assert_eq!(asks(&mut world, "press", "3", "a/b/c").1, refused, "of one identity");
    assert_eq!(asks(&mut world, "press", "2", "a/b/c").1, granted, "in place of its own");
    assert_eq!(asks(&mut world, "saw", "1", "a/b/c").1, granted);
    assert_eq!(asks(&mut world, "saw", "2", "a/b/c").1, granted);
    assert_eq!(asks(&mut world, "drill", "1", "a/b/c").1, refused, "of all");
    world.crash(1);
    assert_eq!(asks(&mut world, "drill", "1", "a/b/c").1, refused, "also after a restart");
    assert_eq!(asks(&mut world, "press", "3", "a/b/c").1, refused);
    // What is given up, or ends with its session, makes room.
    world.lose(first);
    let first = world.open("press", durable("1"));
    world.send(first, unsubscribe(["a/b/c"]));
    assert_eq!(asks(&mut world, "press", "3", "a/b/c").1, granted);
    world.open("saw", v5("1"));
    assert_eq!(asks(&mut world, "drill", "1", "a/b/c").1, granted);
}

#[test]
fn topics_behind_aliases_have_a_limit_in_bytes_each_way() {
    let mut world = World::limited(|config| config.topic_alias_bytes_max = 10);
    let ops = world.open("ops", Connect { topic_alias_max: 10, ..v5("c") });
    world.subscribe(ops, "#", Q0);
    let set = |alias: u16, topic: &str| {
        let publish = publish(topic, "", Q0);
        Packet::Publish(Box::new(Publish { topic_alias: NonZeroU16::new(alias), ..publish }))
    };
    let press = world.client("press");
    for (alias, topic) in [(1, "aaaa"), (2, "bbbb"), (1, "cccccc"), (2, "ddd"), (3, "e")] {
        world.send(press, set(alias, topic));
    }
    world.quiet(press);
    world.send(press, set(4, "f"));
    world.expect(press, ["DISCONNECT 97", "CLOSE Protocol(QuotaExceeded)"]);
    // Of those that reached it, the first have an alias.
    for topic in ["aaaa", "cccccc", "e"] {
        world.send(ops, set(0, topic));
    }
    let named = [
        "aaaa \"\" q0 alias=1",
        "bbbb \"\" q0 alias=2",
        "cccccc \"\" q0",
        "ddd \"\" q0",
        "e \"\" q0 alias=3",
    ];
    let again = ["aaaa \"\" q0 alias=1 no-topic", "cccccc \"\" q0", "e \"\" q0 alias=3 no-topic"];
    let expected: Vec<_> = named.iter().chain(&again).map(|text| format!("PUBLISH {text}")).collect();
    assert_eq!(world.take(ops), expected);
}

#[test]
fn filters_have_a_deepest_level_and_topics_of_any_depth_are_served() {
    let mut world = World::limited(|config| config.topic_levels_max = 3);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("a/b/c", Q0), sub("a/b/c/d", Q0), sub("a/#", Q0)]));
    world.expect(ops, ["SUBACK 77 [00 8F 00]"]);
    let deep = vec!["a"; 30_000].join("/");
    world.publish(ops, &deep, "", Q0);
    assert_eq!(world.take(ops), [format!("PUBLISH {deep} \"\" q0")]);
}

#[test]
fn bytes_held_for_pubrel_have_a_limit() {
    let mut world = World::limited(|config| config.held_bytes_max = 500);
    for (connect, last) in
        [(v5("c"), ["PUBREC 3 97"].as_slice()), (v311("c"), &["CLOSE Protocol(QuotaExceeded)"])]
    {
        let conn = world.open("press", connect);
        for id in 1..4 {
            let message = Publish { packet_id: Some(pid(id)), ..publish("a", &"x".repeat(100), Q2) };
            world.send(conn, Packet::Publish(Box::new(message)));
        }
        let seen = world.take(conn);
        assert_eq!(seen[..2], ["PUBREC 1 00", "PUBREC 2 00"]);
        assert_eq!(seen[2..], *last);
    }
    // PUBREL makes room.
    let conn = world.open("press", v5("c"));
    for id in 1..6 {
        let message = Publish { packet_id: Some(pid(id)), ..publish("a", &"x".repeat(100), Q2) };
        world.send(conn, Packet::Publish(Box::new(message)));
        world.send(conn, Packet::PubRel(ack(id)));
    }
    assert!(world.take(conn).iter().all(|seen| seen.ends_with("00")));
}

#[test]
fn messages_reach_the_same_whether_their_routes_are_remembered_or_not() {
    for routes_bytes_max in [0, usize::MAX] {
        let mut world = World::limited(|config| config.routes_bytes_max = routes_bytes_max);
        let press = world.client("press");
        let readers: Vec<_> = (0..100).map(|n| world.client(&format!("ops{n}"))).collect();
        for reader in &readers {
            world.subscribe(*reader, "a/#", Q0);
        }
        for (topic, payload) in [("a/1", "x"), ("a/1", "y"), ("a/2", "z"), ("b", ""), ("a/1", "x")] {
            world.publish(press, topic, payload, Q0);
        }
        world.send(readers[0], unsubscribe(["a/#"]));
        world.publish(press, "a/1", "last", Q0);
        assert_eq!(world.take(readers[0])[4..], ["UNSUBACK 78 [00]"]);
        let expected = ["a/1 \"x\"", "a/1 \"y\"", "a/2 \"z\"", "a/1 \"x\"", "a/1 \"last\""];
        for reader in &readers[1..] {
            assert_eq!(world.take(*reader), expected.map(|text| format!("PUBLISH {text} q0")));
        }
    }
}

#[test]
fn the_inflight_limit_of_the_broker_lowers_the_clients() {
    let mut world = World::limited(|config| config.inflight_max = NonZeroU16::new(2).unwrap());
    let (press, ops) = (world.client("press"), world.open("ops", v311("c")));
    world.subscribe(ops, "a", Q1);
    for _ in 0..5 {
        world.publish(press, "a", "", Q1);
    }
    assert_eq!(world.take(ops).len(), 2);
    assert_eq!(world.session("ops", "c").unwrap().queued, 3);
}

/// A world where sessions outlive their connections, and nothing is stored.
fn unstored(limit: impl FnOnce(&mut Config)) -> World {
    let mut config = Config::default();
    limit(&mut config);
    World::of(config, open_house())
}

/// As many messages as there are payloads' first letters, of 234 bytes each while they are kept.
fn press(world: &mut World, conn: ConnId, topic: &str, letters: &str, qos: QoS) {
    for letter in letters.chars() {
        world.publish(conn, topic, &letter.to_string().repeat(100), qos);
        world.take(conn);
    }
}

/// Which of them came, and under which identifiers.
fn came(world: &mut World, conn: ConnId) -> Vec<String> {
    let short =
        |text: String| text.split(['"', ' ']).filter(|part| part.len() < 60).collect::<Vec<_>>().join(" ");
    let letter = |text: &str| text.split('"').nth(1).and_then(|payload| payload.chars().next());
    let seen = world.take(conn).into_iter();
    seen.map(|text| match letter(&text) {
        Some(letter) => {
            let id = text.split('#').nth(1).and_then(|rest| rest.chars().next());
            format!("{letter}{}", id.map(String::from).unwrap_or_default())
        }
        None => short(text),
    })
    .collect()
}

#[test]
fn bytes_in_flight_have_a_limit_above_which_messages_wait() {
    let mut world = unstored(|config| config.inflight_bytes_max = 500);
    let (publisher, ops) = (world.client("press"), world.open("ops", durable("ops")));
    world.subscribe(ops, "a", Q2);
    press(&mut world, publisher, "a", "abcde", Q1);
    assert_eq!(came(&mut world, ops), ["a1", "b2", "c3"]);
    press(&mut world, publisher, "a", "f", Q0);
    assert_eq!(came(&mut world, ops), ["f"]);
    world.send(ops, Packet::PubAck(ack(2)));
    assert_eq!(came(&mut world, ops), ["d4"]);
    for id in [1, 3, 4] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    assert_eq!(came(&mut world, ops), ["e5"]);
    world.send(ops, Packet::PubAck(ack(5)));
    // What a client has received at QoS 2 is its own.
    for _ in 0..4 {
        world.publish(publisher, "a", &"g".repeat(100), Q2);
        world.send(publisher, Packet::PubRel(ack(1)));
    }
    assert_eq!(came(&mut world, ops).len(), 3);
    for id in [6, 7, 8] {
        world.send(ops, Packet::PubRec(ack(id)));
        world.take(ops);
    }
    world.send(ops, Packet::PubComp(ack(6)));
    assert_eq!(came(&mut world, ops), ["g9"]);
    let session = world.session("ops", "ops").unwrap();
    assert_eq!((session.inflight, session.queued), (3, 0));
}

// Nobody is ever sent it again: what it takes is its identifier.
#[test]
fn what_was_sent_to_a_session_that_ends_with_its_connection_takes_no_room() {
    for connect in [v5("ops"), v311("ops")] {
        let mut world = World::limited(|config| config.inflight_bytes_max = 500);
        let (publisher, ops) = (world.client("press"), world.open("ops", connect));
        world.subscribe(ops, "a", Q2);
        press(&mut world, publisher, "a", "abcde", Q1);
        world.publish(publisher, "a", "f", Q2);
        world.send(publisher, Packet::PubRel(ack(1)));
        assert_eq!(came(&mut world, ops), ["a1", "b2", "c3", "d4", "e5", "f6"]);
        assert_eq!(world.session("ops", "ops").unwrap().inflight, 6);
        assert_eq!(world.broker.metrics().waiting_messages, 0);
        world.send(ops, Packet::PubAck(ack(2)));
        world.send(ops, Packet::PubRec(ack(6)));
        world.send(ops, Packet::PubComp(ack(6)));
        assert_eq!(came(&mut world, ops), ["PUBREL 6 00"]);
        assert_eq!(world.session("ops", "ops").unwrap().inflight, 4);
        world.send(ops, Packet::PubRec(ack(3)));
        let last = world.take(ops).pop().unwrap();
        assert!(last.starts_with("CLOSE Protocol"), "it was sent at QoS 1: {last}");
    }
}

// Who takes its place gets what the group is owed, and who ends nothing the disk has not let go.
#[test]
fn of_a_share_group_it_is_kept_all_the_same() {
    let mut world = World::limited(|config| config.inflight_bytes_max = 500);
    let (publisher, first) = (world.client("press"), world.client("first"));
    world.subscribe(first, "$share/g/a", Q1);
    press(&mut world, publisher, "a", "abcde", Q1);
    assert_eq!(came(&mut world, first), ["a1", "b2", "c3"]);
    let second = world.open("second", durable("second"));
    world.subscribe(second, "$share/g/a", Q1);
    world.lose(first);
    assert_eq!(came(&mut world, second), ["a1", "b2", "c3"]);
}

#[test]
fn retained_messages_wait_for_room_in_flight_and_what_is_sent_again_does_not() {
    let mut world = World::limited(|config| config.inflight_bytes_max = 500);
    let (publisher, ops) = (world.client("press"), world.open("ops", durable("c")));
    for topic in ["a", "b", "c", "d", "e"] {
        let message = Publish { retain: true, ..publish(topic, &topic.repeat(100), Q1) };
        world.send(publisher, Packet::Publish(Box::new(message)));
    }
    world.send(ops, subscribe([sub("+", Q1)]));
    assert_eq!(came(&mut world, ops)[1..], ["a1", "b2", "c3"]);
    world.send(ops, Packet::PubAck(ack(1)));
    assert_eq!(came(&mut world, ops), ["d4"]);
    world.lose(ops);
    press(&mut world, publisher, "x", "x", Q1);
    let ops = world.connect("ops", durable("c"));
    assert_eq!(came(&mut world, ops)[1..], ["b2", "c3", "d4"]);
    for id in [2, 3] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    assert_eq!(came(&mut world, ops).concat(), "x3e5");
}

#[test]
fn incomplete_exchanges_of_all_have_a_limit_and_stop_nobody_who_acknowledges() {
    let mut world = unstored(|config| config.exchanges_bytes_max = 200_000);
    let publisher = world.client("press");
    let (idle, ops) = (world.open("idle", durable("c")), world.open("ops", durable("ops")));
    world.subscribe(idle, "a", Q1);
    world.subscribe(ops, "b", Q1);
    let payload = "x".repeat(60_000);
    let send = |world: &mut World, topic: &str, count: usize| {
        for _ in 0..count {
            world.publish(publisher, topic, &payload, Q1);
        }
    };
    send(&mut world, "a", 6);
    assert_eq!(world.take(idle).len(), 4);
    // The other has its own 64 KiB, and gets all as it acknowledges.
    send(&mut world, "b", 4);
    assert_eq!(world.take(ops).len(), 2);
    world.send(ops, Packet::PubAck(ack(1)));
    assert_eq!(world.take(ops).len(), 1);
    world.send(ops, Packet::PubAck(ack(2)));
    assert_eq!(world.take(ops).len(), 1);
    for id in [3, 4] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    // A session that ends gives its room back.
    world.lose(idle);
    send(&mut world, "b", 2);
    assert_eq!(world.take(ops).len(), 2);
    send(&mut world, "b", 1);
    world.quiet(ops);
    for id in [5, 6, 7] {
        world.send(ops, Packet::PubAck(ack(id)));
    }
    world.take(ops);
    world.open("idle", v5("c"));
    send(&mut world, "b", 4);
    assert_eq!(world.take(ops).len(), 4);
}

#[test]
fn what_waits_for_pubrel_counts_among_the_exchanges_of_all() {
    let mut world = World::limited(|config| config.exchanges_bytes_max = 100_000);
    let hold = |world: &mut World, conn: ConnId, id: u16| {
        let message = Publish { packet_id: Some(pid(id)), ..publish("a", &"x".repeat(40_000), Q2) };
        world.send(conn, Packet::Publish(Box::new(message)));
        world.take(conn)
    };
    let (first, second) = (world.client("first"), world.client("second"));
    assert_eq!(hold(&mut world, first, 1), ["PUBREC 1 00"]);
    assert_eq!(hold(&mut world, first, 2), ["PUBREC 2 00"]);
    assert_eq!(hold(&mut world, first, 3), ["PUBREC 3 97"]);
    assert_eq!(hold(&mut world, second, 1), ["PUBREC 1 00"]);
    assert_eq!(hold(&mut world, second, 2), ["PUBREC 2 97"]);
    let old = world.open("old", v311("old"));
    assert_eq!(hold(&mut world, old, 1), ["PUBREC 1 00"]);
    assert_eq!(hold(&mut world, old, 2), ["CLOSE Protocol(QuotaExceeded)"]);
    world.send(first, Packet::PubRel(ack(1)));
    world.send(first, Packet::PubRel(ack(2)));
    world.take(first);
    assert_eq!(hold(&mut world, second, 2), ["PUBREC 2 00"]);
}

// Identifiers and counters keep whole over very many messages.
#[test]
fn a_hundred_thousand_messages_leave_nothing_behind() {
    let mut world = World::new();
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q2);
    for (n, id) in (0..100_000).zip((1..=0x7FFF).cycle()) {
        let qos = [Q1, Q2][n % 2];
        world.publish(press, "a", "x", qos);
        if qos == Q2 {
            world.send(press, Packet::PubRel(ack(1)));
            world.send(ops, Packet::PubRec(ack(id)));
            world.send(ops, Packet::PubComp(ack(id)));
        } else {
            world.send(ops, Packet::PubAck(ack(id)));
        }
        world.take(press);
        world.take(ops);
    }
    let session = world.session("ops", "ops").unwrap();
    assert_eq!((session.inflight, session.queued, session.queued_bytes), (0, 0, 0));
    assert_eq!(world.broker.metrics().messages_out, 100_000);
    assert_eq!(world.broker.poll_timeout(), None);
}

// A CONNECT is refused that would leave one will too many; what ends or is replaced makes room.
#[test]
fn wills_are_bounded_for_one_identity_and_for_all() {
    let payload = "x".repeat(1_000);
    let mortal = |id: &str| Connect {
        will: will("w", &payload, 100),
        clean_start: false,
        session_expiry_secs: Some(1_000),
        ..v5(id)
    };
    let mut world = World::limited(|config| {
        config.wills_bytes_max = 5_000;
        config.wills_bytes_per_identity_max = 2_500;
    });
    let [first, _] = ["1", "2"].map(|id| world.open("press", mortal(id)));
    let refused = |world: &mut World, id: &str, connect: Connect| {
        let conn = world.connect(id, connect);
        world.take(conn)[0] == "CONNACK 97"
    };
    assert!(refused(&mut world, "press", mortal("3")), "of one identity");
    assert!(!refused(&mut world, "press", v5("3")), "without a will");
    assert!(!refused(&mut world, "press", mortal("2")), "in place of its own");
    // Of one whose client has left it counts on until it is sent.
    world.lose(first);
    assert!(refused(&mut world, "press", mortal("3")));
    assert!(!refused(&mut world, "saw", mortal("1")) && !refused(&mut world, "saw", mortal("2")));
    assert!(refused(&mut world, "drill", mortal("1")), "of all");
    world.crash(1);
    assert!(refused(&mut world, "drill", mortal("1")), "also after a restart");
    assert!(world.broker.metrics().waiting_bytes > 4_000);
    world.pass_secs(101);
    assert_eq!(world.broker.metrics().waiting_bytes, 0);
    assert!(!refused(&mut world, "drill", mortal("1")));
}

// Five bytes on the wire are two strings in memory.
#[test]
fn user_properties_count_for_what_they_take() {
    let message = |count: usize| {
        let user_properties = vec![("".into(), "".into()); count];
        let properties = PublishProperties { user_properties, ..PublishProperties::default() };
        let plain = publish("a", "x", Q1);
        Packet::Publish(Box::new(Publish { retain: true, properties: Some(properties.into()), ..plain }))
    };
    for (count, code) in [(0, "PUBACK 1 10"), (64, "PUBACK 1 97")] {
        let mut world = World::limited(|config| config.retained_bytes_max = 4_096);
        let press = world.client("press");
        world.send(press, message(count));
        world.expect(press, [code]);
    }
}
