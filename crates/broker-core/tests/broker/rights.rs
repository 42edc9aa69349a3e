//! Random histories in which rights come and go at any step: at every delivery [`World::check_rights`] asks whether
//! its publisher may publish it and its receiver may receive it now, by rules as they are written.
//!
//! What the oracle cannot know is held here: what somebody left before its entry was deleted, and the will of who was
//! cut for want of a right or a proof, is never sent again, whoever may publish what by then.
//! `PROPTEST_CASES=100000 cargo test --release -p broker-core --test broker rights_that_come_and_go` plays many.

use crate::histories::seed;
use crate::svid::peer_until;
use crate::world::*;
use broker_core::{Config, ConnId, Delivery, Listener};
use midge_identity::VerifiedPeer;
use midge_policy::{Rule, SubscribeMode};
use mqtt_proto::{Ack, Auth, Connect, Info, Packet, Publish, PublishProperties, QoS, ReasonCode};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

/// A publisher, a reader, and one that has little; each has two clients, by the same client ids as the others.
const IDENTITIES: [&str; 3] = ["press", "ops", "mal"];
const CLIENT_IDS: [&str; 2] = ["c", "d"];
const CLIENTS: usize = IDENTITIES.len() * CLIENT_IDS.len();
const TOPICS: [&str; 10] =
    ["a/b", "a/c", "secret", "open/x", "tls/x", "c/x", "own/press", "own/mal", "w", "answer/mal"];
const FILTERS: [&str; 13] = [
    "a/#",
    "a/b",
    "a/+",
    "secret",
    "#",
    "open/+",
    "+/x",
    "own/#",
    "w",
    "answer/#",
    "$share/g/a/#",
    "$share/g/#",
    "$share/h/a/b",
];
const METHOD: &str = "TEST";
const MODES: [SubscribeMode; 3] = [SubscribeMode::Reject, SubscribeMode::Narrow, SubscribeMode::Filter];
/// Seconds after the start at which SVIDs expire; the last one is beyond any history.
const EXPIRES: [u64; 4] = [5, 20, 60, 900_000];

/// The rules that a history starts with, one a bit of those in [`rules`].
const PLAIN: u32 = 0b0000_0001_1111_1111;

#[derive(Clone, Copy, Debug)]
enum Op {
    Connect(usize, Opening),
    Lose(usize),
    Disconnect(usize, bool),
    Subscribe(usize, usize, u8),
    Unsubscribe(usize, usize),
    Publish(usize, Said),
    /// Every acknowledgement that is due; what follows PUBREC is due then.
    Answer(usize),
    /// PUBCOMP for every PUBREL that came.
    Complete(usize),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, due or not.
    Acknowledge(usize, u8, u16),
    Wait(u64),
    /// Killed, or stopped by plan; the rules may change meanwhile.
    Restart(bool, u64, Option<u32>),
    Rules(u32),
    /// The registration entry is deleted; who connects after that is registered anew.
    Revoked(usize),
    /// What proved the identity of this connection does not hold any more: agent banned, CA tainted.
    ProofEnds(usize),
    /// A newer SVID on the same connection.
    Renewed(usize, usize),
    Kicked(usize),
    /// Whether what a change leaves to be done is done at once.
    Settling(bool),
    Backlog(usize),
    /// Whether clients read.
    Reading(bool),
    Flush(usize),
}

#[derive(Clone, Copy, Debug)]
struct Opening {
    v5: bool,
    clean: bool,
    expiry: u32,
    window: u16,
    listener: usize,
    expires: usize,
    /// Topic, delay, QoS and retain.
    will: Option<(usize, u32, u8, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    topic: usize,
    qos: u8,
    id: u16,
    retain: bool,
    long: bool,
    lasts: Option<u32>,
    reply: Option<usize>,
    alias: Option<u16>,
    /// Whether PUBREL follows at once.
    released: bool,
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Rules by the bits that are set: first what allows, then what takes it away again.
fn rules(bits: u32) -> Vec<Rule> {
    let all = |publish: &[&str], subscribe: &[&str]| Rule {
        id: "spiffe://plant/{me}".into(),
        ..allow("x", publish, subscribe)
    };
    let pool = [
        allow("press", &["a/#", "secret", "w", "answer/#"], &[]),
        allow("ops", &["open/x"], &["a/#", "secret", "w", "answer/#", "own/#"]),
        all(&["open/#", "own/{me}"], &["open/#", "own/{me}", "answer/{me}"]),
        Rule { client_id: owned(&["c"]), ..all(&["c/#"], &["c/#"]) },
        Rule { listener: owned(&["tls"]), ..all(&["tls/#"], &["tls/#"]) },
        Rule { response_topics: owned(&["answer/{me}"]), ..all(&["open/x"], &[]) },
        Rule { qos_max: Some(1), share_groups: Some(owned(&["g"])), ..allow("mal", &[], &["a/b"]) },
        Rule { subscribe_literal: owned(&["#"]), ..allow("mal", &[], &[]) },
        Rule { will: Some(false), retain: Some(false), ..allow("mal", &["a/c"], &[]) },
        allow("mal", &["#"], &["#"]),
        Rule { payload_max: Some(4), qos_max: Some(1), ..allow("ops", &["a/#"], &["#"]) },
        Rule { deny_publish: owned(&["a/b", "w"]), ..allow("press", &[], &[]) },
        Rule { deny_receive: owned(&["a/b"]), ..allow("ops", &[], &[]) },
        Rule { deny_subscribe: owned(&["secret"]), unless: owned(&["spiffe://*/ops"]), ..all(&[], &[]) },
        Rule { deny_publish: owned(&["#"]), listener: owned(&["tcp"]), ..all(&[], &[]) },
        Rule { deny_receive: owned(&["+/x"]), listener: owned(&["tls"]), ..all(&[], &[]) },
    ];
    let chosen = pool.into_iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    chosen.map(|(bit, rule)| Rule { name: format!("bit-{bit}"), ..rule }).collect()
}

thread_local! {
    static PEERS: RefCell<BTreeMap<(usize, usize), VerifiedPeer>> = const { RefCell::new(BTreeMap::new()) };
}

fn peer_of(identity: usize, expires: usize) -> VerifiedPeer {
    let make = || peer_until(IDENTITIES[identity], EXPIRES[expires]);
    PEERS.with_borrow_mut(|peers| peers.entry((identity, expires)).or_insert_with(make).clone())
}

/// What was said by whom, under which number.
#[derive(Clone, Copy, Debug)]
struct Spoken {
    identity: usize,
    is_dead: bool,
}

struct Play {
    world: World,
    listeners: [Arc<Listener>; 2],
    conns: BTreeMap<usize, ConnId>,
    /// Those that were let in by enhanced authentication, and may prove it anew.
    provers: BTreeSet<ConnId>,
    spoken: Vec<Spoken>,
    /// The wills of connections, by their number.
    wills: BTreeMap<ConnId, usize>,
    /// What connections have not acknowledged: messages, and PUBREL.
    unanswered: BTreeMap<ConnId, Vec<(u16, QoS)>>,
    released: BTreeMap<ConnId, Vec<u16>>,
    completed: u64,
    delivered: u64,
    denied: u64,
}

impl Play {
    fn new(modes: (usize, usize)) -> Self {
        let config = Config {
            unsent_bytes_soft: 200,
            unsent_bytes_hard: 2_000,
            queue_messages_max: 20,
            inflight_max: NonZeroU16::new(4).unwrap(),
            auth_methods: vec![METHOD.into()],
            ..Config::default()
        };
        Self {
            world: World::with(config, rules(PLAIN)),
            listeners: [listener("tls", MODES[modes.0]), listener("tcp", MODES[modes.1])],
            conns: BTreeMap::new(),
            provers: BTreeSet::new(),
            spoken: Vec::new(),
            wills: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            released: BTreeMap::new(),
            completed: 0,
            delivered: 0,
            denied: 0,
        }
    }

    /// Each identity has that many more sessions that a revocation ends them in portions.
    fn crowd(&mut self) {
        for (identity, nth) in IDENTITIES.iter().flat_map(|identity| (0..16).map(move |nth| (identity, nth)))
        {
            let conn = self.world.connect(identity, durable(&format!("more-{nth}")));
            self.world.take(conn);
        }
    }

    /// Everybody is there, and most ask for something that they may have.
    fn prelude(&mut self) {
        for client in 0..CLIENTS {
            let (v5, clean, will) = (client != 3, false, (client < 2).then_some((8, 2, 1, false)));
            let opening = Opening { v5, clean, expiry: 1_000, window: 3, listener: 0, expires: 3, will };
            self.connect(client, opening);
        }
        for (client, filter, qos) in [
            (0, "open/+", 1),
            (1, "$share/h/open/+", 2),
            (2, "a/#", 2),
            (2, "w", 1),
            (2, "secret", 1),
            (2, "$share/g/a/#", 1),
            (3, "$share/g/a/#", 1),
            (3, "own/#", 0),
            (4, "open/+", 2),
            (5, "$share/g/a/b", 1),
        ] {
            self.send(client, subscribe([sub(filter, [Q0, Q1, Q2][qos])]));
        }
        self.look();
    }

    fn number(&mut self, client: usize) -> usize {
        self.spoken.push(Spoken { identity: client / CLIENT_IDS.len(), is_dead: false });
        self.spoken.len() - 1
    }

    fn send(&mut self, client: usize, packet: Packet) {
        if let Some(conn) = self.conns.get(&client) {
            self.world.send(*conn, packet);
        }
    }

    /// The first from this one on who is connected and can.
    fn deputy(&self, client: usize, can: impl Fn(&ConnId) -> bool) -> usize {
        let mut all = (0..CLIENTS).map(|on| (client + on) % CLIENTS);
        all.find(|client| self.conns.get(client).is_some_and(&can)).unwrap_or(client)
    }

    /// An operation of who is not connected, or has nothing to do it with, is left to the next one.
    fn handed_on(&self, mut op: Op) -> Op {
        match &mut op {
            Op::Subscribe(client, ..) | Op::Publish(client, _) | Op::Acknowledge(client, ..) => {
                *client = self.deputy(*client, |_| true);
            }
            Op::Answer(client) => {
                *client = self.deputy(*client, |conn| self.unanswered.contains_key(conn));
            }
            Op::Complete(client) => {
                *client = self.deputy(*client, |conn| self.released.contains_key(conn));
            }
            _ => {}
        }
        op
    }

    fn act(&mut self, op: Op) {
        match self.handed_on(op) {
            Op::Connect(client, opening) => self.connect(client, opening),
            Op::Lose(client) => {
                if let Some(conn) = self.conns.remove(&client) {
                    // Its will is the session's now.
                    self.wills.remove(&conn);
                    self.world.lose(conn);
                }
            }
            Op::Disconnect(client, with_will) => {
                let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
                self.send(client, bye(reason));
            }
            Op::Subscribe(client, filter, qos) => {
                self.send(client, subscribe([sub(FILTERS[filter], [Q0, Q1, Q2][usize::from(qos)])]));
            }
            Op::Unsubscribe(client, filter) => self.send(client, unsubscribe([FILTERS[filter]])),
            Op::Publish(client, said) => self.publish(client, said),
            Op::Answer(client) => self.answer(client),
            Op::Complete(client) => self.complete(client),
            Op::Acknowledge(client, kind, id) => {
                let kinds: [fn(Ack) -> Packet; 4] =
                    [Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp];
                self.send(client, kinds[usize::from(kind)](ack(id)));
            }
            Op::Wait(secs) => self.world.pass_secs(secs),
            Op::Restart(is_kill, down_secs, bits) => self.restart(is_kill, down_secs, bits),
            Op::Rules(bits) => self.world.set_rules(rules(bits)),
            Op::Revoked(identity) => {
                let own = self.spoken.iter_mut().filter(|spoken| spoken.identity == identity);
                own.for_each(|spoken| spoken.is_dead = true);
                self.world.revoke(IDENTITIES[identity]);
            }
            Op::ProofEnds(client) => {
                if let Some(conn) = self.conns.get(&client) {
                    self.world.end_proof(*conn);
                }
            }
            Op::Renewed(client, expires) => {
                if self.conns.get(&client).is_some_and(|conn| self.provers.contains(conn)) {
                    let method = Some(METHOD.into());
                    let reason = ReasonCode::ReAuthenticate;
                    let auth = Auth { reason, method, data: None, info: Info::default() };
                    self.send(client, Packet::Auth(Box::new(auth)));
                    self.world.prove(&peer_of(client / CLIENT_IDS.len(), expires));
                }
            }
            Op::Kicked(client) => {
                let (identity, client_id) = name(client);
                self.world.broker.handle_kick(&spiffe(identity), client_id, self.world.now);
                self.world.drain();
            }
            Op::Settling(settling) => self.world.settling = settling,
            Op::Backlog(sessions) => {
                self.world.broker.handle_backlog(sessions, self.world.now);
                self.world.drain();
            }
            Op::Reading(reading) => self.world.flushing = reading,
            Op::Flush(client) => {
                if let Some(conn) = self.conns.get(&client) {
                    self.world.flush(*conn);
                }
            }
        }
        self.look();
    }

    fn connect(&mut self, client: usize, opening: Opening) {
        let Opening { v5: is_v5, clean, expiry, window, listener, expires, will } = opening;
        let number = self.number(client);
        let will = will.map(|(topic, delay_secs, qos, retain)| {
            let mut will = super::world::will(TOPICS[topic], &number.to_string(), delay_secs).unwrap();
            (will.message.qos, will.message.retain) = ([Q0, Q1, Q2][usize::from(qos)], retain);
            will
        });
        let has_will = will.is_some();
        let connect = Connect {
            version: if is_v5 { V5 } else { V311 },
            clean_start: clean,
            session_expiry_secs: is_v5.then_some(expiry),
            receive_max: NonZeroU16::new(window).filter(|_| is_v5),
            topic_alias_max: if is_v5 { 2 } else { 0 },
            auth_method: is_v5.then(|| METHOD.into()),
            will,
            ..v5(CLIENT_IDS[client % CLIENT_IDS.len()])
        };
        self.world.listener = Arc::clone(&self.listeners[listener]);
        let peer = peer_of(client / CLIENT_IDS.len(), expires);
        let conn = self.world.connect_peer(peer.clone(), connect);
        self.world.prove(&peer);
        if is_v5 {
            self.provers.insert(conn);
        }
        if has_will {
            self.wills.insert(conn, number);
        }
        // The old one is looked at for the last time.
        if let Some(old) = self.conns.insert(client, conn) {
            self.read(old);
        }
    }

    fn publish(&mut self, client: usize, said: Said) {
        let number = self.number(client).to_string();
        let payload = if said.long { format!("{number:0>12}") } else { number };
        let plain = publish(TOPICS[said.topic], &payload, [Q0, Q1, Q2][usize::from(said.qos)]);
        let properties = PublishProperties {
            message_expiry_secs: said.lasts,
            response_topic: said.reply.map(|topic| topic_name(TOPICS[topic])),
            ..PublishProperties::default()
        };
        let has_properties = said.lasts.is_some() || said.reply.is_some();
        let is_v5 = self.conns.get(&client).is_some_and(|conn| self.world.version(*conn) == V5);
        let packet = Publish {
            retain: said.retain,
            packet_id: plain.packet_id.map(|_| pid(said.id)),
            topic_alias: said.alias.and_then(NonZeroU16::new).filter(|_| is_v5),
            properties: (has_properties && is_v5).then(|| Arc::new(properties)),
            ..plain
        };
        self.send(client, Packet::Publish(Box::new(packet)));
        if said.released && said.qos == 2 {
            self.send(client, Packet::PubRel(ack(said.id)));
        }
    }

    fn answer(&mut self, client: usize) {
        let Some(conn) = self.conns.get(&client) else { return };
        for (id, qos) in self.unanswered.remove(conn).unwrap_or_default() {
            if qos == Q1 {
                self.send(client, Packet::PubAck(ack(id)));
            } else {
                self.send(client, Packet::PubRec(ack(id)));
            }
        }
    }

    fn complete(&mut self, client: usize) {
        let Some(conn) = self.conns.get(&client) else { return };
        for id in self.released.remove(conn).unwrap_or_default() {
            self.completed += 1;
            self.send(client, Packet::PubComp(ack(id)));
        }
    }

    fn restart(&mut self, is_kill: bool, down_secs: u64, bits: Option<u32>) {
        // What is left to be done of a revocation is known to who registers, not to the store.
        self.world.finish_backlog();
        self.look();
        // What leaves at the end leaves by the rules of then: the others are found at the start.
        if !is_kill {
            self.world.end();
        }
        if let Some(bits) = bits {
            self.world.change_rules_while_down(rules(bits));
        }
        self.world.crash(down_secs);
        for conn in std::mem::take(&mut self.conns).into_values() {
            self.world.take(conn);
        }
        self.wills.clear();
    }

    /// Takes what a connection saw. Tells whether it was closed.
    fn read(&mut self, conn: ConnId) -> bool {
        let seen = self.world.take(conn);
        let released = seen
            .iter()
            .filter_map(|text| text.strip_prefix("PUBREL ")?.strip_suffix(" 00")?.parse::<u16>().ok());
        for id in released {
            self.released.entry(conn).or_default().push(id);
        }
        let Some(close) = seen.iter().find(|text| text.starts_with("CLOSE")) else { return false };
        let will = self.wills.remove(&conn);
        let lost = ["Revoked", "SvidExpired", "Denied", "Refused", "ClientDisconnected(Success)"];
        if let Some(number) = will.filter(|_| lost.iter().any(|reason| close.contains(reason))) {
            self.spoken[number].is_dead = true;
        }
        true
    }

    /// Holds what was sent against what must not be sent any more.
    fn look(&mut self) {
        for (client, conn) in self.conns.clone() {
            if self.read(conn) {
                self.conns.remove(&client);
            }
        }
        for (conn, delivery) in self.world.deliveries() {
            self.delivered += 1;
            if let Some(id) = delivery.packet_id {
                self.unanswered.entry(conn).or_default().push((id.get(), delivery.qos));
            }
            let spoken = self.spoken[number_of(&delivery)];
            assert!(!spoken.is_dead, "{delivery:?} should be gone");
        }
        self.denied += self.world.denials().len() as u64;
    }

    /// With all rights back, everything works as ever.
    fn finish(&mut self) {
        (self.world.settling, self.world.flushing) = (true, true);
        self.world.set_rules(rules(PLAIN));
        self.world.finish_backlog();
        self.look();
        let opening =
            Opening { v5: true, clean: true, expiry: 0, window: 4, listener: 0, expires: 3, will: None };
        for client in [0, 2, 4] {
            self.connect(client, opening);
        }
        let [press, ops, mal] = [0, 2, 4].map(|client| self.conns[&client]);
        self.look();
        self.world.send(ops, subscribe([sub("a/#", Q1)]));
        self.world.send(mal, subscribe([sub("secret", Q1)]));
        self.world.take(ops);
        self.world.deliveries();
        let last = self.number(0).to_string();
        self.world.publish(press, "a/b", &last, Q1);
        self.world.expect(press, ["PUBACK 1 00"]);
        let seen = self.world.take(ops);
        assert!(seen.iter().any(|text| text.contains(&format!("{last:?}"))), "{seen:?}");
        self.world.expect(mal, ["SUBACK 77 [87]"]);
    }
}

fn name(client: usize) -> (&'static str, &'static str) {
    (IDENTITIES[client / CLIENT_IDS.len()], CLIENT_IDS[client % CLIENT_IDS.len()])
}

fn number_of(delivery: &Delivery) -> usize {
    std::str::from_utf8(&delivery.message.publication().payload).unwrap().parse().unwrap()
}

fn opening() -> impl Strategy<Value = Opening> {
    let expiry = prop_oneof![1 => Just(0), 1 => 1..12_u32, 3 => Just(1_000)];
    let will = (0..TOPICS.len(), prop_oneof![Just(0), 1..6_u32], 0..3_u8, any::<bool>());
    let expires = prop_oneof![6 => Just(3), 1 => 0..3_usize];
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.3));
    (flags, expiry, 1..4_u16, 0..2_usize, expires, prop::option::weighted(0.3, will)).prop_map(
        |((v5, clean), expiry, window, listener, expires, will)| Opening {
            v5,
            clean,
            expiry,
            window,
            listener,
            expires,
            will,
        },
    )
}

fn said() -> impl Strategy<Value = Said> {
    let lasts = prop::option::weighted(0.2, 0..8_u32);
    let (reply, alias) =
        (prop::option::weighted(0.1, 0..TOPICS.len()), prop::option::weighted(0.2, 1..3_u16));
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.1), prop::bool::weighted(0.7));
    let qos = prop_oneof![1 => Just(0), 1 => Just(1), 2 => Just(2_u8)];
    let topic = prop_oneof![2 => 0..4_usize, 1 => 0..TOPICS.len()];
    (topic, qos, 1..4_u16, flags, lasts, reply, alias).prop_map(
        |(topic, qos, id, (retain, long, released), lasts, reply, alias)| Said {
            topic,
            qos,
            id,
            retain,
            long,
            lasts,
            reply,
            alias,
            released,
        },
    )
}

/// Rules near those of the start, or any.
fn bits() -> impl Strategy<Value = u32> {
    let near = (0..16_u32, 0..16_u32).prop_map(|(one, two)| PLAIN ^ (1 << one) ^ (1 << two));
    prop_oneof![3 => near, 1 => Just(PLAIN), 1 => 0..1_u32 << 16]
}

fn op() -> impl Strategy<Value = Op> {
    // The first one publishes most, and the third one reads most.
    let client = prop_oneof![2 => Just(0), 1 => Just(2), 3 => 0..CLIENTS];
    let (filter, identity) = (0..FILTERS.len(), 0..IDENTITIES.len());
    prop_oneof![
        6 => (client.clone(), opening()).prop_map(|(client, opening)| Op::Connect(client, opening)),
        2 => client.clone().prop_map(Op::Lose),
        1 => (client.clone(), any::<bool>()).prop_map(|(client, with_will)| Op::Disconnect(client, with_will)),
        9 => (client.clone(), filter.clone(), 0..3_u8).prop_map(|(client, filter, qos)| Op::Subscribe(client, filter, qos)),
        1 => (client.clone(), filter).prop_map(|(client, filter)| Op::Unsubscribe(client, filter)),
        24 => (client.clone(), said()).prop_map(|(client, said)| Op::Publish(client, said)),
        10 => client.clone().prop_map(Op::Answer),
        8 => client.clone().prop_map(Op::Complete),
        3 => (client.clone(), 0..4_u8, 1..4_u16).prop_map(|(client, kind, id)| Op::Acknowledge(client, kind, id)),
        2 => (1..8_u64).prop_map(Op::Wait),
        1 => (any::<bool>(), 0..6_u64, prop::option::of(bits()))
            .prop_map(|(is_kill, down_secs, bits)| Op::Restart(is_kill, down_secs, bits)),
        4 => bits().prop_map(Op::Rules),
        1 => identity.prop_map(Op::Revoked),
        1 => client.clone().prop_map(Op::ProofEnds),
        1 => (client.clone(), 0..EXPIRES.len()).prop_map(|(client, expires)| Op::Renewed(client, expires)),
        1 => client.clone().prop_map(Op::Kicked),
        1 => any::<bool>().prop_map(Op::Settling),
        1 => (1..4_usize).prop_map(Op::Backlog),
        1 => prop::bool::weighted(0.8).prop_map(Op::Reading),
        1 => client.prop_map(Op::Flush),
    ]
}

fn play(modes: (usize, usize), is_crowded: bool, history: &[Op]) -> [u64; 3] {
    let mut play = Play::new(modes);
    if is_crowded {
        play.crowd();
    }
    play.prelude();
    for op in history {
        play.act(*op);
    }
    play.finish();
    [play.delivered, play.denied, play.completed]
}

#[test]
fn rights_that_come_and_go_are_asked_for_at_every_delivery() {
    let config = ProptestConfig { failure_persistence: None, rng_seed: seed(), ..ProptestConfig::default() };
    let cases = u64::from(config.cases);
    let totals = RefCell::new([0; 3]);
    let is_crowded = prop::bool::weighted(0.2);
    let histories = ((0..3_usize, 0..3_usize), is_crowded, prop::collection::vec(op(), 1..100));
    TestRunner::new(config)
        .run(&histories, |(modes, is_crowded, history)| {
            let some = play(modes, is_crowded, &history);
            totals.borrow_mut().iter_mut().zip(some).for_each(|(total, some)| *total += some);
            Ok::<(), TestCaseError>(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let [delivered, denied, completed] = totals.into_inner();
    let told = format!("{delivered} deliveries, {denied} denials, {completed} of QoS 2 completed");
    println!("{told}");
    // Who is never sent anything is never sent anything wrong.
    let is_enough = delivered > cases && denied > cases && completed > cases / 4;
    assert!(cases < 200 || is_enough, "{told}");
}
