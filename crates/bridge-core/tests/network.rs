//! Both ends over a network that loses, doubles, delays and reorders, in virtual time, with both
//! ends crashing at any point. Nothing acknowledged is lost, and both converge.
#![expect(clippy::unwrap_used, reason = "tests")]

use bridge_core::{
    AuditBatch, AuditPlace, AuditRequest, Change, CloudConfig, CloudEffect, CloudSync, Cursor, EdgeConfig,
    EdgeEffect, EdgeSync, Extent, Limits, Message, NodeLog, Now, Operation, SignedChain, SigningKind,
    SigningRequest, Spool, SpoolLimits, SpoolWrite, StoreTicket, UnixMillis, UpwardItem, UpwardKind,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What happens later.
enum Event {
    ToEdge(u64, String),
    ToCloud(u64, String),
    Applied(u64, Result<(), String>),
    Installed(u64, SigningKind, Result<(), String>),
    AuditRead(u64, Result<Option<AuditBatch>, String>),
    Audited(u64, StoreTicket, Result<Option<AuditPlace>, String>),
    Stored(u64, StoreTicket, Result<(), String>),
    Signed(u64, StoreTicket, Result<SignedChain, String>),
}

#[derive(Default)]
struct EdgeDisk {
    content: BTreeMap<String, Value>,
    cursor: Option<Cursor>,
    spool: BTreeMap<String, Vec<u8>>,
    certificate: Option<SignedChain>,
    /// The signed lines of the audit log.
    audit: Vec<String>,
}

#[derive(Default)]
struct CloudDisk {
    latest: BTreeMap<String, (u64, Value)>,
    events: BTreeMap<u64, Value>,
    audit: Vec<String>,
}

struct World {
    rng: Rng,
    now: Duration,
    events: BTreeMap<(Duration, u64), Event>,
    next_event: u64,
    faults: bool,
    edge: EdgeSync,
    edge_life: u64,
    /// Deletions that are not on disk yet.
    forgotten: Vec<SpoolWrite>,
    edge_disk: EdgeDisk,
    cloud: Option<CloudSync>,
    connection: u64,
    reconnect_at: Option<Duration>,
    log: NodeLog,
    cloud_disk: CloudDisk,
    pushed_events: Vec<Value>,
    pushed_latest: BTreeMap<String, Value>,
    snapshots: u64,
    deltas: u64,
}

fn limits() -> Limits {
    Limits {
        window: 4,
        apply_batch: 3,
        snapshot_part_bytes: 200,
        audit_every: Duration::from_secs(10),
        ..Limits::default()
    }
}

impl EdgeDisk {
    fn write(&mut self, write: SpoolWrite) {
        match write {
            SpoolWrite::Put(key, value) => self.spool.insert(key, value),
            SpoolWrite::Delete(key) => self.spool.remove(&key),
        };
    }
}

fn edge_of(disk: &EdgeDisk, seed: u64) -> EdgeSync {
    let spool = Spool::restore(format!("spool{seed}"), SpoolLimits::default(), disk.spool.clone()).unwrap();
    EdgeSync::new(EdgeConfig { limits: limits(), seed }, disk.cursor.clone(), spool)
}

impl World {
    fn new(seed: u64) -> Self {
        let edge_disk = EdgeDisk::default();
        Self {
            rng: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            next_event: 0,
            faults: true,
            edge: edge_of(&edge_disk, seed),
            edge_life: 0,
            forgotten: Vec::new(),
            edge_disk,
            cloud: None,
            connection: 0,
            reconnect_at: Some(Duration::ZERO),
            log: NodeLog::new("log"),
            cloud_disk: CloudDisk::default(),
            pushed_events: Vec::new(),
            pushed_latest: BTreeMap::new(),
            snapshots: 0,
            deltas: 0,
        }
    }

    fn at(&self) -> Now {
        Now { mono: self.now, wall: UnixMillis(1_700_000_000_000).after(self.now) }
    }

    fn later(&mut self, event: Event) {
        let delay = Duration::from_millis(self.rng.below(if self.faults { 3000 } else { 20 }));
        self.next_event += 1;
        self.events.insert((self.now + delay, self.next_event), event);
    }

    fn transmit(&mut self, message: &Message, event: impl Fn(u64, String) -> Event) {
        if self.faults && self.rng.chance(15) {
            return;
        }
        let text = message.encode().unwrap();
        if self.faults && self.rng.chance(15) {
            self.later(event(self.connection, text.clone()));
        }
        self.later(event(self.connection, text));
    }

    fn disconnect(&mut self) {
        self.cloud = None;
        self.edge.handle_disconnected();
        self.connection += 1;
        let pause = Duration::from_millis(self.rng.below(4000));
        self.reconnect_at = Some(self.now + pause);
    }

    fn connect(&mut self) {
        self.reconnect_at = None;
        let seed = self.rng.next();
        let config = CloudConfig { limits: limits(), seed };
        self.cloud = Some(CloudSync::new(config, self.log.clone(), self.at()));
        let now = self.at();
        self.edge.handle_connected(now);
    }

    fn failing(&mut self) -> Result<(), String> {
        if self.faults && self.rng.chance(10) { Err("disk full".into()) } else { Ok(()) }
    }

    fn run_edge_effects(&mut self) {
        while let Some(effect) = self.edge.poll_effect() {
            match effect {
                EdgeEffect::Send(message) => self.transmit(&message, Event::ToCloud),
                EdgeEffect::Apply { changes, cursor, extent } => {
                    let result = self.failing();
                    if result.is_ok() {
                        self.apply(changes, cursor, extent);
                    }
                    self.later(Event::Applied(self.edge_life, result));
                }
                EdgeEffect::Forget(write) => self.forgotten.push(write),
                EdgeEffect::Install(kind, signed) => {
                    let result = self.failing();
                    if result.is_ok() {
                        self.edge_disk.certificate = Some(signed);
                    }
                    self.later(Event::Installed(self.edge_life, kind, result));
                }
                EdgeEffect::ReadAudit { after } => {
                    let batch = self.failing().map(|()| self.audit_after(after));
                    self.later(Event::AuditRead(self.edge_life, batch));
                }
                EdgeEffect::Disconnect(_) => self.disconnect(),
            }
        }
        if self.failing().is_ok() {
            std::mem::take(&mut self.forgotten).into_iter().for_each(|write| self.edge_disk.write(write));
        }
    }

    /// At most three lines, so that there are many batches.
    fn audit_after(&self, after: Option<AuditPlace>) -> Option<AuditBatch> {
        let seq = usize::try_from(after.as_ref().map_or(0, |place| place.seq)).unwrap();
        let lines: Vec<String> = self.edge_disk.audit.iter().skip(seq).take(3).cloned().collect();
        (!lines.is_empty()).then(|| AuditBatch { log: "audit".into(), after, lines })
    }

    fn take_audit(&mut self, request: AuditRequest) -> Option<AuditPlace> {
        let place = |lines: &Vec<String>| {
            let (seq, hash) = (lines.len() as u64, lines.last()?.clone());
            Some(AuditPlace { log: "audit".into(), seq, hash })
        };
        let known = &mut self.cloud_disk.audit;
        if let AuditRequest::Append(batch) = request
            && batch.after == place(known)
        {
            known.extend(batch.lines);
        }
        place(known)
    }

    fn apply(&mut self, changes: Vec<Change>, cursor: Cursor, extent: Extent) {
        if extent == Extent::Snapshot {
            self.snapshots += 1;
            self.edge_disk.content.clear();
        } else {
            self.deltas += 1;
            let known = self.edge_disk.cursor.as_ref().unwrap();
            assert!(cursor.revision >= known.revision, "the cursor went back: {known:?} {cursor:?}");
        }
        let mut last = 0;
        for change in changes {
            assert!(change.revision > last, "out of order");
            last = change.revision;
            match change.operation {
                Operation::Delete => self.edge_disk.content.remove(&change.resource),
                _ => self.edge_disk.content.insert(change.resource, change.content),
            };
        }
        self.edge_disk.cursor = Some(cursor);
    }

    fn run_cloud_effects(&mut self) {
        while let Some(effect) = self.cloud.as_mut().and_then(CloudSync::poll_effect) {
            match effect {
                CloudEffect::Send(message) => self.transmit(&message, Event::ToEdge),
                CloudEffect::Store(ticket, upward) => {
                    let result = self.failing();
                    if result.is_ok() {
                        let seq = upward.seq.unwrap();
                        if matches!(upward.kind, UpwardKind::Audit(_)) {
                            self.cloud_disk.events.insert(seq, upward.content);
                        } else {
                            let latest = self.cloud_disk.latest.entry(upward.resource).or_default();
                            if seq > latest.0 {
                                *latest = (seq, upward.content);
                            }
                        }
                    }
                    self.later(Event::Stored(self.connection, ticket, result));
                }
                CloudEffect::Sign(ticket, kind, request) => {
                    assert_eq!(kind, SigningKind::Ca);
                    let signed = SignedChain { chain: vec![request.csr_der], roots: vec![vec![9]] };
                    let result = self.failing().map(|()| signed);
                    self.later(Event::Signed(self.connection, ticket, result));
                }
                CloudEffect::Audit(ticket, request) => {
                    let result = self.failing().map(|()| self.take_audit(request));
                    self.later(Event::Audited(self.connection, ticket, result));
                }
                CloudEffect::Disconnect(_) => self.disconnect(),
            }
        }
    }

    fn deliver(&mut self, event: Event) {
        let now = self.at();
        let (connection, life) = (self.connection, self.edge_life);
        match event {
            Event::ToEdge(on, text) if on == connection => {
                self.edge.handle_message(&Message::decode(text.as_bytes(), 1 << 20).unwrap(), now);
            }
            Event::Applied(of, result) if of == life => self.edge.handle_applied(result, now),
            Event::Installed(of, kind, result) if of == life => self.edge.handle_installed(kind, result, now),
            Event::AuditRead(of, read) if of == life => self.edge.handle_audit_read(read, now),
            Event::Audited(on, ticket, result) if on == connection => {
                self.with_cloud(|cloud| cloud.handle_audited(&ticket, result, now));
            }
            Event::ToCloud(on, text) if on == connection => {
                let message = Message::decode(text.as_bytes(), 1 << 20).unwrap();
                self.with_cloud(|cloud| cloud.handle_message(&message, now));
            }
            Event::Stored(on, ticket, result) if on == connection => {
                self.with_cloud(|cloud| cloud.handle_stored(&ticket, result, now));
            }
            Event::Signed(on, ticket, result) if on == connection => {
                self.with_cloud(|cloud| cloud.handle_signed(&ticket, result, now));
            }
            _ => {}
        }
    }

    fn with_cloud(&mut self, act: impl FnOnce(&mut CloudSync)) {
        if let Some(cloud) = &mut self.cloud {
            act(cloud);
        }
    }

    fn step(&mut self) {
        let due = [
            self.events.keys().next().map(|(at, _)| *at),
            self.edge.poll_timeout(),
            self.cloud.as_ref().and_then(CloudSync::poll_timeout),
            self.reconnect_at,
        ];
        let next = due.into_iter().flatten().min().unwrap().max(self.now);
        self.now = next;
        let now = self.at();
        if self.reconnect_at.is_some_and(|at| at <= self.now) {
            self.connect();
        }
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= self.now
        {
            let event = entry.remove();
            self.deliver(event);
            self.settle();
        }
        self.edge.handle_timeout(now);
        self.with_cloud(|cloud| cloud.handle_timeout(now));
        self.settle();
    }

    fn settle(&mut self) {
        self.run_edge_effects();
        self.run_cloud_effects();
    }

    fn mutate_cloud(&mut self) {
        let resource = format!("identity/entry/{}", self.rng.below(12));
        let exists = self.log.change(&resource).is_some_and(|known| known.operation != Operation::Delete);
        let change = if exists && self.rng.chance(40) {
            self.log.append(resource, Operation::Delete, Value::Null)
        } else {
            let operation = if exists { Operation::Update } else { Operation::Insert };
            let value = self.rng.next();
            self.log.append(resource, operation, value.into())
        };
        let now = self.at();
        self.with_cloud(|cloud| cloud.handle_changes([change], now));
        if self.rng.chance(10) {
            self.log.compact(2);
        }
    }

    fn push_upward(&mut self) {
        let value = Value::from(self.pushed_events.len() + self.pushed_latest.len() * 1000);
        let now = self.at();
        if self.rng.chance(50) {
            self.store_upward(UpwardItem::audit("connect", value.clone()), now);
            self.pushed_events.push(value);
        } else {
            let device = format!("d{}", self.rng.below(3)).parse().unwrap();
            let content = json!({ "twin": self.rng.next() });
            let item = UpwardItem::twin(&device, content.clone());
            self.pushed_latest.insert(item.key.clone().unwrap(), content);
            self.store_upward(item, now);
        }
    }

    /// Hands a report over again until it is on disk, as whoever reports does.
    fn store_upward(&mut self, item: UpwardItem, now: Now) {
        loop {
            let writes = self.edge.handle_upward(vec![item.clone()]);
            let stored = self.failing();
            self.edge.handle_stored(stored.is_ok(), now);
            if stored.is_ok() {
                writes.into_iter().for_each(|write| self.edge_disk.write(write));
                return;
            }
        }
    }

    fn crash_edge(&mut self) {
        self.edge_life += 1;
        self.forgotten.clear();
        self.disconnect();
        let seed = self.rng.next();
        self.edge = edge_of(&self.edge_disk, seed);
        if self.edge_disk.certificate.is_none() {
            let now = self.at();
            self.edge.handle_signing_request(SigningKind::Ca, Some(csr()), now);
        }
    }

    fn run(&mut self, steps: usize) {
        let now = self.at();
        self.edge.handle_signing_request(SigningKind::Ca, Some(csr()), now);
        for _ in 0..steps {
            match self.rng.below(100) {
                0..20 => self.mutate_cloud(),
                20..32 => self.push_upward(),
                36..46 => self.edge_disk.audit.push(format!("line {}", self.edge_disk.audit.len() + 1)),
                32..34 => self.crash_edge(),
                34..36 => self.disconnect(),
                _ => {}
            }
            self.settle();
            self.step();
        }
        self.faults = false;
        let end = self.now + Duration::from_secs(180);
        while self.now < end {
            self.step();
        }
    }

    fn assert_converged(&self, seed: u64) {
        let live: BTreeMap<String, Value> =
            self.log.live().map(|change| (change.resource.clone(), change.content.clone())).collect();
        assert_eq!(self.edge_disk.content, live, "seed {seed}");
        assert_eq!(self.edge.cursor().revision, self.log.head().revision, "seed {seed}");
        let events: Vec<Value> = self.cloud_disk.events.values().cloned().collect();
        assert_eq!(events, self.pushed_events, "seed {seed}");
        let latest: BTreeMap<String, Value> =
            self.cloud_disk.latest.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect();
        assert_eq!(latest, self.pushed_latest, "seed {seed}");
        assert!(!self.edge_disk.audit.is_empty(), "seed {seed}");
        assert_eq!(self.cloud_disk.audit, self.edge_disk.audit, "seed {seed}");
        let place = self.edge.audit_place().map(|place| place.seq);
        assert_eq!(place, Some(self.edge_disk.audit.len() as u64), "seed {seed}");
        assert_eq!(self.edge.audit_error(), None, "seed {seed}");
        assert!(self.edge.spool().is_empty(), "seed {seed}");
        assert!(self.edge_disk.spool.keys().all(|key| key == "meta"), "seed {seed}");
        assert_eq!(self.edge_disk.certificate.as_ref().map(|c| c.chain.clone()), Some(vec![csr().csr_der]));
        assert!(self.cloud.as_ref().is_some_and(CloudSync::is_synced), "seed {seed}");
        assert!(self.edge.is_greeted() && self.edge.last_error().is_none(), "{:?}", self.edge.last_error());
    }
}

fn csr() -> SigningRequest {
    SigningRequest { csr_der: vec![1, 2, 3], ttl_secs: 60 }
}

#[test]
fn both_ends_converge_whatever_the_network_does() {
    let (mut snapshots, mut deltas) = (0, 0);
    for seed in 1..=60 {
        let mut world = World::new(seed);
        world.run(450);
        world.assert_converged(seed);
        snapshots += world.snapshots;
        deltas += world.deltas;
    }
    // Both ways of resuming were taken often, or the test shows little.
    assert!(snapshots > 60 && deltas > 450, "{snapshots} snapshots, {deltas} deltas");
}

#[test]
fn a_cloud_that_starts_another_log_replaces_everything() {
    let mut world = World::new(7);
    world.run(200);
    world.disconnect();
    world.log = NodeLog::new("another log");
    world.log.append("identity/entry/only", Operation::Insert, 1.into());
    let end = world.now + Duration::from_secs(60);
    while world.now < end {
        world.step();
    }
    assert_eq!(world.edge_disk.content.keys().collect::<Vec<_>>(), ["identity/entry/only"]);
    assert_eq!(world.edge.cursor().log, "another log");
}

#[test]
fn a_cloud_restored_to_an_older_state_replaces_everything() {
    let mut world = World::new(9);
    world.run(200);
    world.disconnect();
    world.log = NodeLog::new("log");
    world.log.append("identity/entry/old", Operation::Insert, 1.into());
    let end = world.now + Duration::from_secs(60);
    while world.now < end {
        world.step();
    }
    assert_eq!(world.edge_disk.content.keys().collect::<Vec<_>>(), ["identity/entry/old"]);
}
