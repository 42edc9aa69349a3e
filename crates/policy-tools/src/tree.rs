//! Results for every identity there could be, as trees of questions.

use crate::cell::{Cell, PartIndex, Question, Term};
use midge_identity::SpiffeId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A result for every identity: what is asked, and what follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree<T> {
    Leaf(T),
    Fork {
        question: Question,
        yes: Box<Self>,
        no: Box<Self>,
    },
    /// What follows from the text of a part. Thousands of rules may each spell another one; as a
    /// chain of forks they would be a tree as deep.
    Choice {
        part: PartIndex,
        texts: BTreeMap<Arc<str>, Self>,
        other: Box<Self>,
    },
}

/// A result that may speak of parts.
pub(crate) trait Leaf: Clone + PartialEq {
    /// Replaces a part by what it is known to be.
    fn replace(&self, part: PartIndex, by: &Term) -> Self;
    /// Tells whether it speaks of the part.
    fn mentions(&self, part: PartIndex) -> bool;
}

/// The identities of a leaf.
#[derive(Debug)]
pub(crate) struct Region<'a, T> {
    pub(crate) cell: Cell,
    pub(crate) found: &'a T,
    /// Those of the identities asked for that are among them.
    pub(crate) ids: Vec<&'a SpiffeId>,
}

/// An identity with its parts.
type Known<'a> = (&'a SpiffeId, Cell);

impl<T: Leaf> Tree<T> {
    /// Joins two answers, as one where the question makes no difference.
    pub(crate) fn fork(question: Question, yes: Self, no: Self) -> Self {
        let same = match &question {
            Question::Is(part, text) => no.becomes(*part, &Term::Text(Arc::clone(text)), &yes),
            Question::Same { earlier, later } => no.becomes(*later, &Term::Part(*earlier), &yes),
            Question::Has(part) => !yes.mentions(*part) && yes == no,
        };
        if same { no } else { Self::Fork { question, yes: yes.into(), no: no.into() } }
    }

    /// Joins the answers for some texts of a part with that for all others.
    pub(crate) fn choice(part: PartIndex, mut texts: BTreeMap<Arc<str>, Self>, other: Self) -> Self {
        texts.retain(|text, tree| !other.becomes(part, &Term::Text(Arc::clone(text)), tree));
        if texts.is_empty() { other } else { Self::Choice { part, texts, other: other.into() } }
    }

    /// Tells whether it is the same as `wanted` once the part is replaced. Ends at the first difference, so
    /// that comparing a small tree with a large one costs the small one.
    fn becomes(&self, part: PartIndex, by: &Term, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Leaf(leaf), Self::Leaf(wanted)) => leaf.replace(part, by) == *wanted,
            (Self::Leaf(_), _) => false,
            (Self::Choice { part: of, texts, other }, _) => match by {
                Term::Text(text) if of == &part => texts.get(text).unwrap_or(other).becomes(part, by, wanted),
                _ => {
                    let asked = match by {
                        Term::Part(other) if of == &part => other,
                        _ => of,
                    };
                    let Self::Choice { part: wanted_part, texts: wanted, other: wanted_other } = wanted
                    else {
                        return false;
                    };
                    let pairs = texts.iter().zip(wanted);
                    asked == wanted_part
                        && texts.len() == wanted.len()
                        && other.becomes(part, by, wanted_other)
                        && pairs.into_iter().all(|((a, one), (b, two))| a == b && one.becomes(part, by, two))
                }
            },
            (Self::Fork { question, yes, no }, _) => match (replaced(question, part, by), wanted) {
                (Answer::Known(true), _) => yes.becomes(part, by, wanted),
                (Answer::Known(false), _) => no.becomes(part, by, wanted),
                (Answer::Asked(asked), Self::Fork { question, yes: wanted_yes, no: wanted_no }) => {
                    asked == *question && yes.becomes(part, by, wanted_yes) && no.becomes(part, by, wanted_no)
                }
                (Answer::Asked(Question::Is(of, text)), Self::Choice { part: wanted, texts, other }) => {
                    let only = texts.get(&text).filter(|_| texts.len() == 1 && of == *wanted);
                    only.is_some_and(|wanted| yes.becomes(part, by, wanted)) && no.becomes(part, by, other)
                }
                (Answer::Asked(_), _) => false,
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
            Self::Choice { part: of, texts, other } => {
                *of >= part || other.mentions(part) || texts.values().any(|tree| tree.mentions(part))
            }
        }
    }

    /// Returns the result for one identity.
    pub(crate) fn at(&self, id: &Cell) -> T {
        match self {
            Self::Leaf(leaf) => {
                (0..id.len()).fold(leaf.clone(), |leaf, part| leaf.replace(part, &id.resolve(part)))
            }
            Self::Fork { question, yes, no } => if answer(question, id) { yes } else { no }.at(id),
            Self::Choice { part, texts, other } => match id.resolve(*part) {
                Term::Text(text) => texts.get(&text).unwrap_or(other).at(id),
                Term::Part(_) => other.at(id),
            },
        }
    }

    /// Returns every result.
    pub(crate) fn leaves(&self) -> Vec<&T> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            Self::Fork { yes, no, .. } => [yes.leaves(), no.leaves()].concat(),
            Self::Choice { texts, other, .. } => {
                texts.values().flat_map(Self::leaves).chain(other.leaves()).collect()
            }
        }
    }

    /// Returns every cell with its result, and which of some identities belong to it.
    pub(crate) fn regions<'a>(&'a self, ids: impl Iterator<Item = &'a SpiffeId>) -> Vec<Region<'a, T>> {
        let mut found = Vec::new();
        self.collect(Cell::all(), ids.map(|id| (id, Cell::of(id))).collect(), &mut found);
        found
    }

    fn collect<'a>(&'a self, cell: Cell, ids: Vec<Known<'a>>, regions: &mut Vec<Region<'a, T>>) {
        match self {
            Self::Leaf(found) => {
                let mut ids: Vec<&SpiffeId> = ids.into_iter().map(|(id, _)| id).collect();
                ids.sort_unstable();
                regions.push(Region { cell, found, ids });
            }
            Self::Fork { question, yes, no } => {
                let (of_yes, of_no) = ids.into_iter().partition(|(_, id)| answer(question, id));
                yes.collect(cell.with(question, true), of_yes, regions);
                no.collect(cell.with(question, false), of_no, regions);
            }
            Self::Choice { part, texts, other } => {
                let mut of_text: HashMap<Term, Vec<Known<'a>>> = HashMap::new();
                for (id, known) in ids {
                    of_text.entry(known.resolve(*part)).or_default().push((id, known));
                }
                for (text, tree) in texts {
                    let of = of_text.remove(&Term::Text(Arc::clone(text))).unwrap_or_default();
                    tree.collect(cell.with(&Question::Is(*part, Arc::clone(text)), true), of, regions);
                }
                let mut rest = cell;
                rest.exclude(*part, texts.keys());
                other.collect(rest, of_text.into_values().flatten().collect(), regions);
            }
        }
    }
}

/// Answers a question about one identity.
fn answer(question: &Question, id: &Cell) -> bool {
    match question {
        Question::Is(part, text) => id.resolve(*part) == Term::Text(Arc::clone(text)),
        Question::Same { earlier, later } => id.resolve(*earlier) == id.resolve(*later),
        Question::Has(part) => *part < id.len(),
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
