//! Sets of topics as unions of filters, for whoever reasons about policies; decisions do not need it.

use crate::Effect;
use crate::contain::{cover, overlap};
use crate::error::TopicFault;
use crate::meet::meet;
use crate::segments::Segments;
use crate::template::LEVELS_MAX;
use crate::trie::{At, Level, Pattern, Trie, canonical, short};
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A union of topic filters: what it covers, overlaps and shares with other filters, exactly, `$`
/// topics and empty levels included.
#[derive(Debug)]
pub struct FilterSet {
    trie: Trie,
    /// Of nobody: the set has no captures.
    nobody: Segments,
}

impl FilterSet {
    /// Makes the set. An answer names a filter by its place in the list.
    ///
    /// # Errors
    /// When a filter has more levels than a pattern of a policy may have.
    pub fn new<'a>(filters: impl IntoIterator<Item = &'a TopicFilter>) -> Result<Self, TopicFault> {
        let mut patterns = Vec::new();
        for (rule, filter) in (0..).zip(filters) {
            let levels: Vec<Level<'_>> = filter.levels().map(Level::Text).collect();
            if levels.len() > LEVELS_MAX {
                return Err(TopicFault::Deep(LEVELS_MAX));
            }
            patterns.push(Pattern { levels, effect: Effect::Subscribe, rule, class: rule });
        }
        Ok(Self { trie: Trie::of(patterns), nobody: Segments::default() })
    }

    fn root(&self) -> Vec<At<'_>> {
        self.trie.root(0, &self.nobody).into_iter().collect()
    }

    /// Tells whether the union has every topic that the filter matches.
    ///
    /// # Errors
    /// A topic that is missing; none when it would be too long for a topic.
    pub fn covers(&self, filter: &TopicFilter) -> Result<(), Option<TopicName>> {
        cover(self.root(), &canonical(filter), |_| true, |a, b| a.rule.cmp(&b.rule)).map(|_| ())
    }

    /// Returns a filter of the set that shares a topic with this one, and such a topic; no topic when it
    /// would be too long for one.
    pub fn overlap(&self, filter: &TopicFilter) -> Option<(usize, Option<TopicName>)> {
        overlap(&self.root(), filter, Effect::Subscribe).map(|(mark, topic)| (mark.rule as usize, topic))
    }

    /// Returns the filters of the set that match the topic.
    pub fn matches(&self, topic: &TopicName) -> Vec<usize> {
        let mut matching = Vec::new();
        self.trie.visit(topic, &self.nobody, &mut |_, rule| matching.push(rule as usize));
        matching.sort_unstable();
        matching
    }

    /// Returns what the filter shares with the filters of the set, as filters.
    pub fn intersections(&self, filter: &TopicFilter) -> BTreeSet<TopicFilter> {
        let mut shared = BTreeSet::new();
        let filter = canonical(filter);
        let all = meet(&self.root(), &filter, Effect::Subscribe, &mut |levels, _| {
            shared.extend(TopicFilter::new(levels.join("/")).map(short));
            ControlFlow::<()>::Continue(())
        });
        debug_assert!(all.is_continue());
        shared
    }
}

/// Returns the one filter that matches the topics which both match; `None` when there are none.
pub fn intersection(one: &TopicFilter, two: &TopicFilter) -> Option<TopicFilter> {
    FilterSet::new([one]).ok()?.intersections(two).pop_first()
}

/// Tells whether every topic that `inner` matches is one that `outer` matches.
pub fn contains(outer: &TopicFilter, inner: &TopicFilter) -> bool {
    FilterSet::new([outer]).is_ok_and(|set| set.covers(inner).is_ok())
}

/// Tells whether both match the same topics.
pub fn is_equivalent(one: &TopicFilter, two: &TopicFilter) -> bool {
    canonical(one) == canonical(two)
}
