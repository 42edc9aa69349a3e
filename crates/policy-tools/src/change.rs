//! What a change of the policy in force is, for the record: names of rules, and access gained and lost.

use crate::cell::TooManyKinds;
use crate::diff::{Change, Diff, Kind};
use crate::model::Ruleset;
use midge_identity::SpiffeId;
use midge_policy::{CheckedRule, Policy};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Most rules of both policies together that are compared where one of the changed ones has a pattern.
const RULES_MAX: usize = 20_000;

/// Most of them that have a pattern: each may tell other kinds of identities apart.
const PATTERNS_MAX: usize = 1_000;

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
    /// Why not all of it is told.
    pub untold: Option<Untold>,
}

/// Why a difference is not told in full.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// There are more rules than are compared.
    #[error("not compared: there are {0} rules; `midge policy diff` has no such bound")]
    Rules(usize),
    /// There are more rules with patterns than are compared.
    #[error("not compared: there are {0} rules with patterns; `midge policy diff` has no such bound")]
    Patterns(usize),
    /// More identities are touched than are compared.
    #[error("{0} more identities are touched")]
    Identities(usize),
    /// There are too many kinds of identities.
    #[error("not compared: {0}")]
    Kinds(#[from] TooManyKinds),
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
    /// a change of a rule with a pattern costs all rules, up to a bound.
    pub fn between(before: &Policy, after: &Policy) -> Self {
        let (gone, come) = after.differing(before);
        let mut told = Self::names(&gone, &come);
        let (gone, come) = without_same(gone, come);
        let compared = match single(gone.iter().chain(&come).copied()) {
            Some(ids) => {
                told.untold = ids.len().checked_sub(IDS_MAX).filter(|more| *more > 0).map(Untold::Identities);
                by_identity(before, after, ids.into_iter().take(IDS_MAX))
            }
            None => match too_many(before, after) {
                Some(untold) => {
                    told.untold = Some(untold);
                    Ok(Vec::new())
                }
                None => all(before, after),
            },
        };
        match compared {
            Ok(kinds) => told.kinds = kinds,
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

/// Tells why two policies are not compared as wholes.
fn too_many(before: &Policy, after: &Policy) -> Option<Untold> {
    let all = before.rules() + after.rules();
    if all > RULES_MAX {
        return Some(Untold::Rules(all));
    }
    let of = |policy: &Policy| policy.all_rules().iter().filter(|rule| rule.id().literal().is_none()).count();
    let patterns = of(before) + of(after);
    (patterns > PATTERNS_MAX).then_some(Untold::Patterns(patterns))
}

fn by_identity(
    before: &Policy,
    after: &Policy,
    ids: impl Iterator<Item = SpiffeId>,
) -> Result<Vec<Kind>, TooManyKinds> {
    let mut kinds = Vec::new();
    for id in ids {
        let of = |policy: &Policy| Ruleset::of(policy.rules_for(&id).into_iter().cloned());
        kinds.extend(Diff::between(&of(before), &of(after))?.kinds());
    }
    Ok(kinds)
}

fn all(before: &Policy, after: &Policy) -> Result<Vec<Kind>, TooManyKinds> {
    let of = |policy: &Policy| Ruleset::of(policy.all_rules().into_iter().cloned());
    Ok(Diff::between(&of(before), &of(after))?.kinds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::Rule;

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
        let names = (change.added.clone(), change.removed.clone(), change.changed.clone());
        // Every rule was read anew; which of them say the same is found out.
        assert_eq!((names.0, names.1, names.2.len()), (vec!["new".into()], vec!["r3".into()], 499));
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
    fn what_is_too_much_to_compare_is_said() {
        let rules: Vec<Rule> =
            (0..IDS_MAX + 3).map(|n| rule(&format!("r{n}"), &format!("spiffe://td/{n}"), &["a"])).collect();
        let change = PolicyChange::between(&Policy::deny_all(), &policy(&rules));
        assert_eq!((change.kinds.len(), change.untold), (IDS_MAX, Some(Untold::Identities(3))));
        let patterns = (0..=PATTERNS_MAX).map(|n| rule(&format!("r{n}"), &format!("spiffe://*/{n}"), &["a"]));
        let change = PolicyChange::between(&Policy::deny_all(), &policy(&patterns.collect::<Vec<_>>()));
        assert_eq!((change.kinds.len(), change.untold), (0, Some(Untold::Patterns(PATTERNS_MAX + 1))));
        assert_eq!(change.added.len(), PATTERNS_MAX + 1, "names are told all the same");
    }
}
