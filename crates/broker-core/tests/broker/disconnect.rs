//! DISCONNECT and other ends of a connection.

use crate::world::*;
use broker_core::{CloseCause, ConnId};
use mqtt_proto::{Connect, Disconnect, Packet, ReasonCode};

/// A client with a will on `w`, and somebody who watches it.
fn world(connect: Connect) -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let watcher = world.client("ops");
    world.subscribe(watcher, "w", Q0);
    let conn = world.open("press", Connect { will: will("w", "gone", 0), ..connect });
    world.audits();
    (world, conn, watcher)
}

const GONE: [&str; 1] = ["PUBLISH w \"gone\" q0"];

// [MQTT-3.1.2-10], [MQTT-3.14.4-3]
#[test]
fn a_normal_disconnect_discards_the_will_and_every_other_publishes_it() {
    for (reason, fires) in [
        (ReasonCode::Success, false),
        (ReasonCode::DisconnectWithWill, true),
        (ReasonCode::UnspecifiedError, true),
        (ReasonCode::AdministrativeAction, true),
    ] {
        let (mut world, conn, watcher) = world(v5("c"));
        world.send(conn, bye(reason));
        assert_eq!(world.take(conn), [format!("CLOSE ClientDisconnected({reason:?})")]);
        assert_eq!(world.take(watcher) == GONE, fires, "{reason:?}");
        // The socket's end comes after it and counts no more.
        world.lose(conn);
        world.quiet(watcher);
    }
}

// 3.1.1 [MQTT-3.1.2-8], [MQTT-3.14.4-3]
#[test]
fn a_311_disconnect_discards_the_will_and_a_lost_connection_publishes_it() {
    let (mut world, conn, watcher) = world(v311("c"));
    world.send(conn, bye(ReasonCode::Success));
    world.quiet(watcher);
    let again = world.open("press", Connect { will: will("w", "gone", 0), ..v311("c") });
    world.broker.handle_closed(again, CloseCause::Failed("reset".into()), world.now);
    world.drain();
    world.expect(watcher, GONE);
    assert!(world.audits().contains(&"press/c disconnected Lost(Failed(\"reset\")) in=0 out=0".to_owned()));
}

// [MQTT-3.1.2-22]: silence in the middle of a packet, and no violation of the protocol.
#[test]
fn a_packet_that_is_never_finished_ends_the_connection_like_silence() {
    for (connect, last) in
        [(v5("c"), &["DISCONNECT 8D", "CLOSE KeepAlive"][..]), (v311("c"), &["CLOSE KeepAlive"][..])]
    {
        let (mut world, conn, watcher) = world(connect);
        world.broker.handle_unfinished(conn, world.now);
        world.drain();
        assert_eq!(world.take(conn), last);
        world.expect(watcher, GONE);
    }
}

fn with_expiry(secs: u32) -> Packet {
    let packet = Disconnect { session_expiry_secs: Some(secs), ..disconnect(ReasonCode::Success) };
    Packet::Disconnect(Box::new(packet))
}

// MQTT 5.0 §3.14.2.2.2
#[test]
fn disconnect_may_change_the_session_expiry() {
    let (mut world, conn, _) = world(durable("c"));
    world.send(conn, with_expiry(10));
    world.pass_secs(9);
    assert!(world.session("press", "c").is_some());
    world.pass_secs(1);
    assert_eq!(world.session("press", "c"), None);
    let conn = world.open("press", durable("c"));
    world.send(conn, with_expiry(0));
    assert_eq!(world.session("press", "c"), None);
}

// [MQTT-3.14.2-2]
#[test]
fn disconnect_must_not_raise_the_session_expiry_from_zero() {
    let (mut world, conn, watcher) = world(v5("c"));
    world.send(conn, with_expiry(10));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
    world.expect(watcher, GONE);
    assert_eq!(world.session("press", "c"), None);
    let conn = world.open("press", v5("c"));
    world.send(conn, with_expiry(0));
    world.expect(conn, ["CLOSE ClientDisconnected(Success)"]);
}

#[test]
fn the_expiry_of_a_disconnect_is_lowered_to_the_limit() {
    let mut world = World::limited(|config| config.session_expiry_max = std::time::Duration::from_secs(100));
    let conn = world.open("press", Connect { session_expiry_secs: Some(10), ..durable("c") });
    world.send(conn, with_expiry(u32::MAX));
    world.pass_secs(99);
    assert!(world.session("press", "c").is_some());
    world.pass_secs(1);
    assert_eq!(world.session("press", "c"), None);
}

#[test]
fn an_operator_ends_one_session_and_no_other() {
    let (mut world, conn, watcher) = world(durable("c"));
    let same_id = world.open("other", durable("c"));
    assert!(!world.broker.handle_kick(&spiffe("press"), "nobody", world.now));
    assert!(world.broker.handle_kick(&spiffe("press"), "c", world.now));
    world.drain();
    world.expect(conn, ["DISCONNECT 98", "CLOSE Administrative"]);
    world.expect(watcher, GONE);
    world.quiet(same_id);
    assert_eq!(world.session("press", "c"), None);
    assert!(world.session("other", "c").is_some());
    assert_eq!(
        world.audits(),
        [
            "other/c connected present=false",
            "press/c disconnected Administrative in=0 out=0",
            "press/c session ended"
        ]
    );
}

#[test]
fn nothing_is_sent_after_a_close() {
    let (mut world, conn, _) = world(v5("c"));
    world.subscribe(conn, "a", Q1);
    world.send(conn, bye(ReasonCode::Success));
    world.take(conn);
    let press = world.client("press");
    world.publish(press, "a", "x", Q1);
    world.send(conn, Packet::PingReq);
    world.flush(conn);
    world.quiet(conn);
}

// [MQTT-3.1.4-5], [MQTT-4.3.2-4]: what it sent before is answered, as slow as the disk may be.
#[test]
fn what_was_sent_before_a_disconnect_is_answered_first() {
    for (taken_over, reason, fires) in [
        (false, ReasonCode::Success, false),
        (true, ReasonCode::Success, false),
        (false, ReasonCode::DisconnectWithWill, true),
    ] {
        let (mut world, watcher) = (World::new(), "ops");
        let kept = world.open("kept", durable("c"));
        world.subscribe(kept, "a", Q1);
        let watcher = world.client(watcher);
        world.subscribe(watcher, "w", Q0);
        world.disk.is_quick = false;
        let mortal = Connect { will: will("w", "gone", 0), ..durable("c") };
        let conn = world.connect("press", mortal.clone());
        world.publish(conn, "a", "x", Q1);
        world.send(conn, bye(reason));
        world.quiet(conn);
        // What comes after it is nobody's.
        world.publish(conn, "w", "late", Q0);
        world.end_input(conn);
        world.quiet(watcher);
        if taken_over {
            let again = world.connect("press", Connect { will: None, ..mortal });
            world.take(conn);
            world.store();
            world.expect(again, ["CONNACK 00 present"]);
        } else {
            world.store();
            let close = format!("CLOSE ClientDisconnected({reason:?})");
            world.expect(conn, ["CONNACK 00", "PUBACK 1 00", &close]);
        }
        assert_eq!(world.take(watcher) == GONE, fires, "{reason:?}");
    }
}
