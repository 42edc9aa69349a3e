//! Devices at the cloud: what is desired goes down, what is reported comes up.

use super::{CloudHub, HubError};
use bridge_core::twin::{MsgTwin, TypeMetadata, check_desired};
use bridge_core::{DeviceId, DeviceRecord, Operation};
use midge_store::{Batch, Store};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};

const DEVICE_PREFIX: &str = "device/";

/// A desired value and its type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The value as text.
    pub value: String,
    /// `string`, `int`, `float`, `boolean`, or empty.
    pub kind: String,
}

/// Which nodes have a device of a name.
#[derive(Default)]
pub(super) struct DeviceIndex {
    nodes: RwLock<BTreeMap<DeviceId, BTreeSet<String>>>,
}

impl DeviceIndex {
    pub(super) async fn read(store: &Store) -> Result<Self, HubError> {
        let index = Self::default();
        for (key, value) in store.scan(DEVICE_PREFIX).await? {
            let record = decode(&key, &value)?;
            index.insert(&record.id, &record.node);
        }
        Ok(index)
    }

    fn insert(&self, id: &DeviceId, node: &str) {
        self.nodes.write().entry(id.clone()).or_default().insert(node.to_owned());
    }

    fn remove(&self, id: &DeviceId, node: &str) {
        let mut nodes = self.nodes.write();
        if let Some(of_id) = nodes.get_mut(id) {
            of_id.remove(node);
            if of_id.is_empty() {
                nodes.remove(id);
            }
        }
    }

    fn node_of(&self, id: &DeviceId, node: Option<&str>) -> Result<String, HubError> {
        let nodes = self.nodes.read();
        let known = nodes.get(id).ok_or_else(|| HubError::NoDevice(id.clone()))?;
        match node {
            Some(node) if known.contains(node) => Ok(node.to_owned()),
            Some(_) => Err(HubError::NoDevice(id.clone())),
            None if known.len() == 1 => known.first().cloned().ok_or_else(|| HubError::NoDevice(id.clone())),
            None => Err(HubError::Ambiguous { id: id.clone(), nodes: known.iter().cloned().collect() }),
        }
    }
}

impl CloudHub {
    /// Creates a device on a node, which need not have joined yet.
    ///
    /// # Errors
    /// The node's name or a value is not allowed, the device exists, or the store fails.
    pub async fn create_device(
        &self,
        node: &str,
        id: DeviceId,
        description: String,
        desired: BTreeMap<String, Desired>,
    ) -> Result<DeviceRecord, HubError> {
        self.check_node_name(node)?;
        let writer = self.shared.parts.logs.writer(node);
        let _held = writer.lock().await;
        if self.shared.devices.node_of(&id, Some(node)).is_ok() {
            return Err(HubError::DeviceExists { id, node: node.to_owned() });
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let mut record = DeviceRecord::new(id, node, uid, description);
        self.merge_desired(&mut record, desired)?;
        let changes = vec![
            (resource_of(&record.id), Operation::Insert, record.membership()),
            (twin_resource_of(&record.id), Operation::Insert, record.desired_twin()),
        ];
        self.write_device(&record, changes).await?;
        self.shared.devices.insert(&record.id, node);
        Ok(record)
    }

    /// Sets desired values of a device.
    ///
    /// # Errors
    /// There is no such device or several, a value is not allowed, or the store fails.
    pub async fn set_device(
        &self,
        id: &DeviceId,
        node: Option<&str>,
        desired: BTreeMap<String, Desired>,
    ) -> Result<DeviceRecord, HubError> {
        let node = self.shared.devices.node_of(id, node)?;
        let writer = self.shared.parts.logs.writer(&node);
        let _held = writer.lock().await;
        let mut record = self.read_device(&node, id).await?.ok_or_else(|| HubError::NoDevice(id.clone()))?;
        self.merge_desired(&mut record, desired)?;
        let change = (twin_resource_of(id), Operation::Update, record.desired_twin());
        self.write_device(&record, vec![change]).await?;
        Ok(record)
    }

    /// Deletes a device with its twin.
    ///
    /// # Errors
    /// There is no such device or several, or the store fails.
    pub async fn delete_device(&self, id: &DeviceId, node: Option<&str>) -> Result<(), HubError> {
        let node = self.shared.devices.node_of(id, node)?;
        let writer = self.shared.parts.logs.writer(&node);
        let _held = writer.lock().await;
        let gone = |resource| (resource, Operation::Delete, serde_json::Value::Null);
        let changes = vec![gone(twin_resource_of(id)), gone(resource_of(id))];
        let batch = Batch::new().delete(device_key(&node, id));
        self.shared.parts.logs.append(&node, changes, batch).await?;
        self.shared.devices.remove(id, &node);
        Ok(())
    }

    /// Returns a device with what it last reported.
    ///
    /// # Errors
    /// There is no such device or several, or the store fails.
    pub async fn device(&self, id: &DeviceId, node: Option<&str>) -> Result<DeviceRecord, HubError> {
        let node = self.shared.devices.node_of(id, node)?;
        self.read_device(&node, id).await?.ok_or_else(|| HubError::NoDevice(id.clone()))
    }

    /// Returns the devices of a node, or of all nodes.
    ///
    /// # Errors
    /// The store fails.
    pub async fn devices(&self, node: Option<&str>) -> Result<Vec<DeviceRecord>, HubError> {
        let prefix = node.map_or_else(|| DEVICE_PREFIX.to_owned(), |node| format!("{DEVICE_PREFIX}{node}/"));
        let records = self.shared.parts.store.scan(prefix).await?;
        records.iter().map(|(key, value)| decode(key, value)).collect()
    }

    pub(super) async fn read_device(
        &self,
        node: &str,
        id: &DeviceId,
    ) -> Result<Option<DeviceRecord>, HubError> {
        let key = device_key(node, id);
        let value = self.shared.parts.store.get(key.as_str()).await?;
        value.map(|value| decode(&key, &value)).transpose()
    }

    fn merge_desired(
        &self,
        record: &mut DeviceRecord,
        desired: BTreeMap<String, Desired>,
    ) -> Result<(), HubError> {
        let now = i64::try_from(self.shared.parts.clock.now().0).unwrap_or(i64::MAX);
        for (key, Desired { value, kind }) in desired {
            check_desired(&key, &value, &kind).map_err(HubError::Desired)?;
            let slot = record.desired.entry(key).or_default();
            let kind = Some(kind).filter(|kind| !kind.is_empty()).map(|kind| TypeMetadata { kind });
            let metadata = kind.or(slot.metadata.take());
            *slot = MsgTwin { metadata, ..MsgTwin::desired(value, now) };
        }
        Ok(())
    }

    async fn write_device(
        &self,
        record: &DeviceRecord,
        changes: Vec<(String, Operation, serde_json::Value)>,
    ) -> Result<(), HubError> {
        let batch = put_device(record)?;
        Ok(self.shared.parts.logs.append(&record.node, changes, batch).await?)
    }

    pub(super) fn check_node_name(&self, node: &str) -> Result<(), HubError> {
        let result = midge_identity::node_id(self.shared.parts.issuer.trust_domain(), node);
        result.map(drop).map_err(|error| HubError::NodeName { name: node.to_owned(), why: error.to_string() })
    }
}

pub(super) fn put_device(record: &DeviceRecord) -> Result<Batch, HubError> {
    let key = device_key(&record.node, &record.id);
    let value = serde_json::to_vec(record)
        .map_err(|error| HubError::Record { key: key.clone(), why: error.to_string() })?;
    Ok(Batch::new().put(key, value))
}

fn device_key(node: &str, id: &DeviceId) -> String {
    format!("{DEVICE_PREFIX}{node}/{}", id.qualified())
}

fn resource_of(id: &DeviceId) -> String {
    format!("device/{}", id.qualified())
}

fn twin_resource_of(id: &DeviceId) -> String {
    format!("device/{}/twin", id.qualified())
}

fn decode(key: &str, value: &[u8]) -> Result<DeviceRecord, HubError> {
    serde_json::from_slice(value)
        .map_err(|error| HubError::Record { key: key.to_owned(), why: error.to_string() })
}
