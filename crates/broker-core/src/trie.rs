//! Subscriptions by topic filter, as a tree of levels.

use mqtt_proto::{TopicFilter, TopicName};
use std::collections::HashMap;
use std::str::Split;

/// What allocations take beside what is asked for: of a node, one for its name and one for itself.
const ALLOCATIONS: usize = 2 * 24;

/// Values under topic filters; `K` tells the values of one filter apart.
#[derive(Debug)]
pub(crate) struct Trie<K, V> {
    root: Node<K, V>,
}

/// Kept small, as a filter has up to `topic_levels_max` of them.
#[derive(Debug)]
struct Node<K, V> {
    children: Option<Children<K, V>>,
    plus: Option<Box<Self>>,
    ends: Option<Box<Ends<K, V>>>,
}

/// Next levels by name. Most nodes have one.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "most nodes have no table, and none should have room for one")]
enum Children<K, V> {
    One(Box<(Box<str>, Node<K, V>)>),
    Many(Box<HashMap<Box<str>, Node<K, V>>>),
}

/// Values of the filters that end at a node.
#[derive(Debug)]
struct Ends<K, V> {
    exact: Vec<(K, V)>,
    /// Of those with `#` as their next and last level.
    hash: Vec<(K, V)>,
}

impl<K, V> Node<K, V> {
    fn new() -> Self {
        Self { children: None, plus: None, ends: None }
    }

    fn is_empty(&self) -> bool {
        self.children.is_none() && self.plus.is_none() && self.ends.is_none()
    }

    fn exact(&self) -> &[(K, V)] {
        self.ends.as_ref().map_or(&[], |ends| &ends.exact)
    }

    fn hash(&self) -> &[(K, V)] {
        self.ends.as_ref().map_or(&[], |ends| &ends.hash)
    }

    fn child(&self, level: &str) -> Option<&Self> {
        match self.children.as_ref()? {
            Children::One(only) => (*only.0 == *level).then_some(&only.1),
            Children::Many(children) => children.get(level),
        }
    }

    fn child_mut(&mut self, level: &str) -> Option<&mut Self> {
        match self.children.as_mut()? {
            Children::One(only) => (*only.0 == *level).then_some(&mut only.1),
            Children::Many(children) => children.get_mut(level),
        }
    }

    fn child_or_new(&mut self, level: &str) -> &mut Self {
        let children = match self.children.take() {
            None => Children::One(Box::new((level.into(), Self::new()))),
            Some(Children::One(only)) if *only.0 != *level => {
                Children::Many(Box::new(HashMap::from([*only])))
            }
            Some(children) => children,
        };
        match self.children.insert(children) {
            Children::One(only) => &mut only.1,
            Children::Many(children) => children.entry(level.into()).or_insert_with(Self::new),
        }
    }

    fn remove_child(&mut self, level: &str) {
        if let Some(Children::Many(children)) = &mut self.children {
            children.remove(level);
            if children.len() < children.capacity() / 4 {
                children.shrink_to(children.len() * 2);
            }
            if !children.is_empty() {
                return;
            }
        }
        self.children = None;
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
                name => node.child_or_new(name),
            };
        }
        let ends = node.ends.get_or_insert_with(|| Box::new(Ends { exact: Vec::new(), hash: Vec::new() }));
        let values = if is_hash { &mut ends.hash } else { &mut ends.exact };
        if let Some((_, old)) = values.iter_mut().find(|(other, _)| *other == key) {
            return Some(std::mem::replace(old, value));
        }
        if values.is_empty() {
            // Most filters have one subscriber.
            values.reserve_exact(1);
        }
        values.push((key, value));
        None
    }

    /// Returns about what a filter takes in memory where it shares no level with another.
    pub(crate) fn cost(filter: &TopicFilter) -> usize {
        let level = size_of::<(Box<str>, Node<K, V>)>() + ALLOCATIONS;
        let end = size_of::<Ends<K, V>>() + size_of::<(K, V)>() + ALLOCATIONS;
        filter.as_str().len() + filter.levels().count() * level + end
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
        None => take_end(node, |ends| &mut ends.exact, key),
        Some("#") => take_end(node, |ends| &mut ends.hash, key),
        Some("+") => {
            let child = node.plus.as_mut()?;
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.plus = None;
            }
            removed
        }
        Some(name) => {
            let child = node.child_mut(name)?;
            let removed = remove(child, levels, key);
            if child.is_empty() {
                node.remove_child(name);
            }
            removed
        }
    }
}

fn take_end<K: Eq, V>(
    node: &mut Node<K, V>,
    of: impl FnOnce(&mut Ends<K, V>) -> &mut Vec<(K, V)>,
    key: K,
) -> Option<V> {
    let ends = node.ends.as_mut()?;
    let values = of(ends);
    let at = values.iter().position(|(other, _)| *other == key)?;
    let (_, removed) = values.swap_remove(at);
    if ends.exact.is_empty() && ends.hash.is_empty() {
        node.ends = None;
    }
    Some(removed)
}

fn walk<'a, 't, K: Copy, V>(
    node: &'a Node<K, V>,
    mut levels: Split<'t, char>,
    wildcards: bool,
    visit: &mut impl FnMut(K, &'a V),
) {
    if wildcards {
        // `sport/#` matches `sport` too, so `#` counts before the next level is asked for.
        node.hash().iter().for_each(|(key, value)| visit(*key, value));
    }
    let Some(level) = levels.next() else {
        node.exact().iter().for_each(|(key, value)| visit(*key, value));
        return;
    };
    if wildcards && let Some(child) = &node.plus {
        walk(child, levels.clone(), true, visit);
    }
    if let Some(child) = node.child(level) {
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
