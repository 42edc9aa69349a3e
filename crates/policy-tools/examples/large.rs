//! What comparing and checking large policies costs, and what a shadow and an observer cost a decision:
//! `cargo run --release -p midge-policy-tools --example large [RULES]`.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement")]

use midge_identity::SpiffeId;
use midge_policy::{Context, DEFAULT_POLICY, DEFAULT_POLICY_NAME, PublishFacts, Question, Rule};
use midge_policy_tools::{Asker, Diff, Observer, PolicyChange, Ruleset, Shadow, check};
use mqtt_proto::TopicName;
use std::sync::Arc;
use std::time::Instant;

const OPERATORS: &str = r#"
[[rule]]
name = "ops-read"
id = "spiffe://plant.example/ops/**"
subscribe = ["line/#"]
deny-receive = ["line/+/debug/#"]

[[rule]]
name = "apps"
id = "spiffe://{td}/edge/{node}/app/{app}"
publish = ["up/{node}/{app}/#"]
subscribe = ["down/{node}/{app}/#"]
qos-max = 1
"#;

fn rule(n: usize, id: &str, publish: &str) -> Rule {
    Rule {
        name: format!("rule-{n}"),
        id: id.into(),
        publish: vec![publish.into()],
        subscribe: vec![format!("shop/{n}/command/#")],
        ..Rule::default()
    }
}

/// Rules for one identity each.
fn literal(count: usize, publish: &str) -> Vec<Rule> {
    let one = |n| {
        let id = format!("spiffe://plant.example/edge/box-{}/app/shop-{n}", n % 50);
        rule(n, &id, &format!("shop/{n}/{publish}"))
    };
    (0..count).map(one).collect()
}

/// Rules for one box each: their ids tell as many kinds of identities apart.
fn boxes(count: usize, publish: &str) -> Vec<Rule> {
    let one = |n| rule(n, &format!("spiffe://*/edge/box-{n}/app/*"), &format!("shop/{n}/{publish}"));
    (0..count).map(one).collect()
}

/// Rules that cross those of [`boxes`]: each pair is a kind of its own.
fn shops(count: usize, publish: &str) -> Vec<Rule> {
    let one = |n| {
        let id = format!("spiffe://*/edge/*/app/shop-{n}");
        Rule { name: format!("cross-{n}"), ..rule(n, &id, &format!("shop/{n}/{publish}")) }
    };
    (0..count).map(one).collect()
}

/// Rules for everyone.
fn alike(count: usize, publish: &str) -> Vec<Rule> {
    same(count, "spiffe://*/edge/*/app/*", publish)
}

/// Rules for the same identities.
fn same(count: usize, id: &str, publish: &str) -> Vec<Rule> {
    (0..count).map(|n| rule(n, id, &format!("shop/{n}/{publish}"))).collect()
}

/// Rules for everyone that stand apart by their conditions.
fn limited(count: usize, publish: &str) -> Vec<Rule> {
    let limit = |(n, rule): (usize, Rule)| {
        let group = Some(vec![format!("g{n}")]);
        let client_id = vec![format!("client-{n}")];
        let payload_max = u32::try_from(n).ok();
        match n % 3 {
            0 => Rule { payload_max, ..rule },
            1 => Rule { share_groups: group, ..rule },
            _ => Rule { client_id, ..rule },
        }
    };
    alike(count, publish).into_iter().enumerate().map(limit).collect()
}

/// Changes ten of them.
fn ten(mut rules: Vec<Rule>) -> Vec<Rule> {
    let step = rules.len() / 10;
    rules.iter_mut().step_by(step).for_each(|rule| rule.publish.push("more/#".into()));
    rules
}

/// Compares policies of which all rules speak of the same identities.
fn compare_alike(count: usize) {
    let alike = |publish| alike(count, publish);
    let old = set(alike("up"), OPERATORS);
    compare("rules that all speak of the same: ten change", &old, &set(ten(alike("up")), OPERATORS));
    compare("rules that all speak of the same: all change", &old, &set(alike("down"), OPERATORS));
    record("the same for the record", &old, &set(alike("down"), OPERATORS));
    compare("rules that all speak of the same: all come", &set(Vec::new(), OPERATORS), &old);
    let wide = |effect: &str| {
        format!("{OPERATORS}\n[[rule]]\nname = \"wide\"\nid = \"spiffe://*/**\"\n{effect} = [\"shop/#\"]\n")
    };
    for effect in ["publish", "deny-publish"] {
        let with = wide(effect);
        let what = format!("the same, and {effect} shop/#");
        compare(&format!("{what} comes"), &old, &set(alike("up"), &with));
        compare(
            &format!("{what} goes, and all others change"),
            &set(alike("up"), &with),
            &set(alike("down"), OPERATORS),
        );
        compare(
            &format!("{what} stays, and all others change"),
            &set(alike("up"), &with),
            &set(alike("down"), &with),
        );
    }
    let one = |publish| same(count, "spiffe://plant.example/edge/box/app/shop", publish);
    let old = set(one("up"), OPERATORS);
    compare("rules for one identity: ten change", &old, &set(ten(one("up")), OPERATORS));
    compare("rules for one identity: all change", &old, &set(one("down"), OPERATORS));
    let own = |publish: &str| same(count, "spiffe://{td}/edge/{node}/app/{app}", publish);
    let node = |publish: &str| own(&format!("{{node}}/{publish}"));
    compare("rules with a capture: all change", &set(node("up"), OPERATORS), &set(node("down"), OPERATORS));
    let limited = |publish| limited(count, publish);
    let old = set(limited("up"), OPERATORS);
    compare("rules with conditions: ten change", &old, &set(ten(limited("up")), OPERATORS));
    compare("rules with conditions: all change", &old, &set(limited("down"), OPERATORS));
    let mixed = |publish| {
        set(
            [same(count / 2, "spiffe://*/edge/*/app/*", publish), boxes(count, publish).split_off(count / 2)]
                .concat(),
            OPERATORS,
        )
    };
    compare("half for all and half for a box: all change", &mixed("up"), &mixed("down"));
}

fn set(rules: Vec<Rule>, more: &str) -> Ruleset {
    let mut all = Rule::from_toml_str(DEFAULT_POLICY, DEFAULT_POLICY_NAME).unwrap();
    all.extend(Rule::from_toml_str(more, "operators.toml").unwrap());
    all.extend(rules);
    Ruleset::new(all).unwrap()
}

/// Time of this thread on a processor, which says the same beside other load.
struct Cpu(u64);

impl Cpu {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Self(text.split(' ').next().unwrap().parse().unwrap())
    }

    fn millis(&self) -> u64 {
        (Self::now().0 - self.0) / 1_000_000
    }
}

fn compare(what: &str, old: &Ruleset, new: &Ruleset) {
    let start = Cpu::now();
    let kinds = Diff::between(old, new).map(|diff| diff.kinds().len());
    println!("{what:56} {:>8} ms  {kinds:?}", start.millis());
}

fn record(what: &str, old: &Ruleset, new: &Ruleset) {
    let start = Cpu::now();
    let change = PolicyChange::between(old.policy(), new.policy());
    let untold = change.untold.map(|untold| untold.to_string());
    println!("{what:56} {:>8} ms  {} {untold:?}", start.millis(), change.kinds.len());
}

/// Best mean time of a publication that is seen again and again, of 1,000 identities in turn.
fn watch(what: &str, active: &Ruleset, mut see: impl FnMut(&Asker<'_>, &Question<'_>)) {
    let one = |n: usize| {
        let id = SpiffeId::new(format!("spiffe://plant.example/edge/box-{}/app/shop-{n}", n % 50)).unwrap();
        (active.policy().rights(&id), id, TopicName::new(format!("shop/{n}/up")).unwrap())
    };
    let asked: Vec<_> = (0..1_000).map(one).collect();
    let mut round = || {
        let start = Instant::now();
        for (rights, id, topic) in &asked {
            let asker = Asker { id, context: Context::default(), active: rights };
            see(&asker, &Question::Publish { topic, facts: PublishFacts::default() });
        }
        start.elapsed() / 1_000
    };
    let best = (0..200).map(|_| round()).min().unwrap();
    println!("{what:56} {:>8} ns", best.as_nanos());
}

fn main() {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    println!("{count} rules");
    let start = Cpu::now();
    let old = set(literal(count, "up"), OPERATORS);
    println!("{:56} {:>8} ms", "read", start.millis());
    let mut changed = literal(count, "up");
    changed.iter_mut().step_by(count / 10).for_each(|rule| rule.publish.push("more/#".into()));
    compare("literal ids: ten rules change", &old, &set(changed, OPERATORS));
    compare("literal ids: all rules change", &old, &set(literal(count, "down"), OPERATORS));
    compare("literal ids: all rules come", &set(Vec::new(), OPERATORS), &old);
    let same = Arc::clone(old.policy());
    let mut shadow = Shadow::new(same, 8);
    watch("a decision beside a candidate that agrees", &old, |asker, question| {
        shadow.see(asker, question, true);
    });
    let mut shadow = Shadow::new(Arc::clone(set(literal(count, "down"), "").policy()), 8);
    watch("a decision beside a candidate that differs", &old, |asker, question| {
        shadow.see(asker, question, true);
    });
    let mut observer = Observer::new(16 * 1024 * 1024);
    watch("a decision that is observed", &old, |asker, question| {
        observer.see(asker.id, asker.active, question)
    });
    let wider = OPERATORS.replace("up/{node}/{app}/#", "up/{node}/#");
    compare("literal ids: a pattern changes that speaks of all", &old, &set(literal(count, "up"), &wider));
    let denied =
        format!("{OPERATORS}\n[[rule]]\nname = \"no\"\nid = \"spiffe://*/**\"\ndeny-publish = [\"x\"]\n");
    compare("literal ids: a deny for all that meets nothing", &old, &set(literal(count, "up"), &denied));
    let (old, new) = (set(boxes(count, "up"), OPERATORS), set(boxes(count, "down"), OPERATORS));
    compare("a literal segment: all rules change", &old, &new);
    let mut changed = boxes(count, "up");
    changed.iter_mut().step_by(count / 10).for_each(|rule| rule.publish.push("more/#".into()));
    compare("a literal segment: ten rules change", &old, &set(changed, OPERATORS));
    let same = Ruleset::of(old.policy().all_rules().into_iter().cloned());
    compare("a literal segment: no rule changes", &old, &same);
    compare(
        "a literal segment: a pattern changes that speaks of all",
        &old,
        &set(boxes(count, "up"), &wider),
    );
    compare("a literal segment: a deny for all that meets nothing", &old, &set(boxes(count, "up"), &denied));
    let denied = denied.replace("\"x\"", "\"shop/#\"");
    compare("a literal segment: a deny for all that meets all", &old, &set(boxes(count, "up"), &denied));
    record("the same for the record", &old, &set(boxes(count, "up"), &denied));
    let mut changed = boxes(count, "up");
    changed.iter_mut().step_by(count / 10).for_each(|rule| rule.publish.push("more/#".into()));
    record("the record: ten rules with a literal segment change", &old, &set(changed, OPERATORS));
    record("the record: all of them change", &old, &new);
    let crossed = |publish| set([boxes(count / 2, publish), shops(count / 2, publish)].concat(), OPERATORS);
    compare("two literal segments that cross: all rules change", &crossed("up"), &crossed("down"));
    record("the same for the record", &crossed("up"), &crossed("down"));
    compare_alike(count);
    for (what, rules) in [
        ("check: literal ids", set(literal(count, "up"), OPERATORS)),
        ("check: a literal segment", set(boxes(count, "up"), OPERATORS)),
        ("check: rules that all speak of the same", set(alike(count, "up"), OPERATORS)),
        ("check: the same, and one for all their topics", set(alike(count, "up"), &denied)),
    ] {
        let start = Cpu::now();
        let findings = check(&rules).map(|findings| findings.len());
        println!("{what:56} {:>8} ms  {findings:?}", start.millis());
    }
}
