//! `/live`, `/ready` and `/metrics` over HTTP.
//!
//! Owns the limits of that server: probes must be answered, and a client that sends nothing costs
//! one of few slots for a bounded time. Other routes can be merged into [`router`].

use crate::health::{Health, HealthReport};
use crate::metrics::Metrics;
use crate::process;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections served at once; further ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// Time for a request's head to arrive, and for an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Life of one connection; a scraper opens the next.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed accept: out of descriptors is the usual cause, and spinning does not free any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Sources {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Returns the routes `/live`, `/ready` and `/metrics`, and adds the process's own metrics.
pub fn router(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    process::register(&metrics);
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Sources { health, metrics })
}

/// Serves `router` on `listener` until `token` is cancelled.
///
/// # Errors
/// Never fails by itself; the type is what a supervisor runs.
pub async fn serve(listener: TcpListener, router: Router, token: CancellationToken) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    while let Some(slot) = token.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await {
        let slot = slot?;
        let Some(accepted) = token.run_until_cancelled(listener.accept()).await else { break };
        match accepted {
            Ok((stream, peer)) => {
                let router = router.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    if timeout(CONNECTION_TIMEOUT, connection(stream, router)).await.is_err() {
                        debug!(%peer, "http connection ended by its time limit");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "http accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    Ok(())
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "http connection failed");
    }
}

async fn live(State(sources): State<Sources>) -> Response {
    answer(&sources.health.live())
}

async fn ready(State(sources): State<Sources>) -> Response {
    answer(&sources.health.ready())
}

fn answer(report: &HealthReport) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report.to_string()).into_response()
}

async fn scrape(State(sources): State<Sources>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], sources.metrics.render())
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MetricKind;
    use crate::health::CheckKind;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn probes_follow_the_health_and_metrics_are_text() {
        let server = Server::start().await;
        assert!(server.get("/live").await.starts_with("HTTP/1.1 200"));
        let starting = server.get("/ready").await;
        assert!(
            starting.starts_with("HTTP/1.1 503") && starting.ends_with("store: starting\n"),
            "{starting}"
        );
        server.check.ok();
        assert!(server.get("/ready").await.starts_with("HTTP/1.1 200"));
        let metrics = server.get("/metrics").await;
        assert!(
            metrics.contains("text/plain; version=0.0.4") && metrics.contains("\nmidge_up 1\n"),
            "{metrics}"
        );
        assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
        assert!(server.get("/other").await.starts_with("HTTP/1.1 404"));
        server.stop().await;
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_probes_from_being_answered() {
        let server = Server::start().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        // Answered once the first silent client has used up its time for a request head.
        let answer = timeout(HEADER_TIMEOUT * 4, server.get("/live")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.stop().await;
    }

    struct Server {
        address: SocketAddr,
        check: crate::health::Check,
        token: CancellationToken,
        task: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    impl Server {
        async fn start() -> Self {
            let (health, metrics) = (Arc::new(Health::new()), Arc::new(Metrics::new()));
            let check = health.register("store", CheckKind::Readiness);
            metrics.collect_one("midge_up", "Up", MetricKind::Gauge, || 1.0);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let token = CancellationToken::new();
            let task = tokio::spawn(serve(listener, router(health, metrics), token.clone()));
            Self { address, check, token, task }
        }

        async fn get(&self, path: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: midge\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn stop(self) {
            self.token.cancel();
            timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
        }
    }
}
