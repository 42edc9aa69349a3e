//! Packets that say no more than they must, as nearly all do that carry messages: read where they are, and not decoded.
//! They are the same in either version, but for the empty properties of PUBLISH.

use crate::decode::{Topics, plain_publish};
use crate::encode::{Head, PublishRef};
use crate::error::EncodeError;
use crate::packet::{Ack, Packet, PacketId, Publish, QoS, Version};
use crate::reason::ReasonCode;
use crate::topic::TopicName;
use bytes::{Bytes, BytesMut};

/// Such packets one after the other, at the front of what was read ([`Decoder::plain_run`](crate::Decoder::plain_run)).
#[derive(Debug)]
pub struct PlainRun<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) used: usize,
    pub(crate) version: Version,
    pub(crate) topics: &'a Topics,
    /// Longest PUBLISH among them.
    pub(crate) publish_bytes_max: usize,
}

impl<'a> PlainRun<'a> {
    /// Returns the next of them and its length; `None` where a packet follows that says more, is a PUBLISH to none of
    /// the last topics, is not whole, or breaks a rule.
    #[inline]
    pub fn front(&self) -> Option<(Plain<'a>, usize)> {
        if let Some(ack) = PlainAck::at_front(self.bytes) {
            return Some((Plain::Ack(ack), PlainAck::BYTES));
        }
        let (publish, len) = plain_publish(self.bytes, self.version, self.topics)?;
        (len <= self.publish_bytes_max).then_some((Plain::Publish(publish), len))
    }

    /// Goes on behind a packet of this length.
    #[inline]
    pub fn skip(&mut self, len: usize) {
        self.bytes = self.bytes.get(len..).unwrap_or_default();
        self.used = self.used.saturating_add(len);
    }

    /// How many bytes were gone over.
    pub fn used(&self) -> usize {
        self.used
    }
}

/// Such a packet.
#[derive(Clone, Copy, Debug)]
pub enum Plain<'a> {
    /// A PUBLISH that says nothing but topic and payload.
    Publish(PlainPublish<'a>),
    /// An acknowledgement that says nothing but its packet identifier.
    Ack(PlainAck),
}

impl<'a> Plain<'a> {
    /// Returns what a packet says, if that is no more.
    pub fn of(packet: &'a Packet) -> Option<Self> {
        match packet {
            Packet::Publish(publish) => PlainPublish::of(&PublishRef::from(&**publish)).map(Self::Publish),
            packet => PlainAck::of(packet).map(Self::Ack),
        }
    }
}

/// A PUBLISH without flags and properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainPublish<'a> {
    /// Topic Name.
    pub topic: &'a TopicName,
    /// QoS.
    pub qos: QoS,
    /// Packet Identifier, exactly when QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Application payload.
    pub payload: &'a [u8],
}

impl<'a> PlainPublish<'a> {
    /// Returns what a PUBLISH is that says no more.
    pub fn of(publish: &PublishRef<'a>) -> Option<Self> {
        let PublishRef { qos, packet_id, topic, payload, .. } = *publish;
        let is_plain = (qos == QoS::AtMostOnce) == packet_id.is_none()
            && !(publish.dup || publish.retain)
            && publish.topic_alias.is_none()
            && publish.subscription_ids.is_empty()
            && publish.message_expiry_secs.is_none()
            && publish.properties.is_none();
        Some(Self { topic: topic.filter(|_| is_plain)?, qos, packet_id, payload })
    }

    /// Returns its length in bytes, whatever its packet identifier is.
    #[inline]
    pub fn len(&self, version: Version) -> usize {
        Head::of_plain(self, version).len()
    }

    /// Appends it to `out`.
    ///
    /// # Errors
    /// When it is too large; `out` is as it was then.
    #[inline]
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        Head::of_plain(self, version).checked()?.write_with(self.payload, out);
        Ok(())
    }
}

/// An acknowledgement without Reason Code, Reason String and User Properties: Success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainAck {
    /// Which.
    pub kind: AckKind,
    /// Packet Identifier.
    pub packet_id: PacketId,
}

/// The packets that answer a PUBLISH, by the first byte of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of MQTT 5.0 §2.1.2")]
pub enum AckKind {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

impl PlainAck {
    /// Length in bytes.
    pub const BYTES: usize = 4;

    /// Returns it as it is on the wire.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [high, low] = self.packet_id.get().to_be_bytes();
        [self.kind as u8, 2, high, low]
    }

    /// Returns the one at the front, if one is.
    #[inline]
    pub(crate) fn at_front(bytes: &[u8]) -> Option<Self> {
        let &[first, 2, high, low, ..] = bytes else { return None };
        let kind = match first {
            0x40 => AckKind::PubAck,
            0x50 => AckKind::PubRec,
            0x62 => AckKind::PubRel,
            0x70 => AckKind::PubComp,
            _ => return None,
        };
        Some(Self { kind, packet_id: PacketId::new(u16::from_be_bytes([high, low]))? })
    }

    /// Returns what a packet is that says no more.
    #[inline]
    pub fn of(packet: &Packet) -> Option<Self> {
        let (kind, ack) = AckKind::of(packet)?;
        let is_plain = ack.reason == ReasonCode::Success && ack.info.is_none();
        is_plain.then_some(Self { kind, packet_id: ack.packet_id })
    }
}

impl AckKind {
    #[inline]
    pub(crate) fn of(packet: &Packet) -> Option<(Self, &Ack)> {
        match packet {
            Packet::PubAck(ack) => Some((Self::PubAck, ack)),
            Packet::PubRec(ack) => Some((Self::PubRec, ack)),
            Packet::PubRel(ack) => Some((Self::PubRel, ack)),
            Packet::PubComp(ack) => Some((Self::PubComp, ack)),
            _ => None,
        }
    }
}

impl From<PlainPublish<'_>> for Packet {
    fn from(PlainPublish { topic, qos, packet_id, payload }: PlainPublish<'_>) -> Self {
        Self::Publish(Box::new(Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(topic.clone()),
            packet_id,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: Bytes::copy_from_slice(payload),
        }))
    }
}

impl From<PlainAck> for Packet {
    #[inline]
    fn from(PlainAck { kind, packet_id }: PlainAck) -> Self {
        let ack = Ack { packet_id, reason: ReasonCode::Success, info: None };
        match kind {
            AckKind::PubAck => Self::PubAck(ack),
            AckKind::PubRec => Self::PubRec(ack),
            AckKind::PubRel => Self::PubRel(ack),
            AckKind::PubComp => Self::PubComp(ack),
        }
    }
}
