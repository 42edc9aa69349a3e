//! The first contact of a node that holds nothing but the SHA-256 of the cloud's root.

use crate::tls::provider;
use midge_identity::{BundleSet, CertificateFacts, IdError, SvidRejection, TrustDomain, parse_spiffe_id};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Why a downloaded root is not used.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PinError {
    /// Not 64 hexadecimal digits.
    #[error("'{0}' is not a SHA-256 in hexadecimal")]
    Syntax(String),
    /// Another certificate than the one that was pinned: someone is in between, or the token is another cloud's.
    #[error("root certificate has SHA-256 {is}, the token says {expected}: do not trust this server")]
    Mismatch {
        /// Digest of what was downloaded.
        is: String,
        /// Digest that was pinned.
        expected: String,
    },
    /// Not a certificate.
    #[error(transparent)]
    Certificate(#[from] SvidRejection),
    /// The root names no trust domain.
    #[error("root certificate has no SPIFFE ID of a trust domain")]
    NoTrustDomain,
    /// The root's URI SAN is not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] IdError),
}

/// SHA-256 of a root certificate's DER, as join tokens carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RootPin([u8; 32]);

impl RootPin {
    /// Returns the pin of a root certificate (DER).
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Compares a root certificate (DER) with the pin.
    ///
    /// # Errors
    ///
    /// [`PinError`] when it is another one, or no certificate at all.
    pub fn check(self, der: &[u8]) -> Result<PinnedRoot, PinError> {
        let is = Self::of(der);
        if is != self {
            return Err(PinError::Mismatch { is: is.to_string(), expected: self.to_string() });
        }
        CertificateFacts::parse(der)?;
        Ok(PinnedRoot { der: der.to_vec() })
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for RootPin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)
            .map_err(|_| PinError::Syntax(text.escape_debug().to_string()))?;
        Ok(Self(digest))
    }
}

/// A root certificate that matched its pin. Made only by [`RootPin::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedRoot {
    der: Vec<u8>,
}

impl PinnedRoot {
    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the bundle that this root makes for the trust domain it names, to verify the
    /// server's SPIFFE ID with.
    ///
    /// # Errors
    ///
    /// [`PinError`] when the root names no trust domain.
    pub fn bundles(&self) -> Result<BundleSet, PinError> {
        let mut bundles = BundleSet::new();
        bundles.insert(self.trust_domain()?, vec![self.der.clone()]);
        Ok(bundles)
    }

    /// Returns the trust domain that the root names in its URI SAN.
    ///
    /// # Errors
    ///
    /// [`PinError`] when it names none.
    pub fn trust_domain(&self) -> Result<TrustDomain, PinError> {
        let facts = CertificateFacts::parse(&self.der)?;
        match facts.uri_sans.as_slice() {
            [uri] => Ok(parse_spiffe_id(uri)?.trust_domain().clone()),
            _ => Err(PinError::NoTrustDomain),
        }
    }
}

/// A way to download one root certificate from a server that cannot be verified yet.
///
/// The connection proves nothing about the server. It carries no client certificate, and nothing but
/// the request for the public root may be sent on it: no token, no CSR. What comes back is worth
/// something only after [`FetchOnly::accept`].
#[derive(Debug)]
pub struct FetchOnly {
    pin: RootPin,
    config: Arc<ClientConfig>,
}

impl FetchOnly {
    /// The configuration that accepts any server. For `GET /ca.crt` and nothing else.
    pub fn unverified_config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Compares what was downloaded (DER) with the pin, and ends the use of the unverified configuration.
    ///
    /// # Errors
    ///
    /// [`PinError`] when it is not the pinned root.
    pub fn accept(self, body: &[u8]) -> Result<PinnedRoot, PinError> {
        self.pin.check(body)
    }
}

/// Returns the means to download the root certificate with this pin.
#[expect(clippy::expect_used, reason = "the provider is fixed and has suites for both versions")]
pub fn fetch_only_config(pin: RootPin) -> FetchOnly {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc-rs supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    FetchOnly { pin, config: Arc::new(config) }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}
