//! PUBLISH, and the properties it shares with the will.

use super::properties::{PropertyReader, only_to};
use super::topics::Topics;
use super::{Context, Role, topic_name};
use crate::error::Violation;
use crate::limits::Limits;
use crate::packet::{Packet, PacketId, Publish, PublishProperties, QoS, Version};
use crate::plain::PlainPublish;
use crate::property::{Place, Property};
use crate::topic::TopicName;
use crate::wire::{Reader, read_varint, text};
use std::num::NonZeroU16;
use std::sync::Arc;

/// First bytes of a PUBLISH without flags.
const QOS_0: u8 = 0x30;
const QOS_1: u8 = 0x32;
const QOS_2: u8 = 0x34;

/// What the property block of a PUBLISH says.
#[derive(Default)]
struct Block {
    topic_alias: Option<NonZeroU16>,
    subscription_ids: Vec<u32>,
    properties: Option<Arc<PublishProperties>>,
}

/// Returns the PUBLISH at the front and its length, where it says nothing but its payload and one of these topics.
#[inline]
pub(crate) fn plain<'a>(
    bytes: &'a [u8],
    version: Version,
    topics: &'a Topics,
) -> Option<(PlainPublish<'a>, usize)> {
    let (first, rest) = bytes.split_first()?;
    let qos = match *first {
        QOS_0 => QoS::AtMostOnce,
        QOS_1 => QoS::AtLeastOnce,
        QOS_2 => QoS::ExactlyOnce,
        _ => return None,
    };
    let (body_len, varint_len) = read_varint(rest).ok()??;
    let len = usize::try_from(body_len).ok()?;
    let body = rest.get(varint_len..)?.get(..len)?;
    let (topic_len, body) = body.split_first_chunk()?;
    let (name, body) = body.split_at_checked(usize::from(u16::from_be_bytes(*topic_len)))?;
    let topic = topics.find(name)?;
    let (packet_id, body) = if qos == QoS::AtMostOnce {
        (None, body)
    } else {
        let (id, body) = body.split_first_chunk()?;
        (Some(PacketId::new(u16::from_be_bytes(*id))?), body)
    };
    let payload = match (version, body) {
        (Version::V311, payload) | (Version::V5, [0, payload @ ..]) => payload,
        (Version::V5, _) => return None,
    };
    Some((PlainPublish { topic, qos, packet_id, payload }, 1 + varint_len + len))
}

pub(super) fn publish(
    reader: &mut Reader<'_>,
    flags: u8,
    context: Context<'_>,
    topics: &mut Topics,
) -> Result<Packet, Violation> {
    let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(Violation::Qos3)?;
    let topic = topic(reader.prefixed()?, context.limits, topics)?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let block = match context.version {
        Version::V311 => Block::default(),
        Version::V5 => block(reader, context)?,
    };
    if topic.is_none() && block.topic_alias.is_none() {
        return Err(Violation::NoTopic);
    }
    Ok(Packet::Publish(Box::new(Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 0b0001 != 0,
        topic,
        packet_id,
        topic_alias: block.topic_alias,
        subscription_ids: block.subscription_ids,
        properties: block.properties,
        payload: reader.rest(),
    })))
}

fn topic(bytes: &[u8], limits: &Limits, topics: &mut Topics) -> Result<Option<TopicName>, Violation> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if let Some(topic) = topics.find(bytes) {
        return Ok(Some(topic.clone()));
    }
    let topic = topic_name(text(bytes)?, limits, Violation::TopicName)?;
    topics.remember(&topic);
    Ok(Some(topic))
}

fn block(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Block, Violation> {
    let mut found = Block::default();
    let mut block = PropertyReader::open(reader, Place::Publish, context.limits)?;
    if block.is_empty() {
        return Ok(found);
    }
    let mut carried = PublishProperties::default();
    while let Some(property) = block.next()? {
        match property {
            Property::TopicAlias => {
                let alias = NonZeroU16::new(block.u16()?).ok_or(Violation::ZeroTopicAlias)?;
                found.topic_alias = Some(alias);
            }
            Property::SubscriptionIdentifier => {
                only_to(Role::Client, context.role, property)?;
                found.subscription_ids.push(block.subscription_id()?);
            }
            other => message_property(&mut block, other, context.limits, &mut carried)?,
        }
    }
    found.properties = shared(carried);
    Ok(found)
}

/// Takes the value of a property that travels with the message.
pub(super) fn message_property(
    block: &mut PropertyReader<'_>,
    property: Property,
    limits: &Limits,
    into: &mut PublishProperties,
) -> Result<(), Violation> {
    match property {
        Property::PayloadFormatIndicator => into.payload_is_utf8 = Some(block.flag(property)?),
        Property::MessageExpiryInterval => into.message_expiry_secs = Some(block.u32()?),
        Property::ContentType => into.content_type = Some(block.text()?),
        Property::ResponseTopic => {
            into.response_topic = Some(topic_name(block.str()?, limits, Violation::ResponseTopic)?);
        }
        Property::CorrelationData => into.correlation_data = Some(block.binary()?),
        Property::UserProperty => block.user_property(&mut into.user_properties)?,
        other => return Err(Violation::MisplacedProperty(other)),
    }
    Ok(())
}

pub(super) fn shared(properties: PublishProperties) -> Option<Arc<PublishProperties>> {
    (properties != PublishProperties::default()).then(|| Arc::new(properties))
}
