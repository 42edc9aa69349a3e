//! A publisher that numbers its messages and sends again what was not acknowledged, as MQTT asks it to.

use super::link::{Link, ack, publish};
use super::restless::Restless;
use super::{Stage, retained};
use mqtt_proto::{Ack, Packet, PacketId, QoS, ReasonCode};
use std::collections::VecDeque;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Messages without complete acknowledgement at one time.
const WINDOW: usize = 8;

struct Exchange {
    id: PacketId,
    number: u32,
    released: bool,
}

/// How far a publisher is: numbers below these were sent, if perhaps to nobody, and acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) sent: AtomicU32,
    pub(crate) acknowledged: AtomicU32,
}

pub(crate) struct Publisher {
    client_id: String,
    topic: String,
    qos: QoS,
    /// Messages are to be retained, in turn on several topics below its own.
    retains: bool,
    restless: Option<Restless>,
    progress: Arc<Progress>,
    next: u32,
    acknowledged: u32,
    /// In the order of sending.
    exchanges: VecDeque<Exchange>,
    has_session: bool,
}

impl Publisher {
    pub(crate) fn new(client_id: String, topic: String, qos: QoS) -> Self {
        Self {
            client_id,
            topic,
            qos,
            retains: false,
            restless: None,
            progress: Arc::default(),
            next: 0,
            acknowledged: 0,
            exchanges: VecDeque::new(),
            has_session: false,
        }
    }

    /// Has its messages retained.
    pub(crate) fn retaining(self) -> Self {
        Self { retains: true, ..self }
    }

    /// Lets it leave at random moments.
    pub(crate) fn restless(self, restless: Restless) -> Self {
        Self { restless: Some(restless), ..self }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// How many messages it has sent.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Publishes while it may, over as many connections as it takes, until everything is acknowledged.
    pub(crate) fn run(&mut self, stage: &Stage, may_send: impl Fn(u32) -> bool) {
        while !(stage.winding_up.load(Ordering::Relaxed) && self.exchanges.is_empty()) {
            if self.connection(stage, &may_send, |_| {}).is_err() {
                sleep(Duration::from_millis(5));
            }
        }
    }

    /// Serves one connection; `told` is told how many messages are acknowledged so far.
    pub(crate) fn connection(
        &mut self,
        stage: &Stage,
        may_send: &impl Fn(u32) -> bool,
        mut told: impl FnMut(u32),
    ) -> Result<()> {
        let (mut link, present) = Link::open(stage, &self.client_id)?;
        assert!(present || !self.has_session, "{}: the session is lost", self.client_id);
        self.has_session = true;
        self.restless.iter_mut().for_each(Restless::is_back);
        for exchange in &self.exchanges {
            let packet = match exchange.released {
                true => Packet::PubRel(ack(exchange.id)),
                false => self.message(exchange.number, exchange.id, true),
            };
            link.send(&packet)?;
        }
        loop {
            let ends = stage.winding_up.load(Ordering::Relaxed);
            if ends && self.exchanges.is_empty() {
                return Ok(());
            }
            while !ends && self.exchanges.len() < WINDOW && may_send(self.next) {
                let id = self.free_id();
                let packet = self.message(self.next, id, false);
                self.exchanges.push_back(Exchange { id, number: self.next, released: false });
                self.next += 1;
                self.progress.sent.store(self.next, Ordering::SeqCst);
                link.send(&packet)?;
            }
            if let Some(restless) = Restless::leaving(&mut self.restless) {
                restless.leave(link);
                return Ok(());
            }
            if let Some(packet) = link.next()? {
                self.take(&mut link, &packet)?;
                told(self.acknowledged);
            }
        }
    }

    fn message(&self, number: u32, id: PacketId, dup: bool) -> Packet {
        if self.retains {
            return retained::message(&self.topic, number, (self.qos, id, dup));
        }
        publish(&self.topic, number, self.qos, id, dup)
    }

    /// What is retained is for those who come later: there may be nobody now.
    fn is_taken(&self, reason: ReasonCode) -> bool {
        reason == ReasonCode::Success || (self.retains && reason == ReasonCode::NoMatchingSubscribers)
    }

    fn free_id(&self) -> PacketId {
        let is_free = |id: &PacketId| self.exchanges.iter().all(|exchange| exchange.id != *id);
        (1..).filter_map(PacketId::new).find(is_free).unwrap()
    }

    fn take(&mut self, link: &mut Link, packet: &Packet) -> Result<()> {
        match packet {
            Packet::PubAck(answer) => self.end(answer),
            Packet::PubComp(answer) => self.end(answer),
            Packet::PubRec(answer) => {
                assert!(self.is_taken(answer.reason), "{answer:?}");
                let exchange = self.exchanges.iter_mut().find(|exchange| exchange.id == answer.packet_id);
                exchange.unwrap().released = true;
                link.send(&Packet::PubRel(ack(answer.packet_id)))?;
            }
            other => panic!("not for a publisher: {other:?}"),
        }
        Ok(())
    }

    fn end(&mut self, answer: &Ack) {
        // What the broker had released before it was killed it does not know any more.
        let is_known = answer.reason != ReasonCode::PacketIdentifierNotFound;
        assert!(!is_known || self.is_taken(answer.reason), "{answer:?}");
        let at = self.exchanges.iter().position(|exchange| exchange.id == answer.packet_id).unwrap();
        let exchange = self.exchanges.remove(at).unwrap();
        assert_eq!(exchange.number, self.acknowledged, "[MQTT-4.6.0-2]: acknowledged in order");
        self.acknowledged += 1;
        self.progress.acknowledged.store(self.acknowledged, Ordering::SeqCst);
    }
}
