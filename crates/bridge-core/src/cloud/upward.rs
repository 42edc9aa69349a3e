//! Reports and requests of the edge.

use super::{CloudEffect, CloudSync, Storing, bare};
use crate::audit::AUDIT_RESOURCE;
use crate::message::operation;
use crate::{AuditRequest, DeviceId, Message, Now, SigningKind, SigningRequest};
use serde_json::Value;

/// Longest id of a spool in bytes: it is kept with what came from there. Ours are UUIDs.
const SPOOL_ID_BYTES_MAX: usize = 64;

/// Names one report or request until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTicket(String);

/// What a report is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpwardKind {
    /// Twin of a device.
    Twin(DeviceId),
    /// State of a device.
    State(DeviceId),
    /// An application's upload; the resource is its topic.
    Upload,
    /// An event of a stream.
    Audit(String),
    /// Status of the edge.
    Status,
}

/// A report of the edge.
#[derive(Clone, Debug, PartialEq)]
pub struct Upward {
    /// Resource of the message.
    pub resource: String,
    /// What it is about.
    pub kind: UpwardKind,
    /// Position in the edge's spool; a stock edgehub has none.
    pub seq: Option<u64>,
    /// Id of that spool: positions of different spools do not compare.
    pub spool: String,
    /// Content; a JSON string that holds an object is already parsed.
    pub content: Value,
}

impl CloudSync {
    pub(super) fn handle_upward(&mut self, message: &Message, now: Now) {
        let ticket = StoreTicket(message.header.id.clone());
        let weight = message.weight();
        let bytes = self.storing_bytes.saturating_add(weight);
        let full = self.storing.len() >= self.limits.storing
            || (bytes > self.limits.storing_bytes && !self.storing.is_empty());
        // Over the limit the edge sends it again; a copy of what is being stored adds nothing.
        if full || self.storing.contains_key(&ticket) {
            return;
        }
        let signing = SigningKind::of_resource(&message.route.resource)
            .filter(|_| message.route.operation == operation::QUERY);
        let effect = match (signing, kind_of(message)) {
            _ if message.route.resource == AUDIT_RESOURCE => match audit_request(message) {
                Ok(request) => CloudEffect::Audit(ticket.clone(), request),
                Err(reason) => {
                    let answer = message.error(&mut self.ids, now, &reason);
                    self.send(answer);
                    return;
                }
            },
            (Some(kind), _) => match SigningRequest::parse(&message.content) {
                Ok(request) => CloudEffect::Sign(ticket.clone(), kind, request),
                Err(reason) => {
                    let answer = message.error(&mut self.ids, now, &reason);
                    self.send(answer);
                    return;
                }
            },
            (None, Some(kind)) => CloudEffect::Store(ticket.clone(), upward_of(message, kind)),
            (None, None) => {
                // An answer would be a promise to keep it.
                let answer = message.error(&mut self.ids, now, "unsupported resource");
                self.send(answer);
                return;
            }
        };
        self.storing_bytes = bytes;
        self.storing.insert(ticket, Storing { message: bare(message), weight });
        self.effects.push_back(effect);
    }
}

fn audit_request(message: &Message) -> Result<AuditRequest, String> {
    match message.route.operation.as_str() {
        operation::QUERY => Ok(AuditRequest::Place),
        operation::INSERT => serde_json::from_value(message.content.clone())
            .map(AuditRequest::Append)
            .map_err(|error| format!("malformed lines of an audit log: {error}")),
        other => Err(format!("unsupported operation {other}")),
    }
}

fn kind_of(message: &Message) -> Option<UpwardKind> {
    let route = &message.route;
    if route.operation == operation::UPLOAD && route.group == "user" {
        return Some(UpwardKind::Upload);
    }
    if !matches!(route.operation.as_str(), operation::UPDATE | operation::INSERT) {
        return None;
    }
    if route.resource == "identity/status" {
        return Some(UpwardKind::Status);
    }
    if let Some(stream) = route.resource.strip_prefix("audit/") {
        return Some(UpwardKind::Audit(stream.to_owned()));
    }
    let device = route.resource.strip_prefix("device/")?;
    if let Some(id) = device.strip_suffix("/twin/edge_updated") {
        return Some(UpwardKind::Twin(id.parse().ok()?));
    }
    Some(UpwardKind::State(device.strip_suffix("/state/update")?.parse().ok()?))
}

fn upward_of(message: &Message, kind: UpwardKind) -> Upward {
    let (spool, seq) = match message.header.resource_version.rsplit_once('-') {
        Some((spool, seq)) if spool.len() <= SPOOL_ID_BYTES_MAX => (spool.to_owned(), seq.parse().ok()),
        Some(_) | None => (String::new(), None),
    };
    let content = match (&kind, &message.content) {
        (UpwardKind::Twin(_) | UpwardKind::State(_), Value::String(text)) => {
            serde_json::from_str(text).unwrap_or(Value::Null)
        }
        (_, content) => content.clone(),
    };
    Upward { resource: message.route.resource.clone(), kind, seq, spool, content }
}
