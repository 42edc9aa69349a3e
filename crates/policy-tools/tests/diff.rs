//! What a diff prints is exactly what changes: against enumeration, as people read it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod world;

use midge_identity::SpiffeId;
use midge_policy::{Context, Extent, PublishFacts, Rights, Rule, SubscribeMode};
use midge_policy_tools::{Access, Change, Diff, Kind, ModeChange, Modes, PolicyChange, Ruleset};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use world::{bind, filled, filled_words, ids, levels, matches, named, rule, rules, topics};

/// One request, apart from who and where.
#[derive(Clone, Copy, Debug)]
struct Request {
    qos: QoS,
    retain: bool,
    payload_len: usize,
    will: bool,
    group: Option<&'static str>,
    listener: &'static str,
}

fn request() -> impl Strategy<Value = Request> {
    let qos = proptest::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let group = proptest::sample::select(vec![None, Some("a"), Some("b"), Some("g"), Some("h")]);
    let listener = proptest::sample::select(vec!["tls", "unix"]);
    (qos, any::<bool>(), 0_usize..4, any::<bool>(), group, listener).prop_map(
        |(qos, retain, payload_len, will, group, listener)| Request {
            qos,
            retain,
            payload_len,
            will,
            group,
            listener,
        },
    )
}

impl Request {
    fn context(&self) -> Context<'static> {
        Context { client_id: None, listener: Some(self.listener) }
    }
}

fn filter(text: &str, request: Request) -> SharedFilter {
    match request.group {
        Some(group) => SharedFilter::new(&format!("$share/{group}/{text}")).unwrap(),
        None => SharedFilter::new(text).unwrap(),
    }
}

fn may_subscribe(rights: &Rights, filter: &SharedFilter, request: Request) -> bool {
    let permit = rights.subscribe(filter, request.qos, SubscribeMode::Reject);
    permit.is_ok_and(|permit| permit.qos() == request.qos)
}

/// A topic, by its levels, and the filter that is spelled as it.
type Topic = (TopicName, Vec<String>, SharedFilter);

fn may(rights: &Rights, access: Access, (name, _, filter): &Topic, request: Request) -> bool {
    let Request { qos, retain, payload_len, .. } = request;
    let facts = PublishFacts { qos, retain, payload_len, response_topic: None };
    match access {
        Access::Publish if request.will => rights.will(name, facts).is_ok(),
        Access::Publish => rights.publish(name, facts).is_ok(),
        Access::Receive => match request.group {
            Some(group) => rights.receive_shared(name, group).is_ok_and(|permit| permit.qos() >= qos),
            None => rights.receive(name).is_ok_and(|permit| permit.qos() >= qos),
        },
        Access::Subscribe | Access::SubscribeLiteral | Access::SubscribePart => {
            may_subscribe(rights, filter, request)
        }
    }
}

/// Reads the printed condition.
fn holds(when: &str, request: Request) -> bool {
    let range = |text: &str, value: u64| {
        text.split(" or ").any(|range| {
            let words: Vec<&str> = range.trim_end_matches(" B").split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[1] {
                "up" => value <= number(3),
                "from" => value >= number(2),
                _ if words.len() == 4 => (number(1)..=number(3)).contains(&value),
                _ => value == number(1),
            }
        })
    };
    when.replace("shared, but", "shared but").split(", ").filter(|part| !part.is_empty()).all(|part| {
        match part {
            "shared" => request.group.is_some(),
            "not shared" => request.group.is_none(),
            "retained" => request.retain,
            "not retained" => !request.retain,
            "as a will" => request.will,
            "not as a will" => !request.will,
            qos if qos.starts_with("qos") => range(qos, request.qos as u64),
            payload if payload.starts_with("payload") => range(payload, request.payload_len as u64),
            listener if listener.contains("on listener ") => {
                let (not, names) = listener.split_once("on listener ").unwrap();
                names.split(" or ").any(|name| name == request.listener) == not.is_empty()
            }
            group => {
                let (before, names) =
                    group.split_once("in share group ").unwrap_or_else(|| panic!("{group}"));
                let named = request.group.is_some_and(|group| names.split(" or ").any(|name| name == group));
                match before {
                    "" => named,
                    "not " => !named,
                    "not shared or " => named || request.group.is_none(),
                    "shared but not " => !named && request.group.is_some(),
                    other => panic!("{other}"),
                }
            }
        }
    })
}

fn belongs(kind: &Kind, id: &SpiffeId) -> bool {
    bind(&kind.id, id).is_some() && kind.except.iter().all(|except| bind(except, id).is_none())
}

fn includes(kind: &Kind, change: &Change, id: &SpiffeId, topic: &str) -> bool {
    let bound = bind(&kind.id, id).unwrap();
    let includes = |filter: &String| matches(&levels(&filled(filter, &bound)), &levels(topic));
    includes(&change.filter) && !change.except.iter().any(includes)
}

/// A printed change for one identity: gained, access, filter and what is left out, both by their levels.
type Filled = (bool, Access, Vec<String>, Vec<Vec<String>>);

fn filled_in(kind: &Kind, id: &SpiffeId, request: Request) -> Vec<Filled> {
    let bound = bind(&kind.id, id).unwrap();
    let changes = kind.changes.iter().filter(|change| holds(&filled_words(&change.when, &bound), request));
    let fill = |filter: &String| levels(&filled(filter, &bound));
    changes
        .map(|change| {
            (change.gained, change.access, fill(&change.filter), change.except.iter().map(fill).collect())
        })
        .collect()
}

/// Tells what the diff says of one decision: `Some(true)` is gained.
fn printed(changes: &[Filled], access: Access, topic: &[String]) -> Option<bool> {
    let mut found = changes.iter().filter(|(_, of, filter, except)| {
        *of == access && matches(filter, topic) && !except.iter().any(|except| matches(except, topic))
    });
    let first = found.next()?.0;
    assert!(found.all(|(gained, ..)| *gained == first), "gained and lost");
    Some(first)
}

/// Tells whether the widest filter that matches a topic is granted in part, and brings it.
fn is_brought(rights: &Rights, mode: SubscribeMode, (name, levels, _): &Topic, request: Request) -> bool {
    let widest = if levels[0].starts_with('$') { format!("{}/#", levels[0]) } else { "#".to_owned() };
    let widest = filter(&widest, request);
    let Ok(permit) = rights.subscribe(&widest, request.qos, mode.of(&widest)) else { return false };
    let brings = |part: &midge_policy::SubscribePart| {
        matches(&self::levels(part.filter().as_str()), levels) && part.qos() >= request.qos
    };
    permit.extent() != Extent::Whole
        && permit.parts().iter().any(brings)
        && may(rights, Access::Receive, &(name.clone(), levels.clone(), widest), request)
}

/// Compares what listeners make of subscriptions that are allowed in part.
fn compare_modes((old, new): (&Ruleset, &Ruleset), some: &[SpiffeId], modes: [Modes; 2], request: Request) {
    let (old, new) = (old.clone().with_modes(modes[0]), new.clone().with_modes(modes[1]));
    let kinds = Diff::between(&old, &new).unwrap().kinds();
    let changed: Vec<&str> = ModeChange::between(&old, &new).iter().map(|change| change.listener).collect();
    let (was, is) = (modes[0].on(request.listener), modes[1].on(request.listener));
    assert_eq!(changed.contains(&request.listener), was != is);
    for id in some {
        let own = kinds.iter().filter(|kind| belongs(kind, id));
        let changes: Vec<Filled> = own.flat_map(|kind| filled_in(kind, id, request)).collect();
        let alone = filled_in(&alone(&old, &new, id), id, request);
        let rights = [&old, &new].map(|rules| rules.policy().rights_at(id, request.context()));
        for text in topics(3) {
            let topic = (TopicName::new(&text).unwrap(), levels(&text), filter(&text, request));
            let before = is_brought(&rights[0], was, &topic, request);
            let after = is_brought(&rights[1], is, &topic, request);
            let truth = (was != is && before != after).then_some(after);
            for told in [&changes, &alone] {
                let told = printed(told, Access::SubscribePart, &topic.1);
                assert_eq!(told, truth, "{id} {text} {was:?} {is:?} {kinds:#?}");
            }
        }
    }
}

fn mode() -> impl Strategy<Value = SubscribeMode> {
    proptest::sample::select(SubscribeMode::ALL.to_vec())
}

/// Modes of the listeners that requests come by.
fn modes() -> impl Strategy<Value = Modes> {
    (mode(), mode()).prop_map(|(tls, others)| Modes::by_name(|name| if name == "tls" { tls } else { others }))
}

/// Rights to filters alone grant as a whole what rights to topics grant in part.
fn without_literals(rules: &[Rule]) -> Vec<Rule> {
    let without = |rule: &Rule| Rule {
        subscribe_literal: Vec::new(),
        deny_subscribe_literal: Vec::new(),
        ..rule.clone()
    };
    let rules = rules.iter().map(without).filter(|rule| rule.check().is_ok());
    rules.collect()
}

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
fn config() -> ProptestConfig {
    let others = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => others,
        None => ProptestConfig { cases: 25, rng_seed: RngSeed::Fixed(5), ..others },
    }
}

proptest! {
    #![proptest_config(config())]

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
    fn what_a_mode_changes_is_told_exactly(
        (old, new) in (rules(3), rules(3)),
        is_same in any::<bool>(),
        some in proptest::sample::subsequence(ids(), 3),
        modes in (modes(), modes()),
        request in request(),
    ) {
        let new = if is_same { &old } else { &new };
        let rules = |rules: &[Rule]| Ruleset::new(without_literals(rules)).unwrap();
        compare_modes((&rules(&old), &rules(new)), &some, [modes.0, modes.1], request);
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

/// What changes for one identity, as a kind of its own.
fn alone(old: &Ruleset, new: &Ruleset, id: &SpiffeId) -> Kind {
    Kind {
        id: id.to_string(),
        except: Vec::new(),
        example: id.to_string(),
        changes: Diff::for_identity(old, new, id).unwrap(),
    }
}
