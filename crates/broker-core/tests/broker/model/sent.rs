//! What a broker sent, held against what it owed.

use super::*;

/// The share group that a message came by, as in [`Shared`].
#[derive(Clone, Copy)]
struct Lender {
    group: &'static str,
    may_be_lost: bool,
    kept: bool,
}

impl Model {
    /// A broker sent a PUBLISH.
    pub(crate) fn sent(&mut self, who: Who, seen: &Seen) {
        let session = &self.sessions[&who];
        if session.flight.iter().any(|flight| Some(flight.pid) == seen.pid && !flight.here) {
            return self.sent_again(who, seen);
        }
        // What comes again under its own identifier is nothing else.
        let found = self.was_shared(who, seen).then(|| self.take_shared(who, seen)).flatten();
        // What may be gone as a message and is owed as retained came as that; the other may come still.
        let may_be_gone = self.sessions[&who].owed.iter().find(|owed| self.is_this(owed, seen));
        let may_be_gone = found.is_none() && may_be_gone.is_some_and(|owed| owed.may_be_gone);
        let retained = may_be_gone.then(|| self.take_due_retained(who, seen)).flatten();
        let found = found.or_else(|| Some((retained?, None)));
        let found = found.or_else(|| Some((self.take_owed(who, seen)?, None)));
        // What must come, before what looks the same and another member of its group may have.
        let found = found.or_else(|| Some((self.take_due_retained(who, seen)?, None)));
        let found = found.or_else(|| self.take_shared(who, seen));
        // What waited of a subscription that was made anew, before what another one may be sent and needs not be.
        let found = found.or_else(|| Some((self.take_left(who, seen)?, None)));
        let found = found.or_else(|| Some((self.take_retained(who, seen)?, None)));
        let (owed, group) = found.unwrap_or_else(|| panic!("{seen:?} to {who} is not owed"));
        // What was sent is sent again even then.
        assert!(owed.may_be_under_way() || !self.is_expired(&owed.message), "{seen:?} has expired");
        let session = self.sessions.get_mut(&who).unwrap();
        if owed.qos == Q0 {
            return assert_eq!(seen.pid, None);
        }
        assert!(session.has_room(), "{seen:?} is beyond the window of {who}");
        let pid = seen.pid.unwrap();
        assert!(session.flight.iter().all(|flight| flight.pid != pid), "{seen:?}: identifier in use");
        self.publishes += 1;
        let first = owed.sent.map_or(self.publishes, |(_, first)| first);
        session.flight.push(Flight {
            pid,
            first,
            owed,
            group: group.map(|lender| lender.group),
            group_ended: group.is_some_and(|lender| lender.may_be_lost),
            kept: group.is_some_and(|lender| lender.kept),
            released: None,
            begun: session.life,
            here: true,
            counted: true,
        });
    }

    fn sent_again(&mut self, who: Who, seen: &Seen) {
        let session = &self.sessions[&who];
        let is_due = |flight: &Flight| !flight.here && flight.released.is_none();
        let at = session.flight.iter().position(|flight| Some(flight.pid) == seen.pid && is_due(flight));
        let at = at.unwrap_or_else(|| panic!("{seen:?} to {who} is not due again"));
        let flight = &session.flight[at];
        // In the order in which they were sent first ([MQTT-4.6.0-1]), or came after a restart.
        let earlier = session.flight[..at].iter().find(|other| is_due(other) && other.first < flight.first);
        assert!(earlier.is_none(), "{seen:?} to {who} comes before {earlier:?}");
        assert!(seen.dup && self.is_how(&flight.owed, seen), "{seen:?} is not {flight:?}");
        assert!(session.has_room(), "{seen:?} is beyond the window of {who}");
        let flight = &mut self.sessions.get_mut(&who).unwrap().flight[at];
        (flight.here, flight.counted) = (true, true);
    }

    fn is_how(&self, owed: &Owed, seen: &Seen) -> bool {
        let Owed { message, qos, retain, ids, .. } = owed;
        (message.topic, &message.payload, qos, retain, ids, self.left(message))
            == (seen.topic.as_str(), &seen.payload, &seen.qos, &seen.retain, &seen.ids, seen.expiry)
    }

    fn is_this(&self, owed: &Owed, seen: &Seen) -> bool {
        self.is_how(owed, seen) && owed.is_again(seen)
    }

    fn take_owed(&mut self, who: Who, seen: &Seen) -> Option<Owed> {
        let owed = &self.sessions[&who].owed;
        let at = owed.iter().position(|owed| self.is_this(owed, seen))?;
        // One publisher's messages of one topic and QoS come in its order.
        let key = |owed: &Owed| (owed.message.from, owed.message.topic, owed.qos);
        let is_earlier = |earlier: &Owed| key(earlier) == key(&owed[at]);
        let is_due = |owed: &&Owed| is_earlier(owed) && !self.is_expired(&owed.message) && !owed.may_be_gone;
        let earlier = owed[..at].iter().find(is_due);
        assert_eq!(earlier, None, "{seen:?} to {who} comes before");
        let owed = self.take_at(who, at);
        let at = self.place(&owed.message);
        for (filter, replay) in &mut self.sessions.get_mut(&who).unwrap().replays {
            if let Some(at) = at.filter(|at| *at >= replay.begun && matches(filter, owed.message.topic)) {
                let newest = replay.newest.entry((
                    owed.message.from,
                    owed.message.topic,
                    [owed.message.qos, owed.qos],
                ));
                newest.and_modify(|newest| *newest = at.max(*newest)).or_insert(at);
            }
        }
        Some(owed)
    }

    /// Takes what came. What may be gone and was to come before it, or is equal to it, is gone or may be.
    fn take_at(&mut self, who: Who, at: usize) -> Owed {
        let all = &mut self.sessions.get_mut(&who).unwrap().owed;
        let owed = all.remove(at);
        let key = |owed: &Owed| (owed.message.from, owed.message.topic, owed.qos);
        // As far as a client sees, also of two publishers: an empty one is like another.
        let looks = |owed: &Owed| (owed.message.topic, owed.message.payload.clone(), owed.qos);
        let is_equal = |other: &Owed| looks(other) == looks(&owed);
        if owed.may_be_gone {
            all.iter_mut().filter(|other| is_equal(other)).for_each(|other| other.may_be_gone = true);
        }
        let mut place = 0;
        all.retain(|other| {
            place += 1;
            place > at || !other.may_be_gone || key(other) != key(&owed) || is_equal(other)
        });
        owed
    }

    /// Whether this is for certain what was sent before a restart of what a group shared.
    fn was_shared(&self, who: Who, seen: &Seen) -> bool {
        let grants = self.shared.iter().flat_map(|shared| &shared.grants);
        let mut own = grants.filter(|(holder, owed)| *holder == who && owed.sent.is_some());
        own.any(|(_, owed)| self.is_how(owed, seen) && owed.is_again(seen))
    }

    fn take_shared(&mut self, who: Who, seen: &Seen) -> Option<(Owed, Option<Lender>)> {
        let owed_to = |shared: &Shared| {
            let mut grants = shared.grants.iter().filter(|(holder, _)| *holder == who);
            let grant = grants.find(|(_, owed)| self.is_how(owed, seen) && owed.is_again(seen));
            grant.map(|(_, owed)| owed.clone())
        };
        // Of equal ones, such as two that are empty or of two groups, first what it is for certain, what must be sent, and
        // what can be nobody else's.
        let candidates = (0..self.shared.len()).filter(|at| owed_to(&self.shared[*at]).is_some());
        let candidates: Vec<usize> = candidates.collect();
        let at = candidates.iter().copied();
        let rank = |at: &usize| {
            let shared = &self.shared[*at];
            let is_for_others = shared.grants.iter().any(|(holder, _)| *holder != who);
            let is_certain = owed_to(shared).is_some_and(|owed| owed.sent.is_some());
            (!is_certain, !shared.due, is_for_others, shared.may_be_lost)
        };
        let at = at.min_by_key(rank)?;
        let owed = owed_to(&self.shared[at])?;
        let Shared { group, grants, may_be_lost, kept, .. } = &self.shared[at];
        let (group, grants, may_be_lost, mut kept) = (*group, grants.clone(), *may_be_lost, *kept);
        // Nobody can tell which of them it was: whoever had either may have what is left.
        for other in candidates.into_iter().filter(|other| *other != at && owed.sent.is_none()) {
            let other = &mut self.shared[other];
            other.grants.extend(grants.iter().cloned());
            other.may_be_lost |= may_be_lost;
            kept &= other.kept;
            other.kept = kept;
        }
        self.shared.remove(at);
        Some((owed, Some(Lender { group, may_be_lost, kept })))
    }

    /// Its place in the order of all, if it can be told from others.
    fn place(&self, message: &Message) -> Option<usize> {
        let mut all = self.distributed.iter();
        all.position(|payload| *payload == message.payload).filter(|_| !message.payload.is_empty())
    }

    fn take_retained(&mut self, who: Who, seen: &Seen) -> Option<Owed> {
        let replays = self.sessions[&who].replays.values();
        let mut candidates: Vec<Message> = replays.flat_map(|replay| replay.replaced.clone()).collect();
        candidates.extend(self.retained.get(&*seen.topic).cloned());
        candidates.into_iter().find_map(|message| self.take_retained_as(who, seen, message, false))
    }

    fn take_due_retained(&mut self, who: Who, seen: &Seen) -> Option<Owed> {
        let message = self.retained.get(&*seen.topic)?.clone();
        self.take_retained_as(who, seen, message, true)
    }

    fn take_left(&mut self, who: Who, seen: &Seen) -> Option<Owed> {
        let left = &self.sessions[&who].left;
        let at = left.iter().position(|(_, owed)| self.is_how(owed, seen) && owed.is_again(seen))?;
        let session = self.sessions.get_mut(&who).unwrap();
        let (filter, owed) = session.left.remove(at);
        if let Some(filter) = filter {
            session.replayed(filter, &owed.message);
        }
        Some(owed)
    }

    fn take_retained_as(&mut self, who: Who, seen: &Seen, message: Message, is_due: bool) -> Option<Owed> {
        if message.topic != seen.topic {
            return None;
        }
        let session = &self.sessions[&who];
        let by = |(filter, replay): (&&'static str, &Replay)| {
            let may_be_again = replay.may_be_again.contains(&message.payload);
            let subscribed = session.subscriptions.get(filter).filter(|_| matches(filter, message.topic))?;
            let (qos, ids) = (subscribed.qos.min(message.qos), subscribed.id.into_iter().collect());
            let owed = Owed { may_be_again, ..Owed::new(message.clone(), qos, true, ids) };
            let own = subscribed.no_local && message.from == who;
            // What was replaced before another subscription was made is none of that one's.
            let is_its =
                replay.replaced.contains(&message) || self.retained.get(message.topic) == Some(&message);
            let is_right = !own
                && is_its
                && !replay.sent.contains(message.topic)
                && (!seen.dup || (may_be_again && qos == Q1))
                && self.is_how(&owed, seen);
            is_right.then_some((*filter, owed))
        };
        // By the one that still owes it; else it was retained after the subscription was made.
        let owing = session.replays.iter().filter(|(_, replay)| replay.owed.contains(message.topic));
        let others = session.replays.iter().filter(|_| !is_due);
        let (filter, owed) = owing.chain(others).find_map(by)?;
        let session = self.sessions.get_mut(&who).unwrap();
        session.replayed(filter, &message);
        let newest = session.replays[filter]
            .newest
            .get(&(owed.message.from, owed.message.topic, [owed.message.qos, owed.qos]))
            .copied();
        // [MQTT-4.6.0-5]
        assert!(newest <= self.place(&owed.message), "{seen:?} to {who} comes after what is newer");
        Some(owed)
    }

    /// Asserts that nothing is owed that could have been sent.
    pub(crate) fn settle(&mut self) {
        let now = self.now;
        let is_over = |message: &Message| message.lasts.is_some_and(|secs| message.received + secs <= now);
        // A broker that was restarted may not know that it has sent what is over by now.
        self.shared.retain_mut(|shared| {
            shared.may_be_lost |= is_over(&shared.message);
            !is_over(&shared.message) || shared.grants.iter().any(|(_, owed)| owed.may_be_under_way())
        });
        for (who, session) in &mut self.sessions {
            session.owed.retain(|owed| !is_over(&owed.message) || owed.may_be_under_way());
            let takes = [Q0, Q1, Q2].map(|qos| session.takes(qos));
            session.owed.retain(|owed| !owed.may_be_gone || !takes[owed.qos as usize]);
            let mut owed = session.owed.iter().filter(|owed| !is_over(&owed.message));
            let forgotten = owed.find(|owed| owed.qos == Q0 || session.takes(owed.qos));
            assert_eq!(forgotten, None, "{who} was not sent this");
            if !session.takes(Q1) {
                continue;
            }
            let again = session.flight.iter().find(|flight| !flight.here);
            assert!(again.is_none(), "{who} was not sent this again: {again:?}");
            session.left.clear();
            for (filter, replay) in std::mem::take(&mut session.replays) {
                let no_local =
                    session.subscriptions.get(filter).is_some_and(|subscribed| subscribed.no_local);
                // What was retained meanwhile in its place may be its own ([MQTT-3.8.3-3]).
                let is_owed = |message: &Message| !(no_local && message.from == *who);
                let missing = replay.owed.iter().find(|topic| self.retained.get(*topic).is_some_and(is_owed));
                let missing = missing.filter(|_| !replay.may_be_gone);
                assert_eq!(missing, None, "{who} was not sent what is retained, by {filter}");
            }
        }
        let sessions = &self.sessions;
        self.shared.retain(|shared| {
            assert!(!shared.due || is_over(&shared.message), "no member was sent this: {shared:?}");
            let somebody_has_it = shared.grants.iter().any(|(who, _)| !sessions[who].takes(Q1));
            assert!(shared.may_be_lost || somebody_has_it, "no member has this: {shared:?}");
            somebody_has_it
        });
    }
}
