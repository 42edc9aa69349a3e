//! CONNECT: who is let in, which session they get, and what the CONNACK says.

use crate::AuditKind;
use crate::alias::{AliasesIn, AliasesOut};
use crate::auth::Exchange;
use crate::authority::{Listener, Newcomer, facts};
use crate::broker::Broker;
use crate::connection::Connection;
use crate::decided::PublishCache;
use crate::effect::{CloseReason, ConnId, Effect, Now};
use crate::gate::Gate;
use crate::output::Subject;
use crate::session::{Link, Session};
use crate::slab::Key;
use crate::tally::RuleTally;
use crate::timers::Due;
use crate::will::KeptWill;
use crate::witness::Asker;
use midge_identity::{Proof, SpiffeId, VerifiedPeer};
use midge_policy::{Action, Context, Denial, Quantity, Question, SubscribeMode};
use mqtt_proto::{ConnAck, Connect, Info, Packet, QoS, ReasonCode, SharedFilter, Version, encoded_len};
use std::sync::Arc;
use std::time::Duration;

/// How long the wall clock is trusted to run with the monotonic one: a step forward cuts an expired
/// SVID at most this late.
const WALL_RECHECK: Duration = Duration::from_secs(60);

/// Length of an assigned client id.
const ASSIGNED_BYTES: usize = 37;

/// Session Expiry Interval that never ends.
const NEVER: u32 = u32::MAX;

/// Why a CONNECT is refused.
pub(crate) struct Refusal {
    reason: ReasonCode,
    text: &'static str,
    denial: Option<Box<Denial>>,
}

impl Refusal {
    pub(crate) fn new(reason: ReasonCode, text: &'static str) -> Self {
        Self { reason, text, denial: None }
    }
}

impl Broker {
    /// Returns what is to be worked out before an identity connects, outside of what others wait for; nothing where that is
    /// known.
    pub fn newcomer(&self, id: &SpiffeId) -> Option<Newcomer> {
        let known = self.known.get(id);
        self.authority.newcomer(&known.map_or_else(|| Arc::new(id.clone()), Arc::clone))
    }

    /// Takes what was worked out for an identity whose CONNECT comes next. It grants nothing: where the policy has
    /// changed meanwhile, it is left and worked out again.
    pub fn handle_newcomer(&mut self, newcomer: Newcomer) {
        self.authority.take_newcomer(newcomer);
    }

    /// Answers a CONNECT of a peer whose identity is proven and registered. A refused one is answered and
    /// closed, and changes nothing else.
    pub fn handle_connect(
        &mut self,
        conn: ConnId,
        listener: &Arc<Listener>,
        peer: VerifiedPeer,
        mut connect: Connect,
        now: Now,
    ) {
        if let Some(&key) = self.conns.get(&conn) {
            // [MQTT-3.1.0-2].
            return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
        }
        self.out.metrics.packets_in += 1;
        let data = connect.auth_data.take();
        self.out.ledger.begin();
        let way = (conn, listener);
        match self.admit(listener, &peer, &connect, now) {
            Ok(_) if connect.auth_method.is_some() => self.begin_exchange(way, peer, (connect, data), now),
            Ok(identity) => self.open(way, identity, peer, connect, now),
            Err(refusal) => self.refuse(way, &peer, &connect, refusal, now),
        }
    }

    /// Lets in who has ended its authentication exchange, if that is still to be so. The data of `connect` are
    /// the last ones for the client.
    pub(crate) fn let_in(
        &mut self,
        way: (ConnId, &Arc<Listener>),
        peer: VerifiedPeer,
        connect: Connect,
        now: Now,
    ) {
        match self.admit(way.1, &peer, &connect, now) {
            Ok(identity) => self.open(way, identity, peer, connect, now),
            Err(refusal) => self.refuse(way, &peer, &connect, refusal, now),
        }
    }

    fn admit(
        &mut self,
        listener: &Listener,
        peer: &VerifiedPeer,
        connect: &Connect,
        now: Now,
    ) -> Result<Arc<SpiffeId>, Refusal> {
        if self.draining {
            return Err(Refusal::new(ReasonCode::ServerUnavailable, "server is stopping"));
        }
        if peer.expires().is_some_and(|at| at <= now.wall) {
            return Err(Refusal::new(ReasonCode::NotAuthorized, "SVID expired"));
        }
        let known = |method: &Arc<str>| self.config.auth_methods.contains(method);
        if !connect.auth_method.as_ref().is_none_or(known) {
            return Err(Refusal::new(ReasonCode::BadAuthenticationMethod, "no such authentication method"));
        }
        self.check_client_id(connect)?;
        // [MQTT-3.1.2-24]: who cannot even take the CONNACK could not be told anything.
        let assigned = if connect.client_id.is_empty() { ASSIGNED_BYTES + 3 } else { 0 };
        if packet_size_max(connect) < connack_bytes(&self.announcement(connect)) + assigned {
            return Err(Refusal::new(ReasonCode::PacketTooLarge, "maximum packet size is too small"));
        }
        let known = self.known.get(peer.id());
        let identity = known.map_or_else(|| Arc::new(peer.id().clone()), Arc::clone);
        self.check_room(&identity, listener, connect)?;
        if let Some(will) = &connect.will {
            let context = Context { client_id: Some(&connect.client_id), listener: Some(&listener.name) };
            let rights = self.authority.rights(&identity, context);
            let (topic, facts) = (&will.message.topic, facts(&will.message));
            let decided = rights.will(topic, facts);
            let asker = Asker { identity: &identity, context, rights: &rights };
            self.authority.tell_of(&asker, &Question::Will { topic, facts }, decided.is_ok());
            decided.map_err(|denial| Refusal {
                reason: ReasonCode::NotAuthorized,
                text: "not authorized to leave this will",
                denial: Some(Box::new(denial)),
            })?;
            if !self.has_room_for_will(&identity, &connect.client_id, will) {
                return Err(Refusal::new(ReasonCode::QuotaExceeded, "no room for another will"));
            }
        }
        Ok(identity)
    }

    fn check_client_id(&self, connect: &Connect) -> Result<(), Refusal> {
        // [MQTT-3.1.3-8] of 3.1.1: without a client id there is nothing to keep a session under.
        let nameless =
            connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start;
        if nameless || connect.client_id.len() > self.config.client_id_bytes_max {
            return Err(Refusal::new(
                ReasonCode::ClientIdentifierNotValid,
                "client identifier is empty or too long",
            ));
        }
        Ok(())
    }

    fn check_room(
        &mut self,
        identity: &Arc<SpiffeId>,
        listener: &Listener,
        connect: &Connect,
    ) -> Result<(), Refusal> {
        let own = self.by_identity.get(identity);
        let existing =
            own.and_then(|own| own.sessions.get(&connect.client_id)).and_then(|key| self.sessions.get(*key));
        let takes_connection = existing.is_none_or(|session| session.connection().is_none());
        let connections = self.conns.len() + self.candidates.len();
        if takes_connection && connections >= self.config.connections_max {
            return Err(Refusal::new(ReasonCode::QuotaExceeded, "too many connections"));
        }
        if existing.is_some() {
            return Ok(());
        }
        let own_count = own.map_or(0, |own| own.sessions.len());
        let context = Context { client_id: Some(&connect.client_id), listener: Some(&listener.name) };
        let rights = self.authority.rights(identity, context);
        let full = Refusal::new(ReasonCode::QuotaExceeded, "too many sessions");
        if own_count >= rights.quota(Quantity::Sessions) {
            let subject = midge_policy::Subject::Client(Arc::clone(&connect.client_id));
            let denial = rights.over_quota(Quantity::Sessions, Action::Connect, subject);
            return Err(Refusal { denial: Some(Box::new(denial)), ..full });
        }
        if self.sessions.len() >= self.config.sessions_max
            || own_count >= self.config.sessions_per_identity_max
        {
            return Err(full);
        }
        let ledger = &self.out.ledger;
        let is_kept = self.expiry_of(connect) != Some(Duration::ZERO);
        if is_kept && ledger.is_on() && ledger.trouble.refuses() {
            return Err(Refusal::new(
                ReasonCode::QuotaExceeded,
                "the broker cannot store sessions at present",
            ));
        }
        Ok(())
    }

    pub(crate) fn refuse(
        &mut self,
        (conn, listener): (ConnId, &Arc<Listener>),
        peer: &VerifiedPeer,
        connect: &Connect,
        refusal: Refusal,
        now: Now,
    ) {
        let Refusal { reason, text, denial } = refusal;
        let mut ack = ConnAck::new(reason);
        if connect.version == Version::V5 && connect.request_problem_info {
            ack.info = Info { reason_string: Some(text.into()), user_properties: Vec::new() };
        }
        // [MQTT-3.2.2-19].
        if connack_bytes(&ack) > packet_size_max(connect) {
            ack.info = Info::default();
        }
        // [MQTT-3.1.2-24]: five bytes may be too many already.
        if connack_bytes(&ack) <= packet_size_max(connect) {
            self.out.effects.push_back(Effect::Send { conn, packet: Packet::ConnAck(Box::new(ack)) });
        }
        self.out.effects.push_back(Effect::Close { conn, reason: CloseReason::Refused(reason) });
        let (identity, client_id) = (Arc::new(peer.id().clone()), Arc::clone(&connect.client_id));
        let subject = Subject { identity, client_id, conn: Some(conn) };
        let (listener, denial) = (Arc::clone(&listener.name), denial.map(|denial| *denial));
        self.out.audit(subject, AuditKind::ConnectRefused { listener, reason, denial }, now);
    }

    fn open(
        &mut self,
        (conn, listener): (ConnId, &Arc<Listener>),
        identity: Arc<SpiffeId>,
        peer: VerifiedPeer,
        mut connect: Connect,
        now: Now,
    ) {
        let mut ack = self.announcement(&connect);
        if connect.client_id.is_empty() {
            connect.client_id = self.assign_client_id(&identity);
            ack.assigned_client_id = (connect.version == Version::V5).then(|| Arc::clone(&connect.client_id));
        }
        // A hint must not be what makes the CONNACK too large ([MQTT-3.1.2-24]).
        ack.response_info = self.response_info(&identity, listener, &connect);
        if connack_bytes(&ack) > packet_size_max(&connect) {
            ack.response_info = None;
        }
        let earlier = self.take_over(&identity, &connect, now);
        ack.session_present = earlier.is_some();
        let proof = peer.proof().clone();
        let will = connect.will.take().map(|will| self.keep_will(&identity, will));
        let connection = self.new_connection(conn, peer, &mut connect, will, now);
        let key = match earlier {
            Some(key) => key,
            None => self.create(identity, listener, &connect, now),
        };
        self.enter_by(key, listener, now);
        self.attach(key, connection, &connect, now);
        self.answer_connect(key, ack);
        self.out.metrics.connects += 1;
        let (listener, version, session_present) =
            (Arc::clone(&listener.name), connect.version, earlier.is_some());
        self.audit(key, AuditKind::Connected { listener, version, proof, session_present }, now);
        self.pump(key, now);
    }

    /// Ends the connection of the same client of the same identity, and its session where it must not be
    /// resumed ([MQTT-3.1.4-3], [MQTT-3.1.2-4]). Returns the session to resume.
    fn take_over(&mut self, identity: &SpiffeId, connect: &Connect, now: Now) -> Option<Key> {
        let key = self.lookup(identity, &connect.client_id)?;
        // The identity was revoked and is registered anew: it starts from nothing.
        if self.end_condemned(key, now) {
            return None;
        }
        self.do_due(key, now);
        if connect.clean_start {
            // The will goes out even if it was to be delayed: with the session ends the reason to wait.
            self.cut(key, CloseReason::TakenOver, now);
            self.end_session(key, true, now);
            return None;
        }
        self.cut(key, CloseReason::TakenOver, now);
        self.sessions.get(key).map(|_| key)
    }

    pub(crate) fn lookup(&self, identity: &SpiffeId, client_id: &str) -> Option<Key> {
        self.by_identity.get(identity)?.sessions.get(client_id).copied()
    }

    fn create(
        &mut self,
        identity: Arc<SpiffeId>,
        listener: &Arc<Listener>,
        connect: &Connect,
        now: Now,
    ) -> Key {
        let session = Session::new(identity, connect, Arc::clone(listener), &mut self.authority, now);
        self.keep_session(session)
    }

    /// Takes a session, new or of an earlier run.
    pub(crate) fn keep_session(&mut self, mut session: Session) -> Key {
        let (identity, client_id) = (Arc::clone(&session.identity), Arc::clone(&session.client_id));
        self.known.insert(Arc::clone(&identity));
        let own = self.by_identity.entry(identity).or_default();
        let subscribed = [self.subscribed.clone(), own.subscribed.clone()];
        session.count_among(&self.queued, &self.exchanged, subscribed);
        let key = self.sessions.insert(session);
        own.sessions.insert(client_id, key);
        key
    }

    fn new_connection(
        &self,
        conn: ConnId,
        peer: VerifiedPeer,
        connect: &mut Connect,
        will: Option<KeptWill>,
        now: Now,
    ) -> Connection {
        let keep_alive_secs = self.keep_alive_of(connect);
        let keep_alive = Duration::from_millis(u64::from(keep_alive_secs) * 1_500);
        let quota =
            connect.receive_max.unwrap_or(std::num::NonZeroU16::MAX).min(self.config.inflight_max).get();
        let aliases = match connect.version {
            Version::V311 => 0,
            Version::V5 => connect.topic_alias_max.min(self.config.topic_alias_out_max),
        };
        Connection {
            id: conn,
            peer,
            since: now.wall,
            version: connect.version,
            will,
            problem_info: connect.request_problem_info,
            packet_size_max: packet_size_max(connect),
            keep_alive: (keep_alive_secs > 0).then_some(keep_alive),
            keep_alive_at: None,
            svid_at: None,
            last_seen: now.mono,
            unsent: 0,
            paused_until: Duration::ZERO,
            put_off_since: None,
            quota,
            quota_max: quota,
            aliases_in: AliasesIn::default(),
            aliases_out: AliasesOut::new(aliases, self.config.topic_alias_bytes_max),
            resend: std::collections::VecDeque::new(),
            cache: PublishCache::new(&self.remembered),
            gate: Gate::default(),
            rest: None,
            ends_after: None,
            will_number: 0,
            exchange: connect.auth_method.take().map(Exchange::new),
            messages_in: 0,
            published: RuleTally::default(),
            denied: RuleTally::default(),
            messages_out: 0,
        }
    }

    /// Returns the CONNACK that says what this server does otherwise than a 5.0 client would assume.
    fn announcement(&self, connect: &Connect) -> ConnAck {
        let mut ack = ConnAck::new(ReasonCode::Success);
        if connect.version == Version::V311 {
            return ack;
        }
        let expiry = expiry_secs(self.expiry_of(connect));
        ack.session_expiry_secs = (expiry != connect.session_expiry_secs.unwrap_or(0)).then_some(expiry);
        ack.receive_max = Some(self.config.receive_max);
        ack.packet_size_max = Some(self.config.packet_size_max);
        ack.topic_alias_max = self.config.topic_alias_max;
        let keep_alive = self.keep_alive_of(connect);
        // [MQTT-4.12.0-5].
        ack.auth_method = connect.auth_method.clone();
        ack.auth_data = connect.auth_data.clone();
        ack.server_keep_alive_secs = (keep_alive != connect.keep_alive_secs).then_some(keep_alive);
        ack
    }

    /// Returns the topic below which answers may be asked for ([MQTT-3.1.2-28]): it is this identity's alone,
    /// and told only where policy lets it be used.
    fn response_info(
        &mut self,
        identity: &Arc<SpiffeId>,
        listener: &Listener,
        connect: &Connect,
    ) -> Option<Arc<str>> {
        let prefix = self.config.response_prefix.as_ref().filter(|_| connect.request_response_info)?;
        let topic = format!("{prefix}{}", identity.path());
        let filter = SharedFilter::new(&format!("{topic}/#")).ok()?;
        let context = Context { client_id: Some(&connect.client_id), listener: Some(&listener.name) };
        let rights = self.authority.rights(identity, context);
        let permit = rights.subscribe(&filter, QoS::AtMostOnce, SubscribeMode::Reject).ok()?;
        (!permit.is_filtered()).then(|| topic.into())
    }

    /// [MQTT-3.1.2-21]: only a 5.0 client can be told another interval than it asks for.
    fn keep_alive_of(&self, connect: &Connect) -> u16 {
        let asked = connect.keep_alive_secs;
        match self.config.keep_alive_max_secs {
            Some(max) if connect.version == Version::V5 && (asked == 0 || asked > max.get()) => max.get(),
            Some(_) | None => asked,
        }
    }

    fn expiry_of(&self, connect: &Connect) -> Option<Duration> {
        match connect.version {
            Version::V311 if connect.clean_start => Some(Duration::ZERO),
            Version::V311 => Some(self.config.session_expiry_v311.min(self.config.session_expiry_max)),
            Version::V5 => self.expiry_granted(connect.session_expiry_secs.unwrap_or(0)),
        }
    }

    /// Returns how long a session is kept when a client asks for so many seconds; `None` is for ever.
    pub(crate) fn expiry_granted(&self, secs: u32) -> Option<Duration> {
        let max = self.config.session_expiry_max;
        let asked = (secs != NEVER).then(|| Duration::from_secs(secs.into()));
        match asked {
            None if max == Duration::MAX => None,
            asked => Some(asked.unwrap_or(Duration::MAX).min(max)),
        }
    }

    fn attach(&mut self, key: Key, mut connection: Connection, connect: &Connect, now: Now) {
        let expiry = self.expiry_of(connect);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut late = None;
        if let Link::Parked(parked) = &mut session.link {
            self.timers.clear(parked.ends.map(|(at, _)| at), Due::SessionEnd(key));
            late = parked.will.take();
        }
        session.version = connect.version;
        let root = connection.peer.proof().root();
        let is_same_expiry = std::mem::replace(&mut session.expiry, expiry) == expiry;
        let is_same = std::mem::replace(&mut session.root, root) == root && is_same_expiry;
        if !is_same_expiry && !session.subscriptions.is_empty() {
            self.subscriptions.groups.doubt();
        }
        connection.gate.barrier = session.barrier;
        connection.resend = session.inflight.in_order().into();
        self.conns.insert(connection.id, key);
        if let Proof::Local { .. } = connection.peer.proof() {
            self.attested.insert(connection.id);
        }
        session.link = Link::Live(Box::new(connection));
        if let Some(late) = late {
            self.timers.clear(Some(late.at), Due::Will(key));
            self.forget_will(late.number);
        }
        self.record_live(key, is_same, now);
        self.arm_keep_alive(key, now);
        self.arm_svid_expiry(key, now);
    }

    pub(crate) fn arm_keep_alive(&mut self, key: Key, now: Now) {
        let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut) else { return };
        let Some(keep_alive) = connection.keep_alive else { return };
        let seen = connection.last_seen.max(connection.paused_until);
        let at = seen.saturating_add(keep_alive).max(now.mono);
        self.timers.clear(connection.keep_alive_at, Due::KeepAlive(key));
        self.timers.set(at, Due::KeepAlive(key));
        connection.keep_alive_at = Some(at);
    }

    pub(crate) fn arm_svid_expiry(&mut self, key: Key, now: Now) {
        let Some(connection) = self.sessions.get_mut(key).and_then(Session::connection_mut) else { return };
        self.timers.clear(connection.svid_at, Due::SvidExpiry(key));
        let at =
            connection.peer.expires().map(|at| now.mono.saturating_add(at.since(now.wall).min(WALL_RECHECK)));
        connection.svid_at = at;
        if let Some(at) = at {
            self.timers.set(at, Due::SvidExpiry(key));
        }
    }

    fn assign_client_id(&mut self, identity: &SpiffeId) -> Arc<str> {
        loop {
            self.assigned += 1;
            let (high, low) = self.config.seed.split_at(8);
            let (high, low) = (mix(high, self.assigned), mix(low, self.assigned));
            let id: Arc<str> = format!("auto-{high:016x}{low:016x}").into();
            if self.lookup(identity, &id).is_none() {
                return id;
            }
        }
    }
}

/// SplitMix64's output function over a part of the seed and a counter.
fn mix(seed: &[u8], counter: u64) -> u64 {
    let seed = seed.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    let mut z = seed.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn packet_size_max(connect: &Connect) -> usize {
    connect.packet_size_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX)
}

fn connack_bytes(ack: &ConnAck) -> usize {
    encoded_len(&Packet::ConnAck(Box::new(ack.clone())), Version::V5)
}

fn expiry_secs(expiry: Option<Duration>) -> u32 {
    expiry.map_or(NEVER, |expiry| u32::try_from(expiry.as_secs()).unwrap_or(NEVER))
}
