//! A CA that is tainted: whoever came by it is cut, nobody else is, and what it signed is renewed at once.

use crate::client::{Client, Who};
use crate::enrolment::{cloud, edge_of, enrols, token};
use crate::sessions::audited;
use crate::support::{BOX, Place, Program, Server, eventually, midge, own_uid, run_midge};
use serde_json::Value;
use std::process::Command;

pub(crate) fn x509(server: &Server, arguments: &[&str]) -> Value {
    server.run(&[&["localauthority", "x509"], arguments].concat()).ok().json()
}

fn in_state(server: &Server, state: &str) -> String {
    let shown = x509(server, &["show"]);
    let mut authorities = shown["authorities"].as_array().unwrap().iter();
    let found = authorities.find(|authority| authority["state"] == state);
    found.unwrap_or_else(|| panic!("none {state}: {shown}"))["authority_id"].as_str().unwrap().to_owned()
}

/// Another authority signs from here on; returns the one that did before.
pub(crate) fn replaced(server: &Server) -> String {
    let before = in_state(server, "active");
    let prepared = x509(server, &["prepare"])["authority_id"].as_str().unwrap().to_owned();
    x509(server, &["activate", "-authorityID", &prepared]);
    assert_eq!((in_state(server, "active"), in_state(server, "old")), (prepared, before.clone()));
    before
}

/// An identity of the box, with an SVID by hand.
struct ByHand<'a> {
    server: &'a Server,
    svid: String,
}

impl<'a> ByHand<'a> {
    fn new(place: &Place, server: &'a Server, name: &str) -> Self {
        server.entry(name, "unix:uid:4294967294", &["-publish", "a/b", "-subscribe", "a/b"]);
        let (id, svid) = (format!("{BOX}/app/{name}"), place.text(name));
        server.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "600", "--write", &svid]).ok();
        Self { server, svid }
    }

    fn broker(&self) -> String {
        format!("mqtts://{}", self.server.address("tls"))
    }

    fn subscriber(&self) -> Program {
        let broker = self.broker();
        let sub = ["sub", "--broker", &broker, "--svid", &self.svid, "-t", "a/b", "--output", "json"];
        let subscriber = Program::start(Command::new(midge()).args(sub));
        subscriber.event("subscribed", |event| event["event"] == "subscribed");
        subscriber
    }

    /// Leaves a session behind that waits for its client.
    fn park(&self) {
        let broker = self.broker();
        let sub = ["sub", "--broker", &broker, "--svid", &self.svid, "-t", "a/b", "--output", "json"];
        let mut subscriber = Program::start(Command::new(midge()).args(sub).args(["--id", "parked"]));
        subscriber.event("subscribed", |event| event["event"] == "subscribed");
        subscriber.kill();
    }

    fn publish(&self, payload: &str) -> crate::support::Ended {
        let broker = self.broker();
        run_midge(&["pub", "--broker", &broker, "--svid", &self.svid, "-t", "a/b", "-q", "1", "-m", payload])
    }
}

#[test]
fn a_tainted_authority_ends_who_came_by_it_and_nobody_else() {
    let place = Place::new();
    let config = place.edge("data", "", "", "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("me", &own_uid(), &[]);
    let mut local = Client::tcp(&server.address("tcp"), &Who { id: "x", ..Who::default() }).ok().unwrap();
    let workload = format!("unix://{}", place.text("data/run/workload.sock"));
    let kept = place.text("kept");
    let fetch = ["svid", "fetch", "--workload-api", &workload, "--write", &kept];
    let _fetched = Program::start(Command::new(midge()).args(fetch));
    let written = || std::fs::read_to_string(place.path("kept/svid.pem")).map_err(|error| error.to_string());
    let before = eventually("an SVID", written);
    let old = ByHand::new(&place, &server, "old");
    let cut = old.subscriber();

    let active = in_state(&server, "active");
    let taint = ["localauthority", "x509", "taint", "-authorityID"];
    server.run(&[&taint[..], &[&active]].concat()).refused(1, &[&active, "prepare and activate another one"]);
    server.run(&[&taint[..], &["ff"]].concat()).refused(1, &["\"ff\"", "localauthority x509 show"]);
    let first = replaced(&server);
    let revoke = ["localauthority", "x509", "revoke", "-authorityID", &first];
    server.run(&revoke).refused(1, &[&first, "taint it first"]);
    let new = ByHand::new(&place, &server, "new");
    let stays = new.subscriber();
    old.publish("an old authority is trusted").ok();
    stays.event("heard", |event| event["payload"].as_str().is_some_and(|text| text.contains("is trusted")));

    assert_eq!(x509(&server, &["taint", "-authorityID", &first])["tainted"], true);
    cut.event("told of it", |event| event["event"] == "disconnected");
    drop(cut);
    let id = format!("{BOX}/app/old");
    audited(&place, |record| {
        record["event"] == "disconnected"
            && record["identity"] == id.as_str()
            && record["reason"].as_str().is_some_and(|reason| reason.contains("root is tainted"))
    });
    old.publish("x").refused(77, &[]);
    eventually("renewed", || if written()? == before { Err("not yet".into()) } else { Ok(()) });
    new.publish("goes on").ok();
    stays.event("heard", |event| event["payload"].as_str().is_some_and(|text| text.contains("goes on")));
    local.stands();

    assert!(server.run(&["bundle", "show"]).ok().json()["keys"].as_array().unwrap().len() == 2);
    server.run(&revoke).ok();
    assert!(server.run(&["bundle", "show"]).ok().json()["keys"].as_array().unwrap().len() == 1);
    old.publish("x").refused(77, &[]);
    new.publish("still").ok();
    let act = audited(&place, |record| {
        record["by"]["method"].as_str().is_some_and(|method| method.ends_with("/RevokeX509Authority"))
    });
    assert!(act["by"]["uid"].is_number(), "{act}");
}

/// Whose sessions wait for their clients.
fn parked(server: &Server) -> Vec<String> {
    let listed = server.run(&["session", "list"]).ok().json();
    let sessions = listed["sessions"].as_array().unwrap().iter();
    let parked = sessions.filter(|session| session["client_id"] == "parked");
    let mut owners: Vec<String> =
        parked.map(|session| session["spiffe_id"].as_str().unwrap().replace(BOX, "")).collect();
    owners.sort();
    owners
}

fn parked_are(server: &Server, wanted: &[&str]) {
    eventually("those sessions", || {
        let found = parked(server);
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_session_that_waits_ends_with_the_root_it_was_proven_by_over_a_crash_too() {
    for is_killed in [false, true] {
        let place = Place::new();
        let config = place.edge("data", "", "", "");
        let socket = place.path("data/run/admin.sock");
        let mut server = Server::start("edge", &config, &socket);
        ByHand::new(&place, &server, "old").park();
        let first = replaced(&server);
        ByHand::new(&place, &server, "new").park();
        let both = ["/app/new", "/app/old"];
        parked_are(&server, &both);
        // Whose root is tainted may come back with a better proof.
        x509(&server, &["taint", "-authorityID", &first]);
        server.program.kill();
        server = Server::start("edge", &config, &socket);
        parked_are(&server, &both);
        x509(&server, &["revoke", "-authorityID", &first]);
        if is_killed {
            server.program.kill();
            server = Server::start("edge", &config, &socket);
        }
        parked_are(&server, &["/app/new"]);
    }
}

#[test]
fn a_box_whose_clouds_root_is_tainted_gets_a_new_ca_and_certificate_at_once() {
    let place = Place::new();
    let cloud = cloud(&place, "cloud", "plant.example");
    let config = edge_of(&place, "data", &cloud, &token(&cloud, "600"));
    let mut edge = enrols(&place, "data", &config);
    let id = format!("{BOX}/app/old");
    let entry = ["entry", "create", "-spiffeID", &id, "-parentID", BOX, "-selector", "unix:uid:4294967294"];
    cloud.run(&[&entry[..], &["-publish", "a/b", "-subscribe", "a/b"]].concat()).ok();
    eventually("the entry", || if edge.entries() > 0 { Ok(()) } else { Err("none".into()) });
    let mint = |name: &str| {
        let svid = place.text(name);
        edge.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "600", "--write", &svid]).ok();
        ByHand { server: &edge, svid }
    };
    let old = mint("old");
    let cut = old.subscriber();
    let node =
        |name: &str| std::fs::read_to_string(place.path(name).join("keys/node.pem")).unwrap_or_default();
    let (ca, certificate) = (edge.status()["ca"]["serial"].clone(), node("data"));
    edge.run(&["localauthority", "x509", "prepare"]).refused(1, &["from its cloud"]);

    let first = replaced(&cloud);
    x509(&cloud, &["taint", "-authorityID", &first]);
    cut.event("told of it", |event| event["event"] == "disconnected");
    drop(cut);
    eventually("a new CA", || {
        let status = edge.status();
        if status["ca"]["serial"] == ca { Err(format!("{status}")) } else { Ok(()) }
    });
    eventually(
        "a new certificate",
        || if node("data") == certificate { Err("not yet".into()) } else { Ok(()) },
    );
    let new = mint("new");
    new.publish("x").ok();
    old.publish("x").refused(77, &[]);

    // Nothing of what the box has now leads to what is revoked.
    x509(&cloud, &["revoke", "-authorityID", &first]);
    eventually("revoked", || {
        let keys = edge.run(&["bundle", "show"]).ok().json()["keys"].as_array().unwrap().len();
        if keys == 1 { Ok(()) } else { Err(format!("{keys} roots")) }
    });
    new.publish("x").ok();
    edge.stop();
    let edge = enrols(&place, "data", &config);
    assert_eq!(edge.status()["cloud"]["connected"], true);
}
