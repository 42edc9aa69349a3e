//! What of the core's changes is not on disk yet: it gathers under the lock, the persister takes it from here, and
//! what waits in the core for it is let go once it is written.

use super::{Hub, Inner};
use crate::limits::PendingLimits;
use crate::pending::Pending;
use broker_core::{Broker, Durability, Now, Record, RecordKey, Restored, StoreBatch, StoreTrouble};
use std::sync::Arc;
use std::time::Duration;

/// How long changes that nobody waits for may stay unwritten, and how many bytes of them.
pub(crate) const IDLE_WAIT: Duration = Duration::from_millis(50);
const IDLE_BYTES_MAX: usize = 1024 * 1024;

/// What of the core's changes is not stored yet.
pub(super) struct Storing {
    limits: PendingLimits,
    pending: Pending,
    /// What was written last, for the room that it has.
    spare: Pending,
    /// Bytes of what is being written.
    writing: usize,
    /// Why the last attempt to write failed.
    failing: Option<Arc<str>>,
    /// Whether nothing follows any more.
    is_ending: bool,
}

impl Storing {
    pub(super) fn new(limits: PendingLimits) -> Self {
        let (pending, spare) = (Pending::default(), Pending::default());
        Self { limits, pending, spare, writing: 0, failing: None, is_ending: false }
    }

    /// Takes all that waits.
    fn take(&mut self) -> Pending {
        let next = std::mem::take(&mut self.spare);
        std::mem::replace(&mut self.pending, next)
    }

    /// Whether something has to be written now.
    fn is_due(&self) -> bool {
        let pending = &self.pending;
        let is_awaited = pending.level() != Durability::None;
        !pending.is_idle() && (is_awaited || self.is_ending || pending.bytes > IDLE_BYTES_MAX)
    }

    fn trouble(&self) -> StoreTrouble {
        let bytes = self.pending.bytes.saturating_add(self.writing);
        let is_much = bytes > self.limits.soft;
        match &self.failing {
            Some(_) if is_much => StoreTrouble::Full,
            Some(_) => StoreTrouble::Failing,
            None if bytes > self.limits.hard => StoreTrouble::Full,
            None if is_much => StoreTrouble::Busy,
            None => StoreTrouble::None,
        }
    }
}

impl Inner {
    /// Adds changes of the core to what waits.
    pub(super) fn gather(&mut self, batch: StoreBatch) {
        let pending = &mut self.storing.pending;
        let before = (pending.is_idle(), pending.level());
        pending.add(batch);
        let is_other = before != (pending.is_idle(), pending.level());
        self.to_persist |= is_other || pending.bytes > IDLE_BYTES_MAX;
        self.broker.handle_store_trouble(self.storing.trouble());
    }
}

impl Hub {
    /// Gives the core the records of an earlier run.
    pub(crate) fn restore(&self, records: Vec<(RecordKey, Record)>) -> Restored {
        self.enter(|broker, now| broker.restore(records, now))
    }

    /// Why changes cannot be stored at present.
    pub fn store_failure(&self) -> Option<Arc<str>> {
        self.0.inner.lock().storing.failing.clone()
    }

    /// Waits for changes to be stored; false once everything is stored after the end.
    ///
    /// Changes that nobody waits for go with the next that somebody does, or after a while: what a receiver
    /// acknowledges is best not written at all.
    pub(crate) async fn wait_for_pending(&self) -> bool {
        loop {
            let unstored = self.0.unstored.notified();
            let is_idle = {
                let storing = &self.0.inner.lock().storing;
                if storing.is_due() {
                    return true;
                }
                if storing.is_ending {
                    return false;
                }
                storing.pending.is_idle()
            };
            if is_idle {
                unstored.await;
            } else if tokio::time::timeout(IDLE_WAIT, unstored).await.is_err() {
                return true;
            }
        }
    }

    /// Takes what is to be stored now: everything, or nothing if all that anybody waits for was undone meanwhile,
    /// which counts as stored. `is_late` says that the rest has waited long enough.
    pub(crate) fn take_pending(&self, is_late: bool) -> Option<Pending> {
        let ticket = {
            let storing = &mut self.0.inner.lock().storing;
            // While writes fail the next attempt says whether they still do.
            if storing.pending.is_empty() && storing.failing.is_none() {
                let undone = storing.take();
                let ticket = undone.ticket;
                storing.spare = undone.emptied();
                ticket
            } else if is_late || storing.is_due() {
                storing.writing = storing.pending.bytes;
                return Some(storing.take());
            } else {
                storing.pending.ticket
            }
        };
        self.enter_storing(|broker, trouble, now| {
            broker.handle_store_trouble(trouble);
            broker.handle_stored(ticket, now);
        });
        None
    }

    /// Takes back changes that could not be stored.
    pub(crate) fn not_stored(&self, pending: Pending, why: String) {
        let mut inner = self.0.inner.lock();
        let storing = &mut inner.storing;
        storing.pending.add_older(pending);
        storing.writing = 0;
        if storing.failing.as_deref() != Some(&why) {
            tracing::warn!(%why, "MQTT state cannot be stored; it is tried again");
        }
        storing.failing = Some(why.into());
        let trouble = storing.trouble();
        inner.broker.handle_store_trouble(trouble);
    }

    /// Lets go what waited for these changes to be stored.
    pub(crate) fn stored(&self, pending: Pending) {
        let ticket = pending.ticket;
        // Before the lock: it may hold the last of many messages.
        let emptied = pending.emptied();
        {
            let storing = &mut self.0.inner.lock().storing;
            storing.writing = 0;
            storing.spare = emptied;
            if storing.failing.take().is_some() {
                tracing::info!("MQTT state is stored again");
            }
        }
        self.enter_storing(|broker, trouble, now| {
            broker.handle_store_trouble(trouble);
            broker.handle_stored(ticket, now);
        });
    }

    /// Says that no changes follow.
    pub(crate) fn end_storing(&self) {
        self.0.inner.lock().storing.is_ending = true;
        self.0.unstored.notify_one();
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.0.inner.lock().storing.is_ending
    }

    fn enter_storing<R>(&self, act: impl FnOnce(&mut Broker, StoreTrouble, Now) -> R) -> R {
        self.enter_inner(|inner, now| {
            let trouble = inner.storing.trouble();
            act(&mut inner.broker, trouble, now)
        })
    }
}
