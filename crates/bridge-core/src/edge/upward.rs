//! Reports to the cloud: repeated until acknowledged, the spool's order kept.

use super::{EdgeEffect, EdgeSync};
use crate::{Message, Now, SpoolWrite, UpwardItem};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct InFlight {
    message: Message,
    pub(super) again_at: Duration,
}

impl EdgeSync {
    /// Takes in reports. Returns what to commit, all or nothing; [`Self::handle_stored`] is next, and nothing else
    /// comes between.
    pub fn handle_upward(&mut self, items: Vec<UpwardItem>) -> Vec<SpoolWrite> {
        let mut writes = Vec::with_capacity(items.len().saturating_mul(2));
        for item in items {
            let (pushed, more) = self.spool.push(item);
            self.staged.push(pushed);
            writes.extend(more);
        }
        writes
    }

    /// Tells whether what [`Self::handle_upward`] returned is on disk: then it is not lost, and sent. Else the
    /// reports were never taken.
    pub fn handle_stored(&mut self, is_stored: bool, now: Now) {
        if !is_stored {
            while let Some(last) = self.staged.pop() {
                self.spool.undo(last);
            }
            return;
        }
        self.staged.clear();
        self.drop_gone_from_flight();
        self.pump_upward(now);
    }

    // A newer report may have replaced what was on its way, and a full spool dropped it.
    fn drop_gone_from_flight(&mut self) {
        if let Some(link) = &mut self.link {
            let spool = &self.spool;
            link.in_flight.retain(|seq, _| spool.contains(*seq));
        }
    }

    pub(super) fn pump_upward(&mut self, now: Now) {
        let Some(link) = &mut self.link else { return };
        while link.in_flight.len() < self.limits.window
            && let Some(entry) = self.spool.next_after(link.sent_seq)
        {
            link.sent_seq = entry.seq;
            let item = &entry.item;
            let mut message = Message::new(&mut self.ids, now, item.route.clone(), item.content.clone());
            // The cloud keeps the newest position per resource, so that a late copy undoes nothing.
            message.header.resource_version = format!("{}-{}", self.spool.id(), entry.seq);
            let again_at = now.mono.saturating_add(self.limits.retransmit_after);
            link.in_flight.insert(entry.seq, InFlight { message: message.clone(), again_at });
            self.effects.push_back(EdgeEffect::Send(Box::new(message)));
        }
    }

    pub(super) fn retransmit_upward(&mut self, now: Now) {
        let Some(link) = &mut self.link else { return };
        for sent in link.in_flight.values_mut().filter(|sent| now.mono >= sent.again_at) {
            sent.again_at = now.mono.saturating_add(self.limits.retransmit_after);
            self.effects.push_back(EdgeEffect::Send(Box::new(sent.message.clone())));
        }
    }

    pub(super) fn handle_upward_answer(&mut self, parent: &str, refused: bool, now: Now) -> bool {
        let Some(link) = &mut self.link else { return false };
        let found = link.in_flight.iter_mut().find(|(_, sent)| sent.message.header.id == parent);
        let Some((&seq, sent)) = found else { return false };
        if refused {
            sent.again_at = now.mono.saturating_add(self.limits.refused_retry_after);
            return true;
        }
        link.in_flight.remove(&seq);
        self.last_error = None;
        if let Some(write) = self.spool.remove(seq) {
            self.effects.push_back(EdgeEffect::Forget(write));
        }
        true
    }
}
