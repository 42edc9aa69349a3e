//! MQTT 3.1.1 and 5.0: packets, codec, topic names and topic filters.
//!
//! Owns what is on the wire and nothing else: bytes in, packets out, and back. Sessions and
//! authorization live in `broker-core` and `policy`; sockets in `broker/`.

mod packet;
mod reason;
mod topic;

pub use packet::*;
pub use reason::ReasonCode;
pub use topic::{InvalidTopic, SharedFilter, TopicFilter, TopicName};
