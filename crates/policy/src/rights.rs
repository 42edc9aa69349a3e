use crate::permit::Limits;
use crate::policy::Compiled;
use crate::trie::{Effect, Mark, Pattern, Trie};
use crate::{Action, CheckedRule, Denial, DenyReason, PublishFacts, PublishPermit, Subject, SubscribePermit};
use midge_identity::SpiffeId;
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::sync::Arc;

/// What one identity may do under one policy. A decision costs the same however many rules there
/// are for others.
#[derive(Debug)]
pub struct Rights {
    epoch: u64,
    held: Arc<Held>,
}

/// The rules that speak of one identity, and their topics.
#[derive(Debug)]
struct Held {
    id: SpiffeId,
    rules: Vec<CheckedRule>,
    writes: Trie,
    reads: Trie,
}

impl Held {
    fn of(id: &SpiffeId, applying: &[(&CheckedRule, Vec<&str>)]) -> Self {
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        for (index, (rule, values)) in applying.iter().enumerate() {
            for (effect, template) in &rule.0.topics {
                let mark = Mark { effect: *effect, rule: index };
                let pattern = Pattern { levels: template.levels(values).collect(), mark };
                match effect {
                    Effect::Publish | Effect::DenyPublish => writes.push(pattern),
                    Effect::Subscribe | Effect::Receive | Effect::DenySubscribe | Effect::DenyReceive => {
                        reads.push(pattern);
                    }
                }
            }
        }
        let rules = applying.iter().map(|(rule, _)| (*rule).clone()).collect();
        Self { id: id.clone(), rules, writes: Trie::of(writes), reads: Trie::of(reads) }
    }
}

impl Rights {
    pub(crate) fn of(epoch: u64, id: &SpiffeId, applying: &[(&CheckedRule, Vec<&str>)]) -> Self {
        Self { epoch, held: Arc::new(Held::of(id, applying)) }
    }

    /// Returns these rights under another epoch when the same rules still speak of the identity.
    pub(crate) fn renewed(&self, epoch: u64, applying: &[(&CheckedRule, Vec<&str>)]) -> Option<Self> {
        let same = applying.iter().map(|(rule, _)| *rule).eq(&self.held.rules);
        same.then(|| Self { epoch, held: Arc::clone(&self.held) })
    }

    /// Epoch of the policy.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.held.id
    }

    /// Tells whether both give exactly the same answers, epoch aside, because the same rules speak
    /// of the same identity. `false` where a rule only moved in its file.
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
            || (self.held.id == other.held.id && self.held.rules == other.held.rules)
    }

    /// Decides a PUBLISH.
    ///
    /// # Errors
    /// When the identity may not publish this.
    pub fn publish(&self, topic: &TopicName, facts: PublishFacts) -> Result<PublishPermit, Denial> {
        self.write(Action::Publish, topic, facts)
    }

    /// Decides a will: at CONNECT and again when it fires.
    ///
    /// # Errors
    /// When the identity may not leave this will.
    pub fn will(&self, topic: &TopicName, facts: PublishFacts) -> Result<PublishPermit, Denial> {
        self.write(Action::Will, topic, facts)
    }

    /// Decides one filter of a SUBSCRIBE: all topics that it matches must be allowed, none denied.
    ///
    /// # Errors
    /// When the filter includes a topic that the identity may not subscribe to.
    pub fn subscribe(&self, filter: &SharedFilter, qos: QoS) -> Result<SubscribePermit, Denial> {
        let denial =
            |rule, reason| Err(self.denial(Action::Subscribe, Subject::Filter(filter.clone()), rule, reason));
        let broad = filter.filter.as_str().contains(['+', '#']);
        if let Some((mark, witness)) = self.held.reads.overlap(&filter.filter, Effect::DenySubscribe) {
            let part = witness.filter(|_| broad).map(|witness| DenyReason::DeniedPart { witness });
            return denial(Some(mark), part.unwrap_or(DenyReason::Denied));
        }
        let mut missing = None;
        for granted in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce] {
            if granted > qos {
                continue;
            }
            match self.held.reads.cover(&filter.filter, |mark| self.lets_subscribe(mark, granted)) {
                Ok(mark) => {
                    let filtered = self.held.reads.overlap(&filter.filter, Effect::DenyReceive).is_some();
                    return Ok(SubscribePermit::new(self.epoch, self.name(mark), granted, filtered));
                }
                Err(witness) => missing = witness,
            }
        }
        let part = missing.filter(|_| broad).map(|witness| DenyReason::NotCovered { witness });
        denial(None, part.unwrap_or(DenyReason::NoRule))
    }

    /// Decides one delivery.
    ///
    /// # Errors
    /// When the identity may not receive the topic.
    pub fn receive(&self, topic: &TopicName) -> Result<(), Denial> {
        let mut denied = None;
        let mut allowed = false;
        self.held.reads.visit(topic, &mut |mark| match mark.effect {
            Effect::DenySubscribe | Effect::DenyReceive => denied = denied.or(Some(mark)),
            Effect::Subscribe | Effect::Receive => allowed = true,
            Effect::Publish | Effect::DenyPublish => {}
        });
        let reason = match denied {
            Some(_) => DenyReason::Denied,
            None if allowed => return Ok(()),
            None => DenyReason::NoRule,
        };
        Err(self.denial(Action::Receive, Subject::Topic(topic.clone()), denied, reason))
    }

    fn write(&self, action: Action, topic: &TopicName, facts: PublishFacts) -> Result<PublishPermit, Denial> {
        let mut denied = None;
        let mut allowed = None;
        let mut blocked = None;
        self.held.writes.visit(topic, &mut |mark| {
            if mark.effect == Effect::DenyPublish {
                denied = denied.or(Some(mark));
            } else if allowed.is_none()
                && let Some(rule) = self.rule(mark)
            {
                match obstacle(&rule.limits, action, &facts) {
                    None => allowed = Some(rule),
                    Some(reason) => blocked = blocked.take().or(Some((mark, reason))),
                }
            }
        });
        let (rule, reason) = match (denied, allowed, blocked) {
            (Some(mark), _, _) => (Some(mark), DenyReason::Denied),
            (None, Some(rule), _) => {
                return Ok(PublishPermit::new(self.epoch, Arc::clone(&rule.name.text), rule.limits));
            }
            (None, None, Some((mark, reason))) => (Some(mark), reason),
            (None, None, None) => (None, DenyReason::NoRule),
        };
        Err(self.denial(action, Subject::Topic(topic.clone()), rule, reason))
    }

    fn lets_subscribe(&self, mark: Mark, qos: QoS) -> bool {
        mark.effect == Effect::Subscribe && self.rule(mark).is_some_and(|rule| qos <= rule.limits.qos_max)
    }

    fn rule(&self, mark: Mark) -> Option<&Compiled> {
        self.held.rules.get(mark.rule).map(|rule| &*rule.0)
    }

    fn name(&self, mark: Mark) -> Arc<str> {
        self.rule(mark).map(|rule| Arc::clone(&rule.name.text)).unwrap_or_default()
    }

    fn denial(&self, action: Action, subject: Subject, rule: Option<Mark>, reason: DenyReason) -> Denial {
        let rule = rule.and_then(|mark| Some(self.rule(mark)?.name.clone()));
        Denial { action, subject, rule, reason }
    }
}

/// Returns the first condition of a rule that the publication does not meet.
fn obstacle(limits: &Limits, action: Action, facts: &PublishFacts) -> Option<DenyReason> {
    if action == Action::Will && !limits.will {
        Some(DenyReason::Will)
    } else if facts.qos > limits.qos_max {
        Some(DenyReason::Qos { qos: facts.qos, max: limits.qos_max })
    } else if facts.retain && !limits.retain {
        Some(DenyReason::Retain)
    } else if facts.payload_len > limits.payload_max {
        Some(DenyReason::Payload { len: facts.payload_len, max: limits.payload_max })
    } else {
        None
    }
}
