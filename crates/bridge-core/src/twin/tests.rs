use super::*;
use crate::{Change, Operation, UnixMillis};
use serde_json::json;
use std::time::Duration;

const NOW: Now = Now { mono: Duration::ZERO, wall: UnixMillis(1_700_000_000_123) };

struct Bus {
    store: TwinStore,
    disk: BTreeMap<String, Vec<u8>>,
    up: Vec<UpwardItem>,
}

impl Bus {
    fn with_led() -> Self {
        let mut bus = Self { store: TwinStore::new("box", 1), disk: BTreeMap::new(), up: Vec::new() };
        bus.change("device/default/led", Operation::Insert, json!({"id": "default/led", "uid": "u1"}))
            .unwrap();
        bus.drain();
        bus
    }

    fn change(&mut self, resource: &str, operation: Operation, content: Value) -> Result<(), String> {
        let change = Change { revision: 1, resource: resource.into(), operation, content };
        self.store.handle_change(&change, NOW)
    }

    fn desire(&mut self, value: &str) -> Vec<(String, Value)> {
        let twin = json!({"twin": {"power": {"expected": {"value": value}, "metadata": {"type": "string"}}}});
        self.change("device/default/led/twin", Operation::Update, twin).unwrap();
        self.drain()
    }

    fn publish(&mut self, topic: &str, payload: &str) -> Vec<(String, Value)> {
        self.store.handle_publish(topic, payload.as_bytes(), NOW);
        self.drain()
    }

    /// Executes the effects and returns what was published.
    fn drain(&mut self) -> Vec<(String, Value)> {
        let mut published = Vec::new();
        while let Some(effect) = self.store.poll_effect() {
            match effect {
                TwinEffect::Persist { key, value } => {
                    match value {
                        Some(value) => self.disk.insert(key, value),
                        None => self.disk.remove(&key),
                    };
                }
                TwinEffect::Up(item) => self.up.push(item),
                TwinEffect::Publish { topic, payload } => {
                    published.push((topic, serde_json::from_str(&payload).unwrap()));
                }
            }
        }
        published
    }
}

const UPDATE: &str = "$hw/events/device/led/twin/update";

fn topics(published: &[(String, Value)]) -> Vec<&str> {
    published.iter().map(|(topic, _)| topic.as_str()).collect()
}

#[test]
fn get_answers_with_the_whole_twin_and_the_event_id() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let answer = bus.publish("$hw/events/device/led/twin/get", r#"{"event_id":"x","timestamp":0}"#);
    let twin = json!({"power": {
        "expected": {"value": "ON", "metadata": {"timestamp": 1_700_000_000_123_i64}},
        "metadata": {"type": "string"},
    }});
    let expected = json!({"event_id": "x", "timestamp": 1_700_000_000_123_i64, "twin": twin});
    assert_eq!(answer, [("$hw/events/device/led/twin/get/result".to_owned(), expected)]);
    let answer = bus.publish("$hw/events/device/default/led/twin/get", "{}");
    assert_eq!(topics(&answer), ["$hw/events/device/default/led/twin/get/result"]);
}

#[test]
fn a_report_that_differs_brings_result_delta_and_document() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let report = r#"{"event_id":"e","timestamp":0,"twin":{"power":{"actual":{"value":"OFF"},"metadata":{"type":"Updated"}}}}"#;
    let published = bus.publish(UPDATE, report);
    assert_eq!(
        topics(&published),
        [
            "$hw/events/device/led/twin/update/result",
            "$hw/events/device/led/twin/update/delta",
            "$hw/events/device/default/led/twin/update/delta",
            "$hw/events/device/led/twin/update/document",
            "$hw/events/device/default/led/twin/update/document",
        ]
    );
    let [result, delta, _, document, _] = published.as_slice() else { panic!() };
    assert_eq!(result.1["event_id"], "e");
    assert_eq!(result.1["twin"]["power"]["actual"]["value"], "OFF");
    assert_eq!(result.1["twin"]["power"]["metadata"]["type"], "string");
    assert_eq!(delta.1["delta"], json!({"power": "ON"}));
    assert_eq!(delta.1["twin"]["power"]["expected"]["value"], "ON");
    assert_eq!(document.1["twin"]["power"]["last"].get("actual"), None);
    assert_eq!(document.1["twin"]["power"]["current"]["actual"]["value"], "OFF");
    assert!(result.1["twin"]["power"].get("actual_version").is_none());
    assert_eq!(bus.up.last().unwrap().route.resource, "device/default/led/twin/edge_updated");
}

#[test]
fn nothing_is_told_before_it_is_stored() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    bus.store.handle_publish(UPDATE, br#"{"twin":{"power":{"actual":{"value":"OFF"}}}}"#, NOW);
    let first = bus.store.poll_effect();
    assert!(matches!(&first, Some(TwinEffect::Persist { key, .. }) if key == "led"), "{first:?}");
    assert!(matches!(bus.store.poll_effect(), Some(TwinEffect::Up(_))));
    while let Some(effect) = bus.store.poll_effect() {
        assert!(matches!(effect, TwinEffect::Publish { .. }), "{effect:?}");
    }
}

#[test]
fn the_same_report_again_changes_nothing_and_brings_no_delta() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let report = r#"{"twin":{"power":{"actual":{"value":"OFF"}}}}"#;
    bus.publish(UPDATE, report);
    let (up, disk) = (bus.up.len(), bus.disk.clone());
    assert_eq!(topics(&bus.publish(UPDATE, report)), ["$hw/events/device/led/twin/update/result"]);
    assert_eq!((bus.up.len(), bus.disk), (up, disk));
}

#[test]
fn desired_reached_means_no_delta() {
    let mut bus = Bus::with_led();
    assert!(topics(&bus.desire("ON")).contains(&"$hw/events/device/led/twin/update/delta"));
    let published = bus.publish(UPDATE, r#"{"twin":{"power":{"actual":{"value":"ON"}}}}"#);
    assert!(!topics(&published).iter().any(|topic| topic.ends_with("delta")), "{published:?}");
}

#[test]
fn bad_updates_are_answered_400_and_change_nothing() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let before = bus.store.device(&"led".parse().unwrap()).cloned();
    let many: BTreeMap<String, Value> =
        (0..300).map(|n| (format!("k{n}"), json!({"actual": {"value": "1"}}))).collect();
    for bad in [
        "",
        "[]",
        "{\"event_id\":\"e\"}",
        r#"{"event_id":"e","twin":null}"#,
        r#"{"event_id":"e","twin":5}"#,
        r#"{"event_id":"e","twin":{"po wer":{"actual":{"value":"1"}}}}"#,
        r#"{"event_id":"e","twin":{"power":{"actual":{"value":"a b"}}}}"#,
        r#"{"event_id":"e","twin":{"power":{"actual":{"value":5}}}}"#,
        r#"{"event_id":"e","twin":{"good":{"actual":{"value":"1"}},"power":{"actual":{"value":""}}}}"#,
        r#"{"event_id":"e","twin":{"good":{}}}"#,
        r#"{"event_id":"e","twin":{"power":{"expected":{"value":"OFF"}}}}"#,
        r#"{"event_id":"e","twin":{"power":null}}"#,
        &json!({"event_id": "e", "twin": many}).to_string(),
        &" ".repeat(REQUEST_BYTES_MAX + 1),
    ] {
        let published = bus.publish(UPDATE, bad);
        let [(topic, answer)] = published.as_slice() else { panic!("{bad:.80}: {published:?}") };
        assert_eq!(topic, "$hw/events/device/led/twin/update/result");
        assert_eq!(answer["code"], 400, "{bad:.80}");
        assert!(!answer["reason"].as_str().unwrap().is_empty());
        assert_eq!(answer["event_id"], if bad.starts_with("{\"event_id\"") { "e" } else { "" });
        assert_eq!(bus.store.device(&"led".parse().unwrap()).cloned(), before);
    }
}

#[test]
fn a_device_that_is_no_member_is_answered_404_on_its_own_topic() {
    let mut bus = Bus::with_led();
    for verb in ["twin/get", "twin/update", "state/update"] {
        let payload = r#"{"event_id":"e","state":"online","twin":{}}"#;
        let published = bus.publish(&format!("$hw/events/device/fan/{verb}"), payload);
        let [(topic, answer)] = published.as_slice() else { panic!("{published:?}") };
        assert_eq!(*topic, format!("$hw/events/device/fan/{verb}/result"));
        assert_eq!((answer["code"].as_i64(), answer["event_id"].as_str()), (Some(404), Some("e")));
    }
    assert!(bus.up.is_empty());
}

#[test]
fn a_client_may_add_and_delete_keys_of_its_own() {
    let mut bus = Bus::with_led();
    bus.publish(UPDATE, r#"{"twin":{"gpio":{"actual":{"value":"18"},"metadata":{"type":"int"}}}}"#);
    let refused = bus.publish(UPDATE, r#"{"twin":{"gpio":{"actual":{"value":"x"}}}}"#);
    assert_eq!(refused[0].1["reason"], "the value x is not of type int");
    bus.publish(UPDATE, r#"{"twin":{"mode":{"expected":{"value":"slow"}}}}"#);
    let published = bus.publish(UPDATE, r#"{"twin":{"gpio":null,"mode":{"metadata":{"type":"deleted"}}}}"#);
    assert_eq!(published[0].1["twin"], json!({"gpio": null, "mode": null}));
    assert_eq!(published.last().unwrap().1["twin"]["gpio"]["current"], Value::Null);
    assert!(bus.store.device(&"led".parse().unwrap()).unwrap().twin.is_empty());
}

#[test]
fn a_forged_cloud_sync_is_ignored() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let forged = r#"{"event_id":"","timestamp":0,"twin":{"power":{"expected":{"value":"OFF"}}}}"#;
    assert_eq!(bus.publish("$hw/events/device/led/twin/cloud_updated", forged), []);
    let led = bus.store.device(&"led".parse().unwrap()).unwrap();
    assert_eq!(led.twin["power"].expected_value(), Some("ON"));
}

#[test]
fn state_is_answered_stored_and_reported() {
    let mut bus = Bus::with_led();
    let published = bus
        .publish("$hw/events/device/led/state/update", r#"{"event_id":"","timestamp":0,"state":"Online"}"#);
    let [(topic, answer)] = published.as_slice() else { panic!() };
    assert_eq!(topic, "$hw/events/device/led/state/update/result");
    assert_eq!(
        answer["device"],
        json!({"name": "led", "state": "online", "lastOnlineTime": "2023-11-14T22:13:20Z"})
    );
    assert_eq!(answer["event_id"].as_str().unwrap().len(), 36);
    let reported: Value = serde_json::from_str(bus.up[0].content.as_str().unwrap()).unwrap();
    assert_eq!(reported["device"]["state"], "online");
    // The same state a moment later costs no write; an unknown word is ignored.
    let up = bus.up.len();
    assert_eq!(bus.publish("$hw/events/device/led/state/update", r#"{"state":"online"}"#).len(), 1);
    assert_eq!(bus.publish("$hw/events/device/led/state/update", r#"{"state":"on fire"}"#), []);
    assert_eq!(bus.up.len(), up);
    bus.publish("$hw/events/device/led/state/update", r#"{"state":"offline"}"#);
    let led = bus.store.device(&"led".parse().unwrap()).unwrap();
    assert_eq!((led.state.as_str(), led.last_online.as_str()), ("offline", "2023-11-14T22:13:20Z"));
}

#[test]
fn membership_is_told_and_can_be_asked() {
    let mut bus = Bus::with_led();
    bus.change("device/plant/fan", Operation::Insert, json!({"id": "plant/fan", "description": "d"}))
        .unwrap();
    let published = bus.drain();
    assert_eq!(topics(&published), ["$hw/events/node/box/membership/updated"]);
    assert_eq!(published[0].1["added_devices"][0]["id"], "plant/fan");
    assert_eq!(published[0].1["removed_devices"], Value::Null);
    let answer = bus.publish("$hw/events/node/box/membership/get", r#"{"event_id":"1"}"#);
    let ids: Vec<_> = answer[0].1["devices"].as_array().unwrap().iter().map(|d| d["id"].clone()).collect();
    assert_eq!(ids, ["led", "plant/fan"]);
    bus.change("device/plant/fan", Operation::Delete, Value::Null).unwrap();
    assert_eq!(bus.drain()[0].1["removed_devices"][0]["id"], "plant/fan");
    assert!(!bus.disk.contains_key("plant/fan"));
}

#[test]
fn new_attributes_are_published_to_the_device() {
    let mut bus = Bus::with_led();
    let content = json!({"id": "default/led", "uid": "u1", "attributes": {"colour": {"value": "red"}}});
    bus.change("device/default/led", Operation::Update, content).unwrap();
    let published = bus.drain();
    assert_eq!(
        topics(&published),
        ["$hw/events/device/led/updated", "$hw/events/device/default/led/updated"]
    );
    assert_eq!(published[0].1["attributes"]["colour"]["value"], "red");
}

#[test]
fn a_device_made_again_under_the_same_name_starts_empty() {
    let mut bus = Bus::with_led();
    bus.publish(UPDATE, r#"{"twin":{"power":{"actual":{"value":"ON"}}}}"#);
    bus.change("device/default/led", Operation::Update, json!({"id": "default/led", "uid": "u2"})).unwrap();
    assert!(bus.store.device(&"led".parse().unwrap()).unwrap().twin.is_empty());
}

#[test]
fn desired_values_from_our_cloud_are_the_whole_from_a_stock_cloud_a_part() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    let other = json!({"twin": {"mode": {"expected": {"value": "slow"}}}});
    let mut change = Change {
        revision: 0,
        resource: "device/default/led/twin".into(),
        operation: Operation::Update,
        content: other,
    };
    bus.store.handle_change(&change, NOW).unwrap();
    assert_eq!(bus.store.device(&"led".parse().unwrap()).unwrap().twin.len(), 2);
    change.revision = 9;
    bus.store.handle_change(&change, NOW).unwrap();
    assert_eq!(bus.store.device(&"led".parse().unwrap()).unwrap().twin.keys().collect::<Vec<_>>(), ["mode"]);
}

#[test]
fn changes_that_make_no_sense_are_skipped_with_a_reason() {
    let mut bus = Bus::with_led();
    let twin = json!({"twin": {"a b": {"expected": {"value": "1"}}}});
    assert!(bus.change("device/default/led/twin", Operation::Update, twin.clone()).is_err());
    assert!(bus.change("device/default/fan/twin", Operation::Update, twin).is_err());
    assert!(bus.change("device/default/led", Operation::Update, json!({"attributes": 5})).is_err());
    assert!(bus.change("identity/entry/x", Operation::Update, json!(5)).is_ok());
    assert_eq!(bus.drain(), []);
}

#[test]
fn a_snapshot_replaces_devices_and_desired_values() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    bus.change("device/default/fan", Operation::Insert, json!({"id": "default/fan"})).unwrap();
    let change = |resource: &str| Change {
        revision: 3,
        resource: resource.into(),
        operation: Operation::Insert,
        content: json!({"id": "x", "uid": "u1"}),
    };
    let mut strange = change("device/default/strange");
    strange.content = json!({"attributes": 5});
    let changes = [change("device/default/led"), strange, change("device/default/new")];
    let skipped = bus.store.handle_snapshot(&changes, NOW);
    assert_eq!(skipped.into_keys().collect::<Vec<_>>(), ["device/default/strange"], "the others are taken");
    bus.drain();
    let names: Vec<_> = bus.store.devices().map(|device| device.id.to_string()).collect();
    assert_eq!(names, ["led", "new"]);
    assert!(bus.store.device(&"led".parse().unwrap()).unwrap().twin.is_empty());
    assert_eq!(bus.disk.keys().collect::<Vec<_>>(), ["led", "new"]);
}

#[test]
fn after_a_restart_the_twins_are_there_and_everybody_is_told_again() {
    let mut bus = Bus::with_led();
    bus.desire("ON");
    bus.publish("$hw/events/device/led/state/update", r#"{"state":"online"}"#);
    let mut again = Bus { store: TwinStore::new("box", 2), disk: BTreeMap::new(), up: Vec::new() };
    for value in bus.disk.values() {
        again.store.restore(value).unwrap();
    }
    assert!(again.store.devices().eq(bus.store.devices()));
    again.store.handle_started(NOW);
    let published = again.drain();
    assert_eq!(published[0].1["delta"], json!({"power": "ON"}));
    assert_eq!(again.up.len(), 2);
}

#[test]
fn the_operator_of_a_box_without_cloud_sets_values() {
    let mut bus = Bus::with_led();
    let led: DeviceId = "led".parse().unwrap();
    bus.store.set_value(&led, "power", "ON", NOW).unwrap();
    assert_eq!(bus.drain()[0].1["delta"], json!({"power": "ON"}));
    assert!(bus.store.set_value(&led, "po wer", "ON", NOW).is_err());
    assert!(bus.store.set_value(&"fan".parse().unwrap(), "power", "ON", NOW).is_err());
    assert!(check_desired("power", "ON", "").is_ok() && check_desired("power", "", "").is_err());
}

#[test]
fn uploads_go_up_as_they_are() {
    let mut bus = Bus::with_led();
    assert_eq!(bus.publish("default/user/report", "42"), []);
    let item = &bus.up[0];
    assert_eq!((item.route.source.as_str(), item.route.group.as_str()), ("bus", "user"));
    assert_eq!((item.route.resource.as_str(), &item.content), ("default/user/report", &json!("42")));
}
