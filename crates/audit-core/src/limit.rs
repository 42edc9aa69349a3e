//! Keeps one noisy peer from washing the others out of the log: of events that are alike the first
//! ones of an interval are written, the others are counted, and the count is one record.

use crate::record::{Record, event};
use midge_identity::UnixMillis;
use std::collections::HashMap;
use std::time::Duration;

/// Identities watched at one time; the events of further ones are counted together.
const IDENTITIES_MAX: usize = 4_096;
/// Classes watched per identity; a peer that makes up topics gets no line for each.
const CLASSES_MAX: usize = 32;
/// Stands for everything beyond the limits above.
const OTHERS: &str = "*";

/// Counts events that are alike.
#[derive(Debug)]
pub struct Limiter {
    interval: Duration,
    identities: HashMap<Box<str>, Vec<Class>>,
}

#[derive(Debug)]
struct Class {
    event: &'static str,
    class: Box<str>,
    since: UnixMillis,
    /// Of the last that was counted.
    until: UnixMillis,
    written: u32,
    counted: u64,
}

/// What was counted and not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose events: an identity or a peer; `*` for many.
    pub identity: String,
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
            .with("identity", self.identity)
            .with("class", self.class)
            .with("count", self.count)
            .with("since", self.since.0)
            .with("until", self.until.0)
    }
}

impl Limiter {
    /// Returns a limiter whose counts are due after this interval.
    pub fn new(interval: Duration) -> Self {
        Self { interval, identities: HashMap::new() }
    }

    /// Tells whether to write this event: the first `burst` of an interval are.
    pub fn admit(
        &mut self,
        identity: &str,
        event: &'static str,
        class: &str,
        burst: u32,
        now: UnixMillis,
    ) -> bool {
        let identity = self.known(identity);
        if !self.identities.contains_key(identity) {
            self.identities.insert(identity.into(), Vec::new());
        }
        let Some(classes) = self.identities.get_mut(identity) else { return true };
        let known = classes.iter().position(|known| known.event == event && *known.class == *class);
        let at = known.or_else(|| {
            let class = if classes.len() < CLASSES_MAX { class } else { OTHERS };
            let others = classes.iter().position(|known| known.event == event && &*known.class == class);
            others.or_else(|| {
                let class =
                    Class { event, class: class.into(), since: now, until: now, written: 0, counted: 0 };
                classes.push(class);
                Some(classes.len() - 1)
            })
        });
        let Some(class) = at.and_then(|at| classes.get_mut(at)) else { return true };
        if class.written < burst {
            class.written += 1;
            return true;
        }
        class.counted += 1;
        class.until = class.until.max(now);
        false
    }

    /// Returns the counts whose interval is over, and forgets them.
    pub fn due(&mut self, now: UnixMillis) -> Vec<Summary> {
        self.take(Some(now))
    }

    /// Returns all counts, and forgets them.
    pub fn finish(&mut self) -> Vec<Summary> {
        self.take(None)
    }

    /// Returns how many identities are watched.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Tells whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    fn known<'a>(&self, identity: &'a str) -> &'a str {
        let has_room = self.identities.len() < IDENTITIES_MAX || self.identities.contains_key(identity);
        if has_room { identity } else { OTHERS }
    }

    fn take(&mut self, now: Option<UnixMillis>) -> Vec<Summary> {
        let interval = self.interval;
        // A clock that was set back must not keep a count for ever.
        let is_over =
            |class: &Class| now.is_none_or(|now| now >= class.since.after(interval) || now < class.since);
        let mut summaries = Vec::new();
        self.identities.retain(|identity, classes| {
            for class in classes.extract_if(.., |class| is_over(class)).filter(|class| class.counted > 0) {
                summaries.push(Summary {
                    identity: identity.to_string(),
                    event: class.event,
                    class: class.class.into(),
                    count: class.counted,
                    since: class.since,
                    until: class.until,
                });
            }
            !classes.is_empty()
        });
        summaries.sort_by(|a, b| (a.since, &a.identity, a.event).cmp(&(b.since, &b.identity, b.event)));
        summaries
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
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn limiter() -> Limiter {
        Limiter::new(Duration::from_secs(60))
    }

    #[test]
    fn the_first_are_written_and_the_others_are_one_count() {
        let mut limiter = limiter();
        let written = (0..1_000).filter(|n| {
            limiter.admit("a", "publish-denied", "x/y/z/", 5, NOW.after(Duration::from_millis(*n)))
        });
        assert_eq!(written.count(), 5);
        assert!(limiter.due(NOW.after(Duration::from_secs(59))).is_empty());
        let due = limiter.due(NOW.after(Duration::from_secs(60)));
        let until = NOW.after(Duration::from_millis(999));
        let expected = Summary {
            identity: "a".into(),
            event: "publish-denied",
            class: "x/y/z/".into(),
            count: 995,
            since: NOW,
            until,
        };
        assert_eq!(due, [expected]);
        assert!(limiter.is_empty());
        assert!(limiter.admit("a", "publish-denied", "x/y/z/", 5, until), "a new interval");
    }

    #[test]
    fn others_are_not_held_back() {
        let mut limiter = limiter();
        for _ in 0..100 {
            limiter.admit("noisy", "publish-denied", "a", 1, NOW);
        }
        assert!(limiter.admit("quiet", "publish-denied", "a", 1, NOW));
        assert!(limiter.admit("noisy", "subscribe-denied", "a", 1, NOW));
        assert!(limiter.admit("noisy", "publish-denied", "b", 1, NOW));
        assert!(!limiter.admit("noisy", "publish-denied", "a", 1, NOW));
    }

    #[test]
    fn made_up_topics_and_identities_cost_neither_lines_nor_memory() {
        let mut limiter = limiter();
        let topics: Vec<String> = (0..10_000).map(|n| format!("t{n}")).collect();
        let written =
            topics.iter().filter(|topic| limiter.admit("a", "publish-denied", topic, 1, NOW)).count();
        assert_eq!(written, CLASSES_MAX + 1);
        for n in 0..10_000 {
            limiter.admit(&format!("peer {n}"), "connection-refused", "tls", 1, NOW);
        }
        assert_eq!(limiter.len(), IDENTITIES_MAX + 1);
        let all: u64 = limiter.finish().iter().map(|summary| summary.count).sum();
        let own = 10_000 - u64::try_from(written).unwrap();
        // Each watched peer wrote one line, and so did all the others together.
        assert_eq!(all, own + 10_000 - u64::try_from(IDENTITIES_MAX - 1).unwrap() - 1);
    }

    #[test]
    fn nothing_counted_is_nothing_told() {
        let mut limiter = limiter();
        assert!(limiter.admit("a", "connected", "", 2, NOW));
        assert!(limiter.finish().is_empty());
        assert!(limiter.is_empty());
    }

    #[test]
    fn a_clock_set_back_ends_the_interval() {
        let mut limiter = limiter();
        limiter.admit("a", "x", "", 0, NOW);
        limiter.admit("a", "x", "", 0, NOW);
        assert_eq!(limiter.due(UnixMillis(5)).len(), 1);
    }

    #[test]
    fn classes_are_the_first_levels() {
        assert_eq!(topic_class("a/b"), "a/b");
        assert_eq!(topic_class("a/b/c/d/e"), "a/b/c/");
        assert_eq!(topic_class("$hw/events/device/led/twin/get"), "$hw/events/device/led/");
        assert_eq!(topic_class(""), "");
        assert_eq!(topic_class("//ä/ö"), "//ä/");
    }
}
