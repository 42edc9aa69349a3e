//! A candidate policy beside the active one: every decision is made twice, and where they differ it
//! is counted and some are kept.

use midge_identity::SpiffeId;
use midge_policy::{
    Action, Context, Denial, Policy, Principal, PublishFacts, Rights, RuleName, Subject, SubscribeMode,
};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Identities whose rights under the candidate are kept; beyond it all are dropped and made again.
const PRINCIPALS_MAX: usize = 4_096;

/// Kinds of differences that are told apart.
const KINDS_MAX: usize = 1_024;

/// Evaluates a candidate policy beside the active one. It never changes a decision.
///
/// Whoever makes decisions hands each of them to one of the methods, with what the active policy
/// said. Rights of an identity are made once per connection context and kept, so that a decision
/// costs a look-up and a decision.
#[derive(Debug)]
pub struct Shadow {
    candidate: Arc<Policy>,
    samples_max: usize,
    principals: HashMap<SpiffeId, Principal>,
    asked: u64,
    differences: BTreeMap<Kind, Difference>,
    uncounted: u64,
}

/// What kind a difference is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    action: &'static str,
    would_allow: bool,
    rule: String,
}

/// Decisions that the candidate makes differently for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `publish`, `will`, `subscribe` or `receive`.
    pub action: &'static str,
    /// Whether the candidate allows what is denied now; else it denies what is allowed now.
    pub would_allow: bool,
    /// The candidate's rule that decides, as `name (place)`; empty where it has none.
    pub rule: String,
    /// How many decisions.
    pub count: u64,
    /// The first of them, and then ever rarer ones.
    pub samples: Vec<Sample>,
}

/// One decision that the candidate makes differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Who asked.
    pub id: SpiffeId,
    /// For which topic or filter.
    pub subject: Subject,
    /// Why the candidate decides as it does.
    pub why: String,
}

/// Who asks, and over what connection.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// Its connection.
    pub context: Context<'a>,
}

impl Shadow {
    /// Returns the shadow of a candidate; keeps at most so many samples of each kind of difference.
    pub fn new(candidate: Arc<Policy>, samples_max: usize) -> Self {
        Self {
            candidate,
            samples_max,
            principals: HashMap::new(),
            asked: 0,
            differences: BTreeMap::new(),
            uncounted: 0,
        }
    }

    /// Looks at a PUBLISH that the active policy allowed or not.
    pub fn publish(&mut self, asker: Asker<'_>, topic: &TopicName, facts: PublishFacts<'_>, allowed: bool) {
        let decided = self.rights(asker).publish(topic, facts).map(|permit| permit.rule_name().clone());
        self.compare(asker.id, Action::Publish, allowed, decided, || Subject::Topic(topic.clone()));
    }

    /// Looks at a will.
    pub fn will(&mut self, asker: Asker<'_>, topic: &TopicName, facts: PublishFacts<'_>, allowed: bool) {
        let decided = self.rights(asker).will(topic, facts).map(|permit| permit.rule_name().clone());
        self.compare(asker.id, Action::Will, allowed, decided, || Subject::Topic(topic.clone()));
    }

    /// Looks at one filter of a SUBSCRIBE.
    pub fn subscribe(
        &mut self,
        asker: Asker<'_>,
        filter: &SharedFilter,
        qos: QoS,
        mode: SubscribeMode,
        allowed: bool,
    ) {
        let decided =
            self.rights(asker).subscribe(filter, qos, mode).map(|permit| permit.rule_name().clone());
        self.compare(asker.id, Action::Subscribe, allowed, decided, || Subject::Filter(filter.clone()));
    }

    /// Looks at one delivery.
    pub fn receive(&mut self, asker: Asker<'_>, topic: &TopicName, allowed: bool) {
        let rights = self.rights(asker);
        let decided = rights.receive(topic).map(|permit| permit.rule().clone());
        self.compare(asker.id, Action::Receive, allowed, decided, || Subject::Topic(topic.clone()));
    }

    /// Returns how many decisions were looked at.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Returns how many of them the candidate makes differently.
    pub fn differing(&self) -> u64 {
        self.differences.values().map(|difference| difference.count).sum::<u64>() + self.uncounted
    }

    /// Returns the differences, the most frequent first.
    pub fn differences(&self) -> Vec<&Difference> {
        let mut differences: Vec<&Difference> = self.differences.values().collect();
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.count));
        differences
    }

    fn rights(&mut self, asker: Asker<'_>) -> Arc<Rights> {
        let Asker { id, context } = asker;
        if self.principals.len() >= PRINCIPALS_MAX && !self.principals.contains_key(id) {
            self.principals.clear();
        }
        let principal = self.principals.entry(id.clone()).or_insert_with(|| self.candidate.principal(id));
        principal.rights(context)
    }

    fn compare(
        &mut self,
        id: &SpiffeId,
        action: Action,
        allowed: bool,
        decided: Result<RuleName, Denial>,
        subject: impl FnOnce() -> Subject,
    ) {
        self.asked += 1;
        if decided.is_ok() == allowed {
            return;
        }
        let told = |rule: &RuleName| format!("{} ({})", rule.text(), rule.source());
        let rule = match &decided {
            Ok(rule) => told(rule),
            Err(denial) => denial.rule.as_ref().map(told).unwrap_or_default(),
        };
        let kind = Kind { action: name(action), would_allow: decided.is_ok(), rule };
        if self.differences.len() >= KINDS_MAX && !self.differences.contains_key(&kind) {
            self.uncounted += 1;
            return;
        }
        let known = self.differences.entry(kind.clone()).or_insert_with(|| Difference {
            action: kind.action,
            would_allow: kind.would_allow,
            rule: kind.rule,
            count: 0,
            samples: Vec::new(),
        });
        known.count += 1;
        // The first ones are kept, and then the place of one is taken at each power of two.
        let full = known.samples.len() >= self.samples_max;
        if full && !(known.count.is_power_of_two() && self.samples_max > 0) {
            return;
        }
        let why = match decided {
            Ok(rule) => format!("rule {rule} allows it"),
            Err(denial) => denial.to_string(),
        };
        if full {
            known.samples.pop();
        }
        known.samples.push(Sample { id: id.clone(), subject: subject(), why });
    }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Publish => "publish",
        Action::Will => "will",
        Action::Subscribe => "subscribe",
        _ => "receive",
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.would_allow { "allow" } else { "deny" };
        write!(f, "{} times the candidate would {word} to {}", self.count, self.action)?;
        if self.rule.is_empty() {
            f.write_str(": no rule allows it")
        } else {
            write!(f, ": rule {}", self.rule)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: &str =
        "[[rule]]\nname = \"a\"\nid = \"spiffe://td/{app}\"\npublish = [\"{app}/#\"]\nsubscribe = [\"#\"]\n";

    fn policy(text: &str) -> Arc<Policy> {
        Arc::new(Policy::from_toml_str(text, "test.toml").unwrap())
    }

    /// Publishes under the active policy with the shadow beside.
    fn publish(shadow: &mut Shadow, active: &Policy, id: &str, topic: &str, qos: QoS) -> bool {
        let (id, topic) = (SpiffeId::new(id).unwrap(), TopicName::new(topic).unwrap());
        let facts = PublishFacts { qos, ..PublishFacts::default() };
        let allowed = active.rights(&id).publish(&topic, facts).is_ok();
        shadow.publish(Asker { id: &id, context: Context::default() }, &topic, facts, allowed);
        allowed
    }

    #[test]
    fn the_same_policy_differs_nowhere() {
        let active = policy(ACTIVE);
        let mut shadow = Shadow::new(Arc::clone(&active), 4);
        assert!(publish(&mut shadow, &active, "spiffe://td/x", "x/1", QoS::AtMostOnce));
        assert!(!publish(&mut shadow, &active, "spiffe://td/x", "y/1", QoS::AtMostOnce));
        assert_eq!((shadow.asked(), shadow.differing()), (2, 0));
    }

    #[test]
    fn what_the_candidate_would_refuse_or_allow_is_counted_by_rule_and_sampled() {
        let active = policy(ACTIVE);
        let candidate = policy(&format!(
            "{ACTIVE}qos-max = 0\n[[rule]]\nname = \"b\"\nid = \"spiffe://td/x\"\npublish = [\"y\"]\n"
        ));
        let mut shadow = Shadow::new(candidate, 2);
        for n in 0..10 {
            publish(&mut shadow, &active, "spiffe://td/x", &format!("x/{n}"), QoS::AtLeastOnce);
        }
        publish(&mut shadow, &active, "spiffe://td/x", "y", QoS::AtMostOnce);
        publish(&mut shadow, &active, "spiffe://td/x", "x", QoS::AtMostOnce);
        assert_eq!((shadow.asked(), shadow.differing()), (12, 11));
        let told: Vec<String> = shadow.differences().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "10 times the candidate would deny to publish: rule a (test.toml:1)",
                "1 times the candidate would allow to publish: rule b (test.toml:7)"
            ]
        );
        let samples = &shadow.differences()[0].samples;
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[1].subject, Subject::Topic(TopicName::new("x/7").unwrap()));
        assert!(samples[0].why.contains("qos 1 is above qos-max 0"), "{}", samples[0].why);
    }

    #[test]
    fn subscriptions_and_deliveries_are_looked_at_too() {
        let candidate =
            policy("[[rule]]\nname = \"a\"\nid = \"spiffe://td/{app}\"\nsubscribe = [\"{app}/#\"]\n");
        let mut shadow = Shadow::new(candidate, 2);
        let id = SpiffeId::new("spiffe://td/x").unwrap();
        let asker = Asker { id: &id, context: Context::default() };
        let all = SharedFilter::new("#").unwrap();
        shadow.subscribe(asker, &all, QoS::AtMostOnce, SubscribeMode::Reject, true);
        shadow.subscribe(asker, &all, QoS::AtMostOnce, SubscribeMode::Narrow, true);
        shadow.receive(asker, &TopicName::new("y").unwrap(), true);
        shadow.receive(asker, &TopicName::new("x/1").unwrap(), true);
        shadow.will(asker, &TopicName::new("x").unwrap(), PublishFacts::default(), false);
        let actions: Vec<&str> = shadow.differences().iter().map(|difference| difference.action).collect();
        assert_eq!((shadow.asked(), actions), (5, vec!["receive", "subscribe"]));
    }
}
