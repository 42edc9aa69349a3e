//! Much that is due at the same moment: it is done in portions, between which others have their turn.

use crate::world::*;
use mqtt_proto::{Connect, Packet, Publication, Publish, Will};

const MANY: u64 = 600;

/// A broker that was killed while many clients were connected, and what their wills are sent to.
fn killed(expiry_secs: u32, delay_secs: u32) -> World {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "gone", Q1);
    for n in 0..MANY {
        let client_id = n.to_string();
        let last = will("gone", &client_id, delay_secs).unwrap();
        let last = Will { message: Publication { qos: Q1, ..last.message }, ..last };
        let kept = durable(&client_id);
        world.open("press", Connect { session_expiry_secs: Some(expiry_secs), will: Some(last), ..kept });
    }
    world.crash(1);
    world
}

/// How many portions of what is due it takes, none of which does more than a part of it.
fn portions(world: &mut World, left: impl Fn(&World) -> u64) -> usize {
    let mut count = 0;
    while world.is_due() {
        let before = left(world);
        world.broker.handle_timeout(world.now);
        world.drain();
        assert!(before - left(world) <= MANY / 2, "{before} {}", left(world));
        count += 1;
    }
    count
}

#[test]
fn wills_and_sessions_that_are_due_at_once_are_dealt_with_in_portions() {
    for (expiry_secs, delay_secs) in [(100, 50), (50, 100)] {
        let mut world = killed(expiry_secs, delay_secs);
        world.now.mono += std::time::Duration::from_secs(50);
        let waiting = |world: &World| MANY - world.session("ops", "ops").unwrap().queued as u64;
        assert!(portions(&mut world, waiting) > 2);
        assert_eq!(waiting(&world), 0);
        world.pass_secs(50);
        assert_eq!(world.broker.metrics().sessions, 1);
        assert_eq!(waiting(&world), 0, "each once");
    }
}

#[test]
fn retained_messages_that_expire_at_once_are_dealt_with_in_portions() {
    let mut world = World::new();
    let press = world.client("press");
    for n in 0..MANY {
        let publish = Publish { retain: true, ..expiring(&format!("a/{n}"), "x", Q0, 10) };
        world.send(press, Packet::Publish(Box::new(publish)));
    }
    world.now.mono += std::time::Duration::from_secs(10);
    assert!(portions(&mut world, |world| world.broker.metrics().retained_messages) > 2);
    assert_eq!(world.broker.metrics().retained_messages, 0);
}

// [MQTT-4.1.0-2], [MQTT-3.1.3-9]: whoever comes before its turn finds nothing that is over.
#[test]
fn a_session_that_is_over_is_not_gone_on_with_before_its_turn_has_come() {
    let mut world = killed(50, 100);
    let last = (MANY - 1).to_string();
    world.now.mono += std::time::Duration::from_secs(50);
    let back = world.connect("press", durable(&last));
    world.expect(back, ["CONNACK 00"]);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 1, "its will");
    // The twin: one whose time is not over goes on, and its will is none.
    let mut world = killed(100, 100);
    world.now.mono += std::time::Duration::from_secs(50);
    let back = world.connect("press", durable(&last));
    world.expect(back, ["CONNACK 00 present"]);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 0);
    world.pass_secs(60);
    let ops = world.session("ops", "ops").unwrap();
    assert_eq!(ops.queued as u64, MANY - 1);
}

#[test]
fn a_will_that_is_due_goes_out_though_its_client_comes_before_its_turn() {
    let mut world = killed(100, 50);
    let last = (MANY - 1).to_string();
    world.now.mono += std::time::Duration::from_secs(50);
    let back = world.connect("press", durable(&last));
    world.expect(back, ["CONNACK 00 present"]);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 1);
    world.pass_secs(1);
    assert_eq!(world.session("ops", "ops").unwrap().queued as u64, MANY);
}
