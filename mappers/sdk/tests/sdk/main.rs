//! The sdk against a Workload API and an MQTT broker on real sockets, over real TLS.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod identity;
mod link;
mod support;
