//! What a decision in favour of a client is: permits, which nothing else can make, and what they demand.

use crate::{CheckedRule, Durability, QueueOverflow, RateLimit, RuleName};
use mqtt_proto::{QoS, SharedFilter, TopicFilter, TopicName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a publication is, apart from its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishFacts<'a> {
    /// Quality of service of the PUBLISH or of the will.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// Length of the payload in bytes.
    pub payload_len: usize,
    /// The Response Topic it names.
    pub response_topic: Option<&'a TopicName>,
}

/// What the rule that allows a publication demands of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    pub(crate) qos_max: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_max: usize,
    pub(crate) will: bool,
    pub(crate) rate: Option<RateLimit>,
    pub(crate) durability: Option<Durability>,
    pub(crate) queue_overflow: Option<QueueOverflow>,
}

impl Limits {
    /// Tells whether the rule says something of its own about the publications that it allows.
    pub(crate) fn states(&self) -> bool {
        self.durability.is_some() || self.queue_overflow == Some(QueueOverflow::Refuse)
    }

    /// Tells whether every publication meets them.
    pub(crate) fn is_open(&self) -> bool {
        self.qos_max == QoS::ExactlyOnce && self.retain && self.payload_max == usize::MAX
    }

    #[inline]
    fn hold(&self, facts: &PublishFacts<'_>) -> bool {
        facts.qos <= self.qos_max && (self.retain || !facts.retain) && facts.payload_len <= self.payload_max
    }
}

/// Proof that one identity may publish to one topic: made only by [`crate::Rights::publish`] and
/// [`crate::Rights::will`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishPermit {
    pub(crate) epoch: u64,
    pub(crate) rule: CheckedRule,
    /// Other rules that allow it, in their order, where each of them sets a rate.
    pub(crate) others: Box<[CheckedRule]>,
    pub(crate) durability: Option<Durability>,
    pub(crate) refuses_overflow: bool,
    pub(crate) response_topic: Option<TopicName>,
    /// What was asked for, when another publication could be allowed on other terms.
    pub(crate) only: Option<(QoS, bool, usize)>,
}

impl PublishPermit {
    /// Epoch of the policy that decided; another epoch's policy has to be asked again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Name of the rule that allows it.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule.0.name.text
    }

    /// Name and source of the rule that allows it.
    pub fn rule_name(&self) -> &RuleName {
        &self.rule.0.name
    }

    /// Tells whether the permit also covers another publication to the same topic, on the same terms
    /// (rate, durability, overflow). When it does not, ask [`crate::Rights::publish`] again.
    #[inline]
    pub fn covers(&self, facts: &PublishFacts<'_>) -> bool {
        let same_topic = facts.response_topic == self.response_topic.as_ref();
        self.rule.0.limits.hold(facts)
            && (same_topic || (facts.response_topic.is_none() && self.only.is_none()))
            && self.only.is_none_or(|only| only == (facts.qos, facts.retain, facts.payload_len))
    }

    /// How fast the rules that allow it let publish, in their order: it may be published as long as one of them lets it.
    /// None where one sets no rate; the permit is of that rule then.
    pub fn rates(&self) -> impl Iterator<Item = (&RuleName, &RateLimit)> {
        let rated = |rule: &'_ CheckedRule| rule.0.limits.rate.is_some();
        let rules = std::iter::once(&self.rule).chain(&self.others).filter(move |rule| rated(rule));
        rules.filter_map(|rule| Some((&rule.0.name, rule.0.limits.rate.as_ref()?)))
    }

    /// What must survive before the publication is acknowledged: as the first rule says that allows
    /// it and says so, the broker's own when none does.
    pub fn durability(&self) -> Option<Durability> {
        self.durability
    }

    /// Tells whether the publication is to be refused where a subscriber's queue has no room for it.
    pub fn refuses_overflow(&self) -> bool {
        self.refuses_overflow
    }
}

/// What to do with a SUBSCRIBE that is allowed in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SubscribeMode {
    /// Refuse it.
    #[default]
    Reject,
    /// Grant the parts of the filter that are allowed.
    Narrow,
    /// Grant the filter and leave out of its deliveries what is not allowed.
    Filter,
}

impl SubscribeMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Reject, Self::Narrow, Self::Filter];

    /// Name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Narrow => "narrow",
            Self::Filter => "filter",
        }
    }

    /// Reads the name.
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == text)
    }

    /// Returns what becomes of a filter on a listener of this mode. A share group has one filter for all its members:
    /// theirs are not narrowed but filtered.
    pub fn of(self, filter: &SharedFilter) -> Self {
        match self {
            Self::Narrow if filter.group.is_some() => Self::Filter,
            mode => mode,
        }
    }
}

/// How much of a requested filter was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// All of it.
    Whole,
    /// Its parts that are allowed.
    Narrowed,
    /// The filter, but only the deliveries that are allowed.
    Filtered,
}

/// One filter that a subscription stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribePart {
    pub(crate) filter: TopicFilter,
    pub(crate) qos: QoS,
    pub(crate) filtered: bool,
}

impl SubscribePart {
    /// The filter.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Quality of service to grant to it: the requested one, lowered to what the rules allow.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Tells whether some topics under the filter must not be delivered: every delivery then needs
    /// [`crate::Rights::receive`], even while the epoch is the same, at no higher quality of service
    /// than that says.
    pub fn is_filtered(&self) -> bool {
        self.filtered
    }
}

/// Proof that one identity may subscribe to one filter: made only by [`crate::Rights::subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribePermit {
    pub(crate) epoch: u64,
    pub(crate) rule: CheckedRule,
    pub(crate) extent: Extent,
    pub(crate) parts: Box<[SubscribePart]>,
}

impl SubscribePermit {
    /// Epoch of the policy that decided; another epoch's policy has to be asked again.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Name of the rule that allows it; the first one where it takes several.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule.0.name.text
    }

    /// Name and source of the rule that allows it.
    pub fn rule_name(&self) -> &RuleName {
        &self.rule.0.name
    }

    /// How much of the requested filter it grants.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// The filters to deliver by, at least one: the requested filter itself unless the permit is
    /// narrowed. A topic may match several.
    pub fn parts(&self) -> &[SubscribePart] {
        &self.parts
    }

    /// Returns the parts that are granted without exception, where that is not all that was asked for: none of it when only
    /// single deliveries are allowed, by a literal right or beside a deny.
    pub fn in_part(&self) -> Option<impl Iterator<Item = &TopicFilter>> {
        let is_all = self.extent == Extent::Whole && !self.is_filtered();
        let granted = self.parts.iter().filter(|part| !part.filtered).map(|part| &part.filter);
        (!is_all).then_some(granted)
    }

    /// Quality of service to answer with: the highest of the parts.
    pub fn qos(&self) -> QoS {
        self.parts.iter().map(|part| part.qos).max().unwrap_or_default()
    }

    /// Tells whether a part [is filtered](SubscribePart::is_filtered).
    pub fn is_filtered(&self) -> bool {
        self.parts.iter().any(|part| part.filtered)
    }

    /// What to do when a message finds the session's queue full: drop the newest or the oldest; the
    /// broker's own way when the rule says nothing.
    pub fn queue_overflow(&self) -> Option<QueueOverflow> {
        self.rule.0.limits.queue_overflow.filter(|overflow| *overflow != QueueOverflow::Refuse)
    }
}

/// Proof that one identity may receive one topic: made only by [`crate::Rights::receive`] and
/// [`crate::Rights::receive_shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivePermit<'a> {
    pub(crate) rule: &'a CheckedRule,
    pub(crate) qos: QoS,
}

impl<'a> ReceivePermit<'a> {
    /// The rule that allows it.
    pub fn rule(&self) -> &'a RuleName {
        &self.rule.0.name
    }

    /// Highest quality of service that a rule allows for the topic.
    pub fn qos(&self) -> QoS {
        self.qos
    }
}
