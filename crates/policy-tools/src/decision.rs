//! The answer to a request: on one listener, and on all of them.

use crate::access::Access;
use crate::cell::Cell;
use crate::model::Ruleset;
use crate::modes::Asked;
use crate::rates::RateSaid;
use crate::request::{Request, Verb};
use crate::topics::{Filter, Topics};
use midge_identity::SpiffeId;
use midge_policy::{Effect, Extent, PublishPermit, RuleName, SubscribeMode, SubscribePermit};
use mqtt_proto::{QoS, TopicFilter};
use serde::Serialize;
use std::collections::BTreeSet;

/// Parts of a subscription that a sentence names; they stand by themselves in full.
const PARTS_SHOWN: usize = 5;

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether it is allowed; a subscription also where it is granted in part.
    pub allowed: bool,
    /// Whether a subscription is granted and brings less than every topic of its filter.
    pub in_part: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// Rule that allows or denies it, where one alone does; of a subscription in part the first that allows some.
    pub rule: Option<String>,
    /// Where that rule stands.
    pub place: Option<String>,
    /// What becomes of subscriptions that are allowed in part, where a subscription is asked for; none where listeners
    /// differ in it and the answer is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<SubscribeMode>,
    /// How much of a subscription is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extent: Option<Extent>,
    /// Quality of service that a subscription is granted, or that a message of one topic is delivered at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_qos: Option<u8>,
    /// How fast it may be published, where every rule that allows it says so: as long as one of them has room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<RateSaid>,
    /// Whether some topics are left out of what a subscription brings.
    pub filtered: bool,
    /// Filters that a granted subscription stands for: its own, unless it is narrowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// What deny rules leave out of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Why not all of a subscription is granted that is granted in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_whole: Option<String>,
}

/// One filter that a subscription stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The filter.
    pub filter: String,
    /// Quality of service that it is granted.
    pub qos: u8,
    /// Whether some of its topics are left out.
    pub filtered: bool,
}

/// Topics that a deny leaves out of what a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Filter of the topics.
    pub filter: String,
    /// Key of the list that denies them, such as `deny-receive`.
    pub list: &'static str,
    /// Name of the rule.
    pub rule: String,
    /// Where the rule stands.
    pub place: String,
}

/// The answer on some listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Names of the listeners.
    pub listeners: Vec<String>,
    /// The answer.
    #[serde(flatten)]
    pub decision: Decision,
}

/// The answer on whichever listener the request comes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The answer on each; where they differ, it is allowed that is allowed on all of them.
    #[serde(flatten)]
    pub decision: Decision,
    /// The answers where they differ: each listener belongs to one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_listener: Vec<Verdict>,
}

impl Decision {
    /// Says in a word how much is allowed.
    pub fn word(&self) -> &'static str {
        match (self.allowed, self.in_part) {
            (false, _) => "denied",
            (true, false) => "allowed",
            (true, true) => "allowed in part",
        }
    }

    pub(crate) fn allowed(rule: &RuleName) -> Self {
        Self { allowed: true, reason: format!("rule {rule} allows it"), ..Self::default() }.by(rule)
    }

    pub(crate) fn published(permit: &PublishPermit) -> Self {
        Self { rates: RateSaid::of(permit), ..Self::allowed(permit.rule_name()) }
    }

    pub(crate) fn denied(denial: midge_policy::Denial) -> Self {
        let decision = Self { reason: denial.to_string(), ..Self::default() };
        denial.rule.as_ref().map_or(decision.clone(), |rule| decision.by(rule))
    }

    fn by(self, rule: &RuleName) -> Self {
        Self { rule: Some(rule.text().to_string()), place: Some(rule.source().to_string()), ..self }
    }

    /// Returns the decision to let it be at no higher quality of service than this: more is lowered, not refused.
    pub(crate) fn at(self, wanted: QoS, qos_max: QoS) -> Self {
        let granted = wanted.min(qos_max) as u8;
        let reason =
            if wanted > qos_max { format!("{}, at qos {granted}", self.reason) } else { self.reason };
        Self { granted_qos: Some(granted), reason, ..self }
    }

    /// Returns the decision to grant a subscription; `refusal` is why it would be refused where nothing is granted in
    /// part.
    pub(crate) fn granted(
        request: &Request,
        permit: &SubscribePermit,
        refusal: Option<String>,
        delivered: Delivered,
    ) -> Self {
        let rule = permit.rule_name();
        let reason = match permit.extent() {
            Extent::Whole => format!("rule {rule} allows it{}", delivered.told()),
            Extent::Narrowed => format!("rule {rule} allows a part of it, {}", listed(permit)),
            Extent::Filtered => {
                format!("rule {rule} allows some of its topics, and only those are delivered")
            }
        };
        let part = |part: &midge_policy::SubscribePart| Part {
            filter: part.filter().to_string(),
            qos: part.qos() as u8,
            filtered: part.is_filtered(),
        };
        Self {
            reason,
            in_part: permit.in_part().is_some(),
            extent: Some(permit.extent()),
            filtered: permit.is_filtered(),
            parts: permit.parts().iter().map(part).collect(),
            not_whole: refusal,
            ..Self::allowed(rule)
        }
        .at(request.qos, permit.qos())
    }

    /// Returns the same without the mode, for comparing what is decided.
    fn bare(&self) -> Self {
        Self { mode: None, ..self.clone() }
    }
}

impl Answer {
    pub(crate) fn of(rules: &Ruleset, id: &SpiffeId, request: &Request) -> Self {
        let all = Asked::each(request, rules.modes());
        let speaking = rules.applying(id);
        let mut found: Vec<Verdict> = Vec::new();
        for places in Asked::alike(&all, speaking.iter().map(|held| &***held)) {
            let mut asked = places.iter().filter_map(|at| all.get(*at));
            let Some(first) = asked.next() else { continue };
            let decision = first.request.decide(rules, id);
            let listeners = std::iter::once(first).chain(asked).map(|asked| asked.listener.clone());
            match found.iter_mut().find(|verdict| verdict.decision.bare() == decision.bare()) {
                Some(verdict) => {
                    verdict.listeners.extend(listeners);
                    verdict.decision.mode = verdict.decision.mode.filter(|mode| decision.mode == Some(*mode));
                }
                None => found.push(Verdict { listeners: listeners.collect(), decision }),
            }
        }
        match <[Verdict; 1]>::try_from(found) {
            Ok([verdict]) => Self { decision: verdict.decision, by_listener: Vec::new() },
            Err(verdicts) => Self { decision: summary(&verdicts), by_listener: verdicts },
        }
    }

    /// Returns the answers, one or those of the listeners.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        let one = self.by_listener.is_empty().then_some(&self.decision);
        one.into_iter().chain(self.by_listener.iter().map(|verdict| &verdict.decision))
    }
}

/// Lists the filters of a permit in a sentence.
fn listed(permit: &SubscribePermit) -> String {
    let parts = permit.parts();
    let shown: Vec<String> =
        parts.iter().take(PARTS_SHOWN).map(|part| format!("`{}`", part.filter())).collect();
    match parts.len().saturating_sub(PARTS_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Says of answers that differ what there is to say of all.
fn summary(verdicts: &[Verdict]) -> Decision {
    let decisions = || verdicts.iter().map(|verdict| &verdict.decision);
    let allowed = decisions().all(|decision| decision.allowed);
    let told: Vec<String> = verdicts
        .iter()
        .map(|verdict| format!("{} on {}", verdict.decision.word(), verdict.listeners.join(", ")))
        .collect();
    Decision {
        allowed,
        in_part: allowed && decisions().any(|decision| decision.in_part),
        filtered: decisions().any(|decision| decision.filtered),
        reason: format!("it depends on the listener: {}", told.join("; ")),
        ..Decision::default()
    }
}

/// How much is delivered of a subscription. Of what is granted in parts there is always something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    All,
    Some,
    Nothing,
}

impl Delivered {
    pub(crate) fn of(rules: &Ruleset, id: &SpiffeId, request: &Request, permit: &SubscribePermit) -> Self {
        let is_whole = permit.extent() == Extent::Whole;
        match permit.is_filtered() {
            false => Self::All,
            true if is_whole && brings_nothing(rules, id, request) => Self::Nothing,
            true => Self::Some,
        }
    }

    fn told(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Some => ", and some of its topics are not delivered",
            Self::Nothing => ", and none of its topics is delivered",
        }
    }
}

/// Tells whether the rules let nothing be delivered of a filter.
fn brings_nothing(rules: &Ruleset, id: &SpiffeId, request: &Request) -> bool {
    let cell = Cell::of(id);
    let wanted = Filter::read(request.filter.filter.as_str(), |_| None);
    // To receive takes no right to join the share group.
    let receiving = Request { verb: Verb::Receive, ..request.clone() };
    let (mut allows, mut denies) = (Vec::new(), Vec::new());
    for held in rules.applying(id) {
        for pattern in &held.patterns {
            let filter = pattern.filter.resolve(&cell);
            match pattern.effect {
                Effect::Subscribe if request.unmet(held, &cell).is_none() => allows.push(filter),
                Effect::Receive if receiving.unmet(held, &cell).is_none() => allows.push(filter),
                Effect::DenySubscribe | Effect::DenyReceive
                    if held.denies_on(request.listener.as_deref()) =>
                {
                    denies.push(filter);
                }
                _ => {}
            }
        }
    }
    // No question is open about one identity.
    allows
        .iter()
        .filter_map(|allow| wanted.meet(allow, &cell).ok().flatten())
        .all(|met| matches!(Topics::rest(&met, &denies, &cell), Ok(None)))
}

/// Tells what the denies that hold for the request leave out of these filters.
pub(crate) fn left_out(rules: &Ruleset, id: &SpiffeId, request: &Request, parts: &[Part]) -> Vec<LeftOut> {
    let cell = Cell::of(id);
    let parts: Vec<TopicFilter> = parts
        .iter()
        .filter(|part| part.filtered)
        .filter_map(|part| TopicFilter::new(part.filter.as_str()).ok())
        .collect();
    if parts.is_empty() {
        return Vec::new();
    }
    let mut holding = rules.applying(id);
    holding.retain(|held| held.denies_on(request.listener.as_deref()));
    holding.sort_by(|a, b| a.checked.name().cmp_precedence(b.checked.name()));
    let mut found: Vec<LeftOut> = Vec::new();
    for held in holding {
        let denies = held
            .patterns
            .iter()
            .filter(|pattern| pattern.effect.is_deny() && Access::Receive.has(pattern.effect));
        for pattern in denies {
            let denied = pattern.filter.resolve(&cell).text(|_| String::new());
            let Ok(denied) = TopicFilter::new(denied) else { continue };
            let met = parts.iter().filter_map(|part| midge_policy::intersection(part, &denied));
            let met: BTreeSet<String> = met.map(|filter| filter.to_string()).collect();
            found.extend(met.into_iter().map(|filter| LeftOut {
                filter,
                list: pattern.effect.key(),
                rule: held.rule.name.clone(),
                place: held.rule.source.to_string(),
            }));
        }
    }
    found
}
