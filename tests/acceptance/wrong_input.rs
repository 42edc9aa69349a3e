//! Wrong input: a message with the value and the remedy, a documented exit code, and nothing lost.

use crate::support::{BOX, Ended, Place, Server, eventually, midge, own_uid, run, run_midge};
use midge_identity::UnixMillis;
use midge_pki::{
    CurrentIdentity, FixedTrust, IdentitySource, PrivateKey, RootPin, ServerExpectation, SvidIdentity,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const NOBODY: u32 = 65_534;

fn starts(config: &str) -> Ended {
    run_midge(&["edge", "-c", config])
}

#[test]
fn flags_that_a_role_has_no_use_for_are_refused() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let with = |flags: [&str; 2]| run_midge(&[&["edge", "-c", &config], &flags[..]].concat());
    with(["--socketPath", "x.sock"]).refused(64, &["--socketPath", "run-dir"]);
    with(["--output", "json"]).refused(64, &["--output json", "[log]"]);
    assert!(!place.path("data").exists());
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A box that ran once: its configuration, the place of its socket is as usual.
fn used(place: &Place) -> String {
    let config = place.edge("data", "", "", "");
    let mut server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("kept", &own_uid(), &[]);
    server.stop();
    config
}

/// Every file below `name` with its bytes, locks and sockets left out.
fn contents(place: &Place, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![place.path(name)];
    while let Some(dir) = dirs.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.is_file()
                && path.extension().is_none_or(|extension| extension != "lock" && extension != "db-shm")
            {
                let mut bytes = Vec::new();
                std::fs::File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                // SQLite makes its log before anything is written to it.
                if !bytes.is_empty() {
                    files.insert(path, bytes);
                }
            }
        }
    }
    files
}

/// Asserts that the box starts and has what it had.
#[track_caller]
fn works(place: &Place, config: &str) {
    let mut server = Server::start("edge", config, &place.path("data/run/admin.sock"));
    server.run(&["entry", "show", "-entryID", "kept"]).ok();
    server.stop();
}

#[test]
fn configuration_files_that_are_wrong_are_refused_before_anything_is_made() {
    let place = Place::new();
    for role in ["edge", "cloud", "agent"] {
        let missing = place.text("missing.toml");
        run_midge(&[role, "-c", &missing]).refused(78, &[&missing, "No such file"]);
        let bad = place.write("bad.toml", "trust-domain = \"plant.example\nnode = 1");
        run_midge(&[role, "-c", &bad]).refused(78, &[&bad, "line 1"]);
        let unknown = place.write("unknown.toml", "colour = \"red\"\n");
        run_midge(&[role, "-c", &unknown]).refused(78, &[&unknown, "colour"]);
    }
    let unknown = place.edge("data", "", "tsl = \"127.0.0.1:0\"", "");
    starts(&unknown).refused(78, &[&unknown, "`tsl`", "`tls`"]);
    run_midge(&["check", "-c", &unknown]).refused(78, &["`tsl`", "`tls`"]);
    let filter = place.edge("data", "", "", "[log]\nfilter = \"a=b=c\"");
    starts(&filter).refused(78, &["a=b=c", "use a level such as info"]);
    let missing = place.text("no-such-policies");
    let policies = place.edge("data", "", "", &format!("[policy]\ndir = \"{missing}\""));
    starts(&policies).refused(78, &[&missing, "policy.dir"]);
    let rules = place.write("rules.toml", "# a comment\n[[rule]]\nname = \"a\"\nid = \"nobody\"\n");
    run_midge(&["rule", "apply", &rules]).refused(78, &[&format!("{rules}:")]);
    assert!(!place.path("data").exists(), "nothing was made");
    run_midge(&["check", "-c", &place.edge("data", "", "", "")]).ok();
}

#[test]
fn addresses_that_cannot_be_served_are_refused() {
    let place = Place::new();
    used(&place);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (key, mqtt, rest) in [
        ("mqtt.tls", format!("tls = \"{address}\"\ntcp = \"127.0.0.1:0\""), String::new()),
        ("mqtt.tcp", format!("tls = \"127.0.0.1:0\"\ntcp = \"{address}\""), String::new()),
        ("http.address", String::new(), format!("[http]\naddress = \"{address}\"")),
    ] {
        starts(&place.edge("data", "", &mqtt, &rest)).refused(69, &[&address, key, "choose another address"]);
    }
    let exposed = place.edge("data", "", "tls = \"127.0.0.1:0\"\ntcp = \"0.0.0.0:0\"", "");
    starts(&exposed).refused(78, &["mqtt.tcp = \"0.0.0.0:0\"", "not a loopback address", "use mqtt.tls"]);
    let cloud = place.write(
        "cloud.toml",
        &format!(
            "trust-domain = \"plant.example\"\ndata-dir = \"{}\"\nbootstrap = \"{address}\"\nchannel = \"127.0.0.1:0\"\n",
            place.text("cloud")
        ),
    );
    run_midge(&["cloud", "-c", &cloud]).refused(69, &[&address]);
    works(&place, &place.edge("data", "", "", ""));
}

#[test]
fn what_another_midge_uses_is_left_to_it() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let pid = server.program.pid().to_string();
    starts(&config).refused(69, &[&place.text("data"), "stop it first"]);
    let elsewhere = place.edge("data", &format!("run-dir = \"{}\"", place.text("run")), "", "");
    starts(&elsewhere).refused(69, &[&place.text("data/midge.db"), &pid, "stop it first"]);
    let run_dir = format!("run-dir = \"{}\"", place.text("data/run"));
    let second = place.edge("second", &run_dir, "", "");
    starts(&second)
        .refused(69, &[&place.text("data/run/admin.sock"), "served by another process", "stop it first"]);
    let unix = place.text("data/mqtt.sock");
    let mqtt = format!("tls = \"127.0.0.1:0\"\nunix = \"{unix}\"");
    let holder = std::os::unix::net::UnixListener::bind(&unix).unwrap();
    starts(&place.edge("third", "", &mqtt, ""))
        .refused(69, &[&unix, "mqtt.unix", "stop it or choose another"]);
    drop(holder);
    server.entry("still-served", &own_uid(), &[]);
}

#[test]
fn a_file_in_the_place_of_a_socket_is_left_as_it_is() {
    let place = Place::new();
    let config = used(&place);
    let file = place.write("mqtt.sock", "precious");
    let tls = "tls = \"127.0.0.1:0\"\ntcp = \"off\"";
    let named = |unix: &str| place.edge("data", "", &format!("{tls}\nunix = \"{unix}\""), "");
    for unix in [&file, &config] {
        let starting = named(unix);
        let before = std::fs::read(unix).unwrap();
        starts(&starting).refused(78, &[unix, "mqtt.unix", "not a socket", "move it away"]);
        assert_eq!(std::fs::read(unix).unwrap(), before);
    }
    starts(&named("")).refused(78, &["unix", "not a path"]);
    let admin = place.path("data/run/admin.sock");
    std::fs::write(&admin, "precious").unwrap();
    starts(&place.edge("data", "", "", "")).refused(78, &["admin.sock", "not a socket", "move it away"]);
    assert_eq!(std::fs::read(&admin).unwrap(), b"precious");
    std::fs::remove_file(&admin).unwrap();

    // What a killed process left is replaced, and `off` is a word and no file.
    let dead = place.text("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let mut server = Server::start("edge", &named(&dead), &admin);
    assert_eq!(server.address("unix"), dead);
    server.stop();
    let config = named("off");
    let mut command = Command::new(midge());
    let mut server =
        Server::start_with(command.args(["edge", "-c", &config]).current_dir(place.path("")), &admin);
    assert!(!server.status()["listeners"].to_string().contains("\"unix\""));
    assert!(!place.path("off").exists());
    server.stop();
}

#[test]
fn a_data_directory_of_somebody_else_is_left_as_it_is() {
    let place = Place::new();
    let config = used(&place);
    let before = contents(&place, "data");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = place.write("other.toml", &text.replace("plant.example", "other.example"));
    starts(&other).refused(
        78,
        &["plant.example", "other.example", "set trust-domain back", &place.text("data/midge.db")],
    );
    let renamed = place.write("renamed.toml", &text.replace("\"box-1\"", "\"box-9\""));
    starts(&renamed).refused(78, &["belongs to node \"box-1\", not to \"box-9\"", "another data-dir"]);
    let link = "[cloud]\nbootstrap = \"https://127.0.0.1:1\"\nchannel = \"wss://127.0.0.1:1\"\n";
    let managed = place.write("managed.toml", &format!("{text}{link}"));
    starts(&managed).refused(78, &["standalone", "edge", "use that role's data directory"]);
    run_midge(&["cloud", "-c", &place.cloud("data", "plant.example")]).refused(78, &["standalone", "cloud"]);
    assert_eq!(contents(&place, "data"), before);
    works(&place, &place.edge("data", "", "", ""));
}

#[test]
fn secrets_that_others_can_read_are_not_used() {
    let place = Place::new();
    let config = used(&place);
    let before = contents(&place, "data");
    let keys = place.path("data/keys");
    let key = std::fs::read_dir(&keys)
        .unwrap()
        .map(|item| item.unwrap().path())
        .find(|path| PrivateKey::load(path).is_ok());
    for (path, open, closed, remedy) in [
        (key.unwrap(), 0o644, 0o600, "chmod 600"),
        (keys, 0o755, 0o700, "chmod 700"),
        (place.path("data"), 0o777, 0o755, "chmod go-w"),
        (place.path("data/midge.db"), 0o640, 0o600, "chmod 600"),
    ] {
        mode(&path, open);
        let text = path.display().to_string();
        starts(&config).refused(77, &[&text, &format!("{open:04o}"), remedy]);
        mode(&path, closed);
    }
    if rustix::process::geteuid().is_root() {
        let store = place.path("data/midge.db");
        std::os::unix::fs::chown(&store, Some(NOBODY), None).unwrap();
        let text = store.display().to_string();
        starts(&config).refused(77, &[&text, "uid 65534", "run Midge as its owner", "chown 0"]);
        std::os::unix::fs::chown(&store, Some(0), None).unwrap();
    }
    let after = contents(&place, "data");
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    works(&place, &config);
}

#[test]
fn a_store_that_cannot_be_read_is_left_as_it_is() {
    let place = Place::new();
    let config = used(&place);
    let store = place.path("data/midge.db");
    let text = store.display().to_string();
    let good = std::fs::read(&store).unwrap();
    let damage = |from: usize| {
        let mut bytes = good.clone();
        bytes[from..from + 900].fill(0xA5);
        bytes
    };
    let cut = good[..good.len() / 2].to_vec();
    for bad in [damage(0), damage(4096), cut, Vec::new()] {
        std::fs::write(&store, bad).unwrap();
        let before = contents(&place, "data");
        let ended = starts(&config);
        assert!(matches!(ended.code, Some(74 | 78)), "{ended:?}");
        assert!(ended.stderr.contains(&text) && !ended.stderr.contains("panicked"), "{ended:?}");
        assert!(
            ["restore it from a backup", "choose another data directory"]
                .iter()
                .any(|remedy| ended.stderr.contains(remedy)),
            "{ended:?}"
        );
        let after = contents(&place, "data");
        assert_eq!(after.get(&store), before.get(&store));
    }
    std::fs::write(&store, &good).unwrap();
    rusqlite::Connection::open(&store).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = contents(&place, "data");
    starts(&config).refused(78, &[&text, "format 99", "install the version that wrote it"]);
    assert_eq!(contents(&place, "data").get(&store), before.get(&store));
    rusqlite::Connection::open(&store).unwrap().pragma_update(None, "user_version", 1).unwrap();
    works(&place, &config);
}

#[test]
fn calls_that_are_wrong_are_told_so() {
    let place = Place::new();
    let server = Server::start("edge", &place.edge("data", "", "", ""), &place.path("data/run/admin.sock"));
    let app = format!("{BOX}/app/x");
    for (arguments, named) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["edge"], "--config"),
        (&["status", "--output", "xml"], "xml"),
        (&["pub", "-t", "a", "-m", "x", "-q", "3"], "3"),
        (&["pub", "-t", "a", "-m", "x", "--broker", "ftp://box"], "ftp://box"),
        (&["entry", "update", "-entryID", "a", "-newEntryID", "b"], "--newEntryID"),
        (&["sub", "-t", "a/#/b", "--broker", "mqtt://127.0.0.1:1"], "a/#/b"),
    ] {
        run_midge(arguments).refused(64, &[named]);
    }
    for (arguments, named, remedy) in [
        (
            &["entry", "create", "-spiffeID", "app/x", "-selector", "unix:uid:0"][..],
            "app/x",
            "spiffe://<trust domain>/<path>",
        ),
        (&["entry", "create", "-spiffeID", &app, "-selector", "unix"], "unix", "type:value"),
        (
            &["entry", "create", "-spiffeID", "spiffe://other.example/x", "-selector", "unix:uid:0"],
            "other.example",
            "plant.example",
        ),
        (
            &["entry", "create", "-spiffeID", &app, "-selector", "unix:uid:0", "-publish", "a/#/b"],
            "a/#/b",
            "#",
        ),
        (&["svid", "mint", "-spiffeID", "x"], "\"x\"", "spiffe://<trust domain>/<path>"),
    ] {
        server.run(arguments).refused(64, &[named, remedy]);
    }
    let bytes = std::ffi::OsStr::from_bytes(b"\xff");
    run(Command::new(midge()).args(["pub", "-t", "a", "-m"]).arg(bytes)).refused(64, &["UTF-8"]);
    server.run(&["entry", "delete", "-entryID", "nothing"]).refused(1, &["not found"]);
    assert_eq!(server.entries(), 0);
}

#[test]
fn an_answer_that_cannot_be_written_is_told() {
    let place = Place::new();
    let server = Server::start("edge", &place.edge("data", "", "", ""), &place.path("data/run/admin.sock"));
    let to = |file: &str, arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" > {file}")]).arg(midge()).args(arguments);
        run(shell.args(["--socketPath", &server.socket]))
    };
    let id = format!("{BOX}/app/x");
    for arguments in
        [&["bundle", "show"][..], &["svid", "mint", "-spiffeID", &id], &["entry", "show"], &["-h"]]
    {
        to("/dev/full", arguments).refused(74, &["cannot write to standard output", "No space left"]);
        to("/dev/null", arguments).ok();
    }
}

#[test]
fn an_admin_socket_that_cannot_be_used_is_named() {
    let place = Place::new();
    let missing = place.text("none.sock");
    run_midge(&["status", "--socketPath", &missing])
        .refused(69, &[&missing, "start midge", "--socketPath or MIDGE_SOCKET"]);
    let dead = place.text("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    run_midge(&["status", "--socketPath", &dead]).refused(69, &[&dead, "is midge running?"]);

    let listeners =
        format!("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\nunix = \"{}\"", place.text("mqtt.sock"));
    let config = place.edge("data", "", &listeners, "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    let workload = place.text("data/run/workload.sock");
    run_midge(&["status", "--socketPath", &workload])
        .refused(69, &[&workload, "no admin socket", "--socketPath"]);
    let mqtt = place.text("mqtt.sock");
    run_midge(&["entry", "count", "--socketPath", &mqtt])
        .refused(69, &[&mqtt, "not answer as an admin socket"]);
    let (tls, tcp) = (server.address("tls"), server.address("tcp"));
    let publish = |broker: &str| run_midge(&["pub", "-t", "a", "-m", "x", "--broker", broker]);
    publish(&format!("mqtt://{tls}")).refused(69, &[&tls, "does not speak MQTT", "mqtts://"]);
    publish(&format!("mqtt://{tcp}")).refused(77, &[&tcp, "Not authorized"]);
    assert_eq!(std::fs::metadata(&server.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut other = Command::new(place.program("midge"));
    other.args(["status", "--socketPath", &server.socket]);
    if rustix::process::getuid().is_root() {
        other.uid(NOBODY);
    } else {
        mode(Path::new(&server.socket), 0o000);
    }
    run(&mut other).refused(77, &[&server.socket, "run this as the user that midge runs as"]);
}

#[test]
fn a_clock_in_the_past_is_told_and_revives_no_expired_svid() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &socket);
    server.entry("old", "unix:uid:4294967294", &["-publish", "a/b"]);
    let (id, svid) = (format!("{BOX}/app/old"), place.text("svid"));
    server.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "600", "--write", &svid]).ok();
    let broker = format!("mqtts://{}", server.address("tls"));
    run_midge(&["pub", "--broker", &broker, "--svid", &svid, "-t", "a/b", "-m", "x"]).ok();
    server.stop();

    // As if the board had been on yesterday and came up a day early now.
    let tomorrow = UnixMillis::from_secs(now_secs() + 86_400);
    save_floor(&place, tomorrow);
    let server = Server::start("edge", &config, &socket);
    let status = server.run(&["status"]);
    assert_eq!(status.code, Some(1), "{}", status.stdout);
    let degraded = status.json()["degraded"].to_string();
    assert!(
        degraded.contains("clock is behind by 23 h") || degraded.contains("clock is behind by 24 h"),
        "{degraded}"
    );
    assert!(degraded.contains("set the system clock"), "{degraded}");

    // A client whose clock is right meets the broker with an SVID that ended long ago.
    handshake(&server.address("tls"), &place, tomorrow);
    let refused = eventually("audited", || {
        let text = std::fs::read_to_string(place.path("data/audit.jsonl")).unwrap();
        let mut records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.find(|record| record["event"] == "connection-refused").ok_or(text)
    });
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("expired")), "{refused}");
}

fn now_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn save_floor(place: &Place, floor: UnixMillis) {
    let info = midge_store::StoreInfo::new("standalone", "plant.example");
    let store = midge_store::Store::open(place.path("data/midge.db"), &info).unwrap();
    let batch = midge_store::Batch::new().put("clock/floor", serde_json::to_vec(&floor).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.commit(batch, midge_store::Durability::PowerLoss)).unwrap();
    runtime.block_on(store.close()).unwrap();
}

/// A TLS handshake with the SVID on disk, by a client for which it is `now`; its end is not of interest.
fn handshake(address: &str, place: &Place, now: UnixMillis) {
    let read = |name: &str| std::fs::read(place.path("svid").join(name)).unwrap();
    let chain = midge_pki::pem_decode_certs(&read("svid.pem")).unwrap();
    let root = midge_pki::pem_decode_certs(&read("bundle.pem")).unwrap()[0].to_vec();
    let bundles = RootPin::of(&root).check(&root).unwrap().bundles().unwrap();
    let key = Arc::new(PrivateKey::load(place.path("svid/svid.key")).unwrap());
    let identity = CurrentIdentity::new();
    identity.set(SvidIdentity::new(chain, key).unwrap());
    let identity: Arc<dyn IdentitySource> = Arc::new(identity);
    let broker = ServerExpectation::Id(midge_identity::SpiffeId::new(format!("{BOX}/broker")).unwrap());
    let config =
        midge_pki::client_config(Some(identity), Arc::new(FixedTrust::new(bundles, move || now)), broker);
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(crate::support::SOON)).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    // In TLS 1.3 the client is done before the server has looked at its certificate.
    stream.write_all(b"x").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_err();
}
