//! A socket that is read in large pieces while much comes.
//!
//! rustls asks for 4 KiB at a time, which under load is one system call for a handful of packets.

use bytes::{Buf as _, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes asked of the socket at once, while it gives as many as rustls asks for.
const BULK_BYTES: usize = 64 * 1024;

/// A socket and what was read of it ahead. Holds no buffer while nothing comes.
#[derive(Debug)]
pub(crate) struct Bulk<S> {
    /// None only if it could not be moved.
    socket: Option<S>,
    ahead: BytesMut,
    /// Whether the last read got all it asked for.
    is_busy: bool,
}

impl<S> Bulk<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket: Some(socket), ahead: BytesMut::new(), is_busy: false }
    }

    /// Exchanges the socket for what becomes of it.
    pub(crate) fn move_socket(&mut self, to: impl FnOnce(S) -> io::Result<S>) -> io::Result<()> {
        self.socket = self.socket.take().map(to).transpose()?;
        Ok(())
    }
}

/// Returns the socket to poll.
fn present<S: Unpin>(socket: &mut Option<S>) -> io::Result<Pin<&mut S>> {
    socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
}

impl<S: AsyncRead + Unpin> AsyncRead for Bulk<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, ahead, is_busy } = &mut *self;
        if ahead.is_empty() {
            if !*is_busy {
                ready!(present(socket)?.poll_read(cx, buf))?;
                *is_busy = buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            ahead.reserve(BULK_BYTES);
            let Poll::Ready(result) = poll_read_buf(present(socket)?, cx, ahead) else {
                *ahead = BytesMut::new();
                return Poll::Pending;
            };
            *is_busy = result? >= buf.remaining();
        }
        let count = ahead.len().min(buf.remaining());
        buf.put_slice(ahead.get(..count).unwrap_or_default());
        ahead.advance(count);
        if ahead.is_empty() && !*is_busy {
            *ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bulk<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        present(&mut self.socket)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        present(&mut self.socket)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        present(&mut self.socket)?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        present(&mut self.socket)?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn gives_every_byte_once_and_keeps_no_buffer_when_idle() {
        let (mut far, near) = tokio::io::duplex(1024 * 1024);
        let mut near = Bulk::new(near);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
        while got.len() < sent.len() {
            let count = near.read(&mut chunk).await.unwrap();
            got.extend_from_slice(&chunk[..count]);
        }
        assert_eq!(got, sent);
        let idle = tokio::select! {
            biased;
            read = near.read(&mut chunk) => read.is_err(),
            () = std::future::ready(()) => true,
        };
        assert!(idle && near.ahead.capacity() == 0);

        far.write_all(b"little").await.unwrap();
        assert_eq!(near.read(&mut chunk).await.unwrap(), 6);
        drop(far);
        assert_eq!(near.read(&mut chunk).await.unwrap(), 0);
    }
}
