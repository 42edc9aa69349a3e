//! What nodes report, on its way to the store. Acknowledged only once it is there.

use super::devices::put_device;
use super::{CloudHub, HubError};
use bridge_core::{DeviceId, Upward, UpwardKind};
use midge_store::{Batch, Durability};

impl CloudHub {
    pub(super) async fn store_report(&self, node: &str, report: Upward) -> Result<(), HubError> {
        match &report.kind {
            UpwardKind::Twin(id) | UpwardKind::State(id) => self.store_device_report(node, id, &report).await,
            UpwardKind::Status => {
                let batch = Batch::new().put(format!("status/{node}"), report.content.to_string());
                Ok(self.shared.parts.store.commit(batch, Durability::PowerLoss).await?)
            }
            UpwardKind::Audit(stream) => {
                let kind = format!("audit/{stream}");
                self.store_event(node, kind, &report).await
            }
            UpwardKind::Upload => {
                let kind = format!("upload/{}", report.resource);
                self.store_event(node, kind, &report).await
            }
        }
    }

    /// Returns the status that a node last reported, as JSON.
    ///
    /// # Errors
    /// The store fails.
    pub async fn node_status(&self, node: &str) -> Result<Option<serde_json::Value>, HubError> {
        let key = format!("status/{node}");
        let value = self.shared.parts.store.get(key.as_str()).await?;
        let read = |value: Vec<u8>| serde_json::from_slice(&value);
        value.map(read).transpose().map_err(|error| HubError::Record { key, why: error.to_string() })
    }

    async fn store_device_report(&self, node: &str, id: &DeviceId, report: &Upward) -> Result<(), HubError> {
        let writer = self.shared.parts.logs.writer(node);
        let held = writer.lock().await;
        let Some(mut record) = self.read_device(node, id).await? else {
            // The edge has not heard yet that the device is gone.
            tracing::debug!(node, device = %id, "report of an unknown device");
            return Ok(());
        };
        if !record.handle_upward(report, self.shared.parts.clock.now()) {
            return Ok(());
        }
        let batch = put_device(&record)?;
        self.shared.parts.store.commit(batch, Durability::PowerLoss).await?;
        drop(held);
        Ok(())
    }
}
