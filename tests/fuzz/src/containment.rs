//! Sets of topic filters: what they cover, share and overlap, against enumeration.

use midge_policy::{FilterSet, contains, intersection, is_equivalent};
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::BTreeSet;

/// Levels of a filter, and filters of a set, that are still enumerated.
const LEVELS_MAX: usize = 3;
const FILTERS_MAX: usize = 6;
/// Levels by name, and two that no filter spells.
const NAMES_MAX: usize = 3;
const FRESH: [&str; 2] = ["~", "$~"];

/// Topic filters, one a line: a set; after a line of `===` those that are asked about.
///
/// What the set is said to cover it matches topic by topic, and the witness that something is missing is right; so are
/// overlaps and intersections.
pub fn containment(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (set, asked) = text.split_once("\n===\n").unwrap_or((text, "#"));
    let (Some(set), Some(asked)) = (filters(set), filters(asked)) else { return };
    let Some(topics) = topics(set.iter().chain(&asked)) else { return };
    let union = FilterSet::new(&set).expect("these filters are not deep");
    for filter in &asked {
        hold(&union, &set, filter, &topics);
        for other in &set {
            hold_pair(filter, other, &topics);
        }
    }
}

fn filters(text: &str) -> Option<Vec<TopicFilter>> {
    let filters: Vec<TopicFilter> = text.lines().filter_map(|line| TopicFilter::new(line).ok()).collect();
    let small = |filter: &TopicFilter| filter.levels().filter(|level| *level != "#").count() <= LEVELS_MAX;
    (filters.len() <= FILTERS_MAX && filters.iter().all(small)).then_some(filters)
}

/// Every topic that tells two of these filters apart.
fn topics<'a>(filters: impl Iterator<Item = &'a TopicFilter>) -> Option<Vec<TopicName>> {
    let levels = filters.flat_map(|filter| filter.levels().map(str::to_owned).collect::<Vec<_>>());
    let names: BTreeSet<String> = levels.filter(|level| level != "+" && level != "#").collect();
    if names.len() > NAMES_MAX {
        return None;
    }
    let alphabet: Vec<&str> = names.iter().map(String::as_str).chain(FRESH).collect();
    let mut last: Vec<String> = alphabet.iter().map(|name| (*name).to_owned()).collect();
    let mut all = last.clone();
    // One level more than any filter spells shows what follows a `#`.
    for _ in 0..LEVELS_MAX {
        last =
            last.iter().flat_map(|text| alphabet.iter().map(move |name| format!("{text}/{name}"))).collect();
        all.extend(last.iter().cloned());
    }
    Some(all.iter().filter_map(|text| TopicName::new(text).ok()).collect())
}

fn hold(union: &FilterSet, set: &[TopicFilter], filter: &TopicFilter, topics: &[TopicName]) {
    let has = |topic: &TopicName| set.iter().any(|other| other.matches(topic));
    let missing = topics.iter().find(|topic| filter.matches(topic) && !has(topic));
    match union.covers(filter) {
        Ok(()) => assert_eq!(missing, None, "{set:?} is said to cover {filter}"),
        Err(witness) => {
            assert!(missing.is_some(), "{set:?} is said not to cover {filter}: {witness:?}");
            let is_right = |topic: &TopicName| filter.matches(topic) && !has(topic);
            assert!(witness.as_ref().is_none_or(is_right), "{witness:?} is not missing of {filter}");
        }
    }
    let shared = topics.iter().any(|topic| filter.matches(topic) && has(topic));
    let overlap = union.overlap(filter);
    assert_eq!(overlap.is_some(), shared, "{set:?} and {filter}: {overlap:?}");
    if let Some((at, Some(topic))) = &overlap {
        let other = set.get(*at).expect("it names a filter of the set");
        assert!(filter.matches(topic) && other.matches(topic), "{topic} is not in {filter} and {other}");
    }
    let parts = union.intersections(filter);
    for topic in topics {
        let matching: Vec<usize> =
            set.iter().enumerate().filter(|(_, other)| other.matches(topic)).map(|(at, _)| at).collect();
        assert_eq!(union.matches(topic), matching, "{topic}");
        let is_part = parts.iter().any(|part| part.matches(topic));
        assert_eq!(is_part, filter.matches(topic) && !matching.is_empty(), "{topic} in {parts:?}");
    }
}

fn hold_pair(one: &TopicFilter, two: &TopicFilter, topics: &[TopicName]) {
    let within = |inner: &TopicFilter, outer: &TopicFilter| {
        topics.iter().all(|topic| !inner.matches(topic) || outer.matches(topic))
    };
    assert_eq!(contains(two, one), within(one, two), "{one} in {two}");
    assert_eq!(is_equivalent(one, two), within(one, two) && within(two, one), "{one} and {two}");
    let shared = intersection(one, two);
    for topic in topics {
        let is_shared = shared.as_ref().is_some_and(|shared| shared.matches(topic));
        assert_eq!(is_shared, one.matches(topic) && two.matches(topic), "{topic} in {one} and {two}");
    }
}
