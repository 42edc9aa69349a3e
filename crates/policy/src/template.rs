//! Topic patterns with captures: filters whose levels may be an identity's segments.

use crate::error::TopicFault;
use crate::id_pattern::{Captures, capture_name};
use mqtt_proto::TopicFilter;

/// Most levels of one pattern: bounds the depth of every walk over a policy.
pub const LEVELS_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// Literal text, `+` or `#`.
    Text(Box<str>),
    /// Index into the captured values.
    Capture(usize),
}

/// A topic filter with `{capture}` levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Level>);

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

    /// Returns the levels of the filter that the values make. A value is a segment of a SPIFFE ID
    /// or a trust domain: never empty, and without `/`, `+` and `#`.
    pub(crate) fn levels<'a>(&'a self, values: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|level| match level {
            Level::Text(text) => &**text,
            // Parsing gave out no index without a value. The empty level is one no capture makes.
            Level::Capture(index) => values.get(*index).copied().unwrap_or_default(),
        })
    }
}

impl Template {
    /// Returns the filter that the values make.
    pub(crate) fn filter(&self, values: &[&str]) -> Option<TopicFilter> {
        TopicFilter::new(self.levels(values).collect::<Vec<_>>().join("/")).ok()
    }
}

fn parse_level(level: &str, captures: &Captures) -> Result<Level, TopicFault> {
    if let Some(name) = capture_name(level) {
        let index = captures
            .position(name)
            .ok_or_else(|| TopicFault::Unbound { capture: name.to_owned(), bound: captures.listed() })?;
        return Ok(Level::Capture(index));
    }
    // A forgotten brace must not become a literal that silently grants or denies nothing.
    if level.contains(['{', '}']) {
        return Err(TopicFault::PartialLevel(level.to_owned()));
    }
    Ok(Level::Text(level.into()))
}
