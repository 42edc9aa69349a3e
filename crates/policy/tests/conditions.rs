//! Conditions beyond the sizes: connection, rate, response topics, durability, overflow. Each denial
//! beside its allowed twin.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{
    Bucket, Context, DenyReason, Durability, Policy, PublishFacts, QueueOverflow, RateScope, Rights,
    SubscribeMode,
};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::num::NonZeroU32;
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

fn app(text: &str) -> Arc<Rights> {
    policy(text).rights(&id("spiffe://td/app/press"))
}

fn publishes(rights: &Rights, to: &str) -> bool {
    rights.publish(&topic(to), PublishFacts::default()).is_ok()
}

fn asks(rights: &Rights, to: &str, response: &str) -> Result<(), String> {
    let response = topic(response);
    let facts = PublishFacts { response_topic: Some(&response), ..PublishFacts::default() };
    rights.publish(&topic(to), facts).map(|_| ()).map_err(|denial| denial.to_string())
}

fn on<'a>(client_id: &'a str, listener: &'a str) -> Context<'a> {
    Context { client_id: Some(client_id), listener: Some(listener) }
}

#[test]
fn a_rule_may_hold_for_some_client_ids_only() {
    let policy = policy(
        r#"
[[rule]]
name = "own"
id = "spiffe://{td}/app/{name}"
client-id = ["{name}", "{td}-{name}-*"]
publish = ["t"]

[[rule]]
name = "all"
id = "spiffe://{td}/app/**"
publish = ["u"]
"#,
    );
    let press = id("spiffe://td/app/press");
    for (client_id, may) in [
        ("press", true),
        ("td-press-", true),
        ("td-press-7", true),
        ("press-7", false),
        ("td-press", false),
        ("", false),
    ] {
        let rights = policy.rights_at(&press, on(client_id, "tls"));
        assert_eq!(publishes(&rights, "t"), may, "{client_id}");
        assert!(publishes(&rights, "u"));
    }
    assert!(!publishes(&policy.rights(&press), "t"), "nor where the client id is not known");
}

#[test]
fn f29_a_rule_may_hold_on_some_listeners_only() {
    let policy = policy(
        r#"
[[rule]]
name = "inside"
id = "spiffe://td/app/*"
listener = "unix"
publish = ["inside"]

[[rule]]
name = "outside"
id = "spiffe://td/app/*"
listener = ["tls", "websocket-tls"]
publish = ["outside"]

[[rule]]
name = "never-from-outside"
id = "spiffe://td/app/*"
listener = ["tls", "websocket-tls"]
deny-publish = ["both/secret"]

[[rule]]
name = "both"
id = "spiffe://td/app/*"
publish = ["both/#"]
"#,
    );
    let press = id("spiffe://td/app/press");
    let may = |listener: Option<&str>, to: &str| {
        publishes(&policy.rights_at(&press, Context { client_id: None, listener }), to)
    };
    assert!(may(Some("unix"), "inside") && !may(Some("tls"), "inside"));
    assert!(may(Some("websocket-tls"), "outside") && !may(Some("unix"), "outside"));
    assert!(may(Some("unix"), "both/secret") && !may(Some("tls"), "both/secret"));
    assert!(may(None, "both/open"));
    assert!(!may(None, "inside") && !may(None, "outside"), "what is not known allows nothing");
    assert!(!may(None, "both/secret"), "and escapes no deny");
}

#[test]
fn connections_share_rights_where_the_same_rules_hold() {
    let policy = policy(
        r#"
[[rule]]
name = "own"
id = "spiffe://td/app/{name}"
client-id = "{name}*"
publish = ["t"]

[[rule]]
name = "all"
id = "spiffe://td/**"
publish = ["u"]
"#,
    );
    let press = policy.principal(&id("spiffe://td/app/press"));
    assert!(press.depends_on_connection());
    let (one, two) = (press.rights(on("press-1", "a")), press.rights(on("press-2", "b")));
    let other = press.rights(on("other", "a"));
    assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
    assert!(publishes(&one, "t") && !publishes(&other, "t"));
    let plain = policy.principal(&id("spiffe://td/ops"));
    assert!(!plain.depends_on_connection());
    assert!(Arc::ptr_eq(&plain.rights(on("x", "a")), &plain.rights(Context::default())));
}

#[test]
fn rates_are_carried_and_the_rule_without_one_goes_first() {
    let rights = app(r#"
[[rule]]
name = "a-slow"
id = "spiffe://td/app/*"
publish = ["t/#"]
rate = { messages-per-second = 10, burst-messages = 50, bytes-per-second = 1000, per = "rule" }

[[rule]]
name = "fast"
id = "spiffe://td/app/*"
publish = ["t/fast"]
"#);
    let bucket = |per_second, burst| {
        Some(Bucket {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        })
    };
    let permit = rights.publish(&topic("t/slow"), PublishFacts::default()).unwrap();
    let (_, rate) = permit.rates().next().unwrap();
    assert_eq!((rate.messages, rate.bytes), (bucket(10, 50), bucket(1000, 1000)));
    assert_eq!(rate.scope, RateScope::Rule);
    let permit = rights.publish(&topic("t/fast"), PublishFacts::default()).unwrap();
    assert_eq!((&**permit.rule(), permit.rates().count()), ("fast", 0));
}

#[test]
fn f27_a_response_topic_takes_a_right_of_the_publishers_own() {
    let rights = app(r#"
[[rule]]
name = "ask"
id = "spiffe://td/app/{name}"
publish = ["ask/+", "log/{name}"]
response-topics = ["answer/{name}/#"]
deny-publish = ["answer/+/denied"]

[[rule]]
name = "tell"
id = "spiffe://td/app/{name}"
publish = ["tell/+", "shared/#"]
deny-publish = ["shared/secret"]
"#);
    assert_eq!(asks(&rights, "ask/valve", "answer/press/1"), Ok(()));
    assert_eq!(asks(&rights, "ask/valve", "answer/press/denied"), Ok(()), "the answer is another's");
    assert_eq!(asks(&rights, "ask/valve", "log/press"), Ok(()), "it may publish there itself");
    assert_eq!(asks(&rights, "tell/valve", "shared/x"), Ok(()), "by whichever rule");
    assert_eq!(
        asks(&rights, "ask/valve", "answer/pump/1").unwrap_err(),
        "rule `ask` (test.toml:2) allows publish to `ask/valve`, but not to name the response topic `answer/pump/1`"
    );
    assert!(asks(&rights, "tell/valve", "answer/press/1").is_err(), "the list is that of its rule");
    assert!(asks(&rights, "tell/valve", "shared/secret").is_err());
    let (one, two) = (topic("answer/press/1"), topic("answer/pump/1"));
    let facts = |response| PublishFacts { response_topic: response, ..PublishFacts::default() };
    let will = rights.will(&topic("ask/valve"), facts(Some(&two))).unwrap_err();
    assert_eq!(will.reason, DenyReason::ResponseTopic { topic: two.clone() });
    let permit = rights.publish(&topic("ask/valve"), facts(Some(&one))).unwrap();
    assert!(permit.covers(&facts(Some(&one))) && permit.covers(&facts(None)));
    assert!(!permit.covers(&facts(Some(&two))));
}

#[test]
fn durability_and_overflow_are_carried() {
    let rights = app(r#"
[[rule]]
name = "a-plain"
id = "spiffe://td/app/*"
publish = ["t/#"]
subscribe = ["new/#", "plain"]

[[rule]]
name = "b-alarms"
id = "spiffe://td/app/*"
publish = ["t/alarm"]
durability = "power-loss"
queue-overflow = "refuse"

[[rule]]
name = "c-late"
id = "spiffe://td/app/*"
publish = ["t/alarm"]
durability = "none"

[[rule]]
name = "d-telemetry"
id = "spiffe://td/app/*"
subscribe = ["t/#"]
queue-overflow = "drop-oldest"
"#);
    let permit = |to: &str| rights.publish(&topic(to), PublishFacts::default()).unwrap();
    let alarm = permit("t/alarm");
    assert_eq!((&**alarm.rule(), alarm.durability()), ("a-plain", Some(Durability::PowerLoss)));
    assert!(alarm.refuses_overflow());
    let plain = permit("t/x");
    assert_eq!((plain.durability(), plain.refuses_overflow()), (None, false));
    let overflow = |filter: &str| {
        let filter = SharedFilter::new(filter).unwrap();
        rights.subscribe(&filter, QoS::AtMostOnce, SubscribeMode::Reject).unwrap().queue_overflow()
    };
    assert_eq!(overflow("t/#"), Some(QueueOverflow::DropOldest));
    assert_eq!(overflow("plain"), None);
}

#[test]
fn a_permit_covers_no_publication_that_other_terms_hold_for() {
    let rights = app(r#"
[[rule]]
name = "long"
id = "spiffe://td/app/*"
publish = ["t", "plain"]

[[rule]]
name = "short"
id = "spiffe://td/app/*"
publish = ["t"]
payload-max = 10
durability = "power-loss"
"#);
    let facts = |payload_len| PublishFacts { payload_len, ..PublishFacts::default() };
    let permit = |to: &str, len| rights.publish(&topic(to), facts(len)).unwrap();
    let (short, long) = (permit("t", 5), permit("t", 50));
    assert_eq!((short.durability(), long.durability()), (Some(Durability::PowerLoss), None));
    assert!(short.covers(&facts(5)) && !short.covers(&facts(50)));
    assert!(long.covers(&facts(50)) && !long.covers(&facts(5)));
    assert!(permit("plain", 5).covers(&facts(50)), "where one rule decides, its limits do");
}

#[test]
fn share_groups_limit_which_are_joined() {
    let rights = app(r#"
[[rule]]
name = "workers"
id = "spiffe://{td}/app/{name}"
subscribe = ["jobs/#"]
share-groups = ["workers", "{name}"]

[[rule]]
name = "alone"
id = "spiffe://{td}/app/{name}"
subscribe = ["alone"]
share-groups = []

[[rule]]
name = "any"
id = "spiffe://{td}/app/{name}"
subscribe = ["any"]
"#);
    let subscribe = |filter: &str| {
        let filter = SharedFilter::new(filter).unwrap();
        rights.subscribe(&filter, QoS::AtMostOnce, SubscribeMode::Filter).map_err(|denial| denial.to_string())
    };
    for granted in ["jobs/#", "$share/workers/jobs/#", "$share/press/jobs/x", "alone", "$share/x/any"] {
        assert!(subscribe(granted).is_ok(), "{granted}");
    }
    assert!(subscribe("$share/x/alone").is_err());
    assert_eq!(
        subscribe("$share/others/jobs/#").unwrap_err(),
        "rule `workers` (test.toml:2) allows subscribe to `jobs/#` (shared by `others`), \
         but not in the share group `others`"
    );
    assert!(rights.receive_shared(&topic("jobs/1"), "workers").is_ok());
    assert!(rights.receive_shared(&topic("jobs/1"), "others").is_err());
    assert!(rights.receive(&topic("jobs/1")).is_ok());
}

// Each has a bucket of its own, also where they say the same.
#[test]
fn two_rules_with_the_same_rate_are_two_rates() {
    let rule = |name: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nid = \"spiffe://td/app/*\"\npublish = [\"t\"]\nrate = {{ messages-per-second = 1 }}\n"
        )
    };
    let rights = app(&format!("{}{}", rule("one"), rule("two")));
    let permit = rights.publish(&topic("t"), PublishFacts::default()).unwrap();
    let names: Vec<&str> = permit.rates().map(|(name, _)| &**name.text()).collect();
    assert_eq!(names, ["one", "two"]);
}
