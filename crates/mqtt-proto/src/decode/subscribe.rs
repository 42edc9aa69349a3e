//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use super::ack::reason;
use super::properties::{self, PropertyReader};
use super::{Context, levels};
use crate::error::Violation;
use crate::limits::Limits;
use crate::packet::{
    Info, Packet, QoS, RetainHandling, SubAck, Subscribe, Subscription, Unsubscribe, Version,
};
use crate::packet_type::PacketType;
use crate::property::{Place, Property};
use crate::reason::ReasonCode;
use crate::topic::SharedFilter;
use crate::wire::Reader;

pub(super) fn subscribe(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    let mut packet = Subscribe {
        packet_id: reader.packet_id()?,
        subscription_id: None,
        user_properties: Vec::new(),
        subscriptions: Vec::new(),
    };
    if context.version == Version::V5 {
        let mut block = PropertyReader::open(reader, Place::Subscribe, context.limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::SubscriptionIdentifier => packet.subscription_id = Some(block.subscription_id()?),
                _ => block.user_property(&mut packet.user_properties)?,
            }
        }
    }
    while !reader.is_empty() {
        check_room(packet.subscriptions.len(), context.limits)?;
        let filter = filter(reader, context)?;
        packet.subscriptions.push(subscription(filter, reader.u8()?, context.version)?);
    }
    if packet.subscriptions.is_empty() {
        return Err(Violation::NoFilter);
    }
    Ok(Packet::Subscribe(Box::new(packet)))
}

fn subscription(filter: SharedFilter, options: u8, version: Version) -> Result<Subscription, Violation> {
    let reserved = match version {
        Version::V311 => 0b1111_1100,
        Version::V5 => 0b1100_0000,
    };
    if options & reserved != 0 {
        return Err(Violation::SubscriptionOptions(options));
    }
    let qos = QoS::from_bits(options & 0b11).ok_or(match version {
        // [MQTT-3.8.3-4] of 3.1.1 counts the third value among the reserved bits.
        Version::V311 => Violation::SubscriptionOptions(options),
        Version::V5 => Violation::SubscriptionQos3,
    })?;
    let no_local = options & 0b100 != 0;
    if no_local && filter.group.is_some() {
        return Err(Violation::NoLocalShared);
    }
    let retain_handling = match options >> 4 & 0b11 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(Violation::RetainHandling3),
    };
    let retain_as_published = options & 0b1000 != 0;
    Ok(Subscription { filter, qos, no_local, retain_as_published, retain_handling })
}

pub(super) fn unsubscribe(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    let packet_id = reader.packet_id()?;
    let user_properties = match context.version {
        Version::V311 => Vec::new(),
        Version::V5 => properties::user_properties(reader, Place::Unsubscribe, context.limits)?,
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        check_room(filters.len(), context.limits)?;
        filters.push(filter(reader, context)?);
    }
    if filters.is_empty() {
        return Err(Violation::NoFilter);
    }
    Ok(Packet::Unsubscribe(Box::new(Unsubscribe { packet_id, user_properties, filters })))
}

fn check_room(filters: usize, limits: &Limits) -> Result<(), Violation> {
    let max = limits.filters_max;
    if filters < max { Ok(()) } else { Err(Violation::TooManyFilters { max }) }
}

fn filter(reader: &mut Reader<'_>, context: Context<'_>) -> Result<SharedFilter, Violation> {
    let text = reader.str()?;
    let max = context.limits.topic_levels_max;
    if levels(text) > max {
        return Err(Violation::TopicFilterTooDeep { max });
    }
    let parsed = match context.version {
        Version::V311 => SharedFilter::new_v311(text),
        Version::V5 => SharedFilter::new(text),
    };
    parsed.map_err(Violation::TopicFilter)
}

pub(super) fn suback(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    if context.version == Version::V5 {
        return acknowledgement(reader, PacketType::SubAck, context).map(Packet::SubAck);
    }
    let packet_id = reader.packet_id()?;
    let mut reasons = Vec::with_capacity(reader.len());
    while !reader.is_empty() {
        reasons.push(match reader.u8()? {
            0 => ReasonCode::Success,
            1 => ReasonCode::GrantedQos1,
            2 => ReasonCode::GrantedQos2,
            0x80 => ReasonCode::UnspecifiedError,
            code => return Err(Violation::ReasonCode(code)),
        });
    }
    if reasons.is_empty() {
        return Err(Violation::NoReasonCode);
    }
    Ok(Packet::SubAck(Box::new(SubAck { packet_id, info: Info::default(), reasons })))
}

pub(super) fn unsuback(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    if context.version == Version::V5 {
        return acknowledgement(reader, PacketType::UnsubAck, context).map(Packet::UnsubAck);
    }
    let packet_id = reader.packet_id()?;
    reader.finish()?;
    Ok(Packet::UnsubAck(Box::new(SubAck { packet_id, info: Info::default(), reasons: Vec::new() })))
}

fn acknowledgement(
    reader: &mut Reader<'_>,
    packet: PacketType,
    context: Context<'_>,
) -> Result<Box<SubAck>, Violation> {
    let packet_id = reader.packet_id()?;
    let info = properties::info(reader, context.limits)?;
    let mut reasons = Vec::with_capacity(reader.len());
    while !reader.is_empty() {
        reasons.push(reason(reader, packet, context)?);
    }
    if reasons.is_empty() {
        return Err(Violation::NoReasonCode);
    }
    Ok(Box::new(SubAck { packet_id, info, reasons }))
}
