//! PUBLISH and PUBREL from clients, and sending a message to everyone it is for.

use crate::SharedMessage;
use crate::authority::facts;
use crate::broker::Broker;
use crate::decided::{Decided, Refuses, Source};
use crate::effect::{CloseReason, Now};
use crate::held::HeldMessage;
use crate::ledger::StoreTrouble;
use crate::limits::DeniedPublish;
use crate::queue::{Lent, Waiting};
use crate::record::Durability;
use crate::release::Release;
use crate::retained::Full;
use crate::route::{Refused, Route, Target};
use crate::session::Session;
use crate::shared::{GroupId, Member};
use crate::slab::Key;
use crate::{AuditKind, Message, Origin, Stage};
use midge_policy::{Action, Denial, PublishPermit, Question, QueueOverflow, Rights, Subject};
use mqtt_proto::{Ack, Packet, PacketId, Publication, Publish, QoS, ReasonCode, Version};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a client is told whose message the store could not take.
const STORE_REFUSES: &str = "the broker cannot store messages at present";

/// What a client is told where a rule wants messages refused rather than dropped.
const QUEUE_REFUSES: &str = "a receiver has no room for another message";

/// How soon a member takes a message that it can keep only as long as the broker runs.
pub(crate) const KEPT_FOR_THIS_RUN: u8 = 3;

/// Whether a publication is allowed, and what follows from it.
type Decision = Result<Arc<Decided>, Denial>;

/// What becomes of a publication that has arrived.
enum Verdict {
    Accepted(Arc<Decided>),
    /// What the client is told; one of 3.1.1 is told that it is done.
    Refused(ReasonCode, &'static str),
}

/// The copies that there would be of a message.
struct Copies {
    bytes: usize,
    /// How many each session would have, and how many of them would wait.
    by_session: HashMap<Key, (usize, usize)>,
    waiting: usize,
}

impl Copies {
    /// Adds one for a session, if it can take it or let it wait.
    fn add(&mut self, key: Key, session: &mut Session, qos: QoS, release: &mut Release<'_>) -> bool {
        let (count, waiting) = self.by_session.entry(key).or_default();
        let is_sent = *count == 0 && session.is_ready(qos, release.config);
        if !is_sent && !session.make_room_beside(self.bytes, (*waiting, self.waiting), release) {
            return false;
        }
        *count += 1;
        *waiting += usize::from(!is_sent);
        self.waiting += usize::from(!is_sent);
        true
    }
}

impl Broker {
    pub(crate) fn take_publish(&mut self, key: Key, publish: Publish, now: Now) {
        let alias_max = (self.config.topic_alias_max, self.config.topic_alias_bytes_max);
        let Some(connection) = self.connection_mut(key) else { return };
        let Publish {
            qos, retain, topic, packet_id, topic_alias, subscription_ids, properties, payload, ..
        } = publish;
        // [MQTT-3.3.4-6]: only a server sends subscription identifiers.
        if !subscription_ids.is_empty() {
            return self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now);
        }
        let topic = match connection.aliases_in.resolve(topic, topic_alias, alias_max) {
            Ok(topic) => topic,
            Err(code) => return self.cut(key, CloseReason::Protocol(code), now),
        };
        self.count_in(key, payload.len());
        let publication = Publication { topic, payload, qos, retain, properties };
        match (qos, packet_id) {
            (QoS::AtMostOnce, _) => self.take_qos0(key, publication, now),
            (QoS::AtLeastOnce, Some(id)) => self.take_qos1(key, id, publication, now),
            (QoS::ExactlyOnce, Some(id)) => self.take_qos2(key, id, publication, now),
            (_, None) => self.cut(key, CloseReason::Protocol(ReasonCode::ProtocolError), now),
        }
    }

    /// Counts a message that has come.
    #[inline]
    pub(crate) fn count_in(&mut self, key: Key, payload_len: usize) {
        if let Some(connection) = self.connection_mut(key) {
            connection.messages_in += 1;
        }
        self.out.metrics.messages_in += 1;
        self.out.metrics.payload_bytes_in += payload_len as u64;
    }

    fn take_qos0(&mut self, key: Key, publication: Publication, now: Now) {
        let Some(decision) = self.decide(key, &publication, Some(now)) else { return };
        match decision {
            Ok(decided) => {
                // What there is no room to retain is for those who are there.
                self.has_room(key, &publication, &decided, now);
                self.distribute(publication, &decided.source, &decided.route, now.mono, now);
                self.keep_at_hand(key, decided);
            }
            Err(denial) => self.deny(key, &publication, denial, now),
        }
    }

    fn take_qos1(&mut self, key: Key, id: PacketId, publication: Publication, now: Now) {
        let Some(verdict) = self.verdict(key, &publication, now) else { return };
        let (reason, text) = match verdict {
            Verdict::Accepted(decided) => {
                let Decided { source, route, .. } = &*decided;
                self.distribute(publication, source, route, now.mono, now);
                let reason =
                    if route.is_empty() { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
                self.keep_at_hand(key, decided);
                (reason, None)
            }
            Verdict::Refused(reason, text) => (reason, Some(text)),
        };
        self.acknowledge(key, id, reason, text, Packet::PubAck);
    }

    fn take_qos2(&mut self, key: Key, id: PacketId, publication: Publication, now: Now) {
        let receive_max = usize::from(self.config.receive_max.get());
        let Some(session) = self.sessions.get(key) else { return };
        // [MQTT-4.3.3-10]: the same identifier before PUBREL is the same message.
        if session.held.contains(id) {
            return self.acknowledge(key, id, ReasonCode::Success, None, Packet::PubRec);
        }
        let version = session.version;
        // [MQTT-3.3.4-9]. A 3.1.1 client was told no Receive Maximum: for it the bytes alone count.
        if version == Version::V5 && session.held.len() >= receive_max {
            return self.cut(key, CloseReason::Protocol(ReasonCode::ReceiveMaximumExceeded), now);
        }
        if !session.held.has_room(Message::cost(&publication), &self.config) {
            if version == Version::V311 {
                return self.cut(key, CloseReason::Protocol(ReasonCode::QuotaExceeded), now);
            }
            let text = Some("too much waits for PUBREL");
            return self.acknowledge(key, id, ReasonCode::QuotaExceeded, text, Packet::PubRec);
        }
        let Some(verdict) = self.verdict(key, &publication, now) else { return };
        let (reason, text) = match verdict {
            Verdict::Accepted(decided) => {
                let asked = decided.source.durability;
                self.wake(asked);
                let level = self.out.ledger.level_for(asked);
                let (origin, revision) = (Arc::clone(&decided.source.origin), self.authority.revision());
                let message = Message::new(publication, origin, revision, now.mono);
                self.hold(key, id, HeldMessage::Accepted(SharedMessage::new(message)), level, now);
                self.keep_at_hand(key, decided);
                (ReasonCode::Success, None)
            }
            Verdict::Refused(reason, text) => {
                if version == Version::V311 {
                    self.hold(key, id, HeldMessage::Denied, self.config.durability, now);
                }
                (reason, Some(text))
            }
        };
        self.acknowledge(key, id, reason, text, Packet::PubRec);
    }

    /// Says what becomes of a publication of QoS 1 or 2 that has arrived; nothing where its client has been cut.
    fn verdict(&mut self, key: Key, publication: &Publication, now: Now) -> Option<Verdict> {
        let decided = match self.decide(key, publication, Some(now))? {
            Ok(decided) => decided,
            Err(denial) => {
                self.deny(key, publication, denial, now);
                return Some(Verdict::Refused(ReasonCode::NotAuthorized, "not authorized to publish this"));
            }
        };
        let refuses = if self.store_refuses(key, publication, &decided) {
            Some(STORE_REFUSES)
        } else {
            self.queues_refuse(key, publication, &decided, now).then_some(QUEUE_REFUSES)
        };
        match refuses {
            // It could not be told, and must not take for done what is worth another attempt.
            Some(_) if self.is_v311(key) => {
                self.cut(key, CloseReason::Protocol(ReasonCode::QuotaExceeded), now);
                None
            }
            Some(text) => Some(Verdict::Refused(ReasonCode::QuotaExceeded, text)),
            // One of 3.1.1 could not be told: its message goes to those who are there.
            None if !self.has_room(key, publication, &decided, now) && !self.is_v311(key) => {
                self.out.metrics.dropped.retained_full += 1;
                Some(Verdict::Refused(ReasonCode::QuotaExceeded, "no room for another retained message"))
            }
            None => Some(Verdict::Accepted(decided)),
        }
    }

    fn hold(&mut self, key: Key, id: PacketId, message: HeldMessage, level: Durability, now: Now) {
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.connection().is_some()) {
            if session.is_stored() && level != Durability::None {
                let record = message.record(&mut self.out.ledger, now);
                self.out.ledger.replace(session.held_key(id), record);
            }
            session.held.insert(id, message);
        }
    }

    /// Releases a QoS 2 message; the right is asked for again, as it may be long since PUBLISH.
    pub(crate) fn take_pubrel(&mut self, key: Key, ack: &Ack, now: Now) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let held = session.held.remove(ack.packet_id);
        if held.is_some() && session.number != 0 {
            self.out.ledger.remove(session.held_key(ack.packet_id));
        }
        let reason = if held.is_some() { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        if let Some(HeldMessage::Accepted(mut message)) = held
            && ack.reason == ReasonCode::Success
        {
            match self.decide(key, message.publication(), None) {
                None => {}
                Some(Ok(decided)) => {
                    let revision = self.authority.revision();
                    let Decided { source, route, .. } = &*decided;
                    // Nobody else has it yet: nothing is copied.
                    let released = SharedMessage::make_mut(&mut message);
                    released.allow(&source.origin, revision);
                    self.prepare(released, source.durability);
                    self.hand_out(message, source, route, now);
                    self.keep_at_hand(key, decided);
                }
                Some(Err(denial)) => {
                    self.count_denied(key, &denial);
                    let topic = message.publication().topic.as_str().into();
                    self.audit(key, AuditKind::PublishDenied { topic, stage: Stage::Release, denial }, now);
                }
            }
        }
        self.acknowledge(key, ack.packet_id, reason, None, Packet::PubComp);
    }

    fn acknowledge(
        &mut self,
        key: Key,
        id: PacketId,
        reason: ReasonCode,
        text: Option<&'static str>,
        packet: fn(Ack) -> Packet,
    ) {
        let Some(connection) = self.sessions.get_mut(key).and_then(|s| s.connection_mut()) else { return };
        // 3.1.1 has no reason codes: the client is told that the exchange is done, no more.
        let reason = if connection.version == Version::V311 { ReasonCode::Success } else { reason };
        let ack = connection.ack(id, reason, text);
        connection.answer(packet(ack), &mut self.out);
    }

    /// Decides a publication of a connected client, and says whom it reaches. One that arrives, and is not
    /// only released, counts against the rate of its rule; none is decided for a client that is cut for it.
    fn decide(&mut self, key: Key, publication: &Publication, arrives: Option<Now>) -> Option<Decision> {
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let (facts, topic) = (facts(publication), &publication.topic);
        let decided = match self.connection_mut(key)?.cache.find(topic, at, &facts) {
            Some(decided) => {
                if self.authority.witness.is_some()
                    && let Some(session) = self.sessions.get(key)
                {
                    self.authority.tell(session, &Question::Publish { topic, facts }, true);
                }
                decided
            }
            None => match self.decide_anew(key, publication)? {
                Ok(decided) => decided,
                Err(denial) => return Some(Err(denial)),
            },
        };
        if let (false, Some(now)) = (decided.limited.is_empty(), arrives) {
            self.count_rate(key, &decided.limited, publication.payload.len(), now);
            self.sessions.get(key)?.connection()?;
        }
        Some(Ok(decided))
    }

    /// Gives back what was decided, for the next publication.
    pub(crate) fn keep_at_hand(&mut self, key: Key, decided: Arc<Decided>) {
        if let Some(connection) = self.connection_mut(key) {
            connection.cache.keep_at_hand(decided);
        }
    }

    fn decide_anew(&mut self, key: Key, publication: &Publication) -> Option<Decision> {
        let at = (self.authority.generation(), self.subscriptions.epoch());
        let (topic, facts) = (&publication.topic, facts(publication));
        let session = self.sessions.get_mut(key)?;
        let decided = session.rights(&mut self.authority).publish(topic, facts);
        self.authority.tell(session, &Question::Publish { topic, facts }, decided.is_ok());
        let permit = match decided {
            Ok(permit) => permit,
            Err(denial) => return Some(Err(denial)),
        };
        let origin = Origin::Client {
            identity: Arc::clone(&session.identity),
            client_id: Arc::clone(&session.client_id),
            listener: session.listener.as_ref().map(|listener| Arc::clone(&listener.name)),
            rule: Arc::clone(permit.rule()),
            will: false,
        };
        let route = self.route(topic);
        let refuses = self.refuses(&permit, &route);
        let source = Source {
            publisher: Some(key),
            origin: Arc::new(origin),
            durability: permit.durability(),
            refuses,
        };
        let decided = Arc::new(Decided::new((topic, &facts), at, permit, source, route));
        let bytes_max = self.config.routes_bytes_max;
        if let Some(connection) = self.connection_mut(key) {
            connection.cache.remember(&decided, bytes_max);
        }
        Some(Ok(decided))
    }

    /// Whose full queue has such a message refused: as the rules of its publisher and of its receivers say.
    fn refuses(&self, permit: &PublishPermit, route: &Route) -> Refuses {
        let of_all = [QueueOverflow::Refuse, QueueOverflow::RefusePublishers];
        if permit.refuses_overflow() || of_all.contains(&self.config.queue_overflow) {
            return Refuses::ForAll;
        }
        let asks = |key| self.sessions.get(key).is_some_and(Session::refuses_publishers);
        if route.targets.iter().any(|target| asks(target.session)) { Refuses::ForSome } else { Refuses::No }
    }

    /// Tells whether a retained message fits; one that does not is recorded as denied where a rule says so.
    fn has_room(&mut self, key: Key, publication: &Publication, decided: &Decided, now: Now) -> bool {
        if !publication.retain || publication.payload.is_empty() {
            return true;
        }
        let (topic, bytes, origin) =
            (&publication.topic, Message::cost(publication), &*decided.source.origin);
        let rights = self.rights_of(Some(key));
        let limits = (rights.as_deref(), &self.config);
        let Err(full) = self.retained.check_room(topic, bytes, origin, limits) else { return true };
        if let (Full::Quota(of), Some(rights)) = (full, rights) {
            let denial = rights.over_quota(of, Action::Publish, Subject::Topic(topic.clone()));
            self.count_denied(key, &denial);
            let topic = topic.as_str().into();
            self.audit(key, AuditKind::PublishDenied { topic, stage: Stage::Arrival, denial }, now);
        }
        false
    }

    fn rights_of(&mut self, publisher: Option<Key>) -> Option<Arc<Rights>> {
        let session = self.sessions.get_mut(publisher?)?;
        Some(Arc::clone(session.rights(&mut self.authority)))
    }

    fn count_denied(&mut self, key: Key, denial: &Denial) {
        if let Some(connection) = self.connection_mut(key) {
            connection.denied.count_text(denial.rule.as_ref().map_or("(none)", |rule| rule.text()));
        }
    }

    fn deny(&mut self, key: Key, publication: &Publication, denial: Denial, now: Now) {
        self.count_denied(key, &denial);
        let topic = publication.topic.as_str().into();
        self.audit(key, AuditKind::PublishDenied { topic, stage: Stage::Arrival, denial }, now);
        let is_v311 = self.sessions.get(key).is_some_and(|session| session.version == Version::V311);
        if is_v311 && self.config.denied_publish_v311 == DeniedPublish::Disconnect {
            self.cut(key, CloseReason::Denied, now);
        }
    }

    /// Tells whether a message is refused because a receiver could neither take it now nor keep it, all copies of it
    /// together.
    fn queues_refuse(&mut self, key: Key, publication: &Publication, decided: &Decided, now: Now) -> bool {
        let Decided { source, route, .. } = decided;
        if source.refuses == Refuses::No {
            return false;
        }
        let is_for_all = source.refuses == Refuses::ForAll;
        let (sessions, mut release) = self.release(now);
        let mut copies = Copies { bytes: Message::cost(publication), by_session: HashMap::new(), waiting: 0 };
        let mut fits = |session: Key, granted: QoS| {
            let qos = publication.qos.min(granted);
            let receiver = sessions
                .get_mut(session)
                .filter(|receiver| qos != QoS::AtMostOnce && (is_for_all || receiver.refuses_publishers()));
            receiver.is_none_or(|receiver| copies.add(session, receiver, qos, &mut release))
        };
        let is_full = route
            .targets
            .iter()
            .any(|target| target.grant_for(Some(key)).is_some_and(|grant| !fits(target.session, grant.qos)));
        is_full
            || route.groups.iter().any(|(_, members)| {
                !members.is_empty() && !members.iter().any(|member| fits(member.session, member.grant.qos))
            })
    }

    /// Tells whether a message is refused because the store could not take it at present.
    fn store_refuses(&self, key: Key, publication: &Publication, decided: &Decided) -> bool {
        let Decided { source, route, .. } = decided;
        let refuses = match self.out.ledger.trouble {
            StoreTrouble::None | StoreTrouble::Busy => false,
            StoreTrouble::Failing => !self.is_v311(key),
            StoreTrouble::Full => true,
        };
        refuses && self.is_stored_for(key, &facts(publication), source.durability, route)
    }

    /// Retains a message if it asks for it, and hands it to everyone on the route.
    pub(crate) fn distribute(
        &mut self,
        publication: Publication,
        source: &Source,
        route: &Route,
        received: Duration,
        now: Now,
    ) {
        let revision = self.authority.revision();
        let mut message = Message::new(publication, Arc::clone(&source.origin), revision, received);
        self.prepare(&mut message, source.durability);
        self.hand_out(SharedMessage::new(message), source, route, now);
    }

    /// Prepares a message that is accepted to be stored, should anyone have to wait for it.
    pub(crate) fn prepare(&mut self, message: &mut Message, asked: Option<Durability>) {
        // What the broker retains of itself at QoS 0 ($SYS) holds for this run.
        let is_retained = message.publication().retain && *message.origin() != Origin::Broker;
        if message.qos() != QoS::AtMostOnce || is_retained {
            self.wake(asked);
            self.out.ledger.prepare(message, asked);
        }
    }

    fn hand_out(
        &mut self,
        message: SharedMessage,
        Source { publisher, origin, .. }: &Source,
        route: &Route,
        now: Now,
    ) {
        if let (Some(key), Origin::Client { rule, will: false, .. }) = (publisher, &**origin)
            && let Some(connection) = self.connection_mut(*key)
        {
            connection.published.count(rule);
        }
        if message.is_expired(now) {
            self.out.metrics.dropped.expired += 1;
            // Late as it is, it stands for what was retained before ([MQTT-3.3.1-5], [MQTT-3.3.1-6]).
            if message.publication().retain {
                self.retained.remove(&message.publication().topic, &mut self.out);
            }
            return;
        }
        if message.publication().retain {
            self.catch_up(route, publisher.as_ref().copied(), &message, now);
            let rights = self.rights_of(*publisher);
            let limits = (rights.as_deref(), &self.config);
            if !self.retained.set(&message, limits, &mut self.out, now) {
                self.out.metrics.dropped.retained_full += 1;
            }
        }
        for Refused { session, denial } in &route.refused {
            if let Some(session) = self.sessions.get(*session) {
                self.out.withhold(session.subject(), &message.publication().topic, denial, now);
            }
        }
        // The last one gets the message itself, and need not count itself among those who have it.
        let (last, others) = match route.targets.split_last() {
            Some((last, others)) if route.groups.is_empty() => (Some(last), others),
            _ => (None, &*route.targets),
        };
        for target in others {
            self.hand_to_target(target, *publisher, SharedMessage::clone(&message), now);
        }
        for (group, members) in &route.groups {
            if self.share(*group, members, &message, now).is_none() {
                self.out.metrics.dropped.no_member += 1;
            }
        }
        if let Some(last) = last {
            self.hand_to_target(last, *publisher, message, now);
        }
    }

    fn hand_to_target(&mut self, target: &Target, publisher: Option<Key>, message: SharedMessage, now: Now) {
        let Some(grant) = target.grant_for(publisher) else { return };
        let qos = message.qos().min(grant.qos);
        let waiting = Waiting {
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13].
            retain: grant.retain_as_published && message.publication().retain,
            subscription_ids: grant.ids.clone(),
            ..Waiting::new(message, qos)
        };
        self.hand_to(target.session, waiting, now);
    }

    /// Sends receivers what a message is about to replace, where that is owed to them.
    fn catch_up(&mut self, route: &Route, publisher: Option<Key>, message: &SharedMessage, now: Now) {
        if self.retained.get(&message.publication().topic).is_none() {
            return;
        }
        for target in &route.targets {
            let Some(grant) = target.grant_for(publisher) else { continue };
            let (sessions, mut release) = self.release(now);
            if let Some(session) = sessions.get_mut(target.session) {
                session.catch_up(message, message.qos().min(grant.qos), &mut release);
            }
        }
    }

    pub(crate) fn hand_to(&mut self, key: Key, waiting: Waiting, now: Now) {
        let (sessions, mut release) = self.release(now);
        if let Some(session) = sessions.get_mut(key) {
            session.accept(waiting, &mut release);
        }
    }

    /// Gives a message to one of these members of a share group; `None` when none can take it. Who can take
    /// it at once comes before who can keep it while connected, and that before who is away.
    pub(crate) fn share(
        &mut self,
        group: GroupId,
        members: &[Member],
        message: &SharedMessage,
        now: Now,
    ) -> Option<()> {
        let turn = self.subscriptions.groups.next_turn(group, members.len());
        let (before, after) = members.split_at_checked(turn).unwrap_or((members, &[]));
        let mut best: Option<(u8, &Member)> = None;
        for member in after.iter().chain(before) {
            let Some(readiness) = self.readiness(member, message, now) else { continue };
            if best.is_none_or(|(least, _)| readiness < least) {
                best = Some((readiness, member));
            }
            // Nobody is readier, and the others need not be looked at.
            if readiness == 0 {
                break;
            }
        }
        let (_, member) = best?;
        self.give_share(group, member, message, now);
        Some(())
    }

    /// Gives a message to the member of a share group that was chosen for it.
    pub(crate) fn give_share(&mut self, group: GroupId, member: &Member, message: &SharedMessage, now: Now) {
        let qos = message.qos().min(member.grant.qos);
        let waiting = Waiting {
            lent: if self.lends(group, member, qos, message) { Lent::Due } else { Lent::No },
            retain: member.grant.retain_as_published && message.publication().retain,
            subscription_ids: member.grant.ids.clone(),
            group: Some(group),
            revision: self.authority.revision(),
            ..Waiting::new(SharedMessage::clone(message), qos)
        };
        self.hand_to(member.session, waiting, now);
    }

    /// Tells how soon a member can take a message, 0 being at once; none when it cannot even keep it.
    pub(crate) fn readiness(&mut self, member: &Member, message: &Message, now: Now) -> Option<u8> {
        let qos = message.qos().min(member.grant.qos);
        let (sessions, mut release) = self.release(now);
        let session = sessions.get_mut(member.session)?;
        if session.is_ready(qos, release.config) {
            return Some(0);
        }
        let can_keep = qos != QoS::AtMostOnce && session.make_room(message.bytes(), &mut release);
        // One of QoS 2 may go to nobody else once it was sent: better whoever is there after a crash has it.
        let is_lost = qos == QoS::ExactlyOnce && message.level != Durability::None && !session.is_stored();
        can_keep.then(|| match session.connection() {
            Some(_) if is_lost => KEPT_FOR_THIS_RUN,
            Some(_) => 1,
            None => 2,
        })
    }
}
