//! Events that nodes send up: audit decisions and uploads of applications. A ring per node.
//!
//! Keys are `event/<node>/e<epoch>-<position>`: positions are the node's, and what comes again is known by them; epochs
//! are the cloud's, one more for each new spool, so that no node can write over what it has said before.
//! `eventspool/<node>` says which spool the newest epoch is of. Keys of older servers have no epoch and sort before.

use super::{CloudHub, HubError};
use bridge_core::{SpoolLimits, Upward};
use midge_identity::UnixMillis;
use midge_store::{Batch, Durability, Store};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Records read at once.
const PAGE: usize = 64;
/// Bytes of a page that is shown; one event alone may be longer.
const PAGE_BYTES: usize = 1 << 20;

/// One event of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeEvent {
    /// `audit/<stream>`, or `upload/<topic>`.
    pub kind: String,
    /// When the cloud stored it.
    pub at: UnixMillis,
    /// What the node sent.
    pub content: Value,
}

/// Place of an event among those of its node: the spools that the node has had, and the position in this one. Its text
/// is `<spools>-<position>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    epoch: u64,
    position: u64,
}

/// Text that is no [`EventId`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is no ID of an event: these are two numbers with a dash between, such as 1-42")]
pub struct InvalidEventId(String);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.position)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let read = || {
            let (epoch, position) = text.split_once('-')?;
            Some(Self { epoch: epoch.parse().ok()?, position: position.parse().ok()? })
        };
        read().ok_or_else(|| InvalidEventId(text.to_owned()))
    }
}

impl EventId {
    fn key(self, node: &str) -> String {
        let Self { epoch, position } = self;
        match epoch {
            0 => format!("{}{position:020}", prefix(node)),
            _ => format!("{}e{epoch:010}-{position:020}", prefix(node)),
        }
    }

    /// None for a key that no server has written.
    fn of_key(node: &str, key: &str) -> Option<Self> {
        let key = key.strip_prefix(&prefix(node))?;
        let (epoch, position) = match key.strip_prefix('e') {
            Some(key) => key.split_once('-')?,
            None => ("0", key),
        };
        Some(Self { epoch: epoch.parse().ok()?, position: position.parse().ok()? })
    }
}

/// The rings of all nodes that have sent something since the start.
#[derive(Default)]
pub(super) struct Events {
    rings: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Ring>>>>>,
}

/// What is stored of one node. Not there until it has been read, and gone while it may be wrong.
struct Ring {
    epoch: u64,
    spool: String,
    count: usize,
    bytes: usize,
}

#[derive(Serialize, Deserialize)]
struct SpoolRecord {
    epoch: u64,
    spool: String,
}

impl CloudHub {
    /// Returns a page of what is kept of a node's events, in the order in which it sent them, from the one behind
    /// `after` on. There are no more when it is empty.
    ///
    /// # Errors
    /// The store fails.
    pub async fn events(
        &self,
        node: &str,
        after: Option<EventId>,
    ) -> Result<Vec<(EventId, NodeEvent)>, HubError> {
        page(&self.shared.parts.store, node, after).await
    }

    // What is sent again because the acknowledgement was lost is acknowledged again, and not stored.
    pub(super) async fn store_event(
        &self,
        node: &str,
        kind: String,
        report: &Upward,
    ) -> Result<(), HubError> {
        let ring = Arc::clone(self.shared.events.rings.lock().entry(node.to_owned()).or_default());
        let mut held = ring.lock().await;
        let (store, limits) = (&self.shared.parts.store, &self.shared.config.events);
        // A task that is dropped in between leaves nothing behind: the next one reads again.
        let mut ring = match held.take() {
            Some(ring) => ring,
            None => Ring::read(store, node).await?,
        };
        let event = NodeEvent { kind, at: self.shared.parts.clock.now(), content: report.content.clone() };
        if let Some(batch) = ring.plan(store, node, report, &event, limits).await? {
            store.commit(batch, Durability::PowerLoss).await?;
        }
        *held = Some(ring);
        Ok(())
    }
}

impl Ring {
    async fn read(store: &Store, node: &str) -> Result<Self, HubError> {
        let key = spool_key(node);
        let SpoolRecord { epoch, spool } = match store.get(key.as_str()).await? {
            Some(value) => read(&key, &value)?,
            None => SpoolRecord { epoch: 0, spool: String::new() },
        };
        let mut ring = Self { epoch, spool, count: 0, bytes: 0 };
        let mut after = None;
        loop {
            let page = store.scan_page(prefix(node), after, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(ring) };
            after = Some(last.clone());
            ring.count = ring.count.saturating_add(page.len());
            ring.bytes = page.iter().fold(ring.bytes, |bytes, (_, value)| bytes.saturating_add(value.len()));
        }
    }

    /// Returns what is to be committed; none for an event that is there.
    async fn plan(
        &mut self,
        store: &Store,
        node: &str,
        report: &Upward,
        event: &NodeEvent,
        limits: &SpoolLimits,
    ) -> Result<Option<Batch>, HubError> {
        let mut batch = Batch::new();
        if self.epoch == 0 || self.spool != report.spool {
            self.epoch = self.epoch.saturating_add(1);
            self.spool.clone_from(&report.spool);
            let record = SpoolRecord { epoch: self.epoch, spool: self.spool.clone() };
            batch = batch.put(spool_key(node), encode(&spool_key(node), &record)?);
        }
        let key = match report.seq {
            Some(seq) => self.key(node, seq),
            None => self.free_key(store, node, event.at).await?,
        };
        if report.seq.is_some() && store.get(key.as_str()).await?.is_some() {
            return Ok((!batch.is_empty()).then_some(batch));
        }
        let value = encode(&key, event)?;
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(value.len());
        for oldest in self.make_room(store, node, limits).await? {
            batch = batch.delete(oldest);
        }
        Ok(Some(batch.put(key, value)))
    }

    /// Takes the oldest out of the count until the rest is within the limits, and returns their keys. The new one stays.
    async fn make_room(
        &mut self,
        store: &Store,
        node: &str,
        limits: &SpoolLimits,
    ) -> Result<Vec<String>, HubError> {
        let (mut gone, mut page, mut after) = (Vec::new(), VecDeque::new(), None);
        while self.count > limits.events.max(1) || (self.bytes > limits.event_bytes && self.count > 1) {
            if page.is_empty() {
                page = store.scan_page(prefix(node), after.clone(), PAGE).await?.into();
            }
            let Some((key, value)) = page.pop_front() else { break };
            self.count = self.count.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(value.len());
            after = Some(key.clone());
            gone.push(key);
        }
        Ok(gone)
    }

    fn key(&self, node: &str, position: u64) -> String {
        EventId { epoch: self.epoch, position }.key(node)
    }

    /// A stock edge numbers nothing: the time does, and several within a millisecond come one after the other.
    async fn free_key(&self, store: &Store, node: &str, at: UnixMillis) -> Result<String, HubError> {
        let mut position = at.0.saturating_mul(1000);
        loop {
            let key = self.key(node, position);
            if store.get(key.as_str()).await?.is_none() {
                return Ok(key);
            }
            position = position.saturating_add(1);
        }
    }
}

async fn page(
    store: &Store,
    node: &str,
    after: Option<EventId>,
) -> Result<Vec<(EventId, NodeEvent)>, HubError> {
    let records = store.scan_page(prefix(node), after.map(|after| after.key(node)), PAGE).await?;
    let (mut events, mut bytes) = (Vec::with_capacity(records.len()), 0_usize);
    for (key, value) in records {
        bytes = bytes.saturating_add(value.len());
        if bytes > PAGE_BYTES && !events.is_empty() {
            break;
        }
        let unnamed = || HubError::Record { key: key.clone(), why: "no place of an event".to_owned() };
        events.push((EventId::of_key(node, &key).ok_or_else(unnamed)?, read(&key, &value)?));
    }
    Ok(events)
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, HubError> {
    serde_json::to_vec(value)
        .map_err(|error| HubError::Record { key: key.to_owned(), why: error.to_string() })
}

fn read<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, HubError> {
    serde_json::from_slice(value)
        .map_err(|error| HubError::Record { key: key.to_owned(), why: error.to_string() })
}

fn prefix(node: &str) -> String {
    format!("event/{node}/")
}

fn spool_key(node: &str) -> String {
    format!("eventspool/{node}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bridge_core::UpwardKind;
    use midge_store::StoreInfo;
    use serde_json::json;
    use std::path::Path;

    const LIMITS: SpoolLimits = SpoolLimits { events: 3, event_bytes: 1000, keys: 0 };

    fn open(directory: &Path) -> Store {
        Store::open(directory.join("db"), &StoreInfo::new("cloud", "plant")).unwrap()
    }

    fn report(spool: &str, seq: Option<u64>, content: Value) -> Upward {
        let kind = UpwardKind::Audit("a".into());
        Upward { resource: "audit/a".into(), kind, seq, spool: spool.into(), content }
    }

    async fn put(ring: &mut Ring, store: &Store, report: &Upward) {
        let (at, content) = (UnixMillis(7), report.content.clone());
        let event = NodeEvent { kind: "audit/a".into(), at, content };
        if let Some(batch) = ring.plan(store, "n", report, &event, &LIMITS).await.unwrap() {
            store.commit(batch, Durability::PowerLoss).await.unwrap();
        }
        let again = Ring::read(store, "n").await.unwrap();
        assert_eq!((ring.count, ring.bytes), (again.count, again.bytes), "as it is on disk");
        assert_eq!((ring.epoch, &ring.spool), (again.epoch, &again.spool));
    }

    async fn stored(store: &Store) -> Vec<Value> {
        let records = store.scan(prefix("n")).await.unwrap();
        records.iter().map(|(key, value)| read::<NodeEvent>(key, value).unwrap().content).collect()
    }

    #[tokio::test]
    async fn the_oldest_go_by_number_and_by_bytes_and_the_newest_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut ring = Ring::read(&store, "n").await.unwrap();
        // No position is a multiple of anything: pruning waits for none.
        for seq in (1..200).step_by(2) {
            put(&mut ring, &store, &report("s", Some(seq), json!(seq))).await;
        }
        assert_eq!(stored(&store).await, [json!(195), json!(197), json!(199)]);
        let long = json!("x".repeat(600));
        put(&mut ring, &store, &report("s", Some(200), long.clone())).await;
        put(&mut ring, &store, &report("s", Some(201), long.clone())).await;
        assert_eq!(stored(&store).await, [long]);
        let huge = json!("y".repeat(2000));
        put(&mut ring, &store, &report("s", Some(202), huge.clone())).await;
        assert_eq!(stored(&store).await, [huge]);
        put(&mut ring, &store, &report("s", Some(203), json!(1))).await;
        assert_eq!(stored(&store).await, [json!(1)]);
    }

    #[tokio::test]
    async fn what_comes_again_is_known_and_a_new_spool_writes_over_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut ring = Ring::read(&store, "n").await.unwrap();
        put(&mut ring, &store, &report("s", Some(1), json!("first"))).await;
        put(&mut ring, &store, &report("s", Some(1), json!("other words"))).await;
        // As after a restart of the cloud.
        let mut ring = Ring::read(&store, "n").await.unwrap();
        put(&mut ring, &store, &report("s", Some(1), json!("other words"))).await;
        assert_eq!(stored(&store).await, [json!("first")]);
        put(&mut ring, &store, &report("new", Some(1), json!("new"))).await;
        assert_eq!(stored(&store).await, [json!("first"), json!("new")]);
        // Whoever changes spools to and fro only fills its own ring.
        for n in 0..6 {
            put(&mut ring, &store, &report(["s", "new"][n % 2], Some(1), json!(n))).await;
        }
        assert_eq!(stored(&store).await, [json!(3), json!(4), json!(5)]);
    }

    #[tokio::test]
    async fn events_without_a_position_and_of_older_servers_have_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut batch = Batch::new();
        for position in [5, 1_700_000_000_000_u64] {
            let event = NodeEvent { kind: "audit/a".into(), at: UnixMillis(1), content: json!("old") };
            let key = format!("event/n/{position:020}");
            batch = batch.put(&key, encode(&key, &event).unwrap());
        }
        store.commit(batch, Durability::PowerLoss).await.unwrap();
        let mut ring = Ring::read(&store, "n").await.unwrap();
        for n in 0..2 {
            put(&mut ring, &store, &report("", None, json!(n))).await;
        }
        assert_eq!(stored(&store).await, [json!("old"), json!(0), json!(1)]);
        let events = page(&store, "n", None).await.unwrap();
        assert_eq!(events[0].0.to_string(), "0-1700000000000");
        let rest = page(&store, "n", Some(events[0].0)).await.unwrap();
        assert_eq!(rest, events[1..]);
    }

    #[tokio::test]
    async fn pages_have_no_gap_and_an_end_whatever_events_weigh() {
        const MANY: SpoolLimits = SpoolLimits { events: 1000, event_bytes: 16 << 20, keys: 0 };
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let mut ring = Ring::read(&store, "n").await.unwrap();
        let weights = (0..PAGE + 3).map(|n| if n % 40 == 5 { PAGE_BYTES } else { 10 });
        for (seq, weight) in (1..).zip(weights.clone()) {
            let report = report("s", Some(seq), json!("x".repeat(weight)));
            let event = NodeEvent { kind: "a".into(), at: UnixMillis(7), content: report.content.clone() };
            let batch = ring.plan(&store, "n", &report, &event, &MANY).await.unwrap().unwrap();
            store.commit(batch, Durability::ProcessCrash).await.unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let events = page(&store, "n", after).await.unwrap();
            let Some((last, _)) = events.last() else { break };
            after = Some(last.to_string().parse().unwrap());
            let bytes: usize = events.iter().map(|(_, event)| event.content.as_str().unwrap().len()).sum();
            assert!(events.len() == 1 || bytes <= PAGE_BYTES);
            seen.extend(events.into_iter().map(|(id, event)| (id.to_string(), event.content)));
        }
        let expected =
            weights.enumerate().map(|(n, weight)| (format!("1-{}", n + 1), json!("x".repeat(weight))));
        assert!(seen.into_iter().eq(expected));
        assert!(page(&store, "other", None).await.unwrap().is_empty());
        for text in ["", "7", "a-1", "1-", "1-2-3", "-1-2"] {
            let error = text.parse::<EventId>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("1-42"), "{error}");
        }
    }
}
