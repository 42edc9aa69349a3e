//! The MQTT client of the box: device membership, state and twin.
//!
//! Owns its connection to the box's own broker and the twins' place in the store. Leaves the rules
//! of twins to `bridge-core`, and the way to the cloud to whoever implements [`UpwardSink`].

mod actor;
mod error;
mod handle;
mod mqtt;
mod unsaved;

pub use error::{DeviceError, EventBusError};
pub use handle::EventBusHandle;
pub use mqtt::BusStatus;

use actor::Actor;
use async_trait::async_trait;
use bridge_core::UpwardItem;
use bridge_core::twin::TwinStore;
use midge_identity::SpiffeId;
use midge_pki::{IdentitySource, TrustSource};
use midge_runtime::{CancellationToken, Clock};
use midge_store::Store;
use mqtt::Connection;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use unsaved::Unsaved;

const TWIN_PREFIX: &str = "twin/";
/// Commands that wait; whoever commands waits when it is full.
const COMMANDS_MAX: usize = 64;
/// QoS 1 messages that the broker may send before the first is acknowledged. They are stored together.
const RECEIVE_MAX: u16 = 256;
/// Messages that were read and not handled: more than the broker may have unacknowledged.
const MESSAGES_MAX: usize = 1024;

/// Where the broker is, and whose bus this is.
#[derive(Clone, Debug)]
pub struct EventBusConfig {
    /// The broker's TLS listener, on loopback.
    pub broker: SocketAddr,
    /// SPIFFE ID that the broker must have.
    pub broker_id: SpiffeId,
    /// Name of the box.
    pub node: String,
    /// MQTT client id; client ids are private to each SPIFFE ID.
    pub client_id: String,
    /// MQTT keep alive.
    pub keep_alive: Duration,
    /// How long the broker keeps messages while the bus, or the box, is away.
    pub session_expiry: Duration,
}

impl EventBusConfig {
    /// Returns the defaults: client id `event-bus`, keep alive 30 s, session kept as long as the broker keeps any.
    pub fn new(broker: SocketAddr, broker_id: SpiffeId, node: impl Into<String>) -> Self {
        Self {
            broker,
            broker_id,
            node: node.into(),
            client_id: "event-bus".to_owned(),
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::from_secs(u32::MAX.into()),
        }
    }
}

/// What the bus works on.
pub struct EventBusParts {
    /// SVID of the bus; it connects once there is one, and again whenever it is rotated.
    pub identity: Arc<dyn IdentitySource>,
    /// Whom it trusts.
    pub trust: Arc<dyn TrustSource>,
    /// Store of the box; the twins live in it.
    pub store: Store,
    /// Wall clock.
    pub clock: Clock,
    /// Where reports for the cloud go.
    pub up: Arc<dyn UpwardSink>,
}

/// Takes reports for the cloud.
#[async_trait]
pub trait UpwardSink: Send + Sync + 'static {
    /// Takes a report; once this returns it is not lost. Errors are texts for `status`: then it is pushed again.
    async fn push(&self, item: UpwardItem) -> Result<(), String>;
}

/// For a box without a cloud: reports go nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCloud;

#[async_trait]
impl UpwardSink for NoCloud {
    async fn push(&self, _item: UpwardItem) -> Result<(), String> {
        Ok(())
    }
}

/// The event bus, ready to run.
pub struct EventBus {
    actor: Actor,
    connection: Connection,
    handle: EventBusHandle,
}

impl EventBus {
    /// Reads the twins from disk.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn open(config: EventBusConfig, parts: EventBusParts) -> Result<Self, EventBusError> {
        let mut twins = TwinStore::new(&config.node, uuid::Uuid::new_v4().as_u64_pair().0);
        for (key, value) in parts.store.scan(TWIN_PREFIX).await? {
            twins.restore(&value).map_err(|error| EventBusError::Record { key, error })?;
        }
        let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
        let (messages, to_handle) = mpsc::channel(MESSAGES_MAX);
        let (status, seen) = watch::channel(BusStatus::default());
        let (connection, client) =
            Connection::new(&config, (parts.identity, parts.trust), messages, status.clone());
        let number = connection.number();
        let actor = Actor {
            twins,
            store: parts.store,
            clock: parts.clock,
            up: parts.up,
            client,
            status,
            messages: to_handle,
            commands: to_do,
            connection: number,
            unsaved: Unsaved::default(),
        };
        Ok(Self { actor, connection, handle: EventBusHandle { commands, status: seen } })
    }

    /// Returns a way to talk to it.
    pub fn handle(&self) -> EventBusHandle {
        self.handle.clone()
    }

    /// Serves until the token is cancelled. A broker that is away or refuses is shown in the status
    /// and tried again.
    pub async fn run(self, token: CancellationToken) {
        drop(self.handle);
        tokio::join!(self.connection.run(token.clone()), self.actor.run(token));
    }
}
