//! Packets to bytes.
//!
//! Every packet is described once, over a [`Sink`]; counting and writing run the same description, so the
//! remaining length cannot disagree with what follows it. For 3.1.1 what that version lacks is left out.

mod ack;
mod close;
mod connect;
mod publish;
mod sink;
mod subscribe;

pub(crate) use publish::Head;
pub use publish::{PublishRef, encode_publish, encode_publish_head, publish_len};

use crate::error::EncodeError;
use crate::packet::{Packet, Version};
use crate::plain::PlainAck;
use crate::wire::{VARINT_MAX, varint_len};
use bytes::{BufMut, BytesMut};
use sink::{Count, Sink};

/// Appends a packet to `out`. A CONNECT is written in its own version.
///
/// # Errors
/// When the packet breaks the standard or does not fit it; `out` is as it was then.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Some(ack) = ack::plain(packet, version) {
        out.put_slice(&ack.to_bytes());
        return Ok(());
    }
    let len = measured(packet, version).checked()?;
    write_header(first_byte(packet), len, out);
    body(packet, version, out);
    Ok(())
}

/// Returns the bytes `encode` appends, fixed header included; for a packet it refuses the number means nothing.
pub fn encoded_len(packet: &Packet, version: Version) -> usize {
    if ack::plain(packet, version).is_some() {
        return PlainAck::BYTES;
    }
    framed_len(measured(packet, version).len)
}

fn measured(packet: &Packet, version: Version) -> Count {
    let mut count = Count::default();
    body(packet, version, &mut count);
    count
}

#[inline]
fn framed_len(body_len: usize) -> usize {
    body_len.saturating_add(1 + varint_len(body_len))
}

fn write_header(first_byte: u8, body_len: usize, out: &mut BytesMut) {
    out.reserve(framed_len(body_len));
    out.put_u8(first_byte);
    out.varint(body_len);
}

impl Count {
    fn checked(self) -> Result<usize, EncodeError> {
        match self.error {
            Some(error) => Err(error),
            None if self.len > VARINT_MAX as usize => Err(EncodeError::PacketTooLarge(self.len)),
            None => Ok(self.len),
        }
    }
}

fn first_byte(packet: &Packet) -> u8 {
    if let Packet::Publish(publish) = packet {
        return PublishRef::from(&**publish).first_byte();
    }
    let packet = packet.packet_type();
    (packet as u8) << 4 | packet.fixed_flags().unwrap_or(0)
}

fn body(packet: &Packet, version: Version, sink: &mut impl Sink) {
    match packet {
        Packet::Connect(packet) => connect::connect(packet, sink),
        Packet::ConnAck(packet) => connect::connack(packet, version, sink),
        Packet::Publish(packet) => publish::body(&PublishRef::from(&**packet), version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::ack(ack, version, sink);
        }
        Packet::Subscribe(packet) => subscribe::subscribe(packet, version, sink),
        Packet::SubAck(packet) => subscribe::suback(packet, version, sink),
        Packet::Unsubscribe(packet) => subscribe::unsubscribe(packet, version, sink),
        Packet::UnsubAck(packet) => subscribe::unsuback(packet, version, sink),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(packet) => close::disconnect(packet, version, sink),
        Packet::Auth(packet) => close::auth(packet, version, sink),
    }
}
