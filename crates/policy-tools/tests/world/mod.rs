//! A small world: few levels and segments, all identities and topics over them, and MQTT's matching
//! by the letter, apart from the code under test.

use midge_identity::SpiffeId;
use midge_policy::Rule;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A topic name or filter by its levels.
pub(crate) fn levels(text: &str) -> Vec<String> {
    text.split('/').map(str::to_owned).collect()
}

/// MQTT 5.0 §4.7.
pub(crate) fn matches(filter: &[String], topic: &[String]) -> bool {
    fn rest(filter: &[String], topic: &[String]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((level, _)), _) if level == "#" => true,
            (Some((level, filter)), Some((name, topic))) => {
                (level == "+" || level == name) && rest(filter, topic)
            }
            _ => false,
        }
    }
    !(topic[0].starts_with('$') && ["+", "#"].contains(&filter[0].as_str())) && rest(filter, topic)
}

/// Matches a printed pattern; a capture that stands twice has one value.
pub(crate) fn bind(pattern: &str, id: &SpiffeId) -> Option<BTreeMap<String, String>> {
    let wanted: Vec<&str> = pattern.strip_prefix("spiffe://").unwrap().split('/').collect();
    let text = id.to_string();
    let found: Vec<&str> = text.strip_prefix("spiffe://").unwrap().split('/').collect();
    let (wanted, open) = match wanted.split_last() {
        Some((&"**", wanted)) => (wanted, true),
        _ => (&wanted[..], false),
    };
    if found.len() < wanted.len() || (!open && found.len() != wanted.len()) {
        return None;
    }
    let mut bound = BTreeMap::new();
    for (wanted, found) in wanted.iter().zip(&found) {
        if wanted.starts_with('{') {
            let known = bound.entry((*wanted).to_owned()).or_insert_with(|| (*found).to_owned());
            if known != found {
                return None;
            }
        } else if *wanted != "*" && wanted != found {
            return None;
        }
    }
    Some(bound)
}

/// Puts the values of captures into a printed filter.
pub(crate) fn filled(filter: &str, bound: &BTreeMap<String, String>) -> String {
    let level = |level: &str| bound.get(level).cloned().unwrap_or_else(|| level.to_owned());
    filter.split('/').map(level).collect::<Vec<_>>().join("/")
}

/// The same in a text of words.
pub(crate) fn filled_words(text: &str, bound: &BTreeMap<String, String>) -> String {
    let word = |word: &str| bound.get(word).cloned().unwrap_or_else(|| word.to_owned());
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Every text of 1 to `depth` levels.
pub(crate) fn topics(depth: usize) -> Vec<String> {
    const LEVELS: [&str; 5] = ["a", "b", "c", "t", ""];
    let mut last: Vec<String> = LEVELS.iter().chain(&["$s"]).map(|level| (*level).to_owned()).collect();
    let mut all = last.clone();
    for _ in 1..depth {
        last =
            last.iter().flat_map(|text| LEVELS.iter().map(move |level| format!("{text}/{level}"))).collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|text| !text.is_empty());
    all
}

/// Every identity of up to three segments.
pub(crate) fn ids() -> Vec<SpiffeId> {
    let mut last: Vec<String> = ["a", "t", "u"].map(|td| format!("spiffe://{td}")).to_vec();
    let mut all = last.clone();
    for _ in 0..3 {
        last = last.iter().flat_map(|id| ["a", "b", "c"].map(|segment| format!("{id}/{segment}"))).collect();
        all.extend(last.iter().cloned());
    }
    all.iter().map(|id| SpiffeId::new(id).unwrap()).collect()
}

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 2 => Just("b"), 1 => Just("*"), 4 => Just("{x}"), 2 => Just("{y}")]
}

fn id_pattern() -> impl Strategy<Value = String> {
    let td = prop_oneof![3 => Just("{td}"), 2 => Just("t"), 1 => Just("a")];
    (td, proptest::collection::vec(segment(), 0..4), any::<bool>()).prop_map(|(td, segments, open)| {
        let mut text = format!("spiffe://{td}");
        let mut seen = Vec::new();
        for segment in segments {
            let twice = segment.starts_with('{') && seen.contains(&segment);
            seen.push(segment);
            text.push('/');
            text.push_str(if twice { "*" } else { segment });
        }
        if open {
            text.push_str("/**");
        }
        text
    })
}

fn level(id: &str) -> impl Strategy<Value = String> + use<> {
    let captures: Vec<String> =
        id.split('/').filter(|part| part.starts_with('{')).map(str::to_owned).collect();
    let mut levels = vec!["a".to_owned(), "b".into(), "t".into(), "+".into(), "+".into(), String::new()];
    levels.extend(captures.iter().cloned());
    levels.extend(captures);
    proptest::sample::select(levels)
}

fn filter(id: &str) -> impl Strategy<Value = String> + use<> {
    let levels = proptest::collection::vec(level(id), 0..3);
    (levels, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(|(mut levels, open, system)| {
        if system {
            levels.insert(0, "$s".into());
        }
        // No filter is empty.
        if open || levels.join("/").is_empty() {
            levels.push("#".into());
        }
        levels.join("/")
    })
}

fn filters(id: &str, most: usize) -> impl Strategy<Value = Vec<String>> + use<> {
    proptest::collection::vec(filter(id), 0..=most)
}

/// A rule that its check accepts.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    (id_pattern(), id_pattern(), proptest::bool::weighted(0.3)).prop_flat_map(|(id, unless, excepts)| {
        let bound: Vec<&str> = id.split('/').filter(|part| part.starts_with('{')).collect();
        let unbound =
            unless.split('/').any(|part| part.starts_with('{') && part != "{td}" && !bound.contains(&part));
        let unless = if excepts && !unbound { vec![unless] } else { Vec::new() };
        let numbers = (proptest::option::weighted(0.3, 0_u8..2), proptest::option::weighted(0.2, 1_u32..3));
        let flags = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2), listeners());
        let group = proptest::option::weighted(0.3, proptest::collection::vec(group(&id), 0..3));
        let allows = (filters(&id, 2), filters(&id, 2), filters(&id, 1), literals(&id));
        let denies = (filters(&id, 1), filters(&id, 1), filters(&id, 1), literals(&id));
        (allows, denies, numbers, flags, group).prop_map(
            move |(allows, denies, numbers, flags, share_groups)| {
                let (publish, subscribe, receive, subscribe_literal) = allows;
                let (deny_publish, deny_subscribe, deny_receive, deny_subscribe_literal) = denies;
                let ((qos_max, payload_max), (no_retain, no_will, listener)) = (numbers, flags);
                let publishes = !publish.is_empty();
                let subscribes = !(subscribe.is_empty() && subscribe_literal.is_empty());
                Rule {
                    id: id.clone(),
                    unless: unless.clone(),
                    listener,
                    qos_max: qos_max.filter(|_| publishes || subscribes || !receive.is_empty()),
                    share_groups: share_groups.filter(|_| subscribes),
                    retain: (no_retain && publishes).then_some(false),
                    will: (no_will && publishes).then_some(false),
                    payload_max: payload_max.filter(|_| publishes),
                    publish,
                    subscribe,
                    receive,
                    subscribe_literal,
                    deny_publish,
                    deny_subscribe,
                    deny_receive,
                    deny_subscribe_literal,
                    ..Rule::default()
                }
            },
        )
    })
}

fn listeners() -> impl Strategy<Value = Vec<String>> {
    let named = prop_oneof![Just(&["tls"][..]), Just(&["unix"][..]), Just(&["unix", "tcp"][..])];
    let named = named.prop_map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    prop_oneof![7 => Just(Vec::new()), 3 => named]
}

fn group(id: &str) -> impl Strategy<Value = String> + use<> {
    let captures = id.split('/').filter(|part| part.starts_with('{')).map(str::to_owned);
    let groups: Vec<String> = ["a", "g", "*"].iter().map(|name| (*name).to_owned()).chain(captures).collect();
    proptest::sample::select(groups)
}

/// Filters with wildcards, so that no topic is one of them.
fn literals(id: &str) -> impl Strategy<Value = Vec<String>> + use<> {
    let literal = (proptest::bool::weighted(0.2), filter(id));
    literal.prop_map(
        |(some, filter)| {
            if some && filter.contains(['+', '#']) { vec![filter] } else { Vec::new() }
        },
    )
}

/// Rules with names of their own; those that say nothing are left out.
pub(crate) fn rules(most: usize) -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..=most).prop_map(named)
}

pub(crate) fn named(rules: Vec<Rule>) -> Vec<Rule> {
    let says = |rule: &Rule| rule.topic_lists().iter().any(|(_, list)| !list.is_empty());
    let rules = rules.into_iter().filter(says).enumerate();
    rules.map(|(index, rule)| Rule { name: format!("r{index}"), ..rule }).collect()
}
