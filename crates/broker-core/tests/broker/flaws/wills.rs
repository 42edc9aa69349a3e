//! F1 to F5: wills.

use super::course::{Course, last_will};
use super::journey;
use super::losses::PRESS;
use super::steps::*;
use crate::svid::peer_until;
use crate::world::*;
use broker_core::Config;
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, ReasonCode};
use std::time::Duration;

fn mortal(delay: u32) -> Connect {
    Connect { will: will("secret", "gone", delay), ..durable("c") }
}

const ENDS_BY_A_FAULT: Step = |stage| stage.press_sends(Packet::PingResp);

#[test]
fn f01_a_will_without_the_right_to_it_is_refused_at_connect() {
    let refusing: [fn(&mut Rule); 6] = [
        |rule| rule.publish = vec!["open".into()],
        |rule| rule.deny_publish = vec!["secret".into()],
        |rule| rule.will = Some(false),
        |rule| rule.qos_max = Some(0),
        |rule| rule.retain = Some(false),
        |rule| rule.payload_max = Some(3),
    ];
    let mut last = will("secret", "gone", 0).unwrap();
    (last.message.qos, last.message.retain) = (Q1, true);
    for (number, refusing) in refusing.into_iter().enumerate() {
        for version in [V5, V311] {
            let mut rule = allow("press", &["secret"], &[]);
            let connect = || Connect { version, will: Some(last.clone()), ..v5("c") };
            let mut twin = World::ruled(vec![rule.clone()]);
            twin.open("press", connect());
            refusing(&mut rule);
            let mut world = World::ruled(vec![rule, allow("ops", &[], &["#"])]);
            let ops = world.client("ops");
            world.subscribe(ops, "#", Q1);
            let refused = world.connect("press", connect());
            world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
            world.lose(refused);
            world.quiet(ops);
            assert!(world.session("press", "c").is_none(), "refusal {number}");
        }
    }
    journey(&Course { retain: true, ..last_will() }, &[OPS_LISTENS, PRESS_CONNECTS_MORTAL, PRESS_IS_LOST]);
}

#[test]
fn f02_a_will_does_not_go_out_once_its_owner_lost_the_right() {
    journey(&last_will(), &[OPS_LISTENS, PRESS_CONNECTS_MORTAL, HALF_A_MINUTE, PRESS_IS_LOST]);
    // The same where the end is noticed by the broker itself.
    let ten_secs: Step = |stage| stage.passes(10);
    journey(
        &last_will(),
        &[
            OPS_LISTENS,
            |stage| stage.press_connects_mortal(0, Connect { keep_alive_secs: 10, ..durable("c") }),
            ten_secs,
            ten_secs,
        ],
    );
}

#[test]
fn f03_no_will_goes_out_for_a_refused_connect_or_a_session_cut_for_want_of_a_right() {
    type Cut = fn(&mut World, broker_core::ConnId);
    let cuts: [Cut; 4] = [
        |world, _| world.revoke("press"),
        |world, conn| {
            world.broker.handle_proof_ended(conn, &"process is gone".into(), world.now);
            world.drain();
        },
        |world, _| world.pass(Duration::from_secs(1000)),
        // A denied publication of 3.1.1 that ends the connection.
        |world, conn| world.publish(conn, "other", "x", Q0),
    ];
    let config = Config { denied_publish_v311: broker_core::DeniedPublish::Disconnect, ..Config::default() };
    let rules = || vec![allow("press", &["secret"], &[]), allow("ops", &[], &["#"])];
    for (number, cut) in cuts.into_iter().enumerate() {
        for delay in [0, 60] {
            let mut world = World::with(config.clone(), rules());
            let ops = world.client("ops");
            world.subscribe(ops, "#", Q1);
            let connect =
                if number == 3 { Connect { version: V311, ..mortal(delay) } } else { mortal(delay) };
            let conn = world.connect_peer(peer_until("press", 1000), connect);
            cut(&mut world, conn);
            assert!(world.take(conn).iter().any(|text| text.starts_with("CLOSE")), "cut {number}");
            world.pass_secs(10_000);
            world.quiet(ops);
        }
    }
    // A refused CONNECT neither leaves its own will nor sets off that of the session it names.
    let mut world = World::with(config, rules());
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q1);
    let conn = world.open("press", mortal(0));
    let refused = world.connect("press", Connect { will: will("other", "x", 0), ..v5("c") });
    world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    world.lose(refused);
    world.quiet(ops);
    world.quiet(conn);
    // The twin: a fault of the protocol is no want of a right.
    world.send(conn, Packet::PingResp);
    world.expect(ops, ["PUBLISH secret \"gone\" q0"]);
    journey(
        &last_will(),
        &[OPS_LISTENS, PRESS_CONNECTS_MORTAL, |stage| stage.is_refused(PRESS), ENDS_BY_A_FAULT],
    );
}

#[test]
fn f04_a_will_is_asked_for_with_the_rights_of_the_identity_that_left_it() {
    let mut world = World::ruled(vec![
        allow("press", &["secret"], &[]),
        allow("other", &["open"], &[]),
        allow("ops", &[], &["#"]),
    ]);
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q1);
    // The right of one is no right of another, whatever client id and user name say.
    let named = Connect { username: Some("spiffe://plant/press".into()), ..mortal(0) };
    let refused = world.connect("other", named.clone());
    world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let conn = world.open("press", named);
    // Nor does another's connection under the same client id replace it or set it off.
    let other = world.open("other", Connect { will: will("open", "mine", 0), ..durable("c") });
    world.quiet(ops);
    world.send(other, bye(ReasonCode::DisconnectWithWill));
    world.expect(ops, ["PUBLISH open \"mine\" q0"]);
    world.lose(conn);
    world.expect(ops, ["PUBLISH secret \"gone\" q0"]);
    journey(&last_will(), &[OPS_LISTENS, PRESS_CONNECTS_MORTAL, INTRUDES, PRESS_IS_LOST]);
}

#[test]
fn f05_a_delayed_will_and_one_set_off_by_a_takeover_are_asked_for_when_they_go_out() {
    let connects: Step = |stage| stage.press_connects_mortal(60, durable("c"));
    journey(&last_will(), &[OPS_LISTENS, connects, PRESS_IS_LOST, HALF_A_MINUTE, HALF_A_MINUTE]);
    // The session ends before the delay does.
    let brief: Step = |stage| {
        stage.press_connects_mortal(60, Connect { session_expiry_secs: Some(30), ..durable("c") });
    };
    journey(&last_will(), &[OPS_LISTENS, brief, PRESS_IS_LOST, HALF_A_MINUTE]);
    // A clean start ends the session that waits.
    let clean: Step = |stage| stage.press_connects(v5("c"));
    journey(&last_will(), &[OPS_LISTENS, connects, PRESS_IS_LOST, clean]);
    // Takeover of a live connection.
    journey(&last_will(), &[OPS_LISTENS, PRESS_CONNECTS_MORTAL, PRESS_CONNECTS]);
    journey(&last_will(), &[OPS_LISTENS, connects, clean]);
}
