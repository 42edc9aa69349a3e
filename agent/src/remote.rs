//! The identity server in another process: its entries pushed and its signatures asked for over
//! its admin socket.
//!
//! While it is away, the last view and the SVIDs signed so far are served on; when it refuses this agent, nothing is.

use crate::{AgentView, SignFailure, Signed, Upstream};
use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use issuer_core::RegistrationEntry;
use midge_api::{
    entries::entry_from_api,
    midge::v1::{self, SignX509svidRequest, WatchEntriesRequest, midge_client::MidgeClient},
};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use midge_runtime::{Backoff, CancellationToken};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::UnixStream, sync::watch};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

// Entries of a large box: 100,000 of some 500 bytes.
const VIEW_BYTES_MAX: usize = 64 * 1024 * 1024;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Where the identity server is, and who asks.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Its admin socket.
    pub socket: PathBuf,
    /// SPIFFE ID of this agent.
    pub agent_id: SpiffeId,
}

/// An [`Upstream`] in another process.
#[derive(Debug)]
pub struct RemoteUpstream {
    config: RemoteConfig,
    channel: Channel,
    view: watch::Sender<Arc<AgentView>>,
}

impl RemoteUpstream {
    /// Waits for the first view of the server; `None` when `token` was cancelled before.
    ///
    /// [`Self::follow`] must run from then on.
    pub async fn connect(config: RemoteConfig, token: &CancellationToken) -> Option<Arc<Self>> {
        let channel = channel(config.socket.clone());
        let (view, _) = watch::channel(Arc::new(AgentView::empty(config.agent_id.trust_domain().clone())));
        let upstream = Self { config, channel, view };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            let first = tokio::select! {
                () = token.cancelled() => return None,
                first = upstream.first_view() => first,
            };
            match first {
                Ok(()) => return Some(Arc::new(upstream)),
                Err(status) => upstream.warn(&status, backoff.attempts()),
            }
            if !backoff.wait(token).await {
                return None;
            }
        }
    }

    /// Follows the server's view, across its restarts, until `token` is cancelled.
    pub async fn follow(self: Arc<Self>, token: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                status = self.receive(&mut backoff) => {
                    if status.code() == Code::PermissionDenied {
                        self.forget();
                    }
                    self.warn(&status, backoff.attempts());
                }
            }
            if !backoff.wait(&token).await {
                return;
            }
        }
    }

    async fn first_view(&self) -> Result<(), Status> {
        let first = self.watch().await?.message().await?;
        self.publish(first.ok_or_else(ended)?);
        Ok(())
    }

    /// Publishes views until the stream fails.
    async fn receive(&self, backoff: &mut Backoff) -> Status {
        let mut views = match self.watch().await {
            Ok(views) => views,
            Err(status) => return status,
        };
        loop {
            match views.message().await {
                Ok(Some(view)) => {
                    if backoff.attempts() > 0 {
                        tracing::info!(server = %self.config.socket.display(), "the identity server is back");
                    }
                    backoff.reset();
                    self.publish(view);
                }
                Ok(None) => return ended(),
                Err(status) => return status,
            }
        }
    }

    async fn watch(&self) -> Result<Streaming<v1::AgentView>, Status> {
        let request = WatchEntriesRequest { agent_id: self.config.agent_id.to_string() };
        let mut client = MidgeClient::new(self.channel.clone()).max_decoding_message_size(VIEW_BYTES_MAX);
        Ok(client.watch_entries(request).await?.into_inner())
    }

    fn publish(&self, view: v1::AgentView) {
        match agent_view(view) {
            Ok(view) => {
                tracing::debug!(
                    revision = view.revision(),
                    entries = view.entries().len(),
                    "new entries or bundles"
                );
                self.view.send_replace(Arc::new(view));
            }
            Err(error) => {
                tracing::warn!(%error, "the identity server sent an unusable view, keeping the former one")
            }
        }
    }

    /// Serves nobody any more: unlike a server that is away, one that refuses this agent has taken everything back.
    fn forget(&self) {
        let trust_domain = self.config.agent_id.trust_domain().clone();
        self.view.send_replace(Arc::new(AgentView::empty(trust_domain)));
    }

    fn warn(&self, status: &Status, attempts: u32) {
        let server = self.config.socket.display();
        let (code, message) = (status.code(), status.message());
        if attempts == 0 {
            tracing::warn!(%server, ?code, message, "no entries from the identity server, trying again");
        } else {
            tracing::debug!(%server, ?code, message, attempts, "still no entries from the identity server");
        }
    }
}

#[async_trait]
impl Upstream for RemoteUpstream {
    fn view(&self) -> watch::Receiver<Arc<AgentView>> {
        self.view.subscribe()
    }

    async fn sign(&self, entry_id: &str, csr_der: Vec<u8>) -> Result<Signed, SignFailure> {
        let request = SignX509svidRequest {
            entry_id: entry_id.to_owned(),
            csr: csr_der,
            agent_id: self.config.agent_id.to_string(),
        };
        let mut client = MidgeClient::new(self.channel.clone());
        let answer = client.sign_x509svid(request).await.map_err(|status| refused(&status))?.into_inner();
        let svid = answer.svid.ok_or_else(|| SignFailure::Wrong("no svid".to_owned()))?;
        Ok(Signed {
            chain: svid.cert_chain,
            issued: millis(answer.issued_at_ms),
            expires: millis(answer.expires_at_ms),
        })
    }
}

fn channel(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

fn ended() -> Status {
    Status::unavailable("the stream of entries has ended")
}

fn refused(status: &Status) -> SignFailure {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented => SignFailure::Refused(message),
        _ => SignFailure::Unavailable(message),
    }
}

fn millis(ms: i64) -> UnixMillis {
    UnixMillis(u64::try_from(ms).unwrap_or(0))
}

#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no trust domain")]
struct NoTrustDomain(String);

fn agent_view(view: v1::AgentView) -> Result<AgentView, NoTrustDomain> {
    let trust_domain = trust_domain(&view.trust_domain)?;
    let mut bundles = BundleSet::new();
    for bundle in view.bundles {
        let trust_domain = self::trust_domain(&bundle.trust_domain)?;
        let tainted = bundle.x509_authorities.iter().filter(|root| root.tainted);
        let tainted: Vec<Vec<u8>> = tainted.map(|root| root.asn1.clone()).collect();
        let roots = bundle.x509_authorities.into_iter().map(|root| root.asn1).collect();
        bundles.insert(trust_domain.clone(), roots);
        bundles.set_tainted(&trust_domain, &tainted);
    }
    let mut entries = Vec::with_capacity(view.entries.len());
    for entry in view.entries {
        let id = entry.id.clone();
        match entry_from_api(entry) {
            Ok(entry) => entries.push(Arc::new(with_selectors_in_order(entry))),
            // One odd entry must not take the others' identities away.
            Err(error) => tracing::warn!(entry = %id, %error, "skipping an entry"),
        }
    }
    let good = Arc::new(view.good_authorities.into_iter().collect());
    let view = AgentView::new(view.revision, trust_domain, Arc::new(entries), Arc::new(bundles));
    Ok(view.with_good_authorities(good))
}

fn trust_domain(name: &str) -> Result<TrustDomain, NoTrustDomain> {
    TrustDomain::new(name).map_err(|_| NoTrustDomain(name.to_owned()))
}

/// Selectors are matched as a set in this order, whatever the server's is.
fn with_selectors_in_order(mut entry: RegistrationEntry) -> RegistrationEntry {
    entry.selectors.sort();
    entry.selectors.dedup();
    entry
}
