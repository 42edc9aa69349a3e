//! What subscriptions bring that a listener grants in part, for one kind of identities.
//!
//! In mode `narrow` a subscription brings what rights to subscribe give of its filter. In mode `filter`, and where it is
//! shared, it brings also what may be received without such a right, as long as one gives some of the filter. None is
//! granted in part of which everything is allowed.

use crate::cell::Cell;
use crate::explore::{Left, Stop};
use crate::groups::SidedList;
use crate::modes::ModeChanges;
use crate::overlap::Level;
use crate::setting::{Conditions, Setting, Space};
use crate::topics::{Filter, Topics};
use midge_policy::{Effect, SubscribeMode};
use std::collections::BTreeMap;

/// Topics that one filter can match together: those whose first level begins with `$` only with others of the same one,
/// since no wildcard stands for it.
type Class = Option<String>;

/// The rules of one kind of identities, for subscriptions in part.
pub(crate) struct Parts<'a> {
    lists: &'a [SidedList<'a>],
    modes: &'a ModeChanges,
    /// Classes with rights to subscribe, and whether these could leave nothing of the class, whatever the conditions.
    classes: BTreeMap<Class, bool>,
}

/// What counts in one setting, before and after.
pub(crate) struct Brought([BTreeMap<Class, Counts>; 2]);

/// What is brought of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// What rights to subscribe give.
    Subscribed,
    /// That, and what may be received.
    Received,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(
        lists: &'a [SidedList<'a>],
        modes: &'a ModeChanges,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<Self, Stop> {
        let mut by_class: BTreeMap<Class, Vec<&Filter>> = BTreeMap::new();
        for filter in lists.iter().filter(is_right).flat_map(|(_, list)| &list.filters) {
            by_class.entry(class(filter)).or_default().push(filter);
        }
        let mut classes = BTreeMap::new();
        for (class, filters) in by_class {
            left.take_steps(filters.len())?;
            let may_be_whole = Topics::rest(&all(&class), filters, cell)?.is_none();
            classes.insert(class, may_be_whole);
        }
        Ok(Self { lists, modes, classes })
    }

    /// Returns what has to be known of a setting beside the conditions of a group of lists.
    pub(crate) fn conditions(&self, group: &[(&SidedList<'_>, Vec<&Filter>)]) -> Vec<Conditions> {
        let mut conditions = Vec::from(Conditions::of_modes());
        // Else each right opens what it gives itself.
        let by_others = group.iter().any(|((_, list), filters)| {
            let of_whole = |filter: &&Filter| self.classes.get(&class(filter)).is_some_and(|whole| *whole);
            list.effect == Effect::Receive || filters.iter().any(of_whole)
        });
        if by_others {
            conditions.extend(self.lists.iter().filter(is_right).map(|(_, list)| list.conditions.clone()));
        }
        conditions
    }

    /// Returns what is brought in a setting.
    pub(crate) fn brought(
        &self,
        space: &Space,
        setting: &Setting,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<Brought, Stop> {
        let changed = space.listener(setting).and_then(|listener| self.modes.on(listener));
        let mut brought = Brought(Default::default());
        let Some((old, new)) = changed else { return Ok(brought) };
        for (at, (mode, known)) in [old, new].into_iter().zip(&mut brought.0).enumerate() {
            let counts = match mode {
                SubscribeMode::Reject => continue,
                SubscribeMode::Narrow if !space.is_shared(setting) => Counts::Subscribed,
                SubscribeMode::Narrow | SubscribeMode::Filter => Counts::Received,
            };
            for (class, may_be_whole) in &self.classes {
                let side = Side { lists: self.lists, at, space, setting };
                if side.opens(class, cell, left)? && !(*may_be_whole && side.is_whole(class, cell, left)?) {
                    known.insert(class.clone(), counts);
                }
            }
        }
        Ok(brought)
    }
}

impl Brought {
    /// Tells whether a filter of a list counts, before (0) or after (1).
    pub(crate) fn counts(&self, at: usize, effect: Effect, filter: &Filter) -> bool {
        let Some(known) = self.0.get(at) else { return false };
        match effect {
            Effect::Subscribe => known.contains_key(&class(filter)),
            Effect::Receive => known.get(&class(filter)) == Some(&Counts::Received),
            _ => !known.is_empty(),
        }
    }
}

/// One of two policies in one setting.
struct Side<'a> {
    lists: &'a [SidedList<'a>],
    at: usize,
    space: &'a Space,
    setting: &'a Setting,
}

impl<'a> Side<'a> {
    fn own(&self) -> impl Iterator<Item = &'a SidedList<'a>> {
        let is_old = self.at == 0;
        self.lists.iter().filter(move |(sided, _)| if is_old { sided.in_old } else { sided.in_new })
    }

    fn denies(&self, is_one: impl Fn(Effect) -> bool) -> Vec<&'a Filter> {
        let holding = self.own().filter(|(_, list)| list.conditions.hold(self.space, self.setting));
        holding.filter(|(_, list)| is_one(list.effect)).flat_map(|(_, list)| &list.filters).collect()
    }

    /// Tells whether a right gives a topic of the class that is not denied.
    fn opens(&self, class: &Class, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        let denies = self.denies(Effect::is_deny);
        let rights = self.own().filter(is_right);
        for (_, list) in rights.filter(|(_, list)| list.conditions.hold(self.space, self.setting)) {
            for filter in list.filters.iter().filter(|filter| self::class(filter) == *class) {
                left.take_steps(denies.len() + 1)?;
                if Topics::rest(filter, denies.iter().copied(), cell)?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Tells whether every topic of the class may be subscribed to: then a filter of them is granted as a whole, at
    /// whichever quality of service.
    fn is_whole(&self, class: &Class, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        let all = all(class);
        let denies = self.denies(|effect| effect == Effect::DenySubscribe);
        left.take_steps(denies.len())?;
        for deny in denies {
            if all.meet(deny, cell)?.is_some() {
                return Ok(false);
            }
        }
        let rights = self.own().filter(is_right);
        let holding = rights.filter(|(_, list)| list.conditions.at_any_qos().hold(self.space, self.setting));
        let rights: Vec<&Filter> = holding.flat_map(|(_, list)| &list.filters).collect();
        left.take_steps(rights.len())?;
        Ok(Topics::rest(&all, rights, cell)?.is_none())
    }
}

fn is_right((_, list): &&SidedList<'_>) -> bool {
    list.effect == Effect::Subscribe
}

fn class(filter: &Filter) -> Class {
    match filter.levels().first() {
        Some(Level::Text(text)) if text.starts_with('$') => Some((*text).to_owned()),
        _ => None,
    }
}

/// Returns the filter of all topics of a class.
fn all(class: &Class) -> Filter {
    let text = class.as_ref().map_or_else(|| "#".to_owned(), |first| format!("{first}/#"));
    Filter::read(&text, |_| None)
}
