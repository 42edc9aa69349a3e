//! How much rules let clients keep, counted anew each time, and what a full queue drops.
//!
//! What waits for a client is known but for this: what its share groups gave it, what is retained and goes before
//! something newer, and what may have been on its way when a connection or the broker ended. Where it depends on that
//! whether a message is dropped, either is right.

use super::*;
use crate::steps::{CLIENTS, drops_oldest};

/// What it takes to keep a message, beside what is sent of it.
const OVERHEAD: usize = 128;

/// What is kept of a message: its PUBLISH of 5.0 at QoS 0, which is short.
fn bytes(message: &Message) -> usize {
    let properties = if message.lasts.is_some() { 1 + 5 } else { 1 };
    OVERHEAD + 2 + (2 + message.topic.len()) + properties + message.payload.len()
}

fn is_beyond(is: usize, max: Option<u32>) -> bool {
    max.is_some_and(|max| is as u64 > u64::from(max))
}

fn is_same_identity(one: Who, other: Who) -> bool {
    CLIENTS[one].0 == CLIENTS[other].0
}

impl Model {
    /// Whether this client may have a session, if it has none.
    pub(crate) fn may_connect(&self, who: Who) -> bool {
        let own = self.sessions.keys().filter(|other| is_same_identity(**other, who)).count();
        self.sessions.contains_key(&who) || !is_beyond(own + 1, self.quota.sessions)
    }

    pub(crate) fn may_subscribe(&self, who: Who, filter: &str) -> bool {
        let own = &self.sessions[&who].subscriptions;
        own.contains_key(filter) || !is_beyond(own.len() + 1, self.quota.subscriptions)
    }

    /// Whether a message may be retained if it is to be: what there is stays, and may be replaced by what is no more.
    pub(crate) fn may_retain(&self, message: &Message) -> bool {
        if !message.retain || message.payload.is_empty() {
            return true;
        }
        let own = || self.retained.values().filter(|other| is_same_identity(other.from, message.from));
        let before: Vec<usize> = own().map(bytes).collect();
        let others = own().filter(|other| other.topic != message.topic).map(bytes);
        let after: Vec<usize> = others.chain([bytes(message)]).collect();
        let adds = |was: usize, is: usize, max| is > was && is_beyond(is, max);
        !adds(before.len(), after.len(), self.quota.retained_messages)
            && !adds(before.iter().sum(), after.iter().sum(), self.quota.retained_bytes)
    }

    /// A quota of just what a client has, or of so many more; of what it is to add, a short message of this topic.
    pub(crate) fn exact(&self, who: Who, topic: &'static str, more: u32) -> Quota {
        let retained = self.retained.values().filter(|other| is_same_identity(other.from, who));
        let sizes: Vec<usize> = retained.map(bytes).collect();
        let sessions = self.sessions.keys().filter(|other| is_same_identity(**other, who)).count();
        // Of none there is no quota.
        let count = |is: usize| u32::try_from(is).ok().map(|is| is + more).filter(|max| *max > 0);
        let added = if more == 0 { 0 } else { OVERHEAD + 2 + (2 + topic.len()) + 1 + 9 };
        Quota {
            sessions: count(sessions),
            subscriptions: count(self.sessions[&who].subscriptions.len()),
            retained_messages: count(sizes.len()),
            retained_bytes: u32::try_from(sizes.iter().sum::<usize>() + added).ok().filter(|max| *max > 0),
            ..Quota::default()
        }
    }

    fn is_full(&self, waiting: &[usize]) -> bool {
        is_beyond(waiting.len(), self.quota.queue_messages)
            || is_beyond(waiting.iter().sum(), self.quota.queue_bytes)
    }

    /// The places among what a client is owed of what may wait for it: all that it does not take at once.
    fn waiting(&self, who: Who) -> Vec<usize> {
        let session = &self.sessions[&who];
        let room = if self.is_slow { 0 } else { session.room() };
        let owed = session.owed.iter().enumerate();
        let kept = owed.filter(|(_, owed)| owed.qos != Q0 && !self.is_expired(&owed.message));
        kept.map(|(at, _)| at).skip(room).collect()
    }

    /// What may wait for a client besides what it alone is owed.
    fn beside(&self, who: Who) -> Vec<usize> {
        let grants = self.shared.iter().flat_map(|shared| &shared.grants);
        let shared = grants.filter(|(holder, owed)| *holder == who && owed.qos != Q0);
        let Session { replays, left, .. } = &self.sessions[&who];
        let retained = replays.values().flat_map(|replay| replay.waiting(&self.retained));
        let left = left.iter().map(|(_, owed)| owed);
        let others = shared.map(|(_, owed)| owed).chain(left).map(|owed| &owed.message);
        others.chain(retained).map(bytes).collect()
    }

    fn sizes(&self, who: Who, places: &[usize]) -> Vec<usize> {
        places.iter().map(|at| bytes(&self.sessions[&who].owed[*at].message)).collect()
    }

    /// Whether one more message can certainly wait for a client.
    pub(super) fn has_room_for(&self, who: Who, message: &Message) -> bool {
        let waiting = self.sizes(who, &self.waiting(who));
        !self.is_full(&[waiting, self.beside(who), vec![bytes(message)]].concat())
    }

    /// Has a message sent to a client, or lets it wait behind what waits already, of which a full queue drops the newest
    /// or the oldest.
    pub(super) fn owe(&mut self, who: Who, owed: Owed) {
        let (is_kept, fits) = (owed.qos != Q0, !self.is_full(&[bytes(&owed.message)]));
        self.sessions.get_mut(&who).unwrap().owed.push(owed);
        let waiting = self.waiting(who);
        let Some((newest, before)) = waiting.split_last().filter(|_| is_kept) else { return };
        // Of what is at one place these others are to stay.
        let droppable: Vec<(usize, &[usize])> = if drops_oldest(who) && fits {
            waiting.iter().enumerate().map(|(nth, at)| (*at, &waiting[nth + 1..])).collect()
        } else {
            vec![(*newest, before)]
        };
        let beside = self.beside(who);
        let (mut gone, mut doubtful) = (Vec::new(), Vec::new());
        for (at, others) in droppable {
            let owed = &self.sessions[&who].owed;
            let certain: Vec<usize> = others.iter().copied().filter(|at| owed[*at].waits()).collect();
            let own = self.sizes(who, &[at]);
            if owed[at].waits()
                && !self.is_slow
                && self.is_full(&[self.sizes(who, &certain), own.clone()].concat())
            {
                gone.push(at);
            } else if self.is_full(&[self.sizes(who, others), own, beside.clone()].concat()) {
                doubtful.push(at);
            }
        }
        self.tally.refused.queued += u32::try_from(gone.len()).unwrap();
        self.tally.refused.queued_perhaps += u32::try_from(doubtful.len()).unwrap();
        let is_any = !gone.is_empty() || !doubtful.is_empty();
        let session = self.sessions.get_mut(&who).unwrap();
        for at in doubtful {
            session.owed[at].may_be_gone = true;
        }
        gone.iter().rev().for_each(|at| drop(session.owed.remove(*at)));
        if is_any && drops_oldest(who) {
            session.replays.values_mut().for_each(|replay| replay.may_be_gone = true);
            let own = self.shared.iter_mut().filter(|shared| shared.is_held_by(who));
            own.for_each(|shared| shared.may_be_lost = true);
        }
    }
}
