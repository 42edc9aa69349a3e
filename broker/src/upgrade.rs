//! The HTTP request that becomes a WebSocket (RFC 6455 §4.2), and what every other is answered.

use crate::Refusal;
use bytes::BytesMut;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response, create_response, write_response};

/// The subprotocol ([MQTT-6.0.0-3], [MQTT-6.0.0-4]).
const SUBPROTOCOL: &str = "mqtt";
/// Bytes of a request, and the most pieces it may come in: each is parsed from the start.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const PIECES_MAX: usize = 512;

/// Who may open a WebSocket besides programs that are no browsers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages<'a> {
    /// Origins of web pages that may.
    pub(crate) origins: &'a [String],
    /// Whether the connection is over TLS.
    pub(crate) is_tls: bool,
}

/// Why a request is no upgrade that is granted, and what would have been right.
#[derive(Debug)]
struct Denied {
    status: StatusCode,
    reason: String,
    hint: Option<(HeaderName, &'static str)>,
}

impl Denied {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), hint: None }
    }

    /// RFC 6455 §4.2.2 wants an appropriate status, and of a wrong version which one is right.
    fn of(error: &WsError) -> Self {
        let WsError::Protocol(protocol) = error else {
            return Self::new(StatusCode::BAD_REQUEST, error.to_string());
        };
        let (status, hint) = match protocol {
            ProtocolError::WrongHttpMethod => (StatusCode::METHOD_NOT_ALLOWED, Some((ALLOW, "GET"))),
            ProtocolError::WrongHttpVersion => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, None),
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader => {
                (StatusCode::UPGRADE_REQUIRED, Some((UPGRADE, "websocket")))
            }
            ProtocolError::MissingSecWebSocketVersionHeader => {
                (StatusCode::UPGRADE_REQUIRED, Some((SEC_WEBSOCKET_VERSION, "13")))
            }
            _ => (StatusCode::BAD_REQUEST, None),
        };
        Self { status, reason: protocol.to_string(), hint }
    }

    fn answer(&self) -> Result<Vec<u8>, Refusal> {
        let response = http::Response::builder()
            .status(self.status)
            .header(CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(CONTENT_LENGTH, self.reason.len() + 1);
        let response = match &self.hint {
            // An upgrade that is asked for belongs to the connection (RFC 9110 §7.8).
            Some((UPGRADE, value)) => response.header(CONNECTION, "Upgrade, close").header(UPGRADE, *value),
            Some((name, value)) => response.header(CONNECTION, "close").header(name, *value),
            None => response.header(CONNECTION, "close"),
        };
        written(
            &response.body(()).map_err(|error| Refusal(error.to_string()))?,
            &format!("{}\n", self.reason),
        )
    }
}

fn written(response: &Response, body: &str) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    write_response(&mut bytes, response).map_err(|error| Refusal(error.to_string()))?;
    bytes.extend_from_slice(body.as_bytes());
    Ok(bytes)
}

/// Answers the upgrade request of a client, and returns what came behind it. A page of a browser is let in only if its
/// origin is named: the page's owner is not the user whose rights it would have.
///
/// # Errors
/// When this is no upgrade to MQTT, or comes from a page that is not named. The client is answered, whatever it sent.
pub(crate) async fn upgrade<S>(stream: &mut S, pages: Pages<'_>) -> Result<Vec<u8>, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let refused = |reason: &str| Refusal(format!("WebSocket upgrade: {reason}"));
    let mut bytes = BytesMut::with_capacity(1024);
    for _ in 0..PIECES_MAX {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(refused("closed before the request was whole"));
        }
        let granted = match Request::try_parse(&bytes) {
            Ok(None) if bytes.len() < REQUEST_BYTES_MAX => continue,
            Ok(None) => break,
            Ok(Some((end, request))) => grant(&request, pages).map(|response| (end, response)),
            Err(error) => Err(Denied::of(&error)),
        };
        return match granted {
            Ok((end, response)) => {
                stream.write_all(&written(&response, "")?).await?;
                stream.flush().await?;
                Ok(bytes.get(end..).unwrap_or_default().to_vec())
            }
            Err(denied) => Err(deny(stream, &denied).await?),
        };
    }
    let large = Denied::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long");
    Err(deny(stream, &large).await?)
}

async fn deny<S: AsyncWrite + Unpin>(stream: &mut S, denied: &Denied) -> Result<Refusal, Refusal> {
    stream.write_all(&denied.answer()?).await?;
    stream.shutdown().await?;
    Ok(Refusal(format!("WebSocket upgrade: {}", denied.reason)))
}

fn grant(request: &Request, pages: Pages<'_>) -> Result<Response, Denied> {
    let mut response = create_response(request).map_err(|error| Denied::of(&error))?;
    check(request.headers(), pages)?;
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn check(headers: &HeaderMap, pages: Pages<'_>) -> Result<(), Denied> {
    for origin in headers.get_all(ORIGIN) {
        let may = origin.to_str().is_ok_and(|origin| {
            pages.origins.iter().any(|named| named == origin)
                || is_this_listener(origin, headers, pages.is_tls)
        });
        if !may {
            let reason = format!("web pages of origin {origin:?} are not allowed (mqtt.websocket-origins)");
            return Err(Denied::new(StatusCode::FORBIDDEN, reason));
        }
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers_mqtt = offered.flat_map(|list| list.split(',')).any(|name| name.trim() == SUBPROTOCOL);
    if offers_mqtt {
        Ok(())
    } else {
        Err(Denied::new(StatusCode::BAD_REQUEST, format!("subprotocol \"{SUBPROTOCOL}\" is not offered")))
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
        check(&map, Pages { origins: &origins, is_tls }).map_err(|denied| denied.status.as_u16())
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
