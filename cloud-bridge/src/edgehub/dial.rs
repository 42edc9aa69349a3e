//! Reaching the cloud: TCP, TLS to the hub's SPIFFE ID, KubeEdge's upgrade request.

use super::identity::NodeIdentity;
use crate::frames::{Channel, websocket_config};
use crate::limits::HANDSHAKE_TIMEOUT;
use midge_identity::{UnixMillis, cloud_hub_id};
use midge_pki::{ServerExpectation, client_config, rejection_of};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;

/// Why the cloud was not reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// Not `host:port`.
    #[error("\"{0}\" is not an address: write host:port")]
    Address(String),
    /// Nobody there.
    #[error(
        "cannot reach the cloud at {address}: {source}: see that it runs and that the network lets through; the box works on without it"
    )]
    Unreachable {
        /// Address of the cloud.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else there.
    #[error(
        "the server at {address} is not this box's cloud: {reason}: correct the address, or enrol again if the cloud was made anew"
    )]
    Untrusted {
        /// Address of the cloud.
        address: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// No TLS there.
    #[error("no TLS with the cloud at {address}: {source}")]
    Tls {
        /// Address of the cloud.
        address: String,
        /// What happened.
        source: io::Error,
    },
    /// The cloud does not want this box.
    #[error("the cloud at {address} refused this box: {reason}")]
    Refused {
        /// Address of the cloud.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The websocket handshake failed.
    #[error("no websocket with the cloud at {address}: {reason}")]
    Websocket {
        /// Address of the cloud.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The box's certificate has ended.
    #[error("the certificate of this box expired at {} (seconds since the epoch): make a join token at the cloud with `midge token generate` and start the box with it once", .0.as_secs())]
    Expired(UnixMillis),
}

/// Splits `host:port`; a literal IPv6 address stands in brackets.
pub(super) fn split_address(address: &str) -> Result<(&str, u16), DialError> {
    let invalid = || DialError::Address(address.chars().take(300).collect());
    let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(invalid());
    }
    Ok((host, port.parse().map_err(|_| invalid())?))
}

pub(super) async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let (host, port) = split_address(address)?;
    let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    drop(stream.set_nodelay(true));
    Ok(stream)
}

pub(super) async fn tls(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    host: &str,
    address: &str,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| DialError::Address(address.to_owned()))?;
    let address = address.to_owned();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(tls_error(address, source)),
        Err(_) => Err(DialError::Tls { address, source: io::ErrorKind::TimedOut.into() }),
    }
}

fn tls_error(address: String, source: io::Error) -> DialError {
    if let Some(rejection) = rejection_of(&source) {
        return DialError::Untrusted { address, reason: rejection.to_string() };
    }
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            DialError::Untrusted { address, reason: reason.to_string() }
        }
        _ => DialError::Tls { address, source },
    }
}

/// Opens the channel of a box.
pub(super) async fn dial(
    server: String,
    project: String,
    identity: Arc<NodeIdentity>,
    now: UnixMillis,
) -> Result<Channel, DialError> {
    if identity.expires() <= now {
        return Err(DialError::Expired(identity.expires()));
    }
    let (host, _) = split_address(&server)?;
    let hub = cloud_hub_id(identity.trust_domain()).map_err(|_| DialError::Address(server.clone()))?;
    let config = client_config(Some(identity.svid()), identity.trust(), ServerExpectation::Id(hub));
    let request = upgrade_request(&server, &project, identity.node())?;
    let stream = tls(connect(&server).await?, config, host, &server).await?;
    let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(websocket_config()));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade).await {
        Ok(Ok((socket, _))) => Ok(Channel::new(socket)),
        Ok(Err(error)) => Err(upgrade_error(server, error)),
        Err(_) => {
            let reason = format!("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs());
            Err(DialError::Websocket { address: server, reason })
        }
    }
}

fn upgrade_request(server: &str, project: &str, node: &str) -> Result<Request, DialError> {
    let invalid = || DialError::Address(format!("wss://{server}/{project}/{node}/events"));
    let mut request =
        format!("wss://{server}/{project}/{node}/events").into_client_request().map_err(|_| invalid())?;
    for (name, value) in [("node_id", node), ("project_id", project), ("connectionuse", "msg")] {
        let value = http::HeaderValue::from_str(value).map_err(|_| invalid())?;
        request.headers_mut().insert(http::HeaderName::from_static(name), value);
    }
    Ok(request)
}

fn upgrade_error(address: String, error: WsError) -> DialError {
    match error {
        WsError::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let said: String =
                String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(300).collect();
            let reason = if said.is_empty() { response.status().to_string() } else { said };
            DialError::Refused { address, reason }
        }
        // TLS 1.3 tells a client that it is refused only after the handshake.
        WsError::Io(source) if is_alert(&source) => {
            let reason = format!("{source}: the node may have been deleted or locked out at the cloud");
            DialError::Refused { address, reason }
        }
        other => DialError::Websocket { address, reason: other.to_string() },
    }
}

fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(split_address("cloud.example:10000").unwrap(), ("cloud.example", 10_000));
        assert_eq!(split_address("[::1]:1").unwrap(), ("::1", 1));
        for bad in ["cloud", ":1", "cloud:", "cloud:x", "cloud:99999"] {
            assert!(matches!(split_address(bad), Err(DialError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn the_upgrade_request_has_kubeedges_path_and_headers() {
        let request = upgrade_request("cloud:10000", "p", "box-1").unwrap();
        assert_eq!(request.uri().path(), "/p/box-1/events");
        for (name, value) in [("node_id", "box-1"), ("project_id", "p"), ("connectionuse", "msg")] {
            assert_eq!(request.headers()[name], value);
        }
        assert!(request.headers().get("origin").is_none());
    }
}
