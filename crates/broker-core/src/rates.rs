//! How fast identities publish where a rule limits it.

use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::slab::Key;
use midge_identity::SpiffeId;
use midge_policy::{Bucket, RateLimit, RateScope, RuleName};
use mqtt_proto::ReasonCode;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Buckets kept before those that are full again are forgotten.
const BUCKETS_MAX: usize = 16_384;

/// What a permit says about how fast, and by which rule.
pub(crate) type Limited = (RuleName, RateLimit);

/// Token buckets by rule, and by identity where each has its own.
#[derive(Debug, Default)]
pub(crate) struct Rates(HashMap<(RuleName, Option<Arc<SpiffeId>>), Levels>);

/// When each bucket will be full again, had nothing more been taken: a token bucket in one number.
#[derive(Clone, Copy, Debug, Default)]
struct Levels {
    messages: Duration,
    bytes: Duration,
}

/// How long it takes until a bucket is no longer overdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Debt {
    messages: Duration,
    bytes: Duration,
}

impl Rates {
    fn take(
        &mut self,
        (rule, limit): &Limited,
        identity: &Arc<SpiffeId>,
        bytes: usize,
        mono: Duration,
    ) -> Debt {
        if self.0.len() >= BUCKETS_MAX {
            self.0.retain(|_, levels| levels.messages.max(levels.bytes) > mono);
        }
        let levels = self.levels(rule, limit, identity);
        Debt {
            messages: take(limit.messages, &mut levels.messages, 1, mono),
            bytes: take(limit.bytes, &mut levels.bytes, bytes as u64, mono),
        }
    }

    fn levels(&mut self, rule: &RuleName, limit: &RateLimit, identity: &Arc<SpiffeId>) -> &mut Levels {
        let owner = (limit.scope == RateScope::Identity).then(|| Arc::clone(identity));
        self.0.entry((rule.clone(), owner)).or_default()
    }
}

impl Debt {
    fn wait(self) -> Duration {
        self.messages.max(self.bytes)
    }
}

fn take(bucket: Option<Bucket>, full_at: &mut Duration, count: u64, mono: Duration) -> Duration {
    let Some(bucket) = bucket else { return Duration::ZERO };
    let time = |count: u64| {
        let nanos = u128::from(count) * 1_000_000_000 / u128::from(bucket.per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    *full_at = (*full_at).max(mono).saturating_add(time(count));
    full_at.saturating_sub(mono).saturating_sub(time(bucket.burst.get().into()))
}

impl Broker {
    /// Counts a publication that was permitted. Beyond its rate a client is not read from for a while; one
    /// that gets so far ahead all the same that the while would be too long is cut.
    pub(crate) fn count_rate(&mut self, key: Key, limited: &Limited, bytes: usize, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let debt = self.rates.take(limited, &session.identity, bytes, now.mono);
        let wait = debt.wait();
        if wait.is_zero() {
            return;
        }
        if wait > self.config.rate_debt_max {
            let is_count = debt.messages >= debt.bytes;
            let code = if is_count { ReasonCode::MessageRateTooHigh } else { ReasonCode::QuotaExceeded };
            return self.cut(key, CloseReason::Protocol(code), now);
        }
        let Some(connection) = session.connection_mut() else { return };
        let until = now.mono.saturating_add(wait);
        connection.paused_until = until;
        self.paused_until = Some(until);
        self.out.metrics.throttled += 1;
    }

    /// Counts a will that was permitted, and tells whether it may go out. Nobody is left to wait: it goes out for
    /// as long again as a client may be made to wait, so that the will of one that was cut for its rate still does.
    /// A rate that identities share does not count wills: none can use up what others' wills need.
    pub(crate) fn count_will(
        &mut self,
        limited: &Limited,
        identity: &Arc<SpiffeId>,
        bytes: usize,
        now: Now,
    ) -> bool {
        let (rule, limit) = limited;
        if limit.scope == RateScope::Rule {
            return true;
        }
        let debt_max = self.config.rate_debt_max.saturating_mul(2);
        let before = *self.rates.levels(rule, limit, identity);
        let fits = self.rates.take(limited, identity, bytes, now.mono).wait() <= debt_max;
        if !fits {
            *self.rates.levels(rule, limit, identity) = before;
            self.out.metrics.dropped.will_too_fast += 1;
        }
        fits
    }
}
