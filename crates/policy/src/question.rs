//! A request as a value, to be put to the rights of more than one policy.

use crate::{Action, Denial, PublishFacts, Rights, RuleName, Subject, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// To publish.
    Publish {
        /// Topic.
        topic: &'a TopicName,
        /// What else there is to say of the publication.
        facts: PublishFacts<'a>,
    },
    /// To leave a will, or to have it published.
    Will {
        /// Topic.
        topic: &'a TopicName,
        /// What else there is to say of the will.
        facts: PublishFacts<'a>,
    },
    /// To subscribe.
    Subscribe {
        /// The filter.
        filter: &'a SharedFilter,
        /// Requested quality of service.
        qos: QoS,
        /// What becomes of it if it is allowed in part.
        mode: SubscribeMode,
    },
    /// To be given a message.
    Receive {
        /// Its topic.
        topic: &'a TopicName,
        /// Share group that the message is for.
        group: Option<&'a str>,
    },
}

impl Question<'_> {
    /// Puts the question; returns the rule that allows it.
    ///
    /// # Errors
    /// When it is denied.
    pub fn put(&self, rights: &Rights) -> Result<RuleName, Denial> {
        match *self {
            Self::Publish { topic, facts } => rights.publish(topic, facts).map(|p| p.rule_name().clone()),
            Self::Will { topic, facts } => rights.will(topic, facts).map(|p| p.rule_name().clone()),
            Self::Subscribe { filter, qos, mode } => {
                rights.subscribe(filter, qos, mode).map(|permit| permit.rule_name().clone())
            }
            Self::Receive { topic, group: None } => rights.receive(topic).map(|permit| permit.rule().clone()),
            Self::Receive { topic, group: Some(group) } => {
                rights.receive_shared(topic, group).map(|permit| permit.rule().clone())
            }
        }
    }

    /// Returns what is asked for.
    pub fn action(&self) -> Action {
        match self {
            Self::Publish { .. } => Action::Publish,
            Self::Will { .. } => Action::Will,
            Self::Subscribe { .. } => Action::Subscribe,
            Self::Receive { .. } => Action::Receive,
        }
    }

    /// Returns the topic or filter it is asked for.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Publish { topic, .. } | Self::Will { topic, .. } | Self::Receive { topic, .. } => {
                Subject::Topic((*topic).clone())
            }
            Self::Subscribe { filter, .. } => Subject::Filter((*filter).clone()),
        }
    }
}
