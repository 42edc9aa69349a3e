//! The proof of an identity: what everything that decides about a peer takes.

use crate::{CertificateFacts, SpiffeId, UnixMillis};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// A root as it stands in a bundle; DER, shared by all whose chains lead to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Anchor(Arc<[u8]>, RootId);

/// Which root it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId {
    /// SHA-256 of its DER.
    pub digest: [u8; 32],
    /// When it ends by itself: it may be missing from then on without anybody having taken it away.
    pub ends: UnixMillis,
}

impl RootId {
    /// The same root for who has seen that it lost its trust: that it has ended since excuses nothing.
    #[must_use]
    pub fn distrusted(self) -> Self {
        Self { ends: UnixMillis(u64::MAX), ..self }
    }
}

impl Anchor {
    pub(crate) fn new(der: &[u8]) -> Self {
        let ends = CertificateFacts::parse(der).map_or(UnixMillis(u64::MAX), |facts| facts.not_after);
        Self(der.into(), RootId { digest: Sha256::digest(der).into(), ends })
    }

    /// Which root it is, for who has to know it again after the certificate is gone.
    pub fn id(&self) -> RootId {
        self.1
    }

    /// The root's certificate; DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchor({} bytes)", self.0.len())
    }
}

/// How a peer proved its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An X.509-SVID over mTLS.
    X509Svid {
        /// Serial number of the leaf, lower-case hex.
        serial: Arc<str>,
        /// The root that its chain leads to.
        anchor: Anchor,
    },
    /// The kernel named the process at the other end, and its selectors chose a registration entry.
    Local {
        /// Process id at attestation.
        pid: u32,
        /// User id of the process.
        uid: u32,
        /// Registration entry that was chosen.
        entry_id: Arc<str>,
        /// Fingerprint of what the entry demanded of the process then.
        demands: [u8; 32],
    },
}

/// A peer whose identity has been proven. Made only by chain verification
/// ([`crate::verify_x509_svid`]) and by local attestation ([`VerifiedPeer::attested`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    expires: Option<UnixMillis>,
    proof: Proof,
}

impl Proof {
    /// The root that the proof stands by; none where an entry chose the identity of a local process.
    pub fn root(&self) -> Option<RootId> {
        match self {
            Self::X509Svid { anchor, .. } => Some(anchor.id()),
            Self::Local { .. } => None,
        }
    }
}

impl VerifiedPeer {
    pub(crate) fn from_x509_svid(
        id: SpiffeId,
        expires: UnixMillis,
        serial: Arc<str>,
        anchor: Anchor,
    ) -> Self {
        Self { id, expires: Some(expires), proof: Proof::X509Svid { serial, anchor } }
    }

    /// Returns the identity of an attested local process, as its registration entry says. `demands`: fingerprint of
    /// what the entry demands of its workloads, so that one which demands something else later is told from it.
    pub fn attested(id: SpiffeId, pid: u32, uid: u32, entry_id: Arc<str>, demands: [u8; 32]) -> Self {
        Self { id, expires: None, proof: Proof::Local { pid, uid, entry_id, demands } }
    }

    /// SPIFFE ID of the peer.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When the proof ends by itself: the first notAfter of the chain; never for a local process.
    pub fn expires(&self) -> Option<UnixMillis> {
        self.expires
    }

    /// How it was proven.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }
}
