//! CONNECT and CONNACK.

use super::publish::message_properties;
use super::sink::{Properties, Sink};
use crate::error::EncodeError;
use crate::packet::{ConnAck, Connect, QoS, Version, Will};
use crate::property::Property;
use crate::reason::ReasonCode;
use std::num::NonZeroU16;

pub(super) fn connect(packet: &Connect, sink: &mut impl Sink) {
    sink.text("MQTT");
    sink.u8(match packet.version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    sink.u8(flags(packet));
    sink.u16(packet.keep_alive_secs);
    if packet.version == Version::V5 {
        sink.block(packet);
    } else if packet.password.is_some() && packet.username.is_none() {
        sink.refuse(EncodeError::PasswordWithoutUserName);
    }
    sink.text(&packet.client_id);
    if let Some(will) = &packet.will {
        if packet.version == Version::V5 {
            sink.block(will);
        }
        sink.text(will.message.topic.as_str());
        sink.binary(&will.message.payload);
    }
    if let Some(username) = &packet.username {
        sink.text(username);
    }
    if let Some(password) = &packet.password {
        sink.binary(password);
    }
}

fn flags(packet: &Connect) -> u8 {
    let will = packet
        .will
        .as_ref()
        .map_or(0, |will| 1 << 2 | (will.message.qos as u8) << 3 | u8::from(will.message.retain) << 5);
    will | u8::from(packet.clean_start) << 1
        | u8::from(packet.password.is_some()) << 6
        | u8::from(packet.username.is_some()) << 7
}

impl Properties for Connect {
    fn write(&self, sink: &mut impl Sink) {
        sink.u32_property(Property::SessionExpiryInterval, self.session_expiry_secs);
        sink.u16_property(Property::ReceiveMaximum, self.receive_max.map(NonZeroU16::get));
        sink.nonzero_u32_property(Property::MaximumPacketSize, self.packet_size_max);
        sink.u16_property(Property::TopicAliasMaximum, nonzero(self.topic_alias_max));
        sink.flag_property(Property::RequestResponseInformation, self.request_response_info.then_some(true));
        sink.flag_property(
            Property::RequestProblemInformation,
            (!self.request_problem_info).then_some(false),
        );
        sink.user_properties(&self.user_properties);
        authentication(self.auth_method.as_deref(), self.auth_data.as_deref(), sink);
    }
}

impl Properties for Will {
    fn write(&self, sink: &mut impl Sink) {
        let delay_secs = Some(self.delay_secs).filter(|delay_secs| *delay_secs != 0);
        sink.u32_property(Property::WillDelayInterval, delay_secs);
        let properties = self.message.properties.as_deref();
        let expiry = properties.and_then(|properties| properties.message_expiry_secs);
        message_properties(properties, expiry, sink);
    }
}

pub(super) fn connack(packet: &ConnAck, version: Version, sink: &mut impl Sink) {
    // [MQTT-3.2.2-6]
    let session_present = packet.session_present && packet.reason == ReasonCode::Success;
    sink.u8(session_present.into());
    match version {
        Version::V311 => match packet.reason.connect_return_code() {
            Some(code) => sink.u8(code),
            None => sink.refuse(EncodeError::NoReturnCode(packet.reason)),
        },
        Version::V5 => {
            sink.u8(packet.reason as u8);
            sink.block(packet);
        }
    }
}

impl Properties for ConnAck {
    fn write(&self, sink: &mut impl Sink) {
        sink.u32_property(Property::SessionExpiryInterval, self.session_expiry_secs);
        sink.u16_property(Property::ReceiveMaximum, self.receive_max.map(NonZeroU16::get));
        // §3.2.2.3.4: QoS 2 is said by leaving the property out.
        sink.flag_property(
            Property::MaximumQos,
            self.qos_max.filter(|qos| *qos != QoS::ExactlyOnce).map(|qos| qos == QoS::AtLeastOnce),
        );
        sink.flag_property(Property::RetainAvailable, self.retain_available);
        sink.nonzero_u32_property(Property::MaximumPacketSize, self.packet_size_max);
        sink.text_property(Property::AssignedClientIdentifier, self.assigned_client_id.as_deref());
        sink.u16_property(Property::TopicAliasMaximum, nonzero(self.topic_alias_max));
        sink.flag_property(Property::WildcardSubscriptionAvailable, self.wildcard_available);
        sink.flag_property(Property::SubscriptionIdentifierAvailable, self.subscription_ids_available);
        sink.flag_property(Property::SharedSubscriptionAvailable, self.shared_available);
        sink.u16_property(Property::ServerKeepAlive, self.server_keep_alive_secs);
        sink.text_property(Property::ResponseInformation, self.response_info.as_deref());
        sink.text_property(Property::ServerReference, self.server_reference.as_deref());
        authentication(self.auth_method.as_deref(), self.auth_data.as_deref(), sink);
        self.info.write(sink);
    }
}

fn authentication(method: Option<&str>, data: Option<&[u8]>, sink: &mut impl Sink) {
    if data.is_some() && method.is_none() {
        sink.refuse(EncodeError::NoAuthenticationMethod);
    }
    sink.text_property(Property::AuthenticationMethod, method);
    sink.binary_property(Property::AuthenticationData, data);
}

fn nonzero(value: u16) -> Option<u16> {
    (value != 0).then_some(value)
}
