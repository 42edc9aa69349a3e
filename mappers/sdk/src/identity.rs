//! The mapper's identity from the Workload API, kept fresh. It writes no key to disk.

use crate::choice::IdentityChoice;
use crate::material::{bundles_of, identity_of};
use midge_identity::{BundleSet, UnixMillis};
use midge_pki::{IdentitySource, SvidIdentity, TrustSource};
use midge_runtime::{Backoff, CancellationToken, Clock};
use parking_lot::RwLock;
use spiffe::x509_source::X509SourceState;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Source, X509SourceError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Shortest time between two questions for an identity that has not been issued yet.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Added to it at random, at most: workloads that wait together ask apart.
const RETRY_JITTER: Duration = Duration::from_millis(100);
/// Longest time for an agent to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Limits of the waits between reconnections once an identity was there.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

/// Where a workload gets its identity, and which.
#[derive(Clone, Debug)]
pub struct WorkloadSource {
    /// Socket of the Workload API, as `unix:///path`; none means `SPIFFE_ENDPOINT_SOCKET`.
    pub endpoint: Option<String>,
    /// Which of several identities is meant.
    pub choice: IdentityChoice,
    /// Time that certificates are judged by.
    pub clock: Clock,
}

/// Why there will never be an identity, whatever the registration entries say.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// No socket was named.
    #[error(
        "no Workload API socket is set; set SPIFFE_ENDPOINT_SOCKET, such as unix:///run/midge/agent.sock"
    )]
    NoEndpoint,
    /// The socket's name does not parse.
    #[error("workload api endpoint {endpoint:?} is not valid ({reason}); use unix:///absolute/path")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What answers is not a Workload API.
    #[error("what answers at the Workload API socket does not speak it: {0}")]
    NotWorkloadApi(String),
    /// The wait was cancelled.
    #[error("stopped while waiting for an identity")]
    Stopped,
}

/// The workload's current SVID and trust bundles, kept up to date with the Workload API.
pub struct WorkloadIdentity {
    current: Arc<Current>,
    changes: watch::Receiver<u64>,
    _follower: AbortOnDropHandle<()>,
}

struct Current {
    identity: RwLock<Option<Arc<SvidIdentity>>>,
    bundles: RwLock<Arc<BundleSet>>,
    clock: Clock,
}

impl WorkloadIdentity {
    /// Waits until the Workload API issues the chosen identity, asking several times a second, and
    /// then follows it. Calls `waiting` with the reason whenever that changes.
    ///
    /// # Errors
    /// Only when waiting is of no use, or `token` is cancelled.
    pub async fn wait(
        source: WorkloadSource,
        token: &CancellationToken,
        waiting: impl FnMut(&str) + Send,
    ) -> Result<Self, IdentityError> {
        match token.run_until_cancelled(Self::obtain(source, waiting)).await {
            Some(identity) => identity,
            None => Err(IdentityError::Stopped),
        }
    }

    async fn obtain(
        source: WorkloadSource,
        mut waiting: impl FnMut(&str) + Send,
    ) -> Result<Self, IdentityError> {
        let mut jitter = Backoff::new(RETRY_JITTER, RETRY_JITTER);
        let mut told = String::new();
        while let Some(reason) = not_issued(&source).await? {
            if reason != told {
                waiting(&reason);
                told = reason;
            }
            sleep(RETRY_AFTER + jitter.next_delay()).await;
        }
        let mut builder =
            X509Source::builder().picker(source.choice).reconnect_backoff(RECONNECT.0, RECONNECT.1);
        if let Some(endpoint) = &source.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let followed = builder.build().await.map_err(never)?;
        let identity = Self::follow(followed, source.clock);
        let mut changes = identity.changes();
        while identity.usable().is_none() {
            waiting("the SVID that was issued cannot be used");
            if changes.changed().await.is_err() {
                return Err(IdentityError::Stopped);
            }
        }
        Ok(identity)
    }

    fn follow(source: X509Source, clock: Clock) -> Self {
        let current = Arc::new(Current {
            identity: RwLock::new(None),
            bundles: RwLock::new(Arc::new(BundleSet::new())),
            clock,
        });
        current.take(&source.state());
        let (changed, changes) = watch::channel(0);
        let follower = tokio::spawn({
            let current = Arc::clone(&current);
            async move {
                let mut updates = source.updated();
                loop {
                    // Also closes the gap between the first look and the subscription.
                    if current.take(&source.state()) {
                        changed.send_modify(|revision| *revision += 1);
                    }
                    if updates.changed().await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { current, changes, _follower: AbortOnDropHandle::new(follower) }
    }

    /// A receiver that is notified when the SVID or the bundles have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The SVID to use now; none when it was withdrawn or has expired.
    pub fn usable(&self) -> Option<Arc<SvidIdentity>> {
        self.current().filter(|identity| identity.expires > self.now())
    }
}

impl Current {
    /// Takes over what the Workload API says now; returns whether anything is different.
    fn take(&self, state: &X509SourceState) -> bool {
        let bundles = state.context().map(|context| bundles_of(context.bundle_set())).ok();
        let identity = match state.svid() {
            Ok(svid) => match identity_of(&svid) {
                Ok(identity) => Some(identity),
                Err(reason) => {
                    warn!(spiffe_id = %svid.spiffe_id(), reason, "svid of the Workload API is not usable; keeping the old one");
                    return false;
                }
            },
            Err(reason) => {
                info!(%reason, "no identity from the Workload API");
                None
            }
        };
        let mut changed = false;
        if let Some(bundles) = bundles.filter(|bundles| *bundles != **self.bundles.read()) {
            *self.bundles.write() = Arc::new(bundles);
            changed = true;
        }
        let mut held = self.identity.write();
        // The same SVID stays the same `Arc`: a connection made with it goes on.
        if held.as_ref().map(|held| &held.chain) != identity.as_ref().map(|identity| &identity.chain) {
            *held = identity.map(Arc::new);
            changed = true;
        }
        changed
    }
}

impl IdentitySource for WorkloadIdentity {
    fn current(&self) -> Option<Arc<SvidIdentity>> {
        self.current.identity.read().clone()
    }
}

impl TrustSource for WorkloadIdentity {
    fn bundles(&self) -> Arc<BundleSet> {
        self.current.bundles.read().clone()
    }

    fn now(&self) -> UnixMillis {
        self.current.clock.now()
    }
}

impl fmt::Debug for WorkloadIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkloadIdentity").field("current", &self.current()).finish_non_exhaustive()
    }
}

/// Asks once; returns why the chosen identity is not there, or none when it is.
async fn not_issued(source: &WorkloadSource) -> Result<Option<String>, IdentityError> {
    let asked = async {
        let client = match &source.endpoint {
            Some(endpoint) => WorkloadApiClient::connect_to(endpoint).await?,
            None => WorkloadApiClient::connect_env().await?,
        };
        client.fetch_all_x509_svids().await
    };
    let svids = match timeout(ANSWER_WITHIN, asked).await {
        Err(_) => return Ok(Some("the Workload API does not answer".to_owned())),
        Ok(Ok(svids)) => svids,
        Ok(Err(WorkloadApiError::MissingEndpointSocket)) => return Err(IdentityError::NoEndpoint),
        Ok(Err(WorkloadApiError::Endpoint(reason))) => {
            let endpoint = source.endpoint.clone().unwrap_or_else(|| "SPIFFE_ENDPOINT_SOCKET".to_owned());
            return Err(IdentityError::Endpoint { endpoint, reason: reason.to_string() });
        }
        Ok(Err(error)) if error.is_invalid_argument() => {
            return Err(IdentityError::NotWorkloadApi(error.to_string()));
        }
        Ok(Err(error)) => return Ok(Some(error.to_string())),
    };
    if source.choice.position(svids.iter().map(|svid| (svid.spiffe_id(), svid.hint()))).is_some() {
        return Ok(None);
    }
    let issued: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    Ok(Some(format!("no identity {} issued, only {}", source.choice, issued.join(", "))))
}

/// The source retries everything else by itself.
fn never(error: X509SourceError) -> IdentityError {
    IdentityError::NotWorkloadApi(error.to_string())
}
