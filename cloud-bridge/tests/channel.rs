//! Both ends of the channel over real TLS sockets, with real stores and identity servers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use bridge_core::UpwardItem;
use cloud_bridge::cloudhub::Desired;
use cloud_bridge::edgehub::{EnrolError, EnrolmentToken, enrol};
use issuer_core::{DeleteMode, FederatedBundle, Origin};
use midge_identity::TrustDomain;
use midge_pki::TrustSource as _;
use serde_json::json;
use std::collections::BTreeMap;
use world::{Cloud, Edge, entry, eventually};

fn led() -> bridge_core::DeviceId {
    "led".parse().unwrap()
}

fn on(value: &str) -> BTreeMap<String, Desired> {
    BTreeMap::from([("power".to_owned(), Desired { value: value.to_owned(), kind: "string".to_owned() })])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_enrols_gets_its_ca_and_its_entries() {
    let cloud = Cloud::start().await;
    let edge = Edge::join(&cloud, "box-1").await;
    eventually("the CA arrives", || edge.issuer.snapshot().ca.is_some()).await;
    eventually("connected", || edge.status().connected).await;
    assert_eq!(edge.status().last_error, None);

    let made = cloud.issuer.create_entry(entry("box-1", "app/a"), Origin::Edge).await.unwrap();
    cloud.issuer.create_entry(entry("box-2", "app/b"), Origin::Edge).await.unwrap();
    eventually("the entry arrives", || edge.issuer.entry(&made.id).is_ok()).await;
    let synced = edge.issuer.entry(&made.id).unwrap();
    assert_eq!((synced.origin, &synced.spiffe_id), (Origin::Cloud, &made.spiffe_id));
    assert_eq!(edge.issuer.snapshot().entries, 1, "the other box's entry stays away");

    cloud.issuer.delete_entry(&made.id).await.unwrap();
    eventually("the entry goes", || edge.issuer.entry(&made.id).is_err()).await;
    eventually("the cloud knows that the edge has everything", || {
        cloud.hub().sessions().iter().any(|s| s.node == "box-1" && s.connected && s.pending == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_once_and_again_for_the_box_that_lost_the_answer() {
    let cloud = Cloud::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = cloud.enrol_config("box-1", directory.path()).await;
    let first = enrol(&config, &cloud.clock).await.unwrap();
    // The answer was lost: the key is still there, the certificate is not.
    let joined = std::fs::read(directory.path().join("node.pem")).unwrap();
    std::fs::remove_file(directory.path().join("node.pem")).unwrap();
    midge_pki::write_private(directory.path().join("node-joining.pem"), &joined).unwrap();
    let second = enrol(&config, &cloud.clock).await.unwrap();
    assert_eq!(first.id(), second.id());

    let thief = tempfile::tempdir().unwrap();
    let config = cloud_bridge::edgehub::EnrolConfig { directory: thief.path().to_owned(), ..config };
    let error = enrol(&config, &cloud.clock).await.unwrap_err();
    assert!(matches!(error, EnrolError::Refused { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("already been used") && text.contains("midge token generate"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_box_needs_no_cloud_to_start_again() {
    let cloud = Cloud::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = cloud.enrol_config("box-1", directory.path()).await;
    enrol(&config, &cloud.clock).await.unwrap();
    cloud.stop_hub().await;
    assert_eq!(enrol(&config, &cloud.clock).await.unwrap().node(), "box-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_with_the_wrong_cloud_says_so() {
    let (cloud, other) = (Cloud::start().await, Cloud::start().await);
    let directory = tempfile::tempdir().unwrap();
    let right = cloud.enrol_config("box-1", directory.path()).await;

    // A token of this cloud shown to another one: somebody in between looks the same.
    let mut config = right.clone();
    config.address = other.enrol_config("box-1", directory.path()).await.address;
    let error = enrol(&config, &cloud.clock).await.unwrap_err();
    assert!(matches!(error, EnrolError::Root { .. }), "{error}");
    assert!(error.to_string().contains("do not trust this server"), "{error}");

    let mut config = right.clone();
    config.trust_domain = TrustDomain::new("elsewhere").unwrap();
    assert!(matches!(enrol(&config, &cloud.clock).await, Err(EnrolError::TrustDomain { .. })));

    let mut config = right.clone();
    config.node = "box-2".to_owned();
    let error = enrol(&config, &cloud.clock).await.unwrap_err();
    assert!(error.to_string().contains("not for spiffe://plant/edge/box-2"), "{error}");
    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = right.clone();
    config.directory = elsewhere.path().to_owned();
    assert_eq!(enrol(&config, &cloud.clock).await.unwrap().node(), "box-1", "the token was not spent");

    let mut config = right.clone();
    let hash = cloud.hub().enrolment_text("").unwrap();
    config.token = EnrolmentToken::parse(&format!("{hash}unknown")).unwrap();
    let error = enrol(&config, &cloud.clock).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");

    let mut config = right;
    config.address = "https://127.0.0.1:1".to_owned();
    let error = enrol(&config, &cloud.clock).await.unwrap_err();
    assert!(error.to_string().contains("cannot reach the cloud"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn desired_values_go_down_and_reports_come_up() {
    let cloud = Cloud::start().await;
    let edge = Edge::join(&cloud, "box-1").await;
    let made = cloud.hub().create_device("box-1", led(), "the light".into(), on("OFF")).await.unwrap();
    eventually("the device arrives", || edge.devices().contains_key("device/default/led/twin")).await;
    assert_eq!(edge.devices()["device/default/led"]["uid"], made.uid);

    cloud.hub().set_device(&led(), None, on("ON")).await.unwrap();
    eventually("the desired value arrives", || {
        edge.devices()["device/default/led/twin"]["twin"]["power"]["expected"]["value"] == "ON"
    })
    .await;

    let twin = json!({"event_id": "e", "timestamp": 1, "twin": {"power": {"actual": {"value": "ON"}}}});
    edge.handle.push(UpwardItem::twin(&led(), twin)).await.unwrap();
    let state = json!({"event_id": "e", "timestamp": 1, "device": {"name": "led", "state": "online"}});
    edge.handle.push(UpwardItem::state(&led(), &state)).await.unwrap();
    cloud
        .device_eventually(&led(), |device| {
            device.state == "online"
                && device.reported.get("power").and_then(|p| p.actual_value()) == Some("ON")
        })
        .await;
    eventually("acknowledged", || edge.status().pending == 0).await;

    cloud.hub().delete_device(&led(), None).await.unwrap();
    eventually("the device goes", || edge.devices().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_the_cloud_is_away_converges_when_it_is_back() {
    let cloud = Cloud::start().await;
    let mut edge = Edge::join(&cloud, "box-1").await;
    let kept = cloud.issuer.create_entry(entry("box-1", "app/kept"), Origin::Edge).await.unwrap();
    let gone = cloud.issuer.create_entry(entry("box-1", "app/gone"), Origin::Edge).await.unwrap();
    cloud.hub().create_device("box-1", led(), String::new(), on("OFF")).await.unwrap();
    eventually("everything arrives", || edge.issuer.snapshot().entries == 2 && edge.devices().len() == 2)
        .await;

    cloud.stop_hub().await;
    eventually("the edge sees it", || !edge.status().connected && edge.status().last_error.is_some()).await;
    cloud.issuer.delete_entry(&gone.id).await.unwrap();
    let new = cloud.issuer.create_entry(entry("box-1", "app/new"), Origin::Edge).await.unwrap();
    for value in ["OFF", "ON"] {
        let twin = json!({"twin": {"power": {"actual": {"value": value}}}});
        edge.handle.push(UpwardItem::twin(&led(), twin)).await.unwrap();
    }
    edge.handle.push(UpwardItem::audit("connect", json!({"n": 1}))).await.unwrap();
    // The edge, too, is restarted meanwhile.
    edge.restart().await;
    assert_eq!(edge.status().pending, 2, "the newer twin has replaced the older");

    cloud.start_hub().await;
    eventually("entries converge", || {
        edge.issuer.entry(&gone.id).is_err()
            && edge.issuer.entry(&new.id).is_ok()
            && edge.issuer.entry(&kept.id).is_ok()
    })
    .await;
    assert_eq!(edge.replacements(), 1, "only the very first connection needed a snapshot");
    cloud
        .device_eventually(&led(), |device| {
            device.reported.get("power").and_then(|p| p.actual_value()) == Some("ON")
        })
        .await;
    eventually("acknowledged", || edge.status().pending == 0).await;
    let events = cloud.events("box-1").await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "audit/connect"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_reports_and_forgets_none_that_was_taken() {
    let cloud = Cloud::start().await;
    let mut edge = Edge::join(&cloud, "box-1").await;
    eventually("connected", || edge.status().connected).await;
    // More than is free in the file.
    let event = || UpwardItem::audit("a", json!("x".repeat(400_000)));
    edge.store.set_size_max(Some(1)).await.unwrap();
    for _ in 0..3 {
        let refused = edge.handle.push(event()).await.unwrap_err().to_string();
        assert!(refused.contains("not on disk"), "{refused}");
    }
    // The link is up, and the trouble is told all the same.
    eventually("told", || edge.status().connected && edge.status().spool_error.is_some()).await;
    assert_eq!(edge.status().pending, 0, "what was refused is not sent");

    edge.store.set_size_max(None).await.unwrap();
    edge.handle.push(event()).await.unwrap();
    eventually("told no more", || edge.status().spool_error.is_none()).await;
    eventually("acknowledged", || edge.status().pending == 0).await;
    edge.restart().await;
    assert_eq!(edge.status().pending, 0, "what the cloud has is deleted");
    assert_eq!(cloud.events("box-1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_taken_before_there_is_an_identity() {
    let cloud = Cloud::start().await;
    let mut edge = Edge::join(&cloud, "box-1").await;
    edge.stop().await;
    let mut hub = edge.hub().await;
    let handle = hub.handle();
    hub.spool_while(handle.push(UpwardItem::audit("early", json!(1)))).await.unwrap();
    drop((hub, handle));
    edge.restart().await;
    eventually("acknowledged", || edge.status().connected && edge.status().pending == 0).await;
    let events = cloud.events("box-1").await;
    assert_eq!((events.len(), events[0].kind.as_str()), (1, "audit/early"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_reach_the_nodes_they_are_for() {
    let cloud = Cloud::start().await;
    let edge = Edge::join(&cloud, "box-1").await;
    let hub = cloud.hub();
    hub.put_rules(None, vec![("all".into(), json!("for all")), ("more".into(), json!("for all"))])
        .await
        .unwrap();
    hub.put_rules(Some("box-1"), vec![("mine".into(), json!("for box-1"))]).await.unwrap();
    // One for a node does not take the place of one for all, which may be a deny, nor the other way round.
    for (node, name, holder) in [(Some("box-1"), "more", "all nodes"), (None, "mine", "node box-1")] {
        let rules = vec![("new".into(), json!("x")), (name.into(), json!("x"))];
        let error = hub.put_rules(node, rules).await.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(holder), "{error}");
    }
    hub.put_rules(Some("box-2"), vec![("other".into(), json!("for box-2"))]).await.unwrap();
    eventually("rules arrive", || {
        let rules = edge.rules();
        rules == json!({"all": "for all", "mine": "for box-1", "more": "for all"})
    })
    .await;
    hub.delete_rule(Some("box-1"), "mine").await.unwrap();
    eventually("the others are left", || edge.rules() == json!({"all": "for all", "more": "for all"})).await;
    assert!(hub.delete_rule(None, "nosuch").await.is_err());
    assert!(hub.put_rules(None, vec![("a/b".into(), json!(1))]).await.is_err());
    assert_eq!(hub.rules().await.unwrap().len(), 3);
    for name in ["all", "more"] {
        hub.delete_rule(None, name).await.unwrap();
    }
    eventually("none is left", || edge.rules() == json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_is_cut_off_and_stays_out() {
    let cloud = Cloud::start().await;
    let edge = Edge::join(&cloud, "box-1").await;
    eventually("connected", || edge.status().connected).await;
    let id = midge_identity::node_id(cloud.issuer.trust_domain(), "box-1").unwrap();
    cloud.issuer.ban_node(&id).await.unwrap();
    eventually("refused", || {
        let status = edge.status();
        !status.connected && status.last_error.is_some_and(|error| error.contains("banned"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_certificate_is_renewed_before_it_ends() {
    let cloud = Cloud::start_with(|config| config.node_svid_ttl = std::time::Duration::from_secs(6)).await;
    let edge = Edge::join(&cloud, "box-1").await;
    let first = edge.identity.expires();
    eventually("renewed", || edge.identity.expires() > first).await;
    eventually("connected with the new one", || edge.status().connected).await;
    eventually("it is on disk", || {
        let stored =
            cloud_bridge::edgehub::NodeIdentity::load(edge.directory(), edge.identity.id(), &cloud.clock);
        stored.unwrap().unwrap().expires() == edge.identity.expires()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_whose_certificate_ended_says_so_and_enrols_again() {
    let cloud = Cloud::start_with(|config| config.node_svid_ttl = std::time::Duration::from_secs(2)).await;
    let directory = tempfile::tempdir().unwrap();
    let config = cloud.enrol_config("box-1", directory.path()).await;
    let identity = std::sync::Arc::new(enrol(&config, &cloud.clock).await.unwrap());
    let path = directory.path().to_owned();
    cloud.stop_hub().await;
    let edge = Edge::open(directory, identity, cloud.websocket().to_string(), "box-1").await;
    eventually("shown", || edge.status().last_error.is_some_and(|error| error.contains("expired"))).await;
    assert!(edge.status().last_error.unwrap().contains("midge token generate"));

    cloud.start_hub().await;
    let spent = enrol(&config, &cloud.clock).await.unwrap_err().to_string();
    assert!(spent.contains("already been used"), "{spent}");
    let config = cloud.enrol_config("box-1", &path).await;
    let again = enrol(&config, &cloud.clock).await.unwrap();
    assert!(again.expires() > cloud.clock.now());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_goes_up_in_order_over_restarts_of_both_ends() {
    let cloud = Cloud::start().await;
    let mut edge = Edge::join(&cloud, "box-1").await;
    let more = |edge: &Edge, count: usize| {
        let mut log = edge.host.audit.lock();
        let from = log.len();
        log.extend((from..from + count).map(|n| format!("line {}", n + 1)));
        log.clone()
    };
    let come = || cloud.audit.lock().get("box-1").cloned().unwrap_or_default();
    let written = more(&edge, 5);
    eventually("taken", || come() == written).await;
    eventually("shown", || edge.status().audit == 5).await;

    cloud.stop_hub().await;
    let written = more(&edge, 5);
    edge.restart().await;
    cloud.start_hub().await;
    eventually("taken after restarts", || come() == written).await;

    // A cloud restored to an older state gets again what it has lost.
    cloud.stop_hub().await;
    cloud.audit.lock().get_mut("box-1").unwrap().truncate(3);
    cloud.start_hub().await;
    eventually("taken again", || come() == written).await;
    assert_eq!(edge.status().audit_error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_of_other_trust_domains_go_down_and_leave_with_the_cloud() {
    let cloud = Cloud::start().await;
    let name = |text: &str| TrustDomain::new(text).unwrap();
    let others = [name("other.org"), name("third.org")];
    let of = async |trust_domain: &TrustDomain| {
        let wanted = trust_domain.clone();
        let foreign = Cloud::start_with(|config| config.trust_domain = wanted).await;
        let roots = foreign.issuer.roots().into_iter().map(|root| (root, false));
        FederatedBundle::new(trust_domain.clone(), roots).unwrap().with_hints(5, 300)
    };
    let (other, third) = (of(&others[0]).await, of(&others[1]).await);
    cloud.issuer.set_federated_bundle(other.clone()).await.unwrap();
    let mut edge = Edge::join(&cloud, "box-1").await;
    let arrived =
        |edge: &Edge| edge.issuer.federated_bundles().iter().map(|b| (**b).clone()).collect::<Vec<_>>();
    eventually("the bundle comes with the snapshot", || arrived(&edge) == [other.clone()]).await;
    cloud.issuer.set_federated_bundle(third.clone()).await.unwrap();
    eventually("another one follows", || arrived(&edge) == [other.clone(), third.clone()]).await;
    cloud.issuer.delete_federated_bundle(others[1].clone(), DeleteMode::Restrict).await.unwrap();
    eventually("it goes", || arrived(&edge) == [other.clone()]).await;

    cloud.stop_hub().await;
    eventually("the edge sees it", || !edge.status().connected).await;
    let newer = of(&others[0]).await;
    cloud.issuer.set_federated_bundle(newer.clone()).await.unwrap();
    cloud.issuer.set_federated_bundle(third.clone()).await.unwrap();
    edge.restart().await;
    assert_eq!(arrived(&edge), [other]);
    cloud.start_hub().await;
    eventually("what changed meanwhile comes", || arrived(&edge) == [newer.clone(), third.clone()]).await;
    // What the box proves itself to, and by, is its own trust domain's.
    let trusted: Vec<_> = edge.identity.trust().bundles().trust_domains().cloned().collect();
    assert_eq!(trusted, [name("plant")]);
    assert_eq!(edge.issuer.bundles().trust_domains().cloned().collect::<Vec<_>>(), [name("plant")]);
}
