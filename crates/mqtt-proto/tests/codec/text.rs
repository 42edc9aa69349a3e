//! Text in every place where a packet has some: what is refused, and what is kept as it is.

use crate::notation::{At, bytes};
use mqtt_proto::{Packet, Version, Violation};

const V311: Version = Version::V311;
const V5: Version = Version::V5;

/// Every text a server reads, `@` where it stands.
const TO_SERVER: [(At, &str); 24] = [
    (At::Accepted, "10 [<MQTT> 04 02 0000 @]"),
    (At::Accepted, "10 [<MQTT> 05 02 0000 [] @]"),
    (At::Accepted, "10 [<MQTT> 04 06 0000 <> @ <m>]"),
    (At::Accepted, "10 [<MQTT> 05 06 0000 [] <> [] @ <m>]"),
    (At::Accepted, "10 [<MQTT> 04 82 0000 <> @]"),
    (At::Accepted, "10 [<MQTT> 05 82 0000 [] <> @]"),
    (At::Accepted, "10 [<MQTT> 05 02 0000 [15 @] <>]"),
    (At::Accepted, "10 [<MQTT> 05 02 0000 [26 @ <v>] <>]"),
    (At::Accepted, "10 [<MQTT> 05 02 0000 [26 <k> @] <>]"),
    (At::Accepted, "10 [<MQTT> 05 06 0000 [] <> [03 @] <w> <m>]"),
    (At::Accepted, "10 [<MQTT> 05 06 0000 [] <> [08 @] <w> <m>]"),
    (At::Accepted, "10 [<MQTT> 05 06 0000 [] <> [26 @ <v>] <w> <m>]"),
    (At::Server(V311), "30 [@]"),
    (At::Server(V5), "30 [@ []]"),
    (At::Server(V5), "30 [<a> [03 @]]"),
    (At::Server(V5), "30 [<a> [08 @]]"),
    (At::Server(V5), "30 [<a> [26 <k> @]]"),
    (At::Server(V5), "40 [0001 00 [1f @]]"),
    (At::Server(V311), "82 [0001 @ 00]"),
    (At::Server(V5), "82 [0001 [] <a> 00 @ 00]"),
    (At::Server(V311), "a2 [0001 @]"),
    (At::Server(V5), "a2 [0001 [] <a> @]"),
    (At::Server(V5), "e0 [00 [1f @]]"),
    (At::Server(V5), "f0 [18 [15 @]]"),
];

/// Every text a client reads besides those.
const TO_CLIENT: [(At, &str); 8] = [
    (At::Client(V5), "20 [00 00 [12 @]]"),
    (At::Client(V5), "20 [00 00 [1a @]]"),
    (At::Client(V5), "20 [00 00 [1c @]]"),
    (At::Client(V5), "20 [00 00 [1f @]]"),
    (At::Client(V5), "90 [0001 [1f @] 00]"),
    (At::Client(V5), "b0 [0001 [26 @ <v>] 00]"),
    (At::Client(V5), "e0 [8b [1c @]]"),
    (At::Client(V311), "30 [@]"),
];

fn places() -> impl Iterator<Item = (At, &'static str)> {
    TO_SERVER.into_iter().chain(TO_CLIENT)
}

// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.7-1], [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12],
// [MQTT-3.3.2-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19], [MQTT-3.8.3-1], [MQTT-3.10.3-1]
#[test]
fn every_text_is_well_formed_utf8_without_nul() {
    let wrong = [
        ("0001 ff", Violation::InvalidUtf8),
        ("0003 'a' c3 'b'", Violation::InvalidUtf8),
        // Longer than needed, half a character, beyond U+10FFFF.
        ("0002 c1bf", Violation::InvalidUtf8),
        ("0002 c080", Violation::InvalidUtf8),
        ("0002 e282", Violation::InvalidUtf8),
        ("0004 f4908080", Violation::InvalidUtf8),
        // The ends of the surrogates, and a pair of them.
        ("0003 eda080", Violation::InvalidUtf8),
        ("0003 edbfbf", Violation::InvalidUtf8),
        ("0006 eda0bdedb880", Violation::InvalidUtf8),
        ("0001 00", Violation::NulCharacter),
        ("0003 'a' 00 'b'", Violation::NulCharacter),
    ];
    for (at, frame) in places() {
        assert!(matches!(at.decode(&bytes(&frame.replace('@', "<x>"))), Ok(Some(_))), "{frame}");
        for (text, violation) in wrong {
            let error = at.decode(&bytes(&frame.replace('@', text))).unwrap_err();
            assert_eq!(error.violation, violation, "{frame}: {text}");
            assert_eq!(error.reason() as u8, 0x81);
        }
    }
}

// [MQTT-1.5.4-3]; the characters around the surrogates and at the end of Unicode are text too.
#[test]
fn a_byte_order_mark_is_a_character_like_any_other() {
    for (at, frame) in places() {
        for text in ["0003 efbbbf", "0004 'a' efbbbf", "0006 ed9fbf ee8080", "0004 f48fbfbf", "0001 01"] {
            let wire = bytes(&frame.replace('@', text));
            let packet = at.decode(&wire).unwrap().unwrap();
            let shown = format!("{packet:?}").replace("\\u{feff}", "\u{FEFF}");
            assert!(!text.contains("efbbbf") || shown.contains('\u{FEFF}'), "{frame}: {shown}");
            let version = match (&packet, at) {
                (Packet::Connect(connect), _) => connect.version,
                (_, At::Server(version) | At::Client(version)) => version,
                (other, At::Accepted) => panic!("{other:?}"),
            };
            let mut out = ::bytes::BytesMut::new();
            mqtt_proto::encode(&packet, version, &mut out).unwrap();
            let again = at.decode(&out).unwrap().unwrap();
            assert_eq!(again, packet, "{frame}: {text}");
        }
    }
}

// [MQTT-4.7.3-3]: 65,535 bytes is the longest a length can say, so the wire cannot carry more.
#[test]
fn text_of_65535_bytes_passes() {
    let long = format!("ffff {}", "61".repeat(65_535));
    for frame in ["30 [@]", "82 [0001 @ 00]", "a2 [0001 @]"] {
        assert!(
            matches!(At::Server(V311).decode(&bytes(&frame.replace('@', &long))), Ok(Some(_))),
            "{frame}"
        );
    }
}
