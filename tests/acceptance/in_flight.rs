//! QoS 1 messages that are in flight when the process is killed, over real files.

use crate::crash::Stage;
use crate::crash::link::{Link, ack, publish};
use crate::support::{Place, Server, own_uid};
use mqtt_proto::{Packet, PacketId, Publish, QoS};
use std::num::NonZeroU16;

/// Messages that are published while the subscriber is away, and as many while it is there.
const MESSAGES: u32 = 3;

fn publish_all(stage: &Stage, numbers: impl Iterator<Item = u32>) {
    let (mut link, _) = Link::open(stage, "publisher").unwrap();
    for number in numbers {
        link.send(&publish("demo/a", number, QoS::AtLeastOnce, NonZeroU16::MIN, false)).unwrap();
        assert!(matches!(link.wait().unwrap(), Packet::PubAck(_)));
    }
}

fn receive(link: &mut Link) -> Publish {
    match link.wait().unwrap() {
        Packet::Publish(publish) => *publish,
        other => panic!("{other:?}"),
    }
}

/// Comes back and takes so many messages, in order, without an answer: their identifiers.
fn resume(stage: &Stage, numbers: impl Iterator<Item = u32>, dup: bool) -> (Link, Vec<PacketId>) {
    let (mut link, present) = Link::open(stage, "subscriber").unwrap();
    assert!(present);
    let ids = numbers.map(|number| {
        let publish = receive(&mut link);
        assert_eq!((publish.payload.to_vec(), publish.dup), (number.to_string().into_bytes(), dup));
        publish.packet_id.unwrap()
    });
    let ids = ids.collect();
    (link, ids)
}

// [MQTT-4.4.0-1]: those that waited before they were sent, and those that were sent at once.
#[test]
fn what_was_in_flight_at_a_kill_comes_again_under_its_identifiers() {
    let place = Place::new();
    let mqtt = "tls = \"off\"\ntcp = \"127.0.0.1:0\"";
    let config = place.edge("data", "", mqtt, "[event-bus]\nenabled = false");
    let start = || Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let mut server = start();
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Stage::default();
    stage.set(&server);
    let (mut link, _) = Link::open(&stage, "subscriber").unwrap();
    link.subscribe("demo/+", QoS::AtLeastOnce).unwrap();
    drop(link);
    publish_all(&stage, 0..MESSAGES);
    let (mut link, mut ids) = resume(&stage, 0..MESSAGES, false);
    publish_all(&stage, MESSAGES..2 * MESSAGES);
    for number in MESSAGES..2 * MESSAGES {
        let publish = receive(&mut link);
        assert_eq!(publish.payload, number.to_string());
        ids.push(publish.packet_id.unwrap());
    }
    for round in 0..3 {
        if round == 1 {
            server.stop();
        } else {
            server.program.kill();
        }
        server = start();
        stage.set(&server);
        let again = resume(&stage, 0..2 * MESSAGES, true);
        assert_eq!(again.1, ids, "round {round}");
        link = again.0;
    }
    for id in ids {
        link.send(&Packet::PubAck(ack(id))).unwrap();
    }
    // It was acknowledged with these: nothing comes any more.
    link.send(&Packet::PingReq).unwrap();
    assert!(matches!(link.wait().unwrap(), Packet::PingResp));
    drop(link);
    let (mut link, _) = resume(&stage, 0..0, false);
    link.send(&Packet::PingReq).unwrap();
    assert!(matches!(link.wait().unwrap(), Packet::PingResp));
}
