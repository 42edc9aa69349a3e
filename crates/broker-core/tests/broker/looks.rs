//! Retained messages for new subscriptions are looked for in portions: others have their turn in between, and whoever
//! subscribes notices nothing else.

use crate::world::*;

/// A broker with so many retained messages that are neighbours, whose backlog is left to the test.
fn stocked(count: usize) -> World {
    stocked_with((0..count).map(|n| format!("dev/{n:04}")))
}

/// The same where no two topics have a level in common: nothing can be skipped.
fn stocked_apart(count: usize) -> World {
    stocked_with((0..count).map(|n| format!("dev{n:04}/{n:04}")))
}

fn stocked_with(topics: impl Iterator<Item = String>) -> World {
    let mut world = World::new();
    let press = world.client("press");
    // A look at the whole disk for each of them would take most of a test's time.
    world.disk.is_checked = false;
    for topic in topics {
        world.send(press, retained(&topic, "x"));
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
    assert_eq!((seen.remove(0).as_str(), seen.len()), ("SUBACK 77 [00]", 256));
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
    assert_eq!(world.take(ops).len(), 1 + 256);
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
    assert_eq!(seen.len(), 2 + 256 + 600);
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
