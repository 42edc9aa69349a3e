//! The box's audit log on its way up: the cloud says which line it has last, and gets what follows, a batch at a
//! time. Nothing is kept here or in the spool: the log is on disk, and how far the cloud is, the cloud knows.

use super::{EdgeEffect, EdgeSync, text_of};
use crate::audit::{AUDIT_RESOURCE, AuditBatch, AuditPlace, place_of};
use crate::message::operation;
use crate::{Message, Now, Route};
use serde_json::Value;
use std::time::Duration;

/// How the upload stands.
#[derive(Debug, Default)]
pub(super) struct AuditUpload {
    state: State,
    /// What the cloud has said it has.
    place: Option<AuditPlace>,
    error: Option<String>,
}

#[derive(Debug, Default)]
enum State {
    /// There is no connection, or the cloud has not greeted.
    #[default]
    Off,
    /// The cloud is to be asked how far it is.
    Due(Duration),
    /// The log is being read.
    Reading,
    /// A question or a batch, until it is answered.
    Sent { message: Box<Message>, again_at: Duration },
    /// The cloud has all there was.
    Resting(Duration),
}

impl AuditUpload {
    pub(super) fn due(&self) -> Option<Duration> {
        match &self.state {
            State::Due(at) | State::Resting(at) | State::Sent { again_at: at, .. } => Some(*at),
            State::Off | State::Reading => None,
        }
    }

    pub(super) fn stop(&mut self) {
        self.state = State::Off;
    }

    pub(super) fn is_answered_by(&self, parent: &str) -> bool {
        matches!(&self.state, State::Sent { message, .. } if message.header.id == parent)
    }
}

impl EdgeSync {
    /// Which line of the box's audit log the cloud has last, as it said on this or an earlier connection.
    pub fn audit_place(&self) -> Option<&AuditPlace> {
        self.audit.place.as_ref()
    }

    /// Why the audit log is not taken by the cloud at present.
    pub fn audit_error(&self) -> Option<&str> {
        self.audit.error.as_deref()
    }

    /// Takes in what an [`EdgeEffect::ReadAudit`] found: lines, or none when the cloud has all there is.
    pub fn handle_audit_read(&mut self, read: Result<Option<AuditBatch>, String>, now: Now) {
        if !matches!(self.audit.state, State::Reading) {
            return;
        }
        let later = |pause: Duration| State::Resting(now.mono.saturating_add(pause));
        match read {
            // What was read for an earlier connection may not be what follows now.
            Ok(Some(batch)) if batch.after != self.audit.place => self.read_audit(),
            Ok(Some(batch)) => {
                let route = Route::new("edgehub", "resource", operation::INSERT, AUDIT_RESOURCE);
                self.send_audit(route, batch.content(), now);
            }
            Ok(None) => {
                self.audit.error = None;
                self.audit.state = later(self.limits.audit_every);
            }
            Err(error) => {
                self.audit.error = Some(format!("the audit log cannot be read: {error}"));
                self.audit.state = later(self.limits.refused_retry_after);
            }
        }
    }

    /// Begins when the cloud has greeted: who does not greet is no Midge, and would not know what to do with it.
    pub(super) fn begin_audit(&mut self, now: Now) {
        if matches!(self.audit.state, State::Off) {
            self.audit.state = State::Due(now.mono);
        }
        self.upload_audit_when_due(now);
    }

    pub(super) fn upload_audit_when_due(&mut self, now: Now) {
        if self.link.is_none() || self.audit.due().is_none_or(|at| now.mono < at) {
            return;
        }
        match &mut self.audit.state {
            State::Due(_) => {
                let route = Route::new("edgehub", "resource", operation::QUERY, AUDIT_RESOURCE);
                self.send_audit(route, Value::Null, now);
            }
            State::Resting(_) => self.read_audit(),
            State::Sent { message, again_at } => {
                *again_at = now.mono.saturating_add(self.limits.retransmit_after);
                self.effects.push_back(EdgeEffect::Send(message.clone()));
            }
            State::Off | State::Reading => {}
        }
    }

    pub(super) fn handle_audit_answer(&mut self, message: &Message, refused: bool, now: Now) {
        let place = if refused { Err(text_of(&message.content)) } else { place_of(&message.content) };
        match place {
            Ok(place) => {
                self.audit.place = place;
                self.audit.error = None;
                self.read_audit();
            }
            Err(reason) => {
                self.audit.error = Some(format!("the cloud does not take the audit log: {reason}"));
                let at = now.mono.saturating_add(self.limits.refused_retry_after);
                self.audit.state = State::Due(at);
            }
        }
    }

    fn read_audit(&mut self) {
        self.audit.state = State::Reading;
        self.effects.push_back(EdgeEffect::ReadAudit { after: self.audit.place.clone() });
    }

    fn send_audit(&mut self, route: Route, content: Value, now: Now) {
        let mut message = Message::new(&mut self.ids, now, route, content);
        message.header.sync = true;
        let message = Box::new(message);
        let again_at = now.mono.saturating_add(self.limits.retransmit_after);
        self.audit.state = State::Sent { message: message.clone(), again_at };
        self.effects.push_back(EdgeEffect::Send(message));
    }
}
