//! Messages sent to one client and not yet completely acknowledged, and their packet identifiers.

use crate::limits::Config;
use crate::queue::Waiting;
use crate::total::Total;
use mqtt_proto::{PacketId, QoS};

/// Bytes that a session may have in flight however much others have, so that few cannot stop everyone.
pub(crate) const EXCHANGE_BYTES_OWN: usize = 64 * 1024;

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

/// Exchanges by packet identifier. Identifiers are the lowest free ones, so that the table is as
/// long as the most that ever was in flight.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    slots: Vec<Slot>,
    free: Vec<u16>,
    sequence: u64,
    /// Of the messages among them.
    bytes: usize,
    /// Of incomplete exchanges of all sessions.
    all: Total,
}

impl Inflight {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
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

    /// Takes an identifier for a message that is sent now, which has to be filled in; `None` when all 65,535
    /// are in use.
    pub(crate) fn reserve(&mut self) -> Option<PacketId> {
        self.sequence += 1;
        let slot = Slot { sequence: self.sequence, counted: true, exchange: None };
        if let Some(raw) = self.free.pop()
            && let Some(place) = self.slots.get_mut(usize::from(raw) - 1)
        {
            *place = slot;
            return PacketId::new(raw);
        }
        let id = PacketId::new(u16::try_from(self.slots.len() + 1).ok()?)?;
        self.slots.push(slot);
        Some(id)
    }

    /// Puts the message that is sent under a reserved identifier in its place.
    pub(crate) fn fill(&mut self, id: PacketId, waiting: Waiting) {
        self.grow(waiting.message.bytes());
        if let Some(slot) = self.slots.get_mut(usize::from(id.get()) - 1) {
            slot.exchange = Some(Exchange::Published(waiting));
        }
    }

    /// Takes exchanges of an earlier run, in the order of sending, under the identifiers they had.
    pub(crate) fn restore(&mut self, exchanges: Vec<(PacketId, Exchange)>) {
        let last = exchanges.iter().map(|(id, _)| id.get()).max().unwrap_or(0);
        self.slots = (0..last).map(|_| Slot { sequence: 0, counted: false, exchange: None }).collect();
        for (id, exchange) in exchanges {
            self.sequence += 1;
            if let Exchange::Published(waiting) = &exchange {
                self.grow(waiting.message.bytes());
            }
            if let Some(slot) = self.slots.get_mut(usize::from(id.get()) - 1) {
                *slot = Slot { sequence: self.sequence, counted: false, exchange: Some(exchange) };
            }
        }
        let free = (1..=last).zip(&self.slots).filter(|(_, slot)| slot.exchange.is_none());
        self.free = free.map(|(raw, _)| raw).collect();
    }

    /// Every exchange with its identifier.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PacketId, &Exchange)> {
        let slots = (1_u16..).zip(&self.slots);
        slots.filter_map(|(raw, slot)| Some((PacketId::new(raw)?, slot.exchange.as_ref()?)))
    }

    /// Counts an exchange that is sent again against the present connection's quota.
    pub(crate) fn count(&mut self, id: PacketId) {
        if let Some(slot) = self.slots.get_mut(usize::from(id.get()) - 1) {
            slot.counted = true;
        }
    }

    /// Counts an exchange no longer; tells whether it was.
    pub(crate) fn uncount(&mut self, id: PacketId) -> bool {
        let slot = self.slots.get_mut(usize::from(id.get()) - 1);
        slot.is_some_and(|slot| std::mem::take(&mut slot.counted))
    }

    /// Counts nothing any more: the connection is gone, and the next one starts with its full quota.
    pub(crate) fn uncount_all(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.counted = false);
    }

    pub(crate) fn get(&self, id: PacketId) -> Option<&Exchange> {
        self.slots.get(usize::from(id.get()) - 1)?.exchange.as_ref()
    }

    /// Goes on with an exchange that holds no message from here on.
    pub(crate) fn advance(&mut self, id: PacketId, to: Exchange) {
        let slot = self.slots.get_mut(usize::from(id.get()) - 1);
        if let Some(exchange) = slot.and_then(|slot| slot.exchange.as_mut()) {
            let before = std::mem::replace(exchange, to);
            self.shrink(&before);
        }
    }

    /// Ends an exchange. Returns it and whether it was counted.
    pub(crate) fn remove(&mut self, id: PacketId) -> Option<(Exchange, bool)> {
        let slot = self.slots.get_mut(usize::from(id.get()) - 1)?;
        let exchange = slot.exchange.take()?;
        let counted = slot.counted;
        self.free.push(id.get());
        self.shrink(&exchange);
        Some((exchange, counted))
    }

    /// Returns the identifiers in the order of sending ([MQTT-4.6.0-1]).
    pub(crate) fn in_order(&self) -> Vec<PacketId> {
        let mut order: Vec<_> = (1_u16..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.exchange.is_some())
            .filter_map(|(raw, slot)| Some((slot.sequence, PacketId::new(raw)?)))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// Has the receiver's right to each message asked for again.
    pub(crate) fn distrust(&mut self) {
        for exchange in self.slots.iter_mut().filter_map(|slot| slot.exchange.as_mut()) {
            if let Exchange::Published(waiting) = exchange {
                waiting.distrust();
            }
        }
    }

    /// Withdraws the messages that satisfy the condition and returns them.
    pub(crate) fn withdraw(&mut self, mut wanted: impl FnMut(&Waiting) -> bool) -> Vec<(PacketId, Waiting)> {
        let mut withdrawn = Vec::new();
        for (raw, slot) in (1_u16..).zip(&mut self.slots) {
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
        self.all.shrink(bytes);
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
        self.all.shrink(self.bytes);
    }
}
