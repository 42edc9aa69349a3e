//! Rules of files, cloud and entries together: precedence, replacement as a whole, who is touched.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{Policy, PolicyError, PublishFacts, Rule, RuleSource, Sources};
use mqtt_proto::TopicName;
use std::sync::Arc;

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn rule(name: &str, id: &str, publish: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nid = \"{id}\"\npublish = [\"{publish}\"]\n")
}

fn named(policy: &Policy, of: &str, topic: &str) -> Option<String> {
    let permit = policy.rights(&id(of)).publish(&TopicName::new(topic).unwrap(), PublishFacts::default());
    permit.ok().map(|permit| permit.rule_name().to_string())
}

fn told(errors: Vec<PolicyError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn grant(entry: &str, publish: &str) -> Rule {
    Rule::grant(entry, &id(APP), &owned(&[publish]), &[])
}

const APP: &str = "spiffe://td/edge/n/app/x";
const ALL: &str = "spiffe://td/**";

#[test]
fn the_rule_that_is_named_is_the_first_by_precedence() {
    let mut sources = Sources::default();
    let cloud = Rule { name: "c".into(), id: ALL.into(), publish: owned(&["t"]), ..Rule::default() };
    assert_eq!(sources.set_grants(&[grant("e1", "t")], []), []);
    assert_eq!(named(sources.policy(), APP, "t").unwrap(), "`entry/e1` (registration entry)");
    sources.set_cloud(&[cloud]).unwrap();
    assert_eq!(named(sources.policy(), APP, "t").unwrap(), "`c` (from the cloud)");
    let two = rule("z", ALL, "t") + &rule("a", ALL, "t");
    sources.set_files(&[("20.toml", &two), ("10.toml", &rule("q", ALL, "t"))], true).unwrap();
    assert_eq!(named(sources.policy(), APP, "t").unwrap(), "`q` (10.toml:1)");
    sources.set_files(&[("20.toml", &two)], true).unwrap();
    assert_eq!(named(sources.policy(), APP, "t").unwrap(), "`z` (20.toml:1)");
    let counts = sources.counts();
    assert_eq!((counts.files, counts.cloud, counts.entries), (2, 1, 1));
    assert_eq!(counts.builtin, sources.policy().rules() - 4);
    let order: Vec<_> =
        sources.policy().all_rules().iter().map(|rule| rule.name().source().to_string()).collect();
    assert_eq!((order[0].as_str(), order[1].as_str()), ("20.toml:1", "20.toml:5"));
    assert!(order[2].starts_with("built-in:"));
    assert_eq!(order[order.len() - 2..], ["from the cloud", "registration entry"]);
}

#[test]
fn a_faulty_source_changes_nothing() {
    let mut sources = Sources::default();
    sources.set_files(&[("a.toml", &rule("r", ALL, "t"))], false).unwrap();
    let before = Arc::clone(sources.policy());
    let faulty = rule("s", ALL, "u") + &rule("bad", ALL, "u#");
    let errors = told(sources.set_files(&[("a.toml", &faulty), ("b.toml", "[[rule")], false).unwrap_err());
    assert_eq!(errors.len(), 2);
    assert!(errors[0].starts_with("a.toml:8: rule `bad`: publish: \"u#\":"), "{errors:?}");
    let twice =
        sources.set_files(&[("a.toml", &rule("r", ALL, "t")), ("b.toml", &rule("r", ALL, "t"))], false);
    assert_eq!(
        told(twice.unwrap_err()),
        ["b.toml:1: rule `r`: the name is also used at a.toml:1; give each rule its own"]
    );
    let bad = Rule { name: "c".into(), id: "td".into(), publish: owned(&["t"]), ..Rule::default() };
    assert!(sources.set_cloud(&[bad]).is_err());
    assert_eq!(sources.set_grants(&[grant("e", "+x")], []).len(), 1);
    assert!(Arc::ptr_eq(&before, sources.policy()));
    assert!(named(sources.policy(), APP, "t").is_some());
}

#[test]
fn what_is_no_grant_is_known_before_it_is_one() {
    for filter in ["t", "a/+/#", "plant/{td}/x", "$SYS/#"] {
        assert_eq!(Rule::grant_fault(filter), None, "{filter}");
        assert!(grant("e", filter).check().is_ok(), "{filter}");
    }
    for filter in ["+x", "rec/{name}/x", "a/x{", "}", "$share/g/t"] {
        assert!(Rule::grant_fault(filter).is_some(), "{filter}");
        assert!(grant("e", filter).check().is_err(), "{filter}");
    }
}

#[test]
fn what_did_not_change_touches_nobody() {
    let mut sources = Sources::default();
    let file = rule("r", ALL, "t");
    sources.set_files(&[("a.toml", &file)], false).unwrap();
    let first = Arc::clone(sources.policy());
    sources.set_files(&[("a.toml", &file)], false).unwrap();
    assert_eq!(sources.set_grants(&[], ["none"]), []);
    assert!(Arc::ptr_eq(&first, sources.policy()), "the same again is no change");

    sources.set_files(&[("a.toml", &format!("# A comment.\n{file}"))], false).unwrap();
    assert_eq!(sources.policy().epoch(), first.epoch() + 1);
    assert!(sources.policy().touched_since(&first).is_empty(), "a rule that moved says the same");

    // Past one that stands where it stood.
    let second = rule("s", ALL, "t");
    let (lines, pad) = (file.lines().count(), |count| "#\n".repeat(count));
    sources.set_files(&[("b.toml", &format!("{file}{second}"))], false).unwrap();
    let before = Arc::clone(sources.policy());
    sources.set_files(&[("b.toml", &format!("{}{second}{file}", pad(lines)))], false).unwrap();
    assert!(sources.policy().touched_since(&before).touches(&id(APP)), "another rule comes first");
    sources.set_files(&[("a.toml", &file)], false).unwrap();

    let before = Arc::clone(sources.policy());
    assert_eq!(sources.set_grants(&[grant("e1", "u")], []), []);
    let touched = sources.policy().touched_since(&before);
    assert_eq!(touched.ids().collect::<Vec<_>>(), [&id(APP)]);
    assert!(!touched.has_patterns() && touched.touches(&id(APP)) && !touched.touches(&id("spiffe://td/y")));
    assert!(named(sources.policy(), APP, "u").is_some());
    assert_eq!(sources.set_grants(&[grant("e2", "v"), grant("e1", "#x")], []).len(), 1);
    assert!(
        named(sources.policy(), APP, "u").is_none(),
        "a faulty grant leaves nothing of what was granted before"
    );
    assert!(named(sources.policy(), APP, "v").is_some(), "and the others count");
    assert_eq!(sources.set_grants(&[grant("e1", "u")], []), []);
    assert!(named(sources.policy(), APP, "u").is_some(), "until it is corrected");
    assert_eq!(sources.set_grants(&[], ["e1", "e2"]), []);
    assert!(named(sources.policy(), APP, "u").is_none());
    assert!(sources.policy().touched_since(&before).is_empty());

    sources.set_files(&[("a.toml", &rule("r", "spiffe://td/edge/*/app/*", "t"))], false).unwrap();
    let touched = sources.policy().touched_since(&before);
    assert!(touched.has_patterns() && touched.touches(&id("spiffe://td/other")), "who lost the rule");
    assert!(touched.touches(&id(APP)) && !touched.touches(&id("spiffe://other/app")));
}

#[test]
fn a_rule_that_others_overtake_touches_whom_it_speaks_of() {
    let (one, two) = (rule("one", APP, "t"), rule("two", ALL, "t"));
    let decides = |sources: &Sources| named(sources.policy(), APP, "t").unwrap();
    let mut sources = Sources::default();
    sources.set_files(&[("b.toml", &one), ("c.toml", &two)], false).unwrap();
    let before = Arc::clone(sources.policy());
    assert!(decides(&sources).starts_with("`one`"));

    sources.set_files(&[("c.toml", &two), ("d.toml", &one)], false).unwrap();
    assert!(decides(&sources).starts_with("`two`"));
    assert!(sources.policy().touched_since(&before).touches(&id(APP)), "one file was renamed");

    sources.set_files(&[("c.toml", &format!("{one}{two}"))], false).unwrap();
    let before = Arc::clone(sources.policy());
    sources.set_files(&[("c.toml", &format!("{two}{one}"))], false).unwrap();
    assert!(decides(&sources).starts_with("`two`"));
    assert!(sources.policy().touched_since(&before).touches(&id(APP)), "they changed places");

    let before = Arc::clone(sources.policy());
    sources.set_files(&[("c.toml", &format!("# A comment.\n{two}\n{one}"))], false).unwrap();
    assert!(sources.policy().touched_since(&before).is_empty(), "the order stayed");
}

#[test]
fn the_cloud_cannot_take_the_names_of_others() {
    let mut sources = Sources::default();
    sources.set_files(&[("a.toml", &rule("r", ALL, "t"))], false).unwrap();
    let other = Rule { name: "r".into(), id: ALL.into(), publish: owned(&["u"]), ..Rule::default() };
    let claimed = other.from_source(RuleSource::File { file: "a.toml".into(), line: 1 });
    sources.set_cloud(&[claimed]).unwrap();
    assert_eq!(sources.policy().rules(), 2);
    assert_eq!(named(sources.policy(), APP, "u").unwrap(), "`r` (from the cloud)");
}
