//! SUBSCRIBE and UNSUBSCRIBE.

use crate::AuditKind;
use crate::broker::Broker;
use crate::effect::{CloseReason, Now};
use crate::limits::Config;
use crate::portions::{Filters, Portion, Rest};
use crate::retained::Found;
use crate::session::{Session, mode_of};
use crate::slab::Key;
use crate::subscription::{Subscribed, spelled, wants_retained};
use midge_policy::{Action, Denial, Quantity, Question, Subject};
use mqtt_proto::{
    Info, Packet, PacketId, QoS, ReasonCode, SharedFilter, SubAck, Subscribe, Subscription, Unsubscribe,
    Version, encoded_len,
};
use std::sync::Arc;
use std::vec::IntoIter;

impl Session {
    /// Tells whether it may have one more subscription; the denial names the rule whose quota is used up.
    fn has_room_for(
        &self,
        subscribed: &Subscribed,
        spelled: &str,
        config: &Config,
    ) -> Result<(), Option<Denial>> {
        let count = self.subscriptions.len();
        if count >= self.rights.quota(Quantity::Subscriptions) {
            let subject = Subject::Filter(subscribed.filter.clone());
            return Err(Some(self.rights.over_quota(Quantity::Subscriptions, Action::Subscribe, subject)));
        }
        let cost = subscribed.cost(spelled);
        let limits = [config.subscriptions_bytes_max, config.subscriptions_bytes_per_identity_max];
        let has_room = count < config.subscriptions_per_session_max
            && self.subscribed.bytes().saturating_add(cost) <= config.subscription_bytes_max
            && self.subscribed.has_room_for(cost, limits);
        if has_room { Ok(()) } else { Err(None) }
    }
}

impl Broker {
    pub(crate) fn take_subscribe(&mut self, key: Key, subscribe: Subscribe, now: Now) {
        let Subscribe { packet_id, subscription_id, subscriptions, .. } = subscribe;
        // [MQTT-3.8.3-4].
        if subscriptions.iter().any(|s| s.no_local && s.filter.group.is_some()) {
            return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
        }
        if !self.can_take_answer(key, subscriptions.len()) {
            return self.cut(key, CloseReason::Protocol(ReasonCode::PacketTooLarge), now);
        }
        let reasons = Vec::with_capacity(subscriptions.len());
        let filters = Filters::Subscribe(subscription_id, subscriptions.into_iter());
        self.take_portion(key, Box::new(Rest { packet_id, filters, reasons }), now);
    }

    /// Decides filters as long as the portion lasts. Every one is decided by itself and answered in its place
    /// ([MQTT-3.8.4-5], [MQTT-3.9.3-1]).
    pub(crate) fn subscribe_some(
        &mut self,
        key: Key,
        (id, left): (Option<u32>, &mut IntoIter<Subscription>),
        reasons: &mut Vec<ReasonCode>,
        portion: &mut Portion,
        now: Now,
    ) {
        let is_v311 = self.is_v311(key);
        while !portion.is_used_up()
            && let Some(subscription) = left.next()
        {
            if let Some(session) = self.sessions.get_mut(key) {
                portion.take_decision(session.rights(&mut self.authority), &subscription.filter);
            }
            let spelled = spelled(&subscription.filter);
            match self.subscribe(key, (&subscription, &spelled), id, now) {
                Ok(qos) => reasons.push(granted(qos)),
                Err(_) if is_v311 => reasons.push(ReasonCode::UnspecifiedError),
                Err(reason) => reasons.push(reason),
            }
        }
    }

    /// Adds or replaces one subscription. Returns the granted QoS.
    fn subscribe(
        &mut self,
        key: Key,
        (subscription, spelled): (&Subscription, &Arc<str>),
        id: Option<u32>,
        now: Now,
    ) -> Result<QoS, ReasonCode> {
        // Of 5.0 it does not come as far as here. Granted as it is spelled, it would share nothing with anybody.
        if subscription.filter.names_no_group() {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let Some(session) = self.sessions.get_mut(key) else { return Err(ReasonCode::UnspecifiedError) };
        session.rights(&mut self.authority);
        let mode = mode_of(session.listener.as_deref(), &subscription.filter);
        let (filter, qos) = (&subscription.filter, subscription.qos);
        let decided = session.rights.subscribe(filter, qos, mode);
        self.authority.tell(session, &Question::Subscribe { filter, qos, mode }, decided.is_ok());
        let permit = match decided {
            Ok(permit) => permit,
            Err(denial) => {
                self.audit(key, AuditKind::SubscribeDenied { filter: Arc::clone(spelled), denial }, now);
                return Err(ReasonCode::NotAuthorized);
            }
        };
        if subscription.filter.filter.levels().count() > self.config.topic_levels_max {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let replaced = session.subscriptions.get(spelled);
        let existed = replaced.is_some();
        let mut subscribed = Subscribed::new(subscription, &permit, id);
        subscribed.ordinal = replaced.map_or(session.ordinals, |replaced| replaced.ordinal);
        if !existed && let Err(denial) = session.has_room_for(&subscribed, spelled, &self.config) {
            let denied =
                denial.map(|denial| AuditKind::SubscribeDenied { filter: Arc::clone(spelled), denial });
            denied.into_iter().for_each(|denied| self.audit(key, denied, now));
            return Err(ReasonCode::QuotaExceeded);
        }
        let overflow = permit.queue_overflow();
        session.queue.overflow = overflow.or(session.queue.overflow);
        if let Some(review) = &mut session.review {
            review.overflow = overflow.or(review.overflow);
        }
        if self.out.ledger.trouble.refuses()
            && session.is_stored()
            && !replaced.is_some_and(|replaced| replaced.asks_the_same(&subscribed))
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        // Where nothing is retained now, whatever will be is sent on as any message. Most often one look shows it.
        let may_look = !session.is_in_line && self.looks > 0;
        let looks = if may_look { &mut self.looks } else { &mut 1 };
        let filter = &subscription.filter.filter;
        if wants_retained(subscription, existed)
            && !matches!(self.retained.next_match(filter, None, looks), Found::Nothing)
        {
            session.replays.start(spelled, subscribed.ordinal, filter);
        }
        self.out.ledger.subscribe(session, spelled, &mut subscribed);
        self.subscriptions.add(key, &subscribed, replaced);
        session.ordinals = session.ordinals.wrapping_add(u32::from(!existed));
        session.put_subscription(Arc::clone(spelled), subscribed);
        let (filter, rule) = (Arc::clone(spelled), Arc::clone(permit.rule()));
        let parts = permit.in_part().map(|parts| parts.map(|part| Arc::from(part.as_str())).collect());
        self.audit(key, AuditKind::Subscribed { filter, qos: permit.qos(), rule, parts }, now);
        Ok(permit.qos())
    }

    pub(crate) fn take_unsubscribe(&mut self, key: Key, unsubscribe: Unsubscribe, now: Now) {
        if !self.can_take_answer(key, unsubscribe.filters.len()) {
            return self.cut(key, CloseReason::Protocol(ReasonCode::PacketTooLarge), now);
        }
        let reasons = Vec::with_capacity(unsubscribe.filters.len());
        let filters = Filters::Unsubscribe(unsubscribe.filters.into_iter());
        self.take_portion(key, Box::new(Rest { packet_id: unsubscribe.packet_id, filters, reasons }), now);
    }

    /// Tells whether a client takes the answer to so many filters. It cannot be left out, nor made shorter
    /// ([MQTT-3.1.2-24], [MQTT-3.8.4-6]).
    fn can_take_answer(&mut self, key: Key, filters: usize) -> bool {
        let reasons = vec![ReasonCode::Success; filters];
        let ack = SubAck { packet_id: PacketId::MIN, info: Info::default(), reasons };
        let bytes = encoded_len(&Packet::SubAck(Box::new(ack)), Version::V5);
        self.connection_mut(key).is_some_and(|connection| bytes <= connection.packet_size_max)
    }

    pub(crate) fn unsubscribe(&mut self, key: Key, filter: &SharedFilter, now: Now) -> ReasonCode {
        let spelled = spelled(filter);
        let session = self.sessions.get_mut(key);
        let Some(subscribed) = session.and_then(|session| session.remove_subscription(&spelled)) else {
            return ReasonCode::NoSubscriptionExisted;
        };
        self.audit(key, AuditKind::Unsubscribed { filter: spelled }, now);
        self.forget_subscription(key, &subscribed, now);
        ReasonCode::Success
    }

    /// Takes a subscription out of the tree. Messages of its share group that were not sent yet go to the
    /// other members; those in flight are completed ([MQTT-3.10.4-3]).
    pub(crate) fn forget_subscription(&mut self, key: Key, subscribed: &Subscribed, now: Now) {
        if let Some(session) = self.sessions.get(key) {
            self.out.ledger.unsubscribe(session, subscribed);
        }
        let Some(group) = self.subscriptions.remove(key, subscribed) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let number = session.number;
        let orphans = session.queue.lift(|waiting| waiting.group == Some(group));
        self.reassign(key, number, orphans, now);
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::Success,
        QoS::AtLeastOnce => ReasonCode::GrantedQos1,
        QoS::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}
