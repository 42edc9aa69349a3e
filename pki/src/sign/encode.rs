//! From templates to what the encoder takes.

use crate::sign::SignError;
use issuer_core::template::{CaTemplate, Subject, SvidTemplate};
use midge_identity::{ISSUER_SCOPE_OID, IssuerScope, UnixMillis, trust_domain_id};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use sha1::{Digest, Sha1};
use time::OffsetDateTime;

pub(super) fn svid_params(template: &SvidTemplate) -> Result<CertificateParams, SignError> {
    let mut params = params(&template.subject, template.serial, template.not_before, template.not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.push(SanType::URI(template.spiffe_id.to_string().try_into()?));
    for name in &template.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    Ok(params)
}

pub(super) fn ca_params(template: &CaTemplate) -> Result<CertificateParams, SignError> {
    let mut params = params(&template.subject, template.serial, template.not_before, template.not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names.push(SanType::URI(trust_domain_id(&template.trust_domain).try_into()?));
    if let Some(scope) = &template.scope {
        let value = IssuerScope::new(scope.as_str())?.to_der();
        params.custom_extensions.push(CustomExtension::from_oid_content(ISSUER_SCOPE_OID, value));
    }
    Ok(params)
}

fn params(
    subject: &Subject,
    serial: [u8; 16],
    not_before: UnixMillis,
    not_after: UnixMillis,
) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(subject);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(params)
}

fn distinguished_name(subject: &Subject) -> DistinguishedName {
    // 2.5.4.5
    let serial_number = DnType::CustomDnType(vec![2, 5, 4, 5]);
    let mut name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::CountryName, &subject.country),
        (DnType::OrganizationName, &subject.organization),
        (DnType::OrganizationalUnitName, &subject.organizational_unit),
        (DnType::CommonName, &subject.common_name),
        (serial_number, &subject.serial_number),
    ] {
        if let Some(value) = value {
            // RFC 5280 appendix A: C and serialNumber are PrintableString; Go writes the others so too
            // where it can.
            let value = value
                .as_str()
                .try_into()
                .map_or_else(|_| DnValue::Utf8String(value.clone()), DnValue::PrintableString);
            name.push(kind, value);
        }
    }
    name
}

fn date(time: UnixMillis) -> Result<OffsetDateTime, SignError> {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .ok_or(SignError::Time(time))
}

/// SubjectPublicKeyInfo of a key on P-256, up to its uncompressed point.
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT_BYTES: usize = 65;

/// A public key to certify.
pub(super) struct PublicKey {
    bits: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl PublicKey {
    pub(super) fn parse(spki: &[u8]) -> Result<Self, SignError> {
        // Nearly every key; the encoder's own way tries all algorithms it knows.
        if let Some(bits) = spki.strip_prefix(P256_PREFIX)
            && bits.len() == P256_POINT_BYTES
        {
            return Ok(Self { bits: bits.to_vec(), algorithm: &PKCS_ECDSA_P256_SHA256 });
        }
        let key =
            SubjectPublicKeyInfo::from_der(spki).map_err(|error| SignError::PublicKey(error.to_string()))?;
        Ok(Self { bits: key.der_bytes().to_vec(), algorithm: key.algorithm() })
    }

    /// RFC 5280 §4.2.1.2, method 1: SHA-1 of the subjectPublicKey bits.
    pub(super) fn key_id(&self) -> Vec<u8> {
        Sha1::digest(&self.bits).to_vec()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
