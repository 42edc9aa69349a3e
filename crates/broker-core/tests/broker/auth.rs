//! Enhanced authentication (MQTT 5.0 §4.12), with a method of its own.

use crate::svid::peer_until;
use crate::world::*;
use broker_core::{AuthOutcome, CloseCause, ConnId, SessionState};
use bytes::Bytes;
use mqtt_proto::{Auth, Connect, Info, Packet, ReasonCode};
use std::time::Duration;

const METHOD: &str = "TEST";

fn offering() -> World {
    World::limited(|config| config.auth_methods = vec![METHOD.into(), "OTHER".into()])
}

fn with_method(client_id: &str) -> Connect {
    let data = Some(Bytes::from_static(b"first"));
    Connect { auth_method: Some(METHOD.into()), auth_data: data, ..v5(client_id) }
}

fn auth(reason: ReasonCode, method: &str, data: &'static str) -> Packet {
    Packet::Auth(Box::new(Auth {
        reason,
        method: Some(method.into()),
        data: Some(Bytes::from_static(data.as_bytes())),
        info: Info::default(),
    }))
}

fn answer(data: &'static str) -> Packet {
    auth(ReasonCode::ContinueAuthentication, METHOD, data)
}

fn again(data: &'static str) -> Packet {
    auth(ReasonCode::ReAuthenticate, METHOD, data)
}

fn question(data: &'static str) -> AuthOutcome {
    AuthOutcome::Continue(Bytes::from_static(data.as_bytes()))
}

fn proven(id: &str) -> AuthOutcome {
    AuthOutcome::Proven { peer: peer(id), data: Some(Bytes::from_static(b"last")) }
}

/// A connection whose exchange has just begun.
fn begun() -> (World, ConnId) {
    let mut world = offering();
    let conn = world.connect("press", with_method("c"));
    world.quiet(conn);
    (world, conn)
}

/// A connection that was let in by its method.
fn let_in() -> (World, ConnId) {
    let (mut world, conn) = begun();
    world.judge(conn, proven("press"));
    world.expect(conn, ["CONNACK 00"]);
    (world, conn)
}

// [MQTT-4.12.0-2], [MQTT-4.12.0-3], [MQTT-4.12.0-4], [MQTT-4.12.0-5]
#[test]
fn connack_comes_when_the_exchange_has_ended_and_names_the_method() {
    let (mut world, conn) = begun();
    let request = world.judge(conn, question("who are you?"));
    assert_eq!(
        (&*request.method, request.data.as_deref(), &request.challenge),
        (METHOD, Some(&b"first"[..]), &None)
    );
    world.expect(conn, ["AUTH 18 TEST \"who are you?\""]);
    assert!(world.session("press", "c").is_none());
    world.send(conn, answer("press"));
    let request = world.judge(conn, proven("press"));
    assert_eq!(
        (request.data.as_deref(), request.challenge.as_deref()),
        (Some(&b"press"[..]), Some(&b"who are you?"[..]))
    );
    world.expect(conn, ["CONNACK 00"]);
    let ack = world.connack(conn);
    assert_eq!((ack.auth_method.as_deref(), ack.auth_data.as_deref()), (Some(METHOD), Some(&b"last"[..])));
    // It is a connection like any other.
    world.subscribe(conn, "a", Q0);
    world.publish(conn, "a", "x", Q0);
    world.expect(conn, ["PUBLISH a \"x\" q0"]);
}

// [MQTT-4.12.0-1], [MQTT-4.12.0-6]
#[test]
fn a_method_that_is_not_offered_is_refused_and_none_is_none() {
    let mut world = offering();
    let conn = world.connect("press", Connect { auth_method: Some("SCRAM".into()), ..v5("c") });
    world.expect(conn, ["CONNACK 8C", "CLOSE Refused(BadAuthenticationMethod)"]);
    world.nothing_to_judge();
    let conn = world.open("press", v5("c"));
    assert_eq!(world.connack(conn).auth_method, None);
    world.send(conn, again("x"));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

#[test]
fn who_proves_nothing_or_somebody_else_is_refused() {
    for outcome in [AuthOutcome::Failed, proven("ops")] {
        let (mut world, conn) = begun();
        world.judge(conn, outcome);
        world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
        assert!(world.session("press", "c").is_none());
        assert_eq!(world.audits(), ["press/c connect refused 87"]);
        // What comes too late changes nothing.
        world.broker.handle_authenticated(conn, proven("press"), world.now);
        world.drain();
        world.quiet(conn);
    }
}

// [MQTT-3.1.2-30], [MQTT-4.12.0-5]
#[test]
fn only_the_answer_is_taken_before_connack() {
    let mut other_method = auth(ReasonCode::ContinueAuthentication, "OTHER", "x");
    for (packet, code) in [
        (Packet::PingReq, "82"),
        (Packet::Publish(Box::new(publish("a", "x", Q0))), "82"),
        (again("x"), "82"),
        (other_method.clone(), "8C"),
    ] {
        let (mut world, conn) = begun();
        world.judge(conn, question("?"));
        world.take(conn);
        world.send(conn, packet);
        let seen = world.take(conn);
        assert_eq!(seen[0], format!("CONNACK {code}"));
        assert!(seen[1].starts_with("CLOSE Refused"), "{seen:?}");
        world.nothing_to_judge();
    }
    // An answer that was not asked for.
    let (mut world, conn) = begun();
    world.send(conn, answer("x"));
    world.expect(conn, ["CONNACK 82", "CLOSE Refused(ProtocolError)"]);
    // A client may give up.
    let (mut world, conn) = begun();
    world.send(conn, bye(ReasonCode::Success));
    world.expect(conn, ["CLOSE ClientDisconnected(Success)"]);
    other_method = answer("x");
    world.send(conn, other_method);
    world.quiet(conn);
}

// [MQTT-3.2.2-8]: what may be said in DISCONNECT is not all that may be said in CONNACK.
#[test]
fn before_connack_a_client_is_told_nothing_that_connack_may_not_say() {
    let asked = || {
        let (mut world, conn) = begun();
        world.judge(conn, question("?"));
        world.take(conn);
        (world, conn)
    };
    for (reason, connack, disconnect) in [
        (ReasonCode::TopicAliasInvalid, "CONNACK 82", "DISCONNECT 94"),
        (ReasonCode::TopicFilterInvalid, "CONNACK 82", "DISCONNECT 8F"),
        (ReasonCode::MalformedPacket, "CONNACK 81", "DISCONNECT 81"),
        (ReasonCode::PacketTooLarge, "CONNACK 95", "DISCONNECT 95"),
    ] {
        for ((mut world, conn), told) in [(asked(), connack), (let_in(), disconnect)] {
            world.broker.handle_malformed(conn, reason, world.now);
            world.drain();
            assert_eq!(world.take(conn)[0], told);
        }
    }
    for ((mut world, conn), told) in [(asked(), "CONNACK 87"), (let_in(), "DISCONNECT 8D")] {
        world.broker.handle_unfinished(conn, world.now);
        world.drain();
        assert_eq!(world.take(conn)[0], told);
    }
}

#[test]
fn an_exchange_has_its_time_and_leaves_nothing_behind() {
    let (mut world, conn) = begun();
    world.judge(conn, question("?"));
    world.pass(Duration::from_millis(9_999));
    world.expect(conn, ["AUTH 18 TEST \"?\""]);
    world.pass(Duration::from_millis(1));
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    assert_eq!(world.broker.poll_timeout(), None);

    let (mut world, conn) = begun();
    world.broker.handle_closed(conn, CloseCause::Eof, world.now);
    assert_eq!(world.broker.poll_timeout(), None);
    world.judge(conn, proven("press"));
    world.quiet(conn);
    let (mut world, conn) = let_in();
    assert_eq!(world.broker.poll_timeout(), None);
    world.lose(conn);
}

#[test]
fn exchanges_count_as_connections() {
    let mut world = World::limited(|config| {
        config.auth_methods = vec![METHOD.into()];
        config.connections_max = 1;
    });
    let first = world.connect("press", with_method("c"));
    let second = world.connect("ops", v5("o"));
    world.expect(second, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    world.judge(first, proven("press"));
    world.expect(first, ["CONNACK 00"]);
}

#[test]
fn an_exchange_ends_with_its_identity_and_with_the_broker() {
    let (mut world, conn) = begun();
    world.revoke("ops");
    world.quiet(conn);
    world.revoke("press");
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let (mut world, conn) = begun();
    world.broker.handle_proof_ended(conn, &"entry changed".into(), world.now);
    world.drain();
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let (mut world, conn) = begun();
    world.broker.handle_drain(world.now);
    world.drain();
    world.expect(conn, ["CONNACK 88", "CLOSE Refused(ServerUnavailable)"]);
}

// [MQTT-4.12.1-1], [MQTT-4.12.1-2]
#[test]
fn a_live_connection_is_authenticated_again_and_goes_on_meanwhile() {
    let (mut world, conn) = let_in();
    world.subscribe(conn, "a", Q0);
    world.audits();
    world.send(conn, again("new"));
    world.publish(conn, "a", "under the old proof", Q0);
    world.expect(conn, ["PUBLISH a \"under the old proof\" q0"]);
    let request = world.judge(conn, question("?"));
    assert_eq!((request.data.as_deref(), request.challenge), (Some(&b"new"[..]), None));
    world.send(conn, answer("!"));
    world.judge(conn, proven("press"));
    world.expect(conn, ["AUTH 18 TEST \"?\"", "AUTH 00 TEST \"last\""]);
    assert_eq!(world.audits(), ["press/c reauthenticated"]);
    // And once more.
    world.send(conn, again("newer"));
    assert_eq!(world.judge(conn, proven("press")).challenge, None);
    world.expect(conn, ["AUTH 00 TEST \"last\""]);
}

#[test]
fn who_fails_to_prove_it_again_is_cut_without_a_will() {
    for outcome in [AuthOutcome::Failed, proven("ops")] {
        let mut world = offering();
        let watcher = world.client("watcher");
        world.subscribe(watcher, "last", Q0);
        let conn = world.connect("press", Connect { will: will("last", "x", 0), ..with_method("c") });
        world.judge(conn, proven("press"));
        world.take(conn);
        world.send(conn, again("x"));
        world.judge(conn, outcome);
        world.expect(conn, ["DISCONNECT 87", "CLOSE NotAuthenticated"]);
        world.quiet(watcher);
    }
}

#[test]
fn a_live_exchange_takes_one_step_at_a_time() {
    for (packets, reason) in [
        (vec![again("x"), again("y")], "DISCONNECT 82"),
        (vec![answer("x")], "DISCONNECT 82"),
        (vec![auth(ReasonCode::ReAuthenticate, "OTHER", "x")], "DISCONNECT 8C"),
    ] {
        let (mut world, conn) = let_in();
        for packet in packets {
            world.send(conn, packet);
        }
        assert_eq!(world.take(conn)[0], reason);
    }
}

#[test]
fn a_newer_proof_extends_the_connection() {
    let mut world = offering();
    let conn = world.connect_peer(peer_until("press", 100), with_method("c"));
    world.judge(conn, AuthOutcome::Proven { peer: peer_until("press", 100), data: None });
    world.expect(conn, ["CONNACK 00"]);
    world.pass_secs(90);
    world.send(conn, again("x"));
    world.judge(conn, AuthOutcome::Proven { peer: peer_until("press", 200), data: None });
    world.expect(conn, ["AUTH 00 TEST"]);
    world.pass_secs(109);
    world.quiet(conn);
    assert!(matches!(world.session("press", "c").unwrap().state,
        SessionState::Live { expires: Some(at), .. } if at == START.after(Duration::from_secs(200))));
    world.pass_secs(1);
    world.expect(conn, ["DISCONNECT 87", "CLOSE SvidExpired"]);
}

// [MQTT-3.1.2-24]
#[test]
fn a_question_too_large_for_the_client_is_not_sent() {
    let mut world = offering();
    let conn = world.connect("press", Connect { packet_size_max: Some(60), ..with_method("c") });
    world.judge(conn, AuthOutcome::Continue(Bytes::from(vec![b'x'; 100])));
    world.quiet(conn);
    world.pass_secs(10);
    world.expect(conn, ["CONNACK 87", "CLOSE Refused(NotAuthorized)"]);
    let conn = world.connect("press", Connect { packet_size_max: Some(60), ..with_method("c") });
    world.judge(conn, proven("press"));
    world.expect(conn, ["CONNACK 00"]);
    world.send(conn, again("x"));
    world.judge(conn, AuthOutcome::Continue(Bytes::from(vec![b'x'; 100])));
    world.expect(conn, ["DISCONNECT 95", "CLOSE Protocol(PacketTooLarge)"]);
}
