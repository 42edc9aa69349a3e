//! PUBLISH, from a packet or straight from the parts of a delivery.

use super::sink::{Count, Properties, Sink};
use super::{framed_len, write_header};
use crate::error::EncodeError;
use crate::packet::{PacketId, Publish, PublishProperties, QoS, Version};
use crate::packet_type::PacketType;
use crate::plain::PlainPublish;
use crate::property::Property;
use crate::topic::TopicName;
use crate::wire::VARINT_MAX;
use bytes::{BufMut, BytesMut};
use std::num::NonZeroU16;

/// A PUBLISH by reference: one publication goes to many receivers without a packet built for each.
#[derive(Clone, Copy, Debug)]
pub struct PublishRef<'a> {
    /// DUP flag.
    pub dup: bool,
    /// QoS of this packet.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Packet Identifier, exactly when QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// Topic; `None` leaves it to a topic alias bound before.
    pub topic: Option<&'a TopicName>,
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription Identifiers.
    pub subscription_ids: &'a [u32],
    /// What is left of the Message Expiry Interval in seconds; stands in for the one in `properties` ([MQTT-3.3.2-6]).
    pub message_expiry_secs: Option<u32>,
    /// Properties that travel with the message.
    pub properties: Option<&'a PublishProperties>,
    /// Application payload.
    pub payload: &'a [u8],
}

impl<'a> From<&'a Publish> for PublishRef<'a> {
    fn from(publish: &'a Publish) -> Self {
        let properties = publish.properties.as_deref();
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            topic: publish.topic.as_ref(),
            topic_alias: publish.topic_alias,
            subscription_ids: &publish.subscription_ids,
            message_expiry_secs: properties.and_then(|properties| properties.message_expiry_secs),
            properties,
            payload: &publish.payload,
        }
    }
}

/// Appends a PUBLISH to `out`.
///
/// # Errors
/// When the packet breaks the standard or does not fit it; `out` is as it was then.
pub fn encode_publish(
    publish: &PublishRef<'_>,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    if let Some(head) = Head::of(publish, version) {
        head.write_with(publish.payload, out);
        return Ok(());
    }
    let len = measured(publish, version).checked()?;
    write_header(publish.first_byte(), len, out);
    body(publish, version, out);
    Ok(())
}

/// Appends a PUBLISH without its payload, whose bytes the caller writes next: large ones need no copy.
///
/// # Errors
/// When the packet breaks the standard or does not fit it; `out` is as it was then.
pub fn encode_publish_head(
    publish: &PublishRef<'_>,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    if let Some(head) = Head::of(publish, version) {
        head.write(out);
        return Ok(());
    }
    let len = measured(publish, version).checked()?;
    out.reserve(framed_len(len) - publish.payload.len());
    out.put_u8(publish.first_byte());
    out.varint(len);
    head(publish, version, out);
    Ok(())
}

/// Returns the bytes `encode_publish` appends, fixed header included.
#[inline]
pub fn publish_len(publish: &PublishRef<'_>, version: Version) -> usize {
    if let Some(head) = Head::of(publish, version) {
        return head.len();
    }
    framed_len(measured(publish, version).len)
}

/// What stands before the payload of a PUBLISH with a topic and without properties, as nearly all are: its length is a
/// sum, and there is nothing to refuse.
pub(crate) struct Head<'a> {
    first_byte: u8,
    topic: &'a [u8],
    topic_len: u16,
    packet_id: Option<PacketId>,
    has_block: bool,
    /// Bytes behind the fixed header, those of the payload among them.
    body_len: usize,
}

impl<'a> Head<'a> {
    #[inline]
    fn of(publish: &PublishRef<'a>, version: Version) -> Option<Self> {
        let is_plain = publish.properties.is_none()
            && publish.subscription_ids.is_empty()
            && publish.topic_alias.is_none()
            && publish.message_expiry_secs.is_none()
            && publish.packet_id.is_some() == (publish.qos != QoS::AtMostOnce)
            && !(publish.dup && publish.qos == QoS::AtMostOnce);
        let PublishRef { qos, packet_id, payload, .. } = *publish;
        let plain = PlainPublish { topic: publish.topic.filter(|_| is_plain)?, qos, packet_id, payload };
        let head = Self { first_byte: publish.first_byte(), ..Self::of_plain(&plain, version) };
        head.checked().ok()
    }

    #[inline]
    pub(crate) fn of_plain(publish: &PlainPublish<'a>, version: Version) -> Self {
        let topic = publish.topic.as_str().as_bytes();
        let has_block = version == Version::V5;
        let id_len = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
        Self {
            first_byte: (PacketType::Publish as u8) << 4 | (publish.qos as u8) << 1,
            topic,
            // A topic name has no more.
            topic_len: u16::try_from(topic.len()).unwrap_or(u16::MAX),
            packet_id: publish.packet_id,
            has_block,
            body_len: 2 + topic.len() + id_len + usize::from(has_block) + publish.payload.len(),
        }
    }

    #[inline]
    pub(crate) fn checked(self) -> Result<Self, EncodeError> {
        match self.body_len <= VARINT_MAX as usize {
            true => Ok(self),
            false => Err(EncodeError::PacketTooLarge(self.body_len)),
        }
    }

    /// Bytes of all, the payload among them.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        framed_len(self.body_len)
    }

    #[inline]
    pub(crate) fn write_with(&self, payload: &[u8], out: &mut BytesMut) {
        out.reserve(self.len());
        self.write(out);
        out.put_slice(payload);
    }

    #[inline]
    fn write(&self, out: &mut BytesMut) {
        let [high, low] = self.topic_len.to_be_bytes();
        match u8::try_from(self.body_len) {
            // Most lengths are a byte.
            Ok(len @ 0..=0x7F) => out.put_slice(&[self.first_byte, len, high, low]),
            _ => {
                out.put_u8(self.first_byte);
                out.varint(self.body_len);
                out.put_slice(&[high, low]);
            }
        }
        out.put_slice(self.topic);
        match (self.packet_id.map(|id| id.get().to_be_bytes()), self.has_block) {
            (Some([high, low]), true) => out.put_slice(&[high, low, 0]),
            (Some(id), false) => out.put_slice(&id),
            (None, true) => out.put_u8(0),
            (None, false) => {}
        }
    }
}

fn measured(publish: &PublishRef<'_>, version: Version) -> Count {
    let mut count = Count::default();
    body(publish, version, &mut count);
    count
}

pub(super) fn body(publish: &PublishRef<'_>, version: Version, sink: &mut impl Sink) {
    head(publish, version, sink);
    sink.raw(publish.payload);
}

fn head(publish: &PublishRef<'_>, version: Version, sink: &mut impl Sink) {
    if publish.dup && publish.qos == QoS::AtMostOnce {
        sink.refuse(EncodeError::DupOnQos0);
    }
    match publish.topic {
        Some(topic) => sink.binary(topic.as_str().as_bytes()),
        None if version == Version::V5 && publish.topic_alias.is_some() => sink.u16(0),
        None => sink.refuse(EncodeError::NoTopic),
    }
    if publish.packet_id.is_some() != (publish.qos != QoS::AtMostOnce) {
        sink.refuse(EncodeError::PacketId);
    }
    if let Some(packet_id) = publish.packet_id {
        sink.u16(packet_id.get());
    }
    if version == Version::V5 {
        sink.block(publish);
    }
}

impl PublishRef<'_> {
    #[inline]
    pub(super) fn first_byte(&self) -> u8 {
        let flags = u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        (PacketType::Publish as u8) << 4 | flags
    }
}

impl Properties for PublishRef<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.u16_property(Property::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        for id in self.subscription_ids {
            sink.subscription_id(*id);
        }
        message_properties(self.properties, self.message_expiry_secs, sink);
    }
}

/// The properties PUBLISH shares with the will.
pub(super) fn message_properties(
    properties: Option<&PublishProperties>,
    message_expiry_secs: Option<u32>,
    sink: &mut impl Sink,
) {
    sink.u32_property(Property::MessageExpiryInterval, message_expiry_secs);
    let Some(properties) = properties else {
        return;
    };
    sink.flag_property(Property::PayloadFormatIndicator, properties.payload_is_utf8);
    sink.text_property(Property::ContentType, properties.content_type.as_deref());
    sink.text_property(Property::ResponseTopic, properties.response_topic.as_ref().map(TopicName::as_str));
    sink.binary_property(Property::CorrelationData, properties.correlation_data.as_deref());
    sink.user_properties(&properties.user_properties);
}
