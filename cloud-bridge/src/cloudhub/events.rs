//! Events that nodes send up: audit decisions and uploads of applications. A ring per node.

use super::{CloudHub, HubError};
use midge_identity::UnixMillis;
use midge_store::{Batch, Durability};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Events kept per node.
const EVENTS_MAX: u64 = 10_000;
/// Pruning happens this often, so that it costs little.
const PRUNE_EVERY: u64 = 256;

/// One event of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// `audit/<stream>`, or `upload/<topic>`.
    pub kind: String,
    /// When the cloud stored it.
    pub at: UnixMillis,
    /// What the node sent.
    pub content: Value,
}

impl CloudHub {
    /// Returns the newest events of a node, oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub async fn events(&self, node: &str) -> Result<Vec<NodeEvent>, HubError> {
        let records = self.shared.parts.store.scan(prefix(node)).await?;
        let read = |(key, value): &(String, Vec<u8>)| {
            serde_json::from_slice(value)
                .map_err(|error| HubError::Record { key: key.clone(), why: error.to_string() })
        };
        records.iter().map(read).collect()
    }

    // The same event again, because the acknowledgement was lost, has the same key.
    pub(super) async fn store_event(
        &self,
        node: &str,
        seq: Option<u64>,
        event: NodeEvent,
    ) -> Result<(), HubError> {
        let seq = seq.unwrap_or(event.at.0);
        let key = format!("{}{seq:020}", prefix(node));
        let value = serde_json::to_vec(&event)
            .map_err(|error| HubError::Record { key: key.clone(), why: error.to_string() })?;
        let mut batch = Batch::new().put(key, value);
        if seq.is_multiple_of(PRUNE_EVERY) {
            let oldest = format!("{}{:020}", prefix(node), seq.saturating_sub(EVENTS_MAX));
            let limit = usize::try_from(PRUNE_EVERY.saturating_mul(2)).unwrap_or(usize::MAX);
            for (key, _) in self.shared.parts.store.scan_page(prefix(node), None, limit).await? {
                if key < oldest {
                    batch = batch.delete(key);
                }
            }
        }
        Ok(self.shared.parts.store.commit(batch, Durability::PowerLoss).await?)
    }
}

fn prefix(node: &str) -> String {
    format!("event/{node}/")
}
