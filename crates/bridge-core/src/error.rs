//! What peers do wrong.

use thiserror::Error;

/// Why bytes are not a message.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than the limit.
    #[error("message of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// Length of the message in bytes.
        bytes: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// Not a JSON object.
    #[error("not a KubeEdge message: it does not start with `{{`")]
    NoObject,
    /// Not the JSON of a message.
    #[error("not a KubeEdge message: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a peer did that ends its session.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// The edge fell silent.
    #[error("no keepalive for {secs} s")]
    NoKeepalive {
        /// Seconds without keepalive.
        secs: u64,
    },
    /// The cloud answers nothing.
    #[error("the cloud has sent nothing for {secs} s")]
    CloudSilent {
        /// Seconds without any message.
        secs: u64,
    },
    /// The cloud continues a log the edge does not have.
    #[error("the cloud resumes log {offered}, this edge is at log {own}: it should have sent a snapshot")]
    WrongLog {
        /// Log that the cloud named.
        offered: String,
        /// Log of the cursor.
        own: String,
    },
    /// A snapshot in more parts than the edge collects, or whose parts contradict each other.
    #[error("snapshot in {parts} parts, part {part}: at most {limit} are accepted")]
    Snapshot {
        /// Announced parts.
        parts: usize,
        /// Announced index.
        part: usize,
        /// Limit.
        limit: usize,
    },
    /// A message that says it is one thing and holds another.
    #[error("malformed {resource}: {reason}")]
    Malformed {
        /// Resource of the message.
        resource: String,
        /// What is wrong.
        reason: String,
    },
}
