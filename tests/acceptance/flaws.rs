//! Flaw classes whose outcome the transport decides; the others are scenarios of the broker's core.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Server, own_uid};
use crate::ways::{Frames, tcp, tls};
use mqtt_proto::ReasonCode;
use std::collections::BTreeSet;

/// F28: the same identity, the same answers, on each listener and by whatever it was proven.
#[test]
fn f28_every_listener_asks_for_the_same_rights() {
    let place = Place::new();
    let unix = place.text("mqtt.sock");
    let any = "\"127.0.0.1:0\"";
    let mqtt = format!(
        "tls = {any}\ntcp = {any}\nwebsocket-tls = {any}\nwebsocket-loopback = {any}\nunix = \"{unix}\""
    );
    let config = place.edge("data", "", &mqtt, "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("me", &own_uid(), &["-publish", "a/b", "-subscribe", "a/b"]);
    let (id, svid) = (format!("{BOX}/app/me"), place.path("svid"));
    server.run(&["svid", "mint", "-spiffeID", &id, "--write", &svid.display().to_string()]).ok();

    let address = |kind: &str| server.address(kind);
    let (over_tcp, over_tls) = (address("tcp"), address("tls"));
    let (near, far) = (address("websocket-loopback"), address("websocket-tls"));
    let open = |kind: &str, who: &Who<'_>| match kind {
        "tcp" => Client::tcp(&over_tcp, who),
        "unix" => Client::unix(&unix, who),
        "tls" => Client::connect(Box::new(tls(&over_tls, &svid)), who),
        "websocket-loopback" => Client::connect(Box::new(Frames::over(tcp(&near))), who),
        "websocket-tls" => Client::connect(Box::new(Frames::over(tls(&far, &svid))), who),
        other => panic!("no way by {other}"),
    };
    // Whoever adds a listener adds it here.
    let status = server.status();
    let kinds: BTreeSet<_> =
        status["listeners"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    let others = BTreeSet::from(["workload-api", "http"]);
    let ways: Vec<_> = kinds.difference(&others).copied().collect();
    assert_eq!(ways, ["tcp", "tls", "unix", "websocket-loopback", "websocket-tls"]);

    for kind in ways {
        let who = Who { id: kind, ..Who::default() };
        let mut client = open(kind, &who).ok().unwrap();
        assert_eq!(client.subscribe("a/b"), ReasonCode::Success, "{kind}");
        for filter in ["a/c", "a/#", "#", "$share/g/#"] {
            assert_eq!(client.subscribe(filter), ReasonCode::NotAuthorized, "{kind} {filter}");
        }
        assert_eq!(client.publish_with_echo("a/b", "x"), ReasonCode::Success, "{kind}");
        assert_eq!(client.publish("a/c", "x"), ReasonCode::NotAuthorized, "{kind}");
        client.leave();
        for (will, refused) in [
            ("a/c", Some(ReasonCode::NotAuthorized)),
            ("$SYS/x", Some(ReasonCode::NotAuthorized)),
            ("a/b", None),
        ] {
            assert_eq!(open(kind, &Who { will: Some(will), ..who }).err(), refused, "{kind} {will}");
        }
        // Nobody becomes another by the user name.
        let other = format!("{BOX}/app/other");
        let named = open(kind, &Who { user_name: Some(&other), ..who });
        assert!(named.is_err() || kind.ends_with("tls"), "{kind}");
    }
}
