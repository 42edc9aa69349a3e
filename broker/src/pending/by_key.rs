//! Values by the keys of records. Messages and what waits are numbered in turn, and nearly all that changes is among what
//! came last: those have their places in the order of their numbers, and are not searched for.

use broker_core::{RecordKey, RecordKind, WordHasher};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

/// Most places, of about 100 bytes each; what comes beyond is searched for.
const PLACES_MAX: usize = 64 * 1024;
/// Numbers in turn that may have no value before the next one that has a place: they are passed over at no cost but theirs.
const GAP_MAX: usize = 256;

/// A value for each of some keys.
#[derive(Debug)]
pub(super) struct ByKey<T> {
    /// The number whose place is the first.
    first: u64,
    places: VecDeque<Option<(RecordKey, T)>>,
    /// How many of these are taken.
    taken: usize,
    others: HashMap<RecordKey, T, BuildHasherDefault<WordHasher>>,
}

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        Self { first: 0, places: VecDeque::new(), taken: 0, others: HashMap::default() }
    }
}

/// Whether no other record that is numbered in turn has its number.
fn is_in_turn(key: &RecordKey) -> bool {
    matches!(key.kind, RecordKind::Message | RecordKind::Queued | RecordKind::Lent)
}

impl<T> ByKey<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.taken + self.others.len()
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: &RecordKey) -> Option<T> {
        let place = self.index(key).and_then(|index| self.places.get_mut(index));
        if let Some((_, value)) = place.and_then(|place| place.take_if(|(of, _)| of == key)) {
            self.taken -= 1;
            while let Some(None) = self.places.front() {
                self.places.pop_front();
                self.first += 1;
            }
            return Some(value);
        }
        if self.others.is_empty() { None } else { self.others.remove(key) }
    }

    /// Puts a value where there is none.
    pub(super) fn insert(&mut self, key: RecordKey, value: T) {
        match self.vacant(&key) {
            Some(place) => {
                *place = Some((key, value));
                self.taken += 1;
            }
            None => drop(self.others.insert(key, value)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RecordKey, &T)> {
        self.places.iter().flatten().map(|(key, value)| (key, value)).chain(&self.others)
    }

    /// Takes all of them out. Room is kept for about as many as there were.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (RecordKey, T)> {
        let used = self.places.len();
        self.taken = 0;
        if self.places.capacity() > 4 * used {
            self.places.shrink_to(2 * used);
        }
        if self.others.capacity() > 4 * self.others.len() {
            self.others.shrink_to(2 * self.others.len());
        }
        self.places.drain(..).flatten().chain(self.others.drain())
    }

    fn index(&self, key: &RecordKey) -> Option<usize> {
        let behind = key.number.checked_sub(self.first).filter(|_| is_in_turn(key))?;
        usize::try_from(behind).ok()
    }

    /// Returns the place of a key, if it has one that is free.
    fn vacant(&mut self, key: &RecordKey) -> Option<&mut Option<(RecordKey, T)>> {
        if self.places.is_empty() {
            self.first = key.number;
        }
        let index = self.index(key).filter(|index| *index < (self.places.len() + GAP_MAX).min(PLACES_MAX))?;
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        self.places.get_mut(index).filter(|place| place.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn key(kind: RecordKind, number: u64) -> RecordKey {
        RecordKey { kind, owner: u64::from(kind.is_owned()), number }
    }

    fn message(number: u64) -> RecordKey {
        key(RecordKind::Message, number)
    }

    /// Does the same with a plain map.
    #[derive(Default)]
    struct Pair {
        all: ByKey<u64>,
        model: BTreeMap<RecordKey, u64>,
    }

    impl Pair {
        fn set(&mut self, key: RecordKey, value: u64) {
            assert_eq!(self.all.remove(&key), self.model.remove(&key), "{key}");
            self.all.insert(key, value);
            self.model.insert(key, value);
            self.check();
        }

        fn remove(&mut self, key: RecordKey) {
            assert_eq!(self.all.remove(&key), self.model.remove(&key), "{key}");
            self.check();
        }

        fn check(&self) {
            assert_eq!(self.all.len(), self.model.len());
            assert_eq!(self.all.iter().collect::<BTreeMap<_, _>>(), self.model.iter().collect());
        }
    }

    #[test]
    fn it_is_what_a_plain_map_is() {
        let mut pair = Pair::default();
        let kinds = [RecordKind::Message, RecordKind::Queued, RecordKind::Retained, RecordKind::Session];
        let mut number = 5_000;
        for step in 0..2_000_u64 {
            // Some are in turn, some far behind, some far ahead, some have another's number, some come again.
            number += [1, 1, 2, 400, 1][usize::try_from(step % 5).unwrap_or(0)];
            let at = number - [0, 0, 1, 7, 3_000][usize::try_from(step * 7 % 5).unwrap_or(0)];
            let kind = kinds[usize::try_from(step * 5 % 4).unwrap_or(0)];
            pair.set(key(kind, at), step);
            if step % 3 != 0 {
                pair.remove(key(kinds[usize::try_from(step % 4).unwrap_or(0)], number - step % 11));
            }
        }
        assert!(!pair.all.is_empty() && !pair.all.others.is_empty() && pair.all.taken > 0);
        assert_eq!(pair.all.drain().collect::<BTreeMap<_, _>>(), pair.model);
        assert!(pair.all.is_empty());
        pair.model.clear();
        pair.set(message(3), 1);
    }

    #[test]
    fn what_is_over_leaves_no_places_behind() {
        let mut all = ByKey::default();
        for number in 1..1_000_000 {
            all.insert(message(number), ());
            if number > 10 {
                assert_eq!(all.remove(&message(number - 10)), Some(()));
            }
        }
        assert!(all.places.len() <= 10 && all.places.capacity() < 100 && all.others.is_empty());
        // One that stays holds all that come after it.
        for number in 1_000_000..2_000_000 {
            all.insert(message(number), ());
            all.remove(&message(number));
        }
        assert!(all.places.len() <= PLACES_MAX, "{}", all.places.len());
    }

    #[test]
    fn room_is_kept_for_as_many_as_there_were() {
        let mut all = ByKey::default();
        (0..10_000).for_each(|number| all.insert(message(number), ()));
        assert_eq!(all.drain().count(), 10_000);
        assert!(all.places.capacity() >= 10_000);
        all.insert(message(1), ());
        assert_eq!(all.drain().count(), 1);
        assert!(all.places.capacity() < 100);
    }
}
