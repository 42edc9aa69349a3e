//! What the limits hold back, and that one less passes.

use crate::notation::{At, bytes};
use bytes::BytesMut;
use mqtt_proto::{Decoder, InvalidTopic, Limits, Packet, PacketType, Version, Violation};

fn tight() -> Limits {
    Limits {
        packet_bytes_max: 64,
        connect_bytes_max: 40,
        properties_bytes_max: 24,
        user_properties_max: 2,
        filters_max: 2,
        topic_levels_max: 3,
    }
}

#[test]
fn each_limit_holds_at_its_edge() {
    let server = At::Server(Version::V5);
    let client = At::Client(Version::V5);
    let user = "26 <a> <b>";
    let cases = [
        (server, "30 [<a> [] 'x']".to_owned(), None),
        (server, format!("30 [<a> [] {}]", "78".repeat(58)), None),
        (server, format!("30 [<a> [] {}]", "78".repeat(59)), Some(0x95)),
        (server, format!("30 [<a> [{}]]", user.repeat(2)), None),
        (server, format!("30 [<a> [{}]]", user.repeat(3)), Some(0x97)),
        (server, format!("30 [<a> [08 <{}>]]", "r".repeat(21)), None),
        (server, format!("30 [<a> [08 <{}>]]", "r".repeat(22)), Some(0x97)),
        (server, "30 [<a/b/c> []]".to_owned(), None),
        (server, "30 [<a/b/c/> []]".to_owned(), Some(0x90)),
        (server, "30 [<////> []]".to_owned(), Some(0x90)),
        (server, "30 [<a> [08 <a/b/c/d>]]".to_owned(), Some(0x90)),
        (server, "82 [0001 [] <a/b/#> 00]".to_owned(), None),
        (server, "82 [0001 [] <a/b/c/#> 00]".to_owned(), Some(0x8F)),
        (server, "a2 [0001 [] <a/b/c/#>]".to_owned(), Some(0x8F)),
        (server, "82 [0001 [] <a> 00 <b> 00]".to_owned(), None),
        (server, "82 [0001 [] <a> 00 <b> 00 <c> 00]".to_owned(), Some(0x97)),
        (server, "a2 [0001 [] <a> <b> <c>]".to_owned(), Some(0x97)),
        (server, format!("a2 [0001 [{}] <a>]", user.repeat(3)), Some(0x97)),
        (server, format!("e0 [00 [{}]]", user.repeat(3)), Some(0x97)),
        (client, format!("40 [0001 00 [{}]]", user.repeat(3)), Some(0x97)),
        (client, format!("20 [00 00 [{}]]", user.repeat(3)), Some(0x97)),
        (At::Accepted, format!("10 [<MQTT> 05 02 0000 [] <{}>]", "c".repeat(25)), None),
        (At::Accepted, format!("10 [<MQTT> 05 02 0000 [] <{}>]", "c".repeat(26)), Some(0x95)),
        (At::Accepted, format!("10 [<MQTT> 05 02 0000 [{}] <>]", user.repeat(3)), Some(0x97)),
        (At::Accepted, "10 [<MQTT> 04 06 0000 <> <a/b/c/d> <>]".to_owned(), Some(0x90)),
    ];
    for (at, notation, expected) in cases {
        let result = at.decoder(tight()).decode(&mut BytesMut::from(&bytes(&notation)[..]));
        let reason = result.as_ref().err().map(|error| error.reason() as u8);
        assert_eq!(reason, expected, "{notation}: {result:?}");
        assert!(matches!(result, Ok(Some(_)) | Err(_)), "{notation}");
    }
}

#[test]
fn an_announced_length_is_refused_before_its_bytes_come() {
    let mut decoder = Decoder::server(Limits::default());
    let mut buffer = BytesMut::from(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F][..]);
    let error = decoder.decode(&mut buffer).unwrap_err();
    assert_eq!(error.packet, Some(PacketType::Connect));
    assert_eq!(error.violation, Violation::PacketTooLarge { len: 268_435_460, max: 128 << 10 });
    assert_eq!(
        error.to_string(),
        "CONNECT: packet of 268435460 bytes is over the limit of 131072 [MQTT-3.2.2-15]"
    );
}

#[test]
fn waiting_for_a_packet_reserves_nothing() {
    let mut decoder = At::Server(Version::V5).decoder(Limits::default());
    let mut buffer = BytesMut::from(&[0x30, 0xFF, 0xFF, 0x1F][..]);
    let capacity = buffer.capacity();
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!((buffer.len(), buffer.capacity()), (4, capacity));
}

#[test]
fn large_payloads_share_the_read_buffer_and_small_ones_are_copied() {
    for (size, is_shared) in [(100, false), (8 * 1024, true)] {
        let mut decoder = At::Server(Version::V311).decoder(Limits::default());
        let mut buffer = BytesMut::from(&bytes(&format!("30 [<a/b> {}]", "00".repeat(size)))[..]);
        let memory = buffer.as_ptr_range();
        let Some(Packet::Publish(publish)) = decoder.decode(&mut buffer).unwrap() else {
            panic!("no PUBLISH")
        };
        assert_eq!(publish.payload.len(), size);
        assert_eq!(memory.contains(&publish.payload.as_ptr()), is_shared, "{size}");
    }
}

/// Tells whether a message shares the memory of a read buffer, by the sizes of the buffer, of what was decoded from it
/// before, and of the message.
fn shares(capacity: usize, before: usize, size: usize) -> bool {
    let message = |size: usize| bytes(&format!("30 [<a/b> {}]", "00".repeat(size)));
    let mut decoder = At::Server(Version::V311).decoder(Limits::default());
    let mut buffer = BytesMut::with_capacity(capacity);
    let memory = buffer.as_ptr().addr()..buffer.as_ptr().addr() + capacity;
    if before > 0 {
        buffer.extend_from_slice(&message(before));
        buffer.extend_from_slice(&[0x30]);
        assert!(decoder.decode(&mut buffer).unwrap().is_some());
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        buffer.reserve(size + 16);
        buffer.extend_from_slice(&message(size)[1..]);
    } else {
        buffer.extend_from_slice(&message(size));
    }
    let Some(Packet::Publish(publish)) = decoder.decode(&mut buffer).unwrap() else { panic!("no PUBLISH") };
    assert_eq!(publish.payload.len(), size);
    memory.contains(&publish.payload.as_ptr().addr())
}

#[test]
fn a_packet_that_takes_little_of_the_read_buffer_does_not_keep_it() {
    const READ: usize = 64 * 1024;
    for (capacity, before, size, is_shared) in [
        (READ, 0, 16 * 1024, true),
        (READ + 16 * 1024, 30 * 1024, 16 * 1024, true),
        (READ, 55 * 1024, 8_400, false),
        (READ, 0, 8_400, false),
        (2 << 20, 0, 1_000_000, true),
        (2 << 20, 1_000_000, 500_000, true),
        (2 << 20, 1_000_000, 33_000, false),
        (2 << 20, 0, 33_000, false),
    ] {
        assert_eq!(shares(capacity, before, size), is_shared, "{size} behind {before} of {capacity}");
    }
}

#[test]
fn repeated_topics_share_their_text() {
    let mut decoder = At::Server(Version::V311).decoder(Limits::default());
    let mut buffer =
        BytesMut::from(&bytes("30 [<a/b> 'one'] 30 [<a/b> 'two'] 30 [<a/c> 'x'] 30 [<a/b>]")[..]);
    let mut publishes = Vec::new();
    while let Some(Packet::Publish(publish)) = decoder.decode(&mut buffer).unwrap() {
        publishes.push(publish);
    }
    let topics: Vec<_> = publishes.iter().map(|publish| publish.topic.as_ref().unwrap().as_str()).collect();
    assert_eq!(topics, ["a/b", "a/b", "a/c", "a/b"]);
    assert_eq!(topics[0].as_ptr(), topics[1].as_ptr());
    let wildcard = decoder.decode(&mut BytesMut::from(&bytes("30 [<a/#>]")[..]));
    assert_eq!(wildcard.unwrap_err().violation, Violation::TopicName(InvalidTopic::Wildcard));
}
