//! The agent in a process of its own.

use crate::support::{BOX, Ended, Place, Program, Server, eventually, midge, own_uid, run, run_midge};
use std::process::Command;

fn fetch(place: &Place, socket: &str) -> Ended {
    let api = format!("unix://{}", place.text(socket));
    run_midge(&["svid", "fetch", "--workload-api", &api, "--output", "json"])
}

fn fetched(place: &Place, socket: &str, name: &str) -> String {
    eventually("an SVID", || {
        let ended = fetch(place, socket);
        if ended.code == Some(0) && ended.stdout.contains(&format!("{BOX}/app/{name}")) {
            return Ok(ended.stdout);
        }
        Err(format!("{ended:?}"))
    })
}

#[test]
fn an_agent_of_its_own_serves_while_the_edge_is_away() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let admin = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &admin);
    let agent_id = format!("{BOX}/agent/annex");
    let agent_config = place.write(
        "agent.toml",
        &format!(
            "edge-socket = \"{}\"\nworkload-socket = \"{}\"\nagent-id = \"{agent_id}\"\n",
            admin.display(),
            place.text("annex.sock")
        ),
    );
    let mut agent = Program::start(Command::new(midge()).args(["agent", "-c", &agent_config]));
    eventually("no identity", || {
        let ended = fetch(&place, "annex.sock");
        if ended.code == Some(1) && ended.stderr.contains("no identity issued") {
            Ok(())
        } else {
            Err(format!("{ended:?}"))
        }
    });
    server.entry("annexed", &own_uid(), &["-parentID", &agent_id]);
    fetched(&place, "annex.sock", "annexed");
    fetch(&place, "data/run/workload.sock").refused(1, &["no identity issued"]);

    server.program.kill();
    fetched(&place, "annex.sock", "annexed");
    assert!(agent.runs());

    let mut server = Server::start("edge", &config, &admin);
    server.entry("later", &own_uid(), &["-parentID", &agent_id]);
    fetched(&place, "annex.sock", "later");
    let second = run(Command::new(midge()).args(["agent", "-c", &agent_config]));
    second.refused(69, &["annex.sock", "workload-socket"]);
    // The agent follows the entries, without an end of its own.
    server.stop();
    assert!(agent.runs());
    agent.signal(rustix::process::Signal::HUP);
    eventually("told", || {
        let log = agent.log().join("\n");
        if log.contains("SIGHUP changes nothing here") { Ok(()) } else { Err(log) }
    });
    fetched(&place, "annex.sock", "later");
    agent.terminate();
    assert!(agent.ended().success(), "{:?}", agent.log());
}

#[test]
fn an_agent_without_id_is_the_box_and_waits_for_it() {
    let place = Place::new();
    let admin = place.path("data/run/admin.sock");
    let agent_config = place.write(
        "agent.toml",
        &format!("edge-socket = \"{}\"\nworkload-socket = \"{}\"\n", admin.display(), place.text("box.sock")),
    );
    let agent = Program::start(Command::new(midge()).args(["agent", "-c", &agent_config]));
    eventually("a warning", || {
        let log = agent.log().join("\n");
        if log.contains("waiting for the edge (edge-socket)") { Ok(()) } else { Err(log) }
    });
    fetch(&place, "box.sock").refused(69, &["box.sock", "midge agent"]);
    let server = Server::start("edge", &place.edge("data", "", "", ""), &admin);
    server.entry("me", &own_uid(), &[]);
    fetched(&place, "box.sock", "me");
}

#[test]
fn a_banned_agent_serves_nobody_and_sessions_by_its_entries_end() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let admin = place.path("data/run/admin.sock");
    let server = Server::start("edge", &config, &admin);
    let agent_id = format!("{BOX}/agent/annex");
    let text = format!(
        "edge-socket = \"{}\"\nworkload-socket = \"{}\"\nagent-id = \"{agent_id}\"\n",
        admin.display(),
        place.text("annex.sock")
    );
    let agent_config = place.write("agent.toml", &text);
    let _agent = Program::start(Command::new(midge()).args(["agent", "-c", &agent_config]));
    server.entry("annexed", &own_uid(), &["-parentID", &agent_id, "-subscribe", "a/b"]);
    server.entry("other", "unix:uid:4294967294", &["-subscribe", "a/b"]);
    fetched(&place, "annex.sock", "annexed");
    let broker = format!("mqtts://{}", server.address("tls"));
    let subscriber = |name: &str| {
        let (id, svid) = (format!("{BOX}/app/{name}"), place.text(name));
        server.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "600", "--write", &svid]).ok();
        let sub = ["sub", "--broker", &broker, "--svid", &svid, "-t", "a/b", "--output", "json"];
        let subscriber = Program::start(Command::new(midge()).args(sub));
        subscriber.event("subscribed", |event| event["event"] == "subscribed");
        subscriber
    };
    let (cut, mut stays) = (subscriber("annexed"), subscriber("other"));

    server
        .run(&["node", "ban", &format!("{BOX}/app/annexed")])
        .refused(1, &["agent not found: spiffe://", "/app/annexed", "midge node list"]);
    server.run(&["node", "ban", &agent_id]).ok();
    cut.event("told of it", |event| event["event"] == "disconnected");
    eventually("nothing is served", || {
        let ended = fetch(&place, "annex.sock");
        if ended.code == Some(1) { Ok(()) } else { Err(format!("{ended:?}")) }
    });
    assert!(stays.runs());

    server.run(&["node", "delete", &agent_id]).ok();
    fetched(&place, "annex.sock", "annexed");
}
