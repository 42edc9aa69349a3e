//! Which access one policy gives and another does not: for every identity and every topic.

use crate::access::{Access, Listed, Side};
use crate::cell::{Cell, Leaf, PartIndex, Question, Term, TooManyKinds, Tree, explore};
use crate::marked;
use crate::model::{Held, Ruleset};
use crate::setting::{Setting, Space};
use crate::shown::Names;
use crate::topics::Topics;
use midge_identity::SpiffeId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Most kinds of identities that are told apart.
pub(crate) const KINDS_MAX: usize = 50_000;

/// What changes for one kind of identities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Pattern of the identities, in the form of a rule's `id`.
    pub id: String,
    /// Identities and patterns of identities that match it but do not belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// One identity of the kind.
    pub example: String,
    /// What they gain and lose.
    pub changes: Vec<Change>,
}

/// A set of topics that is gained or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Whether it is gained; else it is lost.
    pub gained: bool,
    /// Which access.
    pub access: Access,
    /// Filter of the topics; its captures are those of the kind's pattern.
    pub filter: String,
    /// Filters of topics that it matches but that do not belong to the set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Under which conditions; always when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub when: String,
    /// One topic of the set, for the kind's example.
    pub example: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.access.name(), self.filter)?;
        if !self.except.is_empty() {
            write!(f, " except {}", self.except.join(", "))?;
        }
        if !self.when.is_empty() {
            write!(f, " ({})", self.when)?;
        }
        Ok(())
    }
}

/// The difference between two policies.
#[derive(Clone, Debug)]
pub struct Diff {
    /// By access, since what tells identities apart for one need not for another.
    parts: Vec<Part>,
    names: Names,
}

#[derive(Clone, Debug)]
struct Part {
    tree: Tree<Changes>,
    /// Identities with rules of their own for which something else changes than the tree says.
    points: BTreeMap<SpiffeId, Changes>,
}

impl Diff {
    /// Compares two policies.
    ///
    /// # Errors
    /// When there are too many kinds of identities to look at each.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Result<Self, TooManyKinds> {
        let parts = Access::ALL.into_iter().map(|access| Part::between(old, new, access));
        let names = Names::of(new.patterns().iter().chain(old.patterns()));
        Ok(Self { parts: parts.collect::<Result<_, _>>()?, names })
    }

    /// Tells whether the policies give the same access to everyone.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| {
            part.points.values().all(|changes| changes.0.is_empty())
                && part.tree.cells().iter().all(|(_, changes)| changes.0.is_empty())
        })
    }

    /// Returns what changes, kind by kind of identities. For each access, an identity belongs to one
    /// kind at most.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: BTreeMap<(String, Vec<String>, String), Vec<Change>> = BTreeMap::new();
        for kind in self.parts.iter().flat_map(|part| part.kinds(&self.names)) {
            kinds.entry((kind.id, kind.except, kind.example)).or_default().extend(kind.changes);
        }
        let kind = |((id, except, example), changes)| Kind { id, except, example, changes };
        kinds.into_iter().map(kind).collect()
    }

    /// Returns what changes for one identity.
    pub fn of_id(&self, id: &SpiffeId) -> Vec<Change> {
        let cell = Cell::of(id);
        let shown = self.names.show(&cell, &BTreeSet::new(), &[]);
        let changes =
            self.parts.iter().map(|part| part.points.get(id).cloned().unwrap_or_else(|| part.tree.at(&cell)));
        changes.flat_map(|changes| changes.shown(&shown)).collect()
    }
}

impl Part {
    fn between(old: &Ruleset, new: &Ruleset, access: Access) -> Result<Self, TooManyKinds> {
        let is_there = old.held().iter().chain(new.held()).any(|held| held.has(|effect| access.has(effect)));
        let bears = |rules: &[Arc<Held>]| -> Vec<Arc<Held>> {
            let bearing = |held: &&Arc<Held>| is_there && held.has(|effect| access.weighs(effect));
            rules.iter().filter(bearing).cloned().collect()
        };
        let pairs = Pairs::of(&bears(old.patterns()), &bears(new.patterns()), access);
        let too_large = Flag::new(false);
        let tree = explore(Cell::all(), Progress::default(), KINDS_MAX, &mut |cell, progress| {
            progress.read(&pairs, cell)?;
            progress.changes(access, cell, &too_large)
        })?;
        let mut points = BTreeMap::new();
        let ids: BTreeSet<&SpiffeId> = old.points().chain(new.points()).collect();
        for id in ids {
            let cell = Cell::of(id);
            let own = Pairs::of(&bears(old.own(id)), &bears(new.own(id)), access);
            let mut progress = Progress::default();
            // No question is open about one identity.
            let read = progress.read(&pairs, &cell).and_then(|()| {
                progress.next = 0;
                progress.read(&own, &cell)?;
                progress.changes(access, &cell, &too_large)
            });
            if let Ok(changes) = read
                && tree.at(&cell) != changes
            {
                points.insert(id.clone(), changes);
            }
        }
        if too_large.get() { Err(TooManyKinds(KINDS_MAX)) } else { Ok(Self { tree, points }) }
    }

    fn kinds(&self, names: &Names) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for (id, changes) in self.points.iter().filter(|(_, changes)| !changes.0.is_empty()) {
            let shown = names.show(&Cell::of(id), &BTreeSet::new(), &[]);
            kinds.push(Kind {
                id: id.to_string(),
                except: Vec::new(),
                example: id.to_string(),
                changes: changes.shown(&shown),
            });
        }
        for (cell, changes) in self.tree.cells().into_iter().filter(|(_, changes)| !changes.0.is_empty()) {
            let parts: BTreeSet<PartIndex> = changes.0.iter().flat_map(RawChange::parts).collect();
            let own: Vec<String> = self
                .points
                .keys()
                .filter(|id| cell.contains(&Cell::of(id)))
                .map(ToString::to_string)
                .collect();
            if !cell.is_general() && !own.is_empty() {
                continue;
            }
            let own_texts: Vec<&str> = own.iter().map(String::as_str).collect();
            let shown = names.show(&cell, &parts, &own_texts);
            kinds.push(Kind {
                id: shown.id.clone(),
                except: shown.except.iter().cloned().chain(own).collect(),
                example: shown.example.clone(),
                changes: changes.shown(&shown),
            });
        }
        kinds
    }
}

/// Raised where a cell has too many settings.
type Flag = std::cell::Cell<bool>;

/// Rules of two policies: which of them both have.
struct Pairs {
    /// Each with whether the old and whether the new policy has it, those that differ first.
    rules: Vec<(Arc<Held>, bool, bool)>,
    /// How many differ.
    changed: usize,
}

impl Pairs {
    fn of(old: &[Arc<Held>], new: &[Arc<Held>], access: Access) -> Self {
        let old: BTreeMap<String, &Arc<Held>> =
            old.iter().map(|rule| (rule.meaning_for(access), rule)).collect();
        let new: BTreeMap<String, &Arc<Held>> =
            new.iter().map(|rule| (rule.meaning_for(access), rule)).collect();
        let mut rules = Vec::new();
        rules.extend(
            old.iter()
                .filter(|(key, _)| !new.contains_key(*key))
                .map(|(_, rule)| (Arc::clone(rule), true, false)),
        );
        rules.extend(
            new.iter()
                .filter(|(key, _)| !old.contains_key(*key))
                .map(|(_, rule)| (Arc::clone(rule), false, true)),
        );
        let changed = rules.len();
        rules.extend(
            new.iter()
                .filter(|(key, _)| old.contains_key(*key))
                .map(|(_, rule)| (Arc::clone(rule), true, true)),
        );
        Self { rules, changed }
    }
}

/// How far the rules have been looked at for a cell.
#[derive(Clone, Default)]
struct Progress {
    next: usize,
    /// Rules that speak of the cell, with the policies they are in.
    found: Vec<(Arc<Held>, bool, bool)>,
    /// Whether one of them is not in both.
    differs: bool,
}

impl Progress {
    fn read(&mut self, pairs: &Pairs, cell: &Cell) -> Result<(), Question> {
        while let Some(pair) = pairs.rules.get(self.next) {
            if self.next == pairs.changed && !self.differs && cell.is_general() {
                return Ok(());
            }
            if pair.0.applies(cell)? {
                self.found.push(pair.clone());
                self.differs |= pair.1 != pair.2;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn changes(&self, access: Access, cell: &Cell, too_large: &Flag) -> Result<Changes, Question> {
        let mut changes = Vec::new();
        if self.differs {
            self.compare(access, cell, &mut changes, too_large)?;
        }
        changes.sort();
        Ok(Changes(changes))
    }

    fn compare(
        &self,
        access: Access,
        cell: &Cell,
        changes: &mut Vec<RawChange>,
        too_large: &Flag,
    ) -> Result<(), Question> {
        let lists = self.lists(access, cell);
        let space = Space::of(lists.iter().map(|list| &list.conditions), cell)?;
        if space.is_too_large() {
            too_large.set(true);
            return Ok(());
        }
        let mut found: BTreeMap<(bool, Topics), BTreeSet<Setting>> = BTreeMap::new();
        for setting in space.settings() {
            let (mut old, mut new) = (Side::default(), Side::default());
            for list in lists.iter().filter(|list| list.conditions.hold(&space, &setting)) {
                let both = [(list.in_old, &mut old), (list.in_new, &mut new)];
                both.into_iter().filter(|(is_in, _)| *is_in).for_each(|(_, side)| side.add(list));
            }
            for (gained, more, less) in [(true, &new, &old), (false, &old, &new)] {
                for topics in more.beyond(less, access, cell)? {
                    found.entry((gained, topics)).or_default().insert(setting.clone());
                }
            }
        }
        for ((gained, topics), settings) in found {
            let told = space.describe(&settings);
            changes.extend(told.into_iter().map(|when| RawChange {
                access,
                gained,
                topics: topics.clone(),
                when,
            }));
        }
        Ok(())
    }

    fn lists(&self, access: Access, cell: &Cell) -> Vec<Listed> {
        let lists = |(held, in_old, in_new): &(Arc<Held>, bool, bool)| {
            let (in_old, in_new) = (*in_old, *in_new);
            access
                .lists(held, cell)
                .into_iter()
                .map(move |list| Listed { in_old, in_new, ..list })
                .collect::<Vec<_>>()
        };
        self.found.iter().flat_map(lists).collect()
    }
}

/// Drops sets that are parts of others.
pub(crate) fn without_parts_of_others(mut found: Vec<Topics>, cell: &Cell) -> Vec<Topics> {
    found.sort();
    found.dedup();
    let mut kept: Vec<Topics> = Vec::with_capacity(found.len());
    for topics in found {
        if kept.iter().any(|other| topics.is_within(other, cell)) {
            continue;
        }
        kept.retain(|other| !other.is_within(&topics, cell));
        kept.push(topics);
    }
    kept
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct Changes(Vec<RawChange>);

impl Changes {
    fn shown(&self, shown: &crate::shown::Shown) -> Vec<Change> {
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
