//! Public keys of certificates as JSON Web Keys, as SPIFFE bundle documents carry them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midge_identity::{CertificateFacts, SvidRejection};
use rustls_pki_types::alg_id;
use serde_json::{Value, json};
use thiserror::Error;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a certificate's key has no JWK.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum JwkError {
    /// Not a certificate.
    #[error(transparent)]
    Certificate(#[from] SvidRejection),
    /// Neither ECDSA on P-256 or P-384 nor RSA.
    #[error("public key is neither ECDSA on P-256 or P-384 nor RSA")]
    UnsupportedKey,
}

/// Returns `kty` and the key's parameters (RFC 7518 §6) of a DER certificate's public key.
///
/// # Errors
///
/// [`JwkError`] when it is not a certificate, or its key has no JWK here.
pub fn jwk_public_key(certificate_der: &[u8]) -> Result<Value, JwkError> {
    let facts = CertificateFacts::parse(certificate_der)?;
    let (_, info) =
        SubjectPublicKeyInfo::from_der(&facts.public_key_der).map_err(|_| JwkError::UnsupportedKey)?;
    match info.parsed().map_err(|_| JwkError::UnsupportedKey)? {
        PublicKey::EC(point) => {
            let (curve, bytes) = curve(&facts.public_key_der).ok_or(JwkError::UnsupportedKey)?;
            // SEC 1 §2.3.3: uncompressed points only.
            let (x, y) = point
                .data()
                .strip_prefix(&[4])
                .filter(|coordinates| coordinates.len() == 2 * bytes)
                .and_then(|coordinates| coordinates.split_at_checked(bytes))
                .ok_or(JwkError::UnsupportedKey)?;
            Ok(json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) }))
        }
        PublicKey::RSA(key) => {
            Ok(json!({ "kty": "RSA", "n": text(unsigned(key.modulus)), "e": text(unsigned(key.exponent)) }))
        }
        _ => Err(JwkError::UnsupportedKey),
    }
}

fn curve(public_key_der: &[u8]) -> Option<(&'static str, usize)> {
    let (_, info) = Any::from_der(public_key_der).ok()?;
    let (_, algorithm) = Any::from_der(info.data).ok()?;
    [(alg_id::ECDSA_P256, "P-256", 32), (alg_id::ECDSA_P384, "P-384", 48)]
        .into_iter()
        .find_map(|(id, curve, bytes)| (id.as_ref() == algorithm.data).then_some((curve, bytes)))
}

/// DER puts a zero before a number whose first bit is set.
fn unsigned(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
