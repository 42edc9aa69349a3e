//! F31 and F34: who is meant by a revocation, and which clock counts.

use crate::svid::peer_until;
use crate::world::*;
use midge_identity::UnixMillis;
use midge_policy::Rule;
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

// The same paths and client ids in two trust domains, of which one is dropped: while it is served, and while nobody does.
#[test]
fn f31_a_trust_domain_that_is_dropped_takes_its_own_identities_and_no_namesakes() {
    const DROPPED: [&str; 2] = ["spiffe://other/press", "spiffe://other/reader"];
    for while_down in [false, true] {
        let mut world = World::new();
        world.set_rules(vec![Rule { id: "spiffe://*/**".into(), ..allow("all", &["#"], &["#"]) }]);
        let watcher = world.client("watcher");
        world.subscribe(watcher, "w", Q0);
        let mortal = || Connect { will: will("w", "gone", 0), ..durable("c") };
        for (domain, topic) in [("spiffe://other/", "r/other"), ("", "r/own")] {
            let press = world.open(&format!("{domain}press"), mortal());
            world.send(press, retained(topic, "stays"));
            world.take(press);
            let reader = world.open(&format!("{domain}reader"), durable("c"));
            world.subscribe(reader, "q", Q1);
            world.lose(reader);
        }
        world.publish(watcher, "q", "waits", Q1);
        world.take(watcher);
        if while_down {
            DROPPED.iter().for_each(|id| world.revoke_while_down(id));
            world.crash(1);
        } else {
            DROPPED.iter().for_each(|id| world.revoke(id));
        }
        let left = world.broker.sessions();
        assert!(left.iter().all(|session| session.identity.trust_domain_name() == "plant"), "{left:?}");
        let paths: Vec<&str> = left.iter().map(|session| session.identity.path()).collect();
        assert!(paths.contains(&"/press") && paths.contains(&"/reader"), "{paths:?}");
        let reader = world.connect("reader", durable("c"));
        assert!(world.take(reader).iter().any(|text| text.contains("waits")));
        let foreign = world.connect(DROPPED[1], durable("c"));
        assert_eq!(world.take(foreign), ["CONNACK 00"], "it begins with nothing");
        let anew = world.client("anew");
        world.subscribe(anew, "r/#", Q0);
        let seen = world.take(anew);
        assert!(seen.iter().any(|text| text.contains("r/own")), "{seen:?}");
        assert!(!seen.iter().any(|text| text.contains("r/other")), "{seen:?}");
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
