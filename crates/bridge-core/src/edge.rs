//! The edge end of the channel.
//!
//! Owns the order in which the cloud's changes are applied, what is acknowledged and when, the
//! upward spool, certificate requests and the signs of life. Leaves the websocket, the store and
//! the meaning of changes to the shell.

mod audit;
mod downward;
mod requests;
mod upward;

use crate::message::operation;
use crate::spool::Pushed;
use crate::{
    AuditPlace, Change, Cursor, Extent, Limits, Message, MessageIds, Now, PeerFault, Route, SignedChain,
    SigningKind, Spool, SpoolWrite,
};
use audit::AuditUpload;
use downward::{Applying, Downward};
use requests::{Hello, Signing};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use upward::InFlight;

/// What an edge end needs to start.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Bounds and periods.
    pub limits: Limits,
    /// Seed of message ids.
    pub seed: u64,
}

/// What the shell is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum EdgeEffect {
    /// Send on the websocket.
    Send(Box<Message>),
    /// Apply these changes and store the cursor, all or nothing, then call [`EdgeSync::handle_applied`].
    Apply {
        /// Changes in order.
        changes: Vec<Change>,
        /// Cursor to store with them.
        cursor: Cursor,
        /// How much of what there is they are.
        extent: Extent,
    },
    /// Delete this of the spool: the cloud has it. What of these is not committed, or lost with the power, is sent
    /// again after a restart, and the cloud knows it.
    Forget(SpoolWrite),
    /// Install a certificate, then call [`EdgeSync::handle_installed`].
    Install(SigningKind, SignedChain),
    /// Read the signed lines of the audit log after this one, which the cloud has; all there are when it has none
    /// or one that is not in the log. Then call [`EdgeSync::handle_audit_read`].
    ReadAudit {
        /// What the cloud has last.
        after: Option<AuditPlace>,
    },
    /// Close the websocket; the edge end already counts as disconnected.
    Disconnect(PeerFault),
}

/// The edge end: one for the life of the process, over many connections.
#[derive(Debug)]
pub struct EdgeSync {
    limits: Limits,
    ids: MessageIds,
    cursor: Cursor,
    spool: Spool,
    /// What is being stored.
    staged: Vec<Pushed>,
    link: Option<Link>,
    generation: u64,
    applying: Option<Applying>,
    signing: BTreeMap<SigningKind, Signing>,
    audit: AuditUpload,
    last_error: Option<String>,
    effects: VecDeque<EdgeEffect>,
}

/// State of one connection.
#[derive(Debug)]
struct Link {
    keepalive_at: Duration,
    heard_at: Duration,
    hello: Hello,
    downward: Downward,
    in_flight: BTreeMap<u64, InFlight>,
    sent_seq: u64,
}

impl EdgeSync {
    /// Starts disconnected, from what is on disk.
    pub fn new(config: EdgeConfig, cursor: Option<Cursor>, spool: Spool) -> Self {
        Self {
            limits: config.limits,
            ids: MessageIds::new(config.seed),
            cursor: cursor.unwrap_or_default(),
            spool,
            staged: Vec::new(),
            link: None,
            generation: 0,
            applying: None,
            signing: BTreeMap::new(),
            audit: AuditUpload::default(),
            last_error: None,
            effects: VecDeque::new(),
        }
    }

    /// How far the cloud's log has been applied.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// What waits to go up.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Tells whether the cloud has answered this connection's cursor.
    pub fn is_greeted(&self) -> bool {
        self.link.as_ref().is_some_and(|link| matches!(link.hello, Hello::Done))
    }

    /// The last thing that went wrong on the channel, until something succeeds.
    pub fn last_error(&self) -> Option<&str> {
        let missing = self.signing.values().find_map(|signing| signing.error.as_deref());
        missing.or(self.last_error.as_deref())
    }

    /// Starts a connection: sign of life, cursor, everything unacknowledged.
    pub fn handle_connected(&mut self, now: Now) {
        self.handle_disconnected();
        self.generation = self.generation.wrapping_add(1);
        self.link = Some(Link {
            keepalive_at: now.mono,
            heard_at: now.mono,
            hello: Hello::Due(now.mono),
            downward: Downward::default(),
            in_flight: BTreeMap::new(),
            sent_seq: 0,
        });
        self.handle_timeout(now);
        self.pump_upward(now);
    }

    /// Ends the connection; what was not acknowledged will be sent again.
    pub fn handle_disconnected(&mut self) {
        self.link = None;
        // What was to be sent belongs to the old connection.
        self.effects.retain(|effect| !matches!(effect, EdgeEffect::Send(_) | EdgeEffect::ReadAudit { .. }));
        self.audit.stop();
        for signing in self.signing.values_mut() {
            signing.forget_sent();
        }
    }

    /// Takes in a message of the cloud.
    pub fn handle_message(&mut self, message: &Message, now: Now) {
        let Some(link) = &mut self.link else { return };
        link.heard_at = now.mono;
        if message.is_probe() {
            let answer = message.response(&mut self.ids, now, "ack".into());
            self.send(answer);
        } else if matches!(message.route.operation.as_str(), operation::RESPONSE | operation::ERROR) {
            self.handle_answer(message, now);
        } else {
            self.handle_downward(message, now);
        }
        self.pump_upward(now);
    }

    fn handle_answer(&mut self, message: &Message, now: Now) {
        let refused = message.route.operation == operation::ERROR;
        let parent = message.header.parent_id.as_str();
        // A late copy of an answer finds its question gone and changes nothing.
        let known = if self.answers_hello(parent) {
            self.handle_hello_answer(message, refused, now);
            true
        } else if let Some(kind) = self.answered_signing(parent) {
            self.handle_signing_answer(kind, message, refused, now);
            true
        } else if self.audit.is_answered_by(parent) {
            self.handle_audit_answer(message, refused, now);
            // Told apart from what the box needs to work.
            false
        } else {
            self.handle_upward_answer(parent, refused, now)
        };
        if known && refused {
            let reason = text_of(&message.content);
            self.last_error = Some(format!("the cloud refused {}: {reason}", message.route.resource));
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let Some(link) = &mut self.link else { return };
        let silent = now.mono.saturating_sub(link.heard_at);
        if silent >= self.limits.keepalive_every.saturating_mul(3) {
            self.disconnect(PeerFault::CloudSilent { secs: silent.as_secs() });
            return;
        }
        if now.mono >= link.keepalive_at {
            link.keepalive_at = now.mono.saturating_add(self.limits.keepalive_every);
            let keepalive = Message::keepalive(&mut self.ids, now);
            self.send(keepalive);
            // The cloud never answers a keepalive; a ping shows whether it is there.
            if silent >= self.limits.keepalive_every {
                let route = Route::new("websocket", "resource", operation::PING, "node");
                let ping = Message::new(&mut self.ids, now, route, Value::Null);
                self.send(ping);
            }
        }
        self.retry_apply(now);
        self.send_hello_when_due(now);
        self.send_signing_when_due(now);
        self.retransmit_upward(now);
        self.upload_audit_when_due(now);
    }

    /// Next effect to execute.
    pub fn poll_effect(&mut self) -> Option<EdgeEffect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, in monotonic time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let link = self.link.as_ref()?;
        let dead_at = link.heard_at.saturating_add(self.limits.keepalive_every.saturating_mul(3));
        let fixed = [Some(link.keepalive_at), Some(dead_at), link.hello.due(self.applying.is_some())];
        let signing = self.signing.values().filter_map(Signing::due);
        let in_flight = link.in_flight.values().map(|sent| sent.again_at);
        let apply = link.downward.retry_at.filter(|_| self.applying.is_none());
        let audit = self.audit.due();
        fixed.into_iter().flatten().chain(signing).chain(in_flight).chain(apply).chain(audit).min()
    }

    fn disconnect(&mut self, fault: PeerFault) {
        self.last_error = Some(fault.to_string());
        self.handle_disconnected();
        self.effects.push_back(EdgeEffect::Disconnect(fault));
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(EdgeEffect::Send(Box::new(message)));
    }

    fn hello_message(&mut self, now: Now) -> Message {
        let route = Route::new("edgehub", "resource", operation::QUERY, "sync/cursor");
        let content = json!({
            "log": self.cursor.log,
            "revision": self.cursor.revision,
            "spool": self.spool.id(),
            "dropped": self.spool.dropped(),
        });
        let mut message = Message::new(&mut self.ids, now, route, content);
        message.header.sync = true;
        message
    }
}

fn text_of(content: &Value) -> String {
    let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
    text.chars().take(500).collect()
}
