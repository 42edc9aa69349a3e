//! A full disk: what was acknowledged stays, what is not is refused, and it goes on by itself.

use crate::support::{Place, Server, eventually, midge};
use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
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

#[test]
fn a_full_disk_refuses_and_recovers() {
    let place = Place::new();
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    let mount = format!("mount -t tmpfs -o size=4m none {}", data.display());
    if !in_namespace(&mount).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets nobody mount a file system in a namespace of their own");
        return;
    }
    // The sockets are outside of the small file system, where the test reaches them.
    let run = place.text("run");
    let config = place.edge("data", &format!("run-dir = \"{run}\""), "", "");
    let script = format!("{mount} && exec {} edge -c {config}", midge().display());
    let mut server = Server::start_with(&mut in_namespace(&script), &place.path("run/admin.sock"));
    let inside = format!("/proc/{}/root{}", server.program.pid(), data.display());
    server.entry("before", "unix:uid:4294967294", &[]);

    let ballast = Path::new(&inside).join("ballast");
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
