//! Least-privilege rules from what was seen: as narrow as can be said with captures.

use crate::cell::Cell;
use crate::model::Ruleset;
use crate::observation::Observation;
use crate::overlap::{Overlaps, levels};
use crate::request::{Request, Verb};
use midge_identity::SpiffeId;
use midge_policy::{Context, PolicyError, Rule, RuleSource, SubscribeMode};
use mqtt_proto::{QoS, TopicFilter};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Examples of what is allowed though it was not seen.
const EXAMPLES_MAX: usize = 10;

/// How far rules go beyond what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generality {
    /// Whether identities of the default ID scheme get a rule for their kind; else each has its own.
    pub kinds: bool,
    /// A level with more values than this becomes `+`.
    pub values_max: usize,
}

impl Default for Generality {
    fn default() -> Self {
        Self { kinds: true, values_max: 8 }
    }
}

/// Proposed rules, and how they compare with what was seen.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The rules.
    pub rules: Vec<Rule>,
    /// How they compare.
    pub report: Report,
}

/// How proposed rules compare with what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Different observations: who, what and where.
    pub seen: usize,
    /// Identities among them.
    pub identities: usize,
    /// Observations that the rules would have refused. There are none unless a deny or a mode of the
    /// subscription has hidden what was meant.
    pub refused: Vec<String>,
    /// What seen identities may do at seen topics: how many such pairs the rules allow.
    pub allowed_pairs: usize,
    /// How many of them were seen.
    pub seen_pairs: usize,
    /// Some pairs that are allowed though they were not seen.
    pub beyond: Vec<String>,
    /// What else is wider than seen: kinds of identities, levels of any value, what was seen at other topics of the rule.
    pub wider: Vec<String>,
    /// Subscriptions of which not all was granted, and of which no delivery was seen: the rules let subscribe, and
    /// deliver nothing.
    pub silent: Vec<String>,
}

/// Proposes rules for what was seen.
///
/// # Errors
/// When an observed filter cannot stand in a rule, such as one with too many levels.
pub fn learn(observations: &[Observation], generality: Generality) -> Result<Proposal, Vec<PolicyError>> {
    let parts: Vec<Observation> = observations.iter().flat_map(parts).collect();
    let observations: Vec<&Observation> = observations.iter().chain(&parts).collect();
    let mut groups: BTreeMap<Scheme, Vec<&Observation>> = BTreeMap::new();
    for seen in &observations {
        groups.entry(Scheme::of(&seen.identity, generality.kinds)).or_default().push(seen);
    }
    let mut report = Report::default();
    let mut rules = Vec::new();
    for (scheme, seen) in groups {
        let (general, single) = common_and_single(&scheme, &seen);
        rules.extend(rule(&scheme, &general, generality, &mut report));
        for (id, seen) in single {
            let own = Scheme::single(&id);
            rules.extend(rule(&own, &seen, generality, &mut report));
        }
    }
    name_apart(&mut rules);
    let set = Ruleset::new(rules.clone())?;
    compare(&observations, &set, &mut report);
    report.silent = silent(&observations);
    Ok(Proposal { rules, report })
}

/// The identities of one rule to come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scheme {
    /// Pattern for `id`.
    pattern: String,
    /// Names of captures with their place in the identity: 0 is the trust domain.
    captures: Vec<(String, usize)>,
    name: String,
}

impl Scheme {
    /// Returns the kind of an identity by the default ID scheme (`spiffe://<td>/edge/<node>/…`).
    fn of(id: &SpiffeId, kinds: bool) -> Self {
        let segments: Vec<&str> = id.path().split('/').skip(1).collect();
        let named: &[&str] = match segments.as_slice() {
            ["edge", _, "mapper", _] => &["edge", "{node}", "mapper", "{device}"],
            ["edge", _, "mapper", _, _] => &["edge", "{node}", "mapper", "{namespace}", "{device}"],
            ["edge", _, "app", _] => &["edge", "{node}", "app", "{app}"],
            ["edge", _, "agent", _] => &["edge", "{node}", "agent", "{host}"],
            ["edge", _, "event-bus"] => &["edge", "{node}", "event-bus"],
            ["edge", _, "broker"] => &["edge", "{node}", "broker"],
            ["edge", _, kind, _] if kinds => {
                let pattern = ["edge", "{node}", kind, "{name}"];
                return Self::named(&pattern);
            }
            _ => return Self::single(id),
        };
        if kinds { Self::named(named) } else { Self::single(id) }
    }

    fn named(segments: &[&str]) -> Self {
        let parts = std::iter::once("{td}").chain(segments.iter().copied());
        let captures = parts
            .enumerate()
            .filter_map(|(at, part)| Some((part.strip_prefix('{')?.strip_suffix('}')?.to_owned(), at)));
        let literal: Vec<&str> = segments
            .iter()
            .copied()
            .filter(|segment| !segment.starts_with('{') && *segment != "edge")
            .collect();
        Self {
            pattern: format!("spiffe://{{td}}/{}", segments.join("/")),
            captures: captures.collect(),
            name: format!("learned-{}", literal.join("-")),
        }
    }

    fn single(id: &SpiffeId) -> Self {
        let name = id.path().split('/').next_back().unwrap_or_default();
        let name = if name.is_empty() { id.trust_domain_name() } else { name };
        Self { pattern: id.to_string(), captures: Vec::new(), name: format!("learned-{name}") }
    }

    /// Puts captures in place of the values that the identity has for them, the last capture first:
    /// it says most about who it is.
    fn template(&self, id: &SpiffeId, filter: &str) -> String {
        let parts: Vec<&str> =
            std::iter::once(id.trust_domain_name()).chain(id.path().split('/').skip(1)).collect();
        let level = |level: &str| {
            let captured = self.captures.iter().rev().find(|(_, at)| parts.get(*at) == Some(&level));
            captured.map_or_else(|| level.to_owned(), |(name, _)| format!("{{{name}}}"))
        };
        filter.split('/').map(level).collect::<Vec<_>>().join("/")
    }
}

/// Returns what of a subscription was granted without exception, as what it gives: deliveries.
fn parts(seen: &Observation) -> impl Iterator<Item = Observation> {
    let group = shared(seen).map(|(group, _)| group.to_owned());
    seen.parts.iter().flatten().map(move |part| Observation {
        identity: seen.identity.clone(),
        action: Verb::Receive,
        topic: part.clone(),
        qos: seen.qos,
        retain: None,
        payload: None,
        response_topics: Vec::new(),
        parts: None,
        group: group.clone(),
        count: seen.count,
    })
}

/// Returns subscriptions of which not all was granted and of which nothing was seen to come.
fn silent(observations: &[&Observation]) -> Vec<String> {
    let mut received: BTreeMap<&SpiffeId, Vec<TopicFilter>> = BTreeMap::new();
    for seen in observations.iter().filter(|seen| seen.action == Verb::Receive) {
        received.entry(&seen.identity).or_default().extend(TopicFilter::new(&seen.topic));
    }
    let brings = |seen: &Observation| {
        let filter = TopicFilter::new(filter_of(seen)).ok();
        let mut topics = received.get(&seen.identity).into_iter().flatten();
        filter.is_some_and(|filter| topics.any(|topic| midge_policy::contains(&filter, topic)))
    };
    let is_silent = |seen: &&&Observation| Right::of(seen) == Right::Literal && !brings(seen);
    let silent: BTreeSet<String> = observations
        .iter()
        .filter(is_silent)
        .map(|seen| format!("{} subscribe {}", seen.identity, seen.topic))
        .collect();
    silent.into_iter().collect()
}

/// What is in one list of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Publish,
    Will,
    /// To all that a filter matches.
    Subscribe,
    /// To the filter, and to nothing that it matches.
    Literal,
    Receive,
    /// To name a Response Topic.
    Name,
}

impl Right {
    fn of(seen: &Observation) -> Self {
        match seen.action {
            Verb::Publish => Self::Publish,
            Verb::Will => Self::Will,
            Verb::Subscribe if seen.parts.is_some() => Self::Literal,
            Verb::Subscribe => Self::Subscribe,
            Verb::Receive => Self::Receive,
        }
    }

    /// Returns each right that was used.
    fn used(seen: &Observation) -> impl Iterator<Item = (Self, &str)> {
        let named = seen.response_topics.iter().map(|topic| (Self::Name, &**topic));
        std::iter::once((Self::of(seen), filter_of(seen))).chain(named)
    }
}

/// What was seen of one rule's identities.
#[derive(Clone, Debug, Default)]
struct Seen {
    templates: BTreeMap<Right, BTreeSet<String>>,
    qos: Option<u8>,
    /// Topics with publications or wills that were retained, or may have been.
    retained: BTreeSet<String>,
    /// Topics with the Response Topics that were named there.
    naming: BTreeSet<(String, String)>,
    payload: Option<u32>,
    unknown_payload: bool,
    /// Share groups that were joined.
    groups: BTreeSet<String>,
    identities: BTreeSet<SpiffeId>,
}

impl Seen {
    fn add(&mut self, seen: &Observation, template: impl Fn(&str) -> String) {
        for (right, text) in Right::used(seen) {
            self.templates.entry(right).or_default().insert(template(text));
        }
        self.identities.insert(seen.identity.clone());
        self.qos = self.qos.max(Some(seen.qos.unwrap_or(2)));
        self.groups.extend(shared(seen).map(|(group, _)| group.to_owned()).or_else(|| seen.group.clone()));
        if matches!(seen.action, Verb::Publish | Verb::Will) {
            let topic = template(filter_of(seen));
            let named = seen.response_topics.iter().map(|name| (topic.clone(), template(name)));
            self.naming.extend(named);
            if seen.retain != Some(false) {
                self.retained.insert(topic);
            }
            self.payload = self.payload.max(seen.payload);
            self.unknown_payload |= seen.payload.is_none();
        }
    }
}

impl Seen {
    fn of(&self, right: Right) -> impl Iterator<Item = &String> {
        self.templates.get(&right).into_iter().flatten()
    }

    /// Tells what a rule allows at some of its topics because it was seen at others: its conditions hold for all.
    fn beyond_topics(&self) -> Vec<String> {
        let published: BTreeSet<&String> = self.of(Right::Publish).collect();
        let wills: BTreeSet<&String> = self.of(Right::Will).collect();
        let topics: BTreeSet<&String> = published.union(&wills).copied().collect();
        let retained: BTreeSet<&String> = self.retained.iter().collect();
        let kinds = [
            ("publications", &published, true),
            ("wills", &wills, !wills.is_empty()),
            ("retained messages", &retained, !retained.is_empty()),
        ];
        let mut beyond = Vec::new();
        for (kind, seen, is_allowed) in kinds {
            let mut unseen = topics.difference(seen);
            if let Some(example) = unseen.next().filter(|_| is_allowed) {
                let count = 1 + unseen.count();
                beyond.push(format!("{kind} at {count} topics where none was seen, such as {example}"));
            }
        }
        let names = || self.of(Right::Name);
        let mut pairs =
            topics.iter().flat_map(|topic| names().map(move |name| ((*topic).clone(), name.clone())));
        let count = (topics.len() * names().count()).saturating_sub(self.naming.len());
        if let Some((topic, name)) = pairs.find(|pair| !self.naming.contains(pair)) {
            beyond.push(format!(
                "Response Topics at {count} topics where they were not seen, such as {name} at {topic}"
            ));
        }
        beyond
    }
}

/// Divides what was seen of a kind: what belongs to the kind, and what one identity did alone at a topic that names
/// none, or naming such a Response Topic. Nothing says that others of the kind would do that, were there any; even if it was
/// the only one that was seen.
fn common_and_single(scheme: &Scheme, seen: &[&Observation]) -> (Seen, BTreeMap<SpiffeId, Seen>) {
    let mut users: BTreeMap<(Right, String), BTreeSet<&SpiffeId>> = BTreeMap::new();
    for seen in seen {
        for (right, text) in Right::used(seen) {
            let template = scheme.template(&seen.identity, text);
            users.entry((right, template)).or_default().insert(&seen.identity);
        }
    }
    let (mut common, mut single) = (Seen::default(), BTreeMap::<SpiffeId, Seen>::new());
    for seen in seen {
        let template = |text: &str| scheme.template(&seen.identity, text);
        let is_alone = Right::used(seen).any(|(right, text)| {
            let template = template(text);
            !template.contains('{') && users.get(&(right, template)).is_some_and(|users| users.len() == 1)
        });
        if is_alone {
            single.entry(seen.identity.clone()).or_default().add(seen, str::to_owned);
        } else {
            common.add(seen, template);
        }
    }
    (common, single)
}

/// Returns share group and filter of a shared subscription.
fn shared(seen: &Observation) -> Option<(&str, &str)> {
    seen.topic.strip_prefix("$share/").filter(|_| seen.action == Verb::Subscribe)?.split_once('/')
}

/// Returns the filter without `$share/<group>/`.
fn filter_of(seen: &Observation) -> &str {
    shared(seen).map_or(&seen.topic, |(_, filter)| filter)
}

fn rule(scheme: &Scheme, seen: &Seen, generality: Generality, report: &mut Report) -> Option<Rule> {
    if seen.templates.is_empty() {
        return None;
    }
    let of = |rights: &[Right]| -> BTreeSet<String> {
        rights.iter().filter_map(|right| seen.templates.get(right)).flatten().cloned().collect()
    };
    let mut list = |rights: &[Right]| general(of(rights), generality.values_max, report);
    let publish = list(&[Right::Publish, Right::Will]);
    let response_topics = list(&[Right::Name]);
    let subscribe = list(&[Right::Subscribe]);
    let beside = |topic: &String| !subscribe.iter().any(|filter| covers(filter, topic));
    let receive: Vec<String> = list(&[Right::Receive]).into_iter().filter(beside).collect();
    // Each is a right to this very filter: another one does not stand for it.
    let subscribe_literal: Vec<String> = of(&[Right::Literal]).into_iter().filter(beside).collect();
    let publishes = !publish.is_empty();
    let subscribes = !(subscribe.is_empty() && subscribe_literal.is_empty());
    let share_groups = subscribes.then(|| seen.groups.iter().cloned().collect());
    if scheme.captures.len() > 1 {
        report.wider.push(format!(
            "{} for any identity of the kind; seen: {}",
            scheme.pattern,
            seen.identities.len()
        ));
    }
    let beyond = seen.beyond_topics();
    report.wider.extend(beyond.into_iter().map(|what| format!("{}: {what}", scheme.pattern)));
    Some(Rule {
        name: scheme.name.clone(),
        id: scheme.pattern.clone(),
        publish,
        subscribe,
        subscribe_literal,
        receive,
        response_topics,
        qos_max: seen.qos.filter(|qos| *qos < 2),
        retain: (publishes && seen.retained.is_empty()).then_some(false),
        will: (publishes && !seen.templates.contains_key(&Right::Will)).then_some(false),
        payload_max: seen
            .payload
            .filter(|_| publishes && !seen.unknown_payload)
            .map(|max| max.max(1).checked_next_power_of_two().unwrap_or(u32::MAX)),
        share_groups,
        source: RuleSource::Built,
        ..Rule::default()
    })
}

/// Puts `+` where a level has too many values, and drops what another filter covers.
fn general(mut templates: BTreeSet<String>, values_max: usize, report: &mut Report) -> Vec<String> {
    let depth = templates.iter().map(|template| template.split('/').count()).max().unwrap_or_default();
    for at in 0..depth {
        // Templates that differ in this level alone.
        let mut alike: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for template in &templates {
            let mut levels: Vec<&str> = template.split('/').collect();
            let is_value = levels.get(at).is_some_and(|level| {
                !(level.contains(['+', '#', '{']) || (at == 0 && level.starts_with('$')))
            });
            if let Some(level) = levels.get_mut(at)
                && is_value
            {
                *level = "+";
                alike.entry(levels.join("/")).or_default().insert(template.clone());
            }
        }
        for (wider, narrow) in alike.into_iter().filter(|(_, narrow)| narrow.len() > values_max) {
            report.wider.push(format!("{wider}: any value for a level that had {}", narrow.len()));
            templates.retain(|template| !narrow.contains(template));
            templates.insert(wider);
        }
    }
    let all: Vec<String> = templates.into_iter().collect();
    let needless = |one: &String| all.iter().any(|other| other != one && covers(other, one));
    all.iter().filter(|one| !needless(one)).cloned().collect()
}

/// Tells whether a template covers another one whatever the captures are.
fn covers(outer: &str, inner: &str) -> bool {
    let both = TopicFilter::new(outer).ok().zip(TopicFilter::new(inner).ok());
    both.is_some_and(|(outer, inner)| midge_policy::contains(&outer, &inner))
}

fn name_apart(rules: &mut [Rule]) {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for rule in rules {
        let times = known.entry(rule.name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            rule.name = format!("{}-{times}", rule.name);
        }
    }
}

fn compare(observations: &[&Observation], rules: &Ruleset, report: &mut Report) {
    let identities: BTreeSet<&SpiffeId> = observations.iter().map(|seen| &seen.identity).collect();
    let subjects: BTreeSet<(Verb, &str)> =
        observations.iter().map(|seen| (seen.action, &*seen.topic)).collect();
    let subjects: Vec<(Verb, &str, Request)> = subjects
        .into_iter()
        .filter_map(|(verb, topic)| Some((verb, topic, Request::new(verb, topic).ok()?)))
        .collect();
    let mut index = Overlaps::default();
    for (at, (.., request)) in subjects.iter().enumerate() {
        index.insert(&levels(request.filter.filter.as_str()), at);
    }
    let pairs: BTreeSet<(&SpiffeId, Verb, &str)> =
        observations.iter().map(|seen| (&seen.identity, seen.action, &*seen.topic)).collect();
    report.seen = pairs.len();
    report.identities = identities.len();
    for seen in observations.iter().filter(|seen| !seen.is_allowed(rules)) {
        report.refused.push(format!("{} {} {}", seen.identity, seen.action.name(), seen.topic));
    }
    report.refused.dedup();
    for seen in observations.iter().filter(|seen| Right::of(seen) == Right::Literal) {
        if grants_all(seen, rules) {
            report.wider.push(format!(
                "{} subscribe {}: all of it, of which a part was granted",
                seen.identity, seen.topic
            ));
        }
    }
    for id in identities {
        let (cell, rights) = (Cell::of(id), rules.policy().rights_at(id, Context::default()));
        // Nothing else can be allowed.
        let spoken_of: BTreeSet<usize> = rules
            .applying(id)
            .into_iter()
            .flat_map(|held| &held.patterns)
            .flat_map(|pattern| index.of(&pattern.filter.resolve(&cell).levels()).0)
            .collect();
        for (verb, subject, request) in spoken_of.into_iter().filter_map(|at| subjects.get(at)) {
            if !request.decide_by(&rights, rules, id).allowed {
                continue;
            }
            report.allowed_pairs += 1;
            if pairs.contains(&(id, *verb, *subject)) {
                report.seen_pairs += 1;
            } else if report.beyond.len() < EXAMPLES_MAX {
                report.beyond.push(format!("{id} {} {subject}", verb.name()));
            }
        }
    }
}

/// Tells whether rules grant all of a filter.
fn grants_all(seen: &Observation, rules: &Ruleset) -> bool {
    let Some(request) = seen.request() else { return false };
    let rights = rules.policy().rights_at(&seen.identity, Context::default());
    let permit = rights.subscribe(&request.filter, QoS::AtMostOnce, SubscribeMode::Reject);
    permit.is_ok_and(|permit| permit.in_part().is_none())
}

impl Proposal {
    /// Returns the rules as the text of a policy file.
    pub fn to_toml(&self) -> String {
        #[derive(Serialize)]
        struct File<'a> {
            rule: &'a [Rule],
        }
        toml::to_string_pretty(&File { rule: &self.rules }).unwrap_or_default()
    }
}
