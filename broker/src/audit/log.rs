//! The same events as lines of the process's own log: who came, who went, and who was turned away, at INFO.
//!
//! A peer can cause them at will, but not fill the log with them: what gets here has passed the audit log's limiter.

use super::{close_reason, name};
use broker_core::{AuditEvent, AuditKind};
use midge_identity::Proof;
use midge_policy::Denial;
use mqtt_proto::Version;

/// How an identity was proven, in fields.
#[derive(Default)]
struct Shown<'a> {
    kind: &'static str,
    serial: Option<&'a str>,
    pid: Option<u32>,
    uid: Option<u32>,
    entry: Option<&'a str>,
}

fn shown(proof: &Proof) -> Shown<'_> {
    match proof {
        Proof::X509Svid { serial, .. } => {
            Shown { kind: "x509-svid", serial: Some(serial), ..Shown::default() }
        }
        Proof::Local { pid, uid, entry_id, .. } => {
            Shown { kind: "local", serial: None, pid: Some(*pid), uid: Some(*uid), entry: Some(entry_id) }
        }
    }
}

/// Writes one event.
pub(super) fn event(event: &AuditEvent, remote: Option<&str>) {
    let (identity, client_id) = (&*event.identity, &*event.client_id);
    match &event.kind {
        AuditKind::Connected { listener, version, proof, session_present } => {
            let Shown { kind, serial, pid, uid, entry } = shown(proof);
            let protocol = if *version == Version::V5 { "5.0" } else { "3.1.1" };
            tracing::info!(%identity, client_id, listener = &**listener, remote, protocol, proof = kind, serial, pid, uid,
                entry, session_present, "client connected");
        }
        AuditKind::Disconnected { listener, cause, messages_in, messages_out, .. } => {
            tracing::info!(%identity, client_id, listener = listener.as_deref(), remote, reason = close_reason(cause),
                messages_in, messages_out, "client disconnected");
        }
        AuditKind::ConnectRefused { listener, reason, denial } => {
            let reason = denial.as_ref().map_or_else(|| reason.to_string(), Denial::to_string);
            tracing::info!(%identity, client_id, listener = &**listener, remote, reason, "client refused");
        }
        AuditKind::PublishDenied { topic, denial, .. }
        | AuditKind::WillDenied { topic, denial, .. }
        | AuditKind::ReceiveDenied { topic, denial } => {
            let (event, topic, reason) = (name(&event.kind), &**topic, denial.to_string());
            tracing::info!(%identity, client_id, event, topic, reason, "denied");
        }
        AuditKind::SubscribeDenied { filter, denial } | AuditKind::SubscriptionRevoked { filter, denial } => {
            let (event, filter, reason) = (name(&event.kind), &**filter, denial.to_string());
            tracing::info!(%identity, client_id, event, filter, reason, "denied");
        }
        AuditKind::Withheld { topic, count, .. } => {
            tracing::info!(%identity, client_id, event = name(&event.kind), topic = &**topic, count, "denied");
        }
        AuditKind::Subscribed { filter, .. } | AuditKind::Unsubscribed { filter } => {
            tracing::debug!(%identity, client_id, event = name(&event.kind), filter = &**filter, "client");
        }
        AuditKind::SessionEnded | AuditKind::Reauthenticated { .. } | AuditKind::RetainedPurged { .. } => {
            tracing::debug!(%identity, client_id, event = name(&event.kind), "client");
        }
    }
}
