//! What the rest of the box asks of the event bus.

use crate::error::DeviceError;
use crate::mqtt::BusStatus;
use bridge_core::twin::Device;
use bridge_core::{Change, DeviceId, Extent};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) type Answer<T> = oneshot::Sender<Result<T, DeviceError>>;

pub(crate) enum Command {
    Apply { changes: Vec<Change>, extent: Extent, done: Answer<BTreeMap<String, String>> },
    Create { device: Box<Device>, desired: BTreeMap<String, String>, done: Answer<Device> },
    Delete { id: DeviceId, done: Answer<()> },
    Set { id: DeviceId, desired: BTreeMap<String, String>, done: Answer<Device> },
    List { done: Answer<Vec<Device>> },
    Show { id: DeviceId, done: Answer<Device> },
}

/// Talks to a running event bus. Clones share it.
#[derive(Clone, Debug)]
pub struct EventBusHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<BusStatus>,
}

impl EventBusHandle {
    /// Applies changes of the cloud; those that are not about devices are ignored. Once this returns
    /// they are on disk. Returns the resources that were skipped, and why.
    ///
    /// # Errors
    /// The disk fails, or the bus has ended.
    pub async fn apply(
        &self,
        changes: Vec<Change>,
        extent: Extent,
    ) -> Result<BTreeMap<String, String>, DeviceError> {
        self.ask(|done| Command::Apply { changes, extent, done }).await
    }

    /// Creates a device on a box without a cloud.
    ///
    /// # Errors
    /// It exists, a desired value is not allowed, the disk fails, or the bus has ended.
    pub async fn create_device(
        &self,
        id: DeviceId,
        description: String,
        desired: BTreeMap<String, String>,
    ) -> Result<Device, DeviceError> {
        let device = Box::new(Device::new(id, uuid::Uuid::new_v4().to_string(), description));
        self.ask(|done| Command::Create { device, desired, done }).await
    }

    /// Deletes a device with its twin on a box without a cloud.
    ///
    /// # Errors
    /// There is no such device, the disk fails, or the bus has ended.
    pub async fn delete_device(&self, id: DeviceId) -> Result<(), DeviceError> {
        self.ask(|done| Command::Delete { id, done }).await
    }

    /// Sets desired values on a box without a cloud.
    ///
    /// # Errors
    /// There is no such device, a value is not allowed, the disk fails, or the bus has ended.
    pub async fn set_device(
        &self,
        id: DeviceId,
        desired: BTreeMap<String, String>,
    ) -> Result<Device, DeviceError> {
        self.ask(|done| Command::Set { id, desired, done }).await
    }

    /// Returns all devices in order of name.
    ///
    /// # Errors
    /// The bus has ended.
    pub async fn devices(&self) -> Result<Vec<Device>, DeviceError> {
        self.ask(|done| Command::List { done }).await
    }

    /// Returns one device.
    ///
    /// # Errors
    /// There is no such device, or the bus has ended.
    pub async fn device(&self, id: DeviceId) -> Result<Device, DeviceError> {
        self.ask(|done| Command::Show { id, done }).await
    }

    /// State of the connection to the broker, whenever it changes.
    pub fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, DeviceError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| DeviceError::Stopping)?;
        answer.await.map_err(|_| DeviceError::Stopping)?
    }
}
