//! Boxes that cannot enrol: clouds that are away or lie, and tokens that are not good.

use crate::support::{BOX, Ended, Place, Program, Server, eventually, midge, run_midge};
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

pub(crate) fn cloud(place: &Place, name: &str, trust_domain: &str) -> Server {
    let socket = place.path(name).join("run/admin.sock");
    Server::start("cloud", &place.cloud(name, trust_domain), &socket)
}

pub(crate) fn token(cloud: &Server, ttl: &str) -> Value {
    let id = format!("spiffe://{}/edge/box-1", cloud.status()["trust_domain"].as_str().unwrap());
    cloud.run(&["token", "generate", "-spiffeID", &id, "-ttl", ttl]).ok().json()
}

/// Configuration of the box for a cloud; `token` is written to a file of the box.
fn edge(place: &Place, name: &str, bootstrap: &str, channel: &str, token: &str) -> String {
    let file = place.write_private(&format!("{name}.token"), token);
    let link = format!(
        "[cloud]\nbootstrap = \"https://{bootstrap}\"\nchannel = \"wss://{channel}\"\njoin-token-file = \"{file}\"\n"
    );
    place.edge(name, "", "", &link)
}

pub(crate) fn edge_of(place: &Place, name: &str, cloud: &Server, token: &Value) -> String {
    edge(
        place,
        name,
        &cloud.address("bootstrap"),
        &cloud.address("channel"),
        token["token"].as_str().unwrap(),
    )
}

fn starts(config: &str) -> Ended {
    run_midge(&["edge", "-c", config])
}

pub(crate) fn enrols(place: &Place, name: &str, config: &str) -> Server {
    let server = Server::start("edge", config, &place.path(name).join("run/admin.sock"));
    eventually("connected", || {
        let status = server.status();
        let enrolled = status["cloud"]["connected"] == true && status["ca"]["serial"].is_string();
        if enrolled { Ok(()) } else { Err(format!("{status}\n{}", server.program.log().join("\n"))) }
    });
    server
}

#[test]
fn a_cloud_that_is_not_there_is_waited_for_and_told_of() {
    let place = Place::new();
    // Nobody answers on a port that was free a moment ago.
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let well_formed = format!("{}.00000000-0000-0000-0000-000000000000", "0".repeat(64));
    let config = edge(&place, "data", &away, &away, &well_formed);
    let mut server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let status = eventually("degraded", || {
        let ended = server.run(&["status"]);
        if ended.code == Some(1) { Ok(ended.json()) } else { Err(ended.stdout) }
    });
    let problems: Vec<String> = status["degraded"].as_array().unwrap().iter().map(Value::to_string).collect();
    let told = |problem: &String| {
        problem.contains(&away) && problem.contains("check cloud.bootstrap and the network")
    };
    assert!(problems.iter().any(told), "{problems:#?}");
    assert_eq!(status["cloud"]["connected"], false);
    server
        .run(&["svid", "mint", "-spiffeID", &format!("{BOX}/app/x")])
        .refused(69, &["no certificate can be issued"]);
    assert!(server.program.runs());
    server.stop();
}

#[test]
fn a_cloud_with_another_root_is_not_trusted_and_gets_no_token() {
    let place = Place::new();
    let (own, liar) = (cloud(&place, "own", "plant.example"), cloud(&place, "liar", "plant.example"));
    let good = token(&own, "600");
    let config = edge_of(&place, "data", &liar, &good);
    starts(&config).refused(
        78,
        &[&liar.address("bootstrap"), "root certificate has SHA-256", "do not trust this server"],
    );
    let config = edge_of(&place, "data", &own, &good);
    let server = enrols(&place, "data", &config);
    assert_eq!(liar.status()["nodes"].as_u64().unwrap_or_default(), 0);
    assert_eq!(server.status()["role"], "edge");
}

#[test]
fn a_cloud_of_another_trust_domain_is_refused() {
    let place = Place::new();
    let other = cloud(&place, "other", "other.example");
    let config = edge_of(&place, "data", &other, &token(&other, "600"));
    let says = [&*other.address("bootstrap"), "other.example", "plant.example"];
    starts(&config).refused(78, &says);
}

#[test]
fn an_enrolled_box_does_not_follow_a_cloud_that_was_exchanged() {
    let place = Place::new();
    let own = cloud(&place, "own", "plant.example");
    let mut server = enrols(&place, "data", &edge_of(&place, "data", &own, &token(&own, "600")));
    let serial = server.status()["ca"]["serial"].clone();
    server.stop();
    let liar = cloud(&place, "liar", "plant.example");
    let config = edge(&place, "data", &liar.address("bootstrap"), &liar.address("channel"), "spent");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let status = eventually("degraded", || {
        let ended = server.run(&["status"]);
        if ended.code == Some(1) { Ok(ended.json()) } else { Err(ended.stdout) }
    });
    let (told, channel) = (status["degraded"].to_string(), liar.address("channel"));
    assert!(told.contains(&channel) && told.contains("is not this box's cloud"), "{told}");
    assert_eq!(status["ca"]["serial"], serial, "it works on");
}

#[test]
fn tokens_that_are_not_good_are_refused() {
    let place = Place::new();
    let cloud = cloud(&place, "cloud", "plant.example");
    let expired = token(&cloud, "1");

    let (bootstrap, channel) = (cloud.address("bootstrap"), cloud.address("channel"));
    for malformed in ["", "no dot", "abc.def", "00.11"] {
        let config = edge(&place, "malformed", &bootstrap, &channel, malformed);
        let file = place.text("malformed.token");
        starts(&config).refused(78, &[&file, "copy the whole line", "midge token generate"]);
    }
    let good = token(&cloud, "600");
    let config = edge_of(&place, "data", &cloud, &good);
    let file = place.path("data.token");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = file.display().to_string();
    starts(&config).refused(77, &[&text, "0644", "chmod 600", "cloud.join-token-file"]);
    std::fs::remove_file(&file).unwrap();
    starts(&config).refused(78, &[&text, "cloud.join-token-file"]);
    let without = place.edge(
        "data",
        "",
        "",
        &format!("[cloud]\nbootstrap = \"https://{bootstrap}\"\nchannel = \"wss://{channel}\"\n"),
    );
    starts(&without).refused(78, &["has not enrolled", "midge token generate", "cloud.join-token-file"]);

    let config = edge_of(&place, "data", &cloud, &good);
    let server = enrols(&place, "data", &config);
    let thief = edge_of(&place, "thief", &cloud, &good);
    starts(&thief).refused(77, &[&bootstrap, "already been used", "midge token generate"]);
    assert_eq!(server.status()["cloud"]["connected"], true, "the box that came first stays");

    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(expired["expires_at"].as_u64().unwrap() + 1);
    eventually("past the token's end", || if SystemTime::now() > end { Ok(()) } else { Err(String::new()) });
    let late = edge_of(&place, "late", &cloud, &expired);
    starts(&late).refused(77, &[&bootstrap, "expired", "midge token generate"]);
    cloud
        .run(&["token", "generate", "-spiffeID", BOX, "-ttl", "0"])
        .refused(64, &["-ttl 0", "at least 1 second"]);
}

#[test]
fn nodes_are_shown_banned_and_let_in_again() {
    let place = Place::new();
    let own = cloud(&place, "own", "plant.example");
    assert_eq!(own.run(&["node", "list"]).ok().json()["nodes"], serde_json::json!([]));
    let config = edge_of(&place, "data", &own, &token(&own, "600"));
    let mut edge = enrols(&place, "data", &config);
    let node = own.run(&["node", "show", "box-1"]).ok().json();
    assert_eq!(
        (&node["spiffe_id"], &node["connected"], &node["banned"]),
        (&BOX.into(), &true.into(), &false.into())
    );
    edge.run(&["node", "list"]).refused(1, &["ask the cloud"]);
    let lease = edge.status()["lease"].clone();
    assert!(lease["until_ms"].as_i64() > Some(0) && lease["remaining_secs"].as_i64() > Some(0), "{lease}");
    own.run(&["node", "ban", "box-9"]).refused(1, &["no node box-9 has joined", "midge node list"]);
    assert_eq!(own.run(&["node", "show", BOX]).ok().json()["banned"], false, "the other was asked for");

    assert_eq!(own.run(&["node", "ban", "box-1"]).ok().json()["banned"], "box-1");
    eventually("cut off", || {
        let nodes = own.run(&["node", "list"]).ok().json();
        let node = &nodes["nodes"][0];
        if node["banned"] == true && node["connected"] == false { Ok(()) } else { Err(nodes.to_string()) }
    });
    edge.stop();
    let banned = edge_of(&place, "second", &own, &token(&own, "600"));
    starts(&banned).refused(77, &["is banned"]);
    assert_eq!(own.run(&["node", "delete", "box-1"]).ok().json()["deleted"], "box-1");
    own.run(&["node", "show", "box-1"]).refused(1, &["no node box-1"]);
    let again = edge_of(&place, "third", &own, &token(&own, "600"));
    enrols(&place, "third", &again);
}

#[test]
fn a_box_that_waits_for_its_cloud_enrols_when_it_comes() {
    let place = Place::new();
    let mut own = cloud(&place, "own", "plant.example");
    let (bootstrap, channel) = (own.address("bootstrap"), own.address("channel"));
    let good = token(&own, "600");
    own.stop();
    let config = edge_of_addresses(&place, &bootstrap, &channel, &good);
    let edge = Program::start(Command::new(midge()).args(["edge", "-c", &config]));
    eventually("waiting", || {
        let log = edge.log().join("\n");
        if log.contains("cannot reach the cloud") { Ok(()) } else { Err(log) }
    });
    let text = std::fs::read_to_string(place.path("own.toml")).unwrap();
    let text = text.replacen("127.0.0.1:0", &bootstrap, 1).replacen("127.0.0.1:0", &channel, 1);
    let config = place.write("own.toml", &text);
    let own = Server::start("cloud", &config, &place.path("own/run/admin.sock"));
    eventually("enrolled", || {
        let status = own.status();
        if status["nodes"] == 1 { Ok(()) } else { Err(format!("{status}\n{}", edge.log().join("\n"))) }
    });
}

fn edge_of_addresses(place: &Place, bootstrap: &str, channel: &str, token: &Value) -> String {
    edge(place, "data", bootstrap, channel, token["token"].as_str().unwrap())
}
