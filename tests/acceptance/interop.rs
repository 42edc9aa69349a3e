//! Clients that are not ours: mosquitto's, PyPI's paho-mqtt and spiffe. The crate `spiffe` is tested
//! with the agent, rumqttc with the mapper SDK.
//!
//! A client that is not installed is skipped with a word; with `MIDGE_INTEROP=required`, as in CI,
//! it is an error. `MIDGE_INTEROP_PYTHON` names a Python that has `tests/interop/requirements.txt`.

use crate::support::{Ended, Place, Server, own_uid, run, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A standalone edge whose own user may use `demo/#`, and that user's SVID in files.
fn stage() -> (Place, Server, String) {
    let place = Place::new();
    let any =
        ["tls", "tcp", "websocket-tls", "websocket-loopback"].map(|key| format!("{key} = \"127.0.0.1:0\""));
    let config = place.edge("data", "", &any.join("\n"), "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let svid = place.text("svid");
    let api = server.address("workload-api");
    server
        .run(&["svid", "fetch", "--workload-api", &format!("unix://{api}"), "--write", &svid, "--once"])
        .ok();
    (place, server, svid)
}

pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.or_else(|| missing(program))
}

fn python() -> Option<PathBuf> {
    std::env::var_os("MIDGE_INTEROP_PYTHON")
        .map(PathBuf::from)
        .or_else(|| missing("Python with paho-mqtt and spiffe"))
}

fn missing(what: &str) -> Option<PathBuf> {
    skip(&format!("{what} is not installed"), true);
    None
}

fn script(python: &Path, name: &str, arguments: &[&str]) -> Ended {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop").join(name);
    run(Command::new(python).arg(script).args(arguments))
}

fn port(server: &Server, kind: &str) -> String {
    server.address(kind).rsplit(':').next().unwrap().to_owned()
}

#[test]
fn mosquitto_pub_and_sub_speak_over_mtls_and_loopback_in_both_versions() {
    let (Some(publisher), Some(subscriber)) = (installed("mosquitto_pub"), installed("mosquitto_sub")) else {
        return;
    };
    let (_place, server, svid) = stage();
    let tls = port(&server, "tls");
    let tcp = port(&server, "tcp");
    let (ca, cert, key) =
        (format!("{svid}/bundle.pem"), format!("{svid}/svid.pem"), format!("{svid}/svid.key"));
    // The server's name is a SPIFFE ID, which no TLS library compares by itself.
    let by_svid = ["-p", &tls, "--cafile", &ca, "--cert", &cert, "--key", &key, "--insecure"];
    let by_uid = ["-p", tcp.as_str()];
    for way in [&by_svid[..], &by_uid[..]] {
        for version in ["mqttv311", "mqttv5"] {
            let publish = |topic: &str| {
                let mut command = Command::new(&publisher);
                run(command
                    .args(["-h", "127.0.0.1", "-V", version, "-q", "2", "-r", "-t", topic, "-m", version])
                    .args(way))
            };
            publish("demo/mosquitto").ok();
            let mut command = Command::new(&subscriber);
            let arguments =
                ["-h", "127.0.0.1", "-V", version, "-q", "2", "-t", "demo/+", "-C", "1", "-W", "10"];
            let received = run(command.args(arguments).args(way)).ok();
            assert_eq!(received.stdout, version);
            let mut command = Command::new(&subscriber);
            let arguments = ["-h", "127.0.0.1", "-V", version, "-t", "other/#", "-C", "1", "-W", "5"];
            let denied = run(command.args(arguments).args(way));
            // mosquitto_sub ends well when every subscription was denied, and says so.
            assert!(denied.stderr.contains("denied"), "{}{}", denied.stdout, denied.stderr);
        }
    }
}

#[test]
fn mosquitto_pub_without_an_svid_is_refused_at_the_door() {
    let Some(publisher) = installed("mosquitto_pub") else { return };
    let (_place, server, svid) = stage();
    let (tls, ca) = (port(&server, "tls"), format!("{svid}/bundle.pem"));
    let arguments =
        ["-h", "127.0.0.1", "-p", &tls, "--cafile", &ca, "--insecure", "-t", "demo/x", "-m", "x", "-q", "1"];
    let refused = run(Command::new(publisher).args(arguments));
    assert_ne!(refused.code, Some(0), "{}", refused.stderr);
}

#[test]
fn paho_speaks_over_mtls_loopback_and_websocket_in_both_versions() {
    let Some(python) = python() else { return };
    let (_place, server, svid) = stage();
    let ways = [("tls", "tls"), ("tcp", "tcp"), ("wss", "websocket-tls"), ("ws", "websocket-loopback")];
    for (way, kind) in ways {
        let port = port(&server, kind);
        for version in ["3", "5"] {
            let exchange =
                |topic| script(&python, "paho_client.py", &[way, "127.0.0.1", &port, version, topic, &svid]);
            assert_eq!(exchange("demo/paho").ok().stdout, "received hello from paho");
            let denied = exchange("other/paho");
            assert_eq!(denied.code, Some(1), "{}{}", denied.stdout, denied.stderr);
            assert!(denied.stdout.starts_with("refused"), "{}", denied.stdout);
        }
    }
}

#[test]
fn the_spiffe_package_of_python_fetches_its_x509_context() {
    let Some(python) = python() else { return };
    let (_place, server, _) = stage();
    let socket = format!("unix://{}", server.address("workload-api"));
    let fetched = script(&python, "workload_api.py", &[&socket]).ok();
    let lines: Vec<&str> = fetched.stdout.lines().collect();
    assert_eq!(lines, ["id spiffe://plant.example/edge/box-1/app/peer", "chain 1", "roots 1"]);

    server.run(&["entry", "delete", "-entryID", "peer"]).ok();
    let refused = script(&python, "workload_api.py", &[&socket]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("no identity issued"), "{}", refused.stderr);
}
