//! Retained messages for new subscriptions are looked for in portions: others have their turn in between, and whoever
//! subscribes notices nothing else.

use crate::world::*;
use mqtt_proto::{Connect, Packet, Publish, QoS};
use std::num::NonZeroU16;

/// A broker with so many retained messages that are neighbours, whose backlog is left to the test.
fn stocked(count: usize) -> World {
    stocked_with((0..count).map(|n| format!("dev/{n:04}")), Q0)
}

/// The same where no two topics have a level in common: nothing can be skipped.
fn stocked_apart(count: usize) -> World {
    stocked_with((0..count).map(|n| format!("dev{n:04}/{n:04}")), Q0)
}

fn stocked_with(topics: impl Iterator<Item = String>, qos: QoS) -> World {
    let mut world = World::new();
    let press = world.client("press");
    // A look at the whole disk for each of them would take most of a test's time.
    world.disk.is_checked = false;
    for topic in topics {
        let message = Publish { retain: true, ..publish(&topic, "x", qos) };
        world.send(press, Packet::Publish(Box::new(message)));
    }
    world.disk.check();
    world.disk.is_checked = true;
    world.settling = false;
    world
}

/// Has one more portion of what is left looked at; false when nothing was left.
fn portion(world: &mut World) -> bool {
    let has_backlog = world.broker.has_backlog();
    world.broker.handle_backlog(1, world.now);
    world.drain();
    has_backlog
}

#[test]
fn many_retained_messages_follow_in_portions_and_in_order() {
    let mut world = stocked(1_000);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    let mut seen = world.take(ops);
    assert_eq!((seen.remove(0).as_str(), seen.len()), ("SUBACK 77 [00]", 255));
    while portion(&mut world) {
        let more = world.take(ops);
        assert!(more.len() <= 256);
        seen.extend(more);
    }
    let expected: Vec<_> = (0..1_000).map(|n| format!("PUBLISH dev/{n:04} \"x\" q0 retain")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_filter_that_matches_little_is_looked_for_in_portions_where_nothing_can_be_skipped() {
    let mut world = stocked_apart(1_000);
    let ops = world.client("ops");
    let filters = ["+/none", "+/0999", "dev0998/0998", "dev0998"];
    world.send(ops, subscribe(filters.map(|filter| sub(filter, Q0))));
    world.expect(ops, ["SUBACK 77 [00 00 00 00]"]);
    let mut portions = 0;
    while portion(&mut world) {
        portions += 1;
    }
    assert!((7..=9).contains(&portions), "{portions}");
    let expected = ["PUBLISH dev0999/0999 \"x\" q0 retain", "PUBLISH dev0998/0998 \"x\" q0 retain"];
    world.expect(ops, expected);
    world.send(ops, subscribe([sub("dev0997/0997", Q0), sub("dev", Q0)]));
    world.expect(ops, ["SUBACK 77 [00 00]", "PUBLISH dev0997/0997 \"x\" q0 retain"]);
    assert!(!world.broker.has_backlog());
}

#[test]
fn a_filter_that_matches_little_is_looked_for_at_once_where_neighbours_can_be_skipped() {
    let mut world = stocked(1_000);
    let ops = world.client("ops");
    let filters = ["+/none", "+/0999", "dev/0998", "dev", "+"];
    world.send(ops, subscribe(filters.map(|filter| sub(filter, Q0))));
    let expected = [
        "SUBACK 77 [00 00 00 00 00]",
        "PUBLISH dev/0999 \"x\" q0 retain",
        "PUBLISH dev/0998 \"x\" q0 retain",
    ];
    world.expect(ops, expected);
    assert!(!world.broker.has_backlog());
}

#[test]
fn what_is_left_of_a_replay_goes_with_its_subscription_and_starts_over_with_a_new_one() {
    let mut world = stocked(600);
    let ops = world.client("ops");
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    assert_eq!(world.take(ops).len(), 1 + 255);
    world.send(ops, unsubscribe(["dev/#"]));
    while portion(&mut world) {}
    world.expect(ops, ["UNSUBACK 78 [00]"]);
    // Made again before the stale one had its turn: each message comes once.
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    world.send(ops, unsubscribe(["dev/#"]));
    world.take(ops);
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    while portion(&mut world) {}
    assert_eq!(world.take(ops).len(), 1 + 600);
    // Subscribing again while it is under way starts over, and ends once.
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    while portion(&mut world) {}
    let seen = world.take(ops);
    assert_eq!(seen.len(), 2 + 255 + 600);
    assert_eq!(seen.last().unwrap(), "PUBLISH dev/0599 \"x\" q0 retain");
}

#[test]
fn what_a_lost_connection_left_of_a_replay_goes_on_with_the_next() {
    let mut world = stocked(2_000);
    let ops = world.open("ops", durable("c"));
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    let mut seen = world.take(ops);
    assert!(seen.len() < 1_000, "{}", seen.len());
    world.lose(ops);
    while portion(&mut world) {}
    let ops = world.connect("ops", durable("c"));
    while portion(&mut world) {}
    seen.extend(world.take(ops).into_iter().skip(1));
    let expected: Vec<_> = (0..2_000).map(|n| format!("PUBLISH dev/{n:04} \"x\" q0 retain")).collect();
    assert_eq!(seen[1..], expected);
}

#[test]
fn subscriptions_made_and_removed_leave_little_behind() {
    let mut world = stocked_apart(1_000);
    let ops = world.client("ops");
    for n in 0..500 {
        let filter = format!("+/none{n}");
        world.send(ops, subscribe([sub(&filter, Q0)]));
        world.send(ops, unsubscribe([filter.as_str()]));
    }
    world.take(ops);
    let mut portions = 0;
    while portion(&mut world) {
        portions += 1;
    }
    assert!(portions < 10, "{portions}");
}

/// Does a portion as large as those of the shell.
fn whole_portion(world: &mut World) -> bool {
    world.broker.handle_backlog(8, world.now);
    world.drain();
    world.broker.has_backlog()
}

#[test]
fn a_client_in_line_is_sent_no_more_retained_messages_before_its_turn_whatever_it_sends() {
    let mut world = stocked(2_000);
    let (ops, press) = (world.client("ops"), world.client("press"));
    world.subscribe(ops, "live", Q1);
    (0..9).for_each(|_| world.publish(press, "live", "x", Q1));
    world.take(ops);
    world.send(ops, subscribe([sub("dev/#", Q0)]));
    assert!(world.take(ops).len() <= 1 + 256);
    for id in 1..=9 {
        world.send(ops, Packet::PubAck(ack(id)));
        world.quiet(ops);
        world.send(ops, subscribe([sub(&format!("+/{id:04}"), Q0)]));
        world.expect(ops, ["SUBACK 77 [00]"]);
    }
    // What is not retained does not wait.
    world.publish(press, "live", "now", Q1);
    world.expect(ops, ["PUBLISH live \"now\" q1 #10"]);
    // Nor does who is not in line.
    assert!(whole_portion(&mut world));
    world.take(press);
    world.subscribe(press, "dev/0003", Q0);
    world.expect(press, ["PUBLISH dev/0003 \"x\" q0 retain"]);
    while whole_portion(&mut world) {}
    // `dev/#` is sent the rest, and all that of the others.
    let all = 1_999 - 254 + 9;
    assert!(world.take(ops).len() >= all);
}

#[test]
fn those_in_line_have_one_turn_each_in_a_row() {
    let mut world = stocked(1_000);
    let clients = ["a", "b", "c"].map(|id| world.client(id));
    for conn in clients {
        world.send(conn, subscribe([sub("dev/#", Q0)]));
        // The first has taken all that may be looked at before the next portion.
        assert_eq!(world.take(conn).len(), if conn == clients[0] { 1 + 255 } else { 1 });
    }
    let mut seen = [255, 0, 0];
    for turn in 0..6 {
        whole_portion(&mut world);
        let sent = clients.map(|conn| world.take(conn).len());
        assert_eq!(sent.iter().filter(|count| **count > 0).count(), 1, "turn {turn}: {sent:?}");
        assert!(sent[turn % 3] <= 256 && sent[turn % 3] > 0, "turn {turn}: {sent:?}");
        (0..3).for_each(|n| seen[n] += sent[n]);
    }
    while whole_portion(&mut world) {}
    (0..3).for_each(|n| seen[n] += world.take(clients[n]).len());
    assert_eq!(seen, [1_000; 3]);
}

// One turn finds the next message with its last look, and its client has no room for it.
#[test]
fn who_has_no_room_for_what_was_found_does_not_stand_in_line() {
    for others in 500..520 {
        let topics = (0..others).map(|n| format!("dev{n:04}/{n:04}"));
        let mut world = stocked_with(["a/m".into(), "z/m".into()].into_iter().chain(topics), Q1);
        let ops = world.open("ops", Connect { receive_max: NonZeroU16::new(1), ..v5("ops") });
        world.send(ops, subscribe([sub("+/m", Q1)]));
        for _ in 0..5 {
            portion(&mut world);
        }
        assert!(!world.broker.has_backlog(), "{others}");
        world.expect(ops, ["SUBACK 77 [01]", "PUBLISH a/m \"x\" q1 #1 retain"]);
        world.send(ops, Packet::PubAck(ack(1)));
        while portion(&mut world) {}
        world.expect(ops, ["PUBLISH z/m \"x\" q1 #2 retain"]);
    }
}

#[test]
fn one_commit_that_answers_many_has_no_more_looked_at_than_one() {
    let mut world = stocked(100);
    let clients: Vec<_> = (0..20).map(|n| world.open(&format!("c{n}"), durable("c"))).collect();
    world.disk.is_quick = false;
    for conn in &clients {
        world.send(*conn, subscribe([sub("dev/#", Q0)]));
        world.quiet(*conn);
    }
    world.broker.handle_backlog(8, world.now);
    world.store();
    let mut seen: Vec<_> = clients.iter().map(|conn| world.take(*conn)).collect();
    assert!(seen.iter().all(|seen| seen[0] == "SUBACK 77 [00]"));
    assert!(seen.iter().flatten().count() <= 20 + 256);
    while whole_portion(&mut world) {}
    for (conn, seen) in clients.iter().zip(&mut seen) {
        seen.extend(world.take(*conn));
        assert_eq!(seen.len(), 1 + 100);
    }
}

#[test]
fn replays_that_take_long_do_not_keep_what_a_revocation_leaves_from_being_done() {
    let mut world = stocked_apart(2_000);
    let ops = world.client("ops");
    let gone = world.client("gone");
    world.send(gone, retained("a", "x"));
    world.send(ops, subscribe::<100>(std::array::from_fn(|n| sub(&format!("+/none{n}"), Q0))));
    world.revoke("gone");
    let mut portions = 0;
    while world.broker.metrics().retained_messages > 2_000 {
        assert!(whole_portion(&mut world), "the replays have ended before");
        portions += 1;
    }
    assert!(portions < 10, "{portions}");
}
