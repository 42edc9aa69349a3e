//! What was decided about the topics of one connection: good while neither policy nor subscriptions change.

use crate::Origin;
use crate::effect::ConnIdHasher;
use crate::rates::Limited;
use crate::record::Durability;
use crate::route::Route;
use crate::slab::Key;
use midge_policy::{PublishFacts, PublishPermit};
use mqtt_proto::TopicName;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// Topics remembered per connection; beyond it all are forgotten and asked again.
const REMEMBERED_MAX: usize = 128;

/// Decisions by topic. Who makes the hashes of topics collide slows down its own few and nobody else's.
#[derive(Debug, Default)]
pub(crate) struct PublishCache {
    decisions: HashMap<TopicName, Arc<Decided>, BuildHasherDefault<ConnIdHasher>>,
    /// The one asked for last: most publishers repeat one topic.
    latest: Option<Arc<Decided>>,
}

/// Counts of policies and of changes of subscriptions, at which something was decided.
type At = (u64, u64);

/// That a connection may publish to a topic, on which terms, and whom that reaches.
#[derive(Debug)]
pub(crate) struct Decided {
    topic: TopicName,
    at: At,
    permit: PublishPermit,
    pub(crate) limited: Option<Limited>,
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
    /// Whether it is refused where a receiver's queue has no room for it.
    pub(crate) refuses_overflow: bool,
}

impl Decided {
    pub(crate) fn new(topic: TopicName, at: At, permit: PublishPermit, source: Source, route: Route) -> Self {
        let limited = permit.rate().map(|rate| (permit.rule_name().clone(), *rate));
        Self { topic, at, permit, limited, source, route }
    }
}

impl PublishCache {
    /// Returns what was decided about a topic, if that holds for this publication now.
    pub(crate) fn find(
        &mut self,
        topic: &TopicName,
        at: At,
        facts: &PublishFacts<'_>,
    ) -> Option<Arc<Decided>> {
        if self.latest.as_ref().is_none_or(|latest| latest.topic != *topic) {
            self.latest = Some(Arc::clone(self.decisions.get(topic)?));
        }
        let latest = self.latest.as_ref()?;
        (latest.at == at && latest.permit.covers(facts)).then(|| Arc::clone(latest))
    }

    pub(crate) fn remember(&mut self, decided: &Arc<Decided>) {
        if self.decisions.len() >= REMEMBERED_MAX {
            self.decisions.clear();
        }
        self.decisions.insert(decided.topic.clone(), Arc::clone(decided));
        self.latest = Some(Arc::clone(decided));
    }
}
