//! Why the agent cannot start or go on.

use std::{io, path::PathBuf};

/// Why the agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Another process listens at the socket.
    #[error("another process serves {}: stop it, or set another socket path", path.display())]
    SocketInUse {
        /// Socket.
        path: PathBuf,
    },
    /// Something else has the socket's name.
    #[error("{} exists and is not a socket: move it away, or set another socket path", path.display())]
    NotASocket {
        /// File.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {}: {error}", path.display())]
    Listen {
        /// Socket.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The Workload API server has failed.
    #[error("the Workload API at {} has failed: {error}", path.display())]
    Serve {
        /// Socket.
        path: PathBuf,
        /// What went wrong.
        error: tonic::transport::Error,
    },
    /// The source of entries is gone.
    #[error("the identity server's feed of entries has ended")]
    UpstreamEnded,
}
