//! Many filters, of which those that may meet another one are found without looking at all.

use crate::explore::{Left, TooMuch};
use crate::overlap::Overlaps;
use crate::topics::Filter;
use std::collections::HashSet;
use std::ops::Range;

/// Filters that are looked through one by one. For so few an index costs more than it spares.
const FEW: usize = 4;

/// Places of filters by what they overlap. The filters are kept elsewhere, and only become more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Near {
    count: usize,
    index: Option<Overlaps<usize>>,
}

impl Near {
    pub(crate) fn of(filters: &[Filter]) -> Self {
        let mut near = Self::default();
        near.grow(filters);
        near
    }

    /// Takes in the filters at the end that it does not know.
    pub(crate) fn grow(&mut self, filters: &[Filter]) {
        if self.index.is_none() && filters.len() > FEW {
            self.index = Some(Overlaps::default());
            self.count = 0;
        }
        if let Some(index) = &mut self.index {
            let new = filters.iter().enumerate().skip(self.count);
            new.for_each(|(at, filter)| index.insert(&filter.levels(), at));
        }
        self.count = filters.len();
    }

    /// Returns the places of all filters that may meet this one, and maybe of others, in order.
    pub(crate) fn meeting(&self, filter: &Filter, left: &mut Left) -> Result<Found, TooMuch> {
        let (found, steps) = match &self.index {
            Some(index) => {
                let (found, steps) = index.of(&filter.levels());
                (Found::Some(found.into_iter()), steps)
            }
            None => (Found::All(0..self.count), self.count),
        };
        left.take_steps(steps)?;
        Ok(found)
    }
}

/// Places of filters.
pub(crate) enum Found {
    All(Range<usize>),
    Some(std::vec::IntoIter<usize>),
}

impl Iterator for Found {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match self {
            Self::All(places) => places.next(),
            Self::Some(places) => places.next(),
        }
    }
}

/// Filters, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    /// Not looked up by, and so neither indexed nor each once.
    plain: bool,
    all: Vec<Filter>,
    known: HashSet<Filter>,
    near: Near,
}

impl Filters {
    /// Filters that are asked for once, which costs less than an index.
    pub(crate) fn plain() -> Self {
        Self { plain: true, ..Self::default() }
    }

    pub(crate) fn insert(&mut self, filter: &Filter) {
        if self.plain {
            self.all.push(filter.clone());
            self.near.count = self.all.len();
            return;
        }
        if self.contains(filter) {
            return;
        }
        self.all.push(filter.clone());
        if self.all.len() > FEW {
            self.known.extend(self.all.iter().skip(self.known.len()).cloned());
        }
        self.near.grow(&self.all);
    }

    pub(crate) fn contains(&self, filter: &Filter) -> bool {
        if self.known.is_empty() { self.all.contains(filter) } else { self.known.contains(filter) }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Filter> {
        self.all.iter()
    }

    /// Returns all filters that may meet this one, and maybe others.
    pub(crate) fn meeting<'a>(
        &'a self,
        filter: &Filter,
        left: &mut Left,
    ) -> Result<impl Iterator<Item = &'a Filter> + use<'a>, TooMuch> {
        Ok(self.near.meeting(filter, left)?.filter_map(|at| self.all.get(at)))
    }
}

impl<'a> Extend<&'a Filter> for Filters {
    fn extend<I: IntoIterator<Item = &'a Filter>>(&mut self, filters: I) {
        filters.into_iter().for_each(|filter| self.insert(filter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::Bounds;

    fn filter(text: &str) -> Filter {
        Filter::read(text, |name| (name == "x").then_some(1))
    }

    #[test]
    fn many_filters_are_found_by_what_they_overlap_and_each_is_there_once() {
        let mut filters = Filters::default();
        let texts = ["a/1", "a/2", "b/{x}", "c/#", "a/1", "a/3", "+/4", "b/5"];
        for (at, text) in texts.iter().enumerate() {
            filters.insert(&filter(text));
            assert!(texts[..=at].iter().all(|text| filters.contains(&filter(text))), "{text}");
        }
        assert!(!filters.contains(&filter("b/+")));
        assert_eq!(filters.iter().count(), texts.len() - 1);
        let mut left = Left::of(Bounds::AT_HAND);
        let mut found = |text: &str| -> Vec<String> {
            let found = filters.meeting(&filter(text), &mut left).unwrap();
            found.map(|filter| filter.text(|_| "{x}".into())).collect()
        };
        assert_eq!(found("b/5"), ["b/{x}", "b/5"]);
        assert_eq!(found("a/#"), ["a/1", "a/2", "a/3", "+/4"]);
        assert_eq!(found("c"), ["c/#"]);
    }

    #[test]
    fn looking_costs_what_is_looked_at() {
        let all: Vec<Filter> = (0..100).map(|n| filter(&format!("a/{n}"))).collect();
        let near = Near::of(&all);
        let bounds = Bounds { kinds: 0, steps: 20 };
        assert_eq!(near.meeting(&filter("a/7"), &mut Left::of(bounds)).unwrap().collect::<Vec<_>>(), [7]);
        assert!(near.meeting(&filter("a/+"), &mut Left::of(bounds)).is_err());
    }
}
