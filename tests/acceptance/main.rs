//! Acceptance: the `midge` command in processes of its own, on real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

mod agent;
mod audit;
mod authority;
mod client;
mod crash;
mod demo;
mod device;
mod disk;
mod durable;
mod enrolment;
mod federation;
mod flaws;
mod in_flight;
mod interop;
mod newer_cloud;
mod node_audit;
mod owed;
mod policy;
mod policy_live;
mod power_cut;
mod running;
mod sessions;
mod support;
mod uploads;
mod ways;
mod wrong_input;
