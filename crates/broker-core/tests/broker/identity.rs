//! How long an identity holds: SVID expiry, re-authentication, revocation (F9, F13, F31).

use crate::svid::peer_until;
use crate::world::*;
use broker_core::ConnId;
use midge_identity::UnixMillis;
use mqtt_proto::{Connect, Packet};
use std::time::Duration;

fn mortal(client_id: &str) -> Connect {
    Connect { will: will("w", "gone", 0), ..durable(client_id) }
}

/// Somebody who watches `w`, and a client with a will whose SVID expires after so many seconds.
fn world(secs: u64) -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let watcher = world.client("ops");
    world.subscribe(watcher, "w", Q0);
    let conn = world.connect_peer(peer_until("press", secs), mortal("c"));
    world.expect(conn, ["CONNACK 00"]);
    (world, watcher, conn)
}

// F9
#[test]
fn a_connection_ends_when_its_svid_expires_and_its_will_does_not_fire() {
    let (mut world, watcher, conn) = world(1000);
    let local = world.open("press", durable("local"));
    world.pass(Duration::from_millis(999_999));
    world.quiet(conn);
    world.pass(Duration::from_millis(1));
    world.expect(conn, ["DISCONNECT 87", "CLOSE SvidExpired"]);
    assert_eq!(world.reason_strings(conn), ["SVID expired"]);
    world.pass_secs(10);
    world.quiet(watcher);
    world.quiet(local);
    // The session itself waits for a newer SVID.
    let again = world.connect_peer(peer_until("press", 5000), durable("c"));
    world.expect(again, ["CONNACK 00 present"]);
}

#[test]
fn a_connection_over_311_ends_when_its_svid_expires() {
    let mut world = World::new();
    let conn = world.connect_peer(peer_until("press", 10), v311("c"));
    world.pass_secs(10);
    world.expect(conn, ["CONNACK 00", "CLOSE SvidExpired"]);
}

#[test]
fn an_expired_svid_does_not_connect() {
    let mut world = World::new();
    let (peer, twin) = (peer_until("press", 10), peer_until("press", 11));
    world.pass_secs(10);
    let conn = world.connect_peer(peer, v5("c"));
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let conn = world.connect_peer(twin, v5("c"));
    world.expect(conn, ["CONNACK 00"]);
}

// F34: what counts is the wall clock. A step forward is noticed at the client's next packet …
#[test]
fn a_packet_after_a_step_of_the_wall_clock_is_not_served() {
    let (mut world, watcher, conn) = world(1000);
    world.now.wall = START.after(Duration::from_secs(1000));
    world.publish(conn, "w", "late", Q1);
    world.expect(conn, ["DISCONNECT 87", "CLOSE SvidExpired"]);
    world.quiet(watcher);
}

// … and without any within a minute; a step back does not end anything early.
#[test]
fn a_step_of_the_wall_clock_is_noticed_within_a_minute() {
    let (mut world, _, conn) = world(1000);
    world.now.wall = START.after(Duration::from_secs(2000));
    world.pass_secs(60);
    world.expect(conn, ["DISCONNECT 87", "CLOSE SvidExpired"]);
    let conn = world.connect_peer(peer_until("press", 5000), v5("d"));
    world.now.wall = UnixMillis(START.0 - 1_000_000);
    world.pass_secs(5000);
    world.expect(conn, ["CONNACK 00"]);
    world.pass_secs(1000);
    world.expect(conn, ["DISCONNECT 87", "CLOSE SvidExpired"]);
}

// F9, F31
#[test]
fn a_revoked_identity_loses_every_session_and_no_other_does() {
    let mut world = World::new();
    let watcher = world.client("ops");
    world.subscribe(watcher, "w", Q0);
    let five = world.open("press", mortal("five"));
    let three = world.open("press", Connect { will: will("w", "gone", 0), ..v311("three") });
    let parked = world.open("press", Connect { will: will("w", "gone", 600), ..durable("parked") });
    world.subscribe(parked, "q", Q1);
    world.lose(parked);
    let neighbour = world.open("press/sub", mortal("five"));
    world.publish(watcher, "q", "x", Q1);
    world.take(watcher);
    world.audits();

    world.revoke("press");
    world.expect(five, ["DISCONNECT 87", "CLOSE Revoked(\"entry deleted\")"]);
    // Why is for the audit log alone.
    assert_eq!(world.reason_strings(five), ["identity is no longer valid"]);
    world.expect(three, ["CLOSE Revoked(\"entry deleted\")"]);
    world.pass_secs(10_000);
    world.quiet(watcher);
    world.quiet(neighbour);
    assert_eq!(world.broker.sessions().len(), 2);
    assert_eq!(
        world.audits(),
        [
            "press/five disconnected Revoked(\"entry deleted\") in=0 out=0",
            "press/five session ended",
            "press/parked session ended",
            "press/three disconnected Revoked(\"entry deleted\") in=0 out=0",
            "press/three session ended",
        ]
    );
    // Registered again, it starts from nothing.
    let again = world.connect("press", durable("parked"));
    world.expect(again, ["CONNACK 00"]);
}

#[test]
fn what_a_revoked_identity_left_is_purged_and_nothing_of_others() {
    let mut world = World::new();
    let (press, other) = (world.client("press"), world.client("other"));
    let ops = world.open("ops", durable("c"));
    world.subscribe(ops, "q/#", Q1);
    world.lose(ops);
    for conn in [press, other] {
        world.publish(conn, &format!("q/{}", conn.0), "x", Q1);
        world.send(conn, retained(&format!("r/{}", conn.0), "x"));
    }
    world.revoke("press");
    assert_eq!(world.session("ops", "c").unwrap().queued, 1);
    assert_eq!(world.broker.metrics().retained_messages, 1);
    assert_eq!(world.broker.metrics().dropped.revoked, 1);
    assert!(world.denials().contains(&"press/press retained purged r/1".to_owned()));
}

#[test]
fn a_proof_that_ends_takes_its_connection_and_leaves_the_session() {
    let mut world = World::new();
    let (first, second) = (world.open("press", durable("a")), world.open("press", durable("b")));
    world.broker.handle_proof_ended(first, &"process is gone".into(), world.now);
    world.drain();
    world.expect(first, ["DISCONNECT 87", "CLOSE ProofEnded(\"process is gone\")"]);
    world.send(second, Packet::PingReq);
    world.expect(second, ["PINGRESP"]);
    let first = world.connect("press", durable("a"));
    world.expect(first, ["CONNACK 00 present"]);
}

#[test]
fn who_stands_by_an_entry_is_found_among_many_who_stand_by_svids() {
    let mut world = World::new();
    let shown = world.connect_peer(peer_until("press", 100), durable("c"));
    let attested = world.open("ops", durable("c"));
    assert_eq!(world.broker.attested(), [attested]);
    assert_eq!(world.broker.connections().len(), 2);
    world.expect(shown, ["CONNACK 00"]);
    world.lose(attested);
    assert_eq!(world.broker.attested(), []);
}
