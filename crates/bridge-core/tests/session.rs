//! One session in exact steps: keepalive, death, probes, stock peers, refusals, limits.
#![expect(clippy::unwrap_used, reason = "tests")]

use bridge_core::{
    AuditBatch, AuditPlace, Change, CloudConfig, CloudEffect, CloudSync, Cursor, EdgeConfig, EdgeEffect,
    EdgeSync, Extent, Limits, Message, MessageIds, NodeLog, Now, Operation, PeerFault, Route, SignedChain,
    SigningKind, SigningRequest, Spool, SpoolLimits, SpoolWrite, UnixMillis, UpwardItem, UpwardKind,
};
use serde_json::{Value, json};
use std::time::Duration;

fn at(secs: u64) -> Now {
    Now { mono: Duration::from_secs(secs), wall: UnixMillis::from_secs(1_700_000_000 + secs) }
}

fn edge(cursor: Option<Cursor>) -> EdgeSync {
    let spool = Spool::new("spool", SpoolLimits::default());
    EdgeSync::new(EdgeConfig { limits: Limits::default(), seed: 1 }, cursor, spool)
}

fn cloud(log: NodeLog) -> CloudSync {
    CloudSync::new(CloudConfig { limits: Limits::default(), seed: 2 }, log, at(0))
}

fn sent_by_edge(edge: &mut EdgeSync) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(effect) = edge.poll_effect() {
        if let EdgeEffect::Send(message) = effect {
            sent.push(*message);
        }
    }
    sent
}

fn effects(edge: &mut EdgeSync) -> Vec<EdgeEffect> {
    std::iter::from_fn(|| edge.poll_effect()).collect()
}

fn report(edge: &mut EdgeSync, item: UpwardItem, now: Now) {
    edge.handle_upward(vec![item]);
    edge.handle_stored(true, now);
}

fn sent_by_cloud(cloud: &mut CloudSync) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(effect) = cloud.poll_effect() {
        if let CloudEffect::Send(message) = effect {
            sent.push(*message);
        }
    }
    sent
}

fn message(operation: &str, resource: &str, content: Value) -> Message {
    Message::new(&mut MessageIds::new(77), at(0), Route::new("x", "resource", operation, resource), content)
}

fn operations(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.route.operation.as_str()).collect()
}

fn answer(to: &Message, content: Value) -> Message {
    to.response(&mut MessageIds::new(99), at(0), content)
}

fn hello(sent: &[Message]) -> Message {
    sent.iter().find(|message| message.route.resource == "sync/cursor").unwrap().clone()
}

/// An edge that has applied revision 5 of log `l` and is connected.
fn connected_edge() -> EdgeSync {
    let mut edge = edge(Some(Cursor { log: "l".into(), revision: 5 }));
    edge.handle_connected(at(0));
    let hello = hello(&sent_by_edge(&mut edge));
    assert_eq!(hello.content.get("revision"), Some(&json!(5)));
    edge.handle_message(&answer(&hello, json!({"log": "l", "mode": "delta", "revision": 9})), at(0));
    assert!(edge.is_greeted());
    // The audit log is being read, as long as a test does not say that it was.
    let asked = audit_message(&sent_by_edge(&mut edge));
    edge.handle_message(&answer(&asked, Value::Null), at(0));
    assert_eq!(effects(&mut edge), [EdgeEffect::ReadAudit { after: None }]);
    edge
}

fn audit_message(sent: &[Message]) -> Message {
    sent.iter().find(|message| message.route.resource == "identity/audit").unwrap().clone()
}

fn change_message(revision: u64, after: u64) -> Message {
    let change = Change {
        revision,
        resource: format!("identity/entry/{revision}"),
        operation: Operation::Insert,
        content: json!({}),
    };
    bridge_core::message_of(&change, Some(after), &mut MessageIds::new(revision), at(0))
}

#[test]
fn the_edge_sends_a_keepalive_at_once_and_every_15_seconds() {
    let mut edge = edge(None);
    edge.handle_connected(at(0));
    assert_eq!(operations(&sent_by_edge(&mut edge)), ["keepalive", "query"]);
    let mut keepalives = Vec::new();
    for second in 1..=44 {
        // Something is heard, so that only the keepalive is due.
        edge.handle_message(&message("response", "x", Value::Null), at(second));
        edge.handle_timeout(at(second));
        if operations(&sent_by_edge(&mut edge)).contains(&"keepalive") {
            keepalives.push(second);
        }
    }
    assert_eq!(keepalives, [15, 30]);
}

#[test]
fn a_silent_cloud_is_asked_and_then_left() {
    let mut edge = connected_edge();
    edge.handle_timeout(at(15));
    assert_eq!(operations(&sent_by_edge(&mut edge)), ["keepalive", "ping"]);
    edge.handle_timeout(at(44));
    effects(&mut edge);
    assert_eq!(edge.poll_timeout(), Some(Duration::from_secs(45)));
    edge.handle_timeout(at(45));
    let left = effects(&mut edge);
    assert_eq!(left, [EdgeEffect::Disconnect(PeerFault::CloudSilent { secs: 45 })]);
    assert!(!edge.is_greeted() && edge.last_error().unwrap().contains("45 s"));
    assert_eq!(edge.poll_timeout(), None);
}

#[test]
fn the_cloud_ends_a_session_without_keepalive_for_30_seconds() {
    let mut cloud = cloud(NodeLog::new("l"));
    let keepalive = Message::keepalive(&mut MessageIds::new(5), at(20));
    cloud.handle_message(&keepalive, at(20));
    // Other messages do not count.
    cloud.handle_message(&message("ping", "node", Value::Null), at(40));
    cloud.handle_timeout(at(49));
    assert!(!std::iter::from_fn(|| cloud.poll_effect()).any(|e| matches!(e, CloudEffect::Disconnect(_))));
    assert_eq!(cloud.poll_timeout(), Some(Duration::from_secs(50)));
    cloud.handle_timeout(at(50));
    assert_eq!(cloud.poll_effect(), Some(CloudEffect::Disconnect(PeerFault::NoKeepalive { secs: 30 })));
    assert_eq!(cloud.poll_timeout(), None);
}

#[test]
fn both_ends_answer_probes() {
    for operation in ["ping", "pong", "config"] {
        let probe = message(operation, "node", Value::Null);
        let mut edge = connected_edge();
        effects(&mut edge);
        edge.handle_message(&probe, at(1));
        let mut cloud = cloud(NodeLog::new("l"));
        cloud.handle_message(&probe, at(1));
        for answer in [&sent_by_edge(&mut edge)[0], &sent_by_cloud(&mut cloud)[0]] {
            assert_eq!((answer.route.operation.as_str(), &answer.content), ("response", &json!("ack")));
            assert_eq!(answer.header.parent_id, probe.header.id);
        }
    }
}

#[test]
fn changes_are_applied_in_order_and_acknowledged_only_then() {
    let mut edge = connected_edge();
    effects(&mut edge);
    edge.handle_message(&change_message(8, 7), at(1));
    assert_eq!(effects(&mut edge), [], "there is a gap");
    edge.handle_message(&change_message(7, 5), at(1));
    let applied = effects(&mut edge);
    let [EdgeEffect::Apply { changes, cursor, extent: Extent::Changes }] = applied.as_slice() else {
        panic!("{applied:?}")
    };
    assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(cursor.revision, 8);
    // While they are being applied, a copy is neither applied nor acknowledged.
    edge.handle_message(&change_message(7, 5), at(2));
    assert_eq!(effects(&mut edge), []);
    edge.handle_applied(Ok(()), at(3));
    let acks = sent_by_edge(&mut edge);
    assert_eq!(operations(&acks), ["response", "response"]);
    assert_eq!(acks[0].content, "OK");
    // A copy that comes later is acknowledged again: the first acknowledgement was lost.
    edge.handle_message(&change_message(7, 5), at(4));
    assert_eq!(operations(&sent_by_edge(&mut edge)), ["response"]);
    assert_eq!(edge.cursor().revision, 8);
}

#[test]
fn a_failed_apply_is_refused_and_tried_again() {
    let mut edge = connected_edge();
    effects(&mut edge);
    edge.handle_message(&change_message(6, 5), at(1));
    effects(&mut edge);
    edge.handle_applied(Err("disk full".into()), at(1));
    let sent = sent_by_edge(&mut edge);
    assert_eq!((operations(&sent).as_slice(), &sent[0].content), (&["error"][..], &json!("disk full")));
    assert!(edge.last_error().unwrap().contains("disk full"));
    assert_eq!(edge.cursor().revision, 5);
    edge.handle_timeout(at(5));
    assert!(!effects(&mut edge).iter().any(|e| matches!(e, EdgeEffect::Apply { .. })), "not at once");
    edge.handle_timeout(at(6));
    assert!(effects(&mut edge).iter().any(|e| matches!(e, EdgeEffect::Apply { .. })));
    edge.handle_applied(Ok(()), at(6));
    assert_eq!((edge.cursor().revision, edge.last_error()), (6, None));
}

#[test]
fn a_change_that_is_none_is_refused() {
    let mut edge = connected_edge();
    effects(&mut edge);
    let mut bad = change_message(6, 5);
    bad.content = json!("text");
    edge.handle_message(&bad, at(1));
    let sent = sent_by_edge(&mut edge);
    assert_eq!(operations(&sent), ["error"]);
    assert!(edge.last_error().unwrap().contains("identity/entry/6"));
}

#[test]
fn the_gap_is_bounded() {
    let mut edge = connected_edge();
    effects(&mut edge);
    for revision in 100..10_000 {
        edge.handle_message(&change_message(revision, revision - 1), at(1));
    }
    assert_eq!(effects(&mut edge), []);
    edge.handle_message(&change_message(99, 5), at(1));
    let EdgeEffect::Apply { changes, .. } = &effects(&mut edge)[0] else { panic!() };
    assert_eq!(changes.len(), 1 + Limits::default().window);
}

#[test]
fn a_stock_cloud_is_understood_as_far_as_it_goes() {
    let mut edge = edge(None);
    edge.handle_connected(at(0));
    effects(&mut edge);
    let membership =
        json!({"added_devices": [{"id": "default/led", "name": "led"}], "removed_devices": null});
    edge.handle_message(&message("update", "membership", membership), at(1));
    let applied = effects(&mut edge);
    let EdgeEffect::Apply { changes, cursor, extent: Extent::Changes } = &applied[0] else {
        panic!("{applied:?}")
    };
    assert_eq!((changes[0].resource.as_str(), changes[0].revision), ("device/default/led", 0));
    assert_eq!(*cursor, Cursor::default(), "its changes move no cursor");
    edge.handle_applied(Ok(()), at(1));
    effects(&mut edge);
    // What it wants to be kept and nobody here keeps is refused, not acknowledged.
    let mut configmap = message("update", "default/configmap/c", json!({"metadata": {}}));
    configmap.header.resource_version = "4711".into();
    edge.handle_message(&configmap, at(1));
    assert_eq!(operations(&sent_by_edge(&mut edge)), ["error"]);
}

#[test]
fn a_stock_edge_gets_devices_and_nothing_else() {
    let mut log = NodeLog::new("l");
    log.append("identity/entry/e", Operation::Insert, json!({}));
    log.append("device/default/led", Operation::Insert, json!({"id": "default/led", "name": "led"}));
    let mut cloud = cloud(log);
    cloud.handle_message(&Message::keepalive(&mut MessageIds::new(5), at(0)), at(0));
    cloud.handle_timeout(at(9));
    assert_eq!(sent_by_cloud(&mut cloud), [], "it may still send a cursor");
    cloud.handle_timeout(at(10));
    let sent = sent_by_cloud(&mut cloud);
    assert_eq!(sent.iter().map(|m| m.route.resource.as_str()).collect::<Vec<_>>(), ["membership"]);
    assert!(sent[0].header.resource_version.is_empty() && sent[0].header.after.is_empty());
    assert!(cloud.is_synced());
    // Its twin report has no position and is taken all the same.
    let twin = json!({"event_id": "e", "timestamp": 1, "twin": {"power": {"actual": {"value": "ON"}}}});
    cloud.handle_message(&message("update", "device/default/led/twin/edge_updated", twin), at(11));
    let Some(CloudEffect::Store(ticket, upward)) = cloud.poll_effect() else { panic!() };
    assert_eq!((upward.kind, upward.seq), (UpwardKind::Twin("led".parse().unwrap()), None));
    assert_eq!(cloud.poll_effect(), None, "no answer before it is stored");
    cloud.handle_stored(&ticket, Ok(()), at(12));
    assert_eq!(sent_by_cloud(&mut cloud)[0].content, "OK");
}

#[test]
fn state_comes_up_as_a_string_of_json() {
    let mut edge = connected_edge();
    let led = "led".parse().unwrap();
    let state = json!({"event_id": "e", "timestamp": 1, "device": {"name": "led", "state": "online"}});
    report(&mut edge, UpwardItem::state(&led, &state), at(1));
    let sent = sent_by_edge(&mut edge);
    let report = sent.last().unwrap();
    assert_eq!(report.route, Route::new("twin", "resource", "update", "device/default/led/state/update"));
    assert!(report.content.is_string());
    let mut cloud = cloud(NodeLog::new("l"));
    cloud.handle_message(report, at(1));
    let Some(CloudEffect::Store(_, upward)) = cloud.poll_effect() else { panic!() };
    assert_eq!((upward.kind, upward.seq, upward.spool.as_str()), (UpwardKind::State(led), Some(1), "spool"));
    assert_eq!(upward.content, state);
}

#[test]
fn a_newer_report_replaces_one_on_its_way() {
    let mut edge = connected_edge();
    effects(&mut edge);
    let led = "led".parse().unwrap();
    report(&mut edge, UpwardItem::twin(&led, json!(1)), at(1));
    let old = sent_by_edge(&mut edge).pop().unwrap();
    report(&mut edge, UpwardItem::twin(&led, json!(2)), at(2));
    effects(&mut edge);
    edge.handle_message(&answer(&old, json!("OK")), at(3));
    assert_eq!(edge.spool().len(), 1, "the acknowledgement was for the older one");
    edge.handle_timeout(at(7));
    let again = sent_by_edge(&mut edge);
    let resent: Vec<&Value> =
        again.iter().filter(|m| m.route.source == "twin").map(|message| &message.content).collect();
    assert_eq!(resent, [&json!(2)]);
}

#[test]
fn a_report_is_sent_once_it_is_stored_and_one_that_is_not_was_never_there() {
    let mut edge = connected_edge();
    effects(&mut edge);
    let writes = edge.handle_upward(vec![UpwardItem::audit("a", json!(1)), UpwardItem::audit("a", json!(2))]);
    assert!(matches!(writes.first(), Some(SpoolWrite::Put(..))), "{writes:?}");
    assert_eq!(effects(&mut edge), [], "nothing is sent before it is on disk");
    edge.handle_stored(false, at(1));
    edge.handle_timeout(at(2));
    assert_eq!((effects(&mut edge), edge.spool().len()), (vec![], 0));

    report(&mut edge, UpwardItem::audit("a", json!(3)), at(2));
    let sent = sent_by_edge(&mut edge);
    let contents: Vec<&Value> = sent.iter().map(|message| &message.content).collect();
    assert_eq!((contents, edge.spool().len()), (vec![&json!(3)], 1));
}

#[test]
fn a_refused_request_is_repeated_later() {
    let mut edge = connected_edge();
    effects(&mut edge);
    let request = SigningRequest { csr_der: vec![1], ttl_secs: 9 };
    edge.handle_signing_request(SigningKind::Ca, Some(request.clone()), at(1));
    let asked = sent_by_edge(&mut edge).pop().unwrap();
    assert_eq!((asked.route.resource.as_str(), asked.header.sync), ("identity/ca", true));
    edge.handle_message(&asked.error(&mut MessageIds::new(9), at(1), "banned"), at(1));
    assert!(edge.last_error().unwrap().contains("banned"));
    edge.handle_timeout(at(30));
    assert!(!sent_by_edge(&mut edge).iter().any(|m| m.route.resource == "identity/ca"));
    edge.handle_message(&message("ping", "node", Value::Null), at(30));
    edge.handle_timeout(at(31));
    let asked = sent_by_edge(&mut edge).into_iter().find(|m| m.route.resource == "identity/ca").unwrap();

    let mut cloud = cloud(NodeLog::new("l"));
    cloud.handle_message(&asked, at(31));
    let Some(CloudEffect::Sign(ticket, SigningKind::Ca, seen)) = cloud.poll_effect() else { panic!() };
    assert_eq!(seen, request);
    let signed = SignedChain { chain: vec![vec![1]], roots: vec![vec![2]] };
    cloud.handle_signed(&ticket, Ok(signed.clone()), at(32));
    edge.handle_message(&sent_by_cloud(&mut cloud)[0], at(32));
    let install = effects(&mut edge);
    assert!(install.contains(&EdgeEffect::Install(SigningKind::Ca, signed)), "{install:?}");
    edge.handle_installed(SigningKind::Ca, Ok(()), at(32));
    edge.handle_timeout(at(40));
    assert!(!sent_by_edge(&mut edge).iter().any(|m| m.route.resource == "identity/ca"));
}

#[test]
fn snapshots_come_in_parts_and_the_last_is_acknowledged_after_the_disk() {
    let mut log = NodeLog::new("l");
    for n in 0..40 {
        log.append(format!("identity/entry/{n}"), Operation::Insert, "x".repeat(50_000).into());
    }
    let mut cloud = cloud(log);
    let mut edge = edge(None);
    edge.handle_connected(at(0));
    for message in sent_by_edge(&mut edge) {
        cloud.handle_message(&message, at(0));
    }
    let parts = sent_by_cloud(&mut cloud);
    assert!(parts.len() > 5);
    for message in &parts {
        edge.handle_message(message, at(1));
    }
    let mut applies = 0;
    let mut acks = 0;
    for effect in effects(&mut edge) {
        match effect {
            EdgeEffect::Apply { changes, extent, cursor } => {
                assert_eq!((changes.len(), extent, cursor.revision), (40, Extent::Snapshot, 40));
                applies += 1;
            }
            EdgeEffect::Send(message) if message.route.operation == "response" => acks += 1,
            _ => {}
        }
    }
    assert_eq!((applies, acks), (1, parts.len() - 2), "all but the answer to the cursor and the last part");
    edge.handle_applied(Ok(()), at(2));
    assert_eq!(operations(&sent_by_edge(&mut edge)), ["response"]);
}

#[test]
fn unknown_resources_of_the_edge_are_refused_and_storing_is_bounded() {
    let mut cloud = cloud(NodeLog::new("l"));
    cloud.handle_message(&message("query", "default/configmap/c", Value::Null), at(0));
    assert_eq!(operations(&sent_by_cloud(&mut cloud)), ["error"]);
    let mut ids = MessageIds::new(3);
    let mut stores = 0;
    for _ in 0..2 * Limits::default().storing {
        let route = Route::new("edgehub", "resource", "insert", "audit/a");
        cloud.handle_message(&Message::new(&mut ids, at(0), route, json!(1)), at(0));
        while let Some(effect) = cloud.poll_effect() {
            assert!(matches!(effect, CloudEffect::Store(..)));
            stores += 1;
        }
    }
    assert_eq!(stores, Limits::default().storing);
}

#[test]
fn what_is_being_stored_is_bounded_by_what_it_weighs_and_one_alone_always_fits() {
    let mut cloud = cloud(NodeLog::new("l"));
    let mut ids = MessageIds::new(3);
    let mut report = |content: Value| {
        Message::new(&mut ids, at(0), Route::new("edgehub", "resource", "insert", "audit/a"), content)
    };
    let bytes = Limits::default().storing_bytes;
    let mut stored = |message: &Message| {
        cloud.handle_message(message, at(0));
        match cloud.poll_effect() {
            Some(CloudEffect::Store(ticket, _)) => Some(ticket),
            _ => None,
        }
    };
    // A list of a tenth of that as text.
    let heavy = report(vec![1; bytes / 20].into());
    let ticket = stored(&heavy).unwrap();
    let small = report(json!(1));
    assert_eq!(stored(&small), None, "left for later, without an answer");
    cloud.handle_stored(&ticket, Ok(()), at(1));
    assert_eq!(operations(&sent_by_cloud(&mut cloud)), ["response"]);
    let mut stored = |message: &Message| {
        cloud.handle_message(message, at(1));
        matches!(cloud.poll_effect(), Some(CloudEffect::Store(..)))
    };
    assert!(stored(&small));
    let quarter = |n: &mut dyn FnMut(Value) -> Message| n("x".repeat(bytes / 4).into());
    let taken = (0..6).filter(|_| stored(&quarter(&mut report))).count();
    assert_eq!(taken, 3);
}

#[test]
fn the_id_of_a_spool_is_kept_only_if_it_is_short() {
    let mut cloud = cloud(NodeLog::new("l"));
    for (spool, expected) in [("s".repeat(64), Some(7)), ("s".repeat(65), None)] {
        let mut report = message("insert", "audit/a", json!(1));
        report.header.id = spool.clone();
        report.header.resource_version = format!("{spool}-7");
        cloud.handle_message(&report, at(0));
        let Some(CloudEffect::Store(_, upward)) = cloud.poll_effect() else { panic!() };
        assert_eq!(upward.seq, expected);
        assert_eq!(upward.spool.is_empty(), expected.is_none());
    }
}

#[test]
fn the_audit_log_is_sent_after_what_the_cloud_has_and_again_until_it_answers() {
    let mut edge = connected_edge();
    let batch = AuditBatch { log: "a".into(), after: None, lines: vec!["one".into(), "two".into()] };
    edge.handle_audit_read(Ok(Some(batch)), at(0));
    let first = audit_message(&sent_by_edge(&mut edge));
    assert_eq!(first.content, json!({"log": "a", "after": null, "lines": ["one", "two"]}));
    edge.handle_timeout(at(5));
    assert_eq!(audit_message(&sent_by_edge(&mut edge)), first);
    let place = json!({"log": "a", "seq": 2, "hash": "h"});
    edge.handle_message(&answer(&first, place.clone()), at(6));
    let after: Option<AuditPlace> = serde_json::from_value(place).unwrap();
    assert_eq!(effects(&mut edge), [EdgeEffect::ReadAudit { after: after.clone() }]);
    // What was read after another line is not what follows now.
    let stale = AuditBatch { log: "a".into(), after: None, lines: vec!["one".into()] };
    edge.handle_audit_read(Ok(Some(stale)), at(6));
    assert_eq!(effects(&mut edge), [EdgeEffect::ReadAudit { after }]);
    edge.handle_audit_read(Ok(None), at(6));
    edge.handle_timeout(at(7));
    assert_eq!(effects(&mut edge), []);
    edge.handle_timeout(at(8));
    assert!(matches!(effects(&mut edge)[..], [EdgeEffect::ReadAudit { .. }]));
}

#[test]
fn a_cloud_that_does_not_take_the_audit_log_is_asked_again_later_and_nothing_else_suffers() {
    let mut edge = connected_edge();
    let batch = AuditBatch { log: "a".into(), after: None, lines: vec!["one".into()] };
    edge.handle_audit_read(Ok(Some(batch)), at(0));
    let sent = audit_message(&sent_by_edge(&mut edge));
    edge.handle_message(&sent.error(&mut MessageIds::new(9), at(1), "no room"), at(1));
    assert!(edge.audit_error().unwrap().contains("no room"));
    assert_eq!(edge.last_error(), None);
    edge.handle_timeout(at(31));
    let again = audit_message(&sent_by_edge(&mut edge));
    assert_eq!((again.route.operation.as_str(), &again.content), ("query", &Value::Null));
}
