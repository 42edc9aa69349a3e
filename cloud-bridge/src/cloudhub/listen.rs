//! The websocket's listener: TLS with a mandatory node SVID, then KubeEdge's upgrade request.

use super::CloudHub;
use super::handshakes::{Handshake, Handshakes};
use super::session::Session;
use super::sessions::SessionPlace;
use crate::frames::{Channel, websocket_config};
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use issuer_core::node_of;
use midge_identity::{SpiffeId, UnixMillis};
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
    id: SpiffeId,
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
        let mut verdict = Err("no upgrade was asked for".to_owned());
        let mut refusal = None;
        #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let callback = |request: &Request, response: Response| {
            // Not before the request: whoever keeps a connection ready may be locked out meanwhile.
            verdict = self.node_named_by(peer.id());
            check_upgrade(request, &verdict).map(|()| response).map_err(|(status, reason)| {
                refusal = Some(reason.clone());
                error_response(status, reason)
            })
        };
        let socket =
            tokio_tungstenite::accept_hdr_async_with_config(stream, callback, Some(websocket_config())).await;
        match (socket, verdict) {
            (Ok(socket), Ok(node)) => {
                Ok(Arrival { node, id: peer.id().clone(), expires: peer.expires(), remote, socket })
            }
            (Ok(_), Err(reason)) => Err(reason),
            (Err(error), _) => Err(refusal.unwrap_or_else(|| error.to_string())),
        }
    }

    fn node_named_by(&self, id: &SpiffeId) -> Result<String, String> {
        let issuer = &self.shared.parts.issuer;
        let node = node_of(id).filter(|node| id.path().len() == "/edge/".len().saturating_add(node.len()));
        let Some(node) = node.filter(|_| id.trust_domain() == issuer.trust_domain()) else {
            return Err(format!(
                "{id} is not a node: the certificate of spiffe://<trust domain>/edge/<node> is needed"
            ));
        };
        issuer.admitted_node(id).map_err(|error| format!("node {node}: {error}"))?;
        Ok(node.to_owned())
    }

    async fn serve_node(&self, arrival: Arrival, token: &CancellationToken) {
        let Arrival { node, id, expires, remote, socket } = arrival;
        let place = match self.enter(&node, &id, remote, token) {
            Ok(place) => place,
            Err(reason) => return refused(remote, &reason),
        };
        tracing::info!(node, %remote, "node connected");
        let session = Session { hub: self.clone(), node, expires, place };
        let end = session.run(Channel::new(socket)).await;
        self.shared.sessions.leave(&session.node, &session.place, self.shared.parts.clock.now());
        tracing::info!(node = session.node, %remote, reason = %end, "node disconnected");
    }

    fn enter(
        &self,
        node: &str,
        id: &SpiffeId,
        remote: SocketAddr,
        token: &CancellationToken,
    ) -> Result<SessionPlace, String> {
        let (sessions, now) = (&self.shared.sessions, self.shared.parts.clock.now());
        let place = sessions.enter(node, remote, now, token).ok_or_else(|| {
            "the hub serves as many nodes as it is configured for (sessions-max)".to_owned()
        })?;
        // Whoever locks a node out closes the sessions that are there: one that came later has to ask.
        self.node_named_by(id).inspect_err(|_| sessions.leave(node, &place, now))?;
        Ok(place)
    }
}

fn check_upgrade(request: &Request, verdict: &Result<String, String>) -> Result<(), (u16, String)> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    // A browser sends it; KubeEdge's server refuses it too.
    if header("origin").is_some() {
        return Err((403, "connections from web pages are not allowed".to_owned()));
    }
    // KubeEdge's server upgrades such a connection and then reads nothing from it.
    if header("connectionuse") != Some("msg") {
        return Err((400, "header ConnectionUse: msg is missing".to_owned()));
    }
    let node = verdict.as_ref().map_err(|reason| (403, reason.clone()))?;
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
    use midge_identity::TrustDomain;
    use midge_issuer::{Authority, Issuer, IssuerConfig};
    use midge_pki::{CsrSubject, PrivateKey};
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

    async fn joined(hub: &CloudHub, node: &str) -> SpiffeId {
        let issuer = &hub.shared.parts.issuer;
        let id = midge_issuer::node_id(issuer.trust_domain(), node).unwrap();
        let token = issuer.create_join_token(Duration::from_secs(60), None, Some(id.clone())).await.unwrap();
        let csr = PrivateKey::generate().unwrap().csr_der(Some(&id), CsrSubject::default()).unwrap();
        issuer.redeem(&token.token, &csr, None).await.unwrap();
        id
    }

    #[tokio::test]
    async fn a_ban_between_the_upgrade_and_the_session_counts() {
        let directory = tempfile::tempdir().unwrap();
        let hub = hub(directory.path()).await;
        let (remote, token) = (SocketAddr::from(([127, 0, 0, 1], 1)), CancellationToken::new());
        let (stolen, other) = (joined(&hub, "stolen").await, joined(&hub, "other").await);
        assert!(hub.node_named_by(&stolen).is_ok());
        hub.shared.parts.issuer.ban_node(&stolen).await.unwrap();
        let Err(reason) = hub.enter("stolen", &stolen, remote, &token) else { panic!("let in") };
        assert!(reason.contains("banned"), "{reason}");
        let _place = hub.enter("other", &other, remote, &token).unwrap();
        assert_eq!(hub.shared.sessions.connected(), ["other"]);
    }
}
