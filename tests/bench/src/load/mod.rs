//! The load generator: one thread, one poll, all connections.

pub(crate) mod client;
mod score;
mod shape;
pub(crate) mod timer;
mod wire;

pub(crate) use score::{Faults, Role, Score};
pub(crate) use shape::{Kind, Level, SHAPES, Shape};
pub(crate) use wire::{Dialect, RELAY_CHANNEL, Reach, Stamp, Template, Version};

use crate::usage::{self, Usage};
use anyhow::{Context as _, bail, ensure};
use client::{Client, Phase};
use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timer::Timer;

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;
/// Connections being made at one time.
const CONNECTING_MAX: usize = 16;
/// How long nothing may come while something is due.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server under load.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) dialect: Dialect,
    /// One configuration per identity; connections take turns.
    pub(crate) identities: Vec<Arc<ClientConfig>>,
}

/// How long to warm up and to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) warm: Duration,
    pub(crate) measure: Duration,
}

/// What one run gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Messages, or connections, in the measured time.
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    pub(crate) server_cpu: Duration,
    pub(crate) loader_cpu: Duration,
    pub(crate) faults: Faults,
    /// Sorted, in nanoseconds; open loop only.
    pub(crate) latencies: Vec<u64>,
    /// Bytes of the server's own memory per connection; idle connections only.
    pub(crate) memory: Option<f64>,
}

struct Load<'a> {
    target: &'a Target,
    shape: Shape,
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    clients: Vec<Option<Client>>,
    roles: Vec<Role>,
    score: Score,
    templates: Vec<Template>,
}

/// Runs one shape against one server.
pub(crate) fn run(target: &Target, shape: Shape, timing: Timing) -> anyhow::Result<Outcome> {
    let mut load = Load::new(target, shape)?;
    match shape.kind {
        Kind::Closed { window } => load.closed(window, timing),
        Kind::Away { window } => load.away(window, timing),
        Kind::Open { per_second } => load.open(per_second, timing),
        Kind::Connects { count } => load.connects(count),
        Kind::Idle { count } => load.idle(count),
    }
}

impl<'a> Load<'a> {
    fn new(target: &'a Target, shape: Shape) -> anyhow::Result<Self> {
        let template = |publisher| target.dialect.publish(&shape.topic(publisher), shape.qos, shape.size);
        Ok(Self {
            target,
            shape,
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            scratch: vec![0; READ_BYTES],
            clients: Vec::new(),
            roles: Vec::new(),
            score: Score::new(target.dialect, &shape),
            templates: (0..shape.publishers).map(template).collect(),
        })
    }

    fn closed(&mut self, window: u64, timing: Timing) -> anyhow::Result<Outcome> {
        self.set_up()?;
        let outcome = self.measured(timing, |load| {
            load.top_up(window)?;
            load.turn(Some(PATIENCE))
        })?;
        self.drained(outcome)
    }

    /// Publishes to receivers that have subscribed and left, and has them come back for what was kept.
    fn away(&mut self, window: u64, timing: Timing) -> anyhow::Result<Outcome> {
        self.connect_all((0..self.shape.receivers).map(Role::Receiver))?;
        self.clients.iter_mut().filter_map(Option::take).for_each(Client::close);
        self.score.are_there = false;
        self.connect_all((0..self.shape.publishers).map(Role::Publisher))?;
        let outcome = self.measured(timing, |load| {
            load.top_up(window)?;
            load.turn(Some(PATIENCE))
        })?;
        while self.score.outstanding_in_all() > 0 {
            self.turn(Some(PATIENCE))?;
        }
        self.score.are_there = true;
        for receiver in 0..self.shape.receivers {
            let client = self.connecting(receiver, Role::Receiver(receiver))?;
            if let Some(place) = self.clients.get_mut(receiver) {
                *place = Some(client);
            }
        }
        self.drained(outcome)
    }

    fn open(&mut self, per_second: u64, timing: Timing) -> anyhow::Result<Outcome> {
        self.set_up()?;
        let interval = Duration::from_secs(1) / u32::try_from(per_second)?;
        let timer = Timer::new(interval, self.poll.registry(), TIMER)?;
        let interval = u64::try_from(interval.as_nanos())?;
        let began = self.score.elapsed_ns();
        let mut sent = 0;
        let outcome = self.measured(timing, |load| {
            let due = load.score.elapsed_ns().saturating_sub(began) / interval;
            while sent < due {
                sent += 1;
                let publisher = usize::try_from(sent)? % load.shape.publishers;
                load.write(publisher, began + sent * interval);
                load.flush(publisher)?;
            }
            load.turn(Some(PATIENCE))?;
            timer.clear();
            Ok(())
        })?;
        self.drained(outcome)
    }

    fn connects(&mut self, count: usize) -> anyhow::Result<Outcome> {
        let before = Usage::of(self.target.pid)?;
        let (loader, began) = (usage::own_thread()?, Instant::now());
        let mut opened = 0;
        let mut closed = 0;
        while closed < count {
            while opened < count && opened - closed < CONNECTING_MAX {
                self.open_client(Role::Idle)?;
                opened += 1;
            }
            self.turn(Some(PATIENCE))?;
            for place in &mut self.clients {
                if let Some(client) = place.take_if(|client| client.phase == Phase::Ready) {
                    client.close();
                    closed += 1;
                }
            }
            if self.clients.iter().all(Option::is_none) {
                self.clients.clear();
                self.roles.clear();
            }
        }
        Ok(Outcome {
            count: u64::try_from(count)?,
            elapsed: began.elapsed(),
            server_cpu: Usage::of(self.target.pid)?.cpu.saturating_sub(before.cpu),
            loader_cpu: usage::own_thread()?.saturating_sub(loader),
            ..Outcome::default()
        })
    }

    fn idle(&mut self, count: usize) -> anyhow::Result<Outcome> {
        let before = Usage::of(self.target.pid)?;
        let (loader, began) = (usage::own_thread()?, Instant::now());
        self.connect_all((0..count).map(|_| Role::Idle))?;
        let elapsed = began.elapsed();
        // What a server frees after handshakes it may free a moment later.
        std::thread::sleep(Duration::from_secs(1));
        let after = Usage::of(self.target.pid)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let memory = after.memory.saturating_sub(before.memory) as f64 / count as f64;
        self.close();
        Ok(Outcome {
            count: u64::try_from(count)?,
            elapsed,
            server_cpu: after.cpu.saturating_sub(before.cpu),
            loader_cpu: usage::own_thread()?.saturating_sub(loader),
            memory: Some(memory),
            ..Outcome::default()
        })
    }

    fn set_up(&mut self) -> anyhow::Result<()> {
        self.connect_all((0..self.shape.receivers).map(Role::Receiver))?;
        self.connect_all((0..self.shape.publishers).map(Role::Publisher))
    }

    fn connect_all(&mut self, roles: impl Iterator<Item = Role>) -> anyhow::Result<()> {
        let mut waiting = 0;
        for role in roles {
            self.open_client(role)?;
            waiting += 1;
            while waiting >= CONNECTING_MAX {
                self.turn(Some(PATIENCE))?;
                waiting = self.unready();
            }
        }
        while self.unready() > 0 {
            self.turn(Some(PATIENCE))?;
        }
        Ok(())
    }

    /// Counts the last connections that are not ready; earlier ones are.
    fn unready(&self) -> usize {
        let recent = self.clients.iter().rev().take(2 * CONNECTING_MAX).flatten();
        recent.filter(|client| client.phase != Phase::Ready).count()
    }

    fn open_client(&mut self, role: Role) -> anyhow::Result<()> {
        let client = self.connecting(self.clients.len(), role)?;
        self.clients.push(Some(client));
        self.roles.push(role);
        Ok(())
    }

    fn connecting(&self, index: usize, role: Role) -> anyhow::Result<Client> {
        let identity = index % self.target.identities.len().max(1);
        let config = self.target.identities.get(identity).context("no identity")?;
        let clean = self.shape.durable.is_none() || !matches!(role, Role::Receiver(_));
        let connect = self.target.dialect.connect(&format!("bench-{index}"), clean);
        Client::open(self.target.address, config, self.poll.registry(), Token(index), connect)
    }

    /// Waits for events and takes what they bring.
    fn turn(&mut self, timeout: Option<Duration>) -> anyhow::Result<()> {
        let Self { poll, events, scratch, clients, roles, score, target, shape, .. } = self;
        if let Err(error) = poll.poll(events, timeout) {
            ensure!(error.kind() == std::io::ErrorKind::Interrupted, error);
            return Ok(());
        }
        ensure!(!events.is_empty(), "nothing came for {} seconds", PATIENCE.as_secs());
        for event in &*events {
            let index = event.token().0;
            let (Some(Some(client)), Some(role)) = (clients.get_mut(index), roles.get(index)) else {
                continue;
            };
            if event.is_readable() {
                let mut phase = client.phase;
                let read = client.read(scratch, |first, body, out| {
                    if phase == Phase::Ready {
                        return score.take(*role, first, body, out);
                    }
                    phase = prepare(target.dialect, *shape, *role, first, body, out)?;
                    Ok(())
                });
                client.phase = phase;
                read.with_context(|| format!("{role:?}"))?;
            }
            client.flush().with_context(|| format!("{role:?}"))?;
        }
        Ok(())
    }

    /// Lets every publisher send what its window allows, once half of it is free.
    fn top_up(&mut self, window: u64) -> anyhow::Result<()> {
        for publisher in 0..self.shape.publishers {
            let free = window.saturating_sub(self.score.outstanding(publisher));
            if free * 2 >= window {
                (0..free).for_each(|_| self.write(publisher, 0));
                self.flush(publisher)?;
            }
        }
        Ok(())
    }

    /// Publishers come after the receivers.
    fn publisher(&mut self, publisher: usize) -> Option<&mut Client> {
        self.clients.get_mut(self.shape.receivers + publisher)?.as_mut()
    }

    fn write(&mut self, publisher: usize, due: u64) {
        let stamp = self.score.next_stamp(publisher, due);
        let at = self.shape.receivers + publisher;
        if let (Some(Some(client)), Some(template)) =
            (self.clients.get_mut(at), self.templates.get(publisher))
        {
            template.write(stamp, &mut client.out);
        }
    }

    fn flush(&mut self, publisher: usize) -> anyhow::Result<()> {
        self.publisher(publisher).context("no such publisher")?.flush()
    }

    fn measured(
        &mut self,
        timing: Timing,
        mut step: impl FnMut(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        while began.elapsed() < timing.warm {
            step(self)?;
        }
        self.score.latencies.clear();
        let (server, loader) = (Usage::of(self.target.pid)?, usage::own_thread()?);
        let (through, began) = (self.score.through(), Instant::now());
        while began.elapsed() < timing.measure {
            step(self)?;
        }
        Ok(Outcome {
            count: self.score.through() - through,
            elapsed: began.elapsed(),
            server_cpu: Usage::of(self.target.pid)?.cpu.saturating_sub(server.cpu),
            loader_cpu: usage::own_thread()?.saturating_sub(loader),
            latencies: std::mem::take(&mut self.score.latencies),
            ..Outcome::default()
        })
    }

    /// Waits for what is on its way; what does not come is lost.
    fn drained(&mut self, mut outcome: Outcome) -> anyhow::Result<Outcome> {
        let mut deadline = Instant::now() + PATIENCE;
        let mut least = u64::MAX;
        loop {
            let outstanding = self.score.outstanding_in_all();
            if outstanding == 0 {
                break;
            }
            if outstanding < least {
                (least, deadline) = (outstanding, Instant::now() + PATIENCE);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.turn(Some(left)).is_err() {
                self.score.faults.lost += self.score.outstanding_in_all();
                break;
            }
        }
        self.close();
        outcome.faults = self.score.faults;
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }

    fn close(&mut self) {
        self.clients.drain(..).flatten().for_each(Client::close);
    }
}

/// Not a connection.
const TIMER: Token = Token(usize::MAX >> 1);

/// Takes the answers to CONNECT and SUBSCRIBE.
fn prepare(
    dialect: Dialect,
    shape: Shape,
    role: Role,
    first: u8,
    body: &[u8],
    out: &mut Vec<u8>,
) -> anyhow::Result<Phase> {
    match (first >> 4, role) {
        // Its session is there, and its subscription with it.
        (2, Role::Receiver(_)) if body.starts_with(&[1, 0]) => Ok(Phase::Ready),
        (2, Role::Receiver(receiver)) if body.get(1) == Some(&0) => {
            let reach = if shape.flow == shape::Flow::Shared { Reach::One } else { Reach::Each };
            out.extend(dialect.subscribe(&shape.topic(receiver), reach, shape.qos));
            Ok(Phase::Subscribing)
        }
        (2, Role::Publisher(publisher)) if body.get(1) == Some(&0) => {
            out.extend(dialect.announce(&shape.topic(publisher)));
            Ok(Phase::Ready)
        }
        (2, Role::Idle) if body.get(1) == Some(&0) => Ok(Phase::Ready),
        (9, Role::Receiver(_)) if body.last().is_some_and(|reason| *reason < 0x80) => Ok(Phase::Ready),
        _ => bail!("refused: {first:02x} {body:02x?}"),
    }
}
