//! Which access one policy gives and another does not: for every identity and every topic.

use crate::access::Access;
use crate::cell::Cell;
use crate::compared::Compared;
use crate::explore::{Bounds, Left, Stop, TooMuch};
use crate::model::Ruleset;
use crate::modes::ModeChanges;
use crate::part::{Changes, Part};
use crate::shown::Names;
use midge_identity::SpiffeId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

impl Diff {
    /// Compares two policies, with what becomes of subscriptions that they allow in part. Costs the rules that differ,
    /// and of the others those that share topics and identities with them; where listeners differ in their mode, all.
    ///
    /// # Errors
    /// When there is too much to look at for an exact answer.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Result<Self, TooMuch> {
        let (compared, modes) = (Compared::of(old, new), ModeChanges::between(old, new));
        let mut diff = Self::of(&compared, Bounds::AT_HAND)?;
        if !modes.is_empty() {
            let by_modes = Compared::by_modes(old, new, &modes);
            let mut left = Left::of(Bounds::AT_HAND);
            diff.parts.push(Part::of(&by_modes, Access::SubscribePart, &modes, &mut left)?);
            diff.names = Names::of(compared.patterns().chain(by_modes.patterns()));
        }
        Ok(diff)
    }

    /// Says which rules make a comparison dear: of those that differ and speak of more than one identity, the most that
    /// have one `id`. None where no such rule differs.
    pub fn dearest(old: &Ruleset, new: &Ruleset) -> Option<String> {
        let compared = Compared::of(old, new);
        let mut by_id: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for held in compared.differing().filter(|held| held.only().is_none()) {
            let (topics, rule) = by_id.entry(&held.rule.id).or_insert((0, &held.rule.name));
            *topics += held.patterns.len();
            *rule = (&*held.rule.name).min(rule);
        }
        let (id, (topics, rule)) = by_id.into_iter().max_by_key(|(_, (topics, _))| *topics)?;
        Some(format!("most that differs is {topics} topics of rules with id `{id}`, such as rule `{rule}`"))
    }

    pub(crate) fn of(compared: &Compared, bounds: Bounds) -> Result<Self, TooMuch> {
        let none = ModeChanges::default();
        let part = |access| Part::of(compared, access, &none, &mut Left::of(bounds));
        let parts = Access::ALL.into_iter().map(part);
        Ok(Self { parts: parts.collect::<Result<_, _>>()?, names: Names::of(compared.patterns()) })
    }

    /// Returns what changes for one identity, however many kinds of identities there are.
    ///
    /// # Errors
    /// When there is too much to look at for an exact answer.
    pub fn for_identity(old: &Ruleset, new: &Ruleset, id: &SpiffeId) -> Result<Vec<Change>, TooMuch> {
        let (compared, modes) = (Compared::of_identity(old, new, id), ModeChanges::between(old, new));
        let by_modes = Compared::by_modes_of(old, new, &modes, id);
        let by_modes = (!modes.is_empty()).then_some((Access::SubscribePart, &by_modes));
        let (cell, mut left) = (Cell::of(id), Left::of(Bounds::AT_HAND));
        let shown = Names::default().show(&cell, &BTreeSet::new(), &[]);
        let mut changes = Vec::new();
        for (access, compared) in Access::ALL.map(|access| (access, &compared)).into_iter().chain(by_modes) {
            let rules = compared.bearing(access).map(|(rules, _)| rules).unwrap_or_default();
            match Changes::of(access, &cell, (&rules.iter().collect::<Vec<_>>(), &modes), &mut left) {
                Ok(found) => changes.extend(found.shown(&shown)),
                Err(Stop::TooMuch(error)) => return Err(error),
                // No question is open about one identity.
                Err(Stop::Question(_)) => {}
            }
        }
        Ok(changes)
    }

    /// Tells whether the policies give the same access to everyone.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
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
        let shown = self.names.show(&Cell::of(id), &BTreeSet::new(), &[]);
        self.parts.iter().flat_map(|part| part.at(id, &shown)).collect()
    }
}
