//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK.

use super::sink::{Properties, Sink};
use crate::error::EncodeError;
use crate::packet::{SubAck, Subscribe, Subscription, Unsubscribe, UserProperties, Version};
use crate::packet_type::PacketType;
use crate::reason::ReasonCode;
use crate::topic::SharedFilter;

pub(super) fn subscribe(packet: &Subscribe, version: Version, sink: &mut impl Sink) {
    sink.u16(packet.packet_id.get());
    if version == Version::V5 {
        sink.block(packet);
    }
    if packet.subscriptions.is_empty() {
        sink.refuse(EncodeError::Empty(PacketType::Subscribe));
    }
    for subscription in &packet.subscriptions {
        filter(&subscription.filter, sink);
        sink.u8(options(subscription, version));
        if version == Version::V5 && subscription.no_local && subscription.filter.group.is_some() {
            sink.refuse(EncodeError::NoLocalShared);
        }
    }
}

impl Properties for Subscribe {
    fn write(&self, sink: &mut impl Sink) {
        if let Some(id) = self.subscription_id {
            sink.subscription_id(id);
        }
        sink.user_properties(&self.user_properties);
    }
}

fn options(subscription: &Subscription, version: Version) -> u8 {
    let qos = subscription.qos as u8;
    match version {
        Version::V311 => qos,
        Version::V5 => {
            qos | u8::from(subscription.no_local) << 2
                | u8::from(subscription.retain_as_published) << 3
                | (subscription.retain_handling as u8) << 4
        }
    }
}

fn filter(filter: &SharedFilter, sink: &mut impl Sink) {
    match &filter.group {
        None => sink.text(filter.filter.as_str()),
        Some(_) => sink.text(&filter.to_string()),
    }
}

pub(super) fn unsubscribe(packet: &Unsubscribe, version: Version, sink: &mut impl Sink) {
    sink.u16(packet.packet_id.get());
    if version == Version::V5 {
        sink.block(&UserPropertiesBlock(&packet.user_properties));
    }
    if packet.filters.is_empty() {
        sink.refuse(EncodeError::Empty(PacketType::Unsubscribe));
    }
    for unsubscribed in &packet.filters {
        filter(unsubscribed, sink);
    }
}

struct UserPropertiesBlock<'a>(&'a UserProperties);

impl Properties for UserPropertiesBlock<'_> {
    fn write(&self, sink: &mut impl Sink) {
        sink.user_properties(self.0);
    }
}

pub(super) fn suback(packet: &SubAck, version: Version, sink: &mut impl Sink) {
    acknowledgement(packet, PacketType::SubAck, version, sink);
    for reason in &packet.reasons {
        sink.u8(match version {
            // §3.9.3 of 3.1.1 knows one failure.
            Version::V311 if reason.is_error() => ReasonCode::UnspecifiedError as u8,
            _ => *reason as u8,
        });
    }
}

pub(super) fn unsuback(packet: &SubAck, version: Version, sink: &mut impl Sink) {
    if version == Version::V311 {
        return sink.u16(packet.packet_id.get());
    }
    acknowledgement(packet, PacketType::UnsubAck, version, sink);
    for reason in &packet.reasons {
        sink.u8(*reason as u8);
    }
}

fn acknowledgement(packet: &SubAck, kind: PacketType, version: Version, sink: &mut impl Sink) {
    sink.u16(packet.packet_id.get());
    if version == Version::V5 {
        sink.block(&packet.info);
    }
    if packet.reasons.is_empty() {
        sink.refuse(EncodeError::Empty(kind));
    }
}
