//! The time by which sessions, messages and wills age, also over restarts.
//!
//! A box without a clock battery starts in the past and is set by the network later. That step is no time that passed:
//! within a run the monotonic clock counts, and how far the wall clock is ahead of it is stored, so that between two runs
//! the wall clock counts without the steps of the runs before. SVIDs and the audit log go by the wall clock itself.

use crate::effect::Now;
use crate::ledger::Ledger;
use crate::record::{Record, RecordKey, RecordKind};
use midge_identity::UnixMillis;
use std::time::Duration;

/// How far the wall clock may move against the monotonic one before that is stored.
const TOLERANCE_MS: u64 = 1_000;

/// A time on the monotonic clock of this run, before its zero where an earlier run saw it: nanoseconds, half of what a
/// `Duration` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(i64);

impl From<Duration> for Moment {
    fn from(mono: Duration) -> Self {
        Self(nanos(mono))
    }
}

impl Moment {
    /// Returns how much earlier this was; zero when it is later.
    pub(crate) fn until(self, mono: Duration) -> Duration {
        let nanos = nanos(mono).saturating_sub(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }

    /// Returns the time on the monotonic clock so long after; its zero if that was earlier.
    pub(crate) fn after(self, by: Duration) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_add(nanos(by))).unwrap_or(0))
    }

    /// Returns the time so long before one on the monotonic clock.
    pub(crate) fn before(mono: Duration, by: Duration) -> Self {
        Self(nanos(mono).saturating_sub(nanos(by)))
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// The wall clock against the time by which things age.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BrokerTime {
    /// Time at the zero of the monotonic clock; set when it is asked for first.
    zero: Option<UnixMillis>,
    /// By how many milliseconds the wall clock is ahead of it, as it was stored last.
    ahead_ms: i64,
}

impl Ledger {
    /// Returns the time by which things age.
    pub(crate) fn time(&mut self, now: Now) -> UnixMillis {
        self.time.zero.get_or_insert(now.wall.before(now.mono)).after(now.mono)
    }

    /// Returns it for another moment.
    pub(crate) fn time_at(&mut self, moment: Moment, now: Now) -> UnixMillis {
        self.time(now).before(moment.until(now.mono))
    }

    /// Goes on with the time of an earlier run.
    pub(crate) fn restore_time(&mut self, ahead_ms: i64, now: Now) {
        let by = Duration::from_millis(ahead_ms.unsigned_abs());
        let time = if ahead_ms < 0 { now.wall.after(by) } else { now.wall.before(by) };
        self.time = BrokerTime { zero: Some(time.before(now.mono)), ahead_ms };
    }

    /// Stores how far the wall clock is ahead, where it was set since.
    pub(crate) fn note_time(&mut self, now: Now) {
        if !self.is_on() {
            return;
        }
        let ahead_ms = i64::try_from(i128::from(now.wall.0) - i128::from(self.time(now).0)).unwrap_or(0);
        if ahead_ms.abs_diff(self.time.ahead_ms) > TOLERANCE_MS {
            self.time.ahead_ms = ahead_ms;
            self.replace_unpromised(RecordKey::new(RecordKind::Time, 0), Record::Time(ahead_ms));
        }
    }
}
