//! What a peer has sent and the core has not taken yet: bytes, and the packet at their front.

use bytes::{Buf as _, BytesMut};
use mqtt_proto::{DecodeError, Decoder, Limits, Packet, PlainRun, Version};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of one connection on their way to the core.
#[derive(Debug)]
pub(crate) struct Input {
    decoder: Decoder,
    buffer: BytesMut,
    /// The first packet of the bytes, where it was decoded and not taken.
    front: Option<Packet>,
}

impl Input {
    /// Returns that of a new connection, with room for so many bytes.
    pub(crate) fn new(limits: Limits, bytes: usize) -> Self {
        Self { decoder: Decoder::server(limits), buffer: BytesMut::with_capacity(bytes), front: None }
    }

    /// Returns the version, once it is known.
    pub(crate) fn version(&self) -> Option<Version> {
        self.decoder.version()
    }

    /// Takes the next packet; `None` while it is incomplete.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, DecodeError> {
        match self.front.take() {
            Some(packet) => Ok(Some(packet)),
            None => self.decoder.decode(&mut self.buffer),
        }
    }

    /// Returns the next packets, where they say no more than they must ([`Decoder::plain_run`]). They are left there.
    pub(crate) fn plain_run(&mut self) -> Option<PlainRun<'_>> {
        if self.front.is_some() || self.buffer.is_empty() {
            return None;
        }
        self.decoder.plain_run(&self.buffer)
    }

    /// Takes so many bytes away, which packets had.
    #[inline]
    pub(crate) fn skip(&mut self, len: usize) {
        self.buffer.advance(len);
    }

    /// Puts a packet back that is to be taken later.
    pub(crate) fn put_back(&mut self, packet: Packet) {
        self.front = Some(packet);
    }

    /// Whether there is nothing more than was taken, not even the beginning of a packet.
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_none() && self.buffer.is_empty()
    }

    /// Makes room for so many bytes; what is empty and much larger is given back.
    pub(crate) fn make_room(&mut self, bytes: usize) {
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * bytes {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(bytes);
    }

    /// Moves to memory of this thread: what it frees of others' goes back to them, and to the system.
    pub(crate) fn move_here(&mut self, bytes: usize) {
        let ahead = std::mem::take(&mut self.buffer);
        self.buffer.reserve(bytes.max(ahead.len()));
        self.buffer.extend_from_slice(&ahead);
    }

    /// Reads what comes next.
    pub(crate) async fn read_from<R: AsyncRead + Unpin>(&mut self, read: &mut R) -> io::Result<usize> {
        read.read_buf(&mut self.buffer).await
    }
}

#[cfg(test)]
impl Input {
    /// Returns one of which a packet is left.
    pub(crate) fn of(packet: Option<Packet>) -> Self {
        Self { front: packet, ..Self::new(Limits::default(), 0) }
    }
}
