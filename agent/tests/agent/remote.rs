//! An agent whose identity server is another process.

use crate::common::{FakeUpstream, TestAgent, entry, soon};
use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use midge_agent::{RemoteConfig, RemoteUpstream, SignFailure, Upstream, client::WorkloadClient};
use midge_api::{
    midge::v1::{self, SignX509svidRequest, SignX509svidResponse, WatchEntriesRequest},
    spire::api::types,
};
use midge_identity::SpiffeId;
use midge_runtime::CancellationToken;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    runtime::{self, Runtime},
};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService},
    transport::Server,
};
use tonic_prost::ProstCodec;

const HOUR: Duration = Duration::from_secs(3600);

/// The two calls an agent makes of the identity server's service, over a fake issuer.
#[derive(Clone)]
struct FakeServer(Arc<FakeUpstream>);

impl NamedService for FakeServer {
    const NAME: &'static str = "midge.v1.Midge";
}

impl tower::Service<http::Request<Body>> for FakeServer {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let issuer = self.0.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/midge.v1.Midge/WatchEntries" => {
                    let call =
                        tower::service_fn(move |request| std::future::ready(watch_entries(&issuer, request)));
                    Grpc::new(ProstCodec::default()).server_streaming(call, request).await
                }
                "/midge.v1.Midge/SignX509SVID" => {
                    let call = tower::service_fn(move |request| sign(issuer.clone(), request));
                    Grpc::new(ProstCodec::default()).unary(call, request).await
                }
                other => panic!("{other} is not for agents"),
            })
        })
    }
}

type Views = BoxStream<'static, Result<v1::AgentView, Status>>;

fn watch_entries(
    issuer: &FakeUpstream,
    request: Request<WatchEntriesRequest>,
) -> Result<Response<Views>, Status> {
    assert_eq!(request.into_inner().agent_id, "spiffe://example.org/edge/box/agent/host");
    let mut views = issuer.view();
    views.mark_changed();
    let views = stream::unfold(views, |mut views| async move {
        views.changed().await.ok()?;
        let message = wire_view(&views.borrow_and_update());
        Some((Ok(message), views))
    });
    Ok(Response::new(views.boxed()))
}

async fn sign(
    issuer: Arc<FakeUpstream>,
    request: Request<SignX509svidRequest>,
) -> Result<Response<SignX509svidResponse>, Status> {
    let request = request.into_inner();
    let signed = issuer.sign(&request.entry_id, request.csr).await.map_err(|failure| match failure {
        SignFailure::Refused(message) => Status::not_found(message),
        other => Status::unavailable(other.to_string()),
    })?;
    Ok(Response::new(SignX509svidResponse {
        svid: Some(types::X509svid { cert_chain: signed.chain, ..Default::default() }),
        issued_at_ms: i64::try_from(signed.issued.0).unwrap(),
        expires_at_ms: i64::try_from(signed.expires.0).unwrap(),
    }))
}

fn wire_view(view: &midge_agent::AgentView) -> v1::AgentView {
    let wire_id = |id: &SpiffeId| {
        Some(types::Spiffeid { trust_domain: id.trust_domain().to_string(), path: id.path().to_string() })
    };
    let entries = view.entries().iter().map(|entry| types::Entry {
        id: entry.id.clone(),
        spiffe_id: wire_id(&entry.spiffe_id),
        parent_id: wire_id(&entry.parent_id),
        selectors: entry
            .selectors
            .iter()
            .map(|selector| types::Selector { r#type: selector.kind.clone(), value: selector.value.clone() })
            .collect(),
        origin: "edge".to_owned(),
        ..Default::default()
    });
    // An entry nobody can read must not hide the others.
    let odd = types::Entry { id: "odd".to_owned(), ..Default::default() };
    let bundles = view.bundles().trust_domains().map(|trust_domain| types::Bundle {
        trust_domain: trust_domain.to_string(),
        x509_authorities: view
            .bundles()
            .roots(trust_domain)
            .unwrap()
            .iter()
            .map(|root| types::X509Certificate { asn1: root.clone(), tainted: false })
            .collect(),
        ..Default::default()
    });
    v1::AgentView {
        revision: view.revision(),
        trust_domain: view.trust_domain().to_string(),
        entries: entries.chain([odd]).collect(),
        bundles: bundles.collect(),
        good_authorities: view.good_authorities().iter().cloned().collect(),
    }
}

/// A server in a runtime of its own, so that its connections die with it.
struct RunningServer(Runtime);

impl RunningServer {
    fn start(socket: &Path, upstream: &Arc<FakeUpstream>) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _within = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        let incoming = stream::unfold(listener, |listener| async move {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let server = Server::builder().add_service(FakeServer(upstream.clone()));
        runtime.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        Self(runtime)
    }

    fn kill(self, socket: &Path) {
        self.0.shutdown_background();
        fs::remove_file(socket).unwrap();
    }
}

fn remote(folder: &Path) -> (PathBuf, RemoteConfig) {
    let socket = folder.join("admin.sock");
    let agent_id = SpiffeId::new("spiffe://example.org/edge/box/agent/host").unwrap();
    (socket.clone(), RemoteConfig { socket, agent_id })
}

#[tokio::test]
async fn an_agent_of_its_own_process_serves_on_while_its_server_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, config) = remote(folder.path());
    let issuer = FakeUpstream::new(HOUR);
    issuer.set_entries(vec![entry("a", "/app/one")]);
    let token = CancellationToken::new();
    let connecting = {
        let (config, token) = (config.clone(), token.clone());
        tokio::spawn(async move { RemoteUpstream::connect(config, &token).await })
    };
    // The agent may be there first.
    let server = RunningServer::start(&socket, &issuer);
    let upstream = soon("the first view", connecting).await.unwrap().unwrap();
    let following = tokio::spawn(upstream.clone().follow(token.clone()));
    let agent = TestAgent::start_with(upstream.clone(), |_| {});
    let client = WorkloadClient::connect(&agent.socket).await.unwrap();
    let first = soon("svids", client.fetch_x509()).await.unwrap();
    assert_eq!(first.svids[0].spiffe_id, "spiffe://example.org/app/one");
    assert_eq!(first.svids[0].bundle, [issuer.root()]);

    let mut views = upstream.view();
    issuer.set_entries(vec![entry("a", "/app/one"), entry("b", "/app/two")]);
    soon("the pushed entry", views.wait_for(|view| view.entries().len() == 2)).await.unwrap();
    assert_eq!(soon("svids", client.fetch_x509()).await.unwrap().svids.len(), 2);

    server.kill(&socket);
    let signatures = issuer.signatures.load(Ordering::Relaxed);
    let offline = soon("cached svids", client.fetch_x509()).await.unwrap();
    assert_eq!(offline.svids[0].chain, first.svids[0].chain);
    assert_eq!(issuer.signatures.load(Ordering::Relaxed), signatures);
    assert!(matches!(upstream.sign("a", Vec::new()).await, Err(SignFailure::Unavailable(_))));

    issuer.set_entries(vec![entry("b", "/app/two")]);
    let server = RunningServer::start(&socket, &issuer);
    soon("the entries after its return", views.wait_for(|view| view.entries().len() == 1)).await.unwrap();
    let after = soon("svids", client.fetch_x509()).await.unwrap();
    assert_eq!(after.svids[0].spiffe_id, "spiffe://example.org/app/two");
    assert!(matches!(upstream.sign("gone", Vec::new()).await, Err(SignFailure::Refused(_))));
    agent.stop().await;
    token.cancel();
    soon("the feed stops", following).await.unwrap();
    server.kill(&socket);
}

#[tokio::test]
async fn waiting_for_a_server_that_never_comes_can_be_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (_, config) = remote(folder.path());
    let token = CancellationToken::new();
    let connecting = {
        let token = token.clone();
        tokio::spawn(async move { RemoteUpstream::connect(config, &token).await })
    };
    token.cancel();
    assert!(soon("the end", connecting).await.unwrap().is_none());
}
