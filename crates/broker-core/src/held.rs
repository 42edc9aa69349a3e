//! QoS 2 messages of one client between PUBLISH and PUBREL.

use crate::by_id::ById;
use crate::effect::Now;
use crate::inflight::EXCHANGE_BYTES_OWN;
use crate::ledger::Ledger;
use crate::limits::Config;
use crate::message::SharedMessage;
use crate::record::{HeldRecord, Record};
use crate::total::Total;
use mqtt_proto::PacketId;

/// Bytes that a denied message counts for.
const DENIED_BYTES: usize = 64;

/// What waits for PUBREL under one packet identifier.
#[derive(Debug)]
pub(crate) enum HeldMessage {
    /// A message, as it was accepted when it came: whether it may still be released is to be decided anew.
    Accepted(SharedMessage),
    /// A message that was denied to a 3.1.1 client, which has to finish the exchange all the same.
    Denied,
}

impl HeldMessage {
    pub(crate) fn record(&self, ledger: &mut Ledger, now: Now) -> Record {
        Record::Held(Box::new(match self {
            Self::Accepted(message) => {
                let received = ledger.time_at(message.received, now);
                HeldRecord::Accepted(message.publication().clone(), received)
            }
            Self::Denied => HeldRecord::Denied,
        }))
    }
}

/// Messages by packet identifier: a second PUBLISH under the same one is the same message ([MQTT-4.3.3-10]).
#[derive(Debug, Default)]
pub(crate) struct Held {
    messages: ById<HeldMessage>,
    bytes: usize,
    /// Of messages in incomplete exchanges of all sessions.
    all: Total,
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Counts these messages, of which there are none, among all others.
    pub(crate) fn count_among(&mut self, all: &Total) {
        self.all = all.clone();
    }

    /// Tells whether there is room for a message of so many bytes.
    pub(crate) fn has_room(&self, bytes: usize, config: &Config) -> bool {
        let own = self.bytes.saturating_add(bytes);
        own <= EXCHANGE_BYTES_OWN.min(config.held_bytes_max)
            || (own <= config.held_bytes_max
                && self.all.get().saturating_add(bytes) <= config.exchanges_bytes_max)
    }

    pub(crate) fn get(&self, id: PacketId) -> Option<&HeldMessage> {
        self.messages.get(id)
    }

    pub(crate) fn contains(&self, id: PacketId) -> bool {
        self.messages.get(id).is_some()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PacketId> {
        self.messages.ids()
    }

    pub(crate) fn insert(&mut self, id: PacketId, message: HeldMessage) {
        let bytes = cost(&message);
        self.bytes = self.bytes.saturating_add(bytes);
        self.all.grow(bytes);
        if let Some(earlier) = self.messages.insert(id, message) {
            self.shrink(&earlier);
        }
    }

    pub(crate) fn remove(&mut self, id: PacketId) -> Option<HeldMessage> {
        let message = self.messages.remove(id)?;
        self.shrink(&message);
        Some(message)
    }

    fn shrink(&mut self, message: &HeldMessage) {
        let bytes = cost(message);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.all.shrink(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.shrink_by(self.bytes, self.messages.len());
    }
}

fn cost(message: &HeldMessage) -> usize {
    match message {
        HeldMessage::Accepted(message) => message.bytes(),
        HeldMessage::Denied => DENIED_BYTES,
    }
}
