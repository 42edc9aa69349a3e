//! QoS 2 messages of one client between PUBLISH and PUBREL.

use crate::effect::{ConnIdHasher, Now};
use crate::message::Message;
use crate::record::{HeldRecord, Record};
use mqtt_proto::{PacketId, Publication};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::time::Duration;

/// Bytes that a denied message counts for.
const DENIED_BYTES: usize = 64;

/// What waits for PUBREL under one packet identifier.
#[derive(Debug)]
pub(crate) enum HeldMessage {
    /// A message and when it came.
    Accepted(Box<Publication>, Duration),
    /// A message that was denied to a 3.1.1 client, which has to finish the exchange all the same.
    Denied,
}

impl HeldMessage {
    pub(crate) fn record(&self, now: Now) -> Record {
        Record::Held(Box::new(match self {
            Self::Accepted(publication, received) => {
                let received = now.wall.before(now.mono.saturating_sub(*received));
                HeldRecord::Accepted((**publication).clone(), received)
            }
            Self::Denied => HeldRecord::Denied,
        }))
    }
}

/// Messages by packet identifier: a second PUBLISH under the same one is the same message ([MQTT-4.3.3-10]).
#[derive(Debug, Default)]
pub(crate) struct Held {
    messages: HashMap<PacketId, HeldMessage, BuildHasherDefault<ConnIdHasher>>,
    bytes: usize,
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn contains(&self, id: PacketId) -> bool {
        self.messages.contains_key(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = PacketId> {
        self.messages.keys().copied()
    }

    pub(crate) fn insert(&mut self, id: PacketId, message: HeldMessage) {
        self.bytes = self.bytes.saturating_add(cost(&message));
        self.messages.insert(id, message);
    }

    pub(crate) fn remove(&mut self, id: PacketId) -> Option<HeldMessage> {
        let message = self.messages.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(cost(&message));
        Some(message)
    }
}

fn cost(message: &HeldMessage) -> usize {
    match message {
        HeldMessage::Accepted(publication, _) => Message::cost(publication),
        HeldMessage::Denied => DENIED_BYTES,
    }
}
