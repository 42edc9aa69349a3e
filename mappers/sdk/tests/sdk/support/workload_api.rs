use super::{Ca, Svid};
use midge_api::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use midge_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use std::pin::Pin;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, empty};
use tonic::{Request, Response, Status};

/// A Workload API that issues what the test says, and nothing at first.
pub(crate) struct WorkloadApi {
    directory: TempDir,
    issued: watch::Sender<Option<X509svidResponse>>,
}

impl WorkloadApi {
    pub(crate) fn start() -> Self {
        let api = Self { directory: TempDir::new().unwrap(), issued: watch::channel(None).0 };
        let listener = UnixListener::bind(api.directory.path().join("agent.sock")).unwrap();
        let service = SpiffeWorkloadApiServer::new(Service { issued: api.issued.subscribe() });
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        api
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.directory.path().join("agent.sock").display())
    }

    pub(crate) fn issue(&self, ca: &Ca, svids: &[(&Svid, &str)]) {
        let svids = svids.iter().map(|(svid, hint)| X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.cert_der.clone(),
            x509_svid_key: svid.key.to_pkcs8_der().to_vec(),
            bundle: ca.root(),
            hint: (*hint).to_owned(),
        });
        self.issued
            .send_replace(Some(X509svidResponse { svids: svids.collect(), ..X509svidResponse::default() }));
    }

    pub(crate) fn withdraw(&self) {
        self.issued.send_replace(None);
    }
}

struct Service {
    issued: watch::Receiver<Option<X509svidResponse>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        assert_eq!(request.metadata().get("workload.spiffe.io").unwrap(), "true");
        let refusal = || Status::permission_denied("no identity issued");
        let mut issued = self.issued.clone();
        let first = issued.borrow_and_update().clone().ok_or_else(refusal)?;
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut next = Ok(first);
            loop {
                let last = next.is_err();
                if answers.send(next).await.is_err() || last || issued.changed().await.is_err() {
                    return;
                }
                next = issued.borrow_and_update().clone().ok_or_else(refusal);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(Response::new(Box::pin(empty())))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("jwt"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("jwt"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("jwt"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("wit"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("wit"))
    }
}
