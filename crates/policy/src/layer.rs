//! Rules as tries, for whomever they speak of: identities share them, as captures are filled in when one is asked about.

use crate::check::Compiled;
use crate::permit::Limits;
use crate::quota::Smallest;
use crate::segments::Segments;
use crate::trie::{Pattern, Trie, small};
use crate::{CheckedRule, Effect};
use std::collections::HashMap;

/// Rules that hold together.
#[derive(Debug)]
pub(crate) struct Layer {
    /// In order of precedence.
    pub(crate) rules: Box<[HeldRule]>,
    /// What rules demand, each once: few, so that a decision finds them in the processor's cache.
    limits: Box<[Limits]>,
    pub(crate) writes: Trie,
    pub(crate) reads: Trie,
    /// Response Topics, each marked with the rule that lets name it.
    pub(crate) replies: Trie,
    /// Literal filters.
    pub(crate) literals: Trie,
    pub(crate) quotas: Smallest,
    /// Levels of all patterns of `reads`.
    pub(crate) read_levels: usize,
}

/// A rule that holds, and how much of it.
#[derive(Debug)]
pub(crate) struct HeldRule {
    pub(crate) rule: CheckedRule,
    /// Whether it allows, too, and does not only deny.
    pub(crate) whole: bool,
    limits: u32,
}

impl HeldRule {
    pub(crate) fn new(rule: &CheckedRule, whole: bool) -> Self {
        Self { rule: rule.clone(), whole, limits: 0 }
    }

    /// Tells whether its subscriptions may join the share group.
    pub(crate) fn lets_join(&self, group: Option<&str>, id: &Segments) -> bool {
        match (&self.rule.0.groups, group) {
            (Some(patterns), Some(group)) => patterns.iter().any(|p| p.matches(group, id)),
            _ => true,
        }
    }

    /// Tells whether both are the same value and hold alike.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.rule.is(&other.rule) && self.whole == other.whole
    }
}

/// The patterns of a layer while it is made.
#[derive(Default)]
struct Patterns<'a> {
    writes: Vec<Pattern<'a>>,
    reads: Vec<Pattern<'a>>,
    replies: Vec<Pattern<'a>>,
    literals: Vec<Pattern<'a>>,
}

impl Layer {
    /// Makes the layer of rules in order of precedence.
    pub(crate) fn of(mut rules: Box<[HeldRule]>) -> Self {
        let (mut limits, mut known) = (Vec::new(), HashMap::new());
        for held in &mut rules {
            held.limits = *known.entry(held.rule.0.limits).or_insert_with_key(|new| {
                limits.push(*new);
                small(limits.len() - 1)
            });
        }
        let (mut patterns, mut classes, mut quotas) =
            (Patterns::default(), HashMap::new(), Smallest::default());
        for (index, held) in (0..).zip(&rules) {
            // As denies do, it holds where it is not known that the rule does not.
            held.rule.rule().quota.iter().for_each(|quota| quotas.add(quota, index));
            let class = class_of(&held.rule.0, index, held.limits, &mut classes);
            patterns.add(held, index, class);
        }
        let Patterns { writes, reads, replies, literals } = patterns;
        let read_levels = reads.iter().map(|pattern| pattern.levels.len()).sum();
        let (writes, reads) = (Trie::of(writes), Trie::of(reads));
        let (replies, literals) = (Trie::of(replies), Trie::of(literals));
        Self { limits: limits.into(), rules, writes, reads, replies, literals, quotas, read_levels }
    }

    pub(crate) fn limits(&self, rule: u32) -> Option<&Limits> {
        self.limits.get(self.rules.get(rule as usize)?.limits as usize)
    }
}

impl<'a> Patterns<'a> {
    fn add(&mut self, held: &'a HeldRule, rule: u32, class: u32) {
        let compiled = &held.rule.0;
        for (effect, template) in compiled.topics.iter().filter(|(effect, _)| held.whole || effect.is_deny())
        {
            let class = if effect.is_deny() { 0 } else { class };
            let pattern = Pattern { levels: template.levels(), effect: *effect, rule, class };
            match effect {
                Effect::Publish | Effect::DenyPublish => self.writes.push(pattern),
                Effect::SubscribeLiteral | Effect::DenySubscribeLiteral => self.literals.push(pattern),
                Effect::Subscribe | Effect::Receive | Effect::DenySubscribe | Effect::DenyReceive => {
                    self.reads.push(pattern);
                }
            }
        }
        let replies = compiled.replies.iter().filter(|_| held.whole);
        self.replies.extend(replies.map(|template| Pattern {
            levels: template.levels(),
            effect: Effect::Publish,
            rule,
            class: rule,
        }));
    }
}

/// Returns the index of the first rule whose allows decide like those of this one.
fn class_of(rule: &Compiled, index: u32, limits: u32, classes: &mut HashMap<u32, u32>) -> u32 {
    // Each rule with a rate has a bucket of its own.
    if rule.groups.is_some() || !rule.replies.is_empty() || rule.limits.rate.is_some() {
        return index;
    }
    *classes.entry(limits).or_insert(index)
}
