//! `midge policy`: on files, and against a running edge.

use crate::support::{BOX, Place, Server, own_uid, run_midge};
use serde_json::Value;

const PRESS: &str = r#"
[[rule]]
name = "press"
id = "spiffe://{td}/edge/{node}/press/{name}"
publish = ["line/{name}/temperature"]
subscribe = ["line/{name}/command/#"]
qos-max = 1
"#;

const LEFT: &str = "spiffe://plant.example/edge/box-1/press/left";

fn json(arguments: &[&str]) -> Value {
    run_midge(&[arguments, &["--output", "json"]].concat()).json()
}

#[test]
fn decisions_have_exit_codes_and_reasons() {
    let place = Place::new();
    let policy = place.write("press.toml", PRESS);
    let can =
        |arguments: &[&str]| run_midge(&[&["policy", "can", LEFT], arguments, &["-p", &policy]].concat());
    let yes = can(&["publish", "line/left/temperature", "-q", "1"]).ok();
    assert!(yes.stdout.starts_with("yes: rule `press`"), "{}", yes.stdout);
    for no in [
        &["publish", "line/right/temperature"][..],
        &["publish", "line/left/temperature", "-q", "2"],
        &["subscribe", "line/left/#"],
        &["receive", "line/left/temperature"],
    ] {
        let ended = can(no);
        assert_eq!(ended.code, Some(1), "{no:?}: {}", ended.stdout);
        assert!(ended.stdout.starts_with("no: "), "{}", ended.stdout);
    }
    can(&["dance", "line/left"]).refused(64, &["dance", "publish, will, subscribe or receive"]);
    can(&["publish", "a/#/b"]).refused(64, &["a/#/b"]);
    run_midge(&["policy", "can", "press", "publish", "a", "-p", &policy]).refused(64, &["\"press\""]);
    run_midge(&["policy", "can", LEFT, "publish", "a", "-p", &policy, "--listener", "mqtt-tls"])
        .refused(64, &["mqtt-tls", "possible values: tls, tcp, unix"]);
    run_midge(&["policy", "can", LEFT, "publish", "a", "-p", "nowhere.toml"])
        .refused(78, &["nowhere.toml", "running, built-in or none"]);

    let explained =
        json(&["policy", "explain", LEFT, "publish", "line/left/temperature", "-p", &policy, "-q", "2"]);
    assert_eq!(explained["allowed"], false);
    assert_eq!(explained["place"], format!("{policy}:2"));
    assert_eq!(explained["considered"][0]["unmet"], "qos-max = 1");
    let shown =
        run_midge(&["policy", "explain", LEFT, "publish", "line/left/x", "-p", &policy, "-p", "built-in"])
            .ok();
    assert!(shown.stdout.contains("no rule allows publish to `line/left/x`"), "{}", shown.stdout);
    assert!(shown.stdout.contains("no-forged-cloud-sync"), "{}", shown.stdout);
}

#[test]
fn a_change_is_told_as_access_gained_and_lost() {
    let place = Place::new();
    let old = place.write("old.toml", PRESS);
    let new = place.write("new.toml", &PRESS.replace("command/#", "#"));
    let diff = run_midge(&["policy", "diff", &old, &new]).ok();
    for text in [
        "spiffe://*/edge/*/press/{name}\n",
        "  + subscribe line/{name}/# except line/{name}/command/# (qos up to 1)\n",
        "  + receive line/{name}/# except line/{name}/command/# (qos up to 1)\n",
        "such as line/name-1 by spiffe://example.org/edge/x/press/name-1",
    ] {
        assert!(diff.stdout.contains(text), "{text}: {}", diff.stdout);
    }
    assert_eq!(run_midge(&["policy", "diff", &old, &new, "--exit-code"]).code, Some(1));
    assert_eq!(
        run_midge(&["policy", "diff", &old, &old, "--exit-code"]).ok().stdout,
        "no access is gained or lost"
    );
    // A quota is no access, and a difference.
    let limited = place.write("limited.toml", &format!("{PRESS}quota = {{ sessions = 2 }}\n"));
    let diff = run_midge(&["policy", "diff", &old, &limited]).ok();
    let told = "no access is gained or lost\n\nspiffe://*/edge/*/press/*\n  quota sessions = 2 (was none)";
    assert_eq!(diff.stdout, told);
    assert_eq!(run_midge(&["policy", "diff", &old, &limited, "--exit-code"]).code, Some(1));
    let own = json(&["policy", "diff", &old, &limited, "--spiffeID", LEFT]);
    let quota =
        serde_json::json!({ "id": LEFT, "rule": "press", "quota": "sessions", "old": null, "new": 2 });
    assert_eq!((&own["quotas"][0], own["kinds"].as_array().map(Vec::len)), (&quota, Some(0)));
    let own = json(&["policy", "diff", &new, &old, "--spiffeID", LEFT]);
    assert_eq!(own["kinds"][0]["changes"][0]["gained"], false);
    assert_eq!(own["kinds"][0]["changes"][0]["filter"], "line/left/#");
}

#[test]
fn check_tells_faults_findings_and_grants_beyond_a_reference() {
    let place = Place::new();
    let faulty = place.write("faulty.toml", &PRESS.replace("{name}/command", "{nam}/command"));
    let ended = run_midge(&["policy", "check", &faulty]);
    assert_eq!(ended.code, Some(78), "{}", ended.stdout);
    assert!(
        ended.stdout.contains(&format!("{faulty}:6")) && ended.stdout.contains("{nam}"),
        "{}",
        ended.stdout
    );
    let good = place.write("good.toml", PRESS);
    run_midge(&["policy", "check", &good, "built-in"]).ok();
    run_midge(&["policy", "check", &good, "built-in", "--strict"]).ok();
    let idle = place.write(
        "idle.toml",
        "[[rule]]\nname = \"idle\"\nid = \"spiffe://plant.example/x\"\ndeny-publish = [\"b\"]\n",
    );
    let ended = run_midge(&["policy", "check", &good, &idle, "--strict"]);
    assert!(ended.code == Some(1) && ended.stdout.contains("note[idle-deny]"), "{ended:?}");
    let wide = place.write("wide.toml", &PRESS.replace("line/{name}/temperature", "line/#"));
    let ended = run_midge(&["policy", "check", &wide, "--against", &good]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    let told = format!("warning[wider-than-reference] {wide}:2: rule `press`");
    assert!(ended.stdout.contains(&told), "{}", ended.stdout);
    run_midge(&["policy", "check", &good, "--against", &wide]).ok();
    let config = place.edge("data", "", "", "");
    assert!(json(&["policy", "check", &config])["rules"].as_u64().is_some_and(|rules| rules > 3));
}

#[test]
fn check_notes_where_there_are_no_rules_unless_none_are_meant() {
    let place = Place::new();
    let empty = place.write("empty.toml", "# nothing yet\n");
    let noted = run_midge(&["policy", "check", &empty]).ok().stdout;
    assert!(noted.contains("note[no-rules]") && noted.contains(&empty), "{noted}");
    assert_eq!(run_midge(&["policy", "check", &empty, "--strict"]).code, Some(1));
    run_midge(&["policy", "check", "none", "--strict"]).ok();
}

#[test]
fn expected_decisions_are_tested_line_by_line() {
    let place = Place::new();
    let policy = place.write("press.toml", PRESS);
    let good =
        format!("allow {LEFT} publish line/left/temperature rule=press\ndeny {LEFT} publish line/right/x\n");
    let cases = place.write("cases.txt", &good);
    run_midge(&["policy", "test", &cases, "-p", &policy]).ok();
    let cases = place.write("cases.txt", &format!("{good}deny {LEFT} subscribe line/left/command/go\n"));
    let ended = run_midge(&["policy", "test", &cases, "-p", &policy]);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains(&format!("{cases}:3: expected deny, got allow")), "{}", ended.stdout);
    assert!(ended.stdout.contains(&format!("{policy}:2")), "with its explanation: {}", ended.stdout);
    let cases = place.write("cases.txt", "allow me publish a\n");
    run_midge(&["policy", "test", &cases, "-p", &policy]).refused(78, &[&format!("{cases}:1"), "`me`"]);
    // A file that tests nothing would be taken for one that passes.
    for (name, text) in [("empty.txt", ""), ("comments.txt", "# allow\n\n"), ("empty.toml", "")] {
        let cases = place.write(name, text);
        run_midge(&["policy", "test", &cases, "-p", &policy]).refused(78, &[&cases, "no cases"]);
    }
}

/// A policy that allows some of a filter, and an edge with it whose listeners have each mode.
fn in_part(place: &Place) -> (String, String) {
    let quiet = "[[rule]]\nname = \"quiet\"\nid = \"spiffe://*/**\"\ndeny-receive = [\"line/+/command/x\"]\n";
    let policy = place.write("press.toml", &format!("{PRESS}{quiet}"));
    std::fs::create_dir(place.path("policies")).unwrap();
    place.write("policies/press.toml", PRESS);
    let modes = "[mqtt.subscribe-mode]\ntls = \"narrow\"\nunix = \"filter\"";
    let rest = format!("{modes}\n[policy]\ndir = \"{}\"", place.text("policies"));
    (policy, place.edge("data", "", "", &rest))
}

#[test]
fn a_subscription_in_part_is_a_yes_in_the_modes_that_grant_it() {
    let place = Place::new();
    let (policy, config) = in_part(&place);
    let can = |more: &[&str]| run_midge(&[&["policy", "can", LEFT, "subscribe", "line/#"], more].concat());
    assert_eq!(can(&["-p", &policy]).code, Some(1));
    assert_eq!(can(&["-p", &policy, "--subscribe-mode", "reject"]).code, Some(1));
    let narrow = can(&["-p", &policy, "--subscribe-mode", "narrow", "-q", "1"]).ok().stdout;
    let told = format!("rule `press` ({policy}:2) allows a part of it, `line/left/command/#`");
    assert_eq!(narrow, format!("yes, in part (mode narrow): {told}"));
    let filter = can(&["-p", &policy, "--subscribe-mode", "filter"]).ok().stdout;
    assert!(filter.starts_with("yes, in part (mode filter): rule `press`"), "{filter}");
    can(&["-p", &policy, "--subscribe-mode", "some"]).refused(64, &["'some'", "reject, narrow, filter"]);

    // A configuration says the mode of each listener, unless it is said otherwise.
    can(&["-p", &config, "--listener", "tls"]).ok();
    assert_eq!(can(&["-p", &config, "--listener", "tcp"]).code, Some(1));
    can(&["-p", &config, "--listener", "tcp", "--subscribe-mode", "filter"]).ok();
    let all = can(&["-p", &config]);
    assert_eq!(all.code, Some(1), "{all:?}");
    for line in [
        "no: it depends on the listener: allowed in part on tls; denied on tcp, ",
        "\n  tls: yes, in part",
        "\n  unix: yes, in part",
    ] {
        assert!(all.stdout.contains(line), "{line}: {}", all.stdout);
    }
    let other = place.edge("other", "", "", "[policy]\nbuiltin = false");
    let says = &["differ in [mqtt.subscribe-mode]", "--subscribe-mode"];
    can(&["-p", &config, "-p", &other]).refused(78, says);
    can(&["-p", &config, "-p", &other, "--subscribe-mode", "narrow"]).ok();
}

#[test]
fn what_becomes_of_a_subscription_in_part_is_explained() {
    let place = Place::new();
    let (policy, _) = in_part(&place);
    let explain = |mode: &str, more: &[&str]| {
        let asked =
            ["policy", "explain", LEFT, "subscribe", "line/#", "-p", &policy, "--subscribe-mode", mode];
        run_midge(&[&asked, more].concat()).ok()
    };
    let filter = explain("filter", &[]).stdout;
    for line in [
        "Decision    : allowed in part (mode filter)\n",
        "Not all     : no rule allows `line`, which subscribe to `line/#` includes\n",
        &format!("Left out    : line/+/command/x by deny-receive of rule `quiet` ({policy}:8)\n"),
    ] {
        assert!(filter.contains(line), "{line}: {filter}");
    }
    let narrow = explain("narrow", &["--output", "json"]).json();
    let parts = serde_json::json!([{ "filter": "line/left/command/#", "qos": 0, "filtered": true }]);
    assert_eq!((&narrow["mode"], &narrow["parts"]), (&"narrow".into(), &parts), "{narrow}");
    assert_eq!(narrow["left_out"][0]["filter"], "line/left/command/x");
    let reject = explain("reject", &["--output", "json"]).json();
    assert_eq!((&reject["allowed"], &reject["mode"]), (&false.into(), &"reject".into()), "{reject}");
}

#[test]
fn quotas_and_rates_are_explained_by_listener() {
    let place = Place::new();
    let quota = |name: &str, more: &str| {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://*/**\"\nquota = {{ sessions = {more}\n")
    };
    let slow = PRESS.replace("qos-max = 1", "rate = { messages-per-second = 5 }");
    let rules = [slow, quota("all", "9 }"), quota("wire", "2 }\nlistener = \"tls\"")].concat();
    let policy = place.write("press.toml", &rules);
    let ask = ["policy", "explain", LEFT, "publish", "line/left/temperature", "-p", &policy];
    let shown = run_midge(&ask).ok().stdout;
    let rate = format!("Rate     : 5 messages/s (burst 5) for each identity by `press` ({policy}:2)\n");
    let all =
        format!(" sessions = 9 on tcp, unix, websocket-tls, websocket-loopback by `all` ({policy}:8)\n");
    for told in [&*rate, &format!("Quotas   : sessions = 2 on tls by `wire` ({policy}:12)\n"), &all] {
        assert!(shown.contains(told), "{told}: {shown}");
    }
    let told = |listener: &str| json(&[&ask[..], &["--listener", listener]].concat());
    assert_eq!(told("tls")["quotas"][0]["max"], 2);
    let tcp = told("tcp");
    assert_eq!((&tcp["quotas"][0]["max"], tcp["quotas"][0].get("listeners")), (&9.into(), None), "{tcp}");
    assert_eq!(tcp["rates"][0]["messages-per-second"], 5);
}

#[test]
fn a_change_of_mode_is_told_and_checked() {
    let place = Place::new();
    std::fs::create_dir(place.path("policies")).unwrap();
    let policy = place.write("policies/press.toml", PRESS);
    let config = |name: &str, mode: &str| {
        let policy = format!("[policy]\nbuiltin = false\ndir = \"{}\"\n", place.text("policies"));
        place.edge(name, "", "", &format!("[mqtt.subscribe-mode]\ntls = \"{mode}\"\n{policy}"))
    };
    let (old, new) = (config("old", "reject"), config("new", "narrow"));
    let diff = |arguments: &[&str]| run_midge(&[&["policy", "diff"], arguments].concat());
    let told = diff(&[&old, &new]).ok().stdout;
    let mode = "subscribe-mode on tls = narrow (was reject)\n\nspiffe://*/edge/*/press/{name}\n";
    let gained = "  + subscribe-part line/{name}/command/# (qos up to 1, on listener tls)\n";
    assert!(told.starts_with(mode) && told.contains(gained), "{told}");
    assert_eq!(diff(&[&old, &new, "--exit-code"]).code, Some(1));
    diff(&[&new, &new, "--exit-code"]).ok();
    let own = diff(&[&new, &old, "--spiffeID", LEFT, "--output", "json"]).ok().json();
    let lost = &own["kinds"][0]["changes"][0];
    assert_eq!((&lost["gained"], &lost["access"]), (&false.into(), &"subscribe-part".into()), "{own}");
    let modes = serde_json::json!([{ "listener": "tls", "old": "narrow", "new": "reject" }]);
    assert_eq!(own["modes"], modes);

    // Rules alone say nothing of modes, unless an option does for both.
    diff(&[&policy, &new, "--exit-code"]).ok();
    diff(&[&policy, &policy, "--new-subscribe-mode", "filter"]).refused(64, &["--old-subscribe-mode"]);
    let options = ["--old-subscribe-mode", "reject", "--new-subscribe-mode", "filter"];
    assert!(diff(&[&[&*policy, &policy], &options[..]].concat()).ok().stdout.contains("subscribe-part"));

    let check = |arguments: &[&str]| run_midge(&[&["policy", "check"], arguments].concat());
    let wider = check(&[&new, "--against", &old]);
    assert!(wider.code == Some(1) && wider.stdout.contains("subscribe-part"), "{}", wider.stdout);
    check(&[&old, "--against", &new]).ok();
    check(&[&policy, "--against", &old]).ok();
    let none = check(&["none", "--subscribe-mode", "narrow", "--strict"]);
    assert!(none.stdout.starts_with("note[idle-mode] [mqtt.subscribe-mode] tls = \"narrow\"\n"), "{none:?}");
    check(&["none", "--strict"]).ok();
}

#[test]
fn who_may_in_part_is_told_and_expected_by_listener() {
    let place = Place::new();
    let (policy, config) = in_part(&place);
    let who = |more: &[&str]| run_midge(&[&["policy", "who", "subscribe", "line/left/#"], more].concat());
    assert_eq!(who(&["-p", &policy]).code, Some(1));
    who(&["-p", &policy, "--subscribe-mode", "narrow"]).ok();
    let told = who(&["-p", &config]).ok().stdout;
    assert!(told.contains("spiffe://*/edge/*/press/left") && told.contains("in part on tls, unix"), "{told}");

    let test = |cases: &str| {
        let cases = place.write("cases.txt", &cases.replace("ID", LEFT));
        run_midge(&["policy", "test", &cases, "-p", &config])
    };
    test("allow-part ID subscribe line/# listener=tls\nallow-whole ID subscribe line/left/command/#\n").ok();
    let ended = test("allow-whole ID subscribe line/# listener=tls\ndeny ID subscribe line/#\n");
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    for told in
        [":1: expected allow-whole, got allow-part", ":2: expected deny, got it depends on the listener: "]
    {
        assert!(ended.stdout.contains(told), "{told}: {}", ended.stdout);
    }
}

#[test]
fn who_names_the_listeners_on_which_a_deny_does_not_hold() {
    let place = Place::new();
    let deny =
        "[[rule]]\nname = \"not-tcp\"\nid = \"spiffe://*/**\"\ndeny-publish = [\"#\"]\nlistener = \"tcp\"\n";
    let policy = place.write("press.toml", &format!("{PRESS}{deny}"));
    let ids = place.write("ids.txt", LEFT);
    let who = |more: &[&str]| {
        run_midge(
            &[&["policy", "who", "publish", "line/left/temperature", "--ids", &ids, "-p", &policy], more]
                .concat(),
        )
    };
    let all = who(&["--output", "json"]).ok().json();
    let listeners = serde_json::json!(["tls", "unix", "websocket-tls", "websocket-loopback"]);
    assert_eq!(
        (&all["patterns"][0]["listeners"], &all["identities"][0]["listeners"]),
        (&listeners, &listeners)
    );
    assert!(who(&[]).ok().stdout.contains("on tls, unix, websocket-tls, websocket-loopback"));
    assert_eq!(who(&["--listener", "tcp"]).code, Some(1));
    assert!(
        who(&["--listener", "tls", "--output", "json"]).ok().json()["patterns"][0].get("listeners").is_none()
    );
}

#[test]
fn identities_longer_than_any_are_refused_with_the_limit() {
    let place = Place::new();
    let policy =
        place.write("all.toml", "[[rule]]\nname = \"all\"\nid = \"spiffe://*/**\"\npublish = [\"#\"]\n");
    let of = |bytes: usize| format!("spiffe://td/{}", "a".repeat(bytes - "spiffe://td/".len()));
    let (longest, longer) = (of(2048), of(2049));
    let says = &["2049 bytes", "longer than 2048"];
    let can = |id: &str| run_midge(&["policy", "can", id, "publish", "a", "-p", &policy]);
    can(&longest).ok();
    can(&longer).refused(64, says);
    let test = |id: &str| {
        let cases = place.write("cases.txt", &format!("allow {id} publish a\n"));
        run_midge(&["policy", "test", &cases, "-p", &policy])
    };
    test(&longest).ok();
    test(&longer).refused(78, says);
    let who = |id: &str| {
        let ids = place.write("ids.txt", id);
        run_midge(&["policy", "who", "publish", "a", "--ids", &ids, "-p", &policy])
    };
    who(&longest).ok();
    who(&longer).refused(78, says);
}

// The answer would be taken for one to another question.
#[test]
fn what_makes_no_sense_of_a_request_is_refused() {
    let place = Place::new();
    let policy = place.write("press.toml", PRESS);
    let can =
        |arguments: &[&str]| run_midge(&[&["policy", "can", LEFT], arguments, &["-p", &policy]].concat());
    let (filter, topic) = ("line/left/command/#", "line/left/temperature");
    can(&["subscribe", filter, "--retain"]).refused(64, &["leave retain away"]);
    can(&["receive", filter, "--payload", "1"]).refused(64, &["leave payload away"]);
    can(&["subscribe", filter, "--response-topic", "a"]).refused(64, &["leave response-topic away"]);
    can(&["publish", "$share/g/a"]).refused(64, &["only a subscription is shared"]);
    can(&["publish", topic, "--client-id", ""]).refused(64, &["leave client-id away"]);
    can(&["publish", topic, "--client-id", "press"]).ok();
    can(&["publish", topic, "--retain", "--payload", "1"]).ok();
    can(&["will", topic, "--response-topic", topic]).ok();
    can(&["subscribe", &format!("$share/g/{filter}")]).ok();
    let cases = place.write("cases.txt", &format!("allow {LEFT} subscribe {filter} retain=true\n"));
    let says = [&*format!("{cases}:1"), "leave retain away"];
    run_midge(&["policy", "test", &cases, "-p", &policy]).refused(78, &says);
}

#[test]
fn rules_that_are_named_twice_are_told_as_that() {
    let place = Place::new();
    std::fs::create_dir(place.path("rules")).unwrap();
    let (dir, other) =
        (place.text("rules"), place.write("other.toml", &PRESS.replace("\"press\"", "\"mill\"")));
    let file = place.write("rules/press.toml", PRESS);
    std::os::unix::fs::symlink(&file, place.path("link.toml")).unwrap();
    let (link, config) = (place.text("link.toml"), place.edge("data", "", "", ""));
    let can = |sources: &[&str]| {
        let policies = sources.iter().flat_map(|source| ["-p", source]);
        let asked = ["policy", "can", LEFT, "publish", "line/left/temperature"];
        run_midge(&asked.into_iter().chain(policies).collect::<Vec<_>>())
    };
    for (one, same) in [(&file, &file), (&dir, &file), (&file, &dir), (&dir, &dir), (&link, &file)] {
        can(&[one, &other, same]).refused(64, &["named twice", one, same, "leave one away"]);
    }
    can(&["built-in", &file, &config]).refused(64, &["named twice, as built-in and as", &config]);
    can(&[&dir, &other, "built-in"]).ok();
    can(&[&file, "none", "none"]).ok();
}

#[test]
fn lists_of_nobody_and_files_without_end_are_refused() {
    let place = Place::new();
    let policy = place.write("press.toml", PRESS);
    let who = |ids: &str| {
        let ids = place.write("ids.txt", ids);
        run_midge(&["policy", "who", "publish", "line/left/temperature", "--ids", &ids, "-p", &policy])
    };
    who(LEFT).ok();
    who("# nobody\n").refused(78, &["ids.txt has no identities"]);
    who("me\nspiffe://td/a\nyou\n").refused(78, &["ids.txt:1: \"me\"", "ids.txt:3: \"you\""]);
    let can = |source: &str| run_midge(&["policy", "can", LEFT, "publish", "line/left/x", "-p", source]);
    can("/dev/zero").refused(78, &["/dev/zero has more than 67108864 bytes"]);
    run_midge(&["policy", "test", "/dev/zero", "-p", &policy]).refused(78, &["/dev/zero has more than"]);
}

#[test]
fn what_is_received_or_subscribed_to_is_lowered_and_not_denied() {
    let place = Place::new();
    let rule = "[[rule]]\nname = \"r\"\nid = \"spiffe://td/a\"\nsubscribe = [\"t/#\"]\npublish = [\"t/#\"]\n";
    let policy = place.write("policy.toml", &format!("{rule}qos-max = 1\n"));
    let can = |action: &str, qos: &str| {
        run_midge(&["policy", "can", "spiffe://td/a", action, "t/1", "-q", qos, "-p", &policy])
    };
    for action in ["receive", "subscribe"] {
        let (high, low) = (can(action, "2").ok().stdout, can(action, "1").ok().stdout);
        assert!(high.contains("allows it, at qos 1") && !low.contains("qos"), "{high}{low}");
    }
    assert_eq!(can("publish", "2").code, Some(1));
    can("publish", "1").ok();
    let explained = json(&["policy", "explain", "spiffe://td/a", "receive", "t/1", "-q", "2", "-p", &policy]);
    assert_eq!((&explained["allowed"], &explained["granted_qos"]), (&true.into(), &1.into()), "{explained}");
}

#[test]
fn rules_are_learned_from_observations() {
    let place = Place::new();
    let line = |name: &str| {
        format!(
            "{{\"identity\":\"{BOX}/app/{name}\",\"action\":\"publish\",\"topic\":\"{name}/user/up\",\"qos\":1,\"retain\":false,\"payload\":20}}\n"
        )
    };
    let log = place.write("seen.jsonl", &(line("shop") + &line("till")));
    let learned = run_midge(&["policy", "learn", "--from", &log]).ok();
    assert!(learned.stdout.contains("# Refused of them: 0."), "{}", learned.stdout);
    let policy = place.write("learned.toml", &learned.stdout);
    run_midge(&["policy", "check", &policy]).ok();
    let app = format!("{BOX}/app/shop");
    run_midge(&["policy", "can", &app, "publish", "shop/user/up", "-q", "1", "-p", &policy]).ok();
    assert_eq!(run_midge(&["policy", "can", &app, "publish", "till/user/up", "-p", &policy]).code, Some(1));
    let empty = place.write("empty.jsonl", "");
    run_midge(&["policy", "learn", "--from", &empty]).refused(1, &["nothing was seen"]);
}

#[test]
fn a_running_edge_is_asked_for_what_is_in_force() {
    let place = Place::new();
    std::fs::create_dir(place.path("policies")).unwrap();
    place.write("policies/press.toml", PRESS);
    let config = place.edge("data", "", "", &format!("[policy]\ndir = \"{}\"", place.text("policies")));
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("shop", &own_uid(), &["-publish", "shop/#"]);
    let shop = format!("{BOX}/app/shop");
    server.run(&["policy", "can", &shop, "publish", "shop/1", "-p", "running"]).ok();
    assert_eq!(server.run(&["policy", "can", &shop, "publish", "till/1", "-p", "running"]).code, Some(1));
    let rules = server.run(&["policy", "rules", "-p", "running"]).ok().json();
    let sources: Vec<&str> =
        rules["rules"].as_array().unwrap().iter().filter_map(|rule| rule["source"].as_str()).collect();
    assert!(sources.contains(&"registration entry"), "{sources:?}");
    assert!(sources.iter().any(|source| source.ends_with("policies/press.toml:2")), "{sources:?}");

    // What it runs is named twice where its files are named beside it.
    let beside = |source: &str| {
        server.run(&["policy", "can", &shop, "publish", "shop/1", "-p", "running", "-p", source])
    };
    for source in ["built-in", &config, &place.text("policies")] {
        beside(source).refused(64, &["named twice, as running and as", source]);
    }
    beside(&place.write("mill.toml", &PRESS.replace("\"press\"", "\"mill\""))).ok();

    let who = server.run(&["policy", "who", "publish", "shop/1", "-p", "running"]).ok().json();
    assert_eq!(
        who["identities"],
        serde_json::json!([{ "id": shop, "rules": ["entry/shop (registration entry)"] }])
    );
    assert_eq!(who["patterns"][0]["id"], shop);
    let gained = server.run(&["policy", "diff", &config, "running"]).ok().json();
    assert_eq!(gained["kinds"][0]["id"], shop);
    assert_eq!(gained["kinds"][0]["changes"][0]["filter"], "shop/#");
    run_midge(&["policy", "rules", "-p", "running", "--socketPath", "/nowhere.sock"])
        .refused(69, &["/nowhere.sock"]);
}

#[test]
fn a_running_edge_is_asked_for_the_mode_of_each_listener() {
    let place = Place::new();
    let unix = place.text("mqtt.sock");
    let mqtt = format!("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\nunix = \"{unix}\"");
    let config = place.edge("data", "", &mqtt, "[mqtt.subscribe-mode]\ntcp = \"filter\"");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("shop", &own_uid(), &["-publish", "shop/a", "-subscribe", "shop/a"]);
    let tcp = format!("mqtt://{}", server.address("tcp"));
    run_midge(&["pub", "--broker", &tcp, "-t", "shop/a", "-m", "1", "-r"]).ok();

    // What the commands say is what the broker does.
    let shop = format!("{BOX}/app/shop");
    let can = |more: &[&str]| {
        server.run(&[&["policy", "can", &shop, "subscribe", "shop/#", "-p", "running"], more].concat())
    };
    let subscribe = |broker: &str| run_midge(&["sub", "--broker", broker, "-t", "shop/#", "-C", "1"]);
    let granted = can(&["--listener", "tcp"]).ok().json();
    assert_eq!((&granted["in-part"], &granted["mode"]), (&true.into(), &"filter".into()), "{granted}");
    subscribe(&tcp).ok();
    assert_eq!(can(&["--listener", "unix"]).code, Some(1));
    assert_eq!(subscribe(&format!("unix://{unix}")).code, Some(1));
    let all = can(&[]);
    assert_eq!((all.code, all.json()["by-listener"].as_array().map(Vec::len)), (Some(1), Some(2)));
    can(&["--subscribe-mode", "filter"]).ok();
    let who = server.run(&["policy", "who", "subscribe", "shop/#", "-p", "running"]).ok().json();
    let known = who["identities"].as_array().unwrap().iter().find(|known| known["id"] == shop).unwrap();
    assert_eq!(
        (&known["listeners"], &known["in-part"]),
        (&serde_json::json!(["tcp"]), &true.into()),
        "{who}"
    );
}

#[test]
fn a_cloud_hands_out_no_file_with_two_rules_of_one_name() {
    let place = Place::new();
    let socket = place.path("cloud/run/admin.sock");
    let cloud = Server::start("cloud", &place.cloud("cloud", "plant.example"), &socket);
    let rule = |name: &str, what: &str| {
        format!("[[rule]]\nname = \"{name}\"\nid = \"spiffe://{{td}}/**\"\n{what}\n")
    };
    let (deny, allow) = ("deny-publish = [\"line/+/setpoint\"]", "publish = [\"line/#\"]");
    let file = place.write("twice.toml", &format!("{}{}", rule("line", deny), rule("line", allow)));
    cloud.run(&["rule", "apply", &file]).refused(64, &["`line`", "the name is also used at"]);
    let listed = || cloud.run(&["rule", "list"]).ok().stdout;
    assert!(!listed().contains("line"), "{}", listed());
    let file = place.write("once.toml", &format!("{}{}", rule("no-set", deny), rule("line", allow)));
    cloud.run(&["rule", "apply", &file]).ok();
    assert!(listed().contains("no-set") && listed().contains("line/#"), "{}", listed());
}
