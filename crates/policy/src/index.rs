//! Rules by the pattern of their identities: which of them speak of an identity is found without
//! looking at the others.

use crate::CheckedRule;
use crate::id_pattern::Segment;
use crate::kin::Kin;
use crate::layer::{HeldRule, Layer};
use crate::segments::Segments;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Rules in order of precedence, and where to look for them.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    rules: Vec<CheckedRule>,
    named: HashMap<Box<str>, Node>,
    any: Node,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Self>,
    any: Option<Box<Self>>,
    /// The rules whose pattern ends here.
    exact: Kin,
    /// The rules whose pattern goes on with `**`.
    open: Kin,
}

/// Layers of few rules each, by the places of these and by how they hold: as long as an identity has them, they are there
/// for others of which the same rules speak.
#[derive(Debug, Default)]
struct Shared {
    layers: HashMap<Box<[u32]>, Weak<Layer>>,
    /// How many there may be before those are looked for that nobody has any more.
    max: usize,
}

/// Layers that are shared before any is looked for that nobody has any more.
const SHARED_MIN: usize = 64;

impl RuleIndex {
    /// Makes the index; `rules` are in order of precedence.
    pub(crate) fn of(rules: Vec<CheckedRule>) -> Self {
        let mut index = Self::default();
        for (place, rule) in (0..).zip(&rules) {
            let pattern = rule.id();
            let mut node = match pattern.trust_domain() {
                Some(name) => index.named.entry(name.into()).or_default(),
                None => &mut index.any,
            };
            for segment in pattern.path() {
                node = match segment {
                    Segment::Literal(text) => node.literal.entry(text.clone()).or_default(),
                    Segment::Any | Segment::Capture(_) => node.any.get_or_insert_default(),
                };
            }
            let kin = if pattern.is_open() { &mut node.open } else { &mut node.exact };
            kin.push(place);
        }
        index.rules = rules;
        index
    }

    /// Compiles rules where there are many of a kind, but for those that are compiled in an earlier index.
    pub(crate) fn compiled(mut self, earlier: &Self) -> Self {
        let Self { rules, named, any, .. } = &mut self;
        any.compile(rules, Some(&earlier.any));
        named.iter_mut().for_each(|(name, node)| node.compile(rules, earlier.named.get(name)));
        self
    }

    pub(crate) fn rules(&self) -> &[CheckedRule] {
        &self.rules
    }

    pub(crate) fn rule(&self, place: u32) -> Option<&CheckedRule> {
        self.rules.get(place as usize)
    }

    /// Returns the rules whose pattern matches the identity, in order of precedence; `unless` is not asked.
    pub(crate) fn matching(&self, id: &Segments) -> Vec<&CheckedRule> {
        let mut places: Vec<u32> = self.kin(id).into_iter().flat_map(Kin::places).collect();
        places.sort_unstable();
        places.into_iter().filter_map(|place| self.rule(place)).collect()
    }

    /// Returns where rules are whose pattern matches the identity.
    pub(crate) fn kin(&self, id: &Segments) -> Vec<&Kin> {
        let segments: Vec<&str> = id.path().collect();
        let mut found = Vec::new();
        let named = self.named.get(id.trust_domain());
        for root in named.into_iter().chain([&self.any]) {
            root.collect(&segments, &mut found);
        }
        found.retain(|kin| !kin.is_empty());
        found
    }

    #[cfg(test)]
    pub(crate) fn shared_layers(&self) -> usize {
        self.shared().layers.len()
    }

    /// Returns the layer of a few rules, in order of precedence.
    pub(crate) fn layer(&self, held: &[(u32, bool)]) -> Arc<Layer> {
        let key: Box<[u32]> = held.iter().map(|(place, whole)| place * 2 + u32::from(*whole)).collect();
        let known = self.shared().layers.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let rules = held.iter();
            let rules = rules.filter_map(|(place, whole)| Some(HeldRule::new(self.rule(*place)?, *whole)));
            // Nobody else waits for it.
            let layer = Arc::new(Layer::of(rules.collect()));
            self.shared().add(key, layer)
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Whoever panicked meanwhile has left nothing half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Adds a layer, unless another was made of the same rules meanwhile.
    fn add(&mut self, key: Box<[u32]>, layer: Arc<Layer>) -> Arc<Layer> {
        if let Some(known) = self.layers.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if self.layers.len() >= self.max {
            self.layers.retain(|_, layer| layer.strong_count() > 0);
            self.max = (self.layers.len() * 2).max(SHARED_MIN);
        }
        self.layers.insert(key, Arc::downgrade(&layer));
        layer
    }
}

impl Node {
    fn collect<'a>(&'a self, segments: &[&str], found: &mut Vec<&'a Kin>) {
        found.push(&self.open);
        let Some((segment, rest)) = segments.split_first() else {
            return found.push(&self.exact);
        };
        let next = self.literal.get(*segment).into_iter().chain(self.any.as_deref());
        next.for_each(|next| next.collect(rest, found));
    }

    fn compile(&mut self, rules: &[CheckedRule], earlier: Option<&Self>) {
        self.exact.compile(rules, earlier.map(|earlier| &earlier.exact));
        self.open.compile(rules, earlier.map(|earlier| &earlier.open));
        if let Some(any) = &mut self.any {
            any.compile(rules, earlier.and_then(|earlier| earlier.any.as_deref()));
        }
        for (text, node) in &mut self.literal {
            node.compile(rules, earlier.and_then(|earlier| earlier.literal.get(text)));
        }
    }
}
