//! Devices of the box: membership, state and twin, as KubeEdge's devicetwin keeps them.
//!
//! Owns what a request over MQTT or a change from above does to a device and who is told. Leaves
//! MQTT, the store and the cloud channel to the shell, which executes the [`TwinEffect`]s in order.
//! Who may ask is decided by the broker's policy on the topic.

mod answer;
mod check;
mod document;
mod membership;
mod merge;
mod rfc3339;
mod topic;

pub use document::{Device, MsgAttr, MsgTwin, TwinValue, TwinVersion, TypeMetadata, ValueMetadata};
pub use membership::{UnknownDevice, check_desired};
pub use rfc3339::rfc3339;
pub use topic::subscriptions;

use crate::message::timestamp;
use crate::{DeviceId, MessageIds, Now, UpwardItem};
use answer::Stamp;
use merge::{Twin, Update};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use topic::{Address, Request};

/// What the shell is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum TwinEffect {
    /// Commit before going on: the device's JSON, or nothing to delete it. Keys are relative to the
    /// twins' own prefix.
    Persist {
        /// Key: the device id.
        key: String,
        /// Bytes, or none to delete.
        value: Option<Vec<u8>>,
    },
    /// Hand to the spool.
    Up(UpwardItem),
    /// Publish with QoS 1, not retained.
    Publish {
        /// Topic.
        topic: String,
        /// JSON.
        payload: String,
    },
}

/// The devices of one box.
#[derive(Debug)]
pub struct TwinStore {
    node: String,
    devices: BTreeMap<DeviceId, Device>,
    ids: MessageIds,
    effects: VecDeque<TwinEffect>,
}

/// Requests over MQTT are at most this long; longer ones are answered 400.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

// `lastOnlineTime` of a device that reports online again and again is stored this often.
const LAST_ONLINE_STORED_EVERY_MS: i64 = 60_000;

#[derive(Deserialize)]
struct UpdateRequest {
    twin: Option<Update>,
}

impl TwinStore {
    /// Returns a box without devices. `seed` is for event ids.
    pub fn new(node: &str, seed: u64) -> Self {
        Self {
            node: node.to_owned(),
            devices: BTreeMap::new(),
            ids: MessageIds::new(seed),
            effects: VecDeque::new(),
        }
    }

    /// Takes in a stored device.
    ///
    /// # Errors
    /// When the value cannot be read.
    pub fn restore(&mut self, value: &[u8]) -> Result<(), serde_json::Error> {
        let device: Device = serde_json::from_slice(value)?;
        self.devices.insert(device.id.clone(), device);
        Ok(())
    }

    /// Devices in order of name.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// One device.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Tells everybody where things stand, after a start: what was committed before a crash may not
    /// have been sent.
    pub fn handle_started(&mut self, now: Now) {
        let ids: Vec<DeviceId> = self.devices.keys().cloned().collect();
        for id in ids {
            self.report_state(&id, now);
            self.report_twin(&id, now);
            self.publish_delta(&id, now);
        }
    }

    /// Takes in a message that somebody published.
    pub fn handle_publish(&mut self, topic: &str, payload: &[u8], now: Now) {
        let Some(request) = topic::parse(&self.node, topic) else { return };
        if payload.len() > REQUEST_BYTES_MAX {
            self.refuse_long(request, now);
            return;
        }
        match request {
            Request::State(address) => self.handle_state(&address, payload, now),
            Request::TwinGet(address) => self.handle_get(&address, payload, now),
            Request::TwinUpdate(address) => self.handle_update(&address, payload, now),
            Request::MembershipGet => self.handle_membership_get(payload, now),
            Request::Upload => {
                let payload = String::from_utf8_lossy(payload).into_owned();
                self.effects.push_back(TwinEffect::Up(UpwardItem::upload(topic, payload)));
            }
        }
    }

    /// Next effect to execute.
    pub fn poll_effect(&mut self) -> Option<TwinEffect> {
        self.effects.pop_front()
    }

    fn refuse_long(&mut self, request: Request, now: Now) {
        let (address, suffix) = match request {
            Request::State(address) => (address, "state/update/result"),
            Request::TwinGet(address) => (address, "twin/get/result"),
            Request::TwinUpdate(address) => (address, "twin/update/result"),
            Request::MembershipGet | Request::Upload => return,
        };
        let reason = format!("the request is longer than {REQUEST_BYTES_MAX} bytes");
        let stamp = echo(&Value::Null, now);
        self.publish(address.topic(suffix), answer::error(&stamp, 400, &reason));
    }

    fn handle_state(&mut self, address: &Address, payload: &[u8], now: Now) {
        let topic = address.topic("state/update/result");
        let Some(request) = self.parse_request(payload, &topic, now) else { return };
        let mut stamp = echo(&request, now);
        let Some(device) = self.devices.get_mut(&address.device) else {
            self.publish(topic, answer::error(&stamp, 404, &not_a_member(&address.device)));
            return;
        };
        let Some(state) = request.get("state").and_then(Value::as_str).and_then(check::state_of) else {
            return;
        };
        let online_at = (state == "online").then(|| rfc3339(now.wall));
        let is_new = device.state != state || {
            let stored = rfc3339::parse_millis(&device.last_online).unwrap_or(0);
            online_at.is_some() && timestamp(now).saturating_sub(stored) >= LAST_ONLINE_STORED_EVERY_MS
        };
        if is_new {
            state.clone_into(&mut device.state);
            device.last_online = online_at.unwrap_or_else(|| std::mem::take(&mut device.last_online));
            self.persist(&address.device);
            self.report_state(&address.device, now);
        }
        if stamp.event_id.is_empty() {
            stamp.event_id = self.ids.next_id();
        }
        if let Some(device) = self.devices.get(&address.device) {
            let payload = answer::state(&stamp, device).to_string();
            self.publish(topic, payload);
        }
    }

    fn handle_get(&mut self, address: &Address, payload: &[u8], now: Now) {
        let topic = address.topic("twin/get/result");
        let Some(request) = self.parse_request(payload, &topic, now) else { return };
        let stamp = echo(&request, now);
        let payload = match self.devices.get(&address.device) {
            Some(device) => answer::twin(&stamp, &device.twin),
            None => answer::error(&stamp, 404, &not_a_member(&address.device)),
        };
        self.publish(topic, payload);
    }

    fn handle_update(&mut self, address: &Address, payload: &[u8], now: Now) {
        let topic = address.topic("twin/update/result");
        let Some(request) = self.parse_request(payload, &topic, now) else { return };
        let stamp = echo(&request, now);
        let update = match serde_json::from_value::<UpdateRequest>(request) {
            Ok(UpdateRequest { twin: Some(update) }) => update,
            Ok(UpdateRequest { twin: None }) => {
                let reason = "Update twin error, the update request body not have key:twin";
                self.publish(topic, answer::error(&stamp, 400, reason));
                return;
            }
            Err(error) => {
                self.publish(topic, answer::error(&stamp, 400, &error.to_string()));
                return;
            }
        };
        let Some(device) = self.devices.get(&address.device) else {
            self.publish(topic, answer::error(&stamp, 404, &not_a_member(&address.device)));
            return;
        };
        match merge::update_from_client(&device.twin, &update, stamp.timestamp) {
            Err(reason) => self.publish(topic, answer::error(&stamp, 400, &reason)),
            Ok(next) => {
                let result = answer::touched(&stamp, &next, update.keys());
                self.replace_twin(&address.device, next, Some((topic, result)), &stamp);
            }
        }
    }

    // The answer comes after the commit and before the news that follow from it.
    fn replace_twin(&mut self, id: &DeviceId, next: Twin, answer: Option<(String, String)>, stamp: &Stamp) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let last = std::mem::replace(&mut device.twin, next);
        let changed = last != device.twin;
        let document = answer::document(stamp, &last, &device.twin);
        if changed {
            self.persist(id);
            self.report_twin_at(id, stamp);
        }
        if let Some((topic, payload)) = answer {
            self.publish(topic, payload);
        }
        // A report that changes nothing brings no delta: a mapper that answers each delta with the
        // same wrong value would loop for ever.
        if changed {
            self.publish_delta_at(id, stamp);
            for topic in topic::unasked(id, "twin/update/document") {
                self.publish(topic, document.clone());
            }
        }
    }

    fn parse_request(&mut self, payload: &[u8], topic: &str, now: Now) -> Option<Value> {
        match serde_json::from_slice::<Value>(payload) {
            Ok(request) if request.is_object() => Some(request),
            Ok(_) => {
                self.publish(
                    topic.to_owned(),
                    answer::error(&echo(&Value::Null, now), 400, "not a JSON object"),
                );
                None
            }
            Err(error) => {
                let payload = answer::error(&echo(&Value::Null, now), 400, &error.to_string());
                self.publish(topic.to_owned(), payload);
                None
            }
        }
    }

    fn persist(&mut self, id: &DeviceId) {
        // Plain data with text keys: encoding it cannot fail.
        let json = |device| serde_json::to_vec(device).unwrap_or_default();
        let value = self.devices.get(id).map(json);
        self.effects.push_back(TwinEffect::Persist { key: id.to_string(), value });
    }

    fn publish(&mut self, topic: String, payload: String) {
        self.effects.push_back(TwinEffect::Publish { topic, payload });
    }

    fn report_state(&mut self, id: &DeviceId, now: Now) {
        let stamp = self.fresh_stamp(now);
        if let Some(device) = self.devices.get(id).filter(|device| !device.state.is_empty()) {
            let item = UpwardItem::state(id, &answer::state(&stamp, device));
            self.effects.push_back(TwinEffect::Up(item));
        }
    }

    fn report_twin(&mut self, id: &DeviceId, now: Now) {
        let stamp = self.fresh_stamp(now);
        self.report_twin_at(id, &stamp);
    }

    fn report_twin_at(&mut self, id: &DeviceId, stamp: &Stamp) {
        if let Some(device) = self.devices.get(id) {
            let item = UpwardItem::twin(id, answer::twin_report(stamp, &device.twin));
            self.effects.push_back(TwinEffect::Up(item));
        }
    }

    fn publish_delta(&mut self, id: &DeviceId, now: Now) {
        let stamp = self.fresh_stamp(now);
        self.publish_delta_at(id, &stamp);
    }

    fn publish_delta_at(&mut self, id: &DeviceId, stamp: &Stamp) {
        let Some(payload) = self.devices.get(id).and_then(|device| answer::delta(stamp, device)) else {
            return;
        };
        for topic in topic::unasked(id, "twin/update/delta") {
            self.publish(topic, payload.clone());
        }
    }

    fn fresh_stamp(&mut self, now: Now) -> Stamp {
        Stamp { event_id: self.ids.next_id(), timestamp: timestamp(now) }
    }
}

// Answers carry the event id of the question.
fn echo(request: &Value, now: Now) -> Stamp {
    let event_id = request.get("event_id").and_then(Value::as_str).unwrap_or_default();
    Stamp { event_id: event_id.chars().take(128).collect(), timestamp: timestamp(now) }
}

fn not_a_member(id: &DeviceId) -> String {
    format!("device {id} is not a member of this node")
}

#[cfg(test)]
mod tests;
