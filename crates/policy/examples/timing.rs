//! What decisions, rights and changes cost with 10, 1,000 and 100,000 rules:
//! `cargo run --release -p midge-policy --example timing`.
//!
//! The best of many short rounds, so that other programs disturb little. Each decision is asked in full,
//! with no permit remembered: of one identity again and again, and of 1,000 identities in turn, whose
//! rights together are larger than most caches.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a measurement"
)]

use midge_identity::SpiffeId;
use midge_policy::{Context, Policy, PublishFacts, Rights, Rule, RuleSource, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

/// Best mean time of one of `count` doings.
fn time(count: usize, mut work: impl FnMut(usize)) -> Duration {
    let round = |_| {
        let start = Instant::now();
        (0..count).for_each(&mut work);
        start.elapsed() / u32::try_from(count).unwrap()
    };
    let rounds = if count == 1 { 3 } else { ROUNDS };
    (0..rounds).map(round).min().unwrap()
}

fn rule(name: String, id: String, publish: Vec<String>, subscribe: Vec<String>) -> Rule {
    let source = RuleSource::File { file: "timing".into(), line: 1 };
    Rule { name, id, publish, subscribe, source, ..Rule::default() }
}

/// Rules of one kind, by what they speak of.
fn rules(kind: &str, count: usize) -> Vec<Rule> {
    let mut rules = Rule::from_toml_str(midge_policy::DEFAULT_POLICY, "built-in").unwrap();
    let made = (0..count).map(|n| match kind {
        "grants" => rule(
            format!("g{n}"),
            format!("spiffe://plant/edge/box/mapper/m{n}"),
            vec![format!("line/{n}/state"), format!("line/{n}/+/value")],
            vec![format!("line/{n}/command/#")],
        ),
        "patterns" => rule(
            format!("p{n}"),
            format!("spiffe://*/edge/*/mapper/m{n}/**"),
            vec![format!("line/{n}/state"), format!("line/{n}/+/value")],
            vec![format!("line/{n}/command/#")],
        ),
        _ => rule(
            format!("a{n}"),
            "spiffe://*/edge/**".into(),
            vec![format!("line/{n}/state"), format!("line/{n}/+/value")],
            vec![format!("line/{n}/command/#")],
        ),
    });
    rules.extend(made);
    rules
}

fn decide(rights: &[Arc<Rights>], count: usize) -> [Duration; 4] {
    let topics: Vec<_> = (0..rights.len())
        .map(|n| TopicName::new(format!("line/{}/a/value", n * count / rights.len())).unwrap())
        .collect();
    let commands: Vec<_> = (0..rights.len())
        .map(|n| TopicName::new(format!("line/{}/command/go", n * count / rights.len())).unwrap())
        .collect();
    let filters: Vec<_> = (0..rights.len())
        .map(|n| SharedFilter::new(&format!("line/{}/command/#", n * count / rights.len())).unwrap())
        .collect();
    let all = rights.len();
    // A large odd step, so that identities come in no order that a cache would guess.
    let at = |n: usize| n.wrapping_mul(7_919) % all;
    let facts = PublishFacts { qos: QoS::AtLeastOnce, payload_len: 64, ..PublishFacts::default() };
    [
        time(1_000, |n| {
            black_box(rights[at(n)].publish(&topics[at(n)], facts).unwrap());
        }),
        time(1_000, |n| {
            black_box(rights[at(n)].publish(&commands[at(n)], facts).unwrap_err());
        }),
        time(1_000, |n| {
            black_box(rights[at(n)].receive(&commands[at(n)]).unwrap());
        }),
        time(1_000, |n| {
            black_box(
                rights[at(n)].subscribe(&filters[at(n)], QoS::AtLeastOnce, SubscribeMode::Reject).unwrap(),
            );
        }),
    ]
}

fn main() {
    for kind in ["grants", "patterns", "all for everyone"] {
        println!("{kind}");
        for count in [10, 1_000, 100_000] {
            let rules = rules(kind, count);
            let checked: Vec<_> = rules.iter().map(|rule| rule.check().unwrap()).collect();
            let start = Instant::now();
            let policy = Policy::of(checked.iter().cloned(), 1).unwrap();
            let compiled = start.elapsed();
            let (identities, is_one) = (count.min(1_000), kind == "all for everyone");
            let ids: Vec<_> = (0..identities)
                .map(|n| {
                    SpiffeId::new(format!("spiffe://plant/edge/box/mapper/m{}", n * count / identities))
                        .unwrap()
                })
                .collect();
            let rights: Vec<_> = if is_one {
                vec![policy.rights(&ids[0]); identities]
            } else {
                ids.iter().map(|id| policy.rights(id)).collect()
            };
            for (who, rights) in [("one", &rights[..1]), ("many", &rights[..])] {
                let [publish, denied, receive, subscribe] = decide(rights, count);
                println!(
                    "  {count:>7} rules, {who}: publish {publish:?}, denied {denied:?}, receive {receive:?}, \
                     subscribe {subscribe:?}"
                );
            }
            let built = if is_one && count > 1_000 {
                let start = Instant::now();
                black_box(policy.rights(&ids[0]));
                start.elapsed()
            } else {
                time(20, |n| {
                    black_box(policy.rights_at(&ids[n % ids.len()], Context::default()));
                })
            };
            let one = checked.last().unwrap();
            let (change, touched) = {
                let changed = policy.changed([one], [], 2).unwrap();
                (
                    time(if kind == "grants" { 20 } else { 1 }, |_| {
                        black_box(policy.changed([one], [], 2).unwrap());
                    }),
                    time(if kind == "grants" { 20 } else { 1 }, |_| {
                        black_box(changed.touched_since(&policy));
                    }),
                )
            };
            println!(
                "  {count:>7} rules: rights {built:?}; compile {compiled:?}, one rule less {change:?}, \
                 who is touched {touched:?}"
            );
        }
    }
}
