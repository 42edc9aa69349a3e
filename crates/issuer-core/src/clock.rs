//! The time below which the clock cannot be right.
//!
//! A box without a battery-backed clock starts in the past, where what has expired looks valid. Time
//! therefore never goes below the last that was saved.

use midge_identity::UnixMillis;
use std::time::Duration;

/// How often the floor is worth saving: what a power cut can lose of it.
pub const FLOOR_SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Steps back up to this are ordinary clock discipline, not worth an alarm.
pub const BEHIND_TOLERANCE: Duration = Duration::from_secs(10);

/// The latest time ever seen and the latest that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockFloor {
    seen: UnixMillis,
    saved: Option<UnixMillis>,
}

/// The time to act on, and how far the wall clock is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Never below any time seen before.
    pub now: UnixMillis,
    /// Zero when the clock is right.
    pub behind: Duration,
}

impl ClockReading {
    /// Tells whether the wall clock is further behind than clock discipline explains.
    pub fn is_behind(&self) -> bool {
        self.behind > BEHIND_TOLERANCE
    }
}

impl ClockFloor {
    /// Returns the floor as the disk has it, if it has one.
    pub fn new(saved: Option<UnixMillis>) -> Self {
        Self { seen: saved.unwrap_or_default(), saved }
    }

    /// Returns the latest time ever seen.
    pub fn seen(&self) -> UnixMillis {
        self.seen
    }

    /// Raises the floor to a time that is certainly past, such as a trusted certificate's notBefore.
    pub fn raise(&mut self, time: UnixMillis) {
        self.seen = self.seen.max(time);
    }

    /// Takes the wall clock's word, as far as it can be right.
    pub fn observe(&mut self, wall: UnixMillis) -> ClockReading {
        let behind = self.seen.since(wall);
        self.raise(wall);
        ClockReading { now: self.seen, behind }
    }

    /// Returns the floor if it is time to save it.
    pub fn due(&self) -> Option<UnixMillis> {
        match self.saved {
            Some(saved) if self.seen.since(saved) < FLOOR_SAVE_INTERVAL => None,
            Some(_) | None => Some(self.seen),
        }
    }

    /// Notes that this time is on disk.
    pub fn handle_saved(&mut self, time: UnixMillis) {
        self.saved = Some(self.saved.unwrap_or_default().max(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_starts_in_the_past_is_held_at_the_saved_time() {
        let mut floor = ClockFloor::new(Some(UnixMillis::from_secs(1_000)));
        let reading = floor.observe(UnixMillis::from_secs(0));
        assert_eq!(reading.now, UnixMillis::from_secs(1_000));
        assert_eq!(reading.behind, Duration::from_secs(1_000));
        assert!(reading.is_behind());
    }

    #[test]
    fn time_never_runs_backwards_while_running() {
        let mut floor = ClockFloor::new(None);
        assert_eq!(floor.observe(UnixMillis(5_000)).now, UnixMillis(5_000));
        assert_eq!(floor.observe(UnixMillis(4_000)).now, UnixMillis(5_000));
        assert_eq!(
            floor.observe(UnixMillis(6_000)),
            ClockReading { now: UnixMillis(6_000), behind: Duration::ZERO }
        );
    }

    #[test]
    fn small_steps_back_raise_no_alarm() {
        let mut floor = ClockFloor::new(Some(UnixMillis::from_secs(100)));
        assert!(!floor.observe(UnixMillis::from_secs(90)).is_behind());
        assert!(floor.observe(UnixMillis::from_secs(89)).is_behind());
    }

    #[test]
    fn the_floor_is_saved_at_first_and_then_each_interval() {
        let mut floor = ClockFloor::new(None);
        floor.observe(UnixMillis::from_secs(100));
        assert_eq!(floor.due(), Some(UnixMillis::from_secs(100)));
        floor.handle_saved(UnixMillis::from_secs(100));
        floor.observe(UnixMillis::from_secs(159));
        assert_eq!(floor.due(), None);
        floor.observe(UnixMillis::from_secs(160));
        assert_eq!(floor.due(), Some(UnixMillis::from_secs(160)));
    }

    #[test]
    fn an_expired_certificate_cannot_look_valid_again() {
        let not_after = UnixMillis::from_secs(500);
        let mut floor = ClockFloor::new(None);
        floor.observe(UnixMillis::from_secs(501));
        let after_reboot = ClockFloor::new(floor.due()).observe(UnixMillis::from_secs(10));
        assert!(after_reboot.now > not_after);
    }

    #[test]
    fn a_trusted_certificate_raises_the_floor() {
        let mut floor = ClockFloor::new(None);
        floor.raise(UnixMillis::from_secs(700));
        assert_eq!(floor.observe(UnixMillis::from_secs(1)).now, UnixMillis::from_secs(700));
    }
}
