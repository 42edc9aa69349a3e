//! The cloud end: node bootstrap over HTTPS, the websocket of each node, its log of changes, devices
//! and rules.

mod audit;
mod bootstrap;
mod devices;
mod error;
mod events;
mod handshakes;
mod listen;
mod reports;
mod session;
mod sessions;
mod shared_resources;
mod synclog;

pub use audit::AuditSink;
pub(crate) use bootstrap::PEM_CHAIN;
pub use devices::Desired;
pub use error::HubError;
pub use events::{EventId, InvalidEventId, NodeEvent};
pub use sessions::NodeSession;
pub use shared_resources::HandedRule;
pub use synclog::{SyncLogError, SyncLogs};

use devices::DeviceIndex;
use events::Events;
use issuer_core::NodeProof;
use midge_identity::{CertificateFacts, cloud_hub_id};
use midge_issuer::{IssueError, Issuer};
use midge_pki::{CurrentIdentity, RootPin};
use midge_runtime::{CancellationToken, Clock};
use midge_store::Store;
use sessions::Sessions;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Where the hub listens, and how many it serves.
#[derive(Clone, Debug)]
pub struct CloudHubConfig {
    /// Websocket of the nodes; KubeEdge's port is 10000.
    pub websocket: SocketAddr,
    /// HTTPS bootstrap; KubeEdge's port is 10002.
    pub bootstrap: SocketAddr,
    /// Nodes connected at once; KubeEdge's `nodeLimit`.
    pub sessions_max: usize,
    /// Periods and windows of the channel.
    pub limits: bridge_core::Limits,
    /// Events kept of each node, as many as it keeps for the cloud; the oldest go first.
    pub events: bridge_core::SpoolLimits,
}

impl Default for CloudHubConfig {
    fn default() -> Self {
        Self {
            websocket: SocketAddr::from(([0, 0, 0, 0], 10_000)),
            bootstrap: SocketAddr::from(([0, 0, 0, 0], 10_002)),
            sessions_max: 10_000,
            limits: bridge_core::Limits::default(),
            events: bridge_core::SpoolLimits::default(),
        }
    }
}

/// What the hub works on.
#[derive(Clone)]
pub struct CloudHubParts {
    /// Identity server of the cloud, opened with [`SyncLogs`] as its mutation log.
    pub issuer: Issuer,
    /// Those logs.
    pub logs: SyncLogs,
    /// The cloud's store.
    pub store: Store,
    /// Wall clock.
    pub clock: Clock,
    /// Where the audit logs of nodes go; without it they stay at the nodes.
    pub audit: Option<Arc<dyn AuditSink>>,
}

/// The cloud's end of all channels. Clones share it.
#[derive(Clone)]
pub struct CloudHub {
    shared: Arc<Shared>,
}

struct Shared {
    config: CloudHubConfig,
    parts: CloudHubParts,
    identity: Arc<CurrentIdentity>,
    sessions: Sessions<NodeProof>,
    devices: DeviceIndex,
    events: Events,
    websocket: TcpListener,
    bootstrap: TcpListener,
}

impl CloudHub {
    /// Binds both ports and reads the devices.
    ///
    /// # Errors
    /// A port is taken, the store cannot be read, or the hub's own SVID cannot be signed.
    pub async fn open(config: CloudHubConfig, parts: CloudHubParts) -> Result<Self, HubError> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| HubError::Bind { address, source })
        };
        let websocket = bind(config.websocket).await?;
        let bootstrap = bind(config.bootstrap).await?;
        let hub = cloud_hub_id(parts.issuer.trust_domain())?;
        let identity = parts.issuer.builtin_identity(&hub)?;
        let devices = DeviceIndex::read(&parts.store).await?;
        let sessions = Sessions::new(config.sessions_max);
        let events = Events::default();
        let shared = Shared { config, parts, identity, sessions, devices, events, websocket, bootstrap };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves until the token is cancelled.
    ///
    /// # Errors
    /// A listener fails for good.
    pub async fn run(&self, token: CancellationToken) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        let hub = self.clone();
        tasks.spawn(bootstrap::serve(hub, token.clone()));
        let hub = self.clone();
        tasks.spawn(listen::serve(hub, token.clone()));
        let (hub, until) = (self.clone(), token.clone());
        tasks.spawn(async move {
            until.run_until_cancelled(hub.watch()).await;
            Ok(())
        });
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(result) => result?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Address of the websocket's listener.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn websocket_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.websocket.local_addr()
    }

    /// Address of the bootstrap listener.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn bootstrap_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.bootstrap.local_addr()
    }

    /// Returns the text a box enrols with: the hash of the root it shall trust, and the join token.
    ///
    /// # Errors
    /// There is no root yet.
    pub fn enrolment_text(&self, join_token: &str) -> Result<String, HubError> {
        Ok(format!("{}.{join_token}", RootPin::of(&self.active_root()?)))
    }

    /// Nodes that are connected, or were since the start.
    pub fn sessions(&self) -> Vec<NodeSession> {
        self.shared.sessions.list()
    }

    // The root whose key signs now: the hub's own certificate leads to it.
    pub(crate) fn active_root(&self) -> Result<Vec<u8>, HubError> {
        let issuer = &self.shared.parts.issuer;
        let roots = issuer.roots();
        let serial = issuer.snapshot().ca.map(|ca| ca.serial);
        let signs = |root: &Vec<u8>| CertificateFacts::parse(root).ok().map(|facts| facts.serial) == serial;
        let active = roots.iter().find(|root| signs(root)).or(roots.last()).cloned();
        active.ok_or(HubError::Issue(IssueError::NoAuthority(issuer_core::LeaseReason::NoAuthority)))
    }

    /// Hands new bundles to connected nodes, and closes the sessions of nodes that were locked out or joined anew.
    async fn watch(&self) {
        let mut view = self.shared.parts.issuer.subscribe();
        let mut bundles = Arc::clone(&view.borrow_and_update().bundles);
        loop {
            tokio::select! {
                changed = self.shared.parts.logs.changed_nodes() => {
                    let issuer = &self.shared.parts.issuer;
                    for node in changed {
                        self.shared.sessions.ask_again(&node, |shown| issuer.admitted_node(shown).is_ok());
                    }
                }
                changed = view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = Arc::clone(&view.borrow_and_update().bundles);
                    if now != bundles {
                        bundles = now;
                        self.reconcile_connected().await;
                    }
                }
            }
        }
    }
}
