//! Whether patterns cover a filter, whether one of them overlaps it, and what they have in common.
//!
//! Covering is exact though it looks at few topics. Patterns are finite and the alphabet of levels
//! is not, so there is always a *fresh* level that no pattern spells. A pattern that matches a
//! filter's topic with fresh levels at the wildcards must have wildcards there itself, and so
//! matches every topic of that length under the filter. One fresh topic for each length up to the
//! trie's depth therefore decides for all topics: nothing is approximated, and the work is bounded
//! by the size of the trie and the length of the filter, whatever a client sends.

use crate::Effect;
use crate::trie::{At, Mark};
use mqtt_proto::{TopicFilter, TopicName};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Returns the first of the accepted patterns that cover the filter alone, or one that covers a part of it when accepted
/// patterns cover it all together. The filter is canonical.
///
/// # Errors
/// A topic that the filter matches and no accepted pattern does; none when it would be too long for a topic.
pub(crate) fn cover(
    roots: Vec<At<'_>>,
    filter: &TopicFilter,
    accept: impl Fn(Mark) -> bool,
    order: impl Fn(Mark, Mark) -> Ordering,
) -> Result<Mark, Option<TopicName>> {
    Cover { front: roots, path: Path::default(), first: None, accept, order }.run(filter)
}

/// Returns a pattern with the effect and a topic that both it and the filter match, if any; no topic when it would be
/// too long for one.
pub(crate) fn overlap(
    roots: &[At<'_>],
    filter: &TopicFilter,
    effect: Effect,
) -> Option<(Mark, Option<TopicName>)> {
    let levels: Vec<&str> = filter.levels().collect();
    let mut overlap = Overlap { path: Path::default(), effect, left: usize::MAX };
    let mark = roots.iter().find_map(|root| overlap.find(*root, &levels))?;
    Some((mark, overlap.path.topic()))
}

/// Tells whether a pattern with the effect shares a topic with the filter; also when that would take more than `left`
/// steps to be seen, of which it takes away its own.
pub(crate) fn may_overlap(roots: &[At<'_>], filter: &TopicFilter, effect: Effect, left: &mut usize) -> bool {
    let levels: Vec<&str> = filter.levels().collect();
    let mut overlap = Overlap { path: Path::default(), effect, left: *left };
    let found = roots.iter().any(|root| overlap.find(*root, &levels).is_some());
    *left = overlap.left;
    found || *left == 0
}

/// The levels of a topic under construction.
#[derive(Default)]
struct Path<'a>(Vec<Cow<'a, str>>);

impl Path<'_> {
    /// Tells whether these levels are a topic. The empty text is none ([MQTT-4.7.3-1]).
    fn is_topic(&self) -> bool {
        !(self.0.is_empty() || self.is_empty_text())
    }

    fn is_empty_text(&self) -> bool {
        matches!(&*self.0, [only] if only.is_empty())
    }

    fn topic(&self) -> Option<TopicName> {
        TopicName::new(self.0.join("/")).ok()
    }
}

/// Nodes reached along the fresh topics of a filter.
struct Cover<'t, 'f, A, O> {
    front: Vec<At<'t>>,
    path: Path<'f>,
    /// First pattern found that covers: the whole filter before its `#`, a part of it after.
    first: Option<Mark>,
    accept: A,
    order: O,
}

impl<'f, A: Fn(Mark) -> bool, O: Fn(Mark, Mark) -> Ordering> Cover<'_, 'f, A, O> {
    fn run(mut self, filter: &'f TopicFilter) -> Result<Mark, Option<TopicName>> {
        let open = self.run_to_end(filter);
        match self.first {
            Some(mark) => Ok(mark),
            None if open => self.run_rest(),
            None => Err(self.path.topic()),
        }
    }

    /// Follows the filter to its end and keeps the first pattern that covers it alone; tells whether a
    /// `#` is left to be followed.
    fn run_to_end(&mut self, filter: &'f TopicFilter) -> bool {
        let mut system = filter.as_str().starts_with('$');
        for level in filter.levels() {
            if !system {
                self.first = self.earliest(self.first, self.open_here());
            }
            match level {
                _ if self.first.is_some() && self.front.is_empty() => return false,
                "#" => return true,
                "+" => self.step_fresh(),
                text => self.step_literal(text, system),
            }
            system = false;
        }
        self.first = self.earliest(self.first, self.ending_here());
        false
    }

    /// Follows a trailing `#` through topics of every length.
    fn run_rest(mut self) -> Result<Mark, Option<TopicName>> {
        loop {
            if let Some(mark) = self.open_here() {
                return Ok(self.first.unwrap_or(mark));
            }
            if self.path.is_topic() {
                match self.ending_here() {
                    Some(mark) => self.first = self.first.or(Some(mark)),
                    None => return Err(self.path.topic()),
                }
            }
            // The trie has an end, so the front runs empty and the loop ends above.
            self.step_fresh();
        }
    }

    /// Returns the first pattern that matches all that is beneath.
    fn open_here(&self) -> Option<Mark> {
        self.first_of(self.front.iter().flat_map(|at| at.hash()))
    }

    /// Returns the first pattern that matches the path.
    fn ending_here(&self) -> Option<Mark> {
        self.first_of(self.front.iter().flat_map(|at| at.exact().chain(at.hash())))
    }

    fn first_of(&self, marks: impl Iterator<Item = Mark>) -> Option<Mark> {
        marks.filter(|mark| (self.accept)(*mark)).min_by(|a, b| (self.order)(*a, *b))
    }

    fn earliest(&self, one: Option<Mark>, two: Option<Mark>) -> Option<Mark> {
        one.into_iter().chain(two).min_by(|a, b| (self.order)(*a, *b))
    }

    fn step_fresh(&mut self) {
        self.path.0.push(fresh(&self.front));
        self.front = self.front.iter().filter_map(|at| at.plus()).collect();
    }

    fn step_literal(&mut self, text: &'f str, system: bool) {
        self.path.0.push(Cow::Borrowed(text));
        let mut front = Vec::with_capacity(self.front.len());
        for at in &self.front {
            front.extend(at.spelled(text));
            front.extend(at.plus().filter(|_| !system));
        }
        self.front = front;
    }
}

/// Returns a level that none of the nodes spells.
fn fresh(front: &[At<'_>]) -> Cow<'static, str> {
    let spelled = |level: &str| front.iter().any(|at| at.spelled(level).next().is_some());
    if !spelled("x") {
        return Cow::Borrowed("x");
    }
    // Doubling, so that not all are tried where they are numbered: 64 are seldom all spelled.
    let doubled = (0..u64::BITS).map(|n| 1_u64 << n);
    let mut numbered = doubled.chain(1..).map(|n| format!("x{n}"));
    Cow::Owned(numbered.find(|level| !spelled(level)).unwrap_or_default())
}

/// A topic that a filter and a pattern share.
struct Overlap<'p> {
    path: Path<'p>,
    effect: Effect,
    /// Nodes that may still be looked at.
    left: usize,
}

impl<'p> Overlap<'p> {
    fn find(&mut self, at: At<'p>, filter: &[&'p str]) -> Option<Mark> {
        if !at.has(self.effect) || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let system = self.path.0.is_empty() && filter.first().is_some_and(|level| level.starts_with('$'));
        if !system
            && let Some(mark) = self.pick(at.hash())
            && self.shortest(filter)
        {
            return Some(mark);
        }
        let Some((level, rest)) = filter.split_first() else {
            return self.pick(at.exact()).filter(|_| self.path.is_topic());
        };
        match *level {
            "#" => {
                let here = self.pick(at.exact()).filter(|_| self.path.is_topic());
                here.or_else(|| self.find_beneath(at, filter))
            }
            "+" => self.find_beneath(at, rest),
            text => {
                let plus = at.plus().filter(|_| !system);
                at.spelled(text).chain(plus).find_map(|next| self.enter(Cow::Borrowed(text), next, rest))
            }
        }
    }

    /// Searches under a wildcard of the filter.
    fn find_beneath(&mut self, at: At<'p>, rest: &[&'p str]) -> Option<Mark> {
        let leading = self.path.0.is_empty();
        let spelled = at.all_spelled().filter(|(text, _)| !(leading && text.starts_with('$')));
        let spelled = spelled.map(|(text, next)| (Cow::Borrowed(text), next));
        let plus = at.plus().map(|next| (fresh(&[at]), next));
        spelled.chain(plus).find_map(|(level, next)| self.enter(level, next, rest))
    }

    fn enter(&mut self, level: Cow<'p, str>, next: At<'p>, rest: &[&'p str]) -> Option<Mark> {
        self.path.0.push(level);
        let found = self.find(next, rest);
        if found.is_none() {
            self.path.0.pop();
        }
        found
    }

    fn pick(&self, mut marks: impl Iterator<Item = Mark>) -> Option<Mark> {
        marks.find(|mark| mark.effect == self.effect)
    }

    /// Completes the path with the shortest rest that the filter matches; tells whether a topic can
    /// be made.
    fn shortest(&mut self, filter: &[&'p str]) -> bool {
        let known = self.path.0.len();
        for level in filter.iter().filter(|level| **level != "#") {
            self.path.0.push(Cow::Borrowed(if *level == "+" { "x" } else { level }));
        }
        if !self.path.is_topic() && filter.last() == Some(&"#") {
            self.path.0.push(Cow::Borrowed("x"));
        }
        if self.path.is_topic() {
            return true;
        }
        self.path.0.truncate(known);
        false
    }
}
