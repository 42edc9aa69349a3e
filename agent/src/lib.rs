//! Workload attestation and the SPIFFE Workload API.
//!
//! Owns the finding of the process behind a socket and its selectors ([`attest`]), the choice of
//! registration entries for it ([`AgentView`]), the keys and SVIDs of workloads and their rotation,
//! and the Workload API on a Unix socket ([`run`]); on the other side of that socket, fetching and
//! writing SVIDs to files ([`client`], [`files`]). Leaves entries and signatures to an
//! [`Upstream`]: the identity server in this process, or one behind [`RemoteUpstream`].

pub mod attest;
pub mod client;
pub mod files;

mod authority;
mod entitled;
mod error;
mod jitter;
mod peers;
mod remote;
mod rotation;
mod server;
mod socket;
mod svids;
mod upstream;
mod view;
mod workload_api;

pub use attest::{
    AttestError, AttestPool, Attestor, LocalPeer, LoopbackError, Needs, ProcessHandle, attest_process,
    owner_of_loopback, user_of_loopback,
};
pub use client::{ClientError, X509Context, X509Svid, await_identity};
pub use error::AgentError;
pub use files::{WatchOptions, WriteError, watch_and_write, write_svid};
pub use remote::{RemoteConfig, RemoteUpstream};
pub use server::{Agent, AgentConfig, AgentLimits, run};
pub use upstream::{SignFailure, Signed, Upstream};
pub use view::{AgentView, choose_entry};
