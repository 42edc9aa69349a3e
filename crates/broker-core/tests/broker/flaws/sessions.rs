//! F13 to F15: client ids of others.

use super::course::message;
use super::journey;
use super::losses::OPS;
use super::steps::*;
use crate::world::*;
use broker_core::ConnId;
use mqtt_proto::{Connect, Packet, ReasonCode};

/// The victim's session under `c` with a subscription, a will, a held and a waiting message.
fn victim(world: &mut World) -> (ConnId, ConnId) {
    let press = world.client("press");
    let connect = Connect { will: will("w", "gone", 0), ..durable("c") };
    let victim = world.open("victim", connect);
    world.subscribe(victim, "a", Q1);
    (press, victim)
}

/// Every way to connect under somebody else's client id.
fn connects() -> [Connect; 5] {
    let mortal = Connect { will: will("w", "forged", 0), ..durable("c") };
    let named = Connect {
        username: Some("spiffe://plant/victim".into()),
        password: Some("x".into()),
        ..durable("c")
    };
    [durable("c"), v5("c"), v311("c"), mortal, named]
}

#[test]
fn f13_a_client_id_of_another_identity_kicks_nobody() {
    for connect in connects() {
        let mut world = World::new();
        let (press, conn) = victim(&mut world);
        let before = world.session("victim", "c");
        let intruder = world.connect("intruder", connect);
        world.expect(intruder, ["CONNACK 00"]);
        world.quiet(conn);
        assert_eq!(world.session("victim", "c"), before);
        world.send(intruder, bye(ReasonCode::Success));
        world.publish(press, "a", "x", Q1);
        world.expect(conn, ["PUBLISH a \"x\" q1 #1"]);
        // The twin: the same identity takes its own session over.
        let own = world.connect("victim", durable("c"));
        assert_eq!(world.take(conn)[0], "DISCONNECT 8E");
        assert_eq!(world.take(own)[0], "CONNACK 00 present");
    }
    journey(&message(Q1), &[PRESS_CONNECTS, OPS_LISTENS, INTRUDES_CLEAN, PUBLISHES, INTRUDES, PUBLISHES]);
}

#[test]
fn f14_a_client_id_of_another_identity_inherits_nothing() {
    for connect in connects() {
        let mut world = World::new();
        let (press, conn) = victim(&mut world);
        world.publish(conn, "a/held", "held", Q2);
        world.lose(conn);
        world.publish(press, "a", "waits", Q1);
        let intruder = world.connect("intruder", connect);
        world.expect(intruder, ["CONNACK 00"]);
        // Neither the subscription, nor what waits, nor the other's PUBLISH that waits for its PUBREL.
        world.publish(press, "a", "later", Q1);
        world.send(intruder, Packet::PubAck(ack(1)));
        if world.session("intruder", "c").is_some_and(|session| session.version == V5) {
            world.send(intruder, Packet::PubRel(ack(1)));
            world.expect(intruder, ["PUBCOMP 1 92"]);
        }
        world.send(intruder, unsubscribe(["a"]));
        world.take(intruder);
        // Their limits are their own, too.
        let own = world.connect("victim", durable("c"));
        world.expect(
            own,
            ["CONNACK 00 present", "PUBLISH a \"waits\" q1 #32768", "PUBLISH a \"later\" q1 #32769"],
        );
        world.send(own, Packet::PubRel(ack(1)));
        world.expect(own, ["PUBCOMP 1 00"]);
    }
    journey(
        &message(Q2),
        &[OPS_LISTENS, OPS_IS_LOST, PRESS_CONNECTS, SAYS, INTRUDES, RELEASES, OPS_CONNECTS],
    );
}

#[test]
fn f15_a_connect_of_somebody_else_or_one_that_is_refused_deletes_no_session() {
    let refused = |connect: Connect| Connect { clean_start: true, ..connect };
    let bad_will = Connect { will: will("$SYS/x", "", 0), ..durable("c") };
    let bad_method = Connect { auth_method: Some("PLAIN".into()), ..durable("c") };
    let too_small = Connect { packet_size_max: Some(4), ..durable("c") };
    for id in ["victim", "intruder"] {
        for connect in [bad_will.clone(), bad_method.clone(), too_small.clone()] {
            let mut world = World::new();
            let (press, conn) = victim(&mut world);
            let late = world.connect(id, refused(connect));
            let seen = world.take(late);
            assert!(seen.last().is_some_and(|last| last.starts_with("CLOSE Refused")), "{seen:?}");
            world.lose(late);
            world.quiet(conn);
            world.lose(conn);
            world.publish(press, "a", "x", Q1);
            let conn = world.connect("victim", durable("c"));
            world.expect(conn, ["CONNACK 00 present", "PUBLISH a \"x\" q1 #32768"]);
        }
    }
    // The twin: the owner may clean up.
    let mut world = World::new();
    let (_, conn) = victim(&mut world);
    let own = world.connect("victim", v5("c"));
    world.take(conn);
    world.expect(own, ["CONNACK 00"]);
    assert_eq!(world.session("victim", "c").unwrap().subscriptions.len(), 0);
    let is_refused: Step = |stage| stage.is_refused(OPS);
    journey(
        &message(Q1),
        &[PRESS_CONNECTS, OPS_LISTENS, OPS_IS_LOST, PUBLISHES, is_refused, INTRUDES_CLEAN, OPS_CONNECTS],
    );
}
