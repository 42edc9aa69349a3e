//! Why a certificate chain does not prove an identity.

use crate::{IdError, ScopeError, SpiffeId, TrustDomain, UnixMillis};
use thiserror::Error;

/// Why a chain is not a valid X.509-SVID. The text is for operators and the audit log; the peer
/// sees no more than a TLS alert.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum SvidRejection {
    /// The peer sent no certificate.
    #[error("no certificate was presented")]
    NoCertificate,
    /// The chain is longer than any real one.
    #[error("chain of {certificates} certificates is longer than {limit}")]
    ChainTooLong {
        /// Certificates in the chain.
        certificates: usize,
        /// Most that are accepted.
        limit: usize,
    },
    /// A certificate is not well-formed DER.
    #[error("certificate is malformed: {0}")]
    Malformed(String),
    /// The leaf names nobody.
    #[error("certificate has no URI SAN, exactly one is required (X509-SVID §2)")]
    NoUriSan,
    /// The leaf names several.
    #[error("certificate has {0} URI SANs, exactly one is allowed (X509-SVID §2)")]
    SeveralUriSans(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("URI SAN: {0} (SPIFFE-ID §2)")]
    SpiffeId(#[from] IdError),
    /// The leaf's SPIFFE ID is a trust domain's.
    #[error("SPIFFE ID '{0}' of the leaf has no path (X509-SVID §3.1)")]
    NoPath(SpiffeId),
    /// The leaf is a CA certificate.
    #[error("certificate of '{0}' is a CA certificate, which never authenticates (X509-SVID §4.1)")]
    LeafIsCa(String),
    /// The leaf has no key usage.
    #[error("certificate of '{0}' has no key usage extension (X509-SVID §4.3)")]
    NoKeyUsage(SpiffeId),
    /// The leaf's key usage is not critical.
    #[error("key usage of '{0}' is not critical (X509-SVID §4.3)")]
    KeyUsageNotCritical(SpiffeId),
    /// The leaf's key usage lacks digitalSignature.
    #[error("key usage of '{0}' lacks digitalSignature (X509-SVID §4.3)")]
    NoDigitalSignature(SpiffeId),
    /// The leaf may sign certificates or CRLs.
    #[error("key usage of '{id}' has {usage}, which a leaf never has (X509-SVID §4.3)")]
    SigningKeyUsage {
        /// Identity of the leaf.
        id: SpiffeId,
        /// `keyCertSign` or `cRLSign`.
        usage: &'static str,
    },
    /// The leaf has an extended key usage, but not for both ends of a TLS connection.
    #[error("extended key usage of '{id}' lacks {missing} (X509-SVID §4.4)")]
    ExtendedKeyUsage {
        /// Identity of the leaf.
        id: SpiffeId,
        /// `serverAuth` or `clientAuth`.
        missing: &'static str,
    },
    /// There is no bundle of the leaf's trust domain.
    #[error(
        "no bundle for trust domain '{trust_domain}' of '{id}': federate with it or check the peer's identity"
    )]
    UnknownTrustDomain {
        /// Identity of the leaf.
        id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The bundle of the leaf's trust domain has no usable root. Trust Domain and Bundle §4.1.3
    #[error("bundle of trust domain '{trust_domain}' has no usable root: {reason}")]
    NoUsableRoot {
        /// Trust domain of the leaf.
        trust_domain: TrustDomain,
        /// What is wrong with the first root.
        reason: String,
    },
    /// The leaf's time is over.
    #[error("certificate of '{id}' expired at {not_after}, it is {now}")]
    Expired {
        /// Identity of the leaf.
        id: SpiffeId,
        /// End of validity.
        not_after: UnixMillis,
        /// Time of verification.
        now: UnixMillis,
    },
    /// The leaf's time has not come.
    #[error("certificate of '{id}' is valid from {not_before}, it is {now}: check the clocks of both ends")]
    NotYetValid {
        /// Identity of the leaf.
        id: SpiffeId,
        /// Start of validity.
        not_before: UnixMillis,
        /// Time of verification.
        now: UnixMillis,
    },
    /// A CA of the chain is outside its validity.
    #[error("CA certificate '{subject}' above '{id}' is valid from {not_before} to {not_after}, it is {now}")]
    AuthorityNotValidNow {
        /// Identity of the leaf.
        id: SpiffeId,
        /// Subject name of the CA.
        subject: String,
        /// Start of validity.
        not_before: UnixMillis,
        /// End of validity.
        not_after: UnixMillis,
        /// Time of verification.
        now: UnixMillis,
    },
    /// No chain leads to a root of the leaf's trust domain.
    #[error("certificate of '{0}' does not chain to a root of its trust domain")]
    UnknownIssuer(SpiffeId),
    /// A signature in the chain is wrong.
    #[error("chain of '{0}' has a wrong signature")]
    BadSignature(SpiffeId),
    /// An issuing certificate is not a CA certificate.
    #[error("certificate of '{0}' was issued by a certificate that is not a CA's (X509-SVID §4.1)")]
    IssuerIsNotCa(SpiffeId),
    /// A CA certificate's key usage lacks keyCertSign.
    #[error("CA certificate '{0}' lacks keyCertSign or its key usage is not critical (X509-SVID §4.3)")]
    AuthorityKeyUsage(String),
    /// A CA certificate is restricted to other purposes.
    #[error("CA certificate '{0}' is restricted to other purposes than TLS by its extended key usage")]
    AuthorityExtendedKeyUsage(String),
    /// A CA certificate carries a SPIFFE ID other than its trust domain's.
    #[error("CA certificate '{subject}' has URI SAN '{uri}', only '{expected}' is allowed (X509-SVID §3.2)")]
    AuthorityId {
        /// Subject name of the CA.
        subject: String,
        /// What it carries.
        uri: String,
        /// What it may carry.
        expected: String,
    },
    /// A CA certificate carries an issuer scope that cannot be understood.
    #[error("CA certificate '{subject}': {reason}")]
    AuthorityScope {
        /// Subject name of the CA.
        subject: String,
        /// What is wrong with it.
        reason: ScopeError,
    },
    /// A CA of the chain may not speak for this identity.
    #[error("CA certificate '{subject}' may only issue under '{scope}', not for '{id}'")]
    OutOfScope {
        /// Identity of the leaf.
        id: SpiffeId,
        /// Subject name of the CA.
        subject: String,
        /// Its issuer scope.
        scope: String,
    },
    /// Another rule of RFC 5280 path validation is broken: path length, name constraints, an unknown critical extension.
    #[error("chain of '{id}' is not valid: {reason}")]
    Path {
        /// Identity of the leaf.
        id: SpiffeId,
        /// What path validation says.
        reason: webpki::Error,
    },
}
