//! The peers of one kind: what of them was counted, and what of their share is used up.

use super::{Alike, OTHERS, Sort, Summary};
use midge_identity::UnixMillis;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Classes watched per peer, and those with a text of all peers together; the others of a peer are one, so that a peer
/// that makes up topics gets no line for each.
const CLASSES_MAX: usize = 32;
const CLASSES_ALL_MAX: usize = 65_536;
/// Bytes of the text of a class that count.
const CLASS_BYTES_MAX: usize = 128;
/// How long is counted what comes when a share is used up: these counts are lines as well.
const OVER_INTERVAL: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const DAY_MILLIS: u64 = 86_400_000;
/// What the line of a count takes beside name and class, in bytes.
const SUMMARY_BYTES: u64 = 300;

#[derive(Debug)]
pub(super) struct Table {
    interval: Duration,
    peers: HashMap<Arc<str>, Watched>,
    peers_max: usize,
    /// When to look at each peer again: one item for each.
    due: BinaryHeap<Reverse<(UnixMillis, Arc<str>)>>,
    /// Classes with a text.
    texts: usize,
    /// Bytes that the lines of one peer may take in a day, of each sort.
    each: u64,
    /// The same of all peers together, and what of it is used up.
    all: Option<(u64, Used)>,
}

#[derive(Debug, Default)]
struct Watched {
    classes: Vec<Class>,
    used: [Used; 3],
}

#[derive(Debug)]
struct Class {
    event: &'static str,
    class: Box<str>,
    sort: Sort,
    /// Counts what comes when a share is used up.
    is_over: bool,
    since: UnixMillis,
    end: UnixMillis,
    /// Of the last that was counted.
    until: UnixMillis,
    written: u32,
    counted: u64,
}

/// How much of a share is used up: the time at which all of it is there again.
#[derive(Clone, Copy, Debug, Default)]
struct Used(UnixMillis);

impl Used {
    /// A clock that was set back by more than a day gives the share back.
    fn is_up(self, now: UnixMillis) -> bool {
        self.0 > now.after(DAY) && self.0 <= now.after(DAY * 2)
    }

    fn charge(&mut self, bytes: u64, share: u64, now: UnixMillis) {
        let millis = bytes.saturating_mul(DAY_MILLIS).div_ceil(share.max(1));
        let until = if self.0 > now.after(DAY * 2) { now } else { self.0.max(now) };
        self.0 = until.after(Duration::from_millis(millis)).min(now.after(DAY * 2));
    }
}

impl Class {
    fn has_text(&self) -> bool {
        !self.class.is_empty() && &*self.class != OTHERS
    }
}

impl Watched {
    fn used(&mut self, sort: Sort) -> &mut Used {
        let [routine, denial, issuance] = &mut self.used;
        match sort {
            Sort::Routine => routine,
            Sort::Denial => denial,
            Sort::Issuance => issuance,
        }
    }

    /// Returns the class of an event, which lasts so long; `has_room` tells whether there is room for another text.
    fn class(
        &mut self,
        alike: &Alike<'_>,
        lasts: Duration,
        is_over: bool,
        has_room: bool,
    ) -> Option<&mut Class> {
        let find = |classes: &[Class], class: &str| {
            classes.iter().position(|known| {
                known.event == alike.event && known.is_over == is_over && *known.class == *class
            })
        };
        let text = if is_over { OTHERS } else { clipped(alike.class) };
        let known = find(&self.classes, text).or_else(|| {
            let has_room = text.is_empty() || (has_room && self.classes.len() < CLASSES_MAX);
            let text = if has_room { text } else { OTHERS };
            find(&self.classes, text).or_else(|| {
                let (event, sort, since) = (alike.event, alike.sort, alike.at);
                let (class, end, until) = (text.into(), since.after(lasts), since);
                self.classes.push(Class {
                    event,
                    class,
                    sort,
                    is_over,
                    since,
                    end,
                    until,
                    written: 0,
                    counted: 0,
                });
                self.classes.len().checked_sub(1)
            })
        });
        self.classes.get_mut(known?)
    }

    /// Tells whether there is anything to know of it: counts, or a share that is used up in part.
    fn is_of_use(&self, now: UnixMillis) -> bool {
        !self.classes.is_empty() || self.used.iter().any(|used| used.0 > now && used.0 <= now.after(DAY * 2))
    }
}

impl Table {
    pub(super) fn new(interval: Duration, peers_max: usize, each: u64, all: Option<u64>) -> Self {
        Self {
            interval,
            peers: HashMap::new(),
            peers_max,
            due: BinaryHeap::new(),
            texts: 0,
            each,
            all: all.map(|share| (share, Used::default())),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn admit(&mut self, name: &str, alike: &Alike<'_>) -> bool {
        let now = alike.at;
        let all_used_up = self.all.is_some_and(|(_, used)| used.is_up(now));
        let has_room = self.peers.len() < self.peers_max || self.peers.contains_key(name);
        let is_told_apart = has_room && !all_used_up;
        let name = if is_told_apart { name } else { OTHERS };
        if !self.peers.contains_key(name) {
            let name: Arc<str> = name.into();
            self.due.push(Reverse((now.after(self.interval), Arc::clone(&name))));
            self.peers.insert(name, Watched::default());
        }
        let Some(peer) = self.peers.get_mut(name) else { return true };
        let is_over = all_used_up || peer.used(alike.sort).is_up(now);
        let lasts = if is_over { OVER_INTERVAL } else { self.interval };
        // Those who are not told apart get lines as long as there is a share: any may be the only one of its peer.
        let burst = if is_told_apart { alike.burst } else { u32::MAX };
        let before = peer.classes.len();
        let Some(class) = peer.class(alike, lasts, is_over, self.texts < CLASSES_ALL_MAX) else {
            return true;
        };
        let (is_written, has_text) = (!is_over && class.written < burst, class.has_text());
        if is_written {
            class.written += 1;
        } else {
            class.counted += alike.count;
            class.until = class.until.max(now);
        }
        self.texts += usize::from(has_text && peer.classes.len() > before);
        is_written
    }

    pub(super) fn charge(&mut self, name: &str, sort: Sort, bytes: u64, now: UnixMillis) {
        if let Some((share, used)) = &mut self.all {
            used.charge(bytes, *share, now);
        }
        let name = if self.peers.contains_key(name) { name } else { OTHERS };
        if let Some(peer) = self.peers.get_mut(name) {
            peer.used(sort).charge(bytes, self.each, now);
        }
    }

    /// Returns the counts of some peers that are due; none when no peer is.
    pub(super) fn due(&mut self, now: UnixMillis, peers: usize) -> Option<Vec<Summary>> {
        let mut found = None;
        for _ in 0..peers {
            if self.due.peek().is_none_or(|Reverse((at, _))| *at > now) {
                break;
            }
            let Some(Reverse((_, name))) = self.due.pop() else { break };
            let summaries = found.get_or_insert_with(Vec::new);
            self.settle(name, now, |class| now >= class.end, summaries);
        }
        found
    }

    /// Returns all counts.
    pub(super) fn flush(&mut self, now: UnixMillis) -> Vec<Summary> {
        let mut summaries = Vec::new();
        for Reverse((_, name)) in std::mem::take(&mut self.due) {
            self.settle(name, now, |_| true, &mut summaries);
        }
        summaries.sort_by(|a, b| (a.since, &a.peer, a.event).cmp(&(b.since, &b.peer, b.event)));
        summaries
    }

    /// Takes the counts of a peer that are over, and forgets it when there is nothing more to know of it.
    fn settle(
        &mut self,
        name: Arc<str>,
        now: UnixMillis,
        is_over: impl Fn(&Class) -> bool,
        summaries: &mut Vec<Summary>,
    ) {
        let Some(peer) = self.peers.get_mut(&name) else { return };
        let over: Vec<Class> = peer.classes.extract_if(.., |class| is_over(class)).collect();
        for class in over {
            self.texts -= usize::from(class.has_text());
            if class.counted == 0 {
                continue;
            }
            let bytes = SUMMARY_BYTES + size(&name) + size(&class.class);
            if let Some((share, used)) = &mut self.all {
                used.charge(bytes, *share, now);
            }
            peer.used(class.sort).charge(bytes, self.each, now);
            summaries.push(Summary {
                peer: name.to_string(),
                event: class.event,
                class: class.class.into(),
                count: class.counted,
                since: class.since,
                until: class.until,
            });
        }
        if peer.is_of_use(now) {
            // Also when nothing ends before: what begins until then ends later than this.
            let interval = now.after(self.interval);
            let end = peer.classes.iter().map(|class| class.end).min().unwrap_or(interval);
            self.due.push(Reverse((end.min(interval), name)));
        } else {
            self.peers.remove(&name);
        }
    }
}

fn size(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn clipped(class: &str) -> &str {
    let end = (0..=CLASS_BYTES_MAX.min(class.len())).rev().find(|at| class.is_char_boundary(*at));
    end.and_then(|end| class.get(..end)).unwrap_or_default()
}
