//! Why a request is allowed or denied: every rule that was considered, and what it had to say.

use crate::cell::Cell;
use crate::decision::Answer;
use crate::model::{Held, Ruleset};
use crate::modes::Asked;
use crate::own_quotas::QuotaSaid;
use crate::request::{Request, Verb};
use midge_identity::SpiffeId;
use midge_policy::{Effect, Rule};
use mqtt_proto::{QoS, TopicFilter};
use serde::Serialize;
use std::sync::Arc;

/// In which order rules decide.
pub const PRECEDENCE: [&str; 4] = [
    "a deny of any rule wins over every allow, whatever its source and place",
    "then an allow of any rule whose conditions are met; allows add up",
    "then nothing allows it, and it is denied",
    "of several rules that say the same, the first is named: files by name and line, built-in rules, \
     rules from the cloud, grants of entries",
];

/// An explained decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who asks.
    pub id: String,
    /// What for.
    pub request: String,
    /// The decision.
    #[serde(flatten)]
    pub answer: Answer,
    /// How much the identity may keep, where rules say so, on the listeners that the request may come by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<QuotaSaid>,
    /// Rules whose `id` matches, first by precedence first.
    pub considered: Vec<Considered>,
    /// How many rules speak of other identities.
    pub others: usize,
    /// In which order rules decide.
    pub precedence: Vec<&'static str>,
}

/// What one rule has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// Its name.
    pub rule: String,
    /// Where it stands.
    pub place: String,
    /// What its captures stand for, as `name = value`.
    pub captures: Vec<String>,
    /// The listeners that it holds on, where the request says none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only_on: Vec<String>,
    /// The `unless` that excepts the identity: then the rule says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excepted_by: Option<String>,
    /// The condition that is not met: then the rule allows nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmet: Option<String>,
    /// Its patterns that have topics in common with the request.
    pub patterns: Vec<Said>,
}

/// What one pattern of a rule has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// Key of its list, such as `deny-publish`.
    pub list: &'static str,
    /// As the rule spells it.
    pub pattern: String,
    /// With the captures filled in.
    pub filter: String,
    /// Whether it has every topic of the request, or only some.
    pub whole: bool,
}

impl Explanation {
    /// Explains the decision on a request.
    pub fn of(rules: &Ruleset, id: &SpiffeId, request: &Request) -> Self {
        let cell = Cell::of(id);
        let mut speaking: Vec<&Arc<Held>> = rules.speaking_of(id);
        speaking.sort_by(|a, b| a.checked.name().cmp_precedence(b.checked.name()));
        let applying = rules.applying(id);
        let freely = Asked::each(request, rules.modes())
            .iter()
            .any(|asked| asked.request.may_name_freely(applying.iter().map(|held| &***held), &cell));
        let considered: Vec<Considered> =
            speaking.iter().map(|held| Considered::of(held, &cell, request, freely)).collect();
        Self {
            id: id.to_string(),
            request: request.to_string(),
            answer: request.answer(rules, id),
            quotas: QuotaSaid::of(rules, id, request),
            others: rules.held().len() - considered.len(),
            considered,
            precedence: PRECEDENCE.to_vec(),
        }
    }
}

impl Considered {
    /// `freely` tells whether the Response Topic takes no right of the rule's own.
    fn of(held: &Held, cell: &Cell, request: &Request, freely: bool) -> Self {
        let excepted_by = held.excepted_by(cell).map(str::to_owned);
        // On whichever listener it holds.
        let somewhere = Request { listener: held.rule.listener.first().cloned(), ..request.clone() };
        let only_on = if request.listener.is_none() { held.rule.listener.clone() } else { Vec::new() };
        let request = if only_on.is_empty() { request } else { &somewhere };
        let wanted = &request.filter.filter;
        let said = held.patterns.iter().filter(|pattern| request.verb.concerns(pattern.effect)).filter_map(
            |pattern| {
                let text = pattern.filter.resolve(cell).text(|_| String::new());
                let filter = TopicFilter::new(&text).ok()?;
                let literal =
                    matches!(pattern.effect, Effect::SubscribeLiteral | Effect::DenySubscribeLiteral);
                let whole = if literal {
                    midge_policy::is_equivalent(&filter, wanted)
                } else {
                    midge_policy::contains(&filter, wanted)
                };
                let some = whole || (!literal && midge_policy::intersection(&filter, wanted).is_some());
                let said =
                    Said { list: pattern.effect.key(), pattern: pattern.text.clone(), filter: text, whole };
                some.then_some(said)
            },
        );
        Self {
            rule: held.rule.name.clone(),
            place: held.rule.source.to_string(),
            captures: held
                .bindings(cell)
                .into_iter()
                .map(|(name, value)| format!("{name} = {value}"))
                .collect(),
            only_on,
            unmet: if excepted_by.is_none() {
                request.unmet(held, cell).or_else(|| request.unmet_reply(held, cell, freely))
            } else {
                None
            },
            patterns: if excepted_by.is_none() { said.collect() } else { Vec::new() },
            excepted_by,
        }
    }
}

impl Request {
    /// The same as [`Self::names_freely`], of one identity.
    pub(crate) fn may_name_freely<'h>(&self, rules: impl IntoIterator<Item = &'h Held>, cell: &Cell) -> bool {
        let listener = self.listener.as_deref();
        let connects = |held: &Held| {
            self.unmet_listener(&held.rule).is_none() && held.is_client(self.client_id.as_deref(), cell)
        };
        let holds =
            |held: &Held, is_deny| Ok(if is_deny { held.denies_on(listener) } else { connects(held) });
        // No question is open about one identity.
        self.names_freely(rules, cell, holds) == Ok(true)
    }

    fn unmet_reply(&self, held: &Held, cell: &Cell, freely: bool) -> Option<String> {
        let is_unmet =
            !freely && held.has(|effect| effect == Effect::Publish) && self.names_by(held, cell) == Ok(false);
        is_unmet.then(|| format!("response-topics = [{}]", held.rule.response_topics.join(", ")))
    }

    /// Returns the first condition of the rule that the request does not meet.
    pub(crate) fn unmet(&self, held: &Held, cell: &Cell) -> Option<String> {
        if !held.is_client(self.client_id.as_deref(), cell) {
            return Some(format!("client-id = [{}]", held.rule.client_id.join(", ")));
        }
        self.unmet_by(&held.rule).or_else(|| self.unmet_group(held, cell))
    }

    /// The same for conditions that need no captures.
    pub(crate) fn unmet_by(&self, rule: &Rule) -> Option<String> {
        self.unmet_listener(rule).or_else(|| self.unmet_facts(rule))
    }

    fn unmet_listener(&self, rule: &Rule) -> Option<String> {
        let is_met = rule.listener.is_empty()
            || self.listener.as_ref().is_some_and(|listener| rule.listener.contains(listener));
        (!is_met).then(|| format!("listener = [{}]", rule.listener.join(", ")))
    }

    /// The same for conditions on what is published.
    pub(crate) fn unmet_facts(&self, rule: &Rule) -> Option<String> {
        if !matches!(self.verb, Verb::Publish | Verb::Will) {
            return None;
        }
        let long = |max: &u32| usize::try_from(*max).is_ok_and(|max| self.payload_len > max);
        if let Some(max) = rule.qos_max.filter(|max| self.qos as u8 > *max) {
            Some(format!("qos-max = {max}"))
        } else if self.retain && rule.retain == Some(false) {
            Some("retain = false".into())
        } else if let Some(max) = rule.payload_max.filter(long) {
            Some(format!("payload-max = {max}"))
        } else if self.verb == Verb::Will && rule.will == Some(false) {
            Some("will = false".into())
        } else {
            None
        }
    }

    fn unmet_group(&self, held: &Held, cell: &Cell) -> Option<String> {
        let (Some(groups), Some(group), Verb::Subscribe) =
            (&held.rule.share_groups, &self.filter.group, self.verb)
        else {
            return None;
        };
        let named = |text: &String| text == "*" || held.filled(text, cell) == **group;
        (!groups.iter().any(named)).then(|| format!("share-groups = [{}]", groups.join(", ")))
    }
}

/// Returns the quality of service of a number.
pub fn qos(number: u8) -> Option<QoS> {
    [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().find(|qos| *qos as u8 == number)
}
