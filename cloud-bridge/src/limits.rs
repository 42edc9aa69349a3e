//! Every cap of the channel's sockets, with its reason.

use std::time::Duration;

/// Largest message in bytes, reassembled from its frames: KubeEdge's router takes bodies of 12 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// KubeEdge's default project, part of the URL and a header; nobody looks at it.
pub const PROJECT_ID_DEFAULT: &str = "e632aba927ea4ac2b575ec1603d56f10";

/// TCP, TLS and websocket handshakes, each; KubeEdge's handshake timeout is 30 s.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// One message must leave within this time, or the peer does not read.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Messages that wait for the socket: the windows of both directions and their answers stay below.
pub(crate) const OUTGOING_MESSAGES_MAX: usize = 512;
/// Messages that have been read and not handled: the reader waits when it is full.
pub(crate) const INCOMING_MESSAGES_MAX: usize = 64;
/// What those may weigh together in memory, in bytes; one alone may weigh more.
pub(crate) const INCOMING_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// What one message may weigh in memory, in bytes: text of the largest size, or a list of a million numbers.
pub(crate) const MESSAGE_WEIGHT_MAX: usize = 4 * MESSAGE_BYTES_MAX;
/// Handshakes at once: each costs a private key operation and a task.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// Body of a bootstrap request: a CSR.
pub(crate) const BOOTSTRAP_BODY_BYTES_MAX: usize = 16 * 1024;
/// Body of a bootstrap answer: a certificate chain.
pub(crate) const BOOTSTRAP_ANSWER_BYTES_MAX: usize = 256 * 1024;
