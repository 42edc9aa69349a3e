//! One connected node: executes the effects of its `CloudSync`.

use super::sessions::SessionPlace;
use super::{CloudHub, HubError};
use crate::frames::{Channel, ChannelError};
use crate::tick::Tick;
use bridge_core::{
    AuditPlace, CloudConfig, CloudEffect, CloudSync, PeerFault, SignedChain, SigningKind, SigningRequest,
    StoreTicket,
};
use issuer_core::NodeProof;
use midge_identity::UnixMillis;
use midge_issuer::IssueError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::task::JoinSet;

/// Why a session ended.
#[derive(Debug, Error)]
pub(super) enum SessionEnd {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Fault(#[from] PeerFault),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Lagged(#[from] super::synclog::Lagged),
    #[error("the node's SVID has expired")]
    Expired,
    #[error("replaced by a newer connection, locked out, or the hub is stopping")]
    Cancelled,
}

enum Done {
    Stored(StoreTicket, Result<(), String>),
    Signed(StoreTicket, Result<SignedChain, String>),
    Audited(StoreTicket, Result<Option<AuditPlace>, String>),
}

pub(super) struct Session {
    pub(super) hub: CloudHub,
    pub(super) node: String,
    pub(super) shown: NodeProof,
    pub(super) expires: Option<UnixMillis>,
    pub(super) place: SessionPlace,
}

impl Session {
    /// Serves the node until something ends it, and says what.
    pub(super) async fn run(&self, mut channel: Channel) -> SessionEnd {
        let end = match self.serve(&mut channel).await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        channel.close().await;
        end
    }

    async fn serve(&self, channel: &mut Channel) -> Result<std::convert::Infallible, SessionEnd> {
        let hub = &self.hub.shared;
        self.hub.reconcile(&self.node).await?;
        {
            let writer = hub.parts.logs.writer(&self.node);
            let _held = writer.lock().await;
            hub.parts.logs.compact(&self.node).await.map_err(HubError::from)?;
        }
        let (log, feed) = hub.parts.logs.load(&self.node).await.map_err(HubError::from)?;
        let tick = Tick::new(hub.parts.clock.clone());
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let config = CloudConfig { limits: hub.config.limits.clone(), seed };
        let mut sync = CloudSync::new(config, log, tick.now());
        let expiry = tokio::time::sleep(self.until_expiry());
        tokio::pin!(expiry);
        let mut jobs = JoinSet::new();
        loop {
            self.execute(&mut sync, channel, &mut jobs)?;
            let pending = u64::try_from(sync.pending()).unwrap_or(u64::MAX);
            self.place.pending.store(pending, Ordering::Relaxed);
            tokio::select! {
                () = self.place.cancel.cancelled() => return Err(SessionEnd::Cancelled),
                () = &mut expiry => return Err(SessionEnd::Expired),
                message = channel.next() => sync.handle_message(&message?, tick.now()),
                changes = feed.next() => sync.handle_changes(changes?, tick.now()),
                Some(done) = jobs.join_next(), if !jobs.is_empty() => match done {
                    Ok(Done::Stored(ticket, result)) => sync.handle_stored(&ticket, result, tick.now()),
                    Ok(Done::Audited(ticket, result)) => sync.handle_audited(&ticket, result, tick.now()),
                    Ok(Done::Signed(ticket, result)) => sync.handle_signed(&ticket, result, tick.now()),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => return Err(SessionEnd::Cancelled),
                },
                () = tokio::time::sleep_until(tick.deadline(sync.poll_timeout())) => {
                    sync.handle_timeout(tick.now());
                }
            }
        }
    }

    fn execute(
        &self,
        sync: &mut CloudSync,
        channel: &Channel,
        jobs: &mut JoinSet<Done>,
    ) -> Result<(), SessionEnd> {
        while let Some(effect) = sync.poll_effect() {
            match effect {
                CloudEffect::Send(message) => channel.send(*message)?,
                CloudEffect::Store(ticket, report) => {
                    let (hub, node) = (self.hub.clone(), self.node.clone());
                    jobs.spawn(async move {
                        let result = hub.store_report(&node, report).await;
                        Done::Stored(ticket, result.map_err(|error| error.to_string()))
                    });
                }
                CloudEffect::Sign(ticket, kind, request) => {
                    let (hub, shown) = (self.hub.clone(), self.shown.clone());
                    jobs.spawn(async move {
                        let result = hub.sign(&shown, kind, request).await;
                        Done::Signed(ticket, result.map_err(|error| error.to_string()))
                    });
                }
                CloudEffect::Audit(ticket, request) => {
                    let (hub, node) = (self.hub.clone(), self.node.clone());
                    jobs.spawn(async move { Done::Audited(ticket, hub.audit(&node, request).await) });
                }
                CloudEffect::Disconnect(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }

    fn until_expiry(&self) -> Duration {
        let now = self.hub.shared.parts.clock.now();
        let left = self.expires.map(|expires| expires.since(now));
        left.unwrap_or(Duration::from_secs(365 * 86_400)).min(Duration::from_secs(365 * 86_400))
    }
}

impl CloudHub {
    async fn sign(
        &self,
        shown: &NodeProof,
        kind: SigningKind,
        request: SigningRequest,
    ) -> Result<SignedChain, IssueError> {
        let issuer = &self.shared.parts.issuer;
        match kind {
            SigningKind::Ca => {
                let ttl = Some(Duration::from_secs(request.ttl_secs));
                let signed = issuer.sign_intermediate(&request.csr_der, shown, ttl).await?;
                Ok(SignedChain { chain: signed.chain, roots: signed.roots })
            }
            SigningKind::NodeSvid => {
                let signed = issuer.sign_node_svid(shown, &request.csr_der).await?;
                Ok(SignedChain { chain: signed.chain, roots: issuer.roots() })
            }
        }
    }
}
