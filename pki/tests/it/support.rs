//! A root, an edge CA below it, SVIDs right and wrong, and handshakes without sockets.

use issuer_core::template::{CaTemplate, Subject, SvidTemplate};
use midge_identity::{BundleSet, ISSUER_SCOPE_OID, IssuerScope, SpiffeId, TrustDomain, UnixMillis};
use midge_pki::{CaSigner, CurrentIdentity, PrivateKey, SvidIdentity, TrustSource};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::OffsetDateTime;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const HOUR: u64 = 3600;
pub(crate) const MAPPER: &str = "spiffe://plant.example/edge/box-1/mapper/led";
pub(crate) const BROKER: &str = "spiffe://plant.example/edge/box-1/broker";

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

pub(crate) fn plant() -> TrustDomain {
    TrustDomain::new("plant.example").unwrap()
}

pub(crate) fn secs(secs: u64) -> UnixMillis {
    UnixMillis::from_secs(secs)
}

/// Bundles and clock that a test changes while connections come and go.
pub(crate) struct Trust {
    bundles: Mutex<Arc<BundleSet>>,
    now: AtomicU64,
}

impl Trust {
    pub(crate) fn new(bundles: BundleSet) -> Arc<Self> {
        Arc::new(Self { bundles: Mutex::new(Arc::new(bundles)), now: AtomicU64::new(NOW * 1000) })
    }

    pub(crate) fn of(roots: &[(&TrustDomain, &[u8])]) -> Arc<Self> {
        let mut bundles = BundleSet::new();
        for (domain, root) in roots {
            bundles.insert((*domain).clone(), vec![root.to_vec()]);
        }
        Self::new(bundles)
    }

    pub(crate) fn set_bundles(&self, bundles: BundleSet) {
        *self.bundles.lock().unwrap() = Arc::new(bundles);
    }

    pub(crate) fn set_now(&self, secs: u64) {
        self.now.store(secs * 1000, Ordering::Relaxed);
    }
}

impl TrustSource for Trust {
    fn bundles(&self) -> Arc<BundleSet> {
        self.bundles.lock().unwrap().clone()
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.now.load(Ordering::Relaxed))
    }
}

pub(crate) struct Ca {
    pub(crate) cert: Vec<u8>,
    pub(crate) key: Arc<PrivateKey>,
    above: Vec<Vec<u8>>,
}

impl Ca {
    pub(crate) fn root() -> Self {
        Self::root_of(&plant())
    }

    pub(crate) fn root_of(domain: &TrustDomain) -> Self {
        let key = PrivateKey::generate().unwrap();
        let cert = CaSigner::self_signed_root(&ca_template(domain, 1, None), &key).unwrap();
        Self { cert, key: Arc::new(key), above: vec![] }
    }

    pub(crate) fn signer(&self) -> CaSigner {
        CaSigner::new(self.cert.clone(), self.key.clone(), plant()).unwrap()
    }

    pub(crate) fn issue_ca(&self, scope: Option<&str>) -> Self {
        let key = PrivateKey::generate().unwrap();
        let template = ca_template(&plant(), 2, scope);
        let cert = self.signer().sign_ca(&template, &key.public_key_der()).unwrap();
        Self { above: vec![cert.clone()], cert, key: Arc::new(key) }
    }

    /// An SVID that is right in all respects.
    pub(crate) fn svid(&self, id: &str) -> SvidIdentity {
        let key = PrivateKey::generate().unwrap();
        let leaf = self.signer().sign_svid(&svid_template(id), &key.public_key_der()).unwrap();
        SvidIdentity::new(self.chain(leaf), Arc::new(key)).unwrap()
    }

    /// A certificate that our own signer would not make.
    pub(crate) fn odd(&self, change: impl FnOnce(&mut CertificateParams)) -> SvidIdentity {
        let key = PrivateKey::generate().unwrap();
        let mut params = odd_params();
        change(&mut params);
        let issuer_key = KeyPair::try_from(self.key.to_pkcs8_der().to_vec()).unwrap();
        let issuer = Issuer::from_ca_cert_der(&self.cert.clone().into(), issuer_key).unwrap();
        let public_key = rcgen::SubjectPublicKeyInfo::from_der(&key.public_key_der()).unwrap();
        let leaf = params.signed_by(&public_key, &issuer).unwrap().der().to_vec();
        let (id, expires) = (id(MAPPER), secs(NOW + HOUR));
        SvidIdentity { id, chain: self.chain(leaf), key: Arc::new(key), expires }
    }

    /// A CA that our own signer would not make.
    pub(crate) fn odd_ca(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let odd = self.odd(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.extended_key_usages.clear();
            params.subject_alt_names = vec![uri("spiffe://plant.example")];
            change(params);
        });
        let cert = odd.chain[0].to_vec();
        Self { above: vec![cert.clone()], cert, key: odd.key }
    }

    fn chain(&self, leaf: Vec<u8>) -> Vec<CertificateDer<'static>> {
        std::iter::once(leaf).chain(self.above.clone()).map(CertificateDer::from).collect()
    }
}

pub(crate) fn ca_template(domain: &TrustDomain, serial: u8, scope: Option<&str>) -> CaTemplate {
    CaTemplate {
        trust_domain: domain.clone(),
        subject: Subject {
            country: Some("US".to_owned()),
            organization: Some("SPIFFE".to_owned()),
            organizational_unit: scope.map(|_| "DOWNSTREAM-1".to_owned()),
            common_name: None,
            serial_number: Some(format!("{serial}")),
        },
        serial: [serial; 16],
        not_before: secs(NOW - HOUR),
        not_after: secs(NOW + 24 * HOUR),
        scope: scope.map(str::to_owned),
    }
}

pub(crate) fn svid_template(text: &str) -> SvidTemplate {
    SvidTemplate {
        spiffe_id: id(text),
        dns_names: vec!["led.local".to_owned()],
        subject: Subject {
            country: Some("US".to_owned()),
            organization: Some("SPIRE".to_owned()),
            common_name: Some("led.local".to_owned()),
            ..Subject::default()
        },
        serial: *b"\xff0123456789abcde",
        not_before: secs(NOW - 10),
        not_after: secs(NOW + HOUR),
    }
}

fn odd_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "odd");
    params.not_before = at(NOW - 10);
    params.not_after = at(NOW + HOUR);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri(MAPPER)];
    params
}

pub(crate) fn scope(params: &mut CertificateParams, prefix: &str) {
    let der = IssuerScope::new(prefix).unwrap().to_der();
    params.custom_extensions.push(CustomExtension::from_oid_content(ISSUER_SCOPE_OID, der));
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn at(secs: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(secs)
}

pub(crate) fn holding(identity: SvidIdentity) -> Arc<CurrentIdentity> {
    let current = CurrentIdentity::new();
    current.set(identity);
    Arc::new(current)
}

/// What each end says of a handshake that failed, as far as it got to know.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) client: Option<rustls::Error>,
    pub(crate) server: Option<rustls::Error>,
}

pub(crate) type Ends = (ClientConnection, ServerConnection);

pub(crate) fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Ends, Box<Failed>> {
    handshake_with(client, server, "localhost")
}

pub(crate) fn handshake_with(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Ends, Box<Failed>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let mut failed = Failed { client: None, server: None };
    loop {
        let upward = carry(&mut |out| client.write_tls(out).unwrap());
        let mut bytes = upward.as_slice();
        while !bytes.is_empty() && failed.server.is_none() {
            server.read_tls(&mut bytes).unwrap();
            failed.server = server.process_new_packets().err();
        }
        let downward = carry(&mut |out| server.write_tls(out).unwrap());
        let mut bytes = downward.as_slice();
        while !bytes.is_empty() && failed.client.is_none() {
            client.read_tls(&mut bytes).unwrap();
            failed.client = client.process_new_packets().err();
        }
        if upward.is_empty() && downward.is_empty() {
            break;
        }
    }
    if failed.client.is_some() || failed.server.is_some() {
        return Err(Box::new(failed));
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn carry(write: &mut dyn FnMut(&mut Vec<u8>) -> usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while write(&mut bytes) > 0 {}
    bytes
}
