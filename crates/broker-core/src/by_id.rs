//! Things by packet identifier. Clients give identifiers in turn, so that each has a place of its own by its last bits;
//! what finds its place taken is kept aside, so that a client that chooses others takes no more memory for it.

use crate::word_hasher::WordHasher;
use mqtt_proto::PacketId;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Places at most: as many as there are identifiers, and one.
const PLACES_MAX: usize = 0x1_0000;

#[derive(Debug)]
pub(crate) struct ById<T> {
    /// None, or a power of two of them.
    places: Vec<Option<(PacketId, T)>>,
    taken: usize,
    aside: HashMap<PacketId, T, BuildHasherDefault<WordHasher>>,
}

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self { places: Vec::new(), taken: 0, aside: HashMap::default() }
    }
}

impl<T> ById<T> {
    pub(crate) fn len(&self) -> usize {
        self.taken + self.aside.len()
    }

    fn place(&self, id: PacketId) -> usize {
        usize::from(id.get()) & self.places.len().wrapping_sub(1)
    }

    #[inline]
    pub(crate) fn get(&self, id: PacketId) -> Option<&T> {
        match self.places.get(self.place(id)) {
            Some(Some((of, thing))) if *of == id => Some(thing),
            _ if self.aside.is_empty() => None,
            _ => self.aside.get(&id),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PacketId> {
        self.places.iter().flatten().map(|(id, _)| *id).chain(self.aside.keys().copied())
    }

    /// Adds a thing. Returns the one that had this identifier before.
    #[inline]
    pub(crate) fn insert(&mut self, id: PacketId, thing: T) -> Option<T> {
        let before = self.remove(id);
        while self.is_taken(id) && self.taken * 2 >= self.places.len() && self.places.len() < PLACES_MAX {
            self.lengthen();
        }
        let place = self.place(id);
        match self.places.get_mut(place) {
            Some(vacant @ None) => {
                *vacant = Some((id, thing));
                self.taken += 1;
            }
            _ => drop(self.aside.insert(id, thing)),
        }
        before
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: PacketId) -> Option<T> {
        let place = self.place(id);
        if let Some(slot) = self.places.get_mut(place)
            && let Some((_, thing)) = slot.take_if(|(of, _)| *of == id)
        {
            self.taken -= 1;
            return Some(thing);
        }
        if self.aside.is_empty() { None } else { self.aside.remove(&id) }
    }

    fn is_taken(&self, id: PacketId) -> bool {
        !matches!(self.places.get(self.place(id)), Some(None))
    }

    /// Doubles the places: who had one of its own has one then too.
    #[cold]
    fn lengthen(&mut self) {
        let len = (self.places.len() * 2).max(1);
        let longer = (0..len).map(|_| None).collect();
        for (id, thing) in std::mem::replace(&mut self.places, longer).into_iter().flatten() {
            let place = self.place(id);
            if let Some(vacant) = self.places.get_mut(place) {
                *vacant = Some((id, thing));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn id(raw: u16) -> PacketId {
        PacketId::new(raw).unwrap()
    }

    fn ids<T>(by_id: &ById<T>) -> Vec<u16> {
        let mut ids: Vec<_> = by_id.ids().map(PacketId::get).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn each_is_found_by_its_identifier_and_no_other() {
        // In turn, around the end, far apart with the same last bits, and all of it mixed.
        let mixed = (0..2_000_u32).map(|n| u16::try_from((n * 7_919) % 0xFFFF + 1).unwrap());
        let runs = (1..=512).chain(0xFFF0..=0xFFFF).chain((1..60).map(|n| n << 10)).chain(mixed);
        let (mut by_id, mut expected) = (ById::default(), BTreeMap::new());
        for (n, raw) in runs.enumerate() {
            assert_eq!(by_id.insert(id(raw), n), expected.insert(raw, n), "{raw}");
            if n % 3 == 0 {
                let other = raw / 2 + 1;
                assert_eq!(by_id.remove(id(other)), expected.remove(&other), "{other}");
            }
            assert_eq!(by_id.len(), expected.len());
        }
        assert!((1..=u16::MAX).all(|raw| by_id.get(id(raw)) == expected.get(&raw)));
        assert_eq!(ids(&by_id), expected.keys().copied().collect::<Vec<_>>());
        assert!((1..=u16::MAX).all(|raw| by_id.remove(id(raw)) == expected.remove(&raw)));
        assert_eq!(by_id.len(), 0);
    }

    #[test]
    fn who_chooses_identifiers_that_collide_takes_no_more_places_than_others() {
        let mut by_id = ById::default();
        for n in 1..64 {
            by_id.insert(id(n << 10), ());
        }
        assert!(by_id.places.len() <= 4 && by_id.len() == 63, "{}", by_id.places.len());
    }

    #[test]
    fn a_window_in_turn_has_places_of_its_own() {
        let mut by_id = ById::default();
        for n in 0..200_000_u32 {
            let raw = |n: u32| id(u16::try_from(n % 0xFFFF + 1).unwrap());
            by_id.insert(raw(n), n);
            if n >= 512 {
                assert_eq!(by_id.remove(raw(n - 512)), Some(n - 512));
            }
        }
        assert!(by_id.places.len() <= 2_048 && by_id.aside.len() < 8, "{}", by_id.places.len());
    }
}
