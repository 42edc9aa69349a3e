//! Registration entries: SPIRE's fields (spire-api-sdk `types/entry.proto`) and Midge's grants.

use midge_identity::{SpiffeId, UnixMillis};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// One attested property of a workload or node, such as `unix:uid:1000`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// Attestor that vouches for it, such as `unix`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Value, such as `uid:1000`.
    pub value: String,
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Who owns an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Made on a box by its operator.
    #[default]
    Edge,
    /// Made at the cloud by its operator: on the boxes it is synced to it is read-only.
    Cloud,
    /// Made by the server itself, for its own parts; never listed for editing.
    Builtin,
}

/// A registration entry. Serialises to the JSON that is stored and synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrationEntry {
    /// Entry ID, chosen by the server unless given.
    pub id: String,
    /// Identity that matching workloads get.
    #[serde(with = "spiffe_id_text")]
    pub spiffe_id: SpiffeId,
    /// Node or agent that serves this entry.
    #[serde(with = "spiffe_id_text")]
    pub parent_id: SpiffeId,
    /// All of them must hold for a workload to match. Sorted, without doubles.
    pub selectors: Vec<Selector>,
    /// Lifetime of X.509-SVIDs in seconds; 0 means the server's default.
    #[serde(default)]
    pub x509_svid_ttl_secs: u32,
    /// Lifetime of JWT-SVIDs in seconds; 0 means the server's default.
    #[serde(default)]
    pub jwt_svid_ttl_secs: u32,
    /// Trust domains whose bundles the workload gets too.
    #[serde(default)]
    pub federates_with: Vec<String>,
    /// May call the admin API.
    #[serde(default)]
    pub admin: bool,
    /// May ask for an intermediate CA.
    #[serde(default)]
    pub downstream: bool,
    /// Seconds since the epoch; 0 means never. No SVID outlives it.
    #[serde(default)]
    pub expires_at: i64,
    /// DNS SANs.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Goes up by one at each update.
    #[serde(default)]
    pub revision_number: i64,
    /// Kept for SPIRE's API.
    #[serde(default)]
    pub store_svid: bool,
    /// Tells SVIDs of one workload apart; at most 1,024 bytes.
    #[serde(default)]
    pub hint: String,
    /// Seconds since the epoch.
    #[serde(default)]
    pub created_at: i64,
    /// Grant: topic filters the identity may publish to.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Grant: topic filters the identity may subscribe to and receive.
    #[serde(default)]
    pub subscribe: Vec<String>,
    /// Who owns the entry.
    #[serde(default)]
    pub origin: Origin,
}

impl RegistrationEntry {
    /// Returns the entry that gives an identity to workloads with these selectors and asks for nothing else: default
    /// lifetimes, no end, no grants, made on a box. Its selectors are in order.
    pub fn new(
        id: impl Into<String>,
        spiffe_id: SpiffeId,
        parent_id: SpiffeId,
        mut selectors: Vec<Selector>,
    ) -> Self {
        selectors.sort();
        selectors.dedup();
        Self {
            id: id.into(),
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl_secs: 0,
            jwt_svid_ttl_secs: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            expires_at: 0,
            dns_names: Vec::new(),
            revision_number: 0,
            store_svid: false,
            hint: String::new(),
            created_at: 0,
            publish: Vec::new(),
            subscribe: Vec::new(),
            origin: Origin::Edge,
        }
    }

    /// Returns when the entry ends, if it does.
    pub fn ends(&self) -> Option<UnixMillis> {
        let secs = u64::try_from(self.expires_at).ok().filter(|secs| *secs > 0);
        secs.map(UnixMillis::from_secs)
    }

    /// Tells whether the end of the entry has come.
    pub fn has_ended(&self, now: UnixMillis) -> bool {
        self.ends().is_some_and(|end| end <= now)
    }

    /// Returns the SHA-256 of what decides which workloads get the identity, and where: parent and selectors. Grants,
    /// lifetimes and the like change nothing in it.
    pub fn demands(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            // With its length, so that no two lists of texts are alike.
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        };
        add(self.parent_id.trust_domain().as_str());
        add(self.parent_id.path());
        for selector in &self.selectors {
            add(&selector.kind);
            add(&selector.value);
        }
        hash.finalize().into()
    }
}

/// SPIFFE IDs as text in JSON.
pub(crate) mod spiffe_id_text {
    use midge_identity::SpiffeId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(id: &SpiffeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SpiffeId, D::Error> {
        SpiffeId::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_entry_demands_differs_with_parent_and_selectors_alone() {
        let entry = |parent: &str, selectors: &[(&str, &str)], publish: &str| -> [u8; 32] {
            let selectors: Vec<_> = selectors
                .iter()
                .map(|(kind, value)| serde_json::json!({"type": kind, "value": value}))
                .collect();
            let entry = serde_json::json!({
                "id": publish, "spiffe_id": format!("spiffe://td/{publish}"), "parent_id": parent,
                "selectors": selectors, "publish": [publish], "revision_number": publish.len(),
            });
            serde_json::from_value::<RegistrationEntry>(entry).unwrap().demands()
        };
        let own = entry("spiffe://td/edge/a", &[("unix", "uid:1"), ("unix", "gid:1")], "x");
        assert_eq!(own, entry("spiffe://td/edge/a", &[("unix", "uid:1"), ("unix", "gid:1")], "other"));
        for other in [
            entry("spiffe://td/edge/b", &[("unix", "uid:1"), ("unix", "gid:1")], "x"),
            entry("spiffe://other/edge/a", &[("unix", "uid:1"), ("unix", "gid:1")], "x"),
            entry("spiffe://td/edge/a", &[("unix", "uid:1")], "x"),
            entry("spiffe://td/edge/a", &[("unix", "uid:1"), ("unix", "gid:2")], "x"),
            entry("spiffe://td/edge/a", &[("unixuid:1", ""), ("unix", "gid:1")], "x"),
        ] {
            assert_ne!(own, other);
        }
    }
}
