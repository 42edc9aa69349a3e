//! Who stands when roots leave.

use super::Door;
use issuer_core::{EntryFilter, Origin, RegistrationEntry};
use midge_agent::AgentView;
use midge_broker::Admission as _;
use midge_identity::{BundleSet, SpiffeId, TrustDomain, VerifiedPeer, verify_x509_svid};
use midge_issuer::{Authority, CloudChange, Issuer, IssuerConfig};
use midge_pki::{CsrSubject, PrivateKey, TrustSource as _};
use midge_runtime::Clock;
use midge_store::{Batch, Store, StoreInfo};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

const BOX: &str = "spiffe://plant/edge/box-1";

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("{BOX}{path}")).unwrap()
}

/// An identity server with a root of its own, and an entry each for `/app/a` and `/app/b`.
async fn issuer(folder: &Path) -> Issuer {
    std::fs::create_dir(folder).unwrap();
    let store = Store::open(folder.join("db"), &StoreInfo::new("standalone", "plant")).unwrap();
    let config = IssuerConfig::new(TrustDomain::new("plant").unwrap(), Authority::SelfSigned, None);
    let issuer = Issuer::open(config, store, Clock::system(), folder.join("keys")).await.unwrap();
    for path in ["/app/a", "/app/b"] {
        let entry: RegistrationEntry = serde_json::from_value(serde_json::json!({
            "id": "", "spiffe_id": id(path).to_string(), "parent_id": BOX,
            "selectors": [{ "type": "unix", "value": "uid:1" }],
        }))
        .unwrap();
        issuer.create_entry(entry, Origin::Edge).await.unwrap();
    }
    issuer
}

/// A client whose SVID this server has signed.
fn client(issuer: &Issuer, path: &str) -> VerifiedPeer {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(&id(path)), CsrSubject::default()).unwrap();
    let svid = issuer.mint_svid(&csr, None).unwrap();
    let chain: Vec<CertificateDer<'_>> = svid.chain.into_iter().map(Into::into).collect();
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    verify_x509_svid(&chain, &issuer.bundles(), algorithms, issuer.now()).unwrap()
}

fn view(revision: u64, bundles: &Arc<BundleSet>) -> Arc<AgentView> {
    let trust_domain = TrustDomain::new("plant").unwrap();
    Arc::new(AgentView::new(revision, trust_domain, Arc::default(), Arc::clone(bundles)))
}

#[tokio::test]
async fn a_root_that_is_tainted_or_leaves_takes_those_who_came_by_it_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (issuer(&folder.path().join("own")).await, issuer(&folder.path().join("other")).await);
    let (a, b) = (client(&own, "/app/a"), client(&other, "/app/b"));
    let (views, watched) = watch::channel(view(1, &own.bundles()));
    let (door, _task) = Door::new((own.clone(), id("")), watched, None);
    let [root_a, root_b] = [own.roots(), other.roots()];
    let both = [root_a.clone(), root_b.clone()].concat();
    let none = Vec::new;
    for (roots, tainted, a_stands, b_stands) in [
        (both.clone(), none(), true, true),
        (both.clone(), root_b.clone(), true, false),
        (both.clone(), root_a.clone(), false, true),
        (root_a.clone(), none(), true, false),
        (both, none(), true, true),
        (root_b, none(), false, true),
    ] {
        let reason = if tainted.is_empty() { "root is no longer trusted" } else { "root is tainted" };
        own.apply_cloud(vec![CloudChange::Roots { roots, tainted }], Batch::new()).await.unwrap();
        for (peer, stands) in [(&a, a_stands), (&b, b_stands)] {
            let admitted = door.admits(peer.id(), Some(peer.proof()));
            assert_eq!(admitted.is_ok(), stands, "{}", peer.id());
            assert!(admitted.is_ok() || admitted.unwrap_err().0.contains(reason));
            // The identity has an entry as before: what it left behind stays its own.
            assert!(door.admits(peer.id(), None).is_ok());
        }
    }
    own.delete_entry(&own.entries(&EntryFilter::default()).unwrap()[0].id).await.unwrap();
    assert!(door.admits(a.id(), None).is_err() != door.admits(b.id(), None).is_err());
    drop(views);
}

#[tokio::test]
async fn who_came_by_svid_is_asked_about_when_roots_change_and_not_else() {
    let folder = tempfile::tempdir().unwrap();
    let own = issuer(&folder.path().join("own")).await;
    let bundles = own.bundles();
    let (views, watched) = watch::channel(view(1, &bundles));
    let (door, task) = Door::new((own, id("")), watched, None);
    let task = tokio::spawn(task.run());
    let mut changes = door.changes();
    let mut next = async |revision, bundles: &Arc<BundleSet>| {
        views.send(view(revision, bundles)).unwrap();
        changes.changed().await.unwrap();
        let standing = *changes.borrow_and_update();
        (standing.revision, standing.roots)
    };
    assert_eq!(next(2, &bundles).await, (2, 0));
    assert_eq!(next(3, &Arc::new(BundleSet::new())).await, (3, 1));
    task.abort();
}
