//! What the broker did, as tests read it.

use broker_core::{AuditEvent, AuditKind, Delivery};
use mqtt_proto::*;
use std::num::NonZeroU16;
use std::sync::Arc;

pub(crate) fn packet_of(delivery: &Delivery) -> Publish {
    let publication = delivery.message.publication();
    let properties = publication.properties.as_deref().map(|properties| {
        Arc::new(PublishProperties { message_expiry_secs: delivery.expiry_secs, ..properties.clone() })
    });
    Publish {
        dup: delivery.dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: (!delivery.omit_topic).then(|| publication.topic.clone()),
        packet_id: delivery.packet_id,
        topic_alias: delivery.topic_alias,
        subscription_ids: delivery.subscription_ids.as_deref().unwrap_or_default().to_vec(),
        properties,
        payload: publication.payload.clone(),
    }
}

pub(crate) fn spell(packet: &Packet) -> String {
    let ack = |name: &str, ack: &Ack| format!("{name} {} {:02X}", ack.packet_id, ack.reason as u8);
    let reasons = |name: &str, ack: &SubAck| {
        let codes: Vec<_> = ack.reasons.iter().map(|reason| format!("{:02X}", *reason as u8)).collect();
        format!("{name} {} [{}]", ack.packet_id, codes.join(" "))
    };
    match packet {
        Packet::ConnAck(ack) => {
            format!("CONNACK {:02X}{}", ack.reason as u8, if ack.session_present { " present" } else { "" })
        }
        Packet::PubAck(it) => ack("PUBACK", it),
        Packet::PubRec(it) => ack("PUBREC", it),
        Packet::PubRel(it) => ack("PUBREL", it),
        Packet::PubComp(it) => ack("PUBCOMP", it),
        Packet::SubAck(it) => reasons("SUBACK", it),
        Packet::UnsubAck(it) => reasons("UNSUBACK", it),
        Packet::Disconnect(it) => format!("DISCONNECT {:02X}", it.reason as u8),
        Packet::PingResp => "PINGRESP".to_owned(),
        Packet::Auth(it) => {
            let data = it.data.as_deref().map(|data| format!(" {:?}", String::from_utf8_lossy(data)));
            format!(
                "AUTH {:02X} {}{}",
                it.reason as u8,
                it.method.as_deref().unwrap(),
                data.unwrap_or_default()
            )
        }
        other => panic!("a server never sends {other:?}"),
    }
}

/// A PUBLISH that went the short way.
pub(crate) fn spell_plain(publish: &Publish) -> String {
    let payload = std::str::from_utf8(&publish.payload).unwrap();
    let text = format!("PUBLISH {} {payload:?} q{}", publish.topic.as_ref().unwrap(), publish.qos as u8);
    publish.packet_id.map_or(text.clone(), |id| format!("{text} #{id}"))
}

pub(crate) fn spell_delivery(delivery: &Delivery) -> String {
    let publication = delivery.message.publication();
    let payload = std::str::from_utf8(&publication.payload).unwrap();
    let mut text = format!("PUBLISH {} {payload:?} q{}", publication.topic, delivery.qos as u8);
    let mut add = |flag: bool, what: String| {
        if flag {
            text.push(' ');
            text.push_str(&what);
        }
    };
    add(delivery.packet_id.is_some(), format!("#{}", delivery.packet_id.map_or(0, NonZeroU16::get)));
    add(delivery.retain, "retain".to_owned());
    add(delivery.dup, "dup".to_owned());
    add(
        delivery.subscription_ids.is_some(),
        format!("ids={:?}", delivery.subscription_ids.as_deref().unwrap_or(&[])),
    );
    add(delivery.topic_alias.is_some(), format!("alias={}", delivery.topic_alias.map_or(0, NonZeroU16::get)));
    add(delivery.omit_topic, "no-topic".to_owned());
    add(delivery.expiry_secs.is_some(), format!("expiry={}", delivery.expiry_secs.unwrap_or(0)));
    text
}

pub(crate) fn spell_audit(event: &AuditEvent) -> String {
    let who = format!("{}/{}", event.identity.path().trim_start_matches('/'), event.client_id);
    let what = match &event.kind {
        AuditKind::Connected { session_present, .. } => format!("connected present={session_present}"),
        AuditKind::ConnectRefused { reason, denial: Some(denial), .. } => {
            format!("connect denied {:02X}: {denial}", *reason as u8)
        }
        AuditKind::ConnectRefused { reason, denial: None, .. } => {
            format!("connect refused {:02X}", *reason as u8)
        }
        AuditKind::Disconnected { cause, messages_in, messages_out, .. } => {
            format!("disconnected {cause:?} in={messages_in} out={messages_out}")
        }
        AuditKind::SessionEnded => "session ended".to_owned(),
        AuditKind::Reauthenticated { .. } => "reauthenticated".to_owned(),
        AuditKind::Subscribed { filter, qos, rule, .. } => {
            format!("subscribed {filter} q{} by {rule}", *qos as u8)
        }
        AuditKind::SubscribeDenied { filter, .. } => format!("subscribe denied {filter}"),
        AuditKind::SubscriptionRevoked { filter, .. } => format!("subscription revoked {filter}"),
        AuditKind::Unsubscribed { filter } => format!("unsubscribed {filter}"),
        AuditKind::PublishDenied { topic, stage, .. } => format!("publish denied {topic} {stage:?}"),
        AuditKind::WillDenied { topic, stage, .. } => format!("will denied {topic} {stage:?}"),
        AuditKind::ReceiveDenied { topic, .. } => format!("receive denied {topic}"),
        AuditKind::Withheld { topic, rule, count, .. } => {
            let rule = rule.as_ref().map_or("(none)", |rule| rule.text());
            format!("receive denied {count} more {topic} by {rule}")
        }
        AuditKind::RetainedPurged { topic } => format!("retained purged {topic}"),
    };
    format!("{who} {what}")
}
