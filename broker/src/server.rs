//! Accept loops and the tasks around the hub.

use crate::bulk::Bulk;
use crate::connection::{Entrance, Limits, serve};
use crate::persister;
use crate::{Admission, AuditLog, Bound, Hub, LocalOrigin, MqttConfig, Refusal};
use anyhow::Context as _;
use broker_core::Durability;
use midge_pki::TrustSource;
use midge_policy::Policy;
use midge_runtime::Clock;
use midge_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the server is made of besides its listeners.
pub struct Parts {
    /// Who may be connected.
    pub admission: Arc<dyn Admission>,
    /// The policy, now and later.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// TLS configuration of the mTLS listener: client certificate mandatory.
    pub tls: Arc<rustls::ServerConfig>,
    /// Roots and clock for the verification of clients.
    pub trust: Arc<dyn TrustSource>,
    /// The clock.
    pub clock: Clock,
    /// Where decisions are recorded.
    pub audit: AuditLog,
    /// Where MQTT state is kept; without it nothing is.
    pub store: Option<Store>,
}

/// A running MQTT server.
pub struct Server {
    hub: Hub,
    parts: Parts,
    limits: Limits,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Server {
    /// Returns a server that serves nothing yet, with the sessions and messages that its store holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(config: &MqttConfig, parts: Parts) -> anyhow::Result<Self> {
        let mut core = config.core(*uuid::Uuid::new_v4().as_bytes());
        let records = match &parts.store {
            Some(store) => persister::read(store).await?,
            None => {
                core.durability = Durability::None;
                Vec::new()
            }
        };
        let policy = Arc::clone(&parts.policy.borrow());
        let hub = Hub::new(core, policy, parts.clock.clone(), parts.audit.clone());
        let restored = hub.restore(records);
        tracing::info!(?restored, "MQTT state restored");
        Ok(Self {
            hub,
            limits: Limits {
                connect_timeout: Duration::from_secs(config.connect_timeout_secs.into()),
                codec: config.codec(),
            },
            handshakes: Arc::new(Semaphore::new(permits(config.handshakes_max))),
            connections: Arc::new(Semaphore::new(permits(config.connections_max))),
            parts,
            tasks: TaskTracker::new(),
        })
    }

    /// Returns the hub, for status and metrics.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Serves until `token` is cancelled, then drains: 5.0 clients get DISCONNECT 0x8B, no will fires.
    ///
    /// # Errors
    /// When a listener fails for good.
    pub async fn serve(self, bound: Bound, token: CancellationToken) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let persister = this.parts.store.clone().map(|store| tokio::spawn(persister::run(this.hub(), store)));
        // Entries may have ended while nobody served.
        this.hub.re_admit(&*this.parts.admission);
        let served = tokio::select! {
            // First: when the process stops, the feeds below may end before this is seen.
            biased;
            () = token.cancelled() => Ok(()),
            result = this.accept_tls(bound.tls) => result,
            result = this.accept_tcp(bound.tcp) => result,
            result = this.accept_unix(bound.unix) => result,
            () = this.hub.keep_time() => Ok(()),
            result = this.follow_policy() => result,
            result = this.follow_admission() => result,
        };
        this.hub.drain();
        this.tasks.close();
        this.tasks.wait().await;
        this.hub.end_storing();
        if let Some(persister) = persister {
            persister.await.context("the persister ended")??;
        }
        if let Some(path) = bound.unix_path {
            std::fs::remove_file(path).unwrap_or_default();
        }
        // At a stop its sources may end before it does.
        if token.is_cancelled() { Ok(()) } else { served }
    }

    async fn follow_policy(&self) -> anyhow::Result<()> {
        let mut policy = self.parts.policy.clone();
        loop {
            policy.changed().await.context("policy source ended")?;
            let policy = Arc::clone(&policy.borrow_and_update());
            self.hub.set_policy(policy);
        }
    }

    async fn follow_admission(&self) -> anyhow::Result<()> {
        let mut changes = self.parts.admission.changes();
        loop {
            changes.changed().await.context("admission source ended")?;
            changes.borrow_and_update();
            self.hub.re_admit(&*self.parts.admission);
        }
    }

    async fn accept_tls(self: &Arc<Self>, listener: Option<TcpListener>) -> anyhow::Result<()> {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            let permit = self.room().await?;
            let Some((stream, remote)) = accepted(listener.accept().await).await else { continue };
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                this.tls_connection(stream, &remote.to_string()).await;
                drop(permit);
            });
        }
    }

    async fn tls_connection(&self, stream: TcpStream, remote: &str) {
        // Small answers must not wait for more (DESIGN: 200 TLS connects take 8.4 s without).
        stream.set_nodelay(true).unwrap_or_default();
        let shaken = tokio::time::timeout(self.limits.connect_timeout, async {
            let _turn = self.handshakes.acquire().await;
            TlsAcceptor::from(Arc::clone(&self.parts.tls)).accept(Bulk::new(stream)).await
        });
        let stream = match shaken.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let reason =
                    midge_pki::rejection_of(&error).map_or_else(|| error.to_string(), ToString::to_string);
                return self.refuse("tls", remote, Refusal(format!("TLS handshake: {reason}")));
            }
            Err(_) => return self.refuse("tls", remote, Refusal("TLS handshake took too long".into())),
        };
        match midge_pki::peer_of(stream.get_ref().1, &*self.parts.trust) {
            Ok(peer) => self.run(stream, Entrance::Verified(peer), "tls", remote).await,
            Err(rejection) => self.refuse("tls", remote, Refusal(rejection.to_string())),
        }
    }

    async fn accept_tcp(self: &Arc<Self>, listener: Option<TcpListener>) -> anyhow::Result<()> {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            let permit = self.room().await?;
            let Some((stream, remote)) = accepted(listener.accept().await).await else { continue };
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                stream.set_nodelay(true).unwrap_or_default();
                if let Ok(local) = stream.local_addr() {
                    let origin = LocalOrigin::Tcp { peer: remote, local };
                    this.local_connection(stream, origin, "tcp", &remote.to_string()).await;
                }
                drop(permit);
            });
        }
    }

    async fn accept_unix(self: &Arc<Self>, listener: Option<UnixListener>) -> anyhow::Result<()> {
        let Some(listener) = listener else { return std::future::pending().await };
        loop {
            let permit = self.room().await?;
            let Some((stream, _)) = accepted(listener.accept().await).await else { continue };
            let this = Arc::clone(self);
            self.tasks.spawn(async move {
                if let Some((origin, remote)) = unix_origin(&stream) {
                    this.local_connection(stream, origin, "unix", &remote).await;
                }
                drop(permit);
            });
        }
    }

    async fn local_connection<S>(&self, stream: S, origin: LocalOrigin, listener: &str, remote: &str)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        match self.parts.admission.attest(origin).await {
            Ok(claims) => self.run(stream, Entrance::Local(claims), listener, remote).await,
            Err(refusal) => self.refuse(listener, remote, refusal),
        }
    }

    async fn run<S>(&self, stream: S, entrance: Entrance, listener: &str, remote: &str)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let served = serve(&self.hub, &*self.parts.admission, stream, entrance, self.limits.clone());
        if let Err(refused) = served.await {
            self.hub.refused(listener, remote, refused.client_id.as_deref(), &refused.refusal);
        }
    }

    fn refuse(&self, listener: &str, remote: &str, refusal: Refusal) {
        self.hub.refused(listener, remote, None, &refusal);
    }

    async fn room(&self) -> anyhow::Result<OwnedSemaphorePermit> {
        Ok(Arc::clone(&self.connections).acquire_owned().await?)
    }
}

fn permits(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

fn unix_origin(stream: &UnixStream) -> Option<(LocalOrigin, String)> {
    let credentials = stream.peer_cred().ok()?;
    let pid = u32::try_from(credentials.pid()?).ok()?;
    let origin = LocalOrigin::Unix { pid, uid: credentials.uid(), gid: credentials.gid() };
    Some((origin, format!("pid {pid} uid {}", credentials.uid())))
}

/// Running out of file descriptors must not end the listener nor spin: it passes when clients go.
async fn accepted<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::debug!(%error, "accept failed");
            if !matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::Interrupted
            ) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            None
        }
    }
}
