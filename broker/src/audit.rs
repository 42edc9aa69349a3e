//! The audit log: one JSON object a line, written by one thread so that no connection waits for
//! the disk.

use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Records waiting for the disk; beyond it they are counted and the count is logged.
const BACKLOG: usize = 8_192;
/// Bytes of one file before it is moved to `<name>.1` and a new one begun.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The audit log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {path}: {source}")]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// Where decisions are recorded. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    sender: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

/// What the writer is told.
#[derive(Debug)]
enum Job {
    Write(Map<String, Value>),
    /// Sent once, by the [`AuditWriter`]: logs may live on in tasks that were not joined.
    End,
}

/// Writes the log; when dropped, every record taken before is on disk.
#[derive(Debug)]
pub struct AuditWriter {
    sender: SyncSender<Job>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AuditLog {
    /// Opens `path` for appending, 0600, and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<(Self, AuditWriter), AuditError> {
        let file = append(path).map_err(|source| AuditError { path: path.to_owned(), source })?;
        let (sender, jobs) = sync_channel(BACKLOG);
        let lost = Arc::new(AtomicU64::new(0));
        let (path, counter) = (path.to_owned(), Arc::clone(&lost));
        let thread = std::thread::Builder::new().name("audit".into());
        let handle = thread.spawn(move || write_all(&jobs, file, &path, &counter));
        let handle = handle.map_err(|source| AuditError { path: PathBuf::from("audit thread"), source })?;
        let writer = AuditWriter { sender: sender.clone(), thread: Some(handle) };
        Ok((Self { sender, lost }, writer))
    }

    /// Records one event. Never blocks: records beyond the backlog are counted as lost.
    pub fn record(&self, event: Map<String, Value>) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Job::Write(event)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many records were lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
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

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write_all(jobs: &Receiver<Job>, file: File, path: &Path, lost: &AtomicU64) {
    let mut written = file.metadata().map_or(0, |metadata| metadata.len());
    let mut out = BufWriter::new(file);
    let mut failing = false;
    let mut ended = false;
    while !ended {
        let Ok(first) = jobs.recv() else { return };
        let mut result = Ok(());
        for job in std::iter::once(first).chain(jobs.try_iter().take(BACKLOG)) {
            let Job::Write(record) = job else {
                ended = true;
                break;
            };
            let mut line = Value::Object(record).to_string();
            line.push('\n');
            written = written.saturating_add(line.len() as u64);
            result = result.and(out.write_all(line.as_bytes()));
        }
        result = result.and_then(|()| out.flush());
        if written > FILE_BYTES_MAX {
            result = result.and_then(|()| rotate(path, &mut out));
            written = 0;
        }
        if let Err(error) = &result {
            lost.fetch_add(1, Ordering::Relaxed);
            if !failing {
                tracing::error!(%error, path = %path.display(), "audit log cannot be written; free disk space");
            }
        }
        failing = result.is_err();
    }
}

fn rotate(path: &Path, out: &mut BufWriter<File>) -> std::io::Result<()> {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    std::fs::rename(path, old)?;
    *out = BufWriter::new(append(path)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_taken_is_a_line_of_json_after_the_writer_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (log, writer) = AuditLog::open(&path).unwrap();
        for n in 0..100 {
            log.record(Map::from_iter([("n".to_owned(), Value::from(n))]));
        }
        drop(writer);
        log.record(Map::new());

        let text = std::fs::read_to_string(&path).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
}
