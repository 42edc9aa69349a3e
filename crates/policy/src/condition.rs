//! Conditions of a rule that are more than a number: how fast, how durable, and what a full queue does.

use crate::quota::Quantity;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// `rate` of a rule as the policy spells it. Counts publications that the rule permits and the
/// bytes of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rate {
    /// Publications a second, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_per_second: Option<u32>,
    /// Publications at once after a pause, from 1; a second's worth unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_messages: Option<u32>,
    /// Bytes of payload a second, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u32>,
    /// Bytes of payload at once after a pause, from 1; a second's worth unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// Whose publications count together.
    #[serde(default)]
    pub per: RateScope,
}

/// Whose publications count together against a [`Rate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateScope {
    /// Each identity has the rate for itself, over all its connections.
    #[default]
    Identity,
    /// All identities of the rule share it.
    Rule,
}

/// A checked [`Rate`]. Whoever keeps the buckets keys them by the rule's name, and by the identity
/// as well unless the scope is [`RateScope::Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Publications; `None` does not limit them.
    pub messages: Option<Bucket>,
    /// Bytes of payload; `None` does not limit them.
    pub bytes: Option<Bucket>,
    /// Whose publications count together.
    pub scope: RateScope,
}

/// A token bucket: filled at a rate, and never above its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Units gained a second.
    pub per_second: NonZeroU32,
    /// Most units it holds.
    pub burst: NonZeroU32,
}

/// What state survives, and before that a publication is not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nothing: it ends with the process, and is acknowledged as soon as it is handed on.
    #[default]
    None,
    /// The end of the broker's process, by any signal or panic.
    ProcessCrash,
    /// Loss of power at any moment.
    PowerLoss,
}

/// What happens when a message finds the queue of a session full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueOverflow {
    /// The message is dropped. Said by a rule for subscribers.
    DropNewest,
    /// The message that waits longest is dropped. Said by a rule for subscribers.
    DropOldest,
    /// The publication is refused, so that its publisher knows. Said by a rule for publishers: it
    /// is their message that is at stake, and no slow subscriber can have others refused.
    Refuse,
    /// Every publication that finds the queue of this subscriber full is refused, whatever the publisher's rule says.
    /// Said by a rule for subscribers that publishers depend on and that whoever writes the rules trusts not to hold
    /// others up, such as the event bus.
    RefusePublishers,
}

/// Names of the listeners that a broker has: whatever a rule says of another would never hold, and be a deny
/// that denies nothing.
pub const LISTENERS: [&str; 5] = ["tls", "tcp", "unix", "websocket-tls", "websocket-loopback"];

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum ConditionFault {
    #[error("limits nothing; add messages-per-second or bytes-per-second")]
    NoRate,
    #[error("limits nothing; add {}", quantities())]
    NoQuota,
    #[error("{0} = 0 would let nothing pass; give at least 1")]
    Zero(&'static str),
    #[error("{burst} has no {rate} to refill it; add {rate} or remove {burst}")]
    LoneBurst { burst: &'static str, rate: &'static str },
    #[error("a payload of payload-max = {payload} bytes never fits a burst of {burst}; raise burst-bytes")]
    BurstBelowPayload { burst: u32, payload: u32 },
    #[error("is neither a group's name (without / + #) nor * nor a {{capture}}")]
    ShareGroup,
    #[error("capture `{{{capture}}}` is not in id; it has {bound}")]
    Unbound { capture: String, bound: String },
    #[error("a client id is empty, a brace is not closed, or * is not last")]
    ClientId,
    #[error("is none of {}", LISTENERS.join(", "))]
    Listener,
}

fn quantities() -> String {
    Quantity::ALL.map(Quantity::key).join(" or ")
}

impl Rate {
    /// Returns the limit it stands for.
    pub(crate) fn check(&self, payload_max: Option<u32>) -> Result<RateLimit, ConditionFault> {
        let messages =
            bucket(self.messages_per_second, self.burst_messages, "messages-per-second", "burst-messages")?;
        let bytes = bucket(self.bytes_per_second, self.burst_bytes, "bytes-per-second", "burst-bytes")?;
        if messages.is_none() && bytes.is_none() {
            return Err(ConditionFault::NoRate);
        }
        if let (Some(Bucket { burst, .. }), Some(payload)) = (bytes, payload_max)
            && burst.get() < payload
        {
            return Err(ConditionFault::BurstBelowPayload { burst: burst.get(), payload });
        }
        Ok(RateLimit { messages, bytes, scope: self.per })
    }
}

fn bucket(
    rate: Option<u32>,
    burst: Option<u32>,
    rate_key: &'static str,
    burst_key: &'static str,
) -> Result<Option<Bucket>, ConditionFault> {
    let Some(rate) = rate else {
        return match burst {
            None => Ok(None),
            Some(_) => Err(ConditionFault::LoneBurst { burst: burst_key, rate: rate_key }),
        };
    };
    let per_second = NonZeroU32::new(rate).ok_or(ConditionFault::Zero(rate_key))?;
    let burst = NonZeroU32::new(burst.unwrap_or(rate)).ok_or(ConditionFault::Zero(burst_key))?;
    Ok(Some(Bucket { per_second, burst }))
}
