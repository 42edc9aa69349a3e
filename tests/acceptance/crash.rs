//! The broker is killed at random moments, while publishers and subscribers check every sequence number.
//!
//! Some of these leave at random moments, or take over their session from their own earlier connection; beside them
//! are clients with wills, with retained messages, and members of share groups.
//!
//! `MIDGE_CRASH_ROUNDS=200 cargo test -p midge --test acceptance -- crash --nocapture` is the long form.

mod group;
mod inbox;
pub(crate) mod link;
mod publisher;
mod restless;
mod retained;
mod subscriber;
mod wills;

pub(crate) use publisher::Publisher;
pub(crate) use subscriber::Subscriber;

use crate::support::{Place, Server, eventually, own_uid};
use group::Group;
use inbox::Inbox;
use mqtt_proto::QoS;
use restless::Restless;
use retained::Keeper;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use wills::Mortals;

/// How far a publisher may be ahead of its subscriber: below the limit of a queue.
const AHEAD_MAX: u32 = 300;

/// What the clients of one test share.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Where the broker is; none while it is down.
    pub(crate) address: Mutex<Option<String>>,
    /// Counts the kills, each before it happens, and the starts: odd while the broker may be down.
    pub(crate) turns: AtomicU32,
    /// Publishers begin nothing new.
    pub(crate) winding_up: AtomicBool,
    /// Subscribers leave.
    pub(crate) over: AtomicBool,
}

impl Stage {
    pub(crate) fn address(&self) -> Option<String> {
        self.address.lock().unwrap().clone()
    }

    /// Tells by which turn the broker is up, if it is for certain.
    fn up_since(&self) -> Option<u32> {
        Some(self.turns.load(Ordering::SeqCst)).filter(|turns| turns % 2 == 0)
    }

    pub(crate) fn set(&self, server: &Server) {
        *self.address.lock().unwrap() = Some(server.address("tcp"));
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One publisher and one subscriber of a topic of their own.
struct Pair {
    is_exact: bool,
    inbox: Arc<Inbox>,
    publisher: JoinHandle<u32>,
    subscriber: JoinHandle<()>,
}

impl Pair {
    /// Both are restless if there are seeds for it.
    fn start(stage: &Arc<Stage>, (published, subscribed): (QoS, QoS), seeds: Option<[u64; 2]>) -> Self {
        let kind = if seeds.is_some() { "restless" } else { "steady" };
        let name = format!("{kind}-{}{}", published as u8, subscribed as u8);
        let (topic, inbox) = (format!("demo/{name}"), Arc::new(Inbox::default()));
        let mut subscriber = Subscriber::new(format!("sub-{name}"), topic.clone(), subscribed).noting(&inbox);
        let mut publisher = Publisher::new(format!("pub-{name}"), topic, published);
        if let Some([one, other]) = seeds {
            subscriber = subscriber.restless(Restless::new(one, 150));
            publisher = publisher.restless(Restless::new(other, 50));
        }
        // Before the first message, which would otherwise be for nobody.
        drop(subscriber.subscribe(stage).unwrap());
        let on = Arc::clone(stage);
        let subscriber = thread::spawn(move || subscriber.run(&on));
        let (on, received) = (Arc::clone(stage), Arc::clone(&inbox));
        let publisher = thread::spawn(move || {
            publisher.run(&on, |next| next < received.count() + AHEAD_MAX);
            publisher.next()
        });
        let is_exact = (published, subscribed) == (QoS::ExactlyOnce, QoS::ExactlyOnce);
        Self { is_exact, inbox, publisher, subscriber }
    }

    /// Waits until everything was received; the subscriber goes on until all is over.
    fn end(self) -> impl FnOnce() -> String {
        let Self { is_exact, inbox, publisher, subscriber } = self;
        let sent = publisher.join().unwrap();
        eventually("received", || match inbox.count() {
            count if count >= sent => Ok(()),
            count => Err(format!("{count} of {sent}")),
        });
        move || {
            subscriber.join().unwrap();
            let all = inbox.all();
            assert!(sent > 0);
            check(&all, sent, is_exact);
            format!("sent {sent}, received {}", all.len())
        }
    }
}

/// Everybody who was promised something.
struct Cast {
    pairs: Vec<Pair>,
    groups: [Group; 2],
    keepers: [Keeper; 2],
    mortals: Mortals,
}

impl Cast {
    fn start(stage: &Arc<Stage>, random: &mut Random) -> Self {
        let (q1, q2) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
        let steady = [(q1, q1), (q2, q2), (q2, q1), (q1, q2)].map(|both| (both, None));
        let restless = [(q1, q1), (q2, q2)];
        let restless = restless.map(|both| (both, Some([random.below(u64::MAX), random.below(u64::MAX)])));
        let pairs = steady.into_iter().chain(restless).map(|(both, seeds)| Pair::start(stage, both, seeds));
        Self {
            pairs: pairs.collect(),
            groups: [q1, q2].map(|qos| Group::start(stage, qos, random)),
            keepers: [q1, q2].map(|qos| Keeper::start(stage, qos)),
            mortals: Mortals::start(stage, random),
        }
    }

    /// How much each has received.
    fn received(&self) -> Vec<u32> {
        let pairs = self.pairs.iter().map(|pair| pair.inbox.count());
        pairs.chain(self.groups.iter().map(Group::received)).collect()
    }

    /// Waits until each has what it is owed, and checks that this is all.
    fn end(self, stage: &Stage, level: &str) {
        let Self { pairs, groups, keepers, mortals } = self;
        stage.winding_up.store(true, Ordering::Relaxed);
        let pairs: Vec<_> = pairs.into_iter().map(Pair::end).collect();
        let (groups, mortals) = (groups.map(Group::end), mortals.end());
        let mut told = keepers.map(|keeper| keeper.end(stage)).to_vec();
        stage.over.store(true, Ordering::Relaxed);
        told.extend(pairs.into_iter().map(|end| end()));
        told.extend(groups.map(|end| end()));
        told.push(mortals());
        told.iter().for_each(|line| eprintln!("{level}: {line}"));
    }
}

fn killed(level: &str, rounds: u64) {
    let place = Place::new();
    let mqtt = format!("tls = \"off\"\ntcp = \"127.0.0.1:0\"\ndurability = \"{level}\"");
    let config = place.edge("data", "", &mqtt, "[event-bus]\nenabled = false");
    let socket = place.path("data/run/admin.sock");
    let mut server = Server::start("edge", &config, &socket);
    server.entry("peer", &own_uid(), &["-publish", "demo/#", "-subscribe", "demo/#"]);
    let stage = Arc::new(Stage::default());
    stage.set(&server);
    let mut random = Random(number("MIDGE_CRASH_SEED", u64::from(std::process::id())));
    eprintln!("seed {}", random.0);
    let mut cast = Cast::start(&stage, &mut random);
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(random.below(400)));
        stage.turns.fetch_add(1, Ordering::SeqCst);
        server.program.kill();
        *stage.address.lock().unwrap() = None;
        server = Server::start("edge", &config, &socket);
        stage.set(&server);
        stage.turns.fetch_add(1, Ordering::SeqCst);
        cast.keepers.iter_mut().for_each(|keeper| keeper.check(&stage));
        if round % 20 == 19 {
            eprintln!("{level}: {} rounds", round + 1);
        }
    }
    // Everybody has been through a round that it took part in.
    let before = cast.received();
    eventually("going on", || {
        let now = cast.received();
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    cast.end(&stage, level);
}

/// All that was acknowledged, first arrivals in order, and once where that was asked for at both ends.
pub(crate) fn check(received: &[u32], sent: u32, exact: bool) {
    let mut next = 0;
    for (at, number) in received.iter().enumerate() {
        if *number == next {
            next += 1;
        } else {
            assert!(*number < next, "number {number} at {at} comes before {next}");
            assert!(!exact, "number {number} came twice");
        }
    }
    assert_eq!(next, sent);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    let rounds = number("MIDGE_CRASH_ROUNDS", 4);
    killed("process-crash", rounds.div_ceil(2));
    killed("power-loss", rounds / 2);
}
