//! Captures, exceptions, conditions, denies and grants: each denial beside its allowed twin.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{Denial, Policy, PublishFacts, PublishPermit, Rights, Rule, RuleSource, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::sync::Arc;

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn policy(text: &str) -> Policy {
    Policy::from_toml_str(text, "test.toml").unwrap()
}

fn publish(rights: &Rights, to: &str) -> Result<PublishPermit, Denial> {
    rights.publish(&topic(to), PublishFacts::default())
}

fn subscribe(rights: &Rights, to: &str) -> Result<QoS, Denial> {
    rights
        .subscribe(&SharedFilter::new(to).unwrap(), QoS::ExactlyOnce, SubscribeMode::Reject)
        .map(|permit| permit.qos())
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const OWN_DEVICE: &str = r#"
[[rule]]
name = "own-device"
id = "spiffe://{td}/edge/{node}/mapper/{device}"
publish = ["{td}/{node}/{device}/state"]
subscribe = ["{td}/{node}/{device}/+/result"]
"#;

#[test]
fn f25_nothing_is_allowed_that_no_rule_allows() {
    for policy in [Policy::deny_all(), policy(""), policy("# nothing")] {
        let rights = policy.rights(&id("spiffe://td/app"));
        assert_eq!(publish(&rights, "a").unwrap_err().to_string(), "no rule allows publish to `a`");
        assert_eq!(subscribe(&rights, "a").unwrap_err().to_string(), "no rule allows subscribe to `a`");
        assert_eq!(
            subscribe(&rights, "#").unwrap_err().to_string(),
            "no rule allows `x`, which subscribe to `#` includes"
        );
        assert_eq!(rights.receive(&topic("a")).unwrap_err().to_string(), "no rule allows receive `a`");
        let will = rights.will(&topic("a"), PublishFacts::default()).unwrap_err();
        assert_eq!(will.to_string(), "no rule allows a will on `a`");
    }
}

#[test]
fn captures_bind_segments_to_whole_levels() {
    let policy = policy(OWN_DEVICE);
    let led = policy.rights(&id("spiffe://plant/edge/box-1/mapper/led"));
    assert!(publish(&led, "plant/box-1/led/state").is_ok());
    assert!(subscribe(&led, "plant/box-1/led/+/result").is_ok());
    assert!(led.receive(&topic("plant/box-1/led/get/result")).is_ok());
    for other in [
        "plant/box-1/pump/state",
        "plant/box-2/led/state",
        "other/box-1/led/state",
        "{td}/{node}/{device}/state",
    ] {
        assert!(publish(&led, other).is_err(), "{other}");
    }
    for other in ["plant/box-1/+/+/result", "plant/box-1/led/#", "plant/+/led/+/result"] {
        assert!(subscribe(&led, other).is_err(), "{other}");
    }
}

#[test]
fn f22_patterns_match_whole_identities() {
    let policy = policy(OWN_DEVICE);
    for stranger in [
        "spiffe://plant/edge/box-1/mapper",
        "spiffe://plant/edge/box-1/mapper/led/more",
        "spiffe://plant/xedge/box-1/mapper/led",
        "spiffe://plant/edge/box-1/mappers/led",
        "spiffe://plant/edge/box-1/Mapper/led",
        "spiffe://plant",
    ] {
        assert!(publish(&policy.rights(&id(stranger)), "plant/box-1/led/state").is_err(), "{stranger}");
    }
}

#[test]
fn wildcards_in_identities() {
    let rule = |pattern: &str| format!("[[rule]]\nname = \"r\"\nid = \"{pattern}\"\npublish = [\"t\"]\n");
    let speaks = |pattern: &str, of: &str| publish(&policy(&rule(pattern)).rights(&id(of)), "t").is_ok();
    assert!(speaks("spiffe://td/*/b", "spiffe://td/a/b"));
    assert!(!speaks("spiffe://td/*/b", "spiffe://td/a/c/b"));
    assert!(!speaks("spiffe://td/*", "spiffe://td"));
    assert!(speaks("spiffe://td/a/**", "spiffe://td/a"));
    assert!(speaks("spiffe://td/a/**", "spiffe://td/a/b/c"));
    assert!(!speaks("spiffe://td/a/**", "spiffe://td/ab"));
    assert!(speaks("spiffe://*/**", "spiffe://other"));
    assert!(speaks("spiffe://td", "spiffe://td"));
    assert!(!speaks("spiffe://td", "spiffe://td/a"));
    assert!(!speaks("spiffe://td/**", "spiffe://other/a"));
    assert!(speaks("spiffe://td/**", "spiffe://TD/a"), "trust domains have no case");
}

#[test]
fn deny_wins_whatever_the_order_and_the_source() {
    let allow =
        Rule { name: "allow".into(), id: "spiffe://td/**".into(), publish: owned(&["#"]), ..Rule::default() };
    let deny = Rule {
        name: "deny".into(),
        id: "spiffe://*/**".into(),
        deny_publish: owned(&["+/secret"]),
        ..Rule::default()
    };
    let app = id("spiffe://td/app");
    let grant = Rule::grant("e1", &app, &owned(&["a/secret", "a/open"]), &[]);
    for rules in [vec![allow.clone(), deny.clone(), grant.clone()], vec![grant, deny, allow]] {
        let rights = Policy::compile(rules, 7).unwrap().rights(&app);
        let denial = publish(&rights, "a/secret").unwrap_err();
        assert_eq!(denial.to_string(), "rule `deny` (built in) denies publish to `a/secret`");
        let will = rights.will(&topic("a/secret"), PublishFacts::default()).unwrap_err();
        assert_eq!(will.to_string(), "rule `deny` (built in) denies a will on `a/secret`");
        assert_eq!(publish(&rights, "a/open").unwrap().epoch(), 7);
    }
}

#[test]
fn unless_excepts_identities() {
    let policy = policy(
        r#"
[[rule]]
name = "all"
id = "spiffe://{td}/edge/{node}/**"
publish = ["t"]
unless = ["spiffe://{td}/edge/{node}/guest/*", "spiffe://*/edge/box-9/**"]

[[rule]]
name = "twin-names"
id = "spiffe://{td}/pair/{a}/{b}"
publish = ["t"]
unless = "spiffe://{td}/pair/{b}/{b}"
"#,
    );
    let may = |of: &str| publish(&policy.rights(&id(of)), "t").is_ok();
    assert!(may("spiffe://td/edge/box-1/app") && !may("spiffe://td/edge/box-1/guest/x"));
    assert!(may("spiffe://td/edge/box-1/guest") && !may("spiffe://td/edge/box-9/app"));
    assert!(may("spiffe://td/pair/x/y") && !may("spiffe://td/pair/x/x"));
}

#[test]
fn conditions_of_the_allowing_rule_hold() {
    let policy = policy(
        r#"
[[rule]]
name = "narrow"
id = "spiffe://td/app"
publish = ["t/#"]
qos-max = 1
retain = false
payload-max = 10
will = false

[[rule]]
name = "wide"
id = "spiffe://td/app"
publish = ["t/wide"]
payload-max = 20
"#,
    );
    let rights = policy.rights(&id("spiffe://td/app"));
    let fits =
        PublishFacts { qos: QoS::AtLeastOnce, retain: false, payload_len: 10, ..PublishFacts::default() };
    let faults = [
        (PublishFacts { qos: QoS::ExactlyOnce, ..fits }, "qos 2 is above qos-max 1"),
        (PublishFacts { retain: true, ..fits }, "not retained"),
        (PublishFacts { payload_len: 11, ..fits }, "11 bytes of payload are above payload-max 10"),
    ];
    let permit = rights.publish(&topic("t/a"), fits).unwrap();
    assert_eq!(&**permit.rule(), "narrow");
    assert!(permit.covers(&fits));
    for (facts, why) in faults {
        let denial = rights.publish(&topic("t/a"), facts).unwrap_err();
        let text = format!("rule `narrow` (test.toml:2) allows publish to `t/a`, but {why}");
        assert_eq!(denial.to_string(), text);
        assert!(!permit.covers(&facts));
        assert_eq!(
            &**rights.publish(&topic("t/wide"), facts).unwrap().rule(),
            "wide",
            "another rule may allow it"
        );
    }
    let will = rights.will(&topic("t/a"), fits).unwrap_err();
    assert_eq!(will.to_string(), "rule `narrow` (test.toml:2) allows to publish to `t/a`, but not by a will");
    assert_eq!(&**rights.will(&topic("t/wide"), fits).unwrap().rule(), "wide");
    let long = PublishFacts { payload_len: 21, ..fits };
    assert!(rights.publish(&topic("t/wide"), long).is_err());
}

#[test]
fn qos_max_lowers_the_granted_qos_of_a_subscription() {
    let policy = policy(
        r#"
[[rule]]
name = "low"
id = "spiffe://td/app"
subscribe = ["t/#"]
qos-max = 0

[[rule]]
name = "high"
id = "spiffe://td/app"
subscribe = ["t/high"]
"#,
    );
    let rights = policy.rights(&id("spiffe://td/app"));
    assert_eq!(subscribe(&rights, "t/low").unwrap(), QoS::AtMostOnce);
    assert_eq!(subscribe(&rights, "t/high").unwrap(), QoS::ExactlyOnce);
    assert_eq!(subscribe(&rights, "t/#").unwrap(), QoS::AtMostOnce);
}

#[test]
fn deny_receive_filters_deliveries_and_deny_subscribe_refuses() {
    let policy = policy(
        r#"
[[rule]]
name = "reader"
id = "spiffe://td/app"
subscribe = ["a/#", "b/#"]
receive = ["inbox/+"]
deny-receive = ["a/hidden"]
deny-subscribe = ["b/hidden"]
"#,
    );
    let rights = policy.rights(&id("spiffe://td/app"));
    let filtered = |filter: &str| {
        rights
            .subscribe(&SharedFilter::new(filter).unwrap(), QoS::AtMostOnce, SubscribeMode::Reject)
            .map(|permit| permit.is_filtered())
    };
    assert!(filtered("a/#").unwrap());
    assert!(!filtered("a/open/#").unwrap());
    assert!(rights.receive(&topic("a/open")).is_ok());
    assert_eq!(
        rights.receive(&topic("a/hidden")).unwrap_err().to_string(),
        "rule `reader` (test.toml:2) denies receive `a/hidden`"
    );
    assert_eq!(
        filtered("b/#").unwrap_err().to_string(),
        "rule `reader` (test.toml:2) denies `b/hidden`, which subscribe to `b/#` includes"
    );
    assert!(!filtered("b/open").unwrap());
    assert!(rights.receive(&topic("b/hidden")).is_err());
    assert!(rights.receive(&topic("inbox/1")).is_ok());
    assert!(filtered("inbox/1").is_err(), "receive gives no right to subscribe");
    assert!(publish(&rights, "a/open").is_err(), "nor does subscribe give one to publish");
}

#[test]
fn ten_thousand_grants_are_nothing_to_others() {
    let grants = (0..10_000).map(|n| {
        let owner = id(&format!("spiffe://td/edge/box/app/n{n}"));
        Rule::grant(&n.to_string(), &owner, &owned(&["+/user/#"]), &[format!("app/n{n}/#")])
    });
    let mut rules: Vec<Rule> = grants.collect();
    rules.extend(Rule::from_toml_str(OWN_DEVICE, "test.toml").unwrap());
    let policy = Policy::compile(rules, 3).unwrap();
    assert_eq!(policy.rules(), 10_001);

    let owner = policy.rights(&id("spiffe://td/edge/box/app/n7777"));
    assert_eq!(&**publish(&owner, "x/user/up").unwrap().rule(), "entry/7777");
    assert!(subscribe(&owner, "app/n7777/#").is_ok());
    assert!(subscribe(&owner, "app/n7778/#").is_err());
    let stranger = policy.rights(&id("spiffe://td/edge/box/app/n10000"));
    assert!(publish(&stranger, "x/user/up").is_err());
    let mapper = policy.rights(&id("spiffe://td/edge/box/mapper/led"));
    assert!(publish(&mapper, "td/box/led/state").is_ok());
}

#[test]
fn rights_tell_whether_a_new_policy_changes_them() {
    let own = Rule::from_toml_str(OWN_DEVICE, "test.toml").unwrap();
    let led = id("spiffe://td/edge/box/mapper/led");
    let pump = id("spiffe://td/edge/box/mapper/pump");
    let before = Policy::compile(own.clone(), 1).unwrap();
    let mut rules = own;
    rules.push(Rule::grant("e", &led, &owned(&["t"]), &[]));
    let after = Policy::compile(rules, 2).unwrap();
    assert!(!before.rights(&led).is_same_as(&after.rights(&led)));
    assert!(before.rights(&pump).is_same_as(&after.rights(&pump)));
    assert!(!before.rights(&pump).is_same_as(&before.rights(&led)));
}

#[test]
fn f21_denials_cannot_forge_log_lines() {
    let rights = Policy::deny_all().rights(&id("spiffe://td/app"));
    let forged = publish(&rights, "a`\nallowed \u{1b}[2J\u{202e}").unwrap_err().to_string();
    assert_eq!(forged, "no rule allows publish to `a\\`\\nallowed \\u{1b}[2J\\u{202e}`");
    let long = publish(&rights, &"a".repeat(65_535)).unwrap_err().to_string();
    assert_eq!(long.chars().count(), "no rule allows publish to ``".len() + 256 + 1);
    let shared = subscribe(&rights, "$share/g/a").unwrap_err().to_string();
    assert_eq!(shared, "no rule allows subscribe to `a` (shared by `g`)");
}

#[test]
fn rules_travel_as_json_too() {
    let rule = &Rule::from_toml_str(OWN_DEVICE, "test.toml").unwrap()[0];
    let json = serde_json::to_string(rule).unwrap();
    let read: Rule = serde_json::from_str(&json).unwrap();
    assert_eq!(read.clone().from_source(rule.source.clone()), *rule);
    let policy = Policy::compile(vec![read.from_source(RuleSource::Cloud)], 1).unwrap();
    let rights = policy.rights(&id("spiffe://td/edge/box/mapper/led"));
    assert!(publish(&rights, "td/box/led/state").is_ok());
    assert!(serde_json::from_str::<Rule>(r#"{"name": "x", "id": "y", "pubish": []}"#).is_err());
}

#[test]
fn checked_rules_make_a_policy_without_compiling_again() {
    let own = Rule::from_toml_str(OWN_DEVICE, "test.toml").unwrap();
    let grant = Rule::grant("e", &id("spiffe://td/app"), &owned(&["t"]), &[]);
    let checked: Vec<_> = own.iter().chain([&grant]).map(|rule| rule.check().unwrap()).collect();
    let rights: Arc<Rights> = Policy::of(checked.clone(), 5).unwrap().rights(&id("spiffe://td/app"));
    assert_eq!(publish(&rights, "t").unwrap().epoch(), 5);
    let twice = checked.iter().chain(checked.last()).cloned();
    assert_eq!(
        Policy::of(twice, 6).unwrap_err()[0].to_string(),
        "registration entry: rule `entry/e`: the name is also used at registration entry; give each rule its own"
    );
}
