//! The Workload API on a real socket, seen by the `spiffe` crate and by bare gRPC.

use crate::common::{FakeUpstream, TestAgent, entry, entry_with, eventually, own_uid, soon};
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use issuer_core::{Origin, RegistrationEntry};
use midge_agent::{SignFailure, Signed, Upstream, client::WorkloadClient};
use midge_api::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use spiffe::{TrustDomain, WorkloadApiClient, WorkloadApiError, X509Source};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{net::UnixStream, sync::watch};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

const HOUR: Duration = Duration::from_secs(3600);

type Bare = SpiffeWorkloadApiClient<Channel>;

async fn bare(socket: &Path) -> Bare {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    SpiffeWorkloadApiClient::new(
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap(),
    )
}

fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn svids(client: &mut Bare) -> Streaming<X509svidResponse> {
    client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap().into_inner()
}

async fn bundles(client: &mut Bare) -> Streaming<X509BundlesResponse> {
    client.fetch_x509_bundles(secured(X509BundlesRequest {})).await.unwrap().into_inner()
}

async fn next<T>(what: &str, stream: &mut Streaming<T>) -> Result<T, Status> {
    soon(what, stream.message()).await.map(|message| message.expect("the stream goes on"))
}

fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

fn assert_status(status: &Status, code: Code, message: &str) {
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test]
async fn the_spiffe_crate_gets_its_svid_and_follows_its_rotation() {
    let upstream = FakeUpstream::new(Duration::from_secs(4));
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start(&upstream);
    let source =
        soon("the first svid", X509Source::builder().endpoint(agent.endpoint()).build()).await.unwrap();
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id().to_string(), "spiffe://example.org/app/one");
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let bundle = source.try_bundle_for_trust_domain(&trust_domain).unwrap();
    assert_eq!(bundle.authorities().len(), 1);
    assert_eq!(bundle.authorities()[0].as_bytes(), upstream.root());

    let mut updates = source.updated();
    soon("a renewed svid", updates.changed()).await.unwrap();
    let second = source.svid().unwrap();
    assert_ne!(first.leaf().as_bytes(), second.leaf().as_bytes());
    assert_eq!(second.spiffe_id(), first.spiffe_id());
    source.shutdown().await;
    agent.stop().await;
}

#[tokio::test]
async fn requests_without_the_security_header_are_refused() {
    let (_upstream, agent) = TestAgent::with_one_entry();
    let mut client = bare(&agent.socket).await;
    let expected = "security header missing from request";
    let refused = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, expected);
    let refused = client.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, expected);
    let mut twice = secured(X509svidRequest {});
    twice.metadata_mut().append("workload.spiffe.io", "true".parse().unwrap());
    let refused = client.fetch_x509svid(twice).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, expected);
    let mut wrong = Request::new(X509svidRequest {});
    wrong.metadata_mut().insert("workload.spiffe.io", "false".parse().unwrap());
    let refused = client.fetch_x509svid(wrong).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, expected);
    agent.stop().await;
}

#[tokio::test]
async fn a_caller_without_an_entry_has_no_identity() {
    let upstream = FakeUpstream::new(HOUR);
    let other = entry_with("a", "/app/one", &[format!("uid:{}", own_uid() + 1)]);
    let builtin = RegistrationEntry { origin: Origin::Builtin, ..entry("b", "/edge/box/broker") };
    upstream.set_entries(vec![other, builtin]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let status = next("a refusal", &mut svids(&mut client).await).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    let status = next("a refusal", &mut bundles(&mut client).await).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    let client = WorkloadApiClient::connect_to(agent.endpoint()).await.unwrap();
    assert!(matches!(client.fetch_x509_svid().await, Err(WorkloadApiError::NoIdentityIssued)));
    assert_eq!(upstream.signatures.load(Ordering::Relaxed), 0);
    agent.stop().await;
}

#[tokio::test]
async fn bundles_for_callers_without_an_identity_are_a_choice() {
    let upstream = FakeUpstream::new(HOUR);
    let agent =
        TestAgent::start_with(upstream.clone(), |config| config.allow_unauthenticated_verifiers = true);
    let mut client = bare(&agent.socket).await;
    let found = next("bundles", &mut bundles(&mut client).await).await.unwrap();
    assert_eq!(found.bundles["spiffe://example.org"], upstream.root());
    let status = next("a refusal", &mut svids(&mut client).await).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    agent.stop().await;
}

#[tokio::test]
async fn the_stream_follows_entries_and_ends_with_the_last_identity() {
    let upstream = FakeUpstream::new(HOUR);
    upstream.set_entries(vec![entry("b", "/app/b")]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let mut stream = svids(&mut client).await;
    let first = next("the first message", &mut stream).await.unwrap();
    assert_eq!(ids(&first), ["spiffe://example.org/app/b"]);

    upstream.set_entries(vec![entry("b", "/app/b"), entry("c", "/app/c"), entry("a", "/app/a")]);
    let all = next("more entries", &mut stream).await.unwrap();
    let expected = ["spiffe://example.org/app/a", "spiffe://example.org/app/b", "spiffe://example.org/app/c"];
    assert_eq!(ids(&all), expected, "in the order of entry ids");
    assert_eq!(all.svids[1], first.svids[0], "what has not changed is shared, not signed again");

    let changed = RegistrationEntry {
        revision_number: 1,
        dns_names: vec!["b.local".to_owned()],
        ..entry("b", "/app/b")
    };
    upstream.set_entries(vec![changed.clone()]);
    let mut latest = next("fewer entries", &mut stream).await.unwrap();
    while latest.svids[0].x509_svid == first.svids[0].x509_svid {
        assert_eq!(ids(&latest), ["spiffe://example.org/app/b"]);
        latest = next("the updated entry", &mut stream).await.unwrap();
    }
    let needle = b"b.local";
    assert!(latest.svids[0].x509_svid.windows(needle.len()).any(|window| window == needle));

    upstream.set_entries(Vec::new());
    let status = next("the end", &mut stream).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    agent.stop().await;
}

#[tokio::test]
async fn a_waiting_workload_is_served_when_its_entry_appears() {
    let upstream = FakeUpstream::new(HOUR);
    let agent = TestAgent::start(&upstream);
    for round in 0..20 {
        let socket = agent.socket.clone();
        let (started, mut ready) = tokio::sync::mpsc::channel(1);
        let waiting = tokio::spawn(async move {
            let client = WorkloadClient::connect(&socket).await.unwrap();
            started.send(()).await.unwrap();
            let ids = client.await_identity().await.unwrap();
            let context = client.fetch_x509().await.unwrap();
            (ids, context.svids[0].spiffe_id.clone())
        });
        ready.recv().await.unwrap();
        upstream.set_entries(vec![entry("a", &format!("/app/{round}"))]);
        let (ids, id) = soon("an identity", waiting).await.unwrap();
        assert_eq!(ids, std::slice::from_ref(&id));
        assert_eq!(id, format!("spiffe://example.org/app/{round}"));
        upstream.set_entries(Vec::new());
    }
    agent.stop().await;
}

#[tokio::test]
async fn waiting_needs_the_security_header_too() {
    let upstream = FakeUpstream::new(HOUR);
    let agent = TestAgent::start(&upstream);
    let path = agent.socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut client = midge_api::midge::agent::v1::workload_wait_client::WorkloadWaitClient::new(channel);
    let status =
        client.await_identity(midge_api::midge::agent::v1::AwaitIdentityRequest {}).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "security header missing from request");
    agent.stop().await;
}

#[tokio::test]
async fn of_two_entries_with_one_hint_the_older_is_served() {
    let upstream = FakeUpstream::new(HOUR);
    let hinted = |id: &str, created_at: i64| RegistrationEntry {
        hint: "internal".to_owned(),
        created_at,
        ..entry(id, &format!("/app/{id}"))
    };
    upstream.set_entries(vec![hinted("a", 20), hinted("b", 10), entry("c", "/app/c")]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let found = next("svids", &mut svids(&mut client).await).await.unwrap();
    assert_eq!(ids(&found), ["spiffe://example.org/app/b", "spiffe://example.org/app/c"]);
    assert_eq!(found.svids[0].hint, "internal");
    assert_eq!(upstream.signatures.load(Ordering::Relaxed), 2);
    agent.stop().await;
}

#[tokio::test]
async fn bundle_changes_are_told_and_identical_ones_are_not() {
    let upstream = FakeUpstream::new(HOUR);
    let federating =
        RegistrationEntry { federates_with: vec!["other.org".to_owned()], ..entry("a", "/app/one") };
    upstream.set_entries(vec![federating]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let mut svids = svids(&mut client).await;
    let mut bundles = bundles(&mut client).await;
    let first = next("svids", &mut svids).await.unwrap();
    assert_eq!(first.svids[0].bundle, upstream.root());
    assert!(first.federated_bundles.is_empty());
    let found = next("bundles", &mut bundles).await.unwrap();
    assert_eq!(found.bundles.keys().collect::<Vec<_>>(), ["spiffe://example.org"]);

    // Neither of these changes what this caller is told.
    upstream.touch();
    upstream.set_bundle("unrelated.org", vec![vec![0x30, 1, 1]]);
    upstream.set_bundle("other.org", vec![vec![0x30, 1, 7]]);
    let found = next("federated bundles", &mut bundles).await.unwrap();
    assert_eq!(found.bundles.len(), 2);
    assert_eq!(found.bundles["spiffe://other.org"], [0x30, 1, 7]);
    let second = next("svids with federated bundles", &mut svids).await.unwrap();
    assert_eq!(second.svids, first.svids);
    assert_eq!(second.federated_bundles["spiffe://other.org"], [0x30, 1, 7]);

    upstream.set_bundle("other.org", vec![vec![0x30, 1, 8]]);
    let changed = next("changed federated bundles", &mut bundles).await.unwrap();
    assert_eq!(changed.bundles["spiffe://other.org"], [0x30, 1, 8]);
    let changed = next("svids with the changed bundle", &mut svids).await.unwrap();
    assert_eq!(changed.federated_bundles["spiffe://other.org"], [0x30, 1, 8]);
    upstream.drop_bundle("other.org");
    let left = next("bundles without that of the dropped domain", &mut bundles).await.unwrap();
    assert_eq!(left.bundles.keys().collect::<Vec<_>>(), ["spiffe://example.org"]);
    let left = next("svids without it", &mut svids).await.unwrap();
    assert!(left.federated_bundles.is_empty() && left.svids == first.svids);

    let next_root = [upstream.root(), vec![0x30, 1, 9]];
    upstream.set_bundle("example.org", next_root.to_vec());
    let found = next("the own bundle", &mut bundles).await.unwrap();
    assert_eq!(found.bundles["spiffe://example.org"], next_root.concat());
    let third = next("svids with the own bundle", &mut svids).await.unwrap();
    assert_eq!(third.svids[0].bundle, next_root.concat());
    assert_eq!(upstream.signatures.load(Ordering::Relaxed), 1);
    agent.stop().await;
}

#[tokio::test]
async fn workloads_of_one_entry_share_its_svid() {
    let (upstream, agent) = TestAgent::with_one_entry();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut client = bare(&agent.socket).await;
        seen.push(next("svids", &mut svids(&mut client).await).await.unwrap());
    }
    assert!(seen.iter().all(|one| one == &seen[0]));
    assert_eq!(upstream.signatures.load(Ordering::Relaxed), 1);
    agent.stop().await;
}

#[tokio::test]
async fn the_old_svid_is_served_while_the_server_is_away_and_renewed_when_it_is_back() {
    let upstream = FakeUpstream::new(Duration::from_secs(10));
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let mut stream = svids(&mut client).await;
    let first = next("svids", &mut stream).await.unwrap();
    upstream.away.store(true, Ordering::Relaxed);
    // At half of its lifetime there is no new one, and the old one is still handed out.
    eventually("renewals are tried", || upstream.attempts.load(Ordering::Relaxed) >= 3).await;
    let again = next("svids", &mut svids(&mut client).await).await.unwrap();
    assert_eq!(again, first);
    upstream.away.store(false, Ordering::Relaxed);
    let renewed = next("the renewed svid", &mut stream).await.unwrap();
    assert_ne!(renewed.svids[0].x509_svid, first.svids[0].x509_svid);
    agent.stop().await;
}

#[tokio::test]
async fn prefetched_svids_serve_a_workload_that_starts_while_the_server_is_away() {
    let upstream = FakeUpstream::new(HOUR);
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start_with(upstream.clone(), |config| config.prefetch_max = 10);
    eventually("prefetched", || upstream.signatures.load(Ordering::Relaxed) == 1).await;
    upstream.away.store(true, Ordering::Relaxed);
    let mut client = bare(&agent.socket).await;
    let found = next("svids", &mut svids(&mut client).await).await.unwrap();
    assert_eq!(ids(&found), ["spiffe://example.org/app/one"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_registered_workload_whose_svid_cannot_be_signed_is_told_to_come_back() {
    let upstream = FakeUpstream::new(HOUR);
    upstream.away.store(true, Ordering::Relaxed);
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start(&upstream);
    let mut client = bare(&agent.socket).await;
    let status = next("a refusal", &mut svids(&mut client).await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    agent.stop().await;
}

/// Answers with SVIDs of another identity, or for another key.
struct LyingUpstream {
    honest: Arc<FakeUpstream>,
    other_key: bool,
}

#[async_trait::async_trait]
impl Upstream for LyingUpstream {
    fn view(&self) -> watch::Receiver<Arc<midge_agent::AgentView>> {
        self.honest.view()
    }

    async fn sign(&self, entry_id: &str, csr_der: Vec<u8>) -> Result<Signed, SignFailure> {
        if self.other_key {
            let key = midge_pki::PrivateKey::generate().unwrap();
            let csr = key.csr_der(None, midge_pki::CsrSubject::default()).unwrap();
            return self.honest.sign(entry_id, csr).await;
        }
        self.honest.sign("victim", csr_der).await
    }
}

#[tokio::test]
async fn wrong_answers_of_the_server_are_never_handed_out() {
    for other_key in [false, true] {
        let honest = FakeUpstream::new(HOUR);
        let victim = entry_with("victim", "/app/victim", &["uid:4000000000".to_owned()]);
        honest.set_entries(vec![entry("a", "/app/one"), victim]);
        let agent = TestAgent::start_with(Arc::new(LyingUpstream { honest, other_key }), |_| {});
        let mut client = bare(&agent.socket).await;
        let status = next("a refusal", &mut svids(&mut client).await).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        agent.stop().await;
    }
}

#[tokio::test]
async fn jwt_and_wit_calls_are_unimplemented() {
    let (_upstream, agent) = TestAgent::with_one_entry();
    let mut client = bare(&agent.socket).await;
    let audience = vec!["a".to_owned()];
    let jwt = JwtsvidRequest { audience, spiffe_id: String::new() };
    let validate = ValidateJwtsvidRequest { audience: "a".to_owned(), svid: "x".to_owned() };
    let codes = [
        client.fetch_jwtsvid(secured(jwt)).await.unwrap_err().code(),
        client.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.unwrap_err().code(),
        client.validate_jwtsvid(secured(validate)).await.unwrap_err().code(),
        client.fetch_witsvid(secured(WitsvidRequest::default())).await.unwrap_err().code(),
        client.fetch_wit_bundles(secured(WitBundlesRequest {})).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::Unimplemented; 5]);
    agent.stop().await;
}

#[tokio::test]
async fn limits_cost_only_the_user_who_reaches_them() {
    let upstream = FakeUpstream::new(HOUR);
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start_with(upstream.clone(), |config| {
        config.limits.streams_per_uid_max = 2;
        config.limits.connections_per_uid_max = 2;
    });
    let mut client = bare(&agent.socket).await;
    let mut first = svids(&mut client).await;
    next("svids", &mut first).await.unwrap();
    let mut second = svids(&mut client).await;
    next("svids", &mut second).await.unwrap();
    let refused = client.fetch_x509svid(secured(X509svidRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(second);
    // The place is free once the server has seen the stream go.
    let deadline = Instant::now() + crate::common::DEADLINE;
    while client.fetch_x509svid(secured(X509svidRequest {})).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    let mut other = bare(&agent.socket).await;
    let third = UnixStream::connect(&agent.socket).await.unwrap();
    soon("the third connection is closed", third.readable()).await.unwrap();
    assert_eq!(third.try_read(&mut [0; 1]).unwrap(), 0);
    assert!(other.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await.is_err());
    agent.stop().await;
}

#[tokio::test]
async fn open_streams_end_when_the_agent_stops() {
    let (_upstream, agent) = TestAgent::with_one_entry();
    let mut client = bare(&agent.socket).await;
    let mut stream = svids(&mut client).await;
    next("svids", &mut stream).await.unwrap();
    agent.token.cancel();
    let status = next("the end", &mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    agent.stop().await;
}

#[tokio::test]
async fn selectors_that_become_needed_later_are_attested_then() {
    let (upstream, agent) = TestAgent::with_one_entry();
    let mut client = bare(&agent.socket).await;
    let mut stream = svids(&mut client).await;
    next("svids", &mut stream).await.unwrap();
    let program = std::env::current_exe().unwrap().canonicalize().unwrap();
    let by_path = entry_with("b", "/app/two", &[format!("path:{}", program.display())]);
    upstream.set_entries(vec![by_path]);
    let found = next("the entry with a path", &mut stream).await.unwrap();
    assert_eq!(ids(&found), ["spiffe://example.org/app/two"]);
    let elsewhere = entry_with("c", "/app/three", &["path:/bin/other".to_owned()]);
    upstream.set_entries(vec![elsewhere]);
    let status = next("the end", &mut stream).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    agent.stop().await;
}

#[tokio::test]
async fn our_own_client_follows_the_stream() {
    let upstream = FakeUpstream::new(Duration::from_secs(3));
    upstream.set_entries(vec![entry("a", "/app/one")]);
    let agent = TestAgent::start(&upstream);
    let client = WorkloadClient::connect(&agent.socket).await.unwrap();
    let mut contexts = std::pin::pin!(client.watch_x509().await.unwrap());
    let first = soon("svids", contexts.next()).await.unwrap().unwrap();
    let second = soon("renewed svids", contexts.next()).await.unwrap().unwrap();
    assert_ne!(first.svids[0].chain, second.svids[0].chain);
    assert_ne!(*first.svids[0].key, *second.svids[0].key, "a new key each time");
    assert_eq!(first.svids[0].bundle, [upstream.root()]);
    agent.stop().await;
}
