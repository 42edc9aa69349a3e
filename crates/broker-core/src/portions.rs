//! SUBSCRIBE and UNSUBSCRIBE with many filters, and subscriptions to be looked at again, in portions: what one filter
//! takes grows with the rules for an identity, and a packet has room for very many.
//!
//! A client's own packets keep their order: what follows stays unread until the rest is done
//! ([`Broker::handle_rest`]). Others have their turn in between.

use crate::ConnId;
use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::session::Session;
use crate::slab::Key;
use midge_policy::Rights;
use mqtt_proto::{Info, Packet, PacketId, ReasonCode, SharedFilter, SubAck, Subscription};
use std::time::Duration;
use std::vec::IntoIter;

/// Steps of one portion: about a quarter of a millisecond. One filter is decided at a time, however many it takes.
const STEPS: usize = 4_096;

/// What one filter takes beside its decision.
const STEPS_PER_FILTER: usize = 64;

/// What is left of a portion.
#[derive(Debug)]
pub(crate) struct Portion(usize);

impl Portion {
    pub(crate) fn new() -> Self {
        Self(STEPS)
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.0 == 0
    }

    pub(crate) fn take(&mut self, steps: usize) {
        self.0 = self.0.saturating_sub(steps);
    }

    /// Takes what the decision about one filter may take.
    pub(crate) fn take_decision(&mut self, rights: &Rights, filter: &SharedFilter) {
        self.take_filter(filter);
        self.take(rights.subscribe_steps());
    }

    fn take_filter(&mut self, filter: &SharedFilter) {
        self.take(STEPS_PER_FILTER + filter.filter.as_str().len());
    }
}

/// A packet of which not all filters are dealt with.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) packet_id: PacketId,
    pub(crate) filters: Filters,
    /// For those that are.
    pub(crate) reasons: Vec<ReasonCode>,
}

/// Those that are left.
#[derive(Debug)]
pub(crate) enum Filters {
    Subscribe(Option<u32>, IntoIter<Subscription>),
    Unsubscribe(IntoIter<SharedFilter>),
}

impl Filters {
    fn is_empty(&self) -> bool {
        match self {
            Self::Subscribe(_, left) => left.as_slice().is_empty(),
            Self::Unsubscribe(left) => left.as_slice().is_empty(),
        }
    }
}

impl Broker {
    /// Goes on with a packet of which [`Self::handle_packet`] has left a rest. Returns the time of now where there still
    /// is one; the shell comes back as soon as others have had their turn, and keeps what follows until then.
    pub fn handle_rest(&mut self, conn: ConnId, now: Now) -> Option<Duration> {
        let key = self.key_of(conn)?;
        self.latest = Some((conn, key));
        self.connection_mut(key)?.rest.as_ref()?;
        self.out.ledger.begin();
        if self.end_condemned(key, now) {
            return None;
        }
        let connection = self.connection_mut(key)?;
        connection.last_seen = now.mono;
        if connection.peer.expires().is_some_and(|at| at <= now.wall) {
            self.cut(key, CloseReason::SvidExpired, now);
            return None;
        }
        let rest = connection.rest.take()?;
        self.take_portion(key, rest, now);
        self.cut_slow(key, now);
        self.paused_until.take()
    }

    /// Does all that is left, where the shell has not waited for it.
    #[cold]
    pub(crate) fn finish_rest(&mut self, conn: ConnId, now: Now) {
        while self.handle_rest(conn, now).is_some() {}
    }

    /// Deals with filters of a packet, and answers it after the last.
    pub(crate) fn take_portion(&mut self, key: Key, mut rest: Box<Rest>, now: Now) {
        let mut portion = Portion::new();
        match &mut rest.filters {
            Filters::Subscribe(id, left) => {
                self.subscribe_some(key, (*id, left), &mut rest.reasons, &mut portion, now);
            }
            Filters::Unsubscribe(left) => {
                while !portion.is_used_up()
                    && let Some(filter) = left.next()
                {
                    let queued = filter.group.as_ref().and_then(|_| self.sessions.get(key));
                    portion.take(queued.map_or(0, |session| session.queue.len()));
                    portion.take_filter(&filter);
                    rest.reasons.push(self.unsubscribe(key, &filter, now));
                }
            }
        }
        if !rest.filters.is_empty() {
            return self.keep_rest(key, rest, now);
        }
        let Rest { packet_id, filters, reasons } = *rest;
        let ack = Box::new(SubAck { packet_id, info: Info::default(), reasons });
        if matches!(filters, Filters::Unsubscribe(_)) {
            return self.answer(key, Packet::UnsubAck(ack));
        }
        self.answer(key, Packet::SubAck(ack));
        if let Some(session) = self.sessions.get_mut(key) {
            session.let_replays_follow();
        }
        self.pump(key, now);
    }

    fn keep_rest(&mut self, key: Key, rest: Box<Rest>, now: Now) {
        let Self { sessions, out, paused_until, .. } = self;
        let Some(connection) = sessions.get_mut(key).and_then(Session::connection_mut) else { return };
        // The answer, which comes with a later input, promises what this one has changed.
        let barrier = out.ledger.answer_after(connection.gate.barrier);
        connection.gate.barrier = barrier.unwrap_or_default().max(connection.gate.barrier);
        connection.rest = Some(rest);
        *paused_until = Some(now.mono);
    }
}
