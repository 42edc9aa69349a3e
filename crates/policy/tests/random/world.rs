//! A world small enough to be enumerated: every topic that tells two of its filters apart.

use crate::support::matches;
use std::cell::RefCell;
use std::collections::HashMap;

/// A set of topics of the world.
pub(crate) type Set = [u64; 32];

pub(crate) const NONE: Set = [0; 32];

/// Levels that filters spell. Captures stand for `a` and `b` as well.
pub(crate) const SPELLED: [&str; 3] = ["a", "b", ""];

pub(crate) struct World {
    pub(crate) topics: Vec<String>,
    sets: RefCell<HashMap<String, Set>>,
}

impl World {
    /// Filters have up to three levels and a `#`: five levels show every difference. `c` and `$y` are
    /// in no filter.
    pub(crate) fn new() -> Self {
        let alphabet = ["a", "b", "", "c"];
        let mut last: Vec<String> =
            ["a", "b", "", "c", "$x", "$y"].iter().map(|level| (*level).to_owned()).collect();
        let mut topics = last.clone();
        for _ in 1..5 {
            last = last.iter().flat_map(|text| alphabet.map(|level| format!("{text}/{level}"))).collect();
            topics.extend(last.iter().cloned());
        }
        // The empty text is no topic.
        topics.retain(|topic| !topic.is_empty());
        assert!(topics.len() <= 64 * NONE.len());
        Self { topics, sets: RefCell::default() }
    }

    /// The topics that the filter matches.
    pub(crate) fn set(&self, filter: &str) -> Set {
        if let Some(set) = self.sets.borrow().get(filter) {
            return *set;
        }
        let mut set = NONE;
        for (index, topic) in self.topics.iter().enumerate() {
            if matches(filter, topic) {
                set[index / 64] |= 1 << (index % 64);
            }
        }
        self.sets.borrow_mut().insert(filter.to_owned(), set);
        set
    }

    /// The topics that some of the filters match.
    pub(crate) fn union<'a>(&self, filters: impl IntoIterator<Item = &'a String>) -> Set {
        filters.into_iter().fold(NONE, |union, filter| or(union, self.set(filter)))
    }
}

pub(crate) fn or(mut one: Set, two: Set) -> Set {
    one.iter_mut().zip(two).for_each(|(one, two)| *one |= two);
    one
}

pub(crate) fn and(mut one: Set, two: Set) -> Set {
    one.iter_mut().zip(two).for_each(|(one, two)| *one &= two);
    one
}

pub(crate) fn minus(mut one: Set, two: Set) -> Set {
    one.iter_mut().zip(two).for_each(|(one, two)| *one &= !two);
    one
}

pub(crate) fn within(inner: Set, outer: Set) -> bool {
    minus(inner, outer) == NONE
}
