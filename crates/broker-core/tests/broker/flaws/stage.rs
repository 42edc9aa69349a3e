//! Where journeys are played: one writer, one reader, a guest who has the rights of both, and whoever intrudes.

use super::course::Course;
use super::losses::{Change, GUEST, Kind, Loss, OPS, PRESS, Side, rules};
use crate::seen::Seen;
use crate::svid::peer_until;
use crate::world::*;
use broker_core::{Config, ConnId, Durability};
use midge_identity::VerifiedPeer;
use midge_policy::{Policy, Rule};
use mqtt_proto::{Connect, Packet, Publish, ReasonCode};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

/// What an intruder says in the name of others.
pub(super) const FORGED: &str = "forged";

pub(super) type Step = fn(&mut Stage<'_>);

/// How something happens to those who are on stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Manner {
    /// What it leaves to be done is done at once.
    Settled,
    /// What it leaves to be done is not done before the end.
    Left,
    /// What it leaves to be done is not done when the broker is killed.
    ThenKilled,
    /// While the broker is down, after a kill or a planned stop.
    Down { planned: bool },
}

impl Manner {
    pub(super) fn is_restart(self) -> bool {
        matches!(self, Self::ThenKilled | Self::Down { .. })
    }
}

/// What happens before one step of a journey.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Changes(Change),
    /// The client is gone, and takes its will with it.
    Leaves(Side),
}

/// The rules of a journey after each change, compiled once.
#[derive(Default)]
pub(super) struct Policies(RefCell<Vec<(Change, Compiled)>>);

type Compiled = (Vec<Rule>, Arc<Policy>);

impl Policies {
    fn after(&self, course: &Course, change: Change) -> Compiled {
        let mut known = self.0.borrow_mut();
        if let Some((_, compiled)) = known.iter().find(|(of, _)| *of == change) {
            return compiled.clone();
        }
        let rules = rules(course, change);
        let policy = Policy::compile(rules.clone(), known.len() as u64 + 1).unwrap();
        let compiled = (rules, Arc::new(policy));
        known.push((change, compiled.clone()));
        compiled
    }
}

/// One way to play a journey.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) course: &'a Course,
    pub(super) policies: &'a Policies,
    pub(super) steps: &'a [Step],
    pub(super) at: usize,
    /// Seconds that pass before the event.
    pub(super) secs: u64,
    pub(super) event: Event,
    pub(super) manner: Manner,
    /// Seconds after the start when the event comes.
    pub(super) time: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// What was delivered of the message, before the event and from there on.
    pub(super) before: BTreeSet<String>,
    pub(super) after: BTreeSet<String>,
    /// From the event on something began at a QoS above 0.
    pub(super) is_raised: bool,
    /// From the event on something may have been said that nobody was there to read.
    pub(super) may_be_missed: bool,
    /// Seconds after the start at which each step began.
    pub(super) times: Vec<u64>,
}

impl Played {
    pub(super) fn all(&self) -> BTreeSet<&String> {
        self.before.union(&self.after).collect()
    }
}

thread_local! {
    static PEERS: RefCell<BTreeMap<(&'static str, u64), VerifiedPeer>> = const { RefCell::new(BTreeMap::new()) };
}

fn mortal_peer(who: &'static str, until_secs: u64) -> VerifiedPeer {
    let make = || peer_until(who, until_secs);
    PEERS.with_borrow_mut(|peers| peers.entry((who, until_secs)).or_insert_with(make).clone())
}

pub(super) struct Stage<'a> {
    pub(super) world: World,
    pub(super) course: Course,
    plan: Plan<'a>,
    is_over: bool,
    press: Option<(ConnId, Connect)>,
    ops: Option<(ConnId, Connect)>,
    guest: Option<ConnId>,
    /// Every connection that `ops` had.
    readers: Vec<ConnId>,
    intruders: Vec<ConnId>,
    /// The connection on which the topic has an alias.
    aliased: Option<ConnId>,
    /// Whether something waited for the disk when the event came: an exchange that had begun.
    is_begun: bool,
    said: u32,
    played: Played,
}

impl<'a> Stage<'a> {
    fn new(plan: Plan<'a>) -> Self {
        let course = plan.course.clone();
        let (rules, policy) = plan.policies.after(&course, Change::Nothing);
        let config = Config { durability: Durability::ProcessCrash, ..course.config.clone() };
        let mut world = World::governed(config, rules, policy);
        world.listener = listener("tls", course.mode);
        world.settling = !matches!(plan.manner, Manner::Left | Manner::ThenKilled);
        let mut stage = Self {
            world,
            course,
            plan,
            is_over: false,
            press: None,
            ops: None,
            guest: None,
            readers: Vec::new(),
            intruders: Vec::new(),
            aliased: None,
            is_begun: false,
            said: 0,
            played: Played::default(),
        };
        let guest = stage.world.connect_peer(stage.peer(GUEST), v5("c"));
        let filter = stage.course.filter().replace("$share/g/", "");
        stage.world.send(guest, subscribe([sub(&filter, Q0)]));
        stage.guest = Some(guest);
        stage
    }

    pub(super) fn play(plan: Plan<'a>) -> Played {
        let mut stage = Self::new(plan);
        for (number, step) in plan.steps.iter().enumerate() {
            if number == plan.at {
                stage.happen();
            }
            stage.played.times.push(stage.world.now.wall.since(START).as_secs());
            step(&mut stage);
            stage.look();
        }
        stage.world.finish_backlog();
        stage.look();
        stage.played
    }

    fn loss(&self) -> Option<Loss> {
        match self.plan.event {
            Event::Changes(Change::Loses(loss)) => Some(loss),
            Event::Changes(_) | Event::Leaves(_) => None,
        }
    }

    fn peer(&self, who: &'static str) -> VerifiedPeer {
        let is_mortal = |loss: &Loss| loss.kind == Kind::Svid && loss.who == who;
        match self.loss().filter(is_mortal) {
            Some(loss) if !self.is_over => mortal_peer(who, self.plan.time + loss.secs()),
            _ => peer(who),
        }
    }

    /// Who has no entry any more the shell would not let in.
    fn is_barred(&self, who: &str) -> bool {
        self.is_over && self.loss().is_some_and(|loss| loss.kind == Kind::Entry && loss.who == who)
    }

    fn happen(&mut self) {
        self.world.pass_secs(self.plan.secs);
        self.look();
        let is_down = matches!(self.plan.manner, Manner::Down { .. });
        if self.plan.manner == (Manner::Down { planned: true }) {
            self.world.end();
            self.look();
        }
        (self.is_over, self.is_begun) = (true, !self.world.disk.pending.is_empty());
        match self.plan.event {
            Event::Leaves(Side::Source) => self.press_sends(bye(ReasonCode::Success)),
            Event::Leaves(Side::Sink) => {
                if let Some((conn, _)) = &self.ops {
                    self.world.lose(*conn);
                }
            }
            Event::Changes(change) => self.change(change, is_down),
        }
        self.look();
        if self.plan.manner.is_restart() {
            self.restart();
        }
    }

    fn change(&mut self, change: Change, is_down: bool) {
        let (rules, policy) = self.plan.policies.after(&self.course, change);
        match change {
            Change::Nothing => {}
            Change::Loses(loss) if loss.kind == Kind::Entry && is_down => {
                self.world.revoke_while_down(loss.who);
            }
            Change::Loses(loss) if loss.kind == Kind::Entry => self.world.revoke(loss.who),
            Change::Loses(loss) if loss.kind == Kind::Svid => {}
            Change::Loses(loss) if loss.kind == Kind::Proof => {
                let conn = |party: &Option<(ConnId, _)>| party.as_ref().map(|(conn, _)| *conn);
                let conn = match loss.who {
                    PRESS => conn(&self.press),
                    OPS => conn(&self.ops),
                    _ => self.guest,
                };
                if let Some(conn) = conn {
                    self.world.end_proof(conn);
                }
            }
            Change::More | Change::Loses(_) if is_down => self.world.change_policy_while_down(rules, policy),
            Change::More | Change::Loses(_) => self.world.set_policy(rules, policy),
        }
    }

    /// The broker starts again, and who was connected connects again.
    fn restart(&mut self) {
        self.note_absence(self.course.is_will);
        // What waits for the disk is stored, and the broker does not learn of it.
        self.world.disk.commit();
        self.world.crash(0);
        let (press, ops) = (self.press.take(), self.ops.take());
        if let Some((_, connect)) = ops {
            self.ops_connects(connect);
        }
        if let Some((_, connect)) = press {
            self.press_connects(connect);
        }
        self.look();
    }

    /// What is said at QoS 0 while its reader is away, or does not read, is missed.
    fn note_absence(&mut self, is_away: bool) {
        let is_reading = self.ops.is_some() && self.world.flushing;
        self.played.may_be_missed |= self.is_over && (is_away || !is_reading);
    }

    pub(super) fn press_connects(&mut self, connect: Connect) {
        self.note_absence(false);
        if !self.is_barred(PRESS) {
            let conn = self.world.connect_peer(self.peer(PRESS), connect.clone());
            self.press = Some((conn, connect));
        }
    }

    pub(super) fn ops_connects(&mut self, connect: Connect) {
        if !self.is_barred(OPS) {
            let conn = self.world.connect_peer(self.peer(OPS), connect.clone());
            self.ops = Some((conn, connect));
            self.readers.push(conn);
        }
    }

    /// Connects with the message as the will.
    pub(super) fn press_connects_mortal(&mut self, delay_secs: u32, connect: Connect) {
        let payload = self.payload();
        let will = self.course.will(&payload, delay_secs);
        self.press_connects(Connect { will, ..connect });
    }

    pub(super) fn press_sends(&mut self, packet: Packet) {
        self.note_absence(false);
        if let Some((conn, _)) = &self.press {
            self.world.send(*conn, packet);
        }
    }

    /// Names the topic the first time, and nothing but its alias from then on.
    pub(super) fn press_publishes_by_alias(&mut self) {
        let conn = self.press.as_ref().map(|(conn, _)| *conn);
        let is_known = self.aliased == conn;
        self.aliased = conn;
        let payload = self.payload();
        let plain = self.course.publish(&payload);
        let topic = plain.topic.clone().filter(|_| !is_known);
        self.press_sends(Packet::Publish(Box::new(Publish {
            topic,
            topic_alias: NonZeroU16::new(1),
            ..plain
        })));
    }

    pub(super) fn ops_sends(&mut self, packet: Packet) {
        if let Some((conn, _)) = &self.ops {
            self.world.send(*conn, packet);
        }
    }

    pub(super) fn press_is_lost(&mut self) {
        self.note_absence(false);
        if let Some((conn, _)) = self.press.take() {
            self.world.lose(conn);
        }
    }

    pub(super) fn ops_is_lost(&mut self) {
        if let Some((conn, _)) = self.ops.take() {
            self.world.lose(conn);
        }
    }

    pub(super) fn passes(&mut self, secs: u64) {
        self.note_absence(false);
        self.world.pass_secs(secs);
    }

    /// Reads everything that it was sent.
    pub(super) fn ops_reads(&mut self) {
        self.world.flushing = true;
        if let Some((conn, _)) = &self.ops {
            self.world.flush(*conn);
        }
    }

    /// Somebody else connects, with what it likes to say.
    pub(super) fn intrudes(&mut self, connect: Connect, says: &[Packet]) {
        let conn = self.world.connect("intruder", connect);
        self.intruders.push(conn);
        says.iter().for_each(|packet| self.world.send(conn, packet.clone()));
    }

    /// A CONNECT of a party that is refused, for a will that nobody may leave.
    pub(super) fn is_refused(&mut self, who: &'static str) {
        if !self.is_barred(who) {
            let conn = self.world.connect_peer(peer(who), Connect { will: will("$SYS/x", "", 0), ..v5("c") });
            self.world.lose(conn);
        }
    }

    /// Another payload for each time that the message is said.
    pub(super) fn payload(&mut self) -> String {
        self.said += 1;
        self.said.to_string()
    }

    fn look(&mut self) {
        for conn in &self.intruders {
            let seen = self.world.take(*conn);
            assert!(!seen.iter().any(|text| text.starts_with("PUBLISH")), "an intruder reads {seen:?}");
        }
        for conn in &self.readers {
            let seen = self.world.take(*conn);
            for seen in seen.iter().filter_map(|text| Seen::read(text)) {
                if seen.topic != self.course.topic {
                    continue;
                }
                assert_ne!(seen.payload, FORGED);
                let played = &mut self.played;
                played.is_raised |= self.is_over && seen.qos != Q0 && !seen.dup && !self.is_begun;
                let delivered = if self.is_over { &mut played.after } else { &mut played.before };
                delivered.insert(seen.payload);
            }
        }
    }
}
