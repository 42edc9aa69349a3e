//! The payloads that the event bus publishes.

use super::document::{Device, MsgTwin};
use super::merge::Twin;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// `event_id` and `timestamp` of every payload.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Stamp {
    pub(super) event_id: String,
    pub(super) timestamp: i64,
}

#[derive(Serialize)]
struct ErrorResult<'a> {
    #[serde(flatten)]
    stamp: &'a Stamp,
    code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

#[derive(Serialize)]
struct TwinResult<'a> {
    #[serde(flatten)]
    stamp: &'a Stamp,
    twin: BTreeMap<&'a str, Option<MsgTwin>>,
}

#[derive(Serialize)]
struct TwinDelta<'a> {
    #[serde(flatten)]
    stamp: &'a Stamp,
    twin: BTreeMap<&'a str, MsgTwin>,
    delta: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct TwinDocument<'a> {
    #[serde(flatten)]
    stamp: &'a Stamp,
    twin: BTreeMap<&'a str, LastAndCurrent>,
}

#[derive(Serialize)]
struct LastAndCurrent {
    last: Option<MsgTwin>,
    current: Option<MsgTwin>,
}

// Plain data with text keys: encoding it cannot fail.
fn json_of<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn error(stamp: &Stamp, code: u16, reason: &str) -> String {
    json_of(&ErrorResult { stamp, code, reason })
}

/// The whole twin.
pub(super) fn twin(stamp: &Stamp, twin: &Twin) -> String {
    let twin = twin.iter().map(|(key, value)| (key.as_str(), Some(value.shown()))).collect();
    json_of(&TwinResult { stamp, twin })
}

/// The touched keys; deleted ones are null.
pub(super) fn touched<'a>(stamp: &Stamp, twin: &Twin, keys: impl Iterator<Item = &'a String>) -> String {
    let twin = keys.map(|key| (key.as_str(), twin.get(key).map(MsgTwin::shown))).collect();
    json_of(&TwinResult { stamp, twin })
}

pub(super) fn delta(stamp: &Stamp, device: &Device) -> Option<String> {
    let delta = device.delta();
    if delta.is_empty() {
        return None;
    }
    let twin = device.twin.iter().map(|(key, value)| (key.as_str(), value.shown())).collect();
    Some(json_of(&TwinDelta { stamp, twin, delta }))
}

/// The keys that differ, before and after.
pub(super) fn document(stamp: &Stamp, last: &Twin, current: &Twin) -> String {
    let keys: BTreeSet<&String> = last.keys().chain(current.keys()).collect();
    let differ = keys.into_iter().filter(|key| last.get(*key) != current.get(*key));
    let state = |twin: &Twin, key: &String| twin.get(key).map(MsgTwin::shown);
    let pair = |key: &String| LastAndCurrent { last: state(last, key), current: state(current, key) };
    json_of(&TwinDocument { stamp, twin: differ.map(|key| (key.as_str(), pair(key))).collect() })
}

/// The twin as it goes up to the cloud.
pub(super) fn twin_report(stamp: &Stamp, twin: &Twin) -> Value {
    json!({ "event_id": stamp.event_id, "timestamp": stamp.timestamp, "twin": twin })
}

/// The state, as it goes up and as the mapper is answered.
pub(super) fn state(stamp: &Stamp, device: &Device) -> Value {
    let mut shown = json!({ "name": device.id.name(), "state": device.state });
    if !device.last_online.is_empty()
        && let Some(fields) = shown.as_object_mut()
    {
        fields.insert("lastOnlineTime".into(), device.last_online.clone().into());
    }
    json!({ "event_id": stamp.event_id, "timestamp": stamp.timestamp, "device": shown })
}

pub(super) fn attributes(stamp: &Stamp, device: &Device) -> String {
    json!({ "event_id": stamp.event_id, "timestamp": stamp.timestamp, "attributes": device.attributes })
        .to_string()
}

pub(super) fn membership<'a>(stamp: &Stamp, devices: impl Iterator<Item = &'a Device>) -> String {
    let devices: Vec<Value> = devices.map(member).collect();
    json!({ "event_id": stamp.event_id, "timestamp": stamp.timestamp, "devices": devices }).to_string()
}

pub(super) fn membership_updated(stamp: &Stamp, added: &[&Device], removed: &[&Device]) -> String {
    let list = |devices: &[&Device]| match devices {
        [] => Value::Null,
        devices => devices.iter().map(|device| member(device)).collect(),
    };
    json!({
        "event_id": stamp.event_id, "timestamp": stamp.timestamp,
        "added_devices": list(added), "removed_devices": list(removed),
    })
    .to_string()
}

fn member(device: &Device) -> Value {
    json!({
        "id": device.id, "name": device.id.name(), "description": device.description,
        "state": device.state, "last_online": device.last_online, "attributes": device.attributes,
    })
}
