//! One session: a client of one identity, connected or not, and everything that waits for it.

use crate::authority::{Authority, Listener};
use crate::connection::Connection;
use crate::effect::{ConnId, Now};
use crate::held::Held;
use crate::inflight::Inflight;
use crate::limits::Config;
use crate::output::Subject;
use crate::queue::{Queue, Waiting};
use crate::record::Durability;
use crate::replay::Replays;
use crate::review::Review;
use crate::snapshot::{SessionSnapshot, SessionState};
use crate::subscription::Subscribed;
use crate::total::{Counted, Total};
use crate::will::KeptWill;
use midge_identity::{RootId, SpiffeId, UnixMillis};
use midge_policy::{Context, QueueOverflow, Rights, SubscribeMode};
use mqtt_proto::{Connect, QoS, SharedFilter, Version};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One session. Its client id is unique within its identity only.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) identity: Arc<SpiffeId>,
    pub(crate) client_id: Arc<str>,
    /// Ask [`Session::rights`] instead: these are of the policy `rights_of` counts.
    pub(crate) rights: Arc<Rights>,
    pub(crate) rights_of: u64,
    /// Count of the policy that its subscriptions were last held against.
    pub(crate) reviewed: u64,
    /// How far they are, while that is done.
    pub(crate) review: Option<Review>,
    /// Of its newest connection.
    pub(crate) listener: Option<Arc<Listener>>,
    /// The root that the proof of its newest connection stood by; none where that was another kind of proof, or where it
    /// was stored by a version that did not keep it.
    pub(crate) root: Option<RootId>,
    /// Numbers given to its subscriptions.
    pub(crate) ordinals: u32,
    /// Why it must end, where its identity was revoked and it still waits to be taken away.
    pub(crate) condemned: Option<Arc<str>>,
    pub(crate) version: Version,
    /// How long it outlives its connection; `None` is for ever.
    pub(crate) expiry: Option<Duration>,
    pub(crate) link: Link,
    /// By the filter as the client spells it.
    pub(crate) subscriptions: BTreeMap<Arc<str>, Subscribed>,
    /// What these take.
    pub(crate) subscribed: Counted,
    pub(crate) inflight: Inflight,
    pub(crate) queue: Queue,
    pub(crate) held: Held,
    pub(crate) replays: Replays,
    /// Whether it waits for a turn to go on with these.
    pub(crate) is_in_line: bool,
    /// Number under which it is stored; 0 when it is not.
    pub(crate) number: u64,
    /// Ticket of the batch that stored it first.
    pub(crate) since_ticket: u64,
    /// The highest number of a stored message that may have been sent to it in an earlier run.
    pub(crate) sent: u64,
    /// As of its last connection's gate.
    pub(crate) barrier: u64,
}

/// Whether a session is connected.
#[derive(Debug)]
pub(crate) enum Link {
    Live(Box<Connection>),
    Parked(Parked),
}

/// A session without connection.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) since: UnixMillis,
    pub(crate) ends: Option<(Duration, UnixMillis)>,
    pub(crate) will: Option<LateWill>,
}

/// A will that waits for its delay.
#[derive(Debug)]
pub(crate) struct LateWill {
    pub(crate) at: Duration,
    pub(crate) will: KeptWill,
    /// Number under which it is stored; 0 when it is not.
    pub(crate) number: u64,
}

/// Returns what becomes of a subscription that is allowed in part.
pub(crate) fn mode_of(listener: Option<&Listener>, filter: &SharedFilter) -> SubscribeMode {
    listener.map(|listener| listener.subscribe_mode).unwrap_or_default().of(filter)
}

impl Session {
    /// Whether a rule has publications refused where this session's queue has no room for them.
    pub(crate) fn refuses_publishers(&self) -> bool {
        self.queue.overflow == Some(QueueOverflow::RefusePublishers)
    }

    /// Returns a session that has no connection yet.
    pub(crate) fn new(
        identity: Arc<SpiffeId>,
        connect: &Connect,
        listener: Arc<Listener>,
        authority: &mut Authority,
        now: Now,
    ) -> Self {
        let link = Link::Parked(Parked { since: now.wall, ends: None, will: None });
        let kept = (connect.version, Some(Duration::ZERO), link);
        Self::restored(identity, Arc::clone(&connect.client_id), Some(listener), authority, kept)
    }

    /// Returns a session of an earlier run.
    pub(crate) fn restored(
        identity: Arc<SpiffeId>,
        client_id: Arc<str>,
        listener: Option<Arc<Listener>>,
        authority: &mut Authority,
        (version, expiry, link): (Version, Option<Duration>, Link),
    ) -> Self {
        let name = listener.as_ref().map(|listener| &*listener.name);
        let context = Context { client_id: Some(&client_id), listener: name };
        let (rights, generation) = (authority.rights(&identity, context), authority.generation());
        let mut queue = Queue::default();
        queue.limit_by(&rights);
        Self {
            identity,
            client_id,
            rights,
            rights_of: generation,
            reviewed: generation,
            review: None,
            listener,
            root: None,
            ordinals: 0,
            condemned: None,
            version,
            expiry,
            link,
            subscriptions: BTreeMap::new(),
            subscribed: Counted::default(),
            inflight: Inflight::default(),
            queue,
            held: Held::default(),
            replays: Replays::default(),
            is_in_line: false,
            number: 0,
            since_ticket: 0,
            sent: 0,
            barrier: 0,
        }
    }

    /// Tells whether what it is to receive is stored.
    pub(crate) fn is_stored(&self) -> bool {
        self.number != 0 && !self.ends_with_connection()
    }

    /// Tells whether it ends with its connection: what it was sent is never sent again.
    #[inline]
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.expiry == Some(Duration::ZERO)
    }

    /// Tells whether a message has to be kept that is sent, at once or after this ticket: to be sent again, given to
    /// another member of its share group, looked at before it leaves, or taken out of the store.
    pub(crate) fn keeps_sent(&self, waiting: &Waiting, after: u64) -> bool {
        !self.ends_with_connection() || after != 0 || waiting.group.is_some() || waiting.number != 0
    }

    /// Tells whether a message has to be stored before it is sent to it. One that waited in the store goes on
    /// there, even if the session has become one that ends with its connection.
    pub(crate) fn gates(&self, waiting: &Waiting) -> bool {
        let is_kept = waiting.number != 0 && waiting.message.level != Durability::None;
        // Also where the message itself is not kept: the client holds its identifier, and takes another message
        // under it for the same ([MQTT-4.3.3-10]).
        waiting.qos == QoS::ExactlyOnce && (self.is_stored() || is_kept)
    }

    /// What rules may ask about it.
    pub(crate) fn context(&self) -> Context<'_> {
        let listener = self.listener.as_ref().map(|listener| &*listener.name);
        Context { client_id: Some(&self.client_id), listener }
    }

    pub(crate) fn connection(&self) -> Option<&Connection> {
        match &self.link {
            Link::Live(connection) => Some(connection),
            Link::Parked(_) => None,
        }
    }

    pub(crate) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.link {
            Link::Live(connection) => Some(connection),
            Link::Parked(_) => None,
        }
    }

    pub(crate) fn conn(&self) -> Option<ConnId> {
        self.connection().map(|connection| connection.id)
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject {
            identity: Arc::clone(&self.identity),
            client_id: Arc::clone(&self.client_id),
            conn: self.conn(),
        }
    }

    /// Counts what waits, what is in exchange and its subscriptions, of which there is nothing yet, among those of all
    /// sessions; the subscriptions among those of its identity too.
    pub(crate) fn count_among(&mut self, queued: &Total, exchanged: &Total, subscribed: [Total; 2]) {
        self.subscribed = Counted::new(0, subscribed);
        self.queue.count_among(queued);
        self.inflight.count_among(exchanged);
        self.held.count_among(exchanged);
    }

    pub(crate) fn remove_subscription(&mut self, spelled: &str) -> Option<Subscribed> {
        let removed = self.subscriptions.remove(spelled)?;
        self.subscribed.replace(removed.cost(spelled), 0);
        self.replays.forget(removed.ordinal);
        Some(removed)
    }

    /// Takes a subscription, in place of the one on the same filter.
    pub(crate) fn put_subscription(&mut self, spelled: Arc<str>, subscribed: Subscribed) {
        let bytes = subscribed.cost(&spelled);
        let replaced = self.subscriptions.insert(Arc::clone(&spelled), subscribed);
        self.subscribed.replace(replaced.map_or(0, |replaced| replaced.cost(&spelled)), bytes);
    }

    /// Tells whether nothing stands before a new message.
    pub(crate) fn is_clear(&self) -> bool {
        self.queue.is_empty() && self.connection().is_some_and(|connection| connection.resend.is_empty())
    }

    /// Tells whether it is connected, and what its client sends is taken as it comes.
    #[inline]
    pub(crate) fn is_undisturbed(&self, now: Now) -> bool {
        self.condemned.is_none()
            && self.connection().is_some_and(|connection| {
                connection.ends_after.is_none()
                    && connection.rest.is_none()
                    && connection.peer.expires().is_none_or(|at| at > now.wall)
            })
    }

    /// Tells whether a message would be sent at once.
    pub(crate) fn is_ready(&self, qos: QoS, config: &Config) -> bool {
        self.connection().filter(|_| self.condemned.is_none()).is_some_and(|connection| {
            connection.unsent <= config.unsent_bytes_soft
                && !connection.gate.starting
                && (qos == QoS::AtMostOnce
                    || (self.is_clear() && connection.has_room_for(qos) && self.inflight.has_room(config)))
        })
    }

    pub(crate) fn snapshot(&self) -> SessionSnapshot {
        let state = match &self.link {
            Link::Live(connection) => SessionState::Live {
                conn: connection.id,
                since: connection.since,
                proof: connection.peer.proof().clone(),
                expires: connection.peer.expires(),
            },
            Link::Parked(parked) => {
                SessionState::Parked { since: parked.since, ends: parked.ends.map(|(_, wall)| wall) }
            }
        };
        let subscriptions = self.subscriptions.iter();
        SessionSnapshot {
            identity: Arc::clone(&self.identity),
            client_id: Arc::clone(&self.client_id),
            version: self.version,
            state,
            subscriptions: subscriptions.map(|(text, s)| (Arc::clone(text), s.granted())).collect(),
            queued: self.queue.len(),
            queued_bytes: self.queue.bytes(),
            inflight: self.inflight.len(),
            held: self.held.len(),
        }
    }
}
