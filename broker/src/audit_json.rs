//! Audit events as JSON: one flat object each, the same key for the same thing in all.

use crate::Refusal;
use broker_core::{AuditEvent, AuditKind, CloseReason};
use midge_identity::{Proof, UnixMillis};
use midge_policy::Denial;
use mqtt_proto::Version;
use serde_json::{Map, Value, json};

type Record = Map<String, Value>;

pub(crate) fn refusal_record(
    at: UnixMillis,
    listener: &str,
    remote: &str,
    client_id: Option<&str>,
    refusal: &Refusal,
) -> Record {
    object(json!({
        "at": at.0, "event": "connection-refused", "listener": listener, "remote": remote,
        "client-id": client_id, "reason": refusal.0,
    }))
}

pub(crate) fn event_record(event: &AuditEvent) -> Record {
    let mut record = object(json!({
        "at": event.at.0, "event": name(&event.kind), "identity": event.identity.to_string(),
        "client-id": &*event.client_id, "connection": event.conn.map(|conn| conn.0),
    }));
    record.extend(object(details(&event.kind)));
    record.retain(|_, value| !value.is_null());
    record
}

fn object(value: Value) -> Record {
    match value {
        Value::Object(map) => map,
        _ => Record::new(),
    }
}

fn name(kind: &AuditKind) -> &'static str {
    match kind {
        AuditKind::Connected { .. } => "connected",
        AuditKind::ConnectRefused { .. } => "connect-refused",
        AuditKind::Disconnected { .. } => "disconnected",
        AuditKind::SessionEnded => "session-ended",
        AuditKind::Reauthenticated { .. } => "reauthenticated",
        AuditKind::Subscribed { .. } => "subscribed",
        AuditKind::SubscribeDenied { .. } => "subscribe-denied",
        AuditKind::SubscriptionRevoked { .. } => "subscription-revoked",
        AuditKind::Unsubscribed { .. } => "unsubscribed",
        AuditKind::PublishDenied { .. } => "publish-denied",
        AuditKind::WillDenied { .. } => "will-denied",
        AuditKind::ReceiveDenied { .. } => "receive-denied",
        AuditKind::RetainedPurged { .. } => "retained-purged",
    }
}

fn details(kind: &AuditKind) -> Value {
    match kind {
        AuditKind::Connected { version, proof, session_present } => json!({
            "protocol": if *version == Version::V5 { "5.0" } else { "3.1.1" },
            "proof": proof_json(proof), "session-present": session_present,
        }),
        AuditKind::ConnectRefused { reason, denial } => json!({
            "code": *reason as u8, "reason": denial.as_ref().map_or_else(|| reason.to_string(), Denial::to_string),
            "rule": denial.as_ref().and_then(rule),
        }),
        AuditKind::Disconnected { cause, messages_in, messages_out } => json!({
            "reason": close_reason(cause), "messages-in": messages_in, "messages-out": messages_out,
        }),
        AuditKind::SessionEnded => json!({}),
        AuditKind::Reauthenticated { expires } => json!({ "expires": expires.map(|time| time.0) }),
        AuditKind::Subscribed { filter, qos, rule } => json!({
            "filter": &**filter, "qos": *qos as u8, "rule": &**rule,
        }),
        AuditKind::SubscribeDenied { filter, denial } | AuditKind::SubscriptionRevoked { filter, denial } => {
            json!({
                "filter": &**filter, "reason": denial.to_string(), "rule": rule(denial),
            })
        }
        AuditKind::Unsubscribed { filter } => json!({ "filter": &**filter }),
        AuditKind::PublishDenied { topic, denial, .. }
        | AuditKind::WillDenied { topic, denial, .. }
        | AuditKind::ReceiveDenied { topic, denial } => json!({
            "topic": &**topic, "reason": denial.to_string(), "rule": rule(denial),
        }),
        AuditKind::RetainedPurged { topic } => json!({ "topic": &**topic }),
    }
}

fn rule(denial: &Denial) -> Option<String> {
    denial.rule.as_ref().map(ToString::to_string)
}

fn proof_json(proof: &Proof) -> Value {
    match proof {
        Proof::X509Svid { serial, .. } => json!({ "kind": "x509-svid", "serial": &**serial }),
        Proof::Local { pid, uid, entry_id } => {
            json!({ "kind": "local", "pid": pid, "uid": uid, "entry": &**entry_id })
        }
    }
}

pub(crate) fn close_reason(reason: &CloseReason) -> String {
    match reason {
        CloseReason::Refused(code) => format!("CONNECT refused: {code}"),
        CloseReason::ClientDisconnected(code) => format!("client sent DISCONNECT: {code}"),
        CloseReason::Lost(_) => "network connection lost".into(),
        CloseReason::TakenOver => "taken over by a new connection of the same identity and client id".into(),
        CloseReason::KeepAlive => "keep alive timeout".into(),
        CloseReason::Protocol(code) => format!("protocol violation: {code}"),
        CloseReason::Slow => "client does not read what it is sent".into(),
        CloseReason::Denied => "publish denied".into(),
        CloseReason::NotAuthenticated => "re-authentication failed".into(),
        CloseReason::SvidExpired => "SVID expired".into(),
        CloseReason::Revoked(why) => format!("identity revoked: {why}"),
        CloseReason::Administrative => "ended by the operator or by a changed entry".into(),
        CloseReason::Drain => "broker stops".into(),
    }
}
