//! How an update changes the twin of one device: all of it or nothing.

use super::check::{check_key, check_value};
use super::document::{MsgTwin, TwinValue, TypeMetadata, ValueMetadata};
use std::collections::BTreeMap;

/// Twin keys of one device.
const KEYS_MAX: usize = 256;

pub(super) type Twin = BTreeMap<String, MsgTwin>;
pub(super) type Update = BTreeMap<String, Option<MsgTwin>>;

/// Returns the twin after an update that came over MQTT.
pub(super) fn update_from_client(twin: &Twin, update: &Update, timestamp: i64) -> Result<Twin, String> {
    let mut next = twin.clone();
    for (key, wanted) in update {
        check_key(key)?;
        match wanted.as_ref().filter(|wanted| wanted.kind() != "deleted") {
            None => {
                if next.get(key).is_some_and(MsgTwin::is_owned_above) {
                    return Err(format!(
                        "the desired value of {key} is set by the cloud: it cannot be deleted here"
                    ));
                }
                next.remove(key);
            }
            Some(wanted) => {
                let slot = next.entry(key.clone()).or_default();
                merge_client(key, slot, wanted, timestamp)?;
            }
        }
    }
    within_limit(next)
}

fn merge_client(key: &str, slot: &mut MsgTwin, wanted: &MsgTwin, timestamp: i64) -> Result<(), String> {
    take_type(slot, wanted.kind(), false);
    slot.optional = slot.optional.or(wanted.optional);
    let kind = slot.kind().to_owned();
    if let Some(value) = wanted.actual_value() {
        check_value(value, &kind)?;
        if slot.actual_value() != Some(value) {
            slot.actual = Some(TwinValue::at(value, timestamp));
            let version = slot.actual_version.get_or_insert_default();
            version.edge = version.edge.saturating_add(1);
        }
    }
    if let Some(value) = wanted.expected_value() {
        check_value(value, &kind)?;
        if slot.expected_value() != Some(value) {
            if slot.is_owned_above() {
                return Err(format!(
                    "the desired value of {key} is set by the cloud: it cannot be changed here"
                ));
            }
            slot.expected = Some(TwinValue::at(value, timestamp));
            let version = slot.expected_version.get_or_insert_default();
            version.edge = version.edge.saturating_add(1);
        }
    }
    if slot.is_void() {
        return Err(format!("the update of {key} has neither an actual nor an expected value"));
    }
    Ok(())
}

/// Returns the twin after desired values came from the cloud or the operator. `whole`: they are all
/// there are, so that keys not among them are desired no more.
pub(super) fn update_from_above(
    twin: &Twin,
    update: &Update,
    whole: bool,
    timestamp: i64,
) -> Result<Twin, String> {
    let mut next = twin.clone();
    for (key, wanted) in update {
        check_key(key)?;
        match wanted.as_ref().filter(|wanted| wanted.kind() != "deleted") {
            None => {
                next.remove(key);
            }
            Some(wanted) => merge_desired(next.entry(key.clone()).or_default(), wanted, timestamp)?,
        }
    }
    if whole {
        for (key, slot) in &mut next {
            if slot.is_owned_above() && !update.get(key).is_some_and(Option::is_some) {
                slot.expected = None;
                slot.expected_version = None;
            }
        }
    }
    next.retain(|_, slot| !slot.is_void());
    within_limit(next)
}

fn merge_desired(slot: &mut MsgTwin, wanted: &MsgTwin, timestamp: i64) -> Result<(), String> {
    take_type(slot, wanted.kind(), true);
    slot.optional = wanted.optional.or(slot.optional);
    let Some(value) = wanted.expected_value() else { return Ok(()) };
    check_value(value, slot.kind())?;
    let set_at = wanted.expected.as_ref().and_then(|expected| expected.metadata);
    let metadata = Some(set_at.unwrap_or(ValueMetadata { timestamp }));
    let is_new = slot.expected_value() != Some(value) || !slot.is_owned_above();
    slot.expected = Some(TwinValue { value: Some(value.to_owned()), metadata });
    if is_new {
        let version = slot.expected_version.get_or_insert_default();
        version.cloud = version.cloud.saturating_add(1);
    }
    Ok(())
}

// `Updated` is KubeEdge's mark of an update, not a type.
fn take_type(slot: &mut MsgTwin, kind: &str, overrides: bool) {
    let given = !kind.is_empty() && kind != "Updated";
    if given && (overrides || slot.kind().is_empty()) {
        slot.metadata = Some(TypeMetadata { kind: kind.to_owned() });
    } else if slot.kind().is_empty() {
        slot.metadata = Some(TypeMetadata { kind: "string".to_owned() });
    }
}

fn within_limit(twin: Twin) -> Result<Twin, String> {
    if twin.len() > KEYS_MAX {
        return Err(format!("a twin has at most {KEYS_MAX} keys"));
    }
    Ok(twin)
}
