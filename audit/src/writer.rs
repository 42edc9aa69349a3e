//! The thread that writes: chains, signs, begins new files and deletes old ones.

use crate::config::{AuditConfig, Bounds};
use crate::error::AuditError;
use crate::files::{Names, Rotated, append};
use crate::head::{SignedHead, load, path_of, store};
use crate::log::{Job, Make, Shared};
use crate::recover::{Found, find, first_line};
use crate::signed::{SignedTo, signed_to};
use audit_core::{Chain, Head, Payer, Record, UNSIGNED_LINES_MAX, event, fingerprint};
use midge_pki::{FileError, KeyFileError, PrivateKey};
use midge_runtime::Clock;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Events written in one go: one system call, and one look at the clock.
const BATCH: usize = 1_024;
/// How long the first of them waits for others: waking this thread costs whoever has an event more than the event, and
/// a line nobody has seen yet is no later for it.
const GATHERED: Duration = Duration::from_millis(2);
/// Peers whose counts are asked for in one go: whoever has an event waits meanwhile.
const PEERS: usize = 256;
/// Lines after which a checkpoint follows whatever the time, and most that are written in one go: together fewer than a
/// verifier takes.
const UNSIGNED_LINES: u64 = UNSIGNED_LINES_MAX / 2;
const LINES_AT_ONCE: usize = BATCH * 2;
/// How often a waiting writer looks after what is due.
const TICK: Duration = Duration::from_secs(1);
/// Smallest file, whatever is configured: its first line must leave room for others.
const FILE_BYTES_MIN: u64 = 4 * 1024;
/// With nothing due.
const IDLE: Duration = Duration::from_secs(3_600);
/// After the next file could not be begun, the old one grows by this part of a file, or is this old, before it is
/// tried again: each try may cost a checkpoint.
const RETRY_SHARE: u64 = 16;
const RETRY_AFTER: Duration = Duration::from_secs(60);

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
    /// Bytes that it may have before the next one is to be begun.
    bytes_max: u64,
    /// Half a line stands behind them, which could not be cut off yet.
    is_torn: bool,
    /// Number of its first line.
    first: u64,
    opened: Instant,
    /// The chain as it is in the file.
    chain: Chain,
    /// When the oldest line that is not signed was written.
    unsigned_since: Option<Instant>,
    /// Lines that are not signed.
    unsigned: u64,
    /// The last checkpoint is not noted beside the key yet.
    is_unnoted: bool,
    /// Why the next file could not be begun, or old ones not be deleted, while that is so.
    trouble: Option<Trouble>,
    /// Events lost that the log does not tell of yet: how many of [`Shared::lost`] it does.
    told_lost: u64,
    shared: Arc<Shared>,
}

/// A record on its way into the file.
struct Item {
    record: Record,
    /// Whose share of the log its line is taken from.
    payer: Option<Payer>,
}

impl From<Record> for Item {
    fn from(record: Record) -> Self {
        Self { record, payer: None }
    }
}

struct Trouble {
    error: String,
    since: Instant,
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
            bytes_max: bounds.file_bytes_max.max(FILE_BYTES_MIN),
            is_torn: false,
            first: 1,
            opened: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
            chain: Chain::resume(Head { log, ..head }),
            unsigned_since: None,
            unsigned: 0,
            is_unnoted: false,
            trouble: None,
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
        let before = known.map(|known| known.key.clone());
        let other_key = match (active, before) {
            (_, Some(before)) => before != self.key_name,
            (Some(active), None) => active.key != self.key_text,
            (None, None) => false,
        };
        // The log's own word, and not the note's: what nobody has signed is not to be taken for signed.
        let log = &self.chain.head().log;
        let signed = signed_to(self.names.active(), log, &self.key.public_key_der(), known)?;
        records.extend(self.wrong(on_disk, known, is_first, &signed));
        // A first start that was cut short has made a key that signed nothing.
        if other_key && (on_disk > 0 || known.is_some_and(|known| known.head.seq > 0)) {
            self.tell_other_key(on_disk);
        }
        if other_key && active.is_some() {
            records.push(Record::new(now, event::KEY_CHANGED).with("public-key", self.key_text.as_str()));
        }
        if on_disk > 0 {
            let resumed = Record::new(now, event::RESUMED).with("signed", signed.seq).with("found", on_disk);
            let resumed = resumed.with("is-clean", signed.seq == on_disk);
            records.push(resumed.with("checkpoint-secs", self.bounds.checkpoint_secs));
        }
        self.write(records.into_iter().map(Item::from).collect())?;
        self.checkpoint()?;
        self.trim(self.bytes.max(self.file_bytes_max()))?;
        self.note()?;
        self.tell(&Ok(()));
        Ok(())
    }

    /// Tells that lines are missing which were signed, that nobody knows whether any are, or that what is noted as
    /// signed is not.
    fn wrong(
        &self,
        on_disk: u64,
        known: Option<&SignedHead>,
        is_first: bool,
        signed: &SignedTo,
    ) -> Option<Record> {
        let now = self.clock.now();
        let path = self.head_path.display();
        let (record, found) = match known.map(|known| known.head.seq) {
            Some(noted) if noted > on_disk => {
                let found = format!("lines {} to {noted} of the audit log are missing", on_disk + 1);
                (Record::new(now, event::TAIL_MISSING).with("signed", noted), found)
            }
            Some(noted) if !signed.is_noted => {
                let found = format!(
                    "{path} names line {noted} as the last checkpoint, which is none that the key has signed: lines up to {on_disk} may be anybody's"
                );
                (Record::new(now, event::HEAD_INVALID).with("signed", noted), found)
            }
            None if !is_first => {
                let found = format!(
                    "{path} is missing or cannot be read: lines after {on_disk} may have been cut off"
                );
                (Record::new(now, event::HEAD_MISSING), found)
            }
            _ => return None,
        };
        self.tell_found(found);
        Some(record.with("found", on_disk))
    }

    fn tell_other_key(&self, on_disk: u64) {
        let (name, last) = (&self.key_name, on_disk);
        self.tell_found(format!(
            "another key signs the audit log after line {last}, {name}: the one before was removed or replaced"
        ));
    }

    fn tell_found(&self, found: String) {
        tracing::error!(found, "the audit log is not as it was left");
        let mut status = self.shared.status.lock();
        status.found = Some(match status.found.take() {
            Some(before) => format!("{before}; {found}"),
            None => found,
        });
    }

    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match jobs.recv_timeout(if self.is_waited_for() { TICK } else { IDLE }) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if matches!(first, Some(Job::Write(..))) && self.shared.queued.load(Ordering::Relaxed) < BATCH {
                std::thread::sleep(GATHERED);
            }
            let (makes, ended) = self.take(first, jobs);
            // The counts are of what happened before.
            let mut items = self.counts(ended);
            items.extend(makes.into_iter().map(|(make, payer)| Item { record: make(), payer }));
            let result = self.step(items, ended);
            self.tell(&result);
            if ended {
                return;
            }
        }
    }

    /// Tells whether something is to be done even if nothing comes.
    fn is_waited_for(&self) -> bool {
        self.unsigned_since.is_some()
            || self.is_unnoted
            || self.untold() > 0
            || !self.shared.limiter.lock().is_empty()
    }

    /// Returns how many events were lost that no line tells of.
    fn untold(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed).saturating_sub(self.told_lost)
    }

    /// Returns the counts that are due, or all.
    fn counts(&self, ended: bool) -> Vec<Item> {
        let now = self.clock.now();
        let mut counts = Vec::new();
        while let Some(due) = { self.shared.limiter.lock().due(now, PEERS) } {
            counts.extend(due);
        }
        if ended {
            counts.append(&mut self.shared.limiter.lock().finish());
        }
        counts.into_iter().map(|summary| summary.record(now).into()).collect()
    }

    fn take(&self, first: Option<Job>, jobs: &Receiver<Job>) -> (Vec<(Make, Option<Payer>)>, bool) {
        let mut makes = Vec::new();
        let mut ended = false;
        let is_waiting = first.is_some();
        for job in
            first.into_iter().chain(is_waiting.then(|| jobs.try_iter()).into_iter().flatten().take(BATCH))
        {
            match job {
                Job::Write(make, payer) => makes.push((make, payer)),
                Job::End => {
                    ended = true;
                    break;
                }
            }
        }
        self.shared.queued.fetch_sub(makes.len(), Ordering::Relaxed);
        (makes, ended)
    }

    fn step(&mut self, mut items: Vec<Item>, ended: bool) -> Result<(), AuditError> {
        let untold = self.untold();
        if untold > 0 {
            // The lost ones came after those that waited.
            items.push(Record::new(self.clock.now(), event::GAP).with("lost", untold).into());
        }
        self.write(items)?;
        let checkpoint = Duration::from_secs(self.bounds.checkpoint_secs.into());
        let is_due = self.unsigned_since.is_some_and(|since| since.elapsed() >= checkpoint);
        if is_due || ended {
            self.checkpoint()?;
        }
        self.note()
    }

    /// Writes records as lines, in as many files as they need. What is in none afterwards counts as lost, whatever
    /// failed: this is the only place where records are given up.
    fn write(&mut self, items: Vec<Item>) -> Result<(), AuditError> {
        let mut items = VecDeque::from(items);
        let written = self.write_all(&mut items);
        let lost = items.iter().map(|item| events(&item.record)).sum();
        self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        written
    }

    /// Takes records out as they are written.
    fn write_all(&mut self, items: &mut VecDeque<Item>) -> Result<(), AuditError> {
        while self.bytes == 0 || !items.is_empty() {
            if self.unsigned >= UNSIGNED_LINES {
                self.checkpoint()?;
            }
            if self.is_full() {
                self.next_file()?;
            }
            self.write_some(items)?;
        }
        Ok(())
    }

    /// Tells whether the next file is to be begun.
    fn is_full(&self) -> bool {
        let is_old = self.opened.elapsed() >= Duration::from_secs(self.bounds.file_age_max_secs.into());
        let is_due = is_old || self.bytes >= self.file_bytes_max();
        let was_tried = self.trouble.as_ref().is_some_and(|tried| tried.since.elapsed() < RETRY_AFTER);
        self.bytes > 0 && (self.bytes >= self.bytes_max || (is_due && !was_tried))
    }

    fn file_bytes_max(&self) -> u64 {
        self.bounds.file_bytes_max.max(FILE_BYTES_MIN)
    }

    /// Begins the next file. Where that fails the log goes on in this one, as long as all together have no more bytes
    /// than they may.
    fn next_file(&mut self) -> Result<(), AuditError> {
        let Err(error) = self.rotate() else {
            (self.trouble, self.bytes_max) = (None, self.file_bytes_max());
            return Ok(());
        };
        self.trouble = Some(Trouble { error: error.to_string(), since: Instant::now() });
        let more = self.bytes + self.file_bytes_max() / RETRY_SHARE;
        let old: u64 = self.rotated()?.iter().map(|old| bytes_of(&old.path)).sum();
        if old + more > self.bounds.total_bytes_max {
            return Err(error);
        }
        self.bytes_max = more;
        Ok(())
    }

    /// Writes the records that this file has room for, after its first line where it has none, and takes them out.
    fn write_some(&mut self, items: &mut VecDeque<Item>) -> Result<(), AuditError> {
        let mut chain = self.chain.clone();
        let (mut lines, mut ends) = (Vec::new(), Vec::new());
        // Also when a full disk has kept the first line of a file from being written.
        let header = (self.bytes == 0).then(|| self.header());
        if let Some(header) = &header {
            chain.append(header, &mut lines);
            ends.push((header.event, lines.len()));
        }
        let headers = ends.len();
        for Item { record, .. } in &*items {
            if self.bytes + size(lines.len()) >= self.bytes_max || ends.len() >= LINES_AT_ONCE {
                break;
            }
            chain.append(record, &mut lines);
            ends.push((record.event, lines.len()));
        }
        self.put(&lines, chain)?;
        let mut start = ends.get(..headers).and_then(<[_]>::last).map_or(0, |(_, end)| *end);
        for (_, end) in ends.get(headers..).unwrap_or_default() {
            let Some(Item { record, payer }) = items.pop_front() else { break };
            self.told_lost += told(&record);
            if let Some(payer) = payer {
                self.shared.limiter.lock().charge(&payer, size(end - start), record.at);
            }
            start = *end;
        }
        self.stream(&lines, &ends);
        Ok(())
    }

    /// Writes whole lines, or nothing: half a line would hide the next ones.
    fn put(&mut self, lines: &[u8], chain: Chain) -> Result<(), AuditError> {
        self.mend()?;
        if let Err(error) = self.file.write_all(lines) {
            self.is_torn = self.file.set_len(self.bytes).is_err();
            return Err(AuditError::io(self.names.active())(error));
        }
        self.bytes += size(lines.len());
        self.unsigned += chain.head().seq.saturating_sub(self.chain.head().seq);
        self.chain = chain;
        self.unsigned_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn mend(&mut self) -> Result<(), AuditError> {
        if self.is_torn {
            self.file.set_len(self.bytes).map_err(AuditError::io(self.names.active()))?;
            self.is_torn = false;
        }
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

    /// Signs what was written and makes it durable; [`Self::note`] is for afterwards.
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
        (self.unsigned_since, self.unsigned, self.is_unnoted) = (None, 0, true);
        let mut status = self.shared.status.lock();
        (status.key, status.signed) = (self.key_name.clone(), self.chain.head().clone());
        Ok(())
    }

    /// Notes the last checkpoint beside the key. Lines are written whether or not that can be done; nothing is deleted
    /// before it is.
    fn note(&mut self) -> Result<(), AuditError> {
        if self.is_unnoted {
            let head = self.shared.status.lock().signed.clone();
            store(&self.head_path, &SignedHead { head, key: self.key_name.clone() })?;
            self.is_unnoted = false;
        }
        Ok(())
    }

    /// Begins the next file; the one before ends with a checkpoint.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.mend()?;
        // Before, so that a bound that cannot be kept leaves no new file.
        self.trim(self.bytes + self.file_bytes_max())?;
        self.checkpoint()?;
        let (active, old) = (self.names.active(), self.names.rotated(self.first));
        match std::fs::rename(active, &old) {
            // An earlier try came so far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(AuditError::io(active))?,
        }
        self.file = match append(active) {
            Ok(file) => file,
            Err(error) => {
                // The log goes on in it, and is looked for here; if not even this can be done, under its new name.
                drop(std::fs::rename(&old, active));
                return Err(AuditError::io(active)(error));
            }
        };
        // At once: whatever fails below, the old file must not be taken for this one.
        (self.bytes, self.first, self.opened) = (0, self.chain.head().seq + 1, Instant::now());
        self.names.sync_dir().map_err(AuditError::io(self.names.dir()))?;
        self.write_some(&mut VecDeque::new())
    }

    /// Returns the files before the one that is written, which may have the name of such a one.
    fn rotated(&self) -> Result<Vec<Rotated>, AuditError> {
        let mut rotated = self.names.list().map_err(AuditError::io(self.names.dir()))?;
        rotated.retain(|old| old.first < self.first);
        Ok(rotated)
    }

    /// Deletes the oldest files that leave no room for so many bytes, after a signed line that says so.
    fn trim(&mut self, reserved: u64) -> Result<(), AuditError> {
        let rotated = self.rotated()?;
        let mut total: u64 = rotated.iter().map(|old| bytes_of(&old.path)).sum();
        let room = self.bounds.total_bytes_max.saturating_sub(reserved);
        let mut doomed = Vec::new();
        let mut deleted: u64 = 0;
        for old in &rotated {
            if total <= room {
                break;
            }
            let size = bytes_of(&old.path);
            total = total.saturating_sub(size);
            deleted += size;
            doomed.push(&old.path);
        }
        if doomed.is_empty() {
            return Ok(());
        }
        // First, so that as long as it fails no line is written for nothing.
        self.note()?;
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
        self.note()?;
        for path in doomed {
            std::fs::remove_file(path).map_err(AuditError::io(path))?;
        }
        Ok(())
    }

    /// The first line of a file: whoever has only this file knows whose it is and how to verify it.
    fn header(&self) -> Record {
        let event = if self.chain.head().seq == 0 { event::CREATED } else { event::OPENED };
        Record::new(self.clock.now(), event)
            .with("format", 1)
            .with("log", self.chain.head().log.as_str())
            .with("public-key", self.key_text.as_str())
            .with("checkpoint-secs", self.bounds.checkpoint_secs)
    }

    /// Shows a failure while it lasts, and logs its first.
    fn tell(&self, result: &Result<(), AuditError>) {
        let error = result.as_ref().err().map(ToString::to_string);
        let error = error.or_else(|| self.trouble.as_ref().map(|trouble| trouble.error.clone()));
        let mut status = self.shared.status.lock();
        if let Some(error) = &error
            && status.failing.is_none()
        {
            tracing::error!(error, "audit log cannot be written as it should be; free disk space");
        }
        status.failing = error;
    }
}

/// Returns how many events a record stands for: what it costs to lose it.
fn events(record: &Record) -> u64 {
    match record.event {
        // Told again by the next one.
        event::GAP => 0,
        event::REPEATED => record.detail("count").and_then(Value::as_u64).unwrap_or(1),
        _ => 1,
    }
}

/// Returns how many lost events a record tells of.
fn told(record: &Record) -> u64 {
    let lost = || record.detail("lost").and_then(Value::as_u64);
    if record.event == event::GAP { lost().unwrap_or_default() } else { 0 }
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
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

#[cfg(test)]
mod tests;
