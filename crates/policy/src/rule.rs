//! A rule as it is written, with its name and source. What it means is said by `check.rs`.

use crate::condition::{Durability, QueueOverflow, Rate};
use crate::error::TopicFault;
use crate::id_pattern::Captures;
use crate::quota::Quota;
use crate::template::Template;
use midge_identity::SpiffeId;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Where a rule comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum RuleSource {
    /// A policy file.
    File {
        /// Name of the file, as operators know it.
        file: Arc<str>,
        /// Line of the rule's header, from 1.
        line: usize,
    },
    /// The grants of a registration entry.
    Entry,
    /// Synced from the cloud.
    Cloud,
    /// Made by a program.
    #[default]
    Built,
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Entry => f.write_str("registration entry"),
            Self::Cloud => f.write_str("from the cloud"),
            Self::Built => f.write_str("built in"),
        }
    }
}

/// A rule's name and where to find it. Displays as `` `name` (file:line) ``.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleName {
    pub(crate) text: Arc<str>,
    pub(crate) source: RuleSource,
}

impl RuleSource {
    /// Place of its rules in the order of precedence, which decides which of several rules that agree
    /// is named: files, then the built-in rules, then the cloud's, then grants.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::File { file, .. } if **file == *crate::DEFAULT_POLICY_NAME => 1,
            Self::File { .. } => 0,
            Self::Built => 1,
            Self::Cloud => 2,
            Self::Entry => 3,
        }
    }
}

impl RuleName {
    /// Compares by precedence: source, then file and line, then name.
    pub fn cmp_precedence(&self, other: &Self) -> Ordering {
        fn place(name: &RuleName) -> Option<(&str, usize)> {
            match &name.source {
                RuleSource::File { file, line } => Some((file, *line)),
                RuleSource::Entry | RuleSource::Cloud | RuleSource::Built => None,
            }
        }
        let by_source = self.source.rank().cmp(&other.source.rank());
        by_source.then_with(|| place(self).cmp(&place(other))).then_with(|| self.text.cmp(&other.text))
    }

    /// Returns the name as the policy spells it.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns where the rule comes from.
    pub fn source(&self) -> &RuleSource {
        &self.source
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.text, self.source)
    }
}

/// One statement of a policy: whom it speaks of, what they may do and what they must not.
///
/// Conditions limit what the rule allows; its denies hold whatever they say, and so does its `quota`. Two
/// conditions say when there is a rule at all: `listener`, which also holds for its denies and quota, and
/// `client-id`, with which a rule can have none of them. `docs/policy.md` is the whole language.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// Name for operators, unique in its source.
    pub name: String,
    /// SPIFFE ID pattern: `*` and `{name}` stand for one segment, a last `**` for any rest.
    pub id: String,
    /// Patterns of identities the rule does not speak of.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
    /// Topics they may publish to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Topics they may subscribe to and receive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<String>,
    /// Topics they may receive without a right to subscribe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receive: Vec<String>,
    /// Filters they may subscribe to as they stand: no right to any topic, nor to a narrower filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe_literal: Vec<String>,
    /// Topics they must not publish to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_publish: Vec<String>,
    /// Topics no subscription may include and no delivery may bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_subscribe: Vec<String>,
    /// Topics that are left out of deliveries, without refusing the subscription.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_receive: Vec<String>,
    /// Filters they must not subscribe to as they stand; narrower ones and topics are untouched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_subscribe_literal: Vec<String>,
    /// Client ids the rule holds for: text with captures, and a last `*` for any rest. Any when empty.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Vec::is_empty")]
    pub client_id: Vec<String>,
    /// The listeners the rule holds on, of [`crate::LISTENERS`]. Any when empty.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Vec::is_empty")]
    pub listener: Vec<String>,
    /// Highest quality of service to publish with and to grant to subscriptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_max: Option<u8>,
    /// `false` forbids retained messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Longest payload in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_max: Option<u32>,
    /// `false` forbids wills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub will: Option<bool>,
    /// How fast they may publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How much each of them may keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Response Topics they may name besides those they may publish to themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_topics: Vec<String>,
    /// Share groups their subscriptions may join: names, captures, or `*`. Any when absent, none when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_groups: Option<Vec<String>>,
    /// What must survive before their publications are acknowledged; the broker's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What happens at a full queue; the broker's own way when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_overflow: Option<QueueOverflow>,
    /// Where the rule comes from; set by whoever reads it.
    #[serde(skip)]
    pub source: RuleSource,
}

impl Rule {
    /// Returns the rule that a registration entry's grants make for its identity.
    pub fn grant(entry_id: &str, id: &SpiffeId, publish: &[String], subscribe: &[String]) -> Self {
        Self {
            name: Self::grant_name(entry_id),
            id: id.to_string(),
            publish: publish.to_vec(),
            subscribe: subscribe.to_vec(),
            source: RuleSource::Entry,
            ..Self::default()
        }
    }

    /// Says why a filter is no grant: a rule of its entry with it would be faulty.
    pub fn grant_fault(filter: &str) -> Option<TopicFault> {
        Template::parse(filter, &Captures::of_no_segments()).err()
    }

    /// Returns the name of the rule that a registration entry's grants make.
    pub(crate) fn grant_name(entry_id: &str) -> String {
        format!("entry/{entry_id}")
    }

    /// Tells whether both say the same, whatever they are called and wherever they stand.
    pub fn says_same_as(&self, other: &Self) -> bool {
        let Self {
            name: _,
            source: _,
            id,
            unless,
            publish,
            subscribe,
            receive,
            subscribe_literal,
            deny_publish,
            deny_subscribe,
            deny_receive,
            deny_subscribe_literal,
            client_id,
            listener,
            qos_max,
            retain,
            payload_max,
            will,
            rate,
            quota,
            response_topics,
            share_groups,
            durability,
            queue_overflow,
        } = self;
        let whom = (id, unless, client_id, listener);
        let allows = (publish, subscribe, receive, subscribe_literal);
        let denies = (deny_publish, deny_subscribe, deny_receive, deny_subscribe_literal);
        let limits = (qos_max, retain, payload_max, will, rate, response_topics, share_groups);
        whom == (&other.id, &other.unless, &other.client_id, &other.listener)
            && allows == (&other.publish, &other.subscribe, &other.receive, &other.subscribe_literal)
            && denies
                == (
                    &other.deny_publish,
                    &other.deny_subscribe,
                    &other.deny_receive,
                    &other.deny_subscribe_literal,
                )
            && limits
                == (
                    &other.qos_max,
                    &other.retain,
                    &other.payload_max,
                    &other.will,
                    &other.rate,
                    &other.response_topics,
                    &other.share_groups,
                )
            && (durability, queue_overflow, quota) == (&other.durability, &other.queue_overflow, &other.quota)
    }

    /// Returns what the rule forbids, to whom and where, and how much it lets them keep: nothing of what it
    /// allows, nor what limits that. It denies no less than the rule does; of a rule without a deny and without
    /// a quota there is nothing left.
    #[must_use]
    pub fn denies_only(self) -> Self {
        let Self {
            name,
            id,
            unless,
            publish: _,
            subscribe: _,
            receive: _,
            subscribe_literal: _,
            deny_publish,
            deny_subscribe,
            deny_receive,
            deny_subscribe_literal,
            // No condition of denies and quotas: with it a rule can have none.
            client_id: _,
            listener,
            qos_max: _,
            retain: _,
            payload_max: _,
            will: _,
            rate: _,
            quota,
            response_topics: _,
            share_groups: _,
            durability: _,
            queue_overflow: _,
            source,
        } = self;
        Self {
            name,
            id,
            unless,
            deny_publish,
            deny_subscribe,
            deny_receive,
            deny_subscribe_literal,
            listener,
            quota,
            source,
            ..Self::default()
        }
    }

    /// Returns the rule with another source.
    #[must_use]
    pub fn from_source(self, source: RuleSource) -> Self {
        Self { source, ..self }
    }
}

/// Reads a list of what a rule holds for: an empty one, as a program may write it, does not open the rule for all.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let some = one_or_many(deserializer)?;
    if some.is_empty() {
        return Err(serde::de::Error::custom(
            "an empty list holds for none: name some, or leave it out for any",
        ));
    }
    Ok(some)
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}
