//! Who is connected, as whom, and for how long.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Program, Server, eventually, midge, own_uid, run_midge};
use mqtt_proto::ReasonCode;
use serde_json::Value;
use std::process::Command;

fn started(place: &Place, mqtt: &str) -> Server {
    let config = place.edge("data", "", mqtt, "");
    Server::start("edge", &config, &place.path("data/run/admin.sock"))
}

fn sessions(server: &Server) -> Vec<Value> {
    let list = server.run(&["session", "list"]).ok().json();
    let apps = |session: &Value| session["spiffe_id"].as_str().is_some_and(|id| id.contains("/app/"));
    list["sessions"].as_array().unwrap().iter().filter(|session| apps(session)).cloned().collect()
}

pub(crate) fn audited(place: &Place, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("audited", || {
        let text = std::fs::read_to_string(place.path("data/audit.jsonl")).unwrap_or_default();
        let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.find(&wanted).ok_or(text)
    })
}

#[test]
fn identities_of_one_user_are_chosen_by_user_name_and_share_client_ids() {
    let place = Place::new();
    let server = started(&place, "");
    server.entry("a", &own_uid(), &["-publish", "of/a"]);
    server.entry("b", &own_uid(), &["-publish", "of/b", "-hint", "second"]);
    let tcp = server.address("tcp");
    let a = format!("{BOX}/app/a");
    let mut first =
        Client::tcp(&tcp, &Who { id: "same", user_name: Some(&a), ..Who::default() }).ok().unwrap();
    let mut second =
        Client::tcp(&tcp, &Who { id: "same", user_name: Some("second"), ..Who::default() }).ok().unwrap();
    first.stands();
    second.stands();
    assert_eq!(first.publish("of/a", ""), ReasonCode::NoMatchingSubscribers);
    assert_eq!(first.publish("of/b", ""), ReasonCode::NotAuthorized);
    assert_eq!(second.publish("of/b", ""), ReasonCode::NoMatchingSubscribers);
    assert_eq!(second.publish("of/a", ""), ReasonCode::NotAuthorized);
    let ids: Vec<Value> = sessions(&server).iter().map(|session| session["client_id"].clone()).collect();
    assert_eq!(ids, ["same", "same"]);

    let foreign = format!("{BOX}/app/c");
    let refused = Client::tcp(&tcp, &Who { id: "x", user_name: Some(&foreign), ..Who::default() }).err();
    assert_eq!(refused, Some(ReasonCode::NotAuthorized), "an identity it has no entry for");
    let again = Client::tcp(&tcp, &Who { id: "same", user_name: Some(&a), ..Who::default() });
    assert_eq!(first.cut(), ReasonCode::SessionTakenOver, "within one identity the newer connection wins");
    again.ok().unwrap().stands();
    second.stands();
}

#[test]
fn an_operator_ends_one_session_of_one_identity_and_it_may_come_again() {
    let place = Place::new();
    let server = started(&place, "");
    server.entry("a", &own_uid(), &[]);
    server.entry("b", &own_uid(), &[]);
    let tcp = server.address("tcp");
    let (a, b) = (format!("{BOX}/app/a"), format!("{BOX}/app/b"));
    let connect = |id, user| Client::tcp(&tcp, &Who { id, user_name: Some(user), ..Who::default() });
    let mut ended = connect("1", &a).ok().unwrap();
    let mut stay = [connect("2", &a).ok().unwrap(), connect("1", &b).ok().unwrap()];

    server.run(&["session", "end", &a, "3"]).refused(1, &["no session of", "midge session list"]);
    server.run(&["session", "end", "app/a", "1"]).refused(64, &["app/a"]);
    ended.stands();
    let answer = server.run(&["session", "end", &a, "1"]).ok().json();
    assert_eq!(answer["ended"], serde_json::json!({ "spiffe_id": a, "client_id": "1" }));
    assert_eq!(ended.cut(), ReasonCode::AdministrativeAction);
    stay.iter_mut().for_each(Client::stands);
    connect("1", &a).ok().unwrap().stands();
    let act = audited(&place, |record| record["event"] == "session-deleted");
    assert_eq!((&act["identity"], &act["client-id"]), (&a.into(), &"1".into()));
    assert!(act["by"]["method"].as_str().unwrap().ends_with("/EndSession"), "{act}");
}

#[test]
fn a_deleted_entry_cuts_its_identity_and_no_other() {
    let place = Place::new();
    let server = started(&place, "");
    server.entry("a", &own_uid(), &[]);
    server.entry("b", &own_uid(), &[]);
    let tcp = server.address("tcp");
    let (a, b) = (format!("{BOX}/app/a"), format!("{BOX}/app/b"));
    let connect = |id, user| Client::tcp(&tcp, &Who { id, user_name: Some(user), ..Who::default() });
    let mut cut = [connect("1", &a).ok().unwrap(), connect("2", &a).ok().unwrap()];
    let mut stays = connect("1", &b).ok().unwrap();
    server.run(&["entry", "delete", "-entryID", "a"]).ok();
    for client in &mut cut {
        assert_eq!(client.cut(), ReasonCode::NotAuthorized);
    }
    stays.stands();
    assert_eq!(connect("3", &a).err(), Some(ReasonCode::NotAuthorized));
    let left = sessions(&server);
    assert!(left.len() == 1 && left[0]["spiffe_id"] == b.as_str(), "{left:?}");
    audited(&place, |record| {
        record["event"] == "disconnected"
            && record["identity"] == a.as_str()
            && record["reason"].as_str().is_some_and(|reason| reason.contains("identity revoked"))
    });
}

#[test]
fn an_entry_that_is_for_others_now_cuts_who_it_was_for_and_new_grants_cut_nobody() {
    let place = Place::new();
    let unix = place.text("mqtt.sock");
    let server = started(&place, &format!("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\nunix = \"{unix}\""));
    let uid = own_uid();
    for name in ["a", "b"] {
        server.entry(name, &uid, &["-hint", name, "-publish", "old"]);
    }
    let tcp = server.address("tcp");
    let update = |name: &str, selector: &str, parent: &str, grant: &str| {
        let id = format!("{BOX}/app/{name}");
        let entry = ["entry", "update", "-entryID", name, "-spiffeID", &id, "-parentID", parent];
        let rest = ["-selector", selector, "-hint", name, "-publish", grant];
        server.run(&[&entry[..], &rest].concat()).ok();
    };
    let connect = |user| {
        let who = Who { id: "same", user_name: Some(user), ..Who::default() };
        [Client::tcp(&tcp, &who), Client::unix(&unix, &Who { id: "other", ..who })].map(|client| client.ok())
    };
    let mut a = connect("a").map(Option::unwrap);
    let mut b = connect("b").map(Option::unwrap);
    update("a", &uid, BOX, "new");
    for client in &mut a {
        eventually("granted", || match client.publish("new", "x") {
            ReasonCode::NoMatchingSubscribers => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    update("a", "unix:uid:4294967294", BOX, "new");
    for client in &mut a {
        assert_eq!(client.cut(), ReasonCode::NotAuthorized);
    }
    for client in &mut b {
        client.stands();
    }
    update("b", &uid, &format!("{BOX}/agent/other"), "old");
    for client in &mut b {
        assert_eq!(client.cut(), ReasonCode::NotAuthorized);
    }
    let refused = Client::tcp(&tcp, &Who { id: "same", ..Who::default() }).err();
    assert_eq!(refused, Some(ReasonCode::NotAuthorized), "neither is for this user here");
}

#[test]
fn a_unix_socket_tells_who_is_at_its_other_end() {
    let place = Place::new();
    let path = place.text("mqtt.sock");
    let server = started(&place, &format!("tls = \"127.0.0.1:0\"\nunix = \"{path}\""));
    let who = Who { id: "local", ..Who::default() };
    assert_eq!(Client::unix(&path, &who).err(), Some(ReasonCode::NotAuthorized), "no entry yet");
    server.entry("me", &own_uid(), &["-publish", "a/b"]);
    let mut client = Client::unix(&path, &who).ok().unwrap();
    assert_eq!(client.publish("a/b", "hello"), ReasonCode::NoMatchingSubscribers);
    assert_eq!(client.publish("a/c", "hello"), ReasonCode::NotAuthorized);
    let record = audited(&place, |record| record["event"] == "connected" && record["client-id"] == "local");
    assert_eq!(record["identity"], format!("{BOX}/app/me"));
    let proof = &record["proof"];
    assert_eq!(
        (proof["kind"].as_str(), proof["pid"].as_u64()),
        (Some("local"), Some(std::process::id().into())),
        "{record}"
    );
}

#[test]
fn the_end_of_an_svid_ends_its_session_and_no_other() {
    let place = Place::new();
    let server = started(&place, "");
    server.entry("short", "unix:uid:4294967294", &["-subscribe", "a/b"]);
    server.entry("me", &own_uid(), &[]);
    let mut other = Client::tcp(&server.address("tcp"), &Who { id: "other", ..Who::default() }).ok().unwrap();
    let (id, svid) = (format!("{BOX}/app/short"), place.text("svid"));
    // Long enough for a busy machine to connect with it.
    server.run(&["svid", "mint", "-spiffeID", &id, "-ttl", "5", "--write", &svid]).ok();
    let broker = format!("mqtts://{}", server.address("tls"));
    let sub = ["sub", "--broker", &broker, "--svid", &svid, "-t", "a/b", "--output", "json"];
    let subscriber = Program::start(Command::new(midge()).args(sub));
    subscriber.event("subscribed", |event| event["event"] == "subscribed");
    let record =
        audited(&place, |record| record["event"] == "disconnected" && record["identity"] == id.as_str());
    assert_eq!(record["reason"], "SVID expired");
    subscriber.event("told of it", |event| event["event"] == "disconnected");
    other.stands();
    drop(subscriber);
    run_midge(&["pub", "--broker", &broker, "--svid", &svid, "-t", "a/b", "-m", "x"]).refused(77, &[]);
}
