//! F31 and F34: who is meant by a revocation, and which clock counts.

use crate::svid::peer_until;
use crate::world::*;
use midge_identity::UnixMillis;
use mqtt_proto::{Connect, Packet};
use std::time::Duration;

#[test]
fn f31_a_revoked_identity_keeps_no_session_by_whatever_key_it_is_known() {
    let mut world = World::new();
    let (watcher, reader) = (world.client("watcher"), world.open("reader", durable("c")));
    world.subscribe(watcher, "w", Q0);
    world.subscribe(reader, "#", Q1);
    world.lose(reader);
    let mortal = |id: &str| Connect { will: will("w", "gone", 0), ..durable(id) };
    // Attested and by SVID, several client ids, an assigned one, 3.1.1, connected and away.
    let mut cut = vec![
        world.connect("press", mortal("one")),
        world.connect_peer(peer_until("press", 1000), mortal("two")),
        world.connect("press", Connect { will: will("w", "gone", 0), ..v5("") }),
        world.connect("press", Connect { will: will("w", "gone", 0), ..v311("three") }),
    ];
    let away = world.open("press", mortal("away"));
    world.publish(away, "a", "waits", Q1);
    world.send(away, retained("r", "stays"));
    world.lose(away);
    world.take(watcher);
    let others = ["press/x", "pres", "presss", "other"].map(|id| world.connect(id, mortal("one")));
    for conn in cut.iter().chain(&others) {
        world.take(*conn);
    }

    world.revoke("press");
    for conn in cut.drain(..) {
        let seen = world.take(conn);
        assert!(seen.last().is_some_and(|text| text.starts_with("CLOSE Revoked")), "{seen:?}");
        world.publish(conn, "w", "late", Q0);
    }
    world.pass_secs(1000);
    world.quiet(watcher);
    assert!(world.broker.sessions().iter().all(|session| session.identity.path() != "/press"));
    // What it left behind is not delivered either.
    let reader = world.connect("reader", durable("c"));
    assert!(!world.take(reader).iter().any(|text| text.contains("waits")));
    world.subscribe(watcher, "r", Q0);
    world.quiet(watcher);
    for conn in others {
        world.send(conn, Packet::PingReq);
        world.expect(conn, ["PINGRESP"]);
    }
}

#[test]
fn f34_a_step_of_the_clock_neither_revives_nor_ends_what_it_should_not() {
    for (step, stands) in [(999_i64, true), (1000, false), (-100_000, true)] {
        let mut world = World::new();
        let conn = world.connect_peer(peer_until("press", 1000), v5("c"));
        world.take(conn);
        let local = world.client("local");
        let wall = i64::try_from(START.0).unwrap() + step * 1000;
        world.now.wall = UnixMillis(u64::try_from(wall).unwrap());
        world.publish(conn, "a", "x", Q1);
        let seen = world.take(conn);
        assert_eq!(seen[0], if stands { "PUBACK 1 10" } else { "DISCONNECT 87" }, "{step}");
        // Without a packet it is noticed within a minute, and a step back ends nobody.
        let silent = world.connect_peer(peer_until("silent", 2000), v5("c"));
        if world.take(silent) == ["CONNACK 00"] {
            world.now.wall = START.after(Duration::from_secs(2000));
            world.pass_secs(60);
            world.expect(silent, ["DISCONNECT 87", "CLOSE SvidExpired"]);
        }
        world.send(local, Packet::PingReq);
        world.expect(local, ["PINGRESP"]);
    }
    // An SVID that has expired is not let in, however the clock came there.
    let mut world = World::new();
    let expired = peer_until("press", 1000);
    world.now.wall = START.after(Duration::from_secs(1000));
    let conn = world.connect_peer(expired, v5("c"));
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
}
