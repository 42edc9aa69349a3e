//! Registration entries: create, update, delete, find, and what comes from the cloud.

use crate::{error::IssueError, issuer::Issuer, mutation::Mutation};
use issuer_core::{EntryChange, EntryError, EntryFilter, FederatedBundle, Origin, RegistrationEntry};
use midge_identity::{SpiffeId, TrustDomain};
use midge_store::Batch;
use std::sync::Arc;
use uuid::Uuid;

/// One change that the cloud sent to an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloudChange {
    /// This entry is to be as it is here.
    Upsert(Box<RegistrationEntry>),
    /// This entry is something else than before, which this version cannot read.
    Unread {
        /// Its ID.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// This entry is gone.
    Delete(String),
    /// Entries of the cloud other than these are gone: the start of a snapshot.
    Retain(Vec<String>),
    /// The roots of the trust domain are these; DER.
    Roots {
        /// All of them.
        roots: Vec<Vec<u8>>,
        /// Those that are tainted.
        tainted: Vec<Vec<u8>>,
    },
    /// The bundle of another trust domain is to be as it is here.
    Federated(Box<FederatedBundle>),
    /// The bundle of another trust domain is gone.
    Unfederated(TrustDomain),
    /// Bundles of other trust domains than these are gone: the start of a snapshot.
    RetainFederated(Vec<TrustDomain>),
}

impl Issuer {
    /// Creates an entry. A missing ID is chosen.
    ///
    /// # Errors
    /// A rule is broken, a similar entry exists ([`EntryError::Similar`] holds it), or the store fails.
    pub async fn create_entry(
        &self,
        entry: RegistrationEntry,
        origin: Origin,
    ) -> Result<Arc<RegistrationEntry>, IssueError> {
        let mut results = self.create_entries(vec![entry], origin).await?;
        Ok(results.pop().unwrap_or(Err(EntryError::NotFound))?)
    }

    /// Creates entries in one commit; those that break a rule leave the others alone.
    ///
    /// # Errors
    /// The store fails: none was created.
    pub async fn create_entries(
        &self,
        entries: Vec<RegistrationEntry>,
        origin: Origin,
    ) -> Result<Vec<Result<Arc<RegistrationEntry>, EntryError>>, IssueError> {
        let now = self.now();
        self.commit(Batch::new(), move |state| {
            let drafts = entries.into_iter().map(|entry| (entry, Uuid::new_v4().to_string()));
            let planned = state.entries.plan_create_all(drafts, origin, now);
            Ok(split(planned))
        })
        .await
    }

    /// Gives an entry new values; `change` edits a copy. Its revision goes up by one.
    ///
    /// # Errors
    /// There is no such entry, the cloud owns it, a rule is broken, or the store fails.
    pub async fn update_entry(
        &self,
        id: &str,
        change: impl FnOnce(&mut RegistrationEntry) + Send + 'static,
    ) -> Result<Arc<RegistrationEntry>, IssueError> {
        let (id, now) = (id.to_owned(), self.now());
        self.commit(Batch::new(), move |state| {
            let change = state.entries.plan_update(&id, change, now)?;
            let after = change.after.clone().ok_or(EntryError::NotFound)?;
            Ok((vec![Mutation::Entry(change)], after))
        })
        .await
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// There is no such entry, the cloud owns it, or the store fails.
    pub async fn delete_entry(&self, id: &str) -> Result<Arc<RegistrationEntry>, IssueError> {
        let mut results = self.delete_entries(vec![id.to_owned()]).await?;
        Ok(results.pop().unwrap_or(Err(EntryError::NotFound))?)
    }

    /// Deletes entries in one commit; those that cannot be deleted leave the others alone.
    ///
    /// # Errors
    /// The store fails: none was deleted.
    pub async fn delete_entries(
        &self,
        ids: Vec<String>,
    ) -> Result<Vec<Result<Arc<RegistrationEntry>, EntryError>>, IssueError> {
        self.commit(Batch::new(), move |state| {
            let planned = ids.iter().map(|id| state.entries.plan_delete(id)).collect();
            Ok(split(planned))
        })
        .await
    }

    /// Returns one entry.
    ///
    /// # Errors
    /// There is no such entry.
    pub fn entry(&self, id: &str) -> Result<Arc<RegistrationEntry>, EntryError> {
        self.shared.state.read().entries.find(id).cloned().ok_or(EntryError::NotFound)
    }

    /// Returns the entries a filter chooses, in the order of their IDs.
    ///
    /// # Errors
    /// An ID in the filter is of another trust domain.
    pub fn entries(&self, filter: &EntryFilter) -> Result<Vec<Arc<RegistrationEntry>>, EntryError> {
        let listed = {
            let state = self.shared.state.read();
            filter.check(state.entries.rules())?;
            Arc::clone(&state.listed)
        };
        Ok(listed.iter().filter(|entry| filter.admits(entry)).cloned().collect())
    }

    /// Returns the entries an agent may serve, in the order of their IDs.
    pub fn served_by(&self, agent: &SpiffeId) -> Vec<Arc<RegistrationEntry>> {
        self.shared.state.read().entries.served_by(agent)
    }

    /// Takes changes from the cloud, all in one commit together with `extra`, such as the cursor. An entry that
    /// breaks a rule or cannot be read is left out, shown as degraded until it comes again, and returned with the
    /// reason: it must not hold up the others. What it was before holds on.
    ///
    /// # Errors
    /// The roots, or a bundle, are refused, or the store fails: nothing was taken.
    pub async fn apply_cloud(
        &self,
        changes: Vec<CloudChange>,
        extra: Batch,
    ) -> Result<Vec<(String, EntryError)>, IssueError> {
        let refused = self.commit(extra, move |state| crate::upstream::plan_cloud(state, changes)).await?;
        for (id, error) in &refused {
            tracing::warn!(entry = %id, %error, "entry from the cloud is refused");
        }
        Ok(refused)
    }

    /// Tells whether entries of the cloud are refused, so that what holds here is not what it said last.
    pub fn refuses_entries(&self) -> bool {
        !self.shared.state.read().refused.is_empty()
    }
}

type Answers = Vec<Result<Arc<RegistrationEntry>, EntryError>>;

fn split(planned: Vec<Result<EntryChange, EntryError>>) -> (Vec<Mutation>, Answers) {
    let mut mutations = Vec::new();
    let mut answers = Vec::new();
    for result in planned {
        answers.push(result.and_then(|change| {
            let entry = change.after.clone().or_else(|| change.before.clone()).ok_or(EntryError::NotFound)?;
            mutations.push(Mutation::Entry(change));
            Ok(entry)
        }));
    }
    (mutations, answers)
}
