//! A disk that has much to catch up with: publishers of what it would have to store are left unread, and nobody else.

use crate::world::*;
use broker_core::{Config, ConnId, StoreTrouble};
use mqtt_proto::*;
use std::time::Duration;

/// A broker with a durable subscriber `ops` to `a` that is away, and a publisher; the disk stores when told.
fn busy(press: Connect) -> (World, ConnId) {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", Q2);
    world.lose(ops);
    let press = world.open("press", press);
    world.disk.is_quick = false;
    world.broker.handle_store_trouble(StoreTrouble::Busy);
    (world, press)
}

fn message(topic: &str, qos: QoS) -> Publish {
    publish(topic, "x", qos)
}

fn packet(publish: Publish) -> Packet {
    Packet::Publish(Box::new(publish))
}

/// How many milliseconds a packet has to wait at least.
fn wait(world: &mut World, conn: ConnId, packet: &Packet) -> Option<u128> {
    let until = world.broker.puts_off(conn, packet, world.now)?;
    Some((until - world.now.mono).as_millis())
}

#[test]
fn only_what_would_be_stored_is_put_off() {
    let retained = |topic, qos| packet(Publish { retain: true, ..message(topic, qos) });
    let stored =
        [packet(message("a", Q1)), packet(message("a", Q2)), retained("other", Q0), retained("a", Q1)];
    let others = [
        packet(message("a", Q0)),
        packet(message("other", Q1)),
        packet(message("other", Q2)),
        packet(message("$no/right", Q1)),
        Packet::PingReq,
        Packet::PubAck(ack(1)),
        Packet::PubRel(ack(1)),
        subscribe([sub("b", Q1)]),
    ];
    for trouble in [StoreTrouble::None, StoreTrouble::Busy, StoreTrouble::Failing, StoreTrouble::Full] {
        let expected = (trouble == StoreTrouble::Busy).then_some(20);
        for (packets, expected) in [(&others[..], None), (&stored, expected)] {
            for packet in packets {
                let (mut world, press) = busy(v5("press"));
                world.broker.handle_store_trouble(trouble);
                assert_eq!(wait(&mut world, press, packet), expected, "{trouble:?} {packet:?}");
            }
        }
    }
}

#[test]
fn a_remembered_route_and_an_alias_count_too() {
    let alias = std::num::NonZeroU16::new(1);
    for topic in ["a", "other"] {
        let (mut world, press) = busy(v5("press"));
        world.broker.handle_store_trouble(StoreTrouble::None);
        world.send(press, packet(Publish { topic_alias: alias, ..message(topic, Q1) }));
        world.broker.handle_store_trouble(StoreTrouble::Busy);
        let again = packet(Publish { topic: None, topic_alias: alias, ..message(topic, Q1) });
        assert_eq!(wait(&mut world, press, &again), (topic == "a").then_some(20));
    }
    // An alias that names nothing ends the connection now as ever.
    let (mut world, press) = busy(v5("press"));
    let ill = packet(Publish { topic: None, topic_alias: alias, ..message("a", Q1) });
    assert_eq!(wait(&mut world, press, &ill), None);
}

#[test]
fn a_release_is_put_off_and_a_repeated_step_is_not() {
    let (mut world, press) = busy(v5("press"));
    world.broker.handle_store_trouble(StoreTrouble::None);
    world.publish(press, "a", "one", Q2);
    world.broker.handle_store_trouble(StoreTrouble::Busy);
    assert_eq!(wait(&mut world, press, &packet(Publish { dup: true, ..message("a", Q2) })), None);
    assert_eq!(wait(&mut world, press, &Packet::PubRel(ack(2))), None);
    assert_eq!(wait(&mut world, press, &Packet::PubRel(ack(1))), Some(20));
    world.broker.handle_store_trouble(StoreTrouble::None);
    world.send(press, Packet::PubRel(ack(1)));
    world.store();
    world.expect(press, ["PUBREC 1 00", "PUBCOMP 1 00"]);
    assert_eq!(world.session("ops", "ops").unwrap().queued, 1);
}

#[test]
fn who_was_put_off_is_heard_once_the_disk_has_caught_up() {
    let (mut world, press) = busy(v5("press"));
    assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), Some(20));
    world.pass(Duration::from_millis(20));
    assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), Some(20));
    world.broker.handle_store_trouble(StoreTrouble::None);
    assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), None);
    world.publish(press, "a", "one", Q1);
    world.quiet(press);
    world.store();
    world.expect(press, ["PUBACK 1 00"]);
}

// Should the disk neither answer nor fail, the rest that may wait is taken slowly.
#[test]
fn nobody_is_left_unread_for_ever() {
    let (mut world, press) = busy(v5("press"));
    let most = Config::default().store_wait_max;
    for _ in 0..2 {
        assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), Some(20));
        world.pass(most - Duration::from_millis(1));
        assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), Some(20));
        world.pass(Duration::from_millis(20));
        assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), None);
        world.publish(press, "a", "one", Q1);
        world.pass(Duration::from_millis(1));
    }
    assert_eq!(world.session("ops", "ops").unwrap().queued, 2);
}

// Who is not read from cannot be heard.
#[test]
fn the_keep_alive_of_who_is_put_off_stands_still() {
    let (mut world, press) = busy(Connect { keep_alive_secs: 1, ..v5("press") });
    for _ in 0..500 {
        assert_eq!(wait(&mut world, press, &packet(message("a", Q1))), Some(20));
        world.pass(Duration::from_millis(20));
    }
    world.quiet(press);
    world.pass(Duration::from_secs(2));
    world.expect(press, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
}

#[test]
fn sessions_and_subscriptions_are_taken_while_the_disk_catches_up() {
    let (mut world, _) = busy(v5("press"));
    let new = world.connect("new", durable("new"));
    world.send(new, subscribe([sub("a", Q1)]));
    world.quiet(new);
    world.store();
    world.expect(new, ["CONNACK 00", "SUBACK 77 [01]"]);
}
