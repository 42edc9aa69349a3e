//! The cloud end of the channel, for one connection of one node.
//!
//! Owns what is sent next and again, what was acknowledged, and the edge's signs of life. Leaves
//! the websocket, the store, certificates and the node's stored log to the shell.

mod outgoing;
mod upward;

use crate::message::operation;
use crate::{
    AuditPlace, AuditRequest, Change, Limits, Message, MessageIds, NodeLog, Now, PeerFault, SignedChain,
    SigningKind, SigningRequest,
};
use outgoing::{Outgoing, Peer};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use upward::{StoreTicket, Upward, UpwardKind};

/// What a cloud end needs to start.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// Bounds and periods.
    pub limits: Limits,
    /// Seed of message ids.
    pub seed: u64,
}

/// What the shell is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudEffect {
    /// Send on the websocket.
    Send(Box<Message>),
    /// Store a report, then call [`CloudSync::handle_stored`] with its ticket.
    Store(StoreTicket, Upward),
    /// Sign a certificate for the node, then call [`CloudSync::handle_signed`] with its ticket.
    Sign(StoreTicket, SigningKind, SigningRequest),
    /// Answer for the node's audit log, then call [`CloudSync::handle_audited`] with its ticket.
    Audit(StoreTicket, AuditRequest),
    /// Close the connection.
    Disconnect(PeerFault),
}

/// A message whose effect is under way: what its answer needs, and what it weighs.
#[derive(Debug)]
struct Storing {
    message: Message,
    weight: usize,
}

/// The cloud end of one connection.
#[derive(Debug)]
pub struct CloudSync {
    limits: Limits,
    ids: MessageIds,
    log: NodeLog,
    peer: Peer,
    out: Outgoing,
    started_at: Duration,
    keepalive_at: Duration,
    storing: BTreeMap<StoreTicket, Storing>,
    storing_bytes: usize,
    last_error: Option<String>,
    effects: VecDeque<CloudEffect>,
    closed: bool,
}

impl CloudSync {
    /// Starts with a fresh connection and the node's log.
    pub fn new(config: CloudConfig, log: NodeLog, now: Now) -> Self {
        Self {
            limits: config.limits,
            ids: MessageIds::new(config.seed),
            log,
            peer: Peer::Unknown,
            out: Outgoing::default(),
            started_at: now.mono,
            keepalive_at: now.mono,
            storing: BTreeMap::new(),
            storing_bytes: 0,
            last_error: None,
            effects: VecDeque::new(),
            closed: false,
        }
    }

    /// The node's log as this connection knows it.
    pub fn log(&self) -> &NodeLog {
        &self.log
    }

    /// The edge's last refusal, until something is acknowledged.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Tells whether the edge has everything.
    pub fn is_synced(&self) -> bool {
        !matches!(self.peer, Peer::Unknown) && self.pending() == 0
    }

    /// Messages that the edge has not acknowledged yet.
    pub fn pending(&self) -> usize {
        self.out.pending(&self.log)
    }

    /// Takes in committed changes, in order of revision.
    pub fn handle_changes(&mut self, changes: impl IntoIterator<Item = Change>, now: Now) {
        for change in changes {
            self.log.insert(change);
        }
        self.pump(now);
    }

    /// Takes in a message of the edge.
    pub fn handle_message(&mut self, message: &Message, now: Now) {
        if self.closed {
            return;
        }
        match message.route.operation.as_str() {
            operation::KEEPALIVE => self.keepalive_at = now.mono,
            _ if message.is_probe() => {
                let answer = message.response(&mut self.ids, now, "ack".into());
                self.send(answer);
            }
            operation::RESPONSE => {
                if self.out.acknowledge(&message.header.parent_id) {
                    self.last_error = None;
                }
            }
            operation::ERROR => {
                let reason: String =
                    message.content.as_str().unwrap_or("no reason").chars().take(500).collect();
                self.last_error = Some(format!("the edge refused {}: {reason}", message.route.resource));
            }
            operation::QUERY if message.route.resource == "sync/cursor" => self.handle_cursor(message, now),
            _ => self.handle_upward(message, now),
        }
        self.pump(now);
    }

    /// Takes in the result of a [`CloudEffect::Store`]; only then the edge gets its acknowledgement.
    pub fn handle_stored(&mut self, ticket: &StoreTicket, result: Result<(), String>, now: Now) {
        let Some(message) = self.done_with(ticket) else { return };
        let answer = match result {
            Ok(()) => message.ack(&mut self.ids, now),
            Err(reason) => message.error(&mut self.ids, now, &reason),
        };
        self.send(answer);
    }

    /// Takes in the result of a [`CloudEffect::Sign`].
    pub fn handle_signed(&mut self, ticket: &StoreTicket, result: Result<SignedChain, String>, now: Now) {
        let Some(message) = self.done_with(ticket) else { return };
        let answer = match result {
            Ok(signed) => message.response(&mut self.ids, now, signed.content()),
            Err(reason) => message.error(&mut self.ids, now, &reason),
        };
        self.send(answer);
    }

    /// Takes in the result of a [`CloudEffect::Audit`]: which line of the node's log is stored last.
    pub fn handle_audited(
        &mut self,
        ticket: &StoreTicket,
        result: Result<Option<AuditPlace>, String>,
        now: Now,
    ) {
        let Some(message) = self.done_with(ticket) else { return };
        let answer = match result {
            Ok(place) => message.response(&mut self.ids, now, crate::audit::content_of(place.as_ref())),
            Err(reason) => message.error(&mut self.ids, now, &reason),
        };
        self.send(answer);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.closed {
            return;
        }
        let silent = now.mono.saturating_sub(self.keepalive_at);
        if silent >= self.limits.keepalive_dead {
            self.closed = true;
            let fault = PeerFault::NoKeepalive { secs: silent.as_secs() };
            self.effects.push_back(CloudEffect::Disconnect(fault));
            return;
        }
        let greeting_over = now.mono >= self.started_at.saturating_add(self.limits.greeting_within);
        if greeting_over && matches!(self.peer, Peer::Unknown) {
            self.peer = Peer::Stock;
        }
        for message in self.out.due_again(now.mono, self.limits.retransmit_after) {
            self.effects.push_back(CloudEffect::Send(Box::new(message)));
        }
        self.pump(now);
    }

    /// Next effect to execute.
    pub fn poll_effect(&mut self) -> Option<CloudEffect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, in monotonic time.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.closed {
            return None;
        }
        let dead_at = self.keepalive_at.saturating_add(self.limits.keepalive_dead);
        let greeting = matches!(self.peer, Peer::Unknown)
            .then(|| self.started_at.saturating_add(self.limits.greeting_within));
        [Some(dead_at), greeting, self.out.next_again()].into_iter().flatten().min()
    }

    fn done_with(&mut self, ticket: &StoreTicket) -> Option<Message> {
        let Storing { message, weight } = self.storing.remove(ticket)?;
        self.storing_bytes = self.storing_bytes.saturating_sub(weight);
        Some(message)
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(CloudEffect::Send(Box::new(message)));
    }
}

fn bare(message: &Message) -> Message {
    Message { header: message.header.clone(), route: message.route.clone(), content: Value::Null }
}
