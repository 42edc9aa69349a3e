//! What is due when, on the monotonic clock.

use crate::ConnId;
use crate::slab::Key;
use std::collections::BTreeSet;
use std::time::Duration;

/// What a timer is for. Each session has at most one of each, and whoever ends the reason removes the
/// timer, so that connects and disconnects leave nothing behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    KeepAlive(Key),
    SvidExpiry(Key),
    Will(Key),
    SessionEnd(Key),
    /// The exchange of a connection without CONNACK.
    Exchange(ConnId),
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Duration, Due)>);

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, due: Due) {
        self.0.insert((at, due));
    }

    pub(crate) fn clear(&mut self, at: Option<Duration>, due: Due) {
        if let Some(at) = at {
            self.0.remove(&(at, due));
        }
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out the next one that is due.
    pub(crate) fn pop(&mut self, mono: Duration) -> Option<Due> {
        let first = *self.0.first().filter(|(at, _)| *at <= mono)?;
        self.0.remove(&first);
        Some(first.1)
    }
}
