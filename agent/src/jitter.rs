//! Randomness for spreading work over time; nothing secret comes from it.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// A seedable source of small deviations (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// Returns a source that gives the same sequence for the same seed.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a source with a seed of its own.
    pub(crate) fn random() -> Self {
        // The standard library seeds its hash maps from the system's randomness.
        Self(RandomState::new().hash_one(0))
    }

    /// Returns `duration` shortened or lengthened by up to 10 %.
    pub(crate) fn around(&mut self, duration: Duration) -> Duration {
        let permille = 900 + u32::try_from(self.next() % 201).unwrap_or(100);
        duration.saturating_mul(permille) / 1000
    }

    /// Returns how long to wait after so many failures in a row: `first`, then twice as long each
    /// time up to `longest`, ± 10 %.
    pub(crate) fn backoff(&mut self, failures: u32, first: Duration, longest: Duration) -> Duration {
        let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        self.around(doubled.min(longest))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_stay_within_ten_percent_and_differ() {
        let mut jitter = Jitter::seeded(7);
        let base = Duration::from_secs(1000);
        let all: Vec<Duration> = (0..1000).map(|_| jitter.around(base)).collect();
        assert!(all.iter().all(|one| (900..=1100).contains(&one.as_secs())));
        assert!(all.iter().any(|one| one.as_secs() < 920));
        assert!(all.iter().any(|one| one.as_secs() > 1080));
        let mut again = Jitter::seeded(7);
        assert_eq!(all, (0..1000).map(|_| again.around(base)).collect::<Vec<_>>());
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let mut jitter = Jitter::random();
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(10));
        for (failures, expected) in [(1, 100), (2, 200), (4, 800), (8, 10_000), (u32::MAX, 10_000)] {
            let waits = jitter.backoff(failures, first, longest).as_millis();
            assert!((expected * 9 / 10..=expected * 11 / 10).contains(&waits), "{failures}: {waits}");
        }
    }
}
