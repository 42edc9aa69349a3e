//! The log of changes of one node, at the cloud end.
//!
//! Holds the newest change of every resource in order of revision, tombstones included. A cursor
//! older than the oldest kept tombstone needs a snapshot.

use crate::{Change, Cursor, Operation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What of a log is stored beside its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Random id of the log.
    pub id: String,
    /// Revision of the newest change.
    pub revision: u64,
    /// Revision of the newest dropped tombstone: cursors before it need a snapshot.
    pub floor: u64,
}

impl LogHead {
    /// Returns the head of an empty log.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), revision: 0, floor: 0 }
    }
}

/// How a session continues from a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The changes after this revision.
    Delta(u64),
    /// Everything.
    Snapshot,
}

/// The newest change of every resource of one node.
#[derive(Clone, Debug)]
pub struct NodeLog {
    head: LogHead,
    changes: BTreeMap<u64, Change>,
    revisions: BTreeMap<String, u64>,
    tombstones: usize,
}

impl NodeLog {
    /// Returns an empty log.
    pub fn new(id: impl Into<String>) -> Self {
        Self::restore(LogHead::new(id), [])
    }

    /// Returns the log as it was stored, in any order.
    pub fn restore(head: LogHead, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut log = Self { head, changes: BTreeMap::new(), revisions: BTreeMap::new(), tombstones: 0 };
        for change in changes {
            log.insert(change);
        }
        log
    }

    /// Head, to be stored with every appended change.
    pub fn head(&self) -> &LogHead {
        &self.head
    }

    /// Makes the next change and takes it in.
    pub fn append(&mut self, resource: impl Into<String>, operation: Operation, content: Value) -> Change {
        let revision = self.head.revision.saturating_add(1);
        let change = Change { revision, resource: resource.into(), operation, content };
        self.insert(change.clone());
        change
    }

    /// Takes in a change that has its revision; an older one than the known one of its resource is dropped.
    pub fn insert(&mut self, change: Change) {
        self.head.revision = self.head.revision.max(change.revision);
        match self.revisions.get(&change.resource) {
            Some(&known) if known >= change.revision => return,
            Some(&known) => {
                if let Some(old) = self.changes.remove(&known)
                    && old.operation == Operation::Delete
                {
                    self.tombstones = self.tombstones.saturating_sub(1);
                }
            }
            None => {}
        }
        if change.operation == Operation::Delete {
            self.tombstones = self.tombstones.saturating_add(1);
        }
        self.revisions.insert(change.resource.clone(), change.revision);
        self.changes.insert(change.revision, change);
    }

    /// Newest change of a resource.
    pub fn change(&self, resource: &str) -> Option<&Change> {
        self.changes.get(self.revisions.get(resource)?)
    }

    /// Changes after a revision, in order.
    pub fn after(&self, revision: u64) -> impl Iterator<Item = &Change> {
        self.changes.range((Bound::Excluded(revision), Bound::Unbounded)).map(|(_, change)| change)
    }

    /// Resources that exist.
    pub fn live(&self) -> impl Iterator<Item = &Change> {
        self.changes.values().filter(|change| change.operation != Operation::Delete)
    }

    /// Drops the oldest tombstones beyond `keep` and returns their resources, to be deleted from disk
    /// together with storing the new head.
    pub fn compact(&mut self, keep: usize) -> Vec<String> {
        let excess = self.tombstones.saturating_sub(keep);
        let doomed: Vec<u64> = self
            .changes
            .iter()
            .filter(|(_, change)| change.operation == Operation::Delete)
            .map(|(&revision, _)| revision)
            .take(excess)
            .collect();
        let mut resources = Vec::with_capacity(doomed.len());
        for revision in doomed {
            if let Some(change) = self.changes.remove(&revision) {
                self.revisions.remove(&change.resource);
                self.tombstones = self.tombstones.saturating_sub(1);
                self.head.floor = self.head.floor.max(revision);
                resources.push(change.resource);
            }
        }
        resources
    }

    /// How to continue from a cursor.
    pub fn resume(&self, cursor: &Cursor) -> Resume {
        let known = cursor.log == self.head.id && cursor.revision <= self.head.revision;
        if known && cursor.revision >= self.head.floor {
            Resume::Delta(cursor.revision)
        } else {
            Resume::Snapshot
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(log: &str, revision: u64) -> Cursor {
        Cursor { log: log.into(), revision }
    }

    #[test]
    fn newest_wins_per_resource() {
        let mut log = NodeLog::new("l");
        log.append("a", Operation::Insert, 1.into());
        log.append("b", Operation::Insert, 2.into());
        let newest = log.append("a", Operation::Update, 3.into());
        let left: Vec<_> = log.after(0).map(|c| (c.revision, c.resource.as_str())).collect();
        assert_eq!(left, [(2, "b"), (3, "a")]);
        log.insert(Change {
            revision: 1,
            resource: "a".into(),
            operation: Operation::Insert,
            content: 1.into(),
        });
        assert_eq!(log.change("a"), Some(&newest));
    }

    #[test]
    fn a_cursor_before_a_dropped_tombstone_needs_a_snapshot() {
        let mut log = NodeLog::new("l");
        for resource in ["a", "b", "c"] {
            log.append(resource, Operation::Insert, Value::Null);
        }
        log.append("a", Operation::Delete, Value::Null);
        log.append("b", Operation::Delete, Value::Null);
        assert_eq!(log.compact(1), ["a"]);
        assert_eq!(log.resume(&cursor("l", 3)), Resume::Snapshot);
        assert_eq!(log.resume(&cursor("l", 4)), Resume::Delta(4));
        assert_eq!(log.live().count(), 1);
        assert_eq!(log.compact(1), Vec::<String>::new());
    }

    #[test]
    fn a_cursor_of_another_log_or_of_the_future_needs_a_snapshot() {
        let mut log = NodeLog::new("l");
        log.append("a", Operation::Insert, Value::Null);
        assert_eq!(log.resume(&cursor("other", 1)), Resume::Snapshot);
        assert_eq!(log.resume(&cursor("l", 2)), Resume::Snapshot);
        assert_eq!(log.resume(&cursor("l", 1)), Resume::Delta(1));
        assert_eq!(log.resume(&Cursor::default()), Resume::Snapshot);
    }

    #[test]
    fn a_restored_log_is_the_same_log() {
        let mut log = NodeLog::new("l");
        log.append("a", Operation::Insert, Value::Null);
        log.append("b", Operation::Delete, Value::Null);
        let again = NodeLog::restore(log.head().clone(), log.after(0).cloned().collect::<Vec<_>>());
        assert_eq!(again.head(), log.head());
        assert_eq!(again.after(0).collect::<Vec<_>>(), log.after(0).collect::<Vec<_>>());
        assert_eq!(again.tombstones, 1);
    }
}
