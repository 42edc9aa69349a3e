//! A store for the broker in virtual time: what was committed, as bytes, and what was not yet.

use broker_core::{Change, OutgoingState, Record, RecordKey, RecordKind, StoreBatch};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct Disk {
    records: BTreeMap<RecordKey, Vec<u8>>,
    /// Batches that are on their way.
    pub(crate) pending: Vec<StoreBatch>,
    /// Whether batches are stored as they come.
    pub(crate) is_quick: bool,
    /// Whether everything is checked at every batch.
    pub(crate) is_checked: bool,
}

impl Default for Disk {
    fn default() -> Self {
        Self { records: BTreeMap::new(), pending: Vec::new(), is_quick: true, is_checked: true }
    }
}

impl Disk {
    /// Stores what waits and returns its last ticket.
    pub(crate) fn commit(&mut self) -> Option<u64> {
        self.commit_some(usize::MAX)
    }

    /// Stores at most so many batches and returns the last ticket.
    pub(crate) fn commit_some(&mut self, count: usize) -> Option<u64> {
        let mut last = None;
        let count = count.min(self.pending.len());
        for batch in self.pending.drain(..count).collect::<Vec<_>>() {
            last = Some(batch.ticket);
            batch.changes.into_iter().for_each(|(_, change)| self.apply(change));
            if self.is_checked {
                self.check();
            }
        }
        last
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Create(key, record) => {
                let before = self.records.insert(key, record.encode().unwrap());
                assert!(before.is_none(), "{key} was used before");
            }
            Change::Replace(key, record) => {
                self.records.insert(key, record.encode().unwrap());
            }
            Change::Remove(key) => {
                self.records.remove(&key);
            }
        }
    }

    /// Nothing refers to what is not there, and nothing is there that nothing refers to.
    pub(crate) fn check(&self) {
        let (mut linked, mut messages) = (BTreeSet::new(), BTreeSet::new());
        for (key, record) in self.read() {
            if key.kind.is_owned() {
                let owner = RecordKey { kind: RecordKind::Session, owner: 0, number: key.owner };
                assert!(self.records.contains_key(&owner), "{key} belongs to no session");
            }
            match record {
                Record::Message(_) => drop(messages.insert(key.number)),
                Record::Retained => drop(linked.insert(key.number)),
                Record::Queued(queued) | Record::Lent(queued) => drop(linked.insert(queued.message)),
                Record::Outgoing(outgoing) => {
                    if let OutgoingState::Published(queued) = outgoing.state {
                        linked.insert(queued.message);
                    }
                }
                _ => {}
            }
        }
        assert_eq!(linked, messages, "messages referred to, and messages stored");
    }

    pub(crate) fn read(&self) -> Vec<(RecordKey, Record)> {
        let records = self.records.iter();
        records.map(|(key, bytes)| (*key, Record::decode(*key, bytes).unwrap())).collect()
    }

    /// Changes what is stored.
    pub(crate) fn edit(&mut self, edit: impl Fn(&mut Record)) {
        for (key, bytes) in &mut self.records {
            let mut record = Record::decode(*key, bytes).unwrap();
            edit(&mut record);
            *bytes = record.encode().unwrap();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The keys in text form, shortened to kinds: `smq`.
    pub(crate) fn kinds(&self) -> String {
        self.records.keys().map(|key| key.to_string().remove(0)).collect()
    }
}
