//! The agent on real Unix sockets, its identity server a fake that signs with a real CA.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
mod files;
mod processes;
mod remote;
mod workload_api;
