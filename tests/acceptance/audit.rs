//! The audit log of a running edge: what is in it, and what becomes of whoever changes it.

use crate::client::{Client, Who};
use crate::support::{BOX, Ended, Place, Program, Server, eventually, midge, own_uid, run_midge, run_with};
use midge_audit::{Hash, Line};
use mqtt_proto::ReasonCode;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

fn started(place: &Place) -> Server {
    let config = place.edge("data", "", "", "[audit]\ncheckpoint-secs = 1\nstream = true");
    Server::start("edge", &config, &place.path("data/run/admin.sock"))
}

fn audit(place: &Place, arguments: &[&str]) -> Ended {
    let dir = place.text("data");
    run_midge(&[&["audit"], arguments, &["--dir", &dir, "--output", "json"]].concat())
}

fn records(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let shown = audit(place, &[&["show"], arguments].concat()).ok();
    shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files(place: &Place) -> Vec<PathBuf> {
    midge_audit::files(&place.path("data/audit.jsonl")).unwrap()
}

/// Connects, subscribes, publishes, is denied, and leaves.
fn use_it(server: &Server) {
    server.entry("app", &own_uid(), &["-publish", "a/b", "-subscribe", "a/#"]);
    let tcp = server.address("tcp");
    let mut client = Client::tcp(&tcp, &Who { id: "one", ..Who::default() }).ok().unwrap();
    for _ in 0..3 {
        assert_eq!(client.publish("a/b", "secret-payload"), ReasonCode::NoMatchingSubscribers);
    }
    for _ in 0..20 {
        assert_eq!(client.publish("a/c", "secret-payload"), ReasonCode::NotAuthorized);
    }
}

#[test]
fn what_happened_is_told_verified_and_not_to_be_changed() {
    let place = Place::new();
    let mut server = started(&place);
    use_it(&server);
    let status = server.status();
    let key = status["audit"]["key"].as_str().unwrap().to_owned();
    eventually("signed while it runs", || {
        let verified = audit(&place, &["verify", "--key", &key]).ok().json();
        if verified["unsigned"] == 0 { Ok(()) } else { Err(verified.to_string()) }
    });
    server.stop();

    let id = format!("{BOX}/app/app");
    let kinds = |records: &[Value]| -> Vec<String> {
        records.iter().map(|record| record["event"].as_str().unwrap().to_owned()).collect()
    };
    let own = records(&place, &["--identity", "/app/app", "--kind", "*connected", "--kind", "*-denied"]);
    let expected = ["connected", "publish-denied", "publish-denied", "publish-denied", "publish-denied"];
    assert_eq!(kinds(&own)[..5], expected);
    assert_eq!(
        (&own[0]["identity"], &own[0]["listener"], &own[1]["stage"]),
        (&id.as_str().into(), &"tcp".into(), &"arrival".into())
    );
    let left = records(&place, &["--kind", "disconnected", "--identity", &id]);
    assert_eq!((&left[0]["listener"], &left[0]["proof"]["kind"]), (&"tcp".into(), &"local".into()));
    assert_eq!(left[0]["remote"], own[0]["remote"]);
    let grant = left[0]["published"].as_object().unwrap();
    assert_eq!(grant.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 3);
    assert_eq!(left[0]["denied"]["(none)"], 20);
    let repeated = records(&place, &["--kind", "repeated"]);
    assert_eq!((&repeated[0]["of"], &repeated[0]["count"]), (&"publish-denied".into(), &15.into()));
    assert!(kinds(&records(&place, &["-n", "2"])).contains(&"stopped".to_owned()));
    assert!(records(&place, &["--since", "2999-01-01T00:00:00Z"]).is_empty());

    let intact = audit(&place, &["verify"]).ok().json();
    assert_eq!(
        (&intact["intact"], &intact["key"], &intact["unsigned"]),
        (&true.into(), &key.as_str().into(), &0.into())
    );
    tampered(&place, &key);
}

/// Every way to change the log is found, and where.
fn tampered(place: &Place, key: &str) {
    let path = place.path("data/audit.jsonl");
    let original = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = original.lines().collect();
    let denied = lines.iter().position(|line| line.contains("publish-denied")).unwrap();
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    let removed = [&lines[..denied], &lines[denied + 1..]].concat();
    let swapped = [&lines[..denied], &[lines[denied + 1], lines[denied]], &lines[denied + 2..]].concat();
    let (cut, torn) = (&lines[..lines.len() - 1], original.trim_end_matches(['}', '\n']));
    for (what, text, says) in [
        ("changed", original.replacen("a/c", "a/d", 1), "changed"),
        ("removed", joined(&removed), "missing"),
        ("swapped", joined(&swapped), "missing"),
        ("cut", joined(cut), "truncated"),
        ("torn", torn.to_owned(), "truncated"),
    ] {
        fs::write(&path, text).unwrap();
        let ended = audit(place, &["verify"]);
        assert_eq!(ended.code, Some(1), "{what}: {}{}", ended.stdout, ended.stderr);
        let found = ended.json();
        assert_eq!(
            (&found["intact"], &found["findings"][0]["kind"]),
            (&false.into(), &says.into()),
            "{what}: {found}"
        );
        if what == "changed" {
            assert_eq!(found["findings"][0]["line"], denied + 1);
        }
    }
    // Nor does it help to remove what tells how far it went.
    let head = place.path("data/keys/audit.head");
    let noted = fs::read(&head).unwrap();
    fs::remove_file(&head).unwrap();
    for text in [joined(&lines[..4]), original.clone()] {
        fs::write(&path, text).unwrap();
        let ended = audit(place, &["verify"]);
        assert_eq!((ended.code, &ended.json()["findings"][0]["kind"]), (Some(1), &"head-missing".into()));
    }
    fs::write(&head, noted).unwrap();
    fs::set_permissions(&head, fs::Permissions::from_mode(0o600)).unwrap();
    audit(place, &["verify", "--key", key]).ok();
    assert_eq!(audit(place, &["verify", "--key", &"0".repeat(64)]).code, Some(1));
    audit(place, &["verify", "--key", "nonsense"]).refused(64, &["fingerprint"]);
    run_midge(&["audit", "show", "--dir", &place.text("nowhere")]).refused(74, &["no audit log in"]);
}

#[test]
fn the_log_of_the_process_that_was_named_is_read_and_no_other() {
    let place = Place::new();
    let mut server = started(&place);
    let log = place.text("data/audit.jsonl");
    let socket = server.socket.clone();
    let key = server.status()["audit"]["key"].as_str().unwrap().to_owned();
    assert_eq!(server.run(&["audit", "verify"]).ok().json()["read"][0], log);
    server.stop();
    for command in ["verify", "show"] {
        let unreachable = ["cannot reach the admin socket", &socket];
        run_midge(&["audit", command, "--socketPath", &socket]).refused(69, &unreachable);
        let mut variable = Command::new(midge());
        let variable = variable.args(["audit", command]);
        run_with(variable, &[("MIDGE_SOCKET", &socket)]).refused(69, &unreachable);
    }
    assert_eq!(audit(&place, &["verify"]).ok().json()["read"][0], log);
    // The files need no process.
    run_midge(&["audit", "verify", &log, "--key", &key, "--socketPath", &socket]).ok();
    // Without a key it is the file's own word, which proves nothing.
    proves_nothing(&["audit", "verify", &log], "NOT proven: only the log itself names the key");
    run_midge(&["audit", "verify", &place.text("data")]).refused(64, &["is a directory", "--dir"]);
}

#[test]
fn a_killed_edge_goes_on_with_its_log_and_a_part_can_be_verified_elsewhere() {
    let place = Place::new();
    let mut server = started(&place);
    use_it(&server);
    server.program.kill();
    fs::OpenOptions::new()
        .append(true)
        .open(place.path("data/audit.jsonl"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"{\"seq\":"))
        .unwrap();
    assert_eq!(audit(&place, &["verify"]).code, Some(1), "a torn line");

    let server = started(&place);
    let key = server.status()["audit"]["key"].as_str().unwrap().to_owned();
    let verified = audit(&place, &["verify"]).ok().json();
    let notes = verified["notes"].to_string();
    assert!(notes.contains("a torn last line of 7 bytes"), "{verified}");

    let part = place.text("part.jsonl");
    let told = audit(&place, &["export", "--since", "1h", "--to", &part]).ok().json();
    assert_eq!((&told["file"], &told["first"]), (&part.as_str().into(), &1.into()));
    // It ends with the checkpoint that it tells of.
    assert!(told["last"].is_u64() && told["checkpoint"]["seq"] == told["last"], "{told}");
    let elsewhere = run_midge(&["audit", "verify", &part, "--key", &key, "--output", "json"]).ok().json();
    assert_eq!(elsewhere["intact"], true);
    audit(&place, &["export", "--to", &part]).refused(74, &["is not replaced"]);
    assert_eq!(files(&place).len(), 1);
}

fn proves_nothing(arguments: &[&str], says: &str) {
    let ended = run_midge(arguments);
    assert!(
        ended.code == Some(1) && ended.stdout.contains(says),
        "{arguments:?}: {}{}",
        ended.stdout,
        ended.stderr
    );
}

/// The lines that `keep` lets pass, chained anew by somebody who knows the form and has no key.
fn forged(text: &str, keep: impl Fn(&Line) -> bool) -> (String, Hash) {
    let (mut out, mut prev, mut seq) = (String::new(), Hash::default(), 0);
    for line in text.lines().filter(|line| keep(&Line::parse(line.as_bytes()).unwrap())) {
        seq += 1;
        let rest = line.split_once("\",\"at\":").unwrap().1.replace("/app/app", "/app/innocent");
        let line = format!("{{\"seq\":{seq},\"prev\":\"{prev}\",\"at\":{rest}");
        prev = Hash::of(line.as_bytes());
        out.push_str(&line);
        out.push('\n');
    }
    (out, prev)
}

#[test]
fn a_log_that_nobody_has_signed_is_proven_neither_elsewhere_nor_by_the_next_start() {
    let place = Place::new();
    let mut server = started(&place);
    use_it(&server);
    let key = server.status()["audit"]["key"].as_str().unwrap().to_owned();
    server.stop();
    let path = place.path("data/audit.jsonl");
    let true_log = fs::read_to_string(&path).unwrap();
    let honest = place.path("honest.jsonl").display().to_string();
    fs::write(&honest, &true_log).unwrap();
    run_midge(&["audit", "verify", &honest, "--key", &key]).ok();
    // Denials gone, identities renamed, and no checkpoint, which takes the key.
    let (forgery, hash) =
        forged(&true_log, |line| line.event != "checkpoint" && !line.event.ends_with("denied"));
    let part = place.text("forged.jsonl");
    fs::write(&part, &forgery).unwrap();
    proves_nothing(&["audit", "verify", &part, "--key", &key], "not one checkpoint holds");
    proves_nothing(&["audit", "verify", "/dev/null", "--key", &key], "there is no line");

    fs::write(&path, &forgery).unwrap();
    let head = place.path("data/keys/audit.head");
    let mut noted: Value = serde_json::from_slice(&fs::read(&head).unwrap()).unwrap();
    (noted["seq"], noted["hash"]) = (forgery.lines().count().into(), hash.to_string().into());
    fs::write(&head, noted.to_string()).unwrap();
    assert_eq!(audit(&place, &["verify"]).code, Some(1));
    let mut server = started(&place);
    let told = server.run(&["status"]).stdout;
    assert!(told.contains("none that the key has signed"), "{told}");
    server.stop();
    let verified = audit(&place, &["verify"]);
    assert_eq!(verified.code, Some(1));
    assert!(verified.json()["findings"].to_string().contains("head-invalid"));
}

#[test]
fn an_answer_stays_what_it_is_when_nobody_reads_it_to_its_end() {
    let place = Place::new();
    let mut server = started(&place);
    let key = server.status()["audit"]["key"].as_str().unwrap().to_owned();
    server.stop();
    let (dir, log) = (place.text("data"), place.text("data/audit.jsonl"));
    let policy = "[[rule]]\nname = \"one\"\nid = \"spiffe://plant.example/a\"\npublish = [\"b\"]\n";
    let policy = place.write("policy.toml", policy);
    let unread = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Command::new(midge()).args(arguments).stdout(writer).status().unwrap().code()
    };
    let can = ["policy", "can", "spiffe://plant.example/a", "publish", "a", "-p", &policy];
    for (arguments, code) in [
        (&can[..], 1),
        (&["audit", "verify", "/dev/null", "--key", &key], 1),
        (&["audit", "verify", &log, "--key", &key], 0),
        // What only shows what there is ends with its reader.
        (&["audit", "show", "--dir", &dir], 0),
        (&["audit", "follow", "--since", "1d", "--dir", &dir], 0),
    ] {
        assert_eq!(unread(arguments), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_log_is_followed_while_it_grows() {
    let place = Place::new();
    let server = started(&place);
    let dir = place.text("data");
    let arguments = ["audit", "follow", "--dir", &dir, "--kind", "connected", "--output", "json"];
    let mut follower = Program::start(Command::new(midge()).args(arguments));
    // It tells nothing of its start: whatever it shows was connected after that.
    eventually("followed", || {
        let tcp = server.address("tcp");
        if server.entries() == 0 {
            server.entry("app", &own_uid(), &[]);
        }
        Client::tcp(&tcp, &Who { id: "seen", ..Who::default() }).ok().unwrap();
        let lines = follower.printed();
        if lines.iter().any(|line| line.contains("\"client-id\":\"seen\"")) {
            Ok(())
        } else {
            Err(lines.join("\n"))
        }
    });
    follower.terminate();
    assert!(follower.ended().success());
}

#[test]
fn operators_and_certificates_are_told_and_secrets_are_not() {
    let place = Place::new();
    let mut server = started(&place);
    let uid = rustix::process::getuid().as_raw();
    let sly = Who { id: "sly", password: Some("secret-password"), will: Some("a/c"), ..Who::default() };
    use_it(&server);
    let tcp = server.address("tcp");
    assert!(Client::tcp(&tcp, &sly).is_err(), "its will is denied");
    assert!(Client::tcp(&tcp, &Who { will: Some("a/b"), ..sly }).is_ok());
    let id = format!("{BOX}/app/app");
    let update =
        ["entry", "update", "-entryID", "app", "-spiffeID", &id, "-selector", &own_uid(), "-publish", "x/y"];
    server.run(&update).ok();
    let minted = server.run(&["svid", "mint", "-spiffeID", &id]).ok().stdout;
    let token = ["token", "generate", "-spiffeID", "spiffe://plant.example/edge/box-2"];
    server.run(&token).refused(1, &["this is box box-1", "made there"]);
    server.run(&["entry", "delete", "-entryID", "app"]).ok();
    server.run(&["entry", "delete", "-entryID", "none"]).refused(1, &[]);
    server.stop();

    let one = |kind: &str, identity: &str| -> Value {
        let found = records(&place, &["--kind", kind, "--identity", identity]);
        found.first().cloned().unwrap_or_else(|| panic!("no {kind} of {identity}"))
    };
    let created = one("entry-created", &id);
    assert_eq!((&created["by"]["uid"], &created["publish"]), (&uid.into(), &serde_json::json!(["a/b"])));
    let updated = one("entry-updated", &id);
    assert_eq!((&updated["publish"], &updated["selectors"]), (&serde_json::json!(["x/y"]), &Value::Null));
    assert_eq!(one("entry-deleted", &id)["by"]["uid"], uid);
    assert_eq!(
        (&one("svid-issued", &id)["for"], &one("svid-issued", &id)["by"]["uid"]),
        (&"operator".into(), &uid.into())
    );
    assert_eq!(one("svid-issued", "/broker")["for"], "own part");
    let kinds = |kind: &str| records(&place, &["--kind", kind]);
    let (calls, changes) = (kinds("admin"), kinds("policy-changed"));
    assert!(
        calls.iter().any(|call| call["by"]["method"].as_str().unwrap().ends_with("Entry/BatchCreateEntry"))
    );
    assert!(
        !calls.iter().any(|call| call["by"]["method"].as_str().unwrap().ends_with("Status")),
        "{calls:?}"
    );
    // Changes that come fast may be taken over together.
    assert!(changes.len() >= 2, "the entry came, changed and went: {changes:?}");
    let lengths =
        |change: &Value| ["added", "changed", "removed"].map(|key| change[key].as_array().unwrap().len());
    assert_eq!(lengths(&changes[0]), [1, 0, 0]);
    assert_eq!(lengths(changes.last().unwrap()), [0, 0, 1]);
    assert_eq!((kinds("ca-prepared").len(), kinds("ca-activated").len()), (1, 1));

    assert!(minted.contains("PRIVATE KEY"));
    let key_line =
        minted.split("PRIVATE KEY").nth(1).unwrap().split(['\n', '\\']).find(|line| line.len() > 60);
    let log: String = files(&place).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for secret in ["secret-payload", "secret-password", "PRIVATE", key_line.unwrap().trim_start_matches('n')]
    {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    audit(&place, &["verify"]).ok();
}

#[test]
fn a_join_token_is_told_of_but_not_told() {
    let place = Place::new();
    let config = place.cloud("data", "plant.example");
    let mut cloud = Server::start("cloud", &config, &place.path("data/run/admin.sock"));
    let token = cloud.run(&["token", "generate", "-spiffeID", BOX]).ok().json();
    cloud
        .run(&["token", "generate", "-spiffeID", &format!("{BOX}/agent/b")])
        .refused(64, &["no box", "<node>"]);
    cloud.stop();
    assert_eq!(records(&place, &["--kind", "token-made"]).len(), 1);
    let (_, secret) = token["token"].as_str().unwrap().split_once('.').unwrap();
    let log: String = files(&place).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(!log.contains(secret), "{secret} is in the log");
}

#[test]
fn the_log_is_streamed_to_who_may_have_it_and_to_nobody_else() {
    let place = Place::new();
    let server = started(&place);
    server.entry("desk", &own_uid(), &["-subscribe", "$identity/audit/#", "-publish", "$identity/#"]);
    let broker = format!("mqtt://{}", server.address("tcp"));
    let sub = ["sub", "--broker", &broker, "-t", "$identity/audit/#", "--output", "json"];
    let desk = Program::start(Command::new(midge()).args(sub));
    desk.event("subscribed", |event| event["event"] == "subscribed");
    let own = ["pub", "--broker", &broker, "-t", "$identity/audit/connected", "-m", "forged"];
    run_midge(&own).refused(1, &["$identity/audit/connected"]);
    let told = desk.event("told", |event| event["topic"] == "$identity/audit/publish-denied");
    let line: Value = serde_json::from_str(told["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&line["event"], &line["topic"]),
        (&"publish-denied".into(), &"$identity/audit/connected".into())
    );
    assert!(
        !desk.printed().iter().any(|line| line.contains("forged\"") && line.contains("\"payload\":\"forged"))
    );

    server.run(&["entry", "delete", "-entryID", "desk"]).ok();
    server.entry("other", &own_uid(), &["-subscribe", "a/b"]);
    run_midge(&sub).refused(1, &[]);
    assert!(audit(&place, &["verify"]).code == Some(0));
}
