//! The client end: the server is who it should be, by SPIFFE ID instead of DNS name.

use crate::tls::bootstrap::PinnedRoot;
use crate::tls::identity::{CurrentSvid, IdentitySource};
use crate::tls::provider;
use crate::tls::server::borrow;
use crate::tls::trust::{TrustSource, handshake_error};
use crate::tls::verified::verify;
use midge_identity::{SpiffeId, TrustDomain, UnixMillis};
use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

/// Who the server must be.
#[derive(Clone, Debug)]
pub enum ServerExpectation {
    /// The server's X.509-SVID has this SPIFFE ID. The name that is dialled does not matter.
    Id(SpiffeId),
    /// The server has any X.509-SVID of this trust domain, of a device as well as of the cloud: only
    /// for tools that look around.
    AnyInTrustDomain(TrustDomain),
    /// The server's certificate chains to a root of this trust domain's bundle and carries the DNS
    /// name or IP address that is dialled; it need not be an SVID. For a stock KubeEdge cloud.
    DnsName(TrustDomain),
    /// As [`Self::DnsName`], with one root that matched its pin, before there is any bundle.
    PinnedRoot(PinnedRoot),
}

/// Returns a client configuration for TLS 1.3 and 1.2. With an `identity` the client presents its
/// current SVID when the server asks. No resumption: each connection verifies the server anew.
#[expect(clippy::expect_used, reason = "the provider is fixed and has suites for both versions")]
pub fn client_config(
    identity: Option<Arc<dyn IdentitySource>>,
    trust: Arc<dyn TrustSource>,
    expected: ServerExpectation,
) -> Arc<ClientConfig> {
    let verifier = ExpectedServer { trust, expected };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc-rs supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(CurrentSvid::new(identity))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug, Error)]
enum WrongServer {
    #[error("server is '{is}', expected '{expected}'")]
    Id { is: SpiffeId, expected: SpiffeId },
    #[error("server is '{is}', expected one of trust domain '{expected}'")]
    TrustDomain { is: SpiffeId, expected: TrustDomain },
}

struct ExpectedServer {
    trust: Arc<dyn TrustSource>,
    expected: ServerExpectation,
}

impl ExpectedServer {
    fn server_id(&self, chain: &[CertificateDer<'_>]) -> Result<SpiffeId, rustls::Error> {
        let peer = verify(chain, self.trust.as_ref()).map_err(handshake_error)?;
        Ok(peer.id().clone())
    }

    fn check_name(
        &self,
        chain: &[CertificateDer<'_>],
        roots: &[Vec<u8>],
        name: &ServerName<'_>,
        now: UnixMillis,
    ) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::BadEncoding)?;
        let roots: Vec<CertificateDer<'_>> =
            roots.iter().map(|root| CertificateDer::from(root.as_slice())).collect();
        let anchors: Vec<_> =
            roots.iter().filter_map(|root| webpki::anchor_from_trusted_cert(root).ok()).collect();
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
        leaf.verify_for_usage(
            provider().signature_verification_algorithms.all,
            &anchors,
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs())),
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(handshake_error)?;
        leaf.verify_is_valid_for_subject_name(name).map_err(handshake_error)
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(end_entity).chain(intermediates).map(borrow).collect();
        match &self.expected {
            ServerExpectation::Id(expected) => {
                let is = self.server_id(&chain)?;
                if is != *expected {
                    return Err(handshake_error(WrongServer::Id { is, expected: expected.clone() }));
                }
            }
            ServerExpectation::AnyInTrustDomain(expected) => {
                let is = self.server_id(&chain)?;
                if !is.is_member_of(expected) {
                    return Err(handshake_error(WrongServer::TrustDomain { is, expected: expected.clone() }));
                }
            }
            ServerExpectation::DnsName(trust_domain) => {
                let bundles = self.trust.bundles();
                let roots = bundles.roots(trust_domain).unwrap_or_default();
                self.check_name(&chain, roots, server_name, self.trust.now())?;
            }
            ServerExpectation::PinnedRoot(root) => {
                self.check_name(&chain, &[root.der().to_vec()], server_name, self.trust.now())?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

impl fmt::Debug for ExpectedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectedServer").field("expected", &self.expected).finish_non_exhaustive()
    }
}
