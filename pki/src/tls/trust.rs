//! What a verifier trusts at the moment it is asked, and what a connection has proven.

use crate::tls::verified::verify;
use midge_identity::{BundleSet, SvidRejection, UnixMillis, VerifiedPeer};
use rustls::{CertificateError, CommonState, OtherError};
use std::error;
use std::sync::Arc;
use std::{fmt, io};
use thiserror::Error;

/// Current bundles and time. Asked at every handshake, so that a change needs no new configuration.
pub trait TrustSource: Send + Sync {
    /// Bundles that are trusted now. The same `Arc` as long as nothing changed.
    fn bundles(&self) -> Arc<BundleSet>;

    /// Wall-clock time now.
    fn now(&self) -> UnixMillis;
}

/// Bundles that do not change, with a clock.
pub struct FixedTrust {
    bundles: Arc<BundleSet>,
    clock: Box<dyn Fn() -> UnixMillis + Send + Sync>,
}

impl FixedTrust {
    /// Returns a trust source over these bundles.
    pub fn new(bundles: BundleSet, clock: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self { bundles: Arc::new(bundles), clock: Box::new(clock) }
    }
}

impl TrustSource for FixedTrust {
    fn bundles(&self) -> Arc<BundleSet> {
        self.bundles.clone()
    }

    fn now(&self) -> UnixMillis {
        (self.clock)()
    }
}

impl fmt::Debug for FixedTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedTrust").field("bundles", &self.bundles).finish_non_exhaustive()
    }
}

/// Returns who is at the other end of a finished handshake, against what is trusted now. Cheap right after
/// the handshake, at either end.
///
/// # Errors
///
/// [`SvidRejection`]; [`SvidRejection::NoCertificate`] when the peer presented none.
pub fn peer_of(connection: &CommonState, trust: &dyn TrustSource) -> Result<VerifiedPeer, SvidRejection> {
    verify(connection.peer_certificates().unwrap_or_default(), trust)
}

/// The rejection inside a handshake error, as `rustls` and `tokio-rustls` return it, if one caused it.
pub fn rejection_of<'a>(error: &'a (dyn error::Error + 'static)) -> Option<&'a SvidRejection> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return rejection_of(error.get_ref()?);
    }
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref().map(|Cause(rejection)| rejection)
        }
        _ => None,
    }
}

/// Wraps the reason for rustls, which answers the peer with a bare alert.
pub(super) fn handshake_error(reason: impl error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Cause(reason)))))
}

/// rustls shows causes by their `Debug`; whoever reads its message shall see the sentence.
#[derive(Error)]
#[error("{0}")]
struct Cause<E>(E);

impl<E: fmt::Display> fmt::Debug for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
