//! The short way of packets that are ordinary in every respect, as most are: a PUBLISH that has one receiver who takes it
//! at once, or a share group in which whoever's turn it is does, and the acknowledgements that follow. Nothing is made of them but what somebody has to keep: from the read
//! buffer they go into the outbox of whoever they are for.
//!
//! Whether a packet may go it is asked beforehand, and changes nothing; all else takes the long way
//! ([`Broker::handle_packet`]). Both ways end in the same, and tests walk both.

mod acks;
mod publish;

use crate::StoreTrouble;
use crate::broker::Broker;
use crate::connection::Connection;
use crate::decided::{Decided, Refuses};
use crate::effect::{ConnId, Now};
use crate::ledger::Ledger;
use crate::message::SharedMessage;
use crate::output::Output;
use crate::queue::Waiting;
use crate::record::Durability;
use crate::session::Session;
use crate::shared::{GroupId, Groups, Member};
use crate::slab::{Key, Slab};
use mqtt_proto::{PacketId, Plain, PlainAck, PlainPublish, PlainRun, QoS};

/// What a packet leads to that may go the short way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing {
    /// What goes on to a receiver.
    pub onward: Option<Onward>,
    /// What its sender is answered.
    pub answer: Option<PlainAck>,
}

/// A PUBLISH that goes on to a receiver as it came, but for QoS and packet identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// The receiver's connection, which is not the sender's.
    pub conn: ConnId,
    /// At which QoS it goes there.
    pub qos: QoS,
    /// Length of the encoded PUBLISH in bytes, which count against the connection until [`Broker::handle_flushed`].
    pub bytes: usize,
    /// Whether its message is kept until it is acknowledged.
    is_kept: bool,
    receiver: Key,
    share: Option<Share>,
}

/// Through which share group a message comes, of which so many members may receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    group: GroupId,
    members: usize,
}

/// Who alone gets a message, at which QoS at most.
struct Chosen {
    receiver: Key,
    granted: QoS,
    share: Option<Share>,
}

/// Where the shell has what goes the short way sent.
pub trait Outboxes {
    /// Encodes a PUBLISH of so many bytes and writes it.
    fn publish(&mut self, conn: ConnId, publish: &PlainPublish<'_>, bytes: usize);
    /// Writes acknowledgements, in this order.
    fn acks(&mut self, conn: ConnId, acks: &[PlainAck]);
}

impl Broker {
    /// Takes packets that may go the short way, so many at most, and has sent what they lead to; all effects have been
    /// carried out before. Returns how many it took; the shell hands the next one over as any other packet.
    pub fn handle_plain(
        &mut self,
        conn: ConnId,
        run: &mut PlainRun<'_>,
        at_most: usize,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) -> usize {
        let Some(sender) = self.sends_plain(conn, now) else { return 0 };
        self.latest = Some((conn, sender));
        let mut taken = 0;
        while taken < at_most
            && let Some((packet, len)) = run.front()
            && self.pass(sender, &packet, now, outboxes).is_some()
        {
            run.skip(len);
            taken += 1;
        }
        if taken > 0 {
            self.end_run((conn, sender), taken, now, outboxes);
        }
        taken
    }

    /// Tells what a packet would lead to that may go the short way now.
    pub fn passing(&self, conn: ConnId, packet: &Plain<'_>, now: Now) -> Option<Passing> {
        let sender = self.sends_plain(conn, now)?;
        let session = self.sessions.get(sender)?;
        match packet {
            Plain::Publish(publish) => self.may_publish(sender, session, publish),
            Plain::Ack(ack) => self.may_acknowledge(sender, session, *ack),
        }
    }

    /// Returns the session of a connection, if what it sends may go the short way. None of what does changes that.
    fn sends_plain(&self, conn: ConnId, now: Now) -> Option<Key> {
        let is_quiet = self.out.effects.is_empty() && self.authority.witness.is_none();
        let key = self.key_of(conn).filter(|_| is_quiet && self.out.ledger.trouble == StoreTrouble::None)?;
        self.sessions.get(key)?.is_undisturbed(now).then_some(key)
    }

    /// Takes a packet, if it may go the short way.
    #[inline]
    fn pass(
        &mut self,
        sender: Key,
        packet: &Plain<'_>,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) -> Option<()> {
        match packet {
            Plain::Publish(publish) => self.pass_publish(sender, publish, now, outboxes),
            Plain::Ack(ack) => self.pass_ack(sender, *ack, outboxes),
        }
    }

    /// Answers the sender of so many packets. Nothing else was sent to it meanwhile: a receiver is another.
    fn end_run(
        &mut self,
        (conn, sender): (ConnId, Key),
        taken: usize,
        now: Now,
        outboxes: &mut impl Outboxes,
    ) {
        let Self { sessions, out, .. } = self;
        out.metrics.packets_in += taken as u64;
        if let Some(connection) = sessions.get_mut(sender).and_then(Session::connection_mut) {
            connection.last_seen = now.mono;
            connection.unsent = connection.unsent.saturating_add(PlainAck::BYTES * out.answers.len());
        }
        if !out.answers.is_empty() {
            out.metrics.packets_out += out.answers.len() as u64;
            outboxes.acks(conn, &out.answers);
            out.answers.clear();
        }
        self.cut_slow(sender, now);
    }

    /// Returns to whom alone a PUBLISH goes, for whom nothing has to be stored or told of it.
    fn onward(&self, sender: Key, decided: &Decided, publish: &PlainPublish<'_>) -> Option<Onward> {
        let Chosen { receiver, granted, share } =
            self.chosen(decided, publish.qos).filter(|chosen| chosen.receiver != sender)?;
        let onward = PlainPublish { qos: publish.qos.min(granted), ..*publish };
        let session = self.sessions.get(receiver)?;
        let (conn, bytes) = session.takes_in_passing(&onward, self)?;
        let is_kept = onward.qos != QoS::AtMostOnce && (share.is_some() || !session.ends_with_connection());
        Some(Onward { conn, qos: onward.qos, bytes, is_kept, receiver, share })
    }

    /// Returns who alone gets a message, where nothing has to be counted or told beside it.
    #[inline]
    fn chosen(&self, decided: &Decided, qos: QoS) -> Option<Chosen> {
        let route = &decided.route;
        if !decided.is_free() || !route.refused.is_empty() {
            return None;
        }
        let (receiver, grant, share) = match (&*route.targets, &*route.groups) {
            ([target], []) => (target.session, &target.grant, None),
            ([], [(group, members)]) => {
                let share = Share { group: *group, members: members.len() };
                let member = self.in_turn(share, members, decided, qos)?;
                (member.session, &member.grant, Some(share))
            }
            _ => return None,
        };
        grant.ids.is_none().then_some(Chosen { receiver, granted: grant.qos, share })
    }

    /// Returns the member of a share group whose turn it is, unless the group may be owed the message beyond the end of the
    /// broker ([`Self::lends`]).
    fn in_turn<'a>(
        &self,
        Share { group, .. }: Share,
        members: &'a [Member],
        decided: &Decided,
        qos: QoS,
    ) -> Option<&'a Member> {
        let (turn, is_kept) = self.subscriptions.groups.state(group, members.len())?;
        let member = members.get(turn)?;
        let is_for_this_run = qos.min(member.grant.qos) != QoS::AtLeastOnce
            || self.out.ledger.level_of(decided.source.durability) == Durability::None;
        (is_for_this_run || is_kept == Some(false)).then_some(member)
    }

    /// Whether its rule has the broker store nothing that it has not stored before.
    fn is_prepared_for(&self, decided: &Decided) -> bool {
        decided.source.durability.is_none() || self.out.ledger.is_on()
    }
}

impl Onward {
    /// Has a PUBLISH sent to its receiver. Returns the packet identifier under which its message is to be kept, if it is;
    /// where there is none any more, it is dropped.
    fn send(
        &self,
        publish: &PlainPublish<'_>,
        (sessions, groups, out): (&mut Slab<Session>, &mut Groups, &mut Output),
        outboxes: &mut impl Outboxes,
    ) -> Option<PacketId> {
        if let Some(Share { group, members }) = self.share {
            groups.next_turn(group, members);
        }
        let session = sessions.get_mut(self.receiver)?;
        let mut packet_id = None;
        if self.qos != QoS::AtMostOnce {
            packet_id = session.inflight.reserve(None);
            match packet_id {
                Some(id) => session.inflight.note_sent(id, self.qos),
                None => {
                    out.metrics.dropped.queue_full += 1;
                    return None;
                }
            }
        }
        let connection = session.connection_mut()?;
        connection.quota = connection.quota.saturating_sub(u16::from(packet_id.is_some()));
        connection.count_out(self.bytes, publish.payload.len(), &mut out.metrics);
        outboxes.publish(self.conn, &PlainPublish { qos: self.qos, packet_id, ..*publish }, self.bytes);
        packet_id.filter(|_| self.is_kept)
    }

    /// Keeps a message that was sent for its receiver to acknowledge.
    fn keep(&self, id: PacketId, message: SharedMessage, sessions: &mut Slab<Session>) {
        let group = self.share.map(|share| share.group);
        let waiting = Waiting { packet_id: Some(id), group, ..Waiting::new(message, self.qos) };
        if let Some(session) = sessions.get_mut(self.receiver) {
            session.inflight.fill(id, waiting);
        }
    }
}

impl Connection {
    /// Whether what it is answered now would wait for nothing.
    fn is_answered(&self, ledger: &Ledger) -> bool {
        ledger.is_stored(self.gate.barrier) && !self.gate.starting
    }
}

impl Decided {
    /// Whether nothing has to be counted for such a message, and no queue asked.
    fn is_free(&self) -> bool {
        self.limited.is_empty() && self.source.refuses == Refuses::No
    }
}

impl Session {
    /// Returns by which connection and with how many bytes it takes such a PUBLISH, if it does.
    fn takes_in_passing(&self, publish: &PlainPublish<'_>, broker: &Broker) -> Option<(ConnId, usize)> {
        let is_stored = publish.qos != QoS::AtMostOnce && self.is_stored();
        if is_stored || !self.replays.is_empty() || !self.is_ready(publish.qos, &broker.config) {
            return None;
        }
        let connection = self.connection()?;
        let is_next =
            connection.gate.behind_deliveries().is_none() && connection.aliases_out.leaves(publish.topic);
        let bytes = publish.len(connection.version);
        (is_next && bytes <= connection.packet_size_max).then_some((connection.id, bytes))
    }
}
