//! Read-only views for the admin API.

use crate::ConnId;
use midge_identity::{Proof, SpiffeId, UnixMillis};
use mqtt_proto::{QoS, Version};
use std::sync::Arc;

/// One session as an operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionSnapshot {
    /// The identity that owns it.
    pub identity: Arc<SpiffeId>,
    /// The client id.
    pub client_id: Arc<str>,
    /// Protocol version of the newest connection.
    pub version: Version,
    /// Connected or parked.
    pub state: SessionState,
    /// Subscriptions: filter as the client spelled it, granted QoS.
    pub subscriptions: Vec<(Arc<str>, QoS)>,
    /// Messages waiting.
    pub queued: usize,
    /// Bytes of messages waiting.
    pub queued_bytes: usize,
    /// Messages sent and not acknowledged.
    pub inflight: usize,
    /// QoS 2 messages from the client that wait for PUBREL.
    pub held: usize,
}

/// Whether a session is connected.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionState {
    /// Connected.
    Live {
        /// The connection.
        conn: ConnId,
        /// Since when.
        since: UnixMillis,
        /// How the identity was proven.
        proof: Proof,
        /// When the proof ends.
        expires: Option<UnixMillis>,
    },
    /// Not connected.
    Parked {
        /// Since when.
        since: UnixMillis,
        /// When the session ends; `None` when it never does.
        ends: Option<UnixMillis>,
    },
}
