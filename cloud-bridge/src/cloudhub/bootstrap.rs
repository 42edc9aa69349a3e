//! HTTPS for nodes that have no certificate yet: `GET /ca.crt`, and `GET /edge.crt` with a CSR.

use super::CloudHub;
use super::handshakes::Handshakes;
use super::listen::{accept_failed, reraise};
use crate::limits::{BOOTSTRAP_BODY_BYTES_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use issuer_core::{JoinError, NodeProof};
use midge_identity::SpiffeId;
use midge_issuer::{IssueError, SignedSvid};
use midge_pki::{SvidClientVerifier, TrustSource, peer_of, pem_encode_certs, server_config};
use midge_runtime::CancellationToken;
use rustls::CommonState;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Type of a certificate chain as our edge asks for it; a stock edge takes DER.
pub(crate) const PEM_CHAIN: &str = "application/pem-certificate-chain";
/// A node needs two requests.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Who is at the other end, and what of a node that proves.
#[derive(Clone)]
struct Client(Option<(SpiffeId, Result<NodeProof, JoinError>)>);

struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

pub(super) async fn serve(hub: CloudHub, token: CancellationToken) -> anyhow::Result<()> {
    let trust: Arc<dyn TrustSource> = Arc::new(hub.shared.parts.issuer.clone());
    let verifier = SvidClientVerifier::optional(trust);
    let config = server_config(Arc::clone(&hub.shared.identity) as _, verifier, &[b"http/1.1"]);
    let acceptor = TlsAcceptor::from(config);
    let router = Router::new()
        .route("/ca.crt", get(ca_certificate))
        .route("/edge.crt", get(edge_certificate))
        .layer(DefaultBodyLimit::max(BOOTSTRAP_BODY_BYTES_MAX))
        .with_state(hub.clone());
    let places = Handshakes::new(HANDSHAKES_MAX);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = token.cancelled() => break,
            accepted = hub.shared.bootstrap.accept() => {
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        accept_failed(&error).await;
                        continue;
                    }
                };
                let place = places.begin();
                let (hub, acceptor, router) = (hub.clone(), acceptor.clone(), router.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = hub.answer(stream, acceptor, router) => {}
                        () = tokio::time::sleep(CONNECTION_TIMEOUT) => {}
                        () = place.evicted.cancelled() => {}
                    }
                });
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => reraise(ended),
        }
    }
    Ok(())
}

impl CloudHub {
    async fn answer(&self, stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
        drop(stream.set_nodelay(true));
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
            return;
        };
        // Without a certificate there is nobody, and nobody is what the handler sees.
        let client = Client(self.client_of(stream.get_ref().1));
        let service = TowerToHyperService::new(router.layer(Extension(client)));
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "bootstrap connection");
        }
    }

    fn client_of(&self, connection: &CommonState) -> Option<(SpiffeId, Result<NodeProof, JoinError>)> {
        let peer = peer_of(connection, &self.shared.parts.issuer).ok()?;
        let leaf = connection.peer_certificates()?.first()?;
        Some((peer.id().clone(), NodeProof::of(&peer, leaf)))
    }

    async fn issue(
        &self,
        headers: &HeaderMap,
        client: &Client,
        csr_der: &[u8],
    ) -> Result<SignedSvid, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let node = text("nodename").ok_or_else(|| bad_request("header NodeName is missing"))?;
        self.check_node_name(node).map_err(|error| bad_request(&error.to_string()))?;
        let issuer = &self.shared.parts.issuer;
        let id = midge_identity::node_id(issuer.trust_domain(), node)
            .map_err(|error| bad_request(&error.to_string()))?;
        if let Some(token) = text("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
            let joined = issuer.redeem(bare_token(token), csr_der, Some(&id)).await.map_err(refusal)?;
            tracing::info!(node, "node joined");
            return Ok(joined.svid);
        }
        match &client.0 {
            Some((is, shown)) if *is == id => {
                let shown = shown.as_ref().map_err(|error| refusal(error.clone().into()))?;
                issuer.sign_node_svid(shown, csr_der).await.map_err(refusal)
            }
            Some((is, _)) => Err(wrong_client(is, &id)),
            None => {
                let reason = "a join token (Authorization: Bearer) or the node's certificate is needed";
                Err(Refusal(StatusCode::UNAUTHORIZED, reason.to_owned()))
            }
        }
    }
}

async fn ca_certificate(State(hub): State<CloudHub>) -> Result<Vec<u8>, Refusal> {
    hub.active_root().map_err(|error| Refusal(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

async fn edge_certificate(
    State(hub): State<CloudHub>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    csr_der: Bytes,
) -> Result<Response, Refusal> {
    let svid = hub.issue(&headers, &client, &csr_der).await?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept == Some(PEM_CHAIN) {
        return Ok(([(header::CONTENT_TYPE, PEM_CHAIN)], pem_encode_certs(&svid.chain)).into_response());
    }
    Ok(svid.chain.into_iter().next().unwrap_or_default().into_response())
}

/// KubeEdge's edge sends what follows the hash; a person may paste the whole text.
fn bare_token(text: &str) -> &str {
    match text.split_once('.') {
        Some((hash, token)) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => token,
        _ => text,
    }
}

fn bad_request(reason: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason.to_owned())
}

fn wrong_client(is: &SpiffeId, wanted: &SpiffeId) -> Refusal {
    Refusal(StatusCode::FORBIDDEN, format!("{is} cannot renew the certificate of {wanted}"))
}

fn refusal(error: IssueError) -> Refusal {
    let status = match &error {
        IssueError::Join(JoinError::UnknownToken | JoinError::ExpiredToken) => StatusCode::UNAUTHORIZED,
        IssueError::Join(_) => StatusCode::FORBIDDEN,
        IssueError::Csr(_) | IssueError::CsrDnsName { .. } => StatusCode::BAD_REQUEST,
        IssueError::NoAuthority(_) | IssueError::CaExpired(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // What failed inside is for the log, not for strangers.
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(%error, "cannot issue a node's certificate");
        return Refusal(status, "the cloud cannot issue certificates now: try again later".to_owned());
    }
    Refusal(status, error.to_string())
}
