//! Two trust domains: the bundle of one is given to the other, its clients come in, and are cut when it is taken away.

use crate::authority::{replaced, x509};
use crate::client::{Client, Who};
use crate::enrolment::{cloud, edge_of, enrols, token};
use crate::sessions::audited;
use crate::support::{Ended, Place, Program, Server, eventually, midge, own_uid, run, run_midge};
use crate::ways::tls;
use mqtt_proto::{QoS, ReasonCode};
use serde_json::Value;
use std::process::Command;

const OTHER: &str = "spiffe://other.org";
const RULE: &str = r#"
[[rule]]
name = "partners"
id = "spiffe://other.org/edge/{node}/app/{app}"
publish = ["from/{app}"]
subscribe = ["from/{app}"]

[[rule]]
name = "readers"
id = "spiffe://plant.example/edge/{node}/app/me"
publish = ["mark"]
subscribe = ["from/+", "mark"]
"#;

/// A box of the trust domain `other.org`.
fn other(place: &Place) -> Server {
    let data = place.text("other");
    let text = format!(
        "trust-domain = \"other.org\"\nnode = \"box-2\"\ndata-dir = \"{data}\"\n[mqtt]\ntls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\n"
    );
    let config = place.write("other.toml", &text);
    Server::start("edge", &config, &place.path("other/run/admin.sock"))
}

/// A box of `plant.example` that federates with these, and the rules of [`RULE`].
fn plant(place: &Place, federates_with: &str) -> Server {
    if !place.path("rules").exists() {
        std::fs::create_dir(place.path("rules")).unwrap();
    }
    place.write("rules/partners.toml", RULE);
    let mqtt = format!("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\nfederates-with = [{federates_with}]");
    let rest = format!("[policy]\ndir = \"{}\"", place.text("rules"));
    Server::start("edge", &place.edge("data", "", &mqtt, &rest), &place.path("data/run/admin.sock"))
}

/// Pipes the bundle that one shows into the other.
fn give(from: &Server, to: &Server, id: &str, format: &str) -> Ended {
    let midge = midge().display();
    let (shown, set) = (&from.socket, &to.socket);
    let line = format!(
        "'{midge}' bundle show -format {format} -socketPath '{shown}' | '{midge}' bundle set -id {id} -format {format} -socketPath '{set}'"
    );
    run(Command::new("sh").args(["-c", &line]))
}

fn bundles(server: &Server) -> Vec<String> {
    let listed = server.run(&["bundle", "list"]).ok().json();
    let names = listed["bundles"].as_array().unwrap().iter();
    names.map(|bundle| bundle["trust_domain"].as_str().unwrap().to_owned()).collect()
}

/// A workload of `other.org`, which proves itself to the broker of `plant.example`.
struct Partner {
    broker: String,
    workload: String,
}

impl Partner {
    fn new(place: &Place, at: &Server) -> Self {
        let broker = format!("mqtts://{}", at.address("tls"));
        Self { broker, workload: format!("unix://{}", place.text("other/run/workload.sock")) }
    }

    fn arguments<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let broker_id = "spiffe://plant.example/edge/box-1/broker";
        let target = ["--broker", &self.broker, "--workload-api", &self.workload, "--broker-id", broker_id];
        [command, &target, &["--output", "json"]].concat()
    }

    fn publish(&self, topic: &str) -> Ended {
        run_midge(&self.arguments(&["pub", "-t", topic, "-q", "1", "-m", "x"]))
    }

    fn retain(&self, topic: &str) {
        run_midge(&self.arguments(&["pub", "-t", topic, "-q", "1", "-m", "kept", "-r"])).ok();
    }

    fn subscriber(&self, id: &str) -> Program {
        let sub = self.arguments(&["sub", "-t", "from/x", "--id", id]);
        let subscriber = Program::start(Command::new(midge()).args(sub));
        subscriber.event("subscribed", |event| event["event"] == "subscribed");
        subscriber
    }
}

/// Client ids of the sessions that identities of `other.org` have.
fn sessions(server: &Server) -> Vec<String> {
    let listed = server.run(&["session", "list"]).ok().json();
    let foreign = |session: &&Value| session["spiffe_id"].as_str().unwrap().starts_with(OTHER);
    let sessions = listed["sessions"].as_array().unwrap().iter().filter(foreign);
    sessions.map(|session| session["client_id"].as_str().unwrap().to_owned()).collect()
}

fn sessions_are(server: &Server, wanted: &[&str]) {
    eventually("those sessions", || {
        let found = sessions(server);
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn clients_of_another_trust_domain_come_in_while_it_is_listed_and_its_bundle_is_here() {
    let place = Place::new();
    let far = other(&place);
    let mut near = plant(&place, "");
    let app = format!("{OTHER}/edge/box-2/app/x");
    let uid = own_uid();
    let federating =
        ["entry", "create", "-spiffeID", &app, "-selector", &uid, "-federatesWith", "spiffe://plant.example"];
    far.run(&federating).refused(1, &["unable to find federated bundle", "midge bundle set"]);
    give(&near, &far, "spiffe://plant.example", "pem").ok();
    far.run(&federating).ok();
    give(&far, &near, OTHER, "spiffe").ok();
    assert_eq!((bundles(&near), bundles(&far)), (vec!["other.org".into()], vec!["plant.example".into()]));
    give(&near, &near, "spiffe://plant.example", "pem").refused(64, &["own trust domain"]);
    give(&near, &near, "spiffe://third.org", "pem").refused(64, &["no X.509 root of spiffe://third.org"]);
    assert_eq!(near.run(&["bundle", "count"]).ok().json()["count"], 2);

    // The bundle is here, and the broker does not federate with it.
    Partner::new(&place, &near).publish("from/x").refused(77, &[]);
    near.stop();
    let mut near = plant(&place, "\"other.org\"");
    let partner = Partner::new(&place, &near);
    partner.publish("from/x").ok();
    partner.publish("from/y").refused(1, &[]);
    near.entry("me", &uid, &[]);
    let mut local = Client::tcp(&near.address("tcp"), &Who { id: "me", ..Who::default() }).ok().unwrap();
    partner.retain("from/x");
    local.subscribe("from/x");
    assert_eq!(local.message(), ("from/x".to_owned(), "kept".to_owned()));
    let cut = partner.subscriber("live");
    let mut parked = partner.subscriber("parked");
    parked.kill();
    sessions_are(&near, &["live", "parked"]);

    near.run(&["bundle", "delete", "-id", OTHER]).ok();
    cut.event("told of it", |event| event["event"] == "disconnected");
    drop(cut);
    sessions_are(&near, &[]);
    local.stands();
    // What it had retained comes to nobody any more: the next message is the own one.
    for filter in ["from/x", "mark"] {
        local.subscribe(filter);
    }
    local.publish_with_echo("mark", "own");
    let ended = audited(&place, |record| {
        record["event"] == "disconnected"
            && record["identity"] == app.as_str()
            && record["reason"].as_str().is_some_and(|reason| reason.contains("trust domain has no bundle"))
    });
    assert_eq!(ended["client-id"], "live", "{ended}");
    let act = audited(&place, |record| record["event"] == "federated-bundle-deleted");
    assert_eq!(act["trust-domain"], "other.org");
    partner.publish("from/x").refused(77, &[]);

    // What is parked does not come back under a start that federates no more.
    give(&far, &near, OTHER, "pem").ok();
    partner.publish("from/x").ok();
    partner.subscriber("parked").kill();
    sessions_are(&near, &["parked"]);
    near.stop();
    let near = plant(&place, "");
    sessions_are(&near, &[]);
    assert_eq!(bundles(&near), ["other.org"]);
}

/// An identity of `other.org` with an SVID by hand, which knows the broker of `plant.example`.
struct Foreign {
    app: &'static str,
    svid: std::path::PathBuf,
    broker: String,
}

impl Foreign {
    fn new(place: &Place, far: &Server, near: &Server, app: &'static str) -> Self {
        let (id, svid) = (format!("{OTHER}/edge/box-2/app/{app}"), place.text(app));
        far.run(&["entry", "create", "-spiffeID", &id, "-selector", "unix:uid:4294967294"]).ok();
        far.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "600", "--write", &svid]).ok();
        let roots = run_midge(&["bundle", "show", "-format", "pem", "-socketPath", &near.socket]).ok().stdout;
        place.write(&format!("{app}/bundle.pem"), &roots);
        Self { app, svid: place.path(app), broker: near.address("tls") }
    }

    fn topic(&self) -> String {
        format!("from/{}", self.app)
    }

    fn connect(&self, who: &Who<'_>) -> Client {
        let mut client = Client::connect(Box::new(tls(&self.broker, &self.svid)), who).ok().unwrap();
        assert!(!client.subscribe_at(&self.topic(), QoS::AtLeastOnce).is_error());
        client
    }

    /// Leaves a session behind that waits, with a message and a will; returns a client that stays.
    fn settle(&self, near: &Server, parked: &str, live: &str) -> Client {
        let topic = self.topic();
        drop(self.connect(&Who { id: parked, will: Some(&topic), expiry_secs: 3600, ..Who::default() }));
        eventually("it is parked", || {
            let listed = near.run(&["session", "list"]).ok().json();
            let mut sessions = listed["sessions"].as_array().unwrap().iter();
            let is_it = |session: &Value| session["client_id"] == parked && session["connected"] == false;
            if sessions.any(is_it) { Ok(()) } else { Err(listed.to_string()) }
        });
        let mut client = self.connect(&Who { id: live, ..Who::default() });
        assert_eq!(client.publish_with_echo(&topic, "waits"), ReasonCode::Success);
        client
    }
}

/// Messages that wait for the sessions of `other.org`, by client id.
fn waiting(server: &Server) -> Vec<(String, u64)> {
    let listed = server.run(&["session", "list"]).ok().json();
    let of = |id: &String| {
        let found =
            listed["sessions"].as_array().unwrap().iter().find(|session| session["client_id"] == id.as_str());
        found.unwrap()["queued"].as_u64().unwrap_or_default()
    };
    let mut waiting: Vec<(String, u64)> =
        sessions(server).into_iter().map(|id| (id.clone(), of(&id))).collect();
    waiting.sort();
    waiting
}

#[test]
fn a_root_that_leaves_a_bundle_takes_its_clients_and_nobody_elses() {
    let place = Place::new();
    let far = other(&place);
    let near = plant(&place, "\"other.org\"");
    let old = Foreign::new(&place, &far, &near, "old");
    let first = replaced(&far);
    let new = Foreign::new(&place, &far, &near, "new");
    give(&far, &near, OTHER, "spiffe").ok();
    near.entry("me", &own_uid(), &[]);
    let mut local = Client::tcp(&near.address("tcp"), &Who { id: "me", ..Who::default() }).ok().unwrap();
    for topic in ["from/old", "from/new", "mark"] {
        local.subscribe(topic);
    }
    let mut cut = old.settle(&near, "old-parked", "old-live");
    let mut stays = new.settle(&near, "new-parked", "new-live");
    let heard = [local.message(), local.message()].map(|(topic, payload)| format!("{topic} {payload}"));
    assert_eq!(heard, ["from/old waits", "from/new waits"]);
    let of =
        |some: &[(&str, u64)]| some.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect::<Vec<_>>();
    let all = [("new-live", 0), ("new-parked", 1), ("old-live", 0), ("old-parked", 1)];
    assert_eq!(waiting(&near), of(&all));

    x509(&far, &["taint", "-authorityID", &first]);
    x509(&far, &["revoke", "-authorityID", &first]);
    give(&far, &near, OTHER, "spiffe").ok();
    assert_eq!(cut.cut(), ReasonCode::NotAuthorized);
    eventually("those sessions, with what waits for them", || {
        let found = waiting(&near);
        if found == of(&all[..2]) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // No will came before this.
    local.publish_with_echo("mark", "own");
    assert_eq!(stays.publish_with_echo("from/new", "goes on"), ReasonCode::Success);
    assert_eq!(local.message(), ("from/new".to_owned(), "goes on".to_owned()));
    let ended = audited(&place, |record| {
        record["event"] == "disconnected"
            && record["reason"].as_str().is_some_and(|reason| reason.contains("root is no longer trusted"))
    });
    assert_eq!(ended["client-id"], "old-live", "{ended}");
}

#[test]
fn a_cloud_hands_its_bundles_to_its_boxes_and_takes_them_back() {
    let place = Place::new();
    let far = other(&place);
    let cloud = cloud(&place, "cloud", "plant.example");
    let config = edge_of(&place, "data", &cloud, &token(&cloud, "600"));
    let mut edge = enrols(&place, "data", &config);
    let shown = run_midge(&["bundle", "show", "-socketPath", &far.socket]).ok().stdout;
    let file = place.write("other.pem", &shown);
    let set = ["bundle", "set", "-id", OTHER, "-path", &file];
    edge.run(&set).refused(1, &["from its cloud"]);
    cloud.run(&set).ok();
    let arrives = |edge: &Server, wanted: &[&str]| {
        eventually("the bundles of the cloud", || {
            let found = bundles(edge);
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    arrives(&edge, &["other.org"]);
    edge.run(&["bundle", "delete", "-id", OTHER]).refused(1, &["from its cloud"]);
    let roots = |server: &Server| server.run(&["bundle", "list", "-id", OTHER]).ok().json()["keys"].clone();
    assert_eq!(roots(&edge), roots(&cloud));
    edge.stop();
    let edge = enrols(&place, "data", &config);
    assert_eq!(bundles(&edge), ["other.org"]);
    cloud.run(&["bundle", "delete", "-id", OTHER]).ok();
    arrives(&edge, &[]);
    edge.run(&["bundle", "list", "-id", OTHER]).refused(1, &["bundle not found"]);
    assert!(edge.status()["degraded"].as_array().unwrap().is_empty());
}
