//! One TLS connection of the load generator.

use super::wire::each_packet;
use anyhow::{Context as _, bail};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// CONNACK is due.
    Connecting,
    /// SUBACK is due.
    Subscribing,
    Ready,
}

pub(crate) struct Client {
    socket: TcpStream,
    tls: ClientConnection,
    /// The start of a packet whose rest has not come.
    tail: Vec<u8>,
    /// Packets to send at the next flush.
    pub(crate) out: Vec<u8>,
    pub(crate) phase: Phase,
}

impl Client {
    pub(crate) fn open(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        registry: &Registry,
        token: Token,
        connect: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
        tls.set_buffer_limit(None);
        Ok(Self { socket, tls, tail: Vec::new(), out: connect, phase: Phase::Connecting })
    }

    /// Reads what there is and shows every packet together with the buffer for answers.
    pub(crate) fn read(
        &mut self,
        scratch: &mut [u8],
        mut show: impl FnMut(u8, &[u8], &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let count = match self.socket.read(scratch) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error).context("reading"),
            };
            let mut received = scratch.get(..count).unwrap_or_default();
            while !received.is_empty() {
                self.tls.read_tls(&mut received)?;
                self.tls.process_new_packets()?;
                self.take(&mut show)?;
            }
            // Less than was asked for: the next byte raises a new event.
            if count < scratch.len() {
                return Ok(());
            }
        }
    }

    fn take(
        &mut self,
        show: &mut impl FnMut(u8, &[u8], &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { tls, tail, out, .. } = self;
        loop {
            let mut reader = tls.reader();
            let chunk = match reader.fill_buf() {
                Ok([]) => bail!("the server closed the connection"),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let len = chunk.len();
            if tail.is_empty() {
                let used = each_packet(chunk, |first, body| show(first, body, out))?;
                tail.extend_from_slice(chunk.get(used..).unwrap_or_default());
            } else {
                tail.extend_from_slice(chunk);
                let used = each_packet(tail, |first, body| show(first, body, out))?;
                tail.drain(..used);
            }
            reader.consume(len);
        }
    }

    /// Sends what is to be sent, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            self.tls.writer().write_all(&self.out)?;
            self.out.clear();
        }
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error).context("writing"),
            }
        }
        Ok(())
    }

    /// Says goodbye; whether the server hears it does not matter.
    pub(crate) fn close(mut self) {
        self.out = vec![0xE0, 0];
        if self.flush().is_ok() {
            self.tls.send_close_notify();
        }
        drop(self.flush());
    }
}
