//! What a subscription asks for, and what several of one session amount to.

use crate::record::{OwedRecord, Record, SubscriptionRecord};
use crate::route::Subscriptions;
use midge_policy::{SubscribePart, SubscribePermit};
use mqtt_proto::{QoS, RetainHandling, SharedFilter, Subscription, TopicName};
use std::sync::Arc;

/// What a session takes to hold one: maps keep slots free.
const SLOT: usize = 2 * size_of::<(Arc<str>, Subscribed)>();

/// What a text takes beside its letters.
const TEXT: usize = 32;

/// One subscription of one session.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) filter: SharedFilter,
    /// As requested; policy may grant less today and more tomorrow.
    pub(crate) requested: QoS,
    /// What it is delivered by: the filter itself, or those parts of it that are permitted.
    pub(crate) parts: Box<[SubscribePart]>,
    /// Tells it from the session's others: parts of two may be the same filter.
    pub(crate) ordinal: u32,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<u32>,
    /// Number under which it is stored; 0 when it is not.
    pub(crate) number: u64,
    /// Whether its record says that retained messages are still to be sent for it.
    pub(crate) owed: bool,
}

/// What the tree keeps of one part of a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Of its subscription.
    pub(crate) ordinal: u32,
    pub(crate) granted: QoS,
    /// Whether it covers topics that its owner must not receive, so that each has to be asked for.
    pub(crate) filtered: bool,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<u32>,
}

/// How a matching message is delivered to one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) qos: QoS,
    pub(crate) retain_as_published: bool,
    pub(crate) ids: Option<Arc<[u32]>>,
}

impl Subscribed {
    pub(crate) fn new(subscription: &Subscription, permit: &SubscribePermit, id: Option<u32>) -> Self {
        Self {
            filter: subscription.filter.clone(),
            requested: subscription.qos,
            parts: permit.parts().into(),
            ordinal: 0,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            id,
            number: 0,
            owed: false,
        }
    }

    /// Returns about what it takes in memory.
    pub(crate) fn cost(&self, spelled: &str) -> usize {
        let own = SLOT + 2 * (spelled.len() + TEXT);
        let parts = self.parts.iter().map(|part| {
            size_of::<SubscribePart>()
                + TEXT
                + part.filter().as_str().len()
                + Subscriptions::cost(part.filter())
        });
        own + parts.sum::<usize>()
    }

    /// Returns its record.
    pub(crate) fn record(&self, owed: Option<OwedRecord>) -> Record {
        Record::Subscription(Box::new(SubscriptionRecord {
            filter: self.filter.clone(),
            requested: self.requested,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            id: self.id,
            owed,
        }))
    }

    /// Returns the subscription as policy permits it now, where that is something else than before.
    pub(crate) fn reviewed(&self, permit: &SubscribePermit) -> Option<Self> {
        let is_same = *permit.parts() == *self.parts;
        (!is_same).then(|| Self { parts: permit.parts().into(), ..self.clone() })
    }

    /// QoS that the client was told.
    pub(crate) fn granted(&self) -> QoS {
        self.parts.iter().map(SubscribePart::qos).max().unwrap_or_default()
    }

    /// QoS at which a topic under its filter is delivered; none when that part of it is not permitted.
    pub(crate) fn granted_for(&self, topic: &TopicName) -> Option<QoS> {
        self.parts.iter().filter(|part| part.filter().matches(topic)).map(SubscribePart::qos).max()
    }

    pub(crate) fn is_filtered(&self) -> bool {
        self.parts.iter().any(SubscribePart::is_filtered)
    }

    pub(crate) fn leaf(&self, part: &SubscribePart) -> Leaf {
        Leaf {
            ordinal: self.ordinal,
            granted: part.qos(),
            filtered: part.is_filtered(),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            id: self.id,
        }
    }

    /// Tells whether another subscription on the same filter asks for the same.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        let asked = |s: &Self| (s.requested, s.no_local, s.retain_as_published, s.id);
        asked(self) == asked(other)
    }

    pub(crate) fn grant(&self) -> Grant {
        Grant {
            qos: self.granted(),
            retain_as_published: self.retain_as_published,
            ids: self.id.map(|id| [id].into()),
        }
    }
}

/// Merges overlapping subscriptions: one copy with the highest QoS ([MQTT-3.3.4-2]) and the identifier of each
/// ([MQTT-3.3.4-4]), also where several have the same (MQTT 5.0 §3.3.4).
pub(crate) fn merge<'a>(subscriptions: impl Iterator<Item = &'a Leaf>) -> Option<Grant> {
    let mut merged: Option<(QoS, bool)> = None;
    let mut ids: Vec<(u32, u32)> = Vec::new();
    for subscribed in subscriptions {
        let (qos, retain) = merged.get_or_insert((QoS::AtMostOnce, false));
        *qos = (*qos).max(subscribed.granted);
        *retain |= subscribed.retain_as_published;
        ids.extend(subscribed.id.map(|id| (id, subscribed.ordinal)));
    }
    let (qos, retain_as_published) = merged?;
    ids.sort_unstable();
    // Several parts of one subscription count once.
    ids.dedup();
    let ids: Vec<u32> = ids.into_iter().map(|(id, _)| id).collect();
    Some(Grant { qos, retain_as_published, ids: (!ids.is_empty()).then(|| ids.into()) })
}

/// Tells whether a subscription gets the retained messages ([MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]).
pub(crate) fn wants_retained(subscription: &Subscription, existed: bool) -> bool {
    // A shared subscription gets none (MQTT 5.0 §4.8.2).
    subscription.filter.group.is_none()
        && match subscription.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        }
}

/// Returns the filter as a client spells it.
pub(crate) fn spelled(filter: &SharedFilter) -> Arc<str> {
    match &filter.group {
        None => filter.filter.as_str().into(),
        Some(group) => format!("$share/{group}/{}", filter.filter).into(),
    }
}
