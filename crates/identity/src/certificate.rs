//! What one certificate says, read once: names, usages, validity, issuer scope.

use crate::{ISSUER_SCOPE_OID, IssuerScope, SvidRejection, TrustDomain, UnixMillis, trust_domain_id};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// What a certificate says about itself. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateFacts {
    /// Serial number, lower-case hex.
    pub serial: String,
    /// DER of the subject name.
    pub subject_der: Vec<u8>,
    /// DER of the issuer name.
    pub issuer_der: Vec<u8>,
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity.
    pub not_after: UnixMillis,
    /// cA of the basic constraints; false when they are absent.
    pub is_ca: bool,
    /// Key usage, if present.
    pub key_usage: Option<KeyUsage>,
    /// Extended key usage, if present.
    pub extended_key_usage: Option<ExtendedKeyUsage>,
    /// URI SANs, in order.
    pub uri_sans: Vec<String>,
    /// DNS SANs, in order.
    pub dns_sans: Vec<String>,
    /// Subject key identifier, if present.
    pub subject_key_id: Option<Vec<u8>>,
    /// Authority key identifier, if present.
    pub authority_key_id: Option<Vec<u8>>,
    /// Value of the issuer scope extension, if present.
    pub issuer_scope_der: Option<Vec<u8>>,
    /// DER of the SubjectPublicKeyInfo.
    pub public_key_der: Vec<u8>,
}

/// Key usage bits that decide about SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    /// Whether the extension is critical.
    pub critical: bool,
    /// digitalSignature.
    pub digital_signature: bool,
    /// keyCertSign.
    pub key_cert_sign: bool,
    /// cRLSign.
    pub crl_sign: bool,
}

/// Extended key usages that decide about SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedKeyUsage {
    /// serverAuth.
    pub server_auth: bool,
    /// clientAuth.
    pub client_auth: bool,
    /// anyExtendedKeyUsage.
    pub any: bool,
}

impl CertificateFacts {
    /// Reads one DER certificate.
    ///
    /// # Errors
    ///
    /// [`SvidRejection::Malformed`] when the certificate, an extension of it that is understood, or
    /// a name in it does not parse, when bytes follow it, or when an extension comes twice.
    pub fn parse(der: &[u8]) -> Result<Self, SvidRejection> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes after the certificate"));
        }
        // A parser that keeps the first of two extensions and one that keeps the last see two
        // identities in one certificate.
        certificate.extensions_map().map_err(|error| malformed(&error))?;
        let mut facts = Self {
            serial: hex_lower(certificate.raw_serial()),
            subject_der: certificate.subject().as_raw().to_vec(),
            issuer_der: certificate.issuer().as_raw().to_vec(),
            not_before: unix_millis(certificate.validity().not_before),
            not_after: unix_millis(certificate.validity().not_after),
            is_ca: false,
            key_usage: None,
            extended_key_usage: None,
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
            subject_key_id: None,
            authority_key_id: None,
            issuer_scope_der: None,
            public_key_der: certificate.public_key().raw.to_vec(),
        };
        let scope_oid = Oid::from(ISSUER_SCOPE_OID).map_err(|_| malformed(&"issuer scope OID"))?;
        for extension in certificate.extensions() {
            if extension.oid == scope_oid {
                facts.issuer_scope_der = Some(extension.value.to_vec());
            } else {
                facts.read_extension(extension.critical, extension.parsed_extension())?;
            }
        }
        Ok(facts)
    }

    /// Subject name, for people.
    pub fn subject(&self) -> String {
        shown(&self.subject_der)
    }

    fn read_extension(
        &mut self,
        critical: bool,
        extension: &ParsedExtension<'_>,
    ) -> Result<(), SvidRejection> {
        match extension {
            ParsedExtension::ParseError { error } => return Err(malformed(error)),
            ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
            ParsedExtension::KeyUsage(usage) => {
                self.key_usage = Some(KeyUsage {
                    critical,
                    digital_signature: usage.digital_signature(),
                    key_cert_sign: usage.key_cert_sign(),
                    crl_sign: usage.crl_sign(),
                });
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.extended_key_usage = Some(ExtendedKeyUsage {
                    server_auth: usage.server_auth,
                    client_auth: usage.client_auth,
                    any: usage.any,
                });
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uri_sans.push((*uri).to_owned()),
                        GeneralName::DNSName(name) => self.dns_sans.push((*name).to_owned()),
                        GeneralName::Invalid(..) => return Err(malformed(&"invalid name in the SAN")),
                        _ => {}
                    }
                }
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
        Ok(())
    }
}

/// A CA certificate that passed the rules for signing certificates of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// DER of the subject name.
    pub subject_der: Vec<u8>,
    /// Start of validity.
    pub not_before: UnixMillis,
    /// End of validity.
    pub not_after: UnixMillis,
    /// Where it may issue; everywhere in the trust domain if unset.
    pub scope: Option<IssuerScope>,
}

impl Authority {
    /// Reads a CA certificate and checks what X509-SVID asks of signing certificates. Signature and
    /// validity are left to the chain it is used in.
    ///
    /// # Errors
    ///
    /// [`SvidRejection`] when it is malformed, not a CA certificate, may not sign certificates,
    /// names another identity than the trust domain, or carries a broken issuer scope.
    pub fn parse(der: &[u8], trust_domain: &TrustDomain) -> Result<Self, SvidRejection> {
        let facts = CertificateFacts::parse(der)?;
        // X509-SVID §4.1, §4.3
        if !facts.is_ca || !facts.key_usage.is_some_and(|usage| usage.key_cert_sign && usage.critical) {
            return Err(SvidRejection::AuthorityKeyUsage(facts.subject()));
        }
        // RFC 5280 §4.2.1.12: a CA kept to, say, code signing does not vouch for TLS peers.
        if facts
            .extended_key_usage
            .is_some_and(|usage| !(usage.any || usage.server_auth && usage.client_auth))
        {
            return Err(SvidRejection::AuthorityExtendedKeyUsage(facts.subject()));
        }
        // X509-SVID §3.2. A CA of an organisation's own hierarchy has no URI SAN at all.
        let expected = trust_domain_id(trust_domain);
        if let Some(uri) = facts.uri_sans.iter().find(|uri| **uri != expected) {
            return Err(SvidRejection::AuthorityId { subject: facts.subject(), uri: uri.clone(), expected });
        }
        let scope = facts.issuer_scope_der.as_deref().map(IssuerScope::from_der).transpose();
        let scope =
            scope.map_err(|reason| SvidRejection::AuthorityScope { subject: facts.subject(), reason })?;
        Ok(Self {
            subject_der: facts.subject_der,
            not_before: facts.not_before,
            not_after: facts.not_after,
            scope,
        })
    }

    /// Subject name, for people.
    pub fn subject(&self) -> String {
        shown(&self.subject_der)
    }
}

fn shown(name_der: &[u8]) -> String {
    X509Name::from_der(name_der).map_or_else(|_| hex_lower(name_der), |(_, name)| name.to_string())
}

fn malformed(reason: &dyn std::fmt::Display) -> SvidRejection {
    SvidRejection::Malformed(reason.to_string())
}

fn unix_millis(time: ASN1Time) -> UnixMillis {
    UnixMillis::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn hex_lower(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}
