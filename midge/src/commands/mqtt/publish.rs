//! `midge pub`: messages from arguments, a file or standard input.

use super::client::Client;
use super::identity::Renewals;
use super::options::Session;
use super::qos;
use super::trouble::{Trouble, reason};
use crate::cli::PubArgs;
use crate::exit::{self, WithCode as _, failure};
use crate::output::{self, Output};
use anyhow::Context as _;
use mqtt_proto::TopicName;
use rumqttc::Outgoing;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PubCompReason, PubRecReason};
use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Lines of standard input that may wait.
const LINES_MAX: usize = 64;

/// `midge pub`.
pub(crate) async fn publish(arguments: PubArgs, output: Output) -> anyhow::Result<()> {
    let PubArgs { target, topic, message, stdin, retain } = arguments;
    TopicName::new(&topic).map_err(|error| failure(exit::USAGE, format!("--topic \"{topic}\": {error}")))?;
    let payloads = match message {
        Some(message) => one(message.into_bytes()),
        None if stdin => lines(),
        None => return Err(failure(exit::USAGE, "name the payload with -m TEXT, or read payloads with -l")),
    };
    let mut client = Client::open(&target, Session { clean_start: true, expiry_secs: 0 }).await?;
    let mut renewals = client.renewals();
    renewals.mark_seen();
    let welcome = client.connect().await.map_err(Trouble::failure)?;
    let publisher = Publisher {
        client,
        renewals,
        topic,
        qos: qos(target.qos),
        retain,
        limit: Duration::from_secs(target.timeout),
        window: usize::from(welcome.window),
        unsent: 0,
        unanswered: BTreeSet::new(),
        published: 0,
    };
    publisher.run(payloads, output).await
}

struct Publisher {
    client: Client,
    renewals: Renewals,
    topic: String,
    qos: QoS,
    retain: bool,
    /// Longest silence of the broker while an answer is due.
    limit: Duration,
    /// Messages the broker takes at once.
    window: usize,
    /// Messages that wait to be written.
    unsent: usize,
    /// Messages that wait for PUBACK or PUBCOMP, by packet id.
    unanswered: BTreeSet<u16>,
    published: u64,
}

impl Publisher {
    async fn run(mut self, mut payloads: Payloads, output: Output) -> anyhow::Result<()> {
        let (mut open, mut renewing) = (true, false);
        let mut answer_by = Instant::now();
        loop {
            let in_flight = self.unsent + self.unanswered.len();
            if in_flight == 0 && !open {
                break;
            }
            if in_flight == 0 && renewing {
                self.reconnect().await?;
                renewing = false;
            }
            tokio::select! {
                event = self.client.next() => {
                    self.handle(event.map_err(|trouble| self.lost(trouble))?)?;
                    answer_by = Instant::now() + self.limit;
                }
                payload = payloads.recv(), if open && !renewing && in_flight < self.window => match payload {
                    Some(payload) => {
                        let payload = payload.context("cannot read standard input").code(exit::IO)?;
                        self.client.publish(&self.topic, self.qos, self.retain, payload).map_err(Trouble::failure)?;
                        self.unsent += 1;
                        answer_by = Instant::now() + self.limit;
                    }
                    None => open = false,
                },
                () = self.renewals.next(), if !renewing => renewing = true,
                () = sleep_until(answer_by), if in_flight > 0 => {
                    let secs = self.limit.as_secs();
                    return Err(failure(exit::UNAVAILABLE, format!("the broker did not answer within {secs} s")));
                }
            }
        }
        self.client.close().await;
        if output == Output::Json {
            let (topic, count) = (&self.topic, self.published);
            output::line(serde_json::json!({ "event": "published", "topic": topic, "count": count }));
        }
        Ok(())
    }

    async fn reconnect(&mut self) -> anyhow::Result<()> {
        self.client.close().await;
        self.renewals.mark_seen();
        self.client.usable().await;
        let welcome = self.client.connect().await.map_err(Trouble::failure)?;
        self.window = usize::from(welcome.window);
        Ok(())
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet_id)) => {
                self.unsent = self.unsent.saturating_sub(1);
                if self.qos == QoS::AtMostOnce {
                    self.published += 1;
                } else {
                    self.unanswered.insert(packet_id);
                }
                Ok(())
            }
            Event::Incoming(Packet::PubAck(answer)) => match answer.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                    self.answered(answer.pkid);
                    Ok(())
                }
                code => Err(self.refused(&code, answer.properties.and_then(|p| p.reason_string))),
            },
            Event::Incoming(Packet::PubRec(answer)) => match answer.reason {
                PubRecReason::Success | PubRecReason::NoMatchingSubscribers => Ok(()),
                code => Err(self.refused(&code, answer.properties.and_then(|p| p.reason_string))),
            },
            Event::Incoming(Packet::PubComp(answer)) => match answer.reason {
                PubCompReason::Success => {
                    self.answered(answer.pkid);
                    Ok(())
                }
                code => Err(self.refused(&code, answer.properties.and_then(|p| p.reason_string))),
            },
            _ => Ok(()),
        }
    }

    fn answered(&mut self, packet_id: u16) {
        if self.unanswered.remove(&packet_id) {
            self.published += 1;
        }
    }

    fn refused(&self, code: &impl std::fmt::Debug, text: Option<String>) -> anyhow::Error {
        let reason = reason(code, text.as_deref());
        failure(exit::NO, format!("the broker refused to publish to `{}`: {reason}", self.topic))
    }

    fn lost(&self, trouble: Trouble) -> anyhow::Error {
        let unanswered = self.unsent + self.unanswered.len();
        match unanswered {
            0 => trouble.failure(),
            _ => failure(
                trouble.code,
                format!("{trouble}; {unanswered} of the messages may not have been published"),
            ),
        }
    }
}

type Payloads = mpsc::Receiver<std::io::Result<Vec<u8>>>;

fn one(payload: Vec<u8>) -> Payloads {
    let (sender, payloads) = mpsc::channel(1);
    // There is room for one.
    drop(sender.try_send(Ok(payload)));
    payloads
}

/// A thread of its own: one that waits in a read must not keep the process from ending.
fn lines() -> Payloads {
    let (sender, payloads) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.map(|mut line| {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                line
            });
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    payloads
}
