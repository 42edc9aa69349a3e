//! Random histories of several clients and an attacker, held against the reference in [`crate::model`].
//!
//! `PROPTEST_CASES=100000 cargo test --release -p broker-core --test broker histories` plays many. By now more than
//! 260,000 have been played, 50,000 since packet identifiers are given in turn; what they found is in `failed_once.rs`.

use crate::attacker::{ATTACKER, Attacker};
use crate::model::{Conn, Message, Model, Session, Subscribed, Turn, Who};
use crate::seen::Seen;
use crate::steps::{CLIENTS, Closing, Op, Opening, PLAIN, Said, Wish, all_of, history, kept};
use crate::tally::Tally;
use crate::world::*;
use broker_core::{Config, ConnId, Origin, Record};
use midge_policy::Quota;
use mqtt_proto::{
    Connect, Disconnect, Packet, Publication, Publish, PublishProperties, QoS, ReasonCode, RetainHandling,
    Subscription, Will,
};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

const QOS: [QoS; 3] = [Q0, Q1, Q2];
const HANDLING: [RetainHandling; 3] =
    [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
/// A topic that no history knows.
const PROBE: &str = "e";
/// Seconds a 3.1.1 session is kept: longer than any history.
const KEPT: u32 = 24 * 3600;

pub(crate) struct Play {
    pub(crate) world: World,
    pub(crate) model: Model,
    pub(crate) conns: BTreeMap<Who, ConnId>,
    attacker: Attacker,
    number: u32,
    /// Whether the last packet went the short way, where that was open.
    is_short: bool,
}

/// What is said, and the answer that is due.
type Exchange = (Packet, Option<String>);

/// Plays a history; panics where the broker does what the reference does not allow.
pub(crate) fn play(history: &[Op]) -> Tally {
    let config = Config { unsent_bytes_soft: 300, unsent_bytes_hard: 900, ..Config::default() };
    let (model, attacker) = (Model::default(), Attacker::default());
    let mut world = World::with(config, attacker.rules(model.quota));
    world.deaf = Some(spiffe(ATTACKER));
    let mut play = Play { world, model, conns: BTreeMap::new(), attacker, number: 0, is_short: false };
    for op in history {
        play.act(*op);
    }
    play.finish();
    play.model.tally
}

impl Play {
    pub(crate) fn is_v5(&self, who: Who) -> bool {
        self.model.sessions[&who].conn.as_ref().unwrap().v5
    }

    pub(crate) fn message(&mut self, who: Who, said: Said, v5: bool) -> Message {
        self.number += 1;
        Message {
            topic: said.topic,
            // Elsewhere it would only be like others.
            payload: if said.empty && said.retain { String::new() } else { self.number.to_string() },
            qos: QOS[usize::from(said.qos)],
            retain: said.retain,
            from: who,
            received: self.model.now,
            lasts: said.lasts.filter(|_| v5).map(u64::from),
        }
    }

    /// The first from this one on who is connected and can.
    pub(crate) fn deputy(&self, who: Who, can: impl Fn(&Session) -> bool) -> Option<Who> {
        let mut all = (0..CLIENTS.len()).map(|on| (who + on) % CLIENTS.len());
        all.find(|who| self.conns.contains_key(who) && can(&self.model.sessions[who]))
    }

    /// An operation of who is not connected, or has nothing to do it with, is left to the next one.
    fn handed_on(&self, mut op: Op) -> Option<Op> {
        let asked = op;
        if let Op::Lose(who)
        | Op::Disconnect(who, _)
        | Op::Subscribe(who, _)
        | Op::Unsubscribe(who, _)
        | Op::Leave(who, _)
        | Op::Publish(who, ..)
        | Op::Release(who, _)
        | Op::EndInput(who, _)
        | Op::ReleaseHeld(who, _)
        | Op::Acknowledge(who, ..) = &mut op
        {
            *who = self.deputy(*who, |session| match asked {
                Op::ReleaseHeld(..) => session.nth_held(0).is_some(),
                Op::Acknowledge(..) => !session.flight.is_empty(),
                _ => true,
            })?;
        }
        Some(op)
    }

    fn act(&mut self, op: Op) {
        let Some(op) = self.handed_on(op) else { return };
        match op {
            Op::Connect(who, opening) => self.connect(who, opening),
            Op::Wait(secs) => {
                for _ in 0..secs {
                    self.world.turns();
                    self.world.watched(|world| world.pass_secs(1));
                    let turns = self.turns();
                    self.model.pass(1, &turns);
                    self.look(None);
                }
            }
            Op::Restart(down_secs) => {
                self.world.turns();
                self.world.crash_watched(down_secs);
                let turns = self.turns();
                self.model.restart(down_secs, &turns);
                for (_, conn) in std::mem::take(&mut self.conns) {
                    assert_eq!(self.world.take(conn), [""; 0]);
                }
                self.attacker.restart();
                self.look(None);
            }
            Op::Attack(mischief) => {
                self.attacker.act(&mut self.world, self.model.quota, mischief);
                self.look(None);
            }
            Op::Limit(quota) => {
                self.model.quota = quota;
                self.world.set_rules(self.attacker.rules(quota));
                self.look(None);
            }
            Op::Lose(who) => {
                let conn = self.conns.remove(&who).unwrap();
                self.model.lose(who, true);
                self.world.lose(conn);
                self.look(None);
            }
            Op::Disconnect(who, closing) => self.disconnect(who, closing),
            Op::Subscribe(who, wish) => {
                if let Some((packet, answer)) = self.subscribe(who, wish) {
                    self.send(who, packet, answer);
                }
            }
            Op::Unsubscribe(who, filter) => {
                let (packet, answer) = self.unsubscribe(who, filter);
                self.send(who, packet, answer);
            }
            Op::Leave(who, nth) => {
                if let Some(filter) = self.model.sessions[&who].nth_filter(nth) {
                    self.act(Op::Unsubscribe(who, filter));
                }
            }
            Op::Publish(who, id, said) => {
                let (packet, answer) = self.publish(who, id, said);
                self.send(who, packet, answer);
            }
            Op::ReleaseHeld(who, nth) => {
                if let Some(id) = self.model.sessions[&who].nth_held(nth) {
                    self.act(Op::Release(who, id));
                }
            }
            Op::Release(who, id) => {
                let (packet, answer) = self.release(who, id);
                self.send(who, packet, answer);
            }
            Op::EndInput(who, farewell) => self.end_input(who, farewell),
            Op::Acknowledge(who, nth, fails) => self.acknowledge(who, nth, fails),
        }
    }

    /// What the broker did by itself.
    fn turns(&mut self) -> Vec<Turn> {
        let turns = self.world.turns().into_iter().filter_map(|(ended, identity, client_id)| {
            let is_it = |(name, id): &(&str, &str)| spiffe(name) == identity && **id == *client_id;
            let who = CLIENTS.iter().position(is_it)?;
            Some(if ended == Ended::Connection { Turn::Will(who) } else { Turn::End(who) })
        });
        turns.collect()
    }

    pub(crate) fn connect(
        &mut self,
        who: Who,
        Opening { v5: is_v5, clean, expiry, window, aliases, will }: Opening,
    ) {
        // A 3.1.1 client says Clean Session and no more than that.
        let kept = match (is_v5, clean) {
            (true, _) => expiry,
            (false, true) => 0,
            (false, false) => KEPT,
        };
        let delay = |delay: u32| if is_v5 { delay } else { 0 };
        // Nobody sees when one goes out that expires at once, and so what is retained after it.
        let seen = |said: Said| Said { retain: said.retain && said.lasts != Some(0), ..said };
        let will = will.map(|(said, secs)| (self.message(who, seen(said), is_v5), delay(secs)));
        let connect = Connect {
            version: if is_v5 { V5 } else { V311 },
            clean_start: clean,
            session_expiry_secs: is_v5.then_some(expiry),
            receive_max: NonZeroU16::new(window).filter(|_| is_v5),
            topic_alias_max: if is_v5 { aliases } else { 0 },
            will: will
                .as_ref()
                .map(|(message, secs)| Will { message: publication(message), delay_secs: *secs }),
            ..v5(CLIENTS[who].1)
        };
        if !self.model.may_connect(who) {
            let refused = self.world.connect(CLIENTS[who].0, connect);
            self.world.expect(refused, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
            self.model.tally.refused.sessions += 1;
            return self.look(None);
        }
        let window = if is_v5 { usize::from(window) } else { usize::MAX };
        let old = self.conns.remove(&who).map(|old| (old, self.is_v5(who)));
        let conn = Conn { v5: is_v5, window, will: will.map(|(message, secs)| (message, secs.into())) };
        let present = if self.model.connect(who, clean, kept.into(), conn) { " present" } else { "" };
        let new = self.world.connect(CLIENTS[who].0, connect);
        self.conns.insert(who, new);
        if let Some((old, was_v5)) = old {
            let seen = self.world.take(old);
            // What goes out at the end of the old connection, such as its own will, it does not see.
            let expected: &[&str] =
                if was_v5 { &["DISCONNECT 8E", "CLOSE TakenOver"] } else { &["CLOSE TakenOver"] };
            assert_eq!(seen, expected);
        }
        self.look(Some((who, format!("CONNACK 00{present}"))));
    }

    fn disconnect(&mut self, who: Who, Closing { with_will, expiry }: Closing) {
        let is_v5 = self.is_v5(who);
        let (with_will, expiry) = (with_will && is_v5, expiry.filter(|_| is_v5));
        let session = self.model.sessions.get_mut(&who).unwrap();
        let refused = session.expiry == 0 && expiry.is_some_and(|secs| secs > 0);
        if !refused {
            session.expiry = expiry.map_or(session.expiry, u64::from);
        }
        self.model.lose(who, with_will || refused);
        let conn = self.conns.remove(&who).unwrap();
        let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
        let packet = Disconnect { session_expiry_secs: expiry, ..disconnect(reason) };
        self.world.send(conn, Packet::Disconnect(Box::new(packet)));
        let seen = self.world.take(conn);
        if refused {
            assert_eq!(seen, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
        } else {
            assert_eq!(seen, [format!("CLOSE ClientDisconnected({reason:?})")]);
        }
        self.look(None);
    }

    /// Tells the reference of a subscription, if that is one that it can judge.
    pub(crate) fn subscribe(&mut self, who: Who, wish: Wish) -> Option<Exchange> {
        if !self.model.is_clear(who, wish.filter) {
            return None;
        }
        let is_v5 = self.is_v5(who);
        let is_shared = wish.filter.starts_with("$share/");
        let handling = if is_v5 { HANDLING[usize::from(wish.handling)] } else { RetainHandling::Send };
        let subscribed = Subscribed {
            qos: QOS[usize::from(wish.qos)],
            no_local: wish.no_local && is_v5 && !is_shared,
            retain_as_published: wish.retain_as_published && is_v5,
            id: wish.id.filter(|_| is_v5),
        };
        let subscription = Subscription {
            no_local: subscribed.no_local,
            retain_as_published: subscribed.retain_as_published,
            retain_handling: handling,
            ..sub(wish.filter, subscribed.qos)
        };
        let packet = subscribe_with_id(subscribed.id, [subscription]);
        if !self.model.may_subscribe(who, wish.filter) {
            self.model.tally.refused.subscriptions += 1;
            let code = if is_v5 { "97" } else { "80" };
            return Some((packet, Some(format!("SUBACK 77 [{code}]"))));
        }
        self.model.subscribe(who, wish.filter, subscribed, handling);
        Some((packet, Some(format!("SUBACK 77 [0{}]", wish.qos))))
    }

    pub(crate) fn unsubscribe(&mut self, who: Who, filter: &'static str) -> Exchange {
        let code = if self.model.unsubscribe(who, filter) { "00" } else { "11" };
        (unsubscribe([filter]), Some(format!("UNSUBACK 78 [{code}]")))
    }

    pub(crate) fn release(&mut self, who: Who, id: u16) -> Exchange {
        let code = if self.model.release(who, id) || !self.is_v5(who) { "00" } else { "92" };
        (Packet::PubRel(ack(id)), Some(format!("PUBCOMP {id} {code}")))
    }

    pub(crate) fn publish(&mut self, who: Who, id: u16, said: Said) -> Exchange {
        let is_v5 = self.is_v5(who);
        let message = self.message(who, said, is_v5);
        let Publication { topic, payload, qos, retain, properties } = publication(&message);
        let packet = Publish {
            topic: Some(topic),
            payload,
            retain,
            properties,
            packet_id: (qos != Q0).then(|| pid(id)),
            ..publish("unused", "", qos)
        };
        // [MQTT-3.4.2-1]: 0x10 is for who asks nobody.
        let is_wanted = self.model.is_wanted(message.topic) || Attacker::is_sent(&self.world, message.topic);
        let code = if is_wanted || !is_v5 { "00" } else { "10" };
        let answer = match qos {
            Q0 => None,
            Q1 => Some(format!("PUBACK {id} {code}")),
            Q2 => Some(format!("PUBREC {id} 00")),
        };
        let is_known = qos == Q2 && self.model.is_held(who, id);
        if is_v5 && qos != Q0 && !is_known && !self.model.may_retain(&message) {
            self.model.tally.refused.retained += 1;
            let answer = answer.and_then(|answer| Some(format!("{} 97", answer.rsplit_once(' ')?.0)));
            return (Packet::Publish(Box::new(packet)), answer);
        }
        match qos {
            Q2 => self.model.hold(who, id, message),
            Q0 | Q1 => self.model.distribute(message),
        }
        (Packet::Publish(Box::new(packet)), answer)
    }

    fn acknowledge(&mut self, who: Who, nth: usize, fails: bool) {
        let fails = fails && self.is_v5(who);
        let session = &self.model.sessions[&who];
        // Also what it was sent on an earlier connection and waits to be sent again.
        let Some(flight) = session.flight.iter().cycle().nth(nth) else { return };
        let (id, qos, released) = (flight.pid, flight.owed.qos, flight.released.is_some());
        let acknowledgement = if fails { failed(id, ReasonCode::UnspecifiedError) } else { ack(id) };
        let (packet, answer) = match (qos, released) {
            (Q2, false) if !fails => {
                self.model.received(who, id);
                (Packet::PubRec(ack(id)), Some(format!("PUBREL {id} 00")))
            }
            (Q2, true) => (Packet::PubComp(ack(id)), None),
            (Q2, false) => (Packet::PubRec(acknowledgement), None),
            _ => (Packet::PubAck(acknowledgement), None),
        };
        if answer.is_none() {
            self.model.finish(who, id);
        }
        self.send(who, packet, answer);
    }

    fn send(&mut self, who: Who, packet: Packet, answer: Option<String>) {
        // As the shell does, and the other way.
        self.is_short = !self.is_short;
        let send = if self.is_short { World::send_shortly } else { World::send };
        send(&mut self.world, self.conns[&who], packet);
        self.look(answer.map(|answer| (who, answer)));
    }

    /// Holds what all clients saw against what they are owed. A disk that was slow is through by then.
    pub(crate) fn look(&mut self, mut answer: Option<(Who, String)>) {
        self.world.end_slowness();
        self.model.is_slow = false;
        for (who, conn) in self.conns.clone() {
            for text in self.world.take(conn) {
                if let Some(seen) = Seen::read(&text) {
                    self.model.sent(who, &seen);
                } else if answer.as_ref() == Some(&(who, text.clone())) {
                    answer = None;
                } else {
                    let is_again = self.hear_pubrel(who, &text);
                    assert!(is_again, "{text} to {who} answers nothing, {answer:?} is due");
                }
            }
        }
        assert_eq!(answer, None, "an answer is missing");
        self.attacker.look(&mut self.world);
        self.model.settle();
    }

    /// Takes a PUBREL that comes again, by itself. Tells whether it is one.
    pub(crate) fn hear_pubrel(&mut self, who: Who, text: &str) -> bool {
        let id = text.strip_prefix("PUBREL ").and_then(|rest| rest.strip_suffix(" 00"));
        id.is_some_and(|id| {
            self.model.pubrel(who, id.parse().unwrap());
            true
        })
    }

    /// Everybody who still has a session comes back and acknowledges everything: then nothing is owed.
    fn finish(&mut self) {
        let sessions: Vec<Who> = self.model.sessions.keys().copied().collect();
        for who in sessions {
            self.connect(who, Opening { expiry: 100, window: 2, ..PLAIN });
        }
        self.probe();
        let in_flight = |play: &Self| {
            let mut sessions = play.model.sessions.iter();
            sessions.find(|(_, session)| !session.flight.is_empty()).map(|(who, _)| *who)
        };
        while let Some(who) = in_flight(self) {
            self.acknowledge(who, 0, false);
        }
        for who in self.conns.keys().copied().collect::<Vec<_>>() {
            let (name, client_id) = CLIENTS[who];
            let session = self.world.session(name, client_id).unwrap();
            assert_eq!((session.queued, session.queued_bytes), (0, 0));
        }
        self.check_disk();
    }

    /// Sets quotas of just what one has, which has to be counted right then, and of one more: the reference says that
    /// what is added is refused first and taken then.
    fn probe(&mut self) {
        let Some(who) = self.conns.keys().next_back().copied() else { return };
        for (more, id) in [(0, 1), (1, 2)] {
            self.act(Op::Limit(self.model.exact(who, PROBE, more)));
            self.act(Op::Publish(who, id, kept(PROBE, 1)));
            self.act(Op::Subscribe(who, all_of(PROBE)));
            if let Some(other) = (0..CLIENTS.len()).find(|other| !self.conns.contains_key(other)) {
                self.act(Op::Connect(other, PLAIN));
            }
        }
        self.act(Op::Limit(Quota::default()));
    }

    /// Nobody but the attacker waits for anything: the store holds what is retained and what waits for PUBREL, and
    /// nothing else.
    fn check_disk(&self) {
        let records = self.world.disk.read();
        let theirs = records.iter().filter(|(key, _)| {
            !records.iter().any(|(session, record)| {
                matches!(record, Record::Session(session) if *session.identity == spiffe(ATTACKER))
                    && session.number == key.owner
            })
        });
        let is_retained = |number| {
            records.iter().any(|(key, record)| matches!(record, Record::Retained) && key.number == number)
        };
        let (mut held, mut retained) = (0, BTreeSet::new());
        for (key, record) in theirs {
            match record {
                Record::Queued(_) | Record::Lent(_) | Record::Outgoing(_) => {
                    panic!("{key} stays: {record:?}")
                }
                Record::Held(_) => held += 1,
                // Another one waits for the attacker: each is there for somebody (`Disk::check`).
                Record::Message(stored) if is_retained(key.number) => {
                    let (topic, origin) =
                        (stored.message.publication().topic.as_str(), stored.message.origin());
                    let is_theirs =
                        !matches!(origin, Origin::Client { identity, .. } if **identity == spiffe(ATTACKER));
                    retained.extend(is_theirs.then(|| topic.to_owned()));
                }
                Record::Will(record) => assert_eq!(*record.identity, spiffe(ATTACKER)),
                Record::Time(_) => {}
                Record::Revoked(_) => panic!("{key} stays: {record:?}"),
                Record::Session(_) | Record::Subscription(_) | Record::Message(_) | Record::Retained => {}
            }
        }
        assert_eq!(held, self.model.held());
        assert_eq!(retained, self.model.retained_topics());
    }
}

fn publication(message: &Message) -> Publication {
    let lasts = message.lasts.map(|secs| u32::try_from(secs).unwrap());
    let properties = PublishProperties { message_expiry_secs: lasts, ..PublishProperties::default() };
    Publication {
        topic: topic_name(message.topic),
        payload: message.payload.clone().into(),
        qos: message.qos,
        retain: message.retain,
        properties: lasts.map(|_| Arc::new(properties)),
    }
}

/// The same histories in each run of the tests, so that a run says something of the change at hand; others where a
/// number of them is asked for.
pub(crate) fn seed() -> RngSeed {
    if std::env::var_os("PROPTEST_CASES").is_some() { RngSeed::Random } else { RngSeed::Fixed(7) }
}

#[test]
fn every_history_is_one_the_reference_allows() {
    let config = ProptestConfig { failure_persistence: None, rng_seed: seed(), ..ProptestConfig::default() };
    let cases = config.cases;
    let all = RefCell::new(Tally::default());
    TestRunner::new(config)
        .run(&history(), |history| {
            let history: Vec<Op> = history.iter().map(|step| step.0).collect();
            let ends = play(&history);
            all.borrow_mut().add(ends);
            Ok::<(), TestCaseError>(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let all = all.into_inner();
    println!("{all}");
    // Who never gets to the end of an exchange finds nothing there.
    assert!(cases < 200 || all.least() > cases / 100, "too little came to its end: {all}");
}
