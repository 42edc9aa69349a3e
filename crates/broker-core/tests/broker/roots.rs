//! Sessions that were proven by a root which leaves, and those of the same trust domain that were not.

use crate::svid::{Root, trust_domain};
use crate::world::*;
use broker_core::{Config, ConnId, Durability};
use midge_identity::{RootId, TrustDomain, VerifiedPeer};
use mqtt_proto::*;
use std::time::Duration;

/// Two roots of one trust domain, with a peer for each.
struct Peers {
    gone: VerifiedPeer,
    kept: VerifiedPeer,
}

impl Peers {
    fn new(gone: &str, kept: &str) -> Self {
        Self { gone: by_another(gone), kept: by_another(kept) }
    }

    fn root(&self) -> RootId {
        self.gone.proof().root().unwrap()
    }
}

/// A peer by another root of the trust domain, which stands.
fn by_another(id: &str) -> VerifiedPeer {
    Root::new().peer(id, 100_000)
}

fn open(world: &mut World, peer: &VerifiedPeer, connect: Connect) -> ConnId {
    let conn = world.connect_peer(peer.clone(), connect);
    assert!(world.take(conn)[0].starts_with("CONNACK 00"));
    conn
}

/// Takes the root of `gone` away.
fn leave(world: &mut World, peers: &Peers) {
    world.broker.handle_root_gone(&trust_domain(), &peers.root(), &"root is gone".into(), world.now);
    world.finish_backlog();
}

fn delayed(id: &str) -> Connect {
    Connect { will: will(&format!("gone/{id}"), id, 60), ..durable(id) }
}

/// Has both leave sessions behind, with a subscription, a message that waits and a will that does.
fn parked(world: &mut World, peers: &Peers) {
    for (peer, id) in [(&peers.gone, "press"), (&peers.kept, "mill")] {
        let conn = open(world, peer, delayed(id));
        world.subscribe(conn, "in/#", Q1);
        world.lose(conn);
    }
    let cloud = world.client("cloud");
    world.publish(cloud, "in/1", "waits", Q1);
    world.lose(cloud);
}

/// What each of them finds when it comes back, by a root that stands.
fn expect_found(world: &mut World, peers: &Peers) {
    let press = world.connect_peer(by_another("press"), durable("press"));
    world.expect(press, ["CONNACK 00"]);
    let mill = world.connect_peer(peers.kept.clone(), durable("mill"));
    let seen = world.take(mill);
    assert_eq!(seen[0], "CONNACK 00 present");
    assert!(seen[1].starts_with("PUBLISH in/1 \"waits\" q1"), "{seen:?}");
}

#[test]
fn a_session_that_waits_ends_with_the_root_it_was_proven_by_and_no_other_does() {
    let peers = Peers::new("press", "mill");
    let mut world = World::new();
    let ops = world.client("ops");
    world.subscribe(ops, "gone/#", Q1);
    parked(&mut world, &peers);
    assert_eq!(world.broker.roots().len(), 2);
    leave(&mut world, &peers);
    assert_eq!(world.broker.roots().len(), 1);
    // Its will is not published, the other's is.
    world.pass_secs(61);
    world.expect(ops, ["PUBLISH gone/mill \"mill\" q0"]);
    expect_found(&mut world, &peers);
}

#[test]
fn so_does_a_session_that_is_connected() {
    let peers = Peers::new("press", "mill");
    let mut world = World::new();
    let press = open(&mut world, &peers.gone, delayed("press"));
    let mill = open(&mut world, &peers.kept, delayed("mill"));
    for conn in [press, mill] {
        world.subscribe(conn, "in/#", Q1);
    }
    leave(&mut world, &peers);
    assert!(world.session("press", "press").is_none() && world.session("mill", "mill").is_some());
    let cloud = world.client("cloud");
    world.publish(cloud, "in/1", "now", Q1);
    let seen = world.take(mill);
    assert!(seen.iter().any(|text| text.starts_with("PUBLISH in/1")), "{seen:?}");
}

// The same identity, by the client that has renewed its SVID and by the one that has not.
#[test]
fn who_came_by_another_root_since_keeps_its_session() {
    for is_renewed in [true, false] {
        let peers = Peers::new("press", "press");
        let mut world = World::new();
        let conn = open(&mut world, &peers.gone, durable("press"));
        world.subscribe(conn, "in/#", Q1);
        world.lose(conn);
        if is_renewed {
            let conn = world.connect_peer(peers.kept.clone(), durable("press"));
            world.lose(conn);
        }
        world.crash(1);
        leave(&mut world, &peers);
        assert_eq!(world.session("press", "press").is_some(), is_renewed);
    }
}

#[test]
fn a_root_that_left_while_the_broker_was_down_takes_its_sessions_and_wills() {
    for is_stored in [true, false] {
        let peers = Peers::new("press", "mill");
        let mut world = World::new();
        let ops = world.open("ops", durable("ops"));
        world.subscribe(ops, "gone/#", Q1);
        if is_stored {
            parked(&mut world, &peers);
        } else {
            // Of a session that ends with its connection the will alone is stored.
            for (peer, id) in [(&peers.gone, "press"), (&peers.kept, "mill")] {
                let connect = Connect { will: will(&format!("gone/{id}"), id, 0), ..v5(id) };
                world.connect_peer(peer.clone(), connect);
            }
        }
        // Before the broker does what is due.
        world.restart(1);
        leave(&mut world, &peers);
        let ops = world.connect("ops", durable("ops"));
        world.pass_secs(61);
        let seen = world.take(ops);
        assert!(seen.iter().any(|text| text.contains("gone/mill")), "{seen:?}");
        assert!(!seen.iter().any(|text| text.contains("gone/press")), "{seen:?}");
        if is_stored {
            expect_found(&mut world, &peers);
        }
        // What has ended is gone from disk too.
        world.crash(1);
        assert!(world.session("press", "press").is_none_or(|session| session.queued == 0));
    }
}

#[test]
fn a_tainted_root_takes_wills_that_wait_and_leaves_sessions_to_a_better_proof() {
    let peers = Peers::new("press", "mill");
    let mut world = World::new();
    let ops = world.client("ops");
    world.subscribe(ops, "gone/#", Q1);
    parked(&mut world, &peers);
    world.broker.handle_root_tainted(&trust_domain(), &peers.root(), world.now);
    world.finish_backlog();
    world.pass_secs(61);
    world.expect(ops, ["PUBLISH gone/mill \"mill\" q0"]);
    let press = world.connect_peer(by_another("press"), durable("press"));
    let seen = world.take(press);
    assert!(seen[0] == "CONNACK 00 present" && seen[1].contains("waits"), "{seen:?}");
}

#[test]
fn the_same_root_of_another_trust_domain_ends_nothing() {
    let peers = Peers::new("press", "mill");
    // Without a disk too.
    let mut world = World::of(Config { durability: Durability::None, ..Config::default() }, open_house());
    parked(&mut world, &peers);
    let other = TrustDomain::new("other").unwrap();
    world.broker.handle_root_gone(&other, &peers.root(), &"root is gone".into(), world.now);
    assert!(world.session("press", "press").is_some());
    leave(&mut world, &peers);
    assert!(world.session("press", "press").is_none());
}

// Roots are replaced as time passes, and who is away meanwhile has done nothing wrong.
#[test]
fn a_root_that_has_expired_takes_nobodys_session_with_it() {
    for (passes, is_kept) in [(999_000, false), (1_000_000, true)] {
        let peers = Peers::new("press", "mill");
        let mut world = World::limited(|config| config.session_expiry_max = Duration::MAX);
        let forever = Connect { session_expiry_secs: Some(u32::MAX), ..durable("press") };
        let press = open(&mut world, &peers.gone, forever);
        world.subscribe(press, "in/#", Q1);
        world.lose(press);
        world.pass_secs(passes);
        leave(&mut world, &peers);
        assert_eq!(world.session("press", "press").is_some(), is_kept, "{passes}");
    }
}

// It was revoked while the broker was down, and is heard of after its end.
#[test]
fn a_root_that_was_tainted_before_it_expired_takes_the_sessions_that_nothing_better_has_proven_since() {
    for (is_tainted, is_renewed, is_kept) in
        [(true, false, false), (true, true, true), (false, false, true), (false, true, true)]
    {
        let peers = Peers::new("press", "press");
        let mut world = World::limited(|config| config.session_expiry_max = Duration::MAX);
        let forever = || Connect { session_expiry_secs: Some(u32::MAX), ..durable("press") };
        let press = open(&mut world, &peers.gone, forever());
        world.subscribe(press, "in/#", Q1);
        world.lose(press);
        if is_tainted {
            world.broker.handle_root_tainted(&trust_domain(), &peers.root(), world.now);
            world.finish_backlog();
        }
        if is_renewed {
            let press = open(&mut world, &peers.kept, forever());
            world.lose(press);
        }
        world.crash(1_000_000);
        leave(&mut world, &peers);
        let case = format!("tainted {is_tainted}, renewed {is_renewed}");
        assert_eq!(world.session("press", "press").is_some(), is_kept, "{case}");
        world.crash(1);
        assert_eq!(world.session("press", "press").is_some(), is_kept, "{case}, on disk");
    }
}
