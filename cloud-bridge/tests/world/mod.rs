//! A cloud and its boxes in one process.
#![allow(dead_code, reason = "each test file uses a part")]

use async_trait::async_trait;
use bridge_core::{
    AuditBatch, AuditPlace, AuditRequest, Change, Cursor, DeviceId, DeviceRecord, Extent, Operation,
    SpoolLimits,
};
use cloud_bridge::cloudhub::{AuditSink, CloudHub, CloudHubConfig, CloudHubParts, NodeEvent, SyncLogs};
use cloud_bridge::edgehub::{
    CURSOR_KEY, EdgeHost, EdgeHub, EdgeHubConfig, EdgeHubHandle, EdgeHubParts, EnrolConfig, EnrolmentToken,
    LinkStatus, NodeIdentity, enrol, split_changes,
};
use issuer_core::{RegistrationEntry, Selector};
use midge_identity::TrustDomain;
use midge_issuer::{Authority, CaRequest, Issuer, IssuerConfig};
use midge_runtime::{CancellationToken, Clock};
use midge_store::{Batch, Durability, Store, StoreInfo};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the cloud keeps of each node's events: little, since messages of megabytes take seconds here.
pub(crate) const EVENT_BYTES: usize = 256 * 1024;

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("plant").unwrap()
}

/// Waits until a condition holds, at most 20 s.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn entry(node: &str, path: &str) -> RegistrationEntry {
    let parent = midge_identity::node_id(&trust_domain(), node).unwrap();
    serde_json::from_value(serde_json::json!({
        "id": "",
        "spiffe_id": format!("{parent}/{path}"),
        "parent_id": parent.to_string(),
        "selectors": [Selector { kind: "unix".into(), value: "uid:1000".into() }],
    }))
    .unwrap()
}

pub(crate) struct Cloud {
    pub(crate) issuer: Issuer,
    pub(crate) clock: Clock,
    logs: SyncLogs,
    store: Store,
    /// Audit lines that have come, by node.
    pub(crate) audit: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    running: Mutex<Option<Running>>,
    ports: Mutex<(SocketAddr, SocketAddr)>,
    _directory: TempDir,
}

struct Running {
    hub: CloudHub,
    token: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut IssuerConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("db"), &StoreInfo::new("cloud", "plant")).unwrap();
        let logs = SyncLogs::open(store.clone()).await.unwrap();
        let clock = Clock::system();
        let mut config = IssuerConfig::new(trust_domain(), Authority::SelfSigned, None);
        config.mutation_log = Some(Arc::new(logs.clone()));
        change(&mut config);
        let keys = directory.path().join("keys");
        let issuer = Issuer::open(config, store.clone(), clock.clone(), keys).await.unwrap();
        tokio::spawn(midge_issuer::run(issuer.clone(), CancellationToken::new()));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let cloud = Self {
            issuer,
            clock,
            logs,
            store,
            audit: Arc::default(),
            running: Mutex::new(None),
            ports: Mutex::new((any, any)),
            _directory: directory,
        };
        cloud.start_hub().await;
        cloud
    }

    pub(crate) async fn start_hub(&self) {
        let (websocket, bootstrap) = *self.ports.lock();
        let events = SpoolLimits { event_bytes: EVENT_BYTES, ..SpoolLimits::default() };
        let config = CloudHubConfig { websocket, bootstrap, events, ..CloudHubConfig::default() };
        let parts = CloudHubParts {
            issuer: self.issuer.clone(),
            logs: self.logs.clone(),
            store: self.store.clone(),
            clock: self.clock.clone(),
            audit: Some(Arc::new(Sink(Arc::clone(&self.audit)))),
        };
        let hub = CloudHub::open(config, parts).await.unwrap();
        *self.ports.lock() = (hub.websocket_addr().unwrap(), hub.bootstrap_addr().unwrap());
        let token = CancellationToken::new();
        let (serving, until) = (hub.clone(), token.clone());
        let task = tokio::spawn(async move { serving.run(until).await });
        *self.running.lock() = Some(Running { hub, token, task });
    }

    pub(crate) async fn stop_hub(&self) {
        let running = self.running.lock().take().unwrap();
        running.token.cancel();
        running.task.await.unwrap().unwrap();
    }

    pub(crate) fn hub(&self) -> CloudHub {
        self.running.lock().as_ref().unwrap().hub.clone()
    }

    pub(crate) fn websocket(&self) -> SocketAddr {
        self.ports.lock().0
    }

    pub(crate) fn bootstrap(&self) -> SocketAddr {
        self.ports.lock().1
    }

    pub(crate) async fn enrol_config(&self, node: &str, directory: &Path) -> EnrolConfig {
        let id = midge_identity::node_id(&trust_domain(), node).unwrap();
        let made = self.issuer.create_join_token(Duration::from_secs(600), None, Some(id)).await.unwrap();
        EnrolConfig {
            address: format!("https://{}", self.ports.lock().1),
            token: EnrolmentToken::parse(&self.hub().enrolment_text(&made.token).unwrap()).unwrap(),
            node: node.to_owned(),
            trust_domain: trust_domain(),
            directory: directory.to_owned(),
        }
    }

    /// All events of a node.
    pub(crate) async fn events(&self, node: &str) -> Vec<NodeEvent> {
        let (mut events, mut after) = (Vec::new(), None);
        loop {
            let page = self.hub().events(node, after).await.unwrap();
            let Some((last, _)) = page.last() else { return events };
            after = Some(*last);
            events.extend(page.into_iter().map(|(_, event)| event));
        }
    }

    pub(crate) async fn device_eventually(&self, id: &DeviceId, holds: impl Fn(&DeviceRecord) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let device = self.hub().device(id, None).await.unwrap();
            if holds(&device) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {device:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) struct Edge {
    pub(crate) issuer: Issuer,
    pub(crate) handle: EdgeHubHandle,
    pub(crate) identity: Arc<NodeIdentity>,
    pub(crate) host: Arc<Host>,
    pub(crate) store: Store,
    server: String,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    directory: TempDir,
    clock: Clock,
}

impl Edge {
    pub(crate) async fn join(cloud: &Cloud, node: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = cloud.enrol_config(node, directory.path()).await;
        let identity = Arc::new(enrol(&config, &cloud.clock).await.unwrap());
        Self::open(directory, identity, cloud.websocket().to_string(), node).await
    }

    pub(crate) async fn open(
        directory: TempDir,
        identity: Arc<NodeIdentity>,
        server: String,
        node: &str,
    ) -> Self {
        let clock = Clock::system();
        let store = Store::open(directory.path().join("db"), &StoreInfo::new("edge", "plant")).unwrap();
        let config = IssuerConfig::new(trust_domain(), Authority::Upstream, Some(node.to_owned()));
        let keys = directory.path().join("keys");
        let issuer = Issuer::open(config, store.clone(), clock.clone(), keys).await.unwrap();
        tokio::spawn(midge_issuer::run(issuer.clone(), CancellationToken::new()));
        let host = Arc::new(Host {
            issuer: issuer.clone(),
            store: store.clone(),
            kept: Mutex::default(),
            rules: Mutex::default(),
            replacements: AtomicUsize::new(0),
            audit: Mutex::default(),
        });
        let handle = hub(&server, &host, &store, &clock).await.handle();
        let mut edge =
            Self { issuer, handle, identity, host, store, server, running: None, directory, clock };
        edge.restart().await;
        edge
    }

    /// Starts the edge end anew from what is on disk.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let hub = self.hub().await;
        self.handle = hub.handle();
        let token = CancellationToken::new();
        let task = tokio::spawn(hub.run(Arc::clone(&self.identity), token.clone()));
        self.running = Some((token, task));
        let mut status = self.handle.status();
        tokio::time::timeout(Duration::from_secs(20), status.changed()).await.unwrap().unwrap();
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((token, task)) = self.running.take() {
            token.cancel();
            task.await.unwrap();
        }
    }

    /// The edge end from what is on disk, not running.
    pub(crate) async fn hub(&self) -> EdgeHub {
        hub(&self.server, &self.host, &self.store, &self.clock).await
    }

    pub(crate) fn status(&self) -> LinkStatus {
        self.handle.status().borrow().clone()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn devices(&self) -> BTreeMap<String, Value> {
        self.kept("device/")
    }

    pub(crate) fn rules(&self) -> Value {
        self.host.rules.lock().clone().into_iter().collect()
    }

    pub(crate) fn replacements(&self) -> usize {
        self.host.replacements.load(Ordering::Relaxed)
    }

    fn kept(&self, prefix: &str) -> BTreeMap<String, Value> {
        let kept = self.host.kept.lock();
        kept.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

async fn hub(server: &str, host: &Arc<Host>, store: &Store, clock: &Clock) -> EdgeHub {
    let mut config = EdgeHubConfig::new(server);
    config.reconnect_max = Duration::from_millis(300);
    let parts = EdgeHubParts {
        host: Arc::clone(host) as Arc<dyn EdgeHost>,
        store: store.clone(),
        clock: clock.clone(),
    };
    EdgeHub::open(config, parts).await.unwrap()
}

/// The box: its identity server, and a map for what others would keep.
pub(crate) struct Host {
    issuer: Issuer,
    store: Store,
    kept: Mutex<BTreeMap<String, Value>>,
    rules: Mutex<BTreeMap<String, Value>>,
    replacements: AtomicUsize,
    /// The box's audit log.
    pub(crate) audit: Mutex<Vec<String>>,
}

#[async_trait]
impl EdgeHost for Host {
    async fn cursor(&self) -> Result<Option<Cursor>, String> {
        let value = self.store.get(CURSOR_KEY).await.map_err(|error| error.to_string())?;
        value.map(|value| serde_json::from_slice(&value).map_err(|error| error.to_string())).transpose()
    }

    async fn apply(&self, changes: Vec<Change>, cursor: Cursor, extent: Extent) -> Result<(), String> {
        let split = split_changes(changes, extent, &trust_domain());
        assert!(split.skipped.is_empty(), "{:?}", split.skipped);
        if extent == Extent::Snapshot {
            self.replacements.fetch_add(1, Ordering::Relaxed);
            self.kept.lock().clear();
        }
        if let Some(rules) = split.rules {
            *self.rules.lock() = rules;
        }
        for change in split.devices {
            let mut kept = self.kept.lock();
            match change.operation {
                Operation::Delete => kept.remove(&change.resource),
                _ => kept.insert(change.resource, change.content),
            };
        }
        let cursor = Batch::new().put(CURSOR_KEY, serde_json::to_vec(&cursor).unwrap());
        if split.identity.is_empty() {
            return self.store.commit(cursor, Durability::PowerLoss).await.map_err(|error| error.to_string());
        }
        let refused =
            self.issuer.apply_cloud(split.identity, cursor).await.map_err(|error| error.to_string())?;
        assert!(refused.is_empty(), "{refused:?}");
        Ok(())
    }

    fn ca_request(&self) -> watch::Receiver<Option<CaRequest>> {
        self.issuer.ca_request()
    }

    async fn install_ca(&self, chain: Vec<Vec<u8>>, roots: Vec<Vec<u8>>) -> Result<(), String> {
        self.issuer.install_upstream(chain, roots).await.map_err(|error| error.to_string())
    }

    async fn audit_after(&self, after: Option<AuditPlace>) -> Result<Option<AuditBatch>, String> {
        let seq = usize::try_from(after.as_ref().map_or(0, |place| place.seq)).unwrap();
        let lines: Vec<String> = self.audit.lock().iter().skip(seq).take(2).cloned().collect();
        Ok((!lines.is_empty()).then(|| AuditBatch { log: "log".into(), after, lines }))
    }
}

struct Sink(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

#[async_trait]
impl AuditSink for Sink {
    async fn handle(&self, node: &str, request: AuditRequest) -> Result<Option<AuditPlace>, String> {
        let mut logs = self.0.lock();
        let lines = logs.entry(node.to_owned()).or_default();
        let place = |lines: &Vec<String>| {
            let (seq, hash) = (lines.len() as u64, lines.last()?.clone());
            Some(AuditPlace { log: "log".into(), seq, hash })
        };
        if let AuditRequest::Append(batch) = request
            && batch.after == place(lines)
        {
            lines.extend(batch.lines);
        }
        Ok(place(lines))
    }
}
