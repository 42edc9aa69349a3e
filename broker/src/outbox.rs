//! What one connection still has to send. Filled under the hub's lock, emptied by the
//! connection's own task in large writes.

use broker_core::{CloseReason, Delivery};
use bytes::{Bytes, BytesMut};
use mqtt_proto::{EncodeError, Packet, Version};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Payloads above this are shared by their receivers until they are written: copying them under the
/// lock would hold up all others, and slow readers would hold a copy each.
const COPY_BYTES_MAX: usize = 2 * 1024;
/// Bytes of packets in one piece of memory: growing further would copy them again and again.
const PIECE_BYTES: usize = 64 * 1024;

/// One thing to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Packet),
    Delivery(Delivery),
}

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

    fn push(&mut self, item: &Outgoing, version: Version) -> Result<(), EncodeError> {
        let delivery = match item {
            Outgoing::Packet(packet) => return mqtt_proto::encode(packet, version, &mut self.last),
            Outgoing::Delivery(delivery) => delivery,
        };
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
}

#[derive(Debug, Default)]
struct State {
    frames: Frames,
    /// Bytes of the frames, as the core counts them.
    bytes: usize,
    /// How much the last batches were, so that the next one need not grow byte by byte.
    usual: usize,
    closed: Option<CloseReason>,
    broken: Option<EncodeError>,
    is_discarded: bool,
    /// Length of the first packet, which is CONNACK if the client has a session; 0 once it is taken.
    first: Option<usize>,
}

/// The queue between the hub and one connection. Its bound is the core's, which counts unsent
/// bytes until they are reported flushed.
#[derive(Debug)]
pub(crate) struct Outbox {
    version: Version,
    /// Where the client connects from.
    remote: Arc<str>,
    state: Mutex<State>,
    filled: Notify,
    closing: CancellationToken,
}

/// Connections that have something to send once the input at hand has been taken.
#[derive(Debug, Default)]
pub(crate) struct Woken(Vec<Arc<Outbox>>);

impl Woken {
    pub(crate) fn add(&mut self, outboxes: &mut Vec<Arc<Outbox>>) {
        self.0.append(outboxes);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Wakes them: after the core was left, each once. Else a woken connection waits for the lock, and
    /// writes a batch in many small pieces.
    pub(crate) fn wake(&mut self) {
        self.0.drain(..).for_each(|outbox| outbox.wake());
    }
}

// Whoever is to wake them may end between its turns, and nobody else would.
impl Drop for Woken {
    fn drop(&mut self) {
        self.wake();
    }
}

/// What [`Outbox::next`] found.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) frames: Frames,
    /// Bytes of the frames, as the core counts them.
    pub(crate) bytes: usize,
    /// Set when nothing follows these frames.
    pub(crate) closed: Option<CloseReason>,
}

impl Outbox {
    pub(crate) fn new(version: Version, remote: Arc<str>) -> Self {
        Self {
            version,
            remote,
            state: Mutex::default(),
            filled: Notify::new(),
            closing: CancellationToken::new(),
        }
    }

    pub(crate) fn remote(&self) -> &Arc<str> {
        &self.remote
    }

    /// Takes one more packet. Tells whether the connection has to be woken for it, which is left to
    /// the caller so that one waking serves a whole batch.
    pub(crate) fn push(&self, item: &Outgoing, bytes: usize) -> bool {
        let mut state = self.state.lock();
        if state.closed.is_some() || state.broken.is_some() {
            return false;
        }
        let was_empty = state.frames.is_empty();
        if was_empty {
            let usual = state.usual.min(PIECE_BYTES);
            state.frames.last.reserve(usual);
        }
        match state.frames.push(item, self.version) {
            Ok(()) => state.bytes = state.bytes.saturating_add(bytes),
            Err(error) => state.broken = Some(error),
        }
        if state.first.is_none() {
            state.first = Some(state.frames.len());
        }
        was_empty
    }

    /// Wakes the connection.
    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Throws away everything that nobody has taken yet, except for the CONNACK, before which nothing may be sent
    /// ([MQTT-3.2.0-1]). Who is writing what was taken stops when the outbox is closed.
    pub(crate) fn discard(&self) {
        let mut state = self.state.lock();
        let State { frames, first, .. } = &*state;
        let written = frames.pieces.first().map_or(&*frames.last, |piece| &**piece);
        let mut kept = Frames::default();
        kept.last.extend_from_slice(written.get(..first.unwrap_or(0)).unwrap_or_default());
        state.bytes = kept.len().min(state.bytes);
        (state.frames, state.is_discarded) = (kept, true);
    }

    /// Whether nothing of what was taken is to be written any more.
    pub(crate) fn is_discarded(&self) -> bool {
        self.state.lock().is_discarded
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.state.lock().closed.get_or_insert(reason);
        self.filled.notify_one();
        self.closing.cancel();
    }

    /// Resolves once the connection has to end.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Waits for something to send or for the end.
    pub(crate) async fn next(&self) -> Result<Batch, EncodeError> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.frames.is_empty() || state.closed.is_some() {
                    let frames = std::mem::take(&mut state.frames);
                    let bytes = std::mem::take(&mut state.bytes);
                    state.first = Some(0);
                    state.usual = frames.len().max(state.usual / 2);
                    return Ok(Batch { frames, bytes, closed: state.closed.clone() });
                }
                if let Some(error) = state.broken {
                    return Err(error);
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // A publisher that is cut between two turns of a stretch owes those a waking whom it gave something.
    #[tokio::test]
    async fn who_was_given_something_is_woken_even_if_the_giver_ends_first() {
        let outbox = Arc::new(Outbox::new(Version::V5, "pid 1 uid 2".into()));
        let mut next = waiting(outbox.next()).await;
        assert!(outbox.push(&Outgoing::Packet(Packet::PingResp), 2));
        let mut woken = Woken::default();
        woken.add(&mut vec![Arc::clone(&outbox)]);
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, &mut next).await.is_err(), "it is woken later");
        drop(woken);
        assert_eq!(next.await.unwrap().bytes, 2);
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
