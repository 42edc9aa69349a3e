//! Revocations whose work the end of the broker cuts short, though the identity is registered anew before.

use crate::world::*;
use mqtt_proto::{Packet, Publish};

const MANY: usize = 40;

/// A broker in which `press` was revoked and registered anew, of which nothing has been cleared away yet: it has parked
/// sessions with messages, and has published to `ops`.
fn world() -> World {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "out/#", Q2);
    for n in 0..MANY {
        let conn = world.open("press", durable(&n.to_string()));
        world.subscribe(conn, "in", Q1);
        if n == 0 {
            world.publish(conn, "out/sent", "old", Q2);
            world.send(conn, Packet::PubRel(ack(1)));
            world.send(conn, retained("kept/old", "old"));
        }
        world.lose(conn);
    }
    world.lose(ops);
    let old = world.open("press", durable("0"));
    world.publish(old, "out/waits", "old", Q1);
    world.lose(old);
    let cloud = world.client("cloud");
    world.publish(cloud, "in", "secret of the old owner", Q1);
    world.settling = false;
    world.revoke("press");
    let new = world.open("press", durable("new"));
    world.send(new, subscribe([sub("in", Q1)]));
    world.publish(new, "out/new", "new", Q1);
    let kept = Publish { retain: true, packet_id: Some(pid(2)), ..publish("kept/new", "new", Q1) };
    world.send(new, Packet::Publish(Box::new(kept)));
    world.publish(cloud, "in", "for the new owner", Q1);
    world
}

#[test]
fn nothing_of_a_revoked_identity_comes_back_with_a_crash_or_a_stop() {
    for is_planned in [false, true] {
        let mut world = world();
        if is_planned {
            world.end();
        }
        world.crash(1);
        for n in 0..MANY {
            let conn = world.connect("press", durable(&n.to_string()));
            world.expect(conn, ["CONNACK 00"]);
        }
        // The twin: what the new owner has is its own.
        let new = world.connect("press", durable("new"));
        let seen = world.take(new);
        assert_eq!(seen[0], "CONNACK 00 present", "{is_planned}");
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[1].contains("for the new owner"), "{seen:?}");
        let ops = world.connect("ops", durable("ops"));
        let seen = world.take(ops);
        assert!(seen.iter().all(|text| !text.contains("old")), "{seen:?}");
        assert!(seen.iter().any(|text| text.contains("out/new \"new\"")), "{seen:?}");
        let reader = world.client("reader");
        world.send(reader, subscribe([sub("kept/#", Q1)]));
        world.expect(reader, ["SUBACK 77 [01]", "PUBLISH kept/new \"new\" q1 #1 retain"]);
    }
}

#[test]
fn a_revocation_is_on_disk_until_nothing_of_before_is_left() {
    let mut world = world();
    assert_eq!(world.disk.kinds().matches('x').count(), 1);
    // Also where the next run is cut short.
    world.crash(1);
    world.crash(1);
    assert_eq!(world.disk.kinds().matches('x').count(), 1);
    world.finish_backlog();
    assert!(!world.disk.kinds().contains('x'), "{}", world.disk.kinds());
    assert_eq!(world.broker.metrics().sessions, 2);
    world.crash(1);
    assert_eq!(world.broker.metrics().sessions, 2);
}

// What a group's member that ends had of the group goes to the others.
#[test]
fn what_revoked_members_of_a_share_group_had_goes_to_others_after_the_crash() {
    let mut world = World::new();
    for n in 0..MANY {
        let conn = world.open("press", durable(&n.to_string()));
        world.subscribe(conn, "$share/g/in", Q1);
        world.lose(conn);
    }
    let cloud = world.client("cloud");
    for n in 0..MANY {
        world.publish(cloud, "in", &n.to_string(), Q1);
    }
    let other = world.open("other", durable("c"));
    world.settling = false;
    world.send(other, subscribe([sub("$share/g/in", Q1)]));
    world.lose(other);
    world.revoke("press");
    world.crash(1);
    world.finish_backlog();
    assert_eq!(world.session("other", "c").unwrap().queued, MANY);
}
