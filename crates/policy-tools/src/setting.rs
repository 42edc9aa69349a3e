//! What conditions of rules tell apart: quality of service, payload, listener, share group and so on.
//!
//! The values that occur divide all requests into finitely many settings; within one of them every
//! condition holds throughout or not at all. Client ids, rates and response topics are compared as
//! they are written.

use crate::cell::{Cell, PartIndex, Question, Term};
use crate::marked;
use midge_policy::{LISTENERS, Rule};
use std::collections::BTreeSet;

/// Most settings that are looked at.
pub(crate) const SETTINGS_MAX: usize = 20_000;

/// Something that conditions are about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Facet {
    /// Spans of values.
    Qos(Vec<Span>),
    Payload(Vec<Span>),
    /// No, yes.
    Retain,
    Will,
    /// These names, and any other if there is one.
    Listener(Vec<String>),
    /// None, these groups, and any other.
    Group(Vec<Term>),
    /// None that would need a condition, and one that these patterns match.
    Reply(Vec<String>),
    /// No, yes.
    Client(String),
    /// No, yes: faster than this.
    Rate(String),
}

/// Values that no condition tells apart, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    low: u64,
    high: u64,
}

/// One choice for each facet.
pub(crate) type Setting = Vec<usize>;

/// All settings that the conditions of some rules tell apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space(Vec<Facet>);

/// The conditions of one rule on one kind of request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    qos_max: Option<u64>,
    payload_max: Option<u64>,
    no_retain: bool,
    no_will: bool,
    listeners: Vec<String>,
    client: Option<String>,
    rate: Option<String>,
    replies: Vec<String>,
    groups: Option<Vec<Term>>,
}

impl Conditions {
    /// Conditions that say whether there is a rule at all; they hold for its denies too.
    pub(crate) fn connection(rule: &Rule, cell: &Cell, part: impl Fn(&str) -> Option<PartIndex>) -> Self {
        let client: Vec<String> = rule.client_id.iter().map(|id| marked::resolve(id, cell, &part)).collect();
        Self {
            listeners: rule.listener.clone(),
            client: (!client.is_empty()).then(|| client.join(" or ")),
            ..Self::default()
        }
    }

    /// Adds those on publications.
    pub(crate) fn publish(self, rule: &Rule, cell: &Cell, part: impl Fn(&str) -> Option<PartIndex>) -> Self {
        Self {
            qos_max: rule.qos_max.map(u64::from),
            payload_max: rule.payload_max.map(u64::from),
            no_retain: rule.retain == Some(false),
            no_will: rule.will == Some(false),
            rate: rule.rate.as_ref().and_then(|rate| serde_json::to_string(rate).ok()),
            replies: rule.response_topics.iter().map(|topic| marked::resolve(topic, cell, &part)).collect(),
            ..self
        }
    }

    /// Adds those on deliveries.
    pub(crate) fn receive(self, rule: &Rule) -> Self {
        Self { qos_max: rule.qos_max.map(u64::from), ..self }
    }

    /// Adds those on subscriptions and what they bring.
    pub(crate) fn subscribe(
        self,
        rule: &Rule,
        cell: &Cell,
        part: impl Fn(&str) -> Option<PartIndex>,
    ) -> Self {
        let group = |text: &String| match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => part(name).map_or(Term::Text(name.into()), |part| cell.resolve(part)),
            None => Term::Text(text.as_str().into()),
        };
        let any = |groups: &&Vec<String>| !groups.iter().any(|group| group == "*");
        let groups = rule.share_groups.as_ref().filter(any);
        Self { groups: groups.map(|groups| groups.iter().map(group).collect()), ..self.receive(rule) }
    }

    /// Tell every listener apart, and subscriptions that are shared from others.
    pub(crate) fn of_modes() -> [Self; 2] {
        let listeners = LISTENERS.map(str::to_owned).into();
        [Self { listeners, ..Self::default() }, Self { groups: Some(Vec::new()), ..Self::default() }]
    }

    /// Returns them without what they say of the quality of service.
    pub(crate) fn at_any_qos(&self) -> Self {
        Self { qos_max: None, ..self.clone() }
    }

    /// Tells whether they are the same as others, or there are none.
    pub(crate) fn are_within(&self, others: &Self) -> bool {
        *self == Self::default() || self == others
    }

    /// Tells whether they hold in a setting of a space that was made of them too.
    pub(crate) fn hold(&self, space: &Space, setting: &Setting) -> bool {
        space.0.iter().zip(setting).all(|(facet, chosen)| {
            let within = |spans: &[Span], max: Option<u64>| {
                max.is_none_or(|max| spans.get(*chosen).is_some_and(|span| span.high <= max))
            };
            match facet {
                Facet::Qos(spans) => within(spans, self.qos_max),
                Facet::Payload(spans) => within(spans, self.payload_max),
                Facet::Retain => !self.no_retain || *chosen == 0,
                Facet::Will => !self.no_will || *chosen == 0,
                Facet::Listener(names) => {
                    self.listeners.is_empty()
                        || names.get(*chosen).is_some_and(|name| self.listeners.contains(name))
                }
                Facet::Group(groups) => match (chosen.checked_sub(1), &self.groups) {
                    (None, _) | (_, None) => true,
                    (Some(group), Some(own)) => groups.get(group).is_some_and(|group| own.contains(group)),
                },
                Facet::Reply(patterns) => match chosen.checked_sub(1) {
                    None => true,
                    Some(pattern) => {
                        patterns.get(pattern).is_some_and(|pattern| self.replies.contains(pattern))
                    }
                },
                Facet::Client(text) => *chosen == 1 || self.client.as_ref() != Some(text),
                Facet::Rate(text) => *chosen == 0 || self.rate.as_ref() != Some(text),
            }
        })
    }
}

impl Space {
    /// Returns the settings that these conditions tell apart.
    pub(crate) fn of<'a>(
        conditions: impl Iterator<Item = &'a Conditions> + Clone,
        cell: &Cell,
    ) -> Result<Self, Question> {
        let thresholds = |of: fn(&Conditions) -> Option<u64>| conditions.clone().filter_map(of).collect();
        let any = |of: fn(&Conditions) -> bool| conditions.clone().any(of);
        let texts = |of: fn(&Conditions) -> Vec<String>| -> Vec<String> {
            conditions.clone().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let mut facets = Vec::new();
        facets.push(Facet::Qos(spans(&thresholds(|c| c.qos_max.filter(|max| *max < 2)), 2)));
        facets.push(Facet::Payload(spans(&thresholds(|c| c.payload_max), u64::MAX)));
        facets.extend(any(|c| c.no_retain).then_some(Facet::Retain));
        facets.extend(any(|c| c.no_will).then_some(Facet::Will));
        facets.push(Facet::Listener(texts(|c| c.listeners.clone())));
        if any(|c| c.groups.is_some()) {
            facets.push(Facet::Group(groups(conditions.clone(), cell)?));
        }
        facets.push(Facet::Reply(texts(|c| c.replies.clone())));
        facets.extend(texts(|c| c.client.clone().into_iter().collect()).into_iter().map(Facet::Client));
        facets.extend(texts(|c| c.rate.clone().into_iter().collect()).into_iter().map(Facet::Rate));
        facets.retain(|facet| facet.choices() > 1);
        Ok(Self(facets))
    }

    /// Tells whether there are more settings than can be looked at.
    pub(crate) fn is_too_large(&self) -> bool {
        self.0
            .iter()
            .map(Facet::choices)
            .try_fold(1_usize, usize::checked_mul)
            .is_none_or(|all| all > SETTINGS_MAX)
    }

    /// Returns the listener of a setting, if the conditions tell it apart.
    pub(crate) fn listener(&self, setting: &Setting) -> Option<&str> {
        self.0.iter().zip(setting).find_map(|(facet, chosen)| match facet {
            Facet::Listener(names) => names.get(*chosen).map(String::as_str),
            _ => None,
        })
    }

    /// Tells whether the subscriptions of a setting are shared.
    pub(crate) fn is_shared(&self, setting: &Setting) -> bool {
        self.0.iter().zip(setting).any(|(facet, chosen)| matches!(facet, Facet::Group(_)) && *chosen > 0)
    }

    /// Returns every setting; there is always one.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        self.0.iter().fold(vec![Vec::new()], |settings, facet| {
            let longer = |setting: &Setting| {
                let setting = setting.clone();
                (0..facet.choices()).map(move |chosen| [setting.clone(), vec![chosen]].concat())
            };
            settings.iter().flat_map(longer).collect()
        })
    }

    /// Describes a set of settings, one text for each part that is a box; empty for all of them.
    pub(crate) fn describe(&self, settings: &BTreeSet<Setting>) -> Vec<String> {
        let mut texts = Vec::new();
        self.boxes(0, settings, &mut Vec::new(), &mut texts);
        texts
    }

    fn boxes(&self, at: usize, rest: &BTreeSet<Setting>, said: &mut Vec<String>, texts: &mut Vec<String>) {
        let Some(facet) = self.0.get(at) else {
            return texts.push(said.join(", "));
        };
        // Values of this facet after which the same is left.
        let mut groups: Vec<(BTreeSet<Setting>, Vec<usize>)> = Vec::new();
        for chosen in 0..facet.choices() {
            let left: BTreeSet<Setting> = rest
                .iter()
                .filter(|setting| setting.first() == Some(&chosen))
                .map(|setting| setting.iter().skip(1).copied().collect())
                .collect();
            if left.is_empty() {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == left) {
                Some((_, values)) => values.push(chosen),
                None => groups.push((left, vec![chosen])),
            }
        }
        for (left, values) in groups {
            if values.len() == facet.choices() {
                self.boxes(at + 1, &left, said, texts);
            } else {
                said.push(facet.describe(&values));
                self.boxes(at + 1, &left, said, texts);
                said.pop();
            }
        }
    }
}

/// Returns the groups that are named, each once.
fn groups<'a>(conditions: impl Iterator<Item = &'a Conditions>, cell: &Cell) -> Result<Vec<Term>, Question> {
    let named: BTreeSet<&Term> = conditions.flat_map(|c| c.groups.iter().flatten()).collect();
    let named: Vec<Term> = named.into_iter().cloned().collect();
    for (at, one) in named.iter().enumerate() {
        for other in named.iter().skip(at + 1) {
            // Both would be the same term if they were known to be the same.
            cell.equal(one, other)?;
        }
    }
    Ok(named)
}

/// Divides 0..=max after each of the thresholds.
fn spans(thresholds: &BTreeSet<u64>, max: u64) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut low = 0;
    for threshold in thresholds {
        spans.push(Span { low, high: *threshold });
        low = threshold + 1;
    }
    spans.push(Span { low, high: max });
    spans
}

impl Facet {
    fn choices(&self) -> usize {
        match self {
            Self::Qos(spans) | Self::Payload(spans) => spans.len(),
            Self::Retain | Self::Will | Self::Client(_) | Self::Rate(_) => 2,
            Self::Listener(names) => names.len() + usize::from(names.len() < LISTENERS.len()),
            Self::Group(groups) => groups.len() + 2,
            Self::Reply(patterns) => patterns.len() + 1,
        }
    }

    /// Describes some of the choices, but not all.
    fn describe(&self, values: &[usize]) -> String {
        let yes = values == [1];
        match self {
            Self::Qos(spans) => ranges("qos", "", spans, values),
            Self::Payload(spans) => ranges("payload", " B", spans, values),
            Self::Retain => if yes { "retained" } else { "not retained" }.into(),
            Self::Will => if yes { "as a will" } else { "not as a will" }.into(),
            Self::Client(text) if yes => format!("client-id {text}"),
            Self::Client(text) => format!("client-id not {text}"),
            Self::Rate(text) if yes => format!("faster than {text}"),
            Self::Rate(text) => format!("not faster than {text}"),
            Self::Listener(names) => {
                let (with_other, listed) = named(values, names.len(), |at| names.get(at).cloned());
                format!("{} {listed}", if with_other { "not on listener" } else { "on listener" })
            }
            Self::Group(groups) => {
                let shared: Vec<usize> = values.iter().filter_map(|value| value.checked_sub(1)).collect();
                let (with_other, listed) =
                    named(&shared, groups.len(), |at| groups.get(at).map(marked::term));
                match (values.contains(&0), with_other) {
                    _ if shared.is_empty() => "not shared".into(),
                    (true, true) => format!("not in share group {listed}"),
                    (true, false) => format!("not shared or in share group {listed}"),
                    (false, true) if listed.is_empty() => "shared".into(),
                    (false, true) => format!("shared, but not in share group {listed}"),
                    (false, false) => format!("in share group {listed}"),
                }
            }
            Self::Reply(patterns) => {
                let listed: Vec<&str> = patterns
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| values.contains(&(at + 1)))
                    .map(|(_, pattern)| pattern.as_str())
                    .collect();
                match (values.contains(&0), listed.is_empty()) {
                    (true, true) => "naming no response topic beyond its own rights".into(),
                    (true, false) => {
                        format!("naming no response topic beyond its own rights and {}", listed.join(", "))
                    }
                    (false, _) => format!("naming a response topic of {}", listed.join(", ")),
                }
            }
        }
    }
}

/// Lists the chosen names; where the choice for all others is among them, those that are not chosen.
fn named(values: &[usize], names: usize, name: impl Fn(usize) -> Option<String>) -> (bool, String) {
    let with_other = values.contains(&names);
    let listed: Vec<String> =
        (0..names).filter(|at| values.contains(at) != with_other).filter_map(name).collect();
    (with_other, listed.join(" or "))
}

fn ranges(name: &str, unit: &str, spans: &[Span], values: &[usize]) -> String {
    let ranges: Vec<String> = runs(values)
        .into_iter()
        .filter_map(|(first, last)| Some((spans.get(first)?, spans.get(last)?)))
        .map(|(first, last)| {
            let open = spans.last() == Some(last);
            match (first.low, last.high) {
                (0, high) => format!("{name} up to {high}{unit}"),
                (low, _) if open => format!("{name} from {low}{unit}"),
                (low, high) if low == high => format!("{name} {low}{unit}"),
                (low, high) => format!("{name} {low} to {high}{unit}"),
            }
        })
        .collect();
    ranges.join(" or ")
}

/// Returns runs of successive numbers.
fn runs(values: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *value => *last = *value,
            _ => runs.push((*value, *value)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(qos_max: Option<u64>, payload_max: Option<u64>, no_retain: bool) -> Conditions {
        Conditions { qos_max, payload_max, no_retain, ..Conditions::default() }
    }

    fn groups(names: &[&str]) -> Conditions {
        let names = names.iter().map(|name| Term::Text((*name).into())).collect();
        Conditions { groups: Some(names), ..Conditions::default() }
    }

    fn listeners(names: &[&str]) -> Conditions {
        let listeners = names.iter().map(|name| (*name).to_owned()).collect();
        Conditions { listeners, ..Conditions::default() }
    }

    fn told(conditions: &[Conditions], wanted: impl Fn(&[bool]) -> bool) -> Vec<String> {
        let space = Space::of(conditions.iter(), &Cell::all()).unwrap();
        let hold = |setting: &Setting| {
            let held: Vec<bool> =
                conditions.iter().map(|condition| condition.hold(&space, setting)).collect();
            wanted(&held)
        };
        space.describe(&space.settings().into_iter().filter(hold).collect())
    }

    #[test]
    fn without_conditions_there_is_one_setting_and_nothing_to_say() {
        let conditions = [limits(None, None, false), limits(Some(2), None, false)];
        let space = Space::of(conditions.iter(), &Cell::all()).unwrap();
        assert_eq!(space.settings(), [Vec::<usize>::new()]);
        assert_eq!(told(&conditions, |held| held[0]), [""]);
    }

    #[test]
    fn conditions_are_told_in_words() {
        assert_eq!(told(&[limits(Some(1), None, false)], |held| held[0]), ["qos up to 1"]);
        assert_eq!(told(&[limits(Some(1), None, false), limits(None, None, false)], |held| held[1]), [""]);
        assert_eq!(
            told(&[limits(Some(0), Some(10), true)], |held| held[0]),
            ["qos up to 0, payload up to 10 B, not retained"]
        );
        assert_eq!(told(&[listeners(&["tls", "unix"])], |held| held[0]), ["on listener tls or unix"]);
        assert_eq!(told(&[listeners(&["tls", "unix"])], |held| !held[0]), ["not on listener tls or unix"]);
        assert_eq!(told(&[groups(&["g"])], |held| held[0]), ["not shared or in share group g"]);
        assert_eq!(told(&[groups(&["g"])], |held| !held[0]), ["shared, but not in share group g"]);
        assert_eq!(told(&[groups(&[])], |held| !held[0]), ["shared"]);
        assert_eq!(told(&[groups(&["g"]), groups(&[])], |held| held[0] && !held[1]), ["in share group g"]);
    }

    #[test]
    fn what_is_left_of_a_box_is_told_as_boxes() {
        let conditions = [limits(Some(1), None, true), limits(Some(0), Some(10), false)];
        assert_eq!(
            told(&conditions, |held| !held[0] && !held[1]),
            ["qos up to 0, payload from 11 B, retained", "qos 1, retained", "qos from 2"]
        );
    }
}
