//! The connection's own end of its outbox.

use super::Hub;
use crate::outbox::{Batch, Outbox, Signal};
use broker_core::ConnId;
use mqtt_proto::{EncodeError, Version};
use std::sync::Arc;

/// What a connection writes comes from here, for as long as it has this.
#[derive(Debug)]
pub(crate) struct Line {
    hub: Hub,
    pub(crate) conn: ConnId,
    signal: Arc<Signal>,
}

impl Hub {
    /// Opens the outbox of a new connection.
    pub(crate) fn open_line(&self, version: Version, remote: &Arc<str>) -> Line {
        let outbox = Box::new(Outbox::new(version, Arc::clone(remote)));
        let signal = Arc::clone(outbox.signal());
        let mut inner = self.0.inner.lock();
        let conn = ConnId(inner.next_conn);
        inner.next_conn += 1;
        inner.outboxes.insert(conn, outbox);
        Line { hub: self.clone(), conn, signal }
    }
}

impl Line {
    /// Waits for something to send or for the end.
    pub(crate) async fn next(&self) -> Result<Batch, EncodeError> {
        loop {
            // Who adds to an empty outbox wakes this: before that nobody needs to look.
            self.signal.filled().await;
            if let Some(batch) = self.with_outbox(Outbox::take).transpose()?.flatten() {
                return Ok(batch);
            }
        }
    }

    /// Whether nothing of what was taken is to be written any more.
    pub(crate) fn is_discarded(&self) -> bool {
        self.signal.is_discarded()
    }

    /// Resolves once the connection has to end.
    pub(crate) async fn closing(&self) {
        self.signal.closing().await;
    }

    /// It is there as long as its line is.
    pub(crate) fn with_outbox<R>(&self, act: impl FnOnce(&mut Outbox) -> R) -> Option<R> {
        self.hub.0.inner.lock().outboxes.of_mut(self.conn).map(act)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let outbox = self.hub.0.inner.lock().outboxes.remove(self.conn);
        // What it still had to send is freed after the lock.
        drop(outbox);
    }
}
