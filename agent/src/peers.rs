//! Who is connected: the process behind each connection, and how much each user may hold.

use crate::{
    AgentLimits,
    attest::{AttestError, AttestPool, Needs, ProcessHandle},
    authority::AuthorityMender,
};
use issuer_core::Selector;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::Connected;

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
    streams: usize,
    by_uid: BTreeMap<u32, Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    streams: usize,
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
    attestations: AttestPool,
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
        let counts = held.by_uid.entry(uid).or_default();
        let (count, limit) = match share {
            Share::Connection => (&mut counts.connections, self.limits.connections_per_uid_max),
            Share::Stream => (&mut counts.streams, self.limits.streams_per_uid_max),
        };
        if *count >= limit {
            return Err(LimitReached { uid, limit });
        }
        *count += 1;
        *held.total(share) += 1;
        Ok(Permit { peers: Arc::clone(self), uid, share })
    }

    /// Returns how many there are of all users.
    pub(crate) fn total(&self, share: Share) -> usize {
        *self.held.lock().total(share)
    }

    fn give_back(&self, uid: u32, share: Share) {
        let mut held = self.held.lock();
        let total = held.total(share);
        *total = total.saturating_sub(1);
        let Some(counts) = held.by_uid.get_mut(&uid) else { return };
        let count = match share {
            Share::Connection => &mut counts.connections,
            Share::Stream => &mut counts.streams,
        };
        *count = count.saturating_sub(1);
        if counts.connections + counts.streams == 0 {
            held.by_uid.remove(&uid);
        }
    }
}

impl Held {
    fn total(&mut self, share: Share) -> &mut usize {
        match share {
            Share::Connection => &mut self.connections,
            Share::Stream => &mut self.streams,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.peers.give_back(self.uid, self.share);
    }
}

impl Peer {
    /// Attests the process anew.
    pub(crate) async fn attest(&self, needs: Needs) -> Result<Vec<Selector>, AttestError> {
        let process = Arc::clone(&self.process);
        self.attestations
            .run(self.uid, move |attestor| match process.as_ref() {
                Ok(process) => attestor.attest(process, needs),
                Err(error) => Err(error.clone()),
            })
            .await
    }
}

/// A connection of a known peer.
#[derive(Debug)]
pub(crate) struct PeerStream {
    stream: UnixStream,
    peer: Peer,
    mender: AuthorityMender,
    _permit: Permit,
}

impl PeerStream {
    /// Takes hold of the process at the other end; `None` when its user has too many connections or
    /// the kernel does not say who it is.
    pub(crate) async fn accept(
        stream: UnixStream,
        peers: &Arc<Peers>,
        attestations: &AttestPool,
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
        let process = attestations.run(uid, move |_| ProcessHandle::open(pid, uid, gid)).await;
        let peer = Peer { uid, process: Arc::new(process), attestations: attestations.clone() };
        Some(Self { stream, peer, mender: AuthorityMender::default(), _permit: permit })
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            self.mender.mend(new);
        }
        read
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
