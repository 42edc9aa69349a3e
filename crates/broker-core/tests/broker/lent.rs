//! Messages of a share group whose member ends with the broker, while another of the group is there after a crash.

use crate::world::*;
use broker_core::ConnId;
use mqtt_proto::{Connect, Packet, QoS};
use std::num::NonZeroU16;

const FILTER: &str = "$share/g/t";

fn member(world: &mut World, id: &str, connect: Connect, qos: QoS) -> ConnId {
    let conn = world.open(id, connect);
    world.subscribe(conn, FILTER, qos);
    conn
}

fn publish_all(world: &mut World, payloads: &[&str], qos: QoS) {
    let press = world.client("press");
    for payload in payloads {
        world.publish(press, "t", payload, qos);
        if qos == Q2 {
            world.send(press, Packet::PubRel(ack(1)));
        }
    }
}

/// What the member that is kept gets when it comes back: payload and DUP.
fn back(world: &mut World) -> Vec<String> {
    let kept = world.connect("kept", durable("c"));
    let seen = world.take(kept);
    assert_eq!(seen[0], "CONNACK 00 present", "{seen:?}");
    seen.into_iter().skip(1).collect()
}

#[test]
fn what_a_member_had_that_is_gone_with_a_crash_goes_to_one_that_is_kept() {
    let mut world = World::new();
    let brief = member(&mut world, "brief", v5("c"), Q1);
    let kept = member(&mut world, "kept", durable("c"), Q1);
    publish_all(&mut world, &["0", "1", "2", "3"], Q1);
    world.expect(brief, ["PUBLISH t \"0\" q1 #1", "PUBLISH t \"2\" q1 #2"]);
    for id in [1, 2] {
        world.send(kept, Packet::PubAck(ack(id)));
    }
    // The twin: what was acknowledged comes to nobody again.
    world.send(brief, Packet::PubAck(ack(1)));
    assert_eq!(world.disk.kinds(), "suml");

    assert_eq!(world.crash(1).queued, 1);
    // It is sent for the first time to who gets it.
    assert_eq!(back(&mut world), ["PUBLISH t \"2\" q1 #32768"]);
    let kinds = world.disk.kinds();
    assert!(!kinds.contains('l') && kinds.contains('q'), "{kinds}");
    // It is this member's own now.
    world.crash(1);
    assert_eq!(back(&mut world).len(), 1);
}

#[test]
fn nothing_is_stored_where_nobody_of_the_group_is() {
    let mut world = World::new();
    member(&mut world, "brief", v5("c"), Q1);
    member(&mut world, "other", v5("c"), Q1);
    // One that gets nothing that has to be acknowledged is nobody to give it to.
    member(&mut world, "kept", durable("c"), Q0);
    publish_all(&mut world, &["0", "1", "2"], Q1);
    assert_eq!(world.disk.kinds(), "su");
    // From when one joins that does, it is.
    member(&mut world, "later", durable("c"), Q1);
    publish_all(&mut world, &["3", "4", "5", "6"], Q1);
    assert!(world.disk.kinds().contains('l'), "{}", world.disk.kinds());
}

#[test]
fn what_waited_for_a_member_that_left_is_not_taken_off_the_disk_for_one_that_is_not_kept() {
    for qos in [Q1, Q2] {
        let mut world = World::new();
        let narrow = Connect { receive_max: NonZeroU16::new(1), ..durable("c") };
        let kept = member(&mut world, "kept", narrow, qos);
        publish_all(&mut world, &["0", "1", "2", "3"], qos);
        let narrow = Connect { receive_max: NonZeroU16::new(1), ..v5("c") };
        let brief = member(&mut world, "brief", narrow, qos);
        world.lose(kept);
        let had = world.take(brief).len();
        assert_eq!(had, 1, "{qos:?}");
        world.crash(1);
        // One of QoS 2 that was sent goes to nobody else ([MQTT-4.8.2-5]).
        let expected = if qos == Q2 { 3 } else { 4 };
        let kept = world.connect("kept", durable("c"));
        let seen = world.take(kept);
        assert_eq!(seen.iter().filter(|text| text.starts_with("PUBLISH")).count(), expected, "{seen:?}");
    }
}

#[test]
fn whatever_becomes_of_it_nothing_stays_on_disk() {
    type Act = fn(&mut World, ConnId);
    let acts: [Act; 5] = [
        |world, brief| world.lose(brief),
        |world, brief| world.send(brief, unsubscribe([FILTER])),
        |world, _| world.revoke("press"),
        |world, brief| world.send(brief, Packet::PubAck(ack(1))),
        |world, _| world.pass_secs(1_000),
    ];
    for (n, act) in acts.into_iter().enumerate() {
        let mut world = World::new();
        let narrow = Connect { receive_max: NonZeroU16::new(1), ..v5("c") };
        let brief = member(&mut world, "brief", narrow.clone(), Q1);
        let kept = member(&mut world, "kept", durable("c"), Q1);
        world.lose(kept);
        let press = world.client("press");
        for payload in ["0", "1"] {
            world.send(press, Packet::Publish(Box::new(expiring("t", payload, Q1, 100))));
        }
        assert!(world.disk.kinds().contains('l'));
        act(&mut world, brief);
        // The one that is kept takes over what is left, and finishes it.
        let kept = world.connect("kept", durable("c"));
        if world.session("brief", "c").is_some() {
            world.lose(brief);
        }
        for id in (1..4).chain(0x8000..0x8004) {
            world.send(kept, Packet::PubAck(ack(id)));
        }
        assert_eq!(world.disk.kinds(), "su", "{n}");
    }
}

#[test]
fn a_message_that_was_lent_is_nobodys_once_the_group_is_gone() {
    let mut world = World::new();
    let brief = member(&mut world, "brief", v5("c"), Q1);
    let kept = member(&mut world, "kept", durable("c"), Q1);
    publish_all(&mut world, &["0"], Q1);
    assert_eq!(world.take(brief).len(), 1);
    world.send(kept, unsubscribe([FILTER]));
    assert_eq!(world.crash(1).orphans, 2, "the message, and whose it was");
    assert_eq!(back(&mut world), [""; 0]);
    assert_eq!(world.disk.kinds(), "s");
}
