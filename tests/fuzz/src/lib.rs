//! What fuzzing holds against bytes that nobody wrote: one function per target, which panics on a fault.
//!
//! `fuzz/` wraps each for cargo-fuzz; `tests/smoke.rs` runs each over its corpus and damaged copies of it, so that no
//! test needs a fuzzer.

#![expect(clippy::panic, clippy::expect_used, reason = "a fault is shown by a panic, as fuzzers expect it")]

mod audit;
mod codec;
mod compiler;
mod connection;
mod containment;
mod filters;
mod policy;
mod records;
#[path = "../../../broker/src/upgrade.rs"]
mod upgrade;
mod websocket;
#[path = "../../../broker/src/wire.rs"]
mod wire;

pub use audit::audit;
pub use codec::codec;
pub use compiler::compiler;
pub use connection::connection;
pub use containment::containment;
pub use filters::filters;
pub use policy::policy;
pub use records::records;
pub use websocket::websocket;

/// Why the shell turns somebody away.
#[derive(Debug)]
struct Refusal(#[expect(dead_code, reason = "it is the shell's, and only shown")] String);

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A target: its name, which is also that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 9] = [
    ("audit", audit),
    ("codec", codec),
    ("compiler", compiler),
    ("connection", connection),
    ("containment", containment),
    ("filters", filters),
    ("policy", policy),
    ("records", records),
    ("websocket", websocket),
];
