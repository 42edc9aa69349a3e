//! Topic names and topic filters that cannot hold an invalid value.

use std::sync::Arc;

/// Why a text is not a topic name or a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum InvalidTopic {
    #[error("topic is empty")]
    Empty,
    #[error("topic is longer than 65535 bytes")]
    TooLong,
    #[error("topic contains U+0000")]
    Nul,
    #[error("topic name contains a wildcard")]
    Wildcard,
    #[error("`#` is not the last level or does not fill it")]
    MultiLevel,
    #[error("`+` does not fill its level")]
    SingleLevel,
    #[error("shared subscription without a group or a filter")]
    Share,
}

/// A topic name: 1 to 65,535 bytes of UTF-8 without U+0000, `+` and `#` (MQTT 5.0 §4.7.3, [MQTT-3.3.2-2]).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// A topic filter without share prefix (MQTT 5.0 §4.7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

/// A filter as SUBSCRIBE spells it: `filter` or `$share/<group>/<filter>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedFilter {
    /// The share group.
    pub group: Option<Arc<str>>,
    /// The filter itself.
    pub filter: TopicFilter,
}

impl TopicName {
    /// Parses a topic name.
    ///
    /// # Errors
    /// When the text is not a topic name.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidTopic> {
        let text = text.as_ref();
        check_text(text)?;
        if text.contains(['+', '#']) {
            return Err(InvalidTopic::Wildcard);
        }
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the levels, split at `/`; empty levels count.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Tells whether the first level starts with `$`: such topics match no leading wildcard ([MQTT-4.7.2-1]).
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl TopicFilter {
    /// Parses a topic filter.
    ///
    /// # Errors
    /// When the text is not a topic filter.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidTopic> {
        let text = text.as_ref();
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(InvalidTopic::MultiLevel);
            }
            if level.contains('+') && level != "+" {
                return Err(InvalidTopic::SingleLevel);
            }
        }
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the levels, split at `/`; empty levels count.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Tells whether this filter matches the topic (MQTT 5.0 §4.7, `$` rule included).
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_system() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut topic_levels = topic.levels();
        for level in self.levels() {
            if level == "#" {
                return true;
            }
            match topic_levels.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        topic_levels.next().is_none()
    }
}

impl SharedFilter {
    /// Parses `filter` or `$share/<group>/<filter>` (MQTT 5.0 §4.8.2).
    ///
    /// # Errors
    /// When the group is empty or has a wildcard, or the filter is not valid.
    pub fn new(text: &str) -> Result<Self, InvalidTopic> {
        let Some(rest) = text.strip_prefix("$share/") else {
            return Ok(Self { group: None, filter: TopicFilter::new(text)? });
        };
        let (group, filter) = rest.split_once('/').ok_or(InvalidTopic::Share)?;
        if group.is_empty() || group.contains(['+', '#']) || filter.is_empty() {
            return Err(InvalidTopic::Share);
        }
        check_text(group)?;
        Ok(Self { group: Some(group.into()), filter: TopicFilter::new(filter)? })
    }
}

fn check_text(text: &str) -> Result<(), InvalidTopic> {
    if text.is_empty() {
        Err(InvalidTopic::Empty)
    } else if text.len() > usize::from(u16::MAX) {
        Err(InvalidTopic::TooLong)
    } else if text.contains('\0') {
        Err(InvalidTopic::Nul)
    } else {
        Ok(())
    }
}

impl std::fmt::Display for TopicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
