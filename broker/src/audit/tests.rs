//! What every event of the core is in the log.

use super::{event_record, name, names_remote};
use broker_core::{AuditEvent, AuditKind, CloseCause, CloseReason, ConnId, RuleTally, Stage};
use midge_identity::{Proof, SpiffeId, UnixMillis};
use midge_policy::{Denial, Policy};
use mqtt_proto::{QoS, ReasonCode, TopicName, Version};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::sync::Arc;

const ID: &str = "spiffe://plant/app/a";
const REMOTE: &str = "192.0.2.1:7";

fn denial() -> Denial {
    let rule = "[[rule]]\nname = \"hide\"\nid = \"spiffe://plant/app/a\"\nsubscribe = [\"a/#\"]\ndeny-receive = [\"a/secret\"]\n";
    let policy = Policy::from_toml_str(rule, "site.toml").unwrap();
    let rights = policy.rights(&SpiffeId::new(ID).unwrap());
    rights.receive(&TopicName::new("a/secret").unwrap()).unwrap_err()
}

fn local() -> Proof {
    Proof::Local { pid: 11, uid: 12, entry_id: "entry".into(), demands: [0; 32] }
}

const WHY: &str = "rule `hide` (site.toml:1) denies receive `a/secret`";
const RULE: &str = "`hide` (site.toml:1)";

/// An event of every kind, with what is to be in its record besides the identity.
fn events() -> Vec<(AuditKind, Value)> {
    [of_connections(), of_subscriptions(), of_messages()].concat()
}

fn of_connections() -> Vec<(AuditKind, Value)> {
    let proof = json!({ "kind": "local", "pid": 11, "uid": 12, "entry": "entry" });
    let gone = CloseReason::Lost(CloseCause::Eof);
    vec![
        (
            AuditKind::Connected {
                listener: "tls".into(),
                version: Version::V311,
                proof: local(),
                session_present: true,
            },
            json!({ "event": "connected", "listener": "tls", "remote": REMOTE, "protocol": "3.1.1", "proof": proof,
                "session-present": true }),
        ),
        (
            AuditKind::ConnectRefused {
                listener: "tcp".into(),
                reason: ReasonCode::NotAuthorized,
                denial: Some(denial()),
            },
            json!({ "event": "connect-refused", "listener": "tcp", "remote": REMOTE, "code": 0x87, "reason": WHY,
                "rule": RULE }),
        ),
        (
            AuditKind::Disconnected {
                listener: Some("unix".into()),
                proof: local(),
                cause: gone,
                messages_in: 3,
                messages_out: 4,
                published: RuleTally::default(),
                denied: RuleTally::default(),
            },
            json!({ "event": "disconnected", "listener": "unix", "remote": REMOTE, "proof": proof,
                "reason": "network connection lost", "messages-in": 3, "messages-out": 4 }),
        ),
        (AuditKind::SessionEnded, json!({ "event": "session-ended" })),
        (
            AuditKind::Reauthenticated { proof: local(), expires: Some(UnixMillis(9)) },
            json!({ "event": "reauthenticated", "proof": proof, "expires": 9 }),
        ),
    ]
}

fn of_subscriptions() -> Vec<(AuditKind, Value)> {
    let filter: Arc<str> = "a/#".into();
    vec![
        (
            AuditKind::Subscribed {
                filter: Arc::clone(&filter),
                qos: QoS::ExactlyOnce,
                rule: "hide".into(),
                parts: Some(["a/x".into()].into()),
            },
            json!({ "event": "subscribed", "filter": "a/#", "granted": ["a/x"], "qos": 2, "rule": "hide" }),
        ),
        (
            AuditKind::SubscribeDenied { filter: Arc::clone(&filter), denial: denial() },
            json!({ "event": "subscribe-denied", "filter": "a/#", "reason": WHY, "rule": RULE }),
        ),
        (
            AuditKind::SubscriptionRevoked { filter: Arc::clone(&filter), denial: denial() },
            json!({ "event": "subscription-revoked", "filter": "a/#", "reason": WHY, "rule": RULE }),
        ),
        (AuditKind::Unsubscribed { filter }, json!({ "event": "unsubscribed", "filter": "a/#" })),
    ]
}

fn of_messages() -> Vec<(AuditKind, Value)> {
    let topic: Arc<str> = "a/secret".into();
    vec![
        (
            AuditKind::PublishDenied { topic: Arc::clone(&topic), stage: Stage::Arrival, denial: denial() },
            json!({ "event": "publish-denied", "topic": "a/secret", "stage": "arrival", "reason": WHY, "rule": RULE }),
        ),
        (
            AuditKind::WillDenied { topic: Arc::clone(&topic), stage: Stage::Release, denial: denial() },
            json!({ "event": "will-denied", "topic": "a/secret", "stage": "release", "reason": WHY, "rule": RULE }),
        ),
        (
            AuditKind::ReceiveDenied { topic: Arc::clone(&topic), denial: denial() },
            json!({ "event": "receive-denied", "topic": "a/secret", "reason": WHY, "rule": RULE }),
        ),
        (
            AuditKind::Withheld {
                topic: Arc::clone(&topic),
                rule: denial().rule,
                count: 95,
                since: UnixMillis(4),
            },
            json!({ "event": "repeated", "of": "receive-denied", "class": "a/secret", "rule": RULE, "count": 95,
                "since": 4, "until": 5 }),
        ),
        (AuditKind::RetainedPurged { topic }, json!({ "event": "retained-purged", "topic": "a/secret" })),
    ]
}

#[test]
fn every_kind_of_event_is_a_record_of_its_own_form() {
    let mut kinds = HashSet::new();
    for (kind, mut expected) in events() {
        kinds.insert(std::mem::discriminant(&kind));
        let remote = names_remote(&kind).then_some(REMOTE);
        let identity = Arc::new(SpiffeId::new(ID).unwrap());
        let event =
            AuditEvent { at: UnixMillis(5), identity, client_id: "c".into(), conn: Some(ConnId(7)), kind };
        let record = event_record(&event, remote);
        assert_eq!((record.at, record.event), (event.at, name(&event.kind)));
        let mut written: Map<String, Value> =
            record.details().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        written.insert("event".to_owned(), record.event.into());
        for (key, value) in [("identity", json!(ID)), ("client-id", json!("c")), ("connection", json!(7))] {
            expected[key] = value;
        }
        assert_eq!(Value::Object(written), expected);
    }
    // Whoever adds a kind adds it above.
    assert_eq!(kinds.len(), 14);
}

#[test]
fn who_is_no_single_client_has_neither_client_id_nor_connection() {
    let identity = Arc::new(SpiffeId::new(ID).unwrap());
    let kind = AuditKind::RetainedPurged { topic: "a".into() };
    let event = AuditEvent { at: UnixMillis(5), identity, client_id: "".into(), conn: None, kind };
    let keys: Vec<_> = event_record(&event, None).details().map(|(key, _)| key).collect();
    assert_eq!(keys, ["identity", "topic"]);
}
