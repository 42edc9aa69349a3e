//! `quota` of a rule: how much one identity, or one session of it, may keep. The smallest of several holds.

use crate::condition::ConditionFault;
use serde::{Deserialize, Serialize};

/// `quota` of a rule as the policy spells it. Each is from 1; what is absent is not limited by this rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Quota {
    /// Sessions of one identity, connected or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Subscriptions of one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u32>,
    /// Retained messages that one identity has published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_messages: Option<u32>,
    /// Bytes of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u32>,
    /// Messages that wait for one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_messages: Option<u32>,
    /// Bytes of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u32>,
}

/// What a [`Quota`] limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// `sessions`.
    Sessions,
    /// `subscriptions`.
    Subscriptions,
    /// `retained-messages`.
    RetainedMessages,
    /// `retained-bytes`.
    RetainedBytes,
    /// `queue-messages`.
    QueueMessages,
    /// `queue-bytes`.
    QueueBytes,
}

impl Quantity {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 6] = [
        Self::Sessions,
        Self::Subscriptions,
        Self::RetainedMessages,
        Self::RetainedBytes,
        Self::QueueMessages,
        Self::QueueBytes,
    ];

    /// Returns its key in `quota`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Subscriptions => "subscriptions",
            Self::RetainedMessages => "retained-messages",
            Self::RetainedBytes => "retained-bytes",
            Self::QueueMessages => "queue-messages",
            Self::QueueBytes => "queue-bytes",
        }
    }
}

impl Quota {
    /// Returns how much of something the rule leaves to one identity or session, if it says so.
    pub fn of(&self, quantity: Quantity) -> Option<u32> {
        match quantity {
            Quantity::Sessions => self.sessions,
            Quantity::Subscriptions => self.subscriptions,
            Quantity::RetainedMessages => self.retained_messages,
            Quantity::RetainedBytes => self.retained_bytes,
            Quantity::QueueMessages => self.queue_messages,
            Quantity::QueueBytes => self.queue_bytes,
        }
    }

    pub(crate) fn faults(&self) -> Vec<ConditionFault> {
        let mut said = Quantity::ALL.into_iter().filter_map(|of| Some((of, self.of(of)?))).peekable();
        if said.peek().is_none() {
            return vec![ConditionFault::NoQuota];
        }
        said.filter(|(_, max)| *max == 0).map(|(of, _)| ConditionFault::Zero(of.key())).collect()
    }
}

/// The smallest quota of everything, and the place of the rule that gives it: of several, the first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Smallest([Option<(u32, u32)>; Quantity::ALL.len()]);

impl Smallest {
    pub(crate) fn add(&mut self, quota: &Quota, rule: u32) {
        for (of, known) in Quantity::ALL.into_iter().zip(&mut self.0) {
            if let Some(max) = quota.of(of).filter(|max| known.is_none_or(|(known, _)| *max < known)) {
                *known = Some((max, rule));
            }
        }
    }

    pub(crate) fn of(&self, quantity: Quantity) -> Option<(u32, u32)> {
        self.0.get(quantity as usize).copied().flatten()
    }
}
