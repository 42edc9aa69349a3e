//! What happens by time alone, and when the policy changes.

use crate::AuditKind;
use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::slab::Key;
use crate::timers::Due;
use midge_policy::{Policy, SubscribeMode};
use mqtt_proto::ReasonCode;
use std::sync::Arc;

impl Broker {
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
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
    }

    fn keep_alive_due(&mut self, key: Key, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        connection.keep_alive_at = None;
        let due = connection.keep_alive.map(|interval| connection.last_seen.saturating_add(interval));
        if due.is_some_and(|at| at <= now.mono) {
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

    /// Replaces the policy. Subscriptions that it does not permit are removed at once, connected or not; what
    /// waits, is in flight or retained is asked for again when it is released.
    pub fn handle_policy(&mut self, policy: Arc<Policy>, now: Now) {
        self.authority.replace(policy);
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let rights = self.authority.rights(&session.identity);
            let is_same = rights.is_same_as(&session.rights);
            session.rights = rights;
            if !is_same {
                self.review_subscriptions(key, now);
            }
        }
    }

    fn review_subscriptions(&mut self, key: Key, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut lost = Vec::new();
        for (spelled, subscribed) in &mut session.subscriptions {
            match session.rights.subscribe(&subscribed.filter, subscribed.requested, SubscribeMode::Reject) {
                Err(denial) => lost.push((Arc::clone(spelled), denial)),
                Ok(permit) => {
                    if subscribed.review(&permit) {
                        self.subscriptions.add(key, subscribed);
                    }
                }
            }
        }
        for (filter, denial) in lost {
            let Some(session) = self.sessions.get_mut(key) else { return };
            let Some(subscribed) = session.remove_subscription(&filter) else { continue };
            self.audit(key, AuditKind::SubscriptionRevoked { filter, denial }, now);
            self.forget_subscription(key, &subscribed, now);
        }
    }
}
