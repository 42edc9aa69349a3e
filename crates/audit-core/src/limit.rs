//! Keeps one noisy peer from washing the others out of the log: of events that are alike the first
//! ones of an interval are written, the others are counted, and the count is one record. What the lines
//! of one peer take is bounded by a share of the log for a day.
//!
//! Identities and hosts that have proven none are kept apart, so that whoever needs no credential takes no room from who
//! has one. An identity takes some 500 bytes while there is something to know of it: 5 MB for 10,000 clients that connect
//! and subscribe in one minute, and 60 MB with as many identities and classes as there may be.

mod table;

use crate::record::{Record, event};
use midge_identity::UnixMillis;
use std::time::Duration;
use table::Table;

/// Identities watched at one time, more than a broker has sessions by default (50,000). Of further ones every event is a
/// line as long as the share of one identity lasts, and then they are counted together.
const IDENTITIES_MAX: usize = 65_536;
/// The same for hosts.
const HOSTS_MAX: usize = 4_096;
/// An identity adds no more than this part of the log in a day, of each sort of event, after as much at once.
const IDENTITY_PART: u64 = 100;
/// The same for a host, and for all hosts together.
const HOST_PART: u64 = 500;
const HOSTS_PART: u64 = 10;
/// Least share in bytes, however small the log is.
const SHARE_MIN: u64 = 16 * 1024;
/// Stands for everything beyond the limits.
const OTHERS: &str = "*";

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    /// An identity that was proven.
    Identity(&'a str),
    /// Who has proven none: an address, or a user of this host.
    Host(&'a str),
}

/// What an event is about. Each has a share of its own, so that whoever uses up one does not hide the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// What a client may do.
    Routine,
    /// Something was refused.
    Denial,
    /// A certificate was issued.
    Issuance,
}

/// What makes events alike, and how many of them are written in an interval.
#[derive(Clone, Copy, Debug)]
pub struct Alike<'a> {
    /// Whose event.
    pub peer: Peer<'a>,
    /// Which event.
    pub event: &'static str,
    /// What else they have in common, such as the first levels of a topic ([`topic_class`]); only its first 128 bytes
    /// count.
    pub class: &'a str,
    /// How many are written before the others are counted.
    pub burst: u32,
    /// How many events this one stands for.
    pub count: u64,
    /// What it is about.
    pub sort: Sort,
    /// When.
    pub at: UnixMillis,
}

/// Whose share a line is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    name: Box<str>,
    is_host: bool,
    sort: Sort,
}

impl Alike<'_> {
    /// Returns whose share the line is taken from once it is written.
    pub fn payer(&self) -> Payer {
        let (name, is_host) = match self.peer {
            Peer::Identity(name) => (name, false),
            Peer::Host(name) => (name, true),
        };
        Payer { name: name.into(), is_host, sort: self.sort }
    }
}

/// Counts events that are alike, and what the lines of a peer take.
#[derive(Debug)]
pub struct Limiter {
    identities: Table,
    hosts: Table,
    /// When counts were last asked for.
    asked: UnixMillis,
}

/// What was counted and not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose events: an identity or a host; `*` for many.
    pub peer: String,
    /// Which event.
    pub event: &'static str,
    /// What they have in common, such as the first levels of a topic; `*` for many.
    pub class: String,
    /// How many were not written.
    pub count: u64,
    /// Start of the interval.
    pub since: UnixMillis,
    /// When the last of them happened.
    pub until: UnixMillis,
}

impl Summary {
    /// Returns the record that stands for them.
    pub fn record(self, at: UnixMillis) -> Record {
        Record::new(at, event::REPEATED)
            .with("of", self.event)
            .with("identity", self.peer)
            .with("class", self.class)
            .with("count", self.count)
            .with("since", self.since.0)
            .with("until", self.until.0)
    }
}

impl Limiter {
    /// Returns a limiter whose counts are due after this interval, for a log of so many bytes.
    pub fn new(interval: Duration, log_bytes_max: u64) -> Self {
        let share = |part: u64| (log_bytes_max / part).max(SHARE_MIN);
        Self {
            identities: Table::new(interval, IDENTITIES_MAX, share(IDENTITY_PART), None),
            hosts: Table::new(interval, HOSTS_MAX, share(HOST_PART), Some(share(HOSTS_PART))),
            asked: UnixMillis(0),
        }
    }

    /// Tells whether to write this event: the first `burst` of an interval are, unless the share of its peer is used up.
    /// Others are counted.
    pub fn admit(&mut self, alike: &Alike<'_>) -> bool {
        match alike.peer {
            Peer::Identity(name) => self.identities.admit(name, alike),
            Peer::Host(name) => self.hosts.admit(name, alike),
        }
    }

    /// Takes a line of so many bytes from the share of its peer.
    pub fn charge(&mut self, payer: &Payer, bytes: u64, now: UnixMillis) {
        let table = if payer.is_host { &mut self.hosts } else { &mut self.identities };
        table.charge(&payer.name, payer.sort, bytes, now);
    }

    /// Returns counts whose interval is over, and forgets them, of at most so many peers at a time: whoever holds a lock
    /// meanwhile keeps others waiting. Asked again until it returns none.
    pub fn due(&mut self, now: UnixMillis, peers: usize) -> Option<Vec<Summary>> {
        // A clock that was set back must not keep a count for ever.
        if now < self.asked {
            self.asked = now;
            return Some(self.flushed(now));
        }
        self.asked = now;
        let due = self.identities.due(now, peers);
        due.or_else(|| self.hosts.due(now, peers))
    }

    /// Returns all counts, and forgets them.
    pub fn finish(&mut self) -> Vec<Summary> {
        self.flushed(self.asked)
    }

    fn flushed(&mut self, now: UnixMillis) -> Vec<Summary> {
        let mut all = self.identities.flush(now);
        all.append(&mut self.hosts.flush(now));
        all
    }

    /// Returns how many identities are watched.
    pub fn identities(&self) -> usize {
        self.identities.len()
    }

    /// Returns how many hosts are watched.
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Tells whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.identities() == 0 && self.hosts() == 0
    }
}

/// Returns what topics that are alike have in common: the first three levels, four below `$`.
pub fn topic_class(topic: &str) -> &str {
    let levels = if topic.starts_with('$') { 4 } else { 3 };
    match topic.match_indices('/').nth(levels - 1) {
        Some((at, _)) => topic.get(..=at).unwrap_or(topic),
        None => topic,
    }
}

#[cfg(test)]
mod tests;
