//! From a rule as it is written to a rule that can be asked: every value checked, every pattern parsed.

use crate::condition::{ConditionFault, LISTENERS};
use crate::error::{IdFault, TopicFault};
use crate::id_pattern::{Captures, IdPattern};
use crate::permit::Limits;
use crate::rights::{Context, Standing};
use crate::segments::Segments;
use crate::template::Template;
use crate::text_pattern::{ClientIdPattern, GroupPattern};
use crate::{Effect, PolicyError, Problem, QueueOverflow, Quota, RateLimit, Rule, RuleName};
use midge_identity::SpiffeId;
use mqtt_proto::QoS;
use std::sync::Arc;

/// A rule that has been checked and compiled. Cheap to clone and to keep, so that a change of one
/// grant among many costs that grant alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRule(pub(crate) Arc<Compiled>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) name: RuleName,
    rule: Rule,
    pub(crate) id: IdPattern,
    /// The only identity it speaks of, when there is one.
    pub(crate) only: Option<SpiffeId>,
    unless: Vec<IdPattern>,
    client_ids: Vec<ClientIdPattern>,
    pub(crate) topics: Vec<(Effect, Template)>,
    pub(crate) replies: Vec<Template>,
    pub(crate) groups: Option<Vec<GroupPattern>>,
    pub(crate) limits: Limits,
}

/// `unless`, `client-id` and `listener`.
pub(crate) type Condition<'a> = (&'a [IdPattern], &'a [ClientIdPattern], &'a [String]);

impl CheckedRule {
    /// Name and source of the rule.
    pub fn name(&self) -> &RuleName {
        &self.0.name
    }

    /// The rule as it is written.
    pub fn rule(&self) -> &Rule {
        &self.0.rule
    }

    /// The identities it speaks of, but for those of [`CheckedRule::unless`].
    pub fn id(&self) -> &IdPattern {
        &self.0.id
    }

    /// The identities it does not speak of.
    pub fn unless(&self) -> &[IdPattern] {
        &self.0.unless
    }

    /// Tells whether the rule speaks of the identity.
    pub fn speaks_of(&self, id: &SpiffeId) -> bool {
        let id = &Segments::of(id);
        self.0.id.matches(id) && !self.excepts(id)
    }

    /// Tells whether it depends on the client id or the listener if the rule holds.
    pub fn depends_on_connection(&self) -> bool {
        !self.0.client_ids.is_empty() || !self.0.rule.listener.is_empty()
    }

    /// Tells whether both say the same under the same name, wherever they stand.
    pub fn means_same_as(&self, other: &Self) -> bool {
        let (one, two) = (&*self.0, &*other.0);
        Arc::ptr_eq(&self.0, &other.0) || (one.name.text == two.name.text && one.rule.says_same_as(&two.rule))
    }

    /// Tells whether both are one value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Tells whether it makes an exception of an identity that matches its `id`.
    pub(crate) fn excepts(&self, id: &Segments) -> bool {
        self.0.unless.iter().any(|pattern| pattern.matches(id))
    }

    /// Returns what it depends on beside its `id` whether the rule holds: two of the same `id` that make the same
    /// condition hold for the same.
    pub(crate) fn condition(&self) -> Condition<'_> {
        (&self.0.unless, &self.0.client_ids, &self.0.rule.listener)
    }

    /// Tells how much of the rule holds on a connection.
    pub(crate) fn standing(&self, context: Context<'_>, id: &Segments) -> Standing {
        let ids = &self.0.client_ids;
        let is_client = |client_id: &str| ids.iter().any(|pattern| pattern.matches(client_id, id));
        if !ids.is_empty() && !context.client_id.is_some_and(is_client) {
            return Standing::Nothing;
        }
        let listeners = &self.0.rule.listener;
        match context.listener {
            _ if listeners.is_empty() => Standing::Whole,
            // Not known to be elsewhere: what is uncertain denies.
            None => Standing::Denies,
            Some(listener) if listeners.iter().any(|name| name == listener) => Standing::Whole,
            Some(_) => Standing::Nothing,
        }
    }
}

impl Rule {
    /// Checks and compiles the rule.
    ///
    /// # Errors
    /// Every fault found, when there is one.
    pub fn check(&self) -> Result<CheckedRule, Vec<PolicyError>> {
        let mut faults = self.shape_faults();
        let (id, captures) = match IdPattern::parse(&self.id) {
            Ok(parsed) => parsed,
            Err(fault) => {
                faults.push(id_problem("id", &self.id, fault));
                return Err(self.errors(faults));
            }
        };
        let unless = self.check_unless(&captures, &mut faults);
        let topics = self.check_topics(&captures, &mut faults);
        let replies = check_list("response-topics", &self.response_topics, &captures, &mut faults);
        let client_ids = self.check_client_ids(&captures, &mut faults);
        let groups = self.check_groups(&captures, &mut faults);
        let limits = self.check_limits(&mut faults);
        if !faults.is_empty() {
            return Err(self.errors(faults));
        }
        let name = RuleName { text: self.name.as_str().into(), source: self.source.clone() };
        let (only, rule) = (id.literal(), self.clone());
        let compiled = Compiled { name, rule, id, only, unless, client_ids, topics, replies, groups, limits };
        Ok(CheckedRule(Arc::new(compiled)))
    }

    /// Returns the lists of topics and filters, each with what it does.
    pub fn topic_lists(&self) -> [(Effect, &[String]); 8] {
        [
            (Effect::Publish, &self.publish),
            (Effect::Subscribe, &self.subscribe),
            (Effect::Receive, &self.receive),
            (Effect::SubscribeLiteral, &self.subscribe_literal),
            (Effect::DenyPublish, &self.deny_publish),
            (Effect::DenySubscribe, &self.deny_subscribe),
            (Effect::DenyReceive, &self.deny_receive),
            (Effect::DenySubscribeLiteral, &self.deny_subscribe_literal),
        ]
    }

    fn shape_faults(&self) -> Vec<Problem> {
        const NAME_MAX: usize = 255;
        let mut faults = Vec::new();
        let printable = self.name.chars().all(|c| !c.is_control() && c != '`');
        if self.name.is_empty() || self.name.len() > NAME_MAX || !printable {
            faults.push(Problem::Name(self.name.clone()));
        }
        let lists = self.topic_lists();
        if lists.iter().all(|(_, patterns)| patterns.is_empty()) && self.quota.is_none() {
            faults.push(Problem::Empty);
        }
        if !self.client_id.is_empty() {
            let denies = lists.iter().filter(|(effect, patterns)| effect.is_deny() && !patterns.is_empty());
            faults.extend(denies.map(|(effect, _)| Problem::EvadableDeny(effect.key())));
            faults.extend(self.quota.map(|_| Problem::EvadableDeny("quota")));
        }
        let quota_faults = self.quota.iter().flat_map(Quota::faults);
        faults.extend(quota_faults.map(|fault| table_condition("quota", fault)));
        faults.extend(self.idle_conditions());
        faults
    }

    fn idle_conditions(&self) -> impl Iterator<Item = Problem> {
        const PUBLISH: &str = "publish";
        const SUBSCRIBE: &str = "subscribe";
        let publishes = !self.publish.is_empty();
        let subscribes = !(self.subscribe.is_empty() && self.subscribe_literal.is_empty());
        let receives = subscribes || !self.receive.is_empty();
        let refuses = self.queue_overflow == Some(QueueOverflow::Refuse);
        [
            (self.retain.is_some(), "retain", PUBLISH, publishes),
            (self.payload_max.is_some(), "payload-max", PUBLISH, publishes),
            (self.will.is_some(), "will", PUBLISH, publishes),
            (self.rate.is_some(), "rate", PUBLISH, publishes),
            (!self.response_topics.is_empty(), "response-topics", PUBLISH, publishes),
            (self.durability.is_some(), "durability", PUBLISH, publishes),
            (self.qos_max.is_some(), "qos-max", "publish, subscribe or receive", publishes || receives),
            (self.share_groups.is_some(), "share-groups", SUBSCRIBE, subscribes),
            (refuses, "queue-overflow", PUBLISH, publishes),
            (self.queue_overflow.is_some() && !refuses, "queue-overflow", SUBSCRIBE, subscribes),
        ]
        .into_iter()
        .filter(|(set, _, _, used)| *set && !used)
        .map(|(_, condition, limited, _)| Problem::IdleCondition { condition, limited })
    }

    fn check_unless(&self, captures: &Captures, faults: &mut Vec<Problem>) -> Vec<IdPattern> {
        let mut patterns = Vec::new();
        for text in &self.unless {
            match IdPattern::parse_unless(text, captures) {
                Ok(pattern) => patterns.push(pattern),
                Err(fault) => faults.push(id_problem("unless", text, fault)),
            }
        }
        patterns
    }

    fn check_topics(&self, captures: &Captures, faults: &mut Vec<Problem>) -> Vec<(Effect, Template)> {
        let mut topics = Vec::new();
        for (effect, patterns) in self.topic_lists() {
            let checked = check_list(effect.key(), patterns, captures, faults);
            topics.extend(checked.into_iter().map(|template| (effect, template)));
        }
        topics
    }

    fn check_client_ids(&self, captures: &Captures, faults: &mut Vec<Problem>) -> Vec<ClientIdPattern> {
        for name in self.listener.iter().filter(|name| !LISTENERS.contains(&name.as_str())) {
            faults.push(text_condition("listener", name, ConditionFault::Listener));
        }
        let mut patterns = Vec::new();
        for text in &self.client_id {
            match ClientIdPattern::parse(text, captures) {
                Ok(pattern) => patterns.push(pattern),
                Err(fault) => faults.push(text_condition("client-id", text, fault)),
            }
        }
        patterns
    }

    fn check_groups(&self, captures: &Captures, faults: &mut Vec<Problem>) -> Option<Vec<GroupPattern>> {
        let mut patterns = Vec::new();
        for text in self.share_groups.as_ref()? {
            match GroupPattern::parse(text, captures) {
                Ok(pattern) => patterns.push(pattern),
                Err(fault) => faults.push(text_condition("share-groups", text, fault)),
            }
        }
        Some(patterns)
    }

    fn check_limits(&self, faults: &mut Vec<Problem>) -> Limits {
        let qos_max = match self.qos_max {
            None | Some(2) => QoS::ExactlyOnce,
            Some(1) => QoS::AtLeastOnce,
            Some(0) => QoS::AtMostOnce,
            Some(other) => {
                faults.push(Problem::QosMax(other));
                QoS::AtMostOnce
            }
        };
        let payload_max =
            self.payload_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        Limits {
            qos_max,
            retain: self.retain.unwrap_or(true),
            payload_max,
            will: self.will.unwrap_or(true),
            rate: self.check_rate(faults),
            durability: self.durability,
            queue_overflow: self.queue_overflow,
        }
    }

    fn check_rate(&self, faults: &mut Vec<Problem>) -> Option<RateLimit> {
        let checked = self.rate?.check(self.payload_max);
        checked.map_err(|fault| faults.push(table_condition("rate", fault))).ok()
    }

    fn errors(&self, faults: Vec<Problem>) -> Vec<PolicyError> {
        let rule: Arc<str> = self.name.as_str().into();
        let error =
            |problem| PolicyError { place: self.source.clone(), rule: Some(Arc::clone(&rule)), problem };
        faults.into_iter().map(error).collect()
    }
}

fn check_list(
    key: &'static str,
    patterns: &[String],
    captures: &Captures,
    faults: &mut Vec<Problem>,
) -> Vec<Template> {
    let mut templates = Vec::new();
    for text in patterns {
        match Template::parse(text, captures) {
            Ok(template) => templates.push(template),
            Err(fault) => faults.push(topic_problem(key, text, fault)),
        }
    }
    templates
}

fn id_problem(key: &'static str, pattern: &str, fault: IdFault) -> Problem {
    Problem::Id { key, pattern: pattern.to_owned(), fault }
}

fn topic_problem(key: &'static str, pattern: &str, fault: TopicFault) -> Problem {
    Problem::Topic { key, pattern: pattern.to_owned(), fault }
}

fn table_condition(key: &'static str, fault: ConditionFault) -> Problem {
    Problem::Condition { key, value: "{ … }".into(), fault }
}

fn text_condition(key: &'static str, value: &str, fault: ConditionFault) -> Problem {
    Problem::Condition { key, value: format!("\"{value}\""), fault }
}
