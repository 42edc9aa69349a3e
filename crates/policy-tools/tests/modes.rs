//! What is granted in part, as each listener grants it, and what holds on some listeners only.

#![expect(clippy::unwrap_used, reason = "tests")]

use SubscribeMode::{Filter, Narrow, Reject};
use midge_identity::SpiffeId;
use midge_policy::{Extent, Rule, SubscribeMode};
use midge_policy_tools::{
    Answer, Case, Decision, Diff, Explanation, Modes, Request, Ruleset, Verb, Way, Who, check_modes,
};

const READER: &str = r#"
[[rule]]
name = "reader"
id = "spiffe://td/app/{app}"
subscribe = ["line/+/state", "line/1/#"]
qos-max = 1

[[rule]]
name = "quiet"
id = "spiffe://td/**"
deny-receive = ["line/1/secret"]
"#;

fn ruleset(text: &str) -> Ruleset {
    Ruleset::new(Rule::from_toml_str(text, "p.toml").unwrap()).unwrap()
}

fn app() -> SpiffeId {
    SpiffeId::new("spiffe://td/app/a").unwrap()
}

fn subscribe(filter: &str, listener: Option<&str>) -> Request {
    Request { listener: listener.map(str::to_owned), ..Request::new(Verb::Subscribe, filter).unwrap() }
}

fn decided(mode: SubscribeMode, filter: &str) -> Decision {
    let rules = ruleset(READER).with_modes(Modes::everywhere(mode));
    let Answer { decision, by_listener } = subscribe(filter, None).answer(&rules, &app());
    assert!(by_listener.is_empty(), "{by_listener:?}");
    assert_eq!(decision.mode, Some(mode));
    decision
}

fn parts(decision: &Decision) -> Vec<String> {
    let part = |part: &midge_policy_tools::Part| {
        format!("{}:{}{}", part.filter, part.qos, if part.filtered { "*" } else { "" })
    };
    decision.parts.iter().map(part).collect()
}

#[test]
fn a_narrowed_subscription_is_told_by_its_parts_and_a_filtered_one_by_its_denies() {
    let reject = decided(Reject, "line/#");
    assert!(!reject.allowed && reject.parts.is_empty() && reject.left_out.is_empty());

    let narrow = decided(Narrow, "line/#");
    assert!(narrow.allowed && narrow.in_part && narrow.filtered);
    assert_eq!((narrow.extent, narrow.granted_qos), (Some(Extent::Narrowed), Some(0)));
    assert_eq!(parts(&narrow), ["line/+/state:0", "line/1/#:0*"]);
    assert!(narrow.reason.contains("`reader` (p.toml:2) allows a part of it, `line/+/state`, `line/1/#`"));
    assert_eq!(narrow.not_whole.as_deref(), Some(&*reject.reason));
    let left_out = &narrow.left_out[0];
    assert_eq!((&*left_out.filter, left_out.list), ("line/1/secret", "deny-receive"));
    assert_eq!((&*left_out.rule, &*left_out.place), ("quiet", "p.toml:8"));

    let filter = decided(Filter, "line/#");
    assert!(filter.allowed && filter.in_part);
    assert_eq!((parts(&filter), filter.extent), (vec!["line/#:0*".to_owned()], Some(Extent::Filtered)));
    assert_eq!((filter.left_out.len(), &filter.not_whole), (1, &narrow.not_whole));

    // All of it is granted in every mode, with what a deny leaves out.
    for mode in SubscribeMode::ALL {
        let whole = decided(mode, "line/1/#");
        assert!(whole.allowed && whole.in_part && whole.not_whole.is_none(), "{whole:?}");
        assert_eq!((whole.extent, whole.left_out.len()), (Some(Extent::Whole), 1));
        assert!(
            whole.reason.ends_with("allows it, and some of its topics are not delivered"),
            "{}",
            whole.reason
        );
        let nothing = decided(mode, "line/1/secret");
        assert!(nothing.allowed && nothing.in_part, "{nothing:?}");
        assert!(
            nothing.reason.ends_with("allows it, and none of its topics is delivered"),
            "{}",
            nothing.reason
        );
        let all = decided(mode, "line/2/state");
        assert!(all.allowed && !all.in_part && all.left_out.is_empty(), "{all:?}");
        assert!(!decided(mode, "other/#").allowed);
    }
}

#[test]
fn a_share_group_is_filtered_where_others_are_narrowed() {
    let rules = ruleset(READER).with_modes(Modes::everywhere(Narrow));
    let shared = subscribe("$share/g/line/#", Some("tls")).answer(&rules, &app()).decision;
    assert_eq!((shared.mode, shared.extent), (Some(Filter), Some(Extent::Filtered)));
}

fn mixed(text: &str) -> Ruleset {
    let mode = |name: &str| match name {
        "tls" => Narrow,
        "unix" => Filter,
        _ => Reject,
    };
    ruleset(text).with_modes(Modes::by_name(mode))
}

#[test]
fn listeners_are_told_apart_where_their_modes_answer_differently() {
    let rules = mixed(READER);
    let answer = subscribe("line/#", None).answer(&rules, &app());
    assert!(!answer.decision.allowed && !answer.decision.in_part);
    let told: Vec<(&[String], Option<SubscribeMode>, bool)> = answer
        .by_listener
        .iter()
        .map(|own| (&*own.listeners, own.decision.mode, own.decision.allowed))
        .collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            (&*names(&["tls"]), Some(Narrow), true),
            (&*names(&["tcp", "websocket-tls", "websocket-loopback"]), Some(Reject), false),
            (&*names(&["unix"]), Some(Filter), true),
        ]
    );
    assert_eq!(
        answer.decision.reason,
        "it depends on the listener: allowed in part on tls; denied on tcp, websocket-tls, websocket-loopback; \
         allowed in part on unix"
    );
    // One that is asked for by name has its own mode, and what all decide alike is told once.
    assert!(subscribe("line/#", Some("tls")).answer(&rules, &app()).decision.allowed);
    assert!(!subscribe("line/#", Some("tcp")).answer(&rules, &app()).decision.allowed);
    let alike = subscribe("line/2/state", None).answer(&rules, &app());
    assert!(alike.decision.allowed && alike.by_listener.is_empty() && alike.decision.mode.is_none());
}

#[test]
fn what_a_rule_says_of_one_listener_is_told_of_it() {
    let rules = ruleset(
        r#"
[[rule]]
name = "own"
id = "spiffe://td/app/{app}"
publish = ["{app}/#"]

[[rule]]
name = "not-by-tcp"
id = "spiffe://td/**"
deny-publish = ["+/secret"]
listener = "tcp"

[[rule]]
name = "by-unix"
id = "spiffe://td/app/a"
publish = ["more"]
listener = "unix"
"#,
    );
    let publish = |topic: &str| Request::new(Verb::Publish, topic).unwrap();
    let ways = |topic: &str| -> Vec<Way> {
        let who = Who::can(&rules, &publish(topic)).unwrap();
        let kinds = who.kinds();
        let ways = who.ways(&app());
        assert!(ways.iter().all(|way| kinds.iter().any(|kind| kind.way == *way)), "{kinds:#?}");
        ways
    };
    let on = |names: &[&str], rule: &str| {
        let listeners = names.iter().map(|name| (*name).to_owned()).collect();
        vec![Way { listeners, in_part: false, rules: vec![rule.into()] }]
    };
    assert_eq!(ways("a/x"), on(&[], "own (p.toml:2)"));
    assert_eq!(
        ways("a/secret"),
        on(&["tls", "unix", "websocket-tls", "websocket-loopback"], "own (p.toml:2)")
    );
    assert_eq!(ways("more"), on(&["unix"], "by-unix (p.toml:13) on listener unix"));
    assert_eq!(ways("b/x"), []);

    let denied = publish("a/secret").answer(&rules, &app());
    assert!(!denied.decision.allowed);
    assert_eq!(denied.by_listener[1].listeners, ["tcp"]);
    assert_eq!(denied.by_listener[1].decision.rule.as_deref(), Some("not-by-tcp"));
    let explained = Explanation::of(&rules, &app(), &publish("more"));
    let only_on: Vec<&[String]> = explained.considered.iter().map(|rule| &*rule.only_on).collect();
    assert_eq!(only_on, [&[] as &[String], &["tcp".to_owned()], &["unix".to_owned()]]);
    assert!(explained.considered.iter().all(|rule| rule.unmet.is_none()), "{explained:#?}");
}

#[test]
fn who_may_in_part_is_told_by_listener() {
    let rules = mixed(READER);
    let ways = Who::can(&rules, &subscribe("line/#", None)).unwrap().ways(&app());
    assert_eq!(ways.len(), 1);
    assert!(ways[0].in_part && ways[0].listeners == ["tls", "unix"], "{ways:?}");
    assert_eq!(Who::can(&rules, &subscribe("line/#", Some("tcp"))).unwrap().kinds(), []);
    let all = Who::can(&rules, &subscribe("line/2/state", None)).unwrap().ways(&app());
    assert!(!all[0].in_part && all[0].listeners.is_empty(), "{all:?}");
}

/// Rules of an app for so many topics of its own, and what else there is.
fn many(count: usize, more: &str) -> Ruleset {
    let topics: Vec<String> = (0..count).map(|n| format!("\"{{app}}/{n}/state\"")).collect();
    let own = format!(
        "[[rule]]\nname = \"own\"\nid = \"spiffe://td/app/{{app}}\"\nsubscribe = [{}]\n{more}",
        topics.join(", ")
    );
    ruleset(&own)
}

// Sixty-four parts are granted, and not one more: neither the same twice nor part of others.
#[test]
fn who_counts_the_parts_as_the_broker_does() {
    let rule = |name: &str, lists: &str| {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://td/app/*\"\n{lists}\n")
    };
    let twice: Vec<String> = (0..40).map(|n| format!("\"+/{n}/state\"")).collect();
    let twice = rule("twice", &format!("subscribe = [{}]", twice.join(", ")));
    let others = twice.replace("+/", "x/");
    let wide = rule("wide", "subscribe = [\"a/+/state\"]");
    let low = rule("low", "subscribe = [\"a/+/state\"]\nqos-max = 0");
    let denied = rule("denied", "deny-subscribe = [\"a/7/#\", \"b/#\"]");
    for (rules, filter, qos, narrowed) in [
        (many(64, ""), "a/#", 0, true),
        (many(65, ""), "a/#", 0, false),
        (many(65, &denied), "a/#", 0, true),
        (many(50, &twice), "a/#", 0, true),
        (many(50, &twice), "+/#", 1, true),
        (many(50, &others), "+/#", 1, false),
        (many(65, &wide), "a/#", 1, true),
        (many(65, &low), "a/#", 0, true),
        (many(65, &low), "a/#", 1, false),
        (many(4_097, &wide), "a/#", 0, false),
        (many(65, &denied), "b/#", 0, false),
        (many(1, &denied), "b/#", 0, false),
    ] {
        for mode in [Narrow, Filter] {
            let rules = rules.clone().with_modes(Modes::everywhere(mode));
            let qos = midge_policy_tools::qos(qos).unwrap();
            let request = Request { qos, ..subscribe(filter, Some("tls")) };
            let decision = request.answer(&rules, &app()).decision;
            let expected = if mode == Narrow { narrowed } else { filter != "b/#" };
            assert_eq!(decision.allowed, expected, "{mode:?} {filter} {}", decision.reason);
            let ways = Who::can(&rules, &request).unwrap().ways(&app());
            assert_eq!(!ways.is_empty(), decision.allowed, "{mode:?} {filter} {ways:?}");
        }
    }
}

#[test]
fn cases_expect_all_or_a_part() {
    let run = |rules: &Ruleset, line: &str| {
        let outcome = Case::read(line, false).unwrap()[0].run(rules);
        outcome.mismatch.unwrap_or_else(|| "ok".into())
    };
    let case = |expect: &str, filter: &str, more: &str| {
        format!("{expect} spiffe://td/app/a subscribe {filter} {more}\n")
    };
    let rules = mixed(READER);
    for (expect, filter, more, told) in [
        ("allow", "line/#", "listener=tls", "ok"),
        ("allow-part", "line/#", "listener=tls", "ok"),
        ("allow-part", "line/#", "listener=unix rule=reader", "ok"),
        ("allow-whole", "line/#", "listener=tls", "expected allow-whole, got allow-part"),
        ("deny", "line/#", "listener=tls", "expected deny, got allow-part"),
        ("allow-part", "line/#", "listener=tcp", "expected allow-part, got deny"),
        ("allow-whole", "line/2/state", "", "ok"),
        ("allow-part", "line/2/state", "", "expected allow-part, got allow-whole"),
        ("allow", "line/2/state", "rule=reader", "ok"),
        ("deny", "other/#", "", "ok"),
    ] {
        assert_eq!(run(&rules, &case(expect, filter, more)), told, "{expect} {filter} {more}");
    }
    // Neither an allow nor a deny holds where listeners answer differently.
    for expect in ["allow", "deny", "allow-part"] {
        let told = run(&rules, &case(expect, "line/#", ""));
        assert!(told.starts_with(&format!("expected {expect}, got it depends on the listener: ")), "{told}");
    }
    assert_eq!(run(&rules.with_modes(Modes::everywhere(Reject)), &case("deny", "line/#", "")), "ok");
    let publish = "allow-part spiffe://td/app/a publish line/1\n";
    assert!(Case::read(publish, false).unwrap_err()[0].fault.contains("write allow"));
}

#[test]
fn a_right_to_a_filter_alone_brings_what_may_be_received() {
    let rule = "[[rule]]\nname = \"all\"\nid = \"spiffe://td/app/a\"\nsubscribe-literal = [\"#\"]\n";
    for (more, told) in
        [("", "none of its topics is"), ("receive = [\"line/1\"]\n", "some of its topics are not")]
    {
        let decision = subscribe("#", None).answer(&ruleset(&format!("{rule}{more}")), &app()).decision;
        assert!(decision.allowed && decision.in_part);
        assert_eq!(decision.reason, format!("rule `all` (p.toml:1) allows it, and {told} delivered"));
    }
}

/// Lines as `± access filter (when)` of two policies with modes.
fn told(old: &Ruleset, new: &Ruleset) -> Vec<String> {
    let kinds = Diff::between(old, new).unwrap().kinds();
    let changes = kinds.iter().flat_map(|kind| &kind.changes);
    changes.map(|change| format!("{} {change}", if change.gained { '+' } else { '-' })).collect()
}

#[test]
fn a_change_of_mode_is_told_as_what_subscriptions_in_part_bring() {
    let news = "[[rule]]\nname = \"news\"\nid = \"spiffe://td/app/*\"\nreceive = [\"news\"]\n";
    let rules = ruleset(&format!("{READER}{news}"));
    let all = |mode| rules.clone().with_modes(Modes::everywhere(mode));
    let lines = |sign: &str, more: &str| {
        let own = ["line/1/# except line/1/secret", "line/+/state"];
        own.map(|topics| format!("{sign} subscribe-part {topics} (qos up to 1{more})"))
    };
    assert_eq!(told(&all(Reject), &all(Reject)), [""; 0]);
    // What no right to subscribe gives comes where deliveries are filtered, as those of share groups are.
    let shared = "subscribe-part news (qos up to 1, shared)";
    let gained = [&lines("+", "")[..], &[format!("+ {shared}")]].concat();
    assert_eq!(told(&all(Reject), &all(Narrow)), gained);
    let lost = [&lines("-", "")[..], &[format!("- {shared}")]].concat();
    assert_eq!(told(&all(Narrow), &all(Reject)), lost);
    assert_eq!(told(&all(Narrow), &all(Filter)), ["+ subscribe-part news (qos up to 1, not shared)"]);
    // On the listeners that differ, to whom a rule there gives something, and not where everything is granted anyway.
    let unix = |mode| Modes::by_name(|name| if name == "unix" { mode } else { Narrow });
    let on_unix = |mode| rules.clone().with_modes(unix(mode));
    assert_eq!(told(&on_unix(Narrow), &on_unix(Reject)).len(), 3);
    assert!(told(&on_unix(Narrow), &on_unix(Reject)).iter().all(|line| line.contains("on listener unix")));
    let whole = READER.replace("\"line/+/state\", \"line/1/#\"", "\"#\"");
    let whole = |mode| ruleset(&whole).with_modes(Modes::everywhere(mode));
    assert_eq!(told(&whole(Reject), &whole(Filter)), [""; 0]);
    let tcp = READER.replace("qos-max = 1", "listener = \"tcp\"");
    let tcp = |mode| ruleset(&tcp).with_modes(unix(mode));
    assert_eq!(told(&tcp(Narrow), &tcp(Reject)), [""; 0]);
}

#[test]
fn what_a_mode_makes_idle_is_found() {
    let found = |text: &str, modes: Modes| -> Vec<(&'static str, String)> {
        let found = check_modes(&ruleset(text), &modes);
        found.into_iter().map(|found| (found.code, format!("{} {}", found.rule, found.place))).collect()
    };
    let all = Modes::everywhere;
    let only = |own: &'static str, mode| Modes::by_name(move |name| if name == own { mode } else { Reject });
    // A mode on a listener that no right to subscribe holds on.
    let unix = READER.replace("qos-max = 1", "listener = \"unix\"");
    let idle = ("idle-mode", " [mqtt.subscribe-mode] tls = \"narrow\"".to_owned());
    assert_eq!(found(&unix, only("tls", Narrow)), [idle]);
    for (text, modes) in [(&*unix, only("unix", Narrow)), (READER, only("tls", Narrow)), (&unix, all(Reject))]
    {
        assert_eq!(found(text, modes), []);
    }
    // A right to receive that nothing brings.
    let rule = |more: &str| format!("[[rule]]\nname = \"r\"\nid = \"spiffe://td/app/*\"\n{more}\n");
    let news = rule("receive = [\"news/#\"]");
    let idle = ("idle-receive", "r p.toml:1".to_owned());
    assert_eq!(found(&news, all(Reject)), std::slice::from_ref(&idle));
    assert_eq!(found(&news, only("tls", Filter))[1..], []);
    let unix = rule("receive = [\"news/#\"]\nlistener = \"unix\"");
    assert!(found(&unix, only("tls", Filter)).contains(&idle));
    assert_eq!(found(&rule("receive = [\"news/#\"]\nsubscribe-literal = [\"#\"]"), all(Reject)), []);
    // More rights than a filter is narrowed to.
    let rights = |count: usize, more: &str| {
        let rights: Vec<String> = (0..count).map(|n| format!("\"line/{n}/state\"")).collect();
        rule(&format!("subscribe = [{}{more}]", rights.join(", ")))
    };
    let many = [("too-many-parts", "r p.toml:1".to_owned())];
    assert_eq!(found(&rights(65, ""), all(Narrow)), many);
    for (text, mode) in
        [(rights(64, ""), Narrow), (rights(65, ", \"line/+/state\""), Narrow), (rights(65, ""), Filter)]
    {
        assert_eq!(found(&text, all(mode)), []);
        let decision = subscribe("#", None).answer(&ruleset(&text).with_modes(all(mode)), &app()).decision;
        assert!(decision.allowed, "{}", decision.reason);
    }
    let refused = subscribe("#", None).answer(&ruleset(&rights(65, "")).with_modes(all(Narrow)), &app());
    assert!(!refused.decision.allowed);
}
