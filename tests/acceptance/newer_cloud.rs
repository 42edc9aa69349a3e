//! A cloud that hands out what this version of a box cannot read: its store is edited as a newer one would write it.

use crate::client::{Client, Who};
use crate::support::{BOX, Place, Server, eventually, own_uid};
use midge_store::{Batch, Durability, Store, StoreInfo};
use mqtt_proto::ReasonCode;
use serde_json::{Value, json};

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

    /// Stops both, edits the records of the cloud whose key ends like this, and starts both.
    fn edit(self, key: &str, edit: impl Fn(&mut Value)) -> Self {
        let Self { place, mut cloud, mut edge } = self;
        edge.stop();
        cloud.stop();
        let store =
            Store::open(place.path("cloud/midge.db"), &StoreInfo::new("cloud", "plant.example")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let records = store.scan("").await.unwrap();
            let found = records.into_iter().filter(|(name, _)| name.ends_with(key));
            let mut batch = Batch::new();
            for (name, value) in found {
                let mut value: Value = serde_json::from_slice(&value).unwrap();
                edit(&mut value);
                batch = batch.put(name, value.to_string());
            }
            assert!(!batch.is_empty(), "{key}");
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

    let stage = stage.edit("/no-set", |rule| {
        // In the log of the node it stands beside its revision.
        if rule["name"] == "no-set" {
            rule["during"] = json!("night");
        }
    });
    stage.degraded(&["no-set", "during", "update this box"]);
    stage.answers("line/1/x", ReasonCode::NoMatchingSubscribers);
    assert_eq!(stage.client().publish("line/1/setpoint", "x"), ReasonCode::NotAuthorized);

    stage.rules(DENY);
    stage.degraded(&[]);
    stage.cloud.run(&["rule", "delete", "no-set"]).ok();
    stage.answers("line/1/setpoint", ReasonCode::NoMatchingSubscribers);
}
