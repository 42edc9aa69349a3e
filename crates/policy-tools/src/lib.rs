//! What a policy grants, to whom and why: for operators, not for the broker.
//!
//! Owns the questions that are asked *about* policies. [`Ruleset`] holds the rules of one; [`Diff`]
//! tells exactly which access one gives and another does not. Decisions for one identity are made by
//! `midge-policy` itself; what is said here of all identities at once is proven against it by tests.
//! Leaves files, sockets and output to the shell.

mod cell;
mod diff;
mod model;
mod setting;
mod shown;
mod topics;

pub use cell::TooManyKinds;
pub use diff::{Access, Change, Diff, Kind};
pub use model::Ruleset;
