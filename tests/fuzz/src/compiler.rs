//! Rules out of bytes: however a policy was made of them, it decides as they do one by one.

use midge_identity::SpiffeId;
use midge_policy::{
    CheckedRule, Context, Policy, PublishFacts, Quantity, Quota, Rights, Rule, SubscribeMode,
};
use mqtt_proto::{QoS, SharedFilter, TopicName};

const PATTERNS: [&str; 8] = [
    "spiffe://*/**",
    "spiffe://{td}/{x}",
    "spiffe://plant/{x}/{y}",
    "spiffe://plant/a",
    "spiffe://plant/a/**",
    "spiffe://{td}/*/{y}/**",
    "spiffe://other/{x}/**",
    "spiffe://plant/b/a",
];
const UNLESS: [&str; 4] = ["spiffe://*/a", "spiffe://plant/*/a", "spiffe://other/**", "spiffe://plant/b/**"];
const FILTERS: [&str; 16] = [
    "#", "+/#", "a", "a/#", "a/+", "+/b", "+", "a/b", "$x/#", "$x/a", "/", "+//#", "{td}/#", "{x}",
    "a/{y}/#", "b/+/+",
];
const IDS: [&str; 6] = [
    "spiffe://plant/a",
    "spiffe://plant/b",
    "spiffe://plant/a/b",
    "spiffe://plant/b/a",
    "spiffe://other/a",
    "spiffe://other/a/b/c",
];
const TOPICS: [&str; 10] = ["a", "b", "a/b", "a/a", "$x/a", "/", "plant/x", "a/b/c", "b/a/a", "other"];
const CLIENT_IDS: [&str; 3] = ["a", "b*", "{td}-*"];
const LISTENERS: [&str; 2] = ["tls", "tcp"];
const CONTEXTS: [Context<'_>; 4] = [
    Context { client_id: Some("a"), listener: Some("tls") },
    Context { client_id: Some("plant-1"), listener: Some("tcp") },
    Context { client_id: Some("bc"), listener: None },
    Context { client_id: None, listener: Some("tls") },
];

/// Rules, a byte for each choice, and which of them a policy had before it was changed.
///
/// A policy that was changed is the one that was made at once, in whatever order; whom no change touches has the same
/// rights; what all rules decide together is allowed by one of them alone and denied by none; and of quotas the
/// smallest holds.
pub fn compiler(input: &[u8]) {
    let mut bytes = Bytes(input);
    let rules: Vec<Rule> = (0..=bytes.below(5)).map(|number| rule(&mut bytes, number)).collect();
    let rules: Vec<Rule> = rules.into_iter().filter(|rule| rule.check().is_ok()).collect();
    let checked: Vec<CheckedRule> = rules.iter().filter_map(|rule| rule.check().ok()).collect();
    let was = bytes.next();
    let earlier: Vec<CheckedRule> = some_of(&checked, was);
    let stays: Vec<CheckedRule> = some_of(&earlier, bytes.next());
    let whole = made(&checked);
    let backwards = made(&checked.iter().rev().cloned().collect::<Vec<_>>());
    let before = made(&earlier);
    let gone = earlier.iter().filter(|rule| !stays.contains(rule));
    let come = checked.iter().filter(|rule| !stays.contains(rule)).cloned();
    let changed = before.changed(gone, come, 2).expect("no two have one name");
    let touched = changed.touched_since(&before);
    let parts: Vec<Parts> = rules.iter().map(parts).collect();
    let who = usize::from(bytes.next());
    // Three of them on one connection each: more would only slow the fuzzer down.
    for (at, id) in IDS.iter().enumerate().skip(who % 2).step_by(2) {
        let id = SpiffeId::new(*id).expect("these are SPIFFE IDs");
        let context = CONTEXTS.get((who / 2 + at) % CONTEXTS.len()).copied().unwrap_or_default();
        let rights = whole.rights_at(&id, context);
        for other in [&backwards, &changed] {
            assert!(other.rights_at(&id, context).is_same_as(&rights), "{id} {context:?}");
            assert!(other.principal(&id).rights(context).is_same_as(&rights), "{id} {context:?}");
        }
        let same = before.rights_at(&id, context).is_same_as(&rights);
        assert!(same || touched.touches(&id), "{id} has other rights and is not touched");
        hold(&rules, &parts, &rights, (&id, context));
    }
}

fn some_of(rules: &[CheckedRule], bits: u8) -> Vec<CheckedRule> {
    rules.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, rule)| rule.clone()).collect()
}

fn made(rules: &[CheckedRule]) -> Policy {
    Policy::of(rules.iter().cloned(), 1).expect("no two have one name")
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// The next byte; 0 at the end.
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next() % bound
    }

    /// A text of these in one case of two.
    fn some(&mut self, from: &[&str]) -> Vec<String> {
        let byte = self.next();
        let pick = from.get(usize::from(byte >> 1) % from.len()).filter(|_| byte & 1 == 1);
        pick.into_iter().map(|text| (*text).to_owned()).collect()
    }

    /// Up to two texts of these.
    fn list(&mut self, from: &[&str]) -> Vec<String> {
        let mut list = self.some(from);
        list.extend(self.some(from));
        list
    }
}

fn rule(bytes: &mut Bytes<'_>, number: u8) -> Rule {
    let mut rule = Rule { name: format!("r{number}"), ..Rule::default() };
    rule.id = PATTERNS.get(usize::from(bytes.below(8))).map_or_else(String::new, |id| (*id).to_owned());
    rule.unless = bytes.some(&UNLESS);
    rule.publish = bytes.list(&FILTERS);
    rule.subscribe = bytes.list(&FILTERS);
    let kinds = bytes.next();
    if kinds & 1 != 0 {
        rule.receive = bytes.list(&FILTERS);
        rule.subscribe_literal = bytes.some(&FILTERS);
    }
    if kinds & 2 != 0 {
        rule.deny_publish = bytes.list(&FILTERS);
        rule.deny_subscribe = bytes.some(&FILTERS);
        rule.deny_receive = bytes.some(&FILTERS);
        rule.deny_subscribe_literal = bytes.some(&FILTERS);
    }
    if kinds & 4 != 0 {
        rule.client_id = bytes.some(&CLIENT_IDS);
        rule.listener = bytes.some(&LISTENERS);
    }
    if kinds & 8 != 0 {
        rule.qos_max = Some(bytes.below(3));
        rule.retain = Some(bytes.below(2) == 0);
        rule.payload_max = Some(u32::from(bytes.below(2)));
        rule.will = Some(bytes.below(2) == 0);
    }
    if kinds & 16 != 0 {
        rule.share_groups = Some(bytes.some(&["g", "*", "{td}"]));
    }
    if kinds & 32 != 0 {
        let mut max = || Some(u32::from(bytes.below(4))).filter(|max| *max < 3);
        rule.quota = Some(Quota { sessions: max(), queue_bytes: max(), ..Quota::default() });
    }
    rule
}

type Parts = (Option<Policy>, Option<Policy>);

/// The allows of a rule without its denies, and a policy where everything is allowed but what it denies.
fn parts(rule: &Rule) -> Parts {
    let nothing = Vec::new;
    let allows = Rule {
        deny_publish: nothing(),
        deny_subscribe: nothing(),
        deny_receive: nothing(),
        deny_subscribe_literal: nothing(),
        ..rule.clone()
    };
    let open: Vec<String> = ["#", "$x/#"].map(str::to_owned).into();
    let open = Rule {
        name: "open".to_owned(),
        id: "spiffe://*/**".to_owned(),
        publish: open.clone(),
        subscribe: open,
        ..Rule::default()
    };
    let denies = Rule {
        name: "denies".to_owned(),
        publish: nothing(),
        subscribe: nothing(),
        receive: nothing(),
        subscribe_literal: nothing(),
        qos_max: None,
        retain: None,
        payload_max: None,
        will: None,
        share_groups: None,
        ..rule.clone()
    };
    (Policy::compile(vec![allows], 1).ok(), Policy::compile(vec![open, denies], 1).ok())
}

fn hold(rules: &[Rule], parts: &[Parts], rights: &Rights, (id, context): (&SpiffeId, Context<'_>)) {
    let at = |policy: &Option<Policy>| policy.as_ref().map(|policy| policy.rights_at(id, context));
    let parts: Vec<_> = parts.iter().map(|(allows, denies)| (at(allows), at(denies))).collect();
    let any = |asks: &dyn Fn(&Rights) -> bool| {
        let allowed = parts.iter().any(|(allows, _)| allows.as_ref().is_some_and(|rights| asks(rights)));
        (allowed, asks(rights))
    };
    for of in Quantity::ALL {
        let smallest = parts.iter().filter_map(|(allows, _)| Some(allows.as_ref()?.quota(of))).min();
        assert_eq!(rights.quota(of), smallest.unwrap_or(usize::MAX), "{id} {context:?} {of:?}: {rules:#?}");
    }
    for text in TOPICS {
        let topic = TopicName::new(text).expect("these are topics");
        let undenied = |asks: fn(&Rights, &TopicName) -> bool| {
            parts.iter().all(|(_, denies)| denies.as_ref().is_none_or(|rights| asks(rights, &topic)))
        };
        let denied = !undenied(|rights, topic| rights.publish(topic, PublishFacts::default()).is_ok());
        for (qos, retain, payload_len) in
            [(QoS::AtMostOnce, false, 0), (QoS::AtLeastOnce, true, 1), (QoS::ExactlyOnce, false, 2)]
        {
            let facts = PublishFacts { qos, retain, payload_len, response_topic: None };
            for (allowed, together) in [
                any(&|rights| rights.publish(&topic, facts).is_ok()),
                any(&|rights| rights.will(&topic, facts).is_ok()),
            ] {
                assert_eq!(together, allowed && !denied, "{id} {context:?} to {text}, {facts:?}: {rules:#?}");
            }
        }
        let denied = !undenied(|rights, topic| rights.receive(topic).is_ok());
        for (allowed, together) in [
            any(&|rights| rights.receive(&topic).is_ok()),
            any(&|rights| rights.receive_shared(&topic, "g").is_ok()),
        ] {
            assert_eq!(together, allowed && !denied, "{id} {context:?} of {text}: {rules:#?}");
        }
        // A topic is a filter that matches just itself.
        let filter = SharedFilter::new(text).expect("a topic is a filter");
        let subscribes = rights.subscribe(&filter, QoS::AtMostOnce, SubscribeMode::Reject).is_ok();
        let differ = rules.iter().any(|rule| {
            !(rule.subscribe_literal.is_empty()
                && rule.deny_subscribe_literal.is_empty()
                && rule.receive.is_empty()
                && rule.deny_receive.is_empty())
        });
        let receives = rights.receive(&topic).is_ok();
        assert!(differ || subscribes == receives, "{id} {context:?} asks for {text}: {rules:#?}");
    }
    hold_wide(rights);
}

/// What is granted whole may be received, whatever else was asked.
fn hold_wide(rights: &Rights) {
    for filter in FILTERS.iter().filter(|filter| !filter.contains('{')) {
        let filter = SharedFilter::new(filter).expect("these are filters");
        let granted = rights.subscribe(&filter, QoS::AtMostOnce, SubscribeMode::Narrow);
        for part in granted.iter().flat_map(|permit| permit.parts()).filter(|part| !part.is_filtered()) {
            for topic in TOPICS.iter().filter_map(|topic| TopicName::new(*topic).ok()) {
                let has = !part.filter().matches(&topic) || rights.receive(&topic).is_ok();
                assert!(has, "{} is granted, {topic} is not", part.filter());
            }
        }
    }
}
