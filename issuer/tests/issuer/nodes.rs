//! Nodes that renew, join again, or come with what they have replaced, over restarts and with older stores.

use crate::place::{DAY, HOUR, Place, csr, id, join, shown, try_shown};
use issuer_core::{JoinError, NodeProof};
use midge_identity::SpiffeId;
use midge_issuer::{IssueError, Issuer};
use midge_store::{Batch, Durability};

fn box_1() -> SpiffeId {
    id("/edge/box-1")
}

async fn renew(cloud: &Issuer, with: &NodeProof) -> NodeProof {
    shown(cloud, &cloud.sign_node_svid(with, &csr(None).1).await.unwrap().chain)
}

async fn refused(cloud: &Issuer, with: &NodeProof) {
    let not_active = |error: &JoinError| matches!(error, JoinError::NotActive(_));
    assert!(not_active(&cloud.admitted_node(with).unwrap_err()));
    let told = [
        cloud.node_shown(with).await.unwrap_err(),
        cloud.sign_node_svid(with, &csr(None).1).await.unwrap_err(),
        cloud.sign_intermediate(&csr(None).1, with, None).await.unwrap_err(),
    ];
    for error in told {
        assert!(matches!(&error, IssueError::Join(error) if not_active(error)), "{error}");
    }
}

async fn served(cloud: &Issuer, with: &NodeProof) {
    cloud.node_shown(with).await.unwrap();
    cloud.admitted_node(with).unwrap();
    cloud.sign_intermediate(&csr(None).1, with, None).await.unwrap();
}

#[tokio::test]
async fn the_old_key_of_a_node_ends_with_the_first_use_of_the_new_one() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let old = join(&cloud, "box-1").await;
    served(&cloud, &old).await;
    place.clock.advance(HOUR);
    // The answer is lost, the node asks again with another key, and the cloud restarts.
    renew(&cloud, &old).await;
    let new = renew(&cloud, &old).await;
    drop(cloud);
    let cloud = place.open().await;
    served(&cloud, &old).await;
    let before = cloud.node(&box_1()).unwrap();
    served(&cloud, &new).await;
    let node = cloud.node(&box_1()).unwrap();
    assert_ne!(node.svid_serial, before.svid_serial);
    assert_eq!(
        (Some(node.svid_serial.clone()), node.svid_next.clone()),
        (before.svid_next.as_ref().map(|next| next.serial.clone()), None)
    );
    refused(&cloud, &old).await;
    drop(cloud);
    let cloud = place.open().await;
    refused(&cloud, &old).await;
    served(&cloud, &new).await;
}

#[tokio::test]
async fn the_key_of_a_box_that_was_replaced_is_worth_nothing() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let stolen = join(&cloud, "box-1").await;
    let renewed_by_thief = renew(&cloud, &stolen).await;
    cloud.ban_node(&box_1()).await.unwrap();
    cloud.delete_node(&box_1()).await.unwrap();
    let new = join(&cloud, "box-1").await;
    refused(&cloud, &stolen).await;
    refused(&cloud, &renewed_by_thief).await;
    served(&cloud, &new).await;

    // The same with a second token, and neither ban nor deletion.
    let newest = join(&cloud, "box-1").await;
    refused(&cloud, &new).await;
    drop(cloud);
    let cloud = place.open().await;
    refused(&cloud, &stolen).await;
    refused(&cloud, &new).await;
    served(&cloud, &newest).await;
}

#[tokio::test]
async fn the_ca_of_a_box_makes_no_certificate_of_a_node() {
    let (cloud_place, mut edge_place) = (Place::cloud(), Place::edge());
    edge_place.clock = cloud_place.clock.clone();
    let cloud = cloud_place.open().await;
    let stolen = join(&cloud, "box-1").await;
    let edge = edge_place.open().await;
    let request = edge.ca_request().borrow().clone().unwrap();
    let ca = cloud.sign_intermediate(&request.csr_der, &stolen, None).await.unwrap();
    edge.install_upstream(ca.chain, ca.roots).await.unwrap();
    cloud_place.clock.advance(HOUR);
    let forged = edge.mint_svid(&csr(Some("/edge/box-1")).1, None).unwrap();
    assert_eq!(try_shown(&cloud, &forged.chain), Err(JoinError::NotFromRoot(box_1())));
    // The leaf of one chain with the proof of another.
    let minted = cloud.mint_svid(&csr(Some("/edge/box-1")).1, None).unwrap();
    let peer = crate::place::verify(&cloud, &minted.chain);
    assert_eq!(NodeProof::of(&peer, &forged.chain[0]), Err(JoinError::NotFromRoot(box_1())));
    assert!(NodeProof::of(&peer, &minted.chain[0]).is_ok());
}

#[tokio::test]
async fn a_token_that_did_its_work_is_spent_for_the_first_key_too() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let token = cloud.create_join_token(HOUR, None, Some(box_1())).await.unwrap().token;
    let (_, request) = csr(None);
    let first = shown(&cloud, &cloud.redeem(&token, &request, None).await.unwrap().svid.chain);
    let new = renew(&cloud, &first).await;
    // The node may not have got it.
    cloud.redeem(&token, &request, None).await.unwrap();
    served(&cloud, &new).await;
    let error = cloud.redeem(&token, &request, None).await.unwrap_err();
    assert!(matches!(error, IssueError::Join(JoinError::UnknownToken)), "{error}");
    served(&cloud, &new).await;
}

/// Takes from a node's record what older servers did not note.
async fn as_older(place: &Place, cloud: Issuer, change: impl FnOnce(&mut serde_json::Value)) -> Issuer {
    let key = "node/edge/box-1";
    let record = cloud.store().get(key).await.unwrap().unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    for field in ["svid_spki_sha256", "svid_issued", "svid_next"] {
        record.as_object_mut().unwrap().remove(field).unwrap();
    }
    change(&mut record);
    let batch = Batch::new().put(key, record.to_string());
    cloud.store().commit(batch, Durability::PowerLoss).await.unwrap();
    drop(cloud);
    place.open().await
}

#[tokio::test]
async fn a_store_of_an_older_server_keeps_its_boxes_and_keeps_out_those_before_them() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let stolen = join(&cloud, "box-1").await;
    place.clock.advance(HOUR);
    cloud.delete_node(&box_1()).await.unwrap();
    let right = join(&cloud, "box-1").await;
    let cloud = as_older(&place, cloud, |_| ()).await;
    refused(&cloud, &stolen).await;
    served(&cloud, &right).await;
    assert!(!cloud.node(&box_1()).unwrap().svid_spki_sha256.is_empty(), "noted");
    served(&cloud, &renew(&cloud, &right).await).await;
    refused(&cloud, &right).await;
}

#[tokio::test]
async fn a_box_that_never_got_what_an_older_server_signed_gets_in_and_renews() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let right = join(&cloud, "box-1").await;
    place.clock.advance(HOUR);
    // The older server noted what it had signed as if it were in use.
    let cloud = as_older(&place, cloud, |record| record["svid_serial"] = "0badcafe".into()).await;
    served(&cloud, &right).await;
    let new = renew(&cloud, &right).await;
    drop(cloud);
    let cloud = place.open().await;
    served(&cloud, &right).await;
    served(&cloud, &new).await;
    refused(&cloud, &right).await;
}

#[tokio::test]
async fn a_store_that_is_set_back_knows_its_boxes_again() {
    let place = Place::cloud();
    let cloud = place.open().await;
    let stolen = join(&cloud, "box-1").await;
    place.clock.advance(HOUR);
    let before = join(&cloud, "box-1").await;
    let backup = cloud.store().get("node/edge/box-1").await.unwrap().unwrap();
    place.clock.advance(DAY / 4);
    let renewed = renew(&cloud, &before).await;
    served(&cloud, &renewed).await;

    let batch = Batch::new().put("node/edge/box-1", backup);
    cloud.store().commit(batch, Durability::PowerLoss).await.unwrap();
    drop(cloud);
    let cloud = place.open().await;
    refused(&cloud, &stolen).await;
    served(&cloud, &before).await;
    served(&cloud, &renewed).await;
    refused(&cloud, &before).await;
    refused(&cloud, &stolen).await;
}
