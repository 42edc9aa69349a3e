//! Wills: when they go out, and whether they still may.

use crate::authority::facts;
use crate::broker::Broker;
use crate::decided::{Refuses, Source};
use crate::effect::Now;
use crate::message::Message;
use crate::rates::limited;
use crate::session::{LateWill, Link};
use crate::slab::Key;
use crate::timers::Due;
use crate::total::Counted;
use crate::{AuditKind, Origin, Stage};
use midge_identity::SpiffeId;
use midge_policy::Question;
use mqtt_proto::Will;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// A will that somebody has left, counted among all and among those of its identity.
#[derive(Debug)]
pub(crate) struct KeptWill {
    will: Will,
    counted: Counted,
}

impl Deref for KeptWill {
    type Target = Will;

    fn deref(&self) -> &Will {
        &self.will
    }
}

impl Broker {
    /// Counts a will that a client of this identity leaves.
    pub(crate) fn keep_will(&mut self, identity: &Arc<SpiffeId>, will: Will) -> KeptWill {
        let own = self.by_identity.entry(Arc::clone(identity)).or_default();
        let counted = Counted::new(Message::cost(&will.message), [self.wills.clone(), own.wills.clone()]);
        KeptWill { will, counted }
    }

    /// Tells whether there is room for a will, in place of the one that the same client has left.
    pub(crate) fn has_room_for_will(&self, identity: &Arc<SpiffeId>, client_id: &str, will: &Will) -> bool {
        let bytes = Message::cost(&will.message);
        let left = |key: &Key| match &self.sessions.get(*key)?.link {
            Link::Live(connection) => connection.will.as_ref().map(|will| will.counted.bytes()),
            Link::Parked(parked) => parked.will.as_ref().map(|late| late.will.counted.bytes()),
        };
        let own = self.by_identity.get(identity);
        let replaced = own.and_then(|own| left(own.sessions.get(client_id)?)).unwrap_or(0);
        let own = own.map_or(0, |own| own.wills.get());
        let after = |sum: usize| sum.saturating_sub(replaced).saturating_add(bytes);
        after(own) <= self.config.wills_bytes_per_identity_max
            && after(self.wills.get()) <= self.config.wills_bytes_max
    }

    /// Publishes the will of a session just parked, now or after its delay.
    pub(crate) fn schedule_will(&mut self, key: Key, will: KeptWill, number: u64, now: Now) {
        if will.delay_secs == 0 {
            self.fire_will(key, &will, now);
            return self.forget_will(number);
        }
        self.record_will(key, &will, number, now);
        let at = now.mono.saturating_add(Duration::from_secs(will.delay_secs.into()));
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Link::Parked(parked) = &mut session.link else { return };
        parked.will = Some(LateWill { at, will, number });
        self.timers.set(at, Due::Will(key));
    }

    pub(crate) fn will_due(&mut self, key: Key, now: Now) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.condemned.is_none()) else {
            return;
        };
        let Link::Parked(parked) = &mut session.link else { return };
        if let Some(late) = parked.will.take() {
            self.fire_will(key, &late.will, now);
            self.forget_will(late.number);
        }
    }

    /// Publishes a will, if its owner may do so now: CONNECT may be long ago.
    pub(crate) fn fire_will(&mut self, key: Key, will: &Will, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let publication = will.message.clone();
        let topic = &publication.topic;
        let facts = facts(&publication);
        let decided = session.rights(&mut self.authority).will(topic, facts);
        self.authority.tell(session, &Question::Will { topic, facts }, decided.is_ok());
        match decided {
            Ok(permit) => {
                let (identity, client_id) = (Arc::clone(&session.identity), Arc::clone(&session.client_id));
                let rule = Arc::clone(permit.rule());
                let listener = session.listener.as_ref().map(|listener| Arc::clone(&listener.name));
                let (limited, bytes) = (limited(&permit), publication.payload.len());
                if !self.count_will(&limited, &identity, bytes, now) {
                    return;
                }
                let origin = Arc::new(Origin::Client { identity, client_id, listener, rule, will: true });
                let route = self.route(topic);
                let source = Source {
                    publisher: Some(key),
                    origin,
                    durability: permit.durability(),
                    refuses: Refuses::No,
                };
                self.distribute(publication, &source, &route, now.mono, now);
            }
            Err(denial) => {
                let kind =
                    AuditKind::WillDenied { topic: topic.as_str().into(), stage: Stage::Release, denial };
                self.audit(key, kind, now);
            }
        }
    }
}
