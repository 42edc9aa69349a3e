//! The websocket channel between edge and cloud: KubeEdge's edgehub and cloudhub over mutual TLS
//! with SVIDs.
//!
//! Owns sockets, TLS, HTTP bootstrap, and what of the channel is on disk. Leaves every decision of
//! the protocol to `bridge-core`, and identities to `midge-issuer`.

pub mod cloudhub;
pub mod edgehub;
mod frames;
mod limits;
mod tick;

pub use limits::{MESSAGE_BYTES_MAX, PROJECT_ID_DEFAULT};
