//! Patterns of names that are no topics: client ids and share groups.

use crate::condition::ConditionFault;
use crate::id_pattern::{Captures, capture_name};
use crate::segments::Segments;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Piece {
    Text(Box<str>),
    Capture(usize),
}

/// A client id: text with captures anywhere, and `*` at the end for any rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientIdPattern {
    pieces: Vec<Piece>,
    open: bool,
}

impl ClientIdPattern {
    pub(crate) fn parse(text: &str, captures: &Captures) -> Result<Self, ConditionFault> {
        let (mut rest, open) = text.strip_suffix('*').map_or((text, false), |rest| (rest, true));
        if text.is_empty() || rest.contains('*') {
            return Err(ConditionFault::ClientId);
        }
        let mut pieces = Vec::new();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(ConditionFault::ClientId)?;
            if before.contains('}') {
                return Err(ConditionFault::ClientId);
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(Piece::Capture(position(name, captures)?));
            rest = after;
        }
        if rest.contains('}') {
            return Err(ConditionFault::ClientId);
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { pieces, open })
    }

    pub(crate) fn matches(&self, client_id: &str, id: &Segments) -> bool {
        let mut rest = client_id;
        for piece in &self.pieces {
            let text = match piece {
                Piece::Text(text) => text,
                // Parsing gave out no place without a segment.
                Piece::Capture(place) => id.get(*place).unwrap_or_default(),
            };
            match rest.strip_prefix(text) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        self.open || rest.is_empty()
    }
}

/// A share group's name: literal, `{capture}`, or `*` for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupPattern {
    Any,
    Name(Box<str>),
    Capture(usize),
}

impl GroupPattern {
    pub(crate) fn parse(text: &str, captures: &Captures) -> Result<Self, ConditionFault> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(name) = capture_name(text) {
            return position(name, captures).map(Self::Capture);
        }
        if text.is_empty() || text.contains(['/', '+', '#', '*', '{', '}', '\0']) {
            return Err(ConditionFault::ShareGroup);
        }
        Ok(Self::Name(text.into()))
    }

    pub(crate) fn matches(&self, group: &str, id: &Segments) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => **name == *group,
            Self::Capture(place) => id.get(*place) == Some(group),
        }
    }
}

fn position(name: &str, captures: &Captures) -> Result<usize, ConditionFault> {
    captures
        .position(name)
        .ok_or_else(|| ConditionFault::Unbound { capture: name.to_owned(), bound: captures.listed() })
}
