//! What a change of the policy in force is, for the record: names of rules, and access gained and lost.

use crate::compared::Compared;
use crate::diff::{Change, Diff, Kind};
use crate::explore::{Bounds, TooMuch};
use crate::model::Held;
use crate::quotas::QuotaChange;
use midge_identity::SpiffeId;
use midge_policy::{CheckedRule, Policy, Rule};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

/// Most identities that are compared one by one.
const IDS_MAX: usize = 256;

/// Exceptions that are written out.
const EXCEPT_SHOWN: usize = 8;

/// The difference between a policy and the one before it.
#[derive(Clone, Debug, Default)]
pub struct PolicyChange {
    /// Names of rules that have come.
    pub added: Vec<String>,
    /// Names of rules that have gone.
    pub removed: Vec<String>,
    /// Names of rules that are not as they were.
    pub changed: Vec<String>,
    /// What identities gain and lose, kind by kind.
    pub kinds: Vec<Kind>,
    /// Quotas that are not as they were.
    pub quotas: Vec<QuotaChange>,
    /// Why not all of it is told.
    pub untold: Option<Untold>,
}

/// Why a difference is not told in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// More identities are touched than are compared.
    #[error("{0} more identities are touched")]
    Identities(usize),
    /// There is more to look at than is done beside a broker.
    #[error("not compared here, `midge policy diff` does more: {0}")]
    TooMuch(#[from] TooMuch),
}

/// One line of what is gained or lost, as `midge policy diff` writes it.
struct Line<'a>(&'a Kind, &'a Change);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind, change) = self;
        f.write_str(&kind.id)?;
        for (at, except) in kind.except.iter().take(EXCEPT_SHOWN).enumerate() {
            write!(f, "{}{except}", if at == 0 { " except " } else { ", " })?;
        }
        if let Some(more) = kind.except.len().checked_sub(EXCEPT_SHOWN).filter(|more| *more > 0) {
            write!(f, " and {more} more")?;
        }
        write!(f, ": {change}")
    }
}

impl PolicyChange {
    /// Compares two policies. Costs no more than the change where it speaks of single identities, as grants do;
    /// a change of a rule with a pattern is held against all rules, and costs those that share topics and
    /// identities with it.
    pub fn between(before: &Policy, after: &Policy) -> Self {
        let (gone, come) = after.differing(before);
        let (mut gone, mut come) = without_same(gone, come);
        let mut told = Self::names(&gone, &come);
        // Others may give the same quota to the same identities.
        if gone.iter().chain(&come).any(|rule| rule.rule().quota.is_some()) {
            let (old, new) = (before.all_rules().into_iter(), after.all_rules().into_iter());
            told.quotas = QuotaChange::between_rules(old.map(CheckedRule::rule), new.map(CheckedRule::rule));
        }
        let kept = match single(gone.iter().chain(&come).copied()) {
            Some(ids) => {
                told.untold = ids.len().checked_sub(IDS_MAX).filter(|more| *more > 0).map(Untold::Identities);
                let ids: BTreeSet<SpiffeId> = ids.into_iter().take(IDS_MAX).collect();
                let is_looked_at =
                    |rule: &&CheckedRule| rule.id().literal().is_some_and(|id| ids.contains(&id));
                gone.retain(is_looked_at);
                come.retain(is_looked_at);
                ids.iter().flat_map(|id| after.rules_for(id)).collect()
            }
            None => after.all_rules(),
        };
        match Diff::of(&compared(&gone, &come, kept), Bounds::BESIDE) {
            Ok(diff) => told.kinds = diff.kinds(),
            Err(error) => told.untold = Some(error.into()),
        }
        told
    }

    fn names(gone: &[&CheckedRule], come: &[&CheckedRule]) -> Self {
        let names = |rules: &[&CheckedRule]| -> BTreeSet<String> {
            rules.iter().map(|rule| rule.name().text().to_string()).collect()
        };
        let (gone, come) = (names(gone), names(come));
        Self {
            added: come.difference(&gone).cloned().collect(),
            removed: gone.difference(&come).cloned().collect(),
            changed: gone.intersection(&come).cloned().collect(),
            ..Self::default()
        }
    }

    /// Returns what is gained, or what is lost, a line for each set of topics.
    pub fn lines(&self, gained: bool) -> impl Iterator<Item = String> {
        let changes =
            self.kinds.iter().flat_map(|kind| kind.changes.iter().map(move |change| (kind, change)));
        changes
            .filter(move |(_, change)| change.gained == gained)
            .map(|(kind, change)| Line(kind, change).to_string())
            .chain(self.quota_lines(gained))
    }

    /// A higher quota is a gain.
    fn quota_lines(&self, gained: bool) -> impl Iterator<Item = String> {
        let quotas = self.quotas.iter().filter(move |change| change.raises() == gained);
        quotas.map(|change| format!("{}, rule `{}`", change.whole(), change.rule))
    }
}

type Rules<'a> = Vec<&'a CheckedRule>;

/// Leaves out rules that only stand at another place.
fn without_same<'a>(gone: Rules<'a>, come: Rules<'a>) -> (Rules<'a>, Rules<'a>) {
    let by_name = |rules: &Rules<'a>| -> BTreeMap<String, Rules<'a>> {
        let mut found: BTreeMap<String, Rules<'a>> = BTreeMap::new();
        for rule in rules {
            found.entry(rule.name().text().to_string()).or_default().push(rule);
        }
        found
    };
    let (old, new) = (by_name(&gone), by_name(&come));
    let differs = |rule: &CheckedRule, others: &BTreeMap<String, Rules<'a>>| {
        let others = others.get(&**rule.name().text());
        !others.into_iter().flatten().any(|other| other.means_same_as(rule))
    };
    (
        gone.into_iter().filter(|rule| differs(rule, &new)).collect(),
        come.into_iter().filter(|rule| differs(rule, &old)).collect(),
    )
}

/// Returns the identities that rules speak of, if none of them has a pattern.
fn single<'a>(rules: impl Iterator<Item = &'a CheckedRule>) -> Option<BTreeSet<SpiffeId>> {
    rules.map(|rule| rule.id().literal()).collect()
}

fn compared(gone: &Rules<'_>, come: &Rules<'_>, mut kept: Rules<'_>) -> Compared {
    let hold = |rule: &CheckedRule| Arc::new(Held::new(rule.rule().clone(), rule.clone()));
    let held = |rules: &Rules<'_>| rules.iter().map(|rule| hold(rule)).collect();
    // Values are compared by where they are: the same rule twice is one, and what has come is no other.
    let mut seen: HashSet<*const Rule> = come.iter().map(|rule| std::ptr::from_ref(rule.rule())).collect();
    kept.retain(|rule| seen.insert(std::ptr::from_ref(rule.rule())));
    Compared::new(held(gone), held(come), kept, |rule| rule.rule(), hold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{Quota, Rule};

    fn rule(name: &str, id: &str, publish: &[&str]) -> Rule {
        let publish = publish.iter().map(|topic| (*topic).to_owned()).collect();
        Rule { name: name.into(), id: id.into(), publish, ..Rule::default() }
    }

    fn policy(rules: &[Rule]) -> Policy {
        Policy::compile(rules.to_vec(), 1).unwrap()
    }

    fn told(change: &PolicyChange) -> (Vec<String>, Vec<String>) {
        (change.lines(true).collect(), change.lines(false).collect())
    }

    #[test]
    fn a_change_of_grants_is_told_by_identity_whatever_others_there_are() {
        let mut rules: Vec<Rule> =
            (0..500).map(|n| rule(&format!("r{n}"), &format!("spiffe://td/{n}"), &["a", "b"])).collect();
        let before = policy(&rules);
        rules[7].publish = vec!["b".into(), "c".into()];
        rules.remove(3);
        rules.push(rule("new", "spiffe://td/new", &["x/#"]));
        let change = PolicyChange::between(&before, &policy(&rules));
        let names = [change.added.clone(), change.removed.clone(), change.changed.clone()];
        // Every rule was read anew; which of them say the same is found out.
        assert_eq!(names, [["new"], ["r3"], ["r7"]]);
        assert_eq!(
            told(&change),
            (
                vec!["spiffe://td/7: publish c".into(), "spiffe://td/new: publish x/#".into()],
                vec![
                    "spiffe://td/3: publish a".into(),
                    "spiffe://td/3: publish b".into(),
                    "spiffe://td/7: publish a".into()
                ]
            )
        );
        assert_eq!(change.untold, None);
    }

    #[test]
    fn what_a_pattern_gives_anyway_is_no_gain_of_a_grant() {
        let all = rule("all", "spiffe://td/*", &["a/#"]);
        let (one, two) =
            (policy(std::slice::from_ref(&all)), policy(&[all, rule("g", "spiffe://td/x", &["a/1"])]));
        let change = PolicyChange::between(&one, &two);
        assert_eq!((change.added.len(), told(&change)), (1, (vec![], vec![])));
    }

    #[test]
    fn a_change_of_patterns_is_told_by_kind() {
        let one = policy(&[rule("all", "spiffe://td/{x}", &["a/{x}"]), rule("g", "spiffe://td/y", &["a/+"])]);
        let two =
            policy(&[rule("all", "spiffe://td/{x}", &["a/{x}/1"]), rule("g", "spiffe://td/y", &["a/+"])]);
        let change = PolicyChange::between(&one, &two);
        let (gained, lost) = told(&change);
        assert_eq!(
            gained,
            ["spiffe://td/y: publish a/y/1", "spiffe://td/{x} except spiffe://td/y: publish a/{x}/1"]
        );
        assert_eq!(lost, ["spiffe://td/{x} except spiffe://td/y: publish a/{x}"]);
    }

    #[test]
    fn a_change_of_a_quota_is_told_with_its_rule() {
        let limited = |name: &str, max: u32| Rule {
            quota: Some(Quota { sessions: Some(max), ..Quota::default() }),
            ..rule(name, "spiffe://td/app/*", &["t"])
        };
        let told = |old: &[Rule], new: &[Rule]| told(&PolicyChange::between(&policy(old), &policy(new)));
        let raised = vec!["spiffe://td/app/*: quota sessions = 3 (was 2), rule `a`".to_owned()];
        assert_eq!(told(&[limited("a", 2)], &[limited("a", 3)]), (raised, vec![]));
        let lowered = vec!["spiffe://td/app/*: quota sessions = 1 (was 2), rule `b`".to_owned()];
        assert_eq!(told(&[limited("a", 2)], &[limited("a", 2), limited("b", 1)]), (vec![], lowered));
        // Another rule gives the same.
        assert_eq!(told(&[limited("a", 2), limited("b", 2)], &[limited("b", 2)]), (vec![], vec![]));
    }

    #[test]
    fn what_is_too_much_to_compare_is_said() {
        let rules: Vec<Rule> =
            (0..IDS_MAX + 3).map(|n| rule(&format!("r{n}"), &format!("spiffe://td/{n}"), &["a"])).collect();
        let change = PolicyChange::between(&Policy::deny_all(), &policy(&rules));
        assert_eq!((change.kinds.len(), change.untold), (IDS_MAX, Some(Untold::Identities(3))));
        let count = 110;
        let both = |n: usize| [format!("spiffe://*/a{n}/*"), format!("spiffe://*/*/b{n}")];
        let crossed = (0..count).flat_map(both).enumerate();
        let crossed: Vec<Rule> =
            crossed.map(|(n, id)| rule(&format!("r{n}"), &id, &[&format!("t/{n}")])).collect();
        let change = PolicyChange::between(&Policy::deny_all(), &policy(&crossed));
        let untold = Some(Untold::TooMuch(TooMuch::Kinds(Bounds::BESIDE.kinds)));
        assert_eq!((change.kinds.len(), change.untold), (0, untold));
        assert_eq!(change.added.len(), 2 * count, "names are told all the same");
        let half = |publish: &str| {
            let boxes = (0..400).map(|n| (format!("spiffe://td/{n}/*"), format!("b/{n}/{publish}")));
            let whole = (0..400).map(|n| ("spiffe://td/*/*".to_owned(), format!("t/{n}/{publish}")));
            let rules = boxes.chain(whole).enumerate();
            policy(&rules.map(|(n, (id, topic))| rule(&format!("r{n}"), &id, &[&topic])).collect::<Vec<_>>())
        };
        let untold = Some(Untold::TooMuch(TooMuch::Changes(50_000)));
        let change = PolicyChange::between(&half("up"), &half("down"));
        assert_eq!((change.changed.len(), change.untold), (800, untold), "400 changes for each of 400 kinds");
        let all = |(n, topic): (usize, String)| rule(&format!("r{n}"), "spiffe://td/**", &[&topic]);
        let before = policy(&(0..320).map(|n| all((n, format!("t{n}/+")))).collect::<Vec<_>>());
        let after = policy(&(0..320).map(|n| all((n, format!("+/t{n}")))).collect::<Vec<_>>());
        let untold = Some(Untold::TooMuch(TooMuch::Steps(Bounds::BESIDE.steps)));
        assert_eq!(PolicyChange::between(&before, &after).untold, untold, "each is an exception of each");
    }
}
