//! The clients: thousands that only are there, pairs that send at a fixed rate, and probes that use the right
//! which is taken away. One thread, as the load generator of `compare`.

use crate::load::client::{Client, Phase};
use crate::load::timer::Timer;
use crate::load::{Dialect, Reach, Role, Score, Shape, Template, Version};
use crate::usage;
use anyhow::{Context as _, bail, ensure};
use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const DIALECT: Dialect = Dialect::Mqtt(Version::V5);
/// Connections being made at one time.
const CONNECTING_MAX: usize = 16;
const READ_BYTES: usize = 64 * 1024;
const TIMER: Token = Token(usize::MAX >> 1);
const WAKER: Token = Token((usize::MAX >> 1) - 1);
/// Messages a second of each probe.
const PROBES_PER_SECOND: u32 = 500;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Is there.
    Crowd,
    /// One of the pairs whose latency is measured.
    Pair(Role),
    /// Publishes at QoS 1 and sees what is refused.
    Prober,
    /// Publishes what the listener gets.
    Ticker,
    Listener,
}

/// A client to be connected.
pub(super) struct Plan {
    pub(super) config: Arc<ClientConfig>,
    pub(super) client_id: String,
    pub(super) subscribe: Option<String>,
    pub(super) part: Part,
}

/// What clients saw.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// Everybody who was to be connected is.
    Connected,
    /// The broker ended a connection, with this reason code if it said so.
    Ended { client: usize, at: Instant, wall: SystemTime, reason: Option<u8> },
    /// The acknowledgement of a probe.
    Probed { at: Instant, is_refused: bool },
    /// The listener got a message.
    Heard { at: Instant },
}

enum Order {
    Connect(Vec<Plan>),
    /// Has the listener subscribe again.
    Listen,
    End,
}

/// The other side of the thread.
pub(super) struct Loader {
    orders: Sender<Order>,
    waker: Waker,
    pub(super) seen: UnboundedReceiver<Seen>,
    latencies: Arc<Mutex<Vec<u64>>>,
    clients: usize,
}

impl Loader {
    /// Starts the thread; the pairs of `shape` begin once all of them are connected.
    pub(super) fn start(address: SocketAddr, shape: Shape, per_second: u32) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let ((orders, inbox), (told, seen)) = (channel(), unbounded_channel());
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let mut thread = Thread {
            address,
            shape,
            pairs: Stream::new(per_second),
            probes: Stream::new(PROBES_PER_SECOND),
            ticks: Stream::new(PROBES_PER_SECOND),
            poll,
            scratch: vec![0; READ_BYTES],
            clients: Vec::new(),
            waiting: VecDeque::new(),
            connecting: 0,
            is_asked: false,
            inbox,
            told,
            latencies: Arc::clone(&latencies),
            score: Score::new(DIALECT, &shape),
            templates: (0..shape.publishers).map(|n| DIALECT.publish(&shape.topic(n), 1, 64)).collect(),
            probe: DIALECT.publish("probe/value", 1, 64),
            tick: DIALECT.publish("tick/value", 0, 64),
        };
        std::thread::Builder::new().name("loader".into()).spawn(move || thread.run())?;
        Ok(Self { orders, waker, seen, latencies, clients: 0 })
    }

    /// Connects clients and waits for all of them. Returns the number of the first.
    pub(super) async fn connect(&mut self, plans: Vec<Plan>) -> anyhow::Result<usize> {
        let first = self.clients;
        self.clients += plans.len();
        self.order(Order::Connect(plans))?;
        loop {
            if let Seen::Connected = self.next(Duration::from_secs(300)).await? {
                return Ok(first);
            }
        }
    }

    pub(super) fn listen(&self) -> anyhow::Result<()> {
        self.order(Order::Listen)
    }

    /// Lets the clients go.
    pub(super) fn end(&self) -> anyhow::Result<()> {
        self.order(Order::End)
    }

    /// Returns the next thing that was seen.
    pub(super) async fn next(&mut self, patience: Duration) -> anyhow::Result<Seen> {
        let next = tokio::time::timeout(patience, self.seen.recv()).await;
        next.context("nothing was seen")?.context("the loader has ended")
    }

    /// Returns the latencies of the pairs since the last call, sorted, in nanoseconds.
    pub(super) fn latencies(&self) -> Vec<u64> {
        let mut taken = std::mem::take(&mut *self.latencies.lock());
        taken.sort_unstable();
        taken
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        ensure!(self.orders.send(order).is_ok(), "the loader has ended");
        Ok(self.waker.wake()?)
    }
}

/// Messages at a fixed rate.
struct Stream {
    interval: u64,
    began: Option<u64>,
    sent: u64,
}

impl Stream {
    fn new(per_second: u32) -> Self {
        Self { interval: 1_000_000_000 / u64::from(per_second.max(1)), began: None, sent: 0 }
    }

    /// Returns the numbers and times of what is due by now.
    fn due(&mut self, now: u64) -> Vec<(u64, u64)> {
        let Some(began) = self.began else { return Vec::new() };
        let due = now.saturating_sub(began) / self.interval;
        let new = (self.sent + 1..=due).map(|n| (n, began + n * self.interval)).collect();
        self.sent = due.max(self.sent);
        new
    }
}

struct Known {
    client: Client,
    part: Part,
    subscribe: Option<String>,
    /// When DISCONNECT came, and its reason code.
    goodbye: Option<(Instant, SystemTime, u8)>,
}

struct Thread {
    address: SocketAddr,
    shape: Shape,
    pairs: Stream,
    probes: Stream,
    ticks: Stream,
    poll: Poll,
    scratch: Vec<u8>,
    clients: Vec<Option<Known>>,
    waiting: VecDeque<Plan>,
    connecting: usize,
    /// Whether somebody waits for all connections to be made.
    is_asked: bool,
    inbox: Receiver<Order>,
    told: UnboundedSender<Seen>,
    latencies: Arc<Mutex<Vec<u64>>>,
    score: Score,
    templates: Vec<Template>,
    probe: Template,
    tick: Template,
}

impl Thread {
    #[expect(clippy::print_stdout, reason = "a measurement has to say what it is worth")]
    fn run(&mut self) {
        if !usage::come_first() {
            println!("the clients may wait for the broker's time slices: they have no priority before it");
        }
        if let Err(error) = self.serve() {
            println!("the loader failed: {error:#}");
        }
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let timer = Timer::new(Duration::from_micros(500), self.poll.registry(), TIMER)?;
        let mut events = Events::with_capacity(1_024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, None) {
                ensure!(error.kind() == std::io::ErrorKind::Interrupted, error);
                continue;
            }
            for event in &events {
                match event.token() {
                    TIMER => timer.clear(),
                    WAKER => {
                        if !self.take_orders()? {
                            return Ok(());
                        }
                    }
                    Token(index) => self.event(index, event.is_readable())?,
                }
            }
            self.connect_more()?;
            self.send_due()?;
            let latencies = &mut self.score.latencies;
            if !latencies.is_empty() {
                self.latencies.lock().append(latencies);
            }
        }
    }

    /// Takes what was ordered; false when nobody orders any more.
    fn take_orders(&mut self) -> anyhow::Result<bool> {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Connect(plans)) => {
                    self.waiting.extend(plans);
                    self.is_asked = true;
                }
                Ok(Order::Listen) => {
                    let listeners =
                        self.clients.iter_mut().flatten().filter(|known| known.part == Part::Listener);
                    for known in listeners {
                        known.client.out.extend(DIALECT.subscribe("tick/#", Reach::Each, 0));
                        known.client.flush()?;
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(true),
                Ok(Order::End) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn connect_more(&mut self) -> anyhow::Result<()> {
        while self.connecting < CONNECTING_MAX
            && let Some(plan) = self.waiting.pop_front()
        {
            let token = Token(self.clients.len());
            let connect = DIALECT.connect(&plan.client_id, true);
            let client = Client::open(self.address, &plan.config, self.poll.registry(), token, connect)?;
            let Plan { part, subscribe, .. } = plan;
            self.clients.push(Some(Known { client, part, subscribe, goodbye: None }));
            self.connecting += 1;
        }
        if self.is_asked && self.connecting == 0 {
            self.is_asked = false;
            self.tell(Seen::Connected);
        }
        Ok(())
    }

    fn tell(&self, seen: Seen) {
        // Whoever asked may have gone.
        self.told.send(seen).unwrap_or_default();
    }

    fn event(&mut self, index: usize, is_readable: bool) -> anyhow::Result<()> {
        let Some(place) = self.clients.get_mut(index) else { return Ok(()) };
        let Some(known) = place else { return Ok(()) };
        let was_ready = known.client.phase == Phase::Ready;
        let mut phase = known.client.phase;
        let mut seen = Vec::new();
        let (part, subscribe, score) = (known.part, &mut known.subscribe, &mut self.score);
        let (at, goodbye) = (Instant::now(), &mut known.goodbye);
        let result = if is_readable {
            known.client.read(&mut self.scratch, |first, body, out| {
                if first >> 4 == 0xE {
                    *goodbye = Some((at, SystemTime::now(), body.first().copied().unwrap_or(0)));
                    return Ok(());
                }
                match (phase, part) {
                    (Phase::Ready, Part::Pair(role)) => return score.take(role, first, body, out),
                    (Phase::Ready, _) => seen.extend(noticed(part, first, body, at)?),
                    _ => phase = prepare(subscribe.take(), first, body, out)?,
                }
                Ok(())
            })
        } else {
            Ok(())
        };
        known.client.phase = phase;
        let is_ready = phase == Phase::Ready;
        let ended = match result.and_then(|()| known.client.flush()) {
            Ok(()) => None,
            Err(error) if !was_ready || matches!(part, Part::Pair(_)) => {
                return Err(error.context(format!("{part:?}")));
            }
            Err(_) => Some(match known.goodbye {
                Some((at, wall, reason)) => Seen::Ended { client: index, at, wall, reason: Some(reason) },
                None => Seen::Ended { client: index, at, wall: SystemTime::now(), reason: None },
            }),
        };
        if ended.is_some() {
            *place = None;
        }
        seen.into_iter().chain(ended).for_each(|seen| self.tell(seen));
        if is_ready && !was_ready {
            self.connecting -= 1;
            self.begin(part);
        }
        Ok(())
    }

    fn begin(&mut self, part: Part) {
        let now = self.score.elapsed_ns();
        match part {
            Part::Pair(Role::Publisher(n)) if n + 1 == self.shape.publishers => self.pairs.began = Some(now),
            Part::Prober => self.probes.began = Some(now),
            Part::Ticker => self.ticks.began = Some(now),
            _ => {}
        }
    }

    fn send_due(&mut self) -> anyhow::Result<()> {
        let now = self.score.elapsed_ns();
        for (n, due) in self.pairs.due(now) {
            let publisher = usize::try_from(n)? % self.shape.publishers;
            let stamp = self.score.next_stamp(publisher, due);
            let template = self.templates.get(publisher).context("no template")?;
            let wanted = Part::Pair(Role::Publisher(publisher));
            let known = self.clients.iter_mut().take(64).flatten().find(|known| known.part == wanted);
            let client = &mut known.context("a publisher has gone")?.client;
            template.write(stamp, &mut client.out);
            client.flush()?;
        }
        let streams =
            [(&mut self.probes, Part::Prober, &self.probe), (&mut self.ticks, Part::Ticker, &self.tick)];
        for (stream, part, template) in streams {
            for (n, due) in stream.due(now) {
                let known = self.clients.iter_mut().rev().flatten().find(|known| known.part == part);
                let Some(known) = known else { bail!("{part:?} was ended") };
                let stamp = crate::load::Stamp { publisher: 0, sequence: n, due };
                template.write(stamp, &mut known.client.out);
                known.client.flush()?;
            }
        }
        Ok(())
    }
}

fn noticed(part: Part, first: u8, body: &[u8], at: Instant) -> anyhow::Result<Option<Seen>> {
    Ok(match (part, first >> 4) {
        (Part::Prober, 4) => {
            Some(Seen::Probed { at, is_refused: body.get(2).is_some_and(|reason| *reason >= 0x80) })
        }
        (Part::Listener, 3) => Some(Seen::Heard { at }),
        (Part::Listener, 9) => None,
        _ => bail!("unexpected packet {first:02x} {body:02x?} for {part:?}"),
    })
}

fn prepare(subscribe: Option<String>, first: u8, body: &[u8], out: &mut Vec<u8>) -> anyhow::Result<Phase> {
    match (first >> 4, subscribe) {
        (2, None) if body.get(1) == Some(&0) => Ok(Phase::Ready),
        (2, Some(filter)) if body.get(1) == Some(&0) => {
            out.extend(DIALECT.subscribe(&filter, Reach::Each, 1));
            Ok(Phase::Subscribing)
        }
        (9, None) if body.last().is_some_and(|reason| *reason < 0x80) => Ok(Phase::Ready),
        _ => bail!("refused: {first:02x} {body:02x?}"),
    }
}
