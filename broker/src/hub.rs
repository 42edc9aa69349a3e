//! The one place where the core is entered: under a lock, by whoever has input for it. Effects
//! are carried out before the lock is released, so that their order is the core's.

use crate::audit::{names_remote, record_event, record_refusal};
use crate::limits::PendingLimits;
use crate::outbox::{Outbox, Outgoing, Woken};
use crate::pending::Pending;
use crate::traffic::Traffic;
use crate::{Admission, Authenticator, Refusal};
use broker_core::{
    AuthOutcome, AuthRequest, Broker, CloseCause, Config, ConnId, Durability, Effect, Listener, Metrics, Now,
    PolicyChange, Record, RecordKey, Restored, Revocation, SessionSnapshot, SessionState, StoreTrouble,
    Witness, WordHasher,
};
use midge_audit::AuditLog;
use midge_identity::{Proof, SpiffeId, VerifiedPeer};
use midge_policy::Policy;
use midge_runtime::Clock;
use mqtt_proto::{Connect, Packet, Publication, ReasonCode};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Sessions dealt with at once when a change concerns many: a tenth of a millisecond.
const PORTION: usize = 8;
/// Connections whose proofs are read at once.
const PROOFS: usize = 128;

struct Inner {
    broker: Broker,
    outboxes: HashMap<ConnId, Arc<Outbox>, BuildHasherDefault<WordHasher>>,
    /// The connection that the core closed last and where it came from: the record of its end follows.
    closed: Option<(ConnId, Arc<str>)>,
    /// Outboxes to be woken once the core has been left.
    to_wake: Vec<Arc<Outbox>>,
    next_conn: u64,
    /// When the timer task will wake by itself.
    armed: Option<Duration>,
    storing: Storing,
    /// Whether the persister has to be woken once the core was left.
    to_persist: bool,
}

impl Inner {
    fn remote_of(&self, conn: ConnId) -> Option<Arc<str>> {
        let closed = || self.closed.as_ref().filter(|(closed, _)| *closed == conn).map(|(_, remote)| remote);
        self.outboxes.get(&conn).map(|outbox| outbox.remote()).or_else(closed).cloned()
    }
}

/// How long changes that nobody waits for may stay unwritten, and how many bytes of them.
pub(crate) const IDLE_WAIT: Duration = Duration::from_millis(50);
const IDLE_BYTES_MAX: usize = 1024 * 1024;

/// What of the core's changes is not stored yet.
struct Storing {
    limits: PendingLimits,
    pending: Pending,
    /// Bytes of what is being written.
    writing: usize,
    /// Why the last attempt to write failed.
    failing: Option<Arc<str>>,
    /// Whether nothing follows any more.
    is_ending: bool,
}

impl Storing {
    fn new(limits: PendingLimits) -> Self {
        Self { limits, pending: Pending::default(), writing: 0, failing: None, is_ending: false }
    }

    /// Whether something has to be written now.
    fn is_due(&self) -> bool {
        let pending = &self.pending;
        let is_awaited = pending.level() != Durability::None;
        !pending.is_idle() && (is_awaited || self.is_ending || pending.bytes > IDLE_BYTES_MAX)
    }

    fn trouble(&self) -> StoreTrouble {
        let bytes = self.pending.bytes.saturating_add(self.writing);
        let is_much = bytes > self.limits.soft;
        match &self.failing {
            Some(_) if is_much => StoreTrouble::Full,
            Some(_) => StoreTrouble::Failing,
            None if bytes > self.limits.hard => StoreTrouble::Full,
            None if is_much => StoreTrouble::Busy,
            None => StoreTrouble::None,
        }
    }
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
            outboxes: HashMap::default(),
            closed: None,
            to_wake: Vec::new(),
            next_conn: 1,
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
            let outbox = match &session.state {
                SessionState::Live { conn, .. } => inner.outboxes.get(conn),
                SessionState::Parked { .. } => None,
            };
            let remote = outbox.map(|outbox| Arc::clone(outbox.remote()));
            (session, remote)
        };
        inner.broker.sessions().into_iter().map(with_remote).collect()
    }

    /// Returns counters and sizes.
    pub fn metrics(&self) -> Metrics {
        self.0.inner.lock().broker.metrics()
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

    /// Replaces the policy.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        let before = Arc::clone(self.0.inner.lock().broker.policy());
        let change = PolicyChange::between(before, policy);
        // What it replaces may be large: it is given back to the memory after the lock.
        drop(self.enter(|broker, now| broker.handle_policy(change, now)));
    }

    /// Puts a witness of decisions in place of the one before. It is called under the lock of the core.
    pub fn set_witness(&self, witness: Option<Box<dyn Witness>>) {
        self.enter(|broker, _| broker.set_witness(witness));
    }

    /// Tells a witness of what sessions were granted before it came; others get their turn in between.
    pub fn tell_standing(&self, witness: &mut dyn Witness) {
        let mut told = None;
        loop {
            let mut inner = self.0.inner.lock();
            told = inner.broker.tell_standing(witness, told, PORTION);
            MutexGuard::unlock_fair(inner);
            if told.is_none() {
                return;
            }
        }
    }

    /// Ends every connection for a planned stop.
    pub fn drain(&self) {
        self.enter(Broker::handle_drain);
    }

    /// Ends what no longer stands: the sessions of identities, and connections by their proof; those by SVID only
    /// where `roots_changed`. Nobody is asked about under the lock, and what there is to end is ended in portions.
    pub fn re_admit(&self, admission: &dyn Admission, roots_changed: bool) {
        let identities = self.0.inner.lock().broker.identities();
        let mut revoked: BTreeMap<String, Vec<SpiffeId>> = BTreeMap::new();
        for identity in &identities {
            if let Err(refusal) = admission.admits(identity, None) {
                revoked.entry(refusal.0).or_default().push((**identity).clone());
            }
        }
        for (reason, identities) in revoked {
            self.revoke(identities, &reason);
        }
        let connections = {
            let broker = &self.0.inner.lock().broker;
            if roots_changed { broker.connections() } else { broker.attested() }
        };
        for some in connections.chunks(PROOFS) {
            let proofs: Vec<_> = {
                let inner = self.0.inner.lock();
                some.iter().filter_map(|conn| Some((*conn, inner.broker.proof(*conn)?))).collect()
            };
            for (conn, (identity, proof)) in proofs {
                self.hold_to_proof(conn, &identity, &proof, admission);
            }
        }
    }

    /// Ends a connection that was let in by what has ended since: whoever ends it looks at connections that
    /// are there, and this one may not have been.
    pub(crate) fn admit_again(
        &self,
        conn: ConnId,
        identity: &SpiffeId,
        proof: &Proof,
        admission: &dyn Admission,
    ) {
        match admission.admits(identity, None) {
            Ok(()) => self.hold_to_proof(conn, identity, proof, admission),
            Err(refusal) => self.revoke(vec![identity.clone()], &refusal.0),
        }
    }

    fn hold_to_proof(&self, conn: ConnId, identity: &SpiffeId, proof: &Proof, admission: &dyn Admission) {
        if let Err(refusal) = admission.admits(identity, Some(proof)) {
            self.enter(|broker, now| broker.handle_proof_ended(conn, &refusal.0.as_str().into(), now));
        }
    }

    fn revoke(&self, identities: Vec<SpiffeId>, reason: &str) {
        let revocation = Revocation { identities, reason: reason.into() };
        self.enter(|broker, now| broker.handle_revoked(&revocation, now));
    }

    /// Does what changes left to be done, in portions, for ever. Everybody else comes first.
    pub(crate) async fn clear_backlog(&self) {
        loop {
            self.0.backlog.notified().await;
            while self.portion() {
                tokio::task::yield_now().await;
            }
        }
    }

    fn portion(&self) -> bool {
        let now = self.now();
        let mut inner = self.0.inner.lock();
        let has_more = inner.broker.handle_backlog(PORTION, now);
        self.carry_out(&mut inner);
        let mut to_wake = std::mem::take(&mut inner.to_wake);
        // Whoever waits for the lock gets it now, and not only when the whole backlog is done.
        MutexGuard::unlock_fair(inner);
        to_wake.drain(..).for_each(|outbox| outbox.wake());
        has_more
    }

    pub(crate) fn connect(
        &self,
        (listener, remote): (&Arc<Listener>, &Arc<str>),
        peer: VerifiedPeer,
        connect: Connect,
    ) -> (ConnId, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new(connect.version, Arc::clone(remote)));
        let conn = {
            let mut inner = self.0.inner.lock();
            let conn = ConnId(inner.next_conn);
            inner.next_conn += 1;
            inner.outboxes.insert(conn, Arc::clone(&outbox));
            conn
        };
        self.enter(|broker, now| broker.handle_connect(conn, listener, peer, connect, now));
        (conn, outbox)
    }

    /// Hands packets over, up to one that comes too fast or has to wait for the disk. Returns how long the others have
    /// to wait then, and whatever the client sends after them.
    /// Whoever has something to send for it is added to `woken`, to be woken after the last packet of a read.
    pub(crate) fn packets(
        &self,
        conn: ConnId,
        packets: &mut VecDeque<Packet>,
        woken: &mut Woken,
    ) -> Option<Duration> {
        let until = self.enter_waking(woken, |inner, now| {
            let mut until = None;
            while until.is_none()
                && let Some(packet) = packets.front()
            {
                until = inner.broker.puts_off(conn, packet, now);
                if until.is_some() {
                    break;
                }
                let Some(packet) = packets.pop_front() else { break };
                until = inner.broker.handle_packet(conn, packet, now);
                // At once, while what they refer to is in the processor's cache.
                while let Some(effect) = inner.broker.poll_immediate() {
                    self.execute(inner, effect);
                }
            }
            until
        })?;
        Some(until.saturating_sub(self.0.started.elapsed()))
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
        self.0.inner.lock().outboxes.remove(&conn);
    }

    /// Gives the core the records of an earlier run.
    pub(crate) fn restore(&self, records: Vec<(RecordKey, Record)>) -> Restored {
        self.enter(|broker, now| broker.restore(records, now))
    }

    /// Why changes cannot be stored at present.
    pub fn store_failure(&self) -> Option<Arc<str>> {
        self.0.inner.lock().storing.failing.clone()
    }

    /// Waits for changes to be stored; false once everything is stored after the end.
    ///
    /// Changes that nobody waits for go with the next that somebody does, or after a while: what a receiver
    /// acknowledges is best not written at all.
    pub(crate) async fn wait_for_pending(&self) -> bool {
        loop {
            let unstored = self.0.unstored.notified();
            let is_idle = {
                let storing = &self.0.inner.lock().storing;
                if storing.is_due() {
                    return true;
                }
                if storing.is_ending {
                    return false;
                }
                storing.pending.is_idle()
            };
            if is_idle {
                unstored.await;
            } else if tokio::time::timeout(IDLE_WAIT, unstored).await.is_err() {
                return true;
            }
        }
    }

    /// Takes what is to be stored now: everything, or nothing if all that anybody waits for was undone meanwhile,
    /// which counts as stored. `is_late` says that the rest has waited long enough.
    pub(crate) fn take_pending(&self, is_late: bool) -> Option<Pending> {
        let ticket = {
            let storing = &mut self.0.inner.lock().storing;
            // While writes fail the next attempt says whether they still do.
            if storing.pending.is_empty() && storing.failing.is_none() {
                std::mem::take(&mut storing.pending).ticket
            } else if is_late || storing.is_due() {
                storing.writing = storing.pending.bytes;
                return Some(std::mem::take(&mut storing.pending));
            } else {
                storing.pending.ticket
            }
        };
        self.enter_storing(|broker, trouble, now| {
            broker.handle_store_trouble(trouble);
            broker.handle_stored(ticket, now);
        });
        None
    }

    /// Takes back changes that could not be stored.
    pub(crate) fn not_stored(&self, pending: Pending, why: String) {
        let mut inner = self.0.inner.lock();
        let storing = &mut inner.storing;
        storing.pending.add_older(pending);
        storing.writing = 0;
        if storing.failing.as_deref() != Some(&why) {
            tracing::warn!(%why, "MQTT state cannot be stored; it is tried again");
        }
        storing.failing = Some(why.into());
        let trouble = storing.trouble();
        inner.broker.handle_store_trouble(trouble);
    }

    /// Lets go what waited for these changes to be stored.
    pub(crate) fn stored(&self, pending: &Pending) {
        {
            let storing = &mut self.0.inner.lock().storing;
            storing.writing = 0;
            if storing.failing.take().is_some() {
                tracing::info!("MQTT state is stored again");
            }
        }
        self.enter_storing(|broker, trouble, now| {
            broker.handle_store_trouble(trouble);
            broker.handle_stored(pending.ticket, now);
        });
    }

    /// Says that no changes follow.
    pub(crate) fn end_storing(&self) {
        self.0.inner.lock().storing.is_ending = true;
        self.0.unstored.notify_one();
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.0.inner.lock().storing.is_ending
    }

    /// Records that a peer was turned away before the core heard of it.
    pub(crate) fn refused(&self, listener: &str, remote: &str, client_id: Option<&str>, refusal: &Refusal) {
        record_refusal(&self.0.audit, self.0.clock.now(), (listener, remote), client_id, refusal);
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
        self.enter_storing(|broker, _, now| act(broker, now))
    }

    fn enter_storing<R>(&self, act: impl FnOnce(&mut Broker, StoreTrouble, Now) -> R) -> R {
        self.enter_inner(|inner, now| {
            let trouble = inner.storing.trouble();
            act(&mut inner.broker, trouble, now)
        })
    }

    fn enter_inner<R>(&self, act: impl FnOnce(&mut Inner, Now) -> R) -> R {
        let mut woken = Woken::default();
        let result = self.enter_waking(&mut woken, act);
        woken.wake();
        result
    }

    fn enter_waking<R>(&self, woken: &mut Woken, act: impl FnOnce(&mut Inner, Now) -> R) -> R {
        let now = self.now();
        let mut inner = self.0.inner.lock();
        let result = act(&mut inner, now);
        self.carry_out(&mut inner);
        let earlier = match (inner.broker.poll_timeout(), inner.armed) {
            (Some(wanted), Some(armed)) => wanted < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let has_backlog = inner.broker.has_backlog();
        let to_persist = std::mem::take(&mut inner.to_persist);
        woken.add(&mut inner.to_wake);
        drop(inner);
        if to_persist {
            self.0.unstored.notify_one();
        }
        if has_backlog {
            self.0.backlog.notify_one();
        }
        if earlier {
            self.0.rearm.notify_one();
        }
        result
    }

    fn now(&self) -> Now {
        Now { mono: self.0.started.elapsed(), wall: self.0.clock.now() }
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
                push(inner, conn, &Outgoing::Packet(packet), bytes);
            }
            Effect::Deliver { conn, delivery } => {
                push(inner, conn, &Outgoing::Delivery(delivery), bytes);
            }
            Effect::Discard { conn } => {
                if let Some(outbox) = inner.outboxes.get(&conn) {
                    outbox.discard();
                }
            }
            Effect::Close { conn, reason } => {
                if let Some(outbox) = inner.outboxes.remove(&conn) {
                    inner.closed = Some((conn, Arc::clone(outbox.remote())));
                    outbox.close(reason);
                }
            }
            Effect::Authenticate { conn, request } => self.judge(conn, *request),
            Effect::Audit(event) => {
                let conn = event.conn.filter(|_| names_remote(&event.kind));
                let remote = conn.and_then(|conn| inner.remote_of(conn));
                record_event(&self.0.audit, event, remote);
            }
            Effect::Store(batch) => {
                let before = (inner.storing.pending.is_idle(), inner.storing.pending.level());
                inner.storing.pending.add(*batch);
                inner.broker.handle_store_trouble(inner.storing.trouble());
                let pending = &inner.storing.pending;
                if before != (pending.is_idle(), pending.level()) || pending.bytes > IDLE_BYTES_MAX {
                    inner.to_persist = true;
                }
            }
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

fn push(inner: &mut Inner, conn: ConnId, item: &Outgoing, bytes: usize) {
    if let Some(outbox) = inner.outboxes.get(&conn)
        && outbox.push(item, bytes)
    {
        inner.to_wake.push(Arc::clone(outbox));
    }
}

#[cfg(test)]
mod tests;
