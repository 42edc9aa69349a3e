//! A disk that is full, fails or does not answer: what was acknowledged stays, what is not is refused or waits, and it
//! goes on by itself.

use crate::client::{Client, Who};
use crate::crash::link::{Link, publish};
use crate::crash::{Stage, Subscriber};
use crate::power_cut::recorder;
use crate::support::{Place, Server, eventually, midge, own_uid, run, skip};
use mqtt_proto::{Packet, PacketId, QoS, ReasonCode};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A shell in a mount namespace of its own, where a small file system can be mounted.
fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command
}

fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [4096, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// A box on a small file system of its own, and where that is seen from here; none where this machine lets nobody
/// mount one.
fn small(place: &Place, mqtt: &str) -> Option<(Server, PathBuf)> {
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    let mount = format!("mount -t tmpfs -o size=4m,mode=0755 none {}", data.display());
    let works = |script| in_namespace(script).output().is_ok_and(|output| output.status.success());
    if !works(&mount) {
        // Many machines and containers allow no such namespace; where there is one, a mount in it ought to work.
        let why = "this machine lets nobody mount a file system in a namespace of their own";
        skip(why, works("true"));
        return None;
    }
    // The sockets are outside of the small file system, where the test reaches them.
    let run = place.text("run");
    let config = place.edge("data", &format!("run-dir = \"{run}\""), mqtt, "");
    let script = format!("{mount} && exec {} edge -c {config}", midge().display());
    let server = Server::start_with(&mut in_namespace(&script), &place.path("run/admin.sock"));
    let inside = format!("/proc/{}/root{}", server.program.pid(), data.display());
    Some((server, inside.into()))
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let place = Place::new();
    let Some((mut server, inside)) = small(&place, "") else { return };
    server.entry("before", "unix:uid:4294967294", &[]);

    let ballast = inside.join("ballast");
    fill(&ballast);
    let mut acknowledged = 1;
    let refused = loop {
        let name = format!("during-{acknowledged}");
        let id = format!("{}/app/{name}", crate::support::BOX);
        let ended = server.run(&[
            "entry",
            "create",
            "-newEntryID",
            &name,
            "-spiffeID",
            &id,
            "-selector",
            "unix:uid:4294967294",
        ]);
        if ended.code != Some(0) {
            break ended;
        }
        acknowledged += 1;
        assert!(acknowledged < 200, "the disk is full and entries are still acknowledged");
    };
    refused.refused(74, &["no space left", "free some"]);
    assert!(server.program.runs());
    let status = server.run(&["status"]);
    assert_eq!(status.code, Some(1));
    let status = status.json();
    let problems: Vec<String> = status["degraded"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(
        problems.iter().any(|problem| problem.contains("no space left") && problem.contains("make room")),
        "{problems:#?}"
    );
    assert_eq!(status["entries"], acknowledged, "what was refused does not count");

    std::fs::remove_file(&ballast).unwrap();
    server.entry("after", "unix:uid:4294967294", &[]);
    eventually("recovered", || {
        let ended = server.run(&["status"]);
        if ended.code == Some(0) { Ok(()) } else { Err(ended.stdout) }
    });
    assert_eq!(server.entries(), acknowledged + 1);
    server.stop();
}

/// Publishes and returns what the broker says, if it says anything soon.
fn answer(link: &mut Link, number: u16) -> Option<ReasonCode> {
    let id = PacketId::new(number + 1).unwrap();
    link.send(&publish("demo/x", number.into(), QoS::AtLeastOnce, id, false)).unwrap();
    (0..200).find_map(|_| match link.next().unwrap()? {
        Packet::PubAck(answer) => {
            assert_eq!(answer.packet_id, id);
            Some(answer.reason)
        }
        other => panic!("no PUBACK: {other:?}"),
    })
}

/// A disk that takes nothing between `begin` and `end`: messages are refused or their acknowledgements wait. Returns
/// the numbers that were acknowledged in the end, which all wait for the session `sub` now.
fn trouble(server: &mut Server, begin: impl FnOnce(), end: impl FnOnce()) -> Vec<u16> {
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Stage::default();
    stage.set(server);
    drop(Subscriber::new("sub".into(), "demo/x".into(), QoS::AtLeastOnce).subscribe(&stage).unwrap());
    let (mut press, _) = Link::open(&stage, "press").unwrap();
    assert_eq!(answer(&mut press, 0), Some(ReasonCode::Success));

    begin();
    // The log may have some room left in itself.
    let stalled = (1..500).find(|number| answer(&mut press, *number) != Some(ReasonCode::Success)).unwrap();
    let mut other = Client::tcp(&server.address("tcp"), &Who { id: "other", ..Who::default() }).ok().unwrap();
    assert_eq!(other.publish("demo/x", "refused"), ReasonCode::QuotaExceeded);
    assert_eq!(other.publish("demo/for-nobody", "x"), ReasonCode::NoMatchingSubscribers);
    let status = server.run(&["status"]);
    assert!(status.stdout.contains("MQTT state cannot be stored"), "{}", status.stdout);

    end();
    assert!(matches!(press.wait().unwrap(), Packet::PubAck(answer) if answer.reason == ReasonCode::Success));
    eventually("accepting", || match other.publish("demo/x", "1000") {
        ReasonCode::Success => Ok(()),
        reason => Err(format!("{reason:?}")),
    });
    (0..=stalled).chain([1000]).collect()
}

/// The session `sub` gets these messages and no other before them.
fn arrive(server: &Server, numbers: &[u16]) {
    let stage = Stage::default();
    stage.set(server);
    let (mut sub, present) = Link::open(&stage, "sub").unwrap();
    assert!(present);
    for expected in numbers {
        match sub.wait().unwrap() {
            Packet::Publish(message) => assert_eq!(message.payload, expected.to_string()),
            other => panic!("no PUBLISH: {other:?}"),
        }
    }
}

#[test]
fn a_full_disk_stalls_or_refuses_messages_and_loses_none() {
    let place = Place::new();
    let mqtt = "tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"";
    let Some((mut server, inside)) = small(&place, mqtt) else { return };
    let ballast = inside.join("ballast");
    let numbers = trouble(&mut server, || fill(&ballast), || std::fs::remove_file(&ballast).unwrap());
    arrive(&server, &numbers);
    server.stop();
}

/// A box whose disk fails where the test says so.
struct Faulty {
    place: Place,
    config: String,
    library: String,
}

impl Faulty {
    fn new() -> Option<Self> {
        let place = Place::new();
        let library = recorder(&place)?;
        let mqtt = "tls = \"off\"\ntcp = \"127.0.0.1:0\"\ndurability = \"power-loss\"";
        let config = place.edge("data", "", mqtt, "[event-bus]\nenabled = false");
        Some(Self { place, config, library })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(midge());
        command.args(["edge", "-c", &self.config]).env("LD_PRELOAD", &self.library);
        command.env("RECORD_PATH", "mqtt.db").env("RECORD_FAULTS", self.place.path("faults"));
        command
    }

    fn start(&self) -> Server {
        Server::start_with(&mut self.command(), &self.place.path("data/run/admin.sock"))
    }

    /// Lets the operations with these letters fail (`recorder.c`).
    fn fail(&self, letters: &str) {
        std::fs::write(self.place.path("faults"), letters).unwrap();
    }

    fn recover(&self) {
        std::fs::remove_file(self.place.path("faults")).unwrap();
    }
}

#[test]
fn errors_of_the_disk_stall_or_refuse_messages_and_lose_none() {
    for letters in ["W", "S", "RWS"] {
        let Some(faulty) = Faulty::new() else { return };
        let mut server = faulty.start();
        let numbers = trouble(&mut server, || faulty.fail(letters), || faulty.recover());
        // What was acknowledged is on the disk, and not only in the process.
        server.program.kill();
        let mut server = faulty.start();
        arrive(&server, &numbers);
        server.stop();
    }
}

/// Lets one client subscribe and leave, and another come that will publish.
fn receiver_away(server: &mut Server) -> Link {
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Stage::default();
    stage.set(server);
    drop(Subscriber::new("sub".into(), "demo/x".into(), QoS::AtLeastOnce).subscribe(&stage).unwrap());
    Link::open(&stage, "press").unwrap().0
}

#[test]
fn a_store_that_cannot_be_read_at_the_start_is_left_as_it_is() {
    let Some(faulty) = Faulty::new() else { return };
    let mut server = faulty.start();
    let mut press = receiver_away(&mut server);
    for number in 0..20 {
        assert_eq!(answer(&mut press, number), Some(ReasonCode::Success));
    }
    server.program.kill();
    faulty.fail("R");
    let refused = run(&mut faulty.command());
    refused.refused(74, &["mqtt.db"]);
    faulty.recover();
    let mut server = faulty.start();
    arrive(&server, &(0..20).collect::<Vec<_>>());
    server.stop();
}

#[test]
fn a_disk_that_does_not_answer_stops_nothing_but_what_waits_for_it() {
    let Some(faulty) = Faulty::new() else { return };
    let mut server = faulty.start();
    let mut press = receiver_away(&mut server);
    let address = server.address("tcp");

    faulty.fail("H");
    assert_eq!(answer(&mut press, 0), None);
    // Clients come, subscribe and talk, and so do those that have come before.
    let mut live = Client::tcp(&address, &Who { id: "live", ..Who::default() }).ok().unwrap();
    assert_eq!(live.subscribe("demo/live"), ReasonCode::Success);
    let mut other = Client::tcp(&address, &Who { id: "other", ..Who::default() }).ok().unwrap();
    for number in 0..200 {
        let text = number.to_string();
        other.publish_qos0("demo/live", &text);
        assert_eq!(live.message(), ("demo/live".to_owned(), text));
    }
    assert_eq!(other.publish("demo/live", "at QoS 1"), ReasonCode::Success);
    assert_eq!(live.message().1, "at QoS 1");
    assert!(press.next().unwrap().is_none(), "the acknowledgement still waits");

    faulty.recover();
    assert!(matches!(press.wait().unwrap(), Packet::PubAck(answer) if answer.reason == ReasonCode::Success));
    arrive(&server, &[0]);
    server.stop();
}
