//! Peers that lie, talk nonsense, or are not who they should be.
#![expect(clippy::unwrap_used, reason = "tests")]

mod world;

use bridge_core::{Message, MessageIds, Now, Route};
use futures_util::{SinkExt as _, StreamExt as _};
use issuer_core::{FederatedBundle, NodeProof};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, verify_x509_svid};
use midge_pki::{
    CsrSubject, CurrentIdentity, FixedTrust, IdentitySource, PrivateKey, ServerExpectation,
    SvidClientVerifier, SvidIdentity, TrustSource, client_config, provider, server_config,
};
use midge_runtime::Clock;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use world::{Cloud, Edge, eventually};

type ClientSocket = WebSocketStream<client::TlsStream<TcpStream>>;
type Lie = fn(String) -> Vec<Frame>;
type ServerSocket = WebSocketStream<server::TlsStream<TcpStream>>;

fn minted(cloud: &Cloud, path: &str) -> Arc<dyn IdentitySource> {
    let id = SpiffeId::new(format!("spiffe://{}{path}", cloud.issuer.trust_domain())).unwrap();
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(&id), CsrSubject::default()).unwrap();
    let svid = cloud.issuer.mint_svid(&csr, None).unwrap();
    let chain = svid.chain.into_iter().map(Into::into).collect();
    let current = CurrentIdentity::new();
    current.set(SvidIdentity::new(chain, Arc::new(key)).unwrap());
    Arc::new(current)
}

fn trust(cloud: &Cloud) -> Arc<dyn TrustSource> {
    let mut bundles = BundleSet::new();
    bundles.insert(TrustDomain::new("plant").unwrap(), cloud.issuer.roots());
    let clock = Clock::system();
    Arc::new(FixedTrust::new(bundles, move || clock.now()))
}

async fn upgrade(
    cloud: &Cloud,
    identity: Arc<dyn IdentitySource>,
    headers: &[(&'static str, &str)],
) -> Result<ClientSocket, WsError> {
    upgrade_on(secured(cloud, identity).await, headers).await
}

/// A TLS connection on which nothing has been asked for.
async fn secured(cloud: &Cloud, identity: Arc<dyn IdentitySource>) -> client::TlsStream<TcpStream> {
    let hub = SpiffeId::new("spiffe://plant/cloud/hub").unwrap();
    let config = client_config(Some(identity), trust(cloud), ServerExpectation::Id(hub));
    let stream = TcpStream::connect(cloud.websocket()).await.unwrap();
    let name = "127.0.0.1".to_owned().try_into().unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

async fn upgrade_on(
    stream: client::TlsStream<TcpStream>,
    headers: &[(&'static str, &str)],
) -> Result<ClientSocket, WsError> {
    let mut request = "wss://cloud/p/n/events".into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}

async fn refusal(
    cloud: &Cloud,
    identity: Arc<dyn IdentitySource>,
    headers: &[(&'static str, &str)],
) -> (u16, String) {
    answer_of(upgrade(cloud, identity, headers).await)
}

fn answer_of(upgraded: Result<ClientSocket, WsError>) -> (u16, String) {
    match upgraded {
        Err(WsError::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        Err(other) => (0, other.to_string()),
        Ok(_) => (101, String::new()),
    }
}

async fn enrolled(cloud: &Cloud, node: &str) -> (TempDir, Arc<dyn IdentitySource>) {
    let directory = tempfile::tempdir().unwrap();
    let config = cloud.enrol_config(node, directory.path()).await;
    let identity = cloud_bridge::edgehub::enrol(&config, &cloud.clock).await.unwrap();
    (directory, identity.svid())
}

const MSG: (&str, &str) = ("connectionuse", "msg");

#[tokio::test(flavor = "multi_thread")]
async fn only_a_node_may_connect_and_only_as_itself() {
    let cloud = Cloud::start().await;
    let (_directory, node) = enrolled(&cloud, "box-1").await;
    let as_node = |id: &'static str| [("node_id", id), MSG];

    let (status, text) = refusal(&cloud, Arc::clone(&node), &as_node("box-2")).await;
    assert_eq!(status, 403, "{text}");
    assert!(text.contains("box-2") && text.contains("box-1"), "{text}");
    assert_eq!(refusal(&cloud, Arc::clone(&node), &[MSG]).await.0, 403);
    assert_eq!(refusal(&cloud, Arc::clone(&node), &[("node_id", "box-1")]).await.0, 400);
    let from_page = [("node_id", "box-1"), MSG, ("origin", "https://evil.example")];
    assert_eq!(refusal(&cloud, Arc::clone(&node), &from_page).await.0, 403);

    for path in ["/edge/box-1/mapper/led", "/edge/box-1/agent/a", "/cloud/hub", "/box-1"] {
        let (status, text) = refusal(&cloud, minted(&cloud, path), &as_node("box-1")).await;
        assert_eq!(status, 403, "{path}: {text}");
        assert!(text.contains("is not a node"), "{text}");
    }
    // A certificate of the right form for a node that never joined.
    let (status, text) = refusal(&cloud, minted(&cloud, "/edge/box-9"), &as_node("box-9")).await;
    assert_eq!(status, 403, "{text}");
    // And the one who may.
    assert_eq!(refusal(&cloud, node, &as_node("box-1")).await.0, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_root_does_not_get_in() {
    let (cloud, other) = (Cloud::start().await, Cloud::start().await);
    let (_directory, foreign) = enrolled(&other, "box-1").await;
    enrolled(&cloud, "box-1").await;
    let (status, text) = refusal(&cloud, foreign, &[("node_id", "box-1"), MSG]).await;
    assert_eq!(status, 0, "the handshake fails: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_that_the_cloud_federates_with_opens_nothing_at_it() {
    let other_org = || TrustDomain::new("other.org").unwrap();
    let cloud = Cloud::start().await;
    let other = Cloud::start_with(|config| config.trust_domain = other_org()).await;
    let roots = other.issuer.roots().into_iter().map(|root| (root, false));
    cloud.issuer.set_federated_bundle(FederatedBundle::new(other_org(), roots).unwrap()).await.unwrap();
    let (_directory, own) = enrolled(&cloud, "box-1").await;
    let headers = [("node_id", "box-1"), MSG];
    for path in ["/edge/box-1", "/cloud/hub"] {
        let (status, text) = refusal(&cloud, minted(&other, path), &headers).await;
        assert_eq!(status, 0, "the handshake fails: {text}");
        assert_eq!(renewal_over_https(&cloud, minted(&other, path), "box-1").await, "");
    }
    assert!(renewal_over_https(&cloud, Arc::clone(&own), "box-1").await.starts_with("HTTP/1.1 200"));
    assert_eq!(refusal(&cloud, own, &headers).await.0, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_kept_ready_does_not_outlive_a_ban() {
    let cloud = Cloud::start().await;
    let ready = async |node: &str| {
        let (directory, identity) = enrolled(&cloud, node).await;
        (directory, secured(&cloud, identity).await)
    };
    let (_stolen, of_stolen) = ready("stolen").await;
    let (_good, of_good) = ready("good").await;
    let id = midge_identity::node_id(cloud.issuer.trust_domain(), "stolen").unwrap();
    cloud.issuer.ban_node(&id).await.unwrap();

    let (status, text) = answer_of(upgrade_on(of_stolen, &[("node_id", "stolen"), MSG]).await);
    assert!(status == 403 && text.contains("banned"), "{status} {text}");
    assert_eq!(answer_of(upgrade_on(of_good, &[("node_id", "good"), MSG]).await).0, 101);
    assert!(cloud.hub().sessions().iter().all(|session| session.node != "stolen"));
}

/// What the holder of an identity proves of its node.
fn shown(cloud: &Cloud, identity: &Arc<dyn IdentitySource>) -> NodeProof {
    let chain = identity.current().unwrap().chain.clone();
    let algorithms = provider().signature_verification_algorithms;
    let now = cloud.issuer.now();
    let peer = verify_x509_svid(&chain, &cloud.issuer.bundles(), algorithms.all, now).unwrap();
    NodeProof::of(&peer, chain.first().unwrap()).unwrap()
}

/// A renewed identity of a node, as it comes over the channel.
async fn renewed(cloud: &Cloud, identity: &Arc<dyn IdentitySource>) -> Arc<dyn IdentitySource> {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(None, CsrSubject::default()).unwrap();
    let svid = cloud.issuer.sign_node_svid(&shown(cloud, identity), &csr).await.unwrap();
    let chain = svid.chain.into_iter().map(Into::into).collect();
    let current = CurrentIdentity::new();
    current.set(SvidIdentity::new(chain, Arc::new(key)).unwrap());
    Arc::new(current)
}

/// Status of a request for a certificate over HTTPS with the node's certificate, as a stock edge renews.
async fn renewal_over_https(cloud: &Cloud, identity: Arc<dyn IdentitySource>, node: &str) -> String {
    let hub = SpiffeId::new("spiffe://plant/cloud/hub").unwrap();
    let config = client_config(Some(identity), trust(cloud), ServerExpectation::Id(hub));
    let stream = TcpStream::connect(cloud.bootstrap()).await.unwrap();
    let name = "127.0.0.1".to_owned().try_into().unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let csr = PrivateKey::generate().unwrap().csr_der(None, CsrSubject::default()).unwrap();
    let head = format!(
        "GET /edge.crt HTTP/1.1\r\nhost: cloud\r\nnodename: {node}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        csr.len()
    );
    stream.write_all(&[head.as_bytes(), &csr].concat()).await.unwrap();
    let mut answer = Vec::new();
    // How the other end says goodbye does not matter.
    let _ended = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_box_that_was_replaced_opens_nothing() {
    let cloud = Cloud::start().await;
    let (_stolen, thief) = enrolled(&cloud, "box-1").await;
    let headers = [("node_id", "box-1"), MSG];
    let mut open = upgrade(&cloud, Arc::clone(&thief), &headers).await.unwrap();
    // A second token, without a ban: whoever is connected with the old key is cut off.
    let right = Edge::join(&cloud, "box-1").await;
    while let Some(Ok(_)) = open.next().await {}
    eventually("connected", || right.status().connected).await;
    let since = right.status().since;

    let (status, text) = refusal(&cloud, Arc::clone(&thief), &headers).await;
    assert!(status == 403 && text.contains("not active"), "{status} {text}");
    let answer = renewal_over_https(&cloud, thief, "box-1").await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not active"), "{answer}");
    assert_eq!((right.status().connected, right.status().since), (true, since), "not thrown off");
    eventually("the CA arrives", || right.issuer.snapshot().ca.is_some()).await;
    let answer = renewal_over_https(&cloud, right.identity.svid(), "box-1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_box_gets_in_with_the_old_key_until_it_shows_the_new_one() {
    let cloud = Cloud::start().await;
    let (_directory, old) = enrolled(&cloud, "box-1").await;
    let headers = [("node_id", "box-1"), MSG];
    let new = renewed(&cloud, &old).await;
    // It crashed before it had the new one; the hub restarts, too.
    cloud.stop_hub().await;
    cloud.start_hub().await;
    for _ in 0..2 {
        assert_eq!(refusal(&cloud, Arc::clone(&old), &headers).await.0, 101);
    }
    let mut with_old = upgrade(&cloud, Arc::clone(&old), &headers).await.unwrap();
    let _with_new = upgrade(&cloud, Arc::clone(&new), &headers).await.unwrap();
    while let Some(Ok(_)) = with_old.next().await {}
    let (status, text) = refusal(&cloud, old, &headers).await;
    assert!(status == 403 && text.contains("not active"), "{status} {text}");
    assert_eq!(refusal(&cloud, new, &headers).await.0, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_of_a_box_does_not_open_the_channel() {
    let cloud = Cloud::start().await;
    let edge = Edge::join(&cloud, "box-1").await;
    eventually("the CA arrives", || edge.issuer.snapshot().ca.is_some()).await;
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_der(Some(edge.identity.id()), CsrSubject::default()).unwrap();
    let chain = edge.issuer.mint_svid(&csr, None).unwrap().chain;
    let current = CurrentIdentity::new();
    current.set(SvidIdentity::new(chain.into_iter().map(Into::into).collect(), Arc::new(key)).unwrap());
    let headers = [("node_id", "box-1"), MSG];
    let (status, text) = refusal(&cloud, Arc::new(current), &headers).await;
    assert!(status == 403 && text.contains("the cloud itself"), "{status} {text}");
    assert_eq!(refusal(&cloud, edge.identity.svid(), &headers).await.0, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_of_a_node_ends_the_first() {
    let cloud = Cloud::start().await;
    let (_directory, node) = enrolled(&cloud, "box-1").await;
    let headers = [("node_id", "box-1"), MSG];
    let mut first = upgrade(&cloud, Arc::clone(&node), &headers).await.unwrap();
    let mut second = upgrade(&cloud, node, &headers).await.unwrap();
    while let Some(Ok(frame)) = first.next().await {
        assert!(matches!(frame, Frame::Close(_) | Frame::Text(_)), "{frame:?}");
    }
    let ping = text_of(Route::new("edge", "resource", "ping", "node"), Value::Null);
    second.send(ping).await.unwrap();
    let answer = second.next().await.unwrap().unwrap();
    assert!(answer.to_text().unwrap().contains(r#""content":"ack""#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_from_a_node_ends_its_session_and_no_other() {
    let cloud = Cloud::start().await;
    let good = Edge::join(&cloud, "good").await;
    eventually("connected", || good.status().connected).await;
    let since = good.status().since;
    let (_directory, bad) = enrolled(&cloud, "bad").await;
    for nonsense in [
        Frame::text("nonsense"),
        Frame::text("[]"),
        Frame::binary(vec![0xff; 64]),
        Frame::text("{\"header\":".repeat(500)),
        Frame::text("x".repeat(17 << 20)),
    ] {
        let mut socket = upgrade(&cloud, Arc::clone(&bad), &[("node_id", "bad"), MSG]).await.unwrap();
        // The hub may already have closed before all is written.
        let _sent = socket.send(nonsense).await;
        while let Some(Ok(_)) = socket.next().await {}
    }
    // Well-formed nonsense is answered or ignored.
    let mut socket = upgrade(&cloud, bad, &[("node_id", "bad"), MSG]).await.unwrap();
    for (operation, resource) in [
        ("query", "sync/cursor"),
        ("query", "identity/ca"),
        ("update", "device/a/b/c/twin/edge_updated"),
        ("update", "device/../../twin/edge_updated"),
        ("response", "x"),
        ("error", "x"),
        ("insert", "default/configmap/x"),
    ] {
        socket
            .send(text_of(Route::new("x", "resource", operation, resource), json!({"a": [1]})))
            .await
            .unwrap();
    }
    socket.send(text_of(Route::new("x", "resource", "ping", "node"), Value::Null)).await.unwrap();
    loop {
        let frame = socket.next().await.unwrap().unwrap();
        if frame.to_text().unwrap().contains(r#""content":"ack""#) {
            break;
        }
    }
    assert_eq!((good.status().connected, good.status().since), (true, since));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_over_no_event_and_fills_no_disk() {
    let cloud = Cloud::start().await;
    let (_directory, node) = enrolled(&cloud, "box-1").await;
    let mut socket = upgrade(&cloud, node, &[("node_id", "box-1"), MSG]).await.unwrap();
    let mut report = async |position: &str, content: Value| {
        let route = Route::new("edgehub", "resource", "insert", "audit/a");
        let mut message = Message::new(&mut MessageIds::new(rand_seed()), Now::default(), route, content);
        position.clone_into(&mut message.header.resource_version);
        socket.send(Frame::text(message.encode().unwrap())).await.unwrap();
        loop {
            let frame = socket.next().await.unwrap().unwrap();
            let answer = Message::decode(frame.to_text().unwrap().as_bytes(), 1 << 20).unwrap();
            if answer.header.parent_id == message.header.id {
                assert_eq!(answer.content, "OK");
                return;
            }
        }
    };
    let kept = async || {
        let events = cloud.events("box-1").await;
        let start = |event: &Value| event.as_str().unwrap().chars().next().unwrap();
        events.iter().map(|event| start(&event.content)).collect::<String>()
    };
    report("spool-1", json!("first")).await;
    report("spool-1", json!("other words for it")).await;
    report("another-1", json!("second")).await;
    assert_eq!(kept().await, "fs");
    for (letter, position) in [("a", 2), ("b", 3), ("c", 4)] {
        report(&format!("another-{position}"), json!(letter.repeat(world::EVENT_BYTES / 3 + 1))).await;
    }
    assert_eq!(kept().await, "bc");
}

fn text_of(route: Route, content: Value) -> Frame {
    let message = Message::new(&mut MessageIds::new(rand_seed()), Now::default(), route, content);
    Frame::text(message.encode().unwrap())
}

fn rand_seed() -> u64 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) as u64
}

/// A server that passes for the cloud's hub, or nearly, and says what it is told to.
struct FakeCloud {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl FakeCloud {
    async fn start(identity: Arc<dyn IdentitySource>, trust: Arc<dyn TrustSource>, talk: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(server_config(identity, SvidClientVerifier::required(trust), &[]));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
                    lie(socket, talk).await;
                });
            }
        });
        Self { address, connections }
    }
}

async fn lie(mut socket: ServerSocket, talk: Lie) {
    while let Some(Ok(frame)) = socket.next().await {
        let Frame::Text(text) = frame else { continue };
        for answer in talk(text.to_string()) {
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    }
}

async fn edge_of(cloud: &Cloud, server: SocketAddr) -> Edge {
    let directory = tempfile::tempdir().unwrap();
    let config = cloud.enrol_config("box-1", directory.path()).await;
    let identity = Arc::new(cloud_bridge::edgehub::enrol(&config, &cloud.clock).await.unwrap());
    Edge::open(directory, identity, server.to_string(), "box-1").await
}

async fn assert_goes_on_with_error(edge: &Edge, fake: &FakeCloud, error: &str) {
    let seen = || edge.status().last_error.is_some_and(|is| is.contains(error));
    eventually(error, seen).await;
    let tries = fake.connections.load(Ordering::Relaxed);
    eventually("it tries again", || fake.connections.load(Ordering::Relaxed) > tries).await;
    let report = bridge_core::UpwardItem::audit("a", json!(1));
    edge.handle.push(report).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_cloud_is_refused_with_a_remedy() {
    let (cloud, other) = (Cloud::start().await, Cloud::start().await);
    let silent: Lie = |_| Vec::new();

    let impostor = FakeCloud::start(minted(&other, "/cloud/hub"), trust(&cloud), silent).await;
    let edge = edge_of(&cloud, impostor.address).await;
    assert_goes_on_with_error(&edge, &impostor, "is not this box's cloud").await;
    assert!(edge.status().last_error.unwrap().contains("enrol again"));

    let stranger = FakeCloud::start(minted(&cloud, "/edge/box-2"), trust(&cloud), silent).await;
    let edge = edge_of(&cloud, stranger.address).await;
    assert_goes_on_with_error(&edge, &stranger, "expected 'spiffe://plant/cloud/hub'").await;
}

fn answer_to(text: &str, content: Value) -> Frame {
    let asked = Message::decode(text.as_bytes(), 1 << 20).unwrap();
    let answer = asked.response(&mut MessageIds::new(rand_seed()), Now::default(), content);
    Frame::text(answer.encode().unwrap())
}

fn part(part: usize, parts: usize) -> Frame {
    let content = json!({"log": "l", "revision": 1, "part": part, "parts": parts, "changes": []});
    text_of(Route::new("cloudhub", "resource", "update", "sync/snapshot"), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_lies_is_left_and_tried_again() {
    let cloud = Cloud::start().await;
    let lies: [(Lie, &str); 6] = [
        (|_| vec![Frame::text("nonsense")], "not a KubeEdge message"),
        (|_| vec![Frame::binary(vec![1; 1 << 10])], "not a KubeEdge message"),
        (|_| vec![Frame::text("x".repeat(17 << 20))], "websocket"),
        (
            |text| match text.contains("sync/cursor") {
                true => vec![answer_to(&text, json!({"log": "other", "mode": "delta", "revision": 1}))],
                false => Vec::new(),
            },
            "should have sent a snapshot",
        ),
        (
            |text| match text.contains("sync/cursor") {
                true => vec![answer_to(&text, json!("OK"))],
                false => Vec::new(),
            },
            "no log and mode",
        ),
        (
            |text| match text.contains("sync/cursor") {
                true => vec![
                    answer_to(&text, json!({"log": "l", "mode": "snapshot", "revision": 1})),
                    part(0, 1 << 40),
                ],
                false => Vec::new(),
            },
            "parts",
        ),
    ];
    for (lie, error) in lies {
        let fake = FakeCloud::start(minted(&cloud, "/cloud/hub"), trust(&cloud), lie).await;
        let edge = edge_of(&cloud, fake.address).await;
        assert_goes_on_with_error(&edge, &fake, error).await;
        assert!(edge.issuer.snapshot().ca.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_none_is_shown_and_not_installed() {
    let cloud = Cloud::start().await;
    let lie: Lie = |text| match text.contains("identity/ca") {
        true => vec![answer_to(&text, json!({"chain": ["AQID"], "roots": ["AQID"]}))],
        false if text.contains("sync/cursor") => {
            vec![answer_to(&text, json!({"log": "l", "mode": "snapshot", "revision": 0})), part(0, 1)]
        }
        false => Vec::new(),
    };
    let fake = FakeCloud::start(minted(&cloud, "/cloud/hub"), trust(&cloud), lie).await;
    let edge = edge_of(&cloud, fake.address).await;
    eventually("shown", || edge.status().last_error.is_some_and(|e| e.contains("identity/ca"))).await;
    assert!(edge.issuer.snapshot().ca.is_none());
    eventually("the rest works", || edge.status().connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_not_waited_for_and_costs_nobody_else() {
    let cloud = Cloud::start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(cloud.websocket()).await.unwrap());
        silent.push(TcpStream::connect(cloud.bootstrap()).await.unwrap());
    }
    let edge = Edge::join(&cloud, "box-1").await;
    tokio::time::timeout(Duration::from_secs(10), async {
        eventually("connected", || edge.status().connected).await;
    })
    .await
    .unwrap();
}
