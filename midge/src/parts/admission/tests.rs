//! Who stands when roots leave.

use super::{Door, DoorTask};
use issuer_core::{DeleteMode, EntryFilter, FederatedBundle, Origin, RegistrationEntry};
use midge_agent::AgentView;
use midge_broker::Admission as _;
use midge_identity::{BundleSet, RootStanding, SpiffeId, TrustDomain, VerifiedPeer, verify_x509_svid};
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

/// The identity server of another trust domain.
async fn issuer_of(trust_domain: &str, folder: &Path) -> Issuer {
    std::fs::create_dir(folder).unwrap();
    let store = Store::open(folder.join("db"), &StoreInfo::new("standalone", trust_domain)).unwrap();
    let config = IssuerConfig::new(TrustDomain::new(trust_domain).unwrap(), Authority::SelfSigned, None);
    Issuer::open(config, store, Clock::system(), folder.join("keys")).await.unwrap()
}

fn bundle_of(issuer: &Issuer) -> FederatedBundle {
    let roots = issuer.roots().into_iter().map(|root| (root, false));
    FederatedBundle::new(issuer.trust_domain().clone(), roots).unwrap()
}

/// A client of another trust domain.
fn foreign(issuer: &Issuer) -> VerifiedPeer {
    peer(issuer, &SpiffeId::new(format!("spiffe://{}/app", issuer.trust_domain())).unwrap())
}

fn door_of(issuer: &Issuer, listed: &[&str], views: watch::Receiver<Arc<AgentView>>) -> (Door, DoorTask) {
    let trust = issuer.trust_with(listed.iter().map(|name| TrustDomain::new(*name).unwrap()));
    Door::new((issuer.clone(), id("")), Arc::new(trust), views, None)
}

/// A client whose SVID this server has signed.
fn client(issuer: &Issuer, path: &str) -> VerifiedPeer {
    peer(issuer, &id(path))
}

fn peer(issuer: &Issuer, id: &SpiffeId) -> VerifiedPeer {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(id), CsrSubject::default()).unwrap();
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
    let (door, _task) = door_of(&own, &[], watched);
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
        let is_taint = !tainted.is_empty();
        let reason = if is_taint { "root is tainted" } else { "root is no longer trusted" };
        own.apply_cloud(vec![CloudChange::Roots { roots, tainted }], Batch::new()).await.unwrap();
        for (peer, stands) in [(&a, a_stands), (&b, b_stands)] {
            let admitted = door.admits(peer.id(), Some(peer.proof()));
            assert_eq!(admitted.is_ok(), stands, "{}", peer.id());
            assert!(admitted.is_ok() || admitted.unwrap_err().0.contains(reason));
            let otherwise = if is_taint { RootStanding::Tainted } else { RootStanding::Gone };
            let root = door.root(peer.id().trust_domain(), &peer.proof().root().unwrap());
            assert_eq!(root, if stands { RootStanding::Trusted } else { otherwise }, "{}", peer.id());
            // The identity has an entry as before: what it left behind by another root stays its own.
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
    let other = issuer_of("other.org", &folder.path().join("other")).await;
    let third = issuer_of("third.org", &folder.path().join("third")).await;
    let (views, watched) = watch::channel(view(1, &own.bundles()));
    let (door, task) = door_of(&own, &["other.org"], watched);
    let task = tokio::spawn(task.run());
    let mut changes = door.changes();
    let mut next = async |revision| {
        views.send(view(revision, &own.view().bundles)).unwrap();
        changes.changed().await.unwrap();
        let standing = *changes.borrow_and_update();
        (standing.revision, standing.roots)
    };
    assert_eq!(next(2).await, (2, 0));
    own.set_federated_bundle(bundle_of(&other)).await.unwrap();
    assert_eq!(next(3).await, (3, 1));
    // Who does not come in here concerns nobody.
    own.set_federated_bundle(bundle_of(&third)).await.unwrap();
    assert_eq!(next(4).await, (4, 1));
    own.delete_federated_bundle(other.trust_domain().clone(), DeleteMode::Restrict).await.unwrap();
    assert_eq!(next(5).await, (5, 2));
    task.abort();
}

#[tokio::test]
async fn an_identity_of_another_trust_domain_stands_while_that_is_listed_and_has_its_root() {
    let folder = tempfile::tempdir().unwrap();
    let own = issuer(&folder.path().join("own")).await;
    let other = issuer_of("other.org", &folder.path().join("other")).await;
    let newer = issuer_of("other.org", &folder.path().join("newer")).await;
    let (_views, watched) = watch::channel(view(1, &own.bundles()));
    let (listing, _) = door_of(&own, &["other.org"], watched.clone());
    let (silent, _) = door_of(&own, &[], watched);
    let (peer, later, mine) = (foreign(&other), foreign(&newer), client(&own, "/app/a"));
    let refused = |door: &Door, peer: &VerifiedPeer| {
        let alone = door.admits(peer.id(), None).err().map(|refusal| refusal.0);
        (alone, door.admits(peer.id(), Some(peer.proof())).err().map(|refusal| refusal.0))
    };
    let told = |text: &str| Some(text.to_owned());
    let none = "trust domain has no bundle";
    assert_eq!(refused(&listing, &peer), (told(none), told(none)));
    own.set_federated_bundle(bundle_of(&other)).await.unwrap();
    assert_eq!(refused(&listing, &peer), (None, None));
    let unlisted = "trust domain is not one that the broker federates with";
    assert_eq!(refused(&silent, &peer), (told(unlisted), told(unlisted)));
    // With another root the identity is still its trust domain's to give; the old proof of it is none.
    own.set_federated_bundle(bundle_of(&newer)).await.unwrap();
    assert_eq!(refused(&listing, &peer), (None, told("root is no longer trusted")));
    assert_eq!(refused(&listing, &later), (None, None));
    own.delete_federated_bundle(other.trust_domain().clone(), DeleteMode::Restrict).await.unwrap();
    assert_eq!(refused(&listing, &later), (told(none), told(none)));
    for door in [&listing, &silent] {
        assert_eq!(refused(door, &mine), (None, None));
    }
}
