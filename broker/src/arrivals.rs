//! Peers that have come and not yet sent their CONNECT: how many there are, for how long, and who has
//! to go when there are too many.
//!
//! The room is for peers that make progress. When it is full, whoever has let the broker wait for at
//! least [`PATIENCE`] may be sent away for a newcomer: of the source that has most arrivals, the one
//! that came first. Who waits for the broker is never sent away. If nobody may be, the newcomer waits.

use crate::Refusal;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::ready;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, PollSemaphore};

/// How long a peer may let the broker wait before it may be sent away for another.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a newcomer looks again whether somebody has lost the broker's patience.
const LOOK: Duration = Duration::from_millis(50);

/// Where an arrival comes from, as far as it matters for fairness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An IPv4 address, or the /64 of an IPv6 address: who has one has all of it.
    Network(IpAddr),
    /// A user of this host.
    User(u32),
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self::Network(IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into())),
            v4 @ IpAddr::V4(_) => Self::Network(v4),
        }
    }
}

/// As the audit log tells those apart who have proven no identity.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::User(uid) => uid.fmt(f),
        }
    }
}

/// Room for peers without CONNECT.
#[derive(Debug)]
pub(crate) struct Arrivals {
    max: usize,
    time: Duration,
    /// Steps of TLS handshakes computed at one time.
    turns: Arc<Semaphore>,
    started: Instant,
    state: Mutex<State>,
    left: Notify,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    present: BTreeMap<u64, Present>,
    by_source: HashMap<Source, usize>,
}

#[derive(Debug)]
struct Present {
    source: Source,
    waited_for: Arc<AtomicU64>,
    displaced: CancellationToken,
}

/// One peer without CONNECT; dropping it gives its place back.
#[derive(Debug)]
pub(crate) struct Arrival {
    room: Arc<Arrivals>,
    number: u64,
    deadline: Instant,
    /// Since when the broker waits for the peer, in milliseconds since the room was opened plus one;
    /// 0 while the peer waits for the broker.
    waited_for: Arc<AtomicU64>,
    displaced: CancellationToken,
}

impl Arrivals {
    /// Returns an empty room for `max` arrivals, each of which has so much time until its CONNECT.
    pub(crate) fn new(max: usize, time: Duration, turns: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            time,
            turns: Arc::new(Semaphore::new(turns.clamp(1, Semaphore::MAX_PERMITS))),
            started: Instant::now(),
            state: Mutex::default(),
            left: Notify::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Takes a place, once there is one.
    pub(crate) async fn enter(self: &Arc<Self>, source: Source) -> Arrival {
        loop {
            let left = self.left.notified();
            if let Some(arrival) = self.try_enter(source) {
                return arrival;
            }
            // Time alone makes somebody lose the broker's patience.
            drop(tokio::time::timeout(LOOK, left).await);
        }
    }

    /// Sends everybody away, also who comes later.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Resolves once everybody is sent away.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    fn try_enter(self: &Arc<Self>, source: Source) -> Option<Arrival> {
        let now = self.millis();
        let mut state = self.state.lock();
        if state.present.len() >= self.max {
            state.make_room(now)?;
        }
        let number = state.next;
        state.next += 1;
        let waited_for = Arc::new(AtomicU64::new(now));
        let displaced = CancellationToken::new();
        let present = Present { source, waited_for: Arc::clone(&waited_for), displaced: displaced.clone() };
        state.present.insert(number, present);
        *state.by_source.entry(source).or_default() += 1;
        let deadline = Instant::now() + self.time;
        Some(Arrival { room: Arc::clone(self), number, deadline, waited_for, displaced })
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl State {
    /// Sends away the oldest arrival that may be, of the source that has most of them.
    fn make_room(&mut self, now: u64) -> Option<()> {
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        let may_go = |present: &Present| {
            let since = present.waited_for.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since) >= patience
        };
        let most = |present: &Present| self.by_source.get(&present.source).copied().unwrap_or_default();
        let goes = self.present.iter().filter(|(_, present)| may_go(present));
        let (&number, _) =
            goes.max_by_key(|(number, present)| (most(present), std::cmp::Reverse(**number)))?;
        let present = self.remove(number)?;
        present.displaced.cancel();
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Present> {
        let present = self.present.remove(&number)?;
        if let Some(count) = self.by_source.get_mut(&present.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&present.source);
            }
        }
        Some(present)
    }
}

impl Arrival {
    /// Works for an arrival, within its time and while it has its place.
    ///
    /// # Errors
    /// When the time is over or the place was given to another.
    pub(crate) async fn within<F: Future>(&self, work: F) -> Result<F::Output, Refusal> {
        self.limited(None, work).await
    }

    /// The same for work that computes much: only so many steps at one time are computed, so that what
    /// established connections do stands behind a few of them and not behind all.
    ///
    /// # Errors
    /// When the time is over or the place was given to another.
    pub(crate) async fn in_turns<F: Future>(&self, work: F) -> Result<F::Output, Refusal> {
        self.limited(Some(PollSemaphore::new(Arc::clone(&self.room.turns))), work).await
    }

    /// Waits with an arrival for what the broker owes it, within its time: it keeps its place.
    ///
    /// # Errors
    /// When the time is over.
    pub(crate) async fn waits_for<F: Future>(&self, work: F) -> Result<F::Output, Refusal> {
        self.waited_for.store(0, Ordering::Relaxed);
        self.until_over(work, "too many come at once: no turn to open its session in time").await
    }

    async fn limited<F: Future>(
        &self,
        mut turns: Option<PollSemaphore>,
        work: F,
    ) -> Result<F::Output, Refusal> {
        let mut work = pin!(work);
        let steps = std::future::poll_fn(|cx| {
            self.waited_for.store(0, Ordering::Relaxed);
            // Held for this one step: a peer that stalls keeps no turn.
            let turn = match &mut turns {
                Some(turns) => ready!(turns.poll_acquire(cx)),
                None => None,
            };
            let step = work.as_mut().poll(cx);
            drop(turn);
            if step.is_pending() {
                self.waited_for.store(self.room.millis(), Ordering::Relaxed);
            }
            step
        });
        self.until_over(steps, "no CONNECT in time").await
    }

    async fn until_over<F: Future>(&self, work: F, late: &str) -> Result<F::Output, Refusal> {
        tokio::select! {
            biased;
            output = work => Ok(output),
            () = self.displaced.cancelled() => Err(Refusal("too many arrivals: it let the broker wait longest".into())),
            () = self.room.closing.cancelled() => Err(Refusal("the broker stops".into())),
            () = tokio::time::sleep_until(self.deadline) => Err(Refusal(late.into())),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.room.state.lock().remove(self.number);
        self.room.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Source {
        Source::User(uid)
    }

    fn room(max: usize) -> Arc<Arrivals> {
        Arrivals::new(max, Duration::from_secs(10), 1)
    }

    async fn is_displaced(arrival: &Arrival) -> bool {
        matches!(arrival.within(std::future::ready(())).await, Ok(())) && arrival.displaced.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_when_its_arrival_is_through() {
        let room = room(1);
        for _ in 0..3 {
            drop(room.enter(user(1)).await);
        }
        assert!(room.state.lock().present.is_empty() && room.state.lock().by_source.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_full_room_the_oldest_of_the_largest_source_goes() {
        let room = room(4);
        let mut silent = Vec::new();
        for uid in [1, 2, 2, 3] {
            silent.push(room.enter(user(uid)).await);
        }
        let before = Instant::now();
        let newcomer = room.enter(user(4)).await;
        assert!(before.elapsed() >= PATIENCE && before.elapsed() < PATIENCE + 2 * LOOK);
        let mut gone = Vec::new();
        for arrival in &silent {
            gone.push(arrival.displaced.is_cancelled());
        }
        assert_eq!(gone, [false, true, false, false]);
        assert!(!newcomer.displaced.is_cancelled());
        let told = silent[1].within(std::future::pending::<()>()).await;
        assert!(told.unwrap_err().0.contains("too many arrivals"));
    }

    /// Lets time pass in which an arrival that has a place gets no turn, and a newcomer no place.
    async fn neither_comes_on(waits: impl Future, newcomer: impl Future) {
        tokio::select! {
            _ = waits => panic!("there is no turn"),
            _ = newcomer => panic!("there is no room"),
            () = tokio::time::sleep(PATIENCE * 4) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_broker_keeps_its_place() {
        let room = room(1);
        let working = room.enter(user(1)).await;
        let turn = Arc::clone(&room.turns).acquire_owned().await.unwrap();
        let mut waits = Box::pin(working.in_turns(std::future::ready(())));
        let newcomer = room.enter(user(2));
        tokio::pin!(newcomer);
        neither_comes_on(&mut waits, &mut newcomer).await;
        drop(turn);
        assert!(waits.as_mut().await.is_ok());
        drop(waits);
        assert!(!is_displaced(&working).await);
        drop(working);
        newcomer.await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_owed_a_turn_keeps_its_place_until_its_time_is_over() {
        let room = room(1);
        let owed = room.enter(user(1)).await;
        assert_eq!(owed.waits_for(std::future::ready(7)).await.unwrap(), 7);
        let mut waits = Box::pin(owed.waits_for(std::future::pending::<()>()));
        let newcomer = room.enter(user(2));
        tokio::pin!(newcomer);
        neither_comes_on(&mut waits, &mut newcomer).await;
        assert!(waits.await.unwrap_err().0.contains("no turn"));
        drop(owed);
        newcomer.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stalls_keeps_no_turn() {
        let room = room(2);
        let (stalls, goes_on) = (room.enter(user(1)).await, room.enter(user(2)).await);
        let stalled = stalls.in_turns(std::future::pending::<()>());
        tokio::pin!(stalled);
        tokio::select! {
            biased;
            _ = &mut stalled => panic!("it never ends"),
            done = goes_on.in_turns(std::future::ready(7)) => assert_eq!(done.unwrap(), 7),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_for_all_work_together() {
        let room = room(1);
        let arrival = room.enter(user(1)).await;
        assert!(arrival.within(tokio::time::sleep(Duration::from_secs(6))).await.is_ok());
        let late = arrival.within(tokio::time::sleep(Duration::from_secs(6))).await;
        assert!(late.unwrap_err().0.contains("no CONNECT in time"));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_source_is_told_without_port_and_process() {
        let told = |text: &str| Source::of(text.parse().unwrap()).to_string();
        assert_eq!(told("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(told("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(user(1000).to_string(), "1000");
    }
}
