//! A map in parts that are shared between versions: a changed copy costs the parts that change, and
//! comparing two versions costs the parts that differ.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

const SHARDS: usize = 1024;

#[derive(Clone, Debug)]
pub(crate) struct ShardMap<K, V> {
    shards: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> ShardMap<K, V> {
    pub(crate) fn new() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(shard_of(key))?.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.shards.is_empty() {
            let empty = Arc::new(HashMap::new());
            self.shards = vec![empty; SHARDS];
        }
        let shard = Arc::make_mut(self.shards.get_mut(shard_of(&key))?);
        let before = shard.insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let shard = self.shards.get_mut(shard_of(key)).filter(|shard| shard.contains_key(key))?;
        self.len = self.len.saturating_sub(1);
        Arc::make_mut(shard).remove(key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    /// Returns the keys of values that are not in both versions, or not the same.
    pub(crate) fn changed<'a>(&'a self, other: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<&'a K> {
        let mut keys = Vec::new();
        let both = |key: &K| other.get(key).zip(self.get(key)).is_some_and(|(one, two)| same(one, two));
        for index in 0..SHARDS {
            let (ours, others) = (self.shards.get(index), other.shards.get(index));
            let is_empty = |shard: Option<&Arc<HashMap<K, V>>>| shard.is_none_or(|shard| shard.is_empty());
            let is_same = ours.zip(others).is_some_and(|(ours, others)| Arc::ptr_eq(ours, others));
            if is_same || (is_empty(ours) && is_empty(others)) {
                continue;
            }
            let known = ours.into_iter().flat_map(|shard| shard.keys());
            let gone = others.into_iter().flat_map(|shard| shard.keys());
            keys.extend(known.filter(|key| !both(key)));
            keys.extend(gone.filter(|key| self.get(*key).is_none()));
        }
        keys
    }
}

fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    // Not the map's own hash: the same in every version.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0)
}
