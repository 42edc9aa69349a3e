//! The edge end: enrolment, the websocket to the cloud, and what of it is on disk.

mod actor;
mod changes;
mod dial;
mod enrol;
mod host;
mod identity;
mod renewal;
mod spooling;
mod status;

pub use changes::{CURSOR_KEY, SplitChanges, split_changes};
pub use dial::DialError;
pub use enrol::{EnrolConfig, EnrolError, EnrolmentToken, enrol};
pub use host::EdgeHost;
pub use identity::{NodeIdentity, NodeIdentityError};
pub use status::LinkStatus;

use crate::limits::PROJECT_ID_DEFAULT;
use crate::tick::Tick;
use actor::Actor;
use bridge_core::{EdgeConfig, EdgeSync, Limits, Spool, SpoolLimits, UpwardItem};
use midge_runtime::{CancellationToken, Clock};
use midge_store::{Store, StoreError};
use spooling::Spooling;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

const SPOOL_PREFIX: &str = "spool/";
/// Reports that wait for the disk; whoever pushes waits when it is full.
const PUSHES_MAX: usize = 256;
/// Reports stored in one commit.
const TAKEN_MAX: usize = 256;

/// Where the cloud is, and how the edge behaves.
#[derive(Clone, Debug)]
pub struct EdgeHubConfig {
    /// Host and port of the cloud's websocket.
    pub server: String,
    /// Project in the URL and the header.
    pub project: String,
    /// Caps of what waits to go up.
    pub spool: SpoolLimits,
    /// Periods and windows of the channel.
    pub limits: Limits,
    /// Longest pause between two tries to connect.
    pub reconnect_max: Duration,
}

impl EdgeHubConfig {
    /// Returns the defaults for a cloud at `server` (`host:port`).
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            project: PROJECT_ID_DEFAULT.to_owned(),
            spool: SpoolLimits::default(),
            limits: Limits::default(),
            reconnect_max: Duration::from_secs(30),
        }
    }
}

/// What the edge end works on.
pub struct EdgeHubParts {
    /// Who applies changes and installs CAs.
    pub host: Arc<dyn EdgeHost>,
    /// Store of the box; the spool lives in it.
    pub store: Store,
    /// Wall clock.
    pub clock: Clock,
}

/// Why the edge end cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EdgeHubError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spool on disk.
    #[error("{0}: restore the store from a backup, or delete the key")]
    Spool(String),
    /// The host cannot tell its cursor.
    #[error("cannot read how far the cloud's changes have been applied: {0}")]
    Cursor(String),
}

/// Why a report was not taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PushError {
    /// The disk.
    #[error("the report is not on disk: {0}")]
    Disk(String),
    /// The edge end has ended.
    #[error("the channel to the cloud is stopping")]
    Stopping,
}

/// A report and who waits for it to be on disk.
pub(crate) struct Push {
    item: UpwardItem,
    done: oneshot::Sender<Result<(), PushError>>,
}

/// The edge end, ready to take reports, and to run once the box has an identity.
pub struct EdgeHub {
    config: EdgeHubConfig,
    parts: EdgeHubParts,
    sync: EdgeSync,
    spooling: Spooling,
    tick: Tick,
    pushes: mpsc::Receiver<Push>,
    status: watch::Sender<LinkStatus>,
    handle: EdgeHubHandle,
}

/// Talks to a running edge end. Clones share it.
#[derive(Clone, Debug)]
pub struct EdgeHubHandle {
    pushes: mpsc::Sender<Push>,
    status: watch::Receiver<LinkStatus>,
}

impl EdgeHub {
    /// Reads cursor and spool from disk.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn open(config: EdgeHubConfig, parts: EdgeHubParts) -> Result<Self, EdgeHubError> {
        let cursor = parts.host.cursor().await.map_err(EdgeHubError::Cursor)?;
        let records = parts.store.scan(SPOOL_PREFIX).await?;
        let records =
            records.into_iter().map(|(key, value)| (key.trim_start_matches(SPOOL_PREFIX).to_owned(), value));
        let id = uuid::Uuid::new_v4().simple().to_string();
        let spool = Spool::restore(id, config.spool, records).map_err(EdgeHubError::Spool)?;
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let sync = EdgeSync::new(EdgeConfig { limits: config.limits.clone(), seed }, cursor, spool);
        let (pushes, to_spool) = mpsc::channel(PUSHES_MAX);
        let (status, seen) = watch::channel(LinkStatus::starting(parts.clock.now()));
        let handle = EdgeHubHandle { pushes, status: seen };
        let (spooling, tick) = (Spooling::new(parts.store.clone()), Tick::new(parts.clock.clone()));
        Ok(Self { config, parts, sync, spooling, tick, pushes: to_spool, status, handle })
    }

    /// Returns a way to talk to it.
    pub fn handle(&self) -> EdgeHubHandle {
        self.handle.clone()
    }

    /// Takes reports while something else goes on, such as the enrolment without which there is no channel.
    pub async fn spool_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            let mut pushes = Vec::new();
            tokio::select! {
                done = &mut work => return done,
                // It does not end: this end has a handle too.
                _ = self.pushes.recv_many(&mut pushes, TAKEN_MAX) => {
                    self.spooling.take(&mut self.sync, &self.tick, pushes).await;
                }
            }
        }
    }

    /// Keeps the channel up until the token is cancelled. A cloud that cannot be reached, lies or
    /// talks nonsense is shown in the status and tried again.
    pub async fn run(self, identity: Arc<NodeIdentity>, token: CancellationToken) {
        Actor::new(self, identity).run(token).await;
    }
}

impl EdgeHubHandle {
    /// Hands a report up. Once this returns it is on disk, and it is sent until the cloud has it.
    ///
    /// # Errors
    /// The disk failed, or the edge end has ended: the report is not kept, and whoever pushes keeps it to push it again.
    pub async fn push(&self, item: UpwardItem) -> Result<(), PushError> {
        let (done, result) = oneshot::channel();
        self.pushes.send(Push { item, done }).await.map_err(|_| PushError::Stopping)?;
        result.await.map_err(|_| PushError::Stopping)?
    }

    /// State of the connection, whenever it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }
}
