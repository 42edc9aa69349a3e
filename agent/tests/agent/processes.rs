//! Callers that are processes of their own: copies of this test, started with an order in their
//! environment.

use crate::common::{FakeUpstream, TestAgent, entry_with, own_uid, soon};
use aws_lc_rs::digest::{SHA256, digest};
use hyper_util::rt::TokioIo;
use midge_agent::{ClientError, client::WorkloadClient};
use midge_api::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    fs,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::process::Command;
use tonic::{
    Request,
    transport::{Endpoint, Uri},
};

const HOUR: Duration = Duration::from_secs(3600);
const ORDER: &str = "MIDGE_TEST_ORDER";
const SOCKET: &str = "MIDGE_TEST_SOCKET";
const NEXT: &str = "MIDGE_TEST_NEXT";

#[expect(clippy::zombie_processes, reason = "a child that outlives its parent is the point")]
fn hand_on(connection: UnixStream, socket: &Path) {
    let mut child = myself(&std::env::current_exe().unwrap(), "fetch-over-stdin", socket);
    child.stdin(OwnedFd::from(connection)).spawn().unwrap();
}

/// Does nothing in the test run itself; in a copy of it, carries out the order.
#[tokio::test]
async fn as_ordered() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let socket = PathBuf::from(std::env::var(SOCKET).unwrap());
    match order.as_str() {
        "fetch" => {
            let client = WorkloadClient::connect(&socket).await.unwrap();
            report(client.fetch_x509().await.map(|context| context.svids[0].spiffe_id.clone()));
        }
        "fetch-over-stdin" => {
            wait_for_death_of_parent();
            report(fetch_over_stdin().await);
        }
        "hand-on-and-exit" => hand_on(known_connection(&socket), &socket),
        "become-another" => {
            let connection = known_connection(&socket);
            let mut other = myself(Path::new(&std::env::var(NEXT).unwrap()), "fetch-over-stdin", &socket);
            panic!("{}", other.stdin(OwnedFd::from(connection)).env(NEXT, "already").exec());
        }
        other => panic!("unknown order {other}"),
    }
}

#[expect(clippy::print_stdout, reason = "how a copy of the test answers it")]
fn report(outcome: Result<String, ClientError>) {
    let line = match outcome {
        Ok(spiffe_id) => spiffe_id,
        Err(error) => error.to_string(),
    };
    println!("outcome: {line}");
}

/// A connection whose process the agent has taken hold of: it has answered.
fn known_connection(socket: &Path) -> UnixStream {
    let connection = UnixStream::connect(socket).unwrap();
    // The preface of HTTP/2; the server's settings come back.
    (&connection).write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut readable = [PollFd::new(&connection, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut readable, Some(&timeout)).unwrap(), 1, "the agent answers");
    connection
}

fn wait_for_death_of_parent() {
    if std::env::var(NEXT).is_ok() {
        return;
    }
    let deadline = std::time::Instant::now() + crate::common::DEADLINE;
    let parent: i32 = std::env::var("MIDGE_TEST_PARENT").unwrap().parse().unwrap();
    while rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) == Some(parent) {
        assert!(std::time::Instant::now() < deadline, "the parent never ended");
        std::thread::yield_now();
    }
}

/// Asks over the inherited connection, whose preface is already sent.
async fn fetch_over_stdin() -> Result<String, ClientError> {
    let inherited = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let stream = UnixStream::from(inherited);
    stream.set_nonblocking(true).unwrap();
    let stream = PrefaceSent { stream: tokio::net::UnixStream::from_std(stream).unwrap(), to_skip: 24 };
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().take();
        async move { stream.map(TokioIo::new).ok_or(std::io::Error::other("used")) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let refused = |status: tonic::Status| ClientError::Refused {
        code: status.code(),
        message: status.message().to_owned(),
    };
    let mut answers =
        SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await.map_err(refused)?.into_inner();
    Ok(answers.message().await.map_err(refused)?.unwrap().svids[0].spiffe_id.clone())
}

/// Leaves out the connection preface that the former owner has sent.
struct PrefaceSent {
    stream: tokio::net::UnixStream,
    to_skip: usize,
}

impl tokio::io::AsyncRead for PrefaceSent {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for PrefaceSent {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let skipped = self.to_skip.min(bytes.len());
        if skipped > 0 {
            self.to_skip -= skipped;
            return std::task::Poll::Ready(Ok(skipped));
        }
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// This test as another program.
fn myself(program: &Path, order: &str, socket: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command
        .args(["--exact", "processes::as_ordered", "--nocapture"])
        .env(ORDER, order)
        .env(SOCKET, socket)
        .env("MIDGE_TEST_PARENT", std::process::id().to_string());
    command
}

async fn outcome_of(mut command: std::process::Command) -> String {
    command.stdout(Stdio::piped()).stdin(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    // All who hold the pipe have ended, the grandchild too.
    let output = soon("the process", command.output()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let outcome = text.lines().find_map(|line| line.split_once("outcome: "));
    outcome.unwrap_or_else(|| panic!("no outcome in {text}")).1.to_owned()
}

fn copy_of_myself(folder: &Path, name: &str) -> PathBuf {
    let program = folder.canonicalize().unwrap().join(name);
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    program
}

#[tokio::test]
async fn programs_of_one_user_are_told_apart_by_path_and_digest() {
    let folder = tempfile::tempdir().unwrap();
    let one = copy_of_myself(folder.path(), "one");
    let two = copy_of_myself(folder.path(), "two");
    let digest = hex::encode(digest(&SHA256, &fs::read(&one).unwrap()));
    let uid = format!("uid:{}", own_uid());
    let upstream = FakeUpstream::new(HOUR);
    let agent = TestAgent::start(&upstream);
    let by_path = entry_with("a", "/app/one", &[uid.clone(), format!("path:{}", one.display())]);
    upstream.set_entries(vec![by_path]);
    assert_eq!(outcome_of(myself(&one, "fetch", &agent.socket)).await, "spiffe://example.org/app/one");
    let refused = outcome_of(myself(&two, "fetch", &agent.socket)).await;
    assert!(refused.starts_with("no identity issued"), "{refused}");

    let by_digest = entry_with("b", "/app/any-copy", &[uid.clone(), format!("sha256:{digest}")]);
    upstream.set_entries(vec![by_digest]);
    assert_eq!(outcome_of(myself(&two, "fetch", &agent.socket)).await, "spiffe://example.org/app/any-copy");
    let other = entry_with("b", "/app/any-copy", &[uid, format!("sha256:{}", "0".repeat(64))]);
    upstream.set_entries(vec![other]);
    let refused = outcome_of(myself(&two, "fetch", &agent.socket)).await;
    assert!(refused.starts_with("no identity issued"), "{refused}");
    agent.stop().await;
}

#[tokio::test]
async fn a_connection_whose_process_has_ended_speaks_for_nobody() {
    let upstream = FakeUpstream::new(HOUR);
    upstream.set_entries(vec![entry_with("a", "/app/one", &[format!("uid:{}", own_uid())])]);
    let agent = TestAgent::start(&upstream);
    let program = std::env::current_exe().unwrap();
    let refused = outcome_of(myself(&program, "hand-on-and-exit", &agent.socket)).await;
    assert_eq!(refused, "the agent answered Unavailable: workload attestation failed");
    agent.stop().await;
}

#[tokio::test]
async fn a_process_cannot_connect_and_become_the_program_it_wants_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let trusted = copy_of_myself(folder.path(), "trusted");
    let upstream = FakeUpstream::new(HOUR);
    upstream.set_entries(vec![entry_with("a", "/app/trusted", &[format!("path:{}", trusted.display())])]);
    let agent = TestAgent::start(&upstream);
    let mut command = myself(&std::env::current_exe().unwrap(), "become-another", &agent.socket);
    command.env(NEXT, &trusted);
    let refused = outcome_of(command).await;
    assert_eq!(refused, "the agent answered Unavailable: workload attestation failed");
    // Its twin that is what it says.
    assert_eq!(
        outcome_of(myself(&trusted, "fetch", &agent.socket)).await,
        "spiffe://example.org/app/trusted"
    );
    agent.stop().await;
}
