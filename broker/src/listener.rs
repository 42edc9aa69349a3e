//! Binding: every socket is bound before anything is served, so that a port in use is an error
//! of the start and not of some later moment.

use crate::MqttConfig;
use midge_runtime::{SocketName, SocketTaken, clear_socket};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Connections that the kernel keeps for a listener that has not accepted them, at most what the system allows: whole
/// sites come back at once, and who finds no place tries again only after a second.
const BACKLOG: i32 = 4096;

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error(
        "cannot listen on {address} (mqtt.{key}): {source}; choose another address or stop the program that uses it"
    )]
    Address {
        /// Configuration key.
        key: &'static str,
        /// Address asked for.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Plaintext is for loopback only: elsewhere the kernel cannot name the peer.
    #[error(
        "mqtt.{key} = \"{address}\" is not a loopback address; plaintext is only served to local processes, use mqtt.tls or mqtt.websocket-tls for others"
    )]
    NotLoopback {
        /// Configuration key.
        key: &'static str,
        /// Address asked for.
        address: SocketAddr,
    },
    /// Somebody serves on this socket.
    #[error("{0} (mqtt.unix) is served by another process; stop it or choose another path")]
    SocketInUse(PathBuf),
    /// Something else has the socket's name.
    #[error("{0} (mqtt.unix) exists and is not a socket; move it away or choose another path")]
    NotASocket(PathBuf),
}

/// The bound listeners of one broker.
#[derive(Debug)]
pub struct Bound {
    pub(crate) tls: Option<TcpListener>,
    pub(crate) tcp: Option<TcpListener>,
    pub(crate) unix: Option<UnixListener>,
    pub(crate) unix_name: Option<SocketName>,
    pub(crate) websocket_tls: Option<TcpListener>,
    pub(crate) websocket_loopback: Option<TcpListener>,
    /// Address of the mTLS listener.
    pub tls_address: Option<SocketAddr>,
    /// Address of the loopback listener.
    pub tcp_address: Option<SocketAddr>,
    /// Path of the Unix socket.
    pub unix_path: Option<PathBuf>,
    /// Address of the WebSocket listener over mTLS.
    pub websocket_tls_address: Option<SocketAddr>,
    /// Address of the WebSocket listener on loopback.
    pub websocket_loopback_address: Option<SocketAddr>,
}

impl Bound {
    /// Binds all listeners of the configuration.
    ///
    /// # Errors
    /// When one cannot be bound.
    pub async fn bind(config: &MqttConfig) -> Result<Self, BindError> {
        if let Some(exposed) = exposed(config).next() {
            return Err(exposed);
        }
        let tls = bind_tcp("tls", config.tls).await?;
        let tcp = bind_tcp("tcp", config.tcp).await?;
        let websocket_tls = bind_tcp("websocket-tls", config.websocket_tls).await?;
        let websocket_loopback = bind_tcp("websocket-loopback", config.websocket_loopback).await?;
        let (unix, unix_name) = config.unix.as_deref().map(bind_unix).transpose()?.unzip();
        Ok(Self {
            tls_address: address(tls.as_ref()),
            tcp_address: address(tcp.as_ref()),
            websocket_tls_address: address(websocket_tls.as_ref()),
            websocket_loopback_address: address(websocket_loopback.as_ref()),
            unix_path: config.unix.clone(),
            tls,
            tcp,
            unix,
            unix_name,
            websocket_tls,
            websocket_loopback,
        })
    }
}

/// Returns the plaintext listeners that others than local processes could reach.
pub(crate) fn exposed(config: &MqttConfig) -> impl Iterator<Item = BindError> + use<> {
    [("tcp", config.tcp), ("websocket-loopback", config.websocket_loopback)].into_iter().filter_map(
        |(key, address)| {
            let address = address.filter(|address| !address.ip().is_loopback())?;
            Some(BindError::NotLoopback { key, address })
        },
    )
}

fn address(listener: Option<&TcpListener>) -> Option<SocketAddr> {
    listener.and_then(|listener| listener.local_addr().ok())
}

async fn bind_tcp(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, BindError> {
    let Some(address) = address else { return Ok(None) };
    let fail = |source| BindError::Address { key, address: address.to_string(), source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    rustix::net::listen(&listener, BACKLOG).map_err(|error| fail(error.into()))?;
    Ok(Some(listener))
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketName), BindError> {
    let fail = |source| BindError::Address { key: "unix", address: path.display().to_string(), source };
    clear_socket(path).map_err(|taken| match taken {
        SocketTaken::InUse => BindError::SocketInUse(path.to_owned()),
        SocketTaken::NotASocket => BindError::NotASocket(path.to_owned()),
        SocketTaken::Io(error) => fail(error),
    })?;
    let listener = UnixListener::bind(path).map_err(fail)?;
    let name = SocketName::of(path).map_err(fail)?;
    rustix::net::listen(&listener, BACKLOG).map_err(|error| fail(error.into()))?;
    // Any local process may ask; its attested identity decides, not the file's mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(fail)?;
    Ok((listener, name))
}
