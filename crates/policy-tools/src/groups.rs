//! Divides what rules say of one kind of identities by topics: what changes for some topics has nothing to do
//! with rules for others, and a comparison costs what overlaps instead of everything with everything.

use crate::access::{Access, Listed};
use crate::compared::Sided;
use crate::explore::{Left, TooMuch};
use crate::near::Near;
use crate::topics::Filter;
use midge_policy::Effect;
use std::collections::{BTreeMap, BTreeSet};

/// A list with the policies that it is in.
pub(crate) type SidedList<'a> = (&'a Sided, Listed);

/// Lists that are compared by themselves: the place of each among all, and those of its filters that matter.
pub(crate) type Group<'a> = BTreeMap<usize, Vec<&'a Filter>>;

/// What dividing costs for one filter, in steps.
pub(crate) const STEPS_OF_PIECE: usize = 10;

/// Divides lists into groups. What differs stands in one group; what both policies have stands in each group
/// where it may make a difference, if in any.
///
/// What is gained or lost is part of a filter that differs, or is a literal right that meets one; whatever
/// meets such a filter is in its group.
pub(crate) fn groups<'a>(
    access: Access,
    lists: &'a [SidedList<'_>],
    left: &mut Left,
) -> Result<Vec<Group<'a>>, TooMuch> {
    let listed = lists.iter().enumerate();
    let pieces: Vec<Piece<'a>> = listed.flat_map(|(at, list)| Piece::all(access, at, list)).collect();
    left.take_steps(pieces.len().saturating_mul(STEPS_OF_PIECE))?;
    let filters: Vec<Filter> = pieces.iter().map(|piece| piece.filter.clone()).collect();
    let near = Near::of(&filters);
    let mut joined = Joined::new(pieces.len());
    let mut met: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut wanted: Vec<usize> =
        (0..pieces.len()).filter(|at| pieces.get(*at).is_some_and(|p| p.differs)).collect();
    while let Some(at) = wanted.pop() {
        let Some(piece) = pieces.get(at).filter(|_| !met.contains_key(&at)) else { continue };
        let found: Vec<usize> = near.meeting(piece.filter, left)?.collect();
        if access == Access::SubscribeLiteral && piece.differs {
            // Whether it may be subscribed to depends on all that it meets, not on what differs alone.
            wanted.extend(found.iter().filter(|at| pieces.get(**at).is_some_and(|piece| piece.is_literal)));
        }
        met.insert(at, found);
    }
    let mut groups: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, found) in &met {
        found.iter().filter(|other| met.contains_key(other)).for_each(|other| joined.join(*at, *other));
    }
    for (at, found) in met {
        groups.entry(joined.root(at)).or_default().extend(found);
    }
    let group = |places: BTreeSet<usize>| {
        let mut group = Group::new();
        for piece in places.into_iter().filter_map(|at| pieces.get(at)) {
            group.entry(piece.list).or_default().push(piece.filter);
        }
        group
    };
    Ok(groups.into_values().map(group).collect())
}

/// One filter of a list.
struct Piece<'a> {
    list: usize,
    filter: &'a Filter,
    differs: bool,
    is_literal: bool,
}

impl<'a> Piece<'a> {
    fn all(access: Access, at: usize, (sided, list): &'a SidedList<'_>) -> impl Iterator<Item = Self> {
        let is_literal = matches!(list.effect, Effect::SubscribeLiteral | Effect::DenySubscribeLiteral);
        // What listeners make of a right may differ where rules do not.
        let differs = sided.differs() || access == Access::SubscribePart;
        list.filters.iter().map(move |filter| Self { list: at, filter, differs, is_literal })
    }
}

/// Places that belong together, each with another one of them, or with itself.
struct Joined(Vec<usize>);

impl Joined {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&mut self, mut at: usize) -> usize {
        loop {
            let next = self.next(at);
            if next == at {
                return at;
            }
            let skipped = self.next(next);
            if let Some(known) = self.0.get_mut(at) {
                *known = skipped;
            }
            at = skipped;
        }
    }

    fn next(&self, at: usize) -> usize {
        self.0.get(at).copied().unwrap_or(at)
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if let Some(known) = self.0.get_mut(one.max(other)) {
            *known = one.min(other);
        }
    }
}
