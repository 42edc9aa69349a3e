//! The agent's socket and the tasks behind it.

use crate::{
    AgentError, Upstream,
    attest::{ATTESTATIONS_PER_UID_MAX, AttestPool, Attestor, EXECUTABLE_BYTES_MAX},
    jitter::Jitter,
    peers::{PeerStream, Peers, Share},
    rotation::{Rotation, RotationLimits},
    socket::Socket,
    svids::Svids,
    workload_api::{WorkloadApi, require_security_header},
};
use futures_util::{
    FutureExt,
    stream::{self, Stream, StreamExt},
};
use midge_api::{
    midge::agent::v1::workload_wait_server::WorkloadWaitServer,
    workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
};
use midge_runtime::{CancellationToken, Clock, MetricKind, Metrics, RateLimitedWarn};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::UnixStream, time};
use tonic::{service::interceptor::InterceptedService, transport::Server};

// Requests of the X.509 profile are empty.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
const DRAIN: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

static ACCEPT_FAILED: RateLimitedWarn = RateLimitedWarn::new(Duration::from_secs(60));

/// How the agent serves.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Socket of the Workload API. Every local user may connect; attestation decides.
    pub socket_path: PathBuf,
    /// Whether callers without an identity may fetch X.509 bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// How many SVIDs are kept signed before anybody asks. For an agent that may lose its server.
    pub prefetch_max: usize,
    /// How long a call waits for signatures before it is answered with the SVIDs there are, or
    /// with `UNAVAILABLE` if there are none.
    pub settle: Duration,
    /// Largest executable that is read for a `unix:sha256` selector, in bytes.
    pub executable_bytes_max: u64,
    /// Bounds of what callers may take.
    pub limits: AgentLimits,
    /// Seed of the spread of renewals; random if unset.
    pub seed: Option<u64>,
}

impl AgentConfig {
    /// Returns the defaults for an agent that serves at this socket.
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self {
            socket_path: socket_path.into(),
            allow_unauthenticated_verifiers: false,
            prefetch_max: 0,
            settle: SETTLE,
            executable_bytes_max: EXECUTABLE_BYTES_MAX,
            limits: AgentLimits::default(),
            seed: None,
        }
    }
}

/// What callers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Connections of all users; further ones are closed.
    pub connections_max: usize,
    /// Connections of one user; further ones are closed.
    pub connections_per_uid_max: usize,
    /// Calls of one user at once; further ones get `RESOURCE_EXHAUSTED`.
    pub streams_per_uid_max: usize,
    /// Attestations of one user at once; further ones wait.
    pub attestations_per_uid_max: usize,
    /// SVIDs that are kept; while all are in use, further ones get `RESOURCE_EXHAUSTED`.
    pub svids_max: usize,
    /// Signatures that are asked for at once; further ones wait.
    pub signings_max: usize,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_uid_max: 512,
            streams_per_uid_max: 1024,
            attestations_per_uid_max: ATTESTATIONS_PER_UID_MAX,
            svids_max: 4096,
            signings_max: 8,
        }
    }
}

/// What the parts of the agent share.
pub(crate) struct Shared {
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) svids: Arc<Svids>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) allow_unauthenticated_verifiers: bool,
    pub(crate) settle: Duration,
    pub(crate) token: CancellationToken,
}

/// An agent whose socket is open.
pub struct Agent {
    socket: Socket,
    shared: Arc<Shared>,
    attestations: AttestPool,
}

impl Agent {
    /// Opens the socket. Callers can connect from here on and are answered by [`Self::serve`].
    ///
    /// `token` ends the agent and every open stream.
    ///
    /// # Errors
    /// When another process serves the socket, or it cannot be made.
    pub fn bind(
        config: AgentConfig,
        upstream: Arc<dyn Upstream>,
        clock: Clock,
        token: CancellationToken,
    ) -> Result<Self, AgentError> {
        let socket = Socket::bind(&config.socket_path)?;
        let limits = RotationLimits {
            svids_max: config.limits.svids_max,
            signings_max: config.limits.signings_max,
            prefetch_max: config.prefetch_max,
        };
        let rotation = Rotation::new(limits, config.seed.map_or_else(Jitter::random, Jitter::seeded));
        let shared = Shared {
            svids: Arc::new(Svids::new(rotation, Arc::clone(&upstream), clock)),
            upstream,
            peers: Arc::new(Peers::new(config.limits)),
            allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
            settle: config.settle,
            token,
        };
        Ok(Self {
            socket,
            shared: Arc::new(shared),
            attestations: AttestPool::new(
                Attestor::new(config.executable_bytes_max),
                config.limits.attestations_per_uid_max,
            ),
        })
    }

    /// Adds the agent's counts to the metrics of the process.
    pub fn register_metrics(&self, metrics: &Metrics) {
        let kept = Arc::clone(&self.shared.svids);
        metrics.collect_one("midge_agent_svids", "SVIDs kept for workloads.", MetricKind::Gauge, move || {
            kept.kept() as f64
        });
        self.shared.svids.register_metrics(metrics);
        for (share, name, help) in [
            (Share::Connection, "midge_agent_connections", "Connections to the Workload API."),
            (Share::Stream, "midge_agent_calls", "Open calls of the Workload API."),
        ] {
            let peers = Arc::clone(&self.shared.peers);
            metrics.collect_one(name, help, MetricKind::Gauge, move || peers.total(share) as f64);
        }
    }

    /// Serves until the token given to [`Self::bind`] is cancelled, then removes the socket.
    ///
    /// # Errors
    /// When the server fails, or the feed of entries ends.
    pub async fn serve(self) -> Result<(), AgentError> {
        let token = self.shared.token.clone();
        let signing = Arc::clone(&self.shared.svids).serve(token.clone());
        let path = self.socket.path().to_owned();
        let incoming = incoming(&self.socket, Arc::clone(&self.shared.peers), self.attestations);
        let service = WorkloadApi::new(self.shared);
        let workload =
            SpiffeWorkloadApiServer::new(service.clone()).max_decoding_message_size(REQUEST_BYTES_MAX);
        let wait = WorkloadWaitServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .add_service(InterceptedService::new(workload, require_security_header))
            .add_service(InterceptedService::new(wait, require_security_header))
            .serve_with_incoming_shutdown(incoming, token.clone().cancelled_owned())
            .map(|served| served.map_err(|error| AgentError::Serve { path, error }));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            // Without an error it ends only with the token.
            signed = signing => signed?,
        }
        // Open streams end by themselves; a client that does not take its last message is cut.
        time::timeout(DRAIN, serving).await.unwrap_or(Ok(()))
    }
}

/// Serves the Workload API until `token` is cancelled.
///
/// # Errors
/// When the socket cannot be made, the server fails, or the feed of entries ends.
pub async fn run(
    config: AgentConfig,
    upstream: Arc<dyn Upstream>,
    clock: Clock,
    token: CancellationToken,
) -> Result<(), AgentError> {
    Agent::bind(config, upstream, clock, token)?.serve().await
}

fn incoming(
    socket: &Socket,
    peers: Arc<Peers>,
    attestations: AttestPool,
) -> impl Stream<Item = io::Result<PeerStream>> + use<'_> {
    stream::unfold(socket, |socket| async move { Some((accept(socket).await, socket)) })
        .map(move |stream| {
            let (peers, attestations) = (Arc::clone(&peers), attestations.clone());
            async move { PeerStream::accept(stream, &peers, &attestations).await }
        })
        // Each of them holds one of its user's connections, of which there are only so many.
        .buffer_unordered(usize::MAX)
        .filter_map(|accepted| std::future::ready(accepted.map(Ok)))
}

async fn accept(socket: &Socket) -> UnixStream {
    loop {
        match socket.listener().accept().await {
            Ok((stream, _)) => return stream,
            // Out of file descriptors, which others may give back.
            Err(error) => {
                if let Some(suppressed) = ACCEPT_FAILED.occurred() {
                    tracing::warn!(%error, suppressed, "cannot accept a connection, trying again");
                }
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
