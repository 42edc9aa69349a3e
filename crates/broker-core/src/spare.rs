//! Messages that nobody has any more, whose memory the next ones take: to allocate and free a message and its payload
//! would take as long as all else that is done for it.

use crate::message::{Message, Origin, SharedMessage};
use bytes::Bytes;
use mqtt_proto::{PlainPublish, Publication};
use std::sync::Arc;
use std::time::Duration;

/// Messages that are kept so: about as many as a few fast clients have under way at once.
const MESSAGES_MAX: usize = 1024;
/// Most that one of them costs, in bytes.
const BYTES_MAX: usize = 1024;

/// Such messages.
#[derive(Debug, Default)]
pub(crate) struct Spare(Vec<SharedMessage>);

impl Spare {
    /// Takes a message that one has let go of.
    pub(crate) fn put(&mut self, mut message: SharedMessage) {
        let is_small = message.plain().is_some() && message.bytes() <= BYTES_MAX;
        if is_small && self.0.len() < MESSAGES_MAX && SharedMessage::get_mut(&mut message).is_some() {
            self.0.push(message);
        }
    }

    /// Makes a message of a PUBLISH, and has it prepared for whoever gets it.
    pub(crate) fn make(
        &mut self,
        publish: &PlainPublish<'_>,
        origin: &Arc<Origin>,
        (revision, received): (u64, Duration),
        prepare: impl FnOnce(&mut Message),
    ) -> SharedMessage {
        if let Some(mut spare) = self.0.pop()
            && let Some(message) = SharedMessage::get_mut(&mut spare)
        {
            let payload = refilled(message.take_payload(), publish.payload);
            message.renew((publish.topic, publish.qos, payload), origin, revision, received);
            prepare(message);
            return spare;
        }
        let (topic, payload) = (publish.topic.clone(), Bytes::copy_from_slice(publish.payload));
        let publication = Publication { topic, payload, qos: publish.qos, retain: false, properties: None };
        let mut message = Message::new(publication, Arc::clone(origin), revision, received);
        prepare(&mut message);
        SharedMessage::new(message)
    }
}

/// Returns these bytes, in memory that has been used before if that is as long.
fn refilled(old: Bytes, bytes: &[u8]) -> Bytes {
    if old.len() == bytes.len()
        && let Ok(mut place) = old.try_into_mut()
    {
        place.copy_from_slice(bytes);
        return place.freeze();
    }
    Bytes::copy_from_slice(bytes)
}
