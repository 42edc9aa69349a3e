//! The one task that writes what the core wants stored: all that waits in one transaction, again and again.
//!
//! Acknowledgements wait for the transaction and not for each other, and nothing else waits at all: while one
//! transaction is written the next one gathers.

use crate::Hub;
use crate::hub::IDLE_WAIT;
use crate::pending::Pending;
use anyhow::{Context as _, bail};
use broker_core::{Durability, Record, RecordKey};
use midge_runtime::Backoff;
use midge_store::Store;
use std::time::{Duration, Instant};

/// Delays between attempts while the store fails: soon at first, since a transaction that did not find
/// room may be followed by one that does.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Part of the time of the last transaction that the next one waits: a receiver that is there acknowledges within it,
/// and with a disk that takes its time nobody waits for the disk then. Where most of what came was undone before it was
/// written, it waits as long as the last one took: what is not written saves as much again.
const SHARE: u32 = 8;

/// Longest such wait, and the shortest that the timer knows.
const LINGER_MAX: Duration = Duration::from_millis(16);
const LINGER_MIN: Duration = Duration::from_millis(1);

/// Records read at a time at the start.
const PAGE_RECORDS: usize = 4096;

/// Attempts to write what is left at a stop.
const LAST_ATTEMPTS: u32 = 3;

/// Reads every record of the store, in the order of keys.
///
/// # Errors
/// When the store cannot be read, or holds what this version does not understand: it is left as it is then.
pub(crate) async fn read(store: &Store) -> anyhow::Result<Vec<(RecordKey, Record)>> {
    let mut records = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.scan_page("", after.take(), PAGE_RECORDS).await?;
        for (text, bytes) in &page {
            let record = RecordKey::parse(text).and_then(|key| Ok((key, Record::decode(key, bytes)?)));
            match record {
                Ok(record) => records.push(record),
                Err(error) => bail!(
                    "record {text} in {} cannot be read: {error}; start the version that wrote it, restore the file \
                     from a backup, or move it away to start without sessions and retained messages",
                    store.path().display()
                ),
            }
        }
        if page.len() < PAGE_RECORDS {
            return Ok(records);
        }
        after = page.into_iter().next_back().map(|(key, _)| key);
    }
}

/// Writes what the hub gathers until it is told to end and nothing is left.
///
/// # Errors
/// When at the end something is left that cannot be written.
pub(crate) async fn run(hub: Hub, store: Store) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let (mut wait, mut written) = (Duration::ZERO, Instant::now());
    while hub.wait_for_pending().await {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let Some(pending) = hub.take_pending(written.elapsed() >= IDLE_WAIT) else { continue };
        let started = Instant::now();
        match write(&store, &pending).await {
            Ok(()) => {
                backoff.reset();
                wait = linger(started.elapsed(), pending.is_mostly_undone());
                hub.stored(pending);
                written = Instant::now();
            }
            Err(error) => {
                hub.not_stored(pending, error.to_string());
                if hub.is_ending() && backoff.attempts() >= LAST_ATTEMPTS {
                    return Err(error).context("what was not acknowledged yet is lost");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
    Ok(())
}

/// How long the transaction after one that took so long waits for more.
fn linger(took: Duration, is_mostly_undone: bool) -> Duration {
    let wait = if is_mostly_undone { took } else { took / SHARE };
    if wait < LINGER_MIN { Duration::ZERO } else { wait.min(LINGER_MAX) }
}

async fn write(store: &Store, pending: &Pending) -> Result<(), midge_store::StoreError> {
    if pending.is_empty() {
        return Ok(());
    }
    let level = match pending.level() {
        Durability::None | Durability::ProcessCrash => midge_store::Durability::ProcessCrash,
        Durability::PowerLoss => midge_store::Durability::PowerLoss,
    };
    store.commit(pending.batch(), level).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_quick_waits_for_nobody_and_who_is_slow_not_for_long() {
        let millis = Duration::from_millis;
        assert_eq!(linger(Duration::from_micros(100), true), Duration::ZERO);
        assert_eq!(linger(millis(12), false), Duration::from_micros(1_500));
        assert_eq!(linger(millis(12), true), millis(12));
        assert_eq!(linger(millis(500), false), LINGER_MAX);
    }
}
