//! Loss of power at any moment: what the broker wrote is recorded, and stores are made as a disk may hold them that
//! lost power at some point. Of what was not synced then each write is there, is not, or is torn.
//!
//! `MIDGE_POWER_CUTS=2000 cargo test -p midge --test acceptance -- power_cut --nocapture` is the long form. The
//! recorder is a library for `LD_PRELOAD` that the C compiler makes (`recorder.c`).

use crate::client::{Client, Who};
use crate::crash::link::Link;
use crate::crash::{Publisher, Random, Stage, Subscriber, number};
use crate::support::{Place, Server, midge, own_uid, skip};
use broker_core::{Broker, Config, Now, Record, RecordKey};
use midge_identity::UnixMillis;
use midge_policy::Policy;
use midge_store::{Store, StoreInfo};
use mqtt_proto::{Packet, PacketId, Publish, QoS, ReasonCode, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Size of what a disk writes as a whole.
const SECTOR: usize = 512;
const MESSAGES: u32 = 300;
/// Rounds of what one client is promised besides.
const ROUNDS: u16 = 40;

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

enum Operation {
    Change(Change),
    Sync,
    Open(String),
    Unlink,
}

/// The recorded operations by file, each with the length of the log once it was recorded.
fn operations(log: &[u8]) -> Vec<(usize, u8, Operation)> {
    let (mut operations, mut at) = (Vec::new(), 0);
    while let Some(head) = log.get(at..at + 14) {
        let offset = usize::try_from(u64::from_ne_bytes(head[2..10].try_into().unwrap())).unwrap();
        let length = u32::from_ne_bytes(head[10..14].try_into().unwrap()) as usize;
        let Some(data) = log.get(at + 14..at + 14 + length) else { break };
        let text = || String::from_utf8(data.to_vec()).unwrap();
        let operation = match head[0] {
            b'W' => Operation::Change(Change::Write(offset, data.to_vec())),
            b'T' => Operation::Change(Change::Truncate(offset)),
            b'S' => Operation::Sync,
            b'O' => Operation::Open(text()),
            b'U' => Operation::Unlink,
            other => panic!("no operation {other}"),
        };
        at += 14 + length;
        operations.push((at, head[1], operation));
    }
    operations
}

/// One file: what is safe, and what may be there or not.
#[derive(Default)]
struct File {
    name: String,
    safe: Vec<u8>,
    unsynced: Vec<Change>,
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => content.resize(*length, 0),
        Change::Write(offset, data) => {
            if content.len() < offset + data.len() {
                content.resize(offset + data.len(), 0);
            }
            content[*offset..offset + data.len()].copy_from_slice(data);
        }
    }
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            apply(&mut self.safe, &change);
        }
    }

    /// What the disk may hold.
    fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut content = self.safe.clone();
        for change in &self.unsynced {
            match (random.below(3), change) {
                (0, _) => {}
                (1, Change::Write(offset, data)) => {
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            apply(&mut content, &Change::Write(offset + at * SECTOR, sector.to_vec()));
                        }
                    }
                }
                (_, change) => apply(&mut content, change),
            }
        }
        content
    }
}

/// The files after these operations and the loss of power.
fn disk_after(
    operations: &[(usize, u8, Operation)],
    base: &[u8],
    random: &mut Random,
) -> Vec<(String, Vec<u8>)> {
    let mut files: BTreeMap<u8, File> = BTreeMap::new();
    for (_, file, operation) in operations {
        let file = files.entry(*file).or_default();
        match operation {
            Operation::Change(change) => file.unsynced.push(change.clone()),
            Operation::Sync => file.sync(),
            Operation::Unlink => (file.safe, file.unsynced) = (Vec::new(), Vec::new()),
            Operation::Open(path) => {
                let name = Path::new(path).file_name().unwrap().to_str().unwrap();
                if file.name.is_empty() && name == "mqtt.db" {
                    file.safe = base.to_vec();
                }
                file.name = name.to_owned();
            }
        }
    }
    if !files.values().any(|file| file.name == "mqtt.db") {
        return vec![("mqtt.db".into(), base.to_vec())];
    }
    files.values().map(|file| (file.name.clone(), file.after_power_cut(random))).collect()
}

/// What a client was told that it can count on: SUBACK, PUBACK of a retained message, PUBREC, CONNACK with a will.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Promise {
    Subscribed(String),
    Retained(String),
    Held(u16),
    Will(String),
}

/// What is left after the loss of power.
#[derive(Default)]
struct Left {
    /// The numbers that wait for a subscriber, by topic, in their order.
    waiting: BTreeMap<String, Vec<u32>>,
    kept: BTreeSet<Promise>,
}

fn left(dir: &Path) -> Left {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(dir.join("mqtt.db"), &StoreInfo::new("mqtt", "plant.example")).unwrap();
    let rows = runtime.block_on(store.scan("")).unwrap();
    runtime.block_on(store.close()).unwrap();
    let records: Vec<(RecordKey, Record)> = rows
        .iter()
        .map(|(key, bytes)| {
            let key = RecordKey::parse(key).unwrap();
            (key, Record::decode(key, bytes).unwrap())
        })
        .collect();
    let now = Now { mono: Duration::ZERO, wall: UnixMillis::from_secs(0) };
    let mut broker = Broker::new(Config::default(), Arc::new(Policy::compile(Vec::new(), 1).unwrap()));
    let restored = broker.restore(records.clone(), now);
    assert!(restored.sessions >= 4);

    let (mut messages, mut left) = (BTreeMap::new(), Left::default());
    for (key, record) in records {
        match record {
            Record::Message(stored) => drop(messages.insert(key.number, stored.message)),
            Record::Queued(queued) => {
                let publication = messages[&queued.message].publication();
                let number = std::str::from_utf8(&publication.payload).unwrap().parse().unwrap();
                left.waiting.entry(publication.topic.as_str().to_owned()).or_default().push(number);
            }
            Record::Subscription(record) => {
                left.kept.insert(Promise::Subscribed(record.filter.filter.as_str().into()));
            }
            Record::Retained => {
                let publication = messages[&key.number].publication();
                left.kept.insert(Promise::Retained(publication.topic.as_str().into()));
            }
            Record::Held(_) => drop(left.kept.insert(Promise::Held(key.number.try_into().unwrap()))),
            Record::Will(record) => drop(left.kept.insert(Promise::Will(record.client_id.to_string()))),
            Record::Session(_)
            | Record::Outgoing(_)
            | Record::Time(_)
            | Record::Lent(_)
            | Record::Revoked(_) => {}
        }
    }
    left
}

fn length(log: &Path) -> usize {
    usize::try_from(std::fs::metadata(log).unwrap().len()).unwrap()
}

/// Promises, each with the length of the log by then, and the clients whose wills are sent once they are dropped.
type Promised = (Vec<(usize, Promise)>, Vec<Client>);

/// Has one client promised one thing after the other.
fn promises(stage: &Arc<Stage>, log: &Path) -> std::thread::JoinHandle<Promised> {
    let (stage, log) = (Arc::clone(stage), log.to_owned());
    std::thread::spawn(move || {
        let (mut link, mut mortals, mut all) =
            (Link::open(&stage, "keeper").unwrap().0, Vec::new(), Vec::new());
        let mut note = |promise| all.push((length(&log), promise));
        for n in 1..=ROUNDS {
            link.subscribe(&format!("demo/subscribed/{n}"), QoS::AtLeastOnce).unwrap();
            note(Promise::Subscribed(format!("demo/subscribed/{n}")));
            let topic = format!("demo/retained/{n}");
            let id = say(&mut link, &topic, (QoS::AtLeastOnce, true), 1000);
            assert!(
                matches!(&id, Packet::PubAck(ack) if ack.reason == ReasonCode::NoMatchingSubscribers),
                "{id:?}"
            );
            note(Promise::Retained(topic));
            let answer = say(&mut link, "demo/held", (QoS::ExactlyOnce, false), n);
            assert!(
                matches!(&answer, Packet::PubRec(ack) if ack.reason == ReasonCode::Success),
                "{answer:?}"
            );
            note(Promise::Held(n));
            let id = format!("mortal-{n}");
            let who = Who { id: &id, will: Some("demo/will"), ..Who::default() };
            mortals.push(Client::tcp(&stage.address().unwrap(), &who).ok().unwrap());
            note(Promise::Will(id));
        }
        (all, mortals)
    })
}

/// Publishes a message and returns the first answer.
fn say(link: &mut Link, topic: &str, (qos, retain): (QoS, bool), id: u16) -> Packet {
    let publish = Publish {
        dup: false,
        qos,
        retain,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: PacketId::new(id),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: bytes::Bytes::from_static(b"0"),
    };
    link.send(&Packet::Publish(Box::new(publish))).unwrap();
    link.wait().unwrap()
}

/// How many messages were acknowledged, by the length of the log at that time.
type Acknowledged = Vec<(usize, u32)>;

fn publish(stage: &Arc<Stage>, name: &str, qos: QoS, log: &Path) -> std::thread::JoinHandle<Acknowledged> {
    let mut publisher = Publisher::new(format!("pub-{name}"), format!("demo/{name}"), qos);
    let (stage, log) = (Arc::clone(stage), log.to_owned());
    std::thread::spawn(move || {
        let (mut all, mut last) = (Vec::new(), 0);
        let served = publisher.connection(&stage, &|next| next < MESSAGES, |acknowledged| {
            if acknowledged > last {
                last = acknowledged;
                all.push((length(&log), acknowledged));
            }
            stage.winding_up.store(last == MESSAGES, Ordering::Relaxed);
        });
        served.unwrap();
        all
    })
}

/// Makes the library that stands between a process and its disk; none where there is no C compiler.
pub(crate) fn recorder(place: &Place) -> Option<String> {
    let library = place.text("recorder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/acceptance/recorder.c");
    let mut compiler = Command::new("cc");
    let compiled =
        compiler.args(["-shared", "-fPIC", "-O1", "-o", &library]).arg(source).arg("-ldl").status();
    if !compiled.is_ok_and(|status| status.success()) {
        // Rust links with it: whoever builds this has one.
        skip("no C compiler makes the recorder", true);
        return None;
    }
    Some(library)
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    let place = Place::new();
    let Some(library) = recorder(&place) else { return };
    let mqtt = "tls = \"off\"\ntcp = \"127.0.0.1:0\"\ndurability = \"power-loss\"";
    let config = place.edge("data", "", mqtt, "[event-bus]\nenabled = false");
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &socket);
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stages = [("one", QoS::AtLeastOnce), ("two", QoS::ExactlyOnce)].map(|(name, qos)| {
        let stage = Arc::new(Stage::default());
        stage.set(&server);
        drop(Subscriber::new(format!("sub-{name}"), format!("demo/{name}"), qos).subscribe(&stage).unwrap());
        drop(Link::open(&stage, &format!("pub-{name}")).unwrap());
        (stage, name, qos)
    });
    server.stop();
    let base = std::fs::read(place.path("data/mqtt.db")).unwrap();

    let log = place.path("log");
    let mut command = Command::new(midge());
    command.args(["edge", "-c", &config]).env("LD_PRELOAD", &library).env("RECORD_PATH", "mqtt.db");
    let mut server = Server::start_with(command.env("RECORD_LOG", &log), &socket);
    let publishers = stages.map(|(stage, name, qos)| {
        stage.set(&server);
        (name, publish(&stage, name, qos, &log))
    });
    let keeper = Arc::new(Stage::default());
    keeper.set(&server);
    let promised = promises(&keeper, &log);
    let acknowledged =
        publishers.map(|(name, publisher)| (format!("demo/{name}"), publisher.join().unwrap()));
    let (promised, mortals) = promised.join().unwrap();
    server.program.kill();
    drop(mortals);

    let log = std::fs::read(&log).unwrap();
    let operations = operations(&log);
    let syncs = operations.iter().filter(|(_, _, operation)| matches!(operation, Operation::Sync)).count();
    let mut random = Random(number("MIDGE_CRASH_SEED", u64::from(std::process::id())));
    println!("seed {}, {} operations, {syncs} syncs", random.0, operations.len());
    assert!(syncs > 10, "nothing was synced");
    for _ in 0..number("MIDGE_POWER_CUTS", 40) {
        let cut = usize::try_from(random.below(operations.len() as u64 + 1)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in disk_after(&operations[..cut], &base, &mut random) {
            midge_pki::write_private(dir.path().join(name), &content).unwrap();
        }
        let position = cut.checked_sub(1).map_or(0, |last| operations[last].0);
        let found = left(dir.path());
        for (_, promise) in promised.iter().take_while(|(at, _)| *at <= position) {
            assert!(found.kept.contains(promise), "cut {cut}: {promise:?}");
        }
        for (topic, acknowledged) in &acknowledged {
            let promised = acknowledged.iter().take_while(|(at, _)| *at <= position).last();
            let promised = promised.map_or(0, |(_, count)| *count as usize);
            let found = found.waiting.get(topic).cloned().unwrap_or_default();
            // Each once and in order, from the first on.
            assert!((0..).zip(&found).all(|(expected, number)| *number == expected), "{topic}: {found:?}");
            assert!(found.len() >= promised, "cut {cut}: {} of {promised} on {topic}", found.len());
        }
    }
}
