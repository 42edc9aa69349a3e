//! Against a broker whose every word is written down in the test.

use super::client::Client;
use super::options::Session;
use crate::cli::{Cli, Command};
use crate::exit::{self, Failure};
use crate::output::Output;
use bytes::BytesMut;
use clap::Parser as _;
use mqtt_proto::{
    Ack, ConnAck, Connect, Decoder, Limits, Packet, PacketId, Publish, QoS, ReasonCode, SubAck, TopicName,
    Version,
};
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::Packet as Received;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// One connection, seen from the broker.
struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        Self { stream, decoder: Decoder::server(Limits::default()), buffer: BytesMut::new() }
    }

    /// Takes CONNECT and answers it.
    async fn welcome(listener: &TcpListener, session_present: bool) -> (Self, Connect) {
        let mut peer = Self::accept(listener).await;
        let Some(Packet::Connect(connect)) = peer.packet().await else { panic!("no CONNECT") };
        let answer = ConnAck { session_present, ..ConnAck::new(ReasonCode::Success) };
        peer.say(Packet::ConnAck(Box::new(answer))).await;
        (peer, *connect)
    }

    /// The next packet; none when the client has closed the connection.
    async fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(packet);
            }
            let read = timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.unwrap();
            if read.is_err() || read.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn say(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        mqtt_proto::encode(&packet, Version::V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn publish(&mut self) -> Publish {
        match self.packet().await {
            Some(Packet::Publish(publish)) => *publish,
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    /// Takes SUBSCRIBE and answers it.
    async fn subscription(&mut self, reasons: Vec<ReasonCode>) {
        let Some(Packet::Subscribe(subscribe)) = self.packet().await else { panic!("no SUBSCRIBE") };
        let answer = SubAck { packet_id: subscribe.packet_id, info: mqtt_proto::Info::default(), reasons };
        self.say(Packet::SubAck(Box::new(answer))).await;
    }

    async fn leaves(&mut self) {
        assert!(matches!(self.packet().await, Some(Packet::Disconnect(_))));
    }
}

async fn broker() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn ack(packet_id: PacketId, reason: ReasonCode) -> Ack {
    Ack { packet_id, reason, info: None }
}

fn message(packet_id: u16, dup: bool, payload: &'static str) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup,
        qos: QoS::ExactlyOnce,
        retain: false,
        topic: Some(TopicName::new("a/b").unwrap()),
        packet_id: Some(id(packet_id)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: payload.into(),
    }))
}

async fn run(broker: &str, words: &str) -> anyhow::Result<()> {
    let words: Vec<&str> =
        ["midge"].into_iter().chain(words.split(' ')).chain(["--broker", broker]).collect();
    match Cli::try_parse_from(words).unwrap().command {
        Command::Pub(arguments) => super::publish(arguments, Output::Json).await,
        Command::Sub(arguments) => super::subscribe(arguments, Output::Json).await,
        other => panic!("{other:?}"),
    }
}

fn failure(ended: anyhow::Result<()>) -> (u8, String) {
    let error = ended.unwrap_err();
    (error.downcast_ref::<Failure>().unwrap().code, error.to_string())
}

async fn client(broker: &str) -> Client {
    let words = ["midge", "sub", "-t", "a/b", "--id", "c", "--broker", broker];
    let Command::Sub(arguments) = Cli::try_parse_from(words).unwrap().command else { panic!() };
    Client::open(&arguments.target, Session { clean_start: false, expiry_secs: 60 }).await.unwrap()
}

/// Takes the next message and acknowledges it; tells whether it is new.
async fn take(client: &mut Client) -> bool {
    loop {
        if let Event::Incoming(Received::Publish(publish)) =
            timeout(SOON, client.next()).await.unwrap().unwrap()
        {
            let new = client.is_new(&publish);
            client.acknowledge(&publish).unwrap();
            return new;
        }
    }
}

async fn lost(client: &mut Client) {
    while timeout(SOON, client.next()).await.unwrap().is_ok() {}
}

#[tokio::test]
async fn a_publication_ends_with_its_acknowledgement() {
    for (qos, expected) in [("0", QoS::AtMostOnce), ("1", QoS::AtLeastOnce), ("2", QoS::ExactlyOnce)] {
        let (listener, url) = broker().await;
        let words = format!("pub -t a/b -m hello -r -q {qos} --spiffeID spiffe://t/a --will-topic w");
        let (ended, ()) = tokio::join!(run(&url, &words), async {
            let (mut peer, connect) = Peer::welcome(&listener, false).await;
            assert_eq!(connect.username.as_deref(), Some("spiffe://t/a"));
            let will = connect.will.unwrap().message;
            assert_eq!((will.topic.as_str(), &will.payload[..]), ("w", &b"gone"[..]));
            let publish = peer.publish().await;
            assert_eq!((publish.qos, publish.retain, &publish.payload[..]), (expected, true, &b"hello"[..]));
            match (expected, publish.packet_id) {
                (QoS::AtLeastOnce, Some(id)) => {
                    peer.say(Packet::PubAck(ack(id, ReasonCode::NoMatchingSubscribers))).await
                }
                (QoS::ExactlyOnce, Some(id)) => {
                    peer.say(Packet::PubRec(ack(id, ReasonCode::Success))).await;
                    assert!(matches!(peer.packet().await, Some(Packet::PubRel(_))));
                    peer.say(Packet::PubComp(ack(id, ReasonCode::Success))).await;
                }
                _ => {}
            }
            peer.leaves().await;
        });
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_refused_publication_names_topic_and_reason() {
    for qos in ["1", "2"] {
        let (listener, url) = broker().await;
        let words = format!("pub -t a/b -m x -q {qos}");
        let (ended, ()) = tokio::join!(run(&url, &words), async {
            let (mut peer, _) = Peer::welcome(&listener, false).await;
            let answer = ack(peer.publish().await.packet_id.unwrap(), ReasonCode::NotAuthorized);
            peer.say(if qos == "1" { Packet::PubAck(answer) } else { Packet::PubRec(answer) }).await;
        });
        assert_eq!(
            failure(ended),
            (exit::NO, "the broker refused to publish to `a/b`: Not authorized".into())
        );
    }
}

#[tokio::test]
async fn a_refused_connection_ends_pub_and_sub_at_once() {
    for (words, reason, code) in [
        ("pub -t a -m x", ReasonCode::NotAuthorized, exit::PERMISSION),
        ("sub -t a", ReasonCode::NotAuthorized, exit::PERMISSION),
        ("sub -t a", ReasonCode::ServerUnavailable, exit::UNAVAILABLE),
    ] {
        let (listener, url) = broker().await;
        let (ended, ()) = tokio::join!(run(&url, words), async {
            let mut peer = Peer::accept(&listener).await;
            peer.packet().await;
            peer.say(Packet::ConnAck(Box::new(ConnAck::new(reason)))).await;
        });
        let (ended, text) = failure(ended);
        assert_eq!(ended, code);
        assert!(text.starts_with(&url) && text.contains("refused the connection"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_a_refusal() {
    let (listener, url) = broker().await;
    let (ended, ()) = tokio::join!(run(&url, "sub -t a"), async {
        let mut peer = Peer::accept(&listener).await;
        peer.packet().await;
    });
    assert_eq!(failure(ended).0, exit::PERMISSION);
}

#[tokio::test]
async fn a_broker_that_is_away_or_silent_is_unavailable() {
    let (listener, url) = broker().await;
    let silent = run(&url, "pub -t a -m x --timeout 1").await;
    assert_eq!(failure(silent).0, exit::UNAVAILABLE);
    drop(listener);
    for words in ["pub -t a -m x", "sub -t a"] {
        let (code, text) = failure(run(&url, words).await);
        assert_eq!(code, exit::UNAVAILABLE);
        assert!(text.contains("nobody listens"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_told() {
    let (listener, url) = broker().await;
    let (ended, ()) = tokio::join!(run(&url, "pub -t a -m x"), async {
        let (mut peer, _) = Peer::welcome(&listener, false).await;
        peer.publish().await;
    });
    let (code, text) = failure(ended);
    assert_eq!(code, exit::UNAVAILABLE);
    assert!(text.contains("may not have been published"), "{text}");
}

#[tokio::test]
async fn a_subscription_that_stands_is_enough_for_count_0() {
    let (listener, url) = broker().await;
    let (ended, connect) = tokio::join!(run(&url, "sub -t a/# -C 0"), async {
        let (mut peer, connect) = Peer::welcome(&listener, false).await;
        peer.subscription(vec![ReasonCode::GrantedQos1]).await;
        peer.leaves().await;
        connect
    });
    ended.unwrap();
    assert!(connect.clean_start && connect.client_id.starts_with("midge-"));
    assert_eq!(connect.session_expiry_secs.unwrap_or(0), 0);
}

#[tokio::test]
async fn each_refused_filter_is_named() {
    let (listener, url) = broker().await;
    let (ended, ()) = tokio::join!(run(&url, "sub -t a/b -t # -t $SYS/#"), async {
        let (mut peer, _) = Peer::welcome(&listener, false).await;
        let denied = ReasonCode::NotAuthorized;
        peer.subscription(vec![ReasonCode::GrantedQos1, denied, denied]).await;
    });
    let text = "the broker refused to subscribe to `#`: Not authorized, `$SYS/#`: Not authorized";
    assert_eq!(failure(ended), (exit::NO, text.into()));
}

#[tokio::test]
async fn a_client_id_makes_a_session_that_outlives_a_loss() {
    let (listener, url) = broker().await;
    let (ended, ()) = tokio::join!(run(&url, "sub -t a/b --id me -q 2 -C 2"), async {
        let (mut peer, connect) = Peer::welcome(&listener, false).await;
        assert!(!connect.clean_start);
        assert_eq!((&*connect.client_id, connect.session_expiry_secs), ("me", Some(3600)));
        peer.subscription(vec![ReasonCode::GrantedQos2]).await;
        peer.say(message(1, false, "one")).await;
        assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
        drop(peer);
        // Nothing is subscribed again in a session that is still there.
        let (mut peer, connect) = Peer::welcome(&listener, true).await;
        assert_eq!(&*connect.client_id, "me");
        peer.say(Packet::PubRel(ack(id(1), ReasonCode::Success))).await;
        assert!(matches!(peer.packet().await, Some(Packet::PubComp(_))));
        peer.say(message(2, false, "two")).await;
        assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
        peer.leaves().await;
    });
    ended.unwrap();
}

#[tokio::test]
async fn a_session_that_is_gone_is_subscribed_again() {
    let (listener, url) = broker().await;
    let (ended, ()) = tokio::join!(run(&url, "sub -t a/b --id me -C 1"), async {
        let (mut peer, _) = Peer::welcome(&listener, false).await;
        peer.subscription(vec![ReasonCode::GrantedQos1]).await;
        drop(peer);
        let (mut peer, _) = Peer::welcome(&listener, false).await;
        peer.subscription(vec![ReasonCode::GrantedQos1]).await;
        peer.say(message(1, false, "one")).await;
        assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
        peer.leaves().await;
    });
    ended.unwrap();
}

#[tokio::test]
async fn a_qos_2_message_is_taken_once_however_often_it_comes() {
    let (listener, url) = broker().await;
    let mut client = client(&url).await;
    let ((), ()) = tokio::join!(
        async {
            client.connect().await.unwrap();
            assert!(take(&mut client).await);
            lost(&mut client).await;
            client.connect().await.unwrap();
            assert!(!take(&mut client).await, "the same message again");
            assert!(take(&mut client).await, "another message with the id that is free again");
            lost(&mut client).await;
        },
        async {
            let (mut peer, _) = Peer::welcome(&listener, false).await;
            peer.say(message(7, false, "one")).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
            drop(peer);
            let (mut peer, _) = Peer::welcome(&listener, true).await;
            peer.say(message(7, true, "one")).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
            peer.say(Packet::PubRel(ack(id(7), ReasonCode::Success))).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubComp(_))));
            peer.say(message(7, false, "two")).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
        }
    );
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_answered_again() {
    let (listener, url) = broker().await;
    let mut client = client(&url).await;
    let ((), ()) = tokio::join!(
        async {
            client.connect().await.unwrap();
            assert!(take(&mut client).await);
            lost(&mut client).await;
            client.connect().await.unwrap();
            assert!(take(&mut client).await);
            lost(&mut client).await;
        },
        async {
            let (mut peer, _) = Peer::welcome(&listener, false).await;
            peer.say(message(7, false, "one")).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
            peer.say(Packet::PubRel(ack(id(7), ReasonCode::Success))).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubComp(_))));
            drop(peer);
            let (mut peer, _) = Peer::welcome(&listener, true).await;
            peer.say(Packet::PubRel(ack(id(7), ReasonCode::Success))).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubComp(_))));
            peer.say(message(8, false, "two")).await;
            assert!(matches!(peer.packet().await, Some(Packet::PubRec(_))));
        }
    );
}
