//! Sets of SPIFFE IDs as answers to questions, and the search through all of them.
//!
//! There are endlessly many identities, but what a policy says of one depends on finitely many
//! comparisons: is this segment that text, are these two segments the same, is there another one.
//! A computation over a [`Cell`] asks those comparisons. Where the cell does not know the answer,
//! [`explore`] splits it in two and goes on in both, so that in the end every identity is in exactly
//! one cell and everything about that cell is known. Nothing is sampled and nothing approximated.

use midge_identity::{SpiffeId, TrustDomain};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Deepest chain of questions, which bounds the stack.
const DEPTH_MAX: usize = 2_000;

/// A part of an identity: 0 is the trust domain, 1 the first segment of the path.
pub(crate) type PartIndex = usize;

/// What a part is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Arc<str>),
    /// Anything but these texts and the values of these parts.
    Open {
        not: BTreeSet<Arc<str>>,
        differs: BTreeSet<PartIndex>,
    },
    /// The same as an earlier part.
    Same(PartIndex),
}

impl Part {
    fn open() -> Self {
        Self::Open { not: BTreeSet::new(), differs: BTreeSet::new() }
    }
}

/// A text, or the value of a part that is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term {
    Text(Arc<str>),
    Part(PartIndex),
}

/// A comparison that decides between the identities of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether the part is this text.
    Is(PartIndex, Arc<str>),
    /// Whether the later part is the same as the earlier one.
    Same { earlier: PartIndex, later: PartIndex },
    /// Whether there is such a part.
    Has(PartIndex),
}

/// A set of identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    parts: Vec<Part>,
    /// Whether there are no further parts.
    ended: bool,
}

impl Cell {
    /// All identities.
    pub(crate) fn all() -> Self {
        Self { parts: vec![Part::open()], ended: false }
    }

    /// One identity.
    pub(crate) fn of(id: &SpiffeId) -> Self {
        let segments = id.path().split('/').skip(1);
        let texts = std::iter::once(id.trust_domain_name()).chain(segments);
        Self { parts: texts.map(|text| Part::Text(text.into())).collect(), ended: true }
    }

    /// Returns how many parts are known to exist.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Tells whether there are no further parts.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Returns what stands for the part in all comparisons.
    pub(crate) fn resolve(&self, part: PartIndex) -> Term {
        match self.parts.get(part) {
            Some(Part::Text(text)) => Term::Text(Arc::clone(text)),
            Some(Part::Same(earlier)) => self.resolve(*earlier),
            Some(Part::Open { .. }) | None => Term::Part(part),
        }
    }

    /// Returns the texts and the parts that an open part is not.
    pub(crate) fn exclusions(&self, part: PartIndex) -> (Vec<Arc<str>>, Vec<PartIndex>) {
        match self.parts.get(part) {
            Some(Part::Open { not, differs }) => {
                (not.iter().cloned().collect(), differs.iter().copied().collect())
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// Tells whether an identity belongs to the cell.
    pub(crate) fn contains(&self, id: &Self) -> bool {
        let known = |part: usize| match self.parts.get(part) {
            Some(Part::Text(text)) => id.resolve(part) == Term::Text(Arc::clone(text)),
            Some(Part::Same(earlier)) => id.resolve(part) == id.resolve(*earlier),
            Some(Part::Open { not, differs }) => {
                let value = id.resolve(part);
                !not.iter().any(|text| value == Term::Text(Arc::clone(text)))
                    && !differs.iter().any(|other| value == id.resolve(*other))
            }
            None => false,
        };
        let long = if self.ended { id.len() == self.len() } else { id.len() >= self.len() };
        long && (0..self.len()).all(known)
    }

    /// Tells whether it has, or may have, more than one identity.
    pub(crate) fn is_general(&self) -> bool {
        !self.ended || self.parts.iter().any(|part| matches!(part, Part::Open { .. }))
    }

    pub(crate) fn has(&self, part: PartIndex) -> Result<bool, Question> {
        if part < self.parts.len() {
            Ok(true)
        } else if self.ended {
            Ok(false)
        } else {
            Err(Question::Has(self.parts.len()))
        }
    }

    pub(crate) fn equal(&self, a: &Term, b: &Term) -> Result<bool, Question> {
        match (self.resolved(a), self.resolved(b)) {
            (Term::Text(a), Term::Text(b)) => Ok(a == b),
            (Term::Part(part), Term::Text(text)) | (Term::Text(text), Term::Part(part)) => {
                self.is(part, &text)
            }
            (Term::Part(a), Term::Part(b)) if a == b => Ok(true),
            (Term::Part(a), Term::Part(b)) => {
                let (earlier, later) = (a.min(b), a.max(b));
                match self.parts.get(later) {
                    Some(Part::Open { differs, .. }) if differs.contains(&earlier) => Ok(false),
                    _ => Err(Question::Same { earlier, later }),
                }
            }
        }
    }

    fn resolved(&self, term: &Term) -> Term {
        match term {
            Term::Part(part) => self.resolve(*part),
            Term::Text(_) => term.clone(),
        }
    }

    fn is(&self, part: PartIndex, text: &Arc<str>) -> Result<bool, Question> {
        match self.parts.get(part) {
            Some(Part::Open { not, .. }) if not.contains(text) => Ok(false),
            _ if !can_be(part, text) => Ok(false),
            _ => Err(Question::Is(part, Arc::clone(text))),
        }
    }

    /// Returns the part of the cell where the question has this answer.
    pub(crate) fn with(&self, question: &Question, answer: bool) -> Self {
        let mut cell = self.clone();
        match (question, answer) {
            (Question::Has(_), true) => cell.parts.push(Part::open()),
            (Question::Has(_), false) => cell.ended = true,
            (Question::Is(part, text), true) => cell.set(*part, Part::Text(Arc::clone(text))),
            (Question::Is(part, text), false) => {
                if let Some(Part::Open { not, .. }) = cell.parts.get_mut(*part) {
                    not.insert(Arc::clone(text));
                }
            }
            (Question::Same { earlier, later }, true) => {
                // What the later part is not, the earlier one is not either from now on.
                let (texts, parts) = cell.exclusions(*later);
                if let Some(Part::Open { not, .. }) = cell.parts.get_mut(*earlier) {
                    not.extend(texts);
                }
                parts.into_iter().for_each(|other| cell.differ(*earlier, other));
                let above: Vec<PartIndex> =
                    (0..cell.parts.len()).filter(|part| cell.exclusions(*part).1.contains(later)).collect();
                above.into_iter().for_each(|other| cell.differ(*earlier, other));
                cell.set(*later, Part::Same(*earlier));
            }
            (Question::Same { earlier, later }, false) => cell.differ(*earlier, *later),
        }
        cell
    }

    fn differ(&mut self, a: PartIndex, b: PartIndex) {
        let (earlier, later) = (a.min(b), a.max(b));
        if let Some(Part::Open { differs, .. }) = self.parts.get_mut(later) {
            differs.insert(earlier);
        }
    }

    /// Settles an open part; those that must differ from it are not this text either.
    fn set(&mut self, part: PartIndex, value: Part) {
        if let Part::Text(text) = &value {
            let own = self.exclusions(part).1;
            for (index, other) in self.parts.iter_mut().enumerate() {
                if let Part::Open { not, differs } = other
                    && (own.contains(&index) || differs.contains(&part))
                {
                    not.insert(Arc::clone(text));
                }
            }
        }
        if let Some(known) = self.parts.get_mut(part) {
            *known = value;
        }
    }
}

/// Tells whether the part of some identity is this text.
fn can_be(part: PartIndex, text: &str) -> bool {
    if part == 0 {
        TrustDomain::new(text).is_ok_and(|parsed| parsed.as_str() == text)
    } else {
        !text.is_empty() && !text.contains('/') && SpiffeId::new(format!("spiffe://td/{text}")).is_ok()
    }
}

/// Too many different kinds of identities for an exact answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id patterns tell more than {0} kinds of identities apart, too many to look at each; \
     compare fewer rules at a time"
)]
pub struct TooManyKinds(pub usize);

/// A result for every identity: what is asked, and what follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree<T> {
    Leaf(T),
    Fork { question: Question, yes: Box<Self>, no: Box<Self> },
}

/// A result that may speak of parts.
pub(crate) trait Leaf: Clone + PartialEq {
    /// Replaces a part by what it is known to be.
    fn replace(&self, part: PartIndex, by: &Term) -> Self;
    /// Tells whether it speaks of the part.
    fn mentions(&self, part: PartIndex) -> bool;
}

/// Runs a computation for all identities of a cell.
///
/// `step` keeps in its state what it has found already, so that a cell that is split goes on where
/// it was.
pub(crate) fn explore<S: Clone, T: Leaf>(
    cell: Cell,
    state: S,
    cells_max: usize,
    step: &mut impl FnMut(&Cell, &mut S) -> Result<T, Question>,
) -> Result<Tree<T>, TooManyKinds> {
    let mut left = cells_max;
    split(cell, state, &mut left, 0, step).ok_or(TooManyKinds(cells_max))
}

fn split<S: Clone, T: Leaf>(
    cell: Cell,
    mut state: S,
    left: &mut usize,
    depth: usize,
    step: &mut impl FnMut(&Cell, &mut S) -> Result<T, Question>,
) -> Option<Tree<T>> {
    match step(&cell, &mut state) {
        Ok(found) => {
            *left = left.checked_sub(1)?;
            Some(Tree::Leaf(found))
        }
        Err(question) if depth < DEPTH_MAX => {
            let yes = split(cell.with(&question, true), state.clone(), left, depth + 1, step)?;
            let no = split(cell.with(&question, false), state, left, depth + 1, step)?;
            Some(Tree::fork(question, yes, no))
        }
        Err(_) => None,
    }
}

impl<T: Leaf> Tree<T> {
    /// Joins two answers, as one where the question makes no difference.
    fn fork(question: Question, yes: Self, no: Self) -> Self {
        let same = match &question {
            Question::Is(part, text) => no.replace(*part, &Term::Text(Arc::clone(text))) == yes,
            Question::Same { earlier, later } => no.replace(*later, &Term::Part(*earlier)) == yes,
            Question::Has(part) => !yes.mentions(*part) && yes == no,
        };
        if same { no } else { Self::Fork { question, yes: yes.into(), no: no.into() } }
    }

    fn replace(&self, part: PartIndex, by: &Term) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(leaf.replace(part, by)),
            Self::Fork { question, yes, no } => match replaced(question, part, by) {
                Answer::Known(true) => yes.replace(part, by),
                Answer::Known(false) => no.replace(part, by),
                Answer::Asked(question) => Self::Fork {
                    question,
                    yes: yes.replace(part, by).into(),
                    no: no.replace(part, by).into(),
                },
            },
        }
    }

    fn mentions(&self, part: PartIndex) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.mentions(part),
            Self::Fork { question, yes, no } => {
                let asked = match question {
                    Question::Is(of, _) | Question::Has(of) => *of >= part,
                    Question::Same { later, .. } => *later >= part,
                };
                asked || yes.mentions(part) || no.mentions(part)
            }
        }
    }

    /// Returns the result for one identity.
    pub(crate) fn at(&self, id: &Cell) -> T {
        match self {
            Self::Leaf(leaf) => {
                (0..id.len()).fold(leaf.clone(), |leaf, part| leaf.replace(part, &id.resolve(part)))
            }
            Self::Fork { question, yes, no } => {
                let answer = match question {
                    Question::Is(part, text) => id.resolve(*part) == Term::Text(Arc::clone(text)),
                    Question::Same { earlier, later } => id.resolve(*earlier) == id.resolve(*later),
                    Question::Has(part) => *part < id.len(),
                };
                if answer { yes.at(id) } else { no.at(id) }
            }
        }
    }

    /// Returns every cell with its result.
    pub(crate) fn cells(&self) -> Vec<(Cell, &T)> {
        let mut found = Vec::new();
        self.collect(Cell::all(), &mut found);
        found
    }

    fn collect<'a>(&'a self, cell: Cell, found: &mut Vec<(Cell, &'a T)>) {
        match self {
            Self::Leaf(leaf) => found.push((cell, leaf)),
            Self::Fork { question, yes, no } => {
                yes.collect(cell.with(question, true), found);
                no.collect(cell.with(question, false), found);
            }
        }
    }
}

enum Answer {
    Known(bool),
    Asked(Question),
}

/// What becomes of a question when a part is known.
fn replaced(question: &Question, part: PartIndex, by: &Term) -> Answer {
    match (question, by) {
        (Question::Is(of, text), Term::Text(known)) if *of == part => Answer::Known(text == known),
        (Question::Is(of, text), Term::Part(other)) if *of == part => {
            Answer::Asked(Question::Is(*other, Arc::clone(text)))
        }
        (Question::Same { earlier, later }, by) if *earlier == part || *later == part => {
            let other = if *earlier == part { *later } else { *earlier };
            match by {
                Term::Text(known) => Answer::Asked(Question::Is(other, Arc::clone(known))),
                Term::Part(same) if *same == other => Answer::Known(true),
                Term::Part(same) => {
                    Answer::Asked(Question::Same { earlier: other.min(*same), later: other.max(*same) })
                }
            }
        }
        _ => Answer::Asked(question.clone()),
    }
}
