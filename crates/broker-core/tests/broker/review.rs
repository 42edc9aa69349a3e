//! What a change leaves to be done: only for whom it touches, in portions, and never in the way of a check.

use crate::world::*;
use broker_core::{ConnId, Effect, PolicyChange, Revocation};
use midge_policy::{Policy, Rule};
use mqtt_proto::{Connect, Packet};
use std::sync::Arc;

fn rules(lost: &[usize]) -> Vec<Rule> {
    let own = |n: usize| {
        let topics: &[&str] = if lost.contains(&n) { &["other"] } else { &["a", "other"] };
        allow(&format!("id/{n}"), topics, topics)
    };
    (0..100).map(own).collect()
}

fn world() -> (World, Vec<ConnId>) {
    let mut world = World::ruled(rules(&[]));
    let conns = (0..100).map(|n| world.open(&format!("id/{n}"), v5("c"))).collect::<Vec<_>>();
    for conn in &conns {
        world.subscribe(*conn, "a", Q0);
    }
    world.settling = false;
    (world, conns)
}

fn change(world: &mut World, rules: Vec<Rule>) {
    let next = Arc::new(Policy::compile(rules, 9).unwrap());
    let change = PolicyChange::between(Arc::clone(world.broker.policy()), next);
    world.broker.handle_policy(change, world.now);
}

/// Does everything that is left, and returns in how many portions.
fn portions(world: &mut World, size: usize) -> usize {
    let mut count = 0;
    while world.broker.has_backlog() {
        world.broker.handle_backlog(size, world.now);
        count += 1;
    }
    count
}

#[test]
fn a_change_for_some_identities_looks_at_their_sessions_only() {
    let (mut world, _) = world();
    change(&mut world, rules(&[3, 7]));
    assert_eq!(portions(&mut world, 1), 2);
    assert_eq!(world.broker.metrics().subscriptions, 98);
    // One that says the same in other words touches nobody.
    change(&mut world, rules(&[3, 7]));
    assert_eq!(portions(&mut world, 1), 0);
}

#[test]
fn a_change_for_a_pattern_looks_at_all_but_removes_only_what_is_lost() {
    let (mut world, conns) = world();
    let mut changed = rules(&[]);
    let deny = Rule {
        name: "deny".into(),
        id: "spiffe://plant/id/*".into(),
        unless: vec!["spiffe://plant/id/5".into()],
        deny_subscribe: vec!["a".into()],
        ..Rule::default()
    };
    changed.push(deny);
    change(&mut world, changed);
    // Nothing has been looked at, and still nobody gets what is denied.
    world.publish(conns[5], "a", "x", Q0);
    for (n, conn) in conns.iter().enumerate() {
        assert_eq!(world.take(*conn).len(), usize::from(n == 5), "{n}");
    }
    assert!((10..=20).contains(&portions(&mut world, 10)));
    assert_eq!(world.broker.metrics().subscriptions, 1);
}

#[test]
fn many_revoked_sessions_end_in_portions_and_have_nothing_meanwhile() {
    let (mut world, conns) = world();
    let identities = (0..90).map(|n| spiffe(&format!("id/{n}"))).collect();
    let mortal = Connect { will: will("a", "gone", 0), ..durable("mortal") };
    let away = world.open("id/0", Connect { will: will("a", "gone", 1), ..mortal.clone() });
    world.lose(away);
    let brief = Connect { session_expiry_secs: Some(5), will: will("a", "gone", 60), ..durable("brief") };
    let brief = world.open("id/0", brief);
    world.lose(brief);
    let staying = world.open("id/1", mortal.clone());
    world.open("id/2", mortal);
    let revocation = Revocation { identities, reason: "gone".into() };
    world.broker.handle_revoked(&revocation, world.now);
    let mut closed = 0;
    while let Some(effect) = world.poll_effect() {
        closed += usize::from(matches!(effect, Effect::Close { .. }));
    }
    assert_eq!(closed, 0, "more than can be done at once");
    // They neither get nor give anything, nor do their wills go out.
    world.publish(conns[95], "a", "x", Q0);
    for conn in &conns[..90] {
        world.quiet(*conn);
    }
    // Nor where the connection ends by itself before its turn has come.
    world.lose(staying);
    assert!(world.broker.handle_kick(&spiffe("id/2"), "mortal", world.now));
    world.drain();
    world.publish(conns[3], "a", "late", Q0);
    assert!(world.take(conns[3])[0].starts_with("DISCONNECT 87"));
    world.pass_secs(10);
    world.expect(conns[95], ["PUBLISH a \"x\" q0"]);
    // One of them is registered again, and starts from nothing before its turn has come.
    let again = world.connect("id/4", durable("c"));
    world.expect(again, ["CONNACK 00"]);
    assert!(world.take(conns[4]).iter().any(|text| text.starts_with("CLOSE Revoked")));
    let done = portions(&mut world, 10);
    world.drain();
    assert!(done >= 9, "{done}");
    assert_eq!(world.broker.sessions().len(), 11);
    for conn in &conns[90..] {
        world.take(*conn);
        world.send(*conn, Packet::PingReq);
        world.expect(*conn, ["PINGRESP"]);
    }
}

// An identity that comes back must not bring back what it left before it was revoked.
#[test]
fn what_a_revoked_identity_left_stays_dead_when_it_is_registered_again() {
    for settling in [true, false] {
        let mut world = World::new();
        world.settling = settling;
        let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
        world.subscribe(ops, "q", Q2);
        world.publish(press, "q", "in flight", Q1);
        world.lose(ops);
        world.publish(press, "q", "waits", Q1);
        world.send(press, retained("r", "kept"));
        world.revoke("press");
        let press = world.client("press");
        world.publish(press, "q", "new", Q1);
        world.take(ops);
        let ops = world.connect("ops", durable("c"));
        world.expect(ops, ["CONNACK 00 present", "PUBLISH q \"new\" q1 #32769"]);
        world.subscribe(ops, "r", Q0);
        world.quiet(ops);
        world.send(press, retained("r", "new"));
        world.expect(ops, ["PUBLISH r \"new\" q0"]);
        assert_eq!(world.broker.metrics().dropped.revoked, 2);
    }
}

// A message that is purged while a connected client has it in flight: the client's acknowledgement is not a fault.
#[test]
fn a_client_may_acknowledge_what_was_withdrawn_behind_its_back() {
    for qos in [Q1, Q2] {
        let mut world = World::new();
        let (press, ops) = (world.client("press"), world.client("ops"));
        world.subscribe(ops, "q", qos);
        world.publish(press, "q", "x", qos);
        world.send(press, Packet::PubRel(ack(1)));
        world.take(ops);
        world.revoke("press");
        if qos == Q1 {
            world.send(ops, Packet::PubAck(ack(1)));
            world.quiet(ops);
        } else {
            world.send(ops, Packet::PubRec(ack(1)));
            world.expect(ops, ["PUBREL 1 00"]);
            world.send(ops, Packet::PubComp(ack(1)));
            world.quiet(ops);
        }
        let other = world.client("other");
        world.publish(other, "q", "y", Q1);
        world.expect(ops, ["PUBLISH q \"y\" q1 #2"]);
        assert_eq!(world.session("ops", "ops").unwrap().inflight, 1);
    }
}

// Identities that left nothing but a retained message can be asked about too.
#[test]
fn identities_are_known_by_what_they_left_as_well() {
    let mut world = World::new();
    let press = world.client("press");
    world.send(press, retained("r", "x"));
    world.send(press, bye(mqtt_proto::ReasonCode::Success));
    let known: Vec<_> = world.broker.identities().iter().map(|id| id.path().to_owned()).collect();
    assert_eq!(known, ["/press"]);
    world.revoke("press");
    assert_eq!(world.broker.identities(), []);
    assert_eq!(world.broker.metrics().retained_messages, 0);
}

#[test]
fn who_is_revoked_while_others_messages_are_purged_is_not_forgotten() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q1);
    world.lose(ops);
    for id in ["one", "two"] {
        let press = world.client(id);
        world.publish(press, "a", id, Q1);
    }
    world.settling = false;
    world.revoke("one");
    world.broker.handle_backlog(1, world.now);
    world.revoke("two");
    world.finish_backlog();
    assert_eq!(world.session("ops", "ops").unwrap().queued, 0);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present"]);
}

#[test]
fn work_that_somebody_waits_for_is_urgent_and_what_takes_effect_without_it_is_not() {
    let (mut world, _) = world();
    change(&mut world, rules(&[3, 7]));
    assert!(world.broker.has_backlog() && !world.broker.is_backlog_urgent(), "subscriptions to look at");
    portions(&mut world, 8);
    let (mut world, ..) = crowded(1000);
    world.revoke("ops");
    assert!(world.broker.is_backlog_urgent(), "sessions to end");
    while world.broker.is_backlog_urgent() {
        world.broker.handle_backlog(8, world.now);
    }
    assert!(world.broker.sessions().iter().all(|session| session.identity.path() != "/ops"));
    assert!(world.broker.has_backlog(), "what they left is looked for");
}

/// `ops` has more sessions than a revocation ends at once; one of them subscribes to `a`.
fn crowded(unsent_bytes_soft: usize) -> (World, ConnId, ConnId) {
    let mut world = World::limited(|config| config.unsent_bytes_soft = unsent_bytes_soft);
    world.settling = false;
    for n in 0..17 {
        world.open("ops", durable(&format!("more-{n}")));
    }
    let (press, ops) = (world.client("press"), world.open("ops", durable("c")));
    world.subscribe(ops, "a", Q2);
    (world, press, ops)
}

#[test]
fn who_is_revoked_gets_nothing_that_waited_though_its_turn_has_not_come() {
    for (revoked, gets) in [("ops", 0), ("other", 1)] {
        // For the disk.
        let (mut world, press, ops) = crowded(1000);
        world.disk.is_quick = false;
        world.publish(press, "a", "x", Q2);
        world.send(press, Packet::PubRel(ack(1)));
        world.revoke(revoked);
        world.store();
        assert_eq!(world.take(ops).len(), gets);
        // For its client to read.
        let (mut world, press, ops) = crowded(0);
        world.flushing = false;
        world.send(ops, Packet::PingReq);
        world.publish(press, "a", "x", Q1);
        world.revoke(revoked);
        world.expect(ops, ["PINGRESP"]);
        world.flush(ops);
        assert_eq!(world.take(ops).len(), gets);
    }
}

#[test]
fn the_wills_of_who_is_revoked_do_not_wait_for_the_next_start() {
    for (revoked, gets) in [("ops", 1), ("other", 2)] {
        let (mut world, press, _) = crowded(1000);
        let mut last = will("w", "gone", 0).unwrap();
        last.message.qos = Q1;
        world.open("ops", Connect { will: Some(last), ..durable("mortal") });
        let reader = world.open("reader", durable("reader"));
        world.subscribe(reader, "w", Q1);
        world.revoke(revoked);
        // It is registered again before its turn has come, and nobody knows of the end between.
        world.connect(revoked, v5("new"));
        world.take(press);
        world.stop(0);
        let reader = world.connect("reader", durable("reader"));
        assert_eq!(world.take(reader).len(), gets);
    }
}

#[test]
fn what_was_not_written_is_thrown_away_for_want_of_an_identity_only() {
    type End = fn(&mut World, ConnId);
    let ends: [(End, bool); 4] = [
        (|world, conn| world.broker.handle_proof_ended(conn, &"banned".into(), world.now), true),
        (
            |world, _| {
                let revocation = Revocation { identities: vec![spiffe("ops")], reason: "gone".into() };
                world.broker.handle_revoked(&revocation, world.now);
            },
            true,
        ),
        (|world, _| assert!(world.broker.handle_kick(&spiffe("ops"), "ops", world.now)), false),
        (|world, _| world.broker.handle_drain(world.now), false),
    ];
    for (number, (end, discards)) in ends.into_iter().enumerate() {
        let mut world = World::new();
        let ops = world.client("ops");
        end(&mut world, ops);
        let mut told = Vec::new();
        while let Some(effect) = world.poll_effect() {
            told.extend(match effect {
                Effect::Discard { .. } => Some("discard"),
                Effect::Send { .. } => Some("send"),
                Effect::Close { .. } => Some("close"),
                _ => None,
            });
        }
        let expected: &[_] = if discards { &["discard", "send", "close"] } else { &["send", "close"] };
        assert_eq!(told, expected, "end {number}");
    }
}

#[test]
fn what_was_withdrawn_takes_no_room() {
    let mut world = World::limited(|config| config.inflight_bytes_max = 400);
    let (press, ops, other) = (world.client("press"), world.client("ops"), world.client("other"));
    world.subscribe(ops, "a", Q1);
    for _ in 0..2 {
        world.publish(press, "a", &"x".repeat(200), Q1);
    }
    assert_eq!(world.take(ops).len(), 2);
    world.revoke("press");
    assert_eq!(world.broker.metrics().waiting_bytes, 0);
    world.publish(other, "a", "y", Q1);
    assert_eq!(world.take(ops).len(), 1);
}

#[test]
fn identities_are_known_after_a_restart_by_what_they_left() {
    let mut world = World::new();
    let press = world.client("press");
    world.send(press, retained("r", "x"));
    world.send(press, bye(mqtt_proto::ReasonCode::Success));
    world.crash(0);
    let known: Vec<_> = world.broker.identities().iter().map(|id| id.path().to_owned()).collect();
    assert_eq!(known, ["/press"]);
}

#[test]
fn what_is_said_after_being_registered_again_is_not_what_was_left() {
    let mut world = World::new();
    world.settling = false;
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.send(press, retained("r", "old"));
    world.revoke("press");
    let press = world.client("press");
    world.send(press, retained("r", "new"));
    // Everything is asked for again, while what was left has not been purged.
    world.set_rules(open_house());
    world.subscribe(ops, "r", Q0);
    world.expect(ops, ["PUBLISH r \"new\" q0 retain"]);
}
