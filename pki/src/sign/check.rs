//! What was signed, read back and compared with what was asked for. A verifier somewhere would notice a
//! wrong certificate much later; here it never leaves.

use crate::sign::SignError;
use crate::sign::encode::PublicKey;
use crate::signature::verify_signed;
use issuer_core::template::{CaTemplate, SvidTemplate};
use midge_identity::{Authority, CertificateFacts, IssuerScope, UnixMillis, trust_domain_id};
use std::fmt;

pub(super) fn read_back(der: &[u8]) -> Result<CertificateFacts, SignError> {
    CertificateFacts::parse(der).map_err(|rejection| SignError::WrongResult(rejection.to_string()))
}

pub(super) fn compare_svid(
    facts: &CertificateFacts,
    template: &SvidTemplate,
    public_key: &[u8],
) -> Result<(), SignError> {
    compare_common(facts, template.serial, (template.not_before, template.not_after), public_key)?;
    compare("URI SAN", &facts.uri_sans, &vec![template.spiffe_id.to_string()])?;
    compare("DNS SANs", &facts.dns_sans, &template.dns_names)?;
    compare("cA", &facts.is_ca, &false)?;
    let usage = facts.key_usage.map(|usage| (usage.critical, usage.digital_signature));
    compare("key usage", &usage, &Some((true, true)))?;
    let signing = facts.key_usage.map(|usage| usage.key_cert_sign || usage.crl_sign);
    compare("signing key usage", &signing, &Some(false))?;
    let purposes = facts.extended_key_usage.map(|usage| (usage.server_auth, usage.client_auth));
    compare("extended key usage", &purposes, &Some((true, true)))
}

pub(super) fn compare_ca(
    facts: &CertificateFacts,
    der: &[u8],
    template: &CaTemplate,
    public_key: &[u8],
) -> Result<(), SignError> {
    compare_common(facts, template.serial, (template.not_before, template.not_after), public_key)?;
    compare("URI SAN", &facts.uri_sans, &vec![trust_domain_id(&template.trust_domain)])?;
    let authority = Authority::parse(der, &template.trust_domain)
        .map_err(|rejection| SignError::WrongResult(rejection.to_string()))?;
    compare("issuer scope", &authority.scope.as_ref().map(IssuerScope::as_str), &template.scope.as_deref())
}

fn compare_common(
    facts: &CertificateFacts,
    serial: [u8; 16],
    validity: (UnixMillis, UnixMillis),
    public_key: &[u8],
) -> Result<(), SignError> {
    let serial = hex::encode(serial);
    compare("serial", &facts.serial.trim_start_matches('0'), &serial.trim_start_matches('0'))?;
    compare("notBefore", &facts.not_before.as_secs(), &validity.0.as_secs())?;
    compare("notAfter", &facts.not_after.as_secs(), &validity.1.as_secs())?;
    compare("public key", &facts.public_key_der.as_slice(), &public_key)?;
    compare("subject key identifier", &facts.subject_key_id, &Some(PublicKey::parse(public_key)?.key_id()))
}

/// For CA certificates only: a verification costs more than a signature, which would halve the rate of
/// SVIDs, and that key and CA certificate belong together is checked once for all.
pub(super) fn check_signature(der: &[u8], public_key_spki: &[u8]) -> Result<(), SignError> {
    verify_signed(der, public_key_spki).map_err(|fault| SignError::WrongResult(fault.to_string()))
}

pub(super) fn compare<T: PartialEq + fmt::Debug>(what: &str, is: &T, should_be: &T) -> Result<(), SignError> {
    if is == should_be {
        return Ok(());
    }
    Err(SignError::WrongResult(format!("{what} is {is:?}, not {should_be:?}")))
}
