//! What everything that is sent must be on the wire, in every test that has a [`crate::world::World`]: read as its client
//! reads it, with the decoder of a client, and held against what that client asked for.

use crate::order::info;
use crate::spelling::packet_of;
use crate::world::*;
use broker_core::{ConnId, Effect};
use bytes::BytesMut;
use mqtt_proto::*;
use std::collections::BTreeMap;

/// Every client, with what its CONNECT asked for.
#[derive(Default)]
pub(crate) struct Wire {
    clients: BTreeMap<ConnId, Client>,
}

struct Client {
    asked: Connect,
    decoder: Decoder,
}

impl Wire {
    pub(crate) fn begin(&mut self, conn: ConnId, asked: &Connect) {
        self.clients.insert(conn, Client::new(asked.clone()));
    }

    pub(crate) fn version(&self, conn: ConnId) -> Version {
        self.clients[&conn].asked.version
    }

    #[track_caller]
    pub(crate) fn check(&mut self, effect: &Effect) {
        let (conn, packet) = match effect {
            Effect::Send { conn, packet } => (conn, packet.clone()),
            Effect::Deliver { conn, delivery } => (conn, Packet::Publish(Box::new(packet_of(delivery)))),
            Effect::Discard { .. }
            | Effect::Close { .. }
            | Effect::Authenticate { .. }
            | Effect::Audit(_)
            | Effect::Store(_) => return,
        };
        let read = self.clients.get_mut(conn).unwrap().read(&packet, effect.bytes());
        read.unwrap_or_else(|fault| panic!("{fault}: {packet:?}"));
    }
}

impl Client {
    fn new(asked: Connect) -> Self {
        // What a client can take at most is looked at by itself.
        let limits = Limits {
            packet_bytes_max: usize::MAX,
            connect_bytes_max: usize::MAX,
            properties_bytes_max: usize::MAX,
            user_properties_max: usize::MAX,
            filters_max: usize::MAX,
            topic_levels_max: usize::MAX,
        };
        Self { decoder: Decoder::client(asked.version, limits), asked }
    }

    /// Takes one packet, which is counted with so many bytes.
    fn read(&mut self, packet: &Packet, counted: usize) -> Result<(), String> {
        let version = self.asked.version;
        let mut bytes = BytesMut::new();
        encode(packet, version, &mut bytes).map_err(|error| format!("not encoded, {error}"))?;
        let len = bytes.len();
        let due = if matches!(packet, Packet::Publish(_)) { len } else { encoded_len(packet, V5) };
        hold(counted == due, || format!("counted with {counted} bytes, not {due}"))?;
        // [MQTT-3.1.2-24]
        let max = self.asked.packet_size_max.map_or(usize::MAX, |max| max as usize);
        hold(len <= max, || format!("{len} bytes are more than {max}"))?;
        // The decoder knows which flags, reason codes and properties a packet to a client may have.
        let read = self.decoder.decode(&mut bytes).map_err(|error| format!("not decoded, {error}"))?;
        let read = read.ok_or("shorter than its remaining length")?;
        hold(bytes.is_empty(), || format!("{} bytes follow", bytes.len()))?;
        let meant = meant(packet, version);
        hold(read == meant, || format!("read as {read:?}"))?;
        self.is_asked_for(&read)
    }

    /// Nobody is told what he did not ask for, and whoever asked is told.
    fn is_asked_for(&self, read: &Packet) -> Result<(), String> {
        let asked = &self.asked;
        // [MQTT-3.1.2-29] lets CONNACK and DISCONNECT have it all the same, but why should they?
        let is_bare = info(read).is_none_or(|info| *info == Info::default());
        hold(is_bare || asked.request_problem_info, || "problem information for who declined it".into())?;
        match read {
            Packet::ConnAck(ack) => {
                // [MQTT-3.1.2-28]
                let is_quiet = ack.response_info.is_none() || asked.request_response_info;
                hold(is_quiet, || "response information for who did not ask".into())?;
                // [MQTT-3.2.2-2]
                let is_honest = !(ack.session_present && asked.clean_start);
                hold(is_honest, || "an old session after a clean start".into())?;
                if ack.reason != ReasonCode::Success || asked.version == V311 {
                    return Ok(());
                }
                // [MQTT-3.1.3-7], [MQTT-3.2.2-16]
                let is_named = ack.assigned_client_id.is_some() == asked.client_id.is_empty();
                hold(is_named, || "a client identifier for who has one, or none for who has not".into())?;
                // [MQTT-4.12.0-5], [MQTT-4.12.0-6]
                hold(ack.auth_method == asked.auth_method, || "another authentication method".into())
            }
            Packet::Auth(auth) => {
                hold(auth.method == asked.auth_method, || "another authentication method".into())
            }
            _ => Ok(()),
        }
    }
}

fn hold(is_so: bool, fault: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(fault()) }
}

/// What is left of a packet in a version: 3.1.1 has no properties, no reason in PUBREL and PUBCOMP, and none at all in
/// UNSUBACK. A failure in PUBACK or PUBREC would be read as success there, and is none.
fn meant(packet: &Packet, version: Version) -> Packet {
    let mut meant = packet.clone();
    if version == V5 {
        return meant;
    }
    match &mut meant {
        Packet::Publish(publish) => {
            publish.subscription_ids.clear();
            publish.properties = None;
        }
        Packet::ConnAck(ack) => {
            let code = ack.reason.connect_return_code();
            ack.reason = code.and_then(ReasonCode::from_connect_return_code).unwrap_or(ack.reason);
        }
        Packet::PubRel(ack) | Packet::PubComp(ack) => ack.reason = ReasonCode::Success,
        Packet::UnsubAck(ack) => ack.reasons.clear(),
        _ => {}
    }
    meant
}

/// What is found of a packet to this client.
fn fault(asked: &Connect, packet: &Packet) -> String {
    let counted = encoded_len(packet, if matches!(packet, Packet::Publish(_)) { asked.version } else { V5 });
    Client::new(asked.clone()).read(packet, counted).err().unwrap_or_default()
}

fn refused(reason: ReasonCode) -> Packet {
    Packet::ConnAck(Box::new(ConnAck::new(reason)))
}

fn auth(reason: ReasonCode) -> Packet {
    Packet::Auth(Box::new(Auth { reason, method: Some("M".into()), data: None, info: Info::default() }))
}

fn subacks(reason: ReasonCode) -> SubAck {
    SubAck { packet_id: pid(1), info: Info::default(), reasons: vec![reason] }
}

fn told(mut packet: Packet) -> Packet {
    let info = Info { reason_string: Some("why".into()), user_properties: Vec::new() };
    match &mut packet {
        Packet::ConnAck(ack) => ack.info = info,
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.info = info,
        Packet::Disconnect(packet) => packet.info = info,
        Packet::Auth(auth) => auth.info = info,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.info = Some(Box::new(info));
        }
        other => panic!("{other:?} tells nothing"),
    }
    packet
}

/// Each packet that has a reason code, with one that it may have and one that another may have.
fn codes() -> [(Packet, Packet); 9] {
    use ReasonCode as R;
    let suback = |reason| Packet::SubAck(Box::new(subacks(reason)));
    let unsuback = |reason| Packet::UnsubAck(Box::new(subacks(reason)));
    [
        (refused(R::ServerBusy), refused(R::ServerShuttingDown)),
        (Packet::PubAck(failed(1, R::QuotaExceeded)), Packet::PubAck(failed(1, R::MessageRateTooHigh))),
        (Packet::PubRec(failed(1, R::NoMatchingSubscribers)), Packet::PubRec(failed(1, R::GrantedQos1))),
        (Packet::PubRel(failed(1, R::PacketIdentifierNotFound)), Packet::PubRel(failed(1, R::NotAuthorized))),
        (
            Packet::PubComp(failed(1, R::PacketIdentifierNotFound)),
            Packet::PubComp(failed(1, R::QuotaExceeded)),
        ),
        (suback(R::GrantedQos2), suback(R::NoMatchingSubscribers)),
        (unsuback(R::NoSubscriptionExisted), unsuback(R::QuotaExceeded)),
        (bye(R::KeepAliveTimeout), bye(R::Success)),
        (auth(R::ContinueAuthentication), auth(R::ReAuthenticate)),
    ]
}

// [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2],
// [MQTT-3.14.2-1], [MQTT-3.15.2-1]
#[test]
fn a_reason_code_of_another_packet_is_found() {
    let asked = Connect { auth_method: Some("M".into()), ..v5("c") };
    for (right, wrong) in codes() {
        assert_eq!(fault(&asked, &right), "", "{right:?}");
        assert!(fault(&asked, &wrong).starts_with("not decoded"), "{wrong:?}");
    }
}

// [MQTT-3.1.2-24], [MQTT-3.1.2-28], [MQTT-3.1.2-29], [MQTT-4.12.0-5], [MQTT-4.12.0-6]
#[test]
fn what_a_client_did_not_ask_for_is_found() {
    let asked = Connect { auth_method: Some("M".into()), ..v5("c") };
    let quiet = Connect { request_problem_info: false, ..asked.clone() };
    let narrow = Connect { packet_size_max: Some(1), ..asked.clone() };
    for (packet, _) in codes() {
        let packet = told(packet);
        assert_eq!(fault(&asked, &packet), "", "{packet:?}");
        assert_eq!(fault(&quiet, &packet), "problem information for who declined it", "{packet:?}");
        assert!(fault(&narrow, &packet).ends_with("bytes are more than 1"), "{packet:?}");
    }
    let welcome = |change: fn(&mut ConnAck)| {
        let mut ack = ConnAck::new(ReasonCode::Success);
        change(&mut ack);
        Packet::ConnAck(Box::new(ack))
    };
    let prefix = welcome(|ack| ack.response_info = Some("r".into()));
    assert_eq!(fault(&Connect { request_response_info: true, ..v5("c") }, &prefix), "");
    assert_eq!(fault(&v5("c"), &prefix), "response information for who did not ask");
    let plain = welcome(|_| ());
    assert_eq!(fault(&v5("c"), &plain), "");
    assert_eq!(fault(&asked, &plain), "another authentication method");
    assert_eq!(fault(&v5("c"), &auth(ReasonCode::Success)), "another authentication method");
    assert!(fault(&v5(""), &plain).starts_with("a client identifier"));
    let resumed = welcome(|ack| ack.session_present = true);
    assert_eq!(fault(&durable("c"), &resumed), "");
    assert_eq!(fault(&v5("c"), &resumed), "an old session after a clean start");
}

#[test]
fn what_3_1_1_does_not_have_is_found() {
    let suback = |reason| Packet::SubAck(Box::new(subacks(reason)));
    for right in [
        refused(ReasonCode::QuotaExceeded),
        Packet::PubAck(ack(1)),
        suback(ReasonCode::UnspecifiedError),
        Packet::PingResp,
    ] {
        assert_eq!(fault(&v311("c"), &right), "", "{right:?}");
    }
    for wrong in [
        refused(ReasonCode::PacketTooLarge),
        told(refused(ReasonCode::NotAuthorized)),
        Packet::PubAck(failed(1, ReasonCode::NotAuthorized)),
        told(Packet::PubAck(ack(1))),
        suback(ReasonCode::NotAuthorized),
        bye(ReasonCode::ServerShuttingDown),
        auth(ReasonCode::ContinueAuthentication),
    ] {
        assert_ne!(fault(&v311("c"), &wrong), "", "{wrong:?}");
    }
}
