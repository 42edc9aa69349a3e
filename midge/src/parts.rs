//! The composition: which parts a role has, and what connects them.

pub(crate) mod active_policy;
mod admin;
mod admission;
pub(crate) mod agent;
mod audit;
mod audit_stream;
pub(crate) mod cloud;
mod cloud_rules;
pub(crate) mod data_dir;
mod desk;
pub(crate) mod edge;
mod edge_cloud;
mod http;
pub(crate) mod light;
mod limits;
pub(crate) mod node_audit;
mod open;
pub(crate) mod policy;
mod policy_service;
mod problems;
mod recorded;
mod service;
mod skipped;
mod trail;
mod upstream;
pub(crate) mod watchers;

use std::time::Instant;

/// Milliseconds since then, as a number in logs.
fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
