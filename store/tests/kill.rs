//! What was acknowledged is there after the process is killed, for both durabilities.
#![expect(clippy::unwrap_used, reason = "tests")]

use midge_store::{Batch, Durability, OpenError, Store, StoreInfo};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const PLACE: &str = "MIDGE_STORE_KILL_TEST";
const ROUNDS: u32 = 5;
const WRITERS: u32 = 16;

fn info() -> StoreInfo {
    StoreInfo::new("edge", "example.org")
}

#[tokio::test]
async fn acknowledged_writes_survive_kill_9() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("midge.db");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PLACE, format!("{round}:{}", path.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let before = acknowledged.len();
        let mut killed = false;
        for line in lines {
            let line = line.unwrap();
            if let Some(key) = line.strip_prefix("ACK ") {
                acknowledged.insert(key.to_owned());
            }
            if !killed && acknowledged.len() >= before + 200 + 37 * round as usize {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        refused_as_it_is(&path);
        assert!(!is_marked_clean(&path));
        let store = Store::open(&path, &info()).unwrap();
        let kept: BTreeSet<String> =
            store.scan("k/").await.unwrap().into_iter().map(|(key, _)| key).collect();
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} lost: {lost:?}", lost.len(), acknowledged.len());
        let torn = kept.iter().filter(|key| key.ends_with("/a") && !kept.contains(&key.replace("/a", "/b")));
        assert_eq!(torn.count(), 0, "a batch was torn");
        store.close().await.unwrap();
        assert!(is_marked_clean(&path));
    }
    assert!(acknowledged.len() >= 1000);
}

/// The next start must know that it has to check the file.
fn is_marked_clean(path: &Path) -> bool {
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    reader.query_row("SELECT count(*) = 1 FROM meta WHERE name = 'clean'", (), |row| row.get(0)).unwrap()
}

/// Another owner's attempt must not even move the log into the database.
fn refused_as_it_is(path: &Path) {
    let files = || [fs::read(path).unwrap(), fs::read(path.with_file_name("midge.db-wal")).unwrap()];
    let before = files();
    assert!(!before[1].is_empty());
    let error = Store::open(path, &StoreInfo::new("edge", "other.org")).unwrap_err();
    assert!(matches!(error, OpenError::OtherTrustDomain { .. }), "{error}");
    assert!(before == files(), "a refused store was changed");
}

#[test]
#[ignore = "the child of acknowledged_writes_survive_kill_9"]
fn child_writes_until_killed() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let (round, path) = place.split_once(':').unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Store::open(path, &info()).unwrap();
    runtime.block_on(async {
        let writers = (0..WRITERS).map(|writer| {
            let (store, round) = (store.clone(), round.to_owned());
            tokio::spawn(async move {
                for number in 0u64.. {
                    let level =
                        if writer % 2 == 0 { Durability::PowerLoss } else { Durability::ProcessCrash };
                    let key = format!("k/{round}/{writer}/{number}/a");
                    let batch = Batch::new().put(&key, vec![b'v'; 300]).put(key.replace("/a", "/b"), "twin");
                    store.commit(batch, level).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ACK {key}").unwrap();
                    out.flush().unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}
