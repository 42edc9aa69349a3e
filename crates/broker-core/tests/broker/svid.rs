//! Peers with an X.509-SVID that expires: issued and verified as in earnest, but in virtual time.

use crate::world::{START, spiffe};
use midge_identity::{BundleSet, TrustDomain, UnixMillis, VerifiedPeer, verify_x509_svid};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

/// A peer whose SVID expires so many seconds after [`START`].
pub(crate) fn peer_until(id: &str, secs: u64) -> VerifiedPeer {
    Root::new().peer(id, secs)
}

/// A root of the trust domain, which signs SVIDs itself.
pub(crate) struct Root(KeyPair);

impl Root {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    /// A peer by this root whose SVID expires so many seconds after [`START`].
    pub(crate) fn peer(&self, id: &str, secs: u64) -> VerifiedPeer {
        let ca = root();
        let der = ca.self_signed(&self.0).unwrap();
        let leaf =
            leaf(id, secs).signed_by(&KeyPair::generate().unwrap(), &Issuer::from_params(&ca, &self.0));
        let mut bundles = BundleSet::new();
        bundles.insert(trust_domain(), vec![der.der().to_vec()]);
        let chain = [CertificateDer::from(leaf.unwrap().der().to_vec())];
        verify_x509_svid(&chain, &bundles, webpki::ALL_VERIFICATION_ALGS, START).unwrap()
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("plant").unwrap()
}

fn root() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://plant".try_into().unwrap())];
    (params.not_before, params.not_after) = (at(0), at(1_000_000));
    params
}

fn leaf(id: &str, secs: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(spiffe(id).to_string().try_into().unwrap())];
    (params.not_before, params.not_after) = (at(0), at(secs));
    params
}

fn at(secs: u64) -> OffsetDateTime {
    let UnixMillis(start) = START;
    OffsetDateTime::from_unix_timestamp(i64::try_from(start / 1000 + secs).unwrap()).unwrap()
}
