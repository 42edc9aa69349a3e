//! Files a store must not touch: each is refused with what to do about it, and left as it was.
#![expect(clippy::unwrap_used, reason = "tests")]

use midge_store::{Batch, Durability, OpenError, Store, StoreInfo};
use std::fs::{self, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn edge() -> StoreInfo {
    StoreInfo::new("edge", "example.org")
}

/// Makes a store that holds 400 keys and is closed.
async fn closed_store() -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("midge.db");
    let store = Store::open(&path, &edge()).unwrap();
    let mut batch = Batch::new();
    for key in 0..400u32 {
        batch = batch.put(format!("k/{key:04}"), vec![b'v'; 400]);
    }
    store.commit(batch, Durability::PowerLoss).await.unwrap();
    store.close().await.unwrap();
    (directory, path)
}

/// Opens, expecting refusal; returns its message after proving that the file was not changed.
fn refused(path: &Path, info: &StoreInfo) -> (OpenError, String) {
    let before = fs::read(path).ok();
    let error = Store::open(path, info).unwrap_err();
    assert_eq!(fs::read(path).ok(), before, "a refused file was changed");
    let message = error.to_string();
    (error, message)
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_file_in_use_is_refused_with_the_holder_until_it_is_released() {
    let (_directory, path) = closed_store().await;
    let store = Store::open(&path, &edge()).unwrap();
    let error = Store::open(&path, &edge()).unwrap_err();
    assert!(
        matches!(&error, OpenError::InUse { pid: Some(pid), .. } if *pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains("in use by another process"), "{error}");
    store.close().await.unwrap();
    Store::open(&path, &edge()).unwrap();
}

#[tokio::test]
async fn another_trust_domain_or_role_is_refused() {
    let (_directory, path) = closed_store().await;
    let (error, message) = refused(&path, &StoreInfo::new("edge", "other.org"));
    assert!(matches!(error, OpenError::OtherTrustDomain { .. }));
    assert!(message.contains("\"example.org\", not \"other.org\""), "{message}");
    let (error, message) = refused(&path, &StoreInfo::new("cloud", "example.org"));
    assert!(matches!(error, OpenError::OtherRole { .. }));
    assert!(message.contains("role \"edge\", not \"cloud\""), "{message}");
    Store::open(&path, &edge()).unwrap();
}

#[tokio::test]
async fn a_file_others_can_read_is_refused_until_its_mode_is_right() {
    let (_directory, path) = closed_store().await;
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let (error, message) = refused(&path, &edge());
        assert!(matches!(error, OpenError::Permissions { mode: found, .. } if found == mode));
        assert!(message.contains("chmod 600"), "{message}");
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    Store::open(&path, &edge()).unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (_directory, path) = closed_store().await;
    // Database header: user_version at offset 60, big-endian.
    overwrite(&path, 60, &2u32.to_be_bytes());
    let (error, message) = refused(&path, &edge());
    assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{message}");
    overwrite(&path, 60, &1u32.to_be_bytes());
    Store::open(&path, &edge()).unwrap();
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let (_directory, path) = closed_store().await;
    // Database header: application_id at offset 68.
    overwrite(&path, 68, &0u32.to_be_bytes());
    let (error, message) = refused(&path, &edge());
    assert!(matches!(error, OpenError::Foreign { application_id: 0, .. }), "{message}");
    assert!(message.contains("another data directory"), "{message}");
}

#[tokio::test]
async fn damage_is_refused_and_never_replaced_by_an_empty_store() {
    for damage in ["header", "page", "truncated", "empty", "text"] {
        let (_directory, path) = closed_store().await;
        let bytes = fs::metadata(&path).unwrap().len();
        match damage {
            "header" => overwrite(&path, 0, b"not SQLite at all"),
            "page" => overwrite(&path, bytes / 2, &[0xaa; 4096]),
            "truncated" => fs::File::options().write(true).open(&path).unwrap().set_len(bytes / 2).unwrap(),
            "empty" => fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap(),
            _ => fs::write(&path, "{\"this\": \"is a configuration file\"}").unwrap(),
        }
        let (error, message) = refused(&path, &edge());
        assert!(matches!(error, OpenError::Corrupted { .. }), "{damage}: {error:?}");
        assert!(message.contains("is damaged") && message.contains("restore it from a backup"), "{message}");
    }
}

#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let (_directory, path) = closed_store().await;
    fs::remove_file(&path).unwrap();
    fs::write(path.with_file_name("midge.db-wal"), [1; 64]).unwrap();
    let (error, message) = refused(&path, &edge());
    assert!(matches!(error, OpenError::OrphanLog { .. }), "{message}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_begun_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("midge.db");
    fs::write(directory.path().join("midge.db.new"), "half").unwrap();
    fs::write(directory.path().join("midge.db.new-journal"), "half").unwrap();
    let store = Store::open(&path, &edge()).unwrap();
    store.commit(Batch::new().put("k", "v"), Durability::PowerLoss).await.unwrap();
    assert!(!directory.path().join("midge.db.new").exists());
}

#[test]
fn a_missing_directory_is_named() {
    let directory = TempDir::new().unwrap();
    let error = Store::open(directory.path().join("absent/midge.db"), &edge()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(error.to_string().contains("absent"), "{error}");
}

/// Makes a closed store too large to be checked at every open.
async fn large_store() -> (TempDir, PathBuf) {
    let (directory, path) = closed_store().await;
    let store = Store::open(&path, &edge()).unwrap();
    store
        .commit(Batch::new().put("large", vec![b'v'; 9 * 1024 * 1024]), Durability::PowerLoss)
        .await
        .unwrap();
    store.close().await.unwrap();
    (directory, path)
}

#[tokio::test]
async fn a_large_store_is_checked_only_after_an_unclean_end() {
    let (_directory, path) = large_store().await;
    overwrite(&path, 20 * 4096, &[0xaa; 4096]);
    Store::open(&path, &edge()).unwrap();

    let (_directory, path) = large_store().await;
    let end_uncleanly = rusqlite::Connection::open(&path).unwrap();
    end_uncleanly.execute("DELETE FROM meta WHERE name = 'clean'", ()).unwrap();
    end_uncleanly.close().unwrap();
    overwrite(&path, 20 * 4096, &[0xaa; 4096]);
    let (error, message) = refused(&path, &edge());
    assert!(matches!(error, OpenError::Corrupted { .. }), "{message}");
}
