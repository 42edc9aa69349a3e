//! The message that a journey is about, and how it is asked for.

use crate::world::*;
use broker_core::Config;
use midge_policy::SubscribeMode;
use mqtt_proto::{Packet, Publication, Publish, PublishProperties, QoS, Will};
use std::sync::Arc;

/// `press` publishes something to a topic, and `ops` reads it.
#[derive(Clone, Debug)]
pub(super) struct Course {
    pub(super) topic: &'static str,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) is_will: bool,
    pub(super) is_shared: bool,
    /// Whether the reader may have everything and asks for it.
    pub(super) is_wide: bool,
    /// Whether the writer's rule says its topic by a capture.
    pub(super) is_filled_in: bool,
    /// What becomes of a SUBSCRIBE that is allowed in part.
    pub(super) mode: SubscribeMode,
    pub(super) config: Config,
}

pub(super) fn message(qos: QoS) -> Course {
    Course {
        topic: "secret",
        qos,
        retain: false,
        is_will: false,
        is_shared: false,
        is_wide: false,
        is_filled_in: false,
        mode: SubscribeMode::Reject,
        config: Config::default(),
    }
}

pub(super) fn retained_message(qos: QoS) -> Course {
    Course { retain: true, ..message(qos) }
}

/// A will, of QoS 1: so it waits for who is away.
pub(super) fn last_will() -> Course {
    Course { is_will: true, ..message(Q1) }
}

pub(super) fn shared_message(qos: QoS) -> Course {
    Course { is_shared: true, ..message(qos) }
}

impl Course {
    /// The topic as the writer's rule has it.
    pub(super) fn listed(&self, who: &str) -> &'static str {
        if self.is_filled_in && who == super::losses::PRESS { "line/{me}/secret" } else { self.topic }
    }

    /// The widest filter that matches the topic.
    pub(super) fn widest(&self) -> &'static str {
        if self.topic.starts_with('$') { "$box/#" } else { "#" }
    }

    /// What the reader asks for: in part more than it may have, where that is not refused.
    pub(super) fn filter(&self) -> String {
        let is_reject = self.mode == SubscribeMode::Reject;
        let filter = if self.is_wide || !is_reject { self.widest() } else { self.topic };
        if self.is_shared { format!("$share/g/{filter}") } else { filter.to_owned() }
    }

    pub(super) fn subscribe(&self) -> Packet {
        if self.is_wide || self.mode != SubscribeMode::Reject {
            subscribe([sub(&self.filter(), Q2)])
        } else {
            subscribe([sub("open", Q2), sub(&self.filter(), Q2)])
        }
    }

    pub(super) fn publication(&self, payload: &str) -> Publication {
        let response_topic = Some(topic_name("answer"));
        let properties = PublishProperties { response_topic, ..PublishProperties::default() };
        Publication {
            topic: topic_name(self.topic),
            payload: payload.to_owned().into(),
            qos: self.qos,
            retain: self.retain,
            properties: Some(Arc::new(properties)),
        }
    }

    pub(super) fn publish(&self, payload: &str) -> Publish {
        let Publication { retain, properties, .. } = self.publication(payload);
        Publish { retain, properties, ..publish(self.topic, payload, self.qos) }
    }

    pub(super) fn will(&self, payload: &str, delay_secs: u32) -> Option<Will> {
        Some(Will { message: self.publication(payload), delay_secs })
    }
}
