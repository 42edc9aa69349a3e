//! The thread that writes: the only one that changes the file.
//!
//! One connection serves both durabilities: a group is committed at `synchronous=FULL` (the log is
//! fsynced before COMMIT returns) when any of its members asks for power-loss safety, else at
//! `NORMAL` (the log is in the operating system's cache, and checkpoints are still fsynced, so the
//! file stays consistent whatever happens). A FULL commit also makes every earlier NORMAL one durable.

use crate::batch::{Batch, Durability};
use crate::error::StoreError;
use crate::limits::GROUP_BATCHES_MAX;
use crate::open::mark_clean;
use crate::reader::ReaderThread;
use crate::store::Counters;
use rusqlite::{Connection, TransactionBehavior};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{error, info, warn};

pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

pub(crate) enum Command {
    Commit(Commit),
    SizeMax { bytes: Option<u64>, done: Done },
    Close { done: Done },
}

pub(crate) struct Commit {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
    pub(crate) done: Done,
    pub(crate) queued: OwnedSemaphorePermit,
}

pub(crate) struct Committer {
    pub(crate) writer: Connection,
    pub(crate) commands: Receiver<Command>,
    pub(crate) reader: ReaderThread,
    pub(crate) counters: Arc<Counters>,
    /// What `synchronous` is at.
    pub(crate) level: Durability,
    pub(crate) lock: File,
}

impl Committer {
    /// Runs until the store is closed or its last handle is gone.
    pub(crate) fn run(mut self) {
        let mut carried = None;
        let done = loop {
            let Some(command) = carried.take().or_else(|| self.commands.blocking_recv()) else { break None };
            match command {
                Command::Commit(first) => {
                    let group;
                    (group, carried) = self.gather(first);
                    self.commit(group);
                }
                Command::SizeMax { bytes, done } => answer(done, self.set_size_max(bytes)),
                Command::Close { done } => break Some(done),
            }
        };
        let closed = self.close();
        if let Err(error) = &closed {
            warn!(%error, "store closed without its clean mark; the next start checks it");
        }
        if let Some(done) = done {
            answer(done, closed);
        }
    }

    fn gather(&mut self, first: Commit) -> (Vec<Commit>, Option<Command>) {
        let mut group = vec![first];
        while group.len() < GROUP_BATCHES_MAX {
            match self.commands.try_recv() {
                Ok(Command::Commit(commit)) => group.push(commit),
                Ok(other) => return (group, Some(other)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    fn commit(&mut self, group: Vec<Commit>) {
        let outcome = self.write(&group);
        // One large batch must not cost its neighbours the space they would still find.
        if matches!(outcome, Err(StoreError::Full)) && group.len() > 1 {
            for commit in group {
                self.commit(vec![commit]);
            }
            return;
        }
        self.note(&outcome, group.len());
        for Commit { done, queued, .. } in group {
            answer(done, outcome.clone());
            drop(queued);
        }
    }

    fn write(&mut self, group: &[Commit]) -> Result<(), StoreError> {
        let asked = group.iter().map(|commit| commit.durability).max().unwrap_or(Durability::PowerLoss);
        self.set_level(asked)?;
        self.write_group(group).map_err(|error| StoreError::from(&error))
    }

    fn write_group(&mut self, group: &[Commit]) -> rusqlite::Result<()> {
        let transaction = self.writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT INTO kv (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
            for change in group.iter().flat_map(|commit| commit.batch.changes()) {
                match change.value {
                    Some(value) => put.execute((change.key, value))?,
                    None => delete.execute((change.key,))?,
                };
            }
        }
        transaction.commit()
    }

    /// Sets `synchronous` and reads it back: an engine that ignores it would break the promise in silence.
    fn set_level(&mut self, wanted: Durability) -> Result<(), StoreError> {
        if self.level == wanted {
            return Ok(());
        }
        let value = match wanted {
            Durability::ProcessCrash => 1,
            Durability::PowerLoss => 2,
        };
        let found: i32 = self
            .writer
            .pragma_update(None, "synchronous", value)
            .and_then(|()| self.writer.pragma_query_value(None, "synchronous", |row| row.get(0)))
            .map_err(|error| StoreError::from(&error))?;
        if found != value {
            return Err(StoreError::Io(format!("SQLite answered synchronous={found}, not {value}")));
        }
        self.level = wanted;
        Ok(())
    }

    pub(crate) fn set_size_max(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        let page: u64 = self
            .writer
            .pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))
            .map_err(|error| StoreError::from(&error))?
            .try_into()
            .unwrap_or(4096);
        let pages = bytes.map_or(PAGES_MAX, |bytes| bytes.div_ceil(page.max(1)).clamp(1, PAGES_MAX));
        self.writer
            .pragma_update_and_check(None, "max_page_count", i64::try_from(pages).unwrap_or(i64::MAX), |_| {
                Ok(())
            })
            .map_err(|error| StoreError::from(&error))
    }

    fn note(&self, outcome: &Result<(), StoreError>, batches: usize) {
        let before = self.counters.note(outcome.as_ref().err());
        match (outcome, before) {
            (Ok(()), before) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .batches
                    .fetch_add(u64::try_from(batches).unwrap_or(u64::MAX), Ordering::Relaxed);
                if let Some(before) = before {
                    info!(%before, "store commits again");
                }
            }
            (Err(error), before) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                if before.as_ref() != Some(error) {
                    error!(%error, "store commit failed");
                }
            }
        }
    }

    fn close(mut self) -> Result<(), StoreError> {
        self.reader.stop();
        self.commands.close();
        self.set_level(Durability::PowerLoss)?;
        let engine = |error: rusqlite::Error| StoreError::from(&error);
        mark_clean(&self.writer).map_err(engine)?;
        self.writer.close().map_err(|(_, error)| engine(error))?;
        drop(self.lock);
        Ok(())
    }
}

/// SQLite's own limit.
const PAGES_MAX: u64 = 0xffff_fffe;

fn answer(done: Done, outcome: Result<(), StoreError>) {
    // The caller may have stopped waiting; the batch is committed or refused all the same.
    drop(done.send(outcome));
}
