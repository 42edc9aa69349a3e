//! How connections and sessions end, and what becomes of what they leave behind.

use crate::AuditKind;
use crate::broker::Broker;
use crate::effect::{CloseReason, Effect, Now};
use crate::message::Message;
use crate::publish::KEPT_FOR_THIS_RUN;
use crate::queue::Lifted;
use crate::session::{Link, Parked};
use crate::shared::{GroupId, Member};
use crate::slab::Key;
use crate::subscription::Grant;
use crate::timers::Due;
use midge_identity::SpiffeId;
use mqtt_proto::{Disconnect, ReasonCode};
use std::collections::BTreeMap;
use std::sync::Arc;

impl CloseReason {
    /// The code and text of the DISCONNECT that announces it; `None` when the client needs none.
    fn announcement(&self) -> Option<(ReasonCode, Option<&'static str>)> {
        Some(match self {
            Self::Refused(_) | Self::ClientDisconnected(_) | Self::Lost(_) => return None,
            Self::TakenOver => (ReasonCode::SessionTakenOver, None),
            Self::KeepAlive => (ReasonCode::KeepAliveTimeout, None),
            Self::Protocol(reason) => (*reason, None),
            Self::Slow => (ReasonCode::QuotaExceeded, Some("too many bytes unread")),
            Self::Denied | Self::NotAuthenticated => (ReasonCode::NotAuthorized, None),
            Self::SvidExpired => (ReasonCode::NotAuthorized, Some("SVID expired")),
            // Why is for the audit log: to the client it would tell how the box is administered.
            Self::Revoked(_) => (ReasonCode::NotAuthorized, Some("identity is no longer valid")),
            Self::ProofEnded(_) => {
                (ReasonCode::NotAuthorized, Some("proof of the identity is no longer valid"))
            }
            Self::Administrative => (ReasonCode::AdministrativeAction, None),
            Self::Drain => (ReasonCode::ServerShuttingDown, None),
        })
    }

    /// Whether the will is published: not when the client took it back ([MQTT-3.14.4-3]) or the session ended for want
    /// of a right, and not yet when the broker stops by plan.
    fn fires_will(&self) -> bool {
        match self {
            Self::ClientDisconnected(reason) => *reason != ReasonCode::Success,
            Self::Refused(_)
            | Self::Denied
            | Self::NotAuthenticated
            | Self::SvidExpired
            | Self::Revoked(_)
            | Self::ProofEnded(_)
            | Self::Drain => false,
            Self::Lost(_)
            | Self::TakenOver
            | Self::KeepAlive
            | Self::Protocol(_)
            | Self::Slow
            | Self::Administrative => true,
        }
    }

    /// Whether the client may have nothing more of what it was sent.
    fn withdraws(&self) -> bool {
        matches!(self, Self::SvidExpired | Self::Revoked(_) | Self::ProofEnded(_))
    }
}

/// What is known of a share group while messages of one session that leaves are given to its members. Room and readiness
/// only become less meanwhile.
#[derive(Default)]
struct Search {
    is_member: Option<bool>,
    /// Nobody has room for so many bytes.
    no_room_for: Option<usize>,
    /// Nobody is readier.
    readiest: u8,
}

impl Broker {
    pub(crate) fn take_disconnect(&mut self, key: Key, disconnect: &Disconnect, now: Now) {
        if let Some(secs) = disconnect.session_expiry_secs {
            let expiry = self.expiry_granted(secs);
            let Some(session) = self.sessions.get_mut(key) else { return };
            // [MQTT-3.14.2-2]: who asked for no session at CONNECT cannot get one now.
            if session.ends_with_connection() && secs != 0 {
                return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
            }
            session.expiry = expiry;
            self.subscriptions.groups.doubt();
        }
        let reason = CloseReason::ClientDisconnected(disconnect.reason);
        let Some(connection) = self.connection_mut(key) else { return };
        match connection.gate.last() {
            // What it sent before is still answered ([MQTT-3.1.4-5], [MQTT-4.3.2-4]).
            Some(ticket) => connection.ends_after = Some((ticket, reason)),
            None => self.cut(key, reason, now),
        }
    }

    /// Ends a connection from this side: DISCONNECT to a 5.0 client, close.
    pub(crate) fn cut(&mut self, key: Key, reason: CloseReason, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Link::Live(connection) = &mut session.link else { return };
        let conn = connection.id;
        if reason.withdraws() {
            self.out.effects.push_back(Effect::Discard { conn });
        }
        if let Some((code, text)) = reason.announcement() {
            connection.disconnect(code, text, &mut self.out);
        }
        self.out.effects.push_back(Effect::Close { conn, reason: reason.clone() });
        self.park(key, reason, now);
    }

    /// Takes the connection from a session; the session waits for the next one or ends.
    pub(crate) fn park(&mut self, key: Key, cause: CloseReason, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let subject = session.subject();
        self.out.ledger.note_time(now);
        let time = self.out.ledger.time(now);
        let ends = session.expiry.map(|expiry| (now.mono.saturating_add(expiry), time.after(expiry)));
        let parked = Link::Parked(Parked { since: now.wall, ends, will: None });
        session.barrier = session.connection().map_or(0, |connection| connection.gate.barrier);
        let listener = session.listener.as_ref().map(|listener| Arc::clone(&listener.name));
        let Link::Live(mut connection) = std::mem::replace(&mut session.link, parked) else { return };
        // Who said goodbye has left, whatever ended its connection before it was answered.
        let cause = match connection.ends_after.take() {
            Some((_, goodbye @ CloseReason::ClientDisconnected(_))) if !cause.withdraws() => goodbye,
            _ => cause,
        };
        session.inflight.uncount_all();
        self.conns.remove(&connection.id);
        self.attested.remove(&connection.id);
        self.latest = None;
        self.timers.clear(connection.keep_alive_at, Due::KeepAlive(key));
        self.timers.clear(connection.svid_at, Due::SvidExpiry(key));
        let (messages_in, messages_out) = (connection.messages_in, connection.messages_out);
        // Whose identity was revoked leaves none, by whatever its connection ends before its turn has come.
        let fires_will = cause.fires_will() && session.condemned.is_none();
        let (will, will_number) = (connection.will.filter(|_| fires_will), connection.will_number);
        // [MQTT-3.1.2-8]: a server that stops may leave a will to its next start. The record says what is to be done.
        let is_deferred = cause == CloseReason::Drain && session.condemned.is_none();
        let is_over = session.ends_with_connection();
        let (published, denied) = (connection.published, connection.denied);
        let proof = connection.peer.proof().clone();
        self.out.audit(
            subject,
            AuditKind::Disconnected { listener, proof, cause, messages_in, messages_out, published, denied },
            now,
        );
        match will {
            Some(will) => self.schedule_will(key, will, will_number, now),
            None if is_deferred => {}
            None => self.forget_will(will_number),
        }
        if is_over {
            return self.end_session(key, true, now);
        }
        if let Some((at, _)) = ends {
            self.timers.set(at, Due::SessionEnd(key));
        }
        // Whoever else is in the group can have what was not sent yet.
        let Some(session) = self.sessions.get_mut(key) else { return };
        let orphans = session.queue.lift(|waiting| waiting.group.is_some());
        let number = session.number;
        self.record_parked(key);
        self.reassign(key, number, orphans, now);
    }

    /// Ends a parked session and everything it holds. A will that still waits goes out, if it may
    /// ([MQTT-3.1.3-9]).
    pub(crate) fn end_session(&mut self, key: Key, will_fires: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Link::Parked(parked) = &mut session.link else { return };
        let will = parked.will.take();
        self.timers.clear(parked.ends.map(|(at, _)| at), Due::SessionEnd(key));
        let is_condemned = session.condemned.is_some();
        if let Some(late) = will {
            self.timers.clear(Some(late.at), Due::Will(key));
            if will_fires && !is_condemned {
                self.fire_will(key, &late.will, now);
            }
            self.forget_will(late.number);
        }
        self.audit(key, AuditKind::SessionEnded, now);
        let Some(mut session) = self.sessions.remove(key) else { return };
        if let Some(own) = self.by_identity.get_mut(&session.identity) {
            own.sessions.remove(&session.client_id);
            if own.sessions.is_empty() {
                self.by_identity.remove(&session.identity);
            }
        }
        for subscribed in session.subscriptions.values() {
            self.subscriptions.remove(key, subscribed);
        }
        // A QoS 2 message in flight goes to no one else ([MQTT-4.8.2-5]).
        let in_flight = session.inflight.extract_qos1(|waiting| waiting.group.is_some()).into_iter();
        let mut orphans: Vec<Lifted> = in_flight.map(|waiting| Lifted { behind: 0, waiting }).collect();
        orphans.extend(session.queue.lift(|waiting| waiting.group.is_some()));
        self.out.metrics.dropped.session_ended += session.queue.len() as u64;
        self.out.ledger.end_session(&session);
        self.reassign(key, session.number, orphans, now);
    }

    /// Gives messages of share groups to other members; those that nobody takes stay with their session, if
    /// it still exists, each in its place. Who is still a member itself gives them up only to one who is connected.
    pub(crate) fn reassign(&mut self, from: Key, number: u64, orphans: Vec<Lifted>, now: Now) {
        // At a planned stop the others leave as well.
        let stays = self.draining && self.sessions.get(from).is_some();
        let mut searches = BTreeMap::<GroupId, Search>::new();
        let mut left = Vec::new();
        for orphan in orphans {
            let waiting = &orphan.waiting;
            let Some(group) = waiting.group else { continue };
            if waiting.message.is_expired(now) {
                self.out.metrics.dropped.expired += 1;
                self.out.ledger.dequeue(number, waiting);
                continue;
            }
            let search = searches.entry(group).or_default();
            if !stays
                && self.authority.recheck_origin(&waiting.message).is_ok()
                && let Some(member) = self.next_member(group, from, &waiting.message, search, now)
            {
                self.give_share(group, &member, &waiting.message, now);
                self.out.ledger.dequeue(number, waiting);
                continue;
            }
            left.push(orphan);
        }
        match self.sessions.get_mut(from) {
            // They had room there a moment ago.
            Some(session) => session.queue.put_back(left),
            None => {
                self.out.metrics.dropped.no_member += left.len() as u64;
                left.iter().for_each(|orphan| self.out.ledger.dequeue(number, &orphan.waiting));
            }
        }
    }

    /// Chooses who gets a message of a session that leaves. There may be very many messages and members: that somebody
    /// has room is asked before that he may have it, and not again once nobody has.
    fn next_member(
        &mut self,
        group: GroupId,
        from: Key,
        message: &Message,
        search: &mut Search,
        now: Now,
    ) -> Option<Member> {
        if search.no_room_for.is_some_and(|bytes| bytes <= message.bytes()) {
            return None;
        }
        let groups = &mut self.subscriptions.groups;
        let count = groups.members(group).len();
        let turn = groups.next_turn(group, count);
        let is_member = *search
            .is_member
            .get_or_insert_with(|| groups.members(group).iter().any(|member| member.session == from));
        let (mut best, mut has_room): (Option<(u8, Member)>, bool) = (None, false);
        for at in (turn..count).chain(0..turn) {
            let member = self.subscriptions.groups.members(group).get(at)?.clone();
            let is_connected =
                self.sessions.get(member.session).is_some_and(|session| session.connection().is_some());
            if member.session == from || is_member && !is_connected {
                continue;
            }
            let Some(readiness) = self.readiness(&member, message, now) else { continue };
            has_room = true;
            if is_member && readiness == KEPT_FOR_THIS_RUN {
                continue;
            }
            if best.as_ref().is_some_and(|(least, _)| *least <= readiness) {
                continue;
            }
            let Some(member) = self.permitted(group, member, message) else { continue };
            // Its right may be to less than its subscription asks for.
            let Some(readiness) = self.readiness(&member, message, now) else { continue };
            best = Some((readiness, member));
            if readiness <= search.readiest {
                break;
            }
        }
        if !has_room {
            search.no_room_for = Some(message.bytes());
        }
        search.readiest = best.as_ref().map_or(search.readiest, |(readiness, _)| *readiness);
        best.map(|(_, member)| member)
    }

    /// Returns a member with what it may have of a message at most, if it may have it.
    fn permitted(&mut self, group: GroupId, member: Member, message: &Message) -> Option<Member> {
        let Self { authority, sessions, subscriptions, .. } = self;
        let name = subscriptions.groups.name(group).map_or("", |name| name);
        let rights = sessions.get_mut(member.session)?.rights(authority);
        let qos = rights.receive_shared(&message.publication().topic, name).ok()?.qos();
        Some(Member { grant: Grant { qos: member.grant.qos.min(qos), ..member.grant }, ..member })
    }

    /// Ends every connection for a planned stop; wills that are stored wait for the next start, and new connections
    /// are refused.
    pub fn handle_drain(&mut self, now: Now) {
        self.draining = true;
        self.out.ledger.note_time(now);
        self.end_candidates(ReasonCode::ServerUnavailable, |_| true, now);
        for key in self.sessions.keys() {
            self.cut(key, CloseReason::Drain, now);
        }
        self.out.tell_withheld(None);
    }

    /// Ends one session by an operator's wish; false when there is none.
    pub fn handle_kick(&mut self, identity: &SpiffeId, client_id: &str, now: Now) -> bool {
        let Some(key) = self.lookup(identity, client_id) else { return false };
        self.cut(key, CloseReason::Administrative, now);
        self.end_session(key, true, now);
        true
    }
}
