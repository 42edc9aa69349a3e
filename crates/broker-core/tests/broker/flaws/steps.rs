//! Steps that many journeys have.

pub(super) use super::stage::{FORGED, Stage, Step};
use crate::world::*;
use mqtt_proto::{Connect, Packet, ReasonCode};

pub(super) const PRESS_CONNECTS: Step = |stage| stage.press_connects(durable("c"));
pub(super) const PRESS_IS_LOST: Step = |stage| stage.press_is_lost();
pub(super) const OPS_CONNECTS: Step = |stage| stage.ops_connects(durable("c"));
pub(super) const OPS_IS_LOST: Step = |stage| stage.ops_is_lost();
pub(super) const OPS_SUBSCRIBES: Step = |stage| stage.ops_sends(stage.course.subscribe());
pub(super) const OPS_LISTENS: Step = |stage| {
    OPS_CONNECTS(stage);
    OPS_SUBSCRIBES(stage);
};
pub(super) const PRESS_CONNECTS_MORTAL: Step = |stage| stage.press_connects_mortal(0, durable("c"));
pub(super) const HALF_A_MINUTE: Step = |stage| stage.passes(30);

/// PUBLISH, without what has to follow it.
pub(super) const SAYS: Step = |stage| {
    let payload = stage.payload();
    stage.press_sends(Packet::Publish(Box::new(stage.course.publish(&payload))));
};

pub(super) const RELEASES: Step = |stage| stage.press_sends(Packet::PubRel(ack(1)));

pub(super) const PUBLISHES: Step = |stage| {
    SAYS(stage);
    if stage.course.qos == Q2 {
        RELEASES(stage);
    }
};

/// Somebody with an identity of its own goes by the client id of both, and says all it can say.
pub(super) const INTRUDES: Step = |stage| intrudes(stage, durable("c"));
pub(super) const INTRUDES_CLEAN: Step = |stage| intrudes(stage, v5("c"));

fn intrudes(stage: &mut Stage<'_>, connect: Connect) {
    let forged = stage.course.publish(FORGED);
    let mortal = Connect {
        will: stage.course.will(FORGED, 0),
        username: Some("spiffe://plant/press".into()),
        ..connect.clone()
    };
    stage.intrudes(mortal, &[]);
    let all = [
        subscribe([sub(&stage.course.filter(), Q2), sub(stage.course.topic, Q2), sub("open", Q2)]),
        Packet::Publish(Box::new(forged)),
        Packet::PubRel(ack(1)),
        Packet::PubAck(ack(1)),
        Packet::PubAck(ack(0x8000)),
        unsubscribe([stage.course.filter().as_str()]),
        bye(ReasonCode::DisconnectWithWill),
    ];
    stage.intrudes(connect, &all);
}
