//! Ways to a broker besides plain sockets: mTLS, and WebSocket over either, a blocking stream of bytes each.

use crate::support::{BOX, SOON};
use midge_identity::{BundleSet, SpiffeId, TrustDomain, UnixMillis};
use midge_pki::{
    CurrentIdentity, FixedTrust, PrivateKey, ServerExpectation, SvidIdentity, client_config, pem_decode_certs,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};

pub(crate) fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Speaks as the SVID in this directory does, and only to the box's broker.
pub(crate) fn tls(address: &str, svid: &Path) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let certificates = |name: &str| pem_decode_certs(&std::fs::read(svid.join(name)).unwrap()).unwrap();
    let key = PrivateKey::load(svid.join("svid.key")).unwrap();
    let identity = CurrentIdentity::new();
    identity.set(SvidIdentity::new(certificates("svid.pem"), Arc::new(key)).unwrap());
    let broker = SpiffeId::new(format!("{BOX}/broker")).unwrap();
    let mut bundles = BundleSet::new();
    let roots = certificates("bundle.pem").into_iter().map(|root| root.to_vec()).collect();
    bundles.insert(TrustDomain::new("plant.example").unwrap(), roots);
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        UnixMillis(u64::try_from(since.as_millis()).unwrap())
    };
    let trust = Arc::new(FixedTrust::new(bundles, now));
    let config = client_config(Some(Arc::new(identity)), trust, ServerExpectation::Id(broker));
    let name = "127.0.0.1".try_into().unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(config, name).unwrap(), tcp(address))
}

/// MQTT in binary frames over a stream ([MQTT-6.0.0-1]).
pub(crate) struct Frames<S> {
    socket: WebSocket<S>,
    read: io::Cursor<Vec<u8>>,
}

impl<S: Read + Write> Frames<S> {
    pub(crate) fn over(stream: S) -> Self {
        let mut request = "ws://broker/mqtt".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| error.to_string()).unwrap();
        Self { socket, read: io::Cursor::default() }
    }
}

impl<S: Read + Write> Read for Frames<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.read.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.read = io::Cursor::new(bytes.to_vec()),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Ok(0),
                Ok(_) => {}
                Err(Error::Io(error)) => return Err(error),
                Err(_) => return Ok(0),
            }
        }
    }
}

impl<S: Read + Write> Write for Frames<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}
