//! The audit logs of nodes at their cloud: a copy each, taken over as it arrives, and what is wrong with them.

use super::problems::{Problem, Problems};
use anyhow::Context as _;
use async_trait::async_trait;
use bridge_core::{AuditPlace, AuditRequest};
use cloud_bridge::cloudhub::AuditSink;
use midge_audit::{Copy, CopyState, Head, copy_state};
use midge_runtime::Clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Nodes whose troubles are told in full.
const TOLD_MAX: usize = 3;

/// Returns the directory with the copy of a node's audit log.
pub(crate) fn node_dir(data_dir: &Path, node: &str) -> PathBuf {
    data_dir.join("node-audit").join(node)
}

/// All copies of one cloud. Clones share them.
#[derive(Clone)]
pub(crate) struct NodeAudit(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    bytes_max: u64,
    clock: Clock,
    problems: Problems,
    /// Opened at the first word of a node; `None` when it has to be opened again.
    copies: Mutex<BTreeMap<String, Arc<Mutex<Option<Copy>>>>>,
    /// What is wrong and not accepted, by node.
    troubles: Mutex<BTreeMap<String, Trouble>>,
    lines: AtomicU64,
}

#[derive(Clone, Debug)]
struct Trouble {
    count: u64,
    text: String,
}

impl NodeAudit {
    /// Reads what is known of the copies.
    pub(crate) fn open(
        data_dir: &Path,
        bytes_max: u64,
        clock: Clock,
        problems: Problems,
    ) -> anyhow::Result<Self> {
        let dir = data_dir.join("node-audit");
        let mut troubles = BTreeMap::new();
        for item in std::fs::read_dir(&dir).into_iter().flatten() {
            let item = item.with_context(|| format!("cannot read {}", dir.display()))?;
            let state = copy_state(&item.path())?.unwrap_or_default();
            if let Some(trouble) = trouble(&state) {
                troubles.insert(item.file_name().to_string_lossy().into_owned(), trouble);
            }
        }
        let (copies, troubles) = (Mutex::default(), Mutex::new(troubles));
        let lines = AtomicU64::new(0);
        let shared = Shared { dir, bytes_max, clock, problems, copies, troubles, lines };
        shared.show();
        Ok(Self(Arc::new(shared)))
    }

    /// Lines taken since the start.
    pub(crate) fn lines(&self) -> u64 {
        self.0.lines.load(Ordering::Relaxed)
    }

    /// What is wrong with all copies together and was not accepted.
    pub(crate) fn findings(&self) -> u64 {
        self.0.troubles.lock().values().map(|trouble| trouble.count).sum()
    }

    /// Takes what was found wrong with a node's log as known; `midge status` tells of it no more. Returns how much
    /// that was, or nothing for a node of which there is no log.
    pub(crate) async fn accept(&self, node: &str) -> Result<Option<u64>, String> {
        let (audit, name) = (Arc::clone(&self.0), node.to_owned());
        let accepted = tokio::task::spawn_blocking(move || {
            if !audit.dir.join(&name).is_dir() {
                return Ok(None);
            }
            let known = audit.troubles.lock().get(&name).map_or(0, |trouble| trouble.count);
            audit.with(&name, |copy| copy.accept().map(|()| Some(known)))
        });
        accepted.await.map_err(|error| error.to_string())?
    }
}

impl Shared {
    fn with<T>(
        &self,
        node: &str,
        act: impl FnOnce(&mut Copy) -> Result<T, midge_audit::AuditError>,
    ) -> Result<T, String> {
        let place = Arc::clone(self.copies.lock().entry(node.to_owned()).or_default());
        let mut held = place.lock();
        let (dir, now) = (self.dir.join(node), self.clock.now());
        let opened = match held.take() {
            Some(copy) => Ok(copy),
            None => Copy::open(&dir, self.bytes_max, now),
        };
        let mut copy = opened.map_err(|error| error.to_string())?;
        let result = act(&mut copy).map_err(|error| error.to_string());
        self.notice(node, copy.state());
        if result.is_ok() {
            *held = Some(copy);
        }
        result
    }

    fn notice(&self, node: &str, state: &CopyState) {
        let now = trouble(state);
        let mut troubles = self.troubles.lock();
        let before = troubles.get(node).map_or(0, |trouble| trouble.count);
        if before == now.as_ref().map_or(0, |trouble| trouble.count) {
            return;
        }
        match now {
            Some(trouble) => troubles.insert(node.to_owned(), trouble),
            None => troubles.remove(node),
        };
        drop(troubles);
        self.show();
    }

    fn show(&self) {
        let troubles = self.troubles.lock();
        let problem = troubles.keys().next().map(|first| {
            let told = troubles.iter().take(TOLD_MAX);
            let told: Vec<String> =
                told.map(|(node, trouble)| format!("{node} ({}): {}", trouble.count, trouble.text)).collect();
            let more = match troubles.len().saturating_sub(TOLD_MAX) {
                0 => String::new(),
                more => format!("; and of {more} more"),
            };
            Problem {
                what: format!("audit log of {}{more}", told.join("; of ")),
                remedy: format!(
                    "find out why with `midge audit verify --node {first}`, then `midge audit accept {first}`"
                ),
            }
        });
        self.problems.set("node-audit", problem);
    }

    fn take(&self, node: &str, request: AuditRequest) -> Result<Option<AuditPlace>, String> {
        let now = self.clock.now();
        self.with(node, |copy| {
            if let AuditRequest::Append(batch) = request {
                // A place that is none of a log's is not the last line here.
                let after = batch.after.as_ref().map(|after| head_of(after).unwrap_or_default());
                let lines: Vec<&[u8]> = batch.lines.iter().map(String::as_bytes).collect();
                let before = copy.head().cloned();
                copy.append(after.as_ref(), &batch.log, &lines, now)?;
                if copy.head() != before.as_ref() {
                    self.lines.fetch_add(u64::try_from(lines.len()).unwrap_or(0), Ordering::Relaxed);
                }
            }
            Ok(copy.head().map(place_of))
        })
    }
}

#[async_trait]
impl AuditSink for NodeAudit {
    async fn handle(&self, node: &str, request: AuditRequest) -> Result<Option<AuditPlace>, String> {
        let (audit, node) = (Arc::clone(&self.0), node.to_owned());
        let taken = tokio::task::spawn_blocking(move || audit.take(&node, request)).await;
        taken.map_err(|error| error.to_string())?
    }
}

fn trouble(state: &CopyState) -> Option<Trouble> {
    let (count, newest) = state.unaccepted()?;
    Some(Trouble { count, text: newest.to_owned() })
}

pub(crate) fn place_of(head: &Head) -> AuditPlace {
    AuditPlace { log: head.log.clone(), seq: head.seq, hash: head.hash.to_string() }
}

/// Reads a place; `None` when its hash is none.
pub(crate) fn head_of(place: &AuditPlace) -> Option<Head> {
    Some(Head { log: place.log.clone(), seq: place.seq, hash: place.hash.parse().ok()? })
}
