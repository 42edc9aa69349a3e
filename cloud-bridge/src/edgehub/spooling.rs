//! The spool's place on disk: reports are there before whoever pushed them is told.

use super::{Push, PushError, SPOOL_PREFIX};
use crate::tick::Tick;
use bridge_core::{EdgeSync, SpoolWrite};
use midge_store::{Batch, Durability, Store};

pub(super) struct Spooling {
    store: Store,
    /// Deletions of what the cloud has, until they are committed.
    forgotten: Batch,
    /// Why the last commit failed; gone once one succeeds.
    error: Option<String>,
}

impl Spooling {
    pub(super) fn new(store: Store) -> Self {
        Self { store, forgotten: Batch::new(), error: None }
    }

    /// Why the spool cannot be written at present.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether deletions wait for the disk.
    pub(super) fn is_behind(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Stores reports together and answers whoever pushed them. Where they cannot be stored, they were never taken.
    pub(super) async fn take(&mut self, sync: &mut EdgeSync, tick: &Tick, pushes: Vec<Push>) {
        let (items, waiting): (Vec<_>, Vec<_>) =
            pushes.into_iter().map(|push| (push.item, push.done)).unzip();
        let writes = sync.handle_upward(items);
        let stored = self.commit(writes, Durability::PowerLoss).await;
        sync.handle_stored(stored.is_ok(), tick.now());
        for done in waiting {
            // Whoever pushed may have gone.
            drop(done.send(stored.clone().map_err(PushError::Disk)));
        }
    }

    /// Notes the deletion of what the cloud has.
    pub(super) fn forget(&mut self, write: SpoolWrite) {
        self.forgotten = spool_write(std::mem::take(&mut self.forgotten), write);
    }

    /// Deletes what was noted; what fails is tried again the next time.
    pub(super) async fn settle(&mut self) {
        if self.is_behind() {
            // What is only forgotten may come back after a power cut: the cloud knows it.
            drop(self.commit(Vec::new(), Durability::ProcessCrash).await);
        }
    }

    async fn commit(&mut self, writes: Vec<SpoolWrite>, durability: Durability) -> Result<(), String> {
        let batch = writes.into_iter().fold(self.forgotten.clone(), spool_write);
        let stored = self.store.commit(batch, durability).await.map_err(|error| error.to_string());
        if stored.is_ok() {
            self.forgotten = Batch::new();
        }
        self.error = stored.clone().err();
        stored
    }
}

fn spool_write(batch: Batch, write: SpoolWrite) -> Batch {
    match write {
        SpoolWrite::Put(key, value) => batch.put(format!("{SPOOL_PREFIX}{key}"), value),
        SpoolWrite::Delete(key) => batch.delete(format!("{SPOOL_PREFIX}{key}")),
    }
}
