//! Retained messages: a new subscriber gets of each topic what was acknowledged last, or something newer.

use super::link::{Link, new, numbered};
use super::publisher::{Progress, Publisher};
use super::{Stage, link};
use bytes::Bytes;
use mqtt_proto::{Packet, PacketId, Publish, QoS};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

/// Topics of one publisher.
const TOPICS: u32 = 5;
/// Messages of one publisher for each kill and for each start.
const MESSAGES: u32 = 75;

/// Whether a message is an empty one, which removes what is retained ([MQTT-3.3.1-6]).
fn removes(number: u32) -> bool {
    // No divisor of the number of topics: each has its turn.
    number % 7 == 3
}

pub(super) fn message(topic: &str, number: u32, (qos, id, dup): (QoS, PacketId, bool)) -> Packet {
    let message = numbered(&format!("{topic}/{}", number % TOPICS), number, qos, id, dup);
    let payload = if removes(number) { Bytes::new() } else { message.payload };
    Packet::Publish(Box::new(Publish { retain: true, payload, ..message }))
}

/// A publisher of retained messages, and what its topics ought to have.
pub(super) struct Keeper {
    name: String,
    progress: Arc<Progress>,
    publisher: JoinHandle<()>,
    /// Topics looked at so far.
    pub(super) looks: u32,
}

impl Keeper {
    pub(super) fn start(stage: &Arc<Stage>, qos: QoS) -> Self {
        let name = format!("kept-{}", qos as u8);
        let mut publisher = Publisher::new(name.clone(), format!("demo/{name}"), qos).retaining();
        let (progress, on) = (publisher.progress(), Arc::clone(stage));
        let publisher = thread::spawn(move || {
            publisher.run(&on, |next| next / MESSAGES <= on.turns.load(Ordering::SeqCst));
        });
        Self { name, progress, publisher, looks: 0 }
    }

    /// Looks as somebody who was never there before.
    pub(super) fn check(&mut self, stage: &Stage) {
        let acknowledged = self.progress.acknowledged.load(Ordering::SeqCst);
        let found = retained(stage, &format!("demo/{}/+", self.name));
        let sent = self.progress.sent.load(Ordering::SeqCst);
        for topic in 0..TOPICS {
            let last = (0..acknowledged).rev().take(TOPICS as usize).find(|number| number % TOPICS == topic);
            let mut possible = (last.unwrap_or(topic)..sent).step_by(TOPICS as usize);
            let is_right = match found.get(&topic) {
                Some(number) => possible.any(|possible| possible == *number),
                None => last.is_none() || possible.any(removes),
            };
            let number = found.get(&topic);
            assert!(is_right, "{}/{topic}: {number:?}, though {last:?} was acknowledged ({sent})", self.name);
            self.looks += 1;
        }
    }

    /// Waits until everything is acknowledged, and looks once more.
    pub(super) fn end(mut self, stage: &Stage) -> String {
        let publisher = std::mem::replace(&mut self.publisher, thread::spawn(|| {}));
        publisher.join().unwrap();
        self.check(stage);
        let sent = self.progress.sent.load(Ordering::SeqCst);
        assert!(sent > 0);
        format!("{}: sent {sent}, {} looks", self.name, self.looks)
    }
}

/// What is retained under these topics, by their last level.
fn retained(stage: &Stage, filter: &str) -> BTreeMap<u32, u32> {
    let (mut link, _) = Link::connect(stage, new("stranger")).unwrap();
    link.send(&link::subscribe(filter, QoS::AtMostOnce)).unwrap();
    let mut found = BTreeMap::new();
    // They may come in portions.
    for _ in 0..3 {
        link.send(&Packet::PingReq).unwrap();
        loop {
            match link.wait().unwrap() {
                Packet::PingResp => break,
                Packet::SubAck(answer) => assert!((answer.reasons[0] as u8) < 0x80),
                Packet::Publish(publish) if publish.retain => {
                    let topic = publish.topic.unwrap();
                    let level = topic.as_str().rsplit('/').next().unwrap().parse().unwrap();
                    let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                    assert_eq!(found.insert(level, number), None, "{topic}");
                    assert_eq!(number % TOPICS, level, "{topic}");
                }
                // What came meanwhile.
                Packet::Publish(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    found
}
