//! What MQTT keeps over the end of the process, seen by clients that are not ours.

use crate::client::{Client, Who};
use crate::interop::installed;
use crate::support::{Ended, Place, Server, own_uid, run};
use std::path::PathBuf;
use std::process::Command;

struct Stage {
    place: Place,
    config: String,
    server: Server,
    publisher: PathBuf,
    subscriber: PathBuf,
}

impl Stage {
    fn new(mqtt: &str) -> Option<Self> {
        let (publisher, subscriber) = (installed("mosquitto_pub")?, installed("mosquitto_sub")?);
        let place = Place::new();
        let mqtt = format!("tls = \"off\"\ntcp = \"127.0.0.1:0\"\n{mqtt}");
        let config = place.edge("data", "", &mqtt, "[event-bus]\nenabled = false");
        let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
        server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
        Some(Self { place, config, server, publisher, subscriber })
    }

    fn restart(&mut self) {
        self.server = Server::start("edge", &self.config, &self.place.path("data/run/admin.sock"));
    }

    fn run(&self, program: &PathBuf, arguments: &[&str]) -> Ended {
        let port = self.server.address("tcp").rsplit(':').next().unwrap().to_owned();
        run(Command::new(program).args(["-h", "127.0.0.1", "-p", &port]).args(arguments)).ok()
    }

    fn publish(&self, qos: &str, topic: &str, payload: &str, more: &[&str]) {
        self.run(&self.publisher, &[&["-q", qos, "-t", topic, "-m", payload], more].concat());
    }

    /// Takes so many messages as the client `ops`, which keeps its session.
    fn receive(&self, version: &str, count: &str) -> String {
        let arguments =
            ["-V", version, "-c", "-i", "ops", "-q", "2", "-t", "demo/+", "-C", count, "-W", "20"];
        let session = if version == "mqttv5" { &["-x", "3600"][..] } else { &[] };
        self.run(&self.subscriber, &[&arguments, session].concat()).stdout
    }
}

#[test]
fn sessions_queues_and_retained_messages_survive_a_kill_and_a_stop() {
    for version in ["mqttv311", "mqttv5"] {
        let Some(mut stage) = Stage::new("") else { return };
        stage.publish("0", "demo/a", "retained", &["-r"]);
        assert_eq!(stage.receive(version, "1"), "retained");
        stage.publish("1", "demo/b", "one", &[]);
        stage.publish("2", "demo/b", "two", &[]);
        stage.server.program.kill();
        stage.restart();
        // The filter is asked for again, so what is retained under it comes again.
        let received = stage.receive(version, "3");
        let mut lines: Vec<_> = received.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["one", "retained", "two"]);
        assert!(received.find("one") < received.find("two"), "{received}");
        stage.publish("2", "demo/b", "three", &[]);
        stage.server.stop();
        stage.restart();
        let received = stage.receive(version, "2");
        assert!(received.contains("three") && received.contains("retained"), "{received}");
    }
}

#[test]
fn with_durability_none_they_end_with_the_process() {
    let Some(mut stage) = Stage::new("durability = \"none\"") else { return };
    stage.publish("1", "demo/a", "retained", &["-r"]);
    assert_eq!(stage.receive("mqttv311", "1"), "retained");
    stage.publish("1", "demo/b", "one", &[]);
    stage.server.stop();
    stage.restart();
    stage.publish("1", "demo/c", "new", &["-r"]);
    assert_eq!(stage.receive("mqttv311", "1"), "new");
}

#[test]
fn an_identity_that_ended_meanwhile_has_no_session_any_more() {
    let Some(mut stage) = Stage::new("") else { return };
    stage.publish("0", "demo/a", "retained", &["-r"]);
    stage.receive("mqttv5", "1");
    assert_eq!(stage.server.run(&["session", "list"]).ok().json()["sessions"].as_array().unwrap().len(), 1);
    stage.server.run(&["entry", "delete", "-entryID", "peer"]).ok();
    stage.server.program.kill();
    stage.restart();
    assert_eq!(stage.server.run(&["session", "list"]).ok().json()["sessions"].as_array().unwrap().len(), 0);
    let who = Who { id: "ops", ..Who::default() };
    assert!(Client::tcp(&stage.server.address("tcp"), &who).is_err());
}

#[test]
fn a_store_that_cannot_be_read_is_refused_and_left_as_it_is() {
    let Some(mut stage) = Stage::new("") else { return };
    stage.publish("0", "demo/a", "retained", &["-r"]);
    stage.server.stop();
    let path = stage.place.path("data/mqtt.db");
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[0] = b'X';
    std::fs::write(&path, &damaged).unwrap();
    let refused = crate::support::run_midge(&["edge", "-c", &stage.config]);
    refused.refused(74, &["mqtt.db", "backup"]);
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    std::fs::write(&path, &sound).unwrap();
    stage.restart();
    assert_eq!(stage.receive("mqttv311", "1"), "retained");
}
