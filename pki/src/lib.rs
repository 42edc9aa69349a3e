//! Private keys, certificate signing and TLS configurations.
//!
//! Owns every private key in memory and on disk, the encoding of what `issuer-core` decides to
//! issue, and the rustls configurations of all parts of Midge. Leaves the rules of X509-SVID to
//! `midge-identity` and the question who gets what to `issuer-core`.

mod bundle_document;
mod csr;
mod files;
mod jwk;
mod key;
mod pem;
mod sign;
mod signature;
mod tls;

pub use bundle_document::{BundleDocument, BundleDocumentError};
pub use csr::{CSR_BYTES_MAX, Csr, CsrError, CsrSubject};
pub use files::{FileError, read_private, write_private};
pub use jwk::{JwkError, jwk_public_key};
pub use key::{KeyFileError, PrivateKey};
pub use pem::{PemError, pem_decode_certs, pem_encode_certs, pem_encode_key};
pub use sign::{CaSigner, SignError};
pub use signature::verify_message;
pub use tls::{
    CurrentIdentity, FetchOnly, FixedTrust, IdentityError, IdentitySource, PinError, PinnedRoot, RootPin,
    ServerExpectation, SvidClientVerifier, SvidIdentity, TrustSource, client_config, fetch_only_config,
    install_default, peer_of, provider, rejection_of, server_config,
};
