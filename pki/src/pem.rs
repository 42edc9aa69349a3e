//! PEM in and out: certificates and keys.

use crate::PrivateKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use zeroize::Zeroizing;

const LINE_CHARACTERS: usize = 64;

/// Why a text is not a PEM file of certificates.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PemError {
    /// Not PEM.
    #[error("not a PEM file: {0}")]
    Syntax(String),
    /// PEM without a certificate.
    #[error("the PEM file has no certificate")]
    NoCertificate,
}

/// Encodes certificates in the given order.
pub fn pem_encode_certs<C: AsRef<[u8]>>(certificates: impl IntoIterator<Item = C>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        encode("CERTIFICATE", certificate.as_ref(), &mut text);
    }
    text
}

/// Decodes every certificate of a PEM file, in order; other sections are skipped.
///
/// # Errors
///
/// [`PemError`] when the text is not PEM or has no certificate.
pub fn pem_decode_certs(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PemError::Syntax(error.to_string()))?;
    if certificates.is_empty() { Err(PemError::NoCertificate) } else { Ok(certificates) }
}

/// Encodes a private key as PKCS#8.
pub fn pem_encode_key(key: &PrivateKey) -> Zeroizing<String> {
    let der = key.to_pkcs8_der();
    // Room for everything at once: growing would leave copies of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 2 + 128));
    encode("PRIVATE KEY", &der, &mut text);
    text
}

fn encode(label: &str, der: &[u8], text: &mut String) {
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    // 48 bytes make a line of 64 characters.
    for line in der.chunks(LINE_CHARACTERS / 4 * 3) {
        STANDARD.encode_string(line, text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
}
