//! A data directory with a store, keys and a clock that the tests move.

use issuer_core::{JoinError, NodeProof, RegistrationEntry, Selector};
use midge_identity::{SpiffeId, TrustDomain, UnixMillis, VerifiedPeer, verify_x509_svid};
use midge_issuer::{Authority, IssueError, Issuer, IssuerConfig};
use midge_pki::{CsrSubject, PrivateKey, TrustSource, provider};
use midge_runtime::Clock;
use midge_store::{Store, StoreInfo};
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;

pub(crate) const START: UnixMillis = UnixMillis(1_700_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("plant.example").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://plant.example{path}")).unwrap()
}

pub(crate) fn draft(path: &str, parent: &str, uid: u32) -> RegistrationEntry {
    let selector = Selector { kind: "unix".to_owned(), value: format!("uid:{uid}") };
    serde_json::from_value(serde_json::json!({
        "id": "", "spiffe_id": id(path).to_string(), "parent_id": id(parent).to_string(), "selectors": [selector],
    }))
    .unwrap()
}

/// A CSR for a fresh key.
pub(crate) fn csr(path: Option<&str>) -> (PrivateKey, Vec<u8>) {
    let key = PrivateKey::generate().unwrap();
    let id = path.map(id);
    let der = key.csr_der(id.as_ref(), CsrSubject::default()).unwrap();
    (key, der)
}

pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) clock: Clock,
    pub(crate) config: IssuerConfig,
}

impl Place {
    pub(crate) fn new(authority: Authority, node: Option<&str>) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            clock: Clock::manual(START),
            config: IssuerConfig::new(trust_domain(), authority, node.map(str::to_owned)),
        }
    }

    pub(crate) fn cloud() -> Self {
        Self::new(Authority::SelfSigned, None)
    }

    pub(crate) fn standalone() -> Self {
        Self::new(Authority::SelfSigned, Some("box-1"))
    }

    pub(crate) fn edge() -> Self {
        Self::new(Authority::Upstream, Some("box-1"))
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    pub(crate) fn store(&self) -> Store {
        let info = StoreInfo::new("issuer", "plant.example");
        Store::open(self.folder.path().join("store.db"), &info).unwrap()
    }

    pub(crate) async fn open(&self) -> Issuer {
        self.try_open().await.unwrap()
    }

    pub(crate) async fn try_open(&self) -> Result<Issuer, IssueError> {
        Issuer::open(self.config.clone(), self.store(), self.clock.clone(), self.keys()).await
    }
}

/// Verifies a chain as any peer of the issuer would.
pub(crate) fn verify(issuer: &Issuer, chain: &[Vec<u8>]) -> VerifiedPeer {
    try_verify(issuer, chain).unwrap()
}

pub(crate) fn try_verify(issuer: &Issuer, chain: &[Vec<u8>]) -> Result<VerifiedPeer, String> {
    let chain: Vec<_> = chain.iter().cloned().map(Into::into).collect();
    let algorithms = provider().signature_verification_algorithms;
    verify_x509_svid(&chain, &issuer.bundles(), algorithms.all, issuer.now())
        .map_err(|error| error.to_string())
}

/// What the holder of a node's certificate proves with it.
pub(crate) fn try_shown(issuer: &Issuer, chain: &[Vec<u8>]) -> Result<NodeProof, JoinError> {
    NodeProof::of(&verify(issuer, chain), &chain[0])
}

pub(crate) fn shown(issuer: &Issuer, chain: &[Vec<u8>]) -> NodeProof {
    try_shown(issuer, chain).unwrap()
}

/// Lets a node join with a fresh key and returns what it proves from then on.
pub(crate) async fn join(cloud: &Issuer, node: &str) -> NodeProof {
    let id = id(&format!("/edge/{node}"));
    let token = cloud.create_join_token(HOUR, None, Some(id)).await.unwrap();
    shown(cloud, &cloud.redeem(&token.token, &csr(None).1, None).await.unwrap().svid.chain)
}
