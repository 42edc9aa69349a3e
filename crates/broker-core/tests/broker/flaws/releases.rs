//! F6 to F12 and F16: what is released later than it was permitted.

use super::{Stage, Step, journey, journey_with};
use crate::svid::peer_until;
use crate::world::*;
use broker_core::Config;
use mqtt_proto::{Connect, Packet, Publish, QoS};
use std::num::NonZeroU16;

const PRESS_CONNECTS: Step = |stage| stage.press_connects(v5("c"));
const PRESS_IS_LOST: Step = |stage: &mut Stage| stage.press_is_lost();
const OPS_CONNECTS: Step = |stage| stage.ops_connects(durable("c"));
const OPS_IS_LOST: Step = |stage: &mut Stage| stage.ops_is_lost();

fn message(qos: QoS, retain: bool) -> Packet {
    Packet::Publish(Box::new(Publish { retain, ..publish("secret", "x", qos) }))
}

fn ops_subscribes(stage: &mut Stage) {
    stage.ops_sends(subscribe([sub("secret", Q2), sub("open", Q2)]));
}

#[test]
fn f06_a_retained_message_is_withheld_once_its_source_lost_the_right() {
    journey(&[
        PRESS_CONNECTS,
        |stage| stage.press_sends(message(Q0, true)),
        PRESS_IS_LOST,
        |stage| stage.ops_connects(v5("c")),
        |stage| stage.ops_sends(subscribe([sub("secret", Q1)])),
    ]);
    // Left by a will.
    let mortal: Step = |stage| {
        let mut last = will("secret", "gone", 0).unwrap();
        last.message.retain = true;
        stage.press_connects(Connect { will: Some(last), ..v5("c") });
    };
    journey(&[
        mortal,
        PRESS_IS_LOST,
        |stage| stage.ops_connects(v5("c")),
        |stage| stage.ops_sends(subscribe([sub("secret", Q1)])),
    ]);
}

#[test]
fn f07_a_retained_message_is_not_handed_to_who_may_not_read_it() {
    // Two more stand before it, and the client takes one at a time: the right goes while it waits.
    let one_at_a_time: Step = |stage| {
        stage.ops_connects(Connect { receive_max: NonZeroU16::new(1), ..v5("c") });
    };
    journey(&[
        PRESS_CONNECTS,
        |stage| {
            let open = Publish { retain: true, ..publish("open", "x", Q1) };
            stage.press_sends(Packet::Publish(Box::new(open)));
        },
        |stage| stage.press_sends(message(Q1, true)),
        one_at_a_time,
        |stage| stage.ops_sends(subscribe([sub("open", Q1), sub("secret", Q1)])),
        |stage| stage.ops_sends(Packet::PubAck(ack(1))),
    ]);
}

#[test]
fn f08_a_subscription_does_not_survive_the_loss_of_its_right() {
    let publishes: Step = |stage| stage.press_sends(message(Q1, false));
    // Connected.
    journey(&[PRESS_CONNECTS, OPS_CONNECTS, ops_subscribes, publishes, publishes]);
    // Away, and resumed.
    journey(&[PRESS_CONNECTS, OPS_CONNECTS, ops_subscribes, OPS_IS_LOST, OPS_CONNECTS, publishes]);
    // Shared.
    journey(&[
        PRESS_CONNECTS,
        OPS_CONNECTS,
        |stage| stage.ops_sends(subscribe([sub("$share/g/secret", Q1)])),
        publishes,
        publishes,
    ]);
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
}

#[test]
fn f10_nothing_is_sent_again_once_source_or_sink_lost_the_right() {
    for qos in [Q1, Q2] {
        let publishes: Step = match qos {
            Q1 => |stage| stage.press_sends(message(Q1, false)),
            _ => |stage| {
                stage.press_sends(message(Q2, false));
                stage.press_sends(Packet::PubRel(ack(1)));
            },
        };
        journey(&[PRESS_CONNECTS, OPS_CONNECTS, ops_subscribes, publishes, OPS_IS_LOST, OPS_CONNECTS]);
        // Taken over instead of lost.
        journey(&[PRESS_CONNECTS, OPS_CONNECTS, ops_subscribes, publishes, OPS_CONNECTS]);
    }
}

#[test]
fn f11_a_qos2_message_is_asked_for_at_publish_and_at_pubrel_and_a_refused_one_cannot_be_retried() {
    journey(&[
        PRESS_CONNECTS,
        OPS_CONNECTS,
        ops_subscribes,
        |stage| stage.press_sends(message(Q2, false)),
        |stage| stage.press_sends(Packet::PubRel(ack(1))),
    ]);
    // The session is resumed between the two.
    journey(&[
        |stage| stage.press_connects(durable("c")),
        OPS_CONNECTS,
        ops_subscribes,
        |stage| stage.press_sends(message(Q2, false)),
        PRESS_IS_LOST,
        |stage| stage.press_connects(durable("c")),
        |stage| stage.press_sends(Packet::PubRel(ack(1))),
    ]);
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
    let publishes: Step = |stage| stage.press_sends(message(Q1, false));
    journey(&[
        PRESS_CONNECTS,
        OPS_CONNECTS,
        ops_subscribes,
        OPS_IS_LOST,
        publishes,
        PRESS_IS_LOST,
        OPS_CONNECTS,
    ]);
    // Connected, but behind another that is not acknowledged.
    journey(&[
        PRESS_CONNECTS,
        |stage| stage.ops_connects(Connect { receive_max: NonZeroU16::new(1), ..v5("c") }),
        ops_subscribes,
        |stage| stage.press_sends(Packet::Publish(Box::new(publish("open", "x", Q1)))),
        publishes,
        |stage| stage.ops_sends(Packet::PubAck(ack(1))),
    ]);
    // Connected, but not reading.
    let config = Config { unsent_bytes_soft: 0, ..Config::default() };
    journey_with(
        &config,
        &[
            PRESS_CONNECTS,
            OPS_CONNECTS,
            ops_subscribes,
            |stage| stage.world.flushing = false,
            |stage| stage.ops_sends(Packet::PingReq),
            publishes,
            |stage| {
                stage.world.flushing = true;
                if let Some(conn) = stage.ops {
                    stage.world.flush(conn);
                }
            },
        ],
    );
    // Through a share group, to the member that takes over.
    journey(&[
        PRESS_CONNECTS,
        OPS_CONNECTS,
        |stage| stage.ops_sends(subscribe([sub("$share/g/secret", Q1)])),
        OPS_IS_LOST,
        publishes,
        OPS_CONNECTS,
    ]);
}

#[test]
fn f16_a_topic_alias_gives_no_right_to_its_topic() {
    fn aliased(topic: Option<&str>) -> Packet {
        let alias = NonZeroU16::new(1);
        Packet::Publish(Box::new(Publish {
            topic: topic.map(topic_name),
            topic_alias: alias,
            ..publish("secret", "x", Q0)
        }))
    }
    let uses: Step = |stage| stage.press_sends(aliased(None));
    // Both ways: the client's alias in, the broker's alias out.
    journey(&[
        PRESS_CONNECTS,
        |stage| stage.ops_connects(Connect { topic_alias_max: 1, ..v5("c") }),
        ops_subscribes,
        |stage| stage.press_sends(aliased(Some("secret"))),
        uses,
        uses,
    ]);
    // Set by a publication that was denied, it is as good as any other name, and no better.
    let mut world = World::ruled(super::rules(super::Loss::SourceRight));
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "secret", Q0);
    world.send(press, aliased(Some("secret")));
    world.send(press, aliased(None));
    world.quiet(ops);
    world.set_rules(super::rules(super::Loss::Nothing));
    world.send(press, aliased(None));
    world.expect(ops, ["PUBLISH secret \"x\" q0"]);
}
