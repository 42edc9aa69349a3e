//! PUBLISH, from a packet or straight from the parts of a delivery.

use super::sink::{Count, Properties, Sink};
use super::{framed_len, write_header};
use crate::error::EncodeError;
use crate::packet::{PacketId, Publish, PublishProperties, QoS, Version};
use crate::packet_type::PacketType;
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

impl<'a> PublishRef<'a> {
    /// Returns a PUBLISH that says nothing but its topic and payload; a packet identifier belongs to QoS 1 and 2.
    #[inline]
    pub fn plain(
        topic: &'a TopicName,
        (qos, packet_id): (QoS, Option<PacketId>),
        payload: &'a [u8],
    ) -> Self {
        Self {
            dup: false,
            qos,
            retain: false,
            packet_id,
            topic: Some(topic),
            topic_alias: None,
            subscription_ids: &[],
            message_expiry_secs: None,
            properties: None,
            payload,
        }
    }

    /// Whether it is such a one.
    #[inline]
    pub fn is_plain(&self) -> bool {
        (self.qos == QoS::AtMostOnce) == self.packet_id.is_none()
            && !(self.dup || self.retain)
            && self.topic.is_some()
            && self.topic_alias.is_none()
            && self.subscription_ids.is_empty()
            && self.message_expiry_secs.is_none()
            && self.properties.is_none()
    }
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
    if let Some(plain) = Plain::of(publish, version) {
        out.reserve(framed_len(plain.len()));
        plain.write_head(out);
        out.put_slice(publish.payload);
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
    if let Some(plain) = Plain::of(publish, version) {
        plain.write_head(out);
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
    if let Some(plain) = Plain::of(publish, version) {
        return framed_len(plain.len());
    }
    framed_len(measured(publish, version).len)
}

/// A PUBLISH with a topic and without properties, as nearly all are: its length is a sum, and there is
/// nothing to refuse.
struct Plain<'a> {
    first_byte: u8,
    topic: &'a [u8],
    topic_len: u16,
    packet_id: Option<PacketId>,
    has_block: bool,
    payload_len: usize,
}

impl<'a> Plain<'a> {
    #[inline]
    fn of(publish: &PublishRef<'a>, version: Version) -> Option<Self> {
        let is_plain = publish.properties.is_none()
            && publish.subscription_ids.is_empty()
            && publish.topic_alias.is_none()
            && publish.message_expiry_secs.is_none()
            && publish.packet_id.is_some() == (publish.qos != QoS::AtMostOnce)
            && !(publish.dup && publish.qos == QoS::AtMostOnce);
        let topic = publish.topic.filter(|_| is_plain)?.as_str().as_bytes();
        let plain = Self {
            first_byte: publish.first_byte(),
            topic,
            topic_len: u16::try_from(topic.len()).ok()?,
            packet_id: publish.packet_id,
            has_block: version == Version::V5,
            payload_len: publish.payload.len(),
        };
        (plain.len() <= VARINT_MAX as usize).then_some(plain)
    }

    /// Bytes behind the fixed header.
    #[inline]
    fn len(&self) -> usize {
        let id = if self.packet_id.is_some() { 2 } else { 0 };
        2 + self.topic.len() + id + usize::from(self.has_block) + self.payload_len
    }

    #[inline]
    fn write_head(&self, out: &mut BytesMut) {
        out.put_u8(self.first_byte);
        out.varint(self.len());
        out.put_u16(self.topic_len);
        out.put_slice(self.topic);
        if let Some(id) = self.packet_id {
            out.put_u16(id.get());
        }
        if self.has_block {
            out.put_u8(0);
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
