//! Texts that speak of parts of an identity, such as `{device}-*` of a client id.

use crate::cell::{Cell, PartIndex, Term};

/// Encloses the number of a part. No text of a rule has it: topics and names refuse it or are quoted.
const MARK: char = '\u{1}';

fn mark(part: PartIndex) -> String {
    format!("{MARK}{part}{MARK}")
}

/// Writes a term.
pub(crate) fn term(term: &Term) -> String {
    match term {
        Term::Text(text) => text.to_string(),
        Term::Part(part) => mark(*part),
    }
}

/// Puts what the cell knows in place of captures.
pub(crate) fn resolve(text: &str, cell: &Cell, part: impl Fn(&str) -> Option<PartIndex>) -> String {
    let mut rest = text;
    let mut resolved = String::with_capacity(text.len());
    while let Some((before, name, after)) = next_capture(rest) {
        resolved.push_str(before);
        match part(name) {
            Some(part) => resolved.push_str(&term(&cell.resolve(part))),
            None => resolved.push_str(name),
        }
        rest = after;
    }
    resolved + rest
}

fn next_capture(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// Writes the parts out.
pub(crate) fn fill(text: &str, part: impl Fn(PartIndex) -> String) -> String {
    let pieces = text.split(MARK).enumerate();
    let piece = |(at, piece): (usize, &str)| match piece.parse() {
        Ok(index) if at % 2 == 1 => part(index),
        _ => piece.to_owned(),
    };
    pieces.map(piece).collect()
}

/// Replaces a part.
pub(crate) fn replace(text: &str, part: PartIndex, by: &Term) -> String {
    text.replace(&mark(part), &term(by))
}

/// Returns the parts it speaks of.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = PartIndex> {
    text.split(MARK).skip(1).step_by(2).filter_map(|part| part.parse().ok())
}

/// Returns the texts around the parts.
pub(crate) fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).step_by(2)
}
