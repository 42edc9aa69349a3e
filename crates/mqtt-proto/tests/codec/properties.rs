//! What holds for every packet and for every input.

use crate::arbitrary::{connect, to_client, to_server, version};
use crate::notation::At;
use bytes::BytesMut;
use mqtt_proto::{
    DecodeError, Decoder, Limits, Packet, PacketId, Plain, PlainAck, PlainPublish, Publish, PublishRef, QoS,
    TopicName, Version, encode, encode_publish, encode_publish_head, encoded_len,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn wire(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    assert_eq!(encoded_len(packet, version), out.len());
    out.to_vec()
}

/// Decodes until the buffer gives nothing more.
fn drain(decoder: &mut Decoder, buffer: &mut BytesMut, into: &mut Vec<Packet>) -> Result<(), DecodeError> {
    while let Some(packet) = decoder.decode(buffer)? {
        into.push(packet);
    }
    Ok(())
}

fn arrival() -> impl Strategy<Value = (At, Version, Packet)> {
    version().prop_flat_map(|version| {
        prop_oneof![
            connect(version).prop_map(move |packet| (At::Accepted, version, packet)),
            to_server(version).prop_map(move |packet| (At::Server(version), version, packet)),
            to_client(version).prop_map(move |packet| (At::Client(version), version, packet)),
        ]
    })
}

fn any_end() -> impl Strategy<Value = At> {
    prop_oneof![Just(At::Accepted), version().prop_map(At::Server), version().prop_map(At::Client),]
}

/// A PUBLISH to one of few topics, which says nothing else more often than not.
fn plain_or_not() -> impl Strategy<Value = Publish> {
    let len = prop_oneof![8 => 0..200_usize, 1 => 7_900..8_300_usize];
    let qos =
        prop_oneof![8 => Just(QoS::AtMostOnce), 1 => Just(QoS::AtLeastOnce), 1 => Just(QoS::ExactlyOnce)];
    let flags = (prop::bool::weighted(0.1), qos);
    (prop_oneof![5 => Just("line/1"), 1 => Just("line/2"), 1 => Just("line/3")], len, flags).prop_map(
        |(topic, len, (retain, qos))| Publish {
            dup: false,
            qos,
            retain,
            topic: Some(TopicName::new(topic).unwrap()),
            packet_id: PacketId::new(7).filter(|_| qos != QoS::AtMostOnce),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: vec![b'x'; len].into(),
        },
    )
}

/// The version a decoder at this end ends up with.
fn version_of(packet: &Packet, at: At) -> Version {
    match (packet, at) {
        (Packet::Connect(connect), _) => connect.version,
        (_, At::Server(version) | At::Client(version)) => version,
        (other, At::Accepted) => panic!("{other:?} before CONNECT"),
    }
}

/// What decodes once can be written, and decodes to the same again.
fn assert_stable(packet: &Packet, at: At) {
    let again = at.decode(&wire(packet, version_of(packet, at)));
    assert_eq!(again, Ok(Some(packet.clone())));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_survive_the_wire((at, version, packet) in arrival()) {
        prop_assert_eq!(at.decode(&wire(&packet, version)), Ok(Some(packet)));
    }

    #[test]
    fn publishes_by_reference_are_the_same_bytes((_, version, packet) in arrival()) {
        if let Packet::Publish(publish) = &packet {
            let whole = wire(&packet, version);
            let publish = PublishRef::from(&**publish);
            let mut out = BytesMut::new();
            encode_publish(&publish, version, &mut out).unwrap();
            prop_assert_eq!(&out[..], &whole[..]);
            out.clear();
            encode_publish_head(&publish, version, &mut out).unwrap();
            out.extend_from_slice(publish.payload);
            prop_assert_eq!(&out[..], &whole[..]);
        }
    }

    #[test]
    fn what_is_told_of_a_plain_publish_is_what_it_decodes_to(
        version in version(), publishes in vec(plain_or_not(), 1..20)
    ) {
        let mut decoder = At::Server(version).decoder(Limits::default());
        let (mut buffer, mut known) = (BytesMut::new(), Vec::new());
        for publish in publishes {
            let packet = Packet::Publish(Box::new(publish.clone()));
            buffer.extend_from_slice(&wire(&packet, version));
            let is_plain = PlainPublish::of(&PublishRef::from(&publish)).is_some();
            // They have places of their own.
            let due = is_plain && known.contains(&publish.topic) && publish.payload.len() < 8_000;
            let whole = buffer.len();
            for part in 0..whole.min(9) {
                let part = BytesMut::from(&buffer[..whole * part / 9]);
                prop_assert!(decoder.plain_run(&part).unwrap().front().is_none());
            }
            let told = decoder.plain_run(&buffer).unwrap().front();
            prop_assert!(told.is_some() || !due, "{:?}", publish);
            if let Some((Plain::Publish(told), len)) = told {
                prop_assert!(is_plain && known.contains(&publish.topic));
                prop_assert_eq!(Some(told), PlainPublish::of(&PublishRef::from(&publish)));
                prop_assert_eq!((len, told.len(version)), (whole, whole));
                let mut again = BytesMut::new();
                prop_assert!(told.encode(version, &mut again).is_ok() && again == buffer);
            }
            known.push(publish.topic.clone());
            prop_assert_eq!(decoder.decode(&mut buffer), Ok(Some(packet)));
        }
    }

    #[test]
    fn what_is_told_of_a_plain_acknowledgement_is_what_it_decodes_to(
        version in version(), packet in to_server(Version::V5)
    ) {
        let mut bytes = BytesMut::new();
        if encode(&packet, version, &mut bytes).is_ok() {
            let mut decoder = At::Server(version).decoder(Limits::default());
            let told = match decoder.plain_run(&bytes).unwrap().front() {
                Some((Plain::Ack(ack), PlainAck::BYTES)) => Some(Packet::from(ack)),
                told => {
                    prop_assert!(told.is_none(), "{:?}", told);
                    None
                }
            };
            let decoded = At::Server(version).decode(&bytes).unwrap();
            let due = decoded.filter(|packet| bytes.len() == 4 && PlainAck::of(packet).is_some());
            prop_assert_eq!(told, due);
        }
    }

    #[test]
    fn packets_of_5_can_be_written_for_3_1_1(packet in to_client(Version::V5)) {
        let mut out = BytesMut::new();
        if encode(&packet, Version::V311, &mut out).is_ok() {
            prop_assert_eq!(encoded_len(&packet, Version::V311), out.len());
            let result = At::Client(Version::V311).decode(&out);
            let silent_in_3_1_1 = matches!(packet, Packet::Disconnect(_));
            prop_assert!(silent_in_3_1_1 || matches!(result, Ok(Some(_))), "{:?}: {:?}", packet, result);
        } else {
            prop_assert!(out.is_empty());
        }
    }

    #[test]
    fn a_part_of_a_packet_waits_for_the_rest((at, version, packet) in arrival(), end in any::<Index>()) {
        let wire = wire(&packet, version);
        let mut decoder = at.decoder(Limits::default());
        let mut buffer = BytesMut::from(&wire[..end.index(wire.len())]);
        let before = buffer.clone();
        prop_assert_eq!(decoder.decode(&mut buffer), Ok(None));
        prop_assert_eq!(buffer, before);
    }

    #[test]
    fn bytes_one_by_one_are_the_same_packets(
        (version, packets) in version().prop_flat_map(|version| (Just(version), vec(to_server(version), 1..6)))
    ) {
        let stream: Vec<u8> = packets.iter().flat_map(|packet| wire(packet, version)).collect();
        let mut decoder = At::Server(version).decoder(Limits::default());
        let (mut buffer, mut slow) = (BytesMut::new(), Vec::new());
        for byte in &stream {
            buffer.extend_from_slice(&[*byte]);
            drain(&mut decoder, &mut buffer, &mut slow).unwrap();
        }
        prop_assert!(buffer.is_empty());
        let mut fast = Vec::new();
        let mut whole = BytesMut::from(&stream[..]);
        drain(&mut At::Server(version).decoder(Limits::default()), &mut whole, &mut fast).unwrap();
        prop_assert_eq!(&slow, &packets);
        prop_assert_eq!(&fast, &packets);
    }

    #[test]
    fn random_bytes_never_panic(at in any_end(), bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(Some(packet)) = at.decode(&bytes) {
            assert_stable(&packet, at);
        }
    }

    #[test]
    fn random_bodies_never_panic(at in any_end(), first in any::<u8>(), body in vec(any::<u8>(), 0..100)) {
        let mut bytes = vec![first, u8::try_from(body.len()).unwrap()];
        bytes.extend(body);
        if let Ok(Some(packet)) = at.decode(&bytes) {
            assert_stable(&packet, at);
        }
    }

    #[test]
    fn damaged_packets_never_panic(
        (at, version, packet) in arrival(),
        other_end in any_end(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut wire = wire(&packet, version);
        for (at, byte) in damage {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        for at in [at, other_end] {
            if let Ok(Some(packet)) = at.decode(&wire) {
                assert_stable(&packet, at);
            }
        }
    }

    #[test]
    fn an_error_is_the_same_however_the_bytes_come(
        (at, version, packet) in arrival(),
        damage in (any::<Index>(), any::<u8>()),
    ) {
        let mut wire = wire(&packet, version);
        let position = damage.0.index(wire.len());
        wire[position] = damage.1;
        let mut whole = Vec::new();
        let result = drain(&mut at.decoder(Limits::default()), &mut BytesMut::from(&wire[..]), &mut whole);
        let mut decoder = at.decoder(Limits::default());
        let (mut buffer, mut slow) = (BytesMut::new(), Vec::new());
        let mut slow_result = Ok(());
        for byte in &wire {
            buffer.extend_from_slice(&[*byte]);
            slow_result = drain(&mut decoder, &mut buffer, &mut slow);
            if slow_result.is_err() {
                break;
            }
        }
        prop_assert_eq!(slow_result, result);
        prop_assert_eq!(slow, whole);
    }
}
