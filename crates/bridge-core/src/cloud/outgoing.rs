//! Changes on their way to the edge: a window of unacknowledged messages over the log.

use super::CloudSync;
use crate::log::Resume;
use crate::{Change, Cursor, Message, NodeLog, Now, Route, message::operation, message_of};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Who is at the other end.
#[derive(Debug)]
pub(super) enum Peer {
    /// It has not said yet.
    Unknown,
    /// It sent its cursor; the answer is kept for a repeated question.
    Midge { hello_id: String, answer: Value },
    /// A stock edgehub: it knows devices, and keeps no cursor.
    Stock,
}

/// What was sent and not acknowledged, and how far the log has been sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Parts of a snapshot that have not been sent.
    parts: VecDeque<Message>,
    window: BTreeMap<u64, Sent>,
    ids: BTreeMap<String, u64>,
    next_slot: u64,
    sent_revision: u64,
}

#[derive(Debug)]
struct Sent {
    message: Message,
    again_at: Duration,
}

impl Outgoing {
    pub(super) fn pending(&self, log: &NodeLog) -> usize {
        let unsent = log.after(self.sent_revision).count();
        self.parts.len().saturating_add(self.window.len()).saturating_add(unsent)
    }

    pub(super) fn acknowledge(&mut self, id: &str) -> bool {
        self.ids.remove(id).and_then(|slot| self.window.remove(&slot)).is_some()
    }

    pub(super) fn next_again(&self) -> Option<Duration> {
        self.window.values().map(|sent| sent.again_at).min()
    }

    pub(super) fn due_again(&mut self, now: Duration, period: Duration) -> Vec<Message> {
        let mut due = Vec::new();
        for sent in self.window.values_mut().filter(|sent| now >= sent.again_at) {
            sent.again_at = now.saturating_add(period);
            due.push(sent.message.clone());
        }
        due
    }

    fn track(&mut self, message: Message, again_at: Duration) {
        let slot = self.next_slot;
        self.next_slot = self.next_slot.saturating_add(1);
        self.ids.insert(message.header.id.clone(), slot);
        self.window.insert(slot, Sent { message, again_at });
    }
}

impl CloudSync {
    pub(super) fn handle_cursor(&mut self, message: &Message, now: Now) {
        if let Peer::Midge { hello_id, answer } = &self.peer
            && *hello_id == message.header.id
        {
            let answer = message.response(&mut self.ids, now, answer.clone());
            self.send(answer);
            return;
        }
        let log = message.content.get("log").and_then(Value::as_str).unwrap_or_default().to_owned();
        let revision = message.content.get("revision").and_then(Value::as_u64).unwrap_or(0);
        let resume = self.log.resume(&Cursor { log, revision });
        self.out = Outgoing::default();
        let (mode, parts) = match resume {
            Resume::Delta(from) => {
                self.out.sent_revision = from;
                ("delta", VecDeque::new())
            }
            Resume::Snapshot => {
                self.out.sent_revision = self.log.head().revision;
                ("snapshot", self.snapshot(now))
            }
        };
        self.out.parts = parts;
        let head = self.log.head();
        let answer = json!({ "log": head.id, "mode": mode, "revision": head.revision });
        self.peer = Peer::Midge { hello_id: message.header.id.clone(), answer: answer.clone() };
        let answer = message.response(&mut self.ids, now, answer);
        self.send(answer);
    }

    fn snapshot(&mut self, now: Now) -> VecDeque<Message> {
        let mut parts: Vec<Vec<&Change>> = vec![Vec::new()];
        let mut bytes: usize = 0;
        for change in self.log.live() {
            let size = serde_json::to_vec(change).map_or(0, |json| json.len());
            if bytes > 0 && bytes.saturating_add(size) > self.limits.snapshot_part_bytes {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            if let Some(part) = parts.last_mut() {
                part.push(change);
            }
        }
        let head = self.log.head();
        let total = parts.len();
        let mut messages = VecDeque::with_capacity(total);
        for (index, changes) in parts.into_iter().enumerate() {
            let content = json!({
                "log": head.id, "revision": head.revision, "part": index, "parts": total, "changes": changes,
            });
            let route = Route::new("cloudhub", "resource", operation::UPDATE, "sync/snapshot");
            let mut message = Message::new(&mut self.ids, now, route, content);
            message.header.resource_version = head.revision.to_string();
            messages.push_back(message);
        }
        messages
    }

    /// Fills the window.
    pub(super) fn pump(&mut self, now: Now) {
        if self.closed || matches!(self.peer, Peer::Unknown) {
            return;
        }
        let again_at = now.mono.saturating_add(self.limits.retransmit_after);
        while self.out.window.len() < self.limits.window {
            let Some(message) = self.out.parts.pop_front().or_else(|| self.next_change(now)) else { break };
            self.out.track(message.clone(), again_at);
            self.send(message);
        }
    }

    fn next_change(&mut self, now: Now) -> Option<Message> {
        let stock = matches!(self.peer, Peer::Stock);
        loop {
            let after = self.out.sent_revision;
            let change = self.log.after(after).next()?;
            self.out.sent_revision = change.revision;
            if !stock {
                return Some(message_of(change, Some(after), &mut self.ids, now));
            }
            if change.resource.starts_with("device/") {
                let mut message = message_of(change, None, &mut self.ids, now);
                // KubeEdge sends membership and twins without revision and without waiting for an answer.
                message.header.resource_version.clear();
                self.effects.push_back(super::CloudEffect::Send(Box::new(message)));
            }
        }
    }
}
