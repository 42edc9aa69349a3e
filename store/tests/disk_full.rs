//! A file system without space: commits are refused, nothing acknowledged is lost, and the store goes on by itself.
#![expect(clippy::unwrap_used, reason = "tests")]

use midge_store::{Batch, Durability, Store, StoreError, StoreInfo};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PLACE: &str = "MIDGE_STORE_DISK_FULL_TEST";

#[test]
fn a_full_file_system_is_survived() {
    let directory = TempDir::new().unwrap();
    let mount = format!("mount -t tmpfs -o size=2m none {}", directory.path().display());
    if !in_namespace(&mount).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets nobody mount a file system in a namespace of their own");
        return;
    }
    let binary = std::env::current_exe().unwrap();
    let child =
        format!("{mount} && exec {} --exact child_fills_the_disk --ignored --nocapture", binary.display());
    let output = in_namespace(&child).env(PLACE, directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn in_namespace(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command
}

#[tokio::test]
#[ignore = "the child of a_full_file_system_is_survived"]
async fn child_fills_the_disk() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let place = Path::new(&place);
    fs::write(place.join("ballast"), vec![0; 512 * 1024]).unwrap();
    let info = StoreInfo::new("edge", "example.org");
    let path = place.join("midge.db");
    let store = Store::open(&path, &info).unwrap();

    let mut stored = 0;
    let refused = loop {
        let batch = Batch::new().put(format!("k/{stored:04}"), vec![b'v'; 20_000]);
        match store.commit(batch, Durability::PowerLoss).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1000);
    };
    assert_eq!(refused, StoreError::Full);
    assert!(stored > 10);
    assert_eq!(store.scan("k/").await.unwrap().len(), stored, "reads go on, of what was acknowledged");
    assert_eq!(store.snapshot().failing, Some(StoreError::Full));

    fs::remove_file(place.join("ballast")).unwrap();
    store.commit(Batch::new().put("after", "1"), Durability::PowerLoss).await.unwrap();
    assert_eq!(store.snapshot().failing, None);

    fill(place);
    let closed = store.close().await;
    let reopened = Store::open(&path, &info);
    fs::remove_file(place.join("filler")).unwrap();
    let store = reopened.or_else(|_| Store::open(&path, &info)).unwrap();
    assert_eq!(store.scan("k/").await.unwrap().len(), stored, "closed as {closed:?}");
    assert_eq!(store.get("after").await.unwrap().as_deref(), Some(&b"1"[..]));
}

/// Leaves no byte free.
fn fill(place: &Path) {
    use std::io::Write as _;
    let mut filler = fs::File::create(place.join("filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
}
