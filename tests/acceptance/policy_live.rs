//! The policy of a running edge: taken over or refused, a candidate beside it, rules learned from what is done.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Program, Server, eventually, midge, own_uid, run_midge};
use mqtt_proto::ReasonCode;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

/// Rules of the apps, with what they may publish.
fn apps(publish: &str) -> String {
    format!(
        "[[rule]]\nname = \"apps\"\nid = \"spiffe://{{td}}/edge/{{node}}/app/{{app}}\"\npublish = {publish}\nsubscribe = [\"line/#\"]\n"
    )
}

/// An edge whose policy files are in `policies`, and its candidate's in `candidate`.
fn started(place: &Place, publish: &str) -> Server {
    std::fs::create_dir(place.path("policies")).unwrap();
    place.write("policies/apps.toml", &apps(publish));
    let policy = format!(
        "[policy]\ndir = \"{}\"\nshadow = \"{}\"\n[http]\naddress = \"127.0.0.1:0\"\n",
        place.text("policies"),
        place.text("candidate")
    );
    let config = place.edge("data", "", "", &policy);
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("me", &own_uid(), &[]);
    server
}

fn client(server: &Server) -> Client {
    Client::tcp(&server.address("tcp"), &Who { id: "me", ..Who::default() }).ok().unwrap()
}

/// Publishes at QoS 1 where nobody listens; tells whether the broker takes it.
fn may_publish(client: &mut Client, topic: &str) -> bool {
    match client.publish(topic, "1") {
        ReasonCode::Success | ReasonCode::NoMatchingSubscribers => true,
        ReasonCode::NotAuthorized => false,
        other => panic!("{other:?}"),
    }
}

/// What the box answers over HTTP.
fn http(server: &Server, path: &str) -> String {
    let address = server.address("http");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(crate::support::SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a metric, by its name with labels.
fn metric(server: &Server, name: &str) -> Option<f64> {
    let answer = http(server, "/metrics");
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Records of the audit log of one kind, once there is one that is wanted.
fn recorded(place: &Place, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let dir = place.text("data");
    eventually("recorded", || {
        let ended = run_midge(&["audit", "show", "--dir", &dir, "--kind", kind, "--output", "json"]);
        let records = ended.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.into_iter().find(|record| wanted(record)).ok_or(ended.stdout)
    })
}

#[test]
fn quotas_of_a_policy_file_hold_for_who_is_connected() {
    let place = Place::new();
    let server = started(&place, "[\"line/{app}/up\"]");
    let with = |sessions: u32, subscriptions: u32| {
        let quota = format!("quota = {{ sessions = {sessions}, subscriptions = {subscriptions} }}\n");
        place.write("policies/apps.toml", &(apps("[\"line/{app}/up\"]") + &quota));
        server.run(&["policy", "reload"]).ok();
    };
    let second = || Client::tcp(&server.address("tcp"), &Who { id: "second", ..Who::default() });
    let mut me = client(&server);
    assert_eq!(me.subscribe("line/1"), ReasonCode::Success);
    with(1, 2);
    assert_eq!(
        ["line/2", "line/3"].map(|filter| me.subscribe(filter)),
        [ReasonCode::Success, ReasonCode::QuotaExceeded]
    );
    assert_eq!(second().err(), Some(ReasonCode::QuotaExceeded));
    let record = recorded(&place, "connect-refused", |record| record["client-id"] == "second");
    let rule = record["rule"].as_str().unwrap_or_default();
    assert!(rule.starts_with("`apps` (") && rule.ends_with("apps.toml:1)"), "{record}");
    let reason = format!("to connect as `second` would exceed the quota of rule {rule}: sessions = 1");
    assert_eq!((&record["reason"], &record["code"]), (&reason.into(), &0x97.into()));
    recorded(&place, "subscribe-denied", |record| record["filter"] == "line/3" && record["rule"] == rule);
    let id = format!("{BOX}/app/me");
    let explained =
        server.run(&["policy", "explain", &id, "subscribe", "line/3", "-p", "running"]).ok().json();
    assert_eq!(
        (&explained["allowed"], &explained["quotas"][1]["max"]),
        (&true.into(), &2.into()),
        "{explained}"
    );
    with(2, 3);
    assert_eq!(me.subscribe("line/3"), ReasonCode::Success);
    second().ok().unwrap().leave();
}

#[test]
fn a_pipe_among_the_policy_files_stops_nothing_else() {
    let place = Place::new();
    let mut server = started(&place, "[\"line/{app}/up\"]");
    let mut me = client(&server);
    std::fs::create_dir(place.path("candidate")).unwrap();
    pipe(&place, "policies/z.toml");
    pipe(&place, "candidate/z.toml");
    let refused = server.run(&["policy", "reload"]);
    assert_eq!(refused.code, Some(78), "{}{}", refused.stdout, refused.stderr);
    let refused = refused.json();
    for faults in [&refused["faults"], &refused["candidate"]["faults"]] {
        assert!(faults[0]["message"].as_str().unwrap().contains("named pipe"), "{refused}");
    }
    let degraded = server.status()["degraded"].to_string();
    assert!(degraded.contains("policies/z.toml") && degraded.contains("candidate/z.toml"), "{degraded}");
    assert!(metric(&server, "midge_degraded").is_some_and(|count| count >= 2.0));

    // What entries grant comes and goes meanwhile.
    assert!(may_publish(&mut me, "line/me/up") && !may_publish(&mut me, "line/more"));
    let id = format!("{BOX}/app/me");
    let more = ["-selector", "unix:uid:4294967294", "-publish", "line/more"];
    server.run(&[&["entry", "create", "-newEntryID", "more", "-spiffeID", &id][..], &more].concat()).ok();
    eventually("the grant counts", || {
        may_publish(&mut me, "line/more").then_some(()).ok_or_else(String::new)
    });
    server.run(&["entry", "delete", "-entryID", "more"]).ok();
    eventually("it does no longer", || {
        (!may_publish(&mut me, "line/more")).then_some(()).ok_or_else(String::new)
    });

    std::fs::remove_file(place.path("policies/z.toml")).unwrap();
    place.write("policies/apps.toml", &apps("[\"line/{app}/down\"]"));
    eventually("taken over", || may_publish(&mut me, "line/me/down").then_some(()).ok_or_else(String::new));
    server.stop();
}

fn pipe(place: &Place, name: &str) -> String {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, place.path(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    place.text(name)
}

#[test]
fn commands_say_what_keeps_them_waiting_and_read_no_pipe_of_a_directory() {
    let place = Place::new();
    std::fs::create_dir(place.path("policies")).unwrap();
    pipe(&place, "policies/z.toml");
    let policies = place.text("policies");
    run_midge(&["policy", "check", &policies]).refused(74, &["z.toml", "named pipe"]);
    let config = place.edge("data", "", "", &format!("[policy]\ndir = \"{policies}\"\n"));
    run_midge(&["policy", "check", &config]).refused(74, &["z.toml", "named pipe"]);
    run_midge(&["check", "-c", &config]).refused(78, &["z.toml", "named pipe"]);
    run_midge(&["edge", "-c", &config]).refused(78, &["z.toml", "named pipe"]);

    // What somebody names may be a pipe.
    let named = pipe(&place, "rules");
    let mut check = Program::start(Command::new(midge()).args(["policy", "check", &named]));
    eventually("told", || {
        let log = check.log().join("\n");
        if log.contains("still waiting for") && log.contains(&named) { Ok(()) } else { Err(log) }
    });
    std::fs::write(&named, apps("[\"line/{app}/up\"]")).unwrap();
    assert!(check.ended().success(), "{:?}", check.log());
}

#[test]
fn a_bad_change_is_refused_loudly_and_a_good_one_is_told_as_access() {
    let place = Place::new();
    let server = started(&place, "[\"line/{app}/up\"]");
    let file = place.text("policies/apps.toml");
    let mut me = client(&server);
    assert!(may_publish(&mut me, "line/me/up"));

    place.write("policies/apps.toml", &apps("[\"line/{appp}/up\"]"));
    let refused = server.run(&["policy", "reload"]);
    assert_eq!(refused.code, Some(78), "{}{}", refused.stdout, refused.stderr);
    let refused = refused.json();
    assert_eq!(
        (&refused["taken"], &refused["faults"][0]["place"]),
        (&false.into(), &format!("{file}:4").into())
    );
    let status = server.status();
    let last = &status["policy"]["last_refused"];
    assert_eq!((&last["source"], &last["corrected"]), (&"files".into(), &false.into()), "{status}");
    assert!(last["faults"][0]["message"].as_str().unwrap().contains("{appp}"), "{status}");
    assert!(status["degraded"][0]["what"].as_str().unwrap().contains(&format!("{file}:4")), "{status}");
    let count = |result| {
        metric(&server, &format!("midge_policy_changes_total{{source=\"files\",result=\"{result}\"}}"))
            .or_else(|| {
                metric(
                    &server,
                    &format!("midge_policy_changes_total{{result=\"{result}\",source=\"files\"}}"),
                )
            })
    };
    assert!(count("refused") >= Some(1.0));
    recorded(&place, "policy-refused", |record| {
        record["faults"][0].as_str().unwrap().contains("apps.toml:4")
    });
    let log = server.program.log().join("\n");
    assert!(log.contains("WARN") && log.contains("apps.toml:4"), "{log}");
    assert!(may_publish(&mut me, "line/me/up"), "what held before holds on");

    // A right that is all denied again is taken over, with a warning.
    let rules = apps("[\"line/{app}/more\", \"cmd/1\"]\ndeny-publish = [\"cmd/#\"]");
    place.write("policies/apps.toml", &rules);
    let taken = server.run(&["policy", "reload"]).ok().json();
    // The file may have been seen before.
    assert_eq!((&taken["taken"], &taken["linted"]), (&true.into(), &true.into()), "{taken}");
    assert_eq!(taken["warnings"][0]["code"], "unreachable", "{taken}");
    assert_eq!(taken["warnings"][0]["place"], format!("{file}:1"));
    assert!(!may_publish(&mut me, "line/me/up"));
    assert!(may_publish(&mut me, "line/me/more"));
    eventually("logged", || {
        let log = server.program.log().join("\n");
        if log.contains("unreachable") { Ok(()) } else { Err(log) }
    });
    let status = server.status();
    let policy = &status["policy"];
    assert_eq!((&policy["last_refused"]["corrected"], &policy["warnings"]), (&true.into(), &1.into()));
    assert!(status["degraded"].as_array().is_none_or(Vec::is_empty), "{status}");
    assert_eq!(metric(&server, "midge_policy_epoch"), policy["epoch"].as_u64().map(|epoch| epoch as f64));
    assert_eq!(metric(&server, "midge_policy_warnings"), Some(1.0));
    assert!(count("taken") >= Some(1.0));

    let change = recorded(&place, "policy-changed", |record| record["changed"][0] == "apps");
    let has =
        |list: &Value, text: &str| list.as_array().unwrap().iter().any(|line| line.as_str() == Some(text));
    let id = "spiffe://*/edge/*/app/{app}";
    assert!(has(&change["lost"], &format!("{id}: publish line/{{app}}/up")), "{change}");
    let gained = format!("{id}: publish line/{{app}}/more");
    assert!(
        change["gained"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().starts_with(&gained)),
        "{change}"
    );

    // Nothing new is no change, and a human reads it in a line.
    let again = run_midge(&["policy", "reload", "--socketPath", &server.socket]).ok();
    assert!(again.stdout.contains("nothing has changed: epoch"), "{}", again.stdout);
    let shown = run_midge(&["status", "--socketPath", &server.socket]).ok().stdout;
    for text in ["Policy          : epoch", "1 of ", "Policy warnings : 1", "corrected since: "] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn a_relative_directory_of_a_candidate_is_named_in_full() {
    let place = Place::new();
    std::fs::create_dir(place.path("candidate")).unwrap();
    let config = place.edge("data", "", "", "[policy]\nshadow = \"candidate\"\n");
    let mut command = Command::new(midge());
    command.args(["edge", "-c", &config]).current_dir(place.path("."));
    let server = Server::start_with(&mut command, &place.path("data/run/admin.sock"));
    let full = std::fs::canonicalize(place.path("candidate")).unwrap().display().to_string();
    server.run(&["policy", "shadow"]).refused(1, &["no candidate policy", &full]);
    place.write("candidate/apps.toml", &apps("[\"a\"]"));
    server.run(&["policy", "reload"]).ok();
    assert_eq!(server.run(&["policy", "shadow"]).ok().json()["dir"], full);
}

#[test]
fn a_candidate_is_told_of_and_refuses_nothing() {
    let place = Place::new();
    let server = started(&place, "[\"line/{app}/up\", \"line/{app}/down\"]");
    server.run(&["policy", "shadow"]).refused(1, &["no candidate policy", &place.text("candidate")]);
    let mut me = client(&server);
    // Before there is a candidate; it will know of it.
    assert_eq!(me.subscribe("line/#"), ReasonCode::Success);

    std::fs::create_dir(place.path("candidate")).unwrap();
    let candidate = apps("[\"line/{app}/up\", \"line/other\"]").replace("line/#", "line/{app}/#");
    place.write("candidate/apps.toml", &candidate);
    server.run(&["policy", "reload"]).ok();
    let shadow = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        eventually(what, || {
            let shadow = server.run(&["policy", "shadow"]).ok().json();
            if wanted(&shadow) { Ok(shadow) } else { Err(shadow.to_string()) }
        })
    };
    let of = |shadow: &Value, action: &str, kind: &str| -> Option<Value> {
        let all = shadow["differences"].as_array().unwrap();
        all.iter().find(|one| one["action"] == action && one["kind"] == kind).cloned()
    };
    let standing = shadow("the subscription", &|shadow| of(shadow, "subscribe", "lost").is_some());
    let lost = of(&standing, "subscribe", "lost").unwrap();
    assert_eq!((&lost["samples"][0]["topic"], &lost["count"]), (&"line/#".into(), &1.into()), "{lost}");

    for _ in 0..3 {
        assert_eq!(me.publish_with_echo("line/me/down", "1"), ReasonCode::Success);
    }
    assert_eq!(me.publish_with_echo("line/me/up", "1"), ReasonCode::Success, "both allow it");
    assert!(!may_publish(&mut me, "line/other"), "only the candidate allows it");
    let told = server.run(&["policy", "shadow"]).ok().json();
    let lost = of(&told, "publish", "lost").unwrap();
    let (id, file) = (format!("{BOX}/app/me"), place.text("policies/apps.toml"));
    assert_eq!((&lost["count"], &lost["samples"][0]["topic"]), (&3.into(), &"line/me/down".into()), "{told}");
    assert_eq!(
        (&lost["samples"][0]["spiffe_id"], &lost["candidate_rule"]),
        (&id.into(), &"".into()),
        "{told}"
    );
    assert_eq!(lost["active_rule"], format!("`apps` ({file}:1)"));
    let gained = of(&told, "publish", "gained").unwrap();
    assert_eq!(
        (&gained["count"], &gained["samples"][0]["topic"]),
        (&1.into(), &"line/other".into()),
        "{told}"
    );
    let counted =
        |kind| metric(&server, &format!("midge_policy_shadow_differences_total{{kind=\"{kind}\"}}"));
    assert_eq!((counted("gained"), counted("lost")), (told["gained"].as_f64(), told["lost"].as_f64()));
    assert_eq!(server.run(&["policy", "shadow", "--exit-code"]).code, Some(1));
    let shown = run_midge(&["policy", "shadow", "--socketPath", &server.socket]).ok().stdout;
    for text in ["lost    publish    3", "no rule", "line/me/down", "Would gain"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }

    // The policy in force becomes the same: nothing differs from then on.
    place.write("policies/apps.toml", &candidate);
    std::fs::remove_file(place.path("candidate/apps.toml")).unwrap();
    server.run(&["policy", "reload"]).ok();
    server.run(&["policy", "shadow"]).refused(1, &["no candidate policy"]);
    place.write("candidate/apps.toml", &candidate);
    assert_eq!(server.run(&["policy", "reload"]).ok().json()["candidate"]["changed"], true);
    assert_eq!(server.run(&["policy", "reload"]).ok().json()["candidate"]["changed"], false);
    assert!(!may_publish(&mut me, "line/me/down"));
    let same = shadow("asked", &|shadow| shadow["asked"].as_u64() > Some(0));
    assert_eq!((&same["gained"], &same["lost"]), (&0.into(), &0.into()), "{same}");

    is_told_when_faulty(&place, &server);
}

/// A candidate with faults is told by each command and looked at as it was before.
fn is_told_when_faulty(place: &Place, server: &Server) {
    place.write("candidate/apps.toml", "[[rule]]");
    let reloaded = server.run(&["policy", "reload"]).ok().json();
    assert_eq!(reloaded["taken"], true, "the candidate is no part of the policy");
    assert!(
        reloaded["candidate"]["faults"][0]["place"].as_str().unwrap().contains("apps.toml"),
        "{reloaded}"
    );
    let told = run_midge(&["policy", "reload", "--socketPath", &server.socket]).ok().stdout;
    assert!(told.contains("candidate: refused with 1 errors; the one of before"), "{told}");
    let shows_it = || {
        let ended = server.run(&["policy", "shadow"]);
        assert_eq!(ended.code, Some(78));
        let faulty = ended.json();
        assert!(faulty["faults"][0]["place"].as_str().unwrap().contains("candidate/apps.toml"), "{faulty}");
        assert_eq!(faulty["active"], true, "the one before is looked at");
    };
    shows_it();
    // What is refused of other sources is another matter.
    place.write("policies/later.toml", "[[rule]]");
    let refused = server.run(&["policy", "reload"]);
    assert!(refused.code == Some(78) && refused.stdout.contains("later.toml"), "{refused:?}");
    shows_it();
}

#[test]
fn rules_are_learned_from_a_running_edge() {
    let place = Place::new();
    let server = started(&place, "[\"#\"]");
    let mut me = client(&server);
    assert_eq!(me.subscribe("line/me/#"), ReasonCode::Success);
    let (seen, socket) = (place.text("seen.jsonl"), server.socket.clone());
    let learn = ["policy", "learn", "--for", "2s", "--save", &seen, "--socketPath", &socket];
    let mut learning = Program::start(Command::new(midge()).args(learn));
    while learning.runs() {
        assert!(may_publish(&mut me, "shop/me/up"));
        assert!(!may_publish(&mut me, "$forbidden"));
    }
    assert!(learning.ended().success(), "{:?}", learning.log());
    let learned = place.write("learned.toml", &learning.printed().join("\n"));
    let can = |arguments: &[&str]| {
        let id = format!("{BOX}/app/me");
        run_midge(&[&["policy", "can", &id], arguments, &["-p", &learned]].concat()).code
    };
    assert_eq!(can(&["publish", "shop/me/up", "-q", "1"]), Some(0), "{:?}", learning.printed());
    assert_eq!(can(&["subscribe", "line/me/#"]), Some(0), "it stood already: {:?}", learning.printed());
    for no in [["publish", "shop/me/down"], ["publish", "$forbidden"], ["subscribe", "line/#"]] {
        assert_eq!(can(&no), Some(1), "{no:?}: {:?}", learning.printed());
    }
    let again = run_midge(&["policy", "learn", "--from", &seen]).ok();
    assert_eq!(again.stdout, learning.printed().join("\n"));
    server.run(&["policy", "learn"]).refused(64, &["--from <FILE>", "--for <DURATION>"]);
    server.run(&["policy", "learn", "--for", "0s"]).refused(64, &["\"0s\"", "10m"]);
    // A second is short where much else runs.
    eventually("standing rights are seen", || {
        let nothing = server.run(&["policy", "learn", "--for", "1s"]);
        if nothing.code == Some(0) { Ok(()) } else { Err(nothing.stderr) }
    });

    let early = place.text("early.jsonl");
    let learn = ["policy", "learn", "--for", "1d", "--save", &early, "--socketPath", &server.socket];
    let mut learning = Program::start(Command::new(midge()).args(learn));
    // It hears signals before it makes the file.
    let there =
        || if std::path::Path::new(&early).exists() { Ok(()) } else { Err(learning.log().join("\n")) };
    eventually("it watches", there);
    learning.terminate();
    assert!(learning.ended().success(), "{:?}", learning.log());
    assert!(learning.printed().join("\n").contains("line/{app}/#"), "{:?}", learning.printed());
}

#[test]
fn what_the_policy_withholds_is_not_learned_and_response_topics_are() {
    let place = Place::new();
    let server = started(&place, "[\"#\"]");
    let rule = "[[rule]]\nname = \"history\"\nid = \"spiffe://{td}/edge/{node}/app/me\"\nsubscribe-literal = [\"g/#\"]\nreceive = [\"g/x\"]\n";
    place.write("policies/history.toml", rule);
    let mut me = client(&server);
    eventually("the rule is in force", || match me.subscribe("g/#") {
        ReasonCode::Success => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Whom the topic reaches is known before anybody watches.
    assert_eq!(me.publish_with_echo("g/x", "1"), ReasonCode::Success);
    let socket = server.socket.clone();
    let learn = ["policy", "learn", "--for", "2s", "--socketPath", &socket];
    let mut learning = Program::start(Command::new(midge()).args(learn));
    while learning.runs() {
        assert_eq!(me.publish_with_echo("g/x", "1"), ReasonCode::Success);
        assert!(may_publish(&mut me, "g/secret"));
        assert_eq!(me.ask("s/get", "answer/me/1"), ReasonCode::NoMatchingSubscribers);
    }
    assert!(learning.ended().success(), "{:?}", learning.log());
    let learned = place.write("learned.toml", &learning.printed().join("\n"));
    for (may, arguments) in [
        (0, &["subscribe", "g/#"][..]),
        (0, &["receive", "g/x"]),
        (1, &["receive", "g/secret"]),
        (0, &["publish", "s/get", "-q", "1", "--response-topic", "answer/me/1"]),
        (1, &["publish", "s/get", "-q", "1", "--response-topic", "answer/other/1"]),
    ] {
        let id = format!("{BOX}/app/me");
        let can = run_midge(&[&["policy", "can", &id], arguments, &["-p", &learned]].concat());
        assert_eq!(can.code, Some(may), "{arguments:?}: {}", learning.printed().join("\n"));
    }
}

#[test]
fn rules_are_learned_from_the_audit_log_of_a_box() {
    let place = Place::new();
    let mut server = started(&place, "[\"line/{app}/up\"]");
    let mut me = client(&server);
    for filter in ["line/me/#", "$share/workers/line/jobs/+", "line/me/#"] {
        assert_eq!(me.subscribe(filter), ReasonCode::Success);
    }
    for _ in 0..7 {
        assert!(!may_publish(&mut me, "line/other/up"));
    }
    me.leave();
    server.stop();
    let log = place.text("data/audit.jsonl");
    let learned = run_midge(&["policy", "learn", "--from", &log, "--output", "json"]).ok().json();
    let subscribes = |name: &str| {
        let rule = learned["rules"].as_array().unwrap().iter().find(|rule| rule["name"] == name);
        let rule = rule.unwrap_or_else(|| panic!("{learned}"));
        (rule["subscribe"].clone(), rule["share-groups"].clone())
    };
    assert_eq!(subscribes("learned-app"), (json!(["line/{app}/#"]), json!([])));
    assert_eq!(
        subscribes("learned-me"),
        (json!(["line/jobs/+"]), json!(["workers"])),
        "others did not do that"
    );
    assert!(!learned.to_string().contains("line/other"), "{learned}");
    let denied = run_midge(&["policy", "learn", "--from", &log, "--denied"]).ok().stdout;
    assert!(denied.contains("line/other/up") && denied.contains("# Refused of them: 0."), "{denied}");
}
