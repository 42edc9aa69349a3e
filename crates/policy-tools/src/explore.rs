//! The search through all identities: reads rules for cells of them, and splits a cell where a rule
//! speaks of a part of it.
//!
//! In the end every identity is in exactly one cell and everything about that cell is known. Nothing is
//! sampled and nothing approximated. Rules that spell texts at the same place are told apart at once, and
//! each goes on with the cell of its own text alone: thousands of them cost no more than their number.

use crate::cell::{Cell, PartIndex, Question};
use crate::model::Held;
use crate::tree::{Leaf, Tree};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Deepest chain of questions, which bounds the stack.
const DEPTH_MAX: usize = 2_000;

/// How much a search may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Kinds of identities that are told apart.
    pub(crate) kinds: usize,
    /// Rules that are held against kinds of identities, and patterns against patterns.
    pub(crate) steps: usize,
}

impl Bounds {
    /// For what is done beside a broker: about a second of one processor at worst.
    pub(crate) const BESIDE: Self = Self { kinds: 12_000, steps: 5_000_000 };

    /// For an answer that somebody waits for.
    pub(crate) const AT_HAND: Self = Self { kinds: 200_000, steps: 100_000_000 };
}

/// Too much to look at for an exact answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Kinds of identities.
    #[error(
        "the id patterns tell more than {0} kinds of identities apart, too many to look at each; \
         compare fewer rules at a time"
    )]
    Kinds(usize),
    /// Rules for each of the kinds.
    #[error(
        "so many rules speak of the same identities that comparing them takes more than {0} steps; \
         compare fewer rules at a time"
    )]
    Steps(usize),
    /// What is gained and lost.
    #[error(
        "more than {0} sets of topics are gained or lost, counted for each kind of identities: too many to tell; \
         compare fewer rules at a time"
    )]
    Changes(usize),
    /// Conditions.
    #[error(
        "the conditions of rules for the same identities tell more than {0} settings apart, too many to look at \
         each; compare fewer rules at a time"
    )]
    Settings(usize),
}

/// What a search is left with.
#[derive(Debug)]
pub(crate) struct Left {
    bounds: Bounds,
    kinds: usize,
    steps: usize,
    changes: usize,
    changes_max: usize,
}

/// Most sets of topics that are told of, unless so many topics differ: nobody reads more, and each takes time and memory.
const CHANGES_MAX: usize = 50_000;

/// As many are told of for each topic that differs, however many do.
const CHANGES_PER_TOPIC: usize = 8;

impl Left {
    pub(crate) fn of(bounds: Bounds) -> Self {
        Self {
            bounds,
            kinds: bounds.kinds,
            steps: bounds.steps,
            changes: CHANGES_MAX,
            changes_max: CHANGES_MAX,
        }
    }

    /// Begins to count what is gained and lost, where so many topics differ.
    pub(crate) fn begin_changes(&mut self, topics: usize) {
        self.changes_max = CHANGES_MAX.max(topics.saturating_mul(CHANGES_PER_TOPIC));
        self.changes = self.changes_max;
    }

    pub(crate) fn take_changes(&mut self, count: usize) -> Result<(), TooMuch> {
        self.changes = self.changes.checked_sub(count).ok_or(TooMuch::Changes(self.changes_max))?;
        Ok(())
    }

    /// Begins another search, which may tell as many kinds apart again.
    pub(crate) fn begin(&mut self) {
        self.kinds = self.bounds.kinds;
    }

    fn take_kind(&mut self) -> Result<(), TooMuch> {
        self.kinds = self.kinds.checked_sub(1).ok_or(TooMuch::Kinds(self.bounds.kinds))?;
        Ok(())
    }

    /// Returns how many steps are left.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Ends what would take more steps than are left.
    pub(crate) fn has_steps(&self, count: usize) -> Result<(), TooMuch> {
        if count > self.steps { Err(TooMuch::Steps(self.bounds.steps)) } else { Ok(()) }
    }

    pub(crate) fn take_steps(&mut self, count: usize) -> Result<(), TooMuch> {
        self.steps = self.steps.checked_sub(count).ok_or(TooMuch::Steps(self.bounds.steps))?;
        Ok(())
    }
}

/// Why there is no result for a cell yet.
pub(crate) enum Stop {
    Question(Question),
    TooMuch(TooMuch),
}

impl From<Question> for Stop {
    fn from(question: Question) -> Self {
        Self::Question(question)
    }
}

impl From<TooMuch> for Stop {
    fn from(error: TooMuch) -> Self {
        Self::TooMuch(error)
    }
}

/// Runs a computation for all identities of a cell.
///
/// `result` is given the rules that speak of the identities of a cell, by their places. Where none of the
/// first `needed` rules does, nobody asks for the others, and it is given none; they are asked for anyway
/// when `needed` is 0.
pub(crate) fn explore<R: AsRef<Held>, T: Leaf>(
    cell: Cell,
    (rules, needed): (&[R], usize),
    left: &mut Left,
    result: impl FnMut(&Cell, &[usize], &mut Left) -> Result<T, Stop>,
) -> Result<Tree<T>, TooMuch> {
    let reading = Reading { open: (0..rules.len()).collect(), found: Vec::new() };
    Search { rules, needed, left, result }.split(cell, reading, 0)
}

/// How far the rules have been looked at for a cell.
#[derive(Clone, Default)]
struct Reading {
    /// Places of the rules that may speak of some of its identities, in order.
    open: Vec<usize>,
    /// Places of those that speak of all of them.
    found: Vec<usize>,
}

/// What has to be known first, and other texts that the same part will be compared with.
struct Asked(Question, Vec<Arc<str>>);

/// What follows from some texts of a part.
type Chosen<T> = BTreeMap<Arc<str>, Tree<T>>;

struct Search<'a, R, F> {
    rules: &'a [R],
    needed: usize,
    left: &'a mut Left,
    result: F,
}

impl<R, T, F> Search<'_, R, F>
where
    R: AsRef<Held>,
    T: Leaf,
    F: FnMut(&Cell, &[usize], &mut Left) -> Result<T, Stop>,
{
    fn split(&mut self, mut cell: Cell, mut reading: Reading, depth: usize) -> Result<Tree<T>, TooMuch> {
        if depth > DEPTH_MAX {
            return Err(TooMuch::Kinds(DEPTH_MAX));
        }
        let mut chosen: Option<(PartIndex, Chosen<T>)> = None;
        let rest = loop {
            match self.step(&cell, &mut reading)? {
                Ok(found) => {
                    // Around each kind there are some that nothing is said of.
                    if reading.found.is_empty() {
                        self.left.take_steps(1)?;
                    } else {
                        self.left.take_kind()?;
                    }
                    break Tree::Leaf(found);
                }
                Err(Asked(Question::Is(part, text), more))
                    if chosen.as_ref().is_none_or(|(of, _)| *of == part) =>
                {
                    let new: BTreeSet<Arc<str>> = more.into_iter().chain([text]).collect();
                    let mut divided = self.divide(&reading, part, &new)?;
                    let (_, trees) = chosen.get_or_insert_with(|| (part, BTreeMap::new()));
                    for text in &new {
                        let cell = cell.with(&Question::Is(part, Arc::clone(text)), true);
                        let own = Reading { open: divided.of(text), found: reading.found.clone() };
                        trees.insert(Arc::clone(text), self.split(cell, own, depth + 1)?);
                    }
                    cell.exclude(part, &new);
                    reading.open = divided.rest();
                }
                Err(Asked(Question::Is(..), _)) => break self.split(cell, reading, depth + 1)?,
                Err(Asked(question, _)) => {
                    let yes = self.split(cell.with(&question, true), reading.clone(), depth + 1)?;
                    let no = self.split(cell.with(&question, false), reading, depth + 1)?;
                    break Tree::fork(question, yes, no);
                }
            }
        };
        Ok(match chosen {
            Some((part, texts)) => Tree::choice(part, texts, rest),
            None => rest,
        })
    }

    fn step(&mut self, cell: &Cell, reading: &mut Reading) -> Result<Result<T, Asked>, TooMuch> {
        let others = reading.open.split_off(reading.open.partition_point(|at| *at < self.needed));
        let asked = self.sift(cell, reading)?;
        if asked.is_some() || (self.needed > 0 && !reading.found.iter().any(|at| *at < self.needed)) {
            reading.open.extend(others);
            if let Some(asked) = asked {
                return Ok(Err(asked));
            }
            reading.found.clear();
        } else {
            reading.open = others;
            if let Some(asked) = self.sift(cell, reading)? {
                return Ok(Err(asked));
            }
        }
        match (self.result)(cell, &reading.found, self.left) {
            Ok(found) => Ok(Ok(found)),
            Err(Stop::Question(question)) => Ok(Err(Asked(question, Vec::new()))),
            Err(Stop::TooMuch(error)) => Err(error),
        }
    }

    /// Looks at open rules; those that speak of a part of the cell stay open.
    fn sift(&mut self, cell: &Cell, reading: &mut Reading) -> Result<Option<Asked>, TooMuch> {
        self.left.take_steps(reading.open.len())?;
        let mut asked: Option<Asked> = None;
        let Reading { open, found } = reading;
        open.retain(|at| {
            let Some(rule) = self.rules.get(*at) else { return false };
            match rule.as_ref().applies(cell) {
                Ok(applies) => {
                    found.extend(applies.then_some(*at));
                    false
                }
                Err(question) => {
                    match (&mut asked, question) {
                        (None, question) => asked = Some(Asked(question, Vec::new())),
                        (Some(Asked(Question::Is(part, _), more)), Question::Is(of, text)) if *part == of => {
                            more.push(text);
                        }
                        _ => {}
                    }
                    true
                }
            }
        });
        Ok(asked)
    }

    /// Tells which open rules go on with which text of the part.
    fn divide(
        &mut self,
        reading: &Reading,
        part: PartIndex,
        texts: &BTreeSet<Arc<str>>,
    ) -> Result<Divided, TooMuch> {
        self.left.take_steps(reading.open.len())?;
        let mut divided = Divided::default();
        for at in &reading.open {
            match self.rules.get(*at).and_then(|rule| rule.as_ref().spelled(part)) {
                Some(text) if texts.contains(text) => {
                    divided.texts.entry(Arc::clone(text)).or_default().push(*at);
                }
                Some(_) => divided.other.push(*at),
                None => divided.any.push(*at),
            }
        }
        Ok(divided)
    }
}

/// Places of rules by the text that they spell for a part.
#[derive(Default)]
struct Divided {
    texts: HashMap<Arc<str>, Vec<usize>>,
    /// Another text.
    other: Vec<usize>,
    /// None.
    any: Vec<usize>,
}

impl Divided {
    fn of(&mut self, text: &str) -> Vec<usize> {
        sorted(self.texts.remove(text).unwrap_or_default(), &self.any)
    }

    fn rest(self) -> Vec<usize> {
        sorted(self.other, &self.any)
    }
}

fn sorted(mut one: Vec<usize>, other: &[usize]) -> Vec<usize> {
    one.extend(other);
    one.sort_unstable();
    one
}
