//! What a connection is served on, and what of it is held before its CONNECT.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream that can be told that its CONNECT has come.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Says that CONNECT has come: what follows may be as large as any packet.
    fn connected(&mut self) {}
}

impl<S: Wire> Wire for Box<S> {
    fn connected(&mut self) {
        (**self).connected();
    }
}

/// More came than may before CONNECT is whole.
#[derive(Debug, thiserror::Error)]
#[error("more than may come before CONNECT is whole")]
pub(crate) struct TooMuch;

/// A stream of which only so much is read until its CONNECT has come: for what holds whatever it reads until that
/// is whole, as the parts of a WebSocket message.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    /// Bytes that may be read still; `None` once CONNECT has come.
    left: Option<usize>,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, bytes_max: usize) -> Self {
        Self { stream, left: Some(bytes_max) }
    }

    /// Reads without end from now on.
    pub(crate) fn open(&mut self) {
        self.left = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let count = buf.filled().len().saturating_sub(before);
        let Some(left) = left.checked_sub(count) else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TooMuch)));
        };
        self.left = Some(left);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
