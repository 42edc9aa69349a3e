//! The handle to an open store: reads, scans and commits. What writes is `committer.rs`.

use crate::batch::{Batch, Durability};
use crate::committer::{Command, Commit, Committer};
use crate::error::{OpenError, StoreError};
use crate::limits::{QUEUE_BATCHES_MAX, QUEUE_KIB_MAX, QUEUE_READS_MAX};
use crate::open::{Opened, open};
use crate::reader::{Range, Read, ReaderThread};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::{Semaphore, oneshot};

/// Whose store it is; recorded when the file is made and compared at every open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInfo {
    /// Role of the process, such as `edge` or `cloud`.
    pub role: String,
    /// Name of the trust domain, such as `example.org`.
    pub trust_domain: String,
}

impl StoreInfo {
    /// Returns the owner of a store.
    pub fn new(role: impl Into<String>, trust_domain: impl Into<String>) -> Self {
        Self { role: role.into(), trust_domain: trust_domain.into() }
    }
}

/// What may be set for a store.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// Largest size of the database in bytes, rounded up to whole pages; none leaves it to the disk.
    pub size_bytes_max: Option<u64>,
}

/// Counts since the store was opened, and how the last commit went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSnapshot {
    /// Transactions committed.
    pub commits: u64,
    /// Batches committed in them.
    pub batches: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// Why the last transaction failed; none when it succeeded.
    pub failing: Option<StoreError>,
}

/// A handle to an open store; clones share it.
///
/// The store is closed by [`Store::close`], or when the last handle is dropped, which blocks for one commit.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    commands: Option<Sender<Command>>,
    reads: Sender<Read>,
    queue_kib: Arc<Semaphore>,
    counters: Arc<Counters>,
    committer: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) failures: AtomicU64,
    failing: Mutex<Option<StoreError>>,
}

impl Counters {
    /// Records how a commit went and returns how the one before it went.
    pub(crate) fn note(&self, failing: Option<&StoreError>) -> Option<StoreError> {
        let mut last = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, failing.cloned())
    }
}

impl Store {
    /// Opens the store at `path`, making it if it is not there; its directory must exist. Blocks.
    ///
    /// # Errors
    /// Refuses a file it must not touch, as [`OpenError`] lists; the file is left as it was.
    pub fn open(path: impl AsRef<Path>, info: &StoreInfo) -> Result<Self, OpenError> {
        Self::open_with(path, info, &StoreOptions::default())
    }

    /// Opens the store at `path` with options. Blocks.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        info: &StoreInfo,
        options: &StoreOptions,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let Opened { writer, reader, lock } = open(path, info)?;
        let io = |error: std::io::Error| OpenError::io(path, &error);
        let reader = ReaderThread::spawn(reader, QUEUE_READS_MAX).map_err(io)?;
        let reads = reader.sender();
        let (commands, receiver) = mpsc::channel(QUEUE_BATCHES_MAX);
        let counters = Arc::new(Counters::default());
        let committer = Committer {
            writer,
            commands: receiver,
            reader,
            counters: Arc::clone(&counters),
            level: Durability::PowerLoss,
            lock,
        };
        if options.size_bytes_max.is_some() {
            committer
                .set_size_max(options.size_bytes_max)
                .map_err(|error| OpenError::Io { path: path.to_owned(), detail: error.to_string() })?;
        }
        let thread = thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(io)?;
        let shared = Shared {
            path: path.to_owned(),
            commands: Some(commands),
            reads,
            queue_kib: Arc::new(Semaphore::new(QUEUE_KIB_MAX)),
            counters,
            committer: Some(thread),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Writes a batch, returning once it survives what `durability` names.
    ///
    /// Batches take effect in the order in which their calls were first polled. Dropping the future
    /// does not withdraw a batch that has been queued.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Io`] leave nothing of the batch behind and the store usable.
    pub async fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        batch.check()?;
        // A batch larger than the queue has it for itself.
        let kib = batch.bytes().div_ceil(1024).clamp(1, QUEUE_KIB_MAX);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let queued = Arc::clone(&self.shared.queue_kib)
            .acquire_many_owned(kib)
            .await
            .map_err(|_| StoreError::Closed)?;
        self.command(|done| Command::Commit(Commit { batch, durability, done, queued })).await
    }

    /// Reads the value under `key`; sees every batch acknowledged before.
    ///
    /// # Errors
    /// Fails when the file cannot be read or the store is closed.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.into();
        self.read(|done| Read::Get { key, done }).await
    }

    /// Reads all keys that start with `prefix`, with their values, in byte order of keys, as one snapshot.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn scan(&self, prefix: impl Into<String>) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.scan_page(prefix, None, usize::MAX).await
    }

    /// Reads at most `limit` of the keys that start with `prefix` and come after the key `after`.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn scan_page(
        &self,
        prefix: impl Into<String>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let range = Range { prefix: prefix.into(), after, limit };
        self.read(|done| Read::Scan { range, done }).await
    }

    /// Changes the largest size of the database in bytes; none leaves it to the disk. What is
    /// stored already stays, also when it is more.
    ///
    /// # Errors
    /// Fails when the store is closed.
    pub async fn set_size_max(&self, bytes: Option<u64>) -> Result<(), StoreError> {
        self.command(|done| Command::SizeMax { bytes, done }).await
    }

    /// Flushes everything queued before, marks the file as closed cleanly, and releases it. Every
    /// later call answers [`StoreError::Closed`], except another `close`, which succeeds.
    ///
    /// # Errors
    /// Fails when the mark could not be written; nothing acknowledged is lost, and the file is released.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self.command(|done| Command::Close { done }).await {
            Err(StoreError::Closed) => Ok(()),
            outcome => outcome,
        }
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Counts so far, and whether commits are failing now.
    pub fn snapshot(&self) -> StoreSnapshot {
        let counters = &self.shared.counters;
        StoreSnapshot {
            commits: counters.commits.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            failing: counters.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Command,
    ) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        let commands = self.shared.commands.as_ref().ok_or(StoreError::Closed)?;
        commands.send(command(done)).await.map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn read<T>(
        &self,
        read: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Read,
    ) -> Result<T, StoreError> {
        let (done, outcome) = oneshot::channel();
        self.shared.reads.send(read(done)).await.map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(committer) = self.committer.take() {
            // A panic there was reported by the panic hook; there is no caller left to tell.
            drop(committer.join());
        }
    }
}
