//! What the server knows: read from the store at start, changed only by what the store has taken.

use crate::{
    config::IssuerConfig,
    error::IssueError,
    mutation::{
        BUNDLE_KEY, ENTRY_PREFIX, FEDERATED_PREFIX, FLOOR_KEY, JOURNAL_KEY, Mutation, NODE_PREFIX,
        REFUSED_KEY, TOKEN_PREFIX, apply_enrolment,
    },
};
use issuer_core::{
    AuthorityKind, Bundle, CaJournal, ClockFloor, Enrolment, EntryTable, Federation, RegistrationEntry,
    good_authorities,
};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use midge_store::Store;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// By what a local process holds an identity.
#[derive(Clone, Copy, Debug)]
pub struct HeldEntry<'a> {
    /// Registration entry that was chosen for the process.
    pub entry_id: &'a str,
    /// Identity it gave.
    pub id: &'a SpiffeId,
    /// What it demanded then: [`RegistrationEntry::demands`].
    pub demands: &'a [u8; 32],
    /// Agent that attested the process.
    pub agent: &'a SpiffeId,
}

pub(crate) struct State {
    pub(crate) entries: EntryTable,
    pub(crate) enrolment: Enrolment,
    pub(crate) journal: CaJournal,
    pub(crate) bundle: Bundle,
    pub(crate) federation: Federation,
    pub(crate) floor: ClockFloor,
    /// The own trust domain's roots: what the server itself verifies by.
    pub(crate) own_bundles: Arc<BundleSet>,
    /// The entries and the roots of all trust domains as views show them, kept so that a view of one shares the other.
    pub(crate) listed: Arc<Vec<Arc<RegistrationEntry>>>,
    pub(crate) bundles: Arc<BundleSet>,
    /// Authorities whose SVIDs may be kept, likewise.
    pub(crate) good: Arc<BTreeSet<String>>,
    /// Nodes that are banned, likewise.
    pub(crate) banned: Arc<BTreeSet<SpiffeId>>,
    /// Entries of the cloud that are refused, by ID, with the reason.
    pub(crate) refused: Arc<BTreeMap<String, String>>,
}

impl State {
    pub(crate) async fn load(config: &IssuerConfig, store: &Store) -> Result<Self, IssueError> {
        let mut entries = EntryTable::new(config.entry_rules());
        for (key, value) in store.scan(ENTRY_PREFIX).await? {
            entries.restore(decode(&key, &value)?);
        }
        let mut enrolment = Enrolment::default();
        for (key, value) in store.scan(TOKEN_PREFIX).await? {
            enrolment.put_token(decode(&key, &value)?);
        }
        for (key, value) in store.scan(NODE_PREFIX).await? {
            enrolment.put_node(Arc::new(decode(&key, &value)?));
        }
        let journal = read(store, JOURNAL_KEY).await?.unwrap_or_default();
        let bundle: Bundle = read(store, BUNDLE_KEY).await?.unwrap_or_default();
        let mut federation = Federation::new(config.trust_domain.clone(), entries.rules().cloud_is_elsewhere);
        for (key, value) in store.scan(FEDERATED_PREFIX).await? {
            federation.restore(decode(&key, &value)?);
        }
        entries.set_federated(federation.names());
        let floor = ClockFloor::new(read::<UnixMillis>(store, FLOOR_KEY).await?);
        let listed = Arc::new(entries.iter().cloned().collect());
        let own_bundles = Arc::new(bundle_set(&config.trust_domain, &bundle));
        let bundles = with_federated(&own_bundles, &federation);
        let good = Arc::new(good_authorities(config.authority.kind(), &journal, &bundle));
        let banned = Arc::new(banned(&enrolment));
        let refused = Arc::new(read(store, REFUSED_KEY).await?.unwrap_or_default());
        Ok(Self {
            entries,
            enrolment,
            journal,
            bundle,
            federation,
            floor,
            own_bundles,
            listed,
            bundles,
            good,
            banned,
            refused,
        })
    }

    /// Tells whether an identity has an entry that no ban takes away: its own, or that of the node which
    /// serves it.
    pub(crate) fn stands(&self, id: &SpiffeId) -> bool {
        if self.banned.is_empty() {
            return self.entries.is_registered(id);
        }
        !self.banned.contains(id)
            && self.entries.of_identity(id).any(|entry| !self.banned.contains(&entry.parent_id))
    }

    /// Tells whether an entry gives this identity to those it was given to, on this agent, and no ban takes it away.
    pub(crate) fn entry_stands(&self, held: &HeldEntry<'_>) -> bool {
        let entry = self.entries.find(held.entry_id).filter(|entry| entry.spiffe_id == *held.id);
        entry.is_some_and(|entry| {
            entry.demands() == *held.demands
                && self.entries.is_served_by(entry, held.agent)
                && !self.banned.contains(held.id)
                && !self.banned.contains(&entry.parent_id)
        })
    }

    pub(crate) fn apply(&mut self, mutations: &[Mutation], kind: AuthorityKind) {
        let (mut entries_changed, mut bundle_changed, mut journal_changed) = (false, false, false);
        let mut federation_changed = false;
        for mutation in mutations {
            match mutation {
                Mutation::Entry(change) => {
                    self.entries.apply(change);
                    entries_changed = true;
                }
                Mutation::Bundle(bundle) => {
                    self.bundle = bundle.clone();
                    bundle_changed = true;
                }
                Mutation::Federated(change) => {
                    self.federation.apply(change);
                    federation_changed = true;
                }
                Mutation::Journal(journal) => {
                    self.journal = CaJournal::clone(journal);
                    journal_changed = true;
                }
                Mutation::Refused(refused) => self.refused = Arc::clone(refused),
                Mutation::TokenMade(_)
                | Mutation::TokenGone(_)
                | Mutation::Node(_)
                | Mutation::NodeGone(_) => {
                    apply_enrolment(&mut self.enrolment, mutation);
                    let banned = banned(&self.enrolment);
                    if banned != *self.banned {
                        self.banned = Arc::new(banned);
                    }
                }
            }
        }
        if entries_changed {
            self.listed = Arc::new(self.entries.iter().cloned().collect());
        }
        if bundle_changed {
            self.own_bundles = Arc::new(bundle_set(&self.entries.rules().trust_domain, &self.bundle));
        }
        if federation_changed {
            self.entries.set_federated(self.federation.names());
        }
        if bundle_changed || federation_changed {
            self.bundles = with_federated(&self.own_bundles, &self.federation);
        }
        if bundle_changed || journal_changed {
            let good = good_authorities(kind, &self.journal, &self.bundle);
            if good != *self.good {
                self.good = Arc::new(good);
            }
        }
    }
}

fn banned(enrolment: &Enrolment) -> BTreeSet<SpiffeId> {
    enrolment.nodes().filter(|node| node.banned).map(|node| node.id.clone()).collect()
}

fn bundle_set(trust_domain: &TrustDomain, bundle: &Bundle) -> BundleSet {
    let mut set = BundleSet::new();
    if !bundle.roots().is_empty() {
        let roots = bundle.roots().iter().map(|root| root.certificate.clone()).collect();
        set.insert(trust_domain.clone(), roots);
        let tainted = bundle.roots().iter().filter(|root| root.tainted).map(|root| root.certificate.clone());
        set.set_tainted(trust_domain, &tainted.collect::<Vec<_>>());
    }
    set.set_revision(bundle.sequence());
    set
}

/// The number of the set stays that of the own bundle.
fn with_federated(own: &Arc<BundleSet>, federation: &Federation) -> Arc<BundleSet> {
    if federation.iter().next().is_none() {
        return Arc::clone(own);
    }
    let mut set = BundleSet::clone(own);
    federation.iter().for_each(|bundle| bundle.insert_into(&mut set));
    set.set_revision(own.revision());
    Arc::new(set)
}

async fn read<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, IssueError> {
    store.get(key).await?.map(|value| decode(key, &value)).transpose()
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, IssueError> {
    serde_json::from_slice(value)
        .map_err(|error| IssueError::Record { key: key.to_owned(), why: error.to_string() })
}
