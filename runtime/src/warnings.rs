//! Warnings that a peer can cause at will, without a full log.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lets the first occurrence of a warning through and then counts: what a peer can cause at will must not fill the log.
///
/// ```
/// # use std::time::Duration;
/// static REFUSED: midge_runtime::RateLimitedWarn = midge_runtime::RateLimitedWarn::new(Duration::from_secs(60));
/// if let Some(suppressed) = REFUSED.occurred() {
///     tracing::warn!(suppressed, "handshake refused");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimitedWarn {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimitedWarn {
    /// Returns a limit of one warning per `every`.
    pub const fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: None, suppressed: 0 }) }
    }

    /// Records an occurrence; when it is to be logged, returns how many were not since the last that was.
    pub fn occurred(&self) -> Option<u64> {
        self.occurred_at(Instant::now())
    }

    fn occurred_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_is_logged_then_one_per_interval_with_the_count_between() {
        let warn = RateLimitedWarn::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |secs| warn.occurred_at(start + Duration::from_secs(secs));
        assert_eq!(at(0), Some(0));
        assert_eq!([at(1), at(30), at(59)], [None, None, None]);
        assert_eq!(at(60), Some(3));
        assert_eq!(at(61), None);
        assert_eq!(at(500), Some(1));
    }
}
