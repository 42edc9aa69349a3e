//! The rules of two policies: what differs, and of what both have, what could make a difference there.

use crate::access::Access;
use crate::model::{Held, Ruleset};
use crate::modes::ModeChanges;
use crate::overlap::{Overlaps, levels};
use midge_identity::SpiffeId;
use midge_policy::{Effect, Rule};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A rule with the policies that it is in.
#[derive(Clone, Debug)]
pub(crate) struct Sided {
    pub(crate) held: Arc<Held>,
    pub(crate) in_old: bool,
    pub(crate) in_new: bool,
}

impl Sided {
    pub(crate) fn differs(&self) -> bool {
        self.in_old != self.in_new
    }
}

impl AsRef<Held> for Sided {
    fn as_ref(&self) -> &Held {
        &self.held
    }
}

/// Rules that differ, and the others that bear on topics and identities that these speak of.
#[derive(Clone, Debug)]
pub(crate) struct Compared(Vec<Sided>);

impl Compared {
    /// Compares two policies as wholes.
    pub(crate) fn of(old: &Ruleset, new: &Ruleset) -> Self {
        Sorted::of(old.held().iter(), new.held().iter()).compared()
    }

    /// Compares those rules of two policies that speak of one identity.
    pub(crate) fn of_identity(old: &Ruleset, new: &Ruleset, id: &SpiffeId) -> Self {
        Sorted::of(old.applying(id).into_iter(), new.applying(id).into_iter()).compared()
    }

    /// Returns every rule of two policies that holds on a listener of which the mode changes, whether it differs or not.
    pub(crate) fn by_modes(old: &Ruleset, new: &Ruleset, changes: &ModeChanges) -> Self {
        Sorted::of(old.held().iter(), new.held().iter()).on(changes)
    }

    /// Returns those that speak of one identity.
    pub(crate) fn by_modes_of(old: &Ruleset, new: &Ruleset, changes: &ModeChanges, id: &SpiffeId) -> Self {
        Sorted::of(old.applying(id).into_iter(), new.applying(id).into_iter()).on(changes)
    }

    /// Compares rules that only the old and only the new policy has; `kept` are those of both, which are
    /// prepared by `hold` where they matter.
    pub(crate) fn new<R>(
        gone: Vec<Arc<Held>>,
        come: Vec<Arc<Held>>,
        kept: Vec<R>,
        rule: impl Fn(&R) -> &Rule,
        hold: impl FnMut(R) -> Arc<Held>,
    ) -> Self {
        let mut rules = divided(gone, come);
        let changed: Vec<&Rule> =
            rules.iter().filter(|sided| sided.differs()).map(|sided| &sided.held.rule).collect();
        let kept = related(&changed, kept, rule, |_| true);
        rules.extend(kept.into_iter().map(hold).map(|held| Sided { held, in_old: true, in_new: true }));
        Self(rules)
    }

    /// Returns the rules that differ, with the topics that only one of the policies has.
    pub(crate) fn differing(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.0.iter().filter(|sided| sided.differs()).map(|sided| &sided.held)
    }

    /// Returns the rules that speak of more than one identity.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.0.iter().map(|sided| &sided.held).filter(|held| held.only().is_none())
    }

    /// Returns the rules that bear on a kind of access, those that differ first, and how many differ. None
    /// where none differs.
    pub(crate) fn bearing(&self, access: Access) -> Option<(Vec<Sided>, usize)> {
        let weighs = |effect| access.weighs(effect);
        if access == Access::SubscribePart {
            // Every rule makes a difference where the mode does.
            let rules: Vec<Sided> = self.0.iter().filter(|sided| sided.held.has(weighs)).cloned().collect();
            let count = rules.len();
            return (count > 0).then_some((rules, count));
        }
        let (mut rules, kept): (Vec<&Sided>, Vec<&Sided>) =
            self.0.iter().filter(|sided| sided.held.has(weighs)).partition(|sided| sided.differs());
        let changed: Vec<&Rule> = rules.iter().map(|sided| &sided.held.rule).collect();
        let count = rules.len();
        rules.extend(related(&changed, kept, |sided| &sided.held.rule, weighs));
        let is_there = count > 0 && rules.iter().any(|sided| sided.held.has(|effect| access.has(effect)));
        is_there.then(|| (rules.into_iter().cloned().collect(), count))
    }
}

/// Rules that only the old policy has, those that only the new one has, and those of both.
struct Sorted {
    gone: Vec<Arc<Held>>,
    come: Vec<Arc<Held>>,
    kept: Vec<Arc<Held>>,
}

impl Sorted {
    fn of<'a>(old: impl Iterator<Item = &'a Arc<Held>>, new: impl Iterator<Item = &'a Arc<Held>>) -> Self {
        let mut by_name: BTreeMap<&str, Vec<&Arc<Held>>> = BTreeMap::new();
        old.for_each(|held| by_name.entry(&held.rule.name).or_default().push(held));
        let (mut come, mut kept) = (Vec::new(), Vec::new());
        for held in new {
            let same = by_name.get_mut(&*held.rule.name).and_then(|known| {
                let at = known.iter().position(|old| old.rule.says_same_as(&held.rule))?;
                Some(known.swap_remove(at))
            });
            if same.is_some() { &mut kept } else { &mut come }.push(Arc::clone(held));
        }
        Self { gone: by_name.into_values().flatten().cloned().collect(), come, kept }
    }

    fn compared(self) -> Compared {
        Compared::new(self.gone, self.come, self.kept, |held| &held.rule, |held| held)
    }

    fn on(self, changes: &ModeChanges) -> Compared {
        let sided = |rules: Vec<Arc<Held>>, in_old, in_new| {
            let rules = rules.into_iter().filter(|held| changes.concern(&held.rule));
            rules.map(move |held| Sided { held, in_old, in_new })
        };
        let rules = sided(self.gone, true, false).chain(sided(self.come, false, true));
        Compared(rules.chain(sided(self.kept, true, true)).collect())
    }
}

/// Divides rules that differ in nothing but topics into what has gone, what has come and what both have:
/// then the topics that both have make no difference.
fn divided(gone: Vec<Arc<Held>>, come: Vec<Arc<Held>>) -> Vec<Sided> {
    let mut by_head: BTreeMap<String, [Vec<Arc<Held>>; 2]> = BTreeMap::new();
    for (held, side) in gone.into_iter().map(|held| (held, 0)).chain(come.into_iter().map(|held| (held, 1))) {
        if let Some(rules) = by_head.entry(held.head()).or_default().get_mut(side) {
            rules.push(held);
        }
    }
    let mut rules = Vec::new();
    for [old, new] in by_head.into_values() {
        let (Some(one), Some(other)) = (old.first(), new.first()) else {
            let side = |in_old, rules: Vec<_>| {
                rules.into_iter().map(move |held| Sided { held, in_old, in_new: !in_old })
            };
            rules.extend(side(true, old).chain(side(false, new)));
            continue;
        };
        let topics = |rules: &[Arc<Held>], of: Effect| -> BTreeSet<String> {
            let patterns = rules.iter().flat_map(|held| &held.patterns);
            patterns.filter(|pattern| pattern.effect == of).map(|pattern| pattern.text.clone()).collect()
        };
        let (was, is) = (|of| topics(&old, of), |of| topics(&new, of));
        let gone = one.with_lists(|of, _| was(of).difference(&is(of)).cloned().collect());
        let come = other.with_lists(|of, _| is(of).difference(&was(of)).cloned().collect());
        let both = other.with_lists(|of, _| is(of).intersection(&was(of)).cloned().collect());
        for (held, in_old, in_new) in [(gone, true, false), (come, false, true), (both, true, true)] {
            if !held.patterns.is_empty() {
                rules.push(Sided { held: held.into(), in_old, in_new });
            }
        }
    }
    rules
}

/// Leaves out the rules that have no topic in common with the changed ones, or speak of nobody of whom
/// these speak: what they say is the same on both sides, and decides nothing about other topics.
fn related<R>(
    changed: &[&Rule],
    kept: Vec<R>,
    rule: impl Fn(&R) -> &Rule,
    weighs: impl Fn(Effect) -> bool,
) -> Vec<R> {
    let (mut ids, mut topics) = (Overlaps::default(), Overlaps::default());
    for rule in changed {
        ids.insert(&levels(&rule.id), ());
        listed(rule, &weighs).for_each(|(_, text)| topics.insert(&levels(text), ()));
    }
    let same_ids: Vec<R> = kept.into_iter().filter(|kept| ids.any(&levels(&rule(kept).id))).collect();
    // Whether a filter may be subscribed to as it stands depends on every topic that it matches.
    let literal = |effect| matches!(effect, Effect::SubscribeLiteral | Effect::DenySubscribeLiteral);
    let named: Vec<String> = same_ids
        .iter()
        .flat_map(|kept| listed(rule(kept), &weighs))
        .filter(|(effect, text)| literal(*effect) && topics.any(&levels(text)))
        .map(|(_, text)| text.clone())
        .collect();
    named.iter().for_each(|text| topics.insert(&levels(text), ()));
    let meets = |kept: &R| listed(rule(kept), &weighs).any(|(_, text)| topics.any(&levels(text)));
    same_ids.into_iter().filter(meets).collect()
}

fn listed<'a>(
    rule: &'a Rule,
    weighs: &impl Fn(Effect) -> bool,
) -> impl Iterator<Item = (Effect, &'a String)> {
    let lists = rule.topic_lists().into_iter().filter(|(effect, _)| weighs(*effect));
    lists.flat_map(|(effect, texts)| texts.iter().map(move |text| (effect, text)))
}
