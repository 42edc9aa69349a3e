//! Topic names and topic filters that cannot hold an invalid value.

use std::sync::Arc;

/// What a filter of a share group begins with.
const SHARE: &str = "$share/";

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
#[derive(Clone, Debug, Eq, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

// Most that are compared are the very same, which needs no look at the text.
impl PartialEq for TopicName {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl std::hash::Hash for TopicName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

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
        if text.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
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

/// Topic names are in the order of their texts.
impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
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
        let Some(rest) = text.strip_prefix(SHARE) else {
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

impl SharedFilter {
    /// Parses a filter of MQTT 3.1.1, which knows no share groups: `$share/` that no group and filter follow is a filter
    /// like any other there ([`Self::names_no_group`]).
    ///
    /// # Errors
    /// When the filter is not valid, in or without a group.
    pub fn new_v311(text: &str) -> Result<Self, InvalidTopic> {
        match Self::new(text) {
            Err(InvalidTopic::Share) => Ok(Self { group: None, filter: TopicFilter::new(text)? }),
            parsed => parsed,
        }
    }

    /// Tells whether this asks for a share group and names none as MQTT 5.0 §4.8.2 wants it.
    pub fn names_no_group(&self) -> bool {
        self.group.is_none() && self.filter.as_str().starts_with(SHARE)
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

impl std::fmt::Display for SharedFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.group {
            None => self.filter.fmt(f),
            Some(group) => write!(f, "$share/{group}/{}", self.filter),
        }
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_have_no_wildcards() {
        for name in ["a", "/", "//", "a/b", "/a", "a/", "$SYS/x", " ", "\u{FEFF}", "Accounts payable"] {
            assert_eq!(TopicName::new(name).unwrap().as_str(), name);
        }
        for (name, error) in [
            ("", InvalidTopic::Empty),
            ("+", InvalidTopic::Wildcard),
            ("a/#", InvalidTopic::Wildcard),
            ("a+", InvalidTopic::Wildcard),
            ("a\0", InvalidTopic::Nul),
        ] {
            assert_eq!(TopicName::new(name), Err(error), "{name:?}");
        }
        assert!(TopicName::new("a".repeat(65_535)).is_ok());
        assert_eq!(TopicName::new("a".repeat(65_536)), Err(InvalidTopic::TooLong));
    }

    #[test]
    fn wildcards_fill_their_level() {
        for filter in ["#", "+", "+/+", "/+", "+/", "a/#", "+/#", "a/+/b", "$SYS/#", "a//#"] {
            assert_eq!(TopicFilter::new(filter).unwrap().to_string(), filter);
        }
        for (filter, error) in [
            ("", InvalidTopic::Empty),
            ("a#", InvalidTopic::MultiLevel),
            ("#/a", InvalidTopic::MultiLevel),
            ("a/#/b", InvalidTopic::MultiLevel),
            ("##", InvalidTopic::MultiLevel),
            ("#/", InvalidTopic::MultiLevel),
            ("a+", InvalidTopic::SingleLevel),
            ("+a/b", InvalidTopic::SingleLevel),
            ("++", InvalidTopic::SingleLevel),
            ("+#", InvalidTopic::MultiLevel),
            ("a\0", InvalidTopic::Nul),
        ] {
            assert_eq!(TopicFilter::new(filter), Err(error), "{filter:?}");
        }
    }

    #[test]
    fn shared_filters_have_a_group_and_a_filter() {
        let shared = SharedFilter::new("$share/g/a/+").unwrap();
        assert_eq!((shared.group.as_deref(), shared.filter.as_str()), (Some("g"), "a/+"));
        assert_eq!(shared.to_string(), "$share/g/a/+");
        let leading_slash = SharedFilter::new("$share/g//a").unwrap();
        assert_eq!(leading_slash.filter.as_str(), "/a");
        for plain in ["$share", "$shared/g/a", "a/$share/g", "$SHARE/g/a"] {
            assert_eq!(SharedFilter::new(plain).unwrap().group, None, "{plain}");
        }
        for broken in
            ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/#", "$share/g+/a"]
        {
            assert_eq!(SharedFilter::new(broken), Err(InvalidTopic::Share), "{broken}");
        }
        // Of these 3.1.1 knows no more than that some are no filters.
        for plain in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/#"] {
            let filter = SharedFilter::new_v311(plain).unwrap();
            assert!(filter.names_no_group() && filter.to_string() == plain, "{plain}");
        }
        assert_eq!(SharedFilter::new_v311("$share/g+/a"), Err(InvalidTopic::SingleLevel));
        for filter in ["$share/g/a", "$share", "$shared/a", "a"] {
            let parsed = SharedFilter::new(filter).unwrap();
            assert!(!parsed.names_no_group());
            assert_eq!(SharedFilter::new_v311(filter), Ok(parsed));
        }
        assert_eq!(SharedFilter::new("$share/g/a#"), Err(InvalidTopic::MultiLevel));
    }

    /// MQTT 5.0 §4.7.1 and §4.7.2, every example of the standard.
    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("a", "/a", false),
            ("a/#", "ab", false),
            ("#", "/", true),
        ] {
            let matches = TopicFilter::new(filter).unwrap().matches(&TopicName::new(topic).unwrap());
            assert_eq!(matches, expected, "{filter} on {topic}");
        }
    }
}
