//! Authorities that an operator prepares, activates, taints and revokes, and what follows at a cloud and its boxes.

use crate::place::{Place, csr, id, try_verify, verify};
use crate::rotation::{answer, enrolled};
use issuer_core::{AuthorityError, SlotState, X509Authority, signed_by};
use midge_identity::Proof;
use midge_issuer::{CloudChange, IssueError, Issuer};
use midge_pki::IdentitySource;
use midge_store::Batch;

fn in_state(issuer: &Issuer, state: SlotState) -> Vec<X509Authority> {
    issuer.x509_authorities().into_iter().filter(|authority| authority.state == state).collect()
}

fn active(issuer: &Issuer) -> String {
    in_state(issuer, SlotState::Active)[0].id.clone()
}

/// Another authority signs from here on; returns the one that did before.
async fn replaced(issuer: &Issuer) -> String {
    let before = active(issuer);
    let prepared = issuer.prepare_x509_authority().await.unwrap();
    issuer.activate_x509_authority(&prepared.id).await.unwrap();
    assert_eq!(active(issuer), prepared.id);
    before
}

fn refused<T: std::fmt::Debug>(result: Result<T, IssueError>) -> AuthorityError {
    match result.unwrap_err() {
        IssueError::Authority(error) => error,
        other => panic!("{other}"),
    }
}

fn signer(svid: &[Vec<u8>]) -> String {
    signed_by(&svid[0]).unwrap()
}

fn is_tainted(issuer: &Issuer, chain: &[Vec<u8>]) -> bool {
    let peer = verify(issuer, chain);
    let Proof::X509Svid { anchor, .. } = peer.proof() else { panic!("{peer:?}") };
    issuer.view().bundles.is_tainted(issuer.trust_domain(), anchor)
}

fn minted(issuer: &Issuer) -> Vec<Vec<u8>> {
    issuer.mint_svid(&csr(Some("/edge/box-1/app/a")).1, None).unwrap().chain
}

#[tokio::test]
async fn an_authority_is_prepared_activated_tainted_and_revoked_in_this_order() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let (first, old) = (active(&issuer), minted(&issuer));
    assert_eq!(refused(issuer.taint_x509_authority(&first).await), AuthorityError::Active(first.clone()));
    assert_eq!(
        refused(issuer.activate_x509_authority(&first).await),
        AuthorityError::NotPrepared(first.clone())
    );

    let unused = issuer.prepare_x509_authority().await.unwrap();
    let prepared = issuer.prepare_x509_authority().await.unwrap();
    assert_eq!(issuer.roots().len(), 2, "the one that signed nothing is gone");
    assert_eq!(
        refused(issuer.activate_x509_authority(&unused.id).await),
        AuthorityError::NotPrepared(unused.id)
    );
    for refusal in
        [issuer.taint_x509_authority(&prepared.id).await, issuer.revoke_x509_authority(&prepared.id).await]
    {
        assert_eq!(refused(refusal), AuthorityError::Prepared(prepared.id.clone()));
    }
    assert_eq!(signer(&minted(&issuer)), first, "prepared signs nothing");
    issuer.activate_x509_authority(&prepared.id).await.unwrap();
    let new = minted(&issuer);
    assert_eq!(signer(&new), prepared.id);
    assert_eq!(
        refused(issuer.revoke_x509_authority(&first).await),
        AuthorityError::NotTainted(first.clone())
    );
    assert_eq!(refused(issuer.taint_x509_authority("ff").await), AuthorityError::Unknown("ff".into()));
    assert_eq!(refused(issuer.taint_x509_authority("").await), AuthorityError::NoId);
    assert!(!is_tainted(&issuer, &old));

    for _ in 0..2 {
        assert!(issuer.taint_x509_authority(&first).await.unwrap().tainted);
    }
    drop(issuer);
    let issuer = place.open().await;
    assert!(is_tainted(&issuer, &old) && !is_tainted(&issuer, &new), "also after a restart");
    issuer.revoke_x509_authority(&first).await.unwrap();
    assert!(try_verify(&issuer, &old).is_err());
    verify(&issuer, &new);
    assert_eq!(issuer.x509_authorities().len(), 1);
}

#[tokio::test]
async fn what_a_tainted_authority_signed_is_signed_anew_and_nothing_else() {
    let place = Place::standalone();
    let issuer = place.open().await;
    let broker = issuer.builtin_identity(&id("/edge/box-1/broker")).unwrap();
    let chain = || broker.current().unwrap().chain.iter().map(|der| der.to_vec()).collect::<Vec<_>>();
    let first = replaced(&issuer).await;
    let second = active(&issuer);
    issuer.tick().await.unwrap();
    assert_eq!(signer(&chain()), first, "an old authority is as good as before");
    assert!(issuer.view().good_authorities.contains(&first));

    issuer.taint_x509_authority(&first).await.unwrap();
    assert!(!issuer.view().good_authorities.contains(&first));
    let renewed = chain();
    assert_eq!(signer(&renewed), second);
    issuer.tick().await.unwrap();
    assert_eq!(chain(), renewed, "once");
}

#[tokio::test]
async fn a_box_replaces_its_ca_when_its_root_is_tainted_or_gone() {
    for gone in [false, true] {
        let (_cloud_place, cloud, _place, edge) = enrolled().await;
        let (before, old) = (active(&edge), minted(&edge));
        let broker = edge.builtin_identity(&id("/edge/box-1/broker")).unwrap();
        assert_eq!(refused(edge.taint_x509_authority(&before).await), AuthorityError::Upstream);
        assert_eq!(refused(edge.prepare_x509_authority().await), AuthorityError::Upstream);

        let root = replaced(&cloud.0).await;
        cloud.0.taint_x509_authority(&root).await.unwrap();
        let view = cloud.0.view();
        let mut tainted = view.bundles.tainted(cloud.0.trust_domain()).to_vec();
        if gone {
            cloud.0.revoke_x509_authority(&root).await.unwrap();
            tainted.clear();
        }
        let change = CloudChange::Roots { roots: cloud.0.roots(), tainted };
        for _ in 0..2 {
            edge.apply_cloud(vec![change.clone()], Batch::new()).await.unwrap();
            edge.tick().await.unwrap();
        }
        assert_eq!((active(&edge), is_asked_for(&edge)), (before.clone(), true), "it has no better one yet");
        assert!(edge.view().good_authorities.contains(&before));
        if !gone {
            assert!(is_tainted(&edge, &old));
        }

        answer(&cloud, &edge).await;
        assert_ne!(active(&edge), before, "at once");
        assert!(!edge.view().good_authorities.contains(&before) && !is_asked_for(&edge));
        let signed = broker.current().unwrap();
        assert_eq!(signed_by(&signed.chain[0]).unwrap(), active(&edge));
        assert!(!is_tainted(&edge, &minted(&edge)));
        let states: Vec<_> = edge.x509_authorities().iter().map(|ca| (ca.state, ca.tainted)).collect();
        assert_eq!(states, [(SlotState::Active, false), (SlotState::Old, true)]);
    }
}

fn is_asked_for(edge: &Issuer) -> bool {
    edge.ca_request().borrow().is_some()
}
