use crate::error::StoreError;
use crate::limits::{BATCH_BYTES_MAX, KEY_BYTES_MAX};

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The end of this process, by any signal or panic: the write is in the operating system's cache.
    ProcessCrash,
    /// Loss of power at any moment: the write is on stable storage.
    PowerLoss,
}

/// Changes that become visible and durable together, in order, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write of `value` under `key`, replacing what was there.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        let (key, value) = (key.into(), value.into());
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(value.len());
        self.changes.push(Change::Put { key, value });
        self
    }

    /// Adds the removal of `key`; a key that is not there is no error.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.bytes = self.bytes.saturating_add(key.len());
        self.changes.push(Change::Delete { key });
        self
    }

    /// Appends the changes of another batch.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.changes.extend(other.changes);
        self
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.bytes > BATCH_BYTES_MAX {
            return Err(StoreError::BatchTooLarge { bytes: self.bytes, max: BATCH_BYTES_MAX });
        }
        for change in &self.changes {
            let (Change::Put { key, .. } | Change::Delete { key }) = change;
            if key.is_empty() || key.len() > KEY_BYTES_MAX {
                return Err(StoreError::KeyLength { bytes: key.len(), max: KEY_BYTES_MAX });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_keys_and_values_of_both_batches() {
        let batch = Batch::new().put("ab", "cde").merge(Batch::new().delete("xy"));
        assert_eq!((batch.bytes(), batch.len(), batch.is_empty()), (7, 2, false));
    }

    #[test]
    fn over_long_and_empty_keys_are_refused() {
        assert!(Batch::new().put("k".repeat(KEY_BYTES_MAX), "v").check().is_ok());
        assert!(matches!(
            Batch::new().put("k".repeat(KEY_BYTES_MAX + 1), "v").check(),
            Err(StoreError::KeyLength { bytes: 1025, .. })
        ));
        assert!(matches!(Batch::new().delete("").check(), Err(StoreError::KeyLength { bytes: 0, .. })));
    }

    #[test]
    fn over_large_batch_is_refused() {
        let batch = Batch::new().put("k", vec![0; BATCH_BYTES_MAX]);
        assert!(matches!(batch.check(), Err(StoreError::BatchTooLarge { .. })));
    }
}
