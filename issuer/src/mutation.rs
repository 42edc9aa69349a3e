//! Changes of the server's state and their form on disk.

use crate::error::IssueError;
use issuer_core::{Bundle, CaJournal, Enrolment, EntryChange, FederationChange, JoinToken, Node};
use midge_identity::{SpiffeId, TrustDomain};
use midge_store::Batch;
use std::{collections::BTreeMap, mem, sync::Arc};

pub(crate) const ENTRY_PREFIX: &str = "entry/";
pub(crate) const TOKEN_PREFIX: &str = "token/";
pub(crate) const NODE_PREFIX: &str = "node/";
pub(crate) const JOURNAL_KEY: &str = "ca/journal";
pub(crate) const BUNDLE_KEY: &str = "bundle/own";
pub(crate) const FEDERATED_PREFIX: &str = "bundle/federated/";
pub(crate) const REFUSED_KEY: &str = "cloud/refused";
pub(crate) const FLOOR_KEY: &str = "clock/floor";

/// One change, as it is committed.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// An entry was created, updated or deleted.
    Entry(EntryChange),
    /// A join token was made.
    TokenMade(JoinToken),
    /// A join token was spent or thrown away; its SHA-256 in hex.
    TokenGone(String),
    /// A node joined, renewed, or was banned.
    Node(Arc<Node>),
    /// A node was deleted.
    NodeGone(SpiffeId),
    /// The roots of the own trust domain changed.
    Bundle(Bundle),
    /// The bundle of another trust domain was set or deleted.
    Federated(FederationChange),
    /// A CA was prepared or activated, or requested from the cloud.
    Journal(Box<CaJournal>),
    /// Entries of the cloud that are refused, by ID, with the reason.
    Refused(Arc<BTreeMap<String, String>>),
}

/// Takes part in every commit, so that what is synced to others and what is true here never part.
pub trait MutationLog: Send + Sync {
    /// Adds records to the batch that makes the change durable.
    fn extend(&self, mutation: &Mutation, batch: &mut Batch);

    /// Called after batches with at least one mutation have become durable.
    fn committed(&self) {}

    /// Called when a batch that was extended has not become durable: nothing of it happened.
    fn aborted(&self) {}
}

pub(crate) fn record(mutation: &Mutation, batch: &mut Batch) -> Result<(), IssueError> {
    let taken = mem::take(batch);
    *batch = match mutation {
        Mutation::Entry(change) => match &change.after {
            Some(entry) => taken.put(entry_key(&entry.id), serde_json::to_vec(entry)?),
            None => taken.delete(entry_key(change.id())),
        },
        Mutation::TokenMade(token) => {
            taken.put(format!("{TOKEN_PREFIX}{}", token.token_sha256), serde_json::to_vec(token)?)
        }
        Mutation::TokenGone(token_sha256) => taken.delete(format!("{TOKEN_PREFIX}{token_sha256}")),
        Mutation::Node(node) => taken.put(node_key(&node.id), serde_json::to_vec(node)?),
        Mutation::NodeGone(id) => taken.delete(node_key(id)),
        Mutation::Bundle(bundle) => taken.put(BUNDLE_KEY, serde_json::to_vec(bundle)?),
        Mutation::Federated(change) => match (&change.after, change.trust_domain()) {
            (Some(bundle), Some(name)) => taken.put(federated_key(name), serde_json::to_vec(&**bundle)?),
            (None, Some(name)) => taken.delete(federated_key(name)),
            (_, None) => taken,
        },
        Mutation::Journal(journal) => taken.put(JOURNAL_KEY, serde_json::to_vec(journal)?),
        Mutation::Refused(refused) if refused.is_empty() => taken.delete(REFUSED_KEY),
        Mutation::Refused(refused) => taken.put(REFUSED_KEY, serde_json::to_vec(&**refused)?),
    };
    Ok(())
}

pub(crate) fn apply_enrolment(enrolment: &mut Enrolment, mutation: &Mutation) {
    match mutation {
        Mutation::TokenMade(token) => enrolment.put_token(token.clone()),
        Mutation::TokenGone(token_sha256) => enrolment.delete_token(token_sha256),
        Mutation::Node(node) => enrolment.put_node(Arc::clone(node)),
        Mutation::NodeGone(id) => enrolment.delete_node(id),
        Mutation::Entry(_)
        | Mutation::Bundle(_)
        | Mutation::Federated(_)
        | Mutation::Journal(_)
        | Mutation::Refused(_) => {}
    }
}

fn entry_key(id: &str) -> String {
    format!("{ENTRY_PREFIX}{id}")
}

// A name of a trust domain has no slash. SPIFFE-ID §2.1
fn federated_key(trust_domain: &TrustDomain) -> String {
    format!("{FEDERATED_PREFIX}{trust_domain}")
}

fn node_key(id: &SpiffeId) -> String {
    format!("{NODE_PREFIX}{}", id.path().trim_start_matches('/'))
}
