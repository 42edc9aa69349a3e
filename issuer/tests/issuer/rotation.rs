//! Rotation with real keys, files and stores: restarts at every step, lost keys, wrong clocks.

use crate::place::{DAY, HOUR, Place, START, csr, id, join, verify};
use issuer_core::{LeaseReason, LeaseWarning, NodeProof};
use midge_identity::UnixMillis;
use midge_issuer::{IssueError, Issuer, run};
use midge_pki::{IdentitySource, PrivateKey};
use midge_runtime::Clock;
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
use tokio_util::sync::CancellationToken;

fn serial(issuer: &Issuer) -> String {
    issuer.snapshot().ca.unwrap().serial
}

#[tokio::test]
async fn own_roots_rotate_through_restarts_at_every_step() {
    let place = Place::standalone();
    let mut issuer = place.open().await;
    let mut serials = vec![serial(&issuer)];
    let mut held = Vec::new();
    for _ in 0..(24 * 4) {
        held.push(issuer.mint_svid(&csr(Some("/a")).1, None).unwrap());
        place.clock.advance(HOUR);
        drop(issuer);
        issuer = place.open().await;
        if serials.last() != Some(&serial(&issuer)) {
            serials.push(serial(&issuer));
        }
        held.retain(|svid| svid.expires > issuer.now());
        for svid in &held {
            verify(&issuer, &svid.chain);
        }
    }
    assert_eq!(serials.len(), 8, "a takeover each half day");
    assert!(issuer.view().bundles.roots(issuer.trust_domain()).unwrap().len() <= 4);
}

#[tokio::test]
async fn rotation_goes_on_without_a_restart() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let first = serial(&issuer);
    place.clock.advance(DAY / 2);
    issuer.tick().await.unwrap();
    assert!(issuer.snapshot().ca.unwrap().prepared);
    assert_eq!(serial(&issuer), first);
    assert_eq!(
        issuer.view().bundles.roots(issuer.trust_domain()).unwrap().len(),
        2,
        "published before it signs"
    );
    place.clock.advance(DAY / 3);
    issuer.tick().await.unwrap();
    assert_ne!(serial(&issuer), first);
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);
}

#[tokio::test]
async fn a_box_switched_off_for_a_year_makes_a_new_root() {
    let place = Place::standalone();
    let first = serial(&place.open().await);
    place.clock.advance(DAY * 365);
    let issuer = place.open().await;
    assert_ne!(serial(&issuer), first);
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);
}

pub(crate) async fn enrolled() -> (Place, (Issuer, NodeProof), Place, Issuer) {
    let mut cloud_place = Place::cloud();
    cloud_place.config.ca_ttl = DAY * 365;
    let mut edge_place = Place::edge();
    edge_place.clock = cloud_place.clock.clone();
    let cloud = cloud_place.open().await;
    let shown = join(&cloud, "box-1").await;
    let cloud = (cloud, shown);
    let edge = edge_place.open().await;
    answer(&cloud, &edge).await;
    (cloud_place, cloud, edge_place, edge)
}

pub(crate) async fn answer((cloud, shown): &(Issuer, NodeProof), edge: &Issuer) {
    let request = edge.ca_request().borrow().clone().expect("a CSR waits");
    let signed = cloud.sign_intermediate(&request.csr_der, shown, None).await.unwrap();
    edge.install_upstream(signed.chain, signed.roots).await.unwrap();
}

#[tokio::test]
async fn an_edge_restarts_offline_past_half_and_five_sixths_of_its_ca() {
    let (_cloud_place, cloud, place, edge) = enrolled().await;
    let first = serial(&edge);
    let mut edge = Some(edge);
    for hours in [13, 6, 2, 2] {
        place.clock.advance(HOUR * hours);
        drop(edge.take());
        let restarted = place.open().await;
        assert_eq!(serial(&restarted), first);
        let svid = restarted.mint_svid(&csr(Some("/edge/box-1/a")).1, None).unwrap();
        verify(&restarted, &svid.chain);
        assert!(restarted.ca_request().borrow().is_some());
        edge = Some(restarted);
    }
    let edge = edge.unwrap();
    assert_eq!(edge.view().lease.warning, LeaseWarning::Ending);
    assert!(edge.view().degraded[0].what.contains("lease is nearly over"), "{:?}", edge.view().degraded);
    answer(&cloud, &edge).await;
    let lease = edge.snapshot().lease;
    assert_eq!((lease.remaining, lease.warning), (DAY, LeaseWarning::None));
    assert!(edge.view().degraded.is_empty());
}

#[tokio::test]
async fn at_the_end_of_the_lease_issuing_stops_and_says_so() {
    let (_cloud_place, cloud, place, edge) = enrolled().await;
    place.clock.advance(DAY);
    edge.tick().await.unwrap();
    let error = edge.mint_svid(&csr(Some("/edge/box-1/a")).1, None).unwrap_err();
    assert!(matches!(error, IssueError::NoAuthority(LeaseReason::Ended)));
    assert!(error.to_string().contains("until the cloud is reached"), "{error}");
    assert_eq!(edge.view().lease.warning, LeaseWarning::Ended);
    answer(&cloud, &edge).await;
    assert!(edge.mint_svid(&csr(Some("/edge/box-1/a")).1, None).is_ok());
}

#[tokio::test]
async fn an_answer_after_a_restart_fits() {
    let (_cloud_place, cloud, place, edge) = enrolled().await;
    place.clock.advance(DAY / 2);
    edge.tick().await.unwrap();
    let request = edge.ca_request().borrow().clone().unwrap();
    let signed = cloud.0.sign_intermediate(&request.csr_der, &cloud.1, None).await.unwrap();
    drop(edge);
    let edge = place.open().await;
    edge.install_upstream(signed.chain, signed.roots).await.unwrap();
    assert!(edge.snapshot().ca.unwrap().prepared && edge.ca_request().borrow().is_none());
    place.clock.advance(DAY / 3);
    drop(edge);
    let edge = place.open().await;
    verify(&edge, &edge.mint_svid(&csr(Some("/edge/box-1/a")).1, None).unwrap().chain);
    assert_eq!(edge.snapshot().ca.unwrap().slot, issuer_core::Slot::B);
}

#[tokio::test]
async fn a_crash_between_key_and_journal_costs_only_the_key() {
    let place = Place::standalone();
    let first = serial(&place.open().await);
    // The key of the next CA reached its file; the commit that names it did not happen.
    PrivateKey::generate().unwrap().store(place.keys().join("x509-ca-b.key")).unwrap();
    place.clock.advance(DAY / 2);
    let issuer = place.open().await;
    assert_eq!(serial(&issuer), first);
    place.clock.advance(DAY / 3);
    issuer.tick().await.unwrap();
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);
}

#[tokio::test]
async fn a_lost_or_foreign_key_of_the_root_stops_the_start_until_it_is_back() {
    for foreign in [false, true] {
        let place = Place::standalone();
        let issuer = place.open().await;
        let (first, svid) = (serial(&issuer), issuer.mint_svid(&csr(Some("/a")).1, None).unwrap());
        drop(issuer);
        let (path, kept) = (place.keys().join("x509-ca-a.key"), place.folder.path().join("kept"));
        fs::rename(&path, &kept).unwrap();
        if foreign {
            PrivateKey::generate().unwrap().store(&path).unwrap();
        }
        let before = fs::read(&path).ok();
        for _ in 0..2 {
            let error = place.try_open().await.err().unwrap();
            assert!(matches!(error, IssueError::RootKey { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("x509-ca-a.key") && text.contains("put the key file back"), "{text}");
        }
        assert_eq!(fs::read(&path).ok(), before, "nothing is written over");

        fs::rename(&kept, &path).unwrap();
        let issuer = place.open().await;
        assert_eq!(serial(&issuer), first);
        verify(&issuer, &svid.chain);
    }
}

#[tokio::test]
async fn a_lost_key_of_a_root_that_has_ended_or_of_an_intermediate_is_replaced() {
    let place = Place::standalone();
    let first = serial(&place.open().await);
    fs::remove_file(place.keys().join("x509-ca-a.key")).unwrap();
    place.clock.advance(DAY * 2);
    assert_ne!(serial(&place.open().await), first);

    let (_cloud_place, cloud, place, edge) = enrolled().await;
    let first = serial(&edge);
    drop(edge);
    fs::remove_file(place.keys().join("x509-ca-a.key")).unwrap();
    let edge = place.open().await;
    answer(&cloud, &edge).await;
    assert_ne!(serial(&edge), first, "the cloud signs another");
}

#[tokio::test]
async fn a_key_that_others_can_read_stops_the_start_with_the_remedy() {
    let place = Place::standalone();
    drop(place.open().await);
    let path = place.keys().join("x509-ca-a.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.try_open().await.err().unwrap().to_string();
    assert!(error.contains("chmod 600") && error.contains("x509-ca-a.key"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.try_open().await.is_ok());
}

#[tokio::test]
async fn a_damaged_record_stops_the_start_with_its_name() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let batch = midge_store::Batch::new().put("ca/journal", b"{".as_slice());
    issuer.store().commit(batch, midge_store::Durability::PowerLoss).await.unwrap();
    drop(issuer);
    let error = place.try_open().await.err().unwrap().to_string();
    assert!(error.contains("record \"ca/journal\"") && error.contains("restore"), "{error}");
}

#[tokio::test]
async fn a_clock_in_the_past_makes_nothing_valid_again() {
    let mut place = Place::standalone();
    let issuer = place.open().await;
    let svid = issuer.mint_svid(&csr(Some("/a")).1, None).unwrap();
    place.clock.advance(HOUR * 2);
    issuer.tick().await.unwrap();
    drop(issuer);

    place.clock = Clock::manual(UnixMillis::from_secs(0));
    let issuer = place.open().await;
    assert!(issuer.now() >= START.after(HOUR * 2));
    assert!(crate::place::try_verify(&issuer, &svid.chain).is_err(), "expired stays expired");
    assert!(issuer.view().degraded[0].what.contains("clock is behind"), "{:?}", issuer.view().degraded);
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);

    place.clock.step_to(START.after(HOUR * 3));
    issuer.tick().await.unwrap();
    assert!(issuer.view().degraded.is_empty());
}

#[tokio::test]
async fn a_failing_rotation_is_shown_and_gets_over() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let first = serial(&issuer);
    place.clock.advance(DAY / 2);
    let away = place.folder.path().join("away");
    fs::rename(place.keys(), &away).unwrap();
    assert!(issuer.tick().await.is_err());
    assert!(issuer.view().degraded[0].what.starts_with("CA rotation fails"), "{:?}", issuer.view().degraded);
    assert_eq!(serial(&issuer), first);
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);

    fs::rename(&away, place.keys()).unwrap();
    issuer.tick().await.unwrap();
    assert!(issuer.view().degraded.is_empty() && issuer.snapshot().ca.unwrap().prepared);
}

#[tokio::test]
async fn the_task_rotates_by_itself_in_real_time() {
    let mut place = Place::standalone();
    place.clock = Clock::system();
    place.config.ca_ttl = Duration::from_secs(6);
    place.config.svid_ttl = Duration::from_secs(2);
    let issuer = place.open().await;
    let broker = issuer.builtin_identity(&id("/edge/box-1/broker")).unwrap();
    let (first, token) = (serial(&issuer), CancellationToken::new());
    let task = tokio::spawn(run(issuer.clone(), token.clone()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut views = issuer.subscribe();
    while serial(&issuer) == first {
        assert!(broker.current().unwrap().expires > issuer.now(), "the broker's identity never lapses");
        let changed = tokio::time::timeout(Duration::from_millis(500), views.changed()).await;
        assert!(changed.is_err() || changed.is_ok_and(|change| change.is_ok()));
        assert!(tokio::time::Instant::now() < deadline, "no takeover");
    }
    verify(&issuer, &issuer.mint_svid(&csr(Some("/a")).1, None).unwrap().chain);
    token.cancel();
    task.await.unwrap().unwrap();
}
