//! What a store keeps, groups and recovers from.
#![expect(clippy::unwrap_used, reason = "tests")]

use midge_store::{Batch, Durability, Store, StoreError, StoreInfo, StoreOptions};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use tempfile::TempDir;

fn edge() -> StoreInfo {
    StoreInfo::new("edge", "example.org")
}

fn place() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("midge.db");
    (directory, path)
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    store.commit(Batch::new().put("a", "1").put("b", "2"), Durability::PowerLoss).await.unwrap();
    store.commit(Batch::new().delete("a").put("b", "3"), Durability::ProcessCrash).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path, &edge()).unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.get("b").await.unwrap().as_deref(), Some(&b"3"[..]));
}

#[tokio::test]
async fn dropping_the_last_handle_closes_and_releases_the_file() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let other = store.clone();
    store.commit(Batch::new().put("k", "v"), Durability::PowerLoss).await.unwrap();
    drop((store, other));

    let store = Store::open(&path, &edge()).unwrap();
    assert_eq!(store.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
}

#[tokio::test]
async fn scan_returns_a_prefix_in_order_and_in_pages() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let mut batch = Batch::new();
    for key in ["entry/b", "entry/a", "entry/é", "entry", "entry0", "rule/a"] {
        batch = batch.put(key, key);
    }
    store.commit(batch, Durability::ProcessCrash).await.unwrap();

    let keys = |rows: Vec<(String, Vec<u8>)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(store.scan("entry/").await.unwrap()), ["entry/a", "entry/b", "entry/é"]);
    assert_eq!(store.scan("").await.unwrap().len(), 6);
    assert_eq!(keys(store.scan_page("entry/", None, 2).await.unwrap()), ["entry/a", "entry/b"]);
    assert_eq!(keys(store.scan_page("entry/", Some("entry/b".into()), 2).await.unwrap()), ["entry/é"]);
}

#[tokio::test]
async fn a_key_is_text_and_never_a_pattern_or_statement() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let keys = ["a%", "a_", "'; DROP TABLE kv; --", "a\0b", "*"];
    for key in keys {
        store.commit(Batch::new().put(key, key), Durability::ProcessCrash).await.unwrap();
    }
    for key in keys {
        assert_eq!(store.get(key).await.unwrap().as_deref(), Some(key.as_bytes()));
    }
    assert_eq!(store.scan("a%").await.unwrap().len(), 1);
    assert_eq!(store.scan("a").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let refused = store.commit(Batch::new().put("good", "1").put("", "2"), Durability::PowerLoss).await;
    assert!(matches!(refused, Err(StoreError::KeyLength { bytes: 0, .. })));
    assert_eq!(store.get("good").await.unwrap(), None);
}

#[tokio::test]
async fn waiting_batches_share_a_transaction() {
    const WRITERS: usize = 200;
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let commits = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let level = if writer % 2 == 0 { Durability::PowerLoss } else { Durability::ProcessCrash };
            store.commit(Batch::new().put(format!("k/{writer}"), vec![7; 100]), level).await
        })
    });
    for commit in commits.collect::<Vec<_>>() {
        commit.await.unwrap().unwrap();
    }
    let counts = store.snapshot();
    assert_eq!(counts.batches, 200);
    assert!(counts.commits < counts.batches / 2, "{counts:?}");
    assert_eq!(store.scan("k/").await.unwrap().len(), WRITERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_handles_see_their_own_writes_and_lose_none() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let writers = (0..8u32).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..50u32 {
                let key = format!("w/{writer}/{}", round % 10);
                let value = round.to_string();
                store.commit(Batch::new().put(&key, value.clone()), Durability::ProcessCrash).await.unwrap();
                assert_eq!(store.get(&key).await.unwrap(), Some(value.into_bytes()));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let rows: BTreeMap<_, _> = store.scan("w/").await.unwrap().into_iter().collect();
    assert_eq!(rows.len(), 80);
    for (key, value) in rows {
        let slot = key.rsplit('/').next().unwrap();
        assert_eq!(value, format!("4{slot}").into_bytes(), "{key}");
    }
}

#[tokio::test]
async fn changes_of_one_batch_become_visible_together() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0..200u32 {
                let value = round.to_string();
                let batch = Batch::new().put("pair/left", value.clone()).put("pair/right", value);
                store.commit(batch, Durability::ProcessCrash).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let rows = store.scan("pair/").await.unwrap();
        assert!(rows.is_empty() || rows[0].1 == rows[1].1, "{rows:?}");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_full_store_refuses_writes_serves_reads_and_goes_on_when_there_is_space() {
    let (_directory, path) = place();
    let options = StoreOptions { size_bytes_max: Some(256 * 1024) };
    let store = Store::open_with(&path, &edge(), &options).unwrap();
    store.commit(Batch::new().put("kept", "1"), Durability::PowerLoss).await.unwrap();

    let mut stored = 0;
    let full = loop {
        let batch = Batch::new().put(format!("fill/{stored}"), vec![0; 16 * 1024]);
        match store.commit(batch, Durability::PowerLoss).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the limit did not hold");
    };
    assert_eq!(full, StoreError::Full);
    assert_eq!(store.snapshot().failing, Some(StoreError::Full));
    assert_eq!(store.get("kept").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.scan("fill/").await.unwrap().len(), stored);

    store.commit(Batch::new().delete("fill/0").delete("fill/1"), Durability::PowerLoss).await.unwrap();
    store.commit(Batch::new().put("again", vec![0; 16 * 1024]), Durability::PowerLoss).await.unwrap();
    assert_eq!(store.snapshot().failing, None);

    store.set_size_max(None).await.unwrap();
    store.commit(Batch::new().put("more", vec![0; 1024 * 1024]), Durability::PowerLoss).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&path, &edge()).unwrap();
    assert_eq!(store.get("more").await.unwrap().map(|value| value.len()), Some(1024 * 1024));
}

#[tokio::test]
async fn one_batch_too_large_for_the_space_left_does_not_fail_its_neighbours() {
    let (_directory, path) = place();
    let options = StoreOptions { size_bytes_max: Some(256 * 1024) };
    let store = Store::open_with(&path, &edge(), &options).unwrap();
    let commits = (0..20u32).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let size = if writer == 10 { 1024 * 1024 } else { 10 };
            store.commit(Batch::new().put(format!("k/{writer}"), vec![1; size]), Durability::PowerLoss).await
        })
    });
    for (writer, commit) in commits.collect::<Vec<_>>().into_iter().enumerate() {
        let wanted = if writer == 10 { Err(StoreError::Full) } else { Ok(()) };
        assert_eq!(commit.await.unwrap(), wanted, "writer {writer}");
    }
}

#[tokio::test]
async fn close_flushes_what_is_queued_and_ends_every_handle() {
    let (_directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    let queued = tokio::spawn({
        let store = store.clone();
        async move { store.commit(Batch::new().put("k", "v"), Durability::PowerLoss).await }
    });
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    queued.await.unwrap().unwrap();
    store.close().await.unwrap();
    let late = store.commit(Batch::new().put("k", "w"), Durability::PowerLoss).await;
    assert_eq!(late, Err(StoreError::Closed));
    assert_eq!(store.get("k").await, Err(StoreError::Closed));

    let store = Store::open(&path, &edge()).unwrap();
    assert_eq!(store.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
}

#[tokio::test]
async fn every_file_of_a_store_is_private() {
    let (directory, path) = place();
    let store = Store::open(&path, &edge()).unwrap();
    store.commit(Batch::new().put("k", "v"), Durability::PowerLoss).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["midge.db", "midge.db-shm", "midge.db-wal", "midge.db.lock"]);
}
