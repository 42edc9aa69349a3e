//! A standalone box: its example files, its endpoints, its logs, and how it stops.

use crate::client::{Client, Who};
use crate::support::{Place, Server, eventually, midge, own_uid};
use mqtt_proto::ReasonCode;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

/// An example file of the repository, with free ports and a directory of its own; nothing else is changed.
fn example(place: &Place, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(file);
    let mut table: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    table["data-dir"] = place.text("data").into();
    let mqtt = table["mqtt"].as_table_mut().unwrap();
    for key in ["tls", "tcp"] {
        assert!(mqtt.insert(key.into(), "127.0.0.1:0".into()).is_some());
    }
    for key in ["websocket-tls", "websocket-loopback"] {
        if let Some(address) = mqtt.get_mut(key) {
            *address = "127.0.0.1:0".into();
        }
    }
    if let Some(unix) = mqtt.get_mut("unix") {
        *unix = place.text("data/mqtt.sock").into();
    }
    place.write(file, &table.to_string())
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(crate::support::SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_standalone_box_is_useful_with_its_example_file() {
    let place = Place::new();
    let mut server =
        Server::start("edge", &example(&place, "standalone.toml"), &place.path("data/run/admin.sock"));
    let status = server.status();
    assert_eq!((&status["role"], &status["trust_domain"]), (&"standalone".into(), &"example.org".into()));
    assert!(status["degraded"].as_array().is_none_or(Vec::is_empty), "{status}");
    assert!(status["lease"]["until_ms"].is_null() && status["lease"]["remaining_secs"].is_null(), "{status}");
    assert!(status["ca"]["serial"].is_string() && status["cloud"].is_null(), "{status}");
    let bundle = crate::support::run_midge(&["bundle", "show", "--socketPath", &server.socket]).ok();
    assert!(bundle.stdout.contains("BEGIN CERTIFICATE"), "{}", bundle.stdout);

    let tcp = server.address("tcp");
    let stranger = Client::tcp(&tcp, &Who { id: "x", ..Who::default() }).err();
    assert_eq!(stranger, Some(ReasonCode::NotAuthorized));
    let selector = own_uid();
    let id = "spiffe://example.org/edge/box-1/app/me";
    let create = [
        "entry",
        "create",
        "-spiffeID",
        id,
        "-selector",
        &selector,
        "-publish",
        "hall/+",
        "-subscribe",
        "hall/#",
    ];
    server.run(&create).ok();
    let mut client = Client::tcp(&tcp, &Who { id: "x", ..Who::default() }).ok().unwrap();
    assert_eq!(client.subscribe("hall/#"), ReasonCode::Success);
    assert_eq!(client.subscribe("#"), ReasonCode::NotAuthorized);
    client.leave();
    let long = "x".repeat(257);
    let refused = Client::tcp(&tcp, &Who { id: &long, ..Who::default() }).err();
    assert_eq!(refused, Some(ReasonCode::ClientIdentifierNotValid));
    server.stop();
}

#[test]
fn an_open_box_says_so_and_lets_its_user_do_everything() {
    let place = Place::new();
    let server = Server::start("edge", &example(&place, "open.toml"), &place.path("data/run/admin.sock"));
    let uid = rustix::process::getuid().as_raw().to_string();
    let warns = |line: &String| {
        line.contains("WARN") && line.contains("OPEN: every process of this user") && line.contains(&uid)
    };
    eventually("a warning", || {
        let log = server.program.log();
        if log.iter().any(warns) { Ok(()) } else { Err(log.join("\n")) }
    });
    let mut reader =
        Client::tcp(&server.address("tcp"), &Who { id: "reader", ..Who::default() }).ok().unwrap();
    assert_eq!(reader.subscribe("#"), ReasonCode::Success);
    let path = server.address("unix");
    let mut writer =
        Client::unix(&path, &Who { id: "writer", will: Some("any/will"), ..Who::default() }).ok().unwrap();
    assert_eq!(writer.publish("any/topic/at/all", "hello"), ReasonCode::Success);
    assert_eq!(reader.message(), ("any/topic/at/all".into(), "hello".into()));
    let long = "x".repeat(usize::from(u16::MAX));
    let who = Who { id: &long, user_name: Some(&long), password: Some(&long), ..Who::default() };
    let mut longest = Client::tcp(&server.address("tcp"), &who).ok().unwrap();
    assert_eq!(longest.subscribe(&"level/".repeat(200)), ReasonCode::Success);
}

#[test]
fn a_box_that_is_not_open_any_more_keeps_nothing_of_it_but_what_operators_made() {
    let place = Place::new();
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &example(&place, "open.toml"), &socket);
    let uid = own_uid();
    let trust_domain = server.status()["trust_domain"].as_str().unwrap().to_owned();
    let node = server.status()["node"].as_str().unwrap().to_owned();
    let id = format!("spiffe://{trust_domain}/edge/{node}/app/me");
    server
        .run(&["entry", "create", "-spiffeID", &id, "-selector", &uid, "-hint", "me", "-publish", "of/me"])
        .ok();
    let open = Who { id: "x", ..Who::default() };
    let former = format!("spiffe://{trust_domain}/edge/{node}/app/open");
    let formerly = Who { user_name: Some(&former), ..open };
    let mut client = Client::tcp(&server.address("tcp"), &formerly).ok().unwrap();
    assert_eq!(client.publish("any/topic", "x"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(server.entries(), 2);
    server.stop();

    let text = std::fs::read_to_string(place.path("open.toml")).unwrap();
    let mut table: toml::Table = text.parse().unwrap();
    assert!(table.remove("open-to-own-uid").is_some());
    let config = place.write("closed.toml", &table.to_string());
    for _ in 0..2 {
        let mut server = Server::start("edge", &config, &socket);
        assert_eq!(server.entries(), 1);
        assert_eq!(Client::tcp(&server.address("tcp"), &formerly).err(), Some(ReasonCode::NotAuthorized));
        let mut client = Client::tcp(&server.address("tcp"), &open).ok().unwrap();
        assert_eq!(client.publish("any/topic", "x"), ReasonCode::NotAuthorized);
        assert_eq!(client.publish("of/me", "x"), ReasonCode::NoMatchingSubscribers);
        server.stop();
    }
}

#[test]
fn endpoints_tell_of_life_readiness_and_metrics() {
    let place = Place::new();
    let config = place.edge("data", "", "", "[http]\naddress = \"127.0.0.1:0\"\n");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let http = server.address("http");
    assert_eq!(get(&http, "/live").0, 200);
    assert_eq!(get(&http, "/ready").0, 200);
    let entries = |text: &str| {
        let line =
            text.lines().find(|line| line.starts_with("midge_entries ")).unwrap_or_default().to_owned();
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok())
    };
    let (code, metrics) = get(&http, "/metrics");
    assert_eq!(code, 200);
    let before = entries(&metrics).unwrap();
    server.entry("me", &own_uid(), &[]);
    let (_, metrics) = get(&http, "/metrics");
    assert_eq!(entries(&metrics), Some(before + 1.0), "{metrics}");
    for name in [
        "midge_lease_seconds",
        "midge_mqtt_connections",
        "midge_mqtt_denials_total{kind=\"publish\"}",
        "midge_agent_svids",
        "midge_agent_svids_signed_total",
        "midge_agent_sign_failures_total",
        "midge_agent_connections",
        "midge_agent_calls",
        "midge_audit_lost_total",
        "midge_degraded 0",
        "midge_mqtt_dropped_total{reason=\"queue-full\"} 0",
        "midge_mqtt_sockets_lost_total{reason=\"limit\"} 0",
        "midge_mqtt_throttled_total 0",
        "midge_mqtt_waiting_messages 0",
        "process_cpu_seconds_total",
    ] {
        assert!(metrics.contains(name), "no {name} in\n{metrics}");
    }
    assert_eq!(get(&http, "/nothing").0, 404);
}

#[test]
fn json_logs_are_json() {
    let place = Place::new();
    let config = place.edge("data", "", "", "[log]\nformat = \"json\"\n");
    let mut server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.stop();
    let log = server.program.log();
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("serving")), "{log:#?}");
}

#[test]
fn the_service_manager_is_told_and_the_state_stays() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(crate::support::SOON)).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let config = place.edge("data", "", "", "");
    let socket = place.path("data/run/admin.sock");
    let mut command = Command::new(midge());
    let mut server = Server::start_with(
        command.args(["edge", "-c", &config]).env("NOTIFY_SOCKET", place.path("notify")),
        &socket,
    );
    assert_eq!(told(), "READY=1");
    server.entry("stays", &own_uid(), &["-publish", "a/b"]);
    let serial = server.status()["ca"]["serial"].clone();
    server.stop();
    assert_eq!(told(), "STOPPING=1");
    assert!(!socket.exists(), "the socket is gone");

    let server = Server::start("edge", &config, &socket);
    assert_eq!((server.entries(), &server.status()["ca"]["serial"]), (1, &serial));
    let shown = server.run(&["entry", "show", "-entryID", "stays"]).ok().json();
    assert!(shown.to_string().contains("a/b"), "{shown}");
}

#[test]
fn a_killed_box_loses_nothing_it_acknowledged() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &socket);
    for name in ["a", "b", "c"] {
        server.entry(name, "unix:uid:4294967294", &[]);
    }
    server.run(&["entry", "delete", "-entryID", "b"]).ok();
    server.program.kill();
    let server = Server::start("edge", &config, &socket);
    assert_eq!(server.entries(), 2);
    server
        .run(&["entry", "show", "-entryID", "b"])
        .refused(1, &["entry not found: \"b\"", "midge entry show"]);
}

#[test]
fn a_planned_stop_says_goodbye_and_sends_no_will_yet() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let mut server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("me", &own_uid(), &["-publish", "plant/will", "-subscribe", "plant/#"]);
    let tcp = server.address("tcp");
    let mut watcher = Client::tcp(&tcp, &Who { id: "watcher", ..Who::default() }).ok().unwrap();
    assert_eq!(watcher.subscribe("plant/#"), ReasonCode::Success);
    let with_will = Who { id: "willing", will: Some("plant/will"), ..Who::default() };
    drop(Client::tcp(&tcp, &with_will).ok().unwrap());
    assert_eq!(watcher.message(), ("plant/will".into(), "gone".into()), "a lost connection fires it");

    let mut willing = Client::tcp(&tcp, &with_will).ok().unwrap();
    server.stop();
    assert_eq!(willing.cut(), ReasonCode::ServerShuttingDown);
    assert_eq!(watcher.cut(), ReasonCode::ServerShuttingDown, "and no will came before");
}
