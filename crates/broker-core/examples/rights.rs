//! What rights cost: `cargo run --release -p broker-core --example rights KIND IDENTITIES RULES [rights|start|connect]`.
//!
//! KIND says which rules speak of each identity: `same` ones, the same with a `capture`, ones for the `tls` listener
//! (`listener`), ones that each make an exception of another identity (`unless`) or name another `client`, `own` ones of
//! each, or the same and one `mixed` in that is its own. Shown are time and memory of their rights, of a start with a
//! stored session each, and the longest CONNECT of one of each, and what was worked out before it.

#![expect(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement")]

use broker_core::{Broker, Config, ConnId, Listener, Now, Record, RecordKey, RecordKind, SessionRecord};
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::{Context, Policy, PublishFacts, Rule, SubscribeMode};
use mqtt_proto::{Connect, TopicName, Version};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of memory in use.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn measured<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (before, start) = (memory(), Instant::now());
    let done = work();
    let (took, more) = (start.elapsed(), memory().saturating_sub(before));
    println!("{what}: {took:.2?}, {} KB more", more / 1024);
    done
}

fn rules(kind: &str, identities: usize, count: usize) -> Vec<Rule> {
    let rule = |n: usize, id: String, topic: String| Rule {
        name: format!("rule-{n}"),
        id,
        publish: vec![format!("{topic}/state"), format!("{topic}/+/value")],
        subscribe: vec![format!("{topic}/command/#")],
        ..Rule::default()
    };
    let same = |n: usize, topic: String| rule(n, "spiffe://plant/edge/*/app/{name}".into(), topic);
    let own =
        |n: usize, who: usize| rule(n, format!("spiffe://plant/edge/box/app/n{who}"), format!("line/{n}"));
    let mut rules: Vec<Rule> = match kind {
        "own" => (0..identities * count).map(|n| own(n, n / count)).collect(),
        "capture" => (0..count).map(|n| same(n, format!("line/{n}/{{name}}"))).collect(),
        _ => (0..count).map(|n| same(n, format!("line/{n}"))).collect(),
    };
    match kind {
        "listener" => rules.iter_mut().for_each(|rule| rule.listener = vec!["tls".into()]),
        "unless" => {
            let other = |n| vec![format!("spiffe://plant/edge/*/app/other-{n}")];
            rules.iter_mut().enumerate().for_each(|(n, rule)| rule.unless = other(n));
        }
        "client" => {
            // All hold for the client that connects, since each names it too.
            let names = |n| vec![format!("other-{n}"), "one".into()];
            rules.iter_mut().enumerate().for_each(|(n, rule)| rule.client_id = names(n));
        }
        "mixed" => rules.extend((0..identities).map(|who| own(count + who, who))),
        _ => {}
    }
    rules
}

fn record(number: u64, identity: &Arc<SpiffeId>, listener: &Arc<Listener>) -> (RecordKey, Record) {
    let record = SessionRecord {
        identity: Arc::clone(identity),
        client_id: "one".into(),
        listener: Some(Arc::clone(listener)),
        version: Version::V5,
        expiry: Some(Duration::from_secs(3_600)),
        parked: Some((UnixMillis::from_secs(1_000), None)),
        sent: Some(0),
        root: None,
    };
    (RecordKey { kind: RecordKind::Session, owner: 0, number }, Record::Session(Box::new(record)))
}

/// A policy and those of whom it speaks.
struct Bench {
    policy: Arc<Policy>,
    ids: Vec<Arc<SpiffeId>>,
    rules: usize,
    listener: Arc<Listener>,
}

const NOW: Now = Now { mono: Duration::ZERO, wall: UnixMillis::from_secs(1_000) };

impl Bench {
    fn broker(&self) -> Broker {
        let max = self.ids.len() + 1;
        let config = Config { sessions_max: max, connections_max: max, ..Config::default() };
        Broker::new(config, Arc::clone(&self.policy))
    }

    fn rights(&self) {
        let on = Context { client_id: Some("one"), listener: Some("tls") };
        let mut principals: Vec<_> = Vec::with_capacity(self.ids.len());
        let rights: Vec<_> = measured("rights", || {
            let of = |id: &Arc<SpiffeId>| {
                let principal = self.policy.principal(id);
                let rights = principal.rights(on);
                principals.push(principal);
                rights
            };
            self.ids.iter().map(of).collect()
        });
        let topic = |n| TopicName::new(format!("line/{}/state", n % self.rules)).unwrap();
        let asked: Vec<TopicName> = (0..1_000).map(topic).collect();
        let start = Instant::now();
        for round in 0..1_000 {
            for (n, topic) in asked.iter().enumerate() {
                // A large odd step, so that identities come in no order that a cache would guess.
                let rights = rights.get((n * 7_919 + round) % rights.len()).unwrap();
                drop(black_box(rights.publish(topic, PublishFacts::default())));
            }
        }
        println!("decision: {:?}", start.elapsed() / 1_000_000);
    }

    fn start(&self) {
        let records: Vec<_> = (1..).zip(&self.ids).map(|(n, id)| record(n, id, &self.listener)).collect();
        let mut broker = self.broker();
        let restored = measured("start", || broker.restore(records, NOW));
        println!("{} sessions", restored.sessions);
    }

    fn connect(&self) {
        let (mut broker, mut longest, mut before) = (self.broker(), Duration::ZERO, Duration::ZERO);
        let start = Instant::now();
        for (n, id) in (1..).zip(&self.ids) {
            let peer = VerifiedPeer::attested((**id).clone(), 1, 2, "entry".into(), [0; 32]);
            let connect = Connect::new(Version::V5, "one");
            let start = Instant::now();
            let newcomer = broker.newcomer(id).map(|newcomer| newcomer.prepared(&self.listener, "one"));
            before = before.max(start.elapsed());
            let start = Instant::now();
            newcomer.into_iter().for_each(|newcomer| broker.handle_newcomer(newcomer));
            broker.handle_connect(ConnId(n), &self.listener, peer, connect, NOW);
            while broker.poll_effect().is_some() {}
            longest = longest.max(start.elapsed());
        }
        let mean = start.elapsed() / u32::try_from(self.ids.len()).unwrap();
        println!("connect: {mean:?} in all, longest {longest:?}, and before it {before:?}");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_else(|| "same".into());
    let mut number = || args.next().map_or(1_000, |arg| arg.parse::<usize>().unwrap());
    let (identities, count) = (number(), number());
    let made = rules(&kind, identities, count);
    let policy = measured("policy", || Arc::new(Policy::compile(made, 1).unwrap()));
    let id = |n| Arc::new(SpiffeId::new(format!("spiffe://plant/edge/box/app/n{n}")).unwrap());
    let listener = Arc::new(Listener { name: "tls".into(), subscribe_mode: SubscribeMode::Reject });
    let bench = Bench { policy, ids: (0..identities).map(id).collect(), rules: count, listener };
    match args.next().as_deref() {
        None | Some("rights") => bench.rights(),
        Some("start") => bench.start(),
        Some(_) => bench.connect(),
    }
}
