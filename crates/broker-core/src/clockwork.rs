//! What happens by time alone.

use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::slab::Key;
use crate::timers::Due;
use mqtt_proto::ReasonCode;
use std::time::Duration;

/// A timer that comes later than this says nothing about who was to be heard of by then.
const LATE: Duration = Duration::from_millis(500);

impl Broker {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.out.ledger.note_time(now);
        while let Some(due) = self.timers.pop(now.mono) {
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
        self.out.metrics.dropped.expired += self.retained.expire(now.mono, &mut self.out);
        self.out.tell_withheld(Some(now.mono));
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
