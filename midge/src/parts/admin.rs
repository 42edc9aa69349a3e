//! The admin socket: SPIRE's services and Midge's own, trusted by the file's mode (0600).

use super::data_dir::bind_unix;
use super::recorded::Recorded;
use super::service::Service;
use super::trail::Trail;
use midge_api::midge::v1::midge_server::MidgeServer;
use midge_issuer::Issuer;
use midge_runtime::{CancellationToken, SocketName};
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// The bound socket.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    name: SocketName,
}

impl AdminSocket {
    /// Binds the socket, readable and writable by its owner only.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        let (listener, name) = bind_unix(path, 0o600)?;
        Ok(Self { listener, name })
    }

    /// Serves until `token` is cancelled.
    pub(crate) async fn serve(
        self,
        issuer: Issuer,
        service: Service,
        trail: Arc<Trail>,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        let routes = midge_issuer::admin_services(&issuer).add_service(MidgeServer::new(service));
        let incoming = UnixListenerStream::new(self.listener);
        let served = Server::builder()
            .layer(tower::layer::layer_fn(move |inner| Recorded::new(inner, Arc::clone(&trail))))
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, token.cancelled_owned());
        let served = served.await;
        drop(self.name);
        Ok(served?)
    }
}
