//! Counters since the start, and sizes now.

/// Counters and sizes of one broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Connections now.
    pub connections: u64,
    /// Sessions now, parked ones included.
    pub sessions: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Retained messages now.
    pub retained_messages: u64,
    /// Bytes of retained messages now.
    pub retained_bytes: u64,
    /// Messages that wait for clients now, queued, not acknowledged yet, or not released yet: each counts for each client
    /// that it waits for.
    pub waiting_messages: u64,
    /// Bytes of these, and about what keeping them takes.
    pub waiting_bytes: u64,
    /// Connections accepted.
    pub connects: u64,
    /// Sessions that ended because nobody came back to them in time.
    pub sessions_expired: u64,
    /// Packets of any kind received from clients.
    pub packets_in: u64,
    /// Packets of any kind sent to clients.
    pub packets_out: u64,
    /// Messages received from clients.
    pub messages_in: u64,
    /// Messages sent to clients.
    pub messages_out: u64,
    /// Payload bytes received from clients.
    pub payload_bytes_in: u64,
    /// Payload bytes sent to clients.
    pub payload_bytes_out: u64,
    /// Times a client was left unread for a while because it publishes faster than its rule allows.
    pub throttled: u64,
    /// Messages that did not reach a receiver.
    pub dropped: Dropped,
    /// Requests denied by policy.
    pub denials: Denials,
}

/// Messages that did not reach a receiver, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The session's queue was full.
    pub queue_full: u64,
    /// The receiver does not read fast enough (QoS 0).
    pub slow_reader: u64,
    /// The message expired.
    pub expired: u64,
    /// The receiver's Maximum Packet Size is smaller.
    pub too_large: u64,
    /// No member of the share group could take it.
    pub no_member: u64,
    /// The retained store was full.
    pub retained_full: u64,
    /// Its publisher was revoked while it waited.
    pub revoked: u64,
    /// The session ended while it waited.
    pub session_ended: u64,
    /// Wills of an identity that came faster than its rate.
    pub will_too_fast: u64,
}

impl Dropped {
    /// Returns the sum over all reasons.
    pub fn total(&self) -> u64 {
        let Self {
            queue_full,
            slow_reader,
            expired,
            too_large,
            no_member,
            retained_full,
            revoked,
            session_ended,
            will_too_fast,
        } = self;
        let unread = queue_full + slow_reader + expired + too_large;
        unread + no_member + retained_full + revoked + session_ended + will_too_fast
    }
}

/// Requests denied by policy, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// CONNECT refused.
    pub connect: u64,
    /// PUBLISH on arrival or at release.
    pub publish: u64,
    /// SUBSCRIBE, per filter.
    pub subscribe: u64,
    /// Subscriptions removed by a policy change.
    pub subscriptions_revoked: u64,
    /// Messages withheld from a receiver.
    pub receive: u64,
    /// Wills at CONNECT or when they fire.
    pub will: u64,
}
