//! Every limit of the core, its default, and what happens beyond it.
//!
//! Overflow rules:
//! - **Queue of a session** (`queue_messages_max`, `queue_bytes_max`): as the rule of its subscription says, else
//!   `queue_overflow`: the newest message is dropped, or the oldest ones are; they are counted, and what waits keeps
//!   its order. Where the rule of the publisher says `refuse` and not all copies fit, or that of the subscription
//!   `refuse-publishers`, the message reaches nobody: 0x97 (5.0), or the connection ends without an acknowledgement
//!   (3.1.1). What was taken at QoS 2 cannot be refused any more when PUBREL comes: then the newest is dropped. QoS 0 is
//!   never refused.
//! - **All queues together** (`queues_bytes_max`): as a full queue, for each session whose queue would grow; where the
//!   oldest are dropped, they are the session's own. What an earlier run has acknowledged is kept all the same.
//! - **Unsent bytes of a connection**: above `unsent_bytes_soft` QoS 0 messages are dropped and
//!   counted, QoS 1 and 2 wait in the queue. Above `unsent_bytes_hard` (only answers to the client's
//!   own packets still get there, if a message of `packet_size_max` has room above the soft limit, for which the shell
//!   sees) the connection is cut with 0x97; its session stays.
//! - **Rates** of rules (messages and bytes a second): what was read is taken, and the connection is not
//!   read from until its bucket is no longer overdrawn. Beyond `rate_debt_max` it is cut: 0x96 for messages,
//!   0x97 for bytes.
//! - **Messages in flight** to a client (`inflight_max`, `inflight_bytes_max`): the next ones wait in its queue.
//! - **Incomplete exchanges of all sessions** (`exchanges_bytes_max`): as for one that has too much in flight or held,
//!   unless it has very little, so that those who acknowledge nothing stop nobody else.
//! - **Held QoS 2 messages** (between PUBLISH and PUBREL): more than `receive_max` of a 5.0 client
//!   is its fault (0x93); beyond `held_bytes_max` PUBREC carries 0x97, and 3.1.1 is disconnected.
//! - **Retained messages**, of all and of one identity, so that none fills the room of all: a new one beyond a limit is
//!   refused as a whole with 0x97 (5.0, QoS 1 and 2). Where that cannot be told (QoS 0, 3.1.1, released from QoS 2) it
//!   is delivered, and not retained, nor is what was retained of its topic any more.
//! - **Disk** (see [`crate::StoreTrouble`]): while it fails, a message that would have to be stored is refused with 0x97
//!   (5.0), or its acknowledgement waits (3.1.1); what was acknowledged stays. While it only has much to catch up with,
//!   publishers of such messages are not read from, each for `store_wait_max` at most before its next message is taken.
//! - **Retained messages for new subscriptions**: what is looked at before others have their turn is limited (256 topics),
//!   for all sessions together. Whoever needs more waits in line, for turns of as many, and loses nothing. Of a topic of
//!   which something newer comes meanwhile it is sent before that (128 topics of a subscription).
//! - **Filters of one SUBSCRIBE or UNSUBSCRIBE**, and subscriptions to be looked at again after a change of rules: what is
//!   decided at once is limited to about a quarter of a millisecond, by the number of filters and of the patterns for the identity
//!   (`portions.rs`); the rest follows when others have had their turn. The client is left unread until it has its answer.
//! - **Wills** of all sessions and of one identity's (`wills_bytes_max`, `wills_bytes_per_identity_max`): the CONNECT is
//!   refused with 0x97 (3.1.1: 3). Those of an earlier run are kept.
//! - **Remembered routes** (`routes_bytes_max`): who receives a topic is worked out for each message instead of once,
//!   unless a publisher's few take very little.
//! - **Authentication exchanges** count as connections; who does not end its own within `auth_timeout` is
//!   refused (0x87).
//! - **Topic aliases** (`topic_alias_bytes_max`): a client that sets more is disconnected with 0x97; towards it no
//!   more are set, and the topic is sent as it is.
//! - **Subscriptions**, of a session (`subscriptions_per_session_max`, `subscription_bytes_max`), of one identity and of all
//!   (`subscriptions_bytes_per_identity_max`, `subscriptions_bytes_max`), **sessions, connections**: the request is refused
//!   with 0x97, a filter with too many levels with 0x8F (3.1.1: SUBACK 0x80, CONNACK 3). What replaces a subscription needs
//!   no room, and those of an earlier run are kept.
//!
//! A `quota` of a rule lowers what one identity may have of sessions, subscriptions, retained messages and queues. Beyond
//! it the same happens, and what is refused is recorded as denied by that rule.

use crate::record::Durability;
use midge_policy::QueueOverflow;
use mqtt_proto::TopicName;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// What to do with a denied PUBLISH of a 3.1.1 client, which cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeniedPublish {
    /// Acknowledge and drop it ([MQTT-3.3.5-2]).
    #[default]
    Drop,
    /// Close the connection, without its will.
    Disconnect,
}

/// Limits and choices of one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Seed of assigned client ids: random, so that they cannot be guessed.
    pub seed: [u8; 16],
    /// What sessions, their messages, retained messages and wills survive; a rule may ask for more.
    pub durability: Durability,
    /// Connections in total: each costs a socket and buffers.
    pub connections_max: usize,
    /// Sessions in total, parked ones included.
    pub sessions_max: usize,
    /// Sessions of one identity: client ids are the client's choice, so one identity could make them
    /// without end.
    pub sessions_per_identity_max: usize,
    /// Client id length in bytes.
    pub client_id_bytes_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: usize,
    /// Bytes in memory that the subscriptions of one session take, as if their filters shared no level with others: a
    /// level of one letter takes a hundred times that.
    pub subscription_bytes_max: usize,
    /// Bytes that those of one identity's sessions take.
    pub subscriptions_bytes_per_identity_max: usize,
    /// Bytes that those of all sessions take.
    pub subscriptions_bytes_max: usize,
    /// Levels of a topic or filter: bounds the depth of the subscription tree.
    pub topic_levels_max: usize,
    /// Messages from one client without complete acknowledgement (Receive Maximum of the CONNACK).
    pub receive_max: NonZeroU16,
    /// Messages to one client without complete acknowledgement; the client's Receive Maximum may lower it.
    pub inflight_max: NonZeroU16,
    /// Bytes of messages to one client without complete acknowledgement above which it gets no new ones. What is not kept
    /// does not count: a message of QoS 2 that the client has received, and one that was sent to a session which ends
    /// with its connection.
    pub inflight_bytes_max: usize,
    /// Bytes of QoS 2 messages of one client that wait for PUBREL.
    pub held_bytes_max: usize,
    /// Bytes of messages in incomplete exchanges of all sessions together, both ways, as far as they are kept; one that
    /// is sent to several counts for each.
    pub exchanges_bytes_max: usize,
    /// Packet size in bytes accepted from clients (Maximum Packet Size of the CONNACK); the codec enforces it.
    pub packet_size_max: u32,
    /// Topic aliases a client may set.
    pub topic_alias_max: u16,
    /// Topic aliases set towards one client; the client's maximum may lower it.
    pub topic_alias_out_max: u16,
    /// Bytes of the topics behind the aliases of one connection, each way.
    pub topic_alias_bytes_max: usize,
    /// Messages waiting for one session.
    pub queue_messages_max: usize,
    /// Bytes of messages waiting for one session.
    pub queue_bytes_max: usize,
    /// Bytes of messages waiting for all sessions together; one that waits for several counts for each.
    pub queues_bytes_max: usize,
    /// Bytes of what is remembered of routes, for all publishers together: each may publish to many topics with
    /// many receivers.
    pub routes_bytes_max: usize,
    /// Bytes of the wills of all sessions together, of clients that are connected and of those that left.
    pub wills_bytes_max: usize,
    /// Bytes of the wills of one identity's sessions.
    pub wills_bytes_per_identity_max: usize,
    /// What becomes of a message that finds a queue full, where no rule says so.
    pub queue_overflow: QueueOverflow,
    /// Unsent bytes of one connection above which it receives no new messages.
    pub unsent_bytes_soft: usize,
    /// Unsent bytes of one connection above which it is cut.
    pub unsent_bytes_hard: usize,
    /// Retained messages in total.
    pub retained_messages_max: usize,
    /// Bytes of retained messages in total.
    pub retained_bytes_max: usize,
    /// Retained messages that one identity has published.
    pub retained_messages_per_identity_max: usize,
    /// Bytes of these.
    pub retained_bytes_per_identity_max: usize,
    /// Longest session expiry; longer requests are lowered and the CONNACK says so.
    pub session_expiry_max: Duration,
    /// Methods of enhanced authentication that the shell's authenticator knows; others are refused (0x8C).
    pub auth_methods: Vec<Arc<str>>,
    /// Time from CONNECT to the end of its authentication exchange.
    pub auth_timeout: Duration,
    /// Session expiry of 3.1.1 clients without clean session, who cannot ask for one; no more than `session_expiry_max`
    /// in any case.
    pub session_expiry_v311: Duration,
    /// Longest keep alive in seconds (5.0: Server Keep Alive); `None` leaves it to the client.
    pub keep_alive_max_secs: Option<NonZeroU16>,
    /// What a denied PUBLISH of a 3.1.1 client leads to.
    pub denied_publish_v311: DeniedPublish,
    /// How long a client may have to be left unread for having published faster than its rule allows; one
    /// that is further ahead is cut.
    pub rate_debt_max: Duration,
    /// How long a client may be left unread because its next message would have to be stored and the disk has much to
    /// catch up with: longer than a slow disk needs for all that may wait, shorter than clients have patience.
    pub store_wait_max: Duration,
    /// First levels of the Response Information: `<prefix>/<path of the SPIFFE ID>` is told to clients that
    /// ask for it and may subscribe to all below it; `None` tells nobody.
    pub response_prefix: Option<TopicName>,
    /// Whether retained messages whose publisher lost the right to them are removed: by a pass over all after each change
    /// of policy, or when a subscription comes upon one before. Otherwise they are withheld while the right is gone.
    pub purge_lost: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: [0; 16],
            durability: Durability::None,
            connections_max: 20_000,
            sessions_max: 50_000,
            sessions_per_identity_max: 1_000,
            client_id_bytes_max: 256,
            subscriptions_per_session_max: 1_000,
            subscription_bytes_max: 4 * 1024 * 1024,
            subscriptions_bytes_per_identity_max: 64 * 1024 * 1024,
            subscriptions_bytes_max: 256 * 1024 * 1024,
            topic_levels_max: 64,
            receive_max: nonzero(256),
            inflight_max: nonzero(1_024),
            inflight_bytes_max: 8 * 1024 * 1024,
            held_bytes_max: 4 * 1024 * 1024,
            exchanges_bytes_max: 512 * 1024 * 1024,
            packet_size_max: 1024 * 1024,
            topic_alias_max: 32,
            topic_alias_out_max: 32,
            topic_alias_bytes_max: 128 * 1024,
            queue_messages_max: 1_000,
            queue_bytes_max: 8 * 1024 * 1024,
            queues_bytes_max: 256 * 1024 * 1024,
            routes_bytes_max: 128 * 1024 * 1024,
            wills_bytes_max: 64 * 1024 * 1024,
            wills_bytes_per_identity_max: 32 * 1024 * 1024,
            queue_overflow: QueueOverflow::DropNewest,
            unsent_bytes_soft: 1024 * 1024,
            unsent_bytes_hard: 4 * 1024 * 1024,
            retained_messages_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            retained_messages_per_identity_max: 50_000,
            retained_bytes_per_identity_max: 32 * 1024 * 1024,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            session_expiry_v311: Duration::from_secs(u32::MAX as u64),
            auth_methods: Vec::new(),
            auth_timeout: Duration::from_secs(10),
            keep_alive_max_secs: None,
            denied_publish_v311: DeniedPublish::Drop,
            rate_debt_max: Duration::from_secs(30),
            store_wait_max: Duration::from_secs(30),
            response_prefix: TopicName::new("response").ok(),
            purge_lost: false,
        }
    }
}

const fn nonzero(value: u16) -> NonZeroU16 {
    match NonZeroU16::new(value) {
        Some(value) => value,
        None => NonZeroU16::MIN,
    }
}
