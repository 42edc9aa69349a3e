//! Sets of SPIFFE IDs as answers to questions.
//!
//! There are endlessly many identities, but what a policy says of one depends on finitely many
//! comparisons: is this segment that text, are these two segments the same, is there another one.
//! A computation over a [`Cell`] asks those comparisons; `explore` splits cells until all are answered.

use midge_identity::{SpiffeId, TrustDomain};
use std::collections::BTreeSet;
use std::sync::Arc;

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

    /// Tells whether the part is a text that an `id` pattern spells at this place, so that some identity
    /// has it there. Checking that each time would cost more than everything else.
    pub(crate) fn is_spelled(&self, part: PartIndex, text: &Arc<str>) -> Result<bool, Question> {
        match self.resolve(part) {
            Term::Text(known) => Ok(known == *text),
            Term::Part(same) if same == part => match self.parts.get(part) {
                Some(Part::Open { not, .. }) if not.contains(text) => Ok(false),
                _ => Err(Question::Is(part, Arc::clone(text))),
            },
            // It is the same as a part at another place: not all texts can be there.
            Term::Part(same) => self.is(same, text),
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
            (Question::Is(part, text), false) => cell.exclude(*part, [text]),
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

    /// Takes out the identities of which the part is one of these texts.
    pub(crate) fn exclude<'a>(&mut self, part: PartIndex, texts: impl IntoIterator<Item = &'a Arc<str>>) {
        if let Some(Part::Open { not, .. }) = self.parts.get_mut(part) {
            not.extend(texts.into_iter().cloned());
        }
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
