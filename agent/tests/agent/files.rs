//! SVIDs on disk.

use crate::common::{FakeUpstream, TestAgent, entry, eventually, soon};
use midge_agent::{
    ClientError, WatchOptions, WriteError,
    files::{FileOptions, fetch_and_write},
    watch_and_write,
};
use midge_identity::CertificateFacts;
use midge_pki::{PrivateKey, pem_decode_certs};
use midge_runtime::CancellationToken;
use std::{fs, path::Path, sync::atomic::Ordering, time::Duration};

const HOUR: Duration = Duration::from_secs(3600);

fn options(agent: &TestAgent, directory: &Path) -> WatchOptions {
    WatchOptions {
        socket: agent.socket.clone(),
        directory: directory.to_owned(),
        files: FileOptions::default(),
        on_renew: None,
        wait: false,
    }
}

/// SPIFFE ID on disk; its key must belong to it.
fn identity_on_disk(directory: &Path) -> (String, Vec<u8>) {
    let version = fs::canonicalize(directory.join("..data")).unwrap();
    let chain = pem_decode_certs(&fs::read(version.join("svid.pem")).unwrap()).unwrap();
    let facts = CertificateFacts::parse(&chain[0]).unwrap();
    let key = PrivateKey::load(version.join("svid.key")).unwrap();
    assert_eq!(key.public_key_der(), facts.public_key_der);
    (facts.uri_sans[0].clone(), chain[0].to_vec())
}

#[tokio::test]
async fn an_svid_is_fetched_to_disk_and_the_command_run() {
    let (upstream, agent) = TestAgent::with_one_entry();
    let folder = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let mut options = options(&agent, folder.path());
    options.on_renew = Some("echo \"$MIDGE_SPIFFE_ID\" > \"$MIDGE_SVID_DIR/ran\"".to_owned());
    let written = soon("the svid", fetch_and_write(&options, &token)).await.unwrap();
    assert_eq!(written.spiffe_id, "spiffe://example.org/app/one");
    assert_eq!(identity_on_disk(folder.path()).0, "spiffe://example.org/app/one");
    let roots = pem_decode_certs(&fs::read(written.bundle).unwrap()).unwrap();
    assert_eq!(roots[0].as_ref(), upstream.root());
    assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap().trim(), written.spiffe_id);

    options.on_renew = Some("exit 3".to_owned());
    let failed = fetch_and_write(&options, &token).await.unwrap_err();
    assert!(failed.to_string().contains("exit 3"), "{failed}");
    options.on_renew = None;
    options.files.wanted = Some("spiffe://example.org/other".to_owned());
    assert!(matches!(fetch_and_write(&options, &token).await, Err(WriteError::NoSuchSvid(_))));
    agent.stop().await;
}

#[tokio::test]
async fn without_wait_a_missing_identity_or_agent_is_an_error() {
    let upstream = FakeUpstream::new(HOUR);
    let agent = TestAgent::start(&upstream);
    let folder = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let mut options = options(&agent, folder.path());
    let none = fetch_and_write(&options, &token).await.unwrap_err();
    assert!(matches!(none, WriteError::Client(ClientError::NoIdentity)), "{none}");
    let none = soon("a refusal", watch_and_write(&options, &token)).await.unwrap_err();
    assert!(matches!(none, WriteError::Client(ClientError::NoIdentity)), "{none}");
    options.socket = folder.path().join("nobody.sock");
    let nobody = fetch_and_write(&options, &token).await.unwrap_err();
    assert!(matches!(nobody, WriteError::Client(ClientError::Unreachable { .. })), "{nobody}");
    agent.stop().await;
}

#[tokio::test]
async fn a_watcher_waits_writes_each_renewal_and_survives_the_loss_of_its_identity() {
    let upstream = FakeUpstream::new(Duration::from_secs(3));
    let agent = TestAgent::start(&upstream);
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let token = CancellationToken::new();
    let mut options = options(&agent, &directory);
    options.wait = true;
    options.on_renew = Some("echo x >> \"$MIDGE_SVID_DIR/renewals\"".to_owned());
    let watching = {
        let token = token.clone();
        tokio::spawn(async move { watch_and_write(&options, &token).await })
    };
    let renewals = || fs::read_to_string(directory.join("renewals")).map_or(0, |text| text.lines().count());
    assert_eq!(renewals(), 0);
    upstream.set_entries(vec![entry("a", "/app/one")]);
    eventually("the first svid", || renewals() >= 1).await;
    let first = identity_on_disk(&directory);
    assert_eq!(first.0, "spiffe://example.org/app/one");
    eventually("a renewal", || renewals() >= 2).await;
    assert_ne!(identity_on_disk(&directory).1, first.1);

    upstream.set_entries(Vec::new());
    let before = renewals();
    upstream.set_entries(vec![entry("b", "/app/two")]);
    eventually("another identity", || identity_on_disk(&directory).0 == "spiffe://example.org/app/two").await;
    eventually("its command", || renewals() > before).await;
    token.cancel();
    soon("the watcher stops", watching).await.unwrap().unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_command_is_tried_again() {
    let (_upstream, agent) = TestAgent::with_one_entry();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let token = CancellationToken::new();
    let mut options = options(&agent, &directory);
    let twice = "echo x >> \"$MIDGE_SVID_DIR/tries\"; test $(wc -l < \"$MIDGE_SVID_DIR/tries\") -ge 3";
    options.on_renew = Some(twice.to_owned());
    let watching = {
        let token = token.clone();
        tokio::spawn(async move { watch_and_write(&options, &token).await })
    };
    let tries = || fs::read_to_string(directory.join("tries")).map_or(0, |text| text.lines().count());
    eventually("the third try", || tries() == 3).await;
    token.cancel();
    soon("the watcher stops", watching).await.unwrap().unwrap();
    assert_eq!(tries(), 3);
    agent.stop().await;
}

#[tokio::test]
async fn a_wanted_identity_is_waited_for() {
    let (upstream, agent) = TestAgent::with_one_entry();
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let token = CancellationToken::new();
    let mut options = options(&agent, &directory);
    options.wait = true;
    options.files.wanted = Some("spiffe://example.org/app/two".to_owned());
    let fetching = {
        let (options, token) = (options.clone(), token.clone());
        tokio::spawn(async move { fetch_and_write(&options, &token).await })
    };
    let watched = tempfile::tempdir().unwrap();
    options.directory = watched.path().to_owned();
    let watching = {
        let token = token.clone();
        tokio::spawn(async move { watch_and_write(&options, &token).await })
    };
    eventually("the identity that is not wanted", || upstream.signatures.load(Ordering::Relaxed) == 1).await;
    upstream.set_entries(vec![entry("a", "/app/one"), entry("b", "/app/two")]);
    let written = soon("the wanted svid", fetching).await.unwrap().unwrap();
    assert_eq!(written.spiffe_id, "spiffe://example.org/app/two");
    eventually("the wanted svid on disk", || watched.path().join("..data").exists()).await;
    assert_eq!(identity_on_disk(watched.path()).0, "spiffe://example.org/app/two");
    token.cancel();
    soon("the watcher stops", watching).await.unwrap().unwrap();
    agent.stop().await;
}
