//! MQTT over WebSocket (MQTT 5.0 §6): the upgrade, and a byte stream out of binary frames.
//!
//! Packets need not be aligned with frames ([MQTT-6.0.0-2]), so all above this file sees bytes only.

use crate::Refusal;
use crate::wire::{Metered, Wire};
use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// The subprotocol ([MQTT-6.0.0-3], [MQTT-6.0.0-4]).
const SUBPROTOCOL: &str = "mqtt";
/// Bytes of one frame that is sent.
const FRAME_BYTES: usize = 64 * 1024;
/// What a frame may hold besides one packet of the largest size: clients may put several into one. As much may come
/// beside a CONNECT: the upgrade, and what is sent ahead.
const FRAME_SLACK_BYTES: usize = 64 * 1024;
/// Bytes asked of the socket at once.
const READ_BYTES: usize = 4 * 1024;
/// Control frames taken in one go: the sender of a flood of pings must not keep a thread to itself.
const CONTROL_FRAMES_MAX: usize = 32;

/// Who may open a WebSocket besides programs that are no browsers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages<'a> {
    /// Origins of web pages that may.
    pub(crate) origins: &'a [String],
    /// Whether the connection is over TLS.
    pub(crate) is_tls: bool,
}

/// Answers the upgrade request of a client and returns the byte stream inside. A page of a browser is
/// let in only if its origin is named: the page's owner is not the user whose rights it would have.
///
/// # Errors
/// When this is no upgrade to MQTT, or comes from a page that is not named. The client is answered.
pub(crate) async fn accept<S>(
    stream: S,
    pages: Pages<'_>,
    limits: &mqtt_proto::Limits,
) -> Result<Frames<S>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message_max = limits.packet_bytes_max.saturating_add(FRAME_SLACK_BYTES);
    // The library holds a message until it is whole, and cannot be told another limit later.
    let stream = Metered::new(stream, limits.connect_bytes_max.saturating_add(FRAME_SLACK_BYTES));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(FRAME_BYTES)
        .max_write_buffer_size(8 * FRAME_BYTES)
        .max_frame_size(Some(message_max))
        .max_message_size(Some(message_max));
    let mut refusal = None;
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let check = |request: &Request, mut response: Response| match check_upgrade(request.headers(), pages) {
        Ok(()) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        }
        Err((status, reason)) => {
            let mut answer = ErrorResponse::new(Some(reason.clone()));
            *answer.status_mut() = status;
            refusal = Some(reason);
            Err(answer)
        }
    };
    let upgraded = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(config)).await;
    let socket = upgraded.map_err(|error| {
        Refusal(format!("WebSocket upgrade: {}", refusal.unwrap_or_else(|| error.to_string())))
    })?;
    Ok(Frames { socket, rest: Bytes::new() })
}

fn check_upgrade(headers: &HeaderMap, pages: Pages<'_>) -> Result<(), (StatusCode, String)> {
    for origin in headers.get_all(ORIGIN) {
        let may = origin.to_str().is_ok_and(|origin| {
            pages.origins.iter().any(|named| named == origin)
                || is_this_listener(origin, headers, pages.is_tls)
        });
        if !may {
            let reason = format!("web pages of origin {origin:?} are not allowed (mqtt.websocket-origins)");
            return Err((StatusCode::FORBIDDEN, reason));
        }
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers_mqtt = offered.flat_map(|list| list.split(',')).any(|name| name.trim() == SUBPROTOCOL);
    if offers_mqtt {
        Ok(())
    } else {
        Err((StatusCode::BAD_REQUEST, format!("subprotocol \"{SUBPROTOCOL}\" is not offered")))
    }
}

/// Tells whether an origin is this listener itself, which serves no pages: libraries that are no browsers
/// (paho) name it by habit. Without TLS a host name is not enough: its owner can let it point to loopback
/// at any time, and so make its page one of this origin (DNS rebinding).
fn is_this_listener(origin: &str, headers: &HeaderMap, is_tls: bool) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return false;
    };
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let is_fixed =
        host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() || name == "localhost";
    let scheme = if is_tls { "https://" } else { "http://" };
    origin.strip_prefix(scheme) == Some(host) && (is_tls || is_fixed)
}

/// The bytes inside the binary frames of one WebSocket connection.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    socket: WebSocketStream<Metered<S>>,
    /// What was received and not read yet.
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Waits for the next frame with data; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        for _ in 0..CONTROL_FRAMES_MAX {
            let message = ready!(Pin::new(&mut self.socket).poll_next(cx));
            match message.transpose().map_err(io_error)? {
                None | Some(Message::Close(_)) => return Poll::Ready(Ok(None)),
                Some(Message::Binary(bytes)) if bytes.is_empty() => {}
                Some(Message::Binary(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                // Answered by the library, and no sign of life for the keep alive of MQTT.
                Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Some(Message::Text(_)) => {
                    self.refuse_text(cx);
                    let error = "a text frame: MQTT is binary [MQTT-6.0.0-1]";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Says why, as far as that goes without waiting.
    fn refuse_text(&mut self, cx: &mut Context<'_>) {
        let close = CloseFrame { code: CloseCode::Unsupported, reason: "binary frames only".into() };
        let mut socket = Pin::new(&mut self.socket);
        if socket.as_mut().start_send(Message::Close(Some(close))).is_ok() {
            drop(socket.poll_flush(cx));
        }
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
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let piece = bytes.get(..bytes.len().min(FRAME_BYTES)).unwrap_or_default();
        let frame = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.socket).start_send(frame).map_err(io_error)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(headers: &[(&'static str, &str)], origins: &[&str]) -> Result<(), u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let is_tls = headers.iter().any(|(name, value)| *name == "host" && value.ends_with(":8884"));
        check_upgrade(&map, Pages { origins: &origins, is_tls }).map_err(|(status, _)| status.as_u16())
    }

    // paho names the listener as its origin. A page of the same name that points here is another matter.
    #[test]
    fn the_listener_itself_is_no_foreign_origin_but_a_name_that_points_to_it_may_be() {
        let same = |host: &'static str, origin: &'static str| {
            upgrade(&[("sec-websocket-protocol", "mqtt"), ("host", host), ("origin", origin)], &[])
        };
        for (host, origin) in [
            ("127.0.0.1:8083", "http://127.0.0.1:8083"),
            ("[::1]:8083", "http://[::1]:8083"),
            ("localhost:8083", "http://localhost:8083"),
            ("box.plant:8884", "https://box.plant:8884"),
        ] {
            assert_eq!(same(host, origin), Ok(()), "{origin}");
        }
        for (host, origin) in [
            ("rebound.example:8083", "http://rebound.example:8083"),
            ("127.0.0.1:8083", "http://127.0.0.1:3000"),
            ("127.0.0.1:8083", "https://127.0.0.1:8083"),
            ("127.0.0.1:8083", "http://127.0.0.1"),
            ("box.plant:8884", "http://box.plant:8884"),
        ] {
            assert_eq!(same(host, origin), Err(403), "{origin}");
        }
    }

    // [MQTT-6.0.0-3]
    #[test]
    fn the_subprotocol_has_to_be_offered_in_any_place() {
        let name = "sec-websocket-protocol";
        assert_eq!(upgrade(&[(name, "mqtt")], &[]), Ok(()));
        assert_eq!(upgrade(&[(name, "chat, mqtt")], &[]), Ok(()));
        assert_eq!(upgrade(&[(name, "chat"), (name, "mqtt")], &[]), Ok(()));
        assert_eq!(upgrade(&[(name, "mqttv3.1")], &[]), Err(400));
        assert_eq!(upgrade(&[], &[]), Err(400));
    }

    #[test]
    fn a_page_is_let_in_only_from_an_origin_that_is_named() {
        let page = |origin: &'static str| [("sec-websocket-protocol", "mqtt"), ("origin", origin)];
        assert_eq!(upgrade(&page("https://evil.example"), &[]), Err(403));
        assert_eq!(upgrade(&page("https://hmi.example"), &["https://hmi.example"]), Ok(()));
        assert_eq!(upgrade(&page("https://hmi.example.evil"), &["https://hmi.example"]), Err(403));
        assert_eq!(upgrade(&page("null"), &["https://hmi.example"]), Err(403));
        let two = [
            ("sec-websocket-protocol", "mqtt"),
            ("origin", "https://hmi.example"),
            ("origin", "https://evil.example"),
        ];
        assert_eq!(upgrade(&two, &["https://hmi.example"]), Err(403));
    }
}
