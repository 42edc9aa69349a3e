//! Entries, tokens, signing and the exchange between cloud and edge, with real stores and keys.

use crate::place::{DAY, HOUR, Place, csr, draft, id, join, shown, trust_domain, try_verify, verify};
use issuer_core::{EntryError, EntryFilter, JoinError, LeaseReason, LeaseWarning, NodeProof, Origin};
use midge_identity::{CertificateFacts, SpiffeId, UnixMillis};
use midge_issuer::{Authority, CloudChange, IssueError, Issuer, Mutation, MutationLog};
use midge_pki::{CsrSubject, IdentitySource, PrivateKey, pem_encode_certs};
use midge_runtime::Clock;
use midge_store::Batch;
use parking_lot::Mutex;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

#[tokio::test]
async fn entries_survive_a_restart() {
    let place = Place::standalone();
    let (kept, updated) = {
        let issuer = place.open().await;
        let kept =
            issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
        let gone =
            issuer.create_entry(draft("/edge/box-1/app/b", "/edge/box-1", 2), Origin::Edge).await.unwrap();
        let other =
            issuer.create_entry(draft("/edge/box-1/app/c", "/edge/box-1", 3), Origin::Edge).await.unwrap();
        issuer.delete_entry(&gone.id).await.unwrap();
        let updated =
            issuer.update_entry(&other.id, |entry| entry.publish = vec!["a/#".to_owned()]).await.unwrap();
        (kept, updated)
    };
    let issuer = place.open().await;
    let mut expected = vec![kept, updated];
    expected.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(issuer.entries(&EntryFilter::default()).unwrap(), expected);
    assert_eq!(*issuer.view().entries, expected);
    assert!(
        issuer.is_registered(&id("/edge/box-1/app/a")) && !issuer.is_registered(&id("/edge/box-1/app/b"))
    );
}

#[tokio::test]
async fn every_change_is_one_new_view() {
    let issuer = Place::standalone().open().await;
    let mut views = issuer.subscribe();
    let before = views.borrow_and_update().revision;
    let entry =
        issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    assert!(views.has_changed().unwrap());
    let view = Arc::clone(&views.borrow_and_update());
    assert_eq!((view.revision, view.entries.as_slice()), (before + 1, &[Arc::clone(&entry)][..]));

    issuer.tick().await.unwrap();
    assert!(!views.has_changed().unwrap(), "a tick without news shows nothing");
    issuer.delete_entry(&entry.id).await.unwrap();
    assert!(views.borrow_and_update().entries.is_empty());
}

#[tokio::test]
async fn similar_entries_and_bad_grants_are_refused() {
    let issuer = Place::standalone().open().await;
    let made = issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let again = issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await;
    assert!(matches!(again, Err(IssueError::Entry(EntryError::Similar(existing))) if existing == made));
    let mut entry = draft("/edge/box-1/app/b", "/edge/box-1", 1);
    entry.publish = vec!["a/#/b".to_owned()];
    let error = issuer.create_entry(entry, Origin::Edge).await.unwrap_err().to_string();
    assert!(error.starts_with("invalid publish grant \"a/#/b\": "), "{error}");
    let error = issuer.update_entry(&made.id, |entry| entry.publish = vec!["rec/{name}/x".to_owned()]).await;
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("invalid publish grant \"rec/{name}/x\": capture"), "{error}");
    issuer.update_entry(&made.id, |entry| entry.publish = vec!["rec/name/x".to_owned()]).await.unwrap();
}

#[tokio::test]
async fn concurrent_creations_of_one_entry_make_one() {
    let issuer = Place::standalone().open().await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let issuer = issuer.clone();
            tokio::spawn(async move {
                issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.is_ok()
            })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        created += usize::from(task.await.unwrap());
    }
    assert_eq!((created, issuer.view().entries.len()), (1, 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_disk_and_memory_alike() {
    let place = Place::standalone();
    let issuer = place.open().await;
    for uid in 0..20 {
        let creation = issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", uid), Origin::Edge);
        // Polled once: the commit is under way when the caller is dropped.
        let _outcome = tokio::time::timeout(Duration::ZERO, creation).await;
    }
    // Goes through the same door after all of them.
    issuer.create_entry(draft("/edge/box-1/app/last", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let shown = Arc::clone(&issuer.view().entries);
    drop(issuer);
    assert_eq!(place.open().await.view().entries, shown);
}

#[tokio::test]
async fn an_svid_for_an_entry_is_as_spire_makes_it() {
    let issuer = Place::standalone().open().await;
    let mut entry = draft("/edge/box-1/app/a", "/edge/box-1", 1);
    entry.dns_names = vec!["a.example".to_owned(), "b.example".to_owned()];
    entry.x509_svid_ttl_secs = 600;
    let entry = issuer.create_entry(entry, Origin::Edge).await.unwrap();
    let (key, request) = csr(Some("/someone/else"));
    let svid = issuer.sign_svid(&entry.id, &request).unwrap();
    assert_eq!(svid.chain.len(), 1);
    assert_eq!(*verify(&issuer, &svid.chain).id(), id("/edge/box-1/app/a"));

    let facts = CertificateFacts::parse(&svid.chain[0]).unwrap();
    assert_eq!(facts.public_key_der, key.public_key_der());
    assert_eq!(facts.dns_sans, ["a.example", "b.example"]);
    assert_eq!(facts.serial, svid.serial);
    assert_eq!(facts.not_before, issuer.now().before(Duration::from_secs(10)));
    assert_eq!(
        (facts.not_after, svid.expires),
        (issuer.now().after(Duration::from_secs(600)), facts.not_after)
    );
    assert!(
        facts.subject().contains("O=SPIRE") && facts.subject().contains("CN=a.example"),
        "{}",
        facts.subject()
    );
    assert!(matches!(issuer.sign_svid("absent", &request), Err(IssueError::Entry(EntryError::NotFound))));
    assert!(matches!(issuer.sign_svid(&entry.id, b"junk"), Err(IssueError::Csr(_))));
}

#[tokio::test]
async fn svids_end_with_their_ca() {
    let mut place = Place::standalone();
    place.config.svid_ttl = DAY * 2;
    let issuer = place.open().await;
    let entry =
        issuer.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let svid = issuer.sign_svid(&entry.id, &csr(None).1).unwrap();
    assert_eq!(Some(svid.expires), issuer.snapshot().ca.map(|ca| ca.not_after));
}

#[tokio::test]
async fn minting_takes_the_id_from_the_request() {
    let issuer = Place::standalone().open().await;
    let svid = issuer.mint_svid(&csr(Some("/by/hand")).1, Some(Duration::from_secs(90))).unwrap();
    assert_eq!(*verify(&issuer, &svid.chain).id(), id("/by/hand"));
    assert_eq!(svid.expires, issuer.now().after(Duration::from_secs(90)));

    let refused = |path| issuer.mint_svid(&csr(path).1, None).unwrap_err().to_string();
    assert_eq!(refused(None), "CSR URI SAN is required");
    assert!(refused(Some("/spire/server")).contains("reserved namespace"));
    let foreign = PrivateKey::generate().unwrap();
    let other = SpiffeId::new("spiffe://elsewhere/a").unwrap();
    let request = foreign.csr_der(Some(&other), CsrSubject::default()).unwrap();
    assert!(matches!(issuer.mint_svid(&request, None), Err(IssueError::Id(_))));
    assert!(matches!(issuer.mint_svid(&csr(Some("/a")).1, Some(Duration::ZERO)), Err(IssueError::Ttl(0))));
}

/// A cloud and an edge that has joined it and holds an intermediate.
struct Pair {
    cloud_place: Place,
    edge_place: Place,
    cloud: Issuer,
    edge: Issuer,
    /// What the edge proves to the cloud.
    shown: NodeProof,
}

impl Pair {
    async fn new() -> Self {
        let cloud_place = Place::cloud();
        let mut edge_place = Place::edge();
        edge_place.clock = cloud_place.clock.clone();
        let cloud = cloud_place.open().await;
        let shown = join(&cloud, "box-1").await;
        let edge = edge_place.open().await;
        answer(&cloud, &edge, &shown).await.unwrap();
        Self { cloud_place, edge_place, cloud, edge, shown }
    }
}

async fn answer(cloud: &Issuer, edge: &Issuer, shown: &NodeProof) -> Result<(), IssueError> {
    let request = edge.ca_request().borrow().clone().expect("a CSR waits");
    let signed = cloud.sign_intermediate(&request.csr_der, shown, Some(request.preferred_ttl)).await?;
    edge.install_upstream(signed.chain, signed.roots).await
}

#[tokio::test]
async fn an_edge_serves_under_the_clouds_root() {
    let pair = Pair::new().await;
    assert_eq!(*pair.edge.ca_request().borrow(), None);
    let entry =
        pair.edge.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let svid = pair.edge.sign_svid(&entry.id, &csr(None).1).unwrap();
    assert_eq!(svid.chain.len(), 2);
    for verifier in [&pair.edge, &pair.cloud] {
        assert_eq!(*verify(verifier, &svid.chain).id(), id("/edge/box-1/app/a"));
    }
    let ca = CertificateFacts::parse(&svid.chain[1]).unwrap();
    assert!(
        ca.is_ca && ca.subject().contains("OU=DOWNSTREAM-1") && ca.subject().contains("O=SPIFFE"),
        "{}",
        ca.subject()
    );
    assert!(ca.issuer_scope_der.is_some());
    assert_eq!(pair.cloud.node(&id("/edge/box-1")).unwrap().ca_not_after, ca.not_after);
    assert_eq!(pair.edge.view().bundles, pair.cloud.view().bundles);
}

#[tokio::test]
async fn the_private_key_of_the_edge_ca_is_a_private_file_and_nowhere_else() {
    let pair = Pair::new().await;
    let path = pair.edge_place.keys().join("x509-ca-a.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = PrivateKey::load(&path).unwrap();
    let secret = key.to_pkcs8_der();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for issuer in [&pair.cloud, &pair.edge] {
        for (name, value) in records(issuer).await {
            let text = String::from_utf8_lossy(&value).into_owned();
            assert!(!text.contains(&hex(&secret)), "{name}");
        }
    }
}

/// Everything the server has in its store.
async fn records(issuer: &Issuer) -> Vec<(String, Vec<u8>)> {
    let store = issuer.store();
    let mut records = Vec::new();
    for prefix in ["entry/", "token/", "node/", "ca/", "bundle/", "clock/"] {
        records.extend(store.scan(prefix).await.unwrap());
    }
    assert!(records.iter().any(|(name, _)| name == "ca/journal"));
    records
}

#[tokio::test]
async fn a_stolen_edge_ca_speaks_for_its_box_only() {
    let pair = Pair::new().await;
    for path in ["/edge/box-2/app/a", "/edge/box-2", "/cloud", "/edge/box-10/app/a"] {
        let refused = pair.edge.mint_svid(&csr(Some(path)).1, None);
        assert!(matches!(refused, Err(IssueError::Sign(_))), "{path}");
    }
    assert!(pair.edge.mint_svid(&csr(Some("/edge/box-1/x")).1, None).is_ok());
}

#[tokio::test]
async fn a_lying_cloud_is_refused() {
    let pair = Pair::new().await;
    let liar = Place::cloud().open().await;
    let to_liar = join(&liar, "box-1").await;
    let box_2 = join(&pair.cloud, "box-2").await;
    pair.cloud_place.clock.advance(DAY / 2);
    pair.edge.tick().await.unwrap();
    let request = pair.edge.ca_request().borrow().clone().unwrap();
    let install = async |chain: Vec<Vec<u8>>, roots: Vec<Vec<u8>>| {
        pair.edge.install_upstream(chain, roots).await.unwrap_err().to_string()
    };

    let good = pair.cloud.sign_intermediate(&request.csr_der, &pair.shown, None).await.unwrap();
    let other_box = pair.cloud.sign_intermediate(&request.csr_der, &box_2, None).await.unwrap();
    let other_key = pair.cloud.sign_intermediate(&csr(None).1, &pair.shown, None).await.unwrap();
    let foreign = liar.sign_intermediate(&request.csr_der, &to_liar, None).await.unwrap();
    for (chain, roots) in [
        (other_box.chain, good.roots.clone()),
        (other_key.chain, good.roots.clone()),
        (foreign.chain.clone(), good.roots.clone()),
        (good.chain.clone(), foreign.roots),
        (good.chain.clone(), Vec::new()),
        (Vec::new(), good.roots.clone()),
        (vec![b"junk".to_vec()], good.roots.clone()),
        (good.roots.clone(), good.roots.clone()),
    ] {
        let error = install(chain, roots).await;
        assert!(error.starts_with("the CA certificate from the cloud is refused: "), "{error}");
    }
    assert!(pair.edge.ca_request().borrow().is_some(), "the CSR still waits");
    pair.edge.install_upstream(good.chain.clone(), good.roots.clone()).await.unwrap();
    pair.edge.install_upstream(good.chain, good.roots).await.unwrap();
    assert!(pair.edge.snapshot().ca.unwrap().prepared);
}

#[tokio::test]
async fn a_box_without_its_ca_says_so() {
    let place = Place::edge();
    let edge = place.open().await;
    let entry = edge.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let error = edge.sign_svid(&entry.id, &csr(None).1).unwrap_err();
    assert!(matches!(error, IssueError::NoAuthority(LeaseReason::NoAuthority)));
    let status = edge.snapshot();
    assert_eq!((status.lease.warning, status.ca), (LeaseWarning::Ended, None));
    assert_eq!(status.degraded.len(), 1);
    assert!(edge.builtin_identity(&id("/edge/box-1/broker")).unwrap().current().is_none());

    let first = edge.ca_request().borrow().clone().unwrap();
    drop(edge);
    let again = place.open().await.ca_request().borrow().clone().unwrap();
    let key = |request: &midge_issuer::CaRequest| {
        midge_pki::Csr::parse(&request.csr_der).unwrap().public_key_spki().to_vec()
    };
    assert_eq!(key(&first), key(&again), "a restart asks for the same key");
}

#[tokio::test]
async fn a_join_token_works_once_and_a_lost_answer_does_not_burn_it() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let made = cloud.create_join_token(HOUR, None, Some(id("/edge/box-1"))).await.unwrap();
    assert_eq!(made.expires_at, cloud.now().after(HOUR));
    let (_, request) = csr(None);
    assert!(matches!(cloud.redeem(&made.token, b"junk", None).await, Err(IssueError::Csr(_))), "not spent");
    let joined = cloud.redeem(&made.token, &request, None).await.unwrap();
    assert_eq!(joined.node.id, id("/edge/box-1"));
    assert_eq!(*verify(&cloud, &joined.svid.chain).id(), id("/edge/box-1"));
    let facts = CertificateFacts::parse(&joined.svid.chain[0]).unwrap();
    assert!(facts.subject().contains("O=system:nodes") && facts.subject().contains("CN=system:node:box-1"));

    drop(cloud);
    let cloud = place.open().await;
    let again = cloud.redeem(&made.token, &request, None).await.unwrap();
    assert_ne!(again.svid.serial, joined.svid.serial);
    assert_eq!(cloud.node(&id("/edge/box-1")).unwrap().svid_serial, again.svid.serial);
    let error = cloud.redeem(&made.token, &csr(None).1, None).await.unwrap_err();
    assert_eq!(error.to_string(), "join token does not exist or has already been used");
}

#[tokio::test]
async fn a_token_is_spent_by_one_of_many_at_once() {
    let cloud = Place::cloud().open().await;
    let made =
        cloud.create_join_token(HOUR, Some("fixed".to_owned()), Some(id("/edge/box-1"))).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (cloud, token) = (cloud.clone(), made.token.clone());
            tokio::spawn(async move { cloud.redeem(&token, &csr(None).1, None).await.is_ok() })
        })
        .collect();
    let mut joined = 0;
    for task in tasks {
        joined += usize::from(task.await.unwrap());
    }
    assert_eq!(joined, 1);
}

#[tokio::test]
async fn an_expired_token_is_gone_after_its_first_use() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let made = cloud.create_join_token(HOUR, None, Some(id("/edge/box-1"))).await.unwrap();
    place.clock.advance(HOUR);
    let redeem = async || cloud.redeem(&made.token, &csr(None).1, None).await.unwrap_err().to_string();
    assert_eq!(redeem().await, "join token expired");
    assert_eq!(redeem().await, "join token does not exist or has already been used");
}

#[tokio::test]
async fn a_banned_box_gets_nothing_until_it_is_deleted() {
    let pair = Pair::new().await;
    let cloud = &pair.cloud;
    let node = id("/edge/box-1");
    cloud.ban_node(&node).await.unwrap();
    assert!(matches!(
        cloud.sign_node_svid(&pair.shown, &csr(None).1).await,
        Err(IssueError::Join(JoinError::Banned(_)))
    ));
    let refused = cloud.sign_intermediate(&csr(None).1, &pair.shown, None).await;
    assert!(matches!(refused, Err(IssueError::Join(JoinError::Banned(_)))));
    cloud.delete_node(&node).await.unwrap();
    assert!(matches!(cloud.delete_node(&node).await, Err(IssueError::Join(JoinError::UnknownNode))));
    let again = join(cloud, "box-1").await;
    assert!(cloud.sign_node_svid(&again, &csr(None).1).await.is_ok());
}

#[tokio::test]
async fn an_unknown_box_gets_no_intermediate() {
    let cloud = Place::cloud().open().await;
    let minted = cloud.mint_svid(&csr(Some("/edge/box-9")).1, None).unwrap();
    let never_joined = shown(&cloud, &minted.chain);
    let refused = cloud.sign_intermediate(&csr(None).1, &never_joined, None).await;
    assert!(matches!(refused, Err(IssueError::Join(JoinError::UnknownNode))));
}

#[tokio::test]
async fn builtin_identities_are_rotated_at_half_their_life() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let broker = issuer.builtin_identity(&id("/edge/box-1/broker")).unwrap();
    let first = broker.current().unwrap();
    assert_eq!(first.id, id("/edge/box-1/broker"));
    assert!(issuer.is_registered(&first.id));
    assert!(Arc::ptr_eq(&broker, &issuer.builtin_identity(&id("/edge/box-1/broker")).unwrap()));
    place.clock.advance(HOUR / 2 - Duration::from_secs(1));
    issuer.tick().await.unwrap();
    assert!(Arc::ptr_eq(&first, &broker.current().unwrap()));
    place.clock.advance(Duration::from_secs(1));
    issuer.tick().await.unwrap();
    let second = broker.current().unwrap();
    assert_eq!(second.expires, issuer.now().after(HOUR));
    assert_ne!(first.key.public_key_der(), second.key.public_key_der());
    for foreign in ["spiffe://other/edge/box-1/broker", &format!("spiffe://{}", issuer.trust_domain())] {
        let result = issuer.builtin_identity(&SpiffeId::new(foreign).unwrap());
        assert!(matches!(result, Err(IssueError::Foreign(_))), "{foreign}");
    }
}

#[tokio::test]
async fn changes_of_the_cloud_are_taken_with_their_cursor_or_not_at_all() {
    let pair = Pair::new().await;
    let edge = &pair.edge;
    let mine =
        edge.create_entry(draft("/edge/box-1/app/mine", "/edge/box-1", 1), Origin::Edge).await.unwrap();
    let theirs =
        pair.cloud.create_entry(draft("/edge/box-1/app/a", "/edge/box-1", 2), Origin::Cloud).await.unwrap();
    let cursor = |text: &str| Batch::new().put("sync/cursor", text.as_bytes());
    let upsert = CloudChange::Upsert(Box::new((*theirs).clone()));
    assert!(edge.apply_cloud(vec![upsert.clone()], cursor("1")).await.unwrap().is_empty());
    assert_eq!(edge.entry(&theirs.id).unwrap(), theirs);
    assert_eq!(edge.store().get("sync/cursor").await.unwrap().as_deref(), Some(&b"1"[..]));
    let error = edge.delete_entry(&theirs.id).await.unwrap_err();
    assert_eq!(error.to_string(), "entry is managed by the cloud: change it there");

    // An empty bundle would lock everyone out: the whole batch is refused, the cursor with it.
    let changes = vec![
        CloudChange::Delete(theirs.id.clone()),
        CloudChange::Roots { roots: Vec::new(), tainted: Vec::new() },
    ];
    assert!(edge.apply_cloud(changes, cursor("2")).await.is_err());
    assert!(edge.entry(&theirs.id).is_ok());
    assert_eq!(edge.store().get("sync/cursor").await.unwrap().as_deref(), Some(&b"1"[..]));

    let before = edge.view().revision;
    edge.apply_cloud(vec![upsert], cursor("2")).await.unwrap();
    assert_eq!(edge.view().revision, before, "the same again shows nothing");

    edge.apply_cloud(
        vec![CloudChange::Delete(mine.id.clone()), CloudChange::Retain(Vec::new())],
        cursor("3"),
    )
    .await
    .unwrap();
    assert_eq!(*edge.view().entries, [mine], "only what was the cloud's is gone");
}

#[tokio::test]
async fn an_entry_that_breaks_a_rule_does_not_hold_up_the_others() {
    let pair = Pair::new().await;
    let edge = &pair.edge;
    let with_id = |name: &str, path: &str| {
        let entry = issuer_core::RegistrationEntry { id: name.to_owned(), ..draft(path, "/edge/box-1", 1) };
        CloudChange::Upsert(Box::new(entry))
    };
    let changes = vec![with_id("bad", "/edge/box-2/app/x"), with_id("good", "/edge/box-1/app/x")];
    let refused = edge.apply_cloud(changes, Batch::new()).await.unwrap();
    assert!(matches!(refused.as_slice(), [(id, EntryError::OutOfScope { .. })] if id == "bad"));
    assert!(edge.entry("good").is_ok());
    assert!(edge.view().degraded.iter().any(|trouble| trouble.what.contains("entry bad from the cloud")));
    edge.apply_cloud(vec![CloudChange::Delete("bad".to_owned())], Batch::new()).await.unwrap();
    assert!(edge.view().degraded.is_empty());
}

#[tokio::test]
async fn a_refused_entry_is_told_until_it_comes_again_also_after_a_restart() {
    let pair = Pair::new().await;
    let entry = |name: &str, path: &str| {
        let entry = issuer_core::RegistrationEntry { id: name.to_owned(), ..draft(path, "/edge/box-1", 1) };
        CloudChange::Upsert(Box::new(entry))
    };
    let unread = |name: &str| CloudChange::Unread { id: name.to_owned(), why: "unknown field".to_owned() };
    let told = |issuer: &Issuer| -> Vec<String> {
        issuer.view().degraded.iter().map(|trouble| trouble.what.clone()).collect()
    };
    pair.edge.apply_cloud(vec![entry("a", "/edge/box-1/app/a")], Batch::new()).await.unwrap();
    assert!(!pair.edge.refuses_entries());
    let changes = vec![unread("a"), unread("b"), entry("c", "/edge/box-2/app/c")];
    assert_eq!(pair.edge.apply_cloud(changes, Batch::new()).await.unwrap().len(), 3);
    assert!(pair.edge.entry("a").is_ok(), "what it was before holds on");

    drop(pair.edge);
    let edge = pair.edge_place.open().await;
    assert!(edge.refuses_entries());
    let [a, b, c] = &*told(&edge) else { panic!("{:?}", told(&edge)) };
    assert!(a.contains("entry a") && a.contains("unknown field"), "{a}");
    assert!(b.contains("entry b") && c.contains("entry c") && c.contains("scope"), "{b} {c}");

    let changes = vec![unread("a"), entry("a", "/edge/box-1/app/a")];
    edge.apply_cloud(changes, Batch::new()).await.unwrap();
    assert!(!told(&edge).iter().any(|what| what.contains("entry a")), "the last word counts");
    edge.apply_cloud(vec![CloudChange::Retain(vec!["c".to_owned()])], Batch::new()).await.unwrap();
    assert!(told(&edge).len() == 1 && edge.entry("a").is_err(), "{:?}", told(&edge));
    edge.apply_cloud(vec![entry("c", "/edge/box-1/app/c")], Batch::new()).await.unwrap();
    assert!(told(&edge).is_empty() && !edge.refuses_entries());
    drop(edge);
    assert!(told(&pair.edge_place.open().await).is_empty());
}

#[tokio::test]
async fn deleted_and_sent_again_in_one_batch_is_there() {
    let pair = Pair::new().await;
    let entry =
        issuer_core::RegistrationEntry { id: "e".to_owned(), ..draft("/edge/box-1/x", "/edge/box-1", 1) };
    let upsert = CloudChange::Upsert(Box::new(entry));
    let changes = vec![
        upsert.clone(),
        CloudChange::Retain(Vec::new()),
        upsert,
        CloudChange::Retain(vec!["e".to_owned()]),
    ];
    pair.edge.apply_cloud(changes, Batch::new()).await.unwrap();
    assert!(pair.edge.entry("e").is_ok());
    drop(pair.edge);
    assert!(pair.edge_place.open().await.entry("e").is_ok());
}

#[derive(Default)]
struct Journal {
    next: AtomicUsize,
    seen: Mutex<Vec<String>>,
    commits: AtomicUsize,
}

impl MutationLog for Journal {
    fn extend(&self, mutation: &Mutation, batch: &mut Batch) {
        let Mutation::Entry(change) = mutation else { return };
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        *batch = std::mem::take(batch).put(format!("log/{number}"), change.id().as_bytes());
        self.seen.lock().push(change.id().to_owned());
    }

    fn committed(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_log_is_written_in_the_same_commit() {
    let mut place = Place::cloud();
    let log = Arc::new(Journal::default());
    place.config.mutation_log = Some(Arc::clone(&log) as Arc<dyn MutationLog>);
    let cloud = place.open().await;
    let before = log.commits.load(Ordering::SeqCst);
    let entry = cloud.create_entry(draft("/edge/b/a", "/edge/b", 1), Origin::Cloud).await.unwrap();
    cloud.delete_entry(&entry.id).await.unwrap();
    assert!(cloud.delete_entry(&entry.id).await.is_err());
    assert_eq!(log.commits.load(Ordering::SeqCst), before + 2);
    assert_eq!(*log.seen.lock(), [entry.id.clone(), entry.id.clone()]);
    assert_eq!(cloud.store().scan("log/").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_passes() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let store = issuer.store();
    store.set_size_max(Some(1)).await.unwrap();
    let mut entry = draft("/edge/box-1/app/a", "/edge/box-1", 1);
    entry.publish = (0..256).map(|n| format!("{n}/{}", "x".repeat(1000))).collect();
    let refused = issuer.create_entry(entry.clone(), Origin::Edge).await;
    assert!(matches!(refused, Err(IssueError::Store(midge_store::StoreError::Full))), "{refused:?}");
    assert!(issuer.view().entries.is_empty());
    assert!(issuer.mint_svid(&csr(Some("/a")).1, None).is_ok(), "signing goes on");
    store.set_size_max(None).await.unwrap();
    issuer.create_entry(entry, Origin::Edge).await.unwrap();
}

#[tokio::test]
async fn openssl_accepts_our_chains() {
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let mut cloud_place = Place::cloud();
    cloud_place.clock = Clock::system();
    let mut edge_place = Place::edge();
    edge_place.clock = Clock::system();
    let (cloud, edge) = (cloud_place.open().await, edge_place.open().await);
    let shown = join(&cloud, "box-1").await;
    answer(&cloud, &edge, &shown).await.unwrap();
    let svid = edge.mint_svid(&csr(Some("/edge/box-1/app/a")).1, None).unwrap();
    let folder = edge_place.folder.path();
    fs::write(folder.join("root.pem"), pem_encode_certs(cloud.roots())).unwrap();
    fs::write(folder.join("leaf.pem"), pem_encode_certs(&svid.chain[..1])).unwrap();
    fs::write(folder.join("chain.pem"), pem_encode_certs(&svid.chain[1..])).unwrap();
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        .args(["-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_key_directory_is_made_and_a_bad_box_name_is_refused() {
    let mut place = Place::new(Authority::Upstream, Some("bad name"));
    let error = place.try_open().await.err().unwrap().to_string();
    assert!(error.starts_with("\"bad name\" cannot be the name of a box"), "{error}");
    place.config.node = Some("box-1".to_owned());
    place.open().await;
    assert!(place.keys().is_dir());
    assert_eq!(*place.open().await.trust_domain(), trust_domain());
}

#[tokio::test]
async fn expired_entries_and_old_tokens_are_cleaned_away() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let mut entry = draft("/edge/b/a", "/edge/b", 1);
    entry.expires_at = i64::try_from(cloud.now().after(HOUR).as_secs()).unwrap();
    cloud.create_entry(entry, Origin::Cloud).await.unwrap();
    cloud.create_join_token(HOUR, None, None).await.unwrap();
    cloud.tick().await.unwrap();
    assert_eq!(cloud.view().entries.len(), 1);
    place.clock.advance(DAY * 2);
    cloud.tick().await.unwrap();
    assert!(cloud.view().entries.is_empty());
    assert!(cloud.store().scan("token/").await.unwrap().is_empty());
    assert!(cloud.store().scan("entry/").await.unwrap().is_empty());
}

#[tokio::test]
async fn no_svid_outlives_its_entry() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let ending = async |after: Duration| {
        let mut entry = draft("/edge/box-1/app/a", "/edge/box-1", 1);
        entry.expires_at = i64::try_from(issuer.now().after(after).as_secs()).unwrap();
        issuer.create_entry(entry, Origin::Edge).await
    };
    let error = ending(Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.ends_with("is past"), "{error}");
    let entry = ending(HOUR / 2).await.unwrap();
    let svid = issuer.sign_svid(&entry.id, &csr(None).1).unwrap();
    assert_eq!(svid.expires, issuer.now().after(HOUR / 2));
    place.clock.advance(HOUR / 2);
    let late = issuer.sign_svid(&entry.id, &csr(None).1);
    assert!(matches!(late, Err(IssueError::Entry(EntryError::Ended))));
    issuer.tick().await.unwrap();
    assert!(issuer.view().entries.is_empty());
    let entry = ending(DAY).await.unwrap();
    assert_eq!(issuer.sign_svid(&entry.id, &csr(None).1).unwrap().expires, issuer.now().after(HOUR));
}

#[tokio::test]
async fn chains_of_one_trust_domain_mean_nothing_in_another() {
    let (one, other) = (Place::cloud().open().await, Place::cloud().open().await);
    let svid = one.mint_svid(&csr(Some("/a")).1, None).unwrap();
    assert!(try_verify(&one, &svid.chain).is_ok());
    assert!(try_verify(&other, &svid.chain).is_err());
    assert!(UnixMillis::default() < svid.expires);
}
