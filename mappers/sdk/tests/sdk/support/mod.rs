//! A CA, a Workload API and an MQTT broker that do as the test says.

mod broker;
mod ca;
mod workload_api;

pub(crate) use broker::{Broker, Connection};
pub(crate) use ca::{Ca, Svid};
pub(crate) use workload_api::WorkloadApi;

use std::future::Future;
use std::time::Duration;

/// What a test waits for, at most.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("nothing happened for 20 s")
}
