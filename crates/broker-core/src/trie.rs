//! Subscriptions by topic filter, as a tree of levels.

use mqtt_proto::{TopicFilter, TopicName};
use std::collections::HashMap;
use std::str::Split;

/// Values under topic filters; `K` tells the values of one filter apart.
#[derive(Debug)]
pub(crate) struct Trie<K, V> {
    root: Node<K, V>,
}

#[derive(Debug)]
struct Node<K, V> {
    children: HashMap<Box<str>, Self>,
    plus: Option<Box<Self>>,
    /// Values of the filter that ends here.
    exact: Vec<(K, V)>,
    /// Values of the filter that ends here with `#` as its next and last level.
    hash: Vec<(K, V)>,
}

impl<K, V> Node<K, V> {
    fn new() -> Self {
        Self { children: HashMap::new(), plus: None, exact: Vec::new(), hash: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.exact.is_empty() && self.hash.is_empty()
    }
}

impl<K: Copy + Eq, V> Trie<K, V> {
    pub(crate) fn new() -> Self {
        Self { root: Node::new() }
    }

    /// Puts a value under a filter and returns the one it replaces.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let mut node = &mut self.root;
        let mut is_hash = false;
        for level in filter.levels() {
            node = match level {
                "#" => {
                    is_hash = true;
                    break;
                }
                "+" => node.plus.get_or_insert_with(|| Box::new(Node::new())),
                name => node.children.entry(name.into()).or_insert_with(Node::new),
            };
        }
        let values = if is_hash { &mut node.hash } else { &mut node.exact };
        if let Some((_, old)) = values.iter_mut().find(|(other, _)| *other == key) {
            return Some(std::mem::replace(old, value));
        }
        values.push((key, value));
        None
    }

    /// Takes a value away.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, key: K) -> Option<V> {
        remove(&mut self.root, &mut filter.levels(), key)
    }

    /// Shows every value whose filter matches the topic.
    pub(crate) fn for_each_match<'a>(&'a self, topic: &TopicName, visit: &mut impl FnMut(K, &'a V)) {
        // [MQTT-4.7.2-1]: `#` and `+` at the start do not match a topic starting with `$`.
        walk(&self.root, topic.as_str().split('/'), !topic.is_system(), visit);
    }
}

fn remove<'a, K: Copy + Eq, V>(
    node: &mut Node<K, V>,
    levels: &mut impl Iterator<Item = &'a str>,
    key: K,
) -> Option<V> {
    match levels.next() {
        None => take(&mut node.exact, key),
        Some("#") => take(&mut node.hash, key),
        Some("+") => {
            let child = node.plus.as_mut()?;
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.plus = None;
            }
            removed
        }
        Some(name) => {
            let child = node.children.get_mut(name)?;
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.children.remove(name);
            }
            removed
        }
    }
}

fn take<K: Copy + Eq, V>(values: &mut Vec<(K, V)>, key: K) -> Option<V> {
    let at = values.iter().position(|(other, _)| *other == key)?;
    Some(values.swap_remove(at).1)
}

fn walk<'a, 't, K: Copy, V>(
    node: &'a Node<K, V>,
    mut levels: Split<'t, char>,
    wildcards: bool,
    visit: &mut impl FnMut(K, &'a V),
) {
    if wildcards {
        // `sport/#` matches `sport` too, so `#` counts before the next level is asked for.
        node.hash.iter().for_each(|(key, value)| visit(*key, value));
    }
    let Some(level) = levels.next() else {
        node.exact.iter().for_each(|(key, value)| visit(*key, value));
        return;
    };
    if wildcards && let Some(child) = &node.plus {
        walk(child, levels.clone(), true, visit);
    }
    if let Some(child) = node.children.get(level) {
        walk(child, levels, true, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        // [MQTT-4.7.1-1] to [MQTT-4.7.3-4]: the tree finds what matching one by one finds.
        #[test]
        fn finds_exactly_the_matching_filters(
            filters in proptest::collection::vec((filter(), 0_u8..4), 0..40),
            removed in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
            topics in proptest::collection::vec(topic(), 1..10),
        ) {
            let (mut trie, mut naive) = (Trie::new(), BTreeMap::new());
            for (n, (filter, key)) in filters.iter().enumerate() {
                prop_assert_eq!(trie.insert(filter, *key, n), naive.insert((filter.clone(), *key), n));
            }
            for index in removed {
                let Some((filter, key)) = filters.get(index.index(filters.len().max(1))) else { continue };
                prop_assert_eq!(trie.remove(filter, *key), naive.remove(&(filter.clone(), *key)));
            }
            for topic in topics {
                let mut found = Vec::new();
                trie.for_each_match(&topic, &mut |key, n| found.push((key, *n)));
                found.sort_unstable();
                let matching = naive.iter().filter(|((filter, _), _)| filter.matches(&topic));
                let mut expected: Vec<_> = matching.map(|((_, key), n)| (*key, *n)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic);
            }
        }

        #[test]
        fn keeps_nothing_of_removed_filters(filters in proptest::collection::vec(filter(), 0..40)) {
            let mut trie = Trie::new();
            for filter in &filters {
                trie.insert(filter, 0_u8, ());
            }
            for filter in &filters {
                trie.remove(filter, 0);
            }
            prop_assert!(trie.root.is_empty());
        }
    }

    fn topic() -> impl Strategy<Value = TopicName> {
        let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$s")];
        let levels = proptest::collection::vec(level, 1..5);
        levels.prop_filter_map("empty topic", |levels| TopicName::new(levels.join("/")).ok())
    }

    fn filter() -> impl Strategy<Value = TopicFilter> {
        let level = prop_oneof![Just(""), Just("a"), Just("b"), Just("$s"), Just("+")];
        let levels = (proptest::collection::vec(level, 0..5), any::<bool>());
        levels.prop_filter_map("empty filter", |(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            TopicFilter::new(levels.join("/")).ok()
        })
    }
}
