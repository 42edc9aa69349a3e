use super::*;
use midge_policy::{Policy, SubscribeMode};
use std::sync::Arc;

const ID: &str = "spiffe://td/x";

fn id() -> SpiffeId {
    SpiffeId::new(ID).unwrap()
}

fn rights(rule: &str) -> Arc<Rights> {
    let text = format!("[[rule]]\nname = \"r\"\nid = \"{ID}\"\n{rule}\n");
    Policy::from_toml_str(&text, "p.toml").unwrap().rights(&id())
}

fn lines(observer: &Observer) -> Vec<String> {
    observer.observations().iter().map(|seen| serde_json::to_string(seen).unwrap()).collect()
}

fn facts<'a>(qos: QoS, payload_len: usize) -> PublishFacts<'a> {
    PublishFacts { qos, payload_len, ..PublishFacts::default() }
}

fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

#[test]
fn what_is_seen_twice_is_kept_once_with_the_most_it_asked_for() {
    let (id, rights, a) = (id(), rights("publish = [\"a\"]\nsubscribe = [\"a/#\"]"), topic("a"));
    let mut observer = Observer::new(600);
    observer.see(&id, &rights, &Question::Publish { topic: &a, facts: facts(QoS::AtLeastOnce, 3) });
    observer.see(&id, &rights, &Question::Publish { topic: &a, facts: facts(QoS::AtMostOnce, 7) });
    let filter = SharedFilter::new("$share/g/a/#").unwrap();
    let (qos, mode) = (QoS::AtMostOnce, SubscribeMode::Reject);
    observer.see(&id, &rights, &Question::Subscribe { filter: &filter, qos, mode });
    observer.see(&id, &rights, &Question::Receive { topic: &a, group: None });
    let long = topic(&"b".repeat(1_000));
    observer.see(&id, &rights, &Question::Will { topic: &long, facts: facts(QoS::AtMostOnce, 0) });
    assert_eq!(observer.left_out(), 1);
    let lines = lines(&observer);
    assert_eq!(
        lines,
        [
            r#"{"identity":"spiffe://td/x","action":"publish","topic":"a","qos":1,"retain":false,"payload":7,"count":2}"#,
            r#"{"identity":"spiffe://td/x","action":"subscribe","topic":"$share/g/a/#","qos":0,"count":1}"#,
        ]
    );
    assert_eq!(Observation::read(&lines.join("\n"), false).unwrap().seen.len(), 2);
}

#[test]
fn of_what_was_granted_in_part_the_parts_and_the_deliveries_are_kept() {
    let literal = rights("subscribe-literal = [\"g/#\"]\nreceive = [\"g/x\"]");
    let narrow = rights("subscribe = [\"g/a/#\", \"g/b\"]\ndeny-receive = [\"g/a/secret\"]");
    let (id, filter) = (id(), SharedFilter::new("g/#").unwrap());
    let (qos, mode) = (QoS::AtLeastOnce, SubscribeMode::Narrow);
    let mut observer = Observer::new(10_000);
    // Before it is known that not all was granted, nothing says that a delivery is worth keeping.
    observer.see(&id, &literal, &Question::Receive { topic: &topic("g/x"), group: None });
    for rights in [&literal, &narrow] {
        observer.see(&id, rights, &Question::Subscribe { filter: &filter, qos, mode });
    }
    for name in ["g/x", "g/x", "h"] {
        observer.see(&id, &literal, &Question::Receive { topic: &topic(name), group: None });
    }
    observer.see(&id, &literal, &Question::Receive { topic: &topic("g/y"), group: Some("workers") });
    assert_eq!(
        lines(&observer),
        [
            r#"{"identity":"spiffe://td/x","action":"subscribe","topic":"g/#","qos":1,"parts":["g/b"],"count":2}"#,
            r#"{"identity":"spiffe://td/x","action":"receive","topic":"g/x","qos":1,"count":2}"#,
            r#"{"identity":"spiffe://td/x","action":"receive","topic":"g/y","qos":1,"group":"workers","count":1}"#,
        ]
    );
    // Once all of it was granted, that is what was seen.
    let whole = rights("subscribe = [\"g/#\"]");
    observer.see(&id, &whole, &Question::Subscribe { filter: &filter, qos, mode });
    assert_eq!(observer.observations()[0].parts, None);
}

#[test]
fn response_topics_are_kept_as_long_as_there_is_room() {
    let (id, rights, a) = (id(), rights("publish = [\"a\"]"), topic("a"));
    let mut observer = Observer::new(1_000);
    for n in [1, 2, 2, 2] {
        let answer = topic(&format!("answer/{n}"));
        let facts = PublishFacts { response_topic: Some(&answer), ..PublishFacts::default() };
        observer.see(&id, &rights, &Question::Publish { topic: &a, facts });
    }
    assert_eq!(
        lines(&observer),
        [
            r#"{"identity":"spiffe://td/x","action":"publish","topic":"a","qos":0,"retain":false,"payload":0,"response-topics":["answer/1","answer/2"],"count":4}"#
        ]
    );
    let long = topic(&"b".repeat(1_000));
    let facts = PublishFacts { response_topic: Some(&long), ..PublishFacts::default() };
    observer.see(&id, &rights, &Question::Publish { topic: &a, facts });
    assert_eq!((observer.left_out(), observer.observations()[0].response_topics.len()), (1, 2));
}
