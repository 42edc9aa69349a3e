//! A message that was accepted, with where it came from and by which right.

use crate::broker_time::Moment;
use crate::effect::Now;
use crate::record::Durability;
use bytes::Bytes;
use midge_identity::SpiffeId;
use mqtt_proto::{PlainPublish, Publication, PublishRef, QoS, TopicName, Version, publish_len};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Bytes that one kept message costs besides its own.
const OVERHEAD: usize = 128;

/// What a user property takes in memory beside its bytes: two strings of their own.
const USER_PROPERTY_OVERHEAD: usize = 96;

/// Count of changes of what nobody has decided in this run: before the first.
pub(crate) const UNDECIDED: u64 = 0;

/// A message that was accepted, shared by all its receivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    publication: Publication,
    origin: Arc<Origin>,
    /// Count of changes when the publisher's right was last seen.
    pub(crate) revision: u64,
    pub(crate) received: Moment,
    /// Its number on disk; 0 when it is not stored.
    pub(crate) number: u64,
    /// What it has to survive.
    pub(crate) level: Durability,
    bytes: u32,
    pub(crate) links: Links,
}

/// How many records name a stored message. The message is shared, and its ledger alone counts here: what an atomic
/// operation would cost more than a plain one is not needed.
#[derive(Debug, Default)]
pub(crate) struct Links(AtomicU32);

impl Links {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, count: u32) {
        self.0.store(count, Ordering::Relaxed);
    }
}

// A copy of a message is another one, which no record names.
impl Clone for Links {
    fn clone(&self) -> Self {
        Self::default()
    }
}

// Messages are compared by what they say.
impl PartialEq for Links {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Links {}

/// A message that several have. Nobody watches one without having it, so that there is one count; whoever alone has it
/// may change it without an atomic operation.
pub type SharedMessage = triomphe::Arc<Message>;

// With the count of who has it 120 bytes: glibc keeps what is freed of that size apart, and joins larger ones to their
// neighbours.
const _: () = assert!(size_of::<Message>() <= 112);

/// Who published a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client.
    Client {
        /// Its identity.
        identity: Arc<SpiffeId>,
        /// Its client id.
        client_id: Arc<str>,
        /// The listener it came by, where that is known.
        listener: Option<Arc<str>>,
        /// The rule that allowed the message.
        rule: Arc<str>,
        /// Whether it was the client's will, which is asked for as such.
        will: bool,
    },
    /// The broker itself.
    Broker,
}

impl Message {
    pub(crate) fn new(
        publication: Publication,
        origin: Arc<Origin>,
        revision: u64,
        received: Duration,
    ) -> Self {
        Self {
            bytes: u32::try_from(Self::cost(&publication)).unwrap_or(u32::MAX),
            publication,
            origin,
            revision,
            received: received.into(),
            number: 0,
            level: Durability::None,
            links: Links::default(),
        }
    }

    /// Returns a message of an earlier run. Whether it may be released is to be asked anew.
    pub(crate) fn restored(publication: Publication, origin: Origin, number: u64, level: Durability) -> Self {
        Self { number, level, ..Self::new(publication, Arc::new(origin), UNDECIDED, Duration::ZERO) }
    }

    /// Makes another message of one that is no more, and had no properties. What both have is left as it is, which costs
    /// less than counting who has it.
    pub(crate) fn renew(
        &mut self,
        (topic, qos, payload): (&TopicName, QoS, Bytes),
        origin: &Arc<Origin>,
        revision: u64,
        received: Duration,
    ) {
        let publication = &mut self.publication;
        if publication.topic != *topic {
            publication.topic = topic.clone();
        }
        (publication.qos, publication.payload) = (qos, payload);
        self.bytes = u32::try_from(Self::cost(publication)).unwrap_or(u32::MAX);
        (self.number, self.level, self.received) = (0, Durability::None, received.into());
        self.links = Links::default();
        self.allow(origin, revision);
    }

    /// Takes the payload of a message that is no more.
    pub(crate) fn take_payload(&mut self) -> Bytes {
        std::mem::take(&mut self.publication.payload)
    }

    /// Notes by which right it is released, where that was decided anew.
    pub(crate) fn allow(&mut self, origin: &Arc<Origin>, revision: u64) {
        if !Arc::ptr_eq(&self.origin, origin) {
            self.origin = Arc::clone(origin);
        }
        self.revision = revision;
    }

    /// The message itself; its RETAIN flag is the publisher's.
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Who published it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn qos(&self) -> QoS {
        self.publication.qos
    }

    pub(crate) fn is_from(&self, id: &SpiffeId) -> bool {
        matches!(&*self.origin, Origin::Client { identity, .. } if **identity == *id)
    }

    pub(crate) fn is_from_client(&self, id: &SpiffeId, client: &str) -> bool {
        self.is_from(id)
            && matches!(&*self.origin, Origin::Client { client_id, .. } if **client_id == *client)
    }

    /// When it expires on the monotonic clock, whose zero is the earliest that there is.
    pub(crate) fn expires(&self) -> Option<Duration> {
        self.expiry_secs().map(|secs| self.received.after(Duration::from_secs(secs.into())))
    }

    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.expires().is_some_and(|at| at <= now.mono)
    }

    /// Message Expiry Interval to send: the publisher's less the whole seconds it waited here ([MQTT-3.3.2-6]).
    pub(crate) fn expiry_left_secs(&self, now: Now) -> Option<u32> {
        let waited = u32::try_from(self.received.until(now.mono).as_secs()).unwrap_or(u32::MAX);
        self.expiry_secs().map(|total| total.saturating_sub(waited))
    }

    fn expiry_secs(&self) -> Option<u32> {
        self.publication.properties.as_ref()?.message_expiry_secs
    }

    /// What it costs while it is kept.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// What a publication will cost when it is kept.
    pub(crate) fn cost(publication: &Publication) -> usize {
        if publication.properties.is_none() {
            return Self::cost_of_plain(&publication.topic, &publication.payload);
        }
        let user_properties =
            publication.properties.as_deref().map_or(0, |properties| properties.user_properties.len());
        let on_the_wire = publish_len(&plain(publication), Version::V5);
        OVERHEAD + on_the_wire + user_properties.saturating_mul(USER_PROPERTY_OVERHEAD)
    }

    /// The same of one without properties.
    #[inline]
    pub(crate) fn cost_of_plain(topic: &TopicName, payload: &[u8]) -> usize {
        let publish = PlainPublish { topic, qos: QoS::AtMostOnce, packet_id: None, payload };
        OVERHEAD + publish.len(Version::V5)
    }

    /// Returns the PUBLISH that it came as, if that said nothing but topic and payload; its packet identifier is not
    /// known any more.
    #[inline]
    pub(crate) fn plain(&self) -> Option<PlainPublish<'_>> {
        let Publication { topic, payload, qos, retain, properties } = &self.publication;
        let is_plain = !retain && properties.is_none();
        is_plain.then_some(PlainPublish { topic, qos: *qos, packet_id: None, payload })
    }
}

/// Returns the PUBLISH of a publication as it came, but at QoS 0.
pub(crate) fn plain(publication: &Publication) -> PublishRef<'_> {
    let properties = publication.properties.as_deref();
    PublishRef {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: publication.retain,
        packet_id: None,
        topic: Some(&publication.topic),
        topic_alias: None,
        subscription_ids: &[],
        message_expiry_secs: properties.and_then(|properties| properties.message_expiry_secs),
        properties,
        payload: &publication.payload,
    }
}
