//! What every node gets beside its entries and devices: the trust bundles and rules.
//!
//! They are not written to the logs of thousands of nodes in one commit: each node's log is brought
//! up to date when the node connects, and while it is connected.

use super::{CloudHub, HubError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bridge_core::Operation;
use midge_store::{Batch, Durability};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const RULE_PREFIX: &str = "rule/";
/// All rules of a node: one by one, an allow would be in force before its deny.
const RULES: &str = "identity/rules";
/// Stands for all nodes in a key; no node can have this name.
const ALL_NODES: &str = "*";

/// A rule that the cloud hands out.
#[derive(Clone, Debug, PartialEq)]
pub struct HandedRule {
    /// Node it is for; all if unset.
    pub node: Option<String>,
    /// Its name.
    pub name: String,
    /// Content of `identity/rule/<name>`, which the edge understands.
    pub content: Value,
}

impl CloudHub {
    /// Hands rules to a node, or to all. A rule of the same name for the same node is replaced; one for all is not
    /// replaced by one for a node, nor the other way round: it could be a deny that nobody wants to lose.
    ///
    /// # Errors
    /// A name is not allowed, or is that of a rule for all, or for a node, in place of the other; or the store fails.
    pub async fn put_rules(&self, node: Option<&str>, rules: Vec<(String, Value)>) -> Result<(), HubError> {
        let handed = self.rules().await?;
        let elsewhere = |rule: &&HandedRule| rule.node.is_none() != node.is_none();
        for taken in handed.iter().filter(elsewhere) {
            if rules.iter().any(|(name, _)| *name == taken.name) {
                let holder =
                    taken.node.as_ref().map_or("all nodes".to_owned(), |node| format!("node {node}"));
                return Err(HubError::RuleTaken { name: taken.name.clone(), holder });
            }
        }
        let mut batch = Batch::new();
        for (name, content) in rules {
            batch = batch.put(self.rule_key(node, &name)?, content.to_string());
        }
        self.shared.parts.store.commit(batch, Durability::PowerLoss).await?;
        self.reconcile_after(node).await
    }

    /// Takes a rule back.
    ///
    /// # Errors
    /// There is no such rule, or the store fails.
    pub async fn delete_rule(&self, node: Option<&str>, name: &str) -> Result<(), HubError> {
        let key = self.rule_key(node, name)?;
        if self.shared.parts.store.get(key.as_str()).await?.is_none() {
            return Err(HubError::NoRule(name.to_owned()));
        }
        self.shared.parts.store.commit(Batch::new().delete(key), Durability::PowerLoss).await?;
        self.reconcile_after(node).await
    }

    /// Returns all rules.
    ///
    /// # Errors
    /// The store fails.
    pub async fn rules(&self) -> Result<Vec<HandedRule>, HubError> {
        let records = self.shared.parts.store.scan(RULE_PREFIX).await?;
        records.into_iter().map(|(key, value)| read_rule(key, &value)).collect()
    }

    pub(super) async fn reconcile_connected(&self) {
        for node in self.shared.sessions.connected() {
            if let Err(error) = self.reconcile(&node).await {
                // Done again when the node connects the next time.
                tracing::warn!(node, %error, "cannot hand bundles and rules to a node");
            }
        }
    }

    /// Brings the log of a node up to date.
    pub(super) async fn reconcile(&self, node: &str) -> Result<(), HubError> {
        let logs = &self.shared.parts.logs;
        let writer = logs.writer(node);
        let _held = writer.lock().await;
        let wanted = self.wanted(node).await?;
        let mut known = logs.live(node, "identity/bundle/").await?;
        known.extend(logs.live(node, RULES).await?);
        let mut changes = Vec::new();
        for (resource, content) in &wanted {
            match known.get(resource) {
                Some(same) if same == content => {}
                Some(_) => changes.push((resource.clone(), Operation::Update, content.clone())),
                None => changes.push((resource.clone(), Operation::Insert, content.clone())),
            }
        }
        for resource in known.into_keys().filter(|resource| !wanted.contains_key(resource)) {
            changes.push((resource, Operation::Delete, Value::Null));
        }
        if !changes.is_empty() {
            logs.append(node, changes, Batch::new()).await?;
        }
        Ok(())
    }

    async fn wanted(&self, node: &str) -> Result<BTreeMap<String, Value>, HubError> {
        let mut wanted = BTreeMap::new();
        let issuer = &self.shared.parts.issuer;
        let bundles = std::sync::Arc::clone(&issuer.view().bundles);
        for trust_domain in bundles.trust_domains() {
            let roots = bundles.roots(trust_domain).unwrap_or_default();
            let roots: Vec<String> = roots.iter().map(|root| STANDARD.encode(root)).collect();
            let tainted = bundles.tainted(trust_domain).iter().map(|root| STANDARD.encode(root));
            let tainted: Vec<String> = tainted.collect();
            let mut content =
                json!({ "trust_domain": trust_domain.to_string(), "roots": roots, "tainted": tainted });
            if let Some(federated) = issuer.federated_bundle(trust_domain)
                && let Some(content) = content.as_object_mut()
            {
                content.insert("sequence".to_owned(), federated.sequence().into());
                content.insert("refresh_hint".to_owned(), federated.refresh_hint_secs().into());
            }
            wanted.insert(format!("identity/bundle/{trust_domain}"), content);
        }
        let mut rules = serde_json::Map::new();
        for scope in [ALL_NODES, node] {
            for (key, value) in self.shared.parts.store.scan(format!("{RULE_PREFIX}{scope}/")).await? {
                let rule = read_rule(key, &value)?;
                rules.insert(rule.name, rule.content);
            }
        }
        if !rules.is_empty() {
            wanted.insert(RULES.to_owned(), json!({ "rules": rules }));
        }
        Ok(wanted)
    }

    async fn reconcile_after(&self, node: Option<&str>) -> Result<(), HubError> {
        match node {
            Some(node) => self.reconcile(node).await,
            None => {
                self.reconcile_connected().await;
                Ok(())
            }
        }
    }

    fn rule_key(&self, node: Option<&str>, name: &str) -> Result<String, HubError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=128).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(HubError::RuleName(name.chars().take(200).collect()));
        }
        if let Some(node) = node {
            self.check_node_name(node)?;
        }
        Ok(format!("{RULE_PREFIX}{}/{name}", node.unwrap_or(ALL_NODES)))
    }
}

fn read_rule(key: String, value: &[u8]) -> Result<HandedRule, HubError> {
    let content = serde_json::from_slice(value)
        .map_err(|error| HubError::Record { key: key.clone(), why: error.to_string() })?;
    let mut parts = key.split('/').skip(1);
    let (node, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let node = Some(node.to_owned()).filter(|node| node != ALL_NODES);
    Ok(HandedRule { node, name: name.to_owned(), content })
}
