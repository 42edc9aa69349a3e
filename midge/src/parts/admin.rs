//! The admin socket: SPIRE's services and Midge's own, trusted by the file's mode (0600).

use super::data_dir::bind_unix;
use super::recorded::Recorded;
use super::service::Service;
use super::trail::Trail;
use midge_api::midge::v1::midge_server::MidgeServer;
use midge_issuer::Issuer;
use midge_runtime::CancellationToken;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// The bound socket.
pub(crate) struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds the socket, readable and writable by its owner only.
    pub(crate) fn bind(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { listener: bind_unix(path, 0o600)?, path: path.to_owned() })
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
        std::fs::remove_file(&self.path).unwrap_or_default();
        Ok(served?)
    }
}
