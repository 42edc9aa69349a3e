//! What a diff prints is exactly what changes: against enumeration, as people read it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod in_part;
mod printed;
#[path = "../world/mod.rs"]
mod world;

use midge_identity::SpiffeId;
use midge_policy::Rule;
use midge_policy_tools::{Access, Change, Diff, Kind, PolicyChange, Ruleset};
use mqtt_proto::TopicName;
use printed::{
    Filled, Request, Topic, alone, belongs, filled_in, filter, includes, may, may_subscribe, printed, request,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use world::{ids, levels, named, rule, rules, topics};

fn compare(old: &[Rule], new: &[Rule], some: &[SpiffeId], request: Request) {
    let (old, new) = (Ruleset::new(old.to_vec()).unwrap(), Ruleset::new(new.to_vec()).unwrap());
    let diff = Diff::between(&old, &new).unwrap();
    let kinds = diff.kinds();
    let all = topics(3).into_iter();
    let all: Vec<Topic> =
        all.map(|text| (TopicName::new(&text).unwrap(), levels(&text), filter(&text, request))).collect();
    for id in some {
        let own: Vec<&Kind> = kinds.iter().filter(|kind| belongs(kind, id)).collect();
        let changes: Vec<Filled> = own.iter().flat_map(|kind| filled_in(kind, id, request)).collect();
        let alone = filled_in(&alone(&old, &new, id), id, request);
        let context = request.context();
        let (before, after) = (old.policy().rights_at(id, context), new.policy().rights_at(id, context));
        for (gained, access, text, _) in &changes {
            if *access == Access::SubscribeLiteral {
                let filter = filter(&text.join("/"), request);
                assert_eq!(may_subscribe(&before, &filter, request), !gained, "{id} {filter:?}");
                assert_eq!(may_subscribe(&after, &filter, request), *gained, "{id} {filter:?}");
            }
        }
        for topic in &all {
            for access in [Access::Publish, Access::Subscribe, Access::Receive] {
                let was = may(&before, access, topic, request);
                let is = may(&after, access, topic, request);
                let truth = (was != is).then_some(is);
                assert_eq!(printed(&changes, access, &topic.1), truth, "{id} {access:?} {topic:?} {own:#?}");
                assert_eq!(printed(&alone, access, &topic.1), truth, "{id} {access:?} {topic:?} {alone:#?}");
            }
        }
    }
    for (id, access) in some.iter().flat_map(|id| Access::ALL.map(|access| (id, access))) {
        let has =
            |kind: &&Kind| belongs(kind, id) && kind.changes.iter().any(|change| change.access == access);
        assert!(kinds.iter().filter(has).count() <= 1, "{id} is of two kinds: {kinds:#?}");
    }
    for kind in &kinds {
        let id = SpiffeId::new(&kind.example).unwrap();
        assert!(belongs(kind, &id), "{kind:#?}");
        assert!(kind.changes.iter().all(|change| includes(kind, change, &id, &change.example)), "{kind:#?}");
        assert!(diff.of_id(&id).len() >= kind.changes.len(), "{kind:#?}");
    }
    let recorded = PolicyChange::between(old.policy(), new.policy());
    assert_eq!((&recorded.kinds, recorded.untold), (&kinds, None));
    let same = Diff::between(&new, &new).unwrap();
    assert!(same.is_empty() && same.kinds().is_empty());
}

/// The same policies in each run of the tests, which then takes the same time; others where a number of them is asked
/// for.
fn config_of(cases: u32) -> ProptestConfig {
    let others = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => others,
        None => ProptestConfig { cases, rng_seed: RngSeed::Fixed(5), ..others },
    }
}

proptest! {
    #![proptest_config(config_of(25))]

    #[test]
    fn what_is_printed_is_what_changes(
        old in rules(3),
        new in rules(3),
        some in proptest::sample::subsequence(ids(), 5),
        request in request(),
    ) {
        compare(&old, &new, &some, request);
    }

    #[test]
    fn one_rule_among_others_is_told_exactly(
        kept in rules(3),
        added in rule(),
        some in proptest::sample::subsequence(ids(), 5),
        request in request(),
    ) {
        let with = named(kept.iter().cloned().chain([added]).collect());
        compare(&kept, &with, &some, request);
        compare(&with, &kept, &some, request);
    }

    /// Most of what both policies have is left out of the comparison; the decisions know nothing of that.
    #[test]
    fn what_is_left_out_of_a_comparison_makes_no_difference(
        kept in rules(7),
        gone in rules(1),
        come in rules(1),
        some in proptest::sample::subsequence(ids(), 5),
        request in request(),
    ) {
        let with = |own: &[Rule]| named([&kept, own].concat());
        compare(&with(&gone), &with(&come), &some, request);
    }

    /// Then topics alone tell which rules have to do with each other.
    #[test]
    fn many_rules_for_the_same_identities_are_told_exactly(
        kept in rules(4),
        gone in rules(4),
        come in rules(4),
        some in proptest::sample::subsequence(ids(), 5),
        request in request(),
    ) {
        let with = |own: &[Rule]| {
            let rule = |rule: &Rule| Rule { id: "spiffe://{td}/{x}/{y}/**".into(), ..rule.clone() };
            named([&kept, own].concat().iter().map(rule).collect())
        };
        compare(&with(&gone), &with(&come), &some, request);
    }

    #[test]
    fn a_rule_with_other_topics_is_told_exactly(
        kept in rules(4),
        one in rule(),
        (publish, deny_publish, receive) in (any::<bool>(), any::<bool>(), any::<bool>()),
        some in proptest::sample::subsequence(ids(), 5),
        request in request(),
    ) {
        let mut other = one.clone();
        for (is_changed, topics) in [
            (publish, &mut other.publish), (deny_publish, &mut other.deny_publish), (receive, &mut other.receive)
        ] {
            if is_changed && topics.pop().is_none() {
                topics.push("a/#".into());
            }
        }
        let with = |own: &Rule| named([&kept[..], std::slice::from_ref(own)].concat());
        let is_rule = |rules: &[Rule]| Ruleset::new(rules.to_vec()).is_ok();
        prop_assume!(is_rule(&with(&one)) && is_rule(&with(&other)));
        compare(&with(&one), &with(&other), &some, request);
    }
}

fn ruleset(text: &str) -> Ruleset {
    Ruleset::new(Rule::from_toml_str(text, "test.toml").unwrap()).unwrap()
}

/// Lines as `ID ± access filter except …`.
fn told(old: &str, new: &str) -> Vec<String> {
    let kinds = Diff::between(&ruleset(old), &ruleset(new)).unwrap().kinds();
    let line = |kind: &Kind, change: &Change| {
        let sign = if change.gained { '+' } else { '-' };
        let mut line = format!("{} {sign} {} {}", kind.id, change.access.name(), change.filter);
        for except in &change.except {
            line.push_str(&format!(" except {except}"));
        }
        if !change.when.is_empty() {
            line.push_str(&format!(" ({})", change.when));
        }
        line
    };
    kinds.iter().flat_map(|kind| kind.changes.iter().map(move |change| line(kind, change))).collect()
}

const PRESS: &str = r#"
[[rule]]
name = "press"
id = "spiffe://{td}/edge/{node}/press/{name}"
publish = ["line/{name}/temperature"]
"#;

#[test]
fn a_new_right_is_told_once_for_all_it_is_given_to() {
    let wider = PRESS.replace("temperature", "+").replace("\n]", "]");
    assert_eq!(
        told(PRESS, &wider),
        ["spiffe://*/edge/*/press/{name} + publish line/{name}/+ except line/{name}/temperature"]
    );
    assert_eq!(
        told(&wider, PRESS),
        ["spiffe://*/edge/*/press/{name} - publish line/{name}/+ except line/{name}/temperature"]
    );
    assert_eq!(told(PRESS, &PRESS.replace("\"press\"", "\"renamed\"")), Vec::<String>::new());
    assert_eq!(told(PRESS, &PRESS.replace("{name}", "{press}")), Vec::<String>::new());
}

#[test]
fn a_new_deny_takes_what_was_allowed_and_no_more() {
    let deny = format!(
        "{PRESS}[[rule]]\nname = \"quiet\"\nid = \"spiffe://*/**\"\ndeny-publish = [\"line/left/#\"]\n"
    );
    assert_eq!(told(PRESS, &deny), ["spiffe://*/edge/*/press/left - publish line/left/temperature"]);
    assert_eq!(told(&deny, PRESS), ["spiffe://*/edge/*/press/left + publish line/left/temperature"]);
}

#[test]
fn conditions_are_part_of_the_access() {
    let limited = format!("{PRESS}qos-max = 1\nretain = false\n");
    assert_eq!(
        told(PRESS, &limited),
        [
            "spiffe://*/edge/*/press/{name} - publish line/{name}/temperature (qos from 2)",
            "spiffe://*/edge/*/press/{name} - publish line/{name}/temperature (qos up to 1, retained)",
        ]
    );
}

#[test]
fn who_has_it_already_gains_nothing() {
    let grant =
        "[[rule]]\nname = \"own\"\nid = \"spiffe://td/edge/box/press/left\"\npublish = [\"line/#\"]\n";
    let wider = PRESS.replace("temperature", "+");
    let kinds = Diff::between(&ruleset(&format!("{PRESS}{grant}")), &ruleset(&format!("{wider}{grant}")))
        .unwrap()
        .kinds();
    assert_eq!(kinds.len(), 1);
    assert_eq!(kinds[0].except, ["spiffe://td/edge/box/press/left"]);
    assert_eq!(kinds[0].example, "spiffe://example.org/edge/x/press/name-1");
    assert_eq!(kinds[0].changes[0].example, "line/name-1/x");
}

/// Whether a filter may be subscribed to as it stands depends on rules that have no topic in common with the change.
#[test]
fn a_literal_right_that_is_denied_anyway_is_not_lost() {
    let literal = "[[rule]]\nname = \"l\"\nid = \"spiffe://*/**\"\nsubscribe-literal = [\"a/+\"]\n";
    let deny = |name: &str, topic: &str| {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://*/**\"\ndeny-subscribe = [\"{topic}\"]\n")
    };
    let (anyway, new) = (deny("anyway", "a/c"), deny("new", "a/b"));
    assert_eq!(told(&format!("{literal}{anyway}"), &format!("{literal}{anyway}{new}")), Vec::<String>::new());
    assert_eq!(told(literal, &format!("{literal}{new}")), ["spiffe://*/** - subscribe-literal a/+"]);
}

#[test]
fn thousands_of_rules_for_the_same_identities_are_compared() {
    const COUNT: usize = 1_200;
    let all = |id: &str, publish: &str| -> String {
        let one =
            |n| format!("[[rule]]\nname = \"r{n}\"\nid = \"{id}\"\npublish = [\"shop/{n}/{publish}\"]\n");
        (0..COUNT).map(one).collect()
    };
    let wide =
        |list: &str| format!("[[rule]]\nname = \"wide\"\nid = \"spiffe://*/**\"\n{list} = [\"shop/#\"]\n");
    for id in ["spiffe://*/edge/**", "spiffe://td/edge/box"] {
        let (up, down) = (all(id, "up"), all(id, "down"));
        let lines = told(&up, &up.replace("shop/7/up", "shop/7/down"));
        assert_eq!(lines, [format!("{id} - publish shop/7/up"), format!("{id} + publish shop/7/down")]);
        let lines = told(&up, &down);
        assert_eq!(lines.len(), 2 * COUNT);
        let recorded = PolicyChange::between(ruleset(&up).policy(), ruleset(&down).policy());
        assert_eq!(recorded.lines(true).count(), COUNT, "{:?}", recorded.untold);
        assert!(lines.contains(&format!("{id} - publish shop/1199/up")), "{lines:#?}");
        assert_eq!(told(&up, &format!("{up}{}", wide("deny-publish"))).len(), COUNT, "each is lost");
        // What others allow is no gain: the one set that is gained leaves out thousands of topics.
        let with = format!("{up}{}", wide("publish"));
        let lines = told(&up, &with);
        let own: Vec<&String> = lines.iter().filter(|line| line.starts_with(&format!("{id} "))).collect();
        assert_eq!(own.len(), 1, "{lines:#?}");
        assert_eq!(own[0].matches(" except ").count(), COUNT);
        assert_eq!(told(&with, &format!("{down}{}", wide("publish"))), Vec::<String>::new());
    }
}

/// Each condition tells requests apart, but for the topics of its own rule only.
#[test]
fn conditions_of_rules_for_other_topics_do_not_multiply() {
    let all = |publish: &str| -> String {
        let limit = |n: usize| match n % 3 {
            0 => format!("payload-max = {}", n + 1),
            1 => format!("client-id = \"c{n}\""),
            _ => format!("rate = {{ messages-per-second = {} }}", n + 1),
        };
        let head = |n| format!("[[rule]]\nname = \"r{n}\"\nid = \"spiffe://*/**\"");
        (0..90).map(|n| format!("{}\npublish = [\"shop/{n}/{publish}\"]\n{}\n", head(n), limit(n))).collect()
    };
    let lines = told(&all("up"), &all("down"));
    assert_eq!(lines.len(), 180, "{lines:#?}");
    assert!(lines.contains(&"spiffe://*/** + publish shop/3/down (payload up to 4 B)".into()), "{lines:#?}");
    assert!(lines.contains(&"spiffe://*/** - publish shop/4/up (client-id c4)".into()), "{lines:#?}");
}

#[test]
fn thousands_of_rules_that_spell_another_segment_each_are_compared() {
    let boxes = |count: usize, publish: &str| -> String {
        let one = |n| {
            let id = format!("spiffe://*/edge/box-{n}/app/*");
            format!("[[rule]]\nname = \"r{n}\"\nid = \"{id}\"\npublish = [\"shop/{n}/{publish}\"]\n")
        };
        (0..count).map(one).collect()
    };
    let (old, new) = (boxes(2_100, "up"), boxes(2_099, "up"));
    assert_eq!(told(&old, &new), ["spiffe://*/edge/box-2099/app/* - publish shop/2099/up"]);
    let (old, new) = (boxes(2_100, "up"), boxes(2_100, "down"));
    assert_eq!(told(&old, &new).len(), 4_200, "each has lost one topic and gained another");
}

#[test]
fn the_rules_that_make_a_comparison_dear_are_named() {
    let half = |publish: &str, count: usize| {
        let one = |n: usize, id: String, topic: String| Rule {
            name: format!("r{n}"),
            id,
            publish: vec![topic],
            ..Rule::default()
        };
        let boxes =
            (0..count).map(|n| one(n, format!("spiffe://*/edge/box-{n}/app/*"), format!("b/{n}/{publish}")));
        let all = (0..count)
            .map(|n| one(count + n, "spiffe://*/edge/*/app/*".to_owned(), format!("t/{n}/{publish}")));
        Ruleset::new(boxes.chain(all).collect::<Vec<_>>()).unwrap()
    };
    let (old, new) = (half("up", 12), half("down", 12));
    assert_eq!(
        Diff::dearest(&old, &new).unwrap(),
        "most that differs is 24 topics of rules with id `spiffe://*/edge/*/app/*`, such as rule `r12`"
    );
    assert_eq!(Diff::dearest(&old, &old), None);
}
