//! The websocket's listener: TLS with a mandatory node SVID, then KubeEdge's upgrade request.

use super::CloudHub;
use super::handshakes::{Handshake, Handshakes};
use super::session::Session;
use super::sessions::SessionPlace;
use crate::frames::{Channel, websocket_config};
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use issuer_core::NodeProof;
use midge_identity::{UnixMillis, VerifiedPeer, is_node, node_of};
use midge_pki::{SvidClientVerifier, TrustSource, peer_of, server_config};
use midge_runtime::{CancellationToken, RateLimitedWarn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

static REFUSED: RateLimitedWarn = RateLimitedWarn::new(Duration::from_secs(10));

/// Who has proven what on a new connection.
struct Arrival {
    node: String,
    shown: NodeProof,
    expires: Option<UnixMillis>,
    remote: SocketAddr,
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

pub(super) async fn serve(hub: CloudHub, token: CancellationToken) -> anyhow::Result<()> {
    let trust: Arc<dyn TrustSource> = Arc::new(hub.shared.parts.issuer.clone());
    let verifier = SvidClientVerifier::required(trust);
    let config = server_config(Arc::clone(&hub.shared.identity) as _, verifier, &[b"http/1.1"]);
    let acceptor = TlsAcceptor::from(config);
    let handshakes = Handshakes::new(HANDSHAKES_MAX);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            accepted = hub.shared.websocket.accept() => {
                let (stream, remote) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        accept_failed(&error).await;
                        continue;
                    }
                };
                let handshake = handshakes.begin();
                let (hub, acceptor, token) = (hub.clone(), acceptor.clone(), token.clone());
                connections.spawn(async move {
                    let admitted = admit_in_time(&hub, stream, remote, acceptor, &handshake).await;
                    drop(handshake);
                    match admitted {
                        Ok(arrival) => hub.serve_node(arrival, &token).await,
                        Err(reason) => refused(remote, &reason),
                    }
                });
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => reraise(ended),
        }
    }
    while let Some(ended) = connections.join_next().await {
        reraise(ended);
    }
    Ok(())
}

async fn admit_in_time(
    hub: &CloudHub,
    stream: TcpStream,
    remote: SocketAddr,
    acceptor: TlsAcceptor,
    handshake: &Handshake,
) -> Result<Arrival, String> {
    tokio::select! {
        arrival = hub.admit(stream, remote, acceptor) => arrival,
        () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => Err("the handshake takes too long".to_owned()),
        () = handshake.evicted.cancelled() => Err("too many unfinished handshakes".to_owned()),
    }
}

pub(super) fn reraise(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Out of file descriptors, for instance: serving goes on as soon as some are free.
pub(super) async fn accept_failed(error: &std::io::Error) {
    if let Some(suppressed) = REFUSED.occurred() {
        tracing::warn!(%error, suppressed, "cannot accept a connection");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn refused(remote: SocketAddr, reason: &str) {
    if let Some(suppressed) = REFUSED.occurred() {
        tracing::warn!(%remote, reason, suppressed, "a node's connection is refused");
    }
}

impl CloudHub {
    async fn admit(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        acceptor: TlsAcceptor,
    ) -> Result<Arrival, String> {
        drop(stream.set_nodelay(true));
        let stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
        let trust = &self.shared.parts.issuer;
        let peer = peer_of(stream.get_ref().1, trust).map_err(|error| error.to_string())?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
        let leaf = leaf.ok_or("no certificate")?;
        let mut verdict = Err("no upgrade was asked for".to_owned());
        let mut refusal = None;
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let callback = |request: &Request, response: Response| {
            // Not before the request: whoever keeps a connection ready may be locked out meanwhile.
            verdict = self.node_shown_by(&peer, &leaf);
            check_upgrade(request, verdict.as_ref().map(|(node, _)| node.as_str()))
                .map(|()| response)
                .map_err(|(status, reason)| {
                    refusal = Some(reason.clone());
                    error_response(status, reason)
                })
        };
        let socket =
            tokio_tungstenite::accept_hdr_async_with_config(stream, callback, Some(websocket_config())).await;
        match (socket, verdict) {
            (Ok(socket), Ok((node, shown))) => {
                Ok(Arrival { node, shown, expires: peer.expires(), remote, socket })
            }
            (Ok(_), Err(reason)) => Err(reason),
            (Err(error), _) => Err(refusal.unwrap_or_else(|| error.to_string())),
        }
    }

    fn node_shown_by(&self, peer: &VerifiedPeer, leaf_der: &[u8]) -> Result<(String, NodeProof), String> {
        let (issuer, id) = (&self.shared.parts.issuer, peer.id());
        let node = node_of(id).filter(|_| is_node(id));
        let Some(node) = node.filter(|_| id.trust_domain() == issuer.trust_domain()) else {
            return Err(format!(
                "{id} is not a node: the certificate of spiffe://<trust domain>/edge/<node> is needed"
            ));
        };
        let shown = NodeProof::of(peer, leaf_der).map_err(|error| format!("node {node}: {error}"))?;
        issuer.admitted_node(&shown).map_err(|error| format!("node {node}: {error}"))?;
        Ok((node.to_owned(), shown))
    }

    async fn serve_node(&self, arrival: Arrival, token: &CancellationToken) {
        let Arrival { node, shown, expires, remote, socket } = arrival;
        let place = match self.enter(&node, &shown, remote, token).await {
            Ok(place) => place,
            Err(reason) => return refused(remote, &reason),
        };
        tracing::info!(node, %remote, "node connected");
        let session = Session { hub: self.clone(), node, shown, expires, place };
        let end = session.run(Channel::new(socket)).await;
        self.shared.sessions.leave(&session.node, &session.place, self.shared.parts.clock.now());
        tracing::info!(node = session.node, %remote, reason = %end, "node disconnected");
    }

    async fn enter(
        &self,
        node: &str,
        shown: &NodeProof,
        remote: SocketAddr,
        token: &CancellationToken,
    ) -> Result<SessionPlace, String> {
        let (issuer, sessions) = (&self.shared.parts.issuer, &self.shared.sessions);
        // Before anything that only the node may do, ending the session before this one included.
        issuer.node_shown(shown).await.map_err(|error| format!("node {node}: {error}"))?;
        let now = self.shared.parts.clock.now();
        let place = sessions.enter(node, shown, remote, now, token).ok_or_else(|| {
            "the hub serves as many nodes as it is configured for (sessions-max)".to_owned()
        })?;
        // A change to the node closes the sessions that are there: one that came later has to ask.
        issuer.admitted_node(shown).map_err(|error| {
            sessions.leave(node, &place, now);
            format!("node {node}: {error}")
        })?;
        Ok(place)
    }
}

fn check_upgrade(request: &Request, verdict: Result<&str, &String>) -> Result<(), (u16, String)> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    // A browser sends it; KubeEdge's server refuses it too.
    if header("origin").is_some() {
        return Err((403, "connections from web pages are not allowed".to_owned()));
    }
    // KubeEdge's server upgrades such a connection and then reads nothing from it.
    if header("connectionuse") != Some("msg") {
        return Err((400, "header ConnectionUse: msg is missing".to_owned()));
    }
    let node = verdict.map_err(|reason| (403, reason.clone()))?;
    match header("node_id") {
        Some(named) if named == node => Ok(()),
        Some(named) => {
            let named: String = named.chars().take(128).collect();
            Err((403, format!("header node_id says {named}, the certificate says {node}")))
        }
        None => Err((403, "header node_id is missing".to_owned())),
    }
}

fn error_response(status: u16, reason: String) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(reason));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::FORBIDDEN);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudhub::{CloudHubConfig, CloudHubParts, SyncLogs};
    use midge_identity::{TrustDomain, verify_x509_svid};
    use midge_issuer::{Authority, Issuer, IssuerConfig};
    use midge_pki::{CsrSubject, PrivateKey, provider};
    use midge_runtime::Clock;
    use midge_store::{Store, StoreInfo};

    async fn hub(directory: &std::path::Path) -> CloudHub {
        let store = Store::open(directory.join("db"), &StoreInfo::new("cloud", "plant")).unwrap();
        let logs = SyncLogs::open(store.clone()).await.unwrap();
        let mut config = IssuerConfig::new(TrustDomain::new("plant").unwrap(), Authority::SelfSigned, None);
        config.mutation_log = Some(Arc::new(logs.clone()));
        let (clock, keys) = (Clock::system(), directory.join("keys"));
        let issuer = Issuer::open(config, store.clone(), clock.clone(), keys).await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = CloudHubConfig { websocket: any, bootstrap: any, ..CloudHubConfig::default() };
        CloudHub::open(config, CloudHubParts { issuer, logs, store, clock, audit: None }).await.unwrap()
    }

    async fn joined(hub: &CloudHub, node: &str) -> NodeProof {
        let issuer = &hub.shared.parts.issuer;
        let id = midge_identity::node_id(issuer.trust_domain(), node).unwrap();
        let token = issuer.create_join_token(Duration::from_secs(60), None, Some(id.clone())).await.unwrap();
        let csr = PrivateKey::generate().unwrap().csr_der(Some(&id), CsrSubject::default()).unwrap();
        let chain = issuer.redeem(&token.token, &csr, None).await.unwrap().svid.chain;
        let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
        let algorithms = provider().signature_verification_algorithms;
        let peer = verify_x509_svid(&chain, &issuer.bundles(), algorithms.all, issuer.now()).unwrap();
        hub.node_shown_by(&peer, &chain[0]).unwrap().1
    }

    #[tokio::test]
    async fn a_ban_between_the_upgrade_and_the_session_counts() {
        let directory = tempfile::tempdir().unwrap();
        let hub = hub(directory.path()).await;
        let (remote, token) = (SocketAddr::from(([127, 0, 0, 1], 1)), CancellationToken::new());
        let (stolen, other) = (joined(&hub, "stolen").await, joined(&hub, "other").await);
        hub.shared.parts.issuer.ban_node(stolen.id()).await.unwrap();
        let Err(reason) = hub.enter("stolen", &stolen, remote, &token).await else { panic!("let in") };
        assert!(reason.contains("banned"), "{reason}");
        let _place = hub.enter("other", &other, remote, &token).await.unwrap();
        assert_eq!(hub.shared.sessions.connected(), ["other"]);
    }
}
