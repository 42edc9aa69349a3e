//! Changes of the store that wait to be written, the newest of each record.

use self::by_key::ByKey;
use broker_core::{Change, Durability, Record, RecordKey, StoreBatch};
use bytes::BytesMut;

mod by_key;

/// What is to become of one record.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It is new: if it is removed before it was written, neither has to be.
    Created(Record),
    Replaced(Record),
    Removed,
}

/// An outcome and what it has to survive; [`Durability::None`] when nobody waits for it.
type Wanted = (Durability, Outcome);

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
    outcomes: ByKey<Wanted>,
    /// How many have to survive the end of the process, and how many loss of power.
    awaited: [usize; 2],
    /// How many records were new, and how many of those were removed again.
    created: usize,
    undone: usize,
    /// The last ticket among them.
    pub(crate) ticket: u64,
    /// Bytes they take, about.
    pub(crate) bytes: usize,
}

impl Pending {
    /// Whether there is nothing to do and nobody to tell.
    pub(crate) fn is_idle(&self) -> bool {
        self.ticket == 0
    }

    /// What they have to survive together, of what was not undone since.
    pub(crate) fn level(&self) -> Durability {
        match self.awaited {
            [0, 0] => Durability::None,
            [_, 0] => Durability::ProcessCrash,
            _ => Durability::PowerLoss,
        }
    }

    /// Whether most of what came was undone before it was written.
    pub(crate) fn is_mostly_undone(&self) -> bool {
        self.undone > self.created / 2
    }

    /// Whether there is nothing to write: everything that came was undone since.
    pub(crate) fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    pub(crate) fn add(&mut self, batch: StoreBatch) {
        self.ticket = self.ticket.max(batch.ticket);
        for (level, change) in batch.changes {
            match change {
                Change::Create(key, record) => self.set(key, (level, Outcome::Created(record))),
                Change::Replace(key, record) => self.set(key, (level, Outcome::Replaced(record))),
                Change::Remove(key) => self.set(key, (level, Outcome::Removed)),
            }
        }
    }

    /// Takes back what could not be written; what came since is newer.
    pub(crate) fn add_older(&mut self, mut older: Self) {
        std::mem::swap(self, &mut older);
        let mut newer = older;
        self.ticket = self.ticket.max(newer.ticket);
        for (key, outcome) in newer.outcomes.drain() {
            self.set(key, outcome);
        }
    }

    /// Lets go of all of it, and keeps the room for as much.
    pub(crate) fn emptied(mut self) -> Self {
        self.outcomes.drain().for_each(drop);
        Self { outcomes: self.outcomes, ..Self::default() }
    }

    fn set(&mut self, key: RecordKey, (level, next): Wanted) {
        let (level, next) = match self.outcomes.remove(&key) {
            None => {
                self.created += usize::from(matches!(next, Outcome::Created(_)));
                (level, next)
            }
            Some((before, outcome)) => {
                let was_new = matches!(outcome, Outcome::Created(_));
                self.bytes = self.bytes.saturating_sub(outcome.cost());
                uncount(&mut self.awaited, before);
                let next = match next {
                    Outcome::Removed if was_new => {
                        self.undone += 1;
                        return;
                    }
                    Outcome::Created(record) | Outcome::Replaced(record) if was_new => {
                        Outcome::Created(record)
                    }
                    // What stands for a record that is on disk stays so.
                    Outcome::Created(record) => Outcome::Replaced(record),
                    next => next,
                };
                (level.max(before), next)
            }
        };
        self.bytes += next.cost();
        count(&mut self.awaited, level);
        self.outcomes.insert(key, (level, next));
    }

    /// Returns the changes as they are to be written, in the order of their keys.
    pub(crate) fn batch(&self) -> midge_store::Batch {
        let mut outcomes: Vec<_> = self.outcomes.iter().map(|(key, (_, outcome))| (key, outcome)).collect();
        outcomes.sort_unstable_by_key(|(key, _)| **key);
        let mut batch = midge_store::Batch::new();
        let mut bytes = BytesMut::new();
        for (key, outcome) in outcomes {
            let (Outcome::Created(record) | Outcome::Replaced(record)) = outcome else {
                batch = batch.delete(key);
                continue;
            };
            bytes.clear();
            match record.encode_into(&mut bytes) {
                Ok(()) => batch = batch.put(key, &bytes),
                Err(error) => tracing::error!(%key, %error, "a record cannot be written and is left out"),
            }
        }
        batch
    }
}

fn place(awaited: &mut [usize; 2], level: Durability) -> Option<&mut usize> {
    let [process_crash, power_loss] = awaited;
    match level {
        Durability::None => None,
        Durability::ProcessCrash => Some(process_crash),
        Durability::PowerLoss => Some(power_loss),
    }
}

fn count(awaited: &mut [usize; 2], level: Durability) {
    if let Some(count) = place(awaited, level) {
        *count += 1;
    }
}

fn uncount(awaited: &mut [usize; 2], level: Durability) {
    if let Some(count) = place(awaited, level) {
        *count = count.saturating_sub(1);
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
        let changes = changes.into_iter().map(|change| (Durability::ProcessCrash, change)).collect();
        pending.add(StoreBatch { ticket: 1, changes });
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
        assert!(undone.is_empty() && !undone.is_idle() && undone.is_mostly_undone());
        assert!(!pending(vec![create(1), create(2), remove(1)]).is_mostly_undone());
        assert_eq!((undone.bytes, undone.level()), (0, Durability::None), "nobody has to wait any more");
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
    fn what_nobody_waits_for_is_awaited_with_what_it_replaces() {
        let levels = |changes: Vec<(Durability, Change)>| {
            let mut pending = Pending::default();
            pending.add(StoreBatch { ticket: 1, changes });
            pending.level()
        };
        let (none, safe) = (Durability::None, Durability::PowerLoss);
        assert_eq!(levels(vec![(none, remove(1))]), none);
        assert_eq!(levels(vec![(safe, replace(1)), (none, replace(1))]), safe);
        assert_eq!(levels(vec![(safe, replace(1)), (none, remove(1))]), safe);
        assert_eq!(
            levels(vec![(Durability::ProcessCrash, create(2)), (safe, create(1)), (none, remove(1))]),
            { Durability::ProcessCrash }
        );
    }

    #[test]
    fn what_could_not_be_written_is_merged_below_what_came_since() {
        let mut newer = pending(vec![remove(1), remove(2), replace(3)]);
        newer.ticket = 2;
        let mut older = Pending::default();
        let changes = vec![create(1), replace(2), create(3), create(4)];
        let changes = changes.into_iter().map(|change| (Durability::PowerLoss, change)).collect();
        older.add(StoreBatch { ticket: 1, changes });
        newer.add_older(older);
        assert_eq!((newer.ticket, newer.level()), (2, Durability::PowerLoss));
        let expected = [
            (2, Outcome::Removed),
            (3, Outcome::Created(Record::Retained)),
            (4, Outcome::Created(Record::Retained)),
        ];
        let expected = expected.map(|(number, outcome)| (key(number), (Durability::PowerLoss, outcome)));
        assert_eq!(newer.bytes, newer.outcomes.iter().map(|(_, (_, outcome))| outcome.cost()).sum::<usize>());
        assert_eq!(newer.awaited, [0, 3]);
        let mut outcomes: Vec<_> = newer.outcomes.drain().collect();
        outcomes.sort_unstable_by_key(|(key, _)| *key);
        assert_eq!(outcomes, expected);
    }
}
