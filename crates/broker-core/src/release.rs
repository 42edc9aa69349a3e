//! Handing messages to one client: at once, from its queue, or again after a reconnect; retained ones come last
//! (`replay.rs`). Every release asks for the rights of receiver and publisher as they are now.

use crate::SharedMessage;
use crate::authority::{Authority, Obstacle};
use crate::connection::Sending;
use crate::effect::{Delivery, Now};
use crate::inflight::Exchange;
use crate::limits::Config;
use crate::output::{Output, Subject};
use crate::queue::{Lent, Waiting};
use crate::record::OutgoingState;
use crate::retained::Retained;
use crate::session::{Link, Session};
use crate::shared::Groups;
use crate::{AuditKind, Message, Origin, Stage};
use mqtt_proto::{Packet, PacketId, QoS, ReasonCode};
use std::sync::Arc;

/// What handing out messages needs of the broker besides the session.
pub(crate) struct Release<'a> {
    pub(crate) config: &'a Config,
    pub(crate) authority: &'a mut Authority,
    pub(crate) retained: &'a mut Retained,
    /// Retained messages that may still be looked at now.
    pub(crate) looks: &'a mut usize,
    pub(crate) groups: &'a Groups,
    pub(crate) out: &'a mut Output,
    pub(crate) now: Now,
}

impl Session {
    /// Takes a message whose publisher and receiver were authorized just now: sends it if nothing stands
    /// before it, else lets it wait.
    pub(crate) fn accept(&mut self, waiting: Waiting, release: &mut Release<'_>) {
        let owed = self.catch_up(&waiting.message, waiting.qos, release);
        let is_qos0 = waiting.qos == QoS::AtMostOnce;
        if self.is_ready(waiting.qos, release.config) {
            self.send(waiting, release);
        } else if is_qos0 {
            if self.connection().is_some() {
                release.out.metrics.dropped.slow_reader += 1;
                self.replays.owe_again(&owed, &waiting.message.publication().topic);
            }
        } else {
            let message = SharedMessage::clone(&waiting.message);
            if !self.keep(waiting, release) {
                self.replays.owe_again(&owed, &message.publication().topic);
            }
        }
    }

    /// Tells whether a message of this size can wait, once what has expired is taken out.
    pub(crate) fn make_room(&mut self, bytes: usize, release: &mut Release<'_>) -> bool {
        self.make_room_beside(bytes, (0, 0), release)
    }

    /// The same where it waits as often already, here and everywhere.
    pub(crate) fn make_room_beside(
        &mut self,
        bytes: usize,
        copies: (usize, usize),
        release: &mut Release<'_>,
    ) -> bool {
        if self.queue.has_room_beside(bytes, copies, release.config) {
            return true;
        }
        for expired in self.queue.take_expired(release.now) {
            release.out.metrics.dropped.expired += 1;
            release.out.ledger.dequeue(self.number, &expired);
        }
        self.queue.has_room_beside(bytes, copies, release.config)
    }

    /// Lets a message wait, or drops it or older ones as the rule says. Tells whether it waits.
    pub(crate) fn keep(&mut self, mut waiting: Waiting, release: &mut Release<'_>) -> bool {
        self.make_room(waiting.message.bytes(), release);
        while let Some(oldest) = self.queue.yield_to(&waiting.message, release.config) {
            release.out.metrics.dropped.queue_full += 1;
            release.out.ledger.dequeue(self.number, &oldest);
        }
        let has_room = self.queue.has_room(&waiting.message, release.config);
        if has_room {
            self.enqueue(&mut waiting, release);
            self.queue.push(waiting, release.config);
        } else {
            release.out.metrics.dropped.queue_full += 1;
        }
        has_room
    }

    fn enqueue(&mut self, waiting: &mut Waiting, release: &mut Release<'_>) {
        if self.is_stored() {
            if waiting.packet_id.is_none() && waiting.qos == QoS::AtLeastOnce {
                waiting.packet_id = Some(self.inflight.name_waiting());
            }
            let group = waiting.group.and_then(|group| release.groups.filter(group));
            release.out.ledger.enqueue(self.number, waiting, group, release.now);
        } else if waiting.lent == Lent::Due {
            let group = waiting.group.and_then(|group| release.groups.filter(group));
            release.out.ledger.lend(waiting, group, release.now);
        }
    }

    /// Takes a message that another member of its share group had at the end of an earlier run: its acceptance has been
    /// acknowledged, and there is no refusing it.
    pub(crate) fn take_over(&mut self, mut waiting: Waiting, release: &mut Release<'_>) {
        self.enqueue(&mut waiting, release);
        self.queue.restore(waiting);
    }

    /// Sends what may be sent now. Tells whether more may follow when others have had their turn.
    pub(crate) fn pump(&mut self, release: &mut Release<'_>) -> bool {
        while self.step(release) {}
        *release.looks == 0 && !self.replays.is_empty()
    }

    /// Sends what may be sent now. Tells whether the session has to stand in line for its next turn, where it stands in none
    /// yet.
    pub(crate) fn goes_on_in_line(&mut self, release: &mut Release<'_>) -> bool {
        self.pump(release) && !std::mem::replace(&mut self.is_in_line, true)
    }

    /// Sends or discards one message; false when there is nothing to do or no room.
    fn step(&mut self, release: &mut Release<'_>) -> bool {
        let Link::Live(connection) = &mut self.link else { return false };
        if connection.gate.starting
            || connection.unsent > release.config.unsent_bytes_soft
            || self.condemned.is_some()
        {
            return false;
        }
        if let Some(id) = connection.resend.front().copied() {
            return self.resend(id, release);
        }
        let Some(front) = self.queue.front() else { return self.replay(release) };
        if !(connection.has_room_for(front.qos) && self.inflight.has_room(release.config)) {
            return false;
        }
        if let Some(mut waiting) = self.queue.pop() {
            let Some(qos_max) = self.may_release(&waiting, release) else {
                release.out.ledger.dequeue(self.number, &waiting);
                return true;
            };
            if qos_max == QoS::AtMostOnce {
                release.out.ledger.dequeue(self.number, &waiting);
                (waiting.number, waiting.lent) = (0, Lent::No);
            }
            waiting.qos = waiting.qos.min(qos_max);
            self.send(waiting, release);
        }
        true
    }

    pub(crate) fn send(&mut self, mut waiting: Waiting, release: &mut Release<'_>) {
        // Its record names an identifier that is in use, or none: what it is sent under has to be known after a crash.
        let is_renamed = waiting.qos == QoS::AtLeastOnce
            && waiting.number != 0
            && !waiting.packet_id.is_some_and(|id| self.inflight.is_free(id));
        let is_gated = is_renamed || self.gates(&waiting);
        let Link::Live(connection) = &mut self.link else { return };
        let behind = connection.gate.behind_deliveries();
        let Some(fit) = connection.fit(&waiting, is_gated || behind.is_some()) else {
            release.out.metrics.dropped.too_large += 1;
            return release.out.ledger.dequeue(self.number, &waiting);
        };
        if waiting.qos == QoS::AtMostOnce {
            let sending = Sending { packet_id: None, dup: false, after: 0 };
            connection.deliver(waiting, fit, sending, release.now, release.out);
            return;
        }
        let Some(id) = self.inflight.reserve(waiting.packet_id) else {
            release.out.metrics.dropped.queue_full += 1;
            return release.out.ledger.dequeue(self.number, &waiting);
        };
        connection.quota = connection.quota.saturating_sub(1);
        let dup = waiting.resent && waiting.qos == QoS::AtLeastOnce;
        let mut sending = Sending { packet_id: Some(id), dup, after: behind.unwrap_or(0) };
        waiting.packet_id = Some(id);
        if is_gated {
            let group = waiting.group.and_then(|group| release.groups.filter(group));
            if is_renamed {
                release.out.ledger.rename(self.number, &waiting, group);
            } else {
                release.out.ledger.publish(self.number, id, &mut waiting, group, release.now);
            }
            sending.after = release.out.ledger.ticket();
        } else {
            self.enqueue(&mut waiting, release);
        }
        if self.keeps_sent(&waiting, sending.after) {
            self.inflight.fill(id, waiting.clone());
        } else {
            self.inflight.note_sent(id, waiting.qos);
        }
        let Link::Live(connection) = &mut self.link else { return };
        connection.deliver(waiting, fit, sending, release.now, release.out);
    }

    /// Takes up one exchange of an earlier connection ([MQTT-4.4.0-1]).
    fn resend(&mut self, id: PacketId, release: &mut Release<'_>) -> bool {
        let subject = self.subject();
        let rights = Arc::clone(self.rights(release.authority));
        let Link::Live(connection) = &mut self.link else { return false };
        let waiting = match self.inflight.get(id) {
            None | Some(Exchange::Sent(_) | Exchange::Withdrawn(QoS::AtMostOnce | QoS::ExactlyOnce)) => None,
            Some(Exchange::Withdrawn(QoS::AtLeastOnce)) => {
                self.inflight.remove(id);
                None
            }
            Some(Exchange::Released) => {
                let ack = connection.ack(id, ReasonCode::Success, None);
                connection.send_in_turn(Packet::PubRel(ack), release.out);
                None
            }
            Some(Exchange::Published(_)) if connection.quota == 0 => return false,
            Some(Exchange::Published(waiting)) => Some(waiting),
        };
        connection.resend.pop_front();
        let Some(waiting) = waiting else { return true };
        let permitted = authorize(&rights, waiting, release)
            .map_err(|obstacle| withhold(obstacle, waiting, subject, release));
        let is_stored = waiting.qos == QoS::ExactlyOnce && waiting.number != 0;
        let after = if is_stored {
            connection.gate.barrier
        } else {
            connection.gate.behind_deliveries().unwrap_or(0)
        };
        let is_gated = !release.out.ledger.is_stored(after);
        match connection.fit(waiting, is_gated).filter(|_| permitted.is_ok()) {
            Some(fit) => {
                connection.quota -= 1;
                let sending = Sending { packet_id: Some(id), dup: true, after };
                connection.deliver(waiting.clone(), fit, sending, release.now, release.out);
                self.inflight.count(id);
            }
            None if waiting.qos == QoS::ExactlyOnce => {
                release.out.ledger.settle(self.number, id, waiting, OutgoingState::Withdrawn);
                self.inflight.advance(id, Exchange::Withdrawn(QoS::ExactlyOnce));
            }
            None => {
                release.out.ledger.dequeue(self.number, waiting);
                self.inflight.remove(id);
            }
        }
        true
    }

    /// Tells whether a message that is under way and waited for the store may still be sent.
    pub(crate) fn may_leave(&mut self, delivery: &Delivery, release: &mut Release<'_>) -> bool {
        let Some(id) = delivery.packet_id else { return true };
        if self.condemned.is_some() {
            return false;
        }
        // What was withdrawn meanwhile is not sent, nor what its client has acknowledged unseen.
        let waiting = match self.inflight.get(id) {
            Some(Exchange::Published(waiting))
                if SharedMessage::ptr_eq(&waiting.message, &delivery.message) =>
            {
                waiting
            }
            _ => return false,
        };
        // [MQTT-4.3.3-7]: what was sent before does not expire.
        if !delivery.dup && delivery.message.is_expired(release.now) {
            release.out.metrics.dropped.expired += 1;
            return false;
        }
        let revision = release.authority.revision();
        if waiting.revision == revision && delivery.message.revision == revision {
            return true;
        }
        let waiting = waiting.clone();
        self.permitted_now(&waiting, release).is_some()
    }

    /// Withdraws a message that is under way and was not sent after all. Returns its identifier if its exchange is over
    /// with that: the client may know one that was to be sent again, and finish it.
    pub(crate) fn withdraw_unsent(
        &mut self,
        delivery: &Delivery,
        release: &mut Release<'_>,
    ) -> Option<PacketId> {
        let id = delivery.packet_id?;
        let is_known = delivery.dup && delivery.qos == QoS::ExactlyOnce;
        match self.inflight.get(id) {
            Some(Exchange::Published(waiting))
                if SharedMessage::ptr_eq(&waiting.message, &delivery.message) =>
            {
                if !is_known {
                    return Some(id);
                }
                release.out.ledger.settle(self.number, id, waiting, OutgoingState::Withdrawn);
                self.inflight.advance(id, Exchange::Withdrawn(QoS::ExactlyOnce));
            }
            Some(Exchange::Withdrawn(_)) if !is_known => return Some(id),
            Some(Exchange::Withdrawn(_)) => {}
            // Its client has acknowledged it unseen.
            Some(Exchange::Published(_) | Exchange::Sent(_) | Exchange::Released) | None => return None,
        }
        if self.inflight.uncount(id)
            && let Link::Live(connection) = &mut self.link
        {
            connection.give_back_quota();
        }
        None
    }

    /// Returns the highest QoS at which a message that waited may be delivered now, if it may.
    fn may_release(&mut self, waiting: &Waiting, release: &mut Release<'_>) -> Option<QoS> {
        if waiting.message.is_expired(release.now) {
            release.out.metrics.dropped.expired += 1;
            return None;
        }
        self.permitted_now(waiting, release)
    }

    /// The same of one that does not expire.
    fn permitted_now(&mut self, waiting: &Waiting, release: &mut Release<'_>) -> Option<QoS> {
        let rights = Arc::clone(self.rights(release.authority));
        let allowed = authorize(&rights, waiting, release);
        allowed.map_err(|obstacle| withhold(obstacle, waiting, self.subject(), release)).ok()
    }
}

/// Asks for the rights of receiver and publisher where policy changed since they were last seen. Returns the highest
/// QoS at which the receiver may have the message: an exchange that has begun goes on as it began, for both sides
/// count on that.
fn authorize(
    rights: &midge_policy::Rights,
    waiting: &Waiting,
    release: &mut Release<'_>,
) -> Result<QoS, Obstacle> {
    let mut qos_max = QoS::ExactlyOnce;
    if waiting.revision != release.authority.revision() {
        let topic = &waiting.message.publication().topic;
        let decided = match waiting.group {
            // A group that is no more is in nobody's list of groups.
            Some(group) => rights.receive_shared(topic, release.groups.name(group).map_or("", |name| name)),
            None => rights.receive(topic),
        };
        qos_max = decided.map_err(Obstacle::Receiver)?.qos();
    }
    release.authority.recheck_origin(&waiting.message)?;
    Ok(qos_max)
}

pub(crate) fn withhold(obstacle: Obstacle, waiting: &Waiting, receiver: Subject, release: &mut Release<'_>) {
    let topic = &waiting.message.publication().topic;
    match (obstacle, origin(&waiting.message)) {
        (Obstacle::Receiver(denial), _) => release.out.withhold(receiver, topic, &denial, release.now),
        (Obstacle::Publisher(denial), Some(origin)) => {
            let topic = topic.as_str().into();
            let kind = AuditKind::PublishDenied { topic, stage: Stage::Release, denial };
            release.out.audit(origin, kind, release.now);
        }
        (Obstacle::Revoked, _) => release.out.metrics.dropped.revoked += 1,
        (Obstacle::Publisher(_), None) => {}
    }
}

/// Tells that a retained message was removed because its publisher has lost the right to it, or its identity.
pub(crate) fn tell_purged(message: &Message, out: &mut Output, now: Now) {
    if let Some(origin) = origin(message) {
        let topic = message.publication().topic.as_str().into();
        out.audit(origin, AuditKind::RetainedPurged { topic }, now);
    }
}

/// Returns whom an event about a message concerns.
pub(crate) fn origin(message: &Message) -> Option<Subject> {
    let Origin::Client { identity, client_id, .. } = message.origin() else { return None };
    Some(Subject { identity: Arc::clone(identity), client_id: Arc::clone(client_id), conn: None })
}
