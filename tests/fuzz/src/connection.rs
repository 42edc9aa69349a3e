//! Two parties at one broker: bytes of theirs, broken links, time, a changing policy, a disk, and kills.

mod party;

use broker_core::{
    AuthOutcome, Broker, Change, CloseCause, Config, ConnId, Durability, Effect, Now, PolicyChange, Record,
    RecordKey, SessionSnapshot, SessionState, StoreBatch,
};
use midge_identity::UnixMillis;
use midge_policy::{Policy, Rule};
use party::{Party, open};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps: a byte whose upper half says what happens and whose lowest bit says to whom.
///
/// 0 to 7: the party sends bytes, as many as the next byte says. 8: it sends nothing more, and may still listen. 9: its authentication is judged. 10: its link breaks. 11: time passes, in seconds. 12: the
/// disk stores what waits. 13: the broker is killed and starts again. 14: the party reads what it was sent. 15: the
/// policy changes.
///
/// Whatever comes: what the broker sends is MQTT of the version and size the party asked for, in an order that
/// MQTT allows; its counts agree; what it stores can be read back; and who sends nothing more is kept for what the disk
/// is to store, and no longer.
pub fn connection(input: &[u8]) {
    let mut scene = Scene::new();
    let mut rest = input;
    while let [step, after @ ..] = rest {
        let who = usize::from(step & 1);
        let (argument, after) = after.split_first().map_or((0, after), |(first, after)| (*first, after));
        rest = after;
        match step >> 4 {
            8 => scene.end_input(who),
            9 => scene.judge(who, argument),
            10 => scene.lose(who),
            11 => scene.pass(argument),
            12 => scene.store(),
            13 => scene.kill(argument),
            14 => scene.flush(who),
            15 => scene.change_policy(argument % 2 == 0),
            _ => {
                let (bytes, after) = rest.split_at(usize::from(argument).min(rest.len()));
                rest = after;
                scene.feed(who, bytes);
            }
        }
        scene.check();
    }
    scene.kill(0);
    scene.check();
}

struct Scene {
    broker: Broker,
    policy: Arc<Policy>,
    now: Now,
    parties: [Party; 2],
    conns: u64,
    pending: Vec<StoreBatch>,
    disk: BTreeMap<RecordKey, Record>,
}

fn config() -> Config {
    Config {
        durability: Durability::ProcessCrash,
        auth_methods: vec!["M".into()],
        sessions_per_identity_max: 4,
        queue_messages_max: 4,
        retained_messages_max: 4,
        unsent_bytes_soft: 2_000,
        unsent_bytes_hard: 8_000,
        ..Config::default()
    }
}

/// A wide policy, or one that takes from the second party what the first may write.
fn policy(wide: bool, epoch: u64) -> Arc<Policy> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let allow = |id: &str, filters: &[&str]| Rule {
        name: id.into(),
        id: format!("spiffe://plant/{id}"),
        publish: texts(filters),
        subscribe: texts(filters),
        ..Rule::default()
    };
    let second = if wide { allow("1", &["#"]) } else { allow("1", &["b/#"]) };
    Arc::new(Policy::compile(vec![allow("0", &["#"]), second], epoch).expect("these rules are right"))
}

impl Scene {
    fn new() -> Self {
        let policy = policy(true, 1);
        Self {
            broker: Broker::new(config(), Arc::clone(&policy)),
            policy,
            now: Now { mono: Duration::ZERO, wall: UnixMillis::from_secs(1_800_000_000) },
            parties: [Party::new("0"), Party::new("1")],
            conns: 0,
            pending: Vec::new(),
            disk: BTreeMap::new(),
        }
    }

    fn party(&mut self, who: usize) -> &mut Party {
        self.parties.get_mut(who).expect("there are two")
    }

    fn feed(&mut self, who: usize, bytes: &[u8]) {
        let fresh = ConnId(self.conns + 1);
        let now = self.now;
        let Some(party) = self.parties.get_mut(who).filter(|party| !party.has_ended()) else { return };
        for packet in party.read(bytes) {
            if open(&mut self.broker, party, fresh, packet, now) {
                self.conns += 1;
            }
        }
        self.drain();
    }

    fn end_input(&mut self, who: usize) {
        let now = self.now;
        let Some(conn) = self.party(who).end_input() else { return };
        self.broker.handle_input_ended(conn, CloseCause::Eof, now);
        self.drain();
        let is_live = |session: &SessionSnapshot| matches!(session.state, SessionState::Live { conn: live, .. } if live == conn);
        if self.broker.sessions().iter().any(is_live) {
            assert!(!self.pending.is_empty(), "it is kept for nothing");
            self.party(who).is_kept = true;
        }
    }

    fn judge(&mut self, who: usize, outcome: u8) {
        let now = self.now;
        let party = self.party(who);
        let Some(conn) = party.conn().filter(|_| party.take_request()) else { return };
        let outcome = match outcome % 4 {
            0 => AuthOutcome::Failed,
            1 => AuthOutcome::Continue(vec![outcome; usize::from(outcome)].into()),
            2 => AuthOutcome::Proven { peer: party.peer(), data: None },
            _ => AuthOutcome::Proven { peer: party.peer(), data: Some(vec![outcome].into()) },
        };
        self.broker.handle_authenticated(conn, outcome, now);
        self.drain();
    }

    fn lose(&mut self, who: usize) {
        let now = self.now;
        if let Some(conn) = self.party(who).hang_up() {
            self.broker.handle_closed(conn, CloseCause::Eof, now);
        }
        self.drain();
    }

    fn flush(&mut self, who: usize) {
        let now = self.now;
        if let Some(conn) = self.party(who).conn() {
            self.broker.handle_flushed(conn, usize::MAX, now);
        }
        self.drain();
    }

    fn pass(&mut self, secs: u8) {
        let end = self.now.mono + Duration::from_secs(secs.into());
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.mono));
            self.broker.handle_timeout(self.now);
            self.drain();
            let next = self.broker.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now.mono), "a timer that is due stays");
        }
        self.set_time(end);
    }

    fn set_time(&mut self, mono: Duration) {
        let wall = self.now.wall.after(mono.saturating_sub(self.now.mono));
        self.now = Now { mono, wall };
    }

    fn change_policy(&mut self, wide: bool) {
        let next = policy(wide, self.policy.epoch() + 1);
        let change = PolicyChange::between(std::mem::replace(&mut self.policy, Arc::clone(&next)), next);
        self.broker.handle_policy(change, self.now);
        self.drain();
    }

    fn store(&mut self) {
        let mut ticket = None;
        for batch in std::mem::take(&mut self.pending) {
            ticket = Some(batch.ticket);
            batch.changes.into_iter().for_each(|(_, change)| self.write(change));
        }
        if let Some(ticket) = ticket {
            self.broker.handle_stored(ticket, self.now);
            self.drain();
        }
        assert!(self.parties.iter().all(|party| !party.is_kept), "it has every answer");
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Create(key, record) | Change::Replace(key, record) => {
                let bytes = record.encode().expect("what came in a packet fits one");
                let read = Record::decode(key, &bytes).expect("what was written is a record");
                assert_eq!(read.encode().as_ref(), Ok(&bytes), "{key:?}");
                self.disk.insert(key, read);
            }
            Change::Remove(key) => {
                self.disk.remove(&key);
            }
        }
    }

    /// Loses what was not stored, and starts again.
    fn kill(&mut self, down_secs: u8) {
        self.pending.clear();
        for party in &mut self.parties {
            party.hang_up();
        }
        let wall = self.now.wall.after(Duration::from_secs(down_secs.into()));
        self.now = Now { mono: Duration::ZERO, wall };
        self.broker = Broker::new(config(), Arc::clone(&self.policy));
        let records = self.disk.iter().map(|(key, record)| (*key, record.clone())).collect::<Vec<_>>();
        self.broker.restore(records, self.now);
        self.drain();
        self.broker.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.broker.poll_effect() {
            let conn = match &effect {
                Effect::Audit(_) => continue,
                Effect::Store(batch) => {
                    self.pending.push((**batch).clone());
                    continue;
                }
                Effect::Send { conn, .. }
                | Effect::Deliver { conn, .. }
                | Effect::Discard { conn }
                | Effect::Close { conn, .. }
                | Effect::Authenticate { conn, .. } => *conn,
            };
            let party = self.parties.iter_mut().find(|party| party.conn() == Some(conn));
            // A party that hung up is sent nothing: nobody is left who could tell.
            if let Some(party) = party {
                party.see(&effect);
            }
        }
    }

    fn check(&self) {
        let (sessions, metrics) = (self.broker.sessions(), self.broker.metrics());
        let subscriptions: usize = sessions.iter().map(|session| session.subscriptions.len()).sum();
        assert_eq!(metrics.sessions, sessions.len() as u64);
        assert_eq!(metrics.subscriptions, subscriptions as u64);
        assert!(metrics.connections <= metrics.sessions);
        assert!(metrics.retained_messages <= 4);
        assert!(sessions.iter().all(|session| session.queued <= 4), "{sessions:?}");
    }
}
