//! A broker, its clients and their time.

use crate::disk::Disk;
use crate::oracle::{Oracle, Party};
use crate::order::Order;
use crate::spelling::{spell, spell_audit, spell_delivery};
use crate::wire::Wire;
use broker_core::{
    AuditEvent, AuditKind, AuthOutcome, AuthRequest, Broker, CloseCause, Config, ConnId, Delivery,
    Durability, Effect, Listener, Now, Origin, PolicyChange, Restored, Revocation, SessionSnapshot,
};
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::{Policy, Rule, SubscribeMode};
use mqtt_proto::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

mod short;

pub(crate) use crate::packets::*;
pub(crate) use crate::spelling::packet_of;
pub(crate) use mqtt_proto::QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2};
pub(crate) use mqtt_proto::Version::{V5, V311};

/// The wall clock when the monotonic one is at zero.
pub(crate) const START: UnixMillis = UnixMillis::from_secs(1_800_000_000);

/// What an ending left to be done by itself: a will to be published, or nothing but the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ended {
    Connection,
    Session,
}

pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) now: Now,
    conns: u64,
    epoch: u64,
    /// Whether the rules are those it began with.
    rules_stand: bool,
    wire: Wire,
    seen: BTreeMap<ConnId, Vec<String>>,
    connacks: BTreeMap<ConnId, ConnAck>,
    reason_strings: BTreeMap<ConnId, Vec<String>>,
    pub(crate) audits: Vec<AuditEvent>,
    /// The connection that is sent everything, if any, and what it shows the broker do by itself.
    watch: Option<ConnId>,
    turns: Vec<(Ended, SpiffeId, Arc<str>)>,
    deliveries: Vec<(ConnId, Delivery)>,
    /// How often the short way was open, by name of packet.
    pub(crate) short_ways: BTreeMap<&'static str, usize>,
    order: Order,
    requests: Vec<(ConnId, AuthRequest)>,
    /// What the oracle goes by: the rules in force, who is revoked, and whose each connection is.
    oracle: Oracle,
    revoked: BTreeSet<SpiffeId>,
    owners: BTreeMap<ConnId, (SpiffeId, Arc<str>, Arc<Listener>)>,
    /// By which the next connections come in.
    pub(crate) listener: Arc<Listener>,
    /// What the broker said last about leaving a client unread.
    pub(crate) paused_until: Option<Duration>,
    /// Whether what a change leaves to be done is done at once.
    pub(crate) settling: bool,
    /// Whether clients read what they are sent.
    pub(crate) flushing: bool,
    /// Who does not in any case.
    pub(crate) deaf: Option<SpiffeId>,
    /// The next start takes it.
    pub(crate) config: Config,
    policy: Arc<Policy>,
    pub(crate) disk: Disk,
}

impl World {
    /// A broker where everybody may do everything outside `$`.
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), open_house())
    }

    pub(crate) fn ruled(rules: Vec<Rule>) -> Self {
        Self::with(Config::default(), rules)
    }

    pub(crate) fn limited(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self::with(config, open_house())
    }

    /// A broker on a disk that stores at once, so that whatever a test is about also holds for one that stores.
    pub(crate) fn with(config: Config, rules: Vec<Rule>) -> Self {
        Self::of(Config { durability: Durability::ProcessCrash, ..config }, rules)
    }

    pub(crate) fn of(config: Config, rules: Vec<Rule>) -> Self {
        let policy = Arc::new(Policy::compile(rules.clone(), 1).unwrap());
        Self::governed(config, rules, policy)
    }

    /// A broker of rules that are compiled already.
    pub(crate) fn governed(config: Config, rules: Vec<Rule>, policy: Arc<Policy>) -> Self {
        Self {
            oracle: Oracle { rules },
            broker: Broker::new(config.clone(), Arc::clone(&policy)),
            config,
            policy,
            disk: Disk::default(),
            revoked: BTreeSet::new(),
            owners: BTreeMap::new(),
            listener: listener("tls", SubscribeMode::Reject),
            now: Now { mono: Duration::ZERO, wall: START },
            conns: 0,
            epoch: 1,
            rules_stand: true,
            wire: Wire::default(),
            seen: BTreeMap::new(),
            connacks: BTreeMap::new(),
            reason_strings: BTreeMap::new(),
            audits: Vec::new(),
            watch: None,
            turns: Vec::new(),
            deliveries: Vec::new(),
            short_ways: BTreeMap::new(),
            order: Order::default(),
            requests: Vec::new(),
            flushing: true,
            deaf: None,
            settling: true,
            paused_until: None,
        }
    }

    /// Connects and takes the CONNACK, which must be a success.
    pub(crate) fn open(&mut self, id: &str, connect: Connect) -> ConnId {
        let conn = self.connect(id, connect);
        let seen = self.take(conn);
        assert!(seen.first().is_some_and(|first| first.starts_with("CONNACK 00")), "{seen:?}");
        assert_eq!(seen.len(), 1, "{seen:?}");
        conn
    }

    /// Connects a client of 5.0 with a clean start.
    pub(crate) fn client(&mut self, id: &str) -> ConnId {
        self.open(id, v5(id))
    }

    pub(crate) fn connect(&mut self, id: &str, connect: Connect) -> ConnId {
        self.connect_peer(peer(id), connect)
    }

    /// Connects and leaves the effects to the caller.
    pub(crate) fn connect_silently(&mut self, id: &str, connect: Connect) -> ConnId {
        let conn = self.begin(&spiffe(id), &connect);
        self.broker.handle_connect(conn, &self.listener, peer(id), connect, self.now);
        conn
    }

    pub(crate) fn connect_peer(&mut self, peer: VerifiedPeer, connect: Connect) -> ConnId {
        let conn = self.begin(peer.id(), &connect);
        self.revoked.remove(peer.id());
        self.broker.handle_connect(conn, &self.listener, peer, connect, self.now);
        self.settle();
        conn
    }

    fn begin(&mut self, id: &SpiffeId, connect: &Connect) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.wire.begin(conn, connect);
        self.order.begin(conn, connect.topic_alias_max);
        let owner = (id.clone(), Arc::clone(&connect.client_id), Arc::clone(&self.listener));
        self.owners.insert(conn, owner);
        // As the shell does.
        if let Some(newcomer) = self.broker.newcomer(id) {
            self.broker.handle_newcomer(newcomer.prepared(&self.listener, &connect.client_id));
        }
        conn
    }

    /// Sends a packet the long way. Where the short one is open, it would have ended in the same.
    pub(crate) fn send(&mut self, conn: ConnId, packet: Packet) {
        let passing = self.passing(conn, &packet).map(|passing| (passing, packet.clone(), self.mark(conn)));
        self.paused_until = self.broker.handle_packet(conn, packet, self.now).or(self.paused_until);
        self.drain();
        if let Some((passing, packet, before)) = passing {
            self.hold_against(&passing, conn, &packet, &before);
        }
        while self.broker.handle_rest(conn, self.now).is_some() {
            self.drain();
        }
        self.settle();
    }

    /// Subscribes with plain options and takes the SUBACK, which must be a success.
    pub(crate) fn subscribe(&mut self, conn: ConnId, filter: &str, qos: QoS) {
        self.send(conn, subscribe([sub(filter, qos)]));
        let seen = self.take(conn);
        assert_eq!(seen.first(), Some(&format!("SUBACK 77 [{:02X}]", qos as u8)), "{seen:?}");
        self.seen.entry(conn).or_default().extend(seen.into_iter().skip(1));
    }

    pub(crate) fn publish(&mut self, conn: ConnId, topic: &str, payload: &str, qos: QoS) {
        self.send(conn, Packet::Publish(Box::new(publish(topic, payload, qos))));
    }

    pub(crate) fn lose(&mut self, conn: ConnId) {
        self.broker.handle_closed(conn, CloseCause::Eof, self.now);
        self.settle();
    }

    /// Nothing more comes from a client.
    pub(crate) fn end_input(&mut self, conn: ConnId) {
        self.broker.handle_input_ended(conn, CloseCause::Eof, self.now);
        self.settle();
    }

    pub(crate) fn flush(&mut self, conn: ConnId) {
        self.broker.handle_flushed(conn, usize::MAX, self.now);
        self.settle();
    }

    pub(crate) fn set_rules(&mut self, rules: Vec<Rule>) {
        self.epoch += 1;
        let policy = Arc::new(Policy::compile(rules.clone(), self.epoch).unwrap());
        self.set_policy(rules, policy);
    }

    /// Puts rules in force that are compiled already.
    pub(crate) fn set_policy(&mut self, rules: Vec<Rule>, policy: Arc<Policy>) {
        self.rules_stand = false;
        self.oracle.rules = rules;
        let before = std::mem::replace(&mut self.policy, Arc::clone(&policy));
        drop(self.broker.handle_policy(PolicyChange::between(before, policy), self.now));
        self.settle();
    }

    pub(crate) fn revoke(&mut self, id: &str) {
        let revocation = Revocation { identities: vec![spiffe(id)], reason: "entry deleted".into() };
        self.revoked.insert(spiffe(id));
        self.broker.handle_revoked(&revocation, self.now);
        self.settle();
    }

    /// Ends a connection whose proof of identity does not hold any more, while the identity does.
    pub(crate) fn end_proof(&mut self, conn: ConnId) {
        self.broker.handle_proof_ended(conn, &"banned".into(), self.now);
        self.drain();
    }

    /// Whether a client, by the listener of now, may receive a topic, as the oracle says.
    pub(crate) fn may_receive(&self, id: &str, client_id: &str, topic: &str) -> bool {
        let id = spiffe(id).to_string();
        let party = Party { id: &id, client_id, listener: Some(&self.listener.name) };
        self.oracle.may_receive(party, topic).is_some()
    }

    /// Does all that changes left to be done.
    pub(crate) fn finish_backlog(&mut self) {
        let settling = std::mem::replace(&mut self.settling, true);
        self.settle();
        self.settling = settling;
    }

    pub(crate) fn version(&self, conn: ConnId) -> Version {
        self.wire.version(conn)
    }

    /// Lets the broker do what a change left to be done, in portions of one session.
    fn settle(&mut self) {
        self.drain();
        while self.settling && self.broker.has_backlog() {
            self.broker.handle_backlog(1, self.now);
            self.drain();
        }
    }

    /// Lets time pass, waking the broker whenever it asks for it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.mono));
            self.wake();
        }
        self.set_time(end);
    }

    pub(crate) fn pass_secs(&mut self, secs: u64) {
        self.pass(Duration::from_secs(secs));
    }

    fn set_time(&mut self, mono: Duration) {
        let step = mono - self.now.mono;
        self.now = Now { mono, wall: self.now.wall.after(step) };
    }

    pub(crate) fn drain(&mut self) {
        while let Some(effect) = self.broker.poll_effect() {
            let bytes = effect.bytes();
            self.check(&effect);
            let conn = match effect {
                Effect::Audit(event) => {
                    if matches!(event.kind, AuditKind::SessionEnded) {
                        let (identity, client_id) = (&event.identity, &event.client_id);
                        self.turns.push((Ended::Session, (**identity).clone(), Arc::clone(client_id)));
                    }
                    self.audits.push(*event);
                    continue;
                }
                Effect::Store(batch) => {
                    self.disk.pending.push(*batch);
                    if self.disk.is_quick {
                        self.store();
                    }
                    continue;
                }
                Effect::Send { conn, packet } => {
                    self.note(conn, &packet);
                    conn
                }
                Effect::Deliver { conn, delivery } => {
                    if let Origin::Client { identity, client_id, will: true, .. } = delivery.message.origin()
                        && self.watch == Some(conn)
                    {
                        self.turns.push((Ended::Connection, (**identity).clone(), Arc::clone(client_id)));
                    }
                    self.seen.entry(conn).or_default().push(spell_delivery(&delivery));
                    self.deliveries.push((conn, delivery));
                    conn
                }
                Effect::Authenticate { conn, request } => {
                    self.requests.push((conn, *request));
                    continue;
                }
                Effect::Discard { .. } => continue,
                Effect::Close { conn, reason } => {
                    self.seen.entry(conn).or_default().push(format!("CLOSE {reason:?}"));
                    conn
                }
            };
            if self.flushing && !self.is_deaf(conn) {
                self.broker.handle_flushed(conn, bytes, self.now);
            }
        }
    }

    fn is_deaf(&self, conn: ConnId) -> bool {
        self.owners.get(&conn).is_some_and(|(id, _, _)| self.deaf.as_ref() == Some(id))
    }

    /// What holds for everything that the broker does, in every test.
    pub(crate) fn check(&mut self, effect: &Effect) {
        self.wire.check(effect);
        self.order.check(effect);
        self.check_rights(effect);
    }

    /// The oracle: at every delivery its publisher may publish it now and its receiver may read it now.
    fn check_rights(&self, effect: &Effect) {
        let Effect::Deliver { conn, delivery } = effect else { return };
        let ((receiver, client_id, listener), publication) =
            (&self.owners[conn], delivery.message.publication());
        assert!(!self.revoked.contains(receiver), "to a revoked identity: {effect:?}");
        let party = Party { id: &receiver.to_string(), client_id, listener: Some(&listener.name) };
        let may = self.oracle.may_receive(party, publication.topic.as_str());
        assert!(may.is_some(), "{party:?} may not receive {publication:?}");
        // An exchange that has begun goes on at its quality of service when rules change.
        let is_low_enough = !self.rules_stand || Some(delivery.qos) <= may;
        assert!(is_low_enough, "{party:?} may receive {publication:?} at {may:?}, not {:?}", delivery.qos);
        let Origin::Client { identity, client_id, listener, will, .. } = delivery.message.origin() else {
            return;
        };
        assert!(!self.revoked.contains(identity), "of a revoked identity: {effect:?}");
        let party = Party { id: &identity.to_string(), client_id, listener: listener.as_deref() };
        let may = self.oracle.may_publish(party, publication, *will);
        assert!(may, "{party:?} may not publish {publication:?}");
    }

    fn note(&mut self, conn: ConnId, packet: &Packet) {
        self.seen.entry(conn).or_default().push(spell(packet));
        let info = match packet {
            Packet::ConnAck(ack) => {
                self.connacks.insert(conn, (**ack).clone());
                Some(&ack.info)
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                ack.info.as_deref()
            }
            Packet::Disconnect(packet) => Some(&packet.info),
            _ => None,
        };
        if let Some(text) = info.and_then(|info| info.reason_string.as_ref()) {
            self.reason_strings.entry(conn).or_default().push(text.to_string());
        }
    }

    /// Returns the next effect, other than what the disk is to store. It has been held against what holds for all.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        loop {
            match self.broker.poll_effect()? {
                Effect::Store(batch) => {
                    self.disk.pending.push(*batch);
                    if let Some(ticket) = self.disk.commit().filter(|_| self.disk.is_quick) {
                        self.broker.handle_stored(ticket, self.now);
                    }
                }
                effect => {
                    self.check(&effect);
                    return Some(effect);
                }
            }
        }
    }

    /// Lets the disk store what waits.
    pub(crate) fn store(&mut self) {
        if let Some(ticket) = self.disk.commit() {
            self.broker.handle_stored(ticket, self.now);
            self.drain();
        }
    }

    /// The disk stores what waits, and from now on at once.
    pub(crate) fn end_slowness(&mut self) {
        if !std::mem::replace(&mut self.disk.is_quick, true) {
            self.store();
        }
    }

    /// Ends the broker like a kill, losing what was not stored, and starts it again after so many seconds.
    pub(crate) fn crash(&mut self, down_secs: u64) -> Restored {
        self.disk.pending.clear();
        let restored = self.restart(down_secs);
        self.wake();
        restored
    }

    /// Like [`Self::crash`], but with a watch from before the broker does what is due.
    pub(crate) fn crash_watched(&mut self, down_secs: u64) {
        self.disk.pending.clear();
        self.restart(down_secs);
        self.watched(Self::wake);
    }

    /// Does this while a connection that no history knows of is sent everything: wills show by it, and in which
    /// order the broker sends them.
    pub(crate) fn watched(&mut self, act: impl FnOnce(&mut Self)) {
        let watch = self.client("watch");
        let all = Subscription { retain_handling: RetainHandling::DoNotSend, ..sub("#", Q0) };
        self.send(watch, subscribe([all]));
        self.watch = Some(watch);
        act(self);
        self.watch = None;
        self.lose(watch);
        self.take(watch);
    }

    /// Takes whose wills were sent and whose sessions ended since it was last asked.
    pub(crate) fn turns(&mut self) -> Vec<(Ended, SpiffeId, Arc<str>)> {
        std::mem::take(&mut self.turns)
    }

    /// Stops the broker as planned and starts it again after so many seconds.
    pub(crate) fn stop(&mut self, down_secs: u64) -> Restored {
        self.end();
        self.crash(down_secs)
    }

    /// Ends the broker as planned; [`Self::crash`] starts it again.
    pub(crate) fn end(&mut self) {
        self.broker.handle_drain(self.now);
        self.drain();
        self.store();
    }

    /// Sets the rules that the next start finds.
    pub(crate) fn change_rules_while_down(&mut self, rules: Vec<Rule>) {
        let policy = Arc::new(Policy::compile(rules.clone(), 1).unwrap());
        self.change_policy_while_down(rules, policy);
    }

    /// Sets the rules that the next start finds, which are compiled already.
    pub(crate) fn change_policy_while_down(&mut self, rules: Vec<Rule>, policy: Arc<Policy>) {
        self.rules_stand = false;
        (self.oracle.rules, self.policy) = (rules, policy);
    }

    /// Has an entry deleted before the next start.
    pub(crate) fn revoke_while_down(&mut self, id: &str) {
        self.revoked.insert(spiffe(id));
    }

    pub(crate) fn restart(&mut self, down_secs: u64) -> Restored {
        let wall = self.now.wall.after(Duration::from_secs(down_secs));
        self.now = Now { mono: Duration::ZERO, wall };
        self.broker = Broker::new(self.config.clone(), Arc::clone(&self.policy));
        let restored = self.broker.restore(self.disk.read(), self.now);
        // As the shell does: entries may have ended while nobody served.
        let identities = self.revoked.iter().cloned().collect();
        let revocation = Revocation { identities, reason: "entry deleted".into() };
        self.broker.handle_revoked(&revocation, self.now);
        self.drain();
        restored
    }

    /// Lets the broker do what is due, in as many portions as it takes.
    fn wake(&mut self) {
        for _ in 0..100_000 {
            self.broker.handle_timeout(self.now);
            self.drain();
            if !self.is_due() {
                return;
            }
        }
        panic!("a timer that is due stays");
    }

    /// Whether anything is due.
    pub(crate) fn is_due(&self) -> bool {
        self.broker.poll_timeout().is_some_and(|at| at <= self.now.mono)
    }

    /// Takes what a client saw since it was last asked.
    pub(crate) fn take(&mut self, conn: ConnId) -> Vec<String> {
        self.seen.remove(&conn).unwrap_or_default()
    }

    /// Asserts exactly what a client saw since it was last asked.
    #[track_caller]
    pub(crate) fn expect<const N: usize>(&mut self, conn: ConnId, expected: [&str; N]) {
        assert_eq!(self.take(conn), expected);
    }

    /// Asserts that a client saw nothing since it was last asked.
    #[track_caller]
    pub(crate) fn quiet(&mut self, conn: ConnId) {
        self.expect(conn, []);
    }

    pub(crate) fn connack(&self, conn: ConnId) -> &ConnAck {
        &self.connacks[&conn]
    }

    pub(crate) fn reason_strings(&mut self, conn: ConnId) -> Vec<String> {
        self.reason_strings.remove(&conn).unwrap_or_default()
    }

    /// Answers the one step of authentication that is outstanding, and returns it.
    pub(crate) fn judge(&mut self, conn: ConnId, outcome: AuthOutcome) -> AuthRequest {
        let requests = std::mem::take(&mut self.requests);
        let [(of, request)] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!(*of, conn);
        self.broker.handle_authenticated(conn, outcome, self.now);
        self.drain();
        request.clone()
    }

    /// Lets every step of authentication that is outstanding prove this.
    pub(crate) fn prove(&mut self, peer: &VerifiedPeer) {
        for (conn, _) in std::mem::take(&mut self.requests) {
            let outcome = AuthOutcome::Proven { peer: peer.clone(), data: None };
            self.broker.handle_authenticated(conn, outcome, self.now);
            self.drain();
        }
    }

    /// Asserts that no step of authentication is outstanding.
    pub(crate) fn nothing_to_judge(&self) {
        assert_eq!(self.requests, []);
    }

    /// Takes every PUBLISH that was sent to anyone since it was last asked.
    pub(crate) fn deliveries(&mut self) -> Vec<(ConnId, Delivery)> {
        std::mem::take(&mut self.deliveries)
    }

    /// Takes the audit events since it was last asked, spelled out.
    pub(crate) fn audits(&mut self) -> Vec<String> {
        std::mem::take(&mut self.audits).iter().map(spell_audit).collect()
    }

    /// Takes the audit events and returns the denials and removals among them.
    pub(crate) fn denials(&mut self) -> Vec<String> {
        let mut audits = self.audits();
        audits.retain(|event| {
            event.contains("denied") || event.contains("revoked") || event.contains("purged")
        });
        audits
    }

    pub(crate) fn session(&self, id: &str, client_id: &str) -> Option<SessionSnapshot> {
        let mut sessions = self.broker.sessions().into_iter();
        sessions.find(|session| *session.identity == spiffe(id) && &*session.client_id == client_id)
    }
}

pub(crate) fn listener(name: &str, subscribe_mode: SubscribeMode) -> Arc<Listener> {
    Arc::new(Listener { name: name.into(), subscribe_mode })
}

/// Everybody may do everything outside `$`.
pub(crate) fn open_house() -> Vec<Rule> {
    vec![Rule { name: "open".into(), id: "spiffe://plant/**".into(), ..rule(&["#"], &["#"]) }]
}

/// One identity may publish and subscribe to these.
pub(crate) fn allow(id: &str, publish: &[&str], subscribe: &[&str]) -> Rule {
    Rule { name: format!("allow-{id}"), id: format!("spiffe://plant/{id}"), ..rule(publish, subscribe) }
}

fn rule(publish: &[&str], subscribe: &[&str]) -> Rule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Rule { publish: owned(publish), subscribe: owned(subscribe), ..Rule::default() }
}

/// An identity of the trust domain `plant` by its path, or one of another in full.
pub(crate) fn spiffe(id: &str) -> SpiffeId {
    let whole = if id.starts_with("spiffe://") { id.to_owned() } else { format!("spiffe://plant/{id}") };
    SpiffeId::new(whole).unwrap()
}

pub(crate) fn peer(id: &str) -> VerifiedPeer {
    VerifiedPeer::attested(spiffe(id), 1, 2, "entry".into(), [0; 32])
}
