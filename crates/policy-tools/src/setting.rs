//! What conditions of rules tell apart: quality of service, retain, payload, will, and others.
//!
//! The thresholds that occur divide all requests into finitely many settings; within one of them
//! every condition holds throughout or not at all.

use midge_policy::Rule;
use std::collections::BTreeSet;

/// A condition apart from the identity and the topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Facet {
    Qos,
    Retain,
    Payload,
    Will,
    /// One that only holds or does not, in words.
    Other(String),
}

/// Values of one facet that no condition tells apart, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    low: u64,
    high: u64,
}

/// One choice of a span for each facet.
pub(crate) type Setting = Vec<usize>;

/// All settings that the conditions of some rules tell apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space(Vec<(Facet, Vec<Span>)>);

/// The conditions of one rule on one kind of request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    qos_max: Option<u64>,
    payload_max: Option<u64>,
    no_retain: bool,
    no_will: bool,
    others: Vec<String>,
}

impl Conditions {
    /// Conditions on publications.
    pub(crate) fn publish(rule: &Rule) -> Self {
        Self {
            qos_max: rule.qos_max.map(u64::from),
            payload_max: rule.payload_max.map(u64::from),
            no_retain: rule.retain == Some(false),
            no_will: rule.will == Some(false),
            others: Vec::new(),
        }
    }

    /// Conditions on subscriptions.
    pub(crate) fn subscribe(rule: &Rule) -> Self {
        Self { qos_max: rule.qos_max.map(u64::from), ..Self::default() }
    }

    /// Tells whether they hold in a setting of a space that was made of them too.
    pub(crate) fn hold(&self, space: &Space, setting: &Setting) -> bool {
        space.0.iter().zip(setting).all(|((facet, spans), chosen)| {
            let Some(span) = spans.get(*chosen) else { return true };
            match facet {
                Facet::Qos => self.qos_max.is_none_or(|max| span.high <= max),
                Facet::Payload => self.payload_max.is_none_or(|max| span.high <= max),
                Facet::Retain => !self.no_retain || span.high == 0,
                Facet::Will => !self.no_will || span.high == 0,
                Facet::Other(text) => span.high == 1 || !self.others.contains(text),
            }
        })
    }
}

impl Space {
    /// Returns the settings that these conditions tell apart.
    pub(crate) fn of<'a>(conditions: impl Iterator<Item = &'a Conditions>) -> Self {
        let (mut qos, mut payload, mut others) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut retain, mut will) = (false, false);
        for condition in conditions {
            qos.extend(condition.qos_max.filter(|max| *max < 2));
            payload.extend(condition.payload_max);
            retain |= condition.no_retain;
            will |= condition.no_will;
            others.extend(condition.others.iter().cloned());
        }
        let both = || vec![Span { low: 0, high: 0 }, Span { low: 1, high: 1 }];
        let mut facets = vec![(Facet::Qos, spans(&qos, 2)), (Facet::Payload, spans(&payload, u64::MAX))];
        facets.extend(retain.then(|| (Facet::Retain, both())));
        facets.extend(will.then(|| (Facet::Will, both())));
        facets.extend(others.into_iter().map(|text| (Facet::Other(text), both())));
        facets.retain(|(_, spans)| spans.len() > 1);
        Self(facets)
    }

    /// Returns every setting; there is always one.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        self.0.iter().fold(vec![Vec::new()], |settings, (_, spans)| {
            let longer = |setting: &Setting| {
                let setting = setting.clone();
                (0..spans.len()).map(move |chosen| [setting.clone(), vec![chosen]].concat())
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

    fn boxes(&self, facet: usize, rest: &BTreeSet<Setting>, said: &mut Vec<String>, texts: &mut Vec<String>) {
        let Some((kind, spans)) = self.0.get(facet) else {
            return texts.push(said.join(", "));
        };
        // Values of this facet after which the same is left.
        let mut groups: Vec<(BTreeSet<Setting>, Vec<usize>)> = Vec::new();
        for chosen in 0..spans.len() {
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
            if values.len() == spans.len() {
                self.boxes(facet + 1, &left, said, texts);
            } else {
                said.push(describe(kind, spans, &values));
                self.boxes(facet + 1, &left, said, texts);
                said.pop();
            }
        }
    }
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

fn describe(facet: &Facet, spans: &[Span], values: &[usize]) -> String {
    let yes = values == [1];
    match facet {
        Facet::Retain => if yes { "retained" } else { "not retained" }.into(),
        Facet::Will => if yes { "as a will" } else { "not as a will" }.into(),
        Facet::Other(text) if yes => format!("where {text}"),
        Facet::Other(text) => format!("unless {text}"),
        Facet::Qos | Facet::Payload => {
            let (name, unit) = if *facet == Facet::Qos { ("qos", "") } else { ("payload", " B") };
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
    }
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

    fn space(limits: &[(Option<u64>, Option<u64>, bool)]) -> (Vec<Conditions>, Space) {
        let conditions: Vec<Conditions> = limits
            .iter()
            .map(|(qos_max, payload_max, no_retain)| Conditions {
                qos_max: *qos_max,
                payload_max: *payload_max,
                no_retain: *no_retain,
                ..Conditions::default()
            })
            .collect();
        let space = Space::of(conditions.iter());
        (conditions, space)
    }

    fn told(limits: &[(Option<u64>, Option<u64>, bool)], of: usize) -> Vec<String> {
        let (conditions, space) = space(limits);
        let held: BTreeSet<Setting> =
            space.settings().into_iter().filter(|setting| conditions[of].hold(&space, setting)).collect();
        space.describe(&held)
    }

    #[test]
    fn without_conditions_there_is_one_setting_and_nothing_to_say() {
        let (_, space) = space(&[(None, None, false), (Some(2), None, false)]);
        assert_eq!(space.settings(), [Vec::<usize>::new()]);
        assert_eq!(told(&[(None, None, false)], 0), [""]);
    }

    #[test]
    fn conditions_are_told_in_words() {
        assert_eq!(told(&[(Some(1), None, false)], 0), ["qos up to 1"]);
        assert_eq!(told(&[(Some(1), None, false), (None, None, false)], 1), [""]);
        assert_eq!(told(&[(Some(0), Some(10), true)], 0), ["qos up to 0, payload up to 10 B, not retained"]);
    }

    #[test]
    fn what_is_left_of_a_box_is_told_as_boxes() {
        let (conditions, space) = space(&[(Some(1), None, true), (Some(0), Some(10), false)]);
        let left: BTreeSet<Setting> = space
            .settings()
            .into_iter()
            .filter(|setting| !conditions[0].hold(&space, setting) && !conditions[1].hold(&space, setting))
            .collect();
        assert_eq!(
            space.describe(&left),
            ["qos up to 0, payload from 11 B, retained", "qos 1, retained", "qos from 2"]
        );
    }
}
