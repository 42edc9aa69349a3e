//! Explanations, lint, expected decisions and proposals, on policies as people write them.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{DEFAULT_POLICY, DEFAULT_POLICY_NAME, Rule};
use midge_policy_tools::{
    Case, Explanation, Finding, Generality, Observation, Proposal, Request, Ruleset, Severity, Verb, check,
    check_against, check_beside, learn,
};
use mqtt_proto::QoS;

fn ruleset(text: &str) -> Ruleset {
    Ruleset::new(Rule::from_toml_str(text, "p.toml").unwrap()).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

const PRESS: &str = r#"
[[rule]]
name = "press"
id = "spiffe://{td}/edge/{node}/press/{name}"
publish = ["line/{name}/+"]
subscribe = ["line/{name}/command/#"]
qos-max = 1
client-id = "{name}-*"

[[rule]]
name = "quiet"
id = "spiffe://*/**"
unless = "spiffe://*/ops/{chief}"
deny-publish = ["line/+/secret"]
"#;

const QUIET: &str =
    "[[rule]]\nname = \"quiet\"\nid = \"spiffe://*/**\"\ndeny-publish = [\"line/+/secret\"]\n";

fn press() -> Ruleset {
    ruleset(&PRESS.replace("unless = \"spiffe://*/ops/{chief}\"\n", "unless = \"spiffe://*/ops/*\"\n"))
}

fn explain(who: &str, verb: Verb, subject: &str, client_id: Option<&str>) -> Explanation {
    let request = Request { client_id: client_id.map(str::to_owned), ..Request::new(verb, subject).unwrap() };
    Explanation::of(&press(), &id(who), &request)
}

#[test]
fn explanations_name_every_rule_considered_with_its_place() {
    let press = "spiffe://td/edge/n/press/left";
    let allowed = explain(press, Verb::Publish, "line/left/temperature", Some("left-1"));
    assert!(allowed.answer.decision.allowed);
    assert_eq!(allowed.answer.decision.rule.as_deref(), Some("press"));
    assert_eq!(allowed.answer.decision.place.as_deref(), Some("p.toml:2"));
    assert_eq!(allowed.considered.len(), 2);
    assert_eq!(allowed.considered[0].captures, ["node = n", "name = left"]);
    assert_eq!(allowed.considered[0].patterns[0].filter, "line/left/+");
    assert!(allowed.considered[1].patterns.is_empty());

    let denied = explain(press, Verb::Publish, "line/left/secret", Some("left-1"));
    assert!(!denied.answer.decision.allowed);
    assert_eq!(denied.answer.decision.rule.as_deref(), Some("quiet"));
    assert!(denied.answer.decision.reason.contains("p.toml:10"), "{}", denied.answer.decision.reason);

    let stranger = explain(press, Verb::Publish, "line/left/temperature", Some("right-1"));
    assert!(!stranger.answer.decision.allowed);
    assert_eq!(stranger.considered[0].unmet.as_deref(), Some("client-id = [{name}-*]"));
    let ops = explain("spiffe://td/ops/bob", Verb::Publish, "line/left/secret", None);
    assert_eq!(ops.considered[0].excepted_by.as_deref(), Some("spiffe://*/ops/*"));
    assert_eq!(ops.others, 1);
    let part = explain(press, Verb::Subscribe, "line/left/#", Some("left-1"));
    assert!(!part.answer.decision.allowed && !part.considered[0].patterns[0].whole);
}

#[test]
fn a_publication_to_a_filter_is_one_to_all_its_topics() {
    let press = "spiffe://td/edge/n/press/left";
    let all = explain(press, Verb::Publish, "line/left/+", Some("left-1"));
    assert!(!all.answer.decision.allowed);
    assert_eq!(
        all.answer.decision.reason,
        "a rule denies `line/left/secret`, which publish line/left/+ includes"
    );
    let other = explain(press, Verb::Receive, "line/left/command/#", Some("left-1"));
    assert!(other.answer.decision.allowed, "{}", other.answer.decision.reason);
    let wider = explain(press, Verb::Receive, "line/left/#", Some("left-1"));
    assert_eq!(
        wider.answer.decision.reason,
        "no rule allows `line/left`, which receive line/left/# includes"
    );
}

fn codes(text: &str) -> Vec<(&'static str, String)> {
    let findings = check(&ruleset(text)).unwrap();
    findings
        .into_iter()
        .map(|finding: Finding| (finding.code, format!("{} {}", finding.rule, finding.place)))
        .collect()
}

#[test]
fn a_policy_without_fault_has_no_findings() {
    assert_eq!(codes(&PRESS.replace("unless = \"spiffe://*/ops/{chief}\"\n", "")), []);
    let own = Rule::from_toml_str(DEFAULT_POLICY, DEFAULT_POLICY_NAME).unwrap();
    let findings = check(&Ruleset::new(own).unwrap()).unwrap();
    assert!(
        findings.iter().all(|finding| finding.severity == Severity::Note && finding.code == "idle-deny"),
        "{findings:#?}"
    );
}

#[test]
fn rules_without_effect_are_found_with_their_line() {
    let rule = |name: &str, rest: &str| {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://td/app/{{app}}\"\n{rest}\n")
    };
    let dead = rule("a", "publish = [\"line/{app}/secret\", \"{app}/x\"]") + QUIET;
    assert_eq!(codes(&dead), [("unreachable", "a p.toml:1".into())]);
    let nobody = rule("a", "unless = \"spiffe://*/**\"\npublish = [\"x\"]");
    assert_eq!(codes(&nobody), [("no-identity", "a p.toml:1".into())]);
    let twice = rule("a", "publish = [\"{app}/x\"]") + &rule("b", "publish = [\"{app}/x\"]");
    assert!(codes(&twice).contains(&("same-as", "b p.toml:5".into())), "{:?}", codes(&twice));
    let wider = rule("a", "publish = [\"{app}/x\"]") + &rule("b", "publish = [\"{app}/#\"]");
    assert_eq!(codes(&wider), [("redundant", "a p.toml:1".into())]);
    let limited = rule("a", "publish = [\"{app}/x\"]") + &rule("b", "publish = [\"{app}/#\"]\nqos-max = 0");
    assert_eq!(codes(&limited), [], "what is limited makes nothing needless");
    let guard = rule("a", "publish = [\"{app}/x\"]") + QUIET;
    assert_eq!(codes(&guard), [("idle-deny", "quiet p.toml:5".into())]);
    let open = rule("a", "publish = [\"{app}/x\"]\nclient-id = \"{app}*\"");
    assert_eq!(codes(&open), [("open-client-id", "a p.toml:1".into())]);
}

#[test]
fn a_deny_bites_where_only_one_entry_has_the_right() {
    let grant = Rule::grant("e", &id("spiffe://td/x"), &["line/1/secret".into(), "y".into()], &[]);
    let mut rules = Rule::from_toml_str(QUIET, "p.toml").unwrap();
    rules.push(grant);
    let findings = check(&Ruleset::new(rules).unwrap()).unwrap();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!((findings[0].code, &*findings[0].rule), ("unreachable", "entry/e"));
    assert!(findings[0].message.contains("\"line/1/secret\""), "{}", findings[0].message);
}

#[test]
fn grants_beyond_a_reference_are_blamed_on_their_rule() {
    let own = "[[rule]]\nname = \"own\"\nid = \"spiffe://td/app/{app}\"\npublish = [\"{app}/#\"]\n";
    let narrow = own.replace("/#", "/x");
    let findings = check_against(&ruleset(own), &ruleset(&narrow)).unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].code, &*findings[0].rule, &*findings[0].place),
        ("wider-than-reference", "own", "p.toml:1")
    );
    assert!(
        findings[0].message.starts_with("spiffe://td/app/{app} may publish {app}/# except {app}/x, such as")
    );
    assert_eq!(check_against(&ruleset(&narrow), &ruleset(own)).unwrap(), []);
}

const TABLE: &str = "
# who may do what
allow spiffe://td/edge/n/press/left publish line/left/x client-id=left-1 qos=1 rule=press
deny  spiffe://td/edge/n/press/left publish line/left/x client-id=left-1 qos=2
deny  spiffe://td/edge/n/press/left publish line/right/x client-id=left-1
allow spiffe://td/edge/n/press/left publish line/left/secret client-id=left-1
";

#[test]
fn expected_decisions_are_read_from_tables_and_toml() {
    let outcomes: Vec<_> = Case::read(TABLE, false).unwrap().iter().map(|case| case.run(&press())).collect();
    let seen: Vec<(usize, bool)> = outcomes.iter().map(|outcome| (outcome.line, outcome.ok)).collect();
    assert_eq!(seen, [(3, true), (4, true), (5, true), (6, false)]);
    assert_eq!(outcomes[3].mismatch.as_deref(), Some("expected allow, got deny"));
    assert_eq!(outcomes[3].explanation.answer.decision.rule.as_deref(), Some("quiet"));

    let toml = "[[case]]\nexpect = \"allow\"\nid = \"spiffe://td/edge/n/press/left\"\naction = \"subscribe\"\n\
                filter = \"line/left/command/#\"\nclient-id = \"left-\"\nrule = \"other\"\n";
    let outcome = Case::read(toml, true).unwrap()[0].run(&press());
    assert_eq!((outcome.line, outcome.ok), (1, false));
    assert_eq!(outcome.mismatch.as_deref(), Some("expected rule other to decide, got press"));
}

#[test]
fn lines_that_are_no_cases_are_all_named() {
    let wrong = "allow spiffe://td/x publish\nmaybe spiffe://td/x publish a\nallow td/x publish a\n\
                 allow spiffe://td/x dance a\nallow spiffe://td/x publish a/#/b\nallow spiffe://td/x publish a qos=3\n\
                 allow spiffe://td/x publish a colour=red\nallow spiffe://td/x publish a listener=tsl\n";
    for (number, line) in (1..).zip(wrong.lines()) {
        let errors = Case::read(line, false).unwrap_err();
        assert_eq!((errors.len(), errors[0].line), (1, 1), "line {number}: {errors:?}");
    }
    let faulty =
        "allow spiffe://td/x publish a\0b\nallow x publish a\nallow spiffe://td/x publish a zz=1\nallow\n";
    let lines: Vec<usize> = Case::read(faulty, false).unwrap_err().iter().map(|error| error.line).collect();
    assert_eq!(lines, [1, 2, 3, 4], "every fault is told at once");
    let named = Case::read("allow spiffe://td/x publish a listener=tls\n", false).unwrap();
    assert_eq!(named[0].request.listener.as_deref(), Some("tls"));
    assert_eq!(Case::read("[[case]]\ncolour = \"red\"\n", true).unwrap_err()[0].line, 2);
}

fn seen(identity: &str, action: Verb, topic: &str) -> Observation {
    let (qos, retain, payload) = (Some(1), Some(false), Some(100));
    Observation {
        identity: id(identity),
        action,
        topic: topic.into(),
        qos,
        retain,
        payload,
        response_topics: Vec::new(),
        parts: None,
        group: None,
        count: 1,
    }
}

#[test]
fn what_was_seen_becomes_rules_for_kinds() {
    let mut log = Vec::new();
    for name in ["led", "pump"] {
        let mapper = format!("spiffe://td/edge/box/mapper/{name}");
        log.push(seen(&mapper, Verb::Publish, &format!("$hw/events/device/{name}/state/update")));
        log.push(seen(&mapper, Verb::Subscribe, &format!("$hw/events/device/{name}/twin/+/result")));
        log.push(seen(&mapper, Verb::Subscribe, "$share/g/news"));
    }
    log.push(seen("spiffe://td/edge/box/mapper/led", Verb::Publish, "odd"));
    for n in 0..20 {
        log.push(seen("spiffe://td/edge/box/app/shop", Verb::Publish, &format!("orders/{n}/new")));
    }
    let proposal = learn(&log, Generality::default()).unwrap();
    let report = &proposal.report;
    assert_eq!((report.seen, report.identities), (27, 3));
    assert_eq!(report.refused, Vec::<String>::new());
    let by_name = |name: &str| proposal.rules.iter().find(|rule| rule.name == name).unwrap();
    let mapper = by_name("learned-mapper");
    assert_eq!(mapper.id, "spiffe://{td}/edge/{node}/mapper/{device}");
    assert_eq!(mapper.publish, ["$hw/events/device/{device}/state/update"]);
    assert_eq!(mapper.subscribe, ["$hw/events/device/{device}/twin/+/result", "news"]);
    assert_eq!(
        (mapper.qos_max, mapper.retain, mapper.will, mapper.payload_max),
        (Some(1), Some(false), Some(false), Some(128))
    );
    assert_eq!(by_name("learned-led").publish, ["odd"]);
    let shop = by_name("learned-shop");
    assert_eq!(
        (shop.id.as_str(), shop.publish.as_slice()),
        ("spiffe://td/edge/box/app/shop", &["orders/+/new".to_owned()][..])
    );
    let other =
        Ruleset::new(proposal.rules.clone()).unwrap().policy().rights(&id("spiffe://td/edge/box/app/till"));
    let facts = midge_policy::PublishFacts { qos: QoS::AtLeastOnce, payload_len: 100, ..Default::default() };
    assert!(
        other.publish(&mqtt_proto::TopicName::new("orders/1/new").unwrap(), facts).is_err(),
        "not seen of it"
    );
    assert!(
        report.wider.contains(&"orders/+/new: any value for a level that had 20".to_owned()),
        "{report:#?}"
    );
    assert_eq!(report.allowed_pairs, report.seen_pairs, "{report:#?}");

    let read = Rule::from_toml_str(&proposal.to_toml(), "learned.toml").unwrap();
    assert_eq!(read.len(), proposal.rules.len());
    assert!(check(&Ruleset::new(read).unwrap()).unwrap().is_empty());
}

#[test]
fn without_kinds_nobody_gets_more_than_was_seen() {
    let log = [
        seen("spiffe://td/edge/box/app/a", Verb::Publish, "a/x"),
        seen("spiffe://td/edge/box/app/b", Verb::Publish, "b/x"),
        seen("spiffe://td/edge/box/app/b", Verb::Receive, "c"),
        seen("spiffe://td/edge/box/app/b", Verb::Will, "w"),
    ];
    let exact = Generality { kinds: false, values_max: usize::MAX };
    let proposal = learn(&log, exact).unwrap();
    assert!(proposal.rules.iter().all(|rule| !rule.id.contains('{')));
    assert_eq!((proposal.report.allowed_pairs, proposal.report.seen_pairs), (4, 4));
    assert_eq!(proposal.report.beyond, Vec::<String>::new());
    let rights = Ruleset::new(proposal.rules).unwrap().policy().rights(&id("spiffe://td/edge/box/app/a"));
    let facts = midge_policy::PublishFacts { qos: QoS::ExactlyOnce, ..Default::default() };
    assert!(rights.publish(&mqtt_proto::TopicName::new("a/x").unwrap(), facts).is_err(), "not seen at QoS 2");
}

fn may_receive(rules: &[Rule], who: &str, topic: &str, group: Option<&str>) -> bool {
    let rights = Ruleset::new(rules.to_vec()).unwrap().policy().rights(&id(who));
    let topic = mqtt_proto::TopicName::new(topic).unwrap();
    match group {
        Some(group) => rights.receive_shared(&topic, group).is_ok(),
        None => rights.receive(&topic).is_ok(),
    }
}

#[test]
fn what_was_granted_in_part_is_not_learned_as_a_whole() {
    let historian = "spiffe://td/edge/box/app/historian";
    let part = |topic: &str, parts: &[&str]| Observation {
        parts: Some(parts.iter().map(|part| (*part).to_owned()).collect()),
        ..seen(historian, Verb::Subscribe, topic)
    };
    let received = |topic: &str, group: Option<&str>| Observation {
        group: group.map(str::to_owned),
        ..seen(historian, Verb::Receive, topic)
    };
    let log = [
        part("g/#", &[]),
        received("g/x", None),
        part("$share/w/h/#", &["h/+/up", "h/historian"]),
        received("h/extra", Some("w")),
        part("quiet/#", &[]),
        seen(historian, Verb::Subscribe, "all/#"),
    ];
    let Proposal { rules, report } = learn(&log, Generality::default()).unwrap();
    let literal: Vec<&str> =
        rules.iter().flat_map(|rule| &rule.subscribe_literal).map(String::as_str).collect();
    assert_eq!(literal, ["g/#", "h/#", "quiet/#"]);
    assert_eq!(rules.iter().flat_map(|rule| &rule.subscribe).collect::<Vec<_>>(), ["all/#"]);
    assert_eq!((report.refused.len(), report.beyond.len()), (0, 0), "{report:?}");
    assert_eq!(report.silent, [format!("{historian} subscribe quiet/#")]);
    for (topic, group, may) in [
        ("g/x", None, true),
        ("g/secret", None, false),
        ("h/1/up", Some("w"), true),
        ("h/extra", Some("w"), true),
        ("h/historian", Some("w"), true),
        ("h/1/down", Some("w"), false),
        ("quiet/x", None, false),
        ("all/x", None, true),
    ] {
        assert_eq!(may_receive(&rules, historian, topic, group), may, "{topic}");
    }
    // Its twin: who was granted all of it is proposed all of it.
    let whole = learn(&[seen(historian, Verb::Subscribe, "g/#")], Generality::default()).unwrap();
    assert!(may_receive(&whole.rules, historian, "g/secret", None));
    assert!(whole.report.wider.is_empty() && whole.report.silent.is_empty());
}

#[test]
fn where_a_kind_gets_all_of_what_one_had_in_part_it_is_told() {
    let (a, b) = ("spiffe://td/edge/box/app/a", "spiffe://td/edge/box/app/b");
    let part = Observation { parts: Some(Vec::new()), ..seen(b, Verb::Subscribe, "apps/b/#") };
    let log = [seen(a, Verb::Subscribe, "apps/a/#"), part];
    let report = learn(&log, Generality::default()).unwrap().report;
    let told = format!("{b} subscribe apps/b/#: all of it, of which a part was granted");
    assert!(report.wider.contains(&told), "{report:?}");
    let exact = learn(&log, Generality { kinds: false, ..Generality::default() }).unwrap();
    assert!(!exact.report.wider.contains(&told), "{exact:?}");
    assert!(
        !may_receive(&exact.rules, b, "apps/b/x", None) && may_receive(&exact.rules, a, "apps/a/x", None)
    );
}

#[test]
fn response_topics_are_proposed_and_held_against_the_proposal() {
    let asks = |who: &str, topic: &str, answer: &str| Observation {
        response_topics: vec![answer.into()],
        ..seen(&format!("spiffe://td/edge/box/app/{who}"), Verb::Publish, topic)
    };
    let log = [
        asks("a", "s/get", "answer/a/1"),
        asks("b", "s/get", "answer/b/1"),
        asks("c", "app/c/get", "answer/special"),
        seen("spiffe://td/edge/box/app/c", Verb::Publish, "app/c/up"),
    ];
    let Proposal { rules, report } = learn(&log, Generality::default()).unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
    let kind = rules.iter().find(|rule| rule.name == "learned-app").unwrap();
    assert_eq!(
        (&*kind.publish, &*kind.response_topics),
        (&["app/{app}/up".to_owned(), "s/get".to_owned()][..], &["answer/{app}/1".to_owned()][..])
    );
    let special = rules.iter().find(|rule| rule.name == "learned-c").unwrap();
    assert_eq!(
        (&*special.publish, &*special.response_topics),
        (&["app/c/get".to_owned()][..], &["answer/special".to_owned()][..])
    );
    let rules = Ruleset::new(rules).unwrap();
    for (who, topic, answer, may) in [
        ("a", "s/get", "answer/a/1", true),
        ("a", "s/get", "answer/b/1", false),
        ("c", "app/c/get", "answer/special", true),
        ("a", "app/a/get", "answer/special", false),
    ] {
        let response_topic = mqtt_proto::TopicName::new(answer).ok();
        let request = Request { response_topic, ..Request::new(Verb::Publish, topic).unwrap() };
        let decision = request.answer(&rules, &id(&format!("spiffe://td/edge/box/app/{who}")));
        let decision = decision.decision;
        assert_eq!(decision.allowed, may, "{who} {topic} {answer}: {}", decision.reason);
    }
}

#[test]
fn what_no_rule_can_say_is_counted_and_spoils_nothing() {
    let line = |text: &str| format!("{{\"identity\":\"spiffe://td/x\",\"action\":\"publish\",{text}}}\n");
    let braced = line(r#""topic":"a/{b}","count":3"#) + &line(r#""topic":"a","response-topics":["b/}"]"#);
    let log = braced + &line(r#""topic":"a","payload":4000000000,"qos":0,"retain":false"#);
    let read = Observation::read(&log, false).unwrap();
    assert_eq!((read.seen.len(), read.left_out), (1, 4));
    let proposal = learn(&read.seen, Generality::default()).unwrap();
    assert_eq!((proposal.rules[0].payload_max, proposal.report.refused.len()), (Some(u32::MAX), 0));
    for (wrong, says) in
        [(r#""topic":"a","qos":7"#, "qos 7"), (r#""topic":"a","response-topics":["+"]"#, "`+`")]
    {
        let error = Observation::read(&line(wrong), false).unwrap_err();
        assert!(error.fault.contains(says), "{error}");
    }
}

#[test]
fn logs_are_read_as_observations_or_as_audit() {
    let log = r#"{"identity":"spiffe://td/x","action":"publish","topic":"a","count":3}
{"at":1,"event":"connected","identity":"spiffe://td/x","client-id":"c"}
{"at":1,"event":"subscribed","identity":"spiffe://td/x","client-id":"c","filter":"a/#","qos":1,"rule":"r"}
{"at":1,"event":"publish-denied","identity":"spiffe://td/x","client-id":"c","topic":"b","reason":"no"}
"#;
    let told = |denied| -> Vec<String> {
        let seen = Observation::read(log, denied).unwrap().seen;
        seen.iter().map(|seen| format!("{} {} {}", seen.action.name(), seen.topic, seen.count)).collect()
    };
    assert_eq!(told(false), ["publish a 3", "subscribe a/# 1"]);
    assert_eq!(told(true), ["publish a 3", "subscribe a/# 1", "publish b 1"]);
    let granted = log.replace("\"filter\":\"a/#\"", "\"filter\":\"a/#\",\"granted\":[\"a/x\"]");
    let parts = Observation::read(&granted, false).unwrap().seen.remove(1).parts;
    assert_eq!(parts, Some(vec!["a/x".to_owned()]));
    for (text, says) in
        [("x", "not JSON"), ("{\"identity\":\"x\",\"action\":\"publish\",\"topic\":\"a\"}", "identity `x`")]
    {
        let error = Observation::read(&format!("\n{text}"), false).unwrap_err();
        assert!(error.line == 2 && error.fault.contains(says), "{error}");
    }
}

// Its own topics are held against each other too: beside a broker that must not take seconds.
#[test]
fn a_rule_with_very_many_topics_is_too_much_to_be_checked_beside_a_broker() {
    let rule = |count: usize| {
        let topics: Vec<String> = (0..count).map(|n| format!("\"a/{n}\"")).collect();
        let topics = topics.join(", ");
        ruleset(&format!("[[rule]]\nname = \"r\"\nid = \"spiffe://td/a\"\npublish = [{topics}]\n"))
    };
    assert!(check_beside(&rule(4_000)).is_err());
    assert_eq!(check_beside(&rule(400)), Ok(Vec::new()));
}

#[test]
fn what_a_rule_allows_at_topics_where_it_was_not_seen_is_told() {
    let plain = |topic: &str| Observation {
        retain: Some(false),
        payload: Some(4),
        ..seen("spiffe://td/edge/box/app/a", Verb::Publish, topic)
    };
    let log = [
        plain("g/{app}/x".replace("{app}", "a").as_str()),
        plain("h/a/x"),
        Observation { retain: Some(true), ..plain("g/a/ret") },
        Observation { action: Verb::Will, ..plain("g/a/will") },
        Observation { response_topics: vec!["zz/a/answer".into()], ..plain("g/a/req") },
    ];
    let proposal = learn(&log, Generality::default()).unwrap();
    let rules = Ruleset::new(proposal.rules).unwrap();
    let app = id("spiffe://td/edge/box/app/a");
    let answer = mqtt_proto::TopicName::new("zz/a/answer").ok();
    for (request, says) in [
        (
            Request { retain: true, ..Request::new(Verb::Publish, "g/a/x").unwrap() },
            "retained messages at 4 topics where none was seen, such as g/{app}/req",
        ),
        (
            Request::new(Verb::Will, "h/a/x").unwrap(),
            "wills at 4 topics where none was seen, such as g/{app}/re",
        ),
        (
            Request::new(Verb::Publish, "g/a/will").unwrap(),
            "publications at 1 topics where none was seen, such as g/{app}/will",
        ),
        (
            Request { response_topic: answer, ..Request::new(Verb::Publish, "h/a/x").unwrap() },
            "Response Topics at 4 topics where they were not seen, such as zz/{app}/answer at g/{app}/ret",
        ),
    ] {
        assert!(request.answer(&rules, &app).decision.allowed, "{request:?}");
        let told = &proposal.report.wider;
        assert!(told.iter().any(|line| line.contains(says)), "{says}: {told:?}");
    }
    // Of what was all done everywhere nothing is told.
    let report = learn(&[plain("g/a/x"), plain("h/a/x")], Generality::default()).unwrap().report;
    assert!(!report.wider.iter().any(|line| line.contains("was seen")), "{:?}", report.wider);
}

#[test]
fn a_share_group_whose_name_means_any_group_in_a_rule_is_left_out() {
    let line = |topic: &str| {
        format!(
            "{{\"identity\":\"spiffe://td/x\",\"action\":\"subscribe\",\"topic\":\"{topic}\",\"count\":2}}\n"
        )
    };
    let read = Observation::read(&(line("$share/*/a/c") + &line("$share/workers/a/c")), false).unwrap();
    assert_eq!((read.seen.len(), read.left_out), (1, 2));
    let proposal = learn(&read.seen, Generality::default()).unwrap();
    assert_eq!(proposal.rules[0].share_groups.as_deref(), Some(&["workers".to_owned()][..]));
}

const HURRIED: &str = r#"
[[rule]]
name = "slow"
id = "spiffe://td/app/*"
publish = ["up/+"]
rate = { messages-per-second = 5, burst-messages = 20 }

[[rule]]
name = "bytes"
id = "spiffe://td/app/*"
publish = ["up/a"]
rate = { bytes-per-second = 100, per = "rule" }

[[rule]]
name = "local"
id = "spiffe://td/app/*"
publish = ["up/b"]
listener = "unix"
"#;

#[test]
fn the_rates_of_what_is_allowed_are_told_and_none_where_a_rule_without_one_allows_it() {
    let rules = ruleset(HURRIED);
    let answer =
        |topic: &str| Request::new(Verb::Publish, topic).unwrap().answer(&rules, &id("spiffe://td/app/x"));
    let told = |decision: &midge_policy_tools::Decision| {
        decision.rates.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let slow = "5 messages/s (burst 20) for each identity by `slow` (p.toml:2)";
    let both = [slow, "100 B/s (burst 100) for all identities of the rule together by `bytes` (p.toml:8)"];
    assert_eq!(told(&answer("up/a").decision), both);
    assert_eq!(told(&answer("up/c").decision), [slow]);
    // Local connections have a right without a rate.
    let answer = answer("up/b");
    let told: Vec<_> =
        answer.by_listener.iter().map(|own| (own.listeners.join(","), told(&own.decision))).collect();
    assert!(answer.decision.allowed && answer.decision.rates.is_empty());
    assert_eq!(
        told,
        [
            ("tls,tcp,websocket-tls,websocket-loopback".to_owned(), vec![slow.to_owned()]),
            ("unix".to_owned(), vec![])
        ]
    );
}
