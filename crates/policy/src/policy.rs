use crate::error::{IdFault, TopicFault};
use crate::id_pattern::{Captures, IdPattern};
use crate::permit::Limits;
use crate::template::Template;
use crate::trie::Effect;
use crate::{PolicyError, Problem, Rights, Rule, RuleName, RuleSource};
use midge_identity::SpiffeId;
use mqtt_proto::QoS;
use std::collections::HashMap;
use std::sync::Arc;

/// A rule that has been checked and compiled. Cheap to clone and to keep, so that a change of one
/// grant among many costs that grant alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRule(pub(crate) Arc<Compiled>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    pub(crate) name: RuleName,
    id: IdPattern,
    /// The only identity it speaks of, when there is one.
    only: Option<Arc<str>>,
    unless: Vec<IdPattern>,
    pub(crate) topics: Vec<(Effect, Template)>,
    pub(crate) limits: Limits,
}

impl CheckedRule {
    /// Name and source of the rule.
    pub fn name(&self) -> &RuleName {
        &self.0.name
    }

    /// Returns what its captures stand for when the rule speaks of the identity.
    fn applies<'a>(&self, id: &'a SpiffeId) -> Option<Vec<&'a str>> {
        let mut values = self.0.id.bind(id)?;
        let excepted = self.0.unless.iter().any(|pattern| pattern.matches(id, &mut values));
        (!excepted).then_some(values)
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
        let limits = self.check_limits(&mut faults);
        if !faults.is_empty() {
            return Err(self.errors(faults));
        }
        let name = RuleName { text: self.name.as_str().into(), source: self.source.clone() };
        let only = id.literal().map(Arc::from);
        Ok(CheckedRule(Arc::new(Compiled { name, id, only, unless, topics, limits })))
    }

    fn topic_lists(&self) -> [(&'static str, Effect, &[String]); 6] {
        [
            ("publish", Effect::Publish, &self.publish),
            ("subscribe", Effect::Subscribe, &self.subscribe),
            ("receive", Effect::Receive, &self.receive),
            ("deny-publish", Effect::DenyPublish, &self.deny_publish),
            ("deny-subscribe", Effect::DenySubscribe, &self.deny_subscribe),
            ("deny-receive", Effect::DenyReceive, &self.deny_receive),
        ]
    }

    fn shape_faults(&self) -> Vec<Problem> {
        const NAME_MAX: usize = 255;
        let mut faults = Vec::new();
        let printable = self.name.chars().all(|c| !c.is_control() && c != '`');
        if self.name.is_empty() || self.name.len() > NAME_MAX || !printable {
            faults.push(Problem::Name(self.name.clone()));
        }
        if self.topic_lists().iter().all(|(_, _, patterns)| patterns.is_empty()) {
            faults.push(Problem::Empty);
        }
        let mut idle = |set: bool, condition, limited, none: bool| {
            if set && none {
                faults.push(Problem::IdleCondition { condition, limited });
            }
        };
        let none = self.publish.is_empty();
        idle(self.retain.is_some(), "retain", "publish", none);
        idle(self.payload_max.is_some(), "payload-max", "publish", none);
        idle(self.will.is_some(), "will", "publish", none);
        idle(self.qos_max.is_some(), "qos-max", "publish or subscribe", none && self.subscribe.is_empty());
        faults
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
        for (key, effect, patterns) in self.topic_lists() {
            for text in patterns {
                match Template::parse(text, captures) {
                    Ok(template) => topics.push((effect, template)),
                    Err(fault) => faults.push(topic_problem(key, text, fault)),
                }
            }
        }
        topics
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
        Limits {
            qos_max,
            retain: self.retain.unwrap_or(true),
            payload_max: self
                .payload_max
                .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX)),
            will: self.will.unwrap_or(true),
        }
    }

    fn errors(&self, faults: Vec<Problem>) -> Vec<PolicyError> {
        let rule: Arc<str> = self.name.as_str().into();
        let error =
            |problem| PolicyError { place: self.source.clone(), rule: Some(Arc::clone(&rule)), problem };
        faults.into_iter().map(error).collect()
    }
}

fn id_problem(key: &'static str, pattern: &str, fault: IdFault) -> Problem {
    Problem::Id { key, pattern: pattern.to_owned(), fault }
}

fn topic_problem(key: &'static str, pattern: &str, fault: TopicFault) -> Problem {
    Problem::Topic { key, pattern: pattern.to_owned(), fault }
}

/// An immutable set of rules with an epoch. Without rules it denies everything.
#[derive(Debug)]
pub struct Policy {
    epoch: u64,
    rules: usize,
    /// Rules that speak of one identity, by it: the grants, of which there may be very many.
    literal: HashMap<Arc<str>, Vec<CheckedRule>>,
    patterns: Vec<CheckedRule>,
}

impl Policy {
    /// Returns the policy that denies everything; its epoch is 0.
    pub fn deny_all() -> Self {
        Self { epoch: 0, rules: 0, literal: HashMap::new(), patterns: Vec::new() }
    }

    /// Checks and compiles rules.
    ///
    /// # Errors
    /// Every fault found, when there is one.
    pub fn compile(rules: Vec<Rule>, epoch: u64) -> Result<Self, Vec<PolicyError>> {
        let mut checked = Vec::with_capacity(rules.len());
        let mut errors = Vec::new();
        for rule in rules {
            match rule.check() {
                Ok(rule) => checked.push(rule),
                Err(mut found) => errors.append(&mut found),
            }
        }
        if errors.is_empty() { Self::of(checked, epoch) } else { Err(errors) }
    }

    /// Makes a policy of rules that were checked before.
    ///
    /// # Errors
    /// When two rules of one source have the same name.
    pub fn of(rules: impl IntoIterator<Item = CheckedRule>, epoch: u64) -> Result<Self, Vec<PolicyError>> {
        let rules: Vec<CheckedRule> = rules.into_iter().collect();
        let errors = doubles(&rules);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut policy = Self { epoch, rules: rules.len(), ..Self::deny_all() };
        for rule in rules {
            match &rule.0.only {
                Some(id) => policy.literal.entry(Arc::clone(id)).or_default().push(rule),
                None => policy.patterns.push(rule),
            }
        }
        Ok(policy)
    }

    /// Reads and compiles one policy file; its epoch is 1.
    ///
    /// # Errors
    /// Every fault found, with file and line, when there is one.
    pub fn from_toml_str(text: &str, file: &str) -> Result<Self, Vec<PolicyError>> {
        Self::compile(Rule::from_toml_str(text, file)?, 1)
    }

    /// Epoch: the number its maker gave it. Permits carry it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns how many rules there are.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Returns what the identity may do. Costs the rules that speak of it and one look at each
    /// rule with a pattern.
    pub fn rights(&self, id: &SpiffeId) -> Arc<Rights> {
        Arc::new(Rights::of(self.epoch, id, &self.applying(id)))
    }

    /// Returns what the identity of earlier rights may do now. Costs far less than
    /// [`Policy::rights`] where the rules that speak of it are the same.
    pub fn rights_after(&self, earlier: &Rights) -> Arc<Rights> {
        let id = earlier.id();
        let applying = self.applying(id);
        let renewed = earlier.renewed(self.epoch, &applying);
        Arc::new(renewed.unwrap_or_else(|| Rights::of(self.epoch, id, &applying)))
    }

    /// Returns the rules that speak of the identity, each with what its captures stand for.
    fn applying<'a>(&'a self, id: &'a SpiffeId) -> Vec<(&'a CheckedRule, Vec<&'a str>)> {
        let own = self.literal.get(id.to_string().as_str()).map(Vec::as_slice).unwrap_or_default();
        own.iter().chain(&self.patterns).filter_map(|rule| Some((rule, rule.applies(id)?))).collect()
    }
}

fn doubles(rules: &[CheckedRule]) -> Vec<PolicyError> {
    let mut names = HashMap::with_capacity(rules.len());
    let mut errors = Vec::new();
    for rule in rules {
        let RuleName { text, source } = rule.name();
        if let Some(other) = names.insert((NameSpace::of(source), &**text), source) {
            let problem = Problem::NameTwice(other.clone());
            errors.push(PolicyError { place: source.clone(), rule: Some(Arc::clone(text)), problem });
        }
    }
    errors
}

/// Where names must not repeat. Rules from the cloud cannot make a local policy invalid by taking
/// its names.
#[derive(Debug, PartialEq, Eq, Hash)]
enum NameSpace {
    Files,
    Entries,
    Cloud,
    Built,
}

impl NameSpace {
    fn of(source: &RuleSource) -> Self {
        match source {
            RuleSource::File { .. } => Self::Files,
            RuleSource::Entry => Self::Entries,
            RuleSource::Cloud => Self::Cloud,
            RuleSource::Built => Self::Built,
        }
    }
}
