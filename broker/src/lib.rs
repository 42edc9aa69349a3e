//! The MQTT server of the box: listeners, TLS, connections, and what of them is recorded.
//!
//! Owns sockets and tasks, and executes what `broker-core` decides. Who a local process is, and
//! whether an identity is still registered, it asks of its [`Admission`].

mod accept;
mod admission;
mod arrivals;
mod audit;
mod authenticator;
mod bulk;
mod config;
mod connection;
mod hub;
mod input;
mod limits;
mod listener;
mod listeners;
mod outbox;
mod pending;
mod persister;
mod server;
mod sys;
mod threads;
mod traffic;
mod upgrade;
mod websocket;
mod wire;

pub use admission::{Admission, LocalClaims, LocalOrigin, Refusal, Standing};
pub use authenticator::Authenticator;
pub use config::{LostRetained, MqttConfig, SubscribeModes};
pub use hub::Hub;
pub use limits::LimitsConfig;
pub use listener::{BindError, Bound};
pub use server::{Facts, Parts, Server};
pub use traffic::SocketsLost;
