//! One network connection: bytes to packets, packets to the hub, and back.

use crate::arrivals::Arrival;
use crate::hub::{Line, Taken};
use crate::input::Input;
use crate::outbox::{Frames, Woken};
use crate::traffic::Traffic;
use crate::wire::Wire;
use crate::{Admission, Hub, LocalClaims, Refusal};
use broker_core::{CloseCause, ConnId, Listener};
use bytes::BytesMut;
use midge_identity::VerifiedPeer;
use mqtt_proto::{ConnAck, Connect, Packet, ReasonCode, Version};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::error::Elapsed;

/// First size of the read buffer: an idle connection costs no more.
const READ_BYTES: usize = 512;
/// Packets taken in one entry of the core.
const PACKETS_MAX: usize = 16;
/// Largest size of the read buffer, which doubles while reads fill it.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Pieces of one write: what TLS makes of them it looks for from the first on, for each of its records.
const PIECES_MAX: usize = 16;
/// Written bytes that are reported to the core at once: far below what it lets a connection wait for.
pub(crate) const FLUSHED_BYTES: usize = 32 * 1024;
/// How long one connection may keep its thread while others wait: what the core does for a packet may take
/// long, where many receive it.
const TURN: Duration = Duration::from_micros(100);
/// How long it is served in such turns before those whom it gave something to write are woken, unless it has nothing more
/// to say before: the more they have, the less each message costs.
const STRETCH: Duration = Duration::from_millis(1);
/// What it takes to have a receiver write (measured: 20 µs), and half as much again. Neither turn nor stretch is shorter
/// than this for all whom it gave something to write: else a message to a thousand is a turn of its own, and costs each of
/// them a write of its own.
const WRITE_TIME: Duration = Duration::from_micros(30);
/// How long a peer may take to accept its last bytes, and again to hear of the end: together less than a process
/// has to stop. As long it is waited for what a peer that has left is owed, or has said before.
const LINGER: Duration = Duration::from_secs(2);

/// What the connection allows its peer.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) codec: mqtt_proto::Limits,
    /// How long a peer may take none of what it is sent.
    pub(crate) unread_timeout: Duration,
    /// Written bytes that are reported to the core.
    pub(crate) flushed_bytes: usize,
}

/// How the peer came in.
pub(crate) enum Entrance {
    /// Its SVID was verified in the handshake.
    Verified(VerifiedPeer),
    /// The kernel named the process; CONNECT's user name may choose among its identities.
    Local(Box<dyn LocalClaims>),
}

/// A peer whose CONNECT has come, and who may be here.
pub(crate) struct Arrived<S> {
    reader: Reader<S>,
    connect: Connect,
    peer: VerifiedPeer,
}

/// A peer that is served.
pub(crate) struct Visit<'a> {
    /// Where it has come in, and where it comes from.
    pub(crate) from: (&'a Arc<Listener>, &'a Arc<str>),
    pub(crate) limits: &'a Limits,
    /// Its turn to open a session.
    pub(crate) turn: OwnedSemaphorePermit,
}

/// A peer that was turned away before the core heard of it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) client_id: Option<Arc<str>>,
    pub(crate) refusal: Refusal,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { client_id: None, refusal }
    }
}

/// Reads the CONNECT of a peer and judges whether it may be here.
///
/// # Errors
/// When there is none, or it may not. It has been answered.
pub(crate) async fn arrive<S: Wire>(
    admission: &dyn Admission,
    stream: S,
    entrance: Entrance,
    arrival: &Arrival,
    limits: &Limits,
) -> Result<Arrived<S>, Refused> {
    let mut reader = Reader {
        read: stream,
        input: Input::new(limits.codec.clone(), READ_BYTES),
        taken: 0,
        patience: None,
    };
    let connect = match arrival.within(reader.connect()).await? {
        Ok(connect) => connect,
        Err(NoConnect { answer, refusal }) => {
            reader.turn_away(answer, arrival).await;
            return Err(refusal.into());
        }
    };
    let admitted = identify(entrance, connect.username.as_deref()).and_then(|peer| {
        let admitted = admission.admits(peer.id(), Some(peer.proof()));
        admitted.map_err(|Refusal(why)| Refusal(format!("{}: {why}", peer.id())))?;
        Ok(peer)
    });
    match admitted {
        Ok(peer) => Ok(Arrived { reader, connect, peer }),
        Err(refusal) => {
            reader.turn_away(Some(ReasonCode::NotAuthorized), arrival).await;
            Err(Refused { client_id: Some(connect.client_id), refusal })
        }
    }
}

impl<S> Arrived<S> {
    /// Has what it is served on moved.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn moved(self, to: impl FnOnce(S) -> io::Result<S>) -> io::Result<Self> {
        let Reader { read, input, taken, patience } = self.reader;
        Ok(Self { reader: Reader { read: to(read)?, input, taken, patience }, ..self })
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve<S: Wire>(
    hub: &Hub,
    admission: &dyn Admission,
    arrived: Arrived<S>,
    Visit { from, limits, turn }: Visit<'_>,
) {
    let Arrived { mut reader, connect, peer } = arrived;
    hub.traffic().read(reader.taken);
    let Limits { unread_timeout, flushed_bytes, .. } = *limits;
    reader.patience = (connect.keep_alive_secs == 0).then_some(unread_timeout);
    reader.read.connected();
    let (mut reader, mut write) = reader.split();
    let line = {
        let (identity, proof) = (peer.id().clone(), peer.proof().clone());
        let line = hub.connect(from, peer, connect);
        hub.admit_again(line.conn, &identity, &proof, admission);
        line
    };
    drop(turn);
    reader.input.move_here(READ_BYTES);
    let (line, write) = (&line, &mut write);
    let outlet =
        Outlet { hub, line, write, unread_timeout, flushed_bytes, ends_at: None, may_be_withdrawn: true };
    converse(&mut reader, outlet).await;
}

/// Reads and writes until both have ended. What a peer has said before it left counts, and what it is owed for it is
/// answered: both within [`LINGER`].
async fn converse<R, W>(reader: &mut Reader<R>, outlet: Outlet<'_, W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Outlet { hub, line, .. } = outlet;
    let conn = line.conn;
    let mut reading = pin!(reader.run(hub, conn));
    let mut writing = pin!(write_all(outlet));
    // What it is sent for what is read now is written when those who can be read have been: who waits for it is woken once
    // for many.
    tokio::select! {
        biased;
        written = &mut writing => {
            let Err(error) = written else { return };
            if error.kind() == io::ErrorKind::TimedOut {
                hub.stalled(conn);
            }
            // It hears nothing more, but a DISCONNECT that it sent before may be unread yet ([MQTT-3.14.4-3]).
            tokio::select! {
                _ = reading => {}
                () = line.closing() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            hub.closed(conn, CloseCause::Failed(error.to_string().into()));
        }
        cause = &mut reading => {
            hub.input_ended(conn, cause.clone());
            if !matches!(tokio::time::timeout(LINGER, writing).await, Ok(Ok(()))) {
                hub.closed(conn, cause);
            }
        }
    }
}

fn identify(entrance: Entrance, wanted: Option<&str>) -> Result<VerifiedPeer, Refusal> {
    match entrance {
        Entrance::Verified(peer) => Ok(peer),
        Entrance::Local(claims) => claims.identity(wanted),
    }
}

/// Answers a CONNECT the core never sees. The peer learns the code and nothing more.
async fn answer_connect<W: AsyncWrite + Unpin>(write: &mut W, version: Version, reason: ReasonCode) {
    let mut bytes = BytesMut::new();
    let packet = Packet::ConnAck(Box::new(ConnAck::new(reason)));
    if mqtt_proto::encode(&packet, version, &mut bytes).is_ok() {
        let written = tokio::time::timeout(LINGER, async {
            write.write_all(&bytes).await?;
            write.shutdown().await
        });
        if let Ok(Err(error)) = written.await {
            tracing::trace!(%error, "peer left before its answer");
        }
    }
}

struct Reader<R> {
    read: R,
    input: Input,
    /// Bytes read until CONNECT.
    taken: usize,
    /// How long the rest of a packet may stay away, where no keep alive says so.
    patience: Option<Duration>,
}

impl<S: Wire> Reader<S> {
    /// Lets others write meanwhile.
    fn split(self) -> (Reader<ReadHalf<S>>, WriteHalf<S>) {
        let Self { read, input, taken, patience } = self;
        let (read, write) = tokio::io::split(read);
        (Reader { read, input, taken, patience }, write)
    }

    /// Ends a connection whose CONNECT did not come or is refused, with the answer that it is owed, if any.
    async fn turn_away(&mut self, answer: Option<ReasonCode>, arrival: &Arrival) {
        let ending = async {
            if let Some(reason) = answer {
                let version = self.input.version().unwrap_or(Version::V311);
                answer_connect(&mut self.read, version, reason).await;
            } else {
                drop(tokio::time::timeout(LINGER, self.read.shutdown()).await);
            }
        };
        // Who takes its time to hear of the end may have to give its place to others meanwhile.
        drop(arrival.within(ending).await);
    }
}

struct NoConnect {
    answer: Option<ReasonCode>,
    refusal: Refusal,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn connect(&mut self) -> Result<Connect, NoConnect> {
        let refuse = |answer, text: String| Err(NoConnect { answer, refusal: Refusal(text) });
        loop {
            match self.input.next() {
                Ok(Some(Packet::Connect(connect))) => return Ok(*connect),
                Ok(Some(_)) => return refuse(None, "the first packet is not CONNECT".into()),
                Ok(None) => {}
                Err(error) => {
                    // [MQTT-3.1.2-2]: an unknown level is answered; of the rest only what names a version is.
                    let reason = error.reason();
                    let known = self.input.version().is_some();
                    let answer =
                        (known || reason == ReasonCode::UnsupportedProtocolVersion).then_some(reason);
                    return refuse(answer, format!("CONNECT: {error}"));
                }
            }
            match self.input.read_from(&mut self.read).await {
                Ok(0) => return refuse(None, "closed before CONNECT".into()),
                Ok(count) => self.taken += count,
                Err(error) => return refuse(None, format!("closed before CONNECT: {error}")),
            }
        }
    }

    /// Reads more.
    ///
    /// # Errors
    /// `TimedOut` when nothing more comes of a packet that has begun.
    async fn more(&mut self) -> io::Result<usize> {
        let patience = self.patience.filter(|_| !self.input.is_empty());
        let read = self.input.read_from(&mut self.read);
        match patience {
            Some(patience) => tokio::time::timeout(patience, read).await?,
            None => read.await,
        }
    }

    /// Reads until the network connection ends. After a violation it waits to be dropped: the
    /// writer still sends what the core says about it.
    async fn run(&mut self, hub: &Hub, conn: ConnId) -> CloseCause {
        let mut woken = Woken::default();
        let mut wanted = READ_BYTES;
        let mut pace = Pace::start();
        let mut has_rest = false;
        loop {
            let taken = if has_rest || !self.input.is_empty() {
                let at = pace.go_on();
                hub.packets(conn, &mut self.input, pace.packets, (at, &mut woken))
            } else {
                Ok(Taken::All)
            };
            has_rest = matches!(taken, Ok(Taken::Wait(_)));
            if let Ok(Taken::Wait(wait)) = taken {
                pace.wake(&mut woken);
                if wait.is_zero() {
                    // It was a turn's work.
                    tokio::task::yield_now().await;
                } else {
                    // Back-pressure: what is not read here fills the client's own buffers.
                    tokio::time::sleep(wait).await;
                }
                pace.rest();
                continue;
            }
            let writing = pace.writing(&woken);
            if pace.is_turn_over(TURN.max(writing)) {
                if pace.worked > STRETCH.max(writing) {
                    pace.wake(&mut woken);
                    pace.worked = Duration::ZERO;
                }
                tokio::task::yield_now().await;
                (pace.began, pace.now) = (None, None);
            }
            if let Ok(Taken::Some) = taken {
                continue;
            }
            pace.wake(&mut woken);
            if let Err(error) = taken {
                tracing::debug!(conn = conn.0, %error, "malformed packet");
                hub.malformed(conn, error.reason());
                std::future::pending::<()>().await;
            }
            self.input.make_room(wanted);
            pace.wait();
            match self.more().await {
                Ok(0) => return CloseCause::Eof,
                Err(error) if error.kind() == io::ErrorKind::TimedOut && self.patience.is_some() => {
                    hub.unfinished(conn);
                    std::future::pending::<()>().await;
                }
                Ok(count) => {
                    hub.traffic().read(count);
                    if count >= wanted {
                        wanted = (wanted * 2).min(READ_BYTES_MAX);
                        continue;
                    }
                    // There was no more to read: others have had their turn, or have it at the next read.
                    pace.rest();
                    if count < wanted / 4 {
                        wanted = (wanted / 2).max(READ_BYTES);
                    }
                }
                Err(error) => return CloseCause::Failed(error.to_string().into()),
            }
        }
    }
}

/// How much a connection that has much to say does at a time.
struct Pace {
    /// When this turn began, if one has.
    began: Option<Instant>,
    /// When the clock was read last, unless something was waited for since.
    now: Option<Instant>,
    /// What earlier turns of this stretch took.
    worked: Duration,
    /// Packets for one entry of the core: fewer where each costs much.
    packets: usize,
    /// About how many receivers it has: those that have not written yet are not among the next to be woken.
    receivers: u32,
}

impl Pace {
    fn start() -> Self {
        Self { began: None, now: None, worked: Duration::ZERO, packets: PACKETS_MAX, receivers: 0 }
    }

    /// How long all whom it gives something need to write.
    fn writing(&self, woken: &Woken) -> Duration {
        WRITE_TIME.saturating_mul(self.receivers.max(woken.count()))
    }

    fn wake(&mut self, woken: &mut Woken) {
        self.receivers = woken.count().max(self.receivers / 2);
        woken.wake();
    }

    /// Ends a stretch.
    fn rest(&mut self) {
        (self.began, self.now, self.worked) = (None, None, Duration::ZERO);
    }

    /// Says that something is waited for, however long.
    fn wait(&mut self) {
        self.now = None;
    }

    /// Begins a turn, unless one is under way, and returns the time.
    fn go_on(&mut self) -> Instant {
        let now = *self.now.get_or_insert_with(Instant::now);
        self.began.get_or_insert(now);
        now
    }

    /// Tells whether it is others' turn, after some packets, where one may take so long.
    fn is_turn_over(&mut self, turn: Duration) -> bool {
        let (Some(began), Some(entered)) = (self.began, self.now) else { return false };
        let now = Instant::now();
        self.now = Some(now);
        let took = now.saturating_duration_since(began);
        // Another entry of the core may take as long as this one.
        let entry = now.saturating_duration_since(entered);
        let is_over = took + entry > turn;
        if is_over {
            self.worked += took;
        }
        // Turns end with entries, and others wait for the lock as long as one takes: a turn is to have several.
        if entry > turn / 2 {
            self.packets = (self.packets / 2).max(1);
        } else if entry < turn / 8 {
            self.packets = (self.packets * 2).min(PACKETS_MAX);
        }
        is_over
    }
}

/// Where the packets of one connection go.
struct Outlet<'a, W> {
    hub: &'a Hub,
    line: &'a Line,
    write: &'a mut W,
    /// How long the peer may take none of what it is sent.
    unread_timeout: Duration,
    flushed_bytes: usize,
    /// When the rest is given up, once the core does not want the connection any more.
    ends_at: Option<tokio::time::Instant>,
    /// Whether what is written now was taken before anything was thrown away.
    may_be_withdrawn: bool,
}

async fn write_all<W: AsyncWrite + Unpin>(mut outlet: Outlet<'_, W>) -> io::Result<()> {
    let mut unreported = 0;
    loop {
        let mut batch = outlet.line.next().await.map_err(io::Error::other)?;
        outlet.may_be_withdrawn = batch.may_be_withdrawn;
        outlet.frames(batch.frames().map_err(io::Error::other)?).await?;
        if let Some(reason) = batch.closed {
            tracing::trace!(?reason, "connection ends");
            let ends_at = outlet.ends_at.unwrap_or_else(linger);
            return tokio::time::timeout_at(ends_at, outlet.write.shutdown()).await.unwrap_or(Ok(()));
        }
        unreported += batch.bytes;
        if unreported >= outlet.flushed_bytes {
            outlet.hub.flushed(outlet.line.conn, unreported);
            unreported = 0;
        }
    }
}

impl<W: AsyncWrite + Unpin> Outlet<'_, W> {
    /// Writes packets, as many at a time as the stream takes.
    async fn frames(&mut self, frames: &Frames) -> io::Result<()> {
        if frames.pieces.is_empty() {
            return self.pieces(&mut [IoSlice::new(&frames.last)]).await;
        }
        let pieces = frames.pieces.iter().map(|piece| &**piece).chain([&*frames.last]);
        let mut pieces: Vec<_> = pieces.filter(|piece| !piece.is_empty()).map(IoSlice::new).collect();
        self.pieces(&mut pieces).await
    }

    /// Writes, for as long as the peer takes something of it while the core wants the connection, and
    /// briefly after, unless the peer may not have it any more.
    ///
    /// # Errors
    /// `TimedOut` when the peer takes nothing for too long.
    async fn pieces(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Ok(());
        }
        if self.may_be_withdrawn && self.line.is_discarded() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let writing = write_on(self.write, pieces, self.hub.traffic(), self.unread_timeout);
        tokio::pin!(writing);
        tokio::select! {
            biased;
            result = &mut writing => return result,
            () = self.line.closing() => {}
        }
        if self.line.is_discarded() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let ends_at = *self.ends_at.get_or_insert_with(linger);
        tokio::time::timeout_at(ends_at, writing)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn linger() -> tokio::time::Instant {
    tokio::time::Instant::now() + LINGER
}

async fn write_on<W: AsyncWrite + Unpin>(
    write: &mut W,
    mut pieces: &mut [IoSlice<'_>],
    traffic: &Traffic,
    unread_timeout: Duration,
) -> io::Result<()> {
    while !pieces.is_empty() {
        let next = pieces.get(..PIECES_MAX.min(pieces.len())).unwrap_or_default();
        let count = within(unread_timeout, write.write_vectored(next)).await??;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        traffic.written(count);
        IoSlice::advance_slices(&mut pieces, count);
    }
    within(unread_timeout, write.flush()).await?
}

/// Waits so long at most. What is done at once, as nearly all is, costs no look at the clock.
async fn within<F: Future>(patience: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match futures_util::poll!(&mut future) {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => tokio::time::timeout(patience, future).await,
    }
}

#[cfg(test)]
mod tests;
