//! The nodes' logs of changes on disk, and their way to the sessions.
//!
//! Every change gets its revision before its batch is committed, together with what it describes;
//! it reaches a session only after the commit, in order of revision. Keys:
//! `synchead/<node>/log` (id and floor), `synchead/<node>/{issuer,hub}` (last revision of each of
//! the two writers), `sync/<node>/live/<resource>`, `sync/<node>/gone/<revision>` (tombstones).

use bridge_core::{Change, LogHead, NodeLog, Operation};
use issuer_core::{Origin, RegistrationEntry};
use midge_identity::{SpiffeId, node_of};
use midge_issuer::{Mutation, MutationLog};
use midge_store::{Batch, Durability, Store, StoreError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Notify;

/// Tombstones kept per node: a node that missed more deletions gets a snapshot.
const TOMBSTONES_MAX: usize = 1024;
/// Changes that wait for a session; a session that lags further starts again from its cursor.
const FEED_CHANGES_MAX: usize = 1024;
/// Tries to read a log while it is not being written.
const LOAD_TRIES_MAX: usize = 50;

/// Why a log cannot be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyncLogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record is not what it should be.
    #[error("record \"{key}\" of the store is unreadable: {error}: restore the store from a backup")]
    Record {
        /// Key of the record.
        key: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// The log changes faster than it can be read.
    #[error("the log of node {0} does not come to rest")]
    Busy(String),
    /// The process is ending.
    #[error("the hub is stopping")]
    Stopping,
}

/// The two writers of logs. Each writes its batches one after the other.
#[derive(Clone, Copy)]
enum Writer {
    Issuer,
    Hub,
}

impl Writer {
    const fn key(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Hub => "hub",
        }
    }
}

/// The logs of all nodes. Clones share them.
#[derive(Clone)]
pub struct SyncLogs {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    state: Mutex<State>,
    settled: Notify,
    nodes_changed: Notify,
}

#[derive(Default)]
struct State {
    nodes: HashMap<String, NodeState>,
    /// What the issuer's current batch has appended.
    issuer_open: Vec<(String, u64)>,
    /// Nodes that the issuer's current batch changes or deletes.
    issuer_nodes: Vec<String>,
    changed_nodes: BTreeSet<String>,
}

struct NodeState {
    meta: Meta,
    last: u64,
    /// Appended and not yet known to be durable, in order.
    open: BTreeMap<u64, Slot>,
    feed: Option<Arc<Feed>>,
    writer: Arc<tokio::sync::Mutex<()>>,
}

enum Slot {
    Waiting(Change),
    Durable(Change),
    Void,
}

#[derive(Clone, Serialize, Deserialize)]
struct Meta {
    id: String,
    floor: u64,
}

/// Committed changes on their way to one session.
#[derive(Default)]
pub(crate) struct Feed {
    queue: Mutex<FeedQueue>,
    arrived: Notify,
}

#[derive(Default)]
struct FeedQueue {
    changes: VecDeque<Change>,
    lagged: bool,
}

/// A session has fallen too far behind.
#[derive(Debug, Error)]
#[error("the edge takes changes too slowly")]
pub(crate) struct Lagged;

impl Feed {
    fn push(&self, change: Change) {
        let mut queue = self.queue.lock();
        if queue.changes.len() >= FEED_CHANGES_MAX {
            queue.lagged = true;
        } else {
            queue.changes.push_back(change);
        }
        self.arrived.notify_one();
    }

    pub(crate) async fn next(&self) -> Result<Vec<Change>, Lagged> {
        loop {
            {
                let mut queue = self.queue.lock();
                if queue.lagged {
                    return Err(Lagged);
                }
                if !queue.changes.is_empty() {
                    return Ok(queue.changes.drain(..).collect());
                }
            }
            self.arrived.notified().await;
        }
    }
}

impl SyncLogs {
    /// Opens the logs in a cloud's store.
    ///
    /// # Errors
    /// The store or a record cannot be read.
    pub async fn open(store: Store) -> Result<Self, SyncLogError> {
        let mut nodes: HashMap<String, NodeState> = HashMap::new();
        for (key, value) in store.scan("synchead/").await? {
            let unreadable = |error| SyncLogError::Record { key: key.clone(), error };
            let mut parts = key.split('/').skip(1);
            let (Some(node), Some(kind)) = (parts.next(), parts.next()) else { continue };
            let state = nodes.entry(node.to_owned()).or_insert_with(NodeState::new);
            if kind == "log" {
                state.meta = serde_json::from_slice(&value).map_err(unreadable)?;
            } else {
                let revision: u64 = serde_json::from_slice(&value).map_err(unreadable)?;
                state.last = state.last.max(revision);
            }
        }
        let state = Mutex::new(State { nodes, ..State::default() });
        let shared = Shared { store, state, settled: Notify::new(), nodes_changed: Notify::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Held by whoever reads and then writes something of a node outside the issuer.
    pub(crate) fn writer(&self, node: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.shared.state.lock().node(node).writer)
    }

    /// Appends changes to a node's log, in one commit with `extra`. The caller holds [`Self::writer`].
    pub(crate) async fn append(
        &self,
        node: &str,
        changes: Vec<(String, Operation, Value)>,
        extra: Batch,
    ) -> Result<(), SyncLogError> {
        let (logs, node) = (self.clone(), node.to_owned());
        // A caller that goes away must not leave the memory behind the disk.
        let task = tokio::spawn(async move {
            let mut batch = extra;
            let revisions: Vec<u64> = {
                let mut state = logs.shared.state.lock();
                let mut append = |(resource, operation, content)| {
                    state.append(&node, Writer::Hub, (resource, operation, content), &mut batch)
                };
                changes.into_iter().map(&mut append).collect()
            };
            let result = logs.shared.store.commit(batch, Durability::PowerLoss).await;
            logs.settle(revisions.into_iter().map(|revision| (node.clone(), revision)), result.is_ok());
            result
        });
        match task.await {
            Ok(result) => Ok(result?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(SyncLogError::Stopping),
        }
    }

    /// Reads a node's log and attaches a session to what is committed afterwards; the session before
    /// it gets nothing more.
    pub(crate) async fn load(&self, node: &str) -> Result<(NodeLog, Arc<Feed>), SyncLogError> {
        for _ in 0..LOAD_TRIES_MAX {
            let settled = self.shared.settled.notified();
            let Some(last) = self.at_rest(node) else {
                // The timeout only matters if the batch settled just before.
                drop(tokio::time::timeout(std::time::Duration::from_millis(20), settled).await);
                continue;
            };
            let records = self.shared.store.scan(format!("sync/{node}/")).await?;
            let mut state = self.shared.state.lock();
            let known = state.node(node);
            if known.open.is_empty() && known.last == last {
                let feed = Arc::new(Feed::default());
                known.feed = Some(Arc::clone(&feed));
                let head = LogHead { id: known.meta.id.clone(), revision: last, floor: known.meta.floor };
                return Ok((read_log(head, records)?, feed));
            }
        }
        Err(SyncLogError::Busy(node.to_owned()))
    }

    /// Drops tombstones beyond the limit. The caller holds [`Self::writer`].
    pub(crate) async fn compact(&self, node: &str) -> Result<(), SyncLogError> {
        let records = self.shared.store.scan(format!("sync/{node}/gone/")).await?;
        let excess = records.len().saturating_sub(TOMBSTONES_MAX);
        let Some((newest, _)) = records.get(excess.wrapping_sub(1)) else { return Ok(()) };
        let floor = newest.rsplit('/').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut batch = Batch::new();
        for (key, _) in records.iter().take(excess) {
            batch = batch.delete(key.as_str());
        }
        let meta = {
            let mut state = self.shared.state.lock();
            let known = state.node(node);
            // A batch on its way carries the old floor and would put it back.
            if !known.open.is_empty() {
                return Ok(());
            }
            known.meta.floor = known.meta.floor.max(floor);
            known.meta.clone()
        };
        batch = batch.put(meta_key(node), json_of(&meta));
        Ok(self.shared.store.commit(batch, Durability::PowerLoss).await?)
    }

    /// Content of the resources that start with a prefix.
    pub(crate) async fn live(
        &self,
        node: &str,
        prefix: &str,
    ) -> Result<BTreeMap<String, Value>, SyncLogError> {
        let mut contents = BTreeMap::new();
        for (key, value) in self.shared.store.scan(format!("sync/{node}/live/{prefix}")).await? {
            let change = read_change(&key, &value)?;
            contents.insert(change.resource, change.content);
        }
        Ok(contents)
    }

    /// Waits for nodes that joined, were locked out, deleted, or renewed.
    pub(crate) async fn changed_nodes(&self) -> BTreeSet<String> {
        loop {
            let changed = std::mem::take(&mut self.shared.state.lock().changed_nodes);
            if !changed.is_empty() {
                return changed;
            }
            self.shared.nodes_changed.notified().await;
        }
    }

    fn at_rest(&self, node: &str) -> Option<u64> {
        let mut state = self.shared.state.lock();
        let node = state.node(node);
        node.open.is_empty().then_some(node.last)
    }

    fn settle(&self, revisions: impl IntoIterator<Item = (String, u64)>, durable: bool) {
        let mut state = self.shared.state.lock();
        for (node, revision) in revisions {
            state.node(&node).settle(revision, durable);
        }
        drop(state);
        self.shared.settled.notify_waiters();
    }

    fn node_changes(&self, id: &SpiffeId) {
        if let Some(node) = node_of(id) {
            self.shared.state.lock().issuer_nodes.push(node.to_owned());
        }
    }

    fn settle_issuer(&self, durable: bool) {
        let open = {
            let mut state = self.shared.state.lock();
            let nodes = std::mem::take(&mut state.issuer_nodes);
            if durable && !nodes.is_empty() {
                state.changed_nodes.extend(nodes);
                self.shared.nodes_changed.notify_one();
            }
            std::mem::take(&mut state.issuer_open)
        };
        self.settle(open, durable);
    }
}

impl State {
    fn node(&mut self, node: &str) -> &mut NodeState {
        self.nodes.entry(node.to_owned()).or_insert_with(NodeState::new)
    }

    fn append(
        &mut self,
        node: &str,
        writer: Writer,
        (resource, operation, content): (String, Operation, Value),
        batch: &mut Batch,
    ) -> u64 {
        let state = self.node(node);
        state.last = state.last.saturating_add(1);
        let revision = state.last;
        let change = Change { revision, resource, operation, content };
        let live = format!("sync/{node}/live/{}", change.resource);
        let mut written = std::mem::take(batch);
        written = match operation {
            Operation::Delete => written.delete(live).put(gone_key(node, revision), json_of(&change)),
            Operation::Insert | Operation::Update => written.put(live, json_of(&change)),
        };
        // The id is written every time: the batch that first held it may have failed.
        *batch = written
            .put(meta_key(node), json_of(&state.meta))
            .put(format!("synchead/{node}/{}", writer.key()), json_of(&revision));
        state.open.insert(revision, Slot::Waiting(change));
        revision
    }
}

impl NodeState {
    fn new() -> Self {
        Self {
            meta: Meta { id: uuid::Uuid::new_v4().to_string(), floor: 0 },
            last: 0,
            open: BTreeMap::new(),
            feed: None,
            writer: Arc::default(),
        }
    }

    fn settle(&mut self, revision: u64, durable: bool) {
        if let Some(slot) = self.open.get_mut(&revision) {
            *slot = match std::mem::replace(slot, Slot::Void) {
                Slot::Waiting(change) if durable => Slot::Durable(change),
                _ => Slot::Void,
            };
        }
        // In order of revision: a session that has sent revision 11 will never look for 10 again.
        while let Some(first) = self.open.first_entry()
            && !matches!(first.get(), Slot::Waiting(_))
        {
            if let (Slot::Durable(change), Some(feed)) = (first.remove(), &self.feed) {
                feed.push(change);
            }
        }
    }
}

impl MutationLog for SyncLogs {
    fn extend(&self, mutation: &Mutation, batch: &mut Batch) {
        let change = match mutation {
            Mutation::Entry(change) => change,
            Mutation::Node(node) => return self.node_changes(&node.id),
            Mutation::NodeGone(id) => return self.node_changes(id),
            _ => return,
        };
        let before = change.before.as_deref().and_then(synced_node);
        let after = change.after.as_deref().and_then(synced_node);
        let mut state = self.shared.state.lock();
        let resource = format!("identity/entry/{}", change.id());
        if let Some(node) = before.filter(|node| after != Some(*node)) {
            let gone = (resource.clone(), Operation::Delete, Value::Null);
            let revision = state.append(node, Writer::Issuer, gone, batch);
            state.issuer_open.push((node.to_owned(), revision));
        }
        if let (Some(node), Some(entry)) = (after, &change.after) {
            let operation = if before == Some(node) { Operation::Update } else { Operation::Insert };
            let content = serde_json::to_value(entry.as_ref()).unwrap_or_default();
            let revision = state.append(node, Writer::Issuer, (resource, operation, content), batch);
            state.issuer_open.push((node.to_owned(), revision));
        }
    }

    fn committed(&self) {
        self.settle_issuer(true);
    }

    fn aborted(&self) {
        self.settle_issuer(false);
    }
}

// Entries live on the box that their parent names; the server's own parts stay where they are.
fn synced_node(entry: &RegistrationEntry) -> Option<&str> {
    node_of(&entry.parent_id).filter(|_| entry.origin != Origin::Builtin)
}

fn read_log(head: LogHead, records: Vec<(String, Vec<u8>)>) -> Result<NodeLog, SyncLogError> {
    let changes: Result<Vec<Change>, SyncLogError> =
        records.iter().map(|(key, value)| read_change(key, value)).collect();
    Ok(NodeLog::restore(head, changes?))
}

fn read_change(key: &str, value: &[u8]) -> Result<Change, SyncLogError> {
    serde_json::from_slice(value).map_err(|error| SyncLogError::Record { key: key.to_owned(), error })
}

fn meta_key(node: &str) -> String {
    format!("synchead/{node}/log")
}

// Twenty digits: keys in text order are revisions in order.
fn gone_key(node: &str, revision: u64) -> String {
    format!("sync/{node}/gone/{revision:020}")
}

// Plain data with text keys: encoding it cannot fail.
fn json_of<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bridge_core::{Cursor, Resume};
    use issuer_core::EntryChange;
    use midge_store::StoreInfo;
    use std::path::Path;
    use std::time::Duration;

    fn open(directory: &Path) -> Store {
        Store::open(directory.join("db"), &StoreInfo::new("cloud", "plant")).unwrap()
    }

    fn entry(id: &str, node: &str) -> Arc<RegistrationEntry> {
        let entry = serde_json::json!({
            "id": id, "spiffe_id": format!("spiffe://plant/edge/{node}/app/{id}"),
            "parent_id": format!("spiffe://plant/edge/{node}"), "selectors": [],
        });
        Arc::new(serde_json::from_value(entry).unwrap())
    }

    fn mutation(before: Option<&Arc<RegistrationEntry>>, after: Option<&Arc<RegistrationEntry>>) -> Mutation {
        Mutation::Entry(EntryChange { before: before.cloned(), after: after.cloned() })
    }

    fn inserted(resource: &str) -> (String, Operation, Value) {
        (resource.to_owned(), Operation::Insert, Value::Null)
    }

    async fn next(feed: &Feed) -> Vec<String> {
        let changes = tokio::time::timeout(Duration::from_secs(5), feed.next()).await.unwrap().unwrap();
        changes.into_iter().map(|change| change.resource).collect()
    }

    fn resources(log: &NodeLog) -> Vec<&str> {
        log.live().map(|change| change.resource.as_str()).collect()
    }

    #[tokio::test]
    async fn changes_reach_a_session_in_order_and_only_once_durable() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let logs = SyncLogs::open(store.clone()).await.unwrap();
        let (_, feed) = logs.load("n").await.unwrap();
        let mut batch = Batch::new();
        logs.extend(&mutation(None, Some(&entry("e", "n"))), &mut batch);
        // The hub's later change is durable first.
        logs.append("n", vec![inserted("device/default/led")], Batch::new()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), feed.next()).await.is_err());
        store.commit(batch, Durability::PowerLoss).await.unwrap();
        logs.committed();
        assert_eq!(next(&feed).await, ["identity/entry/e", "device/default/led"]);
    }

    #[tokio::test]
    async fn what_was_not_committed_never_happened() {
        let directory = tempfile::tempdir().unwrap();
        let logs = SyncLogs::open(open(directory.path())).await.unwrap();
        let (_, feed) = logs.load("n").await.unwrap();
        logs.extend(&mutation(None, Some(&entry("e", "n"))), &mut Batch::new());
        logs.aborted();
        logs.append("n", vec![inserted("device/default/led")], Batch::new()).await.unwrap();
        assert_eq!(next(&feed).await, ["device/default/led"]);
        let (log, _) = logs.load("n").await.unwrap();
        assert_eq!((resources(&log), log.head().revision), (vec!["device/default/led"], 2));
    }

    #[tokio::test]
    async fn an_entry_that_moves_leaves_one_node_and_comes_to_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let logs = SyncLogs::open(store.clone()).await.unwrap();
        let (here, there) = (entry("e", "here"), entry("e", "there"));
        for (before, after) in [(None, Some(&here)), (Some(&here), Some(&there))] {
            let mut batch = Batch::new();
            logs.extend(&mutation(before, after), &mut batch);
            store.commit(batch, Durability::PowerLoss).await.unwrap();
            logs.committed();
        }
        // As after a restart.
        let again = SyncLogs::open(store).await.unwrap();
        let (log, _) = again.load("here").await.unwrap();
        assert_eq!((resources(&log).len(), log.head().revision), (0, 2));
        assert_eq!(log.head().id, logs.load("here").await.unwrap().0.head().id);
        assert_eq!(resources(&again.load("there").await.unwrap().0), ["identity/entry/e"]);
    }

    #[tokio::test]
    async fn compaction_keeps_the_newest_tombstones_and_says_who_needs_a_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let logs = SyncLogs::open(store.clone()).await.unwrap();
        let gone = |n: usize| (format!("identity/rule/{n}"), Operation::Delete, Value::Null);
        logs.append("n", (0..TOMBSTONES_MAX + 10).map(gone).collect(), Batch::new()).await.unwrap();
        logs.compact("n").await.unwrap();
        assert_eq!(store.scan("sync/n/gone/").await.unwrap().len(), TOMBSTONES_MAX);
        let again = SyncLogs::open(store).await.unwrap();
        let (log, _) = again.load("n").await.unwrap();
        let cursor = |revision| Cursor { log: log.head().id.clone(), revision };
        assert_eq!(log.resume(&cursor(9)), Resume::Snapshot);
        assert_eq!(log.resume(&cursor(10)), Resume::Delta(10));
    }

    #[tokio::test]
    async fn a_session_that_takes_nothing_is_told_that_it_lags() {
        let directory = tempfile::tempdir().unwrap();
        let logs = SyncLogs::open(open(directory.path())).await.unwrap();
        let (_, feed) = logs.load("n").await.unwrap();
        let many = (0..=FEED_CHANGES_MAX).map(|n| inserted(&format!("identity/rule/{n}"))).collect();
        logs.append("n", many, Batch::new()).await.unwrap();
        assert!(feed.next().await.is_err());
    }
}
