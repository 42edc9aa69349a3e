//! Every decision of random policies against a reference that is slow and simple.
//!
//! `cargo test` asks 20,000 questions. To ask 10 million, which takes some minutes:
//! `MIDGE_POLICY_CASES=10000000 cargo test --release -p midge-policy --test random -- --nocapture`.
//! `MIDGE_POLICY_SEED` asks others, and repeats those of a mismatch.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod generate;
mod reference;
#[path = "../support/mod.rs"]
mod support;
mod world;

use generate::{CLIENTS, GROUPS, LISTENERS, Random};
use midge_identity::SpiffeId;
use midge_policy::{
    Action, CheckedRule, Context, Denial, DenyReason, Extent, Policy, PublishFacts, PublishPermit, Quantity,
    Rights, Rule, RuleName, Subject, SubscribeMode,
};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use reference::{Name, Publish, Reference};
use std::fmt::Debug;
use std::sync::Arc;
use support::matches;
use world::{NONE, World, and, minus, or, within};

const QUALITIES: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[expect(clippy::disallowed_methods, reason = "only a test asks how much to test")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn key(name: &RuleName) -> Name {
    (name.source().clone(), name.text().to_string())
}

/// One policy, one identity on one connection, and what was found wrong.
struct Bench<'w> {
    world: &'w World,
    rights: Arc<Rights>,
    reference: Reference<'w>,
    tally: &'w mut Tally,
    mismatches: Vec<String>,
}

/// Questions asked, and how many of them were answered with yes, by kind.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    kinds: std::collections::BTreeMap<&'static str, (u64, u64)>,
}

impl Tally {
    fn count(&mut self, kind: &'static str, yes: bool) {
        self.asked += 1;
        let (asked, granted) = self.kinds.entry(kind).or_default();
        (*asked, *granted) = (*asked + 1, *granted + u64::from(yes));
    }
}

/// The rules whose rates limit a publication, in their order.
fn rates(permit: &PublishPermit) -> Vec<Name> {
    permit.rates().map(|(rule, _)| key(rule)).collect()
}

impl Bench<'_> {
    fn same<T: PartialEq + Debug>(&mut self, what: &dyn Debug, found: T, truth: T) {
        if found != truth {
            self.mismatches.push(format!("{what:?}: {found:?}, but {truth:?}"));
        }
    }

    fn hold(&mut self, what: &dyn Debug, claim: &str, holds: bool) {
        if !holds {
            self.mismatches.push(format!("{what:?}: not so: {claim}"));
        }
    }

    fn topic(&self, random: &mut Random) -> String {
        // Most rules name topics of three levels at most, which come first.
        let among = if random.one_in(4) { self.world.topics.len() } else { 125 };
        self.world.topics[random.below(among)].clone()
    }

    fn ask_publish(&mut self, random: &mut Random) {
        let (to, reply) = (self.topic(random), self.topic(random));
        let (topic, reply) = (TopicName::new(&to).unwrap(), TopicName::new(&reply).unwrap());
        let mut facts = || PublishFacts {
            qos: QUALITIES[random.below(3)],
            retain: random.one_in(3),
            payload_len: [0, 10, 11][random.below(3)],
            response_topic: random.one_in(4).then_some(&reply),
        };
        let (facts, others) = (facts(), facts());
        for will in [false, true] {
            let decide = |facts| {
                if will { self.rights.will(&topic, facts) } else { self.rights.publish(&topic, facts) }
            };
            let found = decide(facts);
            let terms =
                |permit: &PublishPermit| (rates(permit), permit.durability(), permit.refuses_overflow());
            if let Some(permit) = found.as_ref().ok().filter(|permit| permit.covers(&others)) {
                let later = decide(others);
                let same = later.as_ref().is_ok_and(|later| terms(later) == terms(permit));
                self.hold(
                    &(&to, facts, others),
                    "what a permit covers is permitted on its terms",
                    same || will,
                );
            }
            let found = found
                .map(|permit| Publish {
                    rule: key(permit.rule_name()),
                    rated: rates(&permit),
                    durability: permit.durability(),
                    refuses_overflow: permit.refuses_overflow(),
                })
                .map_err(|denial| denial.rule.as_ref().map(key));
            let truth = self.reference.publish(will, &to, facts);
            self.tally.count(if will { "will" } else { "publish" }, truth.is_ok());
            self.same(&("publish", will, &to, facts), found, truth);
        }
    }

    fn ask_receive(&mut self, random: &mut Random) {
        let topic = self.topic(random);
        let group = random.one_in(2).then(|| random.pick(&GROUPS));
        let name = TopicName::new(&topic).unwrap();
        let rights = Arc::clone(&self.rights);
        let found = match group {
            Some(group) => rights.receive_shared(&name, group),
            None => rights.receive(&name),
        };
        let found = found
            .map(|permit| (key(permit.rule()), permit.qos()))
            .map_err(|denial| denial.rule.as_ref().map(key));
        let truth = self.reference.receive(&topic, group);
        self.tally.count("receive", truth.is_ok());
        self.same(&("receive", &topic, group), found, truth);
    }

    fn ask_quotas(&mut self) {
        let client = || Subject::Client("c".into());
        for of in Quantity::ALL {
            let max = self.rights.quota(of);
            let named = self.rights.over_quota(of, Action::Connect, client()).rule.as_ref().map(key);
            let (truth, by) = self.reference.quota(of).unzip();
            let truth = truth.map_or(usize::MAX, |max| usize::try_from(max).unwrap());
            self.tally.count("quota", truth < usize::MAX);
            self.same(&of, (max, named), (truth, by));
        }
    }

    fn ask_subscribe(&mut self, random: &mut Random) {
        let filter = generate::filter(random, &[]);
        let group = random.one_in(3).then(|| random.pick(&GROUPS));
        let qos = QUALITIES[random.below(3)];
        let text = group.map_or_else(|| filter.clone(), |group| format!("$share/{group}/{filter}"));
        let spelled = SharedFilter::new(&text).unwrap();
        for mode in [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter] {
            let what = ("subscribe", &text, qos, mode);
            let truth = self.reference.subscribe(&filter, group, qos, mode);
            let kind = match mode {
                SubscribeMode::Reject => "subscribe",
                SubscribeMode::Narrow => "narrow",
                SubscribeMode::Filter => "filter",
            };
            self.tally.count(kind, truth.is_some());
            let rights = Arc::clone(&self.rights);
            let found = rights.subscribe(&spelled, qos, mode);
            let summary = |qos, filtered| Some((qos, filtered));
            match (&found, truth) {
                (Ok(permit), Some(truth)) if permit.extent() == Extent::Narrowed => {
                    self.check_narrowed(&what, permit, &truth);
                }
                (Ok(permit), Some(truth)) => {
                    let found = summary(permit.qos(), permit.is_filtered());
                    self.same(&what, found, summary(truth.qos, truth.filtered));
                    let one = permit.parts().len() == 1 && permit.parts()[0].filter().as_str() == filter;
                    self.hold(&what, "the filter is kept", one);
                }
                (Err(denial), None) => {
                    self.check_denial(&what, &filter, group, denial);
                }
                (found, truth) => {
                    let found = found.as_ref().ok().and_then(|p| summary(p.qos(), p.is_filtered()));
                    self.same(&what, found, truth.and_then(|truth| summary(truth.qos, truth.filtered)));
                }
            }
        }
    }

    /// Parts are exactly what is allowed, each topic at its highest quality of service, and none is needless.
    fn check_narrowed(
        &mut self,
        what: &dyn Debug,
        permit: &midge_policy::SubscribePermit,
        truth: &reference::Subscribe,
    ) {
        let parts: Vec<_> = permit
            .parts()
            .iter()
            .map(|part| (self.world.set(part.filter().as_str()), part.qos(), part.is_filtered()))
            .collect();
        for qos in QUALITIES {
            let of = parts.iter().filter(|(_, granted, _)| *granted >= qos);
            let set = minus(of.fold(NONE, |all, (set, _, _)| or(all, *set)), truth.denied);
            self.hold(what, "parts are what is allowed", set == truth.by_topic[qos as usize]);
        }
        for (index, (set, qos, filtered)) in parts.iter().enumerate() {
            self.hold(what, "a part is not denied altogether", !within(*set, truth.denied));
            self.hold(what, "denied parts are told", *filtered == (and(*set, truth.denied) != NONE));
            let is_needless = |(other, (wider, better, _)): (usize, &(world::Set, QoS, bool))| {
                other != index && within(*set, *wider) && better >= qos
            };
            self.hold(what, "no part is needless", !parts.iter().enumerate().any(is_needless));
        }
        let named = self.reference.stated.iter().any(|stated| stated.key() == key(permit.rule_name()));
        self.hold(what, "the rule named is one that holds", named);
    }

    fn check_denial(&mut self, what: &dyn Debug, filter: &str, group: Option<&str>, denial: &Denial) {
        match &denial.reason {
            DenyReason::NotCovered { witness } => {
                self.hold(what, "the witness is asked for", matches(filter, witness.as_str()));
                let held =
                    self.reference.subscribe(witness.as_str(), group, QoS::AtMostOnce, SubscribeMode::Reject);
                // It may be had by a literal right, which gives no right to the topic.
                self.hold(
                    what,
                    "the witness is not allowed",
                    held.is_none_or(|held| held.by_topic[0] == NONE),
                );
            }
            DenyReason::DeniedPart { witness } => {
                self.hold(what, "the witness is asked for", matches(filter, witness.as_str()));
                let found = self.reference.receive(witness.as_str(), group);
                self.hold(what, "the witness is denied", matches!(found, Err(Some(_))));
            }
            DenyReason::NoRule | DenyReason::Denied | DenyReason::ShareGroup { .. } => {}
            other => self.mismatches.push(format!("{what:?}: {other:?}")),
        }
    }
}

/// Makes the policy in two steps, so that the changed one is asked and not a fresh one.
fn policy_of(random: &mut Random, rules: &[Rule]) -> (Policy, Policy) {
    let checked: Vec<CheckedRule> = rules.iter().map(|rule| rule.check().unwrap()).collect();
    let (mut before, mut kept) = (Vec::new(), Vec::new());
    let (most_before, most_kept) = (random.one_in(3), random.one_in(3));
    for rule in &checked {
        if random.one_in(if most_before { 50 } else { 2 }) != most_before {
            before.push(rule.clone());
        }
        if random.one_in(if most_kept { 50 } else { 2 }) != most_kept {
            kept.push(rule.clone());
        }
    }
    let earlier = Policy::of(before.iter().cloned(), 1).unwrap();
    let gone = before.iter().filter(|rule| !kept.contains(rule));
    let come = checked.iter().filter(|rule| !(before.contains(rule) && kept.contains(rule)));
    (earlier.changed(gone, come.cloned(), 2).unwrap(), earlier)
}

#[test]
fn decisions_are_those_of_the_reference() {
    let (cases, seed) = (number("MIDGE_POLICY_CASES", 20_000), number("MIDGE_POLICY_SEED", 1));
    let world = World::new();
    let (mut tally, mut policies) = (Tally::default(), 0);
    while tally.asked < cases {
        let mut random = Random::new(seed.wrapping_mul(0x0100_0000_01B3) ^ policies);
        policies += 1;
        let rules = generate::rules(&mut random);
        let (policy, earlier) = policy_of(&mut random, &rules);
        let touched = policy.touched_since(&earlier);
        for _ in 0..3 {
            let id = generate::identity(&mut random);
            let context = Context {
                client_id: (!random.one_in(5)).then(|| random.pick(&CLIENTS)),
                listener: (!random.one_in(5)).then(|| random.pick(&LISTENERS)),
            };
            let spiffe_id = SpiffeId::new(&id).unwrap();
            let rights = policy.principal(&spiffe_id).rights(context);
            let before = earlier.rights_at(&spiffe_id, context);
            let is_touched = touched.touches(&spiffe_id);
            let reference = Reference::new(&world, &rules, &id, context);
            let mut bench =
                Bench { world: &world, rights, reference, tally: &mut tally, mismatches: Vec::new() };
            let same = bench.rights.is_same_as(&before);
            bench.hold(&id, "who has other rights is touched", same || is_touched);
            let direct = policy.rights_at(&spiffe_id, context);
            let all_same = direct.is_same_as(&bench.rights);
            bench.hold(&id, "rights are the same by either way", all_same);
            bench.ask_quotas();
            for _ in 0..4 {
                bench.ask_publish(&mut random);
                bench.ask_receive(&mut random);
                bench.ask_subscribe(&mut random);
            }
            let Bench { mismatches, .. } = bench;
            assert!(
                mismatches.is_empty(),
                "policy {policies} of seed {seed}, {id} on {context:?}\n{mismatches:#?}\n{rules:#?}"
            );
        }
    }
    println!(
        "{} questions to {policies} policies, 0 mismatches; asked and granted: {:?}",
        tally.asked, tally.kinds
    );
    // A reference that always refuses would agree with a policy that does.
    for (kind, (asked, granted)) in &tally.kinds {
        assert!(granted * 20 > *asked && granted < asked, "{kind}: {granted} of {asked} granted");
    }
}
