//! Decisions as data, for the audit log.

use crate::{CloseReason, ConnId, RuleTally};
use midge_identity::{Proof, SpiffeId, UnixMillis};
use midge_policy::{Denial, RuleName};
use mqtt_proto::{QoS, ReasonCode, Version};
use std::sync::Arc;

/// One event of the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEvent {
    /// When.
    pub at: UnixMillis,
    /// The identity concerned.
    pub identity: Arc<SpiffeId>,
    /// The client id within the identity; empty where no single client is concerned.
    pub client_id: Arc<str>,
    /// The connection, where there is one.
    pub conn: Option<ConnId>,
    /// What happened.
    pub kind: AuditKind,
}

/// Where on its way a message was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// On arrival: PUBLISH, or the will of a CONNECT.
    Arrival,
    /// Later: PUBREL, a will that fires, a queued or retained message.
    Release,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum AuditKind {
    /// A client connected.
    Connected {
        /// The listener it came in by.
        listener: Arc<str>,
        /// Protocol version.
        version: Version,
        /// How the identity was proven.
        proof: Proof,
        /// Whether an earlier session was resumed.
        session_present: bool,
    },
    /// A CONNECT was refused.
    ConnectRefused {
        /// The listener it came in by.
        listener: Arc<str>,
        /// The code of the CONNACK.
        reason: ReasonCode,
        /// The denial, when policy refused it.
        denial: Option<Denial>,
    },
    /// A connection ended.
    Disconnected {
        /// The listener it had come in by.
        listener: Option<Arc<str>>,
        /// How the identity was proven last.
        proof: Proof,
        /// Why.
        cause: CloseReason,
        /// Messages received from the client.
        messages_in: u64,
        /// Messages sent to the client.
        messages_out: u64,
        /// Publications accepted from the client, by the rule that allowed them; wills are not among them.
        published: RuleTally,
        /// Publications denied, by the rule that denied them; `(none)` where no rule allows them.
        denied: RuleTally,
    },
    /// A session ended for good, with all it held.
    SessionEnded,
    /// The identity was proven again on a live connection.
    Reauthenticated {
        /// How the identity is proven now.
        proof: Proof,
        /// Until when, if it ends.
        expires: Option<UnixMillis>,
    },
    /// A subscription was granted.
    Subscribed {
        /// The filter as the client spelled it.
        filter: Arc<str>,
        /// Granted QoS.
        qos: QoS,
        /// The rule that permits it.
        rule: Arc<str>,
        /// Where not all of it was granted: the filters that were, without exception.
        parts: Option<Box<[Arc<str>]>>,
    },
    /// A subscription was denied.
    SubscribeDenied {
        /// The filter as the client spelled it.
        filter: Arc<str>,
        /// Why.
        denial: Denial,
    },
    /// A subscription was removed because policy no longer permits it.
    SubscriptionRevoked {
        /// The filter as the client spelled it.
        filter: Arc<str>,
        /// Why.
        denial: Denial,
    },
    /// A subscription was removed by the client.
    Unsubscribed {
        /// The filter as the client spelled it.
        filter: Arc<str>,
    },
    /// A message was denied to its publisher.
    PublishDenied {
        /// The topic.
        topic: Arc<str>,
        /// Where.
        stage: Stage,
        /// Why.
        denial: Denial,
    },
    /// A will was denied.
    WillDenied {
        /// The topic.
        topic: Arc<str>,
        /// Where.
        stage: Stage,
        /// Why.
        denial: Denial,
    },
    /// A message was denied to this receiver: one that came, that waited, or that was retained.
    ReceiveDenied {
        /// The topic.
        topic: Arc<str>,
        /// Why.
        denial: Denial,
    },
    /// So many further messages were denied to this receiver as [`Self::ReceiveDenied`] says, and not told one by
    /// one; the event is of the last of them.
    Withheld {
        /// The topic of one of them.
        topic: Arc<str>,
        /// The rule that denied them, if one did.
        rule: Option<RuleName>,
        /// How many.
        count: u64,
        /// Since when.
        since: UnixMillis,
    },
    /// A retained message was removed because its publisher lost the right to it.
    RetainedPurged {
        /// The topic.
        topic: Arc<str>,
    },
}
