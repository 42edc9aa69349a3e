//! Messages sent to one client and not yet completely acknowledged, and their packet identifiers.
//!
//! A message is sent again under the identifier it had ([MQTT-4.4.0-1]), after a restart too. So that nothing has to be
//! written for it when a message is sent, its record says the identifier from the start: of a message that is sent
//! at once it is made in that moment, and one that waits is given an identifier of the upper half when it begins to, in
//! turn, so that no two of those that are under way at a time have the same unless very many wait.

use crate::limits::Config;
use crate::queue::Waiting;
use crate::total::Total;
use crate::word_hasher::WordHasher;
use mqtt_proto::{PacketId, QoS};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// Bytes that a session may have in flight however much others have, so that few cannot stop everyone.
pub(crate) const EXCHANGE_BYTES_OWN: usize = 64 * 1024;

/// The first of the identifiers that are given to messages that wait.
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
    /// PUBREL was sent; PUBCOMP is due.
    Released,
    /// The message was withdrawn before it was sent again. The identifier stays taken: the client may
    /// still hold it as received, and would drop another message under it as a duplicate, or may still
    /// acknowledge it.
    Withdrawn(QoS),
}

#[derive(Debug)]
struct Slot {
    /// Order of sending.
    sequence: u64,
    /// Whether it was sent on the present connection, and so took from its quota.
    counted: bool,
    exchange: Option<Exchange>,
}

/// Exchanges by packet identifier. Identifiers of messages that did not wait are the lowest free ones, so that the table
/// is as long as the most that ever was in flight.
#[derive(Debug)]
pub(crate) struct Inflight {
    slots: Vec<Slot>,
    free: Vec<u16>,
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
            free: Vec::new(),
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

impl Inflight {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len() + self.waited.len()
    }

    fn slot(&self, id: PacketId) -> Option<&Slot> {
        if is_of_sending(id) { self.slots.get(usize::from(id.get()) - 1) } else { self.waited.get(&id.get()) }
    }

    fn slot_mut(&mut self, id: PacketId) -> Option<&mut Slot> {
        if is_of_sending(id) {
            self.slots.get_mut(usize::from(id.get()) - 1)
        } else {
            self.waited.get_mut(&id.get())
        }
    }

    fn slots(&self) -> impl Iterator<Item = (u16, &Slot)> {
        (1..).zip(&self.slots).chain(self.waited.iter().map(|(raw, slot)| (*raw, slot)))
    }

    fn slots_mut(&mut self) -> impl Iterator<Item = (u16, &mut Slot)> {
        (1..).zip(&mut self.slots).chain(self.waited.iter_mut().map(|(raw, slot)| (*raw, slot)))
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
        let slot = Slot { sequence: self.sequence, counted: true, exchange: None };
        if let Some(id) = named.filter(|id| self.is_free(*id)) {
            self.waited.insert(id.get(), slot);
            return Some(id);
        }
        if let Some(raw) = self.free.pop()
            && let Some(place) = self.slots.get_mut(usize::from(raw) - 1)
        {
            *place = slot;
            return PacketId::new(raw);
        }
        let id = PacketId::new(u16::try_from(self.slots.len() + 1).ok()?)?;
        if is_of_sending(id) {
            self.slots.push(slot);
            return Some(id);
        }
        let id = (WAITED_FIRST..=u16::MAX)
            .find_map(|_| Some(self.name_waiting()).filter(|id| self.is_free(*id)))?;
        self.waited.insert(id.get(), slot);
        Some(id)
    }

    /// Puts the message that is sent under a reserved identifier in its place.
    pub(crate) fn fill(&mut self, id: PacketId, waiting: Waiting) {
        self.grow(waiting.message.bytes());
        if let Some(slot) = self.slot_mut(id) {
            slot.exchange = Some(Exchange::Published(waiting));
        }
    }

    /// Takes exchanges of an earlier run, in the order of sending, under the identifiers they had.
    pub(crate) fn restore(&mut self, exchanges: Vec<(PacketId, Exchange)>) {
        let sent_at_once = exchanges.iter().map(|(id, _)| *id).filter(|id| is_of_sending(*id));
        let last = sent_at_once.map(PacketId::get).max().unwrap_or(0);
        self.slots = (0..last).map(|_| Slot { sequence: 0, counted: false, exchange: None }).collect();
        for (id, exchange) in exchanges {
            self.sequence += 1;
            if let Exchange::Published(waiting) = &exchange {
                self.grow(waiting.message.bytes());
            }
            let slot = Slot { sequence: self.sequence, counted: false, exchange: Some(exchange) };
            if !is_of_sending(id) {
                self.waited.insert(id.get(), slot);
            } else if let Some(place) = self.slot_mut(id) {
                *place = slot;
            }
        }
        let free = (1..=last).zip(&self.slots).filter(|(_, slot)| slot.exchange.is_none());
        self.free = free.map(|(raw, _)| raw).collect();
    }

    /// Every exchange with its identifier.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PacketId, &Exchange)> {
        self.slots().filter_map(|(raw, slot)| Some((PacketId::new(raw)?, slot.exchange.as_ref()?)))
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
        self.slots_mut().for_each(|(_, slot)| slot.counted = false);
    }

    pub(crate) fn get(&self, id: PacketId) -> Option<&Exchange> {
        self.slot(id)?.exchange.as_ref()
    }

    /// Goes on with an exchange that holds no message from here on.
    pub(crate) fn advance(&mut self, id: PacketId, to: Exchange) {
        if let Some(exchange) = self.slot_mut(id).and_then(|slot| slot.exchange.as_mut()) {
            let before = std::mem::replace(exchange, to);
            self.shrink(&before);
        }
    }

    /// Ends an exchange. Returns it and whether it was counted.
    pub(crate) fn remove(&mut self, id: PacketId) -> Option<(Exchange, bool)> {
        let slot = self.slot_mut(id)?;
        let exchange = slot.exchange.take()?;
        let counted = slot.counted;
        if is_of_sending(id) {
            self.free.push(id.get());
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
            .filter(|(_, slot)| slot.exchange.is_some())
            .filter_map(|(raw, slot)| Some((slot.sequence, PacketId::new(raw)?)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Has the receiver's right to each message asked for again.
    pub(crate) fn distrust(&mut self) {
        for exchange in self.slots_mut().filter_map(|(_, slot)| slot.exchange.as_mut()) {
            if let Exchange::Published(waiting) = exchange {
                waiting.distrust();
            }
        }
    }

    /// Withdraws the messages that satisfy the condition and returns them.
    pub(crate) fn withdraw(&mut self, mut wanted: impl FnMut(&Waiting) -> bool) -> Vec<(PacketId, Waiting)> {
        let mut withdrawn = Vec::new();
        for (raw, slot) in self.slots_mut() {
            if let Some(Exchange::Published(waiting)) = &slot.exchange
                && wanted(waiting)
            {
                let qos = waiting.qos;
                if let Some(Exchange::Published(waiting)) = slot.exchange.replace(Exchange::Withdrawn(qos)) {
                    withdrawn.extend(PacketId::new(raw).map(|id| (id, waiting)));
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
        let messages = self.slots().filter(|(_, slot)| is_message(slot)).count();
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

    #[test]
    fn all_identifiers_can_be_in_use_at_once() {
        let mut inflight = Inflight::default();
        let mut ids: Vec<u16> = (0..0xFFFF).map(|_| reserved(&mut inflight, None)).collect();
        assert_eq!(inflight.reserve(None), None);
        ids.sort_unstable();
        assert_eq!(ids, (1..=0xFFFF).collect::<Vec<_>>());
    }
}
