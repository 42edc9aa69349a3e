//! What an earlier run left: records become sessions, queues, retained messages and wills again.
//!
//! Times on disk are those of the wall clock. The time that the broker was down counts; a clock that went back
//! meanwhile makes nothing live longer than it was to live from the start.

use crate::authority::Listener;
use crate::broker::Broker;
use crate::broker_time::Moment;
use crate::effect::Now;
use crate::held::HeldMessage;
use crate::inflight::{Exchange, is_of_sending};
use crate::message::{Message, SharedMessage, UNDECIDED};
use crate::queue::Waiting;
use crate::record::{
    HeldRecord, OutgoingRecord, OutgoingState, QueuedRecord, Record, RecordKey, RecordKind, SessionRecord,
    StoredMessage, SubscriptionRecord, WillRecord,
};
use crate::replay::Replay;
use crate::session::{LateWill, Link, Parked, Session, mode_of};
use crate::shared::GroupId;
use crate::slab::Key;
use crate::subscription::{Subscribed, spelled};
use crate::timers::Due;
use crate::{AuditKind, Origin};
use midge_identity::{SpiffeId, UnixMillis};
use mqtt_proto::{PacketId, QoS, RetainHandling, Subscription, Version};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What was found on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Subscriptions that policy does not permit any more.
    pub subscriptions_denied: u64,
    /// Messages that someone waits for, or that are retained.
    pub messages: u64,
    /// Messages in queues and in flight.
    pub queued: u64,
    /// Retained messages.
    pub retained: u64,
    /// Wills.
    pub wills: u64,
    /// Records that nothing refers to, or that refer to nothing. They are removed.
    pub orphans: u64,
}

/// The records by kind, and what they became.
struct Restoration<'a> {
    broker: &'a mut Broker,
    now: Now,
    /// By which things age, now.
    time: UnixMillis,
    sessions: HashMap<u64, Key>,
    /// Sessions, by number, that may have been sent anything that there was.
    sent_any: HashSet<u64>,
    messages: BTreeMap<u64, SharedMessage>,
    exchanges: BTreeMap<Key, Vec<(u64, PacketId, Exchange)>>,
    /// The highest number of what was sent for certain to each session that was sent anything.
    sent: BTreeMap<Key, u64>,
    /// What share groups are to get again.
    lent: Vec<(RecordKey, GroupId, SharedMessage)>,
    /// Identities that were revoked, with the number below which what is of them is dead. In the order of the numbers,
    /// so that the last one of an identity counts.
    revoked: HashMap<Arc<SpiffeId>, u64>,
    /// Messages of these.
    dead: HashSet<u64>,
    /// Sessions of these.
    condemned: Vec<Key>,
    found: Restored,
}

impl Broker {
    /// Takes the records of an earlier run, in the order of their keys, before anything else. What
    /// is due by now is done at the first calls of [`Self::handle_timeout`].
    pub fn restore(&mut self, records: impl IntoIterator<Item = (RecordKey, Record)>, now: Now) -> Restored {
        let mut by_kind: BTreeMap<RecordKind, Vec<(RecordKey, Record)>> = BTreeMap::new();
        for (key, record) in records {
            let is_numbered = !matches!(key.kind, RecordKind::Outgoing | RecordKind::Held);
            self.out.ledger.used(if is_numbered { key.number.max(key.owner) } else { key.owner });
            self.out.ledger.used(remembered(&record));
            by_kind.entry(key.kind).or_default().push((key, record));
        }
        let clock = by_kind.remove(&RecordKind::Time).and_then(|mut clock| clock.pop());
        if let Some((_, Record::Time(ahead_ms))) = clock {
            self.out.ledger.restore_time(ahead_ms, now);
        }
        let time = self.out.ledger.time(now);
        let revoked = by_kind.remove(&RecordKind::Revoked).unwrap_or_default();
        let mut restoration = Restoration {
            broker: self,
            now,
            time,
            sessions: HashMap::new(),
            sent_any: HashSet::new(),
            messages: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            sent: BTreeMap::new(),
            lent: Vec::new(),
            revoked: revoked.iter().filter_map(|(key, record)| revoked_before(*key, record)).collect(),
            dead: HashSet::new(),
            condemned: Vec::new(),
            found: Restored::default(),
        };
        // In the order of `RecordKind`: each kind refers only to kinds before it.
        for (key, record) in by_kind.into_values().flatten() {
            if restoration.take(key, record).is_none() {
                restoration.orphan(key);
            }
        }
        let (found, condemned) = restoration.finish();
        self.resume_revocations(condemned, revoked.into_iter().map(|(key, _)| key).collect());
        found
    }
}

impl Restoration<'_> {
    /// Whether something of an identity is of before its revocation.
    fn is_dead(&self, identity: &SpiffeId, number: u64) -> bool {
        self.revoked.get(identity).is_some_and(|before| number < *before)
    }

    fn lent(&mut self, key: RecordKey, record: &QueuedRecord) -> Option<()> {
        let message = SharedMessage::clone(self.messages.get(&record.message)?);
        let group = self.broker.subscriptions.groups.find(record.group.as_ref()?)?;
        self.broker.out.ledger.relink(&message);
        self.lent.push((key, group, message));
        Some(())
    }

    /// Gives share groups what was lent, after all that their members have themselves.
    fn give_back(&mut self) {
        for (key, group, message) in std::mem::take(&mut self.lent) {
            if self.broker.give_back(group, &message, self.now) {
                self.found.queued += 1;
            } else {
                self.found.orphans += 1;
            }
            self.broker.out.ledger.take_back(key.number, &message);
        }
    }

    fn orphan(&mut self, key: RecordKey) {
        self.found.orphans += 1;
        self.broker.out.ledger.forget(key);
    }

    /// Takes one record; `None` when it is an orphan.
    fn take(&mut self, key: RecordKey, record: Record) -> Option<()> {
        match record {
            Record::Session(record) => self.session(key.number, *record),
            Record::Subscription(record) => self.subscription(key, &record),
            Record::Message(stored) => self.message(key.number, stored),
            Record::Queued(record) => self.queued(key, &record),
            Record::Outgoing(record) => self.outgoing(key, &record),
            Record::Held(record) => self.held(key, *record),
            Record::Retained => self.retained(key.number),
            Record::Will(record) => self.will(key.number, *record),
            Record::Lent(record) => self.lent(key, &record),
            // Taken before all others.
            Record::Time(_) | Record::Revoked(_) => None,
        }
    }

    fn session(&mut self, number: u64, record: SessionRecord) -> Option<()> {
        if self.broker.lookup(&record.identity, &record.client_id).is_some() {
            return None;
        }
        let SessionRecord { identity, client_id, listener, version, expiry, parked, sent, root } = record;
        let is_dead = self.is_dead(&identity, number);
        let key = self.insert((identity, client_id, listener), version, expiry, parked);
        let session = self.broker.sessions.get_mut(key)?;
        (session.number, session.root) = (number, root);
        session.sent = sent.unwrap_or_else(|| self.broker.out.ledger.last_number());
        if sent.is_none() {
            self.sent_any.insert(number);
        }
        self.sessions.insert(number, key);
        // Connected when the broker ended: from now on its time runs.
        if parked.is_none() {
            self.broker.record_parked(key);
        }
        if is_dead {
            self.condemned.push(key);
        }
        self.found.sessions += 1;
        Some(())
    }

    fn insert(
        &mut self,
        (identity, client_id, listener): (Arc<SpiffeId>, Arc<str>, Option<Arc<Listener>>),
        version: Version,
        expiry: Option<Duration>,
        parked: Option<(UnixMillis, Option<UnixMillis>)>,
    ) -> Key {
        let now = self.now;
        let left = expiry.map(|expiry| match parked {
            Some((_, Some(ends))) => ends.since(self.time).min(expiry),
            Some((_, None)) | None => expiry,
        });
        let ends = left.map(|left| (now.mono.saturating_add(left), self.time.after(left)));
        let since = parked.map_or(now.wall, |(since, _)| since);
        let kept = (version, expiry, Link::Parked(Parked { since, ends, will: None }));
        let authority = &mut self.broker.authority;
        let session = Session::restored(identity, client_id, listener, authority, kept);
        let key = self.broker.keep_session(session);
        if let Some((at, _)) = ends {
            self.broker.timers.set(at, Due::SessionEnd(key));
        }
        key
    }

    fn subscription(&mut self, key: RecordKey, record: &SubscriptionRecord) -> Option<()> {
        let session_key = *self.sessions.get(&key.owner)?;
        let spelled = spelled(&record.filter);
        let session = self.broker.sessions.get_mut(session_key)?;
        if session.subscriptions.contains_key(&spelled) {
            return None;
        }
        let mode = mode_of(session.listener.as_deref(), &record.filter);
        match session.rights.subscribe(&record.filter, record.requested, mode) {
            Ok(permit) => {
                let asked = Subscription {
                    filter: record.filter.clone(),
                    qos: record.requested,
                    no_local: record.no_local,
                    retain_as_published: record.retain_as_published,
                    retain_handling: RetainHandling::DoNotSend,
                };
                let mut subscribed = Subscribed::new(&asked, &permit, record.id);
                session.queue.overflow = permit.queue_overflow().or(session.queue.overflow);
                subscribed.number = key.number;
                subscribed.ordinal = session.ordinals;
                session.ordinals = session.ordinals.wrapping_add(1);
                self.broker.subscriptions.add(session_key, &subscribed, None);
                subscribed.owed = record.owed.is_some();
                session.put_subscription(Arc::clone(&spelled), subscribed);
                self.found.subscriptions += 1;
                self.replay(key, record, spelled);
            }
            Err(denial) => {
                let kind = AuditKind::SubscriptionRevoked { filter: spelled, denial };
                self.broker.audit(session_key, kind, self.now);
                self.broker.out.ledger.remove(key);
                self.found.subscriptions_denied += 1;
            }
        }
        Some(())
    }

    /// Takes what a subscription is still to be sent of the retained messages.
    fn replay(&mut self, key: RecordKey, record: &SubscriptionRecord, spelled: Arc<str>) {
        let Some(mut owed) = record.owed.clone() else { return };
        let ledger = &mut self.broker.out.ledger;
        if self.sent_any.contains(&key.owner) {
            owed.sent = ledger.last_number();
            let record = SubscriptionRecord { owed: Some(owed.clone()), ..record.clone() };
            ledger.replace_unpromised(key, Record::Subscription(Box::new(record)));
        }
        let session =
            self.sessions.get(&key.owner).and_then(|session| self.broker.sessions.get_mut(*session));
        if let Some(session) = session {
            let ordinal = session.subscriptions.get(&spelled).map_or(0, |subscribed| subscribed.ordinal);
            let filter = record.filter.filter.clone();
            session.replays.restore(Replay::restored(spelled, ordinal, filter, owed));
        }
    }

    fn message(&mut self, number: u64, stored: StoredMessage) -> Option<()> {
        let mut message = SharedMessage::unwrap_or_clone(stored.message);
        message.received = Moment::before(self.now.mono, self.time.since(stored.received));
        // What its publisher left is asked about even where that has no session.
        if let Origin::Client { identity, .. } = message.origin() {
            if self.is_dead(identity, number) {
                self.dead.insert(number);
                return None;
            }
            self.broker.known.insert(Arc::clone(identity));
        }
        self.messages.insert(number, SharedMessage::new(message));
        Some(())
    }

    fn waiting(&self, record: &QueuedRecord, number: u64, resent: bool) -> Option<Waiting> {
        let groups = &self.broker.subscriptions.groups;
        let group = record.group.as_ref().map(|group| groups.find(group).unwrap_or(GroupId::GONE));
        let message = SharedMessage::clone(self.messages.get(&record.message)?);
        Some(Waiting {
            retain: record.retain,
            subscription_ids: record.subscription_ids.clone(),
            group,
            revision: UNDECIDED,
            number,
            resent,
            packet_id: record.packet_id,
            ..Waiting::new(message, record.qos)
        })
    }

    fn was_sent(&mut self, session: Key, number: u64) {
        let sent = self.sent.entry(session).or_default();
        *sent = number.max(*sent);
    }

    fn queued(&mut self, key: RecordKey, record: &QueuedRecord) -> Option<()> {
        let session = *self.sessions.get(&key.owner)?;
        let resent = self.broker.sessions.get(session)?.sent >= key.number;
        let waiting = self.waiting(record, key.number, resent)?;
        match record.packet_id {
            Some(id) if is_of_sending(id) => self.was_sent(session, key.number),
            Some(id) => self.broker.sessions.get_mut(session)?.inflight.named_waiting(id),
            None => {}
        }
        let session = self.broker.sessions.get_mut(session)?;
        self.broker.out.ledger.relink(&waiting.message);
        session.queue.restore(waiting);
        self.found.queued += 1;
        Some(())
    }

    fn outgoing(&mut self, key: RecordKey, record: &OutgoingRecord) -> Option<()> {
        let session = *self.sessions.get(&key.owner)?;
        let id = PacketId::new(u16::try_from(key.number).ok()?)?;
        self.was_sent(session, record.order);
        let exchange = match &record.state {
            OutgoingState::Released => Exchange::Released,
            OutgoingState::Withdrawn => Exchange::Withdrawn(QoS::ExactlyOnce),
            // The client may have received it and not forget it.
            OutgoingState::Published(queued) if self.dead.contains(&queued.message) => {
                self.broker.out.ledger.withdraw(key.owner, id, record.order);
                Exchange::Withdrawn(QoS::ExactlyOnce)
            }
            OutgoingState::Published(queued) => {
                let waiting =
                    self.waiting(queued, record.order, true).filter(|w| w.qos == QoS::ExactlyOnce)?;
                self.broker.out.ledger.relink(&waiting.message);
                self.found.queued += 1;
                Exchange::Published(waiting)
            }
        };
        self.exchanges.entry(session).or_default().push((record.order, id, exchange));
        Some(())
    }

    fn held(&mut self, key: RecordKey, record: HeldRecord) -> Option<()> {
        let session = self.broker.sessions.get_mut(*self.sessions.get(&key.owner)?)?;
        let id = PacketId::new(u16::try_from(key.number).ok()?)?;
        let message = match record {
            HeldRecord::Denied => HeldMessage::Denied,
            HeldRecord::Accepted(publication, received) => {
                // By which rule and listener, is decided when it is released.
                let origin = Origin::Client {
                    identity: Arc::clone(&session.identity),
                    client_id: Arc::clone(&session.client_id),
                    listener: None,
                    rule: "".into(),
                    will: false,
                };
                let mut message = Message::new(publication, Arc::new(origin), UNDECIDED, self.now.mono);
                message.received = Moment::before(self.now.mono, self.time.since(received));
                HeldMessage::Accepted(SharedMessage::new(message))
            }
        };
        session.held.insert(id, message);
        Some(())
    }

    fn retained(&mut self, number: u64) -> Option<()> {
        let message = SharedMessage::clone(self.messages.get(&number)?);
        if self.broker.retained.get(&message.publication().topic).is_some() {
            return None;
        }
        self.broker.out.ledger.relink(&message);
        self.broker.retained.restore(&message);
        self.found.retained += 1;
        Some(())
    }

    /// Takes a will. One without a session gets one that ends at once, which is when a will goes out
    /// ([MQTT-3.1.2-8]).
    fn will(&mut self, number: u64, record: WillRecord) -> Option<()> {
        let WillRecord { identity, client_id, listener, version, root, will, due } = record;
        if self.is_dead(&identity, number) {
            return None;
        }
        let delay = Duration::from_secs(will.delay_secs.into());
        let left = due.map_or(delay, |due| due.since(self.time).min(delay));
        let at = self.now.mono.saturating_add(left);
        let key = match self.broker.lookup(&identity, &client_id) {
            Some(key) => key,
            None => {
                let names = (Arc::clone(&identity), client_id, listener);
                let key = self.insert(names, version, Some(Duration::ZERO), None);
                self.broker.sessions.get_mut(key)?.root = root;
                key
            }
        };
        let Link::Parked(Parked { will: None, .. }) = &self.broker.sessions.get(key)?.link else {
            return None;
        };
        // Its client was connected when the broker ended: from now on its delay runs, over the next end too.
        let starts = due.is_none().then(|| will.clone());
        let will = self.broker.keep_will(&identity, will);
        if let Link::Parked(parked) = &mut self.broker.sessions.get_mut(key)?.link {
            parked.will = Some(LateWill { at, will, number });
        }
        self.broker.timers.set(at, Due::Will(key));
        if let Some(will) = starts {
            self.broker.record_will(key, &will, number, self.now);
        }
        self.found.wills += 1;
        Some(())
    }

    /// Puts QoS 1 messages that were sent for certain where they were: among the exchanges. Messages are sent in the
    /// order of their numbers, so that these are all up to one of which its record shows it.
    fn resume(&mut self) {
        for (key, sent) in std::mem::take(&mut self.sent) {
            let Some(session) = self.broker.sessions.get_mut(key) else { continue };
            let exchanges = self.exchanges.entry(key).or_default();
            let mut taken: HashSet<PacketId> = exchanges.iter().map(|(_, id, _)| *id).collect();
            let mut stay = Vec::new();
            let resumed = session.queue.lift(|waiting| {
                waiting.qos == QoS::AtLeastOnce && waiting.number <= sent && waiting.packet_id.is_some()
            });
            for lifted in resumed {
                match lifted.waiting.packet_id.filter(|id| taken.insert(*id)) {
                    Some(id) => {
                        exchanges.push((lifted.waiting.number, id, Exchange::Published(lifted.waiting)))
                    }
                    None => stay.push(lifted),
                }
            }
            session.queue.put_back(stay);
        }
    }

    /// Returns what was found, and the sessions that must end.
    fn finish(mut self) -> (Restored, Vec<Key>) {
        self.resume();
        for (key, mut exchanges) in std::mem::take(&mut self.exchanges) {
            exchanges.sort_by_key(|(order, id, _)| (*order, *id));
            let in_order = exchanges.into_iter().map(|(_, id, exchange)| (id, exchange)).collect();
            if let Some(session) = self.broker.sessions.get_mut(key) {
                session.inflight.restore(in_order);
            }
        }
        self.give_back();
        for (number, message) in std::mem::take(&mut self.messages) {
            if message.links.get() > 0 {
                self.found.messages += 1;
            } else {
                self.orphan(RecordKey::new(RecordKind::Message, number));
            }
        }
        (self.found, self.condemned)
    }
}

/// Returns the identity of a revocation, and the number below which what is of it is dead.
fn revoked_before(key: RecordKey, record: &Record) -> Option<(Arc<SpiffeId>, u64)> {
    let Record::Revoked(identity) = record else { return None };
    Some((Arc::clone(identity), key.number))
}

/// The number that a record knows something by, 0 if none. What it was given to may be gone, but nothing else may have
/// it: it would be taken for what was sent, or sent earlier.
fn remembered(record: &Record) -> u64 {
    match record {
        Record::Session(session) => session.sent.unwrap_or(0),
        Record::Subscription(subscription) => subscription.owed.as_ref().map_or(0, |owed| owed.sent),
        Record::Outgoing(outgoing) => outgoing.order,
        _ => 0,
    }
}
