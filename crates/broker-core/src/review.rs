//! What a change of policy or a revocation leaves to be done, in portions: removing subscriptions and
//! sessions that no longer stand, and messages of publishers that are gone. Beside it those have their turn for whom
//! there is more to look at that is retained.
//!
//! None of it is what keeps a message from being released: that is asked for at each release, whether the
//! work here is done or not. So it may take its time, and nobody else has to wait for it.

use crate::authority::{Authority, Listener, PolicyChange};
use crate::broker::Broker;
use crate::effect::{CloseReason, Now, Revocation};
use crate::portions::Portion;
use crate::record::{OutgoingState, Record, RecordKey, RecordKind};
use crate::release::tell_purged;
use crate::replay::LOOKS_AT_ONCE;
use crate::session::{Session, mode_of};
use crate::slab::Key;
use crate::{AuditKind, ConnId, Message};
use midge_identity::{SpiffeId, VerifiedPeer};
use midge_policy::{Policy, QueueOverflow, Rights};
use mqtt_proto::{QoS, ReasonCode, TopicName};
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// Sessions that a revocation ends at once; more are ended in portions.
const AT_ONCE_MAX: usize = 16;

/// Retained messages that cost as much to look at as one session.
const RETAINED_PER_SESSION: usize = 8;

/// Stands for the count of no policy.
const NEVER: u64 = u64::MAX;

/// How far the subscriptions of one session were held against its rights.
#[derive(Clone, Debug)]
pub(crate) struct Review {
    /// Count of the policy.
    generation: u64,
    /// The filter looked at last.
    after: Option<Arc<str>>,
    /// What those say that stand of a full queue.
    pub(crate) overflow: Option<QueueOverflow>,
}

/// What is left to be done.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    ends: VecDeque<Key>,
    reviews: VecDeque<Key>,
    /// Sessions for which not all retained messages were looked at that there are, in turn.
    pub(crate) line: VecDeque<Key>,
    purge: Option<Purge>,
    /// Revocations whose records are to be removed once everything of before them is gone, with their revisions.
    revocations: Vec<(u64, RecordKey)>,
}

/// One pass over everything that is kept, for messages of revoked publishers.
#[derive(Debug)]
struct Purge {
    /// Revocations up to here are dealt with by it.
    revision: u64,
    sessions: VecDeque<Key>,
    /// The retained topic looked at last; `None` before the first.
    cursor: Option<TopicName>,
    retained_done: bool,
}

impl Session {
    /// Returns the rights under the policy in force.
    pub(crate) fn rights(&mut self, authority: &mut Authority) -> &Arc<Rights> {
        let generation = authority.generation();
        if self.rights_of != generation {
            let was_reviewed = self.reviewed == self.rights_of;
            let mut is_same = true;
            if authority.is_touched(&self.identity, self.rights_of) {
                let rights = authority.rights(&self.identity, self.context());
                is_same = rights.is_same_as(&self.rights);
                self.take_rights(rights);
            }
            self.rights_of = generation;
            // Where the same rules hold for it there is nothing to look at again.
            if was_reviewed && is_same {
                self.reviewed = generation;
            }
        }
        &self.rights
    }

    /// Takes the rights of a connection by this listener. Tells whether its subscriptions have to be looked
    /// at again for that.
    fn enter_by(&mut self, listener: &Arc<Listener>, authority: &mut Authority) -> bool {
        let is_same_listener = self.listener.as_deref() == Some(listener);
        self.listener = Some(Arc::clone(listener));
        if is_same_listener {
            return false;
        }
        self.take_rights(authority.rights(&self.identity, self.context()));
        self.rights_of = authority.generation();
        true
    }

    fn take_rights(&mut self, rights: Arc<Rights>) {
        self.queue.limit_by(&rights);
        self.rights = rights;
    }
}

impl Broker {
    /// Returns the policy in force.
    pub fn policy(&self) -> &Arc<Policy> {
        self.authority.policy()
    }

    /// Replaces the policy and returns the one before. From here on every decision is by the new one;
    /// [`Self::handle_backlog`] removes the subscriptions that it does not permit.
    pub fn handle_policy(&mut self, change: PolicyChange, _now: Now) -> Arc<Policy> {
        let before = self.authority.replace(change);
        let touched = self.authority.touched();
        if touched.has_patterns() {
            self.backlog.reviews = self.sessions.keys().into();
        } else {
            let own = touched.ids().filter_map(|id| self.by_identity.get(id));
            self.backlog.reviews.extend(own.flat_map(|own| own.sessions.values().copied()));
        }
        if self.config.purge_lost {
            self.start_purge();
        }
        before
    }

    /// Tells whether there is work left for [`Self::handle_backlog`].
    pub fn has_backlog(&self) -> bool {
        let Backlog { ends, reviews, line, purge, revocations: _ } = &self.backlog;
        !ends.is_empty() || !reviews.is_empty() || !line.is_empty() || purge.is_some()
    }

    /// Tells whether somebody waits for what is left: a session that is to end, or one that is owed retained messages. What
    /// a change of rights leaves beside that takes effect without it.
    pub fn is_backlog_urgent(&self) -> bool {
        !self.backlog.ends.is_empty() || !self.backlog.line.is_empty()
    }

    /// Does what changes of policy and identities left to be done, for so many sessions at most, and for fewer where they
    /// have many subscriptions or many rules speak of them. Looks at retained messages for those in line, as many as are
    /// one turn, or a few turns that are short. Tells whether there is more.
    pub fn handle_backlog(&mut self, sessions_max: usize, now: Now) -> bool {
        self.out.ledger.begin();
        let mut portion = Portion::new();
        self.looks = LOOKS_AT_ONCE;
        for _ in 0..sessions_max {
            if portion.is_used_up() {
                break;
            }
            if let Some(key) = self.backlog.ends.pop_front() {
                self.end_condemned(key, now);
            } else if let Some(key) = self.backlog.reviews.pop_front() {
                self.review(key, &mut portion, now);
            } else if self.looks > 0
                && let Some(key) = self.backlog.line.pop_front()
            {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.is_in_line = false;
                }
                self.pump(key, now);
            } else if !self.purge_step(&mut portion, now) {
                break;
            }
        }
        self.looks = LOOKS_AT_ONCE;
        self.has_backlog()
    }

    /// Lets a session go on by another connection: what it may do may depend on where that came in.
    pub(crate) fn enter_by(&mut self, key: Key, listener: &Arc<Listener>, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.enter_by(listener, &mut self.authority) {
            session.queue.distrust();
            session.inflight.distrust();
            (session.reviewed, session.review) = (NEVER, None);
            // What was routed by the rights on the other listener is routed anew.
            self.subscriptions.touch();
            self.review(key, &mut Portion::new(), now);
        }
    }

    /// Holds subscriptions of a session against its rights, as many as the portion has room for; the rest follows.
    fn review(&mut self, key: Key, portion: &mut Portion, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.rights(&mut self.authority);
        let generation = self.authority.generation();
        if session.reviewed == generation {
            session.review = None;
            return;
        }
        let mut review = session.review.take().filter(|review| review.generation == generation);
        let review = review.get_or_insert(Review { generation, after: None, overflow: None });
        let is_over = self.review_subscriptions(key, review, portion, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !is_over {
            session.review = Some(review.clone());
            return self.backlog.reviews.push_front(key);
        }
        session.reviewed = generation;
        session.queue.overflow = review.overflow;
        // What was routed while this session had not been looked at is routed anew.
        self.subscriptions.touch();
    }

    /// Tells whether those were all.
    fn review_subscriptions(
        &mut self,
        key: Key,
        review: &mut Review,
        portion: &mut Portion,
        now: Now,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let (mut lost, mut is_over) = (Vec::new(), true);
        let from = review.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        for (spelled, subscribed) in session.subscriptions.range_mut((from, Bound::Unbounded)) {
            if portion.is_used_up() {
                is_over = false;
                break;
            }
            portion.take_decision(&session.rights, &subscribed.filter);
            review.after = Some(Arc::clone(spelled));
            let mode = mode_of(session.listener.as_deref(), &subscribed.filter);
            match session.rights.subscribe(&subscribed.filter, subscribed.requested, mode) {
                Err(denial) => lost.push((Arc::clone(spelled), denial)),
                Ok(permit) => {
                    review.overflow = permit.queue_overflow().or(review.overflow);
                    if let Some(reviewed) = subscribed.reviewed(&permit) {
                        self.subscriptions.add(key, &reviewed, Some(subscribed));
                        session.subscribed.replace(subscribed.cost(spelled), reviewed.cost(spelled));
                        *subscribed = reviewed;
                    }
                }
            }
        }
        for (filter, denial) in lost {
            let Some(session) = self.sessions.get_mut(key) else { return true };
            let Some(subscribed) = session.remove_subscription(&filter) else { continue };
            self.audit(key, AuditKind::SubscriptionRevoked { filter, denial }, now);
            self.forget_subscription(key, &subscribed, now);
        }
        is_over
    }

    /// Ends every session of these identities, and of no other. Nothing is released to or from them any
    /// more; where they have many sessions, [`Self::handle_backlog`] ends them.
    pub fn handle_revoked(&mut self, revocation: &Revocation, now: Now) {
        let is_revoked = |peer: &VerifiedPeer| revocation.identities.contains(peer.id());
        self.end_candidates(ReasonCode::NotAuthorized, is_revoked, now);
        for identity in &revocation.identities {
            let own = self.by_identity.get(identity);
            let keys: Vec<Key> = own.into_iter().flat_map(|own| own.sessions.values().copied()).collect();
            for key in keys {
                let Some(session) = self.sessions.get_mut(key) else { continue };
                session.condemned = Some(Arc::clone(&revocation.reason));
                self.backlog.ends.push_back(key);
            }
            let was_here = self.known.remove(identity);
            self.revoke_messages(identity);
            if was_here && self.out.ledger.is_on() {
                self.record_revoked(identity);
            }
        }
        self.end_few(now);
    }

    /// Declares sessions ended; [`Self::handle_backlog`] ends them where they are many.
    pub(crate) fn condemn(&mut self, keys: Vec<Key>, reason: &Arc<str>, now: Now) {
        for key in keys {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.condemned = Some(Arc::clone(reason));
            self.backlog.ends.push_back(key);
        }
        self.end_few(now);
    }

    fn end_few(&mut self, now: Now) {
        if self.backlog.ends.len() <= AT_ONCE_MAX {
            while let Some(key) = self.backlog.ends.pop_front() {
                self.end_condemned(key, now);
            }
        }
    }

    /// Ends a connection whose proof no longer stands while its identity does; its will does not fire, and its session
    /// waits for a better proof.
    pub fn handle_proof_ended(&mut self, conn: ConnId, reason: &Arc<str>, now: Now) {
        match self.conns.get(&conn) {
            Some(&key) => self.cut(key, CloseReason::ProofEnded(Arc::clone(reason)), now),
            None => self.end_candidate(conn, ReasonCode::NotAuthorized, now),
        }
    }

    /// Ends a session whose identity was revoked, if it is one.
    pub(crate) fn end_condemned(&mut self, key: Key, now: Now) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(reason) = session.condemned.clone() else { return false };
        self.cut(key, CloseReason::Revoked(reason), now);
        self.end_session(key, false, now);
        true
    }

    fn revoke_messages(&mut self, identity: &SpiffeId) {
        self.authority.revoke(Arc::new(identity.clone()));
        if self.backlog.purge.is_none() {
            self.start_purge();
        }
    }

    /// Stores that an identity was revoked, until nothing of before is left: it may be registered anew, and what is done
    /// in portions may be cut short by the end of the broker.
    fn record_revoked(&mut self, identity: &SpiffeId) {
        let key = RecordKey::new(RecordKind::Revoked, self.out.ledger.next_number());
        self.out.ledger.create(key, Record::Revoked(Arc::new(identity.clone())));
        self.backlog.revocations.push((self.authority.revision(), key));
    }

    /// Goes on with revocations of an earlier run: these sessions end, and what else is left of before them is gone
    /// already.
    pub(crate) fn resume_revocations(&mut self, sessions: Vec<Key>, keys: Vec<RecordKey>) {
        for key in sessions {
            if let Some(session) = self.sessions.get_mut(key) {
                session.condemned = Some("identity was revoked".into());
                self.backlog.ends.push_back(key);
            }
        }
        if !keys.is_empty() {
            let revision = self.authority.revision();
            self.backlog.revocations.extend(keys.into_iter().map(|key| (revision, key)));
            self.start_purge();
        }
    }

    fn start_purge(&mut self) {
        self.backlog.purge = Some(Purge {
            revision: self.authority.revision(),
            sessions: self.sessions.keys().into(),
            cursor: None,
            retained_done: false,
        });
    }

    /// Looks at one more session or a few retained messages; false when there is nothing left.
    fn purge_step(&mut self, portion: &mut Portion, now: Now) -> bool {
        let Some(purge) = &mut self.backlog.purge else { return false };
        if let Some(key) = purge.sessions.pop_front() {
            if let Some(session) = self.sessions.get_mut(key) {
                let authority = &self.authority;
                let (number, ledger) = (session.number, &mut self.out.ledger);
                portion.take(session.queue.len());
                let purged = session.queue.extract(|waiting| authority.is_dead(&waiting.message));
                purged.iter().for_each(|waiting| ledger.dequeue(number, waiting));
                let withdrawn = session.inflight.withdraw(|waiting| authority.is_dead(&waiting.message));
                for (id, waiting) in &withdrawn {
                    match waiting.qos {
                        QoS::ExactlyOnce => ledger.settle(number, *id, waiting, OutgoingState::Withdrawn),
                        QoS::AtMostOnce | QoS::AtLeastOnce => ledger.dequeue(number, waiting),
                    }
                }
                self.out.metrics.dropped.revoked += (purged.len() + withdrawn.len()) as u64;
            }
            return true;
        }
        if !purge.retained_done {
            let (authority, purges_lost) = (&mut self.authority, self.config.purge_lost);
            let is_lost = |message: &Message| {
                authority.is_dead(message) || (purges_lost && authority.recheck_origin(message).is_err())
            };
            let (cursor, out) = (&mut purge.cursor, &mut self.out);
            let dead = self.retained.purge_after(cursor, RETAINED_PER_SESSION, is_lost, out);
            purge.retained_done = purge.cursor.is_none();
            dead.iter().for_each(|message| tell_purged(message, &mut self.out, now));
            return true;
        }
        let done = purge.revision;
        self.authority.forget_revoked(done);
        for (_, key) in self.backlog.revocations.extract_if(.., |(revision, _)| *revision <= done) {
            self.out.ledger.forget(key);
        }
        self.backlog.purge = None;
        // Who was revoked meanwhile may have left something where this pass had been already.
        if self.authority.has_revoked() {
            self.start_purge();
        }
        true
    }
}
