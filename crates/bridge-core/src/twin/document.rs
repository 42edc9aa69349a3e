//! KubeEdge's device and twin documents (`dttype`), as JSON.

use crate::DeviceId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A device of the box, as it is stored on the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Name.
    pub id: DeviceId,
    /// Differs between two devices that had the same name one after the other; empty from a stock cloud.
    #[serde(default)]
    pub uid: String,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Last reported state; empty before the first report.
    #[serde(default)]
    pub state: String,
    /// When it was last reported online, RFC 3339; empty if never.
    #[serde(default)]
    pub last_online: String,
    /// Fixed properties.
    #[serde(default)]
    pub attributes: BTreeMap<String, MsgAttr>,
    /// Changing properties.
    #[serde(default)]
    pub twin: BTreeMap<String, MsgTwin>,
}

/// A fixed property of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsgAttr {
    /// Its value.
    #[serde(default)]
    pub value: String,
    /// The device may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Type of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TypeMetadata>,
}

/// One twin key: what is wanted and what is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsgTwin {
    /// Desired value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<TwinValue>,
    /// Reported value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<TwinValue>,
    /// The device may lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Type of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TypeMetadata>,
    /// Versions of the desired value; not in answers to mappers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<TwinVersion>,
    /// Versions of the reported value; not in answers to mappers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<TwinVersion>,
}

/// A value and when it was set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinValue {
    /// The value as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// When it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<ValueMetadata>,
}

/// When a value was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMetadata {
    /// Milliseconds since the epoch.
    #[serde(default)]
    pub timestamp: i64,
}

/// Type of a twin value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeMetadata {
    /// `string`, `int`, `float`, `boolean`; `Updated` and `deleted` in updates.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// How often each side has changed a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinVersion {
    /// Changes by the cloud or the operator.
    #[serde(default)]
    pub cloud: i64,
    /// Changes over MQTT.
    #[serde(default)]
    pub edge: i64,
}

impl TwinValue {
    /// Returns a value set at a time in milliseconds since the epoch.
    pub fn at(value: impl Into<String>, timestamp: i64) -> Self {
        Self { value: Some(value.into()), metadata: Some(ValueMetadata { timestamp }) }
    }
}

impl MsgTwin {
    /// Returns a key that is desired to have a value.
    pub fn desired(value: impl Into<String>, timestamp: i64) -> Self {
        Self { expected: Some(TwinValue::at(value, timestamp)), ..Self::default() }
    }

    /// Desired value.
    pub fn expected_value(&self) -> Option<&str> {
        self.expected.as_ref()?.value.as_deref()
    }

    /// Reported value.
    pub fn actual_value(&self) -> Option<&str> {
        self.actual.as_ref()?.value.as_deref()
    }

    pub(crate) fn kind(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| metadata.kind.as_str())
    }

    /// As it is shown to mappers: without versions.
    pub(crate) fn shown(&self) -> Self {
        Self { expected_version: None, actual_version: None, ..self.clone() }
    }

    /// The cloud or the operator decides the desired value.
    pub(crate) fn is_owned_above(&self) -> bool {
        self.expected.is_some() && self.expected_version.is_some_and(|version| version.cloud > 0)
    }

    pub(crate) fn is_void(&self) -> bool {
        self.expected.is_none() && self.actual.is_none()
    }
}

impl Device {
    /// Returns a device that has reported nothing.
    pub fn new(id: DeviceId, uid: String, description: String) -> Self {
        Self {
            id,
            uid,
            description,
            state: String::new(),
            last_online: String::new(),
            attributes: BTreeMap::new(),
            twin: BTreeMap::new(),
        }
    }

    /// Keys whose desired value is not the reported one, with the desired value.
    pub fn delta(&self) -> BTreeMap<&str, &str> {
        let differs = |twin: &MsgTwin| twin.expected_value() != twin.actual_value();
        let pairs = self.twin.iter().filter(|(_, twin)| differs(twin));
        pairs.filter_map(|(key, twin)| Some((key.as_str(), twin.expected_value()?))).collect()
    }
}
