//! Finds what a filter matches in an ordered map of topics, without a look at most of what it does not match: topics
//! of the same first levels are neighbours there, and where none of them can match any more, the others are skipped.

use mqtt_proto::{TopicFilter, TopicName};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Topics that are passed one by one before the map is searched anew: less than that is dearer the one way, more the
/// other.
const NEAR: usize = 4;

/// What was found after a cursor.
#[derive(Debug)]
pub(crate) enum Found<T> {
    Match(T),
    /// Nothing up to this topic, if any was looked at; there may be something after it.
    NotYet(Option<TopicName>),
    Nothing,
}

/// Where the next topic is that may match.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next<'a> {
    /// Anywhere behind this one.
    Behind,
    /// Not before these three in a row, which are behind this one themselves.
    From([&'a str; 3]),
    Nowhere,
}

/// Looks for the first match after `cursor`, in the order of topics, at so many of them at most.
pub(crate) fn first_match<'a, T>(
    topics: &'a BTreeMap<TopicName, T>,
    filter: &TopicFilter,
    cursor: Option<&TopicName>,
    looks: &mut usize,
) -> Found<&'a T> {
    let wanted = filter.as_str();
    let start = start_of(wanted);
    let next = cursor.map_or(Next::From([start, "", ""]), |cursor| next_after(wanted, cursor.as_str()));
    let mut place = String::new();
    let from = match (next, cursor) {
        (Next::Nowhere, _) => return Found::Nothing,
        (Next::Behind, Some(cursor)) => Bound::Excluded(cursor.as_str()),
        (Next::Behind, None) => Bound::Unbounded,
        (Next::From(parts), _) => Bound::Included(put(parts, &mut place)),
    };
    let mut ahead = topics.range::<str, _>((from, Bound::Unbounded));
    let mut looked_at: Option<&TopicName> = None;
    loop {
        let Some(left) = looks.checked_sub(1) else { return Found::NotYet(looked_at.cloned()) };
        *looks = left;
        let Some((topic, value)) = ahead.next() else { return Found::Nothing };
        if filter.matches(topic) {
            return Found::Match(value);
        }
        looked_at = Some(topic);
        let place = match next_after(wanted, topic.as_str()) {
            Next::Behind => continue,
            Next::From(parts) => put(parts, &mut place),
            Next::Nowhere => return Found::Nothing,
        };
        match ahead.clone().take(NEAR).position(|(topic, _)| topic.as_str() >= place) {
            Some(passed) => ahead.by_ref().take(passed).for_each(drop),
            None => ahead = topics.range::<str, _>((Bound::Included(place), Bound::Unbounded)),
        }
    }
}

fn put<'a>(parts: [&str; 3], place: &'a mut String) -> &'a str {
    place.clear();
    place.extend(parts);
    place
}

/// Says where a filter may match next, level by level. Behind a topic those come first that begin with the same levels,
/// as many of them as there are. A `/` ends a level: it sorts before letters and digits, but behind some characters
/// that another level may go on with.
fn next_after<'a>(filter: &'a str, topic: &'a str) -> Next<'a> {
    // [MQTT-4.7.2-1]; `%` is what follows `$`.
    if filter.starts_with(['+', '#']) && topic.starts_with('$') {
        return Next::From(["%", "", ""]);
    }
    let (mut wanted, mut there) = (Some(filter), Some(topic));
    // The topic up to the level that the last `+` stands for.
    let mut up_to_any = None;
    while let Some(filter_left) = wanted {
        let (level, filter_more) = split_level(filter_left);
        if level == "#" {
            return Next::Behind;
        }
        let Some(topic_left) = there else { return below(filter_left, topic, up_to_any) };
        let (name, topic_more) = split_level(topic_left);
        let before = topic.len() - topic_left.len();
        if level == "+" {
            up_to_any = topic.get(..before + name.len());
        } else if level != name {
            return beside(filter_left, (topic, before), up_to_any);
        }
        (wanted, there) = (filter_more, topic_more);
    }
    past(up_to_any, topic)
}

/// Where all levels of the topic match, and `filter_left` is wanted below it.
fn below<'a>(filter_left: &'a str, topic: &'a str, up_to_any: Option<&str>) -> Next<'a> {
    // What goes on with its last level comes before that.
    if up_to_any == Some(topic) {
        return Next::Behind;
    }
    Next::From([topic, "/", start_of(filter_left)])
}

/// Where the topic is another than `filter_left` after so many bytes.
fn beside<'a>(
    filter_left: &'a str,
    (topic, before): (&'a str, usize),
    up_to_any: Option<&'a str>,
) -> Next<'a> {
    let (same, topic_left) = topic.split_at_checked(before).unwrap_or_default();
    // `a/#` matches `a`, but not `a-`, which comes before `a/b`.
    let starts = [start_of(filter_left), literal(filter_left)];
    match starts.into_iter().find(|start| topic_left < *start) {
        Some(start) => Next::From([same, start, ""]),
        None => past(up_to_any, topic),
    }
}

/// Where nothing can match that begins with the levels up to the last `+`, as this topic does.
fn past<'a>(up_to_any: Option<&'a str>, topic: &str) -> Next<'a> {
    match up_to_any {
        None => Next::Nowhere,
        Some(up_to_any) if up_to_any.len() == topic.len() => Next::Behind,
        // `0` is what follows `/`.
        Some(up_to_any) => Next::From([up_to_any, "0", ""]),
    }
}

/// Returns the first level, and what follows it, if anything does.
fn split_level(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(level, more)| (level, Some(more)))
}

/// Returns what every matching topic starts with; `a/#` matches `a` too, so its `/` does not count.
fn start_of(filter: &str) -> &str {
    let literal = literal(filter);
    if filter.ends_with("/#") && literal.len() + 1 == filter.len() {
        return literal.strip_suffix('/').unwrap_or(literal);
    }
    literal
}

/// Returns a filter up to its first wildcard.
fn literal(filter: &str) -> &str {
    filter.split_once(['+', '#']).map_or(filter, |(literal, _)| literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    fn topics(texts: impl IntoIterator<Item = String>) -> BTreeMap<TopicName, String> {
        texts.into_iter().map(|text| (TopicName::new(&text).unwrap(), text)).collect()
    }

    /// All matches behind a cursor, found with so many looks at once, and how many it took.
    fn found(
        topics: &BTreeMap<TopicName, String>,
        filter: &TopicFilter,
        mut cursor: Option<TopicName>,
        looks_at_once: usize,
    ) -> (Vec<String>, usize) {
        let (mut found, mut taken) = (Vec::new(), 0);
        loop {
            let mut looks = looks_at_once;
            let next = first_match(topics, filter, cursor.as_ref(), &mut looks);
            taken += looks_at_once - looks;
            cursor = match next {
                Found::Nothing => return (found, taken),
                Found::Match(topic) => {
                    found.push(topic.clone());
                    Some(TopicName::new(topic).unwrap())
                }
                Found::NotYet(looked_at) => {
                    assert!(looks == 0 && looked_at > cursor);
                    looked_at
                }
            };
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        // [MQTT-4.7.1-1] to [MQTT-4.7.3-1], in the order of topics.
        #[test]
        fn finds_what_a_look_at_each_finds(
            there in proptest::collection::btree_set(topic(), 0..60),
            filter in filter(),
            start in proptest::option::of(any::<Index>()),
            looks_at_once in 1_usize..9,
        ) {
            let there = topics(there);
            let cursor = start.and_then(|at| there.keys().nth(at.index(there.len().max(1))).cloned());
            let rest = there.keys().filter(|topic| cursor.as_ref().is_none_or(|cursor| cursor < *topic));
            let expected: Vec<_> = rest.filter(|topic| filter.matches(topic)).map(ToString::to_string).collect();
            let (found, looks) = found(&there, &filter, cursor, looks_at_once);
            prop_assert_eq!(found, expected);
            // Each once, and once more where the rest is to be found empty.
            prop_assert!(looks <= there.len() + 1);
        }

        // Nothing that matches is skipped, and each step leads on.
        #[test]
        fn the_next_place_is_behind_and_before_every_match(
            (here, other) in (topic(), topic()), filter in filter(),
        ) {
            let matches = filter.matches(&TopicName::new(&other).unwrap()) && other > here;
            match next_after(filter.as_str(), &here) {
                Next::Behind => {}
                Next::From(parts) => {
                    let place = parts.concat();
                    prop_assert!(place > here && !(matches && other < place));
                }
                Next::Nowhere => prop_assert!(!matches),
            }
        }
    }

    /// Levels that go on with what sorts before and behind `/`, and that begin with `$`.
    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "a-", "a0", "-", "0", "$", "$a", "%", "é"])
    }

    fn topic() -> impl Strategy<Value = String> {
        let levels = proptest::collection::vec(level(), 1..5);
        levels.prop_map(|levels| Some(levels.join("/")).filter(|text| !text.is_empty()).unwrap_or("/".into()))
    }

    fn filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop_oneof![level(), Just("+"), Just("+")];
        let levels = (proptest::collection::vec(level, 0..5), any::<bool>());
        levels.prop_map(|(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            TopicFilter::new(levels.join("/")).unwrap_or(TopicFilter::new("+").unwrap())
        })
    }

    #[test]
    fn the_next_place_is_as_far_as_can_be() {
        for (filter, topic, expected) in [
            ("+/+/n5", "a/b/c", Some("a/b/n5")),
            ("+/+/n5", "a/b/n5", Some("a/b0")),
            ("+/+/n5", "a/b/n7/x", Some("a/b0")),
            ("+/+/n5", "a/b", None),
            ("+/b/n5", "a/b", Some("a/b/n5")),
            ("+/b/+/c", "a/a", Some("a/b/")),
            ("+/b/+/c", "a/c", Some("a0")),
            ("a/+", "a/b/c", Some("a/b0")),
            ("a/#", "a-", Some("a/")),
            ("+/a/#", "b/Z", Some("b/a")),
            ("+/a/#", "b/a-", Some("b/a/")),
            ("+/a/+/#", "b/Z", Some("b/a/")),
            ("+/a", "$s/a", Some("%")),
            ("#", "$s", Some("%")),
            ("#", "a", None),
        ] {
            let place = match next_after(filter, topic) {
                Next::Behind => None,
                Next::From(parts) => Some(parts.concat()),
                Next::Nowhere => panic!("{filter} after {topic}"),
            };
            assert_eq!(place.as_deref(), expected, "{filter} after {topic}");
        }
        for (filter, topic) in [("a/b", "a/b"), ("a/b", "a/c"), ("a/+", "b"), ("a/#", "a0"), ("$s/+", "a")] {
            assert_eq!(next_after(filter, topic), Next::Nowhere, "{filter} after {topic}");
        }
    }

    #[test]
    fn what_has_neighbours_that_cannot_match_is_found_with_few_looks() {
        let branches = || (0..50).flat_map(|a| (0..10).map(move |b| format!("site{a}/dev{b}")));
        let there = topics(branches().flat_map(|branch| (0..100).map(move |c| format!("{branch}/n{c}"))));
        let branches = 500;
        for (filter, matches, looks) in [
            ("+/+/n5", branches, 2 * branches),
            ("+/+/none", 0, 2 * branches),
            ("+/dev3/n7", 50, 3 * 50),
            ("+/none/n7", 0, 3 * 50),
            ("site7/+/n7", 10, 3 * 10),
            ("site7/dev3/n7", 1, 1),
            ("none/+", 0, 1),
            ("+", 0, 50 + 1),
        ] {
            let (found, taken) = found(&there, &TopicFilter::new(filter).unwrap(), None, 100);
            assert_eq!(found.len(), matches, "{filter}");
            assert!(taken <= looks + 1, "{filter}: {taken}");
        }
        // The twin: where all branches differ at the first level, each has to be looked at.
        let apart = topics((0..1_000).map(|n| format!("dev{n}/b/n1")));
        let (found, taken) = found(&apart, &TopicFilter::new("+/+/none").unwrap(), None, 100);
        assert_eq!((found.len(), taken), (0, 1_001));
    }
}
