//! Messages sent to one client and not yet completely acknowledged, and their packet identifiers.
//!
//! A message is sent again under the identifier it had ([MQTT-4.4.0-1]), after a restart too. So that nothing has to be
//! written for it when a message is sent, its record says the identifier from the start: of a message that is sent
//! at once it is made in that moment, and one that waits is given an identifier of the upper half when it begins to, in
//! turn, so that no two of those that are under way at a time have the same unless very many wait.
//!
//! Those of the lower half are given in turn too, and not the one again whose exchange was the last to end: a client that
//! acknowledges twice would acknowledge the next message as well, which it may never have seen.

use crate::limits::Config;
use crate::message::SharedMessage;
use crate::queue::Waiting;
use crate::total::Total;
use crate::word_hasher::WordHasher;
use mqtt_proto::{AckKind, PacketId, QoS};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Bytes that a session may have in flight however much others have, so that few cannot stop everyone.
pub(crate) const EXCHANGE_BYTES_OWN: usize = 64 * 1024;

/// The first of the identifiers that are given to messages that wait. As many may be given to messages when they are sent,
/// less one, and so many places a table has at most.
const WAITED_FIRST: u16 = 0x8000;

/// Whether an identifier is one of those that are given to messages when they are sent: its message was sent.
pub(crate) fn is_of_sending(id: PacketId) -> bool {
    id.get() < WAITED_FIRST
}

/// How far the exchange of one packet identifier is.
#[derive(Debug)]
pub(crate) enum Exchange {
    /// PUBLISH was sent; PUBACK or PUBREC is due.
    Published(Waiting),
    /// PUBLISH was sent to a session that ends with its connection; PUBACK or PUBREC is due. The message is kept by
    /// nobody: it is never sent again.
    Sent(QoS),
    /// PUBREL was sent; PUBCOMP is due.
    Released,
    /// The message was withdrawn before it was sent again. The identifier stays taken: the client may
    /// still hold it as received, and would drop another message under it as a duplicate, or may still
    /// acknowledge it.
    Withdrawn(QoS),
}

impl Exchange {
    /// Whether it ends with such a packet of the client's.
    pub(crate) fn ends_with(&self, kind: AckKind) -> bool {
        match self {
            Self::Published(Waiting { qos, .. }) | Self::Sent(qos) | Self::Withdrawn(qos) => {
                *qos == QoS::AtLeastOnce && kind == AckKind::PubAck
            }
            Self::Released => kind == AckKind::PubComp,
        }
    }

    /// Returns the message that it holds.
    #[inline]
    pub(crate) fn into_message(self) -> Option<SharedMessage> {
        match self {
            Self::Published(waiting) => Some(waiting.message),
            Self::Sent(_) | Self::Released | Self::Withdrawn(_) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// The identifier of whose exchange it is; 0 when it is free.
    id: u16,
    /// Order of sending.
    sequence: u64,
    /// Whether it was sent on the present connection, and so took from its quota.
    counted: bool,
    exchange: Option<Exchange>,
}

/// Exchanges by packet identifier. Those of messages that did not wait have their place by the last bits of it: one whose
/// place is taken is passed over, so that the table needs not be much longer than the most that ever was in flight.
#[derive(Debug)]
pub(crate) struct Inflight {
    /// None, or a power of two of them.
    slots: Vec<Slot>,
    /// How many of these are taken.
    taken: usize,
    /// The identifier that was given last to a message that did not wait; 0 if none was.
    last: u16,
    /// Those of the upper half.
    waited: HashMap<u16, Slot, BuildHasherDefault<WordHasher>>,
    /// What the next message that begins to wait is given.
    next_waiting: PacketId,
    sequence: u64,
    /// Of the messages among them.
    bytes: usize,
    /// Of messages in incomplete exchanges of all sessions.
    all: Total,
}

impl Default for Inflight {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            taken: 0,
            last: 0,
            waited: HashMap::default(),
            next_waiting: after(None),
            sequence: 0,
            bytes: 0,
            all: Total::default(),
        }
    }
}

/// Returns the identifier after this one, of those that are given to messages that wait.
fn after(id: Option<PacketId>) -> PacketId {
    let next = id.and_then(|id| id.get().checked_add(1)).filter(|next| *next > WAITED_FIRST);
    PacketId::new(next.unwrap_or(WAITED_FIRST)).unwrap_or(PacketId::MIN)
}

/// Returns the identifier after this one, of those that are given in sending.
fn following(id: u16) -> u16 {
    ((id + 1) % WAITED_FIRST).max(1)
}

impl Inflight {
    pub(crate) fn len(&self) -> usize {
        self.taken + self.waited.len()
    }

    fn place(&self, raw: u16) -> usize {
        usize::from(raw) & self.slots.len().wrapping_sub(1)
    }

    fn slot(&self, id: PacketId) -> Option<&Slot> {
        let raw = id.get();
        if is_of_sending(id) {
            self.slots.get(self.place(raw)).filter(|slot| slot.id == raw)
        } else {
            self.waited.get(&raw)
        }
    }

    fn slot_mut(&mut self, id: PacketId) -> Option<&mut Slot> {
        let raw = id.get();
        if is_of_sending(id) {
            let place = self.place(raw);
            self.slots.get_mut(place).filter(|slot| slot.id == raw)
        } else {
            self.waited.get_mut(&raw)
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.id != 0).chain(self.waited.values())
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.id != 0).chain(self.waited.values_mut())
    }

    /// Returns the place of an identifier that is given in sending, if it is free.
    fn vacant(&mut self, raw: u16) -> Option<&mut Slot> {
        let place = self.place(raw);
        self.slots.get_mut(place).filter(|slot| slot.id == 0)
    }

    /// Whether so many places are taken that a free one may be far.
    fn is_crowded(&self) -> bool {
        self.taken * 4 >= self.slots.len() * 3
    }

    fn may_lengthen(&self) -> bool {
        self.slots.len() < usize::from(WAITED_FIRST)
    }

    /// Doubles the table: who had a place of its own has one then too.
    #[cold]
    fn lengthen(&mut self) {
        let len = (self.slots.len() * 2).max(1);
        let longer = (0..len).map(|_| Slot::default()).collect();
        let taken = std::mem::replace(&mut self.slots, longer).into_iter().filter(|slot| slot.id != 0);
        for slot in taken {
            if let Some(vacant) = self.vacant(slot.id) {
                *vacant = slot;
            }
        }
    }

    /// Takes the place of the identifier whose turn it is of those that are given in sending, if it is free.
    fn take_turn(&mut self) -> Option<PacketId> {
        let (id, sequence) = (following(self.last), self.sequence);
        let slot = self.vacant(id)?;
        (slot.id, slot.sequence, slot.counted) = (id, sequence, true);
        self.taken += 1;
        self.last = id;
        PacketId::new(id)
    }

    /// Takes a place where that is not free: of the next one whose place is, in a longer table if most are taken.
    #[cold]
    fn take_another(&mut self) -> Option<PacketId> {
        if self.is_crowded() && !self.may_lengthen() {
            let all = WAITED_FIRST..=u16::MAX;
            let id = all.into_iter().find_map(|_| Some(self.name_waiting()).filter(|id| self.is_free(*id)));
            if let Some(id) = id {
                return Some(self.take_named(id));
            }
        }
        for _ in 1..WAITED_FIRST {
            if self.is_crowded() && self.may_lengthen() {
                self.lengthen();
            } else {
                self.last = following(self.last);
            }
            if let Some(id) = self.take_turn() {
                return Some(id);
            }
        }
        None
    }

    /// Takes an identifier of those of messages that wait.
    fn take_named(&mut self, id: PacketId) -> PacketId {
        let slot = Slot { id: id.get(), sequence: self.sequence, counted: true, exchange: None };
        self.waited.insert(id.get(), slot);
        id
    }

    /// Returns the identifier for a message that begins to wait.
    pub(crate) fn name_waiting(&mut self) -> PacketId {
        let id = self.next_waiting;
        self.next_waiting = after(Some(id));
        id
    }

    /// Goes on after this identifier of a message that waited in an earlier run.
    pub(crate) fn named_waiting(&mut self, id: PacketId) {
        self.next_waiting = after(Some(id));
    }

    /// Tells whether an identifier that was given to a message while it waited can be used.
    pub(crate) fn is_free(&self, id: PacketId) -> bool {
        !is_of_sending(id) && !self.waited.contains_key(&id.get())
    }

    /// Counts these exchanges, of which there are none, among all others.
    pub(crate) fn count_among(&mut self, all: &Total) {
        self.all = all.clone();
    }

    /// Tells whether another message may be sent.
    pub(crate) fn has_room(&self, config: &Config) -> bool {
        self.bytes <= EXCHANGE_BYTES_OWN.min(config.inflight_bytes_max)
            || (self.bytes <= config.inflight_bytes_max && self.all.get() <= config.exchanges_bytes_max)
    }

    fn grow(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.all.grow(bytes);
    }

    fn shrink(&mut self, exchange: &Exchange) {
        if let Exchange::Published(waiting) = exchange {
            let bytes = waiting.message.bytes();
            self.bytes = self.bytes.saturating_sub(bytes);
            self.all.shrink(bytes);
        }
    }

    /// Takes an identifier for a message that is sent now, which has to be filled in: the one it has, if that is free;
    /// `None` when all 65,535 are in use.
    pub(crate) fn reserve(&mut self, named: Option<PacketId>) -> Option<PacketId> {
        self.sequence += 1;
        match named.filter(|id| self.is_free(*id)) {
            Some(id) => Some(self.take_named(id)),
            None => self.take_turn().or_else(|| self.take_another()),
        }
    }

    /// Puts the message that is sent under a reserved identifier in its place.
    pub(crate) fn fill(&mut self, id: PacketId, waiting: Waiting) {
        self.grow(waiting.message.bytes());
        if let Some(slot) = self.slot_mut(id) {
            slot.exchange = Some(Exchange::Published(waiting));
        }
    }

    /// Notes that a message was sent under a reserved identifier of which nothing is kept.
    pub(crate) fn note_sent(&mut self, id: PacketId, qos: QoS) {
        if let Some(slot) = self.slot_mut(id) {
            slot.exchange = Some(Exchange::Sent(qos));
        }
    }

    /// Takes exchanges of an earlier run, in the order of sending, under the identifiers they had.
    pub(crate) fn restore(&mut self, exchanges: Vec<(PacketId, Exchange)>) {
        for (id, exchange) in exchanges {
            self.sequence += 1;
            if let Exchange::Published(waiting) = &exchange {
                self.grow(waiting.message.bytes());
            }
            let raw = id.get();
            let slot = Slot { id: raw, sequence: self.sequence, counted: false, exchange: Some(exchange) };
            if !is_of_sending(id) {
                self.waited.insert(raw, slot);
                continue;
            }
            self.last = raw;
            while self.vacant(raw).is_none() && self.may_lengthen() {
                self.lengthen();
            }
            if let Some(vacant) = self.vacant(raw) {
                *vacant = slot;
                self.taken += 1;
            }
        }
    }

    /// Every exchange with its identifier.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PacketId, &Exchange)> {
        self.slots().filter_map(|slot| Some((PacketId::new(slot.id)?, slot.exchange.as_ref()?)))
    }

    /// Counts an exchange that is sent again against the present connection's quota.
    pub(crate) fn count(&mut self, id: PacketId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.counted = true;
        }
    }

    /// Counts an exchange no longer; tells whether it was.
    pub(crate) fn uncount(&mut self, id: PacketId) -> bool {
        self.slot_mut(id).is_some_and(|slot| std::mem::take(&mut slot.counted))
    }

    /// Counts nothing any more: the connection is gone, and the next one starts with its full quota.
    pub(crate) fn uncount_all(&mut self) {
        self.slots_mut().for_each(|slot| slot.counted = false);
    }

    pub(crate) fn get(&self, id: PacketId) -> Option<&Exchange> {
        self.slot(id)?.exchange.as_ref()
    }

    /// Goes on with an exchange that holds no message from here on. Returns the one that it held.
    pub(crate) fn advance(&mut self, id: PacketId, to: Exchange) -> Option<SharedMessage> {
        let exchange = self.slot_mut(id)?.exchange.as_mut()?;
        let before = std::mem::replace(exchange, to);
        self.shrink(&before);
        before.into_message()
    }

    /// Ends an exchange. Returns it and whether it was counted.
    pub(crate) fn remove(&mut self, id: PacketId) -> Option<(Exchange, bool)> {
        let slot = self.slot_mut(id)?;
        let exchange = slot.exchange.take()?;
        let counted = slot.counted;
        if is_of_sending(id) {
            slot.id = 0;
            self.taken -= 1;
        } else {
            self.waited.remove(&id.get());
        }
        self.shrink(&exchange);
        Some((exchange, counted))
    }

    /// Returns the identifiers in the order of sending ([MQTT-4.6.0-1]).
    pub(crate) fn in_order(&self) -> Vec<PacketId> {
        let mut order: Vec<_> = self
            .slots()
            .filter(|slot| slot.exchange.is_some())
            .filter_map(|slot| Some((slot.sequence, PacketId::new(slot.id)?)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Has the receiver's right to each message asked for again.
    pub(crate) fn distrust(&mut self) {
        for exchange in self.slots_mut().filter_map(|slot| slot.exchange.as_mut()) {
            if let Exchange::Published(waiting) = exchange {
                waiting.distrust();
            }
        }
    }

    /// Withdraws the messages that satisfy the condition and returns them.
    pub(crate) fn withdraw(&mut self, mut wanted: impl FnMut(&Waiting) -> bool) -> Vec<(PacketId, Waiting)> {
        let mut withdrawn = Vec::new();
        for slot in self.slots_mut() {
            if let Some(Exchange::Published(waiting)) = &slot.exchange
                && wanted(waiting)
            {
                let qos = waiting.qos;
                if let Some(Exchange::Published(waiting)) = slot.exchange.replace(Exchange::Withdrawn(qos)) {
                    withdrawn.extend(PacketId::new(slot.id).map(|id| (id, waiting)));
                }
            }
        }
        let bytes: usize = withdrawn.iter().map(|(_, waiting)| waiting.message.bytes()).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.all.shrink_by(bytes, withdrawn.len());
        withdrawn
    }

    /// Takes out, in order, the QoS 1 messages that satisfy the condition.
    pub(crate) fn extract_qos1(&mut self, mut wanted: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        let mut out = Vec::new();
        for id in self.in_order() {
            let matches = matches!(self.get(id), Some(Exchange::Published(waiting))
                if waiting.qos == QoS::AtLeastOnce && wanted(waiting));
            if matches && let Some((Exchange::Published(waiting), _)) = self.remove(id) {
                out.push(waiting);
            }
        }
        out
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        let is_message = |slot: &Slot| matches!(slot.exchange, Some(Exchange::Published(_)));
        let messages = self.slots().filter(|slot| is_message(slot)).count();
        self.all.shrink_by(self.bytes, messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved(inflight: &mut Inflight, named: Option<PacketId>) -> u16 {
        inflight.reserve(named).map_or(0, PacketId::get)
    }

    #[test]
    fn what_waits_is_named_in_turn() {
        let mut inflight = Inflight::default();
        let named: Vec<u16> = (0..0x8001).map(|_| inflight.name_waiting().get()).collect();
        assert_eq!(
            (named.first(), named.get(0x7FFF), named.last()),
            (Some(&0x8000), Some(&0xFFFF), Some(&0x8000))
        );
        inflight.named_waiting(PacketId::MAX);
        assert_eq!(inflight.name_waiting().get(), 0x8000);
    }

    #[test]
    fn an_identifier_that_is_free_is_taken_and_no_other() {
        let mut inflight = Inflight::default();
        let named = inflight.name_waiting();
        assert_eq!(reserved(&mut inflight, Some(named)), 0x8000);
        assert_eq!(reserved(&mut inflight, Some(named)), 1, "it is in use");
        assert_eq!(reserved(&mut inflight, PacketId::new(7)), 2, "it is of those that are given in sending");
        assert_eq!(inflight.len(), 3);
    }

    /// Sends a message and has it received.
    fn released(inflight: &mut Inflight) -> u16 {
        let id = inflight.reserve(None).unwrap();
        inflight.slot_mut(id).unwrap().exchange = Some(Exchange::Released);
        id.get()
    }

    fn end(inflight: &mut Inflight, raw: u16) -> bool {
        inflight.remove(PacketId::new(raw).unwrap()).is_some()
    }

    #[test]
    fn an_identifier_is_given_again_after_all_others() {
        let mut inflight = Inflight::default();
        for expected in (1..WAITED_FIRST).chain(1..10) {
            let id = released(&mut inflight);
            assert_eq!(id, expected);
            assert!(end(&mut inflight, id));
            assert!(!end(&mut inflight, id), "it is nobody's");
        }
        assert_eq!((inflight.len(), inflight.slots.len()), (0, 1));
    }

    #[test]
    fn an_identifier_is_not_another_one_with_its_place() {
        let mut inflight = Inflight::default();
        let first = released(&mut inflight);
        assert!(end(&mut inflight, first));
        let second = released(&mut inflight);
        assert_eq!(inflight.place(first), inflight.place(second));
        assert!(!end(&mut inflight, first));
        assert!(end(&mut inflight, second));
    }

    // Who leaves one unacknowledged makes nobody search long, or keep much.
    #[test]
    fn one_that_stays_is_passed_over_and_the_table_is_no_longer_for_it() {
        let mut inflight = Inflight::default();
        let stuck = released(&mut inflight);
        for _ in 0..100_000 {
            let id = released(&mut inflight);
            assert_ne!(id, stuck);
            assert!(end(&mut inflight, id));
        }
        assert_eq!((inflight.len(), inflight.slots.len()), (1, 2));
        assert!(end(&mut inflight, stuck));
    }

    #[test]
    fn a_window_that_is_acknowledged_in_order_has_a_table_of_its_size() {
        let mut inflight = Inflight::default();
        let mut window: std::collections::VecDeque<u16> = (0..64).map(|_| released(&mut inflight)).collect();
        for round in 0..100_000 {
            let oldest = window.pop_front().unwrap();
            assert!(end(&mut inflight, oldest));
            window.push_back(released(&mut inflight));
            // Where they begin anew none is 0, and the places are not in step any more.
            let len = inflight.slots.len();
            assert!(len == 64 || (round > 30_000 && len == 128), "{round}: {len}");
        }
        assert_eq!(inflight.len(), 64);
        let in_order: Vec<u16> = inflight.in_order().into_iter().map(PacketId::get).collect();
        assert_eq!(window, in_order, "also where they began anew");
    }

    #[test]
    fn what_is_restored_has_its_identifiers_and_the_next_follows_the_last() {
        for ids in [&[1, 2, 3][..], &[0x7FFF, 1, 5], &[5, 4101, 6], &[7, 0x8000, 8]] {
            let mut inflight = Inflight::default();
            let released = ids.iter().map(|raw| (PacketId::new(*raw).unwrap(), Exchange::Released));
            inflight.restore(released.collect());
            let in_order: Vec<u16> = inflight.in_order().into_iter().map(PacketId::get).collect();
            assert_eq!((in_order.as_slice(), inflight.len()), (ids, 3));
            assert_eq!(reserved(&mut inflight, None), ids[2] + 1);
            assert!(ids.iter().all(|raw| end(&mut inflight, *raw)));
        }
    }

    #[test]
    fn all_identifiers_can_be_in_use_at_once() {
        let mut inflight = Inflight::default();
        let mut ids: Vec<u16> = (0..0xFFFF).map(|_| reserved(&mut inflight, None)).collect();
        assert_eq!(inflight.reserve(None), None);
        ids.sort_unstable();
        assert_eq!(ids, (1..=0xFFFF).collect::<Vec<_>>());
    }
}
