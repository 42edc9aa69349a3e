//! A decision against a client: what was asked for, and why it was denied.

use crate::{Quantity, RuleName};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::fmt;
use std::sync::Arc;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// PUBLISH.
    Publish,
    /// A will, at CONNECT or when it fires.
    Will,
    /// SUBSCRIBE.
    Subscribe,
    /// Delivery of one message.
    Receive,
    /// CONNECT.
    Connect,
}

/// The topic, filter or client it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Of a publication, a will or a delivery.
    Topic(TopicName),
    /// Of a subscription.
    Filter(SharedFilter),
    /// The client id of a connection.
    Client(Arc<str>),
}

/// Why it was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenyReason {
    /// No rule allows it.
    NoRule,
    /// No rule allows this topic, which the filter covers.
    NotCovered {
        /// One topic that the identity has no right to.
        witness: TopicName,
    },
    /// A deny rule names the topic.
    Denied,
    /// A deny rule names this topic, which the filter covers.
    DeniedPart {
        /// One topic that is denied.
        witness: TopicName,
    },
    /// The rule allows a lower quality of service only.
    Qos {
        /// Quality of service of the publication.
        qos: QoS,
        /// The rule's `qos-max`.
        max: QoS,
    },
    /// The rule does not allow retained messages.
    Retain,
    /// The rule allows a shorter payload only.
    Payload {
        /// Length in bytes.
        len: usize,
        /// The rule's `payload-max` in bytes.
        max: usize,
    },
    /// The rule does not allow the topic to a will.
    Will,
    /// The publisher has no right of its own to the Response Topic that it names.
    ResponseTopic {
        /// The Response Topic.
        topic: TopicName,
    },
    /// The rule does not let join the share group.
    ShareGroup {
        /// Name of the group.
        group: Arc<str>,
    },
    /// Narrowed to what is allowed, the filter would fall into too many parts.
    TooManyParts {
        /// Most parts that are granted.
        max: usize,
    },
    /// The rule lets the identity, or its session, keep no more.
    Quota {
        /// Of what.
        of: Quantity,
        /// The rule's quota.
        max: usize,
    },
}

/// A decision against a client. [`fmt::Display`] tells an operator why; a client is told no more
/// than "not authorized".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was asked for.
    pub action: Action,
    /// What it was asked for.
    pub subject: Subject,
    /// Rule that denies, or that would allow but for its conditions.
    pub rule: Option<RuleName>,
    /// Why.
    pub reason: DenyReason,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish to",
            Self::Will => "a will on",
            Self::Subscribe => "subscribe to",
            Self::Receive => "receive",
            Self::Connect => "connect as",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(topic) => Quoted(topic.as_str()).fmt(f),
            Self::Filter(SharedFilter { group: None, filter }) => Quoted(filter.as_str()).fmt(f),
            Self::Filter(SharedFilter { group: Some(group), filter }) => {
                write!(f, "{} (shared by {})", Quoted(filter.as_str()), Quoted(group))
            }
            Self::Client(client_id) => Quoted(client_id).fmt(f),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, subject, .. } = self;
        let rule = Culprit(self.rule.as_ref());
        match &self.reason {
            DenyReason::NoRule => write!(f, "no rule allows {action} {subject}"),
            DenyReason::NotCovered { witness } => {
                write!(f, "no rule allows {}, which {action} {subject} includes", Quoted(witness.as_str()))
            }
            DenyReason::Denied => write!(f, "{rule} denies {action} {subject}"),
            DenyReason::DeniedPart { witness } => {
                write!(f, "{rule} denies {}, which {action} {subject} includes", Quoted(witness.as_str()))
            }
            DenyReason::Qos { qos, max } => {
                write!(
                    f,
                    "{rule} allows {action} {subject}, but qos {} is above qos-max {}",
                    *qos as u8, *max as u8
                )
            }
            DenyReason::Retain => write!(f, "{rule} allows {action} {subject}, but not retained"),
            DenyReason::Payload { len, max } => {
                write!(
                    f,
                    "{rule} allows {action} {subject}, but {len} bytes of payload are above payload-max {max}"
                )
            }
            DenyReason::ResponseTopic { topic } => {
                let topic = Quoted(topic.as_str());
                write!(f, "{rule} allows {action} {subject}, but not to name the response topic {topic}")
            }
            DenyReason::ShareGroup { group } => {
                write!(f, "{rule} allows {action} {subject}, but not in the share group {}", Quoted(group))
            }
            DenyReason::TooManyParts { max } => {
                write!(f, "what is allowed of {action} {subject} has more than {max} parts")
            }
            DenyReason::Will => write!(f, "{rule} allows to publish to {subject}, but not by a will"),
            DenyReason::Quota { of, max } => {
                write!(f, "to {action} {subject} would exceed the quota of {rule}: {} = {max}", of.key())
            }
        }
    }
}

struct Culprit<'a>(Option<&'a RuleName>);

impl fmt::Display for Culprit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rule) => write!(f, "rule {rule}"),
            None => f.write_str("policy"),
        }
    }
}

/// A client's text for an operator's log: bounded, and unable to forge a line or hide in it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 256;
        f.write_str("`")?;
        for char in self.0.chars().take(CHARS_MAX) {
            match char {
                '`' => f.write_str("\\`")?,
                '"' | '\'' => write!(f, "{char}")?,
                _ => write!(f, "{}", char.escape_debug())?,
            }
        }
        f.write_str(if self.0.chars().nth(CHARS_MAX).is_some() { "…`" } else { "`" })
    }
}
