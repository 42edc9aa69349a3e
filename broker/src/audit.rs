//! What the audit log says of connections and decisions: the same key for the same thing in all records.
//!
//! Nothing here looks into a payload, a password or a user property; none of them is ever handed to it.

use crate::Refusal;
use crate::arrivals::Source;
use broker_core::{AuditEvent, AuditKind, CloseReason, RuleTally, Stage};
use midge_audit::{Alike, AuditLog, Peer, Record, Sort, topic_class};
use midge_identity::{Proof, UnixMillis};
use midge_policy::Denial;
use mqtt_proto::Version;
use serde_json::{Map, Value, json};
use std::sync::Arc;

const RECEIVE_DENIED: &str = "receive-denied";

/// Denials of one identity below the same topic that are written in a minute, before the others are counted.
const DENIALS: u32 = 5;
/// Peers are turned away at this rate before the others are counted.
const REFUSALS: u32 = 20;
/// What one identity may do in a minute, of each kind, before it is counted: a client that connects or subscribes
/// in a loop must not wash the others out of the log.
const ROUTINE: u32 = 600;

/// Records that a peer was turned away before the core heard of it.
pub(crate) fn record_refusal(
    log: &AuditLog,
    at: UnixMillis,
    (listener, (remote, source)): (&str, (&str, Source)),
    client_id: Option<&str>,
    refusal: &Refusal,
) {
    let event = "connection-refused";
    // What of a peer is the same each time: neither its port nor its process.
    let host = source.to_string();
    let (peer, sort) = (Peer::Host(&host), Sort::Denial);
    let alike = Alike { peer, event, class: listener, burst: REFUSALS, count: 1, sort, at };
    let Some(admitted) = log.admit(&alike) else { return };
    let (listener, remote) = (listener.to_owned(), remote.to_owned());
    let (client_id, reason) = (client_id.map(str::to_owned), refusal.0.clone());
    admitted.put(move || {
        tracing::info!(listener, remote, client_id, reason, "connection refused");
        Record::new(at, event)
            .with("listener", listener)
            .with("remote", remote)
            .with("client-id", client_id)
            .with("reason", reason)
    });
}

/// Records an event of the core; `remote` is the address of its connection. Called under the core's lock: the record
/// itself is made by the writer.
pub(crate) fn record_event(log: &AuditLog, event: Box<AuditEvent>, remote: Option<Arc<str>>) {
    let identity = event.identity.to_string();
    let (class, burst, sort) = likeness(&event.kind);
    let (name, count) = match &event.kind {
        AuditKind::Withheld { count, .. } => (RECEIVE_DENIED, *count),
        kind => (name(kind), 1),
    };
    let peer = Peer::Identity(&identity);
    let alike = Alike { peer, event: name, class, burst, count, sort, at: event.at };
    let Some(admitted) = log.admit(&alike) else { return };
    admitted.put(move || {
        log::event(&event, remote.as_deref());
        event_record(&event, remote.as_deref())
    });
}

/// Tells whether an event says where its connection comes from; the others have the number of the connection.
pub(crate) fn names_remote(kind: &AuditKind) -> bool {
    matches!(
        kind,
        AuditKind::Connected { .. } | AuditKind::ConnectRefused { .. } | AuditKind::Disconnected { .. }
    )
}

/// What makes events of one identity alike, how many are written in a minute, and what they are about.
fn likeness(kind: &AuditKind) -> (&str, u32, Sort) {
    match kind {
        AuditKind::PublishDenied { topic, .. }
        | AuditKind::WillDenied { topic, .. }
        | AuditKind::ReceiveDenied { topic, .. } => (topic_class(topic), DENIALS, Sort::Denial),
        AuditKind::SubscribeDenied { filter, .. } | AuditKind::SubscriptionRevoked { filter, .. } => {
            (topic_class(filter), DENIALS, Sort::Denial)
        }
        // They are numbers already.
        AuditKind::Withheld { .. } => ("", ROUTINE, Sort::Denial),
        AuditKind::RetainedPurged { topic } => (topic_class(topic), DENIALS, Sort::Routine),
        AuditKind::ConnectRefused { .. } => ("", REFUSALS, Sort::Denial),
        AuditKind::Connected { .. }
        | AuditKind::Disconnected { .. }
        | AuditKind::SessionEnded
        | AuditKind::Reauthenticated { .. }
        | AuditKind::Subscribed { .. }
        | AuditKind::Unsubscribed { .. } => ("", ROUTINE, Sort::Routine),
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
        AuditKind::ReceiveDenied { .. } => RECEIVE_DENIED,
        AuditKind::Withheld { .. } => midge_audit::event::REPEATED,
        AuditKind::RetainedPurged { .. } => "retained-purged",
    }
}

fn event_record(event: &AuditEvent, remote: Option<&str>) -> Record {
    let record = Record::new(event.at, name(&event.kind))
        .with("identity", event.identity.to_string())
        .with("client-id", Some(&*event.client_id).filter(|id| !id.is_empty()))
        .with("connection", event.conn.map(|conn| conn.0));
    let way =
        |record: Record, listener: Option<&str>| record.with("listener", listener).with("remote", remote);
    match &event.kind {
        AuditKind::Connected { listener, version, proof, session_present } => way(record, Some(listener))
            .with("protocol", if *version == Version::V5 { "5.0" } else { "3.1.1" })
            .with("proof", proof_json(proof))
            .with("session-present", *session_present),
        AuditKind::ConnectRefused { listener, reason, denial } => {
            let code = *reason as u8;
            let text = denial.as_ref().map_or_else(|| reason.to_string(), Denial::to_string);
            let record = way(record, Some(listener)).with("code", code).with("reason", text);
            record.with("rule", denial.as_ref().and_then(rule))
        }
        AuditKind::Disconnected { listener, proof, cause, messages_in, messages_out, published, denied } => {
            way(record, listener.as_deref())
                .with("proof", proof_json(proof))
                .with("reason", close_reason(cause))
                .with("messages-in", *messages_in)
                .with("messages-out", *messages_out)
                .with("published", tally_json(published))
                .with("denied", tally_json(denied))
        }
        AuditKind::SessionEnded => record,
        AuditKind::Reauthenticated { proof, expires } => {
            record.with("proof", proof_json(proof)).with("expires", expires.map(|time| time.0))
        }
        AuditKind::Subscribed { filter, qos, rule, parts } => {
            let parts = parts.as_ref().map(|parts| parts.iter().map(|part| &**part).collect::<Vec<_>>());
            record
                .with("filter", &**filter)
                .with("granted", parts)
                .with("qos", *qos as u8)
                .with("rule", &**rule)
        }
        AuditKind::SubscribeDenied { filter, denial } | AuditKind::SubscriptionRevoked { filter, denial } => {
            denied(record.with("filter", &**filter), denial)
        }
        AuditKind::Unsubscribed { filter } => record.with("filter", &**filter),
        AuditKind::PublishDenied { topic, stage, denial }
        | AuditKind::WillDenied { topic, stage, denial } => {
            let at = match stage {
                Stage::Arrival => "arrival",
                Stage::Release => "release",
            };
            denied(record.with("topic", &**topic).with("stage", at), denial)
        }
        AuditKind::ReceiveDenied { topic, denial } => denied(record.with("topic", &**topic), denial),
        AuditKind::Withheld { topic, rule, count, since } => record
            .with("of", RECEIVE_DENIED)
            .with("class", topic_class(topic))
            .with("rule", rule.as_ref().map(ToString::to_string))
            .with("count", *count)
            .with("since", since.0)
            .with("until", event.at.0),
        AuditKind::RetainedPurged { topic } => record.with("topic", &**topic),
    }
}

fn denied(record: Record, denial: &Denial) -> Record {
    record.with("reason", denial.to_string()).with("rule", rule(denial))
}

fn rule(denial: &Denial) -> Option<String> {
    denial.rule.as_ref().map(ToString::to_string)
}

fn tally_json(tally: &RuleTally) -> Option<Value> {
    let counts: Map<String, Value> =
        tally.iter().map(|(rule, count)| (rule.to_owned(), count.into())).collect();
    (!counts.is_empty()).then_some(Value::Object(counts))
}

fn proof_json(proof: &Proof) -> Value {
    match proof {
        Proof::X509Svid { serial, .. } => json!({ "kind": "x509-svid", "serial": &**serial }),
        Proof::Local { pid, uid, entry_id, .. } => {
            json!({ "kind": "local", "pid": pid, "uid": uid, "entry": &**entry_id })
        }
    }
}

fn close_reason(reason: &CloseReason) -> String {
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
        CloseReason::ProofEnded(why) => format!("proof of the identity ended: {why}"),
        CloseReason::Administrative => "ended by an operator".into(),
        CloseReason::Drain => "broker stops".into(),
    }
}

mod log;
#[cfg(test)]
mod tests;
