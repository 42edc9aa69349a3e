//! CONNECT and CONNACK.

use super::ack::reason;
use super::properties::PropertyReader;
use super::publish::{message_property, shared};
use super::{Context, topic_name};
use crate::error::Violation;
use crate::limits::Limits;
use crate::packet::{ConnAck, Connect, Packet, Publication, PublishProperties, QoS, Version, Will};
use crate::packet_type::PacketType;
use crate::property::{Place, Property};
use crate::reason::ReasonCode;
use crate::wire::Reader;

const USER_NAME: u8 = 0b1000_0000;
const PASSWORD: u8 = 0b0100_0000;
const WILL_RETAIN: u8 = 0b0010_0000;
const WILL: u8 = 0b0000_0100;
const CLEAN_START: u8 = 0b0000_0010;
const RESERVED: u8 = 0b0000_0001;

/// Reads a CONNECT; `known` is set as soon as the version is read, whatever comes after it.
pub(super) fn connect(
    reader: &mut Reader<'_>,
    limits: &Limits,
    known: &mut Option<Version>,
) -> Result<Packet, Violation> {
    let version = version(reader, known)?;
    let flags = reader.u8()?;
    let will_qos = check_flags(flags, version)?;
    let mut connect = Connect {
        clean_start: flags & CLEAN_START != 0,
        keep_alive_secs: reader.u16()?,
        ..Connect::new(version, "")
    };
    if version == Version::V5 {
        connect_properties(reader, limits, &mut connect)?;
    }
    connect.client_id = reader.text()?;
    if flags & WILL != 0 {
        connect.will = Some(will(reader, limits, version, (will_qos, flags & WILL_RETAIN != 0))?);
    }
    if flags & USER_NAME != 0 {
        connect.username = Some(reader.text()?);
    }
    if flags & PASSWORD != 0 {
        connect.password = Some(reader.binary()?);
    }
    reader.finish()?;
    Ok(Packet::Connect(Box::new(connect)))
}

fn version(reader: &mut Reader<'_>, known: &mut Option<Version>) -> Result<Version, Violation> {
    let name = reader.prefixed()?;
    let level = reader.u8();
    *known = match (name, &level) {
        (b"MQTT", Ok(4)) => Some(Version::V311),
        // Whatever the name: who speaks level 5 could not read a refusal of 3.1.1.
        (_, Ok(5)) => Some(Version::V5),
        (b"MQTT", Ok(6..)) if !has_form_of_311(reader.clone()) => Some(Version::V5),
        _ => None,
    };
    match (name, level) {
        (b"MQTT", Ok(4)) => Ok(Version::V311),
        (b"MQTT", Ok(5)) => Ok(Version::V5),
        // MQTT 3.1, which called itself MQIsdp.
        (b"MQTT", Ok(level)) | (b"MQIsdp", Ok(level @ 3)) => Err(Violation::ProtocolVersion(level)),
        (b"MQTT", Err(violation)) => Err(violation),
        _ => Err(Violation::ProtocolName),
    }
}

/// Tells whether what follows the level of a CONNECT is what 3.1.1 has there. Of a level that is not known, say of
/// a test or of a bridge that adds a bit to it, nothing else says which refusal its sender reads.
fn has_form_of_311(mut reader: Reader<'_>) -> bool {
    let Ok(flags) = reader.u8() else { return false };
    let fields = [(WILL, 2), (USER_NAME, 1), (PASSWORD, 1)];
    let fields: usize = fields.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, count)| count).sum();
    let mut read = || {
        reader.u16()?;
        (0..=fields).try_for_each(|_| reader.prefixed().map(drop))?;
        reader.finish()
    };
    read().is_ok()
}

fn check_flags(flags: u8, version: Version) -> Result<QoS, Violation> {
    if flags & RESERVED != 0 {
        return Err(Violation::ReservedConnectFlag);
    }
    let will_qos = QoS::from_bits(flags >> 3 & 0b11).ok_or(Violation::WillQos3)?;
    if flags & WILL == 0 && will_qos != QoS::AtMostOnce {
        return Err(Violation::WillQosWithoutWill);
    }
    if flags & WILL == 0 && flags & WILL_RETAIN != 0 {
        return Err(Violation::WillRetainWithoutWill);
    }
    if version == Version::V311 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(Violation::PasswordWithoutUserName);
    }
    Ok(will_qos)
}

fn connect_properties(
    reader: &mut Reader<'_>,
    limits: &Limits,
    connect: &mut Connect,
) -> Result<(), Violation> {
    let mut block = PropertyReader::open(reader, Place::Connect, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::SessionExpiryInterval => connect.session_expiry_secs = Some(block.u32()?),
            Property::ReceiveMaximum => connect.receive_max = Some(block.nonzero_u16(property)?),
            Property::MaximumPacketSize => connect.packet_size_max = Some(block.nonzero_u32(property)?),
            Property::TopicAliasMaximum => connect.topic_alias_max = block.u16()?,
            Property::RequestResponseInformation => connect.request_response_info = block.flag(property)?,
            Property::RequestProblemInformation => connect.request_problem_info = block.flag(property)?,
            Property::AuthenticationMethod => connect.auth_method = Some(block.text()?),
            Property::AuthenticationData => connect.auth_data = Some(block.binary()?),
            Property::UserProperty => block.user_property(&mut connect.user_properties)?,
            other => return Err(Violation::MisplacedProperty(other)),
        }
    }
    block.check_authentication()
}

fn will(
    reader: &mut Reader<'_>,
    limits: &Limits,
    version: Version,
    (qos, retain): (QoS, bool),
) -> Result<Will, Violation> {
    let mut delay_secs = 0;
    let mut properties = PublishProperties::default();
    if version == Version::V5 {
        let mut block = PropertyReader::open(reader, Place::Will, limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::WillDelayInterval => delay_secs = block.u32()?,
                other => message_property(&mut block, other, limits, &mut properties)?,
            }
        }
    }
    let topic = topic_name(reader.str()?, limits, Violation::TopicName)?;
    let payload = reader.binary()?;
    let message = Publication { topic, payload, qos, retain, properties: shared(properties) };
    Ok(Will { message, delay_secs })
}

pub(super) fn connack(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    let flags = reader.u8()?;
    if flags & !1 != 0 {
        return Err(Violation::AcknowledgeFlags(flags));
    }
    let mut connack = ConnAck::new(match context.version {
        Version::V311 => {
            let code = reader.u8()?;
            ReasonCode::from_connect_return_code(code).ok_or(Violation::ReasonCode(code))?
        }
        Version::V5 => reason(reader, PacketType::ConnAck, context)?,
    });
    connack.session_present = flags == 1;
    if connack.session_present && connack.reason != ReasonCode::Success {
        return Err(Violation::SessionPresentWithError);
    }
    if context.version == Version::V5 {
        connack_properties(reader, context.limits, &mut connack)?;
    }
    reader.finish()?;
    Ok(Packet::ConnAck(Box::new(connack)))
}

fn connack_properties(
    reader: &mut Reader<'_>,
    limits: &Limits,
    connack: &mut ConnAck,
) -> Result<(), Violation> {
    let mut block = PropertyReader::open(reader, Place::ConnAck, limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::SessionExpiryInterval => connack.session_expiry_secs = Some(block.u32()?),
            Property::ReceiveMaximum => connack.receive_max = Some(block.nonzero_u16(property)?),
            Property::MaximumQos => {
                let qos1 = block.flag(property)?;
                connack.qos_max = Some(if qos1 { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            Property::RetainAvailable => connack.retain_available = Some(block.flag(property)?),
            Property::MaximumPacketSize => connack.packet_size_max = Some(block.nonzero_u32(property)?),
            Property::AssignedClientIdentifier => connack.assigned_client_id = Some(block.text()?),
            Property::TopicAliasMaximum => connack.topic_alias_max = block.u16()?,
            Property::WildcardSubscriptionAvailable => {
                connack.wildcard_available = Some(block.flag(property)?);
            }
            Property::SubscriptionIdentifierAvailable => {
                connack.subscription_ids_available = Some(block.flag(property)?);
            }
            Property::SharedSubscriptionAvailable => connack.shared_available = Some(block.flag(property)?),
            Property::ServerKeepAlive => connack.server_keep_alive_secs = Some(block.u16()?),
            Property::ResponseInformation => connack.response_info = Some(block.text()?),
            Property::ServerReference => connack.server_reference = Some(block.text()?),
            Property::AuthenticationMethod => connack.auth_method = Some(block.text()?),
            Property::AuthenticationData => connack.auth_data = Some(block.binary()?),
            other => block.info(other, &mut connack.info)?,
        }
    }
    block.check_authentication()
}
