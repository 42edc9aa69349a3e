//! MQTT 3.1.1 and 5.0: packets, codec, topic names and topic filters.
//!
//! Owns what is on the wire and nothing else: bytes in, packets out, and back. Sessions and
//! authorization live in `broker-core` and `policy`; sockets in `broker/`.

mod decode;
mod encode;
mod error;
mod limits;
mod packet;
mod packet_type;
mod plain;
mod property;
mod reason;
mod redacted;
mod topic;
mod wire;

pub use decode::{Decoder, Role};
pub use encode::{PublishRef, encode, encode_publish, encode_publish_head, encoded_len, publish_len};
pub use error::{DecodeError, EncodeError, Violation};
pub use limits::Limits;
pub use packet::*;
pub use packet_type::PacketType;
pub use plain::{AckKind, Plain, PlainAck, PlainPublish, PlainRun};
pub use property::Property;
pub use reason::{ReasonCode, UnknownReasonCode};
pub use topic::{InvalidTopic, SharedFilter, TopicFilter, TopicName};
