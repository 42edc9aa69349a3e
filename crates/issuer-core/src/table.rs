//! The registration entries of one server: what exists, what resembles what, who gets what.
//!
//! A change is first planned, then committed to disk by the shell, then applied: what is in the
//! table is on the disk.

use crate::{
    DeleteMode, EntryError, EntryRules, FederationError, Origin, RegistrationEntry, Selector, limits,
    validate::{check_member, check_workload},
};
use midge_identity::{SpiffeId, TrustDomain, UnixMillis, is_agent};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One planned change: what stands in the table before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// Unset for a new entry.
    pub before: Option<Arc<RegistrationEntry>>,
    /// Unset for a deletion.
    pub after: Option<Arc<RegistrationEntry>>,
}

impl EntryChange {
    /// Returns the ID of the entry that changes.
    pub fn id(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", |entry| entry.id.as_str())
    }
}

/// All entries, by ID, and by SPIFFE ID and parent.
#[derive(Clone, Debug)]
pub struct EntryTable {
    rules: EntryRules,
    by_id: BTreeMap<String, Arc<RegistrationEntry>>,
    by_parent: BTreeMap<SpiffeId, BTreeSet<String>>,
    by_spiffe_id: BTreeMap<SpiffeId, BTreeSet<String>>,
    /// Other trust domains that have a bundle: those that new entries may federate with.
    federated: BTreeSet<String>,
}

impl EntryTable {
    /// Returns an empty table.
    pub fn new(rules: EntryRules) -> Self {
        Self {
            rules,
            by_id: BTreeMap::new(),
            by_parent: BTreeMap::new(),
            by_spiffe_id: BTreeMap::new(),
            federated: BTreeSet::new(),
        }
    }

    /// Says which other trust domains have a bundle. Entries that federate with others already stay as they are.
    pub fn set_federated(&mut self, names: BTreeSet<String>) {
        self.federated = names;
    }

    /// Returns the rules that hold for entries.
    pub fn rules(&self) -> &EntryRules {
        &self.rules
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Tells whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns one entry.
    pub fn find(&self, id: &str) -> Option<&Arc<RegistrationEntry>> {
        self.by_id.get(id)
    }

    /// Returns all entries in the order of their IDs.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RegistrationEntry>> {
        self.by_id.values()
    }

    /// Returns the entries that give an identity.
    pub fn of_identity(&self, spiffe_id: &SpiffeId) -> impl Iterator<Item = &Arc<RegistrationEntry>> {
        let ids = self.by_spiffe_id.get(spiffe_id).into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// Tells whether any entry gives this identity.
    pub fn is_registered(&self, spiffe_id: &SpiffeId) -> bool {
        self.by_spiffe_id.contains_key(spiffe_id)
    }

    /// Plans a new entry. The caller gives the ID (its own choice if the entry has none), the time and the owner.
    ///
    /// # Errors
    /// A rule is broken, or the entry or a similar one exists.
    pub fn plan_create(
        &self,
        mut entry: RegistrationEntry,
        id: String,
        origin: Origin,
        now: UnixMillis,
    ) -> Result<EntryChange, EntryError> {
        if self.by_id.len() >= limits::ENTRIES_MAX {
            return Err(EntryError::TooMany {
                what: "entries",
                count: self.by_id.len().saturating_add(1),
                max: limits::ENTRIES_MAX,
            });
        }
        if entry.id.is_empty() {
            entry.id = id;
        }
        entry.origin = origin;
        entry.revision_number = 0;
        entry.created_at = seconds(now);
        let entry = self.rules.normalise(entry)?;
        self.rules.admit(&entry, None, &self.federated, now)?;
        let existing = self.by_id.get(&entry.id).or_else(|| self.similar(&entry));
        match existing {
            Some(existing) => Err(EntryError::Similar(Arc::clone(existing))),
            None => Ok(EntryChange { before: None, after: Some(Arc::new(entry)) }),
        }
    }

    /// Plans new entries that are committed together: each is held against the table and those before it.
    pub fn plan_create_all(
        &self,
        drafts: impl IntoIterator<Item = (RegistrationEntry, String)>,
        origin: Origin,
        now: UnixMillis,
    ) -> Vec<Result<EntryChange, EntryError>> {
        let mut staged = Self::new(self.rules.clone());
        staged.federated.clone_from(&self.federated);
        drafts
            .into_iter()
            .map(|(entry, id)| {
                let change = self.plan_create(entry, id.clone(), origin, now)?;
                if let Some(after) = &change.after {
                    staged.plan_create(RegistrationEntry::clone(after), id, origin, now)?;
                }
                staged.apply(&change);
                Ok(change)
            })
            .collect()
    }

    /// Plans new values for an entry; `change` edits a copy of it. The ID, the owner and the time of creation stay.
    ///
    /// # Errors
    /// There is no such entry, it is not this server's to change, or a rule is broken.
    pub fn plan_update(
        &self,
        id: &str,
        change: impl FnOnce(&mut RegistrationEntry),
        now: UnixMillis,
    ) -> Result<EntryChange, EntryError> {
        let before = self.editable(id)?;
        let mut entry = RegistrationEntry::clone(before);
        change(&mut entry);
        entry.id.clone_from(&before.id);
        entry.origin = before.origin;
        entry.created_at = before.created_at;
        entry.revision_number = before.revision_number.saturating_add(1);
        let after = self.rules.normalise(entry)?;
        self.rules.admit(&after, Some(before), &self.federated, now)?;
        Ok(EntryChange { before: Some(Arc::clone(before)), after: Some(Arc::new(after)) })
    }

    /// Plans a deletion.
    ///
    /// # Errors
    /// There is no such entry, or it is not this server's to delete.
    pub fn plan_delete(&self, id: &str) -> Result<EntryChange, EntryError> {
        let before = self.editable(id)?;
        Ok(EntryChange { before: Some(Arc::clone(before)), after: None })
    }

    /// Plans what becomes of the entries that federate with a trust domain whose bundle is deleted. What else is in
    /// them is not looked at: none may be lost or kept for what it was before.
    ///
    /// # Errors
    /// There are any, and they were not to be changed.
    pub fn plan_defederate(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<Vec<EntryChange>, FederationError> {
        let federates = |name: &String| name == trust_domain.as_str();
        let concerned: Vec<&Arc<RegistrationEntry>> =
            self.iter().filter(|entry| entry.federates_with.iter().any(federates)).collect();
        let after = |entry: &Arc<RegistrationEntry>| match mode {
            DeleteMode::Restrict | DeleteMode::Delete => None,
            DeleteMode::Dissociate => {
                let mut entry = RegistrationEntry::clone(entry);
                entry.federates_with.retain(|name| !federates(name));
                entry.revision_number = entry.revision_number.saturating_add(1);
                Some(Arc::new(entry))
            }
        };
        if mode == DeleteMode::Restrict && !concerned.is_empty() {
            return Err(FederationError::InUse(concerned.len()));
        }
        Ok(concerned
            .into_iter()
            .map(|entry| EntryChange { before: Some(Arc::clone(entry)), after: after(entry) })
            .collect())
    }

    /// Plans what the cloud sent: its entries are taken as they are, so far as their form allows. What of one can have
    /// no effect has none; were it left out, what the cloud gave before would hold on.
    ///
    /// # Errors
    /// A rule is broken.
    pub fn plan_cloud_upsert(&self, mut entry: RegistrationEntry) -> Result<EntryChange, EntryError> {
        entry.origin = Origin::Cloud;
        let after = self.rules.normalise(entry)?;
        let before = self.by_id.get(&after.id).cloned();
        Ok(EntryChange { before, after: Some(Arc::new(after)) })
    }

    /// Plans the deletion of an entry of the cloud; nothing if it is already gone or was never the cloud's.
    pub fn plan_cloud_delete(&self, id: &str) -> Option<EntryChange> {
        let before = self.by_id.get(id).filter(|entry| entry.origin == Origin::Cloud)?;
        Some(EntryChange { before: Some(Arc::clone(before)), after: None })
    }

    /// Plans the deletion of all entries whose expiry has passed. An edge leaves the cloud's to the cloud.
    pub fn plan_expired(&self, now: UnixMillis) -> Vec<EntryChange> {
        self.iter()
            .filter(|entry| entry.has_ended(now))
            .filter_map(|entry| self.plan_delete(&entry.id).ok())
            .collect()
    }

    /// Takes a change that is on the disk.
    pub fn apply(&mut self, change: &EntryChange) {
        if let Some(before) = &change.before {
            self.by_id.remove(&before.id);
            unlink(&mut self.by_parent, &before.parent_id, &before.id);
            unlink(&mut self.by_spiffe_id, &before.spiffe_id, &before.id);
        }
        if let Some(after) = &change.after {
            self.insert(Arc::clone(after));
        }
    }

    /// Takes an entry as the disk has it.
    pub fn restore(&mut self, entry: RegistrationEntry) {
        self.insert(Arc::new(entry));
    }

    /// Returns the entries an agent may serve: those whose parent it is, and in turn their children, as in SPIRE.
    /// Another host's agent ends the walk, because its workloads are attested there and not here.
    pub fn served_by(&self, agent: &SpiffeId) -> Vec<Arc<RegistrationEntry>> {
        let mut found = BTreeMap::new();
        let mut visited = BTreeSet::from([agent]);
        let mut waiting = vec![agent];
        while let Some(parent) = waiting.pop() {
            for entry in self.children(parent) {
                found.insert(entry.id.as_str(), entry);
                if !is_agent(&entry.spiffe_id) && visited.insert(&entry.spiffe_id) {
                    waiting.push(&entry.spiffe_id);
                }
            }
        }
        found.into_values().map(Arc::clone).collect()
    }

    /// Tells whether an entry is among those that [`EntryTable::served_by`] returns, from the entry upwards.
    pub fn is_served_by(&self, entry: &RegistrationEntry, agent: &SpiffeId) -> bool {
        let mut visited = BTreeSet::new();
        let mut waiting = vec![&entry.parent_id];
        while let Some(parent) = waiting.pop() {
            if parent == agent {
                return true;
            }
            if !is_agent(parent) && visited.insert(parent) {
                waiting.extend(self.of_identity(parent).map(|entry| &entry.parent_id));
            }
        }
        false
    }

    fn children(&self, parent: &SpiffeId) -> impl Iterator<Item = &Arc<RegistrationEntry>> {
        self.by_parent.get(parent).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    fn similar(&self, entry: &RegistrationEntry) -> Option<&Arc<RegistrationEntry>> {
        self.by_spiffe_id
            .get(&entry.spiffe_id)?
            .iter()
            .filter_map(|id| self.by_id.get(id))
            .find(|other| other.parent_id == entry.parent_id && other.selectors == entry.selectors)
    }

    fn editable(&self, id: &str) -> Result<&Arc<RegistrationEntry>, EntryError> {
        let entry = self.by_id.get(id).ok_or(EntryError::NotFound)?;
        match entry.origin {
            Origin::Builtin => Err(EntryError::Builtin),
            Origin::Cloud if self.rules.cloud_is_elsewhere => Err(EntryError::ManagedByCloud),
            Origin::Cloud | Origin::Edge => Ok(entry),
        }
    }

    fn insert(&mut self, entry: Arc<RegistrationEntry>) {
        self.by_parent.entry(entry.parent_id.clone()).or_default().insert(entry.id.clone());
        self.by_spiffe_id.entry(entry.spiffe_id.clone()).or_default().insert(entry.id.clone());
        self.by_id.insert(entry.id.clone(), entry);
    }
}

fn unlink(index: &mut BTreeMap<SpiffeId, BTreeSet<String>>, key: &SpiffeId, id: &str) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn seconds(time: UnixMillis) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Chooses entries for a listing; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Exactly this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Exactly this parent.
    pub parent_id: Option<SpiffeId>,
    /// By selectors.
    pub selectors: Option<(SetMatch, BTreeSet<Selector>)>,
    /// By federated trust domains.
    pub federates_with: Option<(SetMatch, BTreeSet<String>)>,
    /// Exactly this hint.
    pub hint: Option<String>,
    /// Downstream or not.
    pub downstream: Option<bool>,
}

/// How a given set relates to a candidate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMatch {
    /// Both are equal.
    Exact,
    /// The candidate's is a non-empty subset of the given one.
    Subset,
    /// The candidate's is a superset of the given one.
    Superset,
    /// They share an element.
    Any,
}

impl SetMatch {
    /// Tells whether the candidate is chosen.
    pub fn holds<T: Ord>(self, given: &BTreeSet<T>, candidate: &BTreeSet<T>) -> bool {
        match self {
            Self::Exact => given == candidate,
            Self::Subset => !candidate.is_empty() && candidate.is_subset(given),
            Self::Superset => candidate.is_superset(given),
            Self::Any => !given.is_disjoint(candidate),
        }
    }
}

impl EntryFilter {
    /// Checks the IDs in the filter, as SPIRE words it.
    ///
    /// # Errors
    /// An ID is not of this trust domain.
    pub fn check(&self, rules: &EntryRules) -> Result<(), EntryError> {
        if let Some(id) = &self.parent_id {
            check_member(&rules.trust_domain, id).map_err(EntryError::ParentId)?;
        }
        if let Some(id) = &self.spiffe_id {
            check_workload(&rules.trust_domain, id).map_err(EntryError::SpiffeId)?;
        }
        Ok(())
    }

    /// Tells whether an entry is chosen.
    pub fn admits(&self, entry: &RegistrationEntry) -> bool {
        self.spiffe_id.as_ref().is_none_or(|id| *id == entry.spiffe_id)
            && self.parent_id.as_ref().is_none_or(|id| *id == entry.parent_id)
            && self.hint.as_ref().is_none_or(|hint| *hint == entry.hint)
            && self.downstream.is_none_or(|downstream| downstream == entry.downstream)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(how, given)| how.holds(given, &entry.selectors.iter().cloned().collect()))
            && self
                .federates_with
                .as_ref()
                .is_none_or(|(how, given)| how.holds(given, &entry.federates_with.iter().cloned().collect()))
    }
}

#[cfg(test)]
mod tests;
