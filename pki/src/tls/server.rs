//! The server end: mutual TLS with X.509-SVIDs, no resumption.

use crate::tls::identity::{CurrentSvid, IdentitySource};
use crate::tls::provider;
use crate::tls::trust::{TrustSource, handshake_error};
use crate::tls::verified::verify;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Verifies client certificates as X.509-SVIDs against what is trusted at the time of the handshake.
pub struct SvidClientVerifier {
    trust: Arc<dyn TrustSource>,
    mandatory: bool,
}

impl SvidClientVerifier {
    /// Returns a verifier that lets nobody in without an SVID.
    pub fn required(trust: Arc<dyn TrustSource>) -> Arc<Self> {
        Self::new(trust, true)
    }

    /// Returns a verifier that lets clients in without a certificate; one that is presented must
    /// still be a valid SVID.
    pub fn optional(trust: Arc<dyn TrustSource>) -> Arc<Self> {
        Self::new(trust, false)
    }

    fn new(trust: Arc<dyn TrustSource>, mandatory: bool) -> Arc<Self> {
        Arc::new(Self { trust, mandatory })
    }
}

impl ClientCertVerifier for SvidClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // Empty: names of roots in every handshake would tell strangers whom we federate with.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(end_entity).chain(intermediates).map(borrow).collect();
        verify(&chain, self.trust.as_ref()).map_err(handshake_error)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_by_provider!();
}

impl fmt::Debug for SvidClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidClientVerifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

/// Borrows instead of cloning: certificates are a kilobyte each.
pub(super) fn borrow<'a>(certificate: &'a CertificateDer<'_>) -> CertificateDer<'a> {
    CertificateDer::from(certificate.as_ref())
}

/// Returns a server configuration for TLS 1.3 and 1.2 that presents the current SVID of `identity`.
///
/// No tickets, no session storage, no early data: a resumed session would skip the verification of
/// the client's chain, and with it expiry, bundle changes and issuer scopes.
#[expect(clippy::expect_used, reason = "the provider is fixed and has suites for both versions")]
pub fn server_config(
    identity: Arc<dyn IdentitySource>,
    verifier: Arc<SvidClientVerifier>,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc-rs supports TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(CurrentSvid::new(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}
