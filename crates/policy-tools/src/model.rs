//! Rules in a form that can be asked about all identities at once.

use crate::cell::{Cell, PartIndex, Question, Term};
use crate::marked;
use crate::modes::Modes;
use crate::topics::{Filter, text};
use midge_identity::SpiffeId;
use midge_policy::{CheckedRule, Effect, IdPattern, Policy, PolicyError, Rule, RuleSource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A policy that can be examined: its rules as written, and what they mean for whom.
#[derive(Clone, Debug)]
pub struct Ruleset {
    rules: Vec<Arc<Held>>,
    /// Rules that speak of one identity, by it. Also has the identities that an `unless` names in full.
    points: BTreeMap<SpiffeId, Vec<Arc<Held>>>,
    patterns: Vec<Arc<Held>>,
    policy: Arc<Policy>,
    modes: Modes,
}

impl Ruleset {
    /// Checks rules and prepares them.
    ///
    /// # Errors
    /// Every fault found, when there is one.
    pub fn new(rules: Vec<Rule>) -> Result<Self, Vec<PolicyError>> {
        let mut checked = Vec::with_capacity(rules.len());
        let mut errors = Vec::new();
        for rule in &rules {
            match rule.check() {
                Ok(rule) => checked.push(rule),
                Err(mut found) => errors.append(&mut found),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let policy = Arc::new(Policy::of(checked.iter().cloned(), 1)?);
        let held = rules.into_iter().zip(checked).map(|(rule, checked)| Arc::new(Held::new(rule, checked)));
        Ok(Self::holding(held.collect(), policy))
    }

    /// Prepares rules of a policy, which were checked for it.
    pub fn of(rules: impl IntoIterator<Item = CheckedRule>) -> Self {
        let checked: Vec<CheckedRule> = rules.into_iter().collect();
        // Rules of one policy have no name twice.
        let policy = Policy::of(checked.iter().cloned(), 1).unwrap_or_else(|_| Policy::deny_all());
        let held = checked.into_iter().map(|checked| Arc::new(Held::new(checked.rule().clone(), checked)));
        Self::holding(held.collect(), Arc::new(policy))
    }

    fn holding(rules: Vec<Arc<Held>>, policy: Arc<Policy>) -> Self {
        let mut set = Self::without_rules(policy);
        set.rules = rules;
        for rule in &set.rules {
            match &rule.only {
                Some(id) => set.points.entry(id.clone()).or_default().push(Arc::clone(rule)),
                None => set.patterns.push(Arc::clone(rule)),
            }
            for id in rule.checked.unless().iter().filter_map(IdPattern::literal) {
                set.points.entry(id).or_default();
            }
        }
        set
    }

    /// Returns the policy without rules: everything is denied.
    pub fn empty() -> Self {
        Self::without_rules(Arc::new(Policy::deny_all()))
    }

    fn without_rules(policy: Arc<Policy>) -> Self {
        let (rules, patterns) = (Vec::new(), Vec::new());
        Self { rules, points: BTreeMap::new(), patterns, policy, modes: Modes::default() }
    }

    /// Has what a box grants in part granted so; without it nothing is.
    pub fn with_modes(self, modes: Modes) -> Self {
        Self { modes, ..self }
    }

    pub(crate) fn modes(&self) -> &Modes {
        &self.modes
    }

    /// Returns the rules as written, in their order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|held| &held.rule)
    }

    /// Returns the policy that these rules make; its epoch is 1.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Returns the rules whose `id` matches the identity, whatever `unless` says.
    pub(crate) fn speaking_of(&self, id: &SpiffeId) -> Vec<&Arc<Held>> {
        let cell = Cell::of(id);
        self.own(id)
            .iter()
            .chain(&self.patterns)
            .filter(|held| held.whom.matches(&cell) == Ok(true))
            .collect()
    }

    /// Returns the rules that speak of the identity.
    pub(crate) fn applying(&self, id: &SpiffeId) -> Vec<&Arc<Held>> {
        let cell = Cell::of(id);
        self.own(id).iter().chain(&self.patterns).filter(|held| held.applies(&cell) == Ok(true)).collect()
    }

    pub(crate) fn held(&self) -> &[Arc<Held>] {
        &self.rules
    }

    pub(crate) fn patterns(&self) -> &[Arc<Held>] {
        &self.patterns
    }

    /// Returns the identities that have rules of their own, or that an `unless` names in full.
    pub(crate) fn points(&self) -> impl Iterator<Item = &SpiffeId> {
        self.points.keys()
    }

    pub(crate) fn own(&self, id: &SpiffeId) -> &[Arc<Held>] {
        self.points.get(id).map(Vec::as_slice).unwrap_or_default()
    }
}

/// One topic pattern of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub(crate) effect: Effect,
    /// As the rule spells it.
    pub(crate) text: String,
    pub(crate) filter: Filter,
}

/// One rule, prepared.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) rule: Rule,
    pub(crate) checked: CheckedRule,
    whom: Whom,
    unless: Vec<Whom>,
    only: Option<SpiffeId>,
    pub(crate) patterns: Vec<Pattern>,
}

impl Held {
    pub(crate) fn new(rule: Rule, checked: CheckedRule) -> Self {
        let mut captures = vec![("td".to_owned(), 0)];
        let whom = Whom::read(&rule.id, &mut captures);
        let unless = rule.unless.iter().map(|pattern| Whom::read(pattern, &mut captures)).collect();
        let part = |name: &str| captures.iter().find(|(known, _)| known == name).map(|(_, part)| *part);
        let lists = rule.topic_lists().into_iter();
        let patterns = lists
            .flat_map(|(effect, texts)| texts.iter().map(move |text| (effect, text)))
            .map(|(effect, text)| Pattern { effect, text: text.clone(), filter: Filter::read(text, part) })
            .collect();
        let only = checked.id().literal();
        Self { rule, checked, whom, unless, only, patterns }
    }

    /// Tells whether the rule has such a list.
    pub(crate) fn has(&self, wanted: impl Fn(Effect) -> bool) -> bool {
        self.patterns.iter().any(|pattern| wanted(pattern.effect))
    }

    /// Returns what the rule says, whatever it is called and wherever it comes from.
    pub(crate) fn meaning(&self) -> String {
        let rule = Rule { name: String::new(), source: RuleSource::Built, ..self.rule.clone() };
        serde_json::to_string(&rule).unwrap_or_default()
    }

    /// Returns of whom it speaks and under which conditions: everything about access but the topics.
    pub(crate) fn head(&self) -> String {
        let rule = with_lists(&self.rule, |_, _| Vec::new());
        let rule = Rule {
            name: String::new(),
            source: RuleSource::Built,
            durability: None,
            queue_overflow: None,
            quota: None,
            ..rule
        };
        serde_json::to_string(&rule).unwrap_or_default()
    }

    /// Returns the rule with other lists.
    pub(crate) fn with_lists(&self, list: impl FnMut(Effect, &[String]) -> Vec<String>) -> Self {
        Self::new(with_lists(&self.rule, list), self.checked.clone())
    }

    /// Returns the only identity that it speaks of, if there is one.
    pub(crate) fn only(&self) -> Option<&SpiffeId> {
        self.only.as_ref()
    }

    /// Returns the identities that its `unless` names in full.
    pub(crate) fn excepts(&self) -> impl Iterator<Item = SpiffeId> {
        self.checked.unless().iter().filter_map(IdPattern::literal)
    }

    /// Returns the text that its `id` spells for a part.
    pub(crate) fn spelled(&self, part: PartIndex) -> Option<&Arc<str>> {
        match self.whom.parts.get(part) {
            Some(Some(Term::Text(text))) => Some(text),
            _ => None,
        }
    }

    /// Tells whether the rule speaks of the identities of a cell.
    pub(crate) fn applies(&self, cell: &Cell) -> Result<bool, Question> {
        if !self.whom.matches(cell)? {
            return Ok(false);
        }
        let mut open = None;
        for (pattern, checked) in self.unless.iter().zip(self.checked.unless()) {
            // Single identities are looked at one by one: they would split all cells around them.
            if cell.is_general() && checked.literal().is_some() {
                continue;
            }
            match pattern.matches(cell) {
                Ok(true) => return Ok(false),
                Ok(false) => {}
                Err(question) => open = open.or(Some(question)),
            }
        }
        open.map_or(Ok(true), Err)
    }

    /// Returns the part that a capture stands for.
    pub(crate) fn part(&self, name: &str) -> Option<PartIndex> {
        if name == "td" {
            return Some(0);
        }
        self.captures().find(|(_, known)| *known == name).map(|(part, _)| part)
    }

    /// Returns the captures of `id` with their parts.
    pub(crate) fn captures(&self) -> impl Iterator<Item = (PartIndex, &str)> {
        self.whom.named.iter().map(|(name, part)| (*part, name.as_str()))
    }

    /// Returns what the captures stand for in one identity that the rule speaks of.
    pub(crate) fn bindings(&self, id: &Cell) -> Vec<(String, String)> {
        let value = |part| match id.resolve(part) {
            Term::Text(text) => text.to_string(),
            Term::Part(_) => String::new(),
        };
        self.captures().map(|(part, name)| (name.to_owned(), value(part))).collect()
    }

    /// Returns the `unless` pattern that excepts the identity.
    pub(crate) fn excepted_by(&self, id: &Cell) -> Option<&str> {
        let at = self.unless.iter().position(|pattern| pattern.matches(id) == Ok(true))?;
        self.rule.unless.get(at).map(String::as_str)
    }

    /// Fills captures in for one identity.
    pub(crate) fn filled(&self, text: &str, id: &Cell) -> String {
        marked::resolve(text, id, |name| self.part(name))
    }

    /// Tells whether the rule's `client-id` admits the client of one identity.
    pub(crate) fn is_client(&self, client_id: Option<&str>, id: &Cell) -> bool {
        let admits = |client_id: &str| {
            self.rule.client_id.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => client_id.starts_with(&self.filled(start, id)),
                None => client_id == self.filled(pattern, id),
            })
        };
        self.rule.client_id.is_empty() || client_id.is_some_and(admits)
    }

    /// Tells whether the rule's `client-id` may admit the client of some identity of a cell. A capture
    /// that is not known counts as any text.
    pub(crate) fn may_be_client(&self, client_id: &str, cell: &Cell) -> bool {
        let admits = |pattern: &String| {
            let (pattern, open) =
                pattern.strip_suffix('*').map_or((pattern.as_str(), false), |rest| (rest, true));
            let resolved = self.filled(pattern, cell);
            let mut pieces = marked::literals(&resolved);
            let Some(mut rest) = pieces.next().and_then(|first| client_id.strip_prefix(first)) else {
                return false;
            };
            let mut last = None;
            for piece in pieces {
                // Whatever the capture is, the next literal piece comes somewhere after it.
                let Some((_, after)) = rest.split_once(piece) else { return false };
                rest = after;
                last = Some(piece);
            }
            open || match last {
                None => rest.is_empty(),
                Some(piece) => client_id.ends_with(piece),
            }
        };
        self.rule.client_id.is_empty() || self.rule.client_id.iter().any(admits)
    }

    /// Tells whether share groups of the rule include this one.
    pub(crate) fn joins(&self, groups: &[String], group: &str, cell: &Cell) -> Result<bool, Question> {
        let group = Term::Text(text(group));
        let mut open = None;
        for named in groups {
            let part = named
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'))
                .and_then(|name| self.part(name));
            let named_term = part.map_or_else(|| Term::Text(text(named)), Term::Part);
            match cell.equal(&named_term, &group) {
                _ if named == "*" => return Ok(true),
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(question) => open = open.or(Some(question)),
            }
        }
        open.map_or(Ok(false), Err)
    }

    /// Tells whether its denies hold on a listener. They do where the listener is not known.
    pub(crate) fn denies_on(&self, listener: Option<&str>) -> bool {
        self.rule.listener.is_empty()
            || listener.is_none_or(|name| self.rule.listener.iter().any(|known| known == name))
    }
}

fn with_lists(rule: &Rule, mut list: impl FnMut(Effect, &[String]) -> Vec<String>) -> Rule {
    Rule {
        publish: list(Effect::Publish, &rule.publish),
        subscribe: list(Effect::Subscribe, &rule.subscribe),
        receive: list(Effect::Receive, &rule.receive),
        subscribe_literal: list(Effect::SubscribeLiteral, &rule.subscribe_literal),
        deny_publish: list(Effect::DenyPublish, &rule.deny_publish),
        deny_subscribe: list(Effect::DenySubscribe, &rule.deny_subscribe),
        deny_receive: list(Effect::DenyReceive, &rule.deny_receive),
        deny_subscribe_literal: list(Effect::DenySubscribeLiteral, &rule.deny_subscribe_literal),
        ..rule.clone()
    }
}

/// A pattern of identities.
#[derive(Clone, Debug)]
struct Whom {
    /// Wanted terms by part, the trust domain first; none for any.
    parts: Vec<Option<Term>>,
    /// Whether any rest may follow.
    open: bool,
    /// Captures that this pattern binds.
    named: Vec<(String, PartIndex)>,
}

impl Whom {
    /// Reads a pattern that a rule's check has accepted. A capture that is known must have the same
    /// value again; others are added.
    fn read(pattern: &str, captures: &mut Vec<(String, PartIndex)>) -> Self {
        let path = pattern.strip_prefix("spiffe://").unwrap_or(pattern);
        let mut whom = Self { parts: Vec::new(), open: false, named: Vec::new() };
        for segment in path.split('/') {
            let part = whom.parts.len();
            let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let wanted = match (segment, name) {
                ("**", _) => {
                    whom.open = true;
                    break;
                }
                ("*", _) => None,
                (_, Some(name)) => match captures.iter().find(|(known, _)| known == name) {
                    Some((_, known)) if *known == part => None,
                    Some((_, known)) => Some(Term::Part(*known)),
                    None => {
                        captures.push((name.to_owned(), part));
                        whom.named.push((name.to_owned(), part));
                        None
                    }
                },
                (literal, None) => Some(Term::Text(text(literal))),
            };
            whom.parts.push(wanted);
        }
        whom
    }

    fn matches(&self, cell: &Cell) -> Result<bool, Question> {
        let mut open = None;
        let mut ask = |answer: Result<bool, Question>| match answer {
            Ok(answer) => answer,
            Err(question) => {
                open.get_or_insert(question);
                true
            }
        };
        for (part, wanted) in self.parts.iter().enumerate() {
            if !ask(cell.has(part)) {
                return Ok(false);
            }
            if part >= cell.len() {
                // It cannot be compared before it is known to be there.
                break;
            }
            let same = match wanted {
                None => continue,
                Some(Term::Text(text)) => cell.is_spelled(part, text),
                Some(other) => cell.equal(&Term::Part(part), other),
            };
            if !ask(same) {
                return Ok(false);
            }
        }
        if !self.open && cell.len() > self.parts.len() {
            return Ok(false);
        }
        if !self.open && cell.len() == self.parts.len() && !cell.is_ended() {
            open.get_or_insert(Question::Has(cell.len()));
        }
        open.map_or(Ok(true), Err)
    }
}
