//! A mapper's connection as the mapper sees it: what it may send, and what happens to it. `link_task.rs` keeps it.

use crate::identity::WorkloadIdentity;
use crate::link_task::LinkTask;
use crate::outbox::{Outbox, Publication};
use bytes::Bytes;
use midge_identity::SpiffeId;
use midge_pki::{ServerExpectation, client_config};
use midge_runtime::CancellationToken;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::LastWill;
use rumqttc::v5::{AsyncClient, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Publications that may wait while there is no connection. A further one is refused.
const QUEUE_MAX: usize = 256;
/// Events that may wait for the mapper. With more, reading from the broker pauses.
const EVENTS_MAX: usize = 64;
/// Publications on their way at once; rumqttc keeps a slot for each from the start.
pub(crate) const IN_FLIGHT_MAX: u16 = 32;
/// Largest packet in either direction, in bytes.
const PACKET_BYTES_MAX: u32 = 256 * 1024;
/// Longest time for a connection to be established, in seconds, TLS and CONNACK included.
const CONNECT_SECS_MAX: u64 = 5;
/// Shortest keep alive that rumqttc takes.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// Which broker, and as what.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Host name or address of the broker.
    pub host: String,
    /// Its mTLS port.
    pub port: u16,
    /// SPIFFE ID that the broker must prove.
    pub broker: SpiffeId,
    /// MQTT client id; unique among the clients of this identity.
    pub client_id: String,
    /// Filters to subscribe at QoS 1.
    pub subscriptions: Vec<String>,
    /// What the broker is to publish when the connection is lost.
    pub will: Option<Will>,
    /// How long the broker keeps the session while there is no connection; it bridges renewals.
    pub session_expiry: Duration,
    /// Longest silence on a live connection; at least five seconds.
    pub keep_alive: Duration,
}

/// A message the broker publishes, at QoS 1, when a connection ends without DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
}

impl LinkConfig {
    /// Returns a configuration with a session of five minutes and a keep alive of 15 seconds.
    pub fn new(host: impl Into<String>, port: u16, broker: SpiffeId, client_id: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            broker,
            client_id: client_id.into(),
            subscriptions: Vec::new(),
            will: None,
            session_expiry: Duration::from_secs(300),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// What happens on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected and subscribed.
    Connected {
        /// Whether the broker still had the session, so that nothing was missed.
        resumed: bool,
    },
    /// A message.
    Message {
        /// Topic it was published on.
        topic: String,
        /// Content.
        payload: Bytes,
    },
    /// The broker refused a subscription.
    SubscriptionRefused {
        /// Filter.
        filter: String,
        /// The broker's reason.
        reason: String,
    },
    /// The broker refused a publication; it is not sent again.
    PublishRefused {
        /// Topic.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
    /// The connection is being made anew with a renewed SVID.
    Renewing,
    /// There is no connection; the link tries again by itself.
    Disconnected {
        /// Why.
        reason: String,
    },
}

/// Why a publication was not queued.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Too many wait already.
    #[error("{QUEUE_MAX} publications are waiting for the broker already")]
    QueueFull,
    /// The link has stopped.
    #[error("the link has stopped")]
    Stopped,
    /// No topic name.
    #[error("topic {0:?} is empty or has a wildcard")]
    Topic(String),
    /// Larger than this link sends.
    #[error("publication of {0} bytes is larger than {PACKET_BYTES_MAX}")]
    TooLarge(usize),
}

/// An MQTT 5 connection to the broker that lives as long as the workload's identity: made again
/// after every failure, and with the new SVID before the old one ends. Publications at QoS 1
/// survive both. Dropping it cuts the connection; cancelling its token ends it with DISCONNECT.
pub struct Link {
    publications: mpsc::Sender<Publication>,
    events: mpsc::Receiver<LinkEvent>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Starts connecting.
    pub fn open(config: LinkConfig, identity: Arc<WorkloadIdentity>, token: CancellationToken) -> Self {
        let tls = client_config(
            Some(identity.clone()),
            identity.clone(),
            ServerExpectation::Id(config.broker.clone()),
        );
        let (client, mut eventloop) = AsyncClient::new(options(&config), usize::from(IN_FLIGHT_MAX) + 1);
        eventloop.options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        let (publications, queue) = mpsc::channel(QUEUE_MAX);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let task = LinkTask {
            eventloop,
            client,
            subscriptions: config.subscriptions,
            changes: identity.changes(),
            identity,
            publications: queue,
            events: sender,
            outbox: Outbox::default(),
            window: usize::from(IN_FLIGHT_MAX),
        };
        Self { publications, events, _task: AbortOnDropHandle::new(tokio::spawn(task.run(token))) }
    }

    /// Waits for what happens next; none once the link has stopped.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        self.events.recv().await
    }

    /// Queues a publication at QoS 1; it is sent until the broker acknowledges or refuses it.
    ///
    /// # Errors
    /// Refuses what no broker would take, and everything when the queue is full or the link has stopped.
    pub fn publish(&self, topic: impl Into<String>, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        let (topic, payload) = (topic.into(), payload.into());
        if topic.is_empty() || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::Topic(topic));
        }
        let bytes = topic.len().saturating_add(payload.len());
        if bytes > PACKET_BYTES_MAX as usize {
            return Err(PublishError::TooLarge(bytes));
        }
        self.publications.try_send(Publication { topic, payload }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => PublishError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => PublishError::Stopped,
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").finish_non_exhaustive()
    }
}

fn options(config: &LinkConfig) -> MqttOptions {
    let mut options = MqttOptions::new(&config.client_id, &config.host, config.port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let expiry_secs = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
    options
        .set_network_options(network)
        .set_connection_timeout(CONNECT_SECS_MAX)
        .set_keep_alive(config.keep_alive.max(KEEP_ALIVE_MIN))
        .set_clean_start(true)
        .set_session_expiry_interval(Some(expiry_secs))
        .set_max_packet_size(Some(PACKET_BYTES_MAX))
        .set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
    if let Some(will) = &config.will {
        options.set_last_will(LastWill::new(
            &will.topic,
            will.payload.clone(),
            QoS::AtLeastOnce,
            false,
            None,
        ));
    }
    options
}
