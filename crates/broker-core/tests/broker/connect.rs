//! CONNECT and CONNACK.

use crate::world::*;
use broker_core::Now;
use mqtt_proto::{Auth, Connect, Info, Packet, ReasonCode};
use std::num::NonZeroU16;
use std::time::Duration;

#[test]
fn connack_says_exactly_what_differs_from_what_a_client_assumes() {
    let mut world = World::limited(|config| config.receive_max = NonZeroU16::new(20).unwrap());
    let conn = world.open("press", v5("c"));
    let ack = world.connack(conn);
    assert_eq!(ack.receive_max, NonZeroU16::new(20));
    assert_eq!(ack.packet_size_max, Some(1024 * 1024));
    assert_eq!(ack.topic_alias_max, 32);
    // Absent means available, and all of it is.
    assert_eq!((ack.qos_max, ack.retain_available, ack.wildcard_available), (None, None, None));
    assert_eq!((ack.subscription_ids_available, ack.shared_available), (None, None));
    assert_eq!((ack.session_expiry_secs, ack.server_keep_alive_secs), (None, None));
    assert_eq!(ack.assigned_client_id, None);
}

#[test]
fn a_311_connack_carries_no_properties() {
    let mut world = World::new();
    let conn = world.open("press", v311("c"));
    assert_eq!(world.connack(conn), &mqtt_proto::ConnAck::new(ReasonCode::Success));
}

// [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.2.2-16]
#[test]
fn an_empty_client_id_is_assigned_and_told() {
    let mut world = World::new();
    let first = world.open("press", v5(""));
    let second = world.open("press", v5(""));
    let ids = [first, second].map(|conn| world.connack(conn).assigned_client_id.clone().unwrap());
    assert_ne!(ids[0], ids[1]);
    assert!(world.session("press", &ids[0]).is_some() && world.session("press", &ids[1]).is_some());
    // The next connection under the assigned id is that session.
    let again = world.connect("press", Connect { clean_start: false, ..v5(&ids[0]) });
    world.expect(again, ["CONNACK 00"]);
    world.expect(first, ["DISCONNECT 8E", "CLOSE TakenOver"]);
}

// 3.1.1 [MQTT-3.1.3-7], [MQTT-3.1.3-8]
#[test]
fn an_empty_client_id_of_311_needs_a_clean_session() {
    let mut world = World::new();
    let kept = world.connect("press", Connect { clean_start: false, ..v311("") });
    world.expect(kept, ["CONNACK 85", "CLOSE Refused(ClientIdentifierNotValid)"]);
    let clean = world.connect("press", v311(""));
    world.expect(clean, ["CONNACK 00"]);
    let named = world.connect("press", Connect { clean_start: false, ..v311("c") });
    world.expect(named, ["CONNACK 00"]);
}

#[test]
fn a_client_id_has_a_longest_length() {
    let mut world = World::limited(|config| config.client_id_bytes_max = 4);
    let long = world.connect("press", v5("12345"));
    world.expect(long, ["CONNACK 85", "CLOSE Refused(ClientIdentifierNotValid)"]);
    let fits = world.connect("press", v5("1234"));
    world.expect(fits, ["CONNACK 00"]);
}

// [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.2.2-2], [MQTT-3.2.2-3]
#[test]
fn session_present_is_told_of_a_kept_session_and_not_of_a_new_or_cleaned_one() {
    let mut world = World::new();
    let conn = world.connect("press", durable("c"));
    world.expect(conn, ["CONNACK 00"]);
    world.lose(conn);
    let resumed = world.connect("press", durable("c"));
    world.expect(resumed, ["CONNACK 00 present"]);
    world.lose(resumed);
    let clean = world.connect("press", Connect { clean_start: true, ..durable("c") });
    world.expect(clean, ["CONNACK 00"]);
}

// 3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-6]
#[test]
fn a_311_session_is_kept_without_clean_session_and_only_then() {
    let mut world = World::new();
    let kept = Connect { clean_start: false, ..v311("c") };
    let conn = world.open("press", kept.clone());
    world.lose(conn);
    let resumed = world.connect("press", kept.clone());
    world.expect(resumed, ["CONNACK 00 present"]);
    world.lose(resumed);
    let clean = world.open("press", v311("c"));
    world.lose(clean);
    let conn = world.connect("press", kept);
    world.expect(conn, ["CONNACK 00"]);
}

// [MQTT-3.1.0-2]
#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut world = World::new();
    let conn = world.client("press");
    world.send(conn, Packet::Connect(Box::new(v5("press"))));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

#[test]
fn packets_that_only_a_server_sends_are_a_protocol_error() {
    let server_packets = [
        Packet::PingResp,
        Packet::ConnAck(Box::new(mqtt_proto::ConnAck::new(ReasonCode::Success))),
        Packet::SubAck(Box::new(mqtt_proto::SubAck {
            packet_id: pid(1),
            info: Info::default(),
            reasons: vec![],
        })),
        Packet::UnsubAck(Box::new(mqtt_proto::SubAck {
            packet_id: pid(1),
            info: Info::default(),
            reasons: vec![],
        })),
    ];
    for packet in server_packets {
        let mut world = World::new();
        let conn = world.client("press");
        world.send(conn, packet);
        world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
    }
}

#[test]
fn a_311_client_gets_no_disconnect() {
    let mut world = World::new();
    let conn = world.open("press", v311("c"));
    world.send(conn, Packet::PingResp);
    world.expect(conn, ["CLOSE Protocol(ProtocolError)"]);
}

// [MQTT-4.12.0-1], [MQTT-4.12.0-6]
#[test]
fn enhanced_authentication_is_refused_by_its_method() {
    let mut world = World::new();
    let asked = world.connect("press", Connect { auth_method: Some("SCRAM".into()), ..v5("c") });
    world.expect(asked, ["CONNACK 8C", "CLOSE Refused(BadAuthenticationMethod)"]);
    let auth = |method: Option<&str>| {
        let method = method.map(Into::into);
        Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            method,
            data: None,
            info: Info::default(),
        }))
    };
    let conn = world.open("press", v5("c"));
    world.send(conn, auth(Some("SCRAM")));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
    let conn = world.open("press", v5("c"));
    world.send(conn, auth(None));
    world.expect(conn, ["DISCONNECT 82", "CLOSE Protocol(ProtocolError)"]);
}

// [MQTT-3.1.2-21], [MQTT-3.1.2-22]
#[test]
fn keep_alive_ends_a_silent_connection_after_one_and_a_half_intervals() {
    let mut world = World::new();
    let conn = world.open("press", Connect { keep_alive_secs: 10, ..v5("c") });
    world.pass_secs(14);
    world.send(conn, Packet::PingReq);
    world.expect(conn, ["PINGRESP"]);
    world.pass_secs(14);
    world.quiet(conn);
    world.pass_secs(1);
    world.expect(conn, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
}

#[test]
fn keep_alive_zero_is_off() {
    let mut world = World::new();
    let conn = world.client("press");
    world.pass_secs(1_000_000);
    world.quiet(conn);
}

// [MQTT-3.2.2-21], [MQTT-3.2.2-22]
#[test]
fn a_server_keep_alive_is_told_and_holds() {
    let mut world = World::limited(|config| config.keep_alive_max_secs = NonZeroU16::new(30));
    for asked in [0, 31] {
        let conn = world.open("press", Connect { keep_alive_secs: asked, ..v5("c") });
        assert_eq!(world.connack(conn).server_keep_alive_secs, Some(30));
        world.pass_secs(45);
        world.expect(conn, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
    }
    let conn = world.open("press", Connect { keep_alive_secs: 30, ..v5("c") });
    assert_eq!(world.connack(conn).server_keep_alive_secs, None);
    // 3.1.1 cannot be told, so what it asked for holds.
    let conn = world.open("old", v311("c"));
    world.pass_secs(1_000);
    world.quiet(conn);
}

#[test]
fn connects_and_disconnects_leave_no_timers() {
    let mut world = World::new();
    for _ in 0..10 {
        let connect = Connect { keep_alive_secs: u16::MAX, will: will("w", "", 60), ..durable("c") };
        let conn = world.open("press", connect);
        world.lose(conn);
    }
    let conn = world.open("press", v5("c"));
    assert_eq!(world.broker.poll_timeout(), None);
    world.quiet(conn);
}

#[test]
fn too_many_connections_and_sessions_are_refused_and_takeover_is_not() {
    let mut world = World::limited(|config| {
        config.connections_max = 2;
        config.sessions_per_identity_max = 2;
    });
    let first = world.open("press", durable("a"));
    let second = world.open("press", durable("b"));
    let third = world.connect("other", v5("c"));
    world.expect(third, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    let again = world.connect("press", durable("b"));
    world.expect(again, ["CONNACK 00 present"]);
    world.expect(second, ["DISCONNECT 8E", "CLOSE TakenOver"]);
    world.lose(first);
    let fourth = world.connect("press", v5("d"));
    world.expect(fourth, ["CONNACK 97", "CLOSE Refused(QuotaExceeded)"]);
    let other = world.connect("other", v5("d"));
    world.expect(other, ["CONNACK 00"]);
}

// [MQTT-3.1.2-29]
#[test]
fn reason_strings_are_sent_only_when_asked_for() {
    for asked in [true, false] {
        let mut world = World::limited(|config| config.client_id_bytes_max = 1);
        let refused = world.connect("press", Connect { request_problem_info: asked, ..v5("12") });
        assert_eq!(!world.reason_strings(refused).is_empty(), asked);
        let conn = world.open("press", Connect { request_problem_info: asked, ..v5("c") });
        world.publish(conn, "$SYS/x", "", Q1);
        world.expect(conn, ["PUBACK 1 87"]);
        assert_eq!(!world.reason_strings(conn).is_empty(), asked);
        world.revoke("press");
        world.expect(conn, ["DISCONNECT 87", "CLOSE Revoked(\"entry deleted\")"]);
        assert_eq!(!world.reason_strings(conn).is_empty(), asked);
    }
}

// [MQTT-3.4.2-2]
#[test]
fn a_reason_string_never_takes_a_packet_over_the_clients_maximum() {
    let mut world = World::new();
    let conn = world.open("press", Connect { packet_size_max: Some(18), ..v5("c") });
    world.publish(conn, "$SYS/x", "", Q1);
    world.expect(conn, ["PUBACK 1 87"]);
    world.revoke("press");
    world.expect(conn, ["DISCONNECT 87", "CLOSE Revoked(\"entry deleted\")"]);
    assert!(world.reason_strings(conn).is_empty());
}

#[test]
fn drain_ends_every_connection_and_refuses_new_ones() {
    let mut world = World::new();
    let watcher = world.client("ops");
    world.subscribe(watcher, "w", Q0);
    let five = world.open("press", Connect { will: will("w", "gone", 0), ..v5("five") });
    let three = world.open("press", Connect { will: will("w", "gone", 0), ..v311("three") });
    world.broker.handle_drain(world.now);
    world.drain();
    world.expect(watcher, ["DISCONNECT 8B", "CLOSE Drain"]);
    world.expect(five, ["DISCONNECT 8B", "CLOSE Drain"]);
    world.expect(three, ["CLOSE Drain"]);
    let late = world.connect("press", v5("late"));
    world.expect(late, ["CONNACK 88", "CLOSE Refused(ServerUnavailable)"]);
}

#[test]
fn a_malformed_packet_ends_the_connection_with_the_codecs_code() {
    let mut world = World::new();
    let conn = world.client("press");
    world.broker.handle_malformed(conn, ReasonCode::PacketTooLarge, world.now);
    world.drain();
    world.expect(conn, ["DISCONNECT 95", "CLOSE Protocol(PacketTooLarge)"]);
    // Packets that the shell had read already change nothing.
    world.publish(conn, "a", "", Q1);
    world.quiet(conn);
}

#[test]
fn connects_are_audited_with_identity_client_and_cause() {
    let mut world = World::new();
    let conn = world.open("press", v5("c"));
    world.publish(conn, "a", "", Q0);
    world.lose(conn);
    let long = "x".repeat(300);
    world.connect("press", v5(&long));
    let mut audits = world.audits();
    assert!(audits.pop().unwrap().ends_with("connect refused 85"));
    assert_eq!(
        audits,
        [
            "press/c connected present=false",
            "press/c disconnected Lost(Eof) in=1 out=0",
            "press/c session ended",
        ]
    );
}

// [MQTT-3.1.2-24]
#[test]
fn a_client_that_cannot_take_the_connack_is_refused() {
    let mut world = World::new();
    let tiny = world.connect("press", Connect { packet_size_max: Some(15), ..v5("c") });
    world.expect(tiny, ["CONNACK 95", "CLOSE Refused(PacketTooLarge)"]);
    assert!(world.reason_strings(tiny).is_empty());
    let enough = world.connect("press", Connect { packet_size_max: Some(16), ..v5("c") });
    world.expect(enough, ["CONNACK 00"]);
    let unnamed = world.connect("press", Connect { packet_size_max: Some(55), ..v5("") });
    world.expect(unnamed, ["CONNACK 95", "CLOSE Refused(PacketTooLarge)"]);
    let unnamed = world.connect("press", Connect { packet_size_max: Some(56), ..v5("") });
    world.expect(unnamed, ["CONNACK 00"]);
}

// A broker that was held up has not read what a client sent in time.
#[test]
fn a_late_timer_gives_the_client_another_moment() {
    for is_heard in [true, false] {
        let mut world = World::new();
        let conn = world.open("press", Connect { keep_alive_secs: 10, ..v5("c") });
        let mono = Duration::from_secs(25);
        world.now = Now { mono, wall: world.now.wall.after(mono) };
        world.broker.handle_timeout(world.now);
        world.drain();
        world.quiet(conn);
        if is_heard {
            world.send(conn, Packet::PingReq);
            world.expect(conn, ["PINGRESP"]);
            world.pass(Duration::from_millis(14_999));
            world.quiet(conn);
            world.pass(Duration::from_millis(1));
        } else {
            world.pass(Duration::from_millis(499));
            world.quiet(conn);
            world.pass(Duration::from_millis(1));
        }
        world.expect(conn, ["DISCONNECT 8D", "CLOSE KeepAlive"]);
    }
}
