//! The broker is killed at random moments, while publishers and subscribers check every sequence number.
//!
//! `MIDGE_CRASH_ROUNDS=200 cargo test -p midge --test acceptance -- crash --nocapture` is the long form.

pub(crate) mod link;
mod publisher;
mod subscriber;

pub(crate) use publisher::Publisher;
pub(crate) use subscriber::Subscriber;

use crate::support::{Place, Server, eventually, own_uid};
use mqtt_proto::QoS;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How far a publisher may be ahead of its subscriber: below the limit of a queue.
const AHEAD_MAX: u32 = 300;

/// What the clients of one test share.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Where the broker is; none while it is down.
    pub(crate) address: Mutex<Option<String>>,
    /// Publishers begin nothing new.
    pub(crate) winding_up: AtomicBool,
    /// Subscribers leave.
    pub(crate) over: AtomicBool,
}

impl Stage {
    pub(crate) fn address(&self) -> Option<String> {
        self.address.lock().unwrap().clone()
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
    received: Arc<AtomicU32>,
    publisher: JoinHandle<u32>,
    subscriber: JoinHandle<Vec<u32>>,
}

impl Pair {
    fn start(stage: &Arc<Stage>, name: &str, published: QoS, subscribed: QoS) -> Self {
        let (topic, received) = (format!("demo/{name}"), Arc::new(AtomicU32::new(0)));
        let mut subscriber = Subscriber::new(format!("sub-{name}"), topic.clone(), subscribed);
        // Before the first message, which would otherwise be for nobody.
        drop(subscriber.subscribe(stage).unwrap());
        let (on, count) = (Arc::clone(stage), Arc::clone(&received));
        let subscriber = thread::spawn(move || subscriber.run(&on, &count));
        let mut publisher = Publisher::new(format!("pub-{name}"), topic, published);
        let (on, count) = (Arc::clone(stage), Arc::clone(&received));
        let publisher = thread::spawn(move || {
            publisher.run(&on, |next| next < count.load(Ordering::Relaxed) + AHEAD_MAX);
            publisher.next()
        });
        Self { received, publisher, subscriber }
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
    let (q1, q2) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    let pairs = [("11", q1, q1), ("22", q2, q2), ("21", q2, q1), ("12", q1, q2)]
        .map(|(name, published, subscribed)| Pair::start(&stage, name, published, subscribed));

    let mut random = Random(number("MIDGE_CRASH_SEED", u64::from(std::process::id())));
    eprintln!("seed {}", random.0);
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(random.below(400)));
        server.program.kill();
        *stage.address.lock().unwrap() = None;
        server = Server::start("edge", &config, &socket);
        stage.set(&server);
        if round % 20 == 19 {
            eprintln!("{level}: {} rounds", round + 1);
        }
    }
    // Every pair has been through a round that it took part in.
    let before: Vec<u32> = pairs.iter().map(|pair| pair.received.load(Ordering::Relaxed)).collect();
    eventually("going on", || {
        let now = pairs.iter().map(|pair| pair.received.load(Ordering::Relaxed));
        if now.zip(&before).all(|(now, before)| now > *before) { Ok(()) } else { Err(format!("{before:?}")) }
    });
    stage.winding_up.store(true, Ordering::Relaxed);
    let sent = pairs.map(|pair| {
        let sent = pair.publisher.join().unwrap();
        eventually("received", || match pair.received.load(Ordering::Relaxed) {
            count if count >= sent => Ok(()),
            count => Err(format!("{count} of {sent}")),
        });
        (sent, pair.subscriber)
    });
    stage.over.store(true, Ordering::Relaxed);
    for ((sent, subscriber), exact) in sent.into_iter().zip([false, true, false, false]) {
        let all = subscriber.join().unwrap();
        eprintln!("{level}: sent {sent}, received {}", all.len());
        assert!(sent > 0);
        check(&all, sent, exact);
    }
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
