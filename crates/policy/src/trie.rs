//! One identity's topic patterns as a trie: which of them match a topic.

use mqtt_proto::TopicName;
use std::cmp::Ordering;

/// What a pattern does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Publish,
    Subscribe,
    Receive,
    DenyPublish,
    DenySubscribe,
    DenyReceive,
}

/// A pattern's end in the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) effect: Effect,
    /// Index of the rule among those of the identity.
    pub(crate) rule: usize,
}

/// A topic pattern and what it does.
pub(crate) struct Pattern<'a> {
    pub(crate) levels: Vec<&'a str>,
    pub(crate) mark: Mark,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    /// In the order of [`by_length`].
    pub(crate) literal: Vec<(Box<str>, Self)>,
    pub(crate) plus: Option<Box<Self>>,
    /// Patterns that end here.
    pub(crate) exact: Vec<Mark>,
    /// Patterns that end in `#` below this level: they match this level and all beneath.
    pub(crate) hash: Vec<Mark>,
    /// Bits of the effects here and beneath.
    effects: u8,
}

/// Topic patterns, each with a mark.
#[derive(Debug)]
pub(crate) struct Trie(Node);

impl Trie {
    /// Builds the trie. Marks at one place stay in the order of the patterns.
    pub(crate) fn of(mut patterns: Vec<Pattern<'_>>) -> Self {
        patterns.sort_by(|a, b| a.levels.cmp(&b.levels));
        Self(Node::of(&patterns, 0))
    }

    pub(crate) fn root(&self) -> &Node {
        &self.0
    }

    /// Visits the mark of every pattern that matches the topic.
    pub(crate) fn visit(&self, topic: &TopicName, visitor: &mut impl FnMut(Mark)) {
        self.0.visit(Some(topic.as_str().as_bytes()), topic.is_system(), visitor);
    }
}

impl Node {
    /// Builds the node of sorted patterns that have their first `depth` levels in common.
    fn of(patterns: &[Pattern<'_>], depth: usize) -> Self {
        let mut node = Self::default();
        for same in patterns.chunk_by(|a, b| a.levels.get(depth) == b.levels.get(depth)) {
            let marks = same.iter().map(|pattern| pattern.mark);
            match same.first().and_then(|pattern| pattern.levels.get(depth)) {
                None => node.exact.extend(marks),
                Some(&"#") => node.hash.extend(marks),
                Some(&"+") => node.plus = Some(Box::new(Self::of(same, depth + 1))),
                Some(text) => node.literal.push(((*text).into(), Self::of(same, depth + 1))),
            }
        }
        node.literal.sort_by(|(a, _), (b, _)| by_length(a.as_bytes(), b.as_bytes()));
        node.effects = patterns.iter().fold(0, |bits, pattern| bits | bit(pattern.mark.effect));
        node
    }

    /// Returns the node under a level that patterns spell.
    pub(crate) fn literal(&self, level: &str) -> Option<&Self> {
        self.spelled(level.as_bytes())
    }

    /// Tells whether a pattern here or beneath has the effect.
    pub(crate) fn has(&self, effect: Effect) -> bool {
        self.effects & bit(effect) != 0
    }

    fn spelled(&self, level: &[u8]) -> Option<&Self> {
        let found = self.literal.binary_search_by(|(text, _)| by_length(text.as_bytes(), level)).ok()?;
        self.literal.get(found).map(|(_, node)| node)
    }

    fn visit(&self, rest: Option<&[u8]>, system: bool, visitor: &mut impl FnMut(Mark)) {
        // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
        if !system {
            self.hash.iter().copied().for_each(&mut *visitor);
        }
        let Some(rest) = rest else {
            return self.exact.iter().copied().for_each(visitor);
        };
        let slash = rest.iter().position(|byte| *byte == b'/');
        let (level, rest) = match slash.and_then(|at| rest.split_at_checked(at)) {
            Some((level, rest)) => (level, rest.get(1..)),
            None => (rest, None),
        };
        if let Some(next) = self.spelled(level) {
            next.visit(rest, false, visitor);
        }
        if !system && let Some(next) = &self.plus {
            next.visit(rest, false, visitor);
        }
    }
}

fn bit(effect: Effect) -> u8 {
    1 << (effect as u8)
}

/// Orders levels: most comparisons end at the length.
fn by_length(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
