//! What the server knows: read from the store at start, changed only by what the store has taken.

use crate::{
    config::IssuerConfig,
    error::IssueError,
    mutation::{
        BUNDLE_KEY, ENTRY_PREFIX, FLOOR_KEY, JOURNAL_KEY, Mutation, NODE_PREFIX, TOKEN_PREFIX,
        apply_enrolment,
    },
};
use issuer_core::{Bundle, CaJournal, ClockFloor, Enrolment, EntryTable, RegistrationEntry};
use midge_identity::{BundleSet, TrustDomain, UnixMillis};
use midge_store::Store;
use serde::de::DeserializeOwned;
use std::sync::Arc;

pub(crate) struct State {
    pub(crate) entries: EntryTable,
    pub(crate) enrolment: Enrolment,
    pub(crate) journal: CaJournal,
    pub(crate) bundle: Bundle,
    pub(crate) floor: ClockFloor,
    /// The entries and roots as views show them, kept so that a view of one shares the other.
    pub(crate) listed: Arc<Vec<Arc<RegistrationEntry>>>,
    pub(crate) bundles: Arc<BundleSet>,
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
        let floor = ClockFloor::new(read::<UnixMillis>(store, FLOOR_KEY).await?);
        let listed = Arc::new(entries.iter().cloned().collect());
        let bundles = Arc::new(bundle_set(&config.trust_domain, &bundle));
        Ok(Self { entries, enrolment, journal, bundle, floor, listed, bundles })
    }

    pub(crate) fn apply(&mut self, mutations: &[Mutation]) {
        let (mut entries_changed, mut bundle_changed) = (false, false);
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
                Mutation::Journal(journal) => self.journal = CaJournal::clone(journal),
                Mutation::TokenMade(_)
                | Mutation::TokenGone(_)
                | Mutation::Node(_)
                | Mutation::NodeGone(_) => {
                    apply_enrolment(&mut self.enrolment, mutation);
                }
            }
        }
        if entries_changed {
            self.listed = Arc::new(self.entries.iter().cloned().collect());
        }
        if bundle_changed {
            self.bundles = Arc::new(bundle_set(&self.entries.rules().trust_domain, &self.bundle));
        }
    }
}

fn bundle_set(trust_domain: &TrustDomain, bundle: &Bundle) -> BundleSet {
    let mut set = BundleSet::new();
    if !bundle.roots().is_empty() {
        let roots = bundle.roots().iter().map(|root| root.certificate.clone()).collect();
        set.insert(trust_domain.clone(), roots);
    }
    set.set_revision(bundle.sequence());
    set
}

async fn read<T: DeserializeOwned>(store: &Store, key: &str) -> Result<Option<T>, IssueError> {
    store.get(key).await?.map(|value| decode(key, &value)).transpose()
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, IssueError> {
    serde_json::from_slice(value)
        .map_err(|error| IssueError::Record { key: key.to_owned(), why: error.to_string() })
}
