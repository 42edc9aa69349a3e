//! The clock of a process, with the floor below which it cannot be right.

use midge_identity::UnixMillis;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far the wall clock may lie behind the floor before it is called wrong: time services step
/// back by less when they correct a drift.
const BEHIND_TOLERANCE: Duration = Duration::from_secs(5);

/// The wall clock, with a floor it cannot be below: a board without a battery starts in the past,
/// where expired certificates would be valid again. From the floor on, time advances with the
/// monotonic clock until the wall clock has caught up. Clones share the floor.
#[derive(Clone)]
pub struct Clock {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    floor: Mutex<Option<Floor>>,
}

enum Source {
    System { offset_millis: i64, started: Instant },
    Manual { wall_millis: AtomicU64, elapsed_millis: AtomicU64 },
}

#[derive(Clone, Copy)]
struct Floor {
    at: UnixMillis,
    raised: Duration,
}

impl Clock {
    /// Returns the clock of the operating system.
    pub fn system() -> Self {
        Self::with_offset_millis(0)
    }

    /// Returns the clock of the operating system, moved by so many milliseconds.
    pub fn with_offset_millis(offset_millis: i64) -> Self {
        Self::from_source(Source::System { offset_millis, started: Instant::now() })
    }

    /// Returns a clock that stands at `now` until it is moved.
    pub fn manual(now: UnixMillis) -> Self {
        Self::from_source(Source::Manual {
            wall_millis: AtomicU64::new(now.0),
            elapsed_millis: AtomicU64::new(0),
        })
    }

    fn from_source(source: Source) -> Self {
        Self { shared: Arc::new(Shared { source, floor: Mutex::new(None) }) }
    }

    /// Current time; never before the floor.
    pub fn now(&self) -> UnixMillis {
        self.wall().max(self.lowest())
    }

    /// For how long a reading stands: less than a step of it, and not at all where the clock is moved by hand.
    pub fn step(&self) -> Duration {
        match &self.shared.source {
            Source::System { .. } => Duration::from_millis(1),
            Source::Manual { .. } => Duration::ZERO,
        }
    }

    /// Time since the clock was made, unaffected by changes of the wall clock.
    pub fn elapsed(&self) -> Duration {
        match &self.shared.source {
            Source::System { started, .. } => started.elapsed(),
            Source::Manual { elapsed_millis, .. } => {
                Duration::from_millis(elapsed_millis.load(Ordering::Acquire))
            }
        }
    }

    /// Raises the floor to `at`, a time known to have passed, such as the last one on disk; a lower one changes nothing.
    pub fn raise_floor(&self, at: UnixMillis) {
        let raised = self.elapsed();
        let mut floor = self.shared.floor.lock();
        if floor.is_none_or(|floor| floor.lowest(raised) < at) {
            *floor = Some(Floor { at, raised });
        }
    }

    /// How far the wall clock lies behind the floor.
    pub fn behind_by(&self) -> Duration {
        self.lowest().since(self.wall())
    }

    /// Whether the wall clock is wrong: more than five seconds behind the floor.
    pub fn is_behind(&self) -> bool {
        self.behind_by() > BEHIND_TOLERANCE
    }

    /// Moves a manual clock on; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { wall_millis, elapsed_millis } = &self.shared.source {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            wall_millis.fetch_add(by, Ordering::AcqRel);
            elapsed_millis.fetch_add(by, Ordering::AcqRel);
        }
    }

    /// Sets a manual clock's wall time, also backwards, with no time passing; does nothing to the system's.
    pub fn step_to(&self, now: UnixMillis) {
        if let Source::Manual { wall_millis, .. } = &self.shared.source {
            wall_millis.store(now.0, Ordering::Release);
        }
    }

    fn wall(&self) -> UnixMillis {
        match &self.shared.source {
            Source::System { offset_millis, .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                UnixMillis(millis.saturating_add_signed(*offset_millis))
            }
            Source::Manual { wall_millis, .. } => UnixMillis(wall_millis.load(Ordering::Acquire)),
        }
    }

    fn lowest(&self) -> UnixMillis {
        let floor = *self.shared.floor.lock();
        floor.map_or(UnixMillis(0), |floor| floor.lowest(self.elapsed()))
    }
}

impl Floor {
    fn lowest(self, elapsed: Duration) -> UnixMillis {
        self.at.after(elapsed.saturating_sub(self.raised))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clock").field("now", &self.now()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_the_past_runs_on_from_the_floor_until_it_has_caught_up() {
        let clock = Clock::manual(UnixMillis::from_secs(1_000));
        clock.raise_floor(UnixMillis::from_secs(5_000));
        assert!(clock.is_behind());
        assert_eq!(clock.behind_by(), Duration::from_secs(4_000));
        clock.advance(Duration::from_secs(60));
        assert_eq!(clock.now(), UnixMillis::from_secs(5_060));

        clock.step_to(UnixMillis::from_secs(9_000));
        assert!(!clock.is_behind());
        assert_eq!(clock.now(), UnixMillis::from_secs(9_000));
    }

    #[test]
    fn a_step_back_while_running_is_seen_and_not_followed() {
        let clock = Clock::manual(UnixMillis::from_secs(5_000));
        clock.raise_floor(clock.now());
        clock.advance(Duration::from_secs(30));
        clock.step_to(UnixMillis::from_secs(10));
        assert!(clock.is_behind());
        assert_eq!(clock.now(), UnixMillis::from_secs(5_030));
    }

    #[test]
    fn a_small_correction_is_no_wrong_clock() {
        let clock = Clock::manual(UnixMillis::from_secs(5_000));
        clock.raise_floor(clock.now());
        clock.step_to(UnixMillis::from_secs(4_996));
        assert!(!clock.is_behind());
        assert_eq!(clock.now(), UnixMillis::from_secs(5_000));
    }

    #[test]
    fn a_floor_is_never_lowered() {
        let clock = Clock::manual(UnixMillis::from_secs(1));
        clock.raise_floor(UnixMillis::from_secs(5_000));
        clock.advance(Duration::from_secs(10));
        clock.raise_floor(UnixMillis::from_secs(5_005));
        assert_eq!(clock.now(), UnixMillis::from_secs(5_010));
    }

    #[test]
    fn clones_share_floor_and_time() {
        let clock = Clock::manual(UnixMillis(7));
        let other = clock.clone();
        other.advance(Duration::from_millis(3));
        clock.raise_floor(UnixMillis(50));
        assert_eq!((clock.elapsed(), other.now()), (Duration::from_millis(3), UnixMillis(50)));
    }

    #[test]
    fn an_offset_moves_the_system_clock_both_ways() {
        let now = Clock::system().now();
        let hour = 3_600_000;
        let ahead = Clock::with_offset_millis(hour).now().since(now);
        let behind = now.since(Clock::with_offset_millis(-hour).now());
        for distance in [ahead, behind] {
            assert!(distance.abs_diff(Duration::from_secs(3600)) < Duration::from_secs(60), "{distance:?}");
        }
    }
}
