//! The one tokio kit every program of Midge runs on.
//!
//! Owns how tasks are supervised and stopped, how retries are spaced, what the time is, how logs are
//! written, and how the service manager, probes and Prometheus are answered. Leaves every decision
//! about identities and messages to its users.

mod actor;
mod backoff;
mod clock;
pub mod endpoints;
mod health;
pub mod logs;
mod metrics;
mod process;
mod sd_notify;
mod socket;
mod supervisor;
mod warnings;

pub use actor::Actor;
pub use backoff::Backoff;
pub use clock::Clock;
pub use health::{Check, CheckKind, Health, HealthReport};
pub use metrics::{MetricKind, Metrics, Sample};
pub use process::memory_bytes;
pub use sd_notify::ServiceNotifier;
pub use socket::{SocketName, SocketTaken, check_socket, clear_socket};
pub use supervisor::{ShutdownError, Supervisor};
pub use tokio_util::sync::CancellationToken;
pub use warnings::RateLimitedWarn;
