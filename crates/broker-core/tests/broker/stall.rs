//! A disk that is slow or full: what waits for it, what does not, and that nothing is promised too early.

use crate::world::*;
use broker_core::{ConnId, StoreTrouble};
use midge_policy::Rule;
use mqtt_proto::*;

/// A broker with a durable subscriber `ops` to `a`, and a publisher; from here on the disk stores when told.
fn slow(qos: QoS, press: Connect) -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.subscribe(ops, "a", qos);
    let press = world.open("press", press);
    world.disk.is_quick = false;
    (world, ops, press)
}

fn numbered(topic: &str, id: u16, qos: QoS) -> Packet {
    Packet::Publish(Box::new(Publish { packet_id: Some(pid(id)), ..publish(topic, "x", qos) }))
}

#[test]
fn puback_waits_for_the_store_and_the_message_does_not() {
    let (mut world, ops, press) = slow(Q1, v5("press"));
    world.publish(press, "a", "one", Q1);
    world.expect(ops, ["PUBLISH a \"one\" q1 #1"]);
    world.quiet(press);
    world.store();
    world.expect(press, ["PUBACK 1 00"]);
}

#[test]
fn what_needs_no_store_does_not_wait() {
    let (mut world, ops, press) = slow(Q1, v5("press"));
    world.publish(press, "a", "one", Q1);
    world.take(ops);
    world.publish(press, "a", "two", Q0);
    world.expect(ops, ["PUBLISH a \"two\" q0"]);
    world.send(press, Packet::PingReq);
    world.expect(press, ["PINGRESP"]);
    let other = world.client("other");
    world.publish(other, "elsewhere", "x", Q1);
    world.expect(other, ["PUBACK 1 10"]);
}

// [MQTT-4.6.0-2]: in the order of the PUBLISH packets, also where one of them would not have to wait.
#[test]
fn acknowledgements_keep_their_order() {
    let (mut world, _, press) = slow(Q1, v5("press"));
    world.send(press, numbered("a", 1, Q1));
    world.send(press, numbered("elsewhere", 2, Q1));
    world.send(press, numbered("a", 3, Q1));
    world.quiet(press);
    world.disk.pending.truncate(2);
    world.store();
    world.expect(press, ["PUBACK 1 00", "PUBACK 2 10", "PUBACK 3 00"]);
}

// Who says that nothing more comes may still listen.
#[test]
fn who_has_left_gets_the_answers_that_it_is_owed_and_nothing_more() {
    let (mut world, ops, press) = slow(Q1, Connect { will: will("a", "gone", 0), ..durable("press") });
    world.disk.is_quick = true;
    let reader = world.open("reader", durable("reader"));
    world.disk.is_quick = false;
    world.send(press, subscribe([sub("b", Q2)]));
    world.send(press, numbered("a", 1, Q1));
    world.send(press, numbered("elsewhere", 2, Q1));
    world.end_input(press);
    world.quiet(press);
    // What comes later for it does not keep it.
    world.publish(reader, "b", "late", Q2);
    world.disk.pending.pop();
    world.store();
    world.expect(press, ["SUBACK 77 [02]", "PUBACK 1 00", "PUBACK 2 10", "CLOSE Lost(Eof)"]);
    assert!(world.session("press", "press").is_some());
    // The twin: who is owed nothing has left at once.
    world.take(ops);
    world.end_input(ops);
    world.expect(ops, ["CLOSE Lost(Eof)"]);
}

#[test]
fn who_has_left_is_kept_until_the_last_answer() {
    let (mut world, _, press) = slow(Q1, v5("press"));
    world.send(press, numbered("a", 1, Q1));
    world.send(press, numbered("a", 2, Q1));
    world.end_input(press);
    let ticket = world.disk.commit_some(1).unwrap();
    world.broker.handle_stored(ticket, world.now);
    world.drain();
    world.expect(press, ["PUBACK 1 00"]);
    world.store();
    world.expect(press, ["PUBACK 2 00", "CLOSE Lost(Eof)"]);
}

#[test]
fn who_has_left_is_not_kept_by_a_disk_that_never_answers() {
    let (mut world, ops, press) = slow(Q1, Connect { will: will("a", "gone", 0), ..v5("press") });
    world.publish(press, "a", "one", Q1);
    world.end_input(press);
    world.expect(ops, ["PUBLISH a \"one\" q1 #1"]);
    world.lose(press);
    world.expect(ops, ["PUBLISH a \"gone\" q0"]);
    world.store();
    world.quiet(press);
}

// A message that was delivered and acknowledged before the disk came to it is still to be acknowledged.
#[test]
fn an_acknowledgement_of_what_is_gone_already_is_given() {
    let (mut world, ops, press) = slow(Q1, v5("press"));
    world.publish(press, "a", "one", Q1);
    world.send(ops, Packet::PubAck(ack(1)));
    world.store();
    world.expect(press, ["PUBACK 1 00"]);
    assert_eq!(world.disk.kinds(), "su");
}

#[test]
fn each_step_of_qos2_waits_for_the_store() {
    let (mut world, ops, press) = slow(Q2, durable("press"));
    world.store();
    world.publish(press, "a", "one", Q2);
    world.quiet(press);
    world.store();
    world.expect(press, ["PUBREC 1 00"]);
    world.send(press, Packet::PubRel(ack(1)));
    world.quiet(press);
    world.quiet(ops);
    world.store();
    world.expect(press, ["PUBCOMP 1 00"]);
    world.expect(ops, ["PUBLISH a \"one\" q2 #1"]);
    world.send(ops, Packet::PubRec(ack(1)));
    world.quiet(ops);
    world.store();
    world.expect(ops, ["PUBREL 1 00"]);
}

// The repetition of a step promises no more than the step itself.
#[test]
fn a_repeated_step_waits_for_the_first_also_on_another_connection() {
    let (mut world, _, press) = slow(Q2, durable("press"));
    world.store();
    world.publish(press, "a", "one", Q2);
    world.lose(press);
    let press = world.connect("press", durable("press"));
    world.expect(press, ["CONNACK 00 present"]);
    world.publish(press, "a", "one", Q2);
    world.quiet(press);
    world.store();
    world.expect(press, ["PUBREC 1 00"]);

    world.send(press, Packet::PubRel(ack(1)));
    world.lose(press);
    let press = world.connect("press", durable("press"));
    world.send(press, Packet::PubRel(ack(1)));
    world.expect(press, ["CONNACK 00 present"]);
    world.store();
    world.expect(press, ["PUBCOMP 1 92"]);
}

#[test]
fn a_message_under_way_is_sent_again_only_once_it_is_stored() {
    let (mut world, ops, press) = slow(Q2, v5("press"));
    world.publish(press, "a", "one", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.lose(ops);
    let ops = world.connect("ops", durable("ops"));
    world.expect(ops, ["CONNACK 00 present"]);
    world.store();
    world.expect(ops, ["PUBLISH a \"one\" q2 #1 dup"]);
}

// [MQTT-3.2.0-1], [MQTT-3.2.2-3]: a session is promised once it is stored, and nothing comes before that.
#[test]
fn connack_of_a_new_session_waits_and_everything_behind_it() {
    let mut world = World::new();
    world.disk.is_quick = false;
    let ops = world.connect("ops", durable("ops"));
    world.send(ops, Packet::PingReq);
    world.send(ops, subscribe([sub("a", Q1)]));
    let press = world.client("press");
    world.publish(press, "a", "one", Q1);
    world.quiet(ops);
    world.store();
    world.expect(ops, ["CONNACK 00", "PINGRESP", "SUBACK 77 [01]", "PUBLISH a \"one\" q1 #32768"]);
}

// [MQTT-3.14.0-1].
#[test]
fn a_connection_that_ends_before_its_connack_gets_no_disconnect() {
    let mut world = World::new();
    world.disk.is_quick = false;
    let ops = world.connect("ops", durable("ops"));
    world.broker.handle_malformed(ops, ReasonCode::MalformedPacket, world.now);
    world.drain();
    world.expect(ops, ["CLOSE Protocol(MalformedPacket)"]);
}

#[test]
fn suback_and_unsuback_of_a_stored_session_wait() {
    let mut world = World::new();
    let ops = world.open("ops", durable("ops"));
    world.disk.is_quick = false;
    world.send(ops, subscribe([sub("a", Q1)]));
    world.quiet(ops);
    world.store();
    world.expect(ops, ["SUBACK 77 [01]"]);
    // The same again: there is nothing to store.
    world.send(ops, subscribe([sub("a", Q1)]));
    world.expect(ops, ["SUBACK 77 [01]"]);
    world.send(ops, unsubscribe(["a"]));
    world.quiet(ops);
    world.store();
    world.expect(ops, ["UNSUBACK 78 [00]"]);
}

#[test]
fn a_failing_disk_is_told_to_5_0_clients_and_stalls_those_of_3_1_1() {
    let (mut world, ops, press) = slow(Q1, v5("press"));
    let old = world.open("old", v311("old"));
    world.broker.handle_store_trouble(StoreTrouble::Failing);
    world.publish(press, "a", "refused", Q1);
    world.expect(press, ["PUBACK 1 97"]);
    world.publish(press, "a", "refused", Q2);
    world.expect(press, ["PUBREC 1 97"]);
    world.quiet(ops);
    world.publish(press, "elsewhere", "x", Q1);
    world.expect(press, ["PUBACK 1 10"]);
    world.publish(press, "a", "live", Q0);
    world.expect(ops, ["PUBLISH a \"live\" q0"]);

    world.publish(old, "a", "late", Q1);
    world.quiet(old);
    world.expect(ops, ["PUBLISH a \"late\" q1 #1"]);

    world.broker.handle_store_trouble(StoreTrouble::None);
    world.store();
    world.expect(old, ["PUBACK 1 00"]);
    world.publish(press, "a", "accepted", Q1);
    world.store();
    world.expect(press, ["PUBACK 1 00"]);
}

#[test]
fn when_no_more_may_wait_a_3_1_1_client_is_disconnected() {
    let (mut world, _, _) = slow(Q1, v5("press"));
    let old = world.open("old", v311("old"));
    world.broker.handle_store_trouble(StoreTrouble::Full);
    world.publish(old, "elsewhere", "x", Q1);
    world.expect(old, ["PUBACK 1 00"]);
    world.publish(old, "a", "x", Q1);
    world.expect(old, ["CLOSE Protocol(QuotaExceeded)"]);
}

#[test]
fn on_a_failing_disk_old_sessions_go_on_and_new_ones_are_refused() {
    let (mut world, ops, press) = slow(Q1, v5("press"));
    world.publish(press, "a", "one", Q1);
    world.lose(ops);
    world.broker.handle_store_trouble(StoreTrouble::Failing);
    let connect = Connect { will: will("gone", "x", 0), ..durable("ops") };
    let ops = world.connect("ops", connect);
    world.expect(ops, ["CONNACK 00 present", "PUBLISH a \"one\" q1 #1 dup"]);
    world.send(ops, subscribe([sub("a", Q1), sub("b", Q1)]));
    world.expect(ops, ["SUBACK 77 [01 97]"]);
    let new = world.connect("new", durable("new"));
    world.expect(new, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    world.client("brief");
}

/// A message of QoS 2 to `ops` that waits for the disk, of a publisher at QoS 0 to whom nothing is owed.
fn gated(message: Publish, rules: Vec<Rule>) -> (World, ConnId) {
    let mut world = World::ruled(rules);
    let ops = world.open("ops", Connect { receive_max: std::num::NonZeroU16::new(1), ..durable("ops") });
    world.subscribe(ops, "a", Q2);
    let press = world.client("press");
    world.disk.is_quick = false;
    world.send(press, Packet::Publish(Box::new(message)));
    world.send(press, Packet::PubRel(ack(1)));
    world.quiet(ops);
    (world, ops)
}

fn rules() -> Vec<Rule> {
    vec![allow("press", &["a"], &[]), allow("ops", &[], &["a"]), allow("other", &["a"], &[])]
}

/// Its place is free again, in the window and in the store.
fn is_let_go(mut world: World, ops: ConnId) {
    world.store();
    world.quiet(ops);
    assert_eq!(world.session("ops", "ops").unwrap().inflight, 0);
    world.set_rules(rules());
    let other = world.client("other");
    world.publish(other, "a", "next", Q1);
    world.store();
    world.expect(ops, ["PUBLISH a \"next\" q1 #2"]);
    world.send(ops, Packet::PubAck(ack(2)));
    world.store();
    assert_eq!(world.disk.kinds().replace(['s', 'u'], ""), "");
}

#[test]
fn what_waits_for_the_disk_leaves_only_with_the_rights_of_then() {
    let message = || publish("a", "one", Q2);
    // The twin.
    let (mut world, ops) = gated(message(), rules());
    world.store();
    world.expect(ops, ["PUBLISH a \"one\" q2 #1"]);
    // The publisher's right is gone.
    let (mut world, ops) = gated(message(), rules());
    world.set_rules(vec![allow("ops", &[], &["a"])]);
    is_let_go(world, ops);
    // The publisher was revoked, and what it left purged or not yet.
    for settling in [true, false] {
        let (mut world, ops) = gated(message(), rules());
        world.settling = settling;
        world.revoke("press");
        world.settling = true;
        is_let_go(world, ops);
    }
    // The receiver's right to this topic is gone, and comes back.
    let (mut world, ops) = gated(message(), rules());
    world.settling = false;
    world.set_rules(vec![allow("press", &["a"], &[]), allow("other", &["a"], &[])]);
    world.store();
    world.quiet(ops);
}

#[test]
fn what_waits_for_the_disk_leaves_only_before_its_time_is_over() {
    let properties = PublishProperties { message_expiry_secs: Some(5), ..PublishProperties::default() };
    let message =
        || Publish { properties: Some(std::sync::Arc::new(properties.clone())), ..publish("a", "one", Q2) };
    let (mut world, ops) = gated(message(), rules());
    world.pass_secs(3);
    world.store();
    world.expect(ops, ["PUBLISH a \"one\" q2 #1 expiry=2"]);
    let (mut world, ops) = gated(message(), rules());
    world.pass_secs(5);
    is_let_go(world, ops);
}

// The client may know the message of an earlier connection: its identifier stays taken, its place in the window not.
#[test]
fn what_was_to_be_sent_again_keeps_its_identifier() {
    let (mut world, ops) = gated(publish("a", "one", Q2), rules());
    world.lose(ops);
    let ops = world.connect("ops", Connect { receive_max: std::num::NonZeroU16::new(1), ..durable("ops") });
    world.set_rules(vec![allow("ops", &[], &["a"])]);
    world.store();
    world.expect(ops, ["CONNACK 00 present"]);
    assert_eq!(world.session("ops", "ops").unwrap().inflight, 1);
    world.set_rules(rules());
    let other = world.client("other");
    world.publish(other, "a", "next", Q1);
    world.expect(ops, ["PUBLISH a \"next\" q1 #2"]);
    world.send(ops, Packet::PubRec(ack(1)));
    world.store();
    world.expect(ops, ["PUBREL 1 00"]);
    world.send(ops, Packet::PubComp(ack(1)));
    assert_eq!(world.session("ops", "ops").unwrap().inflight, 1);
}

// [MQTT-3.3.2-11]: what overtakes a message that waits for the disk does not go by an alias which that one is to set.
#[test]
fn what_waits_for_the_disk_sets_no_alias_for_what_overtakes_it() {
    let mut world = World::new();
    let ops = world.open("ops", Connect { topic_alias_max: 1, ..durable("ops") });
    world.subscribe(ops, "a", Q2);
    let press = world.client("press");
    world.disk.is_quick = false;
    world.publish(press, "a", "slow", Q2);
    world.send(press, Packet::PubRel(ack(1)));
    world.publish(press, "a", "quick", Q0);
    world.expect(ops, ["PUBLISH a \"quick\" q0"]);
    world.store();
    world.expect(ops, ["PUBLISH a \"slow\" q2 #1"]);
}
