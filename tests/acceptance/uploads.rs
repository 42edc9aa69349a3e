//! What applications upload reaches the cloud, whatever was away meanwhile.

use crate::client::{Client, Who};
use crate::enrolment::{cloud, edge_of, enrols, token};
use crate::power_cut::recorder;
use crate::support::{BOX, Place, Server, eventually, midge, own_uid};
use mqtt_proto::ReasonCode;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

const TOPIC: &str = "up/user/reading";
/// Waits at the broker for the event bus: more than it takes at once.
const QUEUED: u64 = 400;

/// A cloud and a box whose uploads are let in, both running.
struct Stage {
    place: Place,
    cloud: Server,
    edge: Server,
    /// Configuration of the box.
    config: String,
    /// Stands between the box and its disk.
    library: String,
}

impl Stage {
    fn new() -> Option<Self> {
        let place = Place::new();
        let library = recorder(&place)?;
        let cloud = cloud(&place, "cloud", "plant.example");
        let (id, uid) = (format!("{BOX}/app/up"), own_uid());
        let entry = ["entry", "create", "-spiffeID", &id, "-parentID", BOX, "-selector", &uid];
        cloud.run(&[&entry[..], &["-publish", "up/user/#"]].concat()).ok();
        let config = edge_of(&place, "edge", &cloud, &token(&cloud, "600"));
        let edge = enrols(&place, "edge", &config);
        let stage = Self { place, cloud, edge, config, library };
        eventually("the event bus is there", || {
            let sessions = stage.edge.run(&["session", "list"]).ok().json();
            let is_there = |session: &Value| {
                let filters = session["subscriptions"].as_array();
                session["client_id"] == "event-bus" && filters.is_some_and(|filters| filters.len() == 8)
            };
            let is_there = sessions["sessions"].as_array().is_some_and(|all| all.iter().any(is_there));
            if is_there && stage.edge.entries() == 1 { Ok(()) } else { Err(sessions.to_string()) }
        });
        Some(stage)
    }

    fn start_edge(&mut self) {
        let mut command = Command::new(midge());
        command.args(["edge", "-c", &self.config]).env("LD_PRELOAD", &self.library);
        // The store of the box, and not that of the broker.
        command.env("RECORD_PATH", "midge.db").env("RECORD_FAULTS", self.place.path("faults"));
        self.edge = Server::start_with(&mut command, &self.place.path("edge/run/admin.sock"));
    }

    /// Starts the cloud again, at the addresses that it had.
    fn restart_cloud(&mut self, (bootstrap, channel): &(String, String)) {
        let text = std::fs::read_to_string(self.place.path("cloud.toml")).unwrap();
        let text = text.replacen("127.0.0.1:0", bootstrap, 1).replacen("127.0.0.1:0", channel, 1);
        let config = self.place.write("cloud-again.toml", &text);
        self.cloud = Server::start("cloud", &config, &self.place.path("cloud/run/admin.sock"));
    }

    fn pending(&self) -> u64 {
        self.edge.status()["cloud"]["pending"].as_u64().unwrap_or_default()
    }

    fn publisher(&self) -> Client {
        Client::tcp(&self.edge.address("tcp"), &Who { id: "up", ..Who::default() }).ok().unwrap()
    }

    fn events(&self, more: &[&str]) -> Vec<Value> {
        let list = [&["event", "list", "--node", "box-1"], more].concat();
        self.cloud.run(&list).ok().json()["events"].as_array().unwrap().clone()
    }

    /// Uploads that have arrived at the cloud.
    fn arrived(&self) -> BTreeSet<String> {
        let events = self.events(&[]).into_iter().filter(|event| event["topic"] == TOPIC);
        events.map(|event| event["payload"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn uploads_that_are_acknowledged_reach_the_cloud_whatever_fails_meanwhile() {
    let Some(mut stage) = Stage::new() else { return };
    let addresses = (stage.cloud.address("bootstrap"), stage.cloud.address("channel"));
    stage.cloud.stop();
    stage.edge.stop();
    stage.start_edge();
    // The spool takes nothing: uploads wait at the event bus, and behind it at the broker.
    std::fs::write(stage.place.path("faults"), "W").unwrap();
    let mut publisher = stage.publisher();
    let sent: BTreeSet<String> = (0..QUEUED).map(|number| format!("{number}")).collect();
    for number in &sent {
        assert_eq!(publisher.publish(TOPIC, number), ReasonCode::Success);
    }
    eventually("told", || {
        let status = stage.edge.status()["degraded"].to_string();
        if status.contains("reports for the cloud are not stored") { Ok(()) } else { Err(status) }
    });
    stage.edge.program.kill();
    std::fs::remove_file(stage.place.path("faults")).unwrap();
    stage.start_edge();
    eventually("spooled", || {
        let pending = stage.pending();
        if pending >= QUEUED { Ok(()) } else { Err(format!("{pending} of {QUEUED} wait for the cloud")) }
    });
    stage.edge.stop();
    stage.start_edge();
    stage.restart_cloud(&addresses);
    eventually("arrived", || {
        let arrived = stage.arrived();
        let missing: Vec<&String> = sent.difference(&arrived).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{} missing: {missing:?}", missing.len())) }
    });

    let all = stage.events(&[]);
    let since = all[2]["id"].as_str().unwrap();
    // What was on its way twice may still come.
    let later = stage.events(&["--since", since]);
    assert!(later.starts_with(&all[3..]), "{later:?}");
    stage.cloud.run(&["event", "list", "--node", "box-1", "--since", "x"]).refused(64, &["\"x\"", "1-42"]);
    stage
        .cloud
        .run(&["event", "list", "--node", "box-9"])
        .refused(1, &["no node box-9 has joined", "midge node list"]);
    stage.edge.run(&["event", "list", "--node", "box-1"]).refused(1, &["at their cloud"]);
}
