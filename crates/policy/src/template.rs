//! Topic patterns with captures: filters whose levels may be an identity's segments.

use crate::error::TopicFault;
use crate::id_pattern::{Captures, capture_name};
use crate::trie::Level;
use mqtt_proto::TopicFilter;

/// Most levels of one pattern: bounds the depth of every walk over a policy.
pub const LEVELS_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    /// Literal text, `+` or `#`.
    Literal(Box<str>),
    /// Place of a segment of the identity.
    Capture(usize),
}

/// A topic filter with `{capture}` levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Text>);

impl Template {
    pub(crate) fn parse(text: &str, captures: &Captures) -> Result<Self, TopicFault> {
        TopicFilter::new(text)?;
        if text == "$share" || text.starts_with("$share/") {
            return Err(TopicFault::Share);
        }
        if text.split('/').count() > LEVELS_MAX {
            return Err(TopicFault::Deep(LEVELS_MAX));
        }
        text.split('/').map(|level| parse_level(level, captures)).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn levels(&self) -> Vec<Level<'_>> {
        let levels = self.0.iter().map(|level| match level {
            Text::Literal(text) => Level::Text(text),
            Text::Capture(place) => Level::Segment(*place),
        });
        levels.collect()
    }
}

fn parse_level(level: &str, captures: &Captures) -> Result<Text, TopicFault> {
    if let Some(name) = capture_name(level) {
        let place = captures
            .position(name)
            .ok_or_else(|| TopicFault::Unbound { capture: name.to_owned(), bound: captures.listed() })?;
        return Ok(Text::Capture(place));
    }
    // A forgotten brace must not become a literal that silently grants or denies nothing.
    if level.contains(['{', '}']) {
        return Err(TopicFault::PartialLevel(level.to_owned()));
    }
    Ok(Text::Literal(level.into()))
}
