//! Records as bytes: a format version, fixed fields in little-endian order, texts with their length in front,
//! and publications as MQTT 5.0 PUBLISH packets, last.

use super::{
    Durability, HeldRecord, OutgoingRecord, OutgoingState, OwedRecord, QueuedRecord, Record, RecordKey,
    RecordKind, SessionRecord, StoredMessage, SubscriptionRecord, WillRecord,
};
use crate::SharedMessage;
use crate::authority::Listener;
use crate::message::{Message, Origin, plain};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use midge_identity::{RootId, SpiffeId, UnixMillis};
use midge_policy::SubscribeMode;
use mqtt_proto::{
    Decoder, EncodeError, Limits, Packet, PacketId, Publication, QoS, SharedFilter, TopicName, Version, Will,
    encode_publish,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Format of the records that this version writes, and the only one that it reads: the first byte of each.
pub const FORMAT: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The key is none that this version writes.
    Key,
    /// The record is of another format.
    Format(u8),
    /// The bytes are not a record of this kind.
    Damaged,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("its key is not one that this version writes"),
            Self::Format(found) => write!(f, "it is of format {found}, this version reads {FORMAT}"),
            Self::Damaged => f.write_str("it is damaged"),
        }
    }
}

impl std::error::Error for RecordError {}

impl Record {
    /// Encodes the record.
    ///
    /// # Errors
    /// When a publication does not fit an MQTT packet, which none that arrived in one does.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = BytesMut::with_capacity(64);
        self.encode_into(&mut out)?;
        Ok(out.into())
    }

    /// Appends the encoded record.
    ///
    /// # Errors
    /// As [`Self::encode`]; what was appended then is of no use.
    pub fn encode_into(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_u8(FORMAT);
        match self {
            Self::Session(record) => put_session(record, out),
            Self::Subscription(record) => put_subscription(record, out),
            Self::Message(stored) => {
                out.put_u64_le(stored.received.0);
                out.put_u8(stored.message.level as u8);
                put_origin(stored.message.origin(), out);
                put_publication(stored.message.publication(), out)?;
            }
            Self::Queued(record) | Self::Lent(record) => put_queued(record, out),
            Self::Outgoing(record) => put_outgoing(record, out),
            Self::Held(held) => match &**held {
                HeldRecord::Denied => out.put_u8(0),
                HeldRecord::Accepted(publication, received) => {
                    out.put_u8(1);
                    out.put_u64_le(received.0);
                    put_publication(publication, out)?;
                }
            },
            Self::Retained => {}
            Self::Will(record) => {
                put_text(&record.identity.to_string(), out);
                put_text(&record.client_id, out);
                put_listener(record.listener.as_deref(), out);
                let has_root = if record.root.is_some() { HAS_ROOT } else { 0 };
                out.put_u8(level_of(record.version) | has_root);
                put_root(record.root.as_ref(), out);
                put_option(record.due.map(|due| due.0), out);
                out.put_u32_le(record.will.delay_secs);
                put_publication(&record.will.message, out)?;
            }
            Self::Time(ahead_ms) => out.put_i64_le(*ahead_ms),
            Self::Revoked(identity) => put_text(&identity.to_string(), out),
        }
        Ok(())
    }

    /// Decodes a record. Any bytes whatever are either a record or an error.
    ///
    /// # Errors
    /// When the bytes are of another format, or not a record of the key's kind.
    pub fn decode(key: RecordKey, bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader(Bytes::copy_from_slice(bytes));
        match reader.u8()? {
            FORMAT => {}
            other => return Err(RecordError::Format(other)),
        }
        let record = match key.kind {
            RecordKind::Session => Self::Session(Box::new(reader.session()?)),
            RecordKind::Subscription => Self::Subscription(Box::new(reader.subscription()?)),
            RecordKind::Message => Self::Message(reader.message(key.number)?),
            RecordKind::Queued => Self::Queued(reader.queued()?),
            RecordKind::Outgoing => Self::Outgoing(reader.outgoing()?),
            RecordKind::Held => Self::Held(Box::new(reader.held()?)),
            RecordKind::Retained => Self::Retained,
            RecordKind::Will => Self::Will(Box::new(reader.will()?)),
            RecordKind::Lent => Self::Lent(reader.queued()?),
            RecordKind::Time => Self::Time(reader.u64()?.cast_signed()),
            RecordKind::Revoked => Self::Revoked(reader.identity()?),
        };
        if reader.0.is_empty() { Ok(record) } else { Err(RecordError::Damaged) }
    }
}

/// Protocol level of CONNECT ([MQTT-3.1.2-2] and its like in 3.1.1).
const fn level_of(version: Version) -> u8 {
    match version {
        Version::V311 => 4,
        Version::V5 => 5,
    }
}

/// Beside the protocol level of a will's record: the root comes next. Earlier versions wrote none.
const HAS_ROOT: u8 = 0x80;

fn put_text(text: &str, out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text.as_bytes());
}

fn put_option(value: Option<u64>, out: &mut BytesMut) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        out.put_u64_le(value);
    }
}

fn put_session(record: &SessionRecord, out: &mut BytesMut) {
    put_text(&record.identity.to_string(), out);
    put_text(&record.client_id, out);
    put_listener(record.listener.as_deref(), out);
    out.put_u8(level_of(record.version));
    put_option(record.expiry.map(|expiry| expiry.as_secs()), out);
    out.put_u8(u8::from(record.parked.is_some()));
    if let Some((since, ends)) = record.parked {
        out.put_u64_le(since.0);
        put_option(ends.map(|ends| ends.0), out);
    }
    put_option(record.sent, out);
    put_root(record.root.as_ref(), out);
}

fn put_root(root: Option<&RootId>, out: &mut BytesMut) {
    if let Some(RootId { digest, ends }) = root {
        out.put_slice(digest);
        out.put_u64_le(ends.0);
    }
}

fn put_listener(listener: Option<&Listener>, out: &mut BytesMut) {
    let Some(listener) = listener else { return out.put_u8(0) };
    out.put_u8(match listener.subscribe_mode {
        SubscribeMode::Reject => 1,
        SubscribeMode::Narrow => 2,
        SubscribeMode::Filter => 3,
    });
    put_text(&listener.name, out);
}

fn put_subscription(record: &SubscriptionRecord, out: &mut BytesMut) {
    put_text(&record.filter.to_string(), out);
    out.put_u8(record.requested as u8);
    out.put_u8(u8::from(record.no_local));
    out.put_u8(u8::from(record.retain_as_published));
    put_option(record.id.map(u64::from), out);
    if let Some(OwedRecord { after, sent, overtaken }) = &record.owed {
        out.put_u64_le(*sent);
        put_text(after.as_ref().map_or("", TopicName::as_str), out);
        overtaken.iter().for_each(|topic| put_text(topic.as_str(), out));
    }
}

fn put_origin(origin: &Origin, out: &mut BytesMut) {
    match origin {
        Origin::Broker => out.put_u8(0),
        Origin::Client { identity, client_id, listener, rule, will } => {
            out.put_u8(1 + u8::from(*will));
            put_text(&identity.to_string(), out);
            put_text(client_id, out);
            put_text(listener.as_deref().unwrap_or_default(), out);
            put_text(rule, out);
        }
    }
}

fn put_publication(publication: &Publication, out: &mut BytesMut) -> Result<(), EncodeError> {
    out.put_u8(publication.qos as u8);
    encode_publish(&plain(publication), Version::V5, out)
}

fn put_queued(record: &QueuedRecord, out: &mut BytesMut) {
    out.put_u64_le(record.message);
    out.put_u8(record.qos as u8);
    out.put_u8(u8::from(record.retain));
    let ids = record.subscription_ids.as_deref().unwrap_or_default();
    out.put_u16_le(u16::try_from(ids.len()).unwrap_or(u16::MAX));
    ids.iter().take(usize::from(u16::MAX)).for_each(|id| out.put_u32_le(*id));
    out.put_u8(u8::from(record.group.is_some()));
    if let Some(group) = &record.group {
        put_text(&group.to_string(), out);
    }
    if let Some(id) = record.packet_id {
        out.put_u16_le(id.get());
    }
}

fn put_outgoing(record: &OutgoingRecord, out: &mut BytesMut) {
    out.put_u64_le(record.order);
    match &record.state {
        OutgoingState::Published(queued) => {
            out.put_u8(0);
            put_queued(queued, out);
        }
        OutgoingState::Released => out.put_u8(1),
        OutgoingState::Withdrawn => out.put_u8(2),
    }
}

struct Reader(Bytes);

type Read<T> = Result<T, RecordError>;

impl Reader {
    fn bytes(&mut self, count: usize) -> Read<Bytes> {
        if count > self.0.len() {
            return Err(RecordError::Damaged);
        }
        Ok(self.0.split_to(count))
    }

    fn u8(&mut self) -> Read<u8> {
        Ok(self.bytes(1)?.get_u8())
    }

    fn u16(&mut self) -> Read<u16> {
        Ok(self.bytes(2)?.get_u16_le())
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(self.bytes(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(self.bytes(8)?.get_u64_le())
    }

    fn flag(&mut self) -> Read<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Damaged),
        }
    }

    fn option(&mut self) -> Read<Option<u64>> {
        if self.flag()? { self.u64().map(Some) } else { Ok(None) }
    }

    fn text(&mut self) -> Read<String> {
        let count = usize::try_from(self.u32()?).map_err(|_| RecordError::Damaged)?;
        String::from_utf8(self.bytes(count)?.into()).map_err(|_| RecordError::Damaged)
    }

    fn identity(&mut self) -> Read<Arc<SpiffeId>> {
        SpiffeId::new(self.text()?).map(Arc::new).map_err(|_| RecordError::Damaged)
    }

    fn filter(&mut self) -> Read<SharedFilter> {
        SharedFilter::new(&self.text()?).map_err(|_| RecordError::Damaged)
    }

    fn listener(&mut self) -> Read<Option<Arc<Listener>>> {
        let subscribe_mode = match self.u8()? {
            0 => return Ok(None),
            1 => SubscribeMode::Reject,
            2 => SubscribeMode::Narrow,
            3 => SubscribeMode::Filter,
            _ => return Err(RecordError::Damaged),
        };
        Ok(Some(Arc::new(Listener { name: self.text()?.into(), subscribe_mode })))
    }

    fn root(&mut self) -> Read<RootId> {
        let digest = <[u8; 32]>::try_from(&*self.bytes(32)?);
        let digest = digest.map_err(|_| RecordError::Damaged)?;
        Ok(RootId { digest, ends: UnixMillis(self.u64()?) })
    }

    fn version(&mut self) -> Read<Version> {
        let level = self.u8()?;
        Self::version_of(level)
    }

    fn version_of(level: u8) -> Read<Version> {
        match level {
            4 => Ok(Version::V311),
            5 => Ok(Version::V5),
            _ => Err(RecordError::Damaged),
        }
    }

    fn qos(&mut self) -> Read<QoS> {
        match self.u8()? {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(RecordError::Damaged),
        }
    }

    fn session(&mut self) -> Read<SessionRecord> {
        Ok(SessionRecord {
            identity: self.identity()?,
            client_id: self.text()?.into(),
            listener: self.listener()?,
            version: self.version()?,
            expiry: self.option()?.map(Duration::from_secs),
            parked: if self.flag()? {
                Some((UnixMillis(self.u64()?), self.option()?.map(UnixMillis)))
            } else {
                None
            },
            // The first records of this format end here.
            sent: if self.0.is_empty() { None } else { self.option()? },
            // Others end here, and those of sessions that no root vouches for.
            root: if self.0.is_empty() { None } else { Some(self.root()?) },
        })
    }

    fn subscription(&mut self) -> Read<SubscriptionRecord> {
        Ok(SubscriptionRecord {
            filter: self.filter()?,
            requested: self.qos()?,
            no_local: self.flag()?,
            retain_as_published: self.flag()?,
            id: self.option()?.map(u32::try_from).transpose().map_err(|_| RecordError::Damaged)?,
            // The first records of this format end here, and so does one that owes nothing.
            owed: if self.0.is_empty() { None } else { Some(self.owed()?) },
        })
    }

    fn owed(&mut self) -> Read<OwedRecord> {
        let (sent, topic) = (self.u64()?, self.text()?);
        let after = if topic.is_empty() { None } else { Some(TopicName::new(&topic)) };
        let after = after.transpose().map_err(|_| RecordError::Damaged)?;
        let mut overtaken = Vec::new();
        while !self.0.is_empty() {
            overtaken.push(TopicName::new(&self.text()?).map_err(|_| RecordError::Damaged)?);
        }
        Ok(OwedRecord { after, sent, overtaken })
    }

    fn message(&mut self, number: u64) -> Read<StoredMessage> {
        let received = UnixMillis(self.u64()?);
        let level = match self.u8()? {
            1 => Durability::ProcessCrash,
            2 => Durability::PowerLoss,
            _ => return Err(RecordError::Damaged),
        };
        let origin = self.origin()?;
        let message = Message::restored(self.publication()?, origin, number, level);
        Ok(StoredMessage { message: SharedMessage::new(message), received })
    }

    fn origin(&mut self) -> Read<Origin> {
        let will = match self.u8()? {
            0 => return Ok(Origin::Broker),
            1 => false,
            2 => true,
            _ => return Err(RecordError::Damaged),
        };
        Ok(Origin::Client {
            identity: self.identity()?,
            client_id: self.text()?.into(),
            listener: Some(self.text()?).filter(|name| !name.is_empty()).map(Into::into),
            rule: self.text()?.into(),
            will,
        })
    }

    /// Reads a publication, which takes all that is left.
    fn publication(&mut self) -> Read<Publication> {
        let qos = self.qos()?;
        // The broker that wrote it had limits; those of today are for what arrives today.
        let limits = Limits {
            packet_bytes_max: usize::MAX,
            connect_bytes_max: 0,
            properties_bytes_max: usize::MAX,
            user_properties_max: usize::MAX,
            filters_max: 0,
            topic_levels_max: usize::MAX,
        };
        let mut rest = BytesMut::from(&*std::mem::take(&mut self.0));
        let packet = Decoder::client(Version::V5, limits).decode(&mut rest);
        let Ok(Some(Packet::Publish(publish))) = packet else { return Err(RecordError::Damaged) };
        let is_plain = publish.qos == QoS::AtMostOnce
            && publish.topic_alias.is_none()
            && publish.subscription_ids.is_empty();
        match publish.topic {
            Some(topic) if is_plain && rest.is_empty() => Ok(Publication {
                topic,
                payload: publish.payload,
                qos,
                retain: publish.retain,
                properties: publish.properties,
            }),
            _ => Err(RecordError::Damaged),
        }
    }

    fn queued(&mut self) -> Read<QueuedRecord> {
        let (message, qos, retain) = (self.u64()?, self.qos()?, self.flag()?);
        let count = self.u16()?;
        let ids: Vec<u32> = (0..count).map(|_| self.u32()).collect::<Read<_>>()?;
        let group = if self.flag()? { Some(Box::new(self.filter()?)) } else { None };
        Ok(QueuedRecord {
            message,
            qos,
            retain,
            subscription_ids: (!ids.is_empty()).then(|| ids.into()),
            group,
            // The first records of this format end here.
            packet_id: if self.0.is_empty() { None } else { Some(self.packet_id()?) },
        })
    }

    fn packet_id(&mut self) -> Read<PacketId> {
        PacketId::new(self.u16()?).ok_or(RecordError::Damaged)
    }

    fn outgoing(&mut self) -> Read<OutgoingRecord> {
        let order = self.u64()?;
        let state = match self.u8()? {
            0 => OutgoingState::Published(self.queued()?),
            1 => OutgoingState::Released,
            2 => OutgoingState::Withdrawn,
            _ => return Err(RecordError::Damaged),
        };
        Ok(OutgoingRecord { order, state })
    }

    fn held(&mut self) -> Read<HeldRecord> {
        if !self.flag()? {
            return Ok(HeldRecord::Denied);
        }
        let received = UnixMillis(self.u64()?);
        Ok(HeldRecord::Accepted(self.publication()?, received))
    }

    fn will(&mut self) -> Read<WillRecord> {
        let (identity, client_id, listener) = (self.identity()?, self.text()?.into(), self.listener()?);
        let level = self.u8()?;
        let version = Self::version_of(level & !HAS_ROOT)?;
        let root = if level & HAS_ROOT == 0 { None } else { Some(self.root()?) };
        let due = self.option()?.map(UnixMillis);
        let delay_secs = self.u32()?;
        let will = Will { message: self.publication()?, delay_secs };
        Ok(WillRecord { identity, client_id, listener, version, root, will, due })
    }
}
