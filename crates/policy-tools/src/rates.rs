//! How fast a publication may be made that rules allow.

use midge_policy::{Bucket, PublishPermit, Rate};
use serde::Serialize;
use std::fmt;

/// A rate that counts for a publication, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateSaid {
    /// Name of the rule.
    pub rule: String,
    /// Where the rule stands.
    pub place: String,
    /// The rate, with its bursts.
    #[serde(flatten)]
    pub rate: Rate,
}

impl RateSaid {
    /// Returns the rates of a permit; none where a rule without one allows it too.
    pub(crate) fn of(permit: &PublishPermit) -> Vec<Self> {
        let per_second = |bucket: Option<Bucket>| bucket.map(|bucket| bucket.per_second.get());
        let burst = |bucket: Option<Bucket>| bucket.map(|bucket| bucket.burst.get());
        let rates = permit.rates().map(|(name, limit)| Self {
            rule: name.text().to_string(),
            place: name.source().to_string(),
            rate: Rate {
                messages_per_second: per_second(limit.messages),
                burst_messages: burst(limit.messages),
                bytes_per_second: per_second(limit.bytes),
                burst_bytes: burst(limit.bytes),
                per: limit.scope,
            },
        });
        rates.collect()
    }
}

impl fmt::Display for RateSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { messages_per_second, burst_messages, bytes_per_second, burst_bytes, per } = self.rate;
        let limit = |unit: &str, per_second: Option<u32>, burst: Option<u32>| {
            per_second.zip(burst).map(|(per_second, burst)| format!("{per_second} {unit}/s (burst {burst})"))
        };
        let limits = [
            limit("messages", messages_per_second, burst_messages),
            limit("B", bytes_per_second, burst_bytes),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        let whose = match per {
            midge_policy::RateScope::Identity => "each identity",
            midge_policy::RateScope::Rule => "all identities of the rule together",
        };
        write!(f, "{} for {whose} by `{}` ({})", limits.join(", "), self.rule, self.place)
    }
}
