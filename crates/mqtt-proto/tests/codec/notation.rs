//! A notation for packets: `30` hex bytes, `'abc'` text as it is, `<abc>` text behind its two-byte length,
//! `[...]` bytes behind their length as a variable byte integer.

use bytes::BytesMut;
use mqtt_proto::{DecodeError, Decoder, Limits, Packet, Version};
use std::iter::Peekable;
use std::str::Chars;

/// Who decodes, and how far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// A server before CONNECT.
    Accepted,
    /// A server after CONNECT.
    Server(Version),
    /// A client.
    Client(Version),
}

impl At {
    pub(crate) fn decoder(self, limits: Limits) -> Decoder {
        match self {
            Self::Accepted => Decoder::server(limits),
            Self::Client(version) => Decoder::client(version, limits),
            Self::Server(version) => {
                let mut decoder = Decoder::server(limits);
                let connect = match version {
                    Version::V311 => "10 [<MQTT> 04 02 0000 <>]",
                    Version::V5 => "10 [<MQTT> 05 02 0000 [] <>]",
                };
                let connect = decoder.decode(&mut BytesMut::from(&bytes(connect)[..])).unwrap();
                assert!(matches!(connect, Some(Packet::Connect(_))));
                decoder
            }
        }
    }

    pub(crate) fn decode(self, wire: &[u8]) -> Result<Option<Packet>, DecodeError> {
        self.decoder(Limits::default()).decode(&mut BytesMut::from(wire))
    }
}

pub(crate) fn bytes(notation: &str) -> Vec<u8> {
    let mut chars = notation.chars().peekable();
    let parsed = sequence(&mut chars);
    assert_eq!(chars.next(), None, "unmatched `]` in {notation}");
    parsed
}

fn sequence(chars: &mut Peekable<Chars<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(next) = chars.next_if(|next| *next != ']') {
        match next {
            ' ' => {}
            '\'' => out.extend(until(chars, '\'')),
            '<' => {
                let text = until(chars, '>');
                out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text);
            }
            '[' => {
                let block = sequence(chars);
                assert_eq!(chars.next(), Some(']'));
                out.extend(varint(block.len()));
                out.extend(block);
            }
            digit => {
                let low = chars.next().unwrap();
                out.push(u8::from_str_radix(&format!("{digit}{low}"), 16).unwrap());
            }
        }
    }
    out
}

fn until(chars: &mut Peekable<Chars<'_>>, end: char) -> Vec<u8> {
    let text: String = chars.by_ref().take_while(|next| *next != end).collect();
    text.into_bytes()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7F).unwrap();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

#[test]
fn the_notation_spells_what_it_says() {
    assert_eq!(bytes("30 0aFf 'b' <cd> [] [01 [02]]"), b"\x30\x0a\xffb\x00\x02cd\x00\x03\x01\x01\x02");
    assert_eq!(bytes(&format!("[{}]", "00".repeat(200)))[..3], [0xC8, 0x01, 0x00]);
}
