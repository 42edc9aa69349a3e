//! One network connection of a client that expects to lose it at any moment.

use super::Stage;
use bytes::{Bytes, BytesMut};
use mqtt_proto::{
    Ack, Connect, Decoder, Disconnect, Info, Limits, Packet, PacketId, Publish, QoS, ReasonCode,
    RetainHandling, SharedFilter, Subscribe, Subscription, TopicName, Version, encode,
};
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU16;
use std::time::Duration;

pub(crate) struct Link {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Link {
    /// Connects, keeping the session. Tells whether there was one.
    pub(crate) fn open(stage: &Stage, client_id: &str) -> Result<(Self, bool)> {
        Self::open_with(stage, client_id, None)
    }

    /// As [`Self::open`], with this Receive Maximum.
    pub(crate) fn open_with(
        stage: &Stage,
        client_id: &str,
        receive_max: Option<NonZeroU16>,
    ) -> Result<(Self, bool)> {
        let connect =
            Connect { clean_start: false, session_expiry_secs: Some(3600), receive_max, ..new(client_id) };
        Self::connect(stage, connect)
    }

    /// Connects with what this says. Tells whether there was a session.
    pub(crate) fn connect(stage: &Stage, connect: Connect) -> Result<(Self, bool)> {
        let address = stage.address().ok_or(ErrorKind::ConnectionRefused)?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(5)))?;
        let decoder = Decoder::client(Version::V5, Limits::default());
        let mut link = Self { stream, decoder, buffer: BytesMut::new() };
        link.send(&Packet::Connect(Box::new(connect)))?;
        match link.wait()? {
            Packet::ConnAck(answer) if answer.reason == ReasonCode::Success => {
                Ok((link, answer.session_present))
            }
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, packet: &Packet) -> Result<()> {
        let mut bytes = BytesMut::new();
        encode(packet, Version::V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes)
    }

    /// The next packet, if there is one already.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Ok(Some(packet));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn wait(&mut self) -> Result<Packet> {
        for _ in 0..4_000 {
            if let Some(packet) = self.next()? {
                return Ok(packet);
            }
        }
        Err(Error::other("the broker says nothing"))
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        self.send(&subscribe(filter, qos))?;
        match self.wait()? {
            Packet::SubAck(answer) => assert_eq!(answer.reasons[0] as u8, qos as u8),
            other => panic!("no SUBACK: {other:?}"),
        }
        Ok(())
    }
}

/// CONNECT with a clean start, and with no session that outlives the connection.
pub(crate) fn new(client_id: &str) -> Connect {
    Connect { topic_alias_max: 10, ..Connect::new(Version::V5, client_id) }
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet {
    let subscription = Subscription {
        filter: SharedFilter::new(filter).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: NonZeroU16::MIN,
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: vec![subscription],
    }))
}

/// DISCONNECT that takes the will back; with so many seconds left to the session, if any are given.
pub(crate) fn disconnect(session_expiry_secs: Option<u32>) -> Packet {
    let (reason, server_reference, info) = (ReasonCode::Success, None, Info::default());
    Packet::Disconnect(Box::new(Disconnect { reason, session_expiry_secs, server_reference, info }))
}

pub(crate) fn ack(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::Success, info: None }
}

pub(crate) fn publish(topic: &str, number: u32, qos: QoS, packet_id: PacketId, dup: bool) -> Packet {
    Packet::Publish(Box::new(numbered(topic, number, qos, packet_id, dup)))
}

pub(crate) fn numbered(topic: &str, number: u32, qos: QoS, packet_id: PacketId, dup: bool) -> Publish {
    Publish {
        dup,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: Some(packet_id),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(number.to_string()),
    }
}
