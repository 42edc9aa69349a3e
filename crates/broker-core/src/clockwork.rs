//! What happens by time alone.

use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::session::Link;
use crate::slab::Key;
use crate::timers::Due;
use mqtt_proto::ReasonCode;
use std::time::Duration;

/// Timers that are taken at once, and retained messages that have expired: very many may be due at the same moment,
/// as after a restart, and each will may reach very many.
const DUE_AT_ONCE: usize = 32;
const EXPIRED_AT_ONCE: u64 = 256;

/// A timer that comes later than this says nothing about who was to be heard of by then.
const LATE: Duration = Duration::from_millis(500);

impl Broker {
    /// Does what is due, or a part of it where that is much: then [`Self::poll_timeout`] says a time that has come, and
    /// others get in between if the shell lets them.
    pub fn handle_timeout(&mut self, now: Now) {
        self.out.ledger.note_time(now);
        // First, so that what has expired leaves its room to a will that goes out now.
        self.out.metrics.dropped.expired += self.retained.expire(now.mono, EXPIRED_AT_ONCE, &mut self.out);
        for _ in 0..DUE_AT_ONCE {
            let Some(due) = self.timers.pop(now.mono) else { break };
            match due {
                Due::KeepAlive(key) => self.keep_alive_due(key, now),
                Due::SvidExpiry(key) => self.svid_expiry_due(key, now),
                Due::Will(key) => self.will_due(key, now),
                Due::Exchange(conn) => self.end_candidate(conn, ReasonCode::NotAuthorized, now),
                Due::SessionEnd(key) => {
                    self.out.metrics.sessions_expired += 1;
                    self.end_session(key, true, now);
                }
            }
        }
        self.out.tell_withheld(Some(now.mono));
    }

    /// Does what is due of a session before its client goes on with it, should its turn not have come.
    pub(crate) fn do_due(&mut self, key: Key, now: Now) {
        let parked = |broker: &Self| match &broker.sessions.get(key)?.link {
            Link::Parked(parked) => {
                Some((parked.will.as_ref().map(|late| late.at), parked.ends.map(|(at, _)| at)))
            }
            Link::Live(_) => None,
        };
        let Some((will, ends)) = parked(self) else { return };
        let is_due = |at: &Duration| *at <= now.mono;
        if let Some(at) = will.filter(is_due) {
            self.timers.clear(Some(at), Due::Will(key));
            self.will_due(key, now);
        }
        if ends.is_some_and(|at| is_due(&at)) {
            self.out.metrics.sessions_expired += 1;
            self.end_session(key, true, now);
        }
    }

    fn keep_alive_due(&mut self, key: Key, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        let armed_at = connection.keep_alive_at.take().unwrap_or(now.mono);
        // Who is not read from cannot be heard.
        let seen = connection.last_seen.max(connection.paused_until);
        let due = connection.keep_alive.map(|interval| seen.saturating_add(interval));
        let is_due = due.is_some_and(|at| at <= now.mono);
        if is_due && now.mono.saturating_sub(armed_at) >= LATE {
            // This side was held up, and what the client sent meanwhile may still be unread.
            let at = now.mono.saturating_add(LATE);
            connection.keep_alive_at = Some(at);
            self.timers.set(at, Due::KeepAlive(key));
        } else if is_due {
            self.cut(key, CloseReason::KeepAlive, now);
        } else {
            self.arm_keep_alive(key, now);
        }
    }

    fn svid_expiry_due(&mut self, key: Key, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.svid_at = None;
        if connection.peer.expires().is_some_and(|at| at <= now.wall) {
            self.cut(key, CloseReason::SvidExpired, now);
        } else {
            self.arm_svid_expiry(key, now);
        }
    }
}
