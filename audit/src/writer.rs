//! The thread that writes: chains, signs, begins new files and deletes old ones.

use crate::config::{AuditConfig, Bounds};
use crate::error::AuditError;
use crate::files::{Names, append};
use crate::head::{SignedHead, load, path_of, store};
use crate::log::{Job, Make, Shared};
use crate::recover::{Found, find, first_line};
use audit_core::{Chain, Head, Record, event, fingerprint};
use midge_pki::{FileError, KeyFileError, PrivateKey};
use midge_runtime::Clock;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Events written in one go: one system call, and one look at the clock.
const BATCH: usize = 1_024;
/// How often a waiting writer looks after what is due.
const TICK: Duration = Duration::from_secs(1);
/// Smallest file, whatever is configured: its first line must leave room for others.
const FILE_BYTES_MIN: u64 = 4 * 1024;
/// With nothing due.
const IDLE: Duration = Duration::from_secs(3_600);

pub(crate) struct Writer {
    names: Names,
    head_path: PathBuf,
    bounds: Bounds,
    clock: Clock,
    key: PrivateKey,
    key_name: String,
    key_text: String,
    file: File,
    /// Bytes of the file up to the last whole line.
    bytes: u64,
    /// Number of its first line.
    first: u64,
    opened: Instant,
    /// The chain as it is in the file.
    chain: Chain,
    /// When the oldest line that is not signed was written.
    unsigned_since: Option<Instant>,
    /// Events lost that the log does not tell of yet: how many of [`Shared::lost`] it does.
    told_lost: u64,
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens the log, repairs it, and says in it what was found.
    pub(crate) fn open(config: AuditConfig, shared: Arc<Shared>) -> Result<Self, AuditError> {
        let AuditConfig { path, key: key_path, bounds, clock } = config;
        let names = Names::of(&path);
        let found = find(&names)?;
        let head_path = path_of(&key_path);
        let known = load(&head_path);
        let file = append(&path).map_err(AuditError::io(&path))?;
        let now = clock.now();
        let age = found.as_ref().and_then(|found| found.active.as_ref());
        let age = age.map_or(Duration::ZERO, |active| now.since(active.opened));
        let log = found.as_ref().map(|found| found.head.log.clone()).filter(|log| !log.is_empty());
        let log = log.or_else(|| known.as_ref().map(|known| known.head.log.clone()));
        let log = log.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let head = found.as_ref().map_or_else(Head::default, |found| found.head.clone());
        let (key, is_new) = load_or_generate(&key_path)?;
        let spki = key.public_key_der();
        let is_first = is_new && head.seq == 0;
        if is_first && known.is_none() {
            let head = Head { log: log.clone(), ..Head::default() };
            store(&head_path, &SignedHead { head, key: fingerprint(&spki) })?;
        }
        // After the note: a key or a line without one tells that it was removed.
        if is_new {
            key.store(&key_path)?;
        }
        let mut writer = Self {
            head_path,
            bounds,
            clock,
            key_name: fingerprint(&spki),
            key_text: base64(&spki),
            key,
            file,
            bytes: 0,
            first: 1,
            opened: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            chain: Chain::resume(Head { log, ..head }),
            unsigned_since: None,
            told_lost: 0,
            shared,
            names,
        };
        writer.begin(found.as_ref(), known.as_ref(), is_first)?;
        Ok(writer)
    }

    /// Writes the first lines of this process.
    fn begin(
        &mut self,
        found: Option<&Found>,
        known: Option<&SignedHead>,
        is_first: bool,
    ) -> Result<(), AuditError> {
        let now = self.clock.now();
        let on_disk = self.chain.head().seq;
        let active = found.and_then(|found| found.active.as_ref());
        let mut records = Vec::new();
        match active {
            Some(active) => (self.bytes, self.first) = (active.bytes, active.first),
            None => {
                self.file.set_len(0).map_err(AuditError::io(self.names.active()))?;
                self.first = on_disk + 1;
            }
        }
        if let Some(Found { removed, set_aside, .. }) = found
            && (*removed > 0 || set_aside.is_some())
        {
            let repaired = Record::new(now, event::REPAIRED).with("removed-bytes", *removed);
            records.push(repaired.with("set-aside", set_aside.as_deref()));
        }
        let signed = known.map_or(0, |known| known.head.seq);
        records.extend(self.missing(on_disk, known, is_first));
        let before = known.map(|known| known.key.clone());
        let other_key = match (active, before) {
            (_, Some(before)) => before != self.key_name,
            (Some(active), None) => active.key != self.key_text,
            (None, None) => false,
        };
        if other_key && active.is_some() {
            records.push(Record::new(now, event::KEY_CHANGED).with("public-key", self.key_text.as_str()));
        }
        if on_disk > 0 {
            let resumed = Record::new(now, event::RESUMED).with("signed", signed.min(on_disk));
            records.push(resumed.with("is-clean", signed == on_disk));
        }
        self.write(records)?;
        self.checkpoint()?;
        if self.trim()? { self.checkpoint() } else { Ok(()) }
    }

    /// Tells that lines are missing which were signed, or that nobody knows whether any are.
    fn missing(&self, on_disk: u64, known: Option<&SignedHead>, is_first: bool) -> Option<Record> {
        let now = self.clock.now();
        let (record, found) = match known.map(|known| known.head.seq) {
            Some(signed) if signed > on_disk => {
                let found = format!("lines {} to {signed} of the audit log are missing", on_disk + 1);
                (Record::new(now, event::TAIL_MISSING).with("signed", signed), found)
            }
            None if !is_first => {
                let path = self.head_path.display();
                let found = format!(
                    "{path} is missing or cannot be read: lines after {on_disk} may have been cut off"
                );
                (Record::new(now, event::HEAD_MISSING), found)
            }
            _ => return None,
        };
        tracing::error!(found, "the audit log is not whole");
        self.shared.status.lock().found = Some(found);
        Some(record.with("found", on_disk))
    }

    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let wait = if self.unsigned_since.is_some() || !self.shared.limiter.lock().is_empty() {
                TICK
            } else {
                IDLE
            };
            let first = match jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (makes, ended) = self.take(first, jobs);
            let now = self.clock.now();
            let due =
                if ended { self.shared.limiter.lock().finish() } else { self.shared.limiter.lock().due(now) };
            // The counts are of what happened before.
            let mut records: Vec<Record> = due.into_iter().map(|summary| summary.record(now)).collect();
            records.extend(makes.into_iter().map(|make| make()));
            let result = self.step(records, ended);
            self.tell(&result);
            if ended {
                return;
            }
        }
    }

    fn take(&self, first: Option<Job>, jobs: &Receiver<Job>) -> (Vec<Make>, bool) {
        let mut makes = Vec::new();
        let mut ended = false;
        let is_waiting = first.is_some();
        for job in
            first.into_iter().chain(is_waiting.then(|| jobs.try_iter()).into_iter().flatten().take(BATCH))
        {
            match job {
                Job::Write(make) => makes.push(make),
                Job::End => {
                    ended = true;
                    break;
                }
            }
        }
        self.shared.queued.fetch_sub(makes.len(), Ordering::Relaxed);
        (makes, ended)
    }

    fn step(&mut self, mut records: Vec<Record>, ended: bool) -> Result<(), AuditError> {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > self.told_lost {
            let gap = Record::new(self.clock.now(), event::GAP).with("lost", lost - self.told_lost);
            // The lost ones came after those that waited.
            records.push(gap);
        }
        self.write(records)?;
        self.told_lost = lost;
        let checkpoint = Duration::from_secs(self.bounds.checkpoint_secs.into());
        let is_due = self.unsigned_since.is_some_and(|since| since.elapsed() >= checkpoint);
        if is_due || ended {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Writes records as lines, in as many files as they need. What cannot be written counts as lost.
    fn write(&mut self, records: Vec<Record>) -> Result<(), AuditError> {
        let mut records = records.into_iter().peekable();
        let is_old = self.opened.elapsed() >= Duration::from_secs(self.bounds.file_age_max_secs.into());
        if is_old && self.bytes > 0 && records.peek().is_some() {
            self.rotate()?;
        }
        while self.bytes == 0 || records.peek().is_some() {
            let mut chain = self.chain.clone();
            let (mut lines, mut ends) = (Vec::new(), Vec::new());
            let mut append = |record: &Record| {
                chain.append(record, &mut lines);
                ends.push((record.event, lines.len()));
                size(lines.len())
            };
            let mut bytes = self.bytes;
            if bytes == 0 {
                // Also when a full disk has kept the first line of a file from being written.
                bytes = append(&self.header());
            }
            while bytes < self.bounds.file_bytes_max.max(FILE_BYTES_MIN)
                && let Some(record) = records.next()
            {
                bytes = self.bytes + append(&record);
            }
            if let Err(error) = self.put(&lines, chain) {
                let events = ends.iter().map(|(event, _)| *event).chain(records.map(|record| record.event));
                let lost =
                    events.filter(|event| ![event::GAP, event::CREATED, event::OPENED].contains(event));
                self.shared.lost.fetch_add(size(lost.count()), Ordering::Relaxed);
                return Err(error);
            }
            self.stream(&lines, &ends);
            if records.peek().is_some() {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Writes whole lines, or nothing: half a line would hide the next ones.
    fn put(&mut self, lines: &[u8], chain: Chain) -> Result<(), AuditError> {
        if let Err(error) = self.file.write_all(lines) {
            self.file.set_len(self.bytes).map_err(AuditError::io(self.names.active()))?;
            return Err(AuditError::io(self.names.active())(error));
        }
        self.bytes += size(lines.len());
        self.chain = chain;
        self.unsigned_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn stream(&self, lines: &[u8], ends: &[(&'static str, usize)]) {
        let Some(sink) = self.shared.sink.get() else { return };
        let mut start = 0;
        for (event, end) in ends {
            if let Some(line) = lines.get(start..end - 1) {
                sink(event, line);
            }
            start = *end;
        }
    }

    /// Signs what was written and makes it durable; the note of it beside the key comes last.
    fn checkpoint(&mut self) -> Result<(), AuditError> {
        if self.unsigned_since.is_none() {
            return Ok(());
        }
        let mut chain = self.chain.clone();
        let mut line = Vec::new();
        chain.checkpoint(self.clock.now(), &self.key_name, |message| self.key.sign(message), &mut line)?;
        let bytes = line.len();
        self.put(&line, chain)?;
        self.file.sync_data().map_err(AuditError::io(self.names.active()))?;
        self.stream(&line, &[(event::CHECKPOINT, bytes)]);
        self.unsigned_since = None;
        let head = self.chain.head().clone();
        let mut status = self.shared.status.lock();
        (status.key, status.signed) = (self.key_name.clone(), head.clone());
        drop(status);
        store(&self.head_path, &SignedHead { head, key: self.key_name.clone() })
    }

    /// Begins the next file; the one before ends with a checkpoint.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.checkpoint()?;
        let active = self.names.active();
        match std::fs::rename(active, self.names.rotated(self.first)) {
            // An earlier try came so far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(AuditError::io(active))?,
        }
        self.file = append(active).map_err(AuditError::io(active))?;
        // At once: whatever fails below, the old file must not be taken for this one.
        (self.bytes, self.first, self.opened) = (0, self.chain.head().seq + 1, Instant::now());
        self.names.sync_dir().map_err(AuditError::io(self.names.dir()))?;
        self.write(Vec::new())?;
        if self.trim()? { self.checkpoint() } else { Ok(()) }
    }

    /// Deletes the oldest files that do not fit any more, after a signed line that says so; tells whether.
    fn trim(&mut self) -> Result<bool, AuditError> {
        let rotated = self.names.list().map_err(AuditError::io(self.names.dir()))?;
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut total: u64 = rotated.iter().map(|old| bytes(&old.path)).sum();
        let room = self.bounds.total_bytes_max.saturating_sub(self.bounds.file_bytes_max.max(FILE_BYTES_MIN));
        let mut doomed = Vec::new();
        let mut deleted: u64 = 0;
        for old in &rotated {
            if total <= room {
                break;
            }
            let size = bytes(&old.path);
            total = total.saturating_sub(size);
            deleted += size;
            doomed.push(&old.path);
        }
        if doomed.is_empty() {
            return Ok(false);
        }
        // What the next file says of the line before it: that is what its verifier will ask for.
        let next = rotated.get(doomed.len()).map_or_else(|| self.names.active(), |next| next.path.as_path());
        let after = first_line(next).map_err(AuditError::io(next))?;
        let mut record =
            Record::new(self.clock.now(), event::TRIMMED).with("files", doomed.len()).with("bytes", deleted);
        if let Some(after) = after {
            record = record.with("through", after.seq.saturating_sub(1)).with("hash", after.prev.to_string());
        }
        let mut chain = self.chain.clone();
        let mut line = Vec::new();
        chain.append(&record, &mut line);
        self.put(&line, chain)?;
        self.stream(&line, &[(event::TRIMMED, line.len())]);
        self.checkpoint()?;
        for path in doomed {
            std::fs::remove_file(path).map_err(AuditError::io(path))?;
        }
        Ok(true)
    }

    /// The first line of a file: whoever has only this file knows whose it is and how to verify it.
    fn header(&self) -> Record {
        let event = if self.chain.head().seq == 0 { event::CREATED } else { event::OPENED };
        Record::new(self.clock.now(), event)
            .with("format", 1)
            .with("log", self.chain.head().log.as_str())
            .with("public-key", self.key_text.as_str())
    }

    /// Shows a failure while it lasts, and logs its first.
    fn tell(&self, result: &Result<(), AuditError>) {
        let mut status = self.shared.status.lock();
        match result {
            Err(error) => {
                if status.failing.is_none() {
                    tracing::error!(%error, "audit log cannot be written; free disk space");
                }
                status.failing = Some(error.to_string());
            }
            Ok(()) => status.failing = None,
        }
    }
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Returns the key, and whether it is a new one that has to be stored.
fn load_or_generate(path: &Path) -> Result<(PrivateKey, bool), AuditError> {
    match PrivateKey::load(path) {
        Err(KeyFileError::File(FileError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok((PrivateKey::generate()?, true))
        }
        loaded => Ok((loaded?, false)),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
