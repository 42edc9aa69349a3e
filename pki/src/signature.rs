//! Signatures on certificates and requests: `SEQUENCE { toBeSigned, algorithm, signature }`; and on
//! messages of our own.

use crate::tls::provider;
use rustls_pki_types::alg_id;
use thiserror::Error;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SignatureFault {
    #[error("not signed DER")]
    Malformed,
    #[error("unknown key or signature algorithm")]
    Algorithm,
    #[error("wrong signature")]
    Wrong,
}

/// Verifies signed DER with a SubjectPublicKeyInfo.
pub(crate) fn verify_signed(der: &[u8], public_key_spki: &[u8]) -> Result<(), SignatureFault> {
    let (_, signed) = next(der)?;
    let (after_body, _) = next(signed)?;
    let body = signed.strip_suffix(after_body).ok_or(SignatureFault::Malformed)?;
    let (after_algorithm, signature_algorithm) = next(after_body)?;
    let (_, signature) = next(after_algorithm)?;

    let (_, key) = next(public_key_spki)?;
    let (after_algorithm, key_algorithm) = next(key)?;
    let (_, key) = next(after_algorithm)?;

    let provider = provider();
    let algorithm = provider
        .signature_verification_algorithms
        .all
        .iter()
        .find(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
        })
        .ok_or(SignatureFault::Algorithm)?;
    algorithm
        .verify_signature(whole_bytes(key)?, body, whole_bytes(signature)?)
        .map_err(|_| SignatureFault::Wrong)
}

/// Tells whether the signature ([`crate::PrivateKey::sign`]) over the message was made with the key of this
/// SubjectPublicKeyInfo: ECDSA on P-256 with SHA-256.
pub fn verify_message(public_key_spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let parts = || {
        let (_, key) = next(public_key_spki)?;
        let (after_algorithm, algorithm) = next(key)?;
        let (_, key) = next(after_algorithm)?;
        Ok::<_, SignatureFault>((algorithm, whole_bytes(key)?))
    };
    let Ok((key_algorithm, key)) = parts() else { return false };
    let provider = provider();
    let mut algorithms = provider.signature_verification_algorithms.all.iter();
    let algorithm = algorithms.find(|algorithm| {
        algorithm.signature_alg_id() == alg_id::ECDSA_SHA256
            && algorithm.public_key_alg_id() == alg_id::ECDSA_P256
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
    });
    algorithm.is_some_and(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

/// Splits off the first DER value: what follows it, and its contents.
fn next(der: &[u8]) -> Result<(&[u8], &[u8]), SignatureFault> {
    Any::from_der(der).map(|(rest, value)| (rest, value.data)).map_err(|_| SignatureFault::Malformed)
}

/// A BIT STRING begins with the number of unused bits.
fn whole_bytes(bit_string: &[u8]) -> Result<&[u8], SignatureFault> {
    bit_string.strip_prefix(&[0]).ok_or(SignatureFault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PrivateKey;

    #[test]
    fn a_message_is_verified_with_the_key_that_signed_it_and_no_other() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let signature = key.sign(b"message").unwrap();
        assert!(verify_message(&key.public_key_der(), b"message", &signature));
        assert!(!verify_message(&key.public_key_der(), b"massage", &signature));
        assert!(!verify_message(&other.public_key_der(), b"message", &signature));
        assert!(!verify_message(&key.public_key_der(), b"message", b""));
        assert!(!verify_message(b"no key", b"message", &signature));
    }
}
