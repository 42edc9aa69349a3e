//! What every device mapper needs: its identity, a connection to the MQTT broker, and device twins.
//!
//! Owns the SVID from the Workload API and its renewal, the MQTT 5 connection that follows it, and
//! KubeEdge's topics and documents as a mapper sees them. Leaves the device itself to the mapper.

mod choice;
mod identity;
mod link;
mod link_task;
mod material;
mod outbox;
mod topics;
mod twin;

pub use bridge_core::DeviceId;
pub use choice::{IdentityChoice, broker_beside};
pub use identity::{IdentityError, WorkloadIdentity, WorkloadSource};
pub use link::{Link, LinkConfig, LinkEvent, PublishError, Will};
pub use midge_identity::{SpiffeId, SpiffeIdError, UnixMillis};
pub use midge_pki::SvidIdentity;
pub use midge_runtime::{CancellationToken, Clock};
pub use topics::{DeviceTopics, TopicForm, TwinTopic};
pub use twin::{DocumentError, TwinChange, TwinDocument, TwinFailure, state_update, twin_get, twin_update};
