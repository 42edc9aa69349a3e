//! The server: its listeners and the tasks around the hub.

use crate::accept::Way;
use crate::arrivals::Arrivals;
use crate::connection::{FLUSHED_BYTES, Limits};
use crate::listeners::Listeners;
use crate::threads::Threads;
use crate::{Admission, Authenticator, Bound, Hub, MqttConfig, persister, sys};
use anyhow::Context as _;
use broker_core::{Durability, Restored};
use midge_audit::AuditLog;
use midge_pki::TrustSource;
use midge_policy::Policy;
use midge_runtime::Clock;
use midge_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Sessions that are opened at one time: what others do on the same thread stands behind these few, however many come.
const OPENINGS: usize = 2;

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
    /// Methods of enhanced authentication; without it none is offered (0x8C).
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// What is published below `$SYS/midge/` besides what the broker itself knows: topic levels and value.
    pub facts: Facts,
}

/// Values of other parts for `$SYS`, asked for at each interval.
pub type Facts = Arc<dyn Fn() -> Vec<(&'static str, String)> + Send + Sync>;

/// A running MQTT server.
pub struct Server {
    pub(crate) hub: Hub,
    pub(crate) parts: Parts,
    pub(crate) limits: Limits,
    pub(crate) listeners: Listeners,
    pub(crate) arrivals: Arc<Arrivals>,
    /// Sockets that may be open, arrivals and connections together.
    pub(crate) sockets: Arc<Semaphore>,
    /// Turns of those who open a session.
    pub(crate) openings: Arc<Semaphore>,
    /// Origins of web pages that may connect over WebSocket.
    pub(crate) origins: Vec<String>,
    pub(crate) tasks: TaskTracker,
    pub(crate) threads: Threads,
    sys_interval: Option<Duration>,
}

impl Server {
    /// Returns a server that serves nothing yet, with the sessions and messages that its store holds.
    ///
    /// # Errors
    /// When the store cannot be read, or no thread can be started.
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
        let sources = (parts.clock.clone(), parts.audit.clone());
        let hub = Hub::new(core, policy, sources, parts.authenticator.clone());
        let restored = hub.restore(records);
        let Restored {
            sessions, subscriptions, subscriptions_denied, queued, retained, wills, orphans, ..
        } = restored;
        tracing::info!(
            sessions,
            subscriptions,
            subscriptions_denied,
            queued,
            retained,
            wills,
            orphans,
            "MQTT state restored"
        );
        let arrivals_max = usize::try_from(config.arrivals_max).unwrap_or(usize::MAX);
        let connections_max = usize::try_from(config.connections_max).unwrap_or(usize::MAX);
        let turns = usize::from(config.handshakes_max);
        let connect_timeout = Duration::from_secs(config.connect_timeout_secs.into());
        Ok(Self {
            hub,
            limits: Limits {
                codec: config.codec(),
                unread_timeout: Duration::from_secs(config.unread_timeout_secs.into()),
                flushed_bytes: flushed_bytes(config),
            },
            listeners: Listeners::new(&config.subscribe_mode),
            arrivals: Arrivals::new(arrivals_max, connect_timeout, turns),
            openings: Arc::new(Semaphore::new(OPENINGS)),
            sockets: Arc::new(Semaphore::new(permits(arrivals_max.saturating_add(connections_max)))),
            origins: config.websocket_origins.clone(),
            parts,
            tasks: TaskTracker::new(),
            threads: Threads::start(config.threads)?,
            sys_interval: (config.sys_interval_secs > 0)
                .then(|| Duration::from_secs(config.sys_interval_secs.into())),
        })
    }

    /// Returns the hub, for status and metrics.
    pub fn hub(&self) -> Hub {
        self.hub.clone()
    }

    /// Serves until `token` is cancelled, then drains: 5.0 clients get DISCONNECT 0x8B, wills wait for the next start.
    ///
    /// # Errors
    /// When a listener fails for good.
    pub async fn serve(self, mut bound: Bound, token: CancellationToken) -> anyhow::Result<()> {
        let this = Arc::new(self);
        let persister = this.parts.store.clone().map(|store| tokio::spawn(persister::run(this.hub(), store)));
        // Entries may have ended while nobody served.
        this.hub.re_admit_all(&*this.parts.admission);
        let keeping = this.keep();
        let unix_name = bound.unix_name.take();
        let mut welcoming = this.welcome_all(bound);
        let served = tokio::select! {
            // First: when the process stops, the feeds below may end before this is seen.
            biased;
            () = token.cancelled() => Ok(()),
            ended = &mut welcoming => ended.context("what takes arrivals ended").flatten(),
            ended = keeping => ended,
            () = sys::publish(&this.hub, &this.parts, this.sys_interval) => Ok(()),
            result = this.follow_policy() => result,
            result = this.follow_admission() => result,
        };
        this.arrivals.close();
        // Nobody is taken any more from here on.
        let welcomed = if welcoming.is_finished() {
            Ok(())
        } else {
            welcoming.await.context("what takes arrivals ended").flatten()
        };
        this.hub.drain();
        this.tasks.close();
        this.tasks.wait().await;
        this.hub.end_storing();
        if let Some(persister) = persister {
            persister.await.context("the persister ended")??;
        }
        drop(unix_name);
        // At a stop its sources may end before it does.
        if token.is_cancelled() { Ok(()) } else { served.and(welcomed) }
    }

    /// Takes whoever comes, where arrivals are dealt with, until these are closed.
    fn welcome_all(self: &Arc<Self>, bound: Bound) -> AbortOnDropHandle<anyhow::Result<()>> {
        let this = Arc::clone(self);
        let task = self.threads.arrivals().spawn(async move {
            tokio::select! {
                () = this.arrivals.closed() => Ok(()),
                result = this.accept(bound.tls, Way::Tls) => result,
                result = this.accept(bound.tcp, Way::Tcp) => result,
                result = this.accept(bound.websocket_tls, Way::WebsocketTls) => result,
                result = this.accept(bound.websocket_loopback, Way::WebsocketLoopback) => result,
                result = this.accept_unix(bound.unix) => result,
            }
        });
        AbortOnDropHandle::new(task)
    }

    /// Keeps time and clears the backlog, where the core is entered most: elsewhere each portion would fight for it.
    fn keep(&self) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let (timing, clearing) = (self.hub(), self.hub());
        let task = self.threads.first().handle().spawn(async move {
            tokio::join!(timing.keep_time(), clearing.clear_backlog());
        });
        let task = AbortOnDropHandle::new(task);
        async { task.await.context("what keeps time ended") }
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
        let mut roots = None;
        loop {
            changes.changed().await.context("admission source ended")?;
            let standing = *changes.borrow_and_update();
            if roots.replace(standing.roots) == Some(standing.roots) {
                self.hub.re_admit_attested(&*self.parts.admission);
            } else {
                self.hub.re_admit_all(&*self.parts.admission);
            }
        }
    }
}

/// A connection that is held back for its unsent bytes has to be heard of before it has none.
fn flushed_bytes(config: &MqttConfig) -> usize {
    usize::try_from(config.limits.unsent_bytes_soft / 2).map_or(FLUSHED_BYTES, |half| half.min(FLUSHED_BYTES))
}

fn permits(count: usize) -> usize {
    count.min(Semaphore::MAX_PERMITS)
}
