//! How fast identities may publish: back-pressure first, then the end.

use crate::world::*;
use broker_core::{Config, ConnId};
use midge_policy::{Rate, RateScope, Rule};
use mqtt_proto::{Connect, Packet};
use std::time::Duration;

fn limited(rate: Rate) -> Vec<Rule> {
    let rule = Rule { rate: Some(rate), ..allow("*", &["a"], &[]) };
    vec![rule, Rule { name: "free".into(), ..allow("*", &["free"], &[]) }, allow("ops", &[], &["#"])]
}

fn messages(per_second: u32, burst: u32) -> Rate {
    Rate { messages_per_second: Some(per_second), burst_messages: Some(burst), ..Rate::default() }
}

fn bytes(per_second: u32, burst: u32) -> Rate {
    Rate { bytes_per_second: Some(per_second), burst_bytes: Some(burst), ..Rate::default() }
}

/// Publishes and returns how many milliseconds the client is left unread for it.
fn wait(world: &mut World, conn: ConnId, topic: &str, len: usize) -> u128 {
    world.paused_until = None;
    world.publish(conn, topic, &"x".repeat(len), Q0);
    world.paused_until.map_or(0, |until| (until - world.now.mono).as_millis())
}

#[test]
fn a_client_beyond_its_rate_is_left_unread_until_it_is_not() {
    let mut world = World::ruled(limited(messages(10, 3)));
    let (press, ops) = (world.client("press"), world.client("ops"));
    world.subscribe(ops, "a", Q0);
    let waits: Vec<_> = (0..5).map(|_| wait(&mut world, press, "a", 1)).collect();
    assert_eq!(waits, [0, 0, 0, 100, 200]);
    // What was read is taken: nothing is lost by it.
    assert_eq!(world.take(ops).len(), 5);
    assert_eq!(world.broker.metrics().throttled, 2);
    world.pass(Duration::from_millis(200));
    assert_eq!(wait(&mut world, press, "a", 1), 100);
    world.pass_secs(10);
    let waits: Vec<_> = (0..4).map(|_| wait(&mut world, press, "a", 1)).collect();
    assert_eq!(waits, [0, 0, 0, 100]);
    // The twin: what another rule allows without a rate has none.
    for _ in 0..100 {
        assert_eq!(wait(&mut world, press, "free", 1), 0);
    }
}

#[test]
fn bytes_count_as_messages_do() {
    let mut world = World::ruled(limited(bytes(1000, 2000)));
    let press = world.client("press");
    assert_eq!([1500, 500, 100, 0].map(|len| wait(&mut world, press, "a", len)), [0, 0, 100, 100]);
    // One that is larger than the burst passes, and is paid for.
    world.pass_secs(100);
    assert_eq!(wait(&mut world, press, "a", 5000), 3000);
}

#[test]
fn identities_have_their_own_rate_unless_they_share_the_rules() {
    for scope in [RateScope::Identity, RateScope::Rule] {
        let mut world = World::ruled(limited(Rate { per: scope, ..messages(1, 1) }));
        let (one, two) = (world.client("one"), world.client("two"));
        let again = world.open("one", v5("again"));
        assert_eq!(wait(&mut world, one, "a", 1), 0);
        // By another connection of the same identity nothing is won.
        assert_eq!(wait(&mut world, again, "a", 1), 1000);
        let shared = scope == RateScope::Rule;
        assert_eq!(wait(&mut world, two, "a", 1), if shared { 2000 } else { 0 });
    }
}

#[test]
fn what_is_not_accepted_or_only_released_does_not_count() {
    let mut world = World::ruled(limited(messages(1, 2)));
    let press = world.client("press");
    for _ in 0..10 {
        assert_eq!(wait(&mut world, press, "denied", 1), 0);
    }
    world.publish(press, "a", "x", Q2);
    world.publish(press, "a", "x", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    assert_eq!(world.paused_until, None);
    assert_eq!(wait(&mut world, press, "a", 1), 0);
    assert_eq!(wait(&mut world, press, "a", 1), 1000);
}

#[test]
fn a_client_too_far_beyond_its_rate_is_cut() {
    for (rate, len, code) in [(messages(1, 1), 1, "96"), (bytes(10, 10), 10, "97")] {
        let config = Config { rate_debt_max: Duration::from_secs(5), ..Config::default() };
        let mut world = World::with(config, limited(rate));
        let (press, ops) = (world.client("press"), world.client("ops"));
        world.subscribe(ops, "a", Q0);
        for number in 0..6 {
            assert_eq!(wait(&mut world, press, "a", len), number * 1000);
        }
        world.quiet(press);
        world.publish(press, "a", &"x".repeat(len), Q0);
        let seen = world.take(press);
        assert_eq!(seen[0], format!("DISCONNECT {code}"), "{seen:?}");
        assert_eq!(world.take(ops).len(), 6);
    }
}

// Who is not read from cannot keep the connection alive.
#[test]
fn a_client_that_is_left_unread_is_not_taken_for_dead() {
    let mut world = World::ruled(limited(messages(1, 1)));
    let press = world.open("press", Connect { keep_alive_secs: 10, ..v5("c") });
    let waits: Vec<_> = (0..25).map(|_| wait(&mut world, press, "a", 1)).collect();
    assert_eq!(waits[24], 24_000);
    world.pass_secs(38);
    world.quiet(press);
    world.pass_secs(1);
    world.expect(press, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
}

/// Connects with a will on `a`, breaks the connection, and tells how many wills were received.
fn wills(world: &mut World, who: &str, ops: ConnId, count: usize) -> usize {
    for _ in 0..count {
        let conn = world.open(who, Connect { will: will("a", "gone", 0), ..v5("c") });
        world.lose(conn);
    }
    world.take(ops).len()
}

#[test]
fn wills_count_against_the_rate_of_an_identity() {
    let config = Config { rate_debt_max: Duration::from_secs(5), ..Config::default() };
    let mut world = World::with(config, limited(messages(1, 1)));
    let ops = world.client("ops");
    world.subscribe(ops, "a", Q0);
    // One of the burst, and ten seconds of debt.
    assert_eq!(wills(&mut world, "press", ops, 100), 11);
    assert_eq!(world.broker.metrics().dropped.will_too_fast, 89);
    world.pass_secs(3);
    assert_eq!(wills(&mut world, "press", ops, 100), 3);
    // The twins: another identity, and one that was cut for its rate.
    assert_eq!(wills(&mut world, "saw", ops, 1), 1);
    let loud = world.open("loud", Connect { will: will("a", "gone", 0), ..v5("c") });
    (0..7).for_each(|_| world.publish(loud, "a", "x", Q0));
    assert_eq!(world.take(loud).last().unwrap(), "CLOSE Protocol(MessageRateTooHigh)");
    assert_eq!(world.take(ops).len(), 6 + 1);
}

#[test]
fn no_identity_uses_up_what_the_wills_of_others_need() {
    let mut world = World::ruled(limited(Rate { per: RateScope::Rule, ..messages(1, 1) }));
    let ops = world.client("ops");
    world.subscribe(ops, "a", Q0);
    assert_eq!(wills(&mut world, "press", ops, 100), 100);
    assert_eq!(wills(&mut world, "saw", ops, 1), 1);
}

// One that sends far too much of a rate that all share is cut alone, and what it was cut for is nobody's debt.
#[test]
fn nobody_is_cut_for_what_another_sent_of_a_shared_rate() {
    let config = Config { rate_debt_max: Duration::from_secs(5), ..Config::default() };
    let mut world = World::with(config, limited(Rate { per: RateScope::Rule, ..bytes(1000, 1000) }));
    let (loud, calm) = (world.client("loud"), world.client("calm"));
    world.publish(loud, "a", &"x".repeat(300_000), Q0);
    assert_eq!(world.take(loud).last().unwrap(), "CLOSE Protocol(QuotaExceeded)");
    assert_eq!(wait(&mut world, calm, "a", 5), 0);
    // What is within the bound counts: the others wait for it, as long as anybody may have to and no longer.
    let loud = world.client("loud");
    assert_eq!([1, 2, 3].map(|_| wait(&mut world, loud, "a", 5_000)), [4_005, 5_000, 5_000]);
    assert_eq!(wait(&mut world, calm, "a", 500), 5_000);
    world.quiet(calm);
    world.pass_secs(5);
    assert_eq!(wait(&mut world, calm, "a", 500), 500);
}

#[test]
fn an_identity_that_was_cut_for_its_rate_may_come_again_and_send_what_it_may() {
    let config = Config { rate_debt_max: Duration::from_secs(5), ..Config::default() };
    let mut world = World::with(config, limited(bytes(1000, 1000)));
    for _ in 0..2 {
        let press = world.client("press");
        world.publish(press, "a", &"x".repeat(300_000), Q0);
        assert_eq!(world.take(press).last().unwrap(), "CLOSE Protocol(QuotaExceeded)");
    }
    let press = world.client("press");
    assert_eq!(wait(&mut world, press, "a", 1_000), 0);
}

// An allow that is added never takes away.
#[test]
fn of_several_rates_that_which_has_room_holds_whatever_their_order() {
    let rule = |name: &str, rate: Rate, payload_max| Rule {
        name: name.into(),
        rate: Some(rate),
        payload_max,
        ..allow("press", &["a"], &[])
    };
    let (slow, fast) = (|name| rule(name, messages(1, 1), None), |name| rule(name, messages(100, 2), None));
    for rules in [[slow("1"), fast("2")], [fast("1"), slow("2")]] {
        let mut world = World::ruled(rules.to_vec());
        let press = world.client("press");
        assert_eq!([0; 5].map(|_| wait(&mut world, press, "a", 1)), [0, 0, 0, 10, 20]);
    }
    // Which rules allow it is asked for each publication that they may judge otherwise.
    let rules = vec![rule("1", messages(100, 2), Some(100)), slow("2")];
    let mut world = World::ruled(rules);
    let press = world.client("press");
    let lengths = [1, 1_000, 1, 1, 1_000, 1];
    assert_eq!(lengths.map(|len| wait(&mut world, press, "a", len)), [0, 0, 0, 10, 1_000, 20]);
}
