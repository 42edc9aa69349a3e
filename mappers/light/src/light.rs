//! What a light does with the messages it gets: no sockets, no clock.

use crate::event::LightEvent;
use crate::lamp::{Lamp, Power};
use mapper_sdk::{DeviceTopics, TwinChange, TwinDocument, TwinTopic, state_update, twin_get, twin_update};

/// Twin key of the light.
pub(crate) const KEY: &str = "power-status";

pub(crate) struct Light {
    topics: DeviceTopics,
    lamp: Lamp,
    /// Whether the twin has been read since the last connection.
    synced: bool,
    /// The last refusal that was told: asking goes on, telling the same does not.
    told: Option<String>,
}

/// What is to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Publish { topic: String, payload: Vec<u8> },
    Tell(LightEvent),
}

impl Light {
    pub(crate) fn new(topics: DeviceTopics, lamp: Lamp) -> Self {
        Self { topics, lamp, synced: false, told: None }
    }

    pub(crate) fn handle_connected(&mut self) -> Vec<Action> {
        self.synced = false;
        let online = Action::Publish { topic: self.topics.state_update(), payload: state_update("online") };
        vec![online, self.ask()]
    }

    /// Asks for the twin again: until it has come, and from time to time after that.
    pub(crate) fn handle_timeout(&self) -> Vec<Action> {
        vec![self.ask()]
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn handle_message(&mut self, topic: &str, payload: &[u8]) -> Vec<Action> {
        let Some(kind) = self.topics.parse(topic) else { return Vec::new() };
        let document = match TwinDocument::parse(payload) {
            Ok(document) => document,
            Err(error) => return vec![refused(topic, error.to_string())],
        };
        match (kind, document) {
            (_, TwinDocument::Failure(failure)) => {
                self.synced = false;
                let reason = failure.to_string();
                if self.told.as_deref() == Some(&reason) {
                    return Vec::new();
                }
                self.told = Some(reason.clone());
                vec![refused(topic, reason)]
            }
            (TwinTopic::GetResult, TwinDocument::Twin(change)) => {
                self.synced = true;
                self.told = None;
                self.follow(&change)
            }
            (TwinTopic::Delta, TwinDocument::Twin(change)) => self.follow(&change),
            (TwinTopic::UpdateResult | TwinTopic::StateResult, TwinDocument::Twin(_)) => Vec::new(),
        }
    }

    /// Switches the light to what is wanted, and reports it where the twin says otherwise.
    fn follow(&mut self, change: &TwinChange) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(wanted) = change.desired.get(KEY) {
            actions.extend(self.switch(wanted).map(Action::Tell));
        }
        let state = self.lamp.power();
        if change.actual.get(KEY).map(String::as_str) != Some(state.as_str()) {
            actions.push(Action::Publish {
                topic: self.topics.twin_update(),
                payload: twin_update("", [(KEY, state.as_str())]),
            });
            actions.push(Action::Tell(LightEvent::Reported { state }));
        }
        actions
    }

    fn switch(&mut self, wanted: &str) -> Option<LightEvent> {
        let switched = wanted.parse::<Power>().and_then(|state| {
            let changed = state != self.lamp.power();
            self.lamp.set(state)?;
            Ok(changed.then_some(LightEvent::Light { state }))
        });
        switched.unwrap_or_else(|error| Some(LightEvent::Failed { reason: error.to_string() }))
    }

    fn ask(&self) -> Action {
        Action::Publish { topic: self.topics.twin_get(), payload: twin_get("") }
    }
}

fn refused(topic: &str, reason: String) -> Action {
    Action::Tell(LightEvent::Refused { topic: topic.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LampConfig;
    use mapper_sdk::TopicForm;

    const GET: &str = "$hw/events/device/led/twin/get/result";
    const DELTA: &str = "$hw/events/device/led/twin/update/delta";
    const RESULT: &str = "$hw/events/device/led/twin/update/result";

    #[test]
    fn a_connection_begins_with_online_and_the_question_for_the_twin() {
        let mut light = light();
        assert_eq!(
            light.handle_connected(),
            [
                publish("state/update", r#"{"event_id":"","state":"online","timestamp":0}"#),
                publish("twin/get", r#"{"event_id":"","timestamp":0}"#),
            ]
        );
        assert!(!light.is_synced());
    }

    #[test]
    fn a_twin_that_wants_light_is_followed_and_answered() {
        let mut light = light();
        let actions = light.handle_message(
            GET,
            br#"{"twin":{"power-status":{"expected":{"value":"ON"},"actual":{"value":"OFF"}}}}"#,
        );
        assert_eq!(actions, [told(Power::On), report("ON"), reported(Power::On)]);
        assert!(light.is_synced());
    }

    #[test]
    fn a_delta_switches_once_and_is_answered_each_time() {
        let mut light = light();
        let delta = br#"{"twin":{"power-status":{"actual":{"value":"OFF"}}},"delta":{"power-status":"ON"}}"#;
        assert_eq!(light.handle_message(DELTA, delta), [told(Power::On), report("ON"), reported(Power::On)]);
        assert_eq!(light.handle_message(DELTA, delta), [report("ON"), reported(Power::On)]);
        let off = br#"{"twin":{"power-status":{"actual":{"value":"ON"}}},"delta":{"power-status":"OFF"}}"#;
        assert_eq!(light.handle_message(DELTA, off), [told(Power::Off), report("OFF"), reported(Power::Off)]);
    }

    #[test]
    fn a_twin_that_agrees_is_left_alone() {
        let mut light = light();
        let agreed = br#"{"twin":{"power-status":{"expected":{"value":"OFF"},"actual":{"value":"OFF"}}}}"#;
        assert_eq!(light.handle_message(GET, agreed), []);
        assert_eq!(light.handle_message(RESULT, agreed), []);
    }

    #[test]
    fn a_twin_without_desired_value_is_told_what_the_light_is() {
        let mut light = light();
        assert_eq!(light.handle_message(GET, br#"{"twin":{}}"#), [report("OFF"), reported(Power::Off)]);
    }

    #[test]
    fn what_a_light_cannot_be_changes_nothing_and_the_truth_is_reported() {
        let mut light = light();
        let actions = light.handle_message(DELTA, br#"{"delta":{"power-status":"dim"}}"#);
        assert_eq!(
            actions,
            [
                Action::Tell(LightEvent::Failed {
                    reason: r#"power-status "dim" is neither ON nor OFF"#.into()
                }),
                report("OFF"),
                reported(Power::Off),
            ]
        );
    }

    #[test]
    fn an_unknown_device_is_asked_for_again() {
        let mut light = light();
        let actions = light.handle_message(GET, br#"{"code":404,"reason":"no such device"}"#);
        assert_eq!(actions, [refused(GET, "404: no such device".into())]);
        assert!(!light.is_synced());
        assert_eq!(light.handle_timeout(), [publish("twin/get", r#"{"event_id":"","timestamp":0}"#)]);
        assert_eq!(light.handle_message(GET, br#"{"code":404,"reason":"no such device"}"#), []);
        light.handle_message(GET, br#"{"twin":{}}"#);
        assert_eq!(light.handle_message(GET, br#"{"code":404,"reason":"no such device"}"#).len(), 1);
    }

    #[test]
    fn other_topics_and_broken_documents_switch_nothing() {
        let mut light = light();
        let on = br#"{"delta":{"power-status":"ON"}}"#;
        assert_eq!(light.handle_message("$hw/events/device/other/twin/update/delta", on), []);
        assert_eq!(light.handle_message("$hw/events/device/led/twin/update", on), []);
        let actions = light.handle_message(DELTA, b"ON");
        assert!(matches!(actions.as_slice(), [Action::Tell(LightEvent::Refused { .. })]), "{actions:?}");
        assert_eq!(light.lamp.power(), Power::Off);
    }

    fn light() -> Light {
        let topics = DeviceTopics::new(&"led".parse().unwrap(), TopicForm::Bare);
        Light::new(topics, Lamp::open(&LampConfig::Simulated).unwrap())
    }

    fn publish(tail: &str, payload: &str) -> Action {
        Action::Publish {
            topic: format!("$hw/events/device/led/{tail}"),
            payload: payload.as_bytes().to_vec(),
        }
    }

    fn report(state: &str) -> Action {
        let payload = format!(
            r#"{{"event_id":"","timestamp":0,"twin":{{"power-status":{{"actual":{{"value":"{state}"}},"metadata":{{"type":"Updated"}}}}}}}}"#
        );
        publish("twin/update", &payload)
    }

    fn told(state: Power) -> Action {
        Action::Tell(LightEvent::Light { state })
    }

    fn reported(state: Power) -> Action {
        Action::Tell(LightEvent::Reported { state })
    }
}
