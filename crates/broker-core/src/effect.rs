//! What goes in and out of the core besides packets: connection ids, time, effects.

use crate::SharedMessage;
use crate::{AuditEvent, AuthRequest, StoreBatch};
use midge_identity::{SpiffeId, UnixMillis};
use mqtt_proto::{Packet, PacketId, PublishRef, QoS, ReasonCode, Version, encoded_len};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// One network connection, numbered by the shell; a number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// The time of an input, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since the start of the process: keep alive, expiry, delays.
    pub mono: Duration,
    /// Wall-clock time: SVID expiry and audit.
    pub wall: UnixMillis,
}

/// Something the shell has to do, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Encode this packet and write it.
    Send {
        /// The connection.
        conn: ConnId,
        /// The packet.
        packet: Packet,
    },
    /// Encode a PUBLISH and write it.
    Deliver {
        /// The connection.
        conn: ConnId,
        /// The PUBLISH.
        delivery: Delivery,
    },
    /// Throw away what was sent before and is not written yet, in the middle of a packet if need be: the client may not
    /// have it any more.
    Discard {
        /// The connection.
        conn: ConnId,
    },
    /// Write what was sent before, then close. The core has forgotten the connection already.
    Close {
        /// The connection.
        conn: ConnId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// Judge this and say so with [`crate::Broker::handle_authenticated`]. A connection has one such effect
    /// outstanding at most.
    Authenticate {
        /// The connection.
        conn: ConnId,
        /// The method and what the client sent.
        request: Box<AuthRequest>,
    },
    /// Record a decision.
    Audit(Box<AuditEvent>),
    /// Store these changes, after those of every batch before, and call [`crate::Broker::handle_stored`].
    Store(Box<StoreBatch>),
}

impl Effect {
    /// Bytes this effect counts against its connection until [`crate::Broker::handle_flushed`]: the
    /// encoded length, in 5.0 whatever the connection's version is.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Send { packet, .. } => encoded_len(packet, Version::V5),
            Self::Deliver { delivery, .. } => delivery.bytes(),
            Self::Discard { .. }
            | Self::Close { .. }
            | Self::Authenticate { .. }
            | Self::Audit(_)
            | Self::Store(_) => 0,
        }
    }
}

/// One PUBLISH to one receiver: a shared message and what differs per receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The message, shared by all receivers.
    pub message: SharedMessage,
    /// QoS of this PUBLISH: the lower of publisher's and subscription's.
    pub qos: QoS,
    /// RETAIN flag of this PUBLISH.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet identifier, present when QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Subscription identifiers, lowest first; `None` when there are none.
    pub subscription_ids: Option<Arc<[u32]>>,
    /// Topic alias to carry (5.0).
    pub topic_alias: Option<NonZeroU16>,
    /// Leave the topic empty: the alias has been sent before.
    pub omit_topic: bool,
    /// Message Expiry Interval to carry, in seconds: what is left of the publisher's.
    pub expiry_secs: Option<u32>,
    pub(crate) bytes: u32,
}

impl Delivery {
    /// Returns the PUBLISH to encode.
    pub fn publish(&self) -> PublishRef<'_> {
        let publication = self.message.publication();
        PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic: (!self.omit_topic).then_some(&publication.topic),
            topic_alias: self.topic_alias,
            subscription_ids: self.subscription_ids.as_deref().unwrap_or_default(),
            message_expiry_secs: self.expiry_secs,
            properties: publication.properties.as_deref(),
            payload: &publication.payload,
        }
    }

    /// Length of the encoded PUBLISH in bytes.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

/// How a network connection ended, as the shell saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer closed it.
    Eof,
    /// Reading or writing failed.
    Failed(Arc<str>),
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// CONNECT was answered with this code.
    Refused(ReasonCode),
    /// The client sent DISCONNECT with this code.
    ClientDisconnected(ReasonCode),
    /// The network connection ended without DISCONNECT.
    Lost(CloseCause),
    /// The same client connected again.
    TakenOver,
    /// Nothing came for one and a half keep alive intervals.
    KeepAlive,
    /// The client broke the protocol or a limit.
    Protocol(ReasonCode),
    /// The client does not read what it is sent.
    Slow,
    /// A publish was denied and the configuration says to disconnect for it.
    Denied,
    /// The client asked to be authenticated again, and could not prove who it is.
    NotAuthenticated,
    /// The SVID expired.
    SvidExpired,
    /// The identity was revoked.
    Revoked(Arc<str>),
    /// What proved the identity proves nothing any more; the identity stands.
    ProofEnded(Arc<str>),
    /// An operator ended the session.
    Administrative,
    /// The broker stops.
    Drain,
}

/// Identities that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The identities.
    pub identities: Vec<SpiffeId>,
    /// Why, for the audit log; the client is told that it is so, not why.
    pub reason: Arc<str>,
}
