//! Flaw classes whose outcome the transport decides; the others are scenarios of the broker's core.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Server, own_uid, run_midge};
use mqtt_proto::ReasonCode;

/// F28: the same identity, the same answers, on each listener and by whatever it was proven.
#[test]
fn f28_every_listener_asks_for_the_same_rights() {
    let place = Place::new();
    let unix = place.text("mqtt.sock");
    let mqtt = format!("tls = \"127.0.0.1:0\"\ntcp = \"127.0.0.1:0\"\nunix = \"{unix}\"");
    let config = place.edge("data", "", &mqtt, "");
    let server = Server::start("edge", &config, &place.path("data/run/admin.sock"));
    server.entry("me", &own_uid(), &["-publish", "a/b", "-subscribe", "a/b"]);
    let who = Who { id: "local", ..Who::default() };
    let second = Who { id: "second", ..who };
    let clients = [Client::tcp(&server.address("tcp"), &who), Client::unix(&unix, &second)];
    for mut client in clients.map(|client| client.ok().unwrap()) {
        assert_eq!(client.subscribe("a/b"), ReasonCode::Success);
        for filter in ["a/c", "a/#", "#", "$share/g/#"] {
            assert_eq!(client.subscribe(filter), ReasonCode::NotAuthorized, "{filter}");
        }
        assert_eq!(client.publish("a/c", "x"), ReasonCode::NotAuthorized);
        client.leave();
    }
    for will in ["a/c", "$SYS/x"] {
        let who = Who { will: Some(will), ..who };
        assert_eq!(Client::tcp(&server.address("tcp"), &who).err(), Some(ReasonCode::NotAuthorized));
        assert_eq!(Client::unix(&unix, &who).err(), Some(ReasonCode::NotAuthorized));
    }
    let (id, svid) = (format!("{BOX}/app/me"), place.text("svid"));
    server.run(&["svid", "mint", "-spiffeID", &id, "--write", &svid]).ok();
    let broker = format!("mqtts://{}", server.address("tls"));
    let tls = |verb: &str, rest: &[&str]| {
        let mut arguments = vec![verb, "--broker", &broker, "--svid", &svid];
        arguments.extend(rest);
        run_midge(&arguments)
    };
    tls("pub", &["-t", "a/b", "-m", "x"]).ok();
    tls("pub", &["-t", "a/c", "-m", "x"]).refused(1, &[]);
    for filter in ["a/c", "a/#", "#", "$share/g/#"] {
        tls("sub", &["-t", filter, "-C", "1"]).refused(1, &[]);
    }
}
