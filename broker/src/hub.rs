//! The one place where the core is entered: under a lock, by whoever has input for it. Effects
//! are carried out before the lock is released, so that their order is the core's.

use crate::arrivals::Source;
use crate::audit::{names_remote, record_event, record_refusal};
use crate::input::Input;
use crate::limits::PendingLimits;
use crate::outbox::Woken;
use crate::traffic::{SocketsLost, Traffic};
use crate::{Authenticator, Refusal};
use broker_core::{
    AuthOutcome, AuthRequest, Broker, CloseCause, Config, ConnId, Effect, Listener, Metrics, Now,
    SessionSnapshot, SessionState, Witness,
};
use midge_audit::AuditLog;
use midge_identity::{SpiffeId, UnixMillis, VerifiedPeer};
use midge_policy::Policy;
use midge_runtime::Clock;
use mqtt_proto::{Connect, DecodeError, Publication, ReasonCode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

mod line;
mod outboxes;
mod standing;
mod storing;
#[cfg(test)]
mod tests;

pub(crate) use self::line::Line;
use self::outboxes::Outboxes;
pub(crate) use self::storing::IDLE_WAIT;
use self::storing::Storing;

/// Packets that go the short way and cost about as much as one that does not.
const PLAIN_FOR_ONE: usize = 8;

struct Inner {
    broker: Broker,
    outboxes: Outboxes,
    next_conn: u64,
    /// The wall clock as it was read last, and when.
    read: (Duration, UnixMillis),
    /// When the timer task will wake by itself.
    armed: Option<Duration>,
    storing: Storing,
    /// Whether the persister has to be woken once the core was left.
    to_persist: bool,
}

impl Inner {
    fn remote_of(&self, conn: ConnId) -> Option<Arc<str>> {
        self.outboxes.of(conn).map(|outbox| Arc::clone(outbox.remote()))
    }

    /// Returns both times. The wall clock is read once in each of its steps: it is dearer than most that is done here.
    fn now(&mut self, mono: Duration, clock: &Clock) -> Now {
        let (at, wall) = self.read;
        if mono < at || mono - at >= clock.step() {
            self.read = (mono, clock.now());
            return Now { mono, wall: self.read.1 };
        }
        Now { mono, wall }
    }

    /// Has the next packets taken the short way that may go it, so many at most. Returns how many did.
    fn pass(&mut self, conn: ConnId, input: &mut Input, at_most: usize, now: Now) -> usize {
        let Some(mut run) = input.plain_run() else { return 0 };
        let taken = self.broker.handle_plain(conn, &mut run, at_most, now, &mut self.outboxes);
        let used = run.used();
        input.skip(used);
        taken
    }

    /// Says who is to be called once the lock is released. Connections that have something to write are added to
    /// `woken`.
    fn leave(&mut self, woken: &mut Woken) -> Calls {
        woken.add(&mut self.outboxes.to_wake);
        let timer = match (self.broker.poll_timeout(), self.armed) {
            (Some(wanted), Some(armed)) => wanted < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        Calls { persister: std::mem::take(&mut self.to_persist), backlog: self.broker.has_backlog(), timer }
    }
}

/// How much of its input a connection was rid of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Every whole packet.
    All,
    /// As much as one entry of the core takes.
    Some,
    /// What comes next, or something that the core has taken and not done with, has to wait so long; the core is to be
    /// entered again after that, also where no packets are left.
    Wait(Duration),
}

/// The tasks that have something to do after the core was entered.
struct Calls {
    persister: bool,
    backlog: bool,
    timer: bool,
}

/// Shared access to the broker's core. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    started: Instant,
    clock: Clock,
    audit: AuditLog,
    traffic: Traffic,
    authenticator: Option<Arc<dyn Authenticator>>,
    rearm: Notify,
    unstored: Notify,
    backlog: Notify,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Returns a hub around a new core.
    pub fn new(
        mut config: Config,
        policy: Arc<Policy>,
        (clock, audit): (Clock, AuditLog),
        authenticator: Option<Arc<dyn Authenticator>>,
    ) -> Self {
        config.auth_methods = authenticator.as_ref().map(|known| known.methods()).unwrap_or_default();
        let storing = Storing::new(PendingLimits::new(config.packet_size_max));
        let broker = Broker::new(config, policy);
        let inner = Inner {
            broker,
            outboxes: Outboxes::default(),
            next_conn: 1,
            read: (Duration::ZERO, clock.now()),
            armed: None,
            storing,
            to_persist: false,
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            started: Instant::now(),
            clock,
            audit,
            traffic: Traffic::default(),
            authenticator,
            rearm: Notify::new(),
            unstored: Notify::new(),
            backlog: Notify::new(),
        }))
    }

    /// Returns every session.
    pub fn sessions(&self) -> Vec<SessionSnapshot> {
        self.0.inner.lock().broker.sessions()
    }

    /// Ends one session by an operator's wish, with DISCONNECT 0x98 where it has a connection (5.0); its will goes out,
    /// if it may. Returns whether there was one.
    pub fn end_session(&self, identity: &SpiffeId, client_id: &str) -> bool {
        self.enter(|broker, now| broker.handle_kick(identity, client_id, now))
    }

    /// Returns every session, with where its client connects from: address and port, or process and user.
    pub fn sessions_from(&self) -> Vec<(SessionSnapshot, Option<Arc<str>>)> {
        let inner = self.0.inner.lock();
        let with_remote = |session: SessionSnapshot| {
            let remote = match &session.state {
                SessionState::Live { conn, .. } => inner.remote_of(*conn),
                SessionState::Parked { .. } => None,
            };
            (session, remote)
        };
        inner.broker.sessions().into_iter().map(with_remote).collect()
    }

    /// Returns counters and sizes.
    pub fn metrics(&self) -> Metrics {
        self.0.inner.lock().broker.metrics()
    }

    /// Returns how many sockets came to nothing.
    pub fn sockets_lost(&self) -> SocketsLost {
        self.0.traffic.sockets_lost()
    }

    /// Returns what went through the sockets.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// Returns how long the broker has been there.
    pub(crate) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Publishes messages of the broker itself; who gets them is decided by the rights of the receivers.
    pub fn publish_own(&self, publications: impl IntoIterator<Item = Publication>) {
        self.enter(|broker, now| {
            for publication in publications {
                broker.handle_own_publication(publication, now);
            }
        });
    }

    /// Puts a witness of decisions in place of the one before. It is called under the lock of the core.
    pub fn set_witness(&self, witness: Option<Box<dyn Witness>>) {
        self.enter(|broker, _| broker.set_witness(witness));
    }

    /// Ends every connection for a planned stop.
    pub fn drain(&self) {
        self.enter(Broker::handle_drain);
    }

    pub(crate) fn connect(
        &self,
        (listener, remote): (&Arc<Listener>, &Arc<str>),
        peer: VerifiedPeer,
        connect: Connect,
    ) -> Line {
        let line = self.open_line(connect.version, remote);
        let newcomer = self.0.inner.lock().broker.newcomer(peer.id());
        let newcomer = newcomer.map(|newcomer| newcomer.prepared(listener, &connect.client_id));
        self.enter(|broker, now| {
            newcomer.into_iter().for_each(|newcomer| broker.handle_newcomer(newcomer));
            broker.handle_connect(line.conn, listener, peer, connect, now);
        });
        line
    }

    /// Hands so many packets over, up to one that comes too fast, has to wait for the disk, or takes so long that others
    /// have their turn before it is done with. They are decoded one by one: what was allocated for the last is there for
    /// the next.
    /// Whoever has something to send for it is added to `woken`, to be woken after the last packet of a read; `at` is now.
    ///
    /// # Errors
    /// When a packet is malformed. Those before it have been taken.
    pub(crate) fn packets(
        &self,
        conn: ConnId,
        input: &mut Input,
        at_most: usize,
        (at, woken): (Instant, &mut Woken),
    ) -> Result<Taken, DecodeError> {
        self.enter_waking(at, woken, |inner, now| {
            let mut until = inner.broker.handle_rest(conn, now);
            let mut left = at_most * PLAIN_FOR_ONE;
            while until.is_none() {
                left = left.saturating_sub(inner.pass(conn, input, left, now));
                if left == 0 {
                    break;
                }
                let Some(packet) = input.next()? else { return Ok(Taken::All) };
                until = inner.broker.puts_off(conn, &packet, now);
                if until.is_some() {
                    input.put_back(packet);
                    break;
                }
                left = left.saturating_sub(PLAIN_FOR_ONE);
                until = inner.broker.handle_packet(conn, packet, now);
                // At once, while what they refer to is in the processor's cache.
                while let Some(effect) = inner.broker.poll_immediate() {
                    self.execute(inner, effect);
                }
            }
            let wait = |until: Duration| Taken::Wait(until.saturating_sub(self.0.started.elapsed()));
            Ok(until.map_or(Taken::Some, wait))
        })
    }

    pub(crate) fn malformed(&self, conn: ConnId, reason: ReasonCode) {
        self.enter(|broker, now| broker.handle_malformed(conn, reason, now));
    }

    /// Says that a peer has begun a packet and sends nothing more of it.
    pub(crate) fn unfinished(&self, conn: ConnId) {
        self.enter(|broker, now| broker.handle_unfinished(conn, now));
    }

    /// Says that a peer has taken nothing of what it is sent for too long.
    pub(crate) fn stalled(&self, conn: ConnId) {
        self.enter(|broker, now| broker.handle_stalled(conn, now));
    }

    pub(crate) fn flushed(&self, conn: ConnId, bytes: usize) {
        self.enter(|broker, now| broker.handle_flushed(conn, bytes, now));
    }

    /// Says that nothing more comes from a peer, which may still be owed answers.
    pub(crate) fn input_ended(&self, conn: ConnId, cause: CloseCause) {
        self.enter(|broker, now| broker.handle_input_ended(conn, cause, now));
    }

    pub(crate) fn closed(&self, conn: ConnId, cause: CloseCause) {
        self.enter(|broker, now| broker.handle_closed(conn, cause, now));
    }

    /// Records that a peer was turned away before the core heard of it.
    pub(crate) fn refused(
        &self,
        listener: &str,
        from: (&str, Source),
        client_id: Option<&str>,
        refusal: &Refusal,
    ) {
        record_refusal(&self.0.audit, self.0.clock.now(), (listener, from), client_id, refusal);
    }

    /// Wakes the core when it asks for it, for ever.
    pub(crate) async fn keep_time(&self) {
        loop {
            let rearmed = self.0.rearm.notified();
            let due = {
                let mut inner = self.0.inner.lock();
                inner.armed = inner.broker.poll_timeout();
                inner.armed
            };
            let wait = due.map(|due| due.saturating_sub(self.0.started.elapsed()));
            tokio::select! {
                () = rearmed => {}
                () = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(3600))) => {
                    self.enter(Broker::handle_timeout);
                    // There may be more that is due, and others to be served before it.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn enter<R>(&self, act: impl FnOnce(&mut Broker, Now) -> R) -> R {
        self.enter_inner(|inner, now| act(&mut inner.broker, now))
    }

    fn enter_inner<R>(&self, act: impl FnOnce(&mut Inner, Now) -> R) -> R {
        self.enter_waking(Instant::now(), &mut Woken::default(), act)
    }

    fn enter_waking<R>(&self, at: Instant, woken: &mut Woken, act: impl FnOnce(&mut Inner, Now) -> R) -> R {
        let mut inner = self.0.inner.lock();
        let now = inner.now(at.saturating_duration_since(self.0.started), &self.0.clock);
        let result = act(&mut inner, now);
        self.carry_out(&mut inner);
        let calls = inner.leave(woken);
        drop(inner);
        self.call(calls);
        result
    }

    fn call(&self, calls: Calls) {
        if calls.persister {
            self.0.unstored.notify_one();
        }
        if calls.backlog {
            self.0.backlog.notify_one();
        }
        if calls.timer {
            self.0.rearm.notify_one();
        }
    }

    fn carry_out(&self, inner: &mut Inner) {
        while let Some(effect) = inner.broker.poll_effect() {
            self.execute(inner, effect);
        }
    }

    fn execute(&self, inner: &mut Inner, effect: Effect) {
        let bytes = effect.bytes();
        match effect {
            Effect::Send { conn, packet } => {
                inner.outboxes.push(conn, |outbox| outbox.send(&packet, bytes));
            }
            Effect::Deliver { conn, delivery } => {
                inner.outboxes.push(conn, |outbox| outbox.deliver(delivery, bytes));
            }
            Effect::Discard { conn } => {
                if let Some(outbox) = inner.outboxes.of_mut(conn) {
                    outbox.discard();
                }
            }
            Effect::Close { conn, reason } => {
                if let Some(outbox) = inner.outboxes.of_mut(conn) {
                    outbox.close(reason);
                }
            }
            Effect::Authenticate { conn, request } => self.judge(conn, *request),
            Effect::Audit(event) => {
                let conn = event.conn.filter(|_| names_remote(&event.kind));
                let remote = conn.and_then(|conn| inner.remote_of(conn));
                record_event(&self.0.audit, event, remote);
            }
            Effect::Store(batch) => inner.gather(*batch),
        }
    }

    /// Judges beside the core, which waits for nobody.
    fn judge(&self, conn: ConnId, request: AuthRequest) {
        let hub = self.clone();
        tokio::spawn(async move {
            let outcome = match &hub.0.authenticator {
                Some(authenticator) => authenticator.judge(request).await,
                None => AuthOutcome::Failed,
            };
            hub.enter(|broker, now| broker.handle_authenticated(conn, outcome, now));
        });
    }
}
