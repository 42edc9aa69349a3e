//! What waits to go up to the cloud.
//!
//! State and twins: the newest per key. Events: first in, first out, the oldest dropped and counted
//! when the spool is full. Every change of the spool is a list of writes for the shell to commit
//! before it answers whoever pushed; what cannot be committed is undone.

use crate::message::{escape_html, operation};
use crate::{DeviceId, Route};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Caps of a spool.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// Events kept; the oldest goes first.
    pub events: usize,
    /// Bytes of all kept events.
    pub event_bytes: usize,
    /// Keys of newest-wins items; two per device.
    pub keys: usize,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self { events: 10_000, event_bytes: 16 << 20, keys: 20_000 }
    }
}

/// One thing to report to the cloud.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpwardItem {
    /// Newer items with the same key replace this one; events have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Route of the message that carries it.
    pub route: Route,
    /// Its content.
    pub content: Value,
}

impl UpwardItem {
    /// Returns the report of a device's state. `content` is `{"event_id","timestamp","device":{…}}`,
    /// sent as a JSON string as KubeEdge does.
    pub fn state(device: &DeviceId, content: &Value) -> Self {
        let resource = format!("device/{}/state/update", device.qualified());
        let route = Route::new("twin", "resource", operation::UPDATE, resource.clone());
        Self { key: Some(resource), route, content: escape_html(&content.to_string()).into() }
    }

    /// Returns the report of a device's whole twin: `{"event_id","timestamp","twin":{…}}`.
    pub fn twin(device: &DeviceId, content: Value) -> Self {
        let resource = format!("device/{}/twin/edge_updated", device.qualified());
        let route = Route::new("twin", "resource", operation::UPDATE, resource.clone());
        Self { key: Some(resource), route, content }
    }

    /// Returns an upload of an application for the cloud.
    pub fn upload(topic: &str, payload: String) -> Self {
        Self {
            key: None,
            route: Route::new("bus", "user", operation::UPLOAD, topic),
            content: payload.into(),
        }
    }

    /// Returns an audit event of a stream.
    pub fn audit(stream: &str, event: Value) -> Self {
        let route = Route::new("edgehub", "resource", operation::INSERT, format!("audit/{stream}"));
        Self { key: None, route, content: event }
    }

    /// Returns the status of the edge, newest wins.
    pub fn status(status: Value) -> Self {
        let route = Route::new("edgehub", "resource", operation::UPDATE, "identity/status");
        Self { key: Some("identity/status".into()), route, content: status }
    }
}

/// An item in the spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpoolItem {
    /// Position; rises for ever, restarts included.
    pub seq: u64,
    /// The item.
    pub item: UpwardItem,
}

/// One write of the spool's storage. Keys are relative to the spool's own prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolWrite {
    /// Store these bytes.
    Put(String, Vec<u8>),
    /// Delete the key.
    Delete(String),
}

/// One stored key and value, as read back.
pub type SpoolRecord = (String, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    id: String,
    next_seq: u64,
    dropped: u64,
}

/// Items in order of their position.
#[derive(Clone, Debug)]
pub struct Spool {
    meta: Meta,
    limits: SpoolLimits,
    items: BTreeMap<u64, SpoolItem>,
    keys: BTreeMap<String, u64>,
    events: BTreeMap<u64, usize>,
    event_bytes: usize,
}

/// What a push has changed.
#[derive(Debug)]
pub(crate) struct Pushed {
    seq: u64,
    /// What it replaced, and what it drove out.
    gone: Vec<SpoolItem>,
    /// Events dropped before it.
    dropped: u64,
}

const META_KEY: &str = "meta";

impl Spool {
    /// Returns an empty spool. `id` is random: it tells the cloud that positions start again.
    pub fn new(id: impl Into<String>, limits: SpoolLimits) -> Self {
        let meta = Meta { id: id.into(), next_seq: 1, dropped: 0 };
        Self {
            meta,
            limits,
            items: BTreeMap::new(),
            keys: BTreeMap::new(),
            events: BTreeMap::new(),
            event_bytes: 0,
        }
    }

    /// Returns the spool as stored; `id` names it when nothing is stored.
    ///
    /// # Errors
    /// When a stored value cannot be read, with its key.
    pub fn restore(
        id: impl Into<String>,
        limits: SpoolLimits,
        records: impl IntoIterator<Item = SpoolRecord>,
    ) -> Result<Self, String> {
        let mut spool = Self::new(id, limits);
        for (key, value) in records {
            let unreadable = |error| format!("spool record {key}: {error}");
            if key == META_KEY {
                spool.meta = serde_json::from_slice(&value).map_err(unreadable)?;
            } else {
                spool.insert(serde_json::from_slice(&value).map_err(unreadable)?, value.len());
            }
        }
        if let Some((&last, _)) = spool.items.last_key_value() {
            spool.meta.next_seq = spool.meta.next_seq.max(last.saturating_add(1));
        }
        Ok(spool)
    }

    /// Id of the spool.
    pub fn id(&self) -> &str {
        &self.meta.id
    }

    /// Events dropped since the spool exists.
    pub fn dropped(&self) -> u64 {
        self.meta.dropped
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Tells whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes an item in. Returns what undoes that, and the writes to commit.
    pub(crate) fn push(&mut self, item: UpwardItem) -> (Pushed, Vec<SpoolWrite>) {
        let (mut writes, mut gone) = (Vec::with_capacity(3), Vec::new());
        let dropped = self.meta.dropped;
        let over_keys = self.keys.len() >= self.limits.keys;
        let replaced = match &item.key {
            Some(key) => self.keys.get(key).copied().or_else(|| {
                // A full key space drops the key that has waited longest, and counts it.
                over_keys
                    .then(|| self.keys.values().min().copied())
                    .flatten()
                    .inspect(|_| self.count_dropped())
            }),
            None => None,
        };
        gone.extend(replaced.and_then(|seq| self.take(seq)));
        let entry = SpoolItem { seq: self.meta.next_seq, item };
        let (seq, json) = (entry.seq, json_of(&entry));
        self.meta.next_seq = self.meta.next_seq.saturating_add(1);
        self.insert(entry, json.len());
        writes.push(SpoolWrite::Put(item_key(seq), json));
        while self.events.len() > self.limits.events
            || (self.event_bytes > self.limits.event_bytes && self.events.len() > 1)
        {
            let Some((&oldest, _)) = self.events.first_key_value() else { break };
            gone.extend(self.take(oldest));
            self.count_dropped();
        }
        writes.extend(gone.iter().map(|entry| SpoolWrite::Delete(item_key(entry.seq))));
        writes.push(SpoolWrite::Put(META_KEY.to_owned(), json_of(&self.meta)));
        (Pushed { seq, gone, dropped }, writes)
    }

    /// Undoes pushes that could not be stored: the last one first, and before anything else is done.
    pub(crate) fn undo(&mut self, pushed: Pushed) {
        self.take(pushed.seq);
        for entry in pushed.gone {
            let bytes = json_of(&entry).len();
            self.insert(entry, bytes);
        }
        self.meta.next_seq = pushed.seq;
        self.meta.dropped = pushed.dropped;
    }

    /// Forgets an acknowledged item.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<SpoolWrite> {
        self.take(seq).map(|entry| SpoolWrite::Delete(item_key(entry.seq)))
    }

    fn take(&mut self, seq: u64) -> Option<SpoolItem> {
        let entry = self.items.remove(&seq)?;
        match &entry.item.key {
            Some(key) => {
                // One that was to be deleted and came back is older than the one its key is of.
                if self.keys.get(key) == Some(&seq) {
                    self.keys.remove(key);
                }
            }
            None => {
                let bytes = self.events.remove(&seq).unwrap_or(0);
                self.event_bytes = self.event_bytes.saturating_sub(bytes);
            }
        }
        Some(entry)
    }

    /// First item after a position.
    pub(crate) fn next_after(&self, seq: u64) -> Option<&SpoolItem> {
        self.items.range((Bound::Excluded(seq), Bound::Unbounded)).next().map(|(_, entry)| entry)
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.items.contains_key(&seq)
    }

    fn count_dropped(&mut self) {
        self.meta.dropped = self.meta.dropped.saturating_add(1);
    }

    fn insert(&mut self, entry: SpoolItem, bytes: usize) {
        match &entry.item.key {
            Some(key) => {
                self.keys.insert(key.clone(), entry.seq);
            }
            None => {
                self.events.insert(entry.seq, bytes);
                self.event_bytes = self.event_bytes.saturating_add(bytes);
            }
        }
        self.items.insert(entry.seq, entry);
    }
}

// Twenty digits: keys in text order are positions in order.
fn item_key(seq: u64) -> String {
    format!("item/{seq:020}")
}

// Plain data with text keys: encoding it cannot fail.
fn json_of<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> SpoolLimits {
        SpoolLimits { events: 3, event_bytes: 10_000, keys: 2 }
    }

    fn apply(disk: &mut BTreeMap<String, Vec<u8>>, writes: Vec<SpoolWrite>) {
        for write in writes {
            match write {
                SpoolWrite::Put(key, value) => disk.insert(key, value),
                SpoolWrite::Delete(key) => disk.remove(&key),
            };
        }
    }

    fn contents(spool: &Spool) -> Vec<Value> {
        spool.items.values().map(|entry| entry.item.content.clone()).collect()
    }

    #[test]
    fn the_newest_twin_replaces_older_ones_and_disk_says_the_same() {
        let (mut spool, mut disk) = (Spool::new("s", limits()), BTreeMap::new());
        let led: DeviceId = "led".parse().unwrap();
        for content in [1, 2, 3] {
            apply(&mut disk, spool.push(UpwardItem::twin(&led, content.into())).1);
        }
        apply(&mut disk, spool.push(UpwardItem::audit("connect", 4.into())).1);
        assert_eq!(contents(&spool), [3, 4]);
        let again = Spool::restore("other", limits(), disk.clone()).unwrap();
        assert_eq!((contents(&again), again.id()), (contents(&spool), "s"));
        apply(&mut disk, spool.remove(3).into_iter().collect());
        apply(&mut disk, spool.remove(4).into_iter().collect());
        assert!(spool.is_empty());
        // Positions never start again, even when all was acknowledged.
        let mut again = Spool::restore("other", limits(), disk).unwrap();
        again.push(UpwardItem::status(1.into()));
        assert!(again.contains(5));
    }

    #[test]
    fn a_full_spool_drops_the_oldest_event_and_counts_it() {
        let mut spool = Spool::new("s", limits());
        let led: DeviceId = "led".parse().unwrap();
        spool.push(UpwardItem::twin(&led, "twin".into()));
        for event in 0..5 {
            spool.push(UpwardItem::audit("a", event.into()));
        }
        assert_eq!(contents(&spool), [Value::from("twin"), 2.into(), 3.into(), 4.into()]);
        assert_eq!(spool.dropped(), 2);
        spool.push(UpwardItem::audit("a", "x".repeat(20_000).into()));
        assert_eq!(spool.len(), 2, "one event over the byte limit is kept alone");
    }

    #[test]
    fn keys_are_bounded() {
        let mut spool = Spool::new("s", limits());
        for name in ["a", "b", "c"] {
            spool.push(UpwardItem::twin(&name.parse().unwrap(), name.into()));
        }
        assert_eq!(contents(&spool), ["b", "c"]);
        assert_eq!(spool.dropped(), 1);
    }

    #[test]
    fn what_is_undone_has_never_been() {
        let mut spool = Spool::new("s", limits());
        let led: DeviceId = "led".parse().unwrap();
        for item in [UpwardItem::twin(&led, 1.into()), UpwardItem::audit("a", 2.into())] {
            spool.push(item);
        }
        let told =
            |spool: &Spool| (contents(spool), spool.meta.clone(), spool.event_bytes, spool.keys.clone());
        let before = told(&spool);
        // One replaces, and the others drive out older ones and one another.
        let mut pushed = vec![spool.push(UpwardItem::twin(&led, 3.into())).0];
        pushed.extend((4..9).map(|event| spool.push(UpwardItem::audit("a", event.into())).0));
        assert_eq!(spool.dropped(), 3);
        while let Some(last) = pushed.pop() {
            spool.undo(last);
        }
        assert_eq!(told(&spool), before);
    }

    #[test]
    fn unreadable_records_are_named() {
        let error = Spool::restore("s", limits(), [("item/1".to_owned(), b"{".to_vec())]).unwrap_err();
        assert!(error.contains("item/1"), "{error}");
    }
}
