//! F6 to F12 and F16: what is released later than it was permitted.

use super::course::{Course, last_will, message, retained_message, shared_message};
use super::journey;
use super::steps::*;
use crate::svid::peer_until;
use crate::world::*;
use broker_core::Config;
use mqtt_proto::{Connect, Packet, Publish};
use std::num::NonZeroU16;

/// Another message, which comes before this one.
const PUBLISHES_OPEN: Step = |stage| {
    let open = Publish { retain: stage.course.retain, ..publish("open", "x", Q1) };
    stage.press_sends(Packet::Publish(Box::new(open)));
};

const OPS_CONNECTS_FOR_ONE_AT_A_TIME: Step =
    |stage| stage.ops_connects(Connect { receive_max: NonZeroU16::new(1), ..durable("c") });

const OPS_ACKNOWLEDGES: Step = |stage| {
    // As what was sent at once, or had waited.
    stage.ops_sends(Packet::PubAck(ack(1)));
    stage.ops_sends(Packet::PubAck(ack(0x8000)));
};

#[test]
fn f06_a_retained_message_is_withheld_once_its_source_lost_the_right() {
    for config in [Config::default(), Config { purge_lost: true, ..Config::default() }] {
        let retained = Course { config, ..retained_message(Q0) };
        journey(&retained, &[PRESS_CONNECTS, PUBLISHES, PRESS_IS_LOST, OPS_CONNECTS, OPS_SUBSCRIBES]);
    }
    // Left by a will.
    let last = Course { retain: true, ..last_will() };
    journey(&last, &[PRESS_CONNECTS_MORTAL, PRESS_IS_LOST, OPS_CONNECTS, OPS_SUBSCRIBES]);
}

#[test]
fn f07_a_retained_message_is_not_handed_to_who_may_not_read_it() {
    // Another stands before it, and the client takes one at a time: the right goes while it waits.
    journey(
        &retained_message(Q1),
        &[
            PRESS_CONNECTS,
            PUBLISHES_OPEN,
            PUBLISHES,
            OPS_CONNECTS_FOR_ONE_AT_A_TIME,
            OPS_SUBSCRIBES,
            OPS_ACKNOWLEDGES,
        ],
    );
}

#[test]
fn f08_a_subscription_does_not_survive_the_loss_of_its_right() {
    // Connected.
    journey(&message(Q1), &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES, PUBLISHES]);
    // Away, and resumed.
    journey(
        &message(Q2),
        &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, OPS_IS_LOST, OPS_CONNECTS, PUBLISHES],
    );
    // Shared.
    journey(&shared_message(Q1), &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, PUBLISHES, PUBLISHES]);
}

#[test]
fn f09_a_session_ends_with_whatever_proved_its_identity() {
    let connect = |world: &mut World, id: &str| {
        let conn = world.connect_peer(peer_until(id, 1000), durable("c"));
        world.expect(conn, ["CONNACK 00"]);
        world.subscribe(conn, "a", Q0);
        conn
    };
    for way in 0..3 {
        let mut world = World::new();
        let (press, twin) = (connect(&mut world, "press"), world.client("twin"));
        world.subscribe(twin, "a", Q0);
        match way {
            0 => world.pass_secs(1000),
            1 => world.revoke("press"),
            _ => {
                world.broker.handle_proof_ended(press, &"its CA is tainted".into(), world.now);
                world.drain();
            }
        }
        let seen = world.take(press);
        assert!(seen[0] == "DISCONNECT 87" && seen[1].starts_with("CLOSE"), "{seen:?}");
        let other = world.client("other");
        world.publish(other, "a", "x", Q0);
        world.publish(press, "a", "y", Q0);
        world.quiet(press);
        world.expect(twin, ["PUBLISH a \"x\" q0"]);
    }
    // The same on a message's way, to a reader of 3.1.1.
    let kept: Step = |stage| stage.ops_connects(Connect { clean_start: false, ..v311("c") });
    journey(&message(Q1), &[PRESS_CONNECTS, kept, OPS_SUBSCRIBES, PUBLISHES, OPS_IS_LOST, PUBLISHES, kept]);
}

#[test]
fn f10_nothing_is_sent_again_once_source_or_sink_lost_the_right() {
    for course in [message(Q1), message(Q2), shared_message(Q1)] {
        journey(&course, &[PRESS_CONNECTS, OPS_LISTENS, PUBLISHES, OPS_IS_LOST, OPS_CONNECTS]);
        // Taken over instead of lost.
        journey(&course, &[PRESS_CONNECTS, OPS_LISTENS, PUBLISHES, OPS_CONNECTS]);
    }
}

#[test]
fn f11_a_qos2_message_is_asked_for_at_publish_and_at_pubrel_and_a_refused_one_cannot_be_retried() {
    journey(&message(Q2), &[PRESS_CONNECTS, OPS_CONNECTS, OPS_SUBSCRIBES, SAYS, RELEASES]);
    // The session is resumed between the two.
    journey(&message(Q2), &[OPS_LISTENS, PRESS_CONNECTS, SAYS, PRESS_IS_LOST, PRESS_CONNECTS, RELEASES]);
    for (version, permitted) in [(V5, false), (V311, false), (V5, true), (V311, true)] {
        let topics: &[&str] = if permitted { &["secret"] } else { &["open"] };
        let mut world = World::ruled(vec![allow("press", topics, &[]), allow("ops", &[], &["#"])]);
        let ops = world.client("ops");
        world.subscribe(ops, "secret", Q0);
        let press = world.open("press", Connect { version, ..v5("c") });
        for dup in [false, true] {
            world.send(press, Packet::Publish(Box::new(Publish { dup, ..publish("secret", "x", Q2) })));
        }
        world.send(press, Packet::PubRel(ack(1)));
        let refused = version == V5 && !permitted;
        let answer = if refused { "PUBREC 1 87" } else { "PUBREC 1 00" };
        assert_eq!(world.take(press)[..2], [answer, answer]);
        assert_eq!(world.take(ops).len(), usize::from(permitted));
    }
}

#[test]
fn f12_what_waits_for_a_session_is_not_delivered_once_source_or_sink_lost_the_right() {
    for course in [message(Q1), message(Q2), shared_message(Q1)] {
        journey(&course, &[OPS_LISTENS, OPS_IS_LOST, PRESS_CONNECTS, PUBLISHES, PRESS_IS_LOST, OPS_CONNECTS]);
    }
    // Connected, but behind another that is not acknowledged.
    journey(
        &message(Q1),
        &[
            PRESS_CONNECTS,
            OPS_CONNECTS_FOR_ONE_AT_A_TIME,
            OPS_SUBSCRIBES,
            PUBLISHES_OPEN,
            PUBLISHES,
            OPS_ACKNOWLEDGES,
        ],
    );
    // Connected, but not reading.
    let config = Config { unsent_bytes_soft: 0, ..Config::default() };
    journey(
        &Course { config, ..message(Q1) },
        &[
            PRESS_CONNECTS,
            OPS_LISTENS,
            |stage| stage.world.flushing = false,
            |stage| stage.ops_sends(Packet::PingReq),
            PUBLISHES,
            |stage| stage.ops_reads(),
        ],
    );
    // Connected, but the disk is slow: what is sent waits until it is known after a crash.
    journey(
        &message(Q2),
        &[
            PRESS_CONNECTS,
            OPS_LISTENS,
            |stage| stage.world.disk.is_quick = false,
            PUBLISHES,
            |stage| {
                stage.world.disk.is_quick = true;
                stage.world.store();
            },
        ],
    );
}

#[test]
fn f16_a_topic_alias_gives_no_right_to_its_topic() {
    const USES: Step = |stage| stage.press_publishes_by_alias();
    // Both ways: the client's alias in, the broker's alias out.
    let ops_connects: Step = |stage| stage.ops_connects(Connect { topic_alias_max: 1, ..durable("c") });
    journey(&message(Q0), &[PRESS_CONNECTS, ops_connects, OPS_SUBSCRIBES, USES, USES, USES]);
    // Set by a publication that was denied, it is as good as any other name, and no better.
    let mut world = World::ruled(vec![allow("press", &["open"], &[]), allow("ops", &[], &["#"])]);
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "secret", Q0);
    let aliased = |topic: Option<&str>| {
        let (topic, topic_alias) = (topic.map(topic_name), NonZeroU16::new(1));
        Packet::Publish(Box::new(Publish { topic, topic_alias, ..publish("secret", "x", Q0) }))
    };
    world.send(press, aliased(Some("secret")));
    world.send(press, aliased(None));
    world.quiet(ops);
    world.set_rules(vec![allow("press", &["secret"], &[]), allow("ops", &[], &["#"])]);
    world.send(press, aliased(None));
    world.expect(ops, ["PUBLISH secret \"x\" q0"]);
}
