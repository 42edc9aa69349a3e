//! What is committed together, and what a commit survives.

use crate::error::StoreError;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::fmt::{Display, Write as _};

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
    changes: Vec<Lengths>,
    /// The keys, one behind the other.
    keys: String,
    /// The values that are written, one behind the other: a change costs no memory of its own.
    values: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Lengths {
    key: usize,
    /// None for a removal.
    value: Option<usize>,
}

/// A change of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a str,
    /// None for a removal.
    pub(crate) value: Option<&'a [u8]>,
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write of `value` under `key`, replacing what was there.
    #[must_use]
    pub fn put(mut self, key: impl Display, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.values.extend_from_slice(value);
        self.add(key, Some(value.len()));
        self
    }

    /// Adds the removal of `key`; a key that is not there is no error.
    #[must_use]
    pub fn delete(mut self, key: impl Display) -> Self {
        self.add(key, None);
        self
    }

    fn add(&mut self, key: impl Display, value: Option<usize>) {
        let start = self.keys.len();
        // Writing to a `String` does not fail.
        write!(self.keys, "{key}").unwrap_or_default();
        self.changes.push(Lengths { key: self.keys.len() - start, value });
    }

    /// Appends the changes of another batch.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.changes.extend(other.changes);
        self.keys.push_str(&other.keys);
        self.values.extend(other.values);
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
        self.keys.len().saturating_add(self.values.len())
    }

    pub(crate) fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let (mut keys, mut values) = (&*self.keys, &*self.values);
        self.changes.iter().filter_map(move |lengths| {
            let (key, later) = keys.split_at_checked(lengths.key)?;
            keys = later;
            let Some(bytes) = lengths.value else { return Some(Change { key, value: None }) };
            let (value, later) = values.split_at_checked(bytes)?;
            values = later;
            Some(Change { key, value: Some(value) })
        })
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        for Lengths { key, value } in &self.changes {
            if let Some(bytes) = value.filter(|bytes| *bytes > VALUE_BYTES_MAX) {
                return Err(StoreError::ValueTooLarge { bytes, max: VALUE_BYTES_MAX });
            }
            if !(1..=KEY_BYTES_MAX).contains(key) {
                return Err(StoreError::KeyLength { bytes: *key, max: KEY_BYTES_MAX });
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
    fn changes_are_those_that_were_made_in_their_order() {
        let batch = Batch::new().put("a", "1").delete("äb").put("c", "");
        let batch = batch.merge(Batch::new().delete("a").put(7, [1, 2]));
        let change = |key, value| Change { key, value };
        let expected: [Change<'_>; 5] = [
            change("a", Some(b"1")),
            change("äb", None),
            change("c", Some(b"")),
            change("a", None),
            change("7", Some(&[1, 2])),
        ];
        assert_eq!(batch.changes().collect::<Vec<_>>(), expected);
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
    fn an_over_large_value_is_refused_and_many_large_ones_are_not() {
        let of = |value| Lengths { key: 1, value: Some(value) };
        let batch = |changes| Batch { changes, ..Batch::default() };
        assert!(batch(vec![of(VALUE_BYTES_MAX); 8]).check().is_ok());
        let refused = batch(vec![of(1), of(VALUE_BYTES_MAX + 1)]).check();
        let bytes = VALUE_BYTES_MAX + 1;
        assert_eq!(refused, Err(StoreError::ValueTooLarge { bytes, max: VALUE_BYTES_MAX }));
    }
}
