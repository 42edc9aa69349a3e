//! Delays between retries.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Delays between retries: exponential up to a cap, with full jitter, so that peers that failed
/// together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempt: u32,
    random: u64,
}

impl Backoff {
    /// Returns a backoff whose n-th delay lies between zero and `first` × 2ⁿ, at most `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self::with_seed(first, cap, RandomState::new().build_hasher().finish())
    }

    /// Returns a backoff whose delays follow from `seed`.
    pub fn with_seed(first: Duration, cap: Duration, seed: u64) -> Self {
        Self { first, cap: cap.max(first), attempt: 0, random: seed }
    }

    /// Returns the next delay; each may be twice as long as the one before.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling =
            self.first.saturating_mul(1u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1).min(31);
        ceiling.mul_f64(self.fraction())
    }

    /// Starts over; called when an attempt has succeeded.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Attempts since the last success; stops counting at 31.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Waits for the next delay; false when `token` was cancelled meanwhile.
    pub async fn wait(&mut self, token: &CancellationToken) -> bool {
        let delay = self.next_delay();
        token.run_until_cancelled(tokio::time::sleep(delay)).await.is_some()
    }

    /// SplitMix64: spreading retries needs no unpredictability.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(5);

    #[test]
    fn delays_stay_under_a_doubling_ceiling_and_the_cap() {
        for seed in 0..200 {
            let mut backoff = Backoff::with_seed(FIRST, CAP, seed);
            for attempt in 0..40u32 {
                let ceiling = CAP.min(FIRST * 2u32.pow(attempt.min(10)));
                assert!(backoff.next_delay() <= ceiling, "seed {seed} attempt {attempt}");
            }
        }
    }

    #[test]
    fn jitter_uses_the_whole_range() {
        let mut late = Vec::new();
        for seed in 0..400 {
            let mut backoff = Backoff::with_seed(FIRST, CAP, seed);
            skip(&mut backoff, 10);
            late.push(backoff.next_delay());
        }
        for quarter in 0..4u32 {
            let range = CAP / 4 * quarter..CAP / 4 * (quarter + 1);
            let hits = late.iter().filter(|delay| range.contains(*delay)).count();
            assert!((60..=140).contains(&hits), "quarter {quarter}: {hits} of 400");
        }
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::with_seed(FIRST, CAP, 7);
        skip(&mut backoff, 20);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert!(backoff.next_delay() <= FIRST);
    }

    #[test]
    fn two_backoffs_differ() {
        let mut delays = [Backoff::new(CAP, CAP), Backoff::new(CAP, CAP)];
        assert_ne!(delays[0].next_delay(), delays[1].next_delay());
    }

    #[tokio::test]
    async fn wait_ends_at_cancellation() {
        let token = CancellationToken::new();
        token.cancel();
        let mut backoff = Backoff::new(Duration::from_secs(3600), Duration::from_secs(3600));
        assert!(!backoff.wait(&token).await);
    }

    fn skip(backoff: &mut Backoff, delays: u32) {
        for _ in 0..delays {
            assert!(backoff.next_delay() <= CAP);
        }
    }
}
