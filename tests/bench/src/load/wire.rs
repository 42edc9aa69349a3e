//! The few packets a load generator sends, as bytes. No library: encoding must cost next to nothing.

use anyhow::{Context as _, bail};

/// MQTT protocol level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// What the server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Mqtt(Version),
    /// The relay's framing: the same frames, but topics are named once per connection.
    Relay,
}

/// Who gets a message of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Each,
    /// One of them: a shared subscription.
    One,
}

/// Frame type in which a publisher names its channel to the relay.
pub(crate) const RELAY_CHANNEL: u8 = 0xF0;

impl Dialect {
    fn has_properties(self) -> bool {
        self == Self::Mqtt(Version::V5)
    }

    /// Returns CONNECT: clean or with a session for an hour, keep alive of ten minutes.
    pub(crate) fn connect(self, client_id: &str, clean: bool) -> Vec<u8> {
        let level = if self.has_properties() { 5 } else { 4 };
        let mut body = text("MQTT");
        body.extend([level, u8::from(clean) << 1, 0x02, 0x58]);
        match (self.has_properties(), clean) {
            (false, _) => {}
            (true, true) => body.push(0),
            (true, false) => body.extend([5, 0x11, 0, 0, 0x0E, 0x10]),
        }
        body.extend(text(client_id));
        frame(0x10, &body)
    }

    pub(crate) fn subscribe(self, topic: &str, reach: Reach, qos: u8) -> Vec<u8> {
        let mut body = vec![0, 1];
        match self {
            Self::Mqtt(_) => {
                body.extend(self.has_properties().then_some(0));
                body.extend(match reach {
                    Reach::Each => text(topic),
                    Reach::One => text(&format!("$share/g/{topic}")),
                });
                body.push(qos);
            }
            Self::Relay => {
                body.push(u8::from(reach == Reach::One));
                body.extend(topic.as_bytes());
            }
        }
        frame(0x82, &body)
    }

    /// Returns what a publisher sends before its first PUBLISH.
    pub(crate) fn announce(self, topic: &str) -> Vec<u8> {
        match self {
            Self::Mqtt(_) => Vec::new(),
            Self::Relay => frame(RELAY_CHANNEL, topic.as_bytes()),
        }
    }

    /// Returns a PUBLISH to be filled in.
    pub(crate) fn publish(self, topic: &str, qos: u8, size: usize) -> Template {
        let mut body = text(topic);
        let id = (qos > 0).then_some(body.len());
        body.extend(id.map(|_| [0, 0]).into_iter().flatten());
        body.extend(self.has_properties().then_some(0));
        let payload = body.len();
        body.resize(payload + size.max(STAMP_BYTES), 0);
        let bytes = frame(0x30 | qos << 1, &body);
        let head = bytes.len() - body.len();
        Template { bytes, id: id.map(|at| at + head), payload: payload + head }
    }

    /// Returns the packet identifier and the payload of a PUBLISH.
    pub(crate) fn parse_publish(self, first: u8, body: &[u8]) -> Option<(Option<[u8; 2]>, &[u8])> {
        let (topic_len, rest) = body.split_first_chunk::<2>()?;
        let (_, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*topic_len)))?;
        let (id, rest) = if first & 0x06 == 0 {
            (None, rest)
        } else {
            let (id, rest) = rest.split_first_chunk::<2>()?;
            (Some(*id), rest)
        };
        if !self.has_properties() {
            return Some((id, rest));
        }
        let (len, used) = varint(rest)?;
        Some((id, rest.get(used + len..)?))
    }
}

/// Bytes of a [`Stamp`].
pub(crate) const STAMP_BYTES: usize = 18;

/// What every payload starts with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) publisher: u16,
    pub(crate) sequence: u64,
    /// Nanoseconds since the run began at which it was due; 0 when latency is not measured.
    pub(crate) due: u64,
}

impl Stamp {
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u16::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            due: u64::from_le_bytes(*due),
        })
    }
}

/// A PUBLISH of which only identifier and stamp differ.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    id: Option<usize>,
    payload: usize,
}

impl Template {
    pub(crate) fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let Some(packet) = out.get_mut(start..) else { return };
        if let Some(id) = self.id.and_then(|at| packet.get_mut(at..at + 2)) {
            let number = u16::try_from(stamp.sequence % 65_535).unwrap_or(0) + 1;
            id.copy_from_slice(&number.to_be_bytes());
        }
        let Some(stamped) = packet.get_mut(self.payload..self.payload + STAMP_BYTES) else { return };
        let (publisher, rest) = stamped.split_at_mut(2);
        let (sequence, due) = rest.split_at_mut(8);
        publisher.copy_from_slice(&stamp.publisher.to_le_bytes());
        sequence.copy_from_slice(&stamp.sequence.to_le_bytes());
        due.copy_from_slice(&stamp.due.to_le_bytes());
    }
}

/// Shows every whole packet (first byte and body) and returns how many bytes they were.
pub(crate) fn each_packet(
    bytes: &[u8],
    mut show: impl FnMut(u8, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let Some((len, used)) = varint(tail) else {
            if tail.len() >= 4 {
                bail!("a length of more than four bytes");
            }
            break;
        };
        let Some(body) = tail.get(used..used + len) else { break };
        show(*first, body)?;
        rest = tail.get(used + len..).context("inside the packet")?;
    }
    Ok(bytes.len() - rest.len())
}

fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    while len > 0x7F {
        bytes.push((len & 0x7F) as u8 | 0x80);
        len >>= 7;
    }
    bytes.push((len & 0x7F) as u8);
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_publish_reads_back() {
        for (version, qos) in [(Version::V311, 0), (Version::V311, 1), (Version::V5, 0), (Version::V5, 2)] {
            let dialect = Dialect::Mqtt(version);
            let mut bytes = Vec::new();
            let template = dialect.publish("bench/x", qos, 200);
            template.write(Stamp { publisher: 7, sequence: 65_536, due: 9 }, &mut bytes);
            template.write(Stamp { publisher: 7, sequence: 65_537, due: 0 }, &mut bytes);
            bytes.push(0x30);
            let mut seen = Vec::new();
            let used = each_packet(&bytes, |first, body| {
                let (id, payload) = dialect.parse_publish(first, body).unwrap();
                let stamp = Stamp::read(payload).unwrap();
                seen.push((id, payload.len(), stamp.publisher, stamp.sequence, stamp.due));
                Ok(())
            })
            .unwrap();
            assert_eq!(used, bytes.len() - 1, "an incomplete packet stays");
            let id = |n| (qos > 0).then_some([0, n]);
            assert_eq!(seen, [(id(2), 200, 7, 65_536, 9), (id(3), 200, 7, 65_537, 0)]);
        }
    }
}
