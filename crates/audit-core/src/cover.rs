//! Which lines a checkpoint covers, and how many there may be without one: a process that writes a log signs what it
//! has written at short intervals, so only its last lines may lack a signature.

use crate::line::Line;
use crate::record::event;
use std::time::Duration;

/// Most lines between two checkpoints, whatever the time between them.
pub const UNSIGNED_LINES_MAX: u64 = 8_192;
/// A process may be late by so many intervals and so much more: its disk is slow.
const INTERVALS_MAX: u64 = 3;
const LATE: Duration = Duration::from_secs(30);

/// Lines that the process which wrote them has not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Time in which they were written, without the longest pause.
    pub(crate) took: Duration,
    /// Longest time in which they can have been, if that is known.
    pub(crate) took_max: Option<Duration>,
}

impl Stretch {
    pub(crate) fn lines(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Tells why no process of ours has written that much without a checkpoint, if so.
    pub(crate) fn excess(&self) -> Option<String> {
        if self.lines() > UNSIGNED_LINES_MAX {
            return Some(format!("a checkpoint follows after {UNSIGNED_LINES_MAX} lines at most"));
        }
        let max = self.took_max.filter(|max| self.took > *max)?;
        let (took, max) = (self.took.as_secs(), max.as_secs());
        Some(format!("they span {took} s, and a checkpoint follows within {max} s even on a slow disk"))
    }
}

/// How far checkpoints cover a log.
#[derive(Debug, Default)]
pub(crate) struct Cover {
    /// The last line that is covered, or stands before what is read.
    through: u64,
    /// Seconds between checkpoints, as the lines up to there say, and as lines after them do.
    every: Option<u64>,
    said: Option<u64>,
    /// Latest time after it, in milliseconds; how far it went, and the longest step of that. Times may go back a little, and
    /// one step may be that of a clock that was set.
    high: Option<u64>,
    spent: u64,
    step_max: u64,
    /// What the start of a process found unsigned, until a checkpoint says that this was a start of ours.
    found: Option<Stretch>,
}

impl Cover {
    pub(crate) fn through(&self) -> u64 {
        self.through
    }

    /// Takes everything up to this line as covered.
    pub(crate) fn begin(&mut self, through: u64) {
        *self = Self { through, every: self.every, said: self.every, ..Self::default() };
    }

    pub(crate) fn line(&mut self, line: &Line) {
        let own = [
            event::CREATED,
            event::OPENED,
            event::CHECKPOINT,
            event::REPAIRED,
            event::TAIL_MISSING,
            event::HEAD_MISSING,
            event::HEAD_INVALID,
            event::KEY_CHANGED,
            event::RESUMED,
        ];
        if let Some(every) = line.number("checkpoint-secs").filter(|_| own.contains(&&*line.event)) {
            self.said = Some(every);
        }
        // These are written by a start, long after what the process before it wrote.
        if own.contains(&&*line.event) {
            return;
        }
        let at = line.at.0;
        let step = self.high.map_or(0, |high| at.saturating_sub(high));
        self.high = Some(self.high.map_or(at, |high| high.max(at)));
        self.spent = self.spent.saturating_add(step);
        self.step_max = self.step_max.max(step);
    }

    /// A start says that this was the last line it found.
    pub(crate) fn resumed(&mut self, found: u64) {
        self.found = self.stretch(found);
    }

    /// Takes a checkpoint that holds; returns what a start before it had found unsigned.
    pub(crate) fn checkpoint(&mut self, seq: u64) -> Option<Stretch> {
        let found = self.found.take();
        self.every = self.said;
        self.begin(seq);
        found
    }

    /// Returns what stands after the last checkpoint, up to this line.
    pub(crate) fn stretch(&self, last: u64) -> Option<Stretch> {
        let first = self.through.saturating_add(1);
        let took = Duration::from_millis(self.spent.saturating_sub(self.step_max));
        let late = |every: u64| Duration::from_secs(every.saturating_mul(INTERVALS_MAX)).saturating_add(LATE);
        (last >= first).then(|| Stretch { first, last, took, took_max: self.every.map(late) })
    }
}
