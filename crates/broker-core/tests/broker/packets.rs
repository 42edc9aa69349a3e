//! What clients say.

use crate::world::{Q0, V5, V311};
use mqtt_proto::*;
use std::num::NonZeroU16;
use std::sync::Arc;

/// CONNECT of 5.0 with a clean start.
pub(crate) fn v5(client_id: &str) -> Connect {
    Connect::new(V5, client_id)
}

/// CONNECT of 5.0 that keeps its session for an hour.
pub(crate) fn durable(client_id: &str) -> Connect {
    Connect { clean_start: false, session_expiry_secs: Some(3600), ..v5(client_id) }
}

/// CONNECT of 3.1.1 with a clean session.
pub(crate) fn v311(client_id: &str) -> Connect {
    Connect { version: V311, ..v5(client_id) }
}

pub(crate) fn will(topic: &str, payload: &str, delay_secs: u32) -> Option<Will> {
    let message = Publication {
        topic: topic_name(topic),
        payload: payload.to_owned().into(),
        qos: Q0,
        retain: false,
        properties: None,
    };
    Some(Will { message, delay_secs })
}

pub(crate) fn topic_name(topic: &str) -> TopicName {
    TopicName::new(topic).unwrap()
}

/// A PUBLISH; its packet identifier is 1 unless QoS is 0.
pub(crate) fn publish(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic_name(topic)),
        packet_id: (qos != Q0).then(|| pid(1)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: payload.to_owned().into(),
    }
}

pub(crate) fn retained(topic: &str, payload: &str) -> Packet {
    Packet::Publish(Box::new(Publish { retain: true, ..publish(topic, payload, Q0) }))
}

pub(crate) fn expiring(topic: &str, payload: &str, qos: QoS, secs: u32) -> Publish {
    let properties = PublishProperties { message_expiry_secs: Some(secs), ..PublishProperties::default() };
    Publish { properties: Some(Arc::new(properties)), ..publish(topic, payload, qos) }
}

pub(crate) fn sub(filter: &str, qos: QoS) -> Subscription {
    Subscription {
        filter: SharedFilter::new(filter).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

pub(crate) fn subscribe<const N: usize>(subscriptions: [Subscription; N]) -> Packet {
    subscribe_with_id(None, subscriptions)
}

pub(crate) fn subscribe_with_id<const N: usize>(id: Option<u32>, subscriptions: [Subscription; N]) -> Packet {
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: pid(77),
        subscription_id: id,
        user_properties: Vec::new(),
        subscriptions: subscriptions.into(),
    }))
}

pub(crate) fn unsubscribe<const N: usize>(filters: [&str; N]) -> Packet {
    let filters = filters.map(|filter| SharedFilter::new(filter).unwrap());
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: pid(78),
        user_properties: Vec::new(),
        filters: filters.into(),
    }))
}

pub(crate) fn pid(id: u16) -> PacketId {
    NonZeroU16::new(id).unwrap()
}

pub(crate) fn ack(id: u16) -> Ack {
    failed(id, ReasonCode::Success)
}

pub(crate) fn failed(id: u16, reason: ReasonCode) -> Ack {
    Ack { packet_id: pid(id), reason, info: None }
}

pub(crate) fn disconnect(reason: ReasonCode) -> Disconnect {
    Disconnect { reason, session_expiry_secs: None, server_reference: None, info: Info::default() }
}

pub(crate) fn bye(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Box::new(disconnect(reason)))
}
