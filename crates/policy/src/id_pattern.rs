//! Patterns of SPIFFE IDs: which identities a rule speaks of, and what their segments bind.

use crate::error::IdFault;
use crate::segments::Segments;
use midge_identity::{SpiffeId, TrustDomain};
use std::fmt;

/// Name of the capture that every identity binds: its trust domain.
const TRUST_DOMAIN: &str = "td";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    Literal(Box<str>),
    Any,
    /// Place of the segment that it stands for.
    Capture(usize),
}

/// `spiffe://<trust domain>/<segment>/…`, where a segment is literal, `*`, `{name}` or a last `**`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdPattern {
    text: Box<str>,
    /// `None` stands for any.
    trust_domain: Option<Box<str>>,
    path: Vec<Segment>,
    open: bool,
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Names of the captures of an `id` pattern, `td` first, each with the place of the segment that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captures(Vec<(Box<str>, usize)>);

impl Captures {
    /// Those of an identity that is written out.
    pub(crate) fn of_no_segments() -> Self {
        Self(vec![(TRUST_DOMAIN.into(), 0)])
    }

    /// Returns the place of the segment that one stands for.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, place)| *place)
    }

    /// Lists them for people.
    pub(crate) fn listed(&self) -> String {
        let braced: Vec<String> = self.0.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        braced.join(", ")
    }
}

impl IdPattern {
    /// Parses a pattern as the `id` of a rule has it.
    ///
    /// # Errors
    /// When it is not one.
    pub fn new(text: &str) -> Result<Self, IdFault> {
        Self::parse(text).map(|(pattern, _)| pattern)
    }

    /// Returns the only trust domain it matches, when there is one.
    pub(crate) fn trust_domain(&self) -> Option<&str> {
        self.trust_domain.as_deref()
    }

    pub(crate) fn path(&self) -> &[Segment] {
        &self.path
    }

    /// Tells whether any rest of a path matches.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Parses the `id` of a rule.
    pub(crate) fn parse(text: &str) -> Result<(Self, Captures), IdFault> {
        let mut captures = Captures::of_no_segments();
        let pattern = Self::parse_with(text, |name, place| {
            if captures.position(name).is_some() {
                return Err(IdFault::CaptureTwice(name.to_owned()));
            }
            captures.0.push((name.into(), place));
            Ok(place)
        })?;
        Ok((pattern, captures))
    }

    /// Parses an `unless` of a rule, whose captures repeat those of its `id`.
    pub(crate) fn parse_unless(text: &str, captures: &Captures) -> Result<Self, IdFault> {
        Self::parse_with(text, |name, _| {
            captures.position(name).ok_or_else(|| IdFault::Unbound(name.to_owned()))
        })
    }

    fn parse_with(
        text: &str,
        mut capture: impl FnMut(&str, usize) -> Result<usize, IdFault>,
    ) -> Result<Self, IdFault> {
        let rest = text.strip_prefix("spiffe://").ok_or(IdFault::Scheme)?;
        let mut segments = rest.split('/').peekable();
        let trust_domain = match segments.next().unwrap_or_default() {
            "*" | "{td}" => None,
            name => match TrustDomain::new(name) {
                Ok(parsed) if parsed.as_str() == name => Some(name.into()),
                _ => return Err(IdFault::TrustDomain(name.to_owned())),
            },
        };
        let mut pattern = Self { text: text.into(), trust_domain, path: Vec::new(), open: false };
        while let Some(segment) = segments.next() {
            if segment == "**" {
                if segments.peek().is_some() {
                    return Err(IdFault::RestNotLast);
                }
                pattern.open = true;
            } else {
                let place = pattern.path.len() + 1;
                pattern.path.push(parse_segment(segment, |name| capture(name, place))?);
            }
        }
        Ok(pattern)
    }

    /// Returns the only identity it matches, when there is one.
    pub fn literal(&self) -> Option<SpiffeId> {
        if self.open {
            return None;
        }
        let mut id = format!("spiffe://{}", self.trust_domain.as_deref()?);
        for segment in &self.path {
            let Segment::Literal(text) = segment else { return None };
            id.push('/');
            id.push_str(text);
        }
        SpiffeId::new(id).ok()
    }

    /// Tells whether an identity matches: a capture of another pattern must have the same segment again.
    pub(crate) fn matches(&self, id: &Segments) -> bool {
        if self.trust_domain.as_deref().is_some_and(|wanted| wanted != id.trust_domain()) {
            return false;
        }
        let mut found = id.path();
        for segment in &self.path {
            let Some(text) = found.next() else { return false };
            let same = match segment {
                Segment::Any => true,
                Segment::Literal(literal) => **literal == *text,
                Segment::Capture(place) => id.get(*place) == Some(text),
            };
            if !same {
                return false;
            }
        }
        self.open || found.next().is_none()
    }
}

fn parse_segment(
    segment: &str,
    capture: impl FnOnce(&str) -> Result<usize, IdFault>,
) -> Result<Segment, IdFault> {
    if segment.is_empty() {
        return Err(IdFault::EmptySegment);
    }
    if segment == "*" {
        return Ok(Segment::Any);
    }
    if let Some(name) = capture_name(segment) {
        if !is_capture_name(name) {
            return Err(IdFault::CaptureName(name.to_owned()));
        }
        if name == TRUST_DOMAIN {
            return Err(IdFault::CaptureTd);
        }
        return Ok(Segment::Capture(capture(name)?));
    }
    if segment.contains(['*', '{', '}']) {
        return Err(IdFault::PartialSegment(segment.to_owned()));
    }
    match SpiffeId::new(format!("spiffe://td/{segment}")) {
        Ok(_) => Ok(Segment::Literal(segment.into())),
        Err(_) => Err(IdFault::Segment(segment.to_owned())),
    }
}

/// Returns what stands between the braces of `{name}`.
pub(crate) fn capture_name(text: &str) -> Option<&str> {
    text.strip_prefix('{')?.strip_suffix('}')
}

fn is_capture_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}
