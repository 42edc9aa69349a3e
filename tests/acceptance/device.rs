//! A device and its twin on a box without a cloud.

use crate::support::{BOX, Place, Program, Server, eventually};
use serde_json::Value;
use std::process::Command;

const DEVICE: &str = "led-light-instance-01";

fn device_when(server: &Server, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let device = server.run(&["device", "show", DEVICE]).ok().json();
        if wanted(&device) { Ok(device) } else { Err(device.to_string()) }
    })
}

#[test]
fn a_light_is_turned_on_without_a_cloud() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &socket);
    server.run(&["device", "show", DEVICE]).refused(1, &[DEVICE]);
    server.run(&["device", "create", DEVICE, "--property", "power-status=OFF", "--description", "hall"]).ok();
    server.run(&["device", "create", DEVICE]).refused(1, &[DEVICE]);
    server.run(&["device", "create", "x", "--property", "nothing"]).refused(64, &["nothing", "NAME=VALUE"]);
    server
        .run(&["device", "list", "--node", "box-7"])
        .refused(64, &["this is box box-1", "leave --node out"]);
    server.run(&["device", "create", "y", "--node", "box-7"]).refused(64, &["this is box box-1"]);
    server.run(&["device", "create", "y", "--node", "box-1"]).ok();
    server
        .run(&["device", "set", "y", "celsius", "5"])
        .refused(1, &["no property celsius", "none yet", "--new"]);
    server.run(&["device", "set", "y", "celsius", "-5", "--new"]).ok();
    server.run(&["device", "set", "y", "celsius", "6"]).ok();
    assert_eq!(server.run(&["device", "delete", "y"]).ok().json()["deleted"], "y");
    server.run(&["device", "delete", "y"]).refused(1, &["y"]);
    let devices = server.run(&["device", "list"]).ok().json();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1), "{devices}");

    let program = place.program("light-mapper");
    let (id, selector) = (format!("{BOX}/mapper/{DEVICE}"), format!("unix:path:{}", program.display()));
    server.run(&["entry", "create", "-spiffeID", &id, "-selector", &selector]).ok();
    let api = format!("unix://{}", server.address("workload-api"));
    let (broker, broker_id) = (server.address("tls"), format!("{BOX}/broker"));
    let mut command = Command::new(&program);
    command.args(["light-mapper", "--device", DEVICE, "--broker", &broker, "--broker-id", &broker_id]);
    let mapper = Program::start(command.args(["--workload-api", &api, "--output", "json"]));
    mapper.event("a light that is off", |event| event["event"] == "light" && event["on"] == false);
    device_when(&server, "online", |device| device["state"] == "online");

    server.run(&["device", "set", DEVICE, "power-status", "ON"]).ok();
    mapper.event("a light that is on", |event| event["event"] == "light" && event["on"] == true);
    let power = |device: &Value| device["twin"]["power-status"].clone();
    let device = device_when(&server, "actually on", |device| power(device)["actual"] == "ON");
    assert_eq!(power(&device)["desired"], "ON", "{device}");

    drop(mapper);
    server.stop();
    let server = Server::start("edge", &config, &socket);
    let device = server.run(&["device", "show", DEVICE]).ok().json();
    assert_eq!(
        (power(&device)["desired"].as_str(), device["description"].as_str()),
        (Some("ON"), Some("hall")),
        "{device}"
    );
}
