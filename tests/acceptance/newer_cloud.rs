//! A cloud that hands out what this version of a box cannot read: its store is edited as a newer one would write it.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Server, eventually, own_uid};
use midge_store::{Batch, Durability, Store, StoreInfo};
use mqtt_proto::ReasonCode;
use serde_json::{Value, json};

/// End of the keys of records, and what is done to them.
type Edit<'a> = (&'a str, &'a dyn Fn(&mut Value));

struct Stage {
    place: Place,
    cloud: Server,
    edge: Server,
}

fn started(place: &Place, token: &str) -> (Server, Server) {
    let cloud = Server::start("cloud", &place.text("cloud.toml"), &place.path("cloud/run/admin.sock"));
    let token = if token.is_empty() {
        let token = cloud.run(&["token", "generate", "-spiffeID", BOX]).ok().json();
        place.write_private("token", token["token"].as_str().unwrap())
    } else {
        token.to_owned()
    };
    let (bootstrap, channel) = (cloud.address("bootstrap"), cloud.address("channel"));
    let link = format!(
        "[cloud]\nbootstrap = \"https://{bootstrap}\"\nchannel = \"wss://{channel}\"\njoin-token-file = \"{token}\"\n"
    );
    let edge = Server::start("edge", &place.edge("edge", "", "", &link), &place.path("edge/run/admin.sock"));
    (cloud, edge)
}

impl Stage {
    fn new() -> Self {
        let place = Place::new();
        place.cloud("cloud", "plant.example");
        let (cloud, edge) = started(&place, "");
        Self { place, cloud, edge }
    }

    /// Stops both, edits the records of the cloud whose key ends with one of these, and starts both.
    fn edit(self, edits: &[Edit<'_>]) -> Self {
        let Self { place, mut cloud, mut edge } = self;
        edge.stop();
        cloud.stop();
        let store =
            Store::open(place.path("cloud/midge.db"), &StoreInfo::new("cloud", "plant.example")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let records = store.scan("").await.unwrap();
            let mut batch = Batch::new();
            for (key, edit) in edits {
                let found: Vec<_> = records.iter().filter(|(name, _)| name.ends_with(key)).collect();
                assert!(!found.is_empty(), "{key}");
                for (name, value) in found {
                    let mut value: Value = serde_json::from_slice(value).unwrap();
                    edit(&mut value);
                    batch = batch.put(name.clone(), value.to_string());
                }
            }
            store.commit(batch, Durability::PowerLoss).await.unwrap();
            store.close().await.unwrap();
        });
        let (cloud, edge) = started(&place, &place.text("token"));
        Self { place, cloud, edge }
    }

    fn rules(&self, text: &str) {
        let file = self.place.write("rules.toml", text);
        self.cloud.run(&["rule", "apply", &file]).ok();
    }

    /// Waits until the box tells of a trouble with all of these words, or of none.
    fn degraded(&self, words: &[&str]) {
        eventually("told", || {
            let status = self.edge.status();
            let problems = status["degraded"].as_array().cloned().unwrap_or_default();
            let text = problems.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
            let is_told = if words.is_empty() {
                problems.is_empty()
            } else {
                words.iter().all(|word| text.contains(word))
            };
            if is_told && status["cloud"]["connected"] == true { Ok(()) } else { Err(status.to_string()) }
        });
    }

    fn client(&self) -> Client {
        eventually("in", || {
            let client = Client::tcp(&self.edge.address("tcp"), &Who { id: "me", ..Who::default() });
            client.map_err(|reason| format!("{reason:?}"))
        })
    }

    /// Waits until a message to a topic is answered like this.
    fn answers(&self, topic: &str, reason: ReasonCode) {
        let mut client = self.client();
        eventually("answered", || {
            let given = client.publish(topic, "x");
            if given == reason { Ok(()) } else { Err(format!("{given:?}")) }
        });
    }
}

const ALLOW: &str = "[[rule]]\nname = \"line\"\nid = \"spiffe://{td}/**\"\npublish = [\"line/#\"]\n";
const DENY: &str =
    "[[rule]]\nname = \"no-set\"\nid = \"spiffe://{td}/**\"\ndeny-publish = [\"line/+/setpoint\"]\n";

#[test]
fn a_deny_of_the_cloud_that_cannot_be_read_any_more_stays_a_deny() {
    let stage = Stage::new();
    stage.edge.entry("me", &own_uid(), &[]);
    stage.rules(&format!("{ALLOW}{DENY}"));
    stage.answers("line/1/x", ReasonCode::NoMatchingSubscribers);
    stage.answers("line/1/setpoint", ReasonCode::NotAuthorized);

    // What is in the log of the node, where it stands beside its revision, follows by itself.
    let newer = |rule: &mut Value| {
        if rule["name"] == "no-set" {
            rule["during"] = json!("night");
        }
    };
    let stage = stage.edit(&[("/no-set", &newer)]);
    stage.degraded(&["no-set", "during", "update this box"]);
    stage.answers("line/1/x", ReasonCode::NoMatchingSubscribers);
    assert_eq!(stage.client().publish("line/1/setpoint", "x"), ReasonCode::NotAuthorized);

    stage.rules(DENY);
    stage.degraded(&[]);
    stage.cloud.run(&["rule", "delete", "no-set"]).ok();
    stage.answers("line/1/setpoint", ReasonCode::NoMatchingSubscribers);
}

#[test]
fn an_entry_that_cannot_be_read_is_told_and_taken_once_it_can() {
    let stage = Stage::new();
    for name in ["me", "other"] {
        let (id, grant) = (format!("{BOX}/app/{name}"), format!("of/{name}"));
        let selector = own_uid();
        let entry = ["entry", "create", "-newEntryID", name, "-spiffeID", &id, "-parentID", BOX];
        let rest = ["-selector", &selector, "-hint", name, "-publish", &grant];
        stage.cloud.run(&[&entry[..], &rest].concat()).ok();
    }
    stage.answers("of/me", ReasonCode::NoMatchingSubscribers);

    // A newer cloud has taken the grant away, and says something else about the entry too.
    let newer = |change: &mut Value| {
        change["content"]["publish"] = json!(["of/nobody"]);
        change["content"]["during"] = json!("night");
    };
    let another_log = |head: &mut Value| head["id"] = json!("another");
    let stage = stage.edit(&[("live/identity/entry/me", &newer), ("synchead/box-1/log", &another_log)]);
    stage.degraded(&["entry me from the cloud is refused", "during", "update this box"]);
    stage.answers("of/me", ReasonCode::NoMatchingSubscribers);

    // The same once more, in the same log and at the same revision, for a version that can read it.
    let readable = |change: &mut Value| drop(change["content"].as_object_mut().unwrap().remove("during"));
    let stage = stage.edit(&[("live/identity/entry/me", &readable)]);
    stage.degraded(&[]);
    stage.answers("of/me", ReasonCode::NotAuthorized);
    stage.answers("of/nobody", ReasonCode::NoMatchingSubscribers);
    assert_eq!(stage.edge.entries(), 2);
}
