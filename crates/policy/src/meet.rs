//! What patterns and a filter have in common, as filters: two filters share nothing or exactly what
//! one other filter matches.

use crate::Effect;
use crate::trie::{At, Mark};
use mqtt_proto::TopicFilter;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Visits what the filter, which is canonical, shares with patterns of the effect: each part once, by its levels, with the
/// marks of all patterns that share it. A part comes after those that contain it, and is canonical too.
pub(crate) fn meet<'p, B>(
    roots: &[At<'p>],
    filter: &'p TopicFilter,
    effect: Effect,
    visitor: &mut impl FnMut(&[&'p str], &[Mark]) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let levels: Vec<&str> = filter.levels().collect();
    let mut meet = Meet { path: Vec::new(), open: Vec::new(), marks: Vec::new(), effect, visitor };
    let roots: Vec<At<'_>> = roots.iter().copied().filter(|root| root.has(effect)).collect();
    meet.walk(&roots, 0, &levels)
}

/// Tells whether one filter matches everything that another does. Both are canonical.
pub(crate) fn covers(outer: &[&str], inner: &[&str]) -> bool {
    let is_system = inner.first().is_some_and(|level| level.starts_with('$'));
    // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
    if is_system && matches!(outer.first(), Some(&("+" | "#"))) {
        return false;
    }
    let mut inner = inner.iter();
    for level in outer {
        match (*level, inner.next()) {
            ("#", _) => return true,
            ("+", Some(&within)) if within != "#" => {}
            (level, Some(&within)) if level == within => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// A walk through the parts from wide to narrow: at each level `#` before `+` before what is spelled.
struct Meet<'p, 'v, V> {
    path: Vec<&'p str>,
    /// Where patterns match everything beneath a level of the path.
    open: Vec<At<'p>>,
    marks: Vec<Mark>,
    effect: Effect,
    visitor: &'v mut V,
}

impl<'p, V: FnMut(&[&'p str], &[Mark]) -> ControlFlow<B>, B> Meet<'p, '_, V> {
    /// Goes on from the nodes that patterns reach along the path. Those that are open from `from` on share with the
    /// filter whatever is left of it.
    fn walk(&mut self, front: &[At<'p>], from: usize, rest: &[&'p str]) -> ControlFlow<B> {
        let known = self.open.len();
        let flow = if front.is_empty() { self.tell(from, front, rest) } else { self.step(front, from, rest) };
        self.open.truncate(known);
        flow
    }

    fn step(&mut self, front: &[At<'p>], from: usize, rest: &[&'p str]) -> ControlFlow<B> {
        // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
        let system = self.path.is_empty() && rest.first().is_some_and(|level| level.starts_with('$'));
        if !system {
            self.open.extend(front.iter().filter(|at| at.hash().next().is_some()));
        }
        let Some((level, below)) = rest.split_first() else { return self.tell(from, front, &[]) };
        match *level {
            "#" => {
                self.tell(from, &[], rest)?;
                // What is open has all that is beneath.
                let here = self.open.len();
                self.tell(here, front, &[])?;
                self.beneath(front, here, rest)
            }
            "+" => self.beneath(front, from, below),
            text => {
                let spelled = front.iter().flat_map(|at| at.spelled(text));
                let plus = front.iter().filter(|_| !system).filter_map(|at| at.plus());
                let next: Vec<At<'_>> = spelled.chain(plus).filter(|at| at.has(self.effect)).collect();
                self.enter(text, &next, from, below)
            }
        }
    }

    /// Goes on under a wildcard of the filter.
    fn beneath(&mut self, front: &[At<'p>], from: usize, rest: &[&'p str]) -> ControlFlow<B> {
        let (leading, effect) = (self.path.is_empty(), self.effect);
        let plus = front.iter().filter_map(|at| at.plus());
        let plus: Vec<At<'_>> = plus.filter(|at| at.has(effect)).collect();
        self.enter("+", &plus, from, rest)?;
        let spelled = front.iter().flat_map(|at| at.all_spelled());
        let mut spelled = spelled.filter(|(text, at)| at.has(effect) && !(leading && text.starts_with('$')));
        let from = self.open.len();
        if let [at] = front
            && !at.may_repeat()
        {
            return spelled.try_for_each(|(text, next)| self.enter(text, &[next], from, rest));
        }
        let mut merged: BTreeMap<&str, Vec<At<'_>>> = BTreeMap::new();
        spelled.for_each(|(text, next)| merged.entry(text).or_default().push(next));
        merged.iter().try_for_each(|(text, next)| self.enter(text, next, from, rest))
    }

    fn enter(&mut self, level: &'p str, next: &[At<'p>], from: usize, rest: &[&'p str]) -> ControlFlow<B> {
        if next.is_empty() && self.open.len() == from {
            return ControlFlow::Continue(());
        }
        self.path.push(level);
        let flow = self.walk(next, from, rest);
        self.path.pop();
        flow
    }

    /// Tells of the path with the rest: whatever is open has it, and so do the patterns that end at these nodes.
    fn tell(&mut self, from: usize, ends: &[At<'p>], rest: &[&'p str]) -> ControlFlow<B> {
        let Self { path, open, marks, effect, visitor } = self;
        let open = open.iter().skip(from).flat_map(|at| at.hash());
        let all = open.chain(ends.iter().flat_map(|at| at.exact()));
        marks.clear();
        marks.extend(all.filter(|mark| mark.effect == *effect));
        if marks.is_empty() {
            return ControlFlow::Continue(());
        }
        let known = path.len();
        path.extend(rest);
        // Without levels, or with one empty level alone, there is no topic to share.
        let is_none = matches!(&**path, [] | [""]);
        let flow = if is_none { ControlFlow::Continue(()) } else { visitor(path, marks) };
        path.truncate(known);
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::Segments;
    use crate::trie::{Level, Pattern, Trie, canonical};
    use crate::{contains, intersection};
    use std::collections::BTreeSet;

    /// Every filter of up to three levels and a `#`, and some more.
    fn filters() -> Vec<TopicFilter> {
        let mut texts: Vec<String> =
            ["#", "", "/#", "$x", "$x/+", "$x/#", "+/a/$x"].map(str::to_owned).into();
        let mut heads = vec![String::new()];
        for _ in 0..3 {
            heads = heads
                .iter()
                .flat_map(|head| ["a", "b", "+", ""].map(|level| format!("{head}{level}/")))
                .collect();
            texts.extend(
                heads.iter().flat_map(|head| [head.trim_end_matches('/').into(), format!("{head}#")]),
            );
        }
        let all: BTreeSet<String> = texts.into_iter().collect();
        all.into_iter().filter_map(|text| Some(canonical(&TopicFilter::new(text).ok()?))).collect()
    }

    fn levels(filter: &TopicFilter) -> Vec<&str> {
        filter.levels().collect()
    }

    #[test]
    fn one_covers_another_as_a_set_of_one_does() {
        let filters = filters();
        for outer in &filters {
            for inner in &filters {
                assert_eq!(covers(&levels(outer), &levels(inner)), contains(outer, inner), "{outer} {inner}");
            }
        }
    }

    #[test]
    fn parts_are_what_each_pattern_shares_once_and_wide_before_narrow() {
        let filters = filters();
        for start in 0..filters.len() {
            let some: Vec<&TopicFilter> =
                filters.iter().cycle().skip(start * 7).step_by(5).take(12).collect();
            let patterns = (0..).zip(&some).map(|(rule, filter)| Pattern {
                levels: filter.levels().map(Level::Text).collect(),
                effect: Effect::Subscribe,
                rule,
                class: rule,
            });
            let (trie, nobody) = (Trie::of(patterns.collect()), Segments::default());
            let roots: Vec<At<'_>> = trie.root(0, &nobody).into_iter().collect();
            for filter in filters.iter().skip(start % 3).step_by(3) {
                let (mut told, mut found) = (Vec::new(), BTreeSet::new());
                let flow = meet(&roots, filter, Effect::Subscribe, &mut |levels, marks| {
                    found.extend(marks.iter().map(|mark| (levels.join("/"), mark.rule)));
                    told.push(levels.iter().map(|level| (*level).to_owned()).collect::<Vec<_>>());
                    ControlFlow::<()>::Continue(())
                });
                assert!(flow.is_continue());
                let expected = (0..).zip(&some).filter_map(|(rule, one)| {
                    Some((canonical(&intersection(one, filter)?).as_str().to_owned(), rule))
                });
                assert_eq!(found, expected.collect(), "{filter} of {some:?}");
                for (at, later) in told.iter().enumerate() {
                    let later: Vec<&str> = later.iter().map(String::as_str).collect();
                    for earlier in told.iter().take(at) {
                        let earlier: Vec<&str> = earlier.iter().map(String::as_str).collect();
                        assert!(!covers(&later, &earlier), "{later:?} comes after {earlier:?}");
                    }
                }
            }
        }
    }
}
