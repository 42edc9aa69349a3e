//! The cloud channel and the device twins as pure state machines.
//!
//! Owns KubeEdge's message, the log of changes and its resumption by cursor, persist-then-ack,
//! the upward spool, and the rules of device membership, state and twin. Leaves websockets, TLS,
//! MQTT, disk and time to `cloud-bridge/` and `event-bus/`, which execute the effects.

mod audit;
mod change;
mod cloud;
mod device;
mod edge;
mod error;
mod limits;
mod log;
mod message;
mod message_id;
mod signing;
mod spool;
pub mod twin;

pub use audit::{AuditBatch, AuditPlace, AuditRequest};
pub use change::{Change, Cursor, Extent, Operation, change_of, message_of};
pub use cloud::{CloudConfig, CloudEffect, CloudSync, StoreTicket, Upward, UpwardKind};
pub use device::{DeviceId, DeviceRecord, InvalidDeviceId};
pub use edge::{EdgeConfig, EdgeEffect, EdgeSync};
pub use error::{DecodeError, PeerFault};
pub use limits::Limits;
pub use log::{LogHead, NodeLog, Resume};
pub use message::{Header, Message, Route, operation};
pub use message_id::MessageIds;
pub use midge_identity::UnixMillis;
pub use signing::{SignedChain, SigningKind, SigningRequest};
pub use spool::{Spool, SpoolItem, SpoolLimits, SpoolRecord, SpoolWrite, UpwardItem};

use std::time::Duration;

/// One moment: monotonic time since the start of the program, and the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary start; never goes back.
    pub mono: Duration,
    /// Wall clock, for timestamps in messages.
    pub wall: UnixMillis,
}
