//! The thread that reads, on a read-only connection of its own: a read never waits for an fsync.

use crate::error::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::io;
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;

/// Keys with their values, in key order.
pub(crate) type Rows = Vec<(String, Vec<u8>)>;

pub(crate) enum Read {
    Get { key: String, done: oneshot::Sender<Result<Option<Vec<u8>>, StoreError>> },
    Scan { range: Range, done: oneshot::Sender<Result<Rows, StoreError>> },
    Stop,
}

/// Keys that start with a prefix, after a key, at most so many.
pub(crate) struct Range {
    pub(crate) prefix: String,
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

pub(crate) struct ReaderThread {
    reads: Sender<Read>,
    thread: Option<JoinHandle<()>>,
}

impl ReaderThread {
    pub(crate) fn spawn(connection: Connection, queue: usize) -> io::Result<Self> {
        let (reads, receiver) = mpsc::channel(queue);
        let thread = thread::Builder::new()
            .name("store-reader".to_owned())
            .spawn(move || run(&connection, receiver))?;
        Ok(Self { reads, thread: Some(thread) })
    }

    pub(crate) fn sender(&self) -> Sender<Read> {
        self.reads.clone()
    }

    /// Answers what is queued, then ends the thread and its connection.
    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Fails only when the thread is gone already, which is what is wanted.
        drop(self.reads.blocking_send(Read::Stop));
        drop(thread.join());
    }
}

fn run(connection: &Connection, mut reads: Receiver<Read>) {
    while let Some(read) = reads.blocking_recv() {
        // An answer nobody waits for any more is dropped.
        match read {
            Read::Get { key, done } => {
                drop(done.send(get(connection, &key).map_err(|error| (&error).into())))
            }
            Read::Scan { range, done } => {
                drop(done.send(scan(connection, &range).map_err(|error| (&error).into())))
            }
            Read::Stop => return,
        }
    }
}

fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM kv WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()
}

fn scan(connection: &Connection, range: &Range) -> rusqlite::Result<Rows> {
    let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
    let end = first_key_after_prefix(&range.prefix);
    let after = range.after.as_deref().unwrap_or_default();
    // No key is empty, so `key > ''` holds for all.
    connection
        .prepare_cached(
            "SELECT key, value FROM kv
             WHERE key >= ?1 AND key > ?2 AND (?3 IS NULL OR key < ?3) ORDER BY key LIMIT ?4",
        )?
        .query_map(params![range.prefix, after, end, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The least text greater than every text that starts with `prefix`; none when there is no end.
/// Byte order of UTF-8 is the order of its characters, so the last character is stepped.
fn first_key_after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            _ => char::from_u32(u32::from(last).saturating_add(1)),
        };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_prefix_steps_its_last_character() {
        assert_eq!(first_key_after_prefix("entry/").as_deref(), Some("entry0"));
        assert_eq!(first_key_after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(first_key_after_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(first_key_after_prefix("\u{10ffff}"), None);
        assert_eq!(first_key_after_prefix(""), None);
    }
}
