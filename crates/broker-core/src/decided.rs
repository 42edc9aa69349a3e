//! What was decided about the topics of one connection: good while neither policy nor subscriptions change.

use crate::Origin;
use crate::rates::{Limited, limited};
use crate::record::Durability;
use crate::route::Route;
use crate::slab::Key;
use crate::total::Total;
use crate::word_hasher::WordHasher;
use midge_policy::{PublishFacts, PublishPermit};
use mqtt_proto::TopicName;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// Topics remembered per connection; beyond it all are forgotten and asked again.
const REMEMBERED_MAX: usize = 128;
/// Bytes remembered per connection, unless one topic alone takes more; beyond it all are forgotten and asked again.
const REMEMBERED_BYTES_MAX: usize = 256 * 1024;
/// Bytes that a connection may remember however much others do, so that few cannot have all asked anew each time.
const REMEMBERED_BYTES_OWN: usize = 4 * 1024;

/// Decisions by topic. Who makes the hashes of topics collide slows down its own few and nobody else's.
#[derive(Debug)]
pub(crate) struct PublishCache {
    decisions: HashMap<TopicName, Arc<Decided>, BuildHasherDefault<WordHasher>>,
    /// The one of them asked for last: most publishers repeat one topic. It is lent out and comes back, which costs less
    /// than counting who has it.
    latest: Option<Arc<Decided>>,
    /// When all of them were decided.
    at: At,
    bytes: usize,
    /// Of this cache and all others.
    all: Total,
}

/// Counts of policies and of changes of subscriptions, at which something was decided.
type At = (u64, u64);

/// That a connection may publish to a topic, on which terms, and whom that reaches.
#[derive(Debug)]
pub(crate) struct Decided {
    topic: TopicName,
    at: At,
    permit: PublishPermit,
    /// What it costs while it is remembered.
    bytes: usize,
    /// How fast, by each rule that allows it, where each sets a rate.
    pub(crate) limited: Box<[Limited]>,
    pub(crate) source: Source,
    pub(crate) route: Route,
}

/// Where a message comes from, and what its rule says of it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) publisher: Option<Key>,
    pub(crate) origin: Arc<Origin>,
    /// What it has to survive, where the rule says so.
    pub(crate) durability: Option<Durability>,
    /// Whose queue has it refused where it has no room for it.
    pub(crate) refuses: Refuses,
}

/// For whose full queue a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refuses {
    /// For nobody's: it is lost there.
    No,
    /// For those receivers' whose rule says so.
    ForSome,
    /// For any receiver's.
    ForAll,
}

impl Decided {
    pub(crate) fn new(
        (topic, facts): (&TopicName, &PublishFacts<'_>),
        at: At,
        permit: PublishPermit,
        source: Source,
        route: Route,
    ) -> Self {
        let response = facts.response_topic.map_or(0, |topic| topic.as_str().len());
        let bytes = size_of::<Self>() + topic.as_str().len() + response + route.bytes();
        let topic = topic.clone();
        let limited = limited(&permit);
        Self { topic, at, permit, bytes, limited, source, route }
    }

    #[inline]
    fn holds(&self, at: At, facts: &PublishFacts<'_>) -> bool {
        self.at == at && self.permit.covers(facts)
    }
}

impl PublishCache {
    /// Returns one that counts among all others.
    pub(crate) fn new(all: &Total) -> Self {
        let decisions = HashMap::default();
        Self { decisions, latest: None, at: At::default(), bytes: 0, all: all.clone() }
    }

    /// Returns what was decided about a topic, if that holds for this publication now. Who is done with it gives it back
    /// ([`Self::keep_at_hand`]).
    pub(crate) fn find(
        &mut self,
        topic: &TopicName,
        at: At,
        facts: &PublishFacts<'_>,
    ) -> Option<Arc<Decided>> {
        let decided = match self.latest.take().filter(|latest| latest.topic == *topic) {
            Some(latest) => latest,
            None => Arc::clone(self.decisions.get(topic)?),
        };
        decided.holds(at, facts).then_some(decided)
    }

    /// Returns the same to be looked at.
    #[inline]
    pub(crate) fn look_for(&self, topic: &TopicName, at: At, facts: &PublishFacts<'_>) -> Option<&Decided> {
        self.decided(topic).filter(|decided| decided.holds(at, facts))
    }

    /// Returns what was decided about a topic, whether it holds or not.
    #[inline]
    pub(crate) fn decided(&self, topic: &TopicName) -> Option<&Decided> {
        let latest = self.latest.as_ref().filter(|latest| latest.topic == *topic);
        latest.or_else(|| self.decisions.get(topic)).map(|decided| &**decided)
    }

    /// Takes back what was found, to be found with one look if it is asked for next. What is not remembered is let go of.
    pub(crate) fn keep_at_hand(&mut self, decided: Arc<Decided>) {
        if Arc::strong_count(&decided) > 1 {
            self.latest = Some(decided);
        }
    }

    /// Remembers a decision, if there is room for it among these bytes of all caches.
    pub(crate) fn remember(&mut self, decided: &Arc<Decided>, all_max: usize) {
        let bytes = decided.bytes;
        let is_old = self.at != decided.at;
        if is_old || self.decisions.len() >= REMEMBERED_MAX || !self.has_room(bytes, all_max) {
            self.forget();
        }
        if bytes > REMEMBERED_BYTES_OWN && self.all.get().saturating_add(bytes) > all_max {
            return;
        }
        self.at = decided.at;
        self.bytes += bytes;
        self.all.grow(bytes);
        // One that is decided anew at the same time, for other facts, has taken another's place.
        if let Some(earlier) = self.decisions.insert(decided.topic.clone(), Arc::clone(decided)) {
            self.shrink(earlier.bytes);
        }
        self.latest = Some(Arc::clone(decided));
    }

    fn has_room(&self, bytes: usize, all_max: usize) -> bool {
        let own = self.bytes.saturating_add(bytes);
        own <= REMEMBERED_BYTES_OWN
            || (own <= REMEMBERED_BYTES_MAX && self.all.get().saturating_add(bytes) <= all_max)
    }

    fn forget(&mut self) {
        self.all.shrink_by(self.bytes, self.decisions.len());
        (self.latest, self.bytes) = (None, 0);
        self.decisions.clear();
    }

    fn shrink(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.all.shrink(bytes);
    }
}

impl Drop for PublishCache {
    fn drop(&mut self) {
        self.all.shrink_by(self.bytes, self.decisions.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Own, Target};
    use crate::shared::GroupId;
    use crate::subscription::Grant;
    use mqtt_proto::QoS;

    const FACTS: PublishFacts<'_> =
        PublishFacts { qos: QoS::AtMostOnce, retain: false, payload_len: 0, response_topic: None };

    struct Publisher {
        cache: PublishCache,
        all_max: usize,
    }

    impl Publisher {
        fn new(all: &Total, all_max: usize) -> Self {
            Self { cache: PublishCache::new(all), all_max }
        }

        /// Has a message to so many receivers decided.
        fn publish(&mut self, name: &str, receivers: usize, at: At) {
            let decided = decided(name, receivers, at);
            self.cache.remember(&decided, self.all_max);
        }

        fn knows(&mut self, name: &str, at: At) -> bool {
            self.cache.find(&topic(name), at, &FACTS).is_some()
        }
    }

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn decided(name: &str, receivers: usize, at: At) -> Arc<Decided> {
        let rules = "[[rule]]\nname = \"all\"\nid = \"spiffe://d/a\"\npublish = [\"#\"]\n";
        let policy = midge_policy::Policy::from_toml_str(rules, "test").unwrap();
        let rights = policy.rights(&midge_identity::SpiffeId::new("spiffe://d/a").unwrap());
        let (topic, mut slab) = (topic(name), crate::slab::Slab::new());
        let grant = Grant { qos: QoS::AtMostOnce, retain_as_published: false, ids: None };
        let target = |session| Target { session, grant: grant.clone(), own: Own::Same };
        let groups: Box<[(GroupId, _)]> = Box::new([]);
        let targets = (0..receivers).map(|_| target(slab.insert(()))).collect();
        let source = Source {
            publisher: None,
            origin: Arc::new(Origin::Broker),
            durability: None,
            refuses: Refuses::No,
        };
        let permit = rights.publish(&topic, FACTS).unwrap();
        Arc::new(Decided::new(
            (&topic, &FACTS),
            at,
            permit,
            source,
            Route { targets, groups, refused: Box::default() },
        ))
    }

    #[test]
    fn wide_routes_are_remembered_within_bytes_and_narrow_ones_within_a_count() {
        let all = Total::default();
        let mut press = Publisher::new(&all, usize::MAX);
        let receivers = REMEMBERED_BYTES_MAX / size_of::<Target>() / 4;
        for n in 0..128 {
            press.publish(&format!("wide/{n}"), receivers, (1, 1));
            assert!(press.knows(&format!("wide/{n}"), (1, 1)));
            assert!(all.get() <= REMEMBERED_BYTES_MAX, "{}", all.get());
        }
        assert!(press.knows("wide/126", (1, 1)));
        press.publish("new", 1, (1, 2));
        for n in 0..127 {
            press.publish(&format!("narrow/{n}"), 1, (1, 2));
        }
        assert!((0..127).all(|n| press.knows(&format!("narrow/{n}"), (1, 2))));
    }

    #[test]
    fn one_topic_may_take_more_than_a_connection_and_nothing_beside_it() {
        let all = Total::default();
        let mut press = Publisher::new(&all, usize::MAX);
        press.publish("a", 1, (1, 1));
        press.publish("b", REMEMBERED_BYTES_MAX, (1, 1));
        assert_eq!((press.knows("a", (1, 1)), press.knows("b", (1, 1))), (false, true));
        press.publish("c", 1, (1, 1));
        assert_eq!((press.knows("b", (1, 1)), press.knows("c", (1, 1))), (false, true));
        assert!(all.get() < REMEMBERED_BYTES_OWN);
    }

    #[test]
    fn what_all_remember_is_bounded_and_each_may_remember_a_little() {
        let (all, all_max) = (Total::default(), 100 * 1024);
        let mut presses: Vec<_> = (0..40).map(|_| Publisher::new(&all, all_max)).collect();
        for press in &mut presses {
            press.publish("a", 100, (1, 1));
            press.publish("b", 1, (1, 1));
            assert!(press.knows("b", (1, 1)));
        }
        assert!(presses.first_mut().unwrap().knows("a", (1, 1)));
        assert!(!presses.last_mut().unwrap().knows("a", (1, 1)));
        assert!(all.get() <= all_max + presses.len() * REMEMBERED_BYTES_OWN, "{}", all.get());
        // Who leaves makes room.
        presses.drain(..39);
        let last = presses.last_mut().unwrap();
        last.publish("a", 100, (1, 1));
        assert!(last.knows("a", (1, 1)));
        presses.clear();
        assert_eq!(all.get(), 0);
    }

    #[test]
    fn what_was_lent_comes_back_and_what_is_not_remembered_does_not_stay() {
        let all = Total::default();
        let mut press = Publisher::new(&all, usize::MAX);
        press.publish("a", 1, (1, 1));
        let lent = press.cache.find(&topic("a"), (1, 1), &FACTS).unwrap();
        press.cache.keep_at_hand(lent);
        assert!(press.cache.latest.is_some());
        press.cache.keep_at_hand(decided("b", 1, (1, 1)));
        assert!(!press.knows("b", (1, 1)));
        assert!(press.knows("a", (1, 1)));
    }

    #[test]
    fn what_is_old_is_forgotten_with_the_next() {
        let all = Total::default();
        let mut press = Publisher::new(&all, usize::MAX);
        press.publish("a", 1000, (1, 1));
        let wide = all.get();
        press.publish("a", 1000, (1, 1));
        assert_eq!(all.get(), wide);
        press.publish("b", 1, (1, 2));
        assert!(all.get() < REMEMBERED_BYTES_OWN);
        assert!(!press.knows("a", (1, 1)));
    }
}
