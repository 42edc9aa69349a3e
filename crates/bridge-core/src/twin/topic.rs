//! The topics of devices, with and without namespace level.

use crate::DeviceId;

/// What somebody wants from the event bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Report a device's state.
    State(Address),
    /// Read a device's twin.
    TwinGet(Address),
    /// Report or change a device's twin.
    TwinUpdate(Address),
    /// List the devices of the box.
    MembershipGet,
    /// Send something to the cloud.
    Upload,
}

/// A device as its topic names it: answers go to the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) device: DeviceId,
    path: String,
}

const DEVICE_PREFIX: &str = "$hw/events/device/";

impl Address {
    /// Topic of an answer about this device.
    pub(crate) fn topic(&self, suffix: &str) -> String {
        format!("{DEVICE_PREFIX}{}/{suffix}", self.path)
    }
}

/// Topic filters that the event bus of a node subscribes to.
pub fn subscriptions(node: &str) -> Vec<String> {
    vec![
        "$hw/events/device/+/state/update".to_owned(),
        "$hw/events/device/+/+/state/update".to_owned(),
        "$hw/events/device/+/twin/+".to_owned(),
        "$hw/events/device/+/+/twin/+".to_owned(),
        format!("$hw/events/node/{node}/membership/get"),
        "$hw/events/upload/#".to_owned(),
        "SYS/dis/upload_records".to_owned(),
        "+/user/#".to_owned(),
    ]
}

pub(crate) fn parse(node: &str, topic: &str) -> Option<Request> {
    if let Some(rest) = topic.strip_prefix(DEVICE_PREFIX) {
        return parse_device(rest);
    }
    if let Some(rest) = topic.strip_prefix("$hw/events/node/") {
        return (rest.strip_suffix("/membership/get") == Some(node)).then_some(Request::MembershipGet);
    }
    let user = || topic.split('/').nth(1) == Some("user") && !topic.starts_with('$');
    let upload = topic == "SYS/dis/upload_records" || topic.starts_with("$hw/events/upload/") || user();
    upload.then_some(Request::Upload)
}

fn parse_device(rest: &str) -> Option<Request> {
    let levels: Vec<&str> = rest.splitn(5, '/').collect();
    let (path, action) = match levels.as_slice() {
        [name, group, verb] => ((*name).to_owned(), [*group, *verb]),
        [namespace, name, group, verb] => (format!("{namespace}/{name}"), [*group, *verb]),
        _ => return None,
    };
    let address = Address { device: path.parse().ok()?, path };
    match action {
        ["state", "update"] => Some(Request::State(address)),
        ["twin", "get"] => Some(Request::TwinGet(address)),
        ["twin", "update"] => Some(Request::TwinUpdate(address)),
        // `twin/cloud_updated` too: desired values come over the cloud's channel, never from a client.
        _ => None,
    }
}

/// Topics for news that nobody asked for: both forms, since the mapper may listen on either.
pub(crate) fn unasked(device: &DeviceId, suffix: &str) -> Vec<String> {
    let mut topics = vec![format!("{DEVICE_PREFIX}{device}/{suffix}")];
    if device.is_in_default_namespace() {
        topics.push(format!("{DEVICE_PREFIX}{}/{suffix}", device.qualified()));
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_device_and_keep_their_form() {
        let Some(Request::TwinGet(bare)) = parse("n", "$hw/events/device/led/twin/get") else { panic!() };
        let Some(Request::TwinGet(full)) = parse("n", "$hw/events/device/default/led/twin/get") else {
            panic!()
        };
        assert_eq!(bare.device, full.device);
        assert_eq!(bare.topic("twin/get/result"), "$hw/events/device/led/twin/get/result");
        assert_eq!(full.topic("twin/get/result"), "$hw/events/device/default/led/twin/get/result");
        let Some(Request::State(odd)) = parse("n", "$hw/events/device/twin/state/state/update") else {
            panic!()
        };
        assert_eq!(odd.device.to_string(), "twin/state");
    }

    #[test]
    fn answers_forged_syncs_and_other_nodes_are_no_requests() {
        for topic in [
            "$hw/events/device/led/twin/cloud_updated",
            "$hw/events/device/default/led/twin/cloud_updated",
            "$hw/events/device/led/twin/get/result",
            "$hw/events/device/led/twin/update/delta",
            "$hw/events/device/a/b/c/twin/get",
            "$hw/events/device//twin/get",
            "$hw/events/node/other/membership/get",
            "$SYS/user/x",
            "a/b/user",
        ] {
            assert_eq!(parse("n", topic), None, "{topic}");
        }
        assert_eq!(parse("n", "$hw/events/node/n/membership/get"), Some(Request::MembershipGet));
        for topic in ["default/user/x", "SYS/dis/upload_records", "$hw/events/upload/a"] {
            assert_eq!(parse("n", topic), Some(Request::Upload), "{topic}");
        }
    }

    #[test]
    fn news_go_to_every_form_that_names_the_device() {
        assert_eq!(
            unasked(&"led".parse().unwrap(), "updated"),
            ["$hw/events/device/led/updated", "$hw/events/device/default/led/updated"]
        );
        assert_eq!(
            unasked(&"plant/led".parse().unwrap(), "updated"),
            ["$hw/events/device/plant/led/updated"]
        );
    }
}
