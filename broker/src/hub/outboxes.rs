//! What connections have to send, and who of them is to hear of it.

use crate::outbox::{Outbox, Signal};
use broker_core::{ConnId, WordHasher};
use mqtt_proto::{PlainAck, PlainPublish};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

/// What each connection has to send, until its task is done with it.
#[derive(Default)]
pub(super) struct Outboxes {
    by_conn: HashMap<ConnId, Box<Outbox>, BuildHasherDefault<WordHasher>>,
    /// Connections to be woken once the core has been left.
    pub(super) to_wake: Vec<Arc<Signal>>,
}

impl Outboxes {
    pub(super) fn insert(&mut self, conn: ConnId, outbox: Box<Outbox>) {
        self.by_conn.insert(conn, outbox);
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Box<Outbox>> {
        self.by_conn.remove(&conn)
    }

    pub(super) fn of(&self, conn: ConnId) -> Option<&Outbox> {
        self.by_conn.get(&conn).map(|outbox| &**outbox)
    }

    pub(super) fn of_mut(&mut self, conn: ConnId) -> Option<&mut Outbox> {
        self.by_conn.get_mut(&conn).map(|outbox| &mut **outbox)
    }

    /// Has something added to one.
    pub(super) fn push(&mut self, conn: ConnId, add: impl FnOnce(&mut Outbox) -> bool) {
        if let Some(outbox) = self.by_conn.get_mut(&conn)
            && add(outbox)
        {
            self.to_wake.push(Arc::clone(outbox.signal()));
        }
    }
}

impl broker_core::Outboxes for Outboxes {
    fn publish(&mut self, conn: ConnId, publish: &PlainPublish<'_>, bytes: usize) {
        self.push(conn, |outbox| outbox.pass(publish, bytes));
    }

    fn acks(&mut self, conn: ConnId, acks: &[PlainAck]) {
        self.push(conn, |outbox| outbox.acks(acks));
    }
}
