//! SUBSCRIBE is decided exactly: against enumeration, on one pattern, on unions and with denies.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use midge_identity::SpiffeId;
use midge_policy::{DenyReason, Policy, Rights, Rule, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use proptest::prelude::*;
use std::sync::Arc;
use support::matches;

/// Every text of 1 to `depth` levels of the alphabet, the first one of `first` as well.
fn texts(first: &[&str], alphabet: &[&str], depth: usize) -> Vec<String> {
    let mut last: Vec<String> = first.iter().chain(alphabet).map(|level| (*level).to_owned()).collect();
    let mut all = last.clone();
    for _ in 1..depth {
        last = last
            .iter()
            .flat_map(|text| alphabet.iter().map(move |level| format!("{text}/{level}")))
            .collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|text| !text.is_empty());
    all
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn rights(rule: Rule) -> Arc<Rights> {
    let rule = Rule { name: "under-test".into(), id: "spiffe://td/app".into(), ..rule };
    Policy::compile(vec![rule], 1).unwrap().rights(&SpiffeId::new("spiffe://td/app").unwrap())
}

fn subscribing(allow: &[&str]) -> Arc<Rights> {
    rights(Rule { subscribe: owned(allow), ..Rule::default() })
}

fn subscribing_but(allow: &[&str], deny: &[&str]) -> Arc<Rights> {
    rights(Rule { subscribe: owned(allow), deny_subscribe: owned(deny), ..Rule::default() })
}

fn may(rights: &Rights, filter: &str) -> bool {
    rights.subscribe(&SharedFilter::new(filter).unwrap(), QoS::AtMostOnce, SubscribeMode::Reject).is_ok()
}

fn missing(rights: &Rights, filter: &str) -> String {
    let denial = rights
        .subscribe(&SharedFilter::new(filter).unwrap(), QoS::AtMostOnce, SubscribeMode::Reject)
        .unwrap_err();
    match denial.reason {
        DenyReason::NotCovered { witness } | DenyReason::DeniedPart { witness } => witness.to_string(),
        other => panic!("no witness in {other:?}"),
    }
}

#[test]
fn all_25600_pairs_are_decided_as_enumeration_says() {
    let mut filters = texts(&[], &["a", "b", "+"], 4);
    let open: Vec<String> =
        filters.iter().filter(|f| f.split('/').count() < 4).map(|f| format!("{f}/#")).collect();
    filters.extend(open);
    filters.push("#".to_owned());
    let topics = texts(&[], &["a", "b", "c"], 6);
    assert_eq!((filters.len(), topics.len()), (160, 1092));

    let sets: Vec<Vec<bool>> =
        filters.iter().map(|filter| topics.iter().map(|topic| matches(filter, topic)).collect()).collect();
    let (mut contained, mut overlapping, mut disjoint) = (0, 0, 0);
    let (mut unsound, mut false_denials) = (Vec::new(), Vec::new());
    for (allow, allowed) in filters.iter().zip(&sets) {
        let rights = subscribing(&[allow]);
        for (filter, wanted) in filters.iter().zip(&sets) {
            let truth = wanted.iter().zip(allowed).all(|(wanted, allowed)| *allowed || !wanted);
            let granted = may(&rights, filter);
            if truth {
                contained += 1;
            } else if wanted.iter().zip(allowed).any(|(wanted, allowed)| *allowed && *wanted) {
                overlapping += 1;
            } else {
                disjoint += 1;
            }
            if granted && !truth {
                unsound.push((allow, filter));
            }
            if truth && !granted {
                false_denials.push((allow, filter));
            }
        }
    }
    assert_eq!(unsound, []);
    assert_eq!(false_denials, []);
    assert_eq!((contained, overlapping, disjoint), (2256, 6302, 17042));
}

#[test]
fn a_union_contains_what_no_part_of_it_does() {
    let union = subscribing(&["a", "a/+", "a/+/+/#"]);
    assert!(may(&union, "a/#"));
    for part in [&["a", "a/+"][..], &["a", "a/+/+/#"], &["a/+", "a/+/+/#"]] {
        assert!(!may(&subscribing(part), "a/#"), "{part:?}");
    }
    assert_eq!(missing(&subscribing(&["a", "a/+/+/#"]), "a/#"), "a/x");
    assert_eq!(missing(&subscribing(&["a/+/#"]), "a/#"), "a");
    assert_eq!(missing(&subscribing(&["a", "a/+", "a/+/+"]), "a/#"), "a/x/x/x");
    assert!(may(&subscribing(&["+", "+/#"]), "#"));
    assert!(may(&subscribing(&["+/#"]), "#"));
}

#[test]
fn no_number_of_literals_makes_a_wildcard() {
    let literals = subscribing(&["a/x", "a/y", "a/x1", "a/b"]);
    assert!(may(&literals, "a/x") && may(&literals, "a/x1"));
    assert_eq!(missing(&literals, "a/+"), "a/x2");
    assert!(may(&subscribing(&["a/x", "a/+"]), "a/+"));
}

#[test]
fn f17_filter_taken_for_a_topic() {
    for (allow, filter) in [("+", "#"), ("a/+", "a/#"), ("a/+/#", "a/#"), ("a/+", "a/+/#"), ("a/#", "+/#")] {
        assert!(!may(&subscribing(&[allow]), filter), "{allow} must not grant {filter}");
        assert!(may(&subscribing(&[filter]), allow), "{filter} grants {allow}");
    }
    assert!(may(&subscribing(&["a/#"]), "a"));
    assert!(!may(&subscribing(&["a"]), "a/#"));
}

#[test]
fn f18_deny_is_not_evaded_by_a_wider_wildcard() {
    let rights = subscribing_but(&["#"], &["secret/+"]);
    for filter in ["#", "+/#", "+/+", "secret/#", "secret/+", "secret/key", "+/key", "secret/+/#"] {
        assert!(!may(&rights, filter), "{filter}");
    }
    for filter in ["+", "secret", "public/#", "public/+", "+/+/+", "secret/key/+", "secret/+/+/#"] {
        assert!(may(&rights, filter), "{filter}");
    }
    assert_eq!(missing(&rights, "+/key"), "secret/key");
    let denial = rights
        .subscribe(&SharedFilter::new("secret/key").unwrap(), QoS::AtMostOnce, SubscribeMode::Reject)
        .unwrap_err();
    assert_eq!(denial.reason, DenyReason::Denied);
}

#[test]
fn f19_share_prefix_skips_nothing() {
    let rights = subscribing_but(&["a/#"], &["a/b"]);
    assert!(may(&rights, "$share/g/a/c"));
    assert!(!may(&rights, "$share/g/a/b"));
    assert!(!may(&rights, "$share/g/b"));
    assert!(!may(&rights, "$share/a/#"));
    assert!(!may(&rights, "$queue/a/c"));
    assert!(!may(&rights, "$exclusive/a/c"));
}

#[test]
fn f24_leading_wildcards_hold_no_dollar_topics() {
    let all = subscribing(&["#", "+/#"]);
    assert!(may(&all, "#") && may(&all, "+/b"));
    for filter in ["$SYS/#", "$hw/events/#", "$hw", "$share/g/$SYS/#"] {
        assert!(!may(&all, filter), "{filter}");
    }
    let system = subscribing(&["$SYS/#"]);
    assert!(may(&system, "$SYS/#") && may(&system, "$SYS/+/x") && may(&system, "$SYS"));
    assert!(!may(&system, "#") && !may(&system, "+/x") && !may(&system, "$hw"));

    let but_system = subscribing_but(&["#", "$SYS/#"], &["$SYS/secret/#"]);
    assert!(may(&but_system, "#"), "a leading wildcard does not reach the denied topics");
    assert!(!may(&but_system, "$SYS/#"));
    let but_wild = subscribing_but(&["#", "$SYS/#"], &["+/secret"]);
    assert!(may(&but_wild, "$SYS/secret"), "nor does a denied one reach $ topics");
    assert!(!may(&but_wild, "a/secret"));
}

#[test]
fn levels_may_be_empty_but_topics_not() {
    assert!(may(&subscribing(&["+/+"]), "/"));
    assert!(may(&subscribing(&["/#"]), "//a"));
    assert!(!may(&subscribing(&["a/+"]), "/a"));
    assert!(!may(&subscribing(&["a"]), "a/"));
    assert!(may(&subscribing(&["a/+"]), "a/"));
    // `/#` would match the parent of `/`, but that is the empty text, which is no topic.
    assert!(may(&subscribing(&["/+/#"]), "/#"));
    assert!(!may(&subscribing(&["a/+/#"]), "a/#"));
    assert!(may(&subscribing_but(&["+"], &["/#"]), "+"));
    assert!(!may(&subscribing_but(&["#"], &["/#"]), "#"));
    assert_eq!(missing(&subscribing_but(&["#"], &["/#"]), "/#"), "/x");
    assert!(may(&subscribing_but(&["/#"], &["+"]), "/#"));
}

#[test]
fn deep_filters_cost_little_and_are_decided() {
    let deep = vec!["a"; 30_000].join("/");
    assert!(may(&subscribing(&["a/#"]), &deep));
    assert!(may(&subscribing(&["a/#"]), &"a/+/".repeat(10_000)));
    assert!(!may(&subscribing(&["a/+"]), &deep));
    assert!(!may(&subscribing_but(&["#"], &["a/a/#"]), &deep));
    assert!(may(&subscribing_but(&["#"], &["a/b/#"]), &deep));
}

#[test]
fn a_filter_too_long_for_its_missing_topic_is_refused_all_the_same() {
    let long = "a".repeat(65_533);
    let rights = subscribing(&[&long]);
    assert!(may(&rights, &long));
    assert!(!may(&rights, &format!("{long}/#")));
    let rights = subscribing_but(&["#"], &["+/+/+"]);
    assert!(!may(&rights, &format!("{long}/#")));
    assert!(may(&subscribing(&["#"]), &format!("{long}/#")));
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just(""), 4 => Just("+")]
}

/// Filters of up to three levels and a `#`.
fn filter() -> impl Strategy<Value = String> {
    let first = prop_oneof![6 => level(), 2 => Just("$x")];
    let levels = (first, proptest::collection::vec(level(), 0..3), any::<bool>());
    let spelled = levels.prop_map(|(first, rest, open)| {
        let mut levels = vec![first];
        levels.extend(rest);
        if open {
            levels.push("#");
        }
        levels.join("/")
    });
    prop_oneof![20 => spelled, 1 => Just("#".to_owned())].prop_filter("not empty", |text| !text.is_empty())
}

fn filters(most: usize) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(filter(), 0..most)
}

/// Lists of several rules, each with its own limit on quality of service.
#[derive(Clone, Debug)]
struct Case {
    allows: [Vec<String>; 3],
    receive: Vec<String>,
    deny_subscribe: Vec<String>,
    deny_receive: Vec<String>,
}

fn case() -> impl Strategy<Value = Case> {
    ([filters(4), filters(3), filters(3)], filters(2), filters(2), filters(2)).prop_map(
        |(allows, receive, deny_subscribe, deny_receive)| Case {
            allows,
            receive,
            deny_subscribe,
            deny_receive,
        },
    )
}

impl Case {
    fn rights(&self) -> Arc<Rights> {
        let id = "spiffe://td/app".to_owned();
        let mut rules: Vec<Rule> = (0_u8..)
            .zip(&self.allows)
            .filter(|(_, subscribe)| !subscribe.is_empty())
            .map(|(qos, subscribe)| Rule {
                name: format!("qos-{qos}"),
                id: id.clone(),
                subscribe: subscribe.clone(),
                qos_max: Some(qos),
                ..Rule::default()
            })
            .collect();
        let rest = Rule {
            name: "rest".into(),
            id,
            publish: vec!["p".into()],
            receive: self.receive.clone(),
            deny_subscribe: self.deny_subscribe.clone(),
            deny_receive: self.deny_receive.clone(),
            ..Rule::default()
        };
        rules.push(rest);
        Policy::compile(rules, 1).unwrap().rights(&SpiffeId::new("spiffe://td/app").unwrap())
    }

    /// Quality of service to grant, by enumeration.
    fn truth(&self, topics: &[&String]) -> Option<QoS> {
        let denied = |topic: &str| self.deny_subscribe.iter().any(|deny| matches(deny, topic));
        [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce].into_iter().find(|qos| {
            let allows = &self.allows[*qos as usize..];
            let allowed = |topic: &str| allows.iter().flatten().any(|allow| matches(allow, topic));
            topics.iter().all(|topic| allowed(topic) && !denied(topic))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn unions_with_denies_are_decided_as_enumeration_says(case in case(), filter in filter(), asked in 0_usize..3) {
        // Three levels and `#`: five levels show every difference. `c` and `$y` are in no filter.
        let all = texts(&["$x", "$y"], &["a", "b", "c", ""], 5);
        let topics: Vec<&String> = all.iter().filter(|topic| matches(&filter, topic)).collect();
        let rights = case.rights();
        let requested = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][asked];
        let truth = case.truth(&topics).map(|qos| qos.min(requested));
        let decided = rights.subscribe(&SharedFilter::new(&filter).unwrap(), requested, SubscribeMode::Reject);
        prop_assert_eq!(decided.as_ref().ok().map(|permit| permit.qos()), truth);
        match decided {
            Ok(permit) => {
                let left_out = |topic: &&&String| case.deny_receive.iter().any(|deny| matches(deny, topic));
                prop_assert_eq!(permit.is_filtered(), topics.iter().any(|topic| left_out(&topic)));
                for topic in &topics {
                    let delivered = rights.receive(&TopicName::new(topic).unwrap()).is_ok();
                    prop_assert_eq!(delivered, !left_out(&topic), "{}", topic);
                }
            }
            Err(denial) => match denial.reason {
                DenyReason::NotCovered { witness } => {
                    prop_assert!(matches(&filter, witness.as_str()));
                    let allowed = case.allows.iter().flatten().any(|allow| matches(allow, witness.as_str()));
                    prop_assert!(!allowed, "{} is allowed", witness);
                }
                DenyReason::DeniedPart { witness } => {
                    prop_assert!(matches(&filter, witness.as_str()));
                    prop_assert!(case.deny_subscribe.iter().any(|deny| matches(deny, witness.as_str())));
                }
                DenyReason::NoRule | DenyReason::Denied => prop_assert!(!filter.contains(['+', '#'])),
                other => prop_assert!(false, "{:?}", other),
            },
        }
    }

    #[test]
    fn deliveries_are_decided_topic_by_topic(case in case(), picked in proptest::sample::select(texts(&["$x", "$y"], &["a", "b", "c", ""], 4))) {
        let any = |filters: &[String]| filters.iter().any(|filter| matches(filter, &picked));
        let allowed = case.allows.iter().any(|allows| any(allows)) || any(&case.receive);
        let truth = allowed && !any(&case.deny_subscribe) && !any(&case.deny_receive);
        prop_assert_eq!(case.rights().receive(&TopicName::new(&picked).unwrap()).is_ok(), truth);
    }

    #[test]
    fn publications_are_decided_topic_by_topic(
        publish in filters(4),
        deny_publish in filters(3),
        picked in proptest::sample::select(texts(&["$x", "$y"], &["a", "b", "c", ""], 4)),
    ) {
        let any = |filters: &[String]| filters.iter().any(|filter| matches(filter, &picked));
        let truth = any(&publish) && !any(&deny_publish);
        let rights = rights(Rule { publish, deny_publish, receive: vec!["r".into()], ..Rule::default() });
        let decided = rights.publish(&TopicName::new(&picked).unwrap(), midge_policy::PublishFacts::default());
        prop_assert_eq!(decided.is_ok(), truth);
    }
}
