//! A link keeps its messages through lost connections, and its connection through renewals.

use crate::support::{Broker, Ca, Connection, WorkloadApi, soon};
use mapper_sdk::{
    CancellationToken, Clock, IdentityChoice, Link, LinkConfig, LinkEvent, PublishError, Will,
    WorkloadIdentity, WorkloadSource,
};
use midge_identity::Proof;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Packet, PubAck, PubAckProperties, PubAckReason, SubscribeReasonCode,
};
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_link_subscribes_and_carries_messages_both_ways() {
    let mut bench = Bench::start(HOUR).await;
    let mut connection = bench.broker.accept().await;
    assert_eq!(connection.peer.id().path(), "/edge/box/mapper/led");
    assert_eq!(connection.connect.client_id, "led");
    assert!(connection.connect.clean_start);
    assert_eq!(connection.will.take().unwrap().topic, "state");
    connection.connack(false, None).await;
    assert_eq!(connection.suback(&[SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await, ["in/#"]);
    assert_eq!(bench.event().await, LinkEvent::Connected { resumed: false });

    connection.publish("in/1", "hello").await;
    assert_eq!(bench.event().await, LinkEvent::Message { topic: "in/1".into(), payload: "hello".into() });

    bench.link.publish("out", "answer").unwrap();
    let publish = connection.published().await;
    assert_eq!((&*publish.topic, &*publish.payload, publish.dup), (&b"out"[..], &b"answer"[..], false));
}

#[tokio::test]
async fn a_renewed_svid_means_disconnect_and_a_new_connection_with_it_at_once() {
    // Renewals are spread over a tenth of what is left.
    let mut bench = Bench::start(Duration::from_secs(20)).await;
    let mut first = bench.connected().await;
    bench.link.publish("out", "in flight").unwrap();
    let sent = first.published().await;

    bench.renew(Duration::from_secs(30));
    let goodbye = soon(first.try_receive()).await;
    let Some(Packet::Disconnect(Disconnect { reason_code, properties })) = goodbye else {
        panic!("left with {goodbye:?}");
    };
    assert_eq!(reason_code, DisconnectReasonCode::NormalDisconnection);
    assert!(properties.is_none(), "the session's expiry must stay");
    let serial = first.peer.proof().clone();
    drop(first);
    assert_eq!(bench.event().await, LinkEvent::Renewing);

    let mut second = bench.broker.accept().await;
    assert!(
        matches!((&serial, second.peer.proof()), (Proof::X509Svid { serial: old, .. }, Proof::X509Svid { serial: new, .. }) if old != new)
    );
    assert!(!second.connect.clean_start);
    second.connack(true, None).await;
    let again = second.published().await;
    assert_eq!((again.pkid, again.dup, &*again.payload), (sent.pkid, true, &b"in flight"[..]));
    assert_eq!(bench.event().await, LinkEvent::Connected { resumed: true });
}

#[tokio::test]
async fn a_session_that_is_gone_is_subscribed_again_and_nothing_is_lost() {
    let mut bench = Bench::start(HOUR).await;
    let mut first = bench.connected().await;
    for number in 1..=3 {
        bench.link.publish("out", number.to_string()).unwrap();
    }
    let sent = [first.published().await, first.published().await, first.published().await];
    first.puback(sent[1].pkid).await;
    first.publish("in/1", "proves that the answer was read").await;
    drop(first);
    assert!(matches!(bench.event().await, LinkEvent::Message { .. }));
    assert!(matches!(bench.event().await, LinkEvent::Disconnected { .. }));
    bench.link.publish("out", "4").unwrap();

    let mut second = bench.broker.accept().await;
    second.connack(false, None).await;
    assert_eq!(second.suback(&[SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await, ["in/#"]);
    for payload in ["1", "3", "4"] {
        let again = second.published().await;
        assert_eq!((&*again.payload, again.dup), (payload.as_bytes(), false));
        second.puback(again.pkid).await;
    }
    assert_eq!(bench.event().await, LinkEvent::Connected { resumed: false });
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_broker_takes() {
    let bench = Bench::start(HOUR).await;
    let mut connection = bench.broker.accept().await;
    connection.connack(false, Some(2)).await;
    connection.suback(&[SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await;
    for number in 0..40 {
        bench.link.publish("out", number.to_string()).unwrap();
    }
    let mut unanswered = std::collections::VecDeque::new();
    for number in 0..40 {
        if unanswered.len() == 2 {
            connection.puback(unanswered.pop_front().unwrap()).await;
        }
        let publish = connection.published().await;
        assert_eq!(&*publish.payload, number.to_string().as_bytes());
        unanswered.push_back(publish.pkid);
    }
}

#[tokio::test]
async fn a_window_that_shrank_is_kept_when_everything_is_sent_again() {
    let mut bench = Bench::start(HOUR).await;
    let mut first = bench.connected().await;
    for number in 1..=5 {
        bench.link.publish("out", number.to_string()).unwrap();
        first.published().await;
    }
    drop(first);
    let mut second = bench.broker.accept().await;
    second.connack(false, Some(1)).await;
    second.suback(&[SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await;
    for number in 1..=5 {
        let publish = second.published().await;
        assert_eq!(&*publish.payload, number.to_string().as_bytes());
        let early = tokio::time::timeout(Duration::from_millis(50), second.receive()).await;
        assert!(early.is_err(), "sent before {number} was acknowledged: {early:?}");
        second.puback(publish.pkid).await;
    }
}

#[tokio::test]
async fn refusals_are_told_with_the_brokers_reason_and_not_repeated() {
    let mut bench = Bench::start(HOUR).await;
    let mut connection = bench.broker.accept().await;
    connection.connack(false, None).await;
    connection.suback(&[SubscribeReasonCode::NotAuthorized]).await;
    assert_eq!(bench.event().await, LinkEvent::Connected { resumed: false });
    let refused = LinkEvent::SubscriptionRefused { filter: "in/#".into(), reason: "NotAuthorized".into() };
    assert_eq!(bench.event().await, refused);

    bench.link.publish("other/device", "x").unwrap();
    let publish = connection.published().await;
    let reason_string = Some("no rule allows it".to_owned());
    let properties = Some(PubAckProperties { reason_string, user_properties: Vec::new() });
    let reason = PubAckReason::NotAuthorized;
    connection.send(Packet::PubAck(PubAck { pkid: publish.pkid, reason, properties })).await;
    let refused =
        LinkEvent::PublishRefused { topic: "other/device".into(), reason: "no rule allows it".into() };
    assert_eq!(bench.event().await, refused);

    drop(connection);
    let mut second = bench.broker.accept().await;
    second.connack(true, None).await;
    bench.link.publish("out", "next").unwrap();
    assert_eq!(&*second.published().await.payload, b"next");
}

#[tokio::test]
async fn another_server_than_the_broker_gets_nothing() {
    let ca = Ca::new();
    let api = WorkloadApi::start();
    api.issue(&ca, &[(&ca.sign("mapper/led", HOUR), "")]);
    let impostor = Broker::start(&ca, &ca.sign("mapper/other", HOUR)).await;
    let mut link = link(&api, &impostor).await.0;
    assert!(impostor.try_accept().await.is_none());
    let event = soon(link.next()).await.unwrap();
    let LinkEvent::Disconnected { reason } = event else { panic!("{event:?}") };
    assert!(reason.contains("/mapper/other") && reason.contains("/edge/box/broker"), "{reason}");
}

#[tokio::test]
async fn a_planned_end_sends_what_waits_and_takes_back_the_will() {
    let mut bench = Bench::start(HOUR).await;
    let mut connection = bench.connected().await;
    bench.link.publish("state", "offline").unwrap();
    bench.token.cancel();
    let publish = connection.published().await;
    assert_eq!(&*publish.payload, b"offline");
    connection.puback(publish.pkid).await;
    assert!(matches!(connection.receive().await, Packet::Disconnect(_)));
    drop(connection);
    assert_eq!(soon(bench.link.next()).await, None);
    assert_eq!(bench.link.publish("state", "online"), Err(PublishError::Stopped));
}

#[tokio::test]
async fn an_end_by_the_broker_is_told_and_retried() {
    let mut bench = Bench::start(HOUR).await;
    let mut connection = bench.connected().await;
    // DISCONNECT, not authorized, no properties.
    connection.send_bytes(&[0xe0, 2, 0x87, 0]).await;
    let event = bench.event().await;
    assert!(
        matches!(&event, LinkEvent::Disconnected { reason } if reason.contains("NotAuthorized")),
        "{event:?}"
    );
    drop(connection);
    bench.broker.accept().await.connack(true, None).await;
    assert_eq!(bench.event().await, LinkEvent::Connected { resumed: true });
}

#[tokio::test]
async fn without_a_valid_svid_no_connection_is_tried_until_there_is_one() {
    let mut bench = Bench::start(HOUR).await;
    let connection = bench.connected().await;
    bench.api.withdraw();
    while bench.identity.usable().is_some() {
        soon(bench.identity.changes().changed()).await.unwrap();
    }
    drop(connection);
    assert!(matches!(bench.event().await, LinkEvent::Disconnected { .. }));
    assert_eq!(bench.event().await, LinkEvent::Disconnected { reason: "no valid SVID".into() });
    bench.renew(HOUR);
    bench.connected_again().await;
}

#[tokio::test]
async fn the_queue_is_bounded_and_bad_topics_are_refused() {
    let bench = Bench::start(HOUR).await;
    assert_eq!(bench.link.publish("a/+", "x"), Err(PublishError::Topic("a/+".into())));
    assert!(matches!(bench.link.publish("a", vec![0; 300_000]), Err(PublishError::TooLarge(_))));
    let queued = (0..1000).take_while(|_| bench.link.publish("a", "x").is_ok()).count();
    assert_eq!(queued, 256);
    assert_eq!(bench.link.publish("a", "x"), Err(PublishError::QueueFull));
}

struct Bench {
    ca: Ca,
    api: WorkloadApi,
    broker: Broker,
    link: Link,
    identity: Arc<WorkloadIdentity>,
    token: CancellationToken,
}

impl Bench {
    async fn start(ttl: Duration) -> Self {
        let (ca, api) = (Ca::new(), WorkloadApi::start());
        api.issue(&ca, &[(&ca.sign("mapper/led", ttl), "")]);
        let broker = Broker::start(&ca, &ca.sign("broker", HOUR)).await;
        let (link, identity, token) = link(&api, &broker).await;
        Self { ca, api, broker, link, identity, token }
    }

    async fn connected(&mut self) -> Connection {
        let mut connection = self.broker.accept().await;
        connection.connack(false, None).await;
        connection.suback(&[SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await;
        assert_eq!(self.event().await, LinkEvent::Connected { resumed: false });
        connection
    }

    async fn connected_again(&mut self) {
        self.broker.accept().await.connack(true, None).await;
        assert_eq!(self.event().await, LinkEvent::Connected { resumed: true });
    }

    fn renew(&self, ttl: Duration) {
        self.api.issue(&self.ca, &[(&self.ca.sign("mapper/led", ttl), "")]);
    }

    async fn event(&mut self) -> LinkEvent {
        soon(self.link.next()).await.expect("an event")
    }
}

async fn link(api: &WorkloadApi, broker: &Broker) -> (Link, Arc<WorkloadIdentity>, CancellationToken) {
    let token = CancellationToken::new();
    let source = WorkloadSource {
        endpoint: Some(api.endpoint()),
        choice: IdentityChoice::First,
        clock: Clock::system(),
    };
    let identity = Arc::new(soon(WorkloadIdentity::wait(source, &token, |_| ())).await.unwrap());
    let broker_id = "spiffe://example.org/edge/box/broker".parse().unwrap();
    let config = LinkConfig {
        subscriptions: vec!["in/#".into()],
        will: Some(Will { topic: "state".into(), payload: b"offline".to_vec() }),
        ..LinkConfig::new("127.0.0.1", broker.port(), broker_id, "led")
    };
    (Link::open(config, Arc::clone(&identity), token.clone()), identity, token)
}
