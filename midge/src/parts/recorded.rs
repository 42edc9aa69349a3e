//! Who calls the admin socket: the kernel's word, known to whatever the call does and recorded with it.

use super::trail::Trail;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use midge_runtime::Actor;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::transport::server::UdsConnectInfo;
use tower::Service;

/// Methods that change nothing begin so; a certificate that an agent asks for is recorded as such.
const READING: [&str; 8] = ["List", "Get", "Count", "Status", "Watch", "Show", "SignX509SVID", "Sync"];

/// Wraps a service.
#[derive(Clone)]
pub(crate) struct Recorded<S> {
    inner: S,
    trail: Arc<Trail>,
}

impl<S> Recorded<S> {
    pub(crate) fn new(inner: S, trail: Arc<Trail>) -> Self {
        Self { inner, trail }
    }
}

impl<S, B, R> Service<Request<B>> for Recorded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is called; its clone waits to become so.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let trail = Arc::clone(&self.trail);
        let path = request.uri().path().trim_start_matches('/');
        let method = path.rsplit('/').next().unwrap_or_default();
        let is_reading = READING.iter().any(|reading| method.starts_with(reading));
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let Some(peer) = peer else { return Box::pin(inner.call(request)) };
        let actor = Actor { uid: peer.uid(), pid: peer.pid(), method: path.into() };
        Box::pin(async move {
            let response = actor.clone().scope(inner.call(request)).await?;
            if !is_reading {
                // Success is told after the body; a refusal stands in the head.
                let code = response.headers().get("grpc-status").map(|code| code.as_bytes());
                let code = code.map_or(tonic::Code::Ok, tonic::Code::from_bytes);
                trail.called(&actor, &format!("{code:?}"));
            }
            Ok(response)
        })
    }
}
