//! What changes of the identity server, and certificates, are in the log.

use super::Trail;
use issuer_core::{FederatedBundle, FederationChange, JoinToken, Node, NodeSvid};
use midge_audit::{AuditLog, each_line, files};
use midge_identity::{SpiffeId, UnixMillis};
use midge_issuer::{Cause, Changed, Issued, Mutation, Witness as _};
use midge_runtime::{Actor, Clock};
use serde_json::{Value, json};
use std::sync::Arc;

const NODE: &str = "spiffe://plant.example/edge/box-1";
/// What nobody may read in the log, as it stands there whole.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

fn actor() -> Actor {
    Actor { uid: 0, pid: Some(9), method: "/spire.api.server.agent.v1.Agent/BanAgent".into() }
}

/// Does this with a trail, and returns the records without what the chain adds.
fn recorded(act: impl FnOnce(&Trail)) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = AuditLog::open(&path).unwrap();
    act(&Trail::new(log, Clock::manual(UnixMillis(1_000))));
    drop(writer);
    let mut records = Vec::new();
    each_line(&files(&path).unwrap(), |line| {
        let mut record: Value = serde_json::from_slice(line).unwrap();
        let fields = record.as_object_mut().unwrap();
        for key in ["seq", "prev", "at"] {
            fields.remove(key).unwrap();
        }
        if !["log-created", "checkpoint"].contains(&fields["event"].as_str().unwrap()) {
            records.push(record);
        }
    })
    .unwrap();
    records
}

fn node(banned: bool) -> Mutation {
    let next = NodeSvid {
        serial: "0b".into(),
        spki_sha256: String::new(),
        issued: UnixMillis(1),
        not_after: UnixMillis(2),
    };
    Mutation::Node(Arc::new(Node {
        id: id(NODE),
        attestation_type: "join_token".into(),
        token_sha256: TOKEN.into(),
        spki_sha256: String::new(),
        joined_at: UnixMillis(1),
        svid_serial: "0a".into(),
        svid_spki_sha256: String::new(),
        svid_not_after: UnixMillis(2),
        svid_issued: UnixMillis(1),
        svid_next: Some(next),
        ca_not_after: UnixMillis(3),
        banned,
    }))
}

fn changed(mutations: &[Mutation], by: Option<&Actor>) -> Vec<Value> {
    recorded(|trail| {
        trail.changed(&Changed { mutations, journal_before: None, bundle_before: None, actor: by })
    })
}

#[test]
fn tokens_and_nodes_are_told_and_no_token_is() {
    let by = json!({ "uid": 0, "pid": 9, "method": "/spire.api.server.agent.v1.Agent/BanAgent" });
    let made = JoinToken {
        token_sha256: TOKEN.into(),
        expires_at: UnixMillis(7),
        agent_id: Some(id(NODE)),
        created_at: UnixMillis(1),
    };
    let gone = || Mutation::TokenGone(TOKEN.into());
    let token = "0123456789abcdef";
    let of_node = |event: &str| json!({ "event": event, "identity": NODE, "token": token, "serial": "0a", "next-serial": "0b" });
    let written = changed(&[Mutation::TokenMade(made)], None);
    assert_eq!(written, [json!({ "event": "token-made", "token": token, "identity": NODE, "expires": 7 })]);
    let written = changed(&[gone(), node(false)], None);
    assert_eq!(written, [json!({ "event": "token-gone", "token": token }), of_node("node-joined")]);
    assert_eq!(changed(&[node(false)], None), [of_node("node-updated")]);
    let mut banned = of_node("node-banned");
    banned["by"] = by.clone();
    assert_eq!(changed(&[node(true)], Some(&actor())), [banned]);
    let deleted = json!({ "event": "node-deleted", "identity": NODE, "by": by });
    assert_eq!(changed(&[Mutation::NodeGone(id(NODE))], Some(&actor())), [deleted]);
}

#[test]
fn certificates_are_told_by_what_they_are_for() {
    let app = format!("{NODE}/app/a");
    let issue = |trail: &Trail, id: &SpiffeId, serial: &str, cause: &Cause, actor: Option<Actor>| {
        trail.issued(&Issued { id, serial, expires: UnixMillis(7), cause, actor });
    };
    let written = recorded(|trail| {
        let (app, entry) = (id(&app), Cause::Entry("e".into()));
        issue(trail, &app, "01", &entry, None);
        issue(trail, &app, "02", &entry, None);
        issue(trail, &app, "03", &Cause::Minted, Some(actor()));
        issue(trail, &id(NODE), "04", &Cause::Node, None);
        issue(trail, &id(NODE), "05", &Cause::Intermediate, None);
    });
    let record = |event: &str, identity: &str, serial: &str, what: &str| json!({ "event": event, "identity": identity, "serial": serial, "expires": 7, "for": what });
    let with = |mut record: Value, more: Value| {
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    let by = json!({ "by": { "uid": 0, "pid": 9, "method": "/spire.api.server.agent.v1.Agent/BanAgent" } });
    let expected = [
        with(record("svid-issued", &app, "01", "entry"), json!({ "entry": "e" })),
        with(record("svid-renewed", &app, "02", "entry"), json!({ "entry": "e", "previous-serial": "01" })),
        with(record("svid-issued", &app, "03", "operator"), by),
        record("svid-issued", NODE, "04", "node"),
        record("ca-issued", NODE, "05", "node"),
    ];
    assert_eq!(written, expected);
}

#[test]
fn bundles_of_other_trust_domains_are_told() {
    let bundle: FederatedBundle = serde_json::from_value(json!({
        "trust_domain": "other.org", "roots": [{ "certificate": "01", "not_after": 1 }], "sequence": 3,
    }))
    .unwrap();
    let set = FederationChange { before: None, after: Some(Arc::new(bundle)) };
    let gone = FederationChange { before: set.after.clone(), after: None };
    let written = changed(&[Mutation::Federated(set), Mutation::Federated(gone)], None);
    let roots = [midge_audit::fingerprint(&[1])];
    let expected = [
        json!({ "event": "federated-bundle-set", "trust-domain": "other.org", "sequence": 3, "roots": roots }),
        json!({ "event": "federated-bundle-deleted", "trust-domain": "other.org" }),
    ];
    assert_eq!(written, expected);
}
