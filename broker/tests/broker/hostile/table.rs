//! The pair's latencies beside an attack, in an open loop: a message is due every so often, and is late from then on,
//! whatever became of those before.
//!
//! Sender, receiver and attack have threads of their own. Those of the attack yield to the others, since a hostile peer
//! has a machine of its own; `MIDGE_HOSTILE_NICE=0` has it compete with the broker for the processors. All of them run on
//! one processor, where there are more, as those of other machines would not run on the broker's at all. There the pair
//! comes first where the kernel lets it (root): else it waits for the attack's slices, which is no doing of the broker's.

use crate::client::publish;
use crate::house::House;
use futures_util::FutureExt as _;
use mqtt_proto::{Packet, QoS, ReasonCode};
use std::fmt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// From one message of the pair to the next.
const PERIOD: Duration = Duration::from_millis(1);
/// How long the pair is measured alone, and how long an attack goes on at least.
pub(super) const MEASURED: Duration = Duration::from_secs(5);
/// What the pair does until it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// How much the threads of an attack yield to others, as `nice` counts: enough that the broker comes first, and not so
/// much that they do nothing on a busy machine.
const NICE: i32 = 10;
/// Messages without acknowledgement: fewer than the broker's Receive Maximum.
const WINDOW: u64 = 200;

/// When messages are due, once both clients are there.
#[derive(Default)]
struct Schedule {
    began: OnceLock<Instant>,
    /// How many messages there are in all, once that is known.
    total: AtomicU64,
    is_over: AtomicBool,
}

impl Schedule {
    fn due(&self, number: u64) -> Instant {
        let since = Duration::from_nanos(number * u64::try_from(PERIOD.as_nanos()).unwrap());
        *self.began.get().unwrap() + since
    }
}

/// What one attack did to the pair.
pub(super) struct Row {
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    per_sec: f64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |times: &[Duration], per_mille: usize| {
            let at = times.len().saturating_sub(1) * per_mille / 1000;
            times.get(at).map_or(0.0, Duration::as_secs_f64) * 1e6
        };
        let (a50, a99) = (of(&self.alone, 500), of(&self.alone, 990));
        let (b50, b99) = (of(&self.beside, 500), of(&self.beside, 990));
        let ratio = b99 / a99;
        write!(f, "{a50:.0} | {a99:.0} | {b50:.0} | {b99:.0} | {ratio:.1} | {:.0}", self.per_sec)
    }
}

/// Has this thread run where clients run.
fn is_client() {
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let last = (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(last);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
}

/// Has the kernel run this thread as soon as it has something to do.
fn comes_first() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let tool = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).stderr(Stdio::null()).status();
    if !tool.is_ok_and(|status| status.success()) {
        println!("the pair may wait for the attack's time slices: chrt (util-linux) refuses it a priority");
    }
}

fn runtime() -> Runtime {
    is_client();
    comes_first();
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs an attack for as long as is measured, beside the pair.
pub(super) fn measure<F: Future<Output = u64>>(house: &House, attack: &(impl Fn() -> F + Sync)) -> Row {
    let schedule = Schedule { total: AtomicU64::new(u64::MAX), ..Schedule::default() };
    let (ready, is_ready) = channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(house, &schedule, ready));
        let sender = scope.spawn(|| send(house, &schedule, is_ready));
        while schedule.began.get().is_none() {
            assert!(!sender.is_finished() && !receiver.is_finished(), "the pair has left");
            thread::sleep(PERIOD);
        }
        let measured = schedule.due(0) + WARM_UP;
        thread::sleep((measured + MEASURED).saturating_duration_since(Instant::now()));
        let begun = Instant::now();
        let count = scope.spawn(|| attack_on(attack)).join().unwrap();
        let ended = Instant::now();
        schedule.is_over.store(true, Ordering::SeqCst);
        sender.join().unwrap();
        let late = receiver.join().unwrap();
        let within = |from: Instant, to: Instant| {
            let numbers = (0..).zip(&late);
            let among = numbers.filter(|(number, _)| (from..to).contains(&schedule.due(*number)));
            let mut times: Vec<_> = among.map(|(_, late)| *late).collect();
            times.sort_unstable();
            times
        };
        Row {
            alone: within(measured, begun),
            beside: within(begun, ended),
            per_sec: count as f64 / (ended - begun).as_secs_f64(),
        }
    })
}

/// Attacks again and again; returns how much was done of what it does.
fn attack_on<F: Future<Output = u64>>(attack: impl Fn() -> F) -> u64 {
    let nice = std::env::var("MIDGE_HOSTILE_NICE").ok().and_then(|text| text.parse().ok()).unwrap_or(NICE);
    // Of this thread only, as the kernel has it.
    let yields = move || {
        is_client();
        rustix::process::setpriority_process(None, nice).unwrap();
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).on_thread_start(yields).enable_all().build();
    yields();
    runtime.unwrap().block_on(async {
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < MEASURED {
            count += attack().await;
        }
        count
    })
}

/// Sends what is due, once the receiver has subscribed, and takes the acknowledgements that there are.
fn send(house: &House, schedule: &Schedule, is_ready: Receiver<()>) {
    let runtime = runtime();
    let mut client = runtime.block_on(house.tls_client("sender"));
    is_ready.recv().unwrap();
    schedule.began.set(Instant::now()).unwrap();
    let (mut next, mut acknowledged) = (0, 0);
    loop {
        thread::sleep(schedule.due(next).saturating_duration_since(Instant::now()));
        let is_last = schedule.is_over.load(Ordering::SeqCst);
        if is_last {
            schedule.total.store(next + 1, Ordering::SeqCst);
        }
        runtime.block_on(async {
            // Lets the runtime see what the socket has.
            tokio::task::yield_now().await;
            while acknowledged < next {
                let is_full = next - acknowledged >= WINDOW;
                let answer = if is_full { Some(client.next().await) } else { client.next().now_or_never() };
                match answer {
                    None => break,
                    Some(Some(Packet::PubAck(ack))) if ack.reason == ReasonCode::Success => acknowledged += 1,
                    Some(other) => panic!("no PUBACK: {other:?}"),
                }
            }
            let id = u16::try_from(next % 60_000 + 1).unwrap();
            client.send(&publish("pair", next.to_string().into_bytes(), QoS::AtLeastOnce, id)).await;
        });
        next += 1;
        if is_last {
            return;
        }
    }
}

/// Receives all there are, in their order; returns how late each was.
fn receive(house: &House, schedule: &Schedule, ready: Sender<()>) -> Vec<Duration> {
    let runtime = runtime();
    let mut client = runtime.block_on(house.tls_client("receiver"));
    runtime.block_on(client.subscribe("pair", QoS::AtLeastOnce));
    ready.send(()).unwrap();
    let mut late = Vec::new();
    while (late.len() as u64) < schedule.total.load(Ordering::SeqCst) {
        let (_, payload) = runtime.block_on(client.message());
        assert_eq!(payload, late.len().to_string().into_bytes(), "lost, repeated or moved");
        late.push(schedule.due(late.len() as u64).elapsed());
    }
    late
}
