//! What one identity may do on one connection: its rules as tries, and the decisions by topic.

use crate::layer::{HeldRule, Layer};
use crate::permit::Limits;
use crate::segments::Segments;
use crate::trie::{At, Mark, Trie};
use crate::{
    Action, CheckedRule, Denial, DenyReason, Durability, Effect, PublishFacts, PublishPermit, Quantity,
    QueueOverflow, ReceivePermit, RuleName, Subject,
};
use midge_identity::SpiffeId;
use mqtt_proto::{QoS, TopicName};
use std::cmp::Ordering;
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
    who: Arc<Named>,
    /// The rules that speak of the identity and hold on the connection: where they are many, together with others of
    /// whom they speak.
    layers: Box<[Arc<Layer>]>,
}

/// An identity, and what captures stand for.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) id: SpiffeId,
    pub(crate) segments: Segments,
}

/// What was found on the way to a decision about a publication.
#[derive(Default)]
struct Found {
    denied: Option<Mark>,
    allowed: Option<Mark>,
    blocked: Option<(Mark, DenyReason)>,
    durability: Option<(Mark, Durability)>,
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
    Rules(Vec<(u32, u32)>),
}

impl Naming {
    fn is_by(&self, mark: Mark) -> bool {
        match self {
            Self::All => true,
            Self::Rules(rules) => rules.binary_search(&(mark.layer, mark.rule)).is_ok(),
        }
    }
}

impl Rights {
    pub(crate) fn of(epoch: u64, who: &Arc<Named>, layers: Vec<Arc<Layer>>) -> Self {
        Self { epoch, who: Arc::clone(who), layers: layers.into() }
    }

    /// Epoch of the policy.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.who.id
    }

    /// Returns the rules that speak of the identity and hold here, first by precedence first.
    pub fn rules(&self) -> impl Iterator<Item = &CheckedRule> {
        in_order(&self.layers).into_iter().map(|held| &held.rule)
    }

    /// Tells whether both give exactly the same answers, epoch aside, because the same rules speak
    /// of the same identity. `false` where a rule only moved in its file.
    pub fn is_same_as(&self, other: &Self) -> bool {
        if self.who.id != other.who.id {
            return false;
        }
        let of =
            |layers: &Vec<&Arc<Layer>>, layer: &&Arc<Layer>| layers.iter().any(|l| Arc::ptr_eq(l, layer));
        let (ours, theirs): (Vec<_>, Vec<_>) = (self.layers.iter().collect(), other.layers.iter().collect());
        let differing = |some: &Vec<&'_ Arc<Layer>>, others| -> Vec<Arc<Layer>> {
            some.iter().filter(|layer| !of(others, layer)).map(|layer| Arc::clone(layer)).collect()
        };
        let (ours, theirs) = (differing(&ours, &theirs), differing(&theirs, &ours));
        let (ours, theirs) = (in_order(&ours), in_order(&theirs));
        let is_same = |(one, two): (&&HeldRule, &&HeldRule)| one.rule == two.rule && one.whole == two.whole;
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(is_same)
    }

    /// Returns how many steps [`Rights::subscribe`] may take for one filter, at worst, but for those that its own length
    /// takes: 10,000 take about a millisecond.
    pub fn subscribe_steps(&self) -> usize {
        self.layers.iter().map(|layer| layer.read_levels).sum()
    }

    /// Returns how much of something the identity, or one session of it, may keep by the rules: the smallest
    /// quota, or as much as can be. The caps of the broker hold beside it.
    pub fn quota(&self, of: Quantity) -> usize {
        let max = self.layers.iter().filter_map(|layer| layer.quotas.of(of)).map(|(max, _)| max).min();
        max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX)
    }

    /// Returns the quotas that there are, each with the rule that gives it: of several, the first.
    pub fn quotas(&self) -> impl Iterator<Item = (Quantity, usize, &RuleName)> {
        Quantity::ALL.into_iter().filter_map(|of| {
            let given = self.layers.iter().filter_map(|layer| {
                let (max, rule) = layer.quotas.of(of)?;
                Some((max, layer.rules.get(rule as usize)?.rule.name()))
            });
            let smallest = given.min_by(|(one, a), (two, b)| one.cmp(two).then_with(|| a.cmp_precedence(b)));
            smallest.map(|(_, rule)| (of, self.quota(of), rule))
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
        self.visit(topic, |layer| &layer.reads, &mut |mark| match mark.effect {
            Effect::DenySubscribe | Effect::DenyReceive => denied = self.first(denied, mark),
            Effect::Subscribe | Effect::Receive => {
                if mark.effect == Effect::Subscribe && !self.lets_join(mark, group) {
                    return;
                }
                let Some(limits) = self.limits(mark) else { return };
                let qos = allowed.map_or(limits.qos_max, |(_, qos)| qos.max(limits.qos_max));
                allowed = self.first(allowed.map(|(mark, _)| mark), mark).map(|mark| (mark, qos));
            }
            _ => {}
        });
        let reason = match (denied, allowed) {
            (Some(_), _) => DenyReason::Denied,
            (None, None) => DenyReason::NoRule,
            (None, Some((mark, qos))) => match self.held(mark) {
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
        self.visit(topic, |layer| &layer.writes, &mut |mark| self.weigh(mark, asked, &mut found));
        let Found { denied, allowed, blocked, durability, refuses_overflow, mixed, mut rated, varies } =
            found;
        let (rule, reason) = match (denied, allowed.and_then(|mark| self.held(mark)), blocked) {
            (Some(mark), _, _) => (Some(mark), DenyReason::Denied),
            (None, Some(held), _) => {
                let is_rated = held.rule.0.limits.rate.is_some();
                rated.retain(|mark| is_rated && allowed != Some(*mark));
                rated.sort_unstable_by(|one, two| self.order(*one, *two));
                rated.dedup();
                let others = rated.iter().filter_map(|mark| self.held(*mark));
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
            found.denied = self.first(found.denied, mark);
            return;
        }
        let Some(limits) = self.limits(mark) else { return };
        if let Some(reason) = obstacle(mark, limits, asked) {
            found.mixed |= limits.states();
            found.varies = true;
            if found.blocked.as_ref().is_none_or(|(known, _)| self.is_before(mark, *known)) {
                found.blocked = Some((mark, reason));
            }
            return;
        }
        // Each rule allows by itself: where one sets no rate, there is none.
        let is_rated = |mark: Mark| self.limits(mark).is_some_and(|limits| limits.rate.is_some());
        let order = |a: Mark, b: Mark| is_rated(a).cmp(&is_rated(b)).then_with(|| self.order(a, b));
        found.allowed = match found.allowed {
            Some(known) if order(known, mark).is_le() => Some(known),
            _ => Some(mark),
        };
        if let Some(durability) = limits.durability
            && found.durability.is_none_or(|(known, _)| self.is_before(mark, known))
        {
            found.durability = Some((mark, durability));
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
        self.visit(topic, |layer| &layer.replies, &mut |reply| rules.push((reply.layer, reply.rule)));
        rules.sort_unstable();
        Naming::Rules(rules)
    }

    fn may_write(&self, topic: &TopicName) -> bool {
        let (mut allowed, mut denied) = (false, false);
        self.visit(topic, |layer| &layer.writes, &mut |mark| match mark.effect {
            Effect::DenyPublish => denied = true,
            _ => allowed = true,
        });
        allowed && !denied
    }

    pub(crate) fn visit(
        &self,
        topic: &TopicName,
        of: impl Fn(&Layer) -> &Trie,
        visitor: &mut impl FnMut(Mark),
    ) {
        for (number, layer) in (0..).zip(&self.layers) {
            of(layer).visit(topic, &self.who.segments, &mut |effect, rule| {
                visitor(Mark { effect, layer: number, rule });
            });
        }
    }

    /// Returns where to begin to look for the patterns of one kind.
    pub(crate) fn roots(&self, of: impl Fn(&Layer) -> &Trie) -> Vec<At<'_>> {
        let layers = (0..).zip(&self.layers);
        layers.filter_map(|(number, layer)| of(layer).root(number, &self.who.segments)).collect()
    }

    #[cfg(test)]
    pub(crate) fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    fn layer(&self, mark: Mark) -> Option<&Layer> {
        self.layers.get(mark.layer as usize).map(|layer| &**layer)
    }

    pub(crate) fn held(&self, mark: Mark) -> Option<&HeldRule> {
        self.layer(mark)?.rules.get(mark.rule as usize)
    }

    pub(crate) fn limits(&self, mark: Mark) -> Option<&Limits> {
        self.layer(mark)?.limits(mark.rule)
    }

    /// Tells whether subscriptions by a rule may join the share group.
    pub(crate) fn lets_join(&self, mark: Mark, group: Option<&str>) -> bool {
        self.held(mark).is_some_and(|held| held.lets_join(group, &self.who.segments))
    }

    /// Compares rules by precedence.
    pub(crate) fn order(&self, one: Mark, two: Mark) -> Ordering {
        if one.layer == two.layer {
            return one.rule.cmp(&two.rule);
        }
        match (self.held(one), self.held(two)) {
            (Some(one), Some(two)) => one.rule.name().cmp_precedence(two.rule.name()),
            _ => one.layer.cmp(&two.layer),
        }
    }

    pub(crate) fn is_before(&self, one: Mark, two: Mark) -> bool {
        self.order(one, two).is_lt()
    }

    /// Returns the mark of the rule that comes first.
    fn first(&self, known: Option<Mark>, mark: Mark) -> Option<Mark> {
        Some(known.filter(|known| !self.is_before(mark, *known)).unwrap_or(mark))
    }

    pub(crate) fn denial(
        &self,
        action: Action,
        subject: Subject,
        rule: Option<Mark>,
        reason: DenyReason,
    ) -> Denial {
        let rule = rule.and_then(|mark| Some(self.held(mark)?.rule.name().clone()));
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

/// Returns the rules of layers in order of precedence.
fn in_order(layers: &[Arc<Layer>]) -> Vec<&HeldRule> {
    let mut rules: Vec<&HeldRule> = layers.iter().flat_map(|layer| &layer.rules).collect();
    rules.sort_by(|one, two| one.rule.name().cmp_precedence(two.rule.name()));
    rules
}
