//! Signing: certificates from templates, each read back and compared before it leaves.

mod check;
mod encode;

use crate::PrivateKey;
use check::{check_signature, compare, compare_ca, compare_svid, read_back};
use encode::{PublicKey, ca_params, svid_params};
use issuer_core::template::{CaTemplate, SvidTemplate};
use midge_identity::{
    Authority, CertificateFacts, IssuerScope, ScopeError, SpiffeId, SvidRejection, TrustDomain, UnixMillis,
    trust_domain_id,
};
use rcgen::{CertificateParams, Issuer, KeyIdMethod, KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Why nothing was signed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignError {
    /// The encoder or the key refused.
    #[error("cannot make the certificate: {0}")]
    Encode(#[from] rcgen::Error),
    /// The public key to certify is of an unknown kind.
    #[error("public key cannot be certified: {0}")]
    PublicKey(String),
    /// The CA certificate may not sign certificates of its trust domain.
    #[error("CA certificate cannot be used for signing: {0}")]
    Authority(SvidRejection),
    /// Key and CA certificate do not belong together.
    #[error("private key does not belong to CA certificate '{0}'")]
    KeyMismatch(String),
    /// The identity is not one this CA may speak for.
    #[error("CA of '{ca}' cannot sign for '{id}'")]
    Outside {
        /// Trust domain and issuer scope of the CA.
        ca: String,
        /// Identity or scope that was asked for.
        id: String,
    },
    /// The scope asked for is not a scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A time cannot be written into a certificate.
    #[error("time {0} does not fit into a certificate")]
    Time(UnixMillis),
    /// The validity is empty, or ends after the CA's.
    #[error("validity from {not_before} to {not_after} is empty or ends after the CA's at {ca_not_after}")]
    Validity {
        /// Start asked for.
        not_before: UnixMillis,
        /// End asked for.
        not_after: UnixMillis,
        /// End of the CA.
        ca_not_after: UnixMillis,
    },
    /// What was signed is not what was asked for. Never leaves this process.
    #[error("signed certificate is wrong: {0}")]
    WrongResult(String),
}

/// A CA certificate with its key.
pub struct CaSigner {
    cert_der: Vec<u8>,
    facts: CertificateFacts,
    authority: Authority,
    trust_domain: TrustDomain,
    issuer: Issuer<'static, IssuerKey>,
}

impl CaSigner {
    /// Takes a CA certificate of a trust domain and its private key.
    ///
    /// # Errors
    ///
    /// [`SignError`] when they do not belong together, or the certificate is not a signing
    /// certificate of the trust domain.
    pub fn new(
        cert_der: Vec<u8>,
        key: Arc<PrivateKey>,
        trust_domain: TrustDomain,
    ) -> Result<Self, SignError> {
        let authority = Authority::parse(&cert_der, &trust_domain).map_err(SignError::Authority)?;
        let facts = CertificateFacts::parse(&cert_der).map_err(SignError::Authority)?;
        if facts.public_key_der != key.public_key_der() {
            return Err(SignError::KeyMismatch(facts.subject()));
        }
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(cert_der.as_slice()), IssuerKey(key))?;
        Ok(Self { cert_der, facts, authority, trust_domain, issuer })
    }

    /// Makes a self-signed root.
    ///
    /// # Errors
    ///
    /// [`SignError`] when the template cannot be encoded.
    pub fn self_signed_root(template: &CaTemplate, key: &PrivateKey) -> Result<Vec<u8>, SignError> {
        let mut params = ca_params(template)?;
        let public_key = key.public_key_der();
        params.key_identifier_method = KeyIdMethod::PreSpecified(PublicKey::parse(&public_key)?.key_id());
        // RFC 5280 §4.2.1.1 lets roots leave it out; SPIRE's do.
        params.use_authority_key_identifier_extension = false;
        let der = params.self_signed(key.pair())?.der().to_vec();
        let facts = read_back(&der)?;
        compare_ca(&facts, &der, template, &public_key)?;
        compare("issuer", &facts.issuer_der, &facts.subject_der)?;
        check_signature(&der, &public_key)?;
        Ok(der)
    }

    /// Signs an X.509-SVID.
    ///
    /// # Errors
    ///
    /// [`SignError`] when the identity is outside the CA's trust domain or scope, the validity ends
    /// after the CA's, the key is of an unknown kind, or the result is not as asked.
    pub fn sign_svid(&self, template: &SvidTemplate, public_key_spki: &[u8]) -> Result<Vec<u8>, SignError> {
        self.check_speaks_for(&template.spiffe_id)?;
        self.check_validity(template.not_before, template.not_after)?;
        let der = self.sign(svid_params(template)?, public_key_spki)?;
        let facts = read_back(&der)?;
        compare_svid(&facts, template, public_key_spki)?;
        self.compare_issuer(&facts)?;
        Ok(der)
    }

    /// Signs a CA certificate below this one.
    ///
    /// # Errors
    ///
    /// As for [`Self::sign_svid`], and when the scope is wider than this CA's own.
    pub fn sign_ca(&self, template: &CaTemplate, public_key_spki: &[u8]) -> Result<Vec<u8>, SignError> {
        self.check_contains_scope(template)?;
        self.check_validity(template.not_before, template.not_after)?;
        let der = self.sign(ca_params(template)?, public_key_spki)?;
        let facts = read_back(&der)?;
        compare_ca(&facts, &der, template, public_key_spki)?;
        self.compare_issuer(&facts)?;
        check_signature(&der, &self.facts.public_key_der)?;
        Ok(der)
    }

    /// The CA certificate.
    pub fn cert_der(&self) -> &[u8] {
        &self.cert_der
    }

    /// What the CA certificate says.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// When the CA ends; nothing it signs lasts longer.
    pub fn not_after(&self) -> UnixMillis {
        self.facts.not_after
    }

    /// Where the CA may issue; everywhere in its trust domain if unset.
    pub fn scope(&self) -> Option<&IssuerScope> {
        self.authority.scope.as_ref()
    }

    fn sign(&self, mut params: CertificateParams, public_key_spki: &[u8]) -> Result<Vec<u8>, SignError> {
        let public_key = PublicKey::parse(public_key_spki)?;
        params.key_identifier_method = KeyIdMethod::PreSpecified(public_key.key_id());
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&public_key, &self.issuer)?.der().to_vec())
    }

    fn check_speaks_for(&self, id: &SpiffeId) -> Result<(), SignError> {
        let in_scope = self.scope().is_none_or(|scope| scope.admits(id));
        if id.is_member_of(&self.trust_domain) && !id.path().is_empty() && in_scope {
            Ok(())
        } else {
            Err(self.outside(id.to_string()))
        }
    }

    fn check_contains_scope(&self, template: &CaTemplate) -> Result<(), SignError> {
        let within = match (self.scope(), &template.scope) {
            (None, _) => true,
            (Some(own), Some(asked)) => asked.starts_with(own.as_str()),
            (Some(_), None) => false,
        };
        if within && template.trust_domain == self.trust_domain {
            return Ok(());
        }
        let asked = template.scope.as_deref().unwrap_or_default();
        Err(self.outside(format!("{}{asked}", trust_domain_id(&template.trust_domain))))
    }

    fn outside(&self, id: String) -> SignError {
        let scope = self.scope().map_or("", IssuerScope::as_str);
        SignError::Outside { ca: format!("{}{scope}", trust_domain_id(&self.trust_domain)), id }
    }

    fn check_validity(&self, not_before: UnixMillis, not_after: UnixMillis) -> Result<(), SignError> {
        if not_before.as_secs() < not_after.as_secs() && not_after.as_secs() <= self.not_after().as_secs() {
            return Ok(());
        }
        Err(SignError::Validity { not_before, not_after, ca_not_after: self.not_after() })
    }

    fn compare_issuer(&self, facts: &CertificateFacts) -> Result<(), SignError> {
        // A CA certificate of another maker may encode its name in ways the encoder does not repeat;
        // verifiers compare the bytes.
        compare("issuer", &facts.issuer_der, &self.facts.subject_der)?;
        compare("authority key identifier", &facts.authority_key_id, &self.facts.subject_key_id)
    }
}

impl fmt::Debug for CaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaSigner")
            .field("subject", &self.facts.subject())
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

struct IssuerKey(Arc<PrivateKey>);

impl PublicKeyData for IssuerKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.pair().der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(self.0.pair())
    }
}

impl SigningKey for IssuerKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        <KeyPair as SigningKey>::sign(self.0.pair(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use issuer_core::template::Subject;
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};

    // Whatever came out wrong is noticed, field by field.
    #[test]
    fn wrong_svid_never_leaves() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let right = template();
        let der = svid_params(&right).unwrap();
        let facts = signed(der, &key, &key);
        assert!(compare_svid(&facts, &right, &key.public_key_der()).is_ok());
        let changes: [fn(&mut SvidTemplate); 5] = [
            |template| template.spiffe_id = SpiffeId::new("spiffe://td/b").unwrap(),
            |template| template.dns_names.clear(),
            |template| template.serial = [2; 16],
            |template| template.not_before = UnixMillis::from_secs(11),
            |template| template.not_after = UnixMillis::from_secs(21),
        ];
        for change in changes {
            let mut wrong = right.clone();
            change(&mut wrong);
            let result = compare_svid(&facts, &wrong, &key.public_key_der());
            assert!(matches!(result, Err(SignError::WrongResult(_))), "{wrong:?}");
        }
        assert!(compare_svid(&facts, &right, &other.public_key_der()).is_err());
        let changes: [fn(&mut CertificateParams); 5] = [
            |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |params| params.key_usages.clear(),
            |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign),
            |params| params.extended_key_usages.clear(),
            |params| params.subject_alt_names.push(SanType::URI("spiffe://td/b".try_into().unwrap())),
        ];
        for change in changes {
            let mut params = svid_params(&right).unwrap();
            change(&mut params);
            let facts = signed(params, &key, &key);
            assert!(compare_svid(&facts, &right, &key.public_key_der()).is_err(), "{facts:?}");
        }
    }

    #[test]
    fn wrong_ca_certificate_never_leaves() {
        let key = PrivateKey::generate().unwrap();
        let right = CaTemplate {
            trust_domain: TrustDomain::new("td").unwrap(),
            subject: template().subject,
            serial: [1; 16],
            not_before: UnixMillis::from_secs(10),
            not_after: UnixMillis::from_secs(20),
            scope: Some("/edge/box-1/".to_owned()),
        };
        let der = CaSigner::self_signed_root(&right, &key).unwrap();
        let facts = read_back(&der).unwrap();
        let changes: [fn(&mut CaTemplate); 4] = [
            |template| template.trust_domain = TrustDomain::new("other").unwrap(),
            |template| template.scope = None,
            |template| template.scope = Some("/edge/box-2/".to_owned()),
            |template| template.serial = [2; 16],
        ];
        for change in changes {
            let mut wrong = right.clone();
            change(&mut wrong);
            assert!(compare_ca(&facts, &der, &wrong, &key.public_key_der()).is_err(), "{wrong:?}");
        }
        assert!(check_signature(&der, &key.public_key_der()).is_ok());
        let other = PrivateKey::generate().unwrap();
        assert!(check_signature(&der, &other.public_key_der()).is_err());
    }

    #[test]
    fn svid_of_another_issuer_never_leaves() {
        let (key, other) = (Arc::new(PrivateKey::generate().unwrap()), PrivateKey::generate().unwrap());
        let root = CaTemplate {
            trust_domain: TrustDomain::new("td").unwrap(),
            subject: template().subject,
            serial: [1; 16],
            not_before: UnixMillis::from_secs(10),
            not_after: UnixMillis::from_secs(20),
            scope: None,
        };
        let signer = |organization: &str| {
            let mut root = root.clone();
            root.subject.organization = Some(organization.to_owned());
            let cert = CaSigner::self_signed_root(&root, &key).unwrap();
            CaSigner::new(cert, key.clone(), root.trust_domain).unwrap()
        };
        let (signer, namesake) = (signer("one"), signer("two"));
        let der = signer.sign_svid(&template(), &other.public_key_der()).unwrap();
        let facts = read_back(&der).unwrap();
        assert!(signer.compare_issuer(&facts).is_ok());
        assert!(namesake.compare_issuer(&facts).is_err());
    }

    #[test]
    fn times_that_no_certificate_can_hold_are_refused() {
        let key = PrivateKey::generate().unwrap();
        let mut params = template();
        params.not_after = UnixMillis(u64::MAX);
        assert!(matches!(svid_params(&params), Err(SignError::Time(_))));
        // GeneralizedTime from 2050 on.
        params.not_after = UnixMillis::from_secs(4_102_444_800);
        assert!(
            compare_svid(&signed(svid_params(&params).unwrap(), &key, &key), &params, &key.public_key_der())
                .is_ok()
        );
    }

    fn template() -> SvidTemplate {
        SvidTemplate {
            spiffe_id: SpiffeId::new("spiffe://td/a").unwrap(),
            dns_names: vec!["a.local".to_owned()],
            subject: Subject { organization: Some("Größe".to_owned()), ..Subject::default() },
            serial: [1; 16],
            not_before: UnixMillis::from_secs(10),
            not_after: UnixMillis::from_secs(20),
        }
    }

    fn signed(mut params: CertificateParams, key: &PrivateKey, issuer: &PrivateKey) -> CertificateFacts {
        let public_key = PublicKey::parse(&key.public_key_der()).unwrap();
        params.key_identifier_method = KeyIdMethod::PreSpecified(public_key.key_id());
        let issuer_params = CertificateParams::default();
        let issuer = Issuer::from_params(&issuer_params, issuer.pair());
        read_back(params.signed_by(&public_key, &issuer).unwrap().der()).unwrap()
    }
}
