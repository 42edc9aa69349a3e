//! Bundles of other trust domains: SPIRE's API, the store, and who verifies by them.

use crate::admin::{Admin, admin, entry, refusal, status};
use crate::place::{Place, csr, try_verify};
use issuer_core::{DeleteMode, EntryFilter, FederatedBundle, FederationError};
use midge_api::spire::api::{
    server::bundle::v1::{
        BatchCreateFederatedBundleRequest, BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest,
        BatchUpdateFederatedBundleRequest, CountBundlesRequest, GetFederatedBundleRequest,
        ListFederatedBundlesRequest,
    },
    types,
};
use midge_identity::{SpiffeId, TrustDomain, verify_x509_svid};
use midge_issuer::{Authority, CloudChange, IssueError, Issuer, IssuerConfig};
use midge_pki::{CsrSubject, PrivateKey, TrustSource, provider};
use midge_runtime::Clock;
use midge_store::{Batch, Store, StoreInfo};
use tempfile::TempDir;
use tonic::Code;

fn other() -> TrustDomain {
    TrustDomain::new("other.org").unwrap()
}

/// An identity server of another trust domain, and an SVID that it signed.
struct Foreign {
    _folder: TempDir,
    issuer: Issuer,
}

impl Foreign {
    async fn new(clock: &Clock) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path().join("db"), &StoreInfo::new("issuer", "other.org")).unwrap();
        let config = IssuerConfig::new(other(), Authority::SelfSigned, None);
        let issuer = Issuer::open(config, store, clock.clone(), folder.path().join("keys")).await.unwrap();
        Self { _folder: folder, issuer }
    }

    fn bundle(&self) -> FederatedBundle {
        FederatedBundle::new(other(), self.issuer.roots().into_iter().map(|root| (root, false))).unwrap()
    }

    fn message(&self) -> types::Bundle {
        let authority = |asn1| types::X509Certificate { asn1, tainted: false };
        types::Bundle {
            trust_domain: "other.org".to_owned(),
            x509_authorities: self.issuer.roots().into_iter().map(authority).collect(),
            refresh_hint: 300,
            sequence_number: 9,
            ..types::Bundle::default()
        }
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        let key = PrivateKey::generate().unwrap();
        let id = SpiffeId::new("spiffe://other.org/app").unwrap();
        self.issuer.mint_svid(&key.csr_der(Some(&id), CsrSubject::default()).unwrap(), None).unwrap().chain
    }
}

fn verifies(trust: &dyn TrustSource, chain: &[Vec<u8>]) -> bool {
    let chain: Vec<_> = chain.iter().cloned().map(Into::into).collect();
    let algorithms = provider().signature_verification_algorithms;
    verify_x509_svid(&chain, &trust.bundles(), algorithms.all, trust.now()).is_ok()
}

async fn set(admin: &Admin, bundle: Vec<types::Bundle>) -> Vec<(Code, String)> {
    let request = BatchSetFederatedBundleRequest { bundle, output_mask: None };
    let results = admin.bundles().batch_set_federated_bundle(request).await.unwrap().into_inner().results;
    results.iter().map(|result| told(&result.status)).collect()
}

async fn create(admin: &Admin, bundle: types::Bundle) -> (Code, String) {
    let request = BatchCreateFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
    let results = admin.bundles().batch_create_federated_bundle(request).await.unwrap().into_inner().results;
    told(&results[0].status)
}

async fn delete(admin: &Admin, name: &str, mode: i32) -> (Code, String) {
    let request = BatchDeleteFederatedBundleRequest { trust_domains: vec![name.to_owned()], mode };
    let results = admin.bundles().batch_delete_federated_bundle(request).await.unwrap().into_inner().results;
    told(&results[0].status)
}

fn told(outcome: &Option<types::Status>) -> (Code, String) {
    let (code, text) = status(outcome);
    (code, text.to_owned())
}

fn ok() -> (Code, String) {
    (Code::Ok, "OK".to_owned())
}

#[tokio::test]
async fn bundles_are_created_changed_set_listed_and_deleted_with_spires_answers() {
    let admin = admin(Place::standalone()).await;
    let foreign = Foreign::new(&admin.place().clock).await;
    assert_eq!(create(&admin, foreign.message()).await, ok());
    assert_eq!(
        create(&admin, foreign.message()).await,
        (Code::AlreadyExists, "bundle already exists".into())
    );
    let get = GetFederatedBundleRequest { trust_domain: "spiffe://other.org".into(), output_mask: None };
    let shown = admin.bundles().get_federated_bundle(get.clone()).await.unwrap().into_inner();
    assert_eq!(shown, foreign.message());
    let count = admin.bundles().count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 2);
    let request = BatchUpdateFederatedBundleRequest {
        bundle: vec![types::Bundle { refresh_hint: 60, sequence_number: 10, ..foreign.message() }],
        input_mask: Some(types::BundleMask { refresh_hint: true, ..Default::default() }),
        output_mask: None,
    };
    let updated = admin.bundles().batch_update_federated_bundle(request).await.unwrap().into_inner();
    let updated = updated.results[0].bundle.clone().unwrap();
    assert_eq!((updated.refresh_hint, updated.sequence_number, updated.x509_authorities.len()), (60, 9, 1));
    assert_eq!(set(&admin, vec![foreign.message()]).await, [ok()]);
    let listed = admin.bundles().list_federated_bundles(ListFederatedBundlesRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().bundles, [foreign.message()]);
    assert_eq!(delete(&admin, "other.org", 0).await, ok());
    assert_eq!(delete(&admin, "other.org", 0).await, (Code::NotFound, "bundle not found".into()));
    assert_eq!(refusal(admin.bundles().get_federated_bundle(get).await).0, Code::NotFound);
    let request = BatchDeleteFederatedBundleRequest { trust_domains: vec![], mode: 3 };
    let refused = refusal(admin.bundles().batch_delete_federated_bundle(request).await);
    assert_eq!(refused.0, Code::InvalidArgument);
}

#[tokio::test]
async fn each_item_that_is_no_bundle_of_another_trust_domain_is_refused_by_itself() {
    let admin = admin(Place::standalone()).await;
    let foreign = Foreign::new(&admin.place().clock).await;
    let named = |name: &str| types::Bundle { trust_domain: name.to_owned(), ..foreign.message() };
    let with = |asn1: Vec<Vec<u8>>| {
        let authority = |asn1| types::X509Certificate { asn1, tainted: false };
        types::Bundle { x509_authorities: asn1.into_iter().map(authority).collect(), ..foreign.message() }
    };
    let results = set(
        &admin,
        vec![
            named("plant.example"),
            named("a b"),
            named("third.org"),
            with(vec![]),
            with(vec![b"junk".to_vec()]),
            // A leaf signs nothing.
            with(vec![foreign.chain()[0].clone()]),
            foreign.message(),
        ],
    )
    .await;
    assert!(results[..6].iter().all(|(code, _)| *code == Code::InvalidArgument), "{results:?}");
    assert_eq!(results[0].1, "setting a federated bundle for the server's own trust domain is not allowed");
    assert!(results[1].1.starts_with("trust domain argument is not valid: "));
    for (_, text) in &results[2..6] {
        assert!(text.starts_with("failed to convert bundle: "), "{text}");
    }
    assert!(results[2].1.contains("spiffe://other.org"), "whose root it is: {}", results[2].1);
    assert_eq!(results[6], ok());
    let own = delete(&admin, "plant.example", 0).await;
    assert_eq!(
        own,
        (Code::InvalidArgument, "removing the bundle for the server trust domain is not allowed".into())
    );
}

#[tokio::test]
async fn an_entry_federates_with_what_has_a_bundle_and_deletion_asks_what_becomes_of_it() {
    let admin = admin(Place::standalone()).await;
    let foreign = Foreign::new(&admin.place().clock).await;
    let federating = |path: &str, uid| types::Entry {
        federates_with: vec!["spiffe://other.org".to_owned()],
        ..entry(path, uid)
    };
    let refused = admin.create(vec![federating("/edge/box-1/a", 1)]).await;
    let (code, text) = told(&refused[0].0);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        text.contains("unable to find federated bundle \"spiffe://other.org\"")
            && text.contains("bundle set")
    );
    set(&admin, vec![foreign.message()]).await;
    let made = admin.create(vec![federating("/edge/box-1/a", 1), entry("/edge/box-1/b", 2)]).await;
    assert!(made.iter().all(|(outcome, _)| told(outcome) == ok()));
    let entries = || admin.issuer.entries(&EntryFilter::default()).unwrap();
    let (code, text) = delete(&admin, "other.org", 0).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.starts_with(
        "failed to delete federated bundle: cannot delete bundle; federated with 1 registration entries"
    ));
    assert_eq!(delete(&admin, "other.org", 2).await, ok());
    let kept = entries();
    assert!(kept.len() == 2 && kept.iter().all(|entry| entry.federates_with.is_empty()));
    set(&admin, vec![foreign.message()]).await;
    assert_eq!(told(&admin.create(vec![federating("/edge/box-1/c", 3)]).await[0].0), ok());
    assert_eq!(delete(&admin, "other.org", 1).await, ok());
    assert_eq!(entries().len(), 2);
}

#[tokio::test]
async fn bundles_are_there_after_a_restart_and_the_server_itself_trusts_its_own_domain_alone() {
    let place = Place::standalone();
    let foreign = Foreign::new(&place.clock).await;
    let chain = foreign.chain();
    let issuer = place.open().await;
    let (none, with) = (issuer.trust_with([]), issuer.trust_with([other()]));
    assert!(with.lists(&other()) && !none.lists(&other()));
    assert!(!verifies(&with, &chain));
    issuer.set_federated_bundle(foreign.bundle()).await.unwrap();
    assert!(verifies(&with, &chain));
    assert!(!verifies(&none, &chain) && !verifies(&issuer, &chain));
    assert!(try_verify(&issuer, &chain).unwrap_err().contains("no bundle for trust domain"));
    // Others see the same set as long as nothing of theirs changes.
    let before = with.bundles();
    let third = TrustDomain::new("third.org").unwrap();
    let own = issuer.mint_svid(&csr(Some("/by/hand")).1, None).unwrap().chain;
    assert!([&none as &dyn TrustSource, &with, &issuer].iter().all(|trust| verifies(*trust, &own)));
    let elsewhere = issuer.trust_with([third]);
    assert!(!verifies(&elsewhere, &chain));
    assert!(std::sync::Arc::ptr_eq(&before, &with.bundles()));
    issuer.store().close().await.unwrap();
    drop((none, with, elsewhere, issuer));

    let issuer = place.open().await;
    assert_eq!(*issuer.federated_bundle(&other()).unwrap(), foreign.bundle());
    let with = issuer.trust_with([other()]);
    assert!(verifies(&with, &chain) && !verifies(&issuer, &chain));
    issuer.delete_federated_bundle(other(), DeleteMode::Restrict).await.unwrap();
    assert!(!verifies(&with, &chain) && verifies(&with, &own));
    issuer.store().close().await.unwrap();
    drop((with, issuer));
    assert!(place.open().await.federated_bundles().is_empty());
}

#[tokio::test]
async fn a_box_takes_its_clouds_bundles_with_the_cursor_and_none_from_its_operator() {
    let place = Place::edge();
    let foreign = Foreign::new(&place.clock).await;
    let issuer = place.open().await;
    let refused = issuer.set_federated_bundle(foreign.bundle()).await;
    assert!(matches!(refused, Err(IssueError::Federation(FederationError::ManagedByCloud))));
    let set = || CloudChange::Federated(Box::new(foreign.bundle()));
    let apply = async |changes, cursor: &'static str| {
        issuer.apply_cloud(changes, Batch::new().put("cursor", cursor)).await.unwrap();
        assert_eq!(issuer.store().get("cursor").await.unwrap().unwrap(), cursor.as_bytes());
        issuer.federated_bundles().len()
    };
    assert_eq!(apply(vec![set()], "1").await, 1);
    assert_eq!(apply(vec![set()], "2").await, 1, "twice is as good as once");
    let refused = issuer.delete_federated_bundle(other(), DeleteMode::Delete).await;
    assert!(matches!(refused, Err(IssueError::Federation(FederationError::ManagedByCloud))));
    assert_eq!(apply(vec![CloudChange::Unfederated(other()), set()], "3").await, 1);
    assert_eq!(apply(vec![CloudChange::RetainFederated(vec![other()])], "4").await, 1);
    assert_eq!(apply(vec![CloudChange::RetainFederated(vec![])], "5").await, 0);
    assert_eq!(apply(vec![CloudChange::RetainFederated(vec![]), set()], "6").await, 1);
    assert_eq!(apply(vec![CloudChange::Unfederated(other())], "7").await, 0);
}
