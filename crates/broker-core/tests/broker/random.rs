//! Random clients on broken links: what must hold whatever happens.

use crate::world::*;
use broker_core::{CloseCause, ConnId, Effect, Metrics, Record, RecordKey, RecordKind, SessionState};
use mqtt_proto::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

const RECEIVE_MAX: u16 = 3;
const MESSAGES: u32 = 12;

/// One client that follows the protocol over links that break, losing what was under way.
struct Client {
    id: &'static str,
    conn: Option<ConnId>,
    to_broker: VecDeque<Packet>,
    from_broker: VecDeque<Packet>,
    /// Publisher: the next message, and how far its exchange is.
    next: u32,
    state: Sending,
    /// Subscriber: identifiers received and not released yet ([MQTT-4.3.3-10]).
    pending: BTreeSet<PacketId>,
    unacknowledged: BTreeSet<PacketId>,
    /// What it was sent at QoS 1 and did not acknowledge, by identifier: that is the message's over every end, of
    /// connections and of the broker, unless the broker never stored the message ([MQTT-4.4.0-1]).
    in_flight: BTreeMap<PacketId, u32>,
    received: Vec<u32>,
    /// It has to ask for what is retained.
    is_asking: bool,
    /// What it was sent of that and not told to be a duplicate.
    first: BTreeSet<u32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Sending {
    Idle,
    Published,
    Released,
}

impl Client {
    fn new(id: &'static str) -> Self {
        Self {
            id,
            conn: None,
            to_broker: VecDeque::new(),
            from_broker: VecDeque::new(),
            next: 0,
            state: Sending::Idle,
            pending: BTreeSet::new(),
            unacknowledged: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            received: Vec::new(),
            is_asking: false,
            first: BTreeSet::new(),
        }
    }

    fn message(&self, qos: QoS, dup: bool) -> Packet {
        Packet::Publish(Box::new(Publish { dup, ..publish("a", &self.next.to_string(), qos) }))
    }

    /// Sends what is due at the start of a connection.
    fn resume(&mut self, qos: QoS) {
        match self.state {
            Sending::Idle => {}
            Sending::Published => self.to_broker.push_back(self.message(qos, true)),
            Sending::Released => self.to_broker.push_back(Packet::PubRel(ack(1))),
        }
        if self.is_asking {
            // Once more is not anew.
            let retain_handling = RetainHandling::SendIfNew;
            self.to_broker.push_back(subscribe([Subscription { retain_handling, ..sub("r/+", qos) }]));
        }
    }

    fn publish(&mut self, qos: QoS) {
        if self.state == Sending::Idle && self.next < MESSAGES {
            self.state = Sending::Published;
            self.to_broker.push_back(self.message(qos, false));
        }
    }

    fn receive(&mut self, packet: Packet) {
        match packet {
            Packet::PubAck(_) | Packet::PubComp(_) if self.state != Sending::Idle => {
                self.state = Sending::Idle;
                self.next += 1;
            }
            Packet::PubRec(_) => {
                self.state = Sending::Released;
                self.to_broker.push_back(Packet::PubRel(ack(1)));
            }
            Packet::Publish(publish) => self.receive_publish(&publish),
            Packet::SubAck(_) => self.is_asking = false,
            Packet::PubRel(ack) => {
                self.pending.remove(&ack.packet_id);
                self.unacknowledged.remove(&ack.packet_id);
                self.to_broker.push_back(Packet::PubComp(ack));
            }
            _ => {}
        }
    }

    fn receive_publish(&mut self, publish: &Publish) {
        let id = publish.packet_id.unwrap();
        let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
        match publish.qos {
            Q0 => panic!("nothing was published at QoS 0"),
            Q1 => {
                self.received.push(number);
                self.unacknowledged.remove(&id);
                self.to_broker.push_back(Packet::PubAck(ack(id.get())));
            }
            Q2 => {
                if self.pending.insert(id) {
                    self.received.push(number);
                }
                self.to_broker.push_back(Packet::PubRec(ack(id.get())));
            }
        }
    }
}

struct Links {
    world: World,
    clients: Vec<Client>,
    qos: QoS,
}

impl Links {
    fn new(qos: QoS) -> Self {
        let clients = ["press", "ops"].map(Client::new).into();
        let mut links = Self { world: World::new(), clients, qos };
        links.connect(0);
        links.connect(1);
        links.clients[1].to_broker.push_back(subscribe([sub("a", qos)]));
        links.deliver(1, 1);
        links.store(usize::MAX);
        links.world.disk.is_quick = false;
        links.world.disk.is_checked = false;
        links
    }

    /// Nothing is published any more, and much is retained.
    fn retaining(qos: QoS) -> Self {
        let mut links = Self::new(qos);
        links.world.disk.is_quick = true;
        for n in 0..MESSAGES {
            let message = publish(&format!("r/{n:02}"), &n.to_string(), qos);
            links.clients[0]
                .to_broker
                .push_back(Packet::Publish(Box::new(Publish { retain: true, ..message })));
            links.clients[0].to_broker.push_back(Packet::PubRel(ack(1)));
        }
        links.deliver(0, usize::MAX);
        links.world.disk.is_quick = false;
        links.clients[0].next = MESSAGES;
        links.clients[0].from_broker.clear();
        links.clients[1].is_asking = true;
        links.connect(1);
        links
    }

    fn connect(&mut self, index: usize) {
        self.lose(index);
        let client = &mut self.clients[index];
        let connect = Connect { receive_max: NonZeroU16::new(RECEIVE_MAX), ..durable(client.id) };
        let conn = self.world.connect_silently(client.id, connect);
        client.conn = Some(conn);
        client.unacknowledged.clear();
        client.resume(self.qos);
        self.collect();
    }

    fn lose(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.to_broker.clear();
        client.from_broker.clear();
        if let Some(conn) = client.conn.take() {
            self.world.broker.handle_closed(conn, CloseCause::Eof, self.world.now);
            self.collect();
        }
    }

    /// Lets some packets of a client arrive at the broker.
    fn deliver(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let client = &mut self.clients[index];
            let (Some(conn), Some(packet)) = (client.conn, client.to_broker.pop_front()) else { return };
            if let Packet::PubAck(ack) = &packet {
                client.in_flight.remove(&ack.packet_id);
            }
            self.world.broker.handle_packet(conn, packet, self.world.now);
            self.collect();
        }
    }

    fn receive(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let client = &mut self.clients[index];
            let Some(packet) = client.from_broker.pop_front() else { return };
            client.receive(packet);
        }
    }

    /// Lets the disk store some of what waits.
    fn store(&mut self, count: usize) {
        if let Some(ticket) = self.world.disk.commit_some(count) {
            self.world.broker.handle_stored(ticket, self.world.now);
            self.collect();
        }
    }

    /// Kills the broker and starts it again: what was not stored is lost, and so are all connections.
    fn crash(&mut self) {
        for client in &mut self.clients {
            client.conn = None;
            client.to_broker.clear();
            client.from_broker.clear();
        }
        let is_quick = std::mem::take(&mut self.world.disk.is_quick);
        self.world.disk.check();
        let stored = self.stored();
        self.clients[1].in_flight.retain(|id, number| stored.contains(&(*id, *number)));
        self.world.crash(1);
        self.world.disk.is_quick = is_quick;
    }

    /// The identifiers and numbers of the QoS 1 messages to the subscriber that are on disk.
    fn stored(&self) -> BTreeSet<(PacketId, u32)> {
        let records: BTreeMap<_, _> = self.world.disk.read().into_iter().collect();
        let queued = records.values().filter_map(|record| match record {
            Record::Queued(queued) if queued.qos == Q1 => Some(queued),
            _ => None,
        });
        let number = |message: u64| {
            let key = RecordKey { kind: RecordKind::Message, owner: 0, number: message };
            let Record::Message(stored) = &records[&key] else { panic!("{key} is no message") };
            std::str::from_utf8(&stored.message.publication().payload).unwrap().parse().unwrap()
        };
        queued.map(|queued| (queued.packet_id.unwrap(), number(queued.message))).collect()
    }

    fn collect(&mut self) {
        while self.world.broker.handle_backlog(1, self.world.now) {}
        while let Some(effect) = self.world.broker.poll_effect() {
            self.world.check(&effect);
            let (conn, packet) = match effect {
                Effect::Send { conn, packet } => (conn, packet),
                Effect::Deliver { conn, delivery } => (conn, Packet::Publish(Box::new(packet_of(&delivery)))),
                Effect::Discard { .. } => panic!("no right ends here"),
                Effect::Close { reason, .. } => panic!("closed: {reason:?}"),
                Effect::Authenticate { .. } | Effect::Audit(_) => continue,
                Effect::Store(batch) => {
                    self.world.disk.pending.push(*batch);
                    continue;
                }
            };
            let Some(client) = self.clients.iter_mut().find(|client| client.conn == Some(conn)) else {
                continue;
            };
            if let Packet::Publish(publish) = &packet {
                // [MQTT-4.9.0-2], [MQTT-2.2.1-3]: never more than allowed, never an identifier in use.
                assert!(client.unacknowledged.insert(publish.packet_id.unwrap()), "identifier in use");
                assert!(client.unacknowledged.len() <= usize::from(RECEIVE_MAX), "receive maximum exceeded");
                let number = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                if publish.qos == Q1 {
                    let before = client.in_flight.insert(publish.packet_id.unwrap(), number);
                    let is_free =
                        if publish.dup { before.is_none_or(|n| n == number) } else { before.is_none() };
                    assert!(is_free, "{publish:?} has the identifier of {before:?}");
                }
                if publish.retain && !publish.dup {
                    assert!(client.first.insert(number), "[MQTT-3.3.1-1]: {number} was sent before");
                }
            }
            client.from_broker.push_back(packet);
        }
        if self.world.disk.is_quick {
            self.store(usize::MAX);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish => self.clients[0].publish(self.qos),
            Step::ToBroker(index, count) => self.deliver(index, count),
            Step::FromBroker(index, count) => self.receive(index, count),
            Step::Reconnect(index) => self.connect(index),
            Step::Lose(index) => self.lose(index),
            Step::Store(count) => self.store(count),
            Step::Crash => self.crash(),
        }
    }

    /// Mends all links and runs until nothing is under way.
    fn finish(&mut self) {
        self.world.disk.is_quick = true;
        self.store(usize::MAX);
        self.connect(0);
        self.connect(1);
        for _ in 0..1_000 {
            self.clients[0].publish(self.qos);
            for index in 0..2 {
                self.deliver(index, 10);
                self.receive(index, 10);
            }
        }
        assert_eq!(self.clients[0].next, MESSAGES);
        assert_eq!(self.clients[1].in_flight, BTreeMap::new(), "came again under another identifier");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish,
    ToBroker(usize, usize),
    FromBroker(usize, usize),
    Reconnect(usize),
    Lose(usize),
    Store(usize),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => (0..2_usize, 1..4_usize).prop_map(|(index, count)| Step::ToBroker(index, count)),
        6 => (0..2_usize, 1..4_usize).prop_map(|(index, count)| Step::FromBroker(index, count)),
        2 => (0..2_usize).prop_map(Step::Reconnect),
        1 => (0..2_usize).prop_map(Step::Lose),
        6 => (1..4_usize).prop_map(Step::Store),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    // MQTT 5.0 §4.3.3: once and in order, whatever links break when, and whenever the broker is killed between a
    // change and its being stored.
    #[test]
    fn qos2_is_exactly_once_over_links_that_break(steps in proptest::collection::vec(step(), 0..150)) {
        let mut links = Links::new(Q2);
        steps.into_iter().for_each(|step| links.step(step));
        links.finish();
        prop_assert_eq!(&links.clients[1].received, &(0..MESSAGES).collect::<Vec<_>>());
    }

    // MQTT 5.0 §4.3.2, [MQTT-4.6.0-1]: at least once, and first arrivals in order.
    #[test]
    fn qos1_is_at_least_once_over_links_that_break(steps in proptest::collection::vec(step(), 0..150)) {
        let mut links = Links::new(Q1);
        steps.into_iter().for_each(|step| links.step(step));
        links.finish();
        let mut first = BTreeSet::new();
        let firsts: Vec<_> = links.clients[1].received.iter().copied().filter(|n| first.insert(*n)).collect();
        prop_assert_eq!(firsts, (0..MESSAGES).collect::<Vec<_>>());
    }

    // [MQTT-3.3.1-9]: what is retained follows the one SUBACK, whatever breaks meanwhile.
    #[test]
    fn retained_messages_come_once_at_qos2_and_at_least_once_at_qos1(
        is_qos2 in any::<bool>(),
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut links = Links::retaining(if is_qos2 { Q2 } else { Q1 });
        steps.into_iter().for_each(|step| links.step(step));
        links.finish();
        let received = &mut links.clients[1].received;
        if !is_qos2 {
            let mut first = BTreeSet::new();
            received.retain(|n| first.insert(*n));
        }
        prop_assert_eq!(&*received, &(0..MESSAGES).collect::<Vec<_>>());
    }

    // Any packets in any order: nothing panics, nobody who is gone is sent to, the counts agree, and
    // nobody reads what is not theirs.
    #[test]
    fn no_sequence_of_packets_breaks_the_broker(acts in proptest::collection::vec(act(), 0..200)) {
        let mut mob = Mob::new();
        for act in acts {
            mob.act(act);
            mob.check();
        }
        mob.world.disk.check();
        for id in NAMES {
            mob.world.revoke(id);
        }
        prop_assert_eq!(mob.world.broker.sessions().len(), 0);
        prop_assert_eq!(mob.world.broker.metrics().subscriptions, 0);
        prop_assert_eq!(mob.world.broker.metrics().retained_messages, 0);
        // What was kept from its receivers is counted for a minute.
        mob.world.pass_secs(60);
        prop_assert_eq!(mob.world.broker.poll_timeout(), None);
        prop_assert!(mob.world.disk.is_empty(), "{:?}", mob.world.disk);
    }
}

const NAMES: [&str; 3] = ["x", "y", "z"];

/// Subscriptions and queued messages of a session of `x`.
const QUOTA: (usize, usize) = (2, 1);

/// Clients that know no rules; `z` may not read `secret`, and `x` has quotas at times.
struct Mob {
    world: World,
    conns: BTreeMap<usize, ConnId>,
    has_quota: bool,
    /// Subscriptions and queued messages of `x` when it was last looked at.
    kept: (usize, usize),
}

#[derive(Clone, Debug)]
enum Act {
    Connect(usize, [bool; 4]),
    Send(usize, Packet),
    Lose(usize),
    Wait(u64),
    Rules(bool),
    Flush(usize),
    Revoke(usize),
}

impl Mob {
    fn new() -> Self {
        let config = broker_core::Config {
            queue_messages_max: 3,
            receive_max: NonZeroU16::new(3).unwrap(),
            inflight_max: NonZeroU16::new(2).unwrap(),
            retained_messages_max: 3,
            unsent_bytes_soft: 100,
            unsent_bytes_hard: 400,
            ..broker_core::Config::default()
        };
        let mut world = World::with(config, Self::rules(true));
        world.flushing = false;
        world.disk.is_checked = false;
        Self { world, conns: BTreeMap::new(), has_quota: true, kept: (0, 0) }
    }

    fn rules(wide: bool) -> Vec<midge_policy::Rule> {
        let z = midge_policy::Rule { deny_receive: vec!["secret".into()], ..allow("z", &["#"], &["#"]) };
        let y: &[&str] = if wide { &["#"] } else { &["a"] };
        let quota = midge_policy::Quota {
            subscriptions: Some(QUOTA.0.try_into().unwrap()),
            queue_messages: Some(QUOTA.1.try_into().unwrap()),
            ..midge_policy::Quota::default()
        };
        let x = midge_policy::Rule { quota: Some(quota).filter(|_| wide), ..allow("x", &["#"], &["#"]) };
        vec![x, allow("y", y, y), z]
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Connect(who, [v5_, kept, mortal, narrow]) => {
                let mut connect = if kept { durable("c") } else { v5("c") };
                connect.version = if v5_ { V5 } else { V311 };
                connect.will = will("secret", "gone", 5).filter(|_| mortal);
                connect.topic_alias_max = 1;
                // A success of CONNECT fits, and not every reason string.
                connect.packet_size_max = (v5_ && narrow).then_some(24);
                connect.request_problem_info = !kept;
                let conn = self.world.connect(NAMES[who], connect);
                self.conns.insert(who, conn);
            }
            Act::Send(who, packet) => {
                if let Some(conn) = self.conns.get(&who) {
                    self.world.send(*conn, packet);
                }
            }
            Act::Lose(who) => {
                if let Some(conn) = self.conns.remove(&who) {
                    self.world.lose(conn);
                }
            }
            Act::Wait(secs) => self.world.pass_secs(secs),
            Act::Rules(wide) => {
                self.has_quota = wide;
                self.world.set_rules(Self::rules(wide));
            }
            Act::Flush(who) => {
                if let Some(conn) = self.conns.get(&who) {
                    self.world.flush(*conn);
                }
            }
            Act::Revoke(who) => self.world.revoke(NAMES[who]),
        }
    }

    fn check(&mut self) {
        let sessions = self.world.broker.sessions();
        let Metrics { connections, sessions: count, subscriptions, retained_messages, .. } =
            self.world.broker.metrics();
        let live = sessions.iter().filter(|s| matches!(s.state, SessionState::Live { .. })).count();
        assert_eq!((connections, count), (live as u64, sessions.len() as u64));
        assert_eq!(subscriptions, sessions.iter().map(|s| s.subscriptions.len() as u64).sum::<u64>());
        assert!(retained_messages <= 3);
        for session in &sessions {
            assert!(session.queued <= 3 && session.held <= 3, "{session:?}");
        }
        let own = self.world.session("x", "c").map(|own| (own.subscriptions.len(), own.queued));
        let (was, is) = (self.kept, own.unwrap_or_default());
        // What there is when a quota comes stays, and nothing is added beyond it.
        let is_within = is.0 <= QUOTA.0.max(was.0) && is.1 <= QUOTA.1.max(was.1);
        assert!(is_within || !self.has_quota, "{was:?} became {is:?}");
        self.kept = is;
        for (who, conn) in self.conns.clone() {
            let seen = self.world.take(conn);
            let close = seen.iter().position(|text| text.starts_with("CLOSE"));
            assert!(close.is_none_or(|at| at + 1 == seen.len()), "sent after a close: {seen:?}");
            if close.is_some() {
                self.conns.remove(&who);
            }
            assert!(who != 2 || !seen.iter().any(|text| text.starts_with("PUBLISH secret")), "{seen:?}");
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..NAMES.len();
    prop_oneof![
        3 => (who.clone(), any::<[bool; 4]>()).prop_map(|(who, how)| Act::Connect(who, how)),
        20 => (who.clone(), packet()).prop_map(|(who, packet)| Act::Send(who, packet)),
        1 => who.clone().prop_map(Act::Lose),
        1 => (1..4_000_u64).prop_map(Act::Wait),
        1 => any::<bool>().prop_map(Act::Rules),
        6 => who.clone().prop_map(Act::Flush),
        1 => who.prop_map(Act::Revoke),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    let id = 1..4_u16;
    let qos = prop_oneof![Just(Q0), Just(Q1), Just(Q2)];
    let topic = prop_oneof![Just("a"), Just("secret"), Just("b/c")];
    let filter = prop_oneof![
        Just("a"),
        Just("#"),
        Just("+/c"),
        Just("$share/g/#"),
        Just("$share/g/a"),
        Just("secret")
    ];
    let publishes = (topic, qos.clone(), id.clone(), any::<bool>(), 0..40_usize, 0..60_u32).prop_map(
        |(topic, qos, id, retain, len, expiry)| {
            let plain = expiring(topic, &"x".repeat(len), qos, expiry);
            let packet_id = plain.packet_id.map(|_| pid(id));
            Packet::Publish(Box::new(Publish { retain, packet_id, ..plain }))
        },
    );
    let reason = prop_oneof![9 => Just(ReasonCode::Success), 1 => Just(ReasonCode::UnspecifiedError)];
    let acks = (0..4_usize, id, reason).prop_map(|(kind, id, reason)| {
        let kinds: [fn(Ack) -> Packet; 4] = [Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp];
        kinds[kind](failed(id, reason))
    });
    prop_oneof![
        8 => publishes,
        8 => acks,
        4 => (filter.clone(), qos).prop_map(|(filter, qos)| subscribe([sub(filter, qos)])),
        2 => filter.prop_map(|filter| unsubscribe([filter])),
        1 => Just(Packet::PingReq),
        1 => Just(bye(ReasonCode::Success)),
    ]
}
