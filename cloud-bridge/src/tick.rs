//! The clock of one session as the core wants it.

use bridge_core::Now;
use midge_runtime::Clock;
use std::time::Duration;
use tokio::time::Instant;

/// Monotonic time from its making on, and the wall clock.
pub(crate) struct Tick {
    start: Instant,
    clock: Clock,
}

impl Tick {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { start: Instant::now(), clock }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.start.elapsed(), wall: self.clock.now() }
    }

    /// The instant of a core's deadline; a day away when there is none.
    pub(crate) fn deadline(&self, due: Option<Duration>) -> Instant {
        self.start + due.unwrap_or_else(|| self.start.elapsed().saturating_add(Duration::from_secs(86_400)))
    }
}
