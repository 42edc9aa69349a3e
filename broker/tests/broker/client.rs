//! A client that does what a test says, packet by packet.

use crate::house::SOON;
use bytes::BytesMut;
use mqtt_proto::*;
use std::num::NonZeroU16;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(crate) struct Client<S> {
    stream: S,
    decoder: Decoder,
    buffer: BytesMut,
    version: Version,
}

/// CONNECT of 5.0 with a clean start; on local listeners the user name is the identity.
pub(crate) fn connect(app: &str) -> Connect {
    Connect { username: Some(app.into()), ..Connect::new(Version::V5, app) }
}

pub(crate) fn publish(topic: &str, payload: Vec<u8>, qos: QoS, id: u16) -> Packet {
    Packet::Publish(Box::new(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: (qos != QoS::AtMostOnce).then(|| NonZeroU16::new(id).unwrap()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: payload.into(),
    }))
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::MIN,
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![Subscription {
            filter: SharedFilter::new(filter).unwrap(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }],
    }))
}

pub(crate) fn bytes_of(packet: &Packet, version: Version) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).unwrap();
    bytes.to_vec()
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends a CONNECT and returns the client with what it was answered.
    pub(crate) async fn connect(stream: S, connect: Connect) -> (Self, Option<Packet>) {
        let version = connect.version;
        let limits = Limits { packet_bytes_max: usize::MAX, ..Limits::default() };
        let decoder = Decoder::client(version, limits);
        let mut client = Self { stream, decoder, buffer: BytesMut::new(), version };
        client.send(&Packet::Connect(Box::new(connect))).await;
        let answer = client.next().await;
        (client, answer)
    }

    /// Connects, which must succeed.
    pub(crate) async fn open(stream: S, app: &str) -> Self {
        Self::open_with(stream, connect(app)).await
    }

    pub(crate) async fn open_with(stream: S, connect: Connect) -> Self {
        let (client, answer) = Self::connect(stream, connect).await;
        let is_in = matches!(&answer, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success);
        assert!(is_in, "{answer:?}");
        client
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        let bytes = bytes_of(packet, self.version);
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        tokio::time::timeout(SOON, async {
            self.stream.write_all(bytes).await.unwrap();
            self.stream.flush().await.unwrap();
        })
        .await
        .unwrap();
    }

    /// The next packet; `None` when the broker closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        tokio::time::timeout(SOON, async {
            loop {
                if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                    return Some(packet);
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
        .expect("an answer in time")
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&subscribe(filter, qos)).await;
        let answer = self.next().await;
        assert!(matches!(&answer, Some(Packet::SubAck(ack)) if (ack.reasons[0] as u8) < 0x80), "{answer:?}");
    }

    /// The next message, as topic and payload; acknowledges QoS 1.
    pub(crate) async fn message(&mut self) -> (String, Vec<u8>) {
        match self.next().await {
            Some(Packet::Publish(publish)) => {
                if let (QoS::AtLeastOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
                    self.send(&Packet::PubAck(Ack { packet_id, reason: ReasonCode::Success, info: None }))
                        .await;
                }
                (publish.topic.unwrap().to_string(), publish.payload.to_vec())
            }
            other => panic!("no message but {other:?}"),
        }
    }

    /// Expects that the broker closes, and returns the reason of its DISCONNECT.
    pub(crate) async fn end(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.next().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = Some(disconnect.reason);
            }
        }
        reason
    }

    /// Says that it sends nothing more, and goes on listening.
    pub(crate) async fn end_input(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }
}
