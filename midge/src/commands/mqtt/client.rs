//! One MQTT 5 client over all its connections.

use super::address::Address;
use super::at;
use super::identity::{Followed, Renewals};
use super::options::{Session, WINDOW, options, transport};
use super::trouble::{Stage, Trouble};
use crate::cli::MqttTarget;
use crate::exit;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Requests that may wait: a window of messages, their acknowledgements, and a few words more.
const REQUESTS_MAX: usize = 3 * WINDOW as usize;
/// Events that may wait; with more, reading from the broker pauses.
const EVENTS_MAX: usize = 64;
/// Longest time for the broker to close the connection after DISCONNECT.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the broker said when it accepted the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Welcome {
    pub(super) session_present: bool,
    /// Messages it takes at once.
    pub(super) window: u16,
}

/// A client that can be connected again and again.
pub(super) struct Client {
    address: Address,
    eventloop: Arc<Mutex<EventLoop>>,
    requests: AsyncClient,
    events: mpsc::Receiver<Result<Event, ConnectionError>>,
    driver: Option<AbortOnDropHandle<()>>,
    identity: Option<Followed>,
    /// The identity asked for where the kernel proves it.
    chosen: Option<String>,
    /// QoS 2 messages taken whose PUBREL has not come.
    unreleased: BTreeSet<u16>,
    /// Those whose PUBREL has come; it comes again when the PUBCOMP was lost with the connection.
    released: BTreeSet<u16>,
}

impl Client {
    /// Gets the identity and prepares the connection that the arguments ask for.
    pub(super) async fn open(target: &MqttTarget, session: Session) -> anyhow::Result<Self> {
        let address = Address::parse(&target.broker)?;
        let mut options = options(target, &address, session)?;
        let identity = match &address {
            Address::Tls { .. } => {
                let followed = Followed::obtain(target).await?;
                options.set_transport(transport(target, &followed)?);
                Some(followed)
            }
            Address::Tcp { .. } => None,
            Address::Unix(_) => {
                options.set_transport(Transport::unix());
                None
            }
        };
        if let (None, Some(id)) = (&identity, &target.spiffe_id) {
            options.set_credentials(id, "");
        }
        let (requests, eventloop) = AsyncClient::new(options, REQUESTS_MAX);
        let (_, events) = mpsc::channel(1);
        Ok(Self {
            address,
            eventloop: Arc::new(Mutex::new(eventloop)),
            requests,
            events,
            driver: None,
            identity,
            chosen: target.spiffe_id.clone(),
            unreleased: BTreeSet::new(),
            released: BTreeSet::new(),
        })
    }

    pub(super) fn renewals(&self) -> Renewals {
        Renewals::of(self.identity.as_ref())
    }

    /// Who this client is, as far as it knows.
    pub(super) fn id(&self) -> Option<String> {
        match &self.identity {
            Some(followed) => followed.identity.id().map(|id| id.to_string()),
            None => self.chosen.clone(),
        }
    }

    /// Waits until there is an identity to connect with.
    pub(super) async fn usable(&self) {
        if let Some(followed) = &self.identity {
            followed.identity.usable().await;
        }
    }

    /// Connects, again if there was a connection before.
    pub(super) async fn connect(&mut self) -> Result<Welcome, Trouble> {
        if let Some(driver) = self.driver.take() {
            driver.abort();
            // Once it has ended, however, the event loop is free.
            drop(driver.await);
        }
        let mut eventloop = Arc::clone(&self.eventloop).lock_owned().await;
        forget_connection(&mut eventloop);
        let answer = loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(answer))) => break answer,
                Ok(_) => {}
                Err(error) => return Err(self.not_connected(&error)),
            }
        };
        eventloop.options.set_clean_start(false);
        if !answer.session_present {
            self.unreleased.clear();
            self.released.clear();
        }
        for packet_id in self.unreleased.union(&self.released) {
            expect_release(&mut eventloop.state, *packet_id);
        }
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        self.events = events;
        self.driver = Some(AbortOnDropHandle::new(tokio::spawn(drive(eventloop, sender))));
        let window = answer.properties.and_then(|properties| properties.receive_max);
        Ok(Welcome {
            session_present: answer.session_present,
            window: window.unwrap_or(WINDOW).clamp(1, WINDOW),
        })
    }

    fn not_connected(&self, error: &ConnectionError) -> Trouble {
        let Trouble { code, reason } = Trouble::of(error, Stage::Connecting);
        let expired = self.identity.as_ref().and_then(|followed| followed.identity.expired_for());
        let expired =
            expired.map(|ago| format!("; the SVID expired {} ago", crate::output::span(ago.as_secs())));
        Trouble::new(code, format!("{}: {reason}{}", self.address, expired.unwrap_or_default()))
    }

    /// Waits for what happens next on the connection.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        let event = match self.events.recv().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(Trouble::of(&error, Stage::Connected)),
            None => return Err(Trouble::new(exit::UNAVAILABLE, "there is no connection")),
        };
        if let Event::Incoming(Packet::PubRel(release)) = &event {
            self.unreleased.remove(&release.pkid);
            self.released.insert(release.pkid);
        }
        Ok(event)
    }

    /// Tells whether this message was not taken before; a QoS 2 message may come again until it is released.
    pub(super) fn is_new(&mut self, publish: &Publish) -> bool {
        publish.qos != QoS::ExactlyOnce || self.unreleased.insert(publish.pkid)
    }

    pub(super) fn acknowledge(&self, publish: &Publish) -> Result<(), Trouble> {
        self.requests.try_ack(publish).map_err(|_| overrun())
    }

    pub(super) fn subscribe(&self, filters: &[String], qos: QoS) -> Result<(), Trouble> {
        let filters = filters.iter().map(|filter| Filter::new(filter, qos));
        self.requests.try_subscribe_many(filters).map_err(|_| overrun())
    }

    pub(super) fn publish(
        &self,
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: Vec<u8>,
    ) -> Result<(), Trouble> {
        self.requests.try_publish(topic, qos, retain, payload).map_err(|_| overrun())
    }

    /// Asks for a DISCONNECT, which keeps the session and takes back the will.
    pub(super) fn leave(&self) {
        // Where there is no room for it there is no connection worth a farewell.
        drop(self.requests.try_disconnect());
    }

    /// Says goodbye and waits until the broker has closed the connection, or long enough.
    pub(super) async fn close(&mut self) {
        self.leave();
        let by = Instant::now().checked_add(CLOSE_WITHIN);
        tokio::select! {
            () = async { while self.next().await.is_ok() {} } => {}
            () = at(by) => {}
        }
    }
}

/// Polls one connection to its end. A poll that is dropped half-way could lose a packet, so nobody
/// else waits for it.
async fn drive(
    mut eventloop: OwnedMutexGuard<EventLoop>,
    events: mpsc::Sender<Result<Event, ConnectionError>>,
) {
    loop {
        match eventloop.poll().await {
            Ok(event) => {
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // What came in with the end of the connection comes before it.
                for event in std::mem::take(&mut eventloop.state.events) {
                    if events.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                // Nobody listens only when the client is gone.
                drop(events.send(Err(error)).await);
                return;
            }
        }
    }
}

/// Removes what was meant for the connection before: acknowledgements, and the DISCONNECT above all.
fn forget_connection(eventloop: &mut EventLoop) {
    eventloop.clean();
    eventloop.pending.clear();
    eventloop.state.collision = None;
    eventloop.state.events.clear();
}

/// rumqttc forgets with each connection which QoS 2 messages were taken, and would call the PUBREL
/// of such a message a breach of the protocol. Here it is told of it again.
fn expect_release(state: &mut MqttState, packet_id: u16) {
    let mut publish = Publish::new("", QoS::ExactlyOnce, Vec::new(), None);
    publish.pkid = packet_id;
    // With acknowledgements by hand this answers nothing and cannot fail.
    drop(state.handle_incoming_packet(Packet::Publish(publish)));
    state.events.clear();
}

fn overrun() -> Trouble {
    Trouble::new(exit::INTERNAL, "the broker sends more at once than it was told to")
}
