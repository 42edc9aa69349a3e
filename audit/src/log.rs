//! The handle: where events are put. Nothing here waits for the disk.

use crate::config::AuditConfig;
use crate::error::AuditError;
use crate::writer::Writer;
use audit_core::{Alike, Head, Limiter, Payer, Record, Sort};
use parking_lot::Mutex;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Records waiting for the disk; beyond it they are counted, and the count is recorded.
const BACKLOG: usize = 8_192;
/// Of these, how many may be denials: a peer that is denied much must not push out what is permitted.
const BACKLOG_DENIALS: usize = BACKLOG / 2;
/// How long events that are alike are counted before the count is recorded.
const INTERVAL: Duration = Duration::from_secs(60);

/// Takes each line once it is in the file: the name of the event and the line.
pub(crate) type Sink = Box<dyn Fn(&'static str, &[u8]) + Send + Sync>;

/// Makes a record, in the writer's thread.
pub(crate) type Make = Box<dyn FnOnce() -> Record + Send>;

/// Where events are recorded. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    sender: SyncSender<Job>,
    shared: Arc<Shared>,
}

/// What the writer is told.
pub(crate) enum Job {
    /// A record to make, and whose share of the log its line is taken from.
    Write(Make, Option<Payer>),
    /// Sent once, by the [`AuditWriter`]: logs may live on in tasks that were not joined.
    End,
}

pub(crate) struct Shared {
    pub(crate) limiter: Mutex<Limiter>,
    pub(crate) status: Mutex<Status>,
    pub(crate) queued: AtomicUsize,
    /// Lost since the start.
    pub(crate) lost: AtomicU64,
    pub(crate) sink: OnceLock<Sink>,
}

/// How the log is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Fingerprint of the key that signs checkpoints.
    pub key: String,
    /// The last checkpoint that is on stable storage.
    pub signed: Head,
    /// Why nothing can be written, while that is so.
    pub failing: Option<String>,
    /// What was found wrong when the log was opened.
    pub found: Option<String>,
}

impl AuditLog {
    /// Opens a log with its key beside it and the default bounds.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(path: &Path) -> Result<(Self, AuditWriter), AuditError> {
        Self::open_with(AuditConfig::new(path))
    }

    /// Opens or makes the log, repairs what a crash left, and starts the writer.
    ///
    /// # Errors
    /// A file or the key cannot be read or written.
    pub fn open_with(config: AuditConfig) -> Result<(Self, AuditWriter), AuditError> {
        let shared = Arc::new(Shared {
            limiter: Mutex::new(Limiter::new(INTERVAL, config.bounds.total_bytes_max)),
            status: Mutex::new(Status::default()),
            queued: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            sink: OnceLock::new(),
        });
        let (sender, jobs) = sync_channel(BACKLOG);
        let path = config.path.clone();
        let writer = Writer::open(config, Arc::clone(&shared))?;
        let handle = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&jobs));
        let handle = handle.map_err(AuditError::io(path))?;
        let writer = AuditWriter { sender: sender.clone(), thread: Some(handle) };
        Ok((Self { sender, shared }, writer))
    }

    /// Records an event, whatever came before. Never blocks: what does not fit is counted as lost.
    pub fn record(&self, record: Record) {
        self.put(move || record);
    }

    /// As [`Self::record`], for a record that is better made in the writer's thread.
    pub fn put(&self, make: impl FnOnce() -> Record + Send + 'static) {
        self.send(Box::new(make), None, 1);
    }

    /// Tells whether to record an event: not when there were too many like it of late, its peer has used up its share of
    /// the log, or denials leave no room for others. Then it is counted.
    pub fn admit(&self, alike: &Alike<'_>) -> Option<Admitted<'_>> {
        if !self.shared.limiter.lock().admit(alike) {
            return None;
        }
        let is_full =
            alike.sort == Sort::Denial && self.shared.queued.load(Ordering::Relaxed) >= BACKLOG_DENIALS;
        if is_full {
            self.shared.lost.fetch_add(alike.count, Ordering::Relaxed);
            return None;
        }
        Some(Admitted { log: self, payer: alike.payer(), count: alike.count })
    }

    fn send(&self, make: Make, payer: Option<Payer>, events: u64) {
        // Counted before it is sent: the writer must never count down what was not counted up.
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        match self.sender.try_send(Job::Write(make, payer)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.shared.lost.fetch_add(events, Ordering::Relaxed);
            }
            // After the end, which is planned: nothing is left to write to.
            Err(TrySendError::Disconnected(_)) => {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Hands every line that is in the file to `sink`, from now on; called by the writer's thread, which it
    /// must not keep waiting. Only the first sink counts.
    pub fn stream_to(&self, sink: impl Fn(&'static str, &[u8]) + Send + Sync + 'static) {
        if self.shared.sink.set(Box::new(sink)).is_err() {
            tracing::debug!("the audit log is streamed already");
        }
    }

    /// Returns how many events were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Returns how many events wait to be written.
    pub fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Returns how the log is.
    pub fn status(&self) -> Status {
        self.shared.status.lock().clone()
    }
}

/// An event that is to be recorded.
#[must_use]
#[derive(Debug)]
pub struct Admitted<'a> {
    log: &'a AuditLog,
    payer: Payer,
    count: u64,
}

impl Admitted<'_> {
    /// Records it; the record is made in the writer's thread.
    pub fn put(self, make: impl FnOnce() -> Record + Send + 'static) {
        self.log.send(Box::new(make), Some(self.payer), self.count);
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// Writes the log; when dropped, every event taken before is on stable storage under a checkpoint.
#[derive(Debug)]
pub struct AuditWriter {
    sender: SyncSender<Job>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write(..) => "Write",
            Self::End => "End",
        })
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        // A thread that is gone takes no word; then there is nothing to wait for either.
        let told = self.sender.send(Job::End).is_ok();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        if !told || matches!(ended, Some(Err(_))) {
            tracing::error!("the audit writer ended before its time");
        }
    }
}
