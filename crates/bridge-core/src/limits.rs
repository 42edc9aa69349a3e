//! Every cap and period of the channel, with its reason.

use std::time::Duration;

/// Bounds and periods of one session. [`Limits::default`] is what both ends run with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Period of the edge's keepalive; KubeEdge's `heartbeat`.
    pub keepalive_every: Duration,
    /// The cloud ends a session without keepalive for so long; KubeEdge's `keepaliveInterval`.
    pub keepalive_dead: Duration,
    /// Unacknowledged messages are sent again after so long, as KubeEdge does.
    pub retransmit_after: Duration,
    /// After a refusal (of a CSR, for instance) the next try waits so long.
    pub refused_retry_after: Duration,
    /// A peer that has not sent its cursor by then is a stock edgehub.
    pub greeting_within: Duration,
    /// Messages in flight per direction: bounds the copies kept for retransmission.
    pub window: usize,
    /// Changes handed to the host in one batch: bounds one store commit.
    pub apply_batch: usize,
    /// Upward messages being stored at once per node; more are dropped, the edge sends them again.
    pub storing: usize,
    /// What those may weigh together in memory, in bytes ([`crate::Message::weight`]); one alone may weigh more.
    pub storing_bytes: usize,
    /// Bytes of content in one part of a snapshot: keeps parts well under the frame limit.
    pub snapshot_part_bytes: usize,
    /// Parts of one snapshot that an edge collects in memory.
    pub snapshot_parts: usize,
    /// How often an edge looks for new signed lines of its audit log once the cloud has all.
    pub audit_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keepalive_every: Duration::from_secs(15),
            keepalive_dead: Duration::from_secs(30),
            retransmit_after: Duration::from_secs(5),
            refused_retry_after: Duration::from_secs(30),
            greeting_within: Duration::from_secs(10),
            window: 64,
            apply_batch: 256,
            storing: 256,
            storing_bytes: 32 << 20,
            snapshot_part_bytes: 256 * 1024,
            snapshot_parts: 512,
            audit_every: Duration::from_secs(2),
        }
    }
}
