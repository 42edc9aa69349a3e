//! The threads that connections live on.
//!
//! The core is entered by one at a time: more threads than one hardly make it faster, and each change of
//! hands costs, since what the core works with moves from processor to processor. One thread takes less
//! processor time per message and passes more messages than two (docs/BENCHMARKS.md). TLS handshakes, which
//! cost a thousand times what a message does, run elsewhere.

use anyhow::Context as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Threads, each with a reactor of its own. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    first: Thread,
    others: Vec<Thread>,
    turn: AtomicUsize,
    _end: DropGuard,
}

/// One of the threads.
#[derive(Clone, Debug)]
pub(crate) struct Thread(Handle);

impl Threads {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(count: u16) -> anyhow::Result<Self> {
        let token = CancellationToken::new();
        let end = token.clone().drop_guard();
        let first = start(&token)?;
        let others = (1..count).map(|_| start(&token)).collect::<Result<_, _>>()?;
        Ok(Self { first, others, turn: AtomicUsize::new(0), _end: end })
    }

    /// The thread that is always there.
    pub(crate) fn first(&self) -> &Thread {
        &self.first
    }

    /// The next connection's thread.
    pub(crate) fn next(&self) -> Thread {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
        turn.checked_sub(1).and_then(|index| self.others.get(index)).unwrap_or(&self.first).clone()
    }
}

fn start(token: &CancellationToken) -> anyhow::Result<Thread> {
    let token = token.clone();
    let runtime = Builder::new_current_thread().enable_all().build().context("a reactor for MQTT")?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("mqtt".into())
        .spawn(move || runtime.block_on(token.cancelled()))
        .context("a thread for MQTT")?;
    Ok(Thread(handle))
}

impl Thread {
    pub(crate) fn handle(&self) -> &Handle {
        &self.0
    }

    /// Lets this thread's reactor watch a socket: whoever waits for it, waits here.
    pub(crate) fn adopt_tcp(&self, stream: TcpStream) -> io::Result<TcpStream> {
        let _context = self.0.enter();
        TcpStream::from_std(stream.into_std()?)
    }

    /// As [`Self::adopt_tcp`].
    pub(crate) fn adopt_unix(&self, stream: UnixStream) -> io::Result<UnixStream> {
        let _context = self.0.enter();
        UnixStream::from_std(stream.into_std()?)
    }
}
