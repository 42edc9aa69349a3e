//! Mends the `:authority` of gRPC's C core and Java clients, which put the socket's path there when
//! they speak over a Unix socket. The HTTP/2 library refuses such requests with `PROTOCOL_ERROR`
//! (hyperium/h2#487, grpc/grpc#38142), and Python's `spiffe` could not fetch its SVID.
//!
//! Walks the frames as they arrive and replaces, in place, each character of an authority that no
//! host has. Nobody reads the authority on this socket. Lengths stay as they are, so nothing else
//! has to change, and what is well-formed passes untouched.

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
/// Index of `:authority` in HPACK's static table (RFC 7541 appendix A).
const AUTHORITY: u8 = 1;
/// The C core spells the name out all the same.
const AUTHORITY_NAME: &[u8] = b":authority";

/// Where in the byte stream of one connection the next byte lies.
#[derive(Debug)]
pub(crate) struct AuthorityMender {
    frame: Frame,
    fields: Fields,
}

#[derive(Debug)]
enum Frame {
    Preface { left: usize },
    Header { have: usize, len: usize, kind: u8, flags: u8 },
    PadLength { left: usize, flags: u8 },
    Priority { left: usize, skip: usize, padding: usize },
    Fragment { left: usize, padding: usize },
    Skip { left: usize },
}

/// RFC 7541 §6, as far as needed to find values.
#[derive(Clone, Copy, Debug)]
enum Fields {
    Start,
    Integer { then: After },
    Length { of: Text },
    LongLength { of: Text, huffman: bool, value: usize, shift: u32 },
    Bytes { of: Text, huffman: bool, left: usize },
}

#[derive(Clone, Copy, Debug)]
enum After {
    Start,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Name {
        /// All its bytes so far are those of `:authority`.
        authority: bool,
    },
    Authority,
    Other,
}

impl Default for AuthorityMender {
    fn default() -> Self {
        Self { frame: Frame::Preface { left: PREFACE_BYTES }, fields: Fields::Start }
    }
}

const NEXT_FRAME: Frame = Frame::Header { have: 0, len: 0, kind: 0, flags: 0 };

impl AuthorityMender {
    /// Takes the next bytes of the connection and mends them.
    pub(crate) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = bytes.split_at_mut_checked(taken).map_or(&mut [], |(_, rest)| rest);
        }
    }

    /// Handles some of the bytes, at least one, and returns how many.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let first = bytes.first().copied().unwrap_or_default();
        match &mut self.frame {
            Frame::Preface { left } | Frame::Skip { left } => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.frame = NEXT_FRAME;
                }
                taken.max(1)
            }
            Frame::Header { have, len, kind, flags } => {
                match have {
                    0..=2 => *len = *len << 8 | usize::from(first),
                    3 => *kind = first,
                    4 => *flags = first,
                    _ => {}
                }
                *have += 1;
                if *have == FRAME_HEADER_BYTES {
                    let (len, kind, flags) = (*len, *kind, *flags);
                    self.frame = self.payload(len, kind, flags);
                }
                1
            }
            Frame::PadLength { left, flags } => {
                let (left, flags) = (left.saturating_sub(1), *flags);
                self.frame = fragment(left, flags, usize::from(first));
                1
            }
            Frame::Priority { left, skip, padding } => {
                *left = left.saturating_sub(1);
                *skip -= 1;
                if *skip == 0 {
                    self.frame = fields_of(*left, *padding);
                }
                1
            }
            Frame::Fragment { left, padding } => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                let (ended, padding) = (*left == 0, *padding);
                if ended {
                    self.frame = skip(padding);
                }
                for byte in bytes.iter_mut().take(taken) {
                    *byte = self.fields.take(*byte);
                }
                taken.max(1)
            }
        }
    }

    fn payload(&mut self, len: usize, kind: u8, flags: u8) -> Frame {
        match kind {
            HEADERS => {
                self.fields = Fields::Start;
                if flags & PADDED != 0 && len > 0 {
                    return Frame::PadLength { left: len, flags };
                }
                fragment(len, flags, 0)
            }
            CONTINUATION => fields_of(len, 0),
            _ => skip(len),
        }
    }
}

fn fragment(left: usize, flags: u8, padding: usize) -> Frame {
    if flags & PRIORITY != 0 && left >= PRIORITY_BYTES {
        return Frame::Priority { left, skip: PRIORITY_BYTES, padding };
    }
    fields_of(left, padding)
}

fn fields_of(left: usize, padding: usize) -> Frame {
    match left.saturating_sub(padding) {
        0 => skip(left),
        fields => Frame::Fragment { left: fields, padding },
    }
}

fn skip(left: usize) -> Frame {
    if left == 0 { NEXT_FRAME } else { Frame::Skip { left } }
}

impl Fields {
    /// Handles one byte and returns it, mended if it is part of an authority.
    fn take(&mut self, byte: u8) -> u8 {
        let mut out = byte;
        *self = match *self {
            Self::Start => start(byte),
            Self::Integer { then } if byte & 0x80 != 0 => Self::Integer { then },
            Self::Integer { then: After::Start } => Self::Start,
            Self::Integer { then: After::Value } => Self::Length { of: Text::Other },
            Self::Length { of } => match (byte & 0x7f, byte & 0x80 != 0) {
                (0x7f, huffman) => Self::LongLength { of, huffman, value: 0x7f, shift: 0 },
                (len, huffman) => text(of, huffman, usize::from(len)),
            },
            Self::LongLength { of, huffman, value, shift } => {
                let part = usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let value = value.saturating_add(part);
                if byte & 0x80 != 0 {
                    Self::LongLength { of, huffman, value, shift: shift.saturating_add(7) }
                } else {
                    text(of, huffman, value)
                }
            }
            Self::Bytes { of, huffman, left } => {
                if of == Text::Authority && !huffman && !is_host(byte) {
                    out = b'-';
                }
                let of = match of {
                    Text::Name { authority: true } => Text::Name { authority: is_authority(byte, left) },
                    of => of,
                };
                text(of, huffman, left.saturating_sub(1))
            }
        };
        out
    }
}

/// A field begins: indexed, a new table size, or a literal with an indexed or a literal name.
fn start(byte: u8) -> Fields {
    let (index, prefix) = match byte {
        0x80.. => return integer(byte & 0x7f, 0x7f, After::Start),
        0x40.. => (byte & 0x3f, 0x3f),
        0x20.. => return integer(byte & 0x1f, 0x1f, After::Start),
        _ => (byte & 0x0f, 0x0f),
    };
    match index {
        0 => Fields::Length { of: Text::Name { authority: true } },
        AUTHORITY => Fields::Length { of: Text::Authority },
        _ => integer(index, prefix, After::Value),
    }
}

fn integer(value: u8, prefix: u8, then: After) -> Fields {
    match (value == prefix, then) {
        (true, _) => Fields::Integer { then },
        (false, After::Start) => Fields::Start,
        (false, After::Value) => Fields::Length { of: Text::Other },
    }
}

/// So many bytes of a text are still to come.
fn text(of: Text, huffman: bool, left: usize) -> Fields {
    match (left, of) {
        (0, Text::Name { authority: true }) if !huffman => Fields::Length { of: Text::Authority },
        (0, Text::Name { .. }) => Fields::Length { of: Text::Other },
        (0, _) => Fields::Start,
        _ => Fields::Bytes { of, huffman, left },
    }
}

/// Tells whether a name with `left` bytes to come, this one included, still spells `:authority`.
fn is_authority(byte: u8, left: usize) -> bool {
    let at = AUTHORITY_NAME.len().checked_sub(left);
    at.and_then(|at| AUTHORITY_NAME.get(at)) == Some(&byte)
}

fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEXED: &[u8] = &[0x41];
    const SPELT_OUT: &[u8] = b"\x40\x0a:authority";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn connection(name: &[u8], authority: &[u8]) -> Vec<u8> {
        let len = u8::try_from(authority.len()).unwrap();
        // :method POST, :scheme http, a literal name with a path as value, :authority, content-type.
        let fields = [
            &[0x83, 0x86, 0x40, 4][..],
            b"path",
            &[2],
            b"/x",
            name,
            &[len],
            authority,
            &[0x5f, 16],
            b"application/grpc",
        ]
        .concat();
        let (head, tail) = fields.split_at(14);
        let padded = [&[3][..], &[0; 5], head, &[0; 3]].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, PADDED | PRIORITY, &padded),
            frame(CONTINUATION, 4, tail),
            frame(0, 1, b"/data%/"),
        ]
        .concat()
    }

    #[test]
    fn a_path_as_authority_becomes_a_host_however_the_bytes_arrive() {
        for name in [INDEXED, SPELT_OUT] {
            for (sent, mended) in [
                (&b"/run/midge/workload.sock"[..], &b"-run-midge-workload.sock"[..]),
                (b"run%2Fmidge%2Fw.sock", b"run-2Fmidge-2Fw.sock"),
            ] {
                for size in 1..200 {
                    let mut mender = AuthorityMender::default();
                    let mut bytes = connection(name, sent);
                    bytes.chunks_mut(size).for_each(|chunk| mender.mend(chunk));
                    assert_eq!(bytes, connection(name, mended), "chunks of {size}");
                }
            }
        }
    }

    #[test]
    fn other_fields_pass_untouched() {
        let path = b"/SpiffeWorkloadAPI/FetchX509SVID";
        for name in
            [&b"\x40\x05:path"[..], b"\x40\x0a:authoritx", b"\x40\x0bx:authority", b"\x40\x09:authorit"]
        {
            let mut bytes = connection(name, path);
            AuthorityMender::default().mend(&mut bytes);
            assert_eq!(bytes, connection(name, path));
        }
    }

    #[test]
    fn a_host_passes_untouched() {
        let mut bytes = connection(INDEXED, b"localhost:8081");
        AuthorityMender::default().mend(&mut bytes);
        assert_eq!(bytes, connection(INDEXED, b"localhost:8081"));
    }

    #[test]
    fn nonsense_is_walked_without_end_or_panic() {
        for seed in 0..=255_u8 {
            let mut bytes: Vec<u8> = (0..4_000_u32).map(|n| (n.wrapping_mul(31) >> 2) as u8 ^ seed).collect();
            let len = bytes.len();
            AuthorityMender::default().mend(&mut bytes);
            assert_eq!(bytes.len(), len);
        }
    }
}
