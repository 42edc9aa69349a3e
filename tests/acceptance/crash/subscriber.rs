//! A subscriber with a session, that remembers what it received over all its connections.

use super::Stage;
use super::link::{Link, ack};
use mqtt_proto::{Packet, PacketId, QoS};
use std::collections::BTreeSet;
use std::io::Result;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

pub(crate) struct Subscriber {
    client_id: String,
    topic: String,
    qos: QoS,
    received: Vec<u32>,
    different: BTreeSet<u32>,
    /// QoS 2 messages that wait for PUBREL ([MQTT-4.3.3-10]).
    held: BTreeSet<PacketId>,
    subscribed: bool,
}

impl Subscriber {
    pub(crate) fn new(client_id: String, topic: String, qos: QoS) -> Self {
        let (received, different, held) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Self { client_id, topic, qos, received, different, held, subscribed: false }
    }

    /// Receives until told to leave, and returns all it received; `count` is how many different ones.
    pub(crate) fn run(mut self, stage: &Stage, count: &AtomicU32) -> Vec<u32> {
        while !stage.over.load(Ordering::Relaxed) {
            if self.connection(stage, count).is_err() {
                sleep(Duration::from_millis(5));
            }
        }
        self.received
    }

    /// Makes the session with its subscription.
    pub(crate) fn subscribe(&mut self, stage: &Stage) -> Result<Link> {
        let (mut link, present) = Link::open(stage, &self.client_id)?;
        assert!(present || !self.subscribed, "{}: the session is lost", self.client_id);
        if !self.subscribed {
            link.subscribe(&self.topic, self.qos)?;
            self.subscribed = true;
        }
        Ok(link)
    }

    fn connection(&mut self, stage: &Stage, count: &AtomicU32) -> Result<()> {
        let mut link = self.subscribe(stage)?;
        while !stage.over.load(Ordering::Relaxed) {
            while let Some(packet) = link.next()? {
                self.take(&mut link, packet)?;
                count.store(u32::try_from(self.different.len()).unwrap(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn take(&mut self, link: &mut Link, packet: Packet) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                let id = publish.packet_id.unwrap();
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                if publish.qos == QoS::AtLeastOnce {
                    self.note(number);
                    return link.send(&Packet::PubAck(ack(id)));
                }
                if self.held.insert(id) {
                    self.note(number);
                }
                link.send(&Packet::PubRec(ack(id)))
            }
            Packet::PubRel(answer) => {
                self.held.remove(&answer.packet_id);
                link.send(&Packet::PubComp(ack(answer.packet_id)))
            }
            other => panic!("not for a subscriber: {other:?}"),
        }
    }

    fn note(&mut self, number: u32) {
        self.received.push(number);
        self.different.insert(number);
    }
}
