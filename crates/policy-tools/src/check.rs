//! What is wrong or idle in a policy though every rule of it is well formed.

use crate::access::{Access, Side};
use crate::cell::{Cell, Question};
use crate::diff::Diff;
use crate::explore::{Bounds, Left, Stop, TooMuch, explore};
use crate::model::{Held, Pattern, Ruleset};
use crate::near::Filters;
use crate::overlap::{Overlaps, levels};
use crate::quotas::{QuotaChange, Quotas};
use crate::topics::Topics;
use crate::tree::Leaf;
use midge_identity::SpiffeId;
use midge_policy::Effect;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The policy does not do what it says.
    Warning,
    /// Something could be said in a shorter or clearer way, or guards against what is not there.
    Note,
}

/// Something to correct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Kind of the finding, for programs.
    pub code: &'static str,
    /// Name of the rule.
    pub rule: String,
    /// Where the rule stands.
    pub place: String,
    /// What is found.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Finds what rules do not do.
///
/// # Errors
/// When there is too much to look at for an exact answer.
pub fn check(rules: &Ruleset) -> Result<Vec<Finding>, TooMuch> {
    check_within(rules, Bounds::AT_HAND)
}

/// Does the same beside a broker, where it may cost about a second of one processor.
///
/// # Errors
/// When there is too much to look at for that.
pub fn check_beside(rules: &Ruleset) -> Result<Vec<Finding>, TooMuch> {
    check_within(rules, Bounds::BESIDE)
}

fn check_within(rules: &Ruleset, bounds: Bounds) -> Result<Vec<Finding>, TooMuch> {
    let mut findings = Vec::new();
    let mut said: HashMap<String, &Arc<Held>> = HashMap::new();
    let (others, quotas) = (Others::of(rules), Quotas::of(rules));
    let mut left = Left::of(bounds);
    for held in rules.held() {
        left.begin();
        if speaks_of_nobody(held, &mut left)? {
            findings.push(finding(
                held,
                Severity::Warning,
                "no-identity",
                (
                    "no identity is one of `id` that is not one of `unless`".into(),
                    "correct `unless`, or remove the rule",
                ),
            ));
            continue;
        }
        let meaning = held.meaning();
        if let Some(earlier) = said.get(&meaning) {
            findings.push(finding(
                held,
                Severity::Warning,
                "same-as",
                (format!("says the same as {}", earlier.checked.name()), "remove one of them"),
            ));
            continue;
        }
        said.insert(meaning, held);
        client_ids(held, &mut findings);
        findings.extend(quotas.hidden(held, &mut left)?);
        patterns(&alive(&others, held, &mut left)?, held, &mut findings);
    }
    Ok(findings)
}

/// Finds what a policy grants beyond a reference.
///
/// # Errors
/// When there is too much to look at for an exact answer.
pub fn check_against(rules: &Ruleset, reference: &Ruleset) -> Result<Vec<Finding>, TooMuch> {
    let mut findings = Vec::new();
    for kind in Diff::between(reference, rules)?.kinds() {
        let except = if kind.except.is_empty() {
            String::new()
        } else {
            format!(" except {}", kind.except.join(", "))
        };
        for change in kind.changes.iter().filter(|change| change.gained) {
            let blamed = SpiffeId::new(&kind.example).ok().and_then(|id| {
                let wanted = crate::Request::new(change.access.verb(), &change.example).ok()?;
                let rights = crate::Explanation::of(rules, &id, &wanted);
                let allowing = |said: &crate::Said| !said.list.starts_with("deny");
                let by = rights.considered.into_iter().find(|rule| rule.patterns.iter().any(allowing))?;
                Some((by.rule, by.place))
            });
            let (rule, place) = blamed.unwrap_or_default();
            findings.push(Finding {
                severity: Severity::Warning,
                code: "wider-than-reference",
                rule,
                place,
                message: format!(
                    "{}{except} may {change}, such as {} by {}",
                    kind.id, change.example, kind.example
                ),
                remedy: "narrow the rule, or widen the reference if this is wanted".into(),
            });
        }
    }
    findings.extend(raised(rules, reference)?);
    Ok(findings)
}

/// Finds quotas that let identities keep more than a reference does.
fn raised(rules: &Ruleset, reference: &Ruleset) -> Result<Vec<Finding>, TooMuch> {
    let (quotas, mut left) = (Quotas::of(rules), Left::of(Bounds::AT_HAND));
    let mut findings = Vec::new();
    for change in QuotaChange::between(reference, rules).into_iter().filter(QuotaChange::raises) {
        if quotas.still_hold(&change, &mut left)? {
            continue;
        }
        let mut said = rules.rules().chain(reference.rules());
        let place = said.find(|rule| rule.name == change.rule).map(|rule| rule.source.to_string());
        findings.push(Finding {
            severity: Severity::Warning,
            code: "quota-above-reference",
            place: place.unwrap_or_default(),
            message: change.whole(),
            remedy: "lower the quota, or raise the reference if this is wanted".into(),
            rule: change.rule,
        });
    }
    Ok(findings)
}

pub(crate) fn finding(
    held: &Held,
    severity: Severity,
    code: &'static str,
    (message, remedy): (String, &str),
) -> Finding {
    Finding {
        severity,
        code,
        rule: held.rule.name.clone(),
        place: held.rule.source.to_string(),
        message,
        remedy: remedy.to_owned(),
    }
}

fn speaks_of_nobody(held: &Arc<Held>, left: &mut Left) -> Result<bool, TooMuch> {
    let tree = explore(Cell::all(), (&[held], 0), left, |_, found, _| Ok(!found.is_empty()))?;
    let too_long = || SpiffeId::new(held.rule.id.replace("/**", "").replace(['*', '{', '}'], "")).is_err();
    let someone = tree.leaves().contains(&&true);
    Ok(!someone || (held.rule.id.len() > 2_000 && too_long()))
}

/// An open client id ends wherever the client likes: what follows the capture may be empty, or more of a name.
fn client_ids(held: &Held, findings: &mut Vec<Finding>) {
    for pattern in &held.rule.client_id {
        if pattern.ends_with("}*") {
            findings.push(finding(
                held,
                Severity::Warning,
                "open-client-id",
                (
                    format!(
                        "client-id = \"{pattern}\": the rest may be empty, and it also matches longer names"
                    ),
                    "put a separator between the capture and *, such as {name}-*, or leave * away",
                ),
            ));
        }
    }
}

/// What was found of the patterns of one rule, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Alive {
    /// An allow that is not denied altogether, or a deny that denies something allowed.
    bites: Vec<bool>,
    /// An allow that other rules do not give anyway.
    adds: Vec<bool>,
}

impl Leaf for Alive {
    fn replace(&self, _part: usize, _by: &crate::cell::Term) -> Self {
        self.clone()
    }

    fn mentions(&self, _part: usize) -> bool {
        false
    }
}

impl Alive {
    /// Tells whether nothing can be added.
    fn is_known(&self, held: &Held) -> bool {
        let bites = self.bites.len() == held.patterns.len() && self.bites.iter().all(|bit| *bit);
        let adds =
            held.patterns.iter().zip(&self.adds).all(|(pattern, adds)| *adds || pattern.effect.is_deny());
        bites && adds
    }

    fn join(&mut self, other: &Self) {
        for (known, more) in [(&mut self.bites, &other.bites), (&mut self.adds, &other.adds)] {
            known.resize(known.len().max(more.len()), false);
            known.iter_mut().zip(more).for_each(|(known, more)| *known |= more);
        }
    }
}

fn patterns(alive: &Alive, held: &Held, findings: &mut Vec<Finding>) {
    let is_set = |bits: &[bool], at: usize| bits.get(at).copied().unwrap_or_default();
    for (at, pattern) in held.patterns.iter().enumerate() {
        let text = &pattern.text;
        let key = pattern.effect.key();
        if !is_set(&alive.bites, at) {
            findings.push(if pattern.effect.is_deny() {
                finding(held, Severity::Note, "idle-deny", (
                    format!("{key} \"{text}\" denies nothing: no rule here allows any of it to these identities"),
                    "keep it as a guard against grants to come, or remove it",
                ))
            } else {
                finding(held, Severity::Warning, "unreachable", (
                    format!("{key} \"{text}\" allows nothing: all of it is denied to all of these identities"),
                    "remove it, or narrow the deny",
                ))
            });
        } else if !pattern.effect.is_deny() && !is_set(&alive.adds, at) {
            findings.push(finding(
                held,
                Severity::Note,
                "redundant",
                (
                    format!("{key} \"{text}\" allows nothing that is not allowed to these identities anyway"),
                    "remove it, or narrow the rule that makes it needless",
                ),
            ));
        }
    }
}

/// An identity, with the rules that speak of it alone.
type Point<'a> = (&'a SpiffeId, Vec<&'a Arc<Held>>);

/// Where to look for the rules that bear on one.
struct Others<'a> {
    rules: &'a Ruleset,
    /// Places of rules with patterns, by their topics.
    topics: Overlaps<usize>,
    /// Identities that have rules of their own, or that an `unless` names in full.
    points: Vec<&'a SpiffeId>,
    /// Their places by themselves.
    places: Overlaps<usize>,
    excepted: HashSet<SpiffeId>,
}

impl<'a> Others<'a> {
    fn of(rules: &'a Ruleset) -> Self {
        let (mut topics, mut places) = (Overlaps::default(), Overlaps::default());
        for (at, held) in rules.patterns().iter().enumerate() {
            held.patterns.iter().for_each(|pattern| topics.insert(&levels(&pattern.text), at));
        }
        let points: Vec<&SpiffeId> = rules.points().collect();
        points.iter().enumerate().for_each(|(at, id)| places.insert(&levels(&id.to_string()), at));
        let excepted = rules.held().iter().flat_map(|held| held.excepts()).collect();
        Self { rules, topics, points, places, excepted }
    }

    /// Returns the rules with patterns that share topics and identities with one: no other can do anything
    /// to what it says.
    fn related(&self, held: &Held, left: &mut Left) -> Result<Vec<&'a Arc<Held>>, TooMuch> {
        let mut found = BTreeSet::new();
        for pattern in &held.patterns {
            let (places, steps) = self.topics.of(&levels(&pattern.text));
            left.take_steps(steps)?;
            found.extend(places);
        }
        let mut whom = Overlaps::default();
        whom.insert(&levels(&held.rule.id), ());
        let rules = found.into_iter().filter_map(|at| self.rules.patterns().get(at));
        Ok(rules.filter(|other| whom.any(&levels(&other.rule.id))).collect())
    }

    /// Returns the identities that the rule may speak of and for which there is more to look at than for all,
    /// with the rules that speak of them alone.
    fn points(&self, held: &Held, left: &mut Left) -> Result<Vec<Point<'a>>, TooMuch> {
        let topics = topics_of(held);
        let (places, steps) = self.places.of(&levels(&held.rule.id));
        left.take_steps(steps)?;
        let ids = places.into_iter().filter_map(|at| self.points.get(at));
        let with_own = ids.map(|id| {
            let own = self.rules.own(id).iter().filter(|other| shares(&topics, other));
            (*id, own.collect::<Vec<_>>())
        });
        Ok(with_own.filter(|(id, own)| !own.is_empty() || self.excepted.contains(*id)).collect())
    }
}

fn topics_of(held: &Held) -> Overlaps<()> {
    let mut topics = Overlaps::default();
    held.patterns.iter().for_each(|pattern| topics.insert(&levels(&pattern.text), ()));
    topics
}

fn shares(topics: &Overlaps<()>, other: &Held) -> bool {
    other.patterns.iter().any(|pattern| topics.any(&levels(&pattern.text)))
}

fn alive(others: &Others<'_>, held: &Arc<Held>, left: &mut Left) -> Result<Alive, TooMuch> {
    let related = others.related(held, left)?;
    let mut alive = Alive::default();
    if held.only().is_none() {
        alive = look(held, Cell::all(), &related, left)?;
    }
    if alive.is_known(held) {
        return Ok(alive);
    }
    for (id, own) in others.points(held, left)? {
        if alive.is_known(held) {
            break;
        }
        left.begin();
        let rules: Vec<&Arc<Held>> = own.into_iter().chain(related.iter().copied()).collect();
        alive.join(&look(held, Cell::of(id), &rules, left)?);
    }
    Ok(alive)
}

/// Looks at the patterns of a rule for the identities of a cell that it speaks of.
fn look(held: &Arc<Held>, cell: Cell, others: &[&Arc<Held>], left: &mut Left) -> Result<Alive, TooMuch> {
    let rules: Vec<&Arc<Held>> = std::iter::once(held)
        .chain(others.iter().copied().filter(|other| !Arc::ptr_eq(other, held)))
        .collect();
    let mut alive = Alive::default();
    let tree = explore(cell, (&rules, 1), left, |cell, found, left| {
        let others: Vec<&Arc<Held>> =
            found.iter().filter(|at| **at > 0).filter_map(|at| rules.get(*at).copied()).collect();
        let count: usize = others.iter().map(|other| other.patterns.len()).sum();
        let all = count.saturating_add(held.patterns.len());
        left.take_steps(held.patterns.len().saturating_mul(all))?;
        if found.is_empty() { Ok(Alive::default()) } else { alive_in(held, &others, cell, left) }
    })?;
    tree.leaves().into_iter().for_each(|found| alive.join(found));
    Ok(alive)
}

/// Looks at the patterns of a rule for one kind of identities that it and others speak of.
fn alive_in(held: &Arc<Held>, others: &[&Arc<Held>], cell: &Cell, left: &mut Left) -> Result<Alive, Stop> {
    let none = vec![false; held.patterns.len()];
    let mut alive = Alive { bites: none.clone(), adds: none };
    for access in Access::ALL.into_iter().filter(|access| held.has(|effect| access.has(effect))) {
        let (own, all) = sides(access, held, others, cell);
        let patterns = held.patterns.iter().zip(alive.bites.iter_mut().zip(&mut alive.adds));
        for (pattern, (bites, adds)) in patterns.filter(|(pattern, _)| access.has(pattern.effect)) {
            *bites |= if pattern.effect.is_deny() {
                denies_something(pattern, &all, cell, left)?
            } else {
                allows_something(pattern, &all, cell, left)?
            };
            *adds |= adds_something(pattern, held, others, &own, access, cell)?;
        }
    }
    Ok(alive)
}

/// Returns what the rule says itself, and what all say together. Conditions count as met, but those of
/// denies: one that holds on some listeners only makes nothing unreachable.
fn sides(access: Access, held: &Held, others: &[&Arc<Held>], cell: &Cell) -> (Side, Side) {
    let (mut own, mut all) = (Side::default(), Side::default());
    for list in access.lists(held, cell) {
        own.add(list.effect, &list.filters);
        all.add(list.effect, &list.filters);
    }
    for other in others {
        for list in access.lists(other, cell) {
            if !list.effect.is_deny() || other.rule.listener.is_empty() {
                all.add(list.effect, &list.filters);
            }
        }
    }
    (own, all)
}

fn denies_something(pattern: &Pattern, all: &Side, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
    let filter = pattern.filter.resolve(cell);
    if pattern.effect == Effect::DenySubscribeLiteral {
        let without = Side { deny_literal: Filters::default(), ..all.clone() };
        return without.allows_subscription(&filter, cell, left);
    }
    let allows = all.allow.meeting(&filter, left)?;
    for allow in allows.chain(all.literal.meeting(&filter, left)?) {
        if filter.meet(allow, cell)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn allows_something(pattern: &Pattern, all: &Side, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
    let filter = pattern.filter.resolve(cell);
    if pattern.effect == Effect::SubscribeLiteral {
        return all.allows_subscription(&filter, cell, left);
    }
    Ok(Topics::rest(&filter, all.deny.meeting(&filter, left)?, cell)?.is_some())
}

/// Tells whether the pattern allows what other rules do not allow under the same conditions or none.
fn adds_something(
    pattern: &Pattern,
    held: &Held,
    others: &[&Arc<Held>],
    own: &Side,
    access: Access,
    cell: &Cell,
) -> Result<bool, Question> {
    if pattern.effect.is_deny() || pattern.effect == Effect::SubscribeLiteral {
        return Ok(true);
    }
    let filter = pattern.filter.resolve(cell);
    let lists = access.lists(held, cell);
    let Some(conditions) =
        lists.iter().find(|list| list.effect == pattern.effect).map(|list| &list.conditions)
    else {
        return Ok(false);
    };
    // Other patterns of the rule itself: of two that are the same, the later one is needless.
    let mut rest: Vec<_> = own.allow.iter().filter(|other| **other != filter).cloned().collect();
    for other in others {
        let wider = access.lists(other, cell).into_iter();
        let wider = wider.filter(|list| !list.effect.is_deny() && list.conditions.are_within(conditions));
        rest.extend(wider.flat_map(|list| list.filters));
    }
    Ok(Topics::rest(&filter, &rest, cell)?.is_some())
}
