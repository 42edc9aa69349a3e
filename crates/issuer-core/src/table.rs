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
mod tests {
    use super::*;
    use midge_identity::TrustDomain;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn id(path: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://plant{path}")).unwrap()
    }

    fn table(cloud_is_elsewhere: bool) -> EntryTable {
        EntryTable::new(EntryRules {
            trust_domain: TrustDomain::new("plant").unwrap(),
            boxes_are_scoped: false,
            cloud_is_elsewhere,
            own_node: None,
            grant_fault: |_| None,
        })
    }

    fn selectors(list: &[&str]) -> Vec<Selector> {
        list.iter().map(|text| Selector { kind: "unix".to_owned(), value: (*text).to_owned() }).collect()
    }

    fn draft(path: &str, parent: &str, list: &[&str]) -> RegistrationEntry {
        let text = serde_json::json!({
            "id": "", "spiffe_id": id(path).to_string(), "parent_id": id(parent).to_string(),
            "selectors": selectors(list),
        });
        serde_json::from_value(text).unwrap()
    }

    fn create(
        table: &mut EntryTable,
        entry_id: &str,
        entry: RegistrationEntry,
        origin: Origin,
    ) -> Arc<RegistrationEntry> {
        let change = table.plan_create(entry, entry_id.to_owned(), origin, NOW).unwrap();
        table.apply(&change);
        change.after.unwrap()
    }

    fn ids(entries: &[Arc<RegistrationEntry>]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    fn served(table: &EntryTable, agent: &str) -> Vec<String> {
        let agent = id(agent);
        let upwards = table.iter().filter(|entry| table.is_served_by(entry, &agent));
        let upwards: Vec<String> = upwards.map(|entry| entry.id.clone()).collect();
        assert_eq!(ids(&table.served_by(&agent)), upwards);
        upwards
    }

    #[test]
    fn a_created_entry_has_id_time_owner_and_revision_zero() {
        let mut table = table(false);
        let mut entry = draft("/edge/b/app", "/edge/b", &["uid:1"]);
        entry.revision_number = 77;
        entry.created_at = 5;
        let made = create(&mut table, "e1", entry, Origin::Edge);
        assert_eq!((made.id.as_str(), made.revision_number, made.created_at), ("e1", 0, 1_700_000_000));
        assert_eq!(table.find("e1"), Some(&made));
        assert_eq!((table.len(), table.is_empty()), (1, false));
    }

    #[test]
    fn planning_changes_nothing() {
        let table = table(false);
        table.plan_create(draft("/a", "/p", &["uid:1"]), "e1".to_owned(), Origin::Edge, NOW).unwrap();
        assert!(table.is_empty());
    }

    #[test]
    fn a_given_entry_id_is_kept() {
        let mut table = table(false);
        let entry = RegistrationEntry { id: "mine".to_owned(), ..draft("/a", "/p", &["uid:1"]) };
        assert_eq!(create(&mut table, "other", entry, Origin::Edge).id, "mine");
    }

    #[test]
    fn a_similar_entry_is_returned_instead() {
        let mut table = table(false);
        let made = create(&mut table, "e1", draft("/a", "/p", &["uid:1", "gid:2"]), Origin::Edge);
        let again = draft("/a", "/p", &["gid:2", "uid:1", "uid:1"]);
        let error = table.plan_create(again, "e2".to_owned(), Origin::Edge, NOW).unwrap_err();
        assert_eq!(error, EntryError::Similar(made));
        assert_eq!(error.to_string(), "similar entry already exists");
    }

    #[test]
    fn entries_differ_by_id_parent_or_selectors() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        create(&mut table, "e2", draft("/b", "/p", &["uid:1"]), Origin::Edge);
        create(&mut table, "e3", draft("/a", "/q", &["uid:1"]), Origin::Edge);
        create(&mut table, "e4", draft("/a", "/p", &["uid:1", "gid:1"]), Origin::Edge);
        assert_eq!(table.len(), 4);
    }

    #[test]
    fn an_entry_id_is_taken_once() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        let error = table.plan_create(draft("/b", "/p", &["uid:1"]), "e1".to_owned(), Origin::Edge, NOW);
        assert!(matches!(error, Err(EntryError::Similar(_))));
    }

    #[test]
    fn entries_of_one_batch_are_held_against_each_other() {
        let table = table(false);
        let drafts = [
            (draft("/a", "/p", &["uid:1"]), "e1".to_owned()),
            (draft("/a", "/p", &["uid:1"]), "e2".to_owned()),
            (draft("", "/p", &["uid:1"]), "e3".to_owned()),
            (draft("/b", "/p", &["uid:1"]), "e4".to_owned()),
        ];
        let planned = table.plan_create_all(drafts, Origin::Edge, NOW);
        let outcome: Vec<bool> = planned.iter().map(Result::is_ok).collect();
        assert_eq!(outcome, [true, false, false, true]);
        assert!(matches!(planned.get(1), Some(Err(EntryError::Similar(first))) if first.id == "e1"));
    }

    #[test]
    fn an_update_bumps_the_revision_and_keeps_what_is_the_servers() {
        let mut table = table(false);
        let made = create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        let change = table
            .plan_update(
                "e1",
                |entry| {
                    entry.id = "stolen".to_owned();
                    entry.origin = Origin::Builtin;
                    entry.created_at = 0;
                    entry.revision_number = 50;
                    entry.spiffe_id = id("/b");
                    entry.publish = vec!["t".to_owned()];
                },
                NOW,
            )
            .unwrap();
        table.apply(&change);
        let after = table.find("e1").unwrap();
        assert_eq!(
            (after.revision_number, after.created_at, after.origin),
            (1, made.created_at, Origin::Edge)
        );
        assert_eq!(after.spiffe_id, id("/b"));
        assert!(table.is_registered(&id("/b")) && !table.is_registered(&id("/a")));
        assert_eq!(change.before, Some(made));
    }

    #[test]
    fn an_update_follows_the_rules_too() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        assert_eq!(
            table.plan_update("e1", |entry| entry.selectors.clear(), NOW),
            Err(EntryError::NoSelectors)
        );
        assert_eq!(table.plan_update("none", |_| {}, NOW), Err(EntryError::NotFound));
    }

    #[test]
    fn a_deleted_entry_is_gone_from_every_index() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        let change = table.plan_delete("e1").unwrap();
        assert_eq!(change.id(), "e1");
        table.apply(&change);
        assert!(table.is_empty() && !table.is_registered(&id("/a")) && table.served_by(&id("/p")).is_empty());
        assert_eq!(table.plan_delete("e1"), Err(EntryError::NotFound));
        create(&mut table, "e2", draft("/a", "/p", &["uid:1"]), Origin::Edge);
    }

    #[test]
    fn two_entries_of_one_identity_do_not_hide_each_other() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        create(&mut table, "e2", draft("/a", "/p", &["uid:2"]), Origin::Edge);
        let change = table.plan_delete("e1").unwrap();
        table.apply(&change);
        assert!(table.is_registered(&id("/a")));
    }

    #[test]
    fn entries_of_the_cloud_are_read_only_on_the_edge() {
        let mut table = table(true);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Cloud);
        let error = table.plan_delete("e1").unwrap_err();
        assert_eq!(error.to_string(), "entry is managed by the cloud: change it there");
        assert_eq!(table.plan_update("e1", |_| {}, NOW), Err(EntryError::ManagedByCloud));
    }

    #[test]
    fn the_cloud_may_change_its_own() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Cloud);
        assert!(table.plan_update("e1", |_| {}, NOW).is_ok() && table.plan_delete("e1").is_ok());
    }

    #[test]
    fn builtin_entries_cannot_be_changed() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/p", &["uid:1"]), Origin::Builtin);
        assert_eq!(table.plan_delete("e1"), Err(EntryError::Builtin));
    }

    #[test]
    fn what_the_cloud_sends_replaces_and_keeps_its_revision() {
        let mut table = table(true);
        let sent =
            RegistrationEntry { id: "c1".to_owned(), revision_number: 7, ..draft("/a", "/p", &["uid:1"]) };
        let change = table.plan_cloud_upsert(sent.clone()).unwrap();
        table.apply(&change);
        let held = table.find("c1").unwrap();
        assert_eq!((held.revision_number, held.origin), (7, Origin::Cloud));
        let newer = RegistrationEntry { revision_number: 8, parent_id: id("/q"), ..sent };
        let change = table.plan_cloud_upsert(newer).unwrap();
        assert!(change.before.is_some());
        table.apply(&change);
        assert!(table.served_by(&id("/p")).is_empty());
        assert_eq!(served(&table, "/q"), ["c1"]);
    }

    #[test]
    fn the_cloud_deletes_only_its_own() {
        let mut table = table(true);
        create(&mut table, "mine", draft("/a", "/p", &["uid:1"]), Origin::Edge);
        create(&mut table, "theirs", draft("/b", "/p", &["uid:1"]), Origin::Cloud);
        assert_eq!(table.plan_cloud_delete("mine"), None);
        assert_eq!(table.plan_cloud_delete("absent"), None);
        assert!(table.plan_cloud_delete("theirs").is_some());
    }

    #[test]
    fn expired_entries_are_cleaned_away_but_not_the_clouds() {
        let mut table = table(true);
        let expiring =
            |path| RegistrationEntry { expires_at: 1_700_000_010, ..draft(path, "/p", &["uid:1"]) };
        create(&mut table, "e1", expiring("/a"), Origin::Edge);
        create(&mut table, "e2", expiring("/b"), Origin::Cloud);
        create(&mut table, "e3", draft("/c", "/p", &["uid:1"]), Origin::Edge);
        assert!(table.plan_expired(NOW).is_empty());
        let late = NOW.after(std::time::Duration::from_secs(10));
        let expired: Vec<String> =
            table.plan_expired(late).iter().map(|change| change.id().to_owned()).collect();
        assert_eq!(expired, ["e1"]);
    }

    #[test]
    fn an_agent_serves_its_children_and_theirs() {
        let mut table = table(false);
        create(&mut table, "alias", draft("/group", "/edge/b", &["uid:1"]), Origin::Edge);
        create(&mut table, "child", draft("/app", "/group", &["uid:2"]), Origin::Edge);
        create(&mut table, "other", draft("/app", "/edge/c", &["uid:2"]), Origin::Edge);
        assert_eq!(served(&table, "/edge/b"), ["alias", "child"]);
        assert_eq!(served(&table, "/group"), ["child"]);
    }

    #[test]
    fn a_cycle_of_parents_ends() {
        let mut table = table(false);
        create(&mut table, "e1", draft("/a", "/b", &["uid:1"]), Origin::Edge);
        create(&mut table, "e2", draft("/b", "/a", &["uid:1"]), Origin::Edge);
        assert_eq!(served(&table, "/a"), ["e1", "e2"]);
    }

    #[test]
    fn a_box_does_not_serve_what_another_hosts_agent_attests() {
        let mut table = table(false);
        create(&mut table, "agent", draft("/edge/b/agent/h", "/edge/b", &["uid:1"]), Origin::Edge);
        create(&mut table, "there", draft("/edge/b/app/x", "/edge/b/agent/h", &["uid:2"]), Origin::Edge);
        assert_eq!(served(&table, "/edge/b"), ["agent"]);
        assert_eq!(served(&table, "/edge/b/agent/h"), ["there"]);
    }

    #[test]
    fn filters_narrow_a_listing() {
        let mut table = table(false);
        table.set_federated(BTreeSet::from(["other".to_owned()]));
        let special = RegistrationEntry {
            hint: "h".to_owned(),
            downstream: true,
            federates_with: vec!["other".to_owned()],
            ..draft("/a", "/p", &["uid:1", "gid:1"])
        };
        create(&mut table, "e1", special, Origin::Edge);
        create(&mut table, "e2", draft("/b", "/q", &["uid:1"]), Origin::Edge);
        let chosen = |filter: EntryFilter| {
            table
                .iter()
                .filter(|entry| filter.admits(entry))
                .map(|entry| entry.id.clone())
                .collect::<Vec<_>>()
        };
        let none = EntryFilter::default;
        let by = |how, list: &[&str]| Some((how, selectors(list).into_iter().collect()));
        assert_eq!(chosen(none()), ["e1", "e2"]);
        assert_eq!(chosen(EntryFilter { spiffe_id: Some(id("/a")), ..none() }), ["e1"]);
        assert_eq!(chosen(EntryFilter { parent_id: Some(id("/q")), ..none() }), ["e2"]);
        assert_eq!(chosen(EntryFilter { hint: Some("h".to_owned()), ..none() }), ["e1"]);
        assert_eq!(chosen(EntryFilter { downstream: Some(false), ..none() }), ["e2"]);
        assert_eq!(chosen(EntryFilter { selectors: by(SetMatch::Exact, &["uid:1"]), ..none() }), ["e2"]);
        assert_eq!(
            chosen(EntryFilter { selectors: by(SetMatch::Superset, &["uid:1"]), ..none() }),
            ["e1", "e2"]
        );
        assert_eq!(
            chosen(EntryFilter { selectors: by(SetMatch::Subset, &["uid:1", "gid:2"]), ..none() }),
            ["e2"]
        );
        assert_eq!(chosen(EntryFilter { selectors: by(SetMatch::Any, &["gid:1"]), ..none() }), ["e1"]);
        let federates_with = Some((SetMatch::Any, BTreeSet::from(["other".to_owned()])));
        assert_eq!(chosen(EntryFilter { federates_with, ..none() }), ["e1"]);
    }

    #[test]
    fn filters_with_foreign_ids_are_refused() {
        let table = table(false);
        let foreign = SpiffeId::new("spiffe://other/a").unwrap();
        let by_parent = EntryFilter { parent_id: Some(foreign.clone()), ..EntryFilter::default() };
        assert!(matches!(by_parent.check(table.rules()), Err(EntryError::ParentId(_))));
        let by_id = EntryFilter { spiffe_id: Some(foreign), ..EntryFilter::default() };
        assert!(matches!(by_id.check(table.rules()), Err(EntryError::SpiffeId(_))));
    }

    #[test]
    fn an_entry_survives_json() {
        let mut table = table(false);
        let entry = RegistrationEntry { publish: vec!["a/#".to_owned()], ..draft("/a", "/p", &["uid:1"]) };
        let made = create(&mut table, "e1", entry, Origin::Cloud);
        let read: RegistrationEntry = serde_json::from_slice(&serde_json::to_vec(&*made).unwrap()).unwrap();
        assert_eq!(read, *made);
        let mut restored = self::table(false);
        restored.restore(read);
        assert_eq!(restored.find("e1"), Some(&made));
    }

    #[test]
    fn a_bundle_that_goes_takes_its_name_or_the_entries_with_it_as_asked() {
        let mut table = table(false);
        table.set_federated(BTreeSet::from(["other".to_owned(), "third".to_owned()]));
        for (id, names) in [("a", vec!["other", "third"]), ("b", vec!["third"]), ("c", vec![])] {
            let federates_with = names.into_iter().map(str::to_owned).collect();
            let entry =
                RegistrationEntry { federates_with, ..draft(&format!("/{id}"), "/edge/x", &["uid:1"]) };
            create(&mut table, id, entry, Origin::Edge);
        }
        let other = TrustDomain::new("other").unwrap();
        assert_eq!(table.plan_defederate(&other, DeleteMode::Restrict), Err(FederationError::InUse(1)));
        let changes = table.plan_defederate(&other, DeleteMode::Dissociate).unwrap();
        let [change] = changes.as_slice() else { panic!("{changes:?}") };
        let after = change.after.as_ref().unwrap();
        assert_eq!((change.id(), after.revision_number), ("a", 1));
        assert_eq!(after.federates_with, ["third"]);
        let changes = table.plan_defederate(&other, DeleteMode::Delete).unwrap();
        assert!(changes.len() == 1 && changes[0].id() == "a" && changes[0].after.is_none());
        let nobody = TrustDomain::new("fourth").unwrap();
        assert_eq!(table.plan_defederate(&nobody, DeleteMode::Restrict), Ok(vec![]));
    }
}
