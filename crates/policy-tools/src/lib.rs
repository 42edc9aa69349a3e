//! What a policy grants, to whom and why: for operators, not for the broker.
//!
//! Owns the questions that are asked *about* policies. [`Ruleset`] holds the rules of one; [`Diff`]
//! tells exactly which access one gives and another does not, [`PolicyChange`] the same of the policy in
//! force for the record, [`Who`] who can reach a topic,
//! [`Explanation`] why one decision is as it is, [`check`] what rules do not do, [`learn`] which rules
//! would do, and [`Shadow`] what a candidate would change. Decisions for one identity are made by
//! `midge-policy` itself; what is said here of all identities at once is proven against it by tests.
//! Leaves files, sockets and output to the shell.

mod access;
mod cases;
mod cell;
mod change;
mod check;
mod check_modes;
mod compared;
mod decision;
mod diff;
mod explain;
mod explore;
mod grant;
mod groups;
mod in_part;
mod learn;
mod marked;
mod model;
mod modes;
mod near;
mod observation;
mod observer;
mod overlap;
mod own_quotas;
mod part;
mod quotas;
mod rates;
mod reply;
mod request;
mod setting;
mod shadow;
mod shown;
mod topics;
mod tree;
mod who;

pub use access::Access;
pub use cases::{Case, CaseError, Expected, Outcome};
pub use change::{PolicyChange, Untold};
pub use check::{Finding, Severity, check, check_against, check_beside};
pub use check_modes::check_modes;
pub use decision::{Answer, Decision, LeftOut, Part, Verdict};
pub use diff::{Change, Diff, Kind};
pub use explain::{Considered, Explanation, PRECEDENCE, Said, qos};
pub use explore::TooMuch;
pub use learn::{Generality, Proposal, Report, learn};
pub use model::Ruleset;
pub use modes::{ModeChange, Modes};
pub use observation::{Observation, ObservationError, Observed};
pub use observer::Observer;
pub use own_quotas::QuotaSaid;
pub use quotas::QuotaChange;
pub use rates::RateSaid;
pub use request::{Request, Verb};
pub use shadow::{Asker, Difference, Sample, Shadow};
pub use who::{Way, Who, WhoKind};
