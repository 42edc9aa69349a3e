//! A candidate policy beside the active one: every decision is made twice, and where they differ it
//! is counted and some are kept.

use crate::request::Verb;
use midge_identity::SpiffeId;
use midge_policy::{Action, Context, Denial, Policy, Principal, Question, Rights, RuleName, Subject};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Identities whose rights under the candidate are kept; beyond it all are dropped and made again.
const PRINCIPALS_MAX: usize = 16_384;

/// Kinds of differences that are told apart.
const KINDS_MAX: usize = 1_024;

/// Evaluates a candidate policy beside the active one. It never changes a decision.
///
/// Whoever makes decisions hands over each of them with what the active policy said. Rights of an
/// identity are made once and kept, so that a decision costs a look-up and a decision.
#[derive(Debug)]
pub struct Shadow {
    candidate: Arc<Policy>,
    samples_max: usize,
    principals: HashMap<SpiffeId, Known>,
    asked: u64,
    kinds: HashMap<Kind, usize>,
    differences: Vec<Difference>,
    gained: u64,
    lost: u64,
    uncounted: u64,
}

/// One identity under the candidate.
#[derive(Debug)]
struct Known {
    principal: Principal,
    /// Its rights, where they are the same on all its connections.
    rights: Option<Arc<Rights>>,
}

/// What kind a difference is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    action: &'static str,
    would_allow: bool,
    active: Option<RuleName>,
    candidate: Option<RuleName>,
}

/// Decisions that the candidate makes differently for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `publish`, `will`, `subscribe` or `receive`.
    pub action: &'static str,
    /// Whether the candidate allows what is denied now; else it denies what is allowed now.
    pub would_allow: bool,
    /// The rule in force that decides; none where it has none.
    pub active: Option<RuleName>,
    /// The candidate's rule that decides; none where it has none.
    pub candidate: Option<RuleName>,
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

/// Who asks, over what connection, and with which rights.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// Its connection.
    pub context: Context<'a>,
    /// What it may do under the active policy.
    pub active: &'a Rights,
}

impl Shadow {
    /// Returns the shadow of a candidate; keeps at most so many samples of each kind of difference.
    pub fn new(candidate: Arc<Policy>, samples_max: usize) -> Self {
        Self {
            candidate,
            samples_max,
            principals: HashMap::new(),
            asked: 0,
            kinds: HashMap::new(),
            differences: Vec::new(),
            gained: 0,
            lost: 0,
            uncounted: 0,
        }
    }

    /// Returns the candidate.
    pub fn candidate(&self) -> &Arc<Policy> {
        &self.candidate
    }

    /// Goes on with a candidate that has changed in part; counts stay.
    pub fn follow(&mut self, candidate: Arc<Policy>) {
        let touched = candidate.touched_since(&self.candidate);
        self.principals.retain(|id, _| !touched.touches(id));
        self.candidate = candidate;
    }

    /// Looks at one decision of the active policy.
    pub fn see(&mut self, asker: &Asker<'_>, question: &Question<'_>, allowed: bool) {
        self.asked += 1;
        let decided = question.put(&self.rights(asker));
        if decided.is_ok() != allowed {
            self.count(asker, question, decided);
        }
    }

    /// Returns how many decisions were looked at.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// Returns how many of them the candidate would allow though they are denied now.
    pub fn gained(&self) -> u64 {
        self.gained
    }

    /// Returns how many of them the candidate would deny though they are allowed now.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns how many differing decisions are in no [`Difference`], as there were too many kinds.
    pub fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// Returns the differences, the most frequent first.
    pub fn differences(&self) -> Vec<&Difference> {
        let mut differences: Vec<&Difference> = self.differences.iter().collect();
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.count));
        differences
    }

    fn rights(&mut self, asker: &Asker<'_>) -> Arc<Rights> {
        let Asker { id, context, .. } = *asker;
        if !self.principals.contains_key(id) {
            if self.principals.len() >= PRINCIPALS_MAX {
                self.principals.clear();
            }
            let principal = self.candidate.principal(id);
            let rights = (!principal.depends_on_connection()).then(|| principal.rights(Context::default()));
            self.principals.insert(id.clone(), Known { principal, rights });
        }
        match self.principals.get(id) {
            Some(Known { rights: Some(rights), .. }) => Arc::clone(rights),
            Some(Known { principal, rights: None }) => principal.rights(context),
            None => self.candidate.rights_at(id, context),
        }
    }

    fn count(&mut self, asker: &Asker<'_>, question: &Question<'_>, decided: Result<RuleName, Denial>) {
        let would_allow = decided.is_ok();
        *(if would_allow { &mut self.gained } else { &mut self.lost }) += 1;
        let rule = |decided: &Result<RuleName, Denial>| match decided {
            Ok(rule) => Some(rule.clone()),
            Err(denial) => denial.rule.clone(),
        };
        let kind = Kind {
            action: name(question.action()),
            would_allow,
            active: rule(&question.put(asker.active)),
            candidate: rule(&decided),
        };
        let at = match self.kinds.get(&kind) {
            Some(at) => *at,
            None if self.differences.len() >= KINDS_MAX => {
                self.uncounted += 1;
                return;
            }
            None => {
                let Kind { action, would_allow, active, candidate } = kind.clone();
                let samples = Vec::new();
                self.kinds.insert(kind, self.differences.len());
                self.differences.push(Difference {
                    action,
                    would_allow,
                    active,
                    candidate,
                    count: 0,
                    samples,
                });
                self.differences.len() - 1
            }
        };
        if let Some(known) = self.differences.get_mut(at) {
            known.count += 1;
            known.keep(self.samples_max, || {
                let why = match decided {
                    Ok(rule) => format!("rule {rule} allows it"),
                    Err(denial) => denial.to_string(),
                };
                Sample { id: asker.id.clone(), subject: question.subject(), why }
            });
        }
    }
}

fn name(action: Action) -> &'static str {
    let verb = match action {
        Action::Publish => Verb::Publish,
        Action::Will => Verb::Will,
        Action::Subscribe => Verb::Subscribe,
        _ => Verb::Receive,
    };
    verb.name()
}

impl Difference {
    /// Keeps the first samples; then the place of the last is taken at each power of two.
    fn keep(&mut self, samples_max: usize, sample: impl FnOnce() -> Sample) {
        let is_full = self.samples.len() >= samples_max;
        if is_full && (samples_max == 0 || !self.count.is_power_of_two()) {
            return;
        }
        let sample = sample();
        // What is there already tells nothing new.
        if self.samples.iter().any(|known| known.id == sample.id && known.subject == sample.subject) {
            return;
        }
        if is_full {
            self.samples.pop();
        }
        self.samples.push(sample);
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.would_allow { "allow" } else { "deny" };
        write!(f, "{} times the candidate would {word} to {}: ", self.count, self.action)?;
        let told =
            |rule: &Option<RuleName>| rule.as_ref().map_or_else(|| "no rule".into(), ToString::to_string);
        write!(f, "{} instead of {}", told(&self.candidate), told(&self.active))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{PublishFacts, SubscribeMode};
    use mqtt_proto::{QoS, SharedFilter, TopicName};

    const ACTIVE: &str =
        "[[rule]]\nname = \"a\"\nid = \"spiffe://td/{app}\"\npublish = [\"{app}/#\"]\nsubscribe = [\"#\"]\n";

    fn policy(text: &str) -> Arc<Policy> {
        Arc::new(Policy::from_toml_str(text, "test.toml").unwrap())
    }

    /// Asks the active policy, with the shadow beside.
    fn ask(shadow: &mut Shadow, active: &Policy, id: &str, question: Question<'_>) -> bool {
        let id = SpiffeId::new(id).unwrap();
        let rights = active.rights(&id);
        let allowed = question.put(&rights).is_ok();
        shadow.see(&Asker { id: &id, context: Context::default(), active: &rights }, &question, allowed);
        allowed
    }

    fn publish(shadow: &mut Shadow, active: &Policy, topic: &str, qos: QoS) -> bool {
        let facts = PublishFacts { qos, ..PublishFacts::default() };
        let topic = TopicName::new(topic).unwrap();
        ask(shadow, active, "spiffe://td/x", Question::Publish { topic: &topic, facts })
    }

    #[test]
    fn the_same_policy_differs_nowhere() {
        let active = policy(ACTIVE);
        let mut shadow = Shadow::new(Arc::clone(&active), 4);
        assert!(publish(&mut shadow, &active, "x/1", QoS::AtMostOnce));
        assert!(!publish(&mut shadow, &active, "y/1", QoS::AtMostOnce));
        assert_eq!((shadow.asked(), shadow.gained(), shadow.lost()), (2, 0, 0));
    }

    #[test]
    fn what_the_candidate_would_refuse_or_allow_is_counted_by_rule_and_sampled() {
        let active = policy(ACTIVE);
        let candidate = policy(&format!(
            "{ACTIVE}qos-max = 0\n[[rule]]\nname = \"b\"\nid = \"spiffe://td/x\"\npublish = [\"y\"]\n"
        ));
        let mut shadow = Shadow::new(candidate, 2);
        for n in 0..10 {
            publish(&mut shadow, &active, &format!("x/{n}"), QoS::AtLeastOnce);
        }
        publish(&mut shadow, &active, "y", QoS::AtMostOnce);
        publish(&mut shadow, &active, "x", QoS::AtMostOnce);
        assert_eq!((shadow.asked(), shadow.gained(), shadow.lost(), shadow.uncounted()), (12, 1, 10, 0));
        let told: Vec<String> = shadow.differences().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "10 times the candidate would deny to publish: `a` (test.toml:1) instead of `a` (test.toml:1)",
                "1 times the candidate would allow to publish: `b` (test.toml:7) instead of no rule"
            ]
        );
        let samples = &shadow.differences()[0].samples;
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[1].subject, Subject::Topic(TopicName::new("x/7").unwrap()));
        assert!(samples[0].why.contains("qos 1 is above qos-max 0"), "{}", samples[0].why);
    }

    #[test]
    fn subscriptions_and_deliveries_are_looked_at_too() {
        let active = policy(ACTIVE);
        let candidate =
            policy("[[rule]]\nname = \"a\"\nid = \"spiffe://td/{app}\"\nsubscribe = [\"{app}/#\"]\n");
        let mut shadow = Shadow::new(candidate, 2);
        let all = SharedFilter::new("#").unwrap();
        let subscribe = |mode| Question::Subscribe { filter: &all, qos: QoS::AtMostOnce, mode };
        ask(&mut shadow, &active, "spiffe://td/x", subscribe(SubscribeMode::Reject));
        ask(&mut shadow, &active, "spiffe://td/x", subscribe(SubscribeMode::Narrow));
        for topic in ["y", "x/1"] {
            let topic = TopicName::new(topic).unwrap();
            ask(&mut shadow, &active, "spiffe://td/x", Question::Receive { topic: &topic, group: None });
        }
        let (topic, facts) = (TopicName::new("y").unwrap(), PublishFacts::default());
        ask(&mut shadow, &active, "spiffe://td/x", Question::Will { topic: &topic, facts });
        let mut actions: Vec<&str> =
            shadow.differences().iter().map(|difference| difference.action).collect();
        actions.sort_unstable();
        assert_eq!((shadow.asked(), actions), (5, vec!["receive", "subscribe"]));
    }

    #[test]
    fn a_candidate_that_follows_keeps_its_counts_and_is_asked_anew() {
        let active = policy(ACTIVE);
        let mut shadow = Shadow::new(policy(""), 2);
        publish(&mut shadow, &active, "x/1", QoS::AtMostOnce);
        shadow.follow(policy(ACTIVE));
        publish(&mut shadow, &active, "x/1", QoS::AtMostOnce);
        assert_eq!((shadow.asked(), shadow.lost()), (2, 1));
        assert_eq!(shadow.differences()[0].active.as_ref().unwrap().text().as_ref(), "a");
        assert_eq!(shadow.differences()[0].candidate, None);
    }
}
