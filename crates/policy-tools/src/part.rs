//! What differs between two policies for one kind of access.

use crate::access::{Access, Side};
use crate::cell::{Cell, PartIndex, Term};
use crate::compared::{Compared, Sided};
use crate::diff::{Change, Kind};
use crate::explore::{Left, Stop, TooMuch, explore};
use crate::groups::{STEPS_OF_PIECE, SidedList, groups};
use crate::in_part::Parts;
use crate::marked;
use crate::modes::ModeChanges;
use crate::overlap::{Level, Overlaps, covers, cut, levels, uncut};
use crate::setting::{SETTINGS_MAX, Setting, Space};
use crate::shown::{Names, Shown};
use crate::topics::{Filter, Topics};
use crate::tree::{Leaf, Tree};
use midge_identity::SpiffeId;
use std::collections::{BTreeMap, BTreeSet, HashSet};

#[derive(Clone, Debug)]
pub(crate) struct Part {
    tree: Tree<Changes>,
    /// Identities with rules of their own for which something else changes than the tree says.
    points: BTreeMap<SpiffeId, Changes>,
}

impl Part {
    pub(crate) fn of(
        compared: &Compared,
        access: Access,
        modes: &ModeChanges,
        left: &mut Left,
    ) -> Result<Self, TooMuch> {
        let nothing = Self { tree: Tree::Leaf(Changes::default()), points: BTreeMap::new() };
        let Some((rules, changed)) = compared.bearing(access) else { return Ok(nothing) };
        let is_pattern = |sided: &&Sided| sided.held.only().is_none();
        let differing = rules.iter().take(changed).filter(is_pattern).count();
        let patterns: Vec<&Sided> = rules.iter().filter(is_pattern).collect();
        let topics = rules.iter().take(changed).map(|sided| sided.held.patterns.len()).sum();
        left.begin_changes(topics);
        let tree = if differing == 0 {
            nothing.tree
        } else {
            let least = refuse_early(access, &patterns, differing, left)?;
            let before = left.steps();
            let tree = explore(Cell::all(), (&patterns, differing), left, |cell, found, left| {
                let found: Vec<&Sided> = found.iter().filter_map(|at| patterns.get(*at).copied()).collect();
                Changes::of(access, cell, (&found, modes), left)
            })?;
            debug_assert!(before - left.steps() >= least, "nothing is refused that could be answered");
            tree
        };
        let mut part = Self { tree, ..nothing };
        part.look_at_points(access, (&rules, topics, modes), left)?;
        Ok(part)
    }

    /// Looks at the identities that have rules of their own, or that an `unless` names in full.
    fn look_at_points(
        &mut self,
        access: Access,
        (rules, topics, modes): (&[Sided], usize, &ModeChanges),
        left: &mut Left,
    ) -> Result<(), TooMuch> {
        let mut own: BTreeMap<SpiffeId, Vec<&Sided>> = BTreeMap::new();
        let mut patterns = Overlaps::default();
        for (at, sided) in rules.iter().enumerate() {
            match sided.held.only() {
                Some(id) => own.entry(id.clone()).or_default().push(sided),
                None => patterns.insert(&levels(&sided.held.rule.id), at),
            }
            for id in sided.held.excepts() {
                own.entry(id).or_default();
            }
        }
        for (id, mut found) in own {
            // Most are what the patterns say, and not told of again.
            left.begin_changes(topics);
            let cell = Cell::of(&id);
            let (matching, steps) = patterns.of(&levels(&id.to_string()));
            left.take_steps(steps)?;
            found.extend(matching.into_iter().filter_map(|at| rules.get(at)));
            left.take_steps(found.len())?;
            found.retain(|sided| sided.held.applies(&cell) == Ok(true));
            let changes = match Changes::of(access, &cell, (&found, modes), left) {
                Ok(changes) => changes,
                Err(Stop::TooMuch(error)) => return Err(error),
                // No question is open about one identity.
                Err(Stop::Question(_)) => continue,
            };
            if self.tree.at(&cell) != changes {
                self.points.insert(id, changes);
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.points.values().chain(self.tree.leaves()).all(Changes::is_empty)
    }

    /// Returns what changes for one identity.
    pub(crate) fn at(&self, id: &SpiffeId, shown: &Shown) -> Vec<Change> {
        self.points.get(id).cloned().unwrap_or_else(|| self.tree.at(&Cell::of(id))).shown(shown)
    }

    pub(crate) fn kinds(&self, names: &Names) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for (id, changes) in self.points.iter().filter(|(_, changes)| !changes.is_empty()) {
            let shown = names.show(&Cell::of(id), &BTreeSet::new(), &[]);
            kinds.push(Kind {
                id: id.to_string(),
                except: Vec::new(),
                example: id.to_string(),
                changes: changes.shown(&shown),
            });
        }
        let regions = self.tree.regions(self.points.keys()).into_iter();
        for region in regions.filter(|region| !region.found.is_empty()) {
            let parts: BTreeSet<PartIndex> = region.found.0.iter().flat_map(RawChange::parts).collect();
            let own: Vec<String> = region.ids.iter().map(ToString::to_string).collect();
            if !region.cell.is_general() && !own.is_empty() {
                continue;
            }
            let own_texts: Vec<&str> = own.iter().map(String::as_str).collect();
            let shown = names.show(&region.cell, &parts, &own_texts);
            kinds.push(Kind {
                id: shown.id.clone(),
                except: shown.except.iter().cloned().chain(own).collect(),
                example: shown.example.clone(),
                changes: region.found.shown(&shown),
            });
        }
        kinds
    }
}

/// Ends a comparison that is sure to take more steps than are left, before it takes them.
///
/// Each pattern of a fixed number of segments has identities of its own: those with a text that no rule spells for each
/// of its wildcards. There, what all rules say that speak of all of it is divided by topics. Returns how many steps that
/// is.
fn refuse_early(
    access: Access,
    patterns: &[&Sided],
    differing: usize,
    left: &mut Left,
) -> Result<usize, TooMuch> {
    let ids: Vec<Vec<Level<'_>>> =
        patterns.iter().map(|sided| uncut(&sided.held.rule.id).collect()).collect();
    let pieces = |sided: &&Sided| {
        let rule = &sided.held;
        let weighing = rule.patterns.iter().filter(|pattern| access.weighs(pattern.effect)).count();
        if rule.rule.unless.is_empty() { weighing } else { 0 }
    };
    let pieces: Vec<usize> = patterns.iter().map(pieces).collect();
    let mut index = Overlaps::default();
    ids.iter().enumerate().for_each(|(at, id)| index.insert(&cut(id.iter().copied()), at));
    let (mut seen, mut least) = (HashSet::new(), 0_usize);
    for (id, sided) in ids.iter().zip(patterns).take(differing) {
        if !sided.held.rule.unless.is_empty() || id.last() == Some(&Level::Rest) || !seen.insert(id) {
            continue;
        }
        let (places, steps) = index.of(&cut(id.iter().copied()));
        left.take_steps(steps)?;
        let speaks = |at: &usize| ids.get(*at).is_some_and(|other| covers(other, id));
        let found = places.into_iter().filter(speaks).filter_map(|at| pieces.get(at));
        least = least.saturating_add(found.sum::<usize>().saturating_mul(STEPS_OF_PIECE));
        left.has_steps(least)?;
    }
    Ok(least)
}

/// A change whose topics may speak of parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RawChange {
    access: Access,
    gained: bool,
    topics: Topics,
    when: String,
}

impl RawChange {
    /// Returns the parts it speaks of.
    fn parts(&self) -> impl Iterator<Item = PartIndex> {
        self.topics.parts().chain(marked::parts(&self.when))
    }
}

/// What changes for the identities of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(Vec<RawChange>);

impl Changes {
    /// Compares what rules say of one cell; the modes count for subscriptions that are allowed in part.
    pub(crate) fn of(
        access: Access,
        cell: &Cell,
        (found, modes): (&[&Sided], &ModeChanges),
        left: &mut Left,
    ) -> Result<Self, Stop> {
        if access != Access::SubscribePart && !found.iter().any(|sided| sided.differs()) {
            return Ok(Self::default());
        }
        let lists = |sided: &&'_ Sided| access.lists(&sided.held, cell);
        let lists: Vec<SidedList<'_>> =
            found.iter().flat_map(|sided| lists(sided).into_iter().map(|list| (*sided, list))).collect();
        let mut changes = Vec::new();
        let parts = match access {
            Access::SubscribePart => Some(Parts::of(&lists, modes, cell, left)?),
            _ => None,
        };
        for group in groups(access, &lists, left)? {
            let group = group.into_iter().filter_map(|(at, filters)| lists.get(at).zip(Some(filters)));
            let group: Vec<_> = group.collect();
            Self::of_group((access, parts.as_ref()), cell, &group, left, &mut changes)?;
        }
        changes.sort();
        Ok(Self(changes))
    }

    fn of_group(
        (access, parts): (Access, Option<&Parts<'_>>),
        cell: &Cell,
        group: &[(&SidedList<'_>, Vec<&Filter>)],
        left: &mut Left,
        changes: &mut Vec<RawChange>,
    ) -> Result<(), Stop> {
        let more = parts.map(|parts| parts.conditions(group)).unwrap_or_default();
        let space = Space::of(group.iter().map(|((_, list), _)| &list.conditions).chain(&more), cell)?;
        if space.is_too_large() {
            return Err(TooMuch::Settings(SETTINGS_MAX).into());
        }
        let mut found: BTreeMap<(bool, Topics), BTreeSet<Setting>> = BTreeMap::new();
        for setting in space.settings() {
            let (mut old, mut new) = (Side::default(), Side::default());
            left.take_steps(group.len())?;
            let brought = parts.map(|parts| parts.brought(&space, &setting, cell, left)).transpose()?;
            let holding = group.iter().filter(|((_, list), _)| list.conditions.hold(&space, &setting));
            for ((sided, list), filters) in holding {
                left.take_steps(filters.len())?;
                for (is_in, side, at) in [(sided.in_old, &mut old, 0), (sided.in_new, &mut new, 1)] {
                    let counts = |filter: &&&Filter| {
                        brought.as_ref().is_none_or(|brought| brought.counts(at, list.effect, filter))
                    };
                    if is_in {
                        side.add(list.effect, filters.iter().filter(counts).copied());
                    }
                }
            }
            for (gained, more, less) in [(true, &new, &old), (false, &old, &new)] {
                for topics in more.beyond(less, access, cell, left)? {
                    found.entry((gained, topics)).or_default().insert(setting.clone());
                }
            }
        }
        left.take_changes(found.len())?;
        for ((gained, topics), settings) in found {
            let told = space.describe(&settings).into_iter();
            changes.extend(told.map(|when| RawChange { access, gained, topics: topics.clone(), when }));
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn shown(&self, shown: &Shown) -> Vec<Change> {
        let change = |change: &RawChange| Change {
            gained: change.gained,
            access: change.access,
            filter: change.topics.filter().text(|part| shown.name(part)),
            except: change
                .topics
                .except()
                .iter()
                .map(|filter| filter.text(|part| shown.name(part)))
                .collect(),
            when: marked::fill(&change.when, |part| shown.name(part)),
            example: change.topics.witness(|part| shown.value(part)),
        };
        self.0.iter().map(change).collect()
    }
}

impl Leaf for Changes {
    fn replace(&self, part: PartIndex, by: &Term) -> Self {
        let change = |change: &RawChange| RawChange {
            topics: change.topics.replace(part, by),
            when: marked::replace(&change.when, part, by),
            ..change.clone()
        };
        let mut changes: Vec<RawChange> = self.0.iter().map(change).collect();
        changes.sort();
        changes.dedup();
        Self(changes)
    }

    fn mentions(&self, part: PartIndex) -> bool {
        self.0.iter().any(|change| change.parts().any(|known| known >= part))
    }
}
