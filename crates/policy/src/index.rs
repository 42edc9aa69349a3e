//! Rules by the pattern of their identities: which of them speak of an identity is found without
//! looking at the others.

use crate::CheckedRule;
use crate::id_pattern::Segment;
use midge_identity::SpiffeId;
use std::collections::HashMap;

/// Rules in order of precedence, and where to look for them.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    rules: Vec<CheckedRule>,
    named: HashMap<Box<str>, Node>,
    any: Node,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Self>,
    any: Option<Box<Self>>,
    /// Places of the rules whose pattern ends here.
    exact: Vec<usize>,
    /// Places of the rules whose pattern goes on with `**`.
    open: Vec<usize>,
}

impl RuleIndex {
    /// Makes the index; `rules` are in order of precedence.
    pub(crate) fn of(rules: Vec<CheckedRule>) -> Self {
        let mut index = Self { rules: Vec::new(), ..Self::default() };
        for (place, rule) in rules.iter().enumerate() {
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
            let places = if pattern.is_open() { &mut node.open } else { &mut node.exact };
            places.push(place);
        }
        index.rules = rules;
        index
    }

    pub(crate) fn rules(&self) -> &[CheckedRule] {
        &self.rules
    }

    /// Returns the rules whose pattern matches the identity, in order of precedence; `unless` is not asked.
    pub(crate) fn matching(&self, id: &SpiffeId) -> Vec<&CheckedRule> {
        let segments: Vec<&str> = id.path().split('/').skip(1).collect();
        let mut places = Vec::new();
        let named = self.named.get(id.trust_domain_name());
        for root in named.into_iter().chain([&self.any]) {
            root.collect(&segments, &mut places);
        }
        places.sort_unstable();
        places.into_iter().filter_map(|place| self.rules.get(place)).collect()
    }
}

impl Node {
    fn collect(&self, segments: &[&str], places: &mut Vec<usize>) {
        places.extend(&self.open);
        let Some((segment, rest)) = segments.split_first() else {
            return places.extend(&self.exact);
        };
        let next = self.literal.get(*segment).into_iter().chain(self.any.as_deref());
        next.for_each(|next| next.collect(rest, places));
    }
}
