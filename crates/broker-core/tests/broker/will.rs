//! Wills: F1 to F5, delay, takeover.

use crate::world::*;
use broker_core::{CloseCause, Config, ConnId};
use midge_policy::Rule;
use mqtt_proto::{Connect, Packet, ReasonCode, Will};

fn rules(press_may_publish: &[&str]) -> Vec<Rule> {
    vec![allow("press", press_may_publish, &[]), allow("other", &["o"], &[]), allow("ops", &[], &["#"])]
}

fn world() -> (World, ConnId) {
    let mut world = World::ruled(rules(&["w"]));
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q1);
    world.audits();
    (world, ops)
}

const GONE: [&str; 1] = ["PUBLISH w \"gone\" q0"];

fn mortal(delay: u32) -> Connect {
    Connect { will: will("w", "gone", delay), ..durable("c") }
}

// F1
#[test]
fn a_will_that_may_not_be_published_is_refused_at_connect() {
    let (mut world, ops) = world();
    let refused = world.connect("press", Connect { will: will("cmd/stop", "x", 0), ..v5("c") });
    world.expect(refused, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let denials = world.denials();
    assert_eq!(denials.len(), 1);
    assert!(
        denials[0].starts_with("press/c connect denied 87: no rule allows a will on `cmd/stop`"),
        "{denials:?}"
    );
    // F3: nor does it fire when the refused connection closes.
    world.lose(refused);
    world.quiet(ops);
    let permitted = world.connect("press", mortal(0));
    world.expect(permitted, ["CONNACK 00"]);
    world.lose(permitted);
    world.expect(ops, GONE);
}

#[test]
fn a_will_keeps_qos_retain_and_properties() {
    let (mut world, ops) = world();
    let mut last = will("w", "gone", 0).unwrap();
    last.message.qos = Q1;
    last.message.retain = true;
    last.message.properties = expiring("w", "", Q1, 30).properties;
    let conn = world.open("press", Connect { will: Some(last), ..v5("c") });
    world.lose(conn);
    world.expect(ops, ["PUBLISH w \"gone\" q1 #1 expiry=30"]);
    world.pass_secs(10);
    world.subscribe(ops, "w", Q0);
    world.expect(ops, ["PUBLISH w \"gone\" q0 retain expiry=20"]);
}

// F2
#[test]
fn a_will_is_checked_again_when_it_fires() {
    for revoked in [true, false] {
        let (mut world, ops) = world();
        let conn = world.open("press", mortal(0));
        world.set_rules(rules(if revoked { &["x"] } else { &["w", "x"] }));
        world.lose(conn);
        if revoked {
            world.quiet(ops);
            assert_eq!(world.denials(), ["press/c will denied w Release"]);
        } else {
            world.expect(ops, GONE);
        }
    }
}

#[test]
fn a_rule_may_permit_publishing_but_no_will() {
    let mut world = World::ruled(vec![Rule { will: Some(false), ..allow("press", &["w"], &[]) }]);
    let conn = world.connect("press", mortal(0));
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let conn = world.client("press");
    world.publish(conn, "w", "", Q1);
    world.expect(conn, ["PUBACK 1 10"]);
}

#[test]
fn a_will_is_asked_for_as_a_will_when_it_fires() {
    for permitted in [true, false] {
        let (mut world, ops) = world();
        let conn = world.open("press", mortal(0));
        let mut changed = rules(&["w"]);
        changed[0].will = Some(permitted);
        world.set_rules(changed);
        world.lose(conn);
        assert_eq!(world.take(ops) == GONE, permitted);
    }
}

// F3
#[test]
fn no_will_fires_for_a_session_that_ended_for_want_of_a_right() {
    let (mut world, ops) = world();
    let conn = world.open("press", mortal(0));
    world.revoke("press");
    world.expect(conn, ["DISCONNECT 87", "CLOSE Revoked(\"entry deleted\")"]);
    let conn = world.open("press", mortal(0));
    world.broker.handle_proof_ended(conn, &"process is gone".into(), world.now);
    world.drain();
    world.expect(conn, ["DISCONNECT 87", "CLOSE ProofEnded(\"process is gone\")"]);
    world.pass_secs(10_000);
    world.quiet(ops);
    // The twin: any other end publishes it.
    let conn = world.open("press", mortal(0));
    world.send(conn, Packet::PingResp);
    world.expect(ops, GONE);
}

// F2, F5
#[test]
fn a_delayed_will_is_checked_when_it_fires() {
    for revoked in [true, false] {
        let (mut world, ops) = world();
        let conn = world.open("press", mortal(60));
        world.lose(conn);
        world.pass_secs(30);
        world.set_rules(rules(if revoked { &["x"] } else { &["w", "x"] }));
        world.pass_secs(29);
        world.quiet(ops);
        world.pass_secs(1);
        if revoked {
            world.quiet(ops);
            assert_eq!(world.denials(), ["press/c will denied w Release"]);
        } else {
            world.expect(ops, GONE);
        }
        world.pass_secs(10_000);
        world.quiet(ops);
    }
}

// F5
#[test]
fn a_delayed_will_dies_with_its_identity() {
    let (mut world, ops) = world();
    let conn = world.open("press", mortal(60));
    world.lose(conn);
    world.revoke("press");
    world.pass_secs(100);
    world.quiet(ops);
    assert_eq!(world.broker.poll_timeout(), None);
}

// [MQTT-3.1.3-9]
#[test]
fn a_delayed_will_is_not_published_when_the_session_is_resumed_in_time() {
    let (mut world, ops) = world();
    let conn = world.open("press", mortal(60));
    world.lose(conn);
    world.pass_secs(59);
    let conn = world.connect("press", durable("c"));
    world.expect(conn, ["CONNACK 00 present"]);
    world.pass_secs(100);
    world.quiet(ops);
    // The new connection left no will.
    world.lose(conn);
    world.pass_secs(10_000);
    world.quiet(ops);
}

// [MQTT-3.1.2-8]: with the session's end there is nothing more to wait for.
#[test]
fn a_delayed_will_is_published_when_the_session_ends_first() {
    let (mut world, ops) = world();
    let short = Connect { session_expiry_secs: Some(10), ..mortal(60) };
    let conn = world.open("press", short);
    world.lose(conn);
    world.pass_secs(9);
    world.quiet(ops);
    world.pass_secs(1);
    world.expect(ops, GONE);
    let conn = world.open("press", Connect { session_expiry_secs: None, ..mortal(60) });
    world.lose(conn);
    world.expect(ops, GONE);
    let conn = world.open("press", mortal(60));
    world.lose(conn);
    let conn = world.open("press", v5("c"));
    world.expect(ops, GONE);
    world.lose(conn);
    world.pass_secs(10_000);
    world.quiet(ops);
}

// [MQTT-3.1.4-3]
#[test]
fn takeover_publishes_the_will_unless_the_session_goes_on_and_it_was_to_wait() {
    for (delay, clean_start, fires) in
        [(0, false, true), (0, true, true), (60, false, false), (60, true, true)]
    {
        let (mut world, ops) = world();
        let first = world.open("press", mortal(delay));
        let second = world.connect("press", Connect { clean_start, ..durable("c") });
        world.expect(first, ["DISCONNECT 8E", "CLOSE TakenOver"]);
        assert_eq!(world.take(ops) == GONE, fires, "delay {delay}, clean start {clean_start}");
        assert_eq!(world.take(second).len(), 1);
        world.pass_secs(100);
        world.quiet(ops);
    }
}

// F4, F13: a client of another identity can neither fire nor replace a will.
#[test]
fn a_will_belongs_to_its_identity() {
    let (mut world, ops) = world();
    let conn = world.open("press", mortal(0));
    let other = world.open("other", Connect { will: will("o", "mine", 0), ..durable("c") });
    world.quiet(ops);
    world.lose(other);
    world.expect(ops, ["PUBLISH o \"mine\" q0"]);
    world.lose(conn);
    world.expect(ops, GONE);
    // The right of one is no right of the other.
    let other = world.connect("other", mortal(0));
    world.expect(other, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
}

#[test]
fn a_keep_alive_timeout_publishes_the_will() {
    let (mut world, ops) = world();
    let conn = world.open("press", Connect { keep_alive_secs: 10, ..mortal(5) });
    world.pass_secs(19);
    world.expect(conn, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
    world.quiet(ops);
    world.pass_secs(1);
    world.expect(ops, GONE);
}

#[test]
fn a_will_is_published_once() {
    let (mut world, ops) = world();
    let conn = world.open("press", mortal(0));
    world.send(conn, bye(ReasonCode::DisconnectWithWill));
    world.broker.handle_closed(conn, CloseCause::Eof, world.now);
    world.drain();
    world.pass_secs(10_000);
    world.expect(ops, GONE);
}

// F6 for wills: what a will left behind is asked for as a will.
#[test]
fn a_retained_will_dies_with_the_right_to_leave_wills() {
    let mut world = World::with(Config { purge_lost: true, ..Config::default() }, rules(&["w"]));
    let ops = world.client("ops");
    world.subscribe(ops, "#", Q1);
    let mut last: Will = will("w", "gone", 0).unwrap();
    last.message.retain = true;
    let conn = world.open("press", Connect { will: Some(last), ..v5("c") });
    world.lose(conn);
    world.take(ops);
    let mut changed = rules(&["w"]);
    changed[0].will = Some(false);
    world.set_rules(changed);
    assert_eq!(world.denials(), ["press/c retained purged w"]);
    world.subscribe(ops, "w", Q0);
    world.quiet(ops);
}
