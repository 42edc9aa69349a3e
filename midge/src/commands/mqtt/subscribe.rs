//! `midge sub`: prints what comes, and connects again by itself.

use super::client::{CLOSE_WITHIN, Client, Welcome};
use super::identity::Renewals;
use super::options::Session;
use super::trouble::{Trouble, reason};
use super::{at, qos};
use crate::cli::SubArgs;
use crate::commands::signals::stop_on_signal;
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_runtime::{Backoff, CancellationToken};
use mqtt_proto::SharedFilter;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, SubAck, SubscribeReasonCode};
use serde_json::json;
use std::io::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// How long the broker keeps a session for a client id that was chosen, and for one that was not.
const EXPIRY_SECS: (u32, u32) = (3600, 60);
/// Limits of the waits between connections.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A connection that lasted this long was a good one: the next failure is retried from the start.
const STABLE: Duration = Duration::from_secs(5);

/// `midge sub`.
pub(crate) async fn subscribe(arguments: SubArgs, output: Output) -> anyhow::Result<()> {
    let SubArgs { target, topics, count } = arguments;
    for topic in &topics {
        SharedFilter::new(topic)
            .map_err(|error| failure(exit::USAGE, format!("--topic \"{topic}\": {error}")))?;
    }
    let session = match (&target.client_id, count) {
        (Some(_), _) => Session { clean_start: false, expiry_secs: EXPIRY_SECS.0 },
        (None, Some(0)) => Session { clean_start: true, expiry_secs: 0 },
        (None, _) => Session { clean_start: true, expiry_secs: EXPIRY_SECS.1 },
    };
    let client = Client::open(&target, session).await?;
    let subscriber = Subscriber {
        renewals: client.renewals(),
        client,
        filters: topics,
        qos: qos(target.qos),
        limit: Duration::from_secs(target.timeout),
        left: count,
        subscribed: false,
        output,
    };
    subscriber.run(&stop_on_signal()?).await
}

struct Subscriber {
    client: Client,
    renewals: Renewals,
    filters: Vec<String>,
    qos: QoS,
    /// Longest time for the broker to answer.
    limit: Duration,
    /// Messages still wanted; none means all.
    left: Option<u64>,
    /// Whether the session holds the subscriptions.
    subscribed: bool,
    output: Output,
}

/// Why a connection ended.
enum End {
    Done,
    Renewed,
    Lost(Trouble),
}

impl Subscriber {
    async fn run(mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut noted = None;
        let mut first = true;
        loop {
            self.renewals.mark_seen();
            let Some(connected) = stop.run_until_cancelled(self.client.connect()).await else {
                return Ok(());
            };
            let since = Instant::now();
            let end = match connected {
                Ok(welcome) => {
                    noted = None;
                    self.serve(welcome, stop).await?
                }
                Err(trouble) if first => return Err(trouble.failure()),
                Err(trouble) => End::Lost(trouble),
            };
            first = false;
            match end {
                End::Done => return Ok(()),
                End::Renewed => {}
                End::Lost(trouble) => {
                    if since.elapsed() >= STABLE {
                        backoff.reset();
                    }
                    self.note_loss(&trouble, &mut noted);
                    if !backoff.wait(stop).await {
                        return Ok(());
                    }
                }
            }
            if stop.run_until_cancelled(self.client.usable()).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn serve(&mut self, welcome: Welcome, stop: &CancellationToken) -> anyhow::Result<End> {
        self.tell(&json!({ "event": "connected", "identity": self.client.id() }));
        self.subscribed &= welcome.session_present;
        if !self.subscribed {
            self.client.subscribe(&self.filters, self.qos).map_err(Trouble::failure)?;
        }
        let answer_by = Instant::now().checked_add(self.limit);
        let mut leaving: Option<End> = None;
        let mut leave_by = None;
        loop {
            let end = tokio::select! {
                event = self.client.next() => match event {
                    Ok(Event::Incoming(packet)) => self.handle(packet, leaving.is_some()).await?,
                    Ok(Event::Outgoing(_)) => None,
                    Err(trouble) => return Ok(leaving.unwrap_or(End::Lost(trouble))),
                },
                () = self.renewals.next(), if leaving.is_none() => Some(End::Renewed),
                () = stop.cancelled(), if leaving.is_none() => Some(End::Done),
                () = at(leave_by), if leave_by.is_some() => return Ok(leaving.unwrap_or(End::Done)),
                () = at(answer_by), if !self.subscribed && leaving.is_none() => {
                    let secs = self.limit.as_secs();
                    return Err(failure(exit::UNAVAILABLE, format!("the broker did not answer within {secs} s")));
                }
            };
            if leaving.is_none() && end.is_some() {
                self.client.leave();
                leaving = end;
                leave_by = Instant::now().checked_add(CLOSE_WITHIN);
            }
        }
    }

    async fn handle(&mut self, packet: Packet, leaving: bool) -> anyhow::Result<Option<End>> {
        match packet {
            // What is not acknowledged before the DISCONNECT comes again in the resumed session.
            Packet::Publish(publish) if leaving && publish.qos != QoS::AtMostOnce => Ok(None),
            Packet::Publish(_) if self.left == Some(0) => Ok(None),
            Packet::Publish(publish) => {
                if self.client.is_new(&publish) {
                    self.print(&publish);
                    self.left = self.left.map(|left| left.saturating_sub(1));
                }
                self.client.acknowledge(&publish).map_err(Trouble::failure)?;
                Ok((self.subscribed && self.left == Some(0)).then_some(End::Done))
            }
            Packet::SubAck(answer) => {
                if let Some(refusal) = self.refusal(&answer) {
                    self.client.close().await;
                    return Err(failure(exit::NO, refusal));
                }
                self.subscribed = true;
                self.tell(&json!({ "event": "subscribed", "filters": self.filters }));
                Ok((self.left == Some(0)).then_some(End::Done))
            }
            _ => Ok(None),
        }
    }

    fn refusal(&self, answer: &SubAck) -> Option<String> {
        let text = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        let refused = self.filters.iter().zip(&answer.return_codes);
        let refused = refused.filter(|(_, code)| !matches!(code, SubscribeReasonCode::Success(_)));
        let refused: Vec<String> =
            refused.map(|(filter, code)| format!("`{filter}`: {}", reason(code, text))).collect();
        (!refused.is_empty()).then(|| format!("the broker refused to subscribe to {}", refused.join(", ")))
    }

    fn print(&self, publish: &Publish) {
        let topic = String::from_utf8_lossy(&publish.topic);
        let payload = String::from_utf8_lossy(&publish.payload);
        match self.output {
            Output::Pretty => output::line(format_args!("{topic} {payload}")),
            Output::Json => output::line(json!({
                "topic": topic, "payload": payload, "qos": publish.qos as u8, "retain": publish.retain,
            })),
        }
    }

    /// Events are for programs; people are told of losses.
    fn tell(&self, event: &serde_json::Value) {
        if self.output == Output::Json {
            output::line(event);
        }
    }

    /// Says the same thing once only, however often the connection fails.
    fn note_loss(&self, trouble: &Trouble, noted: &mut Option<Trouble>) {
        if noted.as_ref() == Some(trouble) {
            return;
        }
        *noted = Some(trouble.clone());
        match self.output {
            Output::Json => self.tell(&json!({ "event": "disconnected", "reason": trouble.reason })),
            // Without standard error there is nobody to tell.
            Output::Pretty => drop(writeln!(std::io::stderr(), "midge: {trouble}; trying again")),
        }
    }
}
