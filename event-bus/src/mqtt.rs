//! The connection to the broker: made with the current SVID, made anew when the SVID is rotated,
//! with one session over all connections.

use crate::{EventBusConfig, RECEIVE_MAX};
use bridge_core::twin::subscriptions;
use midge_pki::{IdentitySource, ServerExpectation, SvidIdentity, TrustSource, client_config, rejection_of};
use midge_runtime::{Backoff, CancellationToken};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that wait for the broker.
const REQUESTS_MAX: usize = 1024;
/// QoS 1 messages to the broker before the first is acknowledged: rumqttc allocates a slot for each.
const INFLIGHT_MAX: u16 = 64;
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
const IDENTITY_CHECK_EVERY: Duration = Duration::from_millis(250);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// State of the connection to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusStatus {
    /// The broker has accepted the connection and all subscriptions.
    pub connected: bool,
    /// Last failure; gone once things work again.
    pub last_error: Option<String>,
    /// Connections made since the start; one more at each rotation of the SVID.
    pub connections: u64,
}

/// What the connection tells the actor.
pub(crate) enum Incoming {
    /// The broker is there (again).
    Connected,
    /// Somebody published.
    Publish(Delivery),
}

/// A message and the number of the connection that brought it.
pub(crate) struct Delivery {
    pub(crate) publish: Box<Publish>,
    pub(crate) over: u64,
}

pub(crate) struct Connection {
    events: EventLoop,
    client: AsyncClient,
    identity: Arc<dyn IdentitySource>,
    /// SVID that the current connection was made with.
    used: watch::Sender<Option<Arc<SvidIdentity>>>,
    filters: Vec<String>,
    messages: mpsc::Sender<Incoming>,
    status: watch::Sender<BusStatus>,
    number: Arc<AtomicU64>,
}

impl Connection {
    pub(crate) fn new(
        config: &EventBusConfig,
        (identity, trust): (Arc<dyn IdentitySource>, Arc<dyn TrustSource>),
        messages: mpsc::Sender<Incoming>,
        status: watch::Sender<BusStatus>,
    ) -> (Self, AsyncClient) {
        let expected = ServerExpectation::Id(config.broker_id.clone());
        let tls = client_config(Some(Arc::clone(&identity)), trust, expected);
        let mut options =
            MqttOptions::new(&config.client_id, config.broker.ip().to_string(), config.broker.port());
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
            .set_keep_alive(config.keep_alive)
            .set_clean_start(false)
            .set_manual_acks(true)
            .set_pending_throttle(Duration::ZERO)
            .set_outgoing_inflight_upper_limit(INFLIGHT_MAX);
        let expiry = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
        options.set_session_expiry_interval(Some(expiry));
        options.set_receive_maximum(Some(RECEIVE_MAX));
        options.set_max_packet_size(Some(PACKET_BYTES_MAX));
        let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
        let connection = Self {
            events,
            client: client.clone(),
            identity,
            used: watch::Sender::new(None),
            filters: subscriptions(&config.node),
            messages,
            status,
            number: Arc::default(),
        };
        (connection, client)
    }

    /// Number of the connection that there is.
    pub(crate) fn number(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.number)
    }

    pub(crate) async fn run(mut self, token: CancellationToken) {
        let watched = watch_identity(
            Arc::clone(&self.identity),
            self.used.subscribe(),
            self.client.clone(),
            token.clone(),
        );
        let serve = async {
            tokio::select! {
                () = self.serve(&token) => {}
                () = long_after(&token) => {}
            }
        };
        tokio::join!(serve, watched);
    }

    async fn serve(&mut self, token: &CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
        while self.wait_for_identity(token).await {
            match self.events.poll().await {
                Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                    // In order: what is not acknowledged is sent again on the next connection.
                    self.events.clean();
                    self.used.send_replace(None);
                    if token.is_cancelled() {
                        return;
                    }
                }
                Ok(Event::Incoming(packet)) => {
                    if matches!(packet, Packet::ConnAck(_)) {
                        backoff.reset();
                    }
                    self.handle(packet).await;
                }
                Ok(Event::Outgoing(_)) => {}
                Err(error) => {
                    self.used.send_replace(None);
                    self.failed(explain(&error));
                    if !backoff.wait(token).await {
                        return;
                    }
                }
            }
        }
    }

    // Before the first CA there is no SVID, and nothing to connect with.
    async fn wait_for_identity(&mut self, token: &CancellationToken) -> bool {
        while self.used.borrow().is_none() {
            let current = self.identity.current();
            if current.is_some() {
                self.used.send_replace(current);
            } else {
                self.failed("waiting for the box's first certificate".to_owned());
                let pause = tokio::time::sleep(IDENTITY_CHECK_EVERY);
                if token.run_until_cancelled(pause).await.is_none() {
                    return false;
                }
            }
        }
        true
    }

    async fn handle(&mut self, packet: Packet) {
        match packet {
            Packet::ConnAck(_) => {
                self.number.fetch_add(1, Ordering::Relaxed);
                let filters =
                    self.filters.iter().map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce));
                if let Err(error) = self.client.try_subscribe_many(filters) {
                    self.failed(format!("cannot subscribe: {error}"));
                }
                self.forward(Incoming::Connected).await;
            }
            Packet::SubAck(ack) => {
                let refused: Vec<&str> = (self.filters.iter().zip(&ack.return_codes))
                    .filter(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)))
                    .map(|(filter, _)| filter.as_str())
                    .collect();
                if refused.is_empty() {
                    self.status.send_modify(|status| {
                        let connections = status.connections.saturating_add(1);
                        *status = BusStatus { connected: true, last_error: None, connections };
                    });
                    tracing::info!("connected to the broker");
                } else {
                    let reason = format!(
                        "the broker refuses subscriptions of the event bus: {}: grant them to it in the policy",
                        refused.join(", ")
                    );
                    self.failed(reason);
                }
            }
            Packet::Publish(publish) => {
                let (publish, over) = (Box::new(publish), self.number.load(Ordering::Relaxed));
                self.forward(Incoming::Publish(Delivery { publish, over })).await;
            }
            _ => {}
        }
    }

    async fn forward(&mut self, incoming: Incoming) {
        // The actor is gone only when the bus is stopping.
        drop(self.messages.send(incoming).await);
    }

    fn failed(&self, reason: String) {
        self.status.send_if_modified(|status| {
            if !status.connected && status.last_error.as_ref() == Some(&reason) {
                return false;
            }
            // Who shows the status tells of it.
            tracing::debug!(reason, "not connected to the broker");
            status.connected = false;
            status.last_error = Some(reason);
            true
        });
    }
}

/// Ends the connection in order when its SVID has been replaced, well before the old one expires,
/// or when the bus stops. The broker's session carries over what is on its way.
async fn watch_identity(
    identity: Arc<dyn IdentitySource>,
    mut used: watch::Receiver<Option<Arc<SvidIdentity>>>,
    client: AsyncClient,
    token: CancellationToken,
) {
    while token.run_until_cancelled(tokio::time::sleep(IDENTITY_CHECK_EVERY)).await.is_some() {
        let in_use = used.borrow_and_update().clone();
        let rotated = match (in_use, identity.current()) {
            (Some(used), Some(current)) => !Arc::ptr_eq(&used, &current),
            _ => false,
        };
        if rotated && client.try_disconnect().is_ok() {
            // Nothing to watch until the next connection is made.
            let _ended = token.run_until_cancelled(used.changed()).await;
        }
    }
    // A full queue means that the broker is away.
    drop(client.try_disconnect());
}

/// A broker that does not take the goodbye is not waited for.
async fn long_after(token: &CancellationToken) {
    token.cancelled().await;
    tokio::time::sleep(GOODBYE_TIMEOUT).await;
}

fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Tls(rumqttc::TlsError::Io(error)) => {
            let reason = rejection_of(error).map_or_else(|| error.to_string(), ToString::to_string);
            format!("no TLS with the broker: {reason}")
        }
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refuses the event bus: {code:?}")
        }
        other => format!("no connection with the broker: {other}"),
    }
}
