//! What the broker asks of the identity server beside it.

use async_trait::async_trait;
use midge_identity::{Proof, RootId, RootStanding, SpiffeId, TrustDomain, VerifiedPeer};
use std::net::SocketAddr;
use tokio::sync::watch;

/// Why a peer was not let in: text for the operator, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Where a local connection comes from, as the kernel tells it at accept.
#[derive(Clone, Copy, Debug)]
pub enum LocalOrigin {
    /// A Unix socket, with the credentials of SO_PEERCRED.
    Unix {
        /// Process id of the peer.
        pid: u32,
        /// User id of the peer.
        uid: u32,
        /// Group id of the peer.
        gid: u32,
    },
    /// Loopback TCP, to be looked up among the sockets of this machine.
    Tcp {
        /// Address of the peer.
        peer: SocketAddr,
        /// Our end.
        local: SocketAddr,
    },
}

/// The attested properties of a local process, from which its identity follows.
pub trait LocalClaims: Send + Sync {
    /// Chooses the identity: the one `wanted` names (the MQTT user name), else the most specific.
    ///
    /// # Errors
    /// When no registration entry matches the process, or none that `wanted` names.
    fn identity(&self, wanted: Option<&str>) -> Result<VerifiedPeer, Refusal>;
}

/// Where what admission goes by has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Goes up whenever anything changes.
    pub revision: u64,
    /// Goes up whenever a root comes or goes: what SVIDs stand by.
    pub roots: u64,
}

/// Decides who may be connected at all.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Tells whether an identity is registered and, for a local process, still by the entry that
    /// was chosen. Without a proof the identity alone is asked for: sessions that are parked.
    ///
    /// # Errors
    /// When it is not, and why.
    fn admits(&self, id: &SpiffeId, proof: Option<&Proof>) -> Result<(), Refusal>;

    /// Returns where a root stands for the identities of a trust domain that were proven by it: those whose sessions wait
    /// for their clients too.
    fn root(&self, trust_domain: &TrustDomain, root: &RootId) -> RootStanding;

    /// Attests a local process; called at accept, so that the process id cannot be reused first.
    ///
    /// # Errors
    /// When the process is gone or cannot be named.
    async fn attest(&self, origin: LocalOrigin) -> Result<Box<dyn LocalClaims>, Refusal>;

    /// Changes whenever an answer of [`Admission::admits`] or [`Admission::root`] may have changed.
    fn changes(&self) -> watch::Receiver<Standing>;
}
