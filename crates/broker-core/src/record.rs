//! What is written to disk: records under keys, and batches of changes to them.
//!
//! A message is one record however many receivers it has; whoever waits for it is a small record that
//! names it. Numbers are never used twice, so that a record is either the one meant or not there.

mod codec;
mod key;

pub use codec::{FORMAT, RecordError};
pub use key::{RecordKey, RecordKind};
pub use midge_policy::Durability;

use crate::authority::Listener;
use crate::message::{Message, SharedMessage};
use midge_identity::{RootId, SpiffeId, UnixMillis};
use mqtt_proto::{PacketId, Publication, QoS, SharedFilter, TopicName, Version, Will};
use std::sync::Arc;
use std::time::Duration;

/// Changes that have to be stored together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreBatch {
    /// Number of this batch, one more than that of the batch before; [`crate::Broker::handle_stored`] takes it.
    pub ticket: u64,
    /// The changes, in order, each with what it has to survive before it counts as stored; [`Durability::None`] when
    /// nobody waits for it.
    pub changes: Vec<(Durability, Change)>,
}

impl StoreBatch {
    /// What the batch as a whole has to survive before it counts as stored.
    pub fn level(&self) -> Durability {
        self.changes.iter().map(|(level, _)| *level).max().unwrap_or_default()
    }
}

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record under a key that was never used: if it is removed before it was written, neither has to be.
    Create(RecordKey, Record),
    /// A record in place of one that may exist.
    Replace(RecordKey, Record),
    /// The end of a record that may exist.
    Remove(RecordKey),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A session.
    Session(Box<SessionRecord>),
    /// A subscription of a session.
    Subscription(Box<SubscriptionRecord>),
    /// A message that someone waits for, or that is retained.
    Message(StoredMessage),
    /// A message that waits for a session, or was sent to it at QoS 1 and not acknowledged.
    Queued(QueuedRecord),
    /// A QoS 2 exchange towards a session, by packet identifier.
    Outgoing(OutgoingRecord),
    /// A QoS 2 message from a session that waits for PUBREL, by packet identifier.
    Held(Box<HeldRecord>),
    /// The mark that a message is its topic's retained one.
    Retained,
    /// A message of a share group that a member has whose session is not stored, while another's is: whoever of the
    /// group is there after a crash gets it.
    Lent(QueuedRecord),
    /// The will of a session.
    Will(Box<WillRecord>),
    /// By how many milliseconds the wall clock is ahead of the time by which things age.
    Time(i64),
    /// That an identity was revoked, while something of it is left: whatever of it has a lower number is dead, even if
    /// the identity is registered anew.
    Revoked(Arc<SpiffeId>),
}

/// A session. Its client id is unique within its identity only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// The identity that owns it.
    pub identity: Arc<SpiffeId>,
    /// The client id.
    pub client_id: Arc<str>,
    /// The listener of its newest connection.
    pub listener: Option<Arc<Listener>>,
    /// Protocol version of its newest connection.
    pub version: Version,
    /// How long it outlives its connection; `None` is for ever.
    pub expiry: Option<Duration>,
    /// Since when it has no connection, and when it ends, if it does; `None` while it is connected.
    pub parked: Option<(UnixMillis, Option<UnixMillis>)>,
    /// The highest number of a queued record whose message may have been sent to it. `None` while it is connected: any
    /// may have been.
    pub sent: Option<u64>,
    /// The root that the proof of its newest connection stood by; `None` for other proofs, and in records of earlier
    /// versions.
    pub root: Option<RootId>,
}

/// A subscription as its client asked for it; what it is granted is the policy's to say at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The filter.
    pub filter: SharedFilter,
    /// QoS asked for.
    pub requested: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier.
    pub id: Option<u32>,
    /// Retained messages that are still to be sent for it; `None` once all have been.
    pub owed: Option<OwedRecord>,
}

/// Which retained messages are still to be sent for a subscription. They come in the order of their topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedRecord {
    /// The last topic that needs not be looked at again; `None` where all do.
    pub after: Option<TopicName>,
    /// The highest number of a message that may have been sent in an earlier run without its being stored.
    pub sent: u64,
    /// Topics after that which need not be looked at either.
    pub overtaken: Vec<TopicName>,
}

/// A message and when it was received. Its origin travels with it and is asked for again before it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The message.
    pub message: SharedMessage,
    /// When it was received.
    pub received: UnixMillis,
}

/// A message for one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedRecord {
    /// Number of the message.
    pub message: u64,
    /// QoS of the delivery.
    pub qos: QoS,
    /// RETAIN flag of the delivery.
    pub retain: bool,
    /// Subscription identifiers.
    pub subscription_ids: Option<Arc<[u32]>>,
    /// The shared subscription it came through.
    pub group: Option<Box<SharedFilter>>,
    /// The packet identifier it is or will be sent under at QoS 1; `None` in exchanges, whose key it is, and in records
    /// of earlier versions.
    pub packet_id: Option<PacketId>,
}

/// A QoS 2 exchange towards a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingRecord {
    /// Order of sending.
    pub order: u64,
    /// How far it is.
    pub state: OutgoingState,
}

/// How far a QoS 2 exchange towards a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingState {
    /// PUBLISH may have been sent; PUBREC is due.
    Published(QueuedRecord),
    /// PUBREC came, PUBREL may have been sent; PUBCOMP is due.
    Released,
    /// The message was withdrawn; the identifier stays taken.
    Withdrawn,
}

/// A QoS 2 message from a client between PUBLISH and PUBREL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldRecord {
    /// A message and when it was received.
    Accepted(Publication, UnixMillis),
    /// A message that was denied to a 3.1.1 client, which has to finish the exchange all the same.
    Denied,
}

/// The will of a session, which may itself not be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRecord {
    /// The identity whose will it is.
    pub identity: Arc<SpiffeId>,
    /// The client id.
    pub client_id: Arc<str>,
    /// The listener of the connection that left it.
    pub listener: Option<Arc<Listener>>,
    /// Protocol version of the connection that left it.
    pub version: Version,
    /// As of a session.
    pub root: Option<RootId>,
    /// The will.
    pub will: Will,
    /// When it goes out; `None` while its client is connected.
    pub due: Option<UnixMillis>,
}

impl Record {
    /// Bytes this record takes in memory and, roughly, on disk: for bounding what waits to be written.
    pub fn cost(&self) -> usize {
        const SMALL: usize = 128;
        let extra = match self {
            Self::Session(record) => record.client_id.len() + record.identity.path().len(),
            Self::Subscription(record) => {
                let after = record.owed.as_ref().and_then(|owed| owed.after.as_ref());
                record.filter.filter.as_str().len() + after.map_or(0, |topic| topic.as_str().len())
            }
            Self::Message(stored) => stored.message.bytes(),
            Self::Held(held) => match &**held {
                HeldRecord::Accepted(publication, _) => Message::cost(publication),
                HeldRecord::Denied => 0,
            },
            Self::Will(record) => Message::cost(&record.will.message),
            Self::Revoked(identity) => identity.path().len(),
            Self::Queued(_) | Self::Outgoing(_) | Self::Retained | Self::Lent(_) | Self::Time(_) => 0,
        };
        SMALL + extra
    }
}
