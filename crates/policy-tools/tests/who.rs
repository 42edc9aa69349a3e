//! Who is said to reach a topic is exactly who may.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, dead_code, reason = "tests; the world is shared")]

mod world;

use midge_identity::SpiffeId;
use midge_policy::{LISTENERS, Rule, SubscribeMode};
use midge_policy_tools::{Decision, Explanation, Modes, Request, Ruleset, Verb, Way, Who, WhoKind};
use mqtt_proto::QoS;
use proptest::prelude::*;
use world::{bind, ids, rules};

fn belongs(kind: &WhoKind, id: &SpiffeId) -> bool {
    bind(&kind.id, id).is_some() && kind.except.iter().all(|except| bind(except, id).is_none())
}

fn subject() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["a", "a/b", "b/a/t", "a/+", "a/#", "#", "+/b", "$s/a", "$s/#", "/", "t"])
}

fn asked(verb: Verb, subject: &str, group: Option<&str>) -> Request {
    let text = match group {
        Some(group) if verb == Verb::Subscribe => format!("$share/{group}/{subject}"),
        _ => subject.to_owned(),
    };
    Request::new(verb, &text).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_can_is_who_may(
        rules in rules(4),
        subject in subject(),
        verb in proptest::sample::select(Verb::ALL.to_vec()),
        group in proptest::sample::select(vec![None, Some("a"), Some("g"), Some("h")]),
        qos in proptest::sample::select(vec![QoS::AtMostOnce, QoS::ExactlyOnce]),
        retain in any::<bool>(),
        listener in proptest::sample::select(vec![None, Some("unix"), Some("tls")]),
        reply in proptest::sample::select(vec![None, Some("a"), Some("a/b"), Some("t")]),
        modes in proptest::array::uniform5(proptest::sample::select(SubscribeMode::ALL.to_vec())),
    ) {
        let at = |name: &str| LISTENERS.iter().position(|known| *known == name).unwrap();
        let rules = Ruleset::new(rules).unwrap().with_modes(Modes::by_name(|name| modes[at(name)]));
        let response_topic = reply.map(|topic| mqtt_proto::TopicName::new(topic).unwrap());
        let request = Request { qos, retain, response_topic, ..asked(verb, subject, group) };
        let on = |name: &str| Request { listener: Some(name.into()), ..request.clone() };
        let request = listener.map_or_else(|| request.clone(), on);
        let who = Who::can(&rules, &request).unwrap();
        let kinds = who.kinds();
        for id in ids() {
            let answer = request.answer(&rules, &id);
            let mut decided = Vec::new();
            for name in listener.map_or_else(|| LISTENERS.to_vec(), |name| vec![name]) {
                let decision = on(name).answer(&rules, &id).decision;
                let here = |way: &Way| way.listeners.is_empty() || way.listeners.iter().any(|known| known == name);
                let found: Vec<&WhoKind> =
                    kinds.iter().filter(|kind| here(&kind.way) && belongs(kind, &id)).collect();
                prop_assert_eq!(found.len(), usize::from(decision.allowed), "{} {} {:#?}", id, on(name), kinds);
                prop_assert!(found.iter().all(|kind| kind.way.in_part == decision.in_part), "{id} {found:#?}");
                let ways = who.ways(&id).into_iter().filter(here).collect::<Vec<_>>();
                prop_assert_eq!(ways, found.iter().map(|kind| kind.way.clone()).collect::<Vec<_>>());
                if let Some(own) = answer.by_listener.iter().find(|own| own.listeners.iter().any(|l| l == name)) {
                    prop_assert_eq!(&own.decision.reason, &decision.reason);
                }
                decided.push(decision);
            }
            prop_assert_eq!(answer.decision.allowed, decided.iter().all(|decision| decision.allowed));
            let one = Decision { mode: None, ..decided[0].clone() };
            let is_one = decided.iter().all(|decision| Decision { mode: None, ..decision.clone() } == one);
            prop_assert_eq!(answer.by_listener.is_empty(), is_one, "{} {:#?}", id, answer);
        }
        for kind in &kinds {
            let id = SpiffeId::new(&kind.example).unwrap();
            let answer = request.answer(&rules, &id);
            prop_assert!(belongs(kind, &id) && answer.decisions().any(|one| one.allowed), "{:#?}", kind);
        }
    }
}

const RULES: &str = r##"
[[rule]]
name = "own"
id = "spiffe://{td}/app/{app}"
publish = ["{app}/#"]

[[rule]]
name = "all"
id = "spiffe://td/ops/**"
unless = "spiffe://td/ops/guest"
publish = ["#"]
listener = "tls"

[[rule]]
name = "x"
id = "spiffe://td/app/x"
publish = ["y"]
"##;

fn who(subject: &str) -> Vec<String> {
    let rules = Ruleset::new(Rule::from_toml_str(RULES, "t").unwrap()).unwrap();
    let kinds = Who::can(&rules, &asked(Verb::Publish, subject, None)).unwrap().kinds();
    let line = |kind: &WhoKind| {
        format!("{} except [{}] by {}", kind.id, kind.except.join(" "), kind.way.rules.join(" "))
    };
    kinds.iter().map(line).collect()
}

#[test]
fn kinds_are_told_with_their_rules() {
    let ops = "spiffe://td/ops/** except [spiffe://td/ops/guest] by all (t:7) on listener tls";
    assert_eq!(who("y/1"), ["spiffe://*/app/y except [] by own (t:2)", ops]);
    let y = who("y");
    assert_eq!(y.len(), 3, "{y:#?}");
    assert!(y.contains(&"spiffe://td/app/x except [] by x (t:14)".to_owned()), "{y:#?}");
    assert!(who("+").iter().all(|line| line.starts_with("spiffe://td/ops")));
    assert_eq!(who("$SYS/x"), Vec::<String>::new());
}

#[test]
fn who_may_publish_to_a_filter_may_not_name_every_response_topic() {
    let text = "[[rule]]\nname = \"ask\"\nid = \"spiffe://td/app/{app}\"\npublish = [\"line/+\"]\n\
                response-topics = [\"answer/{app}\"]\n\
                [[rule]]\nname = \"own\"\nid = \"spiffe://td/app/b\"\npublish = [\"own/b\"]\n";
    let rules = Ruleset::new(Rule::from_toml_str(text, "p.toml").unwrap()).unwrap();
    for (topic, who, may) in [
        ("answer/a", "a", true),
        ("answer/b", "a", false),
        ("other/secret", "a", false),
        ("line/1", "a", true),
        ("own/b", "a", false),
        ("own/b", "b", true),
    ] {
        let id = SpiffeId::new(format!("spiffe://td/app/{who}")).unwrap();
        for verb in [Verb::Publish, Verb::Will] {
            for subject in ["line/x", "line/+"] {
                let response_topic = mqtt_proto::TopicName::new(topic).ok();
                let request = Request { response_topic, ..Request::new(verb, subject).unwrap() };
                let decision = request.answer(&rules, &id).decision;
                assert_eq!(decision.allowed, may, "{id} {request}: {}", decision.reason);
                let kinds = Who::can(&rules, &request).unwrap().kinds();
                assert_eq!(kinds.iter().any(|kind| belongs(kind, &id)), may, "{id} {request}: {kinds:?}");
                let explained = Explanation::of(&rules, &id, &request);
                let unmet = explained.considered.iter().find_map(|rule| rule.unmet.as_deref());
                assert_eq!(unmet, (!may).then_some("response-topics = [answer/{app}]"), "{id} {request}");
            }
        }
    }
}
