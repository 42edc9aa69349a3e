//! DISCONNECT and AUTH.

use super::sink::{Properties, Sink};
use crate::error::EncodeError;
use crate::packet::{Auth, Disconnect, Version};
use crate::packet_type::PacketType;
use crate::property::Property;
use crate::reason::ReasonCode;

pub(super) fn disconnect(packet: &Disconnect, version: Version, sink: &mut impl Sink) {
    if version == Version::V311 {
        return;
    }
    let bare =
        packet.session_expiry_secs.is_none() && packet.server_reference.is_none() && packet.info.is_empty();
    // The property length may be left out (§3.14.2.2.1), but clients built on rumqttc wait for it and
    // never learn the reason.
    if !bare || packet.reason != ReasonCode::Success {
        sink.u8(packet.reason as u8);
        sink.block(packet);
    }
}

impl Properties for Disconnect {
    fn write(&self, sink: &mut impl Sink) {
        sink.u32_property(Property::SessionExpiryInterval, self.session_expiry_secs);
        sink.text_property(Property::ServerReference, self.server_reference.as_deref());
        self.info.write(sink);
    }
}

pub(super) fn auth(packet: &Auth, version: Version, sink: &mut impl Sink) {
    if version == Version::V311 {
        sink.refuse(EncodeError::NotIn311(PacketType::Auth));
    }
    let bare = packet.method.is_none() && packet.data.is_none() && packet.info.is_empty();
    if bare && packet.reason == ReasonCode::Success {
        return;
    }
    if packet.method.is_none() {
        sink.refuse(EncodeError::NoAuthenticationMethod);
    }
    sink.u8(packet.reason as u8);
    sink.block(packet);
}

impl Properties for Auth {
    fn write(&self, sink: &mut impl Sink) {
        sink.text_property(Property::AuthenticationMethod, self.method.as_deref());
        sink.binary_property(Property::AuthenticationData, self.data.as_deref());
        self.info.write(sink);
    }
}
