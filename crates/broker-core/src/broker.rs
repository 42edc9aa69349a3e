//! The broker's state and its entry points.

use crate::auth::Candidate;
use crate::authority::Authority;
use crate::connection::Connection;
use crate::decided::{Refuses, Source};
use crate::effect::CloseReason;
use crate::output::Output;
use crate::rates::Rates;
use crate::release::Release;
use crate::replay::LOOKS_AT_ONCE;
use crate::retained::Retained;
use crate::review::Backlog;
use crate::route::{Route, Subscriptions};
use crate::session::{Link, Session};
use crate::slab::{Key, Slab};
use crate::timers::Timers;
use crate::total::Total;
use crate::word_hasher::WordHasher;
use crate::{AuditKind, CloseCause, Config, ConnId, Effect, Metrics, Now, Origin, SessionSnapshot};
use midge_identity::{Proof, SpiffeId};
use midge_policy::Policy;
use mqtt_proto::{Packet, Publication, ReasonCode, TopicName, Version};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

/// One broker: all MQTT state of a process.
#[derive(Debug)]
pub struct Broker {
    pub(crate) config: Config,
    pub(crate) authority: Authority,
    pub(crate) sessions: Slab<Session>,
    /// Connections without CONNACK: their authentication exchange is under way.
    pub(crate) candidates: HashMap<ConnId, Candidate, BuildHasherDefault<WordHasher>>,
    pub(crate) conns: HashMap<ConnId, Key, BuildHasherDefault<WordHasher>>,
    /// Those of `conns` that stand by a registration entry.
    pub(crate) attested: BTreeSet<ConnId>,
    /// Whose packet came last: many come from one connection at once.
    pub(crate) latest: Option<(ConnId, Key)>,
    /// Client ids live in a namespace per identity: nobody can reach another's session by its id.
    pub(crate) by_identity: HashMap<Arc<SpiffeId>, Own>,
    /// Identities that have been here and were not revoked since: what they left behind is theirs still.
    pub(crate) known: HashSet<Arc<SpiffeId>>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) retained: Retained,
    pub(crate) timers: Timers,
    pub(crate) queued: Total,
    /// Of messages in flight to clients, and of QoS 2 ones that wait for PUBREL.
    pub(crate) exchanged: Total,
    /// What is remembered of routes for all publishers.
    pub(crate) remembered: Total,
    pub(crate) wills: Total,
    /// What subscriptions of all sessions take.
    pub(crate) subscribed: Total,
    pub(crate) backlog: Backlog,
    /// Retained messages that may be looked at before those in line have their next turn.
    pub(crate) looks: usize,
    pub(crate) rates: Rates,
    /// Set while a packet is taken that is one too many for now.
    pub(crate) paused_until: Option<Duration>,
    pub(crate) out: Output,
    pub(crate) assigned: u64,
    pub(crate) draining: bool,
}

/// What one identity has here.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// By client id.
    pub(crate) sessions: BTreeMap<Arc<str>, Key>,
    /// Of these.
    pub(crate) wills: Total,
    /// Of these.
    pub(crate) subscribed: Total,
}

impl Broker {
    /// Returns a broker without sessions.
    pub fn new(config: Config, policy: Arc<Policy>) -> Self {
        Self {
            out: Output::new(config.durability),
            config,
            authority: Authority::new(policy),
            sessions: Slab::new(),
            candidates: HashMap::default(),
            conns: HashMap::default(),
            attested: BTreeSet::new(),
            latest: None,
            by_identity: HashMap::new(),
            known: HashSet::new(),
            subscriptions: Subscriptions::new(),
            retained: Retained::default(),
            timers: Timers::default(),
            queued: Total::default(),
            exchanged: Total::default(),
            remembered: Total::default(),
            wills: Total::default(),
            subscribed: Total::default(),
            backlog: Backlog::default(),
            looks: LOOKS_AT_ONCE,
            rates: Rates::default(),
            paused_until: None,
            assigned: 0,
            draining: false,
        }
    }

    /// Takes one packet of a connected client; anything for an unknown connection is ignored.
    /// Returns until when (monotonic) the shell must leave what follows on this connection unread; it asks
    /// [`Self::handle_rest`] then, before anything else: of a packet with many filters a rest may be left.
    pub fn handle_packet(&mut self, conn: ConnId, packet: Packet, now: Now) -> Option<Duration> {
        self.out.metrics.packets_in += 1;
        self.out.ledger.begin();
        let Some(key) = self.key_of(conn) else {
            self.take_from_candidate(conn, &packet, now);
            return None;
        };
        self.latest = Some((conn, key));
        if !(self.is_undisturbed(key, now) || self.may_go_on(conn, key, now)) {
            return None;
        }
        self.dispatch(key, packet, now);
        self.cut_slow(key, now);
        self.paused_until.take()
    }

    /// Returns the session of a connection: at once that of the latest.
    #[inline]
    pub(crate) fn key_of(&self, conn: ConnId) -> Option<Key> {
        let latest = self.latest.filter(|(latest, _)| *latest == conn).map(|(_, key)| key);
        latest.or_else(|| self.conns.get(&conn).copied())
    }

    /// Notes that a client has sent something, and tells whether it has done nothing before that stands in the way, and
    /// nobody else has, as is so nearly always: all of it in one look.
    fn is_undisturbed(&mut self, key: Key, now: Now) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let is_undisturbed = session.is_undisturbed(now);
        if let Link::Live(connection) = &mut session.link
            && is_undisturbed
        {
            connection.last_seen = now.mono;
        }
        is_undisturbed
    }

    /// Deals with what stands before a packet, and tells whether the packet may be taken then.
    #[cold]
    fn may_go_on(&mut self, conn: ConnId, key: Key, now: Now) -> bool {
        if self.end_condemned(key, now) {
            return false;
        }
        let Some(connection) = self.connection_mut(key).filter(|c| !c.has_said_goodbye()) else {
            return false;
        };
        if connection.rest.is_some() {
            self.finish_rest(conn, now);
            self.out.ledger.begin();
        }
        let Some(connection) = self.connection_mut(key) else { return false };
        connection.last_seen = now.mono;
        let is_valid = connection.peer.expires().is_none_or(|at| at > now.wall);
        if !is_valid {
            self.cut(key, CloseReason::SvidExpired, now);
        }
        is_valid
    }

    pub(crate) fn cut_slow(&mut self, key: Key, now: Now) {
        let hard = self.config.unsent_bytes_hard;
        if self.connection_mut(key).is_some_and(|connection| connection.unsent > hard) {
            self.cut(key, CloseReason::Slow, now);
        }
    }

    fn dispatch(&mut self, key: Key, packet: Packet, now: Now) {
        match packet {
            Packet::Publish(publish) => self.take_publish(key, *publish, now),
            Packet::PubAck(ack) => self.take_puback(key, &ack, now),
            Packet::PubRec(ack) => self.take_pubrec(key, &ack, now),
            Packet::PubRel(ack) => self.take_pubrel(key, &ack, now),
            Packet::PubComp(ack) => self.take_pubcomp(key, &ack, now),
            Packet::Subscribe(subscribe) => self.take_subscribe(key, *subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.take_unsubscribe(key, *unsubscribe, now),
            Packet::PingReq => self.send(key, Packet::PingResp),
            Packet::Disconnect(disconnect) => self.take_disconnect(key, &disconnect, now),
            Packet::Auth(auth) => self.take_auth(key, *auth, now),
            // [MQTT-3.1.0-2], and packets that only a server sends.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now),
        }
    }

    /// Ends a connection whose bytes are not MQTT or too many: DISCONNECT with this code to 5.0 clients, then close.
    /// Before CONNACK the code is told in that, where it may carry it.
    pub fn handle_malformed(&mut self, conn: ConnId, reason: ReasonCode, now: Now) {
        match self.conns.get(&conn) {
            Some(&key) => self.cut(key, CloseReason::Protocol(reason), now),
            None if reason.is_allowed_in_connack() => self.end_candidate(conn, reason, now),
            // [MQTT-3.2.2-8], [MQTT-3.1.2-30]: it is about a packet that has no place there, whatever is wrong with it.
            None => self.end_candidate(conn, ReasonCode::ProtocolError, now),
        }
    }

    /// Ends a connection whose client has begun a packet and sends nothing more of it, for longer than it may; its
    /// session stays.
    pub fn handle_unfinished(&mut self, conn: ConnId, now: Now) {
        match self.conns.get(&conn) {
            Some(&key) => self.cut(key, CloseReason::KeepAlive, now),
            // [MQTT-3.2.2-8]: as if its exchange had run out of time.
            None => self.end_candidate(conn, ReasonCode::NotAuthorized, now),
        }
    }

    /// Ends a connection whose client has taken nothing of what it is sent for too long; its session stays.
    pub fn handle_stalled(&mut self, conn: ConnId, now: Now) {
        if let Some(&key) = self.conns.get(&conn) {
            self.cut(key, CloseReason::Slow, now);
        }
    }

    /// Says that so many bytes ([`Effect::bytes`]) were written; more than there were mean that nothing is left to write.
    pub fn handle_flushed(&mut self, conn: ConnId, bytes: usize, now: Now) {
        let Some(&key) = self.conns.get(&conn) else { return };
        let soft = self.config.unsent_bytes_soft;
        let Some(connection) = self.connection_mut(key) else { return };
        let was_full = connection.unsent > soft;
        connection.unsent = connection.unsent.saturating_sub(bytes);
        if was_full {
            self.pump(key, now);
        }
    }

    /// Says that nothing more comes from a client: its connection ends once it has been sent every answer it is owed,
    /// which wait for the store. Until when that may take is for the shell to say, with [`Self::handle_closed`].
    pub fn handle_input_ended(&mut self, conn: ConnId, cause: CloseCause, now: Now) {
        self.finish_rest(conn, now);
        let Some(&key) = self.conns.get(&conn) else { return self.leave_candidate(conn, cause) };
        let Some(connection) = self.connection_mut(key) else { return };
        let reason = CloseReason::Lost(cause);
        match connection.gate.last() {
            // It may have said goodbye before.
            Some(ticket) => drop(connection.ends_after.get_or_insert((ticket, reason))),
            None => self.cut(key, reason, now),
        }
    }

    /// Says that the network connection is gone.
    pub fn handle_closed(&mut self, conn: ConnId, cause: CloseCause, now: Now) {
        match self.conns.get(&conn) {
            Some(&key) => self.park(key, CloseReason::Lost(cause), now),
            None => drop(self.forget_candidate(conn)),
        }
    }

    /// Publishes a message of the broker itself (`$SYS`, `$identity`): no publisher's right is asked, receivers' are.
    pub fn handle_own_publication(&mut self, publication: Publication, now: Now) {
        let route = self.route(&publication.topic);
        let source = Source {
            publisher: None,
            origin: Arc::new(Origin::Broker),
            durability: None,
            refuses: Refuses::No,
        };
        self.distribute(publication, &source, &route, now.mono, now);
    }

    /// Returns the next effect, but no changes to store: those of several inputs are better stored as one batch,
    /// which [`Self::poll_effect`] returns.
    pub fn poll_immediate(&mut self) -> Option<Effect> {
        self.out.effects.pop_front()
    }

    /// Returns the next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.effects.pop_front().or_else(|| self.out.ledger.take())
    }

    /// Returns the monotonic time at which [`Self::handle_timeout`] is due; one that has come where there is more to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        [self.timers.first(), self.retained.next_expiry(), self.out.withheld.due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns every session, by identity and client id.
    pub fn sessions(&self) -> Vec<SessionSnapshot> {
        let mut snapshots: Vec<_> = self.sessions.iter().map(|(_, session)| session.snapshot()).collect();
        snapshots.sort_by(|a, b| (&a.identity, &a.client_id).cmp(&(&b.identity, &b.client_id)));
        snapshots
    }

    /// Returns the identities whose sessions or messages there are, or may be. Costs little beside
    /// [`Self::sessions`].
    pub fn identities(&self) -> Vec<Arc<SpiffeId>> {
        self.known.iter().cloned().collect()
    }

    /// Returns every connection.
    pub fn connections(&self) -> Vec<ConnId> {
        self.conns.keys().chain(self.candidates.keys()).copied().collect()
    }

    /// Returns every connection that stands by a registration entry, and those that do not stand yet.
    pub fn attested(&self) -> Vec<ConnId> {
        self.attested.iter().chain(self.candidates.keys()).copied().collect()
    }

    /// Returns the identity of a connection and what proved it.
    pub fn proof(&self, conn: ConnId) -> Option<(Arc<SpiffeId>, Proof)> {
        let Some(&key) = self.conns.get(&conn) else {
            let peer = &self.candidates.get(&conn)?.peer;
            return Some((Arc::new(peer.id().clone()), peer.proof().clone()));
        };
        let session = self.sessions.get(key)?;
        Some((Arc::clone(&session.identity), session.connection()?.peer.proof().clone()))
    }

    /// Returns counters and sizes.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            connections: self.conns.len() as u64,
            sessions: self.sessions.len() as u64,
            subscriptions: self.subscriptions.len() as u64,
            retained_messages: self.retained.len() as u64,
            retained_bytes: self.retained.bytes() as u64,
            waiting_messages: self.queued.count().saturating_add(self.exchanged.count()) as u64,
            waiting_bytes: [&self.queued, &self.exchanged, &self.wills]
                .iter()
                .map(|all| all.get() as u64)
                .sum(),
            ..self.out.metrics
        }
    }

    pub(crate) fn connection_mut(&mut self, key: Key) -> Option<&mut Connection> {
        self.sessions.get_mut(key)?.connection_mut()
    }

    pub(crate) fn send(&mut self, key: Key, packet: Packet) {
        if let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut) {
            connection.send(packet, &mut self.out);
        }
    }

    /// Sends the answer to the packet at hand, as soon as everything it promises is stored.
    pub(crate) fn answer(&mut self, key: Key, packet: Packet) {
        if let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut) {
            connection.answer(packet, &mut self.out);
        }
    }

    pub(crate) fn audit(&mut self, key: Key, kind: AuditKind, now: Now) {
        if let Some(session) = self.sessions.get(key) {
            self.out.audit(session.subject(), kind, now);
        }
    }

    pub(crate) fn is_v311(&self, key: Key) -> bool {
        self.sessions.get(key).is_some_and(|session| session.version == Version::V311)
    }

    /// Returns whom a topic reaches.
    pub(crate) fn route(&mut self, topic: &TopicName) -> Route {
        self.subscriptions.route(topic, &mut self.sessions, &mut self.authority)
    }

    /// Lends out what handing messages to a session needs.
    pub(crate) fn release(&mut self, now: Now) -> (&mut Slab<Session>, Release<'_>) {
        let Self { config, authority, retained, looks, out, sessions, subscriptions, .. } = self;
        let groups = &subscriptions.groups;
        (sessions, Release { config, authority, retained, looks, groups, out, now })
    }

    pub(crate) fn pump(&mut self, key: Key, now: Now) {
        let (sessions, mut release) = self.release(now);
        if sessions.get_mut(key).is_some_and(|session| session.goes_on_in_line(&mut release)) {
            self.backlog.line.push_back(key);
        }
    }
}
