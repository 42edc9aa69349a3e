//! Certificates that no issuer of Midge would make, for the intruders.

use anyhow::Context as _;
use midge_pki::PrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::path::Path;

/// The box's own CA, as somebody would have it who stole the box's key.
pub(super) struct StolenCa {
    certificate: Vec<u8>,
    key: PrivateKey,
}

impl StolenCa {
    /// Takes the certificate from a chain that it signed and the key from the box's key directory.
    pub(super) fn take(chain_pem: &[u8], keys: &Path) -> anyhow::Result<Self> {
        let chain = midge_pki::pem_decode_certs(chain_pem)?;
        let certificate = chain.get(1).context("the chain has no intermediate CA")?.to_vec();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)?;
        for item in std::fs::read_dir(keys).with_context(|| format!("cannot list {}", keys.display()))? {
            let path = item?.path();
            if let Ok(key) = PrivateKey::load(&path)
                && key.public_key_der() == parsed.public_key().raw
            {
                return Ok(Self { certificate, key });
            }
        }
        anyhow::bail!("no key in {} belongs to the CA", keys.display())
    }

    fn issuer(&self) -> anyhow::Result<Issuer<'static, KeyPair>> {
        let key = key_pair(&self.key)?;
        Ok(Issuer::from_ca_cert_der(&self.certificate.clone().into(), key)?)
    }

    /// An SVID with two identities, signed by the right CA.
    pub(super) fn two_identities(&self, dir: &Path, ids: &[&str; 2], bundle_pem: &str) -> anyhow::Result<()> {
        let key = PrivateKey::generate()?;
        let leaf = leaf(ids)?.signed_by(&key_pair(&key)?, &self.issuer()?)?;
        write(dir, &[leaf.der(), &self.certificate], &key, bundle_pem)
    }

    /// The CA itself as a client.
    pub(super) fn as_client(&self, dir: &Path, bundle_pem: &str) -> anyhow::Result<()> {
        write(dir, &[&self.certificate], &self.key, bundle_pem)
    }
}

/// A well-formed SVID of a CA that nobody knows.
pub(super) fn unknown_ca(dir: &Path, id: &str, bundle_pem: &str) -> anyhow::Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = Issuer::new(ca, ca_key);
    let key = PrivateKey::generate()?;
    let leaf = leaf(&[id])?.signed_by(&key_pair(&key)?, &issuer)?;
    write(dir, &[leaf.der()], &key, bundle_pem)
}

fn leaf(ids: &[&str]) -> anyhow::Result<CertificateParams> {
    let mut leaf = CertificateParams::default();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    for id in ids {
        leaf.subject_alt_names.push(SanType::URI((*id).try_into()?));
    }
    Ok(leaf)
}

fn key_pair(key: &PrivateKey) -> anyhow::Result<KeyPair> {
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec());
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)?)
}

fn write(dir: &Path, chain: &[&[u8]], key: &PrivateKey, bundle_pem: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("svid.pem"), midge_pki::pem_encode_certs(chain))?;
    midge_pki::write_private(dir.join("svid.key"), midge_pki::pem_encode_key(key).as_bytes())?;
    std::fs::write(dir.join("bundle.pem"), bundle_pem)?;
    Ok(())
}
