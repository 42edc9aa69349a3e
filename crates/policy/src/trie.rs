//! Topic patterns as a trie: which of them match a topic. One trie is for all identities that its rules speak of: a level
//! may be a capture, which stands for a segment of the identity that is asked about.

use crate::Effect;
use crate::segments::Segments;
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::HashSet;
use std::ops::Range;

/// The end of a pattern that is known for an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) effect: Effect,
    /// Which of the identity's tries it is in.
    pub(crate) layer: u32,
    /// Index of the rule among those of the trie, in order of precedence.
    pub(crate) rule: u32,
}

/// A level of a pattern. What is text may be a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level<'a> {
    Text(&'a str),
    /// The segment of the identity that has this place.
    Segment(usize),
}

/// A topic pattern and what it does.
pub(crate) struct Pattern<'a> {
    pub(crate) levels: Vec<Level<'a>>,
    pub(crate) effect: Effect,
    pub(crate) rule: u32,
    /// Patterns of one class and effect decide alike: where they are the same only the first is kept.
    pub(crate) class: u32,
}

/// Topic patterns, each with a mark. All parts of one kind lie in one piece, as there are very many of them.
#[derive(Debug)]
pub(crate) struct Trie {
    /// The root, and the nodes below each node side by side: those under text, those under captures, that under `+`.
    nodes: Box<[Node]>,
    marks: Box<[(Effect, u32)]>,
    texts: Box<str>,
    /// Where nodes are under text: places among their siblings plus one, by hash.
    tables: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Node {
    /// Of its own level, where the text begins, or the place of the segment.
    level: u32,
    text_len: u16,
    /// Bits of the effects here and beneath.
    effects: u8,
    plus: bool,
    below: u32,
    texts: u32,
    captures: u32,
    /// The table has two to four slots for each text; none where they are few enough to be tried one by one.
    table: u32,
    marks: u32,
    /// Patterns that end here.
    exact: u32,
    /// Patterns that end in `#` below this level: they match this level and all beneath.
    hash: u32,
}

/// So many texts are compared faster than one is hashed.
const TRIED: u32 = 4;

impl Node {
    fn texts(&self) -> Range<u32> {
        self.below..self.below + self.texts
    }

    fn captures(&self) -> Range<u32> {
        let start = self.below + self.texts;
        start..start + self.captures
    }

    fn plus(&self) -> Option<u32> {
        self.plus.then_some(self.below + self.texts + self.captures)
    }

    fn table(&self) -> Range<u32> {
        let slots = if self.texts <= TRIED { 0 } else { (self.texts * 2).next_power_of_two() };
        self.table..self.table + slots
    }

    fn exact(&self) -> Range<u32> {
        self.marks..self.marks + self.exact
    }

    fn hash(&self) -> Range<u32> {
        let start = self.marks + self.exact;
        start..start + self.hash
    }
}

impl Trie {
    /// Builds the trie.
    pub(crate) fn of(mut patterns: Vec<Pattern<'_>>) -> Self {
        patterns.iter_mut().for_each(|pattern| lengthen(&mut pattern.levels));
        patterns.sort_by(|a, b| a.levels.cmp(&b.levels));
        let mut growing = Growing { nodes: vec![Node::default()], ..Growing::default() };
        growing.grow(0, &patterns, 0);
        let Growing { nodes, marks, texts, tables } = growing;
        Self { nodes: nodes.into(), marks: marks.into(), texts: texts.into(), tables: tables.into() }
    }

    /// Returns its root for an identity, of which it is one of the tries.
    pub(crate) fn root<'t>(&'t self, layer: u32, id: &'t Segments) -> Option<At<'t>> {
        Some(At { trie: self, id, layer, node: self.nodes.first()? })
    }

    /// Visits the mark of every pattern that matches the topic.
    pub(crate) fn visit(&self, topic: &TopicName, id: &Segments, visitor: &mut impl FnMut(Effect, u32)) {
        let Some(root) = self.nodes.first().filter(|root| root.effects != 0) else { return };
        self.visit_node(root, (Some(topic.as_str().as_bytes()), topic.is_system()), id, visitor);
    }

    fn visit_node(
        &self,
        node: &Node,
        (rest, system): (Option<&[u8]>, bool),
        id: &Segments,
        visitor: &mut impl FnMut(Effect, u32),
    ) {
        // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
        if !system && node.hash != 0 {
            self.marks(node.hash()).iter().for_each(|(effect, rule)| visitor(*effect, *rule));
        }
        let Some(rest) = rest else {
            if node.exact == 0 {
                return;
            }
            return self.marks(node.exact()).iter().for_each(|(effect, rule)| visitor(*effect, *rule));
        };
        let slash = rest.iter().position(|byte| *byte == b'/');
        let (level, rest) = match slash.and_then(|at| rest.split_at_checked(at)) {
            Some((level, rest)) => (level, rest.get(1..)),
            None => (rest, None),
        };
        if let Some(next) = self.literal(node, level) {
            self.visit_node(next, (rest, false), id, visitor);
        }
        let captures = if node.captures == 0 { &[] } else { self.nodes(node.captures()) };
        for next in captures {
            if self.spells(next, id).is_some_and(|text| text.as_bytes() == level) {
                self.visit_node(next, (rest, false), id, visitor);
            }
        }
        if !system && let Some(next) = node.plus().and_then(|plus| self.nodes.get(plus as usize)) {
            self.visit_node(next, (rest, false), id, visitor);
        }
    }

    fn marks(&self, range: Range<u32>) -> &[(Effect, u32)] {
        self.marks.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    fn nodes(&self, range: Range<u32>) -> &[Node] {
        self.nodes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// Returns what the identity's segment is that a node under a capture stands for.
    fn spells<'t>(&self, node: &Node, id: &'t Segments) -> Option<&'t str> {
        id.get(node.level as usize)
    }

    /// Returns the text of a node under text.
    fn text(&self, node: &Node) -> &str {
        let start = node.level as usize;
        self.texts.get(start..start + usize::from(node.text_len)).unwrap_or_default()
    }

    fn is_text(&self, node: &Node, level: &[u8]) -> bool {
        let (start, len) = (node.level as usize, usize::from(node.text_len));
        len == level.len() && self.texts.as_bytes().get(start..start + len) == Some(level)
    }

    /// Returns the node under a text. Costs the same however many there are.
    fn literal(&self, node: &Node, level: &[u8]) -> Option<&Node> {
        let nodes = self.nodes(node.texts());
        if node.texts <= TRIED {
            return nodes.iter().find(|next| self.is_text(next, level));
        }
        let table = node.table();
        let table = self.tables.get(table.start as usize..table.end as usize)?;
        for at in probe(level, table.len()) {
            // Zero, an empty slot, has no place before it: the level is not spelled.
            let next = nodes.get((*table.get(at)? as usize).checked_sub(1)?)?;
            if self.is_text(next, level) {
                return Some(next);
            }
        }
        None
    }
}

/// A trie while it is built.
#[derive(Default)]
struct Growing {
    nodes: Vec<Node>,
    marks: Vec<(Effect, u32)>,
    texts: String,
    tables: Vec<u32>,
}

impl Growing {
    /// Completes the node of sorted patterns that have their first `depth` levels in common.
    fn grow(&mut self, at: usize, patterns: &[Pattern<'_>], depth: usize) {
        let (mut exact, mut hash, mut plus): (&[_], &[_], &[_]) = (&[], &[], &[]);
        let (mut texts, mut captures) = (Vec::new(), Vec::new());
        for same in patterns.chunk_by(|a, b| a.levels.get(depth) == b.levels.get(depth)) {
            match same.first().and_then(|pattern| pattern.levels.get(depth)) {
                None => exact = same,
                Some(Level::Text("#")) => hash = same,
                Some(Level::Text("+")) => plus = same,
                Some(Level::Text(text)) => texts.push((*text, same)),
                Some(Level::Segment(place)) => captures.push((*place, same)),
            }
        }
        let below = self.nodes.len();
        let effects = patterns.iter().fold(0, |bits, pattern| bits | bit(pattern.effect));
        let mut node = Node {
            effects,
            plus: !plus.is_empty(),
            below: small(below),
            texts: small(texts.len()),
            captures: small(captures.len()),
            table: small(self.tables.len()),
            marks: small(self.marks.len()),
            ..Node::default()
        };
        node.exact = self.mark(exact);
        node.hash = self.mark(hash);
        self.tabulate(&node, texts.iter().map(|(text, _)| text.as_bytes()));
        if let Some(known) = self.nodes.get_mut(at) {
            // What its own level is stands there already.
            (node.level, node.text_len) = (known.level, known.text_len);
            *known = node;
        }
        for (text, _) in &texts {
            let (level, text_len) = (small(self.texts.len()), u16::try_from(text.len()).unwrap_or(u16::MAX));
            self.texts.push_str(text);
            self.nodes.push(Node { level, text_len, ..Node::default() });
        }
        self.nodes.extend(captures.iter().map(|(place, _)| Node { level: small(*place), ..Node::default() }));
        self.nodes.extend((!plus.is_empty()).then(Node::default));
        let all = texts.into_iter().map(|(_, same)| same).chain(captures.into_iter().map(|(_, same)| same));
        for (at, same) in (below..).zip(all.chain((!plus.is_empty()).then_some(plus))) {
            self.grow(at, same, depth + 1);
        }
    }

    /// Adds what patterns that are the same do; returns how many marks that takes.
    fn mark(&mut self, patterns: &[Pattern<'_>]) -> u32 {
        let (before, mut known) = (self.marks.len(), HashSet::new());
        let distinct = patterns.iter().filter(|p| patterns.len() == 1 || known.insert((p.effect, p.class)));
        self.marks.extend(distinct.map(|pattern| (pattern.effect, pattern.rule)));
        small(self.marks.len() - before)
    }

    fn tabulate<'a>(&mut self, node: &Node, texts: impl Iterator<Item = &'a [u8]>) {
        let slots = node.table().len();
        let start = self.tables.len();
        self.tables.resize(start + slots, 0);
        let Some(table) = self.tables.get_mut(start..).filter(|table| !table.is_empty()) else { return };
        for (place, text) in (1..).zip(texts) {
            let free = probe(text, slots).find(|at| table.get(*at) == Some(&0));
            if let Some(slot) = free.and_then(|at| table.get_mut(at)) {
                *slot = place;
            }
        }
    }
}

/// A node of a trie as it is for one identity.
#[derive(Clone, Copy)]
pub(crate) struct At<'t> {
    trie: &'t Trie,
    id: &'t Segments,
    layer: u32,
    node: &'t Node,
}

impl<'t> At<'t> {
    fn with(self, node: &'t Node) -> Self {
        Self { node, ..self }
    }

    /// Returns the patterns that end here.
    pub(crate) fn exact(self) -> impl Iterator<Item = Mark> {
        self.marks(self.node.exact())
    }

    /// Returns the patterns that end in `#` below this level.
    pub(crate) fn hash(self) -> impl Iterator<Item = Mark> {
        self.marks(self.node.hash())
    }

    fn marks(self, range: Range<u32>) -> impl Iterator<Item = Mark> {
        let layer = self.layer;
        self.trie.marks(range).iter().map(move |(effect, rule)| Mark { effect: *effect, layer, rule: *rule })
    }

    /// Returns the node under `+`.
    pub(crate) fn plus(self) -> Option<Self> {
        Some(self.with(self.trie.nodes.get(self.node.plus()? as usize)?))
    }

    /// Returns the nodes under a level that patterns spell: as text, and as captures that stand for it.
    pub(crate) fn spelled(self, level: &str) -> impl Iterator<Item = Self> {
        let text = self.trie.literal(self.node, level.as_bytes());
        let captures = self.trie.nodes(self.node.captures()).iter();
        let captures = captures.filter(move |next| self.trie.spells(next, self.id) == Some(level));
        text.into_iter().chain(captures).map(move |next| self.with(next))
    }

    /// Returns all nodes under levels that patterns spell.
    pub(crate) fn all_spelled(self) -> impl Iterator<Item = (&'t str, Self)> {
        let texts = self.trie.nodes(self.node.texts()).iter();
        let texts = texts.map(move |next| (self.trie.text(next), next));
        let captures = self.trie.nodes(self.node.captures()).iter();
        let captures = captures.filter_map(move |next| Some((self.trie.spells(next, self.id)?, next)));
        texts.chain(captures).map(move |(text, next)| (text, self.with(next)))
    }

    /// Tells whether two nodes under it may be under the same level.
    pub(crate) fn may_repeat(self) -> bool {
        self.node.captures != 0
    }

    /// Tells whether a pattern here or beneath has the effect.
    pub(crate) fn has(self, effect: Effect) -> bool {
        self.node.effects & bit(effect) != 0
    }

    /// Visits the patterns from here on that are this very filter, which is canonical.
    pub(crate) fn visit_same(self, filter: &TopicFilter, visitor: &mut impl FnMut(Mark)) {
        let (mut front, mut open) = (vec![self], false);
        for level in filter.levels() {
            match level {
                "#" => open = true,
                "+" => front = front.into_iter().filter_map(Self::plus).collect(),
                text => front = front.into_iter().flat_map(|at| at.spelled(text)).collect(),
            }
        }
        for at in front {
            if open { at.hash().for_each(&mut *visitor) } else { at.exact().for_each(&mut *visitor) }
        }
    }
}

/// Spells out the level before `#` where it cannot be left away, since no topic is empty: `#` is `+/#`,
/// and `/#` is `/+/#`. Filters so spelled match the same topics only when they are the same.
fn lengthen(levels: &mut Vec<Level<'_>>) {
    if matches!(&**levels, [Level::Text("#")] | [Level::Text(""), Level::Text("#")]) {
        levels.insert(levels.len() - 1, Level::Text("+"));
    }
}

/// Returns the filter as the trie has it.
pub(crate) fn canonical(filter: &TopicFilter) -> TopicFilter {
    let longer = match filter.as_str() {
        "#" => TopicFilter::new("+/#"),
        "/#" => TopicFilter::new("/+/#"),
        _ => return filter.clone(),
    };
    longer.unwrap_or_else(|_| filter.clone())
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

fn bit(effect: Effect) -> u8 {
    1 << (effect as u8)
}

/// A count of what fills memory long before it is too large.
pub(crate) fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
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
