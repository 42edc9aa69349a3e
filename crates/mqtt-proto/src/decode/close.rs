//! DISCONNECT and AUTH.

use super::ack::reason;
use super::properties::{PropertyReader, only_to};
use super::{Context, Role};
use crate::error::Violation;
use crate::packet::{Auth, Disconnect, Info, Packet, Version};
use crate::packet_type::PacketType;
use crate::property::{Place, Property};
use crate::reason::ReasonCode;
use crate::wire::Reader;

pub(super) fn disconnect(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry_secs: None,
        server_reference: None,
        info: Info::default(),
    };
    if context.version == Version::V311 {
        reader.finish()?;
        return Ok(Packet::Disconnect(Box::new(disconnect)));
    }
    if !reader.is_empty() {
        disconnect.reason = reason(reader, PacketType::Disconnect, context)?;
    } else if context.role == Role::Client {
        // An omitted code is 0x00, which only a client may send (table 3-13).
        return Err(Violation::ReasonCode(0));
    }
    if !reader.is_empty() {
        let mut block = PropertyReader::open(reader, Place::Disconnect, context.limits)?;
        while let Some(property) = block.next()? {
            match property {
                Property::SessionExpiryInterval => {
                    only_to(Role::Server, context.role, property)?;
                    disconnect.session_expiry_secs = Some(block.u32()?);
                }
                Property::ServerReference => disconnect.server_reference = Some(block.text()?),
                other => block.info(other, &mut disconnect.info)?,
            }
        }
        reader.finish()?;
    }
    Ok(Packet::Disconnect(Box::new(disconnect)))
}

pub(super) fn auth(reader: &mut Reader<'_>, context: Context<'_>) -> Result<Packet, Violation> {
    let mut auth = Auth { reason: ReasonCode::Success, method: None, data: None, info: Info::default() };
    if reader.is_empty() {
        // §3.15.2.1 lets a bare AUTH mean Success, which only a server may send.
        return match context.role {
            Role::Client => Ok(Packet::Auth(Box::new(auth))),
            Role::Server => Err(Violation::ReasonCode(0)),
        };
    }
    auth.reason = reason(reader, PacketType::Auth, context)?;
    let mut block = PropertyReader::open(reader, Place::Auth, context.limits)?;
    while let Some(property) = block.next()? {
        match property {
            Property::AuthenticationMethod => auth.method = Some(block.text()?),
            Property::AuthenticationData => auth.data = Some(block.binary()?),
            other => block.info(other, &mut auth.info)?,
        }
    }
    reader.finish()?;
    if auth.method.is_none() {
        return Err(Violation::NoAuthenticationMethod);
    }
    Ok(Packet::Auth(Box::new(auth)))
}
