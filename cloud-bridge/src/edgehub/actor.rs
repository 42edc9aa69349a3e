//! The task that owns the `EdgeSync`: executes its effects, keeps a connection, and shows the state.

use super::changes::{PublishedRoots, roots_in};
use super::dial::{DialError, dial};
use super::renewal::{Renewal, install};
use super::{EdgeHubConfig, EdgeHubParts, LinkStatus, Push, PushError, SPOOL_PREFIX};
use crate::frames::{Channel, ChannelError};
use crate::tick::Tick;
use bridge_core::{
    AuditBatch, Change, Cursor, EdgeEffect, EdgeSync, Extent, Message, SigningKind, SigningRequest,
    SpoolWrite,
};
use midge_issuer::CaRequest;
use midge_runtime::{Backoff, CancellationToken};
use midge_store::{Batch, Durability};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// First pause between two tries to connect.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
/// A clock that jumps must not delay the renewal by more than this.
const RENEWAL_CHECK_EVERY: Duration = Duration::from_secs(30);

pub(super) struct Actor {
    config: EdgeHubConfig,
    parts: EdgeHubParts,
    sync: EdgeSync,
    tick: Tick,
    pushes: mpsc::Receiver<Push>,
    status: watch::Sender<LinkStatus>,
    channel: Option<Channel>,
    jobs: JoinSet<Done>,
    dialing: bool,
    dial_at: Instant,
    backoff: Backoff,
    renewal: Renewal,
    link_error: Option<String>,
}

enum Done {
    Dialed(Result<Channel, DialError>),
    Applied(Result<(), String>),
    Installed(SigningKind, Result<(), String>),
    AuditRead(Result<Option<AuditBatch>, String>),
}

enum Event {
    Message(Box<Message>),
    Lost(ChannelError),
    Done(Done),
    Pushes(Vec<Push>),
    CaRequest,
    Time,
    Stop,
}

impl Actor {
    pub(super) fn new(
        config: EdgeHubConfig,
        parts: EdgeHubParts,
        sync: EdgeSync,
        pushes: mpsc::Receiver<Push>,
        status: watch::Sender<LinkStatus>,
    ) -> Self {
        let backoff = Backoff::new(RECONNECT_FIRST, config.reconnect_max);
        let tick = Tick::new(parts.clock.clone());
        Self {
            config,
            parts,
            sync,
            tick,
            pushes,
            status,
            channel: None,
            jobs: JoinSet::new(),
            dialing: false,
            dial_at: Instant::now(),
            backoff,
            renewal: Renewal::default(),
            link_error: None,
        }
    }

    pub(super) async fn run(mut self, token: CancellationToken) {
        let mut ca_request = self.parts.host.ca_request();
        ca_request.mark_changed();
        loop {
            self.renew_when_due();
            self.dial_when_due();
            drop(self.execute().await);
            self.show();
            match self.next_event(&mut ca_request, &token).await {
                Event::Stop => break,
                Event::Message(message) => self.sync.handle_message(&message, self.tick.now()),
                Event::Lost(error) => self.lost(error.to_string()),
                Event::Done(done) => self.handle_done(done),
                Event::Pushes(pushes) => self.handle_pushes(pushes).await,
                Event::CaRequest => {
                    let wish = ca_request.borrow_and_update().as_ref().map(signing_request);
                    self.sync.handle_signing_request(SigningKind::Ca, wish, self.tick.now());
                }
                Event::Time => self.sync.handle_timeout(self.tick.now()),
            }
        }
        if let Some(channel) = self.channel.take() {
            channel.close().await;
        }
    }

    async fn next_event(
        &mut self,
        ca_request: &mut watch::Receiver<Option<CaRequest>>,
        token: &CancellationToken,
    ) -> Event {
        let mut deadline =
            self.tick.deadline(self.sync.poll_timeout()).min(Instant::now() + RENEWAL_CHECK_EVERY);
        if self.channel.is_none() && !self.dialing {
            deadline = deadline.min(self.dial_at);
        }
        let until_renewal = self.parts.identity.renew_at().since(self.parts.clock.now());
        if !until_renewal.is_zero() {
            deadline = deadline.min(Instant::now() + until_renewal.min(RENEWAL_CHECK_EVERY));
        }
        let mut pushes = Vec::new();
        tokio::select! {
            () = token.cancelled() => Event::Stop,
            message = next_message(&mut self.channel) => match message {
                Ok(message) => Event::Message(Box::new(message)),
                Err(error) => Event::Lost(error),
            },
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                Ok(done) => Event::Done(done),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Event::Stop,
            },
            taken = self.pushes.recv_many(&mut pushes, 64) , if !self.pushes.is_closed() || !self.pushes.is_empty() => {
                if taken == 0 { Event::Time } else { Event::Pushes(pushes) }
            }
            Ok(()) = ca_request.changed() => Event::CaRequest,
            () = tokio::time::sleep_until(deadline) => Event::Time,
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.tick.now();
        match done {
            Done::Dialed(Ok(channel)) => {
                self.dialing = false;
                self.channel = Some(channel);
                self.sync.handle_connected(now);
            }
            Done::Dialed(Err(error)) => {
                self.dialing = false;
                self.lost(error.to_string());
            }
            Done::Applied(result) => self.sync.handle_applied(result, now),
            Done::AuditRead(read) => self.sync.handle_audit_read(read, now),
            Done::Installed(kind, result) => {
                let renewed = kind == SigningKind::NodeSvid && result.is_ok();
                self.sync.handle_installed(kind, result, now);
                if renewed {
                    // The new certificate counts from the next connection on.
                    self.renewal.finished();
                    self.channel = None;
                    self.sync.handle_disconnected();
                    self.dial_at = Instant::now();
                }
            }
        }
    }

    async fn handle_pushes(&mut self, pushes: Vec<Push>) {
        let now = self.tick.now();
        let mut waiting = Vec::with_capacity(pushes.len());
        for push in pushes {
            self.sync.handle_upward(push.item, now);
            waiting.push(push.done);
        }
        let stored = self.execute().await;
        for done in waiting {
            // Whoever pushed may have gone.
            drop(done.send(stored.clone().map_err(PushError::Disk)));
        }
    }

    /// Executes all effects; the error is the spool's.
    async fn execute(&mut self) -> Result<(), String> {
        let mut batch = Batch::new();
        let mut rest = Vec::new();
        // What is only forgotten may come back after a power cut: the cloud takes it twice.
        let mut durability = Durability::ProcessCrash;
        while let Some(effect) = self.sync.poll_effect() {
            match effect {
                EdgeEffect::Persist(writes) => {
                    if writes.iter().any(|write| matches!(write, SpoolWrite::Put(..))) {
                        durability = Durability::PowerLoss;
                    }
                    batch = writes.into_iter().fold(batch, spool_write);
                }
                other => rest.push(other),
            }
        }
        let mut stored = Ok(());
        if !batch.is_empty()
            && let Err(error) = self.parts.store.commit(batch, durability).await
        {
            self.link_error = Some(format!("reports for the cloud are not on disk: {error}"));
            stored = Err(error.to_string());
        }
        for effect in rest {
            self.execute_one(effect);
        }
        stored
    }

    fn execute_one(&mut self, effect: EdgeEffect) {
        match effect {
            EdgeEffect::Send(message) => {
                let sent = self.channel.as_ref().map_or(Ok(()), |channel| channel.send(*message));
                if let Err(error) = sent {
                    self.lost(error.to_string());
                }
            }
            EdgeEffect::Apply { changes, cursor, extent } => self.apply(changes, cursor, extent),
            EdgeEffect::Install(SigningKind::Ca, signed) => {
                let (host, identity) = (Arc::clone(&self.parts.host), Arc::clone(&self.parts.identity));
                self.jobs.spawn(async move {
                    let roots = signed.roots.clone();
                    let mut result = host.install_ca(signed.chain, signed.roots).await;
                    if result.is_ok() {
                        result = identity.set_roots(&roots).map_err(|error| error.to_string());
                    }
                    Done::Installed(SigningKind::Ca, result)
                });
            }
            EdgeEffect::Install(SigningKind::NodeSvid, signed) => {
                let (identity, key) = (Arc::clone(&self.parts.identity), self.renewal.key());
                self.jobs.spawn_blocking(move || {
                    Done::Installed(SigningKind::NodeSvid, install(&identity, key, signed))
                });
            }
            EdgeEffect::ReadAudit { after } => {
                let host = Arc::clone(&self.parts.host);
                self.jobs.spawn(async move { Done::AuditRead(host.audit_after(after).await) });
            }
            EdgeEffect::Disconnect(fault) => self.lost(fault.to_string()),
            // Committed before.
            EdgeEffect::Persist(_) => {}
        }
    }

    fn apply(&mut self, changes: Vec<Change>, cursor: Cursor, extent: Extent) {
        let (host, identity) = (Arc::clone(&self.parts.host), Arc::clone(&self.parts.identity));
        let bundle = format!("identity/bundle/{}", identity.trust_domain());
        let roots = changes.iter().rev().find(|change| change.resource == bundle).and_then(roots_in);
        self.jobs.spawn(async move {
            let mut result = host.apply(changes, cursor, extent).await;
            if let (Ok(()), Some(PublishedRoots { roots, tainted })) = (&result, roots) {
                let set = identity.set_roots(&roots).and_then(|()| identity.set_tainted(&tainted));
                result = set.map_err(|error| error.to_string());
            }
            Done::Applied(result)
        });
    }

    fn lost(&mut self, reason: String) {
        if self.link_error.as_ref() != Some(&reason) {
            tracing::warn!(reason, "no connection to the cloud");
        }
        self.link_error = Some(reason);
        self.channel = None;
        self.sync.handle_disconnected();
        self.dial_at = Instant::now() + self.backoff.next_delay();
    }

    fn dial_when_due(&mut self) {
        if self.channel.is_some() || self.dialing || Instant::now() < self.dial_at {
            return;
        }
        self.dialing = true;
        let (server, project) = (self.config.server.clone(), self.config.project.clone());
        let (identity, now) = (Arc::clone(&self.parts.identity), self.parts.clock.now());
        self.jobs.spawn(async move { Done::Dialed(dial(server, project, identity, now).await) });
    }

    fn renew_when_due(&mut self) {
        match self.renewal.due(&self.parts.identity, self.parts.clock.now()) {
            None => {}
            Some(Ok(request)) => {
                self.sync.handle_signing_request(SigningKind::NodeSvid, Some(request), self.tick.now());
            }
            Some(Err(reason)) => {
                self.link_error = Some(format!("cannot renew the box's certificate: {reason}"))
            }
        }
    }

    fn show(&mut self) {
        let connected = self.sync.is_greeted();
        if connected {
            self.backoff.reset();
            self.link_error = None;
        }
        let last_error = self.link_error.clone().or_else(|| self.sync.last_error().map(str::to_owned));
        let now = self.parts.clock.now();
        let spool = self.sync.spool();
        let (pending, dropped) = (spool.len(), spool.dropped());
        self.status.send_if_modified(|status| {
            let since = if status.connected == connected { status.since } else { now };
            if status.connected != connected {
                tracing::info!(connected, "connection to the cloud");
            }
            let cursor = self.sync.cursor().clone();
            let audit = self.sync.audit_place().map_or(0, |place| place.seq);
            let audit_error = self.sync.audit_error().map(str::to_owned);
            let next =
                LinkStatus { connected, since, last_error, pending, dropped, cursor, audit, audit_error };
            let changed = *status != next;
            *status = next;
            changed
        });
    }
}

async fn next_message(channel: &mut Option<Channel>) -> Result<Message, ChannelError> {
    match channel {
        Some(channel) => channel.next().await,
        None => std::future::pending().await,
    }
}

fn signing_request(request: &CaRequest) -> SigningRequest {
    SigningRequest { csr_der: request.csr_der.clone(), ttl_secs: request.preferred_ttl.as_secs() }
}

fn spool_write(batch: Batch, write: SpoolWrite) -> Batch {
    match write {
        SpoolWrite::Put(key, value) => batch.put(format!("{SPOOL_PREFIX}{key}"), value),
        SpoolWrite::Delete(key) => batch.delete(format!("{SPOOL_PREFIX}{key}")),
    }
}
