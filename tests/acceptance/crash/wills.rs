//! Wills of clients that die, come back, are replaced or take it back, whatever becomes of the broker meanwhile.

use super::inbox::Inbox;
use super::link::{Link, disconnect, new};
use super::{Random, Stage, Subscriber};
use bytes::Bytes;
use mqtt_proto::{Connect, Publication, QoS, TopicName, Will};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Longest wait for a will that is due, over several restarts on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Dates on disk are in whole milliseconds.
const ROUNDING: Duration = Duration::from_millis(10);
/// A delay, or an end of the session, that no test lives to see.
const FAR_SECS: u32 = 3600;

/// What becomes of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It leaves or is left: its will comes after so many seconds.
    Dies(u32),
    /// So does its session, which ends before the will's delay does ([MQTT-3.1.3-9]).
    Expires(u32),
    /// Its session ends before the delay does since the next client starts clean.
    Replaced,
    /// It comes back before the delay is over.
    Returns,
    /// It takes its will back ([MQTT-3.14.4-3]).
    Leaves,
}

/// What the broker has promised of a will with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Sent,
    NotSent,
    /// There was no answer to promise anything.
    Nothing,
}

/// What one life was to lead to.
type Life = (u32, Fate, Promise);

/// A client id that has one life after the other.
struct Mortal {
    id: String,
    qos: QoS,
    fates: Vec<Fate>,
    /// Number of the next will.
    next: u32,
    random: Random,
    inbox: Arc<Inbox>,
    promises: Vec<Life>,
    /// Will that is due with the end of the session.
    replaced: Option<u32>,
    /// Connection that it left and did not close.
    left: Option<Link>,
}

impl Mortal {
    fn run(mut self, stage: &Stage) -> Vec<Life> {
        while !stage.winding_up.load(Ordering::Relaxed) {
            let at = self.random.below(self.fates.len() as u64);
            let fate = self.fates[usize::try_from(at).unwrap()];
            self.live(stage, fate);
        }
        self.back(stage, new(&self.id));
        self.bury();
        self.promises
    }

    /// Has one life, and waits for what comes of it.
    fn live(&mut self, stage: &Stage, fate: Fate) {
        let number = self.next;
        self.next += 1;
        let (delay_secs, expiry_secs) = match fate {
            Fate::Dies(0) if self.random.below(2) == 0 => (0, 0),
            Fate::Dies(delay) => (delay, FAR_SECS),
            Fate::Expires(expiry) => (FAR_SECS, expiry),
            Fate::Replaced | Fate::Returns | Fate::Leaves => (FAR_SECS / 2, FAR_SECS),
        };
        let will = Some(Will { message: self.message(number), delay_secs });
        let connect = Connect { will, session_expiry_secs: Some(expiry_secs), ..new(&self.id) };
        let since = stage.up_since();
        let mut link = match Link::connect(stage, connect) {
            Ok((link, _)) => link,
            Err(error) => {
                if error.kind() != ErrorKind::ConnectionRefused {
                    self.promises.push((number, fate, Promise::Nothing));
                }
                return sleep(Duration::from_millis(5));
            }
        };
        self.bury();
        let alive = self.hold(&mut link);
        let promise = match fate {
            Fate::Dies(delay_secs) | Fate::Expires(delay_secs) => {
                drop(link);
                let late = self.await_will(number).saturating_duration_since(alive) + ROUNDING;
                assert!(late >= Duration::from_secs(delay_secs.into()), "{number}: {fate:?} after {late:?}");
                Promise::Sent
            }
            Fate::Replaced => {
                self.leave(link);
                self.replaced = Some(number);
                Promise::Sent
            }
            Fate::Returns => {
                self.leave(link);
                let connect =
                    Connect { clean_start: false, session_expiry_secs: Some(FAR_SECS), ..new(&self.id) };
                assert!(self.back(stage, connect), "{}: the session is lost", self.id);
                Promise::NotSent
            }
            Fate::Leaves => self.take_back(stage, link, since),
        };
        self.promises.push((number, fate, promise));
    }

    fn message(&self, number: u32) -> Publication {
        let topic = TopicName::new(format!("demo/will/{}", self.id)).unwrap();
        let payload = Bytes::from(number.to_string());
        Publication { topic, payload, qos: self.qos, retain: false, properties: None }
    }

    /// Stays for a while, and returns when its connection stood for certain.
    fn hold(&mut self, link: &mut Link) -> Instant {
        let mut alive = Instant::now();
        for _ in 0..self.random.below(20) {
            let now = Instant::now();
            if !matches!(link.next(), Ok(None)) {
                break;
            }
            alive = now;
        }
        alive
    }

    /// Closes its connection, or is taken over by its next one.
    fn leave(&mut self, link: Link) {
        self.left = (self.random.below(2) == 0).then_some(link);
    }

    /// Connects, as often as it takes. Tells whether there was a session.
    fn back(&mut self, stage: &Stage, connect: Connect) -> bool {
        loop {
            if let Ok((_, present)) = Link::connect(stage, connect.clone()) {
                self.left = None;
                return present;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Sends DISCONNECT to the broker that was up since this turn, if that is so for certain.
    fn take_back(&mut self, stage: &Stage, mut link: Link, since: Option<u32>) -> Promise {
        let sent = link.send(&disconnect(None));
        while link.next().is_ok() {}
        self.back(stage, new(&self.id));
        // DISCONNECT has no answer; that to the next CONNECT says that it is stored, if there was no kill since the first. One
        // that is sent to a broker that was killed seems to be sent.
        let is_promised = sent.is_ok() && since.is_some() && stage.up_since() == since;
        if is_promised { Promise::NotSent } else { Promise::Nothing }
    }

    /// Waits for the will of a session that has been replaced.
    fn bury(&mut self) {
        self.left = None;
        if let Some(number) = self.replaced.take() {
            self.await_will(number);
        }
    }

    fn await_will(&self, number: u32) -> Instant {
        let since = Instant::now();
        loop {
            if let Some((came, _)) = self.inbox.of(number) {
                return came;
            }
            assert!(since.elapsed() < SOON, "{}: no will {number} within {SOON:?}", self.id);
            sleep(Duration::from_millis(5));
        }
    }
}

/// The clients with wills, and the one that receives these.
pub(super) struct Mortals {
    inbox: Arc<Inbox>,
    lives: Vec<(QoS, JoinHandle<Vec<Life>>)>,
    heir: JoinHandle<()>,
}

impl Mortals {
    pub(super) fn start(stage: &Arc<Stage>, random: &mut Random) -> Self {
        let inbox = Arc::new(Inbox::default());
        let heir = Subscriber::new("heir".into(), "demo/will/+".into(), QoS::ExactlyOnce);
        let mut heir = heir.noting(&inbox);
        drop(heir.subscribe(stage).unwrap());
        let on = Arc::clone(stage);
        let heir = thread::spawn(move || heir.run(&on));
        let (q1, q2) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
        let others = vec![Fate::Replaced, Fate::Returns, Fate::Leaves];
        let all = [
            (q1, vec![Fate::Dies(0)]),
            (q2, vec![Fate::Dies(0)]),
            (q2, vec![Fate::Dies(1)]),
            (q2, vec![Fate::Expires(1)]),
            (q1, others.clone()),
            (q2, others),
        ];
        let lives = all.into_iter().zip(0..).map(|((qos, fates), n)| {
            let mortal = Mortal {
                id: format!("mortal-{n}"),
                qos,
                fates,
                next: n * 1_000_000,
                random: Random(random.below(u64::MAX)),
                inbox: Arc::clone(&inbox),
                promises: Vec::new(),
                replaced: None,
                left: None,
            };
            let on = Arc::clone(stage);
            (qos, thread::spawn(move || mortal.run(&on)))
        });
        let lives = lives.collect();
        Self { inbox, lives, heir }
    }

    /// Waits until all have died; the heir goes on until all is over.
    pub(super) fn end(self) -> impl FnOnce() -> String {
        let Self { inbox, lives, heir } = self;
        let lives = lives.into_iter().map(|(qos, life)| (qos, life.join().unwrap()));
        let lives: Vec<_> = lives.collect();
        move || {
            heir.join().unwrap();
            let (mut sent, mut not_sent, mut open) = (0, 0, 0);
            for (qos, (number, fate, promise)) in
                lives.into_iter().flat_map(|(qos, life)| life.into_iter().map(move |each| (qos, each)))
            {
                let times = inbox.of(number).map_or(0, |(_, times)| times);
                match promise {
                    Promise::Sent => sent += 1,
                    Promise::NotSent => not_sent += 1,
                    Promise::Nothing => open += 1,
                }
                assert!(promise != Promise::Sent || times > 0, "will {number} was not sent: {fate:?}");
                assert!(promise != Promise::NotSent || times == 0, "will {number} was sent: {fate:?}");
                assert!(
                    qos != QoS::ExactlyOnce || times <= 1,
                    "will {number} was sent {times} times: {fate:?}"
                );
            }
            assert!(sent > 0);
            format!("wills: {sent} sent, {not_sent} not sent, {open} of which nothing was promised")
        }
    }
}
