//! How fast identities publish where a rule limits it.

use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::slab::Key;
use midge_identity::SpiffeId;
use midge_policy::{Bucket, PublishPermit, RateLimit, RateScope, RuleKey};
use mqtt_proto::ReasonCode;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Buckets that are looked at for each new one: with more than one, those that are full again become fewer however many
/// come, and no publication pays for more than these.
const LOOKED_AT: usize = 2;

/// What a permit says about how fast, and by which rule.
pub(crate) type Limited = (RuleKey, RateLimit);

/// Returns how fast the rules that allow a publication let publish; none where one sets no rate.
pub(crate) fn limited(permit: &PublishPermit) -> Box<[Limited]> {
    permit.rates().map(|(rule, limit)| (RuleKey::of(rule), *limit)).collect()
}

/// Whose bucket: a rule's, and an identity's where each has its own.
type Owner = (RuleKey, Option<Arc<SpiffeId>>);

/// Token buckets by rule, and by identity where each has its own.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// Those that are not full, and some that are full again: about as many at most.
    buckets: HashMap<Owner, Levels>,
    /// Each of them once, in the order in which they are looked at.
    turns: VecDeque<Owner>,
}

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

/// A bucket out of which something may be taken, and what becomes of it then.
struct Taking {
    bucket: Owner,
    levels: Levels,
    debt: Debt,
    /// What the publication would owe by itself, of a full bucket.
    alone: Duration,
    scope: RateScope,
}

impl Rates {
    /// Chooses the bucket with room for a publication, the first of several, or else that which has it soonest.
    fn choose(
        &self,
        limited: &[Limited],
        identity: &Arc<SpiffeId>,
        bytes: usize,
        mono: Duration,
    ) -> Option<Taking> {
        let after = |limit: &RateLimit, mut levels: Levels| {
            let debt = Debt {
                messages: take(limit.messages, &mut levels.messages, 1, mono),
                bytes: take(limit.bytes, &mut levels.bytes, bytes as u64, mono),
            };
            (levels, debt)
        };
        let takings = limited.iter().map(|(rule, limit)| {
            let owner = (limit.scope == RateScope::Identity).then(|| Arc::clone(identity));
            let bucket = (rule.clone(), owner);
            let (levels, debt) = after(limit, self.buckets.get(&bucket).copied().unwrap_or_default());
            let alone = after(limit, Levels::default()).1.wait();
            Taking { bucket, levels, debt, alone, scope: limit.scope }
        });
        takings.min_by_key(|taking| taking.debt.wait())
    }

    fn take(&mut self, taking: Taking, mono: Duration) {
        if let Some(levels) = self.buckets.get_mut(&taking.bucket) {
            *levels = taking.levels;
            return;
        }
        for _ in 0..LOOKED_AT {
            let Some(owner) = self.turns.pop_front() else { break };
            if self.buckets.get(&owner).is_some_and(|levels| levels.messages.max(levels.bytes) > mono) {
                self.turns.push_back(owner);
            } else {
                // A full one is as if it were not there.
                self.buckets.remove(&owner);
            }
        }
        self.turns.push_back(taking.bucket.clone());
        self.buckets.insert(taking.bucket, taking.levels);
    }
}

impl Levels {
    /// Returns them with no longer a debt than this.
    fn owing_at_most(self, most: Duration, debt: Debt) -> Self {
        Self {
            messages: self.messages.saturating_sub(debt.messages.saturating_sub(most)),
            bytes: self.bytes.saturating_sub(debt.bytes.saturating_sub(most)),
        }
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
    /// that gets so far ahead all the same that the while would be too long is cut, and what it is cut for is not counted.
    /// Nobody is cut for what others have used up of a rate that they share: it waits as long as anybody may have to.
    pub(crate) fn count_rate(&mut self, key: Key, limited: &[Limited], bytes: usize, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(mut taking) = self.rates.choose(limited, &session.identity, bytes, now.mono) else { return };
        let debt_max = self.config.rate_debt_max;
        let owes = match taking.scope {
            RateScope::Identity => taking.debt.wait(),
            RateScope::Rule => taking.alone,
        };
        if owes > debt_max {
            let is_count = taking.debt.messages >= taking.debt.bytes;
            let code = if is_count { ReasonCode::MessageRateTooHigh } else { ReasonCode::QuotaExceeded };
            return self.cut(key, CloseReason::Protocol(code), now);
        }
        let wait = taking.debt.wait().min(debt_max);
        taking.levels = taking.levels.owing_at_most(debt_max, taking.debt);
        self.rates.take(taking, now.mono);
        let Some(connection) = session.connection_mut().filter(|_| !wait.is_zero()) else { return };
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
        limited: &[Limited],
        identity: &Arc<SpiffeId>,
        bytes: usize,
        now: Now,
    ) -> bool {
        let is_shared = |(_, limit): &Limited| limit.scope == RateScope::Rule;
        if limited.iter().any(is_shared) {
            return true;
        }
        let Some(taking) = self.rates.choose(limited, identity, bytes, now.mono) else { return true };
        let fits = taking.debt.wait() <= self.config.rate_debt_max.saturating_mul(2);
        if fits {
            self.rates.take(taking, now.mono);
        } else {
            self.out.metrics.dropped.will_too_fast += 1;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_policy::{Policy, PublishFacts};
    use mqtt_proto::TopicName;

    const RULE: &str = "[[rule]]\nname = \"a\"\nid = \"spiffe://td/*\"\npublish = [\"x\"]\nrate = { messages-per-second = 1 }\n";

    /// Has identities publish once each.
    fn publish(rates: &mut Rates, identities: std::ops::Range<u32>, secs: u64) {
        let policy = Policy::from_toml_str(RULE, "a.toml").unwrap();
        let id = |number: u32| Arc::new(SpiffeId::new(format!("spiffe://td/{number}")).unwrap());
        let rights = policy.rights(&id(0));
        let permit = rights.publish(&TopicName::new("x").unwrap(), PublishFacts::default()).unwrap();
        let (limited, mono) = (limited(&permit), Duration::from_secs(secs));
        for number in identities {
            let taking = rates.choose(&limited, &id(number), 1, mono).unwrap();
            rates.take(taking, mono);
        }
    }

    #[test]
    fn no_publication_pays_for_the_buckets_of_many_others_and_those_that_are_full_again_go() {
        let mut rates = Rates::default();
        publish(&mut rates, 0..20_000, 0);
        assert_eq!(rates.buckets.len(), 20_000, "none is full again");
        publish(&mut rates, 5..6, 0);
        assert_eq!(rates.buckets.len(), 20_000);
        // Now all are, and none but a few are looked at by whoever comes next.
        publish(&mut rates, 20_000..20_001, 10);
        assert_eq!(rates.buckets.len(), 20_001 - LOOKED_AT);
        publish(&mut rates, 20_001..30_000, 10);
        assert_eq!(rates.buckets.len(), 10_000, "those of before are gone");
        for round in 2..20 {
            publish(&mut rates, 0..10_000, round * 10);
        }
        assert!(rates.buckets.len() <= 20_000);
        assert_eq!(rates.buckets.len(), rates.turns.len());
    }
}
