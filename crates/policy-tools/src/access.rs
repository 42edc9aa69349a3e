//! Kinds of access, and what the lists of a rule say about them.

use crate::cell::Cell;
use crate::explore::{Left, Stop};
use crate::model::Held;
use crate::near::Filters;
use crate::request::Verb;
use crate::setting::Conditions;
use crate::topics::{Apart, Filter, Topics};
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
    /// To be brought these topics by subscriptions to filters that rights to topics allow in part only.
    SubscribePart,
}

impl Access {
    /// The kinds of access that rules alone decide, whatever listeners make of what is allowed in part.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Subscribe, Self::SubscribeLiteral, Self::Receive];

    /// Name as a policy file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::SubscribeLiteral => "subscribe-literal",
            Self::Receive => "receive",
            Self::SubscribePart => "subscribe-part",
        }
    }

    /// The request that needs it.
    pub(crate) fn verb(self) -> Verb {
        match self {
            Self::Publish => Verb::Publish,
            Self::Subscribe | Self::SubscribeLiteral | Self::SubscribePart => Verb::Subscribe,
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
                    Self::Receive | Self::SubscribePart,
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
            | (Self::Receive | Self::SubscribePart, Effect::DenySubscribe | Effect::DenyReceive) => {
                Some(connection())
            }
            (
                Self::Subscribe | Self::SubscribeLiteral | Self::Receive | Self::SubscribePart,
                Effect::Subscribe,
            )
            | (Self::SubscribeLiteral, Effect::SubscribeLiteral) => {
                Some(connection().subscribe(rule, cell, part))
            }
            (Self::Receive | Self::SubscribePart, Effect::Receive) => Some(connection().receive(rule)),
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
    pub(crate) allow: Filters,
    pub(crate) deny: Filters,
    pub(crate) literal: Filters,
    pub(crate) deny_literal: Filters,
}

impl Side {
    /// A side of which one question is asked.
    pub(crate) fn plain() -> Self {
        let plain = Filters::plain;
        Self { allow: plain(), deny: plain(), literal: plain(), deny_literal: plain() }
    }

    pub(crate) fn add<'a>(&mut self, effect: Effect, filters: impl IntoIterator<Item = &'a Filter>) {
        let known = match effect {
            Effect::Publish | Effect::Subscribe | Effect::Receive => &mut self.allow,
            Effect::DenyPublish | Effect::DenySubscribe | Effect::DenyReceive => &mut self.deny,
            Effect::SubscribeLiteral => &mut self.literal,
            Effect::DenySubscribeLiteral => &mut self.deny_literal,
        };
        known.extend(filters);
    }

    /// Tells whether every topic of the filter is allowed and none is denied.
    pub(crate) fn allows(&self, filter: &Filter, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        if self.denies(filter, cell, left)? {
            return Ok(false);
        }
        Ok(Topics::rest(filter, self.allow.meeting(filter, left)?, cell)?.is_none())
    }

    /// Tells whether a topic of the filter is denied.
    fn denies(&self, filter: &Filter, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
        for deny in self.deny.meeting(filter, left)? {
            if filter.meet(deny, cell)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells whether the filter, which is canonical, is denied as it stands.
    pub(crate) fn names_as_denied(
        &self,
        filter: &Filter,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<bool, Stop> {
        among(&self.deny_literal, filter, cell, left)
    }

    /// Decides a SUBSCRIBE, literal rights included.
    pub(crate) fn allows_subscription(
        &self,
        filter: &Filter,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<bool, Stop> {
        let filter = filter.canonical();
        if self.names_as_denied(&filter, cell, left)? {
            return Ok(false);
        }
        if self.allows(&filter, cell, left)? {
            return Ok(true);
        }
        Ok(!self.denies(&filter, cell, left)? && among(&self.literal, &filter, cell, left)?)
    }

    /// Returns the topics that this side gives and the other does not.
    pub(crate) fn beyond(
        &self,
        other: &Self,
        access: Access,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<Vec<Topics>, Stop> {
        if access == Access::SubscribeLiteral {
            self.literals_beyond(other, cell, left)
        } else {
            self.topics_beyond(other, cell, left)
        }
    }

    /// They are those of an allow that the other side does not allow, and those of an allow that the
    /// other side denies; in both cases without what this side denies itself.
    fn topics_beyond(&self, other: &Self, cell: &Cell, left: &mut Left) -> Result<Vec<Topics>, Stop> {
        let mut found = Vec::new();
        for allow in self.allow.iter() {
            if !other.allow.contains(allow) {
                let denied: Vec<&Filter> = self.deny.meeting(allow, left)?.collect();
                let allowed = other.allow.meeting(allow, left)?;
                found.extend(Topics::without(allow, denied.into_iter().chain(allowed), cell, left)?);
            }
            let denied = other.deny.meeting(allow, left)?;
            for deny in denied.filter(|deny| !self.deny.contains(deny)) {
                if let Some(part) = allow.meet(deny, cell)? {
                    let own = self.deny.meeting(&part, left)?;
                    found.extend(Topics::without(&part, own, cell, left)?);
                }
            }
        }
        found.sort();
        found.dedup();
        let mut apart = Apart::default();
        for topics in found {
            apart.insert(topics, cell, left)?;
        }
        Ok(apart.into_topics().collect())
    }

    /// Of all filters that a literal right or deny names: those that may be subscribed to here and not
    /// there, where rights to topics alone do not explain it.
    fn literals_beyond(&self, other: &Self, cell: &Cell, left: &mut Left) -> Result<Vec<Topics>, Stop> {
        let named = [&self.literal, &self.deny_literal, &other.literal, &other.deny_literal];
        let mut found = Vec::new();
        for filter in named.into_iter().flat_map(Filters::iter) {
            let filter = filter.canonical();
            let here = self.allows_subscription(&filter, cell, left)?;
            let there = other.allows_subscription(&filter, cell, left)?;
            if !here || there {
                continue;
            }
            let by_topics = self.allows(&filter, cell, left)? && !other.allows(&filter, cell, left)?;
            if !by_topics {
                found.push(Topics::literal(filter));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Tells whether the canonical filter is one of these.
fn among(filters: &Filters, filter: &Filter, cell: &Cell, left: &mut Left) -> Result<bool, Stop> {
    for other in filters.meeting(filter, left)? {
        if other.canonical().is_same(filter, cell)? {
            return Ok(true);
        }
    }
    Ok(false)
}
