//! Certificate signing requests: what a peer asks for, with proof that it holds the key.

use crate::sign::SignError;
use crate::signature::{SignatureFault, verify_signed};
use midge_identity::{IdError, SpiffeId, parse_spiffe_id};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, SubjectPublicKeyInfo};
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Largest request that is parsed, in bytes.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// Why a request is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Larger than [`CSR_BYTES_MAX`].
    #[error("certificate signing request of {0} bytes is larger than 16384")]
    TooLarge(usize),
    /// Not a PKCS#10 request.
    #[error("certificate signing request is malformed: {0}")]
    Malformed(String),
    /// Nobody can check this kind of key or signature here.
    #[error(
        "key or signature algorithm of the certificate signing request is not supported: use ECDSA on P-256"
    )]
    Algorithm,
    /// The sender does not hold the key.
    #[error("certificate signing request is not signed by its own key")]
    Signature,
    /// The URI SAN is not a SPIFFE ID.
    #[error("URI SAN of the certificate signing request: {0}")]
    SpiffeId(#[from] IdError),
    /// More than one URI SAN.
    #[error("certificate signing request has {0} URI SANs, at most one is allowed")]
    SeveralUriSans(usize),
}

/// Subject name of a request. SPIFFE takes nothing from it; KubeEdge's cloud reads both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsrSubject {
    /// O.
    pub organization: Option<String>,
    /// CN.
    pub common_name: Option<String>,
}

/// A request whose signature was verified with the key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    public_key_der: Vec<u8>,
    spiffe_id: Option<SpiffeId>,
    dns_names: Vec<String>,
    subject: CsrSubject,
}

impl Csr {
    /// Parses a DER request and verifies that it is signed by the key it asks a certificate for.
    ///
    /// # Errors
    ///
    /// [`CsrError`] when it is malformed, not signed by its own key, of an unsupported algorithm,
    /// or names anything but one SPIFFE ID in its URI SAN.
    pub fn parse(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed("bytes after the request".to_owned()));
        }
        let info = &request.certification_request_info;
        verify_signed(der, info.subject_pki.raw).map_err(|fault| match fault {
            SignatureFault::Malformed => malformed(fault),
            SignatureFault::Algorithm => CsrError::Algorithm,
            SignatureFault::Wrong => CsrError::Signature,
        })?;
        // The certificate is made with this encoder: what it does not know cannot be issued for.
        SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Algorithm)?;

        let (uris, dns_names) = requested_names(&request)?;
        let spiffe_id = match uris.as_slice() {
            [] => None,
            [uri] => Some(parse_spiffe_id(uri)?),
            several => return Err(CsrError::SeveralUriSans(several.len())),
        };
        let subject = CsrSubject {
            organization: info.subject.iter_organization().next().and_then(text),
            common_name: info.subject.iter_common_name().next().and_then(text),
        };
        Ok(Self { public_key_der: info.subject_pki.raw.to_vec(), spiffe_id, dns_names, subject })
    }

    /// The key, as SubjectPublicKeyInfo.
    pub fn public_key_spki(&self) -> &[u8] {
        &self.public_key_der
    }

    /// The identity that is asked for, if any.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.spiffe_id.as_ref()
    }

    /// The DNS names that are asked for.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The subject name that is asked for.
    pub fn subject(&self) -> &CsrSubject {
        &self.subject
    }
}

pub(crate) fn request_params(
    id: Option<&SpiffeId>,
    dns_names: &[String],
    subject: CsrSubject,
) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    for (kind, value) in
        [(DnType::OrganizationName, subject.organization), (DnType::CommonName, subject.common_name)]
    {
        if let Some(value) = value {
            name.push(kind, value);
        }
    }
    params.distinguished_name = name;
    if let Some(id) = id {
        params.subject_alt_names.push(SanType::URI(id.to_string().try_into()?));
    }
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    Ok(params)
}

fn requested_names(request: &X509CertificationRequest<'_>) -> Result<(Vec<String>, Vec<String>), CsrError> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    for extension in request.requested_extensions().into_iter().flatten() {
        let names = match extension {
            ParsedExtension::SubjectAlternativeName(names) => names,
            ParsedExtension::ParseError { error } => return Err(malformed(error)),
            _ => continue,
        };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::Invalid(..) => return Err(malformed("invalid name in the SAN")),
                _ => {}
            }
        }
    }
    Ok((uris, dns_names))
}

fn text(attribute: &x509_parser::x509::AttributeTypeAndValue<'_>) -> Option<String> {
    attribute.as_str().ok().map(str::to_owned)
}

fn malformed(reason: impl std::fmt::Display) -> CsrError {
    CsrError::Malformed(reason.to_string())
}
