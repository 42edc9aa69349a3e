//! Retained messages that a subscription is still owed when the process ends, over real files.

use crate::crash::Stage;
use crate::crash::link::{Link, ack, publish};
use crate::support::{Place, Server, own_uid};
use mqtt_proto::{Packet, PacketId, Publish, QoS};
use std::collections::BTreeSet;
use std::num::NonZeroU16;

const MESSAGES: u32 = 5;

/// A subscriber that takes one message at a time, over connections that the end of the broker ends.
struct Subscriber {
    qos: QoS,
    link: Link,
    /// QoS 2 messages that wait for PUBREL ([MQTT-4.3.3-10]).
    held: BTreeSet<PacketId>,
    received: Vec<u32>,
    different: BTreeSet<u32>,
}

impl Subscriber {
    fn name(qos: QoS) -> String {
        format!("subscriber-{}", qos as u8)
    }

    fn open(stage: &Stage, qos: QoS) -> Self {
        let (mut link, present) = Link::open_with(stage, &Self::name(qos), NonZeroU16::new(1)).unwrap();
        assert!(!present);
        link.subscribe("demo/+", qos).unwrap();
        Self { qos, link, held: BTreeSet::new(), received: Vec::new(), different: BTreeSet::new() }
    }

    fn reopen(&mut self, stage: &Stage) {
        let (link, present) = Link::open_with(stage, &Self::name(self.qos), NonZeroU16::new(1)).unwrap();
        assert!(present);
        self.link = link;
    }

    fn is_done(&self) -> bool {
        self.different.len() == MESSAGES as usize
    }

    /// Takes a packet, and answers it if asked to.
    fn take(&mut self, packet: Packet, answers: bool) {
        let answer = match packet {
            Packet::Publish(publish) => self.receive(&publish),
            Packet::PubRel(released) => {
                self.held.remove(&released.packet_id);
                Packet::PubComp(ack(released.packet_id))
            }
            other => panic!("{other:?}"),
        };
        if answers {
            self.link.send(&answer).unwrap();
        }
    }

    fn receive(&mut self, publish: &Publish) -> Packet {
        assert!(publish.retain && publish.qos == self.qos, "{publish:?}");
        let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
        let is_first = self.different.insert(number);
        assert!(is_first || publish.dup, "[MQTT-3.3.1-1]: {publish:?}");
        let id = publish.packet_id.unwrap();
        if self.qos == QoS::AtLeastOnce {
            self.received.push(number);
            return Packet::PubAck(ack(id));
        }
        if self.held.insert(id) {
            self.received.push(number);
        }
        Packet::PubRec(ack(id))
    }

    /// Takes so many packets, and one more that it leaves unanswered.
    fn go_on(&mut self, packets: u32) {
        for left in (0..=packets).rev() {
            if self.is_done() {
                return;
            }
            let packet = self.link.wait().unwrap();
            self.take(packet, left > 0);
        }
    }

    /// Takes whatever comes until there is nothing more.
    fn finish(&mut self) {
        // The answer to a message may bring another, and that its PUBREL.
        for _ in 0..3 {
            self.link.send(&Packet::PingReq).unwrap();
            loop {
                match self.link.wait().unwrap() {
                    Packet::PingResp => break,
                    packet => self.take(packet, true),
                }
            }
        }
    }
}

fn retain(stage: &Stage) {
    let (mut link, _) = Link::open(stage, "publisher").unwrap();
    for number in 0..MESSAGES {
        let message = publish(&format!("demo/{number}"), number, QoS::ExactlyOnce, NonZeroU16::MIN, false);
        let Packet::Publish(message) = message else { panic!("{message:?}") };
        link.send(&Packet::Publish(Box::new(Publish { retain: true, ..*message }))).unwrap();
        assert!(matches!(link.wait().unwrap(), Packet::PubRec(_)));
        link.send(&Packet::PubRel(ack(NonZeroU16::MIN))).unwrap();
        assert!(matches!(link.wait().unwrap(), Packet::PubComp(_)));
    }
}

// [MQTT-3.3.1-9]: what follows the SUBACK follows it over any number of ends, at QoS 2 once.
#[test]
fn retained_messages_still_owed_come_after_the_end_of_the_process() {
    let place = Place::new();
    let mqtt = "tls = \"off\"\ntcp = \"127.0.0.1:0\"";
    let config = place.edge("data", "", mqtt, "[event-bus]\nenabled = false");
    let start = || Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let mut server = start();
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Stage::default();
    stage.set(&server);
    retain(&stage);
    let mut subscribers = [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| Subscriber::open(&stage, qos));
    let mut round = 0;
    while !subscribers.iter().all(Subscriber::is_done) {
        subscribers.iter_mut().for_each(|subscriber| subscriber.go_on(round % 4));
        if round % 3 == 2 {
            server.stop();
        } else {
            server.program.kill();
        }
        server = start();
        stage.set(&server);
        subscribers.iter_mut().for_each(|subscriber| subscriber.reopen(&stage));
        round += 1;
    }
    subscribers.iter_mut().for_each(Subscriber::finish);
    server.program.kill();
    server = start();
    stage.set(&server);
    for subscriber in &mut subscribers {
        subscriber.reopen(&stage);
        subscriber.finish();
    }
    assert_eq!(subscribers[1].received, (0..MESSAGES).collect::<Vec<_>>());
}
