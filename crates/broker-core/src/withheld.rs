//! Messages that their receivers are denied: the first of a minute are told one by one, the others by their number. A
//! deny inside an allowed wildcard may hold back every message there is, and must not cost more than delivering it.

use crate::effect::Now;
use midge_identity::{SpiffeId, UnixMillis};
use midge_policy::RuleName;
use mqtt_proto::TopicName;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long messages are counted before the number is told.
const WINDOW: Duration = Duration::from_secs(60);
/// Told one by one in that time, of one receiver, by one rule, below one first level.
const TOLD_MAX: u32 = 5;
/// Receivers that are counted for at one time; of further ones nothing but the metric tells.
const RECEIVERS_MAX: usize = 4_096;
/// Rules and first levels told apart for one receiver; further ones count as the last.
const KINDS_MAX: usize = 8;
/// Receivers whose numbers are told at once. Then it is others' turn, for this long.
const AT_ONCE: usize = 256;
const PAUSE: Duration = Duration::from_millis(10);

/// What is counted at present.
#[derive(Debug, Default)]
pub(crate) struct Withheld {
    receivers: HashMap<Arc<SpiffeId>, Vec<Count>>,
    /// When their numbers are due, the earliest first.
    due: VecDeque<(Duration, Arc<SpiffeId>)>,
    resume: Duration,
}

/// How many messages one receiver was denied by one rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Count {
    pub(crate) rule: Option<RuleName>,
    /// Of the first of them.
    pub(crate) topic: TopicName,
    told: u32,
    /// Those that were not told one by one.
    pub(crate) more: u64,
    pub(crate) since: UnixMillis,
    pub(crate) until: UnixMillis,
}

impl Withheld {
    /// Counts a message; says whether it is one of the first, which are told one by one.
    pub(crate) fn is_to_be_told(
        &mut self,
        receiver: &Arc<SpiffeId>,
        rule: Option<&RuleName>,
        topic: &TopicName,
        now: Now,
    ) -> bool {
        if !self.receivers.contains_key(receiver) {
            if self.receivers.len() >= RECEIVERS_MAX {
                return false;
            }
            self.due.push_back((now.mono.saturating_add(WINDOW), Arc::clone(receiver)));
            self.receivers.insert(Arc::clone(receiver), Vec::new());
        }
        let Some(counts) = self.receivers.get_mut(receiver) else { return false };
        let is_alike =
            |count: &Count| count.rule.as_ref() == rule && first_level(&count.topic) == first_level(topic);
        let at = match counts.iter().position(is_alike) {
            Some(at) => at,
            None => {
                if counts.len() < KINDS_MAX {
                    let (rule, topic) = (rule.cloned(), topic.clone());
                    counts.push(Count { rule, topic, told: 0, more: 0, since: now.wall, until: now.wall });
                }
                counts.len() - 1
            }
        };
        let Some(count) = counts.get_mut(at) else { return false };
        if count.told < TOLD_MAX {
            count.told += 1;
            return true;
        }
        (count.more, count.until) = (count.more + 1, now.wall);
        false
    }

    /// Returns when numbers are to be told.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.due.front().map(|(at, _)| (*at).max(self.resume))
    }

    /// Returns numbers that are due at this time, or all.
    pub(crate) fn take(&mut self, mono: Option<Duration>) -> Vec<(Arc<SpiffeId>, Count)> {
        let mut taken = Vec::new();
        let mut receivers = 0;
        while mono.is_none_or(|mono| self.due().is_some_and(|at| at <= mono)) {
            let Some((_, receiver)) = self.due.pop_front() else { break };
            let counts = self.receivers.remove(&receiver).unwrap_or_default();
            let counts = counts.into_iter().filter(|count| count.more > 0);
            taken.extend(counts.map(|count| (Arc::clone(&receiver), count)));
            receivers += 1;
            if receivers == AT_ONCE
                && let Some(mono) = mono
            {
                self.resume = mono.saturating_add(PAUSE);
            }
        }
        taken
    }
}

fn first_level(topic: &TopicName) -> &str {
    topic.as_str().split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(secs: u64) -> Now {
        Now { mono: Duration::from_secs(secs), wall: UnixMillis::from_secs(1_000 + secs) }
    }

    fn receiver(n: usize) -> Arc<SpiffeId> {
        Arc::new(SpiffeId::new(format!("spiffe://plant/app/{n}")).unwrap())
    }

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    #[test]
    fn the_first_are_told_and_the_others_are_one_number_for_each_kind() {
        let mut withheld = Withheld::default();
        let mut told = |receiver: &Arc<SpiffeId>, name: &str, secs| {
            withheld.is_to_be_told(receiver, None, &topic(name), now(secs))
        };
        let (one, other) = (receiver(1), receiver(2));
        assert_eq!((0..20).filter(|n| told(&one, &format!("a/{n}"), *n)).count(), 5);
        assert_eq!((0..5).filter(|n| told(&one, &format!("b/{n}"), *n)).count(), 5);
        assert!(told(&other, "a/1", 30));
        assert_eq!(withheld.due(), Some(now(60).mono));
        assert_eq!(withheld.take(Some(now(59).mono)), []);
        let taken = withheld.take(Some(now(60).mono));
        let counts: Vec<_> = taken.iter().map(|(id, count)| (id, count.topic.as_str(), count.more)).collect();
        assert_eq!(counts, [(&one, "a/0", 15)]);
        assert_eq!((taken[0].1.since, taken[0].1.until), (now(0).wall, now(19).wall));
        // Another minute begins with the next message, and who was told everything is no number.
        assert_eq!(withheld.due(), Some(now(90).mono));
        assert!(withheld.is_to_be_told(&one, None, &topic("a/1"), now(61)));
        assert_eq!(withheld.take(None), []);
        assert_eq!(withheld.due(), None);
    }

    #[test]
    fn made_up_first_levels_get_no_line_each() {
        let mut withheld = Withheld::default();
        let told = (0..1_000)
            .filter(|n| withheld.is_to_be_told(&receiver(1), None, &topic(&format!("{n}/x")), now(0)))
            .count();
        assert!(told < 5 * KINDS_MAX, "{told}");
        let more: u64 = withheld.take(None).iter().map(|(_, count)| count.more).sum();
        assert_eq!(more, 1_000 - told as u64);
    }

    #[test]
    fn the_numbers_of_many_receivers_are_bounded_and_told_in_portions() {
        let mut withheld = Withheld::default();
        let mut told = 0;
        for n in 0..RECEIVERS_MAX + 10 {
            let receiver = receiver(n);
            told += (0..7).filter(|_| withheld.is_to_be_told(&receiver, None, &topic("a"), now(0))).count();
        }
        assert_eq!(told, 5 * RECEIVERS_MAX);
        let mut taken = 0;
        let mut at = now(60).mono;
        while let Some(due) = withheld.due() {
            at = at.max(due);
            let some = withheld.take(Some(at)).len();
            assert!((1..=AT_ONCE).contains(&some), "{some}");
            assert!(withheld.due().is_none_or(|due| due > at));
            taken += some;
        }
        assert_eq!(taken, RECEIVERS_MAX);
        assert!(withheld.receivers.is_empty());
    }
}
