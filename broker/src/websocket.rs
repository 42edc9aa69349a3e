//! MQTT over WebSocket (MQTT 5.0 §6): a byte stream out of binary frames.
//!
//! Packets need not be aligned with frames ([MQTT-6.0.0-2]), so all above this file sees bytes only.

use crate::Refusal;
use crate::upgrade::{Pages, upgrade};
use crate::wire::{Metered, TooMuch, Wire};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Bytes of one frame that is sent.
const FRAME_BYTES: usize = 64 * 1024;
/// What a frame may hold besides one packet of the largest size: clients may put several into one. As much may come
/// beside a CONNECT: the upgrade, and what is sent ahead.
const FRAME_SLACK_BYTES: usize = 64 * 1024;
/// Bytes asked of the socket at once.
const READ_BYTES: usize = 4 * 1024;
/// Control frames taken in one go: the sender of a flood of pings must not keep a thread to itself.
const CONTROL_FRAMES_MAX: usize = 32;
/// Bytes taken of a peer after the Close that says what it did wrong: what it may have had under way by then, in the
/// buffers of both systems. Beyond it the connection is reset, and the peer may not see that Close.
const DRAINED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of these at once.
const DRAINED_BYTES: usize = 4 * 1024;

/// Answers the upgrade request of a client and returns the byte stream inside.
///
/// # Errors
/// When this is no upgrade to MQTT that is granted. The client is answered.
pub(crate) async fn accept<S>(
    stream: S,
    pages: Pages<'_>,
    limits: &mqtt_proto::Limits,
) -> Result<Frames<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message_max = limits.packet_bytes_max.saturating_add(FRAME_SLACK_BYTES);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(FRAME_BYTES)
        .max_write_buffer_size(8 * FRAME_BYTES)
        .max_frame_size(Some(message_max))
        .max_message_size(Some(message_max));
    // The library holds a message until it is whole, and cannot be told another limit later.
    let mut stream = Metered::new(stream, limits.connect_bytes_max.saturating_add(FRAME_SLACK_BYTES));
    let ahead = upgrade(&mut stream, pages).await?;
    let socket = WebSocketStream::from_partially_read(stream, ahead, Role::Server, Some(config)).await;
    Ok(Frames { socket, rest: Bytes::new(), ending: Ending::Open })
}

/// The bytes inside the binary frames of one WebSocket connection.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    socket: WebSocketStream<Metered<S>>,
    /// What was received and not read yet.
    rest: Bytes,
    ending: Ending,
}

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Open,
    /// The peer broke the rules and is told so; nothing more of it counts.
    Failed,
    /// As before, and nothing more is sent. So many bytes of it may be passed over still.
    Draining(usize),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Waits for the next frame with data; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        for _ in 0..CONTROL_FRAMES_MAX {
            let message = ready!(Pin::new(&mut self.socket).poll_next(cx));
            match message.transpose() {
                Ok(None | Some(Message::Close(_))) => return Poll::Ready(Ok(None)),
                Ok(Some(Message::Binary(bytes))) if bytes.is_empty() => {}
                Ok(Some(Message::Binary(bytes))) => return Poll::Ready(Ok(Some(bytes))),
                // Answered by the library, and no sign of life for the keep alive of MQTT.
                Ok(Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Ok(Some(Message::Text(_))) => {
                    self.fail(CloseCode::Unsupported, "binary frames only".into(), cx);
                    let error = "a text frame: MQTT is binary [MQTT-6.0.0-1]";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Err(error) => {
                    if let Some(code) = close_code(&error) {
                        self.fail(code, error.to_string(), cx);
                    }
                    return Poll::Ready(Err(io_error(error)));
                }
            }
        }
        // Woken at once it would run before the thread looks at its sockets again: beside a flood of pings the p50 of
        // others was 7 ms.
        let again = pin!(tokio::task::yield_now());
        if again.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Says why the connection ends (RFC 6455 §7.1.7). What of that does not go without waiting follows at shutdown.
    fn fail(&mut self, code: CloseCode, reason: String, cx: &mut Context<'_>) {
        self.ending = Ending::Failed;
        let close = CloseFrame { code, reason: reason.into() };
        let mut socket = Pin::new(&mut self.socket);
        if socket.as_mut().start_send(Message::Close(Some(close))).is_ok() {
            drop(socket.poll_flush(cx));
        }
    }

    /// Passes over what the peer had under way: where bytes are left unread the system resets the connection, and
    /// the peer's loses what it has not read yet, the Close among it.
    fn poll_drain(&mut self, mut left: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; DRAINED_BYTES];
        while left > 0 {
            self.ending = Ending::Draining(left);
            let mut buf = ReadBuf::new(&mut bytes);
            if ready!(Pin::new(self.socket.get_mut()).poll_read(cx, &mut buf)).is_err() {
                break;
            }
            let count = buf.filled().len();
            left = if count == 0 { 0 } else { left.saturating_sub(count) };
        }
        self.ending = Ending::Draining(0);
        Poll::Ready(())
    }
}

/// The code that says what the peer did wrong (RFC 6455 §7.4.1); `None` where it broke no rule, or hears nothing.
fn close_code(error: &WsError) -> Option<CloseCode> {
    let is_too_much = |error: &io::Error| error.get_ref().is_some_and(|error| error.is::<TooMuch>());
    match error {
        WsError::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::ReceivedAfterClosing,
        ) => None,
        WsError::Protocol(_) => Some(CloseCode::Protocol),
        WsError::Capacity(_) => Some(CloseCode::Size),
        WsError::Utf8(_) => Some(CloseCode::Invalid),
        WsError::Io(error) if is_too_much(error) => Some(CloseCode::Size),
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire for Frames<S> {
    fn connected(&mut self) {
        self.socket.get_mut().open();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.poll_frame(cx))? {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..count).unwrap_or_default());
        self.rest.advance(count);
        if self.rest.is_empty() {
            // The frame's memory goes with its last byte, not with the next frame.
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let mut frame = BytesMut::new();
        for piece in pieces {
            let room = FRAME_BYTES.saturating_sub(frame.len());
            frame.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        }
        let count = frame.len();
        match Pin::new(&mut self.socket).start_send(Message::Binary(frame.freeze())) {
            // It has sent its Close and takes nothing more than the answer to that.
            Ok(()) | Err(WsError::Protocol(ProtocolError::SendAfterClosing)) => Poll::Ready(Ok(count)),
            Err(error) => Poll::Ready(Err(io_error(error))),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    /// Sends a Close, or the answer to the peer's (RFC 6455 §5.5.1), and ends the stream below. Who broke the rules has
    /// until the caller's patience ends to read why.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Ending::Draining(left) = self.ending {
            return self.poll_drain(left, cx).map(Ok);
        }
        ready!(Pin::new(&mut self.socket).poll_close(cx)).map_err(io_error)?;
        ready!(Pin::new(self.socket.get_mut()).poll_shutdown(cx))?;
        if self.ending == Ending::Open {
            return Poll::Ready(Ok(()));
        }
        self.socket.get_mut().open();
        self.poll_drain(DRAINED_BYTES_MAX, cx).map(Ok)
    }
}

fn io_error(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
