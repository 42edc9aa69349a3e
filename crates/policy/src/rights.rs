//! What one identity may do on one connection: its rules as tries, and the decisions by topic.

use crate::check::Compiled;
use crate::permit::Limits;
use crate::quota::Smallest;
use crate::trie::{Mark, Pattern, Trie, canonical};
use crate::{
    Action, CheckedRule, Denial, DenyReason, Durability, Effect, PublishFacts, PublishPermit, Quantity,
    QueueOverflow, ReceivePermit, RuleName, Subject,
};
use midge_identity::SpiffeId;
use mqtt_proto::{QoS, TopicFilter, TopicName};
use std::collections::HashMap;
use std::sync::Arc;

/// What rules may ask about a connection. What is not known fails every condition on it, and
/// escapes no deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Context<'a> {
    /// Client id of the session.
    pub client_id: Option<&'a str>,
    /// Name of the listener that took the connection.
    pub listener: Option<&'a str>,
}

/// How much of a rule holds on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    Whole,
    Denies,
    Nothing,
}

/// What one identity may do under one policy, on connections that the same rules hold for. A
/// decision costs the same however many rules there are.
#[derive(Debug)]
pub struct Rights {
    pub(crate) epoch: u64,
    pub(crate) held: Arc<Held>,
}

/// A rule that speaks of the identity and holds on the connection.
pub(crate) struct Applying<'a> {
    pub(crate) rule: &'a CheckedRule,
    /// What its captures stand for.
    pub(crate) values: Vec<&'a str>,
    pub(crate) standing: Standing,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: SpiffeId,
    pub(crate) rules: Box<[HeldRule]>,
    writes: Trie,
    pub(crate) reads: Trie,
    /// Response Topics, each marked with the rule that lets name it.
    replies: Trie,
    /// Literal filters in canonical form, sorted.
    pub(crate) literals: Box<[(TopicFilter, Mark)]>,
    quotas: Smallest,
    /// Levels of all patterns of `reads`.
    pub(crate) read_levels: usize,
}

/// One rule of an identity. Limits are at hand so that a decision need not follow a pointer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeldRule {
    pub(crate) limits: Limits,
    pub(crate) rule: CheckedRule,
    whole: bool,
    /// For share groups that are captures.
    pub(crate) values: Box<[Box<str>]>,
}

impl Held {
    pub(crate) fn of(id: &SpiffeId, applying: &[Applying<'_>]) -> Self {
        let (mut writes, mut reads, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut literals, mut quotas) = (Vec::new(), Smallest::default());
        let mut classes = HashMap::new();
        for (index, Applying { rule, values, standing }) in applying.iter().enumerate() {
            let whole = *standing == Standing::Whole;
            // As denies do, it holds where it is not known that the rule does not.
            rule.rule().quota.iter().for_each(|quota| quotas.add(quota, index));
            let class = class_of(&rule.0, index, &mut classes);
            for (effect, template) in rule.0.topics.iter().filter(|(effect, _)| whole || effect.is_deny()) {
                let class = if effect.is_deny() { 0 } else { class };
                let mark = Mark { effect: *effect, rule: index, class };
                let levels = || template.levels(values).collect::<Vec<_>>();
                match effect {
                    Effect::Publish | Effect::DenyPublish => writes.push(Pattern { levels: levels(), mark }),
                    Effect::SubscribeLiteral | Effect::DenySubscribeLiteral => {
                        literals.extend(template.filter(values).map(|filter| (canonical(&filter), mark)));
                    }
                    Effect::Subscribe | Effect::Receive | Effect::DenySubscribe | Effect::DenyReceive => {
                        reads.push(Pattern { levels: levels(), mark });
                    }
                }
            }
            let mark = Mark { effect: Effect::Publish, rule: index, class: index };
            let templates = rule.0.replies.iter().filter(|_| whole);
            replies.extend(templates.map(|t| Pattern { levels: t.levels(values).collect(), mark }));
        }
        let read_levels = reads.iter().map(|pattern: &Pattern<'_>| pattern.levels.len()).sum();
        literals.sort_by(|a: &(TopicFilter, Mark), b| (&a.0, a.1.rule).cmp(&(&b.0, b.1.rule)));
        Self {
            id: id.clone(),
            rules: applying.iter().map(HeldRule::of).collect(),
            writes: Trie::of(writes),
            reads: Trie::of(reads),
            replies: Trie::of(replies),
            literals: literals.into(),
            quotas,
            read_levels,
        }
    }

    pub(crate) fn rule(&self, mark: Mark) -> Option<&HeldRule> {
        self.rules.get(mark.rule)
    }
}

/// Returns the index of the first rule whose allows decide like those of this one.
fn class_of<'a>(rule: &'a Compiled, index: usize, classes: &mut HashMap<&'a Limits, usize>) -> usize {
    // Each rule with a rate has a bucket of its own.
    if rule.groups.is_some() || !rule.replies.is_empty() || rule.limits.rate.is_some() {
        return index;
    }
    *classes.entry(&rule.limits).or_insert(index)
}

impl HeldRule {
    fn of(applying: &Applying<'_>) -> Self {
        let Applying { rule, values, standing } = applying;
        let has_groups = rule.0.groups.is_some();
        let values = values.iter().filter(|_| has_groups).map(|value| (*value).into()).collect();
        Self { limits: rule.0.limits, rule: (*rule).clone(), whole: *standing == Standing::Whole, values }
    }

    /// Tells whether its subscriptions may join the share group.
    pub(crate) fn lets_join(&self, group: Option<&str>) -> bool {
        match (&self.rule.0.groups, group) {
            (Some(patterns), Some(group)) => patterns.iter().any(|p| p.matches(group, &self.values)),
            _ => true,
        }
    }
}

/// What was found on the way to a decision about a publication.
#[derive(Default)]
struct Found {
    denied: Option<Mark>,
    allowed: Option<Mark>,
    blocked: Option<(Mark, DenyReason)>,
    durability: Option<(usize, Durability)>,
    refuses_overflow: bool,
    /// Whether a rule that says something of its own might not allow every publication to the topic.
    mixed: bool,
    /// Rules with a rate that allow it.
    rated: Vec<Mark>,
    /// Whether another publication could be allowed by other rules.
    varies: bool,
}

/// Which rules let name a Response Topic.
enum Naming {
    All,
    /// In order.
    Rules(Vec<usize>),
}

impl Naming {
    fn is_by(&self, mark: Mark) -> bool {
        match self {
            Self::All => true,
            Self::Rules(rules) => rules.binary_search(&mark.rule).is_ok(),
        }
    }
}

impl Rights {
    pub(crate) fn of(epoch: u64, id: &SpiffeId, applying: &[Applying<'_>]) -> Self {
        Self { epoch, held: Arc::new(Held::of(id, applying)) }
    }

    /// Epoch of the policy.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.held.id
    }

    /// The rules that speak of the identity and hold here, first by precedence first.
    pub fn rules(&self) -> impl Iterator<Item = &CheckedRule> {
        self.held.rules.iter().map(|held| &held.rule)
    }

    /// Tells whether both give exactly the same answers, epoch aside, because the same rules speak
    /// of the same identity. `false` where a rule only moved in its file.
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
            || (self.held.id == other.held.id && self.held.rules == other.held.rules)
    }

    /// Returns how many steps [`Rights::subscribe`] may take for one filter, at worst, but for those that its own length
    /// takes: 10,000 take about a millisecond.
    pub fn subscribe_steps(&self) -> usize {
        self.held.read_levels
    }

    /// Returns how much of something the identity, or one session of it, may keep by the rules: the smallest
    /// quota, or as much as can be. The caps of the broker hold beside it.
    pub fn quota(&self, of: Quantity) -> usize {
        self.held.quotas.of(of).map_or(usize::MAX, |(max, _)| max)
    }

    /// Returns the quotas that there are, each with the rule that gives it.
    pub fn quotas(&self) -> impl Iterator<Item = (Quantity, usize, &RuleName)> {
        Quantity::ALL.into_iter().filter_map(|of| {
            let (max, rule) = self.held.quotas.of(of)?;
            Some((of, max, self.held.rules.get(rule)?.rule.name()))
        })
    }

    /// Returns the denial of what would exceed [`Rights::quota`].
    pub fn over_quota(&self, of: Quantity, action: Action, subject: Subject) -> Denial {
        let said = self.quotas().find(|(known, ..)| *known == of);
        let reason = DenyReason::Quota { of, max: self.quota(of) };
        Denial { action, subject, rule: said.map(|(.., rule)| rule.clone()), reason }
    }

    /// Decides a PUBLISH.
    ///
    /// # Errors
    /// When the identity may not publish this.
    pub fn publish(&self, topic: &TopicName, facts: PublishFacts<'_>) -> Result<PublishPermit, Denial> {
        self.write(Action::Publish, topic, facts)
    }

    /// Decides a will: at CONNECT and again when it fires.
    ///
    /// # Errors
    /// When the identity may not leave this will.
    pub fn will(&self, topic: &TopicName, facts: PublishFacts<'_>) -> Result<PublishPermit, Denial> {
        self.write(Action::Will, topic, facts)
    }

    /// Decides one delivery.
    ///
    /// # Errors
    /// When the identity may not receive the topic.
    pub fn receive(&self, topic: &TopicName) -> Result<ReceivePermit<'_>, Denial> {
        self.read(topic, None)
    }

    /// Decides one delivery to a member of a share group: rights to subscribe count only where the
    /// identity may join it.
    ///
    /// # Errors
    /// When the identity may not receive the topic there.
    pub fn receive_shared(&self, topic: &TopicName, group: &str) -> Result<ReceivePermit<'_>, Denial> {
        self.read(topic, Some(group))
    }

    fn read(&self, topic: &TopicName, group: Option<&str>) -> Result<ReceivePermit<'_>, Denial> {
        let mut denied = None;
        let mut allowed: Option<(Mark, QoS)> = None;
        self.held.reads.visit(topic, &mut |mark| match mark.effect {
            Effect::DenySubscribe | Effect::DenyReceive => denied = first(denied, mark),
            Effect::Subscribe | Effect::Receive => {
                let Some(held) = self.held.rule(mark) else { return };
                if mark.effect == Effect::Subscribe && !held.lets_join(group) {
                    return;
                }
                let qos = allowed.map_or(held.limits.qos_max, |(_, qos)| qos.max(held.limits.qos_max));
                allowed = first(allowed.map(|(mark, _)| mark), mark).map(|mark| (mark, qos));
            }
            _ => {}
        });
        let reason = match (denied, allowed) {
            (Some(_), _) => DenyReason::Denied,
            (None, None) => DenyReason::NoRule,
            (None, Some((mark, qos))) => match self.held.rule(mark) {
                Some(held) => return Ok(ReceivePermit { rule: &held.rule, qos }),
                None => DenyReason::NoRule,
            },
        };
        Err(self.denial(Action::Receive, Subject::Topic(topic.clone()), denied, reason))
    }

    fn write(
        &self,
        action: Action,
        topic: &TopicName,
        facts: PublishFacts<'_>,
    ) -> Result<PublishPermit, Denial> {
        let mut found = Found::default();
        let naming = facts.response_topic.map(|topic| self.naming(topic));
        let asked = (action, &facts, naming.as_ref());
        self.held.writes.visit(topic, &mut |mark| self.weigh(mark, asked, &mut found));
        let Found { denied, allowed, blocked, durability, refuses_overflow, mixed, mut rated, varies } =
            found;
        let (rule, reason) = match (denied, allowed.and_then(|mark| self.held.rule(mark)), blocked) {
            (Some(mark), _, _) => (Some(mark), DenyReason::Denied),
            (None, Some(held), _) => {
                let is_rated = held.limits.rate.is_some();
                rated.retain(|mark| is_rated && allowed != Some(*mark));
                rated.sort_unstable_by_key(|mark| mark.rule);
                rated.dedup_by_key(|mark| mark.rule);
                let others = rated.iter().filter_map(|mark| self.held.rule(*mark));
                return Ok(PublishPermit {
                    epoch: self.epoch,
                    rule: held.rule.clone(),
                    others: others.map(|held| held.rule.clone()).collect(),
                    durability: durability.map(|(_, durability)| durability),
                    refuses_overflow,
                    response_topic: facts.response_topic.cloned(),
                    only: (mixed || (varies && is_rated)).then_some((
                        facts.qos,
                        facts.retain,
                        facts.payload_len,
                    )),
                });
            }
            (None, None, Some((mark, reason))) => (Some(mark), reason),
            (None, None, None) => (None, DenyReason::NoRule),
        };
        Err(self.denial(action, Subject::Topic(topic.clone()), rule, reason))
    }

    fn weigh(&self, mark: Mark, asked: Asked<'_>, found: &mut Found) {
        if mark.effect == Effect::DenyPublish {
            found.denied = first(found.denied, mark);
            return;
        }
        let Some(held) = self.held.rule(mark) else { return };
        let limits = &held.limits;
        if let Some(reason) = obstacle(mark, limits, asked) {
            found.mixed |= limits.states();
            found.varies = true;
            if found.blocked.as_ref().is_none_or(|(known, _)| mark.rule < known.rule) {
                found.blocked = Some((mark, reason));
            }
            return;
        }
        // Each rule allows by itself: where one sets no rate, there is none.
        let order =
            |mark: Mark| (self.held.rule(mark).is_some_and(|held| held.limits.rate.is_some()), mark.rule);
        found.allowed = found.allowed.into_iter().chain([mark]).min_by_key(|mark| order(*mark));
        if let Some(durability) = limits.durability
            && found.durability.is_none_or(|(rule, _)| mark.rule < rule)
        {
            found.durability = Some((mark.rule, durability));
        }
        if limits.rate.is_some() {
            found.rated.push(mark);
        }
        found.varies |= !limits.is_open();
        found.mixed |= limits.states() && !limits.is_open();
        found.refuses_overflow |= limits.queue_overflow == Some(QueueOverflow::Refuse);
    }

    /// Tells which rules let name the Response Topic: whoever answers might have rights there that the
    /// publisher has not, so it takes a right of the publisher's own.
    fn naming(&self, topic: &TopicName) -> Naming {
        if self.may_write(topic) {
            return Naming::All;
        }
        let mut rules = Vec::new();
        self.held.replies.visit(topic, &mut |reply| rules.push(reply.rule));
        rules.sort_unstable();
        Naming::Rules(rules)
    }

    fn may_write(&self, topic: &TopicName) -> bool {
        let (mut allowed, mut denied) = (false, false);
        self.held.writes.visit(topic, &mut |mark| match mark.effect {
            Effect::DenyPublish => denied = true,
            _ => allowed = true,
        });
        allowed && !denied
    }

    pub(crate) fn denial(
        &self,
        action: Action,
        subject: Subject,
        rule: Option<Mark>,
        reason: DenyReason,
    ) -> Denial {
        let rule = rule.and_then(|mark| Some(self.held.rule(mark)?.rule.name().clone()));
        Denial { action, subject, rule, reason }
    }
}

/// A publication, and which rules let name its Response Topic if it has one.
type Asked<'a> = (Action, &'a PublishFacts<'a>, Option<&'a Naming>);

/// Returns the first condition of a rule that the publication does not meet.
fn obstacle(mark: Mark, limits: &Limits, (action, facts, naming): Asked<'_>) -> Option<DenyReason> {
    if action == Action::Will && !limits.will {
        Some(DenyReason::Will)
    } else if facts.qos > limits.qos_max {
        Some(DenyReason::Qos { qos: facts.qos, max: limits.qos_max })
    } else if facts.retain && !limits.retain {
        Some(DenyReason::Retain)
    } else if facts.payload_len > limits.payload_max {
        Some(DenyReason::Payload { len: facts.payload_len, max: limits.payload_max })
    } else {
        let is_named = naming.is_none_or(|naming| naming.is_by(mark));
        let topic = facts.response_topic.filter(|_| !is_named)?;
        Some(DenyReason::ResponseTopic { topic: topic.clone() })
    }
}

/// Returns the mark of the rule that comes first.
fn first(known: Option<Mark>, mark: Mark) -> Option<Mark> {
    known.into_iter().chain([mark]).min_by_key(|mark| mark.rule)
}
