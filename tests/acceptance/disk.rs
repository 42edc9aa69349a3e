//! A full disk: what was acknowledged stays, what is not is refused, and it goes on by itself.

use crate::client::{Client, Who};
use crate::crash::link::{Link, publish};
use crate::crash::{Stage, Subscriber};
use crate::support::{Place, Server, eventually, midge, own_uid};
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
    let mount = format!("mount -t tmpfs -o size=4m none {}", data.display());
    if !in_namespace(&mount).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine lets nobody mount a file system in a namespace of their own");
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

#[test]
fn a_full_disk_stalls_or_refuses_messages_and_loses_none() {
    let place = Place::new();
    let mqtt = "tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"";
    let Some((mut server, inside)) = small(&place, mqtt) else { return };
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Stage::default();
    stage.set(&server);
    drop(Subscriber::new("sub".into(), "demo/x".into(), QoS::AtLeastOnce).subscribe(&stage).unwrap());
    let (mut press, _) = Link::open(&stage, "press").unwrap();
    assert_eq!(answer(&mut press, 0), Some(ReasonCode::Success));

    let ballast = inside.join("ballast");
    fill(&ballast);
    // The log has some room left in itself.
    let stalled = (1..500).find(|number| answer(&mut press, *number) != Some(ReasonCode::Success)).unwrap();
    let mut other =
        Client::tcp(&server.address("mqtt-tcp"), &Who { id: "other", ..Who::default() }).ok().unwrap();
    assert_eq!(other.publish("demo/x", "refused"), ReasonCode::QuotaExceeded);
    assert_eq!(other.publish("demo/for-nobody", "x"), ReasonCode::NoMatchingSubscribers);
    let status = server.run(&["status"]);
    assert!(status.stdout.contains("MQTT state cannot be stored"), "{}", status.stdout);

    std::fs::remove_file(&ballast).unwrap();
    assert!(matches!(press.wait().unwrap(), Packet::PubAck(answer) if answer.reason == ReasonCode::Success));
    eventually("accepting", || match other.publish("demo/x", "1000") {
        ReasonCode::Success => Ok(()),
        reason => Err(format!("{reason:?}")),
    });
    let (mut sub, present) = Link::open(&stage, "sub").unwrap();
    assert!(present);
    for expected in (0..=stalled).chain([1000]) {
        match sub.wait().unwrap() {
            Packet::Publish(message) => assert_eq!(message.payload, expected.to_string()),
            other => panic!("no PUBLISH: {other:?}"),
        }
    }
    server.stop();
}
