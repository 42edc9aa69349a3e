//! What the policy that ships lets each of a box's identities do, and what not.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_identity::SpiffeId;
use midge_policy::{DEFAULT_POLICY, Policy, PublishFacts, Rights, Rule, SubscribeMode};
use mqtt_proto::{QoS, SharedFilter, TopicName};
use std::sync::Arc;

fn rights(path: &str) -> Arc<Rights> {
    let policy = Policy::from_toml_str(DEFAULT_POLICY, "default.toml").unwrap();
    policy.rights(&SpiffeId::new(format!("spiffe://plant.example/edge/box-1{path}")).unwrap())
}

fn publishes(rights: &Rights, topic: &str) -> bool {
    let facts =
        PublishFacts { qos: QoS::AtLeastOnce, retain: false, payload_len: 4096, ..PublishFacts::default() };
    rights.publish(&TopicName::new(topic).unwrap(), facts).is_ok()
}

fn subscribes(rights: &Rights, filter: &str) -> bool {
    rights.subscribe(&SharedFilter::new(filter).unwrap(), QoS::AtLeastOnce, SubscribeMode::Reject).is_ok()
}

/// The topics of reference KubeEdge mappers, `<id>` being the device.
const FROM_MAPPER: [&str; 3] = ["state/update", "twin/get", "twin/update"];
const TO_MAPPER: [&str; 6] = [
    "state/update/result",
    "twin/get/result",
    "twin/update/result",
    "twin/update/delta",
    "twin/update/document",
    "updated",
];

#[test]
fn a_mapper_speaks_for_its_own_device_in_both_topic_forms() {
    let led = rights("/mapper/led");
    for device in ["led", "default/led"] {
        for tail in FROM_MAPPER {
            assert!(publishes(&led, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
        for tail in TO_MAPPER {
            assert!(subscribes(&led, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
        assert!(subscribes(&led, &format!("$hw/events/device/{device}/twin/+/result")));
        assert!(publishes(&led, &format!("$ke/events/device/{device}/data/update")));
    }
    for device in ["pump", "default/pump", "plant/led", "+"] {
        for tail in TO_MAPPER {
            assert!(!subscribes(&led, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
    }
    for device in ["pump", "default/pump", "plant/led"] {
        for tail in FROM_MAPPER {
            assert!(!publishes(&led, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
    }
}

#[test]
fn a_mapper_of_a_namespace_speaks_for_that_namespace_alone() {
    let led = rights("/mapper/plant/led");
    assert!(publishes(&led, "$hw/events/device/plant/led/twin/update"));
    assert!(subscribes(&led, "$hw/events/device/plant/led/twin/update/delta"));
    for device in ["led", "default/led", "other/led", "plant/pump", "plant"] {
        assert!(!publishes(&led, &format!("$hw/events/device/{device}/twin/update")), "{device}");
    }
}

#[test]
fn a_mapper_answers_no_one_and_reads_no_other() {
    let led = rights("/mapper/led");
    for tail in TO_MAPPER {
        assert!(!publishes(&led, &format!("$hw/events/device/led/{tail}")), "{tail}");
    }
    for filter in
        ["#", "+/#", "$hw/#", "$hw/events/#", "$hw/events/device/#", "$hw/events/device/led/#", "$SYS/#"]
    {
        assert!(!subscribes(&led, filter), "{filter}");
        assert!(!subscribes(&led, &format!("$share/g/{filter}")), "{filter}");
    }
    assert!(subscribes(&led, "$hw/events/node/box-1/membership/get/result"));
    assert!(subscribes(&led, "$hw/events/node/box-1/membership/updated"));
    assert!(publishes(&led, "$hw/events/node/box-1/membership/get"));
    assert!(!publishes(&led, "$hw/events/node/box-2/membership/get"));
    assert!(!publishes(&led, "$hw/events/node/box-1/membership/updated"));
    assert!(!subscribes(&led, "$hw/events/node/+/membership/updated"));
}

#[test]
fn a_mapper_keeps_no_message_and_uses_qos_1_at_most() {
    let led = rights("/mapper/led");
    let topic = TopicName::new("$hw/events/device/led/twin/update").unwrap();
    let fits =
        PublishFacts { qos: QoS::AtLeastOnce, retain: false, payload_len: 262_144, response_topic: None };
    assert!(led.publish(&topic, fits).is_ok() && led.will(&topic, fits).is_ok());
    assert!(led.publish(&topic, PublishFacts { retain: true, ..fits }).is_err());
    assert!(led.publish(&topic, PublishFacts { qos: QoS::ExactlyOnce, ..fits }).is_err());
    assert!(led.publish(&topic, PublishFacts { payload_len: 262_145, ..fits }).is_err());
}

#[test]
fn the_event_bus_hears_all_devices_and_answers_them() {
    let bus = rights("/event-bus");
    for filter in [
        "$hw/events/upload/#",
        "$hw/events/device/+/state/update",
        "$hw/events/device/+/twin/+",
        "$hw/events/device/+/+/state/update",
        "$hw/events/device/+/+/twin/+",
        "$hw/events/node/+/membership/get",
        "SYS/dis/upload_records",
        "+/user/#",
    ] {
        assert!(subscribes(&bus, filter), "{filter}");
    }
    for device in ["led", "default/led"] {
        for tail in TO_MAPPER {
            assert!(publishes(&bus, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
        for tail in FROM_MAPPER {
            assert!(!publishes(&bus, &format!("$hw/events/device/{device}/{tail}")), "{device} {tail}");
        }
    }
    assert!(publishes(&bus, "$hw/events/node/box-1/membership/get/result"));
    assert!(publishes(&bus, "$hw/events/node/box-1/membership/updated"));
    assert!(!publishes(&bus, "$hw/events/node/box-2/membership/updated"));
    assert!(!subscribes(&bus, "#") && !subscribes(&bus, "$SYS/#") && !publishes(&bus, "app/user/x"));
}

#[test]
fn nobody_forges_a_message_from_the_cloud_whatever_is_granted() {
    let app = SpiffeId::new("spiffe://plant.example/edge/box-1/app/sly").unwrap();
    let mut rules = Rule::from_toml_str(DEFAULT_POLICY, "default.toml").unwrap();
    rules.push(Rule::grant("e1", &app, &["$hw/events/device/#".to_owned()], &[]));
    let granted = Policy::compile(rules, 1).unwrap().rights(&app);
    assert!(publishes(&granted, "$hw/events/device/led/twin/update"));
    for rights in [granted, rights("/event-bus"), rights("/mapper/led"), rights("")] {
        for device in ["led", "default/led"] {
            let topic = format!("$hw/events/device/{device}/twin/cloud_updated");
            let denial =
                rights.publish(&TopicName::new(&topic).unwrap(), PublishFacts::default()).unwrap_err();
            let text = denial.to_string();
            assert!(text.starts_with("rule `no-forged-cloud-sync` (default.toml:"), "{text}");
        }
    }
}

#[test]
fn nobody_forges_the_audit_stream_and_who_is_granted_it_reads_it() {
    let app = SpiffeId::new("spiffe://plant.example/edge/box-1/app/desk").unwrap();
    let mut rules = Rule::from_toml_str(DEFAULT_POLICY, "default.toml").unwrap();
    let everything = ["$identity/#".to_owned()];
    rules.push(Rule::grant("e1", &app, &everything, &["$identity/audit/#".to_owned()]));
    let granted = Policy::compile(rules, 1).unwrap().rights(&app);
    assert!(subscribes(&granted, "$identity/audit/#") && publishes(&granted, "$identity/other"));
    assert!(!publishes(&granted, "$identity/audit/connected"));
    assert!(!subscribes(&rights("/app/desk"), "$identity/audit/#"));
}

#[test]
fn app_broker_and_box_have_nothing_of_their_own() {
    for path in ["", "/broker", "/app/pump", "/agent/host", "/event-bus/x"] {
        let rights = rights(path);
        for topic in ["pump/user/x", "$hw/events/device/led/twin/get", "$SYS/x", "SYS/dis/upload_records"] {
            assert!(!publishes(&rights, topic) && !subscribes(&rights, topic), "{path} {topic}");
        }
    }
}
