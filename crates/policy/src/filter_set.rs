//! Sets of topics as unions of filters, for whoever reasons about policies; decisions do not need it.

use crate::Effect;
use crate::error::TopicFault;
use crate::template::LEVELS_MAX;
use crate::trie::{Mark, Pattern, Trie, canonical, short};
use mqtt_proto::{TopicFilter, TopicName};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A union of topic filters: what it covers, overlaps and shares with other filters, exactly, `$`
/// topics and empty levels included.
#[derive(Debug)]
pub struct FilterSet(Trie);

impl FilterSet {
    /// Makes the set. An answer names a filter by its place in the list.
    ///
    /// # Errors
    /// When a filter has more levels than a pattern of a policy may have.
    pub fn new<'a>(filters: impl IntoIterator<Item = &'a TopicFilter>) -> Result<Self, TopicFault> {
        let mut patterns = Vec::new();
        for (rule, filter) in filters.into_iter().enumerate() {
            let levels: Vec<&str> = filter.levels().collect();
            if levels.len() > LEVELS_MAX {
                return Err(TopicFault::Deep(LEVELS_MAX));
            }
            patterns.push(Pattern { levels, mark: Mark { effect: Effect::Subscribe, rule, class: rule } });
        }
        Ok(Self(Trie::of(patterns)))
    }

    /// Tells whether the union has every topic that the filter matches.
    ///
    /// # Errors
    /// A topic that is missing; none when it would be too long for a topic.
    pub fn covers(&self, filter: &TopicFilter) -> Result<(), Option<TopicName>> {
        self.0.cover(&canonical(filter), |_| true).map(|_| ())
    }

    /// Returns a filter of the set that shares a topic with this one, and such a topic; no topic when it
    /// would be too long for one.
    pub fn overlap(&self, filter: &TopicFilter) -> Option<(usize, Option<TopicName>)> {
        self.0.overlap(filter, Effect::Subscribe).map(|(mark, topic)| (mark.rule, topic))
    }

    /// Returns the filters of the set that match the topic.
    pub fn matches(&self, topic: &TopicName) -> Vec<usize> {
        let mut matching = Vec::new();
        self.0.visit(topic, &mut |mark| matching.push(mark.rule));
        matching.sort_unstable();
        matching
    }

    /// Returns what the filter shares with the filters of the set, as filters.
    pub fn intersections(&self, filter: &TopicFilter) -> BTreeSet<TopicFilter> {
        let mut shared = BTreeSet::new();
        let filter = canonical(filter);
        let all = self.0.meet(&filter, Effect::Subscribe, &mut |levels, _| {
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
