//! What becomes of subscriptions that are allowed in part, listener by listener, and which listeners a question has to be
//! put for.

use crate::model::{Held, Ruleset};
use crate::request::{Request, Verb};
use midge_policy::{LISTENERS, Rule, SubscribeMode};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The mode of each listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes([SubscribeMode; LISTENERS.len()]);

impl Modes {
    /// Returns the modes of a box that has the same one everywhere.
    pub fn everywhere(mode: SubscribeMode) -> Self {
        Self([mode; LISTENERS.len()])
    }

    /// Returns the modes that a function says, by the names of listeners.
    pub fn by_name(mode: impl Fn(&str) -> SubscribeMode) -> Self {
        Self(LISTENERS.map(mode))
    }

    /// Returns the mode of a listener; of one that is not known, what every box has unless it says otherwise.
    pub fn on(&self, listener: &str) -> SubscribeMode {
        let at = LISTENERS.iter().position(|name| *name == listener);
        at.and_then(|at| self.0.get(at)).copied().unwrap_or_default()
    }
}

/// A listener that makes something else of subscriptions that are allowed in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModeChange {
    /// Its name.
    pub listener: &'static str,
    /// What it made of them.
    pub old: SubscribeMode,
    /// What it makes of them.
    pub new: SubscribeMode,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModeChanges(Vec<ModeChange>);

impl ModeChange {
    /// Returns the listeners on which two policies differ in it.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Vec<Self> {
        let change =
            |listener| Self { listener, old: old.modes().on(listener), new: new.modes().on(listener) };
        LISTENERS.map(change).into_iter().filter(|change| change.old != change.new).collect()
    }
}

impl ModeChanges {
    pub(crate) fn between(old: &Ruleset, new: &Ruleset) -> Self {
        Self(ModeChange::between(old, new))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what changes on a listener: the mode before and after.
    pub(crate) fn on(&self, listener: &str) -> Option<(SubscribeMode, SubscribeMode)> {
        self.0.iter().find(|change| change.listener == listener).map(|change| (change.old, change.new))
    }

    /// Tells whether the rule holds on one of the listeners.
    pub(crate) fn concern(&self, rule: &Rule) -> bool {
        rule.listener.is_empty() || rule.listener.iter().any(|listener| self.on(listener).is_some())
    }
}

/// One request for each listener that it may come by.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) listener: String,
    /// What becomes of it if it is allowed in part; of other requests than SUBSCRIBE nothing does.
    pub(crate) mode: SubscribeMode,
    /// Says the listener.
    pub(crate) request: Request,
}

impl Asked {
    /// Returns the requests that one stands for: itself where it says the listener.
    pub(crate) fn each(request: &Request, modes: &Modes) -> Vec<Self> {
        let listeners: Vec<&str> = match &request.listener {
            Some(listener) => vec![listener],
            None => LISTENERS.to_vec(),
        };
        let asked = |listener: &str| Self {
            listener: listener.into(),
            mode: match request.verb {
                Verb::Subscribe => modes.on(listener).of(&request.filter),
                _ => SubscribeMode::default(),
            },
            request: Request { listener: Some(listener.into()), ..request.clone() },
        };
        listeners.into_iter().map(asked).collect()
    }

    /// Puts those together, by their places, for which these rules and the mode are the same: they have one answer.
    pub(crate) fn alike<'h>(all: &[Self], rules: impl Iterator<Item = &'h Held>) -> Vec<Vec<usize>> {
        let conditions: BTreeSet<&[String]> =
            rules.map(|held| &*held.rule.listener).filter(|listeners| !listeners.is_empty()).collect();
        let met = |asked: &Self| -> Vec<bool> {
            conditions.iter().map(|listeners| listeners.contains(&asked.listener)).collect()
        };
        let mut alike: BTreeMap<(&str, Vec<bool>), Vec<usize>> = BTreeMap::new();
        for (at, asked) in all.iter().enumerate() {
            alike.entry((asked.mode.name(), met(asked))).or_default().push(at);
        }
        let mut alike: Vec<Vec<usize>> = alike.into_values().collect();
        alike.sort();
        alike
    }
}
