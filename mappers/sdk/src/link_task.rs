//! The task behind a link: connects, renews, and sends what waits.

use crate::identity::WorkloadIdentity;
use crate::link::{IN_FLIGHT_MAX, LinkEvent};
use crate::outbox::{Outbox, Publication};
use midge_pki::{SvidIdentity, TrustSource as _};
use midge_runtime::{Backoff, CancellationToken};
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, Packet, PubAck, PubAckReason, SubAck, Subscribe, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Request, StateError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// Limits of the waits between connection attempts: the broker is on the same box or network.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A connection that lasted this long was a good one: the next failure is retried from the start.
const STABLE: Duration = Duration::from_secs(5);
/// Longest time for the broker to close the connection after DISCONNECT.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Longest time for publications to be acknowledged before a planned end.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// Renewals are spread over a tenth of the old SVID's remaining life, and at most this.
const RENEWAL_SPREAD_MAX: Duration = Duration::from_secs(30);

pub(crate) struct LinkTask {
    pub(crate) eventloop: EventLoop,
    pub(crate) client: AsyncClient,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) identity: Arc<WorkloadIdentity>,
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) publications: mpsc::Receiver<Publication>,
    pub(crate) events: mpsc::Sender<LinkEvent>,
    pub(crate) outbox: Outbox,
    /// Publications the broker takes at once.
    pub(crate) window: usize,
}

/// Why a connection ended.
enum End {
    Renewed,
    Stopped,
    Failed { reason: String, lasted: Duration },
}

/// Why the wait for an event ended.
enum Wake {
    Event(Box<Result<Event, ConnectionError>>),
    /// The broker did not close in time after DISCONNECT.
    Overdue,
}

/// What is to happen to a live connection, and when.
struct Plan {
    svid: Arc<SvidIdentity>,
    renew_at: Option<Instant>,
    /// Set once DISCONNECT is asked for: when to stop waiting for the broker to close.
    leave_by: Option<Instant>,
    stopping: bool,
    /// Set once stopping: when to stop waiting for acknowledgements.
    flush_by: Option<Instant>,
}

impl LinkTask {
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while let Some(svid) = self.usable_identity(&token).await {
            let end = match token.run_until_cancelled(self.connect()).await {
                None => return,
                Some(Err(error)) => End::Failed { reason: describe(&error), lasted: Duration::ZERO },
                Some(Ok(resumed)) => {
                    self.tell(LinkEvent::Connected { resumed }).await;
                    self.serve(svid, &token).await
                }
            };
            self.forget_connection();
            match end {
                End::Stopped => return,
                End::Renewed => self.tell(LinkEvent::Renewing).await,
                End::Failed { reason, lasted } => {
                    if lasted >= STABLE {
                        backoff.reset();
                    }
                    debug!(reason, "no connection to the broker");
                    self.tell(LinkEvent::Disconnected { reason }).await;
                    if !backoff.wait(&token).await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits for an SVID that the broker would accept; none when stopped.
    async fn usable_identity(&mut self, token: &CancellationToken) -> Option<Arc<SvidIdentity>> {
        let mut told = false;
        loop {
            self.changes.mark_unchanged();
            if let Some(svid) = self.identity.usable() {
                return (!token.is_cancelled()).then_some(svid);
            }
            if !told {
                self.tell(LinkEvent::Disconnected { reason: "no valid SVID".to_owned() }).await;
                told = true;
            }
            token.run_until_cancelled(self.changes.changed()).await?.ok()?;
        }
    }

    /// Connects; returns whether the broker had kept the session.
    async fn connect(&mut self) -> Result<bool, ConnectionError> {
        loop {
            // Messages that came in with the end of the connection before are still to be told.
            match self.eventloop.poll().await? {
                Event::Incoming(Packet::ConnAck(answer)) => return Ok(self.resume(&answer)),
                Event::Incoming(packet) => self.handle_packet(packet).await,
                Event::Outgoing(_) => {}
            }
        }
    }

    fn resume(&mut self, answer: &ConnAck) -> bool {
        let resumed = answer.session_present;
        let receive_max = answer.properties.as_ref().and_then(|properties| properties.receive_max);
        self.window = usize::from(receive_max.unwrap_or(IN_FLIGHT_MAX).clamp(1, IN_FLIGHT_MAX));
        self.eventloop.options.set_clean_start(false);
        if !resumed && !self.subscriptions.is_empty() {
            let filters = self.subscriptions.iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
            self.eventloop.pending.push_back(Subscribe::new_many(filters, None).into());
        }
        if !resumed {
            self.outbox.forget_ids();
        }
        resumed
    }

    fn forget_connection(&mut self) {
        self.eventloop.clean();
        self.eventloop.pending.clear();
        self.eventloop.state.collision = None;
        self.outbox.disconnected();
    }

    async fn serve(&mut self, svid: Arc<SvidIdentity>, token: &CancellationToken) -> End {
        let started = Instant::now();
        let mut plan = Plan { svid, renew_at: None, leave_by: None, stopping: false, flush_by: None };
        // The SVID may have changed while the connection was made.
        self.changes.mark_changed();
        loop {
            let again = self.outbox.resend(self.window).into_iter().map(Request::Publish);
            self.eventloop.pending.extend(again);
            let event = match self.next(&mut plan, token).await {
                Wake::Event(event) => *event,
                Wake::Overdue => return plan.left(),
            };
            match event {
                Ok(Event::Incoming(packet)) => self.handle_packet(packet).await,
                Ok(Event::Outgoing(Outgoing::Publish(packet_id))) => self.outbox.sent(packet_id),
                Ok(Event::Outgoing(_)) => {}
                Err(_) if plan.leave_by.is_some() => return plan.left(),
                Err(error) => {
                    self.give_up_unsendable(&error).await;
                    return End::Failed { reason: describe(&error), lasted: started.elapsed() };
                }
            }
        }
    }

    /// Waits for the next event without ever dropping a poll half-way, which could lose a packet.
    async fn next(&mut self, plan: &mut Plan, token: &CancellationToken) -> Wake {
        let poll = self.eventloop.poll();
        tokio::pin!(poll);
        loop {
            let staying = plan.leave_by.is_none();
            let unsent = self.outbox.len() + self.publications.len();
            tokio::select! {
                event = &mut poll => return Wake::Event(Box::new(event)),
                Some(publication) = self.publications.recv(), if staying && self.outbox.has_room(self.window) => {
                    let Publication { topic, payload } = publication.clone();
                    self.outbox.hand(publication);
                    // rumqttc's queue is as long as the largest window.
                    if let Err(error) = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload) {
                        warn!(%error, "publication not taken");
                        self.outbox.unsendable();
                    }
                }
                Ok(()) = self.changes.changed(), if staying => plan.consider_renewal(&self.identity),
                () = at(plan.renew_at), if staying => {
                    info!(spiffe_id = %plan.svid.id, "connecting anew with the renewed SVID");
                    plan.leave(&self.client);
                }
                () = token.cancelled(), if staying && !plan.stopping => {
                    plan.stopping = true;
                    plan.flush_by = Instant::now().checked_add(FLUSH_WITHIN);
                }
                () = at(plan.flush_by), if staying => plan.leave(&self.client),
                () = std::future::ready(()), if staying && plan.stopping && unsent == 0 => plan.leave(&self.client),
                () = at(plan.leave_by) => return Wake::Overdue,
            }
        }
    }

    async fn handle_packet(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                self.tell(LinkEvent::Message { topic, payload: publish.payload }).await;
            }
            Packet::SubAck(answer) => self.handle_suback(answer).await,
            Packet::PubAck(answer) => self.handle_puback(answer).await,
            _ => {}
        }
    }

    async fn handle_suback(&mut self, answer: SubAck) {
        let text = answer.properties.and_then(|properties| properties.reason_string);
        let answers = self.subscriptions.clone().into_iter().zip(answer.return_codes);
        for (filter, code) in answers.filter(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_))) {
            let reason = text.clone().unwrap_or_else(|| format!("{code:?}"));
            warn!(filter, reason, "subscription refused");
            self.tell(LinkEvent::SubscriptionRefused { filter, reason }).await;
        }
    }

    async fn handle_puback(&mut self, answer: PubAck) {
        let publication = self.outbox.answered(answer.pkid);
        if matches!(answer.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            return;
        }
        let text = answer.properties.and_then(|properties| properties.reason_string);
        self.refuse(publication, text.unwrap_or_else(|| format!("{:?}", answer.reason))).await;
    }

    /// A publication larger than the broker takes would end every connection.
    async fn give_up_unsendable(&mut self, error: &ConnectionError) {
        if matches!(error, ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { .. })) {
            let publication = self.outbox.unsendable();
            self.refuse(publication, error.to_string()).await;
        }
    }

    async fn refuse(&mut self, publication: Option<Publication>, reason: String) {
        let topic = publication.map(|publication| publication.topic).unwrap_or_default();
        warn!(topic, reason, "publication refused");
        self.tell(LinkEvent::PublishRefused { topic, reason }).await;
    }

    async fn tell(&mut self, event: LinkEvent) {
        // Without a receiver the link is being dropped, and this task with it.
        drop(self.events.send(event).await);
    }
}

impl Plan {
    /// With another SVID than the connection's, sets the time to connect anew.
    fn consider_renewal(&mut self, identity: &WorkloadIdentity) {
        let Some(newest) = identity.usable() else { return };
        if Arc::ptr_eq(&newest, &self.svid) || self.renew_at.is_some() {
            return;
        }
        let left = self.svid.expires.since(identity.now());
        let spread = (left / 10).min(RENEWAL_SPREAD_MAX);
        self.renew_at = Instant::now().checked_add(Backoff::new(spread, spread).next_delay());
    }

    /// Asks rumqttc for a DISCONNECT, which keeps the session and takes back the will.
    fn leave(&mut self, client: &AsyncClient) {
        self.leave_by = Instant::now().checked_add(CLOSE_WITHIN);
        if let Err(error) = client.try_disconnect() {
            debug!(%error, "leaving without DISCONNECT");
            self.leave_by = Some(Instant::now());
        }
    }

    fn left(&self) -> End {
        if self.stopping { End::Stopped } else { End::Renewed }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// With the causes: why TLS failed is in them.
fn describe(error: &ConnectionError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
