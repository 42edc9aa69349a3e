//! What the hub refuses, and what fails it.

use super::synclog::SyncLogError;
use bridge_core::{DeviceId, InvalidDeviceId};
use midge_identity::SpiffeIdError;
use midge_issuer::IssueError;
use midge_store::StoreError;
use std::io;
use std::net::SocketAddr;
use thiserror::Error;

/// Why the hub refused or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// A port is taken.
    #[error("cannot listen on {address}: {source}: stop what uses the port or configure another")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// An ID in this trust domain.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// The identity server.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The logs.
    #[error(transparent)]
    Log(#[from] SyncLogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what it should be.
    #[error("record \"{key}\" of the store is unreadable: {why}: restore the store from a backup")]
    Record {
        /// Key of the record.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A device id.
    #[error(transparent)]
    DeviceId(#[from] InvalidDeviceId),
    /// No such device.
    #[error("no device {0}: `midge device list` shows what there is")]
    NoDevice(DeviceId),
    /// It exists.
    #[error("device {id} exists already on node {node}")]
    DeviceExists {
        /// The device.
        id: DeviceId,
        /// Its node.
        node: String,
    },
    /// Several nodes have a device of that name.
    #[error("device {id} exists on several nodes: name one of {}", .nodes.join(", "))]
    Ambiguous {
        /// The device.
        id: DeviceId,
        /// Nodes that have one.
        nodes: Vec<String>,
    },
    /// A desired value.
    #[error("{0}")]
    Desired(String),
    /// The name of a node.
    #[error("\"{name}\" cannot be the name of a node: {why}")]
    NodeName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The name of a rule.
    #[error("\"{0}\" cannot be the name of a rule: use 1 to 128 letters, digits, `.`, `_` and `-`")]
    RuleName(String),
    /// A rule of that name is for somebody else.
    #[error("rule \"{name}\" is handed to {holder}: choose another name, or take that rule back first")]
    RuleTaken {
        /// Its name.
        name: String,
        /// Whom it is for.
        holder: String,
    },
    /// No such rule.
    #[error("no rule \"{0}\"")]
    NoRule(String),
}
