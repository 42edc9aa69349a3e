//! KubeEdge's topics of a device, with and without its namespace.

use bridge_core::DeviceId;

/// Whether topics of a device carry its namespace: KubeEdge's do since v1.17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicForm {
    /// `$hw/events/device/<name>/…`, as stock mappers use it.
    Bare,
    /// `$hw/events/device/<namespace>/<name>/…`.
    Namespaced,
}

impl TopicForm {
    /// The form that names the device without doubt: bare only in the default namespace.
    pub fn of(device: &DeviceId) -> Self {
        if device.is_in_default_namespace() { Self::Bare } else { Self::Namespaced }
    }
}

/// The MQTT topics of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTopics {
    prefix: String,
}

/// What a message that a mapper receives is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwinTopic {
    /// Answer to a state update.
    StateResult,
    /// Answer to `twin/get`: the whole twin.
    GetResult,
    /// Answer to `twin/update`.
    UpdateResult,
    /// Desired values that differ from the reported ones.
    Delta,
}

impl DeviceTopics {
    /// Returns the topics of a device in one form.
    pub fn new(device: &DeviceId, form: TopicForm) -> Self {
        let level = match form {
            TopicForm::Bare => device.name().to_owned(),
            TopicForm::Namespaced => device.qualified(),
        };
        Self { prefix: format!("$hw/events/device/{level}/") }
    }

    /// Where a mapper reports the device's state.
    pub fn state_update(&self) -> String {
        self.topic("state/update")
    }

    /// Where a mapper asks for the twin.
    pub fn twin_get(&self) -> String {
        self.topic("twin/get")
    }

    /// Where a mapper reports actual values.
    pub fn twin_update(&self) -> String {
        self.topic("twin/update")
    }

    /// Filters for everything a mapper is told about the twin.
    pub fn subscriptions(&self) -> Vec<String> {
        vec![self.topic("twin/get/result"), self.topic("twin/update/result"), self.topic("twin/update/delta")]
    }

    /// Tells what a received topic means; none when it is not this device's.
    pub fn parse(&self, topic: &str) -> Option<TwinTopic> {
        match topic.strip_prefix(&self.prefix)? {
            "state/update/result" => Some(TwinTopic::StateResult),
            "twin/get/result" => Some(TwinTopic::GetResult),
            "twin/update/result" => Some(TwinTopic::UpdateResult),
            "twin/update/delta" => Some(TwinTopic::Delta),
            _ => None,
        }
    }

    fn topic(&self, tail: &str) -> String {
        format!("{}{tail}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_kubeedges_in_both_forms() {
        let bare = topics("led-light-instance-01");
        assert_eq!(bare.state_update(), "$hw/events/device/led-light-instance-01/state/update");
        assert_eq!(bare.twin_get(), "$hw/events/device/led-light-instance-01/twin/get");
        assert_eq!(bare.twin_update(), "$hw/events/device/led-light-instance-01/twin/update");
        let named = topics("plant/led");
        assert_eq!(named.twin_update(), "$hw/events/device/plant/led/twin/update");
        assert_eq!(
            DeviceTopics::new(&"led".parse().unwrap(), TopicForm::Namespaced).twin_get(),
            "$hw/events/device/default/led/twin/get"
        );
    }

    #[test]
    fn every_subscription_is_understood_and_nothing_else() {
        let topics = topics("led");
        for subscribed in topics.subscriptions() {
            assert!(topics.parse(&subscribed).is_some(), "{subscribed}");
        }
        assert_eq!(topics.parse("$hw/events/device/led/twin/update/delta"), Some(TwinTopic::Delta));
        assert_eq!(topics.parse("$hw/events/device/led/twin/get/result"), Some(TwinTopic::GetResult));
        for other in [
            "$hw/events/device/led-2/twin/update/delta",
            "$hw/events/device/led/twin/update",
            "$hw/events/device/led/twin/cloud_updated",
            "$hw/events/device/default/led/twin/update/delta",
            "x/$hw/events/device/led/twin/update/delta",
        ] {
            assert_eq!(topics.parse(other), None, "{other}");
        }
    }

    fn topics(device: &str) -> DeviceTopics {
        let device = device.parse().unwrap();
        DeviceTopics::new(&device, TopicForm::of(&device))
    }
}
