//! The X.509-SVIDs this agent keeps: generates keys, has them signed, and wakes who waits.
//!
//! Owns keys and the signing task. Leaves the schedule to [`crate::rotation`].

use crate::{
    AgentError, SignFailure, Upstream,
    rotation::{Full, Order, Rotation, Svid},
};
use issuer_core::{RegistrationEntry, signed_by};
use midge_identity::CertificateFacts;
use midge_pki::{CsrSubject, PrivateKey};
use midge_runtime::{CancellationToken, Clock, MetricKind, Metrics};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time};

const SIGN_TIMEOUT: Duration = Duration::from_secs(30);
// The wall clock may be stepped while the task sleeps.
const SLEEP_LONGEST: Duration = Duration::from_secs(10);

/// All SVIDs of the agent.
pub(crate) struct Svids {
    rotation: Mutex<Rotation>,
    waiting: Mutex<HashMap<String, Vec<Weak<Notify>>>>,
    demand: Notify,
    upstream: Arc<dyn Upstream>,
    clock: Clock,
    signed: AtomicU64,
    failed: AtomicU64,
}

/// Keeps one entry's SVID signed, and is told of new ones, until dropped.
pub(crate) struct Interest {
    svids: Arc<Svids>,
    entry_id: String,
}

impl Svids {
    pub(crate) fn new(rotation: Rotation, upstream: Arc<dyn Upstream>, clock: Clock) -> Self {
        Self {
            rotation: Mutex::new(rotation),
            waiting: Mutex::default(),
            demand: Notify::new(),
            upstream,
            clock,
            signed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn register_metrics(self: &Arc<Self>, metrics: &Metrics) {
        let (signed, failed) = (Arc::clone(self), Arc::clone(self));
        metrics.collect_one(
            "midge_agent_svids_signed_total",
            "SVIDs signed for workloads.",
            MetricKind::Counter,
            move || signed.signed.load(Ordering::Relaxed) as f64,
        );
        metrics.collect_one(
            "midge_agent_sign_failures_total",
            "Failed attempts to get an SVID signed.",
            MetricKind::Counter,
            move || failed.failed.load(Ordering::Relaxed) as f64,
        );
    }

    /// Returns how many SVIDs are kept, signed or about to be.
    pub(crate) fn kept(&self) -> usize {
        self.rotation.lock().len()
    }

    /// Asks for an entry's SVID; `woken` is notified whenever there is a new one, or it failed.
    pub(crate) fn interest(
        self: &Arc<Self>,
        entry: &Arc<RegistrationEntry>,
        woken: &Arc<Notify>,
    ) -> Result<Interest, Full> {
        self.rotation.lock().handle_interest(entry)?;
        self.waiting.lock().entry(entry.id.clone()).or_default().push(Arc::downgrade(woken));
        self.demand.notify_one();
        Ok(Interest { svids: Arc::clone(self), entry_id: entry.id.clone() })
    }

    /// Returns the SVID of an entry while it is valid.
    pub(crate) fn current(&self, entry: &RegistrationEntry) -> Option<Arc<Svid>> {
        self.rotation.lock().svid(entry, self.clock.now())
    }

    /// Returns whether signing for this entry is failing now.
    pub(crate) fn is_failing(&self, entry: &RegistrationEntry) -> bool {
        self.rotation.lock().is_failing(&entry.id)
    }

    /// Signs what is due until `token` is cancelled.
    pub(crate) async fn serve(self: Arc<Self>, token: CancellationToken) -> Result<(), AgentError> {
        let mut view = self.upstream.view();
        let first = Arc::clone(&view.borrow_and_update());
        self.rotation.lock().handle_view(&first);
        // Dropped with this future, and the signings with it.
        let mut signings: JoinSet<(Order, Result<Svid, SignFailure>)> = JoinSet::new();
        loop {
            while let Some(order) = self.next_order() {
                signings.spawn(sign(order, Arc::clone(&self.upstream), self.clock.clone()));
            }
            let pause = self.pause();
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                changed = view.changed() => {
                    changed.map_err(|_| AgentError::UpstreamEnded)?;
                    let view = Arc::clone(&view.borrow_and_update());
                    self.rotation.lock().handle_view(&view);
                }
                Some(done) = signings.join_next() => match done {
                    Ok((order, outcome)) => self.handle_outcome(&order, outcome),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_cancelled) => return Ok(()),
                    },
                },
                () = self.demand.notified() => {}
                () = time::sleep(pause) => {}
            }
        }
    }

    fn next_order(&self) -> Option<Order> {
        self.rotation.lock().next_order(self.clock.now())
    }

    fn pause(&self) -> Duration {
        let due = self.rotation.lock().poll_timeout();
        due.map_or(SLEEP_LONGEST, |due| due.since(self.clock.now()).min(SLEEP_LONGEST))
    }

    fn handle_outcome(&self, order: &Order, outcome: Result<Svid, SignFailure>) {
        let entry = &order.entry;
        match outcome {
            Ok(svid) => {
                self.signed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, expires = svid.expires.as_secs(), "svid signed");
                self.rotation.lock().handle_signed(order, Arc::new(svid));
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let failures = self.rotation.lock().handle_failed(order, self.clock.now());
                if failures == 1 {
                    tracing::warn!(entry = %entry.id, spiffe_id = %entry.spiffe_id, %error, "cannot get an svid signed, trying again");
                } else {
                    tracing::debug!(entry = %entry.id, failures, %error, "cannot get an svid signed");
                }
            }
        }
        for waiting in self.waiting.lock().get(&entry.id).into_iter().flatten() {
            if let Some(woken) = waiting.upgrade() {
                woken.notify_one();
            }
        }
    }

    fn forget(&self, entry_id: &str) {
        self.rotation.lock().handle_release(entry_id);
        let mut waiting = self.waiting.lock();
        if let Some(of_entry) = waiting.get_mut(entry_id) {
            of_entry.retain(|woken| woken.strong_count() > 0);
            if of_entry.is_empty() {
                waiting.remove(entry_id);
            }
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.svids.forget(&self.entry_id);
    }
}

async fn sign(order: Order, upstream: Arc<dyn Upstream>, clock: Clock) -> (Order, Result<Svid, SignFailure>) {
    let outcome = match time::timeout(SIGN_TIMEOUT, signed(&order, upstream.as_ref(), &clock)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            Err(SignFailure::Unavailable(format!("no answer within {} s", SIGN_TIMEOUT.as_secs())))
        }
    };
    (order, outcome)
}

async fn signed(order: &Order, upstream: &dyn Upstream, clock: &Clock) -> Result<Svid, SignFailure> {
    let entry = &order.entry;
    let local = |error: &dyn std::error::Error| SignFailure::Unavailable(error.to_string());
    let key = PrivateKey::generate().map_err(|error| local(&error))?;
    let csr = key.csr_der(Some(&entry.spiffe_id), CsrSubject::default()).map_err(|error| local(&error))?;
    let answer = upstream.sign(&entry.id, csr).await?;
    let wrong = |what: String| SignFailure::Wrong(what);
    let leaf = answer.chain.first().ok_or_else(|| wrong("an empty chain".to_owned()))?;
    let facts = CertificateFacts::parse(leaf).map_err(|error| wrong(error.to_string()))?;
    if facts.public_key_der != key.public_key_der() {
        return Err(wrong("it is for another key".to_owned()));
    }
    if facts.uri_sans != [entry.spiffe_id.to_string()] {
        return Err(wrong(format!("it names {:?} and not {}", facts.uri_sans, entry.spiffe_id)));
    }
    let now = clock.now();
    if facts.not_after <= now {
        return Err(wrong(format!("it expired at {} s", facts.not_after.as_secs())));
    }
    Ok(Svid {
        spiffe_id: entry.spiffe_id.clone(),
        chain: answer.chain.concat(),
        key: key.to_pkcs8_der(),
        issued: answer.issued.min(now).max(facts.not_before),
        expires: facts.not_after,
        signed_by: signed_by(leaf),
    })
}
