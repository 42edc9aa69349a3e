//! Kinds of access, and what the lists of a rule say about them.

use crate::cell::{Cell, Question};
use crate::model::Held;
use crate::request::Verb;
use crate::setting::Conditions;
use crate::topics::{Filter, Topics};
use midge_policy::Effect;
use serde::Serialize;

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// To publish to topics, by PUBLISH or as a will.
    Publish,
    /// To subscribe to filters that match nothing but these topics.
    Subscribe,
    /// To subscribe to this very filter by a right that names it, whatever topics it matches.
    SubscribeLiteral,
    /// To be given messages of these topics.
    Receive,
}

impl Access {
    /// All kinds of access.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Subscribe, Self::SubscribeLiteral, Self::Receive];

    /// Name as a policy file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::SubscribeLiteral => "subscribe-literal",
            Self::Receive => "receive",
        }
    }

    /// The request that needs it.
    pub(crate) fn verb(self) -> Verb {
        match self {
            Self::Publish => Verb::Publish,
            Self::Subscribe | Self::SubscribeLiteral => Verb::Subscribe,
            Self::Receive => Verb::Receive,
        }
    }

    /// Tells whether a list allows or denies it.
    pub(crate) fn has(self, effect: Effect) -> bool {
        matches!(
            (self, effect),
            (Self::Publish, Effect::Publish | Effect::DenyPublish)
                | (Self::Subscribe, Effect::Subscribe | Effect::DenySubscribe)
                | (Self::SubscribeLiteral, Effect::SubscribeLiteral | Effect::DenySubscribeLiteral)
                | (
                    Self::Receive,
                    Effect::Subscribe | Effect::Receive | Effect::DenySubscribe | Effect::DenyReceive
                )
        )
    }

    /// Tells whether a list bears on the decision. A literal right counts only where rights to topics
    /// do not decide already.
    pub(crate) fn weighs(self, effect: Effect) -> bool {
        self.has(effect) || (self == Self::SubscribeLiteral && Self::Subscribe.has(effect))
    }

    /// Returns what the rule says of this access.
    pub(crate) fn lists(self, held: &Held, cell: &Cell) -> Vec<Listed> {
        let rule = &held.rule;
        let part = |name: &str| held.part(name);
        let connection = || Conditions::connection(rule, cell, part);
        let conditions = |effect: Effect| match (self, effect) {
            (Self::Publish, Effect::Publish) => Some(connection().publish(rule, cell, part)),
            (Self::Publish, Effect::DenyPublish)
            | (Self::Subscribe | Self::SubscribeLiteral, Effect::DenySubscribe)
            | (Self::SubscribeLiteral, Effect::DenySubscribeLiteral)
            | (Self::Receive, Effect::DenySubscribe | Effect::DenyReceive) => Some(connection()),
            (Self::Subscribe | Self::SubscribeLiteral | Self::Receive, Effect::Subscribe)
            | (Self::SubscribeLiteral, Effect::SubscribeLiteral) => {
                Some(connection().subscribe(rule, cell, part))
            }
            (Self::Receive, Effect::Receive) => Some(connection().receive(rule)),
            _ => None,
        };
        let mut lists: Vec<Listed> = Vec::new();
        for pattern in &held.patterns {
            let filter = pattern.filter.resolve(cell);
            match lists.iter_mut().find(|list| list.effect == pattern.effect) {
                Some(list) => list.filters.push(filter),
                None => {
                    let Some(conditions) = conditions(pattern.effect) else { continue };
                    lists.push(Listed { effect: pattern.effect, filters: vec![filter], conditions });
                }
            }
        }
        lists
    }
}

/// One list of a rule that bears on an access.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) effect: Effect,
    pub(crate) filters: Vec<Filter>,
    pub(crate) conditions: Conditions,
}

/// What one policy says of one cell, one access and one setting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    pub(crate) allow: Vec<Filter>,
    pub(crate) deny: Vec<Filter>,
    pub(crate) literal: Vec<Filter>,
    pub(crate) deny_literal: Vec<Filter>,
}

impl Side {
    pub(crate) fn add(&mut self, list: &Listed) {
        let known = match list.effect {
            Effect::Publish | Effect::Subscribe | Effect::Receive => &mut self.allow,
            Effect::DenyPublish | Effect::DenySubscribe | Effect::DenyReceive => &mut self.deny,
            Effect::SubscribeLiteral => &mut self.literal,
            Effect::DenySubscribeLiteral => &mut self.deny_literal,
        };
        for filter in &list.filters {
            if !known.contains(filter) {
                known.push(filter.clone());
            }
        }
    }

    /// Tells whether every topic of the filter is allowed and none is denied.
    pub(crate) fn allows(&self, filter: &Filter, cell: &Cell) -> Result<bool, Question> {
        for deny in &self.deny {
            if filter.meet(deny, cell)?.is_some() {
                return Ok(false);
            }
        }
        Ok(Topics::without(filter, &self.allow, cell)?.is_none())
    }

    /// Decides a SUBSCRIBE, literal rights included.
    pub(crate) fn allows_subscription(&self, filter: &Filter, cell: &Cell) -> Result<bool, Question> {
        let filter = filter.canonical();
        if among(&self.deny_literal, &filter, cell)? {
            return Ok(false);
        }
        if self.allows(&filter, cell)? {
            return Ok(true);
        }
        for deny in &self.deny {
            if filter.meet(deny, cell)?.is_some() {
                return Ok(false);
            }
        }
        among(&self.literal, &filter, cell)
    }

    /// Returns the topics that this side gives and the other does not.
    pub(crate) fn beyond(&self, other: &Self, access: Access, cell: &Cell) -> Result<Vec<Topics>, Question> {
        if access == Access::SubscribeLiteral {
            self.literals_beyond(other, cell)
        } else {
            self.topics_beyond(other, cell)
        }
    }

    /// They are those of an allow that the other side does not allow, and those of an allow that the
    /// other side denies; in both cases without what this side denies itself.
    fn topics_beyond(&self, other: &Self, cell: &Cell) -> Result<Vec<Topics>, Question> {
        let mut found = Vec::new();
        for allow in &self.allow {
            if !other.allow.contains(allow) {
                found.extend(Topics::without(allow, self.deny.iter().chain(&other.allow), cell)?);
            }
            for deny in other.deny.iter().filter(|deny| !self.deny.contains(deny)) {
                if let Some(part) = allow.meet(deny, cell)? {
                    found.extend(Topics::without(&part, &self.deny, cell)?);
                }
            }
        }
        Ok(without_parts_of_others(found, cell))
    }

    /// Of all filters that a literal right or deny names: those that may be subscribed to here and not
    /// there, where rights to topics alone do not explain it.
    fn literals_beyond(&self, other: &Self, cell: &Cell) -> Result<Vec<Topics>, Question> {
        let named = [&self.literal, &self.deny_literal, &other.literal, &other.deny_literal];
        let mut found = Vec::new();
        for filter in named.into_iter().flatten() {
            let filter = filter.canonical();
            let here = self.allows_subscription(&filter, cell)?;
            let there = other.allows_subscription(&filter, cell)?;
            let by_topics = self.allows(&filter, cell)? == here && other.allows(&filter, cell)? == there;
            if here && !there && !by_topics {
                found.push(Topics::literal(filter));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Tells whether the canonical filter is one of these.
fn among(filters: &[Filter], filter: &Filter, cell: &Cell) -> Result<bool, Question> {
    for other in filters {
        if other.canonical().is_same(filter, cell)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Drops sets that are parts of others.
fn without_parts_of_others(mut found: Vec<Topics>, cell: &Cell) -> Vec<Topics> {
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
