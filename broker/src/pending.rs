//! Changes of the store that wait to be written, the newest of each record.

use broker_core::{Change, Durability, Record, RecordKey, StoreBatch};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What is to become of one record.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It is new: if it is removed before it was written, neither has to be.
    Created(Record),
    Replaced(Record),
    Removed,
}

impl Outcome {
    fn cost(&self) -> usize {
        const KEY: usize = 64;
        match self {
            Self::Created(record) | Self::Replaced(record) => KEY + record.cost(),
            Self::Removed => KEY,
        }
    }
}

/// Changes that wait to be written together.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    outcomes: HashMap<RecordKey, Outcome>,
    /// The last ticket among them.
    pub(crate) ticket: u64,
    pub(crate) level: Durability,
    /// Bytes they take, about.
    pub(crate) bytes: usize,
}

impl Pending {
    /// Whether there is nothing to do and nobody to tell.
    pub(crate) fn is_idle(&self) -> bool {
        self.ticket == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether somebody waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.level != Durability::None
    }

    /// Whether there is nothing to write: everything that came was undone since.
    pub(crate) fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    pub(crate) fn add(&mut self, batch: StoreBatch) {
        self.ticket = self.ticket.max(batch.ticket);
        self.level = self.level.max(batch.level);
        for change in batch.changes {
            match change {
                Change::Create(key, record) => self.set(key, Outcome::Created(record)),
                Change::Replace(key, record) => self.set(key, Outcome::Replaced(record)),
                Change::Remove(key) => self.set(key, Outcome::Removed),
            }
        }
    }

    /// Takes back what could not be written; what came since is newer.
    pub(crate) fn add_older(&mut self, mut older: Self) {
        self.ticket = self.ticket.max(older.ticket);
        self.level = self.level.max(older.level);
        std::mem::swap(&mut self.outcomes, &mut older.outcomes);
        std::mem::swap(&mut self.bytes, &mut older.bytes);
        for (key, outcome) in older.outcomes {
            self.set(key, outcome);
        }
    }

    fn set(&mut self, key: RecordKey, next: Outcome) {
        match self.outcomes.entry(key) {
            Entry::Vacant(place) => {
                self.bytes += next.cost();
                place.insert(next);
            }
            Entry::Occupied(mut place) => {
                let was_new = matches!(place.get(), Outcome::Created(_));
                self.bytes = self.bytes.saturating_sub(place.get().cost());
                let next = match next {
                    Outcome::Removed if was_new => {
                        place.remove();
                        return;
                    }
                    Outcome::Created(record) | Outcome::Replaced(record) if was_new => {
                        Outcome::Created(record)
                    }
                    // What stands for a record that is on disk stays so.
                    Outcome::Created(record) => Outcome::Replaced(record),
                    next => next,
                };
                self.bytes += next.cost();
                place.insert(next);
            }
        }
    }

    /// Returns the changes as they are to be written, in the order of their keys.
    pub(crate) fn batch(&self) -> midge_store::Batch {
        let mut outcomes: Vec<_> = self.outcomes.iter().collect();
        outcomes.sort_unstable_by_key(|(key, _)| **key);
        let mut batch = midge_store::Batch::new();
        for (key, outcome) in outcomes {
            let (Outcome::Created(record) | Outcome::Replaced(record)) = outcome else {
                batch = batch.delete(key.to_string());
                continue;
            };
            match record.encode() {
                Ok(bytes) => batch = batch.put(key.to_string(), bytes),
                Err(error) => tracing::error!(%key, %error, "a record cannot be written and is left out"),
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_store::Batch;

    fn key(number: u64) -> RecordKey {
        RecordKey::parse(&format!("r/{number:016x}")).unwrap()
    }

    fn pending(changes: Vec<Change>) -> Pending {
        let mut pending = Pending::default();
        pending.add(StoreBatch { ticket: 1, level: Durability::ProcessCrash, changes });
        pending
    }

    fn create(number: u64) -> Change {
        Change::Create(key(number), Record::Retained)
    }

    fn replace(number: u64) -> Change {
        Change::Replace(key(number), Record::Retained)
    }

    fn remove(number: u64) -> Change {
        Change::Remove(key(number))
    }

    #[test]
    fn what_was_created_and_removed_is_never_written() {
        let undone = pending(vec![create(1), remove(1)]);
        assert!(undone.is_empty() && !undone.is_idle());
        assert_eq!(undone.bytes, 0);
        assert_eq!(pending(vec![create(1), replace(1), remove(1)]).batch().len(), 0);
    }

    #[test]
    fn what_may_be_on_disk_is_removed_there() {
        for changes in [vec![remove(1)], vec![replace(1), remove(1)], vec![remove(1), create(1), remove(1)]] {
            let pending = pending(changes);
            assert_eq!(
                format!("{:?}", pending.batch()),
                format!("{:?}", Batch::new().delete(key(1).to_string()))
            );
        }
    }

    #[test]
    fn what_could_not_be_written_is_merged_below_what_came_since() {
        let mut newer = pending(vec![remove(1), remove(2), replace(3)]);
        newer.ticket = 2;
        let mut older = pending(vec![create(1), replace(2), create(3), create(4)]);
        older.level = Durability::PowerLoss;
        newer.add_older(older);
        assert_eq!((newer.ticket, newer.level), (2, Durability::PowerLoss));
        let expected = [
            (2, Outcome::Removed),
            (3, Outcome::Created(Record::Retained)),
            (4, Outcome::Created(Record::Retained)),
        ];
        assert_eq!(newer.outcomes, expected.map(|(number, outcome)| (key(number), outcome)).into());
        assert_eq!(newer.bytes, newer.outcomes.values().map(Outcome::cost).sum::<usize>());
    }
}
