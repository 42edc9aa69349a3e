//! The codec, both ends and both versions.

use bytes::BytesMut;
use mqtt_proto::{DecodeError, Decoder, Limits, Packet, Plain, Version, encode, encoded_len};

/// Who decodes.
#[derive(Clone, Copy)]
enum End {
    Accepted,
    Server(Version),
    Client(Version),
}

impl End {
    fn of(byte: u8) -> Self {
        match byte % 5 {
            0 => Self::Accepted,
            1 => Self::Server(Version::V311),
            2 => Self::Server(Version::V5),
            3 => Self::Client(Version::V311),
            _ => Self::Client(Version::V5),
        }
    }

    fn decoder(self) -> Decoder {
        let connect: &[u8] = match self {
            Self::Accepted => return Decoder::server(Limits::default()),
            Self::Client(version) => return Decoder::client(version, Limits::default()),
            Self::Server(Version::V311) => b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0",
            Self::Server(Version::V5) => b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0",
        };
        let mut decoder = Decoder::server(Limits::default());
        let first = decoder.decode(&mut BytesMut::from(connect));
        assert!(matches!(first, Ok(Some(Packet::Connect(_)))), "{first:?}");
        decoder
    }
}

/// The first byte says who decodes, the second in which pieces the rest comes.
///
/// What decodes can be written, to the length that is announced, and decodes to the same again; pieces change
/// neither the packets nor the error; the other version can be written too, or is refused without a trace.
pub fn codec(input: &[u8]) {
    let [end, piece, stream @ ..] = input else { return };
    let end = End::of(*end);
    let piece = usize::from(*piece).max(1);
    let whole = decode(&mut end.decoder(), stream, stream.len().max(1));
    let pieces = decode(&mut end.decoder(), stream, piece);
    assert_eq!(whole, pieces, "pieces of {piece} bytes");
    let mut again = end.decoder();
    for packet in &whole.0 {
        let version = match packet {
            Packet::Connect(connect) => connect.version,
            _ => again.version().expect("only CONNECT comes before the version is known"),
        };
        let mut out = written(packet, version);
        assert_eq!(again.decode(&mut out), Ok(Some(packet.clone())));
        assert!(out.is_empty());
        write_in_the_other_version(packet, version);
    }
}

fn decode(decoder: &mut Decoder, stream: &[u8], piece: usize) -> (Vec<Packet>, Result<(), DecodeError>) {
    let (mut buffer, mut packets) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let peeked = peek(decoder, &buffer);
            let decoded = decoder.decode(&mut buffer);
            if let Some((peeked, left)) = peeked {
                assert_eq!(decoded, Ok(Some(peeked)));
                assert_eq!(buffer.len(), left);
            }
            match decoded {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Err(error)),
            }
        }
    }
    (packets, Ok(()))
}

/// Returns the packet that is told without being decoded, if one is, and how much there is behind it.
fn peek(decoder: &mut Decoder, buffer: &BytesMut) -> Option<(Packet, usize)> {
    let (plain, len) = decoder.plain_run(buffer)?.front()?;
    let packet = match plain {
        Plain::Publish(publish) => publish.into(),
        Plain::Ack(ack) => ack.into(),
    };
    Some((packet, buffer.len() - len))
}

fn written(packet: &Packet, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    let result = encode(packet, version, &mut out);
    assert_eq!(result, Ok(()), "{packet:?} was decoded");
    assert_eq!(encoded_len(packet, version), out.len(), "{packet:?}");
    out
}

fn write_in_the_other_version(packet: &Packet, version: Version) {
    if matches!(packet, Packet::Connect(_)) {
        return;
    }
    let other = if version == Version::V5 { Version::V311 } else { Version::V5 };
    let mut out = BytesMut::new();
    match encode(packet, other, &mut out) {
        Ok(()) => assert_eq!(encoded_len(packet, other), out.len(), "{packet:?}"),
        Err(_) => assert!(out.is_empty(), "{packet:?}"),
    }
}
