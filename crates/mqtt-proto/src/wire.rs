//! The data types of the wire (MQTT 5.0 §1.5), read from one complete frame.

use crate::error::Violation;
use crate::packet::PacketId;
use bytes::Bytes;
use std::sync::Arc;

/// Largest value of a variable byte integer (§1.5.5).
pub(crate) const VARINT_MAX: u32 = 268_435_455;

/// Bytes a variable byte integer of this value takes.
#[inline]
pub(crate) fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Reads a variable byte integer: its value and length, or `None` while bytes are missing.
pub(crate) fn read_varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Violation> {
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // [MQTT-1.5.5-1]
            let minimal = *byte != 0 || index == 0;
            return if minimal { Ok(Some((value, index + 1))) } else { Err(Violation::VarintNotMinimal) };
        }
    }
    if bytes.len() >= 4 { Err(Violation::VarintTooLong) } else { Ok(None) }
}

/// A cursor over the body of one frame.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    /// Where what is kept may share memory; else it is copied.
    frame: Option<&'a Bytes>,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a frame whose memory payloads and binary properties share.
    pub(crate) fn sharing(frame: &'a Bytes) -> Self {
        Self { frame: Some(frame), rest: frame }
    }

    /// Reads a frame of which payloads and binary properties are copied.
    pub(crate) fn copying(frame: &'a [u8]) -> Self {
        Self { frame: None, rest: frame }
    }

    fn keep(&self, bytes: &'a [u8]) -> Bytes {
        self.frame.map_or_else(|| Bytes::copy_from_slice(bytes), |frame| frame.slice_ref(bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Ends the packet here.
    pub(crate) fn finish(&self) -> Result<(), Violation> {
        if self.is_empty() { Ok(()) } else { Err(Violation::TrailingBytes(self.len())) }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Splits off the next `len` bytes as a cursor of their own.
    pub(crate) fn split(&mut self, len: usize) -> Result<Self, Violation> {
        Ok(Self { frame: self.frame, rest: self.take(len)? })
    }

    /// Takes what is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.rest);
        self.keep(rest)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        let (first, rest) = self.rest.split_first().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*first))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(Violation::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*first))
    }

    pub(crate) fn varint(&mut self) -> Result<u32, Violation> {
        let (value, len) = read_varint(self.rest)?.ok_or(Violation::Truncated)?;
        self.take(len)?;
        Ok(value)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        PacketId::new(self.u16()?).ok_or(Violation::ZeroPacketId)
    }

    /// Binary data (§1.5.6).
    pub(crate) fn binary(&mut self) -> Result<Bytes, Violation> {
        self.prefixed().map(|bytes| self.keep(bytes))
    }

    /// The bytes behind a two-byte length.
    pub(crate) fn prefixed(&mut self) -> Result<&'a [u8], Violation> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 string (§1.5.4).
    pub(crate) fn str(&mut self) -> Result<&'a str, Violation> {
        text(self.prefixed()?)
    }

    pub(crate) fn text(&mut self) -> Result<Arc<str>, Violation> {
        self.str().map(Arc::from)
    }
}

/// Checks that bytes are a UTF-8 string without U+0000; Rust's UTF-8 has no surrogates ([MQTT-1.5.4-1]).
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Violation> {
    let text = std::str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)?;
    if text.contains('\0') { Err(Violation::NulCharacter) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MQTT 5.0 table 1-1.
    const VARINT_RANGES: [(u32, &[u8]); 8] = [
        (0, &[0x00]),
        (127, &[0x7F]),
        (128, &[0x80, 0x01]),
        (16_383, &[0xFF, 0x7F]),
        (16_384, &[0x80, 0x80, 0x01]),
        (2_097_151, &[0xFF, 0xFF, 0x7F]),
        (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
        (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
    ];

    #[test]
    fn varints_at_the_edges_of_each_length() {
        for (value, bytes) in VARINT_RANGES {
            assert_eq!(read_varint(bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(varint_len(value as usize), bytes.len());
            assert_eq!(read_varint(&bytes[..bytes.len() - 1]), Ok(None), "a prefix needs more");
        }
    }

    #[test]
    fn varints_with_idle_bytes_or_a_fifth_one_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xFF, 0x00], &[0x80, 0x80, 0x00], &[0xFF, 0xFF, 0xFF, 0x00]] {
            assert_eq!(read_varint(bytes), Err(Violation::VarintNotMinimal), "{bytes:02X?}");
        }
        assert_eq!(read_varint(&[0x80; 4]), Err(Violation::VarintTooLong));
        assert_eq!(read_varint(&[0xFF, 0xFF, 0xFF, 0xFF, 0x7F]), Err(Violation::VarintTooLong));
        assert_eq!(read_varint(&[0x80; 3]), Ok(None));
    }

    #[test]
    fn texts_keep_every_character_but_nul() {
        for (bytes, result) in [
            (&b""[..], Ok("")),
            ("\u{FEFF}x".as_bytes(), Ok("\u{FEFF}x")), // [MQTT-1.5.4-3]: not skipped
            ("\u{1}\u{9F}\u{FFFF}".as_bytes(), Ok("\u{1}\u{9F}\u{FFFF}")),
            ("\u{10FFFF}".as_bytes(), Ok("\u{10FFFF}")),
            (b"a\0b", Err(Violation::NulCharacter)),
            (b"\xED\xA0\x80", Err(Violation::InvalidUtf8)), // U+D800
            (b"\xED\xBF\xBF", Err(Violation::InvalidUtf8)), // U+DFFF
            (b"\xED\xA0\xBD\xED\xB8\x80", Err(Violation::InvalidUtf8)), // CESU-8 pair
            (b"\xC0\x80", Err(Violation::InvalidUtf8)),     // overlong NUL
            (b"\xC1\xBF", Err(Violation::InvalidUtf8)),
            (b"\xE0\x80\xAF", Err(Violation::InvalidUtf8)), // overlong `/`
            (b"\xF4\x90\x80\x80", Err(Violation::InvalidUtf8)), // beyond U+10FFFF
            (b"\xF8\x88\x80\x80\x80", Err(Violation::InvalidUtf8)),
            (b"\xE2\x82", Err(Violation::InvalidUtf8)),
            (b"\x80", Err(Violation::InvalidUtf8)),
            (b"\xFF", Err(Violation::InvalidUtf8)),
        ] {
            assert_eq!(text(bytes), result, "{bytes:02X?}");
        }
    }

    #[test]
    fn a_field_never_reads_past_the_frame() {
        let frame = Bytes::from_static(&[0x00, 0x03, b'a', b'b']);
        assert_eq!(Reader::sharing(&frame).str(), Err(Violation::Truncated));
        assert_eq!(Reader::sharing(&frame).binary(), Err(Violation::Truncated));
        assert_eq!(Reader::sharing(&frame).u32(), Ok(0x0003_6162));
        let mut reader = Reader::sharing(&frame);
        assert_eq!(reader.u16(), Ok(3));
        assert_eq!(reader.u32(), Err(Violation::Truncated));
        assert_eq!(reader.rest(), &b"ab"[..], "a refused read takes nothing");
        assert_eq!(reader.u8(), Err(Violation::Truncated));
    }

    #[test]
    fn binary_shares_the_memory_of_the_frame_or_is_copied() {
        let frame = Bytes::from(vec![0x00, 0x02, b'a', b'b']);
        let taken = Reader::sharing(&frame).binary().unwrap();
        assert_eq!(taken.as_ptr(), frame[2..].as_ptr());
        let copied = Reader::copying(&frame).binary().unwrap();
        assert_eq!(copied, taken);
        assert_ne!(copied.as_ptr(), taken.as_ptr());
    }
}
