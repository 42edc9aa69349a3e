//! A bare MQTT 5.0 client on a socket, for what no library shows.

use crate::support::SOON;
use bytes::{Bytes, BytesMut};
use mqtt_proto::{
    Connect, Decoder, Disconnect, Info, Limits, Packet, Publication, Publish, PublishProperties, QoS,
    ReasonCode, RetainHandling, SharedFilter, Subscribe, Subscription, TopicName, Version, Will, encode,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection that has its CONNACK.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    buffer: BytesMut,
}

/// What a CONNECT says.
#[derive(Default)]
pub(crate) struct Who<'a> {
    pub(crate) id: &'a str,
    pub(crate) user_name: Option<&'a str>,
    pub(crate) will: Option<&'a str>,
    /// How long its session outlives it; its will goes out with the end of that.
    pub(crate) expiry_secs: u32,
    pub(crate) password: Option<&'a str>,
}

pub(crate) fn publication(topic: &str, payload: &str) -> Publication {
    let (topic, payload) = (TopicName::new(topic).unwrap(), Bytes::copy_from_slice(payload.as_bytes()));
    Publication { topic, payload, qos: QoS::AtLeastOnce, retain: false, properties: None }
}

impl Client {
    pub(crate) fn tcp(address: &str, who: &Who<'_>) -> Result<Self, ReasonCode> {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self::connect(Box::new(stream), who)
    }

    pub(crate) fn unix(path: &str, who: &Who<'_>) -> Result<Self, ReasonCode> {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self::connect(Box::new(stream), who)
    }

    pub(crate) fn connect(stream: Box<dyn Stream>, who: &Who<'_>) -> Result<Self, ReasonCode> {
        let decoder = Decoder::client(Version::V5, Limits::default());
        let mut client = Self { stream, decoder, buffer: BytesMut::new() };
        client.send(&Packet::Connect(Box::new(Connect {
            keep_alive_secs: 60,
            will: who
                .will
                .map(|topic| Will { message: publication(topic, "gone"), delay_secs: who.expiry_secs }),
            username: who.user_name.map(Into::into),
            password: who.password.map(|password| Bytes::copy_from_slice(password.as_bytes())),
            session_expiry_secs: Some(who.expiry_secs),
            ..Connect::new(Version::V5, who.id)
        })));
        match client.next() {
            Some(Packet::ConnAck(answer)) if answer.reason == ReasonCode::Success => Ok(client),
            Some(Packet::ConnAck(answer)) => Err(answer.reason),
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, Version::V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet; none when the broker has closed the connection.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(packet);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the broker says nothing: {error}"),
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str) -> ReasonCode {
        self.subscribe_at(filter, QoS::AtMostOnce)
    }

    pub(crate) fn subscribe_at(&mut self, filter: &str, qos: QoS) -> ReasonCode {
        let subscription = Subscription {
            filter: SharedFilter::new(filter).unwrap(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        let packet_id = NonZeroU16::MIN;
        let subscriptions = vec![subscription];
        let subscribe =
            Subscribe { packet_id, subscription_id: None, user_properties: Vec::new(), subscriptions };
        self.send(&Packet::Subscribe(Box::new(subscribe)));
        match self.next() {
            Some(Packet::SubAck(answer)) => answer.reasons[0],
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    /// Publishes to a topic that it has subscribed to, and returns the broker's reason.
    pub(crate) fn publish_with_echo(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.send_publish(topic, payload, QoS::AtLeastOnce);
        let answers = [self.next(), self.next()];
        let reason = answers.iter().find_map(|answer| match answer {
            Some(Packet::PubAck(answer)) => Some(answer.reason),
            _ => None,
        });
        assert!(answers.iter().any(|answer| matches!(answer, Some(Packet::Publish(_)))), "{answers:?}");
        reason.unwrap_or_else(|| panic!("no PUBACK: {answers:?}"))
    }

    /// Publishes a request that is to be answered at another topic, and returns the broker's reason.
    pub(crate) fn ask(&mut self, topic: &str, response_topic: &str) -> ReasonCode {
        let response_topic = TopicName::new(response_topic).ok();
        let properties = Some(Arc::new(PublishProperties { response_topic, ..PublishProperties::default() }));
        self.send_publication(Publication { properties, ..publication(topic, "") }, QoS::AtLeastOnce);
        match self.next() {
            Some(Packet::PubAck(answer)) => answer.reason,
            other => panic!("no PUBACK: {other:?}"),
        }
    }

    fn send_publish(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.send_publication(publication(topic, payload), qos);
    }

    fn send_publication(&mut self, publication: Publication, qos: QoS) {
        let Publication { topic, payload, retain, properties, .. } = publication;
        let (dup, packet_id) = (false, (qos != QoS::AtMostOnce).then_some(NonZeroU16::MIN));
        let (topic, topic_alias, subscription_ids) = (Some(topic), None, Vec::new());
        let publish = Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            topic_alias,
            subscription_ids,
            properties,
            payload,
        };
        self.send(&Packet::Publish(Box::new(publish)));
    }

    /// Publishes at QoS 0, to which there is no answer.
    pub(crate) fn publish_qos0(&mut self, topic: &str, payload: &str) {
        self.send_publish(topic, payload, QoS::AtMostOnce);
    }

    /// Publishes and returns the broker's reason.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) -> ReasonCode {
        self.send_publish(topic, payload, QoS::AtLeastOnce);
        match self.next() {
            Some(Packet::PubAck(answer)) => answer.reason,
            other => panic!("no PUBACK: {other:?}"),
        }
    }

    /// Waits for a message and returns its topic and payload.
    pub(crate) fn message(&mut self) -> (String, String) {
        match self.next() {
            Some(Packet::Publish(publish)) => {
                let topic = publish.topic.unwrap().as_str().to_owned();
                (topic, String::from_utf8(publish.payload.to_vec()).unwrap())
            }
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    /// Asserts that the connection stands and that nothing came over it before.
    pub(crate) fn stands(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.next(), Some(Packet::PingResp));
    }

    /// Asserts that the very next packet is the broker's DISCONNECT, and returns its reason.
    pub(crate) fn cut(&mut self) -> ReasonCode {
        let reason = match self.next() {
            Some(Packet::Disconnect(disconnect)) => disconnect.reason,
            other => panic!("no DISCONNECT: {other:?}"),
        };
        assert_eq!(self.next(), None);
        reason
    }

    pub(crate) fn leave(mut self) {
        let reason = ReasonCode::Success;
        let disconnect =
            Disconnect { reason, session_expiry_secs: None, server_reference: None, info: Info::default() };
        self.send(&Packet::Disconnect(Box::new(disconnect)));
    }
}
