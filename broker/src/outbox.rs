//! What one connection still has to send. Filled under the hub's lock, emptied by the
//! connection's own task in large writes.
//!
//! It has no lock of its own, but lies behind the hub's. A message to many is encoded for each of them only when that
//! one writes: their buffers, filled one after the other, would be in no cache, and the processor would wait for each.

use broker_core::{CloseReason, Delivery, SharedMessage};
use bytes::{BufMut as _, Bytes, BytesMut};
use mqtt_proto::{EncodeError, Packet, PlainAck, PlainPublish, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Payloads above this are shared by their receivers until they are written: copying them under the
/// lock would hold up all others, and slow readers would hold a copy each.
const COPY_BYTES_MAX: usize = 2 * 1024;
/// Receivers of a message from which on it is encoded for each when that one writes.
const MANY: usize = 16;
/// Messages that wait for that: a small one takes less memory once it is encoded.
const LATER_MAX: usize = 512;
/// Bytes of packets in one piece of memory: growing further would copy them again and again.
const PIECE_BYTES: usize = 64 * 1024;

/// Encoded packets in their order.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// What comes first: full pieces, and payloads that are shared.
    pub(crate) pieces: Vec<Bytes>,
    /// What comes last.
    pub(crate) last: BytesMut,
}

impl Frames {
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty() && self.pieces.is_empty()
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.last.len()
    }

    /// Makes room for one more packet, of about so many bytes.
    fn make_room(&mut self, bytes: usize) {
        if self.last.len() + bytes > self.last.capacity() && self.last.capacity() >= PIECE_BYTES / 2 {
            self.end_piece(PIECE_BYTES);
        }
    }

    fn end_piece(&mut self, next: usize) {
        let full = std::mem::replace(&mut self.last, BytesMut::with_capacity(next));
        if !full.is_empty() {
            self.pieces.push(full.freeze());
        }
    }

    fn deliver(&mut self, delivery: &Delivery, version: Version) -> Result<(), EncodeError> {
        let publish = delivery.publish();
        if publish.payload.len() <= COPY_BYTES_MAX {
            self.make_room(delivery.bytes());
            return mqtt_proto::encode_publish(&publish, version, &mut self.last);
        }
        mqtt_proto::encode_publish_head(&publish, version, &mut self.last)?;
        self.end_piece(0);
        self.pieces.push(delivery.message.publication().payload.clone());
        Ok(())
    }

    fn deliver_all(&mut self, deliveries: Vec<Delivery>, version: Version) -> Result<(), EncodeError> {
        if self.last.is_empty() {
            let bytes = deliveries.iter().map(Delivery::bytes).sum::<usize>();
            self.last.reserve(bytes.min(PIECE_BYTES));
        }
        deliveries.iter().try_for_each(|delivery| self.deliver(delivery, version))
    }
}

/// Batches up to this many bytes are given no more room than they usually take.
const SMALL_BYTES: usize = 8 * 1024;

/// The queue between the hub and one connection. Its bound is the core's, which counts unsent
/// bytes until they are reported flushed.
#[derive(Debug)]
pub(crate) struct Outbox {
    version: Version,
    /// Where the client connects from.
    remote: Arc<str>,
    signal: Arc<Signal>,
    frames: Frames,
    /// What follows these, and is not encoded yet.
    later: Vec<Delivery>,
    /// Bytes of all, as the core counts them.
    bytes: usize,
    /// How much the last batches were, so that the next one need not grow byte by byte.
    usual: usize,
    closed: Option<CloseReason>,
    broken: Option<EncodeError>,
    /// Length of the first packet, which is CONNACK if the client has a session; 0 once it is taken.
    first: Option<usize>,
}

/// What the connection's own task hears of its outbox without the hub's lock.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    filled: Notify,
    closing: CancellationToken,
    is_discarded: AtomicBool,
}

impl Signal {
    /// Wakes the connection.
    fn wake(&self) {
        self.filled.notify_one();
    }

    /// Resolves once there may be something to send, or the end has come.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Whether nothing of what was taken is to be written any more.
    pub(crate) fn is_discarded(&self) -> bool {
        self.is_discarded.load(Ordering::Acquire)
    }

    /// Resolves once the connection has to end.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// Connections that have something to send once the input at hand has been taken.
#[derive(Debug, Default)]
pub(crate) struct Woken(Vec<Arc<Signal>>);

impl Woken {
    pub(crate) fn add(&mut self, signals: &mut Vec<Arc<Signal>>) {
        self.0.append(signals);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Wakes them: after the core was left, each once. Else a woken connection waits for the lock, and
    /// writes a batch in many small pieces.
    pub(crate) fn wake(&mut self) {
        self.0.drain(..).for_each(|signal| signal.wake());
    }
}

// Whoever is to wake them may end between its turns, and nobody else would.
impl Drop for Woken {
    fn drop(&mut self) {
        self.wake();
    }
}

/// What [`Outbox::take`] found.
#[derive(Debug)]
pub(crate) struct Batch {
    frames: Frames,
    later: Vec<Delivery>,
    version: Version,
    /// Bytes of all, as the core counts them.
    pub(crate) bytes: usize,
    /// Set when nothing follows these frames.
    pub(crate) closed: Option<CloseReason>,
    /// Whether it is not to be written if something is thrown away from now on: what is taken after that may be sent, a
    /// DISCONNECT.
    pub(crate) may_be_withdrawn: bool,
}

impl Batch {
    /// Returns all of it, encoded.
    pub(crate) fn frames(&mut self) -> Result<&Frames, EncodeError> {
        self.frames.deliver_all(std::mem::take(&mut self.later), self.version)?;
        Ok(&self.frames)
    }
}

impl Outbox {
    pub(crate) fn new(version: Version, remote: Arc<str>) -> Self {
        Self {
            version,
            remote,
            signal: Arc::default(),
            frames: Frames::default(),
            later: Vec::new(),
            bytes: 0,
            usual: 0,
            closed: None,
            broken: None,
            first: None,
        }
    }

    pub(crate) fn remote(&self) -> &Arc<str> {
        &self.remote
    }

    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Takes one more packet. Tells whether the connection has to be woken for it, which is left to
    /// the caller so that one waking serves a whole batch.
    pub(crate) fn send(&mut self, packet: &Packet, bytes: usize) -> bool {
        let version = self.version;
        self.push(bytes, |outbox| {
            outbox.encode_later()?;
            mqtt_proto::encode(packet, version, &mut outbox.frames.last)
        })
    }

    /// Takes one more PUBLISH, and tells the same.
    pub(crate) fn deliver(&mut self, delivery: Delivery, bytes: usize) -> bool {
        let version = self.version;
        self.push(bytes, |outbox| {
            if SharedMessage::strong_count(&delivery.message) >= MANY && outbox.later.len() < LATER_MAX {
                outbox.later.push(delivery);
                return Ok(());
            }
            outbox.encode_later()?;
            outbox.frames.deliver(&delivery, version)
        })
    }

    /// Takes one more PUBLISH that goes on as it came, and tells the same.
    pub(crate) fn pass(&mut self, publish: &PlainPublish<'_>, bytes: usize) -> bool {
        let version = self.version;
        self.push(bytes, |outbox| {
            outbox.encode_later()?;
            outbox.frames.make_room(bytes);
            publish.encode(version, &mut outbox.frames.last)
        })
    }

    /// Takes more acknowledgements, and tells the same.
    pub(crate) fn acks(&mut self, acks: &[PlainAck]) -> bool {
        let bytes = PlainAck::BYTES * acks.len();
        self.push(bytes, |outbox| {
            outbox.encode_later()?;
            outbox.frames.make_room(bytes);
            outbox.frames.last.reserve(bytes);
            acks.iter().for_each(|ack| outbox.frames.last.put_slice(&ack.to_bytes()));
            Ok(())
        })
    }

    fn push(&mut self, bytes: usize, add: impl FnOnce(&mut Self) -> Result<(), EncodeError>) -> bool {
        if self.closed.is_some() || self.broken.is_some() {
            return false;
        }
        let was_empty = self.is_empty();
        if was_empty {
            self.frames.last.reserve(self.room());
        }
        match add(self) {
            Ok(()) => self.bytes = self.bytes.saturating_add(bytes),
            Err(error) => self.broken = Some(error),
        }
        if self.first.is_none() {
            self.first = Some(self.frames.len());
        }
        was_empty
    }

    /// Room for the next batch. To grow costs little where that is small, and memory stays in the cache.
    fn room(&self) -> usize {
        let room = if self.usual > SMALL_BYTES { 2 * self.usual } else { self.usual };
        room.min(PIECE_BYTES)
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.later.is_empty()
    }

    fn encode_later(&mut self) -> Result<(), EncodeError> {
        if self.later.is_empty() {
            return Ok(());
        }
        self.frames.deliver_all(std::mem::take(&mut self.later), self.version)
    }

    /// Throws away everything that nobody has taken yet, except for the CONNACK, before which nothing may be sent
    /// ([MQTT-3.2.0-1]). Who is writing what was taken stops when the outbox is closed.
    pub(crate) fn discard(&mut self) {
        let written = self.frames.pieces.first().map_or(&*self.frames.last, |piece| &**piece);
        let mut kept = Frames::default();
        kept.last.extend_from_slice(written.get(..self.first.unwrap_or(0)).unwrap_or_default());
        self.bytes = kept.len().min(self.bytes);
        (self.frames, self.later) = (kept, Vec::new());
        self.signal.is_discarded.store(true, Ordering::Release);
    }

    pub(crate) fn close(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
        self.signal.wake();
        self.signal.closing.cancel();
    }

    /// Returns what there is to send, or the end.
    pub(crate) fn take(&mut self) -> Result<Option<Batch>, EncodeError> {
        if self.is_empty() && self.closed.is_none() {
            return self.broken.map_or(Ok(None), Err);
        }
        let (frames, later) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.later));
        let bytes = std::mem::take(&mut self.bytes);
        if self.broken.is_some() {
            // It is told behind what came before.
            self.signal.wake();
        }
        self.first = Some(0);
        self.usual = frames.len().max(self.usual / 2);
        let may_be_withdrawn = !self.signal.is_discarded();
        let (version, closed) = (self.version, self.closed.clone());
        Ok(Some(Batch { frames, later, version, bytes, closed, may_be_withdrawn }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // A publisher that is cut between two turns of a stretch owes those a waking whom it gave something.
    #[tokio::test]
    async fn who_was_given_something_is_woken_even_if_the_giver_ends_first() {
        let mut outbox = Outbox::new(Version::V5, "pid 1 uid 2".into());
        let signal = Arc::clone(outbox.signal());
        let mut filled = waiting(signal.filled()).await;
        assert!(outbox.send(&Packet::PingResp, 2));
        let mut woken = Woken::default();
        woken.add(&mut vec![Arc::clone(&signal)]);
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut filled).await.is_err(), "it is woken later");
        drop(woken);
        filled.await;
        assert_eq!(outbox.take().unwrap().unwrap().bytes, 2);
    }

    /// Returns a future that has been polled and waits.
    async fn waiting<F: Future>(future: F) -> std::pin::Pin<Box<F>> {
        let mut future = Box::pin(future);
        tokio::select! {
            biased;
            _ = &mut future => panic!("it does not wait"),
            () = std::future::ready(()) => {}
        }
        future
    }
}
