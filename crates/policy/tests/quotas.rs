//! `quota` of rules: whom it holds for, which of several holds, and what is refused.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{Action, Context, Policy, Quantity, Quota, Rights, Rule, RuleSource, Subject};

const NONE: usize = usize::MAX;

fn policy(text: &str) -> Policy {
    Policy::from_toml_str(text, "site.toml").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://td/{path}")).unwrap()
}

fn quotas(rights: &Rights) -> [usize; 6] {
    Quantity::ALL.map(|of| rights.quota(of))
}

fn of(policy: &Policy, path: &str) -> [usize; 6] {
    quotas(&policy.rights(&id(path)))
}

#[test]
fn each_key_limits_its_own_and_what_is_absent_is_not_limited() {
    let all = "sessions = 1, subscriptions = 2, retained-messages = 3, retained-bytes = 4, \
               queue-messages = 5, queue-bytes = 4294967295";
    let rule =
        |quota: &str| format!("[[rule]]\nname = \"q\"\nid = \"spiffe://td/app/*\"\nquota = {{ {quota} }}\n");
    assert_eq!(of(&policy(&rule(all)), "app/a"), [1, 2, 3, 4, 5, 4_294_967_295]);
    for (at, quota) in all.split(", ").enumerate() {
        let found = of(&policy(&rule(quota)), "app/a");
        let limited: Vec<usize> =
            found.iter().enumerate().filter(|(_, max)| **max != NONE).map(|(at, _)| at).collect();
        assert_eq!(limited, [at], "{quota}");
    }
    assert_eq!(of(&policy(&rule(all)), "app/a/b"), [NONE; 6], "whom the rule does not speak of");
    let table = rule(all).replace("quota = { ", "[rule.quota]\n").replace(", ", "\n").replace(" }", "");
    assert_eq!(of(&policy(&table), "app/a"), [1, 2, 3, 4, 5, 4_294_967_295], "{table}");
}

#[test]
fn the_smallest_holds_and_the_first_of_the_same_is_named() {
    let policy = policy(
        r#"
[[rule]]
name = "all"
id = "spiffe://td/**"
unless = "spiffe://td/app/free"
quota = { sessions = 5, subscriptions = 7 }

[[rule]]
name = "apps"
id = "spiffe://td/app/*"
publish = ["t"]
quota = { sessions = 2, subscriptions = 7 }

[[rule]]
name = "one"
id = "spiffe://td/app/one"
quota = { sessions = 3 }
"#,
    );
    let found = |path: &str| {
        let quotas = of(&policy, path);
        (quotas[0], quotas[1])
    };
    assert_eq!([found("x"), found("app/x"), found("app/one")], [(5, 7), (2, 7), (2, 7)]);
    assert_eq!(found("app/free"), (2, 7));
    let rights = policy.rights(&id("app/one"));
    let said = |of, action, subject| rights.over_quota(of, action, subject).to_string();
    assert_eq!(
        said(Quantity::Sessions, Action::Connect, Subject::Client("c".into())),
        "to connect as `c` would exceed the quota of rule `apps` (site.toml:8): sessions = 2"
    );
    let filter = mqtt_proto::SharedFilter::new("a/#").unwrap();
    assert_eq!(
        said(Quantity::Subscriptions, Action::Subscribe, Subject::Filter(filter)),
        "to subscribe to `a/#` would exceed the quota of rule `all` (site.toml:2): subscriptions = 7"
    );
}

#[test]
fn a_quota_of_a_listener_holds_there_and_where_the_listener_is_not_known() {
    let policy = policy(
        "[[rule]]\nname = \"q\"\nid = \"spiffe://td/**\"\nlistener = \"tls\"\nquota = { sessions = 1 }\n",
    );
    let sessions = |listener: Option<&str>| {
        let context = Context { client_id: Some("c"), listener };
        policy.rights_at(&id("a"), context).quota(Quantity::Sessions)
    };
    assert_eq!([Some("tls"), Some("unix"), None].map(sessions), [1, NONE, 1]);
}

#[test]
fn a_changed_quota_changes_the_rights_of_whom_it_speaks() {
    let with = |max: u32, epoch| {
        let quota = Some(Quota { queue_messages: Some(max), ..Quota::default() });
        let rule = Rule { name: "q".into(), id: "spiffe://td/app/*".into(), quota, ..Rule::default() };
        Policy::compile(vec![rule], epoch).unwrap()
    };
    let (old, new, same) = (with(1, 1), with(2, 2), with(1, 3));
    let touched = new.touched_since(&old);
    assert!(touched.touches(&id("app/a")) && !touched.touches(&id("a")));
    assert!(!new.rights(&id("app/a")).is_same_as(&old.rights(&id("app/a"))));
    assert!(same.touched_since(&old).is_empty() && !old.touched_since(&new).is_empty());
}

#[test]
fn a_quota_survives_every_form_and_stays_beside_denies() {
    let text = "[[rule]]\nname = \"q\"\nid = \"spiffe://td/a\"\npublish = [\"t\"]\ndeny-publish = [\"t/x\"]\n\
                quota = { retained-bytes = 65536, sessions = 2 }\n";
    let rule = Rule::from_toml_str(text, "site.toml").unwrap().remove(0);
    let json = serde_json::to_value(&rule).unwrap();
    assert_eq!(json["quota"], serde_json::json!({"sessions": 2, "retained-bytes": 65536}));
    let back: Rule = serde_json::from_value(json).unwrap();
    assert!(back.says_same_as(&rule) && rule.says_same_as(&back));
    assert!(!Rule { quota: None, ..rule.clone() }.says_same_as(&rule));
    let denies = rule.clone().denies_only();
    assert_eq!((denies.quota, denies.publish.is_empty()), (rule.quota, true));
    let only = Rule { deny_publish: Vec::new(), ..denies }.from_source(RuleSource::Cloud);
    assert_eq!(only.check().unwrap().rule().quota, rule.quota, "nothing else is needed for a rule");
    assert!(Rule { quota: None, ..only }.check().is_err());
}

#[test]
fn faults_are_told_with_file_and_line() {
    let fault = |quota: &str| {
        let text = format!("[[rule]]\nname = \"q\"\nid = \"spiffe://td/a\"\npublish = [\"t\"]\n{quota}\n");
        let errors = Rule::from_toml_str(&text, "site.toml").unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all =
        "sessions or subscriptions or retained-messages or retained-bytes or queue-messages or queue-bytes";
    assert_eq!(
        fault("quota = {}"),
        [format!("site.toml:5: rule `q`: quota = {{ … }}: limits nothing; add {all}")]
    );
    let zero = |key: &str| {
        format!("site.toml:5: rule `q`: quota = {{ … }}: {key} = 0 would let nothing pass; give at least 1")
    };
    assert_eq!(
        fault("quota = { sessions = 0, queue-bytes = 0, subscriptions = 1 }"),
        [zero("sessions"), zero("queue-bytes")]
    );
    assert_eq!(
        fault("client-id = \"c\"\nquota = { sessions = 1 }"),
        ["site.toml:6: rule `q`: a client chooses its client id and could evade quota; put it into a rule \
          without client-id"]
    );
    for (quota, said) in [
        ("{ sesions = 1 }", "site.toml:5: unknown field `sesions`, expected one of `sessions`"),
        ("{ sessions = \"1\" }", "site.toml:5: invalid type: string \"1\", expected u32"),
        ("{ sessions = -1 }", "site.toml:5: invalid value: integer `-1`, expected u32"),
        ("{ sessions = 4294967296 }", "site.toml:5: invalid value: integer `4294967296`, expected u32"),
        ("{ sessions = 1.5 }", "site.toml:5: invalid type: floating point `1.5`, expected u32"),
        ("5", "site.toml:5: invalid type: integer `5`, expected struct Quota"),
    ] {
        let found = fault(&format!("quota = {quota}"));
        assert!(found.len() == 1 && found[0].starts_with(said), "{found:?}, expected {said}");
    }
    // The same beside what is right.
    assert!(
        Rule::from_toml_str(
            "[[rule]]\nname = \"q\"\nid = \"spiffe://td/a\"\nquota = { sessions = 1 }\n",
            "site.toml"
        )
        .is_ok()
    );
}
