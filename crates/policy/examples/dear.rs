//! What the dearest requests cost that one identity can make which many rules speak of:
//! `cargo run --release -p midge-policy --example dear [RULES]`.
//!
//! Such decisions are made while nobody else's can be: none should take more than a millisecond with 10,000 rules.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement")]

use midge_identity::SpiffeId;
use midge_policy::{Policy, PublishFacts, Rate, Rights, Rule, RuleSource, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Best time of a few.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let round = |_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    };
    (0..5).map(round).min().unwrap()
}

fn rules(count: usize, make: impl Fn(usize, &mut Rule)) -> Vec<Rule> {
    let rule = |n: usize| {
        let source = RuleSource::File { file: "dear".into(), line: n };
        let mut rule =
            Rule { name: format!("r{n}"), id: "spiffe://*/app/**".into(), source, ..Rule::default() };
        make(n, &mut rule);
        rule
    };
    (0..count).map(rule).collect()
}

fn rights(rules: Vec<Rule>) -> Arc<Rights> {
    let policy = Policy::compile(rules, 1).unwrap();
    let id = SpiffeId::new("spiffe://plant/app/a").unwrap();
    println!("  rights {:?}", time(|| policy.rights(&id)));
    policy.rights(&id)
}

fn subscribe(what: &str, rules: Vec<Rule>, filters: &[&str]) {
    println!("{what}");
    let rights = rights(rules);
    for text in filters {
        let filter = SharedFilter::new(text).unwrap();
        for mode in [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter] {
            let ask = || rights.subscribe(&filter, QoS::AtLeastOnce, mode);
            let said = match ask() {
                Ok(permit) => format!("{} parts", permit.parts().len()),
                Err(denial) => format!("{:?}", denial.reason).chars().take(40).collect(),
            };
            println!("  {text:<12} {mode:?}: {:?}, {said}", time(ask));
        }
    }
}

fn publish(what: &str, rules: Vec<Rule>) {
    println!("{what}");
    let (rights, topic) = (rights(rules), TopicName::new("a/b").unwrap());
    let reply = TopicName::new("reply/none").unwrap();
    for response_topic in [None, Some(&reply)] {
        let facts = PublishFacts { qos: QoS::AtLeastOnce, response_topic, ..PublishFacts::default() };
        let ask = || rights.publish(&topic, facts);
        println!("  publish: {:?}, {}", time(ask), if ask().is_ok() { "allowed" } else { "denied" });
    }
}

fn main() {
    let count = std::env::args().nth(1).map_or(10_000, |text| text.parse().unwrap());
    subscribe(
        "one topic each",
        rules(count, |n, rule| rule.subscribe = vec![format!("line/{n}/state")]),
        &["#", "line/+/state", "line/+/none", "+/1/+", "line/1/#"],
    );
    subscribe(
        "numbered as witnesses are",
        rules(count, |n, rule| rule.subscribe = vec![format!("line/x{n}"), "line/x".into()]),
        &["line/+", "#"],
    );
    subscribe(
        "parts and denies that cross",
        rules(count, |n, rule| {
            rule.subscribe = vec![format!("{n}/+/data")];
            rule.deny_receive = vec![format!("+/{n}/secret"), "1/1/data".into()];
        }),
        &["#", "+/+/data", "+/+/none"],
    );
    subscribe(
        "few parts and denies that cross",
        rules(count, |n, rule| {
            rule.subscribe = vec![format!("{}/+/data", n % 60)];
            rule.deny_receive = vec![format!("+/{n}/secret"), "1/1/data".into()];
        }),
        &["#", "+/+/data", "+/+/none"],
    );
    subscribe(
        "all denied",
        rules(count, |n, rule| {
            rule.subscribe = vec![format!("secret/{n}")];
            rule.deny_subscribe = vec![format!("secret/{n}")];
        }),
        &["secret/+", "#"],
    );
    subscribe(
        "all in a wider one",
        rules(count, |n, rule| rule.subscribe = vec![format!("{n}/state"), "+/state".into()]),
        &["#", "+/+"],
    );
    subscribe(
        "deep",
        rules(count, |n, rule| rule.subscribe = vec![format!("a/{n}/c/d/e/f/g/h/+/+/i")]),
        &["#", "+/+/+/+/+/+/+/+/+/+/i", "+/+/+/+/+/+/+/+/+/+/none"],
    );
    let rate =
        |n: usize| Some(Rate { messages_per_second: Some(1 + u32::try_from(n).unwrap()), ..Rate::default() });
    subscribe(
        "everything by each, in groups",
        rules(count, |n, rule| {
            rule.subscribe = vec!["+/state".into()];
            rule.share_groups = Some(vec![format!("g{n}")]);
        }),
        &["#", "$share/g1/#", "$share/none/+/state"],
    );
    publish(
        "everything at a rate by each",
        rules(count, |n, rule| (rule.publish, rule.rate) = (vec!["a/#".into()], rate(n))),
    );
    publish(
        "a reply of its own by each",
        rules(count, |n, rule| {
            (rule.publish, rule.response_topics) =
                (vec!["a/#".into()], vec!["reply/#".into(), format!("r/{n}")]);
        }),
    );
}
