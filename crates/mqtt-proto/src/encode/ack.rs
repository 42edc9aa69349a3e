//! PUBACK, PUBREC, PUBREL and PUBCOMP.

use super::sink::{Properties, Sink};
use crate::packet::{Ack, Info, Packet, Version};
use crate::plain::{AckKind, PlainAck};
use crate::property::Property;
use crate::reason::ReasonCode;

/// Returns an acknowledgement that is its packet identifier and no more, as nearly all are.
#[inline]
pub(super) fn plain(packet: &Packet, version: Version) -> Option<PlainAck> {
    match version {
        Version::V5 => PlainAck::of(packet),
        Version::V311 => AckKind::of(packet).map(|(kind, ack)| PlainAck { kind, packet_id: ack.packet_id }),
    }
}

pub(super) fn ack(ack: &Ack, version: Version, sink: &mut impl Sink) {
    sink.u16(ack.packet_id.get());
    if version == Version::V311 {
        return;
    }
    let info = ack.info.as_deref().filter(|info| !info.is_empty());
    if info.is_some() || ack.reason != ReasonCode::Success {
        sink.u8(ack.reason as u8);
    }
    if let Some(info) = info {
        sink.block(info);
    }
}

impl Info {
    pub(super) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl Properties for Info {
    fn write(&self, sink: &mut impl Sink) {
        sink.text_property(Property::ReasonString, self.reason_string.as_deref());
        sink.user_properties(&self.user_properties);
    }
}
