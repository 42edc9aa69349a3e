//! Rules, decisions and exact containment for MQTT authorization.
//!
//! Owns what an identity may publish, subscribe to and receive: [`Rule`]s are compiled into a
//! [`Policy`], a policy gives each SPIFFE ID its [`Rights`], and rights answer with a permit or a
//! [`Denial`]. Default is deny and deny wins. Leaves files, reloading and sessions to the shell and
//! to `broker-core`, which holds permits and compares their epoch.

mod contain;
mod denial;
mod error;
mod id_pattern;
mod permit;
mod policy;
mod rights;
mod rule;
mod rule_file;
mod template;
mod trie;

pub use denial::{Action, Denial, DenyReason, Subject};
pub use error::{IdFault, PolicyError, Problem, TopicFault};
pub use permit::{PublishFacts, PublishPermit, SubscribePermit};
pub use policy::{CheckedRule, Policy};
pub use rights::Rights;
pub use rule::{Rule, RuleName, RuleSource};

/// The policy that a box has unless it is given another: `conf/policies/default.toml`.
pub const DEFAULT_POLICY: &str = include_str!("../../../conf/policies/default.toml");
