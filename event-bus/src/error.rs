//! Why the event bus cannot start, and why devices were not changed.

use bridge_core::DeviceId;
use midge_store::StoreError;
use thiserror::Error;

/// Why the event bus cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EventBusError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A twin on disk.
    #[error("record \"{key}\" of the store is unreadable: {error}: restore the store from a backup")]
    Record {
        /// Key of the record.
        key: String,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// Why devices were not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No such device.
    #[error("no device {0}: `midge device list` shows what there is")]
    Unknown(DeviceId),
    /// It exists.
    #[error("device {0} exists already")]
    Exists(DeviceId),
    /// A value or a change that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The disk.
    #[error("the devices are not on disk: {0}")]
    Disk(String),
    /// The bus has ended.
    #[error("the event bus is stopping")]
    Stopping,
}
