//! Verification of X.509-SVID chains: the one way from certificates to a [`VerifiedPeer`].

use crate::bundle::Bundle;
use crate::{
    Anchor, Authority, BundleSet, CertificateFacts, SpiffeId, SvidRejection, UnixMillis, VerifiedPeer,
    parse_spiffe_id,
};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use std::cell::RefCell;
use std::time::Duration;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};

/// Most certificates a chain may have, the leaf included.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;

/// Verifies a chain (leaf first) against the bundle of the leaf's own trust domain.
///
/// # Errors
///
/// [`SvidRejection`] with the first rule that is broken.
pub fn verify_x509_svid(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixMillis,
) -> Result<VerifiedPeer, SvidRejection> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidRejection::NoCertificate)?;
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(SvidRejection::ChainTooLong { certificates: chain.len(), limit: CHAIN_CERTIFICATES_MAX });
    }
    let facts = CertificateFacts::parse(leaf)?;
    let id = leaf_id(&facts)?;
    check_usage(&facts, &id)?;
    check_validity(&facts, &id, now)?;

    // The bundle of the leaf's own trust domain and no other: with a union of all roots, any
    // federated domain could speak for ours.
    let trust_domain = id.trust_domain();
    let bundle = bundles.bundle(trust_domain).ok_or_else(|| SvidRejection::UnknownTrustDomain {
        id: id.clone(),
        trust_domain: trust_domain.clone(),
    })?;
    if bundle.anchors.is_empty() {
        let reason = bundle.unusable.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
        return Err(SvidRejection::NoUsableRoot { trust_domain: trust_domain.clone(), reason });
    }
    let (authorities_end, anchor) = Path { id: &id, bundle, now }.verify(leaf, intermediates, algorithms)?;
    let expires = facts.not_after.min(authorities_end);
    Ok(VerifiedPeer::from_x509_svid(id, expires, facts.serial.into(), anchor))
}

fn leaf_id(facts: &CertificateFacts) -> Result<SpiffeId, SvidRejection> {
    let uri = match facts.uri_sans.as_slice() {
        [] => return Err(SvidRejection::NoUriSan),
        [uri] => uri,
        // X509-SVID §2
        several => return Err(SvidRejection::SeveralUriSans(several.len())),
    };
    let id = parse_spiffe_id(uri)?;
    // X509-SVID §3.2, §4.1: before the path, so that a CA certificate is named as such.
    if facts.is_ca {
        return Err(SvidRejection::LeafIsCa(id.to_string()));
    }
    // X509-SVID §3.1
    if id.path().is_empty() {
        return Err(SvidRejection::NoPath(id));
    }
    Ok(id)
}

fn check_usage(facts: &CertificateFacts, id: &SpiffeId) -> Result<(), SvidRejection> {
    // X509-SVID §4.3
    let usage = facts.key_usage.ok_or_else(|| SvidRejection::NoKeyUsage(id.clone()))?;
    if !usage.critical {
        return Err(SvidRejection::KeyUsageNotCritical(id.clone()));
    }
    for (set, usage) in [(usage.key_cert_sign, "keyCertSign"), (usage.crl_sign, "cRLSign")] {
        if set {
            return Err(SvidRejection::SigningKeyUsage { id: id.clone(), usage });
        }
    }
    if !usage.digital_signature {
        return Err(SvidRejection::NoDigitalSignature(id.clone()));
    }
    // X509-SVID §4.4
    if let Some(usage) = facts.extended_key_usage {
        for (set, missing) in [(usage.server_auth, "serverAuth"), (usage.client_auth, "clientAuth")] {
            if !set {
                return Err(SvidRejection::ExtendedKeyUsage { id: id.clone(), missing });
            }
        }
    }
    Ok(())
}

fn check_validity(facts: &CertificateFacts, id: &SpiffeId, now: UnixMillis) -> Result<(), SvidRejection> {
    if now.as_secs() > facts.not_after.as_secs() {
        return Err(SvidRejection::Expired { id: id.clone(), not_after: facts.not_after, now });
    }
    if now < facts.not_before {
        return Err(SvidRejection::NotYetValid { id: id.clone(), not_before: facts.not_before, now });
    }
    Ok(())
}

/// One path validation: RFC 5280 by webpki, and on each path it finds the rules for its CAs.
struct Path<'a> {
    id: &'a SpiffeId,
    bundle: &'a Bundle,
    now: UnixMillis,
}

impl Path<'_> {
    /// Returns when the first CA of the path ends, and the root it leads to.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(UnixMillis, Anchor), SvidRejection> {
        let malformed = |error: webpki::Error| SvidRejection::Malformed(error.to_string());
        let leaf = EndEntityCert::try_from(leaf).map_err(malformed)?;
        // What the rules for CAs said of the last path that webpki accepted.
        let refused: RefCell<Option<SvidRejection>> = RefCell::new(None);
        let found: RefCell<Option<(UnixMillis, Anchor)>> = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>| match self.check_authorities(path) {
            Ok(path) => {
                *found.borrow_mut() = Some(path);
                Ok(())
            }
            Err(rejection) => {
                *refused.borrow_mut() = Some(rejection);
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let time = UnixTime::since_unix_epoch(Duration::from_secs(self.now.as_secs()));
        let verified = leaf.verify_for_usage(
            algorithms,
            &self.bundle.anchors,
            intermediates,
            time,
            UsageCheckedElsewhere,
            None,
            Some(&check),
        );
        match verified {
            Ok(_) => found.into_inner().ok_or_else(|| SvidRejection::UnknownIssuer(self.id.clone())),
            Err(error) => Err(refused.into_inner().unwrap_or_else(|| self.rejection(error, intermediates))),
        }
    }

    fn check_authorities(&self, path: &VerifiedPath<'_>) -> Result<(UnixMillis, Anchor), SvidRejection> {
        let known = self.bundle.authorities.iter().zip(&self.bundle.shared);
        let (_, (authority, anchor)) = self
            .bundle
            .anchors
            .iter()
            .zip(known)
            .find(|(anchor, _)| std::ptr::eq(*anchor, path.anchor()))
            .ok_or_else(|| SvidRejection::UnknownIssuer(self.id.clone()))?;
        let mut end = self.check_authority(authority)?;
        for certificate in path.intermediate_certificates() {
            let authority = Authority::parse(&certificate.der(), self.id.trust_domain())?;
            end = end.min(self.check_authority(&authority)?);
        }
        Ok((end, anchor.clone()))
    }

    fn check_authority(&self, authority: &Authority) -> Result<UnixMillis, SvidRejection> {
        // webpki takes anchors as trusted for ever.
        if self.now.as_secs() > authority.not_after.as_secs() || self.now < authority.not_before {
            return Err(self.not_valid_now(authority));
        }
        match &authority.scope {
            Some(scope) if !scope.admits(self.id) => Err(SvidRejection::OutOfScope {
                id: self.id.clone(),
                subject: authority.subject(),
                scope: scope.to_string(),
            }),
            Some(_) | None => Ok(authority.not_after),
        }
    }

    fn not_valid_now(&self, authority: &Authority) -> SvidRejection {
        SvidRejection::AuthorityNotValidNow {
            id: self.id.clone(),
            subject: authority.subject(),
            not_before: authority.not_before,
            not_after: authority.not_after,
            now: self.now,
        }
    }

    fn rejection(&self, error: webpki::Error, intermediates: &[CertificateDer<'_>]) -> SvidRejection {
        let id = self.id.clone();
        match error {
            webpki::Error::UnknownIssuer => SvidRejection::UnknownIssuer(id),
            // The leaf's own validity was checked before.
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => intermediates
                .iter()
                .filter_map(|der| Authority::parse(der, id.trust_domain()).ok())
                .find(|authority| self.now > authority.not_after || self.now < authority.not_before)
                .map_or_else(
                    || SvidRejection::UnknownIssuer(id.clone()),
                    |authority| self.not_valid_now(&authority),
                ),
            webpki::Error::InvalidSignatureForPublicKey => SvidRejection::BadSignature(id),
            webpki::Error::EndEntityUsedAsCa => SvidRejection::IssuerIsNotCa(id),
            webpki::Error::CaUsedAsEndEntity => SvidRejection::LeafIsCa(id.to_string()),
            reason => SvidRejection::Path { id, reason },
        }
    }
}

/// Leaf and CAs have different rules, and webpki's validator does not say which it looks at.
struct UsageCheckedElsewhere;

impl ExtendedKeyUsageValidator for UsageCheckedElsewhere {
    fn validate(&self, _purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}
