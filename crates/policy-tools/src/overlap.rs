//! Patterns by their levels: which of many overlap another one is found without looking at all.
//!
//! Patterns are those of identities or those of topics, as rules spell them. A capture counts as any
//! level, so that what is found may be more than what overlaps, and is never less.

use std::collections::HashMap;
use std::ops::ControlFlow;

/// Levels that are looked at; after these, everything counts as the same.
const LEVELS_MAX: usize = 16;

/// One level of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level<'a> {
    Text(&'a str),
    Any,
    /// Any number of levels, none included.
    Rest,
}

/// Returns the levels of an `id` or of a topic pattern of a rule that its check has accepted.
pub(crate) fn levels(text: &str) -> Vec<Level<'_>> {
    cut(uncut(text))
}

/// Returns them however many there are.
pub(crate) fn uncut(text: &str) -> impl Iterator<Item = Level<'_>> {
    let level = |level| match level {
        "+" | "*" => Level::Any,
        "#" | "**" => Level::Rest,
        text if text.starts_with('{') => Level::Any,
        text => Level::Text(text),
    };
    text.strip_prefix("spiffe://").unwrap_or(text).split('/').map(level)
}

pub(crate) fn cut<'a>(levels: impl Iterator<Item = Level<'a>>) -> Vec<Level<'a>> {
    let mut levels: Vec<Level<'a>> = levels.take(LEVELS_MAX + 1).collect();
    if levels.len() > LEVELS_MAX {
        levels.truncate(LEVELS_MAX);
        levels.push(Level::Rest);
    }
    levels
}

/// Tells whether everything that the second pattern matches is matched by the first.
pub(crate) fn covers(wide: &[Level<'_>], narrow: &[Level<'_>]) -> bool {
    match (wide.split_first(), narrow.split_first()) {
        (Some((Level::Rest, _)), _) | (None, None) => true,
        (None, Some(_)) | (Some(_), None | Some((Level::Rest, _))) => false,
        (Some((Level::Any, wide)), Some((_, narrow))) => covers(wide, narrow),
        (Some((one, wide)), Some((other, narrow))) => one == other && covers(wide, narrow),
    }
}

/// Values by patterns.
#[derive(Clone, Debug)]
pub(crate) struct Overlaps<V>(Node<V>);

#[derive(Clone, Debug)]
struct Node<V> {
    texts: HashMap<Box<str>, Self>,
    any: Option<Box<Self>>,
    /// Of patterns that end here.
    ends: Vec<V>,
    /// Of patterns that go on with any rest.
    rest: Vec<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { texts: HashMap::new(), any: None, ends: Vec::new(), rest: Vec::new() }
    }
}

impl<V> Default for Overlaps<V> {
    fn default() -> Self {
        Self(Node::default())
    }
}

impl<V: Copy + Ord> Overlaps<V> {
    pub(crate) fn insert(&mut self, pattern: &[Level<'_>], value: V) {
        let mut node = &mut self.0;
        for level in pattern {
            node = match level {
                Level::Text(text) => node.texts.entry((*text).into()).or_default(),
                Level::Any => node.any.get_or_insert_default(),
                Level::Rest => return node.rest.push(value),
            };
        }
        node.ends.push(value);
    }

    /// Returns the values of the patterns that overlap this one, in order, and how much was looked at.
    pub(crate) fn of(&self, pattern: &[Level<'_>]) -> (Vec<V>, usize) {
        let mut found = Vec::new();
        let mut visits = 0;
        let ended = self.0.visit(pattern, &mut |seen| {
            match seen {
                Seen::Node => visits += 1,
                Seen::Value(value) => found.push(value),
            }
            ControlFlow::Continue(())
        });
        debug_assert!(ended.is_continue(), "nothing ends it early");
        found.sort_unstable();
        let steps = visits + found.len();
        (found, steps)
    }

    /// Tells whether there is one.
    pub(crate) fn any(&self, pattern: &[Level<'_>]) -> bool {
        let found = |seen| match seen {
            Seen::Node => ControlFlow::Continue(()),
            Seen::Value(_) => ControlFlow::Break(()),
        };
        self.0.visit(pattern, &mut { found }).is_break()
    }
}

/// What a visit comes by.
enum Seen<V> {
    Node,
    /// Of a pattern that overlaps.
    Value(V),
}

impl<V: Copy> Node<V> {
    fn visit(
        &self,
        pattern: &[Level<'_>],
        found: &mut impl FnMut(Seen<V>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        found(Seen::Node)?;
        self.rest.iter().try_for_each(|value| found(Seen::Value(*value)))?;
        let mut next = self.any.iter().map(AsRef::as_ref);
        let Some((level, rest)) = pattern.split_first() else {
            return self.ends.iter().try_for_each(|value| found(Seen::Value(*value)));
        };
        match level {
            Level::Text(text) => {
                next.chain(self.texts.get(*text)).try_for_each(|node| node.visit(rest, found))
            }
            Level::Any => next.chain(self.texts.values()).try_for_each(|node| node.visit(rest, found)),
            Level::Rest => {
                self.ends.iter().try_for_each(|value| found(Seen::Value(*value)))?;
                next.try_for_each(|node| node.visit(pattern, found))?;
                self.texts.values().try_for_each(|node| node.visit(pattern, found))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_is_found_and_nothing_else() {
        let patterns = ["a/b", "a/+", "a/#", "+/b", "{x}/c", "#", "a", "b/c/d"];
        let mut index = Overlaps::default();
        patterns.iter().enumerate().for_each(|(at, text)| index.insert(&levels(text), at));
        let found = |text: &str| -> Vec<&str> {
            index.of(&levels(text)).0.into_iter().filter_map(|at| patterns.get(at).copied()).collect()
        };
        assert_eq!(found("a/b"), ["a/b", "a/+", "a/#", "+/b", "#"]);
        assert_eq!(found("a"), ["a/#", "#", "a"]);
        assert_eq!(found("+/c"), ["a/+", "a/#", "{x}/c", "#"]);
        assert_eq!(found("b/#"), ["+/b", "{x}/c", "#", "b/c/d"]);
        assert_eq!(found("#").len(), patterns.len());
        assert!(index.any(&levels("z")) && !Overlaps::<usize>::default().any(&levels("#")));
    }

    #[test]
    fn beyond_some_levels_everything_overlaps() {
        let long = |end: &str| format!("{}/{end}", ["a"; LEVELS_MAX].join("/"));
        let mut index = Overlaps::default();
        index.insert(&levels(&long("x")), 1);
        assert_eq!((index.of(&levels(&long("y"))).0, index.of(&levels("a/b")).0), (vec![1], vec![]));
    }

    #[test]
    fn ids_are_read_without_their_scheme() {
        let mut index = Overlaps::default();
        index.insert(&levels("spiffe://{td}/edge/*/**"), 1);
        assert!(index.any(&levels("spiffe://td/edge/n")) && !index.any(&levels("spiffe://td/cloud/n")));
    }
}
