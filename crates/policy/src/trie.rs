//! Topic patterns as a trie: which of them match a topic.

use crate::Effect;
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::HashSet;

/// A pattern's end in the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) effect: Effect,
    /// Index of the rule among those of the identity, in order of precedence.
    pub(crate) rule: usize,
    /// Marks of one class and effect at one place decide alike: only the first is kept.
    pub(crate) class: usize,
}

/// A topic pattern and what it does.
pub(crate) struct Pattern<'a> {
    pub(crate) levels: Vec<&'a str>,
    pub(crate) mark: Mark,
}

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) literal: Literals,
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
        patterns.iter_mut().for_each(|pattern| lengthen(&mut pattern.levels));
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
        let mut literal = Vec::new();
        for same in patterns.chunk_by(|a, b| a.levels.get(depth) == b.levels.get(depth)) {
            match same.first().and_then(|pattern| pattern.levels.get(depth)) {
                None => node.exact = distinct(same),
                Some(&"#") => node.hash = distinct(same),
                Some(&"+") => node.plus = Some(Box::new(Self::of(same, depth + 1))),
                Some(text) => literal.push(((*text).into(), Self::of(same, depth + 1))),
            }
        }
        node.literal = Literals::of(literal);
        node.effects = patterns.iter().fold(0, |bits, pattern| bits | bit(pattern.mark.effect));
        node
    }

    /// Returns the node under a level that patterns spell.
    pub(crate) fn literal(&self, level: &str) -> Option<&Self> {
        self.literal.get(level.as_bytes())
    }

    /// Tells whether a pattern here or beneath has the effect.
    pub(crate) fn has(&self, effect: Effect) -> bool {
        self.effects & bit(effect) != 0
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
        if let Some(next) = self.literal.get(level) {
            next.visit(rest, false, visitor);
        }
        if !system && let Some(next) = &self.plus {
            next.visit(rest, false, visitor);
        }
    }
}

/// Spells out the level before `#` where it cannot be left away, since no topic is empty: `#` is `+/#`,
/// and `/#` is `/+/#`. Filters so spelled match the same topics only when they are the same.
fn lengthen(levels: &mut Vec<&str>) {
    if matches!(&**levels, ["#"] | ["", "#"]) {
        levels.insert(levels.len() - 1, "+");
    }
}

/// Returns the filter as the trie has it.
pub(crate) fn canonical(filter: &TopicFilter) -> TopicFilter {
    let mut levels: Vec<&str> = filter.levels().collect();
    lengthen(&mut levels);
    TopicFilter::new(levels.join("/")).unwrap_or_else(|_| filter.clone())
}

/// Returns the filter as people spell it.
pub(crate) fn short(filter: TopicFilter) -> TopicFilter {
    let shorter = match filter.as_str() {
        "+/#" => TopicFilter::new("#"),
        "/+/#" => TopicFilter::new("/#"),
        _ => return filter,
    };
    shorter.unwrap_or(filter)
}

fn distinct(patterns: &[Pattern<'_>]) -> Vec<Mark> {
    let mut known = HashSet::new();
    let marks = patterns.iter().map(|pattern| pattern.mark);
    marks.filter(|mark| patterns.len() == 1 || known.insert((mark.effect, mark.class))).collect()
}

fn bit(effect: Effect) -> u8 {
    1 << (effect as u8)
}

/// The levels that patterns spell at one place. Looking one up costs the same however many there are.
#[derive(Debug, Default)]
pub(crate) struct Literals {
    nodes: Vec<(Box<str>, Node)>,
    /// Places in `nodes` plus one, by hash, at most half full; empty when few enough to be tried one by one.
    table: Box<[u32]>,
}

/// So many texts are compared faster than one is hashed.
const TRIED: usize = 4;

impl Literals {
    fn of(nodes: Vec<(Box<str>, Node)>) -> Self {
        if nodes.len() <= TRIED {
            return Self { nodes, table: Box::default() };
        }
        let mut table = vec![0_u32; (nodes.len() * 2).next_power_of_two()].into_boxed_slice();
        for (place, (text, _)) in (1_u32..).zip(&nodes) {
            let free = probe(text.as_bytes(), table.len()).find(|at| table.get(*at) == Some(&0));
            if let Some(slot) = free.and_then(|at| table.get_mut(at)) {
                *slot = place;
            }
        }
        Self { nodes, table }
    }

    pub(crate) fn get(&self, level: &[u8]) -> Option<&Node> {
        if self.table.is_empty() {
            let found = self.nodes.iter().find(|(text, _)| text.as_bytes() == level);
            return found.map(|(_, node)| node);
        }
        for at in probe(level, self.table.len()) {
            let place = *self.table.get(at)?;
            // Zero, an empty slot, has no place before it: the level is not spelled.
            let (text, node) = self.nodes.get(usize::try_from(place).ok()?.checked_sub(1)?)?;
            if text.as_bytes() == level {
                return Some(node);
            }
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(text, node)| (&**text, node))
    }
}

/// Returns where to look for a level in a table whose size is a power of two, in order.
fn probe(level: &[u8], size: usize) -> impl Iterator<Item = usize> {
    const SEED: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(SEED);
    let (words, rest) = level.as_chunks::<8>();
    let hash = words.iter().fold(level.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    // The upper bits of the product are the well mixed ones.
    let start = usize::try_from(hash >> 32).unwrap_or(0);
    (0..size).map(move |step| start.wrapping_add(step) & (size - 1))
}
