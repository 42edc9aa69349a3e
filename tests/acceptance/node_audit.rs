//! The audit log of a box at its cloud: real processes, a link that comes and goes, and a log that was changed.

use crate::support::{Ended, Place, Server, eventually};
use serde_json::Value;
use std::path::PathBuf;

struct Stage {
    place: Place,
    cloud: Server,
    edge: String,
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        let socket = place.path("cloud/run/admin.sock");
        let cloud = Server::start("cloud", &place.cloud("cloud", "plant.example"), &socket);
        let id = "spiffe://plant.example/edge/box-1";
        let token = cloud.run(&["token", "generate", "-spiffeID", id]).ok().json();
        let token = place.write_private("token", token["token"].as_str().unwrap());
        let (bootstrap, channel) = (cloud.address("bootstrap"), cloud.address("channel"));
        // Signed soon, so that it goes up soon.
        let rest = format!(
            "[cloud]\nbootstrap = \"https://{bootstrap}\"\nchannel = \"wss://{channel}\"\n\
             join-token-file = \"{token}\"\n[audit]\ncheckpoint-secs = 1\n"
        );
        let edge = place.edge("edge", "", "", &rest);
        Self { place, cloud, edge }
    }

    fn edge(&self) -> Server {
        Server::start("edge", &self.edge, &self.place.path("edge/run/admin.sock"))
    }

    /// Everything the box has, oldest first.
    fn own(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    fn log(&self) -> PathBuf {
        self.place.path("edge/audit.jsonl")
    }

    fn audit(&self, arguments: &[&str]) -> Ended {
        let mut all = vec!["audit"];
        all.extend(arguments);
        all.extend(["--node", "box-1"]);
        self.cloud.run(&all)
    }

    /// Waits until the cloud shows what the box has.
    fn wait_for(&self, event: &str) {
        eventually(event, || {
            let shown = self.audit(&["show", "--kind", event]);
            if shown.stdout.is_empty() { Err(shown.stderr) } else { Ok(()) }
        });
    }

    /// The cloud's copy of the box's log.
    fn copied(&self) -> String {
        self.audit(&["show", "--kind", "*", "--kind", "checkpoint"]).ok().stdout
    }
}

fn seq(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()
}

#[test]
fn a_boxs_audit_log_is_at_its_cloud_line_by_line_and_a_forged_one_is_found_out() {
    let stage = Stage::new();
    let mut edge = stage.edge();
    stage.wait_for("ca-installed");
    edge.stop();
    // What happened while it was offline goes up after its next start.
    let mut edge = stage.edge();
    let resumed = "log-resumed";
    stage.wait_for(resumed);
    eventually("shown at the box", || {
        let status = edge.status();
        let there = status["cloud"]["audit_seq"].as_u64().unwrap_or(0);
        let signed = status["audit"]["signed_seq"].as_u64().unwrap();
        if there == signed && there > 0 { Ok(()) } else { Err(status.to_string()) }
    });
    edge.stop();
    let (own, copied) = (stage.own(), stage.copied());
    assert!(copied.lines().count() > 10 && own.starts_with(&copied), "{copied}\n{own}");
    assert!(copied.lines().enumerate().all(|(n, line)| seq(line) == n as u64 + 1));
    let verified = stage.audit(&["verify"]).ok().json();
    assert_eq!(
        (verified["intact"].as_bool(), verified["branches"].as_array().unwrap().len()),
        (Some(true), 1)
    );
    assert_eq!(stage.cloud.run(&["status"]).code, Some(0));

    // Somebody at the box rewrites what happened, with the key that is there.
    let cut: String = own.lines().take(5).map(|line| format!("{line}\n")).collect();
    std::fs::write(stage.log(), cut).unwrap();
    std::fs::remove_file(stage.place.path("edge/keys/audit.head")).unwrap();
    let mut edge = stage.edge();
    let status = eventually("told at the cloud", || {
        let status = stage.cloud.run(&["status"]);
        if status.code == Some(1) { Ok(status.json()) } else { Err(status.stdout) }
    });
    assert!(status["degraded"].to_string().contains("audit log of box-1"), "{status}");
    edge.stop();
    let verified = stage.audit(&["verify"]);
    assert_eq!(verified.code, Some(1));
    for found in ["another history", "the note of the last checkpoint was missing"] {
        assert!(verified.stdout.contains(found), "{found}: {}", verified.stdout);
    }
    assert_eq!(verified.json()["branches"].as_array().unwrap().len(), 2);
    // What had come is still there, and what is there now is not mixed with it.
    let first = stage.audit(&["show", "--kind", "*", "--kind", "checkpoint", "--branch", "1"]).ok();
    assert!(first.stdout.starts_with(&copied));
    let now = stage.audit(&["show", "--kind", "*", "--kind", "checkpoint"]).ok();
    assert!(now.stderr.contains("branch 2, the newest of 2"), "{}", now.stderr);
    assert!(now.stdout.lines().enumerate().all(|(n, line)| seq(line) == n as u64 + 1), "{}", now.stdout);
    stage.audit(&["show", "--branch", "3"]).refused(1, &["there is no branch 3; the newest is 2"]);
    // An export of a branch proves itself elsewhere.
    let part = stage.place.text("part.jsonl");
    stage.audit(&["export", "--branch", "1", "--to", &part]).ok();
    let key = stage.audit(&["verify", "--branch", "1"]).json()["branches"][0]["key"].clone();
    stage.cloud.run(&["audit", "verify", &part, "--key", key.as_str().unwrap()]).ok();
    // A branch that is not written any more cannot be cut either.
    let own = stage.place.path("cloud/node-audit/box-1/001");
    let file = std::fs::read_dir(own).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read_to_string(&file).unwrap();
    let branch = |stage: &Stage| stage.audit(&["verify", "--branch", "1"]).json()["branches"][0].clone();
    assert_eq!(branch(&stage)["intact"], true);
    let to_checkpoint = whole.split_inclusive('\n').take(2).collect::<String>();
    std::fs::write(&file, to_checkpoint).unwrap();
    assert_eq!(branch(&stage)["intact"], false);
    std::fs::write(&file, whole).unwrap();

    stage.cloud.run(&["audit", "accept", "box-1"]).ok();
    eventually("accepted", || {
        let status = stage.cloud.run(&["status"]);
        if status.code == Some(0) { Ok(()) } else { Err(status.stdout) }
    });
    stage.cloud.run(&["audit", "accept", "box-2"]).refused(1, &["no audit log of a node box-2"]);
}
