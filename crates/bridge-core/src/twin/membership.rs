//! Devices that come and go, and their desired values: from the cloud, or from the operator of a
//! box without one.

use super::{Device, MsgTwin, TwinEffect, TwinStore, answer, check, merge, topic};
use crate::change::device_of;
use crate::message::timestamp;
use crate::{Change, DeviceId, Now, Operation};
use serde_json::Value;
use std::collections::BTreeMap;
use thiserror::Error;

/// A device that the box does not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no device {0} on this node")]
pub struct UnknownDevice(pub DeviceId);

impl TwinStore {
    /// Takes in a change of the cloud; changes of other resources are not its business.
    ///
    /// # Errors
    /// With the reason when the change makes no sense. It is skipped, the devices stay as they are.
    pub fn handle_change(&mut self, change: &Change, now: Now) -> Result<(), String> {
        let Some((id, is_twin)) = device_of(&change.resource) else { return Ok(()) };
        match (is_twin, change.operation) {
            (false, Operation::Delete) => {
                self.remove(&id, now);
                Ok(())
            }
            (false, _) => {
                self.upsert(device_in(id, &change.content)?, now);
                Ok(())
            }
            (true, Operation::Delete) => self.set_desired(&id, BTreeMap::new(), true, now),
            (true, _) => {
                let twin = change.content.get("twin").cloned().unwrap_or(Value::Null);
                let twin =
                    serde_json::from_value(twin).map_err(|error| format!("{}: {error}", change.resource))?;
                // A change without revision comes from a stock cloud, which sends only what differs.
                self.set_desired(&id, twin, change.revision > 0, now)
            }
        }
    }

    /// Takes in changes of the cloud. Returns the resources that are skipped, and why: their devices stay as
    /// they are.
    pub fn handle_changes(&mut self, changes: &[Change], now: Now) -> BTreeMap<String, String> {
        let skipped = changes.iter().filter_map(|change| {
            let why = self.handle_change(change, now).err()?;
            Some((change.resource.clone(), why))
        });
        skipped.collect()
    }

    /// Takes in all changes of a snapshot: devices that are not among them are gone. Returns what is skipped.
    pub fn handle_snapshot(&mut self, changes: &[Change], now: Now) -> BTreeMap<String, String> {
        let named: Vec<(DeviceId, bool)> =
            changes.iter().filter_map(|change| device_of(&change.resource)).collect();
        let known: Vec<DeviceId> = self.devices.keys().cloned().collect();
        for id in known {
            if !named.contains(&(id.clone(), false)) {
                self.remove(&id, now);
            } else if !named.contains(&(id.clone(), true)) {
                // Taking values away is always allowed.
                self.set_desired(&id, BTreeMap::new(), true, now).unwrap_or_default();
            }
        }
        self.handle_changes(changes, now)
    }

    /// Adds a device, or changes its description and attributes.
    pub fn upsert(&mut self, mut device: Device, now: Now) {
        let id = device.id.clone();
        let known = self.devices.get(&id).filter(|known| known.uid == device.uid || device.uid.is_empty());
        let news = match known {
            Some(known) => {
                let attributes_differ = known.attributes != device.attributes;
                if !attributes_differ && known.description == device.description {
                    return;
                }
                device = Device {
                    description: device.description,
                    attributes: device.attributes,
                    ..known.clone()
                };
                attributes_differ.then_some(false)
            }
            None => Some(true),
        };
        self.devices.insert(id.clone(), device);
        self.persist(&id);
        let stamp = self.fresh_stamp(now);
        let Some(device) = self.devices.get(&id) else { return };
        match news {
            Some(true) => {
                let payload = answer::membership_updated(&stamp, &[device], &[]);
                self.publish_membership(payload);
            }
            Some(false) => {
                let payload = answer::attributes(&stamp, device);
                for topic in topic::unasked(&id, "updated") {
                    self.publish(topic, payload.clone());
                }
            }
            None => {}
        }
    }

    /// Removes a device with its twin; false when there was none.
    pub fn remove(&mut self, id: &DeviceId, now: Now) -> bool {
        let Some(device) = self.devices.remove(id) else { return false };
        self.effects.push_back(TwinEffect::Persist { key: id.to_string(), value: None });
        let stamp = self.fresh_stamp(now);
        self.publish_membership(answer::membership_updated(&stamp, &[], &[&device]));
        true
    }

    /// Sets one desired value, as the operator of a box without cloud does.
    ///
    /// # Errors
    /// When the device is unknown, or the key or value is not allowed.
    pub fn set_value(&mut self, id: &DeviceId, key: &str, value: &str, now: Now) -> Result<(), String> {
        let twin = BTreeMap::from([(key.to_owned(), Some(MsgTwin::desired(value, timestamp(now))))]);
        self.set_desired(id, twin, false, now)
    }

    fn set_desired(
        &mut self,
        id: &DeviceId,
        twin: merge::Update,
        whole: bool,
        now: Now,
    ) -> Result<(), String> {
        let Some(device) = self.devices.get(id) else {
            // A twin that outlives its device says nothing.
            return if twin.is_empty() { Ok(()) } else { Err(UnknownDevice(id.clone()).to_string()) };
        };
        let next = merge::update_from_above(&device.twin, &twin, whole, timestamp(now))
            .map_err(|reason| format!("device {id}: {reason}"))?;
        let stamp = self.fresh_stamp(now);
        self.replace_twin(id, next, None, &stamp);
        Ok(())
    }

    pub(super) fn handle_membership_get(&mut self, payload: &[u8], now: Now) {
        let topic = format!("$hw/events/node/{}/membership/get/result", self.node);
        let Some(request) = self.parse_request(payload, &topic, now) else { return };
        let payload = answer::membership(&super::echo(&request, now), self.devices.values());
        self.publish(topic, payload);
    }

    fn publish_membership(&mut self, payload: String) {
        self.publish(format!("$hw/events/node/{}/membership/updated", self.node), payload);
    }
}

/// Checks a desired value before it is sent anywhere.
///
/// # Errors
/// When the key or the value has a wrong alphabet or length, or the value does not fit the type.
pub fn check_desired(key: &str, value: &str, kind: &str) -> Result<(), String> {
    check::check_key(key)?;
    check::check_value(value, kind)
}

fn device_in(id: DeviceId, content: &Value) -> Result<Device, String> {
    let text = |key: &str| content.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut device = Device::new(id, text("uid"), text("description"));
    if let Some(attributes) = content.get("attributes").filter(|value| !value.is_null()) {
        device.attributes = serde_json::from_value(attributes.clone())
            .map_err(|error| format!("attributes of device {}: {error}", device.id))?;
    }
    Ok(device)
}
