//! Chains that were verified a moment ago.

use crate::tls::provider;
use crate::tls::trust::TrustSource;
use midge_identity::{BundleSet, SvidRejection, UnixMillis, VerifiedPeer, verify_x509_svid};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

/// Most chains remembered, about 300 bytes each. When full, all are forgotten.
const CHAINS_MAX: usize = 4096;

/// Accepted chains of this process, so that asking a connection for its peer right after the handshake,
/// or a reconnect with the same SVID, does not repeat the signature checks. Possession of the
/// private key is proven by each handshake; only the chain is remembered.
static ACCEPTED: LazyLock<Mutex<HashMap<[u8; 32], Accepted>>> = LazyLock::new(Mutex::default);

struct Accepted {
    peer: VerifiedPeer,
    // The verdict holds for these bundles only. Unlike its address alone, the weak reference cannot
    // come to mean other bundles.
    bundles: Weak<BundleSet>,
    at: UnixMillis,
}

impl Accepted {
    fn holds(&self, bundles: &Arc<BundleSet>, now: UnixMillis) -> bool {
        let expires = self.peer.expires().unwrap_or_default();
        // A clock that stepped back may stand before the chain's validity.
        std::ptr::eq(self.bundles.as_ptr(), Arc::as_ptr(bundles))
            && self.at <= now
            && now.as_secs() <= expires.as_secs()
    }
}

/// Verifies a chain (leaf first) against what is trusted now.
pub(super) fn verify(
    chain: &[CertificateDer<'_>],
    trust: &dyn TrustSource,
) -> Result<VerifiedPeer, SvidRejection> {
    let (bundles, now) = (trust.bundles(), trust.now());
    let fingerprint = fingerprint(chain);
    if let Some(accepted) = ACCEPTED.lock().get(&fingerprint)
        && accepted.holds(&bundles, now)
    {
        return Ok(accepted.peer.clone());
    }
    let peer = verify_x509_svid(chain, &bundles, provider().signature_verification_algorithms.all, now)?;
    let accepted = Accepted { peer: peer.clone(), bundles: Arc::downgrade(&bundles), at: now };
    let mut all = ACCEPTED.lock();
    if all.len() >= CHAINS_MAX {
        all.clear();
    }
    all.insert(fingerprint, accepted);
    Ok(peer)
}

fn fingerprint(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for certificate in chain {
        // With the lengths, so that no other cut of the same bytes has the same fingerprint.
        hash.update((certificate.len() as u64).to_be_bytes());
        hash.update(certificate);
    }
    hash.finalize().into()
}
