//! Effects that wait for the shell, and the counters.

use crate::effect::{ConnId, Effect, Now};
use crate::ledger::Ledger;
use crate::{AuditEvent, AuditKind, Durability, Metrics};
use midge_identity::SpiffeId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Who an audit event is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) identity: Arc<SpiffeId>,
    pub(crate) client_id: Arc<str>,
    pub(crate) conn: Option<ConnId>,
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) metrics: Metrics,
    pub(crate) ledger: Ledger,
}

impl Output {
    pub(crate) fn new(durability: Durability) -> Self {
        Self { effects: VecDeque::new(), metrics: Metrics::default(), ledger: Ledger::new(durability) }
    }

    pub(crate) fn audit(&mut self, subject: Subject, kind: AuditKind, now: Now) {
        let denials = &mut self.metrics.denials;
        match &kind {
            AuditKind::ConnectRefused { denial: Some(_), .. } => denials.connect += 1,
            AuditKind::SubscribeDenied { .. } => denials.subscribe += 1,
            AuditKind::SubscriptionRevoked { .. } => denials.subscriptions_revoked += 1,
            AuditKind::PublishDenied { .. } => denials.publish += 1,
            AuditKind::WillDenied { .. } => denials.will += 1,
            AuditKind::ReceiveDenied { .. } => denials.receive += 1,
            AuditKind::Connected { .. }
            | AuditKind::ConnectRefused { denial: None, .. }
            | AuditKind::Disconnected { .. }
            | AuditKind::SessionEnded
            | AuditKind::Reauthenticated { .. }
            | AuditKind::Subscribed { .. }
            | AuditKind::Unsubscribed { .. }
            | AuditKind::RetainedPurged { .. } => {}
        }
        let Subject { identity, client_id, conn } = subject;
        let event = AuditEvent { at: now.wall, identity, client_id, conn, kind };
        self.effects.push_back(Effect::Audit(Box::new(event)));
    }
}
