//! Changes from the cloud: in order, without gaps, applied before they are acknowledged.

use super::{EdgeEffect, EdgeSync, requests::Hello};
use crate::{Change, Cursor, Extent, Message, Now, PeerFault, change_of};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Changes of this connection that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Downward {
    /// Log that the cloud continues; none before it has answered the cursor.
    log: Option<String>,
    /// Revision of the newest change in the queue or before it; none while a snapshot is awaited.
    queued: Option<u64>,
    /// Revision up to which this connection has applied.
    applied: Option<u64>,
    queue: VecDeque<Pending>,
    gap: BTreeMap<u64, (u64, Pending)>,
    snapshot: Option<Collecting>,
    pub(super) retry_at: Option<Duration>,
}

#[derive(Debug)]
struct Pending {
    /// The message to acknowledge, without its content.
    message: Message,
    changes: Vec<Change>,
    revision: Option<u64>,
    extent: Extent,
}

#[derive(Debug)]
struct Collecting {
    revision: u64,
    parts: Vec<Option<Vec<Change>>>,
}

#[derive(Deserialize)]
struct SnapshotPart {
    log: String,
    revision: u64,
    part: usize,
    parts: usize,
    changes: Vec<Change>,
}

/// A batch that the host is applying; it outlives the connection.
#[derive(Debug)]
pub(super) struct Applying {
    generation: u64,
    batch: Vec<Pending>,
    cursor: Cursor,
}

impl Downward {
    pub(super) fn start(&mut self, log: String, resume_at: Option<u64>) {
        self.log = Some(log);
        self.queued = resume_at;
        self.applied = resume_at;
    }
}

impl EdgeSync {
    pub(super) fn handle_downward(&mut self, message: &Message, now: Now) {
        if message.route.resource == "sync/snapshot" {
            self.handle_snapshot_part(message, now);
            return;
        }
        let changes = match change_of(message) {
            Ok(changes) => changes,
            Err(reason) => {
                self.refuse(message, &reason, now);
                return;
            }
        };
        match (message.revision(), message.header.after.parse().ok()) {
            (Some(revision), Some(after)) => self.handle_logged(message, changes, (after, revision), now),
            // A stock CloudHub waits for an acknowledgement of what it gave a revision; nobody here keeps it.
            (Some(_), None) if changes.is_empty() => self.refuse(message, "unsupported resource", now),
            _ if changes.is_empty() => {}
            _ => self.enqueue_unlogged(message, changes),
        }
    }

    fn handle_logged(&mut self, message: &Message, changes: Vec<Change>, step: (u64, u64), now: Now) {
        let (after, revision) = step;
        let window = self.limits.window;
        let Some(link) = &mut self.link else { return };
        let down = &mut link.downward;
        if down.log.is_none() {
            // Before the answer to the cursor nobody knows which log this is; it will come again.
            return;
        }
        if down.applied.is_some_and(|applied| revision <= applied) {
            let ack = message.ack(&mut self.ids, now);
            self.send(ack);
            return;
        }
        if down.queued.is_some_and(|queued| revision <= queued) {
            return;
        }
        let pending =
            Pending { message: bare(message), changes, revision: Some(revision), extent: Extent::Changes };
        if down.gap.len() < window || down.queued.is_some_and(|queued| after <= queued) {
            down.gap.insert(revision, (after, pending));
        }
        self.close_gap();
        self.apply_next();
    }

    fn close_gap(&mut self) {
        let Some(link) = &mut self.link else { return };
        let down = &mut link.downward;
        while let Some(queued) = down.queued
            && let Some(entry) = down.gap.first_entry()
            && (entry.get().0 <= queued || *entry.key() <= queued)
        {
            let (revision, (_, pending)) = entry.remove_entry();
            if revision > queued {
                down.queued = Some(revision);
                down.queue.push_back(pending);
            }
        }
    }

    fn enqueue_unlogged(&mut self, message: &Message, changes: Vec<Change>) {
        let window = self.limits.window;
        let Some(link) = &mut self.link else { return };
        // Over the limit the sender's retransmission brings it again.
        if link.downward.queue.len() < window {
            let pending =
                Pending { message: bare(message), changes, revision: None, extent: Extent::Changes };
            link.downward.queue.push_back(pending);
        }
        self.apply_next();
    }

    fn handle_snapshot_part(&mut self, message: &Message, now: Now) {
        let part: SnapshotPart = match serde_json::from_value(message.content.clone()) {
            Ok(part) => part,
            Err(error) => {
                self.refuse(message, &error.to_string(), now);
                return;
            }
        };
        let limit = self.limits.snapshot_parts;
        if part.parts > limit || part.part >= part.parts {
            self.disconnect(PeerFault::Snapshot { parts: part.parts, part: part.part, limit });
            return;
        }
        let Some(link) = &mut self.link else { return };
        let down = &mut link.downward;
        if down.log.as_deref() != Some(part.log.as_str()) {
            return;
        }
        if let Some(queued) = down.queued {
            // It is complete already. Its last part is acknowledged once it is on disk.
            if part.revision <= queued && down.applied.is_some_and(|applied| part.revision <= applied) {
                let ack = message.ack(&mut self.ids, now);
                self.send(ack);
            }
            return;
        }
        match down.collect(part) {
            None => {
                let ack = message.ack(&mut self.ids, now);
                self.send(ack);
            }
            Some((revision, changes)) => {
                down.queued = Some(revision);
                let message = bare(message);
                down.queue.push_back(Pending {
                    message,
                    changes,
                    revision: Some(revision),
                    extent: Extent::Snapshot,
                });
                self.close_gap();
                self.apply_next();
            }
        }
    }

    fn refuse(&mut self, message: &Message, reason: &str, now: Now) {
        let fault =
            PeerFault::Malformed { resource: message.route.resource.clone(), reason: reason.to_owned() };
        self.last_error = Some(fault.to_string());
        let nack = message.error(&mut self.ids, now, &fault.to_string());
        self.send(nack);
    }

    fn apply_next(&mut self) {
        let Some(link) = &mut self.link else { return };
        let down = &mut link.downward;
        if self.applying.is_some() || down.queue.is_empty() || down.retry_at.is_some() {
            return;
        }
        let mut batch: Vec<Pending> = Vec::new();
        let mut size: usize = 0;
        while let Some(next) = down.queue.front() {
            let is_whole = |pending: &Pending| pending.extent == Extent::Snapshot;
            let alone = is_whole(next) || batch.first().is_some_and(is_whole);
            let full = size.saturating_add(next.changes.len()) > self.limits.apply_batch;
            if !batch.is_empty() && (alone || full) {
                break;
            }
            size = size.saturating_add(next.changes.len());
            batch.extend(down.queue.pop_front());
        }
        let cursor = match (batch.iter().rev().find_map(|pending| pending.revision), &down.log) {
            (Some(revision), Some(log)) => Cursor { log: log.clone(), revision },
            _ => self.cursor.clone(),
        };
        let extent = batch.first().map_or(Extent::Changes, |first| first.extent);
        let changes = batch.iter().flat_map(|pending| pending.changes.iter().cloned()).collect();
        self.effects.push_back(EdgeEffect::Apply { changes, cursor: cursor.clone(), extent });
        self.applying = Some(Applying { generation: self.generation, batch, cursor });
    }

    /// Takes in the host's result of the last [`EdgeEffect::Apply`]. After an error the same changes
    /// are tried again.
    pub fn handle_applied(&mut self, result: Result<(), String>, now: Now) {
        let Some(applying) = self.applying.take() else { return };
        let same_link = applying.generation == self.generation && self.link.is_some();
        match result {
            Ok(()) => self.finish_apply(applying, same_link, now),
            Err(reason) => {
                self.last_error = Some(format!("changes of the cloud are not stored: {reason}"));
                if same_link {
                    self.keep_for_retry(applying, &reason, now);
                }
            }
        }
        self.send_hello_when_due(now);
        self.apply_next();
    }

    fn finish_apply(&mut self, applying: Applying, same_link: bool, now: Now) {
        self.cursor = applying.cursor;
        self.last_error = None;
        if !same_link {
            return;
        }
        let revision = applying.batch.iter().rev().find_map(|pending| pending.revision);
        if let (Some(link), Some(revision)) = (&mut self.link, revision) {
            link.downward.applied = Some(revision);
        }
        for pending in applying.batch {
            let ack = pending.message.ack(&mut self.ids, now);
            self.send(ack);
        }
    }

    fn keep_for_retry(&mut self, applying: Applying, reason: &str, now: Now) {
        for pending in applying.batch.into_iter().rev() {
            let nack = pending.message.error(&mut self.ids, now, reason);
            self.effects.push_back(EdgeEffect::Send(Box::new(nack)));
            if let Some(link) = &mut self.link {
                link.downward.queue.push_front(pending);
                link.downward.retry_at = Some(now.mono.saturating_add(self.limits.retransmit_after));
            }
        }
    }

    pub(super) fn retry_apply(&mut self, now: Now) {
        let Some(link) = &mut self.link else { return };
        if link.downward.retry_at.is_some_and(|at| now.mono >= at) {
            link.downward.retry_at = None;
            self.apply_next();
        }
    }

    pub(super) fn handle_hello_answer(&mut self, message: &Message, refused: bool, now: Now) {
        let again = now.mono.saturating_add(self.limits.refused_retry_after);
        let Some(link) = &mut self.link else { return };
        if refused {
            link.hello = Hello::Due(again);
            return;
        }
        let log = message.content.get("log").and_then(Value::as_str).unwrap_or_default().to_owned();
        let resume_at = match message.content.get("mode").and_then(Value::as_str) {
            Some("delta") if log == self.cursor.log => Some(self.cursor.revision),
            Some("delta") => {
                let own = self.cursor.log.clone();
                self.disconnect(PeerFault::WrongLog { offered: log, own });
                return;
            }
            Some("snapshot") if !log.is_empty() => None,
            _ => {
                let reason = "no log and mode in the answer".to_owned();
                let resource = message.route.resource.clone();
                self.disconnect(PeerFault::Malformed { resource, reason });
                return;
            }
        };
        link.hello = Hello::Done;
        link.downward.start(log, resume_at);
        self.last_error = None;
        self.begin_audit(now);
    }
}

impl Downward {
    /// Keeps a part; returns the whole when this was the last missing one.
    fn collect(&mut self, part: SnapshotPart) -> Option<(u64, Vec<Change>)> {
        let fits = |known: &Collecting| known.revision == part.revision && known.parts.len() == part.parts;
        if !self.snapshot.as_ref().is_some_and(fits) {
            let parts = std::iter::repeat_with(|| None).take(part.parts).collect();
            self.snapshot = Some(Collecting { revision: part.revision, parts });
        }
        let collecting = self.snapshot.as_mut()?;
        *collecting.parts.get_mut(part.part)? = Some(part.changes);
        if collecting.parts.iter().any(Option::is_none) {
            return None;
        }
        let whole = self.snapshot.take()?;
        Some((whole.revision, whole.parts.into_iter().flatten().flatten().collect()))
    }
}

fn bare(message: &Message) -> Message {
    Message { header: message.header.clone(), route: message.route.clone(), content: Value::Null }
}
