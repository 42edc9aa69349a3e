//! The threads that connections live on.
//!
//! The core is entered by one at a time: more threads than one hardly make it faster, and each change of
//! hands costs, since what the core works with moves from processor to processor. One thread takes less
//! processor time per message and passes more messages than two (docs/BENCHMARKS.md). TLS handshakes, which
//! cost a thousand times what a message does, run elsewhere, on threads of lower priority: whoever has not said who
//! he is does not take the processor from those who have.

use anyhow::Context as _;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What threads for arrivals leave to others, in the kernel's words: a tenth of what one of the others gets where all have
/// much to do.
const NICENESS: i32 = 10;
/// Threads for arrivals, where there are processors for them beside the one of the sessions.
const ARRIVALS_MAX: usize = 4;

/// Threads, each with a reactor of its own. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    first: Thread,
    others: Vec<Thread>,
    arrivals: Handle,
    turn: AtomicUsize,
    _end: DropGuard,
}

/// One of the threads.
#[derive(Clone, Debug)]
pub(crate) struct Thread(Handle);

impl Threads {
    /// Starts so many threads, at least one, and those for arrivals.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(count: u16) -> anyhow::Result<Self> {
        let token = CancellationToken::new();
        let end = token.clone().drop_guard();
        let first = start(&token)?;
        let others = (1..count).map(|_| start(&token)).collect::<Result<_, _>>()?;
        let arrivals = start_for_arrivals(&token)?;
        Ok(Self { first, others, arrivals, turn: AtomicUsize::new(0), _end: end })
    }

    /// Where arrivals are dealt with.
    pub(crate) fn arrivals(&self) -> &Handle {
        &self.arrivals
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
    let runtime = Builder::new_current_thread().enable_all().build();
    run(runtime.context("a reactor for MQTT")?, "mqtt", token).map(Thread)
}

fn start_for_arrivals(token: &CancellationToken) -> anyhow::Result<Handle> {
    let give_way = || {
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "arrivals keep the priority of all others");
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let runtime = Builder::new_multi_thread()
        .worker_threads(processors.saturating_sub(1).clamp(1, ARRIVALS_MAX))
        .thread_name("arrivals")
        .on_thread_start(give_way)
        .enable_all()
        .build();
    run(runtime.context("a reactor for arrivals")?, "arrivals", token)
}

/// Keeps a runtime until the token ends it.
fn run(runtime: Runtime, name: &str, token: &CancellationToken) -> anyhow::Result<Handle> {
    let (handle, token) = (runtime.handle().clone(), token.clone());
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(token.cancelled()))
        .with_context(|| format!("a thread ({name})"))?;
    Ok(handle)
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
