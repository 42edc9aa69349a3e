//! What of the state has to be on disk: changes that wait for the shell, and how far it is with them.
//!
//! Every change of a durable session, its queue and its exchanges, of retained messages and of wills is noted
//! here in the moment it is made. The changes of one entry into the core leave it as one batch with a ticket.
//! An answer whose change has not been stored waits for that ticket (`gate.rs`).

use crate::broker_time::BrokerTime;
use crate::effect::ConnId;
use crate::message::{Message, SharedMessage};
use crate::queue::{Lent, Waiting};
use crate::record::{
    Change, Durability, OutgoingRecord, OutgoingState, QueuedRecord, Record, RecordKey, RecordKind,
    StoreBatch, StoredMessage,
};
use crate::{Effect, Now};
use mqtt_proto::{PacketId, QoS, SharedFilter};

/// What the disk cannot take at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreTrouble {
    /// Nothing: what is asked of it is done sooner or later.
    #[default]
    None,
    /// Nothing, but much waits to be written: what would add to it is put off ([`crate::Broker::puts_off`]).
    Busy,
    /// Writes fail. A 5.0 client is told so for a message that would have to be stored (0x97); a 3.1.1
    /// client's acknowledgement waits.
    Failing,
    /// No more may wait to be written: a 3.1.1 client that sends a message that would have to be stored is
    /// disconnected, since it cannot be told.
    Full,
}

impl StoreTrouble {
    /// Whether what would have to be stored is refused where it can be.
    pub(crate) fn refuses(self) -> bool {
        matches!(self, Self::Failing | Self::Full)
    }
}

/// The changes to be stored.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The level of messages whose rule asks for none.
    messages: Durability,
    /// The highest level of any message: state without which messages cannot be found again has to survive as
    /// much as they do.
    level: Durability,
    /// Ticket of the batch being gathered.
    ticket: u64,
    /// Highest ticket that is stored.
    stored: u64,
    changes: Vec<(Durability, Change)>,
    /// Whether the input at hand has changed anything that its answer promises.
    touched: bool,
    last_number: u64,
    /// Connections with answers that wait.
    pub(crate) gated: Vec<ConnId>,
    pub(crate) trouble: StoreTrouble,
    pub(crate) time: BrokerTime,
}

impl Ledger {
    pub(crate) fn new(level: Durability) -> Self {
        Self {
            messages: level,
            level,
            ticket: 1,
            stored: 0,
            changes: Vec::new(),
            touched: false,
            last_number: 0,
            gated: Vec::new(),
            trouble: StoreTrouble::None,
            time: BrokerTime::default(),
        }
    }

    /// Whether anything is stored at all.
    pub(crate) fn is_on(&self) -> bool {
        self.level != Durability::None
    }

    /// Level of a message: what its rule asks for, else the broker's.
    pub(crate) fn level_of(&self, asked: Option<Durability>) -> Durability {
        asked.unwrap_or(self.messages)
    }

    /// The same of one that is accepted.
    pub(crate) fn level_for(&mut self, asked: Option<Durability>) -> Durability {
        let level = self.level_of(asked);
        self.level = self.level.max(level);
        level
    }

    /// Prepares a message to be stored, should anyone have to wait for it.
    pub(crate) fn prepare(&mut self, message: &mut Message, asked: Option<Durability>) {
        message.level = self.level_for(asked);
        if message.level != Durability::None {
            message.number = self.next_number();
        }
    }

    /// Starts a new input.
    pub(crate) fn begin(&mut self) {
        self.touched = false;
    }

    /// The ticket of what was changed last, now.
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    pub(crate) fn is_stored(&self, ticket: u64) -> bool {
        ticket <= self.stored
    }

    /// Records that everything up to this ticket is stored.
    pub(crate) fn mark_stored(&mut self, ticket: u64) {
        self.stored = self.stored.max(ticket.min(self.ticket.saturating_sub(1)));
    }

    /// The ticket an answer to the input at hand has to wait for: that of the input's own changes, else
    /// `earlier`, if that is not stored yet.
    pub(crate) fn answer_after(&self, earlier: u64) -> Option<u64> {
        if self.touched {
            return Some(self.ticket);
        }
        (!self.is_stored(earlier)).then_some(earlier)
    }

    /// Takes the changes gathered so far as a batch.
    pub(crate) fn take(&mut self) -> Option<Effect> {
        if self.changes.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        let batch = StoreBatch { ticket: self.ticket, changes };
        self.ticket += 1;
        Some(Effect::Store(Box::new(batch)))
    }

    /// Returns a number that was never used.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The highest number that was used.
    pub(crate) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Learns of a number of an earlier run.
    pub(crate) fn used(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    fn note(&mut self, change: Change, level: Durability) {
        self.touched = true;
        self.changes.push((level, change));
    }

    /// Stores state that an answer promises, at the level of the broker.
    pub(crate) fn create(&mut self, key: RecordKey, record: Record) {
        self.note(Change::Create(key, record), self.level);
    }

    /// As [`Self::create`], in place of an earlier record.
    pub(crate) fn replace(&mut self, key: RecordKey, record: Record) {
        self.note(Change::Replace(key, record), self.level);
    }

    /// Removes a record whose return after a crash would be wrong.
    pub(crate) fn remove(&mut self, key: RecordKey) {
        self.note(Change::Remove(key), self.level);
    }

    /// Replaces a record that no answer speaks of: nobody waits for it.
    pub(crate) fn replace_unpromised(&mut self, key: RecordKey, record: Record) {
        self.changes.push((Durability::None, Change::Replace(key, record)));
    }

    /// Removes a record whose return after a crash would do no harm: nobody waits for it.
    pub(crate) fn forget(&mut self, key: RecordKey) {
        self.changes.push((Durability::None, Change::Remove(key)));
    }

    /// Counts one more record that names a message, and stores the message if it is the first.
    fn link(&mut self, message: &SharedMessage, now: Now) {
        self.relink(message);
        if message.links.get() == 1 {
            let received = self.time_at(message.received, now);
            let record = Record::Message(StoredMessage { message: SharedMessage::clone(message), received });
            self.note(
                Change::Create(RecordKey::new(RecordKind::Message, message.number), record),
                message.level,
            );
        }
    }

    /// Counts one record less that names a message, and removes the message with the last.
    fn unlink(&mut self, message: &Message) {
        let Some(left) = message.links.get().checked_sub(1) else { return };
        message.links.set(left);
        if left == 0 {
            self.forget(RecordKey::new(RecordKind::Message, message.number));
        }
    }

    /// Counts a link of an earlier run.
    pub(crate) fn relink(&mut self, message: &Message) {
        message.links.set(message.links.get().saturating_add(1));
    }

    /// Stores that a message waits for a session, or was sent to it at QoS 1.
    pub(crate) fn enqueue(
        &mut self,
        session: u64,
        waiting: &mut Waiting,
        group: Option<SharedFilter>,
        now: Now,
    ) {
        if waiting.number != 0 || waiting.message.level == Durability::None {
            return;
        }
        waiting.number = self.next_number();
        self.link(&waiting.message, now);
        let key = RecordKey::owned(RecordKind::Queued, session, waiting.number);
        self.note(Change::Create(key, Record::Queued(queued(waiting, group))), waiting.message.level);
    }

    /// Stores that a share group is owed a message, which a member has whose session is not stored.
    pub(crate) fn lend(&mut self, waiting: &mut Waiting, group: Option<SharedFilter>, now: Now) {
        let number = self.next_number();
        waiting.lent = Lent::As(number);
        self.link(&waiting.message, now);
        let record = Record::Lent(queued(waiting, group));
        self.note(Change::Create(RecordKey::new(RecordKind::Lent, number), record), waiting.message.level);
    }

    /// Removes what [`Self::lend`] stored.
    pub(crate) fn take_back(&mut self, number: u64, message: &Message) {
        self.forget(RecordKey::new(RecordKind::Lent, number));
        self.unlink(message);
    }

    /// Stores that a message goes out under another packet identifier than what [`Self::enqueue`] stored says.
    pub(crate) fn rename(&mut self, session: u64, waiting: &Waiting, group: Option<SharedFilter>) {
        let key = RecordKey::owned(RecordKind::Queued, session, waiting.number);
        self.note(Change::Replace(key, Record::Queued(queued(waiting, group))), waiting.message.level);
    }

    /// Removes what [`Self::enqueue`] or [`Self::lend`] stored.
    pub(crate) fn dequeue(&mut self, session: u64, waiting: &Waiting) {
        if let Lent::As(number) = waiting.lent {
            self.take_back(number, &waiting.message);
        }
        if waiting.number != 0 {
            self.forget(RecordKey::owned(RecordKind::Queued, session, waiting.number));
            self.unlink(&waiting.message);
        }
    }

    /// Stores that a message is sent to a session at QoS 2, whether it waited before or not; of one that is not kept
    /// itself, that its identifier is taken.
    pub(crate) fn publish(
        &mut self,
        session: u64,
        id: PacketId,
        waiting: &mut Waiting,
        group: Option<SharedFilter>,
        now: Now,
    ) {
        if waiting.message.level == Durability::None {
            waiting.number = self.next_number();
            let record = OutgoingRecord { order: waiting.number, state: OutgoingState::Withdrawn };
            return self.exchange(session, id, record, self.level);
        }
        if waiting.number == 0 {
            waiting.number = self.next_number();
            self.link(&waiting.message, now);
        } else {
            self.forget(RecordKey::owned(RecordKind::Queued, session, waiting.number));
        }
        let state = OutgoingState::Published(queued(waiting, group));
        self.exchange(session, id, OutgoingRecord { order: waiting.number, state }, waiting.message.level);
    }

    /// Stores that a message sent at QoS 2 needs not be sent again: it was received, or withdrawn.
    pub(crate) fn settle(&mut self, session: u64, id: PacketId, waiting: &Waiting, state: OutgoingState) {
        if waiting.number != 0 {
            let level = match waiting.message.level {
                Durability::None => self.level,
                level => level,
            };
            self.exchange(session, id, OutgoingRecord { order: waiting.number, state }, level);
            self.unlink(&waiting.message);
        }
    }

    /// Stores that a message of an earlier run, which is no more, is not sent again; its identifier stays taken.
    pub(crate) fn withdraw(&mut self, session: u64, id: PacketId, order: u64) {
        let record = OutgoingRecord { order, state: OutgoingState::Withdrawn };
        self.exchange(session, id, record, self.level);
    }

    /// Stores that the client has received a message that was withdrawn.
    pub(crate) fn release_withdrawn(&mut self, session: u64, id: PacketId) {
        let record = OutgoingRecord { order: self.next_number(), state: OutgoingState::Released };
        self.exchange(session, id, record, self.level);
    }

    fn exchange(&mut self, session: u64, id: PacketId, record: OutgoingRecord, level: Durability) {
        let key = RecordKey::owned(RecordKind::Outgoing, session, id.get().into());
        self.note(Change::Replace(key, Record::Outgoing(record)), level);
    }

    /// Removes a QoS 2 exchange, with its message if that was not received.
    pub(crate) fn end_exchange(&mut self, session: u64, id: PacketId, waiting: Option<&Waiting>) {
        let is_stored = waiting.is_none_or(|waiting| waiting.number != 0);
        if session != 0 && is_stored {
            self.forget(RecordKey::owned(RecordKind::Outgoing, session, id.get().into()));
        }
        if let Some(waiting) = waiting.filter(|waiting| waiting.number != 0) {
            self.unlink(&waiting.message);
        }
    }

    /// Stores that a message is retained.
    pub(crate) fn retain(&mut self, message: &SharedMessage, now: Now) {
        if message.level != Durability::None {
            self.link(message, now);
            let key = RecordKey::new(RecordKind::Retained, message.number);
            self.note(Change::Create(key, Record::Retained), message.level);
        }
    }

    /// Removes what [`Self::retain`] stored.
    pub(crate) fn unretain(&mut self, message: &Message) {
        if message.level != Durability::None {
            self.remove(RecordKey::new(RecordKind::Retained, message.number));
            self.unlink(message);
        }
    }
}

fn queued(waiting: &Waiting, group: Option<SharedFilter>) -> QueuedRecord {
    QueuedRecord {
        message: waiting.message.number,
        qos: waiting.qos,
        retain: waiting.retain,
        subscription_ids: waiting.subscription_ids.clone(),
        group: group.map(Box::new),
        packet_id: waiting.packet_id.filter(|_| waiting.qos == QoS::AtLeastOnce),
    }
}
