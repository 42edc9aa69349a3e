//! Whose business a change of the cloud is: the identity server's, the policy's, or the event bus's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bridge_core::{Change, Extent, Operation};
use issuer_core::{FederatedBundle, RegistrationEntry};
use midge_identity::TrustDomain;
use midge_issuer::CloudChange;
use serde_json::Value;
use std::collections::BTreeMap;

/// Key of the store under which a host keeps the cursor, as JSON.
pub const CURSOR_KEY: &str = "cloud/cursor";

/// Changes by who takes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SplitChanges {
    /// For `Issuer::apply_cloud`.
    pub identity: Vec<CloudChange>,
    /// `identity/rules`: all rules by name; unset when they are what they were.
    pub rules: Option<BTreeMap<String, Value>>,
    /// `device/…`, for the event bus.
    pub devices: Vec<Change>,
    /// Resources that make no sense to anybody here, and why.
    pub skipped: BTreeMap<String, String>,
}

/// Splits changes by who takes them. Of a snapshot, the identity server's begin with the entries and bundles that stay.
pub fn split_changes(changes: Vec<Change>, extent: Extent, trust_domain: &TrustDomain) -> SplitChanges {
    let mut split = SplitChanges::default();
    if extent == Extent::Snapshot {
        let ids = changes.iter().filter(|change| change.operation != Operation::Delete);
        let ids = ids.filter_map(|change| change.resource.strip_prefix("identity/entry/"));
        split.identity.push(CloudChange::Retain(ids.map(str::to_owned).collect()));
        let names = changes.iter().filter(|change| change.operation != Operation::Delete);
        let names = names.filter_map(|change| federated_name(&change.resource, trust_domain));
        split.identity.push(CloudChange::RetainFederated(names.collect()));
        split.rules = Some(BTreeMap::new());
    }
    let own_bundle = format!("identity/bundle/{trust_domain}");
    for change in changes {
        if let Some(id) = change.resource.strip_prefix("identity/entry/") {
            let unread = |why| CloudChange::Unread { id: id.to_owned(), why };
            split.identity.push(entry_change(id, &change).unwrap_or_else(unread));
        } else if change.resource == own_bundle {
            match roots_in(&change) {
                Some(PublishedRoots { roots, tainted }) => {
                    split.identity.push(CloudChange::Roots { roots, tainted });
                }
                None => drop(split.skipped.insert(change.resource, "no roots".into())),
            }
        } else if let Some(name) = federated_name(&change.resource, trust_domain) {
            match federated_change(name, &change) {
                Ok(change) => split.identity.push(change),
                // What it was before holds on, as with entries.
                Err(why) => drop(split.skipped.insert(change.resource, why)),
            }
        } else if change.resource == "identity/rules" {
            split.rules = rules_in(&change).or(split.rules.take().filter(|_| extent == Extent::Changes));
            if split.rules.is_none() {
                // What they are is not known: those of before hold on.
                split.skipped.insert(change.resource, "no set of rules".into());
            }
        } else if change.resource.starts_with("device/") {
            split.devices.push(change);
        } else if change.operation != Operation::Delete {
            // Something that a newer cloud knows.
            split.skipped.insert(change.resource, "not known to this version".into());
        }
    }
    split
}

/// Rules by name in the content of `identity/rules`; none if that is something else.
fn rules_in(change: &Change) -> Option<BTreeMap<String, Value>> {
    if change.operation == Operation::Delete {
        return Some(BTreeMap::new());
    }
    let rules = change.content.get("rules")?.as_object()?;
    Some(rules.iter().map(|(name, rule)| (name.clone(), rule.clone())).collect())
}

fn entry_change(id: &str, change: &Change) -> Result<CloudChange, String> {
    if change.operation == Operation::Delete {
        return Ok(CloudChange::Delete(id.to_owned()));
    }
    let entry: RegistrationEntry =
        serde_json::from_value(change.content.clone()).map_err(|error| error.to_string())?;
    if entry.id != id {
        return Err(format!("holds entry {}", entry.id));
    }
    Ok(CloudChange::Upsert(Box::new(entry)))
}

/// Returns the other trust domain whose bundle a resource is.
fn federated_name(resource: &str, own: &TrustDomain) -> Option<TrustDomain> {
    let name = resource.strip_prefix("identity/bundle/")?;
    TrustDomain::new(name).ok().filter(|parsed| parsed.as_str() == name && parsed != own)
}

fn federated_change(name: TrustDomain, change: &Change) -> Result<CloudChange, String> {
    if change.operation == Operation::Delete {
        return Ok(CloudChange::Unfederated(name));
    }
    let PublishedRoots { roots, tainted } = roots_in(change).ok_or("no roots")?;
    let roots = roots.into_iter().map(|root| {
        let is_tainted = tainted.contains(&root);
        (root, is_tainted)
    });
    let bundle = FederatedBundle::new(name, roots).map_err(|error| error.to_string())?;
    let number = |field: &str| change.content.get(field).and_then(Value::as_u64).unwrap_or(0);
    let bundle = bundle.with_hints(number("sequence"), number("refresh_hint"));
    Ok(CloudChange::Federated(Box::new(bundle)))
}

/// Content of `identity/bundle/<trust domain>`; DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishedRoots {
    pub(super) roots: Vec<Vec<u8>>,
    /// Those of them that are tainted.
    pub(super) tainted: Vec<Vec<u8>>,
}

/// Reads them; none if there is no root or something else in their place.
pub(super) fn roots_in(change: &Change) -> Option<PublishedRoots> {
    let roots = certificates(change.content.get("roots")?)?;
    let tainted = change.content.get("tainted").map_or(Some(Vec::new()), certificates)?;
    (!roots.is_empty()).then_some(PublishedRoots { roots, tainted })
}

fn certificates(list: &Value) -> Option<Vec<Vec<u8>>> {
    list.as_array()?.iter().map(|root| STANDARD.decode(root.as_str()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(resource: &str, operation: Operation, content: Value) -> Change {
        Change { revision: 1, resource: resource.into(), operation, content }
    }

    #[test]
    fn each_change_goes_to_who_takes_it() {
        let trust_domain = TrustDomain::new("plant").unwrap();
        let entry = json!({
            "id": "e", "spiffe_id": "spiffe://plant/edge/b/app/x", "parent_id": "spiffe://plant/edge/b",
            "selectors": [{"type": "unix", "value": "uid:1"}],
        });
        let changes = vec![
            change("identity/entry/e", Operation::Insert, entry.clone()),
            change("identity/entry/other", Operation::Insert, entry),
            change("identity/entry/gone", Operation::Delete, Value::Null),
            change(
                "identity/bundle/plant",
                Operation::Update,
                json!({"roots": ["AQ=="], "tainted": ["AQ=="]}),
            ),
            change("identity/bundle/elsewhere", Operation::Update, json!({"roots": ["AQ=="]})),
            change("identity/bundle/dropped", Operation::Delete, Value::Null),
            change("identity/rules", Operation::Update, json!({"rules": {"r": {}}})),
            change("identity/policy/x", Operation::Insert, json!({})),
            change("identity/policy/y", Operation::Delete, Value::Null),
            change("device/default/led", Operation::Delete, Value::Null),
        ];
        let split = split_changes(changes, Extent::Snapshot, &trust_domain);
        let [retain, federated, upsert, unread, delete, roots, dropped] = split.identity.as_slice() else {
            panic!("{split:?}")
        };
        let name = |text| TrustDomain::new(text).unwrap();
        assert_eq!(*federated, CloudChange::RetainFederated(vec![name("elsewhere")]));
        assert_eq!(*dropped, CloudChange::Unfederated(name("dropped")));
        assert!(split.skipped["identity/bundle/elsewhere"].contains("no X.509 root of spiffe://elsewhere"));
        assert_eq!(*retain, CloudChange::Retain(vec!["e".into(), "other".into()]));
        assert!(matches!(upsert, CloudChange::Upsert(entry) if entry.id == "e"));
        assert!(
            matches!(unread, CloudChange::Unread { id, why } if id == "other" && why.contains("entry e"))
        );
        assert_eq!(*delete, CloudChange::Delete("gone".into()));
        assert_eq!(*roots, CloudChange::Roots { roots: vec![vec![1]], tainted: vec![vec![1]] });
        assert_eq!((split.rules, split.devices.len()), (Some(BTreeMap::from([("r".into(), json!({}))])), 1));
        let skipped: Vec<&str> = split.skipped.keys().map(String::as_str).collect();
        assert_eq!(skipped, ["identity/bundle/elsewhere", "identity/policy/x"]);
    }

    #[test]
    fn rules_come_as_a_set_and_one_that_is_none_leaves_those_of_before() {
        let trust_domain = TrustDomain::new("plant").unwrap();
        let rules = |extent, changes| split_changes(changes, extent, &trust_domain).rules;
        let set = |content| change("identity/rules", Operation::Update, content);
        let one = BTreeMap::from([("r".to_owned(), json!(1))]);
        assert_eq!(rules(Extent::Changes, vec![]), None);
        assert_eq!(rules(Extent::Snapshot, vec![]), Some(BTreeMap::new()), "a snapshot without rules");
        assert_eq!(rules(Extent::Snapshot, vec![set(json!({"rules": {"r": 1}}))]), Some(one.clone()));
        assert_eq!(
            rules(Extent::Changes, vec![set(json!({"rules": {}})), set(json!({"rules": {"r": 1}}))]),
            Some(one)
        );
        let gone = change("identity/rules", Operation::Delete, Value::Null);
        assert_eq!(rules(Extent::Changes, vec![gone]), Some(BTreeMap::new()));
        for extent in [Extent::Changes, Extent::Snapshot] {
            let split = split_changes(vec![set(json!({"rules": []}))], extent, &trust_domain);
            assert_eq!((split.rules, split.skipped.len()), (None, 1));
        }
    }
}
