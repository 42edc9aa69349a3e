//! PUBACK, PUBREC, PUBREL and PUBCOMP.

use super::{Context, properties};
use crate::error::Violation;
use crate::packet::{Ack, Info, Version};
use crate::packet_type::PacketType;
use crate::reason::ReasonCode;
use crate::wire::Reader;

pub(super) fn ack(
    reader: &mut Reader<'_>,
    packet: PacketType,
    context: Context<'_>,
) -> Result<Ack, Violation> {
    let mut ack = Ack { packet_id: reader.packet_id()?, reason: ReasonCode::Success, info: None };
    if context.version == Version::V311 || reader.is_empty() {
        reader.finish()?;
        return Ok(ack);
    }
    ack.reason = reason(reader, packet, context)?;
    if reader.is_empty() {
        return Ok(ack);
    }
    let info = properties::info(reader, context.limits)?;
    reader.finish()?;
    if info != Info::default() {
        ack.info = Some(Box::new(info));
    }
    Ok(ack)
}

/// Reads a reason code that may stand in this packet.
pub(super) fn reason(
    reader: &mut Reader<'_>,
    packet: PacketType,
    context: Context<'_>,
) -> Result<ReasonCode, Violation> {
    let code = reader.u8()?;
    ReasonCode::try_from(code)
        .ok()
        .filter(|reason| reason.is_allowed_in(packet, context.role))
        .ok_or(Violation::ReasonCode(code))
}
