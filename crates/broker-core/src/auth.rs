//! Enhanced authentication (MQTT 5.0 §4.12): the exchange of AUTH packets before CONNACK, and again on a
//! live connection. What the data of a method mean, the shell's authenticator knows.

use crate::AuditKind;
use crate::authority::Listener;
use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::{CloseCause, CloseReason, ConnId, Effect, Now};
use crate::slab::Key;
use crate::timers::Due;
use bytes::Bytes;
use midge_identity::VerifiedPeer;
use mqtt_proto::{Auth, Connect, Info, Packet, ReasonCode, Version, encoded_len};
use std::sync::Arc;
use std::time::Duration;

/// One step of an exchange, for the authenticator to judge. What it needs of earlier steps is in here.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthRequest {
    /// The method, as the client spells it; one of [`crate::Config::auth_methods`].
    pub method: Arc<str>,
    /// What the client sent.
    pub data: Option<Bytes>,
    /// What was sent to the client in the step before; `None` in the first one.
    pub challenge: Option<Bytes>,
}

/// What the authenticator makes of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthOutcome {
    /// The exchange goes on: this is for the client.
    Continue(Bytes),
    /// The client has proven who it is.
    Proven {
        /// Who it is.
        peer: VerifiedPeer,
        /// Last data for the client.
        data: Option<Bytes>,
    },
    /// It has not. Why is for the audit log of the authenticator: the client learns no more.
    Failed,
}

/// Without the data: they are credentials.
impl std::fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No exchange is under way.
    #[default]
    Idle,
    /// The authenticator's.
    Judged,
    /// The client's, who has this to answer.
    Asked(Bytes),
}

/// The method of a connection and how far its exchange is.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    method: Arc<str>,
    turn: Turn,
}

/// A connection without CONNACK yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    listener: Arc<Listener>,
    pub(crate) peer: VerifiedPeer,
    connect: Connect,
    exchange: Exchange,
    due: Duration,
}

impl Exchange {
    pub(crate) fn new(method: Arc<str>) -> Self {
        Self { method, turn: Turn::Idle }
    }

    /// Takes what the client sent ([MQTT-4.12.0-5], [MQTT-4.12.1-1]).
    fn take(&mut self, auth: Auth) -> Result<AuthRequest, ReasonCode> {
        if auth.method.as_deref() != Some(&*self.method) {
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        let challenge = match (auth.reason, std::mem::take(&mut self.turn)) {
            (ReasonCode::ReAuthenticate, Turn::Idle) => None,
            (ReasonCode::ContinueAuthentication, Turn::Asked(challenge)) => Some(challenge),
            _ => return Err(ReasonCode::ProtocolError),
        };
        self.turn = Turn::Judged;
        Ok(AuthRequest { method: Arc::clone(&self.method), data: auth.data, challenge })
    }

    fn packet(&self, reason: ReasonCode, data: Option<Bytes>) -> Packet {
        let method = Some(Arc::clone(&self.method));
        Packet::Auth(Box::new(Auth { reason, method, data, info: Info::default() }))
    }
}

impl Broker {
    /// Begins the exchange of a CONNECT with a method that is offered. CONNACK comes when it has ended.
    pub(crate) fn begin_exchange(
        &mut self,
        (conn, listener): (ConnId, &Arc<Listener>),
        peer: VerifiedPeer,
        (connect, data): (Connect, Option<Bytes>),
        now: Now,
    ) {
        let Some(method) = connect.auth_method.clone() else { return };
        let due = now.mono.saturating_add(self.config.auth_timeout);
        let exchange = Exchange { method: Arc::clone(&method), turn: Turn::Judged };
        let listener = Arc::clone(listener);
        self.candidates.insert(conn, Candidate { listener, peer, connect, exchange, due });
        self.timers.set(due, Due::Exchange(conn));
        let request = AuthRequest { method, data, challenge: None };
        self.out.effects.push_back(Effect::Authenticate { conn, request: Box::new(request) });
    }

    /// Takes what the authenticator made of an [`Effect::Authenticate`]; anything else is ignored.
    pub fn handle_authenticated(&mut self, conn: ConnId, outcome: AuthOutcome, now: Now) {
        self.out.ledger.begin();
        if let Some(&key) = self.conns.get(&conn) {
            return self.re_authenticated(key, outcome, now);
        }
        let Some(candidate) = self.forget_candidate(conn) else { return };
        if candidate.exchange.turn != Turn::Judged {
            self.keep_candidate(conn, candidate);
            return;
        }
        match outcome {
            AuthOutcome::Continue(data) => self.ask_candidate(conn, candidate, data),
            AuthOutcome::Proven { peer, data } if peer.id() == candidate.peer.id() => {
                let connect = Connect { auth_data: data, ..candidate.connect };
                self.let_in((conn, &candidate.listener), peer, connect, now);
            }
            // An identity that was proven on the way in is not changed by what comes after.
            AuthOutcome::Proven { .. } | AuthOutcome::Failed => {
                self.refuse_candidate(conn, candidate, ReasonCode::NotAuthorized, now);
            }
        }
    }

    fn ask_candidate(&mut self, conn: ConnId, mut candidate: Candidate, data: Bytes) {
        let packet = candidate.exchange.packet(ReasonCode::ContinueAuthentication, Some(data.clone()));
        let max = candidate.connect.packet_size_max.and_then(|max| usize::try_from(max).ok());
        // Who cannot take the question cannot answer it: it runs out of time ([MQTT-3.1.2-24]).
        if max.is_none_or(|max| encoded_len(&packet, Version::V5) <= max) {
            self.out.metrics.packets_out += 1;
            self.out.effects.push_back(Effect::Send { conn, packet });
        }
        candidate.exchange.turn = Turn::Asked(data);
        self.keep_candidate(conn, candidate);
    }

    /// Takes a packet of a connection without CONNACK, if it is one.
    pub(crate) fn take_from_candidate(&mut self, conn: ConnId, packet: &Packet, now: Now) {
        let Some(mut candidate) = self.forget_candidate(conn) else { return };
        match packet {
            Packet::Auth(auth) => match candidate.exchange.take((**auth).clone()) {
                Ok(request) => {
                    self.keep_candidate(conn, candidate);
                    self.out.effects.push_back(Effect::Authenticate { conn, request: Box::new(request) });
                }
                Err(reason) => self.refuse_candidate(conn, candidate, reason, now),
            },
            Packet::Disconnect(disconnect) => {
                let reason = CloseReason::ClientDisconnected(disconnect.reason);
                self.out.effects.push_back(Effect::Close { conn, reason });
            }
            // [MQTT-3.1.2-30].
            _ => self.refuse_candidate(conn, candidate, ReasonCode::ProtocolError, now),
        }
    }

    fn keep_candidate(&mut self, conn: ConnId, candidate: Candidate) {
        self.timers.set(candidate.due, Due::Exchange(conn));
        self.candidates.insert(conn, candidate);
    }

    pub(crate) fn forget_candidate(&mut self, conn: ConnId) -> Option<Candidate> {
        let candidate = self.candidates.remove(&conn)?;
        self.timers.clear(Some(candidate.due), Due::Exchange(conn));
        Some(candidate)
    }

    /// Takes it that nothing more comes of a connection without CONNACK: what it was asked it will not answer. What is
    /// judged it is told.
    pub(crate) fn leave_candidate(&mut self, conn: ConnId, cause: CloseCause) {
        let is_judged = |candidate: &Candidate| candidate.exchange.turn == Turn::Judged;
        if self.candidates.get(&conn).is_some_and(|candidate| !is_judged(candidate)) {
            self.forget_candidate(conn);
            self.out.effects.push_back(Effect::Close { conn, reason: CloseReason::Lost(cause) });
        }
    }

    /// Refuses a connection without CONNACK, if it is one.
    pub(crate) fn end_candidate(&mut self, conn: ConnId, reason: ReasonCode, now: Now) {
        if let Some(candidate) = self.forget_candidate(conn) {
            self.refuse_candidate(conn, candidate, reason, now);
        }
    }

    /// Refuses every connection without CONNACK that satisfies the condition.
    pub(crate) fn end_candidates(
        &mut self,
        reason: ReasonCode,
        condition: impl Fn(&VerifiedPeer) -> bool,
        now: Now,
    ) {
        let wanted = self.candidates.iter().filter(|(_, candidate)| condition(&candidate.peer));
        let mut conns: Vec<_> = wanted.map(|(conn, _)| *conn).collect();
        conns.sort_unstable();
        for conn in conns {
            self.end_candidate(conn, reason, now);
        }
    }

    fn refuse_candidate(&mut self, conn: ConnId, candidate: Candidate, reason: ReasonCode, now: Now) {
        let Candidate { listener, peer, connect, .. } = candidate;
        let refusal = crate::connect::Refusal::new(reason, "not authenticated");
        self.refuse((conn, &listener), &peer, &connect, refusal, now);
    }

    /// AUTH on a live connection: it goes on meanwhile, under its old proof.
    pub(crate) fn take_auth(&mut self, key: Key, auth: Auth, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        // Without a method in CONNECT there is nothing to continue ([MQTT-4.12.0-6]).
        let Some(exchange) = &mut connection.exchange else {
            return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
        };
        match exchange.take(auth) {
            Ok(request) => {
                let conn = connection.id;
                self.out.effects.push_back(Effect::Authenticate { conn, request: Box::new(request) });
            }
            Err(reason) => self.cut(key, CloseReason::Protocol(reason), now),
        }
    }

    fn re_authenticated(&mut self, key: Key, outcome: AuthOutcome, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        let judged = connection.exchange.as_ref().is_some_and(|exchange| exchange.turn == Turn::Judged);
        match outcome {
            _ if !judged => {}
            AuthOutcome::Continue(data) => {
                connection.set_turn(Turn::Asked(data.clone()));
                self.send_auth(key, ReasonCode::ContinueAuthentication, Some(data), now);
            }
            AuthOutcome::Proven { peer, data } if peer.id() == connection.peer.id() => {
                connection.set_turn(Turn::Idle);
                let (expires, proof) = (peer.expires(), peer.proof().clone());
                connection.peer = peer;
                self.proven_anew(key);
                self.arm_svid_expiry(key, now);
                self.audit(key, AuditKind::Reauthenticated { proof, expires }, now);
                self.send_auth(key, ReasonCode::Success, data, now);
            }
            // [MQTT-4.12.1-2].
            AuthOutcome::Proven { .. } | AuthOutcome::Failed => {
                self.cut(key, CloseReason::NotAuthenticated, now);
            }
        }
    }

    fn send_auth(&mut self, key: Key, reason: ReasonCode, data: Option<Bytes>, now: Now) {
        let Some(connection) = self.connection_mut(key) else { return };
        let Some(exchange) = &connection.exchange else { return };
        let packet = exchange.packet(reason, data);
        // It cannot be left out, nor made shorter ([MQTT-3.1.2-24]).
        if encoded_len(&packet, Version::V5) > connection.packet_size_max {
            return self.cut(key, CloseReason::Protocol(ReasonCode::PacketTooLarge), now);
        }
        self.send(key, packet);
    }
}

impl Connection {
    fn set_turn(&mut self, turn: Turn) {
        if let Some(exchange) = &mut self.exchange {
            exchange.turn = turn;
        }
    }
}
