//! What a broker owes its clients, written to be read: lists and rules, no queue, no window, no index.
//!
//! It does not say in which order a broker serves different clients, how it numbers packets, which member of a
//! group it chooses, when retained messages come among those of others, or what comes first of what is due for several
//! clients at once. It is told what a broker sent and says whether that was owed, and at the end of a step whether
//! something is still owed that could have been sent.

mod quotas;
mod replay;
mod sent;
mod session;

use crate::filters::{is_shared, plain};
use crate::oracle::matches;
use crate::seen::Seen;
use crate::tally::Tally;
use crate::world::*;
use midge_policy::Quota;
use mqtt_proto::{QoS, RetainHandling};
use replay::Replay;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use session::*;

pub(crate) type Who = usize;

/// A message that one of a group's members is to get.
#[derive(Debug)]
struct Shared {
    group: &'static str,
    message: Message,
    /// Who may have been given it, and how.
    grants: Vec<(Who, Owed)>,
    /// Somebody could take it at once.
    due: bool,
    /// Everybody who could keep it may have gone.
    may_be_lost: bool,
    /// Somebody was in the group at all times who is there after a crash too, and would get it.
    kept: bool,
}

impl Shared {
    fn is_held_by(&self, who: Who) -> bool {
        self.grants.iter().any(|(holder, _)| *holder == who)
    }
}

/// What a broker did by itself because its time had come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// It published the will of this client.
    Will(Who),
    /// It ended the session of this client.
    End(Who),
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) sessions: BTreeMap<Who, Session>,
    pub(crate) tally: Tally,
    /// Of every identity, and of every session.
    pub(crate) quota: Quota,
    /// What is sent at QoS 2 waits for the disk.
    pub(crate) is_slow: bool,
    retained: BTreeMap<&'static str, Message>,
    /// Payloads in the order in which they were sent to everyone they are for.
    distributed: Vec<String>,
    shared: Vec<Shared>,
    publishes: u32,
    pubrels: u32,
}

impl Model {
    fn is_expired(&self, message: &Message) -> bool {
        message.lasts.is_some_and(|secs| message.received + secs <= self.now)
    }

    /// Seconds a message says it has left.
    fn left(&self, message: &Message) -> Option<u64> {
        message.lasts.map(|secs| secs.saturating_sub(self.now - message.received))
    }

    /// Begins a connection; true when its session was there.
    pub(crate) fn connect(&mut self, who: Who, clean: bool, expiry: u64, conn: Conn) -> bool {
        let is_takeover = self.sessions.get(&who).is_some_and(|session| session.conn.is_some());
        self.lose(who, true);
        if clean {
            self.end(who);
        }
        let present = self.sessions.contains_key(&who);
        let session = self.sessions.entry(who).or_default();
        (session.conn, session.expiry, session.ends, session.will) = (Some(conn), expiry, None, None);
        session.replays.values_mut().for_each(|replay| replay.newest.clear());
        session.life.takeovers += u32::from(present && is_takeover);
        session.life.resumptions += u32::from(present && !is_takeover);
        for flight in &mut session.flight {
            (flight.here, flight.counted) = (false, false);
        }
        self.end_groups();
        present
    }

    /// Ends a connection, and the session with it if it does not outlive it.
    pub(crate) fn lose(&mut self, who: Who, with_will: bool) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(&who) else { return };
        let Some(conn) = session.conn.take() else { return };
        session.ends = Some(now + session.expiry);
        session.will = conn.will.filter(|_| with_will).map(|(message, delay)| (now + delay, message));
        if let Some((_, message)) = session.will.take_if(|(at, _)| *at <= now) {
            self.distribute(Message { received: now, ..message });
        }
        if self.sessions[&who].expiry == 0 {
            self.end(who);
        }
        self.may_pass_on(who);
    }

    /// What who is away was sent before a restart a broker may give to who is there (MQTT 5.0 §4.8.2), and have back from
    /// there as any other.
    fn may_pass_on(&mut self, who: Who) {
        for at in 0..self.shared.len() {
            let Shared { group, message, grants, .. } = &self.shared[at];
            let mut own = grants.iter().filter(|(holder, _)| *holder == who).peekable();
            let is_again = own.peek().is_some() && own.all(|(_, owed)| owed.sent.is_some());
            let mut members = self.members(group, message);
            if is_again && members.iter().any(|(member, _)| self.sessions[member].conn.is_some()) {
                members.retain(|(member, _)| *member == who);
                self.shared[at].grants.extend(members);
            }
        }
    }

    /// A connection ends before all that was to be sent on it has left: what it never saw may be sent as if again, and of
    /// QoS 2 to nobody else ([MQTT-4.8.2-5]).
    pub(crate) fn may_come_again(&mut self, who: Who) {
        let Some(session) = self.sessions.get_mut(&who) else { return };
        let filters = session.replays.keys();
        let left: Vec<_> = filters.flat_map(|filter| session.to_replay(filter, &self.retained)).collect();
        session.left.extend(left);
        let own = session.owed.iter_mut().chain(session.left.iter_mut().map(|(_, owed)| owed));
        own.for_each(|owed| (owed.may_be_again, owed.unseen) = (true, true));
        for shared in self.shared.iter_mut().filter(|shared| shared.is_held_by(who)) {
            shared.due = false;
            for (_, owed) in shared.grants.iter_mut().filter(|(holder, _)| *holder == who) {
                (owed.may_be_again, owed.unseen) = (true, true);
                shared.may_be_lost |= owed.qos == Q2;
            }
        }
    }

    /// Lets time pass, a second at most, in which the broker did what was due in this order.
    pub(crate) fn pass(&mut self, secs: u64, turns: &[Turn]) {
        self.now += secs;
        let now = self.now;
        self.retained.retain(|_, message| message.lasts.is_none_or(|secs| message.received + secs > now));
        self.take_turns(turns);
    }

    /// Does what the broker did: nothing before its time, and everything by then. A will goes out after its delay
    /// or at the end of its session, whichever comes first ([MQTT-3.1.3-9]).
    fn take_turns(&mut self, turns: &[Turn]) {
        let now = self.now;
        for turn in turns {
            let (Turn::Will(who) | Turn::End(who)) = *turn;
            let session = self.sessions.get_mut(&who).unwrap_or_else(|| panic!("{turn:?} of nobody"));
            let is_over = session.ends.is_some_and(|at| at <= now);
            if let Turn::End(_) = turn {
                assert!(is_over, "{turn:?} before its time");
                let sent = session.will.as_ref().is_none_or(|(_, last)| last.lasts == Some(0));
                assert!(sent, "{turn:?} without its will");
                self.end(who);
            } else {
                let last = session.will.take_if(|(at, _)| is_over || *at <= now);
                let (_, last) = last.unwrap_or_else(|| panic!("{turn:?} is not due"));
                self.distribute(Message { received: now, ..last });
            }
        }
        for (who, session) in &mut self.sessions {
            assert!(session.ends.is_none_or(|at| at > now), "the session of {who} has not ended");
            // One that expires at once is sent to nobody.
            drop(session.will.take_if(|(at, last)| *at <= now && last.lasts == Some(0)));
            assert!(session.will.as_ref().is_none_or(|(at, _)| *at > now), "the will of {who} was not sent");
        }
    }

    /// The broker is killed and starts again, and does what is due in this order: sessions that outlive their
    /// connection are as they were, what was under way at QoS 1 may come again, and the wills of all who were
    /// connected wait from now.
    pub(crate) fn restart(&mut self, down_secs: u64, turns: &[Turn]) {
        self.end_groups();
        self.now += down_secs;
        let now = self.now;
        let mut left = Vec::new();
        for who in self.sessions.keys().copied().collect::<Vec<_>>() {
            let session = self.sessions.get_mut(&who).unwrap();
            let conn = session.conn.take();
            let was_connected = conn.is_some();
            let is_gone = was_connected && session.expiry == 0;
            if let Some(conn) = conn {
                session.ends = Some(now + session.expiry);
                session.will = conn.will.map(|(message, delay)| (now + delay, message));
            }
            // One that is to end with its connection may come back to end: to send its will, or as it was stored
            // for what it once was.
            let is_back = !is_gone || turns.iter().any(|turn| matches!(turn, Turn::End(of) if *of == who));
            if is_back {
                self.forget_what_was_sent(who, was_connected);
            } else {
                let flight = self.sessions.remove(&who).unwrap().flight.into_iter();
                left.extend(flight.filter(|flight| flight.owed.qos == Q1 && flight.group.is_some()));
            }
            for shared in self.shared.iter_mut().filter(|shared| is_gone && shared.is_held_by(who)) {
                // One of QoS 2 may have been on its way, and goes to nobody else then ([MQTT-4.8.2-5]).
                let mut own = shared.grants.iter().filter(|(holder, _)| *holder == who);
                shared.may_be_lost |= !shared.kept || own.any(|(_, owed)| owed.qos == Q2);
                shared.grants.retain(|(holder, _)| is_back || *holder != who);
            }
        }
        // What was on its way to who is gone goes to who is there.
        for Flight { owed: Owed { message, .. }, group, group_ended, kept, .. } in left {
            let group = group.unwrap();
            let grants = self.members(group, &message);
            let may_be_lost = !kept || group_ended;
            self.shared.push(Shared { group, message, grants, due: false, may_be_lost, kept });
        }
        self.end_groups();
        for (_, owed) in self.shared.iter_mut().flat_map(|shared| &mut shared.grants) {
            owed.may_be_again = true;
        }
        self.pass(0, turns);
    }

    fn forget_what_was_sent(&mut self, who: Who, was_connected: bool) {
        let session = self.sessions.get_mut(&who).unwrap();
        session.life.restarts += 1;
        for replay in session.replays.values_mut().filter(|_| was_connected) {
            let messages = self.retained.values().chain(&replay.replaced);
            replay.may_be_again = messages.map(|message| message.payload.clone()).collect();
        }
        let (mut again, flight): (Vec<Flight>, Vec<Flight>) =
            std::mem::take(&mut session.flight).into_iter().partition(|flight| flight.owed.qos == Q1);
        session.flight = flight;
        again.iter_mut().for_each(|flight| flight.owed.sent = Some((flight.pid, flight.first)));
        let (direct, shared): (Vec<Flight>, Vec<Flight>) =
            again.into_iter().partition(|flight| flight.group.is_none());
        session.owed.splice(0..0, direct.into_iter().map(|flight| flight.owed));
        let waiting = session.owed.iter_mut().chain(session.left.iter_mut().map(|(_, owed)| owed));
        waiting.for_each(|owed| owed.may_be_again = true);
        for Flight { owed, group, group_ended, kept, .. } in shared {
            let (group, message) = (group.unwrap(), owed.message.clone());
            let mut grants = self.members(group, &message);
            grants.retain(|(member, _)| *member != who);
            grants.push((who, owed));
            self.shared.push(Shared { group, message, grants, due: false, may_be_lost: group_ended, kept });
        }
    }

    /// With its last member a share group ends, and what it was to get with it (MQTT 5.0 §4.8.2).
    fn end_groups(&mut self) {
        let sessions = self.sessions.values();
        let groups: BTreeSet<_> =
            sessions.flat_map(|session| session.subscriptions.keys()).copied().collect();
        let has_ended = |group: &str| !groups.contains(group);
        for flight in self.sessions.values_mut().flat_map(|session| &mut session.flight) {
            flight.group_ended |= flight.group.is_some_and(has_ended);
        }
        for shared in &mut self.shared {
            shared.may_be_lost |= has_ended(shared.group);
        }
        let is_kept = |session: &&Session| session.expiry > 0;
        let kept: BTreeSet<_> = self.sessions.values().filter(is_kept).flat_map(Session::groups).collect();
        for flight in self.sessions.values_mut().flat_map(|session| &mut session.flight) {
            flight.kept &= flight.group.is_some_and(|group| kept.contains(group));
        }
        for shared in &mut self.shared {
            shared.kept &= kept.contains(shared.group);
        }
    }

    /// Ends a session: its will goes out, and what it did not acknowledge of a group's goes to the group.
    fn end(&mut self, who: Who) {
        let Some(session) = self.sessions.get_mut(&who) else { return };
        if let Some((_, message)) = session.will.take() {
            self.distribute(Message { received: self.now, ..message });
        }
        let session = self.sessions.remove(&who).unwrap();
        self.end_groups();
        let unacknowledged = session.flight.into_iter().filter(|flight| flight.owed.qos == Q1);
        for flight in unacknowledged {
            let Some(group) = flight.group else { continue };
            let before = self.shared.len();
            self.share(group, flight.owed.message, true);
            self.shared[before..].iter_mut().for_each(|shared| shared.may_be_lost |= flight.group_ended);
        }
        for at in 0..self.shared.len() {
            if self.shared[at].is_held_by(who) {
                let Shared { group, message, .. } = &self.shared[at];
                let takes = |(other, owed): &(Who, Owed)| match owed.qos {
                    Q0 => self.sessions[other].conn.is_some(),
                    Q1 | Q2 => self.has_room_for(*other, message),
                };
                let lost = !self.members(group, message).iter().any(takes);
                self.shared[at].may_be_lost |= lost;
                self.shared[at].grants.retain(|(holder, _)| *holder != who);
            }
        }
    }

    /// Takes a QoS 2 message; the same identifier again is the same message.
    pub(crate) fn hold(&mut self, who: Who, pid: u16, message: Message) {
        let session = self.sessions.get_mut(&who).unwrap();
        session.held.entry(pid).or_insert((message, session.life));
    }

    pub(crate) fn is_held(&self, who: Who, pid: u16) -> bool {
        self.sessions[&who].held.contains_key(&pid)
    }

    /// Releases one; false when there is none.
    pub(crate) fn release(&mut self, who: Who, pid: u16) -> bool {
        let session = self.sessions.get_mut(&who).unwrap();
        let Some((message, begun)) = session.held.remove(&pid) else { return false };
        self.tally.publish_to_pubrel.note(begun, session.life);
        self.distribute(message);
        true
    }

    /// How many messages wait for PUBREL.
    pub(crate) fn held(&self) -> usize {
        self.sessions.values().map(|session| session.held.len()).sum()
    }

    pub(crate) fn retained_topics(&self) -> BTreeSet<String> {
        self.retained.keys().map(|topic| (*topic).to_owned()).collect()
    }

    /// Whether anybody subscribes to it.
    pub(crate) fn is_wanted(&self, topic: &str) -> bool {
        let mut filters = self.sessions.values().flat_map(|session| session.subscriptions.keys());
        filters.any(|filter| matches(plain(filter), topic))
    }

    /// Sends a message on to all who subscribe to it.
    pub(crate) fn distribute(&mut self, message: Message) {
        self.distributed.push(message.payload.clone());
        let fits = self.may_retain(&message);
        if message.retain {
            let replaced = self.retained.remove(message.topic);
            for replay in self.sessions.values_mut().flat_map(|session| session.replays.values_mut()) {
                replay.replaced.extend(replaced.clone().filter(|old| replay.may_owe(old.topic)));
            }
        }
        if self.is_expired(&message) {
            return;
        }
        if message.retain {
            if !message.payload.is_empty() && fits {
                self.retained.insert(message.topic, message.clone());
            }
            // Its own it may be passed over at once ([MQTT-3.8.3-3]); what takes its place then it is sent as any other.
            if let Some(Session { subscriptions, replays, .. }) = self.sessions.get_mut(&message.from) {
                let without_own = |filter: &str| subscriptions.get(filter).is_some_and(|s| s.no_local);
                for (_, replay) in replays.iter_mut().filter(|(filter, _)| without_own(filter)) {
                    if replay.owed.contains(message.topic) {
                        replay.pass_over(message.topic);
                    }
                }
            }
        }
        let is_full = |who: &Who| !self.has_room_for(*who, &message);
        let full: BTreeSet<Who> = self.sessions.keys().copied().filter(is_full).collect();
        let mut receivers = Vec::new();
        for (who, session) in &mut self.sessions {
            let wanted: Vec<&Subscribed> = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| !is_shared(filter) && matches(filter, message.topic))
                .map(|(_, subscribed)| subscribed)
                .filter(|subscribed| !(subscribed.no_local && *who == message.from))
                .collect();
            let Some(granted) = wanted.iter().map(|subscribed| subscribed.qos).max() else { continue };
            let qos = granted.min(message.qos);
            let retain = message.retain && wanted.iter().any(|subscribed| subscribed.retain_as_published);
            let mut ids: Vec<u32> = wanted.iter().filter_map(|subscribed| subscribed.id).collect();
            ids.sort_unstable();
            let is_away = qos == Q0 && session.conn.is_none();
            if message.retain {
                // It may take the place of what is owed, unless it is dropped: what is retained by then may come.
                let may_come = is_away || (qos != Q0 && full.contains(who));
                let replays = session.replays.iter_mut().filter(|(filter, _)| matches(filter, message.topic));
                for (_, replay) in replays {
                    if may_come {
                        replay.pass_over(message.topic);
                    } else {
                        replay.pass(message.topic);
                    }
                }
            }
            if !is_away {
                receivers.push((*who, Owed::new(message.clone(), qos, retain, ids)));
            }
        }
        for (who, owed) in receivers {
            self.owe(who, owed);
        }
        let groups: BTreeSet<&'static str> =
            self.sessions.values().flat_map(|s| s.subscriptions.keys()).copied().collect();
        for group in
            groups.into_iter().filter(|group| is_shared(group) && matches(plain(group), message.topic))
        {
            self.share(group, message.clone(), false);
        }
    }

    /// Who is in a group, and how each would get a message.
    fn members(&self, group: &'static str, message: &Message) -> Vec<(Who, Owed)> {
        let members =
            self.sessions.iter().filter_map(|(who, session)| Some((who, session.subscriptions.get(group)?)));
        members
            .map(|(who, subscribed)| {
                let qos = subscribed.qos.min(message.qos);
                let retain = message.retain && subscribed.retain_as_published;
                let (message, ids) = (message.clone(), subscribed.id.into_iter().collect());
                (*who, Owed::new(message, qos, retain, ids))
            })
            .collect()
    }

    fn share(&mut self, group: &'static str, message: Message, again: bool) {
        if self.is_expired(&message) {
            return;
        }
        let grants = self.members(group, &message);
        // What it takes at once even if everything else that it is owed came first.
        let takes = |who: &Who, qos: QoS| {
            let session = &self.sessions[who];
            let others =
                self.shared.iter().filter(|other| other.grants.iter().any(|(holder, _)| holder == who));
            let before = session.flight.iter().filter(|flight| flight.counted || !flight.here).count()
                + session.owed.len()
                + others.count();
            session.conn.as_ref().is_some_and(|conn| qos == Q0 || before < conn.window)
        };
        let due = grants.iter().any(|(who, owed)| takes(who, owed.qos));
        let mut members = grants.iter().filter(|(_, owed)| owed.qos != Q0).map(|(who, _)| *who);
        if due || members.clone().next().is_some() {
            let may_be_lost = !due && !members.clone().any(|who| self.has_room_for(who, &message));
            let kept = members.any(|who| self.sessions[&who].expiry > 0);
            let due = due && !again;
            self.shared.push(Shared { group, message, grants, due, may_be_lost, kept });
        }
    }

    /// Tells whether this subscription leaves it clear by which one a message came: equal copies would not.
    pub(crate) fn is_clear(&self, who: Who, filter: &str) -> bool {
        let mut others = self.sessions[&who].subscriptions.keys().filter(|other| **other != filter);
        !others.any(|other| is_shared(other) || is_shared(filter))
    }

    /// Subscribes, or replaces the subscription.
    pub(crate) fn subscribe(
        &mut self,
        who: Who,
        filter: &'static str,
        subscribed: Subscribed,
        handling: RetainHandling,
    ) {
        let matching = self.retained.values().filter(|message| matches(plain(filter), message.topic));
        let owed = matching.map(|message| message.topic).collect();
        let no_local = subscribed.no_local;
        self.leave(who, filter);
        let begun = self.distributed.len();
        let session = self.sessions.get_mut(&who).unwrap();
        let existed = session.subscriptions.insert(filter, subscribed).is_some();
        let wanted = match handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        if wanted && !is_shared(filter) {
            let left = session.left.iter_mut().filter(|(of, _)| *of == Some(filter));
            left.for_each(|(of, _)| *of = None);
            session.replays.insert(filter, Replay { owed, begun, ..Replay::default() });
        }
        if let Some(replay) = session.replays.get_mut(filter).filter(|_| no_local) {
            let own =
                self.retained.values().filter(|message| message.from == who).map(|message| message.topic);
            let own: Vec<_> = own.filter(|topic| replay.owed.contains(topic)).collect();
            own.into_iter().for_each(|topic| replay.pass_over(topic));
        }
        for at in 0..self.shared.len() {
            if self.shared[at].group == filter {
                let joined = self.members(filter, &self.shared[at].message).into_iter();
                let joined: Vec<_> = joined.filter(|(member, _)| *member == who).collect();
                self.shared[at].grants.extend(joined);
            }
        }
    }

    /// A subscription goes, and what it was sent of the retained messages may wait still.
    fn leave(&mut self, who: Who, filter: &'static str) {
        let session = self.sessions.get_mut(&who).unwrap();
        let left = session.to_replay(filter, &self.retained);
        session.left.extend(left);
    }

    /// Unsubscribes; false when there was nothing.
    pub(crate) fn unsubscribe(&mut self, who: Who, filter: &'static str) -> bool {
        self.leave(who, filter);
        let session = self.sessions.get_mut(&who).unwrap();
        session.replays.remove(filter);
        let existed = session.subscriptions.remove(filter).is_some();
        self.end_groups();
        existed
    }

    /// The client received a QoS 2 message: from here on it is due PUBREL.
    pub(crate) fn received(&mut self, who: Who, pid: u16) {
        let session = self.sessions.get_mut(&who).unwrap();
        let flight = session.flight.iter_mut().find(|flight| flight.pid == pid).unwrap();
        self.tally.publish_to_pubrec.note(flight.begun, session.life);
        self.pubrels += 1;
        (flight.released, flight.begun) = (Some(self.pubrels), session.life);
    }

    /// The client acknowledged this flight to its end.
    pub(crate) fn finish(&mut self, who: Who, pid: u16) {
        let session = self.sessions.get_mut(&who).unwrap();
        let at = session.flight.iter().position(|flight| flight.pid == pid).unwrap();
        let flight = session.flight.remove(at);
        if flight.released.is_some() {
            self.tally.pubrec_to_pubcomp.note(flight.begun, session.life);
        }
    }

    /// A broker sent PUBREL by itself: something it had sent it for before.
    pub(crate) fn pubrel(&mut self, who: Who, pid: u16) {
        let flights = &mut self.sessions.get_mut(&who).unwrap().flight;
        let mut due = flights.iter().filter(|flight| flight.released.is_some() && !flight.here);
        // In the order of PUBREC ([MQTT-4.6.0-4]), which is that of PUBLISH where the client keeps to it ([MQTT-4.6.0-3]).
        let place =
            |flight: &Flight| (flight.released, flights.iter().position(|other| other.pid == flight.pid));
        let own = due.clone().find(|flight| flight.pid == pid).map(place);
        let (released, position) = own.unwrap_or_else(|| panic!("PUBREL {pid} is not due"));
        let earlier = due.find(|flight| place(flight).0 < released && place(flight).1 < position);
        assert!(earlier.is_none(), "PUBREL {pid} to {who} comes before that of {earlier:?}");
        let flight = flights.iter_mut().find(|flight| flight.pid == pid);
        flight.unwrap().here = true;
    }
}
