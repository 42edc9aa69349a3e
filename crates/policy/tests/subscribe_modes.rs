//! What becomes of a subscription that is allowed in part, and literal rights.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{
    DenyReason, Extent, FilterSet, NARROW_MAX, Policy, Rights, SubscribeMode, contains, intersection,
    is_equivalent,
};
use mqtt_proto::{QoS, SharedFilter, TopicFilter, TopicName};
use std::sync::Arc;

fn rights(lists: &str) -> Arc<Rights> {
    let text = format!("[[rule]]\nname = \"r\"\nid = \"spiffe://td/app\"\n{lists}");
    Policy::from_toml_str(&text, "test.toml").unwrap().rights(&SpiffeId::new("spiffe://td/app").unwrap())
}

/// What a subscription is granted: how, and each filter with its QoS and a `*` where it is filtered.
fn granted(rights: &Rights, filter: &str, mode: SubscribeMode) -> Result<(Extent, Vec<String>), DenyReason> {
    let filter = SharedFilter::new(filter).unwrap();
    let permit = rights.subscribe(&filter, QoS::AtLeastOnce, mode).map_err(|denial| denial.reason)?;
    let part = |part: &midge_policy::SubscribePart| {
        let mark = if part.is_filtered() { "*" } else { "" };
        format!("{}:{}{mark}", part.filter(), part.qos() as u8)
    };
    Ok((permit.extent(), permit.parts().iter().map(part).collect()))
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const READER: &str = r#"
subscribe = ["line/+/state", "line/1/#", "pumps/#", "$x/y"]
deny-subscribe = ["line/1/secret", "pumps/#"]
"#;

#[test]
fn narrowing_grants_the_parts_that_are_allowed() {
    let rights = rights(READER);
    let narrow = |filter: &str| granted(&rights, filter, SubscribeMode::Narrow);
    let parts = |filters: &[&str]| Ok((Extent::Narrowed, owned(filters)));
    assert_eq!(narrow("line/#"), parts(&["line/+/state:1", "line/1/#:1*"]));
    assert_eq!(narrow("#"), parts(&["line/+/state:1", "line/1/#:1*"]), "what is denied is no part");
    assert_eq!(narrow("+/1/+"), parts(&["line/1/+:1*"]));
    assert_eq!(narrow("line/+/+"), parts(&["line/+/state:1", "line/1/+:1*"]));
    assert_eq!(narrow("line/2/+"), parts(&["line/2/state:1"]));
    assert_eq!(narrow("line/2/state"), Ok((Extent::Whole, owned(&["line/2/state:1"]))));
    assert_eq!(narrow("$x/+"), parts(&["$x/y:1"]));
    assert!(matches!(narrow("other/#"), Err(DenyReason::NotCovered { .. })));
    assert!(matches!(narrow("pumps/+"), Err(DenyReason::DeniedPart { .. })));
    assert_eq!(narrow("line/1/secret"), Err(DenyReason::Denied));
}

#[test]
fn filtering_grants_the_filter_and_leaves_out_deliveries() {
    let rights = rights(READER);
    let filter = |filter: &str| granted(&rights, filter, SubscribeMode::Filter);
    assert_eq!(filter("#"), Ok((Extent::Filtered, owned(&["#:1*"]))));
    assert_eq!(filter("line/2/state"), Ok((Extent::Whole, owned(&["line/2/state:1"]))));
    assert!(filter("other/#").is_err() && filter("pumps/+").is_err());
    for (topic, delivered) in [
        ("line/2/state", true),
        ("line/1/x", true),
        ("line/2/x", false),
        ("line/1/secret", false),
        ("pumps/1", false),
        ("$x/y", true),
    ] {
        assert_eq!(rights.receive(&TopicName::new(topic).unwrap()).is_ok(), delivered, "{topic}");
    }
}

#[test]
fn rejecting_is_what_happens_otherwise() {
    let rights = rights(READER);
    let reject = |filter: &str| granted(&rights, filter, SubscribeMode::Reject);
    assert!(reject("line/#").is_err() && reject("#").is_err() && reject("line/1/#").is_err());
    assert!(reject("line/+/state").is_ok() && reject("line/1/a/#").is_ok());
    assert_eq!(SubscribeMode::default(), SubscribeMode::Reject);
}

#[test]
fn parts_have_the_quality_of_service_of_their_rules() {
    let text = r#"
[[rule]]
name = "low"
id = "spiffe://td/app"
subscribe = ["a/#"]
qos-max = 0
[[rule]]
name = "high"
id = "spiffe://td/app"
subscribe = ["a/b", "b/+"]
"#;
    let rights = Policy::from_toml_str(text, "t").unwrap().rights(&SpiffeId::new("spiffe://td/app").unwrap());
    let parts = granted(&rights, "+/#", SubscribeMode::Narrow).unwrap().1;
    assert_eq!(parts, ["a/#:0", "a/b:1", "b/+:1"]);
    assert_eq!(granted(&rights, "#", SubscribeMode::Filter).unwrap().1, ["#:1*"]);
    let qos = |topic: &str| rights.receive(&TopicName::new(topic).unwrap()).unwrap().qos();
    assert_eq!((qos("a/x"), qos("a/b")), (QoS::AtMostOnce, QoS::ExactlyOnce));
}

#[test]
fn no_filter_is_narrowed_without_bound() {
    let many = |count: usize| {
        let filters: Vec<String> = (0..count).map(|n| format!("\"a/{n}\"")).collect();
        rights(&format!("subscribe = [{}]", filters.join(", ")))
    };
    let parts = granted(&many(NARROW_MAX), "a/+", SubscribeMode::Narrow).unwrap().1;
    assert_eq!(parts.len(), NARROW_MAX);
    let refused = granted(&many(NARROW_MAX + 1), "a/+", SubscribeMode::Narrow);
    assert_eq!(refused, Err(DenyReason::TooManyParts { max: NARROW_MAX }));
    assert!(granted(&many(NARROW_MAX + 1), "a/+", SubscribeMode::Filter).is_ok());
    let deep = "a/".repeat(20_000) + "#";
    let rights = rights("subscribe = [\"+/+/b/#\"]");
    for mode in [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter] {
        assert!(granted(&rights, &deep, mode).is_err());
    }
}

#[test]
fn literal_rights_are_of_one_filter_and_no_topic() {
    let rights = rights(
        r##"
subscribe-literal = ["a/#", "#", "c/#"]
receive = ["a/open"]
deny-subscribe = ["c/x"]
"##,
    );
    let reject = |filter: &str| granted(&rights, filter, SubscribeMode::Reject);
    assert_eq!(reject("a/#").unwrap().1, ["a/#:1*"]);
    for narrower in ["a/+", "a/open", "a", "a/b/#"] {
        assert!(reject(narrower).is_err(), "{narrower}");
    }
    let receives = |topic: &str| rights.receive(&TopicName::new(topic).unwrap()).is_ok();
    assert!(receives("a/open") && !receives("a/other"));
    assert!(reject("#").is_err() && reject("c/#").is_err(), "a deny wins over a literal right too");
}

#[test]
fn literal_denies_refuse_one_filter_in_every_mode() {
    let rights = rights("subscribe = [\"#\", \"$x/#\"]\ndeny-subscribe-literal = [\"#\", \"$x/#\"]");
    for mode in [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter] {
        assert_eq!(granted(&rights, "#", mode), Err(DenyReason::Denied));
        assert_eq!(granted(&rights, "+/#", mode), Err(DenyReason::Denied), "the same filter, spelled longer");
        assert_eq!(granted(&rights, "$share/g/#", mode), Err(DenyReason::Denied));
        assert_eq!(granted(&rights, "$x/#", mode), Err(DenyReason::Denied));
        assert!(granted(&rights, "+", mode).is_ok() && granted(&rights, "$x/+", mode).is_ok());
    }
}

#[test]
fn filters_are_compared_exactly() {
    let filter = |text: &str| TopicFilter::new(text).unwrap();
    let shared = |a: &str, b: &str| intersection(&filter(a), &filter(b)).map(|f| f.to_string());
    for (one, two, both) in [
        ("a/#", "+/b", Some("a/b")),
        ("a/#", "a", Some("a")),
        ("a/+", "a/#", Some("a/+")),
        ("#", "+/#", Some("#")),
        ("/#", "+/+/#", Some("/#")),
        ("/#", "+", None),
        ("#", "$x/a", None),
        ("$x/+", "$x/#", Some("$x/+")),
        ("a/+", "+/b/#", Some("a/b")),
        ("a/b", "a/c", None),
    ] {
        assert_eq!((shared(one, two).as_deref(), shared(two, one).as_deref()), (both, both), "{one} {two}");
    }
    assert!(is_equivalent(&filter("#"), &filter("+/#")) && !is_equivalent(&filter("a/#"), &filter("a/+/#")));
    assert!(contains(&filter("+/#"), &filter("#")) && !contains(&filter("#"), &filter("$x")));
    let union = ["a", "a/+", "a/+/+/#"].map(filter);
    let set = FilterSet::new(&union).unwrap();
    assert_eq!(set.covers(&filter("a/#")), Ok(()));
    assert_eq!(set.covers(&filter("#")), Err(Some(TopicName::new("x").unwrap())));
    assert_eq!(set.matches(&TopicName::new("a/x").unwrap()), [1]);
    assert!(set.overlap(&filter("b/#")).is_none());
    assert_eq!(set.overlap(&filter("+/+")).unwrap().1, Some(TopicName::new("a/x").unwrap()));
    assert!(FilterSet::new(&[filter(&"a/".repeat(200))]).is_err());
}

#[test]
fn narrowing_is_exact_however_many_rights_there_are() {
    let many = |more: &str| {
        let each: Vec<String> = (0..500).map(|n| format!("\"{n}/state\"")).collect();
        rights(&format!("subscribe = [{}]\n{more}", each.join(", ")))
    };
    let narrow = |rights: &Rights, filter: &str| granted(rights, filter, SubscribeMode::Narrow);
    assert_eq!(narrow(&many(""), "#"), Err(DenyReason::TooManyParts { max: NARROW_MAX }));
    assert_eq!(narrow(&many(""), "+/state"), Err(DenyReason::TooManyParts { max: NARROW_MAX }));
    assert_eq!(narrow(&many(""), "7/+"), Ok((Extent::Narrowed, owned(&["7/state:1"]))));
    // Those of another rule come later, and are wider.
    let wide = many("[[rule]]\nname = \"wide\"\nid = \"spiffe://td/app\"\nsubscribe = [\"+/state\"]");
    assert_eq!(narrow(&wide, "#"), Ok((Extent::Narrowed, owned(&["+/state:1"]))));
    // All of them are denied, by one or each by itself.
    assert_eq!(
        narrow(&many("deny-receive = [\"+/state\"]"), "+/+"),
        Err(DenyReason::NotCovered { witness: TopicName::new("x/x").unwrap() })
    );
    // As many as a filter may have, with a deny in one of them.
    let some: Vec<String> = (0..NARROW_MAX).map(|n| format!("\"{n}/+/x\"")).collect();
    let some = rights(&format!("subscribe = [{}]\ndeny-receive = [\"+/7/y\", \"9/7/x\"]", some.join(", ")));
    let (extent, parts) = narrow(&some, "#").unwrap();
    assert_eq!((extent, parts.len()), (Extent::Narrowed, NARROW_MAX));
    let filtered: Vec<&String> = parts.iter().filter(|part| part.ends_with('*')).collect();
    assert_eq!(filtered, ["9/+/x:1*"]);
}
