use midge_identity::SpiffeId;
use serde::{Deserialize, Serialize};
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

impl RuleName {
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
/// Conditions (`qos-max`, `retain`, `payload-max`, `will`) limit what the rule allows; its denies
/// hold whatever the conditions say.
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
    /// Topics they must not publish to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_publish: Vec<String>,
    /// Topics no subscription may include and no delivery may bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_subscribe: Vec<String>,
    /// Topics that are left out of deliveries, without refusing the subscription.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_receive: Vec<String>,
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
    /// Where the rule comes from; set by whoever reads it.
    #[serde(skip)]
    pub source: RuleSource,
}

impl Rule {
    /// Returns the rule that a registration entry's grants make for its identity.
    pub fn grant(entry_id: &str, id: &SpiffeId, publish: &[String], subscribe: &[String]) -> Self {
        Self {
            name: format!("entry/{entry_id}"),
            id: id.to_string(),
            publish: publish.to_vec(),
            subscribe: subscribe.to_vec(),
            source: RuleSource::Entry,
            ..Self::default()
        }
    }

    /// Returns the rule with another source.
    #[must_use]
    pub fn from_source(self, source: RuleSource) -> Self {
        Self { source, ..self }
    }
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
