//! Bytes to packets.
//!
//! Owns framing, direction and the rule that CONNECT comes first and once. What one packet alone cannot show
//! (packet ids in use, alias maxima, flow control) is the session's to judge.

mod ack;
mod close;
mod connect;
mod properties;
mod publish;
mod subscribe;
mod topics;

pub(crate) use self::publish::plain as plain_publish;
pub(crate) use self::topics::Topics;
use crate::error::{DecodeError, Violation};
use crate::limits::Limits;
use crate::packet::{Packet, Version};
use crate::packet_type::PacketType;
use crate::plain::{PlainAck, PlainRun};
use crate::topic::{InvalidTopic, TopicName};
use crate::wire::{Reader, read_varint};
use bytes::{Buf, BytesMut};
use std::ops::Range;

/// Packets up to this many bytes share no memory with the buffer they came in.
const COPY_BYTES_MAX: usize = 8 * 1024;
/// Larger ones do if they take at least this part of it: what is kept of one keeps no more than so many times its size,
/// and a stream of 16 KiB read in pieces of 64 KiB is not copied.
const SHARED_PART: usize = 5;

/// The end of the connection that decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Receives CONNECT, SUBSCRIBE, …
    Server,
    /// Receives CONNACK, SUBACK, …
    Client,
}

/// Decodes the packets of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    version: Option<Version>,
    limits: Limits,
    topics: Topics,
    refused: Option<DecodeError>,
    /// Addresses of the memory that the buffer was last seen to use, what was taken off its front included.
    memory: Range<usize>,
}

/// What decoding a packet body depends on besides its bytes.
#[derive(Clone, Copy)]
struct Context<'a> {
    role: Role,
    version: Version,
    limits: &'a Limits,
}

struct Header {
    packet: PacketType,
    flags: u8,
    header_len: usize,
    body_len: usize,
}

impl Decoder {
    /// Returns the decoder of a server's end: the first packet must be CONNECT and sets the version.
    pub fn server(limits: Limits) -> Self {
        Self::new(Role::Server, None, limits)
    }

    /// Returns the decoder of a client's end, which knows the version it asked for.
    pub fn client(version: Version, limits: Limits) -> Self {
        Self::new(Role::Client, Some(version), limits)
    }

    fn new(role: Role, version: Option<Version>, limits: Limits) -> Self {
        Self { role, version, limits, topics: Topics::default(), refused: None, memory: 0..0 }
    }

    /// Returns which end decodes.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the version; at a server it is known once CONNECT named one that is served, even when the
    /// rest of that CONNECT was refused, or level 5 of another protocol, or one above 5 in the form of 5.0, so that the
    /// refusal can be told in the right form.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off the front of `buffer`; `None` while it is incomplete.
    ///
    /// Payloads and binary properties of large packets share the memory of `buffer` where they take a good part of
    /// it, those of others are copied: a small message that is kept for long must not keep a whole buffer.
    ///
    /// # Errors
    /// When the peer broke the standard or a limit. The stream has no next packet then: every further call
    /// returns the same error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        // A refused CONNECT has set the version already: going on would let its sender skip CONNECT.
        if let Some(error) = self.refused {
            return Err(error);
        }
        self.look_at(buffer);
        if let Some(ack) = self.plain_ack(buffer) {
            buffer.advance(PlainAck::BYTES);
            return Ok(Some(ack.into()));
        }
        self.next_packet(buffer).inspect_err(|error| self.refused = Some(*error))
    }

    /// Returns the packets at the front of `buffer` that say no more than they must, to be read where they are. They are
    /// left there: whoever has taken some takes their bytes away.
    pub fn plain_run<'a>(&'a mut self, buffer: &'a BytesMut) -> Option<PlainRun<'a>> {
        let is_open = self.refused.is_none() && self.limits.packet_bytes_max >= PlainAck::BYTES;
        let version = self.version.filter(|_| is_open)?;
        self.look_at(buffer);
        let publish_bytes_max = self.limits.packet_bytes_max.min(COPY_BYTES_MAX);
        Some(PlainRun { bytes: buffer, used: 0, version, topics: &self.topics, publish_bytes_max })
    }

    /// Returns an acknowledgement that needs no judging; anything else takes the long way.
    #[inline]
    fn plain_ack(&self, buffer: &[u8]) -> Option<PlainAck> {
        let is_taken = self.version.is_some() && self.limits.packet_bytes_max >= PlainAck::BYTES;
        if is_taken { PlainAck::at_front(buffer) } else { None }
    }

    /// Notes how much memory the buffer uses: it cannot tell itself once something was taken off its front.
    fn look_at(&mut self, buffer: &BytesMut) {
        let start = buffer.as_ptr().addr();
        let end = start.saturating_add(buffer.capacity());
        if start < self.memory.start || end > self.memory.end {
            // It grew where it is, or is another.
            let start = if self.memory.contains(&start) { self.memory.start } else { start };
            self.memory = start..end;
        }
    }

    fn shares_memory(&self, body_len: usize) -> bool {
        body_len > COPY_BYTES_MAX && body_len.saturating_mul(SHARED_PART) >= self.memory.len()
    }

    fn next_packet(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.header(buffer)? else {
            return Ok(None);
        };
        if buffer.len() < header.header_len + header.body_len {
            return Ok(None);
        }
        let packet = if self.shares_memory(header.body_len) {
            buffer.advance(header.header_len);
            let body = buffer.split_to(header.body_len).freeze();
            self.packet(&header, Reader::sharing(&body))
        } else {
            let body = buffer.get(header.header_len..header.header_len + header.body_len);
            let packet = self.packet(&header, Reader::copying(body.unwrap_or_default()));
            buffer.advance(header.header_len + header.body_len);
            packet
        };
        packet.map(Some).map_err(|violation| DecodeError { packet: Some(header.packet), violation })
    }

    /// Judges the fixed header from its first byte on, before the rest costs memory.
    fn header(&self, buffer: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((first, rest)) = buffer.split_first() else {
            return Ok(None);
        };
        let packet = PacketType::from_nibble(first >> 4)
            .filter(|packet| *packet != PacketType::Auth || self.version != Some(Version::V311))
            .ok_or(DecodeError { packet: None, violation: Violation::ReservedPacketType(first >> 4) })?;
        let refuse = |violation| DecodeError { packet: Some(packet), violation };
        self.check_order(packet).map_err(refuse)?;
        let flags = first & 0x0F;
        check_flags(packet, flags).map_err(refuse)?;
        let Some((body_len, varint_len)) = read_varint(rest).map_err(refuse)? else {
            return Ok(None);
        };
        let body_len = usize::try_from(body_len).unwrap_or(usize::MAX);
        let header = Header { packet, flags, header_len: 1 + varint_len, body_len };
        let len = body_len.saturating_add(header.header_len);
        let max = self.packet_bytes_max(packet);
        if len > max {
            return Err(refuse(Violation::PacketTooLarge { len, max }));
        }
        Ok(Some(header))
    }

    fn check_order(&self, packet: PacketType) -> Result<(), Violation> {
        match (self.version, packet) {
            (None, PacketType::Connect) => Ok(()),
            // [MQTT-3.1.0-1]
            (None, _) => Err(Violation::ConnectExpected),
            // [MQTT-3.1.0-2]
            (Some(_), PacketType::Connect) if self.role == Role::Server => Err(Violation::SecondConnect),
            (Some(Version::V311), PacketType::Disconnect) if self.role == Role::Client => {
                Err(Violation::PacketDirection)
            }
            _ if packet.may_reach(self.role) => Ok(()),
            _ => Err(Violation::PacketDirection),
        }
    }

    fn packet_bytes_max(&self, packet: PacketType) -> usize {
        let max = self.limits.packet_bytes_max;
        if packet == PacketType::Connect { max.min(self.limits.connect_bytes_max) } else { max }
    }

    fn packet(&mut self, header: &Header, mut reader: Reader<'_>) -> Result<Packet, Violation> {
        let Some(version) = self.version else {
            return connect::connect(&mut reader, &self.limits, &mut self.version);
        };
        let context = Context { role: self.role, version, limits: &self.limits };
        match header.packet {
            PacketType::Publish => publish::publish(&mut reader, header.flags, context, &mut self.topics),
            PacketType::PubAck => ack::ack(&mut reader, header.packet, context).map(Packet::PubAck),
            PacketType::PubRec => ack::ack(&mut reader, header.packet, context).map(Packet::PubRec),
            PacketType::PubRel => ack::ack(&mut reader, header.packet, context).map(Packet::PubRel),
            PacketType::PubComp => ack::ack(&mut reader, header.packet, context).map(Packet::PubComp),
            PacketType::Subscribe => subscribe::subscribe(&mut reader, context),
            PacketType::SubAck => subscribe::suback(&mut reader, context),
            PacketType::Unsubscribe => subscribe::unsubscribe(&mut reader, context),
            PacketType::UnsubAck => subscribe::unsuback(&mut reader, context),
            PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
            PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
            PacketType::Disconnect => close::disconnect(&mut reader, context),
            PacketType::Auth => close::auth(&mut reader, context),
            PacketType::ConnAck => connect::connack(&mut reader, context),
            PacketType::Connect => Err(Violation::SecondConnect),
        }
    }
}

fn check_flags(packet: PacketType, flags: u8) -> Result<(), Violation> {
    match packet.fixed_flags() {
        Some(expected) if flags == expected => Ok(()),
        Some(_) => Err(Violation::HeaderFlags(flags)),
        None if flags & 0b0110 == 0b0110 => Err(Violation::Qos3),
        None if flags & 0b1110 == 0b1000 => Err(Violation::DupOnQos0),
        None => Ok(()),
    }
}

/// Parses a topic name; one slash more than `topic_levels_max` is refused before anything is allocated.
fn topic_name(
    text: &str,
    limits: &Limits,
    invalid: fn(InvalidTopic) -> Violation,
) -> Result<TopicName, Violation> {
    let max = limits.topic_levels_max;
    if levels(text) > max {
        return Err(Violation::TopicNameTooDeep { max });
    }
    TopicName::new(text).map_err(invalid)
}

fn levels(text: &str) -> usize {
    1 + text.bytes().filter(|byte| *byte == b'/').count()
}
