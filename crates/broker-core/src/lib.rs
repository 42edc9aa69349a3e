//! Sessions, subscriptions, retained messages and wills of one MQTT broker, as a pure core.
//!
//! Owns every decision about who is connected, what is stored and who receives what. Leaves
//! sockets, TLS, disk and time to the shell, which calls the `handle_*` functions of [`Broker`],
//! executes each [`Effect`] in order and calls [`Broker::handle_timeout`] when
//! [`Broker::poll_timeout`] says so.

mod ack;
mod alias;
mod audit;
mod auth;
mod authority;
mod broker;
mod broker_time;
mod by_id;
mod clockwork;
mod connect;
mod connection;
mod decided;
mod effect;
mod gate;
mod held;
mod inflight;
mod leave;
mod ledger;
mod lent;
mod limits;
mod message;
mod metrics;
mod output;
mod passing;
mod portions;
mod publish;
mod put_off;
mod queue;
mod rates;
mod record;
mod release;
mod replay;
mod restore;
mod retained;
mod review;
mod roots;
mod route;
mod session;
mod shared;
mod slab;
mod snapshot;
mod spare;
mod standing;
mod subscribe;
mod subscription;
mod sys;
mod tally;
mod timers;
mod total;
mod trie;
mod will;
mod withheld;
mod witness;
mod word_hasher;

pub use audit::{AuditEvent, AuditKind, Stage};
pub use auth::{AuthOutcome, AuthRequest};
pub use authority::{Listener, Newcomer, PolicyChange};
pub use broker::Broker;
pub use effect::{CloseCause, CloseReason, ConnId, Delivery, Effect, Now, Revocation};
pub use ledger::StoreTrouble;
pub use limits::{Config, DeniedPublish};
pub use message::{Message, Origin, SharedMessage};
pub use metrics::{Denials, Dropped, Metrics};
pub use passing::{Onward, Outboxes, Passing};
pub use record::{
    Change, Durability, FORMAT, HeldRecord, OutgoingRecord, OutgoingState, OwedRecord, QueuedRecord, Record,
    RecordError, RecordKey, RecordKind, SessionRecord, StoreBatch, StoredMessage, SubscriptionRecord,
    WillRecord,
};
pub use restore::Restored;
pub use snapshot::{SessionSnapshot, SessionState};
pub use sys::{SysFacts, SysTopics};
pub use tally::RuleTally;
pub use witness::{Asker, Told, Witness};
pub use word_hasher::WordHasher;
