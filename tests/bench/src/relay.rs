//! The limit: forwards frames between TLS connections and knows no MQTT. A frame is a type byte, a length
//! and as many bytes; the type says whom to answer, as MQTT's exchanges do, with no state kept for it.
//!
//! What it does is what any broker has to do: TLS, sockets, finding where a frame ends, copying it.

use crate::load::RELAY_CHANNEL;
use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// First and largest size of a connection's read buffer.
const READ_BYTES: (usize, usize) = (4 * 1_024, 64 * 1_024);

/// Certificates of the relay, as PEM files.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Roots of the clients.
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// Port on loopback.
    #[arg(long)]
    port: u16,
}

#[derive(Debug, Default)]
struct Outbox {
    bytes: Mutex<BytesMut>,
    filled: Notify,
}

impl Outbox {
    fn push(&self, bytes: &[u8]) {
        let mut waiting = self.bytes.lock();
        let was_empty = waiting.is_empty();
        waiting.extend_from_slice(bytes);
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct Channel {
    each: RwLock<Vec<Arc<Outbox>>>,
    /// Those that take turns, and whose turn it is.
    one: RwLock<Vec<Arc<Outbox>>>,
    turn: AtomicUsize,
}

type Channels = Mutex<HashMap<Vec<u8>, Arc<Channel>>>;

/// Serves for ever.
pub(crate) async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let tls = crate::tls::server(&arguments.ca, &arguments.cert, &arguments.key)?;
    let acceptor = TlsAcceptor::from(Arc::<ServerConfig>::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", arguments.port)).await?;
    let channels = Arc::new(Channels::default());
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, channels) = (acceptor.clone(), Arc::clone(&channels));
        tokio::spawn(async move {
            // A client that leaves is no concern of the others.
            drop(connection(acceptor, stream, &channels).await);
        });
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, channels: &Channels) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut peer = Peer { channels, outbox: Arc::default(), channel: Arc::default(), joined: None };
    let outbox = Arc::clone(&peer.outbox);
    let mut buffer = BytesMut::with_capacity(READ_BYTES.0);
    loop {
        tokio::select! {
            count = stream.read_buf(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                let used = peer.take(&buffer)?;
                buffer.advance(used);
                if buffer.spare_capacity_mut().is_empty() || count >= READ_BYTES.0 {
                    buffer.reserve(READ_BYTES.1);
                } else {
                    buffer.reserve(READ_BYTES.0);
                }
            }
            () = outbox.filled.notified() => {
                let bytes = std::mem::take(&mut *outbox.bytes.lock());
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
        }
    }
}

struct Peer<'a> {
    channels: &'a Channels,
    outbox: Arc<Outbox>,
    /// Where its messages go.
    channel: Arc<Channel>,
    /// Where it receives.
    joined: Option<Arc<Channel>>,
}

impl Peer<'_> {
    /// Takes every whole frame and returns how many bytes they were.
    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let (mut used, mut run) = (0, 0..0);
        let mut answers = Vec::new();
        let mut takes_turns = !self.channel.one.read().is_empty();
        while let Some((first, head, len)) = bytes.get(used..).and_then(frame) {
            let end = used + head + len;
            let Some(body) = bytes.get(used + head..end) else { break };
            if first >> 4 == 3 {
                run.end = end;
                match first & 0x06 {
                    0 => {}
                    2 => answers.extend_from_slice(&[0x40, 2, 0, 1]),
                    _ => answers.extend_from_slice(&[0x50, 2, 0, 1]),
                }
                if takes_turns {
                    self.forward(bytes.get(used..end).unwrap_or_default());
                    run.start = end;
                }
            } else {
                self.forward(bytes.get(run.clone()).unwrap_or_default());
                run = end..end;
                self.control(first, body, &mut answers)?;
                takes_turns = !self.channel.one.read().is_empty();
            }
            used = end;
        }
        self.forward(bytes.get(run).unwrap_or_default());
        if !answers.is_empty() {
            self.outbox.push(&answers);
        }
        Ok(used)
    }

    fn forward(&self, frames: &[u8]) {
        if frames.is_empty() {
            return;
        }
        self.channel.each.read().iter().for_each(|outbox| outbox.push(frames));
        let one = self.channel.one.read();
        if let Some(turn) = self.channel.turn.fetch_add(1, Ordering::Relaxed).checked_rem(one.len()) {
            one.get(turn).into_iter().for_each(|outbox| outbox.push(frames));
        }
    }

    fn control(&mut self, first: u8, body: &[u8], answers: &mut Vec<u8>) -> anyhow::Result<()> {
        match first {
            0x10 => answers.extend_from_slice(&[0x20, 2, 0, 0]),
            RELAY_CHANNEL => self.channel = self.channel(body),
            0x82 => {
                let (mode, name) = body.get(2..).and_then(<[u8]>::split_first).context("no channel")?;
                let channel = self.channel(name);
                let place = if *mode == 0 { &channel.each } else { &channel.one };
                place.write().push(Arc::clone(&self.outbox));
                self.joined = Some(channel);
                answers.extend_from_slice(&[0x90, 3, 0, 1, 0]);
            }
            0x50 => answers.extend_from_slice(&[0x62, 2, 0, 1]),
            0x62 => answers.extend_from_slice(&[0x70, 2, 0, 1]),
            _ => {}
        }
        Ok(())
    }

    fn channel(&self, name: &[u8]) -> Arc<Channel> {
        Arc::clone(self.channels.lock().entry(name.to_owned()).or_default())
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        if let Some(channel) = &self.joined {
            channel.each.write().retain(|outbox| !Arc::ptr_eq(outbox, &self.outbox));
            channel.one.write().retain(|outbox| !Arc::ptr_eq(outbox, &self.outbox));
        }
    }
}

/// Returns the type of the next frame and the lengths of its head and body.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, rest) = bytes.split_first()?;
    let mut len = 0;
    for (index, byte) in rest.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((*first, index + 2, len));
        }
    }
    None
}
