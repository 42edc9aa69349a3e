//! The task that owns the `EdgeSync`: executes its effects, keeps a connection, and shows the state.

use super::changes::{PublishedRoots, roots_in};
use super::dial::{DialError, dial};
use super::renewal::{Renewal, install};
use super::spooling::Spooling;
use super::{EdgeHub, EdgeHubConfig, EdgeHubParts, LinkStatus, NodeIdentity, Push, TAKEN_MAX};
use crate::frames::{Channel, ChannelError};
use crate::tick::Tick;
use bridge_core::{
    AuditBatch, Change, Cursor, EdgeEffect, EdgeSync, Extent, Message, SigningKind, SigningRequest,
};
use midge_issuer::CaRequest;
use midge_runtime::{Backoff, CancellationToken};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// First pause between two tries to connect.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
/// What could not be deleted is tried again after so long.
const SETTLE_EVERY: Duration = Duration::from_secs(2);
/// A clock that jumps must not delay the renewal by more than this.
const RENEWAL_CHECK_EVERY: Duration = Duration::from_secs(30);

pub(super) struct Actor {
    config: EdgeHubConfig,
    parts: EdgeHubParts,
    identity: Arc<NodeIdentity>,
    sync: EdgeSync,
    spooling: Spooling,
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
    renewal_error: Option<String>,
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
    pub(super) fn new(hub: EdgeHub, identity: Arc<NodeIdentity>) -> Self {
        let EdgeHub { config, parts, sync, spooling, tick, pushes, status, handle: _ } = hub;
        let backoff = Backoff::new(RECONNECT_FIRST, config.reconnect_max);
        Self {
            config,
            parts,
            identity,
            sync,
            spooling,
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
            renewal_error: None,
        }
    }

    pub(super) async fn run(mut self, token: CancellationToken) {
        let mut ca_request = self.parts.host.ca_request();
        ca_request.mark_changed();
        loop {
            self.renew_when_due();
            self.dial_when_due();
            self.execute().await;
            self.show();
            match self.next_event(&mut ca_request, &token).await {
                Event::Stop => break,
                Event::Message(message) => self.sync.handle_message(&message, self.tick.now()),
                Event::Lost(error) => self.lost(error.to_string()),
                Event::Done(done) => self.handle_done(done),
                Event::Pushes(pushes) => self.spooling.take(&mut self.sync, &self.tick, pushes).await,
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
        if self.spooling.is_behind() {
            deadline = deadline.min(Instant::now() + SETTLE_EVERY);
        }
        let until_renewal = self.identity.renew_at().since(self.parts.clock.now());
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
            taken = self.pushes.recv_many(&mut pushes, TAKEN_MAX), if !self.pushes.is_closed() || !self.pushes.is_empty() => {
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

    async fn execute(&mut self) {
        while let Some(effect) = self.sync.poll_effect() {
            self.execute_one(effect);
        }
        self.spooling.settle().await;
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
                let (host, identity) = (Arc::clone(&self.parts.host), Arc::clone(&self.identity));
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
                let (identity, key) = (Arc::clone(&self.identity), self.renewal.key());
                self.jobs.spawn_blocking(move || {
                    Done::Installed(SigningKind::NodeSvid, install(&identity, key, signed))
                });
            }
            EdgeEffect::ReadAudit { after } => {
                let host = Arc::clone(&self.parts.host);
                self.jobs.spawn(async move { Done::AuditRead(host.audit_after(after).await) });
            }
            EdgeEffect::Disconnect(fault) => self.lost(fault.to_string()),
            EdgeEffect::Forget(write) => self.spooling.forget(write),
        }
    }

    fn apply(&mut self, changes: Vec<Change>, cursor: Cursor, extent: Extent) {
        let (host, identity) = (Arc::clone(&self.parts.host), Arc::clone(&self.identity));
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
            // Who shows the status tells of it.
            tracing::debug!(reason, "no connection to the cloud");
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
        let (identity, now) = (Arc::clone(&self.identity), self.parts.clock.now());
        self.jobs.spawn(async move { Done::Dialed(dial(server, project, identity, now).await) });
    }

    fn renew_when_due(&mut self) {
        match self.renewal.due(&self.identity, self.parts.clock.now()) {
            None => {}
            Some(Ok(request)) => {
                self.renewal_error = None;
                self.sync.handle_signing_request(SigningKind::NodeSvid, Some(request), self.tick.now());
            }
            Some(Err(reason)) => {
                self.renewal_error = Some(format!("cannot renew the box's certificate: {reason}"));
            }
        }
    }

    fn show(&mut self) {
        let connected = self.sync.is_greeted();
        if connected {
            self.backoff.reset();
            self.link_error = None;
        }
        let next = self.link_status(connected);
        self.status.send_if_modified(|status| {
            let since = if status.connected == connected { status.since } else { next.since };
            if status.connected != connected {
                tracing::info!(connected, "connection to the cloud");
            }
            let next = LinkStatus { since, ..next };
            let changed = *status != next;
            *status = next;
            changed
        });
    }

    fn link_status(&self, connected: bool) -> LinkStatus {
        let last_error = self.link_error.clone().or_else(|| self.sync.last_error().map(str::to_owned));
        let spool = self.sync.spool();
        LinkStatus {
            connected,
            since: self.parts.clock.now(),
            last_error,
            spool_error: self.spooling.error().map(str::to_owned),
            renewal_error: self.renewal_error.clone(),
            pending: spool.len(),
            dropped: spool.dropped(),
            cursor: self.sync.cursor().clone(),
            audit: self.sync.audit_place().map_or(0, |place| place.seq),
            audit_error: self.sync.audit_error().map(str::to_owned),
        }
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
