use issuer_core::template::{CaTemplate, Subject, SvidTemplate};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use midge_pki::{CaSigner, CurrentIdentity, PrivateKey, SvidIdentity};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A root that signs SVIDs of example.org.
pub(crate) struct Ca {
    signer: CaSigner,
    trust_domain: TrustDomain,
    serial: AtomicU64,
}

/// An SVID as the Workload API hands it out.
#[derive(Clone)]
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) cert_der: Vec<u8>,
    pub(crate) key: Arc<PrivateKey>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let trust_domain: TrustDomain = "example.org".parse().unwrap();
        let key = Arc::new(PrivateKey::generate().unwrap());
        let template = CaTemplate {
            trust_domain: trust_domain.clone(),
            subject: Subject { common_name: Some("root".into()), ..Subject::default() },
            serial: serial(1),
            not_before: now().before(Duration::from_secs(60)),
            not_after: now().after(Duration::from_secs(4 * 3600)),
            scope: None,
        };
        let root = CaSigner::self_signed_root(&template, &key).unwrap();
        let signer = CaSigner::new(root, key, trust_domain.clone()).unwrap();
        Self { signer, trust_domain, serial: AtomicU64::new(2) }
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.signer.cert_der().to_vec()
    }

    pub(crate) fn bundles(&self) -> BundleSet {
        let mut bundles = BundleSet::new();
        bundles.insert(self.trust_domain.clone(), vec![self.root()]);
        bundles
    }

    pub(crate) fn sign(&self, path: &str, ttl: Duration) -> Svid {
        let key = Arc::new(PrivateKey::generate().unwrap());
        let id: SpiffeId = format!("spiffe://example.org/edge/box/{path}").parse().unwrap();
        let template = SvidTemplate {
            spiffe_id: id.clone(),
            dns_names: Vec::new(),
            subject: Subject::svid(&[]),
            serial: serial(self.serial.fetch_add(1, Ordering::SeqCst)),
            not_before: now().before(Duration::from_secs(10)),
            not_after: now().after(ttl),
        };
        let cert_der = self.signer.sign_svid(&template, &key.public_key_der()).unwrap();
        Svid { id, cert_der, key }
    }
}

impl Svid {
    pub(crate) fn current_identity(&self) -> Arc<CurrentIdentity> {
        let current = CurrentIdentity::new();
        current.set(SvidIdentity::new(vec![self.cert_der.clone().into()], Arc::clone(&self.key)).unwrap());
        Arc::new(current)
    }
}

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

fn serial(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}
