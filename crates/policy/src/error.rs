//! Faults of policies, each with its place and the remedy.

use crate::RuleSource;
use crate::condition::ConditionFault;
use mqtt_proto::InvalidTopic;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A fault of a policy. Displays with its place, its rule and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Where it is; the line is that of the faulty value where it is known.
    pub place: RuleSource,
    /// Name of the rule it is in.
    pub rule: Option<Arc<str>>,
    /// What is wrong and what to do.
    pub problem: Problem,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, problem, .. } = self;
        let text = match &self.rule {
            Some(rule) => format!("{place}: rule `{rule}`: {problem}"),
            None => format!("{place}: {problem}"),
        };
        // A rule from elsewhere must not write lines of its own into this log.
        text.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_debug()) } else { f.write_char(c) }
        })
    }
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The text is not TOML, or has a key or a value that no rule has.
    #[error("{0}")]
    Syntax(String),
    /// The name cannot be told in a log line.
    #[error("a rule's name has 1 to 255 printable characters and no `; rename `{0}`")]
    Name(String),
    /// Two rules of one source have the same name.
    #[error("the name is also used at {0}; give each rule its own")]
    NameTwice(RuleSource),
    /// An identity pattern is not one.
    #[error("{key} = \"{pattern}\": {fault}")]
    Id {
        /// `id` or `unless`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        fault: IdFault,
    },
    /// A topic pattern is not one.
    #[error("{key}: \"{pattern}\": {fault}")]
    Topic {
        /// Key of the list it is in.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        fault: TopicFault,
    },
    /// No such quality of service.
    #[error("qos-max = {0}: must be 0, 1 or 2")]
    QosMax(u8),
    /// A condition is not one.
    #[error("{key} = {value}: {fault}")]
    Condition {
        /// Key of the condition.
        key: &'static str,
        /// The value, quoted when it is a text.
        value: String,
        /// What is wrong with it.
        fault: ConditionFault,
    },
    /// A client names its own id, so that a deny or a quota which hangs on it could be evaded.
    #[error("a client chooses its client id and could evade {0}; put it into a rule without client-id")]
    EvadableDeny(&'static str),
    /// A condition limits nothing.
    #[error("{condition} limits {limited} alone, and the rule has none; add {limited} or remove {condition}")]
    IdleCondition {
        /// Key of the condition.
        condition: &'static str,
        /// Keys it would limit.
        limited: &'static str,
    },
    /// The rule says nothing.
    #[error(
        "the rule names no topics; add publish, subscribe, receive, one of their deny- forms or a quota, or remove it"
    )]
    Empty,
}

impl Problem {
    /// The key at fault, and the text at fault where the key has a list.
    pub(crate) fn culprit(&self) -> Option<(&'static str, Option<&str>)> {
        match self {
            Self::Id { key, pattern, .. } | Self::Topic { key, pattern, .. } => Some((*key, Some(pattern))),
            Self::Name(_) => Some(("name", None)),
            Self::QosMax(_) => Some(("qos-max", None)),
            Self::Condition { key, value, .. } => {
                Some((*key, value.strip_prefix('"').and_then(|value| value.strip_suffix('"'))))
            }
            Self::EvadableDeny(key) => Some((*key, None)),
            Self::IdleCondition { condition, .. } => Some((*condition, None)),
            Self::Syntax(_) | Self::NameTwice(_) | Self::Empty => None,
        }
    }
}

/// What is wrong with an identity pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum IdFault {
    #[error("must start with spiffe://, such as \"spiffe://{{td}}/edge/{{node}}/app/*\"")]
    Scheme,
    #[error("trust domain `{0}` is neither a name nor * nor {{td}}")]
    TrustDomain(String),
    #[error("a segment is empty; remove the surplus /")]
    EmptySegment,
    #[error("`{0}` does not fill its segment; a wildcard or {{capture}} stands alone between slashes")]
    PartialSegment(String),
    #[error("segment `{0}` has characters that no SPIFFE ID has (letters, digits and . - _ are allowed)")]
    Segment(String),
    #[error("** stands for the rest of the path and must be last; use * for one segment")]
    RestNotLast,
    #[error("capture `{{{0}}}` needs a name of lower-case letters, digits, - and _")]
    CaptureName(String),
    #[error("capture `{{{0}}}` stands twice; give each its own name")]
    CaptureTwice(String),
    #[error("{{td}} is the trust domain; give the segment another name")]
    CaptureTd,
    #[error("capture `{{{0}}}` is not in id; use * or a capture of id")]
    Unbound(String),
}

/// What is wrong with a topic pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum TopicFault {
    #[error("{0}")]
    Filter(#[from] InvalidTopic),
    #[error("`{0}` does not fill its level; a {{capture}} stands alone between slashes")]
    PartialLevel(String),
    #[error("capture `{{{capture}}}` is not in id; it has {bound}")]
    Unbound { capture: String, bound: String },
    #[error("rights are checked without the share prefix; write the filter after $share/<group>/ alone")]
    Share,
    #[error("has more than {0} levels; shorten it or end it with #")]
    Deep(usize),
}
