//! Sets of topics as filters minus filters. Levels may be parts of an identity that is not known.
//!
//! Two filters have either nothing or exactly one filter in common, so that sets of this form are
//! closed under everything that is asked of them. Whether such a set is empty is decided exactly:
//! filters are finite and levels are not, so a topic of *fresh* levels, which no filter spells, is
//! left over wherever any topic is (the same argument as in the policy's own containment).

use crate::cell::{Cell, PartIndex, Question, Term};
use crate::explore::{Left, Stop, TooMuch};
use crate::near::Near;
use crate::overlap;
use crate::tree::Leaf;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What keeping, ordering and telling one filter costs, in steps; it bounds the memory of all.
const STEPS_OF_FILTER: usize = 50;

/// One level of a filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    Term(Term),
    /// `+`
    Any,
    /// `#`
    Rest,
}

/// A topic filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Filter(Vec<Level>);

impl Filter {
    /// Reads a pattern that a rule's check has accepted; `part` finds the part of a capture.
    pub(crate) fn read(text: &str, part: impl Fn(&str) -> Option<PartIndex>) -> Self {
        let level = |level: &str| {
            let captured = level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).and_then(&part);
            match (level, captured) {
                ("+", _) => Level::Any,
                ("#", _) => Level::Rest,
                (_, Some(part)) => Level::Term(Term::Part(part)),
                (text, None) => Level::Term(Term::Text(text.into())),
            }
        };
        Self(text.split('/').map(level).collect())
    }

    /// Returns the filter with the parts that the cell knows.
    pub(crate) fn resolve(&self, cell: &Cell) -> Self {
        let level = |level: &Level| match level {
            Level::Term(Term::Part(part)) => Level::Term(cell.resolve(*part)),
            other => other.clone(),
        };
        Self(self.0.iter().map(level).collect())
    }

    /// Writes the filter as text; `part` writes a part.
    pub(crate) fn text(&self, part: impl Fn(PartIndex) -> String) -> String {
        let level = |level: &Level| match level {
            Level::Term(Term::Text(text)) => text.to_string(),
            Level::Term(Term::Part(index)) => part(*index),
            Level::Any => "+".into(),
            Level::Rest => "#".into(),
        };
        self.0.iter().map(level).collect::<Vec<_>>().join("/")
    }

    /// Returns its levels for finding what it may meet.
    pub(crate) fn levels(&self) -> Vec<overlap::Level<'_>> {
        overlap::cut(self.0.iter().map(|level| match level {
            Level::Term(Term::Text(text)) => overlap::Level::Text(text),
            Level::Term(Term::Part(_)) | Level::Any => overlap::Level::Any,
            Level::Rest => overlap::Level::Rest,
        }))
    }

    /// Returns how many levels it has.
    pub(crate) fn level_count(&self) -> usize {
        self.0.len()
    }

    /// Returns the parts it speaks of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = PartIndex> {
        self.0.iter().filter_map(|level| match level {
            Level::Term(Term::Part(part)) => Some(*part),
            _ => None,
        })
    }

    fn is_open(&self) -> bool {
        self.0.last() == Some(&Level::Rest)
    }

    fn is_leading_wildcard(&self) -> bool {
        matches!(self.0.first(), Some(Level::Any | Level::Rest))
    }

    fn is_system(&self) -> bool {
        matches!(self.0.first(), Some(Level::Term(Term::Text(text))) if text.starts_with('$'))
    }

    /// Returns the shortest filter that matches the same topics: `+/#` is `#`, and `/+/#` is `/#`.
    pub(crate) fn canonical(&self) -> Self {
        match self.0.as_slice() {
            [Level::Any, Level::Rest] => Self(vec![Level::Rest]),
            [Level::Term(Term::Text(text)), Level::Any, Level::Rest] if text.is_empty() => {
                Self(vec![Level::Term(Term::Text(Arc::clone(text))), Level::Rest])
            }
            _ => self.clone(),
        }
    }

    /// Tells whether both are spelled the same.
    pub(crate) fn is_same(&self, other: &Self, cell: &Cell) -> Result<bool, Question> {
        if self.0.len() != other.0.len() {
            return Ok(false);
        }
        let mut open = None;
        for pair in self.0.iter().zip(&other.0) {
            match pair {
                (Level::Term(a), Level::Term(b)) => match cell.equal(a, b) {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(question) => open = open.or(Some(question)),
                },
                (a, b) if a == b => {}
                _ => return Ok(false),
            }
        }
        open.map_or(Ok(true), Err)
    }

    /// Returns the filter of the topics that both match.
    pub(crate) fn meet(&self, other: &Self, cell: &Cell) -> Result<Option<Self>, Question> {
        // [MQTT-4.7.2-1]: no leading wildcard matches a topic that starts with $.
        if (self.is_leading_wildcard() && other.is_system())
            || (other.is_leading_wildcard() && self.is_system())
        {
            return Ok(None);
        }
        if self.is_apart(other) {
            return Ok(None);
        }
        let mut met = Vec::with_capacity(self.0.len().max(other.0.len()));
        let mut open = None;
        let mut at = 0;
        loop {
            let level = match (self.0.get(at), other.0.get(at)) {
                (None, None) => break,
                (Some(Level::Rest), _) => {
                    met.extend(other.0.iter().skip(at).cloned());
                    break;
                }
                (_, Some(Level::Rest)) => {
                    met.extend(self.0.iter().skip(at).cloned());
                    break;
                }
                (None, _) | (_, None) => return Ok(None),
                (Some(Level::Any), Some(level)) | (Some(level), Some(Level::Any)) => level.clone(),
                (Some(Level::Term(a)), Some(Level::Term(b))) => {
                    match cell.equal(a, b) {
                        Ok(true) => {}
                        Ok(false) => return Ok(None),
                        // A later level may settle it without asking.
                        Err(question) => open = open.or(Some(question)),
                    }
                    Level::Term(a.clone())
                }
            };
            met.push(level);
            at += 1;
        }
        match open {
            Some(question) => Err(question),
            None => Ok(Some(Self(met)).filter(|met| !met.is_empty_text())),
        }
    }

    /// Tells whether both spell another text at the same level. Of many filters nearly all pairs do, and
    /// what tells so has to be cheap.
    fn is_apart(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .any(|pair| matches!(pair, (Level::Term(Term::Text(a)), Level::Term(Term::Text(b))) if a != b))
    }

    /// Tells whether this is the empty text, which is no topic ([MQTT-4.7.3-1]).
    fn is_empty_text(&self) -> bool {
        match self.0.as_slice() {
            [] => true,
            [Level::Term(Term::Text(text))] => text.is_empty(),
            _ => false,
        }
    }

    /// Tells whether all its topics are known to be topics of the other.
    fn is_part_of(&self, other: &Self, cell: &Cell) -> bool {
        matches!(self.meet(other, cell), Ok(Some(met)) if met == *self)
    }

    fn replace(&self, part: PartIndex, by: &Term) -> Self {
        let level = |level: &Level| match level {
            Level::Term(Term::Part(known)) if *known == part => Level::Term(by.clone()),
            other => other.clone(),
        };
        Self(self.0.iter().map(level).collect())
    }
}

/// The topics of one filter without those of others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Topics {
    filter: Filter,
    /// Each of them within the filter.
    except: Vec<Filter>,
}

impl Topics {
    /// Returns the topics of the filter that none of the others matches, if there are any.
    pub(crate) fn rest<'a>(
        filter: &Filter,
        others: impl IntoIterator<Item = &'a Filter>,
        cell: &Cell,
    ) -> Result<Option<Self>, Question> {
        let mut except = Vec::new();
        for other in others {
            except.extend(filter.meet(other, cell)?);
        }
        let topics = Self { filter: filter.clone(), except };
        Ok(Some(topics).filter(|topics| topics.spare_level_count().is_some()))
    }

    /// The same, told in the shortest form and the same in whatever order the others come.
    pub(crate) fn without<'a>(
        filter: &Filter,
        others: impl IntoIterator<Item = &'a Filter>,
        cell: &Cell,
        left: &mut Left,
    ) -> Result<Option<Self>, Stop> {
        let Some(topics) = Self::rest(filter, others, cell)? else { return Ok(None) };
        left.take_steps(topics.except.len().saturating_add(1).saturating_mul(STEPS_OF_FILTER))?;
        Ok(Some(topics.tidy(cell, left)?))
    }

    /// Returns the topics of one filter.
    pub(crate) fn literal(filter: Filter) -> Self {
        Self { filter, except: Vec::new() }
    }

    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(crate) fn except(&self) -> &[Filter] {
        &self.except
    }

    /// Drops exceptions within other exceptions, and puts them in order.
    fn tidy(self, cell: &Cell, left: &mut Left) -> Result<Self, TooMuch> {
        let Self { filter, mut except } = self;
        except.sort();
        except.dedup();
        let near = Near::of(&except);
        let mut kept = Vec::with_capacity(except.len());
        for one in &except {
            let mut others = near.meeting(one, left)?.filter_map(|at| except.get(at));
            if !others.any(|other| other != one && one.is_part_of(other, cell)) {
                kept.push(one.clone());
            }
        }
        Ok(Self { filter, except: kept })
    }

    /// Returns how many levels to put in for a trailing `#` to get a topic that is in the set; 0
    /// where there is no `#`. None when the set is empty.
    fn spare_level_count(&self) -> Option<usize> {
        if !self.filter.is_open() {
            return (!self.except.contains(&self.filter)).then_some(0);
        }
        let prefix = self.filter.0.split_last().map(|(_, prefix)| prefix).unwrap_or_default();
        let mut lengths = BTreeSet::new();
        let mut all_from = usize::MAX;
        for except in &self.except {
            let Some(rest) = except.0.strip_prefix(prefix) else { continue };
            let (rest, open) = match rest.split_last() {
                Some((Level::Rest, rest)) => (rest, true),
                _ => (rest, false),
            };
            if rest.iter().any(|level| *level != Level::Any) {
                continue;
            }
            if open {
                all_from = all_from.min(rest.len());
            } else {
                lengths.insert(rest.len());
            }
        }
        let empty = prefix.is_empty() || Filter(prefix.to_vec()).is_empty_text();
        (usize::from(empty)..all_from).find(|length| !lengths.contains(length))
    }

    /// Returns a topic of the set; `part` tells what the parts are.
    pub(crate) fn witness(&self, part: impl Fn(PartIndex) -> String) -> String {
        let mut spelled: Vec<String> = self.parts().map(&part).collect();
        for level in self.except.iter().flat_map(|filter| &filter.0) {
            if let Level::Term(Term::Text(text)) = level {
                spelled.push(text.to_string());
            }
        }
        let fresh = fresh(|level| spelled.iter().any(|known| known == level));
        let mut levels = Vec::new();
        for level in &self.filter.0 {
            match level {
                Level::Term(Term::Text(text)) => levels.push(text.to_string()),
                Level::Term(Term::Part(index)) => levels.push(part(*index)),
                Level::Any => levels.push(fresh.clone()),
                Level::Rest => {
                    let more = self.spare_level_count().unwrap_or_default();
                    levels.extend(std::iter::repeat_n(fresh.clone(), more));
                }
            }
        }
        levels.join("/")
    }

    /// Returns the parts it speaks of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = PartIndex> {
        std::iter::once(&self.filter).chain(&self.except).flat_map(Filter::parts)
    }

    pub(crate) fn replace(&self, part: PartIndex, by: &Term) -> Self {
        let mut except: Vec<Filter> = self.except.iter().map(|filter| filter.replace(part, by)).collect();
        except.sort();
        except.dedup();
        Self { filter: self.filter.replace(part, by), except }
    }
}

/// Sets of topics of which none is known to be part of another.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// None for those that turned out to be part of a later one.
    kept: Vec<Option<(Topics, Near)>>,
    filters: Vec<Filter>,
    near: Near,
}

impl Apart {
    /// Adds a set, unless it is part of one that is there, and drops those that are part of it.
    pub(crate) fn insert(&mut self, topics: Topics, cell: &Cell, left: &mut Left) -> Result<(), TooMuch> {
        let excepts = Near::of(&topics.except);
        let own = (topics, excepts);
        let others: Vec<usize> = self.near.meeting(&own.0.filter, left)?.collect();
        for other in others.iter().filter_map(|at| self.kept.get(*at)?.as_ref()) {
            if is_within(&own, other, cell, left)? {
                return Ok(());
            }
        }
        for at in others {
            let Some(kept) = self.kept.get_mut(at) else { continue };
            let is_part = kept.as_ref().map_or(Ok(false), |other| is_within(other, &own, cell, left))?;
            if is_part {
                *kept = None;
            }
        }
        self.filters.push(own.0.filter.clone());
        self.near.grow(&self.filters);
        self.kept.push(Some(own));
        Ok(())
    }

    pub(crate) fn into_topics(self) -> impl Iterator<Item = Topics> {
        self.kept.into_iter().flatten().map(|(topics, _)| topics)
    }
}

/// Tells whether the topics of a set are known to be among the others; each comes with its exceptions.
fn is_within(
    (one, excepts): &(Topics, Near),
    (other, other_excepts): &(Topics, Near),
    cell: &Cell,
    left: &mut Left,
) -> Result<bool, TooMuch> {
    if !one.filter.is_part_of(&other.filter, cell) {
        return Ok(false);
    }
    // Whatever the other leaves out of this filter must be left out here.
    for left_out in other_excepts.meeting(&one.filter, left)?.filter_map(|at| other.except.get(at)) {
        let part = match one.filter.meet(left_out, cell) {
            Ok(None) => continue,
            Ok(Some(part)) => part,
            Err(_) => return Ok(false),
        };
        let own = excepts.meeting(&part, left)?.filter_map(|at| one.except.get(at));
        if !matches!(Topics::rest(&part, own, cell), Ok(None)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns a level that is not spelled.
pub(crate) fn fresh(spelled: impl Fn(&str) -> bool) -> String {
    if !spelled("x") {
        return "x".into();
    }
    (1_u64..).map(|n| format!("x{n}")).find(|level| !spelled(level)).unwrap_or_default()
}

impl Leaf for bool {
    fn replace(&self, _part: PartIndex, _by: &Term) -> Self {
        *self
    }

    fn mentions(&self, _part: PartIndex) -> bool {
        false
    }
}

/// Text of an `Arc`, for building terms.
pub(crate) fn text(text: &str) -> Arc<str> {
    text.into()
}
