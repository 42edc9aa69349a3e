//! Steps of the wall clock are no time that passed, also not for who is restored after them.

use crate::world::*;
use midge_identity::UnixMillis;
use mqtt_proto::{Connect, Packet};
use std::time::Duration;

const STEP: Duration = Duration::from_secs(3 * 86_400);

/// Sets the wall clock, as the network does on a box that has no battery.
fn step(world: &mut World, forward: bool) {
    let wall = world.now.wall;
    world.now.wall = if forward { wall.after(STEP) } else { UnixMillis(wall.before(STEP).0) };
}

/// A world whose clock was set after the start, a session without a connection that lives for an hour, a message that waits
/// for it half an hour, and a will that waits a quarter.
fn world(forward: bool, before: bool) -> World {
    let mut world = World::new();
    if before {
        step(&mut world, forward);
    }
    let mut late = will("w", "gone", 900);
    late.as_mut().unwrap().message.qos = Q1;
    let press = world.open("press", Connect { will: late, ..durable("c") });
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "#", Q1);
    world.lose(ops);
    world.send(press, Packet::Publish(Box::new(expiring("a", "x", Q1, 1_800))));
    if !before {
        step(&mut world, forward);
    }
    world.lose(press);
    world
}

fn waiting(world: &mut World) -> Vec<String> {
    let ops = world.connect("ops", durable("c"));
    let seen = world.take(ops);
    world.lose(ops);
    seen
}

#[test]
fn what_was_parked_before_the_clock_was_set_lives_as_long_as_it_would_have() {
    for (forward, before, planned) in
        [true, false].into_iter().flat_map(|f| [(f, true, true), (f, false, true), (f, false, false)])
    {
        let mut world = world(forward, before);
        for _ in 0..2 {
            if planned {
                world.stop(10)
            } else {
                world.crash(10)
            };
            let seen = waiting(&mut world);
            assert_eq!(seen[0], "CONNACK 00 present", "{forward} {before}");
            assert!(seen[1].starts_with("PUBLISH a \"x\" q1 "), "{seen:?}");
            assert_eq!(seen.len(), 2, "the will waits still: {seen:?}");
        }
        // The time between two runs counts: first the will's, then the message's, then the session's.
        world.stop(900);
        let seen = waiting(&mut world).len();
        assert_eq!(seen, 3, "{forward} {before}");
        world.stop(1_000);
        assert_eq!(waiting(&mut world).len(), 2, "{forward} {before}");
        world.stop(3_600);
        assert_eq!(waiting(&mut world), ["CONNACK 00"], "{forward} {before}");
    }
}

#[test]
fn a_clock_that_is_right_leaves_no_record() {
    let mut world = World::new();
    let ops = world.open("ops", durable("c"));
    world.pass_secs(1_000);
    world.lose(ops);
    world.stop(10);
    assert_eq!(world.disk.kinds(), "s");
    step(&mut world, true);
    world.stop(10);
    assert_eq!(world.disk.kinds(), "st");
}
