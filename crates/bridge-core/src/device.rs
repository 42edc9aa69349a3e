//! Device names, and what the cloud knows of a device.

use crate::{UnixMillis, Upward, UpwardKind, twin::MsgTwin};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, str::FromStr};
use thiserror::Error;

const SEGMENT_BYTES_MAX: usize = 128;
const DEFAULT_NAMESPACE: &str = "default";

/// Name of a device: `<namespace>/<name>`, or `<name>` in namespace `default` (KubeEdge before v1.17).
/// Its alphabet has no `+`, `#` and `/`: it fills whole topic levels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    namespace: String,
    name: String,
}

/// A text that is no device id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "invalid device id {0:?}: use <name> or <namespace>/<name> of letters, digits, `.`, `_` and `-`, at most 128 each"
)]
pub struct InvalidDeviceId(String);

impl DeviceId {
    /// Returns the id of `name` in `namespace`.
    ///
    /// # Errors
    /// When one of them is empty, too long or has other characters than letters, digits, `.`, `_`, `-`.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidDeviceId> {
        if is_segment(namespace) && is_segment(name) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            let text: String = format!("{namespace}/{name}").chars().take(2 * SEGMENT_BYTES_MAX).collect();
            Err(InvalidDeviceId(text))
        }
    }

    /// Namespace, `default` unless given.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name without namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells whether topics without namespace level mean this device.
    pub fn is_in_default_namespace(&self) -> bool {
        self.namespace == DEFAULT_NAMESPACE
    }

    /// Returns `<namespace>/<name>` always: KubeEdge's form on the channel since v1.17.
    pub fn qualified(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn is_segment(text: &str) -> bool {
    (1..=SEGMENT_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && text != "."
        && text != ".."
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        Self::new(namespace, name)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_in_default_namespace() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The cloud's record of one device: what it wants, and what was last reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Name.
    pub id: DeviceId,
    /// Node that has the device.
    pub node: String,
    /// Differs between two devices that had the same name one after the other.
    pub uid: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Desired values by twin key, as sent to the edge.
    #[serde(default)]
    pub desired: BTreeMap<String, MsgTwin>,
    /// Reported twin by key.
    #[serde(default)]
    pub reported: BTreeMap<String, MsgTwin>,
    /// Reported state, such as `online`; empty before the first report.
    #[serde(default)]
    pub state: String,
    /// When it was last reported online, RFC 3339; empty if never.
    #[serde(default)]
    pub last_online: String,
    /// When the last report was stored.
    #[serde(default)]
    pub reported_at: UnixMillis,
    /// Spool of the edge that the two sequence numbers belong to.
    #[serde(default)]
    pub spool: String,
    /// Sequence number of the last stored state.
    #[serde(default)]
    pub state_seq: u64,
    /// Sequence number of the last stored twin.
    #[serde(default)]
    pub twin_seq: u64,
}

impl DeviceRecord {
    /// Returns a device that has reported nothing yet.
    pub fn new(id: DeviceId, node: &str, uid: String, description: String) -> Self {
        Self {
            id,
            node: node.to_owned(),
            uid,
            description,
            desired: BTreeMap::new(),
            reported: BTreeMap::new(),
            state: String::new(),
            last_online: String::new(),
            reported_at: UnixMillis(0),
            spool: String::new(),
            state_seq: 0,
            twin_seq: 0,
        }
    }

    /// Content of the log's resource `device/<namespace>/<name>`: KubeEdge's device object.
    pub fn membership(&self) -> Value {
        serde_json::json!({
            "id": self.id.qualified(),
            "name": self.id.name(),
            "description": self.description,
            "uid": self.uid,
        })
    }

    /// Content of the log's resource `device/<namespace>/<name>/twin`.
    pub fn desired_twin(&self) -> Value {
        serde_json::json!({ "twin": self.desired })
    }

    /// Takes a report in; false when it is older than what is known, or not about this device.
    pub fn handle_upward(&mut self, upward: &Upward, now: UnixMillis) -> bool {
        if self.spool != upward.spool {
            self.spool.clone_from(&upward.spool);
            (self.state_seq, self.twin_seq) = (0, 0);
        }
        match &upward.kind {
            UpwardKind::Twin(id) if *id == self.id => {
                if !is_newer(&mut self.twin_seq, upward.seq) {
                    return false;
                }
                self.reported = twin_of(&upward.content);
            }
            UpwardKind::State(id) if *id == self.id => {
                if !is_newer(&mut self.state_seq, upward.seq) {
                    return false;
                }
                let (state, last_online) = state_of(&upward.content);
                self.state = state;
                self.last_online = last_online;
            }
            _ => return false,
        }
        self.reported_at = now;
        true
    }
}

// A stock edgehub numbers nothing: what it sends last wins.
fn is_newer(known: &mut u64, seq: Option<u64>) -> bool {
    match seq {
        Some(seq) if seq <= *known => false,
        Some(seq) => {
            *known = seq;
            true
        }
        None => true,
    }
}

fn twin_of(content: &Value) -> BTreeMap<String, MsgTwin> {
    let mut twin = BTreeMap::new();
    for (key, value) in content.get("twin").and_then(Value::as_object).into_iter().flatten() {
        if let Ok(value) = serde_json::from_value(value.clone()) {
            twin.insert(key.clone(), value);
        }
    }
    twin
}

fn state_of(content: &Value) -> (String, String) {
    let device = content.get("device").unwrap_or(&Value::Null);
    let text = |key: &str| device.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("state"), text("lastOnlineTime"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_in_namespace_default() {
        let id: DeviceId = "led".parse().unwrap();
        assert_eq!(id, "default/led".parse().unwrap());
        assert_eq!((id.to_string(), id.qualified()), ("led".into(), "default/led".into()));
        assert_eq!("plant/led".parse::<DeviceId>().unwrap().to_string(), "plant/led");
    }

    #[test]
    fn names_cannot_reach_out_of_their_topic_level() {
        for bad in ["", "/", "a/", "/a", "a/b/c", "+", "#", "a+", "led/#", "..", "a b", "ä", &"x".repeat(129)]
        {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    fn upward(kind: UpwardKind, seq: Option<u64>, spool: &str, content: Value) -> Upward {
        Upward { resource: String::new(), kind, seq, spool: spool.into(), content }
    }

    #[test]
    fn reports_that_arrive_late_do_not_undo_newer_ones() {
        let id: DeviceId = "led".parse().unwrap();
        let mut record = DeviceRecord::new(id.clone(), "box", "u".into(), String::new());
        let twin = |v: &str| serde_json::json!({"twin": {"power": {"actual": {"value": v}}}});
        let mut put = |seq, spool: &str, v: &str| {
            record.handle_upward(&upward(UpwardKind::Twin(id.clone()), seq, spool, twin(v)), UnixMillis(5))
        };
        assert!(put(Some(2), "s", "ON"));
        assert!(!put(Some(1), "s", "OFF"));
        assert!(!put(Some(2), "s", "OFF"));
        assert!(put(Some(1), "new box", "OFF"));
        assert!(put(None, "new box", "ON"));
        assert_eq!(record.reported["power"].actual.as_ref().unwrap().value.as_deref(), Some("ON"));
    }
}
