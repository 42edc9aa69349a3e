//! What is told and what is not: Response Information, Request Problem Information, reason strings, and
//! the properties that travel with a message.

use crate::world::*;
use bytes::Bytes;
use mqtt_proto::{Connect, Packet, Publish, PublishProperties, QoS, Will};
use std::sync::Arc;

fn asking(client_id: &str) -> Connect {
    Connect { request_response_info: true, ..v5(client_id) }
}

fn response_info(world: &mut World, connect: Connect) -> Option<String> {
    let conn = world.open("app/one", connect);
    world.connack(conn).response_info.as_deref().map(str::to_owned)
}

// [MQTT-3.1.2-28]
#[test]
fn response_information_is_told_to_who_asks_for_it() {
    let mut world = World::new();
    assert_eq!(response_info(&mut world, v5("c")), None);
    assert_eq!(response_info(&mut world, asking("c")).as_deref(), Some("response/app/one"));
    let mut world = World::limited(|config| config.response_prefix = None);
    assert_eq!(response_info(&mut world, asking("c")), None);
}

#[test]
fn response_information_names_only_topics_that_the_identity_may_subscribe_to() {
    let mut world = World::ruled(vec![allow("app/one", &[], &["response/app/two/#"])]);
    assert_eq!(response_info(&mut world, asking("c")), None);
    let mut world = World::ruled(vec![allow("app/one", &[], &["response/app/one/#"])]);
    assert_eq!(response_info(&mut world, asking("c")).as_deref(), Some("response/app/one"));
    // With a hole in it, answers could be lost without a word.
    let mut holed = allow("app/one", &[], &["response/app/one/#"]);
    holed.deny_receive = vec!["response/app/one/secret".into()];
    let mut world = World::ruled(vec![holed]);
    assert_eq!(response_info(&mut world, asking("c")), None);
}

// [MQTT-3.1.2-24]
#[test]
fn response_information_gives_way_to_a_small_packet_size() {
    let mut world = World::new();
    let roomy = Connect { packet_size_max: Some(64), ..asking("c") };
    assert!(response_info(&mut world, roomy).is_some());
    let narrow = Connect { packet_size_max: Some(24), ..asking("c") };
    assert_eq!(response_info(&mut world, narrow), None);
}

fn denied_answers(connect: Connect) -> (Vec<String>, Vec<String>) {
    let mut world = World::ruled(vec![allow("app/one", &["mine"], &["mine"])]);
    let conn = world.open("app/one", connect);
    world.publish(conn, "yours", "x", Q1);
    world.send(conn, subscribe([sub("yours", Q0)]));
    (world.take(conn), world.reason_strings(conn))
}

// [MQTT-3.1.2-29]
#[test]
fn reason_strings_of_acknowledgements_are_for_who_wants_them() {
    let (seen, strings) = denied_answers(v5("c"));
    assert_eq!(seen, ["PUBACK 1 87", "SUBACK 77 [87]"]);
    assert_eq!(strings, ["not authorized to publish this"]);
    let (seen, strings) = denied_answers(Connect { request_problem_info: false, ..v5("c") });
    assert_eq!(seen, ["PUBACK 1 87", "SUBACK 77 [87]"]);
    assert_eq!(strings, [""; 0]);
}

// The rule, the topic of the rule and the reason are the operator's.
#[test]
fn a_denial_tells_the_client_nothing_about_the_policy() {
    let mut deny = allow("app/one", &["#"], &["#"]);
    deny.name = "secret-rule".into();
    deny.deny_publish = vec!["vault/+".into()];
    let mut world = World::ruled(vec![deny]);
    let refused = world.connect("app/one", Connect { will: will("vault/a", "x", 0), ..v5("w") });
    let conn = world.open("app/one", v5("c"));
    world.publish(conn, "vault/b", "x", Q1);
    world.publish(conn, "vault/c", "x", Q2);
    let mut told = world.reason_strings(refused);
    told.extend(world.reason_strings(conn));
    assert_eq!(told.len(), 3);
    for text in told {
        assert!(!text.contains("secret-rule") && !text.contains("vault"), "{text}");
    }
    assert!(world.audits().iter().any(|event| event.contains("secret-rule")));
}

fn user_properties() -> Vec<(Arc<str>, Arc<str>)> {
    [("b", "1"), ("a", "2"), ("b", "1"), ("b", "0")].map(|(name, value)| (name.into(), value.into())).into()
}

// [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.1.3-10]
#[test]
fn user_properties_stay_in_order_live_retained_queued_and_in_wills() {
    let mut world = World::new();
    let properties =
        Arc::new(PublishProperties { user_properties: user_properties(), ..PublishProperties::default() });
    let reader = world.open("app/reader", durable("r"));
    world.subscribe(reader, "#", Q1);
    let mut leaving = v5("w");
    let mut last = will("last", "w", 0).unwrap();
    last.message.properties = Some(Arc::clone(&properties));
    leaving.will = Some(Will { ..last });
    let leaver = world.open("app/leaver", leaving);
    let message = |topic: &str, qos: QoS, retain: bool| {
        let properties = Some(Arc::clone(&properties));
        Packet::Publish(Box::new(Publish { properties, retain, ..publish(topic, "x", qos) }))
    };
    let press = world.client("app/press");
    world.send(press, message("live", Q0, false));
    world.send(press, message("kept", Q0, true));
    world.lose(leaver);
    world.lose(reader);
    world.send(press, message("queued", Q1, false));
    world.drain();
    let reader = world.connect("app/reader", durable("r"));
    let late = world.client("app/late");
    world.subscribe(late, "kept", Q0);
    let mut topics = Vec::new();
    for (conn, delivery) in world.deliveries() {
        let publication = delivery.message.publication();
        assert_eq!(publication.properties.as_ref().unwrap().user_properties, user_properties());
        topics.push((conn == late, publication.topic.to_string()));
    }
    let expected = [(false, "live"), (false, "kept"), (false, "last"), (false, "queued"), (true, "kept")];
    assert_eq!(topics, expected.map(|(late, topic)| (late, topic.to_owned())));
    assert!(world.take(reader).len() >= 2);
}

// MQTT 5.0 §3.1.3.6: a password is binary data, and says nothing about who somebody is here.
#[test]
fn passwords_are_any_bytes_and_a_user_name_may_be_missing() {
    let mut world = World::new();
    let password = Some(Bytes::from_static(&[0, 0xFF, 0xFE, 0xC0]));
    world.open("app/one", Connect { password: password.clone(), ..v5("c") });
    world.open("app/one", Connect { password, username: Some("u".into()), ..v311("d") });
}
