//! Somebody with an identity of its own among the clients of a history: it goes by their client ids, tries everything,
//! reads what its rights of the moment let it read, and nothing of what it is sent. The reference does not know of it:
//! whatever it does, the others are owed what they would be owed without it.

use crate::model::Who;
use crate::oracle::matches;
use crate::steps::{CLIENTS, drops_oldest};
use crate::world::*;
use broker_core::ConnId;
use midge_policy::{QueueOverflow, Quota, Rule};
use mqtt_proto::{Ack, Connect, Packet, Publish, QoS, ReasonCode, Will};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZeroU16;

pub(crate) const ATTACKER: &str = "mal";
/// The first is that of all others.
const CLIENT_IDS: [&str; 2] = ["c", "d"];
/// The last is its own, where it may do what it likes while it has that right.
const TOPICS: [&str; 5] = ["a", "a/b", "a/c", "d", "own/x"];
const FILTERS: [&str; 8] = ["a", "a/b", "a/#", "+/b", "#", "$share/g/a/#", "$share/g/#", "own/#"];
const QOS: [QoS; 3] = [Q0, Q1, Q2];

/// Of which of its two connections, and what it does on it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mischief {
    /// With the client id of the others or another; with a will for this topic.
    Connect {
        nth: usize,
        v5: bool,
        clean: bool,
        will: Option<(usize, u32)>,
    },
    Lose(usize),
    Leave(usize, bool),
    Subscribe(usize, usize, u8),
    Unsubscribe(usize, usize),
    Publish {
        nth: usize,
        topic: usize,
        qos: u8,
        retain: bool,
        empty: bool,
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, whether it is due or not.
    Acknowledge(usize, u8, u16),
    /// It gets these rights, one a bit.
    Rights(u8),
    /// Its registration entry is deleted; it is registered again when it connects.
    Revoked,
    /// What proved its identity does not hold any more.
    ProofEnds(usize),
}

#[derive(Default)]
pub(crate) struct Attacker {
    conns: BTreeMap<usize, ConnId>,
    /// One a bit.
    rights: u8,
}

/// The others may do everything, as far as this quota goes, except that they are not sent what the attacker may publish.
pub(crate) fn rules(rights: u8, quota: Quota) -> Vec<Rule> {
    let own = |who: Who| Rule {
        deny_receive: vec!["own/#".into()],
        queue_overflow: drops_oldest(who).then_some(QueueOverflow::DropOldest),
        quota: Some(quota).filter(|quota| *quota != Quota::default()),
        ..allow(CLIENTS[who].0, &["#"], &["#"])
    };
    // Each identity has two clients.
    let mut rules: Vec<Rule> = (0..CLIENTS.len()).step_by(2).map(own).collect();
    rules.push(allow("watch", &[], &["#"]));
    // It may be sent what others are, but takes it from nobody: it is in no share group.
    let bits = [
        Rule { share_groups: Some(Vec::new()), ..allow(ATTACKER, &[], &["a/#"]) },
        Rule { share_groups: Some(Vec::new()), ..allow(ATTACKER, &[], &["#"]) },
        Rule { receive: vec!["a/b".into()], ..allow(ATTACKER, &[], &[]) },
        Rule {
            subscribe_literal: vec!["#".into()],
            share_groups: Some(Vec::new()),
            ..allow(ATTACKER, &[], &[])
        },
        Rule { deny_receive: vec!["a/c".into()], ..allow(ATTACKER, &[], &[]) },
        Rule { share_groups: Some(Vec::new()), ..allow(ATTACKER, &["own/#"], &["own/#"]) },
        Rule { listener: vec!["websocket-tls".into()], ..allow(ATTACKER, &["#"], &["#"]) },
        Rule { client_id: vec!["e*".into()], ..allow(ATTACKER, &["#"], &["#"]) },
    ];
    let bits = bits.into_iter().enumerate().filter(|(bit, _)| rights >> bit & 1 == 1);
    rules.extend(bits.map(|(bit, rule)| Rule { name: format!("attacker-{bit}"), ..rule }));
    rules
}

impl Attacker {
    /// The rules of now.
    pub(crate) fn rules(&self, quota: Quota) -> Vec<Rule> {
        rules(self.rights, quota)
    }

    pub(crate) fn act(&mut self, world: &mut World, quota: Quota, mischief: Mischief) {
        match mischief {
            Mischief::Rights(rights) => {
                self.rights = rights;
                world.set_rules(self.rules(quota));
            }
            Mischief::Revoked => world.revoke(ATTACKER),
            Mischief::Connect { nth, v5: is_v5, clean, will } => {
                let connect = Connect {
                    version: if is_v5 { V5 } else { V311 },
                    clean_start: clean,
                    receive_max: NonZeroU16::new(2).filter(|_| is_v5),
                    will: will.and_then(|(topic, delay)| last_will(TOPICS[topic], delay)),
                    ..durable(CLIENT_IDS[nth])
                };
                self.conns.insert(nth, world.connect(ATTACKER, connect));
            }
            Mischief::Lose(nth) => {
                if let Some(conn) = self.conns.remove(&nth) {
                    world.lose(conn);
                }
            }
            Mischief::ProofEnds(nth) => {
                if let Some(conn) = self.conns.get(&nth) {
                    world.end_proof(*conn);
                }
            }
            Mischief::Leave(nth, with_will) => {
                let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
                self.say(world, nth, bye(reason));
            }
            Mischief::Subscribe(nth, filter, qos) => {
                self.say(world, nth, subscribe([sub(FILTERS[filter], QOS[usize::from(qos)])]));
            }
            Mischief::Unsubscribe(nth, filter) => self.say(world, nth, unsubscribe([FILTERS[filter]])),
            Mischief::Publish { nth, topic, qos, retain, empty } => {
                let payload = if empty { "" } else { ATTACKER };
                let plain = publish(TOPICS[topic], payload, QOS[usize::from(qos)]);
                self.say(world, nth, Packet::Publish(Box::new(Publish { retain, ..plain })));
            }
            Mischief::Acknowledge(nth, kind, id) => {
                let kinds: [fn(Ack) -> Packet; 4] =
                    [Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp];
                self.say(world, nth, kinds[usize::from(kind)](ack(id)));
            }
        }
    }

    fn say(&self, world: &mut World, nth: usize, packet: Packet) {
        if let Some(conn) = self.conns.get(&nth) {
            world.send(*conn, packet);
        }
    }

    /// Looks whether it got anywhere: that it may read what it reads, [`World::check_rights`] has asked.
    pub(crate) fn look(&mut self, world: &mut World) {
        self.conns.retain(|_, conn| !world.take(*conn).iter().any(|text| text.starts_with("CLOSE")));
        for session in world.broker.sessions().iter().filter(|session| *session.identity == spiffe(ATTACKER))
        {
            let shared = session.subscriptions.iter().find(|(filter, _)| filter.starts_with("$share"));
            assert_eq!(shared, None, "it may join no group");
        }
    }

    /// All its connections ended with the broker.
    pub(crate) fn restart(&mut self) {
        self.conns.clear();
    }

    /// Whether it asks for this topic and may have it.
    pub(crate) fn is_sent(world: &World, topic: &str) -> bool {
        world.broker.sessions().iter().filter(|session| *session.identity == spiffe(ATTACKER)).any(
            |session| {
                session.subscriptions.iter().any(|(filter, _)| matches(filter, topic))
                    && world.may_receive(ATTACKER, &session.client_id, topic)
            },
        )
    }
}

fn last_will(topic: &str, delay_secs: u32) -> Option<Will> {
    let mut last = will(topic, ATTACKER, delay_secs)?;
    (last.message.retain, last.message.qos) = (true, Q1);
    Some(last)
}

pub(crate) fn mischief() -> impl Strategy<Value = Mischief> {
    let nth = 0..CLIENT_IDS.len();
    let (topic, filter) = (0..TOPICS.len(), 0..FILTERS.len());
    let last = prop::option::weighted(0.3, (topic.clone(), 0..5_u32));
    // Mostly rights to read, which it needs to have anything taken from it.
    let rights = prop_oneof![Just(0), Just(1), Just(0b10_0010), Just(0b1_0010), any::<u8>()];
    prop_oneof![
        4 => (nth.clone(), any::<bool>(), any::<bool>(), last)
            .prop_map(|(nth, v5, clean, will)| Mischief::Connect { nth, v5, clean, will }),
        1 => nth.clone().prop_map(Mischief::Lose),
        1 => (nth.clone(), any::<bool>()).prop_map(|(nth, with_will)| Mischief::Leave(nth, with_will)),
        4 => (nth.clone(), filter.clone(), 0..3_u8).prop_map(|(nth, filter, qos)| Mischief::Subscribe(nth, filter, qos)),
        1 => (nth.clone(), filter).prop_map(|(nth, filter)| Mischief::Unsubscribe(nth, filter)),
        4 => (nth.clone(), topic, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
            |(nth, topic, qos, retain, empty)| Mischief::Publish { nth, topic, qos, retain, empty }
        ),
        2 => (nth.clone(), 0..4_u8, 1..4_u16).prop_map(|(nth, kind, id)| Mischief::Acknowledge(nth, kind, id)),
        3 => rights.prop_map(Mischief::Rights),
        1 => Just(Mischief::Revoked),
        1 => nth.prop_map(Mischief::ProofEnds),
    ]
}
