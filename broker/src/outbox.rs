//! What one connection still has to send. Filled under the hub's lock, emptied by the
//! connection's own task in large writes.

use broker_core::{CloseReason, Delivery};
use mqtt_proto::Packet;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One thing to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Packet),
    Delivery(Delivery),
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<Outgoing>,
    /// Bytes of the queue, as the core counts them.
    bytes: usize,
    closed: Option<CloseReason>,
}

/// The queue between the hub and one connection. Its bound is the core's, which counts unsent
/// bytes until they are reported flushed.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    closing: CancellationToken,
}

/// What [`Outbox::next`] found.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) items: Vec<Outgoing>,
    /// Bytes of the items, as the core counts them.
    pub(crate) bytes: usize,
    /// Set when nothing follows these items.
    pub(crate) closed: Option<CloseReason>,
}

impl Outbox {
    pub(crate) fn push(&self, item: Outgoing, bytes: usize) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.queue.push(item);
            state.bytes = state.bytes.saturating_add(bytes);
            if state.queue.len() == 1 {
                self.filled.notify_one();
            }
        }
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
    pub(crate) async fn next(&self) -> Batch {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state.lock();
                if !state.queue.is_empty() || state.closed.is_some() {
                    let items = std::mem::take(&mut state.queue);
                    let bytes = std::mem::take(&mut state.bytes);
                    return Batch { items, bytes, closed: state.closed.clone() };
                }
            }
            filled.await;
        }
    }
}
