//! PUBACK, PUBREC, PUBREL and PUBCOMP.

use super::sink::{Properties, Sink};
use crate::packet::{Ack, Info, Packet, Version};
use crate::property::Property;
use crate::reason::ReasonCode;

/// Returns an acknowledgement that is its packet identifier and no more, as nearly all are.
#[inline]
pub(super) fn plain(packet: &Packet, version: Version) -> Option<&Ack> {
    let (Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)) = packet
    else {
        return None;
    };
    let is_success = ack.reason == ReasonCode::Success && ack.info.is_none();
    (version == Version::V311 || is_success).then_some(ack)
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
