//! Effects that wait for the shell, and the counters.

use crate::effect::{ConnId, Effect, Now};
use crate::ledger::Ledger;
use crate::spare::Spare;
use crate::withheld::Withheld;
use crate::{AuditEvent, AuditKind, Durability, Metrics};
use midge_identity::SpiffeId;
use midge_policy::Denial;
use mqtt_proto::{PlainAck, TopicName};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

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
    pub(crate) withheld: Withheld,
    /// What the sender of the packets at hand is answered that go the short way.
    pub(crate) answers: Vec<PlainAck>,
    pub(crate) spare: Spare,
}

impl Output {
    pub(crate) fn new(durability: Durability) -> Self {
        Self {
            effects: VecDeque::new(),
            metrics: Metrics::default(),
            ledger: Ledger::new(durability),
            withheld: Withheld::default(),
            answers: Vec::new(),
            spare: Spare::default(),
        }
    }

    /// Records that a receiver was denied a message: by itself, or in a number that is told later.
    pub(crate) fn withhold(&mut self, receiver: Subject, topic: &TopicName, denial: &Denial, now: Now) {
        if self.withheld.is_to_be_told(&receiver.identity, denial.rule.as_ref(), topic, now) {
            let (topic, denial) = (topic.as_str().into(), denial.clone());
            self.audit(receiver, AuditKind::ReceiveDenied { topic, denial }, now);
        } else {
            self.metrics.denials.receive += 1;
        }
    }

    /// Tells numbers of messages that were denied to their receivers: those due at this time, or all.
    pub(crate) fn tell_withheld(&mut self, mono: Option<Duration>) {
        for (identity, count) in self.withheld.take(mono) {
            let topic = count.topic.as_str().into();
            let kind = AuditKind::Withheld { topic, rule: count.rule, count: count.more, since: count.since };
            let event = AuditEvent { at: count.until, identity, client_id: "".into(), conn: None, kind };
            self.effects.push_back(Effect::Audit(Box::new(event)));
        }
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
            | AuditKind::Withheld { .. }
            | AuditKind::RetainedPurged { .. } => {}
        }
        let Subject { identity, client_id, conn } = subject;
        let event = AuditEvent { at: now.wall, identity, client_id, conn, kind };
        self.effects.push_back(Effect::Audit(Box::new(event)));
    }
}
