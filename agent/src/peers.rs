//! Who is connected: the process behind each connection, and how much each user may hold.

use crate::{
    AgentLimits,
    attest::{AttestError, Attestor, Needs, ProcessHandle},
};
use issuer_core::Selector;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::Semaphore,
    task, time,
};
use tonic::transport::server::Connected;

// A file system in user space may let the reading of an executable wait for ever.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is counted per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Connection,
    Stream,
}

/// Counts what each user holds.
#[derive(Debug)]
pub(crate) struct Peers {
    limits: AgentLimits,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    connections: usize,
    by_uid: BTreeMap<u32, Counts>,
}

#[derive(Debug)]
struct Counts {
    connections: usize,
    streams: usize,
    attestations: Arc<Semaphore>,
}

/// One counted thing; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    peers: Arc<Peers>,
    uid: u32,
    share: Share,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user {uid} already has {limit}, which is the limit")]
pub(crate) struct LimitReached {
    uid: u32,
    limit: usize,
}

/// The process at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    process: Arc<Result<ProcessHandle, AttestError>>,
    attestor: Arc<Attestor>,
    peers: Arc<Peers>,
}

impl Peers {
    pub(crate) fn new(limits: AgentLimits) -> Self {
        Self { limits, held: Mutex::default() }
    }

    pub(crate) fn permit(self: &Arc<Self>, uid: u32, share: Share) -> Result<Permit, LimitReached> {
        let mut held = self.held.lock();
        if share == Share::Connection && held.connections >= self.limits.connections_max {
            return Err(LimitReached { uid, limit: self.limits.connections_max });
        }
        let counts = self.counts(&mut held, uid);
        let (count, limit) = match share {
            Share::Connection => (&mut counts.connections, self.limits.connections_per_uid_max),
            Share::Stream => (&mut counts.streams, self.limits.streams_per_uid_max),
        };
        if *count >= limit {
            return Err(LimitReached { uid, limit });
        }
        *count += 1;
        if share == Share::Connection {
            held.connections += 1;
        }
        Ok(Permit { peers: Arc::clone(self), uid, share })
    }

    fn give_back(&self, uid: u32, share: Share) {
        let mut held = self.held.lock();
        if share == Share::Connection {
            held.connections = held.connections.saturating_sub(1);
        }
        let Some(counts) = held.by_uid.get_mut(&uid) else { return };
        let count = match share {
            Share::Connection => &mut counts.connections,
            Share::Stream => &mut counts.streams,
        };
        *count = count.saturating_sub(1);
        // Threads that still attest hold the semaphore: forgetting it would grant as many again.
        if counts.connections + counts.streams == 0 && Arc::strong_count(&counts.attestations) == 1 {
            held.by_uid.remove(&uid);
        }
    }

    fn attestations(&self, uid: u32) -> Arc<Semaphore> {
        Arc::clone(&self.counts(&mut self.held.lock(), uid).attestations)
    }

    fn counts<'a>(&self, held: &'a mut Held, uid: u32) -> &'a mut Counts {
        held.by_uid.entry(uid).or_insert_with(|| Counts {
            connections: 0,
            streams: 0,
            attestations: Arc::new(Semaphore::new(self.limits.attestations_per_uid_max)),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.peers.give_back(self.uid, self.share);
    }
}

/// Why a caller has no selectors.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Attest(#[from] AttestError),
    #[error("attestation took longer than {} s", ATTEST_TIMEOUT.as_secs())]
    TimedOut,
}

impl Peer {
    /// Attests the process anew.
    pub(crate) async fn attest(&self, needs: Needs) -> Result<Vec<Selector>, PeerError> {
        let process = Arc::clone(&self.process);
        let attestor = Arc::clone(&self.attestor);
        blocking(&self.peers, self.uid, move || match process.as_ref() {
            Ok(process) => attestor.attest(process, needs),
            Err(error) => Err(error.clone()),
        })
        .await?
        .map_err(PeerError::Attest)
    }
}

/// Runs what reads `/proc` and files on a thread of its own. A thread that hangs keeps its permit:
/// a user can tie up only as many as he has.
async fn blocking<T: Send + 'static>(
    peers: &Arc<Peers>,
    uid: u32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PeerError> {
    let permits = peers.attestations(uid);
    let work = async move {
        let permit = permits.acquire_owned().await;
        task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    };
    match time::timeout(ATTEST_TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(PeerError::TimedOut),
        },
        Err(_elapsed) => Err(PeerError::TimedOut),
    }
}

/// A connection of a known peer.
#[derive(Debug)]
pub(crate) struct PeerStream {
    stream: UnixStream,
    peer: Peer,
    _permit: Permit,
}

impl PeerStream {
    /// Takes hold of the process at the other end; `None` when it has too many connections or the
    /// kernel does not say who it is.
    pub(crate) async fn accept(
        stream: UnixStream,
        peers: &Arc<Peers>,
        attestor: &Arc<Attestor>,
    ) -> Option<Self> {
        let credentials = stream.peer_cred().ok()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let permit = match peers.permit(uid, Share::Connection) {
            Ok(permit) => permit,
            Err(error) => {
                tracing::debug!(%error, "connection refused");
                return None;
            }
        };
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        let process = match blocking(peers, uid, move || ProcessHandle::open(pid, uid, gid)).await {
            Ok(process) => process,
            Err(error) => {
                tracing::debug!(%error, uid, pid, "connection refused");
                return None;
            }
        };
        let peer = Peer {
            uid,
            process: Arc::new(process),
            attestor: Arc::clone(attestor),
            peers: Arc::clone(peers),
        };
        Some(Self { stream, peer, _permit: permit })
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Arc<Peers> {
        let limits = AgentLimits {
            connections_max: 3,
            connections_per_uid_max: 2,
            streams_per_uid_max: 1,
            ..AgentLimits::default()
        };
        Arc::new(Peers::new(limits))
    }

    #[test]
    fn a_user_holds_no_more_than_its_share() {
        let peers = peers();
        let first = peers.permit(1, Share::Connection).unwrap();
        let _second = peers.permit(1, Share::Connection).unwrap();
        assert!(peers.permit(1, Share::Connection).is_err());
        drop(first);
        let _again = peers.permit(1, Share::Connection).unwrap();
        let _stream = peers.permit(1, Share::Stream).unwrap();
        assert!(peers.permit(1, Share::Stream).is_err());
    }

    #[test]
    fn all_users_together_hold_no_more_than_the_total() {
        let peers = peers();
        let held: Vec<_> = (1..=3).map(|uid| peers.permit(uid, Share::Connection).unwrap()).collect();
        assert_eq!(peers.permit(4, Share::Connection).unwrap_err(), LimitReached { uid: 4, limit: 3 });
        drop(held);
        assert!(peers.held.lock().by_uid.is_empty(), "nothing is kept of users who are gone");
        assert!(peers.permit(4, Share::Connection).is_ok());
    }
}
