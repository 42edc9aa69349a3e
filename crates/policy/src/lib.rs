//! Rules, decisions and exact containment for MQTT authorization.
//!
//! Owns what an identity may publish, subscribe to and receive: [`Rule`]s are compiled into a
//! [`Policy`], a policy gives each SPIFFE ID its [`Rights`], and rights answer with a permit or a
//! [`Denial`]. Default is deny and deny wins. Leaves files, reloading and sessions to the shell and
//! to `broker-core`, which holds permits and compares their epoch.

mod check;
mod condition;
mod contain;
mod denial;
mod effect;
mod error;
mod filter_set;
mod id_pattern;
mod index;
mod kin;
mod layer;
mod meet;
mod permit;
mod policy;
mod principal;
mod question;
mod quota;
mod rights;
mod rule;
mod rule_file;
mod segments;
mod shards;
mod sources;
mod subscribe;
mod template;
mod text_pattern;
mod touched;
mod trie;

pub use check::CheckedRule;
pub use condition::{
    Bucket, ConditionFault, Durability, LISTENERS, QueueOverflow, Rate, RateLimit, RateScope,
};
pub use denial::{Action, Denial, DenyReason, Subject};
pub use effect::Effect;
pub use error::{IdFault, PolicyError, Problem, TopicFault};
pub use filter_set::{FilterSet, contains, intersection, is_equivalent};
pub use id_pattern::IdPattern;
pub use permit::{
    Extent, PublishFacts, PublishPermit, ReceivePermit, SubscribeMode, SubscribePart, SubscribePermit,
};
pub use policy::{Policy, RuleKey};
pub use principal::Principal;
pub use question::Question;
pub use quota::{Quantity, Quota};
pub use rights::{Context, Rights};
pub use rule::{Rule, RuleName, RuleSource};
pub use sources::{SourceCounts, Sources};
pub use subscribe::{NARROW_MAX, SHARED_MAX};
pub use template::LEVELS_MAX;
pub use touched::Touched;

/// The policy that a box has unless it is given another: `conf/policies/default.toml`.
pub const DEFAULT_POLICY: &str = include_str!("../../../conf/policies/default.toml");

/// The name under which its rules are read: it comes after every file of the operator.
pub const DEFAULT_POLICY_NAME: &str = "built-in";
