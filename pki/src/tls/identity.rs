//! Our own SVIDs: the current one at every handshake, so that rotation rebuilds nothing.

use crate::PrivateKey;
use midge_identity::{CertificateFacts, IdError, SpiffeId, SvidRejection, UnixMillis, parse_spiffe_id};
use parking_lot::{Mutex, RwLock};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Why a chain and a key are not an identity.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The leaf cannot be used.
    #[error(transparent)]
    Certificate(#[from] SvidRejection),
    /// The leaf's URI SAN is not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] IdError),
    /// Key and leaf do not belong together.
    #[error("private key does not belong to the certificate of '{0}'")]
    KeyMismatch(SpiffeId),
}

/// An X.509-SVID with its private key.
#[derive(Clone, Debug)]
pub struct SvidIdentity {
    /// SPIFFE ID of the leaf.
    pub id: SpiffeId,
    /// Leaf first, then the intermediates; no root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key of the leaf.
    pub key: Arc<PrivateKey>,
    /// notAfter of the leaf.
    pub expires: UnixMillis,
}

impl SvidIdentity {
    /// Reads ID and expiry from a chain (leaf first) and checks that the key is the leaf's.
    ///
    /// # Errors
    ///
    /// [`IdentityError`] when the chain is empty or malformed, the leaf has not exactly one SPIFFE
    /// ID, or the key is another one's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Arc<PrivateKey>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(SvidRejection::NoCertificate)?;
        let facts = CertificateFacts::parse(leaf)?;
        let id = match facts.uri_sans.as_slice() {
            [] => return Err(SvidRejection::NoUriSan.into()),
            [uri] => parse_spiffe_id(uri)?,
            several => return Err(SvidRejection::SeveralUriSans(several.len()).into()),
        };
        if facts.public_key_der != key.public_key_der() {
            return Err(IdentityError::KeyMismatch(id));
        }
        Ok(Self { id, chain, key, expires: facts.not_after })
    }

    /// Serial number of the leaf in lower-case hex; empty when the leaf is malformed.
    pub fn serial(&self) -> String {
        let facts = self.chain.first().and_then(|leaf| CertificateFacts::parse(leaf).ok());
        facts.map(|facts| facts.serial).unwrap_or_default()
    }
}

/// Where a TLS configuration finds its SVID.
pub trait IdentitySource: Send + Sync {
    /// The SVID to present now, if there is one. The same `Arc` until it is rotated.
    fn current(&self) -> Option<Arc<SvidIdentity>>;
}

/// A place for the current SVID: set by who rotates it, read at every handshake.
#[derive(Debug, Default)]
pub struct CurrentIdentity {
    current: RwLock<Option<Arc<SvidIdentity>>>,
}

impl CurrentIdentity {
    /// Returns an empty place: handshakes fail until it is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the SVID. Handshakes that begin later present the new one.
    pub fn set(&self, identity: SvidIdentity) {
        *self.current.write() = Some(Arc::new(identity));
    }

    /// Takes the SVID away.
    pub fn clear(&self) {
        *self.current.write() = None;
    }
}

impl IdentitySource for CurrentIdentity {
    fn current(&self) -> Option<Arc<SvidIdentity>> {
        self.current.read().clone()
    }
}

/// Answers rustls from an [`IdentitySource`].
pub(super) struct CurrentSvid {
    source: Arc<dyn IdentitySource>,
    // What rustls wants is built once per SVID, not once per handshake.
    built: Mutex<Option<(Arc<SvidIdentity>, Arc<CertifiedKey>)>>,
}

impl CurrentSvid {
    pub(super) fn new(source: Arc<dyn IdentitySource>) -> Self {
        Self { source, built: Mutex::new(None) }
    }

    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        let identity = self.source.current()?;
        let mut built = self.built.lock();
        if let Some((of, key)) = built.as_ref()
            && Arc::ptr_eq(of, &identity)
        {
            return Some(key.clone());
        }
        let key = Arc::new(CertifiedKey::new(identity.chain.clone(), identity.key.signing_key()));
        *built = Some((identity, key.clone()));
        Some(key)
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }

    fn has_certs(&self) -> bool {
        self.source.current().is_some()
    }
}

impl fmt::Debug for CurrentSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentSvid")
    }
}
