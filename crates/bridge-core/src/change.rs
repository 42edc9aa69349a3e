//! One change of one resource, and the KubeEdge messages that carry it.

use crate::message::{operation, timestamp};
use crate::{DeviceId, Message, MessageIds, Now, Route};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What happened to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// It is new.
    Insert,
    /// It has new content.
    Update,
    /// It is gone. Kept in the log as a tombstone until compaction.
    Delete,
}

impl Operation {
    /// KubeEdge's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => operation::INSERT,
            Self::Update => operation::UPDATE,
            Self::Delete => operation::DELETE,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            operation::INSERT => Some(Self::Insert),
            operation::UPDATE => Some(Self::Update),
            operation::DELETE => Some(Self::Delete),
            _ => None,
        }
    }
}

/// How much of what there is some changes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What has changed: what is not among them stays as it is.
    Changes,
    /// All there is: what is not among them is gone.
    Snapshot,
}

/// One change of one resource of a node.
///
/// Resources: `identity/entry/<id>`, `identity/rules` (all of them), `identity/bundle/<td>`,
/// `device/<namespace>/<name>` (membership), `device/<namespace>/<name>/twin` (desired values).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Position in the node's log; 0 when the sender has no log.
    pub revision: u64,
    /// What changed.
    pub resource: String,
    /// How.
    pub operation: Operation,
    /// New content; null when deleted.
    #[serde(default)]
    pub content: Value,
}

/// How far an edge has applied the log of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Id of the log: a cloud that lost its data starts another one.
    pub log: String,
    /// Revision of the last applied change.
    pub revision: u64,
}

/// A device named by the log's resource, and whether it is its twin.
pub(crate) fn device_of(resource: &str) -> Option<(DeviceId, bool)> {
    let rest = resource.strip_prefix("device/")?;
    let (namespace, rest) = rest.split_once('/')?;
    match rest.split_once('/') {
        None => Some((DeviceId::new(namespace, rest).ok()?, false)),
        Some((name, "twin")) => Some((DeviceId::new(namespace, name).ok()?, true)),
        Some(_) => None,
    }
}

/// Returns the message for a change: KubeEdge's own forms for devices, else an object with
/// metadata whose uid is the resource and whose content is in `spec`.
pub fn message_of(change: &Change, after: Option<u64>, ids: &mut MessageIds, now: Now) -> Message {
    let mut message = match device_of(&change.resource) {
        Some((id, false)) => membership_message(&id, change, ids, now),
        Some((id, true)) => desired_message(&id, change, ids, now),
        None => {
            let content = json!({
                "metadata": {
                    "name": change.resource.rsplit('/').next().unwrap_or_default(),
                    "uid": change.resource,
                    "resourceVersion": change.revision.to_string(),
                },
                "spec": change.content,
            });
            let route =
                Route::new("cloudhub", "resource", change.operation.as_str(), change.resource.clone());
            Message::new(ids, now, route, content)
        }
    };
    message.header.resource_version = change.revision.to_string();
    message.header.after = after.map(|revision| revision.to_string()).unwrap_or_default();
    message
}

fn membership_message(id: &DeviceId, change: &Change, ids: &mut MessageIds, now: Now) -> Message {
    let route = Route::new("devicecontroller", "twin", operation::UPDATE, "membership");
    let mut message = Message::new(ids, now, route, Value::Null);
    let (added, removed) = if change.operation == Operation::Delete {
        (Value::Null, json!([{ "id": id.qualified(), "name": id.name() }]))
    } else {
        (json!([change.content]), Value::Null)
    };
    message.content = json!({
        "event_id": message.header.id,
        "timestamp": timestamp(now),
        "added_devices": added,
        "removed_devices": removed,
    });
    message
}

fn desired_message(id: &DeviceId, change: &Change, ids: &mut MessageIds, now: Now) -> Message {
    let resource = format!("device/{}/twin/cloud_updated", id.qualified());
    let route = Route::new("devicecontroller", "twin", change.operation.as_str(), resource);
    let mut message = Message::new(ids, now, route, Value::Null);
    let twin = change.content.get("twin").cloned().unwrap_or_else(|| json!({}));
    message.content = json!({ "event_id": message.header.id, "timestamp": timestamp(now), "twin": twin });
    message
}

/// Returns the changes that a message carries; none when it is about something else.
///
/// # Errors
/// With the reason when the message says it carries a change but does not.
pub fn change_of(message: &Message) -> Result<Vec<Change>, String> {
    let revision = message.revision().unwrap_or(0);
    let route = &message.route;
    if route.resource == "membership" {
        return membership_changes(&message.content, revision);
    }
    let Some(operation) = Operation::parse(&route.operation) else { return Ok(Vec::new()) };
    if let Some(rest) = route.resource.strip_prefix("device/") {
        let Some(id) = rest.strip_suffix("/twin/cloud_updated") else { return Ok(Vec::new()) };
        let id: DeviceId = id.parse().map_err(|error| format!("{error}"))?;
        let twin = message.content.get("twin").filter(|twin| twin.is_object());
        let content = match (operation, twin) {
            (Operation::Delete, _) => Value::Null,
            (_, Some(twin)) => json!({ "twin": twin }),
            (_, None) => return Err("no twin in the content".to_owned()),
        };
        let resource = format!("device/{}/twin", id.qualified());
        return Ok(vec![Change { revision, resource, operation, content }]);
    }
    // Resources of a newer cloud pass too when they are in the log: the host decides what it keeps.
    if !route.resource.starts_with("identity/") && message.header.after.is_empty() {
        return Ok(Vec::new());
    }
    let content = match operation {
        Operation::Delete => Value::Null,
        Operation::Insert | Operation::Update => {
            message.content.get("spec").cloned().ok_or("no spec in the content")?
        }
    };
    Ok(vec![Change { revision, resource: route.resource.clone(), operation, content }])
}

fn membership_changes(content: &Value, revision: u64) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    for (list, operation) in [("removed_devices", Operation::Delete), ("added_devices", Operation::Update)] {
        let devices = match content.get(list) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(devices)) => devices,
            Some(_) => return Err(format!("{list} is not a list")),
        };
        for device in devices {
            let id = device.get("id").and_then(Value::as_str).ok_or("device without id")?;
            let id: DeviceId = id.parse().map_err(|error| format!("{error}"))?;
            let resource = format!("device/{}", id.qualified());
            let content = if operation == Operation::Delete { Value::Null } else { device.clone() };
            changes.push(Change { revision, resource, operation, content });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixMillis;
    use std::time::Duration;

    const NOW: Now = Now { mono: Duration::ZERO, wall: UnixMillis(1000) };

    fn change(resource: &str, operation: Operation, content: Value) -> Change {
        Change { revision: 7, resource: resource.into(), operation, content }
    }

    #[test]
    fn every_kind_of_change_survives_the_wire() {
        let mut ids = MessageIds::new(1);
        let device = json!({"id": "default/led", "name": "led"});
        let twin = json!({"twin": {"power": {"expected": {"value": "ON"}}}});
        for change in [
            change("identity/entry/a", Operation::Insert, json!({"id": "a"})),
            change("identity/rule/r", Operation::Delete, Value::Null),
            change("device/default/led", Operation::Update, device),
            change("device/default/led", Operation::Delete, Value::Null),
            change("device/plant/twin/twin", Operation::Update, twin),
            change("device/plant/led/twin", Operation::Delete, Value::Null),
        ] {
            let message = message_of(&change, Some(5), &mut ids, NOW);
            assert_eq!(message.header.after, "5");
            let decoded = Message::decode(message.encode().unwrap().as_bytes(), 4096).unwrap();
            assert_eq!(change_of(&decoded).unwrap(), [change]);
        }
    }

    #[test]
    fn membership_has_kubeedges_form() {
        let mut ids = MessageIds::new(1);
        let added =
            change("device/default/led", Operation::Insert, json!({"id": "default/led", "name": "led"}));
        let message = message_of(&added, None, &mut ids, NOW);
        let route = Route::new("devicecontroller", "twin", "update", "membership");
        assert_eq!(message.route, route);
        assert_eq!(message.content["added_devices"][0]["id"], "default/led");
        assert_eq!(message.content["removed_devices"], Value::Null);
    }

    #[test]
    fn malformed_changes_are_named() {
        let message = |resource: &str, operation: &str, content: Value| {
            Message::new(
                &mut MessageIds::new(1),
                NOW,
                Route::new("s", "resource", operation, resource),
                content,
            )
        };
        for (resource, operation, content) in [
            ("membership", "update", json!({"added_devices": 5})),
            ("membership", "update", json!({"added_devices": [{"id": "a/b/c"}]})),
            ("membership", "update", json!({"added_devices": [{}]})),
            ("device/a/+/twin/cloud_updated", "update", json!({"twin": {}})),
            ("device/a/b/twin/cloud_updated", "update", json!({"twin": 1})),
            ("identity/entry/x", "insert", json!("text")),
        ] {
            assert!(change_of(&message(resource, operation, content)).is_err(), "{resource}");
        }
        for (resource, operation) in [("default/configmap/c", "update"), ("identity/entry/x", "query")] {
            assert_eq!(change_of(&message(resource, operation, Value::Null)), Ok(vec![]));
        }
    }
}
