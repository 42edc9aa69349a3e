//! A subscriber with a session, that remembers what it received over all its connections.

use super::Stage;
use super::inbox::Inbox;
use super::link::{Link, ack};
use super::restless::Restless;
use mqtt_proto::{Packet, PacketId, QoS};
use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

pub(crate) struct Subscriber {
    client_id: String,
    filter: String,
    qos: QoS,
    inbox: Arc<Inbox>,
    restless: Option<Restless>,
    /// QoS 2 messages that wait for PUBREL ([MQTT-4.3.3-10]).
    held: BTreeSet<PacketId>,
    subscribed: bool,
}

impl Subscriber {
    pub(crate) fn new(client_id: String, filter: String, qos: QoS) -> Self {
        let (inbox, held) = (Arc::default(), BTreeSet::new());
        Self { client_id, filter, qos, inbox, restless: None, held, subscribed: false }
    }

    /// Lets it note what it receives here.
    pub(crate) fn noting(self, inbox: &Arc<Inbox>) -> Self {
        Self { inbox: Arc::clone(inbox), ..self }
    }

    /// Lets it leave at random moments.
    pub(crate) fn restless(self, restless: Restless) -> Self {
        Self { restless: Some(restless), ..self }
    }

    /// Receives until told to leave.
    pub(crate) fn run(mut self, stage: &Stage) {
        while !stage.over.load(Ordering::Relaxed) {
            if self.connection(stage).is_err() {
                sleep(Duration::from_millis(5));
            }
        }
    }

    /// Makes the session with its subscription.
    pub(crate) fn subscribe(&mut self, stage: &Stage) -> Result<Link> {
        let (mut link, present) = Link::open(stage, &self.client_id)?;
        assert!(present || !self.subscribed, "{}: the session is lost", self.client_id);
        self.restless.iter_mut().for_each(Restless::is_back);
        if !self.subscribed {
            link.subscribe(&self.filter, self.qos)?;
            self.subscribed = true;
        }
        Ok(link)
    }

    fn connection(&mut self, stage: &Stage) -> Result<()> {
        let mut link = self.subscribe(stage)?;
        while !stage.over.load(Ordering::Relaxed) {
            while let Some(packet) = link.next()? {
                let answer = self.take(packet);
                if let Some(restless) = Restless::leaving(&mut self.restless) {
                    restless.leave(link);
                    return Ok(());
                }
                link.send(&answer)?;
            }
        }
        Ok(())
    }

    /// Takes a packet and returns the answer to it.
    fn take(&mut self, packet: Packet) -> Packet {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.unwrap();
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                if publish.qos == QoS::AtLeastOnce {
                    self.inbox.note(number);
                    return Packet::PubAck(ack(id));
                }
                if self.held.insert(id) {
                    self.inbox.note(number);
                }
                Packet::PubRec(ack(id))
            }
            Packet::PubRel(answer) => {
                self.held.remove(&answer.packet_id);
                Packet::PubComp(ack(answer.packet_id))
            }
            other => panic!("not for a subscriber: {other:?}"),
        }
    }
}
