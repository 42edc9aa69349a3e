//! Signatures on certificates and requests: `SEQUENCE { toBeSigned, algorithm, signature }`.

use crate::tls::provider;
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

/// Splits off the first DER value: what follows it, and its contents.
fn next(der: &[u8]) -> Result<(&[u8], &[u8]), SignatureFault> {
    Any::from_der(der).map(|(rest, value)| (rest, value.data)).map_err(|_| SignatureFault::Malformed)
}

/// A BIT STRING begins with the number of unused bits.
fn whole_bytes(bit_string: &[u8]) -> Result<&[u8], SignatureFault> {
    bit_string.strip_prefix(&[0]).ok_or(SignatureFault::Malformed)
}
