//! rustls configurations that know SPIFFE: both ends of every TLS connection of Midge.

/// The signature half of a rustls verifier of either end: what the provider says, nothing of our own.
macro_rules! signatures_by_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::tls::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &$crate::tls::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $crate::tls::provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

mod bootstrap;
mod client;
mod identity;
mod server;
mod trust;
mod verified;

pub use bootstrap::{FetchOnly, PinError, PinnedRoot, RootPin, fetch_only_config};
pub use client::{ServerExpectation, client_config};
pub use identity::{CurrentIdentity, IdentityError, IdentitySource, SvidIdentity};
pub use server::{SvidClientVerifier, server_config};
pub use trust::{FixedTrust, TrustSource, peer_of, rejection_of};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, OnceLock};

/// The one crypto provider: aws-lc-rs, the post-quantum hybrid X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

/// Makes [`provider`] the process's default, for libraries that ask rustls for it. Harmless when repeated.
pub fn install_default() {
    // An error says that a provider is installed already.
    let _installed = aws_lc_rs::default_provider().install_default();
}
